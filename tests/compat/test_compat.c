/* SPDX-License-Identifier: MIT
 *
 * A map written once can be read for ever: the golden files of every format version open, verify clean and hold the
 * bytes that they held when they were written; and the damaged files are refused by the error that their name says. See
 * data/README.md. Works on copies; runs from the top of the tree, or with KEEPMAP_DATA naming the directory.
 *
 * The rows below come from tool_golden, which takes them from an array beside the map, not from the library.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdbool.h>

#include "support/check.h"
#include "support/scratch.h"

#include "format/checksum.h"

/* Without zlib, what needs it is refused by name. */
enum need { ZLIB = 1 };

static const struct golden {
    const char *name;
    uint64_t size, generation;
    uint64_t checkpoint; /* generation that home is at in the file */
    uint64_t digest;
    uint32_t data; /* CRC-32C of all bytes */
    enum need need;
    unsigned damaged_slots;
    bool compressed; /* its frames */
} goldens[] = {
    {"v1-new", 20000, 0, 0, UINT64_C(0x0000000000000000), 0x21618b6b, 0, 0, false},
    {"v1-closed", 20000, 4, 4, UINT64_C(0x9b1de0c2513a5cdd), 0xdae90275, 0, 0, false},
    {"v1-killed", 20000, 4, 1, UINT64_C(0xd563780cbe4cf6ac), 0x301fe3a6, 0, 0, false},
    {"v1-wrapped", 20000, 52, 41, UINT64_C(0xd0d2ce2bc4c77c07), 0xadd6e7a1, 0, 0, false},
    {"v1-compressed", 20000, 4, 1, UINT64_C(0xbaa9be15781aed8c), 0x49f1049a, ZLIB, 0, true},
    {"v1-full-pages", 20000, 4, 1, UINT64_C(0x39e2989d157b0461), 0xf0ff13ac, 0, 0, false},
    {"v1-crc32", 20000, 4, 1, UINT64_C(0xc1c2fad5fe4a7309), 0x8dd26f84, ZLIB, 0, false},
    {"v1-none", 20000, 4, 1, UINT64_C(0x0000000000000000), 0x6766c1fc, 0, 0, false},
    {"v1-grown", 30000, 6, 1, UINT64_C(0xc60e136b8e4761af), 0x93228f36, 0, 0, false},
    {"v1-moved", 70000, 6, 4, UINT64_C(0x8c9211d4291aed10), 0xc5b43a49, 0, 0, false},
    {"v1-checkpoint", 20000, 4, 1, UINT64_C(0x734c5a101c66e0f6), 0xc408aa35, 0, 0, false},
    {"v1-torn-page", 20000, 4, 1, UINT64_C(0xd4e04c8c723170a1), 0xfa826c19, 0, 0, false},
    {"v1-torn-slot", 20000, 4, 1, UINT64_C(0xda9f21e34a56c8e7), 0x6a4fdc49, 0, 1, false},
    {"v1-torn-tail", 20000, 4, 1, UINT64_C(0xaef8ec266d8cc6d5), 0xbb6dad0b, 0, 0, false},
    {"v1-half-published", 20000, 4, 4, UINT64_C(0x29e88c093f539b2e), 0xc31b1e5f, 0, 0, false},
    {"v1-move-died", 20000, 4, 4, UINT64_C(0x96bf71a41c558fe0), 0xff4994b9, 0, 0, false},
    {"v1-move-half", 20000, 4, 4, UINT64_C(0xed3c34d8ceb04640), 0xacb8de13, 0, 0, false},
    {"v1-ring-grown", 120000, 4, 1, UINT64_C(0xc500480817ab94ef), 0x031b930a, 0, 0, false},
    {"v1-ring-half", 120000, 3, 0, UINT64_C(0xf73cf917e13bf26d), 0x77ab663b, 0, 0, false},
    {"v1-room", 20000, 4, 1, UINT64_C(0xa2e2c8a4f980a9b1), 0x6af611f2, 0, 0, false},
    {"v1-lazy", 20000, 4, 1, UINT64_C(0x36c7a716c7f9e75c), 0x02eb4495, 0, 0, false},
    {"v1-frames", 20000, 3, 0, UINT64_C(0xebfc807a99c8896c), 0xbd4c69dc, 0, 0, false},
    {"v1-copy", 20000, 4, 4, UINT64_C(0x81272577bc53be14), 0x4a89b2e1, 0, 0, false},
    {"v1-compatible", 20000, 4, 4, UINT64_C(0xca97c5cce6acacc3), 0x87b4174b, 0, 0, false},
};

#define GOLDENS (sizeof goldens / sizeof goldens[0])

/* Live maps: what they were when they were last sealed, and what was stored since. */
static const struct live {
    const char *name;
    uint64_t size, generation;
    uint64_t digest; /* at the seal */
    uint32_t data;   /* CRC-32C of all bytes */
    unsigned changed_pages;
} lives[] = {
    {"v1-live", 20000, 5, UINT64_C(0xf833bf0d8af46578), 0x14c18ce5, 0},
    {"v1-live-unsealed", 20000, 1, UINT64_C(0xfa27a8be297a323d), 0x1d3bc033, 3},
    {"v1-live-grown", 30000, 3, UINT64_C(0xb08155d7dd710569), 0xaa52be98, 0},
};

#define LIVES (sizeof lives / sizeof lives[0])

/* Bytes without a header. */
static const struct raw {
    const char *name;
    uint64_t size;
    uint32_t data; /* CRC-32C of all bytes */
} raw = {"raw", 5000, 0x76a8836f};

static const char *data_path(const char *below) {
    static char path[1024];
    const char *directory = getenv("KEEPMAP_DATA");
    snprintf(path, sizeof path, "%s/%s", directory != NULL ? directory : "data", below);
    return path;
}

/* Call `each` with the name, without its `.km`, of each file in a directory of data/; how many there were. */
static unsigned each_file(const char *directory, void (*each)(const char *name)) {
    DIR *entries = opendir(data_path(directory));
    if (entries == NULL) {
        fail_msg("there is no directory %s", data_path(directory));
    }
    unsigned count = 0;
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        char name[256];
        snprintf(name, sizeof name, "%s", entry->d_name);
        const size_t length = strlen(name);
        if (name[0] == '.') {
            continue;
        }
        if (strcmp(name, "rules") == 0 || (length > 4 && strcmp(name + length - 4, ".txt") == 0)) {
            continue; /* of broken rules, and of golden files */
        }
        if (length <= 3 || strcmp(name + length - 3, ".km") != 0) {
            fail_msg("%s is no map, or not called so", name);
        }
        name[length - 3] = '\0';
        each(name);
        count++;
    }
    closedir(entries);
    return count;
}

static const char *copy_of(const char *directory, const char *name) {
    char below[512];
    snprintf(below, sizeof below, "%s/%s.km", directory, name);
    const char *path = scratch_path("%s.km", name);
    scratch_copy(data_path(below), path);
    return path;
}

/* ---- golden files ------------------------------------------------------------------------------------------------ */

static bool can_be_read(const struct golden *golden) {
    return golden->need != ZLIB || km__zlib_available();
}

#define expect(golden, what, found, expected) expect_number((golden)->name, (what), (found), (expected))

static void expect_number(const char *name, const char *what, uint64_t found, uint64_t expected) {
    if (found != expected) {
        fail_msg("%s: %s is %#" PRIx64 ", not %#" PRIx64, name, what, found, expected);
    }
}

static void expect_content(const struct golden *golden, km_map *map) {
    must(km_begin(map, KM_READ));
    expect(golden, "the generation", km_generation(map), golden->generation);
    expect(golden, "the size", km_size(map), golden->size);
    expect(golden, "the sum of the data", km__crc32c_portable(0, km_data(map), golden->size), golden->data);
    must(km_abort(map));
    const struct km_info info = check_info(map);
    expect(golden, "the generation told", info.generation, golden->generation);
    expect(golden, "the size told", info.size, golden->size);
    expect(golden, "the digest", info.digest, golden->digest);
    expect(golden, "the format version", info.format_version, 1);
}

static void expect_sound(const struct golden *golden, km_map *map, uint64_t frames, unsigned damaged_slots) {
    struct km_report report = {.struct_size = sizeof report};
    must(km_verify(map, &report, NULL, NULL));
    expect(golden, "the generation verified", report.generation, golden->generation);
    expect(golden, "the number of frames", report.frames, frames);
    expect(golden, "the number of damaged pages", report.pages_damaged, 0);
    expect(golden, "the number of damaged frames", report.frames_damaged, 0);
    expect(golden, "the number of damaged slots", report.headers_damaged, damaged_slots);
    expect(golden, "the verdict on the digest", report.digest_matches, 1);
}

static void a_golden_file_is_read_without_a_change(void **state) {
    (void)state;
    for (const struct golden *golden = goldens; golden < goldens + GOLDENS; golden++) {
        if (!can_be_read(golden)) {
            continue;
        }
        const char *path = copy_of("golden", golden->name);
        struct scratch_image before = scratch_load(path);
        km_map *map = check_open(path, 0, KM_READONLY);
        expect_content(golden, map);
        expect(golden, "the checkpoint", check_info(map).checkpoint_generation, golden->checkpoint);
        expect_sound(golden, map, golden->generation - golden->checkpoint, golden->damaged_slots);
        must(km_close(map));
        if (!scratch_equals(path, &before)) {
            fail_msg("%s: a handle without write permission changed the file", golden->name);
        }
        scratch_release(&before);
    }
}

static void a_golden_file_is_recovered_and_closed_cleanly(void **state) {
    (void)state;
    for (const struct golden *golden = goldens; golden < goldens + GOLDENS; golden++) {
        if (!can_be_read(golden)) {
            continue;
        }
        const char *path = copy_of("golden", golden->name);
        km_map *map = check_open(path, 0, 0);
        expect_content(golden, map);
        must(km_close(map));
        map = check_open(path, 0, KM_READONLY);
        expect_content(golden, map);
        expect_sound(golden, map, 0, 0);
        const struct km_info info = check_info(map);
        expect(golden, "clean", info.clean, 1);
        expect(golden, "the checkpoint", info.checkpoint_generation, golden->generation);
        must(km_close(map));
    }
}

/* With frames of the old session and of this one in one journal, and then with all of them brought home. */
static void a_golden_file_goes_on(void **state) {
    (void)state;
    for (const struct golden *golden = goldens; golden < goldens + GOLDENS; golden++) {
        if (!can_be_read(golden)) {
            continue;
        }
        const char *path = copy_of("golden", golden->name);
        km_map *map = check_open(path, 0, 0);
        must(km_begin(map, KM_WRITE));
        unsigned char *data = km_data(map);
        unsigned char *expected = malloc(golden->size);
        assert_non_null(expected);
        for (uint64_t at = 77; at < golden->size; at += 4000) { /* on every page */
            data[at] ^= 0x55;
        }
        memcpy(expected, data, golden->size);
        must(km_commit(map));
        must(km_close(map));
        map = check_open(path, 0, 0);
        must(km_begin(map, KM_READ));
        expect(golden, "the next generation", km_generation(map), golden->generation + 1);
        assert_memory_equal(km_data(map), expected, golden->size);
        must(km_abort(map));
        check_clean(map);
        must(km_close(map));
        free(expected);
    }
}

static int count_compressed(void *context, const struct km_log_entry *entry) {
    *(unsigned *)context += entry->compressed && !entry->checkpointed;
    return 0;
}

static void golden_files_show_what_their_names_say(void **state) {
    (void)state;
    for (const struct golden *golden = goldens; golden < goldens + GOLDENS; golden++) {
        if (!can_be_read(golden)) {
            continue;
        }
        km_map *map = check_open(copy_of("golden", golden->name), 0, KM_READONLY);
        unsigned compressed = 0;
        must(km_log(map, count_compressed, &compressed));
        expect(golden, "whether frames are compressed", compressed > 0, golden->compressed);
        const struct km_info info = check_info(map);
        expect(golden, "compression", info.compress, golden->compressed);
        expect(golden, "whole pages", info.full_pages, strcmp(golden->name, "v1-full-pages") == 0);
        expect(golden, "the kind of checksums", info.checksum,
               strcmp(golden->name, "v1-crc32") == 0  ? KM_CHECKSUM_CRC32
               : strcmp(golden->name, "v1-none") == 0 ? KM_CHECKSUM_NONE
                                                      : KM_CHECKSUM_CRC32C);
        must(km_close(map));
    }
}

/* The first bytes as a person would read them, not as a sum. */
static void a_golden_file_can_be_read_by_eye(void **state) {
    (void)state;
    km_map *map = check_open(copy_of("golden", "v1-killed"), 0, KM_READONLY);
    must(km_begin(map, KM_READ));
    const char *data = km_data(map);
    assert_memory_equal(data + 32 * 100, "v1-killed            1     3200\n", 32); /* at the checkpoint */
    assert_memory_equal(data + 64, "v1-killed            2       64\n", 32);       /* and by each of three commits */
    assert_memory_equal(data + 32 * 300, "v1-killed            3     9600\n", 32);
    assert_memory_equal(data + 50, "   4      ", 10);
    must(km_abort(map));
    must(km_close(map));
}

static void a_schema_is_kept_and_another_is_refused(void **state) {
    (void)state;
    const char *path = copy_of("golden", "v1-closed");
    struct km_options options = {.struct_size = sizeof options, .schema = "golden", .schema_version = 7};
    km_map *map;
    must(km_open(&map, path, &options));
    const struct km_info info = check_info(map);
    assert_string_equal(info.schema, "golden");
    assert_int_equal(info.schema_version, 7);
    must(km_close(map));
    options.schema_version = 8;
    must_fail(km_open(&map, path, &options), KM_ESCHEMA);
    options.schema_version = 7;
    options.schema = "Golden";
    must_fail(km_open(&map, path, &options), KM_ESCHEMA);
}

static void what_needs_zlib_is_refused_by_name_where_it_is_missing(void **state) {
    (void)state;
    const int expected = km__zlib_available() ? 0 : KM_EUNSUPPORTED;
    for (const struct golden *golden = goldens; golden < goldens + GOLDENS; golden++) {
        if (golden->need != ZLIB) {
            continue;
        }
        const char *path = copy_of("golden", golden->name);
        for (uint32_t flags = 0; flags <= KM_READONLY; flags += KM_READONLY) {
            const struct km_options options = {.struct_size = sizeof options, .flags = flags};
            km_map *map = NULL;
            must_fail(km_open(&map, path, &options), expected);
            if (expected != 0) {
                check_detail_contains("zlib");
            }
            must(km_close(map));
        }
    }
}

/* ---- golden files of live maps ----------------------------------------------------------------------------------- */

static int count_changed(void *context, uint64_t done, uint64_t total, const struct km_finding *finding) {
    (void)done;
    (void)total;
    if (finding != NULL) {
        assert_int_equal(finding->error, KM_ECHANGED);
        assert_int_not_equal(finding->expected, finding->found);
        ++*(unsigned *)context;
    }
    return 0;
}

static void expect_live(const struct live *live, km_map *map, uint64_t digest, unsigned changed_pages) {
    expect(live, "the size", km_size(map), live->size);
    expect(live, "the sum of the data", km__crc32c_portable(0, km_data(map), live->size), live->data);
    const struct km_info info = check_info(map);
    expect(live, "the mode", info.mode, KM_LIVE);
    expect(live, "the generation told", info.generation, live->generation);
    expect(live, "the sealed generation", info.durable_generation, live->generation);
    expect(live, "the digest", info.digest, digest);
    unsigned told = 0;
    struct km_report report = {.struct_size = sizeof report};
    must(km_verify(map, &report, count_changed, &told));
    expect(live, "the number of findings", told, changed_pages);
    expect(live, "the number of changed pages", report.pages_changed, changed_pages);
    expect(live, "the number of damaged pages", report.pages_damaged, 0);
    expect(live, "the number of damaged slots", report.headers_damaged, 0);
    expect(live, "the verdict on the digest", report.digest_matches, 1);
}

static void a_live_golden_file_is_read_without_a_change(void **state) {
    (void)state;
    for (const struct live *live = lives; live < lives + LIVES; live++) {
        const char *path = copy_of("golden", live->name);
        struct scratch_image before = scratch_load(path);
        km_map *map = check_open(path, 0, KM_READONLY);
        must(km_begin(map, KM_READ));
        must(km_abort(map));
        expect_live(live, map, live->digest, live->changed_pages);
        const struct km_info info = check_info(map);
        expect(live, "clean", info.clean, live->changed_pages == 0);
        expect(live, "abandoned", info.abandoned, live->changed_pages != 0);
        must(km_close(map));
        if (!scratch_equals(path, &before)) {
            fail_msg("%s: a handle without write permission changed the file", live->name);
        }
        scratch_release(&before);
    }
}

/* The first writer after an unclean end is told of it, and its commit says that the data is good again. */
static void a_live_golden_file_goes_on_and_is_sealed(void **state) {
    (void)state;
    for (const struct live *live = lives; live < lives + LIVES; live++) {
        const char *path = copy_of("golden", live->name);
        km_map *map = check_open(path, 0, 0);
        if (live->changed_pages != 0) {
            must_fail(km_begin(map, KM_WRITE), KM_EABANDONED);
        } else {
            must(km_begin(map, KM_WRITE));
        }
        unsigned char *data = km_data(map);
        expect(live, "the sum of the data", km__crc32c_portable(0, data, live->size), live->data);
        for (uint64_t at = 77; at < live->size; at += 4000) {
            data[at] ^= 0x55;
        }
        const uint32_t sum = km__crc32c_portable(0, data, live->size);
        must(km_commit(map));
        expect(live, "the next generation", km_generation(map), live->generation + 1);
        must(km_close(map));
        map = check_open(path, 0, KM_READONLY);
        expect(live, "the sum of the data now", km__crc32c_portable(0, km_data(map), live->size), sum);
        const struct km_info info = check_info(map);
        expect(live, "clean", info.clean, 1);
        expect(live, "abandoned", info.abandoned, 0);
        expect(live, "the sealed generation", info.durable_generation, live->generation + 1);
        check_clean(map);
        must(km_close(map));
    }
}

static void bytes_without_a_header_are_read_as_they_are(void **state) {
    (void)state;
    const char *path = copy_of("golden", raw.name);
    struct scratch_image before = scratch_load(path);
    for (uint32_t flags = 0; flags <= KM_READONLY; flags += KM_READONLY) {
        const struct km_options options = {.struct_size = sizeof options, .flags = flags, .mode = KM_RAW};
        km_map *map;
        must(km_open(&map, path, &options));
        expect(&raw, "the size", km_size(map), raw.size);
        expect(&raw, "the sum of the data", km__crc32c_portable(0, km_data(map), raw.size), raw.data);
        expect(&raw, "the mode", check_info(map).mode, KM_RAW);
        must(km_close(map));
        const struct km_options as_a_map = {.struct_size = sizeof options, .flags = flags};
        must_fail(km_open(&map, path, &as_a_map), KM_ENOTMAP);
    }
    assert_true(scratch_equals(path, &before));
    scratch_release(&before);
}

/* ---- what no file tells ------------------------------------------------------------------------------------------ */

static void change_a_bit(km_map *map, uint64_t offset, size_t length) {
    must(km_touch(map, offset, length));
    for (size_t i = 0; i < length; i++) {
        ((unsigned char *)km_data(map))[offset + i] ^= 0x2a;
    }
}

struct told {
    struct km_log_entry entry;
    uint64_t generation;
};

static int take_entry(void *context, const struct km_log_entry *entry) {
    struct told *told = context;
    if (entry->generation == told->generation) {
        told->entry = *entry;
    }
    return 0;
}

/* How the ranges became known is the writer's own affair: declared or found, the frame is the same. */
static void a_declared_commit_leaves_the_same_frame_as_a_found_one(void **state) {
    (void)state;
    struct told told[2];
    uint64_t sums[2];
    for (int declared = 0; declared < 2; declared++) {
        const char *path = copy_of("golden", "v1-killed");
        km_map *map = check_open(path, 0, declared ? KM_DECLARED : 0);
        must(km_begin(map, KM_WRITE));
        change_a_bit(map, 5, 1);
        change_a_bit(map, 4000, 200);
        change_a_bit(map, 19990, 10);
        must(km_commit(map));
        told[declared] = (struct told){.generation = km_generation(map)};
        must(km_log(map, take_entry, &told[declared]));
        must(km_close(map));
        map = check_open(path, 0, KM_READONLY);
        sums[declared] = check_info(map).digest;
        check_clean(map);
        must(km_close(map));
    }
    const struct km_log_entry *found = &told[0].entry, *declared = &told[1].entry;
    assert_int_equal(found->generation, 5);
    assert_int_equal(declared->generation, 5);
    assert_int_equal(found->pages, 3);
    assert_int_equal(declared->pages, 3);
    assert_int_equal(found->changed_bytes, 211);
    assert_int_equal(declared->changed_bytes, 211);
    assert_int_equal(found->frame_bytes, declared->frame_bytes);
    assert_int_equal(found->digest, declared->digest);
    assert_int_equal(sums[0], sums[1]);
    assert_int_equal(sums[0], found->digest);
}

static void require_row(const char *name) {
    for (const struct golden *golden = goldens; golden < goldens + GOLDENS; golden++) {
        if (strcmp(golden->name, name) == 0) {
            return;
        }
    }
    for (const struct live *live = lives; live < lives + LIVES; live++) {
        if (strcmp(live->name, name) == 0) {
            return;
        }
    }
    if (strcmp(raw.name, name) == 0) {
        return;
    }
    fail_msg("golden file %s has no row in this test", name);
}

static void every_golden_file_has_a_row(void **state) {
    (void)state;
    assert_int_equal(each_file("golden", require_row), GOLDENS + LIVES + 1);
}

/* ---- damaged files ----------------------------------------------------------------------------------------------- */

/* What a program meets that opens a file, begins to read, and verifies. */
struct meeting {
    int error;     /* the first */
    int opened;    /* what km_open() gave */
    uint64_t page; /* of the first finding, when it is a page */
};

static int take_finding(void *context, uint64_t done, uint64_t total, const struct km_finding *finding) {
    struct meeting *meeting = context;
    (void)done;
    (void)total;
    if (finding != NULL && meeting->error == 0) {
        meeting->error = finding->error;
        meeting->page = finding->page;
    }
    return 0;
}

static struct meeting meet(const char *path, uint32_t flags, const char *schema) {
    const struct km_options options = {
        .struct_size = sizeof options, .flags = flags, .schema = schema, .schema_version = 1};
    km_map *map = NULL;
    struct meeting meeting = {.opened = km_open(&map, path, &options)};
    meeting.error = meeting.opened;
    if (meeting.error != 0) {
        assert_int_not_equal(km_last_error_detail()[0], '\0');
        return meeting;
    }
    meeting.error = km_begin(map, KM_READ);
    if (meeting.error == 0) {
        must(km_abort(map));
    }
    struct km_report report = {.struct_size = sizeof report};
    must(km_verify(map, &report, take_finding, &meeting));
    must(km_close(map));
    return meeting;
}

static void expect_error(const char *name, const char *who, struct meeting meeting, const char *expected) {
    const char *found = km_error_name(meeting.error);
    if (strcmp(found, expected) != 0) {
        fail_msg("%s: %s: %s", name, who, found);
    }
    const char *page = strstr(name, "page-");
    if (page != NULL && meeting.page != strtoull(page + strlen("page-"), NULL, 10)) {
        fail_msg("%s: %s: page %" PRIu64 " is named", name, who, meeting.page);
    }
}

static void meet_damaged(const char *name) {
    char expected[256];
    snprintf(expected, sizeof expected, "%.*s", (int)strcspn(name, "-"), name);
    const char *path = copy_of("damaged", name);
    struct scratch_image before = scratch_load(path);
    const char *for_readers = strstr(name, "-for-writers") != NULL ? "KM_OK" : expected;
    expect_error(name, "a handle without write permission", meet(path, KM_READONLY, "damaged"), for_readers);
    if (!scratch_equals(path, &before)) {
        fail_msg("%s: a handle without write permission changed the file", name);
    }
    if (strstr(name, "-live-") != NULL && strncmp(name, "KM_EHEADER", strlen("KM_EHEADER")) != 0) {
        scratch_release(&before); /* who may write may store to a live map, and makes the file say so */
        return;
    }
    const struct meeting writer = meet(path, 0, "damaged");
    expect_error(name, "a handle with write permission", writer, expected);
    if (writer.opened != 0 && !scratch_equals(path, &before)) {
        fail_msg("%s: the refused open changed the file", name);
    }
    /* What was opened all the same has not been made to look right. */
    expect_error(name, "the next handle", meet(path, KM_READONLY, "damaged"), for_readers);
    scratch_release(&before);
}

static void a_damaged_file_gives_the_error_that_it_is_named_after(void **state) {
    (void)state;
    assert_true(each_file("damaged", meet_damaged) >= 21);
}

/* ---- broken rules ------------------------------------------------------------------------------------------------ */

enum { BROKEN_RULES = 64 };

/* Make the file that a line of data/damaged/rules tells of: NAME BASE LENGTH OFFSET:BYTES..., numbers but LENGTH in
 * hexadecimal. */
static const char *make_broken(char *line, char **name) {
    char *rest;
    *name = strtok_r(line, " \n", &rest);
    const char *path = copy_of("golden", strtok_r(NULL, " \n", &rest));
    struct scratch_image image = scratch_load(path);
    const uint64_t length = strtoull(strtok_r(NULL, " \n", &rest), NULL, 10);
    assert_in_range(length, 1, image.length);
    unsigned changed = 0;
    for (char *run = strtok_r(NULL, " \n", &rest); run != NULL; run = strtok_r(NULL, " \n", &rest)) {
        char *byte;
        uint64_t at = strtoull(run, &byte, 16);
        assert_int_equal(*byte, ':');
        for (byte++; byte[0] != '\0'; byte += 2) {
            const char digits[3] = {byte[0], byte[1], '\0'};
            assert_in_range(at, 0, length - 1);
            image.bytes[at++] = (unsigned char)strtoul(digits, NULL, 16);
            changed++;
        }
    }
    assert_int_not_equal(changed, 0);
    remove(path);
    scratch_store(path, image.bytes, (size_t)length);
    scratch_release(&image);
    return path;
}

/* Of the header the message names the field: "KM_EHEADER-data_size-0" is about data_size. */
static void expect_field(const char *name) {
    static const char header[] = "KM_EHEADER-";
    if (strncmp(name, header, strlen(header)) != 0) {
        return;
    }
    char field[64], detail[1024];
    snprintf(field, sizeof field, "%.*s", (int)strcspn(name + strlen(header), "-"), name + strlen(header));
    snprintf(detail, sizeof detail, "%s", km_last_error_detail());
    for (char *text = field; text != NULL; text = text == field ? detail : NULL) {
        for (char *underscore = strchr(text, '_'); underscore != NULL; underscore = strchr(underscore, '_')) {
            *underscore = ' ';
        }
    }
    if (strstr(detail, field) == NULL) {
        fail_msg("%s: %s", name, detail);
    }
}

static void meet_broken(const char *name, const char *path) {
    char expected[64];
    snprintf(expected, sizeof expected, "%.*s", (int)strcspn(name, "-"), name);
    struct scratch_image before = scratch_load(path);
    for (uint32_t flags = 0; flags <= KM_READONLY; flags += KM_READONLY) {
        expect_error(name, flags ? "a handle without write permission" : "a handle with write permission",
                     meet(path, flags, NULL), expected);
        expect_field(name);
        if (!scratch_equals(path, &before)) {
            fail_msg("%s: the file was changed", name);
        }
    }
    scratch_release(&before);
}

static void a_field_that_breaks_one_rule_is_refused_whatever_its_checksum(void **state) {
    (void)state;
    FILE *rules = fopen(data_path("damaged/rules"), "r");
    assert_non_null(rules);
    char line[4096], *name;
    unsigned count = 0;
    for (; fgets(line, sizeof line, rules) != NULL; count++) {
        const bool needs_zlib = strstr(line, " v1-compressed ") != NULL;
        const char *path = make_broken(line, &name);
        if (!needs_zlib || km__zlib_available()) {
            meet_broken(name, path);
        }
        remove(path);
    }
    fclose(rules);
    assert_int_equal(count, BROKEN_RULES);
}

static uint64_t named; /* bit -e: a file names the error e */

static void note_name(const char *name) {
    for (int error = -1; error > -64; error--) {
        const char *text = km_error_name(error);
        if (strlen(text) == strcspn(name, "-") && strncmp(text, name, strlen(text)) == 0) {
            named |= UINT64_C(1) << -error;
            return;
        }
    }
    fail_msg("%s is not named after an error", name);
}

static void every_error_of_a_file_has_a_damaged_file(void **state) {
    (void)state;
    static const int errors[] = {KM_EEMPTY,   KM_ENOTMAP,  KM_ETRUNCATED, KM_EHEADER,  KM_EJOURNAL, KM_ECORRUPT,
                                 KM_EVERSION, KM_EFEATURE, KM_ESCHEMA,    KM_ESESSION, KM_ECHANGED};
    each_file("damaged", note_name);
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if ((named & UINT64_C(1) << -errors[i]) == 0) {
            fail_msg("there is no damaged file for %s", km_error_name(errors[i]));
        }
    }
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_golden_file_is_read_without_a_change),
        cmocka_unit_test(a_golden_file_is_recovered_and_closed_cleanly),
        cmocka_unit_test(a_golden_file_goes_on),
        cmocka_unit_test(golden_files_show_what_their_names_say),
        cmocka_unit_test(a_golden_file_can_be_read_by_eye),
        cmocka_unit_test(a_schema_is_kept_and_another_is_refused),
        cmocka_unit_test(what_needs_zlib_is_refused_by_name_where_it_is_missing),
        cmocka_unit_test(a_live_golden_file_is_read_without_a_change),
        cmocka_unit_test(a_live_golden_file_goes_on_and_is_sealed),
        cmocka_unit_test(bytes_without_a_header_are_read_as_they_are),
        cmocka_unit_test(a_declared_commit_leaves_the_same_frame_as_a_found_one),
        cmocka_unit_test(every_golden_file_has_a_row),
        cmocka_unit_test(a_damaged_file_gives_the_error_that_it_is_named_after),
        cmocka_unit_test(a_field_that_breaks_one_rule_is_refused_whatever_its_checksum),
        cmocka_unit_test(every_error_of_a_file_has_a_damaged_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
