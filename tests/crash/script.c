/* SPDX-License-Identifier: MIT
 *
 * The crash tests' script: see script.h.
 */
#include "script.h"

#include "campaign.h"
#include "format/checksum.h"
#include "map/map.h"

#define OPERATIONS_LEAST 15
#define OPERATIONS_MOST 50
#define SOURCE_LENGTH 7000u

void script_broken(struct script *script, const char *format, ...) {
    char what[500];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    campaign_broken(script->seed, script->operation, "%s", what);
}

/* True if the call succeeded; false if it met the failed sync; the test fails otherwise. */
static bool succeeded(struct script *script, const char *call, int result) {
    if (result == 0)
        return true;
    if (script->may_fail && result == KM_EIO) {
        script->failed = true;
        return false;
    }
    script_broken(script, "%s gave %s", call, km_error_name(result));
}

/* ---- handles ----------------------------------------------------------------------------------------------------- */

static void remember(struct script *script, uint64_t generation, const unsigned char *bytes, uint64_t size) {
    if (generation >= SCRIPT_HISTORY)
        script_broken(script, "the script is too long");
    struct generation *entry = &script->history[generation];
    free(entry->bytes);
    entry->bytes = calloc(1, SCRIPT_CAPACITY);
    if (entry->bytes == NULL)
        script_broken(script, "no memory");
    memcpy(entry->bytes, bytes, size);
    entry->size = size;
    script->bounds.high = generation;
}

static void became_durable(struct script *script, uint64_t generation) {
    if (script->bounds.low < generation)
        script->bounds.low = generation;
}

/* What a handle is opened with; drawn anew for each open. */
static uint32_t draw_flags(struct script *script, int which) {
    uint32_t flags = 0;
    const bool declared = chance_percent(&script->chance, 40), checks = chance_percent(&script->chance, 40);
    if (which == ONLOOKER)
        return KM_READONLY;
    if (which == LAZY)
        flags |= KM_LAZY;
    if (which != READER && declared)
        flags |= KM_DECLARED;
    return flags | (checks ? KM_CHECK : 0u);
}

static bool open_handle(struct script *script, int which) {
    script->flags[which] = draw_flags(script, which);
    script->has_written[which] = false;
    const struct km_options options = {
        .struct_size = sizeof options,
        .size = script->first_size,
        .max_size = script->max_size,
        .journal_size = script->journal_size,
        .checksum = script->checksum,
        .from = script->from_file ? SCRIPT_SOURCE : NULL,
        .timeout_ms = 5,
        .flags = which == ONLOOKER ? KM_READONLY : KM_CREATE | script->creation_flags | script->flags[which]};
    if (!succeeded(script, "km_open", km_open(&script->maps[which], SCRIPT_PATH, &options))) {
        script->maps[which] = NULL;
        return false;
    }
    script->bounds.may_be_missing = false;
    return true;
}

static bool open_missing(struct script *script) {
    for (int which = 0; which < HANDLES; which++)
        if (script->maps[which] == NULL && !open_handle(script, which))
            return false;
    return true;
}

/* With the last handle that may write all commits are durable. */
static bool close_handle(struct script *script, int which) {
    km_map *map = script->maps[which];
    if (map == NULL)
        return true;
    script->maps[which] = NULL;
    script->reading[which] = false;
    bool last = which != ONLOOKER;
    for (int other = 0; other < ONLOOKER; other++)
        last = last && script->maps[other] == NULL;
    if (!succeeded(script, "km_close", km_close(map)))
        return false;
    if (last)
        became_durable(script, script->newest);
    return true;
}

static bool reopen(struct script *script, bool all) {
    const int only = (int)chance_below(&script->chance, HANDLES);
    for (int which = 0; which < HANDLES; which++) {
        if (!all && which != only)
            continue;
        script_end_reading(script, which);
        if (!close_handle(script, which))
            return false;
    }
    return open_missing(script);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static void expect_shown(struct script *script, int which, uint64_t generation) {
    const struct generation *expected = &script->history[generation];
    km_map *map = script->maps[which];
    if (km_generation(map) != generation || km_size(map) != expected->size ||
        memcmp(km_data(map), expected->bytes, expected->size) != 0)
        script_broken(script, "handle %d at generation %llu does not show generation %llu", which,
                      (unsigned long long)km_generation(map), (unsigned long long)generation);
}

void script_end_reading(struct script *script, int which) {
    if (!script->reading[which])
        return;
    expect_shown(script, which, script->read_generation[which]);
    if (km_abort(script->maps[which]) != 0)
        script_broken(script, "a read could not be ended");
    script->reading[which] = false;
}

static bool end_all_reading(struct script *script) {
    bool any = false;
    for (int which = READER; which < HANDLES; which++) {
        any = any || script->reading[which];
        script_end_reading(script, which);
    }
    return any;
}

static bool begin_reading(struct script *script, int which) {
    if (script->reading[which]) {
        script_end_reading(script, which);
        return true;
    }
    if (!succeeded(script, "km_begin(KM_READ)", km_begin(script->maps[which], KM_READ)))
        return false;
    script->read_generation[which] = km_generation(script->maps[which]);
    script->reading[which] = true;
    /* Once a sync has failed, readers stand at the last durable state, and lazy commits after it are gone. */
    if (os_sim_failures() == 0)
        expect_shown(script, which, script->newest);
    return true;
}

/* A handle that is in no transaction shows the newest commit and nothing else. */
static bool look(struct script *script, int which) {
    if (!succeeded(script, "km_begin(KM_READ)", km_begin(script->maps[which], KM_READ)))
        return false;
    if (os_sim_failures() == 0)
        expect_shown(script, which, script->newest);
    return succeeded(script, "km_abort", km_abort(script->maps[which]));
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void touch(struct script *script, km_map *map, uint64_t offset, uint64_t length) {
    if (km_touch(map, offset, length) != 0)
        script_broken(script, "km_touch failed");
}

static void fill_stores(struct script *script, unsigned char *next, uint64_t size, km_map *map, bool large) {
    struct chance *chance = &script->chance;
    const uint64_t stores = large ? 1 : chance_between(chance, 1, 8);
    for (uint64_t i = 0; i < stores; i++) {
        uint64_t offset = large ? 0 : chance_below(chance, size);
        uint64_t length = large ? size : 1 + chance_below(chance, chance_percent(chance, 20) ? 9000 : 100);
        length = length < size - offset ? length : size - offset;
        chance_fill(chance, next + offset, length);
        if (!large && chance_percent(chance, 30)) /* so that there is something to compress */
            memset(next + offset, (int)(next[offset] & 3), length);
        touch(script, map, offset, length);
        memcpy((unsigned char *)km_data(map) + offset, next + offset, length);
    }
    next[0] = (unsigned char)(script->newest + 1); /* every commit changes something */
    touch(script, map, 0, 1);
    *(unsigned char *)km_data(map) = next[0];
}

static bool begin_writing(struct script *script, int which) {
    if (!succeeded(script, "km_begin(KM_WRITE)", km_begin(script->maps[which], KM_WRITE)))
        return false;
    expect_shown(script, which, script->newest);
    return true;
}

static bool commit(struct script *script, int which, bool large) {
    static unsigned char next[SCRIPT_CAPACITY];
    km_map *map = script->maps[which];
    if (!begin_writing(script, which))
        return false;
    const struct generation *base = &script->history[script->newest];
    memcpy(next, base->bytes, base->size);
    fill_stores(script, next, base->size, map, large);
    remember(script, script->newest + 1, next, base->size);
    int result = km_commit(map);
    if (result == KM_EBUSY && end_all_reading(script))
        result = km_commit(map);
    if (!succeeded(script, "km_commit", result))
        return false;
    script->has_written[which] = true;
    script->newest++;
    if ((script->flags[which] & KM_LAZY) == 0)
        became_durable(script, script->newest);
    return true;
}

/* No commit, but a durable handle has made durable what it began with. */
static bool commit_nothing(struct script *script, int which) {
    if (!begin_writing(script, which) || !succeeded(script, "km_commit", km_commit(script->maps[which])))
        return false;
    if ((script->flags[which] & KM_LAZY) == 0)
        became_durable(script, script->newest);
    return look(script, which);
}

static bool give_up(struct script *script, int which, bool large) {
    static unsigned char next[SCRIPT_CAPACITY];
    if (!begin_writing(script, which))
        return false;
    const struct generation *base = &script->history[script->newest];
    memcpy(next, base->bytes, base->size);
    fill_stores(script, next, base->size, script->maps[which], large);
    if (km_abort(script->maps[which]) != 0)
        script_broken(script, "km_abort failed");
    script->has_written[which] = true;
    return look(script, which);
}

/* Stores outside of a transaction, through a handle that looks for them: they are found, and never committed. */
static bool stray(struct script *script, int which) {
    if ((script->flags[which] & (KM_CHECK | KM_DECLARED)) != KM_CHECK || !script->has_written[which])
        return true;
    unsigned char *data = km_data(script->maps[which]);
    data[chance_below(&script->chance, km_size(script->maps[which]))] ^= 0xff;
    const int result = km_begin(script->maps[which], chance_percent(&script->chance, 50) ? KM_READ : KM_WRITE);
    if (result == KM_ESTRAY)
        return look(script, which);
    if (!succeeded(script, "km_begin after a stray store", result))
        return false;
    if (os_sim_failures() == 0)
        expect_shown(script, which, script->newest);
    return succeeded(script, "km_abort", km_abort(script->maps[which]));
}

static bool grow(struct script *script) {
    const struct generation *base = &script->history[script->newest];
    const bool beyond = chance_percent(&script->chance, 30);
    const uint64_t size = base->size + chance_between(&script->chance, 1, 9000);
    if (size > SCRIPT_CAPACITY || (size > script->max_size && !beyond))
        return true;
    end_all_reading(script);
    if (size > script->max_size) {
        for (int which = LAZY; which < HANDLES; which++)
            if (!close_handle(script, which))
                return false;
        script->max_size = size;
    }
    remember(script, script->newest + 1, base->bytes, base->size);
    script->history[script->newest + 1].size = size;
    if (!succeeded(script, "km_grow", km_grow(script->maps[DURABLE], size)))
        return false;
    script->newest++;
    became_durable(script, script->newest);
    return open_missing(script);
}

static bool sync_all(struct script *script, int which) {
    if (!succeeded(script, "km_sync", km_sync(script->maps[which])))
        return false;
    became_durable(script, script->newest);
    return true;
}

static bool checkpoint(struct script *script, int which) {
    const int result = km_checkpoint(script->maps[which]);
    if (result == KM_EBUSY && end_all_reading(script))
        return true;
    return succeeded(script, "km_checkpoint", result);
}

/* By any handle, also one that stands at an older generation. A failed sync of the copy would be no matter of the map:
 * there are no copies then. */
static bool copy(struct script *script) {
    const unsigned number = script->bounds.copies_begun;
    const int which = (int)chance_below(&script->chance, HANDLES);
    if (number == SCRIPT_COPIES || script->may_fail)
        return true;
    script->copied[number] = script->reading[which] ? script->read_generation[which] : script->newest;
    script->bounds.copies_begun++;
    if (!succeeded(script, "km_copy", km_copy(script->maps[which], script_copy_path(number))))
        return false;
    script->bounds.copies_done++;
    return true;
}

const char *script_copy_path(unsigned number) {
    static char path[32];
    snprintf(path, sizeof path, "/disk/copy%u.km", number);
    return path;
}

/* ---- death ------------------------------------------------------------------------------------------------------- */

static void save_point(void *context, enum os_sim_operation operation, uint64_t step);

enum { DIES_IN_COMMIT, DIES_IN_CHECKPOINT, DIES_IN_SYNC, DEATHS };

/* Its locks are gone, its mappings stay; nobody closes the handle. */
static void bury(struct script *script, int which) {
    os_locks_close(script->maps[which]->locks);
    script->maps[which]->locks = NULL;
    script->maps[which] = NULL;
    if (script->first_point == 0)
        campaign_add(COUNT_LONE_DEATHS, 1);
}

/* Whether what the dead one was committing is a commit: who writes next has adopted it, or it never will be one. */
static bool take_stock(struct script *script, int which) {
    if (!succeeded(script, "km_begin(KM_WRITE)", km_begin(script->maps[which], KM_WRITE)))
        return false;
    const uint64_t now = km_generation(script->maps[which]);
    if (now != script->newest && (now != script->newest + 1 || now != script->bounds.high))
        script_broken(script, "after a death the newest generation is %llu, was %llu", (unsigned long long)now,
                      (unsigned long long)script->newest);
    script->newest = script->bounds.high = now;
    expect_shown(script, which, now);
    return succeeded(script, "km_abort", km_abort(script->maps[which])) && sync_all(script, which);
}

/* The process of one handle dies at a step of what it does, and the others go on. */
static bool die(struct script *script, int which) {
    static unsigned char next[SCRIPT_CAPACITY];
    km_map *map = script->maps[which];
    const uint64_t doing = chance_below(&script->chance, DEATHS);
    const uint64_t steps = 1 + chance_below(&script->chance, doing == DIES_IN_CHECKPOINT ? 10 : 3);
    if (script->may_fail)
        return true;
    end_all_reading(script);
    if (doing == DIES_IN_COMMIT) {
        const struct generation *base = &script->history[script->newest];
        begin_writing(script, which);
        memcpy(next, base->bytes, base->size);
        fill_stores(script, next, base->size, map, false);
        remember(script, script->newest + 1, next, base->size);
    }
    script->dies_in = steps;
    if (setjmp(script->dead) == 0) {
        const int result = doing == DIES_IN_COMMIT       ? km_commit(map)
                           : doing == DIES_IN_CHECKPOINT ? km_checkpoint(map)
                                                         : km_sync(map);
        script->dies_in = 0;
        if (!succeeded(script, "a call with fewer steps", result))
            return false;
    } else {
        os_sim_watch(save_point, script);
        bury(script, which);
    }
    const int heir = chance_percent(&script->chance, 50) ? DURABLE : LAZY;
    const bool goes_on = chance_percent(&script->chance, 70); /* with what the dead one left half done */
    return open_missing(script) && take_stock(script, heir) && (!goes_on || checkpoint(script, heir));
}

/* ---- the script -------------------------------------------------------------------------------------------------- */

/* One operation; false once it has met a failed sync. */
static bool operate(struct script *script) {
    const unsigned pick = (unsigned)chance_below(&script->chance, 100);
    const int writer = chance_percent(&script->chance, 50) ? DURABLE : LAZY;
    if (pick < 39)
        return commit(script, writer, false);
    if (pick < 46)
        return die(script, writer);
    if (pick < 50)
        return commit(script, writer, true);
    if (pick < 58)
        return checkpoint(script, writer);
    if (pick < 63)
        return sync_all(script, writer);
    if (pick < 69)
        return grow(script);
    if (pick < 79)
        return begin_reading(script, pick % 2 == 0 ? READER : ONLOOKER);
    if (pick < 84)
        return give_up(script, writer, pick == 83);
    if (pick < 86)
        return commit_nothing(script, writer);
    if (pick < 89)
        return stray(script, writer);
    if (pick < 91)
        return copy(script);
    return reopen(script, pick >= 96);
}

/* Generation 0: zeros, or the bytes of a file and zeros. */
static void prepare_content(struct script *script) {
    unsigned char *bytes = calloc(1, SCRIPT_CAPACITY);
    if (bytes == NULL)
        script_broken(script, "no memory");
    script->from_file = chance_percent(&script->chance, 25);
    if (script->from_file) {
        chance_fill(&script->chance, bytes, SOURCE_LENGTH);
        os_sim_put(SCRIPT_SOURCE, bytes, SOURCE_LENGTH);
    }
    remember(script, 0, bytes, script->first_size);
    free(bytes);
}

void script_prepare(struct script *script, uint64_t seed) {
    const uint64_t first_point = script->first_point;
    const uint64_t sizes[] = {40000, 40000, 9000, 100000};
    memset(script, 0, sizeof *script);
    script->first_point = first_point;
    script->seed = seed;
    struct chance *chance = &script->chance;
    chance->state = chance_mix(seed, 1);
    script->creation_flags = (km__zlib_available() && chance_percent(chance, 25) ? KM_COMPRESS : 0u) |
                             (chance_percent(chance, 30) ? KM_FULL_PAGES : 0u);
    const uint64_t checksum = chance_below(chance, 5);
    script->checksum = checksum == 0                           ? KM_CHECKSUM_NONE
                       : checksum == 1 && km__zlib_available() ? KM_CHECKSUM_CRC32
                                                               : KM_CHECKSUM_CRC32C;
    script->first_size = sizes[chance_below(chance, 4)];
    script->max_size = script->first_size + (chance_percent(chance, 50) ? 0 : 50000);
    script->journal_size = chance_percent(chance, 75) ? 65536 : 131072;
    script->bounds.may_be_missing = true;
    os_sim_reset(seed);
    os_sim_set_clone(chance_percent(chance, 50));
    prepare_content(script);
}

void script_run(struct script *script) {
    const unsigned operations = (unsigned)chance_between(&script->chance, OPERATIONS_LEAST, OPERATIONS_MOST);
    if (!open_missing(script))
        return;
    for (script->operation = 1; script->operation <= operations; script->operation++)
        if (!operate(script))
            return;
    end_all_reading(script);
    for (int which = 0; which < HANDLES; which++)
        if (!close_handle(script, which))
            return;
}

void script_forget(struct script *script) {
    for (size_t i = 0; i < script->point_count; i++)
        os_sim_state_free(script->points[i].state);
    for (size_t i = 0; i < SCRIPT_HISTORY; i++) {
        free(script->history[i].bytes);
        script->history[i].bytes = NULL;
    }
    script->point_count = 0;
}

/* ---- points ------------------------------------------------------------------------------------------------------ */

static void save_point(void *context, enum os_sim_operation operation, uint64_t step) {
    struct script *script = context;
    const uint64_t number = script->points_met++;
    if (number >= script->first_point && script->point_count < SCRIPT_POINTS)
        script->points[script->point_count++] = (struct point){.state = os_sim_save(),
                                                               .bounds = script->bounds,
                                                               .acknowledged = script->newest,
                                                               .number = number,
                                                               .step = step,
                                                               .operation = operation,
                                                               .after_sync = script->synced};
    script->synced = operation == OS_SIM_SYNC;
    if (script->dies_in != 0 && --script->dies_in == 0) {
        os_sim_watch(NULL, NULL);
        longjmp(script->dead, 1);
    }
}

void script_for_each_point(struct script *script, uint64_t seed, script_visitor *visit) {
    uint64_t points = 0;
    script->first_point = 0;
    do {
        script_prepare(script, seed);
        os_sim_watch(save_point, script);
        script_run(script);
        os_sim_watch(NULL, NULL);
        if (points != 0 && script->points_met != points)
            script_broken(script, "the script has %llu points, and had %llu", (unsigned long long)script->points_met,
                          (unsigned long long)points);
        points = script->points_met;
        if (points == 0)
            script_broken(script, "the script has no points");
        for (size_t i = 0; i < script->point_count; i++) {
            script->operation = (unsigned)script->points[i].step;
            visit(script, &script->points[i]);
        }
        script_forget(script);
        script->first_point += SCRIPT_POINTS;
    } while (script->first_point < points);
}
