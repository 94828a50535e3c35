/* SPDX-License-Identifier: MIT
 *
 * Stopping a process that works on a map, at a moment or at a point of the protocol, and seeing what it holds there:
 * its locks from what the kernel tells of its descriptors, its pin from control.
 *
 *     if (strike_seek(pid, KM__CHECKPOINT, 3, 500))     it has got CHECKPOINT and made three calls since
 *         held = strike_stop(pid, control);
 *     kill(pid, SIGKILL), or strike_go_on(pid);
 */
#ifndef KM_TESTS_STRIKE_H
#define KM_TESTS_STRIKE_H

#include <stdbool.h>
#include <sys/types.h>

#include "map/control.h"
#include "map/map.h"

/** What a stopped process can be found to hold. */
enum strike_hold {
    STRIKE_ATTACH,     /* it attaches, recovers or detaches */
    STRIKE_WRITER,     /* inside a write transaction */
    STRIKE_CHECKPOINT, /* changing home or a header slot, or verifying */
    STRIKE_SYNC,
    STRIKE_PIN,     /* a transaction of a handle that may write */
    STRIKE_READER,  /* a transaction of one that may not */
    STRIKE_NOTHING, /* attached, but none of these */
    STRIKE_OUTSIDE, /* not attached: it starts, or is between two handles */
    STRIKE_HOLDS
};

extern const char *const strike_names[STRIKE_HOLDS];

#define STRIKE_ANY_CALL (-1)

/** False, with a notice, where processes may not trace others. */
bool strike_is_possible(void);

/**
 * Let `pid`, a child that runs, go on call by call until it gets `lock` (of enum km__lock; STRIKE_ANY_CALL: any call
 * of the system), and then through `more` entries into and returns from the kernel; `calls` of them in all at the
 * most. True: it stands there, under trace. False: it has ended, and was not waited for.
 */
bool strike_seek(pid_t pid, int lock, unsigned more, unsigned calls);

/** Stop a child that runs or stands under trace; it is not traced any more. A set of 1 << enum strike_hold; 0: it has
 * ended, and was not waited for. `control` may be NULL: then pins are not seen. */
unsigned strike_stop(pid_t pid, const struct km__control *control);

/** What it holds while it stands, under trace or stopped. */
unsigned strike_look(pid_t pid, const struct km__control *control);

void strike_go_on(pid_t pid);

#endif
