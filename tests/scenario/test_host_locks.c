/* SPDX-License-Identifier: MIT
 *
 * Scenarios of the host: somebody who may read the file, and not write it, locks bytes of it for reading, with nothing
 * of keepmap, and keeps them locked for ever. It may hinder; it must not make anything untrue.
 */
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/scratch.h"

#define SIZE 100000u
#define LIMIT_S 20
#define READERS (KM__LOCK_BASE + (UINT64_C(1) << 32))

static int try_open(km_map **map, const char *path, uint32_t flags) {
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 65536, .flags = flags, .timeout_ms = 50};
    return km_open(map, path, &options);
}

/* A description of the file that may only read; its locks end when it is closed. */
static int lock_for_reading(const char *path, uint64_t first, uint64_t count) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)first, .l_len = (off_t)count};
    assert_true(file >= 0);
    assert_int_equal(fcntl(file, F_OFD_SETLK, &lock), 0);
    return file;
}

/* ---- each lock --------------------------------------------------------------------------------------------------- */

/* A lock that is held for ever, and the calls that then give up in time. */
static const struct held {
    const char *name;
    uint64_t first, count;
    int begin, commit, sync, checkpoint, open, grow;
} locks[] = {
    {"ATTACH", KM__LOCK_BASE + KM__ATTACH, 1, 0, 0, 0, 0, KM_EBUSY, KM_EBUSY},
    {"WRITER", KM__LOCK_BASE + KM__WRITER, 1, KM_EBUSY, KM_EMISUSE, 0, 0, 0, KM_EBUSY},
    {"CHECKPOINT", KM__LOCK_BASE + KM__CHECKPOINT, 1, 0, 0, 0, KM_EBUSY, 0, KM_EBUSY},
    {"SYNC", KM__LOCK_BASE + KM__SYNC, 1, 0, KM_EBUSY, KM_EBUSY, KM_EBUSY, 0, KM_EBUSY},
    {"USER", KM__LOCK_BASE + KM__USER, 1, 0, 0, 0, 0, 0, KM_EBUSY},
    {"READ_ONLY_USER", KM__LOCK_BASE + KM__READ_ONLY_USER, 1, 0, 0, 0, 0, 0, 0},
    {"SLOT of nobody", KM__SLOT_LOCKS + 100, 1, 0, 0, 0, 0, 0, 0},
    {"every other SLOT", KM__SLOT_LOCKS + 2, KM__SLOTS - 2, 0, 0, 0, 0, KM_EHANDLES, 0},
    {"READER of every commit", READERS, UINT64_C(1) << 40, 0, 0, 0, 0, 0, KM_EBUSY},
    {"WRITER, CHECKPOINT and SYNC", KM__LOCK_BASE + KM__WRITER, 3, KM_EBUSY, KM_EMISUSE, KM_EBUSY, KM_EBUSY, 0,
     KM_EBUSY},
};

static void expect_result(const struct held *held, const char *call, int result, int expected) {
    if (result != expected)
        fail_msg("%s is locked: %s gave %s (%s), not %s", held->name, call, km_error_name(result),
                 km_last_error_detail(), km_error_name(expected));
    if (result != 0 && strchr(km_last_error_detail(), ':') == NULL)
        fail_msg("%s is locked: %s says \"%s\" and not what to do", held->name, call, km_last_error_detail());
}

static void store(km_map *map, uint64_t value) {
    memcpy(km_data(map), &value, sizeof value);
}

static uint64_t shown(km_map *map) {
    uint64_t value = 0;
    must(km_begin(map, KM_READ));
    memcpy(&value, km_data(map), sizeof value);
    must(km_abort(map));
    return value;
}

/* All that a program does with the map while the lock is held; returns the last value that was committed. */
static uint64_t work_beside(const struct held *held, const char *path, km_map *map, km_map *lazy) {
    uint64_t value = 3;
    must(km_begin(lazy, KM_WRITE));
    store(lazy, value);
    must(km_commit(lazy));
    const int file = lock_for_reading(path, held->first, held->count);
    expect_result(held, "km_begin()", km_begin(map, KM_WRITE), held->begin);
    if (held->begin == 0)
        store(map, value + 1);
    expect_result(held, "km_commit()", km_commit(map), held->commit);
    if (held->begin == 0 && held->commit == 0)
        value++;
    else if (held->begin == 0)
        must(km_abort(map));
    assert_int_equal(shown(map), value);
    expect_result(held, "km_sync()", km_sync(map), held->sync);
    expect_result(held, "km_checkpoint()", km_checkpoint(map), held->checkpoint);
    km_map *other = NULL;
    expect_result(held, "km_open()", try_open(&other, path, 0), held->open);
    must(km_close(other));
    expect_result(held, "km_close()", km_close(lazy), held->first == locks[0].first ? KM_EBUSY : 0);
    expect_result(held, "km_grow()", km_grow(map, 2 * SIZE), held->grow);
    const int closed = km_close(map);
    if (closed != 0)
        expect_result(held, "km_close()", closed, KM_EBUSY);
    close(file);
    return value;
}

static void no_lock_of_a_reader_takes_a_commit_or_waits_for_ever(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof locks / sizeof *locks; i++) {
        const char *path = scratch_path("locked-%zu.km", i);
        km_map *map, *lazy;
        must(try_open(&map, path, KM_CREATE));
        must(try_open(&lazy, path, KM_LAZY));
        for (uint64_t value = 1; value <= 2; value++) {
            must(km_begin(map, KM_WRITE));
            store(map, value);
            must(km_commit(map));
        }
        const uint64_t value = work_beside(&locks[i], path, map, lazy);
        must(try_open(&map, path, 0));
        assert_int_equal(shown(map), value);
        check_clean(map);
        check_commit_fill(map, 0, 9, SIZE);
        must(km_checkpoint(map));
        must(km_close(map));
    }
}

/* ---- a lock that says "alive" ------------------------------------------------------------------------------------ */

static int commit_and_die(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, KM_LAZY));
    for (uint64_t value = 1; value <= 3; value++) {
        child_must(km_begin(map, KM_WRITE));
        store(map, value);
        child_must(km_commit(map));
    }
    raise(SIGKILL);
    return 0;
}

/* Control as a power cut can leave it: newer than the journal, because its pages were written out first. */
static void pretend_newer_words(const char *path) {
    static struct km__control control;
    scratch_read(path, KM__CONTROL_OFFSET, &control, sizeof control);
    assert_true(atomic_load(&control.epoch) != 0);
    _Atomic uint64_t *words[] = {&control.appended, &control.visible, &control.durable};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        atomic_store(words[i], 7);
    scratch_write(path, KM__CONTROL_OFFSET, &control, sizeof control);
}

static void a_lock_of_a_reader_is_no_session(void **state) {
    (void)state;
    const char *path = scratch_path("dead.km");
    km_map *map, *reader;
    must(try_open(&map, path, KM_CREATE));
    must(km_close(map));
    const int early = lock_for_reading(path, KM__SLOT_LOCKS + 5, 1); /* of a map that was closed in order */
    must(try_open(&map, path, 0));
    assert_int_equal(check_info(map).handles, 1);
    must(km_close(map));
    close(early);
    assert_int_equal(check_in_child(commit_and_die, (void *)(uintptr_t)path, LIMIT_S), -SIGKILL);
    pretend_newer_words(path);
    const int file = lock_for_reading(path, KM__SLOT_LOCKS, KM__SLOTS / 2);
    must(try_open(&reader, path, KM_READONLY));
    assert_int_equal(shown(reader), 3);
    assert_int_equal(check_info(reader).handles, 0);
    must(try_open(&map, path, 0)); /* recovers */
    assert_int_equal(km_generation(map), 3);
    assert_int_equal(shown(map), 3);
    must(km_begin(map, KM_WRITE));
    store(map, 4);
    must(km_commit(map));
    assert_int_equal(check_info(map).handles, 1);
    assert_int_equal(shown(reader), 4);
    must(km_close(map));
    must(km_close(reader));
    close(file);
    must(try_open(&map, path, 0));
    assert_int_equal(shown(map), 4);
    check_clean(map);
    must(km_close(map));
}

/* ---- the last to close ------------------------------------------------------------------------------------------- */

static int commit_lazily_and_close(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, KM_LAZY));
    child_must(km_begin(map, KM_WRITE));
    store(map, 5);
    child_must(km_commit(map));
    struct flock lock = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)(KM__LOCK_BASE + KM__SYNC), .l_len = 1};
    const int file = open(context, O_RDONLY | O_CLOEXEC);
    child_check(fcntl(file, F_OFD_SETLK, &lock) == 0);
    child_must(km_close(map));
    return 0;
}

static void the_last_to_close_waits_for_no_reader(void **state) {
    (void)state;
    const char *path = scratch_path("last.km");
    km_map *map;
    must(try_open(&map, path, KM_CREATE));
    must(km_close(map));
    assert_int_equal(check_in_child(commit_lazily_and_close, (void *)(uintptr_t)path, LIMIT_S), 0);
    must(try_open(&map, path, KM_READONLY));
    assert_int_equal(check_info(map).clean, 1);
    assert_int_equal(check_info(map).checkpoint_generation, 1);
    assert_int_equal(shown(map), 5);
    must(km_close(map));
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_to_close_waits_for_no_reader),
        cmocka_unit_test(no_lock_of_a_reader_takes_a_commit_or_waits_for_ever),
        cmocka_unit_test(a_lock_of_a_reader_is_no_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
