/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises of live and raw maps when a call of the system fails: see sweep.h. What was stored stands,
 * whatever fails; what can fail is what is said about it.
 */
#include <errno.h>
#include <unistd.h>

#include "scratch.h"
#include "sweep_map.h"

/* ---- live -------------------------------------------------------------------------------------------------------- */

static int commit_new(struct sweep *sweep) {
    return sweep_commit(sweep, sweep->map, VERSION_NEW);
}

static int seal_map(struct sweep *sweep) {
    (void)sweep_step(sweep, km_sync(sweep->map));
    return sweep->result;
}

static int grow_in_place(struct sweep *sweep) {
    (void)sweep_step(sweep, km_grow(sweep->map, SWEEP_SIZE + 5 * KM_PAGE_SIZE));
    return sweep->result;
}

static int grow_beyond(struct sweep *sweep) {
    (void)sweep_step(sweep, km_grow(sweep->map, 3 * SWEEP_SIZE));
    return sweep->result;
}

static int verify_map(struct sweep *sweep) {
    struct km_report report = {.struct_size = sizeof report};
    if (sweep_step(sweep, km_verify(sweep->map, &report, NULL, NULL)))
        return sweep->result;
    sweep_expect(sweep, report.pages_damaged + report.headers_damaged == 0, "damage is found where none is");
    return 0;
}

static void prepare_stored(struct sweep *sweep) {
    sweep_prepare_used(sweep);
    must(sweep_commit(sweep, sweep->map, VERSION_NEW));
    sweep->before = VERSION_NEW;
}

static void prepare_stored_alone(struct sweep *sweep) {
    prepare_stored(sweep);
    must(km_close(sweep->other));
    sweep->other = NULL;
}

static bool by_other_means(const struct sweep *sweep) {
    return sweep->result == 0 && (sweep->fault->call == FAULT_LOCK_PROBE || sweep->fault->call == FAULT_FSTATFS);
}

#define LIVE .mode = KM_LIVE, .settle = sweep_settle, .excuses = by_other_means

static void a_live_map_keeps_what_was_stored_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"live, commit", .prepare = sweep_prepare_used, .run = commit_new, LIVE},
        {"live, seal", .prepare = prepare_stored, .run = seal_map, LIVE},
        {"live, verify", .prepare = prepare_stored, .run = verify_map, LIVE},
        {"live, growth", .prepare = prepare_stored, .run = grow_in_place, LIVE},
        {"live, growth beyond max_size", .prepare = prepare_stored_alone, .run = grow_beyond, LIVE},
    };
    SWEEP(scenarios);
}

/* ---- live: opening and closing ----------------------------------------------------------------------------------- */

static int open_map(struct sweep *sweep) {
    (void)sweep_step(sweep, sweep_open(sweep, &sweep->map, sweep->scenario->flags));
    return sweep->result;
}

static int close_map(struct sweep *sweep) {
    km_map *map = sweep->map;
    sweep->map = NULL;
    (void)sweep_step(sweep, km_close(map));
    return sweep->result;
}

static void settle_open(struct sweep *sweep) {
    const bool creates = (sweep->scenario->flags & KM_CREATE) != 0;
    if (sweep->result != 0) {
        sweep_expect(sweep, sweep->map == NULL, "there is a handle");
        sweep_expect(sweep, !creates || access(sweep->path, F_OK) != 0, "the map was made");
        const int again = sweep_open(sweep, &sweep->map, sweep->scenario->flags);
        sweep_expect(sweep, again == 0, "the second attempt gives %s: %s", km_error_name(again),
                     km_last_error_detail());
    }
    sweep_expect(sweep, sweep->map != NULL && sweep_version(sweep->map) == sweep->before, "another version is shown");
    sweep_close(sweep, 0);
    sweep_settle_file(sweep, sweep->before, sweep->before);
}

static void settle_closed(struct sweep *sweep) {
    if (sweep->result == 0 && sweep->other == NULL) {
        const struct km__header header = scratch_header(sweep->path);
        sweep_expect(sweep, (header.flags & KM__HEADER_CLEAN) != 0, "it is not sealed");
    }
    if (sweep->other != NULL)
        sweep_expect(sweep, sweep_version(sweep->other) == VERSION_NEW, "the other handle shows another version");
    sweep->failed = sweep->result == KM_EIO && sweep->other == NULL;
    sweep_close(sweep, 0);
    sweep_settle_file(sweep, VERSION_NEW, VERSION_NEW);
}

static void prepare_new(struct sweep *sweep) {
    sweep->before = 0;
}

/* Where there is no room for the whole reservation, a smaller one is tried; and what by_another_way() of
 * test_fault_open.c says. */
static bool by_less_room(const struct sweep *sweep) {
    const struct fault *fault = sweep->fault;
    if (sweep->result != 0)
        return false;
    switch (fault->call) {
    case FAULT_CALLOC:
    case FAULT_MMAP_MEMORY:
    case FAULT_MMAP_FILE:
    case FAULT_MADVISE_FORK:
    case FAULT_LSTAT:
    case FAULT_LOCK_PROBE:
        return true;
    case FAULT_OPEN:
        return fault_count(FAULT_SYNCFS) > 0;
    case FAULT_FSTATFS:
        return fault->occurrence != 2;
    default:
        return false;
    }
}

static void a_live_map_is_opened_and_closed_whole_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"live, create", .mode = KM_LIVE, .flags = KM_CREATE, .prepare = prepare_new, .run = open_map,
         .settle = settle_open, .excuses = by_less_room},
        {"live, open", .mode = KM_LIVE, .prepare = sweep_store_closed, .run = open_map, .settle = settle_open,
         .excuses = by_less_room},
        {"live, open of a sealed map, checked", .mode = KM_LIVE, .flags = KM_CHECK, .prepare = sweep_store_closed,
         .run = open_map, .settle = settle_open, .excuses = by_less_room},
        {"live, open after death", .mode = KM_LIVE, .prepare = sweep_store_killed, .run = open_map,
         .settle = settle_open, .excuses = by_less_room},
        {"live, open for reading", .mode = KM_LIVE, .flags = KM_READONLY, .prepare = sweep_store_killed,
         .run = open_map, .settle = settle_open, .excuses = by_less_room},
        {"live, last close", .mode = KM_LIVE, .prepare = prepare_stored_alone, .run = close_map,
         .settle = settle_closed, .excuses = by_other_means},
        {"live, close", .mode = KM_LIVE, .prepare = prepare_stored, .run = close_map, .settle = settle_closed,
         .excuses = by_other_means},
    };
    SWEEP(scenarios);
}

/* ---- raw --------------------------------------------------------------------------------------------------------- */

static void prepare_raw(struct sweep *sweep) {
    must(sweep_open(sweep, &sweep->map, KM_CREATE));
    sweep_fill(sweep->map, VERSION_OLD);
}

static void prepare_raw_closed(struct sweep *sweep) {
    prepare_raw(sweep);
    must(km_close(sweep->map));
    sweep->map = NULL;
}

static int copy_map(struct sweep *sweep) {
    (void)sweep_step(sweep, km_copy(sweep->map, sweep->copy));
    return sweep->result;
}

static int describe_map(struct sweep *sweep) {
    struct km_info info = {.struct_size = sizeof info};
    if (sweep_step(sweep, km_get_info(sweep->map, &info)))
        return sweep->result;
    sweep_expect(sweep, info.size == SWEEP_SIZE && info.handles == 1, "%u handles are told", info.handles);
    return 0;
}

/* The bytes are those that were stored. */
static void expect_bytes(struct sweep *sweep, const char *path, int version) {
    struct scratch_image image = scratch_load(path);
    sweep_expect(sweep, image.length == SWEEP_SIZE, "it has %zu bytes", image.length);
    for (uint64_t page = 0; page + KM_PAGE_SIZE <= image.length; page += KM_PAGE_SIZE)
        sweep_expect(sweep, image.bytes[page + KM_PAGE_SIZE - 1] == version, "page %u has other bytes",
                     (unsigned)(page / KM_PAGE_SIZE));
    scratch_release(&image);
}

static void settle_raw(struct sweep *sweep) {
    const bool copies = sweep->scenario->run == copy_map, creates = (sweep->scenario->flags & KM_CREATE) != 0;
    if (sweep->result != 0 && sweep->scenario->run != close_map) {
        sweep_expect(sweep, !copies || access(sweep->copy, F_OK) != 0, "a copy is left");
        sweep_expect(sweep, !creates || access(sweep->path, F_OK) != 0, "the file was made");
        unlink(sweep->copy);
        struct sweep later = *sweep;
        const int again = sweep->scenario->run(&later);
        sweep_expect(sweep, again == 0, "the second attempt gives %s: %s", km_error_name(again),
                     km_last_error_detail());
        sweep->map = later.map;
    }
    sweep_close(sweep, 0);
    expect_bytes(sweep, sweep->path, creates ? 0 : VERSION_OLD);
    if (copies)
        expect_bytes(sweep, sweep->copy, VERSION_OLD);
}

/* As in a map; the copy's name is looked at early, and its sync tried in another way. */
static bool by_a_raw_way(const struct sweep *sweep) {
    return by_less_room(sweep) ||
           (sweep->result == 0 &&
            (sweep->fault->call == FAULT_FSTATFS ||
             (sweep->fault->call == FAULT_OPEN && sweep->fault->occurrence == 1 && sweep->scenario->run == copy_map)));
}

#define RAW .mode = KM_RAW, .settle = settle_raw, .excuses = by_a_raw_way

static void raw_bytes_stay_what_they_are_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"raw, create", .flags = KM_CREATE, .prepare = prepare_new, .run = open_map, RAW},
        {"raw, open", .prepare = prepare_raw_closed, .run = open_map, RAW},
        {"raw, sync", .prepare = prepare_raw, .run = seal_map, RAW},
        {"raw, info", .prepare = prepare_raw, .run = describe_map, RAW},
        {"raw, copy", .prepare = prepare_raw, .run = copy_map, RAW},
        {"raw, close", .prepare = prepare_raw, .run = close_map, RAW},
    };
    SWEEP(scenarios);
}

int main(void) {
    scratch_time_limit(600);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_live_map_keeps_what_was_stored_whichever_call_fails),
        cmocka_unit_test(a_live_map_is_opened_and_closed_whole_whichever_call_fails),
        cmocka_unit_test(raw_bytes_stay_what_they_are_whichever_call_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
