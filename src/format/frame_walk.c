/* SPDX-License-Identifier: MIT
 *
 * Walking the pages and ranges of a good frame: what km__frame_read() checked is not checked again.
 */
#include "bytes.h"
#include "frame.h"

void km__frame_walk_start(struct km__frame_walk *walk, const struct km__frame *frame) {
    walk->next = frame->body;
    walk->end = frame->head.body_length > 0 ? frame->body + frame->head.body_length : frame->body;
}

bool km__frame_walk_next(struct km__frame_walk *walk, struct km__frame_page *page) {
    if (walk->next == walk->end)
        return false;

    const uint32_t count = km__load16(walk->next + 6);
    page->page = km__load48(walk->next);
    page->stored = km__load32(walk->next + 8);
    page->range_count = (uint16_t)(count & ~KM__PAGE_WHOLE);
    page->whole = (count & KM__PAGE_WHOLE) != 0;
    page->ranges = walk->next + KM__PAGE_ENTRY;

    const unsigned char *range = page->ranges;
    for (uint32_t i = 0; i < page->range_count; i++)
        range += KM__RANGE_ENTRY + 1u + km__load16(range + 2);
    page->ranges_length = (size_t)(range - page->ranges);
    walk->next = range;
    return true;
}

void km__frame_apply(const struct km__frame_page *page, unsigned char *target) {
    const unsigned char *range = page->ranges;
    for (uint32_t i = 0; i < page->range_count; i++) {
        const size_t length = km__load16(range + 2) + 1u;
        memcpy(target + km__load16(range), range + KM__RANGE_ENTRY, length);
        range += KM__RANGE_ENTRY + length;
    }
    /* A whole page has all its bytes inside the data; what lies behind them is zero, whatever the disk made of it. */
    if (page->whole) {
        const size_t length = page->ranges_length - KM__RANGE_ENTRY;
        memset(target + length, 0, KM__PAGE - length);
    }
}

uint32_t km__frame_page_bytes(const struct km__frame_page *page) {
    return (uint32_t)page->ranges_length - page->range_count * KM__RANGE_ENTRY;
}
