/* SPDX-License-Identifier: MIT
 *
 * Steps that fail, on the simulated system: a full disk, frames that are gone, syncs that fail, and the death of
 * whoever was told of it.
 */
#include "small.h"
#include "support/scratch.h"

/* ---- a full disk ------------------------------------------------------------------------------------------------- */

static void a_commit_that_met_a_full_disk_is_open_and_whole(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_LAZY, KM_DECLARED, KM_DECLARED | KM_LAZY};
    static const int codes[] = {KM_ENOSPACE, KM_ENOMEM};
    for (int i = 0; i < 16; i++) {
        const bool lazy = (flags[i % 4] & KM_LAZY) != 0, again = i / 4 % 2 == 1;
        os_sim_reset(1);
        km_map *map = small_open(KM_CREATE | flags[i % 4]), *other = small_open(0);
        check_commit_fill(map, 0, 1, 100);
        must(km_sync(map));
        must(km_begin(map, KM_WRITE));
        must(km_touch(map, 0, 100));
        memset(km_data(map), 2, 100);
        os_sim_fail(lazy ? OS_SIM_WRITE : OS_SIM_SYNC, 1, 1, codes[i / 8]); /* then the whole frame may stand there */
        must_fail(km_commit(map), codes[i / 8]);
        small_expect(other, 1);
        if (again) {
            must(km_commit(map));
            small_expect(other, 2);
        } else {
            must(km_abort(map));
            must(km_begin(other, KM_WRITE));
            assert_int_equal(km_generation(other), 1);
            must(km_abort(other));
            small_expect(map, 1);
        }
        const int next = again ? 3 : 2;
        check_commit_fill(map, 0, next, 100);
        small_expect(other, (uint64_t)next);
        check_clean(other);
        must(km_close(other));
        must(km_close(map));
    }
}

/* The frame that was given up may have reached the disk whole. The next one goes to the start of the ring. */
static void a_frame_that_was_given_up_does_not_come_back(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        os_sim_reset(1);
        km_map *map = small_open(KM_CREATE);
        const uint64_t near = small_come_near_the_end(map);
        must(km_begin(map, KM_WRITE));
        memset(km_data(map), 99, 100);
        os_sim_fail(OS_SIM_SYNC, 1, 1, KM_ENOSPACE);
        must_fail(km_commit(map), KM_ENOSPACE);
        must(km_abort(map));
        check_commit_fill(map, 0, (int)near + 1, 20000);
        os_sim_cut();
        os_sim_reboot(NULL, OS_SIM_SECTORS, seed);
        map = small_open(0);
        small_expect(map, near + 1);
        must(km_close(map));
    }
}

static void a_frame_that_cannot_be_given_up_poisons_the_map(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE), *other = small_open(0);
    check_commit_fill(map, 0, 1, 100);
    must(km_begin(map, KM_WRITE));
    memset(km_data(map), 2, 100);
    os_sim_fail(OS_SIM_SYNC, 1, 2, KM_ENOSPACE);
    must_fail(km_commit(map), KM_EIO);
    must_fail(km_begin(other, KM_WRITE), KM_EIO);
    small_expect(map, 1);
    small_expect(other, 1);
}

/* Wherever the disk is full: home may be a mixture then, which verify knows from damage. */
static void a_checkpoint_that_met_a_full_disk_poisons_nothing(void **state) {
    (void)state;
    uint64_t failures = 1;
    for (uint64_t n = 1; failures > 0; n++) {
        os_sim_reset(1);
        km_map *map = small_open(KM_CREATE), *other = small_open(0);
        check_commit_fill(map, 0, 1, 100);
        check_commit_fill(map, 0, 2, 50);
        os_sim_fail(OS_SIM_WRITE, n, 1, KM_ENOSPACE);
        const int result = km_checkpoint(map);
        failures = os_sim_failures();
        assert_int_equal(result, failures > 0 ? KM_ENOSPACE : 0);
        assert_true(failures > 0 || n > 4);
        assert_int_equal(map->control->failed, 0);
        os_sim_fail(OS_SIM_WRITE, 0, 0, 0);
        const struct km_report report = small_verify(other);
        assert_int_equal(report.pages_damaged + report.frames_damaged, 0);
        assert_int_equal(report.digest_matches, 1);
        small_expect(other, 2);
        check_commit_fill(map, 0, 3, 100);
        must(km_checkpoint(map));
        assert_int_equal(map->control->checkpointed, 3);
        check_clean(other);
        must(km_close(other));
        must(km_close(map));
    }
}

/* A page that the dead checkpoint was to write: its checksum in the table says nothing, the frames' one does. */
static void damage_in_a_mixed_home_is_found(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE);
    check_commit_fill(map, 0, 1, 100);
    os_sim_fail(OS_SIM_WRITE, 3, 1, KM_ENOSPACE);
    must_fail(km_checkpoint(map), KM_ENOSPACE);
    km_map *other = small_open(0);
    small_expect(other, 1);
    small_rot(map, 3000);
    assert_int_equal(small_verify(other).pages_damaged, 1);
}

/* ---- frames that are gone ---------------------------------------------------------------------------------------- */

static void a_frame_that_is_gone_is_never_the_end_of_the_journal(void **state) {
    (void)state;
    for (int durable = 0; durable < 2; durable++) {
        os_sim_reset(1);
        km_map *map = small_open(KM_CREATE | (durable ? 0 : KM_LAZY)), *other = small_open(0);
        check_commit_fill(map, 0, 1, 100);
        must(km_sync(map));
        small_expect(other, 1);
        check_commit_fill(map, 0, 2, 100);
        small_lose_newest_frame(map);
        must_fail(km_begin(other, KM_READ), durable ? KM_EJOURNAL : KM_EIO);
        assert_int_equal(map->control->failed, durable ? 0 : 1); /* damage, or a page that the kernel could not write */
        if (durable == 0)
            small_expect(other, 1);
    }
}

/* Nobody is there who could say what was durable; a later frame, or a checkpoint on its way, does. */
static void a_durable_frame_that_is_gone_is_told_by_who_comes_alone(void **state) {
    (void)state;
    for (int target = 0; target < 2; target++) {
        os_sim_reset(1);
        km_map *map = small_open(KM_CREATE);
        check_commit_fill(map, 0, 1, 100);
        check_commit_fill(map, 0, 2, 100);
        if (target) {
            os_sim_fail(OS_SIM_WRITE, 2, 1, KM_ENOSPACE); /* of home, after the slot that tells of it */
            must_fail(km_checkpoint(map), KM_ENOSPACE);
        }
        small_lose_newest_frame(map);
        if (!target)
            check_commit_fill(map, 0, 3, 100);
        os_sim_kill(NULL);
        km_map *outsider = small_open(KM_READONLY);
        for (int i = 0; i < 3; i++)
            must_fail(km_begin(outsider, KM_READ), KM_EJOURNAL);
        assert_int_equal(small_info(outsider).damaged, 1);
        assert_int_equal(small_verify(outsider).frames_damaged, 1);
        must(km_close(outsider));
    }
}

static void a_checkpoint_of_a_frame_that_is_gone_is_refused(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE);
    check_commit_fill(map, 0, 1, 100);
    check_commit_fill(map, 0, 2, 100);
    small_lose_newest_frame(map);
    must_fail(km_checkpoint(map), KM_EJOURNAL);
    assert_int_equal(map->control->checkpointed, 0);
}

/* Somebody died in a sync, so the frame would have to be written again. */
static void a_suspected_frame_that_is_gone_is_not_acknowledged(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE | KM_LAZY);
    check_commit_fill(map, 0, 1, 100);
    must(km_sync(map));
    check_commit_fill(map, 0, 2, 100);
    atomic_fetch_add(&map->control->sync_began, 1);
    small_lose_newest_frame(map);
    must_fail(km_sync(map), KM_EIO);
    assert_int_equal(map->control->durable, 1);
}

/* ---- syncs ------------------------------------------------------------------------------------------------------- */

static void poison(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)step;
    if (operation == OS_SIM_WRITE)
        atomic_store(&((km_map *)context)->control->failed, 1);
}

/* Somebody else's sync fails between the commit's look at the poison and its own sync, which covers the same frames. */
static void a_commit_beside_a_failed_sync_is_not_acknowledged(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *lazy = small_open(KM_CREATE | KM_LAZY), *map = small_open(0);
    check_commit_fill(map, 0, 1, 100);
    check_commit_fill(lazy, 0, 2, 100);
    must(km_begin(map, KM_WRITE));
    memset(km_data(map), 3, 100);
    os_sim_watch(poison, map);
    must_fail(km_commit(map), KM_EIO);
    os_sim_watch(NULL, NULL);
    assert_int_equal(map->control->durable, 1);
    small_expect(map, 1);
}

/* Who was told that a write failed dies before it says so. Later syncs of others report success for what the disk never
 * got, so they write the suspected frames again first. Where it died: */
enum death {
    IN_A_SYNC,                       /* of the journal, beside a handle that goes on */
    IN_A_SYNC_BEFORE_AN_ATTACH,      /* the same, and who goes on attaches after it */
    IN_A_SYNC_MENDED_BY_OTHERS,      /* the same, and others sync successfully meanwhile */
    IN_A_SYNC_MENDED_BEFORE,         /* the same, and they do so before who goes on attaches, so that no mark is left */
    IN_A_CHECKPOINT,                 /* in the sync of a header slot, before who goes on attaches */
    IN_A_CHECKPOINT_FOUND_BY_OTHERS, /* the same, and others have cleared the mark before who goes on attaches */
    DEATHS
};

static void die_in_sync(km_map *map, enum death death) {
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    if (death == IN_A_SYNC || death == IN_A_SYNC_BEFORE_AN_ATTACH) {
        must_fail(km_sync(map), KM_EIO);
    } else if (death == IN_A_SYNC_MENDED_BY_OTHERS || death == IN_A_SYNC_MENDED_BEFORE) {
        atomic_fetch_add(&map->control->sync_began, 1);
        must_fail(os_file_sync(map->file), KM_EIO); /* pages are larger than frames: the next one is lost with them */
    } else {
        must(km__checkpoint_lock(map, UINT64_MAX));
        must_fail(os_file_sync(map->file), KM_EIO);
    }
    atomic_store(&map->control->failed, 0);
    small_die(map);
}

static void a_failure_that_nobody_tells_of_takes_no_acknowledged_commit(void **state) {
    (void)state;
    for (int death = 0; death < DEATHS; death++) {
        for (int published = 0; published < 2; published++) {
            os_sim_reset(1);
            km_map *dead = small_open(KM_CREATE), *lazy = small_open(KM_LAZY), *third = small_open(0), *map = third;
            check_commit_fill(dead, 0, 1, 100);
            check_commit_fill(lazy, 0, 2, 100);
            check_commit_fill(lazy, 0, 3, 100);
            /* It is writing the frame, or has just done so. */
            atomic_store(&map->control->appended, published ? 3 : 2);
            atomic_store(&map->control->visible, published ? 3 : 2);
            die_in_sync(dead, (enum death)death);
            if (death == IN_A_CHECKPOINT_FOUND_BY_OTHERS) {
                must(km__checkpoint_lock(third, UINT64_MAX));
                km__checkpoint_unlock(third);
            }
            if (death == IN_A_SYNC_MENDED_BEFORE)
                must(km_sync(small_open(0)));
            if (death != IN_A_SYNC)
                map = small_open(0);
            if (death == IN_A_SYNC_MENDED_BY_OTHERS)
                must(km_sync(third));
            atomic_store(&map->control->appended, 3);
            must(km_sync(map));
            os_sim_cut();
            os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
            map = small_open(0);
            small_expect(map, 3);
            must(km_close(map));
        }
    }
}

/* The same in a durable commit: its frame is whole, and the next writer adopts it. */
static void a_commit_whose_writer_died_with_its_failure_is_written_again(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *dead = small_open(KM_CREATE), *map = small_open(0);
    check_commit_fill(dead, 0, 1, 100);
    must(km_begin(dead, KM_WRITE));
    memset(km_data(dead), 2, 4000);
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    must_fail(km_commit(dead), KM_EIO);
    atomic_store(&map->control->failed, 0);
    small_die(dead);
    check_commit_fill(map, 0, 3, 50);
    assert_int_equal(km_generation(map), 3);
    os_sim_cut();
    os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
    map = small_open(0);
    small_expect(map, 3);
    assert_int_equal(small_byte(map, 3999), 2);
    must(km_close(map));
}

/* What the writer is told is lost must not come with the next commit, nor be shown. */
static void a_write_that_fails_poisons_the_map(void **state) {
    (void)state;
    for (int lazy = 0; lazy < 2; lazy++) {
        os_sim_reset(1);
        km_map *map = small_open(KM_CREATE | (lazy ? KM_LAZY : 0)), *other = small_open(0);
        check_commit_fill(map, 0, 1, 100);
        must(km_sync(map));
        must(km_begin(map, KM_WRITE));
        memset(km_data(map), 2, 100);
        os_sim_fail(lazy ? OS_SIM_WRITE : OS_SIM_SYNC, 1, 1, KM_EIO);
        must_fail(km_commit(map), KM_EIO);
        must_fail(km_begin(other, KM_WRITE), KM_EIO);
        must_fail(km_begin(map, KM_WRITE), KM_EIO);
        small_expect(map, 1);
        small_expect(other, 1);
    }
}

static void a_commit_after_the_poison_is_refused(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *lazy = small_open(KM_CREATE | KM_LAZY), *other = small_open(0);
    check_commit_fill(lazy, 0, 1, 100);
    must(km_begin(lazy, KM_WRITE));
    memset(km_data(lazy), 2, 100);
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    must_fail(km_sync(other), KM_EIO);
    must_fail(km_commit(lazy), KM_EIO);
    assert_int_equal(lazy->control->appended, 1);
}

/* It saw what is not durable yet, and acts upon it. */
static void a_durable_commit_of_nothing_makes_durable_what_it_saw(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *lazy = small_open(KM_CREATE | KM_LAZY), *map = small_open(0);
    check_commit_fill(lazy, 0, 1, 100);
    must(km_begin(map, KM_WRITE));
    must(km_commit(map));
    os_sim_cut();
    os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
    map = small_open(0);
    small_expect(map, 1);
    must(km_close(map));
}

static void show_a_later_commit(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)operation;
    (void)step;
    km__raise(&((km_map *)context)->control->visible, 2);
}

/* Somebody commits lazily while an earlier commit is synced. */
static void a_sync_hides_no_later_commit(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *lazy = small_open(KM_CREATE | KM_LAZY), *map = small_open(0);
    check_commit_fill(lazy, 0, 1, 100);
    os_sim_watch(show_a_later_commit, map);
    must(km_sync(map));
    os_sim_watch(NULL, NULL);
    assert_int_equal(map->control->durable, 1);
    assert_int_equal(map->control->visible, 2);
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_commit_that_met_a_full_disk_is_open_and_whole),
        cmocka_unit_test(a_frame_that_was_given_up_does_not_come_back),
        cmocka_unit_test(a_frame_that_cannot_be_given_up_poisons_the_map),
        cmocka_unit_test(a_checkpoint_that_met_a_full_disk_poisons_nothing),
        cmocka_unit_test(damage_in_a_mixed_home_is_found),
        cmocka_unit_test(a_frame_that_is_gone_is_never_the_end_of_the_journal),
        cmocka_unit_test(a_durable_frame_that_is_gone_is_told_by_who_comes_alone),
        cmocka_unit_test(a_checkpoint_of_a_frame_that_is_gone_is_refused),
        cmocka_unit_test(a_suspected_frame_that_is_gone_is_not_acknowledged),
        cmocka_unit_test(a_commit_beside_a_failed_sync_is_not_acknowledged),
        cmocka_unit_test(a_failure_that_nobody_tells_of_takes_no_acknowledged_commit),
        cmocka_unit_test(a_commit_whose_writer_died_with_its_failure_is_written_again),
        cmocka_unit_test(a_write_that_fails_poisons_the_map),
        cmocka_unit_test(a_commit_after_the_poison_is_refused),
        cmocka_unit_test(a_durable_commit_of_nothing_makes_durable_what_it_saw),
        cmocka_unit_test(a_sync_hides_no_later_commit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
