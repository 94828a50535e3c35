/* SPDX-License-Identifier: MIT
 *
 * What is done to the damaged files. Beside those that stand for a kind of accident there is one for each rule of a
 * field in docs/format.md that can be broken alone: of the header, with both slots sealed again; of a frame, with its
 * checksums and its chain made to hold again, in front of a frame that says it was durable. So it is that rule, and
 * no checksum, which refuses the file.
 */
#include "damage.h"

#include <string.h>

#include "tales.h"

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/frame_head.h"
#include "map/control.h"

/* ---- any change -------------------------------------------------------------------------------------------------- */

/* Change the header in both slots, and seal them. */
static void change_headers(struct image *image, void (*change)(struct km__header *)) {
    for (int slot = 0; slot < 2; slot++) {
        change(story_slot(image, slot));
        km__header_seal(story_slot(image, slot));
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
    image->length = story_header(image)->journal_offset + 1000;
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
    unsigned char *frame = (unsigned char *)story_frame(image, story_header(image)->generation + 2);
    frame[sizeof(struct km__frame_head) + 40] ^= 0x04;
}

static void flip_in_page_2(struct image *image) {
    image->bytes[story_header(image)->data_offset + 2 * KM_PAGE_SIZE + 1234] ^= 0x20;
}

static void flip_in_table_3(struct image *image) {
    image->bytes[story_header(image)->table_offset + 3 * sizeof(uint32_t) + 1] ^= 0x80;
}

/* A page and its checksum that were lost together, so that they match: only the digest tells. */
static void change_both_in_page_2(struct image *image) {
    const struct km__header *header = story_header(image);
    memset(image->bytes + header->data_offset + 2 * KM_PAGE_SIZE, 0, KM_PAGE_SIZE);
    memset(image->bytes + header->table_offset + 2 * sizeof(uint32_t), 0, sizeof(uint32_t));
}

static void set_journal(struct km__header *header) {
    header->journal_size = header->journal_configured = STORY_JOURNAL;
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

static void end_schema_nowhere(struct km__header *header) {
    memset(header->schema, 'x', sizeof header->schema);
}

static void change_schema_end(struct image *image) {
    change_headers(image, end_schema_nowhere);
    image->length = KM__TABLE_OFFSET;
}

/* A session of the other system, as its crash leaves it. */
static void change_system(struct image *image) {
    struct km__control *control = (struct km__control *)(void *)(image->bytes + KM__CONTROL_OFFSET);
    static const uint32_t windows = 2;
    memcpy(&control->system, &windows, sizeof windows);
}

static void forbid_compression(struct km__header *header) {
    header->feature_incompatible = 0;
}

static void change_compression(struct image *image) {
    change_headers(image, forbid_compression);
}

static void leave(struct image *image) {
    (void)image;
}

/* ---- one rule of a frame ----------------------------------------------------------------------------------------- */

/* Of the frame that tell_frames() makes: page 0 with two ranges of 20 bytes, page 1 with one of 30. */
enum { FIRST_PAGE = 0, SECOND_RANGE = 36, SECOND_PAGE = 60, LAST_RANGE = 72, BODY = 106 };

static unsigned char *body_of(struct km__frame_head *head) {
    return (unsigned char *)(head + 1);
}

static void set_flag(struct km__frame_head *head) {
    head->flags = 2;
}

static void skip_generation(struct km__frame_head *head) {
    head->generation++;
}

/* With the frame behind it moved out of its way. */
static void lengthen(struct km__frame_head *head) {
    unsigned char *end = (unsigned char *)head + head->length;
    memmove(end + 8, end, (size_t)((struct km__frame_head *)(void *)end)->length);
    memset(end, 0, 8);
    head->length += 8;
}

static void store_more(struct km__frame_head *head) {
    head->stored_length++;
}

static void count_a_page_more(struct km__frame_head *head) {
    head->page_count++;
}

static void count_a_range_more(struct km__frame_head *head) {
    head->range_count++;
}

static void set_reserved(struct km__frame_head *head) {
    head->reserved = 1;
}

static void shrink_data(struct km__frame_head *head) {
    head->data_size--;
}

static void outgrow_capacity(struct km__frame_head *head) {
    head->data_size++;
}

static void be_durable_before(struct km__frame_head *head) {
    head->durable = head->generation;
}

static void pad(struct km__frame_head *head) {
    body_of(head)[BODY + 1] = 1;
}

static void leave_data(struct km__frame_head *head) {
    km__store48(body_of(head) + SECOND_PAGE, 5);
}

static void repeat_page(struct km__frame_head *head) {
    km__store48(body_of(head) + SECOND_PAGE, 0);
}

static void touch_range(struct km__frame_head *head) {
    km__store16(body_of(head) + SECOND_RANGE, 1020);
}

static void leave_page(struct km__frame_head *head) {
    km__store16(body_of(head) + LAST_RANGE, KM__PAGE - 29);
}

/* The last page is not whole: its range ends behind the data, but inside the page. */
static void leave_last_page(struct km__frame_head *head) {
    km__store48(body_of(head) + SECOND_PAGE, STORY_SIZE / KM__PAGE);
    km__store16(body_of(head) + LAST_RANGE, STORY_SIZE % KM__PAGE - 29);
}

static void call_whole(struct km__frame_head *head) {
    km__store16(body_of(head) + SECOND_PAGE + 6, KM__PAGE_WHOLE | 1);
}

/* Checksums and chain of the second frame hold again, whatever was changed. */
static void seal_frame(const struct image *image, struct km__frame_head *head, uint64_t body_length) {
    const struct km__header *header = story_header(image);
    const uint64_t before = km__frame_chain(km__frame_first_chain(header->uuid), story_frame(image, 1));
    head->body_checksum = km__crc32c(0, head + 1, (size_t)body_length);
    head->chain = km__frame_chain(before, head);
    head->checksum = km__frame_head_checksum(header->uuid, head);
}

static void damage_frame(struct image *image, void (*change)(struct km__frame_head *)) {
    struct km__frame_head *head = story_frame(image, 2);
    if (head->stored_length != BODY || km__load48(body_of(head) + SECOND_PAGE) != 1)
        story_die("the frame is not what its change expects");
    change(head);
    seal_frame(image, head, head->length - sizeof *head);
}

/* The chain alone does not hold: a frame of another history. */
static void change_chain(struct image *image) {
    struct km__frame_head *head = story_frame(image, 2);
    head->chain ^= 1;
    head->checksum = km__frame_head_checksum(story_header(image)->uuid, head);
}

/* ---- one rule of the header -------------------------------------------------------------------------------------- */

static void damage_header(struct image *image, const struct header_value *value) {
    for (int slot = 0; slot < 2; slot++)
        memcpy((unsigned char *)story_slot(image, slot) + value->offset, &value->value, value->width);
    story_seal_headers(image);
    image->length = KM__TABLE_OFFSET;
}

void damage_rule(const struct broken *broken, struct image *image) {
    if (broken->change != NULL)
        broken->change(image);
    else if (broken->frame != NULL)
        damage_frame(image, broken->frame);
    else
        damage_header(image, &broken->header);
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

#define HEADER(field, number)                                                                                          \
    .header = {offsetof(struct km__header, field), sizeof((struct km__header *)0)->field, (number)}
#define ABOVE (KM__SIZE_MAX + KM__ALIGN)
#define DATA_OFFSET (KM__TABLE_OFFSET + KM__ALIGN)

const struct damaged damageds[] = {
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
    {"KM_ECHANGED-live-page-0", tell_live_unsealed, leave},
    {"KM_ESESSION", tell_killed, change_system},
};

const size_t damaged_count = sizeof damageds / sizeof damageds[0];

const struct broken brokens[] = {
    {"KM_EHEADER-format_version-0", "v1-closed", HEADER(format_version, 0)},
    {"KM_EHEADER-header_size", "v1-closed", HEADER(header_size, 4095)},
    {"KM_EHEADER-page_size", "v1-closed", HEADER(page_size, 8192)},
    {"KM_EHEADER-schema-behind-its-end", "v1-closed", HEADER(schema[63], 'x')},
    {"KM_EHEADER-table_offset-unaligned", "v1-closed", HEADER(table_offset, KM__TABLE_OFFSET + KM__PAGE)},
    {"KM_EHEADER-table_offset-in-control", "v1-closed", HEADER(table_offset, 0)},
    {"KM_EHEADER-table_offset-above", "v1-closed", HEADER(table_offset, ABOVE)},
    {"KM_EHEADER-table_capacity-too-little", "v1-closed", HEADER(table_capacity, 16)},
    {"KM_EHEADER-table_capacity-above", "v1-closed", HEADER(table_capacity, ABOVE)},
    {"KM_EHEADER-data_offset-unaligned", "v1-closed", HEADER(data_offset, DATA_OFFSET + 8)},
    {"KM_EHEADER-data_offset-on-table", "v1-closed", HEADER(data_offset, KM__TABLE_OFFSET)},
    {"KM_EHEADER-data_offset-above", "v1-closed", HEADER(data_offset, ABOVE)},
    {"KM_EHEADER-data-end-above", "v1-closed", HEADER(data_offset, KM__SIZE_MAX)},
    {"KM_EHEADER-data_size-0", "v1-closed", HEADER(data_size, 0)},
    {"KM_EHEADER-data_size-above-capacity", "v1-closed", HEADER(data_size, STORY_SIZE + 1)},
    {"KM_EHEADER-data_capacity-above", "v1-closed", HEADER(data_capacity, ABOVE)},
    {"KM_EHEADER-journal_offset-unaligned", "v1-closed", HEADER(journal_offset, DATA_OFFSET + KM__ALIGN + KM__PAGE)},
    {"KM_EHEADER-journal_offset-on-data", "v1-closed", HEADER(journal_offset, DATA_OFFSET)},
    {"KM_EHEADER-journal_offset-above", "v1-closed", HEADER(journal_offset, ABOVE)},
    {"KM_EHEADER-journal_size-too-little", "v1-closed", HEADER(journal_size, KM__JOURNAL_MIN - KM__PAGE)},
    {"KM_EHEADER-journal_size-uneven", "v1-closed", HEADER(journal_size, KM__JOURNAL_MIN + 8)},
    {"KM_EHEADER-journal_size-above", "v1-closed", HEADER(journal_size, ABOVE)},
    {"KM_EHEADER-journal_configured-0", "v1-closed", HEADER(journal_configured, 0)},
    {"KM_EHEADER-journal_configured-above-journal_size", "v1-closed", HEADER(journal_configured, 2 * KM__JOURNAL_MIN)},
    {"KM_EHEADER-journal_configured-uneven", "v1-closed", HEADER(journal_configured, KM__JOURNAL_MIN + 8)},
    {"KM_EHEADER-target-above", "v1-closed", HEADER(target, KM__GENERATION_MAX + 1)},
    {"KM_EHEADER-target-below-generation", "v1-closed", HEADER(target, 3)},
    {"KM_EHEADER-journal_position-uneven", "v1-closed", HEADER(journal_position, 4)},
    {"KM_EHEADER-journal_position-outside", "v1-closed", HEADER(journal_position, STORY_JOURNAL + 8)},
    {"KM_EHEADER-history_generation", "v1-closed", HEADER(history_generation, 5)},
    {"KM_EHEADER-history_position-uneven", "v1-closed", HEADER(history_position, 4)},
    {"KM_EHEADER-history_position-outside", "v1-closed", HEADER(history_position, STORY_JOURNAL + 8)},
    {"KM_EHEADER-digest-without-checksums", "v1-none", HEADER(digest, 1)},
    {"KM_EHEADER-flags-unknown", "v1-closed", HEADER(flags, 2)},
    {"KM_EHEADER-flags-last", "v1-closed", HEADER(flags, UINT64_C(1) << 63)},
    {"KM_EHEADER-reserved-first", "v1-closed", HEADER(reserved[0], 1)},
    {"KM_EHEADER-reserved-last", "v1-closed", HEADER(reserved[sizeof((struct km__header *)0)->reserved - 1], 1)},
    {"KM_EHEADER-target-of-live", "v1-live", HEADER(target, 9)},
    {"KM_EHEADER-features-of-live-compressed", "v1-live", HEADER(feature_incompatible, 1)},
    {"KM_EHEADER-features-of-live-full-pages", "v1-live", HEADER(feature_readonly, 1)},
    {"KM_EHEADER-journal_size-of-live", "v1-live", HEADER(journal_size, KM__JOURNAL_MIN)},
    {"KM_EHEADER-journal_configured-of-live", "v1-live", HEADER(journal_configured, KM__JOURNAL_MIN)},
    {"KM_EHEADER-journal_position-of-live", "v1-live", HEADER(journal_position, 8)},
    {"KM_EHEADER-schema-without-end", "v1-closed", .change = change_schema_end},
    {"KM_EFEATURE-checksum", "v1-closed", HEADER(checksum_kind, 3)},
    {"KM_EJOURNAL-frame-flags", "v1-frames", .frame = set_flag},
    {"KM_EJOURNAL-frame-generation", "v1-frames", .frame = skip_generation},
    {"KM_EJOURNAL-frame-length", "v1-frames", .frame = lengthen},
    {"KM_EJOURNAL-frame-stored_length", "v1-frames", .frame = store_more},
    {"KM_EJOURNAL-frame-page_count", "v1-frames", .frame = count_a_page_more},
    {"KM_EJOURNAL-frame-range_count", "v1-frames", .frame = count_a_range_more},
    {"KM_EJOURNAL-frame-reserved", "v1-frames", .frame = set_reserved},
    {"KM_EJOURNAL-frame-data_size-less", "v1-frames", .frame = shrink_data},
    {"KM_EJOURNAL-frame-data_size-above", "v1-frames", .frame = outgrow_capacity},
    {"KM_EJOURNAL-frame-durable", "v1-frames", .frame = be_durable_before},
    {"KM_EJOURNAL-frame-padding", "v1-frames", .frame = pad},
    {"KM_EJOURNAL-frame-page-outside", "v1-frames", .frame = leave_data},
    {"KM_EJOURNAL-frame-page-order", "v1-frames", .frame = repeat_page},
    {"KM_EJOURNAL-frame-range-order", "v1-frames", .frame = touch_range},
    {"KM_EJOURNAL-frame-range-outside-page", "v1-frames", .frame = leave_page},
    {"KM_EJOURNAL-frame-range-outside-data", "v1-frames", .frame = leave_last_page},
    {"KM_EJOURNAL-frame-whole", "v1-frames", .frame = call_whole},
    {"KM_EJOURNAL-frame-chain", "v1-frames", .change = change_chain},
    {"KM_EJOURNAL-frame-compressed", "v1-compressed", .change = change_compression},
};

const size_t broken_count = sizeof brokens / sizeof brokens[0];
