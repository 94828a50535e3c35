/* SPDX-License-Identifier: MIT
 *
 * What the world around a handle does to it: fork, files removed, replaced or cut short, descriptors closed by the
 * program, full disks.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/check.h"
#include "support/disk.h"
#include "support/scratch.h"

#define SIZE 100000u

static void expect_first_byte(km_map *map, int value) {
    must(km_begin(map, KM_READ));
    assert_int_equal(*(unsigned char *)km_data(map), value);
    must(km_abort(map));
}

/* ---- fork -------------------------------------------------------------------------------------------------------- */

static int use_inherited_handle(void *context) {
    km_map *map = context;
    struct km_info info = {.struct_size = sizeof info};
    struct km_report report = {.struct_size = sizeof report};
    uint64_t size = 4096;
    child_check(km_begin(map, KM_READ) == KM_EFORKED);
    child_check(km_last_error_detail()[0] != '\0');
    child_check(km_begin(map, KM_WRITE) == KM_EFORKED);
    child_check(km_commit(map) == KM_EFORKED);
    child_check(km_abort(map) == KM_EFORKED);
    child_check(km_touch(map, 0, 1) == KM_EFORKED);
    child_check(km_sync(map) == KM_EFORKED);
    child_check(km_checkpoint(map) == KM_EFORKED);
    child_check(km_grow(map, size * 100) == KM_EFORKED);
    child_check(km_get_info(map, &info) == KM_EFORKED);
    child_check(km_verify(map, &report, NULL, NULL) == KM_EFORKED);
    km_close(map);
    return 0;
}

static void a_child_cannot_use_its_parents_handle(void **state) {
    (void)state;
    const char *path = scratch_path("forked.km");
    km_map *map = check_open(path, SIZE, KM_CREATE);
    check_commit_fill(map, 0, 1, 100);
    must(km_begin(map, KM_WRITE));
    memset(km_data(map), 2, 100);
    assert_int_equal(check_in_child(use_inherited_handle, map, 20), 0);
    must(km_commit(map)); /* the child's close has not touched the parent's transaction */
    expect_first_byte(map, 2);
    check_clean(map);
    must(km_close(map));
}

static int touch_inherited_data(void *context) {
    return *(volatile unsigned char *)context;
}

/* A sanitizer turns the fault into an exit status of its own; a plain read would give the byte. */
static void the_data_is_not_mapped_in_a_child(void **state) {
    (void)state;
    km_map *map = check_open(scratch_path("unmapped.km"), SIZE, KM_CREATE);
    check_commit_fill(map, 0, 42, SIZE);
    must(km_begin(map, KM_READ));
    const int status = check_in_child(touch_inherited_data, km_data(map), 20);
    assert_int_not_equal(status, 42);
    assert_int_not_equal(status, 0);
    must(km_abort(map));
    must(km_close(map));
}

static int open_anew(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    child_must(km_begin(map, KM_WRITE));
    *(unsigned char *)km_data(map) = 77;
    child_must(km_commit(map));
    child_must(km_close(map));
    return 0;
}

static void a_child_may_open_the_map_anew(void **state) {
    (void)state;
    const char *path = scratch_path("anew.km");
    km_map *map = check_open(path, SIZE, KM_CREATE);
    assert_int_equal(check_in_child(open_anew, (void *)(uintptr_t)path, 20), 0);
    expect_first_byte(map, 77);
    must(km_close(map));
}

/* Begins writing, leaves a child behind that lives on, and dies. */
static int die_and_leave_a_child(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    child_must(km_begin(map, KM_WRITE));
    *(unsigned char *)km_data(map) = 13;
    const pid_t child = fork();
    if (child == 0) {
        alarm(15);
        for (;;) {
            pause();
        }
    }
    const int file = open(scratch_path("left-behind"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    child_check(write(file, &child, sizeof child) == sizeof child);
    raise(SIGKILL);
    return 0;
}

static void a_dead_parents_locks_vanish_though_its_child_lives(void **state) {
    (void)state;
    const char *path = scratch_path("orphan.km");
    km_map *map = check_open(path, SIZE, KM_CREATE);
    assert_int_equal(check_in_child(die_and_leave_a_child, (void *)(uintptr_t)path, 20), -SIGKILL);
    pid_t left_behind;
    scratch_read(scratch_path("left-behind"), 0, &left_behind, sizeof left_behind);
    assert_true(left_behind > 1);
    assert_int_equal(kill(left_behind, 0), 0);
    must(km_begin(map, KM_WRITE));                       /* gives up before the child that is left does */
    assert_int_equal(*(unsigned char *)km_data(map), 0); /* what was not committed is gone */
    must(km_abort(map));
    struct km_info info = {.struct_size = sizeof info};
    must(km_get_info(map, &info));
    assert_int_equal(info.handles, 1);
    assert_int_equal(kill(left_behind, SIGKILL), 0);
    must(km_close(map));
}

/* ---- the file goes away ------------------------------------------------------------------------------------------ */

enum removal { UNLINKED, REPLACED, CUT_BY_A_PAGE, CUT_TO_NOTHING };

static void take_file_away(const char *path, enum removal removal) {
    switch (removal) {
    case UNLINKED:
        assert_int_equal(unlink(path), 0);
        return;
    case REPLACED:
        scratch_store(scratch_path("replacement"), "something else", 14);
        assert_int_equal(rename(scratch_path("replacement"), path), 0);
        return;
    case CUT_BY_A_PAGE:
        assert_int_equal(truncate(path, (off_t)scratch_file_size(path) - 4096), 0);
        return;
    case CUT_TO_NOTHING:
        assert_int_equal(truncate(path, 0), 0);
        return;
    }
}

struct loss {
    const char *path;
    enum removal removal;
    uint32_t flags;
};

static int commit_to_a_lost_file(void *context) {
    const struct loss *loss = context;
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .flags = KM_CREATE | loss->flags, .timeout_ms = 500};
    child_must(km_open(&map, loss->path, &options));
    child_must(km_begin(map, KM_WRITE));
    child_must(km_touch(map, 0, 100));
    memset(km_data(map), 1, 100);
    take_file_away(loss->path, loss->removal);
    int result = km_commit(map);
    child_check(result == KM_ESTALE);
    child_check(km_last_error_detail()[0] != '\0');
    km_abort(map);
    result = km_begin(map, KM_WRITE);
    child_check(result == KM_ESTALE);
    child_check(km_sync(map) != 0);
    km_close(map);
    return 0;
}

static int give_up_on_a_lost_file(void *context) {
    const struct loss *loss = context;
    km_map *map = check_open(loss->path, SIZE, KM_CREATE | loss->flags);
    child_must(km_begin(map, KM_WRITE));
    take_file_away(loss->path, loss->removal);
    child_must(km_abort(map)); /* touches nothing that is shared */
    child_check(km_begin(map, KM_READ) == KM_ESTALE);
    child_check(km_close(map) == KM_ESTALE);
    return 0;
}

static void a_file_that_was_taken_away_is_told_after_an_abort(void **state) {
    (void)state;
    for (enum removal removal = UNLINKED; removal <= CUT_TO_NOTHING; removal++) {
        struct loss loss = {scratch_path("given-up-%d.km", (int)removal), removal, 0};
        assert_int_equal(check_in_child(give_up_on_a_lost_file, &loss, 20), 0);
    }
}

static void a_file_that_was_taken_away_is_told_at_the_next_commit(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_LAZY, KM_DECLARED};
    for (enum removal removal = UNLINKED; removal <= CUT_TO_NOTHING; removal++) {
        for (int i = 0; i < 3; i++) {
            struct loss loss = {scratch_path("lost-%d-%d.km", (int)removal, i), removal, flags[i]};
            const int status = check_in_child(commit_to_a_lost_file, &loss, 20);
            if (status != 0) {
                fail_msg("removal %d, flags %u: status %d", (int)removal, flags[i], status);
            }
            if (removal == REPLACED) {
                struct scratch_image other = {(unsigned char *)(uintptr_t) "something else", 14};
                assert_true(scratch_equals(loss.path, &other));
            }
        }
    }
}

/* A program closes descriptors that are not its own, and opens files that get their numbers. */
static int commit_without_descriptors(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .timeout_ms = 500};
    child_must(km_open(&map, context, &options));
    child_must(km_begin(map, KM_WRITE));
    memset(km_data(map), 3, 100);
    for (int file = 3; file < 256; file++) {
        close(file);
    }
    for (int i = 0; i < 64; i++) {
        child_check(open(scratch_path("victim"), O_RDWR | O_CREAT, 0600) >= 0);
    }
    const int result = km_commit(map);
    child_check(result == KM_ESTALE);
    km_close(map);
    return 0;
}

static void descriptors_that_the_program_closed_do_no_harm(void **state) {
    (void)state;
    const char *path = scratch_path("closed.km");
    km_map *map = check_open(path, SIZE, KM_CREATE);
    check_commit_fill(map, 0, 1, 100);
    assert_int_equal(check_in_child(commit_without_descriptors, (void *)(uintptr_t)path, 20), 0);
    assert_int_equal(scratch_file_size(scratch_path("victim")), 0);
    expect_first_byte(map, 1);
    check_commit_fill(map, 0, 2, 100);
    check_clean(map);
    must(km_close(map));
}

/* ---- full disks -------------------------------------------------------------------------------------------------- */

static void a_full_disk_at_creation_is_told_and_leaves_nothing(void **state) {
    (void)state;
    if (disk_small(1) == NULL) {
        skip();
    }
    const char *path = scratch_path("disk/map.km");
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 4 << 20, .flags = KM_CREATE};
    km_map *map;
    must_fail(km_open(&map, path, &options), KM_ENOSPACE);
    assert_int_equal(access(path, F_OK), -1);
    const struct km_options smaller = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 65536, .flags = KM_CREATE};
    must(km_open(&map, path, &smaller)); /* nothing of the first took space */
    check_commit_fill(map, 0, 1, 100);
    must(km_close(map));
    disk_remove();
}

static void a_full_disk_at_a_checkpoint_is_told_and_the_map_goes_on_afterwards(void **state) {
    (void)state;
    if (disk_small(4) == NULL) {
        skip();
    }
    const char *path = scratch_path("disk/map.km");
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = 16 << 20, /* the data is a hole at first: more than the disk holds */
                                       .journal_size = 262144,
                                       .flags = KM_CREATE,
                                       .timeout_ms = 100};
    km_map *map;
    must(km_open(&map, path, &options));
    check_commit_fill(map, 0, 1, 1000);
    must(km_checkpoint(map));
    disk_fill();
    check_commit_fill(map, 1 << 20, 2, 1000); /* the journal has its space already */
    must_fail(km_checkpoint(map), KM_ENOSPACE);
    must(km_begin(map, KM_READ));
    assert_int_equal(*((unsigned char *)km_data(map) + (1 << 20)), 2);
    must(km_abort(map));
    assert_int_equal(unlink(scratch_path("disk/filler")), 0);
    must(km_checkpoint(map));
    check_commit_fill(map, 2 << 20, 3, 1000);
    check_clean(map);
    must(km_close(map));
    disk_remove();
}

static void a_full_disk_at_a_commit_leaves_the_transaction_open_and_whole(void **state) {
    (void)state;
    if (disk_small(4) == NULL) {
        skip();
    }
    const char *path = scratch_path("disk/map.km");
    const struct km_options options = {
        .struct_size = sizeof options, .size = 16 << 20, .journal_size = 262144, .flags = KM_CREATE, .timeout_ms = 100};
    km_map *map;
    must(km_open(&map, path, &options));
    disk_fill();
    uint64_t good = 0;
    int result = 0;
    while (result == 0) { /* each commit to pages that home does not have yet; the ring must be reused at some point */
        assert_true(good < 1000);
        must(km_begin(map, KM_WRITE));
        memset((char *)km_data(map) + good * 10000, (int)(good + 1), 10000);
        result = km_commit(map);
        good += result == 0;
    }
    assert_string_equal(km_error_name(result), "KM_ENOSPACE");
    assert_true(good > 3);
    assert_int_equal(*((unsigned char *)km_data(map) + good * 10000), good + 1);
    must_fail(km_commit(map), KM_ENOSPACE);
    km_map *other = check_open(path, 0, 0);
    must(km_begin(other, KM_READ));
    assert_int_equal(km_generation(other), good);
    assert_int_equal(*((unsigned char *)km_data(other) + good * 10000), 0);
    assert_int_equal(*((unsigned char *)km_data(other) + good * 10000 - 1), good);
    must(km_abort(other));
    assert_int_equal(unlink(scratch_path("disk/filler")), 0);
    must(km_commit(map));
    must(km_begin(other, KM_READ));
    assert_int_equal(km_generation(other), good + 1);
    must(km_abort(other));
    must(km_close(other));
    check_clean(map);
    must(km_close(map));
    disk_remove();
}

static void a_full_disk_when_the_journal_must_grow_is_told(void **state) {
    (void)state;
    if (disk_small(4) == NULL) {
        skip();
    }
    const char *path = scratch_path("disk/map.km");
    const struct km_options options = {
        .struct_size = sizeof options, .size = 3 << 20, .journal_size = 65536, .flags = KM_CREATE, .timeout_ms = 100};
    km_map *map;
    must(km_open(&map, path, &options));
    check_commit_fill(map, 0, 1, 1000);
    disk_fill();
    must(km_begin(map, KM_WRITE));
    memset(km_data(map), 2, 1 << 20);
    must_fail(km_commit(map), KM_ENOSPACE);
    must(km_abort(map));
    expect_first_byte(map, 1);
    check_commit_fill(map, 0, 3, 1000);
    assert_int_equal(unlink(scratch_path("disk/filler")), 0);
    check_commit_fill(map, 0, 4, 1 << 20);
    check_clean(map);
    must(km_close(map));
    disk_remove();
}

static void a_full_disk_at_growth_is_told_and_the_size_stays(void **state) {
    (void)state;
    if (disk_small(2) == NULL) {
        skip();
    }
    const char *path = scratch_path("disk/map.km");
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 65536, .flags = KM_CREATE, .timeout_ms = 100};
    km_map *map;
    must(km_open(&map, path, &options));
    check_commit_fill(map, 0, 1, SIZE);
    must(km_checkpoint(map));
    disk_fill();
    must_fail(km_grow(map, 8 << 20), KM_ENOSPACE);
    assert_int_equal(km_size(map), SIZE);
    expect_first_byte(map, 1);
    check_commit_fill(map, 0, 2, 1000);
    check_clean(map);
    assert_int_equal(unlink(scratch_path("disk/filler")), 0);
    must(km_grow(map, 8 << 20));
    expect_first_byte(map, 2);
    check_clean(map);
    must(km_close(map));
    disk_remove();
}

/* On tmpfs the data has its space from the beginning: no store, commit or checkpoint can find the disk full. */
static void a_full_disk_in_memory_never_faults(void **state) {
    (void)state;
    if (disk_in_memory(4) == NULL) {
        skip();
    }
    const char *path = scratch_path("disk/map.km");
    const struct km_options larger = {.struct_size = sizeof larger, .size = 16 << 20, .flags = KM_CREATE};
    km_map *map;
    must_fail(km_open(&map, path, &larger), KM_ENOSPACE);
    assert_int_equal(access(path, F_OK), -1);
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = 1 << 20,
                                       .max_size = 8 << 20,
                                       .journal_size = 262144,
                                       .flags = KM_CREATE,
                                       .timeout_ms = 1000};
    must(km_open(&map, path, &options));
    km_map *reader = check_open(path, 0, KM_READONLY);
    disk_fill();
    for (int i = 1; i <= 50; i++) {
        check_commit_fill(map, (uint64_t)(i - 1) * 20000, i, 20000);
    }
    must(km_checkpoint(map));
    must_fail(km_grow(map, 8 << 20), KM_ENOSPACE);
    assert_int_equal(km_size(map), 1 << 20);
    must(km_begin(reader, KM_READ));
    for (int i = 1; i <= 50; i++) {
        assert_int_equal(*((unsigned char *)km_data(reader) + i * 20000 - 1), i);
    }
    must(km_close(reader));
    check_clean(map);
    assert_int_equal(unlink(scratch_path("disk/filler")), 0);
    must(km_grow(map, 2 << 20));
    check_clean(map);
    must(km_close(map));
    disk_remove();
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_cannot_use_its_parents_handle),
        cmocka_unit_test(the_data_is_not_mapped_in_a_child),
        cmocka_unit_test(a_child_may_open_the_map_anew),
        cmocka_unit_test(a_dead_parents_locks_vanish_though_its_child_lives),
        cmocka_unit_test(a_file_that_was_taken_away_is_told_at_the_next_commit),
        cmocka_unit_test(a_file_that_was_taken_away_is_told_after_an_abort),
        cmocka_unit_test(descriptors_that_the_program_closed_do_no_harm),
        cmocka_unit_test(a_full_disk_at_creation_is_told_and_leaves_nothing),
        cmocka_unit_test(a_full_disk_at_a_checkpoint_is_told_and_the_map_goes_on_afterwards),
        cmocka_unit_test(a_full_disk_at_a_commit_leaves_the_transaction_open_and_whole),
        cmocka_unit_test(a_full_disk_when_the_journal_must_grow_is_told),
        cmocka_unit_test(a_full_disk_at_growth_is_told_and_the_size_stays),
        cmocka_unit_test(a_full_disk_in_memory_never_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
