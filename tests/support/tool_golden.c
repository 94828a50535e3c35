/* SPDX-License-Identifier: MIT
 *
 * Makes the golden and the damaged files below data/, those of them that are not there:
 *
 *     tool_golden DIRECTORY        (make golden)
 *
 * For each golden file that it makes it prints the row of tests/compat/test_compat.c that says what the file holds,
 * taken not from the library but from an array that stands beside the map; live maps have a table of their own there.
 * A file that is there stays as it is: see data/README.md.
 *
 * Runs on the simulated system (os_sim.h), whose clock and chance come from a seed: the same library makes the same
 * bytes (compressed frames also depend on zlib), and a session can end by a kill or a power cut at any step.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "support/os_sim.h"

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/frame.h"
#include "format/header.h"
#include "keepmap.h"
#include "map/control.h"

#define PATH "/disk/golden.km"
#define SIZE 20000u /* five pages, the last one not whole */
#define JOURNAL 65536u
#define LARGEST 131072u
#define LINE 32u

/* A map that is being made, and beside it the bytes that it must hold. */
struct story {
    const char *name;
    struct km_options options;
    km_map *map;
    uint64_t generation, size;
    unsigned char now[LARGEST];
    unsigned char home[LARGEST]; /* at the last checkpoint, or seal */
    uint64_t home_generation;
};

struct image {
    unsigned char *bytes;
    size_t length;
};

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "tool_golden: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static void must(const struct story *story, const char *what, int result) {
    if (result != 0)
        die("%s: %s: %s: %s", story->name, what, km_error_name(result), km_last_error_detail());
}

/* ---- stories ----------------------------------------------------------------------------------------------------- */

static void create(struct story *story) {
    os_sim_reset(20240601);
    story->options.struct_size = sizeof story->options;
    story->options.journal_size = story->options.mode == KM_LIVE ? 0 : JOURNAL;
    story->options.flags |= KM_CREATE | KM_EXCLUSIVE;
    if (story->options.size == 0)
        story->options.size = SIZE;
    story->size = story->options.size;
    story->generation = 0;
    memset(story->now, 0, sizeof story->now);
    memset(story->home, 0, sizeof story->home);
    must(story, "open", km_open(&story->map, PATH, &story->options));
}

static void begin(struct story *story) {
    must(story, "begin", km_begin(story->map, KM_WRITE));
}

/* Store lines that say which commit of which file wrote them, and where. */
static void store(struct story *story, uint64_t offset, uint64_t length) {
    if (offset > story->size || length > story->size - offset)
        die("%s: a store outside of the data", story->name);
    for (uint64_t at = offset; at < offset + length; at++) {
        char line[80];
        const uint64_t start = at - at % LINE;
        snprintf(line, sizeof line, "%-16.16s %5" PRIu64 " %8" PRIu64 "\n", story->name, story->generation + 1, start);
        story->now[at] = (unsigned char)line[at % LINE];
    }
    memcpy((unsigned char *)km_data(story->map) + offset, story->now + offset, length);
}

static void commit(struct story *story) {
    must(story, "commit", km_commit(story->map));
    story->generation++;
    if (km_generation(story->map) != story->generation)
        die("%s: the map is at generation %" PRIu64, story->name, km_generation(story->map));
}

static void checkpoint(struct story *story) {
    must(story, "checkpoint", km_checkpoint(story->map));
    memcpy(story->home, story->now, sizeof story->home);
    story->home_generation = story->generation;
}

static void grow(struct story *story, uint64_t size) {
    must(story, "grow", km_grow(story->map, size));
    story->generation++;
    story->size = size;
}

static void commit_everything(struct story *story) {
    begin(story);
    store(story, 0, story->size);
    commit(story);
}

/* Three commits with ranges of many shapes: inside a page, over the border of two, a single byte, the last byte. */
static void commit_ranges(struct story *story) {
    begin(story);
    store(story, 10, 100);
    store(story, 2 * KM_PAGE_SIZE - 5, 10);
    store(story, 4 * KM_PAGE_SIZE, 1);
    commit(story);
    begin(story);
    store(story, 300, 3);
    store(story, 320, 1);
    store(story, 2 * KM_PAGE_SIZE + 1000, 2000);
    commit(story);
    begin(story);
    store(story, 50, 10);
    store(story, story->size - 1, 1);
    commit(story);
}

/* ---- how a story ends -------------------------------------------------------------------------------------------- */

static struct image take_image(void) {
    struct image image = {.length = os_sim_size(PATH)};
    image.bytes = malloc(image.length + 1);
    if (image.bytes == NULL || image.length == 0 || !os_sim_read(PATH, 0, image.bytes, image.length))
        die("the simulated file cannot be read");
    return image;
}

static struct image close_cleanly(struct story *story) {
    must(story, "close", km_close(story->map));
    return take_image();
}

/* What a killed session leaves says in control which system it ran on: here, the one whose maps these are to stand
 * for. */
static void become_linux(struct image *image) {
    static const uint32_t linux_system = 1;
    unsigned char *control = image->bytes + KM__CONTROL_OFFSET;
    if (km__load64(control) == KM__CONTROL_MAGIC)
        memcpy(control + offsetof(struct km__control, system), &linux_system, sizeof linux_system);
}

static struct image kill_session(struct story *story) {
    struct image image = take_image();
    become_linux(&image);
    km_close(story->map); /* goes on without the image */
    return image;
}

static struct km__header *header_slot(const struct image *image, int slot) {
    return (struct km__header *)(image->bytes + (slot == 0 ? KM__SLOT_A : KM__SLOT_B));
}

static const struct km__header *header_of(const struct image *image) {
    struct km__header slots[2];
    int chosen;
    memcpy(slots, image->bytes, sizeof slots);
    if (km__header_choose(slots, &chosen, NULL, NULL, 0) != 0)
        die("no header slot is good");
    return header_slot(image, chosen);
}

/* Where in the image the frame of a generation stands. */
static struct km__frame_head *find_frame(const struct image *image, uint64_t generation) {
    const struct km__header *header = header_of(image);
    for (uint64_t at = 0; at + sizeof(struct km__frame_head) <= header->journal_size; at += 8) {
        struct km__frame_head *head = (struct km__frame_head *)(image->bytes + header->journal_offset + at);
        if (head->magic == KM__FRAME_MAGIC && head->generation == generation)
            return head;
    }
    die("frame %" PRIu64 " is not in the journal", generation);
}

typedef bool judge(const struct story *story, const struct image *image);

/* The pages of home, by whether they are as before the checkpoint or as after it; pages that are the same do not
 * count. */
struct mixture {
    unsigned old, new, torn;
};

static struct mixture count_mixture(const struct story *story, const struct image *image) {
    const struct km__header *header = header_of(image);
    struct mixture mixture = {0};
    for (uint64_t at = 0; at < story->size && header->target > header->generation; at += KM_PAGE_SIZE) {
        const unsigned char *page = image->bytes + header->data_offset + at;
        const bool is_old = memcmp(page, story->home + at, KM_PAGE_SIZE) == 0;
        const bool is_new = memcmp(page, story->now + at, KM_PAGE_SIZE) == 0;
        mixture.old += is_old && !is_new;
        mixture.new += is_new && !is_old;
        mixture.torn += !is_old && !is_new;
    }
    return mixture;
}

static bool home_is_half_written(const struct story *story, const struct image *image) {
    const struct mixture mixture = count_mixture(story, image);
    return mixture.old > 0 && mixture.new > 0;
}

static bool a_page_is_torn(const struct story *story, const struct image *image) {
    const struct mixture mixture = count_mixture(story, image);
    return mixture.torn > 0 && mixture.old > 0;
}

static bool a_slot_is_torn(const struct story *story, const struct image *image) {
    (void)story;
    const bool a = km__header_check(header_slot(image, 0), NULL, 0) == 0;
    const bool b = km__header_check(header_slot(image, 1), NULL, 0) == 0;
    return a != b;
}

static void tell_until_checkpoint(struct story *story) {
    create(story);
    commit_everything(story);
    checkpoint(story);
    commit_ranges(story);
}

/*
 * Tell the story, end its session at some step of a checkpoint, and do so until `is_wanted` is content. Without `power`
 * only the process dies, and what it wrote is there; else each sector that was not synced is there or not.
 */
static struct image end_in_checkpoint(struct story *story, bool power, judge *is_wanted) {
    for (uint64_t step = 1; step < 100; step++) {
        tell_until_checkpoint(story);
        os_sim_cut_at_step(step);
        if (km_checkpoint(story->map) == 0)
            break;
        struct os_sim_state *state = os_sim_save();
        km_close(story->map);
        for (uint64_t seed = 0; seed < (power ? 32 : 1); seed++) {
            if (power)
                os_sim_reboot(state, OS_SIM_SECTORS, seed);
            else
                os_sim_kill(state);
            struct image image = take_image();
            become_linux(&image);
            if (is_wanted(story, &image)) {
                os_sim_state_free(state);
                return image;
            }
            free(image.bytes);
        }
        os_sim_state_free(state);
    }
    die("%s: no step of the checkpoint gives the file that is wanted", story->name);
}

/* ---- golden files ------------------------------------------------------------------------------------------------ */

static struct image tell_new(struct story *story) {
    create(story);
    return close_cleanly(story);
}

static struct image tell_closed(struct story *story) {
    tell_until_checkpoint(story);
    return close_cleanly(story);
}

static struct image tell_killed(struct story *story) {
    tell_until_checkpoint(story);
    return kill_session(story);
}

static struct image tell_compressed(struct story *story) {
    tell_until_checkpoint(story);
    struct image image = kill_session(story);
    if ((find_frame(&image, 3)->flags & KM__FRAME_COMPRESSED) == 0)
        die("%s: the frame is not compressed", story->name);
    return image;
}

/* The first frame after the checkpoint has whole pages, and nothing else. */
static struct image tell_full_pages(struct story *story) {
    tell_until_checkpoint(story);
    struct image image = kill_session(story);
    const unsigned char *body = (const unsigned char *)(find_frame(&image, 2) + 1);
    if (km__load16(body + 6) != (KM__PAGE_WHOLE | 1u))
        die("%s: the page is not whole", story->name);
    return image;
}

/* Commits until one starts again at the beginning of the ring, behind frames that home does not have. */
static struct image tell_wrapped(struct story *story) {
    create(story);
    for (unsigned i = 0; i < 100; i++) {
        begin(story);
        store(story, i % 5 * 1000, 6000);
        commit(story);
        if (i == 10)
            checkpoint(story); /* so that the end of the ring does not meet with a checkpoint at its half */
        struct image image = take_image();
        const struct km__header *header = header_of(&image);
        const struct km__frame_head *first = (const void *)(image.bytes + header->journal_offset);
        if (first->generation == story->generation && first->generation > header->generation + 2) {
            free(image.bytes);
            return kill_session(story);
        }
        free(image.bytes);
    }
    die("%s: the journal did not wrap", story->name);
}

/* Growth up to max_size is a frame. */
static struct image tell_grown(struct story *story) {
    tell_until_checkpoint(story);
    grow(story, 30000);
    begin(story);
    store(story, SIZE - 10, 30000 - SIZE);
    commit(story);
    return kill_session(story);
}

/* Growth beyond max_size moves table and journal behind the data. */
static struct image tell_moved(struct story *story) {
    tell_until_checkpoint(story);
    grow(story, 70000);
    begin(story);
    store(story, 69000, 1000);
    commit(story);
    struct image image = kill_session(story);
    if (header_of(&image)->table_offset < header_of(&image)->data_offset)
        die("%s: the regions did not move", story->name);
    return image;
}

static struct image tell_checkpoint(struct story *story) {
    return end_in_checkpoint(story, false, home_is_half_written);
}

static struct image tell_torn_page(struct story *story) {
    return end_in_checkpoint(story, true, a_page_is_torn);
}

static struct image tell_torn_slot(struct story *story) {
    return end_in_checkpoint(story, true, a_slot_is_torn);
}

static void tell_until_seal(struct story *story) {
    story->options.mode = KM_LIVE;
    create(story);
    commit_everything(story);
    checkpoint(story);
}

/* The last to close seals. The fourth page becomes zeros again, and its checksum 0. */
static struct image tell_live(struct story *story) {
    tell_until_seal(story);
    commit_ranges(story);
    begin(story);
    memset(story->now + 3 * KM_PAGE_SIZE, 0, KM_PAGE_SIZE);
    memset((unsigned char *)km_data(story->map) + 3 * KM_PAGE_SIZE, 0, KM_PAGE_SIZE);
    commit(story);
    checkpoint(story); /* so that `home` is what the close seals */
    struct image image = close_cleanly(story);
    if ((header_of(&image)->flags & KM__HEADER_CLEAN) == 0)
        die("%s: the map is not sealed", story->name);
    return image;
}

/* The process died inside a write transaction, after a seal, stores in three pages and commits. */
static struct image tell_live_unsealed(struct story *story) {
    tell_until_seal(story);
    begin(story);
    store(story, 40, 100);
    commit(story);
    store(story, 2 * KM_PAGE_SIZE, 64); /* outside of any transaction */
    begin(story);
    store(story, 4 * KM_PAGE_SIZE, 100);
    struct image image = kill_session(story);
    if ((header_of(&image)->flags & KM__HEADER_CLEAN) != 0)
        die("%s: the map is sealed", story->name);
    return image;
}

static const struct golden {
    const char *name;
    struct image (*tell)(struct story *);
    struct km_options options;
} goldens[] = {
    {"v1-new", tell_new, {0}},
    {"v1-closed", tell_closed, {.schema = "golden", .schema_version = 7}},
    {"v1-killed", tell_killed, {0}},
    {"v1-wrapped", tell_wrapped, {0}},
    {"v1-compressed", tell_compressed, {.flags = KM_COMPRESS}},
    {"v1-full-pages", tell_full_pages, {.flags = KM_FULL_PAGES}},
    {"v1-crc32", tell_killed, {.checksum = KM_CHECKSUM_CRC32}},
    {"v1-none", tell_killed, {.checksum = KM_CHECKSUM_NONE}},
    {"v1-grown", tell_grown, {.max_size = 40000}},
    {"v1-moved", tell_moved, {0}},
    {"v1-checkpoint", tell_checkpoint, {0}},
    {"v1-torn-page", tell_torn_page, {0}},
    {"v1-torn-slot", tell_torn_slot, {0}},
    {"v1-live", tell_live, {0}},
    {"v1-live-unsealed", tell_live_unsealed, {0}},
};

static bool is_there(const char *path) {
    struct stat status;
    return stat(path, &status) == 0;
}

static void save_image(const char *path, const struct image *image) {
    FILE *file = fopen(path, "wxb");
    if (file == NULL || fwrite(image->bytes, 1, image->length, file) != image->length || fclose(file) != 0)
        die("%s: %s", path, strerror(errno));
}

/* The sum over all pages, from one of the arrays. */
static uint64_t digest_of(const struct story *story, const unsigned char *bytes) {
    uint64_t digest = 0;
    for (uint64_t page = 0; page * KM_PAGE_SIZE < story->size; page++)
        digest += km__digest_mix(page, km__checksum_page(story->options.checksum, bytes + page * KM_PAGE_SIZE));
    return digest;
}

/* A live map is told by its last seal, and by the pages that differ from it. */
static void print_live_row(const struct story *story) {
    unsigned changed = 0;
    for (uint64_t at = 0; at < story->size; at += KM_PAGE_SIZE)
        changed += memcmp(story->now + at, story->home + at, KM_PAGE_SIZE) != 0;
    printf("    {\"%s\", %" PRIu64 ", %" PRIu64 ", UINT64_C(0x%016" PRIx64 "), 0x%08" PRIx32 ", %u},\n", story->name,
           story->size, story->home_generation, digest_of(story, story->home),
           km__crc32c_portable(0, story->now, story->size), changed);
}

static void print_row(const struct story *story, const struct image *image) {
    if (story->options.mode == KM_LIVE) {
        print_live_row(story);
        return;
    }
    printf("    {\"%s\", %" PRIu64 ", %" PRIu64 ", %" PRIu64 ", UINT64_C(0x%016" PRIx64 "), 0x%08" PRIx32 "},\n",
           story->name, story->size, story->generation, header_of(image)->generation, digest_of(story, story->now),
           km__crc32c_portable(0, story->now, story->size));
}

static void make_golden(const struct golden *golden, const char *directory) {
    static struct story story;
    char path[4096];
    snprintf(path, sizeof path, "%s/golden/%s.km", directory, golden->name);
    if (is_there(path))
        return;
    memset(&story, 0, sizeof story);
    story.name = golden->name;
    story.options = golden->options;
    struct image image = golden->tell(&story);
    save_image(path, &image);
    print_row(&story, &image);
    free(image.bytes);
}

/* ---- damaged files ----------------------------------------------------------------------------------------------- */

/* Change the header in both slots, and seal them. */
static void change_headers(struct image *image, void (*change)(struct km__header *)) {
    for (int slot = 0; slot < 2; slot++) {
        change(header_slot(image, slot));
        km__header_seal(header_slot(image, slot));
    }
}

static void cut_all(struct image *image) {
    image->length = 0;
}

static void write_a_letter(struct image *image) {
    static const char letter[] = "Dear reader,\n\nthis is no map, and was never meant to be one.\n";
    image->length = sizeof letter - 1;
    memcpy(image->bytes, letter, image->length);
}

static void cut_in_header(struct image *image) {
    image->length = 5000;
}

static void cut_in_journal(struct image *image) {
    image->length = header_of(image)->journal_offset + 1000;
}

static void flip_both_slots(struct image *image) {
    image->bytes[KM__SLOT_A + 200] ^= 0x10;
    image->bytes[KM__SLOT_B + 3000] ^= 0x01;
}

static void set_reserved_byte(struct km__header *header) {
    header->reserved[100] = 1;
}

static void change_reserved(struct image *image) {
    change_headers(image, set_reserved_byte);
}

/* Numbers that no later version will give a meaning. */
static void set_last_version(struct km__header *header) {
    header->format_version = UINT32_MAX;
}

static void change_version(struct image *image) {
    change_headers(image, set_last_version);
}

static void set_last_incompatible(struct km__header *header) {
    header->feature_incompatible |= UINT64_C(1) << 63;
}

static void change_incompatible(struct image *image) {
    change_headers(image, set_last_incompatible);
}

static void set_last_readonly(struct km__header *header) {
    header->feature_readonly |= UINT64_C(1) << 63;
}

static void change_readonly(struct image *image) {
    change_headers(image, set_last_readonly);
}

static void set_schema_version(struct km__header *header) {
    header->schema_version = 2;
}

static void change_schema_version(struct image *image) {
    change_headers(image, set_schema_version);
}

static void set_schema_name(struct km__header *header) {
    memcpy(header->schema, "another", sizeof "another");
}

static void change_schema_name(struct image *image) {
    change_headers(image, set_schema_name);
}

/* The second of three commits that are not home yet; the third says that it was durable. */
static void flip_in_frame(struct image *image) {
    unsigned char *frame = (unsigned char *)find_frame(image, header_of(image)->generation + 2);
    frame[sizeof(struct km__frame_head) + 40] ^= 0x04;
}

static void flip_in_page_2(struct image *image) {
    image->bytes[header_of(image)->data_offset + 2 * KM_PAGE_SIZE + 1234] ^= 0x20;
}

static void flip_in_table_3(struct image *image) {
    image->bytes[header_of(image)->table_offset + 3 * sizeof(uint32_t) + 1] ^= 0x80;
}

/* A page and its checksum that were lost together, so that they match: only the digest tells. */
static void change_both_in_page_2(struct image *image) {
    const struct km__header *header = header_of(image);
    memset(image->bytes + header->data_offset + 2 * KM_PAGE_SIZE, 0, KM_PAGE_SIZE);
    memset(image->bytes + header->table_offset + 2 * sizeof(uint32_t), 0, sizeof(uint32_t));
}

static void set_journal(struct km__header *header) {
    header->journal_size = header->journal_configured = JOURNAL;
}

static void change_to_journal(struct image *image) {
    change_headers(image, set_journal);
}

static void set_last_mode(struct km__header *header) {
    header->mode = UINT32_MAX;
}

static void change_mode(struct image *image) {
    change_headers(image, set_last_mode);
}

static const struct damaged {
    const char *name;
    struct image (*tell)(struct story *);
    void (*damage)(struct image *);
} damageds[] = {
    {"KM_EEMPTY", tell_closed, cut_all},
    {"KM_ENOTMAP-letter", tell_closed, write_a_letter},
    {"KM_ETRUNCATED-header", tell_closed, cut_in_header},
    {"KM_ETRUNCATED-journal", tell_closed, cut_in_journal},
    {"KM_EHEADER-both-slots", tell_closed, flip_both_slots},
    {"KM_EHEADER-reserved", tell_closed, change_reserved},
    {"KM_EVERSION", tell_closed, change_version},
    {"KM_EFEATURE", tell_closed, change_incompatible},
    {"KM_EFEATURE-for-writers", tell_closed, change_readonly},
    {"KM_ESCHEMA-version", tell_closed, change_schema_version},
    {"KM_ESCHEMA-name", tell_closed, change_schema_name},
    {"KM_EJOURNAL-commit", tell_killed, flip_in_frame},
    {"KM_EJOURNAL-checkpoint", tell_checkpoint, flip_in_frame},
    {"KM_ECORRUPT-page-2", tell_closed, flip_in_page_2},
    {"KM_ECORRUPT-table-page-3", tell_closed, flip_in_table_3},
    {"KM_ECORRUPT-live-page-2", tell_live, flip_in_page_2},
    {"KM_EJOURNAL-live-digest", tell_live, change_both_in_page_2},
    {"KM_EHEADER-live-journal", tell_live, change_to_journal},
    {"KM_EFEATURE-mode", tell_closed, change_mode},
};

static void make_damaged(const struct damaged *damaged, const char *directory) {
    static struct story story;
    char path[4096];
    snprintf(path, sizeof path, "%s/damaged/%s.km", directory, damaged->name);
    if (is_there(path))
        return;
    memset(&story, 0, sizeof story);
    story.name = "damaged";
    story.options.schema = "damaged";
    story.options.schema_version = 1;
    struct image image = damaged->tell(&story);
    damaged->damage(&image);
    save_image(path, &image);
    free(image.bytes);
}

int main(int argc, char **argv) {
    if (argc != 2)
        return fprintf(stderr, "usage: tool_golden DIRECTORY\n"), 2;
    if (!km__zlib_available())
        die("some of the files need zlib, which this build lacks");
    static const char *const directories[] = {"golden", "damaged"};
    for (int i = 0; i < 2; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", argv[1], directories[i]);
        if (mkdir(path, 0777) != 0 && errno != EEXIST)
            die("%s: %s", path, strerror(errno));
    }
    for (size_t i = 0; i < sizeof goldens / sizeof goldens[0]; i++)
        make_golden(&goldens[i], argv[1]);
    for (size_t i = 0; i < sizeof damageds / sizeof damageds[0]; i++)
        make_damaged(&damageds[i], argv[1]);
    return 0;
}
