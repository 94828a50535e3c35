/* SPDX-License-Identifier: MIT
 *
 * A small map in memory: see frames.h.
 */
#include "frames.h"

static void *allocate(uint64_t size) {
    void *bytes = calloc(1, size == 0 ? 1 : (size_t)size);
    assert_non_null(bytes);
    return bytes;
}

void frames_open(struct frames *map, uint64_t data_size, uint64_t data_capacity, uint64_t ring_size) {
    *map = (struct frames){.limits = {.data_capacity = data_capacity}, .ring_size = ring_size};
    for (unsigned i = 0; i < 16; i++)
        map->limits.uuid[i] = (uint8_t)(0xa0 + i);
    map->data = allocate(km__pages_of(data_capacity) * KM__PAGE);
    map->view = allocate(km__pages_of(data_capacity) * KM__PAGE);
    map->ring = allocate(ring_size);
    map->cursor = (struct km__cursor){.chain = km__frame_first_chain(map->limits.uuid), .data_size = data_size};
}

void frames_close(struct frames *map) {
    km__frame_builder_release(&map->builder);
    free(map->data);
    free(map->view);
    free(map->ring);
}

static void add_pages(struct frames *map, uint64_t *digest) {
    const uint64_t size = map->cursor.data_size;
    for (uint64_t page = 0; page < km__pages_of(size); page++) {
        unsigned char image[KM__PAGE];
        unsigned char *data = map->data + page * KM__PAGE;
        const uint32_t length = km__page_length(size, page);
        const int added =
            km__frame_add_page(&map->builder, page, data, map->view + page * KM__PAGE, length, map->whole, image);
        assert_true(added == 0 || added == 1);
        if (added == 0)
            continue;
        assert_memory_equal(image, map->view + page * KM__PAGE, length);
        const uint32_t stored = km__checksum_page(KM_CHECKSUM_CRC32C, image);
        *digest -= km__digest_mix(page, km__checksum_page(KM_CHECKSUM_CRC32C, data));
        *digest += km__digest_mix(page, stored);
        km__frame_set_stored(&map->builder, stored);
        memcpy(data, image, KM__PAGE);
    }
}

void frames_commit(struct frames *map) {
    struct km__frame_fields fields = {
        .generation = map->cursor.generation + 1,
        .time_ns = 1700000000000000000u + map->cursor.generation,
        .nonce = 0x1234,
        .data_size = map->cursor.data_size,
        .digest = map->cursor.digest,
        .durable = map->durable,
        .previous_chain = map->cursor.chain,
        .process_id = 77,
        .compress = map->limits.compress,
        .whole_blocks = map->whole,
    };
    memcpy(fields.uuid, map->limits.uuid, sizeof fields.uuid);
    km__frame_start(&map->builder);
    add_pages(map, &fields.digest);

    const unsigned char *bytes;
    uint64_t chain;
    assert_int_equal(km__frame_finish(&map->builder, &fields, &bytes, &map->length, &chain), 0);
    assert_true(map->length % (map->whole ? KM__PAGE : 8) == 0 && map->length <= map->ring_size);
    map->before = map->cursor;
    map->position = map->ring_size - map->cursor.position < map->length ? 0 : map->cursor.position;
    memcpy(map->ring + map->position, bytes, (size_t)map->length);
    map->cursor.generation++;
    map->cursor.position = map->position + map->length;
    map->cursor.chain = chain;
    map->cursor.digest = fields.digest;
}

void frames_scribble(struct frames *map, struct chance *chance) {
    const uint64_t size = map->cursor.data_size;
    const uint64_t stores = chance_percent(chance, 10) ? 0 : 1 + chance_below(chance, 30);
    for (uint64_t i = 0; i < stores; i++) {
        const uint64_t offset = chance_below(chance, size);
        uint64_t length = 1 + chance_below(chance, chance_percent(chance, 10) ? 9000 : 40);
        if (length > size - offset)
            length = size - offset;
        if (chance_percent(chance, 50))
            chance_fill(chance, map->view + offset, (size_t)length);
        else
            memset(map->view + offset, (int)chance_below(chance, 3), (size_t)length);
    }
}

uint64_t frames_digest(const unsigned char *data, uint64_t data_capacity) {
    uint64_t digest = 0;
    for (uint64_t page = 0; page < km__pages_of(data_capacity); page++)
        digest += km__digest_mix(page, km__checksum_page(KM_CHECKSUM_CRC32C, data + page * KM__PAGE));
    return digest;
}

void frames_reseal(struct frames *map, uint64_t position, uint64_t previous_chain) {
    struct km__frame_head head;
    assert_true(map->ring_size - position >= sizeof head);
    memcpy(&head, map->ring + position, sizeof head);
    const uint64_t room = map->ring_size - position - sizeof head;
    uint64_t length = head.length - sizeof head;
    if (length > room)
        length = room;
    head.body_checksum = km__crc32c(0, map->ring + position + sizeof head, (size_t)length);
    head.chain = km__frame_chain(previous_chain, &head);
    head.checksum = km__frame_head_checksum(map->limits.uuid, &head);
    memcpy(map->ring + position, &head, sizeof head);
}

uint32_t frames_apply(const struct km__frame *frame, unsigned char *data, uint64_t data_capacity) {
    struct km__frame_walk walk;
    struct km__frame_page page;
    uint32_t pages = 0, ranges = 0;
    km__frame_walk_start(&walk, frame);
    while (km__frame_walk_next(&walk, &page)) {
        assert_true(page.page < km__pages_of(data_capacity));
        assert_true(page.ranges >= frame->body);
        assert_true(page.ranges + page.ranges_length <= frame->body + frame->head.body_length);
        assert_true(km__frame_page_bytes(&page) >= page.range_count);
        assert_true(km__frame_page_bytes(&page) <= KM__PAGE);
        km__frame_apply(&page, data + page.page * KM__PAGE);
        pages++;
        ranges += page.range_count;
    }
    assert_int_equal(pages, frame->head.page_count);
    assert_int_equal(ranges, frame->head.range_count);
    return pages;
}
