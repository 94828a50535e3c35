/* SPDX-License-Identifier: MIT
 *
 * Attaching and detaching.
 *
 * Rules, and the failure that each prevents:
 *  O1 ATTACH is held from the look at who is attached to the end of the rebuild: two processes that both find
 *     nobody would both rebuild, the second over the first one's session. A rebuilder that dies leaves no slot
 *     locked: the next rebuilds again.
 *  O2 [model: durability] Unless the map was closed clean with an empty journal (both slots valid, clean and at the
 *     same generation: the first was durable before the second was written), the header slots and the adopted
 *     frames are written again with the same bytes and the file is synced before anything counts as durable. After
 *     a failed sync the page cache shows bytes that the disk never got, and a new sync reports success. A slot that
 *     says "clean" does so no more then, for such a session does not clear the flag before its first frame:
 *     written over a damaged slot it would make both slots say it, with frames behind them.
 *  O3 [model: durability] Found "in progress to P" and frames that end below P: damage, never an older generation. The
 *     same if any good frame in the ring says that a generation behind the end was durable: a damaged frame is not
 *     the end of the journal. A torn frame at the end was never durable, and nothing says that it was.
 *  O4 The epoch is cleared before control changes and stored last, random: handles without write permission take
 *     words from control only between two looks at the same epoch with a slot locked, and start anew when it has
 *     changed. What a power cut left there is old.
 *  O5 Handles without write permission hold ATTACH for reading while they lock USER and map: the journal is
 *     shortened and moved only by who holds ATTACH with no other USER, so that nobody's mapping loses its file.
 *  O6 Home is not written by recovery: opening costs the ring, not the data.
 *  O7 After ATTACH the path must still name the file that was opened: it may have been replaced meanwhile.
 *  O8 As long as nobody has written a header slot of a map since it was made, its first handle syncs the directory:
 *     whoever created it, or copied it (at whatever generation), may have died between giving the file its name and
 *     making the name durable, and what is committed now would vanish with the name.
 *  O9 Who closes, and may be the last, makes the journal durable also when it cannot have ATTACH or CHECKPOINT in
 *     time: a handle that may only read can hold them for long, and lazy commits would be left to a power cut though
 *     everybody has closed. The same if it cannot be told whether it is the last.
 * O10 With KM_GUARD a journal that could not be read looks like one that ends. Nothing is written or published before
 *     it is known that no fault was met, and an open that met one fails: others would be shown an older generation, and
 *     would commit over frames that are good.
 * O11 The first to attach reads the header slots after it has found no slot locked. The others may have died since it
 *     read them for the first time, and until then have brought home further and overwritten frames: it would take the
 *     map for damaged, or bring the old header back.
 * O12 A map with whole-page frames is for disks on which a write that power cuts leaves noise, so there no frame is
 *     written again that the disk is known to have: those up to `durable` of a control of this start of the machine,
 *     and all after another start, because what the page cache shows was read from the disk then. Otherwise a
 *     power cut during a recovery could take a commit that was acknowledged long before. For the same reason what a
 *     recovery that died was writing is synced before the first slot is written: both could be under way at once. And
 *     a slot that the disk is known to have is not written again (H1) beside one that is damaged: noise in both would
 *     be the end of the map.
 * O13 A damaged slot may have said "in progress", and home be a mixture: recovery writes it anew as "in progress" to
 *     the last frame. Otherwise verify, which compares home with the table where no checkpoint is under way, calls
 *     good pages damaged. For the same reason the table is mended as if one had been under way. The frames are written
 *     again and synced before both: the slot says that the last one is durable (C2), and a power cut that took it would
 *     leave a map that is refused (O3), or a table that is ahead of home.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "map.h"

enum { OPEN_TRIES = 100, PATH_CHANGED = 1 };

/* ---- first to attach --------------------------------------------------------------------------------------------- */

static int count_frames(km_map *map, const struct km__header *header, struct km__cursor *end) {
    *end = km__header_cursor(header);
    for (;;) {
        const int result = km__journal_read(map, &map->frame, end);
        if (result == 1)
            return 0;
        if (result != 0)
            return result;
    }
}

/* O2: whether the disk is known to hold what the page cache shows. */
static bool closed_clean(const struct km__slots *slots, const struct km__cursor *end) {
    const struct km__header *a = &slots->slot[0], *b = &slots->slot[1];
    return slots->result[0] == 0 && slots->result[1] == 0 && (a->flags & b->flags & KM__HEADER_CLEAN) != 0 &&
           a->generation == b->generation && a->geometry == b->geometry && end->generation == a->generation &&
           a->target <= end->generation && b->target <= end->generation;
}

/* O3. */
static int check_end(km_map *map, const struct km__header *header, const struct km__cursor *end) {
    const uint64_t known = km__known_durable(map, header, end->generation, true);
    return known <= end->generation ? 0 : km__frame_cut_off(map, known, end->generation);
}

/* O12: the frames that are not written again. */
static uint64_t kept_by_disk(km_map *map, const struct km__header *header, uint64_t end) {
    const enum km__boot boot = km__control_boot(map);
    if (!km__full_pages(header) || boot == KM__BOOT_UNKNOWN)
        return header->generation;
    const uint64_t durable = km__load(&map->control->durable);
    return boot == KM__BOOT_OTHER || durable > end ? end : durable;
}

/* O12: the sequence of the slot that the disk is known to have; 0: none, it is written again. */
static uint64_t slot_on_disk(km_map *map, const struct km__header *newest) {
    if (!km__full_pages(newest))
        return 0;
    const enum km__boot boot = km__control_boot(map);
    return boot == KM__BOOT_OTHER  ? newest->sequence
           : boot == KM__BOOT_SAME ? km__load(&map->control->header_durable)
                                   : 0;
}

/* O13: what counts, with the most that a damaged slot may have said. */
static struct km__header feared_header(const struct km__slots *slots, const struct km__cursor *end) {
    struct km__header header = slots->slot[slots->chosen];
    if (slots->result[1 - slots->chosen] != 0 && header.target < end->generation)
        header.target = end->generation;
    return header;
}

/* O2: the same bytes again, so that a sync means something. */
static int frames_again(km_map *map, const struct km__header *header, const struct km__cursor *end, uint64_t kept) {
    struct km__cursor cursor = km__header_cursor(header);
    int result = 0;
    while (result == 0 && cursor.generation < end->generation) {
        result =
            cursor.generation < kept ? km__journal_read(map, &map->frame, &cursor) : km__frame_rewrite(map, &cursor);
        if (result == 1)
            result = km__error(KM_EJOURNAL, "%s: the journal changed while it was recovered", map->path);
    }
    return result == 0 ? os_file_sync(map->file) : result;
}

static int slots_again(km_map *map, struct km__slots *slots, const struct km__cursor *end) {
    const int other = 1 - slots->chosen;
    const struct km__header *newest = &slots->slot[slots->chosen];
    if (slots->result[other] == 0 && slots->slot[other].generation == newest->generation &&
        slots->slot[other].geometry == newest->geometry && (newest->flags & KM__HEADER_CLEAN) == 0) {
        /* one after the other, so that never both are being written */
        const int result = km__slots_write_again(map, slots, slots->chosen);
        return result == 0 ? km__slots_write_again(map, slots, other) : result;
    }
    /* damaged, or older: `checkpointed` is published only with both slots there (C8), as are places (G6); or clean */
    struct km__header same = feared_header(slots, end);
    same.flags &= ~(uint64_t)KM__HEADER_CLEAN;
    return km__slots_store(map, slots, &same);
}

static int write_again(km_map *map, struct km__slots *slots, const struct km__cursor *end, uint64_t kept) {
    const struct km__header feared = feared_header(slots, end);
    const bool damaged = slots->result[1 - slots->chosen] != 0;
    int result = damaged ? frames_again(map, &feared, end, kept) : 0; /* O13 */
    if (result == 0)
        result = km__table_mend(map, &feared);
    if (result == 0)
        result = km__guard_check(map); /* O10 */
    if (result == 0 && km__full_pages(&feared))
        result = os_file_sync(map->file); /* O12 */
    if (result == 0)
        result = slots_again(map, slots, end);
    if (result == 0 && !damaged)
        result = frames_again(map, &slots->slot[slots->chosen], end, kept);
    if (result == 0)
        atomic_store(&map->control->header_durable, slots->slot[slots->chosen].sequence);
    return result;
}

static int rebuild(km_map *map, struct km__slots *slots) {
    struct km__control *control = map->control;
    struct km__cursor end;
    int result = count_frames(map, &slots->slot[slots->chosen], &end);
    const bool clean = result == 0 && closed_clean(slots, &end);
    if (result == 0 && !clean)
        result = check_end(map, &slots->slot[slots->chosen], &end);
    if (result == 0)
        result = km__guard_check(map); /* O10 */
    if (result != 0)
        return result; /* refused: nothing of the file was changed */
    if (km__is_new(&slots->slot[slots->chosen]))
        result = os_file_sync_name(map->file, map->path); /* O8 */
    if (result == 0)
        result = km__regions_unshare(map, &slots->slot[slots->chosen]);
    if (result != 0)
        return result;
    const uint64_t kept = kept_by_disk(map, &slots->slot[slots->chosen], end.generation);
    const uint64_t slot_kept = slot_on_disk(map, &slots->slot[slots->chosen]);
    km__control_clear(control, 0, kept);
    atomic_store(&control->header_durable, slot_kept);
    km__control_note_boot(map);
    if (!clean)
        result = write_again(map, slots, &end, kept);
    const struct km__header *header = &slots->slot[slots->chosen];
    if (result == 0 && end.generation == header->generation && header->journal_size > header->journal_configured)
        result = km__shrink_journal(map, slots);
    if (result != 0)
        return result;
    header = &slots->slot[slots->chosen];
    atomic_store(&control->appended, end.generation);
    atomic_store(&control->durable, end.generation);
    atomic_store(&control->visible, end.generation);
    atomic_store(&control->target, header->target);
    atomic_store(&control->checkpointed, header->generation);
    atomic_store(&control->geometry, header->geometry);
    atomic_store(&control->clean, clean ? 1u : 0u);
    atomic_store(&control->holder, 0);
    return 0;
}

/* ---- attach ------------------------------------------------------------------------------------------------------ */

/* A session of another system does not see our locks, nor we its. */
static int check_session(km_map *map) {
    const struct km__control *control = map->control;
    const uint32_t system = atomic_load(&control->system);
    if (km__load(&control->magic) != KM__CONTROL_MAGIC || km__load(&control->epoch) == 0 || system == os_system() ||
        (map->flags & KM_TAKE_OVER) != 0)
        return 0;
    return km__error(KM_ESESSION,
                     "%s: a session of another operating system (%s) has it open, or crashed: close it there; if that "
                     "system is gone for good, open with KM_TAKE_OVER",
                     map->path,
                     system == 1   ? "Linux"
                     : system == 2 ? "Windows"
                                   : "unknown");
}

static int check_fit(km_map *map, const struct km__header *header, const struct km_options *options) {
    if (!km__checksum_available(header->checksum_kind))
        return km__error(KM_EUNSUPPORTED, "%s: its checksums are zlib's crc32, and this build lacks zlib", map->path);
    if ((header->feature_incompatible & KM__FEATURE_COMPRESS) != 0 && !km__zlib_available())
        return km__error(KM_EUNSUPPORTED, "%s: its frames are compressed with zlib, which this build lacks", map->path);
    if (!map->read_only && (header->feature_readonly & ~KM__KNOWN_READONLY) != 0)
        return km__error(KM_EFEATURE,
                         "%s: it has features 0x%" PRIx64
                         " that a writer must know: open it with KM_READONLY, or use a newer keepmap",
                         map->path, header->feature_readonly & ~KM__KNOWN_READONLY);
    if (options->schema != NULL && header->schema[0] == '\0')
        return km__error(KM_ESCHEMA,
                         "%s: it has no schema, the program asks for \"%s\" version %" PRIu32
                         ": open it without one, if the data is what the program expects",
                         map->path, options->schema, options->schema_version);
    if (options->schema != NULL &&
        (strcmp(options->schema, header->schema) != 0 || options->schema_version != header->schema_version))
        return km__error(KM_ESCHEMA,
                         "%s: its schema is \"%s\" version %" PRIu32 ", the program asks for \"%s\" version %" PRIu32
                         ": use the program that fits, or convert the data",
                         map->path, header->schema, header->schema_version, options->schema, options->schema_version);
    return 0;
}

static int load_header(km_map *map, struct km__slots *slots) {
    struct os_file_info info;
    int result = os_file_info(map->file, &info);
    if (result != 0)
        return result;
    map->identity = info;
    if (info.size == 0)
        return km__error(KM_EEMPTY, "%s: the file is empty, so it is not a map: remove it and create one", map->path);
    if (info.size < KM__CONTROL_OFFSET + KM__CONTROL_SIZE) {
        char magic[8] = {0};
        if (info.size >= sizeof magic)
            (void)os_file_read(map->file, 0, magic, sizeof magic);
        if (memcmp(magic, KM__MAGIC, sizeof magic) != 0)
            return km__error(KM_ENOTMAP, "%s: it does not begin like a keepmap map", map->path);
        return km__error(KM_ETRUNCATED, "%s: the file has %" PRIu64 " bytes, less than any map: restore it from a copy",
                         map->path, info.size);
    }
    return km__slots_load(map, slots);
}

/* Under ATTACH, with no slot locked: from now on nobody else writes header slots. */
static int look_again(km_map *map, struct km__slots *slots) {
    const int result = km__slots_load(map, slots);
    return result == 0 ? km__regions_follow(map, &slots->slot[slots->chosen]) : result;
}

static int attach_for_writing(km_map *map, struct km__slots *slots) {
    const int held = km__session_has_slots(map);
    if (held < 0)
        return held;
    int result = check_session(map);
    if (result != 0)
        return result;
    if (held == 0)
        result = look_again(map, slots); /* O11 */
    if (result == 0 && held == 0) {
        result = km__is_live(map) ? km__live_rebuild(map, slots) : rebuild(map, slots);
    } else if (result == 0 &&
               (km__load(&map->control->magic) != KM__CONTROL_MAGIC || km__load(&map->control->epoch) == 0)) {
        result = km__error(KM_EHEADER,
                           "%s: its control words were overwritten while others have it open: close it everywhere "
                           "and open it again",
                           map->path);
    }
    if (result == 0)
        result = km__slot_take(map);
    if (result == 0 && held != 0)
        km__be_careful(map);
    if (result == 0 && held == 0) {
        uint64_t epoch = 0;
        while (result == 0 && epoch == 0)
            result = os_random(&epoch, sizeof epoch);
        atomic_store(&map->control->epoch, epoch); /* O4 */
    }
    return result;
}

/* Under ATTACH: an object that nobody uses is no object (A1, A4). One's own creation has its user already. */
static int look_at_users(km_map *map) {
    int result = os_file_is_at(map->file, map->path);
    if (result <= 0)
        return result == 0 ? PATH_CHANGED : result;
    result = km__named_is_alive(map->file, map->locks, map->path, !map->read_only);
    if (result != 0)
        return result < 0 ? result : 0;
    return km__error(KM_ENOTFOUND, "%s: there is no such map: it ended with its last user", map->path);
}

/* Under ATTACH. */
static int attach_locked(km_map *map, const struct km_options *options, bool created) {
    int result = map->named && !created ? look_at_users(map) : 0;
    if (result == 0)
        result = km__lock_try(map, KM__USER, OS_LOCK_READ);
    if (result == 0 && map->read_only)
        result = km__lock_try(map, KM__READ_ONLY_USER, OS_LOCK_READ);
    if (result != 0)
        return result == KM_EBUSY ? PATH_CHANGED : result; /* who replaces or moves it holds USER for a moment */
    result = os_file_is_at(map->file, map->path);
    if (result < 0)
        return result;
    if (result == 0)
        return PATH_CHANGED; /* O7 */
    if (map->raw)
        return km__raw_attach(map);
    struct km__slots slots = {.chosen = 0};
    result = load_header(map, &slots);
    const struct km__header *header = &slots.slot[slots.chosen];
    if (result == 0)
        result = check_fit(map, header, options);
    if (result == 0)
        result = km__regions_map(map, header);
    if (result == 0)
        result = os_region_map(&map->control_region, map->file, KM__CONTROL_OFFSET, KM__CONTROL_SIZE, !map->read_only);
    if (result != 0)
        return result;
    map->control = (struct km__control *)(void *)map->control_region.address;
    if (map->read_only)
        result = check_session(map);
    else
        result = attach_for_writing(map, &slots);
    if (result == 0)
        result = km__rebase(map, &slots.slot[slots.chosen]);
    map->stale = true; /* mapped, but only a begin makes it a snapshot */
    return result;
}

/* What is open when this fails is closed with the handle. */
static int open_file(km_map *map, const struct km_options *options, bool created) {
    int result = 0;
    if (!created) {
        result = os_file_open(&map->file, map->path, !map->read_only);
        if (result == 0 && (options->flags & KM_ANY_FILESYSTEM) == 0)
            result = os_file_check_coherent(map->file);
        if (result == 0)
            result = os_locks_open(&map->locks, map->file);
    }
    if (result == 0 && (options->flags & KM_GUARD) != 0)
        result = os_file_guard(map->file);
    if (result == 0)
        result = os_waiter_open(&map->waiter, &map->waiter_name);
    if (result == 0)
        result = os_random(&map->nonce, sizeof map->nonce);
    if (result == 0 && !map->raw)
        result = km__boot_read(map);
    return result;
}

/* Stand at the newest commit, so that size and generation are known. Damage in the data is for begin and verify to
 * tell. */
static int first_look(km_map *map) {
    if (map->raw)
        return 0;
    if (km__is_live(map))
        return km__live_refresh(map);
    int result = (map->flags & KM_CHECK) != 0 ? km__compare_start(map) : 0;
    if (result == 0)
        result = km__begin_read(map);
    if (result == 0)
        (void)km__end(map, false);
    else if (result == KM_ECORRUPT || (result == KM_EJOURNAL && map->read_only))
        result = 0;
    return result;
}

static int attach_file(km_map *map, const struct km_options *options, bool created) {
    int result = open_file(map, options, created);
    if (result == 0 && !created)
        result = km__lock_wait(map, KM__ATTACH, map->read_only ? OS_LOCK_READ : OS_LOCK_WRITE,
                               km__deadline(map)); /* O1, O5 */
    if (result != 0 && !created)
        return result;
    if (result == 0)
        result = attach_locked(map, options, created);
    if (result == 0 && created)
        result = first_look(map);           /* before others can attach: it may be taken back (N5) */
    const int fault = km__guard_check(map); /* O10 */
    result = fault != 0 ? fault : result;
    if (result != 0)
        km__slot_release(map);
    if (result != 0 && created)
        result = km__create_undo(map->file, map->path, result);
    km__unlock(map, KM__ATTACH);
    return result;
}

static void destroy(km_map *map) {
    const bool forked = atomic_load(&map->forked);
    km__unregister(map);
    if (!forked) { /* in the child of a fork nothing of it is mapped */
        os_view_unmap(&map->view);
        km__pool_release(&map->twin);
        km__regions_unmap(map);
        os_locks_close(map->locks);
        os_waiter_close(map->waiter);
        os_file_close(map->file);
    }
    km__index_release(&map->index);
    km__places_release(&map->places);
    km__frame_release(&map->frame);
    km__frame_builder_release(&map->builder);
    free(map->damaged.items);
    km__page_list_release(&map->touched);
    km__page_list_release(&map->dirty);
    km__range_list_release(&map->declared);
    if (map->named && map->path != NULL && !forked)
        km__named_reap(map->path, km__deadline(map)); /* A5 */
    free(map->path);
    free(map);
}

/* `created`, if not NULL, is taken over. */
static int attach(km_map **out, const char *path, const struct km_options *options, struct km__created *created) {
    km_map *map = calloc(1, sizeof *map);
    char *copy = strdup(path);
    if (map == NULL || copy == NULL) {
        int error = km__error(KM_ENOMEM, "%s: no memory for a handle", path);
        if (created != NULL) {
            error = km__create_undo(created->file, path, error);
            os_locks_close(created->locks);
            os_file_close(created->file);
        }
        free(map);
        free(copy);
        return error;
    }
    map->path = copy;
    map->flags = options->flags;
    map->timeout_ms = options->timeout_ms;
    map->read_only = (options->flags & KM_READONLY) != 0;
    map->raw = options->mode == KM_RAW;
    map->named = os_path_is_object(path);
    map->slot = KM__NO_SLOT;
    map->process_id = os_process_id();
    atomic_flag_clear(&map->busy);
    if (created != NULL) { /* closed with the handle, whatever fails */
        map->file = created->file;
        map->locks = created->locks;
    }
    int result = km__register(map);
    if (result != 0 && created != NULL)
        result = km__create_undo(map->file, path, result);
    if (result == 0)
        result = attach_file(map, options, created != NULL);
    if (result == 0 && created == NULL) {
        result = first_look(map);
        const int fault = km__guard_check(map); /* O10 */
        result = fault != 0 ? fault : result;
    }
    if (result == 0) {
        *out = map;
        return 0;
    }
    km__slot_release(map);
    destroy(map);
    return result;
}

/* ---- public ------------------------------------------------------------------------------------------------------ */

/* Whether something has the name already, whoever may open it. */
static bool is_taken(const char *path) {
    struct os_file *file = NULL;
    const int result = os_file_open(&file, path, false);
    os_file_close(file);
    km__error_clear();
    return result == 0 || result == KM_EACCESS || result == KM_EDIRECTORY || result == KM_ENOTMAP;
}

/* Make a new map. PATH_CHANGED: there is one now, to be attached as any other. 0: made, and attached already. */
static int create(km_map **map, const char *target, const struct km_options *options, uint64_t deadline) {
    struct km__created created = {.file = NULL};
    const bool named = os_path_is_object(target);
    if (named)
        km__named_sweep(); /* A6 */
    int result = km__create(target, options, false, &created);
    if (result == 0)
        return attach(map, target, options, &created);
    if (!named && result == KM_EEXISTS && (options->flags & KM_EXCLUSIVE) == 0)
        return PATH_CHANGED;
    if (result != KM_EEXISTS || !named)
        return result;
    /* Somebody may be about to clear away what the dead have left, and is waited for. */
    result = (options->flags & KM_EXCLUSIVE) != 0 ? km__named_look(target, deadline) : 0;
    if (result == 1)
        result = km__error(KM_EEXISTS, "%s: it exists already: open it, or choose another name", target);
    return result == 0 ? PATH_CHANGED : result;
}

/* One try: PATH_CHANGED if somebody was quicker. */
static int open_once(km_map **map, const char *target, const struct km_options *options, bool exists,
                     uint64_t deadline) {
    int result = exists ? attach(map, target, options, NULL) : KM_ENOTFOUND;
    if (result == KM_ENOTFOUND && (options->flags & KM_CREATE) != 0) {
        km__error_clear();
        result = create(map, target, options, deadline);
    }
    return result;
}

int km_open(km_map **map, const char *target, const struct km_options *options) {
    struct km_options checked;
    km__error_clear();
    if (map == NULL)
        return km__error(KM_EINVAL, "the place for the handle is NULL");
    *map = NULL;
    int result = km__target_check(target);
    if (result == 0)
        result = km__check_options(options, &checked);
    if (result != 0)
        return result;
    const bool named = os_path_is_object(target);
    if (named && (checked.flags & KM_REPLACE) != 0)
        checked.flags ^= KM_REPLACE | KM_EXCLUSIVE;
    const bool exclusive = (checked.flags & KM_EXCLUSIVE) != 0;
    if (exclusive && !named && is_taken(target))
        return km__error(KM_EEXISTS, "%s: it exists already: open it, or choose another name", target);
    if ((checked.flags & KM_REPLACE) != 0)
        result = km__create(target, &checked, true, NULL);
    const uint64_t deadline = km__deadline_in(checked.timeout_ms);
    for (int tries = 0; result == 0 && tries < OPEN_TRIES; tries++) {
        result = open_once(map, target, &checked, !exclusive || (!named && tries > 0), deadline);
        if (result != PATH_CHANGED) {
            if (result == 0)
                km__error_clear(); /* what failed on the way */
            return result;
        }
        km__error_clear();
        result = 0;
    }
    return result != 0 ? result : km__error(KM_EBUSY, "%s: it is replaced again and again while it is opened", target);
}

/* Under ATTACH: the last handle that may write brings home up and marks the map clean. */
static int close_last(km_map *map, uint64_t deadline) {
    if (km__failed(map))
        return km__failed_error(map);
    if (atomic_load(&map->control->clean) != 0)
        return 0;                                                                 /* nothing was written */
    int result = km__sync_to(map, km__load(&map->control->appended), UINT64_MAX); /* O9 */
    if (result == 0)
        result = km__checkpoint(map, deadline, true);
    if (result != 0 || km__load(&map->control->checkpointed) != km__load(&map->control->appended))
        return result;
    struct km__slots slots;
    result = km__checkpoint_lock(map, deadline);
    if (result != 0)
        return result;
    result = km__slots_load(map, &slots);
    if (result == 0) {
        struct km__header header = slots.slot[slots.chosen];
        if ((header.flags & KM__HEADER_CLEAN) == 0 && header.generation == header.target) {
            header.flags |= KM__HEADER_CLEAN;
            result = km__slots_store_both(map, &slots, &header);
        }
    }
    km__checkpoint_unlock(map);
    return result;
}

static int make_durable(km_map *map) {
    if (!km__is_live(map))
        return km__sync_to(map, km__load(&map->control->appended), UINT64_MAX);
    atomic_store(&map->control->unsure, 1); /* no CHECKPOINT, so no mark: the next seal writes all again (S9) */
    return os_file_sync(map->file) == 0 ? 0 : km__sync_failed(map, KM_EIO);
}

static int close_last_live(km_map *map, uint64_t deadline) {
    const int result = km__live_seal(map, deadline, true);
    const int synced = result == KM_EBUSY ? make_durable(map) : 0; /* O9 */
    return synced != 0 ? synced : result;
}

static int detach_writer(km_map *map) {
    const uint64_t deadline = km__deadline(map);
    int result = km__still_there(map);
    if (map->lost)
        return result;
    result = km__lock_wait(map, KM__ATTACH, OS_LOCK_WRITE, deadline);
    if (result == KM_EBUSY && !km__failed(map)) { /* O9: perhaps the last all the same */
        const int synced = make_durable(map);
        result = synced != 0 ? synced : result;
    }
    if (result != 0) {
        km__slot_release(map);
        return result;
    }
    int held = km__session_has_slots(map);
    if (held < 0) { /* O9, and a look that failed once may do so no more */
        result = km__failed(map) ? 0 : make_durable(map);
        held = result == 0 ? km__session_has_slots(map) : held;
        result = result == 0 && held < 0 ? held : result;
    }
    map->is_last = held == 0;
    if (map->is_last) {
        if (!map->named || km__is_alone(map) != 1) /* an object ends now, with all that it holds */
            result = km__is_live(map) ? close_last_live(map, deadline) : close_last(map, deadline);
        atomic_store(&map->control->epoch, 0);
    }
    km__slot_release(map);
    km__unlock(map, KM__ATTACH);
    return result;
}

int km_close(km_map *map) {
    km__error_clear();
    if (map == NULL)
        return 0;
    int result = 0;
    if (!atomic_load(&map->forked)) {
        result = km__enter_lost(map);
        if (result != 0)
            return result;
        if (map->access != 0)
            (void)km__end(map, false);
        if (map->raw)
            result = km__guard_check(map);
        else if (!map->read_only)
            result = detach_writer(map);
    }
    destroy(map);
    if (result == 0)
        km__error_clear();
    return result;
}
