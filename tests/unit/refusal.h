/* SPDX-License-Identifier: MIT
 *
 * A process that the system refuses something, as a container or an old kernel would. For children made by
 * check_in_child() only: it cannot be taken back.
 */
#ifndef KM_TESTS_REFUSAL_H
#define KM_TESTS_REFUSAL_H

#include <stdbool.h>
#include <stdint.h>

/** What a child returns when the machine does not let it make its situation. */
#define REFUSAL_SKIP 77

/** Run `child` in a process of its own, which must return 0; if it returns REFUSAL_SKIP, the test is skipped. */
void refusal_run(int (*child)(void *context), void *context);

/**
 * From now on the system call `number` fails with `error` when its argument `argument` (0 to 5) has all bits of `mask`.
 * A mask of 0: always. False if the system does not let us.
 */
bool refuse_call(long number, unsigned argument, uint32_t mask, int error);

/** A file system of `bytes` at `path`, seen by this process only. False if the system does not let us. */
bool refusal_mount_tmpfs(const char *path, unsigned long bytes);

/** Become somebody without privileges. */
bool refusal_become_nobody(void);

#endif
