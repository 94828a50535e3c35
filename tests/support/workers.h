/* SPDX-License-Identifier: MIT
 *
 * Worker processes of a test: copies of it that work until they are killed, and end by themselves only when they have
 * found something wrong, and said so.
 */
#ifndef KM_TESTS_WORKERS_H
#define KM_TESTS_WORKERS_H

#include <sys/types.h>

/** As fork(), but never fails. The child, where it returns 0, ends with its parent, after `seconds` at the latest, and
 *  at a fault as any program does: the test's own handlers are gone. */
pid_t workers_fork(unsigned seconds);

/** Kill those that run; their ids become 0. */
void workers_end(pid_t *ids, unsigned count);

/** Fail if one has ended, after ending the others. */
void workers_expect_alive(pid_t *ids, unsigned count);

#endif
