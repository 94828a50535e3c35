/* SPDX-License-Identifier: MIT
 *
 * The guard: a fault in a guarded mapping, because its file was cut short or the disk cannot deliver (SIGBUS), does not
 * end the process. From the page that faulted to the end of the mapping there are private zeros instead, the access is
 * repeated and succeeds, and the file's guard remembers that it happened.
 *
 * Owns the process's handler of SIGBUS and the table of guarded mappings. The handler can run in any thread between any
 * two instructions, so it takes no lock and no memory. The rules, each with what it prevents:
 *
 * F1 An entry is published last and retracted first, and counts only while its state says "published by this process".
 *    Else the handler could see half an entry, the end of one mapping with the start of another.
 * F2 The handler first announces itself in the entry (busy), then looks at the state again, and only then reads the
 *    rest. Who retracts an entry changes the state first and then waits until nobody is announced; all four are
 *    sequentially consistent, so that one of the two sees the other. Only after that is the mapping unmapped, the entry
 *    given away, or the guard freed. Else a handler that was interrupted for long could put its zeros over what was
 *    mapped at the same address meanwhile, or set a flag in freed memory.
 * F3 The handler runs with all signals blocked. Else a signal handler that interrupts it and ends in an unmapping would
 *    wait for its own thread.
 * F4 A state carries the number of the process. A child of fork has the table and the handler, but not the mappings:
 *    else it would take faults in its own mappings at these addresses for its parent's. What a parent left, as "busy"
 *    of a thread that the child does not have, is cleared when the child uses the entry.
 * F5 The flag is set before the zeros appear: who reads zeros, in whatever thread, finds the flag set.
 * F6 Everything that is not ours goes to the handler that was there before, with the arguments, and under the mask,
 *    that it would have got from the kernel. If that was the default, it is put back: a real fault then happens again
 *    when we return, and a signal that somebody sent is sent again, so that the process ends, and dumps, as it would
 *    have. To ignore a real fault is no choice that the kernel gives; it is the default.
 * F7 The former handler stands in its place before ours is installed: a fault can come in between.
 *
 * What is left to others: a handler that the program installs later must pass on what it does not know. A thread that
 * blocks SIGBUS is ended by the kernel at any fault. A system call that meets the lost pages does not fault but fails
 * with EFAULT.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "os_posix.h"

#define ENTRY_COUNT 1024
#define KERNEL_MASK_BYTES ((NSIG - 1) / 8) /* of a mask of signals, as the kernel lays it out */

struct os__guard {
    atomic_uint references;
    atomic_bool faulted;
};

/* One guarded mapping. */
struct entry {
    _Atomic uint64_t state; /* number of the process * PHASES + phase */
    atomic_uint busy;       /* handlers at work in it */
    _Atomic uintptr_t start, end;
    _Atomic(struct os__guard *) guard;
};

enum phase { PHASE_FREE, PHASE_CHANGING, PHASE_PUBLISHED, PHASES };

static struct entry guarded[ENTRY_COUNT];

/* Whether this process, or a parent before its fork, ever guarded a mapping. */
static atomic_bool used;

static pthread_once_t install_once = PTHREAD_ONCE_INIT;
static int install_error; /* errno of the installation */

/* What SIGBUS did before. Two places, because one may be read while the other is written. */
static struct sigaction earlier_actions[2];
static _Atomic(const struct sigaction *) earlier;
static atomic_bool earlier_was_reset; /* SA_RESETHAND: it has had its one signal */
static atomic_size_t page_size;

static uint64_t state_of(enum phase phase) {
    return (uint64_t)getpid() * PHASES + (uint64_t)phase;
}

/* ---- the handler: everything here is safe in a signal handler ---------------------------------------------------- */

/* With the entry's busy raised. Whether the fault was in it and is mended. */
static bool mend(struct entry *entry, uintptr_t address) {
    const uintptr_t end = atomic_load(&entry->end);
    if (address < atomic_load(&entry->start) || address >= end)
        return false;
    const uintptr_t page = address - address % atomic_load(&page_size);
    atomic_store(&atomic_load(&entry->guard)->faulted, true);
    void *const place = (void *)page;
    if (mmap(place, end - page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) == MAP_FAILED)
        return false;
    (void)os__keep_private(place, end - page);
    return true;
}

static bool mend_guarded(uintptr_t address) {
    const uint64_t published = state_of(PHASE_PUBLISHED);
    for (size_t i = 0; i < ENTRY_COUNT; i++) {
        struct entry *entry = &guarded[i];
        if (atomic_load(&entry->state) != published)
            continue;
        atomic_fetch_add(&entry->busy, 1);
        const bool mended = atomic_load(&entry->state) == published && mend(entry, address);
        atomic_fetch_sub(&entry->busy, 1);
        if (mended)
            return true;
    }
    return false;
}

/* An access that cannot be done, and that is repeated when the handler returns. */
static bool is_fault(int code) {
    return code == BUS_ADRERR || code == BUS_OBJERR || code == BUS_MCEERR_AR;
}

static void do_default(const siginfo_t *info) {
    struct sigaction usual;
    memset(&usual, 0, sizeof usual);
    usual.sa_handler = SIG_DFL;
    sigaction(SIGBUS, &usual, NULL);
    if (!is_fault(info->si_code) && info->si_code != BUS_ADRALN)
        raise(SIGBUS); /* it is blocked until we return */
}

/* Rule F6. */
static void pass_on(int number, siginfo_t *info, void *context) {
    const struct sigaction *action = atomic_load(&earlier);
    const bool is_handler =
        (action->sa_flags & SA_SIGINFO) != 0 || (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);
    const bool was_reset =
        is_handler && (action->sa_flags & (int)SA_RESETHAND) != 0 && atomic_exchange(&earlier_was_reset, true);
    if (!is_handler && action->sa_handler == SIG_IGN && info->si_code <= 0)
        return; /* somebody sent it, and it is ignored */
    if (!is_handler || was_reset) {
        do_default(info);
        return;
    }

    const ucontext_t *interrupted = context;
    sigset_t mask;
    sigemptyset(&mask);
    memcpy(&mask, &interrupted->uc_sigmask, KERNEL_MASK_BYTES);
    sigorset(&mask, &mask, &action->sa_mask);
    if ((action->sa_flags & SA_NODEFER) == 0)
        sigaddset(&mask, number);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    if ((action->sa_flags & SA_SIGINFO) != 0)
        action->sa_sigaction(number, info, context);
    else
        action->sa_handler(number);
}

static void handle(int number, siginfo_t *info, void *context) {
    const int saved = errno;
    if (!is_fault(info->si_code) || !mend_guarded((uintptr_t)info->si_addr))
        pass_on(number, info, context);
    errno = saved;
}

/* ---- installing -------------------------------------------------------------------------------------------------- */

static bool is_ours(const struct sigaction *action) {
    return (action->sa_flags & SA_SIGINFO) != 0 && action->sa_sigaction == handle;
}

static void install(void) {
    atomic_store(&page_size, (size_t)sysconf(_SC_PAGESIZE));
    if (sigaction(SIGBUS, NULL, &earlier_actions[0]) != 0) {
        install_error = errno;
        return;
    }
    if (is_ours(&earlier_actions[0])) /* a fork in the midst of this: the child does it again */
        return;
    atomic_store(&earlier, &earlier_actions[0]); /* rule F7 */

    struct sigaction ours;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = handle;
    sigfillset(&ours.sa_mask); /* rule F3 */
    /* On the stack for signals where a thread has one, because the fault may be met where no other is left. System
     * calls that a sent signal interrupts go on, unless the handler that it is passed to did not want that. */
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    const struct sigaction *former = &earlier_actions[0];
    if ((former->sa_flags & SA_RESTART) != 0 ||
        ((former->sa_flags & SA_SIGINFO) == 0 && (former->sa_handler == SIG_DFL || former->sa_handler == SIG_IGN)))
        ours.sa_flags |= SA_RESTART;
    if (sigaction(SIGBUS, &ours, &earlier_actions[1]) != 0)
        install_error = errno;
    else if (!is_ours(&earlier_actions[1])) /* another thread may have changed it since the look */
        atomic_store(&earlier, &earlier_actions[1]);
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

/* Whether the entry belongs to nobody: it is free, or its owner was a parent of this process. */
static bool is_free(uint64_t state, uint64_t process) {
    return state / PHASES != process || state % PHASES == PHASE_FREE;
}

static bool has_room(void) {
    const uint64_t process = (uint64_t)getpid();
    for (size_t i = 0; i < ENTRY_COUNT; i++) {
        if (is_free(atomic_load(&guarded[i].state), process))
            return true;
    }
    return false;
}

static int no_room(const char *path) {
    return km__error(KM_ENOMEM, "%s: cannot guard it: %d mappings of the process are guarded already: close some maps",
                     path, ENTRY_COUNT);
}

/* A free entry, made ours by changing its state; NULL if there is none. */
static struct entry *take_entry(void) {
    const uint64_t process = (uint64_t)getpid();
    for (size_t i = 0; i < ENTRY_COUNT; i++) {
        struct entry *entry = &guarded[i];
        uint64_t state = atomic_load(&entry->state);
        if (!is_free(state, process) ||
            !atomic_compare_exchange_strong(&entry->state, &state, state_of(PHASE_CHANGING)))
            continue;
        if (state / PHASES != process)
            atomic_store(&entry->busy, 0); /* rule F4: no handler of this process has been in it */
        return entry;
    }
    return NULL;
}

static struct entry *find_entry(const void *address) {
    if (!atomic_load(&used))
        return NULL;
    const uint64_t published = state_of(PHASE_PUBLISHED);
    for (size_t i = 0; i < ENTRY_COUNT; i++) {
        if (atomic_load(&guarded[i].state) == published && atomic_load(&guarded[i].start) == (uintptr_t)address)
            return &guarded[i];
    }
    return NULL;
}

int os__guard_open(struct os__guard **guard, const char *path) {
    pthread_once(&install_once, install);
    if (install_error != 0)
        return os__system_error(install_error, "handle the signal SIGBUS", path);
    if (!has_room())
        return no_room(path);
    struct os__guard *made = calloc(1, sizeof *made);
    if (made == NULL)
        return os__system_error(ENOMEM, "guard it", path);
    atomic_init(&made->references, 1);
    *guard = made;
    return 0;
}

void os__guard_release(struct os__guard *guard) {
    if (guard != NULL && atomic_fetch_sub(&guard->references, 1) == 1)
        free(guard);
}

bool os__guard_has_faulted(const struct os__guard *guard) {
    return atomic_load(&guard->faulted);
}

int os__guard_add(struct os__guard *guard, const void *address, uint64_t length, const char *path) {
    if (guard == NULL)
        return 0;
    struct entry *entry = take_entry();
    if (entry == NULL)
        return no_room(path);
    atomic_store(&used, true);
    atomic_fetch_add(&guard->references, 1);
    atomic_store(&entry->guard, guard);
    atomic_store(&entry->start, (uintptr_t)address);
    atomic_store(&entry->end, (uintptr_t)address + length);
    atomic_store(&entry->state, state_of(PHASE_PUBLISHED)); /* rule F1 */
    return 0;
}

void os__guard_grow(const void *address, uint64_t length) {
    struct entry *entry = find_entry(address);
    if (entry != NULL)
        atomic_store(&entry->end, (uintptr_t)address + length);
}

void os__guard_remove(const void *address) {
    struct entry *entry = find_entry(address);
    if (entry == NULL)
        return;
    atomic_store(&entry->state, state_of(PHASE_CHANGING));
    while (atomic_load(&entry->busy) > 0) { /* rule F2 */
        const struct timespec moment = {.tv_nsec = 50000};
        nanosleep(&moment, NULL); /* not a spin: the handler's thread may need this processor */
    }
    os__guard_release(atomic_load(&entry->guard));
    atomic_store(&entry->state, state_of(PHASE_FREE));
}
