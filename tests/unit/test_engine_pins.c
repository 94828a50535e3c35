/* SPDX-License-Identifier: MIT
 *
 * Pins beside a process that stands between any two of its calls of the system: the pin of a dead handle is cleared and
 * its slot taken, and a pin is stored while a writer looks what it may overwrite.
 */
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/halt.h"
#include "support/scratch.h"

#define SIZE (1u << 20)
#define RING 65536u
#define CALLS_END 400u

static char path[600];

static km_map *open_here(uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = RING, .flags = flags, .timeout_ms = 5};
    must(km_open(&map, path, &options));
    return map;
}

static km_map *open_in_child(void) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .timeout_ms = 5};
    child_must(km_open(&map, path, &options));
    return map;
}

static void start_at_mark(struct halt *halt, int (*child)(void *context)) {
    halt_start(halt, child, NULL);
    assert_int_equal(halt_run_to_mark(halt), HALT_MARK);
}

/* ---- a slot that is taken while its dead pin is cleared ---------------------------------------------------------- */

static int checkpoint(void *context) {
    (void)context;
    km_map *map = open_in_child();
    halt_mark();
    child_must(km_checkpoint(map));
    return 0;
}

/* L2: who clears the pin of a dead handle stands before its n-th call when another takes the slot and pins. Whether
 * there was an n-th call. */
static bool pin_beside_a_clearing(unsigned n) {
    struct halt halt;
    unlink(path);
    km_map *map = open_here(KM_CREATE);
    check_commit_fill(map, 0, 1, 100);
    start_at_mark(&halt, checkpoint);
    atomic_store(&map->control->slot[2].pin, 0); /* of a handle that died: nobody has its lock */
    atomic_store(&map->control->slot_limit, 3);
    const bool standing = halt_run(&halt, n) == HALT_CALL;
    km_map *reader = NULL;
    const struct km_options options = {.struct_size = sizeof options, .timeout_ms = 5};
    must(km_open(&reader, path, &options));
    must(km_begin(reader, KM_READ));
    const uint64_t pin = atomic_load(&map->control->slot[reader->slot].pin);
    assert_true(pin != KM__NO_PIN);
    (void)halt_finish(&halt);
    assert_int_equal(atomic_load(&map->control->slot[reader->slot].pin), pin);
    must(km_abort(reader));
    must(km_close(reader));
    must(km_close(map));
    return standing;
}

static void a_dead_pin_is_cleared_under_the_lock_of_its_slot(void **state) {
    (void)state;
    if (!halt_is_possible())
        skip();
    unsigned n = 1;
    while (pin_beside_a_clearing(n)) {
        n++;
        assert_true(n < CALLS_END);
    }
    assert_true(n > 10);
}

/* ---- a pin that is stored while a writer looks ------------------------------------------------------------------- */

#define EARLIER 7 /* commits in the ring, which leave no room for the next one */

static int commit_much(void *context) {
    (void)context;
    km_map *map = open_in_child();
    child_must(km_begin(map, KM_READ)); /* it has walked all frames, so that it knows where they stand */
    child_must(km_abort(map));
    halt_mark();
    child_must(km_begin(map, KM_WRITE));
    memset(km_data(map), 100, 40000);
    (void)km_commit(map);
    return 0;
}

/* J1: a checkpointer has looked at the pins before a handle stored its own, and publishes while the writer stands
 * before its n-th call. The handle still reads the frames that are home now. */
static bool pin_beside_a_writer(unsigned n) {
    struct halt halt;
    unlink(path);
    km_map *map = open_here(KM_CREATE), *reader = open_here(0);
    for (int i = 1; i <= EARLIER; i++)
        check_commit_fill(map, 0, i, 4000);
    start_at_mark(&halt, commit_much);
    const bool standing = halt_run(&halt, n) == HALT_CALL;
    const bool in_time = atomic_load(&map->control->checkpointed) == 0 && km_checkpoint(map) == 0;
    if (in_time)
        km__pin(reader, 0);
    (void)halt_finish(&halt);
    if (in_time)
        must(km__refresh_to(reader, EARLIER));
    km__unpin(reader);
    must(km_close(reader));
    must(km_close(map));
    return standing;
}

static void a_writer_that_looks_meanwhile_overwrites_nothing_that_a_pin_needs(void **state) {
    (void)state;
    if (!halt_is_possible())
        skip();
    unsigned n = 1;
    while (pin_beside_a_writer(n)) {
        n++;
        assert_true(n < CALLS_END);
    }
    assert_true(n > 10);
}

int main(void) {
    scratch_time_limit(150);
    snprintf(path, sizeof path, "%s", scratch_path("pins.km"));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dead_pin_is_cleared_under_the_lock_of_its_slot),
        cmocka_unit_test(a_writer_that_looks_meanwhile_overwrites_nothing_that_a_pin_needs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
