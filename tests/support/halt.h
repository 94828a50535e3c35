/* SPDX-License-Identifier: MIT
 *
 * A process that stops before each of its calls of the system, so that a test can look at the world at that moment, do
 * something, kill it there, or let it go on: every state between two calls that another process can ever meet.
 *
 *     struct halt halt;
 *     for (unsigned n = 1;; n++) {
 *         halt_start(&halt, child, context);
 *         const enum halt_event event = halt_run(&halt, n);
 *         look_or_do_something();
 *         halt_kill(&halt);              or halt_finish(&halt)
 *         if (event != HALT_CALL)
 *             break;
 *     }
 *
 * The child is a copy of the test's process: it must report by child_must() and its result.
 */
#ifndef KM_TESTS_HALT_H
#define KM_TESTS_HALT_H

#include <stdbool.h>
#include <sys/types.h>

enum halt_event {
    HALT_CALL,  /* it stands before a call of the system */
    HALT_MARK,  /* it stands in halt_mark() */
    HALT_ENDED, /* its status can be asked for */
};

struct halt {
    pid_t pid; /* 0: none */
    bool entering;
    long call; /* number of the call before which it stands */
    unsigned long arguments[6];
    int status; /* when it has ended: exit status, or -signal */
};

/** False, with a notice, where processes may not trace their children: the test should skip(). */
bool halt_is_possible(void);

/** Start a process that runs `child`, and stop it before it does. There is one at a time: the former is killed, if it
 *  has not ended. */
void halt_start(struct halt *halt, int (*child)(void *context), void *context);

/** Let it run up to the next call of the system, its mark or its end. */
enum halt_event halt_next(struct halt *halt);

/** Let it run up to its `n`-th call from now on; sooner if it comes to its mark or its end. */
enum halt_event halt_run(struct halt *halt, unsigned n);

/** Let it run to its mark, or its end. */
enum halt_event halt_run_to_mark(struct halt *halt);

/** Let it run to its end. Returns its exit status, or -signal. */
int halt_finish(struct halt *halt);

void halt_kill(struct halt *halt);

/** In the child: stop here until the test lets it go on. */
void halt_mark(void);

#endif
