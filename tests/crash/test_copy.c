/* SPDX-License-Identifier: MIT
 *
 * Copies, and maps made from files, step by step: where the power goes, where the copier dies, what fails, and what
 * others do meanwhile. Each test runs with a file system that can share blocks between files, and with one that cannot.
 */
#include "stage.h"

#define COPY_PATH "/disk/copy.km"
#define AGAIN_PATH "/disk/again.km"
#define SOURCE_PATH "/disk/source.bin"
#define NEWEST 4u

static struct stage_saved saved;

/* Two commits at home, two in the journal; the handle that is returned has written them. */
static km_map *prepare(uint32_t flags, bool clones) {
    stage_reset();
    os_sim_set_clone(clones);
    km_map *map = stage_open(KM_CREATE | flags, STAGE_RING);
    for (uint64_t g = 1; g <= NEWEST; g++) {
        stage_commit(map, g);
        if (g == 2)
            must(km_checkpoint(map));
    }
    return map;
}

static km_map *open_at(const char *path, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = flags, .timeout_ms = 5};
    must(km_open(&map, path, &options));
    return map;
}

/* It shows that generation and has no damage, and takes commits that last. */
static void expect_copy(const char *path, uint64_t generation) {
    km_map *map = open_at(path, KM_READONLY);
    stage_expect(map, generation);
    assert_int_equal(check_info(map).clean, 1);
    must(km_close(map));
    map = open_at(path, 0);
    stage_expect(map, generation);
    check_clean(map);
    stage_commit(map, generation + 1);
    must(km_close(map));
    map = open_at(path, 0);
    stage_expect(map, generation + 1);
    check_clean(map);
    must(km_close(map));
}

/* ---- the power, and death ---------------------------------------------------------------------------------------- */

static void save_each_step_of_a_copy(km_map *map) {
    os_sim_watch(stage_save, &saved);
    must(km_copy(map, COPY_PATH));
    os_sim_watch(NULL, NULL);
    assert_true(saved.count > 6 && saved.count < STAGE_STATES);
    saved.states[saved.count++] = os_sim_save();
}

static void a_power_cut_leaves_a_whole_copy_or_none(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        save_each_step_of_a_copy(prepare(i / 2 == 0 ? 0 : KM_FULL_PAGES, i % 2 == 1));
        unsigned there = 0, missing = 0;
        for (size_t step = 0; step < saved.count; step++) {
            for (uint64_t seed = 0; seed < 16; seed++) {
                os_sim_reboot(saved.states[step], (enum os_sim_policy)(seed % OS_SIM_POLICY_COUNT), seed);
                const bool exists = os_sim_exists(COPY_PATH);
                there += exists;
                missing += !exists;
                assert_true(exists || step + 1 < saved.count); /* what returned is durable */
                if (exists)
                    expect_copy(COPY_PATH, NEWEST);
                stage_reopen(NEWEST);
            }
        }
        assert_true(there > 16 && missing > 16);
        stage_forget(&saved);
    }
}

static void a_copier_that_dies_leaves_a_whole_copy_or_none(void **state) {
    (void)state;
    for (int clones = 0; clones < 2; clones++) {
        save_each_step_of_a_copy(prepare(0, clones == 1));
        unsigned there = 0;
        for (size_t step = 0; step < saved.count; step++) {
            os_sim_kill(saved.states[step]);
            if (os_sim_exists(COPY_PATH)) {
                expect_copy(COPY_PATH, NEWEST);
                there++;
            }
            stage_reopen(NEWEST);
        }
        assert_int_equal(there, 2); /* before the name is synced, and after */
        stage_forget(&saved);
    }
}

/* Who finds it has no reason to doubt that it will stay. */
static void a_commit_to_a_copy_outlasts_the_death_of_its_copier(void **state) {
    (void)state;
    save_each_step_of_a_copy(prepare(0, false));
    os_sim_kill(saved.states[saved.count - 2]); /* it has its name, which is not durable */
    assert_true(os_sim_exists(COPY_PATH));
    km_map *map = open_at(COPY_PATH, 0);
    stage_commit(map, NEWEST + 1);
    os_sim_cut();
    os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
    assert_true(os_sim_exists(COPY_PATH));
    map = open_at(COPY_PATH, 0);
    stage_expect(map, NEWEST + 1);
    must(km_close(map));
    stage_forget(&saved);
}

/* ---- what fails -------------------------------------------------------------------------------------------------- */

static const struct {
    enum os_sim_operation operation;
    int code;
} failures[] = {
    {OS_SIM_CREATE, KM_ENOSPACE}, {OS_SIM_PUBLISH, KM_EIO},   {OS_SIM_PUBLISH, KM_EEXISTS},   {OS_SIM_INFO, KM_EIO},
    {OS_SIM_READ, KM_EIO},        {OS_SIM_WRITE, KM_EIO},     {OS_SIM_WRITE, KM_ENOSPACE},    {OS_SIM_SYNC, KM_EIO},
    {OS_SIM_RESIZE, KM_ENOSPACE}, {OS_SIM_SYNC, KM_ENOSPACE}, {OS_SIM_ALLOCATE, KM_ENOSPACE},
};

/* One call fails: nothing is left of the copy, the map goes on, and so does its next copy. False if there is no such
 * call. */
static bool fails_at(km_map *map, size_t i, uint64_t n) {
    os_sim_fail(failures[i].operation, n, 1, failures[i].code);
    const int result = km_copy(map, COPY_PATH);
    const bool failed = os_sim_failures() > 0;
    os_sim_fail(failures[i].operation, 0, 0, 0);
    assert_int_equal(os_sim_exists(COPY_PATH), result == 0);
    if (result == 0) {
        expect_copy(COPY_PATH, NEWEST);
        return failed;
    }
    assert_true(failed);
    if (result == KM_ESTALE) { /* whether the source is still there could not be seen */
        assert_int_equal(failures[i].operation, OS_SIM_INFO);
        (void)km_close(map);
        stage_reopen(NEWEST);
        return true;
    }
    assert_int_equal(result, failures[i].code);
    stage_expect(map, NEWEST);
    must(km_copy(map, AGAIN_PATH));
    stage_commit(map, NEWEST + 1);
    check_clean(map);
    must(km_close(map));
    expect_copy(AGAIN_PATH, NEWEST);
    os_sim_cut();
    os_sim_reboot(NULL, OS_SIM_EVERYTHING, n);
    assert_false(os_sim_exists(COPY_PATH));
    stage_reopen(NEWEST + 1);
    return true;
}

static void whatever_fails_leaves_nothing_behind(void **state) {
    (void)state;
    for (int clones = 0; clones < 2; clones++) {
        for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++) {
            uint64_t n = 1;
            while (fails_at(prepare(0, clones == 1), i, n))
                n++;
            assert_true(n > 1);
        }
    }
}

/* The name is there, its sync fails, and it cannot be taken away: that is told. */
static void a_name_that_cannot_be_taken_back_is_told(void **state) {
    (void)state;
    km_map *map = prepare(0, false);
    os_sim_fail(OS_SIM_SYNC, 2, 1, KM_EIO);
    os_sim_fail(OS_SIM_REMOVE, 1, 1, KM_EACCESS);
    must_fail(km_copy(map, COPY_PATH), KM_EIO);
    check_detail_contains("remove it");
    expect_copy(COPY_PATH, NEWEST);
}

static void expect_bytes(km_map *map, const unsigned char *bytes, size_t length) {
    must(km_begin(map, KM_READ));
    assert_memory_equal(km_data(map), bytes, length);
    must(km_abort(map));
    check_clean(map);
}

/* A clone that gives up half-way has left bytes in pages that are zeros by now. */
static void what_a_refused_clone_left_does_not_show(void **state) {
    (void)state;
    unsigned refused = 0;
    for (uint64_t n = 1, failed = 1; failed > 0; n++) {
        km_map *map = prepare(0, true);
        must(km_begin(map, KM_WRITE));
        memset(km_data(map), 0, 3 * KM_PAGE_SIZE);
        must(km_commit(map));
        unsigned char bytes[STAGE_SIZE];
        memcpy(bytes, km_data(map), STAGE_SIZE);
        os_sim_fail(OS_SIM_WRITE, n, 1, KM_EUNSUPPORTED);
        const int result = km_copy(map, COPY_PATH);
        failed = os_sim_failures();
        os_sim_fail(OS_SIM_WRITE, 0, 0, 0);
        must(km_close(map));
        assert_int_equal(os_sim_exists(COPY_PATH), result == 0);
        if (result != 0)
            continue;
        refused += failed > 0;
        map = open_at(COPY_PATH, 0);
        expect_bytes(map, bytes, STAGE_SIZE);
        must(km_close(map));
    }
    assert_int_equal(refused, 1);
}

/* ---- others, meanwhile ------------------------------------------------------------------------------------------- */

static km_map *other;
static uint64_t newest;

static void commit_and_checkpoint(void) {
    for (int i = 0; i < 3; i++) {
        stage_commit(other, ++newest);
        must(km_checkpoint(other));
    }
}

static void change_everything(void) {
    stage_large = newest + 1;
    stage_commit(other, ++newest); /* makes the journal longer */
    must(km_checkpoint(other));
    stage_empty = newest + 1;
    must(km_grow(other, STAGE_SIZE + 5000));
    newest++;
    must(km_checkpoint(other));
}

static km_map *open_with_room(uint32_t flags, bool clones) {
    stage_reset();
    os_sim_set_clone(clones);
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = STAGE_SIZE,
                                       .max_size = STAGE_SIZE + 5000,
                                       .journal_size = STAGE_RING,
                                       .flags = KM_CREATE | flags,
                                       .timeout_ms = 5};
    must(km_open(&map, STAGE_PATH, &options));
    return map;
}

/* At each step of the copy; the commits that it has not seen yet may bring home up to what it shows, not further. */
static void a_copy_shows_its_commit_whatever_happens_beside(void **state) {
    (void)state;
    static void (*const events[])(void) = {commit_and_checkpoint, change_everything};
    for (unsigned i = 0; i < 16; i++) {
        const uint32_t flags = i / 8 == 0 ? 0 : KM_FULL_PAGES;
        for (uint64_t n = 1;; n++) {
            other = open_with_room(flags, i % 2 == 1);
            km_map *map = open_at(STAGE_PATH, i / 2 % 2 == 0 ? 0 : KM_READONLY);
            for (newest = 0; newest < NEWEST;) {
                stage_commit(other, ++newest);
                if (newest == 2)
                    must(km_checkpoint(other));
            }
            stage_beside(n, events[i / 4 % 2]);
            must(km_copy(map, COPY_PATH));
            const bool happened = stage_happened();
            stage_expect(map, newest);
            stage_expect(other, newest);
            check_clean(other);
            must(km_close(map));
            must(km_close(other));
            stage_reopen(newest);
            stage_large = stage_empty = 0;
            expect_copy(COPY_PATH, NEWEST);
            if (!happened)
                break;
            assert_true(newest > NEWEST);
        }
    }
}

static void cut_the_source_short(void) {
    must(os_file_resize(other->file, other->header.data_offset + 3 * KM_PAGE_SIZE));
}

static void a_source_that_is_cut_short_is_no_copy(void **state) {
    (void)state;
    unsigned refused = 0;
    for (int clones = 0; clones < 2; clones++) {
        for (uint64_t n = 1;; n++) {
            other = prepare(0, clones == 1);
            stage_beside(n, cut_the_source_short);
            const int result = km_copy(other, COPY_PATH);
            const bool happened = stage_happened();
            assert_int_equal(os_sim_exists(COPY_PATH), result == 0);
            if (result == 0) /* it was whole when the last byte had been read */
                expect_copy(COPY_PATH, NEWEST);
            else
                assert_int_equal(result, KM_ESTALE);
            refused += result != 0;
            (void)km_close(other);
            if (!happened)
                break;
        }
    }
    assert_true(refused > 4);
}

/* ---- live maps --------------------------------------------------------------------------------------------------- */

#define LIVE_PAGES 300u /* more than is copied in one go */
#define LIVE_SIZE (LIVE_PAGES * KM_PAGE_SIZE)

static km_map *open_live(uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = LIVE_SIZE, .mode = KM_LIVE, .flags = flags, .timeout_ms = 5};
    must(km_open(&map, STAGE_PATH, &options));
    return map;
}

/* Every second page at either end; with `changed` the others, and at the latter end none. */
static void fill_live(unsigned char *data, bool changed) {
    for (unsigned page = 0; page < LIVE_PAGES; page = page == 7 ? LIVE_PAGES - 8 : page + 1) {
        const bool zero = (page % 2 == 0) == changed || (changed && page > 7);
        memset(data + page * KM_PAGE_SIZE, zero ? 0 : (int)(page + changed) % 99 + 1, KM_PAGE_SIZE);
    }
}

static km_map *prepare_live(bool clones) {
    stage_reset();
    os_sim_set_clone(clones);
    km_map *map = open_live(KM_CREATE);
    must(km_begin(map, KM_WRITE));
    fill_live(km_data(map), false);
    must(km_commit(map));
    return map;
}

static void expect_live_copy(void) {
    static unsigned char expected[LIVE_SIZE];
    fill_live(expected, false);
    km_map *map = open_at(COPY_PATH, KM_READONLY); /* to open it for writing would break the seal */
    assert_int_equal(check_info(map).mode, KM_LIVE);
    assert_int_equal(check_info(map).clean, 1);
    assert_memory_equal(km_data(map), expected, LIVE_SIZE);
    assert_int_equal(km_generation(map), 1);
    check_clean(map);
    must(km_close(map));
    map = open_at(COPY_PATH, 0);
    must(km_begin(map, KM_WRITE)); /* nobody died in it */
    must(km_commit(map));
    must(km_close(map));
}

static void a_power_cut_leaves_a_whole_live_copy_or_none(void **state) {
    (void)state;
    for (int clones = 0; clones < 2; clones++) {
        save_each_step_of_a_copy(prepare_live(clones == 1));
        unsigned there = 0;
        for (size_t step = 0; step < saved.count; step++) {
            for (uint64_t seed = 0; seed < 12; seed++) {
                os_sim_reboot(saved.states[step], (enum os_sim_policy)(seed % OS_SIM_POLICY_COUNT), seed);
                const bool exists = os_sim_exists(COPY_PATH);
                assert_true(exists || step + 1 < saved.count);
                there += exists;
                if (exists)
                    expect_live_copy();
            }
        }
        assert_true(there > 12);
        stage_forget(&saved);
    }
}

static void a_commit_to_a_live_copy_outlasts_the_death_of_its_copier(void **state) {
    (void)state;
    save_each_step_of_a_copy(prepare_live(false));
    os_sim_kill(saved.states[saved.count - 2]);
    km_map *map = open_at(COPY_PATH, 0);
    must(km_sync(map));
    os_sim_cut();
    os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
    assert_true(os_sim_exists(COPY_PATH));
    stage_forget(&saved);
}

static void fail_to_begin(void) {
    must_fail(km_begin(other, KM_WRITE), KM_EBUSY);
}

static void no_transaction_begins_while_a_live_map_is_copied(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        for (uint64_t n = 1;; n++) {
            other = prepare_live(false);
            km_map *map = open_live(i == 0 ? 0 : KM_READONLY);
            stage_beside(n, fail_to_begin);
            must(km_copy(map, COPY_PATH));
            const bool happened = stage_happened();
            must(km_begin(other, KM_WRITE));
            must(km_abort(other));
            must(km_close(map));
            must(km_close(other));
            expect_live_copy();
            if (!happened)
                break;
        }
    }
}

static bool leaves;

static void come_and_store(void) {
    other = open_live(0);
    fill_live(km_data(other), true);
    if (leaves) {
        must(km_close(other));
        other = NULL;
    }
}

/* Nobody had it open when the copy began, so its checksums are compared; they are worth nothing once somebody comes. */
static void who_attaches_meanwhile_is_not_taken_for_damage(void **state) {
    (void)state;
    static unsigned char before[LIVE_SIZE], after[LIVE_SIZE];
    for (int i = 0; i < 2; i++) {
        leaves = i == 1;
        for (uint64_t n = 1;; n++) {
            must(km_close(prepare_live(false)));
            km_map *map = open_live(KM_READONLY);
            other = NULL;
            stage_beside(n, come_and_store);
            must(km_copy(map, COPY_PATH));
            const bool happened = stage_happened();
            must(km_close(map));
            must(km_close(other));
            map = open_at(COPY_PATH, KM_READONLY);
            assert_int_equal(check_info(map).clean, 1);
            check_clean(map);
            fill_live(before, false);
            fill_live(after, true);
            for (size_t at = 0; at < LIVE_SIZE; at += KM_PAGE_SIZE) {
                const unsigned char byte = ((const unsigned char *)km_data(map))[at];
                assert_true(byte == before[at] || byte == after[at]);
            }
            must(km_close(map));
            if (!happened)
                break;
        }
    }
}

/* A store to a shared block can meet a full disk. That a clone is refused would be forgiven. */
static void a_live_copy_shares_no_blocks(void **state) {
    (void)state;
    uint64_t n = 0;
    for (bool failed = true; failed; n++) {
        km_map *map = prepare_live(true);
        os_sim_fail(OS_SIM_WRITE, n + 1, 1, KM_EUNSUPPORTED);
        const int result = km_copy(map, COPY_PATH);
        failed = os_sim_failures() > 0;
        os_sim_fail(OS_SIM_WRITE, 0, 0, 0);
        assert_int_equal(result, failed ? KM_EUNSUPPORTED : 0);
        must(km_close(map));
    }
    assert_true(n > 4);
}

/* ---- from a file ------------------------------------------------------------------------------------------------- */

#define FROM_SIZE (20 * KM__ALIGN + 1234u) /* more than is copied in one go; the end of it cannot share its blocks */

static const unsigned char *source(void) {
    static unsigned char bytes[FROM_SIZE];
    for (size_t at = 0; at < FROM_SIZE; at += KM_PAGE_SIZE)
        bytes[at] = at % (5 * KM_PAGE_SIZE) == 0 ? 0 : (unsigned char)(at / KM_PAGE_SIZE % 250 + 1);
    return bytes;
}

static void prepare_source(bool clones) {
    stage_reset();
    os_sim_set_clone(clones);
    os_sim_put(SOURCE_PATH, source(), FROM_SIZE);
}

static int make_from(km_map **map, uint32_t mode) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .mode = mode,
                                       .journal_size = mode == KM_TRANSACTIONAL ? STAGE_RING : 0,
                                       .flags = KM_CREATE | KM_EXCLUSIVE,
                                       .from = SOURCE_PATH,
                                       .timeout_ms = 5};
    return km_open(map, COPY_PATH, &options);
}

static void a_power_cut_leaves_a_whole_map_from_a_file_or_none(void **state) {
    (void)state;
    static const uint32_t modes[] = {KM_TRANSACTIONAL, KM_LIVE};
    for (int i = 0; i < 4; i++) {
        km_map *map = NULL;
        prepare_source(i % 2 == 1);
        os_sim_watch(stage_save, &saved);
        must(make_from(&map, modes[i / 2]));
        os_sim_watch(NULL, NULL);
        unsigned there = 0;
        for (size_t step = 0; step < saved.count; step++) {
            for (uint64_t seed = 0; seed < 8; seed++) {
                os_sim_reboot(saved.states[step], (enum os_sim_policy)(seed % OS_SIM_POLICY_COUNT), seed);
                if (!os_sim_exists(COPY_PATH))
                    continue;
                there++;
                km_map *found = open_at(COPY_PATH, 0);
                assert_int_equal(km_size(found), FROM_SIZE);
                expect_bytes(found, source(), FROM_SIZE);
                must(km_close(found));
            }
        }
        assert_true(there > 0);
        stage_forget(&saved);
    }
}

static void whatever_fails_leaves_a_whole_map_from_a_file_or_none(void **state) {
    (void)state;
    for (int clones = 0; clones < 2; clones++) {
        for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++) {
            for (uint64_t n = 1, failed = 1; failed > 0; n++) {
                km_map *map = NULL;
                prepare_source(clones == 1);
                os_sim_fail(failures[i].operation, n, 1, failures[i].code);
                const int result = make_from(&map, KM_TRANSACTIONAL);
                failed = os_sim_failures();
                os_sim_fail(failures[i].operation, 0, 0, 0);
                assert_true(result == 0 || failed > 0);
                if (result != 0 && !os_sim_exists(COPY_PATH))
                    continue;
                if (result != 0) /* made, but not attached */
                    map = open_at(COPY_PATH, 0);
                expect_bytes(map, source(), FROM_SIZE);
                must(km_close(map));
            }
        }
    }
}

static void change_the_source(void) {
    unsigned char noise[KM_PAGE_SIZE];
    memset(noise, 0xee, sizeof noise);
    for (uint64_t at = 0; at + sizeof noise <= FROM_SIZE; at += sizeof noise)
        assert_true(os_sim_damage(SOURCE_PATH, at, noise, sizeof noise));
}

/* The checksums are of the bytes that arrived, whichever these are. */
static void a_file_may_change_while_a_map_is_made_from_it(void **state) {
    (void)state;
    static const uint32_t modes[] = {KM_TRANSACTIONAL, KM_LIVE};
    for (int i = 0; i < 4; i++) {
        for (uint64_t n = 1;; n++) {
            km_map *map = NULL;
            prepare_source(i % 2 == 1);
            stage_beside(n, change_the_source);
            must(make_from(&map, modes[i / 2]));
            const bool happened = stage_happened();
            check_clean(map);
            must(km_close(map));
            map = open_at(COPY_PATH, KM_READONLY);
            check_clean(map);
            must(km_close(map));
            if (!happened)
                break;
        }
    }
}

static void empty_the_source(void) {
    struct os_file *file = NULL;
    must(os_file_open(&file, SOURCE_PATH, true));
    must(os_file_zero(file, 0, FROM_SIZE));
    os_file_close(file);
}

/* Which write shares the blocks: the one whose refusal is forgiven. */
static uint64_t find_clone(void) {
    for (uint64_t n = 1;; n++) {
        km_map *map = NULL;
        prepare_source(true);
        os_sim_fail(OS_SIM_WRITE, n, 1, KM_EUNSUPPORTED);
        const int result = make_from(&map, KM_TRANSACTIONAL);
        assert_int_equal(os_sim_failures(), 1);
        must(km_close(map));
        if (result == 0)
            return n;
    }
}

/* What the clone left where a hole is by now is no hole. */
static void a_file_may_become_a_hole_after_a_refused_clone(void **state) {
    (void)state;
    const uint64_t clone = find_clone();
    for (uint64_t n = 1, happened = 1; happened; n++) {
        km_map *map = NULL;
        prepare_source(true);
        os_sim_fail(OS_SIM_WRITE, clone, 1, KM_EUNSUPPORTED);
        stage_beside(n, empty_the_source);
        must(make_from(&map, KM_TRANSACTIONAL));
        happened = stage_happened();
        check_clean(map);
        must(km_close(map));
    }
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_power_cut_leaves_a_whole_copy_or_none),
        cmocka_unit_test(a_copier_that_dies_leaves_a_whole_copy_or_none),
        cmocka_unit_test(a_commit_to_a_copy_outlasts_the_death_of_its_copier),
        cmocka_unit_test(whatever_fails_leaves_nothing_behind),
        cmocka_unit_test(a_name_that_cannot_be_taken_back_is_told),
        cmocka_unit_test(what_a_refused_clone_left_does_not_show),
        cmocka_unit_test(a_copy_shows_its_commit_whatever_happens_beside),
        cmocka_unit_test(a_source_that_is_cut_short_is_no_copy),
        cmocka_unit_test(a_power_cut_leaves_a_whole_live_copy_or_none),
        cmocka_unit_test(a_commit_to_a_live_copy_outlasts_the_death_of_its_copier),
        cmocka_unit_test(no_transaction_begins_while_a_live_map_is_copied),
        cmocka_unit_test(who_attaches_meanwhile_is_not_taken_for_damage),
        cmocka_unit_test(a_live_copy_shares_no_blocks),
        cmocka_unit_test(a_power_cut_leaves_a_whole_map_from_a_file_or_none),
        cmocka_unit_test(whatever_fails_leaves_a_whole_map_from_a_file_or_none),
        cmocka_unit_test(a_file_may_change_while_a_map_is_made_from_it),
        cmocka_unit_test(a_file_may_become_a_hole_after_a_refused_clone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
