/* SPDX-License-Identifier: MIT
 *
 * Transactions: begin, touch, commit, abort; sync. The rules of begin stand in view.c, those of a commit in journal.c.
 *
 * Further rules, and the failure that each prevents:
 *  T1 A page that no frame after the handle's base touched is compared with home, whose bytes must match the
 *     table's checksum before the page is first changed. Otherwise damage would be given a fresh checksum and pass
 *     for good data.
 *  T2 The table is never asked about a page that a frame in (base, appended] touched: a checkpoint elsewhere may be
 *     writing its entry. The checksum before such a page's change is that of its newest frame.
 *  T3 The checksum after is taken of the bytes in the frame, set in the committed image, not of the view: another
 *     thread may store meanwhile.
 *  T4 Nothing of the handle's own state changes before the frame is in the ring: a commit that fails for want of
 *     room or memory leaves the transaction open and whole.
 */
#include <inttypes.h>
#include <string.h>

#include "map.h"

/* Spans of one page: they do not touch, so two bytes each. */
enum { SPANS_MAX = KM__PAGE / 2, PLACES_KEPT = 4096 };

/* Patched pages from which a checkpoint is due: 64 MiB. */
#define PATCHED_MANY 16384u

/* ---- begin ------------------------------------------------------------------------------------------------------- */

void km__unpin(km_map *map) {
    if (map->read_only) {
        if (map->reader_locked)
            km__reader_unlock(map, map->reader_generation);
        map->reader_locked = false;
    } else if (!map->lost && km__slot_check(map) == 0) {
        km__pin(map, KM__NO_PIN);
    }
}

/* Many places of frames that may be reusable: look how many can be forgotten. If a reader holds on to them, not again
 * before there are many more. */
static int trim_if_due(km_map *map) {
    if (map->places.count < PLACES_KEPT)
        map->trim_retry = PLACES_KEPT;
    if (map->places.count <= map->trim_retry || map->places.first > km__load(&map->control->checkpointed))
        return 0;
    const int result = km__journal_trim(map);
    map->trim_retry = map->places.count + PLACES_KEPT;
    return result;
}

static int refresh_for_reading(km_map *map) {
    struct km__control *control = map->control;
    const bool failed = km__failed(map);
    if (failed && map->cursor.generation > km__load(&control->durable))
        map->stale = true; /* the exception of V5 */
    const uint64_t floor = failed ? 0 : map->cursor.generation;
    int result = km__refresh_pinned(map);
    const uint64_t visible = km__load(failed ? &control->durable : &control->visible);
    const uint64_t goal = visible > floor ? visible : floor;
    if (result == 0)
        result = km__refresh_to(map, goal);
    if (result == 0 && goal > visible && !failed)
        result = km__sync_to(map, goal, km__deadline(map)); /* V5 */
    if (result != 0)
        return result;
    km__pin(map, goal);
    return trim_if_due(map);
}

int km__begin_read(km_map *map) {
    const bool anew = map->stale;
    int result = km__slot_check(map);
    if (result != 0)
        return result;
    result = map->read_only ? km__refresh_read_only(map) : refresh_for_reading(map);
    if (result == KM_ECORRUPT && !anew && !map->has_twin) { /* V8: the program's own store, perhaps */
        km__unpin(map);
        km__error_clear();
        result = map->read_only ? km__refresh_read_only(map) : refresh_for_reading(map);
    }
    if (result == 0)
        map->access = KM_READ;
    else
        km__unpin(map);
    return result;
}

int km__begin_write(km_map *map, uint64_t deadline) {
    struct km__control *control = map->control;
    /* Whether the file is still there is asked by the commit; the lock itself notices a descriptor that is not ours. */
    int result = km__failed(map) ? km__failed_error(map) : km__compare_start(map);
    if (result == 0)
        result = km__lock_wait(map, KM__WRITER, OS_LOCK_WRITE, deadline);
    if (result != 0)
        return result;
    const uint64_t floor = map->cursor.generation;
    result = km__failed(map) ? km__failed_error(map) : km__refresh_pinned(map);
    const uint64_t appended = km__load(&control->appended);
    if (result == 0)
        result = km__geometry_refresh(map);
    if (result == 0)
        result = km__refresh_to(map, appended > floor ? appended : floor);
    if (result == 0)
        result = km__journal_adopt(map); /* J3 */
    if (result == 0) {
        km__pin(map, map->cursor.generation);
        atomic_store_explicit(&map->control->holder, map->slot + 1, memory_order_relaxed);
        map->access = KM_WRITE;
        return 0;
    }
    km__unpin(map);
    km__unlock(map, KM__WRITER);
    return result;
}

int km_begin(km_map *map, enum km_access access) {
    int result = km__enter(map);
    if (result != 0)
        return result;
    if (map->raw)
        result = km__raw_refuse(map, "km_begin()");
    else if (access != KM_READ && access != KM_WRITE)
        result = km__error(KM_EINVAL, "%s: access %d is neither KM_READ nor KM_WRITE", map->path, (int)access);
    else if (map->access != 0)
        result =
            km__error(KM_EMISUSE, "%s: this handle is in a transaction already: commit or abort it first", map->path);
    else if (access == KM_WRITE && map->read_only)
        result =
            km__error(KM_EREADONLY, "%s: this handle was opened with KM_READONLY: open another to write", map->path);
    else if (km__is_live(map))
        return km__leave(map, km__live_begin(map, access));
    else if ((map->flags & KM_CHECK) != 0)
        result = km__check_stray(map);
    if (result == 0)
        result = access == KM_WRITE ? km__begin_write(map, km__deadline(map)) : km__begin_read(map);
    return km__leave(map, result);
}

/* ---- touch ------------------------------------------------------------------------------------------------------- */

int km_touch(km_map *map, uint64_t offset, uint64_t length) {
    int result = km__enter(map);
    if (result != 0)
        return result;
    const uint64_t size = map->cursor.data_size;
    if (map->raw)
        result = km__raw_refuse(map, "km_touch()");
    else if (map->access != KM_WRITE)
        result = km__error(KM_EMISUSE, "%s: km_touch() outside a write transaction: begin one first", map->path);
    else if (offset > size || length > size - offset)
        result = km__error(KM_EINVAL,
                           "%s: %" PRIu64 " bytes at offset %" PRIu64 " lie outside the data of %" PRIu64 " bytes",
                           map->path, length, offset, size);
    else if (length > 0 && !km__is_live(map))
        result = km__range_list_add(&map->declared, offset, length);
    return km__leave(map, result);
}

/* ---- commit: building the frame ---------------------------------------------------------------------------------- */

struct build {
    km_map *map;
    uint64_t data_size;
    uint64_t digest;
    bool full_pages; /* pages last touched up to `target` are journaled whole */
    uint64_t target;
    size_t range; /* first declared range that may matter for the next page */
};

/* The declared ranges that lie in a page, as spans. */
static size_t page_spans(struct build *build, uint64_t page, uint32_t length, struct km__span *spans) {
    const struct km__range_list *ranges = &build->map->declared;
    const uint64_t start = page * KM__PAGE, end = start + length;
    size_t count = 0;
    while (build->range < ranges->count &&
           ranges->items[build->range].offset + ranges->items[build->range].length <= start)
        build->range++;
    for (size_t i = build->range; i < ranges->count && ranges->items[i].offset < end && count < SPANS_MAX; i++) {
        const uint64_t from = ranges->items[i].offset > start ? ranges->items[i].offset : start;
        const uint64_t range_end = ranges->items[i].offset + ranges->items[i].length;
        const uint64_t to = range_end < end ? range_end : end;
        spans[count++] = (struct km__span){(uint16_t)(from - start), (uint16_t)(to - from)};
    }
    return count;
}

static int stored_before(km_map *map, uint64_t page, const struct km__patch *patch, uint32_t *stored) {
    *stored = patch != NULL ? patch->stored : km__table_entry(map, page); /* T2 */
    if (patch != NULL)
        return 0;
    const uint32_t found = km__checksum_page(map->header.checksum_kind, map->home_region.address + page * KM__PAGE);
    if (found == *stored)
        return 0;
    return km__error(KM_ECORRUPT,
                     "%s: page %" PRIu64 " (bytes from %" PRIu64 ") has checksum %08" PRIx32
                     ", the table says %08" PRIx32 ": the disk changed it; run keepmap verify, restore it from a copy",
                     map->path, page, page * KM__PAGE, found, *stored);
}

static int build_page(struct build *build, uint64_t page) {
    km_map *map = build->map;
    const struct km__patch *patch = km__index_find(&map->index, page);
    const unsigned char *before = km__image(map, page, patch), *after = map->view.address + page * KM__PAGE;
    const uint32_t length = km__page_length(build->data_size, page);
    const bool whole = build->full_pages && (patch == NULL || patch->generation <= build->target);
    unsigned char image[KM__PAGE];
    int result;
    if ((map->flags & KM_DECLARED) != 0) {
        struct km__span spans[SPANS_MAX];
        const size_t count = page_spans(build, page, length, spans);
        result = km__frame_add_spans(&map->builder, page, before, after, spans, count, whole, length, image);
    } else {
        result = km__frame_add_page(&map->builder, page, before, after, length, whole, image);
    }
    if (result <= 0)
        return result < 0 ? km__error(result, "%s: no memory for the frame of this commit", map->path) : 0;
    uint32_t stored = 0;
    result = stored_before(map, page, patch, &stored); /* T1 */
    if (result != 0)
        return result;
    const uint32_t now = km__checksum_page(map->header.checksum_kind, image); /* T3 */
    km__frame_set_stored(&map->builder, now);
    build->digest += km__digest_mix(page, now) - km__digest_mix(page, stored);
    return 0;
}

static int build_frame(struct build *build) {
    km_map *map = build->map;
    km__frame_start(&map->builder);
    build->digest = map->cursor.digest;
    build->target = km__load(&map->control->target);
    build->range = 0;
    int result = 0;
    for (size_t i = 0; i < map->dirty.count && result == 0; i++)
        result = build_page(build, map->dirty.items[i]);
    return result;
}

static int finish_frame(struct build *build, const unsigned char **bytes, uint64_t *length, struct km__cursor *after) {
    km_map *map = build->map;
    const uint64_t durable = km__load(&map->control->durable); /* a wild word must not make a frame that nobody reads */
    struct km__frame_fields fields = {
        .generation = map->cursor.generation + 1,
        .time_ns = os_time_wall_ns(),
        .nonce = map->nonce,
        .data_size = build->data_size,
        .digest = build->digest,
        .durable = durable < map->cursor.generation ? durable : map->cursor.generation,
        .previous_chain = map->cursor.chain,
        .process_id = map->process_id,
        .compress = map->limits.compress,
        .whole_blocks = build->full_pages,
    };
    memcpy(fields.uuid, map->header.uuid, sizeof fields.uuid);
    *after =
        (struct km__cursor){.generation = fields.generation, .digest = build->digest, .data_size = build->data_size};
    const int result = km__frame_finish(&map->builder, &fields, bytes, length, &after->chain);
    return result == 0 ? 0 : km__error(result, "%s: the frame of this commit could not be built", map->path);
}

/* ---- commit: taking it over -------------------------------------------------------------------------------------- */

/* What the frame says becomes the handle's own state; room was made before, so that nothing here can fail. */
static void take_over(km_map *map, const struct km__cursor *after, uint64_t position, uint64_t length) {
    const struct km__frame own = {.head.body_length = map->builder.length - sizeof(struct km__frame_head),
                                  .body = map->builder.bytes + sizeof(struct km__frame_head)};
    struct km__frame_walk walk;
    struct km__frame_page page;
    km__frame_walk_start(&walk, &own);
    while (km__frame_walk_next(&walk, &page)) {
        bool added = false;
        struct km__patch *patch = km__index_add(&map->index, page.page, &added);
        if (added) {
            patch->image = km__pool_take(&map->twin);
            memcpy(patch->image, map->home_region.address + page.page * KM__PAGE, KM__PAGE);
        }
        km__frame_apply(&page, patch->image);
        patch->generation = after->generation;
        patch->stored = page.stored;
    }
    (void)km__places_add(&map->places, position, length);
    map->cursor = *after;
}

/* End the write transaction; its stores are kept or have been taken back. */
static void end_write(km_map *map) {
    map->access = 0;
    km__unpin(map);
    if (!map->lost)
        atomic_store_explicit(&map->control->holder, 0, memory_order_relaxed);
    km__unlock(map, KM__WRITER);
}

/* Errors after which the transaction cannot go on. */
static bool is_final(int error) {
    return error != KM_EBUSY && error != KM_ENOSPACE && error != KM_ENOMEM && error != KM_ECORRUPT &&
           error != KM_ESIZE && error != KM_EUNSUPPORTED;
}

static int write_frame(struct build *build, uint64_t deadline) {
    km_map *map = build->map;
    const unsigned char *bytes = NULL;
    struct km__cursor after;
    uint64_t length = 0, position = 0;
    int result = km__mark_unclean(map, deadline);
    for (;;) {
        if (result == 0)
            result = finish_frame(build, &bytes, &length, &after);
        if (result == 0)
            result = km__journal_room(map, length, deadline, &position);
        if (result == 0) /* the checkpoint that made room may have met a longer ring: see G6 */
            result = km__finish_dead_growth(map, deadline);
        if (result != 0 || !build->full_pages || build->target == km__load(&map->control->target))
            break;
        result = build_frame(build); /* a checkpoint was begun meanwhile: see C9 */
    }
    if (result == 0)
        result = km__index_reserve(&map->index, map->builder.page_count);
    if (result == 0)
        result = km__pool_reserve(&map->twin, map->builder.page_count);
    if (result == 0)
        result = km__places_reserve(&map->places, 1);
    if (result == 0)
        result = km__home_cover(map, build->data_size);
    if (result == 0)
        result = km__guard_check(map); /* what was read as zeros must not become a commit */
    if (result == 0)
        result = km__journal_append(map, bytes, length, position, deadline);
    if (result != 0)
        return result;
    after.position = position + length;
    take_over(map, &after, position, length);
    return 0;
}

/* Half the ring in use, or many pages patched: time for a checkpoint. Its failure is not this commit's, which is
 * done; who needs the room will tell. */
static void checkpoint_if_due(km_map *map) {
    const uint64_t used = km__journal_used(map), ring = map->header.journal_size;
    if (used < ring / 2 && map->index.count < PATCHED_MANY) {
        map->checkpoint_retry = 0;
        return;
    }
    if (used < map->checkpoint_retry)
        return;
    if (km__checkpoint(map, 0, false) != 0)
        km__error_clear();
    map->checkpoint_retry = km__journal_used(map) + ring / 16;
}

int km__commit_write(km_map *map, uint64_t new_size, uint64_t deadline) {
    struct build build = {.map = map, .data_size = new_size, .full_pages = km__full_pages(&map->header)};
    int result = km__still_there(map);
    if (result == 0 && km__failed(map))
        result = km__failed_error(map);
    if (result == 0)
        result = km__dirty_collect(map);
    if (result == 0)
        result = build_frame(&build);
    const bool nothing = result == 0 && map->builder.page_count == 0 && new_size == map->cursor.data_size;
    if (result == 0 && !nothing)
        result = write_frame(&build, deadline);
    if (result != 0 && km__guard_check(map) != 0)
        result = KM_ESTALE; /* whatever zeros were taken for */
    if (result != 0 && !is_final(result))
        return result;
    const uint64_t mine = map->cursor.generation;
    if (result != 0)
        map->stale = true;
    map->dirty.count = map->declared.count = 0;
    end_write(map);
    if (result != 0)
        return result;
    if ((map->flags & KM_LAZY) != 0)
        km__publish(map, mine);
    else
        result = km__sync_to(map, mine, UINT64_MAX);
    if (result != 0 && !is_final(result)) /* over, though not durable: no error that says "try again" */
        result =
            km__error_prefix(KM_EIO, "%s: commit %" PRIu64 " is made, but could not be made durable", map->path, mine);
    if (result == 0 && !nothing)
        checkpoint_if_due(map);
    return result;
}

/* ---- end --------------------------------------------------------------------------------------------------------- */

int km__end(km_map *map, bool keep) {
    if (km__is_live(map))
        return km__live_end(map, keep);
    if (map->access == KM_WRITE && keep)
        return km__commit_write(map, map->cursor.data_size, km__deadline(map));
    if (map->access == KM_WRITE) {
        if (km__still_there(map) == 0 && km__dirty_collect(map) == 0) {
            km__dirty_take_back(map);
        } else {
            map->stale = true;
            map->dirty.count = map->declared.count = 0;
        }
        end_write(map);
        return 0;
    }
    map->access = 0;
    const int held = map->read_only ? os_locks_check(map->locks) : km__slot_check(map); /* L6 */
    km__unpin(map);
    /* A file that is cut within a page shows zeros behind its end, and no fault tells. */
    return held == 0 && (map->flags & KM_GUARD) != 0 ? km__still_there(map) : held;
}

static int end(km_map *map, bool keep, const char *name) {
    int result = km__enter_lost(map);
    if (result != 0)
        return result;
    if (map->raw)
        result = km__raw_refuse(map, name);
    else if (map->access == 0)
        result = km__error(KM_EMISUSE, "%s: %s outside a transaction: begin one first", map->path, name);
    else
        result = km__end(map, keep);
    return km__leave(map, result);
}

int km_commit(km_map *map) {
    return end(map, true, "km_commit()");
}

int km_abort(km_map *map) {
    return end(map, false, "km_abort()");
}

/* ---- sync and checkpoint ----------------------------------------------------------------------------------------- */

static int may_write(km_map *map, const char *name) {
    if (map->read_only)
        return km__error(KM_EREADONLY, "%s: %s needs a handle that may write", map->path, name);
    const int result = km__still_there(map);
    return result == 0 && km__failed(map) ? km__failed_error(map) : result;
}

int km_sync(km_map *map) {
    int result = km__enter(map);
    if (result != 0)
        return result;
    result = may_write(map, "km_sync()");
    if (result == 0 && map->raw)
        result = km__raw_sync(map);
    else if (result == 0 && km__is_live(map))
        result = km__live_seal(map, km__deadline(map), false);
    else if (result == 0)
        result = km__sync_to(map, km__load(&map->control->appended), km__deadline(map));
    return km__leave(map, result);
}

int km_checkpoint(km_map *map) {
    int result = km__enter(map);
    if (result != 0)
        return result;
    result = map->raw ? km__raw_refuse(map, "km_checkpoint()") : may_write(map, "km_checkpoint()");
    if (result == 0 && map->access == KM_WRITE)
        result = km__error(KM_EMISUSE, "%s: km_checkpoint() inside a write transaction: commit or abort it first",
                           map->path);
    if (result == 0 && km__is_live(map))
        result = km__live_seal(map, km__deadline(map), false);
    else if (result == 0)
        result = km__checkpoint(map, km__deadline(map), false);
    return km__leave(map, result);
}

void *km_data(km_map *map) {
    return map == NULL || atomic_load_explicit(&map->forked, memory_order_relaxed) ? NULL : map->view.address;
}

uint64_t km_size(km_map *map) {
    return map == NULL ? 0 : map->cursor.data_size;
}

uint64_t km_generation(km_map *map) {
    return map == NULL ? 0 : map->cursor.generation;
}
