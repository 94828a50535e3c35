/* SPDX-License-Identifier: MIT
 *
 * Header slots and the regions of the file that they describe.
 *
 * Rules, and the failure that each prevents:
 *  H1 [model: durability] A slot is written only over the one that does not count (the older or damaged one), with
 *     all fields taken from the newest, and only while the newest is known durable: `header_durable` in control
 *     names its sequence, and who finds another there (a checkpointer died between its write and its sync, or the
 *     sync failed) writes the same bytes again, durably, first. Otherwise a power cut can tear both slots at once.
 *  H2 Slots are written under CHECKPOINT (or ATTACH with nobody else attached), so that sequences never fork.
 *     Readers take no lock: they copy both slots, check the copies and look again if neither holds, because two
 *     slots read one after the other can each be caught in the middle of their own write.
 *  H3 What changes geometry goes to both slots, each durable, before the first frame that needs it: a frame that
 *     lies in a longer ring is lost to a recovery that knows only the shorter one.
 *  H4 A header that contradicts what is mapped (another map, regions that moved or shrank without being announced) is
 *     refused: its sizes would lead outside of the mappings.
 *  H5 What has its space since the creation, so that a full disk is no fault and no failed sync (N2), shares its blocks
 *     with the copy if somebody copied the file by reference (`cp --reflink`): then a store through a mapping, to
 *     control or to live data, needs a block again. The first to attach, before it stores anything, gives the file
 *     blocks of its own there; the data of other maps is written by calls that return an error.
 */
#include <string.h>

#include "map.h"

enum { LOAD_TRIES = 64 };

/* H4: what is mapped never moves, shrinks or changes its kind under a handle. */
static int check_mapped(const km_map *map, const struct km__header *header) {
    const struct km__header *now = &map->header;
    if (map->table_region.address == NULL)
        return 0;
    const bool same = header->table_offset == now->table_offset && header->table_capacity == now->table_capacity &&
                      header->data_capacity == now->data_capacity && header->journal_offset == now->journal_offset &&
                      header->journal_size == now->journal_size;
    if (memcmp(header->uuid, now->uuid, sizeof now->uuid) == 0 && header->mode == now->mode &&
        header->checksum_kind == now->checksum_kind && header->data_offset == now->data_offset &&
        header->data_capacity >= now->data_capacity && header->journal_size >= now->journal_size &&
        (same || header->geometry > now->geometry))
        return 0;
    return km__error(KM_EHEADER, "%s: its header was replaced while it was open: close it everywhere and open it again",
                     map->path);
}

int km__slots_load(km_map *map, struct km__slots *slots) {
    char why[256] = "";
    for (unsigned attempt = 0;; attempt++) {
        const int read = os_file_read(map->file, KM__SLOT_A, slots->slot, sizeof slots->slot);
        if (read != 0)
            return read;
        const int result = km__header_choose(slots->slot, &slots->chosen, slots->result, why, sizeof why);
        if (result == 0)
            return check_mapped(map, &slots->slot[slots->chosen]);
        if (result != KM_EHEADER || attempt == LOAD_TRIES)
            return km__error(result, "%s: %s", map->path, why);
        km__rest(map, attempt);
    }
}

static int slot_write(km_map *map, const struct km__header *header, int slot) {
    const uint64_t offset = slot == 0 ? KM__SLOT_A : KM__SLOT_B;
    const int result = os_file_write_durable(map->file, offset, header, sizeof *header);
    if (result != 0)
        return km__sync_failed(map, result);
    atomic_store_explicit(&map->control->header_durable, header->sequence, memory_order_release);
    return 0;
}

int km__slots_write_again(km_map *map, const struct km__slots *slots, int slot) {
    return slot_write(map, &slots->slot[slot], slot);
}

int km__slots_store(km_map *map, struct km__slots *slots, const struct km__header *header) {
    const struct km__header *newest = &slots->slot[slots->chosen];
    struct km__header sealed = *header;
    sealed.sequence = newest->sequence + 1;
    km__header_seal(&sealed);
    int result = 0;
    if (km__load(&map->control->header_durable) != newest->sequence) /* H1 */
        result = slot_write(map, newest, slots->chosen);
    const int slot = 1 - slots->chosen;
    if (result == 0)
        result = slot_write(map, &sealed, slot);
    if (result != 0)
        return result;
    slots->slot[slot] = sealed;
    slots->result[slot] = 0;
    slots->chosen = slot;
    return 0;
}

int km__slots_store_both(km_map *map, struct km__slots *slots, const struct km__header *header) {
    const struct km__header same = *header; /* it may be one of the slots */
    const int result = km__slots_store(map, slots, &same);
    return result != 0 ? result : km__slots_store(map, slots, &same);
}

struct km__cursor km__header_cursor(const struct km__header *header) {
    return (struct km__cursor){.generation = header->generation,
                               .position = header->journal_position,
                               .chain = header->journal_chain,
                               .digest = header->digest,
                               .data_size = header->data_size};
}

/* ---- regions ----------------------------------------------------------------------------------------------------- */

int km__home_cover(km_map *map, uint64_t data_size) {
    const uint64_t length = km__pages_of(data_size) * KM__PAGE;
    if (!km__is_live(map) && map->home_region.length < length) {
        struct os_region grown = {0};
        const int result = os_region_map(&grown, map->file, map->header.data_offset, length, false);
        if (result != 0)
            return result;
        os_region_unmap(&map->home_region);
        map->home_region = grown;
    }
    return map->view.address != NULL && map->view.length < length ? os_view_grow(&map->view, length) : 0;
}

int km__regions_map(km_map *map, const struct km__header *header) {
    struct os_file_info info;
    int result = os_file_info(map->file, &info);
    if (result != 0)
        return result;
    if (info.size < km__header_file_end(header))
        return km__error(KM_ETRUNCATED, "%s: the file has %llu bytes, its header says %llu: restore it from a copy",
                         map->path, (unsigned long long)info.size, (unsigned long long)km__header_file_end(header));
    struct os_region table = {0}, journal = {0};
    const uint64_t table_length = header->table_capacity;
    result = os_region_map(&table, map->file, header->table_offset, table_length, false);
    if (result != 0)
        return result;
    if (header->mode != KM_LIVE)
        result = os_region_map(&journal, map->file, header->journal_offset, header->journal_size, false);
    if (result != 0) {
        os_region_unmap(&table);
        return result;
    }
    os_region_unmap(&map->table_region);
    os_region_unmap(&map->journal_region);
    map->table_region = table;
    map->journal_region = journal;
    map->header = *header;
    memcpy(map->limits.uuid, header->uuid, sizeof map->limits.uuid);
    map->limits.data_capacity = header->data_capacity;
    map->limits.compress = (header->feature_incompatible & KM__FEATURE_COMPRESS) != 0;
    return 0;
}

int km__regions_unshare(km_map *map, const struct km__header *header) {
    const bool live = header->mode == KM_LIVE;
    const uint64_t pages = km__pages_of(header->data_size);
    int result = os_file_unshare(map->file, 0, KM__CONTROL_OFFSET + KM__CONTROL_SIZE);
    if (result == 0 && !live)
        result = os_file_unshare(map->file, header->journal_offset, header->journal_size);
    if (result == 0 && live)
        result = os_file_unshare(map->file, header->data_offset, pages * KM__PAGE);
    if (result == 0 && live)
        result = os_file_unshare(map->file, header->table_offset, pages * sizeof(uint32_t));
    return result == 0 ? 0 : km__error_prefix(result, "it shares blocks with a copy, and needs its own");
}

int km__regions_follow(km_map *map, const struct km__header *header) {
    return header->geometry == map->header.geometry ? 0 : km__regions_map(map, header);
}

void km__regions_unmap(km_map *map) {
    os_region_unmap(&map->table_region);
    os_region_unmap(&map->journal_region);
    os_region_unmap(&map->home_region);
    os_region_unmap(&map->control_region);
    map->control = NULL;
}

int km__geometry_refresh(km_map *map) {
    if (km__load(&map->control->geometry) == map->header.geometry)
        return 0;
    struct km__slots slots;
    const int result = km__slots_load(map, &slots);
    if (result != 0)
        return result;
    return km__regions_follow(map, &slots.slot[slots.chosen]);
}

static int look_at_file(km_map *map) {
    struct os_file_info info;
    const int looked = os_file_info(map->file, &info);
    if (looked == KM_ESYSTEM) /* the descriptor was closed */
        return km__error_prefix(KM_ESTALE, "%s: the handle's file is gone: close it and open the map again", map->path);
    if (looked != 0)
        return looked; /* it could not be looked at now, which does not say that it is gone */
    if (info.device != map->identity.device || info.inode != map->identity.inode || !os_file_is_ours(map->file))
        return km__error(KM_ESTALE,
                         "%s: the program closed the handle's file and opened another in its place: close the handle "
                         "and open the map again",
                         map->path);
    if (info.links == 0)
        return km__error(KM_ESTALE, "%s: the file was removed or replaced: open the map again", map->path);
    if (info.size < (map->raw ? map->cursor.data_size : km__header_file_end(&map->header)))
        return km__error(KM_ESTALE, "%s: the file was cut short to %llu bytes: restore it from a copy", map->path,
                         (unsigned long long)info.size);
    return 0;
}

int km__guard_check(km_map *map) {
    if ((map->flags & KM_GUARD) == 0 || map->file == NULL || (!map->faulted && !os_file_faulted(map->file)))
        return 0;
    map->faulted = map->lost = true;
    const int result = look_at_file(map);
    if (result != 0)
        return result;
    return km__error(KM_EIO,
                     "%s: the disk did not deliver a page of it, and zeros were shown instead: close it, look into the "
                     "system's log, and check the disk before trusting it again",
                     map->path);
}

int km__still_there(km_map *map) {
    int result = km__guard_check(map);
    if (result != 0)
        return result;
    result = look_at_file(map);
    if (result == 0)
        result = os_locks_check(map->locks); /* L6 */
    map->lost = map->lost || result == KM_ESTALE;
    return result;
}
