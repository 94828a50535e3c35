/* SPDX-License-Identifier: MIT
 *
 * The search of a ring for evidence that commits were durable which cannot be read any more.
 */
#include <unistd.h>

#include "frames.h"

#define HEAD sizeof(struct km__frame_head)

static uint64_t search(const struct frames *map, uint64_t generation) {
    return km__frame_search_durable(map->ring, map->ring_size, map->limits.uuid, generation);
}

static void evidence_of_durable_frames_is_found(void **state) {
    (void)state;
    struct frames map;
    frames_open(&map, 40 * KM__PAGE, 40 * KM__PAGE, 65536);
    assert_int_equal(search(&map, 0), 0);
    uint64_t fifth = 0;
    for (uint64_t i = 1; i <= 10; i++) {
        map.durable = i - 1;
        memset(map.view + i * KM__PAGE, (int)i, 1000 + i);
        frames_commit(&map);
        if (i == 5)
            fifth = map.position;
    }
    assert_int_equal(search(&map, 0), 9);
    assert_int_equal(search(&map, 8), 9);
    assert_int_equal(search(&map, 9), 0);
    map.ring[map.position + HEAD + 500] ^= 4; /* the tenth frame's body */
    assert_int_equal(search(&map, 0), 8);
    map.ring[fifth + 20] ^= 1; /* a hole before does not hide those behind it */
    assert_int_equal(search(&map, 4), 8);
    assert_int_equal(search(&map, 8), 0);
    map.limits.uuid[0] ^= 1;
    assert_int_equal(search(&map, 0), 0);
    frames_close(&map);
}

static void a_frame_inside_the_data_of_a_frame_is_no_evidence(void **state) {
    (void)state;
    struct frames map;
    frames_open(&map, 4 * KM__PAGE, 4 * KM__PAGE, 65536);
    for (uint64_t i = 1; i <= 3; i++) {
        map.durable = i - 1;
        map.view[i] = 7;
        frames_commit(&map);
    }
    /* A program keeps a copy of the journal in a map: the frame of that commit carries frames that hold. */
    memcpy(map.view + KM__PAGE + 8, map.ring + map.position, (size_t)map.length);
    const uint64_t behind = map.cursor.position;
    map.durable = 1;
    map.whole = true;
    frames_commit(&map);
    assert_memory_equal(map.ring + map.position + HEAD + 16 + 8, map.ring + behind - 136, 136);
    memset(map.ring, 0, (size_t)behind);
    assert_int_equal(search(&map, 0), 1);
    frames_close(&map);
}

static void a_search_ends_in_a_ring_full_of_overlapping_heads(void **state) {
    (void)state;
    struct frames map;
    const uint64_t ring_size = UINT64_C(32) << 20;
    frames_open(&map, 1, 1, ring_size);
    /* Each head is sound and claims all the ring behind it: 300,000 bodies of 16 MiB on average, which nobody can
     * sum within the time. Their body checksums are wrong. */
    for (uint64_t position = 0; ring_size - position > HEAD + 8192; position += HEAD) {
        const uint64_t body = ring_size - position - HEAD;
        const uint32_t pages = (uint32_t)((body + KM__PAGE + 15) / (KM__PAGE + 16));
        struct km__frame_head head = {
            .magic = KM__FRAME_MAGIC,
            .generation = 9,
            .durable = 8,
            .length = HEAD + body,
            .body_length = body,
            .stored_length = body,
            .page_count = pages,
            .range_count = pages,
            .data_size = UINT64_C(1) << 40,
            .body_checksum = 1,
        };
        head.checksum = km__frame_head_checksum(map.limits.uuid, &head);
        assert_true(km__frame_head_holds(&head, map.limits.uuid, ring_size - position));
        memcpy(map.ring + position, &head, HEAD);
    }
    alarm(30);
    assert_int_equal(search(&map, 0), 0);
    alarm(0);
    frames_close(&map);
}

static void garbage_is_no_evidence(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    struct frames map;
    frames_open(&map, 1, 1, 65536 + 8);
    chance_fill(&chance, map.ring, (size_t)map.ring_size);
    const uint32_t magic = KM__FRAME_MAGIC;
    for (uint64_t position = 0; position + 4 <= map.ring_size; position += 64)
        memcpy(map.ring + position, &magic, 4);
    assert_int_equal(search(&map, 0), 0);
    for (map.ring_size = 0; map.ring_size < 300; map.ring_size += 8)
        assert_int_equal(search(&map, 0), 0);
    frames_close(&map);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evidence_of_durable_frames_is_found),
        cmocka_unit_test(a_frame_inside_the_data_of_a_frame_is_no_evidence),
        cmocka_unit_test(a_search_ends_in_a_ring_full_of_overlapping_heads),
        cmocka_unit_test(garbage_is_no_evidence),
    };
    return cmocka_run_group_tests_name("search of frames", tests, NULL, NULL);
}
