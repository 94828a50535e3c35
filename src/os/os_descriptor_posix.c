/* SPDX-License-Identifier: MIT
 *
 * Errors of the system and descriptors: see os_posix.h. Owns a count of the marks that were given.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os_posix.h"

/* Errno values that have a code of ours or an advice that helps. Everything else is KM_ESYSTEM. */
static const struct {
    int number, code;
    const char *advice;
} known_errors[] = {
    {ENOSPC, KM_ENOSPACE, "free some space on the file system and try again"},
    {EDQUOT, KM_ENOSPACE, "free some space or have the quota raised, and try again"},
    {EIO, KM_EIO, "look into the system's log, and check the disk before trusting it again"},
    {ENOENT, KM_ENOTFOUND, "check the path"},
    {EACCES, KM_EACCESS, "check the permissions of the file and of the directories above it"},
    {EPERM, KM_EACCESS, "check who owns the file, its attributes, and what this process may do"},
    {EROFS, KM_EACCESS, "the file system is mounted read-only; open read-only, or mount it for writing"},
    {EISDIR, KM_EDIRECTORY, "name a file in the directory"},
    {ENOMEM, KM_ENOMEM, "free memory, or raise the limits on memory and mappings (ulimit -v, vm.max_map_count)"},
    {EFBIG, KM_ESIZE, "the size is beyond the limit of the file system or of the process (ulimit -f)"},
    {EEXIST, KM_EEXISTS, "choose another name"},
    {EMFILE, KM_ESYSTEM, "raise the limit of open files of the process (ulimit -n)"},
    {ENFILE, KM_ESYSTEM, "raise the limit of open files of the system (fs.file-max)"},
    {ENOLCK, KM_ESYSTEM, "the system is out of locks, or the file system has none"},
    {EBADF, KM_ESYSTEM, "the program closed a descriptor that it did not open; close the handle and open it again"},
    {EFAULT, KM_ESTALE, "a file that is mapped was cut short, or its disk cannot deliver: open it again"},
    {ENOTDIR, KM_ESYSTEM, "check the path: something in it is not a directory"},
    {ENAMETOOLONG, KM_ESYSTEM, "choose a shorter path"},
    {ELOOP, KM_ESYSTEM, "check the symbolic links in the path"},
};

int os__system_error(int number, const char *doing, const char *path) {
    int code = KM_ESYSTEM;
    const char *advice = NULL;
    for (size_t i = 0; i < sizeof known_errors / sizeof known_errors[0]; i++) {
        if (known_errors[i].number == number) {
            code = known_errors[i].code;
            advice = known_errors[i].advice;
        }
    }
    return km__error(code, "%s%scannot %s: %s%s%s", path ? path : "", path ? ": " : "", doing, strerror(number),
                     advice ? ": " : "", advice ? advice : "");
}

int os__check_range(uint64_t offset, uint64_t length, const char *doing, const char *path) {
    if (offset > (uint64_t)INT64_MAX || length > (uint64_t)INT64_MAX - offset)
        return km__error(KM_ESIZE, "%s: cannot %s: offset %llu and length %llu are beyond what a file can have", path,
                         doing, (unsigned long long)offset, (unsigned long long)length);
    return 0;
}

int os__descriptor_adopt(struct os__descriptor *descriptor, int fd, const char *path) {
    struct os_file_info info;
    int number = os__look(fd, &info);
    if (number != 0) {
        close(fd);
        descriptor->fd = -1;
        return os__system_error(number, "look at it", path);
    }
    *descriptor = (struct os__descriptor){.fd = fd, .device = info.device, .inode = info.inode, .mark = -1};
    return 0;
}

/* A number spread so that no other description is likely to stand there, neither a marked one nor one that is read.
 * Nothing is asked of the system for it, which could refuse. */
static off_t new_mark(const struct os__descriptor *descriptor) {
    static _Atomic uint64_t count;
    const uint64_t number = atomic_fetch_add(&count, 1) + 1;
    return (off_t)((((uint64_t)(uintptr_t)descriptor ^ number << 40) * UINT64_C(0x9e3779b97f4a7c15) >> 33) + 1);
}

void os__descriptor_mark(struct os__descriptor *descriptor) {
    const off_t mark = descriptor->mark >= 0 ? (off_t)descriptor->mark : new_mark(descriptor);
    descriptor->mark = lseek(descriptor->fd, mark, SEEK_SET) == mark ? mark : -1;
}

/* A look that fails otherwise than on a closed number or a pipe tells nothing. */
bool os__descriptor_has_mark(const struct os__descriptor *descriptor) {
    if (descriptor->mark < 0)
        return true;
    const off_t found = lseek(descriptor->fd, 0, SEEK_CUR);
    return found < 0 ? errno != EBADF && errno != ESPIPE : found == (off_t)descriptor->mark;
}

bool os__descriptor_holds(const struct os__descriptor *descriptor) {
    struct os_file_info info;
    if (descriptor->fd < 0)
        return false;
    if (descriptor->mark >= 0) /* which no other description has: a cheaper look, before each lock and commit */
        return os__descriptor_has_mark(descriptor);
    /* Where the look itself fails, for want of memory perhaps, nothing says that it is not ours any more. */
    const int number = os__look(descriptor->fd, &info);
    if (number != 0)
        return number != EBADF;
    return info.device == descriptor->device && info.inode == descriptor->inode && os__descriptor_has_mark(descriptor);
}

void os__descriptor_close(struct os__descriptor *descriptor) {
    /* close() is not repeated on EINTR: Linux has let go of the descriptor by then. */
    if (os__descriptor_holds(descriptor))
        close(descriptor->fd);
    descriptor->fd = -1;
}

int os__descriptor_reopen(int fd, const char *path, int flags) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int opened;
    do
        opened = open(link, flags | O_CLOEXEC);
    while (opened < 0 && errno == EINTR);
    if (opened >= 0 || (errno != ENOENT && errno != ENOTDIR))
        return opened >= 0 ? opened : -errno;

    /* Without /proc: by name, if the name still means this file. O_NONBLOCK, because by now it may be a FIFO. */
    struct stat wanted, found;
    if (fstat(fd, &wanted) != 0)
        return -errno;
    do
        opened = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    while (opened < 0 && errno == EINTR);
    if (opened < 0)
        return -errno;
    if (fstat(opened, &found) == 0 && found.st_dev == wanted.st_dev && found.st_ino == wanted.st_ino)
        return opened;
    close(opened);
    return -ENOENT;
}
