/* SPDX-License-Identifier: MIT
 *
 * What the guard does in which order, where a race of threads would show a mistake once in a million: this program has
 * an mmap(), a nanosleep() and a sigaction() of its own, at which a test can look around, or hold a thread.
 *
 * Each test runs in a process of its own, because the handler stays in a process once it is installed.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "os/os_posix.h"
#include "support/check.h"
#include "support/scratch.h"

#define PAGE ((size_t)4096)
#define SIZE (4 * PAGE)
#define CHILD_SECONDS 60
#define MANY_SLEEPS 3

/* ---- calls that a test sees -------------------------------------------------------------------------------------- */

static void (*at_zeros)(void);     /* called in the handler, just before zeros appear */
static void (*at_installed)(void); /* called when the handler of SIGBUS has just been installed */
static atomic_uint naps;           /* calls of nanosleep() */

__attribute__((visibility("default"))) void *mmap(void *address, size_t length, int protection, int flags, int fd,
                                                  off_t offset) {
    if ((flags & (MAP_FIXED | MAP_ANONYMOUS)) == (MAP_FIXED | MAP_ANONYMOUS) && at_zeros != NULL)
        at_zeros();
    const long mapped = syscall(SYS_mmap, address, length, protection, flags, fd, offset);
    return mapped == -1 ? MAP_FAILED : (void *)mapped;
}

__attribute__((visibility("default"))) int nanosleep(const struct timespec *time, struct timespec *left) {
    atomic_fetch_add(&naps, 1);
    return (int)syscall(SYS_nanosleep, time, left);
}

int __sigaction(int number, const struct sigaction *action, struct sigaction *former);

__attribute__((visibility("default"))) int sigaction(int number, const struct sigaction *action,
                                                     struct sigaction *former) {
    const int result = __sigaction(number, action, former);
    if (number == SIGBUS && action != NULL && at_installed != NULL)
        at_installed();
    return result;
}

/* ---- a file that lost its pages ---------------------------------------------------------------------------------- */

static char path[600];
static struct os_file *file;
static struct os_region region;

static void map_and_cut(void) {
    child_must(os_file_create(&file, path, 0600));
    child_must(os_file_resize(file, SIZE));
    child_must(os_file_guard(file));
    child_must(os_region_map(&region, file, 0, SIZE, false));
    child_must(os_file_resize(file, PAGE));
}

static void let_go(void) {
    os_region_unmap(&region);
    os_file_close(file);
}

static void look(void) {
    child_check(*(const volatile unsigned char *)(region.address + SIZE - PAGE) == 0);
}

static void in_child(int (*child)(void *context)) {
    assert_int_equal(check_in_child(child, NULL, CHILD_SECONDS), 0);
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static atomic_uint seen;

static void check_flag(void) {
    child_check(os_file_faulted(file));
    atomic_fetch_add(&seen, 1);
}

/* F5. */
static int flag_first(void *context) {
    (void)context;
    map_and_cut();
    at_zeros = check_flag;
    look();
    child_check(seen == 1);
    let_go();
    return 0;
}

static void the_flag_is_set_before_the_zeros_appear(void **state) {
    (void)state;
    in_child(flag_first);
}

static void check_blocked(void) {
    sigset_t blocked;
    child_check(pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0);
    child_check(sigismember(&blocked, SIGUSR1) == 1 && sigismember(&blocked, SIGALRM) == 1);
    atomic_fetch_add(&seen, 1);
}

/* F3. */
static int all_blocked(void *context) {
    (void)context;
    map_and_cut();
    at_zeros = check_blocked;
    look();
    child_check(seen == 1);
    let_go();
    return 0;
}

static void no_other_signal_interrupts_the_handler(void **state) {
    (void)state;
    in_child(all_blocked);
}

static atomic_bool held, released, unmapped;

static void hold(void) {
    atomic_store(&held, true);
    while (!atomic_load(&released))
        (void)syscall(SYS_sched_yield);
    atomic_fetch_add(&seen, 1);
}

static void *fault(void *context) {
    (void)context;
    look();
    return NULL;
}

static void *unmap(void *context) {
    (void)context;
    os_region_unmap(&region);
    child_check(seen == 1);
    atomic_store(&unmapped, true);
    return NULL;
}

/* F2. */
static int unmap_waits(void *context) {
    (void)context;
    pthread_t faulting, unmapping;
    map_and_cut();
    at_zeros = hold;
    child_check(pthread_create(&faulting, NULL, fault, NULL) == 0);
    while (!atomic_load(&held))
        (void)syscall(SYS_sched_yield);
    atomic_store(&naps, 0);
    child_check(pthread_create(&unmapping, NULL, unmap, NULL) == 0);
    while (!atomic_load(&unmapped) && atomic_load(&naps) < MANY_SLEEPS)
        (void)syscall(SYS_sched_yield);
    child_check(!atomic_load(&unmapped));
    atomic_store(&released, true);
    child_check(pthread_join(faulting, NULL) == 0 && pthread_join(unmapping, NULL) == 0);
    child_check(atomic_load(&unmapped));
    os_file_close(file);
    return 0;
}

static void a_mapping_is_kept_until_no_handler_is_at_work_in_it(void **state) {
    (void)state;
    in_child(unmap_waits);
}

static volatile sig_atomic_t got;

static void count(int number) {
    (void)number;
    got = got + 1;
}

static void send(void) {
    at_installed = NULL;
    child_check(raise(SIGBUS) == 0);
    atomic_fetch_add(&seen, 1);
}

/* F7. */
static int former_at_once(void *context) {
    (void)context;
    struct sigaction own;
    memset(&own, 0, sizeof own);
    own.sa_handler = count;
    child_check(sigaction(SIGBUS, &own, NULL) == 0);
    at_installed = send;
    map_and_cut();
    child_check(seen == 1 && got == 1);
    let_go();
    return 0;
}

static void a_signal_at_the_moment_of_the_installation_finds_the_former_handler(void **state) {
    (void)state;
    in_child(former_at_once);
}

int main(void) {
    scratch_time_limit(150);
    snprintf(path, sizeof path, "%s", scratch_path("order"));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_flag_is_set_before_the_zeros_appear),
        cmocka_unit_test(no_other_signal_interrupts_the_handler),
        cmocka_unit_test(a_mapping_is_kept_until_no_handler_is_at_work_in_it),
        cmocka_unit_test(a_signal_at_the_moment_of_the_installation_finds_the_former_handler),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
