/* SPDX-License-Identifier: MIT
 *
 * What calls promise when something is in their way, on the simulated system (support/os_sim.h): a refused write, a
 * lock that stays taken, a session that nobody ended.
 */
#include "map/map.h"
#include "support/check.h"
#include "support/os_sim.h"
#include "support/scratch.h"

#define PATH "/disk/promise.km"
#define SIZE 65536u
#define RING 65536u

static km_map *open_map(uint32_t flags, uint32_t timeout_ms) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = RING, .flags = flags, .timeout_ms = timeout_ms};
    must(km_open(&map, PATH, &options));
    return map;
}

static void expect_generation(km_map *map, uint64_t generation) {
    must(km_begin(map, KM_READ));
    assert_int_equal(km_generation(map), generation);
    must(km_abort(map));
}

/* A limit on file sizes is one process's own: its commit is refused, and nobody else notices. */
static void a_refused_write_ends_nobodys_commits(void **state) {
    (void)state;
    static const int codes[] = {KM_ENOSPACE, KM_ENOMEM, KM_ESIZE};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        for (uint32_t lazy = 0; lazy < 2; lazy++) {
            os_sim_reset(1);
            km_map *other = open_map(KM_CREATE, 5), *limited = open_map(lazy ? KM_LAZY : 0, 5);
            check_commit_fill(other, 0, 1, 10);
            must(km_begin(limited, KM_WRITE));
            memset(km_data(limited), 2, 10);
            os_sim_fail(OS_SIM_WRITE, 1, codes[i] == KM_ESIZE ? 2 : 1, codes[i]); /* the wipe is beyond the limit too */
            must_fail(km_commit(limited), codes[i]);
            assert_int_equal(km_generation(limited), 1);
            must(km_commit(limited)); /* it was open still */
            check_commit_fill(other, 0, 3, 10);
            expect_generation(limited, 3);
            must(km_close(limited));
            must(km_close(other));
        }
}

/* Somebody who may only read holds CHECKPOINT, as a long verification does. */
static void the_last_to_close_makes_lazy_commits_durable_whoever_holds_it_up(void **state) {
    (void)state;
    static const enum km__lock locks[] = {KM__CHECKPOINT, KM__ATTACH};
    for (size_t i = 0; i < sizeof locks / sizeof locks[0]; i++) {
        os_sim_reset(1);
        km_map *map = open_map(KM_CREATE | KM_LAZY, 5);
        check_commit_fill(map, 0, 1, 10);
        km_map *outsider = open_map(KM_READONLY, 5);
        must(km__lock_try(outsider, locks[i], OS_LOCK_READ));
        must_fail(km_close(map), KM_EBUSY);
        os_sim_cut();
        os_sim_reboot(NULL, OS_SIM_NOTHING, 1);
        must(km_close(outsider));
        map = open_map(0, 5);
        expect_generation(map, 1);
        must(km_close(map));
    }
}

static void info_calls_only_that_durable_which_is_known_to_be(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *map = open_map(KM_CREATE, 5), *lazy = open_map(KM_LAZY, 5);
    check_commit_fill(map, 0, 1, 10);
    check_commit_fill(lazy, 0, 2, 10);
    os_sim_kill(NULL);
    km_map *outsider = open_map(KM_READONLY, 5);
    struct km_info info = {.struct_size = sizeof info};
    must(km_get_info(outsider, &info));
    assert_int_equal(info.generation, 2);
    assert_int_equal(info.durable_generation, 1); /* the frame of commit 2 says so */
    must(km_close(outsider));
    must(km_close(open_map(0, 5)));
    outsider = open_map(KM_READONLY, 5);
    must(km_get_info(outsider, &info));
    assert_int_equal(info.durable_generation, 2);
    must(km_close(outsider));
}

/* The clock of the simulated system moves when somebody sleeps. */
static void a_writer_waits_as_long_as_it_was_told(void **state) {
    (void)state;
    os_sim_reset(1);
    km_map *first = open_map(KM_CREATE, 5), *second = open_map(0, 200);
    must(km_begin(first, KM_WRITE));
    const uint64_t begun = os_time_monotonic_ns();
    must_fail(km_begin(second, KM_WRITE), KM_EBUSY);
    assert_in_range(os_time_monotonic_ns() - begun, 200000000, 210000000);
    must(km_abort(first));
    must(km_begin(second, KM_WRITE));
    must(km_close(second));
    must(km_close(first));
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_refused_write_ends_nobodys_commits),
        cmocka_unit_test(the_last_to_close_makes_lazy_commits_durable_whoever_holds_it_up),
        cmocka_unit_test(info_calls_only_that_durable_which_is_known_to_be),
        cmocka_unit_test(a_writer_waits_as_long_as_it_was_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
