/* SPDX-License-Identifier: MIT
 *
 * Telling stories, and ending them: see story.h.
 */
#include "story.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/bytes.h"
#include "map/control.h"
#include "os_sim.h"

#define LINE 32u

void story_die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "tool_golden: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

void story_must(const struct story *story, const char *what, int result) {
    if (result != 0)
        story_die("%s: %s: %s: %s", story->name, what, km_error_name(result), km_last_error_detail());
}

/* ---- telling ----------------------------------------------------------------------------------------------------- */

void story_create(struct story *story) {
    os_sim_reset(20240601);
    story->options.struct_size = sizeof story->options;
    story->options.journal_size = story->options.mode == KM_TRANSACTIONAL ? STORY_JOURNAL : 0;
    story->options.flags |= KM_CREATE | KM_EXCLUSIVE;
    if (story->options.size == 0)
        story->options.size = STORY_SIZE;
    story->size = story->options.size;
    story->generation = 0;
    memset(story->now, 0, sizeof story->now);
    memset(story->home, 0, sizeof story->home);
    story_must(story, "open", km_open(&story->map, STORY_PATH, &story->options));
}

void story_begin(struct story *story) {
    story_must(story, "begin", km_begin(story->map, KM_WRITE));
}

void story_store(struct story *story, uint64_t offset, uint64_t length) {
    if (offset > story->size || length > story->size - offset)
        story_die("%s: a store outside of the data", story->name);
    for (uint64_t at = offset; at < offset + length; at++) {
        char line[80];
        const uint64_t start = at - at % LINE;
        snprintf(line, sizeof line, "%-16.16s %5" PRIu64 " %8" PRIu64 "\n", story->name, story->generation + 1, start);
        story->now[at] = (unsigned char)line[at % LINE];
    }
    memcpy((unsigned char *)km_data(story->map) + offset, story->now + offset, length);
}

void story_commit(struct story *story) {
    story_must(story, "commit", km_commit(story->map));
    story->generation++;
    if (km_generation(story->map) != story->generation)
        story_die("%s: the map is at generation %" PRIu64, story->name, km_generation(story->map));
}

void story_checkpoint(struct story *story) {
    story_must(story, "checkpoint", km_checkpoint(story->map));
    memcpy(story->home, story->now, sizeof story->home);
    story->home_generation = story->generation;
}

void story_grow(struct story *story, uint64_t size) {
    story_must(story, "grow", km_grow(story->map, size));
    story->generation++;
    story->size = size;
}

void story_commit_everything(struct story *story) {
    story_begin(story);
    story_store(story, 0, story->size);
    story_commit(story);
}

void story_commit_ranges(struct story *story) {
    story_begin(story);
    story_store(story, 10, 100);
    story_store(story, 2 * KM_PAGE_SIZE - 5, 10);
    story_store(story, 4 * KM_PAGE_SIZE, 1);
    story_commit(story);
    story_begin(story);
    story_store(story, 300, 3);
    story_store(story, 320, 1);
    story_store(story, 2 * KM_PAGE_SIZE + 1000, 2000);
    story_commit(story);
    story_begin(story);
    story_store(story, 50, 10);
    story_store(story, story->size - 1, 1);
    story_commit(story);
}

void story_tell_until_checkpoint(struct story *story) {
    story_create(story);
    story_commit_everything(story);
    story_checkpoint(story);
    story_commit_ranges(story);
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

struct image story_image(const char *path) {
    struct image image = {.length = os_sim_size(path)};
    image.bytes = malloc(image.length + 1);
    if (image.bytes == NULL || image.length == 0 || !os_sim_read(path, 0, image.bytes, image.length))
        story_die("the simulated file cannot be read");
    return image;
}

struct image story_close(struct story *story) {
    story_must(story, "close", km_close(story->map));
    return story_image(STORY_PATH);
}

/* What a killed session leaves says in control which system it ran on: here, the one whose maps these are to stand
 * for. */
static void become_linux(struct image *image) {
    static const uint32_t linux_system = 1;
    unsigned char *control = image->bytes + KM__CONTROL_OFFSET;
    if (km__load64(control) == KM__CONTROL_MAGIC)
        memcpy(control + offsetof(struct km__control, system), &linux_system, sizeof linux_system);
}

struct image story_kill(struct story *story) {
    struct image image = story_image(STORY_PATH);
    become_linux(&image);
    km_close(story->map); /* goes on without the image */
    return image;
}

struct km__header *story_slot(const struct image *image, int slot) {
    return (struct km__header *)(image->bytes + (slot == 0 ? KM__SLOT_A : KM__SLOT_B));
}

const struct km__header *story_header(const struct image *image) {
    struct km__header slots[2];
    int chosen;
    memcpy(slots, image->bytes, sizeof slots);
    if (km__header_choose(slots, &chosen, NULL, NULL, 0) != 0)
        story_die("no header slot is good");
    return story_slot(image, chosen);
}

struct km__frame_head *story_look_for_frame(const struct image *image, uint64_t generation) {
    const struct km__header *header = story_header(image);
    for (uint64_t at = 0; at + sizeof(struct km__frame_head) <= header->journal_size; at += 8) {
        struct km__frame_head *head = (struct km__frame_head *)(image->bytes + header->journal_offset + at);
        if (head->magic == KM__FRAME_MAGIC && head->generation == generation)
            return head;
    }
    return NULL;
}

struct km__frame_head *story_frame(const struct image *image, uint64_t generation) {
    struct km__frame_head *head = story_look_for_frame(image, generation);
    if (head == NULL)
        story_die("frame %" PRIu64 " is not in the journal", generation);
    return head;
}

/* One end: of what the disk holds after the power is back, or of what the killed process left, the first that is
 * wanted. */
static bool look_for_end(const struct story *story, const struct os_sim_state *state, bool power,
                         story_judge *is_wanted, struct image *image) {
    for (uint64_t seed = 0; seed < (power ? 32 : 1); seed++) {
        if (power)
            os_sim_reboot(state, OS_SIM_SECTORS, seed);
        else
            os_sim_kill(state);
        *image = story_image(STORY_PATH);
        become_linux(image);
        if (is_wanted(story, image))
            return true;
        free(image->bytes);
    }
    return false;
}

struct image story_end_in(struct story *story, void (*tell)(struct story *), story_step *last, bool power,
                          story_judge *is_wanted) {
    static unsigned char before[STORY_LARGEST];
    for (uint64_t step = 1; step < 100; step++) {
        tell(story);
        memcpy(before, story->now, sizeof before);
        os_sim_cut_at_step(step);
        if (last(story) == 0)
            break;
        memcpy(story->now, before, sizeof before); /* what the last step stored was not committed */
        struct os_sim_state *state = os_sim_save();
        km_close(story->map);
        struct image image;
        const bool found = look_for_end(story, state, power, is_wanted, &image);
        os_sim_state_free(state);
        if (found)
            return image;
    }
    story_die("%s: no step gives the file that is wanted", story->name);
}

void story_seal_headers(struct image *image) {
    for (int slot = 0; slot < 2; slot++)
        km__header_seal(story_slot(image, slot));
}
