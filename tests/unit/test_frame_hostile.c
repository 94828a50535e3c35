/* SPDX-License-Identifier: MIT
 *
 * Frames as damage and enemies write them: none is taken for good that is not the one commit that comes next, and no
 * byte outside the ring or the body is looked at (run under the address sanitizer).
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "frames.h"

#define HEAD sizeof(struct km__frame_head)

/* One frame of three pages at position 0 of a ring that it fills; the second page has two ranges, the third is whole
 * and the last of the map. Returns the cursor before it. */
static struct km__cursor open_with_one_frame(struct frames *map, bool compress) {
    const uint64_t size = 9 * KM__PAGE + 600;
    frames_open(map, size, 12 * KM__PAGE, 8192);
    map->limits.compress = compress;
    const struct km__cursor cursor = map->cursor;
    memset(map->view + 2 * KM__PAGE + 10, 1, 30);
    memset(map->view + 5 * KM__PAGE + 20, 2, 7);
    memset(map->view + 5 * KM__PAGE + 50, 3, 8);
    memset(map->view + 9 * KM__PAGE, 4, 600);
    frames_commit(map);
    map->ring = realloc(map->ring, (size_t)map->length);
    map->ring_size = map->length;
    assert_non_null(map->ring);
    return cursor;
}

/* Reads; a good frame is applied, which checks that it lies inside. */
static int read_frame(struct frames *map, struct km__cursor cursor) {
    const struct km__cursor before = cursor;
    struct km__frame frame = {0};
    const int result = km__frame_read(&frame, map->ring, map->ring_size, &map->limits, &cursor);
    if (result == 0) {
        assert_true(cursor.generation == before.generation + 1);
        frames_apply(&frame, map->data, map->limits.data_capacity);
    } else {
        assert_int_equal(result, 1);
        assert_memory_equal(&cursor, &before, sizeof cursor);
        struct km__frame_walk walk;
        struct km__frame_page page;
        km__frame_walk_start(&walk, &frame);
        assert_false(km__frame_walk_next(&walk, &page));
    }
    km__frame_release(&frame);
    return result;
}

static void every_flipped_bit_of_a_frame_is_found(void **state) {
    (void)state;
    for (int compress = 0; compress <= (km__zlib_available() ? 1 : 0); compress++) {
        struct frames map;
        const struct km__cursor cursor = open_with_one_frame(&map, compress);
        assert_int_equal(read_frame(&map, cursor), 0);
        for (uint64_t bit = 0; bit < map.ring_size * 8; bit++) {
            map.ring[bit / 8] ^= (unsigned char)(1u << bit % 8);
            assert_int_equal(read_frame(&map, cursor), 1);
            map.ring[bit / 8] ^= (unsigned char)(1u << bit % 8);
        }
        frames_close(&map);
    }
}

static void a_torn_frame_is_found_wherever_it_was_cut(void **state) {
    (void)state;
    struct frames map;
    const struct km__cursor cursor = open_with_one_frame(&map, false);
    for (uint64_t cut = 0; cut < map.ring_size; cut++) {
        unsigned char *whole = malloc((size_t)map.ring_size);
        assert_non_null(whole);
        memcpy(whole, map.ring, (size_t)map.ring_size);
        memset(map.ring + cut, 0xdb, (size_t)(map.ring_size - cut));
        assert_int_equal(read_frame(&map, cursor), 1);
        free(map.ring);
        map.ring = whole;
    }
    frames_close(&map);
}

static void only_the_frame_that_comes_next_is_good(void **state) {
    (void)state;
    struct frames map;
    const struct km__cursor cursor = open_with_one_frame(&map, false);
    struct km__cursor other = cursor;
    other.generation++;
    assert_int_equal(read_frame(&map, other), 1);
    other = cursor;
    other.chain++;
    assert_int_equal(read_frame(&map, other), 1);
    other = cursor;
    other.data_size = 9 * KM__PAGE + 601;
    assert_int_equal(read_frame(&map, other), 1);
    map.limits.uuid[15] ^= 1;
    assert_int_equal(read_frame(&map, cursor), 1);
    map.limits.uuid[15] ^= 1;
    map.limits.data_capacity = 9 * KM__PAGE + 599;
    assert_int_equal(read_frame(&map, cursor), 1);
    map.limits.data_capacity = 9 * KM__PAGE + 600;
    assert_int_equal(read_frame(&map, cursor), 0);
    frames_close(&map);
}

static void stale_frames_and_those_behind_a_hole_are_not_good(void **state) {
    (void)state;
    struct frames map;
    frames_open(&map, 4 * KM__PAGE, 4 * KM__PAGE, 8 * 136);
    struct km__cursor cursors[41];
    for (int i = 0; i < 40; i++) {
        cursors[i] = map.cursor;
        map.view[i * 8] = (unsigned char)(i + 1);
        frames_commit(&map);
        assert_int_equal(map.length, 136);
    }
    cursors[40] = map.cursor;
    /* 40 frames of 136 bytes in a ring of 8: the last 8 are there, each readable from the cursor before it alone. */
    for (int i = 0; i <= 40; i++)
        assert_int_equal(read_frame(&map, cursors[i]), i >= 32 && i < 40 ? 0 : 1);
    /* A hole: what lies behind it is not reached from before it. */
    map.ring[map.position - 4 * 136 + 20] ^= 1;
    assert_int_equal(read_frame(&map, cursors[34]), 0);
    assert_int_equal(read_frame(&map, cursors[35]), 1);
    assert_int_equal(read_frame(&map, cursors[36]), 0);
    frames_close(&map);
}

/* Two maps that differ in their first commit alone: the second frame of one does not continue the other. */
static void a_frame_of_another_history_is_not_good(void **state) {
    (void)state;
    struct frames one, other;
    frames_open(&one, KM__PAGE, KM__PAGE, 4096);
    frames_open(&other, KM__PAGE, KM__PAGE, 4096);
    one.view[5] = 1;
    other.view[5] = 2;
    frames_commit(&one);
    frames_commit(&other);
    const struct km__cursor cursor = one.cursor;
    one.view[6] = other.view[6] = 9;
    frames_commit(&one);
    frames_commit(&other);
    assert_int_equal(read_frame(&one, cursor), 0);
    assert_true(one.position == other.position && one.length == other.length);
    memcpy(one.ring + one.position, other.ring + other.position, (size_t)one.length);
    assert_int_equal(read_frame(&one, cursor), 1);
    frames_close(&one);
    frames_close(&other);
}

#define FIELD(name) #name, offsetof(struct km__frame_head, name), sizeof(((struct km__frame_head *)0)->name)

static void a_head_field_out_of_range_is_not_good_though_sealed(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t offset, size;
        uint64_t value;
    } changes[] = {
        {FIELD(magic), 0},
        {FIELD(flags), KM__FRAME_COMPRESSED},
        {FIELD(flags), 2},
        {FIELD(flags), 0x80000000u},
        {FIELD(generation), 0},
        {FIELD(generation), 2},
        {FIELD(generation), UINT64_MAX},
        {FIELD(length), 0},
        {FIELD(length), 8},
        {FIELD(length), HEAD},
        {FIELD(length), HEAD - 8},
        {FIELD(length), HEAD + 696},
        {FIELD(length), UINT64_MAX},
        {FIELD(length), UINT64_MAX - 7},
        {FIELD(body_length), 0},
        {FIELD(body_length), 696},
        {FIELD(body_length), UINT64_MAX},
        {FIELD(stored_length), 0},
        {FIELD(stored_length), 8193},
        {FIELD(stored_length), UINT64_MAX},
        {FIELD(stored_length), UINT64_MAX - 6},
        {FIELD(page_count), 0},
        {FIELD(page_count), 2},
        {FIELD(page_count), 4},
        {FIELD(page_count), 11},
        {FIELD(page_count), UINT32_MAX},
        {FIELD(range_count), 0},
        {FIELD(range_count), 3},
        {FIELD(range_count), 5},
        {FIELD(range_count), UINT32_MAX},
        {FIELD(reserved), 1},
        {FIELD(data_size), 0},
        {FIELD(data_size), 9 * KM__PAGE + 599},
        {FIELD(data_size), 9 * KM__PAGE + 601},
        {FIELD(data_size), 12 * KM__PAGE + 1},
        {FIELD(data_size), KM__SIZE_MAX + 1},
        {FIELD(data_size), UINT64_MAX},
        {FIELD(durable), 1},
        {FIELD(durable), UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct frames map;
        const struct km__cursor cursor = open_with_one_frame(&map, false);
        map.limits.compress = true;
        memcpy(map.ring + changes[i].offset, &changes[i].value, changes[i].size);
        frames_reseal(&map, 0, cursor.chain);
        if (read_frame(&map, cursor) != 1)
            fail_msg("%s = %#llx was taken", changes[i].name, (unsigned long long)changes[i].value);
        frames_close(&map);
    }
    /* Resealed without a change it is good: what was rejected above was rejected for its field. */
    struct frames map;
    const struct km__cursor cursor = open_with_one_frame(&map, false);
    frames_reseal(&map, 0, cursor.chain);
    assert_int_equal(read_frame(&map, cursor), 0);
    frames_close(&map);
}

static void a_compressed_frame_in_a_map_without_is_not_good(void **state) {
    (void)state;
    if (!km__zlib_available())
        skip();
    struct frames map;
    const struct km__cursor cursor = open_with_one_frame(&map, true);
    assert_int_equal(read_frame(&map, cursor), 0);
    map.limits.compress = false;
    assert_int_equal(read_frame(&map, cursor), 1);
    frames_close(&map);
}

/* A body, and whether it is good in a frame of a map of 2 pages and 100 bytes. */
struct body {
    const char *what;
    uint32_t pages, ranges;
    size_t length;
    const char *bytes;
    int expected;
};

#define PAGE(number, count) number "\0\0\0\0\0" count "cccc"
#define BODY(pages, ranges, bytes, expected) #bytes, pages, ranges, sizeof(bytes) - 1, bytes, expected

static const struct body bodies[] = {
    {BODY(0, 0, "", 0)},
    {BODY(1, 1, PAGE("\0", "\1\0") "\0\0\0\0x", 0)},
    {BODY(2, 2, PAGE("\0", "\1\0") "\0\0\0\0x" PAGE("\1", "\1\0") "\0\0\0\0x", 0)},
    {BODY(2, 2, PAGE("\1", "\1\0") "\0\0\0\0x" PAGE("\1", "\1\0") "\0\0\0\0x", 1)}, /* twice the same page */
    {BODY(2, 2, PAGE("\1", "\1\0") "\0\0\0\0x" PAGE("\0", "\1\0") "\0\0\0\0x", 1)}, /* descending */
    {BODY(1, 1, PAGE("\2", "\1\0") "\x63\0\0\0x", 0)},                              /* last byte of the data */
    {BODY(1, 1, PAGE("\2", "\1\0") "\x64\0\0\0x", 1)},                              /* behind the data */
    {BODY(1, 1, PAGE("\2", "\1\0") "\x63\0\1\0xx", 1)},                             /* reaches behind the data */
    {BODY(1, 1, PAGE("\3", "\1\0") "\0\0\0\0x", 1)},                                /* no such page */
    {BODY(1, 1, "\0\0\0\0\0\1\1\0cccc\0\0\0\0x", 1)},                               /* page 2^40 */
    {BODY(1, 1, "\xff\xff\xff\xff\xff\xff\1\0cccc\0\0\0\0x", 1)},
    {BODY(1, 1, PAGE("\0", "\1\0") "\xff\x0f\0\0x", 0)},       /* last byte of the page */
    {BODY(1, 1, PAGE("\0", "\1\0") "\xff\x0f\1\0xx", 1)},      /* reaches behind the page */
    {BODY(1, 1, PAGE("\0", "\1\0") "\0\x10\0\0x", 1)},         /* begins behind the page */
    {BODY(1, 1, PAGE("\0", "\1\0") "\xff\xff\xff\xffx", 1)},   /* sum of 2^17 */
    {BODY(1, 2, PAGE("\0", "\2\0") "\0\0\0\0x\2\0\0\0x", 0)},  /* one byte between */
    {BODY(1, 2, PAGE("\0", "\2\0") "\0\0\0\0x\1\0\0\0x", 1)},  /* they touch */
    {BODY(1, 2, PAGE("\0", "\2\0") "\0\0\1\0xx\1\0\0\0x", 1)}, /* they overlap */
    {BODY(1, 2, PAGE("\0", "\2\0") "\5\0\0\0x\1\0\0\0x", 1)},  /* they descend */
    {BODY(2, 2, PAGE("\0", "\0\0") PAGE("\1", "\2\0") "\0\0\0\0x\2\0\0\0x", 1)},
    {BODY(1, 1, PAGE("\0", "\0\0") "\0\0\0\0x", 1)},  /* no range */
    {BODY(1, 1, PAGE("\0", "\2\0") "\0\0\0\0x", 1)},  /* one too few */
    {BODY(1, 1, PAGE("\0", "\1\0") "\0\0\1\0x", 1)},  /* a byte too few */
    {BODY(1, 1, PAGE("\0", "\1\0") "\0\0\0\0xx", 1)}, /* a byte too many */
    {BODY(1, 1,
          PAGE("\0", "\1\0") "\0\0\0\0x"
                             "\0\0\0\0\0\0\1\0cccc",
          1)},                                                  /* an entry behind */
    {BODY(1, 1, PAGE("\0", "\1\x80") "\0\0\0\0x", 1)},          /* whole, but short */
    {BODY(1, 1, PAGE("\0", "\0\x80") "\0\0\0\0x", 1)},          /* whole without range */
    {BODY(1, 2, PAGE("\2", "\2\x80") "\0\0\0\0x\2\0\0\0x", 1)}, /* whole in two */
    {BODY(1, 1,
          PAGE("\2", "\1\x80") "\0\0\x63\0"
                               "012345678901234567890123456789012345678901234567890123456789012345678901234567890123456"
                               "7890123456789",
          0)},
    {BODY(1, 1,
          PAGE("\1", "\1\x80") "\0\0\x63\0"
                               "012345678901234567890123456789012345678901234567890123456789012345678901234567890123456"
                               "7890123456789",
          1)},
};

static void put_frame(struct frames *map, const struct body *body) {
    const size_t padded = (body->length + 7) / 8 * 8;
    const struct km__frame_head head = {
        .magic = KM__FRAME_MAGIC,
        .generation = 1,
        .length = HEAD + padded,
        .body_length = body->length,
        .stored_length = body->length,
        .page_count = body->pages,
        .range_count = body->ranges,
        .data_size = 2 * KM__PAGE + 100,
    };
    free(map->ring);
    map->ring = calloc(1, HEAD + padded);
    assert_non_null(map->ring);
    map->ring_size = HEAD + padded;
    memcpy(map->ring, &head, HEAD);
    memcpy(map->ring + HEAD, body->bytes, body->length);
    frames_reseal(map, 0, map->cursor.chain);
}

static void bodies_that_do_not_hold_are_not_good_though_sealed(void **state) {
    (void)state;
    struct frames map;
    frames_open(&map, 2 * KM__PAGE + 100, 2 * KM__PAGE + 100, 0);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        put_frame(&map, &bodies[i]);
        if (read_frame(&map, map.cursor) != bodies[i].expected)
            fail_msg("body %zu: %s", i, bodies[i].what);
    }
    put_frame(&map, &bodies[1]);
    map.ring[map.ring_size - 1] = 1; /* padding */
    frames_reseal(&map, 0, map.cursor.chain);
    assert_int_equal(read_frame(&map, map.cursor), 1);
    frames_close(&map);
}

/* Whatever is written into a frame and sealed, a frame that is taken lies inside the map (read_frame() applies it). */
static void random_changes_that_are_sealed_never_reach_outside(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    static const uint64_t interesting[] = {0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, UINT32_MAX, UINT64_MAX};
    unsigned taken = 0;
    for (int round = 0; round < 30000; round++) {
        struct frames map;
        const struct km__cursor cursor = open_with_one_frame(&map, km__zlib_available() && round % 2 != 0);
        for (uint64_t i = 1 + chance_below(&chance, 3); i > 0; i--) {
            const size_t size = (size_t)1 << chance_below(&chance, 4);
            const uint64_t limit = chance_percent(&chance, 50) ? HEAD : map.ring_size;
            const uint64_t offset = chance_below(&chance, limit - size + 1) / size * size;
            uint64_t value = chance_percent(&chance, 50) ? interesting[chance_below(&chance, 10)] : 0;
            memcpy(&value, map.ring + offset, value == 0 ? size : 0);
            value += chance_below(&chance, 33) - 16;
            memcpy(map.ring + offset, &value, size);
        }
        frames_reseal(&map, 0, cursor.chain);
        taken += read_frame(&map, cursor) == 0;
        frames_close(&map);
    }
    assert_true(taken > 100);
}

static void positions_outside_the_ring_are_not_looked_at(void **state) {
    (void)state;
    struct frames map;
    struct km__cursor cursor = open_with_one_frame(&map, false);
    const uint64_t positions[] = {4,         8, map.ring_size - 8, map.ring_size, map.ring_size + 8, UINT64_MAX - 7,
                                  UINT64_MAX};
    for (size_t i = 0; i < sizeof positions / sizeof *positions; i++) {
        cursor.position = positions[i];
        map.ring[0] ^= 1;
        assert_int_equal(read_frame(&map, cursor), 1);
        map.ring[0] ^= 1;
        assert_int_equal(read_frame(&map, cursor), 0); /* at 0 */
    }
    cursor.position = 0;
    for (uint64_t size = 0; size < map.ring_size; size++) {
        struct frames shorter = map;
        shorter.ring = malloc((size_t)size + 1);
        assert_non_null(shorter.ring);
        memcpy(shorter.ring, map.ring, (size_t)size);
        shorter.ring_size = size;
        assert_int_equal(read_frame(&shorter, cursor), 1);
        free(shorter.ring);
    }
    frames_close(&map);
}

static void a_frame_that_is_not_aligned_is_not_good(void **state) {
    (void)state;
    struct frames map;
    struct km__cursor cursor = open_with_one_frame(&map, false);
    struct frames moved = map;
    moved.ring_size += 8;
    moved.ring = calloc(1, (size_t)moved.ring_size);
    assert_non_null(moved.ring);
    for (cursor.position = 1; cursor.position <= 8; cursor.position++) {
        memset(moved.ring, 0, (size_t)moved.ring_size);
        memcpy(moved.ring + cursor.position, map.ring, (size_t)map.ring_size);
        assert_int_equal(read_frame(&moved, cursor), cursor.position == 8 ? 0 : 1);
    }
    free(moved.ring);
    frames_close(&map);
}

static void a_read_that_fails_leaves_the_frame_empty(void **state) {
    (void)state;
    struct frames map;
    const struct km__cursor cursor = open_with_one_frame(&map, false);
    struct km__cursor copy = cursor;
    struct km__frame frame = {0};
    assert_int_equal(km__frame_read(&frame, map.ring, map.ring_size, &map.limits, &copy), 0);
    assert_int_equal(frames_apply(&frame, map.data, map.limits.data_capacity), 3);
    map.ring[HEAD + 14] = 0xff; /* the length of the first range */
    copy = cursor;
    assert_int_equal(km__frame_read(&frame, map.ring, map.ring_size, &map.limits, &copy), 1);
    assert_int_equal(frames_apply(&frame, map.data, map.limits.data_capacity), 0);
    km__frame_release(&frame);
    frames_close(&map);
}

static void the_last_generation_has_no_successor(void **state) {
    (void)state;
    struct frames map;
    struct km__cursor cursor = open_with_one_frame(&map, false);
    struct km__frame_head head;
    memcpy(&head, map.ring, sizeof head);
    for (uint64_t generation = KM__GENERATION_MAX; generation <= KM__GENERATION_MAX + 1; generation++) {
        head.generation = generation;
        memcpy(map.ring, &head, sizeof head);
        frames_reseal(&map, 0, cursor.chain);
        cursor.generation = generation - 1;
        assert_int_equal(read_frame(&map, cursor), generation == KM__GENERATION_MAX ? 0 : 1);
    }
    frames_close(&map);
}

/* What is believed before the body is copied, expanded or allocated. */
static void the_bounds_of_a_head_hold_whatever_follows(void **state) {
    (void)state;
    static const struct {
        uint32_t pages, ranges;
        uint64_t body_length, stored_length;
        bool compressed, holds;
    } heads[] = {
        {0, 0, 0, 0, false, true},
        {1, 1, 17, 17, false, true},
        {1, 1, 16, 16, false, false}, /* a range has a byte */
        {1, 1, 12 + 4 + 4096, 12 + 4 + 4096, false, true},
        {1, 1, 12 + 4 + 4097, 12 + 4 + 4097, false, false},
        {1, 2048, 12 + 2048 * 5, 12 + 2048 * 5, false, true},
        {1, 2049, 12 + 2049 * 5, 12 + 2049 * 5, false, false}, /* they would touch */
        {2, 1, 29, 29, false, false},                          /* a page has a range */
        {10, 10, 170, 170, false, true},
        {11, 11, 187, 187, false, false}, /* more than data_size has */
        {1, 1, 1000, 999, true, true},
        {1, 1, 1000, 1000, true, false}, /* no gain */
        {1, 1, 1000, 1001, true, false},
        {10, 10, 10 * 16 + 40 * 1024, 39, true, false}, /* beyond what deflate can do */
        {10, 10, 10 * 16 + 40 * 1024, 40, true, true},
        {1, 1, 1000, 1000000, true, false}, /* behind the ring */
        {1, 1, 1000, 999, false, false},
    };
    const uint8_t uuid[16] = {1};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        struct km__frame_head head = {
            .magic = KM__FRAME_MAGIC,
            .flags = heads[i].compressed ? KM__FRAME_COMPRESSED : 0,
            .generation = 1,
            .length = HEAD + (heads[i].stored_length + 7) / 8 * 8,
            .body_length = heads[i].body_length,
            .stored_length = heads[i].stored_length,
            .page_count = heads[i].pages,
            .range_count = heads[i].ranges,
            .data_size = 10 * KM__PAGE,
        };
        head.checksum = km__frame_head_checksum(uuid, &head);
        if (km__frame_head_holds(&head, uuid, 65536) != heads[i].holds)
            fail_msg("head %zu", i);
    }
}

static void a_frame_is_padded_to_words_or_to_pages(void **state) {
    (void)state;
    const uint8_t uuid[16] = {1};
    for (uint64_t length = 4; length <= 3 * KM__PAGE; length += 4) {
        struct km__frame_head head = {
            .magic = KM__FRAME_MAGIC,
            .generation = 1,
            .length = length,
            .body_length = 17,
            .stored_length = 17,
            .page_count = 1,
            .range_count = 1,
            .data_size = 1,
        };
        head.checksum = km__frame_head_checksum(uuid, &head);
        assert_int_equal(km__frame_head_holds(&head, uuid, 65536), length == HEAD + 24 || length == KM__PAGE);
        assert_false(km__frame_head_holds(&head, uuid, length - 1));
    }
}

static void a_peek_judges_the_head_and_not_the_body(void **state) {
    (void)state;
    struct frames map;
    const struct km__cursor first = open_with_one_frame(&map, false);
    struct km__cursor cursor = first;
    struct km__frame_head head;
    uint64_t position = 9;
    map.ring[HEAD + 30] ^= 1;
    assert_int_equal(km__frame_peek(&head, &position, map.ring, map.ring_size, &map.limits, &cursor), 0);
    assert_true(position == 0 && head.generation == 1 && cursor.position == map.ring_size);
    assert_memory_equal(&cursor, &map.cursor, sizeof cursor);
    for (uint64_t i = 0; i < HEAD; i++) {
        map.ring[i] ^= 1;
        cursor = first;
        assert_int_equal(km__frame_peek(&head, &position, map.ring, map.ring_size, &map.limits, &cursor), 1);
        assert_memory_equal(&cursor, &first, sizeof cursor);
        map.ring[i] ^= 1;
    }
    frames_close(&map);
}

/* Two versions of a frame that differ in the head and in one byte of a long body. */
struct changer {
    unsigned char *ring;
    unsigned char heads[2][HEAD], bytes[2];
    size_t offset;
    atomic_bool started, stop;
};

static void *change_on_and_on(void *context) {
    struct changer *changer = context;
    volatile unsigned char *byte = changer->ring + changer->offset;
    for (unsigned i = 0; !atomic_load(&changer->stop); i++) {
        *byte = changer->bytes[i / 16 % 2];
        memcpy(changer->ring, changer->heads[i / 16 % 2], HEAD);
        atomic_store(&changer->started, true);
    }
    return NULL;
}

static void a_frame_that_changes_while_it_is_read_is_one_or_the_other(void **state) {
    (void)state;
    struct frames map;
    frames_open(&map, 20 * KM__PAGE, 20 * KM__PAGE, 21 * KM__PAGE);
    const struct km__cursor cursor = map.cursor;
    memset(map.view, 5, 20 * KM__PAGE);
    frames_commit(&map);
    struct changer changer = {.ring = map.ring, .offset = (size_t)map.length - 2000};
    for (int i = 0; i < 2; i++) {
        map.ring[changer.offset] = changer.bytes[i] = (unsigned char)(5 + i);
        frames_reseal(&map, 0, cursor.chain);
        memcpy(changer.heads[i], map.ring, HEAD);
    }

    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, change_on_and_on, &changer), 0);
    while (!atomic_load(&changer.started))
        sched_yield();
    struct km__frame frame = {0};
    unsigned good = 0;
    for (int round = 0; round < 30000; round++) {
        struct km__cursor copy = cursor;
        const int result = km__frame_read(&frame, map.ring, map.ring_size, &map.limits, &copy);
        if (result == 1)
            continue;
        assert_int_equal(result, 0);
        good++;
        const int version = frame.body[changer.offset - HEAD] == changer.bytes[0] ? 0 : 1;
        assert_memory_equal(&frame.head, changer.heads[version], HEAD);
        assert_int_equal(km__crc32c(0, frame.body, (size_t)(map.length - HEAD)), frame.head.body_checksum);
    }
    atomic_store(&changer.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(good > 0);
    km__frame_release(&frame);
    frames_close(&map);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_flipped_bit_of_a_frame_is_found),
        cmocka_unit_test(a_torn_frame_is_found_wherever_it_was_cut),
        cmocka_unit_test(only_the_frame_that_comes_next_is_good),
        cmocka_unit_test(stale_frames_and_those_behind_a_hole_are_not_good),
        cmocka_unit_test(a_frame_of_another_history_is_not_good),
        cmocka_unit_test(a_head_field_out_of_range_is_not_good_though_sealed),
        cmocka_unit_test(a_compressed_frame_in_a_map_without_is_not_good),
        cmocka_unit_test(bodies_that_do_not_hold_are_not_good_though_sealed),
        cmocka_unit_test(random_changes_that_are_sealed_never_reach_outside),
        cmocka_unit_test(positions_outside_the_ring_are_not_looked_at),
        cmocka_unit_test(a_frame_that_is_not_aligned_is_not_good),
        cmocka_unit_test(a_read_that_fails_leaves_the_frame_empty),
        cmocka_unit_test(the_last_generation_has_no_successor),
        cmocka_unit_test(the_bounds_of_a_head_hold_whatever_follows),
        cmocka_unit_test(a_frame_is_padded_to_words_or_to_pages),
        cmocka_unit_test(a_peek_judges_the_head_and_not_the_body),
        cmocka_unit_test(a_frame_that_changes_while_it_is_read_is_one_or_the_other),
    };
    return cmocka_run_group_tests_name("hostile frames", tests, NULL, NULL);
}
