/* SPDX-License-Identifier: MIT
 *
 * Handles that wait, for the tests of waiting and waking: on a thread, or in a process of their own.
 */
#ifndef KM_TESTS_WAITER_H
#define KM_TESTS_WAITER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "map/map.h"

#define WAITER_SIZE 8192u
#define FOR_EVER UINT32_MAX
#define LONG_NS (UINT64_C(600) * 1000000000u) /* who sleeps so long does not wake up within a test */

/** A new map in the test's directory, and a handle whose commits are visible at once. */
km_map *waiter_map(const char *name);

/** A commit that changes something. */
void waiter_commit(km_map *map);

/** Whether the mark of a slot is set; whether none is. */
bool waiter_is_marked(const km_map *map, uint32_t slot);
bool waiter_none_is_marked(const km_map *map);

/** A call of km_wait() on a thread: the handle and what is asked, and then the result. */
struct waiter {
    km_map *map;
    uint64_t after, now;
    uint32_t timeout_ms;
    int result;
    char detail[256];
    pthread_t thread;
};

void waiter_start(struct waiter *waiter);
void waiter_join(struct waiter *waiter);

/** Until somebody has called the system to sleep who had not when there were `before` such calls (sleeps->sleeps). */
void waiter_sleeps(uint64_t before);

/** A child process, which opens the map for itself in `act`; returns when it has begun to sleep. */
pid_t waiter_in_child(int (*act)(void *context), const char *path);

#endif
