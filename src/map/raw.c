/* SPDX-License-Identifier: MIT
 *
 * Raw maps: the bytes of a file, or of a section, that keepmap does not own. No header is read or written, there is no
 * control and nothing is counted in the file; all that other users of keepmap can see of such a handle are its locks,
 * which lie past every end of a file and change no byte:
 *  - USER (and READ_ONLY_USER), so that an object backed by the paging file lives as long as the handle;
 *  - SLOT + i of a handle that may write, so that such handles can be counted. There is no slot behind it.
 *
 * A file that is a keepmap map is refused for writing: stores to it would go around the header, the journal and
 * everybody's views, and the next to open it would find it damaged. The bytes of a map are refused for a new file, too,
 * and before it has its name: it could not be opened, and would be left behind.
 *
 * After a sync that failed the page cache shows bytes that the disk never got, and a new sync reports success (S9 in
 * live.c). There is no word that all could read, so it is the handle that was told which has all pages written again
 * by its next sync. (Who opens the file after that is not told by the system, and syncs what he stores himself.)
 */
#include <string.h>

#include "map.h"

int km__raw_create(struct os_file *file, const struct km_options *options, const char *path) {
    if (options->size == 0)
        return km__error(KM_ESIZE, "%s: the size is 0: say how many bytes the file has, from 1 on", path);
    if (options->size > KM__SIZE_MAX)
        return km__error(KM_ESIZE, "%s: sizes end at %llu bytes: give a smaller one", path,
                         (unsigned long long)KM__SIZE_MAX);
    const int result = os_file_resize(file, options->size);
    /* Stores to a hole of a full disk would be a fault. */
    return result != 0 ? result : os_file_allocate(file, 0, options->size);
}

/* By the mark of either header slot: a map is one as long as one of them is good. */
int km__raw_refuse_maps(struct os_file *file, uint64_t size, const char *path) {
    bool marked = false;
    int result = 0;
    for (uint64_t slot = KM__SLOT_A; slot <= KM__SLOT_B && result == 0; slot += KM__SLOT_B) {
        char magic[8] = {0};
        if (size >= slot + sizeof magic)
            result = os_file_read(file, slot, magic, sizeof magic);
        marked = marked || memcmp(magic, KM__MAGIC, sizeof magic) == 0;
    }
    if (result != 0 || !marked)
        return result;
    return km__error(KM_EINVAL,
                     "%s: it is a keepmap map, and raw stores would damage it: open it without KM_RAW, or with "
                     "KM_READONLY",
                     path);
}

static int take_slot(km_map *map) {
    for (uint32_t i = 0; i < KM__SLOTS; i++) {
        const int result = os_lock_try(map->locks, KM__SLOT_LOCKS + i, 1, OS_LOCK_WRITE);
        if (result == 0)
            map->slot = i;
        if (result != KM_EBUSY)
            return result;
    }
    return km__error(KM_EHANDLES, "%s: all %u handles that may write are taken: close some, or open with KM_READONLY",
                     map->path, KM__SLOTS);
}

int km__raw_attach(km_map *map) {
    int result = os_file_info(map->file, &map->identity);
    const uint64_t size = map->identity.size;
    if (result == 0 && size == 0)
        result = km__error(KM_EEMPTY, "%s: the file is empty, so there is nothing to map: give it some bytes first",
                           map->path);
    if (result == 0 && !map->read_only)
        result = km__raw_refuse_maps(map->file, size, map->path);
    if (result == 0 && !map->read_only)
        result = take_slot(map);
    if (result == 0)
        result = os_view_map(&map->view, map->file, map->read_only ? OS_VIEW_SHARED_READ_ONLY : OS_VIEW_SHARED, 0, size,
                             size);
    map->cursor.data_size = size;
    return result;
}

int km__raw_sync(km_map *map) {
    int result = map->unsure ? km__write_again(map, 0, km__pages_of(map->cursor.data_size)) : 0;
    if (result == 0)
        result = os_view_sync(&map->view);
    map->unsure = result != 0;
    return result;
}

int km__raw_refuse(km_map *map, const char *what) {
    return km__error(KM_EUNSUPPORTED,
                     "%s: %s needs a map with a header, and this is open as raw bytes, which have no commits and no "
                     "checksums: make a map of them (keepmap create --from)",
                     map->path, what);
}
