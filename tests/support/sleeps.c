/* SPDX-License-Identifier: MIT
 *
 * See sleeps.h. The word that km_wait() sleeps on is known by its place in its page: control is mapped from the start
 * of a page on, in every process at another address.
 */
#include "sleeps.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "map/control.h"

#define NS_PER_SECOND UINT64_C(1000000000)

typedef long syscall_function(long number, ...);

struct sleeps *sleeps;
static _Atomic uint64_t stretch_from = UINT64_MAX, stretch_to;
static _Thread_local sleeps_function *before;
static _Thread_local void *before_context;

static syscall_function *real(void) {
    static syscall_function *_Atomic found;
    syscall_function *function = atomic_load(&found);
    if (function == NULL) {
        void *symbol = dlsym(RTLD_NEXT, "syscall");
        if (symbol == NULL)
            abort();
        *(void **)&function = symbol;
        atomic_store(&found, function);
    }
    return function;
}

static bool is_waited_on(const void *word) {
    return (uintptr_t)word % KM__PAGE == offsetof(struct km__control, visible) % KM__PAGE;
}

static void raise_to(_Atomic uint64_t *counter, uint64_t value) {
    uint64_t seen = atomic_load(counter);
    while (seen < value && !atomic_compare_exchange_weak(counter, &seen, value)) {
    }
}

/* Asked of the system, because the page may be gone with its file. */
static bool has_changed(const _Atomic uint32_t *word, uint32_t expected) {
    const struct timespec none = {0};
    return real()(SYS_futex, word, FUTEX_WAIT, (long)expected, &none, NULL, 0) != 0 && errno == EAGAIN;
}

static long sleep_on(const _Atomic uint32_t *word, uint32_t expected, const struct timespec *timeout) {
    const uint64_t asked = (uint64_t)timeout->tv_sec * NS_PER_SECOND + (uint64_t)timeout->tv_nsec;
    atomic_fetch_add(&sleeps->sleeps, 1);
    raise_to(&sleeps->longest_ns, asked);
    if (before != NULL) {
        sleeps_function *each = before;
        before = NULL;
        each(before_context);
    }
    const uint64_t time = asked >= atomic_load(&stretch_from) ? atomic_load(&stretch_to) : asked;
    const struct timespec stretched = {.tv_sec = (time_t)(time / NS_PER_SECOND),
                                       .tv_nsec = (long)(time % NS_PER_SECOND)};
    const long result = real()(SYS_futex, word, FUTEX_WAIT, (long)expected, &stretched, NULL, 0);
    if (result != 0 && errno == EAGAIN)
        atomic_fetch_add(&sleeps->late, 1);
    /* Short sleeps end by their time every now and then just between a commit and its wake. */
    if ((asked >= NS_PER_SECOND || time != asked) && result != 0 && errno == ETIMEDOUT && has_changed(word, expected))
        atomic_fetch_add(&sleeps->lost, 1);
    return result;
}

/* As the C library has it: all callers' arguments are words, and those that a call does not have are not looked at. No
 * header that declares it with "..." is included, because walking arguments that were not given is not allowed. */
__attribute__((visibility("default"))) long syscall(long number, long a, long b, long c, long d, long e, long f) {
    if (number == SYS_futex && sleeps != NULL && is_waited_on((const void *)a)) {
        if ((int)b == FUTEX_WAIT)
            return sleep_on((const _Atomic uint32_t *)a, (uint32_t)c, (const struct timespec *)d);
        if ((int)b == FUTEX_WAKE) {
            const long woken = real()(number, a, b, c, d, e, f);
            atomic_fetch_add(&sleeps->wakes, 1);
            atomic_fetch_add(&sleeps->woken, (uint64_t)(woken > 0 ? woken : 0));
            return woken;
        }
    }
    return real()(number, a, b, c, d, e, f);
}

void sleeps_start(void) {
    void *shared = mmap(NULL, sizeof *sleeps, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        abort();
    sleeps = shared;
}

void sleeps_reset(void) {
    atomic_store(&sleeps->sleeps, 0);
    atomic_store(&sleeps->late, 0);
    atomic_store(&sleeps->wakes, 0);
    atomic_store(&sleeps->woken, 0);
    atomic_store(&sleeps->lost, 0);
    atomic_store(&sleeps->longest_ns, 0);
}

void sleeps_stretch(uint64_t from_ns, uint64_t to_ns) {
    atomic_store(&stretch_from, from_ns == 0 ? UINT64_MAX : from_ns);
    atomic_store(&stretch_to, to_ns);
}

void sleeps_before(sleeps_function *each, void *context) {
    before_context = context;
    before = each;
}
