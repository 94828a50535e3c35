/* SPDX-License-Identifier: MIT
 *
 * Power cuts, on the simulated system (support/os_sim.h). A seeded script of commits (durable, lazy, declared, larger
 * than the journal, growing), checkpoints, syncs, reads and reopenings runs once; at every sync of it, and at a part of
 * the other steps, the state of the machine is saved. From each state come several images of what the disk may hold:
 * nothing that was not synced, all of it, and random parts. Each image is opened and must show exactly one generation,
 * byte for byte, no older than the newest that was known to be durable when the power went, with all checksums right.
 *
 * The processes die at steps of the same scripts, too, and syncs are made to fail.
 *
 * The judge is an array for each generation, written before the commit that makes it: see script.h.
 *
 * KEEPMAP_SEED runs one seed alone.
 */
#include "script.h"
#include "support/scratch.h"

#define SECONDS_OF_CUTS 22.0
#define SECONDS_OF_DEATHS 8.0
#define SECONDS_OF_FAILURES 12.0

/* ---- judging an image -------------------------------------------------------------------------------------------- */

static km_map *open_image(struct script *script, uint32_t flags, bool may_be_missing) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = flags, .timeout_ms = 5};
    const int result = km_open(&map, SCRIPT_PATH, &options);
    if (result == KM_ENOTFOUND && may_be_missing) {
        script->missing++;
        return NULL;
    }
    if (result != 0) {
        script_broken(script, "the image could not be opened (flags %u): %s", flags, km_error_name(result));
    }
    return map;
}

/* The generation that the map shows, which must be one of those within the bounds, whole. */
static uint64_t judge(struct script *script, km_map *map, const struct bounds *bounds, uint64_t slots_torn) {
    int result = km_begin(map, KM_READ);
    if (result != 0) {
        script_broken(script, "the image could not be read: %s", km_error_name(result));
    }
    const uint64_t generation = km_generation(map);
    if (generation < bounds->low || generation > bounds->high) {
        script_broken(script, "the image shows generation %llu; %llu was durable, %llu the newest",
                      (unsigned long long)generation, (unsigned long long)bounds->low,
                      (unsigned long long)bounds->high);
    }
    const struct generation *expected = &script->history[generation];
    if (km_size(map) != expected->size) {
        script_broken(script, "generation %llu has %llu bytes, expected %llu", (unsigned long long)generation,
                      (unsigned long long)km_size(map), (unsigned long long)expected->size);
    }
    const unsigned char *data = km_data(map);
    for (uint64_t i = 0; memcmp(data, expected->bytes, expected->size) != 0; i++) {
        if (data[i] != expected->bytes[i]) {
            script_broken(script, "generation %llu: byte %llu is %02x, expected %02x", (unsigned long long)generation,
                          (unsigned long long)i, data[i], expected->bytes[i]);
        }
    }
    result = km_abort(map);
    struct km_report report = {.struct_size = sizeof report};
    result = result != 0 ? result : km_verify(map, &report, NULL, NULL);
    if (result != 0 || report.pages_damaged + report.frames_damaged != 0 || report.headers_damaged > slots_torn ||
        report.digest_matches != 1) {
        script_broken(script,
                      "generation %llu: verify gave %s, %llu pages, %llu frames, %llu headers damaged, digest %u",
                      (unsigned long long)generation, km_error_name(result), (unsigned long long)report.pages_damaged,
                      (unsigned long long)report.frames_damaged, (unsigned long long)report.headers_damaged,
                      report.digest_matches);
    }
    return generation;
}

static void must_close(struct script *script, km_map *map) {
    const int result = km_close(map);
    if (result != 0) {
        script_broken(script, "an image could not be closed: %s", km_error_name(result));
    }
}

/* A commit on top of what was recovered must be as durable as any: the power goes again right after it. */
static void commit_on_top(struct script *script, km_map *map, uint64_t generation, uint64_t image_seed) {
    unsigned char *data = km_data(map);
    int result = km_begin(map, KM_WRITE);
    if (result == 0) {
        data[generation % 100] ^= 0x55;
        result = km_commit(map);
    }
    if (result != 0 || km_generation(map) != generation + 1) {
        script_broken(script, "a commit on the recovered generation %llu gave %s", (unsigned long long)generation,
                      km_error_name(result));
    }
    struct os_sim_state *state = os_sim_save();
    os_sim_reboot(state, image_seed % 2 == 0 ? OS_SIM_NOTHING : OS_SIM_SECTORS, image_seed);
    os_sim_state_free(state);
    km_close(map);
    map = open_image(script, 0, false);
    result = km_begin(map, KM_READ);
    const struct generation *base = &script->history[generation];
    data = km_data(map);
    if (result != 0 || km_generation(map) != generation + 1 ||
        data[generation % 100] != (base->bytes[generation % 100] ^ 0x55) ||
        memcmp(data + 100, base->bytes + 100, base->size - 100) != 0) {
        script_broken(script, "the commit after a recovery did not survive the next power cut");
    }
    km_abort(map);
    must_close(script, map);
}

/* The recovery itself is cut; what it leaves must still be within the bounds. */
static void cut_again(struct script *script, const struct bounds *bounds, uint64_t image_seed) {
    os_sim_cut_at_step(1 + image_seed % 12);
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .timeout_ms = 5};
    km_open(&map, SCRIPT_PATH, &options);
    struct os_sim_state *state = os_sim_save();
    os_sim_reboot(state, (enum os_sim_policy)(image_seed % OS_SIM_GARBLED), image_seed);
    os_sim_state_free(state);
    km_close(map);
    script->nested++;
    map = open_image(script, 0, bounds->may_be_missing);
    if (map != NULL) {
        judge(script, map, bounds, 0);
        must_close(script, map);
    }
}

static void try_image(struct script *script, const struct point *point, enum os_sim_policy policy,
                      uint64_t image_seed) {
    os_sim_reboot(point->state, policy, image_seed);
    script->images++;
    script->by_policy[policy]++;
    /* A noisy sector of the table is mended by the recovery: until then verify tells of it; and a recovery that is cut
     * itself may write a frame only as safely as the disk does. See docs/durability.md. */
    const bool garbled = policy == OS_SIM_GARBLED;
    if (image_seed % 8 == 0 && !garbled) {
        cut_again(script, &point->bounds, image_seed / 8);
        return;
    }
    uint64_t seen = UINT64_MAX;
    if (image_seed % 8 == 1 && !garbled) { /* a handle that may not recover must see what the recovery will give */
        km_map *reader = open_image(script, KM_READONLY, point->bounds.may_be_missing);
        if (reader != NULL) {
            seen = judge(script, reader, &point->bounds, 1); /* it repairs no slot that the cut tore */
            must_close(script, reader);
        }
    }
    km_map *map = open_image(script, 0, point->bounds.may_be_missing);
    if (map == NULL) {
        return;
    }
    const uint64_t generation = judge(script, map, &point->bounds, 0);
    if (seen != UINT64_MAX && seen != generation) {
        script_broken(script, "a reader saw generation %llu, the recovery gave %llu", (unsigned long long)seen,
                      (unsigned long long)generation);
    }
    if (image_seed % 8 == 2) {
        commit_on_top(script, map, generation, image_seed / 8);
    } else {
        must_close(script, map);
    }
}

/* ---- cuts at every sync ------------------------------------------------------------------------------------------ */

static void save_point(void *context, enum os_sim_operation operation, uint64_t step) {
    struct script *script = context;
    if (operation != OS_SIM_SYNC && chance_mix(script->seed, step) % 6 != 0) {
        return;
    }
    if (script->point_count < POINTS) {
        struct point *point = &script->points[script->point_count++];
        *point = (struct point){os_sim_save(), script->bounds, script->newest, step};
    }
}

static void cut_everywhere(struct script *script) {
    os_sim_watch(save_point, script);
    script_run(script);
    os_sim_watch(NULL, NULL);
    if (script->point_count == 0 || script->point_count == POINTS) {
        script_broken(script, "%zu points", script->point_count);
    }
    for (size_t i = 0; i < script->point_count; i++) {
        const struct point *point = &script->points[i];
        script->operation = (unsigned)point->step;
        uint64_t image_seed = chance_mix(script->seed, i);
        try_image(script, point, OS_SIM_NOTHING, image_seed++);
        if (os_sim_state_pending(point->state) == 0) {
            continue;
        }
        try_image(script, point, OS_SIM_EVERYTHING, image_seed++);
        try_image(script, point, OS_SIM_PREFIX, image_seed++);
        try_image(script, point, OS_SIM_WRITES, image_seed++);
        for (int repeat = 0; repeat < 3; repeat++) {
            try_image(script, point, OS_SIM_SECTORS, image_seed++);
        }
        for (int repeat = 0; repeat < 4 && (script->creation_flags & KM_FULL_PAGES) != 0; repeat++) {
            try_image(script, point, OS_SIM_GARBLED, image_seed++);
        }
    }
}

static void every_power_cut_leaves_one_generation_no_older_than_the_durable_one(void **state) {
    (void)state;
    static struct script script;
    const double begun = scratch_now_s();
    uint64_t seed = chance_seed(), images = 0, missing = 0, nested = 0, points = 0, scripts = 0;
    uint64_t by_policy[OS_SIM_POLICY_COUNT] = {0};
    do {
        script_prepare(&script, seed++);
        cut_everywhere(&script);
        images += script.images;
        missing += script.missing;
        nested += script.nested;
        points += script.point_count;
        for (int policy = 0; policy < OS_SIM_POLICY_COUNT; policy++) {
            by_policy[policy] += script.by_policy[policy];
        }
        script_forget(&script);
        scripts++;
    } while (!chance_seed_is_given() && scratch_now_s() - begun < SECONDS_OF_CUTS);
    fprintf(stderr, "# %llu scripts, %llu points, %llu images (%llu recoveries cut again, %llu without a map yet):",
            (unsigned long long)scripts, (unsigned long long)points, (unsigned long long)images,
            (unsigned long long)nested, (unsigned long long)missing);
    for (int policy = 0; policy < OS_SIM_POLICY_COUNT; policy++) {
        fprintf(stderr, " %s %llu", os_sim_policy_name((enum os_sim_policy)policy),
                (unsigned long long)by_policy[policy]);
    }
    fprintf(stderr, "\n");
    assert_true(images > 200 && by_policy[OS_SIM_SECTORS] > 50);
}

/* ---- deaths of the processes ------------------------------------------------------------------------------------- */

static void save_step(void *context, enum os_sim_operation operation, uint64_t step) {
    struct script *script = context;
    (void)operation;
    if (chance_mix(script->seed + 1, step) % 3 == 0 && script->point_count < POINTS) {
        script->points[script->point_count++] = (struct point){os_sim_save(), script->bounds, script->newest, step};
    }
}

/* The processes die, the machine goes on: lazy commits are there, too. What the next session shows is durable by then:
 * the power goes at some step of its checkpoint, and nothing is missing. */
static void die_at(struct script *script, const struct point *point, uint64_t image_seed) {
    os_sim_kill(point->state);
    km_map *map = open_image(script, 0, point->bounds.may_be_missing);
    if (map == NULL) {
        return;
    }
    const struct bounds acknowledged = {point->acknowledged, point->bounds.high, false};
    const uint64_t generation = judge(script, map, &acknowledged, 0);
    struct km_info info = {.struct_size = sizeof info};
    if (km_get_info(map, &info) != 0 || info.durable_generation != generation) {
        script_broken(script, "the recovered generation %llu is not durable", (unsigned long long)generation);
    }
    os_sim_cut_at_step(1 + image_seed % 24);
    km_checkpoint(map);
    struct os_sim_state *state = os_sim_save();
    os_sim_reboot(state, (enum os_sim_policy)(image_seed % OS_SIM_GARBLED), image_seed);
    os_sim_state_free(state);
    km_close(map);
    script->images++;
    const struct bounds exact = {generation, generation, false};
    map = open_image(script, 0, false);
    judge(script, map, &exact, 0);
    must_close(script, map);
}

static void no_death_of_all_processes_loses_an_acknowledged_commit(void **state) {
    (void)state;
    static struct script script;
    const double begun = scratch_now_s();
    uint64_t seed = chance_seed(), deaths = 0, images = 0, scripts = 0;
    do {
        script_prepare(&script, seed++);
        os_sim_watch(save_step, &script);
        script_run(&script);
        os_sim_watch(NULL, NULL);
        for (size_t i = 0; i < script.point_count; i++) {
            script.operation = (unsigned)script.points[i].step;
            die_at(&script, &script.points[i], chance_mix(script.seed + 2, i));
        }
        deaths += script.point_count;
        images += script.images;
        script_forget(&script);
        scripts++;
    } while (!chance_seed_is_given() && scratch_now_s() - begun < SECONDS_OF_DEATHS);
    fprintf(stderr, "# %llu scripts, %llu deaths, %llu power cuts in the checkpoint after them\n",
            (unsigned long long)scripts, (unsigned long long)deaths, (unsigned long long)images);
    assert_true(deaths > 30 && images > 20);
}

/* ---- failed syncs ------------------------------------------------------------------------------------------------ */

/* After the failure: nobody commits any more, and readers see a whole generation that is not older than the durable
 * one. */
static void expect_poisoned(struct script *script) {
    script_end_reading(script);
    for (int which = 0; which < HANDLES; which++) {
        km_map *map = script->maps[which];
        if (map == NULL) {
            continue;
        }
        km_abort(map);
        int result = km_begin(map, KM_WRITE);
        if (result == 0) {
            *(unsigned char *)km_data(map) ^= 1;
            km_touch(map, 0, 1);
            result = km_commit(map);
        }
        if (result != KM_EIO) {
            script_broken(script, "handle %d: a commit after a failed sync gave %s", which, km_error_name(result));
        }
        km_abort(map);
        result = km_begin(map, KM_READ);
        if (result != 0) {
            script_broken(script, "handle %d: reading after a failed sync gave %s", which, km_error_name(result));
        }
        const uint64_t generation = km_generation(map);
        if (generation < script->bounds.low || generation > script->bounds.high) {
            script_broken(script, "handle %d reads generation %llu after a failed sync; %llu to %llu are possible",
                          which, (unsigned long long)generation, (unsigned long long)script->bounds.low,
                          (unsigned long long)script->bounds.high);
        }
        const struct generation *expected = &script->history[generation];
        if (km_size(map) != expected->size || memcmp(km_data(map), expected->bytes, expected->size) != 0) {
            script_broken(script, "handle %d: generation %llu is not whole after a failed sync", which,
                          (unsigned long long)generation);
        }
        km_abort(map);
    }
}

/* What the next session adopts must be durable by then, whatever the page cache shows of the failed sync. */
static void expect_recovery(struct script *script, bool evict, uint64_t image_seed) {
    if (evict) {
        os_sim_evict(image_seed);
    }
    km_map *map = open_image(script, 0, script->bounds.may_be_missing);
    if (map == NULL) {
        return;
    }
    judge(script, map, &script->bounds, 0);
    struct km_info info = {.struct_size = sizeof info};
    if (km_get_info(map, &info) != 0 || info.failed != 0) {
        script_broken(script, "the next session is still poisoned");
    }
    const struct bounds bounds = {info.durable_generation, info.generation, false};
    struct os_sim_state *state = os_sim_save();
    os_sim_reboot(state, (enum os_sim_policy)(image_seed % OS_SIM_GARBLED), image_seed);
    os_sim_state_free(state);
    km_close(map);
    script->images++;
    map = open_image(script, 0, false);
    const uint64_t generation = judge(script, map, &bounds, 0);
    commit_on_top(script, map, generation, image_seed);
}

/* False when the n-th sync is none of the script any more. */
static bool fail_sync(struct script *script, uint64_t seed, uint64_t n, uint64_t count) {
    script_prepare(script, seed);
    script->may_fail = true;
    os_sim_fail(OS_SIM_SYNC, n, count, KM_EIO);
    script_run(script);
    const bool met = os_sim_failures() > 0;
    if (met && !script->failed) {
        script_broken(script, "sync %llu failed and nobody was told", (unsigned long long)n);
    }
    if (met) {
        os_sim_fail(OS_SIM_SYNC, 0, 0, 0);
        expect_poisoned(script);
        for (int which = 0; which < HANDLES; which++) {
            km_close(script->maps[which]);
        }
        expect_recovery(script, chance_mix(seed, n) % 3 == 0, chance_mix(n, seed));
    }
    script_forget(script);
    return met;
}

static void a_failed_sync_poisons_the_map_until_all_have_closed(void **state) {
    (void)state;
    static struct script script;
    const double begun = scratch_now_s();
    uint64_t seed = chance_seed(), failures = 0, scripts = 0;
    do {
        for (uint64_t n = 1; fail_sync(&script, seed, n, n % 4 == 3 ? UINT64_MAX : 1); n++) {
            failures++;
        }
        seed++;
        scripts++;
    } while (!chance_seed_is_given() && scratch_now_s() - begun < SECONDS_OF_FAILURES);
    fprintf(stderr, "# %llu scripts, %llu failed syncs\n", (unsigned long long)scripts, (unsigned long long)failures);
    assert_true(failures > 30);
}

int main(void) {
    scratch_time_limit(600);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_power_cut_leaves_one_generation_no_older_than_the_durable_one),
        cmocka_unit_test(no_death_of_all_processes_loses_an_acknowledged_commit),
        cmocka_unit_test(a_failed_sync_poisons_the_map_until_all_have_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
