/* SPDX-License-Identifier: MIT
 *
 * Recoveries that are cut on a disk which leaves noise where it was writing, and recoveries beside a header slot that
 * rots: rules O12 and O13 of open.c. The map and its states are those of stage.h.
 */
#include "stage.h"

#define RING (8 * STAGE_RING)
#define NEWEST 6
#define SEEDS 16

/* From each state that a recovery of `crash` leaves when it is cut at a step, the newest commit comes back. With
 * `rebooted` the machine was started anew before that recovery, otherwise the processes were killed. */
static void cut_recovery_at_each_step(struct os_sim_state *crash, bool rebooted) {
    unsigned cuts = 0;
    for (uint64_t n = 1;; n++) {
        if (rebooted)
            os_sim_reboot(crash, OS_SIM_NOTHING, 1);
        else
            os_sim_kill(crash);
        os_sim_cut_at_step(n);
        km_map *map = NULL;
        const struct km_options options = {.struct_size = sizeof options, .timeout_ms = 5};
        (void)km_open(&map, STAGE_PATH, &options);
        const bool cut = os_sim_is_cut();
        struct os_sim_state *again = os_sim_save();
        for (uint64_t seed = 0; cut && seed < SEEDS; seed++) {
            os_sim_reboot(again, OS_SIM_GARBLED, seed);
            stage_reopen(NEWEST);
        }
        os_sim_state_free(again);
        (void)km_close(map);
        if (!cut)
            break;
        cuts++;
    }
    assert_in_range(cuts, 3, 1000);
}

/* Six durable commits of whole pages, none of them home; all processes are gone. */
static struct os_sim_state *six_commits(void) {
    stage_pair(KM_FULL_PAGES, RING, NEWEST);
    return os_sim_save();
}

static void a_recovery_that_is_cut_garbles_no_commit_that_was_on_the_disk(void **state) {
    (void)state;
    struct os_sim_state *crash = six_commits();
    cut_recovery_at_each_step(crash, true);
    os_sim_state_free(crash);
}

static void a_recovery_of_the_same_start_of_the_machine_garbles_no_durable_commit(void **state) {
    (void)state;
    struct os_sim_state *crash = six_commits();
    cut_recovery_at_each_step(crash, false);
    os_sim_state_free(crash);
}

static void nor_does_one_after_a_recovery_that_died(void **state) {
    (void)state;
    struct stage_saved saved = {.count = 0};
    struct os_sim_state *crash = six_commits();
    os_sim_reboot(crash, OS_SIM_NOTHING, 1);
    os_sim_watch(stage_save, &saved);
    stage_open(0, 0);
    os_sim_watch(NULL, NULL);
    assert_in_range(saved.count, 3, STAGE_STATES);
    for (size_t i = 0; i < saved.count; i++)
        cut_recovery_at_each_step(saved.states[i], false);
    stage_forget(&saved);
    os_sim_state_free(crash);
}

/* The power left noise in one slot; the other is all there is. */
static void a_recovery_beside_a_noisy_slot_does_not_risk_the_other(void **state) {
    (void)state;
    for (int slot = 0; slot < 2; slot++) {
        struct os_sim_state *whole = six_commits();
        os_sim_reboot(whole, OS_SIM_NOTHING, 1);
        stage_rot_slot(slot);
        struct os_sim_state *crash = os_sim_save();
        cut_recovery_at_each_step(crash, true);
        os_sim_state_free(crash);
        os_sim_state_free(whole);
    }
}

/* What was lazy is not on the disk, so it is written anew, and durable once the recovery is done. */
static void what_is_not_known_to_be_on_the_disk_is_written_again(void **state) {
    (void)state;
    stage_pair(KM_FULL_PAGES | KM_LAZY, RING, NEWEST);
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    km_map *map = stage_open(KM_LAZY, 0);
    assert_int_equal(km_sync(map), KM_EIO); /* the page cache has the bytes, and calls them clean */
    os_sim_kill(NULL);
    stage_open(0, 0);
    os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
    stage_reopen(NEWEST);
}

/* The table's sectors hold checksums of pages that the checkpoint does not touch. */
static void a_checkpoint_that_is_cut_garbles_no_checksum_for_good(void **state) {
    (void)state;
    struct stage_saved saved = {.count = 0};
    struct stage_pair pair = stage_pair(KM_FULL_PAGES, 4 * STAGE_RING, 7);
    os_sim_watch(stage_save, &saved);
    must(km_checkpoint(pair.checkpointer));
    os_sim_watch(NULL, NULL);
    assert_true(saved.count > 5);
    for (size_t step = 0; step < saved.count; step++) {
        for (uint64_t seed = 1; seed <= 40; seed++) {
            os_sim_reboot(saved.states[step], OS_SIM_GARBLED, seed);
            stage_reopen(7);
        }
    }
    stage_forget(&saved);
}

static void verify_and_close(uint32_t flags) {
    km_map *map = stage_open(flags, 0);
    stage_expect(map, NEWEST);
    struct km_report report = {.struct_size = sizeof report};
    must(km_verify(map, &report, NULL, NULL));
    assert_int_equal(report.pages_damaged, 0);
    assert_int_equal(report.frames_damaged, 0);
    assert_int_equal(report.digest_matches, 1);
    km_close(map);
}

/* Whichever slot rots after a checkpointer died at any step: no good page is called damaged, neither before nor after
 * the recovery. */
static void a_rotten_slot_beside_a_mixed_home_accuses_no_good_page(void **state) {
    (void)state;
    unsigned deaths = 0;
    for (uint64_t n = 1;; n++) {
        struct stage_pair pair = stage_pair(0, RING, NEWEST);
        if (!stage_dies_in(km_checkpoint, pair.checkpointer, n))
            break;
        deaths++;
        os_sim_kill(NULL);
        struct os_sim_state *dead = os_sim_save();
        for (int slot = 0; slot < 2; slot++) {
            os_sim_kill(dead);
            stage_rot_slot(slot);
            verify_and_close(KM_READONLY);
            km_map *recovered = stage_open(0, 0); /* and dies without having brought anything home */
            stage_expect(recovered, NEWEST);
            os_sim_kill(NULL);
            verify_and_close(KM_READONLY);
            verify_and_close(0);
            stage_reopen(NEWEST); /* closed by the one before: home is whole */
        }
        os_sim_state_free(dead);
    }
    assert_in_range(deaths, 3, 1000);
}

/* The power leaves noise in the table while a checkpoint is under way, and the slot that says so rots. */
static void a_noisy_table_is_mended_though_the_slot_rots_that_told_of_it(void **state) {
    (void)state;
    struct stage_saved saved = {.count = 0};
    struct stage_pair pair = stage_pair(KM_FULL_PAGES, RING, NEWEST);
    os_sim_watch(stage_save, &saved);
    must(km_checkpoint(pair.checkpointer));
    os_sim_watch(NULL, NULL);
    unsigned rotten = 0;
    for (size_t i = 0; i < saved.count; i++) {
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            struct km__header slots[2];
            os_sim_reboot(saved.states[i], OS_SIM_GARBLED, seed);
            assert_true(os_sim_read(STAGE_PATH, 0, slots, sizeof slots));
            if (km__header_check(&slots[0], NULL, 0) == 0 && km__header_check(&slots[1], NULL, 0) == 0) {
                stage_rot_newest_slot();
                rotten++;
            }
            stage_reopen(NEWEST);
        }
    }
    assert_in_range(rotten, 3 * SEEDS, SEEDS * saved.count);
    stage_forget(&saved);
}

/* The power leaves noise in the table, also beyond the end of the data, and then the data grows to there. */
static void pages_that_growth_adds_after_a_noisy_cut_are_good(void **state) {
    (void)state;
    struct stage_saved saved = {.count = 0};
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = STAGE_SIZE,
                                       .max_size = 2 * STAGE_SIZE,
                                       .journal_size = RING,
                                       .flags = KM_CREATE | KM_FULL_PAGES};
    stage_reset();
    must(km_open(&map, STAGE_PATH, &options));
    for (uint64_t g = 1; g <= NEWEST; g++)
        stage_commit(map, g);
    os_sim_watch(stage_save, &saved);
    must(km_checkpoint(map));
    os_sim_watch(NULL, NULL);
    stage_empty = NEWEST + 1;
    for (size_t i = 0; i < saved.count; i++) {
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            os_sim_reboot(saved.states[i], OS_SIM_GARBLED, seed);
            map = stage_open(0, 0);
            must(km_grow(map, STAGE_SIZE + 9000));
            stage_expect(map, NEWEST + 1);
            check_clean(map);
            check_commit_fill(map, STAGE_SIZE + 5000, 7, 100);
            check_clean(map);
            must(km_close(map));
        }
    }
    stage_forget(&saved);
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_recovery_that_is_cut_garbles_no_commit_that_was_on_the_disk),
        cmocka_unit_test(a_recovery_of_the_same_start_of_the_machine_garbles_no_durable_commit),
        cmocka_unit_test(nor_does_one_after_a_recovery_that_died),
        cmocka_unit_test(a_recovery_beside_a_noisy_slot_does_not_risk_the_other),
        cmocka_unit_test(what_is_not_known_to_be_on_the_disk_is_written_again),
        cmocka_unit_test(a_noisy_table_is_mended_though_the_slot_rots_that_told_of_it),
        cmocka_unit_test(pages_that_growth_adds_after_a_noisy_cut_are_good),
        cmocka_unit_test(a_checkpoint_that_is_cut_garbles_no_checksum_for_good),
        cmocka_unit_test(a_rotten_slot_beside_a_mixed_home_accuses_no_good_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
