/* SPDX-License-Identifier: MIT
 *
 * Reading frames out of a ring that anybody may have written and may be writing now. The head is copied, judged, then
 * the stored body is copied and judged; nothing is looked at twice in the ring. No length is believed before the head's
 * checksum holds, and even then it is bounded by the ring, the pages and what deflate can do.
 */
#include <stdlib.h>

#include "bytes.h"
#include "checksum.h"
#include "frame.h"
#include "frame_head.h"
#include "keepmap.h"

/* Room for `length` bytes; what was there is not kept. */
static int reserve(unsigned char **bytes, size_t *capacity, uint64_t length) {
    if (length <= *capacity)
        return 0;
    if (length > SIZE_MAX / 2)
        return KM_ENOMEM;
    free(*bytes);
    *capacity = 0;
    *bytes = malloc((size_t)length);
    if (*bytes == NULL)
        return KM_ENOMEM;
    *capacity = (size_t)length;
    return 0;
}

/* Whether the head is that of the frame after the cursor. */
static bool continues(const struct km__frame_head *head, const struct km__frame_limits *limits,
                      const struct km__cursor *cursor) {
    if (head->generation - 1 != cursor->generation || head->chain != km__frame_chain(cursor->chain, head))
        return false;
    if (head->data_size < cursor->data_size || head->data_size > limits->data_capacity)
        return false;
    return limits->compress || (head->flags & KM__FRAME_COMPRESSED) == 0;
}

/* Copy the head at `position` and judge it. */
static bool read_head(struct km__frame_head *head, uint64_t position, const unsigned char *ring, uint64_t ring_size,
                      const struct km__frame_limits *limits, const struct km__cursor *cursor) {
    if (position % 8 != 0 || position > ring_size || ring_size - position < sizeof *head)
        return false;
    km__copy_once(head, ring + position, sizeof *head);
    return km__frame_head_holds(head, limits->uuid, ring_size - position) && continues(head, limits, cursor);
}

static void move_behind(struct km__cursor *cursor, const struct km__frame_head *head, uint64_t position) {
    cursor->generation = head->generation;
    cursor->position = position + head->length;
    cursor->chain = head->chain;
    cursor->digest = head->digest;
    cursor->data_size = head->data_size;
}

/* One page's ranges: ascending, apart, inside the first `length` bytes of the page; a whole page has exactly these.
 * Returns the byte behind them, NULL if they do not hold. */
static const unsigned char *check_ranges(const unsigned char *next, const unsigned char *end, uint32_t count,
                                         bool whole, uint32_t length) {
    if (count == 0 || (whole && count != 1))
        return NULL;
    uint32_t free_from = 0;
    for (uint32_t i = 0; i < count; i++) {
        if ((size_t)(end - next) < KM__RANGE_ENTRY)
            return NULL;
        const uint32_t offset = km__load16(next), bytes = km__load16(next + 2) + 1u;
        next += KM__RANGE_ENTRY;
        if (offset < free_from || offset + bytes > length || (size_t)(end - next) < bytes)
            return NULL;
        if (whole && bytes != length)
            return NULL;
        next += bytes;
        free_from = offset + bytes + 1;
    }
    return next;
}

static bool body_holds(const unsigned char *body, const struct km__frame_head *head) {
    const unsigned char *next = body, *end = body + head->body_length;
    uint64_t pages = 0, ranges = 0, least_page = 0;
    while (next != end) {
        if ((size_t)(end - next) < KM__PAGE_ENTRY)
            return false;
        const uint64_t page = km__load48(next);
        const uint32_t count = km__load16(next + 6);
        if (page < least_page || page > (head->data_size - 1) / KM__PAGE)
            return false;
        next = check_ranges(next + KM__PAGE_ENTRY, end, count & ~KM__PAGE_WHOLE, (count & KM__PAGE_WHOLE) != 0,
                            km__page_length(head->data_size, page));
        if (next == NULL)
            return false;
        least_page = page + 1;
        pages++;
        ranges += count & ~KM__PAGE_WHOLE;
    }
    return pages == head->page_count && ranges == head->range_count;
}

/* Copy the stored body to `to`, which has room for its padding, and judge it. */
static bool read_stored(unsigned char *to, const unsigned char *from, const struct km__frame_head *head) {
    const size_t length = (size_t)(head->length - sizeof *head);
    if (length > 0)
        km__copy_once(to, from, length);
    if (km__crc32c(0, to, length) != head->body_checksum)
        return false;
    for (size_t i = (size_t)head->stored_length; i < length; i++)
        if (to[i] != 0)
            return false;
    return true;
}

/* 0, 1 if the body is not good, or an error. */
static int read_body(struct km__frame *frame, const struct km__frame_head *head, const unsigned char *from) {
    const uint64_t padded = head->length - sizeof *head;
    frame->head = (struct km__frame_head){0}; /* the body that it told about goes now */
    const bool compressed = (head->flags & KM__FRAME_COMPRESSED) != 0;
    int result = compressed ? reserve(&frame->stored, &frame->stored_capacity, padded)
                            : reserve(&frame->body, &frame->body_capacity, padded + 1);
    if (result != 0)
        return result;
    if (!read_stored(compressed ? frame->stored : frame->body, from, head))
        return 1;
    if (compressed) {
        if (!km__zlib_available())
            return KM_EUNSUPPORTED;
        result = reserve(&frame->body, &frame->body_capacity, head->body_length);
        if (result == 0)
            result =
                km__zlib_expand(frame->body, (size_t)head->body_length, frame->stored, (size_t)head->stored_length);
        if (result != 0)
            return result == KM_EJOURNAL ? 1 : result;
    }
    return body_holds(frame->body, head) ? 0 : 1;
}

static int read_at(struct km__frame *frame, uint64_t position, const unsigned char *ring, uint64_t ring_size,
                   const struct km__frame_limits *limits, struct km__cursor *cursor) {
    struct km__frame_head head;
    if (!read_head(&head, position, ring, ring_size, limits, cursor))
        return 1;
    const int result = read_body(frame, &head, ring + position + sizeof head);
    if (result != 0)
        return result;
    frame->head = head;
    frame->position = position;
    move_behind(cursor, &head, position);
    return 0;
}

int km__frame_read(struct km__frame *frame, const unsigned char *ring, uint64_t ring_size,
                   const struct km__frame_limits *limits, struct km__cursor *cursor) {
    const int result = read_at(frame, cursor->position, ring, ring_size, limits, cursor);
    if (result != 1 || cursor->position == 0)
        return result;
    return read_at(frame, 0, ring, ring_size, limits, cursor);
}

/* Whether the stored body has the head's checksum, summed where it stands. */
static bool body_sums(const struct km__frame_head *head, uint64_t position, const unsigned char *ring) {
    return km__crc32c(0, ring + position + sizeof *head, (size_t)(head->length - sizeof *head)) == head->body_checksum;
}

int km__frame_peek(struct km__frame_head *head, uint64_t *position, const unsigned char *ring, uint64_t ring_size,
                   const struct km__frame_limits *limits, struct km__cursor *cursor) {
    struct km__frame_head behind, start;
    const bool holds_behind = read_head(&behind, cursor->position, ring, ring_size, limits, cursor);
    const bool holds_start = cursor->position != 0 && read_head(&start, 0, ring, ring_size, limits, cursor);
    if (!holds_behind && !holds_start)
        return 1;
    const bool at_start = holds_start && (!holds_behind || !body_sums(&behind, cursor->position, ring));
    *head = at_start ? start : behind;
    *position = at_start ? 0 : cursor->position;
    move_behind(cursor, head, *position);
    return 0;
}

/* Bodies are summed where they stand, as nothing else is done with them. A hostile ring of heads that reach far over
 * each other would cost the square of its size; `budget` ends that. In a ring that only commits have written, bodies
 * that are looked at lie behind each other, but for the few that a newer lap has overwritten in part. */
uint64_t km__frame_search_durable(const unsigned char *ring, uint64_t ring_size, const uint8_t uuid[16],
                                  uint64_t generation) {
    uint64_t highest = 0, budget = ring_size <= UINT64_MAX / 8 ? ring_size * 8 : UINT64_MAX;
    uint64_t position = 0;
    while (position < ring_size && ring_size - position >= sizeof(struct km__frame_head)) {
        struct km__frame_head head;
        uint64_t step = 8;
        if (km__load32(ring + position) == KM__FRAME_MAGIC) {
            km__copy_once(&head, ring + position, sizeof head);
            if (km__frame_head_holds(&head, uuid, ring_size - position) && head.length <= budget) {
                budget -= head.length;
                if (body_sums(&head, position, ring)) {
                    step = head.length;
                    if (head.durable > generation && head.durable > highest)
                        highest = head.durable;
                }
            }
        }
        position += step;
    }
    return highest;
}

void km__frame_release(struct km__frame *frame) {
    free(frame->body);
    free(frame->stored);
    *frame = (struct km__frame){0};
}
