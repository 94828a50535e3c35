/* SPDX-License-Identifier: MIT
 *
 * What happens at fork, and the lock of the whole process.
 *
 * One set of handlers serves both the os layer (descriptors that a child must not keep, because they carry locks) and
 * the one who watches. In the parent the watcher's prepare() comes first and its parent() last, so that its locks are
 * always taken before ours, at fork as everywhere else.
 *
 * What is not seen: a child made by vfork(), posix_spawn() or a bare clone() does not run handlers. The first two are
 * soon replaced by exec, which closes everything of ours; a child of clone() that goes on keeps locks alive.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "os_posix.h"

struct watcher {
    void (*prepare)(void);
    void (*parent)(void);
    void (*child)(void);
};

/* The handlers are installed once, and tried again if there was no memory for them. The process whose thread is at it;
 * a child of fork that finds its parent's there does it itself, as that thread is not its own. */
static _Atomic pid_t installer;
static atomic_bool installed;

/* Protects the list, and is held through every fork. */
static pthread_mutex_t fork_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct os__fork_entry entries = {.fd = -1, .next = &entries, .previous = &entries};

/* Written once, before `watched` points to it. */
static struct watcher watcher;
static _Atomic(const struct watcher *) watched;
/* The watcher whose prepare() ran for the fork that is under way; under fork_mutex. */
static const struct watcher *forking;

static pthread_mutex_t process_mutex = PTHREAD_MUTEX_INITIALIZER;

static void before_fork(void) {
    const struct watcher *present = atomic_load(&watched);
    if (present != NULL)
        present->prepare();
    pthread_mutex_lock(&fork_mutex);
    forking = present;
}

static void after_fork_in_parent(void) {
    const struct watcher *present = forking;
    pthread_mutex_unlock(&fork_mutex);
    if (present != NULL)
        present->parent();
}

static void after_fork_in_child(void) {
    const struct watcher *present = forking;
    for (struct os__fork_entry *entry = entries.next; entry != &entries;) {
        struct os__fork_entry *next = entry->next;
        close(entry->fd);
        entry->fd = -1;
        entry->next = entry->previous = entry;
        entry = next;
    }
    entries.next = entries.previous = &entries;
    atomic_store(&installed, true); /* the parent may have been about to say so */
    pthread_mutex_unlock(&fork_mutex);
    if (present != NULL)
        present->child();
}

static int need_handlers(void) {
    const pid_t process = getpid();
    while (!atomic_load(&installed)) {
        pid_t seen = atomic_load(&installer);
        if (seen == process || !atomic_compare_exchange_strong(&installer, &seen, process)) {
            sched_yield();
            continue;
        }
        int number = 0;
        if (!atomic_load(&installed))
            number = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
        if (number == 0)
            atomic_store(&installed, true);
        atomic_store(&installer, 0);
        if (number != 0)
            return os__system_error(number, "watch for forks", NULL);
    }
    return 0;
}

int os__fork_hold(void) {
    int error = need_handlers();
    if (error == 0)
        pthread_mutex_lock(&fork_mutex);
    return error;
}

void os__fork_release(void) {
    pthread_mutex_unlock(&fork_mutex);
}

void os__fork_add(struct os__fork_entry *entry, int fd) {
    entry->fd = fd;
    entry->next = entries.next;
    entry->previous = &entries;
    entries.next->previous = entry;
    entries.next = entry;
}

void os__fork_remove(struct os__fork_entry *entry) {
    entry->next->previous = entry->previous;
    entry->previous->next = entry->next;
    entry->next = entry->previous = entry;
    entry->fd = -1;
}

int os_fork_watch(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    int error = need_handlers();
    if (error != 0)
        return error;
    if (atomic_load(&watched) != NULL)
        return km__error(KM_EMISUSE, "forks are watched already");
    watcher = (struct watcher){.prepare = prepare, .parent = parent, .child = child};
    atomic_store(&watched, &watcher);
    return 0;
}

void os_process_lock(void) {
    pthread_mutex_lock(&process_mutex);
}

void os_process_unlock(void) {
    pthread_mutex_unlock(&process_mutex);
}
