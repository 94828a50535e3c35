/* SPDX-License-Identifier: MIT
 *
 * A seeded script of operations on the simulated system: commits (durable, lazy, declared, larger than the journal,
 * growing), checkpoints, syncs, reads and reopenings, on three handles of one map. It keeps an array for each
 * generation, written before the commit that makes it, and knows which of them may be found after a power cut.
 */
#ifndef KM_TESTS_SCRIPT_H
#define KM_TESTS_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "support/chance.h"
#include "support/check.h"
#include "support/os_sim.h"

#define SCRIPT_PATH "/disk/power.km"
#define FIRST_SIZE 40000u
#define CAPACITY 120000u
#define OPERATIONS 45
#define HISTORY 128
#define POINTS 4096

struct generation {
    unsigned char *bytes;
    uint64_t size;
};

/* What may be found after a power cut: a generation from `low` to `high`; nothing at all, if the map was being
 * created. */
struct bounds {
    uint64_t low, high;
    bool may_be_missing;
};

struct point {
    struct os_sim_state *state;
    struct bounds bounds;
    uint64_t acknowledged; /* the newest commit that returned, durable or not */
    uint64_t step;
};

enum { DURABLE, LAZY, READER, HANDLES };

struct script {
    struct chance chance;
    uint64_t seed;
    uint32_t creation_flags, checksum;
    struct generation history[HISTORY];
    uint64_t newest; /* generation */
    uint64_t max_size;
    struct bounds bounds;
    km_map *maps[HANDLES];
    uint32_t flags[HANDLES];
    bool reading;
    uint64_t read_generation;
    struct point points[POINTS];
    size_t point_count;
    unsigned operation;
    uint64_t images, missing, nested, by_policy[OS_SIM_POLICY_COUNT];
    bool may_fail; /* a sync was made to fail: KM_EIO is a right answer */
    bool failed;   /* and has been given */
};

/** End the test with what is wrong, the library's last error and the seed. */
__attribute__((noreturn, format(printf, 2, 3))) void script_broken(struct script *script, const char *format, ...);

/** An empty machine and a script of this seed, not yet run. */
void script_prepare(struct script *script, uint64_t seed);

/** Run until the end, or until an operation has met a failed sync. */
void script_run(struct script *script);

/** End the reader's transaction, if there is one, and check that its snapshot has stayed the same. */
void script_end_reading(struct script *script);

/** Free all points and arrays. */
void script_forget(struct script *script);

#endif
