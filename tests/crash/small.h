/* SPDX-License-Identifier: MIT
 *
 * A small map on the simulated system, of a few handles, for tests that put single steps in order.
 */
#ifndef KM_TESTS_SMALL_H
#define KM_TESTS_SMALL_H

#include "map/map.h"
#include "support/check.h"
#include "support/os_sim.h"

#define SMALL_PATH "/disk/small.km"
#define SMALL_SIZE 65536u
#define SMALL_RING 65536u

/* A handle of the map at SMALL_PATH, made if `flags` say so. */
km_map *small_open(uint32_t flags);

/* The handle reads `generation`, whose number stands in the first byte. */
void small_expect(km_map *map, uint64_t generation);

/* One handle's process dies: the kernel drops its locks, and the others go on. The handle is abandoned. */
void small_die(km_map *map);

/* The newest frame of a handle that has walked or written it is lost from the page cache and from the disk. */
void small_lose_newest_frame(const km_map *map);

/* A byte of what the handle shows. */
int small_byte(km_map *map, size_t offset);

/* A bit of home is flipped, in the page cache and on the disk. */
void small_rot(const km_map *map, uint64_t offset);

struct km_info small_info(km_map *map);

/* What km_verify() reports. */
struct km_report small_verify(km_map *map);

/* Commits until a small frame fits before the end of the ring, and one of 20000 bytes does not; all of it is home.
 * Returns the generation. */
uint64_t small_come_near_the_end(km_map *map);

#endif
