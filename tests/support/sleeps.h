/* SPDX-License-Identifier: MIT
 *
 * A look at the calls by which km_wait() sleeps and a commit wakes: a program that includes this has a syscall() of its
 * own, which counts them, makes the bounded sleeps long, and lets something happen just before a sleep.
 *
 * The counts are shared with the processes that are forked after sleeps_start().
 */
#ifndef KM_TESTS_SLEEPS_H
#define KM_TESTS_SLEEPS_H

#include <stdatomic.h>
#include <stdint.h>

struct sleeps {
    _Atomic uint64_t sleeps; /* calls to sleep on the word that km_wait() sleeps on */
    _Atomic uint64_t late;   /* those that did not begin, because the word had changed already */
    _Atomic uint64_t wakes;  /* calls to wake those who sleep on it */
    _Atomic uint64_t woken;  /* how many were asleep */
    _Atomic uint64_t lost;   /* long sleeps that ended by their time, though the word had changed: nobody woke them */
    _Atomic uint64_t longest_ns; /* the longest time that was asked for */
};

extern struct sleeps *sleeps;

/** Must be called first. */
void sleeps_start(void);

/** All counts are 0 again. */
void sleeps_reset(void);

/** From now on, in this process, a sleep of `from_ns` or more takes `to_ns`: who is not woken stays asleep. 0: as they
 *  are. */
void sleeps_stretch(uint64_t from_ns, uint64_t to_ns);

/** Call `each` just before this thread next sleeps on that word, once. */
typedef void sleeps_function(void *context);
void sleeps_before(sleeps_function *each, void *context);

#endif
