/* SPDX-License-Identifier: MIT
 *
 * Views: what a handle shows, how it is brought from one generation to the next, and how stores are found.
 *
 * A handle maps home twice: shared and read-only (`home_region`), and private copy-on-write (`view`). Invariant V:
 * a view at generation g shows home for every page that no frame after its base touched, and a patched private copy
 * of every page that one did. Applying a frame is "set these bytes", so that repeating what home already contains
 * changes nothing, also over a page that a checkpoint has half written or that a power cut tore between sectors.
 *
 * The rules of begin, and the failure that each prevents (c is `checkpointed`, pin is the handle's slot):
 *  V1 [model: snapshot] Store pin = max(view, c), full fence, load `checkpointed` again: if it passed the pin, move
 *     the pin and repeat. Without it the pin can be stored just after a checkpointer looked at the pins and
 *     published, and the frames that the refresh needs are overwritten.
 *  V2 [model: snapshot] Only then load `target`, then `visible`, and refresh to `target`, as far as it is visible. A
 *     checkpoint that did not see the pin has stored its target before it looked, and has published `visible` up to its
 *     goal before that: home may be anywhere up to it, so the view must be past it. A target that is not visible yet
 *     (C9) must not be shown.
 *  V3 A view older than home drops its whole range, not a list of pages: pages can be private without any frame
 *     (equal stores, locked memory, aborted stores) and would go on showing an older home.
 *  V4 A view that starts anew takes its base from the newest header slot, read after the pin is stored, then raises
 *     the pin to it and checks again: `checkpointed` may lag behind the header when a checkpointer died or is about
 *     to publish, and the positions of older frames are not to be had.
 *  V5 A view never goes back. If it is ahead of `visible` (after an aborted write that began at an unpublished
 *     commit), that commit is synced and published first; it would otherwise show what a power cut can still take
 *     away. The one exception is a failed sync, after which reads stand at the last durable commit.
 *  V6 After a refresh each page that it touched must match the stored checksum of the last frame that touched it.
 *  V7 [model: read_only] A handle without write permission locks READER + a generation that was durable, not the
 *     one that it shows: a generation that was only visible can come back with other bytes after everybody died, be
 *     checkpointed, and change home under a lock of the same number. What was durable it learns between its two looks
 *     at the epoch (O4): behind the second one that could be the word of the next session.
 *  V8 A handle that has never written has no image of a patched page but the view, where its program may have stored
 *     outside a transaction. Before it speaks of damage it starts anew, once, from home and the frames alone (V3):
 *     otherwise a mistake of the program is told as one of the disk, and a sound map given up for a copy.
 *
 * A handle that writes keeps `twin`, a committed image of each patched page, because a patched page cannot be
 * compared with home. The twin is brought forward by the frames' bytes only, never by reading the view: another
 * thread may store into the view meanwhile, and what it stores then would be taken for committed.
 */
#include <string.h>

#include "map.h"

/* Patched pages from which a view is started anew once a checkpoint has brought home past its base. */
enum { REBASE_PAGES = 4096 };

/* Address space kept beyond the capacity, so that growth beyond max_size finds room at the next address. */
#define RESERVE_SLACK (UINT64_C(64) << 30)

#define PIN_TRIES 100000

const unsigned char *km__image(km_map *map, uint64_t page, const struct km__patch *patch) {
    return patch != NULL && patch->image != NULL ? patch->image : map->home_region.address + page * KM__PAGE;
}

/* ---- starting anew ----------------------------------------------------------------------------------------------- */

static int view_create(km_map *map, uint64_t data_size) {
    const uint64_t length = km__pages_of(data_size) * KM__PAGE;
    const uint64_t capacity = km__pages_of(map->header.data_capacity) * KM__PAGE;
    const uint64_t slack = capacity > RESERVE_SLACK ? capacity : RESERVE_SLACK;
    int result = os_view_map(&map->view, map->file, OS_VIEW_PRIVATE, map->header.data_offset, length, capacity + slack);
    if (result != 0)
        result = os_view_map(&map->view, map->file, OS_VIEW_PRIVATE, map->header.data_offset, length, capacity);
    return result;
}

/* Forget every private copy (V3). Where the system refuses, home is copied over what differs. */
static void view_drop_all(km_map *map) {
    if (os_view_drop(&map->view, 0, map->view.length) == 0)
        return;
    km__error_clear();
    for (uint64_t at = 0; at < map->view.length; at += KM__PAGE)
        if (memcmp(map->view.address + at, map->home_region.address + at, KM__PAGE) != 0)
            memcpy(map->view.address + at, map->home_region.address + at, KM__PAGE);
}

int km__rebase(km_map *map, const struct km__header *header) {
    int result = km__regions_follow(map, header);
    if (result == 0 && km__is_live(map))
        return km__live_map(map);
    if (result == 0 && map->view.address == NULL)
        result = view_create(map, header->data_size);
    if (result == 0)
        result = km__home_cover(map, header->data_size);
    if (result != 0)
        return result;
    view_drop_all(map);
    km__pool_reset(&map->twin);
    km__index_clear(&map->index);
    map->base = header->generation;
    map->cursor = km__header_cursor(header);
    km__places_reset(&map->places, header->generation + 1);
    map->stale = false;
    return 0;
}

/* ---- refresh ----------------------------------------------------------------------------------------------------- */

void km__clear_tail(km_map *map) {
    for (uint64_t at = map->cursor.data_size; at % KM__PAGE != 0; at++)
        if (map->view.address[at] != 0)
            map->view.address[at] = 0;
}

static int take_size(km_map *map, uint64_t data_size) {
    const int result = km__home_cover(map, data_size);
    if (result == 0 && data_size > map->cursor.data_size)
        km__clear_tail(map);
    return result;
}

static int apply_page(km_map *map, const struct km__frame_page *page, uint64_t generation, uint64_t started) {
    bool added = false;
    struct km__patch *patch = km__index_add(&map->index, page->page, &added);
    if (patch == NULL)
        return KM_ENOMEM;
    const uint64_t at = page->page * KM__PAGE;
    if (added && map->has_twin) {
        patch->image = km__pool_take(&map->twin);
        if (patch->image == NULL)
            return KM_ENOMEM;
        memcpy(patch->image, map->home_region.address + at, KM__PAGE);
    }
    if (patch->image != NULL)
        km__frame_apply(page, patch->image);
    km__frame_apply(page, map->view.address + at);
    const bool first = added || patch->generation <= started;
    patch->generation = generation;
    patch->stored = page->stored;
    return first ? km__page_list_add(&map->touched, page->page) : 0;
}

static int apply_frame(km_map *map, uint64_t started) {
    struct km__frame_walk walk;
    struct km__frame_page page;
    int result = take_size(map, map->frame.head.data_size);
    km__frame_walk_start(&walk, &map->frame);
    while (result == 0 && km__frame_walk_next(&walk, &page))
        result = apply_page(map, &page, map->frame.head.generation, started);
    return result;
}

static int note_damage(km_map *map, uint64_t page, uint32_t expected, uint32_t found) {
    const int result = km__array_reserve((void **)&map->damaged.items, &map->damaged.capacity, map->damaged.count + 1,
                                         sizeof(struct km__damage));
    if (result == 0)
        map->damaged.items[map->damaged.count++] = (struct km__damage){page, expected, found};
    return result;
}

/* V6. Tells of the first damaged page, and notes all of them if asked to. */
static int check_touched(km_map *map) {
    int result = 0;
    for (size_t i = 0; i < map->touched.count; i++) {
        const uint64_t page = map->touched.items[i];
        const struct km__patch *patch = km__index_find(&map->index, page);
        const unsigned char *shown = patch->image != NULL ? patch->image : map->view.address + page * KM__PAGE;
        const uint32_t found = km__checksum_page(map->header.checksum_kind, shown);
        if (found == patch->stored)
            continue;
        if (result == 0)
            result = km__error(KM_ECORRUPT,
                               "%s: page %llu (bytes from %llu) has checksum %08x, commit %llu says %08x: the disk "
                               "changed it; run keepmap verify, restore it from a copy",
                               map->path, (unsigned long long)page, (unsigned long long)(page * KM__PAGE),
                               (unsigned)found, (unsigned long long)patch->generation, (unsigned)patch->stored);
        if (!map->collect_damaged)
            break;
        if (note_damage(map, page, patch->stored, found) != 0)
            return KM_ENOMEM;
    }
    return result;
}

/* Read the frame after `cursor`; a ring that another handle made longer is mapped and tried again. */
static int next_frame(km_map *map, struct km__cursor *cursor) {
    int result = km__journal_read(map, &map->frame, cursor);
    if (result != 1)
        return result;
    const uint64_t geometry = map->header.geometry;
    result = km__geometry_refresh(map);
    if (result != 0)
        return result;
    if (map->header.geometry == geometry)
        return 1;
    return km__journal_read(map, &map->frame, cursor);
}

/* Note where another handle's frame stands. What its writer swept over on the way from `head` it knew to be reusable
 * (J1); keeping those places would leave a list of more than one lap, which says nothing about what is free. */
static int note_place(km_map *map, uint64_t head) {
    const uint64_t position = map->frame.position, end = position + map->frame.head.length;
    struct km__places *places = &map->places;
    while (places->count > 0) {
        const struct km__place *oldest = km__places_find(places, places->first);
        const bool swept = position >= head ? oldest->position < end && oldest->position + oldest->length > head
                                            : oldest->position >= head || oldest->position < end;
        if (!swept)
            break;
        map->reusable = places->first > map->reusable ? places->first : map->reusable;
        km__places_drop(places, places->first);
    }
    return km__places_add(places, position, map->frame.head.length);
}

int km__refresh_to(km_map *map, uint64_t goal) {
    const uint64_t started = map->cursor.generation;
    if (started >= goal)
        return 0;
    int result = 0;
    map->touched.count = 0;
    while (map->cursor.generation < goal && result == 0) {
        struct km__cursor next = map->cursor;
        result = next_frame(map, &next);
        if (result == 1)
            result = km__frame_lost(map, map->cursor.generation + 1);
        if (result == 0)
            result = apply_frame(map, started);
        if (result == 0 && !map->read_only)
            result = note_place(map, map->cursor.position);
        if (result == 0)
            map->cursor = next;
    }
    if (result == 0)
        result = check_touched(map);
    if (result != 0)
        map->stale = true; /* half applied: the next begin starts anew */
    return result;
}

/* ---- begin, for handles that may write --------------------------------------------------------------------------- */

/* V1: pin at least `generation`; returns the pin that holds. */
static uint64_t pin_down(km_map *map, uint64_t generation) {
    struct km__control *control = map->control;
    uint64_t pin = generation;
    for (;;) {
        const uint64_t checkpointed = km__load(&control->checkpointed);
        pin = pin > checkpointed ? pin : checkpointed;
        atomic_store_explicit(&control->slot[map->slot].pin, pin, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        if (km__load(&control->checkpointed) <= pin)
            return pin;
    }
}

static bool wants_rebase(const km_map *map, uint64_t checkpointed) {
    return checkpointed > map->base && map->index.count >= REBASE_PAGES;
}

int km__refresh_pinned(km_map *map) {
    struct km__control *control = map->control;
    if (km__load(&control->checkpointed) > map->cursor.generation ||
        wants_rebase(map, km__load(&control->checkpointed)))
        map->stale = true;
    for (int tries = 0; tries < PIN_TRIES; tries++) {
        const uint64_t pin = pin_down(map, map->stale ? 0 : map->cursor.generation);
        if (!map->stale && pin == map->cursor.generation)
            break;
        map->stale = true;
        struct km__slots slots;
        int result = km__slots_load(map, &slots);
        if (result != 0)
            return result;
        const struct km__header *header = &slots.slot[slots.chosen];
        if (header->generation < pin)
            continue; /* V4: the words ran ahead of what we read; look again */
        if (pin_down(map, header->generation) != header->generation)
            continue;
        result = km__rebase(map, header);
        if (result != 0)
            return result;
        break;
    }
    if (map->stale)
        return km__error(KM_EHEADER,
                         "%s: the header never caught up with the session: close the map everywhere and open it "
                         "again",
                         map->path);
    const uint64_t target = km__load(&control->target); /* V2 */
    const uint64_t known = km__load(km__failed(map) ? &control->durable : &control->visible);
    return km__refresh_to(map, target < known ? target : known);
}

/* ---- begin, for handles without write permission ----------------------------------------------------------------- */

struct session {
    bool live;
    uint64_t epoch;
};

static int session_look(km_map *map, struct session *session) {
    struct km__control *control = map->control;
    session->epoch = km__load(&control->epoch);
    const int held = km__session_has_slots(map);
    if (held < 0)
        return held;
    session->live = held == 1 && session->epoch != 0 && km__load(&control->magic) == KM__CONTROL_MAGIC &&
                    km__load(&control->epoch) == session->epoch;
    if (!session->live)
        session->epoch = 0;
    return 0;
}

/* Lock READER + `generation` instead of what is locked now; the old lock goes last, so that nothing slips between. */
static int reader_move(km_map *map, uint64_t generation) {
    if (map->reader_locked && map->reader_generation == generation)
        return 0;
    const int result = km__reader_lock(map, generation);
    if (result != 0)
        return result;
    if (map->reader_locked)
        km__reader_unlock(map, map->reader_generation);
    map->reader_locked = true;
    map->reader_generation = generation;
    return 0;
}

/* Walk to the last good frame: nobody is there to say what is visible. */
static int refresh_to_end(km_map *map, const struct km__header *header, bool search) {
    struct km__cursor end = map->cursor;
    int result = 0;
    while ((result = next_frame(map, &end)) == 0) {
    }
    if (result < 0)
        return result;
    const uint64_t known = km__known_durable(map, header, end.generation, search);
    return known <= end.generation ? km__refresh_to(map, end.generation)
                                   : km__frame_cut_off(map, known, end.generation);
}

/* One try of km__refresh_read_only(): 0, an error, or 1 to look again. */
static int read_only_try(km_map *map) {
    struct session before, after;
    struct km__slots slots;
    int result = session_look(map, &before);
    if (result != 0)
        return result;
    if (before.live != map->session_live || before.epoch != map->session_epoch)
        map->stale = true; /* what was adopted in private is adopted anew */
    result = km__slots_load(map, &slots);
    if (result != 0)
        return result;
    const bool failed = before.live && atomic_load_explicit(&map->control->failed, memory_order_acquire) != 0;
    if (failed && map->cursor.generation > km__load(&map->control->durable))
        map->stale = true; /* the exception of V5 */
    const uint64_t at_least = slots.slot[slots.chosen].generation;
    const uint64_t floor = map->stale ? 0 : map->reader_floor; /* V7 */
    result = reader_move(map, floor > at_least ? floor : at_least);
    if (result != 0)
        return result == KM_EBUSY ? 1 : result;
    result = km__slots_load(map, &slots);
    if (result != 0)
        return result;
    const struct km__header *header = &slots.slot[slots.chosen];
    if (header->generation > map->reader_generation)
        return 1;
    const bool started_anew =
        map->stale || map->cursor.generation < header->generation || wants_rebase(map, header->generation);
    if (started_anew) {
        /* The lock stands at or above the header: its own generation is needed for what lies between. */
        const uint64_t wanted = header->generation;
        if (wanted < map->reader_generation) {
            if (reader_move(map, wanted) != 0)
                return 1;
            result = km__slots_load(map, &slots);
            if (result != 0)
                return result;
            header = &slots.slot[slots.chosen];
            if (header->generation != wanted)
                return 1; /* a checkpoint went by before the lock */
        }
        result = km__rebase(map, header);
    }
    map->session_live = before.live;
    map->session_epoch = before.epoch;
    if (result == 0 && before.live) {
        result = km__refresh_to(map, failed ? km__load(&map->control->durable) : km__load(&map->control->visible));
    } else if (result == 0) {
        result = refresh_to_end(map, header, started_anew);
    }
    /* V7. Before the last look: behind it a session can come whose words are about another history. */
    const uint64_t durable = before.live ? km__load(&map->control->durable) : header->target;
    const int looked = session_look(map, &after); /* O4 */
    if (looked != 0 || after.live != before.live || after.epoch != before.epoch) {
        map->stale = true;
        return looked != 0 ? looked : 1;
    }
    map->reader_floor = map->cursor.generation < durable ? map->cursor.generation : durable;
    if (result == 0 && map->reader_floor > map->reader_generation)
        result = reader_move(map, map->reader_floor);
    return result == KM_EBUSY ? 1 : result;
}

int km__refresh_read_only(km_map *map) {
    const uint64_t deadline = km__deadline(map);
    for (unsigned attempt = 0;; attempt++) {
        const int result = read_only_try(map);
        if (result < 0)
            map->stale = true; /* the next begin looks as closely as this one */
        if (result <= 0)
            return result;
        if (os_time_monotonic_ns() >= deadline)
            return km__error(KM_EBUSY, "%s: a checkpoint did not end in time: try again, or wait longer", map->path);
        km__rest(map, attempt + 32);
    }
}

/* ---- finding stores ---------------------------------------------------------------------------------------------- */

static int wanted_tracker(enum os_tracker *tracker) {
    static const char *const names[] = {
        [OS_TRACKER_SCAN] = "scan", [OS_TRACKER_PAGEMAP] = "pagemap", [OS_TRACKER_COMPARE] = "compare"};
    const char *name = os_environment("KEEPMAP_TRACKER");
    *tracker = OS_TRACKER_SCAN;
    if (name == NULL || name[0] == '\0')
        return 0;
    for (; *tracker <= OS_TRACKER_COMPARE; ++*tracker)
        if (strcmp(name, names[*tracker]) == 0)
            return 0;
    return km__error(KM_EINVAL, "KEEPMAP_TRACKER is \"%.32s\": set it to scan, pagemap or compare, or not at all",
                     name);
}

int km__compare_start(km_map *map) {
    if (map->has_twin)
        return 0;
    if ((map->flags & KM_DECLARED) == 0 || (map->flags & KM_CHECK) != 0) {
        enum os_tracker tracker;
        int result = wanted_tracker(&tracker);
        if (result == 0)
            result = os_view_track(&map->view, tracker);
        if (result != 0)
            return result;
    }
    map->has_twin = true;
    map->stale = true; /* the twin fills as the frames are applied anew */
    return 0;
}

struct collect {
    km_map *map;
    uint64_t pages;
    int result; /* the walk itself only stops */
};

static int collect_run(void *context, uint64_t first, uint64_t count) {
    struct collect *collect = context;
    if (first >= collect->pages)
        return 0;
    if (count > collect->pages - first)
        count = collect->pages - first;
    collect->result = km__page_list_add_run(&collect->map->dirty, first, count);
    return collect->result;
}

static int collect_declared(km_map *map) {
    km__range_list_sort(&map->declared);
    for (size_t i = 0; i < map->declared.count; i++) {
        const uint64_t first = map->declared.items[i].offset / KM__PAGE;
        const uint64_t last = (map->declared.items[i].offset + map->declared.items[i].length - 1) / KM__PAGE;
        const int result = km__page_list_add_run(&map->dirty, first, last - first + 1);
        if (result != 0)
            return result;
    }
    return 0;
}

static int collect_tracked(km_map *map) {
    struct collect collect = {map, km__pages_of(map->cursor.data_size), 0};
    const int result = os_view_dirty(&map->view, collect_run, &collect);
    return result != 0 ? result : collect.result;
}

int km__dirty_collect(km_map *map) {
    int result = collect_declared(map);
    if (result == 0 && (map->flags & KM_DECLARED) == 0)
        result = collect_tracked(map);
    km__page_list_sort(&map->dirty);
    return result;
}

/* Put the committed image back on `count` pages that no frame touched. */
static void take_back_clean(km_map *map, uint64_t first, uint64_t count) {
    const uint64_t at = first * KM__PAGE, length = count * KM__PAGE;
    if (os_view_drop(&map->view, at, length) != 0) {
        km__error_clear();
        memcpy(map->view.address + at, map->home_region.address + at, (size_t)length);
    }
}

void km__dirty_take_back(km_map *map) {
    uint64_t first = 0, count = 0;
    for (size_t i = 0; i < map->dirty.count; i++) {
        const uint64_t page = map->dirty.items[i];
        const struct km__patch *patch = km__index_find(&map->index, page);
        if (patch == NULL && count > 0 && first + count == page) {
            count++;
            continue;
        }
        if (count > 0)
            take_back_clean(map, first, count);
        first = page;
        count = patch == NULL ? 1 : 0;
        unsigned char *shown = map->view.address + page * KM__PAGE;
        if (patch != NULL && memcmp(shown, km__image(map, page, patch), KM__PAGE) != 0)
            memcpy(shown, km__image(map, page, patch), KM__PAGE);
    }
    if (count > 0)
        take_back_clean(map, first, count);
    map->dirty.count = 0;
    map->declared.count = 0;
}

/* Whether home may show something newer than the view, so that a page without a committed image cannot be judged by
 * it. The answer holds until the pin goes. */
static int home_moved(km_map *map, bool *moved) {
    const uint64_t generation = map->cursor.generation;
    if (!map->read_only) {
        *moved = pin_down(map, generation) != generation || km__load(&map->control->target) > generation;
        return 0;
    }
    struct km__slots slots;
    int result = reader_move(map, generation);
    *moved = result == KM_EBUSY;
    if (*moved || result != 0)
        return *moved ? 0 : result;
    result = km__slots_load(map, &slots);
    *moved = result == 0 &&
             (slots.slot[slots.chosen].generation > generation || slots.slot[slots.chosen].target > generation);
    return result;
}

/* Where a page that may hold a stray store differs from what is committed; its length if nowhere. */
static uint32_t first_difference(const unsigned char *shown, const unsigned char *image, uint32_t length) {
    if (memcmp(shown, image, length) == 0)
        return length;
    uint32_t byte = 0;
    while (byte < length && shown[byte] == image[byte])
        byte++;
    return byte;
}

int km__check_stray(km_map *map) {
    if (!map->has_twin || map->stale)
        return 0;
    map->dirty.count = 0;
    int result = collect_tracked(map);
    if (result != 0)
        return result;
    km__page_list_sort(&map->dirty);
    bool moved = false;
    result = home_moved(map, &moved);
    uint64_t found = 0, where = 0;
    for (size_t i = 0; i < map->dirty.count && result == 0; i++) {
        const uint64_t page = map->dirty.items[i], at = page * KM__PAGE;
        const struct km__patch *patch = km__index_find(&map->index, page);
        if (patch == NULL && moved)
            continue;
        const uint32_t length = km__page_length(map->cursor.data_size, page);
        const uint32_t byte = first_difference(map->view.address + at, km__image(map, page, patch), length);
        if (byte < length)
            where = found++ == 0 ? at + byte : where;
    }
    km__dirty_take_back(map);
    km__unpin(map);
    if (moved)
        map->stale = true; /* what could not be judged is dropped with the whole view */
    if (found > 0)
        return km__error(KM_ESTRAY,
                         "%s: bytes were stored outside a write transaction, first at offset %llu, in %llu pages in "
                         "all; they were taken back: begin a write transaction before storing",
                         map->path, (unsigned long long)where, (unsigned long long)found);
    return result;
}
