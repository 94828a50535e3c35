/* SPDX-License-Identifier: MIT
 *
 * The log of a disk: what it was asked to do, in the order in which it was asked. Records follow each other; a write
 * and a mark have `length` bytes behind the record. Host byte order: the log is read where it was written.
 */
#ifndef KM_TESTS_RECORDING_H
#define KM_TESTS_RECORDING_H

#include <stdint.h>

enum recording_kind {
    RECORDING_WRITE = 1,
    RECORDING_ZERO,  /* a range became zeros, or a hole */
    RECORDING_FLUSH, /* everything before it is on the disk when it returns */
    RECORDING_MARK   /* a line of text that the test put in */
};

struct recording {
    uint32_t kind;
    uint32_t reserved;
    uint64_t offset, length;
};

/** Bytes in a mark at the most. */
#define RECORDING_MARK_MAX 256u

#endif
