/* SPDX-License-Identifier: MIT
 *
 * Named scenarios of stores that do not belong, on the simulated system: outside of a transaction, in handles that
 * write, that only read, and that declare what they store.
 */
#include "small.h"
#include "support/scratch.h"

#define PAGE ((uint64_t)KM_PAGE_SIZE)

static void store(km_map *map, uint64_t offset, unsigned char value) {
    ((unsigned char *)km_data(map))[offset] = value;
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
        cmocka_unit_test(a_store_of_a_reader_is_neither_damage_nor_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
