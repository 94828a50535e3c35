/* SPDX-License-Identifier: MIT
 *
 * A seeded script of operations on the simulated system, on four handles of one map: commits (durable, lazy, declared,
 * larger than the journal, of nothing), aborted transactions, stores outside of transactions, checkpoints, syncs,
 * growth, snapshots that are kept, copies, reopenings, and the death of one process beside the others. It keeps an
 * array for each generation, written before the commit that makes it, and knows which of them may be found after a
 * power cut.
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
#define SCRIPT_SOURCE "/disk/source.bin"
#define SCRIPT_CAPACITY 160000u
#define SCRIPT_HISTORY 128u
#define SCRIPT_COPIES 2u
#define SCRIPT_POINTS 128u

struct generation {
    unsigned char *bytes;
    uint64_t size;
};

/* What may be found after a power cut: a generation from `low` to `high`; nothing at all, if the map was being
 * created. */
struct bounds {
    uint64_t low, high;
    bool may_be_missing;
    unsigned copies_begun, copies_done; /* a copy that is done must be found; one that was begun may be */
};

/* The state of the machine before a step. */
struct point {
    struct os_sim_state *state;
    struct bounds bounds;
    uint64_t acknowledged; /* the newest commit that returned, durable or not */
    uint64_t number, step;
    enum os_sim_operation operation;
    bool after_sync; /* the step before it was a sync */
};

enum { DURABLE, LAZY, READER, ONLOOKER, HANDLES }; /* the last one has no write permission */

struct script {
    struct chance chance;
    uint64_t seed;
    uint32_t creation_flags, checksum;
    uint64_t first_size, max_size, journal_size;
    bool from_file; /* the map is made from SCRIPT_SOURCE */
    struct generation history[SCRIPT_HISTORY];
    uint64_t newest; /* generation */
    struct bounds bounds;
    uint64_t copied[SCRIPT_COPIES]; /* generations */
    km_map *maps[HANDLES];
    uint32_t flags[HANDLES];
    bool has_written[HANDLES];
    bool reading[HANDLES];
    uint64_t read_generation[HANDLES];
    struct point points[SCRIPT_POINTS];
    size_t point_count;
    uint64_t first_point, points_met; /* those from `first_point` on are saved, as many as there is room for */
    bool synced;
    uint64_t dies_in; /* steps until the process of the handle at work dies; 0: it does not */
    jmp_buf dead;
    unsigned operation;
    bool may_fail; /* a sync was made to fail: KM_EIO is a right answer */
    bool failed;   /* and has been given */
};

/** End the test with what is wrong, the library's last error and the seed. */
__attribute__((noreturn, format(printf, 2, 3))) void script_broken(struct script *script, const char *format, ...);

/** An empty machine and a script of this seed, not yet run. */
void script_prepare(struct script *script, uint64_t seed);

/** Run until the end, or until an operation has met a failed sync. */
void script_run(struct script *script);

/** End the read transaction of a handle, if it has one, and check that its snapshot has stayed the same. */
void script_end_reading(struct script *script, int which);

/** Free all points and arrays. */
void script_forget(struct script *script);

/** Path of a copy; the text lives until the next call. */
const char *script_copy_path(unsigned copy);

/**
 * Run the script of a seed, and call `visit` for each point of it, in order: before each write, sync and other step.
 * The script is run again for each SCRIPT_POINTS of them, so that memory is bounded.
 */
typedef void script_visitor(struct script *script, const struct point *point);
void script_for_each_point(struct script *script, uint64_t seed, script_visitor *visit);

#endif
