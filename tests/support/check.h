/* SPDX-License-Identifier: MIT
 *
 * What every test includes: cmocka, and assertions about the library's results that name the error and its detail.
 *
 * must() and must_fail() end the present cmocka test. They belong into the test's own thread and process only; a child
 * process or a thread reports through child_must() or its result.
 */
#ifndef KM_TESTS_CHECK_H
#define KM_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "keepmap.h"

/** The call returns 0. */
#define must(call) check_result((call), 0, #call, __FILE__, __LINE__)

/** The call returns the error `code`, and leaves a sentence in the thread's detail. */
#define must_fail(call, code) check_result((call), (code), #call, __FILE__, __LINE__)

/** In a process made by fork(): the call returns 0, or the process says so on standard error and exits with 99. */
#define child_must(call) check_child((call) == 0, #call, __FILE__, __LINE__)

/** In a process made by fork(): the condition holds, or the process exits with 99. */
#define child_check(condition) check_child((condition), #condition, __FILE__, __LINE__)

void check_result(int result, int expected, const char *call, const char *file, int line);
void check_child(int holds, const char *call, const char *file, int line);

/** The thread's error detail contains `part`; the test fails otherwise. */
void check_detail_contains(const char *part);

/** A handle opened with `flags` and, when it is created, `size`; the test fails if it cannot be opened. */
km_map *check_open(const char *path, uint64_t size, uint32_t flags);

/** One commit that stores `length` copies of `value` at `offset`. */
void check_commit_fill(km_map *map, uint64_t offset, int value, size_t length);

/** What km_get_info() tells. */
struct km_info check_info(km_map *map);

/** km_verify() finds nothing. */
void check_clean(km_map *map);

/** Run `child` in a process of its own, at most `limit_s` seconds long; returns its exit status, or -signal. */
int check_in_child(int (*child)(void *context), void *context, unsigned limit_s);

#endif
