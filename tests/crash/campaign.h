/* SPDX-License-Identifier: MIT
 *
 * Running many seeded scripts on all cores, and counting what was tried. The simulated system is one machine in a
 * process, so that each core has a worker process of its own, which takes one seed after the other.
 *
 *     KEEPMAP_SEED=S                     that seed alone, in the test's own process, where a debugger works
 *     KEEPMAP_IMAGES=N                   at least N images, from a seed that the clock gives
 *     KEEPMAP_SEED=S KEEPMAP_IMAGES=N    the same scripts again, in order, from seed S on
 */
#ifndef KM_TESTS_CAMPAIGN_H
#define KM_TESTS_CAMPAIGN_H

#include <stdbool.h>
#include <stdint.h>

#include "support/os_sim.h"

/* What is counted: X(name, words). An image is what a disk holds after a power cut, opened and judged. */
#define CAMPAIGN_COUNTS(X)                                                                                             \
    X(SCRIPTS, "scripts with a transactional map")                                                                     \
    X(SCRIPTS_LIVE, "scripts with a live map")                                                                         \
    X(SCRIPTS_DEATHS, "scripts whose processes die")                                                                   \
    X(SCRIPTS_FAILURES, "scripts with one failing sync each")                                                          \
    X(POINTS_WRITE, "points of cuts: before a write")                                                                  \
    X(POINTS_SYNC, "points of cuts: before a sync")                                                                    \
    X(POINTS_OTHER, "points of cuts: before another step")                                                             \
    X(IMAGES_CUTS, "images of transactional maps")                                                                     \
    X(IMAGES_LIVE, "images of live maps")                                                                              \
    X(IMAGES_DEATHS, "images after deaths without a power cut")                                                        \
    X(IMAGES_FAILURES, "images after failed syncs")                                                                    \
    X(POLICY_NOTHING, "of these: nothing that was not synced")                                                         \
    X(POLICY_EVERYTHING, "of these: everything that was written")                                                      \
    X(POLICY_PREFIX, "of these: all up to some write")                                                                 \
    X(POLICY_WRITES, "of these: some whole writes")                                                                    \
    X(POLICY_SECTORS, "of these: some sectors")                                                                        \
    X(POLICY_TORN, "of these: all, but one write torn")                                                                \
    X(POLICY_GARBLED, "of these: some sectors, some of them noise")                                                    \
    X(MISSING, "images without a map yet")                                                                             \
    X(TORN_SLOTS, "images with a torn header slot")                                                                    \
    X(NOISY_SLOTS, "images with a header slot of noise")                                                               \
    X(ROTTEN_SLOTS, "images with two good header slots: one rots")                                                     \
    X(CUT_ONCE, "recoveries cut once more")                                                                            \
    X(CUT_TWICE, "recoveries cut twice more")                                                                          \
    X(LOOKED_AT, "images read before their recovery")                                                                  \
    X(COMMITS_ON_TOP, "commits on a recovery, cut again")                                                              \
    X(COPIES_WHOLE, "copies found whole")                                                                              \
    X(COPIES_MISSING, "copies cut off, without a name")                                                                \
    X(LONE_DEATHS, "deaths of one process beside others, in scripts")                                                  \
    X(LIVE_SEALED, "live maps found sealed")                                                                           \
    X(LIVE_UNSEALED, "live maps found not sealed")                                                                     \
    X(DEATHS, "deaths without a power cut")                                                                            \
    X(DEATHS_LIVE, "deaths beside a live map")                                                                         \
    X(FAILED_SYNCS, "failed syncs")

#define CAMPAIGN_ENUM(name, words) COUNT_##name,
enum campaign_count { CAMPAIGN_COUNTS(CAMPAIGN_ENUM) COUNT_END };
#undef CAMPAIGN_ENUM

/** One script: it ends the process by campaign_broken() if something is wrong. */
typedef void campaign_script(uint64_t seed);

/** Must be called first. */
void campaign_start(void);

/** Whether there is one seed to run. */
bool campaign_is_single(void);

/** The images that are asked for, in all. */
uint64_t campaign_images(void);

/**
 * Run scripts until `images`, a count, is at `percent` of the images asked for; or the one seed alone. The test fails
 * with a script that does, and if a worker dies.
 */
void campaign_run(campaign_script *script, enum campaign_count images, unsigned percent);

void campaign_add(enum campaign_count which, uint64_t number);
uint64_t campaign_total(enum campaign_count which);

/** What it is that is counted. */
const char *campaign_words(enum campaign_count which);

/** One image of that policy was judged. */
void campaign_image(enum campaign_count images, enum os_sim_policy policy);

/** Count the image if it has a header slot that is none: torn, or noise. Before the map is opened. True if both are
 *  good. */
bool campaign_count_slots(const char *path, enum os_sim_policy policy);

/** Say what is wrong, the library's last error and the seed; end the worker, or the test. Also the reason not to use
 *  cmocka's assertions in a script: in a worker they would go on with the next test. */
__attribute__((noreturn, format(printf, 3, 4))) void campaign_broken(uint64_t seed, uint64_t where, const char *format,
                                                                     ...);

/** Print the table of all that was counted. */
void campaign_report(void);

#endif
