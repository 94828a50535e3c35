/* SPDX-License-Identifier: MIT
 *
 * The tales of the golden files: each ends with the file that shows what data/README.md says of it, or ends the
 * program.
 */
#include "tales.h"

#include <stdlib.h>
#include <string.h>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/frame_head.h"

/* ---- judges ------------------------------------------------------------------------------------------------------ */

/* The pages of home, by whether they are as before the checkpoint or as after it; pages that are the same do not
 * count. */
struct mixture {
    unsigned old, new, torn;
};

static struct mixture count_mixture(const struct story *story, const struct image *image) {
    const struct km__header *header = story_header(image);
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
    const bool a = km__header_check(story_slot(image, 0), NULL, 0) == 0;
    const bool b = km__header_check(story_slot(image, 1), NULL, 0) == 0;
    return a != b;
}

static bool slots_are_good(const struct image *image) {
    return km__header_check(story_slot(image, 0), NULL, 0) == 0 && km__header_check(story_slot(image, 1), NULL, 0) == 0;
}

/* The checkpoint is in one slot and not in the other. */
static bool one_slot_is_at_the_goal(const struct story *story, const struct image *image) {
    return slots_are_good(image) && story_header(image)->generation == story->generation &&
           story_slot(image, 0)->generation != story_slot(image, 1)->generation;
}

static bool one_slot_has_the_geometry(const struct story *story, const struct image *image) {
    (void)story;
    return slots_are_good(image) && story_slot(image, 0)->geometry != story_slot(image, 1)->geometry;
}

/* All that growth does before a slot tells of it is there. */
static bool file_is_longer_than_told(const struct story *story, const struct image *image) {
    (void)story;
    const struct km__header *header = story_header(image);
    const uint64_t moved_journal = km__header_file_end(header) + KM__ALIGN;
    return slots_are_good(image) && story_slot(image, 0)->geometry == story_slot(image, 1)->geometry &&
           image->length > moved_journal &&
           memcmp(image->bytes + km__header_file_end(header), image->bytes + header->table_offset, 20) == 0;
}

/* A frame behind the last one whose head holds, but not its body. */
static bool tail_is_torn(const struct story *story, const struct image *image) {
    const struct km__frame_head *head = story_look_for_frame(image, story->generation + 1);
    if (head == NULL)
        return false;
    const struct km__header *header = story_header(image);
    const uint64_t room = header->journal_size -
                          (uint64_t)((const unsigned char *)head - image->bytes - (ptrdiff_t)header->journal_offset);
    return km__frame_head_holds(head, header->uuid, room) &&
           km__crc32c(0, head + 1, (size_t)head->length - sizeof *head) != head->body_checksum;
}

/* ---- last steps -------------------------------------------------------------------------------------------------- */

static int try_checkpoint(struct story *story) {
    return km_checkpoint(story->map);
}

static int try_to_move(struct story *story) {
    return km_grow(story->map, 70000);
}

static int try_to_commit(struct story *story, uint64_t offset, uint64_t length) {
    story_begin(story);
    story_store(story, offset, length);
    return km_commit(story->map);
}

static int try_to_commit_much(struct story *story) {
    return try_to_commit(story, 0, story->size);
}

static int try_to_commit_a_tail(struct story *story) {
    return try_to_commit(story, 3000, 3000);
}

/* ---- tales ------------------------------------------------------------------------------------------------------- */

struct image tell_new(struct story *story) {
    story_create(story);
    return story_close(story);
}

struct image tell_closed(struct story *story) {
    story_tell_until_checkpoint(story);
    return story_close(story);
}

struct image tell_killed(struct story *story) {
    story_tell_until_checkpoint(story);
    return story_kill(story);
}

struct image tell_compressed(struct story *story) {
    story_tell_until_checkpoint(story);
    struct image image = story_kill(story);
    if ((story_frame(&image, 3)->flags & KM__FRAME_COMPRESSED) == 0)
        story_die("%s: the frame is not compressed", story->name);
    return image;
}

/* The first frame after the checkpoint has whole pages, and nothing else. */
struct image tell_full_pages(struct story *story) {
    story_tell_until_checkpoint(story);
    struct image image = story_kill(story);
    const unsigned char *body = (const unsigned char *)(story_frame(&image, 2) + 1);
    if (km__load16(body + 6) != (KM__PAGE_WHOLE | 1u))
        story_die("%s: the page is not whole", story->name);
    return image;
}

/* Commits until one starts again at the beginning of the ring, behind frames that home does not have. */
struct image tell_wrapped(struct story *story) {
    story_create(story);
    for (unsigned i = 0; i < 100; i++) {
        story_begin(story);
        story_store(story, i % 5 * 1000, 6000);
        story_commit(story);
        if (i == 10)
            story_checkpoint(story); /* so that the end of the ring does not meet with a checkpoint at its half */
        struct image image = story_image(STORY_PATH);
        const struct km__header *header = story_header(&image);
        const struct km__frame_head *first = (const void *)(image.bytes + header->journal_offset);
        if (first->generation == story->generation && first->generation > header->generation + 2) {
            free(image.bytes);
            return story_kill(story);
        }
        free(image.bytes);
    }
    story_die("%s: the journal did not wrap", story->name);
}

/* Growth up to max_size is a frame. */
struct image tell_grown(struct story *story) {
    story_tell_until_checkpoint(story);
    story_grow(story, 30000);
    story_begin(story);
    story_store(story, STORY_SIZE - 10, 30000 - STORY_SIZE);
    story_commit(story);
    return story_kill(story);
}

/* Growth beyond max_size moves table and journal behind the data. */
struct image tell_moved(struct story *story) {
    story_tell_until_checkpoint(story);
    story_grow(story, 70000);
    story_begin(story);
    story_store(story, 69000, 1000);
    story_commit(story);
    struct image image = story_kill(story);
    if (story_header(&image)->table_offset < story_header(&image)->data_offset)
        story_die("%s: the regions did not move", story->name);
    return image;
}

struct image tell_checkpoint(struct story *story) {
    return story_end_in(story, story_tell_until_checkpoint, try_checkpoint, false, home_is_half_written);
}

struct image tell_torn_page(struct story *story) {
    return story_end_in(story, story_tell_until_checkpoint, try_checkpoint, true, a_page_is_torn);
}

struct image tell_torn_slot(struct story *story) {
    return story_end_in(story, story_tell_until_checkpoint, try_checkpoint, true, a_slot_is_torn);
}

static void tell_until_seal(struct story *story) {
    story->options.mode = KM_LIVE;
    story_create(story);
    story_commit_everything(story);
    story_checkpoint(story);
}

/* The last to close seals. The fourth page becomes zeros again, and its checksum 0. */
struct image tell_live(struct story *story) {
    tell_until_seal(story);
    story_commit_ranges(story);
    story_begin(story);
    memset(story->now + 3 * KM_PAGE_SIZE, 0, KM_PAGE_SIZE);
    memset((unsigned char *)km_data(story->map) + 3 * KM_PAGE_SIZE, 0, KM_PAGE_SIZE);
    story_commit(story);
    story_checkpoint(story); /* so that `home` is what the close seals */
    struct image image = story_close(story);
    if ((story_header(&image)->flags & KM__HEADER_CLEAN) == 0)
        story_die("%s: the map is not sealed", story->name);
    return image;
}

/* The process died inside a write transaction, after a seal, stores in three pages and commits. */
struct image tell_live_unsealed(struct story *story) {
    tell_until_seal(story);
    story_begin(story);
    story_store(story, 40, 100);
    story_commit(story);
    story_store(story, 2 * KM_PAGE_SIZE, 64); /* outside of any transaction */
    story_begin(story);
    story_store(story, 4 * KM_PAGE_SIZE, 100);
    struct image image = story_kill(story);
    if ((story_header(&image)->flags & KM__HEADER_CLEAN) != 0)
        story_die("%s: the map is sealed", story->name);
    return image;
}

/* The last to close seals what grew. */
struct image tell_live_grown(struct story *story) {
    tell_until_seal(story);
    story_grow(story, 30000);
    story_begin(story);
    story_store(story, STORY_SIZE - 10, 30000 - STORY_SIZE);
    story_commit(story);
    story_checkpoint(story);
    return story_close(story);
}

/* Bytes without a header; the tale needs no map. */
struct image tell_raw(struct story *story) {
    story->options.mode = KM_RAW;
    story->options.size = 5000;
    story_create(story);
    story_store(story, 0, story->size);
    story_must(story, "sync", km_sync(story->map));
    return story_close(story);
}

struct image tell_torn_tail(struct story *story) {
    return story_end_in(story, story_tell_until_checkpoint, try_to_commit_a_tail, true, tail_is_torn);
}

struct image tell_half_published(struct story *story) {
    return story_end_in(story, story_tell_until_checkpoint, try_checkpoint, false, one_slot_is_at_the_goal);
}

struct image tell_move_died(struct story *story) {
    return story_end_in(story, story_tell_until_checkpoint, try_to_move, false, file_is_longer_than_told);
}

struct image tell_move_half(struct story *story) {
    return story_end_in(story, story_tell_until_checkpoint, try_to_move, false, one_slot_has_the_geometry);
}

static void tell_small_commits(struct story *story) {
    story_create(story);
    story_commit_ranges(story);
}

/* A commit that does not fit makes the ring longer. */
struct image tell_ring_half(struct story *story) {
    return story_end_in(story, tell_small_commits, try_to_commit_much, false, one_slot_has_the_geometry);
}

struct image tell_ring_grown(struct story *story) {
    story_create(story);
    story_commit_everything(story);
    story_commit_ranges(story);
    struct image image = story_kill(story);
    const struct km__header *header = story_header(&image);
    if (header->journal_size <= header->journal_configured)
        story_die("%s: the journal did not grow", story->name);
    return image;
}

/* A copy begins at the generation of its source, and has no history. */
struct image tell_copy(struct story *story) {
    static const char path[] = "/disk/copy.km";
    story_tell_until_checkpoint(story);
    story_must(story, "copy", km_copy(story->map, path));
    struct image image = story_image(path);
    story_must(story, "close", km_close(story->map));
    return image;
}

/* A bit of the one mask whose unknown bits are ignored. */
struct image tell_compatible(struct story *story) {
    story_tell_until_checkpoint(story);
    struct image image = story_close(story);
    for (int slot = 0; slot < 2; slot++)
        story_slot(&image, slot)->feature_compatible = UINT64_C(1) << 63;
    story_seal_headers(&image);
    return image;
}

/* Three commits whose ranges a test of frames can count on: two in page 0 and one in page 1 in the second. */
struct image tell_frames(struct story *story) {
    story_create(story);
    story_begin(story);
    story_store(story, 0, 8);
    story_commit(story);
    story_begin(story);
    story_store(story, 1000, 20);
    story_store(story, 1100, 20);
    story_store(story, 5000, 30);
    story_commit(story);
    story_begin(story);
    story_store(story, 9000, 10);
    story_commit(story);
    return story_kill(story);
}
