/* SPDX-License-Identifier: MIT
 *
 * Blocks that files share: see os_file_unshare() in os.h. Owns no state.
 *
 * A store through a mapping to a block that another file shares needs a new block, and on a full disk that is SIGBUS.
 * Which blocks are shared FIEMAP tells. xfs has a call that ends it; elsewhere (btrfs) the same bytes are written
 * again, which gives them new blocks, and synced, because until they stand there a store still counts as one to the
 * shared block.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "os_file_posix.h"

#define EXTENTS 64u
#define PART ((size_t)1 << 20)

/* Whether the number says that the file system does not tell, or that we may not ask. */
static bool is_no_answer(int number) {
    return number == EOPNOTSUPP || number == ENOTTY || number == ENOSYS || number == EINVAL || number == EPERM ||
           number == EACCES;
}

static int write_same(struct os_file *file, uint64_t offset, uint64_t end) {
    unsigned char *bytes = malloc(PART);
    if (bytes == NULL)
        return os__system_error(ENOMEM, "give it blocks of its own", file->path);
    int error = 0;
    while (offset < end && error == 0) {
        const size_t part = end - offset < PART ? (size_t)(end - offset) : PART;
        error = os_file_read(file, offset, bytes, part);
        if (error == 0)
            error = os_file_write(file, offset, bytes, part);
        offset += part;
    }
    free(bytes);
    return error == 0 ? os_file_sync(file) : error;
}

static int unshare_part(struct os_file *file, uint64_t offset, uint64_t end) {
    while (fallocate(file->descriptor.fd, FALLOC_FL_UNSHARE_RANGE, (off_t)offset, (off_t)(end - offset)) != 0) {
        if (is_no_answer(errno))
            return write_same(file, offset, end);
        if (errno != EINTR)
            return os__system_error(errno, "give it blocks of its own", file->path);
    }
    return 0;
}

/* The next extents of [offset, end); `extents` has room for EXTENTS. 1: the file system does not tell. */
static int look(struct os_file *file, uint64_t offset, uint64_t end, struct fiemap *extents) {
    memset(extents, 0, sizeof *extents);
    extents->fm_start = offset;
    extents->fm_length = end - offset;
    extents->fm_extent_count = EXTENTS;
    while (ioctl(file->descriptor.fd, FS_IOC_FIEMAP, extents) != 0) {
        if (is_no_answer(errno))
            return 1;
        if (errno != EINTR)
            return os__system_error(errno, "look at its blocks", file->path);
    }
    return 0;
}

/* Move *offset behind the extents, which give it at least one byte's way. */
static int unshare_extents(struct os_file *file, uint64_t *offset, uint64_t end, const struct fiemap *extents) {
    int error = 0;
    for (uint32_t i = 0; i < extents->fm_mapped_extents && i < EXTENTS && error == 0; i++) {
        const struct fiemap_extent *extent = &extents->fm_extents[i];
        const uint64_t stop = extent->fe_logical + extent->fe_length;
        const uint64_t from = extent->fe_logical > *offset ? extent->fe_logical : *offset;
        const uint64_t to = stop < end ? stop : end;
        if ((extent->fe_flags & FIEMAP_EXTENT_SHARED) != 0 && from < to)
            error = unshare_part(file, from, to);
        *offset = to > *offset ? to : *offset;
    }
    return error;
}

int os_file_unshare(struct os_file *file, uint64_t offset, uint64_t length) {
    int error = os__check_range(offset, length, "give it blocks of its own", file->path);
    if (error != 0 || file->is_object)
        return error;
    struct fiemap *extents = malloc(sizeof *extents + EXTENTS * sizeof(struct fiemap_extent));
    if (extents == NULL)
        return os__system_error(ENOMEM, "look at its blocks", file->path);
    for (uint64_t at = offset, before = 0, end = offset + length; at < end && error == 0;) {
        before = at;
        error = look(file, at, end, extents);
        if (error == 0)
            error = unshare_extents(file, &at, end, extents);
        if (at == before) /* nothing but a hole is left, or nobody tells */
            break;
    }
    free(extents);
    return error == 1 ? 0 : error;
}
