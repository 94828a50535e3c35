/* SPDX-License-Identifier: MIT
 *
 * Small containers of one handle: the index of patched pages, the list of frames, lists of pages and ranges. Plain
 * memory, no locks: they belong to the handle's thread.
 */
#ifndef KM_MAP_PAGES_H
#define KM_MAP_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** A page that frames after the handle's base touched. */
struct km__patch {
    uint64_t key;         /* page + 1; 0: empty */
    uint64_t generation;  /* of the newest such frame */
    unsigned char *image; /* its committed bytes, of the pool; NULL in handles that never write */
    uint32_t stored;      /* stored checksum of the page after it */
};

/** Pages to patches: open addressing, never more than half full. All zero: empty. */
struct km__index {
    struct km__patch *patches;
    size_t capacity, count;
};

struct km__patch *km__index_find(const struct km__index *index, uint64_t page);
/** Find or add; `*added` tells which. NULL: no memory. Pointers hold until the next add. */
struct km__patch *km__index_add(struct km__index *index, uint64_t page, bool *added);
/** Make room for `more` additions, so that they cannot fail. KM_ENOMEM. */
int km__index_reserve(struct km__index *index, size_t more);
void km__index_clear(struct km__index *index);
void km__index_release(struct km__index *index);

/** Pages of memory that are handed out one by one and taken back all at once. All zero: empty. */
struct km__pool {
    unsigned char **chunks;
    size_t chunk_count, chunk_capacity;
    size_t used; /* pages handed out */
};

/** Make sure that `more` pages can be handed out. KM_ENOMEM. */
int km__pool_reserve(struct km__pool *pool, size_t more);
/** A page, its bytes undefined; NULL: no memory, which cannot be after a reserve. */
unsigned char *km__pool_take(struct km__pool *pool);
/** Take all pages back; keeps some memory for the next round. */
void km__pool_reset(struct km__pool *pool);
void km__pool_release(struct km__pool *pool);

/** Where a frame stands in the ring. */
struct km__place {
    uint64_t position, length;
};

/** Places of the frames `first`, first + 1, ... All zero with first = 1: empty. */
struct km__places {
    struct km__place *items;
    size_t start, count, capacity;
    uint64_t first;
};

/** Forget all; the next frame to be added is `first`. */
void km__places_reset(struct km__places *places, uint64_t first);
int km__places_reserve(struct km__places *places, size_t more);
int km__places_add(struct km__places *places, uint64_t position, uint64_t length);
const struct km__place *km__places_find(const struct km__places *places, uint64_t generation);
/** Forget those up to `generation`. */
void km__places_drop(struct km__places *places, uint64_t generation);
void km__places_release(struct km__places *places);

/** A list of page numbers. */
struct km__page_list {
    uint64_t *items;
    size_t count, capacity;
};

int km__page_list_add(struct km__page_list *list, uint64_t page);
int km__page_list_add_run(struct km__page_list *list, uint64_t first, uint64_t count);
/** Sort ascending and remove what stands twice. */
void km__page_list_sort(struct km__page_list *list);
void km__page_list_release(struct km__page_list *list);

/** Declared ranges of data. */
struct km__range {
    uint64_t offset, length;
};

struct km__range_list {
    struct km__range *items;
    size_t count, capacity;
};

int km__range_list_add(struct km__range_list *list, uint64_t offset, uint64_t length);
/** Sort by offset and join what overlaps or touches. */
void km__range_list_sort(struct km__range_list *list);
void km__range_list_release(struct km__range_list *list);

/** Grow an array to hold `needed` items of `size` bytes, at least doubling it. KM_ENOMEM. */
int km__array_reserve(void **items, size_t *capacity, size_t needed, size_t size);

#endif
