/* SPDX-License-Identifier: MIT
 *
 * Copies that must not be made: of damaged pages, over what exists, of what is gone. Nothing is left of them.
 */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "copies.h"
#include "format/header.h"
#include "support/check.h"
#include "support/scratch.h"

/* ---- a directory for each test, in which nothing else may be left ------------------------------------------------ */

static const char *fresh_directory(const char *name) {
    const char *path = scratch_path("%s", name);
    assert_int_equal(mkdir(path, 0700), 0);
    return path;
}

static unsigned entries_of(const char *path) {
    DIR *directory = opendir(path);
    unsigned count = 0;
    assert_non_null(directory);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count - 2; /* . and .. */
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */

static void a_damaged_page_is_named_and_nothing_is_left(void **state) {
    (void)state;
    const char *directory = fresh_directory("damaged");
    const char *from = scratch_path("damaged/map.km"), *path = scratch_path("damaged/copy.km");
    must(km_close(copies_create_varied(from, &copies_kinds[0]))); /* all is home */
    static const uint64_t pages[] = {0, 21, 255, 256, 299, 307, 350, 412, 500, COPIES_PAGES - 1};
    const struct km__header header = scratch_header(from);
    for (size_t i = 0; i < 2 * sizeof pages / sizeof pages[0]; i++) {
        const uint64_t page = pages[i / 2];
        const uint64_t at = i % 2 == 0 ? header.table_offset + page * 4 + page % 4 /* first: 350 is a hole until then */
                                       : header.data_offset + page * KM_PAGE_SIZE + page % KM_PAGE_SIZE;
        scratch_flip(from, at, (unsigned char)(1u << page % 8));
        km_map *map = check_open(from, 0, i % 3 == 0 ? 0 : KM_READONLY);
        char name[64];
        snprintf(name, sizeof name, "page %u ", (unsigned)page);
        must_fail(km_copy(map, path), KM_ECORRUPT);
        check_detail_contains(name);
        assert_int_equal(entries_of(directory), 1);
        must(km_begin(map, KM_READ)); /* no transaction was left open */
        must(km_abort(map));
        must(km_close(map));
        scratch_flip(from, at, (unsigned char)(1u << page % 8));
    }
    km_map *map = check_open(from, 0, 0);
    must(km_copy(map, path));
    must(km_close(map));
}

/* Zeros and an entry of zero match each other; only the digest knows that there was more. */
static void a_page_that_was_lost_with_its_checksum_is_missed(void **state) {
    (void)state;
    static const unsigned char zeros[KM_PAGE_SIZE];
    const char *directory = fresh_directory("lost");
    const char *from = scratch_path("lost/map.km");
    must(km_close(copies_create_varied(from, &copies_kinds[0])));
    const struct km__header header = scratch_header(from);
    scratch_write(from, header.data_offset + 100 * KM_PAGE_SIZE, zeros, sizeof zeros);
    scratch_write(from, header.table_offset + 100 * 4, zeros, 4);
    km_map *map = check_open(from, 0, 0);
    must_fail(km_copy(map, scratch_path("lost/copy.km")), KM_EJOURNAL);
    check_detail_contains("digest");
    assert_int_equal(entries_of(directory), 1);
    must(km_close(map));
}

/* The disk has lost what the handle still knows, from frames. */
static void a_page_that_frames_touched_comes_from_the_handle(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *from = scratch_path("known-%d.km", i), *path = scratch_path("known-%d.copy", i);
        km_map *writer = copies_create_varied(from, &copies_kinds[0]),
               *map = check_open(from, 0, i == 0 ? 0 : KM_READONLY);
        unsigned char *bytes = copies_shown_by(map);
        const struct km__header header = scratch_header(from);
        must(km_begin(map, KM_READ));
        scratch_flip(from, header.data_offset + 295 * KM_PAGE_SIZE, 1);
        scratch_flip(from, header.table_offset + 295 * 4, 1);
        must(km_copy(map, path));
        scratch_flip(from, header.data_offset + 295 * KM_PAGE_SIZE, 1);
        scratch_flip(from, header.table_offset + 295 * 4, 1);
        must(km_abort(map));
        copies_expect(path, bytes, COPIES_SIZE, 5);
        must(km_close(map));
        must(km_close(writer));
        free(bytes);
    }
}

/* Stores to the view outside a write transaction are a mistake of the program; they are committed to nothing. */
static void a_stray_store_is_not_copied(void **state) {
    (void)state;
    const char *from = scratch_path("stray.km"), *path = scratch_path("stray.copy");
    km_map *writer = copies_create_varied(from, &copies_kinds[0]), *map = check_open(from, 0, 0);
    unsigned char *bytes = copies_shown_by(writer);
    must(km_begin(writer, KM_READ));
    ((unsigned char *)km_data(writer))[100] ^= 1;
    ((unsigned char *)km_data(writer))[300 * KM_PAGE_SIZE] ^= 1; /* this page has frames */
    must(km_copy(writer, path));
    copies_expect(path, bytes, COPIES_SIZE, 5);
    unlink(path);
    must(km_begin(map, KM_READ)); /* this handle has the patched page in its view alone */
    ((unsigned char *)km_data(map))[100] ^= 1;
    must(km_copy(map, path));
    copies_expect(path, bytes, COPIES_SIZE, 5);
    unlink(path);
    ((unsigned char *)km_data(map))[300 * KM_PAGE_SIZE] ^= 1;
    must_fail(km_copy(map, path), KM_ECORRUPT);
    check_detail_contains("page 300 ");
    assert_false(copies_exists(path));
    must(km_close(map));
    must(km_close(writer));
    free(bytes);
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

static void what_has_the_name_already_is_left_alone(void **state) {
    (void)state;
    const char *from = scratch_path("taken.km"), *file = scratch_path("taken.file"), *link = scratch_path("taken.link");
    km_map *map = copies_create_varied(from, &copies_kinds[0]);
    struct scratch_image self = scratch_load(from);
    scratch_store(file, "precious", 8);
    assert_int_equal(symlink("nowhere", link), 0);
    must_fail(km_copy(map, from), KM_EEXISTS);
    must_fail(km_copy(map, file), KM_EEXISTS);
    must_fail(km_copy(map, link), KM_EEXISTS);
    must_fail(km_copy(map, fresh_directory("taken.directory")), KM_EEXISTS);
    const struct scratch_image precious = {(unsigned char *)(uintptr_t) "precious", 8};
    assert_true(scratch_equals(from, &self));
    km_map *late = check_open(from, 0, 0);
    scratch_flip(from, scratch_header(from).data_offset, 1);
    must_fail(km_copy(late, file), KM_EEXISTS); /* before the work, and what that finds */
    must_fail(km_copy(late, scratch_path("free.copy")), KM_ECORRUPT);
    scratch_flip(from, scratch_header(from).data_offset, 1);
    must(km_close(late));
    assert_true(scratch_equals(file, &precious));
    scratch_release(&self);
    check_clean(map);
    must(km_close(map));
}

static void a_copy_needs_a_path_that_can_be_one(void **state) {
    (void)state;
    km_map *map = copies_create_varied(scratch_path("path.km"), &copies_kinds[0]);
    must_fail(km_copy(map, NULL), KM_EINVAL);
    must_fail(km_copy(map, ""), KM_EINVAL);
    must_fail(km_copy(map, "Local\\copy"), KM_EINVAL);
    check_detail_contains("last user");
    must_fail(km_copy(map, "Global\\copy"), KM_EINVAL);
    must_fail(km_copy(map, scratch_path("no/such/directory.km")), KM_ENOTFOUND);
    must_fail(km_copy(NULL, scratch_path("null.copy")), KM_EINVAL);
    must(km_close(map));
}

static void a_write_transaction_is_not_copied(void **state) {
    (void)state;
    const char *path = scratch_path("writing.copy");
    km_map *map = copies_create_varied(scratch_path("writing.km"), &copies_kinds[0]);
    must(km_begin(map, KM_WRITE));
    memset(km_data(map), 8, 100);
    must_fail(km_copy(map, path), KM_EMISUSE);
    assert_false(copies_exists(path));
    must(km_commit(map));
    assert_int_equal(km_generation(map), 6);
    must(km_close(map));
}

/* Bits of a later version: one that a writer must know, and one that nobody need know. */
static void features_that_are_not_known_are_not_copied_blindly(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *from = scratch_path("later-%d.km", i), *path = scratch_path("later-%d.out", i);
        must(km_close(copies_create_varied(from, &copies_kinds[0])));
        for (uint64_t slot = 0; slot < 2; slot++) {
            struct km__header header;
            scratch_read(from, slot * KM__SLOT_SIZE, &header, sizeof header);
            header.feature_readonly |= i == 0 ? 1u << 20 : 0;
            header.feature_compatible |= i == 1 ? 1u << 20 : 0;
            km__header_seal(&header);
            scratch_write(from, slot * KM__SLOT_SIZE, &header, sizeof header);
        }
        km_map *map = check_open(from, 0, KM_READONLY);
        if (i == 0) {
            must_fail(km_copy(map, path), KM_EFEATURE);
            assert_false(copies_exists(path));
        } else {
            must(km_copy(map, path));
            assert_int_equal(scratch_header(path).feature_compatible, 0);
        }
        must(km_close(map));
    }
}

static void a_source_that_is_gone_is_no_copy(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        const char *from = scratch_path("gone-%d.km", i), *path = scratch_path("gone-%d.copy", i);
        must(km_close(copies_create_varied(from, &copies_kinds[i % 2])));
        km_map *map = check_open(from, 0, i % 2 == 0 ? 0 : KM_READONLY);
        const struct km__header header = scratch_header(from);
        assert_int_equal(i < 2 ? unlink(from) : truncate(from, (off_t)header.data_offset + 123456), 0);
        must_fail(km_copy(map, path), KM_ESTALE);
        assert_false(copies_exists(path));
        (void)km_close(map);
    }
}

/* They could not be opened as raw bytes. */
static void the_bytes_of_a_map_make_no_raw_file(void **state) {
    (void)state;
    const char *directory = fresh_directory("raw");
    const char *from = scratch_path("raw/map.km"), *path = scratch_path("raw/bytes");
    must(km_close(check_open(from, 5 * KM_PAGE_SIZE, KM_CREATE)));
    struct scratch_image map_bytes = scratch_load(from);
    for (int torn = 0; torn < 2; torn++) {
        km_map *map = NULL;
        const struct km_options options = {
            .struct_size = sizeof options, .mode = KM_RAW, .flags = KM_CREATE, .from = from};
        must_fail(km_open(&map, path, &options), KM_EINVAL);
        assert_null(map);
        assert_int_equal(entries_of(directory), 1);
        assert_true(torn || scratch_equals(from, &map_bytes));
        scratch_write(from, KM__SLOT_A, "nothing!", 8); /* the other slot's mark is enough */
    }
    scratch_release(&map_bytes);
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_damaged_page_is_named_and_nothing_is_left),
        cmocka_unit_test(a_page_that_was_lost_with_its_checksum_is_missed),
        cmocka_unit_test(a_page_that_frames_touched_comes_from_the_handle),
        cmocka_unit_test(a_stray_store_is_not_copied),
        cmocka_unit_test(what_has_the_name_already_is_left_alone),
        cmocka_unit_test(a_copy_needs_a_path_that_can_be_one),
        cmocka_unit_test(a_write_transaction_is_not_copied),
        cmocka_unit_test(features_that_are_not_known_are_not_copied_blindly),
        cmocka_unit_test(a_source_that_is_gone_is_no_copy),
        cmocka_unit_test(the_bytes_of_a_map_make_no_raw_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
