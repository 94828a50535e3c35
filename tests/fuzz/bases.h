/* SPDX-License-Identifier: MIT
 *
 * Small maps in memory, made by the library itself on the simulated system: what the recipes of the fuzz targets begin
 * with. The same library makes the same bytes.
 */
#ifndef KM_TESTS_FUZZ_BASES_H
#define KM_TESTS_FUZZ_BASES_H

#include <stddef.h>
#include <stdint.h>

/** Bytes of data, unless the story is one of growth: five pages, the last one not whole. */
#define BASE_SIZE 20000u
#define BASE_RING 65536u
#define BASE_CAPACITY 40000u

struct base {
    const char *name;
    unsigned char *bytes;
    size_t length;
};

/** Make them all, once. */
void bases_make(void);

size_t bases_count(void);

/** Number 0 is the file without bytes. */
const struct base *bases_get(size_t number);

#endif
