/* SPDX-License-Identifier: MIT
 *
 * What a map tells about itself: info, log, who. Takes no lock that others wait for but CHECKPOINT, for reading and
 * briefly.
 */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "map.h"

enum { LOOK_TRIES = 8 };

/* ---- info -------------------------------------------------------------------------------------------------------- */

/* Whether the session's words can be believed: always for a handle that may write, else if somebody who may is
 * attached. */
int km__session_lives(km_map *map, bool *lives) {
    *lives = !map->read_only;
    if (!map->read_only)
        return 0;
    const int held = km__session_has_slots(map);
    *lives = held == 1 && km__load(&map->control->epoch) != 0;
    return held < 0 ? held : 0;
}

struct journal_state {
    struct km__cursor end;
    uint64_t used;
    uint64_t durable; /* as far as the header and the frames themselves tell */
};

/* Walk from the checkpoint to the newest visible frame; the bodies are looked at where no session vouches for them. */
static void look_at_journal(km_map *map, const struct km__header *header, uint64_t limit, bool bodies,
                            struct journal_state *state) {
    const unsigned char *ring = map->journal_region.address;
    const uint64_t size = map->header.journal_size;
    struct km__cursor cursor = km__header_cursor(header);
    struct km__frame_head head;
    uint64_t position = 0, first = UINT64_MAX;
    state->durable = header->target;
    while (cursor.generation < limit) {
        const int result = bodies ? km__journal_read(map, &map->frame, &cursor)
                                  : km__frame_peek(&head, &position, ring, size, &map->limits, &cursor);
        if (result != 0)
            break;
        if (first == UINT64_MAX)
            first = bodies ? map->frame.position : position;
        const uint64_t durable = bodies ? map->frame.head.durable : head.durable;
        state->durable = durable > state->durable ? durable : state->durable;
    }
    state->end = cursor;
    state->used = 0;
    if (first != UINT64_MAX)
        state->used = cursor.position > first ? cursor.position - first : size - first + cursor.position;
}

/* Whether a commit behind `end` is known to have been durable, though nobody can find it. */
static bool is_cut_off(km_map *map, const struct km__header *header, uint64_t end) {
    return km__known_durable(map, header, end, true) > end;
}

/* 1, 0, or an error: who cannot look must not say that nobody is there. */
static int slot_is_taken(km_map *map, uint32_t i) {
    return i == map->slot ? 1 : os_lock_probe(map->locks, KM__SLOT_LOCKS + i, 1, OS_LOCK_READ, NULL); /* L5 */
}

static int count_taken(km_map *map, uint32_t limit, uint32_t *count) {
    *count = 0;
    for (uint32_t i = 0; i < limit; i++) {
        const int taken = slot_is_taken(map, i);
        if (taken < 0)
            return taken;
        *count += (uint32_t)taken;
    }
    return 0;
}

/* A raw map has no list of its handles: whoever holds a slot's lock is one. */
static int count_raw_handles(km_map *map, uint32_t *count) {
    const int others = km__session_has_slots(map);
    *count = map->slot != KM__NO_SLOT;
    return others <= 0 ? others : count_taken(map, KM__SLOTS, count);
}

static void info_from_header(const struct km__header *header, struct km_info *info) {
    info->format_version = header->format_version;
    info->mode = header->mode;
    info->checksum = header->checksum_kind;
    info->schema_version = header->schema_version;
    memcpy(info->schema, header->schema, sizeof info->schema);
    memcpy(info->uuid, header->uuid, sizeof info->uuid);
    info->feature_incompatible = header->feature_incompatible;
    info->feature_readonly = header->feature_readonly;
    info->feature_compatible = header->feature_compatible;
    info->created_ns = header->created_ns;
    info->max_size = header->data_capacity;
    info->journal_size = header->journal_size;
    info->checkpoint_generation = header->generation;
    info->compress = (header->feature_incompatible & KM__FEATURE_COMPRESS) != 0;
    info->full_pages = km__full_pages(header);
}

static const char *tracker_name(const km_map *map) {
    switch (map->view.tracker) {
    case OS_TRACKER_SCAN:
        return "scan";
    case OS_TRACKER_PAGEMAP:
        return "pagemap";
    case OS_TRACKER_COMPARE:
        return "compare";
    default:
        return "none";
    }
}

/* Where the map stands: from a live map's words, or from the frames. */
static int look_at_state(km_map *map, bool lives, struct km__slots *slots, struct journal_state *journal) {
    for (int tries = 0; tries < LOOK_TRIES; tries++) {
        const uint64_t visible = lives ? km__load(&map->control->visible) : UINT64_MAX;
        int result = km__slots_load(map, slots);
        if (result == 0)
            result = km__regions_follow(map, &slots->slot[slots->chosen]);
        if (result != 0)
            return result;
        const struct km__header *header = &slots->slot[slots->chosen];
        if (km__is_live(map)) {
            journal->end = km__header_cursor(header);
            journal->end.generation = lives ? visible : km__live_generation(map, header);
            journal->durable = header->generation;
            return 0;
        }
        look_at_journal(map, header, visible, !lives, journal);
        if (!lives || journal->end.generation >= visible)
            break; /* else a checkpoint went by, and the frames were used again */
    }
    return 0;
}

int km__newest_generation(km_map *map, uint64_t *generation) {
    struct km__slots slots;
    struct journal_state journal = {.used = 0};
    const int result = look_at_state(map, false, &slots, &journal);
    *generation = journal.end.generation;
    return result;
}

static int has_read_only_handles(km_map *map, uint32_t *has) {
    const int held = os_lock_probe(map->locks, KM__LOCK_BASE + KM__READ_ONLY_USER, 1, OS_LOCK_WRITE, NULL);
    *has = held == 1 ? 1u : 0u;
    return held < 0 ? held : 0;
}

static int fill_raw_info(km_map *map, struct km_info *info) {
    struct os_file_info file;
    int result = os_file_info(map->file, &file);
    if (result == 0)
        result = count_raw_handles(map, &info->handles);
    if (result == 0)
        result = has_read_only_handles(map, &info->read_only_handles);
    if (result != 0)
        return result;
    info->mode = KM_RAW;
    info->checksum = KM_CHECKSUM_NONE;
    info->size = info->max_size = map->cursor.data_size;
    info->file_size = file.size;
    info->file_allocated = file.allocated;
    info->paging_file = map->named;
    snprintf(info->tracker, sizeof info->tracker, "none");
    return 0;
}

static int fill_info(km_map *map, struct km_info *info) {
    struct km__slots slots;
    struct journal_state journal = {.used = 0};
    bool lives = false;
    int result = km__session_lives(map, &lives);
    if (result == 0)
        result = look_at_state(map, lives, &slots, &journal);
    struct os_file_info file;
    if (result == 0)
        result = os_file_info(map->file, &file);
    if (result == 0 && lives)
        result = count_taken(map, km__slot_limit(map->control), &info->handles);
    if (result == 0)
        result = has_read_only_handles(map, &info->read_only_handles);
    if (result != 0)
        return result;
    const struct km__header *header = &slots.slot[slots.chosen];
    const bool live = km__is_live(map);
    info_from_header(&slots.slot[slots.chosen], info);
    info->header_slots = (slots.result[0] == 0 ? 1u : 0u) | (slots.result[1] == 0 ? 2u : 0u);
    info->size = journal.end.data_size;
    info->generation = journal.end.generation;
    info->digest = journal.end.digest;
    info->journal_used = journal.used;
    info->durable_generation = lives && !live ? km__load(&map->control->durable) : journal.durable;
    info->file_size = file.size;
    info->file_allocated = file.allocated;
    info->patched_pages = map->index.count;
    info->clean = info->handles == 0 && journal.used == 0 && (header->flags & KM__HEADER_CLEAN) != 0;
    info->damaged = !lives && !live && !info->clean && is_cut_off(map, header, journal.end.generation);
    info->paging_file = map->named;
    info->abandoned = live && km__live_is_abandoned(map, header, lives);
    info->failed = lives ? atomic_load(&map->control->failed) : 0;
    snprintf(info->tracker, sizeof info->tracker, "%s", tracker_name(map));
    return 0;
}

int km_get_info(km_map *map, struct km_info *info) {
    int result = km__enter(map);
    if (result != 0)
        return result;
    if (info == NULL || !km__struct_holds(info->struct_size, sizeof *info)) {
        result = km__error(KM_EINVAL, "%s: info.struct_size: set it to sizeof(struct km_info)", map->path);
    } else {
        km__struct_clear(info, info->struct_size);
        result = map->raw ? fill_raw_info(map, info) : fill_info(map, info);
    }
    return km__leave(map, result);
}

/* ---- log --------------------------------------------------------------------------------------------------------- */

struct log {
    struct km_log_entry *entries;
    size_t count, capacity;
};

static int log_add(km_map *map, struct log *log, uint64_t checkpoint) {
    const int result =
        km__array_reserve((void **)&log->entries, &log->capacity, log->count + 1, sizeof(struct km_log_entry));
    if (result != 0)
        return result;
    const struct km__frame_head *head = &map->frame.head;
    struct km_log_entry entry = {.generation = head->generation,
                                 .time_ns = head->time_ns,
                                 .frame_bytes = head->length,
                                 .digest = head->digest,
                                 .size = head->data_size,
                                 .pages = head->page_count,
                                 .process_id = head->process_id,
                                 .checkpointed = head->generation <= checkpoint,
                                 .compressed = (head->flags & KM__FRAME_COMPRESSED) != 0};
    struct km__frame_walk walk;
    struct km__frame_page page;
    km__frame_walk_start(&walk, &map->frame);
    while (km__frame_walk_next(&walk, &page))
        entry.changed_bytes += km__frame_page_bytes(&page);
    log->entries[log->count++] = entry;
    return 0;
}

/* All good frames after the cursor, up to what is visible. 1: it ended before `least`. */
static int log_from(km_map *map, struct log *log, struct km__cursor cursor, uint64_t checkpoint, uint64_t least,
                    uint64_t limit) {
    log->count = 0;
    while (cursor.generation < limit) {
        int result = km__journal_read(map, &map->frame, &cursor);
        if (result == 1)
            break;
        if (result == 0)
            result = log_add(map, log, checkpoint);
        if (result != 0)
            return result;
    }
    return cursor.generation < least;
}

/* Under CHECKPOINT. History is walked if it still leads to the checkpoint: writers may use those frames again any
 * time. */
static int log_collect(km_map *map, struct log *log, bool *damaged) {
    struct km__slots slots;
    bool lives = false;
    int result = km__session_lives(map, &lives);
    if (result == 0)
        result = km__slots_load(map, &slots);
    if (result != 0)
        return result;
    const struct km__header *header = &slots.slot[slots.chosen];
    result = km__regions_follow(map, header);
    if (result != 0)
        return result;
    const uint64_t limit = lives ? km__load(&map->control->visible) : UINT64_MAX;
    const struct km__cursor history = {.generation = header->history_generation,
                                       .position = header->history_position,
                                       .chain = header->history_chain,
                                       .data_size = 1};
    result = log_from(map, log, history, header->generation, header->generation, limit);
    if (result == 1)
        result = log_from(map, log, km__header_cursor(header), header->generation, 0, limit);
    const uint64_t end = log->count > 0 ? log->entries[log->count - 1].generation : header->generation;
    if (result == 0 && !lives && (header->flags & KM__HEADER_CLEAN) == 0)
        *damaged = is_cut_off(map, header, end);
    return result;
}

int km_log(km_map *map, km_log_function *each, void *context) {
    int result = km__enter(map);
    if (result != 0)
        return result;
    struct log log = {0};
    bool damaged = false;
    if (map->raw)
        result = km__raw_refuse(map, "km_log()");
    else if (km__is_live(map))
        result = km__error(KM_EUNSUPPORTED,
                           "%s: a live map has no journal, as its stores are seen without a commit: km_wait() tells of "
                           "new generations (keepmap watch)",
                           map->path);
    else if (each == NULL)
        result = km__error(KM_EINVAL, "%s: km_log() needs a function to call", map->path);
    else if (map->access != 0)
        result = km__error(KM_EMISUSE, "%s: km_log() inside a transaction: end it first", map->path);
    else
        result = km__lock_wait(map, KM__CHECKPOINT, OS_LOCK_READ, km__deadline(map));
    if (result == 0) {
        result = log_collect(map, &log, &damaged);
        km__unlock(map, KM__CHECKPOINT);
    }
    for (size_t i = 0; i < log.count && result == 0; i++)
        if (each(context, &log.entries[i]) != 0)
            result = km__error(KM_ECANCELED, "%s: the caller ended the log", map->path);
    if (result == 0 && damaged)
        result = km__error(KM_EJOURNAL,
                           "%s: the next commit was durable, and its frame is damaged: restore the map from a copy",
                           map->path);
    free(log.entries);
    return km__leave(map, result);
}

/* ---- who --------------------------------------------------------------------------------------------------------- */

static void describe_user(km_map *map, uint32_t i, struct km_user *user) {
    const struct km__slot *slot = &map->control->slot[i];
    const uint64_t pin = km__load(&slot->pin);
    *user = (struct km_user){.slot = i,
                             .process_id = atomic_load(&slot->process_id),
                             .attached_ns = km__load(&slot->attached_ns),
                             .generation = pin != KM__NO_PIN ? pin : 0,
                             .in_transaction = pin != KM__NO_PIN,
                             .self = i == map->slot};
    const uint64_t started = km__load(&slot->process_start);
    if (started != 0 && os_process_start(user->process_id) == started)
        os_process_name(user->process_id, user->process_name, sizeof user->process_name);
}

int km_who(km_map *map, km_who_function *each, void *context) {
    int result = km__enter(map);
    if (result != 0)
        return result;
    bool lives = false;
    if (map->raw)
        result = km__raw_refuse(map, "km_who()");
    else if (each == NULL)
        result = km__error(KM_EINVAL, "%s: km_who() needs a function to call", map->path);
    else
        result = km__session_lives(map, &lives);
    const uint32_t limit = lives ? km__slot_limit(map->control) : 0;
    for (uint32_t i = 0; i < limit && result == 0; i++) {
        struct km_user user;
        const int taken = slot_is_taken(map, i);
        result = taken < 0 ? taken : 0;
        if (taken <= 0)
            continue;
        describe_user(map, i, &user);
        if (each(context, &user) != 0)
            result = km__error(KM_ECANCELED, "%s: the caller ended the list", map->path);
    }
    return km__leave(map, result);
}
