/* SPDX-License-Identifier: MIT
 *
 * Objects backed by the paging file, call by call: one process creates, opens or closes an object and is stopped before
 * each call of the system in turn; there another one comes, or the process is killed. What must hold at every one of
 * these moments: never two objects of one name, nobody is blocked by the dead, nothing of the dead is seen, and nothing
 * is left when the last has gone.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "support/check.h"
#include "support/halt.h"
#include "support/objects.h"
#include "support/scratch.h"

#define TARGET "Local\\halted"
#define SIZE 5000u

/* What the two processes tell each other. */
struct shared {
    uint32_t mode, flags;
    int result;     /* of its km_open() */
    uint8_t id[16]; /* of the object that it has */
};

static struct shared *shared;

static int try_open(km_map **map, uint32_t mode, uint32_t flags, uint32_t timeout_ms) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .journal_size = mode == KM_TRANSACTIONAL ? 65536 : 0,
                                       .mode = mode,
                                       .flags = flags,
                                       .timeout_ms = timeout_ms};
    return km_open(map, TARGET, &options);
}

/* What tells two objects apart: the UUID, or in raw bytes what the first to come has stored there. */
static int identify(km_map *map, uint32_t mode, uint8_t id[16]) {
    struct km_info info = {.struct_size = sizeof info};
    const int result = mode == KM_RAW ? 0 : km_get_info(map, &info);
    memcpy(id, mode == KM_RAW ? km_data(map) : info.uuid, 16);
    return result;
}

/* Raw bytes get a name from who comes first. */
static void give_name(km_map *map, uint32_t mode) {
    uint64_t none = 0;
    const uint64_t name = (uint64_t)getpid();
    if (mode == KM_RAW) {
        atomic_compare_exchange_strong((_Atomic uint64_t *)km_data(map), &none, name);
    }
}

/* The life of the process that is stopped: open, mark, close. */
static int live_once(void *context) {
    (void)context;
    km_map *map = NULL;
    shared->result = try_open(&map, shared->mode, shared->flags, 20000);
    if (shared->result == 0) {
        if ((shared->flags & KM_READONLY) == 0) {
            give_name(map, shared->mode);
        }
        child_must(identify(map, shared->mode, shared->id));
    }
    halt_mark();
    child_must(km_close(map));
    return 0;
}

static void set(uint32_t mode, uint32_t flags) {
    *shared = (struct shared){.mode = mode, .flags = flags};
}

static const uint32_t modes[] = {KM_TRANSACTIONAL, KM_LIVE, KM_RAW};

/* Runs `check` for each mode and for each call, until it says that the process has no more calls. */
static void at_each_call(bool (*check)(uint32_t mode, unsigned n), unsigned least) {
    if (!halt_is_possible()) {
        skip();
    }
    for (int i = 0; i < 3; i++) {
        unsigned n = 1;
        for (; check(modes[i], n); n++) {
            if (objects_left() != 0) {
                fail_msg("mode %u, call %u: something is left", modes[i], n);
            }
        }
        assert_true(n > least);
    }
}

/* What a test that failed has left does not spoil the next. */
static int start_anew(void **state) {
    (void)state;
    (void)unlink(objects_path(TARGET));
    return 0;
}

static void expect_zeros(km_map *map) {
    for (uint64_t at = 0; at < SIZE; at++) {
        assert_int_equal(((unsigned char *)km_data(map))[at], 0);
    }
}

/* Opening by name leads to the object that this handle has. */
static void expect_has_the_name(km_map *map, uint32_t mode) {
    uint8_t own[16], found[16];
    km_map *again = NULL;
    must(try_open(&again, mode, 0, 5000));
    must(identify(map, mode, own));
    must(identify(again, mode, found));
    assert_memory_equal(own, found, 16);
    must(km_close(again));
}

/* ---- creating ---------------------------------------------------------------------------------------------------- */

static bool kill_a_creator(uint32_t mode, unsigned n) {
    struct halt halt;
    set(mode, KM_CREATE);
    halt_start(&halt, live_once, NULL);
    const enum halt_event event = halt_run(&halt, n);
    halt_kill(&halt);
    km_map *map = NULL;
    must(try_open(&map, mode, n % 2 == 0 ? KM_CREATE : KM_CREATE | KM_EXCLUSIVE, 1000));
    expect_zeros(map);
    expect_has_the_name(map, mode);
    must(km_close(map));
    return event == HALT_CALL;
}

static void a_creator_that_dies_blocks_nobody_and_leaves_nothing(void **state) {
    (void)state;
    at_each_call(kill_a_creator, 20);
}

/* Another creation clears dead names away, and must not take this one for dead. */
static void sweep(void) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = 100, .mode = KM_RAW, .flags = KM_CREATE, .timeout_ms = 1000};
    must(km_open(&map, "Local\\another", &options));
    must(km_close(map));
}

static bool come_to_a_creator(uint32_t mode, unsigned n) {
    struct halt halt;
    uint8_t id[16] = {0};
    km_map *map = NULL;
    set(mode, KM_CREATE);
    halt_start(&halt, live_once, NULL);
    const enum halt_event event = halt_run(&halt, n);
    sweep();
    const int result = try_open(&map, mode, KM_CREATE, 1);
    assert_true(result == 0 || result == KM_EBUSY);
    if (result == 0) {
        give_name(map, mode);
        must(identify(map, mode, id));
    }
    assert_true(event == HALT_MARK || halt_run_to_mark(&halt) == HALT_MARK);
    assert_int_equal(shared->result, 0);
    if (result != 0) {
        must(try_open(&map, mode, 0, 1000));
        must(identify(map, mode, id));
    }
    assert_memory_equal(id, shared->id, 16);
    expect_has_the_name(map, mode);
    assert_int_equal(halt_finish(&halt), 0);
    expect_has_the_name(map, mode);
    must(km_close(map));
    return event == HALT_CALL;
}

static void who_comes_to_a_creator_waits_or_has_the_same_object(void **state) {
    (void)state;
    at_each_call(come_to_a_creator, 20);
}

static bool create_exclusively_beside(uint32_t mode, unsigned n) {
    struct halt halt;
    km_map *map = NULL;
    set(mode, KM_CREATE | KM_EXCLUSIVE);
    halt_start(&halt, live_once, NULL);
    const enum halt_event event = halt_run(&halt, n);
    const int result = try_open(&map, mode, KM_CREATE | KM_EXCLUSIVE, 1);
    assert_true(result == 0 || result == KM_EEXISTS);
    assert_true(event == HALT_MARK || halt_run_to_mark(&halt) == HALT_MARK);
    assert_int_equal(shared->result, result == 0 ? KM_EEXISTS : 0);
    if (result == 0) {
        expect_has_the_name(map, mode);
    }
    assert_int_equal(halt_finish(&halt), 0);
    must(km_close(map));
    return event == HALT_CALL;
}

static void of_two_exclusive_creators_one_has_it_and_the_other_is_told(void **state) {
    (void)state;
    at_each_call(create_exclusively_beside, 20);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static uint32_t opener_flags;

/* While another opens it, the last user goes and comes again. */
static bool go_and_come(uint32_t mode, unsigned n) {
    struct halt halt;
    uint8_t id[16] = {0};
    km_map *map = NULL;
    must(try_open(&map, mode, KM_CREATE, 1));
    give_name(map, mode);
    set(mode, opener_flags);
    halt_start(&halt, live_once, NULL);
    const enum halt_event event = halt_run(&halt, n);
    const int closed = km_close(map);
    assert_true(closed == 0 || closed == KM_EBUSY);
    const int result = try_open(&map, mode, KM_CREATE, 1);
    assert_true(result == 0 || result == KM_EBUSY);
    if (result == 0) {
        give_name(map, mode);
        must(identify(map, mode, id));
    }
    assert_true(event == HALT_MARK || halt_run_to_mark(&halt) == HALT_MARK);
    /* There was a moment without an object. */
    if (shared->result != 0 && (shared->result != KM_ENOTFOUND || (opener_flags & KM_CREATE) != 0)) {
        fail_msg("mode %u, call %u: the last user closed with %s, and came again with %s; who opened got %s", mode, n,
                 km_error_name(closed), km_error_name(result), km_error_name(shared->result));
    }
    if (result == 0) {
        if (shared->result == 0) {
            assert_memory_equal(id, shared->id, 16);
        }
        expect_has_the_name(map, mode);
    }
    assert_int_equal(halt_finish(&halt), 0);
    if (result == 0) {
        expect_has_the_name(map, mode);
        must(km_close(map));
    }
    return event == HALT_CALL;
}

static void who_opens_while_the_last_user_goes_has_what_the_name_means_now(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_READONLY, KM_CREATE};
    for (int i = 0; i < 3; i++) {
        opener_flags = flags[i];
        at_each_call(go_and_come, 10);
    }
}

/* While another opens it, the last user is gone for good. */
static bool go(uint32_t mode, unsigned n) {
    struct halt halt;
    km_map *map = NULL;
    must(try_open(&map, mode, KM_CREATE, 1));
    set(mode, opener_flags);
    halt_start(&halt, live_once, NULL);
    const enum halt_event event = halt_run(&halt, n);
    const int closed = km_close(map);
    assert_true(closed == 0 || closed == KM_EBUSY);
    if (n % 3 == 0) {
        halt_kill(&halt);
        sweep();
        return event == HALT_CALL;
    }
    assert_true(event == HALT_MARK || halt_run_to_mark(&halt) == HALT_MARK);
    assert_true(shared->result == 0 || shared->result == KM_ENOTFOUND);
    if (shared->result == 0) { /* it is the user now, and keeps the object alive */
        must(try_open(&map, mode, 0, 1000));
        must(km_close(map));
    }
    assert_int_equal(halt_finish(&halt), 0);
    return event == HALT_CALL;
}

static void who_opens_when_the_last_user_has_gone_keeps_it_or_finds_none(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_READONLY};
    for (int i = 0; i < 2; i++) {
        opener_flags = flags[i];
        at_each_call(go, 10);
    }
}

/* ---- closing ----------------------------------------------------------------------------------------------------- */

static bool come_to_who_closes(uint32_t mode, unsigned n) {
    struct halt halt;
    km_map *map = NULL;
    set(mode, KM_CREATE);
    halt_start(&halt, live_once, NULL);
    assert_int_equal(halt_run_to_mark(&halt), HALT_MARK);
    const enum halt_event event = halt_run(&halt, n);
    sweep();
    const int result = try_open(&map, mode, KM_CREATE, 1);
    assert_true(result == 0 || result == KM_EBUSY);
    if (result == 0) {
        give_name(map, mode);
    }
    assert_int_equal(halt_finish(&halt), 0);
    if (result == 0) {
        expect_has_the_name(map, mode);
        must(km_close(map));
    }
    return event == HALT_CALL;
}

static void who_comes_while_the_last_user_closes_keeps_what_it_has(void **state) {
    (void)state;
    at_each_call(come_to_who_closes, 5);
}

static bool kill_who_closes(uint32_t mode, unsigned n) {
    struct halt halt;
    km_map *map = NULL;
    set(mode, KM_CREATE);
    halt_start(&halt, live_once, NULL);
    assert_int_equal(halt_run_to_mark(&halt), HALT_MARK);
    const enum halt_event event = halt_run(&halt, n);
    halt_kill(&halt);
    must(try_open(&map, mode, KM_CREATE, 1000));
    expect_zeros(map);
    must(km_close(map));
    return event == HALT_CALL;
}

static void who_dies_while_it_closes_leaves_nothing_to_see(void **state) {
    (void)state;
    at_each_call(kill_who_closes, 5);
}

static uint32_t last_flags[2];

/* Two are left, and each looks whether it is the last. */
static bool both_close(uint32_t mode, unsigned n) {
    struct halt halt;
    km_map *creator = NULL, *map = NULL;
    must(try_open(&creator, mode, KM_CREATE, 1000));
    set(mode, last_flags[0]);
    halt_start(&halt, live_once, NULL);
    assert_int_equal(halt_run_to_mark(&halt), HALT_MARK);
    must(try_open(&map, mode, last_flags[1], 1));
    must(km_close(creator));
    const enum halt_event event = halt_run(&halt, n);
    const int closed = km_close(map);
    assert_true(closed == 0 || closed == KM_EBUSY); /* the other has the lock, and is told to go on only now */
    assert_int_equal(halt_finish(&halt), 0);
    return event == HALT_CALL;
}

static void of_two_last_users_one_takes_the_name_away(void **state) {
    (void)state;
    static const uint32_t flags[3][2] = {{0, 0}, {0, KM_READONLY}, {KM_READONLY, 0}};
    for (int i = 0; i < 3; i++) {
        memcpy(last_flags, flags[i], sizeof last_flags);
        at_each_call(both_close, 5);
    }
}

/* ---- syncs ------------------------------------------------------------------------------------------------------- */

static int do_everything(void *context) {
    (void)context;
    for (int i = 0; i < 3; i++) {
        km_map *map = NULL;
        child_must(try_open(&map, modes[i], KM_CREATE, 1000));
        if (modes[i] != KM_RAW) {
            child_must(km_begin(map, KM_WRITE));
            memset(km_data(map), 1, SIZE);
            child_must(km_commit(map));
            child_must(km_checkpoint(map));
            child_must(km_grow(map, 100 * SIZE));
            child_must(km_begin(map, KM_WRITE));
            memset(km_data(map), 2, 100 * SIZE);
            child_must(km_commit(map));
        }
        child_must(km_sync(map));
        child_must(km_close(map));
    }
    return 0;
}

static void nothing_of_an_object_is_ever_synced(void **state) {
    (void)state;
    if (!halt_is_possible()) {
        skip();
    }
    struct halt halt;
    unsigned calls = 0;
    halt_start(&halt, do_everything, NULL);
    while (halt_next(&halt) == HALT_CALL) {
        calls++;
        if (halt.call == SYS_fsync || halt.call == SYS_fdatasync || halt.call == SYS_msync ||
            halt.call == SYS_sync_file_range || halt.call == SYS_syncfs || halt.call == SYS_sync ||
            (halt.call == SYS_pwritev2 && (halt.arguments[5] & (RWF_DSYNC | RWF_SYNC)) != 0)) {
            fail_msg("call %u is one of %ld, which syncs", calls, halt.call);
        }
    }
    assert_int_equal(halt.status, 0);
    assert_true(calls > 100);
    assert_int_equal(objects_left(), 0);
}

int main(void) {
    scratch_time_limit(170);
    objects_start();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_creator_that_dies_blocks_nobody_and_leaves_nothing, start_anew),
        cmocka_unit_test_setup(who_comes_to_a_creator_waits_or_has_the_same_object, start_anew),
        cmocka_unit_test_setup(of_two_exclusive_creators_one_has_it_and_the_other_is_told, start_anew),
        cmocka_unit_test_setup(who_opens_while_the_last_user_goes_has_what_the_name_means_now, start_anew),
        cmocka_unit_test_setup(who_opens_when_the_last_user_has_gone_keeps_it_or_finds_none, start_anew),
        cmocka_unit_test_setup(who_comes_while_the_last_user_closes_keeps_what_it_has, start_anew),
        cmocka_unit_test_setup(who_dies_while_it_closes_leaves_nothing_to_see, start_anew),
        cmocka_unit_test_setup(of_two_last_users_one_takes_the_name_away, start_anew),
        cmocka_unit_test_setup(nothing_of_an_object_is_ever_synced, start_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
