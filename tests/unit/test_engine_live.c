/* SPDX-License-Identifier: MIT
 *
 * Live maps: stores seen at once, the writer's lock and what its holder's death leaves, handles that only read, what is
 * refused. Seals are in test_engine_seal.c, growth and full disks in test_engine_live_growth.c.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/objects.h"
#include "support/scratch.h"

#define SIZE 20000u

static int try_open(km_map **map, const char *path, uint32_t flags) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .max_size = 4 * SIZE,
                                       .mode = KM_LIVE,
                                       .flags = flags,
                                       .timeout_ms = 2000};
    return km_open(map, path, &options);
}

static km_map *open_live(const char *path, uint32_t flags) {
    km_map *map = NULL;
    must(try_open(&map, path, flags));
    return map;
}

static unsigned char *bytes(km_map *map) {
    return km_data(map);
}

static void write_once(km_map *map, uint64_t offset, unsigned char value) {
    must(km_begin(map, KM_WRITE));
    bytes(map)[offset] = value;
    must(km_commit(map));
}

static uint32_t abandoned(km_map *map) {
    return check_info(map).abandoned;
}

/* ---- stores ------------------------------------------------------------------------------------------------------ */

static int store_and_look(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, 0));
    child_check(bytes(map)[0] == 1 && bytes(map)[SIZE - 1] == 2);
    bytes(map)[5000] = 3;
    child_must(km_close(map));
    return 0;
}

static void stores_are_seen_at_once_by_all_with_and_without_a_transaction(void **state) {
    (void)state;
    const char *const targets[] = {scratch_path("seen.km"), "Local\\seen"};
    for (int i = 0; i < 2; i++) {
        km_map *map = open_live(targets[i], KM_CREATE), *other = open_live(targets[i], 0);
        km_map *reader = open_live(targets[i], KM_READONLY);
        bytes(map)[0] = 1;
        assert_int_equal(bytes(other)[0], 1);
        assert_int_equal(bytes(reader)[0], 1);
        must(km_begin(map, KM_WRITE));
        bytes(map)[SIZE - 1] = 2;
        assert_int_equal(bytes(other)[SIZE - 1], 2);
        assert_int_equal(check_in_child(store_and_look, (void *)(uintptr_t)targets[i], 20), 0);
        assert_int_equal(bytes(map)[5000], 3);
        assert_int_equal(bytes(reader)[5000], 3);
        must(km_abort(map));
        assert_int_equal(bytes(other)[SIZE - 1], 2); /* an abort takes nothing back */
        must(km_close(map));
        must(km_close(other));
        must(km_close(reader));
    }
    assert_int_equal(objects_left(), 0);
    km_map *map = open_live(targets[0], 0);
    assert_int_equal(bytes(map)[0], 1);
    assert_int_equal(bytes(map)[SIZE - 1], 2);
    assert_int_equal(bytes(map)[5000], 3);
    must(km_close(map));
}

static void a_commit_raises_the_generation_and_an_abort_does_not(void **state) {
    (void)state;
    const char *path = scratch_path("generation.km");
    km_map *map = open_live(path, KM_CREATE), *other = open_live(path, 0), *reader = open_live(path, KM_READONLY);
    assert_int_equal(km_generation(map), 0);
    write_once(map, 0, 1);
    write_once(other, 1, 2);
    assert_int_equal(km_generation(map), 1);
    assert_int_equal(km_generation(other), 2);
    must(km_begin(map, KM_WRITE));
    assert_int_equal(km_generation(map), 2);
    must(km_abort(map));
    must(km_begin(reader, KM_READ));
    assert_int_equal(km_generation(reader), 2);
    must(km_commit(reader)); /* ends a read as well */
    must(km_begin(map, KM_WRITE));
    must(km_commit(map)); /* a commit that stored nothing is one all the same */
    must(km_begin(other, KM_READ));
    assert_int_equal(km_generation(other), 3);
    must(km_abort(other));
    const struct km_info info = check_info(reader);
    assert_int_equal(info.generation, 3);
    assert_int_equal(info.durable_generation, 0);
    assert_int_equal(info.mode, KM_LIVE);
    assert_int_equal(info.journal_size | info.journal_used, 0);
    must(km_close(reader));
    must(km_close(map));
    must(km_close(other));
    map = open_live(path, 0);
    assert_int_equal(km_generation(map), 3);
    assert_int_equal(check_info(map).durable_generation, 3);
    must(km_close(map));
}

static int commit_and_die(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, 0));
    for (int i = 0; i < 5; i++) {
        child_must(km_begin(map, KM_WRITE));
        bytes(map)[i] = 9;
        child_must(km_commit(map));
    }
    raise(SIGKILL);
    return 1;
}

/* The words of control are kept as long as the machine runs. */
static void the_generation_goes_on_after_all_were_killed(void **state) {
    (void)state;
    const char *path = scratch_path("killed.km");
    must(km_close(open_live(path, KM_CREATE)));
    assert_int_equal(check_in_child(commit_and_die, (void *)(uintptr_t)path, 20), -SIGKILL);
    km_map *reader = open_live(path, KM_READONLY);
    assert_int_equal(km_generation(reader), 5);
    must(km_begin(reader, KM_READ));
    assert_int_equal(km_generation(reader), 5);
    assert_int_equal(bytes(reader)[4], 9);
    must(km_abort(reader));
    km_map *map = open_live(path, 0);
    assert_int_equal(km_generation(map), 5);
    assert_int_equal(bytes(map)[4], 9);
    write_once(map, 0, 1);
    assert_int_equal(km_generation(map), 6);
    must(km_begin(reader, KM_READ));
    assert_int_equal(km_generation(reader), 6);
    must(km_abort(reader));
    must(km_close(reader));
    must(km_close(map));
}

/* ---- the writer's lock ------------------------------------------------------------------------------------------- */

static void one_writes_at_a_time(void **state) {
    (void)state;
    const char *path = scratch_path("lock.km");
    km_map *map = open_live(path, KM_CREATE), *other = NULL;
    const struct km_options hasty = {.struct_size = sizeof hasty, .timeout_ms = 1};
    must(km_open(&other, path, &hasty));
    must(km_begin(map, KM_WRITE));
    must_fail(km_begin(other, KM_WRITE), KM_EBUSY);
    must(km_begin(other, KM_READ)); /* who reads asks nobody */
    must(km_abort(other));
    must_fail(km_grow(other, 2 * SIZE), KM_EBUSY);
    must(km_sync(other));
    must(km_commit(map));
    must(km_begin(other, KM_WRITE));
    must_fail(km_begin(other, KM_WRITE), KM_EMISUSE);
    must(km_abort(other));
    must_fail(km_abort(other), KM_EMISUSE);
    must_fail(km_commit(other), KM_EMISUSE);
    must(km_begin(map, KM_WRITE));
    must(km_close(map)); /* ends the transaction */
    must(km_begin(other, KM_WRITE));
    must(km_commit(other));
    must(km_close(other));
}

struct death {
    const char *path;
    int after; /* 0: in the transaction; 1: after an abort; 2: after a commit; 3: in a read; 4: before any */
    int told;  /* what km_begin(KM_WRITE) has to say */
};

static int die(void *context) {
    const struct death *death = context;
    km_map *map = NULL;
    child_must(try_open(&map, death->path, 0));
    if (death->after == 3) {
        child_must(km_begin(map, KM_READ));
    } else if (death->after != 4) {
        child_check(km_begin(map, KM_WRITE) == death->told);
        bytes(map)[100]++;
    }
    if (death->after == 1) {
        child_must(km_abort(map));
    } else if (death->after == 2) {
        child_must(km_commit(map));
    }
    raise(SIGKILL);
    return 1;
}

static void die_after(const char *path, int after, int told) {
    struct death death = {path, after, told};
    assert_int_equal(check_in_child(die, &death, 20), -SIGKILL);
}

static void expect_next_writer_is_told(km_map *map, int told) {
    assert_int_equal(abandoned(map), told == KM_EABANDONED);
    if (told != 0) {
        must_fail(km_begin(map, KM_WRITE), told);
        check_detail_contains("repair");
    } else {
        must(km_begin(map, KM_WRITE));
    }
    assert_int_equal(abandoned(map), told == KM_EABANDONED);
    must_fail(km_begin(map, KM_READ), KM_EMISUSE); /* it is open in either case */
}

static void the_death_of_a_writer_is_told_to_the_next_until_one_commits(void **state) {
    (void)state;
    const char *const targets[] = {scratch_path("death.km"), "Global\\death"};
    for (int i = 0; i < 2; i++) {
        const char *path = targets[i];
        km_map *map = open_live(path, KM_CREATE), *reader = open_live(path, KM_READONLY);
        assert_int_equal(abandoned(map) | abandoned(reader), 0);
        die_after(path, 0, 0);
        assert_int_equal(bytes(map)[100], 1);
        assert_int_equal(abandoned(reader), 1);
        must(km_begin(reader, KM_READ)); /* who reads is not told */
        must(km_abort(reader));
        expect_next_writer_is_told(map, KM_EABANDONED);
        must(km_abort(map)); /* leaves the mark */
        assert_int_equal(km_generation(map), 0);
        expect_next_writer_is_told(map, KM_EABANDONED);
        must(km_commit(map)); /* clears it */
        assert_int_equal(abandoned(map) | abandoned(reader), 0);
        expect_next_writer_is_told(map, 0);
        must(km_commit(map));
        assert_int_equal(km_generation(map), 2);
        must(km_close(map));
        must(km_close(reader));
    }
    assert_int_equal(objects_left(), 0);
}

static void only_the_death_inside_a_write_transaction_is_told(void **state) {
    (void)state;
    const char *path = scratch_path("outside.km");
    km_map *map = open_live(path, KM_CREATE);
    for (int after = 1; after <= 4; after++) {
        die_after(path, after, 0);
        expect_next_writer_is_told(map, 0);
        must(km_abort(map));
    }
    must(km_close(map));
}

static void several_deaths_in_a_row_are_told_to_each(void **state) {
    (void)state;
    const char *path = scratch_path("row.km");
    km_map *map = open_live(path, KM_CREATE);
    die_after(path, 0, 0);
    die_after(path, 0, KM_EABANDONED);
    die_after(path, 1, KM_EABANDONED);
    die_after(path, 0, KM_EABANDONED);
    expect_next_writer_is_told(map, KM_EABANDONED);
    must(km_abort(map));
    die_after(path, 2, KM_EABANDONED); /* which repaired it */
    expect_next_writer_is_told(map, 0);
    must(km_commit(map));
    must(km_close(map));
}

/* The mark outlives the session of who died, with whoever comes, a clean close, and growth. */
static void the_mark_of_a_death_lasts_until_a_commit_whoever_comes_and_goes(void **state) {
    (void)state;
    const char *path = scratch_path("mark.km");
    must(km_close(open_live(path, KM_CREATE)));
    die_after(path, 0, 0);
    km_map *reader = open_live(path, KM_READONLY);
    assert_int_equal(abandoned(reader), 1);
    for (int i = 0; i < 3; i++) {
        km_map *map = open_live(path, 0);
        assert_int_equal(abandoned(map), 1);
        must(km_sync(map));
        must(km_grow(map, SIZE + 5000 * (uint64_t)(i + 1)));
        must(km_close(map));
        assert_int_equal(abandoned(reader), 1);
        assert_int_equal(check_info(reader).clean, 0);
    }
    km_map *map = open_live(path, 0);
    expect_next_writer_is_told(map, KM_EABANDONED);
    must(km_commit(map));
    must(km_close(map));
    assert_int_equal(abandoned(reader), 0);
    assert_int_equal(check_info(reader).clean, 1);
    must(km_close(reader));
    map = open_live(path, 0);
    expect_next_writer_is_told(map, 0);
    must(km_abort(map));
    must(km_close(map));
}

/* ---- handles that only read -------------------------------------------------------------------------------------- */

static int store_in_read_only(void *context) {
    km_map *map = NULL;
    child_must(try_open(&map, context, KM_READONLY));
    volatile unsigned char *data = km_data(map);
    child_check(data[0] == 7);
    *data = 1;
    return 0;
}

static void a_store_through_a_read_only_handle_is_a_fault(void **state) {
    (void)state;
    const char *path = scratch_path("readonly.km");
    km_map *map = open_live(path, KM_CREATE);
    bytes(map)[0] = 7;
    const int status = check_in_child(store_in_read_only, (void *)(uintptr_t)path, 20);
    assert_true(status == -SIGSEGV || status == 1); /* a sanitizer makes it a status of its own */
    assert_int_equal(bytes(map)[0], 7);
    must(km_close(map));
}

static void a_read_only_handle_follows_sessions_that_come_and_go(void **state) {
    (void)state;
    const char *path = scratch_path("follows.km");
    must(km_close(open_live(path, KM_CREATE)));
    km_map *reader = open_live(path, KM_READONLY);
    struct scratch_image before = scratch_load(path);
    must(km_begin(reader, KM_READ));
    must(km_abort(reader));
    assert_int_equal(check_info(reader).handles, 0);
    assert_int_equal(check_info(reader).clean, 1);
    assert_true(scratch_equals(path, &before)); /* it has written nothing */
    scratch_release(&before);
    for (unsigned session = 1; session <= 3; session++) {
        km_map *map = open_live(path, 0);
        write_once(map, session, (unsigned char)session);
        assert_int_equal(bytes(reader)[session], session);
        must(km_begin(reader, KM_READ));
        assert_int_equal(km_generation(reader), session);
        must(km_abort(reader));
        must(km_close(map));
        must(km_begin(reader, KM_READ));
        assert_int_equal(km_generation(reader), session);
        assert_int_equal(bytes(reader)[session], session);
        must(km_abort(reader));
    }
    must_fail(km_begin(reader, KM_WRITE), KM_EREADONLY);
    must_fail(km_sync(reader), KM_EREADONLY);
    must_fail(km_checkpoint(reader), KM_EREADONLY);
    must_fail(km_grow(reader, 2 * SIZE), KM_EREADONLY);
    check_clean(reader);
    must(km_close(reader));
}

static void a_read_only_handle_of_a_map_that_is_not_writable_works(void **state) {
    (void)state;
    const char *path = scratch_path("mode.km");
    km_map *map = open_live(path, KM_CREATE);
    write_once(map, 0, 1);
    must(km_close(map));
    assert_int_equal(chmod(path, 0400), 0);
    map = open_live(path, KM_READONLY);
    assert_int_equal(bytes(map)[0], 1);
    must(km_begin(map, KM_READ));
    assert_int_equal(km_generation(map), 1);
    must(km_abort(map));
    check_clean(map);
    must(km_close(map));
}

/* ---- what is refused, what means nothing ------------------------------------------------------------------------- */

static void what_a_live_map_has_no_use_for_is_refused_at_creation(void **state) {
    (void)state;
    const char *path = scratch_path("refused.km");
    static const uint32_t flags[] = {KM_COMPRESS, KM_FULL_PAGES, 0};
    for (int i = 0; i < 3; i++) {
        km_map *map = NULL;
        const struct km_options options = {.struct_size = sizeof options,
                                           .size = SIZE,
                                           .journal_size = i == 2 ? 65536 : 0,
                                           .mode = KM_LIVE,
                                           .flags = KM_CREATE | flags[i]};
        must_fail(km_open(&map, path, &options), KM_EINVAL);
        check_detail_contains("journal");
        assert_int_equal(access(path, F_OK), -1);
    }
}

static void flags_of_transactions_mean_nothing_in_a_live_map(void **state) {
    (void)state;
    const char *path = scratch_path("flags.km");
    static const uint32_t flags[] = {KM_LAZY, KM_DECLARED, KM_CHECK,
                                     KM_LAZY | KM_DECLARED | KM_CHECK | KM_ANY_FILESYSTEM};
    must(km_close(open_live(path, KM_CREATE)));
    for (unsigned i = 0; i < 4; i++) {
        km_map *map = open_live(path, flags[i]);
        bytes(map)[10] = (unsigned char)(i + 1); /* outside of a transaction: no stray */
        must(km_begin(map, KM_WRITE));
        assert_int_equal(bytes(map)[10], i + 1);
        bytes(map)[4000] = (unsigned char)(i + 1); /* undeclared */
        must(km_touch(map, 0, 100));
        must_fail(km_touch(map, SIZE, 1), KM_EINVAL);
        must(km_commit(map));
        must_fail(km_touch(map, 0, 1), KM_EMISUSE);
        must(km_grow(map, SIZE)); /* which it has already */
        must(km_close(map));
        map = open_live(path, KM_READONLY);
        assert_int_equal(bytes(map)[10], i + 1);
        assert_int_equal(bytes(map)[4000], i + 1);
        must(km_close(map));
    }
}

static int no_entry(void *context, const struct km_log_entry *entry) {
    (void)context;
    (void)entry;
    return 0;
}

static int count_user(void *context, const struct km_user *user) {
    unsigned *counts = context;
    counts[0]++;
    counts[1] += user->in_transaction;
    counts[2] += user->self;
    assert_int_equal(user->process_id, getpid());
    return 0;
}

static int count_transactions(void *context, const struct km_user *user) {
    *(unsigned *)context += user->in_transaction;
    return 0;
}

/* L2: nobody looks at pins here but who asks. */
static void a_slot_is_taken_without_the_pin_of_its_dead_holder(void **state) {
    (void)state;
    const char *path = scratch_path("taken.km");
    km_map *map = open_live(path, KM_CREATE);
    die_after(path, 0, 0);
    km_map *next = open_live(path, 0); /* in the slot of the dead one */
    assert_int_equal(next->slot, map->slot + 1);
    unsigned transactions = 0;
    must(km_who(map, count_transactions, &transactions));
    assert_int_equal(transactions, 0);
    must(km_close(next));
    must(km_close(map));
}

static void who_is_attached_is_told_and_the_log_says_why_there_is_none(void **state) {
    (void)state;
    const char *path = scratch_path("who.km");
    km_map *map = open_live(path, KM_CREATE), *other = open_live(path, 0);
    must_fail(km_log(map, no_entry, NULL), KM_EUNSUPPORTED);
    check_detail_contains("journal");
    must(km_begin(other, KM_WRITE));
    unsigned counts[3] = {0};
    must(km_who(map, count_user, counts));
    assert_int_equal(counts[0], 2);
    assert_int_equal(counts[1], 1);
    assert_int_equal(counts[2], 1);
    must(km_abort(other));
    must(km_close(other));
    must(km_close(map));
}

static void as_many_handles_can_be_attached_as_there_are_slots(void **state) {
    (void)state;
    static km_map *maps[KM__SLOTS];
    const char *path = scratch_path("many.km");
    for (unsigned i = 0; i < KM__SLOTS; i++) {
        maps[i] = open_live(path, KM_CREATE);
    }
    km_map *more = NULL;
    must_fail(try_open(&more, path, 0), KM_EHANDLES);
    check_detail_contains("832");
    more = open_live(path, KM_READONLY);
    assert_int_equal(check_info(more).handles, KM__SLOTS);
    bytes(maps[KM__SLOTS - 1])[0] = 1;
    assert_int_equal(bytes(maps[0])[0], 1);
    write_once(maps[KM__SLOTS - 1], 1, 2);
    must(km_close(maps[17]));
    maps[17] = open_live(path, 0);
    must(km_close(more));
    for (unsigned i = 0; i < KM__SLOTS; i++) {
        must(km_close(maps[i]));
    }
    more = open_live(path, KM_READONLY);
    check_clean(more);
    assert_int_equal(check_info(more).clean, 1);
    must(km_close(more));
}

static void a_live_map_stays_live_and_a_transactional_one_transactional(void **state) {
    (void)state;
    const char *live = scratch_path("live.km"), *transactional = scratch_path("transactional.km");
    must(km_close(open_live(live, KM_CREATE)));
    must(km_close(check_open(transactional, SIZE, KM_CREATE)));
    km_map *map = check_open(live, 0, KM_CREATE); /* the mode is that of its creation */
    assert_int_equal(check_info(map).mode, KM_LIVE);
    must(km_close(map));
    map = open_live(transactional, 0);
    assert_int_equal(check_info(map).mode, KM_TRANSACTIONAL);
    must(km_close(map));
}

int main(void) {
    scratch_time_limit(120);
    objects_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stores_are_seen_at_once_by_all_with_and_without_a_transaction),
        cmocka_unit_test(a_commit_raises_the_generation_and_an_abort_does_not),
        cmocka_unit_test(the_generation_goes_on_after_all_were_killed),
        cmocka_unit_test(one_writes_at_a_time),
        cmocka_unit_test(the_death_of_a_writer_is_told_to_the_next_until_one_commits),
        cmocka_unit_test(only_the_death_inside_a_write_transaction_is_told),
        cmocka_unit_test(several_deaths_in_a_row_are_told_to_each),
        cmocka_unit_test(the_mark_of_a_death_lasts_until_a_commit_whoever_comes_and_goes),
        cmocka_unit_test(a_store_through_a_read_only_handle_is_a_fault),
        cmocka_unit_test(a_read_only_handle_follows_sessions_that_come_and_go),
        cmocka_unit_test(a_read_only_handle_of_a_map_that_is_not_writable_works),
        cmocka_unit_test(what_a_live_map_has_no_use_for_is_refused_at_creation),
        cmocka_unit_test(flags_of_transactions_mean_nothing_in_a_live_map),
        cmocka_unit_test(a_slot_is_taken_without_the_pin_of_its_dead_holder),
        cmocka_unit_test(who_is_attached_is_told_and_the_log_says_why_there_is_none),
        cmocka_unit_test(as_many_handles_can_be_attached_as_there_are_slots),
        cmocka_unit_test(a_live_map_stays_live_and_a_transactional_one_transactional),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
