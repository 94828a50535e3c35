/* SPDX-License-Identifier: MIT
 *
 * Verify: both header slots, the frames after the checkpoint, every page of home, the digest.
 *
 * It holds CHECKPOINT for reading, chunk by chunk, so that neither home nor a slot changes under a chunk and no
 * frame after the checkpoint is overwritten, and lets a waiting checkpoint go first between two chunks. Pages that
 * frames after the checkpoint touch are checked twice: home against the table, unless a checkpoint died half-way or
 * may have (a header slot is damaged: O13 in open.c), and home with the frames applied against the frames' checksums.
 *
 * A live map has no frames. Its pages are compared where they stand, while others may store to them: what does not
 * match is damage only if the map is sealed, and still is when that is looked at again (S7 in live.c).
 *
 * The digest is that of home, in the header, and that of the newest commit, in its frame: both must be the sum of the
 * checksums that stand in the table, the second with those of the frames in their place. So a page that was changed
 * together with its checksum and with the header is found as long as a frame stands after it, and also where a
 * checkpoint died half-way, whose header says nothing of home.
 *
 * The caller's function may take long (somebody reads what it prints): what is found under a lock is told after it.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <stdio.h>

#include "map.h"

/* How long a checkpoint that waits is let go first. Longer than waiters sleep between two tries (locks.c). */
#define YIELD_NS UINT64_C(3000000)

/* Pages checked under one hold of CHECKPOINT. */
#define CHUNK_PAGES UINT64_C(2048)

/* A finding that waits to be told. */
struct note {
    struct km_finding finding;
    char message[160];
};

struct verify {
    km_map *map;
    struct km_report *report;
    km_progress *progress;
    void *context;
    struct km__slots slots;
    struct km__index framed; /* pages that frames after the checkpoint touched */
    uint64_t size;           /* bytes of data after the newest frame */
    bool frames_differ;      /* the newest commit's digest is not that of its pages */
    uint64_t done, total;
    uint64_t deadline;
    struct note *notes;
    size_t note_count, note_capacity;
};

static const struct km__header *newest(const struct verify *verify) {
    return &verify->slots.slot[verify->slots.chosen];
}

static int add_note(struct verify *verify, const struct km_finding *finding, const char *message) {
    if (km__array_reserve((void **)&verify->notes, &verify->note_capacity, verify->note_count + 1,
                          sizeof(struct note)) != 0)
        return km__error(KM_ENOMEM, "%s: no memory for what was found", verify->map->path);
    struct note *note = &verify->notes[verify->note_count++];
    note->finding = *finding;
    snprintf(note->message, sizeof note->message, "%s", message);
    return 0;
}

static int call(struct verify *verify, const struct km_finding *finding) {
    if (verify->progress == NULL || verify->progress(verify->context, verify->done, verify->total, finding) == 0)
        return 0;
    return km__error(KM_ECANCELED, "%s: the caller ended the verification", verify->map->path);
}

/* Tell what was found, holding no lock. */
static int tell_notes(struct verify *verify) {
    int result = 0;
    for (size_t i = 0; i < verify->note_count && result == 0; i++) {
        verify->notes[i].finding.message = verify->notes[i].message;
        result = call(verify, &verify->notes[i].finding);
    }
    verify->note_count = 0;
    return result;
}

/* Pages that a frame added are looked at, too: what no frame stores to is home's, and zeros. */
static uint64_t page_count(const struct verify *verify) {
    const struct km__header *header = newest(verify);
    const uint64_t size = header->data_size > verify->size ? header->data_size : verify->size;
    return km__pages_of(size < header->data_capacity ? size : header->data_capacity);
}

static int lock_chunk(struct verify *verify) {
    km_map *map = verify->map;
    int result = km__lock_wait(map, KM__CHECKPOINT, OS_LOCK_READ, verify->deadline);
    if (result != 0)
        return result;
    result = km__slots_load(map, &verify->slots);
    if (result == 0)
        result = km__regions_follow(map, newest(verify));
    if (result == 0)
        result = km__home_cover(map, page_count(verify) * KM__PAGE);
    if (result != 0)
        km__unlock(map, KM__CHECKPOINT);
    return result;
}

/* ---- header slots ------------------------------------------------------------------------------------------------ */

static int verify_slots(struct verify *verify) {
    int result = 0;
    for (int slot = 0; slot < 2 && result == 0; slot++) {
        if (verify->slots.result[slot] == 0)
            continue;
        char message[128];
        verify->report->headers_damaged++;
        snprintf(message, sizeof message, "header slot %c is damaged; the other one serves", slot == 0 ? 'A' : 'B');
        const struct km_finding finding = {
            .error = KM_EHEADER, .page = (uint64_t)slot, .offset = (uint64_t)slot * KM__SLOT_B};
        result = add_note(verify, &finding, message);
    }
    return result;
}

/* ---- frames ------------------------------------------------------------------------------------------------------ */

/* The generation that the journal must reach. */
static uint64_t expected_end(struct verify *verify, uint64_t end) {
    km_map *map = verify->map;
    const bool lives = !map->read_only || map->session_live;
    const uint64_t known = km__known_durable(map, newest(verify), end, !lives);
    const uint64_t durable = lives ? km__load(&map->control->durable) : 0;
    return durable > known ? durable : known;
}

static int note_pages(struct verify *verify) {
    struct km__frame_walk walk;
    struct km__frame_page page;
    km__frame_walk_start(&walk, &verify->map->frame);
    while (km__frame_walk_next(&walk, &page)) {
        bool added;
        struct km__patch *patch = km__index_add(&verify->framed, page.page, &added);
        if (patch == NULL)
            return KM_ENOMEM;
        patch->stored = page.stored;
        patch->generation = verify->map->frame.head.generation;
    }
    return 0;
}

/* Walk on from the cursor as far as frames are good. */
static int walk_frames(struct verify *verify, struct km__cursor *cursor) {
    km_map *map = verify->map;
    int result = km__geometry_refresh(map);
    while (result == 0) {
        result = km__journal_read(map, &map->frame, cursor);
        if (result == 0) {
            verify->report->frames++;
            result = note_pages(verify);
        }
    }
    return result < 0 ? result : 0;
}

/* Under CHECKPOINT, after a walk that ended at `end`: the table, with what frames say in the place of its entries. */
static int sum_frames(struct verify *verify, const struct km__cursor *end) {
    const struct km__header *header = newest(verify);
    if (end->generation == header->generation)
        return 0; /* the header's own digest is looked at last */
    const uint64_t pages = km__pages_of(header->data_size);
    uint64_t table = 0, digest = 0;
    const int result = km__table_digest(verify->map, pages, &table);
    if (result != 0)
        return result;
    const bool mixed = header->target > header->generation;
    digest = table;
    for (size_t i = 0; i < verify->framed.capacity; i++) {
        const struct km__patch *framed = &verify->framed.patches[i];
        if (framed->key == 0)
            continue;
        const uint64_t page = framed->key - 1;
        if (page < pages)
            digest -= km__digest_mix(page, km__table_entry(verify->map, page));
        digest += km__digest_mix(page, framed->stored);
    }
    /* A table that is not the header's is told as that. */
    verify->frames_differ = digest != end->digest && (mixed || table == header->digest);
    return 0;
}

static int verify_frames(struct verify *verify) {
    km_map *map = verify->map;
    struct km__cursor cursor = km__header_cursor(newest(verify));
    int result = walk_frames(verify, &cursor);
    const uint64_t expected = expected_end(verify, cursor.generation);
    /* Others commit meanwhile: only a frame that is missing in a walk begun after it was known is damaged. */
    if (result == 0 && expected > cursor.generation)
        result = walk_frames(verify, &cursor);
    if (result == 0)
        result = sum_frames(verify, &cursor);
    if (result != 0)
        return result;
    verify->report->generation = cursor.generation;
    verify->size = cursor.data_size;
    verify->report->pages = page_count(verify);
    if (expected <= cursor.generation)
        return 0;
    char message[160];
    snprintf(message, sizeof message, "commit %" PRIu64 " was durable, but the frame of commit %" PRIu64 " is damaged",
             expected, cursor.generation + 1);
    verify->report->frames_damaged++;
    const struct km_finding finding = {.error = KM_EJOURNAL,
                                       .offset = map->header.journal_offset + cursor.position,
                                       .generation = cursor.generation + 1};
    return add_note(verify, &finding, message);
}

/* ---- pages ------------------------------------------------------------------------------------------------------- */

static int page_damaged(struct verify *verify, uint64_t page, uint32_t expected, uint32_t found, const char *against) {
    char message[160];
    verify->report->pages_damaged++;
    snprintf(message, sizeof message, "page %" PRIu64 " has checksum %08" PRIx32 ", %s %08" PRIx32, page, found,
             against, expected);
    const struct km_finding finding = {
        .error = KM_ECORRUPT, .page = page, .offset = page * KM__PAGE, .expected = expected, .found = found};
    return add_note(verify, &finding, message);
}

static int page_changed(struct verify *verify, uint64_t page, uint32_t expected, uint32_t found) {
    char message[160];
    verify->report->pages_changed++;
    snprintf(message, sizeof message, "page %" PRIu64 " was changed since the last seal, or during it", page);
    const struct km_finding finding = {
        .error = KM_ECHANGED, .page = page, .offset = page * KM__PAGE, .expected = expected, .found = found};
    return add_note(verify, &finding, message);
}

/* S7: a live map that is sealed, and was when the page was looked at. */
static int is_sealed(struct verify *verify, bool *sealed) {
    struct km__slots slots;
    const int result = km__slots_load(verify->map, &slots);
    *sealed = result == 0 && (newest(verify)->flags & KM__HEADER_CLEAN) != 0 &&
              (slots.slot[slots.chosen].flags & KM__HEADER_CLEAN) != 0 &&
              slots.slot[slots.chosen].sequence == newest(verify)->sequence;
    return result;
}

static int tell_page(struct verify *verify, uint64_t page, uint32_t expected, uint32_t found) {
    bool sealed = true;
    const int result = km__is_live(verify->map) ? is_sealed(verify, &sealed) : 0;
    if (result != 0)
        return result;
    return sealed ? page_damaged(verify, page, expected, found, "the table says")
                  : page_changed(verify, page, expected, found);
}

/* Whether pages [first, first + count) and their table entries are all holes: zeros that match. */
static int is_hole(struct verify *verify, uint64_t first, uint64_t count, bool *hole) {
    const struct km__header *header = newest(verify);
    uint64_t start = 0, stop = 0;
    uint64_t from = header->data_offset + first * KM__PAGE, end = from + count * KM__PAGE;
    int result = os_file_next_data(verify->map->file, from, end, &start, &stop);
    *hole = result == 0 && start >= end;
    if (result != 0 || !*hole)
        return result;
    from = header->table_offset + first * sizeof(uint32_t);
    end = from + count * sizeof(uint32_t);
    result = os_file_next_data(verify->map->file, from, end, &start, &stop);
    *hole = result == 0 && start >= end;
    return result;
}

/* Home can be a mixture: a checkpoint died here, or the slot that said so is damaged. */
static bool is_mixed(const struct verify *verify) {
    const struct km__slots *slots = &verify->slots;
    return newest(verify)->target > newest(verify)->generation || slots->result[0] != 0 || slots->result[1] != 0;
}

static int verify_pages(struct verify *verify, uint64_t first, uint64_t count) {
    km_map *map = verify->map;
    const struct km__header *header = newest(verify);
    const bool mixed = is_mixed(verify);
    const unsigned char *home = km__is_live(map) ? map->view.address : map->home_region.address;
    int result = 0;
    for (uint64_t page = first; page < first + count && result == 0; page++) {
        const struct km__patch *framed = km__index_find(&verify->framed, page);
        if (mixed && framed != NULL)
            continue;
        const uint32_t expected = km__table_entry(map, page);
        const uint32_t found = km__checksum_page(header->checksum_kind, home + page * KM__PAGE);
        verify->report->pages_checked++;
        if (found != expected)
            result = tell_page(verify, page, expected, found);
    }
    return result;
}

/* Under CHECKPOINT, after the frames. Commits keep what lies behind the end of the data zero, and growth counts on it
 * (G3): other bytes would be in home and in copies, and not in the views of those who saw the growth. What has a wrong
 * checksum is told as that. */
static int verify_tail(struct verify *verify) {
    km_map *map = verify->map;
    const struct km__header *header = newest(verify);
    const uint64_t used = header->data_size % KM__PAGE, page = header->data_size / KM__PAGE;
    if (used == 0 || is_mixed(verify)) /* a checkpoint may have been about to bring home what growth added */
        return 0;
    const unsigned char *bytes = map->home_region.address + page * KM__PAGE;
    size_t at = (size_t)used;
    while (at < KM__PAGE && bytes[at] == 0)
        at++;
    const bool compared = header->checksum_kind != KM_CHECKSUM_NONE;
    const uint32_t found = km__checksum_page(header->checksum_kind, bytes);
    if (at == KM__PAGE || (compared && found != km__table_entry(map, page)))
        return 0;
    char message[160];
    verify->report->pages_damaged++;
    snprintf(message, sizeof message, "page %" PRIu64 " has bytes behind the end of the data, which no commit made",
             page);
    const struct km_finding finding = {.error = KM_ECORRUPT, .page = page, .offset = page * KM__PAGE + at};
    return add_note(verify, &finding, message);
}

/* One chunk; `*next` moves behind it. */
static int verify_chunk(struct verify *verify, uint64_t *next) {
    int result = lock_chunk(verify);
    if (result != 0)
        return result;
    const uint64_t pages = page_count(verify);
    if (*next >= pages) { /* a header that says less than before */
        km__unlock(verify->map, KM__CHECKPOINT);
        *next = UINT64_MAX / KM__PAGE;
        return 0;
    }
    uint64_t count = pages - *next < CHUNK_PAGES ? pages - *next : CHUNK_PAGES;
    if (newest(verify)->checksum_kind == KM_CHECKSUM_NONE)
        count = pages - *next;
    bool hole = newest(verify)->checksum_kind == KM_CHECKSUM_NONE;
    /* Holes are looked for in long strides first, so that a sparse map costs what it holds. */
    for (uint64_t stride = UINT64_C(1) << 22; !hole && result == 0 && stride >= CHUNK_PAGES; stride /= 64) {
        count = pages - *next < stride ? pages - *next : stride;
        result = is_hole(verify, *next, count, &hole);
    }
    if (result == 0 && !hole) {
        count = count < CHUNK_PAGES ? count : CHUNK_PAGES;
        result = verify_pages(verify, *next, count);
    } else if (result == 0 && newest(verify)->checksum_kind != KM_CHECKSUM_NONE) {
        verify->report->pages_checked += count;
    }
    /* Asked before the release, which clears the word. */
    const bool wanted = atomic_load_explicit(&verify->map->control->checkpoint_wanted, memory_order_relaxed) != 0;
    km__unlock(verify->map, KM__CHECKPOINT);
    *next += count;
    verify->done = *next * KM__PAGE;
    if (wanted)
        km__sleep(verify->map, YIELD_NS);
    if (result == 0)
        result = tell_notes(verify);
    return result == 0 ? call(verify, NULL) : result;
}

static int verify_digest(struct verify *verify) {
    int result = lock_chunk(verify);
    if (result != 0)
        return result;
    bool mixed = is_mixed(verify) && verify->report->frames > 0;
    if (km__is_live(verify->map)) /* the entries of an unsealed map are a mixture of two seals */
        mixed = (newest(verify)->flags & KM__HEADER_CLEAN) == 0;
    result = km__table_digest(verify->map, km__pages_of(newest(verify)->data_size), &verify->report->digest);
    const bool home_matches = mixed || verify->report->digest == newest(verify)->digest;
    verify->report->digest_matches = home_matches && !verify->frames_differ;
    km__unlock(verify->map, KM__CHECKPOINT);
    if (result != 0 || verify->report->digest_matches)
        return result;
    const struct km_finding finding = {.error = KM_EJOURNAL,
                                       .offset = newest(verify)->table_offset,
                                       .generation =
                                           home_matches ? verify->report->generation : newest(verify)->generation};
    result = add_note(verify, &finding,
                      home_matches ? "the digest of all checksums is not the one in the newest commit: the table, the "
                                     "header or a frame was changed"
                                   : "the digest of all checksums is not the one in the header: the table or the "
                                     "header was changed");
    return result == 0 ? tell_notes(verify) : result;
}

/* Home with the frames applied: what a begin shows. It has its own checks, whose findings are taken from the handle. */
static int verify_patched(struct verify *verify) {
    km_map *map = verify->map;
    map->stale = true;
    map->damaged.count = 0;
    map->collect_damaged = true;
    int result = km__begin_read(map);
    map->collect_damaged = false;
    if (result == 0)
        return km__end(map, false);
    if (result != KM_ECORRUPT)
        return result == KM_EJOURNAL ? 0 : result; /* told as a finding already */
    km__error_clear();
    result = 0;
    for (size_t i = 0; i < map->damaged.count && result == 0; i++) {
        const struct km__damage *damage = &map->damaged.items[i];
        result = page_damaged(verify, damage->page, damage->expected, damage->found, "its newest frame says");
    }
    return result == 0 ? tell_notes(verify) : result;
}

int km_verify(km_map *map, struct km_report *report, km_progress *progress, void *context) {
    int result = km__enter(map);
    if (result != 0)
        return result;
    if (map->raw)
        result = km__raw_refuse(map, "km_verify()");
    else if (report == NULL || !km__struct_holds(report->struct_size, sizeof *report))
        result = km__error(KM_EINVAL, "%s: report.struct_size: set it to sizeof(struct km_report)", map->path);
    else if (map->access != 0)
        result = km__error(KM_EMISUSE, "%s: km_verify() inside a transaction: end it first", map->path);
    if (result != 0)
        return km__leave(map, result);
    km__struct_clear(report, report->struct_size);
    struct verify verify = {.map = map, .report = report, .progress = progress, .context = context};
    verify.deadline = km__deadline(map);
    result = km__is_live(map) ? 0 : verify_patched(&verify);
    if (result == 0)
        result = lock_chunk(&verify);
    if (result == 0) {
        result = verify_slots(&verify);
        report->generation = newest(&verify)->generation;
        report->pages = km__pages_of(newest(&verify)->data_size);
        if (result == 0 && !km__is_live(map))
            result = verify_frames(&verify);
        if (result == 0 && !km__is_live(map))
            result = verify_tail(&verify);
        verify.total = page_count(&verify) * KM__PAGE;
        km__unlock(map, KM__CHECKPOINT);
        if (result == 0)
            result = tell_notes(&verify);
    }
    for (uint64_t next = 0; result == 0 && next * KM__PAGE < verify.total;) {
        verify.deadline = km__deadline(map);
        result = verify_chunk(&verify, &next);
    }
    if (result == 0)
        result = verify_digest(&verify);
    km__index_release(&verify.framed);
    free(verify.notes);
    return km__leave(map, result);
}
