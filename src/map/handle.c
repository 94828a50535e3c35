/* SPDX-License-Identifier: MIT
 *
 * Who may enter a call. A handle belongs to one thread at a time: a flag notices a second thread instead of letting
 * it in. After fork the child's copies are dead: its file descriptions of the locks are closed at once, so that the
 * parent's locks end with the parent and not with a child that lives on; the mappings were never inherited.
 */
#include <stdio.h>

#include "map.h"

static struct km_map *registry; /* under os_process_lock() */
static bool watching;           /* under os_process_lock() */

int km__enter_lost(km_map *map) {
    km__error_clear();
    if (map == NULL)
        return km__error(KM_EINVAL, "the map is NULL: open one first");
    if (atomic_load_explicit(&map->forked, memory_order_relaxed))
        return km__error(KM_EFORKED, "%s: this handle was inherited by fork: open the map anew in the child",
                         map->path);
    if (atomic_flag_test_and_set_explicit(&map->busy, memory_order_acquire))
        return km__error(KM_EMISUSE,
                         "%s: another call on this handle is under way, in another thread or in this one, which was "
                         "called from it: open a handle for each",
                         map->path);
    return 0;
}

int km__enter(km_map *map) {
    int result = km__enter_lost(map);
    if (result == 0 && km__guard_check(map) != 0)
        return km__leave(map, 0); /* which says it again */
    if (result == 0 && map->lost) {
        result =
            km__error(KM_ESTALE, "%s: the file behind this handle is gone: close it and open the map again", map->path);
        return km__leave(map, result);
    }
    return result;
}

/* A read that met the end of a file that was cut short meanwhile: it is told as what it is, and as the next call would
 * tell it, not as a damaged map. */
static int name_cut(km_map *map, int result) {
    char kept[1024];
    snprintf(kept, sizeof kept, "%s", km__error_detail());
    return km__still_there(map) == KM_ESTALE ? KM_ESTALE : km__error(result, "%s", kept);
}

int km__leave(km_map *map, int result) {
    const int fault = km__guard_check(map);
    result = fault != 0 ? fault : result;
    if (result == KM_ETRUNCATED && map->file != NULL)
        result = name_cut(map, result);
    atomic_flag_clear_explicit(&map->busy, memory_order_release);
    if (result == 0)
        km__error_clear(); /* what failed on the way and was made up for */
    return result;
}

/* Runs in the child of a fork, alone, with the process lock held by km__fork_prepare(). */
static void fork_child(void) {
    for (struct km_map *map = registry; map != NULL; map = map->next) {
        atomic_store_explicit(&map->forked, true, memory_order_relaxed);
        os_locks_close(map->locks);
        map->locks = NULL;
        os_file_close(map->file);
        map->file = NULL;
    }
    registry = NULL;
    os_process_unlock();
}

int km__register(km_map *map) {
    int result = 0;
    os_process_lock();
    if (!watching) {
        result = os_fork_watch(os_process_lock, os_process_unlock, fork_child);
        watching = result == 0;
    }
    if (result == 0) {
        map->next = registry;
        registry = map;
    }
    os_process_unlock();
    return result;
}

void km__unregister(km_map *map) {
    os_process_lock();
    for (struct km_map **link = &registry; *link != NULL; link = &(*link)->next)
        if (*link == map) {
            *link = map->next;
            break;
        }
    os_process_unlock();
}
