/* SPDX-License-Identifier: MIT
 *
 * Format version 1: every structure that stands in the file, with its sizes and offsets asserted. Little-endian;
 * reserved bytes are zero and checked. docs/format.md describes the same in words; change both, and the golden files,
 * together. Control (0x02000 to 0x10000) is shared memory, not format: see src/map/control.h.
 */
#ifndef KM_FORMAT_LAYOUT_H
#define KM_FORMAT_LAYOUT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KM__MAGIC "KEEPMAP" /* eight bytes, with its NUL */
#define KM__FORMAT_VERSION 1u

#define KM__PAGE 4096u
#define KM__ALIGN 65536u /* of every region: the allocation granularity of Windows */

#define KM__SLOT_A 0x0000u
#define KM__SLOT_B 0x1000u
#define KM__SLOT_SIZE 4096u
#define KM__CONTROL_OFFSET 0x2000u
#define KM__CONTROL_SIZE (56u * 1024u)
#define KM__TABLE_OFFSET 0x10000u /* at creation; growth beyond max_size moves it */

#define KM__JOURNAL_MIN 65536u

/* Sizes are kept well below what sums of offsets could overflow. */
#define KM__SIZE_MAX (UINT64_C(1) << 60)

/* Generations become offsets of byte-range locks far behind the end of the file: they must leave room there. */
#define KM__GENERATION_MAX (UINT64_C(1) << 60)

enum km__feature_incompatible { KM__FEATURE_COMPRESS = 1u << 0 }; /* frames may be compressed with zlib */
enum km__feature_readonly { KM__FEATURE_FULL_PAGES = 1u << 0 };   /* a writer must journal whole pages */
#define KM__KNOWN_INCOMPATIBLE UINT64_C(1)
#define KM__KNOWN_READONLY UINT64_C(1)

enum km__header_flag { KM__HEADER_CLEAN = 1u << 0 };

/* One header slot. */
struct km__header {
    char magic[8];
    uint32_t format_version;
    uint32_t header_size;          /* KM__SLOT_SIZE */
    uint64_t feature_incompatible; /* unknown bits: refuse */
    uint64_t feature_readonly;     /* unknown bits: open read-only at most */
    uint64_t feature_compatible;   /* unknown bits: ignore */
    uint8_t uuid[16];
    uint32_t mode;
    uint32_t checksum_kind;
    uint32_t page_size;
    uint32_t schema_version;
    char schema[64]; /* padded with NUL, at least one */
    uint64_t created_ns;
    uint64_t sequence; /* raised at every write of a slot; the valid slot with the higher one counts */
    uint64_t geometry; /* raised when the regions below change */
    uint64_t table_offset;
    uint64_t table_capacity; /* bytes */
    uint64_t data_offset;
    uint64_t data_size;     /* at `generation` */
    uint64_t data_capacity; /* max_size; the region ends at the next multiple of KM__ALIGN */
    uint64_t journal_offset;
    uint64_t journal_size;
    uint64_t journal_configured; /* what it shrinks back to */
    uint64_t generation;         /* home is at */
    uint64_t target;             /* a checkpoint in progress brings home to; == generation: none */
    uint64_t journal_position;   /* where frame generation + 1 starts, if it is not at 0 */
    uint64_t journal_chain;      /* chain of frame `generation` */
    uint64_t digest;             /* of the whole map at `generation` */
    uint64_t history_generation; /* an older place where a walk of the journal may still find frames */
    uint64_t history_position;
    uint64_t history_chain;
    uint64_t flags; /* enum km__header_flag */
    uint8_t reserved[4092 - 296];
    uint32_t checksum; /* CRC-32C of all bytes before */
};
static_assert(sizeof(struct km__header) == KM__SLOT_SIZE, "a header slot is one page");
static_assert(offsetof(struct km__header, uuid) == 40, "layout");
static_assert(offsetof(struct km__header, schema) == 72, "layout");
static_assert(offsetof(struct km__header, created_ns) == 136, "layout");
static_assert(offsetof(struct km__header, table_offset) == 160, "layout");
static_assert(offsetof(struct km__header, generation) == 224, "layout");
static_assert(offsetof(struct km__header, flags) == 288, "layout");
static_assert(offsetof(struct km__header, reserved) == 296, "layout");
static_assert(offsetof(struct km__header, checksum) == 4092, "layout");

#define KM__FRAME_MAGIC 0x4652414du /* "MARF" in memory: reads "FRAM" from the high end */

enum km__frame_flag { KM__FRAME_COMPRESSED = 1u << 0 };

/* Head of a frame; the stored body follows, padded with zeros to a multiple of 8, or of KM__PAGE with
 * KM__FEATURE_FULL_PAGES. */
struct km__frame_head {
    uint32_t magic;
    uint32_t flags; /* enum km__frame_flag */
    uint64_t generation;
    uint64_t length;        /* of the whole frame in the ring, padding included */
    uint64_t body_length;   /* of the body, not compressed */
    uint64_t stored_length; /* of the body as it stands in the ring, padding not counted */
    uint32_t page_count;
    uint32_t range_count;
    uint64_t time_ns; /* since 1970 */
    uint32_t process_id;
    uint32_t reserved;
    uint64_t nonce;         /* random value of the attach that wrote it */
    uint64_t data_size;     /* after this commit */
    uint64_t digest;        /* of the whole map after this commit */
    uint64_t durable;       /* newest generation that was known durable when this was written */
    uint64_t chain;         /* km__frame_chain() of the previous frame's chain and this frame */
    uint32_t body_checksum; /* CRC-32C of the stored body and its padding */
    uint32_t checksum;      /* CRC-32C of the UUID and of all bytes of the head before this */
};
static_assert(sizeof(struct km__frame_head) == 112, "head of a frame");
static_assert(offsetof(struct km__frame_head, time_ns) == 48, "layout");
static_assert(offsetof(struct km__frame_head, chain) == 96, "layout");
static_assert(offsetof(struct km__frame_head, checksum) == 108, "layout");

/* Body, by page in ascending order: this, then its ranges. Unaligned, little-endian, 12 bytes:
 *   page 6 bytes; range count 2 bytes, of which the highest bit says that the page is whole (one range, offset 0, with
 *   all the bytes of the page that lie inside data_size: KM__PAGE but for the last page);
 *   stored checksum of the page after this commit 4 bytes.
 * Range: offset in the page 2 bytes, length - 1 2 bytes, then the bytes. Ranges ascend, do not touch each
 * other, and lie inside the page and inside data_size; every page has at least one. */
#define KM__PAGE_ENTRY 12u
#define KM__RANGE_ENTRY 4u
#define KM__PAGE_WHOLE 0x8000u
#define KM__PAGE_NUMBER_MAX ((UINT64_C(1) << 48) - 1)

/** Whether the first change of a page after a checkpoint is journaled as a whole page. */
static inline bool km__full_pages(const struct km__header *header) {
    return (header->feature_readonly & KM__FEATURE_FULL_PAGES) != 0;
}

/** Pages that data of this size has; the last one may be shorter. */
static inline uint64_t km__pages_of(uint64_t data_size) {
    return data_size / KM__PAGE + (data_size % KM__PAGE != 0);
}

/** Bytes of a page that lie inside the data. */
static inline uint32_t km__page_length(uint64_t data_size, uint64_t page) {
    const uint64_t left = data_size - page * KM__PAGE;
    return left < KM__PAGE ? (uint32_t)left : KM__PAGE;
}

#endif
