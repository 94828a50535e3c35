/* SPDX-License-Identifier: MIT
 *
 * Sealing again what a recipe changed: see seals.h. Frames are found by their mark at each multiple of 8, as nothing
 * else can be believed here.
 */
#include "seals.h"

#include <string.h>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/frame.h"
#include "format/frame_head.h"
#include "format/header.h"
#include "keepmap.h"

#define FRAMES_MAX 32u /* more are not linked, so that sealing stays cheap */

const struct km__header *seals_header(const unsigned char *file, uint64_t length) {
    const struct km__header *slots = (const void *)file;
    int chosen = 0;
    if (length < KM__TABLE_OFFSET || km__header_choose(slots, &chosen, NULL, NULL, 0) != 0)
        return NULL;
    return km__header_file_end(&slots[chosen]) <= length ? &slots[chosen] : NULL;
}

void seals_slot(unsigned char *slot) {
    km__header_seal((struct km__header *)(void *)slot);
}

bool seals_ring(unsigned char *file, uint64_t length, struct seals_ring *ring) {
    const struct km__header *header = seals_header(file, length);
    if (header == NULL || header->journal_size < sizeof(struct km__frame_head))
        return false;
    *ring =
        (struct seals_ring){.bytes = file + header->journal_offset, .length = header->journal_size, .header = header};
    return true;
}

/* The first frame at or behind a position; the ring's length if there is none. */
static uint64_t next_frame(const struct seals_ring *ring, uint64_t position) {
    while (position + sizeof(struct km__frame_head) <= ring->length) {
        if (km__load32(ring->bytes + position) == KM__FRAME_MAGIC)
            return position;
        position += 8;
    }
    return ring->length;
}

bool seals_find(const struct seals_ring *ring, unsigned which, uint64_t *position) {
    unsigned count = 0;
    for (uint64_t at = next_frame(ring, 0); at < ring->length; at = next_frame(ring, at + 8))
        count++;
    if (count == 0)
        return false;
    *position = next_frame(ring, 0);
    for (unsigned left = which % count; left > 0; left--)
        *position = next_frame(ring, *position + 8);
    return true;
}

/* The chain that a frame of this generation continues: that of the frame before, or of the checkpoint. */
static uint64_t previous_chain(const struct seals_ring *ring, uint64_t generation, bool *known) {
    *known = true;
    if (generation == ring->header->generation + 1)
        return ring->header->journal_chain;
    for (uint64_t at = next_frame(ring, 0); at < ring->length; at = next_frame(ring, at + 8)) {
        struct km__frame_head head;
        memcpy(&head, ring->bytes + at, sizeof head);
        if (head.generation + 1 == generation)
            return head.chain;
    }
    *known = false;
    return ring->header->history_chain;
}

static uint64_t seal_at(const struct seals_ring *ring, uint64_t position) {
    struct km__frame_head head;
    bool known;
    memcpy(&head, ring->bytes + position, sizeof head);
    const uint64_t room = ring->length - position - sizeof head;
    uint64_t body = head.length < sizeof head ? 0 : head.length - sizeof head;
    body = body < room ? body : room;
    head.body_checksum = km__crc32c(0, ring->bytes + position + sizeof head, (size_t)body);
    head.chain = km__frame_chain(previous_chain(ring, head.generation, &known), &head);
    head.checksum = km__frame_head_checksum(ring->header->uuid, &head);
    memcpy(ring->bytes + position, &head, sizeof head);
    return head.generation;
}

void seals_frame(unsigned char *file, uint64_t length, uint64_t position, bool link) {
    struct seals_ring ring;
    if (!seals_ring(file, length, &ring) || position + sizeof(struct km__frame_head) > ring.length)
        return;
    uint64_t generation = seal_at(&ring, position);
    for (unsigned tries = 0; link && tries < FRAMES_MAX; tries++) {
        uint64_t at = next_frame(&ring, 0);
        while (at < ring.length &&
               km__load64(ring.bytes + at + offsetof(struct km__frame_head, generation)) != generation + 1)
            at = next_frame(&ring, at + 8);
        if (at >= ring.length)
            return;
        generation = seal_at(&ring, at);
    }
}

void seals_pages(unsigned char *file, uint64_t length, bool table) {
    const struct km__header *header = seals_header(file, length);
    if (header == NULL)
        return;
    uint64_t digest = 0;
    for (uint64_t page = 0; page < km__pages_of(header->data_size); page++) {
        unsigned char *entry = file + header->table_offset + page * sizeof(uint32_t);
        if (table)
            km__store32(entry, km__checksum_page(header->checksum_kind, file + header->data_offset + page * KM__PAGE));
        if (header->checksum_kind != KM_CHECKSUM_NONE)
            digest += km__digest_mix(page, km__load32(entry));
    }
    struct km__header *slots = (struct km__header *)(void *)file;
    for (int slot = 0; slot < 2; slot++) {
        if (km__header_check(&slots[slot], NULL, 0) != 0)
            continue;
        slots[slot].digest = digest;
        km__header_seal(&slots[slot]);
    }
}

void seals_everything(unsigned char *file, uint64_t length) {
    struct seals_ring ring;
    for (unsigned slot = 0; slot < 2 && length >= KM__TABLE_OFFSET; slot++)
        seals_slot(file + slot * KM__SLOT_B);
    seals_pages(file, length, true);
    if (seals_ring(file, length, &ring))
        for (uint64_t at = next_frame(&ring, 0); at < ring.length; at = next_frame(&ring, at + 8))
            seal_at(&ring, at);
}
