/* SPDX-License-Identifier: MIT
 *
 * What a map holds in the concurrency tests: data in which any commit that is lost, torn, doubled or seen half shows.
 *
 *  - The head counts commits; every commit adds one, so the count equals the generation.
 *  - Accounts, spread over many pages: each commit moves money between some of them, and their sum stays the same.
 *  - Each writer has a sequence number and an area of pages. Its n-th commit rewrites a random choice of them, whole,
 *    with a pattern made from n; its record carries a sum over the numbers that its pages are at.
 *  - The map may grow, by one step at a time. A step is a commit of the library's own, so the commits counted and the
 *    steps together are the generation. New pages are zeros until a commit fills one; the head has a sum over them.
 *
 * Beside the map stands a ledger in shared memory, which outlives a killed process: what each writer attempted, what
 * was acknowledged to it, and the newest that anybody has seen. A writer's number in the map may never be below what
 * was acknowledged or seen before the snapshot began, nor above what was attempted.
 */
#ifndef KM_TESTS_BANK_H
#define KM_TESTS_BANK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chance.h"
#include "keepmap.h"

#define BANK_WRITERS 8u
#define BANK_ACCOUNT_PAGES 16u
#define BANK_AREA_PAGES 20u
#define BANK_PAGES (1u + BANK_WRITERS + BANK_ACCOUNT_PAGES + BANK_WRITERS * BANK_AREA_PAGES)
#define BANK_SIZE ((uint64_t)BANK_PAGES * KM_PAGE_SIZE)
#define BANK_STEP_PAGES 5u
#define BANK_STEPS 12u /* at the most */
#define BANK_MAX_SIZE (BANK_SIZE + (uint64_t)BANK_STEPS * BANK_STEP_PAGES * KM_PAGE_SIZE)

struct bank_promise {
    _Atomic uint64_t attempted;
    _Atomic uint64_t acknowledged;
    _Atomic uint64_t seen;
};

struct bank_ledger {
    struct bank_promise writers[BANK_WRITERS];
    _Atomic uint64_t generation_seen;
    _Atomic uint64_t commits, aborts, snapshots, verifications, opens, copies, waits, steps;
    _Atomic uint32_t attached[BANK_WRITERS]; /* for the test's use: 1 while a worker has the map open */
};

/** Map a ledger file (made and zeroed with `create`), shared with other processes. NULL if it cannot be. */
struct bank_ledger *bank_ledger_map(const char *path, bool create);
void bank_ledger_unmap(struct bank_ledger *ledger);

/** The map is gone, as it had to be, and with it all that was promised. The counts stay. */
void bank_ledger_forget(struct bank_ledger *ledger);

/** Create the map `path` and commit the first state. Returns 0 or the library's error. */
int bank_create(const char *path, uint64_t journal_size, uint32_t flags);

/** The same with all of the library's options but the size, and with a handle that stays open (NULL after an error). */
int bank_create_open(km_map **map, const char *target, const struct km_options *options);

/** What one worker works with. Functions below return 0, or 1 with a sentence in `why`. */
struct bank_worker {
    km_map *map;
    struct bank_ledger *ledger;
    struct chance chance;
    uint32_t writer; /* its number, if it writes */
    bool declares;   /* its handle has KM_DECLARED */
    char why[512];
};

/** Begin writing, check all, store, and commit (seldom abort). */
int bank_commit(struct bank_worker *worker);

/** Begin reading, check all, look again after `dwell_us` whether the snapshot has stayed the same, and end. */
int bank_look(struct bank_worker *worker, unsigned dwell_us);

/** Run km_verify() and expect nothing to be found. */
int bank_verify(struct bank_worker *worker);

/** Grow the map by a step if that was not done often enough. For maps with a max_size of BANK_MAX_SIZE. */
int bank_grow(struct bank_worker *worker);

/** Wait for a commit that the handle does not show yet; that none comes in time is no error. */
int bank_wait(struct bank_worker *worker, uint32_t timeout_ms);

/** Copy the map to `path`, check the copy and remove it. What was left there by a copier that died, whole or not at
 *  all, is checked first. */
int bank_copy(struct bank_worker *worker, const char *path);

#endif
