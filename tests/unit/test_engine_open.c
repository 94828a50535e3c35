/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises about creating, opening, closing and describing a map.
 */
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/scratch.h"

static struct km_options creation(uint64_t size) {
    return (struct km_options){.struct_size = sizeof(struct km_options), .size = size, .flags = KM_CREATE};
}

static void a_created_map_is_zero_and_at_generation_0(void **state) {
    (void)state;
    km_map *map = check_open(scratch_path("zero.km"), 100000, KM_CREATE);
    assert_int_equal(km_size(map), 100000);
    must(km_begin(map, KM_READ));
    assert_int_equal(km_generation(map), 0);
    const unsigned char *data = km_data(map);
    for (size_t i = 0; i < 100000; i++) {
        assert_int_equal(data[i], 0);
    }
    must(km_abort(map));
    check_clean(map);
    must(km_close(map));
}

static void a_map_of_any_size_keeps_every_byte(void **state) {
    (void)state;
    static const uint64_t sizes[] = {1, 7, 4095, 4096, 4097, 65535, 65536, 65537, 1234567};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const char *path = scratch_path("size-%llu.km", (unsigned long long)sizes[i]);
        km_map *map = check_open(path, sizes[i], KM_CREATE);
        assert_int_equal(km_size(map), sizes[i]);
        check_commit_fill(map, 0, 0xa5, sizes[i]);
        assert_int_equal(km_generation(map), 1);
        must(km_close(map));
        map = check_open(path, 0, KM_READONLY);
        assert_int_equal(km_size(map), sizes[i]);
        must(km_begin(map, KM_READ));
        assert_int_equal(km_generation(map), 1);
        const unsigned char *data = km_data(map);
        for (uint64_t at = 0; at < sizes[i]; at++) {
            assert_int_equal(data[at], 0xa5);
        }
        must(km_abort(map));
        check_clean(map);
        must(km_close(map));
    }
}

static void a_size_that_cannot_be_is_refused_and_leaves_nothing(void **state) {
    (void)state;
    static const uint64_t sizes[] = {0, UINT64_C(1) << 60, UINT64_C(1) << 62, UINT64_MAX, UINT64_MAX - 4095};
    const char *path = scratch_path("impossible.km");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const struct km_options options = creation(sizes[i]);
        km_map *map = (km_map *)&map;
        must_fail(km_open(&map, path, &options), KM_ESIZE);
        assert_int_equal(access(path, F_OK), -1);
    }
    struct km_options options = creation(8192);
    options.max_size = 4096;
    km_map *map;
    must_fail(km_open(&map, path, &options), KM_ESIZE);
    options.max_size = UINT64_MAX;
    must_fail(km_open(&map, path, &options), KM_ESIZE);
    options = creation(8192);
    options.journal_size = UINT64_MAX;
    must_fail(km_open(&map, path, &options), KM_ESIZE);
    assert_int_equal(access(path, F_OK), -1);
}

static void arguments_that_do_not_hold_are_refused(void **state) {
    (void)state;
    const char *path = scratch_path("arguments.km");
    struct km_options options = creation(4096);
    km_map *map;
    must_fail(km_open(NULL, path, &options), KM_EINVAL);
    must_fail(km_open(&map, NULL, &options), KM_EINVAL);
    must_fail(km_open(&map, "", &options), KM_EINVAL);
    options.struct_size = 4;
    must_fail(km_open(&map, path, &options), KM_EINVAL);
    options = creation(4096);
    options.flags |= 1u << 30;
    must_fail(km_open(&map, path, &options), KM_EINVAL);
    options = creation(4096);
    options.checksum = 77;
    assert_int_not_equal(km_open(&map, path, &options), 0);
    options = creation(4096);
    options.mode = 77;
    assert_int_not_equal(km_open(&map, path, &options), 0);
    options = creation(4096);
    options.schema = "a name that is longer than the sixty-three bytes that a schema may have";
    must_fail(km_open(&map, path, &options), KM_EINVAL);
    options.schema = "";
    must_fail(km_open(&map, path, &options), KM_EINVAL);
    assert_int_equal(access(path, F_OK), -1);
    must(km_close(NULL));
}

/* A word in the environment that is mistyped must not choose in silence. */
static void an_unknown_tracker_is_refused(void **state) {
    (void)state;
    const char *before = getenv("KEEPMAP_TRACKER");
    char kept[32] = "";
    if (before != NULL)
        snprintf(kept, sizeof kept, "%s", before);
    km_map *map = check_open(scratch_path("tracker.km"), 4096, KM_CREATE);
    assert_int_equal(setenv("KEEPMAP_TRACKER", "skan", 1), 0);
    must_fail(km_begin(map, KM_WRITE), KM_EINVAL);
    check_detail_contains("skan");
    assert_int_equal(before != NULL ? setenv("KEEPMAP_TRACKER", kept, 1) : unsetenv("KEEPMAP_TRACKER"), 0);
    must(km_begin(map, KM_WRITE));
    must(km_close(map));
}

/* A program that was built with a later version asks an older library. */
static void a_larger_structure_is_filled_with_what_is_known(void **state) {
    (void)state;
    struct {
        struct km_info info;
        uint64_t later;
    } large = {.info.struct_size = sizeof large, .later = 7};
    struct {
        struct km_report report;
        uint64_t later;
    } long_report = {.report.struct_size = sizeof long_report, .later = 7};
    km_map *map = check_open(scratch_path("larger.km"), 4096, KM_CREATE);
    must(km_get_info(map, &large.info));
    assert_int_equal(large.info.size, 4096);
    assert_int_equal(large.later, 0);
    must(km_verify(map, &long_report.report, NULL, NULL));
    assert_int_equal(long_report.report.pages, 1);
    assert_int_equal(long_report.later, 0);
    large.info.struct_size = 8;
    must_fail(km_get_info(map, &large.info), KM_EINVAL);
    must(km_close(map));
}

static void a_call_that_succeeds_leaves_no_detail(void **state) {
    (void)state;
    km_map *first = check_open(scratch_path("detail.km"), 4096, KM_CREATE);
    km_map *second = check_open(scratch_path("detail.km"), 0, 0); /* looks who is there, by locks that are taken */
    assert_string_equal(km_last_error_detail(), "");
    must_fail(km_abort(second), KM_EMISUSE);
    assert_string_not_equal(km_last_error_detail(), "");
    must(km_checkpoint(second));
    assert_string_equal(km_last_error_detail(), "");
    must(km_close(second));
    assert_string_equal(km_last_error_detail(), "");
    must(km_close(first));
}

static void a_missing_map_is_not_found_and_not_created(void **state) {
    (void)state;
    const struct km_options options = {.struct_size = sizeof options};
    const struct km_options readonly = {.struct_size = sizeof readonly, .flags = KM_READONLY};
    const char *path = scratch_path("missing.km");
    km_map *map;
    must_fail(km_open(&map, path, &options), KM_ENOTFOUND);
    check_detail_contains("missing.km");
    must_fail(km_open(&map, path, &readonly), KM_ENOTFOUND);
    const struct km_options in_missing_directory = creation(4096);
    must_fail(km_open(&map, scratch_path("no/such/map.km"), &in_missing_directory), KM_ENOTFOUND);
    assert_int_equal(access(path, F_OK), -1);
}

static void exclusive_creation_refuses_what_exists(void **state) {
    (void)state;
    const char *path = scratch_path("exclusive.km");
    km_map *map = check_open(path, 4096, KM_CREATE | KM_EXCLUSIVE);
    check_commit_fill(map, 0, 1, 10);
    must(km_close(map));
    struct scratch_image before = scratch_load(path);
    struct km_options options = creation(4096);
    options.flags |= KM_EXCLUSIVE;
    must_fail(km_open(&map, path, &options), KM_EEXISTS);
    assert_true(scratch_equals(path, &before));
    scratch_release(&before);
}

static void creation_options_are_ignored_when_the_map_exists(void **state) {
    (void)state;
    const char *path = scratch_path("exists.km");
    km_map *map = check_open(path, 5000, KM_CREATE);
    check_commit_fill(map, 10, 9, 10);
    must(km_close(map));
    struct km_options options = creation(777777);
    options.max_size = 888888;
    options.checksum = KM_CHECKSUM_NONE;
    must(km_open(&map, path, &options));
    const struct km_info info = check_info(map);
    assert_int_equal(info.size, 5000);
    assert_int_equal(info.max_size, 5000);
    assert_int_equal(info.checksum, KM_CHECKSUM_CRC32C);
    assert_int_equal(info.generation, 1);
    must(km_close(map));
}

static void permissions_are_as_asked_whatever_the_umask(void **state) {
    (void)state;
    struct stat status;
    const mode_t old = umask(0077);
    km_map *map = check_open(scratch_path("private.km"), 4096, KM_CREATE);
    must(km_close(map));
    assert_int_equal(stat(scratch_path("private.km"), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    struct km_options options = creation(4096);
    options.permissions = 0664;
    must(km_open(&map, scratch_path("shared.km"), &options));
    must(km_close(map));
    assert_int_equal(stat(scratch_path("shared.km"), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0664);
    umask(old);
}

static void another_schema_is_refused_with_both_named(void **state) {
    (void)state;
    const char *path = scratch_path("schema.km");
    struct km_options options = creation(4096);
    options.schema = "inventory";
    options.schema_version = 3;
    km_map *map;
    must(km_open(&map, path, &options));
    must(km_close(map));
    struct scratch_image before = scratch_load(path);
    options.schema = "accounts";
    must_fail(km_open(&map, path, &options), KM_ESCHEMA);
    check_detail_contains("inventory");
    check_detail_contains("accounts");
    options.schema = "inventory";
    options.schema_version = 4;
    must_fail(km_open(&map, path, &options), KM_ESCHEMA);
    check_detail_contains("3");
    check_detail_contains("4");
    options.flags = KM_READONLY;
    must_fail(km_open(&map, path, &options), KM_ESCHEMA);
    assert_true(scratch_equals(path, &before));
    scratch_release(&before);
    options.schema_version = 3;
    must(km_open(&map, path, &options));
    const struct km_info info = check_info(map);
    assert_string_equal(info.schema, "inventory");
    assert_int_equal(info.schema_version, 3);
    must(km_close(map));
    must(km_close(check_open(path, 0, 0)));
}

static void replacing_needs_a_map_that_nobody_has_open(void **state) {
    (void)state;
    const char *path = scratch_path("replaced.km");
    km_map *map = check_open(path, 4096, KM_CREATE);
    check_commit_fill(map, 0, 5, 100);
    struct km_options options = creation(8192);
    options.flags |= KM_REPLACE;
    options.timeout_ms = 1;
    km_map *other;
    must_fail(km_open(&other, path, &options), KM_EBUSY);
    must(km_begin(map, KM_READ));
    assert_int_equal(*(unsigned char *)km_data(map), 5);
    must(km_abort(map));
    check_commit_fill(map, 0, 6, 100);
    const struct km_info old = check_info(map);
    must(km_close(map));
    map = check_open(path, 0, KM_READONLY);
    must_fail(km_open(&other, path, &options), KM_EBUSY);
    must(km_close(map));
    must(km_open(&map, path, &options));
    assert_int_equal(km_size(map), 8192);
    assert_int_equal(check_info(map).generation, 0);
    assert_memory_not_equal(check_info(map).uuid, old.uuid, sizeof old.uuid);
    must(km_close(map));

    const char text[] = "the only copy of somebody's novel";
    const char *novel = scratch_path("novel.txt");
    scratch_store(novel, text, sizeof text);
    struct scratch_image before = scratch_load(novel);
    must_fail(km_open(&map, novel, &options), KM_ENOTMAP);
    assert_true(scratch_equals(novel, &before));
    scratch_release(&before);
}

static void a_map_is_clean_only_while_nobody_writes(void **state) {
    (void)state;
    const char *path = scratch_path("clean.km");
    km_map *map = check_open(path, 4096, KM_CREATE);
    check_commit_fill(map, 0, 5, 100);
    assert_int_equal(check_info(map).clean, 0);
    assert_int_equal(check_info(map).handles, 1);
    must(km_close(map));
    map = check_open(path, 0, KM_READONLY);
    const struct km_info info = check_info(map);
    assert_int_equal(info.clean, 1);
    assert_int_equal(info.handles, 0);
    assert_int_equal(info.journal_used, 0);
    assert_int_equal(info.durable_generation, 1);
    assert_int_equal(info.checkpoint_generation, 1);
    must(km_close(map));
}

static void the_defaults_are_as_documented(void **state) {
    (void)state;
    static const struct {
        uint64_t size, journal;
    } cases[] = {{1, 1 << 20}, {8 << 20, 1 << 20}, {64 << 20, 8 << 20}, {UINT64_C(1) << 30, 64 << 20}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = scratch_path("default-%zu.km", i);
        km_map *map = check_open(path, cases[i].size, KM_CREATE);
        const struct km_info info = check_info(map);
        assert_int_equal(info.format_version, 1);
        assert_int_equal(info.mode, KM_TRANSACTIONAL);
        assert_int_equal(info.checksum, KM_CHECKSUM_CRC32C);
        assert_int_equal(info.size, cases[i].size);
        assert_int_equal(info.max_size, cases[i].size);
        assert_int_equal(info.journal_size, cases[i].journal);
        assert_int_equal(info.header_slots, 3);
        assert_int_equal(info.failed, 0);
        assert_string_equal(info.schema, "");
        assert_int_equal(info.file_size, scratch_file_size(path));
        must(km_close(map));
        assert_int_equal(remove(path), 0);
    }
}

static int count_users(void *context, const struct km_user *user) {
    unsigned *counts = context;
    counts[0]++;
    counts[1] += user->self;
    counts[2] += user->in_transaction;
    counts[3] += user->process_id == (uint32_t)getpid();
    return 0;
}

static void who_tells_every_handle_that_may_write(void **state) {
    (void)state;
    const char *path = scratch_path("who.km");
    km_map *first = check_open(path, 4096, KM_CREATE);
    km_map *second = check_open(path, 0, 0);
    km_map *reader = check_open(path, 0, KM_READONLY);
    must(km_begin(second, KM_READ));
    unsigned counts[4] = {0};
    must(km_who(first, count_users, counts));
    assert_int_equal(counts[0], 2);
    assert_int_equal(counts[1], 1);
    assert_int_equal(counts[2], 1);
    assert_int_equal(counts[3], 2);
    assert_int_equal(check_info(first).handles, 2);
    assert_int_equal(check_info(first).read_only_handles, 1);
    memset(counts, 0, sizeof counts);
    must(km_who(reader, count_users, counts));
    assert_int_equal(counts[0], 2);
    assert_int_equal(counts[1], 0);
    must(km_close(reader));
    assert_int_equal(check_info(first).read_only_handles, 0);
    must(km_close(second));
    memset(counts, 0, sizeof counts);
    must(km_who(first, count_users, counts));
    assert_int_equal(counts[0], 1);
    must(km_close(first));
}

struct named_user {
    uint32_t slot;
    char process_name[sizeof((struct km_user *)0)->process_name];
};

static int note_name(void *context, const struct km_user *user) {
    struct named_user *named = context;
    if (user->slot == named->slot)
        memcpy(named->process_name, user->process_name, sizeof named->process_name);
    return 0;
}

/* A number means a process only together with the start of that. */
static void who_names_no_process_that_only_has_the_number(void **state) {
    (void)state;
    const char *path = scratch_path("number.km");
    km_map *first = check_open(path, 4096, KM_CREATE);
    km_map *second = check_open(path, 0, 0);
    struct named_user named = {.slot = second->slot};
    must(km_who(first, note_name, &named));
    assert_string_not_equal(named.process_name, "");
    _Atomic uint64_t *const start = &first->control->slot[second->slot].process_start;
    const uint64_t starts[] = {atomic_load(start) + 1, 0}; /* another process; one of which nothing is known */
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        atomic_store(start, starts[i]);
        must(km_who(first, note_name, &named));
        assert_string_equal(named.process_name, "");
    }
    must(km_close(second));
    must(km_close(first));
}

/* Each handle has its own descriptions, so the limit on open files must allow for all of them. */
static void one_handle_too_many_is_told_and_a_closed_one_makes_room(void **state) {
    (void)state;
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max < 16384 ? limit.rlim_max : 16384;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < 8192) {
        fprintf(stderr, "# skipped: too few open files are allowed\n");
        skip();
    }
    enum { MOST = 1200 };
    static km_map *maps[MOST];
    const char *path = scratch_path("crowd.km");
    const struct km_options options = creation(4096);
    size_t count = 0;
    int result = 0;
    while (count < MOST && (result = km_open(&maps[count], path, &options)) == 0) {
        count++;
    }
    must_fail(result, KM_EHANDLES);
    assert_in_range(count, 750, 1100);
    check_commit_fill(maps[0], 0, 3, 10);
    must(km_begin(maps[count - 1], KM_READ));
    assert_int_equal(*(unsigned char *)km_data(maps[count - 1]), 3);
    must(km_abort(maps[count - 1]));
    must(km_close(maps[count / 2]));
    must(km_open(&maps[count / 2], path, &options));
    for (size_t i = 0; i < count; i++) {
        must(km_close(maps[i]));
    }
    km_map *map = check_open(path, 0, KM_READONLY);
    assert_int_equal(check_info(map).clean, 1);
    must(km_close(map));
}

static void every_error_has_a_name_a_message_and_an_exit_status(void **state) {
    (void)state;
#define EXPECT(code, number, status, message)                                                                          \
    assert_int_equal(code, number);                                                                                    \
    assert_string_equal(km_error_name(code), #code);                                                                   \
    assert_string_equal(km_error_message(code), message);                                                              \
    assert_int_equal(km_error_exit_status(code), status);
    KM_ERROR_MAP(EXPECT)
#undef EXPECT
    assert_string_equal(km_error_name(0), "KM_OK");
    assert_string_equal(km_error_name(-12345), "KM_EUNKNOWN");
    assert_non_null(km_error_message(-12345));
    assert_int_equal(km_error_exit_status(0), 0);
    assert_string_equal(km_version(), KM_VERSION);
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_created_map_is_zero_and_at_generation_0),
        cmocka_unit_test(a_map_of_any_size_keeps_every_byte),
        cmocka_unit_test(a_size_that_cannot_be_is_refused_and_leaves_nothing),
        cmocka_unit_test(arguments_that_do_not_hold_are_refused),
        cmocka_unit_test(an_unknown_tracker_is_refused),
        cmocka_unit_test(a_larger_structure_is_filled_with_what_is_known),
        cmocka_unit_test(a_call_that_succeeds_leaves_no_detail),
        cmocka_unit_test(a_missing_map_is_not_found_and_not_created),
        cmocka_unit_test(exclusive_creation_refuses_what_exists),
        cmocka_unit_test(creation_options_are_ignored_when_the_map_exists),
        cmocka_unit_test(permissions_are_as_asked_whatever_the_umask),
        cmocka_unit_test(another_schema_is_refused_with_both_named),
        cmocka_unit_test(replacing_needs_a_map_that_nobody_has_open),
        cmocka_unit_test(a_map_is_clean_only_while_nobody_writes),
        cmocka_unit_test(the_defaults_are_as_documented),
        cmocka_unit_test(who_tells_every_handle_that_may_write),
        cmocka_unit_test(who_names_no_process_that_only_has_the_number),
        cmocka_unit_test(one_handle_too_many_is_told_and_a_closed_one_makes_room),
        cmocka_unit_test(every_error_has_a_name_a_message_and_an_exit_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
