/* SPDX-License-Identifier: MIT
 *
 * Power cuts and deaths beside live maps, on the simulated system. A seeded script of stores, transactions, seals,
 * growth, deaths and reopenings runs once; the machine is saved before each of its steps. What is opened from the
 * images of these states must hold:
 *
 *  - no page is ever called damaged, and a map that calls itself sealed holds exactly what its checksums are about;
 *  - while a handle that may write is open, no image calls itself sealed, and the next writer is told;
 *  - every sector shows a version that is no older than the last finished km_sync() or last close;
 *  - if the machine goes on and only the processes die, every store and the generation are there, and only the death
 *    inside a transaction is told.
 *
 * The data is made of sectors of the disk, each of which begins with the number of its version.
 */
#ifndef KM_TESTS_LIVE_SCRIPT_H
#define KM_TESTS_LIVE_SCRIPT_H

#include <stdint.h>

/** Run the script of a seed; the power goes at every point. For campaign_run(). */
void live_script_cut_everywhere(uint64_t seed);

/** The same; all processes die at every point, and the machine goes on. */
void live_script_die_everywhere(uint64_t seed);

#endif
