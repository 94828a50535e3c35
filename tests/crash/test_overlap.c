/* SPDX-License-Identifier: MIT
 *
 * Handles whose steps overlap, on the simulated system: what one shows while others commit, checkpoint, store and die,
 * and what of the ring may be used again.
 */
#include "small.h"
#include "support/scratch.h"

/* ---- views ------------------------------------------------------------------------------------------------------- */

/* Storing equal bytes makes a page private, and no frame tells of it. */
static void a_view_that_starts_anew_keeps_no_private_page(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE), *other = small_open(0);
    check_commit_fill(map, 8192, 0, 1);
    assert_int_equal(km_generation(map), 0);
    check_commit_fill(other, 8192, 9, 1);
    must(km_checkpoint(other));
    must(km_begin(map, KM_READ));
    assert_int_equal(small_byte(map, 8192), 9);
    must(km_close(map));
    must(km_close(other));
}

/* A lazy committer died before it said that its commit is visible. A writer saw it, and aborted: its next read shows
 * the same commit still, which no power cut may take away then. */
static void what_an_aborted_writer_saw_is_durable_before_it_is_read(void **state) {
    (void)state;
    for (int anew = 0; anew < 2; anew++) {
        os_sim_reset(1);
        km_map *lazy = small_open(KM_CREATE | KM_LAZY), *map = small_open(0);
        check_commit_fill(map, 0, 1, 100);
        check_commit_fill(lazy, 0, 2, 100);
        atomic_store(&map->control->visible, 1);
        must(km_begin(map, KM_WRITE));
        assert_int_equal(km_generation(map), 2);
        must(km_abort(map));
        map->stale = map->stale || anew != 0;
        small_expect(map, 2);
        os_sim_cut();
        os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
        map = small_open(0);
        small_expect(map, 2);
        must(km_close(map));
    }
}

/* With whole pages the target of a checkpoint is chosen before the sync that fails. */
static void after_a_failed_sync_readers_go_back_to_the_durable_commit(void **state) {
    (void)state;
    static const uint32_t kinds[] = {0, KM_FULL_PAGES};
    for (int i = 0; i < 2; i++) {
        os_sim_reset(1);
        km_map *lazy = small_open(KM_CREATE | KM_LAZY | kinds[i]), *reader = small_open(0), *late = small_open(0);
        km_map *outsider = small_open(KM_READONLY), *late_outsider = small_open(KM_READONLY);
        check_commit_fill(reader, 0, 1, 100);
        small_expect(late, 1);
        small_expect(late_outsider, 1);
        check_commit_fill(lazy, 0, 2, 100);
        small_expect(reader, 2);
        small_expect(outsider, 2);
        os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
        must_fail(km_checkpoint(lazy), KM_EIO);
        km_map *const all[] = {lazy, reader, late, outsider, late_outsider};
        for (int repeat = 0; repeat < 2; repeat++) {
            for (size_t which = 0; which < sizeof all / sizeof all[0]; which++)
                small_expect(all[which], 1);
        }
    }
}

/* A reader shows a commit that was visible and not durable. Its writer dies, the frame is lost, and the next session
 * makes another commit of the same number: it does not become home while the reader reads. */
static void a_number_that_came_back_changes_no_snapshot(void **state) {
    (void)state;
    for (int alive = 0; alive < 2; alive++) {
        os_sim_reset(1);
        km_map *lazy = small_open(KM_CREATE | KM_LAZY), *outsider = small_open(KM_READONLY);
        check_commit_fill(lazy, 0, 1, 100);
        must(km_checkpoint(lazy));
        check_commit_fill(lazy, 0, 2, 100);
        if (alive == 0)
            small_die(lazy);
        must(km_begin(outsider, KM_READ));
        assert_int_equal(km_generation(outsider), 2);
        if (alive == 1)
            small_die(lazy);
        small_lose_newest_frame(lazy);
        km_map *map = small_open(0);
        check_commit_fill(map, 8192, 9, 100);
        assert_int_equal(km_generation(map), 2);
        must(km_checkpoint(map));
        assert_int_equal(small_byte(outsider, 0), 2);
        assert_int_equal(small_byte(outsider, 8192), 0);
        must(km_abort(outsider));
        must(km_checkpoint(map));
        must(km_begin(outsider, KM_READ));
        assert_int_equal(small_byte(outsider, 0), 1);
        assert_int_equal(small_byte(outsider, 8192), 9);
        must(km_close(outsider));
        must(km_close(map));
    }
}

static void store_meanwhile(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)step;
    if (operation == OS_SIM_WRITE)
        ((unsigned char *)km_data(context))[200] = 7;
}

/* Another thread stores into a page whose commit is being written. */
static void what_is_stored_while_a_commit_is_written_belongs_to_the_next(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE), *other = small_open(0);
    must(km_begin(map, KM_WRITE));
    ((unsigned char *)km_data(map))[0] = 1;
    os_sim_watch(store_meanwhile, map);
    must(km_commit(map));
    os_sim_watch(NULL, NULL);
    small_expect(other, 1);
    assert_int_equal(small_byte(other, 200), 0);
    check_commit_fill(map, 0, 2, 1);
    small_expect(other, 2);
    assert_int_equal(small_byte(other, 200), 7);
    check_clean(other);
    must(km_close(other));
    must(km_close(map));
}

static void commit_also_at(km_map *map, size_t offset, int value) {
    must(km_begin(map, KM_WRITE));
    ((unsigned char *)km_data(map))[0] = (unsigned char)value;
    ((unsigned char *)km_data(map))[offset + 1] = (unsigned char)value;
    must(km_commit(map));
}

/* A mistake that KM_CHECK would tell of: in a page that another handle then commits to. A page of which the handle has
 * a committed image, and one of which it has none yet. */
static void a_stray_store_is_not_taken_for_committed(void **state) {
    (void)state;
    for (size_t page = 0; page <= 8192; page += 8192) {
        os_sim_reset(1);
        km_map *map = small_open(KM_CREATE), *other = small_open(0);
        check_commit_fill(map, 0, 1, 1);
        ((unsigned char *)km_data(map))[page + 200] = 7;
        commit_also_at(other, page, 2);
        small_expect(map, 2);
        commit_also_at(map, page, 3);
        assert_int_equal(small_byte(map, page + 200), 7);
        small_expect(other, 3);
        assert_int_equal(small_byte(other, page + 200), 7); /* it came with a frame */
        check_clean(other);
        must(km_close(other));
        must(km_close(map));
    }
}

/* Nothing of a begin that found damage is kept: the next one finds it again. */
static void damage_is_told_by_every_begin(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE), *reader = small_open(0);
    check_commit_fill(map, 0, 1, 100);
    must(km_checkpoint(map));
    check_commit_fill(map, 0, 2, 100);
    small_rot(map, 3000);
    for (int i = 0; i < 3; i++)
        must_fail(km_begin(reader, KM_READ), KM_ECORRUPT);
}

/* A page was made private by equal bytes, and home goes on, by a checkpoint that ends or one that dies. */
static void what_home_has_gained_is_no_stray_store(void **state) {
    (void)state;
    for (int dies = 0; dies < 2; dies++) {
        os_sim_reset(1);
        km_map *map = small_open(KM_CREATE | KM_CHECK), *other = small_open(0);
        check_commit_fill(map, 0, 1, 1);
        ((unsigned char *)km_data(map))[8192] = 0;
        check_commit_fill(other, 8192, 9, 1);
        if (dies) {
            os_sim_fail(OS_SIM_WRITE, 3, 1, KM_ENOSPACE); /* of the table, after the page */
            must_fail(km_checkpoint(other), KM_ENOSPACE);
        } else {
            must(km_checkpoint(other));
        }
        must(km_begin(map, KM_READ));
        assert_int_equal(small_byte(map, 8192), 9);
        must(km_close(map));
        must(km_close(other));
    }
}

/* A handle may checkpoint inside its own read. */
static void a_checkpoint_goes_past_no_pin_of_its_own(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE), *other = small_open(0);
    check_commit_fill(map, 0, 1, 100);
    must(km_begin(map, KM_READ));
    check_commit_fill(other, 8192, 2, 100);
    must(km_checkpoint(map));
    assert_int_equal(map->control->checkpointed, 1);
    assert_int_equal(small_byte(map, 8192), 0);
    must(km_close(map));
    must(km_close(other));
}

/* The process goes on, as does its number: a lock says who lives. */
static void a_dead_pin_holds_nothing(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE), *reader = small_open(0);
    check_commit_fill(map, 0, 1, 100);
    must(km_begin(reader, KM_READ));
    small_die(reader);
    check_commit_fill(map, 0, 2, 100);
    must(km_checkpoint(map));
    assert_int_equal(map->control->checkpointed, 2);
    const struct km_info info = small_info(map);
    assert_int_equal(info.handles, 1);
    must(km_close(map));
}

/* The kernel wakes nobody when the holder of a lock dies. */
static void no_wait_for_a_lock_is_one_long_sleep(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE | KM_LAZY), *other = small_open(0);
    check_commit_fill(map, 0, 1, 100);
    const uint64_t begun = os_time_monotonic_ns(); /* simulated: it moves by what is slept */
    must(km__lock_try(other, KM__SYNC, OS_LOCK_WRITE));
    must_fail(km_sync(map), KM_EBUSY);
    km__unlock(other, KM__SYNC);
    must(km_begin(other, KM_WRITE));
    must_fail(km_begin(map, KM_WRITE), KM_EBUSY);
    assert_in_range(os_time_monotonic_ns() - begun, 10000000, 1000000000);
    must(km_close(other));
    must(km_close(map));
}

/* ---- the ring ---------------------------------------------------------------------------------------------------- */

/* A handle has stored its pin just after a checkpointer looked at the pins, and still reads the frames that are
 * home. */
static void frames_that_a_begin_still_reads_are_not_overwritten(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE), *reader = small_open(0);
    for (int i = 1; i <= 7; i++)
        check_commit_fill(map, 0, i, 4000);
    must(km_checkpoint(map));
    assert_int_equal(map->control->checkpointed, 7);
    km__pin(reader, 0);
    int result = 0;
    for (int i = 8; i < 40 && result == 0; i++) {
        must(km_begin(map, KM_WRITE));
        memset(km_data(map), i, 4000);
        result = km_commit(map);
    }
    assert_int_equal(result, KM_EBUSY);
    assert_int_equal(km_generation(reader), 0);
    must(km__refresh_to(reader, 7));
    assert_int_equal(small_byte(reader, 0), 7);
    km__unpin(reader);
    must(km_commit(map));
    small_expect(reader, km_generation(map));
    must(km_close(reader));
    must(km_close(map));
}

/* J2: the writer began at home, so that it has not walked those frames and does not know where they stand. */
static void frames_that_a_writer_never_walked_are_not_overwritten(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE), *reader = small_open(0);
    for (int i = 1; i <= 7; i++)
        check_commit_fill(map, 0, i, 4000);
    must(km_checkpoint(map));
    km_map *writer = small_open(0);
    small_expect(writer, 7);
    km__pin(reader, 0);
    int result = 0;
    for (int i = 8; i < 40 && result == 0; i++) {
        must(km_begin(writer, KM_WRITE));
        memset(km_data(writer), i, 4000);
        result = km_commit(writer);
    }
    assert_int_equal(result, KM_EBUSY);
    must(km__refresh_to(reader, 7));
    assert_int_equal(small_byte(reader, 0), 7);
    km__unpin(reader);
    must(km_commit(writer));
    must(km_close(reader));
    must(km_close(writer));
    must(km_close(map));
}

/* The lock by which a checkpoint keeps readers away is none of a reader. */
static void a_writer_is_not_stalled_by_a_checkpoint_that_found_no_reader(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE), *checkpointer = small_open(0);
    for (int i = 1; i <= 7; i++)
        check_commit_fill(map, 0, i, 4000);
    must(km_checkpoint(map));
    uint64_t excluded = 7;
    must(km__readers_exclude(checkpointer, &excluded, 0));
    assert_int_equal(excluded, 7);
    for (int i = 8; i <= 20; i++) /* into the room of the first seven */
        check_commit_fill(map, 0, i, 4000);
    km__readers_admit(checkpointer, excluded);
    must(km_close(checkpointer));
    must(km_close(map));
}

/* A handle without write permission holds back the journal from where it reads, not from where home was. */
static void a_reader_does_not_hold_back_what_it_has_read(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE), *outsider = small_open(KM_READONLY);
    check_commit_fill(map, 0, 1, 100);
    check_commit_fill(map, 0, 2, 100);
    must(km_begin(outsider, KM_READ));
    check_commit_fill(map, 0, 3, 100);
    must(km_checkpoint(map));
    assert_int_equal(map->control->checkpointed, 2);
    assert_int_equal(small_byte(outsider, 0), 2);
    must(km_close(outsider));
    must(km_close(map));
}

/* A writer died between its frame and the word that publishes it. The next commit does not fit behind that frame. */
static void a_frame_that_was_not_published_is_adopted(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *lazy = small_open(KM_CREATE | KM_LAZY), *map = small_open(0);
    const uint64_t near = small_come_near_the_end(lazy);
    struct km__control *control = map->control;
    check_commit_fill(lazy, 0, 99, 100);
    atomic_store(&control->appended, near);
    atomic_store(&control->visible, near);
    small_die(lazy);
    check_commit_fill(map, 0, (int)near + 2, 20000);
    assert_int_equal(km_generation(map), near + 2);
    os_sim_kill(NULL);
    map = small_open(0);
    small_expect(map, near + 2);
    must(km_close(map));
}

/* The same in the new part of a ring that the dead writer made longer: who adopts looks there, too. */
static void a_frame_in_a_longer_ring_is_adopted(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *lazy = small_open(KM_CREATE | KM_LAZY), *map = small_open(0);
    check_commit_fill(map, 0, 1, 40000);
    must(km_begin(map, KM_READ)); /* home goes no further than this */
    check_commit_fill(lazy, 0, 2, SMALL_SIZE);
    must(km_abort(map));
    assert_true(lazy->header.journal_size > SMALL_RING);
    atomic_store(&map->control->appended, 1);
    atomic_store(&map->control->visible, 1);
    small_die(lazy);
    must(km_begin(map, KM_WRITE));
    assert_int_equal(km_generation(map), 2);
    must(km_abort(map));
    must(km_close(map));
}

/* A writer died in the middle of its frame, whose head is whole. The next commit does not fit behind the last one and
 * stands at the start of the ring; who syncs has walked neither. */
static void a_torn_frame_is_not_synced_in_place_of_the_next(void **state) {
    (void)state;
    for (int commits = 1; commits <= 2; commits++) {
        os_sim_reset(1);
        km_map *torn = small_open(KM_CREATE | KM_LAZY), *lazy = small_open(KM_LAZY), *map = small_open(0);
        const uint64_t near = small_come_near_the_end(torn);
        must(km_sync(torn));
        small_expect(map, near);
        check_commit_fill(torn, 0, 99, 5000);
        const struct km__place *place = km__places_find(&torn->places, near + 1);
        static const unsigned char old[64];
        assert_true(os_sim_damage(SMALL_PATH, map->header.journal_offset + place->position + 4000, old, sizeof old));
        atomic_store(&map->control->appended, near);
        atomic_store(&map->control->visible, near);
        small_die(torn);
        for (int i = 1; i <= commits; i++)
            check_commit_fill(lazy, 0, (int)near + i, i == 1 ? 20000 : 100);
        assert_true(lazy->cursor.position < map->cursor.position);
        must(km_sync(map));
        os_sim_cut();
        os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
        map = small_open(0);
        small_expect(map, near + (uint64_t)commits);
        must(km_close(map));
    }
}

/* ---- what a map tells of itself ---------------------------------------------------------------------------------- */

static int note_generation(void *context, const struct km_log_entry *entry) {
    *(uint64_t *)context = entry->generation;
    return 0;
}

/* Home and slots stand still under a chunk, and so do the frames that the log reads. */
static void verify_and_log_wait_for_a_checkpoint(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE), *other = small_open(0);
    struct km_report report = {.struct_size = sizeof report};
    uint64_t last = 0;
    must(km__checkpoint_lock(other, UINT64_MAX));
    must_fail(km_verify(map, &report, NULL, NULL), KM_EBUSY);
    must_fail(km_log(map, note_generation, &last), KM_EBUSY);
    km__checkpoint_unlock(other);
    must(km_close(other));
    must(km_close(map));
}

static void the_log_ends_with_the_newest_commit_wherever_the_ring_is(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE);
    for (int i = 1; i <= 120; i++) {
        uint64_t last = 0;
        check_commit_fill(map, 0, i, (size_t)i * 7919 % 13000 + 1);
        must(km_log(map, note_generation, &last));
        assert_int_equal(last, i);
    }
    must(km_close(map));
}

static void what_is_not_visible_is_not_told(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *lazy = small_open(KM_CREATE | KM_LAZY), *map = small_open(0);
    check_commit_fill(map, 0, 1, 100);
    check_commit_fill(lazy, 0, 2, 100);
    atomic_store(&map->control->visible, 1); /* it is about to say so */
    uint64_t last = 0;
    must(km_log(map, note_generation, &last));
    assert_int_equal(last, 1);
    assert_int_equal(small_info(map).generation, 1);
    must(km_close(lazy));
    must(km_close(map));
}

/* The words of a session that the power ended are old. */
static void the_words_of_a_dead_session_are_not_believed(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE);
    check_commit_fill(map, 0, 1, 100);
    atomic_store(&map->control->visible, 0);
    os_sim_kill(NULL);
    km_map *outsider = small_open(KM_READONLY);
    const struct km_info info = small_info(outsider);
    assert_int_equal(info.generation, 1);
    assert_int_equal(info.handles, 0);
    small_expect(outsider, 1);
    must(km_close(outsider));
}

/* In a range without data, where nothing is read. */
static void a_checksum_of_a_hole_is_looked_at(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE);
    const unsigned char byte = 1;
    assert_true(os_sim_damage(SMALL_PATH, map->header.table_offset + 5 * sizeof(uint32_t), &byte, 1));
    const struct km_report report = small_verify(map);
    assert_int_equal(report.pages_damaged, 1);
    assert_int_equal(report.digest_matches, 0);
    must(km_close(map));
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_view_that_starts_anew_keeps_no_private_page),
        cmocka_unit_test(what_an_aborted_writer_saw_is_durable_before_it_is_read),
        cmocka_unit_test(after_a_failed_sync_readers_go_back_to_the_durable_commit),
        cmocka_unit_test(a_number_that_came_back_changes_no_snapshot),
        cmocka_unit_test(what_is_stored_while_a_commit_is_written_belongs_to_the_next),
        cmocka_unit_test(a_stray_store_is_not_taken_for_committed),
        cmocka_unit_test(damage_is_told_by_every_begin),
        cmocka_unit_test(what_home_has_gained_is_no_stray_store),
        cmocka_unit_test(a_checkpoint_goes_past_no_pin_of_its_own),
        cmocka_unit_test(a_dead_pin_holds_nothing),
        cmocka_unit_test(no_wait_for_a_lock_is_one_long_sleep),
        cmocka_unit_test(frames_that_a_begin_still_reads_are_not_overwritten),
        cmocka_unit_test(frames_that_a_writer_never_walked_are_not_overwritten),
        cmocka_unit_test(a_writer_is_not_stalled_by_a_checkpoint_that_found_no_reader),
        cmocka_unit_test(a_reader_does_not_hold_back_what_it_has_read),
        cmocka_unit_test(a_frame_that_was_not_published_is_adopted),
        cmocka_unit_test(a_frame_in_a_longer_ring_is_adopted),
        cmocka_unit_test(a_torn_frame_is_not_synced_in_place_of_the_next),
        cmocka_unit_test(verify_and_log_wait_for_a_checkpoint),
        cmocka_unit_test(the_log_ends_with_the_newest_commit_wherever_the_ring_is),
        cmocka_unit_test(what_is_not_visible_is_not_told),
        cmocka_unit_test(the_words_of_a_dead_session_are_not_believed),
        cmocka_unit_test(a_checksum_of_a_hole_is_looked_at),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
