/* SPDX-License-Identifier: MIT
 *
 * The simulated system keeps the contract of os.h, and loses what it may lose: a crash test is worth as much as this.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "os/os.h"
#include "support/os_sim.h"

#define NAME "a.km"
#define SIZE 65536u
#define IMAGES 64

static void assert_done(int result) {
    if (result != 0)
        fail_msg("%s", km__error_detail());
}

static struct os_file *open_file(void) {
    struct os_file *file = NULL;
    assert_done(os_file_open(&file, NAME, true));
    return file;
}

/* A durable file of SIZE bytes 'a'. */
static struct os_file *make_file(void) {
    static unsigned char bytes[SIZE];
    struct os_file *file = NULL;
    memset(bytes, 'a', sizeof bytes);
    os_sim_reset(1);
    assert_done(os_file_create(&file, NAME, 0600));
    assert_done(os_file_write(file, 0, bytes, sizeof bytes));
    assert_done(os_file_sync(file));
    assert_done(os_file_publish(file, NAME, false));
    return file;
}

static void write_letter(struct os_file *file, uint64_t offset, size_t length, char letter) {
    unsigned char bytes[SIZE];
    memset(bytes, letter, length);
    assert_done(os_file_write(file, offset, bytes, length));
}

static char letter_at(uint64_t offset) {
    char letter = 0;
    assert_true(os_sim_read(NAME, offset, &letter, 1));
    return letter;
}

/* Whether all of a range has one letter. */
static bool range_is(uint64_t offset, size_t length, char letter) {
    unsigned char bytes[SIZE];
    assert_true(os_sim_read(NAME, offset, bytes, length));
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] != (unsigned char)letter)
            return false;
    }
    return true;
}

static void what_was_synced_survives_every_image(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    struct os_region region = {.address = NULL};
    write_letter(file, 0, 8192, 'b');
    assert_done(os_file_sync(file));
    write_letter(file, 8192, 4096, 'c');
    assert_done(os_region_map(&region, file, 0, SIZE, false));
    assert_done(os_region_sync(&region, 8192, 4096));
    unsigned char bytes[512];
    memset(bytes, 'd', sizeof bytes);
    assert_done(os_file_write_durable(file, SIZE, bytes, sizeof bytes));
    write_letter(file, 20000, 10000, 'x');
    struct os_sim_state *crash = os_sim_save();
    os_region_unmap(&region);
    os_file_close(file);
    for (int policy = 0; policy < OS_SIM_POLICY_COUNT; policy++) {
        for (uint64_t seed = 0; seed < IMAGES; seed++) {
            os_sim_reboot(crash, (enum os_sim_policy)policy, seed);
            assert_true(range_is(0, 8192, 'b'));
            assert_true(range_is(8192, 4096, 'c'));
            assert_true(range_is(SIZE, 512, 'd'));
            /* A disk that garbles can have sectors of a page. */
            const uint64_t end = policy == OS_SIM_GARBLED ? 20000 / 4096 * 4096 : 20000 / 512 * 512;
            assert_true(range_is(12288, end - 12288, 'a'));
        }
    }
    os_sim_state_free(crash);
}

/* What was synced shares its page with what was not: a disk with sectors of 512 bytes keeps it, one with larger
 * ones may not. */
static void a_disk_that_garbles_has_sectors_of_either_size(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    write_letter(file, 4096, 512, 'b');
    struct os_sim_state *crash = os_sim_save();
    os_file_close(file);
    bool small = false, large = false;
    for (uint64_t seed = 0; seed < 4 * IMAGES; seed++) {
        os_sim_reboot(crash, OS_SIM_GARBLED, seed);
        assert_true(range_is(0, 4096, 'a') && range_is(8192, SIZE - 8192, 'a'));
        const bool noise = letter_at(4096) != 'a' && letter_at(4096) != 'b', kept = range_is(4608, 3584, 'a');
        small = small || (noise && kept);
        large = large || !kept;
    }
    assert_true(small && large);
    os_sim_state_free(crash);
}

static void what_was_not_synced_may_be_lost_or_kept_in_any_version(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    write_letter(file, 512, 512, 'b');
    write_letter(file, 512, 512, 'c');
    write_letter(file, 512, 512, 'd');
    write_letter(file, 4096, 4096, 'e');
    struct os_sim_state *crash = os_sim_save();
    os_file_close(file);
    assert_int_equal(os_sim_state_pending(crash), 9);

    os_sim_reboot(crash, OS_SIM_NOTHING, 0);
    assert_true(range_is(0, SIZE, 'a'));
    os_sim_reboot(crash, OS_SIM_EVERYTHING, 0);
    assert_true(range_is(512, 512, 'd') && range_is(4096, 4096, 'e') && range_is(0, 512, 'a'));

    unsigned seen = 0;
    bool mixed = false, whole = false;
    for (uint64_t seed = 0; seed < 4 * IMAGES; seed++) {
        os_sim_reboot(crash, OS_SIM_SECTORS, seed);
        seen |= 1u << (letter_at(512) - 'a');
        assert_true(range_is(512, 512, letter_at(512)));
        mixed |= !range_is(4096, 4096, letter_at(4096));
    }
    assert_int_equal(seen, 15);
    assert_true(mixed);

    mixed = false;
    for (uint64_t seed = 0; seed < IMAGES; seed++) {
        os_sim_reboot(crash, OS_SIM_WRITES, seed);
        mixed |= !range_is(4096, 4096, letter_at(4096));
        whole |= letter_at(512) != 'd' && letter_at(4096) == 'e';
        os_sim_reboot(crash, OS_SIM_PREFIX, seed);
        assert_false(letter_at(512) != 'd' && letter_at(4096) == 'e');
    }
    assert_false(mixed);
    assert_true(whole);
    os_sim_state_free(crash);
}

/* However much was written and synced before, the moment lies among the writes that are open. */
static void a_prefix_ends_among_the_writes_that_are_open(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    for (unsigned i = 0; i < 2000; i++)
        write_letter(file, 512, 512, (char)('b' + i % 2));
    assert_done(os_file_sync(file));
    for (unsigned i = 0; i < 4; i++)
        write_letter(file, 4096 + i * 4096, 512, 'e');
    struct os_sim_state *crash = os_sim_save();
    os_file_close(file);
    unsigned ends[5] = {0};
    for (uint64_t seed = 0; seed < 4 * IMAGES; seed++) {
        unsigned kept = 0;
        os_sim_reboot(crash, OS_SIM_PREFIX, seed);
        while (kept < 4 && letter_at(4096 + kept * 4096) == 'e')
            kept++;
        ends[kept]++;
        for (unsigned i = kept; i < 4; i++)
            assert_int_equal(letter_at(4096 + i * 4096), 'a');
    }
    for (unsigned i = 0; i < 5; i++)
        assert_true(ends[i] > 0);
    os_sim_state_free(crash);
}

/* The same places of two files, written at the same time: one may have what the other lacks. */
static void two_files_lose_what_they_lose_each_for_itself(void **unused) {
    (void)unused;
    struct os_file *file = make_file(), *other = NULL;
    assert_done(os_file_create(&other, "other.km", 0600));
    assert_done(os_file_resize(other, SIZE));
    assert_done(os_file_sync(other));
    assert_done(os_file_publish(other, "other.km", false));
    write_letter(file, 0, 512, 'b');
    write_letter(other, 0, 512, 'b');
    struct os_sim_state *crash = os_sim_save();
    os_file_close(file);
    os_file_close(other);
    for (int policy = OS_SIM_WRITES; policy <= OS_SIM_SECTORS; policy++) {
        unsigned seen = 0;
        for (uint64_t seed = 0; seed < 4 * IMAGES; seed++) {
            char letter = 0;
            os_sim_reboot(crash, (enum os_sim_policy)policy, seed);
            assert_true(os_sim_read("other.km", 0, &letter, 1));
            seen |= 1u << ((letter_at(0) == 'b') + 2 * (letter == 'b'));
        }
        assert_int_equal(seen, 15);
    }
    os_sim_state_free(crash);
}

/* Of the write that is torn each page has some sectors and not others, of any other it has all. */
static void a_torn_write_is_there_in_part_and_the_others_are_there_whole(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    write_letter(file, 4096, 1024, 'b');
    write_letter(file, 20000, 1, 'c'); /* a single sector cannot be torn */
    write_letter(file, 40960, 8192, 'd');
    struct os_sim_state *crash = os_sim_save();
    assert_int_equal(os_sim_state_pending_in(crash, NAME, 4096, 1024), 2);
    assert_int_equal(os_sim_state_pending_in(crash, NAME, 4000, 600), 1);
    assert_int_equal(os_sim_state_pending_in(crash, "/disk/none", 0, SIZE), 0);
    unsigned torn[2] = {0, 0};
    for (uint64_t seed = 0; seed < IMAGES; seed++) {
        os_sim_reboot(crash, OS_SIM_TORN, seed);
        assert_int_equal(letter_at(20000), 'c');
        const bool whole[2] = {range_is(4096, 1024, 'b'), range_is(40960, 8192, 'd')};
        assert_true(whole[0] != whole[1]);
        torn[0] += !whole[0];
        torn[1] += !whole[1];
        if (!whole[0])
            assert_true((letter_at(4096) == 'b') != (letter_at(4608) == 'b'));
        for (unsigned page = 0; page < 2 && !whole[1]; page++) {
            unsigned there = 0;
            for (unsigned sector = 0; sector < 8; sector++)
                there += letter_at(40960 + page * 4096 + sector * OS_SIM_SECTOR) == 'd';
            assert_in_range(there, 1, 7);
        }
    }
    assert_true(torn[0] > 0 && torn[1] > 0);
    os_sim_state_free(crash);
    os_file_close(file);
}

static void the_same_seed_gives_the_same_image(void **unused) {
    (void)unused;
    static unsigned char one[SIZE], two[SIZE];
    struct os_file *file = make_file();
    for (uint64_t i = 0; i < 100; i++)
        write_letter(file, i * 600, 700, (char)('b' + i % 20));
    struct os_sim_state *crash = os_sim_save();
    os_file_close(file);
    for (uint64_t seed = 0; seed < IMAGES; seed++) {
        os_sim_reboot(crash, OS_SIM_SECTORS, seed);
        assert_true(os_sim_read(NAME, 0, one, SIZE));
        os_sim_reboot(crash, OS_SIM_SECTORS, seed);
        assert_true(os_sim_read(NAME, 0, two, SIZE));
        assert_memory_equal(one, two, SIZE);
    }
    os_sim_state_free(crash);
}

static void a_cut_stops_every_later_step(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    os_sim_cut_at_step(2);
    write_letter(file, 0, 512, 'b');
    unsigned char bytes[512];
    memset(bytes, 'c', sizeof bytes);
    assert_int_equal(os_file_write(file, 512, bytes, sizeof bytes), KM_EIO);
    assert_true(os_sim_is_cut());
    assert_int_equal(os_file_sync(file), KM_EIO);
    assert_int_equal(os_file_write(file, 0, bytes, sizeof bytes), KM_EIO);
    assert_int_equal(os_file_resize(file, 100), KM_EIO);
    assert_int_equal(os_file_allocate(file, 0, 100), KM_EIO);
    assert_int_equal(os_file_zero(file, 0, 100), KM_EIO);
    assert_int_equal(os_file_publish(file, "b.km", false), KM_EIO);
    os_sim_reboot(NULL, OS_SIM_EVERYTHING, 0);
    assert_int_equal(letter_at(0), 'b');
    assert_int_equal(letter_at(512), 'a');
    assert_int_equal(os_file_sync(file), KM_EIO); /* the handle is dead */
    os_file_close(file);
}

static void a_cut_at_a_sync_comes_before_it_takes_effect(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    uint64_t syncs = os_sim_syncs();
    os_sim_cut_at_sync(2);
    write_letter(file, 0, 512, 'b');
    assert_done(os_file_sync(file));
    write_letter(file, 0, 512, 'c');
    assert_int_equal(os_file_sync(file), KM_EIO);
    assert_int_equal(os_sim_syncs(), syncs + 2);
    os_sim_reboot(NULL, OS_SIM_NOTHING, 0);
    assert_int_equal(letter_at(0), 'b');
    os_file_close(file);
}

static void jump_away(void *context) {
    longjmp(*(jmp_buf *)context, 1);
}

static void a_cut_can_stop_the_script(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    jmp_buf back;
    os_sim_on_cut(jump_away, &back);
    os_sim_cut_at_step(1);
    if (setjmp(back) == 0) {
        write_letter(file, 0, 512, 'b');
        fail_msg("the script went on");
    }
    assert_true(os_sim_is_cut());
    os_sim_reboot(NULL, OS_SIM_EVERYTHING, 0);
    assert_true(range_is(0, SIZE, 'a'));
    os_file_close(file);
}

struct saved_points {
    struct os_sim_state *states[8];
    size_t count;
};

static void save_point(void *context, enum os_sim_operation operation, uint64_t step) {
    struct saved_points *points = context;
    (void)operation;
    assert_int_equal(step, os_sim_steps());
    assert_true(points->count < 8);
    points->states[points->count++] = os_sim_save();
}

static void each_point_of_a_run_can_be_saved(void **unused) {
    (void)unused;
    struct saved_points points = {.count = 0};
    struct os_file *file = make_file();
    os_sim_watch(save_point, &points);
    write_letter(file, 0, 512, 'b');
    assert_done(os_file_sync(file));
    write_letter(file, 0, 512, 'c');
    os_sim_watch(NULL, NULL);
    os_file_close(file);
    assert_int_equal(points.count, 3);
    const char lost[] = "aab", kept[] = "abb";
    for (size_t i = 0; i < 3; i++) {
        os_sim_reboot(points.states[i], OS_SIM_NOTHING, 0);
        assert_int_equal(letter_at(0), lost[i]);
        os_sim_reboot(points.states[i], OS_SIM_EVERYTHING, 0);
        assert_int_equal(letter_at(0), kept[i]);
        os_sim_state_free(points.states[i]);
    }
}

static void a_failed_sync_keeps_the_cache_and_a_later_success_means_nothing(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    write_letter(file, 0, 512, 'b');
    write_letter(file, 4096, 512, 'b');
    assert_int_equal(os_file_sync(file), KM_EIO);
    assert_int_equal(os_sim_failures(), 1);
    assert_int_equal(letter_at(0), 'b');
    assert_done(os_file_sync(file)); /* a success that wrote nothing */

    /* Writing the same bytes again is what makes them durable. */
    write_letter(file, 4096, 512, 'b');
    assert_done(os_file_sync(file));
    struct os_sim_state *crash = os_sim_save();
    os_file_close(file);
    unsigned seen = 0;
    for (uint64_t seed = 0; seed < IMAGES; seed++) {
        os_sim_reboot(crash, OS_SIM_SECTORS, seed);
        assert_true(range_is(4096, 512, 'b'));
        seen |= 1u << (letter_at(0) - 'a');
    }
    assert_int_equal(seen, 3);
    os_sim_reboot(crash, OS_SIM_NOTHING, 0);
    assert_int_equal(letter_at(0), 'a');
    os_sim_state_free(crash);
}

static void a_killed_process_leaves_the_cache_and_the_doubt(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    struct os_locks *locks = NULL, *others = NULL;
    assert_done(os_locks_open(&locks, file));
    assert_done(os_lock_try(locks, 5, 1, OS_LOCK_WRITE));
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    write_letter(file, 0, 512, 'b');
    assert_int_equal(os_file_sync(file), KM_EIO);
    write_letter(file, 512, 512, 'c');
    os_sim_kill(NULL);

    struct os_file *next = open_file();
    assert_done(os_locks_open(&others, next));
    assert_done(os_lock_try(others, 5, 1, OS_LOCK_WRITE));
    assert_int_equal(os_lock_try(locks, 6, 1, OS_LOCK_WRITE), KM_EIO);
    assert_int_equal(letter_at(0), 'b');
    assert_int_equal(letter_at(512), 'c');
    assert_done(os_file_sync(next));
    os_locks_close(locks);
    os_locks_close(others);
    os_file_close(file);
    os_file_close(next);
    os_sim_reboot(NULL, OS_SIM_NOTHING, 0);
    assert_int_equal(letter_at(0), 'a');
    assert_int_equal(letter_at(512), 'c');
}

static void eviction_shows_what_the_disk_holds(void **unused) {
    (void)unused;
    unsigned seen = 0;
    for (uint64_t seed = 0; seed < IMAGES; seed++) {
        struct os_file *file = make_file();
        os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
        write_letter(file, 0, 512, 'b');
        assert_int_equal(os_file_sync(file), KM_EIO);
        write_letter(file, 512, 512, 'c');
        os_sim_evict(seed);
        char letter = letter_at(0);
        seen |= 1u << (letter - 'a');
        assert_int_equal(letter_at(512), 'c'); /* dirty pages stay */
        os_file_close(file);
        os_sim_reboot(NULL, OS_SIM_NOTHING, 0);
        assert_int_equal(letter_at(0), letter);
    }
    assert_int_equal(seen, 3);
}

static void a_name_is_durable_only_after_publication(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    struct os_file *other = NULL;
    assert_done(os_file_create(&other, NAME, 0600));
    assert_done(os_file_write(other, 0, "new", 3));
    assert_done(os_file_sync(other));
    assert_int_equal(os_file_publish(other, NAME, false), KM_EEXISTS);
    os_sim_cut_at_sync(1);
    assert_int_equal(os_file_publish(other, NAME, true), KM_EIO);
    struct os_sim_state *crash = os_sim_save();
    os_file_close(other);
    os_file_close(file);
    os_sim_reboot(crash, OS_SIM_NOTHING, 0);
    assert_int_equal(letter_at(0), 'a');
    os_sim_reboot(crash, OS_SIM_EVERYTHING, 0);
    assert_int_equal(letter_at(0), 'n');
    assert_int_equal(os_sim_size(NAME), 3);
    os_sim_state_free(crash);

    assert_done(os_file_create(&other, "b.km", 0600));
    assert_done(os_file_publish(other, "b.km", false));
    assert_done(os_file_create(&file, "c.km", 0600));
    assert_false(os_sim_exists("c.km"));
    os_file_close(other);
    os_file_close(file);
    os_sim_reboot(NULL, OS_SIM_NOTHING, 0);
    assert_true(os_sim_exists("b.km"));
    assert_false(os_sim_exists("c.km"));
}

static void sizes_are_pending_until_synced(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    assert_done(os_file_resize(file, 2 * SIZE));
    assert_done(os_file_resize(file, 1000));
    assert_done(os_file_resize(file, 3000));
    assert_int_equal(letter_at(999), 'a');
    assert_int_equal(letter_at(1000), 0);
    struct os_sim_state *crash = os_sim_save();
    os_sim_reboot(crash, OS_SIM_NOTHING, 0);
    assert_int_equal(os_sim_size(NAME), SIZE);
    assert_true(range_is(0, SIZE, 'a'));
    os_sim_reboot(crash, OS_SIM_EVERYTHING, 0);
    assert_int_equal(os_sim_size(NAME), 3000);
    assert_int_equal(letter_at(1000), 0);
    os_sim_state_free(crash);
    os_file_close(file);

    file = open_file();
    assert_done(os_file_resize(file, 5000));
    assert_done(os_file_sync(file));
    os_file_close(file);
    os_sim_reboot(NULL, OS_SIM_NOTHING, 0);
    assert_int_equal(os_sim_size(NAME), 5000);
}

static void stores_through_a_region_count_as_unsynced_writes(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    struct os_region region = {.address = NULL};
    assert_done(os_region_map(&region, file, 8192, 8192, true));
    region.address[0] = 'z';
    region.address[4096] = 'z';
    assert_done(os_region_sync(&region, 4096, 512));
    region.address[1024] = 'z';
    struct os_sim_state *crash = os_sim_save();
    region.address[600] = 'y'; /* after the state was saved */
    os_region_unmap(&region);
    os_file_close(file);
    unsigned seen = 0;
    for (uint64_t seed = 0; seed < IMAGES; seed++) {
        os_sim_reboot(crash, OS_SIM_SECTORS, seed);
        assert_int_equal(letter_at(12288), 'z');
        assert_int_equal(letter_at(8192 + 600), 'a');
        seen |= letter_at(8192) == 'z' ? 1u : 2u;
        seen |= letter_at(8192 + 1024) == 'z' ? 4u : 8u;
    }
    assert_int_equal(seen, 15);
    os_sim_state_free(crash);
}

static void a_sync_of_a_range_promises_nothing_beside_it(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    struct os_region region = {.address = NULL};
    assert_done(os_region_map(&region, file, 0, SIZE, false));
    write_letter(file, 0, SIZE, 'b');
    assert_done(os_region_sync(&region, 4096 + 512, 100));
    unsigned char bytes[SIZE / 2];
    memset(bytes, 'c', sizeof bytes);
    assert_done(os_file_write_durable(file, SIZE / 4, bytes, sizeof bytes));
    os_region_unmap(&region);
    os_file_close(file);
    os_sim_reboot(NULL, OS_SIM_NOTHING, 0);
    assert_true(range_is(0, 4096 + 512, 'a') && range_is(4096 + 512, 512, 'b'));
    assert_true(range_is(4096 + 1024, SIZE / 4 - 4096 - 1024, 'a'));
    assert_true(range_is(SIZE / 4, SIZE / 2, 'c') && range_is(SIZE * 3 / 4, SIZE / 4, 'a'));
}

static void what_a_dead_handle_stores_goes_nowhere(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    struct os_region region = {.address = NULL};
    assert_done(os_region_map(&region, file, 0, 4096, true));
    os_sim_cut();
    region.address[0] = 'z';
    os_sim_kill(NULL);
    region.address[1] = 'z';
    assert_true(range_is(0, 2, 'a'));
    os_region_unmap(&region);
    os_file_close(file);
}

static int count_pages(void *context, uint64_t first, uint64_t count) {
    unsigned *seen = context;
    for (uint64_t i = first; i < first + count; i++)
        *seen |= 1u << i;
    return 0;
}

static void views_are_private_and_follow_the_file_where_clean(void **unused) {
    (void)unused;
    for (int wanted = OS_TRACKER_SCAN; wanted <= OS_TRACKER_COMPARE; wanted++) {
        struct os_file *file = make_file();
        struct os_view view = {.address = NULL};
        assert_done(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, 16384, 32768));
        assert_done(os_view_track(&view, (enum os_tracker)wanted));
        view.address[4096] = 'v';
        write_letter(file, 0, 8192, 'f');
        assert_int_equal(view.address[0], 'f');
        assert_int_equal(view.address[4096], 'v');
        assert_int_equal(letter_at(4096), 'f');
        unsigned seen = 0;
        assert_done(os_view_dirty(&view, count_pages, &seen));
        assert_true(seen & 2);
        assert_done(os_view_drop(&view, 4096, 4096));
        assert_int_equal(view.address[4096], 'f');
        assert_done(os_view_grow(&view, 32768));
        assert_int_equal(view.address[20000], 'a');
        os_view_unmap(&view);
        os_file_close(file);
    }
}

static void locks_exclude_by_owner_and_range(void **unused) {
    (void)unused;
    const uint64_t far = UINT64_C(1) << 62;
    struct os_file *file = make_file();
    struct os_locks *one = NULL, *two = NULL;
    uint64_t holder = 0;
    assert_done(os_locks_open(&one, file));
    assert_done(os_locks_open(&two, file));
    assert_done(os_lock_try(one, far + 10, 10, OS_LOCK_READ));
    assert_done(os_lock_try(two, far + 15, 10, OS_LOCK_READ));
    assert_int_equal(os_lock_try(one, far + 10, 10, OS_LOCK_WRITE), KM_EBUSY);
    assert_done(os_lock_try(one, far + 10, 5, OS_LOCK_WRITE));
    assert_int_equal(os_lock_probe(two, far, 100, OS_LOCK_READ, &holder), 1);
    assert_int_equal(holder, far + 10);
    os_lock_release(one, far + 12, 1); /* splits what is held */
    assert_done(os_lock_try(two, far + 12, 1, OS_LOCK_WRITE));
    assert_int_equal(os_lock_try(two, far + 11, 1, OS_LOCK_READ), KM_EBUSY);
    assert_int_equal(os_lock_try(two, far + 13, 1, OS_LOCK_READ), KM_EBUSY);
    os_locks_close(one);
    assert_done(os_lock_try(two, far, 100, OS_LOCK_WRITE));
    os_locks_close(two);
    os_file_close(file);
}

static void any_call_can_be_made_to_fail(void **unused) {
    (void)unused;
    struct os_file *file = make_file();
    struct os_file *other = NULL;
    unsigned char bytes[4096] = {0};
    os_sim_fail(OS_SIM_OPEN, 1, 1, KM_EACCESS);
    assert_int_equal(os_file_open(&other, NAME, true), KM_EACCESS);
    os_sim_fail(OS_SIM_READ, 2, 2, KM_EIO);
    assert_done(os_file_read(file, 0, bytes, 1));
    assert_int_equal(os_file_read(file, 0, bytes, 1), KM_EIO);
    assert_int_equal(os_file_read(file, 0, bytes, 1), KM_EIO);
    assert_done(os_file_read(file, 0, bytes, 1));
    os_sim_fail(OS_SIM_WRITE, 1, UINT64_MAX, KM_ENOSPACE);
    memset(bytes, 'b', sizeof bytes);
    size_t whole = 0;
    for (uint64_t i = 0; i < 8; i++) {
        assert_int_equal(os_file_write(file, i * 4096, bytes, 4096), KM_ENOSPACE);
        whole += range_is(i * 4096, 4096, 'b');
    }
    assert_true(whole < 8);
    os_file_close(file);
}

static void the_clock_and_chance_are_repeatable(void **unused) {
    (void)unused;
    uint64_t times[2], numbers[2], name;
    struct os_waiter *waiter = NULL;
    _Atomic uint32_t word = 7;
    for (int i = 0; i < 2; i++) {
        os_sim_reset(42);
        assert_done(os_waiter_open(&waiter, &name));
        assert_true(name != 0);
        uint64_t before = os_time_monotonic_ns();
        os_waiter_sleep(waiter, &word, 8, UINT64_C(5000000000));
        assert_true(os_time_monotonic_ns() - before < 1000000);
        os_waiter_sleep(waiter, &word, 7, UINT64_C(5000000000));
        times[i] = os_time_monotonic_ns();
        assert_true(times[i] - before >= UINT64_C(5000000000));
        assert_done(os_random(&numbers[i], sizeof numbers[i]));
        os_waiter_close(waiter);
    }
    assert_int_equal(times[0], times[1]);
    assert_int_equal(numbers[0], numbers[1]);
}

static void damage_reaches_cache_and_disk(void **unused) {
    (void)unused;
    os_sim_reset(3);
    os_sim_put(NAME, "good", 4);
    assert_true(os_sim_damage(NAME, 1, "x", 1));
    assert_false(os_sim_damage(NAME, 4, "x", 1));
    assert_int_equal(letter_at(1), 'x');
    os_sim_reboot(NULL, OS_SIM_NOTHING, 0);
    assert_int_equal(letter_at(1), 'x');
    os_sim_remove(NAME);
    struct os_file *file = NULL;
    assert_int_equal(os_file_open(&file, NAME, false), KM_ENOTFOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_synced_survives_every_image),
        cmocka_unit_test(what_was_not_synced_may_be_lost_or_kept_in_any_version),
        cmocka_unit_test(a_disk_that_garbles_has_sectors_of_either_size),
        cmocka_unit_test(a_prefix_ends_among_the_writes_that_are_open),
        cmocka_unit_test(two_files_lose_what_they_lose_each_for_itself),
        cmocka_unit_test(a_torn_write_is_there_in_part_and_the_others_are_there_whole),
        cmocka_unit_test(the_same_seed_gives_the_same_image),
        cmocka_unit_test(a_cut_stops_every_later_step),
        cmocka_unit_test(a_cut_at_a_sync_comes_before_it_takes_effect),
        cmocka_unit_test(a_cut_can_stop_the_script),
        cmocka_unit_test(each_point_of_a_run_can_be_saved),
        cmocka_unit_test(a_failed_sync_keeps_the_cache_and_a_later_success_means_nothing),
        cmocka_unit_test(a_killed_process_leaves_the_cache_and_the_doubt),
        cmocka_unit_test(eviction_shows_what_the_disk_holds),
        cmocka_unit_test(a_name_is_durable_only_after_publication),
        cmocka_unit_test(sizes_are_pending_until_synced),
        cmocka_unit_test(stores_through_a_region_count_as_unsynced_writes),
        cmocka_unit_test(a_sync_of_a_range_promises_nothing_beside_it),
        cmocka_unit_test(what_a_dead_handle_stores_goes_nowhere),
        cmocka_unit_test(views_are_private_and_follow_the_file_where_clean),
        cmocka_unit_test(locks_exclude_by_owner_and_range),
        cmocka_unit_test(any_call_can_be_made_to_fail),
        cmocka_unit_test(the_clock_and_chance_are_repeatable),
        cmocka_unit_test(damage_reaches_cache_and_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
