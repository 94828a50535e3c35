/* SPDX-License-Identifier: MIT
 *
 * Lock bytes, waiting for them, and pins.
 *
 * All exclusion and all liveness rest on byte-range locks that the kernel drops when their owner dies, far past the
 * end of the file, where they lock no data:
 *
 *   ATTACH         whoever attaches or detaches; held through the whole rebuild of control
 *   WRITER         a write transaction
 *   CHECKPOINT     who changes home or a header slot; verify, for reading, chunk by chunk
 *   SYNC           whoever syncs the journal
 *   USER           read lock of every attached handle; READ_ONLY_USER: of those without write permission
 *   SLOT + i       an attached handle that may write; only its holder writes pin i
 *   READER + g     read lock of a handle without write permission whose transaction stands at g
 *
 * Order when more than one is taken: ATTACH, WRITER, CHECKPOINT, SYNC, READER. READER comes last, and a checkpoint
 * that cannot have it lowers its goal instead of waiting: no circle can form.
 *
 * Rules, and the failure that each prevents:
 *  L1 A lock, never a word of memory, says who lives. A word that a dead process left behind would block for ever.
 *  L2 [model: slot] The pin of a dead handle is cleared only by who holds its SLOT lock. Otherwise the clearer can
 *     look at a dead slot, be delayed, and erase the pin of the new handle that took the slot meanwhile.
 *  L3 A handle's own locks look free to it, so it never asks about its own slot: its own pin counts as live.
 *  L4 Waiting is trying again: a waiter sets a `wanted` word and sleeps bounded. A lost or dead waiter costs one
 *     needless wake, a lost wake costs one bounded sleep; neither costs correctness.
 *  L5 A handle that may write holds its SLOT for writing, which takes write permission; who may only read can lock any
 *     byte for reading, for ever. So only a write lock on a SLOT says that a session lives. Otherwise such a reader
 *     could have the words believed that a dead session, or a power cut, left in control: nothing would be recovered.
 *  L6 A program can close the descriptor that carries a handle's locks, and then others hold what the handle believes
 *     to be its own. So it looks whether the locks are still there before it writes anything of the file
 *     (km__still_there). For pins it asks its slot, which costs no call: who takes a slot, or clears the pin of one
 *     whose lock is free, or all pins for a new session, changes the name in it, and a handle that does not find its
 *     own name is lost. Otherwise it would overwrite the frame of who has WRITER now, erase the pin of who has its
 *     slot, or show a home that moved.
 */
#include "map.h"

#define READER_BASE (KM__LOCK_BASE + (UINT64_C(1) << 32))

#define REST_SHORT_NS 20000u
#define REST_LONG_NS 2000000u

uint64_t km__deadline_in(uint32_t timeout_ms) {
    return timeout_ms == UINT32_MAX ? UINT64_MAX : os_time_monotonic_ns() + (uint64_t)timeout_ms * 1000000u;
}

uint64_t km__deadline(const km_map *map) {
    return km__deadline_in(map->timeout_ms);
}

int km__lock_try(km_map *map, enum km__lock lock, enum os_lock_kind kind) {
    return os_lock_try(map->locks, KM__LOCK_BASE + (uint64_t)lock, 1, kind);
}

/* L4: the word that waiters for a lock set; NULL: they look again by themselves. */
static _Atomic uint32_t *wanted_word(struct km__control *control, enum km__lock lock) {
    switch (lock) {
    case KM__WRITER:
        return &control->writer_wanted;
    case KM__CHECKPOINT:
        return &control->checkpoint_wanted;
    case KM__SYNC:
        return &control->sync_wanted;
    default:
        return NULL;
    }
}

/* Wake all who wait for the lock of `word`. */
static void wake(km_map *map, _Atomic uint32_t *word) {
    uint64_t names[KM__SLOTS];
    size_t count = 0;
    struct km__control *control = map->control;
    atomic_store_explicit(word, 0, memory_order_seq_cst);
    const uint32_t limit = km__slot_limit(control);
    for (uint32_t i = 0; i < limit; i++)
        if (atomic_load_explicit(&control->slot[i].waiting, memory_order_relaxed) != 0)
            names[count++] = atomic_load_explicit(&control->slot[i].waiter, memory_order_relaxed);
    os_waiter_wake(word, names, count);
}

void km__unlock(km_map *map, enum km__lock lock) {
    os_lock_release(map->locks, KM__LOCK_BASE + (uint64_t)lock, 1);
    struct km__control *control = map->control;
    if (control == NULL || map->read_only || map->lost)
        return;
    _Atomic uint32_t *wanted = wanted_word(control, lock);
    if (wanted != NULL && atomic_load_explicit(wanted, memory_order_relaxed) != 0)
        wake(map, wanted);
}

/* Sleep on `word` while it is 1, for at most `timeout_ns`. */
static void sleep_on(km_map *map, _Atomic uint32_t *word, uint64_t timeout_ns) {
    struct km__slot *slot = &map->control->slot[map->slot];
    atomic_store_explicit(&slot->waiting, 1, memory_order_relaxed);
    os_waiter_sleep(map->waiter, word, 1, timeout_ns);
    atomic_store_explicit(&slot->waiting, 0, memory_order_relaxed);
}

void km__sleep(km_map *map, uint64_t time_ns) {
    static const _Atomic uint32_t never = 0;
    os_waiter_sleep(map->waiter, &never, 0, time_ns);
}

void km__rest(km_map *map, unsigned attempt) {
    if (attempt < 32) {
        os_pause();
        return;
    }
    const uint64_t time = attempt < 64 ? REST_SHORT_NS : attempt < 256 ? REST_LONG_NS / 8 : REST_LONG_NS;
    km__sleep(map, time);
}

static const char *lock_user(enum km__lock lock) {
    switch (lock) {
    case KM__ATTACH:
        return "another process attaches or detaches";
    case KM__WRITER:
        return "another handle is in a write transaction";
    case KM__CHECKPOINT:
        return "another handle checkpoints or verifies";
    default:
        return "another handle syncs";
    }
}

/* Who waits for a writer is told which process that is. Where only a child of a bare clone() is left of that process,
 * it is still the one that opened the map. */
static int timed_out(km_map *map, enum km__lock lock) {
    const uint32_t slot = map->control == NULL ? 0 : atomic_load_explicit(&map->control->holder, memory_order_relaxed);
    const bool known = lock == KM__WRITER && slot != 0 && slot <= KM__SLOTS && slot - 1 != map->slot &&
                       os_lock_probe(map->locks, KM__SLOT_LOCKS + slot - 1, 1, OS_LOCK_READ, NULL) == 1; /* L5 */
    if (known)
        return km__error(
            KM_EBUSY,
            "%s: %s, of process %lu, and did not end in time: see who is attached (keepmap who), or wait longer",
            map->path, lock_user(lock),
            (unsigned long)atomic_load_explicit(&map->control->slot[slot - 1].process_id, memory_order_relaxed));
    return km__error(KM_EBUSY, "%s: %s, and did not end in time: see who is attached (keepmap who), or wait longer",
                     map->path, lock_user(lock));
}

int km__lock_wait(km_map *map, enum km__lock lock, enum os_lock_kind kind, uint64_t deadline) {
    _Atomic uint32_t *word = NULL;
    if (map->control != NULL && map->slot != KM__NO_SLOT && kind == OS_LOCK_WRITE)
        word = wanted_word(map->control, lock);
    for (unsigned attempt = 0;; attempt++) {
        int result = km__lock_try(map, lock, kind);
        if (result != KM_EBUSY)
            return result;
        if (os_time_monotonic_ns() >= deadline)
            return timed_out(map, lock);
        if (word == NULL) {
            km__rest(map, attempt + 32);
            continue;
        }
        atomic_store_explicit(word, 1, memory_order_seq_cst);
        result = km__lock_try(map, lock, kind); /* released between the first try and the mark */
        if (result != KM_EBUSY)
            return result;
        sleep_on(map, word, REST_LONG_NS);
    }
}

int km__sync_wait(km_map *map, uint64_t deadline) {
    _Atomic uint32_t *word = &map->control->sync_wanted;
    if (os_time_monotonic_ns() >= deadline)
        return km__error(KM_EBUSY, "%s: %s, and did not end in time: try again", map->path, lock_user(KM__SYNC));
    atomic_store_explicit(word, 1, memory_order_seq_cst);
    const int result = km__lock_try(map, KM__SYNC, OS_LOCK_WRITE); /* released between the first try and the mark */
    if (result == 0)
        km__unlock(map, KM__SYNC);
    else if (result == KM_EBUSY)
        sleep_on(map, word, REST_LONG_NS);
    return result == KM_EBUSY ? 0 : result;
}

/* ---- slots of handles that may write ----------------------------------------------------------------------------- */

int km__session_has_slots(km_map *map) {
    return os_lock_probe(map->locks, KM__SLOT_LOCKS, KM__SLOTS, OS_LOCK_READ, NULL); /* L5 */
}

int km__slot_take(km_map *map) {
    struct km__control *control = map->control;
    for (uint32_t i = 0; i < KM__SLOTS; i++) {
        const int result = os_lock_try(map->locks, KM__SLOT_LOCKS + i, 1, OS_LOCK_WRITE);
        if (result == KM_EBUSY)
            continue;
        if (result != 0)
            return result;
        struct km__slot *slot = &control->slot[i];
        atomic_store_explicit(&slot->pin, KM__NO_PIN, memory_order_relaxed);
        atomic_store_explicit(&slot->waiting, 0, memory_order_relaxed);
        atomic_fetch_and_explicit(&control->waiting[i / 64], ~(UINT64_C(1) << i % 64), memory_order_seq_cst); /* W3 */
        atomic_store_explicit(&slot->waiter, map->waiter_name, memory_order_relaxed);
        atomic_store_explicit(&slot->process_id, map->process_id, memory_order_relaxed);
        atomic_store_explicit(&slot->process_start, os_process_start(map->process_id), memory_order_relaxed);
        atomic_store_explicit(&slot->attached_ns, os_time_wall_ns(), memory_order_relaxed);
        map->slot = i;
        uint32_t limit = atomic_load_explicit(&control->slot_limit, memory_order_relaxed);
        while (limit < i + 1 && !atomic_compare_exchange_weak(&control->slot_limit, &limit, i + 1)) {
        }
        return 0;
    }
    return km__error(KM_EHANDLES, "%s: all %u handles that may write are taken: close some, or open with KM_READONLY",
                     map->path, KM__SLOTS);
}

void km__slot_release(km_map *map) {
    if (map->slot == KM__NO_SLOT || map->lost || map->control == NULL)
        return; /* closing the locks releases it */
    struct km__slot *slot = &map->control->slot[map->slot];
    atomic_store_explicit(&slot->process_id, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->pin, KM__NO_PIN, memory_order_release);
    os_lock_release(map->locks, KM__SLOT_LOCKS + map->slot, 1);
    map->slot = KM__NO_SLOT;
}

/* L6. */
int km__slot_check(km_map *map) {
    if (map->slot == KM__NO_SLOT || map->lost ||
        atomic_load_explicit(&map->control->slot[map->slot].waiter, memory_order_acquire) == map->waiter_name)
        return 0;
    map->lost = true;
    return km__error(KM_ESTALE,
                     "%s: the handle's locks are gone: the program closed a descriptor that it did not open; close the "
                     "handle and open the map again",
                     map->path);
}

void km__pin(km_map *map, uint64_t generation) {
    atomic_store_explicit(&map->control->slot[map->slot].pin, generation, memory_order_release);
}

/* Whether the holder of a pin lives; clears it if not (L2). */
static bool pin_is_live(km_map *map, uint32_t i) {
    if (i == map->slot)
        return true; /* L3 */
    if (os_lock_try(map->locks, KM__SLOT_LOCKS + i, 1, OS_LOCK_WRITE) != 0)
        return true;
    atomic_store_explicit(&map->control->slot[i].waiter, 0, memory_order_release); /* L6 */
    atomic_store_explicit(&map->control->slot[i].pin, KM__NO_PIN, memory_order_release);
    os_lock_release(map->locks, KM__SLOT_LOCKS + i, 1);
    return false;
}

uint64_t km__lowest_pin(km_map *map, uint64_t below, uint32_t *slot) {
    struct km__control *control = map->control;
    uint64_t lowest = KM__NO_PIN;
    const uint32_t limit = km__slot_limit(control);
    for (uint32_t i = 0; i < limit; i++) {
        const uint64_t pin = atomic_load_explicit(&control->slot[i].pin, memory_order_acquire);
        if (pin >= below || pin >= lowest || !pin_is_live(map, i))
            continue;
        lowest = pin;
        if (slot != NULL)
            *slot = i;
    }
    return lowest;
}

/* ---- handles without write permission ---------------------------------------------------------------------------- */

int km__reader_lock(km_map *map, uint64_t generation) {
    return os_lock_try(map->locks, READER_BASE + generation, 1, OS_LOCK_READ);
}

void km__reader_unlock(km_map *map, uint64_t generation) {
    os_lock_release(map->locks, READER_BASE + generation, 1);
}

int km__readers_exclude(km_map *map, uint64_t *generation, uint64_t not_below) {
    while (*generation > not_below) {
        const int result = os_lock_try(map->locks, READER_BASE, *generation, OS_LOCK_WRITE);
        if (result != KM_EBUSY)
            return result;
        uint64_t holder = 0;
        const int held = os_lock_probe(map->locks, READER_BASE, *generation, OS_LOCK_WRITE, &holder);
        if (held < 0)
            return held;
        if (held == 1 && holder - READER_BASE < *generation)
            *generation = holder - READER_BASE;
    }
    *generation = 0;
    return 0;
}

void km__readers_admit(km_map *map, uint64_t generation) {
    if (generation > 0)
        os_lock_release(map->locks, READER_BASE, generation);
}

int km__readers_below(km_map *map, uint64_t *generation) {
    if (*generation == 0)
        return 0;
    /* A checkpoint that write-locks all of it has found nobody below: its lock is no reader. */
    if (os_lock_probe(map->locks, READER_BASE + *generation - 1, 1, OS_LOCK_READ, NULL) == 1)
        return 0;
    uint64_t holder = 0;
    const int held = os_lock_probe(map->locks, READER_BASE, *generation, OS_LOCK_WRITE, &holder);
    if (held == 1)
        *generation = holder > READER_BASE ? holder - READER_BASE : 0;
    return held;
}
