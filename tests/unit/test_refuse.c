/* SPDX-License-Identifier: MIT
 *
 * Bad input: whatever stands in a file, opening it gives a named error or, where the other header slot or the journal saves
 * it, a whole committed state; never a crash, never a hang, and a refused open changes no byte of it.
 *
 * Everything that opens a bad file does so in a process of its own, so that a crash is told with what caused it.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"

#include "format/checksum.h"
#include "format/frame.h"
#include "format/frame_head.h"
#include "format/header.h"

#define PAGES 10u
#define SIZE (PAGES * KM_PAGE_SIZE)

/* What a process that tried a file found; shared with it. */
struct attempt {
    const char *path;
    uint32_t flags;
    uint64_t index; /* of the change that was tried last, in a batch */
    int opened;     /* result of km_open() */
    int used;       /* first error of what was done with the handle */
    int explained;  /* the error had a detail */
    uint64_t generation;
    unsigned char first_byte, last_byte;
    uint64_t damaged; /* by km_verify() */
};

static struct attempt *attempt;

static void note(int result) {
    if (result != 0 && attempt->used == 0) {
        attempt->used = result;
        attempt->explained = km_last_error_detail()[0] != '\0';
    }
}

/* Open and do all that a program may do. */
static void use_file(void) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = attempt->flags, .timeout_ms = 200};
    attempt->used = 0;
    attempt->damaged = 0;
    attempt->explained = 1;
    attempt->opened = km_open(&map, attempt->path, &options);
    if (attempt->opened != 0) {
        attempt->explained = km_last_error_detail()[0] != '\0';
        return;
    }
    const int begun = km_begin(map, KM_READ);
    note(begun);
    if (begun == 0) {
        attempt->generation = km_generation(map);
        attempt->first_byte = *(unsigned char *)km_data(map);
        attempt->last_byte = ((unsigned char *)km_data(map))[km_size(map) - 1];
        note(km_abort(map));
    }
    struct km_info info = {.struct_size = sizeof info};
    struct km_report report = {.struct_size = sizeof report};
    note(km_get_info(map, &info));
    note(km_verify(map, &report, NULL, NULL));
    attempt->damaged = report.pages_damaged + report.frames_damaged + report.headers_damaged;
    if ((attempt->flags & KM_READONLY) == 0) {
        const int writing = km_begin(map, KM_WRITE);
        note(writing);
        if (writing == 0) {
            *((unsigned char *)km_data(map) + 1) ^= 1;
            const int committed = km_commit(map);
            note(committed);
            if (committed != 0) {
                km_abort(map);
            }
        }
        note(km_checkpoint(map));
    }
    note(km_close(map));
}

static int use_file_in_child(void *context) {
    (void)context;
    use_file();
    return 0;
}

/* Opens the file in a process of its own; the result of km_open(). `what` is told when it crashes or changes the file. */
static int try_file(const char *path, uint32_t flags, const char *what) {
    struct scratch_image before = {0};
    struct stat status;
    const int regular = stat(path, &status) == 0 && S_ISREG(status.st_mode);
    if (regular) {
        before = scratch_load(path);
    }
    *attempt = (struct attempt){.path = path, .flags = flags};
    const int ended = check_in_child(use_file_in_child, NULL, 20);
    if (ended != 0) {
        fail_msg("%s (flags %u): the process ended with %d", what, flags, ended);
    }
    if (!attempt->explained) {
        fail_msg("%s (flags %u): %s without a detail", what, flags, km_error_name(attempt->opened));
    }
    if (regular && (attempt->opened != 0 || (flags & KM_READONLY) != 0) && !scratch_equals(path, &before)) {
        fail_msg("%s (flags %u): the file was changed, though km_open gave %s", what, flags,
                 km_error_name(attempt->opened));
    }
    scratch_release(&before);
    return attempt->opened;
}

static void expect_refused(const char *path, int expected, const char *what) {
    static const uint32_t flags[] = {0, KM_READONLY, KM_CREATE};
    for (int i = 0; i < 3; i++) {
        const int result = try_file(path, flags[i], what);
        if (result != expected) {
            fail_msg("%s (flags %u): %s, expected %s", what, flags[i], km_error_name(result), km_error_name(expected));
        }
    }
}

/* A cleanly closed map at generation 2: byte 0 is 11, the last byte 22. */
static const char *make_map(const char *name, uint32_t flags) {
    const char *path = scratch_path("%s.km", name);
    km_map *map;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 65536, .flags = KM_CREATE | KM_EXCLUSIVE | flags};
    must(km_open(&map, path, &options));
    check_commit_fill(map, 0, 11, SIZE / 2);
    check_commit_fill(map, SIZE / 2, 22, SIZE / 2);
    must(km_close(map));
    return path;
}

/* ---- no maps at all ---------------------------------------------------------------------------------------------- */

static void what_is_not_a_map_is_refused_by_name(void **state) {
    (void)state;
    const char *path = scratch_path("foreign");
    scratch_store(path, "", 0);
    expect_refused(path, KM_EEMPTY, "an empty file");
    scratch_store(path, "k", 1);
    expect_refused(path, KM_ENOTMAP, "one byte");
    scratch_store(path, "Dear reader,\n", 13);
    expect_refused(path, KM_ENOTMAP, "a letter");
    static unsigned char bytes[1 << 20];
    scratch_store(path, bytes, sizeof bytes);
    expect_refused(path, KM_ENOTMAP, "a megabyte of zeros");
    struct chance chance = {chance_seed()};
    chance_fill(&chance, bytes, sizeof bytes);
    scratch_store(path, bytes, sizeof bytes);
    expect_refused(path, KM_ENOTMAP, "a megabyte of noise");
    assert_int_equal(mkdir(scratch_path("directory"), 0700), 0);
    expect_refused(scratch_path("directory"), KM_EDIRECTORY, "a directory");
    assert_int_equal(mkfifo(scratch_path("pipe"), 0600), 0);
    expect_refused(scratch_path("pipe"), KM_ENOTMAP, "a FIFO");
    expect_refused("/dev/null", KM_ENOTMAP, "a device");
}

static int try_without_permission(void *context) {
    child_must(setgid(65534) | setuid(65534));
    use_file();
    (void)context;
    return 0;
}

static void a_file_without_permission_is_refused_by_name(void **state) {
    (void)state;
    if (geteuid() != 0) {
        print_message("skipped: only root can become somebody else\n");
        skip();
    }
    const char *path = make_map("private", 0);
    assert_int_equal(chmod(scratch_path("."), 0755), 0);
    static const uint32_t flags[] = {0, KM_READONLY, KM_CREATE};
    for (int i = 0; i < 3; i++) {
        *attempt = (struct attempt){.path = path, .flags = flags[i]};
        assert_int_equal(check_in_child(try_without_permission, NULL, 20), 0);
        assert_string_equal(km_error_name(attempt->opened), "KM_EACCESS");
        assert_true(attempt->explained);
    }
}

static void a_map_cut_short_anywhere_is_refused_by_name(void **state) {
    (void)state;
    const char *path = make_map("cut", 0);
    struct scratch_image whole = scratch_load(path);
    struct chance chance = {chance_seed() + 1};
    for (unsigned i = 0; i < 120; i++) {
        static const size_t lengths[] = {1, 7, 8, 9, 100, 4095, 4096, 4097, 8191, 8192, 8193, 65535, 65536, 65537};
        const size_t known = sizeof lengths / sizeof lengths[0];
        const size_t length = i < known ? lengths[i]
                              : i < known + whole.length / KM_PAGE_SIZE - 1
                                  ? (i - known + 1) * KM_PAGE_SIZE
                                  : chance_between(&chance, 1, whole.length - 1);
        char what[64];
        snprintf(what, sizeof what, "a map cut to %zu bytes", length);
        scratch_store(path, whole.bytes, length);
        if (length >= 8192) {
            expect_refused(path, KM_ETRUNCATED, what);
            continue;
        }
        const int result = try_file(path, i % 2 == 0 ? 0 : KM_READONLY, what);
        if (result != KM_ETRUNCATED && result != KM_ENOTMAP && result != KM_EHEADER) {
            fail_msg("%s: %s", what, km_error_name(result));
        }
    }
    scratch_store(path, whole.bytes, whole.length - 1);
    expect_refused(path, KM_ETRUNCATED, "a map without its last byte");
    scratch_store(path, whole.bytes, whole.length);
    assert_int_equal(truncate(path, (off_t)whole.length + 100000), 0);
    assert_int_equal(try_file(path, 0, "a longer file"), 0); /* a growth that died, no error */
    assert_int_equal(attempt->used, 0);
    assert_int_equal(attempt->last_byte, 22);
    scratch_release(&whole);
}

/* ---- header fields ----------------------------------------------------------------------------------------------- */

/* Write a changed header to both slots, with good checksums. */
static void put_header(const char *path, struct km__header header) {
    km__header_seal(&header);
    scratch_write(path, KM__SLOT_A, &header, sizeof header);
    header.sequence++;
    km__header_seal(&header);
    scratch_write(path, KM__SLOT_B, &header, sizeof header);
}

static void another_version_or_feature_is_refused_by_name(void **state) {
    (void)state;
    const char *path = make_map("newer", 0);
    const struct km__header good = scratch_header(path);
    struct km__header header = good;
    header.format_version = 2;
    put_header(path, header);
    expect_refused(path, KM_EVERSION, "format version 2");
    header.format_version = UINT32_MAX;
    memset(header.reserved, 0xee, sizeof header.reserved); /* a newer format may use these bytes */
    header.data_offset = 3;
    put_header(path, header);
    expect_refused(path, KM_EVERSION, "format version 4294967295");
    header = good;
    header.feature_incompatible |= UINT64_C(1) << 40;
    put_header(path, header);
    expect_refused(path, KM_EFEATURE, "an unknown incompatible feature");
    header = good;
    header.mode = 7;
    put_header(path, header);
    expect_refused(path, KM_EFEATURE, "an unknown mode");
    header = good;
    header.checksum_kind = 9;
    put_header(path, header);
    expect_refused(path, KM_EFEATURE, "an unknown checksum");
    header = good;
    header.feature_readonly |= UINT64_C(1) << 40;
    put_header(path, header);
    assert_string_equal(km_error_name(try_file(path, 0, "a feature for readers only")), "KM_EFEATURE");
    assert_int_equal(try_file(path, KM_READONLY, "a feature for readers only"), 0);
    assert_int_equal(attempt->used, 0);
    assert_int_equal(attempt->first_byte, 11);
    header = good;
    header.feature_compatible |= UINT64_C(1) << 40;
    put_header(path, header);
    assert_int_equal(try_file(path, KM_READONLY, "a compatible feature"), 0);
    assert_int_equal(attempt->used, 0);
    assert_int_equal(try_file(path, 0, "a compatible feature"), 0);
    assert_int_equal(attempt->used, 0);
    assert_true(scratch_header(path).feature_compatible == UINT64_C(1) << 40); /* and it is kept */
}

struct field {
    const char *name;
    size_t offset, size;
    int geometry; /* a value far out of range must be refused */
};

#define FIELD(name, geometry)                                                                                          \
    { #name, offsetof(struct km__header, name), sizeof((struct km__header *)0)->name, geometry }

static const struct field header_fields[] = {
    FIELD(format_version, 1),
    FIELD(header_size, 1),
    FIELD(feature_incompatible, 1),
    FIELD(feature_readonly, 0),
    FIELD(feature_compatible, 0),
    FIELD(mode, 1),
    FIELD(checksum_kind, 1),
    FIELD(page_size, 1),
    FIELD(schema_version, 0),
    FIELD(created_ns, 0),
    FIELD(sequence, 0),
    FIELD(geometry, 0),
    FIELD(table_offset, 1),
    FIELD(table_capacity, 1),
    FIELD(data_offset, 1),
    FIELD(data_size, 1),
    FIELD(data_capacity, 1),
    FIELD(journal_offset, 1),
    FIELD(journal_size, 1),
    FIELD(journal_configured, 1),
    FIELD(generation, 1),
    FIELD(target, 1),
    FIELD(journal_position, 1),
    FIELD(journal_chain, 0),
    FIELD(digest, 0),
    FIELD(history_generation, 0),
    FIELD(history_position, 0),
    FIELD(history_chain, 0),
    FIELD(flags, 0),
};

/* The values that are tried in the place of `value`. */
static uint64_t other_value(unsigned which, uint64_t value) {
    switch (which) {
    case 0:
        return 0;
    case 1:
        return 1;
    case 2:
        return value + 1;
    case 3:
        return value - 1;
    case 4:
        return value + 8;
    case 5:
        return value + 4096;
    case 6:
        return value + 65536;
    case 7:
        return value - 65536;
    case 8:
        return value * 2;
    case 9:
        return UINT64_C(1) << 31;
    case 10:
        return UINT64_C(1) << 40;
    case 11:
        return UINT64_C(1) << 59;
    case 12:
        return UINT64_C(1) << 63;
    case 13:
        return UINT64_MAX - 65535;
    default:
        return UINT64_MAX;
    }
}

#define OTHER_VALUES 15u
#define FIRST_FAR_VALUE 12u

static uint64_t get_field(const void *bytes, const struct field *field) {
    uint64_t value = 0;
    memcpy(&value, (const char *)bytes + field->offset, field->size);
    return value;
}

static void set_field(void *bytes, const struct field *field, uint64_t value) {
    memcpy((char *)bytes + field->offset, &value, field->size);
}

static void every_changed_header_field_is_refused_or_harmless(void **state) {
    (void)state;
    const char *path = make_map("fields", 0);
    struct scratch_image good = scratch_load(path);
    const struct km__header original = scratch_header(path);
    unsigned refused = 0, opened = 0;
    for (const struct field *field = header_fields;
         field < header_fields + sizeof header_fields / sizeof header_fields[0]; field++) {
        for (unsigned which = 0; which < OTHER_VALUES; which++) {
            struct km__header header = original;
            set_field(&header, field, other_value(which, get_field(&original, field)));
            if (memcmp(&header, &original, sizeof header) == 0) {
                continue;
            }
            char what[96];
            snprintf(what, sizeof what, "header field %s = %#llx", field->name,
                     (unsigned long long)get_field(&header, field));
            for (uint32_t flags = 0; flags <= KM_READONLY; flags += KM_READONLY) {
                scratch_store(path, good.bytes, good.length);
                put_header(path, header);
                const int result = try_file(path, flags, what);
                refused += result != 0;
                opened += result == 0;
                if (field->geometry && which >= FIRST_FAR_VALUE && result == 0) {
                    fail_msg("%s (flags %u): accepted", what, flags);
                }
            }
        }
    }
    print_message("%u changes refused, %u opened\n", refused, opened);
    assert_true(refused > 200);
    scratch_release(&good);
}

static void bytes_that_must_be_zero_are_checked(void **state) {
    (void)state;
    const char *path = make_map("reserved", 0);
    const struct km__header good = scratch_header(path);
    for (size_t at = 0; at < sizeof good.reserved; at += 1 + at / 2) {
        struct km__header header = good;
        header.reserved[at] = 1;
        put_header(path, header);
        expect_refused(path, KM_EHEADER, "a reserved byte that is not zero");
    }
    struct km__header header = good;
    memset(header.schema, 'x', sizeof header.schema);
    put_header(path, header);
    expect_refused(path, KM_EHEADER, "a schema without an end");
    header = good;
    header.flags |= UINT64_C(1) << 50;
    put_header(path, header);
    expect_refused(path, KM_EHEADER, "an unknown flag");
}

static void two_damaged_slots_are_refused_by_name(void **state) {
    (void)state;
    const char *path = make_map("slots", 0);
    scratch_flip(path, KM__SLOT_A + 1000, 1);
    assert_int_equal(try_file(path, KM_READONLY, "slot A damaged"), 0);
    scratch_flip(path, KM__SLOT_B + 2000, 1);
    expect_refused(path, KM_EHEADER, "both slots damaged");
}

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
        use_file();
        child_check(scratch_equals(attempt->path, &flipped));
        judge_flip(batch, at);
        attempt->flags = 0;
        use_file();
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
        {&good, header.table_offset, header.table_offset + PAGES * 4, 3, TABLE, killed, newest},
        {&good, header.data_offset, header.data_offset + SIZE, 911, DATA, killed, newest},
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
    flip_everywhere(make_map("flips", 0), 0, 2);
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
    const char *path = make_map(name, 0);
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
        for (unsigned which = 0; which < OTHER_VALUES; which++) {
            for (unsigned variant = 0; variant < 6; variant++) { /* first or last frame; no seal, checksum, chain too */
                const uint64_t place = places[variant % 2 == 0 ? 0 : 2];
                struct km__frame_head head, before;
                memcpy(&head, good.bytes + place, sizeof head);
                memcpy(&before, good.bytes + places[1], sizeof before);
                set_field(&head, field, other_value(which, get_field(&head, field)));
                if (variant >= 4) {
                    head.chain = km__frame_chain(variant % 2 == 0 ? header.journal_chain : before.chain, &head);
                }
                if (variant >= 2) {
                    head.checksum = km__frame_head_checksum(header.uuid, &head);
                }
                char what[96];
                snprintf(what, sizeof what, "frame field %s = %#llx, variant %u", field->name,
                         (unsigned long long)get_field(&head, field), variant);
                scratch_store(path, good.bytes, good.length);
                scratch_write(path, place, &head, sizeof head);
                try_file(path, which % 2 == 0 ? 0 : KM_READONLY, what);
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
        try_file(path, round % 2 == 0 ? 0 : KM_READONLY, what);
    }
    scratch_release(&good);
}

int main(void) {
    scratch_time_limit(240);
    attempt = mmap(NULL, sizeof *attempt, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (attempt == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_a_map_is_refused_by_name),
        cmocka_unit_test(a_file_without_permission_is_refused_by_name),
        cmocka_unit_test(a_map_cut_short_anywhere_is_refused_by_name),
        cmocka_unit_test(another_version_or_feature_is_refused_by_name),
        cmocka_unit_test(every_changed_header_field_is_refused_or_harmless),
        cmocka_unit_test(bytes_that_must_be_zero_are_checked),
        cmocka_unit_test(two_damaged_slots_are_refused_by_name),
        cmocka_unit_test(a_flipped_byte_anywhere_in_a_closed_map_is_survived_or_named),
        cmocka_unit_test(a_flipped_byte_anywhere_after_a_crash_is_survived_or_named),
        cmocka_unit_test(every_changed_frame_field_is_refused_or_harmless),
        cmocka_unit_test(a_frame_of_noise_under_good_seals_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
