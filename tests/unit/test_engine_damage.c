/* SPDX-License-Identifier: MIT
 *
 * Damage: verify finds a flipped bit wherever it is and names the place, and no commit or checkpoint gives damaged
 * bytes a good checksum.
 */
#include <signal.h>

#include "format/checksum.h"
#include "format/header.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"

#define PAGES 20u
#define SIZE (PAGES * KM_PAGE_SIZE - 100) /* the last page is not whole */

struct findings {
    unsigned pages, headers, journal;
    struct km_finding last;
};

static int take_finding(void *context, uint64_t done, uint64_t total, const struct km_finding *finding) {
    struct findings *findings = context;
    assert_true(done <= total);
    if (finding != NULL) {
        assert_non_null(finding->message);
        assert_true(strlen(finding->message) > 5);
        findings->pages += finding->error == KM_ECORRUPT;
        findings->headers += finding->error == KM_EHEADER;
        findings->journal += finding->error == KM_EJOURNAL;
        findings->last = *finding;
    }
    return 0;
}

static struct findings verify(km_map *map, struct km_report *report) {
    struct findings findings = {0};
    *report = (struct km_report){.struct_size = sizeof *report};
    must(km_verify(map, report, take_finding, &findings));
    assert_int_equal(findings.pages, report->pages_damaged);
    assert_int_equal(findings.headers, report->headers_damaged);
    return findings;
}

/* A closed map in which every page holds something. */
static const char *make_map(const char *name, uint32_t checksum) {
    const char *path = scratch_path("%s.km", name);
    km_map *map;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .journal_size = 262144,
                                       .checksum = checksum,
                                       .flags = KM_CREATE | KM_EXCLUSIVE};
    must(km_open(&map, path, &options));
    struct chance chance = {5};
    must(km_begin(map, KM_WRITE));
    chance_fill(&chance, km_data(map), SIZE);
    must(km_commit(map));
    must(km_close(map));
    return path;
}

static void a_flipped_bit_in_any_page_is_found_and_named(void **state) {
    (void)state;
    const char *path = make_map("page", KM_CHECKSUM_CRC32C);
    const struct km__header header = scratch_header(path);
    for (uint64_t page = 0; page < PAGES; page++) {
        const uint64_t length = page == PAGES - 1 ? KM_PAGE_SIZE - 100 : KM_PAGE_SIZE;
        const uint64_t offset = header.data_offset + page * KM_PAGE_SIZE + (page * 977) % length;
        const unsigned char mask = (unsigned char)(1u << page % 8);
        scratch_flip(path, offset, mask);
        km_map *map = check_open(path, 0, page % 2 == 0 ? KM_READONLY : 0);
        struct km_report report;
        const struct findings findings = verify(map, &report);
        assert_int_equal(report.pages_damaged, 1);
        assert_int_equal(report.pages, PAGES);
        assert_int_equal(report.pages_checked, PAGES);
        assert_int_equal(findings.last.error, KM_ECORRUPT);
        assert_int_equal(findings.last.page, page);
        assert_int_equal(findings.last.offset, page * KM_PAGE_SIZE);
        assert_int_not_equal(findings.last.expected, findings.last.found);
        must(km_close(map));
        scratch_flip(path, offset, mask);
    }
    km_map *map = check_open(path, 0, 0);
    check_clean(map);
    must(km_close(map));
}

static void a_flipped_bit_in_the_checksums_is_found_and_named(void **state) {
    (void)state;
    const char *path = make_map("table", KM_CHECKSUM_CRC32C);
    const struct km__header header = scratch_header(path);
    scratch_flip(path, header.table_offset + 4 * 13 + 2, 0x10);
    km_map *map = check_open(path, 0, KM_READONLY);
    struct km_report report;
    const struct findings findings = verify(map, &report);
    assert_int_equal(report.pages_damaged, 1);
    assert_int_equal(report.digest_matches, 0);
    assert_int_equal(findings.pages, 1);
    must(km_close(map));
}

static void two_damaged_pages_are_both_named(void **state) {
    (void)state;
    const char *path = make_map("two", KM_CHECKSUM_CRC32C);
    const struct km__header header = scratch_header(path);
    scratch_flip(path, header.data_offset + 3 * KM_PAGE_SIZE, 1);
    scratch_flip(path, header.data_offset + 17 * KM_PAGE_SIZE + 4095, 128);
    km_map *map = check_open(path, 0, KM_READONLY);
    struct km_report report;
    verify(map, &report);
    assert_int_equal(report.pages_damaged, 2);
    must(km_close(map));
}

static int stop_at_once(void *context, uint64_t done, uint64_t total, const struct km_finding *finding) {
    (void)done;
    (void)total;
    (void)finding;
    ++*(unsigned *)context;
    return 1;
}

static void verify_stops_when_it_is_asked_to(void **state) {
    (void)state;
    const char *path = make_map("stop", KM_CHECKSUM_CRC32C);
    scratch_flip(path, scratch_header(path).data_offset, 1);
    km_map *map = check_open(path, 0, 0);
    struct km_report report = {.struct_size = sizeof report};
    unsigned calls = 0;
    must_fail(km_verify(map, &report, stop_at_once, &calls), KM_ECANCELED);
    assert_int_equal(calls, 1);
    must(km_begin(map, KM_READ)); /* and leaves the handle usable */
    must(km_abort(map));
    must(km_close(map));
}

/* Who is told of a finding may take as long as he likes: others commit and checkpoint meanwhile. */
static int commit_meanwhile(void *context, uint64_t done, uint64_t total, const struct km_finding *finding) {
    (void)done;
    (void)total;
    if (finding != NULL) {
        check_commit_fill(context, 0, (int)finding->page, 10);
        must(km_checkpoint(context));
    }
    return 0;
}

static void a_finding_is_told_while_others_may_work(void **state) {
    (void)state;
    const char *path = make_map("told", KM_CHECKSUM_CRC32C);
    scratch_flip(path, scratch_header(path).data_offset + 7 * KM_PAGE_SIZE, 1);
    scratch_flip(path, 4096 + 100, 1); /* a header slot */
    km_map *outsider = check_open(path, 0, KM_READONLY), *map = check_open(path, 0, 0);
    struct km_report report = {.struct_size = sizeof report};
    must(km_verify(outsider, &report, commit_meanwhile, map));
    assert_int_equal(report.pages_damaged, 1);
    must(km_close(outsider));
    must(km_close(map));
}

static void a_map_without_checksums_checks_no_page(void **state) {
    (void)state;
    const char *path = make_map("none", KM_CHECKSUM_NONE);
    scratch_flip(path, scratch_header(path).data_offset, 1);
    km_map *map = check_open(path, 0, KM_READONLY);
    struct km_report report;
    verify(map, &report);
    assert_int_equal(report.pages_damaged, 0);
    assert_int_equal(report.pages_checked, 0);
    must(km_close(map));
}

static void what_stands_in_the_table_of_a_map_without_checksums_counts_for_nothing(void **state) {
    (void)state;
    const char *path = make_map("no-table", KM_CHECKSUM_NONE);
    scratch_flip(path, scratch_header(path).table_offset + 5, 1);
    km_map *map = NULL;
    must(km_open(&map, path, NULL));
    for (unsigned commits = 0; commits < 2; commits++) {
        struct km_report report;
        verify(map, &report);
        assert_int_equal(report.pages_damaged + report.frames_damaged, 0);
        assert_int_equal(report.digest_matches, 1);
        must(km_begin(map, KM_WRITE));
        ((unsigned char *)km_data(map))[KM_PAGE_SIZE] ^= 1;
        must(km_commit(map));
    }
    must(km_copy(map, scratch_path("no-table-copy.km")));
    must(km_close(map));
}

/* No checksum tells: none is kept, or it was computed anew by who put them there. */
static void bytes_behind_the_end_of_the_data_are_found_and_named(void **state) {
    (void)state;
    const char *path = make_map("behind", KM_CHECKSUM_NONE);
    scratch_flip(path, scratch_header(path).data_offset + SIZE + 7, 1);
    km_map *map = NULL;
    must(km_open(&map, path, NULL));
    struct km_report report;
    const struct findings findings = verify(map, &report);
    assert_int_equal(report.pages_damaged, 1);
    assert_int_equal(findings.last.page, PAGES - 1);
    assert_int_equal(findings.last.offset, SIZE + 7);
    must_fail(km_copy(map, scratch_path("behind-copy.km")), KM_ECORRUPT);
    must(km_close(map));
}

static void one_damaged_header_slot_is_survived_and_named(void **state) {
    (void)state;
    for (uint64_t slot = 0; slot < 2; slot++) {
        const char *path = make_map(slot == 0 ? "slot-a" : "slot-b", KM_CHECKSUM_CRC32C);
        scratch_flip(path, slot * KM__SLOT_SIZE + 230, 0x40);
        km_map *map = check_open(path, 0, KM_READONLY);
        struct km_info info = {.struct_size = sizeof info};
        must(km_get_info(map, &info));
        assert_int_equal(info.header_slots, slot == 0 ? 2 : 1);
        struct km_report report;
        const struct findings findings = verify(map, &report);
        assert_int_equal(report.headers_damaged, 1);
        assert_int_equal(findings.last.error, KM_EHEADER);
        assert_int_equal(findings.last.page, slot);
        must(km_close(map));
        map = check_open(path, 0, 0);
        check_commit_fill(map, 0, 1, 100);
        must(km_close(map));
        map = check_open(path, 0, 0);
        must(km_begin(map, KM_READ));
        assert_int_equal(km_generation(map), 2);
        must(km_abort(map));
        check_clean(map); /* the next checkpoint writes both */
        must(km_close(map));
    }
}

/* Where the frame of a generation starts in the file; 0 if it is not there. */
static uint64_t find_frame(const char *path, uint64_t generation, struct km__frame_head *head) {
    const struct km__header header = scratch_header(path);
    for (uint64_t at = 0; at + sizeof *head <= header.journal_size; at += 8) {
        scratch_read(path, header.journal_offset + at, head, sizeof *head);
        if (head->magic == KM__FRAME_MAGIC && head->generation == generation) {
            return header.journal_offset + at;
        }
    }
    return 0;
}

static void a_flipped_bit_in_a_frame_is_found_and_named(void **state) {
    (void)state;
    const char *path = make_map("frame", KM_CHECKSUM_CRC32C);
    km_map *map = check_open(path, 0, 0);
    check_commit_fill(map, 100, 1, 1000);
    check_commit_fill(map, 9000, 2, 1000);
    check_commit_fill(map, 20000, 3, 1000);
    struct km_report report;
    verify(map, &report);
    assert_int_equal(report.frames_damaged, 0);
    assert_int_equal(report.frames, 3);
    struct km__frame_head head;
    const uint64_t at = find_frame(path, 3, &head);
    assert_int_not_equal(at, 0);
    scratch_flip(path, at + sizeof head + 200, 2);
    const struct findings findings = verify(map, &report);
    assert_true(report.frames_damaged >= 1);
    assert_true(findings.journal >= 1);
    scratch_flip(path, at + sizeof head + 200, 2);
    check_clean(map);
    must(km_close(map));
}

static int commit_three_and_die(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    for (int i = 0; i < 3; i++) {
        child_must(km_begin(map, KM_WRITE));
        memset((char *)km_data(map) + i * 9000, i + 1, 1000);
        child_must(km_commit(map));
    }
    raise(SIGKILL);
    return 0;
}

static int grow_and_die(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    child_must(km_grow(map, 2 * PAGES * KM_PAGE_SIZE));
    raise(SIGKILL);
    return 0;
}

/* Home does not have them yet, and no frame stores to them: their bytes are shown as they stand in the file. */
static void a_flipped_bit_in_a_page_that_growth_added_is_found_and_named(void **state) {
    (void)state;
    char *path = scratch_path("added.km");
    km_map *map;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .max_size = 2 * PAGES * KM_PAGE_SIZE,
                                       .flags = KM_CREATE | KM_EXCLUSIVE};
    must(km_open(&map, path, &options));
    must(km_close(map));
    assert_int_equal(check_in_child(grow_and_die, path, 20), -SIGKILL);
    scratch_flip(path, scratch_header(path).data_offset + (PAGES + 10) * KM_PAGE_SIZE + 7, 8);
    map = check_open(path, 0, KM_READONLY);
    assert_int_equal(km_size(map), 2 * PAGES * KM_PAGE_SIZE);
    struct km_report report;
    const struct findings findings = verify(map, &report);
    assert_int_equal(report.pages_damaged, 1);
    assert_int_equal(report.pages_checked, 2 * PAGES);
    assert_int_equal(findings.last.page, PAGES + 10);
    must(km_close(map));
}

/* A page that no frame touches, its checksum and the digest in both header slots: only the frames tell of what was. */
static void a_page_changed_with_its_checksum_and_the_header_contradicts_the_newest_commit(void **state) {
    (void)state;
    char *path = scratch_path("forged.km");
    km_map *map;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .flags = KM_CREATE | KM_EXCLUSIVE, .journal_size = 262144};
    must(km_open(&map, path, &options));
    must(km_close(map));
    assert_int_equal(check_in_child(commit_three_and_die, path, 20), -SIGKILL);
    struct km_report report;
    map = check_open(path, 0, KM_READONLY);
    verify(map, &report);
    assert_int_equal(report.digest_matches, 1);
    assert_int_equal(report.frames, 3);

    struct km__header header = scratch_header(path);
    unsigned char page[KM_PAGE_SIZE] = "forged";
    const uint32_t stored = km__checksum_page(header.checksum_kind, page);
    scratch_write(path, header.data_offset + 15 * KM_PAGE_SIZE, page, sizeof page);
    scratch_write(path, header.table_offset + 15 * sizeof stored, &stored, sizeof stored);
    header.digest = km__digest_mix(15, stored); /* home is empty */
    km__header_seal(&header);
    scratch_write(path, KM__SLOT_A, &header, sizeof header);
    scratch_write(path, KM__SLOT_B, &header, sizeof header);
    const struct findings findings = verify(map, &report);
    assert_int_equal(report.pages_damaged + report.frames_damaged + report.headers_damaged, 0);
    assert_int_equal(report.digest_matches, 0);
    assert_int_equal(findings.journal, 1);
    assert_int_equal(findings.last.generation, 3);
    must_fail(km_copy(map, scratch_path("forged.copy")), KM_EJOURNAL);
    must(km_close(map));
}

/* The second of three durable commits rots: what follows it says that it was durable, so this is damage, not a torn
 * end. */
static void a_rotten_durable_commit_is_damage_and_no_older_state(void **state) {
    (void)state;
    const char *path = make_map("durable", KM_CHECKSUM_CRC32C);
    assert_int_equal(check_in_child(commit_three_and_die, (void *)(uintptr_t)path, 20), -SIGKILL);
    struct km__frame_head head;
    const uint64_t at = find_frame(path, 3, &head);
    assert_int_not_equal(at, 0);
    scratch_flip(path, at + sizeof head + 200, 2);
    struct scratch_image before = scratch_load(path);
    const struct km_options options = {.struct_size = sizeof options};
    km_map *map;
    must_fail(km_open(&map, path, &options), KM_EJOURNAL);
    assert_true(scratch_equals(path, &before));
    scratch_release(&before);
    scratch_flip(path, at + sizeof head + 200, 2);
    must(km_open(&map, path, &options));
    must(km_begin(map, KM_READ));
    assert_int_equal(km_generation(map), 4);
    must(km_abort(map));
    must(km_close(map));
}

static void a_commit_to_a_rotten_page_is_refused(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_DECLARED, KM_LAZY};
    const char *path = make_map("rotten", KM_CHECKSUM_CRC32C);
    const uint64_t data_offset = scratch_header(path).data_offset;
    scratch_flip(path, data_offset + 7 * KM_PAGE_SIZE + 4000, 4);
    for (int i = 0; i < 3; i++) {
        km_map *map = check_open(path, 0, flags[i]);
        must(km_begin(map, KM_WRITE));
        must(km_touch(map, 7 * KM_PAGE_SIZE, 100));
        memset((char *)km_data(map) + 7 * KM_PAGE_SIZE, 90 + i, 100);
        must_fail(km_commit(map), KM_ECORRUPT);
        check_detail_contains("page 7");
        must(km_abort(map));
        check_commit_fill(map, 8 * KM_PAGE_SIZE, 70 + i, 100); /* other pages are not held up */
        must(km_checkpoint(map));
        struct km_report report;
        const struct findings findings = verify(map, &report);
        assert_int_equal(report.pages_damaged, 1); /* and the damage is still there to be seen */
        assert_int_equal(findings.last.page, 7);
        must(km_close(map));
    }
}

/* The page rots between a commit to it and the checkpoint, outside the committed range. */
static void a_checkpoint_does_not_launder_a_page_that_rots_under_it(void **state) {
    (void)state;
    const char *path = make_map("launder", KM_CHECKSUM_CRC32C);
    const uint64_t data_offset = scratch_header(path).data_offset;
    km_map *map = check_open(path, 0, 0);
    check_commit_fill(map, 5 * KM_PAGE_SIZE, 1, 100);
    scratch_flip(path, data_offset + 5 * KM_PAGE_SIZE + 3000, 4);
    must_fail(km_checkpoint(map), KM_ECORRUPT);
    check_detail_contains("page 5");
    km_close(map);
    scratch_flip(path, data_offset + 5 * KM_PAGE_SIZE + 3000, 4);
    map = check_open(path, 0, 0);
    must(km_checkpoint(map));
    check_clean(map);
    must(km_close(map));
}

static void a_reader_that_patches_a_rotten_page_is_told(void **state) {
    (void)state;
    const char *path = make_map("reader", KM_CHECKSUM_CRC32C);
    km_map *writer = check_open(path, 0, 0);
    km_map *reader = check_open(path, 0, 0);
    check_commit_fill(writer, 5 * KM_PAGE_SIZE, 1, 100);
    const uint64_t at = scratch_header(path).data_offset + 5 * KM_PAGE_SIZE + 3000;
    scratch_flip(path, at, 4);
    must_fail(km_begin(reader, KM_READ), KM_ECORRUPT);
    check_detail_contains("page 5");
    scratch_flip(path, at, 4);
    must(km_begin(reader, KM_READ));
    assert_int_equal(*((unsigned char *)km_data(reader) + 5 * KM_PAGE_SIZE), 1);
    must(km_abort(reader));
    must(km_close(reader));
    must(km_close(writer));
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_bit_in_any_page_is_found_and_named),
        cmocka_unit_test(a_flipped_bit_in_the_checksums_is_found_and_named),
        cmocka_unit_test(two_damaged_pages_are_both_named),
        cmocka_unit_test(a_finding_is_told_while_others_may_work),
        cmocka_unit_test(verify_stops_when_it_is_asked_to),
        cmocka_unit_test(a_map_without_checksums_checks_no_page),
        cmocka_unit_test(what_stands_in_the_table_of_a_map_without_checksums_counts_for_nothing),
        cmocka_unit_test(bytes_behind_the_end_of_the_data_are_found_and_named),
        cmocka_unit_test(one_damaged_header_slot_is_survived_and_named),
        cmocka_unit_test(a_flipped_bit_in_a_frame_is_found_and_named),
        cmocka_unit_test(a_flipped_bit_in_a_page_that_growth_added_is_found_and_named),
        cmocka_unit_test(a_page_changed_with_its_checksum_and_the_header_contradicts_the_newest_commit),
        cmocka_unit_test(a_rotten_durable_commit_is_damage_and_no_older_state),
        cmocka_unit_test(a_commit_to_a_rotten_page_is_refused),
        cmocka_unit_test(a_checkpoint_does_not_launder_a_page_that_rots_under_it),
        cmocka_unit_test(a_reader_that_patches_a_rotten_page_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
