/* SPDX-License-Identifier: MIT
 *
 * Byte-range locks that belong to an open file description (fcntl F_OFD_SETLK), so that two handles of one process
 * exclude each other, and closing another descriptor of the file, as any library may do, releases nothing.
 *
 * The description is opened for the locks alone. It is never mapped, because a mapping keeps a description, and so its
 * locks, alive in a child of fork. The descriptor itself is closed in the child (os_fork_posix.c); before each use we
 * look whether it is still ours, also where it has become one of the same file: our locks are gone then.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os_posix.h"

enum { RELEASE_TRIES = 100 };

struct os_locks {
    struct os__descriptor descriptor;
    struct os__fork_entry in_child;
    char *path;
};

int os_locks_open(struct os_locks **locks, struct os_file *file) {
    const char *path = os__file_path(file);
    int of_file = os__file_descriptor(file);
    int mode = fcntl(of_file, F_GETFL);
    if (mode < 0)
        return os__system_error(errno, "open its locks", path);
    struct os_locks *made = calloc(1, sizeof *made);
    char *copy = strdup(path);
    if (made == NULL || copy == NULL) {
        free(made);
        free(copy);
        return os__system_error(ENOMEM, "open its locks", path);
    }
    made->path = copy;

    int error = os__fork_hold();
    if (error == 0) {
        int fd = os__descriptor_reopen(of_file, path, mode & O_ACCMODE);
        if (fd == -ENOENT && os_path_is_object(path)) /* only through /proc can it be opened anew */
            error = km__error(KM_EUNSUPPORTED, "%s: cannot open its locks without /proc: mount it", path);
        else if (fd < 0)
            error = os__system_error(-fd, "open its locks", path);
        else
            error = os__descriptor_adopt(&made->descriptor, fd, path);
        if (error == 0)
            os__descriptor_mark(&made->descriptor);
        if (error == 0)
            os__fork_add(&made->in_child, fd);
        os__fork_release();
    }
    if (error != 0) {
        free(copy);
        free(made);
        return error;
    }
    *locks = made;
    return 0;
}

int os_locks_check(const struct os_locks *locks) {
    if (locks->in_child.fd < 0)
        return km__error(KM_EFORKED, "%s: cannot lock it: the locks are the parent process's", locks->path);
    if (os__descriptor_holds(&locks->descriptor))
        return 0;
    return km__error(KM_ESTALE,
                     "%s: its locks are gone: the program closed a descriptor that it did not open; close the handle "
                     "and open it again",
                     locks->path);
}

/* The lock as fcntl() wants it. */
static int prepare(const struct os_locks *locks, uint64_t first, uint64_t count, int type, struct flock *lock) {
    if (count == 0)
        return km__error(KM_EINVAL, "%s: cannot lock an empty range", locks->path);
    int error = os__check_range(first, count, "lock it", locks->path);
    if (error == 0)
        error = os_locks_check(locks);
    if (error != 0)
        return error;
    memset(lock, 0, sizeof *lock); /* l_pid must be 0 */
    lock->l_type = (short)type;
    lock->l_whence = SEEK_SET;
    lock->l_start = (off_t)first;
    lock->l_len = (off_t)count;
    return 0;
}

int os_lock_try(struct os_locks *locks, uint64_t first, uint64_t count, enum os_lock_kind kind) {
    struct flock lock;
    int error = prepare(locks, first, count, kind == OS_LOCK_WRITE ? F_WRLCK : F_RDLCK, &lock);
    if (error != 0)
        return error;
    while (fcntl(locks->descriptor.fd, F_OFD_SETLK, &lock) != 0) {
        if (errno == EAGAIN || errno == EACCES)
            return km__error(KM_EBUSY, "%s: another handle holds the lock: try again later", locks->path);
        if (errno == EBADF) /* the descriptor is ours, so it is the kind that it does not allow */
            return km__error(KM_EACCESS, "%s: cannot lock it for writing: it was opened read-only", locks->path);
        if (errno != EINTR)
            return os__system_error(errno, "lock it", locks->path);
    }
    return 0;
}

void os_lock_release(struct os_locks *locks, uint64_t first, uint64_t count) {
    if (locks->in_child.fd < 0)
        return;
    /* Not looked at first whether it is still ours: another file has no locks of anybody's out here. */
    if (!os__descriptor_has_mark(&locks->descriptor)) /* but who has opened the same file may have some */
        return;
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = (off_t)first, .l_len = (off_t)count};
    /* The kernel joins neighbouring locks, and to release one from their midst it needs memory. A lock that stayed
     * would keep everybody else out until this handle is closed. */
    for (int tries = 0; tries < RELEASE_TRIES && fcntl(locks->descriptor.fd, F_OFD_SETLK, &lock) != 0;)
        tries += errno != EINTR;
}

int os_lock_probe(struct os_locks *locks, uint64_t first, uint64_t count, enum os_lock_kind kind, uint64_t *holder) {
    struct flock lock;
    int error = prepare(locks, first, count, kind == OS_LOCK_WRITE ? F_WRLCK : F_RDLCK, &lock);
    if (error != 0)
        return error;
    while (fcntl(locks->descriptor.fd, F_OFD_GETLK, &lock) != 0) {
        if (errno != EINTR)
            return os__system_error(errno, "look at its locks", locks->path);
    }
    if (lock.l_type == F_UNLCK)
        return 0;
    if (holder != NULL)
        *holder = (uint64_t)lock.l_start > first ? (uint64_t)lock.l_start : first;
    return 1;
}

void os_locks_close(struct os_locks *locks) {
    if (locks == NULL)
        return;
    /* A child that is made between the two would keep the descriptor, and the locks with it. In a child of fork nothing
     * is left to close. */
    if (locks->in_child.fd >= 0 && os__fork_hold() == 0) {
        os__fork_remove(&locks->in_child);
        os__descriptor_close(&locks->descriptor);
        os__fork_release();
    }
    free(locks->path);
    free(locks);
}
