/* SPDX-License-Identifier: MIT
 *
 * A small map in memory, without an engine: data, a view of it, a ring, and commits from one to the other. For tests of
 * frames.
 */
#ifndef KM_TESTS_FRAMES_H
#define KM_TESTS_FRAMES_H

#include "../support/chance.h"
#include "../support/check.h"

#include "format/checksum.h"
#include "format/frame.h"
#include "format/frame_head.h"

struct frames {
    struct km__frame_limits limits;
    struct km__cursor cursor;   /* behind the newest frame */
    struct km__cursor before;   /* before the newest frame */
    unsigned char *data, *view; /* committed; with the stores of the next commit */
    unsigned char *ring;
    uint64_t ring_size;
    bool whole;                /* pages and blocks */
    uint64_t durable;          /* goes into the next frame */
    uint64_t position, length; /* of the newest frame */
    struct km__frame_builder builder;
};

/** An empty map of `data_size` bytes; everything is allocated exactly, for the address sanitizer. */
void frames_open(struct frames *map, uint64_t data_size, uint64_t data_capacity, uint64_t ring_size);
void frames_close(struct frames *map);

/** Commit what differs between view and data; the frame goes behind the last one, or to 0 if it does not fit. */
void frames_commit(struct frames *map);

/** Store into the view: a few bytes here and there, or nearly everywhere. */
void frames_scribble(struct frames *map, struct chance *chance);

/** Sum over all pages. */
uint64_t frames_digest(const unsigned char *data, uint64_t data_capacity);

/** Make the frame at `position` consistent again after its bytes were changed: body checksum, chain, head checksum. */
void frames_reseal(struct frames *map, uint64_t position, uint64_t previous_chain);

/** Apply a good frame to `data`, checking that everything that it says lies inside; returns the pages it touches. */
uint32_t frames_apply(const struct km__frame *frame, unsigned char *data, uint64_t data_capacity);

#endif
