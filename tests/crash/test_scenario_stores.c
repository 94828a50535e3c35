/* SPDX-License-Identifier: MIT
 *
 * Named scenarios of stores that do not belong, on the simulated system: outside of a transaction, in handles that
 * write, that only read, and that declare what they store.
 */
#include "small.h"
#include "support/scratch.h"

#define PAGE ((uint64_t)KM_PAGE_SIZE)

/* What a new handle without write permission, and after the death of all a new session, show. */
static void expect_committed(const unsigned char *expected) {
    for (int dead = 0; dead < 2; dead++) {
        if (dead)
            os_sim_kill(NULL);
        km_map *map = small_open(dead ? 0 : KM_READONLY);
        must(km_begin(map, KM_READ));
        assert_memory_equal(km_data(map), expected, SMALL_SIZE);
        must(km_abort(map));
        check_clean(map);
        must(km_close(map));
    }
}

static void store(km_map *map, uint64_t offset, unsigned char value) {
    ((unsigned char *)km_data(map))[offset] = value;
}

/* By its own commit or its own checkpoint, by those of others, or by a sync: whoever moves bytes to the file. */
static void move_everything(km_map *map, km_map *other, unsigned char *expected, unsigned char value) {
    static const uint64_t offsets[] = {0, 3 * PAGE, 5 * PAGE, 9 * PAGE};
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        check_commit_fill(other, offsets[i], value, 10);
        memset(expected + offsets[i], value, 10);
        must(i % 2 == 0 ? km_checkpoint(map) : km_checkpoint(other));
        must(km_sync(map));
    }
}

/* One on a page of home, one on a page that frames have touched, one between two commits of others to its page. */
static void a_store_outside_a_transaction_reaches_the_file_with_a_commit_or_not_at_all(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_DECLARED, KM_LAZY};
    static unsigned char expected[SMALL_SIZE];
    for (int kind = 0; kind < 3; kind++) {
        for (int commits = 0; commits < 2; commits++) {
            os_sim_reset(1);
            memset(expected, 0, sizeof expected);
            km_map *map = small_open(KM_CREATE | flags[kind]), *other = small_open(0);
            check_commit_fill(map, 0, 1, 10);
            memset(expected, 1, 10);
            small_expect(other, 1);
            store(map, 200, 71);
            store(map, 3 * PAGE + 200, 72);
            store(map, 7 * PAGE, 73);
            move_everything(map, other, expected, 2);
            expect_committed(expected);
            if (commits == 0)
                continue;
            os_sim_reset(1);
            map = small_open(KM_CREATE | flags[kind]);
            other = small_open(0);
            check_commit_fill(map, 0, 1, 10);
            store(map, 200, 71);
            store(map, 3 * PAGE + 200, 72);
            check_commit_fill(other, 3 * PAGE, 5, 10); /* which tells the handle of its page */
            check_commit_fill(map, 9 * PAGE, 3, 10);
            must(km_sync(map));
            memset(expected, 0, sizeof expected);
            memset(expected, 1, 10);
            memset(expected + 3 * PAGE, 5, 10);
            memset(expected + 9 * PAGE, 3, 10);
            expected[200] = kind == 1 ? 0 : 71;
            expected[3 * PAGE + 200] = kind == 1 ? 0 : 72;
            expect_committed(expected);
        }
    }
}

/* A handle that has never written keeps no image to compare with. What it is shown after somebody else's commit to the
 * page is that commit; no damage is told of that the disk does not have. */
static void a_store_of_a_reader_is_neither_damage_nor_data(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        os_sim_reset(1);
        km_map *map = small_open(KM_CREATE), *reader = small_open(kind == 0 ? 0 : KM_READONLY);
        check_commit_fill(map, 0, 1, 10);
        small_expect(reader, 1);
        for (int i = 2; i <= 12; i++) {
            must(km_begin(reader, KM_READ));
            store(reader, 200, 71);
            store(reader, 3 * PAGE + 200, 72);
            must(km_abort(reader));
            check_commit_fill(map, i % 2 == 0 ? 0 : 3 * PAGE, i, 10);
            if (i % 4 == 0)
                must(km_checkpoint(map));
            must(km_begin(reader, KM_READ));
            assert_int_equal(km_generation(reader), i);
            assert_int_equal(small_byte(reader, i % 2 == 0 ? 0 : 3 * PAGE), i);
            must(km_abort(reader));
        }
        must(km_close(reader));
        check_clean(map);
        must(km_close(map));
    }
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_store_outside_a_transaction_reaches_the_file_with_a_commit_or_not_at_all),
        cmocka_unit_test(a_store_of_a_reader_is_neither_damage_nor_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
