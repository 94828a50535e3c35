/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises of maps backed by the paging file when a call of the system fails: see sweep.h. They end with
 * their last user, whatever fails; a name that could not be cleared away means nothing, and is cleared away by the next
 * who looks.
 */
#include <errno.h>
#include <unistd.h>

#include "objects.h"
#include "scratch.h"
#include "sweep_map.h"

#define TARGET "Local\\swept"
#define GLOBAL "Global\\swept"

static int open_map(struct sweep *sweep) {
    (void)sweep_step(sweep, sweep_open(sweep, &sweep->map, sweep->scenario->flags));
    return sweep->result;
}

static int commit_new(struct sweep *sweep) {
    return sweep_commit(sweep, sweep->map, VERSION_NEW);
}

static int grow_in_place(struct sweep *sweep) {
    (void)sweep_step(sweep, km_grow(sweep->map, SWEEP_SIZE + 5 * KM_PAGE_SIZE));
    return sweep->result;
}

static int sync_map(struct sweep *sweep) {
    (void)sweep_step(sweep, km_sync(sweep->map));
    return sweep->result;
}

static int copy_map(struct sweep *sweep) {
    (void)sweep_step(sweep, km_copy(sweep->map, sweep->copy));
    return sweep->result;
}

static int close_map(struct sweep *sweep) {
    km_map *map = sweep->map;
    sweep->map = NULL;
    (void)sweep_step(sweep, km_close(map));
    return sweep->result;
}

static int count_listed(void *context, const struct km_listed *listed) {
    *(unsigned *)context += listed->error == 0 || listed->detail[0] != '\0';
    return 0;
}

/* An object that cannot be looked at is told with its error. */
static int list_maps(struct sweep *sweep) {
    unsigned count = 0;
    if (sweep_step(sweep, km_list(count_listed, &count)))
        return sweep->result;
    const bool passed_over = sweep->fault != NULL && sweep->happened;
    sweep_expect(sweep, count == 1 || passed_over, "%u maps are told", count);
    return 0;
}

/* ---- what it is done with ---------------------------------------------------------------------------------------- */

static void prepare_nothing(struct sweep *sweep) {
    sweep->before = 0;
}

/* Nor the directory that objects stand in. */
static void prepare_no_directory(struct sweep *sweep) {
    char path[512];
    prepare_nothing(sweep);
    snprintf(path, sizeof path, "%s", objects_path(sweep->path));
    *strrchr(path, '/') = '\0';
    assert_true(rmdir(path) == 0 || errno == ENOENT);
}

static void prepare_other(struct sweep *sweep) {
    must(sweep_open(sweep, &sweep->other, KM_CREATE));
    must(sweep_commit(sweep, sweep->other, VERSION_OLD));
}

static void prepare_both(struct sweep *sweep) {
    prepare_other(sweep);
    must(sweep_open(sweep, &sweep->map, 0));
}

static void prepare_stored(struct sweep *sweep) {
    prepare_both(sweep);
    must(sweep_commit(sweep, sweep->map, VERSION_NEW));
    sweep->before = VERSION_NEW;
}

static void prepare_last(struct sweep *sweep) {
    must(sweep_open(sweep, &sweep->map, KM_CREATE));
    must(sweep_commit(sweep, sweep->map, VERSION_OLD));
}

/* ---- afterwards -------------------------------------------------------------------------------------------------- */

/* Nobody uses it: it is absent for whoever asks, and nothing is left once somebody has asked. */
static void settle_gone(struct sweep *sweep) {
    km_map *map = NULL;
    unsigned count = 0;
    const int found = sweep_open(sweep, &map, 0);
    sweep_expect(sweep, found == KM_ENOTFOUND, "opening what has no users gives %s", km_error_name(found));
    const int listed = km_list(count_listed, &count);
    sweep_expect(sweep, listed == 0 && count == 0, "%u maps are told (%s)", count, km_error_name(listed));
    sweep_expect(sweep, objects_left() == 0, "a name is left");
}

/* The poison is one of files, too; it ends with the object. */
static bool is_failed(struct sweep *sweep) {
    struct km_info info = {.struct_size = sizeof info};
    km_map *map = sweep->map != NULL ? sweep->map : sweep->other;
    return map != NULL && km_get_info(map, &info) == 0 && info.failed != 0;
}

static void settle_object(struct sweep *sweep) {
    struct sweep later = *sweep;
    sweep->failed = is_failed(sweep);
    if (sweep->failed) {
        sweep_settle_failed(sweep);
        sweep_close(sweep, KM_EIO);
        settle_gone(sweep);
        return;
    }
    if (sweep->result != 0 && sweep->scenario->run != close_map) {
        if (sweep->other == NULL && sweep->map == NULL)
            settle_gone(sweep);
        if (later.map != NULL)
            (void)km_abort(later.map); /* a transaction may be open: see sweep_settle() for when */
        const int again = sweep->scenario->run(&later);
        sweep_expect(sweep, again == 0, "the second attempt gives %s: %s", km_error_name(again),
                     km_last_error_detail());
        sweep->map = later.map;
    }
    const int version = sweep->scenario->run == commit_new ? VERSION_NEW : sweep->before;
    if (sweep->map != NULL)
        sweep_expect(sweep, sweep_version(sweep->map) == version, "another version is shown");
    if (sweep->other != NULL) {
        struct sweep others = {.scenario = sweep->scenario};
        sweep_expect(sweep, sweep_version(sweep->other) == version, "another version is shown to the other");
        const int committed = sweep_commit(&others, sweep->other, VERSION_NEW);
        sweep_expect(sweep, committed == 0, "others cannot commit: %s", km_last_error_detail());
    }
    sweep_close(sweep, 0);
    settle_gone(sweep);
}

/* What only clears away what others have left, or sees early what is decided later, and what test_fault_open.c and
 * test_fault_commit.c say. */
static bool by_other_means(const struct sweep *sweep) {
    const struct fault *fault = sweep->fault;
    if (sweep->scenario->run == close_map || sweep->scenario->run == list_maps)
        return true; /* it is absent all the same; a map that cannot be looked at is told so */
    if (fault->call == FAULT_RENAMEAT2 && sweep->scenario->prepare == prepare_no_directory)
        return sweep->result == KM_ESYSTEM; /* every tmpfs can rename to a name that is free */
    return sweep->result == 0 && fault->call != FAULT_PWRITE && fault->call != FAULT_PWRITEV2 &&
           fault->call != FAULT_FULL_DISK && fault->call != FAULT_FTRUNCATE && fault->call != FAULT_FALLOCATE &&
           fault->call != FAULT_LINKAT && fault->call != FAULT_RENAMEAT2 && fault->call != FAULT_FCHMOD &&
           fault->call != FAULT_CHMOD && fault->call != FAULT_MKDIRAT;
}

#define OBJECT .target = TARGET, .settle = settle_object, .excuses = by_other_means

static void an_object_is_there_whole_or_not_at_all_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"object, create", .flags = KM_CREATE, .prepare = prepare_nothing, .run = open_map, OBJECT},
        {"object, open", .prepare = prepare_other, .run = open_map, OBJECT},
        {"object, open for reading", .flags = KM_READONLY, .prepare = prepare_other, .run = open_map, OBJECT},
        {"object, create of one that exists", .flags = KM_CREATE, .prepare = prepare_other, .run = open_map, OBJECT},
        {"global object, create", .target = GLOBAL, .flags = KM_CREATE, .prepare = prepare_nothing, .run = open_map,
         .settle = settle_object, .excuses = by_other_means},
        {"object and its directory, create", .flags = KM_CREATE, .prepare = prepare_no_directory, .run = open_map,
         OBJECT},
        {"global object and its directory, create", .target = GLOBAL, .flags = KM_CREATE,
         .prepare = prepare_no_directory, .run = open_map, .settle = settle_object, .excuses = by_other_means},
        {"live object, create", .mode = KM_LIVE, .flags = KM_CREATE, .prepare = prepare_nothing, .run = open_map,
         OBJECT},
    };
    SWEEP(scenarios);
}

static void an_object_works_as_a_file_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"object, commit", .prepare = prepare_both, .run = commit_new, OBJECT},
        {"object, growth", .prepare = prepare_both, .run = grow_in_place, OBJECT},
        {"object, sync", .prepare = prepare_stored, .run = sync_map, OBJECT},
        {"object, copy", .prepare = prepare_stored, .run = copy_map, OBJECT},
        {"live object, seal", .mode = KM_LIVE, .prepare = prepare_stored, .run = sync_map, OBJECT},
    };
    SWEEP(scenarios);
}

static void an_object_ends_with_its_last_user_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"object, close", .prepare = prepare_stored, .run = close_map, OBJECT},
        {"object, last close", .prepare = prepare_last, .run = close_map, OBJECT},
        {"object, list", .prepare = prepare_other, .run = list_maps, OBJECT},
    };
    SWEEP(scenarios);
}

int main(void) {
    scratch_time_limit(600);
    objects_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_object_is_there_whole_or_not_at_all_whichever_call_fails),
        cmocka_unit_test(an_object_works_as_a_file_whichever_call_fails),
        cmocka_unit_test(an_object_ends_with_its_last_user_whichever_call_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
