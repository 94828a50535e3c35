/* SPDX-License-Identifier: MIT
 *
 * A ring of bytes that anybody may have written: what km__frame_read() takes for good lies inside its limits to the
 * last byte; what km__frame_peek() says agrees with it; what is built from any pages reads back as those pages.
 */
#include <stdlib.h>
#include <string.h>

#include "bases.h"
#include "format/bytes.h"
#include "format/checksum.h"
#include "format/frame.h"
#include "keepmap.h"
#include "recipe.h"
#include "seals.h"
#include "claim.h"

/* Limits that are trusted come from the base map, as those of a handle come from the header that it checked. */
static struct km__frame_limits limits_of(const struct km__header *header) {
    struct km__frame_limits limits = {.data_capacity = header->data_capacity,
                                      .compress = (header->feature_incompatible & KM__FEATURE_COMPRESS) != 0};
    memcpy(limits.uuid, header->uuid, sizeof limits.uuid);
    return limits;
}

static void apply(const struct km__frame *frame, uint64_t capacity) {
    struct km__frame_walk walk;
    struct km__frame_page page;
    uint64_t pages = 0, ranges = 0, after = 0;
    km__frame_walk_start(&walk, frame);
    while (km__frame_walk_next(&walk, &page)) {
        unsigned char *target = need(KM__PAGE);
        hold(page.page >= after && page.page < km__pages_of(capacity), "page %llu after %llu",
             (unsigned long long)page.page, (unsigned long long)after);
        hold(page.ranges >= frame->body && page.ranges + page.ranges_length <= frame->body + frame->head.body_length,
             "ranges outside of the body");
        hold(km__frame_page_bytes(&page) <= KM__PAGE && km__frame_page_bytes(&page) >= page.range_count,
             "%u bytes in %u ranges", km__frame_page_bytes(&page), page.range_count);
        km__frame_apply(&page, target);
        after = page.page + 1;
        pages++;
        ranges += page.range_count;
        free(target);
    }
    hold(pages == frame->head.page_count && ranges == frame->head.range_count, "%llu pages, %llu ranges",
         (unsigned long long)pages, (unsigned long long)ranges);
}

static void walk(const unsigned char *ring, uint64_t size, const struct km__frame_limits *limits,
                 struct km__cursor cursor) {
    struct km__frame frame = {0};
    for (;;) {
        struct km__cursor seen = cursor;
        const struct km__cursor before = cursor;
        struct km__frame_head head;
        uint64_t position = UINT64_MAX;
        const int peeked = km__frame_peek(&head, &position, ring, size, limits, &seen);
        const int result = km__frame_read(&frame, ring, size, limits, &cursor);
        hold(result == 0 || result == 1 || result == KM_ENOMEM || result == KM_EUNSUPPORTED, "%d", result);
        if (result != 0) {
            hold(memcmp(&before, &cursor, sizeof cursor) == 0, "a cursor that moved without a frame");
            break;
        }
        hold(peeked == 0, "a frame that is good has a head that is not");
        hold(cursor.generation == before.generation + 1 && cursor.position <= size && cursor.position % 8 == 0 &&
                 cursor.data_size >= before.data_size && cursor.data_size <= limits->data_capacity,
             "the cursor stands at %llu", (unsigned long long)cursor.position);
        if (position == frame.position)
            hold(memcmp(&seen, &cursor, sizeof cursor) == 0, "the head and the frame lead to different places");
        apply(&frame, limits->data_capacity);
    }
    km__frame_release(&frame);
}

/* What differs between two versions of the data becomes a frame; over the one it gives the other. */
static void build(const unsigned char *before, const unsigned char *after, uint64_t data_size, uint8_t options) {
    struct km__frame_builder builder = {0};
    const bool whole = (options & 1) != 0;
    struct km__frame_fields fields = {.generation = 1,
                                      .data_size = data_size,
                                      .compress = (options & 2) != 0 && km__zlib_available(),
                                      .whole_blocks = whole};
    struct km__frame_limits limits = {.data_capacity = data_size, .compress = fields.compress};
    unsigned char image[KM__PAGE];
    km__frame_start(&builder);
    uint64_t added = 0;
    for (uint64_t page = 0; page < km__pages_of(data_size); page++) {
        const unsigned char *from = before + page * KM__PAGE, *to = after + page * KM__PAGE;
        const uint32_t length = km__page_length(data_size, page);
        const int result = km__frame_add_page(&builder, page, from, to, length, whole, image);
        hold(result == (memcmp(from, to, length) != 0), "page %llu gives %d", (unsigned long long)page, result);
        if (result == 1) {
            hold(memcmp(image, to, length) == 0, "the image is not what was added");
            km__frame_set_stored(&builder, km__checksum_page(KM_CHECKSUM_CRC32C, image));
            added++;
        }
    }
    const unsigned char *bytes;
    uint64_t length, chain;
    const int finished = km__frame_finish(&builder, &fields, &bytes, &length, &chain);
    hold(finished == 0, "%s", km_error_name(finished));
    struct km__frame frame = {0};
    struct km__cursor cursor = {.data_size = data_size};
    unsigned char *ring = need((size_t)length), *data = need((size_t)km__pages_of(data_size) * KM__PAGE);
    memcpy(ring, bytes, (size_t)length);
    memcpy(data, before, (size_t)data_size);
    hold(km__frame_read(&frame, ring, length, &limits, &cursor) == 0 && frame.head.page_count == added,
         "a frame that was built cannot be read");
    hold(cursor.chain == chain && cursor.position == length, "the cursor is not behind the frame");
    struct km__frame_walk steps;
    struct km__frame_page page;
    km__frame_walk_start(&steps, &frame);
    while (km__frame_walk_next(&steps, &page))
        km__frame_apply(&page, data + page.page * KM__PAGE);
    hold(memcmp(data, after, (size_t)data_size) == 0, "a frame that was applied gives something else");
    free(ring);
    free(data);
    km__frame_release(&frame);
    km__frame_builder_release(&builder);
}

static void try_ring(const struct base *base, const struct canvas *canvas, const struct km__header *header) {
    if (header->journal_offset + header->journal_size > canvas->length || header->journal_size == 0)
        return;
    const struct km__frame_limits limits = limits_of(header);
    unsigned char *ring = need((size_t)header->journal_size);
    memcpy(ring, canvas->bytes + header->journal_offset, (size_t)header->journal_size);
    const struct km__cursor from_checkpoint = {.generation = header->generation,
                                               .position = header->journal_position,
                                               .chain = header->journal_chain,
                                               .data_size = header->data_size};
    const struct km__cursor from_history = {.generation = header->history_generation,
                                            .position = header->history_position,
                                            .chain = header->history_chain,
                                            .data_size = 1};
    walk(ring, header->journal_size, &limits, from_checkpoint);
    walk(ring, header->journal_size, &limits, from_history);
    const uint64_t durable = km__frame_search_durable(ring, header->journal_size, limits.uuid, header->generation);
    hold(durable == 0 || durable > header->generation, "durable %llu of %s", (unsigned long long)durable, base->name);
    free(ring);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
    static struct recipe recipe;
    recipe_read(&recipe, bytes, length);
    const struct base *base = bases_get(recipe.head[0]);
    const struct km__header *header = seals_header(base->bytes, base->length);
    if (header == NULL)
        return 0;
    struct canvas canvas = canvas_cook(&recipe);
    try_ring(base, &canvas, header);
    const uint64_t pages = km__pages_of(header->data_size) * KM__PAGE;
    if (header->data_offset + pages <= canvas.length)
        build(base->bytes + header->data_offset, canvas.bytes + header->data_offset, header->data_size, recipe.head[1]);
    canvas_release(&canvas);
    return 0;
}
