/* SPDX-License-Identifier: MIT
 *
 * Looking at an open file: see os_posix.h. Owns no state.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "os_posix.h"

/* For kernels, and filters of system calls, that have no statx(). Asked also where statx() fails for a reason of its
 * own, as memory for its empty path: who cannot look takes the descriptor for another's, and the file for gone. */
static int look_by_fstat(int fd, struct os_file_info *info) {
    struct stat status;
    if (fstat(fd, &status) != 0)
        return errno;
    *info = (struct os_file_info){
        .device = (uint64_t)status.st_dev,
        .inode = (uint64_t)status.st_ino,
        .size = (uint64_t)status.st_size,
        .allocated = (uint64_t)status.st_blocks * 512, /* st_blocks counts these on every file system */
        .links = (uint64_t)status.st_nlink,
        .permissions = (uint32_t)status.st_mode & 07777,
    };
    return 0;
}

int os__look(int fd, struct os_file_info *info) {
    const unsigned wanted = STATX_TYPE | STATX_MODE | STATX_NLINK | STATX_INO | STATX_SIZE | STATX_BLOCKS;
    struct statx status;
    if (statx(fd, "", AT_EMPTY_PATH, wanted, &status) != 0)
        return errno == EBADF ? errno : look_by_fstat(fd, info);
    *info = (struct os_file_info){
        .device = (uint64_t)makedev(status.stx_dev_major, status.stx_dev_minor),
        .inode = status.stx_ino,
        .size = status.stx_size,
        .allocated = status.stx_blocks * 512,
        .links = status.stx_nlink,
        .permissions = status.stx_mode & 07777u,
    };
    return 0;
}
