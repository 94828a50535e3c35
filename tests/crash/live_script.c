/* SPDX-License-Identifier: MIT
 *
 * The live maps' script: see live_script.h.
 */
#include "live_script.h"

#include "campaign.h"
#include "map/map.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/os_sim.h"

#define PATH "/disk/live.km"
#define SECTORS_MOST 400u
#define SIZE_FIRST (80u * OS_SIM_SECTOR)
#define OPERATIONS 30u
#define POINTS 600u
#define HANDLES 2u
#define RECOVERY_STEPS_MOST 200u

enum phase { OPENING, IN_USE, CLOSING, CLOSED };

/* What is known about the map at a moment. */
struct known {
    uint32_t low[SECTORS_MOST], high[SECTORS_MOST]; /* versions of its sectors */
    uint64_t size_low, size_high;
    uint64_t generation_low, generation_high;
    uint64_t sealing; /* the generation of the last seal that was begun */
    enum phase phase;
    bool exists; /* its creation has returned */
    bool told;   /* a death inside is not repaired, or a transaction is open */
};

struct point {
    struct os_sim_state *state;
    struct known known;
};

struct script {
    uint64_t seed;
    struct chance chance;
    struct known known;
    km_map *maps[HANDLES];
    km_map *dead[OPERATIONS]; /* handles of dead processes: nobody closes them */
    unsigned dead_count;
    bool mark; /* somebody died inside, and nobody has repaired it */
    struct point points[POINTS];
    size_t point_count;
    unsigned operation;
};

static struct script script;

__attribute__((noreturn, format(printf, 1, 2))) static void broken(const char *format, ...) {
    char what[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    campaign_broken(script.seed, script.operation, "%s", what);
}

static void expect(int result, int expected, const char *what) {
    if (result != expected)
        broken("%s gave %s, expected %s", what, km_error_name(result), km_error_name(expected));
}

static struct km_info get_info(km_map *map) {
    struct km_info info = {.struct_size = sizeof info};
    expect(km_get_info(map, &info), 0, "km_get_info()");
    return info;
}

/* ---- the data ---------------------------------------------------------------------------------------------------- */

static void make_sector(unsigned char *to, uint64_t sector, uint32_t version) {
    uint64_t *words = (uint64_t *)(void *)to;
    words[0] = version;
    for (uint64_t i = 1; i < OS_SIM_SECTOR / 8; i++)
        words[i] = version == 0 ? 0 : chance_mix(sector * 1000 + i, version);
}

static void store(km_map *map) {
    struct known *known = &script.known;
    for (uint64_t i = chance_between(&script.chance, 1, 6); i > 0; i--) {
        const uint64_t sector = chance_below(&script.chance, km_size(map) / OS_SIM_SECTOR);
        make_sector((unsigned char *)km_data(map) + sector * OS_SIM_SECTOR, sector, ++known->high[sector]);
    }
}

static void check_content(km_map *map, const struct known *known, bool exact) {
    unsigned char expected[OS_SIM_SECTOR];
    for (uint64_t sector = 0; sector < km_size(map) / OS_SIM_SECTOR; sector++) {
        const unsigned char *found = (const unsigned char *)km_data(map) + sector * OS_SIM_SECTOR;
        uint64_t version;
        memcpy(&version, found, sizeof version);
        if (version > known->high[sector] || version < (exact ? known->high[sector] : known->low[sector]))
            broken("sector %llu is at version %llu; %u was durable, %u the newest", (unsigned long long)sector,
                   (unsigned long long)version, known->low[sector], known->high[sector]);
        make_sector(expected, sector, (uint32_t)version);
        if (memcmp(found, expected, sizeof expected) != 0)
            broken("sector %llu is not whole", (unsigned long long)sector);
    }
}

/* ---- the script -------------------------------------------------------------------------------------------------- */

static int try_open(km_map **map, uint32_t flags) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE_FIRST,
                                       .max_size = 2 * SIZE_FIRST,
                                       .mode = KM_LIVE,
                                       .flags = flags,
                                       .timeout_ms = 5};
    return km_open(map, PATH, &options);
}

static void open_handle(unsigned which) {
    expect(try_open(&script.maps[which], script.known.exists ? 0 : KM_CREATE), 0, "km_open()");
    script.known.exists = true;
    script.known.phase = IN_USE;
}

/* All that was stored is on the disk now. */
static void became_durable(void) {
    struct known *known = &script.known;
    memcpy(known->low, known->high, sizeof known->low);
    known->generation_low = known->generation_high;
    known->size_low = known->size_high;
}

static void save_point(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)context;
    (void)operation;
    (void)step;
    if (script.point_count < POINTS)
        script.points[script.point_count++] = (struct point){os_sim_save(), script.known};
}

static void close_all(void) {
    const bool told = script.mark;
    script.known.sealing = script.known.generation_high;
    for (unsigned i = 0; i < HANDLES; i++) {
        script.known.phase = i + 1 == HANDLES ? CLOSING : IN_USE;
        expect(km_close(script.maps[i]), 0, "km_close()");
        script.maps[i] = NULL;
    }
    became_durable();
    script.known.phase = CLOSED;
    script.known.told = told;
    save_point(NULL, OS_SIM_INFO, 0);
    script.known.phase = OPENING;
}

static void begin(km_map *map) {
    expect(km_begin(map, KM_WRITE), script.mark ? KM_EABANDONED : 0, "km_begin()");
    script.known.told = true;
}

static void transact(km_map *map) {
    begin(map);
    store(map);
    script.known.sealing = script.known.generation_high;
    if (chance_percent(&script.chance, 30))
        expect(km_sync(map), 0, "km_sync()");
    if (chance_percent(&script.chance, 20)) {
        expect(km_abort(map), 0, "km_abort()");
    } else {
        script.known.generation_high++;
        expect(km_commit(map), 0, "km_commit()");
        script.mark = false;
    }
    script.known.told = script.mark;
}

/* The process of a handle dies inside; its locks are gone, its mapping stays. */
static void die(unsigned which) {
    km_map *map = script.maps[which];
    begin(map);
    store(map);
    os_locks_close(map->locks);
    map->locks = NULL;
    script.dead[script.dead_count++] = map;
    script.mark = true;
    open_handle(which);
}

static void seal(km_map *map, bool checkpoint) {
    script.known.sealing = script.known.generation_high;
    expect(checkpoint ? km_checkpoint(map) : km_sync(map), 0, "a seal");
    became_durable();
}

static void grow(unsigned which) {
    const uint64_t old = script.known.size_high;
    const uint64_t size = old + OS_SIM_SECTOR * chance_between(&script.chance, 1, 60);
    if (size > SECTORS_MOST * OS_SIM_SECTOR)
        return;
    const bool beyond = size > get_info(script.maps[which]).max_size;
    if (beyond) {
        for (unsigned i = 0; i < HANDLES; i++)
            if (i != which) {
                expect(km_close(script.maps[i]), 0, "km_close()");
                script.maps[i] = NULL;
            }
    }
    script.known.size_high = size;
    script.known.generation_high++;
    expect(km_grow(script.maps[which], size), 0, "km_grow()");
    script.known.size_low = size;
    for (unsigned i = 0; i < HANDLES; i++)
        if (script.maps[i] == NULL)
            open_handle(i);
}

static void operate(void) {
    const unsigned pick = (unsigned)chance_below(&script.chance, 100), which = pick % HANDLES;
    if (pick < 30)
        store(script.maps[which]);
    else if (pick < 55)
        transact(script.maps[which]);
    else if (pick < 70)
        seal(script.maps[which], pick % 4 == 0);
    else if (pick < 80)
        grow(which);
    else if (pick < 86)
        die(which);
    else
        close_all();
    for (unsigned i = 0; i < HANDLES; i++)
        if (script.maps[i] == NULL)
            open_handle(i);
    for (unsigned i = 0; i < HANDLES; i++) {
        expect(km_begin(script.maps[i], KM_READ), 0, "km_begin(KM_READ)");
        if (km_size(script.maps[i]) != script.known.size_high)
            broken("a handle has %llu bytes", (unsigned long long)km_size(script.maps[i]));
        check_content(script.maps[i], &script.known, true);
        expect(km_abort(script.maps[i]), 0, "km_abort()");
    }
}

static void prepare(uint64_t seed) {
    memset(&script, 0, sizeof script);
    script.seed = seed;
    script.chance.state = chance_mix(seed, 3);
    script.known.size_low = script.known.size_high = SIZE_FIRST;
    os_sim_reset(seed);
}

static void run(void) {
    os_sim_watch(save_point, NULL);
    for (unsigned i = 0; i < HANDLES; i++)
        open_handle(i);
    for (script.operation = 1; script.operation <= OPERATIONS; script.operation++)
        operate();
    close_all();
    os_sim_watch(NULL, NULL);
    if (script.point_count <= 50 || script.point_count == POINTS)
        broken("%zu points", script.point_count);
}

static void forget(void) {
    for (size_t i = 0; i < script.point_count; i++)
        os_sim_state_free(script.points[i].state);
    script.point_count = 0;
}

/* ---- judging ----------------------------------------------------------------------------------------------------- */

static void check_numbers(km_map *map, const struct known *known) {
    if (km_size(map) < known->size_low || km_size(map) > known->size_high)
        broken("it has %llu bytes, expected %llu to %llu", (unsigned long long)km_size(map),
               (unsigned long long)known->size_low, (unsigned long long)known->size_high);
    const uint64_t generation = km_generation(map);
    if (generation < known->generation_low || generation > known->generation_high)
        broken("it is at generation %llu, expected %llu to %llu", (unsigned long long)generation,
               (unsigned long long)known->generation_low, (unsigned long long)known->generation_high);
}

static struct km_report verify(km_map *map, uint64_t slots_torn) {
    struct km_report report = {.struct_size = sizeof report};
    expect(km_verify(map, &report, NULL, NULL), 0, "km_verify()");
    if (report.pages_damaged + report.frames_damaged != 0 || report.headers_damaged > slots_torn ||
        report.digest_matches != 1)
        broken("%llu pages and %llu headers are called damaged, digest %u", (unsigned long long)report.pages_damaged,
               (unsigned long long)report.headers_damaged, report.digest_matches);
    return report;
}

/* What somebody sees who may only read; whether it is sealed. NULL-like false also if there is no map yet. */
static bool look(const struct known *known, bool *exists) {
    km_map *map = NULL;
    const int result = try_open(&map, KM_READONLY);
    *exists = result == 0;
    if (result == KM_ENOTFOUND && !known->exists)
        return false;
    expect(result, 0, "km_open(KM_READONLY)");
    expect(km_begin(map, KM_READ), 0, "km_begin(KM_READ)");
    check_numbers(map, known);
    check_content(map, known, false);
    expect(km_abort(map), 0, "km_abort()");
    const struct km_info info = get_info(map);
    const struct km_report report = verify(map, 1);
    if (info.clean != 0 && report.pages_changed != 0)
        broken("it calls itself sealed, and %llu pages were changed", (unsigned long long)report.pages_changed);
    if (info.clean == info.abandoned)
        broken("sealed: %u, abandoned: %u", info.clean, info.abandoned);
    if (known->phase == IN_USE && info.clean != 0)
        broken("it calls itself sealed though somebody could write");
    if (known->phase == CLOSED && info.clean == known->told)
        broken("it was closed, with a repair due: %d, and calls itself sealed: %u", known->told, info.clean);
    expect(km_close(map), 0, "km_close()");
    return info.clean != 0;
}

/* The next session: it is told, repairs, and seals. */
static void go_on(const struct known *known, bool sealed, bool exact) {
    km_map *map = NULL;
    expect(try_open(&map, 0), 0, "km_open()");
    check_numbers(map, known);
    check_content(map, known, exact);
    (void)verify(map, 0);
    expect(km_begin(map, KM_WRITE), sealed ? 0 : KM_EABANDONED, "km_begin()");
    const uint64_t generation = km_generation(map);
    expect(km_commit(map), 0, "km_commit()");
    expect(km_close(map), 0, "km_close()");
    os_sim_cut();
    os_sim_reboot(NULL, OS_SIM_NOTHING, generation);
    expect(try_open(&map, KM_READONLY), 0, "km_open(KM_READONLY)");
    const struct km_report report = verify(map, 0);
    if (report.pages_changed != 0 || get_info(map).clean != 1 || km_generation(map) != generation + 1)
        broken("the next session did not leave it sealed");
    check_content(map, known, exact);
    expect(km_close(map), 0, "km_close()");
}

/* A session on an image that is cut at its `n`-th step: it repairs and seals. False if it has fewer steps. */
static bool recover_until(uint64_t n, struct known *known, enum os_sim_policy policy, uint64_t image_seed) {
    km_map *map = NULL;
    os_sim_cut_at_step(n);
    if (try_open(&map, 0) == 0) {
        const int begun = km_begin(map, KM_WRITE);
        if (begun == 0 || begun == KM_EABANDONED)
            (void)km_commit(map);
        (void)km_sync(map);
    }
    const bool cut = os_sim_is_cut();
    struct os_sim_state *state = os_sim_save();
    os_sim_reboot(state, policy, image_seed);
    os_sim_state_free(state);
    (void)km_close(map);
    known->phase = OPENING;
    known->generation_high++; /* it may have got as far as that */
    known->sealing = known->generation_high;
    return cut;
}

static void judge(struct known known, enum os_sim_policy policy) {
    bool exists = false;
    known.generation_high = known.sealing; /* it goes back to that of a seal */
    campaign_count_slots(PATH, policy);
    const bool sealed = look(&known, &exists);
    campaign_add(!exists ? COUNT_MISSING : sealed ? COUNT_LIVE_SEALED : COUNT_LIVE_UNSEALED, 1);
    if (exists)
        go_on(&known, sealed, false);
    campaign_image(COUNT_IMAGES_LIVE, policy);
}

/* The recovery of an image is cut at one step; and perhaps the one after that. False if the first has fewer steps. */
static bool cut_again(const struct point *point, enum os_sim_policy policy, uint64_t image_seed, uint64_t n) {
    struct known known = point->known;
    os_sim_reboot(point->state, policy, image_seed);
    policy = (enum os_sim_policy)(chance_mix(image_seed, n) % OS_SIM_GARBLED);
    const bool cut = recover_until(n, &known, policy, image_seed + n);
    const bool twice = cut && chance_mix(n, image_seed) % 3 == 0 &&
                       recover_until(1 + image_seed % 12, &known, policy, image_seed + n + 1);
    judge(known, policy);
    campaign_add(twice ? COUNT_CUT_TWICE : COUNT_CUT_ONCE, cut);
    return cut;
}

static void try_image(const struct point *point, enum os_sim_policy policy, uint64_t image_seed) {
    if (chance_mix(image_seed, 3) % 100 == 0) {
        for (uint64_t n = 1; cut_again(point, policy, image_seed, n); n++)
            if (n == RECOVERY_STEPS_MOST)
                broken("a recovery has no end");
    } else if (image_seed % 4 == 0) {
        cut_again(point, policy, image_seed, 1 + image_seed / 4 % 14);
    } else {
        os_sim_reboot(point->state, policy, image_seed);
        judge(point->known, policy);
    }
}

/* ---- every point ------------------------------------------------------------------------------------------------- */

static void judge_point(const struct point *point, uint64_t number) {
    uint64_t seed = chance_mix(script.seed, number);
    script.operation = (unsigned)number;
    try_image(point, OS_SIM_NOTHING, seed++);
    if (os_sim_state_pending(point->state) == 0)
        return;
    for (int policy = OS_SIM_EVERYTHING; policy < OS_SIM_GARBLED; policy++)
        try_image(point, (enum os_sim_policy)policy, seed++);
    try_image(point, OS_SIM_SECTORS, seed++);
}

void live_script_cut_everywhere(uint64_t seed) {
    prepare(seed);
    run();
    for (size_t i = 0; i < script.point_count; i++)
        judge_point(&script.points[i], i);
    forget();
    campaign_add(COUNT_SCRIPTS_LIVE, 1);
}

/* The processes die, the machine goes on. */
static void judge_death(const struct point *point) {
    km_map *map = NULL;
    os_sim_kill(point->state);
    const int result = try_open(&map, 0);
    campaign_add(COUNT_DEATHS_LIVE, 1);
    if (result == KM_ENOTFOUND && !point->known.exists)
        return;
    expect(result, 0, "km_open()");
    check_content(map, &point->known, true);
    check_numbers(map, &point->known);
    (void)verify(map, 0);
    expect(km_begin(map, KM_WRITE), point->known.told ? KM_EABANDONED : 0, "km_begin()");
    expect(km_commit(map), 0, "km_commit()");
    expect(km_close(map), 0, "km_close()");
}

void live_script_die_everywhere(uint64_t seed) {
    prepare(seed);
    run();
    for (size_t i = 0; i < script.point_count; i++) {
        script.operation = (unsigned)i;
        judge_death(&script.points[i]);
    }
    forget();
}
