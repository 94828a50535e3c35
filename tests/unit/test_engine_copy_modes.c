/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises about copies of live and raw maps, of objects backed by the paging file, and about maps of
 * every mode that begin with the bytes of a file.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "map/map.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/objects.h"
#include "support/scratch.h"

#define PAGES 600u /* more than what is copied in one go */
#define SIZE (PAGES * KM_PAGE_SIZE - 100)

static km_map *open_mode(const char *path, uint32_t mode, uint64_t size, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = size, .mode = mode, .flags = flags, .timeout_ms = 300};
    must(km_open(&map, path, &options));
    return map;
}

static bool exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0;
}

static uint64_t allocated(const char *path) {
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return (uint64_t)status.st_blocks * 512;
}

/* Some pages with bytes, some without. */
static void fill(unsigned char *bytes) {
    struct chance chance = {21};
    memset(bytes, 0, SIZE);
    chance_fill(&chance, bytes + 10, 270 * KM_PAGE_SIZE);
    chance_fill(&chance, bytes + 400 * KM_PAGE_SIZE, 5);
    chance_fill(&chance, bytes + SIZE - 9000, 9000);
}

static const unsigned char *content(void) {
    static unsigned char bytes[SIZE];
    if (bytes[10] == 0 && bytes[11] == 0)
        fill(bytes);
    return bytes;
}

/* ---- live -------------------------------------------------------------------------------------------------------- */

static km_map *create_live(const char *path) {
    km_map *map = open_mode(path, KM_LIVE, SIZE, KM_CREATE | KM_EXCLUSIVE);
    for (int i = 0; i < 3; i++) {
        must(km_begin(map, KM_WRITE));
        fill(km_data(map));
        must(km_commit(map));
    }
    return map;
}

static void expect_live(const char *path, uint64_t generation) {
    km_map *copy = check_open(path, 0, KM_READONLY);
    const struct km_info info = check_info(copy);
    assert_int_equal(info.mode, KM_LIVE);
    assert_int_equal(info.clean, 1);
    assert_int_equal(info.abandoned, 0);
    assert_int_equal(info.size, SIZE);
    assert_int_equal(info.generation, generation);
    assert_int_equal(info.durable_generation, generation);
    assert_memory_equal(km_data(copy), content(), SIZE);
    check_clean(copy);
    must(km_close(copy));
    assert_true(allocated(path) >= SIZE); /* what it is stored to through a mapping cannot meet a full disk */
    copy = check_open(path, 0, 0);
    must(km_begin(copy, KM_WRITE));
    ((unsigned char *)km_data(copy))[SIZE - 1] ^= 1;
    must(km_commit(copy));
    assert_int_equal(km_generation(copy), generation + 1);
    must(km_close(copy));
    copy = check_open(path, 0, KM_READONLY);
    assert_int_equal(check_info(copy).clean, 1);
    check_clean(copy);
    must(km_close(copy));
}

static void a_live_map_in_use_is_copied_and_sealed(void **state) {
    (void)state;
    km_map *map = create_live(scratch_path("live.km")), *reader = check_open(scratch_path("live.km"), 0, KM_READONLY);
    km_map *handles[] = {map, reader};
    for (int i = 0; i < 4; i++) {
        const char *path = scratch_path("live-%d.copy", i);
        if (i >= 2)
            must(km_begin(handles[i % 2], KM_READ));
        must(km_copy(handles[i % 2], path));
        if (i >= 2)
            must(km_abort(handles[i % 2]));
        expect_live(path, 3);
    }
    assert_memory_not_equal(check_info(map).uuid, scratch_header(scratch_path("live-0.copy")).uuid, 16);
    must(km_close(reader));
    must(km_close(map));
}

static void a_live_map_that_is_sealed_is_checked(void **state) {
    (void)state;
    const char *from = scratch_path("sealed.km"), *path = scratch_path("sealed.copy");
    must(km_close(create_live(from)));
    const struct km__header header = scratch_header(from);
    static const uint64_t pages[] = {5, 300, PAGES - 1};
    for (size_t i = 0; i < 3; i++) {
        scratch_flip(from, header.data_offset + pages[i] * KM_PAGE_SIZE + 77, 4);
        km_map *map = check_open(from, 0, KM_READONLY);
        char name[32];
        snprintf(name, sizeof name, "page %u ", (unsigned)pages[i]);
        must_fail(km_copy(map, path), KM_ECORRUPT);
        check_detail_contains(name);
        assert_false(exists(path));
        must(km_close(map));
        scratch_flip(from, header.data_offset + pages[i] * KM_PAGE_SIZE + 77, 4);
    }
    km_map *map = check_open(from, 0, KM_READONLY);
    must(km_copy(map, path));
    assert_int_equal(scratch_header(path).digest, header.digest);
    expect_live(path, 3);
    must(km_close(map));
    static const unsigned char zeros[KM_PAGE_SIZE]; /* a page and its entry lost together match each other */
    scratch_write(from, header.data_offset + 5 * KM_PAGE_SIZE, zeros, sizeof zeros);
    scratch_write(from, header.table_offset + 5 * 4, zeros, 4);
    map = check_open(from, 0, KM_READONLY);
    must_fail(km_copy(map, scratch_path("sealed-2.copy")), KM_EJOURNAL);
    must(km_close(map));
}

/* The view shows whole pages. A store behind the end is a mistake, but a seal sums it up, and nothing is damaged. */
static void a_store_behind_the_end_of_a_live_map_is_no_damage_to_a_copy(void **state) {
    (void)state;
    const uint64_t size = 3 * KM_PAGE_SIZE + 100;
    const char *from = scratch_path("behind.km"), *path = scratch_path("behind.copy");
    km_map *map = open_mode(from, KM_LIVE, size, KM_CREATE);
    ((unsigned char *)km_data(map))[size - 1] = 1;
    ((unsigned char *)km_data(map))[size + 3] = 2;
    must(km_close(map));
    map = check_open(from, 0, KM_READONLY);
    check_clean(map);
    must(km_copy(map, path));
    must(km_close(map));
    map = check_open(path, 0, KM_READONLY);
    check_clean(map);
    assert_int_equal(((unsigned char *)km_data(map))[size - 1], 1);
    must(km_close(map));
}

static void a_live_map_is_copied_between_transactions(void **state) {
    (void)state;
    const char *from = scratch_path("locked.km"), *path = scratch_path("locked.copy");
    km_map *writer = create_live(from), *map = open_mode(from, 0, 0, 0), *reader = open_mode(from, 0, 0, KM_READONLY);
    must(km_begin(writer, KM_WRITE));
    must_fail(km_copy(writer, path), KM_EMISUSE);
    must_fail(km_copy(map, path), KM_EBUSY);
    must_fail(km_copy(reader, path), KM_EBUSY);
    assert_false(exists(path));
    must(km_commit(writer));
    must(km_copy(map, path));
    must(km_copy(reader, scratch_path("locked-2.copy")));
    must(km_begin(writer, KM_WRITE)); /* the lock was let go of */
    must(km_abort(writer));
    expect_live(path, 4);
    must(km_close(reader));
    must(km_close(map));
    must(km_close(writer));
}

static int die_writing(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    child_must(km_begin(map, KM_WRITE));
    raise(SIGKILL);
    return 0;
}

/* What the writer's death may have left half changed is half changed in the copy, too. */
static void who_writes_to_the_copy_is_told_of_a_dead_writer_too(void **state) {
    (void)state;
    char *from = scratch_path("dead.km");
    km_map *map = create_live(from), *reader = check_open(from, 0, KM_READONLY);
    assert_int_equal(check_in_child(die_writing, from, 20), -SIGKILL);
    for (int i = 0; i < 3; i++) {
        const char *path = scratch_path("dead-%d.copy", i);
        if (i == 2) { /* nobody is there who knows, but control of this start of the machine */
            must(km_close(map));
            map = NULL;
        }
        must(km_copy(i == 0 ? map : reader, path));
        km_map *copy = check_open(path, 0, 0);
        assert_int_equal(check_info(copy).abandoned, 1);
        assert_memory_equal(km_data(copy), content(), SIZE);
        must_fail(km_begin(copy, KM_WRITE), KM_EABANDONED);
        must(km_commit(copy));
        must(km_begin(copy, KM_WRITE));
        must(km_commit(copy));
        check_clean(copy);
        must(km_close(copy));
    }
    map = check_open(from, 0, 0);
    must_fail(km_begin(map, KM_WRITE), KM_EABANDONED); /* the copies took nothing back */
    must(km_commit(map));
    must(km_close(reader));
    must(km_close(map));
}

struct storing {
    unsigned char *data;
    atomic_bool stop;
};

static void *store_on_and_on(void *context) {
    struct storing *storing = context;
    struct chance chance = {4};
    while (!atomic_load(&storing->stop)) {
        const uint64_t at = chance_below(&chance, SIZE / sizeof(uint64_t)) * sizeof(uint64_t);
        atomic_store_explicit((_Atomic uint64_t *)(void *)(storing->data + at), chance_next(&chance),
                              memory_order_relaxed);
    }
    return NULL;
}

/* Stores need no lock, and come while pages are copied: every page must match the checksum that the copy has for it. */
static void a_copy_is_whole_while_others_store(void **state) {
    (void)state;
    const char *from = scratch_path("stored.km");
    km_map *map = create_live(from), *reader = check_open(from, 0, KM_READONLY);
    struct storing storing = {.data = km_data(map)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, store_on_and_on, &storing), 0);
    for (int i = 0; i < 10; i++) {
        const char *path = scratch_path("stored-%d.copy", i);
        must(km_copy(i % 2 == 0 ? map : reader, path));
        km_map *copy = check_open(path, 0, KM_READONLY);
        assert_int_equal(check_info(copy).clean, 1);
        check_clean(copy);
        must(km_close(copy));
        unlink(path);
    }
    atomic_store(&storing.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    must(km_close(reader));
    must(km_close(map));
}

/* ---- raw --------------------------------------------------------------------------------------------------------- */

static void a_raw_map_is_copied_byte_by_byte(void **state) {
    (void)state;
    const char *from = scratch_path("raw.bin");
    scratch_store(from, content(), SIZE);
    assert_int_equal(chmod(from, 0604), 0);
    for (int i = 0; i < 2; i++) {
        const char *path = scratch_path("raw-%d.copy", i);
        km_map *map = open_mode(from, KM_RAW, 0, i == 0 ? KM_READONLY : 0);
        must(km_copy(map, path));
        must_fail(km_copy(map, path), KM_EEXISTS);
        const struct scratch_image image = {(unsigned char *)(uintptr_t)content(), SIZE};
        assert_true(scratch_equals(path, &image));
        assert_true(scratch_equals(from, &image));
        struct stat status;
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_mode & 07777, 0604);
        must(km_close(map));
    }
}

static void a_raw_copy_has_what_was_stored(void **state) {
    (void)state;
    const char *from = scratch_path("raw-stored.bin"), *path = scratch_path("raw-stored.copy");
    km_map *map = open_mode(from, KM_RAW, SIZE, KM_CREATE);
    fill(km_data(map));
    must(km_copy(map, path));
    const struct scratch_image image = {(unsigned char *)(uintptr_t)content(), SIZE};
    assert_true(scratch_equals(path, &image));
    must(km_close(map));
}

static void a_raw_copy_keeps_holes_and_the_length(void **state) {
    (void)state;
    static const uint64_t lengths[] = {1, 4095, 4096, 65537, (64 << 20) + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        const char *from = scratch_path("hole-%zu.bin", i), *path = scratch_path("hole-%zu.copy", i);
        scratch_store(from, "", 0);
        assert_int_equal(truncate(from, (off_t)lengths[i]), 0);
        scratch_write(from, lengths[i] - 1, "z", 1);
        scratch_write(from, lengths[i] / 2, "m", 1);
        km_map *map = open_mode(from, KM_RAW, 0, KM_READONLY);
        must(km_copy(map, path));
        assert_int_equal(scratch_file_size(path), lengths[i]);
        struct scratch_image image = scratch_load(from);
        assert_true(scratch_equals(path, &image));
        assert_true(allocated(path) <= allocated(from));
        scratch_release(&image);
        must(km_close(map));
    }
}

static void a_raw_map_that_became_shorter_is_no_copy(void **state) {
    (void)state;
    const char *from = scratch_path("short.bin"), *path = scratch_path("short.copy");
    scratch_store(from, content(), SIZE);
    km_map *map = open_mode(from, KM_RAW, 0, KM_READONLY);
    assert_int_equal(truncate(from, SIZE - 1), 0);
    must_fail(km_copy(map, path), KM_ESTALE);
    assert_false(exists(path));
    (void)km_close(map);
}

/* ---- the paging file --------------------------------------------------------------------------------------------- */

static void an_object_can_be_copied_to_a_file_and_not_the_other_way(void **state) {
    (void)state;
    static const uint32_t modes[] = {KM_TRANSACTIONAL, KM_LIVE};
    for (int i = 0; i < 2; i++) {
        const char *path = scratch_path("object-%d.copy", i);
        km_map *map = open_mode("Local\\copied", modes[i], SIZE, KM_CREATE | KM_EXCLUSIVE);
        must(km_begin(map, KM_WRITE));
        fill(km_data(map));
        must(km_commit(map));
        must(km_copy(map, path));
        must_fail(km_copy(map, "Local\\other"), KM_EINVAL);
        must_fail(km_copy(map, "Local\\copied"), KM_EINVAL);
        must_fail(km_copy(map, "local\\other"), KM_EINVAL);
        must(km_close(map));
        assert_int_equal(objects_left(), 0);
        map = check_open(path, 0, 0);
        assert_int_equal(km_generation(map), 1);
        must(km_begin(map, KM_READ));
        assert_memory_equal(km_data(map), content(), SIZE);
        must(km_abort(map));
        check_clean(map);
        must(km_close(map));
    }
}

/* ---- from a file ------------------------------------------------------------------------------------------------- */

static km_map *open_from(const char *path, const struct km_options *given, const char *from) {
    km_map *map = NULL;
    struct km_options options = *given;
    options.struct_size = sizeof options;
    options.flags |= KM_CREATE | KM_EXCLUSIVE;
    options.from = from;
    must(km_open(&map, path, &options));
    return map;
}

/* The data begins with the content, and goes on with zeros. */
static void expect_from(km_map *map, uint64_t size) {
    assert_int_equal(km_size(map), size);
    must(km_begin(map, KM_READ));
    const unsigned char *data = km_data(map);
    assert_memory_equal(data, content(), SIZE);
    for (uint64_t at = SIZE; at < size; at++)
        assert_int_equal(data[at], 0);
    must(km_abort(map));
}

static void a_map_begins_with_the_bytes_of_a_file(void **state) {
    (void)state;
    static const struct km_options kinds[] = {
        {.size = 0},
        {.size = SIZE + 12345, .max_size = 2 * SIZE},
        {.checksum = KM_CHECKSUM_NONE},
        {.flags = KM_FULL_PAGES},
        {.mode = KM_LIVE},
        {.mode = KM_LIVE, .size = 2 * SIZE},
    };
    const char *from = scratch_path("from.bin");
    scratch_store(from, content(), SIZE);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const char *path = scratch_path("from-%zu.km", i);
        const uint64_t size = kinds[i].size != 0 ? kinds[i].size : SIZE;
        km_map *map = open_from(path, &kinds[i], from);
        assert_int_equal(km_generation(map), 0);
        expect_from(map, size);
        check_clean(map);
        must(km_close(map));
        map = check_open(path, 0, 0);
        expect_from(map, size);
        check_clean(map);
        check_commit_fill(map, SIZE - 3, 9, 3);
        must(km_checkpoint(map));
        must(km_close(map));
        map = check_open(path, 0, KM_READONLY);
        check_clean(map);
        assert_int_equal(check_info(map).clean, 1);
        must(km_close(map));
    }
    const struct scratch_image image = {(unsigned char *)(uintptr_t)content(), SIZE};
    assert_true(scratch_equals(from, &image));
}

static void a_raw_map_begins_with_the_bytes_of_a_file(void **state) {
    (void)state;
    const char *from = scratch_path("raw-from.src"), *path = scratch_path("raw-from.bin");
    scratch_store(from, content(), SIZE);
    km_map *map = open_from(path, &(struct km_options){.mode = KM_RAW}, from);
    assert_int_equal(km_size(map), SIZE);
    assert_memory_equal(km_data(map), content(), SIZE);
    must(km_close(map));
    const struct scratch_image image = {(unsigned char *)(uintptr_t)content(), SIZE};
    assert_true(scratch_equals(path, &image));
}

static void the_holes_of_a_file_become_holes(void **state) {
    (void)state;
    const uint64_t size = (64 << 20) + 5;
    const char *from = scratch_path("sparse.bin"), *path = scratch_path("sparse.km");
    scratch_store(from, "begin", 5);
    assert_int_equal(truncate(from, (off_t)size), 0);
    scratch_write(from, 33 << 20, "middle", 6);
    scratch_write(from, size - 3, "end", 3);
    km_map *map = open_from(path, &(struct km_options){.journal_size = 65536}, from);
    must(km_begin(map, KM_READ));
    assert_memory_equal(km_data(map), "begin", 6);
    assert_memory_equal((unsigned char *)km_data(map) + (33 << 20), "middle", 7);
    assert_memory_equal((unsigned char *)km_data(map) + size - 3, "end", 3);
    must(km_abort(map));
    check_clean(map);
    if (allocated(path) < size) /* not where reading a hole through a mapping takes space */
        assert_true(allocated(path) < 1 << 20);
    must(km_close(map));
}

static void what_no_map_can_begin_with_is_refused(void **state) {
    (void)state;
    const char *path = scratch_path("refused.km"), *empty = scratch_path("empty.bin"), *file = scratch_path("some.bin");
    scratch_store(empty, "", 0);
    scratch_store(file, content(), SIZE);
    km_map *map = NULL;
    struct km_options options = {.struct_size = sizeof options, .flags = KM_CREATE, .from = empty};
    must_fail(km_open(&map, path, &options), KM_ESIZE);
    options.from = scratch_path("missing.bin");
    must_fail(km_open(&map, path, &options), KM_ENOTFOUND);
    options.from = scratch_path(".");
    must_fail(km_open(&map, path, &options), KM_EDIRECTORY);
    options.from = file;
    options.size = SIZE - 1;
    must_fail(km_open(&map, path, &options), KM_ESIZE);
    options.size = 0;
    options.max_size = SIZE - 1;
    must_fail(km_open(&map, path, &options), KM_ESIZE);
    assert_false(exists(path));
    options = (struct km_options){.struct_size = sizeof options, .flags = KM_CREATE, .from = empty, .size = 10000};
    must(km_open(&map, path, &options));
    check_clean(map);
    must(km_close(map));
}

/* It was cut short after somebody looked how long it is. */
static void a_file_that_became_shorter_is_refused(void **state) {
    (void)state;
    static const uint64_t cuts[] = {1, 100 * KM_PAGE_SIZE, SIZE - 9000, SIZE};
    for (size_t i = 0; i < 2 * sizeof cuts / sizeof cuts[0]; i++) {
        const char *from = scratch_path("cut-%zu.bin", i);
        scratch_store(from, content(), SIZE);
        struct km__header header = {.data_size = SIZE, .data_capacity = SIZE, .journal_size = KM__JOURNAL_MIN};
        must(km__header_layout(&header));
        struct os_file *file = NULL, *source = NULL;
        must(os_file_create(&file, scratch_path("cut.km"), 0600));
        must(km__create_empty(file, &header));
        if (i % 2 == 1) /* and what was cut off reads as a hole */
            assert_int_equal(truncate(from, 0) + truncate(from, SIZE), 0);
        assert_int_equal(truncate(from, (off_t)(SIZE - cuts[i / 2])), 0);
        must(os_file_open(&source, from, false));
        must_fail(km__copy_from(file, &header, source, SIZE), KM_ETRUNCATED);
        os_file_close(source);
        os_file_close(file);
    }
}

int main(void) {
    scratch_time_limit(120);
    objects_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_live_map_in_use_is_copied_and_sealed),
        cmocka_unit_test(a_live_map_that_is_sealed_is_checked),
        cmocka_unit_test(a_store_behind_the_end_of_a_live_map_is_no_damage_to_a_copy),
        cmocka_unit_test(a_live_map_is_copied_between_transactions),
        cmocka_unit_test(who_writes_to_the_copy_is_told_of_a_dead_writer_too),
        cmocka_unit_test(a_copy_is_whole_while_others_store),
        cmocka_unit_test(a_raw_map_is_copied_byte_by_byte),
        cmocka_unit_test(a_raw_copy_has_what_was_stored),
        cmocka_unit_test(a_raw_copy_keeps_holes_and_the_length),
        cmocka_unit_test(a_raw_map_that_became_shorter_is_no_copy),
        cmocka_unit_test(an_object_can_be_copied_to_a_file_and_not_the_other_way),
        cmocka_unit_test(a_map_begins_with_the_bytes_of_a_file),
        cmocka_unit_test(a_raw_map_begins_with_the_bytes_of_a_file),
        cmocka_unit_test(the_holes_of_a_file_become_holes),
        cmocka_unit_test(what_no_map_can_begin_with_is_refused),
        cmocka_unit_test(a_file_that_became_shorter_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
