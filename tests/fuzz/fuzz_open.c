/* SPDX-License-Identifier: MIT
 *
 * A whole file: opened without write permission, as raw bytes, and for writing, and used. What was good before it was
 * opened for writing stays good, and holds what was committed, also when the session ends by a kill or a power cut.
 *
 * The head of the recipe: base, flags of the writer, what it stores, how its session ends.
 */
#include <stdlib.h>
#include <string.h>

#include "support/os_sim.h"
#include "claim.h"
#include "tour.h"

static struct recipe recipe;

/* A handle in a live map may be told that its predecessor died, and is inside a transaction all the same. */
static bool begin_writing(km_map *map) {
    const int result = named(km_begin(map, KM_WRITE), "km_begin");
    return result == 0 || result == KM_EABANDONED;
}

static void without_header(const struct canvas *canvas) {
    km_map *map;
    if (tour_open(&map, TOUR_PATH, KM_READONLY, KM_RAW) == 0) {
        hold(km_size(map) == canvas->length && memcmp(km_data(map), canvas->bytes, (size_t)canvas->length) == 0,
             "a raw map has other bytes than its file");
        tour_ask(map);
        tour_copy(map);
        named(km_close(map), "km_close");
    }
    tour_unchanged(TOUR_PATH, canvas, "raw, read-only");
    struct canvas stored = {.bytes = need((size_t)canvas->length), .length = canvas->length};
    memcpy(stored.bytes, canvas->bytes, (size_t)canvas->length);
    if (tour_open(&map, TOUR_PATH, 0, KM_RAW) == 0) {
        const uint64_t at = recipe.head[2] * UINT64_C(97) % canvas->length;
        ((unsigned char *)km_data(map))[at] ^= 0x55;
        stored.bytes[at] ^= 0x55;
        named(km_sync(map), "km_sync");
        named(km_close(map), "km_close");
    }
    tour_unchanged(TOUR_PATH, &stored, "raw");
    canvas_release(&stored);
}

/* What the newest commit that returned 0 made of the data. */
struct promise {
    uint64_t generation, size;
    unsigned char *data;
};

static void store(km_map *map, struct promise *promise, unsigned step) {
    if (!begin_writing(map))
        return;
    const uint64_t size = km_size(map), at = (recipe.head[2] + step * UINT64_C(131)) * 61 % size;
    const uint64_t length = 1 + (recipe.head[2] % 16 * UINT64_C(300) + step) % (size - at);
    if (named(km_touch(map, at, length), "km_touch") == 0)
        memset((unsigned char *)km_data(map) + at, (int)(step + recipe.head[2]), (size_t)length);
    unsigned char *data = need((size_t)size);
    memcpy(data, km_data(map), (size_t)size);
    if (named(km_commit(map), "km_commit") == 0) {
        free(promise->data);
        *promise = (struct promise){.generation = km_generation(map), .size = size, .data = data};
    } else {
        free(data);
        (void)km_abort(map);
    }
}

static void use(km_map *map, struct promise *promise, bool *clean) {
    struct km_report report;
    struct km_info info = {.struct_size = sizeof info};
    *clean = tour_verify(map, &report, 0) == 0 && tour_is_clean(&report);
    const struct sight sight = tour_read(map);
    hold(!*clean || sight.result == 0, "verify found nothing, and begin gives %s", km_error_name(sight.result));
    tour_ask(map);
    store(map, promise, 1);
    named(km_checkpoint(map), "km_checkpoint");
    store(map, promise, 2);
    named(km_get_info(map, &info), "km_get_info");
    const uint64_t size = (recipe.head[3] & 8) != 0 ? info.max_size : info.size + recipe.head[3] * UINT64_C(500);
    if ((recipe.head[3] & 4) != 0 && size > info.size && size < RECIPE_FILE_MAX)
        named(km_grow(map, size), "km_grow");
    store(map, promise, 3);
    tour_copy(map);
    if (begin_writing(map)) {
        memset(km_data(map), 0xaa, (size_t)km_size(map)); /* ends as an abort */
        named(km_abort(map), "km_abort");
    }
    if ((recipe.head[3] & 16) != 0)
        named(km_sync(map), "km_sync");
}

/* How a session ends: the handle is closed, all processes are killed, or the power goes. */
enum ending { CLOSE, KILL, POWER };

static enum ending end(km_map *map) {
    switch (recipe.head[3] % 4) {
    case 1:
        os_sim_kill(NULL);
        named(km_close(map), "km_close");
        return KILL;
    case 2:
        os_sim_reboot(NULL, (enum os_sim_policy)(recipe.head[3] / 32 % OS_SIM_GARBLED), recipe.head[2]);
        named(km_close(map), "km_close");
        return POWER;
    default:
        named(km_close(map), "km_close");
        return CLOSE;
    }
}

static void with_permission(const struct canvas *canvas) {
    static const uint32_t flags[] = {KM_LAZY, KM_DECLARED, KM_CHECK, KM_GUARD, KM_TAKE_OVER};
    uint32_t chosen = 0;
    for (unsigned i = 0; i < sizeof flags / sizeof flags[0]; i++)
        chosen |= (recipe.head[1] >> i & 1) != 0 ? flags[i] : 0;
    km_map *map;
    if (tour_open(&map, TOUR_PATH, chosen, 0) != 0) {
        tour_unchanged(TOUR_PATH, canvas, "refused");
        return;
    }
    struct km_info info = {.struct_size = sizeof info};
    named(km_get_info(map, &info), "km_get_info");
    struct promise promise = {0};
    bool clean = false;
    use(map, &promise, &clean);
    const enum ending ended = end(map);
    const bool kept = clean && info.mode != KM_LIVE && (ended != POWER || (chosen & KM_LAZY) == 0);
    const int opened = tour_open(&map, TOUR_PATH, 0, 0);
    if (opened == 0) {
        const struct sight sight = tour_read(map);
        if (kept && promise.data != NULL && sight.result == 0 && sight.generation == promise.generation &&
            named(km_begin(map, KM_READ), "km_begin") == 0) {
            hold(memcmp(km_data(map), promise.data, (size_t)promise.size) == 0,
                 "generation %llu does not hold what was committed", (unsigned long long)promise.generation);
            named(km_abort(map), "km_abort");
        }
        hold(!kept || (sight.result == 0 && sight.generation >= promise.generation),
             "commit %llu returned; now %s at generation %llu", (unsigned long long)promise.generation,
             km_error_name(sight.result), (unsigned long long)sight.generation);
        named(km_close(map), "km_close");
    }
    hold(opened == 0 || !clean, "a clean map cannot be opened any more: %s", km_last_error_detail());
    free(promise.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
    recipe_read(&recipe, bytes, length);
    struct canvas canvas = canvas_cook(&recipe);
    tour_start(&canvas);
    tour_without_permission(&canvas, (recipe.head[1] & 8) != 0 ? KM_GUARD : 0);
    without_header(&canvas);
    tour_start(&canvas);
    with_permission(&canvas);
    os_sim_reset(1);
    canvas_release(&canvas);
    return 0;
}
