/* SPDX-License-Identifier: MIT
 *
 * Bad bytes in good files: a byte flipped in every region, of a map that was closed and of one whose session was
 * killed, and frames whose fields or bodies somebody changed and sealed again. Opening gives a named error or a whole
 * committed state.
 */
#include <signal.h>

#include "support/attempt.h"
#include "support/chance.h"

#include "format/checksum.h"
#include "format/frame.h"
#include "format/frame_head.h"

/* ---- flipped bytes everywhere ------------------------------------------------------------------------------------ */

enum place { SLOT_A, SLOT_B, CONTROL, TABLE, DATA, JOURNAL };

struct batch {
    const struct scratch_image *good;
    uint64_t first, end, stride;
    enum place place;
    int killed; /* the map comes from a killed session: its newest commits stand in the journal */
    uint64_t newest;
};

static void judge_flip(const struct batch *batch, uint64_t at) {
    const int result = attempt->opened;
    attempt->index = at;
    child_check(attempt->explained);
    if (result != 0) {
        /* Only what the journal alone holds can be lost to one flipped byte. */
        child_check(batch->place == JOURNAL && batch->killed);
        child_check(result == KM_EJOURNAL || result == KM_ECORRUPT);
        return;
    }
    if (batch->place == TABLE || batch->place == DATA) {
        child_check(attempt->used == 0 || attempt->used == KM_ECORRUPT);
        return;
    }
    if (batch->place == JOURNAL && batch->killed && attempt->used == KM_EJOURNAL) {
        return; /* a handle without write permission opens, so that verify can tell, and refuses to begin */
    }
    child_check(attempt->used == 0);
    /* The last commit cannot be told from one that power cut short; everything before it can. */
    child_check(attempt->generation == batch->newest || (batch->killed && attempt->generation + 1 == batch->newest));
    child_check(attempt->last_byte == 22);
}

static int try_flips(void *context) {
    const struct batch *batch = context;
    for (uint64_t at = batch->first; at < batch->end; at += batch->stride) {
        attempt->index = at;
        scratch_store(attempt->path, batch->good->bytes, batch->good->length);
        scratch_flip(attempt->path, at, (unsigned char)(1u << (at / batch->stride) % 8));
        struct scratch_image flipped = scratch_load(attempt->path);
        attempt->flags = KM_READONLY;
        attempt_use();
        child_check(scratch_equals(attempt->path, &flipped));
        judge_flip(batch, at);
        attempt->flags = 0;
        attempt_use();
        child_check(attempt->opened == 0 || scratch_equals(attempt->path, &flipped));
        judge_flip(batch, at);
        scratch_release(&flipped);
    }
    return 0;
}

static void flip_everywhere(const char *path, int killed, uint64_t newest) {
    struct scratch_image good = scratch_load(path);
    const struct km__header header = scratch_header(path);
    const struct batch batches[] = {
        {&good, KM__SLOT_A, KM__SLOT_A + 300, 7, SLOT_A, killed, newest},
        {&good, KM__SLOT_A + 300, KM__SLOT_A + KM__SLOT_SIZE, 173, SLOT_A, killed, newest},
        {&good, KM__SLOT_B, KM__SLOT_B + 300, 7, SLOT_B, killed, newest},
        {&good, KM__SLOT_B + 300, KM__SLOT_B + KM__SLOT_SIZE, 173, SLOT_B, killed, newest},
        {&good, KM__CONTROL_OFFSET, KM__CONTROL_OFFSET + 1024, 31, CONTROL, killed, newest},
        {&good, KM__CONTROL_OFFSET + 1024, KM__CONTROL_OFFSET + KM__CONTROL_SIZE, 1777, CONTROL, killed, newest},
        {&good, header.table_offset, header.table_offset + ATTEMPT_PAGES * 4, 3, TABLE, killed, newest},
        {&good, header.data_offset, header.data_offset + ATTEMPT_SIZE, 911, DATA, killed, newest},
        {&good, header.journal_offset, header.journal_offset + 6000, killed ? 37 : 400, JOURNAL, killed, newest},
        {&good, header.journal_offset + 6000, header.journal_offset + header.journal_size, 2048, JOURNAL, killed,
         newest},
    };
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
        struct batch batch = batches[i];
        *attempt = (struct attempt){.path = path};
        const int ended = check_in_child(try_flips, &batch, 60);
        if (ended != 0) {
            fail_msg("byte %#llx flipped (place %d, flags %u): ended with %d; opened: %s, used: %s, generation %llu",
                     (unsigned long long)attempt->index, (int)batch.place, attempt->flags, ended,
                     km_error_name(attempt->opened), km_error_name(attempt->used),
                     (unsigned long long)attempt->generation);
        }
    }
    scratch_release(&good);
}

static void a_flipped_byte_anywhere_in_a_closed_map_is_survived_or_named(void **state) {
    (void)state;
    flip_everywhere(attempt_map("flips"), 0, 2);
}

/* Commits 3, 4 and 5, each with two changed pages, and a death. */
static int commit_and_die(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    for (int i = 0; i < 3; i++) {
        child_must(km_begin(map, KM_WRITE));
        memset((char *)km_data(map) + (i + 1) * 5000, 30 + i, 900);
        memset((char *)km_data(map) + (i + 4) * 5000, 40 + i, 900);
        child_must(km_commit(map));
    }
    raise(SIGKILL);
    return 0;
}

static const char *make_killed_map(const char *name) {
    const char *path = attempt_map(name);
    assert_int_equal(check_in_child(commit_and_die, (void *)(uintptr_t)path, 20), -SIGKILL);
    return path;
}

static void a_flipped_byte_anywhere_after_a_crash_is_survived_or_named(void **state) {
    (void)state;
    flip_everywhere(make_killed_map("killed"), 1, 5);
}

/* ---- frames that somebody made ----------------------------------------------------------------------------------- */

#define HEAD_FIELD(name)                                                                                               \
    { #name, offsetof(struct km__frame_head, name), sizeof((struct km__frame_head *)0)->name, 0 }

static const struct field head_fields[] = {
    HEAD_FIELD(magic),       HEAD_FIELD(flags),         HEAD_FIELD(generation), HEAD_FIELD(length),
    HEAD_FIELD(body_length), HEAD_FIELD(stored_length), HEAD_FIELD(page_count), HEAD_FIELD(range_count),
    HEAD_FIELD(time_ns),     HEAD_FIELD(process_id),    HEAD_FIELD(reserved),   HEAD_FIELD(nonce),
    HEAD_FIELD(data_size),   HEAD_FIELD(digest),        HEAD_FIELD(durable),    HEAD_FIELD(chain),
};

/* Where the frames of generations 3, 4, 5 start in the file. */
static void find_frames(const char *path, uint64_t places[3]) {
    const struct km__header header = scratch_header(path);
    unsigned found = 0;
    for (uint64_t at = 0; at + sizeof(struct km__frame_head) <= header.journal_size; at += 8) {
        struct km__frame_head head;
        scratch_read(path, header.journal_offset + at, &head, sizeof head);
        if (head.magic == KM__FRAME_MAGIC && head.generation >= 3 && head.generation <= 5) {
            places[head.generation - 3] = header.journal_offset + at;
            found++;
        }
    }
    assert_int_equal(found, 3);
}

/* What a changed frame may lead to: an error that tells, or one of the generations that were committed. */
static void expect_sane(const char *what) {
    if (attempt->opened != 0 || attempt->used != 0) {
        return;
    }
    if (attempt->generation < 2 || attempt->generation > 6 || attempt->first_byte != 11) {
        fail_msg("%s: generation %llu, first byte %u", what, (unsigned long long)attempt->generation,
                 attempt->first_byte);
    }
}

static void every_changed_frame_field_is_refused_or_harmless(void **state) {
    (void)state;
    const char *path = make_killed_map("frames");
    struct scratch_image good = scratch_load(path);
    const struct km__header header = scratch_header(path);
    uint64_t places[3];
    find_frames(path, places);
    for (const struct field *field = head_fields; field < head_fields + sizeof head_fields / sizeof head_fields[0];
         field++) {
        for (unsigned which = 0; which < ATTEMPT_VALUES; which++) {
            for (unsigned variant = 0; variant < 6; variant++) { /* first or last frame; no seal, checksum, chain too */
                const uint64_t place = places[variant % 2 == 0 ? 0 : 2];
                struct km__frame_head head, before;
                memcpy(&head, good.bytes + place, sizeof head);
                memcpy(&before, good.bytes + places[1], sizeof before);
                attempt_set(&head, field, attempt_value(which, attempt_get(&head, field)));
                if (variant >= 4) {
                    head.chain = km__frame_chain(variant % 2 == 0 ? header.journal_chain : before.chain, &head);
                }
                if (variant >= 2) {
                    head.checksum = km__frame_head_checksum(header.uuid, &head);
                }
                char what[96];
                snprintf(what, sizeof what, "frame field %s = %#llx, variant %u", field->name,
                         (unsigned long long)attempt_get(&head, field), variant);
                scratch_store(path, good.bytes, good.length);
                scratch_write(path, place, &head, sizeof head);
                attempt_file(path, which % 2 == 0 ? 0 : KM_READONLY, what);
                expect_sane(what);
            }
        }
    }
    scratch_release(&good);
}

/* Bodies of noise under good seals: the frame counts, so its pages and ranges must be checked one by one. */
static void a_frame_of_noise_under_good_seals_does_no_harm(void **state) {
    (void)state;
    const char *path = make_killed_map("noise");
    struct scratch_image good = scratch_load(path);
    const struct km__header header = scratch_header(path);
    struct chance chance = {chance_seed() + 2};
    uint64_t places[3];
    find_frames(path, places);
    for (unsigned round = 0; round < 400; round++) {
        struct km__frame_head head, before;
        memcpy(&head, good.bytes + places[2], sizeof head);
        memcpy(&before, good.bytes + places[1], sizeof before);
        unsigned char *body = malloc(head.length);
        assert_non_null(body);
        memcpy(body, good.bytes + places[2] + sizeof head, head.length - sizeof head);
        for (uint64_t changes = chance_between(&chance, 1, 4); changes > 0; changes--) {
            /* mostly in the entries at the front of a page, where the numbers are */
            const uint64_t limit = chance_percent(&chance, 70) ? 24 : head.stored_length;
            body[chance_below(&chance, limit)] = (unsigned char)chance_next(&chance);
        }
        if (chance_percent(&chance, 20)) {
            head.page_count = (uint32_t)chance_below(&chance, 5);
        }
        head.body_checksum = km__crc32c(0, body, head.length - sizeof head);
        head.chain = km__frame_chain(before.chain, &head);
        head.checksum = km__frame_head_checksum(header.uuid, &head);
        scratch_store(path, good.bytes, good.length);
        scratch_write(path, places[2], &head, sizeof head);
        scratch_write(path, places[2] + sizeof head, body, head.length - sizeof head);
        free(body);
        char what[64];
        snprintf(what, sizeof what, "a frame of noise, round %u", round);
        attempt_file(path, round % 2 == 0 ? 0 : KM_READONLY, what);
    }
    scratch_release(&good);
}

int main(void) {
    scratch_time_limit(240);
    attempt_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_byte_anywhere_in_a_closed_map_is_survived_or_named),
        cmocka_unit_test(a_flipped_byte_anywhere_after_a_crash_is_survived_or_named),
        cmocka_unit_test(every_changed_frame_field_is_refused_or_harmless),
        cmocka_unit_test(a_frame_of_noise_under_good_seals_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
