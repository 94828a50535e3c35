/* SPDX-License-Identifier: MIT
 *
 * The crash tests' script: see script.h.
 */
#include "script.h"

#include "format/checksum.h"

void script_broken(struct script *script, const char *format, ...) {
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
    script_broken(script, "%s gave %s", call, km_error_name(result));
}

/* ---- the script -------------------------------------------------------------------------------------------------- */

static void remember(struct script *script, uint64_t generation, const unsigned char *bytes, uint64_t size) {
    if (generation >= HISTORY) {
        script_broken(script, "the script is too long");
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
    if (!succeeded(script, "km_open", km_open(&script->maps[which], SCRIPT_PATH, &options))) {
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
            script_broken(script, "km_touch failed");
        }
        memcpy((unsigned char *)km_data(map) + offset, next + offset, length);
    }
    next[0] = (unsigned char)(script->newest + 1); /* every commit changes something */
    if (km_touch(map, 0, 1) != 0) {
        script_broken(script, "km_touch failed");
    }
    *(unsigned char *)km_data(map) = next[0];
}

void script_end_reading(struct script *script) {
    if (!script->reading) {
        return;
    }
    const struct generation *expected = &script->history[script->read_generation];
    if (memcmp(km_data(script->maps[READER]), expected->bytes, expected->size) != 0) {
        script_broken(script, "the snapshot of generation %llu changed", (unsigned long long)script->read_generation);
    }
    if (km_abort(script->maps[READER]) != 0) {
        script_broken(script, "a read could not be ended");
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
        script_broken(script, "a writer at generation %llu does not see the newest, %llu",
                      (unsigned long long)km_generation(map), (unsigned long long)script->newest);
    }
    memcpy(next, base->bytes, base->size);
    fill_stores(script, next, base->size, map, large);
    remember(script, script->newest + 1, next, base->size);
    int result = km_commit(map);
    if (result == KM_EBUSY && script->reading) {
        script_end_reading(script);
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
        script_end_reading(script);
        if (!close_handle(script, LAZY) || !close_handle(script, READER)) {
            return false;
        }
        script->max_size = size;
    }
    script_end_reading(script);
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
        script_end_reading(script);
        return true;
    }
    if (!succeeded(script, "km_begin(KM_READ)", km_begin(script->maps[READER], KM_READ))) {
        return false;
    }
    script->read_generation = km_generation(script->maps[READER]);
    script->reading = true;
    /* Once a sync has failed, readers stand at the last durable state, and lazy commits after it are gone. */
    if (script->read_generation != script->newest && os_sim_failures() == 0) {
        script_broken(script, "a reader stands at %llu, newest is %llu", (unsigned long long)script->read_generation,
                      (unsigned long long)script->newest);
    }
    return true;
}

static bool reopen(struct script *script, bool all) {
    script_end_reading(script);
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

void script_prepare(struct script *script, uint64_t seed) {
    const uint32_t kinds[] = {0, 0, KM_FULL_PAGES, km__zlib_available() ? KM_COMPRESS : 0};
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
void script_run(struct script *script) {
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
    script_end_reading(script);
    for (int which = 0; which < HANDLES; which++) {
        if (!close_handle(script, which)) {
            return;
        }
    }
}

void script_forget(struct script *script) {
    for (size_t i = 0; i < script->point_count; i++) {
        os_sim_state_free(script->points[i].state);
    }
    for (size_t i = 0; i < HISTORY; i++) {
        free(script->history[i].bytes);
    }
}
