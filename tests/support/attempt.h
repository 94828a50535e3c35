/* SPDX-License-Identifier: MIT
 *
 * Trying bad files: each is opened, and all done with it that a program may do, in a process of its own, so that a
 * crash is told with what caused it; and what was refused must not have been changed.
 */
#ifndef KM_TESTS_ATTEMPT_H
#define KM_TESTS_ATTEMPT_H

#include "check.h"
#include "scratch.h"

#define ATTEMPT_PAGES 10u
#define ATTEMPT_SIZE (ATTEMPT_PAGES * KM_PAGE_SIZE)

/* What a process that tried a file found; shared with it. */
struct attempt {
    const char *path;
    uint32_t flags;
    uint64_t index; /* of the change that was tried last, in a batch */
    int opened;     /* result of km_open() */
    int used;       /* first error of what was done with the handle */
    int explained;  /* the error had a detail */
    uint64_t generation;
    unsigned char first_byte, last_byte;
    uint64_t damaged; /* by km_verify() */
};

/** The attempt at work; in memory that the processes share. */
extern struct attempt *attempt;

/** Must be called first. */
void attempt_start(void);

/** In this process: open the file of the attempt and do all that a program may do. */
void attempt_use(void);

/** In a process of its own: the result of km_open(). `what` is told when it crashes, or changes a file that it
 *  refused. */
int attempt_file(const char *path, uint32_t flags, const char *what);

/** The file is refused with `expected`, however it is opened. */
void attempt_refused(const char *path, int expected, const char *what);

/** A cleanly closed map at generation 2: byte 0 is 11, the last byte 22. */
const char *attempt_map(const char *name);

/** A field of a header or of a frame's head. */
struct field {
    const char *name;
    size_t offset, size;
    int geometry; /* a value far out of range must be refused */
};

/** The values that are tried in the place of `value`: `which` from 0 to ATTEMPT_VALUES - 1, the last ones far out of
 *  range. */
#define ATTEMPT_VALUES 15u
#define ATTEMPT_FIRST_FAR_VALUE 12u
uint64_t attempt_value(unsigned which, uint64_t value);

uint64_t attempt_get(const void *bytes, const struct field *field);
void attempt_set(void *bytes, const struct field *field, uint64_t value);

#endif
