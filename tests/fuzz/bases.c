/* SPDX-License-Identifier: MIT
 *
 * The stories of the base maps: each is a session that ends by a close, a kill or a power cut, so that every state that
 * recovery knows has an example to begin with.
 */
#include "bases.h"

#include <stdlib.h>
#include <string.h>

#include "format/checksum.h"
#include "keepmap.h"
#include "support/os_sim.h"
#include "claim.h"

#define BASE_PATH "/disk/base.km"

static void must_work(int result, const char *call) {
    hold(result == 0, "%s: %s: %s", call, km_error_name(result), km_last_error_detail());
}

static km_map *create(const struct km_options *wanted) {
    struct km_options options = *wanted;
    options.struct_size = sizeof options;
    options.size = BASE_SIZE;
    options.journal_size = options.mode == KM_LIVE ? 0 : BASE_RING;
    options.flags |= KM_CREATE | KM_EXCLUSIVE;
    km_map *map = NULL;
    os_sim_reset(7);
    must_work(km_open(&map, BASE_PATH, &options), "km_open");
    return map;
}

/* One commit of runs of bytes that differ from one commit to the next. */
static void commit(km_map *map, uint64_t offset, size_t length) {
    must_work(km_begin(map, KM_WRITE), "km_begin");
    memset((char *)km_data(map) + offset, (int)(0x40 + km_generation(map)), length);
    must_work(km_commit(map), "km_commit");
}

static void store_in_all_pages(km_map *map) {
    must_work(km_begin(map, KM_WRITE), "km_begin");
    for (uint64_t at = 100; at < km_size(map); at += KM_PAGE_SIZE)
        memset((char *)km_data(map) + at, (int)(at / KM_PAGE_SIZE + 1), 24);
    must_work(km_commit(map), "km_commit");
}

/* Commit 1 is home; 2, 3 and 4 are frames. */
static km_map *tell(const struct km_options *options) {
    km_map *map = create(options);
    store_in_all_pages(map);
    must_work(km_checkpoint(map), "km_checkpoint");
    commit(map, 10, 30);
    commit(map, 2 * KM_PAGE_SIZE - 5, 10);
    commit(map, BASE_SIZE - 1, 1);
    return map;
}

static km_map *tell_new(const struct km_options *options) {
    return create(options);
}

/* Frames on both sides of the ring's end, and the newest in front. */
static km_map *tell_wrapped(const struct km_options *options) {
    km_map *map = create(options);
    for (unsigned i = 0; i < 21; i++) {
        commit(map, i % 4 * 1000, 7000);
        if (i == 8 || i == 14)
            must_work(km_checkpoint(map), "km_checkpoint");
    }
    return map;
}

static km_map *tell_grown(const struct km_options *options) {
    km_map *map = tell(options);
    must_work(km_grow(map, 30000), "km_grow");
    commit(map, 29000, 500);
    return map;
}

static km_map *tell_moved(const struct km_options *options) {
    km_map *map = tell(options);
    must_work(km_grow(map, 70000), "km_grow");
    commit(map, 69000, 500);
    return map;
}

static km_map *tell_long_ring(const struct km_options *options) {
    km_map *map = create(options);
    must_work(km_grow(map, 100000), "km_grow");
    must_work(km_begin(map, KM_WRITE), "km_begin");
    memset(km_data(map), 'r', 100000);
    must_work(km_commit(map), "km_commit");
    commit(map, 5, 5);
    return map;
}

/* In a live map: sealed once, then stored to, and left inside a transaction. */
static km_map *tell_live(const struct km_options *options) {
    km_map *map = create(options);
    store_in_all_pages(map);
    must_work(km_sync(map), "km_sync");
    commit(map, 40, 100);
    must_work(km_begin(map, KM_WRITE), "km_begin");
    memset((char *)km_data(map) + 3 * KM_PAGE_SIZE, 9, 50);
    return map;
}

enum end { CLOSED, KILLED, CUT_IN_CHECKPOINT };

static const struct story {
    const char *name;
    km_map *(*tell)(const struct km_options *options);
    enum end end;
    unsigned step; /* of the checkpoint, before which the power goes */
    struct km_options options;
} stories[] = {
    {"nothing", NULL, CLOSED, 0, {0}},
    {"new", tell_new, CLOSED, 0, {0}},
    {"closed", tell, CLOSED, 0, {.schema = "base", .schema_version = 3}},
    {"killed", tell, KILLED, 0, {0}},
    {"wrapped", tell_wrapped, KILLED, 0, {0}},
    {"compressed", tell_wrapped, KILLED, 0, {.flags = KM_COMPRESS}},
    {"full-pages", tell, KILLED, 0, {.flags = KM_FULL_PAGES}},
    {"crc32", tell, KILLED, 0, {.checksum = KM_CHECKSUM_CRC32}},
    {"none", tell, KILLED, 0, {.checksum = KM_CHECKSUM_NONE}},
    {"grown", tell_grown, KILLED, 0, {.max_size = BASE_CAPACITY}},
    {"moved", tell_moved, KILLED, 0, {0}},
    {"long-ring", tell_long_ring, KILLED, 0, {0}},
    {"checkpoint", tell, CUT_IN_CHECKPOINT, 6, {0}},
    {"checkpoint-full-pages", tell, CUT_IN_CHECKPOINT, 7, {.flags = KM_FULL_PAGES}},
    {"live-sealed", tell_live, CLOSED, 0, {.mode = KM_LIVE, .max_size = BASE_CAPACITY}},
    {"live", tell_live, KILLED, 0, {.mode = KM_LIVE}},
};

#define STORY_COUNT (sizeof stories / sizeof stories[0])

static struct base bases[STORY_COUNT];

static void keep(struct base *base) {
    base->length = (size_t)os_sim_size(BASE_PATH);
    base->bytes = need(base->length);
    hold(os_sim_read(BASE_PATH, 0, base->bytes, base->length), "%s cannot be read", base->name);
}

static void end(const struct story *story, km_map *map, struct base *base) {
    struct os_sim_state *state = NULL;
    if (story->end == CLOSED) {
        if (story->options.mode == KM_LIVE)
            must_work(km_commit(map), "km_commit");
        must_work(km_close(map), "km_close");
        keep(base);
        return;
    }
    if (story->end == CUT_IN_CHECKPOINT) {
        os_sim_cut_at_step(story->step);
        hold(km_checkpoint(map) != 0, "%s: the checkpoint has no step %u", story->name, story->step);
    }
    state = os_sim_save();
    km_close(map); /* goes on without what was saved */
    if (story->end == CUT_IN_CHECKPOINT)
        os_sim_reboot(state, OS_SIM_SECTORS, 3);
    else
        os_sim_kill(state);
    os_sim_state_free(state);
    keep(base);
}

void bases_make(void) {
    for (size_t i = 0; i < STORY_COUNT && bases[0].bytes == NULL; i++) {
        bases[i].name = stories[i].name;
        const bool needs_zlib =
            stories[i].options.checksum == KM_CHECKSUM_CRC32 || (stories[i].options.flags & KM_COMPRESS) != 0;
        if (stories[i].tell != NULL && (!needs_zlib || km__zlib_available()))
            end(&stories[i], stories[i].tell(&stories[i].options), &bases[i]);
    }
    os_sim_reset(7);
    bases[0].bytes = need(1);
}

size_t bases_count(void) {
    return STORY_COUNT;
}

const struct base *bases_get(size_t number) {
    return &bases[number % STORY_COUNT];
}
