/* SPDX-License-Identifier: MIT
 *
 * Locks, waiting, time, chance and processes of the simulated system.
 */
#include <sched.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "os_sim_machine.h"

#define LOOK_NS 1000 /* what a look at the clock takes */

/* ---- locks ------------------------------------------------------------------------------------------------------- */

/* A held range, in a list of its file. */
struct sim_lock {
    struct sim_lock *next;
    const struct os_locks *owner;
    uint64_t first, last; /* both included */
    enum os_lock_kind kind;
};

struct os_locks {
    struct sim_file *file;
    uint64_t epoch;
    bool writable;
    char *path;
};

int os_locks_open(struct os_locks **locks, struct os_file *file) {
    pthread_mutex_lock(&sim.mutex);
    int error = sim_pass(OS_SIM_LOCK, file->epoch, file->path);
    if (error == 0) {
        struct os_locks *made = sim_allocate(sizeof *made);
        made->file = file->file;
        made->file->references++;
        made->epoch = file->epoch;
        made->writable = file->writable;
        made->path = sim_allocate(strlen(file->path) + 1);
        strcpy(made->path, file->path);
        *locks = made;
    }
    pthread_mutex_unlock(&sim.mutex);
    return error;
}

static bool excludes(const struct sim_lock *lock, const struct os_locks *locks, uint64_t first, uint64_t last,
                     enum os_lock_kind kind) {
    return lock->owner != locks && lock->first <= last && lock->last >= first &&
           (lock->kind == OS_LOCK_WRITE || kind == OS_LOCK_WRITE);
}

static void add(struct os_locks *locks, uint64_t first, uint64_t last, enum os_lock_kind kind) {
    struct sim_lock *lock = sim_allocate(sizeof *lock);
    *lock = (struct sim_lock){.next = locks->file->locks, .owner = locks, .first = first, .last = last, .kind = kind};
    locks->file->locks = lock;
}

/* Take a range out of what an owner holds; what sticks out of it on either side stays. */
static void subtract(struct os_locks *locks, uint64_t first, uint64_t last) {
    for (struct sim_lock **link = &locks->file->locks; *link != NULL;) {
        struct sim_lock *lock = *link;
        if (lock->owner != locks || lock->first > last || lock->last < first) {
            link = &lock->next;
            continue;
        }
        *link = lock->next;
        if (lock->first < first)
            add(locks, lock->first, first - 1, lock->kind);
        if (lock->last > last)
            add(locks, last + 1, lock->last, lock->kind);
        free(lock);
        link = &locks->file->locks; /* the pieces are at the head, and are outside of the range */
    }
}

static int check(const struct os_locks *locks, uint64_t first, uint64_t count) {
    if (count == 0)
        return km__error(KM_EINVAL, "%s: cannot lock an empty range", locks->path);
    int error = os__check_range(first, count, "lock it", locks->path);
    return error != 0 ? error : sim_pass(OS_SIM_LOCK, locks->epoch, locks->path);
}

int os_lock_try(struct os_locks *locks, uint64_t first, uint64_t count, enum os_lock_kind kind) {
    pthread_mutex_lock(&sim.mutex);
    int error = check(locks, first, count);
    if (error == 0 && kind == OS_LOCK_WRITE && !locks->writable)
        error = km__error(KM_EACCESS, "%s: cannot lock it for writing: it was opened read-only", locks->path);
    for (const struct sim_lock *lock = locks->file->locks; lock != NULL && error == 0; lock = lock->next) {
        if (excludes(lock, locks, first, first + count - 1, kind))
            error = km__error(KM_EBUSY, "%s: another handle holds the lock", locks->path);
    }
    if (error == 0) {
        subtract(locks, first, first + count - 1);
        add(locks, first, first + count - 1, kind);
    }
    pthread_mutex_unlock(&sim.mutex);
    return error;
}

void os_lock_release(struct os_locks *locks, uint64_t first, uint64_t count) {
    pthread_mutex_lock(&sim.mutex);
    if (count > 0)
        subtract(locks, first, first + count - 1);
    pthread_mutex_unlock(&sim.mutex);
}

int os_lock_probe(struct os_locks *locks, uint64_t first, uint64_t count, enum os_lock_kind kind, uint64_t *holder) {
    pthread_mutex_lock(&sim.mutex);
    int result = check(locks, first, count);
    for (const struct sim_lock *lock = locks->file->locks; lock != NULL && result == 0; lock = lock->next) {
        if (excludes(lock, locks, first, first + count - 1, kind)) {
            result = 1;
            if (holder != NULL)
                *holder = lock->first > first ? lock->first : first;
        }
    }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

int os_locks_check(const struct os_locks *locks) {
    (void)locks; /* nobody closes anything behind our back here */
    return 0;
}

void os_locks_close(struct os_locks *locks) {
    if (locks == NULL)
        return;
    pthread_mutex_lock(&sim.mutex);
    subtract(locks, 0, UINT64_MAX);
    sim_file_release(locks->file);
    free(locks->path);
    free(locks);
    pthread_mutex_unlock(&sim.mutex);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

struct os_waiter {
    uint64_t name;
};

int os_waiter_open(struct os_waiter **waiter, uint64_t *name) {
    struct os_waiter *made = sim_allocate(sizeof *made);
    while (made->name == 0)
        os_random(&made->name, sizeof made->name);
    *name = made->name;
    *waiter = made;
    return 0;
}

/* Nobody is woken: who sleeps finds that the whole time has passed. Another thread gets a chance meanwhile. */
void os_waiter_sleep(struct os_waiter *waiter, const _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    (void)waiter;
    if (atomic_load(word) != expected)
        return;
    sched_yield();
    pthread_mutex_lock(&sim.mutex);
    sim.now_ns += timeout_ns < INT64_MAX / 4 ? timeout_ns : LOOK_NS;
    pthread_mutex_unlock(&sim.mutex);
}

size_t os_waiter_wake(_Atomic uint32_t *word, const uint64_t *names, size_t count) {
    (void)word;
    (void)names;
    (void)count;
    return 0;
}

void os_waiter_close(struct os_waiter *waiter) {
    free(waiter);
}

/* ---- clocks, processes, chance ----------------------------------------------------------------------------------- */

uint64_t os_time_monotonic_ns(void) {
    pthread_mutex_lock(&sim.mutex);
    uint64_t now = sim.now_ns += LOOK_NS;
    pthread_mutex_unlock(&sim.mutex);
    return now;
}

uint64_t os_time_wall_ns(void) {
    return UINT64_C(1700000000000000000) + os_time_monotonic_ns();
}

int os_random(void *bytes, size_t length) {
    unsigned char *to = bytes;
    pthread_mutex_lock(&sim.mutex);
    while (length > 0) {
        uint64_t random = sim_random(&sim.random);
        size_t part = length < sizeof random ? length : sizeof random;
        memcpy(to, &random, part);
        to += part;
        length -= part;
    }
    pthread_mutex_unlock(&sim.mutex);
    return 0;
}

/* Each start of the machine has one process, with a new number. */
uint32_t os_process_id(void) {
    pthread_mutex_lock(&sim.mutex);
    uint32_t id = (uint32_t)(1000 + sim.epoch % 1000000);
    pthread_mutex_unlock(&sim.mutex);
    return id;
}

uint64_t os_process_start(uint32_t process_id) {
    return process_id == os_process_id() ? process_id : 0;
}

void os_process_name(uint32_t process_id, char *name, size_t size) {
    if (size > 0)
        snprintf(name, size, "%s", process_id == os_process_id() ? "simulated" : "");
}

int os_boot_id(uint8_t id[16]) {
    memset(id, 0, 16);
    pthread_mutex_lock(&sim.mutex);
    memcpy(id, &sim.boot, sizeof sim.boot);
    pthread_mutex_unlock(&sim.mutex);
    id[15] = 1; /* all zero would mean that it is not told */
    return 0;
}

uint32_t os_system(void) {
    return 3;
}

void os_pause(void) {
    sched_yield();
}

const char *os_environment(const char *name) {
    return getenv(name);
}

int os_fork_watch(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    (void)prepare;
    (void)parent;
    (void)child;
    return 0;
}

static pthread_mutex_t process_mutex = PTHREAD_MUTEX_INITIALIZER;

void os_process_lock(void) {
    pthread_mutex_lock(&process_mutex);
}

void os_process_unlock(void) {
    pthread_mutex_unlock(&process_mutex);
}
