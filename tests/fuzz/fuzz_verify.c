/* SPDX-License-Identifier: MIT
 *
 * Verify on damaged files: damage from before the open, or done to the file of an open handle. It tells what it counts,
 * stops when it is told to, changes nothing, and finds the same again.
 *
 * The head of the recipe: base, whether damage comes before the open (bit 0) and whether the handle may write (bit 1),
 * the call of the progress function at which it is told to stop, a commit first (bit 0).
 */
#include <string.h>

#include "bases.h"
#include "support/os_sim.h"
#include "claim.h"
#include "tour.h"

static struct recipe recipe;

static void judge(km_map *map, const struct canvas *before) {
    struct km_report first, second;
    const int stopped = tour_verify(map, &first, recipe.head[2] % 64);
    const int result = stopped == KM_ECANCELED ? tour_verify(map, &first, 0) : stopped;
    const int again = tour_verify(map, &second, 0); /* after an error the map may be known to have failed */
    hold(result != 0 || again == 0, "nothing, and then %s", km_error_name(again));
    if (result == 0)
        hold(memcmp(&first, &second, sizeof first) == 0, "two verifications count %llu and %llu damaged pages",
             (unsigned long long)first.pages_damaged, (unsigned long long)second.pages_damaged);
    tour_unchanged_but_control(TOUR_PATH, before, "verify");
    const struct sight sight = tour_read(map);
    if (result == 0 && tour_is_clean(&first))
        hold(sight.result == 0, "verify found nothing, and begin gives %s", km_error_name(sight.result));
    tour_unchanged_but_control(TOUR_PATH, before, "begin");
}

static void commit(km_map *map) {
    const int begun = named(km_begin(map, KM_WRITE), "km_begin");
    if (begun != 0 && begun != KM_EABANDONED)
        return;
    memset(km_data(map), recipe.head[3], 70);
    named(km_commit(map), "km_commit");
    (void)km_abort(map);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
    recipe_read(&recipe, bytes, length);
    const struct base *base = bases_get(recipe.head[0]);
    const uint32_t flags = (recipe.head[1] & 2) != 0 ? 0 : KM_READONLY;
    const struct canvas whole = {.bytes = base->bytes, .length = base->length};
    struct canvas canvas = canvas_cook(&recipe);
    const bool before = (recipe.head[1] & 1) != 0;
    km_map *map;
    tour_start(before ? &canvas : &whole);
    if (tour_open(&map, TOUR_PATH, flags, 0) == 0) {
        if (flags == 0 && (recipe.head[3] & 1) != 0)
            commit(map);
        if (!before)
            tour_damage(TOUR_PATH, &whole, &canvas);
        struct canvas now = tour_take(TOUR_PATH);
        judge(map, &now);
        canvas_release(&now);
        named(km_close(map), "km_close");
    }
    os_sim_reset(1);
    canvas_release(&canvas);
    return 0;
}
