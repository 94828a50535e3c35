/* SPDX-License-Identifier: MIT
 *
 * The content of one simulated file: see os_sim_content.h. Pages stand in a hash table by number; each of a page's
 * sectors has a list of the versions that were written after it was last synced.
 */
#include "os_sim_content.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t sim_random(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void *sim_allocate(size_t size) {
    void *memory = calloc(1, size);
    if (memory == NULL) {
        fprintf(stderr, "os_sim: out of memory\n");
        abort();
    }
    return memory;
}

/* ---- pages ------------------------------------------------------------------------------------------------------- */

static size_t bucket_of(const struct sim_content *content, uint64_t number) {
    return (size_t)((number * UINT64_C(0x9e3779b97f4a7c15)) >> 32) % content->bucket_count;
}

static struct sim_page *find_page(const struct sim_content *content, uint64_t number) {
    struct sim_page *page = content->bucket_count > 0 ? content->buckets[bucket_of(content, number)] : NULL;
    while (page != NULL && page->number != number)
        page = page->next;
    return page;
}

static void insert_page(struct sim_content *content, struct sim_page *page) {
    struct sim_page **bucket = &content->buckets[bucket_of(content, page->number)];
    page->next = *bucket;
    *bucket = page;
}

static void grow_buckets(struct sim_content *content) {
    struct sim_page **old = content->buckets;
    size_t old_count = content->bucket_count;
    content->bucket_count = old_count > 0 ? old_count * 2 : 64;
    content->buckets = sim_allocate(content->bucket_count * sizeof(struct sim_page *));
    for (size_t i = 0; i < old_count; i++) {
        for (struct sim_page *page = old[i], *next; page != NULL; page = next) {
            next = page->next;
            insert_page(content, page);
        }
    }
    free(old);
}

static struct sim_page *need_page(struct sim_content *content, uint64_t number) {
    struct sim_page *page = find_page(content, number);
    if (page != NULL)
        return page;
    if (content->page_count >= content->bucket_count)
        grow_buckets(content);
    page = sim_allocate(sizeof *page);
    page->number = number;
    insert_page(content, page);
    content->page_count++;
    return page;
}

static const unsigned char *newest_bytes(const struct sim_page *page, unsigned sector) {
    const struct sim_version *newest = page->pending[sector].newest;
    return newest != NULL ? newest->bytes : page->disk + sector * OS_SIM_SECTOR;
}

static void drop_versions(struct sim_pending *pending) {
    for (struct sim_version *version = pending->oldest, *newer; version != NULL; version = newer) {
        newer = version->newer;
        free(version);
    }
    pending->oldest = pending->newest = NULL;
}

static void add_version(struct sim_page *page, unsigned sector, uint64_t write, bool failed, const void *bytes) {
    struct sim_version *version = sim_allocate(sizeof *version);
    struct sim_pending *pending = &page->pending[sector];
    version->write = write;
    version->failed = failed;
    memcpy(version->bytes, bytes, OS_SIM_SECTOR);
    if (pending->newest != NULL)
        pending->newest->newer = version;
    else
        pending->oldest = version;
    pending->newest = version;
}

void sim_content_copy(struct sim_content *to, const struct sim_content *from) {
    *to = (struct sim_content){.durable_size = from->durable_size, .size = from->size, .size_count = from->size_count};
    if (from->size_count > 0) {
        to->sizes = sim_allocate(from->size_count * sizeof *to->sizes);
        memcpy(to->sizes, from->sizes, from->size_count * sizeof *to->sizes);
    }
    for (size_t i = 0; i < from->bucket_count; i++) {
        for (const struct sim_page *page = from->buckets[i]; page != NULL; page = page->next) {
            struct sim_page *copy = need_page(to, page->number);
            memcpy(copy->disk, page->disk, sizeof copy->disk);
            for (unsigned sector = 0; sector < SIM_SECTORS_PER_PAGE; sector++) {
                const struct sim_version *version = page->pending[sector].oldest;
                copy->pending[sector].rewritten = page->pending[sector].rewritten;
                for (; version != NULL; version = version->newer)
                    add_version(copy, sector, version->write, version->failed, version->bytes);
            }
        }
    }
}

void sim_content_release(struct sim_content *content) {
    for (size_t i = 0; i < content->bucket_count; i++) {
        for (struct sim_page *page = content->buckets[i], *next; page != NULL; page = next) {
            next = page->next;
            for (unsigned sector = 0; sector < SIM_SECTORS_PER_PAGE; sector++)
                drop_versions(&page->pending[sector]);
            free(page);
        }
    }
    free(content->buckets);
    free(content->sizes);
    *content = (struct sim_content){.buckets = NULL};
}

/* ---- reading and writing ----------------------------------------------------------------------------------------- */

void sim_content_read(const struct sim_content *content, uint64_t offset, void *bytes, size_t length) {
    unsigned char *to = bytes;
    while (length > 0) {
        const struct sim_page *page = find_page(content, offset / SIM_PAGE);
        unsigned in_sector = (unsigned)(offset % OS_SIM_SECTOR);
        size_t part = OS_SIM_SECTOR - in_sector < length ? OS_SIM_SECTOR - in_sector : length;
        if (page != NULL)
            memcpy(to, newest_bytes(page, (unsigned)(offset % SIM_PAGE / OS_SIM_SECTOR)) + in_sector, part);
        else
            memset(to, 0, part);
        to += part;
        offset += part;
        length -= part;
    }
}

static void note_size(struct sim_content *content, uint64_t write, uint64_t size) {
    struct sim_size *sizes = sim_allocate((content->size_count + 1) * sizeof *sizes);
    if (content->size_count > 0)
        memcpy(sizes, content->sizes, content->size_count * sizeof *sizes);
    free(content->sizes);
    sizes[content->size_count++] = (struct sim_size){.size = size, .write = write};
    content->sizes = sizes;
    content->size = size;
}

/* Whether the newest version of the sector at `offset` was covered by a failed sync. */
static bool is_in_doubt(const struct sim_content *content, uint64_t offset) {
    const struct sim_page *page = find_page(content, offset / SIM_PAGE);
    const struct sim_version *newest = page != NULL ? page->pending[offset % SIM_PAGE / OS_SIM_SECTOR].newest : NULL;
    return newest != NULL && newest->failed;
}

void sim_content_write(struct sim_content *content, uint64_t write, uint64_t offset, const void *bytes, size_t length) {
    const unsigned char *from = bytes;
    if (length > 0 && offset + length > content->size)
        note_size(content, write, offset + length);
    while (length > 0) {
        unsigned sector = (unsigned)(offset % SIM_PAGE / OS_SIM_SECTOR);
        unsigned in_sector = (unsigned)(offset % OS_SIM_SECTOR);
        size_t part = OS_SIM_SECTOR - in_sector < length ? OS_SIM_SECTOR - in_sector : length;
        unsigned char whole[OS_SIM_SECTOR];
        sim_content_read(content, offset - in_sector, whole, sizeof whole);
        /* The same bytes once more change nothing, unless a failed sync put in doubt where they are; but a disk that
         * leaves noise where it was writing does so there, too. */
        if (memcmp(whole + in_sector, from, part) != 0 || is_in_doubt(content, offset)) {
            memcpy(whole + in_sector, from, part);
            add_version(need_page(content, offset / SIM_PAGE), sector, write, false, whole);
        } else {
            need_page(content, offset / SIM_PAGE)->pending[sector].rewritten = true;
        }
        from += part;
        offset += part;
        length -= part;
    }
}

void sim_content_zero(struct sim_content *content, uint64_t write, uint64_t offset, uint64_t length) {
    static const unsigned char zeros[SIM_PAGE];
    const uint64_t range_end = offset + length < content->size ? offset + length : content->size;
    /* What has no page is zeros already. */
    for (size_t i = 0; i < content->bucket_count; i++) {
        for (struct sim_page *page = content->buckets[i]; page != NULL; page = page->next) {
            uint64_t start = page->number * SIM_PAGE > offset ? page->number * SIM_PAGE : offset;
            uint64_t end = (page->number + 1) * SIM_PAGE < range_end ? (page->number + 1) * SIM_PAGE : range_end;
            if (start < end)
                sim_content_write(content, write, start, zeros, (size_t)(end - start));
        }
    }
}

void sim_content_resize(struct sim_content *content, uint64_t write, uint64_t size) {
    if (size == content->size)
        return;
    if (size < content->size) /* what is cut off reads as zeros when the file grows again */
        sim_content_zero(content, write, size, content->size - size);
    note_size(content, write, size);
}

void sim_content_damage(struct sim_content *content, uint64_t offset, const void *bytes, size_t length) {
    const unsigned char *from = bytes;
    for (size_t i = 0; i < length; i++, offset++) {
        struct sim_page *page = need_page(content, offset / SIM_PAGE);
        page->disk[offset % SIM_PAGE] = from[i];
        struct sim_version *version = page->pending[offset % SIM_PAGE / OS_SIM_SECTOR].oldest;
        for (; version != NULL; version = version->newer)
            version->bytes[offset % OS_SIM_SECTOR] = from[i];
    }
}

/* ---- syncing ----------------------------------------------------------------------------------------------------- */

/* Sync the sectors of a page that touch a range; or mark them, if the sync fails. */
static void sync_page(struct sim_page *page, uint64_t offset, uint64_t end, bool fails) {
    for (unsigned sector = 0; sector < SIM_SECTORS_PER_PAGE; sector++) {
        struct sim_pending *pending = &page->pending[sector];
        const uint64_t start = page->number * SIM_PAGE + sector * OS_SIM_SECTOR;
        if (start >= end || start + OS_SIM_SECTOR <= offset)
            continue;
        pending->rewritten = pending->rewritten && fails;
        if (pending->newest == NULL)
            continue;
        if (fails) {
            for (struct sim_version *version = pending->oldest; version != NULL; version = version->newer)
                version->failed = true;
        } else if (!pending->newest->failed) {
            memcpy(page->disk + sector * OS_SIM_SECTOR, pending->newest->bytes, OS_SIM_SECTOR);
            drop_versions(pending);
        }
    }
}

static void sync_pages(struct sim_content *content, uint64_t offset, uint64_t length, bool fails) {
    const uint64_t end = length > UINT64_MAX - offset ? UINT64_MAX : offset + length;
    if (length / SIM_PAGE < content->page_count) {
        for (uint64_t number = offset / SIM_PAGE; number * SIM_PAGE < end; number++) {
            struct sim_page *page = find_page(content, number);
            if (page != NULL)
                sync_page(page, offset, end, fails);
        }
        return;
    }
    for (size_t i = 0; i < content->bucket_count; i++) {
        for (struct sim_page *page = content->buckets[i]; page != NULL; page = page->next)
            sync_page(page, offset, end, fails);
    }
}

void sim_content_sync(struct sim_content *content, uint64_t offset, uint64_t length) {
    sync_pages(content, offset, length, false);
    /* Of the size only as much is promised as is needed to find the range again; a whole file has its size. A size that
     * shrank is made durable by any sync: file systems keep the order of such changes. */
    uint64_t needed = length == UINT64_MAX || content->size < content->durable_size ? content->size : offset + length;
    if (needed > content->size)
        needed = content->size;
    if (length == UINT64_MAX || needed > content->durable_size || content->size < content->durable_size)
        content->durable_size = needed;
    const uint64_t last_write = content->size_count > 0 ? content->sizes[content->size_count - 1].write : 0;
    content->size_count = 0;
    if (content->size != content->durable_size)
        note_size(content, last_write, content->size);
}

void sim_content_fail(struct sim_content *content, uint64_t offset, uint64_t length) {
    sync_pages(content, offset, length, true);
}

/* ---- crashing ---------------------------------------------------------------------------------------------------- */

uint64_t sim_content_pending(const struct sim_content *content) {
    uint64_t count = content->size_count;
    for (size_t i = 0; i < content->bucket_count; i++) {
        for (const struct sim_page *page = content->buckets[i]; page != NULL; page = page->next) {
            for (unsigned sector = 0; sector < SIM_SECTORS_PER_PAGE; sector++)
                count += page->pending[sector].newest != NULL;
        }
    }
    return count;
}

uint64_t sim_content_pending_in(const struct sim_content *content, uint64_t offset, uint64_t length) {
    uint64_t count = 0;
    for (uint64_t at = offset / OS_SIM_SECTOR * OS_SIM_SECTOR; at < offset + length; at += OS_SIM_SECTOR) {
        const struct sim_page *page = find_page(content, at / SIM_PAGE);
        count += page != NULL && page->pending[at % SIM_PAGE / OS_SIM_SECTOR].newest != NULL;
    }
    return count;
}

/* The sectors of a page, as bits, that a write was the last one to change. */
static unsigned sectors_of(const struct sim_page *page, uint64_t write) {
    unsigned sectors = 0;
    for (unsigned sector = 0; sector < SIM_SECTORS_PER_PAGE; sector++) {
        const struct sim_version *newest = page->pending[sector].newest;
        if (newest != NULL && newest->write == write)
            sectors |= 1u << sector;
    }
    return sectors;
}

/* The newest write of a page, if it has left several of its sectors open; otherwise 0. */
static uint64_t wide_write_of(const struct sim_page *page) {
    uint64_t newest = 0;
    for (unsigned sector = 0; sector < SIM_SECTORS_PER_PAGE; sector++) {
        const struct sim_version *version = page->pending[sector].newest;
        if (version != NULL && version->write > newest)
            newest = version->write;
    }
    const unsigned sectors = sectors_of(page, newest);
    return (sectors & (sectors - 1)) != 0 ? newest : 0;
}

uint64_t sim_content_wide_writes(const struct sim_content *content) {
    uint64_t count = 0;
    for (size_t i = 0; i < content->bucket_count; i++) {
        for (const struct sim_page *page = content->buckets[i]; page != NULL; page = page->next)
            count += wide_write_of(page) != 0;
    }
    return count;
}

uint64_t sim_content_wide_write(const struct sim_content *content, uint64_t which) {
    for (size_t i = 0; i < content->bucket_count; i++) {
        for (const struct sim_page *page = content->buckets[i]; page != NULL; page = page->next) {
            const uint64_t write = wide_write_of(page);
            if (write != 0 && which-- == 0)
                return write;
        }
    }
    return 0;
}

void sim_content_open_writes(const struct sim_content *content, sim_write_function *each, void *context) {
    for (size_t i = 0; i < content->size_count; i++)
        each(context, content->sizes[i].write);
    for (size_t i = 0; i < content->bucket_count; i++) {
        for (const struct sim_page *page = content->buckets[i]; page != NULL; page = page->next) {
            for (unsigned sector = 0; sector < SIM_SECTORS_PER_PAGE; sector++) {
                for (const struct sim_version *v = page->pending[sector].oldest; v != NULL; v = v->newer)
                    each(context, v->write);
            }
        }
    }
}

void sim_choice_draw(struct sim_choice *choice, enum os_sim_policy policy, uint64_t seed) {
    uint64_t random = seed;
    choice->policy = policy;
    choice->seed = sim_random(&random);
    choice->last_write = 0;
    choice->keep = 32 + sim_random(&random) % 193; /* from rarely to mostly */
}

struct sim_choice sim_choice_of_file(const struct sim_choice *choice, uint64_t inode) {
    struct sim_choice of_file = *choice;
    of_file.seed ^= inode * UINT64_C(0xff51afd7ed558ccd);
    return of_file;
}

bool sim_choice_keeps(const struct sim_choice *choice, uint64_t write) {
    uint64_t random = choice->seed ^ (write * UINT64_C(0xd1342543de82ef95));
    switch (choice->policy) {
    case OS_SIM_NOTHING:
        return false;
    case OS_SIM_EVERYTHING:
    case OS_SIM_TORN:
        return true;
    case OS_SIM_PREFIX:
        return write < choice->last_write || (write == choice->last_write && sim_random(&random) % 2 == 0);
    default:
        return sim_random(&random) % 256 < choice->keep;
    }
}

/* The version of a sector that the disk holds; NULL: the one that was synced last. What chance decides depends on where
 * the sector is, not on the order in which sectors are looked at. */
static const struct sim_version *choose_version(const struct sim_page *page, unsigned sector,
                                                const struct sim_choice *choice) {
    const struct sim_pending *pending = &page->pending[sector];
    uint64_t place = choice->seed + page->number * SIM_SECTORS_PER_PAGE + sector;
    uint64_t start = sim_random(&place);
    uint64_t *random = &start;
    if (choice->policy == OS_SIM_SECTORS || choice->policy == OS_SIM_GARBLED) {
        uint64_t count = 0;
        for (const struct sim_version *v = pending->oldest; v != NULL; v = v->newer)
            count++;
        if (sim_random(random) % 256 >= choice->keep)
            return NULL;
        const struct sim_version *chosen = pending->oldest;
        for (uint64_t steps = sim_random(random) % count; steps > 0; steps--)
            chosen = chosen->newer;
        return chosen;
    }
    const struct sim_version *chosen = NULL;
    for (const struct sim_version *v = pending->oldest; v != NULL; v = v->newer) {
        bool under_way = choice->policy == OS_SIM_PREFIX && v->write == choice->last_write;
        if (under_way ? sim_random(random) % 2 == 0 : sim_choice_keeps(choice, v->write))
            chosen = v;
    }
    return chosen;
}

/* The sectors that a page has of the torn write: some, where it changed several there. */
static unsigned choose_torn(const struct sim_page *page, const struct sim_choice *choice) {
    const unsigned sectors = sectors_of(page, choice->last_write);
    if ((sectors & (sectors - 1)) == 0)
        return sectors;
    uint64_t random = choice->seed + page->number;
    unsigned kept = 0;
    while (kept == 0 || kept == sectors)
        kept = (unsigned)sim_random(&random) & sectors;
    return kept;
}

/* The version before the newest; NULL: the one that was synced last. */
static const struct sim_version *before_newest(const struct sim_pending *pending) {
    const struct sim_version *chosen = NULL;
    for (const struct sim_version *v = pending->oldest; v != pending->newest; v = v->newer)
        chosen = v;
    return chosen;
}

static uint64_t choose_size(const struct sim_content *content, const struct sim_choice *choice) {
    uint64_t size = content->durable_size;
    for (size_t i = 0; i < content->size_count; i++) {
        if (sim_choice_keeps(choice, content->sizes[i].write))
            size = content->sizes[i].size;
    }
    return size;
}

static void garble(struct sim_page *page, unsigned sector, const struct sim_choice *choice) {
    uint64_t random = choice->seed ^ ((page->number * SIM_SECTORS_PER_PAGE + sector) * UINT64_C(0x9e3779b97f4a7c15));
    if (sim_random(&random) % 3 != 0)
        return;
    for (size_t i = 0; i < OS_SIM_SECTOR; i++)
        page->disk[sector * OS_SIM_SECTOR + i] = (unsigned char)sim_random(&random);
}

/* In half of the images a sector of the disk is a whole page: what was under way in it can make noise of it all. */
static bool is_noise(const struct sim_page *page, const struct sim_choice *choice) {
    uint64_t random = choice->seed ^ (page->number * UINT64_C(0xc2b2ae3d27d4eb4f));
    bool under_way = false;
    for (unsigned sector = 0; sector < SIM_SECTORS_PER_PAGE; sector++)
        under_way = under_way || page->pending[sector].oldest != NULL || page->pending[sector].rewritten;
    return (choice->keep & 1) != 0 && under_way && sim_random(&random) % 3 == 0;
}

static void make_noise(struct sim_page *page, uint64_t seed) {
    uint64_t random = seed ^ page->number;
    for (size_t i = 0; i < sizeof page->disk; i++)
        page->disk[i] = (unsigned char)sim_random(&random);
}

void sim_content_crash(struct sim_content *content, const struct sim_choice *choice) {
    const uint64_t size = choose_size(content, choice);
    for (size_t i = 0; i < content->bucket_count; i++) {
        for (struct sim_page *page = content->buckets[i]; page != NULL; page = page->next) {
            const bool noise = choice->policy == OS_SIM_GARBLED && is_noise(page, choice);
            const unsigned torn = choice->policy == OS_SIM_TORN ? sectors_of(page, choice->last_write) : 0;
            const unsigned torn_kept = choice->policy == OS_SIM_TORN ? choose_torn(page, choice) : 0;
            for (unsigned sector = 0; sector < SIM_SECTORS_PER_PAGE; sector++) {
                struct sim_pending *pending = &page->pending[sector];
                const struct sim_version *chosen =
                    pending->oldest != NULL ? choose_version(page, sector, choice) : NULL;
                if ((torn & ~torn_kept & (1u << sector)) != 0)
                    chosen = before_newest(pending);
                if (chosen != NULL)
                    memcpy(page->disk + sector * OS_SIM_SECTOR, chosen->bytes, OS_SIM_SECTOR);
                if ((pending->oldest != NULL || pending->rewritten) && choice->policy == OS_SIM_GARBLED)
                    garble(page, sector, choice);
                pending->rewritten = false;
                drop_versions(pending);
            }
            if (noise)
                make_noise(page, choice->seed);
            const uint64_t start = page->number * SIM_PAGE;
            if (start + SIM_PAGE > size) {
                size_t kept = size > start ? (size_t)(size - start) : 0;
                memset(page->disk + kept, 0, SIM_PAGE - kept);
            }
        }
    }
    content->size_count = 0;
    content->durable_size = content->size = size;
}

void sim_content_evict(struct sim_content *content, uint64_t seed, sim_sector_function *changed, void *context) {
    struct sim_choice choice;
    sim_choice_draw(&choice, OS_SIM_SECTORS, seed);
    for (size_t i = 0; i < content->bucket_count; i++) {
        for (struct sim_page *page = content->buckets[i]; page != NULL; page = page->next) {
            for (unsigned sector = 0; sector < SIM_SECTORS_PER_PAGE; sector++) {
                struct sim_pending *pending = &page->pending[sector];
                if (pending->newest == NULL || !pending->newest->failed)
                    continue;
                const struct sim_version *chosen = choose_version(page, sector, &choice);
                if (chosen != NULL)
                    memcpy(page->disk + sector * OS_SIM_SECTOR, chosen->bytes, OS_SIM_SECTOR);
                drop_versions(pending);
                changed(context, page->number * SIM_PAGE + sector * OS_SIM_SECTOR, page->disk + sector * OS_SIM_SECTOR);
            }
        }
    }
}
