/* SPDX-License-Identifier: MIT
 *
 * A map on the simulated system (support/os_sim.h) whose every generation is known, and what may happen to it at a
 * single step: the power goes, everybody dies, one process dies alone, or another handle does something meanwhile.
 */
#ifndef KM_TESTS_STAGE_H
#define KM_TESTS_STAGE_H

#include <stdbool.h>

#include "format/header.h"
#include "map/map.h"
#include "support/check.h"
#include "support/os_sim.h"
#include "support/scratch.h"

#define STAGE_PATH "/disk/stage.km"
#define STAGE_SIZE 65536u
#define STAGE_RING 65536u
#define STAGE_STATES 200u

/** The commit of this number changes all bytes, more than the ring has room for. 0 (after a reset): none. */
extern uint64_t stage_large;

/** The commit of this number stores nothing, because all that it does is to make the map larger. 0 (after a reset):
 *  none. */
extern uint64_t stage_empty;

/** An empty machine. */
void stage_reset(void);

/** Open the map; `ring` is the size of its journal, if it is created. */
km_map *stage_open(uint32_t flags, uint64_t ring);

/** What the commit of `generation` stores. */
void stage_store(unsigned char *data, uint64_t generation);

/** Commit `generation`, which must be the next one. */
void stage_commit(km_map *map, uint64_t generation);

/** The handle shows a generation within the bounds, and exactly what the commits up to it have stored. Returns it. */
uint64_t stage_expect_between(km_map *map, uint64_t low, uint64_t high);
void stage_expect(km_map *map, uint64_t generation);

/** The same of a handle that is opened for it; no checksum is wrong. */
void stage_reopen_between(uint64_t low, uint64_t high);
void stage_reopen(uint64_t generation);

/** The header slots in the page cache. */
void stage_slots(struct km__header slots[2], int *chosen);
struct km__header stage_header(void);

/** Flip a bit of the file, in the page cache and on the disk. */
void stage_rot(uint64_t offset);
void stage_rot_slot(int slot);
void stage_rot_newest_slot(void);

/** A session of two, whose commits are all in the journal and none is home. */
struct stage_pair {
    km_map *checkpointer, *other;
};
struct stage_pair stage_pair(uint32_t flags, uint64_t ring, uint64_t commits);

/* ---- what may happen at a step ----------------------------------------------------------------------------------- */

/** States of the machine, saved before steps: watchers for os_sim_watch(), whose context this is. Starts as zeros. */
struct stage_saved {
    struct os_sim_state *states[STAGE_STATES];
    size_t count;
};
void stage_save(void *saved, enum os_sim_operation operation, uint64_t step);
void stage_save_sync(void *saved, enum os_sim_operation operation, uint64_t step); /* only before syncs */
void stage_forget(struct stage_saved *saved);

/** The power goes at each of the saved steps: the disk holds what was synced, and of the rest nothing or some sectors.
 *  What is opened then is within the bounds. Forgets the states. */
void stage_cut_at_each(struct stage_saved *saved, uint64_t low, uint64_t high);

/** The handle's process dies before the `n`-th step of a call: its locks are gone, and the machine goes on. False if
 *  the call has fewer steps. */
bool stage_dies_in(int (*call)(km_map *map), km_map *map, uint64_t n);

/** Before the `n`-th step from now on, `happens` is called once, with other handles. */
void stage_beside(uint64_t n, void (*happens)(void));

/** True if it was. */
bool stage_happened(void);

#endif
