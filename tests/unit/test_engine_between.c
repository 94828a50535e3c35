/* SPDX-License-Identifier: MIT
 *
 * What others do between two calls of the system while a map is opened: the path gets another file before the first
 * lock, and both header slots are caught while they are being written.
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

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_waited_for_a_map_that_was_replaced_has_the_new_one),
        cmocka_unit_test(slots_that_are_being_written_are_looked_at_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
