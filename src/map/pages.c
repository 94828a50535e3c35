/* SPDX-License-Identifier: MIT
 *
 * Small containers of one handle: see pages.h.
 */
#include "pages.h"

#include <stdlib.h>
#include <string.h>

#include "format/layout.h"
#include "os/os.h"

enum { INDEX_MIN = 64, INDEX_KEEP = 1 << 16, CHUNK_PAGES = 64, CHUNKS_KEPT = 64 };

#define CHUNK_BYTES ((size_t)CHUNK_PAGES * KM__PAGE)

int km__array_reserve(void **items, size_t *capacity, size_t needed, size_t size) {
    if (needed <= *capacity)
        return 0;
    size_t wanted = *capacity < 16 ? 16 : *capacity;
    while (wanted < needed) {
        if (wanted > SIZE_MAX / 2 / size)
            return km__error(KM_ENOMEM, "a list of %zu items is too long for memory: do less in one transaction",
                             needed);
        wanted *= 2;
    }
    void *grown = realloc(*items, wanted * size);
    if (grown == NULL)
        return km__error(KM_ENOMEM, "no memory for %zu bytes: free some and try again", wanted * size);
    *items = grown;
    *capacity = wanted;
    return 0;
}

/* ---- index ------------------------------------------------------------------------------------------------------- */

static struct km__patch *index_slot(const struct km__index *index, uint64_t page) {
    const size_t mask = index->capacity - 1;
    for (size_t i = (size_t)((page * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & mask;; i = (i + 1) & mask)
        if (index->patches[i].key == page + 1 || index->patches[i].key == 0)
            return &index->patches[i];
}

struct km__patch *km__index_find(const struct km__index *index, uint64_t page) {
    if (index->count == 0)
        return NULL;
    struct km__patch *patch = index_slot(index, page);
    return patch->key != 0 ? patch : NULL;
}

int km__index_reserve(struct km__index *index, size_t more) {
    size_t wanted = index->capacity == 0 ? INDEX_MIN : index->capacity;
    while (wanted / 2 < index->count + more) {
        if (wanted > SIZE_MAX / 2 / sizeof(struct km__patch))
            return km__error(KM_ENOMEM, "too many changed pages to keep track of");
        wanted *= 2;
    }
    if (wanted == index->capacity)
        return 0;
    struct km__index grown = {calloc(wanted, sizeof(struct km__patch)), wanted, index->count};
    if (grown.patches == NULL)
        return km__error(KM_ENOMEM, "no memory to keep track of %zu changed pages", index->count + more);
    for (size_t i = 0; i < index->capacity; i++)
        if (index->patches[i].key != 0)
            *index_slot(&grown, index->patches[i].key - 1) = index->patches[i];
    free(index->patches);
    *index = grown;
    return 0;
}

struct km__patch *km__index_add(struct km__index *index, uint64_t page, bool *added) {
    if (km__index_reserve(index, 1) != 0)
        return NULL;
    struct km__patch *patch = index_slot(index, page);
    *added = patch->key == 0;
    if (*added) {
        patch->key = page + 1;
        index->count++;
    }
    return patch;
}

void km__index_clear(struct km__index *index) {
    if (index->capacity > INDEX_KEEP)
        km__index_release(index);
    else if (index->count > 0)
        memset(index->patches, 0, index->capacity * sizeof(struct km__patch));
    index->count = 0;
}

void km__index_release(struct km__index *index) {
    free(index->patches);
    *index = (struct km__index){0};
}

/* ---- pool -------------------------------------------------------------------------------------------------------- */

int km__pool_reserve(struct km__pool *pool, size_t more) {
    while (pool->chunk_count * CHUNK_PAGES < pool->used + more) {
        const int result = km__array_reserve((void **)&pool->chunks, &pool->chunk_capacity, pool->chunk_count + 1,
                                             sizeof(unsigned char *));
        if (result != 0)
            return result;
        unsigned char *chunk = os_memory_take(CHUNK_BYTES);
        if (chunk == NULL)
            return KM_ENOMEM;
        pool->chunks[pool->chunk_count++] = chunk;
    }
    return 0;
}

unsigned char *km__pool_take(struct km__pool *pool) {
    if (km__pool_reserve(pool, 1) != 0)
        return NULL;
    const size_t page = pool->used++;
    return pool->chunks[page / CHUNK_PAGES] + page % CHUNK_PAGES * KM__PAGE;
}

void km__pool_reset(struct km__pool *pool) {
    while (pool->chunk_count > CHUNKS_KEPT)
        os_memory_release(pool->chunks[--pool->chunk_count], CHUNK_BYTES);
    pool->used = 0;
}

void km__pool_release(struct km__pool *pool) {
    while (pool->chunk_count > 0)
        os_memory_release(pool->chunks[--pool->chunk_count], CHUNK_BYTES);
    free(pool->chunks);
    *pool = (struct km__pool){0};
}

/* ---- places of frames -------------------------------------------------------------------------------------------- */

void km__places_reset(struct km__places *places, uint64_t first) {
    places->start = 0;
    places->count = 0;
    places->first = first;
}

int km__places_reserve(struct km__places *places, size_t more) {
    if (places->start > 0 && places->start + places->count + more > places->capacity) {
        memmove(places->items, places->items + places->start, places->count * sizeof(struct km__place));
        places->start = 0;
    }
    return km__array_reserve((void **)&places->items, &places->capacity, places->count + more,
                             sizeof(struct km__place));
}

int km__places_add(struct km__places *places, uint64_t position, uint64_t length) {
    const int result = km__places_reserve(places, 1);
    if (result != 0)
        return result;
    places->items[places->start + places->count++] = (struct km__place){position, length};
    return 0;
}

const struct km__place *km__places_find(const struct km__places *places, uint64_t generation) {
    if (generation < places->first || generation - places->first >= places->count)
        return NULL;
    return &places->items[places->start + (size_t)(generation - places->first)];
}

void km__places_drop(struct km__places *places, uint64_t generation) {
    if (generation < places->first)
        return;
    const uint64_t gone = generation - places->first + 1;
    const size_t drop = gone < places->count ? (size_t)gone : places->count;
    places->start += drop;
    places->count -= drop;
    places->first += drop;
}

void km__places_release(struct km__places *places) {
    free(places->items);
    *places = (struct km__places){0};
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

int km__page_list_add_run(struct km__page_list *list, uint64_t first, uint64_t count) {
    const int result =
        km__array_reserve((void **)&list->items, &list->capacity, list->count + (size_t)count, sizeof(uint64_t));
    if (result != 0)
        return result;
    for (uint64_t i = 0; i < count; i++)
        list->items[list->count++] = first + i;
    return 0;
}

int km__page_list_add(struct km__page_list *list, uint64_t page) {
    return km__page_list_add_run(list, page, 1);
}

static int compare_pages(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

void km__page_list_sort(struct km__page_list *list) {
    bool sorted = true;
    for (size_t i = 1; i < list->count && sorted; i++)
        sorted = list->items[i - 1] < list->items[i];
    if (sorted)
        return;
    qsort(list->items, list->count, sizeof(uint64_t), compare_pages);
    size_t kept = 1;
    for (size_t i = 1; i < list->count; i++)
        if (list->items[i] != list->items[kept - 1])
            list->items[kept++] = list->items[i];
    list->count = kept;
}

void km__page_list_release(struct km__page_list *list) {
    free(list->items);
    *list = (struct km__page_list){0};
}

int km__range_list_add(struct km__range_list *list, uint64_t offset, uint64_t length) {
    struct km__range *last = list->count > 0 ? &list->items[list->count - 1] : NULL;
    if (last != NULL && offset >= last->offset && offset <= last->offset + last->length) { /* often the same, or next */
        if (offset + length > last->offset + last->length)
            last->length = offset + length - last->offset;
        return 0;
    }
    const int result =
        km__array_reserve((void **)&list->items, &list->capacity, list->count + 1, sizeof(struct km__range));
    if (result == 0)
        list->items[list->count++] = (struct km__range){offset, length};
    return result;
}

static int compare_ranges(const void *a, const void *b) {
    const struct km__range *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

void km__range_list_sort(struct km__range_list *list) {
    if (list->count < 2)
        return;
    qsort(list->items, list->count, sizeof(struct km__range), compare_ranges);
    size_t kept = 0;
    for (size_t i = 1; i < list->count; i++) {
        struct km__range *last = &list->items[kept];
        const struct km__range *next = &list->items[i];
        if (next->offset <= last->offset + last->length) {
            const uint64_t end = next->offset + next->length;
            if (end > last->offset + last->length)
                last->length = end - last->offset;
        } else {
            list->items[++kept] = *next;
        }
    }
    list->count = kept + 1;
}

void km__range_list_release(struct km__range_list *list) {
    free(list->items);
    *list = (struct km__range_list){0};
}
