/* SPDX-License-Identifier: MIT
 *
 * Asking a map for everything: see tour.h.
 */
#include "tour.h"

#include <stdlib.h>
#include <string.h>

#include "format/checksum.h"
#include "map/control.h"
#include "support/os_sim.h"
#include "claim.h"

void tour_start(const struct canvas *canvas) {
    os_sim_reset(11);
    os_sim_put(TOUR_PATH, canvas->bytes, (size_t)canvas->length);
}

int tour_open(km_map **map, const char *path, uint32_t flags, uint32_t mode) {
    const struct km_options options = {
        .struct_size = sizeof options, .flags = flags, .mode = mode, .timeout_ms = TOUR_TIMEOUT_MS};
    *map = NULL;
    const int result = named(km_open(map, path, &options), "km_open");
    hold((result == 0) == (*map != NULL), "%s, but the handle is %p", km_error_name(result), (void *)*map);
    return result;
}

struct canvas tour_take(const char *path) {
    struct canvas now = {.length = os_sim_size(path)};
    now.bytes = need((size_t)now.length);
    hold(os_sim_read(path, 0, now.bytes, (size_t)now.length), "%s cannot be read", path);
    return now;
}

bool tour_damage(const char *path, const struct canvas *before, const struct canvas *after) {
    const uint64_t length = before->length < after->length ? before->length : after->length;
    bool beyond_control = false;
    for (uint64_t block = 0; block < length; block += KM__PAGE) {
        const uint64_t end = length - block < KM__PAGE ? length : block + KM__PAGE;
        if (memcmp(before->bytes + block, after->bytes + block, (size_t)(end - block)) == 0)
            continue;
        beyond_control |= block < KM__CONTROL_OFFSET || block >= KM__CONTROL_OFFSET + KM__CONTROL_SIZE;
        for (uint64_t at = block; at + 4 <= end; at += 4)
            if (memcmp(before->bytes + at, after->bytes + at, 4) != 0)
                os_sim_damage(path, at, after->bytes + at, 4);
    }
    return beyond_control;
}

static void compare(const struct canvas *now, const struct canvas *before, uint64_t start, uint64_t end,
                    const char *what) {
    for (uint64_t at = start; at < end && at < before->length; at++)
        hold(now->bytes[at] == before->bytes[at], "%s: byte %#llx was %02x, is %02x", what, (unsigned long long)at,
             before->bytes[at], now->bytes[at]);
}

void tour_unchanged(const char *path, const struct canvas *canvas, const char *what) {
    struct canvas now = tour_take(path);
    hold(now.length == canvas->length, "%s: the length was %llu, is %llu", what, (unsigned long long)canvas->length,
         (unsigned long long)now.length);
    if (memcmp(now.bytes, canvas->bytes, (size_t)now.length) != 0)
        compare(&now, canvas, 0, now.length, what);
    canvas_release(&now);
}

void tour_unchanged_but_control(const char *path, const struct canvas *canvas, const char *what) {
    struct canvas now = tour_take(path);
    hold(now.length == canvas->length, "%s: the length was %llu, is %llu", what, (unsigned long long)canvas->length,
         (unsigned long long)now.length);
    compare(&now, canvas, 0, KM__CONTROL_OFFSET, what);
    compare(&now, canvas, KM__CONTROL_OFFSET + KM__CONTROL_SIZE, now.length, what);
    canvas_release(&now);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static struct sight look(km_map *map) {
    struct sight sight = {.result = named(km_begin(map, KM_READ), "km_begin")};
    if (sight.result != 0)
        return sight;
    sight.generation = km_generation(map);
    sight.size = km_size(map);
    hold(km_data(map) != NULL && sight.size > 0, "%llu bytes of data", (unsigned long long)sight.size);
    sight.sum = km__crc32c(0, km_data(map), (size_t)sight.size);
    named(km_abort(map), "km_abort");
    return sight;
}

struct sight tour_read(km_map *map) {
    struct sight first = look(map);
    if (first.result == KM_ESTRAY) /* told once: what differs was taken back */
        first = look(map);
    const struct sight second = look(map);
    hold(first.result == second.result, "%s, and then %s", km_error_name(first.result), km_error_name(second.result));
    hold(first.generation == second.generation && first.size == second.size && first.sum == second.sum,
         "generation %llu of %llu bytes that sum to %llx, then %llu, %llu, %llx", (unsigned long long)first.generation,
         (unsigned long long)first.size, (unsigned long long)first.sum, (unsigned long long)second.generation,
         (unsigned long long)second.size, (unsigned long long)second.sum);
    return first;
}

struct count {
    uint64_t calls, stop, done;
    uint64_t pages, changed, headers, journal;
};

static int count_finding(void *context, uint64_t done, uint64_t total, const struct km_finding *finding) {
    struct count *count = context;
    hold(done >= count->done && done <= total, "%llu of %llu bytes after %llu", (unsigned long long)done,
         (unsigned long long)total, (unsigned long long)count->done);
    count->done = done;
    if (finding != NULL) {
        hold(finding->message != NULL && finding->message[0] != '\0', "a finding without a sentence");
        switch (finding->error) {
        case KM_ECORRUPT:
            count->pages++;
            break;
        case KM_ECHANGED:
            count->changed++;
            break;
        case KM_EHEADER:
            count->headers++;
            break;
        case KM_EJOURNAL:
            count->journal++;
            break;
        default:
            hold(false, "a finding of %s", km_error_name(finding->error));
        }
    }
    return ++count->calls == count->stop;
}

int tour_verify(km_map *map, struct km_report *report, uint64_t stop) {
    struct count count = {.stop = stop};
    *report = (struct km_report){.struct_size = sizeof *report};
    const int result = named(km_verify(map, report, count_finding, &count), "km_verify");
    hold((result == KM_ECANCELED) == (stop != 0 && count.calls == stop), "%s after %llu calls", km_error_name(result),
         (unsigned long long)count.calls);
    if (result != 0)
        return result;
    hold(count.pages == report->pages_damaged && count.changed == report->pages_changed &&
             count.headers == report->headers_damaged &&
             count.journal == report->frames_damaged + (report->digest_matches == 0),
         "told of %llu pages, %llu changed, %llu headers, %llu frames or digests", (unsigned long long)count.pages,
         (unsigned long long)count.changed, (unsigned long long)count.headers, (unsigned long long)count.journal);
    return 0;
}

bool tour_is_clean(const struct km_report *report) {
    return report->pages_damaged == 0 && report->frames_damaged == 0 && report->headers_damaged == 0 &&
           report->pages_changed == 0 && report->digest_matches == 1;
}

static int count_entry(void *context, const struct km_log_entry *entry) {
    uint64_t *last = context;
    hold(entry->generation > *last, "commit %llu after %llu", (unsigned long long)entry->generation,
         (unsigned long long)*last);
    *last = entry->generation;
    return 0;
}

static int count_user(void *context, const struct km_user *user) {
    uint64_t *users = context;
    hold(user->slot < KM__SLOTS && memchr(user->process_name, 0, sizeof user->process_name) != NULL, "slot %u",
         user->slot);
    (*users)++;
    return 0;
}

static void ask_once(km_map *map) {
    struct km_info info = {.struct_size = sizeof info};
    if (named(km_get_info(map, &info), "km_get_info") == 0) {
        hold(memchr(info.schema, 0, sizeof info.schema) != NULL, "a schema without an end");
        hold(info.mode == KM_RAW || (info.size > 0 && info.size <= info.max_size), "%llu of %llu bytes",
             (unsigned long long)info.size, (unsigned long long)info.max_size);
        hold(info.journal_used <= info.journal_size, "%llu of %llu bytes of journal",
             (unsigned long long)info.journal_used, (unsigned long long)info.journal_size);
    }
    uint64_t last = 0, users = 0;
    named(km_log(map, count_entry, &last), "km_log");
    named(km_who(map, count_user, &users), "km_who");
}

void tour_ask(km_map *map) {
    ask_once(map);
    if (named(km_begin(map, KM_READ), "km_begin") == 0) {
        ask_once(map);
        named(km_abort(map), "km_abort");
    }
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

/* A raw map's copy is its bytes; any other is a map of its own, whole by every measure. What its source shows can only
 * be compared if that is whole, too: a forged header may say that the data ended inside of a page, whose rest a view
 * that goes on from there shows as zeros. */
static void judge_copy(km_map *source, const struct sight *shown, bool whole) {
    struct km_info info = {.struct_size = sizeof info};
    named(km_get_info(source, &info), "km_get_info");
    const bool raw = info.mode == KM_RAW, live = info.mode == KM_LIVE;
    km_map *copy;
    const int result = tour_open(&copy, TOUR_COPY, KM_READONLY, raw ? KM_RAW : KM_TRANSACTIONAL);
    hold(result == 0, "the copy cannot be opened: %s: %s", km_error_name(result), km_last_error_detail());
    if (raw) {
        hold(km_size(copy) == km_size(source) && memcmp(km_data(copy), km_data(source), km_size(copy)) == 0,
             "the copy of a raw map has other bytes");
    } else {
        struct km_report report;
        const int verified = tour_verify(copy, &report, 0);
        hold(verified == 0 && tour_is_clean(&report), "the copy is not clean: %s", km_error_name(verified));
        const struct sight sight = tour_read(copy);
        const bool compared = shown->result == 0;
        hold(sight.result == 0 && (!compared || sight.size == shown->size) && (!whole || sight.sum == shown->sum) &&
                 (!compared || live || sight.generation == shown->generation),
             "the copy shows something else: %s, generation %llu", km_error_name(sight.result),
             (unsigned long long)sight.generation);
        struct km_info copied = {.struct_size = sizeof copied};
        hold(named(km_get_info(copy, &copied), "km_get_info") == 0, "no info of the copy");
        hold(live || copied.digest == info.digest, "the copy has digest %llx, its source %llx",
             (unsigned long long)copied.digest, (unsigned long long)info.digest);
    }
    named(km_close(copy), "km_close");
}

void tour_copy(km_map *map) {
    const bool raw = km_begin(map, KM_READ) == KM_EUNSUPPORTED;
    struct sight sight = {0};
    bool whole = false;
    if (!raw) {
        struct km_report report;
        (void)km_abort(map);
        whole = tour_verify(map, &report, 0) == 0 && tour_is_clean(&report);
        sight = look(map);
    }
    if (named(km_copy(map, TOUR_COPY), "km_copy") == 0) {
        /* With KM_CHECK forged bytes behind the end of the data pass for a stray store. The copy has no such bytes. */
        const bool stray = sight.result == KM_ESTRAY;
        hold(raw || stray || sight.result == 0, "a map was copied that gives %s at its begin",
             km_error_name(sight.result));
        judge_copy(map, &sight, whole && !stray);
        hold(km_copy(map, TOUR_COPY) == KM_EEXISTS, "a copy over a copy");
    } else {
        hold(!os_sim_exists(TOUR_COPY), "a copy was left behind");
    }
    os_sim_remove(TOUR_COPY);
}

/* ---- tours ------------------------------------------------------------------------------------------------------- */

static void must_be_consistent(km_map *map, const struct km_report *report) {
    const struct sight sight = tour_read(map);
    hold(sight.result == 0, "verify found nothing, and begin gives %s: %s", km_error_name(sight.result),
         km_last_error_detail());
    hold(sight.generation >= report->generation, "verify told of generation %llu, %llu is shown",
         (unsigned long long)report->generation, (unsigned long long)sight.generation);
    const int copied = named(km_copy(map, TOUR_COPY), "km_copy");
    hold(copied == 0 || copied == KM_EFEATURE, "verify found nothing, and a copy gives %s: %s", km_error_name(copied),
         km_last_error_detail());
    if (copied == 0)
        judge_copy(map, &sight, true);
    os_sim_remove(TOUR_COPY);
}

void tour_without_permission(const struct canvas *canvas, uint32_t flags) {
    km_map *map;
    if (tour_open(&map, TOUR_PATH, KM_READONLY | flags, 0) == 0) {
        struct km_report report;
        const int verified = tour_verify(map, &report, 0);
        tour_ask(map);
        if (verified == 0 && tour_is_clean(&report))
            must_be_consistent(map, &report);
        else
            (void)tour_read(map);
        tour_copy(map);
        hold(km_begin(map, KM_WRITE) == KM_EREADONLY, "a write transaction without permission");
        uint64_t now = 0;
        named(km_wait(map, 0, 1, &now), "km_wait");
        named(km_close(map), "km_close");
    }
    tour_unchanged(TOUR_PATH, canvas, "read-only");
}
