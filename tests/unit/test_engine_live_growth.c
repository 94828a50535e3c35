/* SPDX-License-Identifier: MIT
 *
 * Live maps that grow, and disks that are full: others see the new bytes, which are zeros; space is taken when the map
 * is made and when it grows, so that no store ever finds the disk full; who dies on the way damages nothing.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/disk.h"
#include "support/halt.h"
#include "support/objects.h"
#include "support/scratch.h"

#define SIZE 20000u

static int try_open(km_map **map, const char *path, uint64_t size, uint64_t max_size, uint32_t flags) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = size,
                                       .max_size = max_size,
                                       .mode = KM_LIVE,
                                       .flags = flags,
                                       .timeout_ms = 2000};
    return km_open(map, path, &options);
}

static km_map *open_live(const char *path, uint64_t max_size, uint32_t flags) {
    km_map *map = NULL;
    must(try_open(&map, path, SIZE, max_size, flags));
    return map;
}

static unsigned char *bytes(km_map *map) {
    return km_data(map);
}

static void expect_bytes(km_map *map, uint64_t from, uint64_t to, int value) {
    for (uint64_t at = from; at < to; at++) {
        if (bytes(map)[at] != value) {
            fail_msg("byte %llu is %d, expected %d", (unsigned long long)at, bytes(map)[at], value);
        }
    }
}

static void expect_size(km_map *map, uint64_t size) {
    must(km_begin(map, KM_READ));
    assert_int_equal(km_size(map), size);
    must(km_abort(map));
}

static void expect_sealed(const char *path) {
    km_map *map = open_live(path, 0, KM_READONLY);
    check_clean(map);
    assert_int_equal(check_info(map).clean, 1);
    must(km_close(map));
}

/* ---- growth ------------------------------------------------------------------------------------------------------ */

static int use_the_new_end(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, 0, 0, 0));
    child_check(km_size(map) == 4 * SIZE && bytes(map)[4 * SIZE - 1] == 9);
    bytes(map)[4 * SIZE - 2] = 8;
    child_must(km_close(map));
    return 0;
}

static void growth_up_to_max_size_is_seen_by_all_at_their_next_begin(void **state) {
    (void)state;
    const char *const targets[] = {scratch_path("within.km"), "Local\\within"};
    for (int i = 0; i < 2; i++) {
        km_map *map = open_live(targets[i], 10 * SIZE, KM_CREATE), *other = open_live(targets[i], 0, 0);
        km_map *reader = open_live(targets[i], 0, KM_READONLY);
        const unsigned char *const data[] = {km_data(map), km_data(other), km_data(reader)};
        memset(km_data(map), 1, SIZE);
        must(km_grow(map, 4 * SIZE));
        assert_int_equal(km_size(map), 4 * SIZE);
        assert_int_equal(km_generation(map), 1); /* a growth is a commit */
        assert_int_equal(km_size(other), SIZE);
        expect_size(other, 4 * SIZE);
        expect_size(reader, 4 * SIZE);
        assert_int_equal(check_info(reader).generation, 1);
        expect_bytes(other, 0, SIZE, 1);
        expect_bytes(other, SIZE, 4 * SIZE, 0);
        bytes(map)[4 * SIZE - 1] = 9;
        assert_int_equal(bytes(other)[4 * SIZE - 1], 9);
        assert_int_equal(bytes(reader)[4 * SIZE - 1], 9);
        assert_int_equal(check_in_child(use_the_new_end, (void *)(uintptr_t)targets[i], 20), 0);
        assert_int_equal(bytes(map)[4 * SIZE - 2], 8);
        must_fail(km_grow(other, SIZE), KM_ESIZE);
        must(km_grow(other, 10 * SIZE));
        expect_size(map, 10 * SIZE);
        expect_bytes(map, 4 * SIZE, 10 * SIZE, 0);
        must(km_sync(other));
        check_clean(map);
        assert_ptr_equal(km_data(map), data[0]); /* the pointers never move */
        assert_ptr_equal(km_data(other), data[1]);
        assert_ptr_equal(km_data(reader), data[2]);
        must(km_close(map));
        must(km_close(other));
        must(km_close(reader));
    }
    expect_sealed(targets[0]);
    assert_int_equal(objects_left(), 0);
}

static void growth_beyond_max_size_needs_to_be_alone_and_says_so(void **state) {
    (void)state;
    const char *path = scratch_path("beyond.km");
    km_map *map = open_live(path, 2 * SIZE, KM_CREATE);
    static const uint32_t others[] = {0, KM_READONLY};
    memset(km_data(map), 1, SIZE);
    for (int i = 0; i < 2; i++) {
        km_map *other = open_live(path, 0, others[i]);
        must_fail(km_grow(map, 3 * SIZE), KM_EBUSY);
        check_detail_contains("40000");
        assert_int_equal(km_size(map), SIZE);
        must(km_close(other));
    }
    must(km_grow(map, 3 * SIZE));
    assert_int_equal(check_info(map).max_size, 3 * SIZE);
    expect_bytes(map, 0, SIZE, 1);
    expect_bytes(map, SIZE, 3 * SIZE, 0);
    memset(km_data(map), 2, 3 * SIZE);
    must(km_sync(map));
    check_clean(map);
    must(km_close(map));
    expect_sealed(path);
}

/* The checksums move each time; where they were is data later on, and must be zero. */
static void a_map_can_grow_again_and_again(void **state) {
    (void)state;
    const char *path = scratch_path("again.km");
    km_map *map = open_live(path, 0, KM_CREATE);
    uint64_t size = SIZE;
    for (int round = 1; round <= 12; round++) {
        memset(km_data(map), round, size);
        must(km_sync(map));
        const uint64_t next = size + (uint64_t)round * 100000;
        must(km_grow(map, next));
        expect_bytes(map, 0, size, round);
        expect_bytes(map, size, next, 0);
        check_clean(map);
        size = next;
        if (round % 3 == 0) {
            must(km_close(map));
            expect_sealed(path);
            map = open_live(path, 0, 0);
            assert_int_equal(km_size(map), size);
            expect_bytes(map, size - (uint64_t)round * 100000, size, 0);
        }
    }
    assert_int_equal(km_generation(map), 12);
    must(km_close(map));
}

/* Bytes behind the end of the data, in its last page, can be stored to by mistake. */
static void what_was_stored_behind_the_end_does_not_become_data(void **state) {
    (void)state;
    km_map *map = open_live(scratch_path("behind.km"), 10 * SIZE, KM_CREATE);
    bytes(map)[SIZE] = 77;
    must(km_grow(map, SIZE + 100));
    expect_bytes(map, SIZE, SIZE + 100, 0);
    must(km_close(map));
}

static int die_in_a_transaction(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, 0, 0, 0));
    child_must(km_begin(map, KM_WRITE));
    raise(SIGKILL);
    return 1;
}

static void growth_does_not_forget_a_death(void **state) {
    (void)state;
    const char *path = scratch_path("death.km");
    km_map *map = open_live(path, 4 * SIZE, KM_CREATE);
    assert_int_equal(check_in_child(die_in_a_transaction, (void *)(uintptr_t)path, 20), -SIGKILL);
    must(km_grow(map, 2 * SIZE));
    must_fail(km_begin(map, KM_WRITE), KM_EABANDONED);
    must(km_commit(map));
    must(km_grow(map, 3 * SIZE));
    must(km_begin(map, KM_WRITE));
    must(km_commit(map));
    must(km_close(map));
}

/* ---- who dies while it grows ------------------------------------------------------------------------------------- */

static struct {
    char path[512];
    uint64_t size;
} * growth; /* shared with the other process */

static int grow_and_mark(void *context) {
    (void)context;
    km_map *map = NULL;
    child_must(try_open(&map, growth->path, 0, 0, 0));
    halt_mark();
    child_must(km_grow(map, growth->size));
    memset(bytes(map) + SIZE, 3, growth->size - SIZE);
    halt_mark();
    child_must(km_close(map));
    return 0;
}

/* Growth to `size` is cut off before each of its calls, with another handle attached or none. */
static void cut_off_growth(const char *name, uint64_t size, bool beside) {
    enum halt_event event = HALT_CALL;
    unsigned grown = 0, n = 1;
    growth->size = size;
    for (; event == HALT_CALL; n++) {
        struct halt halt;
        snprintf(growth->path, sizeof growth->path, "%s", scratch_path("%s.km", name));
        (void)unlink(growth->path);
        km_map *map = open_live(growth->path, 4 * SIZE, KM_CREATE), *third = NULL;
        memset(km_data(map), 1, SIZE);
        if (beside) {
            third = open_live(growth->path, 0, 0);
        } else {
            must(km_close(map));
        }
        halt_start(&halt, grow_and_mark, NULL);
        assert_int_equal(halt_run_to_mark(&halt), HALT_MARK);
        event = halt_run(&halt, n);
        halt_kill(&halt);
        if (!beside) {
            map = open_live(growth->path, 0, 0);
        }
        km_map *reader = open_live(growth->path, 0, KM_READONLY);
        if (third != NULL && n % 2 == 0) {
            must(km_sync(third)); /* who seals sees it, and tells the others */
        }
        must(km_begin(map, KM_WRITE));
        must(km_commit(map));
        assert_true(km_size(map) == SIZE || km_size(map) == size);
        grown += km_size(map) == size;
        expect_size(reader, km_size(map));
        expect_bytes(map, 0, SIZE, 1);
        expect_bytes(reader, 0, SIZE, 1);
        if (km_size(map) == SIZE) {
            must(km_sync(map));
        }
        assert_int_equal(check_info(map).failed, 0);
        must(km_close(reader));
        if (third != NULL) {
            expect_size(third, km_size(map));
            must(km_close(third));
        }
        must(km_grow(map, size + 10000));
        expect_bytes(map, 0, SIZE, 1);
        for (uint64_t at = SIZE; at < size; at++) { /* the dead one may have stored there */
            assert_true(bytes(map)[at] == 0 || bytes(map)[at] == 3);
        }
        expect_bytes(map, size, size + 10000, 0);
        memset(km_data(map), 4, size + 10000);
        must(km_sync(map));
        check_clean(map);
        must(km_close(map));
        expect_sealed(growth->path);
    }
    assert_true(n > 10 && grown > 1);
}

static void who_dies_while_a_map_grows_damages_nothing(void **state) {
    (void)state;
    if (!halt_is_possible()) {
        skip();
    }
    cut_off_growth("dies-within", 2 * SIZE, false);
    cut_off_growth("dies-beside", 2 * SIZE, true);
    cut_off_growth("dies-beyond", 8 * SIZE, false);
}

/* ---- space ------------------------------------------------------------------------------------------------------- */

static uint64_t allocated(const char *path) {
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return (uint64_t)status.st_blocks * 512;
}

static void space_is_taken_at_creation_and_at_growth(void **state) {
    (void)state;
    const uint64_t mega = 1 << 20;
    const char *path = scratch_path("space.km");
    km_map *map = NULL;
    must(try_open(&map, path, 4 * mega, 64 * mega, KM_CREATE));
    assert_in_range(allocated(path), 4 * mega, 6 * mega);
    must(km_grow(map, 8 * mega));
    assert_in_range(allocated(path), 8 * mega, 10 * mega);
    must(km_grow(map, 64 * mega + 1));
    assert_in_range(allocated(path), 64 * mega, 68 * mega);
    must(km_close(map));
}

static void use_a_full_disk(const char *path) {
    const uint64_t mega = 1 << 20;
    km_map *map = NULL, *other = NULL;
    must_fail(try_open(&map, path, 16 * mega, 0, KM_CREATE), KM_ENOSPACE);
    assert_int_equal(access(path, F_OK), -1);
    must(try_open(&map, path, mega, 8 * mega, KM_CREATE));
    must(try_open(&other, path, 0, 0, 0));
    memset(km_data(map), 1, 1000);
    disk_fill();
    for (uint64_t at = 0; at < mega; at += KM_PAGE_SIZE) {
        bytes(map)[at] = 2; /* not a single one is a fault */
    }
    must(km_sync(map));
    must_fail(km_grow(map, 4 * mega), KM_ENOSPACE);
    must(km_close(other));
    must_fail(km_grow(map, 16 * mega), KM_ENOSPACE); /* alone: beyond max_size */
    assert_int_equal(km_size(map), mega);
    memset(km_data(map), 3, mega);
    must(km_begin(map, KM_WRITE));
    must(km_commit(map));
    must(km_sync(map));
    check_clean(map);
    must(km_close(map));
    must(try_open(&map, path, 0, 0, 0));
    expect_bytes(map, 0, mega, 3);
    assert_int_equal(unlink(scratch_path("disk/filler")), 0);
    must(km_grow(map, 2 * mega));
    expect_bytes(map, mega, 2 * mega, 0);
    memset(km_data(map), 4, 2 * mega);
    must(km_close(map));
    expect_sealed(path);
    disk_remove();
}

static void a_full_disk_is_told_at_creation_and_growth_and_met_nowhere_else(void **state) {
    (void)state;
    if (disk_small(5) == NULL) {
        skip();
    }
    use_a_full_disk(scratch_path("disk/map.km"));
}

static void a_full_memory_is_told_at_creation_and_growth_and_met_nowhere_else(void **state) {
    (void)state;
    if (disk_in_memory(5) == NULL) {
        skip();
    }
    use_a_full_disk(scratch_path("disk/map.km"));
}

static void objects_in_a_full_memory_are_refused_and_leave_nothing(void **state) {
    (void)state;
    char before[256];
    snprintf(before, sizeof before, "%s", getenv("KEEPMAP_SHM"));
    if (disk_in_memory(4) == NULL) {
        skip();
    }
    setenv("KEEPMAP_SHM", scratch_path("disk"), 1);
    for (uint32_t mode = KM_TRANSACTIONAL; mode <= KM_RAW; mode++) {
        km_map *map = NULL;
        struct km_options options = {
            .struct_size = sizeof options, .size = 16 << 20, .mode = mode, .flags = KM_CREATE, .timeout_ms = 1000};
        must_fail(km_open(&map, "Local\\large", &options), KM_ENOSPACE);
        must_fail(km_open(&map, "Local\\large", &options), KM_ENOSPACE);
        options.size = 1 << 20;
        must(km_open(&map, "Local\\small", &options));
        disk_fill();
        if (mode == KM_RAW) {
            memset(km_data(map), 1, 1 << 20);
        } else {
            for (int i = 1; i <= 20; i++) {
                check_commit_fill(map, 0, i, 1 << 17);
            }
            must_fail(km_grow(map, 8 << 20), KM_ENOSPACE);
            check_commit_fill(map, 0, 1, 1 << 16);
        }
        must(km_close(map));
        must_fail(km_open(&map, "Local\\small", &(struct km_options){.struct_size = sizeof options}), KM_ENOTFOUND);
        assert_int_equal(unlink(scratch_path("disk/filler")), 0);
    }
    setenv("KEEPMAP_SHM", before, 1);
    disk_remove();
}

int main(void) {
    scratch_time_limit(170);
    objects_start();
    growth = mmap(NULL, sizeof *growth, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (growth == MAP_FAILED) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(growth_up_to_max_size_is_seen_by_all_at_their_next_begin),
        cmocka_unit_test(growth_beyond_max_size_needs_to_be_alone_and_says_so),
        cmocka_unit_test(a_map_can_grow_again_and_again),
        cmocka_unit_test(what_was_stored_behind_the_end_does_not_become_data),
        cmocka_unit_test(growth_does_not_forget_a_death),
        cmocka_unit_test(who_dies_while_a_map_grows_damages_nothing),
        cmocka_unit_test(space_is_taken_at_creation_and_at_growth),
        cmocka_unit_test(a_full_disk_is_told_at_creation_and_growth_and_met_nowhere_else),
        cmocka_unit_test(a_full_memory_is_told_at_creation_and_growth_and_met_nowhere_else),
        cmocka_unit_test(objects_in_a_full_memory_are_refused_and_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
