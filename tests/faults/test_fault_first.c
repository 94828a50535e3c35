/* SPDX-License-Identifier: MIT
 *
 * What a process does once, at its first use of the library, can fail as anything else, and is done by the next. Each
 * run is a process of its own; the one that starts them never uses the library.
 */
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fault_layer.h"
#include "scratch.h"

static int open_here(km_map **map) {
    const struct km_options options = {.struct_size = sizeof options, .size = 1, .flags = KM_CREATE};
    return km_open(map, scratch_path("first.km"), &options);
}

/* A child of fork has no handle: the handlers are there, and there once (twice would stop at a lock that is held). */
static int use_after_a_fault(void *context) {
    km_map *map = NULL;
    int status = 0;
    fault_arm(context);
    const int refused = open_here(&map);
    child_check(fault_disarm());
    child_check(refused == KM_ENOMEM && map == NULL);
    child_check(strstr(km_last_error_detail(), strerror(ENOMEM)) != NULL);
    child_must(open_here(&map));
    const pid_t child = fork();
    if (child == 0)
        _exit(km_begin(map, KM_READ) == KM_EFORKED ? 0 : 1);
    child_check(child > 0 && waitpid(child, &status, 0) == child);
    child_check(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    child_must(km_begin(map, KM_READ));
    child_must(km_close(map));
    return 0;
}

static void handlers_of_fork_that_found_no_memory_are_installed_by_the_next_open(void **state) {
    (void)state;
    struct fault fault = {.call = FAULT_ATFORK, .occurrence = 1, .repeat = 1, .way = ENOMEM};
    (void)scratch_path("."); /* the directory is made, and removed, here */
    assert_int_equal(check_in_child(use_after_a_fault, &fault, 20), 0);
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(handlers_of_fork_that_found_no_memory_are_installed_by_the_next_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
