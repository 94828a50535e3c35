/* SPDX-License-Identifier: MIT
 *
 * Maps that are copied in tests, and what is expected of their copies.
 */
#ifndef KM_TESTS_COPIES_H
#define KM_TESTS_COPIES_H

#include <stdbool.h>

#include "keepmap.h"

#define COPIES_PAGES 600u /* more than what is copied in one go */
#define COPIES_SIZE (COPIES_PAGES * KM_PAGE_SIZE - 100)
#define COPIES_RING (1u << 20)

/** What a map can be made with. */
struct copies_kind {
    const char *name;
    uint32_t checksum, flags;
};

#define COPIES_KINDS 5u
extern const struct copies_kind copies_kinds[COPIES_KINDS];

/** Whether this build can. The first three always. */
bool copies_available(const struct copies_kind *kind);

km_map *copies_create(const char *path, const struct copies_kind *kind, uint64_t size, uint64_t max_size);

/** COPIES_SIZE bytes, three commits at home and two in the journal: pages that only home has, that only frames have,
 *  that both have, that became zeros again in either, and holes. */
km_map *copies_create_varied(const char *path, const struct copies_kind *kind);

/** What the handle shows now, allocated. */
unsigned char *copies_shown_by(km_map *map);
void copies_expect_bytes(km_map *map, const unsigned char *bytes, uint64_t size);

/** The copy is a map that was closed clean, shows these bytes at this generation, and can be used. */
void copies_expect(const char *path, const unsigned char *bytes, uint64_t size, uint64_t generation);

/** Whether anything has the name. */
bool copies_exists(const char *path);

#endif
