/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises about write transactions: commit, abort, durability, declared ranges, stray stores, misuse.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"

#define SIZE 300000u

static const char *const trackers[] = {"scan", "pagemap", "compare"};

static void expect_byte(km_map *map, uint64_t offset, int value) {
    must(km_begin(map, KM_READ));
    assert_int_equal(((unsigned char *)km_data(map))[offset], value);
    must(km_abort(map));
}

static void abort_takes_every_store_back(void **state) {
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        setenv("KEEPMAP_TRACKER", trackers[i], 1);
        km_map *map = check_open(scratch_path("abort-%zu.km", i), SIZE, KM_CREATE);
        check_commit_fill(map, 5000, 1, 20000);
        must(km_begin(map, KM_WRITE));
        memset(km_data(map), 2, SIZE);
        must(km_abort(map));
        assert_int_equal(km_generation(map), 1);
        must(km_begin(map, KM_WRITE));
        const unsigned char *data = km_data(map);
        for (size_t at = 0; at < SIZE; at++) {
            assert_int_equal(data[at], at >= 5000 && at < 25000);
        }
        must(km_commit(map));
        assert_int_equal(km_generation(map), 1);
        must(km_close(map));
    }
    unsetenv("KEEPMAP_TRACKER");
}

static void a_transaction_that_changes_nothing_makes_no_commit(void **state) {
    (void)state;
    km_map *map = check_open(scratch_path("nothing.km"), SIZE, KM_CREATE);
    check_commit_fill(map, 0, 1, SIZE);
    assert_int_equal(km_generation(map), 1);
    check_commit_fill(map, 0, 1, SIZE); /* the same bytes */
    assert_int_equal(km_generation(map), 1);
    must(km_begin(map, KM_WRITE));
    must(km_commit(map));
    assert_int_equal(km_generation(map), 1);
    assert_int_equal(check_info(map).generation, 1);
    must(km_close(map));
}

static void a_durable_commit_makes_the_lazy_ones_before_it_durable(void **state) {
    (void)state;
    const char *path = scratch_path("lazy.km");
    km_map *lazy = check_open(path, SIZE, KM_CREATE | KM_LAZY);
    km_map *durable = check_open(path, 0, 0);
    check_commit_fill(lazy, 0, 1, 10);
    check_commit_fill(lazy, 0, 2, 10);
    expect_byte(durable, 0, 2);
    struct km_info info = check_info(lazy);
    assert_int_equal(info.generation, 2);
    assert_int_equal(info.durable_generation, 0);
    check_commit_fill(durable, 100, 3, 10);
    info = check_info(lazy);
    assert_int_equal(info.generation, 3);
    assert_int_equal(info.durable_generation, 3);
    check_commit_fill(lazy, 0, 4, 10);
    assert_int_equal(check_info(lazy).durable_generation, 3);
    must(km_sync(durable));
    assert_int_equal(check_info(lazy).durable_generation, 4);
    must(km_close(lazy));
    must(km_close(durable));
}

static void every_tracker_finds_every_store(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    static unsigned char expected[SIZE];
    for (size_t i = 0; i < 3; i++) {
        setenv("KEEPMAP_TRACKER", trackers[i], 1);
        const char *path = scratch_path("tracker-%zu.km", i);
        memset(expected, 0, sizeof expected);
        km_map *map = check_open(path, SIZE, KM_CREATE | KM_LAZY);
        for (unsigned commit = 0; commit < 60; commit++) {
            must(km_begin(map, KM_WRITE));
            for (uint64_t stores = chance_between(&chance, 1, 20); stores > 0; stores--) {
                const uint64_t offset = chance_below(&chance, SIZE);
                const unsigned char value = (unsigned char)chance_next(&chance);
                ((unsigned char *)km_data(map))[offset] = value;
                expected[offset] = value;
            }
            must(km_commit(map));
            if (commit % 20 == 19) {
                must(km_checkpoint(map));
            }
        }
        must(km_begin(map, KM_READ));
        assert_memory_equal(km_data(map), expected, SIZE);
        must(km_abort(map));
        fprintf(stderr, "# tracker asked for: %s, in use: %s\n", trackers[i], check_info(map).tracker);
        must(km_close(map));
        map = check_open(path, 0, KM_READONLY);
        must(km_begin(map, KM_READ));
        assert_memory_equal(km_data(map), expected, SIZE);
        must(km_abort(map));
        check_clean(map);
        must(km_close(map));
    }
    unsetenv("KEEPMAP_TRACKER");
}

/* A system call stores into the data as a plain store does: the page faults, and every tracker sees it. */
static void what_read_puts_into_the_data_is_committed(void **state) {
    (void)state;
    static unsigned char text[20000];
    struct chance chance = {77};
    chance_fill(&chance, text, sizeof text);
    const char *source = scratch_path("source");
    scratch_store(source, text, sizeof text);
    for (size_t i = 0; i < 3; i++) {
        setenv("KEEPMAP_TRACKER", trackers[i], 1);
        const char *path = scratch_path("read-%zu.km", i);
        km_map *map = check_open(path, SIZE, KM_CREATE);
        check_commit_fill(map, 0, 1, 1); /* the tracker is at work */
        must(km_begin(map, KM_WRITE));
        const int file = open(source, O_RDONLY | O_CLOEXEC);
        assert_int_equal(read(file, (char *)km_data(map) + 12345, sizeof text), sizeof text);
        close(file);
        must(km_commit(map));
        must(km_close(map));
        map = check_open(path, 0, KM_READONLY);
        must(km_begin(map, KM_READ));
        assert_memory_equal((char *)km_data(map) + 12345, text, sizeof text);
        must(km_close(map));
    }
    unsetenv("KEEPMAP_TRACKER");
}

/* Direct input reaches memory behind the page tables' back; km_touch() names it. */
static void direct_input_is_committed_when_it_was_touched(void **state) {
    (void)state;
    static unsigned char text[16384];
    struct chance chance = {78};
    chance_fill(&chance, text, sizeof text);
    const char *source = scratch_path("direct");
    scratch_store(source, text, sizeof text);
    const int file = open(source, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (file < 0) {
        assert_int_equal(errno, EINVAL);
        fprintf(stderr, "# skipped: no direct input here\n");
        skip();
    }
    const char *path = scratch_path("direct.km");
    km_map *map = check_open(path, SIZE, KM_CREATE);
    check_commit_fill(map, 0, 1, SIZE);
    must(km_begin(map, KM_WRITE));
    must(km_touch(map, 8192, sizeof text));
    assert_int_equal(read(file, (char *)km_data(map) + 8192, sizeof text), sizeof text);
    close(file);
    must(km_commit(map));
    km_map *other = check_open(path, 0, KM_READONLY);
    must(km_begin(other, KM_READ));
    assert_memory_equal((char *)km_data(other) + 8192, text, sizeof text);
    must(km_close(other));
    must(km_close(map));
}

static void stores_that_were_not_declared_are_not_committed(void **state) {
    (void)state;
    const char *path = scratch_path("declared.km");
    km_map *map = check_open(path, SIZE, KM_CREATE | KM_DECLARED);
    must(km_begin(map, KM_WRITE));
    must(km_touch(map, 100, 50));
    memset((char *)km_data(map) + 100, 1, 50);
    memset((char *)km_data(map) + 50000, 1, 50);
    memset((char *)km_data(map) + 3000, 1, 50); /* in a page that is committed */
    must(km_commit(map));
    assert_int_equal(km_generation(map), 1);
    km_map *other = check_open(path, 0, 0);
    expect_byte(other, 100, 1);
    expect_byte(other, 149, 1);
    expect_byte(other, 3000, 0);
    expect_byte(other, 50000, 0);
    check_clean(other);
    must(km_close(other));
    must(km_close(map));
    map = check_open(path, 0, 0);
    expect_byte(map, 149, 1);
    expect_byte(map, 50000, 0);
    check_clean(map);
    must(km_close(map));
}

static void declared_ranges_may_overlap_and_cross_pages(void **state) {
    (void)state;
    struct chance chance = {chance_seed() + 1};
    static unsigned char expected[SIZE];
    const char *path = scratch_path("ranges.km");
    memset(expected, 0, sizeof expected);
    km_map *map = check_open(path, SIZE, KM_CREATE | KM_DECLARED | KM_LAZY);
    for (unsigned commit = 0; commit < 100; commit++) {
        must(km_begin(map, KM_WRITE));
        for (uint64_t ranges = chance_between(&chance, 1, 30); ranges > 0; ranges--) {
            const uint64_t offset = chance_below(&chance, SIZE);
            uint64_t length = chance_below(&chance, 9000);
            length = length < SIZE - offset ? length : SIZE - offset;
            must(km_touch(map, offset, length));
            chance_fill(&chance, expected + offset, length / 2);
            memcpy((char *)km_data(map) + offset, expected + offset, length / 2);
        }
        if (chance_percent(&chance, 20)) {
            must(km_touch(map, 0, SIZE));
        }
        must(km_commit(map));
    }
    km_map *other = check_open(path, 0, KM_READONLY);
    must(km_begin(other, KM_READ));
    assert_memory_equal(km_data(other), expected, SIZE);
    must(km_close(other));
    must(km_close(map));
}

static void a_touch_outside_the_data_is_refused(void **state) {
    (void)state;
    km_map *map = check_open(scratch_path("touch.km"), SIZE, KM_CREATE);
    must_fail(km_touch(map, 0, 1), KM_EMISUSE);
    must(km_begin(map, KM_READ));
    must_fail(km_touch(map, 0, 1), KM_EMISUSE);
    must(km_abort(map));
    must(km_begin(map, KM_WRITE));
    must(km_touch(map, SIZE, 0));
    must(km_touch(map, SIZE - 1, 1));
    must_fail(km_touch(map, SIZE, 1), KM_EINVAL);
    must_fail(km_touch(map, SIZE - 1, 2), KM_EINVAL);
    must_fail(km_touch(map, 1, UINT64_MAX), KM_EINVAL);
    must_fail(km_touch(map, UINT64_MAX, 2), KM_EINVAL);
    must(km_commit(map));
    must(km_close(map));
}

static void a_stray_store_is_refused_with_its_offset_and_taken_back(void **state) {
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        setenv("KEEPMAP_TRACKER", trackers[i], 1);
        const char *path = scratch_path("stray-%zu.km", i);
        km_map *map = check_open(path, SIZE, KM_CREATE | KM_CHECK);
        check_commit_fill(map, 0, 7, SIZE);
        ((unsigned char *)km_data(map))[123456] = 99;
        must_fail(km_begin(map, KM_READ), KM_ESTRAY);
        check_detail_contains("123456");
        expect_byte(map, 123456, 7);
        must(km_begin(map, KM_READ));
        ((unsigned char *)km_data(map))[200001] = 98; /* also a mistake: a store inside a read */
        must(km_abort(map));
        must_fail(km_begin(map, KM_WRITE), KM_ESTRAY);
        check_detail_contains("200001");
        must(km_begin(map, KM_WRITE));
        assert_int_equal(((unsigned char *)km_data(map))[200001], 7);
        must(km_commit(map));
        assert_int_equal(km_generation(map), 1);
        check_clean(map);
        must(km_close(map));
    }
    unsetenv("KEEPMAP_TRACKER");
}

static void calls_that_do_not_fit_are_refused_and_change_nothing(void **state) {
    (void)state;
    const char *path = scratch_path("misuse.km");
    km_map *map = check_open(path, SIZE, KM_CREATE);
    must_fail(km_commit(map), KM_EMISUSE);
    must_fail(km_abort(map), KM_EMISUSE);
    must_fail(km_begin(map, (enum km_access)0), KM_EINVAL);
    must_fail(km_begin(map, (enum km_access)77), KM_EINVAL);
    must(km_begin(map, KM_WRITE));
    memset(km_data(map), 4, 100);
    must_fail(km_begin(map, KM_READ), KM_EMISUSE);
    must_fail(km_begin(map, KM_WRITE), KM_EMISUSE);
    must_fail(km_checkpoint(map), KM_EMISUSE);
    must_fail(km_grow(map, SIZE + 1), KM_EMISUSE);
    struct km_report report = {.struct_size = sizeof report};
    must_fail(km_verify(map, &report, NULL, NULL), KM_EMISUSE);
    must(km_commit(map));
    must_fail(km_commit(map), KM_EMISUSE);
    expect_byte(map, 99, 4);
    must(km_close(map));
}

static int begin_inside(void *context, const struct km_log_entry *entry) {
    (void)entry;
    must_fail(km_begin(context, KM_READ), KM_EMISUSE);
    check_detail_contains("another call on this handle");
    return 0;
}

/* As a second thread would. */
static void a_call_inside_a_call_on_the_same_handle_is_refused(void **state) {
    (void)state;
    km_map *map = check_open(scratch_path("inside.km"), SIZE, KM_CREATE);
    check_commit_fill(map, 0, 1, 10);
    must(km_log(map, begin_inside, map));
    expect_byte(map, 0, 1);
    must(km_close(map));
}

static void a_second_writer_is_refused_and_readers_are_not(void **state) {
    (void)state;
    const char *path = scratch_path("busy.km");
    km_map *first = check_open(path, SIZE, KM_CREATE);
    const struct km_options patient = {.struct_size = sizeof patient, .timeout_ms = 200};
    km_map *second;
    must(km_open(&second, path, &patient));
    must(km_begin(first, KM_WRITE));
    memset(km_data(first), 1, 10);
    must_fail(km_begin(second, KM_WRITE), KM_EBUSY);
    must(km_begin(second, KM_READ)); /* readers do not wait */
    assert_int_equal(*(unsigned char *)km_data(second), 0);
    must(km_abort(second));
    must(km_commit(first));
    must(km_begin(second, KM_WRITE));
    assert_int_equal(*(unsigned char *)km_data(second), 1);
    must(km_abort(second));
    must(km_close(first));
    must(km_close(second));
}

static void *end_writing_soon(void *context) {
    scratch_sleep_ms(100);
    return km_commit(context) == 0 ? NULL : context;
}

static void a_waiting_writer_gets_its_turn(void **state) {
    (void)state;
    const char *path = scratch_path("turn.km");
    km_map *first = check_open(path, SIZE, KM_CREATE);
    km_map *second = check_open(path, 0, 0);
    must(km_begin(first, KM_WRITE));
    memset(km_data(first), 1, 10);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, end_writing_soon, first), 0);
    must(km_begin(second, KM_WRITE));
    assert_int_equal(*(unsigned char *)km_data(second), 1);
    void *failed;
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    must(km_abort(second));
    must(km_close(second));
    must(km_close(first));
}

struct logged {
    uint64_t count, last_generation, frame_bytes, changed_bytes;
    uint32_t pages, process_id;
};

static int take_entry(void *context, const struct km_log_entry *entry) {
    struct logged *logged = context;
    logged->count++;
    logged->last_generation = entry->generation;
    logged->frame_bytes = entry->frame_bytes;
    logged->changed_bytes = entry->changed_bytes;
    logged->pages = entry->pages;
    logged->process_id = entry->process_id;
    return 0;
}

/* The promise of the specification: at most 128 + 24 k bytes for k changes of 8 bytes on k pages. */
static void small_changes_take_little_of_the_journal(void **state) {
    (void)state;
    static const uint64_t counts[] = {1, 2, 8, 64, 256};
    for (unsigned declared = 0; declared < 2; declared++) {
        km_map *map =
            check_open(scratch_path("small-%u.km", declared), 4 << 20, KM_CREATE | (declared ? KM_DECLARED : 0));
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            must(km_begin(map, KM_WRITE));
            for (uint64_t change = 0; change < counts[i]; change++) {
                const uint64_t offset = change * KM_PAGE_SIZE + i * 64;
                must(km_touch(map, offset, 8));
                memset((char *)km_data(map) + offset, (int)(17 + i), 8);
            }
            must(km_commit(map));
            struct logged logged = {0};
            must(km_log(map, take_entry, &logged));
            assert_int_equal(logged.last_generation, i + 1);
            assert_int_equal(logged.pages, counts[i]);
            assert_int_equal(logged.changed_bytes, 8 * counts[i]);
            assert_int_equal(logged.process_id, getpid());
            assert_in_range(logged.frame_bytes, 8 * counts[i], 128 + 24 * counts[i]);
        }
        must(km_close(map));
    }
}

static void the_journal_is_used_again_and_again(void **state) {
    (void)state;
    const char *path = scratch_path("ring.km");
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 65536, .flags = KM_CREATE | KM_LAZY};
    km_map *map;
    must(km_open(&map, path, &options));
    for (unsigned i = 1; i <= 400; i++) { /* 400 x 8 KiB through a ring of 64 KiB */
        check_commit_fill(map, (i * 4096) % 200000, (int)(i & 0xff), 8000);
    }
    struct km_info info = check_info(map);
    assert_int_equal(info.generation, 400);
    assert_int_equal(info.journal_size, 65536);
    assert_true(info.checkpoint_generation > 300);
    must(km_checkpoint(map));
    info = check_info(map);
    assert_int_equal(info.checkpoint_generation, 400);
    assert_int_equal(info.journal_used, 0);
    check_clean(map);
    must(km_close(map));
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(abort_takes_every_store_back),
        cmocka_unit_test(a_transaction_that_changes_nothing_makes_no_commit),
        cmocka_unit_test(a_durable_commit_makes_the_lazy_ones_before_it_durable),
        cmocka_unit_test(every_tracker_finds_every_store),
        cmocka_unit_test(what_read_puts_into_the_data_is_committed),
        cmocka_unit_test(direct_input_is_committed_when_it_was_touched),
        cmocka_unit_test(stores_that_were_not_declared_are_not_committed),
        cmocka_unit_test(declared_ranges_may_overlap_and_cross_pages),
        cmocka_unit_test(a_touch_outside_the_data_is_refused),
        cmocka_unit_test(a_stray_store_is_refused_with_its_offset_and_taken_back),
        cmocka_unit_test(calls_that_do_not_fit_are_refused_and_change_nothing),
        cmocka_unit_test(a_call_inside_a_call_on_the_same_handle_is_refused),
        cmocka_unit_test(a_second_writer_is_refused_and_readers_are_not),
        cmocka_unit_test(a_waiting_writer_gets_its_turn),
        cmocka_unit_test(small_changes_take_little_of_the_journal),
        cmocka_unit_test(the_journal_is_used_again_and_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
