/* SPDX-License-Identifier: MIT
 *
 * Live maps and objects when something fails, on the simulated system: whichever call of the system it is, no lock and
 * no name is left behind, nobody sees a map become smaller, and what a wild word in control says never gets into the
 * header.
 */
#include "map/map.h"
#include "support/check.h"
#include "support/os_sim.h"
#include "support/scratch.h"

#define PATH "/disk/live.km"
#define OBJECT "Local\\live"
#define SIZE 20000u
#define SIZE_MOST (8 * SIZE)

static int try_open(km_map **map, const char *target, uint32_t mode, uint32_t flags) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .max_size = mode == KM_RAW ? 0 : SIZE_MOST,
                                       .mode = mode,
                                       .flags = flags,
                                       .timeout_ms = 20};
    return km_open(map, target, &options);
}

static km_map *open_live(uint32_t flags) {
    km_map *map = NULL;
    must(try_open(&map, PATH, KM_LIVE, flags));
    return map;
}

static unsigned char *bytes(km_map *map) {
    return km_data(map);
}

static void commit(km_map *map) {
    must(km_begin(map, KM_WRITE));
    must(km_commit(map));
}

/* ---- wild words -------------------------------------------------------------------------------------------------- */

/* Everything that writes a header takes the generation from there. */
static void a_wild_generation_in_control_never_gets_into_a_header(void **state) {
    (void)state;
    static const uint64_t wild[] = {0, 1, KM__GENERATION_MAX, KM__GENERATION_MAX + 1, UINT64_MAX - 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof wild / sizeof wild[0]; i++) {
        const bool too_high = wild[i] >= KM__GENERATION_MAX;
        os_sim_reset(1);
        km_map *map = open_live(KM_CREATE), *copy = NULL;
        for (int n = 0; n < 5; n++)
            commit(map);
        must(km_sync(map));
        must(km_copy(map, "/disk/first.km")); /* its history begins at 5 */
        must(km_close(map));
        const struct km_options none = {.struct_size = sizeof none};
        must(km_open(&map, "/disk/first.km", &none));
        atomic_store(&map->control->visible, wild[i]);
        must(km_begin(map, KM_WRITE));
        bytes(map)[0] = 9;
        must_fail(km_commit(map), too_high ? KM_ESIZE : 0);
        if (too_high)
            must(km_abort(map));
        must_fail(km_grow(map, 2 * SIZE), too_high ? KM_ESIZE : 0);
        must(km_sync(map));
        must(km_copy(map, "/disk/second.km"));
        must(km_open(&copy, "/disk/second.km", &none));
        assert_int_equal(bytes(copy)[0], 9);
        assert_true(km_generation(copy) >= 5 && km_generation(copy) <= KM__GENERATION_MAX);
        must(km_close(copy));
        must(km_close(map));
        must(km_open(&map, "/disk/first.km", &none));
        assert_int_equal(bytes(map)[0], 9);
        assert_true(km_generation(map) >= 5);
        check_clean(map);
        if (km_generation(map) < KM__GENERATION_MAX)
            commit(map);
        must(km_close(map));
    }
}

/* ---- calls that fail --------------------------------------------------------------------------------------------- */

static const struct {
    enum os_sim_operation operation;
    int code;
} failures[] = {
    {OS_SIM_OPEN, KM_EACCESS},    {OS_SIM_CREATE, KM_EACCESS},    {OS_SIM_PUBLISH, KM_EIO},
    {OS_SIM_REMOVE, KM_EACCESS},  {OS_SIM_INFO, KM_ESYSTEM},      {OS_SIM_READ, KM_EIO},
    {OS_SIM_WRITE, KM_ENOSPACE},  {OS_SIM_WRITE, KM_EIO},         {OS_SIM_SYNC, KM_EIO},
    {OS_SIM_RESIZE, KM_ENOSPACE}, {OS_SIM_ALLOCATE, KM_ENOSPACE}, {OS_SIM_ZERO, KM_EIO},
    {OS_SIM_MAP, KM_ENOMEM},      {OS_SIM_LOCK, KM_ESYSTEM},      {OS_SIM_LOCK, KM_EBUSY},
};

static int grow_within(km_map *map) {
    return km_grow(map, 4 * SIZE);
}

static int grow_beyond(km_map *map) {
    return km_grow(map, 2 * SIZE_MOST);
}

static int begin_and_commit(km_map *map) {
    const int result = km_begin(map, KM_WRITE);
    return result == 0 ? km_commit(map) : result;
}

static int copy(km_map *map) {
    return km_copy(map, "/disk/copy.km");
}

static int open_another(km_map *map) {
    km_map *other = NULL;
    (void)map;
    const int result = try_open(&other, PATH, KM_LIVE, 0);
    return result == 0 ? km_close(other) : result;
}

static int verify(km_map *map) {
    struct km_report report = {.struct_size = sizeof report};
    return km_verify(map, &report, NULL, NULL);
}

static const struct {
    const char *name;
    int (*call)(km_map *map);
    bool alone;
} calls[] = {
    {"sync", km_sync, false},     {"commit", begin_and_commit, false},
    {"grow", grow_within, false}, {"grow beyond", grow_beyond, true},
    {"copy", copy, false},        {"open", open_another, false},
    {"verify", verify, false},
};

/* What others find after the failure: locks are free, the size is not less than anybody was shown. */
static void look_after(km_map *map, km_map *other, const char *what) {
    uint64_t size = SIZE;
    km_map *late = NULL;
    const bool failed = map->control != NULL && atomic_load(&map->control->failed) != 0;
    if (map->access != 0)
        must(km_abort(map));
    must(try_open(&late, PATH, KM_LIVE, 0));
    size = km_size(late);
    memset(bytes(late), 7, size);
    km_map *const maps[] = {map, other, late};
    for (int i = 0; i < 3 && !failed; i++) {
        if (maps[i] == NULL || maps[i]->lost) /* a look at the file that fails is taken for its end */
            continue;
        const int begun = km_begin(maps[i], KM_WRITE);
        if (begun != 0 && !(begun == KM_EABANDONED && map->lost))
            fail_msg("%s: handle %d cannot begin: %s", what, i, km_last_error_detail());
        if (km_size(maps[i]) != size)
            fail_msg("%s: handle %d has %llu bytes, the newest %llu", what, i, (unsigned long long)km_size(maps[i]),
                     (unsigned long long)size);
        must(km_commit(maps[i]));
    }
    if (!failed && other != NULL && !other->lost) {
        const int result = km_grow(other, SIZE + 3000);
        assert_true(result == 0 || result == KM_ESIZE);
        must(km_begin(late, KM_READ));
        if (km_size(late) < size)
            fail_msg("%s: it became smaller", what);
        must(km_abort(late));
        for (uint64_t at = 0; at < size; at++)
            if (bytes(late)[at] != 7)
                fail_msg("%s: byte %llu was lost", what, (unsigned long long)at);
    }
    must_fail(km_close(late), 0);
}

static void whatever_fails_in_a_call_leaves_the_others_whole(void **state) {
    (void)state;
    unsigned met = 0;
    for (size_t c = 0; c < sizeof calls / sizeof calls[0]; c++) {
        for (size_t f = 0; f < sizeof failures / sizeof failures[0]; f++) {
            uint64_t happened = 1;
            for (uint64_t n = 1; happened > 0 && n < 500; n++) {
                char what[128];
                snprintf(what, sizeof what, "%s, call %llu of kind %d fails with %s", calls[c].name,
                         (unsigned long long)n, failures[f].operation, km_error_name(failures[f].code));
                os_sim_reset(n);
                km_map *map = open_live(KM_CREATE), *other = calls[c].alone ? NULL : open_live(0);
                memset(bytes(map), 5, SIZE);
                commit(map);
                os_sim_fail(failures[f].operation, n, 1, failures[f].code);
                const int result = calls[c].call(map);
                happened = os_sim_failures();
                os_sim_fail(failures[f].operation, 0, 0, 0);
                if (happened == 0 && result != 0)
                    fail_msg("%s: nothing failed, and it gave %s (%s)", what, km_error_name(result),
                             km_last_error_detail());
                if (result != 0 && km_last_error_detail()[0] == '\0')
                    fail_msg("%s: no detail", what);
                met += happened > 0;
                look_after(map, other, what);
                const bool failed = atomic_load(&map->control->failed) != 0 || map->lost;
                if (failed && !map->lost && !(failures[f].code == KM_EIO))
                    fail_msg("%s: poisoned", what);
                const int closed = km_close(other), last = km_close(map);
                if (!failed && (closed != 0 || last != 0))
                    fail_msg("%s: close gave %s and %s", what, km_error_name(closed), km_error_name(last));
                km_map *again = open_live(0);
                struct km_report report = {.struct_size = sizeof report};
                must(km_verify(again, &report, NULL, NULL));
                if (report.pages_damaged + report.headers_damaged != 0 || !report.digest_matches)
                    fail_msg("%s: damage", what);
                must(km_close(again));
            }
        }
    }
    assert_true(met > 100);
}

/* ---- opening and closing ----------------------------------------------------------------------------------------- */

static void whatever_fails_in_an_open_or_a_close_leaves_no_name_and_no_lock(void **state) {
    (void)state;
    unsigned met = 0;
    for (uint32_t mode = KM_TRANSACTIONAL; mode <= KM_RAW; mode++) {
        for (size_t f = 0; f < 2 * sizeof failures / sizeof failures[0]; f++) {
            const bool closing = f % 2 == 1;
            uint64_t happened = 1;
            for (uint64_t n = 1; happened > 0 && n < 500; n++) {
                char what[128];
                snprintf(what, sizeof what, "mode %u, %s, call %llu of kind %d fails with %s", mode,
                         closing ? "close" : "open", (unsigned long long)n, failures[f / 2].operation,
                         km_error_name(failures[f / 2].code));
                os_sim_reset(n);
                km_map *map = NULL;
                if (closing)
                    must(try_open(&map, OBJECT, mode, KM_CREATE));
                os_sim_fail(failures[f / 2].operation, n, 1, failures[f / 2].code);
                const int result = closing ? km_close(map) : try_open(&map, OBJECT, mode, KM_CREATE);
                happened = os_sim_failures();
                os_sim_fail(failures[f / 2].operation, 0, 0, 0);
                met += happened > 0;
                if (!closing && result == 0)
                    must(km_close(map));
                if (!closing && result != 0 && (map != NULL || km_last_error_detail()[0] == '\0'))
                    fail_msg("%s: no detail, or a handle", what);
                if (!closing && os_sim_exists(OBJECT) && failures[f / 2].operation == OS_SIM_CREATE)
                    fail_msg("%s: its name is left behind", what);
                const int second = try_open(&map, OBJECT, mode, KM_CREATE | KM_EXCLUSIVE);
                if (second != 0)
                    fail_msg("%s: the next creation gave %s (%s)", what, km_error_name(second), km_last_error_detail());
                must(km_close(map));
                assert_false(os_sim_exists(OBJECT));
            }
        }
    }
    assert_true(met > 100);
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wild_generation_in_control_never_gets_into_a_header),
        cmocka_unit_test(whatever_fails_in_a_call_leaves_the_others_whole),
        cmocka_unit_test(whatever_fails_in_an_open_or_a_close_leaves_no_name_and_no_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
