/* SPDX-License-Identifier: MIT
 *
 * Calls of the system that can be made to fail, one at one of its occurrences. The linker sends every call that the
 * library makes (and those that the test makes itself) to a function of this layer, which counts it while the layer is
 * armed, fails it if it is the one, and passes it on otherwise. The list for the linker is tests/faults/calls;
 * test_fault_calls.c sees to it that nothing that the library calls is missing there.
 *
 * Nothing is lost by power here, so syncs do not reach the disk: they succeed at once, or fail when they are told to.
 * What a failed sync leaves behind is the matter of the simulated system (tests/crash).
 */
#ifndef KM_TESTS_FAULT_LAYER_H
#define KM_TESTS_FAULT_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** What can fail: a function of the C library, or one of the uses of one that serves for many. */
enum fault_call {
    FAULT_MALLOC,
    FAULT_CALLOC,
    FAULT_REALLOC,
    FAULT_STRDUP,
    FAULT_STRNDUP,
    FAULT_COMPRESS,
    FAULT_EXPAND,
    FAULT_MMAP_MEMORY, /* of the process's own, or address space */
    FAULT_MMAP_FILE,
    FAULT_MADVISE_FORK,     /* MADV_DONTFORK, MADV_DONTDUMP */
    FAULT_MADVISE_DROP,     /* MADV_DONTNEED */
    FAULT_MADVISE_POPULATE, /* MADV_POPULATE_WRITE */
    FAULT_MSYNC,
    FAULT_OPEN,
    FAULT_OPEN_UNNAMED, /* O_TMPFILE */
    FAULT_OPEN_PROC,    /* what the system tells about processes */
    FAULT_OPEN_BOOT_ID,
    FAULT_OPENAT,
    FAULT_CLOSE,
    FAULT_READ,
    FAULT_PREAD,
    FAULT_PREAD_PROC, /* of /proc/self/pagemap */
    FAULT_PWRITE,
    FAULT_PWRITEV2,
    FAULT_FULL_DISK, /* pwrite or pwritev2: two in a row are refused */
    FAULT_LSEEK,
    FAULT_FTRUNCATE,
    FAULT_FALLOCATE,
    FAULT_PUNCH, /* fallocate() that makes a hole */
    FAULT_FDATASYNC,
    FAULT_FSYNC,
    FAULT_SYNCFS,
    FAULT_FCHMOD,
    FAULT_CHMOD,
    FAULT_FSTAT,
    FAULT_FSTATAT,
    FAULT_LSTAT,
    FAULT_STAT,
    FAULT_STATX,
    FAULT_FSTATFS,
    FAULT_UNLINK,
    FAULT_UNLINKAT,
    FAULT_LINK,
    FAULT_LINKAT,
    FAULT_RENAME,
    FAULT_RENAMEAT2,
    FAULT_MKDIRAT,
    FAULT_FDOPENDIR,
    FAULT_READDIR,
    FAULT_LOCK,       /* fcntl(F_OFD_SETLK) */
    FAULT_UNLOCK,     /* the same with F_UNLCK */
    FAULT_LOCK_PROBE, /* fcntl(F_OFD_GETLK) */
    FAULT_FCNTL,      /* anything else */
    FAULT_CLONE,      /* ioctl(FICLONERANGE) */
    FAULT_IOCTL,      /* anything else */
    FAULT_FUTEX,
    FAULT_USERFAULTFD,
    FAULT_GETRANDOM,
    FAULT_NANOSLEEP,
    FAULT_ATFORK,
    FAULT_CALLS
};

/** Ways to fail beside errno values: a call that does only a part of its work, and says so. */
enum { FAULT_ONE_BYTE = -1, FAULT_HALF = -2, FAULT_NOTHING = -3 };

#define FAULT_WAYS 12

/** One line of what can happen. */
struct fault_kind {
    const char *name;     /* for messages */
    const char *function; /* of the C library */
    int ways[FAULT_WAYS]; /* errno values and the constants above; 0 ends the list */
};

extern const struct fault_kind fault_kinds[FAULT_CALLS];

/** One fault: the occurrences from `occurrence` (1 is the first) on, `repeat` of them. */
struct fault {
    enum fault_call call;
    unsigned occurrence, repeat;
    int way;
};

/** What the system lacks as long as the layer is armed: the call always fails so. `way` 0 ends a list. */
struct fault_lack {
    enum fault_call call;
    int way;
};

/** For the next fault_arm() and those after it; NULL: nothing. */
void fault_lacks(const struct fault_lack *lacks);

/** Count calls from zero from now on, and fail the one of `fault` (NULL: none). */
void fault_arm(const struct fault *fault);

/** Let all calls pass. Whether the fault has happened. */
bool fault_disarm(void);

/** How often each was called while the layer was armed. */
unsigned fault_count(enum fault_call call);

/** In words: "pread 3: Input/output error". Valid until the next call. */
const char *fault_text(const struct fault *fault);

/* ---- what the library holds -------------------------------------------------------------------------------------- */

/** Blocks of memory, and bytes of mappings, taken and not given back since the process began. */
long fault_blocks(void);
long long fault_mapped(void);

/* ---- for the layer's own files ----------------------------------------------------------------------------------- */

/** Count a call. The way in which it has to fail, or 0. */
int fault_hit(enum fault_call call);

/** The same for calls that give -1 and errno: whether it failed. Short counts do not happen to them. */
bool fault_refuses(enum fault_call call);

/** How much of `length` bytes a call may do; `*refused` if it fails altogether, with errno set. */
size_t fault_part(enum fault_call call, size_t length, bool *refused);

void fault_blocks_add(long count);
void fault_mapped_add(long long bytes);

#endif
