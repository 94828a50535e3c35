/* SPDX-License-Identifier: MIT
 *
 * Power cuts, on the simulated system (support/os_sim.h). A seeded script of commits (durable, lazy, declared, larger than the
 * journal, growing), checkpoints, syncs, reads and reopenings runs once; at every sync of it, and at a part of the other
 * steps, the state of the machine is saved. From each state come several images of what the disk may hold: nothing that was
 * not synced, all of it, and random parts. Each image is opened and must show exactly one generation, byte for byte, no
 * older than the newest that was known to be durable when the power went, with all checksums right.
 *
 * The judge is an array for each generation, written before the commit that makes it.
 *
 * KEEPMAP_SEED runs one seed alone.
 */
#include "support/chance.h"
#include "support/check.h"
#include "support/os_sim.h"
#include "support/scratch.h"

#define PATH "/disk/power.km"
#define FIRST_SIZE 40000u
#define CAPACITY 120000u
#define OPERATIONS 45
#define HISTORY 128
#define POINTS 4096
#define SECONDS_OF_CUTS 24.0
#define SECONDS_OF_FAILURES 12.0

struct generation {
    unsigned char *bytes;
    uint64_t size;
};

/* What may be found after a power cut: a generation from `low` to `high`; nothing at all, if the map was being created. */
struct bounds {
    uint64_t low, high;
    bool may_be_missing;
};

struct point {
    struct os_sim_state *state;
    struct bounds bounds;
    uint64_t step;
};

enum { DURABLE, LAZY, READER, HANDLES };

struct script {
    struct chance chance;
    uint64_t seed;
    uint32_t creation_flags, checksum;
    struct generation history[HISTORY];
    uint64_t newest; /* generation */
    uint64_t max_size;
    struct bounds bounds;
    km_map *maps[HANDLES];
    uint32_t flags[HANDLES];
    bool reading;
    uint64_t read_generation;
    struct point points[POINTS];
    size_t point_count;
    unsigned operation;
    uint64_t images, missing, nested, by_policy[OS_SIM_POLICY_COUNT];
    bool may_fail; /* a sync was made to fail: KM_EIO is a right answer */
    bool failed;   /* and has been given */
};

__attribute__((noreturn, format(printf, 2, 3))) static void broken(struct script *script, const char *format, ...) {
    char what[500];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    print_error("operation %u: %s\n  last error: %s\n  repeat with KEEPMAP_SEED=%llu\n", script->operation, what,
                km_last_error_detail(), (unsigned long long)script->seed);
    fail();
    abort();
}

/* True if the call succeeded; false if it met the failed sync; the test fails otherwise. */
static bool succeeded(struct script *script, const char *call, int result) {
    if (result == 0) {
        return true;
    }
    if (script->may_fail && result == KM_EIO) {
        script->failed = true;
        return false;
    }
    broken(script, "%s gave %s", call, km_error_name(result));
}

/* ---- the script -------------------------------------------------------------------------------------------------- */

static void remember(struct script *script, uint64_t generation, const unsigned char *bytes, uint64_t size) {
    if (generation >= HISTORY) {
        broken(script, "the script is too long");
    }
    struct generation *entry = &script->history[generation];
    free(entry->bytes);
    entry->bytes = calloc(1, CAPACITY);
    assert_non_null(entry->bytes);
    memcpy(entry->bytes, bytes, size);
    entry->size = size;
    script->bounds.high = generation;
}

static void became_durable(struct script *script, uint64_t generation) {
    if (script->bounds.low < generation) {
        script->bounds.low = generation;
    }
}

static bool open_handle(struct script *script, int which) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = FIRST_SIZE,
                                       .max_size = script->max_size,
                                       .journal_size = 65536,
                                       .checksum = script->checksum,
                                       .timeout_ms = 5,
                                       .flags = KM_CREATE | script->creation_flags | script->flags[which]};
    if (!succeeded(script, "km_open", km_open(&script->maps[which], PATH, &options))) {
        script->maps[which] = NULL;
        return false;
    }
    script->bounds.may_be_missing = false;
    return true;
}

static bool close_handle(struct script *script, int which) {
    km_map *map = script->maps[which];
    if (map == NULL) {
        return true;
    }
    script->maps[which] = NULL;
    if (which == READER) {
        script->reading = false;
    }
    bool last = true;
    for (int other = 0; other < HANDLES; other++) {
        last = last && script->maps[other] == NULL;
    }
    if (!succeeded(script, "km_close", km_close(map))) {
        return false;
    }
    if (last) {
        became_durable(script, script->newest);
    }
    return true;
}

static void fill_stores(struct script *script, unsigned char *next, uint64_t size, km_map *map, bool large) {
    struct chance *chance = &script->chance;
    const uint64_t stores = large ? 1 : chance_between(chance, 1, 8);
    for (uint64_t i = 0; i < stores; i++) {
        uint64_t offset = large ? 0 : chance_below(chance, size);
        uint64_t length = large ? size : 1 + chance_below(chance, chance_percent(chance, 20) ? 9000 : 100);
        length = length < size - offset ? length : size - offset;
        chance_fill(chance, next + offset, length);
        if (km_touch(map, offset, length) != 0) {
            broken(script, "km_touch failed");
        }
        memcpy((unsigned char *)km_data(map) + offset, next + offset, length);
    }
    next[0] = (unsigned char)(script->newest + 1); /* every commit changes something */
    if (km_touch(map, 0, 1) != 0) {
        broken(script, "km_touch failed");
    }
    *(unsigned char *)km_data(map) = next[0];
}

static void end_reading(struct script *script) {
    if (!script->reading) {
        return;
    }
    const struct generation *expected = &script->history[script->read_generation];
    if (memcmp(km_data(script->maps[READER]), expected->bytes, expected->size) != 0) {
        broken(script, "the snapshot of generation %llu changed", (unsigned long long)script->read_generation);
    }
    if (km_abort(script->maps[READER]) != 0) {
        broken(script, "a read could not be ended");
    }
    script->reading = false;
}

static bool commit(struct script *script, int which, bool large) {
    static unsigned char next[CAPACITY];
    km_map *map = script->maps[which];
    if (!succeeded(script, "km_begin(KM_WRITE)", km_begin(map, KM_WRITE))) {
        return false;
    }
    const struct generation *base = &script->history[script->newest];
    if (km_generation(map) != script->newest || km_size(map) != base->size ||
        memcmp(km_data(map), base->bytes, base->size) != 0) {
        broken(script, "a writer at generation %llu does not see the newest, %llu",
               (unsigned long long)km_generation(map), (unsigned long long)script->newest);
    }
    memcpy(next, base->bytes, base->size);
    fill_stores(script, next, base->size, map, large);
    remember(script, script->newest + 1, next, base->size);
    int result = km_commit(map);
    if (result == KM_EBUSY && script->reading) {
        end_reading(script);
        result = km_commit(map);
    }
    if (!succeeded(script, "km_commit", result)) {
        return false;
    }
    script->newest++;
    if ((script->flags[which] & KM_LAZY) == 0) {
        became_durable(script, script->newest);
    }
    return true;
}

static bool grow(struct script *script) {
    const struct generation *base = &script->history[script->newest];
    const bool beyond = chance_percent(&script->chance, 30);
    const uint64_t size = base->size + chance_between(&script->chance, 1, 9000);
    if (size > CAPACITY) {
        return true;
    }
    if (size > script->max_size) {
        if (!beyond) {
            return true;
        }
        end_reading(script);
        if (!close_handle(script, LAZY) || !close_handle(script, READER)) {
            return false;
        }
        script->max_size = size;
    }
    end_reading(script);
    remember(script, script->newest + 1, base->bytes, base->size);
    script->history[script->newest + 1].size = size;
    if (!succeeded(script, "km_grow", km_grow(script->maps[DURABLE], size))) {
        return false;
    }
    script->newest++;
    became_durable(script, script->newest);
    for (int which = LAZY; which < HANDLES; which++) {
        if (script->maps[which] == NULL && !open_handle(script, which)) {
            return false;
        }
    }
    return true;
}

static bool begin_reading(struct script *script) {
    if (script->reading) {
        end_reading(script);
        return true;
    }
    if (!succeeded(script, "km_begin(KM_READ)", km_begin(script->maps[READER], KM_READ))) {
        return false;
    }
    script->read_generation = km_generation(script->maps[READER]);
    script->reading = true;
    /* Once a sync has failed, readers stand at the last durable state, and lazy commits after it are gone. */
    if (script->read_generation != script->newest && os_sim_failures() == 0) {
        broken(script, "a reader stands at %llu, newest is %llu", (unsigned long long)script->read_generation,
               (unsigned long long)script->newest);
    }
    return true;
}

static bool reopen(struct script *script, bool all) {
    end_reading(script);
    const int only = (int)chance_below(&script->chance, HANDLES);
    for (int which = 0; which < HANDLES; which++) {
        if ((all || which == only) && !close_handle(script, which)) {
            return false;
        }
    }
    for (int which = 0; which < HANDLES; which++) {
        if (script->maps[which] == NULL && !open_handle(script, which)) {
            return false;
        }
    }
    return true;
}

static bool sync_all(struct script *script) {
    if (!succeeded(script, "km_sync", km_sync(script->maps[DURABLE]))) {
        return false;
    }
    became_durable(script, script->newest);
    return true;
}

static bool checkpoint(struct script *script) {
    const int result = km_checkpoint(script->maps[LAZY]);
    if (result == KM_EBUSY && script->reading) {
        return true;
    }
    return succeeded(script, "km_checkpoint", result);
}

/* One operation; false once it has met a failed sync. */
static bool operate(struct script *script) {
    const unsigned pick = (unsigned)chance_below(&script->chance, 100);
    if (pick < 28) {
        return commit(script, DURABLE, false);
    }
    if (pick < 56) {
        return commit(script, LAZY, false);
    }
    if (pick < 61) {
        return commit(script, pick % 2 == 0 ? DURABLE : LAZY, true);
    }
    if (pick < 70) {
        return checkpoint(script);
    }
    if (pick < 76) {
        return sync_all(script);
    }
    if (pick < 82) {
        return grow(script);
    }
    if (pick < 92) {
        return begin_reading(script);
    }
    return reopen(script, pick >= 97);
}

static void prepare(struct script *script, uint64_t seed) {
    static const uint32_t kinds[] = {0, 0, KM_FULL_PAGES, 0};
    static const unsigned char nothing[FIRST_SIZE];
    memset(script, 0, sizeof *script);
    script->seed = seed;
    script->chance.state = chance_mix(seed, 1);
    script->creation_flags = kinds[seed % 4];
    script->checksum = seed % 5 == 4 ? KM_CHECKSUM_NONE : KM_CHECKSUM_CRC32C;
    script->max_size = chance_percent(&script->chance, 50) ? FIRST_SIZE : 90000;
    script->flags[LAZY] = KM_LAZY | (chance_percent(&script->chance, 50) ? KM_DECLARED : 0);
    script->flags[DURABLE] = chance_percent(&script->chance, 30) ? KM_DECLARED : 0;
    script->bounds.may_be_missing = true;
    os_sim_reset(seed);
    remember(script, 0, nothing, FIRST_SIZE);
}

/* Runs until the end, or until an operation has met a failed sync. */
static void run_script(struct script *script) {
    for (int which = 0; which < HANDLES; which++) {
        if (!open_handle(script, which)) {
            return;
        }
    }
    for (script->operation = 1; script->operation <= OPERATIONS; script->operation++) {
        if (!operate(script)) {
            return;
        }
    }
    end_reading(script);
    for (int which = 0; which < HANDLES; which++) {
        if (!close_handle(script, which)) {
            return;
        }
    }
}

static void forget(struct script *script) {
    for (size_t i = 0; i < script->point_count; i++) {
        os_sim_state_free(script->points[i].state);
    }
    for (size_t i = 0; i < HISTORY; i++) {
        free(script->history[i].bytes);
    }
}

/* ---- judging an image -------------------------------------------------------------------------------------------- */

static km_map *open_image(struct script *script, uint32_t flags, bool may_be_missing) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = flags, .timeout_ms = 5};
    const int result = km_open(&map, PATH, &options);
    if (result == KM_ENOTFOUND && may_be_missing) {
        script->missing++;
        return NULL;
    }
    if (result != 0) {
        broken(script, "the image could not be opened (flags %u): %s", flags, km_error_name(result));
    }
    return map;
}

/* The generation that the map shows, which must be one of those within the bounds, whole. */
static uint64_t judge(struct script *script, km_map *map, const struct bounds *bounds, uint64_t slots_torn) {
    int result = km_begin(map, KM_READ);
    if (result != 0) {
        broken(script, "the image could not be read: %s", km_error_name(result));
    }
    const uint64_t generation = km_generation(map);
    if (generation < bounds->low || generation > bounds->high) {
        broken(script, "the image shows generation %llu; %llu was durable, %llu the newest",
               (unsigned long long)generation, (unsigned long long)bounds->low, (unsigned long long)bounds->high);
    }
    const struct generation *expected = &script->history[generation];
    if (km_size(map) != expected->size) {
        broken(script, "generation %llu has %llu bytes, expected %llu", (unsigned long long)generation,
               (unsigned long long)km_size(map), (unsigned long long)expected->size);
    }
    const unsigned char *data = km_data(map);
    for (uint64_t i = 0; memcmp(data, expected->bytes, expected->size) != 0; i++) {
        if (data[i] != expected->bytes[i]) {
            broken(script, "generation %llu: byte %llu is %02x, expected %02x", (unsigned long long)generation,
                   (unsigned long long)i, data[i], expected->bytes[i]);
        }
    }
    result = km_abort(map);
    struct km_report report = {.struct_size = sizeof report};
    result = result != 0 ? result : km_verify(map, &report, NULL, NULL);
    if (result != 0 || report.pages_damaged + report.frames_damaged != 0 ||
        report.headers_damaged > slots_torn ||
        report.digest_matches != 1) {
        broken(script, "generation %llu: verify gave %s, %llu pages, %llu frames, %llu headers damaged, digest %u",
               (unsigned long long)generation, km_error_name(result), (unsigned long long)report.pages_damaged,
               (unsigned long long)report.frames_damaged, (unsigned long long)report.headers_damaged,
               report.digest_matches);
    }
    return generation;
}

static void must_close(struct script *script, km_map *map) {
    const int result = km_close(map);
    if (result != 0) {
        broken(script, "an image could not be closed: %s", km_error_name(result));
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
        broken(script, "a commit on the recovered generation %llu gave %s", (unsigned long long)generation,
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
        broken(script, "the commit after a recovery did not survive the next power cut");
    }
    km_abort(map);
    must_close(script, map);
}

/* The recovery itself is cut; what it leaves must still be within the bounds. */
static void cut_again(struct script *script, const struct bounds *bounds, uint64_t image_seed) {
    os_sim_cut_at_step(1 + image_seed % 12);
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .timeout_ms = 5};
    km_open(&map, PATH, &options);
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
        broken(script, "a reader saw generation %llu, the recovery gave %llu", (unsigned long long)seen,
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
        *point = (struct point){os_sim_save(), script->bounds, step};
    }
}

static void cut_everywhere(struct script *script) {
    os_sim_watch(save_point, script);
    run_script(script);
    os_sim_watch(NULL, NULL);
    if (script->point_count == 0 || script->point_count == POINTS) {
        broken(script, "%zu points", script->point_count);
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
        prepare(&script, seed++);
        cut_everywhere(&script);
        images += script.images;
        missing += script.missing;
        nested += script.nested;
        points += script.point_count;
        for (int policy = 0; policy < OS_SIM_POLICY_COUNT; policy++) {
            by_policy[policy] += script.by_policy[policy];
        }
        forget(&script);
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

/* ---- failed syncs ------------------------------------------------------------------------------------------------ */

/* After the failure: nobody commits any more, and readers see a whole generation that is not older than the durable one. */
static void expect_poisoned(struct script *script) {
    end_reading(script);
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
            broken(script, "handle %d: a commit after a failed sync gave %s", which, km_error_name(result));
        }
        km_abort(map);
        result = km_begin(map, KM_READ);
        if (result != 0) {
            broken(script, "handle %d: reading after a failed sync gave %s", which, km_error_name(result));
        }
        const uint64_t generation = km_generation(map);
        if (generation < script->bounds.low || generation > script->bounds.high) {
            broken(script, "handle %d reads generation %llu after a failed sync; %llu to %llu are possible", which,
                   (unsigned long long)generation, (unsigned long long)script->bounds.low,
                   (unsigned long long)script->bounds.high);
        }
        const struct generation *expected = &script->history[generation];
        if (km_size(map) != expected->size || memcmp(km_data(map), expected->bytes, expected->size) != 0) {
            broken(script, "handle %d: generation %llu is not whole after a failed sync", which,
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
        broken(script, "the next session is still poisoned");
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
    prepare(script, seed);
    script->may_fail = true;
    os_sim_fail(OS_SIM_SYNC, n, count, KM_EIO);
    run_script(script);
    const bool met = os_sim_failures() > 0;
    if (met && !script->failed) {
        broken(script, "sync %llu failed and nobody was told", (unsigned long long)n);
    }
    if (met) {
        os_sim_fail(OS_SIM_SYNC, 0, 0, 0);
        expect_poisoned(script);
        for (int which = 0; which < HANDLES; which++) {
            km_close(script->maps[which]);
        }
        expect_recovery(script, chance_mix(seed, n) % 3 == 0, chance_mix(n, seed));
    }
    forget(script);
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
        cmocka_unit_test(a_failed_sync_poisons_the_map_until_all_have_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
