/* SPDX-License-Identifier: MIT
 *
 * What can fail and how, and which call it is: see fault_layer.h. The functions that take the place of the C library's
 * are in fault_files.c and fault_memory.c.
 *
 * The ways of a call are those that its manual page knows, one or two for each answer that the library can give. Those
 * of a system that lacks something (ENOSYS, EOPNOTSUPP, EINVAL) belong to them: the library must find another way.
 */
#include "fault_layer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const struct fault_kind fault_kinds[FAULT_CALLS] = {
    [FAULT_MALLOC] = {"malloc", "malloc", {ENOMEM}},
    [FAULT_CALLOC] = {"calloc", "calloc", {ENOMEM}},
    [FAULT_REALLOC] = {"realloc", "realloc", {ENOMEM}},
    [FAULT_STRDUP] = {"strdup", "strdup", {ENOMEM}},
    [FAULT_STRNDUP] = {"strndup", "strndup", {ENOMEM}},
    [FAULT_COMPRESS] = {"compress2", "compress2", {ENOMEM}},
    [FAULT_EXPAND] = {"uncompress2", "uncompress2", {ENOMEM}},
    [FAULT_MMAP_MEMORY] = {"mmap (memory)", "mmap", {ENOMEM}},
    [FAULT_MMAP_FILE] = {"mmap (file)", "mmap", {ENOMEM, EACCES, EAGAIN}},
    [FAULT_MADVISE_FORK] = {"madvise (not for children)", "madvise", {ENOMEM}},
    [FAULT_MADVISE_DROP] = {"madvise (drop)", "madvise", {ENOMEM, EINVAL}},
    [FAULT_MADVISE_POPULATE] = {"madvise (populate)", "madvise", {ENOMEM, EINVAL}},
    [FAULT_MSYNC] = {"msync", "msync", {EIO, ENOSPC, ENOMEM, EINTR}},
    [FAULT_OPEN] = {"open", "open", {EIO, EINTR, EMFILE, ENFILE, ENOMEM, EACCES}},
    [FAULT_OPEN_UNNAMED] = {"open (O_TMPFILE)",
                            "open",
                            {EIO, EINTR, EMFILE, ENOSPC, EDQUOT, EACCES, EOPNOTSUPP, EISDIR}},
    [FAULT_OPEN_PROC] = {"open (/proc)", "open", {EIO, EINTR, EMFILE, ENOENT}},
    [FAULT_OPEN_BOOT_ID] = {"open (the id of the start)", "open", {EIO, EINTR, EMFILE}},
    [FAULT_OPENAT] = {"openat", "openat", {EIO, EINTR, EMFILE, ENFILE, ENOMEM, ENOSPC}},
    [FAULT_CLOSE] = {"close", "close", {EIO, EINTR}},
    [FAULT_READ] = {"read", "read", {EIO, EINTR, FAULT_ONE_BYTE, FAULT_HALF}},
    [FAULT_PREAD] = {"pread", "pread", {EIO, EINTR, ENOMEM, FAULT_ONE_BYTE, FAULT_HALF, FAULT_NOTHING}},
    [FAULT_PREAD_PROC] = {"pread (/proc)", "pread", {EIO, EINTR, ENOMEM, FAULT_NOTHING}},
    [FAULT_PWRITE] = {"pwrite", "pwrite", {EIO, EINTR, ENOSPC, EDQUOT, EFBIG, FAULT_ONE_BYTE, FAULT_HALF}},
    [FAULT_PWRITEV2] = {"pwritev2",
                        "pwritev2",
                        {EIO, EINTR, ENOSPC, EDQUOT, EFBIG, EOPNOTSUPP, ENOSYS, FAULT_ONE_BYTE, FAULT_HALF}},
    [FAULT_FULL_DISK] = {"pwrite and pwritev2", "pwrite", {ENOSPC, EDQUOT}},
    [FAULT_LSEEK] = {"lseek", "lseek", {EIO, EINVAL}},
    [FAULT_FTRUNCATE] = {"ftruncate", "ftruncate", {EIO, EINTR, ENOSPC, EFBIG, EPERM}},
    [FAULT_FALLOCATE] = {"fallocate", "fallocate", {EIO, EINTR, ENOSPC, EDQUOT, EFBIG, EOPNOTSUPP, ENOSYS}},
    [FAULT_PUNCH] = {"fallocate (hole)", "fallocate", {EIO, EINTR, ENOSPC, EOPNOTSUPP, ENOSYS}},
    [FAULT_FDATASYNC] = {"fdatasync", "fdatasync", {EIO, EINTR, ENOSPC, EDQUOT}},
    [FAULT_FSYNC] = {"fsync", "fsync", {EIO, EINTR, ENOSPC, EINVAL}},
    [FAULT_SYNCFS] = {"syncfs", "syncfs", {EIO, EINTR}},
    [FAULT_FCHMOD] = {"fchmod", "fchmod", {EIO, EPERM, EROFS}},
    [FAULT_CHMOD] = {"chmod", "chmod", {EIO, EPERM}},
    [FAULT_FSTAT] = {"fstat", "fstat", {EIO, ENOMEM}},
    [FAULT_FSTATAT] = {"fstatat", "fstatat", {EIO, ENOMEM, EACCES}},
    [FAULT_LSTAT] = {"lstat", "lstat", {EIO, ENOMEM, EACCES}},
    [FAULT_STAT] = {"stat", "stat", {EIO, ENOMEM, EACCES}},
    [FAULT_STATX] = {"statx", "statx", {EIO, ENOMEM, ENOSYS, EPERM}},
    [FAULT_FSTATFS] = {"fstatfs", "fstatfs", {EIO, EINTR}},
    [FAULT_UNLINK] = {"unlink", "unlink", {EIO, EACCES}},
    [FAULT_UNLINKAT] = {"unlinkat", "unlinkat", {EIO, EACCES}},
    [FAULT_LINK] = {"link", "link", {EIO, ENOSPC, EACCES, EEXIST}},
    [FAULT_LINKAT] = {"linkat", "linkat", {EIO, ENOSPC, EDQUOT, EACCES, ENOMEM}},
    [FAULT_RENAME] = {"rename", "rename", {EIO, ENOSPC, EACCES, ENOMEM}},
    [FAULT_RENAMEAT2] = {"renameat2", "renameat2", {EIO, ENOSPC, EACCES, EINVAL, ENOSYS}},
    [FAULT_MKDIRAT] = {"mkdirat", "mkdirat", {EIO, ENOSPC, EACCES, EINTR, EEXIST}},
    [FAULT_FDOPENDIR] = {"fdopendir", "fdopendir", {ENOMEM}},
    [FAULT_READDIR] = {"readdir", "readdir", {EIO, ENOMEM}},
    [FAULT_LOCK] = {"fcntl (lock)", "fcntl", {EAGAIN, EACCES, ENOLCK, EINTR, EIO}},
    [FAULT_UNLOCK] = {"fcntl (unlock)", "fcntl", {ENOLCK, EINTR}},
    [FAULT_LOCK_PROBE] = {"fcntl (look at locks)", "fcntl", {EIO, EINTR, ENOLCK}},
    [FAULT_FCNTL] = {"fcntl", "fcntl", {EIO}},
    [FAULT_CLONE] = {"ioctl (clone)", "ioctl", {EIO, EINTR, ENOSPC, EDQUOT, EOPNOTSUPP, EXDEV, EINVAL, EPERM}},
    [FAULT_IOCTL] = {"ioctl", "ioctl", {EIO, EINTR, ENOMEM, ENOTTY, EINVAL}},
    [FAULT_FUTEX] = {"futex", "syscall", {EINTR, EAGAIN}},
    [FAULT_USERFAULTFD] = {"userfaultfd", "syscall", {EPERM, ENOSYS, EMFILE, ENOMEM}},
    [FAULT_GETRANDOM] = {"getrandom", "getrandom", {EIO, EINTR, FAULT_ONE_BYTE}},
    [FAULT_NANOSLEEP] = {"nanosleep", "nanosleep", {EINTR}},
    [FAULT_ATFORK] = {"pthread_atfork", "pthread_atfork", {ENOMEM}},
};

static bool armed, happened;
static struct fault present; /* occurrence 0: none */
static unsigned counts[FAULT_CALLS];
static int lacking[FAULT_CALLS]; /* ways; 0: it is there */
static long blocks;
static long long mapped;

void fault_lacks(const struct fault_lack *lacks) {
    memset(lacking, 0, sizeof lacking);
    for (; lacks != NULL && lacks->way != 0; lacks++)
        lacking[lacks->call] = lacks->way;
}

void fault_arm(const struct fault *fault) {
    memset(counts, 0, sizeof counts);
    present = fault != NULL ? *fault : (struct fault){.occurrence = 0};
    happened = false;
    armed = true;
}

bool fault_disarm(void) {
    armed = false;
    return happened;
}

unsigned fault_count(enum fault_call call) {
    return counts[call];
}

int fault_hit(enum fault_call call) {
    if (!armed)
        return 0;
    const unsigned number = ++counts[call];
    if (present.occurrence == 0 || call != present.call || number < present.occurrence ||
        number - present.occurrence >= present.repeat)
        return lacking[call];
    happened = true;
    return present.way;
}

bool fault_refuses(enum fault_call call) {
    const int way = fault_hit(call);
    if (way <= 0)
        return false;
    errno = way;
    return true;
}

size_t fault_part(enum fault_call call, size_t length, bool *refused) {
    const int way = fault_hit(call);
    *refused = way > 0;
    if (way > 0)
        errno = way;
    switch (way) {
    case FAULT_ONE_BYTE:
        return length < 1 ? length : 1;
    case FAULT_HALF:
        return length / 2 > 0 ? length / 2 : length;
    case FAULT_NOTHING:
        return 0;
    default:
        return length;
    }
}

const char *fault_text(const struct fault *fault) {
    static char text[160];
    const char *way = fault->way == FAULT_ONE_BYTE  ? "one byte of it"
                      : fault->way == FAULT_HALF    ? "half of it"
                      : fault->way == FAULT_NOTHING ? "nothing more"
                                                    : strerror(fault->way);
    snprintf(text, sizeof text, "%s %u%s: %s", fault_kinds[fault->call].name, fault->occurrence,
             fault->repeat > 1 ? " and on" : "", way);
    return text;
}

long fault_blocks(void) {
    return blocks;
}

long long fault_mapped(void) {
    return mapped;
}

void fault_blocks_add(long count) {
    blocks += count;
}

void fault_mapped_add(long long bytes) {
    mapped += bytes;
}
