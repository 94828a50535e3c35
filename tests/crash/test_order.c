/* SPDX-License-Identifier: MIT
 *
 * The order of single steps, on the simulated system (support/os_sim.h): who dies, or fails, between two of them leaves
 * nothing that the next one would take for more than it is.
 */
#include "format/header.h"
#include "map/map.h"
#include "support/check.h"
#include "support/os_sim.h"
#include "support/scratch.h"

#define PATH "/disk/order.km"
#define SIZE 65536u
#define RING 65536u
#define STATES 256

static km_map *open_map(uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = RING, .flags = flags, .timeout_ms = 5};
    must(km_open(&map, PATH, &options));
    return map;
}

/* The reader sees `generation`, whose number stands in the first byte. */
static void expect_generation(km_map *map, uint64_t generation) {
    must(km_begin(map, KM_READ));
    assert_int_equal(km_generation(map), generation);
    assert_int_equal(*(const unsigned char *)km_data(map), generation);
    must(km_abort(map));
}

/* ---- whole pages ------------------------------------------------------------------------------------------------- */

/* A lazy committer dies after its frame is appended, before it says that it is visible; a checkpoint chooses that frame
 * as its target, and cannot sync it, because somebody else's sync takes long, and then fails. */
static void a_target_that_is_not_durable_is_shown_to_nobody(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *lazy = open_map(KM_CREATE | KM_FULL_PAGES | KM_LAZY);
    km_map *syncer = open_map(0), *checkpointer = open_map(0), *reader = open_map(0);
    km_map *outsider = open_map(KM_READONLY);
    check_commit_fill(syncer, 0, 1, 100);
    expect_generation(reader, 1);
    check_commit_fill(lazy, 0, 2, 100);
    struct km__control *control = lazy->control;
    atomic_store(&control->visible, 1);
    must(km__lock_try(syncer, KM__SYNC, OS_LOCK_WRITE));
    must_fail(km_checkpoint(checkpointer), KM_EBUSY);
    assert_int_equal(control->target, 2);
    assert_int_equal(control->durable, 1);
    assert_int_equal(control->visible, 1);
    expect_generation(reader, 1);
    expect_generation(outsider, 1);

    km__unlock(syncer, KM__SYNC);
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    must_fail(km_sync(syncer), KM_EIO);
    for (int i = 0; i < 2; i++) {
        expect_generation(reader, 1);
        expect_generation(outsider, 1);
    }
    os_sim_cut();
    os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
    km_map *map = open_map(0);
    expect_generation(map, 1);
    check_clean(map);
    must(km_close(map));
}

/* ---- the journal ------------------------------------------------------------------------------------------------- */

/* J4: the handle that syncs wrote some of the frames itself, and they are not where its newest one is. */
static void a_sync_makes_every_commit_before_it_durable(void **state) {
    (void)state;
    for (int durable = 0; durable < 3; durable++) {
        os_sim_reset(1);
        km_map *map = open_map(KM_CREATE | KM_LAZY);
        for (int i = 1; i <= 4; i++) {
            check_commit_fill(map, 0, i, 4000);
            if (i <= durable)
                must(km_sync(map));
        }
        must(km_sync(map));
        os_sim_cut();
        os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
        map = open_map(0);
        expect_generation(map, 4);
        must(km_close(map));
    }
}

/* ---- both header slots ------------------------------------------------------------------------------------------- */

struct saved {
    struct os_sim_state *states[STATES];
    size_t count;
};

static void save_state(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)operation;
    (void)step;
    struct saved *saved = context;
    if (saved->count < STATES)
        saved->states[saved->count++] = os_sim_save();
}

/* Seven commits that are not home, and then what the machine holds at each step of a checkpoint. */
static void run_checkpoint(struct saved *saved) {
    os_sim_reset(1);
    km_map *map = open_map(KM_CREATE);
    for (int i = 1; i <= 7; i++)
        check_commit_fill(map, 0, i, 4000);
    os_sim_watch(save_state, saved);
    must(km_checkpoint(map));
    os_sim_watch(NULL, NULL);
    assert_in_range(saved->count, 8, STATES - 1);
}

static void load_slots(struct km__header slots[2], int *chosen) {
    int results[2];
    assert_true(os_sim_read(PATH, KM__SLOT_A, &slots[0], sizeof slots[0]));
    assert_true(os_sim_read(PATH, KM__SLOT_B, &slots[1], sizeof slots[1]));
    assert_int_equal(km__header_choose(slots, chosen, results, NULL, 0), 0);
    assert_int_equal(results[0] | results[1], 0);
}

/* What is published as home stands in both slots, so that the journal is used again only for what neither needs. */
static void expect_both_slots(const km_map *map) {
    struct km__header slots[2];
    int chosen;
    load_slots(slots, &chosen);
    assert_true(slots[0].generation >= map->control->checkpointed);
    assert_true(slots[1].generation >= map->control->checkpointed);
}

static void rot_newest_slot(void) {
    struct km__header slots[2];
    int chosen;
    load_slots(slots, &chosen);
    const unsigned char byte = 77;
    assert_true(os_sim_damage(PATH, (uint64_t)chosen * KM__SLOT_SIZE + 300, &byte, 1));
}

static void either_slot_is_enough_wherever_a_checkpointer_died(void **state) {
    (void)state;
    struct saved saved = {.count = 0};
    run_checkpoint(&saved);
    for (size_t i = 0; i < saved.count; i++) {
        os_sim_kill(saved.states[i]);
        km_map *map = open_map(0);
        expect_both_slots(map);
        expect_generation(map, 7);
        for (int commit = 8; commit <= 20; commit++) { /* the ring comes round, or nearly so */
            check_commit_fill(map, 0, commit, 8000);
            expect_both_slots(map);
        }
        os_sim_kill(NULL);
        rot_newest_slot();
        map = open_map(0);
        expect_generation(map, 20);
        must(km_close(map));
        os_sim_state_free(saved.states[i]);
    }
}

/* A checkpointer wrote the older slot and died before its sync; another one goes on, and then the power is cut. */
static void two_slots_are_never_torn_at_once(void **state) {
    (void)state;
    enum { SEEDS = 50 };
    struct saved saved = {.count = 0};
    os_sim_reset(1);
    km_map *map = open_map(KM_CREATE);
    for (int i = 1; i <= 3; i++)
        check_commit_fill(map, 0, i, 4000);
    struct km__slots slots;
    must(km__slots_load(map, &slots));
    struct km__header begun = slots.slot[slots.chosen];
    begun.sequence++;
    begun.target = 3;
    km__header_seal(&begun);
    must(os_file_write(map->file, slots.chosen == 0 ? KM__SLOT_B : KM__SLOT_A, &begun, sizeof begun));
    os_sim_watch(save_state, &saved);
    must(km_checkpoint(map));
    os_sim_watch(NULL, NULL);
    for (size_t i = 0; i < saved.count; i++) {
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            os_sim_reboot(saved.states[i], OS_SIM_SECTORS, seed);
            map = open_map(0);
            expect_generation(map, 3);
            must(km_close(map));
        }
        os_sim_state_free(saved.states[i]);
    }
}

/* ---- errors after the commit is made ----------------------------------------------------------------------------- */

/* Somebody died in a sync, so the commit's own sync writes the suspected frames again, and the disk is full then. */
static void a_commit_that_is_made_gives_no_error_that_says_try_again(void **state) {
    (void)state;
    static const int codes[] = {KM_ENOSPACE, KM_ENOMEM};
    for (int i = 0; i < 2; i++) {
        os_sim_reset(1);
        km_map *map = open_map(KM_CREATE), *other = open_map(0);
        check_commit_fill(map, 0, 1, 100);
        atomic_fetch_add(&map->control->sync_began, 1);
        must(km_begin(map, KM_WRITE));
        memset(km_data(map), 2, 100);
        os_sim_fail(OS_SIM_WRITE, 2, 1, codes[i]); /* the frame is appended; it cannot be written again */
        must_fail(km_commit(map), KM_EIO);
        assert_int_equal(os_sim_failures(), 1);
        must_fail(km_commit(map), KM_EMISUSE); /* it is over */
        must(km_sync(map));
        expect_generation(other, 2);
        expect_generation(map, 2);
        check_commit_fill(map, 0, 3, 100);
        expect_generation(other, 3);
        must(km_close(other));
        must(km_close(map));
    }
}

/* ---- verify beside checkpoints ----------------------------------------------------------------------------------- */

#define CHUNK (8u << 20)

struct verifier {
    km_map *map;
    uint64_t rested, last_ns;
    bool wanted;
};

/* Between two chunks. */
static int want_checkpoint(void *context, uint64_t done, uint64_t total, const struct km_finding *finding) {
    (void)done;
    (void)total;
    (void)finding;
    struct verifier *verifier = context;
    const uint64_t now = os_time_monotonic_ns();
    verifier->rested += now - verifier->last_ns >= 3000000; /* time moves when somebody sleeps */
    verifier->last_ns = now;
    if (verifier->wanted)
        atomic_store(&verifier->map->control->checkpoint_wanted, 1);
    return 0;
}

/* A checkpoint that waits for CHECKPOINT gets it between two chunks, because the verification rests before it asks
 * again. */
static void a_verification_rests_between_chunks_if_a_checkpoint_waits(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .size = 4 * CHUNK, .flags = KM_CREATE};
    must(km_open(&map, PATH, &options));
    for (int i = 0; i < 4; i++)
        check_commit_fill(map, (uint64_t)i * CHUNK, 1, 1); /* a hole would be no chunk */
    must(km_checkpoint(map));
    for (int wanted = 0; wanted < 2; wanted++) {
        struct verifier verifier = {.map = map, .wanted = wanted, .last_ns = os_time_monotonic_ns()};
        struct km_report report = {.struct_size = sizeof report};
        must(km_verify(map, &report, want_checkpoint, &verifier));
        assert_int_equal(verifier.rested, wanted ? 3 : 0); /* before the first one nobody had asked */
    }
    must(km_close(map));
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_target_that_is_not_durable_is_shown_to_nobody),
        cmocka_unit_test(a_sync_makes_every_commit_before_it_durable),
        cmocka_unit_test(either_slot_is_enough_wherever_a_checkpointer_died),
        cmocka_unit_test(two_slots_are_never_torn_at_once),
        cmocka_unit_test(a_commit_that_is_made_gives_no_error_that_says_try_again),
        cmocka_unit_test(a_verification_rests_between_chunks_if_a_checkpoint_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
