/* SPDX-License-Identifier: MIT
 *
 * The test's own directory below TMPDIR, and what is done to files in it behind the library's back: copying, comparing,
 * flipping bits, resealing headers.
 */
#ifndef KM_TESTS_SCRATCH_H
#define KM_TESTS_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

#include "format/layout.h"

/** Path below the test's directory, which is made at first use and removed when the process that made it ends. The text
 *  lives until 32 more paths were asked for. */
char *scratch_path(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** Have another directory removed with that one, whole. One; the text must stay. */
void scratch_remove_too(const char *path);

/** End the whole program with a message after `seconds`; the directories are removed. */
void scratch_time_limit(unsigned seconds);

/** A file's bytes in memory. */
struct scratch_image {
    unsigned char *bytes;
    size_t length;
};

struct scratch_image scratch_load(const char *path);
void scratch_store(const char *path, const void *bytes, size_t length);
void scratch_release(struct scratch_image *image);

/** Copy a file while nobody uses it. */
void scratch_copy(const char *from, const char *to);

/** 1 if the file holds exactly these bytes. */
int scratch_equals(const char *path, const struct scratch_image *image);

void scratch_read(const char *path, uint64_t offset, void *bytes, size_t length);
void scratch_write(const char *path, uint64_t offset, const void *bytes, size_t length);
void scratch_flip(const char *path, uint64_t offset, unsigned char mask);

uint64_t scratch_file_size(const char *path);

/** The header slot that counts, read from the file (the valid one with the higher sequence). */
struct km__header scratch_header(const char *path);

/** Minutes that the long form of a test is to run: KEEPMAP_MINUTES; 0: its short form. */
unsigned scratch_minutes(void);

/** Seconds of a clock that never goes back. */
double scratch_now_s(void);
void scratch_sleep_ms(unsigned ms);

#endif
