/* SPDX-License-Identifier: MIT
 *
 * The stories of the golden and the damaged files (tool_golden.c): what is done to a map on the simulated system, how
 * its session ends, and what the file then holds. Beside the map an array is kept of the bytes that it must hold.
 *
 * For a program, not for tests: what does not hold ends it with a message.
 */
#ifndef KM_TESTS_STORY_H
#define KM_TESTS_STORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/frame.h"
#include "format/header.h"
#include "keepmap.h"

#define STORY_PATH "/disk/golden.km"
#define STORY_SIZE 20000u /* five pages, the last one not whole */
#define STORY_JOURNAL 65536u
#define STORY_LARGEST 131072u

struct story {
    const char *name;
    struct km_options options;
    km_map *map;
    uint64_t generation, size;
    unsigned char now[STORY_LARGEST];
    unsigned char home[STORY_LARGEST]; /* at the last checkpoint, or seal */
    uint64_t home_generation;
};

struct image {
    unsigned char *bytes;
    size_t length;
};

__attribute__((noreturn, format(printf, 1, 2))) void story_die(const char *format, ...);
void story_must(const struct story *story, const char *what, int result);

/* ---- telling ----------------------------------------------------------------------------------------------------- */

/** A new machine, and on it a map as `options` say; 20000 bytes unless they say otherwise. */
void story_create(struct story *story);
void story_begin(struct story *story);
/** Store lines that say which commit of which file wrote them, and where. */
void story_store(struct story *story, uint64_t offset, uint64_t length);
void story_commit(struct story *story);
void story_checkpoint(struct story *story);
void story_grow(struct story *story, uint64_t size);

void story_commit_everything(struct story *story);
/** Three commits with ranges of many shapes: inside a page, over the border of two, a single byte, the last byte. */
void story_commit_ranges(struct story *story);
/** Everything, brought home, and then the three commits in the journal. */
void story_tell_until_checkpoint(struct story *story);

/* ---- ending ------------------------------------------------------------------------------------------------------ */

struct image story_image(const char *path);
struct image story_close(struct story *story);
struct image story_kill(struct story *story);

/** What a step of a story does, which may fail when its session ends there. */
typedef int story_step(struct story *story);
typedef bool story_judge(const struct story *story, const struct image *image);

/**
 * Tell the story, end its session at some step of `last`, and do so until `is_wanted` is content. Without `power` only
 * the process dies, and what it wrote is there; else each sector that was not synced is there or not.
 */
struct image story_end_in(struct story *story, void (*tell)(struct story *), story_step *last, bool power,
                          story_judge *is_wanted);

/* ---- what the file holds ----------------------------------------------------------------------------------------- */

struct km__header *story_slot(const struct image *image, int slot);
/** The slot that counts. */
const struct km__header *story_header(const struct image *image);
/** Where in the image the frame of a generation stands: NULL if it does not. */
struct km__frame_head *story_look_for_frame(const struct image *image, uint64_t generation);
/** The same, and the program ends if it does not. */
struct km__frame_head *story_frame(const struct image *image, uint64_t generation);

/** Seal both header slots after a change. */
void story_seal_headers(struct image *image);

#endif
