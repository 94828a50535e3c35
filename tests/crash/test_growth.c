/* SPDX-License-Identifier: MIT
 *
 * Growth of the journal and of the data, step by step: where the grower dies, where the power goes, what others do
 * meanwhile.
 */
#include "stage.h"

#define LARGE 4u /* the commit that needs a longer ring */
#define GROWN (3 * STAGE_SIZE)

static struct stage_saved saved;

/* Two commits at home and one in the journal; the next is larger than the ring. */
static struct stage_pair before_the_large_commit(void) {
    struct stage_pair pair = stage_pair(0, STAGE_RING, 2);
    must(km_checkpoint(pair.checkpointer));
    stage_commit(pair.other, 3);
    stage_large = LARGE;
    return pair;
}

/* From now on no checkpoint goes further than to where home is. */
static void hold_home(struct stage_pair *pair) {
    km__pin(pair->checkpointer, 2);
}

static int commit_large(km_map *map) {
    stage_commit(map, LARGE);
    return 0;
}

/* Each saved state, with everybody dead and one slot damaged, or with the power gone. */
static void expect_from_each_state(uint64_t low, uint64_t high) {
    for (size_t i = 0; i < saved.count; i++) {
        for (int slot = 0; slot < 2; slot++) {
            os_sim_kill(saved.states[i]);
            stage_rot_slot(slot);
            stage_reopen_between(low, high);
        }
    }
    stage_cut_at_each(&saved, low, high);
}

/* All is done, everybody is dead, and one slot is damaged. */
static void expect_either_slot_to_do(struct os_sim_state *done, uint64_t generation) {
    for (int slot = 0; slot < 2; slot++) {
        os_sim_kill(done);
        stage_rot_slot(slot);
        stage_reopen(generation);
    }
    os_sim_state_free(done);
}

/* ---- the journal ------------------------------------------------------------------------------------------------- */

static void a_session_goes_on_wherever_a_grower_of_the_journal_died(void **state) {
    (void)state;
    uint64_t n = 1;
    for (;; n++) {
        struct stage_pair pair = before_the_large_commit();
        km_map *idle = stage_open(0, 0), *reader = stage_open(KM_READONLY, 0);
        if (!stage_dies_in(commit_large, pair.other, n))
            break;
        must(km_begin(idle, KM_WRITE)); /* adopts the frame if it is whole */
        uint64_t generation = km_generation(idle);
        must(km_abort(idle));
        stage_expect_between(idle, generation, generation);
        assert_in_range(generation, LARGE - 1, LARGE);
        while (generation < LARGE + 3)
            stage_commit(idle, ++generation);
        stage_expect(reader, generation);
        must(km_checkpoint(pair.checkpointer));
        stage_expect(pair.checkpointer, generation);
        stage_commit(pair.checkpointer, ++generation);
        stage_expect(idle, generation);
        stage_expect(reader, generation);
        os_sim_cut();
        os_sim_reboot(NULL, OS_SIM_NOTHING, n);
        stage_reopen(generation);
    }
    assert_true(n > 8);
}

static void a_longer_ring_stands_in_both_slots_before_a_frame_needs_it(void **state) {
    (void)state;
    struct stage_pair pair = before_the_large_commit();
    hold_home(&pair);
    os_sim_watch(stage_save, &saved);
    stage_commit(pair.other, LARGE);
    os_sim_watch(NULL, NULL);
    struct os_sim_state *done = os_sim_save();
    expect_from_each_state(LARGE - 1, LARGE);
    expect_either_slot_to_do(done, LARGE);
}

static km_map *reading, *outside;

static void read_both(void) {
    stage_expect_between(reading, LARGE - 1, LARGE);
    stage_expect_between(outside, LARGE - 1, LARGE);
}

static void who_reads_while_the_ring_grows_sees_a_commit(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct stage_pair pair = before_the_large_commit();
        hold_home(&pair);
        reading = stage_open(0, 0);
        outside = stage_open(KM_READONLY, 0);
        stage_beside(n, read_both);
        stage_commit(pair.other, LARGE);
        if (!stage_happened())
            break;
        stage_expect(reading, LARGE);
        stage_expect(outside, LARGE);
    }
}

/* Its checkpointer has not looked since the ring was short. */
static void a_checkpoint_keeps_the_longer_ring(void **state) {
    (void)state;
    struct stage_pair pair = before_the_large_commit();
    hold_home(&pair);
    stage_commit(pair.other, LARGE);
    const uint64_t longer = stage_header().journal_size;
    assert_true(longer > STAGE_RING);
    km__pin(pair.checkpointer, KM__NO_PIN);
    must(km_checkpoint(pair.checkpointer));
    assert_int_equal(stage_header().generation, LARGE);
    assert_int_equal(stage_header().journal_size, longer);
    stage_commit(pair.other, LARGE + 1);
    os_sim_kill(NULL);
    stage_reopen(LARGE + 1);
}

/* A map with a longer ring, closed, so that the next to open shortens it. */
static void leave_a_longer_ring(void) {
    struct stage_pair pair = before_the_large_commit();
    stage_commit(pair.other, LARGE);
    must(km_close(pair.other));
    must(km_close(pair.checkpointer));
    assert_true(stage_header().journal_size > STAGE_RING);
}

static void a_ring_is_shortened_wherever_its_first_handle_died(void **state) {
    (void)state;
    leave_a_longer_ring();
    os_sim_watch(stage_save, &saved);
    km_map *map = stage_open(0, 0);
    os_sim_watch(NULL, NULL);
    assert_int_equal(stage_header().journal_size, STAGE_RING);
    stage_expect(map, LARGE);
    struct os_sim_state *done = os_sim_save();
    expect_either_slot_to_do(done, LARGE);
    expect_from_each_state(LARGE, LARGE);
}

static void attach_outside(void) {
    const struct km_options options = {.struct_size = sizeof options, .flags = KM_READONLY, .timeout_ms = 5};
    const int result = km_open(&outside, STAGE_PATH, &options);
    assert_true(result == 0 || result == KM_EBUSY);
}

static void a_ring_is_not_shortened_under_a_reader(void **state) {
    (void)state;
    uint64_t n = 0;
    for (;; n++) {
        leave_a_longer_ring();
        outside = NULL;
        if (n == 0)
            attach_outside();
        else
            stage_beside(n, attach_outside);
        km_map *map = stage_open(0, 0);
        if (n > 0 && !stage_happened())
            break;
        if (outside != NULL) {
            assert_true(os_sim_size(STAGE_PATH) >= outside->journal_region.offset + outside->journal_region.length);
            stage_expect(outside, LARGE);
            stage_commit(map, LARGE + 1);
            stage_expect(outside, LARGE + 1);
        }
        must(km_close(outside));
        must(km_close(map));
    }
    assert_true(n > 4);
}

static void a_ring_in_use_is_not_shortened(void **state) {
    (void)state;
    struct stage_pair pair = before_the_large_commit();
    hold_home(&pair);
    stage_commit(pair.other, LARGE);
    os_sim_kill(NULL);
    assert_int_equal(stage_header().generation, 2);
    stage_reopen(LARGE);
}

/* ---- the data ---------------------------------------------------------------------------------------------------- */

static km_map *open_growing(uint64_t max_size) {
    stage_reset();
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = STAGE_SIZE,
                                       .max_size = max_size,
                                       .journal_size = STAGE_RING,
                                       .flags = KM_CREATE,
                                       .timeout_ms = 5};
    must(km_open(&map, STAGE_PATH, &options));
    stage_commit(map, 1);
    stage_empty = 2; /* the growth */
    return map;
}

/* What a growth that died left where the data shall be. */
static void what_lies_in_the_way_does_not_come_back(void **state) {
    (void)state;
    km_map *map = open_growing(GROWN);
    const unsigned char junk[600] = {1, 2, 3, 4};
    assert_true(os_sim_damage(STAGE_PATH, map->header.data_offset + STAGE_SIZE + 5000, junk, sizeof junk));
    os_sim_watch(stage_save, &saved);
    must(km_grow(map, GROWN));
    os_sim_watch(NULL, NULL);
    struct os_sim_state *done = os_sim_save();
    stage_cut_at_each(&saved, 1, 2);
    os_sim_reboot(done, OS_SIM_NOTHING, 1);
    map = stage_open(0, 0);
    assert_int_equal(km_size(map), GROWN);
    must(km_begin(map, KM_READ));
    for (uint64_t at = STAGE_SIZE; at < GROWN; at++)
        assert_int_equal(((const unsigned char *)km_data(map))[at], 0);
    must(km_abort(map));
    check_clean(map);
    os_sim_state_free(done);
}

static void growth_beyond_leaves_a_whole_map_wherever_it_ends(void **state) {
    (void)state;
    km_map *map = open_growing(0);
    must(km_checkpoint(map));
    os_sim_watch(stage_save, &saved);
    must(km_grow(map, GROWN));
    os_sim_watch(NULL, NULL);
    struct os_sim_state *done = os_sim_save();
    expect_either_slot_to_do(done, 2);
    expect_from_each_state(1, 2);
}

static km_map *newcomer;

static void come_and_go(void) {
    const struct km_options options = {.struct_size = sizeof options, .timeout_ms = 5};
    const int result = km_open(&newcomer, STAGE_PATH, &options);
    assert_true(result == 0 || result == KM_EBUSY);
    must(km_close(newcomer));
}

/* Nobody maps regions that are about to move; a ring that is moving takes no frames. */
static void nobody_attaches_while_regions_move(void **state) {
    (void)state;
    unsigned kept_out = 0;
    for (uint64_t n = 1;; n++) {
        km_map *map = open_growing(0);
        const uint64_t old_table = map->header.table_offset;
        newcomer = NULL;
        stage_beside(n, come_and_go);
        must(km_grow(map, GROWN));
        if (!stage_happened())
            break;
        kept_out += newcomer == NULL;
        assert_true(map->header.table_offset != old_table);
        must(km_close(map));
        stage_reopen(2);
    }
    assert_true(kept_out > 10); /* all the time but for the commit of the new size */
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_goes_on_wherever_a_grower_of_the_journal_died),
        cmocka_unit_test(a_longer_ring_stands_in_both_slots_before_a_frame_needs_it),
        cmocka_unit_test(who_reads_while_the_ring_grows_sees_a_commit),
        cmocka_unit_test(a_checkpoint_keeps_the_longer_ring),
        cmocka_unit_test(a_ring_is_shortened_wherever_its_first_handle_died),
        cmocka_unit_test(a_ring_is_not_shortened_under_a_reader),
        cmocka_unit_test(a_ring_in_use_is_not_shortened),
        cmocka_unit_test(what_lies_in_the_way_does_not_come_back),
        cmocka_unit_test(growth_beyond_leaves_a_whole_map_wherever_it_ends),
        cmocka_unit_test(nobody_attaches_while_regions_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
