/* SPDX-License-Identifier: MIT
 *
 * A hostile peer: handles of one map work, and between their calls, and in the middle of them, the input changes what
 * they share: control, header slots, journal, table, data. No call reads or writes outside of its mappings (which the
 * address sanitizer sees), each ends, with an error that has a name; and when all have closed, the file opens, or gives
 * such an error. As long as only words of control were changed, what was committed is there.
 *
 * The head of the recipe: base, flags of two handles (three bits each), how the session ends. Steps of the kind CALL
 * call something on handle `which`; WHEN puts off the next change into the middle of the next call.
 */
#include <stdlib.h>
#include <string.h>

#include "format/checksum.h"
#include "map/control.h"
#include "support/os_sim.h"
#include "claim.h"
#include "tour.h"

#define HANDLES 3u
#define CALLS_MAX 60u

static struct recipe recipe;

static struct {
    km_map *handles[HANDLES];
    const struct step *put_off; /* happens before the `due`-th step from now */
    uint64_t due;
    bool beyond_control; /* something else than control was changed */
    uint64_t acknowledged;
    uint32_t acknowledged_sum;
    uint64_t acknowledged_size;
} stage;

/* ---- what the peer does ------------------------------------------------------------------------------------------ */

/* Only what differs is written, and the file keeps its length: a mapping beyond its end would be a fault. */
static void change_file(const struct step *step) {
    static unsigned char bytes[RECIPE_FILE_MAX], old[RECIPE_FILE_MAX];
    const uint64_t size = os_sim_size(TOUR_PATH);
    struct canvas canvas = {.bytes = bytes, .length = size < RECIPE_FILE_MAX ? size : RECIPE_FILE_MAX};
    const struct canvas before = {.bytes = old, .length = canvas.length};
    if (step->kind == STEP_LENGTH || canvas.length == 0 || !os_sim_read(TOUR_PATH, 0, bytes, (size_t)canvas.length))
        return;
    memcpy(old, bytes, (size_t)canvas.length);
    canvas_apply(&canvas, step);
    stage.beyond_control |= tour_damage(TOUR_PATH, &before, &canvas);
}

static void happen(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)context;
    (void)operation;
    (void)step;
    if (stage.put_off != NULL && stage.due-- == 0) {
        const struct step *change = stage.put_off;
        stage.put_off = NULL;
        change_file(change);
    }
}

/* ---- what the handles do ----------------------------------------------------------------------------------------- */

static void open_handle(unsigned which) {
    static const uint32_t choices[] = {
        0, KM_LAZY, KM_DECLARED, KM_CHECK, KM_GUARD, KM_LAZY | KM_CHECK, KM_TAKE_OVER, KM_DECLARED | KM_LAZY};
    if (stage.handles[which] != NULL)
        return;
    const uint32_t flags = which == 2 ? KM_READONLY : choices[recipe.head[1] >> which * 3 & 7];
    (void)tour_open(&stage.handles[which], TOUR_PATH, flags, 0);
}

static void close_handle(unsigned which) {
    if (stage.handles[which] != NULL)
        named(km_close(stage.handles[which]), "km_close");
    stage.handles[which] = NULL;
}

static void store(km_map *map, const struct step *step) {
    if (km_size(map) == 0 || named(km_touch(map, 0, 1), "km_touch") != 0)
        return; /* not in a write transaction */
    const uint64_t at = step->number % km_size(map);
    uint64_t length = 1 + step->number / 65536 % 30000;
    length = length < km_size(map) - at ? length : km_size(map) - at;
    named(km_touch(map, at, length), "km_touch");
    memset((unsigned char *)km_data(map) + at, step->how, (size_t)length);
}

/* Handles that are lazy promise nothing. */
static void commit(km_map *map) {
    const uint64_t size = km_size(map);
    const uint32_t sum = km__crc32c(0, km_data(map), (size_t)size);
    const uint64_t before = km_generation(map);
    if (named(km_commit(map), "km_commit") != 0 || km_generation(map) == before)
        return;
    stage.acknowledged = km_generation(map);
    stage.acknowledged_sum = sum;
    stage.acknowledged_size = size;
}

static void grow(km_map *map, const struct step *step) {
    const uint64_t size = km_size(map) + step->number % 50000;
    if (size > 0 && size < RECIPE_FILE_MAX / 4)
        named(km_grow(map, size), "km_grow");
}

static void verify(km_map *map) {
    struct km_report report = {.struct_size = sizeof report};
    named(km_verify(map, &report, NULL, NULL), "km_verify");
}

static void look(km_map *map) {
    if (named(km_begin(map, KM_READ), "km_begin") != 0)
        return;
    (void)km__crc32c(0, km_data(map), (size_t)km_size(map));
    named(km_abort(map), "km_abort");
}

static int ignore_entry(void *context, const struct km_log_entry *entry) {
    (void)context;
    return entry->generation == UINT64_MAX;
}

static int ignore_user(void *context, const struct km_user *user) {
    (void)context;
    return memchr(user->process_name, 0, sizeof user->process_name) == NULL;
}

static void ask(km_map *map) {
    struct km_info info = {.struct_size = sizeof info};
    named(km_get_info(map, &info), "km_get_info");
    named(km_log(map, ignore_entry, NULL), "km_log");
    named(km_who(map, ignore_user, NULL), "km_who");
}

static void wait_a_little(km_map *map, const struct step *step) {
    uint64_t now = 0;
    named(km_wait(map, step->number % 8, step->how % 3, &now), "km_wait");
}

static void copy(km_map *map) {
    if (named(km_copy(map, TOUR_COPY), "km_copy") == 0)
        os_sim_remove(TOUR_COPY);
}

static void call(const struct step *step) {
    enum {
        OPEN,
        CLOSE,
        READ,
        WRITE,
        STORE,
        COMMIT,
        ABORT,
        CHECKPOINT,
        GROW,
        SYNC,
        VERIFY,
        LOOK,
        ASK,
        WAIT,
        COPY,
        CALLS
    };
    const unsigned which = step->which % HANDLES, what = step->field % CALLS;
    km_map *map = stage.handles[which];
    if (map == NULL || what == OPEN) {
        open_handle(which);
        return;
    }
    switch (what) {
    case CLOSE:
        close_handle(which);
        break;
    case READ:
        named(km_begin(map, KM_READ), "km_begin");
        break;
    case WRITE:
        named(km_begin(map, KM_WRITE), "km_begin");
        break;
    case STORE:
        store(map, step);
        break;
    case COMMIT:
        commit(map);
        break;
    case ABORT:
        named(km_abort(map), "km_abort");
        break;
    case CHECKPOINT:
        named(km_checkpoint(map), "km_checkpoint");
        break;
    case GROW:
        grow(map, step);
        break;
    case SYNC:
        named(km_sync(map), "km_sync");
        break;
    case VERIFY:
        verify(map);
        break;
    case LOOK:
        look(map);
        break;
    case ASK:
        ask(map);
        break;
    case WAIT:
        wait_a_little(map, step);
        break;
    default:
        copy(map);
        break;
    }
}

/* ---- judging ----------------------------------------------------------------------------------------------------- */

static void open_afterwards(bool live) {
    km_map *map;
    if (tour_open(&map, TOUR_PATH, KM_TAKE_OVER, 0) != 0)
        return;
    if (named(km_begin(map, KM_READ), "km_begin") == 0) {
        const uint32_t sum = km__crc32c(0, km_data(map), (size_t)km_size(map));
        const bool kept = !stage.beyond_control && !live;
        hold(!kept || km_generation(map) >= stage.acknowledged, "commit %llu returned, generation %llu is there",
             (unsigned long long)stage.acknowledged, (unsigned long long)km_generation(map));
        hold(!kept || km_generation(map) != stage.acknowledged || stage.acknowledged == 0 ||
                 (km_size(map) == stage.acknowledged_size && sum == stage.acknowledged_sum),
             "commit %llu does not hold what was stored", (unsigned long long)stage.acknowledged);
        named(km_abort(map), "km_abort");
    }
    verify(map);
    named(km_close(map), "km_close");
}

static void end_session(void) {
    stage.put_off = NULL;
    os_sim_watch(NULL, NULL);
    if ((recipe.head[2] & 1) != 0)
        os_sim_kill(NULL);
    for (unsigned which = 0; which < HANDLES; which++)
        close_handle(which);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
    recipe_read(&recipe, bytes, length);
    const struct recipe none = {.head = {recipe.head[0]}};
    struct canvas canvas = canvas_cook(&none);
    memset(&stage, 0, sizeof stage);
    tour_start(&canvas);
    os_sim_watch(happen, NULL);
    unsigned calls = 0;
    const struct step *put_off = NULL;
    for (size_t i = 0; i < recipe.count && calls < CALLS_MAX; i++) {
        const struct step *step = &recipe.steps[i];
        if (step->kind == STEP_CALL) {
            calls++;
            stage.put_off = put_off;
            call(step);
            stage.put_off = put_off = NULL;
        } else if (step->kind == STEP_WHEN && i + 1 < recipe.count && recipe.steps[i + 1].kind < STEP_CALL) {
            stage.due = step->number % 24;
            put_off = &recipe.steps[++i];
        } else {
            change_file(step);
        }
    }
    const bool live = canvas.length > 60 && canvas.bytes[56] == KM_LIVE;
    end_session();
    open_afterwards(live);
    os_sim_reset(1);
    canvas_release(&canvas);
    return 0;
}
