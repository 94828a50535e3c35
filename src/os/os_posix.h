/* SPDX-License-Identifier: MIT
 *
 * What the POSIX and Linux files of the os layer share among themselves: how the system's errors become ours,
 * descriptors that know whether they are still their own, what must not live on in a child of fork, and how mappings
 * reach the descriptor of a file. Nothing outside src/os includes this, but for the simulated system, which maps memory
 * files by the same code.
 */
#ifndef KM_OS_POSIX_H
#define KM_OS_POSIX_H

#include <stdbool.h>
#include <stdint.h>

#include "os.h"

/**
 * The KM_E code for an errno value. The detail becomes "PATH: cannot DOING: the system's words: what to do"; `path` may
 * be NULL.
 */
int os__system_error(int number, const char *doing, const char *path);

/** KM_ESIZE if offset + length lies beyond what off_t can say, else 0. */
int os__check_range(uint64_t offset, uint64_t length, const char *doing, const char *path);

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

/**
 * Look at an open file; errno or 0. Does not ask for its times: who has asked makes Linux (6.13 on, multigrain
 * timestamps) give the next write a timestamp of its own, which costs more than the look itself.
 */
int os__look(int fd, struct os_file_info *info);

/**
 * A descriptor and what stood behind it when it was opened. Programs close descriptors that are not theirs, and the
 * number then soon means another file; so we look before we lock, and before we close. It may even mean the same file,
 * opened by somebody else: without our locks, or so that writes go to its end. So descriptions of maps have a mark.
 */
struct os__descriptor {
    int fd; /* -1: closed */
    uint64_t device, inode;
    int64_t mark; /* the offset at which nobody but us has left the description; -1: it has none */
};

/** Take over an open descriptor; on an error it is closed. `path` is for the detail. */
int os__descriptor_adopt(struct os__descriptor *descriptor, int fd, const char *path);

/** Mark the description, by an offset of chance, as we read and write elsewhere. Who moves it marks it again. */
void os__descriptor_mark(struct os__descriptor *descriptor);

/** Whether the mark is there, or there is none. Costs less than the next one. */
bool os__descriptor_has_mark(const struct os__descriptor *descriptor);

/** Whether the same file still stands behind it, as far as can be told, and, if it is marked, the very description. */
bool os__descriptor_holds(const struct os__descriptor *descriptor);

/** Close it if it is still ours. */
void os__descriptor_close(struct os__descriptor *descriptor);

/**
 * Open the file behind `fd` anew, as an open file description of its own. Where /proc is missing `path` is opened and
 * must name the same file. `flags` are those of open(). The descriptor, or a negative errno value.
 */
int os__descriptor_reopen(int fd, const char *path, int flags);

/* ---- fork -------------------------------------------------------------------------------------------------------- */

/** A descriptor that a child of fork closes at once. */
struct os__fork_entry {
    int fd; /* -1 once it was closed, in the child too */
    struct os__fork_entry *next, *previous;
};

/**
 * No fork happens between hold and release. A descriptor that is opened and added between the two, or removed and
 * closed, cannot leak into a child. Add and remove only there, and do little else.
 */
int os__fork_hold(void);
void os__fork_release(void);
void os__fork_add(struct os__fork_entry *entry, int fd);
void os__fork_remove(struct os__fork_entry *entry);

/* ---- mappings ---------------------------------------------------------------------------------------------------- */

/** Next multiple of KM_PAGE_SIZE and of the processor's page; 0 if that is out of range. */
uint64_t os__round_up_to_page(uint64_t length);

/** Have a mapping neither inherited by fork nor written to core dumps; 0 or errno. */
int os__keep_private(void *address, uint64_t length);

/* ---- files, as mappings see them --------------------------------------------------------------------------------- */

/** Descriptor to map the file by, and its path for messages. */
int os__file_descriptor(const struct os_file *file);
const char *os__file_path(const struct os_file *file);

/** KM_ETRUNCATED unless [offset, offset + length) lies in the file. */
int os__file_contains(struct os_file *file, uint64_t offset, uint64_t length, const char *doing);

/** The guard of its mappings, or NULL. */
struct os__guard *os__file_guard(const struct os_file *file);

/* ---- the guard of mappings: os_guard_linux.c --------------------------------------------------------------------- */

/** What the guarded mappings of one file share. The file holds it, and so does each mapping, whichever ends last. */
struct os__guard;

/** Make the guard of a file, and install the process's handler if that was not done yet. KM_ENOMEM, KM_ESYSTEM. */
int os__guard_open(struct os__guard **guard, const char *path);
void os__guard_release(struct os__guard *guard); /* NULL allowed */

/** Whether a fault was met in one of its mappings. */
bool os__guard_has_faulted(const struct os__guard *guard);

/** Watch over a mapping from now on; nothing to do if `guard` is NULL. KM_ENOMEM if no place is left. */
int os__guard_add(struct os__guard *guard, const void *address, uint64_t length, const char *path);

/** The mapping at this address, if it is guarded, is now so long. */
void os__guard_grow(const void *address, uint64_t length);

/** Must be called before the mapping at this address is unmapped, in the process that made it, whether it is guarded or
 *  not. */
void os__guard_remove(const void *address);

#endif
