/* SPDX-License-Identifier: MIT
 *
 * Samples and the report: see results.h.
 */
#include "results.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MOST_RESULTS 128

static struct result results[MOST_RESULTS];
static size_t result_count;

uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void samples_add(struct samples *samples, uint64_t value) {
    if (samples->count == samples->capacity) {
        samples->capacity = samples->capacity == 0 ? 256 : samples->capacity * 2;
        samples->values = realloc(samples->values, samples->capacity * sizeof *samples->values);
        if (samples->values == NULL) {
            abort();
        }
    }
    samples->values[samples->count++] = value;
}

static int compare(const void *a, const void *b) {
    const uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

uint64_t samples_percentile(struct samples *samples, double percent) {
    if (samples->count == 0) {
        return 0;
    }
    qsort(samples->values, samples->count, sizeof *samples->values, compare);
    const size_t index = (size_t)((double)(samples->count - 1) * percent / 100.0 + 0.5);
    return samples->values[index];
}

void samples_release(struct samples *samples) {
    free(samples->values);
    *samples = (struct samples){0};
}

void results_add(const struct result *result) {
    if (result_count < MOST_RESULTS) {
        results[result_count++] = *result;
    }
}

static bool missed(const struct result *result) {
    return result->target >= 0 && (result->target_is_ratio ? result->ratio : result->value) > result->target;
}

static void print_number(double value, const char *suffix) {
    if (value < 0) {
        printf("%12s", "");
    } else {
        char text[32];
        snprintf(text, sizeof text, value < 10 ? "%.2f%s" : value < 1000 ? "%.1f%s" : "%.0f%s", value, suffix);
        printf("%12s", text);
    }
}

static void print_table(const char *const *notes, size_t note_count) {
    for (size_t i = 0; i < note_count; i++) {
        printf("%s\n", notes[i]);
    }
    printf("\n%-44s%6s%12s%12s%12s  %-6s%-12s\n", "", "k", "median", "99 %", "x raw", "unit", "  target");
    for (const struct result *result = results; result < results + result_count; result++) {
        char changes[16] = "";
        if (result->changes > 0) {
            snprintf(changes, sizeof changes, "%u", result->changes);
        }
        printf("%-44s%6s", result->name, changes);
        print_number(result->value, "");
        print_number(result->high, "");
        print_number(result->ratio, "");
        printf("  %-6s", result->unit);
        if (result->target >= 0) {
            printf("%8.4g %-6s %s", result->target, result->target_is_ratio ? "x raw" : result->unit,
                   missed(result) ? "MISSED" : "met");
        }
        printf("\n");
    }
}

static void print_json_number(const char *name, double value) {
    if (value >= 0) {
        printf(",\"%s\":%.4f", name, value);
    } else {
        printf(",\"%s\":null", name);
    }
}

static void print_json(const char *const *notes, size_t note_count) {
    printf("{\"notes\":[");
    for (size_t i = 0; i < note_count; i++) {
        printf("%s\"%s\"", i == 0 ? "" : ",", notes[i]);
    }
    printf("],\"results\":[");
    for (const struct result *result = results; result < results + result_count; result++) {
        printf("%s\n{\"name\":\"%s\",\"unit\":\"%s\"", result == results ? "" : ",", result->name, result->unit);
        print_json_number("changes", result->changes > 0 ? (double)result->changes : -1);
        print_json_number("median", result->value);
        print_json_number("percentile_99", result->high);
        print_json_number("ratio_to_raw", result->ratio);
        print_json_number(result->target_is_ratio ? "target_ratio" : "target", result->target);
        printf(",\"target_met\":%s}", result->target < 0 ? "null" : missed(result) ? "false" : "true");
    }
    printf("\n]}\n");
}

unsigned results_print(bool json, const char *const *notes, size_t note_count) {
    unsigned count = 0;
    for (const struct result *result = results; result < results + result_count; result++) {
        count += missed(result);
    }
    if (json) {
        print_json(notes, note_count);
    } else {
        print_table(notes, note_count);
        printf("\n%u of the targets missed\n", count);
    }
    return count;
}
