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
 * bytes (compressed frames also depend on zlib), and a session can end by a kill or a power cut at any step. Each
 * file is made by a process of its own, so that its bytes do not depend on which others are missing.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "damage.h"
#include "story.h"
#include "tales.h"

#include "format/checksum.h"

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
    {"v1-torn-tail", tell_torn_tail, {0}},
    {"v1-half-published", tell_half_published, {0}},
    {"v1-move-died", tell_move_died, {0}},
    {"v1-move-half", tell_move_half, {0}},
    {"v1-ring-grown", tell_ring_grown, {.size = 120000}},
    {"v1-ring-half", tell_ring_half, {.size = 120000}},
    {"v1-room", tell_killed, {.max_size = 150000}},
    {"v1-lazy", tell_killed, {.flags = KM_LAZY}},
    {"v1-frames", tell_frames, {0}},
    {"v1-copy", tell_copy, {0}},
    {"v1-compatible", tell_compatible, {0}},
    {"v1-live", tell_live, {0}},
    {"v1-live-unsealed", tell_live_unsealed, {0}},
    {"v1-live-grown", tell_live_grown, {.max_size = 40000}},
    {"raw", tell_raw, {0}},
};

static bool is_there(const char *path) {
    struct stat status;
    return stat(path, &status) == 0;
}

static void save_image(const char *path, const struct image *image) {
    FILE *file = fopen(path, "wxb");
    if (file == NULL || fwrite(image->bytes, 1, image->length, file) != image->length || fclose(file) != 0)
        story_die("%s: %s", path, strerror(errno));
}

/* Whether this is the process that makes the file; the other has waited for it. */
static bool in_its_own_process(const char *path) {
    if (is_there(path))
        return false;
    fflush(NULL);
    const pid_t child = fork();
    if (child < 0)
        story_die("%s: %s", path, strerror(errno));
    if (child == 0)
        return true;
    int status;
    if (waitpid(child, &status, 0) != child || status != 0)
        story_die("%s was not made", path);
    return false;
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

static void print_raw_row(const struct story *story) {
    printf("    {\"%s\", %" PRIu64 ", 0x%08" PRIx32 "},\n", story->name, story->size,
           km__crc32c_portable(0, story->now, story->size));
}

static void print_row(const struct story *story, const struct image *image) {
    if (story->options.mode == KM_LIVE) {
        print_live_row(story);
        return;
    }
    if (story->options.mode == KM_RAW) {
        print_raw_row(story);
        return;
    }
    printf("    {\"%s\", %" PRIu64 ", %" PRIu64 ", %" PRIu64 ", UINT64_C(0x%016" PRIx64 "), 0x%08" PRIx32 "},\n",
           story->name, story->size, story->generation, story_header(image)->generation, digest_of(story, story->now),
           km__crc32c_portable(0, story->now, story->size));
}

static void make_golden(const struct golden *golden, const char *directory) {
    static struct story story;
    char path[4096];
    snprintf(path, sizeof path, "%s/golden/%s.km", directory, golden->name);
    if (!in_its_own_process(path))
        return;
    story.name = golden->name;
    story.options = golden->options;
    const struct image image = golden->tell(&story);
    save_image(path, &image);
    print_row(&story, &image);
    exit(0);
}

static void make_damaged(const struct damaged *damaged, const char *directory) {
    static struct story story = {.name = "damaged", .options = {.schema = "damaged", .schema_version = 1}};
    char path[4096];
    snprintf(path, sizeof path, "%s/damaged/%s.km", directory, damaged->name);
    if (!in_its_own_process(path))
        return;
    struct image image = damaged->tell(&story);
    damaged->change(&image);
    save_image(path, &image);
    exit(0);
}

/* ---- broken rules ------------------------------------------------------------------------------------------------ */

static struct image load_image(const char *path) {
    static unsigned char bytes[1 << 20];
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        story_die("%s: %s", path, strerror(errno));
    struct image image = {bytes, fread(bytes, 1, sizeof bytes, file)};
    fclose(file);
    return image;
}

static bool has_line(const char *path, const char *name) {
    char line[4096];
    bool found = false;
    FILE *file = fopen(path, "r");
    const size_t length = strlen(name);
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL)
        found = strncmp(line, name, length) == 0 && line[length] == ' ';
    if (file != NULL)
        fclose(file);
    return found;
}

/* The bytes that differ, as offsets and runs of them. */
static void print_difference(FILE *file, const unsigned char *before, const struct image *image) {
    for (size_t at = 0; at < image->length; at++) {
        if (before[at] == image->bytes[at])
            continue;
        fprintf(file, " %zx:", at);
        for (; at < image->length && before[at] != image->bytes[at]; at++)
            fprintf(file, "%02x", image->bytes[at]);
    }
}

/* A line NAME BASE LENGTH OFFSET:BYTES...: how the file is made of the golden file, as that stands in the directory. */
static void add_broken(const struct broken *broken, const char *directory) {
    static unsigned char before[1 << 20];
    char path[4096], rules[4096];
    snprintf(rules, sizeof rules, "%s/damaged/rules", directory);
    if (has_line(rules, broken->name))
        return;
    snprintf(path, sizeof path, "%s/golden/%s.km", directory, broken->base);
    struct image image = load_image(path);
    memcpy(before, image.bytes, image.length);
    damage_rule(broken, &image);
    FILE *file = fopen(rules, "a");
    if (file == NULL)
        story_die("%s: %s", rules, strerror(errno));
    fprintf(file, "%s %s %zu", broken->name, broken->base, image.length);
    print_difference(file, before, &image);
    if (fprintf(file, "\n") < 0 || fclose(file) != 0)
        story_die("%s: %s", rules, strerror(errno));
}

int main(int argc, char **argv) {
    if (argc != 2)
        return fprintf(stderr, "usage: tool_golden DIRECTORY\n"), 2;
    if (!km__zlib_available())
        story_die("some of the files need zlib, which this build lacks");
    static const char *const directories[] = {"golden", "damaged"};
    for (int i = 0; i < 2; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", argv[1], directories[i]);
        if (mkdir(path, 0777) != 0 && errno != EEXIST)
            story_die("%s: %s", path, strerror(errno));
    }
    for (size_t i = 0; i < sizeof goldens / sizeof goldens[0]; i++)
        make_golden(&goldens[i], argv[1]);
    for (size_t i = 0; i < damaged_count; i++)
        make_damaged(&damageds[i], argv[1]);
    for (size_t i = 0; i < broken_count; i++)
        add_broken(&brokens[i], argv[1]);
    return 0;
}
