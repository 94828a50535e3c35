/* SPDX-License-Identifier: MIT
 *
 * Building a frame from pages before and after. A page that differs is copied once, and everything that is recorded
 * about it comes from the copy: another thread may be storing into the page meanwhile.
 */
#include <stdlib.h>

#include "bytes.h"
#include "checksum.h"
#include "frame.h"
#include "frame_head.h"
#include "keepmap.h"

/* What a page takes at most: of n ranges each has 4 bytes of entry, and 4 bytes or more lie between two of them. */
#define PAGE_MAX (KM__PAGE_ENTRY + KM__PAGE + KM__RANGE_ENTRY)

/* Bytes that a step compares. */
#define STEP 64u

/* Where the entry of the page that was added last, or is being added, stands. */
struct page_writer {
    struct km__frame_builder *builder;
    const unsigned char *image;
    uint32_t range_count, start, end; /* the open range, whose bytes are not written yet; start == end: none */
};

static int reserve(unsigned char **bytes, size_t *capacity, size_t length) {
    if (length <= *capacity)
        return 0;
    const size_t grown = length > SIZE_MAX / 4 ? length : length + length / 2 + 4 * KM__PAGE;
    unsigned char *moved = realloc(*bytes, grown);
    if (moved == NULL)
        return KM_ENOMEM;
    *bytes = moved;
    *capacity = grown;
    return 0;
}

void km__frame_start(struct km__frame_builder *builder) {
    builder->length = sizeof(struct km__frame_head);
    builder->page_count = 0;
    builder->range_count = 0;
}

static void write_range(struct page_writer *writer) {
    if (writer->start == writer->end)
        return;
    struct km__frame_builder *builder = writer->builder;
    const uint32_t length = writer->end - writer->start;
    unsigned char *to = builder->bytes + builder->length;
    km__store16(to, writer->start);
    km__store16(to + 2, length - 1);
    memcpy(to + KM__RANGE_ENTRY, writer->image + writer->start, length);
    builder->length += KM__RANGE_ENTRY + length;
    writer->range_count++;
    writer->start = writer->end = 0;
}

/* The bytes from `start` to `end` differ. Another range would cost more than a gap that is shorter than its entry. */
static inline void add_difference(struct page_writer *writer, uint32_t start, uint32_t end) {
    if (writer->start == writer->end || start - writer->end >= KM__RANGE_ENTRY) {
        write_range(writer);
        writer->start = start;
    }
    writer->end = end;
}

/* The highest bit of each byte that is not zero. */
static inline uint64_t mark_bytes(uint64_t word) {
    const uint64_t low = UINT64_C(0x7f7f7f7f7f7f7f7f);
    return (((word & low) + low) | word) & ~low;
}

static void add_word(struct page_writer *writer, uint32_t offset, uint64_t difference) {
    uint64_t marks = mark_bytes(difference);
    if (marks == UINT64_C(0x8080808080808080)) {
        add_difference(writer, offset, offset + 8);
        return;
    }
    while (marks != 0) {
        const uint32_t first = (uint32_t)__builtin_ctzll(marks) / 8;
        const uint64_t gaps = ~marks & UINT64_C(0x8080808080808080) & ~((UINT64_C(1) << (8 * first)) - 1);
        const uint32_t last = gaps == 0 ? 8 : (uint32_t)__builtin_ctzll(gaps) / 8;
        add_difference(writer, offset + first, offset + last);
        marks = last == 8 ? 0 : marks & ~((UINT64_C(1) << (8 * last)) - 1);
    }
}

/* Sixteen bytes at once, with what every processor of the kind has. */
typedef uint64_t lanes __attribute__((vector_size(16)));

static inline lanes difference_of(const unsigned char *one, const unsigned char *other) {
    lanes left, right;
    memcpy(&left, one, sizeof left);
    memcpy(&right, other, sizeof right);
    return left ^ right;
}

/* Whether two blocks of STEP bytes differ. */
static inline bool differ(const unsigned char *one, const unsigned char *other) {
    const lanes any = (difference_of(one, other) | difference_of(one + 16, other + 16)) |
                      (difference_of(one + 32, other + 32) | difference_of(one + 48, other + 48));
    return (any[0] | any[1]) != 0;
}

static void add_differences(struct page_writer *writer, const unsigned char *before, uint32_t offset, uint32_t end) {
    const unsigned char *image = writer->image;
    while (end - offset >= 8) {
        if (end - offset >= STEP && !differ(before + offset, image + offset)) {
            offset += STEP;
            continue;
        }
        const uint32_t block = end - offset >= STEP ? offset + STEP : end - (end - offset) % 8;
        for (; offset < block; offset += 8) {
            const uint64_t difference = km__load64(before + offset) ^ km__load64(image + offset);
            if (difference != 0)
                add_word(writer, offset, difference);
        }
    }
    for (; offset < end; offset++)
        if (before[offset] != image[offset])
            add_difference(writer, offset, offset + 1);
}

/* Make room for a page and open it behind the entry, which end_page() writes. */
static int start_page(struct page_writer *writer, struct km__frame_builder *builder, uint64_t page,
                      const unsigned char *image) {
    if (page > KM__PAGE_NUMBER_MAX || builder->page_count == UINT32_MAX || builder->range_count > UINT32_MAX - KM__PAGE)
        return KM_ESIZE;
    const int result = reserve(&builder->bytes, &builder->capacity, builder->length + PAGE_MAX);
    if (result != 0)
        return result;
    *writer = (struct page_writer){.builder = builder, .image = image};
    builder->length += KM__PAGE_ENTRY;
    return 0;
}

/* Close the page that was opened at `start`: drop it if nothing differs, make it a whole one if that is wanted or takes
 * no more. 1: it was added. */
static int end_page(struct page_writer *writer, size_t start, uint64_t page, uint32_t length, bool whole) {
    struct km__frame_builder *builder = writer->builder;
    write_range(writer);
    if (writer->range_count == 0) {
        builder->length = start;
        return 0;
    }

    const size_t whole_length = KM__RANGE_ENTRY + length;
    if (whole || builder->length - start - KM__PAGE_ENTRY >= whole_length) {
        builder->length = start + KM__PAGE_ENTRY;
        writer->range_count = 0;
        writer->start = 0;
        writer->end = length;
        write_range(writer);
        writer->range_count |= KM__PAGE_WHOLE;
    }
    unsigned char *entry = builder->bytes + start;
    km__store48(entry, page);
    km__store16(entry + 6, writer->range_count);
    km__store32(entry + 8, 0);
    builder->page_start = start;
    builder->page_count++;
    builder->range_count += writer->range_count & ~KM__PAGE_WHOLE;
    return 1;
}

int km__frame_add_page(struct km__frame_builder *builder, uint64_t page, const unsigned char *before,
                       const unsigned char *after, uint32_t length, bool whole, unsigned char *image) {
    if (length == 0 || length > KM__PAGE)
        return KM_ESIZE;
    if (memcmp(before, after, length) == 0)
        return 0;

    struct page_writer writer;
    const size_t start = builder->length;
    const int result = start_page(&writer, builder, page, image);
    if (result != 0)
        return result;
    km__copy_once(image, after, length);
    memcpy(image + length, before + length, KM__PAGE - length);
    add_differences(&writer, before, 0, length);
    return end_page(&writer, start, page, length, whole);
}

int km__frame_add_spans(struct km__frame_builder *builder, uint64_t page, const unsigned char *before,
                        const unsigned char *after, const struct km__span *spans, size_t span_count, bool whole,
                        uint32_t length, unsigned char *image) {
    if (length == 0 || length > KM__PAGE)
        return KM_ESIZE;
    uint32_t free_from = 0;
    for (size_t i = 0; i < span_count; i++) {
        const uint32_t end = (uint32_t)spans[i].offset + spans[i].length;
        if (spans[i].offset < free_from || end > length)
            return KM_ESIZE;
        free_from = end;
    }

    struct page_writer writer;
    const size_t start = builder->length;
    const int result = start_page(&writer, builder, page, image);
    if (result != 0)
        return result;
    memcpy(image, before, KM__PAGE);
    for (size_t i = 0; i < span_count; i++) {
        km__copy_once(image + spans[i].offset, after + spans[i].offset, spans[i].length);
        add_differences(&writer, before, spans[i].offset, (uint32_t)spans[i].offset + spans[i].length);
    }
    return end_page(&writer, start, page, length, whole);
}

void km__frame_set_stored(struct km__frame_builder *builder, uint32_t stored) {
    km__store32(builder->bytes + builder->page_start + 8, stored);
}

/* Compress the body into `packed` if that makes the frame shorter: 1. Otherwise 0, or an error. */
static int compress_body(struct km__frame_builder *builder, size_t body_length, size_t *stored_length) {
    if (!km__zlib_available())
        return KM_EUNSUPPORTED;
    if (body_length <= 8)
        return 0;
    const size_t head = sizeof(struct km__frame_head);
    *stored_length = (size_t)km__round_up(body_length, 8) - 8; /* the padded body has to be shorter */
    int result = reserve(&builder->packed, &builder->packed_capacity, head + *stored_length + KM__PAGE);
    if (result == 0)
        result = km__zlib_compress(builder->packed + head, stored_length, builder->bytes + head, body_length);
    if (result == KM_ESIZE)
        return 0;
    return result == 0 ? 1 : result;
}

int km__frame_finish(struct km__frame_builder *builder, const struct km__frame_fields *fields,
                     const unsigned char **bytes, uint64_t *length, uint64_t *chain) {
    if (fields->generation > KM__GENERATION_MAX)
        return KM_ESIZE;
    struct km__frame_head head = {
        .magic = KM__FRAME_MAGIC,
        .generation = fields->generation,
        .body_length = builder->length - sizeof head,
        .page_count = builder->page_count,
        .range_count = builder->range_count,
        .time_ns = fields->time_ns,
        .process_id = fields->process_id,
        .nonce = fields->nonce,
        .data_size = fields->data_size,
        .digest = fields->digest,
        .durable = fields->durable,
    };
    size_t stored_length = (size_t)head.body_length;
    int result = reserve(&builder->bytes, &builder->capacity, builder->length + KM__PAGE);
    if (result == 0 && fields->compress)
        result = compress_body(builder, (size_t)head.body_length, &stored_length);
    if (result < 0)
        return result;

    unsigned char *frame = result == 1 ? builder->packed : builder->bytes;
    if (result == 1)
        head.flags = KM__FRAME_COMPRESSED;
    else
        stored_length = (size_t)head.body_length;
    const size_t block = fields->whole_blocks ? KM__PAGE : 8;
    const size_t padded = (size_t)km__round_up(sizeof head + stored_length, block) - sizeof head;
    memset(frame + sizeof head + stored_length, 0, padded - stored_length);
    head.stored_length = stored_length;
    head.length = sizeof head + padded;
    head.body_checksum = km__crc32c(0, frame + sizeof head, padded);
    head.chain = km__frame_chain(fields->previous_chain, &head);
    head.checksum = km__frame_head_checksum(fields->uuid, &head);
    memcpy(frame, &head, sizeof head);
    *bytes = frame;
    *length = head.length;
    *chain = head.chain;
    return 0;
}

void km__frame_builder_release(struct km__frame_builder *builder) {
    free(builder->bytes);
    free(builder->packed);
    *builder = (struct km__frame_builder){0};
}
