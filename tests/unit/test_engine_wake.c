/* SPDX-License-Identifier: MIT
 *
 * The rules of wait.c, one by one: this program looks at the calls by which handles sleep and wake (support/sleeps.h),
 * and lets others commit just before a sleep, or when a wait looks at the clock, for which it has a clock_gettime() of
 * its own.
 */
#include <dlfcn.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "map/map.h"
#include "support/check.h"
#include "support/scratch.h"
#include "support/sleeps.h"
#include "waiter.h"

/* ---- the clock --------------------------------------------------------------------------------------------------- */

static _Thread_local unsigned clock_looks; /* so many looks from now on it is committed; 0: never */
static _Thread_local km_map *clock_map;

typedef int clock_function(clockid_t clock, struct timespec *time);

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, struct timespec *time) {
    static clock_function *_Atomic real;
    if (atomic_load(&real) == NULL) {
        clock_function *function = NULL;
        void *found = dlsym(RTLD_NEXT, "clock_gettime");
        if (found == NULL) {
            abort();
        }
        memcpy(&function, &found, sizeof function);
        atomic_store(&real, function);
    }
    if (clock_looks > 0 && --clock_looks == 0) {
        waiter_commit(clock_map);
    }
    return atomic_load(&real)(clock, time);
}

static void commit_at_look(unsigned look, km_map *map) {
    clock_map = map;
    clock_looks = look;
}

/* ---- waking ------------------------------------------------------------------------------------------------------ */

static void a_commit_that_nobody_waits_for_wakes_nobody(void **state) {
    (void)state;
    km_map *maps[2] = {waiter_map("alone"), check_open(scratch_path("alone.km"), 0, 0)};
    km_map *reader = check_open(maps[0]->path, 0, KM_READONLY);
    must_fail(km_wait(maps[1], 0, 5, NULL), KM_ETIMEOUT);
    must_fail(km_wait(reader, 0, 5, NULL), KM_ETIMEOUT);
    sleeps_reset();
    for (int i = 0; i < 100; i++) {
        waiter_commit(maps[i % 2]);
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
    km_map *map = waiter_map("synced");
    struct waiter waiter = {.map = check_open(map->path, 0, 0), .after = 1, .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(0);
    waiter_commit(map);
    assert_int_equal(sleeps->wakes, 1);
    must(km_sync(map));
    must(km_checkpoint(map));
    assert_int_equal(sleeps->wakes, 1);
    waiter_commit(map);
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
    km_map *lazy = waiter_map("kinds");
    km_map *durable = check_open(lazy->path, 0, 0);
    struct waiter waiter = {.map = check_open(lazy->path, 0, 0), .timeout_ms = FOR_EVER};
    for (int i = 0; i < 6; i++) {
        sleeps_reset();
        waiter.after = (uint64_t)i;
        waiter_start(&waiter);
        waiter_sleeps(0);
        assert_true(waiter_is_marked(lazy, waiter.map->slot));
        waiter_commit(i == 0 || i == 2 || i == 3 ? durable
                                                 : lazy); /* at 0, 3: nothing before it is to be synced; at 2 it is */
        waiter_join(&waiter);
        assert_int_equal(waiter.result, 0);
        assert_int_equal(waiter.now, i + 1);
        assert_int_equal(sleeps->lost, 0);
        assert_int_equal(sleeps->wakes, 1);
        assert_true(waiter_none_is_marked(lazy));
    }
    must(km_close(waiter.map));
    must(km_close(durable));
    must(km_close(lazy));
}

static void growth_wakes_a_sleeper(void **state) {
    (void)state;
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = WAITER_SIZE, .max_size = 4 * WAITER_SIZE, .flags = KM_CREATE};
    must(km_open(&map, scratch_path("growth.km"), &options));
    struct waiter waiter = {.map = check_open(map->path, 0, 0), .timeout_ms = FOR_EVER};
    sleeps_reset();
    waiter_start(&waiter);
    waiter_sleeps(0);
    must(km_grow(map, 2 * WAITER_SIZE));
    waiter_join(&waiter);
    assert_int_equal(waiter.result, 0);
    assert_int_equal(waiter.now, 1);
    must(km_close(waiter.map));
    must(km_close(map));
}

static void commit_now(void *context) {
    waiter_commit(context);
}

/* W1: the waiter has looked and found nothing; just before it sleeps the commit comes. */
static void a_commit_between_the_look_and_the_sleep_is_not_slept_over(void **state) {
    (void)state;
    km_map *map = waiter_map("between");
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
        waiter_commit(late->map);
    }
}

/* The same at every place where a wait looks at the clock: before and in its spin, and after each look at the word. */
static void a_commit_at_any_look_at_the_clock_is_told(void **state) {
    (void)state;
    km_map *map = waiter_map("clock");
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
        waiter_commit(waiter->map);
        assert_true(waiter_is_marked(waiter->map, (uint32_t)waiter->after));
    }
}

/* W3: a wake that finds nobody asleep is no sign that the waiter is dead. */
static void the_mark_of_a_living_waiter_is_left_to_it(void **state) {
    (void)state;
    km_map *map = waiter_map("living");
    km_map *sleeper = check_open(map->path, 0, 0);
    struct waiter committer = {.map = map, .after = sleeper->slot};
    sleeps_reset();
    sleeps_before(commit_and_see_the_mark, &committer);
    must(km_wait(sleeper, 2, FOR_EVER, NULL));
    assert_int_equal(sleeps->wakes, 3);
    assert_int_equal(sleeps->woken, 0);
    assert_true(waiter_none_is_marked(map));
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

static pid_t sleeper_start(const char *path) {
    return waiter_in_child(sleep_in_child, path);
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
    km_map *map = waiter_map("killed");
    enum { CHILDREN = 5 };
    pid_t children[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        children[i] = sleeper_start(map->path);
    }
    for (int i = 0; i < CHILDREN; i++) {
        sleeper_kill(children[i]);
    }
    for (uint32_t slot = 1; slot <= CHILDREN; slot++) {
        assert_true(waiter_is_marked(map, slot));
    }
    sleeps_reset();
    for (int i = 0; i < CHILDREN; i++) {
        assert_false(waiter_none_is_marked(map));
        waiter_commit(map);
    }
    assert_true(waiter_none_is_marked(map));
    assert_int_equal(sleeps->wakes, CHILDREN);
    waiter_commit(map);
    assert_int_equal(sleeps->wakes, CHILDREN);
    must(km_close(map));
}

/* Whoever takes the slot of a killed waiter does not look as if it waited. */
static void the_slot_of_a_killed_waiter_is_taken_without_its_mark(void **state) {
    (void)state;
    km_map *map = waiter_map("reused");
    sleeper_kill(sleeper_start(map->path));
    assert_true(waiter_is_marked(map, 1));
    km_map *next = check_open(map->path, 0, 0);
    assert_int_equal(next->slot, 1);
    assert_true(waiter_none_is_marked(map));
    sleeps_reset();
    waiter_commit(map);
    assert_int_equal(sleeps->wakes, 0);
    must(km_close(next));
    must(km_close(map));
}

static void set_mark(km_map *map, uint32_t slot) {
    atomic_fetch_or(&map->control->waiting[slot / 64], UINT64_C(1) << (slot % 64));
}

/* Marks that somebody else's hand has set: a committer neither loses its own lock by looking at its own slot (L3), nor
 * stops committing. */
static void wild_marks_cost_a_committer_nothing_but_calls(void **state) {
    (void)state;
    km_map *map = waiter_map("wild");
    km_map *other = check_open(map->path, 0, 0);
    for (uint32_t slot = 0; slot < KM__SLOTS; slot++) {
        set_mark(map, slot);
    }
    sleeps_reset();
    for (uint32_t i = 0; i < 2 * KM__SLOTS; i++) {
        waiter_commit(map);
    }
    assert_true(waiter_is_marked(map, other->slot)); /* it lives: its mark is its own */
    for (uint32_t slot = 0; slot < KM__SLOTS; slot++) {
        assert_true(slot == other->slot || !waiter_is_marked(map, slot));
    }
    assert_int_equal(os_lock_probe(other->locks, KM__SLOT_LOCKS + map->slot, 1, OS_LOCK_WRITE, NULL), 1);
    must_fail(km_wait(other, 1000000, 1, NULL), KM_ETIMEOUT);
    assert_true(waiter_none_is_marked(map));
    must(km_close(other));
    must(km_close(map));
}

/* W4: a committer was killed between raising the word and waking. */
static void a_waiter_whom_nobody_wakes_looks_for_itself(void **state) {
    (void)state;
    km_map *map = waiter_map("bounded");
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
    km_map *map = waiter_map("spin");
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
    km_map *map = waiter_map("short");
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

int main(void) {
    scratch_time_limit(120);
    sleeps_start();
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
