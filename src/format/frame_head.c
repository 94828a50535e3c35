/* SPDX-License-Identifier: MIT
 *
 * The chain, the checksum and the bounds of a frame's head.
 */
#include "frame_head.h"

#include "bytes.h"
#include "checksum.h"
#include "frame.h"

/* Deflate cannot expand a byte to more: "Maximum Compression Factor" at https://zlib.net/zlib_tech.html. */
#define EXPANSION_MAX 1032u

uint64_t km__frame_first_chain(const uint8_t uuid[16]) {
    return km__mix64(km__load64(uuid), km__load64(uuid + 8));
}

/* Over all of the head but the chain itself and the checksum: what a frame says, and through body_checksum what it
 * carries, is what its successors continue. */
uint64_t km__frame_chain(uint64_t previous_chain, const struct km__frame_head *head) {
    const unsigned char *bytes = (const unsigned char *)head;
    uint64_t chain = previous_chain;
    for (size_t offset = 0; offset < offsetof(struct km__frame_head, chain); offset += sizeof(uint64_t))
        chain = km__mix64(chain, km__load64(bytes + offset));
    return km__mix64(chain, head->body_checksum);
}

uint32_t km__frame_head_checksum(const uint8_t uuid[16], const struct km__frame_head *head) {
    return km__crc32c(km__crc32c(0, uuid, 16), head, offsetof(struct km__frame_head, checksum));
}

/* Every page has an entry and at least one range of one byte; no range touches the next, so that a page of n ranges has
 * n-1 bytes at most that none of them carries. Counts are 32 bits wide: no product overflows. */
static bool body_length_holds(const struct km__frame_head *head) {
    const uint64_t pages = head->page_count, ranges = head->range_count;
    if (ranges < pages || ranges > pages * (KM__PAGE / 2))
        return false;
    const uint64_t entries = pages * KM__PAGE_ENTRY + ranges * KM__RANGE_ENTRY;
    return head->body_length >= entries + ranges && head->body_length <= entries + pages * KM__PAGE;
}

bool km__frame_head_holds(const struct km__frame_head *head, const uint8_t uuid[16], uint64_t room) {
    if (head->magic != KM__FRAME_MAGIC || room < sizeof *head)
        return false;
    if (head->checksum != km__frame_head_checksum(uuid, head))
        return false;
    if ((head->flags & ~(uint32_t)KM__FRAME_COMPRESSED) != 0 || head->reserved != 0)
        return false;
    if (head->generation == 0 || head->generation > KM__GENERATION_MAX || head->durable >= head->generation)
        return false;
    if (head->data_size == 0 || head->data_size > KM__SIZE_MAX || head->page_count > km__pages_of(head->data_size))
        return false;
    if (head->length > room || head->stored_length > room - sizeof *head)
        return false;
    const uint64_t taken = sizeof *head + head->stored_length;
    if (head->length != km__round_up(taken, 8) && head->length != km__round_up(taken, KM__PAGE))
        return false;
    if (!body_length_holds(head))
        return false;
    if ((head->flags & KM__FRAME_COMPRESSED) == 0)
        return head->stored_length == head->body_length;
    return head->stored_length < head->body_length &&
           km__round_up(head->body_length, EXPANSION_MAX) / EXPANSION_MAX <= head->stored_length;
}
