/* SPDX-License-Identifier: MIT
 *
 * Live maps: one shared view, whose stores every process sees at once; the writer's lock; and the seal, which brings
 * the page checksums up to date with the bytes.
 *
 * There is no journal: control, table and data are all. `generation` of the header is that of the last seal, `visible`
 * in control that of the last commit. The clean flag of the header says "sealed, and nobody can have stored since": a
 * page that does not match its checksum is damage then, and only then.
 *
 * Rules, and the failure that each prevents:
 *  S1 [model: live] The flag is off, durably and in both slots, before the first handle that may write gets a pointer.
 *     Otherwise a power cut leaves stores under a header that calls them checked, and good data is taken for damage.
 *  S2 [model: live] A seal computes the checksums of all pages, writes the entries that changed, syncs the file (which
 *     brings the stores to the disk too), and only then writes both header slots. A seal that dies half-way leaves the
 *     flag off: its mixed table accuses nobody. It runs under CHECKPOINT, so that two seals do not mix their entries.
 *  S3 [model: live] Only the last handle that may write sets the flag, under ATTACH and after its own seal: nobody else
 *     is there who could store between the checksum and the flag.
 *  S4 A hole of the data is sealed too, with entries of zero: after a power cut an entry can be on the disk whose page
 *     is not.
 *  S5 [model: live] Who has WRITER writes its slot into `holder` before it returns to its user, and takes it out
 *     before it lets go of WRITER. Who gets WRITER and finds a holder knows that it died, and tells its user so, with
 *     the transaction open, until one of them commits. As words are not trusted for liveness (L1), this one only says
 *     what the lock has said already: that its holder is gone.
 *  S6 [model: live] The first to attach keeps `holder` if control is of this start of the machine, and sets it if the
 *     machine was started anew and the map was not sealed: then any page may be older than the next. A last close that
 *     finds it set seals, but leaves the flag off, so that the mark outlives the machine.
 *  S7 A mismatch that verify finds counts as damage only if the flag is still there when it is looked at again after
 *     the page: a writer may have attached between the first look and the page.
 *  S8 Who gets WRITER, or seals, and finds a newer geometry in the header than in control finishes that growth: its
 *     grower died between the first slot and control. Otherwise those who attached before know the old size and those
 *     who came later the new one, and the next growth of one of the former could make the map smaller. For the same
 *     reason who has written both slots tells it in control before it maps the new bytes, which can fail; and who
 *     failed under CHECKPOINT leaves its mark, as if it had died: one slot may be written and the other not.
 *  S9 After a sync that failed the page cache shows bytes that the disk never got, and a new sync reports success.
 *     So the first seal after it, and after the death of who may have met one (its mark stands: see J9 in journal.c),
 *     has all pages and entries written, changed or not. `unsure` tells so from one session to the next. Otherwise a
 *     map calls itself sealed whose pages are not on the disk.
 * S10 A generation that goes from control into a header is one that a header can have. Otherwise a wild word in
 *     `visible` would be sealed into both slots, and the map could never be opened again.
 *
 * The generation goes on from one session to the next of the same start of the machine by control; after another start
 * it is that of the last seal.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "map.h"

#define ENTRIES (KM__PAGE / sizeof(uint32_t)) /* checksums in a page of the table */

/* Whose death a new start of the machine leaves in `holder`: nobody's slot. */
#define HOLDER_UNKNOWN UINT32_MAX

/* Address space kept beyond the capacity, so that growth beyond max_size finds room at the next address. */
#define RESERVE_SLACK (UINT64_C(64) << 30)

/* ---- attach ------------------------------------------------------------------------------------------------------ */

/* Whether control was written since the machine was started. */
static bool same_boot(const km_map *map) {
    return km__control_boot(map) == KM__BOOT_SAME;
}

/* S10: `visible`, if it can be the number of a commit after the header's. */
static uint64_t visible_after(const km_map *map, const struct km__header *header) {
    const uint64_t visible = km__load(&map->control->visible);
    return visible > header->generation && visible <= KM__GENERATION_MAX ? visible : header->generation;
}

uint64_t km__live_generation(const km_map *map, const struct km__header *header) {
    return same_boot(map) ? visible_after(map, header) : header->generation;
}

bool km__live_is_abandoned(km_map *map, const struct km__header *header, bool lives) {
    if (map->access == KM_WRITE)
        return map->abandoned;
    if (!lives && !same_boot(map))
        return (header->flags & KM__HEADER_CLEAN) == 0;
    return atomic_load_explicit(&map->control->holder, memory_order_acquire) != 0 &&
           os_lock_probe(map->locks, KM__LOCK_BASE + KM__WRITER, 1, OS_LOCK_READ, NULL) == 0;
}

int km__live_state(km_map *map, struct km__header *header, bool *abandoned) {
    struct km__slots slots;
    bool lives = false;
    int result = km__session_lives(map, &lives);
    if (result == 0)
        result = km__slots_load(map, &slots);
    if (result != 0)
        return result;
    *header = slots.slot[slots.chosen];
    *abandoned = km__live_is_abandoned(map, header, lives);
    return 0;
}

/* S6. `holder` before `boot`: who dies between the two leaves a control that still is of another start. */
static void keep_holder(km_map *map, bool same, bool sealed) {
    if (same)
        return;
    atomic_store(&map->control->holder, sealed ? 0 : HOLDER_UNKNOWN);
    km__control_note_boot(map);
}

/* S9. Who dies before the words are cleared leaves them as they were, who dies after leaves `unsure`. */
static void keep_doubt(km_map *map, bool sealed) {
    struct km__control *control = map->control;
    const enum km__boot boot = km__control_boot(map);
    if (sealed || boot == KM__BOOT_OTHER)
        atomic_store(&control->unsure, 0);
    else if (boot == KM__BOOT_UNKNOWN || atomic_load(&control->failed) != 0 || atomic_load(&control->file_mark) != 0 ||
             km__load(&control->suspect) != 0)
        atomic_store(&control->unsure, 1);
}

/* Whether pages [first, first + count) are a hole. */
static int is_hole(km_map *map, uint64_t first, uint64_t count, bool *hole) {
    uint64_t start = 0, stop = 0;
    const uint64_t from = map->header.data_offset + first * KM__PAGE, end = from + count * KM__PAGE;
    const int result = os_file_next_data(map->file, from, end, &start, &stop);
    *hole = result == 0 && start >= end;
    return result;
}

static int page_is_sealed(km_map *map, uint64_t page, uint32_t found) {
    const uint32_t stored = km__table_entry(map, page);
    if (found == stored)
        return 0;
    return km__error(KM_ECORRUPT,
                     "%s: page %" PRIu64 " (bytes from %" PRIu64 ") has checksum %08" PRIx32
                     ", the table says %08" PRIx32 ": the disk changed it; run keepmap verify, restore it from a copy",
                     map->path, page, page * KM__PAGE, found, stored);
}

/* With KM_CHECK, before the flag of a sealed map goes: after that nobody can tell damage from stores. */
static int check_sealed(km_map *map) {
    const uint64_t pages = km__pages_of(map->header.data_size);
    unsigned char bytes[KM__PAGE];
    bool hole = false;
    int result = 0;
    for (uint64_t page = 0; page < pages && result == 0; page++) {
        if (page % ENTRIES == 0)
            result = is_hole(map, page, pages - page < ENTRIES ? pages - page : ENTRIES, &hole);
        if (result == 0 && !hole)
            result = os_file_read(map->file, map->header.data_offset + page * KM__PAGE, bytes, sizeof bytes);
        if (result == 0)
            result = page_is_sealed(map, page, hole ? 0 : km__checksum_page(map->header.checksum_kind, bytes));
    }
    return result;
}

int km__live_rebuild(km_map *map, struct km__slots *slots) {
    struct km__control *control = map->control;
    struct km__header header = slots->slot[slots->chosen];
    const uint64_t generation = km__live_generation(map, &header);
    const bool same = same_boot(map);
    int result = 0;
    const bool sealed = (header.flags & KM__HEADER_CLEAN) != 0;
    if (sealed && (map->flags & KM_CHECK) != 0 && header.checksum_kind != KM_CHECKSUM_NONE)
        result = check_sealed(map);
    if (result == 0 && km__is_new(&header))
        result = os_file_sync_name(map->file, map->path); /* O8 */
    if (result != 0)
        return result;
    result = km__regions_unshare(map, &header);
    if (result == KM_EIO)
        atomic_store(&control->unsure, 1); /* S9: it may have been told what the next seal should hear */
    if (result != 0)
        return result;
    keep_doubt(map, sealed);
    km__control_clear(control, generation, 0);
    keep_holder(map, same, sealed);
    atomic_store(&control->file_mark, 1); /* S9: this write of the header may be told of a failure, too */
    header.flags &= ~(uint64_t)KM__HEADER_CLEAN;
    result = km__slots_store_both(map, slots, &header); /* S1; written anew in any case: see O2 */
    if (result != 0)
        return result;
    atomic_store(&control->file_mark, 0);
    atomic_store(&control->durable, header.generation);
    atomic_store(&control->checkpointed, header.generation);
    atomic_store(&control->geometry, header.geometry);
    return 0;
}

int km__live_map(km_map *map) {
    const uint64_t length = km__pages_of(map->header.data_size) * KM__PAGE;
    const uint64_t capacity = km__pages_of(map->header.data_capacity) * KM__PAGE;
    const uint64_t slack = capacity > RESERVE_SLACK ? capacity : RESERVE_SLACK;
    const enum os_view_kind kind = map->read_only ? OS_VIEW_SHARED_READ_ONLY : OS_VIEW_SHARED;
    if (map->view.address != NULL)
        return 0;
    int result = os_view_map(&map->view, map->file, kind, map->header.data_offset, length, capacity + slack);
    if (result != 0)
        result = os_view_map(&map->view, map->file, kind, map->header.data_offset, length, capacity);
    return result;
}

/* ---- begin and end ----------------------------------------------------------------------------------------------- */

int km__live_refresh(km_map *map) {
    bool lives = false;
    struct km__slots slots;
    int result = km__session_lives(map, &lives);
    if (result == 0 && (!lives || km__load(&map->control->geometry) != map->header.geometry)) {
        result = km__slots_load(map, &slots);
        if (result == 0)
            result = km__regions_follow(map, &slots.slot[slots.chosen]);
    }
    if (result == 0) /* also after a growth of this handle's own, whose geometry it knows */
        result = os_view_grow(&map->view, km__pages_of(map->header.data_size) * KM__PAGE);
    if (result != 0)
        return result;
    map->cursor.data_size = map->header.data_size;
    map->cursor.generation =
        lives ? visible_after(map, &map->header) : km__live_generation(map, &slots.slot[slots.chosen]);
    return 0;
}

/* Let go of CHECKPOINT (S8). */
static void checkpoint_end(km_map *map, int result) {
    if (result == 0)
        km__checkpoint_unlock(map);
    else
        km__unlock(map, KM__CHECKPOINT);
}

/* S8, under WRITER, so that no growth is under way. The slots are read only if a holder of CHECKPOINT is at work, has
 * died or has failed, or if this handle came after that. */
static int finish_growth(km_map *map, uint64_t deadline) {
    struct km__control *control = map->control;
    struct km__slots slots;
    if (atomic_load(&control->file_mark) == 0 && km__load(&control->geometry) >= map->header.geometry)
        return 0;
    int result = km__slots_load(map, &slots);
    if (result != 0 || slots.slot[slots.chosen].geometry <= km__load(&control->geometry))
        return result;
    result = km__checkpoint_lock(map, deadline);
    if (result != 0)
        return result;
    result = km__slots_load(map, &slots);
    if (result == 0) {
        const struct km__header same = slots.slot[slots.chosen];
        result = km__slots_store_both(map, &slots, &same);
    }
    if (result == 0) {
        km__raise(&control->geometry, slots.slot[slots.chosen].geometry);
        result = km__regions_follow(map, &slots.slot[slots.chosen]);
    }
    checkpoint_end(map, result);
    return result;
}

/* Take WRITER and bring the handle up to date. */
static int lock_writer(km_map *map, uint64_t deadline) {
    int result = km__failed(map) ? km__failed_error(map) : km__still_there(map);
    if (result == 0)
        result = km__lock_wait(map, KM__WRITER, OS_LOCK_WRITE, deadline);
    if (result != 0)
        return result;
    result = km__failed(map) ? km__failed_error(map) : finish_growth(map, deadline);
    if (result == 0)
        result = km__live_refresh(map);
    if (result != 0)
        km__unlock(map, KM__WRITER);
    return result;
}

int km__live_begin(km_map *map, enum km_access access) {
    if (access == KM_READ) {
        const int result = km__live_refresh(map);
        if (result == 0)
            map->access = KM_READ;
        return result;
    }
    const int result = lock_writer(map, km__deadline(map));
    if (result != 0)
        return result;
    map->abandoned = atomic_load(&map->control->holder) != 0;
    atomic_store(&map->control->holder, map->slot + 1); /* S5 */
    atomic_thread_fence(memory_order_seq_cst);          /* before the user's own stores */
    km__pin(map, map->cursor.generation);               /* for others to see */
    map->access = KM_WRITE;
    if (!map->abandoned)
        return 0;
    return km__error(KM_EABANDONED,
                     "%s: the last writer died inside its transaction, or the machine did, so the data may be half "
                     "changed: this transaction is open; repair the data and commit it, or abort",
                     map->path);
}

/* Under WRITER: the number of the next commit, which is the newest then. */
static int next_generation(km_map *map, uint64_t *next) {
    const uint64_t visible = km__load(&map->control->visible);
    if (visible >= KM__GENERATION_MAX)
        return km__error(KM_ESIZE,
                         "%s: there is no number for a commit after %" PRIu64
                         ", unless that was overwritten: close it everywhere and open it again",
                         map->path, visible);
    *next = visible + 1;
    return 0;
}

static void publish_next(km_map *map, uint64_t next) {
    map->cursor.generation = next;
    km__raise(&map->control->appended, next);
    km__publish(map, next);
}

int km__live_end(km_map *map, bool keep) {
    struct km__control *control = map->control;
    const bool writing = map->access == KM_WRITE;
    if (!writing) {
        map->access = 0;
        return (map->flags & KM_GUARD) != 0 ? km__still_there(map) : 0;
    }
    uint64_t next = 0;
    int result = km__still_there(map);
    if (!map->lost && keep) {
        result = next_generation(map, &next);
        if (result != 0)
            return result;
    }
    map->access = 0;
    if (map->lost) {
        km__unlock(map, KM__WRITER);
        return result;
    }
    if (keep || !map->abandoned)
        atomic_store(&control->holder, 0); /* S5; what was stored before is seen by who sees this */
    if (keep)
        publish_next(map, next);
    km__unpin(map);
    km__unlock(map, KM__WRITER);
    return 0;
}

/* ---- seal -------------------------------------------------------------------------------------------------------- */

int km__write_again(km_map *map, uint64_t first, uint64_t count) {
    const uint64_t data = map->header.data_offset, end = data + (first + count) * KM__PAGE;
    int result = 0;
    for (uint64_t at = data + first * KM__PAGE; at < end && result == 0;) {
        uint64_t start = end, stop = end;
        result = os_file_next_data(map->file, at, end, &start, &stop);
        if (result == 0 && start < stop)
            os_view_write_again(&map->view, start - data, stop - start);
        at = stop > at ? stop : end;
    }
    return result;
}

/* The entries of pages [first, first + count), written where they changed, or everywhere. */
static int seal_block(km_map *map, uint64_t first, uint64_t count, bool all, uint64_t *digest) {
    uint32_t block[ENTRIES] = {0};
    bool hole = false;
    const unsigned char *old = map->table_region.address + first * sizeof(uint32_t);
    const int result = is_hole(map, first, count, &hole);
    for (uint64_t i = 0; i < count && result == 0 && !hole; i++) {
        block[i] = km__checksum_page(map->header.checksum_kind, map->view.address + (first + i) * KM__PAGE);
        *digest += km__digest_mix(first + i, block[i]);
    }
    if (result != 0 || (!all && memcmp(block, old, (size_t)count * sizeof(uint32_t)) == 0))
        return result;
    return os_file_write(map->file, map->header.table_offset + first * sizeof(uint32_t), block,
                         (size_t)count * sizeof(uint32_t));
}

/* All pages and their entries, up to the sync. */
static int seal_pages(km_map *map, uint64_t *digest) {
    struct km__control *control = map->control;
    const uint64_t pages = km__pages_of(map->header.data_size);
    const bool checked = map->header.checksum_kind != KM_CHECKSUM_NONE;
    const bool unsure = atomic_load(&control->unsure) != 0 || km__load(&control->suspect) != 0; /* S9 */
    int result = 0;
    for (uint64_t first = 0; result == 0 && first < pages; first += ENTRIES) {
        const uint64_t count = pages - first < ENTRIES ? pages - first : ENTRIES;
        if (unsure)
            result = km__write_again(map, first, count);
        if (result == 0 && checked)
            result = seal_block(map, first, count, unsure, digest);
    }
    if (result == 0)
        result = km__guard_check(map);
    if (result != 0)
        return result == KM_EIO ? km__sync_failed(map, result) : result;
    if (os_file_sync(map->file) != 0)
        return km__sync_failed(map, KM_EIO);
    if (unsure) { /* what was set meanwhile stays */
        atomic_store(&control->unsure, 0);
        atomic_store(&control->suspect, 0);
    }
    return 0;
}

/* S2, under CHECKPOINT. */
static int seal(km_map *map, bool closing) {
    struct km__slots slots;
    struct km__control *control = map->control;
    uint64_t digest = 0;
    int result = km__slots_load(map, &slots);
    const uint64_t generation = result == 0 ? visible_after(map, &slots.slot[slots.chosen]) : 0;
    if (result == 0)
        result = km__regions_follow(map, &slots.slot[slots.chosen]);
    if (result == 0)
        result = os_view_grow(&map->view, km__pages_of(map->header.data_size) * KM__PAGE);
    if (result == 0)
        result = seal_pages(map, &digest);
    if (result != 0)
        return result;
    struct km__header header = slots.slot[slots.chosen];
    header.generation = header.target = generation;
    header.digest = digest;
    if (closing && atomic_load(&control->holder) == 0) /* S3, S6 */
        header.flags |= KM__HEADER_CLEAN;
    result = km__slots_store_both(map, &slots, &header);
    if (result != 0)
        return result;
    km__raise(&control->geometry, header.geometry); /* S8 */
    km__raise(&control->durable, generation);
    km__raise(&control->checkpointed, generation);
    return 0;
}

int km__live_seal(km_map *map, uint64_t deadline, bool closing) {
    int result = km__still_there(map);
    if (result == 0 && km__failed(map))
        result = km__failed_error(map);
    if (result == 0)
        result = km__checkpoint_lock(map, deadline);
    if (result != 0)
        return result;
    result = seal(map, closing);
    checkpoint_end(map, result);
    return result;
}

/* ---- growth ------------------------------------------------------------------------------------------------------ */

/* Under WRITER: the new size, up to the capacity. The new bytes are zero: see G3. */
static int grow_in_place(km_map *map, uint64_t size, uint64_t deadline) {
    const uint64_t old = map->header.data_size;
    int result = km__clear_way(map, old, size, deadline);
    if (result == 0)
        result = km__allocate_data(map->file, &map->header, size);
    if (result == 0)
        result = km__checkpoint_lock(map, deadline);
    if (result != 0)
        return result;
    struct km__slots slots;
    result = km__slots_load(map, &slots);
    if (result == 0) {
        struct km__header header = slots.slot[slots.chosen];
        for (uint64_t at = old; at % KM__PAGE != 0; at++) /* stored there by mistake */
            map->view.address[at] = 0;
        header.data_size = size;
        header.geometry++;
        result = km__slots_store_both(map, &slots, &header);
    }
    if (result == 0) {
        km__raise(&map->control->geometry, slots.slot[slots.chosen].geometry);
        result = km__regions_map(map, &slots.slot[slots.chosen]);
    }
    checkpoint_end(map, result);
    return result == 0 ? km__live_refresh(map) : result;
}

int km__live_grow(km_map *map, uint64_t size, uint64_t deadline) {
    for (bool moved = false;; moved = true) {
        int result = lock_writer(map, deadline);
        if (result != 0)
            return result;
        const uint64_t now = map->header.data_size;
        const bool fits = size <= map->header.data_capacity;
        uint64_t next = 0;
        if (size > now && fits)
            result = next_generation(map, &next);
        if (size > now && fits && result == 0)
            result = grow_in_place(map, size, deadline);
        if (size > now && fits && result == 0)
            publish_next(map, next);
        km__unlock(map, KM__WRITER);
        if (result != 0 || size == now || (size > now && fits))
            return result;
        if (size < now)
            return km__error(KM_ESIZE, "%s: it has %" PRIu64 " bytes already, and maps do not shrink", map->path, now);
        if (moved)
            return km__error(KM_EBUSY, "%s: it was changed while it grew: try again", map->path);
        result = km__grow_beyond(map, size, deadline);
        if (result != 0)
            return result;
    }
}
