/* SPDX-License-Identifier: MIT
 *
 * Growth beside what others left behind: a grower that died before it told the session, bytes behind the end of the
 * file and behind the end of the data. And what a checkpoint may expect of a verification.
 */
#include <signal.h>

#include "map/map.h"
#include "support/check.h"
#include "support/scratch.h"

#define SIZE (1u << 20)
#define RING 65536u

static km_map *open_small_ring(const char *path, uint64_t size, uint64_t max_size, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = size,
                                       .max_size = max_size,
                                       .journal_size = RING,
                                       .timeout_ms = 2000,
                                       .flags = flags};
    must(km_open(&map, path, &options));
    return map;
}

static int byte_at(km_map *map, uint64_t offset) {
    must(km_begin(map, KM_READ));
    const int value = ((const unsigned char *)km_data(map))[offset];
    must(km_abort(map));
    return value;
}

/* ---- a grower that died ------------------------------------------------------------------------------------------ */

/* All that growth of the journal does up to the moment before it raises `geometry` in control, or only up to the moment
 * between its two slots. */
static int grow_journal_in_slots_and_die(const char *path, int count) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, path, &options));
    child_must(km_begin(map, KM_WRITE));
    ((unsigned char *)km_data(map))[8192] = 1; /* a frame, so that the journal is not empty */
    child_must(km_commit(map));
    child_must(km_begin(map, KM_WRITE));
    child_must(km__checkpoint_lock(map, km__deadline(map)));
    struct km__slots slots;
    child_must(km__slots_load(map, &slots));
    struct km__header header = slots.slot[slots.chosen];
    child_must(km__file_zeros(map->file, km__header_file_end(&header), 3 * header.journal_size));
    header.journal_size *= 4; /* so much that no checkpoint comes before the new part is in use */
    header.geometry++;
    for (int i = 0; i < count; i++)
        child_must(km__slots_store(map, &slots, &header));
    raise(SIGKILL);
    return 0;
}

static int grow_journal_and_die(void *context) {
    return grow_journal_in_slots_and_die(context, 2);
}

static int grow_journal_in_one_slot_and_die(void *context) {
    return grow_journal_in_slots_and_die(context, 1);
}

/* Somebody who came later, and maps the longer ring, commits until a frame lies in the new part; the others follow. */
static void a_grower_that_died_before_it_said_so_harms_nobody(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_LAZY};
    for (int i = 0; i < 2; i++) {
        char *path = scratch_path("died-%d.km", i);
        km_map *old = open_small_ring(path, SIZE, 0, KM_CREATE);
        km_map *reader = open_small_ring(path, 0, 0, KM_READONLY);
        check_commit_fill(old, 0, 1, 100);
        assert_int_equal(byte_at(reader, 0), 1);
        assert_int_equal(check_in_child(grow_journal_and_die, path, 20), -SIGKILL);
        km_map *late = open_small_ring(path, 0, 0, flags[i]);
        int value = 1;
        while (late->cursor.position <= RING) {
            assert_true(value < 40);
            value++;
            check_commit_fill(late, 4096, value, 4000);
            assert_int_equal(byte_at(old, 4096), value);
            assert_int_equal(byte_at(reader, 4096), value);
        }
        check_commit_fill(old, 0, 50, 100);
        check_commit_fill(late, 0, 51, 100);
        assert_int_equal(byte_at(old, 0), 51);
        check_clean(old);
        must(km_close(late));
        must(km_close(reader));
        must(km_close(old));
    }
}

/* ---- bytes that are in the way ----------------------------------------------------------------------------------- */

/* Append `length` bytes to a file, none of them zero. */
static void append_junk(const char *path, size_t length) {
    unsigned char junk[4096];
    memset(junk, 0xaa, sizeof junk);
    const uint64_t end = scratch_file_size(path);
    for (size_t at = 0; at < length; at += sizeof junk)
        scratch_write(path, end + at, junk, sizeof junk);
}

/* With others attached the next writer, and with nobody the next recovery, meets the longer ring in one slot. */
static void a_frame_in_a_longer_ring_is_known_to_both_slots(void **state) {
    (void)state;
    for (int attached = 0; attached < 2; attached++) {
        char *path = scratch_path("one-slot-%d.km", attached);
        km_map *old = open_small_ring(path, SIZE, 0, KM_CREATE);
        check_commit_fill(old, 0, 1, 100);
        if (!attached)
            must(km_close(old));
        assert_int_equal(check_in_child(grow_journal_in_one_slot_and_die, path, 20), -SIGKILL);
        km_map *late = open_small_ring(path, 0, 0, 0);
        struct km__slots slots;
        for (int value = 2; late->cursor.position <= RING; value++) {
            assert_true(value < 40);
            check_commit_fill(late, 4096, value, 4000);
        }
        must(km__slots_load(late, &slots));
        assert_int_equal(slots.slot[0].journal_size, slots.slot[1].journal_size);
        must(km_close(late));
        if (attached)
            must(km_close(old));
    }
}

/* The longer ring comes to light while a commit looks for room, by its checkpoint: the frame lies in the new part at
 * once. A reader keeps home where it is, so that only the frame tells the others of the commit. */
static void a_ring_that_a_commit_finds_longer_is_told_to_all(void **state) {
    (void)state;
    for (int round = 0; round < 4; round++) {
        char *path = scratch_path("room-%d.km", round);
        km_map *map = open_small_ring(path, SIZE, 0, KM_CREATE | (round % 2 == 0 ? 0 : KM_LAZY));
        km_map *other = open_small_ring(path, 0, 0, 0), *reader = open_small_ring(path, 0, 0, KM_READONLY);
        check_commit_fill(map, 0, 1, 100);
        must(km_checkpoint(map));
        must(km_begin(other, KM_READ));
        assert_int_equal(check_in_child(round < 2 ? grow_journal_and_die : grow_journal_in_one_slot_and_die, path, 20),
                         -SIGKILL);
        check_commit_fill(map, 4096, 2, RING / 16 * 7); /* less than makes a checkpoint due */
        assert_int_equal(map->header.journal_size, RING);
        check_commit_fill(map, 4096, 3, RING / 8 * 5); /* not more than a ring, but more than is left of it */
        assert_true(map->cursor.position > RING);
        struct km__slots slots;
        must(km__slots_load(map, &slots));
        assert_int_equal(slots.slot[0].journal_size, slots.slot[1].journal_size);
        must(km_abort(other));
        assert_int_equal(byte_at(other, 4096), 3);
        assert_int_equal(byte_at(reader, 4096), 3);
        check_commit_fill(other, 4096, 4, 100);
        assert_int_equal(byte_at(map, 4096), 4);
        check_clean(other);
        must(km_close(reader));
        must(km_close(other));
        must(km_close(map));
    }
}

static void growth_takes_nothing_over_that_lies_behind_the_file(void **state) {
    (void)state;
    const char *path = scratch_path("junk.km");
    km_map *map = check_open(path, SIZE, KM_CREATE);
    check_commit_fill(map, 5, 1, 100);
    must(km_close(map));
    append_junk(path, 1 << 20); /* what a growth to another size left */
    map = check_open(path, 0, 0);
    must(km_grow(map, 2 * SIZE));
    check_clean(map);
    check_commit_fill(map, SIZE + 500000, 2, 10);
    must(km_checkpoint(map));
    check_clean(map);
    assert_int_equal(byte_at(map, 5), 1);
    assert_int_equal(byte_at(map, SIZE + 499999), 0);
    assert_int_equal(byte_at(map, SIZE + 500000), 2);
    must(km_close(map));
}

/* A store behind the end of the data is a mistake, which the last page has room for. */
static void growth_shows_the_grower_no_store_behind_the_old_end(void **state) {
    (void)state;
    static const uint64_t sizes[] = {300, 8192, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const char *path = scratch_path("tail-%zu.km", i);
        km_map *map = open_small_ring(path, 100, SIZE, KM_CREATE);
        km_map *other = open_small_ring(path, 0, 0, 0);
        must(km_begin(map, KM_WRITE));
        unsigned char *data = km_data(map);
        data[1] = 1;
        data[200] = 42;
        must(km_commit(map));
        data[201] = 43;
        must(km_grow(map, sizes[i]));
        assert_int_equal(byte_at(map, 200), 0);
        assert_int_equal(byte_at(map, 201), 0);
        check_commit_fill(map, 250, 1, 10);
        assert_int_equal(byte_at(other, 200), 0);
        assert_int_equal(byte_at(other, 201), 0);
        assert_int_equal(byte_at(other, 250), 1);
        check_clean(other);
        must(km_close(other));
        must(km_close(map));
    }
}

/* ---- verify beside checkpoints ----------------------------------------------------------------------------------- */

#define LARGE (96u << 20)

struct between {
    km_map *other;
    unsigned chunks;
};

/* Called between two chunks: a checkpoint then has all that it needs. */
static int checkpoint_between(void *context, uint64_t done, uint64_t total, const struct km_finding *finding) {
    (void)done;
    (void)total;
    assert_null(finding);
    struct between *between = context;
    check_commit_fill(between->other, 0, (int)++between->chunks, 10);
    must(km_checkpoint(between->other));
    return 0;
}

static void a_checkpoint_does_not_wait_for_a_whole_verification(void **state) {
    (void)state;
    const char *path = scratch_path("beside.km");
    struct between between = {.other = check_open(path, LARGE, KM_CREATE)};
    const struct km__header header = scratch_header(path);
    static unsigned char zeros[1 << 20];
    for (uint64_t at = 0; at < LARGE; at += sizeof zeros)
        scratch_write(path, header.data_offset + at, zeros, sizeof zeros); /* a hole would be one chunk */
    km_map *map = check_open(path, 0, 0);
    struct km_report report = {.struct_size = sizeof report};
    must(km_verify(map, &report, checkpoint_between, &between));
    assert_int_equal(between.chunks, LARGE / (8u << 20));
    must(km_close(map));
    must(km_close(between.other));
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_grower_that_died_before_it_said_so_harms_nobody),
        cmocka_unit_test(a_frame_in_a_longer_ring_is_known_to_both_slots),
        cmocka_unit_test(a_ring_that_a_commit_finds_longer_is_told_to_all),
        cmocka_unit_test(growth_takes_nothing_over_that_lies_behind_the_file),
        cmocka_unit_test(growth_shows_the_grower_no_store_behind_the_old_end),
        cmocka_unit_test(a_checkpoint_does_not_wait_for_a_whole_verification),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
