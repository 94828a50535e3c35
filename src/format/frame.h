/* SPDX-License-Identifier: MIT
 *
 * Frames: building one from pages before and after, reading one from a ring that anybody may have written, walking its
 * pages and ranges. Pure bytes in memory: no I/O, no clock, fuzzable.
 */
#ifndef KM_FORMAT_FRAME_H
#define KM_FORMAT_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

/** Where a walk stands: the state of the map after frame `generation`, and where the next frame starts. */
struct km__cursor {
    uint64_t generation;
    uint64_t position; /* where the next frame starts, if not at 0 */
    uint64_t chain;
    uint64_t digest;
    uint64_t data_size;
};

/** What a frame must fit into. */
struct km__frame_limits {
    uint8_t uuid[16];
    uint64_t data_capacity; /* data_size of a frame is at least the cursor's and at most this */
    bool compress;          /* the map may have compressed frames */
};

/** A frame that was read and found good: a private copy. Fill with zeros before first use; reusable; then release. */
struct km__frame {
    struct km__frame_head head;
    uint64_t position;   /* where it stands in the ring */
    unsigned char *body; /* head.body_length bytes, checked: its pages and ranges hold */
    size_t body_capacity;
    unsigned char *stored; /* scratch for compressed bodies */
    size_t stored_capacity;
};

/**
 * Read the frame after `cursor` from `ring` (shared memory: bytes may change while we look, so they are copied first
 * and only the copy is judged). Tries cursor->position, then 0. Returns 0 and moves the cursor behind the frame; 1 if
 * there is no good frame (the cursor has not moved; what `frame` held before may be gone, and then it is empty); or
 * KM_ENOMEM, KM_EUNSUPPORTED (compressed, no zlib).
 *
 * A frame is good only if generation is the cursor's plus one; chain, head checksum and body checksum hold; all fields
 * lie within the limits; the pages ascend and lie within data_size, ranges ascend inside their page, counts add up to
 * body_length exactly.
 */
int km__frame_read(struct km__frame *frame, const unsigned char *ring, uint64_t ring_size,
                   const struct km__frame_limits *limits, struct km__cursor *cursor);

/**
 * The same, looking at the head only (checksum of the head, chain, generation, limits; not the body). For finding out
 * where frames end that another process has said to be complete. One thing can stand beside a complete frame and have
 * a head that holds too: what a writer left that died in the middle, behind the last frame, when the next one did not
 * fit there and went to 0. So if both places have such a head, the body of the first decides.
 */
int km__frame_peek(struct km__frame_head *head, uint64_t *position, const unsigned char *ring, uint64_t ring_size,
                   const struct km__frame_limits *limits, struct km__cursor *cursor);

/**
 * Look through a whole ring for a frame whose head and body hold by themselves (chain and generation aside) and which
 * says that generations after `generation` were durable when it was written: evidence that a durable frame is damaged.
 * Returns the highest such `durable` found, or 0.
 */
uint64_t km__frame_search_durable(const unsigned char *ring, uint64_t ring_size, const uint8_t uuid[16],
                                  uint64_t generation);

void km__frame_release(struct km__frame *frame);

/** Walks the pages of a good frame, in order. */
struct km__frame_walk {
    const unsigned char *next, *end;
};

struct km__frame_page {
    uint64_t page;
    uint32_t stored; /* stored checksum of the page after this commit */
    uint16_t range_count;
    bool whole;
    const unsigned char *ranges; /* for km__frame_apply() */
    size_t ranges_length;
};

void km__frame_walk_start(struct km__frame_walk *walk, const struct km__frame *frame);
bool km__frame_walk_next(struct km__frame_walk *walk, struct km__frame_page *page);

/** Set the bytes of the page's ranges in `target`, which is KM__PAGE bytes long; behind those of a whole page it
 *  becomes zero. */
void km__frame_apply(const struct km__frame_page *page, unsigned char *target);

/** Bytes of data that the page's ranges carry. */
uint32_t km__frame_page_bytes(const struct km__frame_page *page);

/* ---- building ---------------------------------------------------------------------------------------------------- */

/** A frame under construction. Fill with zeros before first use; reusable; then release. The head comes first in
 * `bytes`. */
struct km__frame_builder {
    unsigned char *bytes;
    size_t length, capacity;
    unsigned char *packed; /* compressed frame, same shape */
    size_t packed_capacity;
    size_t page_start; /* of the entry of the page added last */
    uint32_t page_count, range_count;
};

void km__frame_start(struct km__frame_builder *builder);

/**
 * Compare `after` (a page of a view; another thread may store into it meanwhile) with `before`, its committed image,
 * over the first `length` bytes (KM__PAGE but for the last page), and add what differs as ranges; ranges closer to each
 * other than a range entry are merged. With `whole`, a page that differs at all is added whole. Returns 1 if something
 * was added, 0 if the pages are the same, KM_ENOMEM, KM_ESIZE. Pages must be added in ascending order.
 *
 * If 1: `image` (KM__PAGE bytes) becomes `before` with the ranges as recorded set, so that its checksum is of what the
 * frame says; then km__frame_set_stored() must follow.
 */
int km__frame_add_page(struct km__frame_builder *builder, uint64_t page, const unsigned char *before,
                       const unsigned char *after, uint32_t length, bool whole, unsigned char *image);

/**
 * Only the given ranges of a page (offset, length pairs as sorted, disjoint spans) are compared: for declared commits.
 * Otherwise as km__frame_add_page().
 */
struct km__span {
    uint16_t offset, length;
};
int km__frame_add_spans(struct km__frame_builder *builder, uint64_t page, const unsigned char *before,
                        const unsigned char *after, const struct km__span *spans, size_t span_count, bool whole,
                        uint32_t length, unsigned char *image);

/** Set the stored checksum of the page added last. */
void km__frame_set_stored(struct km__frame_builder *builder, uint32_t stored);

/** What the builder does not know by itself. */
struct km__frame_fields {
    uint64_t generation, time_ns, nonce, data_size, digest, durable;
    uint64_t previous_chain;
    uint32_t process_id;
    bool compress;     /* if that makes it shorter */
    bool whole_blocks; /* pad to a multiple of KM__PAGE: no sector holds parts of two frames */
    uint8_t uuid[16];
};

/** Finish head, padding, chain and checksums. `*bytes`, `*length` become the frame as it goes to the ring; valid until
 * the next start or release. `*chain` becomes its chain. Can be called again with other fields. KM_ENOMEM,
 * KM_EUNSUPPORTED, KM_ESIZE (generation above KM__GENERATION_MAX). */
int km__frame_finish(struct km__frame_builder *builder, const struct km__frame_fields *fields,
                     const unsigned char **bytes, uint64_t *length, uint64_t *chain);

void km__frame_builder_release(struct km__frame_builder *builder);

/** The chain that the first frame of a map continues. */
uint64_t km__frame_first_chain(const uint8_t uuid[16]);

#endif
