/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises of commits, syncs, checkpoints and growth when a call of the system fails: see sweep.h.
 */
#include "map/map.h"
#include "scratch.h"
#include "sweep_map.h"

/* ---- commits ----------------------------------------------------------------------------------------------------- */

static int commit_new(struct sweep *sweep) {
    return sweep_commit(sweep, sweep->map, VERSION_NEW);
}

/* Without the best tracker a lesser one serves; and who finds no SYNC lock for the short way goes the long one. */
static bool by_other_means(const struct sweep *sweep) {
    const enum fault_call call = sweep->fault->call;
    return sweep->result == 0 && ((call == FAULT_MALLOC && sweep->fault->occurrence == 1) || call == FAULT_LOCK_PROBE ||
                                  (call == FAULT_LOCK && sweep->fault->occurrence + 1 == fault_count(call)));
}

/* A checkpoint that is due follows the commit, and its failure is not the commit's. */
static bool by_no_checkpoint(const struct sweep *sweep) {
    return sweep->result == 0;
}

#define COMMIT .run = commit_new, .settle = sweep_settle

static void a_commit_is_whole_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"first commit", .prepare = sweep_prepare_open, COMMIT, .excuses = by_other_means},
        {"first commit, pagemap", .tracker = "pagemap", .prepare = sweep_prepare_open, COMMIT,
         .excuses = by_other_means},
        {"commit, scan", .prepare = sweep_prepare_used, COMMIT, .excuses = by_other_means},
        {"commit, pagemap", .tracker = "pagemap", .prepare = sweep_prepare_used, COMMIT, .excuses = by_other_means},
        {"commit, compare", .tracker = "compare", .prepare = sweep_prepare_used, COMMIT, .excuses = by_other_means},
        {"commit, lazy", .flags = KM_LAZY, .prepare = sweep_prepare_used, COMMIT, .excuses = by_other_means},
        {"commit, declared", .flags = KM_DECLARED, .prepare = sweep_prepare_used, COMMIT, .excuses = by_other_means},
        {"commit, whole pages", .flags = KM_FULL_PAGES, .prepare = sweep_prepare_used, COMMIT,
         .excuses = by_no_checkpoint},
        {"commit, compressed", .flags = KM_COMPRESS, .prepare = sweep_prepare_used, COMMIT, .excuses = by_other_means},
        {"commit, checked", .flags = KM_CHECK, .prepare = sweep_prepare_open, COMMIT, .excuses = by_other_means},
    };
    SWEEP(scenarios);
}

/* ---- waking, and two failures in a row --------------------------------------------------------------------------- */

/* The other handle seems to be waiting. */
static void prepare_waiting(struct sweep *sweep) {
    sweep_prepare_used(sweep);
    atomic_fetch_or(&sweep->map->control->waiting[0], UINT64_C(1) << sweep->other->slot);
}

/* The long way for SYNC, and no look whether a waiter that nobody woke is dead. */
static bool by_waking_less(const struct sweep *sweep) {
    return sweep->result == 0 && sweep->fault->call == FAULT_LOCK && sweep->fault->occurrence > 1;
}

static void a_commit_wakes_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"commit that wakes", .prepare = prepare_waiting, COMMIT, .excuses = by_waking_less},
    };
    SWEEP(scenarios);
}

static void a_commit_is_whole_though_its_cleaning_up_fails_too(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"commit, two in a row", .repeat = 2, .prepare = sweep_prepare_open, COMMIT, .excuses = by_other_means},
        {"commit, three in a row", .repeat = 3, .prepare = sweep_prepare_used, COMMIT, .excuses = by_other_means},
        {"lazy commit, two in a row", .repeat = 2, .flags = KM_LAZY, .prepare = sweep_prepare_used, COMMIT,
         .excuses = by_other_means},
    };
    SWEEP(scenarios);
}

/* ---- what makes commits durable, and brings them home ------------------------------------------------------------ */

static void prepare_lazy(struct sweep *sweep) {
    sweep_prepare_used(sweep);
    must(sweep_commit(sweep, sweep->map, VERSION_NEW));
}

static void prepare_durable(struct sweep *sweep) {
    prepare_lazy(sweep);
    sweep->before = VERSION_NEW;
}

static int sync_map(struct sweep *sweep) {
    (void)sweep_step(sweep, km_sync(sweep->map));
    return sweep->result;
}

static int checkpoint_map(struct sweep *sweep) {
    (void)sweep_step(sweep, km_checkpoint(sweep->map));
    return sweep->result;
}

static bool by_looking_less(const struct sweep *sweep) {
    return sweep->result == 0 && sweep->fault->call == FAULT_LOCK_PROBE;
}

static void a_sync_or_a_checkpoint_tells_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"sync", .flags = KM_LAZY, .prepare = prepare_lazy, .run = sync_map, .settle = sweep_settle},
        {"checkpoint", .prepare = prepare_durable, .run = checkpoint_map, .settle = sweep_settle,
         .excuses = by_looking_less},
        {"checkpoint of lazy commits", .flags = KM_LAZY, .prepare = prepare_lazy, .run = checkpoint_map,
         .settle = sweep_settle, .excuses = by_looking_less},
        {"checkpoint, whole pages", .flags = KM_FULL_PAGES, .prepare = prepare_durable, .run = checkpoint_map,
         .settle = sweep_settle, .excuses = by_looking_less},
        {"checkpoint, compressed", .flags = KM_COMPRESS, .prepare = prepare_durable, .run = checkpoint_map,
         .settle = sweep_settle, .excuses = by_looking_less},
    };
    SWEEP(scenarios);
}

/* ---- aborts ------------------------------------------------------------------------------------------------------ */

static int abort_map(struct sweep *sweep) {
    if (sweep_step(sweep, km_begin(sweep->map, KM_WRITE)))
        return sweep->result;
    sweep_fill_all(sweep->map, VERSION_NEW + 7);
    (void)sweep_step(sweep, km_abort(sweep->map));
    return sweep->result;
}

/* An abort forgets all that it cannot take back page by page. */
static bool by_starting_anew(const struct sweep *sweep) {
    return sweep->result == 0;
}

static void an_abort_takes_all_back_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"abort", .prepare = prepare_durable, .run = abort_map, .settle = sweep_settle, .excuses = by_starting_anew},
        {"abort, pagemap", .tracker = "pagemap", .prepare = prepare_durable, .run = abort_map, .settle = sweep_settle,
         .excuses = by_starting_anew},
    };
    SWEEP(scenarios);
}

/* ---- growth ------------------------------------------------------------------------------------------------------ */

static int grow_in_place(struct sweep *sweep) {
    (void)sweep_step(sweep, km_grow(sweep->map, SWEEP_SIZE + 5 * KM_PAGE_SIZE));
    return sweep->result;
}

static int grow_beyond(struct sweep *sweep) {
    (void)sweep_step(sweep, km_grow(sweep->map, 3 * SWEEP_SIZE));
    return sweep->result;
}

static int commit_large(struct sweep *sweep) {
    if (sweep_step(sweep, km_begin(sweep->map, KM_WRITE)))
        return sweep->result;
    sweep_fill_all(sweep->map, VERSION_NEW);
    (void)sweep_step(sweep, km_commit(sweep->map));
    return sweep->result;
}

static void prepare_alone(struct sweep *sweep) {
    prepare_durable(sweep);
    must(km_close(sweep->other));
    sweep->other = NULL;
}

/* Where the kind of the file system is not told, space is taken as if it were needed. */
static bool by_taking_space(const struct sweep *sweep) {
    if (sweep->fault->call == FAULT_FSTATFS)
        return sweep->result == 0 && fault_count(FAULT_FALLOCATE) > 0;
    return by_other_means(sweep);
}

static void growth_is_whole_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"growth of the journal", .prepare = sweep_prepare_used, .run = commit_large, .settle = sweep_settle,
         .excuses = by_no_checkpoint},
        {"growth", .prepare = prepare_durable, .run = grow_in_place, .settle = sweep_settle,
         .excuses = by_taking_space},
        {"growth beyond max_size", .prepare = prepare_alone, .run = grow_beyond, .settle = sweep_settle,
         .excuses = by_taking_space},
    };
    SWEEP(scenarios);
}

int main(void) {
    scratch_time_limit(600);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_commit_is_whole_whichever_call_fails),
        cmocka_unit_test(a_commit_wakes_whichever_call_fails),
        cmocka_unit_test(a_commit_is_whole_though_its_cleaning_up_fails_too),
        cmocka_unit_test(a_sync_or_a_checkpoint_tells_whichever_call_fails),
        cmocka_unit_test(an_abort_takes_all_back_whichever_call_fails),
        cmocka_unit_test(growth_is_whole_whichever_call_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
