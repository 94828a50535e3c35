/* SPDX-License-Identifier: MIT
 *
 * The table of page checksums: one entry a page, written by checkpoints only.
 *
 * A checkpoint writes the entries of the pages that it touches, and with them, in the same sectors of the disk,
 * those of pages that it does not. On a disk that keeps the power-safe overwrite these keep their value. A map with
 * whole-page frames is for disks that do not, so there a recovery that finds a checkpoint in progress computes the
 * neighbours' entries anew from home; but it believes them only if the digest over the whole table, with the
 * frames' checksums for the pages that they touch, is the one that the frame of the checkpoint's goal carries.
 * Damage to a neighbour's bytes is thus never given a fresh checksum. Entries beyond the end of the data become 0
 * again, which is right for the pages of zeros that growth adds.
 */
#include <string.h>

#include "map.h"

#define BLOCK_ENTRIES (KM__PAGE / sizeof(uint32_t))

uint32_t km__table_entry(const km_map *map, uint64_t page) {
    uint32_t entry;
    if (map->header.checksum_kind == KM_CHECKSUM_NONE)
        return 0; /* whatever stands there */
    memcpy(&entry, map->table_region.address + page * sizeof entry, sizeof entry);
    return entry;
}

int km__table_digest(km_map *map, uint64_t pages, uint64_t *digest) {
    const uint64_t offset = map->header.table_offset, end = offset + pages * sizeof(uint32_t);
    *digest = 0;
    for (uint64_t page = 0; page < pages;) {
        uint64_t start = 0, stop = 0;
        const int result = os_file_next_data(map->file, offset + page * sizeof(uint32_t), end, &start, &stop);
        if (result != 0 || start >= end)
            return result;
        const uint64_t last = (stop - offset + sizeof(uint32_t) - 1) / sizeof(uint32_t);
        for (page = (start - offset) / sizeof(uint32_t); page < last && page < pages; page++)
            *digest += km__digest_mix(page, km__table_entry(map, page));
    }
    return 0;
}

struct mend {
    km_map *map;
    struct km__cursor goal;    /* where the checkpoint was going */
    struct km__index framed;   /* pages that its frames touch, with their checksums */
    struct km__page_list list; /* the same pages, sorted */
};

static int read_frames(struct mend *mend, const struct km__header *header) {
    km_map *map = mend->map;
    mend->goal = km__header_cursor(header);
    while (mend->goal.generation < header->target) {
        int result = km__journal_read(map, &map->frame, &mend->goal);
        if (result != 0)
            return result == 1 ? km__frame_lost(map, mend->goal.generation + 1) : result;
        struct km__frame_walk walk;
        struct km__frame_page page;
        km__frame_walk_start(&walk, &map->frame);
        while (km__frame_walk_next(&walk, &page)) {
            bool added = false;
            struct km__patch *patch = km__index_add(&mend->framed, page.page, &added);
            if (patch == NULL || (added && km__page_list_add(&mend->list, page.page) != 0))
                return KM_ENOMEM;
            patch->stored = page.stored;
        }
    }
    km__page_list_sort(&mend->list);
    return 0;
}

/* The block of entries that starts at page `first`, as it should be; adds to the digest what changes by that. Entries
 * beyond the end of the data are 0, as of pages of zeros: noise there would accuse the pages that growth adds. */
static void mend_block(const struct mend *mend, uint64_t first, uint32_t *block, uint64_t *digest) {
    const km_map *map = mend->map;
    const uint64_t pages = km__pages_of(mend->goal.data_size);
    for (uint64_t page = first; page < first + BLOCK_ENTRIES; page++) {
        if (page >= pages) {
            block[page - first] = 0;
            continue;
        }
        const struct km__patch *framed = km__index_find(&mend->framed, page);
        const unsigned char *bytes = map->home_region.address + page * KM__PAGE;
        const uint32_t stored = framed != NULL ? framed->stored : km__checksum_page(map->header.checksum_kind, bytes);
        *digest += km__digest_mix(page, stored) - km__digest_mix(page, km__table_entry(map, page));
        block[page - first] = stored;
    }
}

/* Go through the touched blocks; write them if `write`, else only sum up what they change in the digest. */
static int mend_blocks(const struct mend *mend, bool write, uint64_t *digest) {
    const struct km__header *header = &mend->map->header;
    uint32_t block[BLOCK_ENTRIES];
    int result = 0;
    for (size_t i = 0; i < mend->list.count && result == 0;) {
        const uint64_t first = mend->list.items[i] / BLOCK_ENTRIES * BLOCK_ENTRIES;
        const uint64_t offset = header->table_offset + first * sizeof(uint32_t);
        while (i < mend->list.count && mend->list.items[i] < first + BLOCK_ENTRIES)
            i++;
        result = os_file_read(mend->map->file, offset, block, sizeof block);
        if (result == 0)
            mend_block(mend, first, block, digest);
        if (result == 0 && write)
            result = os_file_write(mend->map->file, offset, block, sizeof block);
    }
    return result;
}

int km__table_mend(km_map *map, const struct km__header *header) {
    if (!km__full_pages(header) || header->checksum_kind == KM_CHECKSUM_NONE || header->target <= header->generation)
        return 0;
    struct mend mend = {.map = map};
    uint64_t digest = 0;
    int result = read_frames(&mend, header);
    if (result == 0)
        result = km__home_cover(map, mend.goal.data_size);
    if (result == 0)
        result = km__table_digest(map, km__pages_of(mend.goal.data_size), &digest);
    if (result == 0)
        result = mend_blocks(&mend, false, &digest);
    if (result == 0 && digest == mend.goal.digest)
        result = mend_blocks(&mend, true, &digest);
    km__index_release(&mend.framed);
    km__page_list_release(&mend.list);
    return result;
}
