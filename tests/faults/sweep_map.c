/* SPDX-License-Identifier: MIT
 *
 * Sweeps of transactional maps: see sweep_map.h.
 */
#include "sweep_map.h"

#include <errno.h>

#include "chance.h"
#include "scratch.h"

#define JOURNAL_SIZE 65536u
#define TIMEOUT_MS 2000u

struct km_options sweep_options(const struct scenario *scenario, uint64_t size, uint32_t flags) {
    struct km_options options = {
        .struct_size = sizeof options, .size = size, .mode = scenario->mode, .flags = flags, .timeout_ms = TIMEOUT_MS};
    if (size != 0 && scenario->mode != KM_RAW)
        options.max_size = 2 * SWEEP_SIZE;
    if (size != 0 && scenario->mode == KM_TRANSACTIONAL)
        options.journal_size = (flags & KM_FULL_PAGES) != 0 ? 4 * JOURNAL_SIZE : JOURNAL_SIZE;
    return options;
}

int sweep_open(struct sweep *sweep, km_map **map, uint32_t flags) {
    const struct km_options options = sweep_options(sweep->scenario, (flags & KM_CREATE) != 0 ? SWEEP_SIZE : 0, flags);
    return km_open(map, sweep->path, &options);
}

/* A page's version stands in a field in its midst and in its last byte. */
#define FIELD_AT 700u
#define FIELD_BYTES 24u

/* The byte of a page that is stamped beside its field: the last one. Growth leaves it where it is. */
static uint64_t last_of(uint64_t page) {
    return page + KM_PAGE_SIZE < SWEEP_SIZE ? page + KM_PAGE_SIZE - 1 : SWEEP_SIZE - 1;
}

void sweep_fill(km_map *map, int version) {
    unsigned char *data = km_data(map);
    for (uint64_t page = 0; page < SWEEP_SIZE; page += KM_PAGE_SIZE) {
        memset(data + page + FIELD_AT, version, FIELD_BYTES);
        data[last_of(page)] = (unsigned char)version;
    }
}

void sweep_fill_all(km_map *map, int version) {
    unsigned char *data = km_data(map);
    for (uint64_t at = 0; at < SWEEP_SIZE; at++)
        data[at] = (unsigned char)chance_mix(at, (uint64_t)version);
    sweep_fill(map, version);
}

int sweep_commit(struct sweep *sweep, km_map *map, int version) {
    if (sweep_step(sweep, km_begin(map, KM_WRITE)))
        return sweep->result;
    if (sweep_step(sweep, km_touch(map, 0, km_size(map))))
        return sweep->result;
    sweep_fill(map, version);
    (void)sweep_step(sweep, km_commit(map));
    return sweep->result;
}

static bool is_zero_from(const unsigned char *data, uint64_t at, uint64_t end) {
    while (at < end && data[at] == 0)
        at++;
    return at >= end;
}

int sweep_version(km_map *map) {
    if (km_begin(map, KM_READ) != 0)
        return -1;
    const unsigned char *data = km_data(map);
    int version = data[FIELD_AT];
    for (uint64_t page = 0; page < SWEEP_SIZE; page += KM_PAGE_SIZE) {
        bool same = data[last_of(page)] == version;
        for (uint64_t at = FIELD_AT; at < FIELD_AT + FIELD_BYTES; at++)
            same = same && data[page + at] == version;
        if (!same)
            version = -1;
    }
    if (!is_zero_from(data, SWEEP_SIZE, km_size(map))) /* growth brings zeros */
        version = -1;
    return km_abort(map) == 0 ? version : -1;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static uint32_t creation_flags(const struct scenario *scenario) {
    return scenario->flags & (KM_COMPRESS | KM_FULL_PAGES);
}

static void make_map(const struct sweep *sweep, const char *path, const char *killed) {
    km_map *map;
    const struct km_options options =
        sweep_options(sweep->scenario, SWEEP_SIZE, KM_CREATE | creation_flags(sweep->scenario));
    struct sweep making = {.scenario = sweep->scenario};
    must(km_open(&map, path, &options));
    must(sweep_commit(&making, map, killed != NULL ? VERSION_OLD + 7 : VERSION_OLD));
    if (killed != NULL) {
        must(km_checkpoint(map));
        must(sweep_commit(&making, map, VERSION_OLD + 8));
        must(sweep_commit(&making, map, VERSION_OLD));
        scratch_copy(path, killed);
    }
    must(km_close(map));
}

/* Made once for each kind; the runs begin with copies. */
static void store(const struct sweep *sweep, bool killed) {
    static struct scratch_image images[5][2];
    const uint32_t flags = creation_flags(sweep->scenario);
    const int kind =
        sweep->scenario->mode == KM_LIVE ? 4 : ((flags & KM_COMPRESS) != 0) + 2 * ((flags & KM_FULL_PAGES) != 0);
    struct scratch_image *image = &images[kind][killed];
    if (image->bytes == NULL) {
        make_map(sweep, scratch_path("made.km"), killed ? scratch_path("killed.km") : NULL);
        *image = scratch_load(scratch_path(killed ? "killed.km" : "made.km"));
        remove(scratch_path("made.km"));
        remove(scratch_path("killed.km"));
    }
    scratch_store(sweep->path, image->bytes, image->length);
}

void sweep_store_closed(struct sweep *sweep) {
    store(sweep, false);
}

void sweep_store_killed(struct sweep *sweep) {
    store(sweep, true);
}

void sweep_prepare_open(struct sweep *sweep) {
    sweep_store_closed(sweep);
    must(sweep_open(sweep, &sweep->map, sweep->scenario->flags));
    must(sweep_open(sweep, &sweep->other, 0));
}

void sweep_prepare_used(struct sweep *sweep) {
    sweep_prepare_open(sweep);
    must(sweep_commit(sweep, sweep->map, VERSION_OLD + 5));
    must(sweep_commit(sweep, sweep->map, VERSION_OLD));
    if ((sweep->scenario->flags & KM_LAZY) != 0)
        must(km_sync(sweep->map));
}

/* ---- afterwards -------------------------------------------------------------------------------------------------- */

void sweep_close(struct sweep *sweep, int expected) {
    const int other = km_close(sweep->other);
    sweep_expect(sweep, other == 0 || other == expected, "closing the other handle gives %s: %s", km_error_name(other),
                 km_last_error_detail());
    const int own = km_close(sweep->map);
    const bool ends = sweep->scenario->target != NULL; /* nobody asks whether all of it was made durable */
    sweep_expect(sweep, own == expected || sweep->map == NULL || (ends && own == 0), "closing gives %s: %s",
                 km_error_name(own), km_last_error_detail());
    sweep->map = sweep->other = NULL;
}

static void expect_version(const struct sweep *sweep, km_map *map, int version, int or_version) {
    const int found = sweep_version(map);
    sweep_expect(sweep, found == version || found == or_version, "version %d is shown, not %d or %d (%s)", found,
                 version, or_version, km_last_error_detail());
}

void sweep_settle_file(struct sweep *sweep, int version, int or_version) {
    km_map *map = NULL;
    struct km_report report = {.struct_size = sizeof report};
    struct sweep later = {.scenario = sweep->scenario};
    int result = sweep_open(sweep, &map, 0);
    sweep_expect(sweep, result == 0, "it cannot be opened any more: %s", km_last_error_detail());
    if (result != 0)
        return;
    expect_version(sweep, map, version, or_version);
    result = km_verify(map, &report, NULL, NULL);
    sweep_expect(sweep, result == 0, "it cannot be verified: %s", km_last_error_detail());
    sweep_expect(
        sweep, report.pages_damaged + report.frames_damaged + report.headers_damaged == 0 && report.digest_matches == 1,
        "it is damaged: %u pages, %u frames, %u headers, digest %u", (unsigned)report.pages_damaged,
        (unsigned)report.frames_damaged, (unsigned)report.headers_damaged, report.digest_matches);
    result = sweep_commit(&later, map, VERSION_NEW + 1);
    sweep_expect(sweep, result == 0, "there can be no commit: %s", km_last_error_detail());
    result = km_close(map);
    sweep_expect(sweep, result == 0, "it cannot be closed: %s", km_last_error_detail());
}

static int write_in_child(void *context) {
    struct sweep *sweep = context;
    km_map *map = NULL;
    if (sweep_open(sweep, &map, 0) != 0)
        return 1;
    return km_begin(map, KM_WRITE) == KM_EIO ? 0 : 2;
}

void sweep_settle_failed(struct sweep *sweep) {
    km_map *handles[] = {sweep->map, sweep->other};
    for (int i = 0; i < 2; i++) {
        if (handles[i] == NULL)
            continue;
        const int result = km_begin(handles[i], KM_WRITE);
        sweep_expect(sweep, result == KM_EIO, "a sync failed, and writing begins with %s", km_error_name(result));
        expect_version(sweep, handles[i], sweep->before, VERSION_NEW);
    }
    if (sweep->fault != NULL && sweep->fault->occurrence == 1) {
        const int ended = check_in_child(write_in_child, sweep, 20);
        sweep_expect(sweep, ended == 0, "a sync failed, and another process may write (%d)", ended);
    }
}

/* Errors of km_commit() after which the transaction is open and whole. */
static bool is_open_after(int result) {
    return result == KM_EBUSY || result == KM_ENOSPACE || result == KM_ESIZE || result == KM_ENOMEM ||
           result == KM_ECORRUPT;
}

static bool is_commit(const struct sweep *sweep) {
    return sweep->step != NULL && strstr(sweep->step, "km_commit") != NULL;
}

/* Whether what failed is something that is done inside a transaction. */
static bool is_inside(const struct sweep *sweep) {
    return sweep->step != NULL && strstr(sweep->step, "km_touch") != NULL;
}

void sweep_settle(struct sweep *sweep) {
    struct km_info info = {.struct_size = sizeof info};
    km_map *map = sweep->map != NULL ? sweep->map : sweep->other;
    const int told = km_get_info(map, &info);
    sweep_expect(sweep, told == 0, "no info: %s", km_last_error_detail());
    sweep->failed = info.failed != 0;
    if (sweep->fault != NULL && sweep->happened) {
        const bool is_error = sweep->fault->way == EIO || sweep->fault->call == FAULT_FULL_DISK;
        sweep_expect(sweep, sweep->failed || !sweep_is_sync(sweep->fault), "a sync failed, and poisons nothing");
        sweep_expect(sweep, !sweep->failed || is_error || sweep_is_sync(sweep->fault), "it poisons the map");
    }
    if (sweep->failed) {
        sweep_settle_failed(sweep);
        sweep_close(sweep, KM_EIO);
        sweep_settle_file(sweep, sweep->result == 0 ? VERSION_NEW : sweep->before, VERSION_NEW);
        return;
    }
    int result = sweep->result;
    const bool open = result != 0 && is_commit(sweep) && is_open_after(result);
    if (open) {
        const int again = km_commit(map);
        sweep_expect(sweep, again == 0, "the second commit gives %s: %s", km_error_name(again), km_last_error_detail());
        result = again;
    } else if (result != 0) {
        const int ended = km_abort(map), expected = is_inside(sweep) ? 0 : KM_EMISUSE;
        sweep_expect(sweep, ended == expected, "km_abort() gives %s", km_error_name(ended));
        expect_version(sweep, map, sweep->before, VERSION_NEW);
        struct sweep again = {.scenario = sweep->scenario,
                              .map = sweep->map,
                              .other = sweep->other,
                              .path = sweep->path,
                              .copy = sweep->copy,
                              .before = sweep->before};
        result = sweep->scenario->run(&again);
        sweep_expect(sweep, result == 0, "the second attempt gives %s: %s", km_error_name(result),
                     km_last_error_detail());
        sweep->map = again.map;
    }
    if (sweep->map != NULL)
        expect_version(sweep, sweep->map, VERSION_NEW, VERSION_NEW);
    if (sweep->other != NULL)
        expect_version(sweep, sweep->other, VERSION_NEW, VERSION_NEW);
    if (sweep->map != NULL && sweep->other != NULL) { /* no lock is left */
        struct sweep later = {.scenario = sweep->scenario};
        result = sweep_commit(&later, sweep->other, VERSION_NEW);
        sweep_expect(sweep, result == 0, "others cannot commit: %s", km_last_error_detail());
    }
    sweep_close(sweep, 0);
    sweep_settle_file(sweep, VERSION_NEW, VERSION_NEW);
}
