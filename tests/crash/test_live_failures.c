/* SPDX-License-Identifier: MIT
 *
 * Live maps whose syncs fail, and maps in the paging file when the power goes, on the simulated system.
 */
#include "map/map.h"
#include "support/check.h"
#include "support/os_sim.h"
#include "support/scratch.h"

#define PATH "/disk/live.km"
#define OBJECT "Local\\live"
#define SIZE 65536u

static int try_open(km_map **map, const char *target, uint32_t mode, uint32_t flags) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .max_size = mode == KM_RAW ? 0 : 4 * SIZE,
                                       .journal_size = mode == KM_TRANSACTIONAL ? 65536 : 0,
                                       .mode = mode,
                                       .flags = flags,
                                       .timeout_ms = 5};
    return km_open(map, target, &options);
}

static km_map *open_map(const char *target, uint32_t mode, uint32_t flags) {
    km_map *map = NULL;
    must(try_open(&map, target, mode, flags));
    return map;
}

static unsigned char *bytes(km_map *map) {
    return km_data(map);
}

/* ---- failed syncs ------------------------------------------------------------------------------------------------ */

/* What is done until something fails; the result of what did. */
static int work(km_map *map) {
    int result = km_begin(map, KM_WRITE);
    memset(km_data(map), 1, SIZE);
    result = result != 0 ? result : km_commit(map);
    result = result != 0 ? result : km_sync(map);
    if (result == 0)
        memset(bytes(map) + SIZE / 2, 2, SIZE / 2);
    result = result != 0 ? result : km_checkpoint(map);
    result = result != 0 ? result : km_grow(map, 2 * SIZE);
    result = result != 0 ? result : km_grow(map, 8 * SIZE); /* beyond: everything moves */
    if (result == 0)
        memset(bytes(map) + 7 * SIZE, 3, SIZE);
    return result != 0 ? result : km_sync(map);
}

/* Nobody commits or seals any more, in whatever handle; the bytes are there. */
static void expect_poisoned(km_map *map, bool beside) {
    km_map *other = NULL;
    must_fail(km_begin(map, KM_WRITE), KM_EIO);
    must_fail(km_sync(map), KM_EIO);
    must_fail(km_checkpoint(map), KM_EIO);
    must_fail(km_grow(map, 9 * SIZE), KM_EIO);
    must_fail(km_wait(map, km_generation(map), 1, NULL), KM_EIO);
    assert_int_equal(check_info(map).failed, 1);
    must(km_begin(map, KM_READ));
    assert_int_equal(bytes(map)[0], 1);
    must(km_abort(map));
    if (!beside)
        return;
    other = open_map(PATH, 0, 0);
    must_fail(km_begin(other, KM_WRITE), KM_EIO);
    must_fail(km_sync(other), KM_EIO);
    assert_int_equal(bytes(other)[0], 1);
    (void)km_close(other);
    other = open_map(PATH, 0, KM_READONLY);
    assert_int_equal(bytes(other)[0], 1);
    assert_int_equal(check_info(other).failed, 1);
    (void)km_close(other);
}

/* After that: a session that is told of nothing good, repairs, seals; and what it sealed is on the disk. */
static void expect_recovery(bool evicts, uint64_t seed) {
    unsigned char before[SIZE];
    km_map *map = open_map(PATH, 0, 0);
    assert_int_equal(check_info(map).failed, 0);
    const int begun = km_begin(map, KM_WRITE);
    assert_true(begun == 0 || begun == KM_EABANDONED);
    memcpy(before, km_data(map), SIZE);
    must(km_commit(map));
    must(km_sync(map));
    must(km_close(map));
    if (evicts) {
        os_sim_evict(seed);
    } else {
        os_sim_cut();
        os_sim_reboot(NULL, OS_SIM_NOTHING, seed);
    }
    map = open_map(PATH, 0, KM_READONLY);
    assert_int_equal(check_info(map).clean, 1);
    check_clean(map);
    assert_memory_equal(before, km_data(map), SIZE);
    must(km_close(map));
}

static void a_failed_sync_ends_all_writing_until_all_have_closed(void **state) {
    (void)state;
    uint64_t n = 1;
    for (;; n++) {
        os_sim_reset(n);
        must(km_close(open_map(PATH, KM_LIVE, KM_CREATE)));
        km_map *map = open_map(PATH, 0, 0);
        os_sim_fail(OS_SIM_SYNC, n, n % 4 == 3 ? UINT64_MAX : 1, KM_EIO);
        const int result = work(map);
        const bool met = os_sim_failures() > 0;
        os_sim_fail(OS_SIM_SYNC, 0, 0, 0);
        if (!met) {
            must(result);
            must(km_close(map));
            break;
        }
        assert_int_equal(result, KM_EIO);
        expect_poisoned(map, n % 2 == 0);
        must_fail(km_close(map), KM_EIO);
        expect_recovery(n % 3 == 0, n);
    }
    assert_true(n > 8);
}

static void a_failed_sync_at_the_last_close_leaves_the_map_unsealed(void **state) {
    (void)state;
    uint64_t n = 1;
    for (;; n++) {
        os_sim_reset(n);
        km_map *map = open_map(PATH, KM_LIVE, KM_CREATE);
        memset(km_data(map), 1, SIZE);
        os_sim_fail(OS_SIM_SYNC, n, 1, KM_EIO);
        const int result = km_close(map);
        if (os_sim_failures() == 0) {
            must(result);
            break;
        }
        assert_int_equal(result, KM_EIO);
        os_sim_fail(OS_SIM_SYNC, 0, 0, 0);
        expect_recovery(n % 2 == 0, n);
    }
    assert_true(n > 3);
}

static void a_failed_sync_at_the_open_gives_no_handle(void **state) {
    (void)state;
    uint64_t n = 1;
    for (;; n++) {
        os_sim_reset(n);
        km_map *map = open_map(PATH, KM_LIVE, KM_CREATE);
        memset(km_data(map), 1, SIZE);
        must(km_close(map));
        map = NULL;
        os_sim_fail(OS_SIM_SYNC, n, 1, KM_EIO);
        const int result = try_open(&map, PATH, 0, 0);
        if (os_sim_failures() == 0) {
            must(result);
            os_sim_fail(OS_SIM_SYNC, 0, 0, 0);
            must(km_close(map));
            break;
        }
        assert_int_equal(result, KM_EIO);
        assert_null(map);
        os_sim_fail(OS_SIM_SYNC, 0, 0, 0);
        expect_recovery(n % 2 == 0, n);
    }
    assert_true(n > 2);
}

/* The first to attach meets the failed write-back at its own write of the header, and dies before it can tell. */
static void what_a_dead_opener_may_have_been_told_is_not_forgotten(void **state) {
    (void)state;
    uint64_t n = 1;
    for (;; n++) {
        os_sim_reset(n);
        km_map *map = open_map(PATH, KM_LIVE, KM_CREATE), *gone = NULL;
        memset(km_data(map), 1, SIZE);
        os_sim_kill(NULL); /* unsealed; nothing failed so far */
        (void)km_close(map);
        os_sim_fail(OS_SIM_SYNC, n, 1, KM_EIO);
        const int result = try_open(&gone, PATH, 0, 0);
        const bool met = os_sim_failures() > 0;
        os_sim_fail(OS_SIM_SYNC, 0, 0, 0);
        if (met) {
            const uint32_t none = 0;
            assert_int_equal(result, KM_EIO);
            assert_true(os_sim_damage(PATH, KM__CONTROL_OFFSET + offsetof(struct km__control, failed), &none, 4));
        }
        (void)km_close(gone);
        map = open_map(PATH, 0, 0);
        assert_int_equal(atomic_load(&map->control->unsure), met);
        must(km_close(map));
        map = open_map(PATH, 0, KM_READONLY);
        check_clean(map);
        must(km_close(map));
        if (!met)
            break;
    }
    assert_true(n > 1);
}

#define WORD(name) (KM__CONTROL_OFFSET + offsetof(struct km__control, name))

static uint32_t word_at(uint64_t offset) {
    uint32_t word = 0;
    assert_true(os_sim_read(PATH, offset, &word, sizeof word));
    return word;
}

/* A grower that moves the regions is told of the failed write-back, and dies before it can tell. */
static void what_a_dead_grower_may_have_been_told_is_not_forgotten(void **state) {
    (void)state;
    static const uint32_t none = 0;
    uint64_t n = 1;
    for (;; n++) {
        os_sim_reset(n);
        km_map *map = open_map(PATH, KM_LIVE, KM_CREATE);
        memset(km_data(map), 1, SIZE);
        os_sim_fail(OS_SIM_SYNC, n, 1, KM_EIO);
        const int result = km__grow_beyond(map, 8 * SIZE, UINT64_MAX);
        const bool met = os_sim_failures() > 0;
        os_sim_fail(OS_SIM_SYNC, 0, 0, 0);
        assert_int_equal(result, met ? KM_EIO : 0);
        assert_true(os_sim_damage(PATH, WORD(failed), &none, sizeof none));
        os_sim_kill(NULL);
        (void)km_close(map);
        map = open_map(PATH, 0, 0);
        assert_int_equal(atomic_load(&map->control->unsure), met);
        must(km_close(map));
        if (!met)
            break;
    }
    assert_true(n > 2);
}

/* Who cannot have ATTACH syncs all the same (O9), without the mark of CHECKPOINT. */
static void what_a_hindered_close_may_have_been_told_is_not_forgotten(void **state) {
    (void)state;
    struct os_file *file = NULL;
    struct os_locks *locks = NULL;
    os_sim_reset(1);
    km_map *map = open_map(PATH, KM_LIVE, KM_CREATE);
    memset(km_data(map), 1, SIZE);
    must(os_file_open(&file, PATH, true));
    must(os_locks_open(&locks, file));
    must(os_lock_try(locks, KM__LOCK_BASE + KM__ATTACH, 1, OS_LOCK_WRITE));
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    must_fail(km_close(map), KM_EIO);
    assert_int_equal(os_sim_failures(), 1);
    assert_int_equal(word_at(WORD(unsure)), 1); /* also if `failed` had not been written any more */
    os_locks_close(locks);
    os_file_close(file);
    expect_recovery(false, 1);
    assert_int_equal(word_at(WORD(unsure)), 0); /* all was written again */
}

/* Its seal's sync fails, and its process dies before it can tell anybody. */
static void die_in_a_failed_seal(km_map *map) {
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    must_fail(km_sync(map), KM_EIO);
    atomic_store(&map->control->failed, 0);
    atomic_store(&map->control->file_mark, 1);
    os_locks_close(map->locks);
    map->locks = NULL;
}

static void what_a_dead_sealer_may_not_have_written_is_written_again(void **state) {
    (void)state;
    static const uint32_t kinds[] = {KM_CHECKSUM_CRC32C, KM_CHECKSUM_NONE};
    static km_map *dead[8]; /* nobody closes what a dead process had open */
    for (unsigned way = 0; way < 8; way++) {
        os_sim_reset(way + 1);
        km_map *map = NULL;
        const struct km_options options = {.struct_size = sizeof options,
                                           .size = SIZE,
                                           .mode = KM_LIVE,
                                           .checksum = kinds[way % 2],
                                           .flags = KM_CREATE,
                                           .timeout_ms = 5};
        must(km_open(&dead[way], PATH, &options));
        map = open_map(PATH, 0, 0);
        memset(km_data(map), 1, SIZE);
        die_in_a_failed_seal(dead[way]);
        if (way % 4 >= 2) { /* the next session has to know, too */
            os_sim_kill(NULL);
            (void)km_close(map);
            map = open_map(PATH, 0, 0);
        }
        must(km_sync(map));
        if (way >= 4)
            must(km_close(map));
        os_sim_cut();
        os_sim_reboot(NULL, OS_SIM_NOTHING, way);
        if (way < 4)
            (void)km_close(map);
        map = open_map(PATH, 0, KM_READONLY);
        for (unsigned at = 0; at < SIZE; at++)
            assert_int_equal(bytes(map)[at], 1);
        check_clean(map);
        must(km_close(map));
    }
}

/* ---- raw maps ---------------------------------------------------------------------------------------------------- */

/* The page cache goes on showing what the disk never got, and calls it written. */
static void a_sync_of_raw_bytes_after_one_that_failed_means_what_it_says(void **state) {
    (void)state;
    for (unsigned failures = 1; failures <= 2; failures++) {
        os_sim_reset(failures);
        km_map *map = open_map(PATH, KM_RAW, KM_CREATE);
        memset(km_data(map), 7, SIZE);
        for (unsigned i = 0; i < failures; i++) {
            os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
            must_fail(km_sync(map), KM_EIO);
        }
        must(km_sync(map));
        os_sim_cut();
        os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
        map = open_map(PATH, KM_RAW, 0);
        for (unsigned at = 0; at < SIZE; at++)
            assert_int_equal(bytes(map)[at], 7);
        must(km_close(map));
    }
}

/* ---- objects ----------------------------------------------------------------------------------------------------- */

static void live_a_life(km_map *map, uint32_t mode) {
    if (mode != KM_RAW) {
        must(km_begin(map, KM_WRITE));
        memset(km_data(map), 5, SIZE);
        must(km_commit(map));
        must(km_checkpoint(map));
        must(km_grow(map, 2 * SIZE));
        must(km_grow(map, 8 * SIZE));
    }
    memset(km_data(map), 6, mode == KM_RAW ? SIZE : 0);
    must(km_sync(map));
}

static void an_object_makes_no_sync_and_is_gone_after_a_power_cut(void **state) {
    (void)state;
    for (uint32_t mode = KM_TRANSACTIONAL; mode <= KM_RAW; mode++) {
        os_sim_reset(mode + 1);
        km_map *map = open_map(OBJECT, mode, KM_CREATE);
        live_a_life(map, mode);
        assert_int_equal(os_sim_syncs(), 0);
        struct os_sim_state *saved = os_sim_save();
        assert_int_equal(os_sim_state_pending(saved), 0);
        os_sim_reboot(saved, OS_SIM_EVERYTHING, 1);
        os_sim_state_free(saved);
        (void)km_close(map);
        assert_false(os_sim_exists(OBJECT));
        must_fail(try_open(&map, OBJECT, mode, 0), KM_ENOTFOUND);
        map = open_map(OBJECT, mode, KM_CREATE);
        assert_int_equal(bytes(map)[0], 0);
        must(km_close(map));
        assert_false(os_sim_exists(OBJECT));
        assert_int_equal(os_sim_syncs(), 0);
    }
}

#define STATES 200u

static struct os_sim_state *states[STATES];
static size_t state_count;

static void save(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)context;
    (void)operation;
    (void)step;
    assert_true(state_count < STATES);
    states[state_count++] = os_sim_save();
}

/* The process dies before each step of an object's life: its name is there or not, and means nothing. */
static void an_object_whose_only_user_died_at_any_step_is_absent(void **state) {
    (void)state;
    for (uint32_t mode = KM_TRANSACTIONAL; mode <= KM_RAW; mode++) {
        unsigned left = 0;
        os_sim_reset(mode + 1);
        os_sim_watch(save, NULL);
        km_map *map = open_map(OBJECT, mode, KM_CREATE);
        live_a_life(map, mode);
        must(km_close(map));
        os_sim_watch(NULL, NULL);
        for (size_t i = 0; i < state_count; i++) {
            os_sim_kill(states[i]);
            left += os_sim_exists(OBJECT);
            if (i % 2 == 0) {
                must_fail(try_open(&map, OBJECT, mode, 0), KM_ENOTFOUND);
                assert_false(os_sim_exists(OBJECT));
            }
            map = open_map(OBJECT, mode, KM_CREATE | (i % 3 == 0 ? KM_EXCLUSIVE : 0));
            for (unsigned at = 0; at < SIZE; at++)
                assert_int_equal(bytes(map)[at], 0);
            must(km_close(map));
            assert_false(os_sim_exists(OBJECT));
            os_sim_state_free(states[i]);
        }
        assert_true(left > 0 && left < state_count);
        state_count = 0;
    }
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_sync_ends_all_writing_until_all_have_closed),
        cmocka_unit_test(a_failed_sync_at_the_last_close_leaves_the_map_unsealed),
        cmocka_unit_test(a_failed_sync_at_the_open_gives_no_handle),
        cmocka_unit_test(what_a_dead_opener_may_have_been_told_is_not_forgotten),
        cmocka_unit_test(what_a_dead_grower_may_have_been_told_is_not_forgotten),
        cmocka_unit_test(what_a_hindered_close_may_have_been_told_is_not_forgotten),
        cmocka_unit_test(what_a_dead_sealer_may_not_have_written_is_written_again),
        cmocka_unit_test(a_sync_of_raw_bytes_after_one_that_failed_means_what_it_says),
        cmocka_unit_test(an_object_makes_no_sync_and_is_gone_after_a_power_cut),
        cmocka_unit_test(an_object_whose_only_user_died_at_any_step_is_absent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
