/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises of opening, creating, recovering and closing when a call of the system fails: see sweep.h.
 */
#include <errno.h>
#include <unistd.h>

#include "scratch.h"
#include "sweep_map.h"

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static int open_map(struct sweep *sweep) {
    (void)sweep_step(sweep, sweep_open(sweep, &sweep->map, sweep->scenario->flags));
    return sweep->result;
}

/* After an error there is no handle, and nothing has changed: the next open succeeds. */
static void settle_open(struct sweep *sweep) {
    if (sweep->result != 0) {
        sweep_expect(sweep, sweep->map == NULL, "there is a handle");
        const int again = sweep_open(sweep, &sweep->map, sweep->scenario->flags);
        sweep_expect(sweep, again == 0, "the second attempt gives %s: %s", km_error_name(again),
                     km_last_error_detail());
    }
    if (sweep->map != NULL)
        sweep_expect(sweep, sweep_version(sweep->map) == sweep->before, "another version is shown");
    sweep_close(sweep, 0);
    sweep_settle_file(sweep, sweep->before, sweep->before);
}

static void prepare_other(struct sweep *sweep) {
    sweep_store_closed(sweep);
    must(sweep_open(sweep, &sweep->other, 0));
    must(sweep_commit(sweep, sweep->other, VERSION_NEW));
    sweep->before = VERSION_NEW;
}

/* A journal that grew is made shorter by who opens the map next. */
static void prepare_grown(struct sweep *sweep) {
    sweep_store_closed(sweep);
    must(sweep_open(sweep, &sweep->map, 0));
    must(km_begin(sweep->map, KM_WRITE));
    sweep_fill_all(sweep->map, VERSION_OLD);
    must(km_commit(sweep->map));
    must(km_close(sweep->map));
    sweep->map = NULL;
}

/* Where there is no room for the whole reservation, a smaller one is tried. */
static bool by_less_room(const struct sweep *sweep) {
    const enum fault_call call = sweep->fault->call;
    return sweep->result == 0 &&
           (call == FAULT_CALLOC || call == FAULT_MMAP_MEMORY || call == FAULT_MMAP_FILE || call == FAULT_MADVISE_FORK);
}

/* A lesser tracker serves, too. */
static bool by_less_room_or_tracker(const struct sweep *sweep) {
    return by_less_room(sweep) || (sweep->result == 0 && sweep->fault->call == FAULT_MALLOC);
}

static void an_open_that_fails_leaves_the_map_as_it_was(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"open", .prepare = sweep_store_closed, .run = open_map, .settle = settle_open, .excuses = by_less_room},
        {"recovery", .prepare = sweep_store_killed, .run = open_map, .settle = settle_open, .excuses = by_less_room},
        {"recovery, whole pages", .flags = KM_FULL_PAGES, .prepare = sweep_store_killed, .run = open_map,
         .settle = settle_open, .excuses = by_less_room},
        {"recovery, compressed", .flags = KM_COMPRESS, .prepare = sweep_store_killed, .run = open_map,
         .settle = settle_open, .excuses = by_less_room},
        {"open beside another", .prepare = prepare_other, .run = open_map, .settle = settle_open,
         .excuses = by_less_room},
        {"open, checked", .flags = KM_CHECK, .prepare = sweep_store_closed, .run = open_map, .settle = settle_open,
         .excuses = by_less_room_or_tracker},
        {"open, guarded", .flags = KM_GUARD, .prepare = sweep_store_closed, .run = open_map, .settle = settle_open,
         .excuses = by_less_room},
        {"open, any file system", .flags = KM_ANY_FILESYSTEM, .prepare = sweep_store_closed, .run = open_map,
         .settle = settle_open, .excuses = by_less_room},
        {"open of a map whose journal grew", .prepare = prepare_grown, .run = open_map, .settle = settle_open,
         .excuses = by_less_room},
        {"open for reading", .flags = KM_READONLY, .prepare = sweep_store_closed, .run = open_map,
         .settle = settle_open, .excuses = by_less_room},
        {"open for reading of a dead session", .flags = KM_READONLY, .prepare = sweep_store_killed, .run = open_map,
         .settle = settle_open, .excuses = by_less_room},
        {"open for reading beside a session", .flags = KM_READONLY, .prepare = prepare_other, .run = open_map,
         .settle = settle_open, .excuses = by_less_room},
    };
    SWEEP(scenarios);
}

/* ---- creating ---------------------------------------------------------------------------------------------------- */

static int create_map(struct sweep *sweep) {
    struct km_options options = sweep_options(sweep->scenario, SWEEP_SIZE, sweep->scenario->flags | KM_CREATE);
    if (sweep->before == VERSION_OLD && (sweep->scenario->flags & KM_REPLACE) == 0)
        options.from = sweep->copy;
    (void)sweep_step(sweep, km_open(&sweep->map, sweep->path, &options));
    return sweep->result;
}

static void prepare_nothing(struct sweep *sweep) {
    sweep->before = 0;
}

/* A file whose bytes are a version. */
static void prepare_bytes(struct sweep *sweep) {
    km_map *map;
    struct km_options options = sweep_options(sweep->scenario, SWEEP_SIZE, KM_CREATE);
    options.mode = KM_RAW;
    options.max_size = options.journal_size = 0;
    must(km_open(&map, sweep->copy, &options));
    sweep_fill(map, VERSION_OLD);
    must(km_close(map));
}

/* Who cannot open the directory to sync it syncs the file system. Looks that only choose the words of an error, or how
 * much space is taken, and the one that sees early what the publication decides, may fail; so may one of the two that
 * tell a map from something else. */
static bool by_another_way(const struct sweep *sweep) {
    const struct fault *fault = sweep->fault;
    const bool is_taken =
        (sweep->scenario->flags & KM_EXCLUSIVE) != 0 && fault->call == FAULT_OPEN && fault->occurrence == 1;
    if (is_taken && fault->way == EACCES)
        return sweep->result == KM_EEXISTS; /* whose it is cannot be seen, but it is there */
    const bool replaces = (sweep->scenario->flags & KM_REPLACE) != 0;
    return by_less_room(sweep) ||
           (sweep->result == 0 && (is_taken || fault->call == FAULT_LSTAT || fault->call == FAULT_UNLINK ||
                                   (fault->call == FAULT_OPEN && fault_count(FAULT_SYNCFS) > 0) ||
                                   (fault->call == FAULT_FSTATFS && fault->occurrence != 2) ||
                                   (fault->call == FAULT_PREAD && replaces && fault->occurrence <= 2)));
}

static void settle_created(struct sweep *sweep) {
    const bool replaces = (sweep->scenario->flags & KM_REPLACE) != 0;
    const int made = replaces ? 0 : sweep->before;
    if (sweep->result != 0) {
        sweep_expect(sweep, sweep->map == NULL, "there is a handle");
        const bool exists = access(sweep->path, F_OK) == 0;
        const bool told = strstr(sweep->detail, "could not be taken away again") != NULL; /* that failed, too */
        sweep_expect(sweep, exists == (replaces || told), "the map %s", exists ? "was made" : "is gone");
        sweep_expect(sweep, !told || sweep->scenario->repeat > 1, "its name was not taken away");
        if (exists)
            sweep_settle_file(sweep, sweep->before, made);
        unlink(sweep->path);
        struct sweep later = *sweep;
        const int again = create_map(&later);
        sweep->map = later.map;
        sweep_expect(sweep, again == 0, "the second attempt gives %s: %s", km_error_name(again),
                     km_last_error_detail());
    }
    sweep_close(sweep, 0);
    sweep_settle_file(sweep, made, made);
}

static void a_map_is_created_whole_or_not_at_all(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"create", .prepare = prepare_nothing, .run = create_map, .settle = settle_created, .excuses = by_another_way},
        {"create, exclusive", .flags = KM_EXCLUSIVE, .prepare = prepare_nothing, .run = create_map,
         .settle = settle_created, .excuses = by_another_way},
        {"create from a file", .prepare = prepare_bytes, .run = create_map, .settle = settle_created,
         .excuses = by_another_way},
        {"replace", .flags = KM_REPLACE, .prepare = sweep_store_closed, .run = create_map, .settle = settle_created,
         .excuses = by_another_way},
    };
    SWEEP(scenarios);
}

/* ---- poor systems ------------------------------------------------------------------------------------------------ */

/* An old kernel, or a file system that can little. */
static const struct fault_lack poor[] = {{FAULT_OPEN_UNNAMED, EOPNOTSUPP},
                                         {FAULT_RENAMEAT2, EINVAL},
                                         {FAULT_PWRITEV2, EOPNOTSUPP},
                                         {FAULT_FALLOCATE, EOPNOTSUPP},
                                         {FAULT_PUNCH, EOPNOTSUPP},
                                         {FAULT_STATX, ENOSYS},
                                         {FAULT_FSYNC, EINVAL},
                                         {FAULT_USERFAULTFD, ENOSYS},
                                         {FAULT_OPEN, 0}};

/* The same, where holes cannot be told either. */
static const struct fault_lack poorest[] = {
    {FAULT_OPEN_UNNAMED, EISDIR}, {FAULT_RENAMEAT2, ENOSYS}, {FAULT_PWRITEV2, ENOSYS}, {FAULT_FALLOCATE, ENOSYS},
    {FAULT_PUNCH, ENOSYS},        {FAULT_STATX, EPERM},      {FAULT_LSEEK, EINVAL},    {FAULT_OPEN, 0}};

static void a_poor_system_is_no_worse_when_a_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"poor, create", .prepare = prepare_nothing, .run = create_map, .settle = settle_created, .lacks = poor,
         .excuses = by_another_way},
        {"poor, replace", .flags = KM_REPLACE, .prepare = sweep_store_closed, .run = create_map,
         .settle = settle_created, .lacks = poor, .excuses = by_another_way},
        {"poor, recovery", .prepare = sweep_store_killed, .run = open_map, .settle = settle_open, .lacks = poor,
         .excuses = by_less_room},
        {"poorest, create", .prepare = prepare_nothing, .run = create_map, .settle = settle_created, .lacks = poorest,
         .excuses = by_another_way},
        {"poorest, recovery", .prepare = sweep_store_killed, .run = open_map, .settle = settle_open, .lacks = poorest,
         .excuses = by_less_room},
    };
    SWEEP(scenarios);
}

/* ---- two failures in a row --------------------------------------------------------------------------------------- */

static void an_open_leaves_nothing_though_its_cleaning_up_fails_too(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"recovery, two in a row", .repeat = 2, .prepare = sweep_store_killed, .run = open_map, .settle = settle_open,
         .excuses = by_less_room},
        {"create, two in a row", .repeat = 2, .prepare = prepare_nothing, .run = create_map, .settle = settle_created,
         .excuses = by_another_way},
    };
    SWEEP(scenarios);
}

/* ---- closing ----------------------------------------------------------------------------------------------------- */

static int close_map(struct sweep *sweep) {
    km_map *map = sweep->map;
    sweep->map = NULL;
    (void)sweep_step(sweep, km_close(map));
    return sweep->result;
}

static void prepare_last(struct sweep *sweep) {
    sweep_prepare_used(sweep);
    must(km_close(sweep->other));
    sweep->other = NULL;
    must(sweep_commit(sweep, sweep->map, VERSION_NEW));
}

static void prepare_not_last(struct sweep *sweep) {
    sweep_prepare_used(sweep);
    must(sweep_commit(sweep, sweep->map, VERSION_NEW));
}

static void settle_closed(struct sweep *sweep) {
    const bool lazy = (sweep->scenario->flags & KM_LAZY) != 0;
    if (sweep->other != NULL)
        sweep_expect(sweep, sweep_version(sweep->other) == VERSION_NEW, "the other handle shows another version");
    if (sweep->result == 0 && sweep->other == NULL) {
        const struct km__header header = scratch_header(sweep->path);
        sweep_expect(sweep, (header.flags & KM__HEADER_CLEAN) != 0, "it is not marked clean");
    }
    sweep->failed = sweep->result == KM_EIO && sweep->other == NULL;
    sweep_close(sweep, 0);
    sweep_settle_file(sweep, VERSION_NEW, lazy && sweep->result != 0 ? VERSION_OLD : VERSION_NEW);
}

static bool by_looking_again(const struct sweep *sweep) {
    return sweep->result == 0 && sweep->fault->call == FAULT_LOCK_PROBE;
}

static void a_close_that_fails_loses_nothing_that_is_durable(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"last close", .prepare = prepare_last, .run = close_map, .settle = settle_closed, .excuses = by_looking_again},
        {"last close, lazy", .flags = KM_LAZY, .prepare = prepare_last, .run = close_map, .settle = settle_closed,
         .excuses = by_looking_again},
        {"last close, whole pages", .flags = KM_FULL_PAGES, .prepare = prepare_last, .run = close_map,
         .settle = settle_closed, .excuses = by_looking_again},
        {"close beside another", .prepare = prepare_not_last, .run = close_map, .settle = settle_closed,
         .excuses = by_looking_again},
    };
    SWEEP(scenarios);
}

int main(void) {
    scratch_time_limit(600);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_open_that_fails_leaves_the_map_as_it_was),
        cmocka_unit_test(a_map_is_created_whole_or_not_at_all),
        cmocka_unit_test(a_poor_system_is_no_worse_when_a_call_fails),
        cmocka_unit_test(an_open_leaves_nothing_though_its_cleaning_up_fails_too),
        cmocka_unit_test(a_close_that_fails_loses_nothing_that_is_durable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
