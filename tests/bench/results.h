/* SPDX-License-Identifier: MIT
 *
 * What was measured: samples, their median, and the report as a table or as JSON.
 */
#ifndef KM_BENCH_RESULTS_H
#define KM_BENCH_RESULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Times of one kind, in nanoseconds. Fill with zeros before first use. */
struct samples {
    uint64_t *values;
    size_t count, capacity;
};

void samples_add(struct samples *samples, uint64_t value);

/** The value below which `percent` of the samples lie; 0 without samples. Sorts them. */
uint64_t samples_percentile(struct samples *samples, double percent);
void samples_release(struct samples *samples);

uint64_t clock_ns(void);

/** One line of the report. Numbers below 0 are not known. */
struct result {
    char name[64];
    unsigned changes; /* k; 0: does not apply */
    const char *unit;
    double value;  /* median, in `unit` */
    double high;   /* 99th percentile */
    double ratio;  /* to raw */
    double target; /* what it must not exceed */
    bool target_is_ratio;
};

void results_add(const struct result *result);

/** Print all; `notes` come first. Returns how many targets were missed. */
unsigned results_print(bool json, const char *const *notes, size_t note_count);

#endif
