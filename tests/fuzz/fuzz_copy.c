/* SPDX-License-Identifier: MIT
 *
 * Copies of hostile maps, and maps made from any file's bytes. A copy is clean and shows what its source showed, or
 * there is none.
 *
 * The head of the recipe: base, flags (1: blocks are shared; 2: the source may be written; 4: inside a transaction;
 * 8: damage behind an open handle), the size of the map that is made from the file, and its mode.
 */
#include <stdlib.h>
#include <string.h>

#include "bases.h"
#include "support/os_sim.h"
#include "claim.h"
#include "tour.h"

static struct recipe recipe;

static void copy(const struct canvas *canvas) {
    const struct base *base = bases_get(recipe.head[0]);
    const struct canvas whole = {.bytes = base->bytes, .length = base->length};
    const bool behind = (recipe.head[1] & 8) != 0, writes = (recipe.head[1] & 2) != 0;
    km_map *map;
    tour_start(behind ? &whole : canvas);
    os_sim_set_clone((recipe.head[1] & 1) != 0);
    if (tour_open(&map, TOUR_PATH, writes ? 0 : KM_READONLY, 0) != 0)
        return;
    if ((recipe.head[1] & 4) != 0)
        named(km_begin(map, KM_READ), "km_begin");
    if (behind)
        tour_damage(TOUR_PATH, &whole, canvas);
    struct canvas before = tour_take(TOUR_PATH);
    const int result = named(km_copy(map, TOUR_COPY), "km_copy");
    hold((result == 0) == os_sim_exists(TOUR_COPY), "%s, and a copy %s", km_error_name(result),
         result == 0 ? "is not there" : "was left behind");
    tour_unchanged_but_control(TOUR_PATH, &before, "copied");
    if (!writes)
        tour_unchanged(TOUR_PATH, &before, "copied without permission");
    canvas_release(&before);
    os_sim_remove(TOUR_COPY);
    (void)km_abort(map);
    if (!behind)
        tour_copy(map);
    named(km_close(map), "km_close");
}

static void judge_made(const struct canvas *canvas, const struct km_options *options) {
    km_map *map;
    const int opened = tour_open(&map, TOUR_COPY, KM_READONLY, options->mode);
    hold(opened == 0, "what was made cannot be opened: %s", km_last_error_detail());
    const uint64_t size = km_size(map), common = size < canvas->length ? size : canvas->length;
    hold(size == (options->size != 0 ? options->size : canvas->length), "%llu bytes", (unsigned long long)size);
    const bool raw = options->mode == KM_RAW;
    hold(raw || km_begin(map, KM_READ) == 0, "begin: %s", km_last_error_detail());
    const unsigned char *data = km_data(map);
    hold(memcmp(data, canvas->bytes, (size_t)common) == 0, "the data does not begin with the file's bytes");
    for (uint64_t at = common; at < size; at++)
        hold(data[at] == 0, "byte %llu is not zero", (unsigned long long)at);
    (void)km_abort(map);
    struct km_report report;
    hold(raw || (tour_verify(map, &report, 0) == 0 && tour_is_clean(&report)), "it is not clean");
    named(km_close(map), "km_close");
}

static void make_from(const struct canvas *canvas) {
    tour_start(canvas);
    os_sim_set_clone((recipe.head[1] & 1) != 0);
    struct km_options options = {.struct_size = sizeof options,
                                 .flags = KM_CREATE | KM_EXCLUSIVE,
                                 .size = recipe.head[2] * UINT64_C(2777),
                                 .mode = recipe.head[3] % 4,
                                 .checksum = recipe.head[3] / 4 % 4,
                                 .from = TOUR_PATH};
    options.journal_size = options.mode == KM_TRANSACTIONAL ? 65536 : 0;
    km_map *map = NULL;
    const int result = named(km_open(&map, TOUR_COPY, &options), "km_open");
    if (result == 0) {
        named(km_close(map), "km_close");
        judge_made(canvas, &options);
    } else {
        hold(!os_sim_exists(TOUR_COPY), "a map was left behind: %s: %s", km_error_name(result), km_last_error_detail());
    }
    tour_unchanged(TOUR_PATH, canvas, "made from it");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
    recipe_read(&recipe, bytes, length);
    struct canvas canvas = canvas_cook(&recipe);
    copy(&canvas);
    make_from(&canvas);
    os_sim_reset(1);
    canvas_release(&canvas);
    return 0;
}
