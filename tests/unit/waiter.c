/* SPDX-License-Identifier: MIT
 *
 * See waiter.h.
 */
#include "waiter.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "support/check.h"
#include "support/scratch.h"
#include "support/sleeps.h"

km_map *waiter_map(const char *name) {
    return check_open(scratch_path("%s.km", name), WAITER_SIZE, KM_CREATE | KM_LAZY);
}

/* Something else each time: a transaction that changes nothing is no commit. */
void waiter_commit(km_map *map) {
    static int value;
    value = value % 250 + 1;
    check_commit_fill(map, 0, value, 8);
}

bool waiter_is_marked(const km_map *map, uint32_t slot) {
    return (atomic_load(&map->control->waiting[slot / 64]) >> (slot % 64) & 1) != 0;
}

bool waiter_none_is_marked(const km_map *map) {
    for (uint32_t slot = 0; slot < KM__SLOTS; slot++) {
        if (waiter_is_marked(map, slot)) {
            return false;
        }
    }
    return true;
}

static void *wait_on_thread(void *context) {
    struct waiter *waiter = context;
    waiter->result = km_wait(waiter->map, waiter->after, waiter->timeout_ms, &waiter->now);
    snprintf(waiter->detail, sizeof waiter->detail, "%s", km_last_error_detail());
    return NULL;
}

void waiter_start(struct waiter *waiter) {
    assert_int_equal(pthread_create(&waiter->thread, NULL, wait_on_thread, waiter), 0);
}

void waiter_sleeps(uint64_t before) {
    while (atomic_load(&sleeps->sleeps) <= before) {
        scratch_sleep_ms(1);
    }
    scratch_sleep_ms(10); /* it sleeps now, or will not be stopped from it by what it has seen */
}

void waiter_join(struct waiter *waiter) {
    assert_int_equal(pthread_join(waiter->thread, NULL), 0);
}

pid_t waiter_in_child(int (*act)(void *context), const char *path) {
    fflush(NULL);
    const uint64_t before = sleeps->sleeps;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGALRM, SIG_DFL);
        signal(SIGBUS, SIG_DFL); /* cmocka's */
        alarm(60);
        _exit(act((void *)path));
    }
    waiter_sleeps(before);
    return child;
}
