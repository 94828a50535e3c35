/* SPDX-License-Identifier: MIT
 *
 * What others do between two calls of the system. While a map is opened: the path gets another file before the first
 * lock, both header slots are caught while they are being written, and the last of the others dies once they are read.
 * While one syncs that has looked at the slots: a checkpoint ends, and the frames that it has brought home are
 * overwritten.
 *
 * This program has an fcntl() and a pread() of its own, which let it happen just then.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/scratch.h"

#define SIZE 4096u

typedef int fcntl_function(int descriptor, int command, ...);
typedef ssize_t pread_function(int descriptor, void *bytes, size_t length, off_t offset);

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        abort();
    return found;
}

static const char *replaced_before_attach; /* the path; NULL: nothing happens */

static void replace(const char *path) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = 2 * SIZE, .flags = KM_CREATE | KM_REPLACE};
    must(km_open(&map, path, &options));
    check_commit_fill(map, 0, 7, 2 * SIZE);
    must(km_close(map));
}

__attribute__((visibility("default"))) int fcntl(int descriptor, int command, ...) {
    static fcntl_function *real;
    if (real == NULL) {
        void *found = next("fcntl");
        memcpy(&real, &found, sizeof real);
    }
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    const char *path = replaced_before_attach;
    if (path != NULL && command == F_OFD_SETLK &&
        ((const struct flock *)argument)->l_start == (off_t)(KM__LOCK_BASE + KM__ATTACH)) {
        replaced_before_attach = NULL;
        replace(path);
    }
    return real(descriptor, command, argument);
}

static void (*behind_next_look)(void); /* happens once the slots are read; NULL: nothing does */

static unsigned torn_looks; /* so many looks at the slots find both in the middle of their write */

__attribute__((visibility("default"))) ssize_t pread(int descriptor, void *bytes, size_t length, off_t offset) {
    static pread_function *real;
    if (real == NULL) {
        void *found = next("pread");
        memcpy(&real, &found, sizeof real);
    }
    const ssize_t got = real(descriptor, bytes, length, offset);
    if (torn_looks > 0 && offset == KM__SLOT_A && got == 2 * (ssize_t)KM__SLOT_SIZE) {
        torn_looks--;
        ((unsigned char *)bytes)[KM__SLOT_A + 2000] ^= 1;
        ((unsigned char *)bytes)[KM__SLOT_B + 2000] ^= 1;
    }
    void (*happens)(void) = behind_next_look;
    if (happens != NULL && offset == KM__SLOT_A && got == 2 * (ssize_t)KM__SLOT_SIZE) {
        behind_next_look = NULL;
        happens();
    }
    return got;
}

static void who_waited_for_a_map_that_was_replaced_has_the_new_one(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_READONLY};
    for (int i = 0; i < 2; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s", scratch_path("replaced-%d.km", i));
        must(km_close(check_open(path, SIZE, KM_CREATE)));
        replaced_before_attach = path;
        km_map *map = check_open(path, 0, flags[i]);
        assert_null(replaced_before_attach);
        assert_int_equal(km_size(map), 2 * SIZE);
        must(km_begin(map, KM_READ));
        assert_int_equal(*(const unsigned char *)km_data(map), 7);
        must(km_abort(map));
        must(km_close(map));
    }
}

static void slots_that_are_being_written_are_looked_at_again(void **state) {
    (void)state;
    const char *path = scratch_path("torn.km");
    km_map *map = check_open(path, SIZE, KM_CREATE);
    check_commit_fill(map, 0, 5, 10);
    for (unsigned looks = 1; looks <= 3; looks++) {
        torn_looks = looks;
        km_map *reader = check_open(path, 0, KM_READONLY);
        assert_int_equal(torn_looks, 0);
        must(km_close(reader));
    }
    torn_looks = 2;
    must(km_checkpoint(map));
    assert_int_equal(torn_looks, 0);
    must(km_close(map));
}

static km_map *lazy, *checkpointer; /* beside the handle that syncs */
static uint64_t durable;

/* The checkpoint has seen to it that everything was durable before the last commit was made, so that it does not wait
 * for SYNC. Then the writer comes to the start of the ring. */
static void checkpoint_and_go_round(void) {
    struct km__control *control = lazy->control;
    const uint64_t appended = km__load(&control->appended), position = lazy->cursor.position;
    atomic_store(&control->appended, durable);
    must(km_checkpoint(checkpointer));
    atomic_store(&control->appended, appended);
    assert_int_equal(control->checkpointed, durable);
    for (int value = 100; lazy->cursor.position >= position; value++)
        check_commit_fill(lazy, 0, value, 4000);
}

static void who_syncs_suspected_frames_misses_none_that_went_home(void **state) {
    (void)state;
    const char *path = scratch_path("suspects.km");
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = KM__JOURNAL_MIN, .flags = KM_CREATE};
    km_map *map = NULL;
    must(km_open(&map, path, &options));
    lazy = check_open(path, 0, KM_LAZY);
    checkpointer = check_open(path, 0, 0);
    for (durable = 0; durable < 7; durable++)
        check_commit_fill(map, 0, (int)durable + 1, 4000);
    check_commit_fill(lazy, 0, 99, 100);
    atomic_fetch_add(&map->control->sync_began, 1); /* somebody died in a sync */
    behind_next_look = checkpoint_and_go_round;
    must(km_sync(map));
    assert_null(behind_next_look);
    assert_in_range(map->control->durable, durable + 1, km_generation(lazy));
    check_clean(map);
    must(km_close(checkpointer));
    must(km_close(lazy));
    must(km_close(map));
}

/* The last checkpoint of somebody who then dies, and takes the session with it. */
static void go_round_and_die(void) {
    const uint64_t position = lazy->cursor.position;
    must(km_checkpoint(lazy));
    for (int value = 100; lazy->cursor.position >= position; value++)
        check_commit_fill(lazy, 0, value, 4000);
    durable = km_generation(lazy);
    os_locks_close(lazy->locks);
    lazy->locks = NULL;
}

static void who_opens_while_the_last_one_dies_sees_what_he_left(void **state) {
    (void)state;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = KM__JOURNAL_MIN, .flags = KM_CREATE | KM_LAZY};
    const char *path = scratch_path("last.km");
    must(km_open(&lazy, path, &options));
    for (int value = 1; value <= 5; value++)
        check_commit_fill(lazy, 0, value, 4000);
    behind_next_look = go_round_and_die;
    km_map *map = check_open(path, 0, 0);
    assert_null(behind_next_look);
    assert_int_equal(km_generation(map), durable);
    check_clean(map);
    must(km_close(map));
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_waited_for_a_map_that_was_replaced_has_the_new_one),
        cmocka_unit_test(slots_that_are_being_written_are_looked_at_again),
        cmocka_unit_test(who_syncs_suspected_frames_misses_none_that_went_home),
        cmocka_unit_test(who_opens_while_the_last_one_dies_sees_what_he_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
