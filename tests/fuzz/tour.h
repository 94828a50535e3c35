/* SPDX-License-Identifier: MIT
 *
 * What a program may do with a map, all of it, and what must hold of each answer whatever the file is: an error has a
 * name and a sentence; who has no write permission changes no byte; a file that is refused is as it was; what verify
 * calls clean reads the same twice, and its copy has the same digest.
 */
#ifndef KM_TESTS_FUZZ_TOUR_H
#define KM_TESTS_FUZZ_TOUR_H

#include <stdbool.h>
#include <stdint.h>

#include "keepmap.h"
#include "recipe.h"

#define TOUR_PATH "/disk/tour.km"
#define TOUR_COPY "/disk/copy.km"
#define TOUR_TIMEOUT_MS 5u

/** An empty machine with this file at TOUR_PATH. */
void tour_start(const struct canvas *canvas);

/** Open a map, as a program with little patience. */
int tour_open(km_map **map, const char *path, uint32_t flags, uint32_t mode);

/** The file at `path` is byte for byte this. `what` is told if it is not. */
void tour_unchanged(const char *path, const struct canvas *canvas, const char *what);

/** The same for all but control, which every handle that may write may change. */
void tour_unchanged_but_control(const char *path, const struct canvas *canvas, const char *what);

/**
 * Change the file behind everybody's back where the two canvases differ, 4 bytes at a time. Returns whether anything
 * but control was changed. The file keeps its length.
 */
bool tour_damage(const char *path, const struct canvas *before, const struct canvas *after);

/** The file as it is now. */
struct canvas tour_take(const char *path);

/** What a handle shows. */
struct sight {
    int result; /* of km_begin() */
    uint64_t generation, size, sum;
};

/** Begin, read all bytes, end; twice, and both must show the same unless others commit meanwhile. */
struct sight tour_read(km_map *map);

/** Verify, with what is told counted against the report. `stop` ends it at that call (0: never). */
int tour_verify(km_map *map, struct km_report *report, uint64_t stop);

/** Whether a report has nothing to say against the map. */
bool tour_is_clean(const struct km_report *report);

/** Info, log and who, also inside a transaction. */
void tour_ask(km_map *map);

/** Copy to TOUR_COPY; a copy that was made is clean, and shows what the source does. */
void tour_copy(km_map *map);

/** Open TOUR_PATH without write permission and do all that this allows. */
void tour_without_permission(const struct canvas *canvas, uint32_t flags);

#endif
