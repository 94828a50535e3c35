/* SPDX-License-Identifier: MIT
 *
 * What a map holds in the concurrency tests: data in which any commit that is lost, torn, doubled or seen half shows.
 *
 *  - The head counts commits; every commit adds one, so the count equals the generation.
 *  - Accounts, spread over many pages: each commit moves money between some of them, and their sum stays the same.
 *  - Each writer has a sequence number and an area of pages. Its n-th commit rewrites a random choice of them, whole,
 *    with a pattern made from n; its record carries a sum over the numbers that its pages are at.
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

struct bank_promise {
    _Atomic uint64_t attempted;
    _Atomic uint64_t acknowledged;
    _Atomic uint64_t seen;
};

struct bank_ledger {
    struct bank_promise writers[BANK_WRITERS];
    _Atomic uint64_t generation_seen;
    _Atomic uint64_t commits, aborts, snapshots, verifications, opens;
};

/** Map a ledger file (made and zeroed with `create`), shared with other processes. NULL if it cannot be. */
struct bank_ledger *bank_ledger_map(const char *path, bool create);
void bank_ledger_unmap(struct bank_ledger *ledger);

/** Create the map `path` and commit the first state. Returns 0 or the library's error. */
int bank_create(const char *path, uint64_t journal_size, uint32_t flags);

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

#endif
