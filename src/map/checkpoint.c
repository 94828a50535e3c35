/* SPDX-License-Identifier: MIT
 *
 * The checkpoint: bringing home up to a generation G, so that the frames up to it can be used again.
 *
 * Steps, and the failure that each prevents:
 *  C1 Take CHECKPOINT and read both header slots: another checkpointer may have died anywhere. If the newest slot
 *     is ahead of `checkpointed`, its writer died before publishing: exclude readers without write permission, make
 *     the slot durable by writing it again, and publish. [model: durability, read_only]
 *  C2 Sync the journal: G <= durable. Home must never hold what a power cut can take out of the journal. [model:
 *     durability]
 *  C3 Store target = G, full fence, then read the pins; live pins below G lower it. A begin stores its pin, fences
 *     and then reads `target`: either this sees the pin, or the begin sees the target and refreshes past it. A pin
 *     that is just moving up is looked at again. [model: snapshot]
 *  C4 Write-lock READER + [0, G) until `checkpointed` is published: handles without write permission cannot pin. If
 *     one stands lower, G is lowered instead of waiting. [model: read_only]
 *  C5 Nothing to do if G <= the header's generation; nothing either if G is below the P of a checkpoint that died:
 *     pages may already be past G, and home would be brought back in parts. [model: durability]
 *  C6 Write "in progress to G" into the slot that does not count, durably, before home changes. A recovery that
 *     finds it knows that home is a mixture, and refuses to show anything if it cannot read the frames up to G.
 *     [model: durability]
 *  C7 Compose each page in scratch memory from home and the frames, never from a view: a view can be ahead of G and
 *     can hold uncommitted stores. The result must match the stored checksum of the last frame that touched it.
 *     Write it also when home looks equal: what looks equal in the page cache may never have reached the disk.
 *     [model: snapshot, durability]
 *  C8 Sync the file, then write "at G" into the slot that does not count, durably, then the other; only then
 *     publish `checkpointed`, also when only finishing what a dead checkpointer left. Publishing earlier lets
 *     frames be overwritten that the disk's older slot needs. [model: durability]
 *  C9 In a map with whole-page frames: `target` is stored only while holding WRITER, as the newest commit, and the
 *     checkpoint goes exactly there or nowhere, however often it is tried. A writer decides "this page was last
 *     touched at or before the target, so it is journaled whole"; a target stored behind its back, or a G lowered
 *     below it, would leave the first frame after G with a part of the page only, and a page that power garbled
 *     could not be rebuilt. [model: durability] The target is stored before CHECKPOINT is taken, perhaps while another
 *     checkpointer is at work: who has CHECKPOINT goes to the one that it had read before it synced, or home would get
 *     frames that are not durable (C2); and who finds that another has brought home to the target already chooses
 *     again.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "map.h"

/* Bytes of frames that one round takes into memory; a single larger frame still goes alone. */
#define ROUND_BYTES (UINT64_C(64) << 20)

enum { RUN_PAGES = 64, PIN_LOOKS = 16 };

/* A touch of a page by one of the frames of the round. */
struct touch {
    uint64_t page;
    size_t frame;
    struct km__frame_page content;
};

struct round {
    struct km__header from; /* what home is at */
    struct km__cursor to;   /* G */
    struct km__frame *frames;
    size_t frame_count, frame_capacity;
    struct touch *touches;
    size_t touch_count, touch_capacity;
};

static void round_release(struct round *round) {
    for (size_t i = 0; i < round->frame_count; i++)
        km__frame_release(&round->frames[i]);
    free(round->frames);
    free(round->touches);
}

static int add_touches(struct round *round, size_t frame) {
    struct km__frame_walk walk;
    struct km__frame_page page;
    km__frame_walk_start(&walk, &round->frames[frame]);
    while (km__frame_walk_next(&walk, &page)) {
        const int result = km__array_reserve((void **)&round->touches, &round->touch_capacity, round->touch_count + 1,
                                             sizeof(struct touch));
        if (result != 0)
            return result;
        round->touches[round->touch_count++] = (struct touch){page.page, frame, page};
    }
    return 0;
}

static int compare_touches(const void *a, const void *b) {
    const struct touch *x = a, *y = b;
    if (x->page != y->page)
        return x->page < y->page ? -1 : 1;
    return x->frame < y->frame ? -1 : x->frame > y->frame;
}

/* Read the frames after home up to `goal`, or as many as one round takes, but at least up to `least`. */
static int round_read(km_map *map, struct round *round, uint64_t goal, uint64_t least) {
    uint64_t bytes = 0;
    round->to = km__header_cursor(&round->from);
    while (round->to.generation < goal && (bytes < ROUND_BYTES || round->to.generation < least)) {
        int result = km__array_reserve((void **)&round->frames, &round->frame_capacity, round->frame_count + 1,
                                       sizeof(struct km__frame));
        if (result != 0)
            return result;
        struct km__frame *frame = &round->frames[round->frame_count];
        memset(frame, 0, sizeof *frame);
        round->frame_count++;
        result = km__journal_read(map, frame, &round->to);
        if (result == 1)
            return km__frame_lost(map, round->to.generation + 1);
        if (result == 0)
            result = add_touches(round, round->frame_count - 1);
        if (result != 0)
            return result;
        bytes += frame->head.body_length; /* what it takes here; it may be compressed in the ring */
    }
    if (round->touch_count > 1)
        qsort(round->touches, round->touch_count, sizeof(struct touch), compare_touches);
    return 0;
}

/* C7 for the touches [first, last) of one page, in `page`, which holds home's bytes. */
static int compose(km_map *map, const struct round *round, size_t first, size_t last, unsigned char *page) {
    for (size_t i = first; i < last; i++)
        km__frame_apply(&round->touches[i].content, page);
    const uint32_t stored = round->touches[last - 1].content.stored;
    const uint32_t found = km__checksum_page(map->header.checksum_kind, page);
    if (found == stored)
        return 0;
    return km__error(KM_ECORRUPT,
                     "%s: page %" PRIu64 " (bytes from %" PRIu64 ") has checksum %08" PRIx32 ", commit %" PRIu64
                     " says %08" PRIx32 ": the disk changed it; run keepmap verify, restore it from a copy",
                     map->path, round->touches[first].page, round->touches[first].page * KM__PAGE, found,
                     round->frames[round->touches[last - 1].frame].head.generation, stored);
}

static size_t same_page(const struct round *round, size_t first) {
    size_t last = first + 1;
    while (last < round->touch_count && round->touches[last].page == round->touches[first].page)
        last++;
    return last;
}

/* Write home for a run of neighbouring pages that starts at touch `*next`, and move behind it. */
static int write_run(km_map *map, const struct round *round, size_t *next, unsigned char *scratch) {
    const uint64_t first_page = round->touches[*next].page;
    size_t ends[RUN_PAGES], count = 0, at = *next;
    while (at < round->touch_count && count < RUN_PAGES && round->touches[at].page == first_page + count) {
        at = same_page(round, at);
        ends[count++] = at;
    }
    const uint64_t offset = map->header.data_offset + first_page * KM__PAGE;
    int result = os_file_read(map->file, offset, scratch, count * KM__PAGE);
    for (size_t i = 0, from = *next; i < count && result == 0; from = ends[i++])
        result = compose(map, round, from, ends[i], scratch + i * KM__PAGE);
    if (result == 0)
        result = os_file_write(map->file, offset, scratch, count * KM__PAGE);
    *next = at;
    return result;
}

/* Write the table entries of all touched pages, a block of the table at a time. */
static int write_table(km_map *map, const struct round *round) {
    uint32_t block[KM__PAGE / sizeof(uint32_t)];
    const uint64_t entries = KM__PAGE / sizeof(uint32_t);
    int result = 0;
    for (size_t at = 0; at < round->touch_count && result == 0;) {
        const uint64_t first = round->touches[at].page / entries * entries;
        const uint64_t offset = map->header.table_offset + first * sizeof(uint32_t);
        result = os_file_read(map->file, offset, block, sizeof block);
        for (; at < round->touch_count && round->touches[at].page < first + entries; at++)
            block[round->touches[at].page - first] = round->touches[at].content.stored;
        if (result == 0)
            result = os_file_write(map->file, offset, block, sizeof block);
    }
    return result;
}

static int write_home(km_map *map, const struct round *round) {
    unsigned char *scratch = malloc((size_t)RUN_PAGES * KM__PAGE);
    if (scratch == NULL)
        return km__error(KM_ENOMEM, "%s: no memory to checkpoint", map->path);
    int result = 0;
    for (size_t next = 0; next < round->touch_count && result == 0;)
        result = write_run(map, round, &next, scratch);
    free(scratch);
    if (result == 0 && map->header.checksum_kind != KM_CHECKSUM_NONE)
        result = write_table(map, round);
    if (result == 0)
        return os_file_sync(map->file) == 0 ? 0 : km__sync_failed(map, KM_EIO);
    if (result == KM_EIO)
        return km__sync_failed(map, result);
    return result == KM_ENOSPACE ? km__error_prefix(result, "the checkpoint needs room on the disk") : result;
}

/* ---- choosing G -------------------------------------------------------------------------------------------------- */

/* Where the journal's walk for `keepmap log` may start: kept while its first frame is still whole. */
static void keep_history(km_map *map, const struct km__header *from, struct km__header *to) {
    struct km__cursor cursor = {.generation = from->history_generation,
                                .position = from->history_position,
                                .chain = from->history_chain,
                                .data_size = 1};
    struct km__frame_head head;
    uint64_t position = 0;
    if (km__frame_peek(&head, &position, map->journal_region.address, map->header.journal_size, &map->limits,
                       &cursor) == 0)
        return;
    to->history_generation = from->generation;
    to->history_position = from->journal_position;
    to->history_chain = from->journal_chain;
}

/* C3: the highest generation up to `goal` that no live pin stands below. */
static uint64_t lower_to_pins(km_map *map, uint64_t goal) {
    uint64_t pin = KM__NO_PIN;
    atomic_thread_fence(memory_order_seq_cst);
    for (unsigned look = 0; look < PIN_LOOKS; look++) {
        pin = km__lowest_pin(map, goal, NULL);
        if (pin >= goal || look + 1 == PIN_LOOKS)
            break;
        os_pause();
    }
    return pin < goal ? pin : goal;
}

/* C1. 1: a reader stands in the way, so nothing can be published now. */
static int finish_died(km_map *map, struct km__slots *slots) {
    const struct km__header *header = &slots->slot[slots->chosen];
    if (header->generation <= km__load(&map->control->checkpointed))
        return 0;
    uint64_t excluded = header->generation;
    int result = km__readers_exclude(map, &excluded, header->generation - 1);
    if (result != 0)
        return result;
    if (excluded < header->generation)
        return 1;
    result = km__slots_store_both(map, slots, header);
    if (result == 0)
        km__raise(&map->control->checkpointed, slots->slot[slots->chosen].generation);
    km__readers_admit(map, excluded);
    return result;
}

/* Bring home from what the newest slot says to `goal` (C6 to C8); readers below it are excluded. */
static int bring_home(km_map *map, struct km__slots *slots, uint64_t goal, uint64_t least, bool clean) {
    struct round round = {.from = slots->slot[slots->chosen]};
    int result = round_read(map, &round, goal, least);
    struct km__header next = round.from;
    if (result == 0) {
        next.target = round.to.generation > next.target ? round.to.generation : next.target;
        next.flags &= ~(uint64_t)KM__HEADER_CLEAN;
        result = km__slots_store(map, slots, &next);
    }
    if (result == 0)
        result = write_home(map, &round);
    if (result == 0) {
        keep_history(map, &round.from, &next);
        next.generation = next.target = round.to.generation;
        next.journal_position = round.to.position;
        next.journal_chain = round.to.chain;
        next.digest = round.to.digest;
        next.data_size = round.to.data_size;
        if (clean && km__load(&map->control->appended) == next.generation)
            next.flags |= KM__HEADER_CLEAN;
        result = km__slots_store_both(map, slots, &next);
    }
    if (result == 0)
        km__raise(&map->control->checkpointed, round.to.generation);
    round_release(&round);
    return result;
}

/* Under CHECKPOINT: one round. `*more` tells that frames are left that a further round could take. */
static int checkpoint_round(km_map *map, uint64_t deadline, bool closing, bool *more) {
    struct km__control *control = map->control;
    struct km__slots slots;
    *more = false;
    int result = km__slots_load(map, &slots);
    if (result == 0)
        result = km__regions_follow(map, &slots.slot[slots.chosen]);
    if (result == 0)
        result = finish_died(map, &slots);
    if (result == 1)
        return 0;
    const uint64_t target = km__load(&control->target); /* before `appended`, which it never is beyond */
    if (result == 0)
        result = km__sync_to(map, km__load(&control->appended), deadline); /* C2 */
    if (result != 0)
        return result;
    const struct km__header *header = &slots.slot[slots.chosen];
    const uint64_t wanted = km__full_pages(&map->header) ? target : km__load(&control->durable); /* C9 */
    km__raise(&control->target, wanted);
    const uint64_t goal = lower_to_pins(map, wanted);
    if (goal <= header->generation || goal < header->target ||
        (km__full_pages(&map->header) && goal < wanted)) /* C5, C9 */
        return 0;
    const uint64_t least = km__full_pages(&map->header) ? goal : header->target;
    uint64_t excluded = goal;
    const uint64_t floor = least > header->generation ? least - 1 : header->generation;
    result = km__readers_exclude(map, &excluded, floor); /* C4 */
    if (result != 0 || excluded == 0)
        return result;
    result = bring_home(map, &slots, excluded, least, closing);
    km__readers_admit(map, excluded);
    *more = result == 0 && km__load(&control->checkpointed) < excluded;
    return result;
}

int km__checkpoint_lock(km_map *map, uint64_t deadline) {
    struct km__control *control = map->control;
    const int result = km__lock_wait(map, KM__CHECKPOINT, OS_LOCK_WRITE, deadline);
    if (result != 0)
        return result;
    if (atomic_load(&control->file_mark) != 0) /* J9: its setter is dead */
        km__raise(&control->suspect, km__load(&control->appended) + 1);
    atomic_store(&control->file_mark, 1);
    return 0;
}

void km__checkpoint_unlock(km_map *map) {
    if (!map->lost)
        atomic_store(&map->control->file_mark, 0);
    km__unlock(map, KM__CHECKPOINT);
}

/* C9: choose the next target while nobody can append. */
static int choose_target(km_map *map, uint64_t deadline) {
    struct km__control *control = map->control;
    if (!km__full_pages(&map->header) || km__load(&control->target) > km__load(&control->checkpointed))
        return 0;
    const bool writing = map->access == KM_WRITE;
    int result = writing ? 0 : km__lock_wait(map, KM__WRITER, OS_LOCK_WRITE, deadline);
    if (result != 0)
        return result;
    if (km__load(&control->target) <= km__load(&control->checkpointed))
        km__raise(&control->target, km__load(&control->appended));
    if (!writing)
        km__unlock(map, KM__WRITER);
    return 0;
}

int km__checkpoint(km_map *map, uint64_t deadline, bool closing) {
    int result = km__still_there(map);
    if (result == 0 && km__failed(map))
        result = km__failed_error(map);
    bool more = result == 0;
    const uint64_t wanted = more ? km__load(&map->control->appended) : 0;
    while (result == 0 && more) {
        result = choose_target(map, deadline);
        if (result == 0)
            result = km__checkpoint_lock(map, deadline);
        if (result != 0)
            return result;
        const uint64_t before = km__load(&map->control->checkpointed);
        const bool reached = km__load(&map->control->target) <= before;
        result = checkpoint_round(map, deadline, closing, &more);
        /* An older target was on its way, or reached by another (C9): now to the newest commit. */
        const uint64_t now = km__load(&map->control->checkpointed);
        more = more || (km__full_pages(&map->header) && (reached || now > before) && now < wanted);
        km__checkpoint_unlock(map);
    }
    return result;
}

/* The first frame of a session: from now on the map is not clean, and who recovers it looks closely. */
int km__mark_unclean(km_map *map, uint64_t deadline) {
    struct km__slots slots;
    if (atomic_load_explicit(&map->control->clean, memory_order_relaxed) == 0)
        return 0;
    int result = km__checkpoint_lock(map, deadline);
    if (result != 0)
        return result;
    result = km__slots_load(map, &slots);
    if (result == 0 && (slots.slot[slots.chosen].flags & KM__HEADER_CLEAN) != 0) {
        struct km__header header = slots.slot[slots.chosen];
        header.flags &= ~(uint64_t)KM__HEADER_CLEAN;
        result = km__slots_store(map, &slots, &header);
    }
    if (result == 0)
        atomic_store_explicit(&map->control->clean, 0, memory_order_relaxed);
    km__checkpoint_unlock(map);
    return result;
}
