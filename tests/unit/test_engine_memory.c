/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises when memory is short: a commit is all or nothing whichever allocation fails, an error leaves
 * the transaction whole, abort and the search for stray stores forget nothing, a checkpoint takes bounded memory, and
 * an open that fails leaves nothing.
 *
 * This program has a realloc(), a calloc() and an mmap() of its own, which every growing list, index and pool of the
 * engine goes through, and which can be told to fail once. Each test fails the first call, then the second, and so on,
 * until a run comes through without a failure.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "format/checksum.h"
#include "support/check.h"
#include "support/objects.h"
#include "support/scratch.h"

#define SIZE (8u << 20)
#define PAGES 1000u /* every second page, so that each is a run of its own */
#define SWEEP_END 200u
#define STORED_LAST 250

/* ---- memory that runs out ---------------------------------------------------------------------------------------- */

static unsigned fail_in; /* the call from now on that fails, 1 being the next one; 0: none */

static bool fails_now(void) {
    return fail_in != 0 && --fail_in == 0;
}

typedef void *realloc_function(void *block, size_t size);

/* Under a sanitizer that is linked statically, its own realloc; nothing otherwise. */
void *__interceptor_realloc(void *block, size_t size) __attribute__((weak));

/* For the shared libraries, too: what they hold may come from a sanitizer's malloc(). */
__attribute__((visibility("default"))) void *realloc(void *block, size_t size) {
    static realloc_function *real;
    if (real == NULL)
        real = __interceptor_realloc;
    if (real == NULL) {
        void *found = dlsym(RTLD_NEXT, "realloc");
        memcpy(&real, &found, sizeof real);
    }
    return fails_now() ? NULL : real(block, size);
}

/* By malloc(), whoever provides that, as the loader may ask before anything could be looked up. The compiler must not
 * see that both together are a calloc(). */
static void *(*volatile fill)(void *block, int value, size_t size) = memset;

__attribute__((visibility("default"))) void *calloc(size_t count, size_t size) {
    if (fails_now() || (size != 0 && count > SIZE_MAX / size))
        return NULL;
    void *block = malloc(count * size);
    return block != NULL ? fill(block, 0, count * size) : NULL;
}

/* Memory alone, no files. */
__attribute__((visibility("default"))) void *mmap(void *address, size_t length, int protection, int flags, int fd,
                                                  off_t offset) {
    if ((flags & MAP_ANONYMOUS) != 0 && fails_now()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    const long mapped = syscall(SYS_mmap, address, length, protection, flags, fd, offset);
    return mapped == -1 ? MAP_FAILED : (void *)mapped;
}

static unsigned copies_fail_in; /* the same for strdup() */

__attribute__((visibility("default"))) char *strdup(const char *text) {
    const size_t size = strlen(text) + 1;
    char *copy = copies_fail_in != 0 && --copies_fail_in == 0 ? NULL : malloc(size);
    return copy != NULL ? memcpy(copy, text, size) : NULL;
}

/* Let the `call`-th call from now on fail. */
static void arm(unsigned call) {
    fail_in = call;
}

/* Whether the call that was to fail has come. */
static bool disarm(void) {
    const bool happened = fail_in == 0;
    fail_in = 0;
    return happened;
}

/* ---- what a map shows -------------------------------------------------------------------------------------------- */

static unsigned char *byte_of(km_map *map, unsigned page) {
    return (unsigned char *)km_data(map) + (uint64_t)page * 2 * KM_PAGE_SIZE + 17;
}

static void store_all(km_map *map, unsigned value) {
    for (unsigned page = 0; page < PAGES; page++)
        *byte_of(map, page) = (unsigned char)value;
}

/* How many of the pages show the value to the present transaction. */
static unsigned shown(km_map *map, unsigned value) {
    unsigned count = 0;
    for (unsigned page = 0; page < PAGES; page++)
        count += *byte_of(map, page) == value;
    return count;
}

static unsigned read_by(km_map *map, unsigned value) {
    must(km_begin(map, KM_READ));
    const unsigned count = shown(map, value);
    must(km_abort(map));
    return count;
}

typedef bool attempt_function(km_map *writer, km_map *other, unsigned call);

/* Run `attempt` with a new writer, whose lists are all still empty, and each call of realloc() failing once; `call` is
 * a value that nobody has stored yet. It tells whether the call came. */
static void sweep_tracker(const char *tracker, uint32_t flags, attempt_function *attempt) {
    setenv("KEEPMAP_TRACKER", tracker, 1);
    const char *path = scratch_path("memory-%s.km", tracker);
    unlink(path);
    km_map *other = check_open(path, SIZE, KM_CREATE | KM_LAZY);
    unsigned call = 1;
    for (bool failed = true; failed; call++) {
        assert_true(call < SWEEP_END);
        must(km_checkpoint(other)); /* so that no page is patched by a begin already */
        km_map *writer = check_open(path, 0, flags | KM_LAZY);
        failed = attempt(writer, other, call);
        must(km_close(writer));
    }
    check_clean(other);
    must(km_close(other));
    unsetenv("KEEPMAP_TRACKER");
    if (call == 2)
        fail_msg("with tracker %s no allocation was made to fail", tracker);
}

/* ---- commit ------------------------------------------------------------------------------------------------------ */

static bool try_commit(km_map *writer, km_map *other, unsigned call) {
    must(km_begin(writer, KM_WRITE));
    store_all(writer, call);
    arm(call);
    const int result = km_commit(writer);
    const bool failed = disarm();
    if (result != 0) {
        check_result(result, KM_ENOMEM, "km_commit()", __FILE__, __LINE__);
        assert_true(failed);
        assert_int_equal(shown(writer, call), PAGES);
        assert_int_equal(read_by(other, call), 0);
        must(km_commit(writer)); /* it is still open and whole */
    }
    assert_int_equal(read_by(other, call), PAGES);
    assert_int_equal(km_generation(other), call);
    return failed;
}

static void a_commit_is_whole_whichever_allocation_fails(void **state) {
    (void)state;
    sweep_tracker("scan", 0, try_commit);
    sweep_tracker("pagemap", 0, try_commit);
    sweep_tracker("compare", 0, try_commit);
}

#define RING 65536u
#define FRAME 16000u

/* Commits until no room is left, of which the first meets a failing allocation. A reader still needs the frames. */
static bool fill_the_ring(km_map *writer, unsigned call) {
    bool failed = false;
    int result = 0;
    for (unsigned value = 1; value < 10 && result == 0; value++) {
        must(km_begin(writer, KM_WRITE));
        memset(km_data(writer), (int)value, FRAME);
        arm(value == 1 ? call : 0);
        result = km_commit(writer);
        if (value == 1)
            failed = disarm();
        if (failed && result == KM_ENOMEM)
            result = km_commit(writer);
    }
    check_result(result, KM_EBUSY, "km_commit()", __FILE__, __LINE__);
    must(km_abort(writer));
    return failed;
}

/* T4: what a writer does not know of its own frame it takes for free. */
static void a_writer_knows_its_own_frames_whichever_allocation_fails(void **state) {
    (void)state;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .journal_size = RING,
                                       .flags = KM_CREATE | KM_LAZY,
                                       .timeout_ms = 1};
    bool failed = true;
    for (unsigned call = 1; failed; call++) {
        const char *path = scratch_path("frames.km");
        unlink(path);
        km_map *reader, *writer;
        must(km_open(&reader, path, &options));
        must(km_open(&writer, path, &options));
        must(km_begin(reader, KM_READ));
        failed = fill_the_ring(writer, call);
        must(km_abort(reader));
        must(km_begin(reader, KM_READ));
        assert_int_equal(km_generation(reader), km_generation(writer));
        assert_int_equal(*(unsigned char *)km_data(reader), km_generation(writer));
        must(km_abort(reader));
        must(km_close(writer));
        must(km_close(reader));
        assert_true(call < SWEEP_END);
    }
}

static bool try_abort(km_map *writer, km_map *other, unsigned call) {
    must(km_begin(writer, KM_WRITE));
    store_all(writer, call);
    arm(call);
    must(km_abort(writer));
    const bool failed = disarm();
    assert_int_equal(read_by(writer, call), 0);
    check_commit_fill(writer, 2 * KM_PAGE_SIZE, STORED_LAST, 1);
    assert_int_equal(read_by(other, call), 0);
    assert_int_equal(read_by(writer, call), 0);
    return failed;
}

static void an_abort_takes_every_store_back_whichever_allocation_fails(void **state) {
    (void)state;
    sweep_tracker("scan", 0, try_abort);
    sweep_tracker("pagemap", 0, try_abort);
    sweep_tracker("compare", 0, try_abort);
}

/* ---- stray stores ------------------------------------------------------------------------------------------------ */

static bool try_stray(km_map *writer, km_map *other, unsigned call) {
    must(km_begin(writer, KM_WRITE)); /* from here on stores are tracked */
    must(km_abort(writer));
    must(km_begin(writer, KM_READ));
    must(km_abort(writer));
    store_all(writer, call);
    arm(call);
    const int result = km_begin(writer, KM_READ);
    const bool failed = disarm();
    if (failed) {
        check_result(result, KM_ENOMEM, "km_begin()", __FILE__, __LINE__);
        must_fail(km_begin(writer, KM_READ), KM_ESTRAY);
    } else {
        check_result(result, KM_ESTRAY, "km_begin()", __FILE__, __LINE__);
    }
    assert_int_equal(read_by(writer, call), 0);
    assert_int_equal(read_by(other, call), 0);
    return failed;
}

/* (Where every page is compared, the list has had its full length since the first abort.) */
static void stray_stores_are_told_of_though_memory_was_short(void **state) {
    (void)state;
    sweep_tracker("scan", KM_CHECK, try_stray);
    sweep_tracker("pagemap", KM_CHECK, try_stray);
}

/* ---- bounds ------------------------------------------------------------------------------------------------------ */

#define LARGE (32u << 20)
#define LARGE_COMMITS 16
#define LIMIT_KIB (400l << 10)

static long peak_kib(void) {
    struct rusage usage;
    child_check(getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_maxrss;
}

static int checkpoint_in_bounds(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    const long before = peak_kib();
    child_must(km_checkpoint(map));
    const long taken = peak_kib() - before;
    struct km_info info = {.struct_size = sizeof info};
    child_must(km_get_info(map, &info));
    child_check(info.checkpoint_generation == LARGE_COMMITS);
    if (taken > LIMIT_KIB)
        fprintf(stderr, "the checkpoint took %ld KiB\n", taken);
    return taken > LIMIT_KIB;
}

/* 512 MiB of pages, compressed to less than a MiB. */
static void a_checkpoint_of_compressed_frames_takes_bounded_memory(void **state) {
    (void)state;
    if (!km__zlib_available())
        skip();
    const char *path = scratch_path("bounds.km");
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = LARGE,
                                       .journal_size = 8 << 20,
                                       .flags = KM_CREATE | KM_COMPRESS | KM_LAZY | KM_DECLARED};
    km_map *map, *reader;
    must(km_open(&map, path, &options));
    reader = check_open(path, 0, 0);
    must(km_begin(reader, KM_READ)); /* so that no checkpoint comes too early */
    for (int i = 0; i < LARGE_COMMITS; i++)
        check_commit_fill(map, 0, i + 1, LARGE);
    must(km_abort(reader));
    must(km_close(reader));
    char name[1024];
    snprintf(name, sizeof name, "%s", path);
    assert_int_equal(check_in_child(checkpoint_in_bounds, name, 60), 0);
    must(km_close(map));
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static unsigned count_descriptors(void) {
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    assert_non_null(directory);
    while (readdir(directory) != NULL) {
        count++;
    }
    closedir(directory);
    return count;
}

/* The new object has its user before it has its name; that user must go if the handle does not come. */
static void an_object_without_a_handle_is_gone_whichever_allocation_fails(void **state) {
    (void)state;
    for (uint32_t mode = KM_TRANSACTIONAL; mode <= KM_RAW; mode++) {
        const struct km_options options = {
            .struct_size = sizeof options, .size = 9000, .mode = mode, .flags = KM_CREATE, .timeout_ms = 20};
        bool happened = true;
        for (unsigned call = 1; happened; call++) {
            km_map *map = NULL;
            const unsigned before = count_descriptors();
            copies_fail_in = call;
            const int result = km_open(&map, "Local\\memory", &options);
            happened = copies_fail_in == 0;
            copies_fail_in = 0;
            assert_true(result == 0 || (result == KM_ENOMEM && happened && map == NULL));
            must(km_close(map));
            assert_int_equal(count_descriptors(), before);
            must(km_open(&map, "Local\\memory", &options));
            must(km_close(map));
        }
    }
    assert_int_equal(objects_left(), 0);
}

int main(void) {
    scratch_time_limit(150);
    objects_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_commit_is_whole_whichever_allocation_fails),
        cmocka_unit_test(a_writer_knows_its_own_frames_whichever_allocation_fails),
        cmocka_unit_test(an_abort_takes_every_store_back_whichever_allocation_fails),
        cmocka_unit_test(stray_stores_are_told_of_though_memory_was_short),
        cmocka_unit_test(a_checkpoint_of_compressed_frames_takes_bounded_memory),
        cmocka_unit_test(an_object_without_a_handle_is_gone_whichever_allocation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
