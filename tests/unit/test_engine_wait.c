/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises about km_wait(): its results, what ends a wait, handles without write permission (W5 of
 * wait.c), live maps and objects. A session can begin and end just before a sleep (support/sleeps.h), or between two
 * questions about locks, for which this program has a fcntl() of its own.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/objects.h"
#include "support/scratch.h"
#include "support/sleeps.h"
#include "waiter.h"

/* ---- results ----------------------------------------------------------------------------------------------------- */

static void a_commit_that_is_there_is_told_at_once(void **state) {
    (void)state;
    km_map *map = waiter_map("there");
    km_map *handles[2] = {map, check_open(map->path, 0, KM_READONLY)};
    for (int i = 0; i < 3; i++) {
        waiter_commit(map);
    }
    sleeps_reset();
    for (int i = 0; i < 2; i++) {
        uint64_t now = 99;
        must(km_wait(handles[i], 2, FOR_EVER, &now));
        assert_int_equal(now, 3);
        must(km_wait(handles[i], 0, 0, &now));
        assert_int_equal(now, 3);
        must(km_wait(handles[i], 0, 1, NULL));
    }
    assert_int_equal(sleeps->sleeps, 0);
    must(km_close(handles[1]));
    must(km_close(map));
}

static void waiting_does_not_move_what_the_handle_shows(void **state) {
    (void)state;
    km_map *map = waiter_map("shows");
    km_map *other = check_open(map->path, 0, 0);
    waiter_commit(map);
    uint64_t now = 0;
    must(km_wait(other, km_generation(other), FOR_EVER, &now));
    assert_int_equal(now, 1);
    assert_int_equal(km_generation(other), 0);
    must(km_begin(other, KM_READ));
    assert_int_equal(km_generation(other), 1);
    must(km_abort(other));
    must(km_close(other));
    must(km_close(map));
}

static void a_time_limit_is_not_cut_short_and_tells_what_is_newest(void **state) {
    (void)state;
    km_map *map = waiter_map("limit");
    km_map *handles[2] = {map, check_open(map->path, 0, KM_READONLY)};
    waiter_commit(map);
    static const uint32_t limits[] = {0, 1, 7, 60};
    for (int i = 0; i < 2; i++) {
        for (size_t limit = 0; limit < sizeof limits / sizeof limits[0]; limit++) {
            const uint64_t started = os_time_monotonic_ns();
            uint64_t now = 99;
            must_fail(km_wait(handles[i], 1, limits[limit], &now), KM_ETIMEOUT);
            assert_true(os_time_monotonic_ns() - started >= limits[limit] * UINT64_C(1000000));
            check_detail_contains("none after 1 came");
            assert_int_equal(now, 1);
            must_fail(km_wait(handles[i], 1000, limits[limit], NULL), KM_ETIMEOUT);
        }
    }
    assert_true(waiter_none_is_marked(map));
    must(km_close(handles[1]));
    must(km_close(map));
}

static void looking_without_waiting_does_not_sleep(void **state) {
    (void)state;
    km_map *map = waiter_map("look");
    km_map *reader = check_open(map->path, 0, KM_READONLY);
    sleeps_reset();
    must_fail(km_wait(map, 0, 0, NULL), KM_ETIMEOUT);
    must_fail(km_wait(reader, 0, 0, NULL), KM_ETIMEOUT);
    assert_int_equal(sleeps->sleeps, 0);
    must(km_close(reader));
    must(km_close(map));
}

static void waiting_inside_a_transaction_is_refused(void **state) {
    (void)state;
    km_map *map = waiter_map("inside");
    km_map *reader = check_open(map->path, 0, KM_READONLY);
    must(km_begin(map, KM_WRITE));
    must_fail(km_wait(map, 0, 0, NULL), KM_EMISUSE);
    must(km_abort(map));
    must(km_begin(map, KM_READ));
    must_fail(km_wait(map, 0, 0, NULL), KM_EMISUSE);
    must(km_abort(map));
    must(km_begin(reader, KM_READ));
    must_fail(km_wait(reader, 0, 0, NULL), KM_EMISUSE);
    must(km_abort(reader));
    must_fail(km_wait(NULL, 0, 0, NULL), KM_EINVAL);
    must(km_close(reader));
    must(km_close(map));
}

static int wait_in_child(void *context) {
    return km_wait(context, 0, FOR_EVER, NULL) == KM_EFORKED ? 0 : 1;
}

static void the_child_of_a_fork_cannot_wait_on_the_parents_handle(void **state) {
    (void)state;
    km_map *map = waiter_map("forked");
    assert_int_equal(check_in_child(wait_in_child, map, 30), 0);
    must(km_close(map));
}

static void a_handle_that_waits_belongs_to_its_thread(void **state) {
    (void)state;
    km_map *map = waiter_map("busy");
    struct waiter waiter = {.map = check_open(map->path, 0, 0), .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(0);
    must_fail(km_wait(waiter.map, 0, 0, NULL), KM_EMISUSE);
    must_fail(km_close(waiter.map), KM_EMISUSE);
    waiter_commit(map);
    waiter_join(&waiter);
    assert_int_equal(waiter.result, 0);
    must(km_close(waiter.map));
    must(km_close(map));
}

/* ---- what ends a wait -------------------------------------------------------------------------------------------- */

static void a_failed_sync_ends_the_waits_of_all(void **state) {
    (void)state;
    km_map *map = waiter_map("poisoned");
    km_map *reader = check_open(map->path, 0, KM_READONLY);
    waiter_commit(map);
    must(km_sync(map));
    waiter_commit(map); /* visible, not durable */
    struct waiter waiter = {.map = check_open(map->path, 0, 0), .after = 2, .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(0);
    assert_int_equal(km__sync_failed(map, KM_EIO), KM_EIO);
    waiter_join(&waiter);
    assert_string_equal(km_error_name(waiter.result), "KM_EIO");
    assert_non_null(strstr(waiter.detail, "a sync failed"));
    km_map *handles[2] = {map, reader};
    for (int i = 0; i < 2; i++) {
        uint64_t now = 0;
        must_fail(km_wait(handles[i], 1, FOR_EVER, &now), KM_EIO); /* commit 2 is not shown to anybody any more */
        must_fail(km_wait(handles[i], 2, 0, &now), KM_EIO);
        must(km_wait(handles[i], 0, FOR_EVER, &now));
        assert_int_equal(now, 1);
    }
    must(km_close(reader));
    must(km_close(waiter.map));
    must_fail(km_close(map), KM_EIO);
}

static void a_file_that_is_removed_ends_the_wait(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        km_map *map = waiter_map("removed");
        struct waiter waiter = {.map = check_open(map->path, 0, i == 0 ? 0 : KM_READONLY), .timeout_ms = FOR_EVER};
        sleeps_reset();
        waiter_start(&waiter);
        waiter_sleeps(0);
        assert_int_equal(unlink(map->path), 0);
        waiter_join(&waiter);
        assert_string_equal(km_error_name(waiter.result), "KM_ESTALE");
        must_fail(km_wait(waiter.map, 0, 0, NULL), KM_ESTALE);
        must_fail(km_wait(map, 0, 1, NULL), KM_ESTALE); /* also for who never waits as long as a second */
        (void)km_close(waiter.map);
        (void)km_close(map);
    }
}

static int sleep_while_it_is_cut(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    child_check(km_wait(map, 1000000, FOR_EVER, NULL) == KM_ESTALE);
    child_check(km_wait(map, 1000000, FOR_EVER, NULL) == KM_ESTALE);
    (void)km_close(map);
    return 0;
}

/* The mark is left where it is, because its page is not there any more. */
static void a_file_that_is_cut_short_ends_the_sleep_and_is_not_touched_again(void **state) {
    (void)state;
    const char *path = scratch_path("cut-asleep.km");
    must(km_close(check_open(path, WAITER_SIZE, KM_CREATE)));
    const pid_t child = waiter_in_child(sleep_while_it_is_cut, path);
    assert_int_equal(truncate(path, 0), 0);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* ---- without write permission ------------------------------------------------------------------------------------ */

static void a_reader_without_permission_leaves_no_mark_and_looks_often(void **state) {
    (void)state;
    km_map *map = waiter_map("reader");
    struct waiter waiter = {.map = check_open(map->path, 0, KM_READONLY), .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(3);
    assert_true(waiter_none_is_marked(map));
    assert_true(sleeps->longest_ns <= 5000000);
    waiter_commit(map);
    assert_int_equal(sleeps->wakes, 0);
    waiter_join(&waiter);
    assert_int_equal(waiter.result, 0);
    assert_int_equal(waiter.now, 1);
    must(km_close(waiter.map));
    must(km_close(map));
}

static int commit_and_die(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = KM_LAZY};
    child_must(km_open(&map, context, &options));
    for (int i = 0; i < 3; i++) {
        child_must(km_begin(map, KM_WRITE));
        ++*(unsigned char *)km_data(map);
        child_must(km_commit(map));
    }
    raise(SIGKILL);
    return 1;
}

static void a_reader_is_told_what_a_dead_session_left(void **state) {
    (void)state;
    km_map *map = waiter_map("left");
    const char *path = scratch_path("left.km");
    must(km_close(map));
    km_map *reader = check_open(path, 0, KM_READONLY);
    uint64_t now = 99;
    must_fail(km_wait(reader, 0, 0, &now), KM_ETIMEOUT);
    assert_int_equal(now, 0);
    assert_int_equal(check_in_child(commit_and_die, (void *)path, 30), -SIGKILL);
    must(km_wait(reader, 2, FOR_EVER, &now));
    assert_int_equal(now, 3);
    must(km_begin(reader, KM_READ));
    assert_int_equal(km_generation(reader), 3); /* as a begin sees it */
    must(km_abort(reader));
    must(km_close(reader));
}

struct session {
    const char *path;
    int commits;
    bool dies;
};

static void have_a_session(void *context) {
    struct session *session = context;
    if (session->dies) {
        assert_int_equal(check_in_child(commit_and_die, (void *)session->path, 30), -SIGKILL);
        return;
    }
    km_map *map = check_open(session->path, 0, KM_LAZY);
    for (int i = 0; i < session->commits; i++) {
        waiter_commit(map);
    }
    must(km_close(map));
}

/* W5: a whole session, from open to close, between two looks. */
static void a_reader_notices_a_session_that_came_and_went_between_two_looks(void **state) {
    (void)state;
    km_map *map = waiter_map("went");
    const char *path = scratch_path("went.km");
    must(km_close(map));
    km_map *reader = check_open(path, 0, KM_READONLY);
    uint64_t at = 0;
    for (int i = 0; i < 12; i++) {
        struct session session = {path, 1 + i % 2, i % 4 == 3};
        const uint64_t next = at + (session.dies ? 3u : (unsigned)session.commits);
        uint64_t now = 0;
        sleeps_before(have_a_session, &session);
        must(km_wait(reader, next - 1, FOR_EVER, &now));
        assert_int_equal(now, next);
        at = next;
    }
    must(km_close(reader));
}

/* The same while the last close could not checkpoint, so that no header was written. */
static void a_reader_notices_commits_that_stay_in_the_journal(void **state) {
    (void)state;
    km_map *map = waiter_map("stay");
    const char *path = scratch_path("stay.km");
    waiter_commit(map);
    must(km_close(map));
    km_map *holder = check_open(path, 0, KM_READONLY), *reader = check_open(path, 0, KM_READONLY);
    must(km_begin(holder, KM_READ)); /* holds the checkpoint back */
    for (uint64_t i = 0; i < 6; i++) {
        struct session session = {path, 1, false};
        uint64_t now = 0;
        sleeps_before(have_a_session, &session);
        must(km_wait(reader, 1 + i, FOR_EVER, &now));
        assert_int_equal(now, 2 + i);
    }
    must(km_abort(holder));
    must(km_close(holder));
    must(km_close(reader));
}

static km_map
    *rebuilt; /* the session of this handle ends, and another begins, while its slot is looked at; NULL: not */
static unsigned rebuild_looks;

/* Control as one who rebuilds it has it for a moment, and at the next look as it has it at the end. */
static void rebuild_further(void) {
    struct km__control *control = rebuilt->control;
    if (rebuild_looks++ == 0) {
        atomic_fetch_add(&control->epoch, 2);
        atomic_store(&control->visible, 0);
    } else {
        atomic_store(&control->visible, 2);
        rebuilt = NULL;
    }
}

typedef int fcntl_function(int descriptor, int command, ...);

__attribute__((visibility("default"))) int fcntl(int descriptor, int command, ...) {
    static fcntl_function *_Atomic real;
    if (atomic_load(&real) == NULL) {
        fcntl_function *function = NULL;
        void *found = dlsym(RTLD_NEXT, "fcntl");
        if (found == NULL) {
            abort();
        }
        memcpy(&function, &found, sizeof function);
        atomic_store(&real, function);
    }
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    const int result = atomic_load(&real)(descriptor, command, argument);
    if (rebuilt != NULL && command == F_OFD_GETLK) {
        rebuild_further();
    }
    return result;
}

/* W5: words that were taken while the session changed are no answer. */
static void a_reader_does_not_believe_words_of_two_sessions(void **state) {
    (void)state;
    km_map *map = waiter_map("two");
    km_map *reader = check_open(map->path, 0, KM_READONLY);
    waiter_commit(map);
    waiter_commit(map);
    uint64_t now = 99;
    rebuild_looks = 0;
    rebuilt = map;
    must_fail(km_wait(reader, 2, 0, &now), KM_ETIMEOUT);
    assert_null(rebuilt);
    assert_int_equal(now, 2);
    must(km_close(reader));
    must(km_close(map));
}

/* A reader that waits while nobody is attached sees the session that begins then, and goes on by its words. */
static void a_reader_goes_over_to_a_session_that_begins(void **state) {
    (void)state;
    km_map *map = waiter_map("begins");
    const char *path = scratch_path("begins.km");
    must(km_close(map));
    struct waiter waiter = {.map = check_open(path, 0, KM_READONLY), .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(2);
    km_map *writer = check_open(path, 0, KM_LAZY);
    waiter_sleeps(sleeps->sleeps + 2);
    waiter_commit(writer);
    waiter_join(&waiter);
    assert_int_equal(waiter.result, 0);
    assert_int_equal(waiter.now, 1);
    must(km_close(waiter.map));
    must(km_close(writer));
}

/* ---- other kinds of maps ----------------------------------------------------------------------------------------- */

static km_map *open_mode(const char *path, uint32_t mode, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = WAITER_SIZE, .max_size = 4 * WAITER_SIZE, .mode = mode, .flags = flags};
    must(km_open(&map, path, &options));
    return map;
}

static void a_commit_in_a_live_map_wakes_a_sleeper_and_an_abort_does_not(void **state) {
    (void)state;
    const char *targets[2] = {scratch_path("live.km"), "Local\\live"};
    for (int i = 0; i < 2; i++) {
        km_map *map = open_mode(targets[i], KM_LIVE, KM_CREATE);
        struct waiter waiter = {.map = check_open(targets[i], 0, 0), .timeout_ms = FOR_EVER};
        sleeps_reset();
        waiter_start(&waiter);
        waiter_sleeps(0);
        must(km_begin(map, KM_WRITE));
        *(uint64_t *)km_data(map) = 7;
        must(km_abort(map));
        assert_int_equal(sleeps->wakes, 0);
        waiter_commit(map);
        waiter_join(&waiter);
        assert_int_equal(waiter.result, 0);
        assert_int_equal(waiter.now, 1);
        assert_int_equal(km_generation(waiter.map), 1); /* no begin is needed to see it */
        assert_int_equal(sleeps->lost, 0);
        assert_int_equal(sleeps->wakes, 1);
        must_fail(km_wait(waiter.map, 1, 1, NULL), KM_ETIMEOUT);
        must(km_close(waiter.map));
        must(km_close(map));
    }
}

static void growth_of_a_live_map_is_seen_by_who_waited_for_it(void **state) {
    (void)state;
    km_map *map = open_mode(scratch_path("live-growth.km"), KM_LIVE, KM_CREATE);
    struct waiter waiters[2] = {{.timeout_ms = FOR_EVER}, {.timeout_ms = FOR_EVER}};
    for (int i = 0; i < 2; i++) {
        waiters[i].map = check_open(map->path, 0, i == 0 ? 0 : KM_READONLY);
        sleeps_reset();
        waiter_start(&waiters[i]);
        waiter_sleeps(0);
    }
    must(km_grow(map, 3 * WAITER_SIZE));
    ((unsigned char *)km_data(map))[3 * WAITER_SIZE - 1] = 9;
    for (int i = 0; i < 2; i++) {
        waiter_join(&waiters[i]);
        assert_int_equal(waiters[i].result, 0);
        assert_int_equal(km_size(waiters[i].map), 3 * WAITER_SIZE);
        assert_int_equal(((const unsigned char *)km_data(waiters[i].map))[3 * WAITER_SIZE - 1], 9);
        must(km_close(waiters[i].map));
    }
    must(km_close(map));
}

static int commit_live_and_die(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    for (int i = 0; i < 3; i++) {
        child_must(km_begin(map, KM_WRITE));
        child_must(km_commit(map)); /* in a live map this is one, whatever was stored */
    }
    raise(SIGKILL);
    return 1;
}

static void die_in_a_live_map(void *context) {
    assert_int_equal(check_in_child(commit_live_and_die, context, 30), -SIGKILL);
}

static void a_reader_of_a_live_map_is_told_what_a_dead_session_left(void **state) {
    (void)state;
    const char *path = scratch_path("live-left.km");
    must(km_close(open_mode(path, KM_LIVE, KM_CREATE)));
    km_map *reader = check_open(path, 0, KM_READONLY);
    for (uint64_t i = 0; i < 3; i++) {
        uint64_t now = 99;
        must_fail(km_wait(reader, 3 * i, 0, &now), KM_ETIMEOUT);
        assert_int_equal(now, 3 * i);
        sleeps_before(die_in_a_live_map, (void *)path);
        must(km_wait(reader, 3 * i + 2, FOR_EVER, &now));
        assert_int_equal(now, 3 * i + 3);
        assert_int_equal(km_generation(reader), now);
    }
    must(km_close(reader));
}

static void a_commit_in_an_object_of_the_paging_file_wakes_a_sleeper(void **state) {
    (void)state;
    km_map *maps[2] = {open_mode("Local\\wait", KM_TRANSACTIONAL, KM_CREATE | KM_LAZY),
                       open_mode("Local\\wait", KM_TRANSACTIONAL, 0)};
    struct waiter waiters[2] = {{.timeout_ms = FOR_EVER}, {.timeout_ms = FOR_EVER}};
    waiters[0].map = check_open("Local\\wait", 0, 0);
    waiters[1].map = check_open("Local\\wait", 0, KM_READONLY);
    for (uint64_t round = 0; round < 4; round++) {
        for (int i = 0; i < 2; i++) {
            sleeps_reset();
            waiters[i].after = round;
            waiter_start(&waiters[i]);
            waiter_sleeps(0);
        }
        waiter_commit(maps[round % 2]);
        for (int i = 0; i < 2; i++) {
            waiter_join(&waiters[i]);
            assert_int_equal(waiters[i].result, 0);
            assert_int_equal(waiters[i].now, round + 1);
        }
        assert_int_equal(sleeps->lost, 0);
    }
    for (int i = 0; i < 2; i++) {
        must(km_close(waiters[i].map));
        must(km_close(maps[i]));
    }
}

static void a_raw_map_has_no_commits_to_wait_for(void **state) {
    (void)state;
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = WAITER_SIZE, .mode = KM_RAW, .flags = KM_CREATE};
    must(km_open(&map, scratch_path("raw.bin"), &options));
    must_fail(km_wait(map, 0, FOR_EVER, NULL), KM_EUNSUPPORTED);
    check_detail_contains("km_wait()");
    must(km_close(map));
}

/* Even the word that is watched may be lost with the file. */
static void a_guarded_file_that_is_cut_short_ends_the_wait(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        km_map *map = waiter_map("cut");
        struct waiter waiter = {.map = check_open(map->path, 0, KM_GUARD | (i == 0 ? 0 : KM_READONLY)),
                                .timeout_ms = FOR_EVER};
        sleeps_reset();
        waiter_start(&waiter);
        waiter_sleeps(0);
        assert_int_equal(truncate(map->path, i == 0 ? 0 : 4096), 0);
        waiter_join(&waiter);
        assert_string_equal(km_error_name(waiter.result), "KM_ESTALE");
        must_fail(km_wait(waiter.map, 0, 0, NULL), KM_ESTALE);
        (void)km_close(waiter.map);
        (void)km_close(map);
        assert_int_equal(unlink(scratch_path("cut.km")), 0);
    }
}

int main(void) {
    scratch_time_limit(120);
    objects_start();
    sleeps_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_commit_that_is_there_is_told_at_once),
        cmocka_unit_test(waiting_does_not_move_what_the_handle_shows),
        cmocka_unit_test(a_time_limit_is_not_cut_short_and_tells_what_is_newest),
        cmocka_unit_test(looking_without_waiting_does_not_sleep),
        cmocka_unit_test(waiting_inside_a_transaction_is_refused),
        cmocka_unit_test(the_child_of_a_fork_cannot_wait_on_the_parents_handle),
        cmocka_unit_test(a_handle_that_waits_belongs_to_its_thread),
        cmocka_unit_test(a_failed_sync_ends_the_waits_of_all),
        cmocka_unit_test(a_file_that_is_removed_ends_the_wait),
        cmocka_unit_test(a_file_that_is_cut_short_ends_the_sleep_and_is_not_touched_again),
        cmocka_unit_test(a_reader_without_permission_leaves_no_mark_and_looks_often),
        cmocka_unit_test(a_reader_is_told_what_a_dead_session_left),
        cmocka_unit_test(a_reader_notices_a_session_that_came_and_went_between_two_looks),
        cmocka_unit_test(a_reader_notices_commits_that_stay_in_the_journal),
        cmocka_unit_test(a_reader_does_not_believe_words_of_two_sessions),
        cmocka_unit_test(a_reader_goes_over_to_a_session_that_begins),
        cmocka_unit_test(a_commit_in_a_live_map_wakes_a_sleeper_and_an_abort_does_not),
        cmocka_unit_test(growth_of_a_live_map_is_seen_by_who_waited_for_it),
        cmocka_unit_test(a_reader_of_a_live_map_is_told_what_a_dead_session_left),
        cmocka_unit_test(a_commit_in_an_object_of_the_paging_file_wakes_a_sleeper),
        cmocka_unit_test(a_raw_map_has_no_commits_to_wait_for),
        cmocka_unit_test(a_guarded_file_that_is_cut_short_ends_the_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
