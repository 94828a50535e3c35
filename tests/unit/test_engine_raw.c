/* SPDX-License-Identifier: MIT
 *
 * Raw maps: the bytes of any file, of which none is changed but those that the caller stores.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/scratch.h"

static int try_open(km_map **map, const char *path, uint64_t size, uint32_t flags) {
    const struct km_options options = {
        .struct_size = sizeof options, .size = size, .mode = KM_RAW, .flags = flags, .timeout_ms = 1000};
    return km_open(map, path, &options);
}

static km_map *open_raw(const char *path, uint64_t size, uint32_t flags) {
    km_map *map = NULL;
    must(try_open(&map, path, size, flags));
    return map;
}

static unsigned char *bytes(km_map *map) {
    return km_data(map);
}

/* A file of `size` bytes that look like nothing in particular. */
static const char *any_file(const char *name, size_t size) {
    const char *path = scratch_path("%s.bin", name);
    unsigned char *content = malloc(size + 1);
    assert_non_null(content);
    for (size_t i = 0; i < size; i++) {
        content[i] = (unsigned char)(i * 31 + 7);
    }
    scratch_store(path, content, size);
    free(content);
    return path;
}

static void expect_content(km_map *map, size_t size) {
    for (size_t i = 0; i < size; i++) {
        assert_int_equal(bytes(map)[i], (unsigned char)(i * 31 + 7));
    }
}

static void a_file_of_any_size_is_seen_byte_for_byte(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 7, 4095, 4096, 4097, 8192, 65536, 100001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const char *path = any_file("any", sizes[i]);
        km_map *map = open_raw(path, 0, 0), *reader = open_raw(path, 0, KM_READONLY);
        assert_int_equal(km_size(map), sizes[i]);
        assert_int_equal(km_size(reader), sizes[i]);
        assert_int_equal(km_generation(map), 0);
        expect_content(map, sizes[i]);
        expect_content(reader, sizes[i]);
        must(km_close(map));
        must(km_close(reader));
        assert_int_equal(scratch_file_size(path), sizes[i]);
    }
}

static void same_times(const struct stat *a, const struct stat *b) {
    assert_int_equal(a->st_mtim.tv_sec, b->st_mtim.tv_sec);
    assert_int_equal(a->st_mtim.tv_nsec, b->st_mtim.tv_nsec);
    assert_int_equal(a->st_ctim.tv_sec, b->st_ctim.tv_sec);
    assert_int_equal(a->st_ctim.tv_nsec, b->st_ctim.tv_nsec);
    assert_int_equal(a->st_size, b->st_size);
    assert_int_equal(a->st_blocks, b->st_blocks);
    assert_int_equal(a->st_ino, b->st_ino);
    assert_int_equal(a->st_mode, b->st_mode);
}

static void nothing_of_a_file_is_changed_that_is_only_looked_at(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_READONLY, KM_CREATE, KM_GUARD, KM_GUARD | KM_READONLY, KM_TAKE_OVER};
    const char *path = any_file("looked-at", 10001);
    assert_int_equal(chmod(path, 0640), 0);
    struct scratch_image before = scratch_load(path);
    struct stat old, now;
    assert_int_equal(stat(path, &old), 0);
    scratch_sleep_ms(20); /* so that a change would show in the times */
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        km_map *map = open_raw(path, 500, flags[i]);
        assert_int_equal(km_size(map), 10001); /* that of the file, whatever was asked for */
        (void)check_info(map);
        if ((flags[i] & KM_READONLY) == 0) {
            must(km_sync(map));
        }
        must(km_close(map));
        assert_int_equal(stat(path, &now), 0);
        same_times(&old, &now);
        assert_true(scratch_equals(path, &before));
    }
    scratch_release(&before);
}

static int look_in_child(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, 0, 0));
    child_check(bytes(map)[100] == 200);
    bytes(map)[101] = 201;
    child_must(km_close(map));
    return 0;
}

static void only_the_bytes_that_are_stored_change_and_all_see_them(void **state) {
    (void)state;
    const char *path = any_file("stored", 5000);
    struct scratch_image expected = scratch_load(path);
    km_map *map = open_raw(path, 0, 0), *reader = open_raw(path, 0, KM_READONLY);
    bytes(map)[100] = 200;
    assert_int_equal(bytes(reader)[100], 200);
    assert_int_equal(check_in_child(look_in_child, (void *)(uintptr_t)path, 20), 0);
    assert_int_equal(bytes(map)[101], 201);
    must(km_sync(map));
    bytes(map)[4999] = 99;
    bytes(map)[5000] = 1; /* behind the end of the file: nobody's */
    must(km_close(map));
    must(km_close(reader));
    expected.bytes[100] = 200;
    expected.bytes[101] = 201;
    expected.bytes[4999] = 99;
    assert_true(scratch_equals(path, &expected));
    scratch_release(&expected);
}

/* A program that knows nothing of keepmap writes to the file meanwhile. */
static void what_others_write_to_the_file_is_seen(void **state) {
    (void)state;
    const char *path = any_file("others", 5000);
    km_map *map = open_raw(path, 0, 0);
    scratch_write(path, 1234, "hello", 5);
    assert_memory_equal(bytes(map) + 1234, "hello", 5);
    memcpy(bytes(map) + 2000, "world", 5);
    char read_back[5];
    scratch_read(path, 2000, read_back, 5);
    assert_memory_equal(read_back, "world", 5);
    must(km_close(map));
}

/* ---- creation ---------------------------------------------------------------------------------------------------- */

static void a_raw_file_can_be_created_of_zeros(void **state) {
    (void)state;
    const char *path = scratch_path("created.bin");
    km_map *map = NULL;
    must_fail(try_open(&map, path, 1000, 0), KM_ENOTFOUND);
    must_fail(try_open(&map, path, 0, KM_CREATE), KM_ESIZE);
    must_fail(try_open(&map, path, UINT64_MAX, KM_CREATE), KM_ESIZE);
    assert_int_equal(access(path, F_OK), -1);
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = 12345,
                                       .mode = KM_RAW,
                                       .flags = KM_CREATE | KM_EXCLUSIVE,
                                       .permissions = 0604};
    must(km_open(&map, path, &options));
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_size, 12345);
    assert_int_equal(status.st_mode & 07777, 0604);
    assert_true(status.st_blocks * 512 >= 12288); /* no store finds the disk full */
    for (size_t i = 0; i < 12345; i++) {
        assert_int_equal(bytes(map)[i], 0);
    }
    bytes(map)[12344] = 5;
    km_map *other = NULL;
    must_fail(km_open(&other, path, &options), KM_EEXISTS);
    must(km_close(map));
    map = open_raw(path, 1, KM_CREATE);
    assert_int_equal(km_size(map), 12345);
    assert_int_equal(bytes(map)[12344], 5);
    must(km_close(map));
}

static void what_a_header_would_tell_is_refused_at_creation(void **state) {
    (void)state;
    const char *path = scratch_path("refused.bin");
    const struct km_options wrong[] = {
        {.max_size = 2000}, {.journal_size = 65536}, {.checksum = KM_CHECKSUM_CRC32}, {.checksum = KM_CHECKSUM_NONE},
        {.schema = "a"},    {.flags = KM_COMPRESS},  {.flags = KM_FULL_PAGES},        {.flags = KM_REPLACE}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct km_options options = wrong[i];
        km_map *map = NULL;
        options.struct_size = sizeof options;
        options.size = 1000;
        options.mode = KM_RAW;
        options.flags |= KM_CREATE;
        must_fail(km_open(&map, path, &options), KM_EINVAL);
        check_detail_contains("raw");
        assert_int_equal(access(path, F_OK), -1);
    }
}

/* ---- what cannot be opened --------------------------------------------------------------------------------------- */

static void what_is_no_file_with_bytes_is_refused_by_name(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_READONLY, KM_CREATE};
    const char *empty = scratch_path("empty.bin"), *fifo = scratch_path("fifo"), *directory = scratch_path("directory");
    scratch_store(empty, "", 0);
    assert_int_equal(mkfifo(fifo, 0600) | mkdir(directory, 0700), 0);
    const struct {
        const char *path;
        int error;
    } cases[] = {{empty, KM_EEMPTY}, {fifo, KM_ENOTMAP}, {directory, KM_EDIRECTORY}, {"/dev/null", KM_ENOTMAP}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int j = 0; j < 3; j++) {
            km_map *map = NULL;
            must_fail(try_open(&map, cases[i].path, 100, flags[j]), cases[i].error);
            check_detail_contains(cases[i].path);
        }
    }
    assert_int_equal(scratch_file_size(empty), 0);
}

static void a_keepmap_map_is_refused_for_writing_and_can_be_looked_at(void **state) {
    (void)state;
    for (uint32_t mode = KM_TRANSACTIONAL; mode <= KM_LIVE; mode++) {
        const char *path = scratch_path("map-%u.km", mode);
        km_map *map = NULL, *raw = NULL;
        const struct km_options options = {
            .struct_size = sizeof options, .size = 9000, .mode = mode, .flags = KM_CREATE};
        must(km_open(&map, path, &options));
        must_fail(try_open(&raw, path, 0, 0), KM_EINVAL);
        check_detail_contains("KM_READONLY");
        must_fail(try_open(&raw, path, 0, KM_CREATE), KM_EINVAL);
        raw = open_raw(path, 0, KM_READONLY);
        assert_int_equal(km_size(raw), scratch_file_size(path));
        assert_memory_equal(bytes(raw), KM__MAGIC, 8);
        assert_int_equal(check_info(map).read_only_handles, 1);
        must(km_close(raw));
        must(km_close(map));
        must_fail(try_open(&raw, path, 0, 0), KM_EINVAL);
        /* one slot is enough for a map */
        scratch_flip(path, KM__SLOT_A, 1);
        must_fail(try_open(&raw, path, 0, 0), KM_EINVAL);
        must(km_open(&map, path, NULL));
        must(km_close(map)); /* which mended it */
        scratch_flip(path, KM__SLOT_B, 1);
        must_fail(try_open(&raw, path, 0, 0), KM_EINVAL);
    }
}

static void permissions_are_those_of_the_file(void **state) {
    (void)state;
    if (geteuid() == 0) {
        skip(); /* root may do everything */
    }
    const char *path = any_file("permissions", 100);
    km_map *map = NULL;
    assert_int_equal(chmod(path, 0400), 0);
    must_fail(try_open(&map, path, 0, 0), KM_EACCESS);
    must(km_close(open_raw(path, 0, KM_READONLY)));
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static int no_entry(void *context, const struct km_log_entry *entry) {
    (void)context;
    (void)entry;
    return 0;
}

static int no_user(void *context, const struct km_user *user) {
    (void)context;
    (void)user;
    return 0;
}

static void every_call_that_needs_a_header_says_so(void **state) {
    (void)state;
    const char *path = any_file("calls", 5000);
    struct scratch_image before = scratch_load(path);
    static const uint32_t flags[] = {0, KM_READONLY};
    for (int i = 0; i < 2; i++) {
        km_map *map = open_raw(path, 0, flags[i]);
        struct km_report report = {.struct_size = sizeof report};
        uint64_t now = 0;
        const int results[] = {km_begin(map, KM_READ),
                               km_begin(map, KM_WRITE),
                               km_commit(map),
                               km_abort(map),
                               km_touch(map, 0, 1),
                               km_checkpoint(map),
                               km_grow(map, 10000),
                               km_wait(map, 0, 0, &now),
                               km_verify(map, &report, NULL, NULL),
                               km_log(map, no_entry, NULL),
                               km_who(map, no_user, NULL)};
        for (size_t j = 0; j < sizeof results / sizeof *results; j++) {
            if (results[j] != KM_EUNSUPPORTED) {
                fail_msg("call %zu gave %s", j, km_error_name(results[j]));
            }
        }
        must_fail(km_begin(map, KM_READ), KM_EUNSUPPORTED);
        check_detail_contains("km_begin()");
        check_detail_contains("raw bytes");
        must_fail(km_grow(map, 10000), KM_EUNSUPPORTED);
        check_detail_contains("km_grow()");
        if (flags[i] == KM_READONLY) {
            must_fail(km_sync(map), KM_EREADONLY);
        } else {
            must(km_sync(map));
        }
        must(km_close(map));
    }
    assert_true(scratch_equals(path, &before));
    scratch_release(&before);
}

static void the_info_counts_handles_and_leaves_zero_what_a_header_would_tell(void **state) {
    (void)state;
    const char *path = any_file("info", 5000);
    km_map *maps[5];
    for (unsigned i = 0; i < 5; i++) {
        maps[i] = open_raw(path, 0, i < 3 ? 0 : KM_READONLY);
        for (unsigned j = 0; j <= i; j++) {
            const struct km_info info = check_info(maps[j]);
            assert_int_equal(info.handles, i < 3 ? i + 1 : 3);
            assert_int_equal(info.read_only_handles, i > 3 || (i == 3 && j < 3)); /* others */
        }
    }
    struct km_info expected = {.struct_size = sizeof expected,
                               .mode = KM_RAW,
                               .checksum = KM_CHECKSUM_NONE,
                               .size = 5000,
                               .max_size = 5000,
                               .file_size = 5000,
                               .handles = 3,
                               .read_only_handles = 1,
                               .tracker = "none"};
    const struct km_info info = check_info(maps[4]);
    expected.file_allocated = info.file_allocated;
    assert_memory_equal(&info, &expected, sizeof info);
    assert_true(info.file_allocated > 0);
    must(km_close(maps[1]));
    assert_int_equal(check_info(maps[0]).handles, 2);
    maps[1] = open_raw(path, 0, 0);
    assert_int_equal(check_info(maps[0]).handles, 3);
    for (int i = 0; i < 5; i++) {
        must(km_close(maps[i]));
    }
}

static void as_many_handles_may_write_as_there_are_slots(void **state) {
    (void)state;
    static km_map *maps[KM__SLOTS];
    const char *path = any_file("many", 100);
    km_map *more = NULL;
    for (unsigned i = 0; i < KM__SLOTS; i++) {
        maps[i] = open_raw(path, 0, 0);
    }
    must_fail(try_open(&more, path, 0, 0), KM_EHANDLES);
    more = open_raw(path, 0, KM_READONLY);
    assert_int_equal(check_info(more).handles, KM__SLOTS);
    must(km_close(maps[800]));
    maps[800] = open_raw(path, 0, 0);
    for (unsigned i = 0; i < KM__SLOTS; i++) {
        must(km_close(maps[i]));
    }
    assert_int_equal(check_info(more).handles, 0);
    must(km_close(more));
}

/* ---- the file changes under the handle --------------------------------------------------------------------------- */

static void a_file_that_was_cut_short_or_taken_away_is_told(void **state) {
    (void)state;
    for (int how = 0; how < 3; how++) {
        const char *path = any_file("gone", 9000);
        km_map *map = open_raw(path, 0, 0);
        if (how == 0) {
            assert_int_equal(truncate(path, 8999), 0);
        } else if (how == 1) {
            assert_int_equal(unlink(path), 0);
        } else {
            scratch_store(scratch_path("new"), "new", 3);
            assert_int_equal(rename(scratch_path("new"), path), 0);
        }
        must_fail(km_sync(map), KM_ESTALE);
        struct km_info info = {.struct_size = sizeof info};
        must_fail(km_get_info(map, &info), KM_ESTALE);
        must_fail(km_sync(map), KM_ESTALE);
        must(km_close(map));
    }
}

static void a_file_that_grew_is_seen_by_who_opens_it_anew(void **state) {
    (void)state;
    const char *path = any_file("grew", 100);
    km_map *map = open_raw(path, 0, 0);
    assert_int_equal(truncate(path, 20000), 0);
    assert_int_equal(km_size(map), 100);
    must(km_sync(map));
    km_map *other = open_raw(path, 0, 0);
    assert_int_equal(km_size(other), 20000);
    bytes(other)[0] = 1;
    assert_int_equal(bytes(map)[0], 1);
    must(km_close(map));
    must(km_close(other));
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_of_any_size_is_seen_byte_for_byte),
        cmocka_unit_test(nothing_of_a_file_is_changed_that_is_only_looked_at),
        cmocka_unit_test(only_the_bytes_that_are_stored_change_and_all_see_them),
        cmocka_unit_test(what_others_write_to_the_file_is_seen),
        cmocka_unit_test(a_raw_file_can_be_created_of_zeros),
        cmocka_unit_test(what_a_header_would_tell_is_refused_at_creation),
        cmocka_unit_test(what_is_no_file_with_bytes_is_refused_by_name),
        cmocka_unit_test(a_keepmap_map_is_refused_for_writing_and_can_be_looked_at),
        cmocka_unit_test(permissions_are_those_of_the_file),
        cmocka_unit_test(every_call_that_needs_a_header_says_so),
        cmocka_unit_test(the_info_counts_handles_and_leaves_zero_what_a_header_would_tell),
        cmocka_unit_test(as_many_handles_may_write_as_there_are_slots),
        cmocka_unit_test(a_file_that_was_cut_short_or_taken_away_is_told),
        cmocka_unit_test(a_file_that_grew_is_seen_by_who_opens_it_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
