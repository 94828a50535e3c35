/* SPDX-License-Identifier: MIT
 *
 * Waiting for commits, and waking who waits.
 *
 * A waiter sleeps on the low half of `visible`, until that word changes. Who may write leaves a mark meanwhile, its bit
 * in control->waiting, so that a commit which nobody waits for costs no call of the system. The steps, and the failure
 * that each prevents:
 *  W1 [model: wait] A waiter sets its bit, full fence, then loads `visible`, and sleeps only if that is not newer than
 *     what it waits for, and only while the word is what it judged. Without the fence it can look before its mark is
 *     seen; with the last look before the mark, a commit between the two finds no mark: it wakes nobody, and the
 *     waiter sleeps beside a commit. (Where a sleep compares the word once more, as on Linux, that would save it;
 *     a system that sleeps on events compares nothing.)
 *  W2 [model: wait] A committer raises `visible`, full fence, then reads the marks. Without the fence its look at the
 *     marks can come before others see the new number, and it wakes nobody.
 *  W3 [model: wait] A bit belongs to the holder of its SLOT lock, who alone clears it when it has done waiting, and
 *     when it takes the slot, by operations that leave the other bits of the word alone. Nobody clears the mark of a
 *     living waiter: one that was woken may be about to sleep again, on the new number, and the next commit would not
 *     wake it. The mark of a waiter that was killed would cost every later commit a call; so a committer that woke
 *     nobody looks at one marked slot, each time at the next, and clears its bit under its lock if nobody holds that.
 *  W4 [model: wait] Every sleep is bounded: a second, after which the waiter looks again. A committer can be killed
 *     after it raised `visible` and before it woke; the file can be removed, or a sync fail, and no commit comes to
 *     tell.
 *  W5 Who may not write can leave no mark, and sleeps 5 ms (or shorter, if somebody with a mark is woken). What is
 *     newest it answers as km_begin() does: the words of control while a session lives, between two looks at the same
 *     epoch (O4 in open.c); otherwise the header and the frames, which are read again when the epoch, the header's
 *     sequence or `appended` differ: a session may have come and gone between two looks.
 *
 * Before it sleeps a waiter spins, because a sleep and a wake cost more than a short wait. How long is learnt from the
 * waits of this handle: after a spin that saw the commit, the next may take twice the time of this one; one in vain
 * halves the time, to nothing. Every now and then a full spin finds out whether waits have become short. So where
 * spinning cannot help (a single processor, which the committer needs; waits that are long; more waiters than
 * processors) it stops by itself.
 */
#include <inttypes.h>

#include "map.h"

#define SLEEP_NS UINT64_C(1000000000)
#define LOOK_NS UINT64_C(5000000)
#define SPIN_MOST_NS UINT64_C(50000)
#define SPIN_LEAST_NS UINT64_C(1000)

enum { SPIN_LOOKS = 16, SPIN_ANEW = 64, LOOK_TRIES = 8, WORD_BITS = 64, WORDS = KM__SLOTS / WORD_BITS };

/* What a look without a session depends on. */
struct state {
    uint64_t epoch, sequence, appended;
};

struct wait {
    km_map *map;
    uint64_t after, deadline;
    uint64_t newest;
    uint32_t word; /* of `visible`, loaded before everything else that a look finds */
    bool lives;    /* the words of control could be believed */
    bool failed;
    uint64_t checked_ns; /* when the file was looked at */
    struct state state;  /* without a session: what `newest` was read from */
};

/* The half of `visible` that is slept on. Maps exist on little-endian machines only. */
static _Atomic uint32_t *low_word(struct km__control *control) {
    return (_Atomic uint32_t *)(void *)&control->visible;
}

/* ---- waking ------------------------------------------------------------------------------------------------------ */

static uint64_t bit_of(uint32_t slot) {
    return UINT64_C(1) << (slot % WORD_BITS);
}

static void unmark(struct km__control *control, uint32_t slot) {
    atomic_fetch_and_explicit(&control->waiting[slot / WORD_BITS], ~bit_of(slot), memory_order_seq_cst);
}

static bool is_marked(const struct km__control *control, uint32_t slot) {
    return (atomic_load_explicit(&control->waiting[slot / WORD_BITS], memory_order_relaxed) & bit_of(slot)) != 0;
}

/* W3: one marked slot after the one that was looked at last. */
static void clear_dead(km_map *map) {
    struct km__control *control = map->control;
    uint32_t slot = map->wait_suspect;
    for (uint32_t i = 0; i < KM__SLOTS; i++) {
        slot = slot + 1 < KM__SLOTS ? slot + 1 : 0;
        if (!is_marked(control, slot))
            continue;
        map->wait_suspect = slot;
        if (slot == map->slot) { /* L3: its own lock looks free. It is not waiting: somebody overwrote the word */
            unmark(control, slot);
        } else if (os_lock_try(map->locks, KM__SLOT_LOCKS + slot, 1, OS_LOCK_WRITE) == 0) {
            unmark(control, slot);
            os_lock_release(map->locks, KM__SLOT_LOCKS + slot, 1);
        }
        return;
    }
}

static void wake_waiters(km_map *map) {
    struct km__control *control = map->control;
    uint64_t names[KM__SLOTS];
    size_t count = 0;
    for (uint32_t word = 0; word < WORDS; word++) {
        uint64_t marks = atomic_load_explicit(&control->waiting[word], memory_order_relaxed);
        for (uint32_t slot = word * WORD_BITS; marks != 0; marks >>= 1, slot++)
            if ((marks & 1) != 0)
                names[count++] = atomic_load_explicit(&control->slot[slot].waiter, memory_order_relaxed);
    }
    if (os_waiter_wake(low_word(control), names, count) == 0)
        clear_dead(map);
}

void km__publish(km_map *map, uint64_t generation) {
    struct km__control *control = map->control;
    if (km__load(&control->visible) >= generation)
        return; /* who raised it wakes */
    km__raise(&control->visible, generation);
    atomic_thread_fence(memory_order_seq_cst); /* W2 */
    uint64_t marks = 0;
    for (uint32_t word = 0; word < WORDS; word++)
        marks |= atomic_load_explicit(&control->waiting[word], memory_order_relaxed);
    if (marks != 0)
        wake_waiters(map);
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

/* The words of a living session. After a failed sync a transactional map is read at its last durable commit. */
static void look_at_words(struct wait *wait) {
    struct km__control *control = wait->map->control;
    wait->failed = atomic_load_explicit(&control->failed, memory_order_acquire) != 0;
    const uint64_t visible = km__load(&control->visible);
    wait->word = (uint32_t)visible;
    wait->newest = wait->failed && !km__is_live(wait->map) ? km__load(&control->durable) : visible;
    wait->lives = true;
}

/* Nobody who may write is attached: what the file says, read again if it may say something else now. */
static int look_at_file(struct wait *wait, uint64_t epoch) {
    km_map *map = wait->map;
    struct km__slots slots;
    wait->word = (uint32_t)km__load(&map->control->visible);
    const uint64_t appended = km__load(&map->control->appended);
    int result = km__slots_load(map, &slots);
    if (result != 0)
        return result;
    const struct km__header *header = &slots.slot[slots.chosen];
    const struct state now = {epoch, header->sequence, appended};
    if (wait->lives || wait->state.epoch != now.epoch || wait->state.sequence != now.sequence ||
        wait->state.appended != now.appended) {
        if (km__is_live(map))
            wait->newest = km__live_generation(map, header);
        else
            result = km__newest_generation(map, &wait->newest);
    }
    if (result != 0)
        return result;
    wait->state = now;
    wait->lives = wait->failed = false;
    return 0;
}

/* W5. A session that keeps beginning and ending leaves what was known; the next look is near. */
static int look_read_only(struct wait *wait) {
    struct km__control *control = wait->map->control;
    for (int tries = 0; tries < LOOK_TRIES; tries++) {
        struct wait found = *wait;
        const uint64_t epoch = km__load(&control->epoch);
        bool lives = false;
        int result = km__session_lives(wait->map, &lives);
        if (result == 0 && lives)
            look_at_words(&found);
        else if (result == 0)
            result = look_at_file(&found, epoch);
        if (result != 0)
            return result;
        atomic_thread_fence(memory_order_acquire);
        if (km__load(&control->epoch) == epoch) {
            *wait = found;
            return 0;
        }
    }
    return 0;
}

static int look(struct wait *wait) {
    if (wait->map->read_only)
        return look_read_only(wait);
    look_at_words(wait);
    return 0;
}

static bool is_over(const struct wait *wait) {
    return wait->newest > wait->after || wait->failed;
}

/* W4: once a second, whether the file is still there. */
static int check_file(struct wait *wait, uint64_t now_ns) {
    if (now_ns - wait->checked_ns < SLEEP_NS)
        return 0;
    wait->checked_ns = now_ns;
    return km__still_there(wait->map);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

/* Watch the words for a short time. What was seen is for the caller to look at. */
static void spin(struct wait *wait) {
    km_map *map = wait->map;
    const struct km__control *control = map->control;
    const uint64_t longest = map->wait_count++ % SPIN_ANEW == 0 ? SPIN_MOST_NS : map->wait_spin_ns;
    if (longest == 0)
        return;
    const uint64_t started = os_time_monotonic_ns();
    uint64_t taken = 0;
    bool seen = false;
    while (!seen && taken < longest && started + taken < wait->deadline) {
        for (int i = 0; i < SPIN_LOOKS && !seen; i++) {
            os_pause();
            seen = km__load(&control->visible) > wait->after;
        }
        taken = os_time_monotonic_ns() - started;
    }
    const uint64_t next = seen ? 2 * taken + SPIN_LEAST_NS : map->wait_spin_ns / 2;
    map->wait_spin_ns = next > SPIN_MOST_NS ? SPIN_MOST_NS : next < SPIN_LEAST_NS ? 0 : next;
}

/* Sleep until a look finds an end, or the time is over. */
static int sleep_until_over(struct wait *wait) {
    km_map *map = wait->map;
    const uint64_t longest = map->read_only ? LOOK_NS : SLEEP_NS;
    if (!map->read_only) {
        const uint32_t slot = map->slot;
        atomic_fetch_or_explicit(&map->control->waiting[slot / WORD_BITS], bit_of(slot), memory_order_seq_cst);
        atomic_thread_fence(memory_order_seq_cst); /* W1 */
    }
    int result = look(wait);
    while (result == 0 && !is_over(wait)) {
        const uint64_t now = os_time_monotonic_ns();
        if (now >= wait->deadline)
            break;
        const uint64_t left = wait->deadline - now;
        os_waiter_sleep(map->waiter, low_word(map->control), wait->word, left < longest ? left : longest);
        result = check_file(wait, os_time_monotonic_ns());
        if (result == 0)
            result = look(wait);
    }
    if (!map->read_only && !map->lost) /* what is lost is not touched: the mark is one of a dead waiter then */
        unmark(map->control, map->slot);
    return result;
}

static int wait_for(struct wait *wait, uint32_t timeout_ms) {
    int result = look(wait);
    if (result != 0 || is_over(wait) || timeout_ms == 0)
        return result;
    if (wait->lives) {
        spin(wait);
        result = look(wait);
    }
    return result != 0 || is_over(wait) ? result : sleep_until_over(wait);
}

static int wait_and_tell(km_map *map, uint64_t after, uint32_t timeout_ms, uint64_t *now) {
    const uint64_t started = os_time_monotonic_ns();
    struct wait wait = {.map = map,
                        .after = after,
                        .deadline = timeout_ms == UINT32_MAX ? UINT64_MAX : started + timeout_ms * UINT64_C(1000000),
                        .lives = true,
                        .checked_ns = started};
    int result = wait_for(&wait, timeout_ms);
    if (result != 0)
        return result;
    if (wait.newest <= after && wait.failed)
        return km__failed_error(map);
    if (wait.newest <= after)
        result = km__still_there(map); /* or it is no wonder that nothing came */
    else if (km__is_live(map))
        result = km__live_refresh(map);
    if (result != 0)
        return result;
    if (now != NULL)
        *now = wait.newest;
    if (wait.newest > after)
        return 0;
    return km__error(KM_ETIMEOUT,
                     "%s: commit %" PRIu64 " is the newest, and none after %" PRIu64 " came in %" PRIu32
                     " ms: wait longer, or see who may write (keepmap who)",
                     map->path, wait.newest, after, timeout_ms);
}

int km_wait(km_map *map, uint64_t after, uint32_t timeout_ms, uint64_t *now) {
    int result = km__enter(map);
    if (result != 0)
        return result;
    if (map->raw)
        result = km__raw_refuse(map, "km_wait()");
    else if (map->access != 0)
        result = km__error(KM_EMISUSE, "%s: km_wait() inside a transaction: commit or abort it first", map->path);
    else
        result = wait_and_tell(map, after, timeout_ms, now);
    return km__leave(map, result);
}
