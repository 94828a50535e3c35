/* SPDX-License-Identifier: MIT
 *
 * The os seam: everything that reaches a disk, a lock, a clock, memory mappings or another process. This is the
 * contract; exactly one set of files keeps it in a given program, chosen by the linker: os_*_posix.c and os_*_linux.c,
 * os_*_win32.c, or tests/support/os_sim.c, whose disk can lose power.
 *
 * Functions that return int return 0 or a negative KM_E code and leave the system's words, with the path, in the
 * thread's detail (error.h). Offsets and lengths are bytes. Nothing here knows what a map is.
 *
 * A path that begins with exactly `Local\` or `Global\` names an *object backed by the paging file*: it behaves as a
 * file that no power cut survives, and that takes no disk. Its bytes live as long as somebody has it open or it has
 * its name. What stands behind the prefix was checked by the caller to be one plain name. Such a path is taken by
 * os_file_open(), _create(), _publish(), _sync_name(), _is_at() and _remove().
 *
 * What a system must keep:
 *  - os_file_write() is seen at once by every os_region and by the clean pages of every os_view of the same file, and
 *    stores through a shared view by os_file_read() and by every other view, in every process (a coherent page cache).
 *  - What an os_sync function covered survives a power cut when it returned 0. What it did not cover may survive or
 *    not, sector by sector, in any order. A failed sync leaves it open which of it survives, now and for ever.
 *  - Locks end with the process that holds them, however it ends, and are never inherited by its children.
 */
#ifndef KM_OS_H
#define KM_OS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

/* ---- files ------------------------------------------------------------------------------------------------------- */

struct os_file;

struct os_file_info {
    uint64_t device, inode; /* together the identity of the file */
    uint64_t size;
    uint64_t allocated; /* bytes that it takes on disk */
    uint64_t links;     /* names that it has; 0: it was removed */
    uint32_t permissions;
};

/** Whether the path names an object backed by the paging file. */
bool os_path_is_object(const char *path);

/**
 * Open an existing regular file. KM_ENOTFOUND, KM_EACCESS, KM_EDIRECTORY, KM_ENOTMAP (no regular file), KM_ESYSTEM.
 * For an object also KM_EACCESS if its name is taken by something that was not put there by its rightful owner in the
 * usual way (a symbolic link, a second name, another user's entry among one's own), and KM_EUNSUPPORTED where the
 * system has no such objects; the detail says which and where.
 */
int os_file_open(struct os_file **file, const char *path, bool writable);

/**
 * Create a file, open for writing, in the directory of `path`, that nobody can find until os_file_publish(), and that
 * vanishes if it is closed or the process dies before. `permissions` as given, whatever the umask. On btrfs it is
 * NOCOW.
 */
int os_file_create(struct os_file **file, const char *path, uint32_t permissions);

/**
 * Give a created file its name, and make the name durable. KM_EEXISTS if `path` exists and `replace` is false; with
 * `replace` the old file loses its name in the same instant. On KM_EIO the name may be there, but is not durable. An
 * object is never replaced (KM_EUNSUPPORTED).
 */
int os_file_publish(struct os_file *file, const char *path, bool replace);

/** Make it durable that `path` names the file: for a file whose publisher may have died before its directory was
 *  synced. */
int os_file_sync_name(struct os_file *file, const char *path);

/** Take the name `path` away from the file; 0 also if it names another file, or none. KM_EACCESS. */
int os_file_remove(struct os_file *file, const char *path);

void os_file_close(struct os_file *file); /* NULL allowed */

int os_file_info(struct os_file *file, struct os_file_info *info);

/** False if the program closed the file's descriptor; its number may mean anything by now, also the same file. For who
 *  has looked at the file (os_file_info): this is one cheap call more, for each commit. */
bool os_file_is_ours(const struct os_file *file);

/** 1 if `path` names this very file, 0 if it names another or none, or an error. */
int os_file_is_at(struct os_file *file, const char *path);

/**
 * KM_EFILESYSTEM unless the file system is known to share mappings coherently (and, where that decides, the file was
 * opened for writing). The detail names the file system and the way round it.
 */
int os_file_check_coherent(struct os_file *file);

/** Read exactly `length` bytes; KM_ETRUNCATED if the file ends before. */
int os_file_read(struct os_file *file, uint64_t offset, void *bytes, size_t length);

/** Write all of it, extending the file if need be. KM_ENOSPACE leaves some prefix written. */
int os_file_write(struct os_file *file, uint64_t offset, const void *bytes, size_t length);

/** Write all of it and return when exactly that (and what is needed to find it again) is durable. KM_ENOSPACE and
 *  KM_ENOMEM only if the bytes were refused: a sync that failed, for whatever reason, is KM_EIO here. */
int os_file_write_durable(struct os_file *file, uint64_t offset, const void *bytes, size_t length);

/** Make all that was written to the file durable, its size included. */
int os_file_sync(struct os_file *file);

int os_file_resize(struct os_file *file, uint64_t size);

/** Reserve disk space for a range, extending the file if need be; existing bytes stay. KM_ENOSPACE. */
int os_file_allocate(struct os_file *file, uint64_t offset, uint64_t length);

/** Make a range read as zeros, as a hole where the file system has holes. Within the file's size. */
int os_file_zero(struct os_file *file, uint64_t offset, uint64_t length);

/**
 * The first run of bytes at or after `offset` and before `end` that may hold something else than a hole. `*start` ==
 * `*stop` == `end` if there is none. A file system without holes gives the whole range. KM_ESTALE if the descriptor is
 * not the file's any more: looking would move the offset of somebody else's.
 */
int os_file_next_data(struct os_file *file, uint64_t offset, uint64_t end, uint64_t *start, uint64_t *stop);

/**
 * Whether reading a hole through a mapping takes disk space, so that a full disk is a fault there (tmpfs): what is
 * going to be mapped must be allocated first.
 */
bool os_file_holes_take_space(struct os_file *file);

/** Whether nothing of the file survives the machine (an object): all syncs of it are nothing, and succeed. */
bool os_file_is_volatile(const struct os_file *file);

/**
 * Let a range of `to` share the blocks of a range of `from`, as a copy that takes neither space nor time. Both files
 * were written through this interface or synced before. KM_EUNSUPPORTED where the file system cannot, or cannot with
 * these ranges; a part may have been done: the caller copies the bytes. KM_ENOSPACE, KM_EIO.
 */
int os_file_clone_range(struct os_file *from, uint64_t from_offset, struct os_file *to, uint64_t to_offset,
                        uint64_t length);

/**
 * Give a range blocks of its own where another file shares them, so that a store to it through a mapping needs no space
 * and cannot meet a full disk. Its bytes stay, but may be written again: nobody may be storing to it. Nothing is done
 * where the file system does not share blocks, or does not tell. KM_ENOSPACE, KM_EIO, KM_ENOMEM.
 */
int os_file_unshare(struct os_file *file, uint64_t offset, uint64_t length);

/**
 * From now on a fault in a mapping of this file (regions and views mapped after this call), because the file was cut
 * short or the disk cannot deliver, does not end the process: from the page that faulted to the end of that mapping
 * there are private zeros instead, and os_file_faulted() tells. Faults elsewhere go to the handler that was there
 * before. KM_ENOMEM if the process guards too many mappings already; mapping may then fail with it too.
 */
int os_file_guard(struct os_file *file);
bool os_file_faulted(const struct os_file *file);

/**
 * Call `each` with the target (`Local\NAME`, `Global\NAME`) of every entry where objects of this user, and of all, are
 * kept, whatever it is, in the order of names. The result is no error but stops the walk when not 0. It may remove
 * entries.
 */
typedef int os_objects_function(void *context, const char *target);
int os_objects_list(os_objects_function *each, void *context);

/* ---- shared mappings --------------------------------------------------------------------------------------------- */

/** A shared mapping of a part of a file. Not inherited by fork, not in core dumps. Fill with zeros before first use. */
struct os_region {
    unsigned char *address; /* NULL: not mapped */
    uint64_t length;
    void *system; /* whatever the system needs beside */
    struct os_file *file;
    uint64_t offset;
};

/** `offset` is a multiple of 64 KiB or lies in the first 64 KiB at a multiple of the page size. Must lie in the
 *  file. */
int os_region_map(struct os_region *region, struct os_file *file, uint64_t offset, uint64_t length, bool writable);

/** Make a part of the region durable that was written by os_file_write(); no other part of the file need be. */
int os_region_sync(struct os_region *region, uint64_t offset, uint64_t length);

void os_region_unmap(struct os_region *region);

/* ---- views ------------------------------------------------------------------------------------------------------- */

enum os_view_kind {
    OS_VIEW_PRIVATE,         /* copy-on-write: stores are the handle's own */
    OS_VIEW_SHARED,          /* stores go to the file, and are seen at once by everybody who maps it */
    OS_VIEW_SHARED_READ_ONLY /* the same without permission to store */
};

/** How pages that were stored to are found. */
enum os_tracker {
    OS_TRACKER_NONE = 0,    /* not yet */
    OS_TRACKER_SCAN = 1,    /* the system tells which pages were written since the last question */
    OS_TRACKER_PAGEMAP = 2, /* the system tells which pages are private copies */
    OS_TRACKER_COMPARE = 3  /* the system tells nothing: every page may have been written */
};

/**
 * A mapping of a part of a file whose address never changes: it maps `length` bytes and grows by a tail at the next
 * address. In a private one clean pages show the file, pages that were stored to are the handle's own; only those can
 * be tracked and dropped. Not inherited by fork. `length` and `reserve` are rounded up to pages. Fill with zeros
 * before first use.
 */
struct os_view {
    unsigned char *address;
    enum os_view_kind kind;
    uint64_t length;  /* bytes mapped */
    uint64_t reserve; /* bytes of address space that are kept free for it */
    struct os_file *file;
    uint64_t offset;
    enum os_tracker tracker;
    void *system;
};

/** Map `length` bytes at `offset` (a multiple of 64 KiB) and keep `reserve` bytes of address space. */
int os_view_map(struct os_view *view, struct os_file *file, enum os_view_kind kind, uint64_t offset, uint64_t length,
                uint64_t reserve);

/** Map the tail up to `length`; KM_ESIZE beyond the reserve. Keeps what is tracked. */
int os_view_grow(struct os_view *view, uint64_t length);

/** Forget the private copies in a range of whole pages, so that it shows the file again. KM_EUNSUPPORTED where a system
 *  cannot, or refuses now (locked memory): the caller copies the file's bytes over them. */
int os_view_drop(struct os_view *view, uint64_t offset, uint64_t length);

/**
 * Start tracking stores; all pages count as not stored to, as far as the tracker can tell. `wanted` is the best tracker
 * to try; a system that lacks it takes the next. The tracker in use stands in view->tracker.
 */
int os_view_track(struct os_view *view, enum os_tracker wanted);

/** Called for a run of pages; the result is no error but stops the walk when not 0. */
typedef int os_pages_function(void *context, uint64_t first_page, uint64_t page_count);

/**
 * Call `each` for runs of pages (of 4096 bytes, in order) that may have been stored to since tracking started or the
 * last call. A superset, never less. If the system fails half-way, all pages are reported, at most once more.
 */
int os_view_dirty(struct os_view *view, os_pages_function *each, void *context);

/** Make what was stored through a shared view durable. */
int os_view_sync(struct os_view *view);

/**
 * Have the next sync write a range of a shared view, though nobody stores to it: what stands there does not change. A
 * sync that failed leaves pages that the system takes for written; a later one would pass them over.
 */
void os_view_write_again(struct os_view *view, uint64_t offset, uint64_t length);

void os_view_unmap(struct os_view *view);

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/** Memory of the process's own, zero at first; not inherited by fork, not in core dumps. Made resident in one go where
 *  the system can, so that the first stores to it cost no fault each. NULL, with the detail set, if there is none. */
void *os_memory_take(uint64_t length);

void os_memory_release(void *address, uint64_t length);

/* ---- locks ------------------------------------------------------------------------------------------------------- */

/** The locks that one handle holds on one file. Two os_locks exclude each other, in one process as between two. */
struct os_locks;

enum os_lock_kind { OS_LOCK_READ, OS_LOCK_WRITE };

/** A file that was opened without write permission allows OS_LOCK_READ only. */
int os_locks_open(struct os_locks **locks, struct os_file *file);

/** Lock bytes [first, first + count) now, or KM_EBUSY. Locking again what is held changes its kind. */
int os_lock_try(struct os_locks *locks, uint64_t first, uint64_t count, enum os_lock_kind kind);

void os_lock_release(struct os_locks *locks, uint64_t first, uint64_t count);

/**
 * 1 if another os_locks holds a lock in the range that excludes `kind`, 0 if none does, or an error. `*holder`, if not
 * NULL, becomes the first locked byte of one such lock, not before `first`.
 */
int os_lock_probe(struct os_locks *locks, uint64_t first, uint64_t count, enum os_lock_kind kind, uint64_t *holder);

/**
 * 0 if the locks that were taken are still held. KM_ESTALE if they are not, because the program closed descriptors that
 * are not its own; KM_EFORKED in a child.
 */
int os_locks_check(const struct os_locks *locks);

void os_locks_close(struct os_locks *locks); /* releases all; NULL allowed */

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

/**
 * What a handle sleeps on. A waiter has a random name (never 0), which it leaves in the slot where wakers find it:
 * Windows has one event a waiter, Linux sleeps on the word itself and ignores the names.
 */
struct os_waiter;

int os_waiter_open(struct os_waiter **waiter, uint64_t *name);

/** Sleep until woken, until `*word` differs from `expected`, or `timeout_ns` has passed; may wake for no reason. */
void os_waiter_sleep(struct os_waiter *waiter, const _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);

/** Wake all that sleep on `word`, and tell how many were. `names` are those of the waiters that may be asleep. */
size_t os_waiter_wake(_Atomic uint32_t *word, const uint64_t *names, size_t count);

void os_waiter_close(struct os_waiter *waiter); /* NULL allowed */

/* ---- clocks, processes, chance ----------------------------------------------------------------------------------- */

uint64_t os_time_monotonic_ns(void);
uint64_t os_time_wall_ns(void); /* since 1970 */

int os_random(void *bytes, size_t length);

uint32_t os_process_id(void);

/** When a process started, in a unit of the system's own; 0 if there is none or it is not told. */
uint64_t os_process_start(uint32_t process_id);

/** Name of a process for display; "" if not told. */
void os_process_name(uint32_t process_id, char *name, size_t size);

/** What is the same until the machine is started again, and different after; all zero if the system does not tell. An
 *  error if it does, but could not be asked now. */
int os_boot_id(uint8_t id[16]);

/** Which system this is, as recorded in a session: 1 Linux, 2 Windows, 3 another POSIX. Never 0. */
uint32_t os_system(void);

/** Let the processor rest for a moment inside a spin. */
void os_pause(void);

/** Value of an environment variable, or NULL. */
const char *os_environment(const char *name);

/** Have `prepare` and `parent` called around every fork in the parent, and `child` in the child. Once per process. */
int os_fork_watch(void (*prepare)(void), void (*parent)(void), void (*child)(void));

/** One lock for the whole process, for short lists. */
void os_process_lock(void);
void os_process_unlock(void);

#endif
