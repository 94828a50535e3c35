/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises about km_wait(), and the rules of wait.c one by one: this program looks at the calls by which
 * handles sleep and wake (support/sleeps.h), and lets others act just before a sleep, or when a wait looks at the clock,
 * for which it has a clock_gettime() of its own, or at a lock, for which it has a fcntl().
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/objects.h"
#include "support/scratch.h"
#include "support/sleeps.h"

#define SIZE 8192u
#define FOR_EVER UINT32_MAX
#define LONG_NS (UINT64_C(600) * 1000000000u)

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL) {
        abort();
    }
    return found;
}

/* A map at generation 0 and a handle whose commits are visible at once. */
static km_map *create(const char *name) {
    return check_open(scratch_path("%s.km", name), SIZE, KM_CREATE | KM_LAZY);
}

/* Something else each time: a transaction that changes nothing is no commit. */
static void commit(km_map *map) {
    static int value;
    value = value % 250 + 1;
    check_commit_fill(map, 0, value, 8);
}

static bool is_marked(const km_map *map, uint32_t slot) {
    return (atomic_load(&map->control->waiting[slot / 64]) >> (slot % 64) & 1) != 0;
}

static void set_mark(km_map *map, uint32_t slot) {
    atomic_fetch_or(&map->control->waiting[slot / 64], UINT64_C(1) << (slot % 64));
}

static bool nothing_is_marked(const km_map *map) {
    for (uint32_t slot = 0; slot < KM__SLOTS; slot++) {
        if (is_marked(map, slot)) {
            return false;
        }
    }
    return true;
}

/* ---- the clock --------------------------------------------------------------------------------------------------- */

static _Thread_local unsigned clock_looks; /* so many looks from now on it is committed; 0: never */
static _Thread_local km_map *clock_map;

typedef int clock_function(clockid_t clock, struct timespec *time);

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, struct timespec *time) {
    static clock_function *_Atomic real;
    if (atomic_load(&real) == NULL) {
        clock_function *function = NULL;
        void *found = next("clock_gettime");
        memcpy(&function, &found, sizeof function);
        atomic_store(&real, function);
    }
    if (clock_looks > 0 && --clock_looks == 0) {
        commit(clock_map);
    }
    return atomic_load(&real)(clock, time);
}

static void commit_at_look(unsigned look, km_map *map) {
    clock_map = map;
    clock_looks = look;
}

/* ---- a waiter on a thread ---------------------------------------------------------------------------------------- */

struct waiter {
    pthread_t thread;
    km_map *map;
    uint64_t after, now;
    uint32_t timeout_ms;
    int result;
    char detail[256];
};

static void *wait_on_thread(void *context) {
    struct waiter *waiter = context;
    waiter->result = km_wait(waiter->map, waiter->after, waiter->timeout_ms, &waiter->now);
    snprintf(waiter->detail, sizeof waiter->detail, "%s", km_last_error_detail());
    return NULL;
}

static void waiter_start(struct waiter *waiter) {
    assert_int_equal(pthread_create(&waiter->thread, NULL, wait_on_thread, waiter), 0);
}

/* Let it wait until it has called the system to sleep; `before` is how often anybody had done so. */
static void waiter_sleeps(uint64_t before) {
    while (atomic_load(&sleeps->sleeps) <= before) {
        scratch_sleep_ms(1);
    }
    scratch_sleep_ms(10); /* it sleeps now, or will not be stopped from it by what it has seen */
}

static void waiter_join(struct waiter *waiter) {
    assert_int_equal(pthread_join(waiter->thread, NULL), 0);
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static void a_commit_that_is_there_is_told_at_once(void **state) {
    (void)state;
    km_map *map = create("there");
    km_map *handles[2] = {map, check_open(map->path, 0, KM_READONLY)};
    for (int i = 0; i < 3; i++) {
        commit(map);
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
    km_map *map = create("shows");
    km_map *other = check_open(map->path, 0, 0);
    commit(map);
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
    km_map *map = create("limit");
    km_map *handles[2] = {map, check_open(map->path, 0, KM_READONLY)};
    commit(map);
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
    assert_true(nothing_is_marked(map));
    must(km_close(handles[1]));
    must(km_close(map));
}

static void looking_without_waiting_does_not_sleep(void **state) {
    (void)state;
    km_map *map = create("look");
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
    km_map *map = create("inside");
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
    km_map *map = create("forked");
    assert_int_equal(check_in_child(wait_in_child, map, 30), 0);
    must(km_close(map));
}

static void a_handle_that_waits_belongs_to_its_thread(void **state) {
    (void)state;
    km_map *map = create("busy");
    struct waiter waiter = {.map = check_open(map->path, 0, 0), .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(0);
    must_fail(km_wait(waiter.map, 0, 0, NULL), KM_EMISUSE);
    must_fail(km_close(waiter.map), KM_EMISUSE);
    commit(map);
    waiter_join(&waiter);
    assert_int_equal(waiter.result, 0);
    must(km_close(waiter.map));
    must(km_close(map));
}

/* ---- waking ------------------------------------------------------------------------------------------------------ */

static void a_commit_that_nobody_waits_for_wakes_nobody(void **state) {
    (void)state;
    km_map *maps[2] = {create("alone"), check_open(scratch_path("alone.km"), 0, 0)};
    km_map *reader = check_open(maps[0]->path, 0, KM_READONLY);
    must_fail(km_wait(maps[1], 0, 5, NULL), KM_ETIMEOUT);
    must_fail(km_wait(reader, 0, 5, NULL), KM_ETIMEOUT);
    sleeps_reset();
    for (int i = 0; i < 100; i++) {
        commit(maps[i % 2]);
    }
    must(km_sync(maps[0]));
    assert_int_equal(sleeps->wakes, 0);
    must(km_close(reader));
    must(km_close(maps[1]));
    must(km_close(maps[0]));
}

/* Who made it visible has woken already. */
static void making_durable_what_is_visible_wakes_nobody(void **state) {
    (void)state;
    km_map *map = create("synced");
    struct waiter waiter = {.map = check_open(map->path, 0, 0), .after = 1, .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(0);
    commit(map);
    assert_int_equal(sleeps->wakes, 1);
    must(km_sync(map));
    must(km_checkpoint(map));
    assert_int_equal(sleeps->wakes, 1);
    commit(map);
    waiter_join(&waiter);
    assert_int_equal(waiter.result, 0);
    assert_int_equal(waiter.now, 2);
    must(km_close(waiter.map));
    must(km_close(map));
}

/* Durable commits become visible in two places, with the frame's own write and with a later sync, lazy ones in a
 * third. */
static void every_kind_of_commit_wakes_a_sleeper(void **state) {
    (void)state;
    km_map *lazy = create("kinds");
    km_map *durable = check_open(lazy->path, 0, 0);
    struct waiter waiter = {.map = check_open(lazy->path, 0, 0), .timeout_ms = FOR_EVER};
    for (int i = 0; i < 6; i++) {
        sleeps_reset();
        waiter.after = (uint64_t)i;
        waiter_start(&waiter);
        waiter_sleeps(0);
        assert_true(is_marked(lazy, waiter.map->slot));
        commit(i == 0 || i == 2 || i == 3 ? durable
                                          : lazy); /* at 0, 3: nothing before it is to be synced; at 2 it is */
        waiter_join(&waiter);
        assert_int_equal(waiter.result, 0);
        assert_int_equal(waiter.now, i + 1);
        assert_int_equal(sleeps->lost, 0);
        assert_int_equal(sleeps->wakes, 1);
        assert_true(nothing_is_marked(lazy));
    }
    must(km_close(waiter.map));
    must(km_close(durable));
    must(km_close(lazy));
}

static void growth_wakes_a_sleeper(void **state) {
    (void)state;
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .max_size = 4 * SIZE, .flags = KM_CREATE};
    must(km_open(&map, scratch_path("growth.km"), &options));
    struct waiter waiter = {.map = check_open(map->path, 0, 0), .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(0);
    must(km_grow(map, 2 * SIZE));
    waiter_join(&waiter);
    assert_int_equal(waiter.result, 0);
    assert_int_equal(waiter.now, 1);
    must(km_close(waiter.map));
    must(km_close(map));
}

static void commit_now(void *context) {
    commit(context);
}

/* W1: the waiter has looked and found nothing; just before it sleeps the commit comes. */
static void a_commit_between_the_look_and_the_sleep_is_not_slept_over(void **state) {
    (void)state;
    km_map *map = create("between");
    km_map *handles[2] = {check_open(map->path, 0, 0), check_open(map->path, 0, KM_READONLY)};
    for (int i = 0; i < 20; i++) {
        sleeps_reset();
        sleeps_stretch(1, LONG_NS); /* who falls asleep does not wake up within this test */
        uint64_t now = 0;
        sleeps_before(commit_now, map);
        must(km_wait(handles[i % 2], (uint64_t)i, FOR_EVER, &now));
        sleeps_stretch(0, 0);
        assert_int_equal(now, i + 1);
        assert_true(sleeps->sleeps >= 1);
        if (i % 2 == 0) {
            assert_int_equal(sleeps->wakes, 1); /* the mark was there before the last look */
        }
    }
    for (int i = 0; i < 2; i++) {
        must(km_close(handles[i]));
    }
    must(km_close(map));
}

struct late {
    km_map *map;
    bool came;
};

static void commit_if_not_yet(void *context) {
    struct late *late = context;
    late->came = clock_looks > 0;
    commit_at_look(0, NULL);
    if (late->came) {
        commit(late->map);
    }
}

/* The same at every place where a wait looks at the clock: before and in its spin, and after each look at the word. */
static void a_commit_at_any_look_at_the_clock_is_told(void **state) {
    (void)state;
    km_map *map = create("clock");
    km_map *sleeper = check_open(map->path, 0, 0);
    for (unsigned spins = 0; spins < 2; spins++) {
        struct late late = {map, false};
        unsigned look = 0;
        while (!late.came) { /* until the look would come only after the sleep had begun */
            const uint64_t generation = check_info(map).generation;
            sleeps_reset();
            sleeps_stretch(1, LONG_NS);
            sleeper->wait_count = 1;
            sleeper->wait_spin_ns = spins * 1000;
            commit_at_look(++look, map);
            sleeps_before(commit_if_not_yet, &late);
            uint64_t now = 0;
            must(km_wait(sleeper, generation, FOR_EVER, &now));
            sleeps_before(NULL, NULL);
            sleeps_stretch(0, 0);
            assert_int_equal(now, generation + 1);
        }
        assert_true(look > 2);
    }
    must(km_close(sleeper));
    must(km_close(map));
}

static void commit_and_see_the_mark(void *context) {
    struct waiter *waiter = context;
    for (int i = 0; i < 3; i++) {
        commit(waiter->map);
        assert_true(is_marked(waiter->map, (uint32_t)waiter->after));
    }
}

/* W3: a wake that finds nobody asleep is no sign that the waiter is dead. */
static void the_mark_of_a_living_waiter_is_left_to_it(void **state) {
    (void)state;
    km_map *map = create("living");
    km_map *sleeper = check_open(map->path, 0, 0);
    struct waiter committer = {.map = map, .after = sleeper->slot};
    sleeps_reset();
    sleeps_before(commit_and_see_the_mark, &committer);
    must(km_wait(sleeper, 2, FOR_EVER, NULL));
    assert_int_equal(sleeps->wakes, 3);
    assert_int_equal(sleeps->woken, 0);
    assert_true(nothing_is_marked(map));
    must(km_close(sleeper));
    must(km_close(map));
}

static int sleep_in_child(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    child_must(km_wait(map, 1000000, FOR_EVER, NULL));
    return 1;
}

/* Returns when the child has begun to sleep. */
static pid_t in_child(int (*act)(void *context), const char *path) {
    fflush(NULL);
    const uint64_t before = sleeps->sleeps;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGALRM, SIG_DFL);
        signal(SIGBUS, SIG_DFL); /* cmocka's */
        alarm(60);
        _exit(act((void *)path));
    }
    waiter_sleeps(before);
    return child;
}

static pid_t sleeper_start(const char *path) {
    return in_child(sleep_in_child, path);
}

static void sleeper_kill(pid_t child) {
    int status = 0;
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

/* W3: the marks of waiters that were killed cost a few commits a call, not all that come. */
static void the_marks_of_killed_waiters_are_cleared(void **state) {
    (void)state;
    km_map *map = create("killed");
    enum { CHILDREN = 5 };
    pid_t children[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        children[i] = sleeper_start(map->path);
    }
    for (int i = 0; i < CHILDREN; i++) {
        sleeper_kill(children[i]);
    }
    for (uint32_t slot = 1; slot <= CHILDREN; slot++) {
        assert_true(is_marked(map, slot));
    }
    sleeps_reset();
    for (int i = 0; i < CHILDREN; i++) {
        assert_false(nothing_is_marked(map));
        commit(map);
    }
    assert_true(nothing_is_marked(map));
    assert_int_equal(sleeps->wakes, CHILDREN);
    commit(map);
    assert_int_equal(sleeps->wakes, CHILDREN);
    must(km_close(map));
}

/* Whoever takes the slot of a killed waiter does not look as if it waited. */
static void the_slot_of_a_killed_waiter_is_taken_without_its_mark(void **state) {
    (void)state;
    km_map *map = create("reused");
    sleeper_kill(sleeper_start(map->path));
    assert_true(is_marked(map, 1));
    km_map *next = check_open(map->path, 0, 0);
    assert_int_equal(next->slot, 1);
    assert_true(nothing_is_marked(map));
    sleeps_reset();
    commit(map);
    assert_int_equal(sleeps->wakes, 0);
    must(km_close(next));
    must(km_close(map));
}

/* Marks that somebody else's hand has set: a committer neither loses its own lock by looking at its own slot (L3), nor
 * stops committing. */
static void wild_marks_cost_a_committer_nothing_but_calls(void **state) {
    (void)state;
    km_map *map = create("wild");
    km_map *other = check_open(map->path, 0, 0);
    for (uint32_t slot = 0; slot < KM__SLOTS; slot++) {
        set_mark(map, slot);
    }
    sleeps_reset();
    for (uint32_t i = 0; i < 2 * KM__SLOTS; i++) {
        commit(map);
    }
    assert_true(is_marked(map, other->slot)); /* it lives: its mark is its own */
    for (uint32_t slot = 0; slot < KM__SLOTS; slot++) {
        assert_true(slot == other->slot || !is_marked(map, slot));
    }
    assert_int_equal(os_lock_probe(other->locks, KM__SLOT_LOCKS + map->slot, 1, OS_LOCK_WRITE, NULL), 1);
    must_fail(km_wait(other, 1000000, 1, NULL), KM_ETIMEOUT);
    assert_true(nothing_is_marked(map));
    must(km_close(other));
    must(km_close(map));
}

/* W4: a committer was killed between raising the word and waking. */
static void a_waiter_whom_nobody_wakes_looks_for_itself(void **state) {
    (void)state;
    km_map *map = create("bounded");
    struct waiter waiter = {.map = check_open(map->path, 0, 0), .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(0);
    km__raise(&map->control->visible, 1); /* the word alone, without the frame, of which a waiter knows nothing */
    waiter_join(&waiter);
    assert_int_equal(waiter.result, 0);
    assert_int_equal(waiter.now, 1);
    assert_true(sleeps->longest_ns <= UINT64_C(1000000000));
    atomic_store(&map->control->visible, 0);
    must(km_close(waiter.map));
    must(km_close(map));
}

/* Waits that are long teach a handle not to spin. */
static void long_waits_stop_the_spinning(void **state) {
    (void)state;
    km_map *map = create("spin");
    map->wait_spin_ns = 50000;
    for (int i = 0; i < 30; i++) {
        must_fail(km_wait(map, 0, 1, NULL), KM_ETIMEOUT);
    }
    assert_int_equal(map->wait_spin_ns, 0);
    must(km_close(map));
}

/* A spin that has seen a commit, which comes at its first look at the clock, is worth another. */
static void a_short_wait_is_spun_through_and_teaches_to_spin(void **state) {
    (void)state;
    km_map *map = create("short");
    km_map *sleeper = check_open(map->path, 0, 0);
    sleeps_reset();
    sleeper->wait_count = 0; /* now and then it spins, whatever it has learnt */
    sleeper->wait_spin_ns = 0;
    commit_at_look(2, map);
    must(km_wait(sleeper, 0, FOR_EVER, NULL));
    assert_int_equal(clock_looks, 0);
    assert_int_equal(sleeps->sleeps, 0);
    assert_int_equal(sleeps->wakes, 0);
    assert_true(sleeper->wait_spin_ns > 0);
    must(km_close(sleeper));
    must(km_close(map));
}

/* ---- what ends a wait -------------------------------------------------------------------------------------------- */

static void a_failed_sync_ends_the_waits_of_all(void **state) {
    (void)state;
    km_map *map = create("poisoned");
    km_map *reader = check_open(map->path, 0, KM_READONLY);
    commit(map);
    must(km_sync(map));
    commit(map); /* visible, not durable */
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
        km_map *map = create("removed");
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
    must(km_close(check_open(path, SIZE, KM_CREATE)));
    const pid_t child = in_child(sleep_while_it_is_cut, path);
    assert_int_equal(truncate(path, 0), 0);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* ---- without write permission ------------------------------------------------------------------------------------ */

static void a_reader_without_permission_leaves_no_mark_and_looks_often(void **state) {
    (void)state;
    km_map *map = create("reader");
    struct waiter waiter = {.map = check_open(map->path, 0, KM_READONLY), .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(3);
    assert_true(nothing_is_marked(map));
    assert_true(sleeps->longest_ns <= 5000000);
    commit(map);
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
    km_map *map = create("left");
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
        commit(map);
    }
    must(km_close(map));
}

/* W5: a whole session, from open to close, between two looks. */
static void a_reader_notices_a_session_that_came_and_went_between_two_looks(void **state) {
    (void)state;
    km_map *map = create("went");
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
    km_map *map = create("stay");
    const char *path = scratch_path("stay.km");
    commit(map);
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
        void *found = next("fcntl");
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
    km_map *map = create("two");
    km_map *reader = check_open(map->path, 0, KM_READONLY);
    commit(map);
    commit(map);
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
    km_map *map = create("begins");
    const char *path = scratch_path("begins.km");
    must(km_close(map));
    struct waiter waiter = {.map = check_open(path, 0, KM_READONLY), .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(2);
    km_map *writer = check_open(path, 0, KM_LAZY);
    waiter_sleeps(sleeps->sleeps + 2);
    commit(writer);
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
        .struct_size = sizeof options, .size = SIZE, .max_size = 4 * SIZE, .mode = mode, .flags = flags};
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
        commit(map);
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
    must(km_grow(map, 3 * SIZE));
    ((unsigned char *)km_data(map))[3 * SIZE - 1] = 9;
    for (int i = 0; i < 2; i++) {
        waiter_join(&waiters[i]);
        assert_int_equal(waiters[i].result, 0);
        assert_int_equal(km_size(waiters[i].map), 3 * SIZE);
        assert_int_equal(((const unsigned char *)km_data(waiters[i].map))[3 * SIZE - 1], 9);
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
        commit(maps[round % 2]);
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
    const struct km_options options = {.struct_size = sizeof options, .size = SIZE, .mode = KM_RAW, .flags = KM_CREATE};
    must(km_open(&map, scratch_path("raw.bin"), &options));
    must_fail(km_wait(map, 0, FOR_EVER, NULL), KM_EUNSUPPORTED);
    check_detail_contains("km_wait()");
    must(km_close(map));
}

/* Even the word that is watched may be lost with the file. */
static void a_guarded_file_that_is_cut_short_ends_the_wait(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        km_map *map = create("cut");
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
        cmocka_unit_test(a_commit_that_nobody_waits_for_wakes_nobody),
        cmocka_unit_test(making_durable_what_is_visible_wakes_nobody),
        cmocka_unit_test(every_kind_of_commit_wakes_a_sleeper),
        cmocka_unit_test(growth_wakes_a_sleeper),
        cmocka_unit_test(a_commit_between_the_look_and_the_sleep_is_not_slept_over),
        cmocka_unit_test(a_commit_at_any_look_at_the_clock_is_told),
        cmocka_unit_test(the_mark_of_a_living_waiter_is_left_to_it),
        cmocka_unit_test(the_marks_of_killed_waiters_are_cleared),
        cmocka_unit_test(the_slot_of_a_killed_waiter_is_taken_without_its_mark),
        cmocka_unit_test(wild_marks_cost_a_committer_nothing_but_calls),
        cmocka_unit_test(a_waiter_whom_nobody_wakes_looks_for_itself),
        cmocka_unit_test(long_waits_stop_the_spinning),
        cmocka_unit_test(a_short_wait_is_spun_through_and_teaches_to_spin),
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
