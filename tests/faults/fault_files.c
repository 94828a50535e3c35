/* SPDX-License-Identifier: MIT
 *
 * What takes the place of the C library's functions for files: see fault_layer.h and fault_memory.c.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fault_layer.h"

/* Declare the C library's function and ours. */
#define DECLARE(type, name, ...)                                                                                       \
    type __real_##name(__VA_ARGS__);                                                                                   \
    type __wrap_##name(__VA_ARGS__)

DECLARE(int, open, const char *path, int flags, ...);
DECLARE(int, openat, int directory, const char *path, int flags, ...);
DECLARE(int, close, int fd);
DECLARE(ssize_t, read, int fd, void *bytes, size_t length);
DECLARE(ssize_t, pread, int fd, void *bytes, size_t length, off_t offset);
DECLARE(ssize_t, pwrite, int fd, const void *bytes, size_t length, off_t offset);
DECLARE(ssize_t, pwritev2, int fd, const struct iovec *parts, int count, off_t offset, int flags);
DECLARE(off_t, lseek, int fd, off_t offset, int whence);
DECLARE(int, ftruncate, int fd, off_t size);
DECLARE(int, fallocate, int fd, int mode, off_t offset, off_t length);
DECLARE(int, fdatasync, int fd);
DECLARE(int, fsync, int fd);
DECLARE(int, syncfs, int fd);
DECLARE(int, fchmod, int fd, mode_t mode);
DECLARE(int, chmod, const char *path, mode_t mode);
DECLARE(int, fstat, int fd, struct stat *status);
DECLARE(int, fstatat, int directory, const char *path, struct stat *status, int flags);
DECLARE(int, lstat, const char *path, struct stat *status);
DECLARE(int, stat, const char *path, struct stat *status);
DECLARE(int, statx, int directory, const char *path, int flags, unsigned wanted, struct statx *status);
DECLARE(int, fstatfs, int fd, struct statfs *system);
DECLARE(int, unlink, const char *path);
DECLARE(int, unlinkat, int directory, const char *path, int flags);
DECLARE(int, link, const char *from, const char *to);
DECLARE(int, linkat, int from_directory, const char *from, int to_directory, const char *to, int flags);
DECLARE(int, rename, const char *from, const char *to);
DECLARE(int, renameat2, int from_directory, const char *from, int to_directory, const char *to, unsigned flags);
DECLARE(int, mkdirat, int directory, const char *path, mode_t mode);
DECLARE(DIR *, fdopendir, int fd);
DECLARE(struct dirent *, readdir, DIR *directory);
DECLARE(int, fcntl, int fd, int command, ...);
DECLARE(int, ioctl, int fd, unsigned long request, ...);

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

int __wrap_open(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, mode_t) : 0;
    va_end(list);
    enum fault_call call = FAULT_OPEN;
    if ((flags & O_TMPFILE) == O_TMPFILE)
        call = FAULT_OPEN_UNNAMED;
    else if (strcmp(path, "/proc/sys/kernel/random/boot_id") == 0)
        call = FAULT_OPEN_BOOT_ID;
    else if (strncmp(path, "/proc/", 6) == 0 && strncmp(path, "/proc/self/fd/", 14) != 0)
        call = FAULT_OPEN_PROC;
    return fault_refuses(call) ? -1 : __real_open(path, flags, mode);
}

int __wrap_openat(int directory, const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, mode_t) : 0;
    va_end(list);
    return fault_refuses(FAULT_OPENAT) ? -1 : __real_openat(directory, path, flags, mode);
}

/* As Linux does it, the descriptor is gone whatever is said. */
int __wrap_close(int fd) {
    const int closed = __real_close(fd);
    return fault_refuses(FAULT_CLOSE) ? -1 : closed;
}

int __wrap_fcntl(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    enum fault_call call = FAULT_FCNTL;
    if (command == F_OFD_SETLK)
        call = ((const struct flock *)argument)->l_type == F_UNLCK ? FAULT_UNLOCK : FAULT_LOCK;
    else if (command == F_OFD_GETLK)
        call = FAULT_LOCK_PROBE;
    return fault_refuses(call) ? -1 : __real_fcntl(fd, command, argument);
}

int __wrap_ioctl(int fd, unsigned long request, ...) {
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    return fault_refuses(request == FICLONERANGE ? FAULT_CLONE : FAULT_IOCTL) ? -1
                                                                              : __real_ioctl(fd, request, argument);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

ssize_t __wrap_read(int fd, void *bytes, size_t length) {
    bool refused;
    const size_t part = fault_part(FAULT_READ, length, &refused);
    return refused ? -1 : __real_read(fd, bytes, part);
}

ssize_t __wrap_pread(int fd, void *bytes, size_t length, off_t offset) {
    bool refused;
    struct statfs system;
    const bool is_proc = __real_fstatfs(fd, &system) == 0 && system.f_type == PROC_SUPER_MAGIC;
    const size_t part = fault_part(is_proc ? FAULT_PREAD_PROC : FAULT_PREAD, length, &refused);
    return refused ? -1 : __real_pread(fd, bytes, part, offset);
}

ssize_t __wrap_pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    bool refused;
    const size_t part = fault_part(FAULT_PWRITE, length, &refused);
    return fault_refuses(FAULT_FULL_DISK) || refused ? -1 : __real_pwrite(fd, bytes, part, offset);
}

/* The library gives one part. Nothing is waited for: see fault_layer.h. */
ssize_t __wrap_pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    bool refused;
    struct iovec part = parts[0];
    part.iov_len = fault_part(FAULT_PWRITEV2, part.iov_len, &refused);
    return fault_refuses(FAULT_FULL_DISK) || refused ? -1
                                                     : __real_pwritev2(fd, &part, count, offset, flags & ~RWF_DSYNC);
}

/* The offset of a description is the kernel's own: only who looks for data and holes asks the file system. */
off_t __wrap_lseek(int fd, off_t offset, int whence) {
    const bool asks = whence == SEEK_DATA || whence == SEEK_HOLE;
    return asks && fault_refuses(FAULT_LSEEK) ? -1 : __real_lseek(fd, offset, whence);
}

int __wrap_ftruncate(int fd, off_t size) {
    return fault_refuses(FAULT_FTRUNCATE) ? -1 : __real_ftruncate(fd, size);
}

int __wrap_fallocate(int fd, int mode, off_t offset, off_t length) {
    return fault_refuses((mode & FALLOC_FL_PUNCH_HOLE) != 0 ? FAULT_PUNCH : FAULT_FALLOCATE)
               ? -1
               : __real_fallocate(fd, mode, offset, length);
}

/* ---- syncs: they reach no disk ----------------------------------------------------------------------------------- */

int __wrap_fdatasync(int fd) {
    (void)fd;
    return fault_refuses(FAULT_FDATASYNC) ? -1 : 0;
}

int __wrap_fsync(int fd) {
    (void)fd;
    return fault_refuses(FAULT_FSYNC) ? -1 : 0;
}

int __wrap_syncfs(int fd) {
    (void)fd;
    return fault_refuses(FAULT_SYNCFS) ? -1 : 0;
}

/* ---- looks ------------------------------------------------------------------------------------------------------- */

int __wrap_fstat(int fd, struct stat *status) {
    return fault_refuses(FAULT_FSTAT) ? -1 : __real_fstat(fd, status);
}

int __wrap_fstatat(int directory, const char *path, struct stat *status, int flags) {
    return fault_refuses(FAULT_FSTATAT) ? -1 : __real_fstatat(directory, path, status, flags);
}

int __wrap_lstat(const char *path, struct stat *status) {
    return fault_refuses(FAULT_LSTAT) ? -1 : __real_lstat(path, status);
}

int __wrap_stat(const char *path, struct stat *status) {
    return fault_refuses(FAULT_STAT) ? -1 : __real_stat(path, status);
}

int __wrap_statx(int directory, const char *path, int flags, unsigned wanted, struct statx *status) {
    return fault_refuses(FAULT_STATX) ? -1 : __real_statx(directory, path, flags, wanted, status);
}

int __wrap_fstatfs(int fd, struct statfs *system) {
    return fault_refuses(FAULT_FSTATFS) ? -1 : __real_fstatfs(fd, system);
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

int __wrap_fchmod(int fd, mode_t mode) {
    return fault_refuses(FAULT_FCHMOD) ? -1 : __real_fchmod(fd, mode);
}

int __wrap_chmod(const char *path, mode_t mode) {
    return fault_refuses(FAULT_CHMOD) ? -1 : __real_chmod(path, mode);
}

int __wrap_unlink(const char *path) {
    return fault_refuses(FAULT_UNLINK) ? -1 : __real_unlink(path);
}

int __wrap_unlinkat(int directory, const char *path, int flags) {
    return fault_refuses(FAULT_UNLINKAT) ? -1 : __real_unlinkat(directory, path, flags);
}

int __wrap_link(const char *from, const char *to) {
    return fault_refuses(FAULT_LINK) ? -1 : __real_link(from, to);
}

int __wrap_linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    return fault_refuses(FAULT_LINKAT) ? -1 : __real_linkat(from_directory, from, to_directory, to, flags);
}

int __wrap_rename(const char *from, const char *to) {
    return fault_refuses(FAULT_RENAME) ? -1 : __real_rename(from, to);
}

int __wrap_renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
    return fault_refuses(FAULT_RENAMEAT2) ? -1 : __real_renameat2(from_directory, from, to_directory, to, flags);
}

int __wrap_mkdirat(int directory, const char *path, mode_t mode) {
    return fault_refuses(FAULT_MKDIRAT) ? -1 : __real_mkdirat(directory, path, mode);
}

DIR *__wrap_fdopendir(int fd) {
    return fault_refuses(FAULT_FDOPENDIR) ? NULL : __real_fdopendir(fd);
}

struct dirent *__wrap_readdir(DIR *directory) {
    return fault_refuses(FAULT_READDIR) ? NULL : __real_readdir(directory);
}
