/* SPDX-License-Identifier: MIT
 *
 * Making a changed file consistent again with the library's own functions: checksums of header slots, heads and bodies
 * of frames, the chain, the table and the digest. So that what is judged behind a checksum gets judged.
 */
#ifndef KM_TESTS_FUZZ_SEALS_H
#define KM_TESTS_FUZZ_SEALS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/layout.h"

/** The newest header slot that holds and whose file fits into `length`; NULL if none does. */
const struct km__header *seals_header(const unsigned char *file, uint64_t length);

/** Checksum of the header slot at `slot`. */
void seals_slot(unsigned char *slot);

/** The ring, as the newest header has it. */
struct seals_ring {
    unsigned char *bytes;
    uint64_t length;
    const struct km__header *header;
};

bool seals_ring(unsigned char *file, uint64_t length, struct seals_ring *ring);

/** Where frame number `which` of those in the ring stands, by place; counted round. False: there is none. */
bool seals_find(const struct seals_ring *ring, unsigned which, uint64_t *position);

/** Body, chain and head of the frame at a position; `link` says that the frames after it continue it. */
void seals_frame(unsigned char *file, uint64_t length, uint64_t position, bool link);

/** The table (if asked for) and both digests, so that they say what the pages, or the table, hold. */
void seals_pages(unsigned char *file, uint64_t length, bool table);

/** All of it. */
void seals_everything(unsigned char *file, uint64_t length);

#endif
