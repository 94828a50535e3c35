/* SPDX-License-Identifier: MIT
 *
 * What os_view_linux.c and os_tracker_linux.c share: what stands behind a view on Linux.
 */
#ifndef KM_OS_TRACKER_LINUX_H
#define KM_OS_TRACKER_LINUX_H

#include <sys/types.h>

#include "os_posix.h"

struct os__view_linux {
    pid_t process;                 /* that made the mapping: a child of fork does not have it */
    struct os__descriptor faults;  /* userfaultfd, for OS_TRACKER_SCAN */
    struct os__descriptor pagemap; /* for OS_TRACKER_SCAN and OS_TRACKER_PAGEMAP */
    bool missed; /* what the last scan found was not all reported: the next question reports every page */
    void *buffer;
};

/** The view has grown from `before` bytes: track the tail too, or fall back to a tracker that can. */
void os__tracker_grow(struct os_view *view, uint64_t before);

/** Stop tracking and close what it needed. */
void os__tracker_stop(struct os_view *view);

#endif
