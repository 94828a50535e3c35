/* SPDX-License-Identifier: MIT
 *
 * Maps backed by the paging file: how long they exist.
 *
 * As on Windows such an object lives as long as somebody has it open, and its name means nothing without that. Where
 * the system does not see to it by itself (Linux, where it is a file), these rules do. *Users* are the holders of the
 * USER lock; locks end with their process.
 *
 * Rules, and the failure that each prevents:
 *  A1 [model: named] An object without users is absent, whatever its bytes say: who finds one takes its name away, if
 *     it may, and reports that there is none. What a crash left is never shown again.
 *  A2 [model: named] A creator holds ATTACH and USER of the new file before it has its name. Otherwise an opener that
 *     comes between takes it for dead, and removes the name of a map that its creator goes on to use: two objects of
 *     one name.
 *  A3 [model: named] A name is taken away only under ATTACH, for writing, with no user, and only if it still means
 *     this very file. Users come into being under ATTACH alone, so none can come between the look and the removal.
 *  A4 [model: named] Who has got ATTACH looks whether the name still means this file, and starts again if not: it may
 *     have waited for somebody who removed the name.
 *  A5 The last user takes the name away when it has released everything, its own USER lock included: two last users
 *     that looked before they released would each see the other, and leave the name behind. It waits for ATTACH, as the
 *     holder may be such another, who looked too early.
 *  A6 What was left by users who were killed is found by whoever opens it, lists the maps, or creates one.
 *  A7 Attaching is not owning: the object of another user that has no users any more cannot be removed, and is refused.
 */
#include <stdlib.h>
#include <string.h>

#include "map.h"

enum { REAP_REST_NS = 200000, LOOK_TRIES = 8, LOOK_MS = 500 };

static bool has_users(struct os_locks *locks, int *error) {
    const int held = os_lock_probe(locks, KM__LOCK_BASE + KM__USER, 1, OS_LOCK_WRITE, NULL);
    *error = held < 0 ? held : 0;
    return held != 0;
}

int km__named_is_alive(struct os_file *file, struct os_locks *locks, const char *target, bool writable) {
    int error = 0;
    if (has_users(locks, &error))
        return error != 0 ? error : 1;
    if (!writable)
        return 0; /* A3 needs ATTACH for writing */
    error = os_file_remove(file, target);
    if (error == KM_EACCESS)
        return km__error(
            error, "%s: it was left behind by another user, who alone can clear it away: choose another name", target);
    return error;
}

/* Take the lock of who attaches, at once or up to the deadline. */
static int lock_attach(struct os_locks *locks, uint64_t deadline) {
    static const _Atomic uint32_t never = 0;
    struct os_waiter *waiter = NULL;
    uint64_t name = 0;
    int result = os_waiter_open(&waiter, &name);
    while (result == 0) {
        result = os_lock_try(locks, KM__LOCK_BASE + KM__ATTACH, 1, OS_LOCK_WRITE);
        if (result != KM_EBUSY || os_time_monotonic_ns() >= deadline)
            break;
        os_waiter_sleep(waiter, &never, 0, REAP_REST_NS);
        result = 0;
    }
    os_waiter_close(waiter);
    return result;
}

int km__named_look(const char *target, uint64_t deadline) {
    struct os_file *file = NULL;
    struct os_locks *locks = NULL;
    bool writable = true;
    int result = os_file_open(&file, target, true);
    if (result == KM_EACCESS) {
        writable = false;
        result = os_file_open(&file, target, false);
    }
    if (result == KM_ENOTFOUND)
        return 0;
    if (result == 0)
        result = os_locks_open(&locks, file);
    if (result == 0)
        result = km__named_is_alive(file, locks, target, false);
    if (result == 0 && writable)
        result = lock_attach(locks, deadline); /* A5 */
    else if (result == 0)
        result = km__error(KM_EACCESS,
                           "%s: it was left behind by another user, who alone can clear it away: choose another name",
                           target);
    if (result == 0 && os_file_is_at(file, target) == 1)
        result = km__named_is_alive(file, locks, target, true); /* A3 */
    os_locks_close(locks);
    os_file_close(file);
    return result;
}

void km__named_reap(const char *target, uint64_t deadline) {
    char kept[1024]; /* what the caller has to tell */
    strncpy(kept, km__error_detail(), sizeof kept - 1);
    kept[sizeof kept - 1] = '\0';
    (void)km__named_look(target, deadline); /* what could not be cleared away is absent all the same (A1) */
    (void)km__error(0, "%s", kept);
}

static int reap_one(void *context, const char *target) {
    (void)context;
    km__named_reap(target, 0);
    return 0;
}

void km__named_sweep(void) {
    (void)os_objects_list(reap_one, NULL);
    km__error_clear();
}

/* ---- list -------------------------------------------------------------------------------------------------------- */

struct list {
    km_list_function *each;
    void *context;
    bool canceled;
};

/* Whether bytes that were no map when they were opened as one are one now: another object has the name. */
static bool is_another(km_map *map) {
    char magic[8] = {0};
    return km_size(map) >= sizeof magic && os_file_read(map->file, 0, magic, sizeof magic) == 0 &&
           memcmp(magic, KM__MAGIC, sizeof magic) == 0;
}

/* Open it as what it is: a map, or bytes without a header. */
static int look_at(const char *target, km_map **map) {
    struct km_options options = {.struct_size = sizeof options, .flags = KM_READONLY, .timeout_ms = LOOK_MS};
    int result = 0;
    for (int tries = 0; tries < LOOK_TRIES; tries++) {
        options.mode = 0;
        result = km_open(map, target, &options);
        if (result != KM_ENOTMAP && result != KM_EEMPTY)
            return result;
        options.mode = KM_RAW;
        result = km_open(map, target, &options);
        if (result != 0 || !is_another(*map))
            return result;
        (void)km_close(*map);
        *map = NULL;
        result = km__error(KM_EBUSY, "%s: it is made anew again and again while it is looked at", target);
    }
    return result;
}

static int list_one(void *context, const char *target) {
    struct list *list = context;
    km_map *map = NULL;
    struct km_info info = {.struct_size = sizeof info};
    struct km_listed listed = {.target = target, .detail = ""};
    char detail[1024];
    int result = km__named_look(target, 0); /* A6 */
    if (result == 0)
        return 0;
    result = look_at(target, &map);
    if (result == 0)
        result = km_get_info(map, &info);
    if (result == KM_ENOTFOUND)
        return 0; /* its last user has just gone */
    if (result == 0) {
        listed.size = info.size;
        listed.generation = info.generation;
        listed.mode = info.mode;
        listed.handles = info.handles;
        listed.read_only_handles = info.read_only_handles;
    } else {
        listed.error = result;
        strncpy(detail, km__error_detail(), sizeof detail - 1);
        detail[sizeof detail - 1] = '\0';
        listed.detail = detail;
    }
    (void)km_close(map);
    list->canceled = list->each(list->context, &listed) != 0;
    return list->canceled ? 1 : 0;
}

int km_list(km_list_function *each, void *context) {
    km__error_clear();
    if (each == NULL)
        return km__error(KM_EINVAL, "km_list() needs a function to call");
    struct list list = {.each = each, .context = context};
    const int result = os_objects_list(list_one, &list);
    if (list.canceled)
        return km__error(KM_ECANCELED, "the caller ended the list");
    if (result == 0)
        km__error_clear();
    return result;
}
