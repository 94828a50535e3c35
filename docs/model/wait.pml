/* SPDX-License-Identifier: MIT
 *
 * wait.pml: who waits for a commit is woken by it.
 *
 * Roles: Waiter (up to three handles, two of them for one slot, one after the other; each takes the slot, waits some
 * times, leaves, or is killed at any step), Committer (up to two; publishes, wakes, clears the marks of the dead),
 * Memory (the processor: the new number and a mark pass through store buffers, and a fence is a wait until the buffer
 * is empty). The look that a sleep takes at the word is no fence here, though Linux has one there.
 *
 * Promise (assertion, wherever nothing can go on):
 *   WOKEN   nobody sleeps although a commit came that he waits for. Sleeps have no limit here, so that nothing leans
 *           on it, but for -DCOMMITTER_DIES: there a committer may be killed between its number and its wake
 *
 * Rules, by the switch that takes each one out (a run with it must find an error):
 *   NO_WAKE_FENCE   a committer reads the marks before its number is seen
 *   NO_MARK_FENCE   a waiter looks at the number, and sleeps, before its mark is seen
 *   NO_COMPARE      a waiter sleeps whatever the word is by then
 *   TWO_LOOKS       a waiter sleeps on the word as it loads it then, not on the one that it judged
 *   CLEAR_LIVING    a committer that woke nobody clears all marks that it saw
 *   CLEAR_NO_LOCK   it looks whether the SLOT lock is free, but does not take it
 *   PLAIN_MARKS     a mark is set and cleared by a load and a store of the word that it shares with other marks
 *   NO_LIMIT        sleeps have no limit (with COMMITTER_DIES)
 *   LOOK_FIRST      with EVENTS: a waiter looks at the number before it sets its mark
 * Not needed (a run with it finds no error; README.md says why it stays):
 *   LOOK_FIRST      without EVENTS: the sleep compares the word once more, after the mark
 *   KEEP_OLD_MARK   who takes a slot leaves the mark that a dead waiter has left there
 *
 * EVENTS: sleeps are of the other kind (Windows): each waiter has an event that stays set until its owner has slept on
 * it, nothing compares the word, and a wake sets the events of those whose marks were seen.
 *
 * Sizes: K commits in all, WAITERS, COMMITTERS, DEATHS of waiters.
 */
#ifndef K
#define K 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef WAITERS
#define WAITERS 3
#endif
#ifndef COMMITTERS
#define COMMITTERS 1
#endif
#define SLOTS 2
#define SLOT_OF(h) ((h) / 2)
#define BIT(s) (1 << (s))
#define WITHOUT(set, s) ((set) & (255 - BIT(s)))
#define FREE 255
#define EMPTY 255

byte visible;
byte marks;                 /* a bit for each slot */
byte slot_lock[SLOTS] = FREE;
byte waiter_of[SLOTS];      /* whose event it is, + 1 */
bool asleep[WAITERS];
bool event[WAITERS];
byte number_buffer[COMMITTERS] = EMPTY;
#define SET 1
#define CLEAR 2
byte mark_buffer[WAITERS] = EMPTY;

byte made;                  /* commits */
byte after[WAITERS];        /* ghost, but for its owner: what is waited for is newer than this */
bool dies[WAITERS];

/* Hands a delayed store over, at some time. */
proctype Memory() {
    byte i;
end:
    do
#if COMMITTERS > 1
    :: atomic { number_buffer[1] != EMPTY -> i = 1; goto number }
#endif
    :: atomic { number_buffer[0] != EMPTY -> i = 0;
number:
        if :: number_buffer[i] > visible -> visible = number_buffer[i] :: else fi;
        number_buffer[i] = EMPTY; i = 0 }
#if WAITERS > 2
    :: atomic { mark_buffer[2] != EMPTY -> i = 2; goto mark }
#endif
    :: atomic { mark_buffer[1] != EMPTY -> i = 1; goto mark }
    :: atomic { mark_buffer[0] != EMPTY -> i = 0;
mark:
        if
        :: mark_buffer[i] == SET -> marks = marks | BIT(SLOT_OF(i))
        :: mark_buffer[i] == CLEAR -> marks = WITHOUT(marks, SLOT_OF(i))
        fi;
        mark_buffer[i] = EMPTY; i = 0 }
    od
}

#ifdef PLAIN_MARKS
#define MARK atomic { mark_buffer[h] == EMPTY -> seen = marks }; atomic { marks = seen | BIT(s); seen = 0 }
#define UNMARK atomic { mark_buffer[h] == EMPTY -> seen = marks }; atomic { marks = WITHOUT(seen, s); seen = 0 }
#else
#define MARK atomic { mark_buffer[h] == EMPTY -> mark_buffer[h] = SET }
#define UNMARK atomic { mark_buffer[h] == EMPTY -> mark_buffer[h] = CLEAR }
#endif
#ifdef NO_MARK_FENCE
#define MARK_FENCE skip
#else
#define MARK_FENCE mark_buffer[h] == EMPTY
#endif
#define ALL_STORED mark_buffer[h] == EMPTY /* a call of the system is a fence, and so is a death */

/* Sleep, if the word is still what was judged; then look again. */
inline sleep() {
#ifdef EVENTS
    asleep[h] = 1;
end_of_sleep:
    atomic { event[h] -> event[h] = 0; asleep[h] = 0 }
#else
#ifdef TWO_LOOKS
    word = visible;
#endif
    atomic {
#ifdef NO_COMPARE
        asleep[h] = 1
#else
        asleep[h] = (visible == word)
#endif
    }
end_of_sleep:
#if defined(COMMITTER_DIES) && !defined(NO_LIMIT)
    if :: !asleep[h] :: asleep[h] = 0 fi
#else
    !asleep[h]
#endif
#endif
}

proctype Waiter(byte h) {
    byte word, seen;
    byte s = SLOT_OF(h);
end_of_slots:
    {
        atomic { slot_lock[s] == FREE -> slot_lock[s] = h }
        atomic {
#ifndef KEEP_OLD_MARK
            marks = WITHOUT(marks, s); /* a fence of its own */
#endif
            waiter_of[s] = h + 1
        }
        do
        :: skip -> /* km_wait() */
#ifdef LOOK_FIRST
            word = visible;
#endif
            MARK;
            MARK_FENCE;
#ifndef LOOK_FIRST
            word = visible;
#endif
            do
            :: word > after[h] -> break
            :: word <= after[h] -> sleep(); word = visible
            :: word <= after[h] -> break /* its time is over */
            od;
            UNMARK;
            atomic { after[h] = word; word = 0 }
        :: skip -> break
        od;
        atomic { ALL_STORED -> slot_lock[s] = FREE }
    } unless {
        atomic { dies[h] && ALL_STORED ->
            dies[h] = 0; asleep[h] = 0; event[h] = 0; word = 0; seen = 0; after[h] = 0;
            if :: slot_lock[s] == h -> slot_lock[s] = FREE :: else fi }
    }
}

#ifdef NO_WAKE_FENCE
#define WAKE_FENCE skip
#else
#define WAKE_FENCE number_buffer[c] == EMPTY
#endif
#ifdef COMMITTER_DIES
#define MAY_DIE if :: goto dead :: skip fi
#else
#define MAY_DIE skip
#endif
#define CLEARER 100

inline wake() {
    atomic {
        s = 0;
#ifdef EVENTS
        do
        :: s < SLOTS ->
            if
            :: (seen & BIT(s)) && waiter_of[s] != 0 && slot_lock[s] == waiter_of[s] - 1 ->
                event[waiter_of[s] - 1] = 1; woken = 1
            :: else
            fi;
            s++
        :: else -> break
        od;
#else
        do
        :: s < WAITERS -> woken = woken || asleep[s]; asleep[s] = 0; s++
        :: else -> break
        od;
#endif
        s = 0
    }
}

/* The mark of a dead waiter would cost every later commit a call. */
inline clear_dead() {
    do
    :: s < SLOTS && !(seen & BIT(s)) -> s++
    :: s < SLOTS && (seen & BIT(s)) ->
#ifdef CLEAR_LIVING
        atomic { marks = WITHOUT(marks, s); s++ }
#else
        if
#ifdef CLEAR_NO_LOCK
        :: slot_lock[s] == FREE -> marks = WITHOUT(marks, s)
#else
        :: atomic { slot_lock[s] == FREE -> slot_lock[s] = CLEARER + c }
            marks = WITHOUT(marks, s);
            slot_lock[s] = FREE
#endif
        :: slot_lock[s] != FREE
        fi;
        s++
#endif
    :: s == SLOTS -> s = 0; break
    od
}

proctype Committer(byte c) {
    byte g, seen, s;
    bool woken;
    do
    :: atomic { made < K -> made++; g = made }
        if
        :: visible >= g /* who raised it wakes */
        :: visible < g ->
            number_buffer[c] = g;
            WAKE_FENCE;
            MAY_DIE;
            seen = marks;
            if
            :: seen != 0 ->
                wake();
                if :: !woken -> clear_dead() :: else fi
            :: else
            fi;
            number_buffer[c] == EMPTY
        fi;
        atomic { g = 0; seen = 0; woken = 0 }
    :: break
    od;
dead:
    skip
}

proctype Death() {
    byte deaths, h;
    do
    :: h < WAITERS && deaths < DEATHS ->
        if
        :: atomic { slot_lock[SLOT_OF(h)] == h -> dies[h] = 1; h++; deaths++ }
        :: h++
        fi
    :: else -> break
    od
}

proctype Watch() {
    byte h;
    timeout ->
        d_step {
            do
            :: h < WAITERS -> assert(!asleep[h] || visible <= after[h]); h++ /* WOKEN */
            :: else -> break
            od
        }
}

init {
    atomic {
        byte k = 0;
        do :: k < WAITERS -> run Waiter(k); k++ :: else -> k = 0; break od;
        do :: k < COMMITTERS -> run Committer(k); k++ :: else -> k = 0; break od;
        run Memory(); run Death(); run Watch()
    }
}
