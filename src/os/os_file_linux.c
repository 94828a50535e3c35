/* SPDX-License-Identifier: MIT
 *
 * Files by what only Linux has: files without a name and their publication, durable writes of a range, space and holes,
 * and which file systems share mappings coherently.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "os_file_posix.h"

#define TRANSFER_MAX ((size_t)1 << 30)
#define TEMPORARY_TRIES 100
#define MAGIC_TMPFS 0x01021994u
#define MAGIC_BTRFS 0x9123683eu
#define MAGIC_OVERLAYFS 0x794c7630u

static const unsigned char zeros[65536];

/* ---- creation ---------------------------------------------------------------------------------------------------- */

/* Call `try` with fresh names beside `path` until one is free. The name, allocated, or NULL and errno. */
static char *with_fresh_name(const char *path, int (*try)(void *context, const char *name), void *context) {
    size_t room = strlen(path) + 32;
    char *name = malloc(room);
    if (name == NULL)
        return NULL;
    const char *slash = strrchr(path, '/');
    int directory_length = slash == NULL ? 0 : (int)(slash - path) + 1;
    for (int i = 0; i < TEMPORARY_TRIES; i++) {
        uint64_t chance = 0;
        if (os_random(&chance, sizeof chance) != 0)
            break;
        snprintf(name, room, "%.*s.keepmap-%016llx", directory_length, path, (unsigned long long)chance);
        if (try(context, name) == 0)
            return name;
        if (errno != EEXIST && errno != EINTR)
            break;
    }
    int number = errno;
    free(name);
    errno = number;
    return NULL;
}

static int try_create(void *context, const char *name) {
    int *fd = context;
    *fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return *fd >= 0 ? 0 : -1;
}

/* On btrfs a file that is overwritten in place all the time must not be copied on write. Only an empty file can be set
 * so. A refusal changes nothing but speed. */
static void set_nocow(int fd) {
    struct statfs system;
    int flags = 0;
    if (fstatfs(fd, &system) != 0 || (uint32_t)system.f_type != MAGIC_BTRFS)
        return;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NOCOW_FL;
        (void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
}

int os_file_create(struct os_file **file, const char *path, uint32_t permissions) {
    if (os_path_is_object(path))
        return os__object_create(file, path, permissions);
    char *directory = os__file_directory(path);
    if (directory == NULL)
        return os__system_error(ENOMEM, "create", path);
    int fd;
    do
        fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    while (fd < 0 && errno == EINTR);
    int number = fd < 0 ? errno : 0;
    free(directory);

    /* EISDIR: the file system, or an old kernel, does not know O_TMPFILE and took it for opening the directory. The
     * name that takes its place is removed on close; only a kill in between leaves it behind. */
    char *temporary = NULL;
    if (number == EOPNOTSUPP || number == EISDIR || number == EINVAL) {
        temporary = with_fresh_name(path, try_create, &fd);
        number = temporary != NULL ? 0 : errno;
    }
    if (number != 0)
        return os__system_error(number, "create", path);

    int error = 0;
    if (fchmod(fd, (mode_t)(permissions & 07777)) != 0) {
        error = os__system_error(errno, "set its permissions", path);
        close(fd);
    } else {
        set_nocow(fd);
        error = os__file_adopt(file, fd, path, true);
    }
    if (error != 0 && temporary != NULL)
        unlink(temporary);
    if (error != 0)
        free(temporary);
    else
        (*file)->temporary = temporary;
    return error;
}

/* ---- publication ------------------------------------------------------------------------------------------------- */

/* AT_EMPTY_PATH needs no /proc, but a privilege or a new kernel. */
int os__file_link(const struct os_file *file, int directory, const char *name) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file->descriptor.fd);
    if (linkat(AT_FDCWD, link, directory, name, AT_SYMLINK_FOLLOW) == 0)
        return 0;
    if (errno != ENOENT)
        return -1;
    return linkat(file->descriptor.fd, "", directory, name, AT_EMPTY_PATH);
}

static int link_unnamed(void *context, const char *name) {
    return os__file_link(context, AT_FDCWD, name);
}

/* Move a name to another that must not exist yet; -1 and errno. */
static int rename_exclusive(const char *from, const char *to) {
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    if (link(from, to) != 0)
        return -1;
    unlink(from);
    return 0;
}

static int repeat_sync(int (*sync_call)(int fd), int fd) {
    int result;
    do
        result = sync_call(fd);
    while (result != 0 && errno == EINTR);
    return result;
}

/* Make the entries of the directory of `path` durable. Who may not read the directory cannot open it to sync it, and
 * syncs the file system instead. */
static int sync_directory(const struct os_file *file, const char *path) {
    char *directory = os__file_directory(path);
    if (directory == NULL)
        return os__system_error(ENOMEM, "make its name durable", path);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(directory);
    int result = fd >= 0 ? repeat_sync(fsync, fd) : -1;
    if (fd < 0 || (result != 0 && (errno == EINVAL || errno == EROFS))) /* a file system without syncs of directories */
        result = repeat_sync(syncfs, file->descriptor.fd);
    int error = result == 0 ? 0 : os__system_error(errno, "make its name durable", path);
    if (fd >= 0)
        close(fd);
    return error;
}

static int name_file(struct os_file *file, const char *path, bool replace) {
    int result = 0;
    if (replace) {
        /* A name can only be replaced by another name, so the file needs one first. */
        if (file->temporary == NULL)
            file->temporary = with_fresh_name(path, link_unnamed, file);
        result = file->temporary != NULL ? rename(file->temporary, path) : -1;
    } else {
        result = file->temporary != NULL ? rename_exclusive(file->temporary, path) : link_unnamed(file, path);
    }
    if (result != 0)
        return os__system_error(errno, "give the file this name", path);
    free(file->temporary);
    file->temporary = NULL;
    return 0;
}

int os_file_publish(struct os_file *file, const char *path, bool replace) {
    const bool is_object = os_path_is_object(path);
    if (is_object != file->is_object)
        return km__error(KM_EINVAL, "%s: cannot give it to what was created as %s: one is a file, the other is not",
                         path, file->path);
    if (is_object && replace)
        return km__error(KM_EUNSUPPORTED,
                         "%s: cannot replace an object backed by the paging file: it ends by itself, "
                         "with its last user",
                         path);
    char *copy = strdup(path);
    if (copy == NULL)
        return os__system_error(ENOMEM, "publish", path);
    const int error = is_object ? os__object_publish(file, path) : name_file(file, path, replace);
    if (error != 0) {
        free(copy);
        return error;
    }
    free(file->path);
    file->path = copy;
    return os_file_sync_name(file, path);
}

int os_file_sync_name(struct os_file *file, const char *path) {
    return file->is_object ? 0 : sync_directory(file, path);
}

/* ---- durable writes ---------------------------------------------------------------------------------------------- */

/* A write for which there was no room. Where the bytes are taken without being waited for, it was the sync after them
 * that found none (space is allocated late, or copied on write): then it is open which bytes reached the disk, also of
 * earlier writes, of which nobody will be told again. */
static int no_room(struct os_file *file, uint64_t offset, const void *bytes, size_t length, int number) {
    const int error = os_file_write(file, offset, bytes, length);
    if (error != 0)
        return error;
    os__system_error(number, "make it durable", file->path);
    return KM_EIO;
}

int os_file_write_durable(struct os_file *file, uint64_t offset, const void *bytes, size_t length) {
    int error = os__check_range(offset, length, "write", file->path);
    if (error != 0)
        return error;
    if (file->is_object)
        return os_file_write(file, offset, bytes, length);
    const unsigned char *from = bytes;
    while (length > 0) {
        struct iovec part = {.iov_base = (void *)(uintptr_t)from,
                             .iov_len = length < TRANSFER_MAX ? length : TRANSFER_MAX};
        ssize_t put = pwritev2(file->descriptor.fd, &part, 1, (off_t)offset, RWF_DSYNC);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) {
            error = os_file_write(file, offset, from, length);
            return error != 0 ? error : os_file_sync(file);
        }
        if (put < 0 && (errno == ENOSPC || errno == EDQUOT || errno == ENOMEM))
            return no_room(file, offset, from, length, errno);
        if (put <= 0)
            return os__system_error(put < 0 ? errno : EIO, "write durably", file->path);
        from += put;
        offset += (uint64_t)put;
        length -= (size_t)put;
    }
    return 0;
}

/* ---- space and holes --------------------------------------------------------------------------------------------- */

static int write_zeros(struct os_file *file, uint64_t offset, uint64_t end) {
    int error = 0;
    while (offset < end && error == 0) {
        size_t part = end - offset < sizeof zeros ? (size_t)(end - offset) : sizeof zeros;
        error = os_file_write(file, offset, zeros, part);
        offset += part;
    }
    return error;
}

/* For file systems without fallocate(): zeros are written over the holes, and over what lies behind the end. */
static int fill_holes(struct os_file *file, uint64_t offset, uint64_t end) {
    while (offset < end) {
        uint64_t start, stop;
        int error = os_file_next_data(file, offset, end, &start, &stop);
        if (error == 0)
            error = write_zeros(file, offset, start);
        if (error != 0)
            return error;
        offset = stop;
    }
    return 0;
}

int os_file_allocate(struct os_file *file, uint64_t offset, uint64_t length) {
    int error = os__check_range(offset, length, "allocate space", file->path);
    if (error != 0 || length == 0)
        return error;
    while (fallocate(file->descriptor.fd, 0, (off_t)offset, (off_t)length) != 0) {
        if (errno == EOPNOTSUPP || errno == ENOSYS)
            return fill_holes(file, offset, offset + length);
        if (errno != EINTR)
            return os__system_error(errno, "allocate space", file->path);
    }
    return 0;
}

int os_file_zero(struct os_file *file, uint64_t offset, uint64_t length) {
    int error = os__check_range(offset, length, "clear a range", file->path);
    if (error != 0 || length == 0)
        return error;
    while (fallocate(file->descriptor.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) !=
           0) {
        if (errno == EOPNOTSUPP || errno == ENOSYS)
            return write_zeros(file, offset, offset + length);
        if (errno != EINTR)
            return os__system_error(errno, "clear a range", file->path);
    }
    return 0;
}

int os_file_next_data(struct os_file *file, uint64_t offset, uint64_t end, uint64_t *start, uint64_t *stop) {
    *start = *stop = end;
    if (offset >= end)
        return 0;
    int error = os__check_range(offset, end - offset, "look for data", file->path);
    if (error != 0)
        return error;
    /* The search moves the offset: of a description that is not ours nobody wants that, nor must it get our mark. */
    if (!os__descriptor_has_mark(&file->descriptor))
        return km__error(KM_ESTALE,
                         "%s: the program closed the handle's file, or moved its offset: close the handle and open the "
                         "map again",
                         file->path);
    off_t data = lseek(file->descriptor.fd, (off_t)offset, SEEK_DATA);
    off_t hole = -1;
    if (data >= 0 && (uint64_t)data < end)
        hole = lseek(file->descriptor.fd, data, SEEK_HOLE);
    const int number = errno;
    os__descriptor_mark(&file->descriptor); /* the offset was its mark */
    errno = number;
    if (data >= 0 && (uint64_t)data >= end)
        return 0;
    if (hole >= 0) {
        *start = (uint64_t)data;
        *stop = (uint64_t)hole < end ? (uint64_t)hole : end;
        return 0;
    }
    if (data < 0 && errno == ENXIO)
        return 0;
    if (errno == ENXIO || errno == EINVAL || errno == EOPNOTSUPP) {
        /* No holes here, or the file was cut short between the two calls: what is in the range is in doubt. */
        *start = data >= 0 ? (uint64_t)data : offset;
        return 0;
    }
    return os__system_error(errno, "look for data", file->path);
}

static bool is_no_to_sharing(int number) {
    static const int numbers[] = {EOPNOTSUPP, EXDEV, EINVAL, ENOTTY, ENOSYS, EPERM, ETXTBSY};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (numbers[i] == number)
            return true;
    }
    return false;
}

int os_file_clone_range(struct os_file *from, uint64_t from_offset, struct os_file *to, uint64_t to_offset,
                        uint64_t length) {
    int error = os__check_range(from_offset, length, "share its blocks", from->path);
    if (error == 0)
        error = os__check_range(to_offset, length, "share blocks", to->path);
    if (error != 0 || length == 0) /* for the system 0 means: up to the end */
        return error;
    struct file_clone_range range = {
        .src_fd = from->descriptor.fd, .src_offset = from_offset, .src_length = length, .dest_offset = to_offset};
    while (ioctl(to->descriptor.fd, FICLONERANGE, &range) != 0) {
        if (is_no_to_sharing(errno))
            return km__error(KM_EUNSUPPORTED, "%s: cannot share blocks with %s: %s: copy the bytes", to->path,
                             from->path, strerror(errno));
        if (errno != EINTR)
            return os__system_error(errno, "share blocks", to->path);
    }
    return 0;
}

/* ---- coherence --------------------------------------------------------------------------------------------------- */

/* File systems by the number that statfs() tells (linux/magic.h and the file systems' sources). */
static const struct {
    uint32_t magic;
    bool coherent;
    const char *name;
} file_systems[] = {
    {0x0000ef53u, true, "ext2, ext3 or ext4"},
    {0x58465342u, true, "xfs"},
    {MAGIC_BTRFS, true, "btrfs"},
    {0xf2f52010u, true, "f2fs"},
    {MAGIC_TMPFS, true, "tmpfs"},
    {0x2fc12fc1u, true, "zfs"},
    {MAGIC_OVERLAYFS, false, "overlayfs"},
    {0x65735546u, false, "FUSE"},
    {0x00006969u, false, "NFS"},
    {0xff534d42u, false, "CIFS"},
    {0xfe534d42u, false, "SMB"},
    {0x01021997u, false, "9p"},
    {0x00c36400u, false, "ceph"},
    {0x00004d44u, false, "FAT"},
    {0x2011bab0u, false, "exFAT"},
    {0x7366746eu, false, "NTFS"},
    {0xca451a4eu, false, "bcachefs"},
};

int os__look_at_system(int fd, struct statfs *system) {
    int result;
    do
        result = fstatfs(fd, system);
    while (result != 0 && errno == EINTR);
    return result;
}

/* Where the system does not tell, space is taken in any case: a fault costs more. */
bool os_file_holes_take_space(struct os_file *file) {
    struct statfs system;
    return os__look_at_system(file->descriptor.fd, &system) != 0 || (uint32_t)system.f_type == MAGIC_TMPFS;
}

int os_file_check_coherent(struct os_file *file) {
    struct statfs system;
    if (os__look_at_system(file->descriptor.fd, &system) != 0)
        return os__system_error(errno, "look at its file system", file->path);
    uint32_t magic = (uint32_t)system.f_type;
    const char *name = "unknown to keepmap";
    for (size_t i = 0; i < sizeof file_systems / sizeof file_systems[0]; i++) {
        if (file_systems[i].magic == magic) {
            name = file_systems[i].name;
            if (file_systems[i].coherent)
                return 0;
        }
    }
    /* On overlayfs a file that was opened for writing has been copied up; one that was not may still show the lower
     * layer's pages when another process copies it up. */
    if (magic == MAGIC_OVERLAYFS && file->writable)
        return 0;
    if (magic == MAGIC_OVERLAYFS)
        return km__error(
            KM_EFILESYSTEM,
            "%s: the file system is an overlayfs, where a file opened read-only may show an old copy: open it for "
            "writing (without KM_READONLY), or pass KM_ANY_FILESYSTEM if nobody writes it",
            file->path);
    return km__error(
        KM_EFILESYSTEM,
        "%s: the file system (type 0x%x, %s) is not known to share mappings coherently between processes: put "
        "the map on ext4, xfs, btrfs or tmpfs, or pass KM_ANY_FILESYSTEM to vouch for it",
        file->path, (unsigned)magic, name);
}
