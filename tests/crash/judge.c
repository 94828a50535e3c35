/* SPDX-License-Identifier: MIT
 *
 * The judge of the crash tests: see judge.h.
 */
#include "judge.h"

#include "format/header.h"

#define RECOVERY_STEPS_MOST 400u

/* The images of one point, one after the other. */
struct image {
    const struct os_sim_state *state;
    enum os_sim_policy policy;
    uint64_t seed;
    struct bounds bounds;
};

static km_map *open_image(struct script *script, uint32_t flags, bool may_be_missing) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = flags, .timeout_ms = 5};
    const int result = km_open(&map, SCRIPT_PATH, &options);
    if (result == KM_ENOTFOUND && may_be_missing) {
        campaign_add(COUNT_MISSING, 1);
        return NULL;
    }
    if (result != 0)
        script_broken(script, "the image could not be opened (flags %u): %s", flags, km_error_name(result));
    return map;
}

static void must_close(struct script *script, km_map *map) {
    const int result = km_close(map);
    if (result != 0)
        script_broken(script, "an image could not be closed: %s", km_error_name(result));
}

/* ---- one map ----------------------------------------------------------------------------------------------------- */

/* The handle is in a transaction and shows exactly the generation that it tells. */
static void expect_whole(struct script *script, km_map *map) {
    const uint64_t generation = km_generation(map);
    const struct generation *expected = &script->history[generation];
    if (km_size(map) != expected->size)
        script_broken(script, "generation %llu has %llu bytes, expected %llu", (unsigned long long)generation,
                      (unsigned long long)km_size(map), (unsigned long long)expected->size);
    const unsigned char *data = km_data(map);
    for (uint64_t i = 0; memcmp(data, expected->bytes, expected->size) != 0; i++)
        if (data[i] != expected->bytes[i])
            script_broken(script, "generation %llu: byte %llu is %02x, expected %02x", (unsigned long long)generation,
                          (unsigned long long)i, data[i], expected->bytes[i]);
}

/* The generation that the map shows, which must be one of those within the bounds, whole. */
static uint64_t read_image(struct script *script, km_map *map, const struct bounds *bounds) {
    int result = km_begin(map, KM_READ);
    if (result != 0)
        script_broken(script, "the image could not be read: %s", km_error_name(result));
    const uint64_t generation = km_generation(map);
    if (generation < bounds->low || generation > bounds->high)
        script_broken(script, "the image shows generation %llu; %llu was durable, %llu the newest",
                      (unsigned long long)generation, (unsigned long long)bounds->low,
                      (unsigned long long)bounds->high);
    expect_whole(script, map);
    result = km_abort(map);
    if (result != 0)
        script_broken(script, "the reading of an image could not be ended: %s", km_error_name(result));
    return generation;
}

/* The same, and no checksum is wrong. A handle that may not recover leaves slots torn. */
static uint64_t judge(struct script *script, km_map *map, const struct bounds *bounds, uint64_t slots_torn) {
    const uint64_t generation = read_image(script, map, bounds);
    struct km_report report = {.struct_size = sizeof report};
    const int result = km_verify(map, &report, NULL, NULL);
    if (result != 0 || report.pages_damaged + report.frames_damaged != 0 || report.headers_damaged > slots_torn ||
        report.digest_matches != 1)
        script_broken(script,
                      "generation %llu: verify gave %s, %llu pages, %llu frames, %llu headers damaged, digest %u",
                      (unsigned long long)generation, km_error_name(result), (unsigned long long)report.pages_damaged,
                      (unsigned long long)report.frames_damaged, (unsigned long long)report.headers_damaged,
                      report.digest_matches);
    return generation;
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

/* A copy whose making was cut has no name or is whole; one that was done is there. */
static void judge_copies(struct script *script, const struct bounds *bounds) {
    for (unsigned i = 0; i < bounds->copies_begun; i++) {
        const char *path = script_copy_path(i);
        if (!os_sim_exists(path)) {
            if (i < bounds->copies_done)
                script_broken(script, "copy %u was done and is gone", i);
            campaign_add(COUNT_COPIES_MISSING, 1);
            continue;
        }
        const struct bounds exact = {.low = script->copied[i], .high = script->copied[i]};
        for (unsigned writable = 0; writable < 2; writable++) {
            km_map *map = NULL;
            const struct km_options options = {
                .struct_size = sizeof options, .flags = writable == 0 ? KM_READONLY : 0u, .timeout_ms = 5};
            const int result = km_open(&map, path, &options);
            if (result != 0)
                script_broken(script, "copy %u could not be opened: %s", i, km_error_name(result));
            judge(script, map, &exact, 0);
            must_close(script, map);
        }
        campaign_add(COUNT_COPIES_WHOLE, 1);
    }
}

/* ---- the next cuts ----------------------------------------------------------------------------------------------- */

static void reboot(enum os_sim_policy policy, uint64_t seed) {
    struct os_sim_state *state = os_sim_save();
    os_sim_reboot(state, policy, seed);
    os_sim_state_free(state);
}

/* Disks that garble do so at the next cut, too. */
static enum os_sim_policy draw_policy(uint64_t seed, enum os_sim_policy former) {
    return former == OS_SIM_GARBLED ? former : (enum os_sim_policy)(chance_mix(seed, 5) % OS_SIM_GARBLED);
}

/* What a commit on top stores: where the next commit of the script was, if it is lost, other bytes. So both frames have
 * the same length, and the one after the lost one, which the disk may hold, stands right behind the new one. */
static void change_bytes(struct script *script, unsigned char *bytes, uint64_t generation) {
    const struct generation *base = &script->history[generation], *lost = base + 1;
    bool any = false;
    if (generation + 1 < SCRIPT_HISTORY && lost->bytes != NULL && lost->size == base->size) {
        for (uint64_t i = 0; i < base->size; i++) {
            if (lost->bytes[i] == base->bytes[i])
                continue;
            bytes[i] ^= 0x55;
            any = true;
        }
    }
    if (!any)
        bytes[generation % 100] ^= 0x55;
}

/* A commit on top of what was recovered must be as durable as any: the power goes again right after it. */
static void commit_on_top(struct script *script, km_map *map, uint64_t generation, const struct image *image) {
    static unsigned char expected[SCRIPT_CAPACITY];
    const uint64_t size = script->history[generation].size;
    memcpy(expected, script->history[generation].bytes, size);
    change_bytes(script, expected, generation);
    int result = km_begin(map, KM_WRITE);
    if (result == 0) {
        change_bytes(script, km_data(map), generation);
        result = km_commit(map);
    }
    if (result != 0 || km_generation(map) != generation + 1)
        script_broken(script, "a commit on the recovered generation %llu gave %s", (unsigned long long)generation,
                      km_error_name(result));
    reboot(image->seed % 8 < 4 ? OS_SIM_NOTHING : draw_policy(image->seed, image->policy), image->seed);
    km_close(map);
    map = open_image(script, 0, false);
    result = km_begin(map, KM_READ);
    if (result != 0 || km_generation(map) != generation + 1 || memcmp(km_data(map), expected, size) != 0)
        script_broken(script, "the commit after a recovery did not survive the next power cut");
    km_abort(map);
    must_close(script, map);
    campaign_add(COUNT_COMMITS_ON_TOP, 1);
}

/* A session on an image that is cut at its `n`-th step: it recovers the map, brings all home and closes. What it has
 * shown is durable from then on. False if it has fewer steps. */
static bool recover_until(struct script *script, struct image *image, uint64_t n) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .timeout_ms = 5};
    os_sim_cut_at_step(n);
    const int result = km_open(&map, SCRIPT_PATH, &options);
    if (result == 0) {
        image->bounds.low = image->bounds.high = read_image(script, map, &image->bounds);
        (void)km_checkpoint(map);
        km_close(map);
    } else if (!os_sim_is_cut() && !(result == KM_ENOTFOUND && image->bounds.may_be_missing)) {
        script_broken(script, "an image could not be opened in order to cut its recovery: %s", km_error_name(result));
    }
    const bool cut = os_sim_is_cut();
    image->policy = draw_policy(image->seed + n, image->policy);
    reboot(image->policy, image->seed + n);
    return cut;
}

static void judge_what_is_left(struct script *script, const struct image *image) {
    km_map *map = open_image(script, 0, image->bounds.may_be_missing);
    if (map != NULL) {
        judge(script, map, &image->bounds, 0);
        must_close(script, map);
    }
    campaign_image(COUNT_IMAGES_CUTS, image->policy);
}

/* The power goes again in the recovery, at one step; and perhaps in the one after that. False if the recovery has fewer
 * steps. */
static bool cut_again(struct script *script, struct image image, uint64_t n) {
    os_sim_reboot(image.state, image.policy, image.seed);
    const bool cut = recover_until(script, &image, n);
    const bool twice =
        cut && chance_mix(image.seed, n) % 3 == 0 && recover_until(script, &image, 1 + chance_mix(n, image.seed) % 20);
    judge_what_is_left(script, &image);
    campaign_add(twice ? COUNT_CUT_TWICE : COUNT_CUT_ONCE, cut);
    return cut;
}

static void cut_recovery_at_each_step(struct script *script, const struct image *image) {
    for (uint64_t n = 1; cut_again(script, *image, n); n++)
        if (n == RECOVERY_STEPS_MOST)
            script_broken(script, "a recovery has no end");
}

/* ---- images ------------------------------------------------------------------------------------------------------ */

/* A handle that may not recover must see what the recovery will give. Until then verify tells of a noisy sector of the
 * table, which the recovery mends: see docs/durability.md. */
static uint64_t look_before_recovery(struct script *script, const struct image *image) {
    km_map *map = open_image(script, KM_READONLY, image->bounds.may_be_missing);
    if (map == NULL)
        return UINT64_MAX;
    const uint64_t seen = image->policy == OS_SIM_GARBLED ? read_image(script, map, &image->bounds)
                                                          : judge(script, map, &image->bounds, 1);
    must_close(script, map);
    campaign_add(COUNT_LOOKED_AT, 1);
    return seen;
}

/* Either slot alone is enough: whatever is in the other, the map is the same. */
static void rot_slot(uint64_t offset) {
    unsigned char byte = 0;
    (void)os_sim_read(SCRIPT_PATH, offset + 300, &byte, 1);
    byte ^= 1;
    (void)os_sim_damage(SCRIPT_PATH, offset + 300, &byte, 1);
    campaign_add(COUNT_ROTTEN_SLOTS, 1);
}

static void judge_image(struct script *script, const struct image *image) {
    os_sim_reboot(image->state, image->policy, image->seed);
    if (campaign_count_slots(SCRIPT_PATH, image->policy) && chance_mix(image->seed, 7) % 8 == 0)
        rot_slot(image->seed % 2 == 0 ? KM__SLOT_A : KM__SLOT_B);
    campaign_image(COUNT_IMAGES_CUTS, image->policy);
    const uint64_t seen = image->seed % 8 < 5 ? look_before_recovery(script, image) : UINT64_MAX;
    km_map *map = open_image(script, 0, image->bounds.may_be_missing);
    if (map == NULL)
        return;
    const uint64_t generation = judge(script, map, &image->bounds, 0);
    if (seen != UINT64_MAX && seen != generation)
        script_broken(script, "a reader saw generation %llu, the recovery gave %llu", (unsigned long long)seen,
                      (unsigned long long)generation);
    if (image->seed % 4 == 2)
        commit_on_top(script, map, generation, image);
    else
        must_close(script, map);
    judge_copies(script, &image->bounds);
}

static void try_image(struct script *script, const struct point *point, enum os_sim_policy policy, uint64_t seed) {
    const struct image image = {point->state, policy, seed, point->bounds};
    if (chance_mix(seed, 3) % 150 == 0)
        cut_recovery_at_each_step(script, &image);
    else if (seed % 8 == 0)
        cut_again(script, image, 1 + seed / 8 % 16);
    else
        judge_image(script, &image);
}

/* Without anything unsynced all policies give the same image; and "nothing" gives the same at all points between two
 * syncs. */
void judge_cuts(struct script *script, const struct point *point) {
    uint64_t seed = chance_mix(script->seed, point->number);
    campaign_add(point->operation == OS_SIM_WRITE  ? COUNT_POINTS_WRITE
                 : point->operation == OS_SIM_SYNC ? COUNT_POINTS_SYNC
                                                   : COUNT_POINTS_OTHER,
                 1);
    const bool pending = os_sim_state_pending(point->state) != 0;
    if (point->number == 0 || point->after_sync || !pending)
        try_image(script, point, OS_SIM_NOTHING, seed++);
    if (!pending)
        return;
    for (int policy = OS_SIM_EVERYTHING; policy <= OS_SIM_TORN; policy++)
        try_image(script, point, (enum os_sim_policy)policy, seed++);
    const bool a = os_sim_state_pending_in(point->state, SCRIPT_PATH, KM__SLOT_A, KM__SLOT_SIZE) > 1;
    const bool b = os_sim_state_pending_in(point->state, SCRIPT_PATH, KM__SLOT_B, KM__SLOT_SIZE) > 1;
    for (unsigned i = 0; i < (a && b ? 12u : a || b ? 3u : 0u); i++)
        try_image(script, point, i < 2 && !(a && b) ? OS_SIM_TORN : OS_SIM_SECTORS, seed++);
    if ((script->creation_flags & KM_FULL_PAGES) != 0)
        for (unsigned i = 0; i < 3; i++)
            try_image(script, point, OS_SIM_GARBLED, seed++);
}

/* ---- deaths ------------------------------------------------------------------------------------------------------ */

/* The machine goes on: lazy commits are there, too. What the next session shows is durable by then: the power goes at
 * some step of its checkpoint, and nothing is missing. */
void judge_deaths(struct script *script, const struct point *point) {
    const uint64_t seed = chance_mix(script->seed + 2, point->number);
    os_sim_kill(point->state);
    km_map *map = open_image(script, 0, point->bounds.may_be_missing);
    campaign_add(COUNT_DEATHS, 1);
    if (map == NULL)
        return;
    const struct bounds acknowledged = {.low = point->acknowledged, .high = point->bounds.high};
    const uint64_t generation = judge(script, map, &acknowledged, 0);
    struct km_info info = {.struct_size = sizeof info};
    if (km_get_info(map, &info) != 0 || info.durable_generation != generation)
        script_broken(script, "the recovered generation %llu is not durable", (unsigned long long)generation);
    const enum os_sim_policy policy = draw_policy(seed, OS_SIM_NOTHING);
    os_sim_cut_at_step(1 + seed % 24);
    km_checkpoint(map);
    reboot(policy, seed);
    km_close(map);
    campaign_image(COUNT_IMAGES_DEATHS, policy);
    const struct bounds exact = {.low = generation, .high = generation};
    map = open_image(script, 0, false);
    judge(script, map, &exact, 0);
    must_close(script, map);
    if (seed % 4 == 0 || point->bounds.copies_begun > point->bounds.copies_done)
        judge_copies(script, &point->bounds);
}

/* ---- failed syncs ------------------------------------------------------------------------------------------------ */

/* Readers see a whole generation that is not older than the durable one. */
static void judge_poisoned_handle(struct script *script, int which) {
    km_map *map = script->maps[which];
    km_abort(map);
    int result = km_begin(map, KM_WRITE);
    if (result == 0) {
        *(unsigned char *)km_data(map) ^= 1;
        km_touch(map, 0, 1);
        result = km_commit(map);
    }
    if (result != (which == ONLOOKER ? KM_EREADONLY : KM_EIO))
        script_broken(script, "handle %d: a commit after a failed sync gave %s", which, km_error_name(result));
    km_abort(map);
    result = km_begin(map, KM_READ);
    if (result != 0)
        script_broken(script, "handle %d: reading after a failed sync gave %s", which, km_error_name(result));
    const uint64_t generation = km_generation(map);
    if (generation < script->bounds.low || generation > script->bounds.high)
        script_broken(script, "handle %d reads generation %llu after a failed sync; %llu to %llu are possible", which,
                      (unsigned long long)generation, (unsigned long long)script->bounds.low,
                      (unsigned long long)script->bounds.high);
    expect_whole(script, map);
    km_abort(map);
}

void judge_poisoned(struct script *script) {
    for (int which = READER; which < HANDLES; which++)
        script_end_reading(script, which);
    for (int which = 0; which < HANDLES; which++)
        if (script->maps[which] != NULL)
            judge_poisoned_handle(script, which);
}

void judge_recovery(struct script *script, bool evict, uint64_t image_seed) {
    if (evict)
        os_sim_evict(image_seed);
    km_map *map = open_image(script, 0, script->bounds.may_be_missing);
    if (map == NULL)
        return;
    judge(script, map, &script->bounds, 0);
    struct km_info info = {.struct_size = sizeof info};
    if (km_get_info(map, &info) != 0 || info.failed != 0)
        script_broken(script, "the next session is still poisoned");
    struct image image = {.policy = draw_policy(image_seed, OS_SIM_NOTHING), .seed = image_seed};
    image.bounds = (struct bounds){.low = info.durable_generation, .high = info.generation};
    if (image_seed % 2 == 0 && km_checkpoint(map) != 0) /* the page cache may show a home that the disk does not have */
        script_broken(script, "the next session could not bring home what it found");
    reboot(image.policy, image_seed);
    km_close(map);
    campaign_image(COUNT_IMAGES_FAILURES, image.policy);
    map = open_image(script, 0, false);
    const uint64_t generation = judge(script, map, &image.bounds, 0);
    commit_on_top(script, map, generation, &image);
}
