/* SPDX-License-Identifier: MIT
 *
 * Growth of the journal and of the data.
 *
 * Rules, and the failure that each prevents:
 *  G1 [model: ring, growth] The journal grows at its end, under WRITER and CHECKPOINT, when the frames in use do not
 *     wrap: positions stay what they are, and a walk that knows only the shorter ring misses nothing but frames that
 *     came later; `geometry` in control tells it to look again. The new part is zeros, synced, before both slots say
 *     so; both slots say so before a frame lies there.
 *  G2 [model: growth] A file longer than its header says is a growth that died, not an error.
 *  G3 [model: growth] Growth of the data up to max_size is a commit whose frame carries the new size. What lies in
 *     the way of the new bytes (left by a growth that died, or by regions that moved) is zeroed and synced before
 *     that commit.
 *  G4 [model: growth] Beyond max_size the table and the journal move behind everything, which only a handle alone may
 *     do: ATTACH held, no other USER, the journal empty. Until both slots say so the old table and journal stay
 *     untouched.
 *  G5 [model: growth] A journal that grew shrinks to its configured length when it is empty and its first handle is
 *     alone: slots first, then the file. A shorter file under a header that says more would be damage.
 *  G6 [model: growth] Who meets the geometry of a grower that died before control knew it writes the other slot too
 *     and tells control before a frame relies on it; the first to attach does so for every geometry that the slots do
 *     not share. Otherwise acknowledged frames hang on one slot, and if that one is damaged, the other tells of an
 *     older journal. And handles that know the shorter ring would not look for a longer one when they miss a frame:
 *     they would take it for damaged or, if it is not durable yet, for a failed sync (J10). A commit may meet that
 *     geometry as late as in the checkpoint that makes room for its frame, so it looks after that.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "format/bytes.h"
#include "map.h"

enum { COPY_BYTES = 1 << 20 };

/* A sync that found no room is a failed one, too: see J8. */
static int sync_all(km_map *map) {
    return os_file_sync(map->file) == 0 ? 0 : km__sync_failed(map, KM_EIO);
}

/* ---- journal ----------------------------------------------------------------------------------------------------- */

/* Wait until the frames in use do not wrap. */
static int wait_unwrapped(km_map *map, uint64_t deadline) {
    for (unsigned attempt = 0;; attempt++) {
        if (km__journal_is_straight(map))
            return 0;
        int result = km__checkpoint(map, deadline, false);
        if (result != 0 && result != KM_EBUSY)
            return result;
        result = km__journal_trim(map);
        if (result != 0)
            return result;
        if (km__journal_is_straight(map))
            return 0;
        if (os_time_monotonic_ns() >= deadline)
            return km__journal_who_holds(map);
        km__rest(map, attempt + 64);
    }
}

/* Under WRITER and CHECKPOINT (G1). */
static int grow_ring(km_map *map, struct km__slots *slots, uint64_t length) {
    struct km__header header = slots->slot[slots->chosen];
    const uint64_t ring = header.journal_size, old_end = header.journal_offset + ring;
    const uint64_t least = km__round_up(map->cursor.position + length, KM__ALIGN);
    const uint64_t grown = least > 2 * ring ? least : 2 * ring;
    if (length > KM__SIZE_MAX / 4 || header.journal_offset + grown > KM__SIZE_MAX)
        return km__error(KM_ESIZE, "%s: a commit of %" PRIu64 " bytes is too large for any journal: commit in parts",
                         map->path, length);
    int result = km__file_zeros(map->file, old_end, grown - ring);
    if (result == 0)
        result = sync_all(map);
    if (result != 0) {
        (void)os_file_resize(map->file, old_end);
        return km__error_prefix(result, "%s: the journal has to grow to %" PRIu64 " bytes for this commit", map->path,
                                grown);
    }
    header.journal_size = grown;
    header.geometry++;
    result = km__slots_store_both(map, slots, &header);
    if (result == 0)
        result = km__regions_map(map, &slots->slot[slots->chosen]);
    if (result == 0)
        km__raise(&map->control->geometry, header.geometry);
    return result;
}

/* Under WRITER and CHECKPOINT (G6): the newest slot has a geometry that control does not know. The newest is written
 * again first, because nobody says that it is durable (H1). */
static int take_over_geometry(km_map *map, struct km__slots *slots) {
    const struct km__header same = slots->slot[slots->chosen];
    int result = km__slots_store(map, slots, &same);
    if (result == 0)
        result = km__regions_map(map, &slots->slot[slots->chosen]);
    if (result == 0)
        km__raise(&map->control->geometry, map->header.geometry);
    return result;
}

int km__finish_dead_growth(km_map *map, uint64_t deadline) {
    if (km__load(&map->control->geometry) >= map->header.geometry)
        return 0;
    int result = km__checkpoint_lock(map, deadline);
    if (result != 0)
        return result;
    struct km__slots slots;
    result = km__slots_load(map, &slots);
    if (result == 0)
        result = take_over_geometry(map, &slots);
    km__checkpoint_unlock(map);
    return result;
}

int km__grow_journal(km_map *map, uint64_t length, uint64_t deadline) {
    int result = wait_unwrapped(map, deadline);
    if (result == 0)
        result = km__checkpoint_lock(map, deadline);
    if (result != 0)
        return result;
    struct km__slots slots;
    result = km__slots_load(map, &slots);
    if (result == 0 && slots.slot[slots.chosen].geometry != map->header.geometry)
        result = take_over_geometry(map, &slots);
    if (result == 0 && map->header.journal_size < length)
        result = grow_ring(map, &slots, length);
    km__checkpoint_unlock(map);
    return result;
}

int km__is_alone(km_map *map) {
    const int held = os_lock_probe(map->locks, KM__LOCK_BASE + KM__USER, 1, OS_LOCK_WRITE, NULL);
    return held < 0 ? held : held == 0;
}

int km__shrink_journal(km_map *map, struct km__slots *slots) {
    const int alone = km__is_alone(map);
    if (alone <= 0)
        return alone;
    struct km__header header = slots->slot[slots->chosen];
    header.journal_size = header.journal_configured;
    header.journal_position = 0;
    header.history_generation = header.generation;
    header.history_position = 0;
    header.history_chain = header.journal_chain;
    header.geometry++;
    int result = km__slots_store_both(map, slots, &header);
    if (result == 0)
        result = km__regions_map(map, &slots->slot[slots->chosen]);
    if (result == 0)
        result = os_file_resize(map->file, km__header_file_end(&header));
    return result;
}

/* ---- data -------------------------------------------------------------------------------------------------------- */

int km__clear_way(km_map *map, uint64_t old_size, uint64_t size, uint64_t deadline) {
    const uint64_t first = map->header.data_offset + km__pages_of(old_size) * KM__PAGE;
    const uint64_t end = map->header.data_offset + km__pages_of(size) * KM__PAGE;
    bool found = false;
    int result = 0;
    for (uint64_t at = first; at < end && result == 0;) {
        uint64_t start = end, stop = end;
        result = os_file_next_data(map->file, at, end, &start, &stop);
        if (result == 0 && start < stop) {
            found = true;
            result = os_file_zero(map->file, start, stop - start);
        }
        at = stop > at ? stop : end;
    }
    if (result != 0 || !found)
        return result;
    result = km__checkpoint_lock(map, deadline); /* for its mark: see J9 */
    if (result != 0)
        return result;
    result = sync_all(map);
    km__checkpoint_unlock(map);
    return result;
}

static int grow_in_place(km_map *map, uint64_t size, uint64_t deadline) {
    int result = km__clear_way(map, map->cursor.data_size, size, deadline);
    if (result == 0 && os_file_holes_take_space(map->file))
        result = km__allocate_data(map->file, &map->header, size);
    if (result == 0) {
        km__clear_tail(map);
        result = km__commit_write(map, size, deadline);
    }
    if (result != 0 && map->access != 0)
        (void)km__end(map, false);
    return result;
}

static int copy_table(km_map *map, const struct km__header *from, const struct km__header *to) {
    unsigned char *bytes = malloc(COPY_BYTES);
    if (bytes == NULL)
        return km__error(KM_ENOMEM, "%s: no memory to move the table of checksums", map->path);
    const uint64_t length = km__pages_of(from->data_size) * sizeof(uint32_t);
    int result = 0;
    for (uint64_t at = 0; at < length && result == 0;) {
        uint64_t start = length, stop = length;
        result = os_file_next_data(map->file, from->table_offset + at, from->table_offset + length, &start, &stop);
        if (result != 0 || start >= from->table_offset + length)
            break;
        at = start - from->table_offset;
        const uint64_t left = stop - start;
        const size_t step = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        result = os_file_read(map->file, start, bytes, step);
        if (result == 0)
            result = os_file_write(map->file, to->table_offset + at, bytes, step);
        at += step;
    }
    free(bytes);
    return result;
}

/* G4: where everything stands once the data may grow to `size`. */
static int moved_layout(km_map *map, const struct km__header *from, uint64_t size, struct km__header *to) {
    *to = *from;
    const uint64_t data_end = km__round_up(from->data_offset + size, KM__ALIGN);
    const uint64_t file_end = km__round_up(km__header_file_end(from), KM__ALIGN);
    to->data_capacity = size;
    to->table_offset = data_end > file_end ? data_end : file_end;
    to->table_capacity = km__round_up(km__pages_of(size) * sizeof(uint32_t), KM__ALIGN);
    to->journal_offset = to->table_offset + to->table_capacity;
    to->journal_position = 0;
    to->history_generation = from->generation;
    to->history_position = 0;
    to->history_chain = from->journal_chain;
    to->geometry++;
    if (to->journal_offset + to->journal_size > KM__SIZE_MAX || km__pages_of(size) > KM__PAGE_NUMBER_MAX)
        return km__error(KM_ESIZE, "%s: %" PRIu64 " bytes are too many", map->path, size);
    if (km__pages_of(size) * KM__PAGE > map->view.reserve)
        return km__error(KM_ESIZE,
                         "%s: the address space behind this handle's data ends at %" PRIu64
                         " bytes: grow in steps, with a new handle for each",
                         map->path, map->view.reserve);
    return 0;
}

/* Under ATTACH, alone, the journal empty. */
static int move_regions(km_map *map, uint64_t size) {
    struct km__slots slots;
    struct km__header moved;
    int result = km__slots_load(map, &slots);
    if (result != 0)
        return result;
    const struct km__header from = slots.slot[slots.chosen];
    if (!km__is_live(map) && (from.generation != km__load(&map->control->appended) || from.target != from.generation))
        return km__error(KM_EBUSY, "%s: the journal could not be emptied: try again", map->path);
    result = moved_layout(map, &from, size, &moved);
    if (result != 0)
        return result;
    result = os_file_resize(map->file, km__header_file_end(&from)); /* what a growth that died left there (G2) */
    if (result == 0)
        result = os_file_resize(map->file, km__header_file_end(&moved));
    if (result == 0)
        result = copy_table(map, &from, &moved);
    if (result == 0)
        result = km__file_zeros(map->file, moved.journal_offset, moved.journal_size);
    if (result == 0)
        result = sync_all(map);
    if (result != 0) {
        (void)os_file_resize(map->file, km__header_file_end(&from));
        return km__error_prefix(result, "%s: growing to %" PRIu64 " bytes", map->path, size);
    }
    result = km__slots_store_both(map, &slots, &moved);
    if (result == 0) { /* told first: the next begin tries again to map what could not be mapped */
        km__raise(&map->control->geometry, moved.geometry);
        result = km__regions_map(map, &slots.slot[slots.chosen]);
    }
    map->stale = true; /* positions are new: the next begin starts from the header */
    return result;
}

/* With the mark of who holds CHECKPOINT, which nobody can want here; it stays if this fails (S8 and S9 in live.c). */
static int move_live(km_map *map, uint64_t size) {
    const uint32_t mark = atomic_exchange(&map->control->file_mark, 1);
    const int result = move_regions(map, size);
    if (result == 0)
        atomic_store(&map->control->file_mark, mark);
    return result;
}

int km__grow_beyond(km_map *map, uint64_t size, uint64_t deadline) {
    int result = km__lock_wait(map, KM__ATTACH, OS_LOCK_WRITE, deadline);
    if (result != 0)
        return result;
    const int alone = km__is_alone(map);
    if (alone < 0)
        result = alone;
    else if (alone == 0)
        result = km__error(KM_EBUSY,
                           "%s: growing beyond max_size (%" PRIu64
                           " bytes) needs this handle to be the only one, and others "
                           "are attached: close them first (keepmap who)",
                           map->path, map->header.data_capacity);
    if (result == 0 && !km__is_live(map))
        result = km__mark_unclean(map, deadline);
    if (result == 0 && !km__is_live(map))
        result = km__checkpoint(map, deadline, false);
    if (result == 0)
        result = km__is_live(map) ? move_live(map, size) : move_regions(map, size);
    km__unlock(map, KM__ATTACH);
    return result;
}

int km_grow(km_map *map, uint64_t size) {
    int result = km__enter(map);
    if (result != 0)
        return result;
    const uint64_t deadline = km__deadline(map);
    if (map->raw)
        result = km__raw_refuse(map, "km_grow()");
    else if (map->read_only)
        result = km__error(KM_EREADONLY, "%s: km_grow() needs a handle that may write", map->path);
    else if (map->access != 0)
        result = km__error(KM_EMISUSE, "%s: km_grow() inside a transaction: end it first", map->path);
    else if (size == 0 || size > KM__SIZE_MAX)
        result = km__error(KM_ESIZE, "%s: sizes go from 1 to %" PRIu64 " bytes", map->path, (uint64_t)KM__SIZE_MAX);
    if (result == 0) /* taking space for a file that was cut short would make it longer again */
        result = km__still_there(map);
    if (result == 0 && (map->flags & KM_CHECK) != 0 && !km__is_live(map))
        result = km__check_stray(map);
    if (result == 0 && km__is_live(map))
        return km__leave(map, km__live_grow(map, size, deadline));
    for (bool moved = false; result == 0; moved = true) {
        result = km__begin_write(map, deadline);
        if (result != 0)
            break;
        const uint64_t now = map->cursor.data_size;
        if (size > now && size <= map->header.data_capacity) {
            result = grow_in_place(map, size, deadline);
            break;
        }
        (void)km__end(map, false);
        if (size == now)
            break;
        if (size < now)
            result =
                km__error(KM_ESIZE, "%s: it has %" PRIu64 " bytes already, and maps do not shrink", map->path, now);
        else if (moved)
            result = km__error(KM_EBUSY, "%s: it was changed while it grew: try again", map->path);
        else
            result = km__grow_beyond(map, size, deadline);
    }
    return km__leave(map, result);
}
