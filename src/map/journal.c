/* SPDX-License-Identifier: MIT
 *
 * The journal: a ring of frames at the end of the file. Room for a frame, appending it, making it durable.
 *
 * The life of a commit: build the frame; make room; append under WRITER; publish `appended`; release WRITER; then,
 * unless it is lazy, take SYNC, sync everything from the end of frame `durable` to the newest appended one, publish
 * `visible`, then `durable`, release. Who waited for SYNC finds itself durable: one sync serves many.
 *
 * Rules, and the failure that each prevents:
 *  J1 [model: durability] Frames up to F may be overwritten when `checkpointed` >= F, then a full fence, then every
 *     live pin >= F and no READER lock below F. Looking at pins first lets a handle pin the old generation between
 *     the two looks and lose the frames that its refresh needs. `reusable` only grows: a pin set later ends at or
 *     above `checkpointed`.
 *  J2 A handle that started from home at base b does not know where frames up to b stand, so it overwrites nothing
 *     until all of them are reusable.
 *  J3 [model: ring] A writer first adopts a complete frame that stands at the head without having been published: its
 *     writer died between the two. Otherwise the writer's own frame of the same generation may go to the other place
 *     (the start of the ring), and a walk then finds the dead one's first. A torn one is left where it is: a walk that
 *     looks at heads only must not take it for the writer's own, or a sync makes the wrong bytes durable.
 *  J4 [model: durability] A sync covers everything from frame `durable` on, not just the own frame: publishing
 *     `durable` = n says that every frame up to n is durable.
 *  J5 [model: snapshot] `visible` is published before `durable`, both as a maximum. In the other order a checkpoint can
 *     bring home to a generation that a new reader is not yet willing to show.
 *  J6 With durable = mine - 1, nobody waiting for WRITER, and SYNC free, both locks are held and one durable write
 *     does it all: the usual case of one writer costs one write and no second trip to the disk.
 *  J7 [model: ring] A frame that could not be written whole has its head wiped, durably, so that nobody adopts what its
 *     writer may abort, and no power cut brings it back beside a later frame that went to the other place.
 *  J8 [model: durability] A failed sync poisons the map for every process. The page cache goes on showing bytes
 *     that the disk may never get, and the next sync reports success: nothing that was not durable before can be
 *     promised again until all have closed and the next to open has written it anew. That holds for a sync that found
 *     no room, too: the kernel tells it once, and takes the pages for written. Only a write that was refused poisons
 *     nothing.
 *  J9 [model: durability] The kernel tells a failed write of the journal to one sync of each descriptor that was
 *     open then, be it a sync of the journal or of a header slot, and not to a descriptor opened after somebody was
 *     told. If the one that was told dies before it sets the poison, the next sync reports success for bytes that
 *     the disk never got. So marks stand around every sync: `sync_began` and `sync_ended` under SYNC, `file_mark`
 *     under CHECKPOINT. Who takes the lock and finds the mark of a dead holder, and who attaches while a mark
 *     stands, suspects all frames up to appended + 1 (one may be written and not published yet); the former says so
 *     in `suspect`, because its own sync takes the mark away, and others who come then would acknowledge that one.
 *     Who then holds SYNC writes the suspected frames that are not durable again, from checked copies, before it
 *     syncs; so does who adopts a frame.
 * J10 A frame up to `appended` that is not good is damage if it was durable, and a failed sync if not (the kernel
 *     may drop pages that it could not write); never the end of the journal.
 * J11 A commit that is going to wait for the disk writes no frame while SYNC is locked for reading: none of ours does
 *     that, and who may only read can hold it for ever. Found out before the frame is written, it is KM_EBUSY in time;
 *     afterwards the commit could only wait. The last to close needs no SYNC: nobody is left whom it could exclude.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "map.h"

enum { WALK_TRIES = 16 };

bool km__failed(const km_map *map) {
    return map->control != NULL && !map->read_only &&
           atomic_load_explicit(&map->control->failed, memory_order_acquire) != 0;
}

int km__failed_error(const km_map *map) {
    return km__error(
        KM_EIO,
        "%s: a sync failed, so nothing more is committed: close the map in every process; the next to open "
        "it recovers the last durable commit",
        map->path);
}

/* A write that the system refused, for want of room or beyond a limit of the process: no byte is in doubt. */
static bool was_refused(int result) {
    return result == KM_ENOSPACE || result == KM_ENOMEM || result == KM_ESIZE;
}

/* J8. A refused write is told apart: it poisons nothing, because nothing was promised. */
int km__sync_failed(km_map *map, int result) {
    if (was_refused(result))
        return result;
    if (map->control != NULL && !map->read_only)
        atomic_store_explicit(&map->control->failed, 1, memory_order_seq_cst);
    return km__error_prefix(KM_EIO, "the map is closed to commits until all have closed it");
}

static int frame_unread(const km_map *map, int result, uint64_t generation) {
    return km__error(result, "%s: the frame of commit %" PRIu64 " cannot be read: %s", map->path, generation,
                     km_error_message(result));
}

int km__journal_read(km_map *map, struct km__frame *frame, struct km__cursor *cursor) {
    const int result =
        km__frame_read(frame, map->journal_region.address, map->header.journal_size, &map->limits, cursor);
    return result >= 0 ? result : frame_unread(map, result, cursor->generation + 1);
}

/* J10. */
int km__frame_lost(km_map *map, uint64_t generation) {
    const int fault = km__guard_check(map); /* then only this handle has lost it */
    if (fault != 0)
        return fault;
    if (map->slot != KM__NO_SLOT && generation > km__load(&map->control->durable)) {
        km__error_clear();
        return km__sync_failed(map, KM_EIO);
    }
    return km__error(KM_EJOURNAL, "%s: the frame of commit %" PRIu64 " is damaged: restore the map from a copy",
                     map->path, generation);
}

uint64_t km__known_durable(const km_map *map, const struct km__header *header, uint64_t end, bool search) {
    if (!search)
        return header->target;
    const uint64_t found =
        km__frame_search_durable(map->journal_region.address, map->header.journal_size, header->uuid, end);
    return found > header->target ? found : header->target;
}

int km__frame_cut_off(const km_map *map, uint64_t known, uint64_t end) {
    return km__error(KM_EJOURNAL,
                     "%s: commit %" PRIu64 " was durable, but the frame of commit %" PRIu64
                     " is damaged: restore the map from a copy",
                     map->path, known, end + 1);
}

/* ---- room -------------------------------------------------------------------------------------------------------- */

uint64_t km__journal_used(km_map *map) {
    const uint64_t next = km__load(&map->control->checkpointed) + 1;
    const uint64_t first = next > map->places.first ? next : map->places.first;
    const struct km__place *tail = km__places_find(&map->places, first);
    if (tail == NULL)
        return 0;
    const uint64_t head = map->cursor.position, ring = map->header.journal_size;
    return head > tail->position ? head - tail->position : ring - tail->position + head;
}

/* J1. */
int km__journal_trim(km_map *map) {
    struct km__slots slots;
    const int loaded = km__slots_load(map, &slots);
    if (loaded != 0)
        return loaded;
    /* A wild word must not give frames away that the header still needs. */
    const uint64_t home = slots.slot[slots.chosen].generation;
    uint64_t reusable = km__load(&map->control->checkpointed);
    reusable = reusable < home ? reusable : home;
    atomic_thread_fence(memory_order_seq_cst);
    const uint64_t pin = km__lowest_pin(map, reusable, NULL);
    reusable = pin < reusable ? pin : reusable;
    while (reusable > map->reusable) {
        const int held = km__readers_below(map, &reusable);
        if (held < 0)
            return held;
        if (held == 0)
            break;
    }
    if (reusable > map->reusable)
        map->reusable = reusable;
    km__places_drop(&map->places, map->reusable);
    return 0;
}

/* The free part of the ring lies between the head and the oldest frame that may not be overwritten. */
static bool fits(const km_map *map, uint64_t length, uint64_t *position) {
    const uint64_t head = map->cursor.position, ring = map->header.journal_size;
    if (map->reusable + 1 < map->places.first)
        return false; /* J2 */
    const struct km__place *tail = km__places_find(&map->places, map->reusable + 1);
    if (tail == NULL || tail->position < head) {
        if (length <= ring - head) {
            *position = head;
            return true;
        }
        *position = 0;
        return tail == NULL ? length <= ring : length <= tail->position;
    }
    *position = head;
    return length <= tail->position - head;
}

bool km__journal_is_straight(const km_map *map) {
    if (map->reusable + 1 < map->places.first)
        return false; /* J2 */
    const struct km__place *tail = km__places_find(&map->places, map->reusable + 1);
    return tail == NULL || tail->position < map->cursor.position;
}

int km__journal_who_holds(km_map *map) {
    const uint64_t needed = map->reusable;
    uint32_t slot = 0;
    const uint64_t pin = km__lowest_pin(map, needed + 1, &slot);
    if (pin <= needed && slot != map->slot) {
        const uint32_t process = atomic_load_explicit(&map->control->slot[slot].process_id, memory_order_relaxed);
        return km__error(KM_EBUSY,
                         "%s: the journal is full, and process %" PRIu32 " reads at commit %" PRIu64 " and holds on to "
                         "it: end that transaction and try again",
                         map->path, process, pin);
    }
    uint64_t reader = needed + 1;
    if (km__readers_below(map, &reader) == 1)
        return km__error(KM_EBUSY,
                         "%s: the journal is full, and a handle without write permission reads at commit %" PRIu64
                         " and holds on to it: end that transaction and try again",
                         map->path, reader);
    return km__error(KM_EBUSY, "%s: the journal is full, and a checkpoint is still at work: try again", map->path);
}

int km__journal_room(km_map *map, uint64_t length, uint64_t deadline, uint64_t *position) {
    if (length > map->header.journal_size) {
        const int result = km__grow_journal(map, length, deadline);
        if (result != 0)
            return result;
    }
    for (unsigned attempt = 0;; attempt++) {
        if (fits(map, length, position))
            return 0;
        int result = km__journal_trim(map);
        if (result != 0 || fits(map, length, position))
            return result;
        result = km__checkpoint(map, deadline, false);
        if (result != 0 && result != KM_EBUSY)
            return result;
        const int looked = km__journal_trim(map);
        if (looked != 0 || fits(map, length, position))
            return looked;
        if (os_time_monotonic_ns() >= deadline)
            return km__journal_who_holds(map);
        km__rest(map, attempt + 64);
    }
}

/* ---- append ------------------------------------------------------------------------------------------------------ */

/* J9, under SYNC. */
static void sync_begin(km_map *map) {
    atomic_fetch_add_explicit(&map->control->sync_began, 1, memory_order_seq_cst);
}

static void sync_end(km_map *map) {
    atomic_store_explicit(&map->control->sync_ended, km__load(&map->control->sync_began), memory_order_seq_cst);
}

static bool sync_quiet(km_map *map) {
    return km__load(&map->control->sync_began) == km__load(&map->control->sync_ended);
}

int km__frame_rewrite(km_map *map, struct km__cursor *cursor) {
    const struct km__cursor before = *cursor;
    int result = km__journal_read(map, &map->frame, cursor);
    if (result != 0)
        return result;
    const uint64_t position = map->frame.position, length = map->frame.head.length;
    unsigned char *copy = malloc((size_t)length);
    if (copy == NULL)
        return km__error(KM_ENOMEM, "%s: no memory to copy a frame of %" PRIu64 " bytes", map->path, length);
    memcpy(copy, map->journal_region.address + position, (size_t)length);
    struct km__cursor again = before;
    again.position = 0;
    result = km__frame_read(&map->frame, copy, length, &map->limits, &again);
    if (result < 0)
        result = frame_unread(map, result, before.generation + 1);
    if (result == 0)
        result = os_file_write(map->file, map->header.journal_offset + position, copy, (size_t)length);
    free(copy);
    return result;
}

int km__journal_adopt(km_map *map) {
    for (;;) {
        struct km__cursor next = map->cursor;
        int result = km__frame_rewrite(map, &next);
        if (result != 0)
            return result < 0 ? result : 0;
        result = km__refresh_to(map, next.generation);
        if (result != 0)
            return result;
        km__raise(&map->control->appended, next.generation);
    }
}

/* J7. The transaction stays open. Beyond a limit on sizes the wipe is refused just where the frame was: no whole head
 * is there. */
static int wipe_head(km_map *map, uint64_t position, int result) {
    static const struct km__frame_head none = {0};
    char why[256];
    strncpy(why, km__error_detail(), sizeof why - 1);
    why[sizeof why - 1] = '\0';
    const int wiped = os_file_write_durable(map->file, map->header.journal_offset + position, &none, sizeof none);
    if (wiped != 0 && !(wiped == KM_ESIZE && result == KM_ESIZE))
        return km__sync_failed(map, KM_EIO);
    return km__error(result, "%s", why);
}

/* 1: somebody has locked SYNC for reading, or it was released between the two looks. */
static int sync_is_hindered(km_map *map) {
    const int held = os_lock_probe(map->locks, KM__LOCK_BASE + KM__SYNC, 1, OS_LOCK_WRITE, NULL);
    if (held != 1)
        return held;
    const int writing = os_lock_probe(map->locks, KM__LOCK_BASE + KM__SYNC, 1, OS_LOCK_READ, NULL);
    return writing < 0 ? writing : writing == 0;
}

/* J11. */
static int wait_unhindered(km_map *map, uint64_t deadline) {
    for (unsigned attempt = 0;; attempt++) {
        const int hindered = sync_is_hindered(map);
        if (hindered != 1)
            return hindered;
        if (os_time_monotonic_ns() >= deadline)
            return km__error(KM_EBUSY,
                             "%s: a process that only reads the file holds the lock of who syncs it, which no handle "
                             "does: find it (/proc/locks), end it and try again",
                             map->path);
        km__rest(map, attempt + 64);
    }
}

int km__journal_append(km_map *map, const unsigned char *bytes, uint64_t length, uint64_t position, uint64_t deadline) {
    struct km__control *control = map->control;
    const uint64_t mine = map->cursor.generation + 1, offset = map->header.journal_offset + position;
    int result = 0;
    const bool fast = (map->flags & KM_LAZY) == 0 && km__load(&control->durable) == mine - 1 &&
                      atomic_load_explicit(&control->writer_wanted, memory_order_relaxed) == 0 && sync_quiet(map) &&
                      km__lock_try(map, KM__SYNC, OS_LOCK_WRITE) == 0; /* J6 */
    if (!fast && (map->flags & KM_LAZY) == 0)
        result = wait_unhindered(map, deadline);
    if (result != 0)
        return result;
    if (fast)
        sync_begin(map);
    if (fast)
        result = os_file_write_durable(map->file, offset, bytes, (size_t)length);
    else
        result = os_file_write(map->file, offset, bytes, (size_t)length);
    if (was_refused(result))
        result = wipe_head(map, position, result);
    else if (result != 0)
        result = km__sync_failed(map, result);
    if (result == 0)
        km__raise(&control->appended, mine);
    if (fast && result == 0) {
        sync_end(map);
        km__publish(map, mine); /* J5 */
        km__raise(&control->durable, mine);
    }
    if (fast)
        km__unlock(map, KM__SYNC);
    return result;
}

/* ---- sync -------------------------------------------------------------------------------------------------------- */

/* Where a walk over frames that are not durable yet can start: frames after `checkpointed` stay where they are. */
static int walk_start(km_map *map, bool own, struct km__cursor *cursor) {
    if (own && !map->stale && map->cursor.generation >= km__load(&map->control->checkpointed)) {
        *cursor = map->cursor;
        return 0;
    }
    struct km__slots slots;
    const int result = km__slots_load(map, &slots);
    if (result == 0)
        *cursor = km__header_cursor(&slots.slot[slots.chosen]);
    return result;
}

struct stretch {
    uint64_t start; /* position of the first frame */
    uint64_t end;   /* behind the last; not after start: it wraps */
    uint64_t last;  /* generation of the last */
};

/* Find where the frames of (durable, appended] stand. 1: none could be found from here. */
static int find_stretch(km_map *map, bool own, uint64_t appended, struct stretch *stretch) {
    const uint64_t durable = km__load(&map->control->durable);
    struct km__cursor cursor;
    const int result = walk_start(map, own, &cursor);
    if (result != 0)
        return result;
    const struct km__place *place = own && !map->stale ? km__places_find(&map->places, durable + 1) : NULL;
    bool found = place != NULL && cursor.generation > durable;
    if (found)
        *stretch = (struct stretch){place->position, cursor.position, cursor.generation};
    else if (cursor.generation > durable)
        return 1;
    while (cursor.generation < appended) {
        struct km__frame_head head;
        uint64_t position = 0;
        if (km__frame_peek(&head, &position, map->journal_region.address, map->header.journal_size, &map->limits,
                           &cursor) != 0)
            break;
        if (cursor.generation == durable + 1) {
            stretch->start = position;
            found = true;
        }
        stretch->end = cursor.position;
        stretch->last = cursor.generation;
    }
    return found ? 0 : 1;
}

void km__be_careful(km_map *map) {
    struct km__control *control = map->control;
    if (!sync_quiet(map) || atomic_load(&control->file_mark) != 0)
        map->careful = km__load(&control->appended) + 1;
}

/* Under SYNC: from home to behind frame `durable`. No pin holds what lies between. A checkpoint that needs no sync any
 * more can end meanwhile, and those frames be overwritten; then home is further, and the walk is shorter. 1: a frame is
 * lost, behind the cursor. */
static int walk_to_durable(km_map *map, uint64_t durable, struct km__cursor *cursor) {
    struct km__slots slots;
    uint64_t home = 0;
    for (bool again = false;; again = true) {
        int result = km__geometry_refresh(map);
        if (result == 0)
            result = km__slots_load(map, &slots);
        if (result != 0)
            return result;
        if (again && slots.slot[slots.chosen].generation <= home)
            return 1;
        home = slots.slot[slots.chosen].generation;
        *cursor = km__header_cursor(&slots.slot[slots.chosen]);
        while (result == 0 && cursor->generation < durable)
            result = km__journal_read(map, &map->frame, cursor);
        if (result != 1)
            return result;
    }
}

/* J9, under SYNC: write the suspected frames of (durable, appended] again. */
static int rewrite_suspects(km_map *map, uint64_t appended) {
    struct km__control *control = map->control;
    const uint64_t durable = km__load(&control->durable);
    if (!sync_quiet(map)) /* its holder is dead; the mark goes with this sync, so what is not published is noted */
        km__raise(&control->suspect, km__load(&control->appended) + 1);
    uint64_t last = km__load(&control->suspect);
    last = map->careful > last ? map->careful : last;
    last = last < appended ? last : appended;
    if (last <= durable)
        return 0;
    struct km__cursor cursor;
    int result = walk_to_durable(map, durable, &cursor);
    while (result == 0 && cursor.generation < last)
        result = km__frame_rewrite(map, &cursor);
    return result == 1 ? km__frame_lost(map, cursor.generation + 1) : result;
}

/* J4, under SYNC. */
static int sync_stretch(km_map *map, uint64_t *last) {
    struct stretch stretch = {0};
    const uint64_t appended = km__load(&map->control->appended);
    int result = rewrite_suspects(map, appended);
    if (result != 0)
        return result;
    result = 1;
    for (unsigned tries = 0; tries < WALK_TRIES && result == 1; tries++) {
        result = km__geometry_refresh(map);
        if (result == 0)
            result = find_stretch(map, tries == 0, appended, &stretch);
    }
    if (result == 1)
        return km__error(KM_EJOURNAL,
                         "%s: the frames after commit %" PRIu64 " cannot be found: close the map in every process and "
                         "open it again",
                         map->path, km__load(&map->control->durable));
    if (result != 0)
        return result;
    sync_begin(map);
    if (stretch.end > stretch.start) {
        result = os_region_sync(&map->journal_region, stretch.start, stretch.end - stretch.start);
    } else {
        result = os_region_sync(&map->journal_region, stretch.start, map->header.journal_size - stretch.start);
        if (result == 0)
            result = os_region_sync(&map->journal_region, 0, stretch.end);
    }
    if (result != 0)
        return km__sync_failed(map, KM_EIO);
    result = km__guard_check(map); /* what the guard put in the journal's place is synced in vain; others do it: J9 */
    if (result != 0)
        return result;
    sync_end(map);
    *last = stretch.last;
    return 0;
}

int km__sync_to(km_map *map, uint64_t generation, uint64_t deadline) {
    struct km__control *control = map->control;
    for (unsigned attempt = 0;; attempt++) {
        if (km__load(&control->durable) >= generation)
            return 0;
        if (km__failed(map))
            return km__failed_error(map);
        int result = map->is_last ? 0 : km__lock_try(map, KM__SYNC, OS_LOCK_WRITE); /* J11 */
        if (result == KM_EBUSY) {
            result = km__sync_wait(map, deadline);
            if (result != 0)
                return result;
            continue;
        }
        if (result != 0)
            return result;
        uint64_t last = 0;
        if (km__load(&control->durable) < generation && !km__failed(map)) {
            result = sync_stretch(map, &last);
            if (result == 0) {
                km__publish(map, last); /* J5 */
                km__raise(&control->durable, last);
            }
        }
        km__unlock(map, KM__SYNC);
        if (result != 0)
            return result;
    }
}
