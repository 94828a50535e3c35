/* SPDX-License-Identifier: MIT
 *
 * Waiting on a word of shared memory: a futex, which also sleeps on a word of a mapping that may only be read. The
 * names of waiters are made and ignored: the kernel finds sleepers by the page and offset of the word.
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "os_posix.h"

#define NS_PER_SECOND UINT64_C(1000000000)

struct os_waiter {
    uint64_t name;
};

static_assert(sizeof(_Atomic uint32_t) == 4, "the kernel looks at exactly this word");

int os_waiter_open(struct os_waiter **waiter, uint64_t *name) {
    struct os_waiter *made = calloc(1, sizeof *made);
    if (made == NULL)
        return os__system_error(ENOMEM, "make a waiter", NULL);
    while (made->name == 0) {
        int error = os_random(&made->name, sizeof made->name);
        if (error != 0) {
            free(made);
            return error;
        }
    }
    *name = made->name;
    *waiter = made;
    return 0;
}

void os_waiter_sleep(struct os_waiter *waiter, const _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    (void)waiter;
    const uint64_t longest = (uint64_t)INT32_MAX * NS_PER_SECOND;
    if (timeout_ns > longest)
        timeout_ns = longest;
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / NS_PER_SECOND),
                               .tv_nsec = (long)(timeout_ns % NS_PER_SECOND)};
    (void)syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, NULL, 0);
}

size_t os_waiter_wake(_Atomic uint32_t *word, const uint64_t *names, size_t count) {
    (void)names;
    (void)count;
    const long woken = syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    return woken > 0 ? (size_t)woken : 0;
}

void os_waiter_close(struct os_waiter *waiter) {
    free(waiter);
}
