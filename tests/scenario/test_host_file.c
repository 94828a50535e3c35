/* SPDX-License-Identifier: MIT
 *
 * Scenarios of the host: the file of a map that is in use is unlinked, replaced, cut short, moved or given a second
 * name. Each call, as the first that could notice, says so or is right; nothing is written to what took the file's
 * place, and nothing that was committed is changed. (tests/unit/test_engine_host.c has the calls one after the other.)
 */
#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/check.h"
#include "support/scratch.h"

#define SIZE (40u * KM_PAGE_SIZE)
#define LIMIT_S 20

enum loss { UNLINKED, REPLACED_BY_A_MAP, CUT_BY_A_PAGE, CUT_TO_A_HALF, CUT_TO_NOTHING, LOSSES };
enum call { READ, WRITE, COMMIT, ABORT, END_OF_READ, SYNC, CHECKPOINT, GROW, COPY, VERIFY, INFO, WAIT, CLOSE, CALLS };
static const char *const losses[] = {"unlinked", "replaced by a map", "cut by a page", "cut to a half",
                                     "cut to nothing"};
static const char *const calls[] = {"read", "write", "commit", "abort", "end of a read", "sync", "checkpoint",
                                    "grow", "copy",  "verify", "info",  "wait",          "close"};

struct attempt_to {
    const char *path;
    enum loss loss;
    enum call call;
    uint32_t flags, mode;
};

static int try_open(km_map **map, const char *path, uint32_t flags, uint32_t mode) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .max_size = 2 * SIZE,
                                       .journal_size = mode == KM_LIVE ? 0 : 65536,
                                       .flags = flags,
                                       .mode = mode,
                                       .timeout_ms = 200};
    return km_open(map, path, &options);
}

static void lose(const char *path, enum loss loss) {
    const off_t size = (off_t)scratch_file_size(path);
    switch (loss) {
    case UNLINKED:
        child_check(unlink(path) == 0);
        return;
    case REPLACED_BY_A_MAP:
        child_check(rename(scratch_path("other.km"), path) == 0);
        return;
    case CUT_BY_A_PAGE:
        child_check(truncate(path, size - KM_PAGE_SIZE) == 0);
        return;
    case CUT_TO_A_HALF:
        child_check(truncate(path, size / 2) == 0);
        return;
    default:
        child_check(truncate(path, 0) == 0);
    }
}

static int make_call(km_map *map, enum call call) {
    struct km_info info = {.struct_size = sizeof info};
    struct km_report report = {.struct_size = sizeof report};
    uint64_t now = 0;
    switch (call) {
    case READ:
        return km_begin(map, KM_READ);
    case WRITE:
        return km_begin(map, KM_WRITE);
    case COMMIT:
        return km_commit(map);
    case ABORT:
    case END_OF_READ:
        return km_abort(map);
    case SYNC:
        return km_sync(map);
    case CHECKPOINT:
        return km_checkpoint(map);
    case GROW:
        return km_grow(map, 2 * SIZE);
    case COPY:
        return km_copy(map, scratch_path("copy-of-it.km"));
    case VERIFY:
        return km_verify(map, &report, NULL, NULL);
    case INFO:
        return km_get_info(map, &info);
    case WAIT:
        return km_wait(map, km_generation(map) + 100, 1200, &now);
    default:
        return km_close(map);
    }
}

/* Whether the call promises durability, or something made of the file: then it must notice. */
static bool must_notice(const struct attempt_to *to) {
    const bool writes = (to->flags & KM_READONLY) == 0;
    switch (to->call) {
    case COMMIT:
    case SYNC:
    case CHECKPOINT:
    case GROW:
    case CLOSE:
        return writes;
    case COPY:
    case WAIT:
        return true;
    default:
        return false;
    }
}

/* In a process of its own: one call, first of all calls after the loss. */
static int try_call(void *context) {
    const struct attempt_to *to = context;
    const bool writes = (to->flags & KM_READONLY) == 0;
    km_map *map = NULL, *beside = NULL;
    child_must(try_open(&beside, to->path, KM_GUARD, 0));
    child_must(try_open(&map, to->path, to->flags | KM_GUARD, 0));
    if (to->call == COMMIT || to->call == ABORT) {
        child_must(km_begin(map, writes ? KM_WRITE : KM_READ));
        if (writes)
            memset(km_data(map), 99, SIZE);
    }
    if (to->call == END_OF_READ)
        child_must(km_begin(map, KM_READ));
    lose(to->path, to->loss);
    const int result = make_call(map, to->call);
    const bool told = result == KM_ESTALE || result == KM_EREADONLY;
    if (must_notice(to) ? !told || result == KM_EREADONLY : result != 0 && !told && result != KM_ETRUNCATED) {
        fprintf(stderr, "%s: %s gave %s: %s\n", losses[to->loss], calls[to->call], km_error_name(result),
                km_last_error_detail());
        return 1;
    }
    child_check(result == 0 || km_last_error_detail()[0] != '\0');
    if (to->call != CLOSE)
        (void)km_close(map);
    child_check(km_close(beside) == KM_ESTALE);
    return 0;
}

/* A map at generation 2, whose bytes are `value`, closed. */
static struct scratch_image make_map(const char *path, int value, uint32_t mode) {
    km_map *map;
    must(try_open(&map, path, KM_CREATE, mode));
    if (mode == KM_LIVE)
        memset(km_data(map), value, SIZE);
    for (unsigned i = 0; i < 2 && mode != KM_LIVE; i++)
        check_commit_fill(map, i * SIZE / 2, value, SIZE / 2);
    must(km_close(map));
    return scratch_load(path);
}

static void expect_map(const char *path, int value) {
    km_map *map;
    must(try_open(&map, path, KM_READONLY, 0));
    must(km_begin(map, KM_READ));
    for (uint64_t at = 0; at < SIZE; at++)
        assert_int_equal(((unsigned char *)km_data(map))[at], value);
    must(km_abort(map));
    check_clean(map);
    must(km_close(map));
}

static void try_loss(enum loss loss, enum call call, uint32_t flags, uint32_t mode) {
    const char *path = scratch_path("lost.km"), *kept = scratch_path("kept.km");
    struct attempt_to to = {path, loss, call, flags, mode};
    static struct scratch_image images[2], other; /* made once, by mode */
    if (images[mode].bytes == NULL)
        images[mode] = make_map(path, 5, mode);
    if (other.bytes == NULL)
        other = make_map(scratch_path("other.km"), 6, 0);
    scratch_store(path, images[mode].bytes, images[mode].length);
    scratch_store(scratch_path("other.km"), other.bytes, other.length);
    const int hold = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(hold >= 0);
    const int status = check_in_child(try_call, &to, LIMIT_S);
    if (status != 0)
        fail_msg("%s, %s, flags %x, mode %u: status %d", losses[loss], calls[call], flags, mode, status);
    if (loss == REPLACED_BY_A_MAP)
        assert_true(scratch_equals(path, &other));
    if (loss == UNLINKED || loss == REPLACED_BY_A_MAP) { /* what was committed is still in the file */
        char name[64];
        snprintf(name, sizeof name, "/proc/self/fd/%d", hold);
        scratch_copy(name, kept);
        expect_map(kept, 5);
        unlink(kept);
    } else {
        assert_true(scratch_file_size(path) < images[mode].length); /* nobody made it longer again */
    }
    close(hold);
    unlink(path);
    unlink(scratch_path("other.km"));
    unlink(scratch_path("copy-of-it.km"));
}

static void every_call_says_that_the_file_is_lost_or_is_right(void **state) {
    (void)state;
    for (int loss = 0; loss < LOSSES; loss++)
        for (int call = 0; call < CALLS; call++) {
            try_loss((enum loss)loss, (enum call)call, 0, 0);
            try_loss((enum loss)loss, (enum call)call, KM_READONLY, 0);
        }
}

static void every_call_on_a_live_map_says_that_the_file_is_lost_or_is_right(void **state) {
    (void)state;
    for (int loss = 0; loss < LOSSES; loss++)
        for (int call = 0; call < CALLS; call++)
            if (loss < CUT_BY_A_PAGE || call != ABORT) /* (stores reach the file, whatever becomes of it) */
                try_loss((enum loss)loss, (enum call)call, KM_READONLY, KM_LIVE);
    static const enum call writes[] = {SYNC, CHECKPOINT, GROW, COPY, CLOSE, READ, WRITE, INFO, VERIFY};
    for (int loss = 0; loss < LOSSES; loss++)
        for (size_t i = 0; i < sizeof writes / sizeof *writes; i++)
            try_loss((enum loss)loss, writes[i], 0, KM_LIVE);
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

static void a_map_with_two_names_is_one_map(void **state) {
    (void)state;
    const char *one = scratch_path("one.km"), *two = scratch_path("two.km");
    km_map *first, *second, *none = NULL;
    must(try_open(&first, one, KM_CREATE, 0));
    assert_int_equal(link(one, two), 0);
    must(try_open(&second, two, 0, 0));
    assert_int_equal(check_info(first).handles, 2);
    must(km_begin(first, KM_WRITE));
    must_fail(km_begin(second, KM_WRITE), KM_EBUSY);
    memset(km_data(first), 7, SIZE);
    must(km_commit(first));
    must(km_begin(second, KM_READ));
    assert_int_equal(((unsigned char *)km_data(second))[SIZE - 1], 7);
    must(km_abort(second));
    must_fail(try_open(&none, two, KM_CREATE | KM_REPLACE, 0), KM_EBUSY);
    assert_int_equal(unlink(one), 0); /* one name is left: the map goes on */
    check_commit_fill(first, 0, 8, SIZE);
    must(km_checkpoint(first));
    must(km_close(first));
    check_commit_fill(second, 0, 9, SIZE);
    must(km_close(second));
    expect_map(two, 9);
}

static void a_map_that_was_moved_goes_on_where_it_is(void **state) {
    (void)state;
    const char *path = scratch_path("here.km"), *moved = scratch_path("there.km");
    km_map *map, *reader;
    must(try_open(&map, path, KM_CREATE, 0));
    must(try_open(&reader, path, KM_READONLY, 0));
    assert_int_equal(rename(path, moved), 0);
    struct scratch_image other = make_map(path, 6, 0); /* another map has its name now */
    check_commit_fill(map, 0, 7, SIZE);
    must(km_sync(map));
    must(km_checkpoint(map));
    must(km_begin(reader, KM_READ));
    assert_int_equal(((unsigned char *)km_data(reader))[0], 7);
    must(km_abort(reader));
    must(km_grow(map, 2 * SIZE));
    check_commit_fill(map, 0, 8, SIZE);
    must(km_close(reader));
    must(km_close(map));
    assert_true(scratch_equals(path, &other));
    scratch_release(&other);
    expect_map(moved, 8);
}

int main(void) {
    scratch_time_limit(300);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_says_that_the_file_is_lost_or_is_right),
        cmocka_unit_test(every_call_on_a_live_map_says_that_the_file_is_lost_or_is_right),
        cmocka_unit_test(a_map_with_two_names_is_one_map),
        cmocka_unit_test(a_map_that_was_moved_goes_on_where_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
