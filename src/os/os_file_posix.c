/* SPDX-License-Identifier: MIT
 *
 * Files by what POSIX has: opening, reading, writing, syncing. Creation, holes and space are in os_file_linux.c.
 *
 * Every call is repeated on EINTR, and short reads and writes are continued. A write beyond the process's limit of file
 * sizes (RLIMIT_FSIZE) also raises SIGXFSZ. That signal belongs to the program: a library must not change how signals
 * are handled. Where the program ignores it, as a program that sets the limit should, the write fails with EFBIG and we
 * return KM_ESIZE.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os_file_posix.h"

/* The kernel moves at most 0x7ffff000 bytes a call; asking for less keeps the sizes plain. */
#define TRANSFER_MAX ((size_t)1 << 30)

int os__file_adopt(struct os_file **file, int fd, const char *path, bool writable) {
    struct os_file *made = calloc(1, sizeof *made);
    char *copy = strdup(path);
    if (made == NULL || copy == NULL) {
        close(fd);
        free(made);
        free(copy);
        return os__system_error(ENOMEM, "open", path);
    }
    int error = os__descriptor_adopt(&made->descriptor, fd, path);
    if (error != 0) {
        free(made);
        free(copy);
        return error;
    }
    os__descriptor_mark(&made->descriptor);
    made->path = copy;
    made->writable = writable;
    made->is_object = os_path_is_object(path);
    *file = made;
    return 0;
}

char *os__file_directory(const char *path) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

int os__file_descriptor(const struct os_file *file) {
    return file->descriptor.fd;
}

const char *os__file_path(const struct os_file *file) {
    return file->path;
}

/* A symbolic link that leads nowhere is no free name: nothing can be created in its place. */
static int not_opened(int number, const char *path) {
    struct stat status;
    if (number == ENOENT && lstat(path, &status) == 0 && S_ISLNK(status.st_mode))
        return km__error(KM_ESYSTEM,
                         "%s: it is a symbolic link that leads nowhere: make what it leads to, or remove it", path);
    return os__system_error(number, "open", path);
}

/*
 * Opening a FIFO, a device or a tape for real can block or have effects (a writer that waits in open() would go on), so
 * the file is looked at through an O_PATH descriptor first, and the very file that was looked at is then opened.
 */
int os_file_open(struct os_file **file, const char *path, bool writable) {
    if (os_path_is_object(path))
        return os__object_open(file, path, writable);
    int looked;
    do
        looked = open(path, O_PATH | O_CLOEXEC);
    while (looked < 0 && errno == EINTR);
    if (looked < 0)
        return not_opened(errno, path);

    struct stat status;
    int error = 0;
    int fd = -1;
    if (fstat(looked, &status) != 0)
        error = os__system_error(errno, "look at it", path);
    else if (S_ISDIR(status.st_mode))
        error = os__system_error(EISDIR, "open", path);
    else if (!S_ISREG(status.st_mode))
        error = km__error(KM_ENOTMAP, "%s: it is not a regular file, and no other can be mapped: check the path", path);
    else if ((fd = os__descriptor_reopen(looked, path, writable ? O_RDWR : O_RDONLY)) < 0)
        error = os__system_error(-fd, writable ? "open for reading and writing" : "open for reading", path);
    close(looked);
    return error != 0 ? error : os__file_adopt(file, fd, path, writable);
}

void os_file_close(struct os_file *file) {
    if (file == NULL)
        return;
    os__descriptor_close(&file->descriptor);
    if (file->temporary != NULL)
        unlink(file->temporary);
    os__guard_release(file->guard);
    free(file->temporary);
    free(file->path);
    free(file);
}

bool os_file_is_ours(const struct os_file *file) {
    return os__descriptor_has_mark(&file->descriptor);
}

int os_file_info(struct os_file *file, struct os_file_info *info) {
    const int number = os__look(file->descriptor.fd, info);
    return number == 0 ? 0 : os__system_error(number, "look at it", file->path);
}

int os_file_is_at(struct os_file *file, const char *path) {
    if (os_path_is_object(path))
        return os__object_is_at(file, path);
    struct stat here, there;
    if (fstat(file->descriptor.fd, &here) != 0)
        return os__system_error(errno, "look at it", file->path);
    if (stat(path, &there) != 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return 0;
        return os__system_error(errno, "look at it", path);
    }
    return here.st_dev == there.st_dev && here.st_ino == there.st_ino;
}

/* A symbolic link is a name of its own, even where it leads to the file, and stays. Somebody who gives the name to
 * another file between the look and the removal loses it: POSIX cannot do both in one step. */
int os_file_remove(struct os_file *file, const char *path) {
    if (os_path_is_object(path))
        return os__object_remove(file, path);
    struct stat here, there;
    if (fstat(file->descriptor.fd, &here) != 0)
        return os__system_error(errno, "look at it", file->path);
    if (lstat(path, &there) != 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : os__system_error(errno, "look at it", path);
    if (here.st_dev != there.st_dev || here.st_ino != there.st_ino)
        return 0;
    return unlink(path) == 0 || errno == ENOENT ? 0 : os__system_error(errno, "remove it", path);
}

bool os_file_is_volatile(const struct os_file *file) {
    return file->is_object;
}

int os_file_guard(struct os_file *file) {
    return file->guard != NULL ? 0 : os__guard_open(&file->guard, file->path);
}

bool os_file_faulted(const struct os_file *file) {
    return file->guard != NULL && os__guard_has_faulted(file->guard);
}

struct os__guard *os__file_guard(const struct os_file *file) {
    return file->guard;
}

int os__file_contains(struct os_file *file, uint64_t offset, uint64_t length, const char *doing) {
    int error = os__check_range(offset, length, doing, file->path);
    struct os_file_info info;
    if (error == 0)
        error = os_file_info(file, &info);
    if (error == 0 && offset + length > info.size)
        error =
            km__error(KM_ETRUNCATED, "%s: cannot %s: the file has %llu bytes, and %llu are needed: restore it whole",
                      file->path, doing, (unsigned long long)info.size, (unsigned long long)(offset + length));
    return error;
}

int os_file_read(struct os_file *file, uint64_t offset, void *bytes, size_t length) {
    int error = os__check_range(offset, length, "read", file->path);
    if (error != 0)
        return error;
    unsigned char *to = bytes;
    while (length > 0) {
        size_t part = length < TRANSFER_MAX ? length : TRANSFER_MAX;
        ssize_t got = pread(file->descriptor.fd, to, part, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return os__system_error(errno, "read", file->path);
        if (got == 0)
            return km__error(KM_ETRUNCATED, "%s: the file ends at offset %llu, %zu bytes too early: restore it whole",
                             file->path, (unsigned long long)offset, length);
        to += got;
        offset += (uint64_t)got;
        length -= (size_t)got;
    }
    return 0;
}

int os_file_write(struct os_file *file, uint64_t offset, const void *bytes, size_t length) {
    int error = os__check_range(offset, length, "write", file->path);
    if (error != 0)
        return error;
    const unsigned char *from = bytes;
    while (length > 0) {
        size_t part = length < TRANSFER_MAX ? length : TRANSFER_MAX;
        ssize_t put = pwrite(file->descriptor.fd, from, part, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return os__system_error(put < 0 ? errno : EIO, "write", file->path);
        from += put;
        offset += (uint64_t)put;
        length -= (size_t)put;
    }
    return 0;
}

int os_file_sync(struct os_file *file) {
    if (file->is_object)
        return 0;
    /* fdatasync() includes the size and whatever else is needed to find the bytes; only times may be left behind. */
    while (fdatasync(file->descriptor.fd) != 0) {
        if (errno != EINTR)
            return os__system_error(errno, "make it durable", file->path);
    }
    return 0;
}

int os_file_resize(struct os_file *file, uint64_t size) {
    int error = os__check_range(0, size, "set its size", file->path);
    if (error != 0)
        return error;
    while (ftruncate(file->descriptor.fd, (off_t)size) != 0) {
        if (errno != EINTR)
            return os__system_error(errno, "set its size", file->path);
    }
    return 0;
}
