/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises about km_copy() of a transactional map: which bytes, of which commit, whoever else is there.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "copies.h"
#include "map/map.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"

/* ---- what a copy is ---------------------------------------------------------------------------------------------- */

static void a_copy_has_the_same_bytes_at_the_same_generation(void **state) {
    (void)state;
    for (size_t i = 0; i < COPIES_KINDS; i++) {
        if (!copies_available(&copies_kinds[i]))
            continue;
        km_map *map = copies_create_varied(scratch_path("same-%s.km", copies_kinds[i].name), &copies_kinds[i]);
        unsigned char *bytes = copies_shown_by(map);
        const char *path = scratch_path("same-%s.copy", copies_kinds[i].name);
        must(km_copy(map, path));
        copies_expect(path, bytes, COPIES_SIZE, 5);
        copies_expect_bytes(map, bytes, COPIES_SIZE); /* whatever the copy has become since */
        check_clean(map);
        check_commit_fill(map, 0, 9, 10);
        assert_int_equal(km_generation(map), 6);
        must(km_close(map));
        free(bytes);
    }
}

static void a_copy_is_a_map_of_its_own_with_the_same_options(void **state) {
    (void)state;
    for (size_t i = 0; i < COPIES_KINDS; i++) {
        if (!copies_available(&copies_kinds[i]))
            continue;
        const char *from = scratch_path("options-%s.km", copies_kinds[i].name),
                   *path = scratch_path("%s.copy", copies_kinds[i].name);
        km_map *map = copies_create(from, &copies_kinds[i], 100000, 300000);
        check_commit_fill(map, 0, 1, 50000);
        must(km_copy(map, path));
        km_map *copy = check_open(path, 0, KM_READONLY);
        const struct km_info a = check_info(map), b = check_info(copy);
        assert_memory_not_equal(a.uuid, b.uuid, sizeof a.uuid);
        assert_int_equal(b.uuid[6] >> 4, 4);
        assert_true(b.created_ns >= a.created_ns);
        assert_int_equal(b.checksum, a.checksum);
        assert_string_equal(b.schema, "copied");
        assert_int_equal(b.schema_version, 7);
        assert_int_equal(b.size, a.size);
        assert_int_equal(b.max_size, a.max_size);
        assert_int_equal(b.journal_size, a.journal_size);
        assert_int_equal(b.digest, a.digest);
        assert_int_equal(b.compress, a.compress);
        assert_int_equal(b.full_pages, a.full_pages);
        struct stat status;
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_mode & 07777, 0640);
        must(km_close(copy));
        copy = check_open(path, 0, 0);
        must(km_grow(copy, 300000));
        must(km_grow(copy, 400000));
        check_clean(copy);
        must(km_close(copy));
        must(km_close(map));
    }
}

static void a_map_that_nobody_committed_to_can_be_copied(void **state) {
    (void)state;
    const unsigned char nothing[5000] = {0};
    km_map *map = copies_create(scratch_path("zero.km"), &copies_kinds[0], sizeof nothing, 0);
    const char *path = scratch_path("zero.copy");
    must(km_copy(map, path));
    copies_expect(path, nothing, sizeof nothing, 0);
    must(km_close(map));
}

static void a_copy_can_be_copied(void **state) {
    (void)state;
    km_map *map = copies_create_varied(scratch_path("chain.km"), &copies_kinds[0]);
    unsigned char *bytes = copies_shown_by(map);
    for (int i = 0; i < 3; i++) {
        const char *path = scratch_path("chain-%d.copy", i);
        must(km_copy(map, path));
        must(km_close(map));
        map = check_open(path, 0, i == 1 ? KM_READONLY : 0);
    }
    assert_int_equal(km_generation(map), 5);
    copies_expect_bytes(map, bytes, COPIES_SIZE);
    must(km_close(map));
    free(bytes);
}

/* Whether files here can share blocks. */
static bool shares_blocks(const char *path) {
    struct os_file *from = NULL, *to = NULL;
    must(os_file_open(&from, path, false));
    must(os_file_create(&to, scratch_path("probe"), 0600));
    must(os_file_resize(to, KM__ALIGN));
    const int result = os_file_clone_range(from, 0, to, 0, KM__ALIGN);
    assert_true(result == 0 || result == KM_EUNSUPPORTED);
    os_file_close(from);
    os_file_close(to);
    return result == 0;
}

/* What was never stored takes no space, and neither does what became zeros again, unless the blocks are shared. */
static void holes_stay_holes(void **state) {
    (void)state;
    const uint64_t size = UINT64_C(64) << 20;
    const char *from = scratch_path("sparse.km"), *path = scratch_path("sparse.copy");
    km_map *map = copies_create(from, &copies_kinds[0], size, 0);
    check_commit_fill(map, 1000000, 1, 100);
    check_commit_fill(map, 30 << 20, 2, 4 << 20);
    check_commit_fill(map, size - 1, 3, 1);
    must(km_checkpoint(map));
    check_commit_fill(map, 50 << 20, 4, 100);
    check_commit_fill(map, 30 << 20, 0, 4 << 20);
    must(km_copy(map, path));
    struct stat a, b;
    assert_int_equal(stat(from, &a), 0);
    assert_int_equal(stat(path, &b), 0);
    assert_true(b.st_blocks <= a.st_blocks);
    if (a.st_blocks * 512 < (off_t)size) /* not where reading a hole through a mapping takes space */
        assert_true(b.st_blocks * 512 < (shares_blocks(from) ? 8 << 20 : 2 << 20));
    unsigned char *bytes = copies_shown_by(map);
    copies_expect(path, bytes, size, 5);
    must(km_close(map));
    free(bytes);
}

/* Far more pages than anybody could look at one by one. */
static void a_huge_sparse_map_costs_what_it_holds(void **state) {
    (void)state;
    const uint64_t size = UINT64_C(1) << 38;
    const char *path = scratch_path("huge.copy");
    struct os_file *probe = NULL;
    must(os_file_create(&probe, path, 0600));
    const bool dense = os_file_holes_take_space(probe);
    os_file_close(probe);
    if (dense)
        skip();
    const struct copies_kind declared = {"declared", KM_CHECKSUM_CRC32C,
                                         KM_DECLARED}; /* to search all of it takes long */
    km_map *map = copies_create(scratch_path("huge.km"), &declared, size, 0);
    for (unsigned i = 0; i < 10; i++)
        check_commit_fill(map, size / 10 * i + 12345, (int)i + 1, 5000);
    must(km_checkpoint(map));
    check_commit_fill(map, size - 8192, 77, 8192);
    must(km_copy(map, path));
    km_map *copy = check_open(path, 0, KM_DECLARED);
    must(km_begin(copy, KM_READ));
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(((unsigned char *)km_data(copy))[size / 10 * i + 12345 + 4999], i + 1);
    assert_int_equal(((unsigned char *)km_data(copy))[size - 1], 77);
    must(km_abort(copy));
    check_clean(copy);
    must(km_close(copy));
    must(km_close(map));
}

static void a_map_that_grew_is_copied_as_if_made_so(void **state) {
    (void)state;
    const char *from = scratch_path("grown.km"), *path = scratch_path("grown.copy");
    km_map *map = copies_create(from, &copies_kinds[0], 100000, 200000);
    check_commit_fill(map, 0, 1, 100000);
    must(km_grow(map, 150001));
    check_commit_fill(map, 100000, 2, 50001);
    must(km_grow(map, 3000000)); /* the table and the journal stand behind the data now */
    check_commit_fill(map, 2000000, 3, 1000000);
    struct chance chance = {3};
    must(km_begin(map, KM_WRITE));
    chance_fill(&chance, km_data(map), 2500000); /* more than the journal had room for */
    must(km_commit(map));
    assert_true(check_info(map).journal_size > COPIES_RING);
    assert_true(scratch_header(from).table_offset > scratch_header(from).data_offset);
    unsigned char *bytes = copies_shown_by(map);
    must(km_copy(map, path));
    const struct km__header header = scratch_header(path);
    assert_int_equal(header.table_offset, KM__TABLE_OFFSET);
    assert_int_equal(header.geometry, 1);
    assert_int_equal(header.journal_size, COPIES_RING);
    assert_int_equal(header.data_capacity, 3000000);
    assert_int_equal(scratch_file_size(path), km__header_file_end(&header));
    copies_expect(path, bytes, 3000000, km_generation(map));
    must(km_close(map));
    free(bytes);
}

/* ---- which commit ------------------------------------------------------------------------------------------------ */

static void a_copy_inside_a_read_shows_that_commit(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_READONLY, KM_CHECK};
    for (int i = 0; i < 3; i++) {
        const char *from = scratch_path("inside-%d.km", i), *path = scratch_path("inside-%d.copy", i);
        km_map *writer = copies_create_varied(from, &copies_kinds[0]), *map = check_open(from, 0, flags[i]);
        unsigned char *bytes = copies_shown_by(writer);
        must(km_begin(map, KM_READ));
        for (int value = 1; value < 4; value++) {
            check_commit_fill(writer, (uint64_t)value * 30000, value, 100000);
            must(km_checkpoint(writer));
        }
        must(km_copy(map, path));
        assert_int_equal(km_generation(map), 5);
        assert_memory_equal(km_data(map), bytes, COPIES_SIZE);
        must(km_abort(map)); /* the transaction is the caller's still */
        copies_expect(path, bytes, COPIES_SIZE, 5);
        must(km_copy(map, scratch_path("later-%d.copy", i)));
        free(bytes);
        bytes = copies_shown_by(writer);
        copies_expect(scratch_path("later-%d.copy", i), bytes, COPIES_SIZE, 8);
        must_fail(km_abort(map), KM_EMISUSE);
        must(km_close(map));
        must(km_close(writer));
        free(bytes);
    }
}

static void a_lazy_commit_is_in_the_copy(void **state) {
    (void)state;
    const char *from = scratch_path("lazy.km"), *path = scratch_path("lazy.copy");
    km_map *writer = copies_create(from, &copies_kinds[0], COPIES_SIZE, 0), *lazy = check_open(from, 0, KM_LAZY);
    check_commit_fill(writer, 0, 1, 100);
    check_commit_fill(lazy, 5000, 2, 100);
    km_map *reader = check_open(from, 0, KM_READONLY);
    unsigned char *bytes = copies_shown_by(lazy);
    must(km_copy(reader, path));
    copies_expect(path, bytes, COPIES_SIZE, 2);
    must(km_close(reader));
    must(km_close(lazy));
    must(km_close(writer));
    free(bytes);
}

static int commit_and_die(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    for (int value = 1; value < 4; value++) {
        child_must(km_begin(map, KM_WRITE));
        memset((unsigned char *)km_data(map) + value * 9000, value, 9000);
        child_must(km_commit(map));
    }
    raise(SIGKILL);
    return 0;
}

/* Whose frames nobody has brought home, and nobody may. */
static void a_map_whose_users_died_is_copied_without_writing_to_it(void **state) {
    (void)state;
    char *from = scratch_path("killed.km"), *path = scratch_path("killed.copy");
    must(km_close(copies_create_varied(from, &copies_kinds[0])));
    assert_int_equal(check_in_child(commit_and_die, from, 20), -SIGKILL);
    struct scratch_image before = scratch_load(from);
    km_map *map = check_open(from, 0, KM_READONLY);
    must(km_copy(map, path));
    unsigned char *bytes = copies_shown_by(map);
    must(km_close(map));
    assert_true(scratch_equals(from, &before));
    copies_expect(path, bytes, COPIES_SIZE, 8);
    scratch_release(&before);
    free(bytes);
}

/* ---- meanwhile --------------------------------------------------------------------------------------------------- */

struct busy {
    const char *path;
    atomic_bool stop;
    atomic_int result;
    uint64_t seed;
};

#define BUSY_PAGES 700u

/* Commit g stores its number in the same word of many pages and of some more, checkpoints now and then, and grows. */
static void *commit_on_and_on(void *context) {
    struct busy *busy = context;
    struct chance chance = {busy->seed};
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = KM_LAZY};
    int result = km_open(&map, busy->path, &options);
    while (result == 0 && !atomic_load(&busy->stop)) {
        result = km_begin(map, KM_WRITE);
        if (result != 0)
            break;
        const uint64_t g = km_generation(map) + 1;
        unsigned char *data = km_data(map);
        for (unsigned page = 0; page < BUSY_PAGES; page += 7)
            memcpy(data + page * KM_PAGE_SIZE + 100, &g, sizeof g);
        chance_fill(&chance, data + (1 + chance_below(&chance, BUSY_PAGES - 10)) * KM_PAGE_SIZE + 200, 3000);
        result = km_commit(map);
        if (result == 0 && chance_percent(&chance, 30))
            result = km_checkpoint(map);
        if (result == 0 && chance_percent(&chance, 5) && km_size(map) < 2 * BUSY_PAGES * KM_PAGE_SIZE)
            result = km_grow(map, km_size(map) + 1 + chance_below(&chance, 9000));
    }
    const int closed = km_close(map);
    atomic_store(&busy->result, result != 0 ? result : closed);
    return NULL;
}

static void expect_one_commit(const char *path, uint64_t at_least) {
    km_map *copy = check_open(path, 0, 0);
    check_clean(copy);
    must(km_begin(copy, KM_READ));
    const uint64_t generation = km_generation(copy);
    uint64_t grown = 0; /* commits that only made it larger store no number */
    assert_true(generation >= at_least);
    for (unsigned page = 0; page < BUSY_PAGES; page += 7) {
        uint64_t found;
        memcpy(&found, (unsigned char *)km_data(copy) + page * KM_PAGE_SIZE + 100, sizeof found);
        assert_true(found <= generation);
        assert_true(page == 0 || found == grown);
        grown = found;
    }
    must(km_abort(copy));
    check_commit_fill(copy, 0, 1, 10);
    must(km_close(copy));
}

static void a_copy_is_one_commit_while_others_commit_checkpoint_and_grow(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        const char *from = scratch_path("busy-%d.km", i);
        km_map *map =
            copies_create(from, &copies_kinds[i], BUSY_PAGES * KM_PAGE_SIZE, 4 * (uint64_t)BUSY_PAGES * KM_PAGE_SIZE);
        km_map *reader = check_open(from, 0, KM_READONLY);
        struct busy busy = {.path = from, .seed = chance_mix(chance_seed(), (uint64_t)i)};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, commit_on_and_on, &busy), 0);
        uint64_t seen = 0;
        for (int n = 0; n < 12; n++) {
            const char *path = scratch_path("busy-%d-%d.copy", i, n);
            const int result = km_copy(n % 2 == 0 ? map : reader, path);
            if (result == KM_EBUSY) /* checkpoint after checkpoint kept a reader out */
                continue;
            must(result);
            expect_one_commit(path, seen);
            seen = km_generation(n % 2 == 0 ? map : reader);
            unlink(path);
        }
        atomic_store(&busy.stop, true);
        assert_int_equal(pthread_join(thread, NULL), 0);
        must(atomic_load(&busy.result));
        assert_true(seen > 0);
        check_clean(map);
        must(km_close(reader));
        must(km_close(map));
    }
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_has_the_same_bytes_at_the_same_generation),
        cmocka_unit_test(a_copy_is_a_map_of_its_own_with_the_same_options),
        cmocka_unit_test(a_map_that_nobody_committed_to_can_be_copied),
        cmocka_unit_test(a_copy_can_be_copied),
        cmocka_unit_test(holes_stay_holes),
        cmocka_unit_test(a_huge_sparse_map_costs_what_it_holds),
        cmocka_unit_test(a_map_that_grew_is_copied_as_if_made_so),
        cmocka_unit_test(a_copy_inside_a_read_shows_that_commit),
        cmocka_unit_test(a_lazy_commit_is_in_the_copy),
        cmocka_unit_test(a_map_whose_users_died_is_copied_without_writing_to_it),
        cmocka_unit_test(a_copy_is_one_commit_while_others_commit_checkpoint_and_grow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
