/* SPDX-License-Identifier: MIT
 *
 * Header slots: what is sealed is good, what is changed is found and named, the better of two is chosen.
 */
#include "../support/chance.h"
#include "../support/check.h"

#include "format/header.h"

#define MIB (UINT64_C(1) << 20)

/* A map in its middle age: a checkpoint in progress, a grown journal. */
static struct km__header good_header(void) {
    struct km__header header = {
        .magic = KM__MAGIC,
        .format_version = KM__FORMAT_VERSION,
        .header_size = KM__SLOT_SIZE,
        .feature_incompatible = KM__FEATURE_COMPRESS,
        .uuid = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
        .mode = KM_TRANSACTIONAL,
        .checksum_kind = KM_CHECKSUM_CRC32C,
        .page_size = KM__PAGE,
        .schema_version = 3,
        .schema = "a schema",
        .sequence = 7,
        .data_size = 5 * MIB + 1,
        .data_capacity = 8 * MIB + 5,
        .journal_size = 4 * MIB,
        .journal_configured = MIB,
        .generation = 40,
        .target = 44,
        .journal_position = 4096 + 8,
        .journal_chain = 99,
        .history_generation = 38,
        .history_position = 512,
    };
    must(km__header_layout(&header));
    km__header_seal(&header);
    return header;
}

/* A live map between two seals: no journal, and no checkpoint that could be in progress. */
static struct km__header good_live_header(void) {
    struct km__header header = good_header();
    header.feature_incompatible = 0;
    header.mode = KM_LIVE;
    header.journal_size = header.journal_configured = 0;
    header.journal_position = header.history_position = 0;
    header.target = header.generation;
    must(km__header_layout(&header));
    km__header_seal(&header);
    return header;
}

static void expect_good(const struct km__header *header) {
    char why[200] = "something old";
    assert_int_equal(km__header_check(header, why, sizeof why), 0);
    assert_string_equal(why, "");
    assert_int_equal(km__header_check(header, NULL, 0), 0);
}

static void a_sealed_header_is_good(void **state) {
    (void)state;
    const struct km__header header = good_header();
    expect_good(&header);
}

static void a_header_of_a_live_map_is_good_and_has_no_journal(void **state) {
    (void)state;
    struct km__header header = good_live_header();
    expect_good(&header);
    assert_true(header.journal_offset == km__header_data_end(&header));
    assert_true(km__header_file_end(&header) == km__header_data_end(&header));
    header.flags = KM__HEADER_CLEAN;
    km__header_seal(&header);
    expect_good(&header);
    /* Growth beyond max_size moves the table, and the place of the journal that it does not have. */
    header.table_offset = km__header_data_end(&header);
    header.journal_offset = header.table_offset + header.table_capacity;
    km__header_seal(&header);
    expect_good(&header);
    assert_true(km__header_file_end(&header) == header.journal_offset);
}

static void every_flipped_bit_of_a_slot_is_found(void **state) {
    (void)state;
    struct km__header header = good_header();
    unsigned char *bytes = (unsigned char *)&header;
    for (size_t bit = 0; bit < sizeof header * 8; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        const int expected = bit / 8 < sizeof header.magic ? KM_ENOTMAP : KM_EHEADER;
        assert_int_equal(km__header_check(&header, NULL, 0), expected);
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
}

#define FIELD(name) #name, offsetof(struct km__header, name), sizeof(((struct km__header *)0)->name)

/* One field of a good header set to a value, the checksum sealed anew. */
struct change {
    const char *name;
    size_t offset, size;
    uint64_t value;
    int expected;
};

static const struct change changes[] = {
    {FIELD(format_version), 0, KM_EHEADER},
    {FIELD(format_version), 2, KM_EVERSION},
    {FIELD(format_version), UINT32_MAX, KM_EVERSION},
    {FIELD(header_size), 0, KM_EHEADER},
    {FIELD(header_size), 8192, KM_EHEADER},
    {FIELD(feature_incompatible), 1 | 2, KM_EFEATURE},
    {FIELD(feature_incompatible), UINT64_C(1) << 63, KM_EFEATURE},
    {FIELD(mode), KM_LIVE, KM_EHEADER}, /* with a journal */
    {FIELD(mode), KM_RAW, KM_EFEATURE}, /* which has no header */
    {FIELD(mode), UINT32_MAX, KM_EFEATURE},
    {FIELD(checksum_kind), KM_CHECKSUM_NONE + 1, KM_EFEATURE},
    {FIELD(checksum_kind), UINT32_MAX, KM_EFEATURE},
    {FIELD(page_size), 0, KM_EHEADER},
    {FIELD(page_size), 8192, KM_EHEADER},
    {FIELD(table_offset), 0, KM_EHEADER},
    {FIELD(table_offset), 0x10001, KM_EHEADER},
    {FIELD(table_offset), 0x20000, KM_EHEADER},
    {FIELD(table_offset), UINT64_MAX, KM_EHEADER},
    {FIELD(table_offset), UINT64_MAX - 0xffff, KM_EHEADER},
    {FIELD(table_capacity), 0, KM_EHEADER},
    {FIELD(table_capacity), 4 * 2048, KM_EHEADER},
    {FIELD(table_capacity), 0x10001, KM_EHEADER},
    {FIELD(table_capacity), UINT64_MAX, KM_EHEADER},
    {FIELD(data_offset), 0, KM_EHEADER},
    {FIELD(data_offset), 0x10000, KM_EHEADER},
    {FIELD(data_offset), 0x20000 + 4096, KM_EHEADER},
    {FIELD(data_offset), 0x30000, KM_EHEADER},
    {FIELD(data_offset), UINT64_MAX - 0xffff, KM_EHEADER},
    {FIELD(data_size), 0, KM_EHEADER},
    {FIELD(data_size), 8 * MIB + 6, KM_EHEADER},
    {FIELD(data_size), UINT64_MAX, KM_EHEADER},
    {FIELD(data_capacity), 5 * MIB, KM_EHEADER},
    {FIELD(data_capacity), 64 * MIB + 1, KM_EHEADER},
    {FIELD(data_capacity), 9 * MIB, KM_EHEADER},
    {FIELD(data_capacity), UINT64_MAX, KM_EHEADER},
    {FIELD(data_capacity), UINT64_MAX - 4094, KM_EHEADER},
    {FIELD(journal_offset), 0, KM_EHEADER},
    {FIELD(journal_offset), 0x10000, KM_EHEADER},
    {FIELD(journal_offset), 0x20000, KM_EHEADER},
    {FIELD(journal_offset), 8 * MIB + 0x20000, KM_EHEADER},
    {FIELD(journal_offset), 64 * MIB + 8, KM_EHEADER},
    {FIELD(journal_offset), KM__SIZE_MAX, KM_EHEADER},
    {FIELD(journal_offset), UINT64_MAX - 0xffff, KM_EHEADER},
    {FIELD(journal_size), 0, KM_EHEADER},
    {FIELD(journal_size), KM__JOURNAL_MIN - KM__PAGE, KM_EHEADER},
    {FIELD(journal_size), 4 * MIB + 8, KM_EHEADER},
    {FIELD(journal_size), UINT64_MAX - 4095, KM_EHEADER},
    {FIELD(journal_configured), 0, KM_EHEADER},
    {FIELD(journal_configured), 4 * MIB + 4096, KM_EHEADER},
    {FIELD(journal_configured), KM__JOURNAL_MIN + 8, KM_EHEADER},
    {FIELD(generation), 45, KM_EHEADER},
    {FIELD(generation), 37, KM_EHEADER},
    {FIELD(target), 39, KM_EHEADER},
    {FIELD(target), KM__GENERATION_MAX + 1, KM_EHEADER},
    {FIELD(journal_position), 4, KM_EHEADER},
    {FIELD(journal_position), 4 * MIB + 8, KM_EHEADER},
    {FIELD(journal_position), UINT64_MAX - 7, KM_EHEADER},
    {FIELD(history_generation), 41, KM_EHEADER},
    {FIELD(history_position), 513, KM_EHEADER},
    {FIELD(history_position), UINT64_MAX - 7, KM_EHEADER},
    {FIELD(flags), 2, KM_EHEADER},
    {FIELD(flags), UINT64_C(1) << 63, KM_EHEADER},
    /* What any program may have put there is accepted. */
    {FIELD(feature_readonly), UINT64_MAX, 0},
    {FIELD(feature_compatible), UINT64_MAX, 0},
    {FIELD(schema_version), UINT32_MAX, 0},
    {FIELD(created_ns), UINT64_MAX, 0},
    {FIELD(sequence), UINT64_MAX, 0},
    {FIELD(geometry), UINT64_MAX, 0},
    {FIELD(data_size), 1, 0},
    {FIELD(data_size), 8 * MIB + 5, 0},
    {FIELD(journal_offset), 64 * MIB, 0},
    {FIELD(journal_configured), KM__JOURNAL_MIN, 0},
    {FIELD(journal_position), 4 * MIB, 0},
    {FIELD(journal_chain), UINT64_MAX, 0},
    {FIELD(digest), UINT64_MAX, 0},
    {FIELD(history_generation), 40, 0},
    {FIELD(history_chain), UINT64_MAX, 0},
    {FIELD(flags), KM__HEADER_CLEAN, 0},
};

static const struct change live_changes[] = {
    {FIELD(mode), KM_TRANSACTIONAL, KM_EHEADER}, /* without a journal */
    {FIELD(mode), KM_RAW, KM_EFEATURE},
    {FIELD(feature_incompatible), KM__FEATURE_COMPRESS, KM_EHEADER},
    {FIELD(feature_incompatible), 2, KM_EFEATURE},
    {FIELD(feature_readonly), KM__FEATURE_FULL_PAGES, KM_EHEADER},
    {FIELD(feature_readonly), UINT64_MAX, KM_EHEADER},
    {FIELD(table_capacity), 4 * 2048, KM_EHEADER},
    {FIELD(data_offset), 0x10000, KM_EHEADER},
    {FIELD(data_size), 0, KM_EHEADER},
    {FIELD(data_capacity), 64 * MIB + 1, KM_EHEADER},
    {FIELD(journal_offset), 0, KM_EHEADER},
    {FIELD(journal_offset), 8 * MIB + 8, KM_EHEADER},
    {FIELD(journal_offset), KM__SIZE_MAX + KM__ALIGN, KM_EHEADER},
    {FIELD(journal_size), KM__JOURNAL_MIN, KM_EHEADER},
    {FIELD(journal_size), KM__PAGE, KM_EHEADER},
    {FIELD(journal_size), UINT64_MAX - 4095, KM_EHEADER},
    {FIELD(journal_configured), KM__JOURNAL_MIN, KM_EHEADER},
    {FIELD(target), 41, KM_EHEADER},
    {FIELD(target), 39, KM_EHEADER},
    {FIELD(generation), 39, KM_EHEADER},
    {FIELD(journal_position), 8, KM_EHEADER},
    {FIELD(history_position), 8, KM_EHEADER},
    {FIELD(history_generation), 41, KM_EHEADER},
    {FIELD(flags), 2, KM_EHEADER},
    {FIELD(feature_readonly), UINT64_C(1) << 63, 0},
    {FIELD(feature_compatible), UINT64_MAX, 0},
    {FIELD(checksum_kind), KM_CHECKSUM_NONE, 0},
    {FIELD(data_size), 8 * MIB + 5, 0},
    {FIELD(journal_offset), 64 * MIB, 0},
    {FIELD(journal_chain), UINT64_MAX, 0},
    {FIELD(history_chain), UINT64_MAX, 0},
    {FIELD(digest), UINT64_MAX, 0},
    {FIELD(flags), KM__HEADER_CLEAN, 0},
};

static void expect_change(struct km__header header, const struct change *change) {
    memcpy((unsigned char *)&header + change->offset, &change->value, change->size);
    km__header_seal(&header);
    char why[200];
    const int result = km__header_check(&header, why, sizeof why);
    if (result != change->expected)
        fail_msg("%s = %#llx in a map of mode %u gave %d, not %d", change->name, (unsigned long long)change->value,
                 (unsigned)header.mode, result, change->expected);
    if (result == 0)
        assert_string_equal(why, "");
    else
        assert_true(strlen(why) > 10);
}

static void a_field_out_of_range_gives_the_named_error(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
        expect_change(good_header(), &changes[i]);
}

static void a_field_that_a_live_map_cannot_have_gives_the_named_error(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof live_changes / sizeof *live_changes; i++)
        expect_change(good_live_header(), &live_changes[i]);
}

/* The sentence names the field and its value, where the field is what is wrong. */
static void the_sentence_names_the_field_and_its_value(void **state) {
    (void)state;
    char why[200];
    struct km__header header = good_header();
    header.journal_position = 12340;
    km__header_seal(&header);
    assert_int_equal(km__header_check(&header, why, sizeof why), KM_EHEADER);
    assert_non_null(strstr(why, "journal_position"));
    assert_non_null(strstr(why, "12340"));

    header = good_header();
    header.format_version = 9;
    km__header_seal(&header);
    assert_int_equal(km__header_check(&header, why, sizeof why), KM_EVERSION);
    assert_non_null(strstr(why, "version 9"));

    header = good_header();
    header.data_offset = header.table_offset;
    km__header_seal(&header);
    assert_int_equal(km__header_check(&header, why, sizeof why), KM_EHEADER);
    assert_non_null(strstr(why, "data_offset"));
    assert_non_null(strstr(why, "65536"));

    char little[8];
    assert_int_equal(km__header_check(&header, little, sizeof little), KM_EHEADER);
    assert_int_equal(strlen(little), 7);
}

static void another_version_is_named_whatever_else_it_holds(void **state) {
    (void)state;
    struct km__header header = good_header();
    memset((unsigned char *)&header + 16, 0xee, 4092 - 16);
    header.format_version = 2;
    km__header_seal(&header);
    assert_int_equal(km__header_check(&header, NULL, 0), KM_EVERSION);
}

static void schema_and_reserved_bytes_must_be_zero_behind_their_end(void **state) {
    (void)state;
    struct km__header header = good_header();
    header.schema[63] = 'x';
    km__header_seal(&header);
    assert_int_equal(km__header_check(&header, NULL, 0), KM_EHEADER);
    memset(header.schema, 'x', sizeof header.schema);
    km__header_seal(&header);
    assert_int_equal(km__header_check(&header, NULL, 0), KM_EHEADER);
    header.schema[63] = 0;
    km__header_seal(&header);
    assert_int_equal(km__header_check(&header, NULL, 0), 0);

    for (size_t i = 0; i < sizeof header.reserved; i++) {
        header.reserved[i] = 1;
        km__header_seal(&header);
        assert_int_equal(km__header_check(&header, NULL, 0), KM_EHEADER);
        header.reserved[i] = 0;
    }
}

static void regions_may_stand_in_any_order(void **state) {
    (void)state;
    struct km__header header = good_header();
    header.journal_offset = 0x10000;
    header.data_offset = header.journal_offset + header.journal_size;
    header.table_offset = km__header_data_end(&header);
    km__header_seal(&header);
    assert_int_equal(km__header_check(&header, NULL, 0), 0);
    assert_true(km__header_file_end(&header) == header.table_offset + header.table_capacity);
}

/* Random fields, often at the edges of what is allowed: whatever is accepted keeps what the engine relies on. */
static void no_accepted_header_lets_its_regions_overlap(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    const uint64_t edges[] = {0, 1, 4096, 0x10000, 0x20000, MIB, 16 * MIB, KM__SIZE_MAX, UINT64_MAX - 0xffff};
    unsigned accepted = 0;
    for (int round = 0; round < 200000; round++) {
        struct km__header header = good_header();
        uint64_t *const fields[] = {&header.table_offset,  &header.table_capacity, &header.data_offset,
                                    &header.data_capacity, &header.journal_offset, &header.journal_size};
        for (size_t i = 0; i < 6; i++)
            if (chance_percent(&chance, 25))
                *fields[i] = edges[chance_below(&chance, 9)] + (chance_below(&chance, 4) << 16);
        km__header_seal(&header);
        if (km__header_check(&header, NULL, 0) != 0)
            continue;
        accepted++;
        const uint64_t starts[] = {0, header.table_offset, header.data_offset, header.journal_offset};
        const uint64_t ends[] = {0x10000, header.table_offset + header.table_capacity, km__header_data_end(&header),
                                 header.journal_offset + header.journal_size};
        for (int i = 0; i < 4; i++) {
            assert_true(starts[i] < ends[i] && ends[i] <= km__header_file_end(&header));
            for (int j = 0; j < i; j++)
                assert_true(ends[i] <= starts[j] || ends[j] <= starts[i]);
        }
        assert_true(header.table_capacity / 4 * KM__PAGE >= header.data_capacity);
        assert_true(km__header_file_end(&header) <= KM__SIZE_MAX);
    }
    assert_true(accepted > 1000);
}

static void the_layout_of_every_size_is_good(void **state) {
    (void)state;
    const uint64_t sizes[] = {1, 4095, 4096, 4097, 65536, 65537, 64 * MIB, UINT64_C(1) << 40, UINT64_C(1) << 59};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct km__header header = good_header();
        header.data_size = 1;
        header.data_capacity = sizes[i];
        header.journal_configured = 0;
        must(km__header_layout(&header));
        assert_true(header.journal_configured == header.journal_size);
        assert_true(header.table_offset == KM__TABLE_OFFSET);
        assert_true(header.table_capacity % KM__ALIGN == 0);
        assert_true(header.data_offset == header.table_offset + header.table_capacity);
        assert_true(header.journal_offset == km__header_data_end(&header));
        assert_true(km__header_file_end(&header) == header.journal_offset + header.journal_size);
        km__header_seal(&header);
        assert_int_equal(km__header_check(&header, NULL, 0), 0);
    }
}

static void a_layout_out_of_range_is_refused(void **state) {
    (void)state;
    const struct {
        uint64_t size, capacity, journal;
    } refused[] = {
        {0, MIB, MIB},
        {MIB + 1, MIB, MIB},
        {0, 0, MIB},
        {1, KM__SIZE_MAX + 1, MIB},
        {1, UINT64_MAX, MIB},
        {1, KM__SIZE_MAX, MIB},
        {1, MIB, 0},
        {1, MIB, KM__JOURNAL_MIN - KM__PAGE},
        {1, MIB, KM__JOURNAL_MIN + 8},
        {1, MIB, KM__SIZE_MAX},
        {1, MIB, UINT64_MAX - 4095},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct km__header header = good_header();
        header.data_size = refused[i].size;
        header.data_capacity = refused[i].capacity;
        header.journal_size = refused[i].journal;
        must_fail(km__header_layout(&header), KM_ESIZE);
    }
    struct km__header live = good_live_header();
    live.journal_size = KM__JOURNAL_MIN;
    must_fail(km__header_layout(&live), KM_ESIZE);
}

static void the_valid_slot_with_the_higher_sequence_is_chosen(void **state) {
    (void)state;
    struct km__header slots[2] = {good_header(), good_header()};
    int chosen = -1, results[2];
    assert_int_equal(km__header_choose(slots, &chosen, results, NULL, 0), 0);
    assert_int_equal(chosen, 0);

    slots[0].sequence = 8;
    km__header_seal(&slots[0]);
    assert_int_equal(km__header_choose(slots, &chosen, results, NULL, 0), 0);
    assert_int_equal(chosen, 0);

    slots[1].sequence = 9;
    km__header_seal(&slots[1]);
    assert_int_equal(km__header_choose(slots, &chosen, results, NULL, 0), 0);
    assert_int_equal(chosen, 1);
    assert_true(results[0] == 0 && results[1] == 0);

    slots[1].digest++;
    char why[100] = "old";
    assert_int_equal(km__header_choose(slots, &chosen, results, why, sizeof why), 0);
    assert_int_equal(chosen, 0);
    assert_true(results[0] == 0 && results[1] == KM_EHEADER);
    assert_string_equal(why, "");

    slots[0].magic[0] = 0;
    assert_int_equal(km__header_choose(slots, &chosen, NULL, why, sizeof why), KM_EHEADER);
    assert_non_null(strstr(why, "checksum"));
}

static void of_two_bad_slots_the_more_telling_error_is_given(void **state) {
    (void)state;
    const int order[] = {KM_EVERSION, KM_EFEATURE, KM_EHEADER, KM_ENOTMAP};
    struct km__header bad[4] = {good_header(), good_header(), good_header(), good_header()};
    bad[0].format_version = 2;
    bad[1].mode = 77;
    bad[2].page_size = 1;
    for (int i = 0; i < 3; i++)
        km__header_seal(&bad[i]);
    memset(&bad[3], 0, sizeof bad[3]);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            const struct km__header slots[2] = {bad[i], bad[j]};
            int chosen, results[2];
            char why[100] = "";
            assert_int_equal(km__header_choose(slots, &chosen, results, why, sizeof why), order[i < j ? i : j]);
            assert_int_equal(results[0], order[i]);
            assert_int_equal(results[1], order[j]);
            assert_true(strlen(why) > 10);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sealed_header_is_good),
        cmocka_unit_test(a_header_of_a_live_map_is_good_and_has_no_journal),
        cmocka_unit_test(every_flipped_bit_of_a_slot_is_found),
        cmocka_unit_test(a_field_out_of_range_gives_the_named_error),
        cmocka_unit_test(a_field_that_a_live_map_cannot_have_gives_the_named_error),
        cmocka_unit_test(the_sentence_names_the_field_and_its_value),
        cmocka_unit_test(another_version_is_named_whatever_else_it_holds),
        cmocka_unit_test(schema_and_reserved_bytes_must_be_zero_behind_their_end),
        cmocka_unit_test(regions_may_stand_in_any_order),
        cmocka_unit_test(no_accepted_header_lets_its_regions_overlap),
        cmocka_unit_test(the_layout_of_every_size_is_good),
        cmocka_unit_test(a_layout_out_of_range_is_refused),
        cmocka_unit_test(the_valid_slot_with_the_higher_sequence_is_chosen),
        cmocka_unit_test(of_two_bad_slots_the_more_telling_error_is_given),
    };
    return cmocka_run_group_tests_name("header", tests, NULL, NULL);
}
