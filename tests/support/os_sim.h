/* SPDX-License-Identifier: MIT
 *
 * The simulated system: a third one beside POSIX and Windows that keeps the contract of src/os/os.h, chosen by the
 * linker. It is one machine inside one process, with a disk that can lose power.
 *
 * What it keeps apart:
 *  - The page cache of a file is a memory file of the real kernel, so that regions and views are real mappings with
 *    real copy-on-write.
 *  - The disk is kept in sectors of 512 bytes. Everything that was written since a sector was last synced is
 *    remembered, version by version, and after a power cut each sector may hold any of them. The size of a file and its
 *    name are kept the same way. Stores through a writable region or a shared view are noticed when something is
 *    synced, and when the power is cut.
 *  - A sync that was made to fail marks what it covered: the page cache keeps the bytes, the disk may hold them or not,
 *    and later syncs report success without writing them, until they are written again. That is what Linux does.
 *  - An object backed by the paging file (`Local\NAME`, `Global\NAME`) is page cache alone: a power cut takes it away,
 *    name and all, and os_sim_kill() leaves it. Syncs of it succeed, and are no steps.
 *
 * A *step* is a call that changes a file or syncs it: a write, a resize, an allocation, a clearing, a clone, a
 * publication, a removal, a sync. os_file_write_durable() is two steps, a write and a sync; os_file_publish() is two,
 * the name and the sync of it. A *sync* is a step that makes something durable. A *point* is the moment before a step
 * takes effect; the power can be cut there.
 *
 * Once the power is cut every step fails with KM_EIO, so that the code under test unwinds by itself; or the test gets
 * control by os_sim_on_cut(), and may longjmp away. Then os_sim_reboot() makes a machine from what the disk may hold.
 * Handles from before it are dead: their steps fail, what they store goes nowhere; close them before or after, or
 * abandon them.
 *
 *     os_sim_reset(seed);
 *     os_sim_cut_at_step(17);
 *     script();                                        the 17th step, and all after it, fail
 *     struct os_sim_state *crash = os_sim_save();
 *     for (int i = 0; i < 100; i++) {
 *         os_sim_reboot(crash, OS_SIM_SECTORS, seed + i);
 *         recover_and_judge();                         may be cut again, and saved again
 *     }
 *     os_sim_state_free(crash);
 *
 * Or, for many points in one run, os_sim_watch() calls the test at every point, which saves the state there, and the
 * run goes on.
 *
 * Time is simulated: a clock that moves a little at each look, and by the whole timeout when a waiter sleeps; nobody is
 * ever asleep to be woken. The boot id changes with os_sim_reboot(). The guard of mappings is the real one, so that a
 * simulated file which is cut short under a guarded mapping is met as on Linux. Random numbers come from the seed. One
 * thread that runs a script is repeatable to the byte. Several threads are safe. Processes are not simulated, but
 * os_sim_kill() takes all handles' locks away and leaves the page cache, as if their process had been killed.
 */
#ifndef KM_TESTS_OS_SIM_H
#define KM_TESTS_OS_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OS_SIM_SECTOR 512u

/** A machine without files. Everything armed is disarmed, all handles are dead, the clock and the counts start anew. */
void os_sim_reset(uint64_t seed);

/* ---- points ------------------------------------------------------------------------------------------------------ */

enum os_sim_operation {
    OS_SIM_OPEN,
    OS_SIM_CREATE,
    OS_SIM_PUBLISH, /* a step */
    OS_SIM_REMOVE,  /* a step */
    OS_SIM_INFO,    /* os_file_info, _is_at, _check_coherent, _next_data, os_objects_list */
    OS_SIM_READ,
    OS_SIM_WRITE,    /* a step; a failing one leaves a prefix written; os_file_clone_range is one too */
    OS_SIM_SYNC,     /* a step */
    OS_SIM_RESIZE,   /* a step */
    OS_SIM_ALLOCATE, /* a step */
    OS_SIM_ZERO,     /* a step */
    OS_SIM_MAP,      /* os_region_map, os_view_map, os_view_grow */
    OS_SIM_LOCK,     /* os_locks_open, os_lock_try, os_lock_probe */
    OS_SIM_OPERATION_COUNT
};

/** Steps and syncs since the last reset or reboot. */
uint64_t os_sim_steps(void);
uint64_t os_sim_syncs(void);

/** Cut the power at the `n`-th step, or sync, from now on (1: the next one), before it takes effect. 0: never. */
void os_sim_cut_at_step(uint64_t n);
void os_sim_cut_at_sync(uint64_t n);

/** Cut the power now. */
void os_sim_cut(void);

bool os_sim_is_cut(void);

/** Called once, when the power has been cut, in the thread that met it; may longjmp. NULL: no more. */
void os_sim_on_cut(void (*function)(void *context), void *context);

/**
 * Called at every point, before the step takes effect; may call os_sim_save(). Once it has called os_sim_watch() to end
 * the watch, it may also let other handles do something, or longjmp away, as if the process had died. NULL: no more.
 */
typedef void os_sim_watcher(void *context, enum os_sim_operation operation, uint64_t step);
void os_sim_watch(os_sim_watcher *watcher, void *context);

/**
 * Let the `n`-th call of a kind from now on (1: the next one) fail with `code`, as KM_EIO or KM_ENOSPACE; `count` calls
 * in a row, UINT64_MAX: for ever. 0 for `n`: none. Each kind has its own. A LOCK may be made to fail with KM_EBUSY.
 */
void os_sim_fail(enum os_sim_operation operation, uint64_t n, uint64_t count, int code);

/** The calls that were made to fail since the last reset or reboot. */
uint64_t os_sim_failures(void);

/** Whether files can share blocks (os_file_clone_range); after a reset they cannot. */
void os_sim_set_clone(bool clones);

/* ---- crash images ------------------------------------------------------------------------------------------------ */

enum os_sim_policy {
    OS_SIM_NOTHING,    /* nothing that was not synced */
    OS_SIM_EVERYTHING, /* all that was written */
    OS_SIM_PREFIX,     /* all up to some moment, in order; of the write at that moment some sectors */
    OS_SIM_WRITES,     /* some writes and not others, each whole */
    OS_SIM_SECTORS,    /* for each sector any version since its last sync */
    OS_SIM_TORN,       /* all that was written; but of one write, in each page some sectors and not others */
    OS_SIM_GARBLED,    /* as OS_SIM_SECTORS, and some sectors whose write was under way, be it of the same bytes, are
                        * noise: no power-safe overwrite. In half of the images sectors have 4096 bytes for that */
    OS_SIM_POLICY_COUNT
};

const char *os_sim_policy_name(enum os_sim_policy policy);

/** What the machine holds at one moment: disk, page cache, names. */
struct os_sim_state;

/** A copy of the present state; of the state at the cut if the power is cut. Never NULL: ends the test without
 *  memory. */
struct os_sim_state *os_sim_save(void);
void os_sim_state_free(struct os_sim_state *state);

/** Sectors, sizes and names that a power cut leaves open. 0: every image of the state is the same, but for
 *  OS_SIM_GARBLED. */
uint64_t os_sim_state_pending(const struct os_sim_state *state);

/** Those of them that are sectors of a range of a file. */
uint64_t os_sim_state_pending_in(const struct os_sim_state *state, const char *path, uint64_t offset, uint64_t length);

/**
 * The power is back: the machine has what `policy` and `seed` keep of `state` (NULL: of the present one), all of it
 * durable, and no handles. What was armed is disarmed, the counts start anew. `state` can be used again.
 */
void os_sim_reboot(const struct os_sim_state *state, enum os_sim_policy policy, uint64_t seed);

/**
 * The processes were killed, but the machine goes on: the machine has `state` (NULL: the present one), page cache,
 * unsynced bytes and failed syncs included, and no handles or locks. Otherwise as os_sim_reboot().
 */
void os_sim_kill(const struct os_sim_state *state);

/**
 * The kernel lets go of clean pages: what a failed sync left in the page cache, and nothing wrote since, shows what the
 * disk holds, which `seed` decides, sector by sector.
 */
void os_sim_evict(uint64_t seed);

/* ---- files by name ----------------------------------------------------------------------------------------------- */

bool os_sim_exists(const char *path);

/** Size as the page cache shows it; 0 if there is no such file. */
uint64_t os_sim_size(const char *path);

/** Remove a name, durably. Open handles keep the file. */
void os_sim_remove(const char *path);

/** Read through the page cache; false if the file has not as much. */
bool os_sim_read(const char *path, uint64_t offset, void *bytes, size_t length);

/** Change a file behind everyone's back, in the page cache and on the disk: rot, or a hostile hand. */
bool os_sim_damage(const char *path, uint64_t offset, const void *bytes, size_t length);

/** A new durable file with this content; replaces what has the name. */
void os_sim_put(const char *path, const void *bytes, size_t length);

#endif
