/* SPDX-License-Identifier: MIT
 *
 * The target of a checkpoint with whole pages (C9 in checkpoint.c), call by call: a process that checkpoints is stopped
 * before each call of the system, and again some calls later, while another one commits, checkpoints, and chooses
 * targets of its own. Home never gets what is not durable.
 */
#include <sys/mman.h>

#include "map/map.h"
#include "support/check.h"
#include "support/halt.h"
#include "support/scratch.h"

#define SIZE 65536u

static const char *path;
static int *checkpointed; /* what the stopped one's km_checkpoint() gave */

static km_map *open_map(uint32_t flags, uint32_t timeout_ms) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 1 << 20, .flags = flags, .timeout_ms = timeout_ms};
    must(km_open(&map, path, &options));
    return map;
}

/* Stops, checkpoints, ends without having closed anything. */
static int checkpoint_once(void *context) {
    (void)context;
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .timeout_ms = 20000};
    child_must(km_open(&map, path, &options));
    halt_mark();
    *checkpointed = km_checkpoint(map);
    halt_mark();
    return 0;
}

/* May be refused, where the stopped one holds a lock. */
static void try_commit(km_map *map) {
    if (km_begin(map, KM_WRITE) != 0)
        return;
    ++*(unsigned char *)km_data(map);
    if (km_commit(map) != 0)
        must(km_abort(map));
}

static void expect_no_more_than_durable(km_map *map, unsigned first, unsigned second) {
    struct km_info info = {.struct_size = sizeof info};
    must(km_get_info(map, &info));
    if (info.checkpoint_generation > info.durable_generation)
        fail_msg("stopped at call %u and %u later: home is at %llu, durable is %llu", first, second,
                 (unsigned long long)info.checkpoint_generation, (unsigned long long)info.durable_generation);
}

/* One run; `*before` tells whether the other one's checkpoint went through at the first stop. False when the process
 * has fewer calls. */
static bool overtake(unsigned first, unsigned second, bool *before) {
    struct halt halt;
    km_map *map = open_map(KM_CREATE | KM_FULL_PAGES | KM_LAZY | KM_REPLACE, 1);
    try_commit(map);
    halt_start(&halt, checkpoint_once, NULL);
    assert_int_equal(halt_run_to_mark(&halt), HALT_MARK);
    enum halt_event event = halt_run(&halt, first);
    if (event == HALT_CALL) {
        *before = km_checkpoint(map) == 0;
        try_commit(map);
        event = *before ? halt_run(&halt, second) : event;
        try_commit(map);
        try_commit(map);
        (void)km_checkpoint(map); /* which chooses a target, if it may not do more */
        expect_no_more_than_durable(map, first, second);
    }
    const bool was_call = event == HALT_CALL;
    if (was_call)
        assert_int_equal(halt_run_to_mark(&halt), HALT_MARK);
    expect_no_more_than_durable(map, first, second);
    assert_int_equal(*checkpointed, 0);
    halt_kill(&halt);
    struct km_info info = {.struct_size = sizeof info};
    must(km_get_info(map, &info));
    assert_true(info.checkpoint_generation >= 1);
    check_clean(map);
    must(km_close(map));
    return was_call;
}

static void a_target_that_is_chosen_beside_a_checkpoint_is_not_its_own(void **state) {
    (void)state;
    if (!halt_is_possible())
        skip();
    unsigned runs = 0, stops = 0;
    bool before = true;
    for (unsigned first = 1; before; first++) {
        unsigned second = 1;
        while (overtake(first, second, &before) && before)
            second++;
        runs += second;
        stops += second > 1;
    }
    fprintf(stderr, "# %u pairs of stops, %u of the first\n", runs, stops);
    assert_in_range(stops, 2, 1000);
    assert_in_range(runs, 30, 100000);
}

int main(void) {
    scratch_time_limit(120);
    path = scratch_path("target.km");
    checkpointed = mmap(NULL, sizeof *checkpointed, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (checkpointed == MAP_FAILED)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_target_that_is_chosen_beside_a_checkpoint_is_not_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
