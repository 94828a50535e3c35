/* SPDX-License-Identifier: MIT
 *
 * Named scenarios of processes: a dead one whose pin is cleared while its slot is taken again, children of fork and of
 * a bare clone() that outlive their parent.
 *
 * This program has an fcntl() of its own, through which all locks are taken, and which lets somebody attach just before
 * or just behind a chosen call.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/scratch.h"
#include "support/workers.h"

#define SIZE 100000u
#define FAR 50000u

static km_map *open_impatient(const char *path, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .size = SIZE, .flags = flags, .timeout_ms = 20};
    must(km_open(&map, path, &options));
    return map;
}

static int byte_at(km_map *map, size_t offset) {
    return ((const volatile unsigned char *)km_data(map))[offset];
}

/* ---- a dead pin cleared while its slot is taken again ------------------------------------------------------------ */

typedef int fcntl_function(int descriptor, int command, ...);

static void (*arrival)(void);
static unsigned calls_to_go; /* counted before and behind each call that asks about a slot */

static void count_down(int command, const void *argument) {
    const struct flock *lock = argument;
    if (arrival == NULL || (command != F_OFD_SETLK && command != F_OFD_GETLK))
        return;
    const uint64_t first = (uint64_t)lock->l_start;
    if (first < KM__SLOT_LOCKS || first >= KM__SLOT_LOCKS + KM__SLOTS || --calls_to_go > 0)
        return;
    void (*const happens)(void) = arrival;
    arrival = NULL;
    happens();
}

__attribute__((visibility("default"))) int fcntl(int descriptor, int command, ...) {
    static fcntl_function *real;
    if (real == NULL) {
        void *found = dlsym(RTLD_NEXT, "fcntl");
        memcpy(&real, &found, sizeof real);
    }
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    struct flock asked = {0};
    if (command == F_OFD_SETLK || command == F_OFD_GETLK)
        memcpy(&asked, argument, sizeof asked);
    count_down(command, &asked);
    const int result = real(descriptor, command, argument);
    count_down(command, &asked);
    return result;
}

static const char *arrival_path;
static km_map *newcomer;

static void arrive(void) {
    newcomer = open_impatient(arrival_path, 0);
    must(km_begin(newcomer, KM_READ));
}

static int begin_and_die(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    child_must(km_begin(map, KM_READ));
    raise(SIGKILL);
    return 0;
}

/* The newcomer has its pin, wherever it came, and whichever slot it got. */
static void a_pin_in_the_slot_of_a_dead_one_is_not_cleared_with_that_ones(void **state) {
    (void)state;
    unsigned n = 1, same_slot = 0;
    for (;; n++) {
        arrival_path = scratch_path("arrival-%u.km", n);
        km_map *map = open_impatient(arrival_path, KM_CREATE);
        check_commit_fill(map, 0, 1, 100);
        assert_int_equal(check_in_child(begin_and_die, (void *)(uintptr_t)arrival_path, 20), -SIGKILL);
        check_commit_fill(map, 0, 2, 100);
        calls_to_go = n;
        arrival = arrive;
        must(km_checkpoint(map));
        const bool arrived = arrival == NULL;
        arrival = NULL;
        if (!arrived) {
            must(km_close(map));
            break;
        }
        same_slot += newcomer->slot == 1;
        assert_int_equal(km_generation(newcomer), 2);
        assert_int_equal(newcomer->control->slot[newcomer->slot].pin, 2);
        for (int value = 3; value < 6; value++) {
            check_commit_fill(map, FAR, value, 100);
            must(km_checkpoint(map));
            assert_int_equal(byte_at(newcomer, FAR), 0);
        }
        must(km_abort(newcomer));
        must(km_begin(newcomer, KM_READ));
        assert_int_equal(byte_at(newcomer, FAR), 5);
        must(km_close(newcomer));
        must(km_checkpoint(map));
        assert_int_equal(check_info(map).checkpoint_generation, 5); /* and the dead one holds nothing */
        check_clean(map);
        must(km_close(map));
    }
    assert_in_range(n, 4, 100);
    assert_true(same_slot >= 2);
}

/* ---- children that outlive their parent -------------------------------------------------------------------------- */

struct family {
    const char *path;
    bool bare; /* made by clone(), which runs no handlers of fork */
    struct {
        _Atomic int parent, child;
        _Atomic bool orphaned, looked; /* the child has nobody left; it has looked at what it inherited */
        _Atomic int begun, data;       /* what it found */
    } * told;
};

static void remain(struct family *family, km_map *map) {
    prctl(PR_SET_PDEATHSIG, 0);
    alarm(60);
    while (!atomic_load(&family->told->orphaned))
        scratch_sleep_ms(1);
    if (!family->bare) {
        atomic_store(&family->told->begun, km_begin(map, KM_WRITE));
        atomic_store(&family->told->data, km_data(map) == NULL);
    }
    atomic_store(&family->told->looked, true);
    for (;;)
        pause();
}

/* Begins writing, and leaves a child behind. */
static int die_in_a_transaction(void *context) {
    struct family *family = context;
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, family->path, &options));
    child_must(km_begin(map, KM_WRITE));
    memset(km_data(map), 77, SIZE);
    atomic_store(&family->told->parent, getpid());
    fflush(NULL);
    const pid_t child = family->bare ? (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) : fork();
    child_check(child >= 0);
    if (child == 0)
        remain(family, map);
    atomic_store(&family->told->child, child);
    raise(SIGKILL);
    return 0;
}

static struct family start_family(const char *path, bool bare) {
    struct family family = {.path = path, .bare = bare};
    family.told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true((void *)family.told != MAP_FAILED);
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* the orphan is this one's to wait for */
    assert_int_equal(check_in_child(die_in_a_transaction, &family, 20), -SIGKILL);
    atomic_store(&family.told->orphaned, true);
    while (!atomic_load(&family.told->looked))
        scratch_sleep_ms(1);
    assert_int_equal(kill(atomic_load(&family.told->child), 0), 0);
    return family;
}

static void end_family(struct family *family) {
    pid_t child = atomic_load(&family->told->child);
    workers_end(&child, 1);
    munmap(family->told, 4096);
}

static void expect_committed(km_map *map, int value) {
    must(km_begin(map, KM_READ));
    for (size_t i = 0; i < SIZE; i++)
        assert_int_equal(byte_at(map, i), value);
    must(km_abort(map));
    check_clean(map);
}

/* Nothing of the map is held by it: somebody may even put another one in its place. */
static void a_child_of_fork_that_outlives_its_parent_holds_nothing(void **state) {
    (void)state;
    const char *path = scratch_path("orphan-of-fork.km");
    km_map *map = open_impatient(path, KM_CREATE);
    check_commit_fill(map, 0, 1, SIZE);
    struct family family = start_family(path, false);
    assert_int_equal(atomic_load(&family.told->begun), KM_EFORKED);
    assert_int_equal(atomic_load(&family.told->data), 1);
    expect_committed(map, 1);
    check_commit_fill(map, 0, 2, SIZE);
    must(km_checkpoint(map));
    expect_committed(map, 2);
    assert_int_equal(check_info(map).handles, 1);
    must(km_close(map));
    map = open_impatient(path, KM_CREATE | KM_REPLACE);
    expect_committed(map, 0);
    must(km_close(map));
    end_family(&family);
}

struct seen {
    unsigned count;
    struct km_user others;
};

static int note_user(void *context, const struct km_user *user) {
    struct seen *seen = context;
    seen->count++;
    if (user->self == 0)
        seen->others = *user;
    return 0;
}

/* No handler ran, so the locks live on with the child: the map is in use, by the process that opened it. */
static void a_child_of_a_bare_clone_keeps_the_map_busy_and_damages_nothing(void **state) {
    (void)state;
    const char *path = scratch_path("orphan-of-clone.km");
    km_map *map = open_impatient(path, KM_CREATE);
    check_commit_fill(map, 0, 1, SIZE);
    struct family family = start_family(path, true);
    must_fail(km_begin(map, KM_WRITE), KM_EBUSY);
    char number[24];
    snprintf(number, sizeof number, "process %d", atomic_load(&family.told->parent));
    check_detail_contains(number);
    struct seen seen = {0};
    must(km_who(map, note_user, &seen));
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.others.process_id, atomic_load(&family.told->parent));
    assert_int_equal(seen.others.in_transaction, 1);
    expect_committed(map, 1);
    must(km_checkpoint(map));
    km_map *other = open_impatient(path, 0);
    expect_committed(other, 1);
    must(km_close(other));
    end_family(&family);
    check_commit_fill(map, 0, 2, SIZE); /* the kernel has dropped its locks */
    expect_committed(map, 2);
    assert_int_equal(check_info(map).handles, 1);
    must(km_close(map));
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pin_in_the_slot_of_a_dead_one_is_not_cleared_with_that_ones),
        cmocka_unit_test(a_child_of_fork_that_outlives_its_parent_holds_nothing),
        cmocka_unit_test(a_child_of_a_bare_clone_keeps_the_map_busy_and_damages_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
