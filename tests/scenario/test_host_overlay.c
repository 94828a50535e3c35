/* SPDX-License-Identifier: MIT
 *
 * Scenarios of the host: a map in the lower layer of an overlayfs, as in the image of a container. The first to open it
 * for writing has it copied up; who had it open before goes on with the pages of the lower file.
 */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/check.h"
#include "support/disk.h"
#include "support/scratch.h"

#define SIZE (20u * KM_PAGE_SIZE)

static int try_open(km_map **map, const char *path, uint32_t flags) {
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 65536, .flags = flags, .timeout_ms = 200};
    return km_open(map, path, &options);
}

static void expect_all(km_map *map, int value) {
    must(km_begin(map, KM_READ));
    for (uint64_t at = 0; at < SIZE; at++)
        assert_int_equal(((const unsigned char *)km_data(map))[at], value);
    must(km_abort(map));
}

/* A map in the lower layer, seen at disk/m.km. Skips where that is not possible. */
static struct scratch_image overlay_with_a_map(void) {
    km_map *map;
    assert_true(mkdir(scratch_path("lower"), 0755) == 0 || errno == EEXIST);
    must(try_open(&map, disk_lower("m.km"), KM_CREATE | KM_EXCLUSIVE));
    check_commit_fill(map, 0, 1, SIZE);
    must(km_close(map));
    if (disk_overlay() == NULL) {
        unlink(disk_lower("m.km"));
        skip();
    }
    return scratch_load(disk_lower("m.km"));
}

static void remove_overlay(struct scratch_image *lower) {
    assert_true(scratch_equals(disk_lower("m.km"), lower)); /* whatever was done above */
    scratch_release(lower);
    disk_remove();
    assert_int_equal(unlink(disk_lower("m.km")), 0);
}

static void refuse_readers(const char *path) {
    km_map *map = NULL;
    must_fail(try_open(&map, path, KM_READONLY), KM_EFILESYSTEM);
    check_detail_contains("overlayfs");
    check_detail_contains("without KM_READONLY");
    check_detail_contains("KM_ANY_FILESYSTEM");
}

static int commit_in_another_process(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, 0));
    child_must(km_begin(map, KM_WRITE));
    child_check(*(unsigned char *)km_data(map) == 2);
    memset(km_data(map), 3, SIZE);
    child_must(km_commit(map));
    child_must(km_checkpoint(map));
    child_must(km_close(map));
    return 0;
}

static void who_only_reads_is_refused_before_and_after_the_copy_up(void **state) {
    (void)state;
    struct scratch_image lower = overlay_with_a_map();
    const char *path = scratch_path("disk/m.km");
    km_map *map;
    refuse_readers(path);
    assert_int_equal(access(scratch_path("layers/upper/m.km"), F_OK), -1); /* looking has copied nothing */
    must(try_open(&map, path, 0));
    assert_int_equal(access(scratch_path("layers/upper/m.km"), F_OK), 0);
    expect_all(map, 1);
    refuse_readers(path);
    check_commit_fill(map, 0, 2, SIZE);
    assert_int_equal(check_in_child(commit_in_another_process, (void *)(uintptr_t)path, 20), 0);
    expect_all(map, 3); /* writers share the upper file */
    check_clean(map);
    must(km_close(map));
    must(try_open(&map, scratch_path("layers/upper/m.km"), KM_READONLY));
    expect_all(map, 3);
    check_clean(map);
    must(km_close(map));
    remove_overlay(&lower);
}

/* Its program vouched that nobody writes. When somebody does all the same, that is found out by who looks for it. */
static void a_reader_beside_a_copy_up_is_found_out_by_verify(void **state) {
    (void)state;
    struct scratch_image lower = overlay_with_a_map();
    const char *path = scratch_path("disk/m.km");
    struct km_report report = {.struct_size = sizeof report};
    km_map *reader, *map;
    must(try_open(&reader, path, KM_READONLY | KM_ANY_FILESYSTEM));
    expect_all(reader, 1);
    check_clean(reader);
    assert_int_equal(access(scratch_path("layers/upper/m.km"), F_OK), -1);
    must(try_open(&map, path, 0));
    check_commit_fill(map, 0, 2, SIZE);
    must(km_checkpoint(map));
    must(km_verify(reader, &report, NULL, NULL)); /* its pages are those of the lower file, the header is not */
    assert_int_equal(report.digest_matches, 0);
    must(km_close(reader));
    must(try_open(&reader, path, KM_READONLY | KM_ANY_FILESYSTEM));
    expect_all(reader, 2);
    check_clean(reader);
    must(km_close(reader));
    expect_all(map, 2);
    check_clean(map);
    must(km_close(map));
    remove_overlay(&lower);
}

int main(void) {
    scratch_time_limit(90);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_only_reads_is_refused_before_and_after_the_copy_up),
        cmocka_unit_test(a_reader_beside_a_copy_up_is_found_out_by_verify),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
