/* SPDX-License-Identifier: MIT
 *
 * What sweeps of maps have in common: maps whose every page is made from one number, so that a state which no commit
 * left shows; and what must hold after a fault, be the map closed to commits by it or not.
 */
#ifndef KM_TESTS_SWEEP_MAP_H
#define KM_TESTS_SWEEP_MAP_H

#include "sweep.h"

#define VERSION_OLD 1 /* what a map is at before the run */
#define VERSION_NEW 2 /* what the run makes of it */

/** Options of the maps here: their journal is the smallest, and waiting ends soon. */
struct km_options sweep_options(const struct scenario *scenario, uint64_t size, uint32_t flags);

/** Open the sweep's map with the scenario's flags; for use in run(). */
int sweep_open(struct sweep *sweep, km_map **map, uint32_t flags);

/** Store a version to each page of the first SWEEP_SIZE bytes; to all of their bytes, so that the frame is large. */
void sweep_fill(km_map *map, int version);
void sweep_fill_all(km_map *map, int version);

/** Begin, store and commit. */
int sweep_commit(struct sweep *sweep, km_map *map, int version);

/** The version that the handle shows; -1: a mixture, or an error. */
int sweep_version(km_map *map);

/** The map as a file: closed in good order; or left by users that were killed, its newest commit not brought home. */
void sweep_store_closed(struct sweep *sweep);
void sweep_store_killed(struct sweep *sweep);

/** sweep_store_closed(), and both handles are open. */
void sweep_prepare_open(struct sweep *sweep);

/** The same, and the session has made its first commit, so that the map is not clean any more. */
void sweep_prepare_used(struct sweep *sweep);

/** settle() of what changes the version from old to new by handles that go on. */
void sweep_settle(struct sweep *sweep);

/** With all closed: the map is at one of two versions, good, and can be used. */
void sweep_settle_file(struct sweep *sweep, int version, int or_version);

/** Nobody can commit, in this process or another; closing says so; what is read is one of two versions. */
void sweep_settle_failed(struct sweep *sweep);

void sweep_close(struct sweep *sweep, int expected);

#endif
