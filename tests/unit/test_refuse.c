/* SPDX-License-Identifier: MIT
 *
 * Bad input: whatever stands in a file, opening it gives a named error or, where the other header slot or the journal
 * saves it, a whole committed state; never a crash, never a hang, and a refused open changes no byte of it.
 *
 * Everything that opens a bad file does so in a process of its own, so that a crash is told with what caused it.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "support/attempt.h"
#include "support/chance.h"

#include "format/header.h"

/* ---- no maps at all ---------------------------------------------------------------------------------------------- */

static void what_is_not_a_map_is_refused_by_name(void **state) {
    (void)state;
    const char *path = scratch_path("foreign");
    scratch_store(path, "", 0);
    attempt_refused(path, KM_EEMPTY, "an empty file");
    scratch_store(path, "k", 1);
    attempt_refused(path, KM_ENOTMAP, "one byte");
    scratch_store(path, "Dear reader,\n", 13);
    attempt_refused(path, KM_ENOTMAP, "a letter");
    static unsigned char bytes[1 << 20];
    scratch_store(path, bytes, sizeof bytes);
    attempt_refused(path, KM_ENOTMAP, "a megabyte of zeros");
    struct chance chance = {chance_seed()};
    chance_fill(&chance, bytes, sizeof bytes);
    scratch_store(path, bytes, sizeof bytes);
    attempt_refused(path, KM_ENOTMAP, "a megabyte of noise");
    assert_int_equal(mkdir(scratch_path("directory"), 0700), 0);
    attempt_refused(scratch_path("directory"), KM_EDIRECTORY, "a directory");
    assert_int_equal(mkfifo(scratch_path("pipe"), 0600), 0);
    attempt_refused(scratch_path("pipe"), KM_ENOTMAP, "a FIFO");
    attempt_refused("/dev/null", KM_ENOTMAP, "a device");
}

static int try_without_permission(void *context) {
    child_must(setgid(65534) | setuid(65534));
    attempt_use();
    (void)context;
    return 0;
}

static void a_file_without_permission_is_refused_by_name(void **state) {
    (void)state;
    if (geteuid() != 0) {
        fprintf(stderr, "# skipped: only root can become somebody else\n");
        skip();
    }
    const char *path = attempt_map("private");
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
    const char *path = attempt_map("cut");
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
            attempt_refused(path, KM_ETRUNCATED, what);
            continue;
        }
        const int result = attempt_file(path, i % 2 == 0 ? 0 : KM_READONLY, what);
        if (result != KM_ETRUNCATED && result != KM_ENOTMAP && result != KM_EHEADER) {
            fail_msg("%s: %s", what, km_error_name(result));
        }
    }
    scratch_store(path, whole.bytes, whole.length - 1);
    attempt_refused(path, KM_ETRUNCATED, "a map without its last byte");
    scratch_store(path, whole.bytes, whole.length);
    assert_int_equal(truncate(path, (off_t)whole.length + 100000), 0);
    assert_int_equal(attempt_file(path, 0, "a longer file"), 0); /* a growth that died, no error */
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
    const char *path = attempt_map("newer");
    const struct km__header good = scratch_header(path);
    struct km__header header = good;
    header.format_version = 2;
    put_header(path, header);
    attempt_refused(path, KM_EVERSION, "format version 2");
    header.format_version = UINT32_MAX;
    memset(header.reserved, 0xee, sizeof header.reserved); /* a newer format may use these bytes */
    header.data_offset = 3;
    put_header(path, header);
    attempt_refused(path, KM_EVERSION, "format version 4294967295");
    header = good;
    header.feature_incompatible |= UINT64_C(1) << 40;
    put_header(path, header);
    attempt_refused(path, KM_EFEATURE, "an unknown incompatible feature");
    header = good;
    header.mode = 7;
    put_header(path, header);
    attempt_refused(path, KM_EFEATURE, "an unknown mode");
    header = good;
    header.checksum_kind = 9;
    put_header(path, header);
    attempt_refused(path, KM_EFEATURE, "an unknown checksum");
    header = good;
    header.feature_readonly |= UINT64_C(1) << 40;
    put_header(path, header);
    assert_string_equal(km_error_name(attempt_file(path, 0, "a feature for readers only")), "KM_EFEATURE");
    assert_int_equal(attempt_file(path, KM_READONLY, "a feature for readers only"), 0);
    assert_int_equal(attempt->used, 0);
    assert_int_equal(attempt->first_byte, 11);
    header = good;
    header.feature_compatible |= UINT64_C(1) << 40;
    put_header(path, header);
    assert_int_equal(attempt_file(path, KM_READONLY, "a compatible feature"), 0);
    assert_int_equal(attempt->used, 0);
    assert_int_equal(attempt_file(path, 0, "a compatible feature"), 0);
    assert_int_equal(attempt->used, 0);
    assert_true(scratch_header(path).feature_compatible == UINT64_C(1) << 40); /* and it is kept */
}

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

static void every_changed_header_field_is_refused_or_harmless(void **state) {
    (void)state;
    const char *path = attempt_map("fields");
    struct scratch_image good = scratch_load(path);
    const struct km__header original = scratch_header(path);
    unsigned refused = 0, opened = 0;
    for (const struct field *field = header_fields;
         field < header_fields + sizeof header_fields / sizeof header_fields[0]; field++) {
        for (unsigned which = 0; which < ATTEMPT_VALUES; which++) {
            struct km__header header = original;
            attempt_set(&header, field, attempt_value(which, attempt_get(&original, field)));
            if (memcmp(&header, &original, sizeof header) == 0) {
                continue;
            }
            char what[96];
            snprintf(what, sizeof what, "header field %s = %#llx", field->name,
                     (unsigned long long)attempt_get(&header, field));
            for (uint32_t flags = 0; flags <= KM_READONLY; flags += KM_READONLY) {
                scratch_store(path, good.bytes, good.length);
                put_header(path, header);
                const int result = attempt_file(path, flags, what);
                refused += result != 0;
                opened += result == 0;
                if (field->geometry && which >= ATTEMPT_FIRST_FAR_VALUE && result == 0) {
                    fail_msg("%s (flags %u): accepted", what, flags);
                }
            }
        }
    }
    fprintf(stderr, "# %u changes refused, %u opened\n", refused, opened);
    assert_true(refused > 200);
    scratch_release(&good);
}

static void bytes_that_must_be_zero_are_checked(void **state) {
    (void)state;
    const char *path = attempt_map("reserved");
    const struct km__header good = scratch_header(path);
    for (size_t at = 0; at < sizeof good.reserved; at += 1 + at / 2) {
        struct km__header header = good;
        header.reserved[at] = 1;
        put_header(path, header);
        attempt_refused(path, KM_EHEADER, "a reserved byte that is not zero");
    }
    struct km__header header = good;
    memset(header.schema, 'x', sizeof header.schema);
    put_header(path, header);
    attempt_refused(path, KM_EHEADER, "a schema without an end");
    header = good;
    header.flags |= UINT64_C(1) << 50;
    put_header(path, header);
    attempt_refused(path, KM_EHEADER, "an unknown flag");
}

static void two_damaged_slots_are_refused_by_name(void **state) {
    (void)state;
    const char *path = attempt_map("slots");
    scratch_flip(path, KM__SLOT_A + 1000, 1);
    assert_int_equal(attempt_file(path, KM_READONLY, "slot A damaged"), 0);
    scratch_flip(path, KM__SLOT_B + 2000, 1);
    attempt_refused(path, KM_EHEADER, "both slots damaged");
}

int main(void) {
    scratch_time_limit(240);
    attempt_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_a_map_is_refused_by_name),
        cmocka_unit_test(a_file_without_permission_is_refused_by_name),
        cmocka_unit_test(a_map_cut_short_anywhere_is_refused_by_name),
        cmocka_unit_test(another_version_or_feature_is_refused_by_name),
        cmocka_unit_test(every_changed_header_field_is_refused_or_harmless),
        cmocka_unit_test(bytes_that_must_be_zero_are_checked),
        cmocka_unit_test(two_damaged_slots_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
