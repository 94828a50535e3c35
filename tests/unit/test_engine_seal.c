/* SPDX-License-Identifier: MIT
 *
 * Seals of live maps: what km_sync() and the last close make true of the checksums, what km_verify() says of a map in
 * use, of one whose users died, and of one that was damaged.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/halt.h"
#include "support/scratch.h"

#define PAGES 20u
#define SIZE (PAGES * KM_PAGE_SIZE - 1000u)

static int try_open(km_map **map, const char *path, uint32_t flags, uint32_t checksum) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .mode = KM_LIVE,
                                       .checksum = checksum,
                                       .flags = flags,
                                       .timeout_ms = 2000};
    return km_open(map, path, &options);
}

static km_map *open_live(const char *path, uint32_t flags) {
    km_map *map = NULL;
    must(try_open(&map, path, flags, KM_CHECKSUM_CRC32C));
    return map;
}

static unsigned char *bytes(km_map *map) {
    return km_data(map);
}

static void fill(km_map *map) {
    for (uint64_t at = 0; at < SIZE; at++) {
        bytes(map)[at] = (unsigned char)(at * 7 + at / 256 + 1);
    }
}

/* What km_verify() finds: the pages, each with its error. */
struct findings {
    int error[PAGES];
    unsigned others;
    struct km_report report;
};

static int note(void *context, uint64_t done, uint64_t total, const struct km_finding *finding) {
    struct findings *findings = context;
    (void)done;
    (void)total;
    if (finding == NULL) {
        return 0;
    }
    if (finding->error == KM_ECORRUPT || finding->error == KM_ECHANGED) {
        assert_true(finding->page < PAGES);
        assert_int_equal(finding->offset, finding->page * KM_PAGE_SIZE);
        assert_int_not_equal(finding->expected, finding->found);
        assert_int_equal(findings->error[finding->page], 0);
        findings->error[finding->page] = finding->error;
    } else {
        findings->others++;
    }
    assert_true(finding->message[0] != '\0');
    return 0;
}

static struct findings verify(km_map *map) {
    struct findings findings = {.report.struct_size = sizeof findings.report};
    must(km_verify(map, &findings.report, note, &findings));
    assert_int_equal(findings.report.pages, PAGES);
    assert_int_equal(findings.report.frames | findings.report.frames_damaged, 0);
    return findings;
}

/* Exactly these pages have this error, and nothing else is found. */
static void expect_pages(km_map *map, uint32_t pages, int error) {
    const struct findings findings = verify(map);
    unsigned count = 0;
    for (unsigned page = 0; page < PAGES; page++) {
        const int expected = (pages >> page & 1) != 0 ? error : 0;
        if (findings.error[page] != expected) {
            fail_msg("page %u: %s, expected %s", page, km_error_name(findings.error[page]), km_error_name(expected));
        }
        count += expected != 0;
    }
    assert_int_equal(findings.report.pages_changed, error == KM_ECHANGED ? count : 0);
    assert_int_equal(findings.report.pages_damaged, error == KM_ECORRUPT ? count : 0);
    assert_int_equal(findings.others, 0);
    assert_int_equal(findings.report.digest_matches, 1);
}

static void expect_pages_at(const char *path, uint32_t pages, int error) {
    km_map *map = open_live(path, KM_READONLY);
    expect_pages(map, pages, error);
    must(km_close(map));
}

static int is_sealed(const char *path) {
    struct km__header slots[2];
    scratch_read(path, KM__SLOT_A, &slots[0], sizeof slots[0]);
    scratch_read(path, KM__SLOT_B, &slots[1], sizeof slots[1]);
    assert_int_equal(slots[0].flags & KM__HEADER_CLEAN, slots[1].flags & KM__HEADER_CLEAN);
    return (slots[0].flags & KM__HEADER_CLEAN) != 0;
}

/* A closed map with something in every page. */
static const char *sealed_map(const char *name) {
    const char *path = scratch_path("%s.km", name);
    km_map *map = open_live(path, KM_CREATE | KM_EXCLUSIVE);
    fill(map);
    must(km_close(map));
    return path;
}

/* ---- sealed, and not --------------------------------------------------------------------------------------------- */

static void the_last_close_seals_what_was_stored_with_or_without_a_transaction(void **state) {
    (void)state;
    const char *path = sealed_map("close");
    assert_int_equal(is_sealed(path), 1);
    expect_pages_at(path, 0, 0);
    km_map *map = open_live(path, 0);
    must(km_begin(map, KM_WRITE));
    bytes(map)[0] ^= 1;
    must(km_commit(map));
    bytes(map)[5 * KM_PAGE_SIZE] ^= 1;
    must(km_begin(map, KM_WRITE));
    bytes(map)[SIZE - 1] ^= 1;
    must(km_close(map));
    assert_int_equal(is_sealed(path), 1);
    expect_pages_at(path, 0, 0);
    map = open_live(path, KM_READONLY);
    const struct km_info info = check_info(map);
    assert_int_equal(info.clean, 1);
    assert_int_equal(info.digest, verify(map).report.digest);
    must(km_close(map));
}

/* A handle that nothing was stored through could have been stored through. */
static void a_map_is_not_sealed_from_the_moment_a_handle_may_write(void **state) {
    (void)state;
    const char *path = sealed_map("moment");
    km_map *reader = open_live(path, KM_READONLY);
    assert_int_equal(is_sealed(path), 1);
    km_map *map = open_live(path, 0);
    assert_int_equal(is_sealed(path), 0);
    assert_int_equal(check_info(reader).clean, 0);
    expect_pages(reader, 0, 0);
    must(km_close(map));
    assert_int_equal(is_sealed(path), 1);
    assert_int_equal(check_info(reader).clean, 1);
    must(km_close(reader));
}

static void only_the_last_of_several_that_may_write_seals(void **state) {
    (void)state;
    const char *path = sealed_map("several");
    km_map *maps[3] = {open_live(path, 0), open_live(path, 0), open_live(path, 0)};
    km_map *reader = open_live(path, KM_READONLY);
    for (unsigned i = 0; i < 3; i++) {
        bytes(maps[i])[i * KM_PAGE_SIZE] ^= 1;
        assert_int_equal(is_sealed(path), 0);
        must(km_close(maps[i]));
    }
    assert_int_equal(is_sealed(path), 1);
    expect_pages(reader, 0, 0);
    must(km_close(reader));
}

static void verify_names_the_pages_that_were_changed_since_the_last_seal(void **state) {
    (void)state;
    const char *path = sealed_map("changed");
    km_map *map = open_live(path, 0), *other = open_live(path, 0), *reader = open_live(path, KM_READONLY);
    expect_pages(map, 0, 0);
    bytes(map)[3 * KM_PAGE_SIZE + 17] ^= 1;
    bytes(other)[SIZE - 1] ^= 1;
    for (int i = 0; i < 2; i++) {
        expect_pages(map, 1u << 3 | 1u << (PAGES - 1), KM_ECHANGED);
        expect_pages(reader, 1u << 3 | 1u << (PAGES - 1), KM_ECHANGED);
    }
    must(km_sync(other));
    expect_pages(map, 0, 0);
    expect_pages(reader, 0, 0);
    bytes(other)[0] ^= 1;
    expect_pages(map, 1, KM_ECHANGED);
    must(km_checkpoint(map)); /* the same as a sync */
    expect_pages(map, 0, 0);
    assert_int_equal(is_sealed(path), 0);
    assert_int_equal(check_info(map).durable_generation, 0);
    must(km_begin(map, KM_WRITE));
    must(km_commit(map));
    must(km_sync(map));
    assert_int_equal(check_info(map).durable_generation, 1);
    must(km_begin(map, KM_WRITE));
    bytes(map)[1] ^= 1;
    must(km_sync(map)); /* allowed inside a transaction */
    struct km_report report = {.struct_size = sizeof report};
    must_fail(km_verify(map, &report, NULL, NULL), KM_EMISUSE);
    must(km_commit(map));
    expect_pages(reader, 0, 0);
    must(km_close(map));
    must(km_close(other));
    must(km_close(reader));
}

static int store_and_die(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, 0, 0));
    bytes(map)[0] ^= 1;
    bytes(map)[7 * KM_PAGE_SIZE] ^= 1;
    raise(SIGKILL);
    return 1;
}

static void what_the_dead_have_stored_is_changed_and_not_damaged(void **state) {
    (void)state;
    const char *path = sealed_map("dead");
    assert_int_equal(check_in_child(store_and_die, (void *)(uintptr_t)path, 20), -SIGKILL);
    assert_int_equal(is_sealed(path), 0);
    expect_pages_at(path, 1u << 0 | 1u << 7, KM_ECHANGED);
    const char *copy = scratch_path("copy.km");
    scratch_copy(path, copy);
    expect_pages_at(copy, 1u << 0 | 1u << 7, KM_ECHANGED);
    km_map *map = open_live(path, 0);
    expect_pages(map, 1u << 0 | 1u << 7, KM_ECHANGED);
    must(km_close(map));
    assert_int_equal(is_sealed(path), 1);
    expect_pages_at(path, 0, 0);
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */

static uint64_t place_of(const char *path, uint64_t offset) {
    return scratch_header(path).data_offset + offset;
}

static void a_changed_page_of_a_sealed_map_is_damaged(void **state) {
    (void)state;
    const char *path = sealed_map("damaged");
    static const uint64_t offsets[] = {0, 100, KM_PAGE_SIZE - 1, 9 * KM_PAGE_SIZE + 1234, SIZE - 1};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        scratch_flip(path, place_of(path, offsets[i]), 0x10);
        expect_pages_at(path, 1u << (offsets[i] / KM_PAGE_SIZE), KM_ECORRUPT);
        scratch_flip(path, place_of(path, offsets[i]), 0x10);
        expect_pages_at(path, 0, 0);
    }
}

/* The same bytes are no damage once somebody may have stored them; who attaches does not look. */
static void nothing_is_called_damaged_while_somebody_may_store(void **state) {
    (void)state;
    const char *path = sealed_map("attached");
    scratch_flip(path, place_of(path, 5000), 0x10);
    expect_pages_at(path, 1u << 1, KM_ECORRUPT);
    km_map *map = open_live(path, 0);
    expect_pages(map, 1u << 1, KM_ECHANGED);
    expect_pages_at(path, 1u << 1, KM_ECHANGED);
    must(km_close(map));
}

static void an_open_with_a_check_refuses_a_sealed_map_that_is_damaged(void **state) {
    (void)state;
    const char *path = sealed_map("checked");
    km_map *map = open_live(path, KM_CHECK);
    must(km_close(map));
    scratch_flip(path, place_of(path, 5000), 0x10);
    struct scratch_image before = scratch_load(path);
    must_fail(try_open(&map, path, KM_CHECK, 0), KM_ECORRUPT);
    check_detail_contains("page 1 ");
    assert_true(scratch_equals(path, &before)); /* still sealed, so that it can still be told */
    scratch_release(&before);
    expect_pages_at(path, 1u << 1, KM_ECORRUPT);
    km_map *other = open_live(path, 0);
    map = open_live(path, KM_CHECK); /* too late */
    must(km_close(map));
    must(km_close(other));
    must(km_close(open_live(path, KM_CHECK)));
}

static void a_changed_checksum_of_a_sealed_map_is_damage_too(void **state) {
    (void)state;
    const char *path = sealed_map("table");
    scratch_flip(path, scratch_header(path).table_offset + 4 * sizeof(uint32_t), 1);
    km_map *map = open_live(path, KM_READONLY);
    const struct findings findings = verify(map);
    assert_int_equal(findings.report.pages_damaged, 1);
    assert_int_equal(findings.error[4], KM_ECORRUPT);
    assert_int_equal(findings.report.digest_matches, 0);
    assert_int_equal(findings.others, 1);
    must(km_close(map));
    map = open_live(path, 0); /* while it may be stored to, the checksums are nobody's fault */
    assert_int_equal(verify(map).report.digest_matches, 1);
    must(km_close(map));
    expect_pages_at(path, 0, 0);
}

static void a_damaged_header_slot_is_found_and_mended_by_who_writes(void **state) {
    (void)state;
    for (int slot = 0; slot < 2; slot++) {
        const char *path = sealed_map(slot == 0 ? "slot-a" : "slot-b");
        scratch_flip(path, (slot == 0 ? KM__SLOT_A : KM__SLOT_B) + 200, 1);
        km_map *map = open_live(path, KM_READONLY);
        assert_int_equal(verify(map).report.headers_damaged, 1);
        must(km_close(map));
        must(km_close(open_live(path, 0)));
        expect_pages_at(path, 0, 0);
        assert_int_equal(is_sealed(path), 1);
    }
}

/* ---- what is checked --------------------------------------------------------------------------------------------- */

static void every_kind_of_checksum_seals(void **state) {
    (void)state;
    for (uint32_t kind = 0; kind <= KM_CHECKSUM_NONE; kind++) {
        const char *path = scratch_path("kind-%u.km", kind);
        km_map *map = NULL;
        const int result = try_open(&map, path, KM_CREATE, kind);
        if (kind == KM_CHECKSUM_CRC32 && result == KM_EUNSUPPORTED) {
            continue; /* a build without zlib */
        }
        must(result);
        const int error = kind == KM_CHECKSUM_NONE ? 0 : 1;
        fill(map);
        must(km_sync(map));
        expect_pages(map, 0, 0);
        bytes(map)[0] ^= 1;
        expect_pages(map, error != 0, KM_ECHANGED);
        must(km_close(map));
        expect_pages_at(path, 0, 0);
        scratch_flip(path, place_of(path, 0), 1);
        expect_pages_at(path, error != 0, KM_ECORRUPT);
    }
}

/* Pages without data in the file get the checksum of zeros again. */
static void a_page_that_became_a_hole_is_sealed_too(void **state) {
    (void)state;
    const uint64_t size = 3000 * (uint64_t)KM_PAGE_SIZE; /* more than one page of checksums */
    const char *path = scratch_path("hole.km");
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = size, .mode = KM_LIVE, .flags = KM_CREATE};
    must(km_open(&map, path, &options));
    memset(km_data(map), 5, size);
    must(km_sync(map));
    const int file = open(path, O_RDWR | O_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)place_of(path, 0), (off_t)size),
                     0);
    close(file);
    assert_int_equal(bytes(map)[0], 0);
    must(km_close(map));
    map = open_live(path, KM_READONLY);
    struct km_report report = {.struct_size = sizeof report};
    must(km_verify(map, &report, NULL, NULL));
    assert_int_equal(report.pages_damaged, 0);
    assert_int_equal(report.digest_matches, 1);
    assert_int_equal(report.digest, 0);
    must(km_close(map));
}

/* ---- while others store ------------------------------------------------------------------------------------------ */

static void store_all_the_time(const char *path) {
    km_map *map = NULL;
    child_must(try_open(&map, path, 0, 0));
    volatile unsigned char *data = km_data(map);
    for (uint64_t n = 1;; n++) {
        data[n * 977 % SIZE] = (unsigned char)n;
    }
}

static void a_seal_beside_stores_never_makes_damage(void **state) {
    (void)state;
    const char *path = sealed_map("storm");
    km_map *sealer = open_live(path, 0), *reader = open_live(path, KM_READONLY);
    const pid_t storm = fork();
    assert_true(storm >= 0);
    if (storm == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGALRM, SIG_DFL);
        alarm(60);
        store_all_the_time(path);
    }
    uint64_t changed = 0;
    for (unsigned rounds = 0; rounds < 30 || changed == 0; rounds++) { /* until it has been met at work */
        must(km_sync(sealer));
        const struct findings findings = verify(rounds % 2 == 0 ? sealer : reader);
        assert_int_equal(findings.report.pages_damaged, 0);
        changed += findings.report.pages_changed;
    }
    must(km_close(sealer));
    assert_int_equal(kill(storm, SIGKILL), 0);
    assert_int_equal(waitpid(storm, NULL, 0), storm);
    assert_int_equal(verify(reader).report.pages_damaged, 0);
    must(km_close(open_live(path, 0)));
    expect_pages(reader, 0, 0);
    must(km_close(reader));
}

static struct km_report *shared_report;

static int verify_in_child(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, KM_READONLY, 0));
    halt_mark();
    shared_report->struct_size = sizeof *shared_report;
    child_must(km_verify(map, shared_report, NULL, NULL));
    child_must(km_close(map));
    return 0;
}

/* Whenever somebody attaches and stores beside a verification: what it finds is no damage. */
static void who_attaches_and_stores_beside_a_verification_damages_nothing(void **state) {
    (void)state;
    if (!halt_is_possible()) {
        skip();
    }
    const char *path = sealed_map("beside");
    uint64_t changed = 0;
    enum halt_event event = HALT_CALL;
    for (unsigned n = 1; event == HALT_CALL; n++) {
        struct halt halt;
        memset(shared_report, 0, sizeof *shared_report);
        halt_start(&halt, verify_in_child, (void *)(uintptr_t)path);
        assert_int_equal(halt_run_to_mark(&halt), HALT_MARK);
        event = halt_run(&halt, n);
        km_map *map = open_live(path, 0);
        for (unsigned page = 0; page < PAGES; page++) {
            bytes(map)[page * KM_PAGE_SIZE] ^= 1;
        }
        assert_int_equal(halt_finish(&halt), 0);
        if (shared_report->pages_damaged != 0 || shared_report->digest_matches != 1) {
            fail_msg("before call %u: %llu pages are called damaged", n,
                     (unsigned long long)shared_report->pages_damaged);
        }
        changed += shared_report->pages_changed;
        must(km_close(map));
        expect_pages_at(path, 0, 0);
    }
    assert_true(changed > 0);
}

static int seal_in_child(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, 0, 0));
    halt_mark();
    child_must(km_sync(map));
    halt_mark();
    return 0;
}

/* The checksums of a seal that began earlier do not come over those of a later one. */
static void two_seals_at_once_do_not_mix_their_checksums(void **state) {
    (void)state;
    if (!halt_is_possible()) {
        skip();
    }
    const char *path = sealed_map("two");
    km_map *map = NULL;
    const struct km_options hasty = {.struct_size = sizeof hasty, .timeout_ms = 1};
    must(km_open(&map, path, &hasty));
    unsigned done = 0;
    enum halt_event event = HALT_CALL;
    for (unsigned n = 1; event == HALT_CALL; n++) {
        struct halt halt;
        halt_start(&halt, seal_in_child, (void *)(uintptr_t)path);
        assert_int_equal(halt_run_to_mark(&halt), HALT_MARK);
        bytes(map)[0]++; /* something for the first of them to write */
        event = halt_run(&halt, n);
        for (unsigned page = 0; page < PAGES; page++) {
            bytes(map)[page * KM_PAGE_SIZE]++;
        }
        const int result = km_sync(map);
        assert_true(result == 0 || result == KM_EBUSY);
        assert_true(event == HALT_MARK || halt_run_to_mark(&halt) == HALT_MARK);
        if (result == 0) {
            expect_pages(map, 0, 0); /* nobody stored since it returned */
            done++;
        }
        halt_kill(&halt);
    }
    assert_true(done > 0);
    must(km_close(map));
    expect_pages_at(path, 0, 0);
}

int main(void) {
    scratch_time_limit(120);
    shared_report = mmap(NULL, sizeof *shared_report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared_report == MAP_FAILED) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_close_seals_what_was_stored_with_or_without_a_transaction),
        cmocka_unit_test(a_map_is_not_sealed_from_the_moment_a_handle_may_write),
        cmocka_unit_test(only_the_last_of_several_that_may_write_seals),
        cmocka_unit_test(verify_names_the_pages_that_were_changed_since_the_last_seal),
        cmocka_unit_test(what_the_dead_have_stored_is_changed_and_not_damaged),
        cmocka_unit_test(a_changed_page_of_a_sealed_map_is_damaged),
        cmocka_unit_test(nothing_is_called_damaged_while_somebody_may_store),
        cmocka_unit_test(an_open_with_a_check_refuses_a_sealed_map_that_is_damaged),
        cmocka_unit_test(a_changed_checksum_of_a_sealed_map_is_damage_too),
        cmocka_unit_test(a_damaged_header_slot_is_found_and_mended_by_who_writes),
        cmocka_unit_test(every_kind_of_checksum_seals),
        cmocka_unit_test(a_page_that_became_a_hole_is_sealed_too),
        cmocka_unit_test(two_seals_at_once_do_not_mix_their_checksums),
        cmocka_unit_test(a_seal_beside_stores_never_makes_damage),
        cmocka_unit_test(who_attaches_and_stores_beside_a_verification_damages_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
