/* SPDX-License-Identifier: MIT
 *
 * Frames as commits write them: what is built is what is read, in no more bytes than promised.
 */
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "frames.h"

#define PAGES 40

static void follow(struct frames *map, struct km__frame *frame, struct km__cursor *cursor, unsigned char *copy) {
    struct km__cursor peeked = *cursor;
    struct km__frame_head head;
    uint64_t position;
    assert_int_equal(km__frame_peek(&head, &position, map->ring, map->ring_size, &map->limits, &peeked), 0);
    assert_int_equal(km__frame_read(frame, map->ring, map->ring_size, &map->limits, cursor), 0);
    assert_memory_equal(cursor, &map->cursor, sizeof *cursor);
    assert_memory_equal(&peeked, cursor, sizeof *cursor);
    assert_memory_equal(&head, &frame->head, sizeof head);
    assert_true(position == frame->position && position == map->position);

    frames_apply(frame, copy, map->limits.data_capacity);
    assert_memory_equal(copy, map->view, (size_t)map->limits.data_capacity);
    struct km__frame_walk walk;
    struct km__frame_page page;
    km__frame_walk_start(&walk, frame);
    while (km__frame_walk_next(&walk, &page))
        assert_int_equal(page.stored, km__checksum_page(KM_CHECKSUM_CRC32C, copy + page.page * KM__PAGE));
    assert_true(frame->head.digest == frames_digest(copy, map->limits.data_capacity));
    assert_int_equal(km__frame_read(frame, map->ring, map->ring_size, &map->limits, cursor), 1);
}

static void round_trips(bool compress, bool whole) {
    struct chance chance = {chance_seed() + compress + 2u * whole};
    struct frames map;
    frames_open(&map, 3 * KM__PAGE + 17, PAGES * KM__PAGE, 5 * PAGES * KM__PAGE);
    map.limits.compress = compress;
    map.whole = whole;
    struct km__cursor cursor = map.cursor;
    struct km__frame frame = {0};
    unsigned char *copy = calloc(PAGES, KM__PAGE);
    assert_non_null(copy);
    unsigned wraps = 0, compressed = 0;
    for (int round = 0; round < 400; round++) {
        if (chance_percent(&chance, 10))
            map.cursor.data_size += chance_below(&chance, map.limits.data_capacity - map.cursor.data_size + 1);
        frames_scribble(&map, &chance);
        frames_commit(&map);
        wraps += map.position == 0;
        follow(&map, &frame, &cursor, copy);
        compressed += (frame.head.flags & KM__FRAME_COMPRESSED) != 0;
    }
    assert_true(wraps > 1);
    assert_true(compress ? compressed > 10 && compressed < 400 : compressed == 0);
    km__frame_release(&frame);
    free(copy);
    frames_close(&map);
}

static void what_is_built_is_read(void **state) {
    (void)state;
    round_trips(false, false);
}

static void what_is_built_compressed_is_read(void **state) {
    (void)state;
    if (!km__zlib_available())
        skip();
    round_trips(true, false);
}

static void what_is_built_of_whole_pages_is_read(void **state) {
    (void)state;
    round_trips(false, true);
}

/* The bytes of the block in docs/format.md that starts with `0000`. */
static size_t read_example(unsigned char *bytes, size_t room, char *tail, size_t tail_size) {
    FILE *document = fopen("docs/format.md", "r"); /* tests run at the top of the tree */
    assert_non_null(document);
    char line[256];
    size_t count = 0;
    bool inside = false;
    tail[0] = '\0';
    while (fgets(line, sizeof line, document) != NULL) {
        unsigned offset;
        int used = 0;
        if (sscanf(line, "%4x  %n", &offset, &used) == 1 && used == 6 && offset == count && offset % 16 == 0) {
            const char *next = line + used;
            for (unsigned value; count < room && sscanf(next, "%2x%n", &value, &used) == 1 && used == 2;) {
                bytes[count++] = (unsigned char)value;
                next += 2;
                if (*next++ != ' ' || *next == ' ')
                    break;
            }
            inside = true;
        } else if (inside && strncmp(line, "```", 3) == 0) {
            break;
        } else if (inside) {
            strncat(tail, line, tail_size - strlen(tail) - 1);
        }
    }
    fclose(document);
    return count;
}

static void the_example_of_the_format_document_is_a_true_frame(void **state) {
    (void)state;
    unsigned char written[512], before[KM__PAGE] = {0}, after[KM__PAGE] = {0}, image[KM__PAGE];
    char tail[512], line[128];
    const size_t length_written = read_example(written, sizeof written, tail, sizeof tail);
    struct km__frame_builder builder = {0};
    struct km__frame_fields fields = {.generation = 1,
                                      .time_ns = 1700000000000000000u,
                                      .nonce = 0x1122334455667788,
                                      .data_size = 5000,
                                      .process_id = 1234};
    for (unsigned i = 0; i < 16; i++)
        fields.uuid[i] = (uint8_t)i;
    fields.previous_chain = km__frame_first_chain(fields.uuid);
    memcpy(after + 8, "keep", 4);
    memcpy(after + 100, "map", 3);
    km__frame_start(&builder);
    assert_int_equal(km__frame_add_page(&builder, 1, before, after, 5000 - KM__PAGE, false, image), 1);
    const uint32_t stored = km__checksum_page(KM_CHECKSUM_CRC32C, image);
    km__frame_set_stored(&builder, stored);
    fields.digest = km__digest_mix(1, stored);
    const unsigned char *bytes;
    uint64_t length, chain;
    assert_int_equal(km__frame_finish(&builder, &fields, &bytes, &length, &chain), 0);
    assert_int_equal(length, length_written);
    assert_memory_equal(bytes, written, length_written);
    snprintf(line, sizeof line, "= %016" PRIx64 "\n", fields.previous_chain);
    assert_non_null(strstr(tail, line));
    snprintf(line, sizeof line, "= %016" PRIx64 "\n", fields.digest);
    assert_non_null(strstr(tail, line));
    km__frame_builder_release(&builder);
}

static void compression_without_zlib_is_refused(void **state) {
    (void)state;
    if (km__zlib_available())
        skip();
    struct km__frame_builder builder = {0};
    const struct km__frame_fields fields = {.generation = 1, .data_size = 1, .compress = true};
    const unsigned char *bytes;
    uint64_t length, chain;
    km__frame_start(&builder);
    assert_int_equal(km__frame_finish(&builder, &fields, &bytes, &length, &chain), KM_EUNSUPPORTED);
    km__frame_builder_release(&builder);
}

static void growth_alone_is_a_frame_without_pages(void **state) {
    (void)state;
    struct frames map;
    frames_open(&map, 100, 9 * KM__PAGE, 4096);
    struct km__cursor cursor = map.cursor;
    map.cursor.data_size = 8 * KM__PAGE;
    frames_commit(&map);
    assert_int_equal(map.length, sizeof(struct km__frame_head));
    struct km__frame frame = {0};
    assert_int_equal(km__frame_read(&frame, map.ring, map.ring_size, &map.limits, &cursor), 0);
    assert_int_equal(cursor.data_size, 8 * KM__PAGE);
    assert_int_equal(frames_apply(&frame, map.data, map.limits.data_capacity), 0);
    km__frame_release(&frame);
    frames_close(&map);
}

/* The size that is promised for the journal. */
static void k_changes_of_8_bytes_on_k_pages_take_at_most_128_and_24_k_bytes(void **state) {
    (void)state;
    for (uint64_t k = 1; k <= 1024; k *= 2) {
        struct frames map;
        frames_open(&map, k * KM__PAGE, k * KM__PAGE, 200 + 24 * k);
        for (uint64_t page = 0; page < k; page++)
            memset(map.view + page * KM__PAGE + page * 8 % 4088, 0xff, 8);
        frames_commit(&map);
        assert_true(map.length <= 128 + 24 * k);
        frames_close(&map);
    }
}

/* Builds a page and returns its entry and ranges as they stand in the frame. */
static const unsigned char *build(struct km__frame_builder *builder, const unsigned char *before,
                                  const unsigned char *after, uint32_t length, bool whole, size_t *size) {
    unsigned char image[KM__PAGE];
    km__frame_start(builder);
    assert_int_equal(km__frame_add_page(builder, 5, before, after, length, whole, image), 1);
    *size = builder->length - sizeof(struct km__frame_head);
    return builder->bytes + sizeof(struct km__frame_head);
}

static void ranges_closer_than_a_range_entry_are_merged(void **state) {
    (void)state;
    struct km__frame_builder builder = {0};
    static const unsigned char before[KM__PAGE];
    for (unsigned first = 0; first < 80; first++)
        for (unsigned gap = 0; gap < 12; gap++) {
            unsigned char after[KM__PAGE] = {0};
            after[first] = after[first + 1 + gap] = 9;
            size_t size;
            const unsigned char *entry = build(&builder, before, after, KM__PAGE, false, &size);
            const bool merged = gap < KM__RANGE_ENTRY;
            assert_int_equal(entry[6], merged ? 1 : 2);
            assert_int_equal(entry[7], 0);
            assert_int_equal(size, merged ? 12 + 4 + 2 + gap : 12 + 2 * 5);
            assert_int_equal(entry[12] | entry[13] << 8, first);
            assert_int_equal(entry[14], merged ? 1 + gap : 0);
        }
    km__frame_builder_release(&builder);
}

static void a_page_whose_ranges_would_take_as_much_is_recorded_whole(void **state) {
    (void)state;
    struct km__frame_builder builder = {0};
    static const unsigned char before[KM__PAGE];
    unsigned char after[KM__PAGE];
    const uint32_t lengths[] = {KM__PAGE, 996, 1};
    for (size_t i = 0; i < 3; i++) {
        const uint32_t length = lengths[i];
        for (size_t j = 0; j < KM__PAGE; j++)
            after[j] = j % 5 == 0;
        size_t size;
        const unsigned char *entry = build(&builder, before, after, length, false, &size);
        assert_int_equal(entry[6], 1);
        assert_int_equal(entry[7], KM__PAGE_WHOLE >> 8);
        assert_int_equal(size, 12 + 4 + length);
        assert_int_equal(entry[12] | entry[13] << 8, 0);
        assert_int_equal(entry[14] | entry[15] << 8, length - 1);
        assert_memory_equal(entry + 16, after, length);
    }
    memset(after, 0, sizeof after);
    after[KM__PAGE - 1] = 1;
    size_t size;
    const unsigned char *entry = build(&builder, before, after, KM__PAGE, true, &size);
    assert_int_equal(size, 12 + 4 + KM__PAGE);
    assert_int_equal(entry[7], KM__PAGE_WHOLE >> 8);
    km__frame_builder_release(&builder);
}

/* What lies behind the data in the last page is zero, whatever a disk that garbles has made of it. */
static void a_whole_page_clears_what_lies_behind_the_data(void **state) {
    (void)state;
    unsigned char ranges[KM__RANGE_ENTRY + 100] = {0, 0, 99, 0}, target[KM__PAGE];
    memset(ranges + KM__RANGE_ENTRY, 7, 100);
    struct km__frame_page page = {.range_count = 1, .whole = true, .ranges = ranges, .ranges_length = sizeof ranges};
    for (int whole = 0; whole < 2; whole++) {
        page.whole = whole != 0;
        memset(target, 0xff, sizeof target);
        km__frame_apply(&page, target);
        for (size_t i = 0; i < sizeof target; i++)
            assert_int_equal(target[i], i < 100 ? 7 : whole ? 0 : 0xff);
    }
}

static void equal_pages_add_nothing(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    struct km__frame_builder builder = {0};
    unsigned char before[KM__PAGE], after[KM__PAGE], image[KM__PAGE];
    chance_fill(&chance, before, sizeof before);
    memcpy(after, before, sizeof after);
    memset(after + 100, 0, sizeof after - 100);
    const struct km__span spans[] = {{0, 50}, {60, 40}};
    km__frame_start(&builder);
    assert_int_equal(km__frame_add_page(&builder, 0, before, after, 100, false, image), 0);
    assert_int_equal(km__frame_add_page(&builder, 0, before, after, 100, true, image), 0);
    assert_int_equal(km__frame_add_spans(&builder, 0, before, after, spans, 2, true, KM__PAGE, image), 0);
    assert_int_equal(builder.page_count, 0);
    assert_int_equal(builder.length, sizeof(struct km__frame_head));
    km__frame_builder_release(&builder);
}

/* Differences of every density. */
static void make_pages(struct chance *chance, unsigned char *before, unsigned char *after) {
    chance_fill(chance, before, KM__PAGE);
    memcpy(after, before, KM__PAGE);
    const unsigned percent = (unsigned)chance_below(chance, 101);
    if (percent % 2 == 0)
        for (uint64_t i = 1 + chance_below(chance, 9); i > 0; i--)
            after[chance_below(chance, KM__PAGE)] ^= (unsigned char)(1 + chance_below(chance, 255));
    else
        for (size_t i = 0; i < KM__PAGE; i++)
            if (chance_percent(chance, percent))
                after[i] = (unsigned char)chance_next(chance);
}

static void check_page(struct km__frame_builder *builder, uint32_t length, const unsigned char *before,
                       const unsigned char *expected, const unsigned char *image) {
    km__frame_set_stored(builder, 0xabcdef01);
    const struct km__frame_fields fields = {.generation = 1, .data_size = 7 * KM__PAGE + length};
    const struct km__frame_limits limits = {.data_capacity = fields.data_size};
    struct km__frame frame = {0};
    const unsigned char *bytes;
    uint64_t size, chain;
    assert_int_equal(km__frame_finish(builder, &fields, &bytes, &size, &chain), 0);
    struct km__cursor cursor = {0};
    assert_int_equal(km__frame_read(&frame, bytes, size, &limits, &cursor), 0);

    struct km__frame_walk walk;
    struct km__frame_page page;
    km__frame_walk_start(&walk, &frame);
    assert_true(km__frame_walk_next(&walk, &page));
    assert_true(page.page == 7 && page.stored == 0xabcdef01);
    assert_true(page.ranges_length <= length + KM__RANGE_ENTRY);
    unsigned char target[KM__PAGE];
    memcpy(target, before, KM__PAGE);
    km__frame_apply(&page, target);
    assert_memory_equal(target, expected, KM__PAGE);
    assert_memory_equal(image, expected, KM__PAGE);
    assert_false(km__frame_walk_next(&walk, &page));
    km__frame_release(&frame);
}

static void ranges_and_image_make_exactly_the_page_after(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    struct km__frame_builder builder = {0};
    for (int round = 0; round < 5000; round++) {
        unsigned char before[KM__PAGE], after[KM__PAGE], image[KM__PAGE];
        make_pages(&chance, before, after);
        const uint32_t length = chance_percent(&chance, 50) ? KM__PAGE : 1 + (uint32_t)chance_below(&chance, KM__PAGE);
        memset(before + length, 0, KM__PAGE - length); /* what lies behind the data is zero */
        km__frame_start(&builder);
        const int added = km__frame_add_page(&builder, 7, before, after, length, round % 7 == 0, image);
        assert_int_equal(added, memcmp(before, after, length) != 0);
        memcpy(after + length, before + length, KM__PAGE - length); /* what lies behind is not looked at */
        if (added == 1)
            check_page(&builder, length, before, after, image);
    }
    km__frame_builder_release(&builder);
}

static void only_the_named_spans_are_recorded(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    struct km__frame_builder builder = {0};
    for (int round = 0; round < 5000; round++) {
        unsigned char before[KM__PAGE], after[KM__PAGE], image[KM__PAGE], expected[KM__PAGE];
        make_pages(&chance, before, after);
        const uint32_t length = chance_percent(&chance, 50) ? KM__PAGE : 1 + (uint32_t)chance_below(&chance, KM__PAGE);
        memset(before + length, 0, KM__PAGE - length); /* what lies behind the data is zero */
        memcpy(expected, before, KM__PAGE);
        struct km__span spans[64];
        size_t count = 0;
        const uint32_t most = chance_percent(&chance, 30) ? 3000 : 30;
        for (uint32_t next = 0; count < 64;) {
            const uint32_t offset = next + (uint32_t)chance_below(&chance, most);
            const uint32_t size = 1 + (uint32_t)chance_below(&chance, most);
            if (offset + size > length)
                break;
            spans[count++] = (struct km__span){(uint16_t)offset, (uint16_t)size};
            memcpy(expected + offset, after + offset, size);
            next = offset + size;
        }
        km__frame_start(&builder);
        const int added = km__frame_add_spans(&builder, 7, before, after, spans, count, round % 7 == 0, length, image);
        assert_int_equal(added, memcmp(before, expected, KM__PAGE) != 0);
        if (added == 1)
            check_page(&builder, length, before, expected, image);
    }
    km__frame_builder_release(&builder);
}

static void spans_and_pages_out_of_range_are_refused(void **state) {
    (void)state;
    static const unsigned char before[KM__PAGE], after[KM__PAGE] = {1};
    unsigned char image[KM__PAGE];
    struct km__frame_builder builder = {0};
    km__frame_start(&builder);
    const struct km__span overlapping[] = {{0, 10}, {9, 1}}, outside[] = {{4000, 97}}, far[] = {{65535, 65535}};
    const struct km__span behind[] = {{90, 11}};
    assert_int_equal(km__frame_add_spans(&builder, 0, before, after, overlapping, 2, false, KM__PAGE, image), KM_ESIZE);
    assert_int_equal(km__frame_add_spans(&builder, 0, before, after, outside, 1, false, KM__PAGE, image), KM_ESIZE);
    assert_int_equal(km__frame_add_spans(&builder, 0, before, after, far, 1, false, KM__PAGE, image), KM_ESIZE);
    assert_int_equal(km__frame_add_spans(&builder, 0, before, after, behind, 1, false, 100, image), KM_ESIZE);
    assert_int_equal(km__frame_add_page(&builder, 0, before, after, 0, false, image), KM_ESIZE);
    assert_int_equal(km__frame_add_page(&builder, 0, before, after, KM__PAGE + 1, false, image), KM_ESIZE);
    assert_int_equal(km__frame_add_page(&builder, KM__PAGE_NUMBER_MAX + 1, before, after, 1, false, image), KM_ESIZE);
    assert_int_equal(builder.page_count, 0);
    km__frame_builder_release(&builder);
}

static void a_frame_can_be_finished_again_with_other_fields(void **state) {
    (void)state;
    struct frames map;
    frames_open(&map, 2 * KM__PAGE, 2 * KM__PAGE, 8192);
    memset(map.view + 10, 7, 500);
    frames_commit(&map);
    struct km__frame_fields fields = {.generation = 9, .data_size = 2 * KM__PAGE, .previous_chain = 42, .durable = 8};
    memcpy(fields.uuid, map.limits.uuid, 16);
    struct km__frame frame = {0};
    for (int compress = 0; compress <= (km__zlib_available() ? 1 : 0); compress++) {
        const unsigned char *bytes;
        uint64_t length, chain;
        fields.compress = map.limits.compress = compress;
        fields.generation += 1;
        assert_int_equal(km__frame_finish(&map.builder, &fields, &bytes, &length, &chain), 0);
        struct km__cursor cursor = {.generation = fields.generation - 1, .chain = 42};
        assert_int_equal(km__frame_read(&frame, bytes, length, &map.limits, &cursor), 0);
        assert_int_equal(frame.head.flags, compress ? KM__FRAME_COMPRESSED : 0);
        assert_true(cursor.chain == chain && cursor.generation == fields.generation);
        assert_int_equal(frames_apply(&frame, map.data, map.limits.data_capacity), 1);
    }
    const unsigned char *bytes;
    uint64_t length, chain;
    fields.generation = KM__GENERATION_MAX + 1;
    assert_int_equal(km__frame_finish(&map.builder, &fields, &bytes, &length, &chain), KM_ESIZE);
    km__frame_release(&frame);
    frames_close(&map);
}

/* The bytes stand in docs/format.md: two stores, on a map of 5000 bytes, and the numbers that are easy to recognise. */
static void the_documented_frame_is_built_byte_for_byte(void **state) {
    (void)state;
    static const unsigned char expected[] = {
        0x4d, 0x41, 0x52, 0x46, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x90, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x1b, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x1b, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x2a, 0x36, 0xfe, 0x9c,
        0x97, 0x17, 0xd2, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        0x88, 0x13, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x46, 0x84, 0x42, 0x00, 0xdc, 0x76, 0xe3, 0x45, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x7d, 0xee, 0x1e, 0x9e, 0x9e, 0x90, 0x74, 0x5b, 0x51, 0xee, 0xd4, 0xd1,
        0x09, 0x14, 0xdb, 0x49, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x80, 0xe1, 0xe9, 0x7a, 0x08, 0x00,
        0x03, 0x00, 0x6b, 0x65, 0x65, 0x70, 0x64, 0x00, 0x02, 0x00, 0x6d, 0x61, 0x70, 0x00, 0x00, 0x00, 0x00, 0x00,
    };
    struct km__frame_builder builder = {0};
    unsigned char before[KM__PAGE] = {0}, after[KM__PAGE] = {0}, image[KM__PAGE];
    struct km__frame_fields fields = {
        .generation = 1,
        .time_ns = UINT64_C(1700000000000000000),
        .nonce = UINT64_C(0x1122334455667788),
        .data_size = 5000,
        .process_id = 1234,
    };
    for (unsigned i = 0; i < 16; i++)
        fields.uuid[i] = (uint8_t)i;
    fields.previous_chain = km__frame_first_chain(fields.uuid);
    memcpy(after + 8, "keep", 4);
    memcpy(after + 100, "map", 3);
    km__frame_start(&builder);
    assert_int_equal(km__frame_add_page(&builder, 1, before, after, 5000 - KM__PAGE, false, image), 1);
    const uint32_t stored = km__checksum_page(KM_CHECKSUM_CRC32C, image);
    km__frame_set_stored(&builder, stored);
    fields.digest = km__digest_mix(1, stored);
    const unsigned char *bytes;
    uint64_t length, chain;
    assert_int_equal(km__frame_finish(&builder, &fields, &bytes, &length, &chain), 0);
    assert_int_equal(length, sizeof expected);
    assert_memory_equal(bytes, expected, sizeof expected);
    km__frame_builder_release(&builder);
}

struct storer {
    unsigned char page[KM__PAGE];
    atomic_bool started, stop;
};

static void *store_on_and_on(void *context) {
    struct storer *storer = context;
    volatile unsigned char *page = storer->page;
    for (unsigned i = 0; !atomic_load(&storer->stop); i++) {
        page[i * 37 % KM__PAGE] = (unsigned char)(1 + i % 251);
        atomic_store_explicit(&storer->started, true, memory_order_relaxed);
    }
    return NULL;
}

static void a_page_that_changes_meanwhile_is_recorded_as_one_image(void **state) {
    (void)state;
    static struct storer storer;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, store_on_and_on, &storer), 0);
    while (!atomic_load(&storer.started))
        sched_yield();
    static const unsigned char before[KM__PAGE];
    struct km__frame_builder builder = {0};
    const struct km__span spans[] = {{0, 100}, {200, 3000}};
    unsigned added = 0;
    for (int round = 0; round < 4000; round++) {
        unsigned char image[KM__PAGE];
        km__frame_start(&builder);
        const int result =
            round % 2 == 0 ? km__frame_add_page(&builder, 7, before, storer.page, KM__PAGE, false, image)
                           : km__frame_add_spans(&builder, 7, before, storer.page, spans, 2, false, KM__PAGE, image);
        assert_true(result == 0 || result == 1);
        if (result == 1)
            check_page(&builder, KM__PAGE, before, image, image);
        added += result == 1;
    }
    atomic_store(&storer.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(added > 1000);
    km__frame_builder_release(&builder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_built_is_read),
        cmocka_unit_test(what_is_built_compressed_is_read),
        cmocka_unit_test(what_is_built_of_whole_pages_is_read),
        cmocka_unit_test(the_example_of_the_format_document_is_a_true_frame),
        cmocka_unit_test(compression_without_zlib_is_refused),
        cmocka_unit_test(growth_alone_is_a_frame_without_pages),
        cmocka_unit_test(k_changes_of_8_bytes_on_k_pages_take_at_most_128_and_24_k_bytes),
        cmocka_unit_test(ranges_closer_than_a_range_entry_are_merged),
        cmocka_unit_test(a_page_whose_ranges_would_take_as_much_is_recorded_whole),
        cmocka_unit_test(a_whole_page_clears_what_lies_behind_the_data),
        cmocka_unit_test(equal_pages_add_nothing),
        cmocka_unit_test(ranges_and_image_make_exactly_the_page_after),
        cmocka_unit_test(only_the_named_spans_are_recorded),
        cmocka_unit_test(spans_and_pages_out_of_range_are_refused),
        cmocka_unit_test(a_frame_can_be_finished_again_with_other_fields),
        cmocka_unit_test(the_documented_frame_is_built_byte_for_byte),
        cmocka_unit_test(a_page_that_changes_meanwhile_is_recorded_as_one_image),
    };
    return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
