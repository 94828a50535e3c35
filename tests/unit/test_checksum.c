/* SPDX-License-Identifier: MIT
 *
 * Checksums and the digest: known vectors, and every way to compute them against the tables.
 */
#include "../support/chance.h"
#include "../support/check.h"

#include "format/checksum.h"
#include "format/layout.h"

static const unsigned char zero_page[KM__PAGE];

static void crc32c_gives_the_vectors_of_rfc_3720(void **state) {
    (void)state;
    static const unsigned char read_command[48] = {
        0x01, 0xc0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0,
        0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0,    0,
    };
    unsigned char ones[32], rising[32], falling[32];
    for (unsigned i = 0; i < 32; i++) {
        ones[i] = 0xff;
        rising[i] = (unsigned char)i;
        falling[i] = (unsigned char)(31 - i);
    }
    for (unsigned i = 0; km__crc32c_way(i) != NULL; i++) {
        km__crc32c_function *way = km__crc32c_way(i);
        assert_int_equal(way(0, zero_page, 32), 0x8a9136aa);
        assert_int_equal(way(0, ones, 32), 0x62a8ab43);
        assert_int_equal(way(0, rising, 32), 0x46dd794e);
        assert_int_equal(way(0, falling, 32), 0x113fdb5c);
        assert_int_equal(way(0, read_command, 48), 0xd9963a56);
        assert_int_equal(way(0, "123456789", 9), 0xe3069283);
        assert_int_equal(way(0, "", 0), 0);
    }
}

static void every_way_equals_the_tables_at_all_short_lengths_and_alignments(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    static unsigned char bytes[1024];
    chance_fill(&chance, bytes, sizeof bytes);
    for (unsigned i = 0; km__crc32c_way(i) != NULL; i++)
        for (size_t alignment = 0; alignment < 64; alignment++)
            for (size_t length = 0; length <= 600; length++) {
                const uint32_t start = (uint32_t)(length * 0x9e3779b9u);
                const uint32_t expected = km__crc32c_portable(start, bytes + alignment, length);
                if (km__crc32c_way(i)(start, bytes + alignment, length) != expected)
                    fail_msg("way %u, alignment %zu, length %zu", i, alignment, length);
            }
}

static void every_way_equals_the_tables_at_random_lengths(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    enum { ROOM = 300000 };
    unsigned char *bytes = malloc(ROOM);
    assert_non_null(bytes);
    chance_fill(&chance, bytes, ROOM);
    for (int round = 0; round < 300; round++) {
        const size_t length = (size_t)chance_below(&chance, round % 2 == 0 ? 3 * KM__PAGE : ROOM - 64);
        const size_t alignment = (size_t)chance_below(&chance, 64);
        const uint32_t start = (uint32_t)chance_next(&chance);
        const uint32_t expected = km__crc32c_portable(start, bytes + alignment, length);
        assert_int_equal(km__crc32c(start, bytes + alignment, length), expected);
        for (unsigned i = 0; km__crc32c_way(i) != NULL; i++)
            if (km__crc32c_way(i)(start, bytes + alignment, length) != expected)
                fail_msg("way %u, alignment %zu, length %zu", i, alignment, length);
    }
    free(bytes);
}

static void crc32c_can_be_continued_anywhere(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    static unsigned char bytes[2 * KM__PAGE];
    chance_fill(&chance, bytes, sizeof bytes);
    const uint32_t whole = km__crc32c(0, bytes, sizeof bytes);
    for (size_t cut = 0; cut <= sizeof bytes; cut += 7)
        assert_int_equal(km__crc32c(km__crc32c(0, bytes, cut), bytes + cut, sizeof bytes - cut), whole);
}

static void the_crc32c_of_exactly_what_is_named_is_taken(void **state) {
    (void)state;
    /* An allocation that ends where the bytes end: the address sanitizer sees a byte too many. */
    for (size_t length = 1; length <= 1100; length += 13) {
        unsigned char *bytes = malloc(length);
        assert_non_null(bytes);
        memset(bytes, 0x5a, length);
        for (unsigned i = 0; km__crc32c_way(i) != NULL; i++)
            assert_int_equal(km__crc32c_way(i)(0, bytes, length), km__crc32c_portable(0, bytes, length));
        free(bytes);
    }
}

static void a_page_of_zeros_has_checksum_0(void **state) {
    (void)state;
    for (uint32_t kind = KM_CHECKSUM_CRC32C; kind <= KM_CHECKSUM_NONE; kind++)
        if (km__checksum_available(kind))
            assert_int_equal(km__checksum_page(kind, zero_page), 0);
}

static void a_page_checksum_is_the_crc_xor_that_of_zeros(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    unsigned char page[KM__PAGE];
    chance_fill(&chance, page, sizeof page);
    assert_int_equal(km__checksum_page(KM_CHECKSUM_CRC32C, page),
                     km__crc32c_portable(0, page, KM__PAGE) ^ km__crc32c_portable(0, zero_page, KM__PAGE));
    if (km__zlib_available())
        assert_int_equal(km__checksum_page(KM_CHECKSUM_CRC32, page),
                         km__zlib_crc32(0, page, KM__PAGE) ^ km__zlib_crc32(0, zero_page, KM__PAGE));
    assert_int_equal(km__checksum_page(KM_CHECKSUM_NONE, page), 0);
}

static void every_flipped_bit_changes_the_page_checksum(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    unsigned char page[KM__PAGE];
    chance_fill(&chance, page, sizeof page);
    for (uint32_t kind = KM_CHECKSUM_CRC32C; kind <= KM_CHECKSUM_CRC32; kind++) {
        if (!km__checksum_available(kind))
            continue;
        const uint32_t stored = km__checksum_page(kind, page);
        for (size_t bit = 0; bit < KM__PAGE * 8; bit++) {
            page[bit / 8] ^= (unsigned char)(1u << bit % 8);
            assert_int_not_equal(km__checksum_page(kind, page), stored);
            page[bit / 8] ^= (unsigned char)(1u << bit % 8);
        }
    }
}

static void unknown_kinds_are_not_available(void **state) {
    (void)state;
    assert_true(km__checksum_available(KM_CHECKSUM_CRC32C));
    assert_true(km__checksum_available(KM_CHECKSUM_NONE));
    assert_int_equal(km__checksum_available(KM_CHECKSUM_CRC32), km__zlib_available());
    assert_false(km__checksum_available(KM_CHECKSUM_NONE + 1));
    assert_false(km__checksum_available(UINT32_MAX));
}

/* The numbers stand in docs/format.md. */
static void mix_and_digest_give_the_documented_vectors(void **state) {
    (void)state;
    assert_true(km__mix64(0, 0) == UINT64_C(0xe220a8397b1dcdaf));
    assert_true(km__mix64(1, 2) == UINT64_C(0xbfc846100bfc1e42));
    assert_true(km__mix64(UINT64_C(0x0123456789abcdef), UINT64_C(0xfedcba9876543210)) == UINT64_C(0x8e5972b5ef071b1b));
    assert_true(km__digest_mix(7, 0x12345678) == km__mix64(7, 0x12345678));
}

static void a_zero_entry_adds_nothing_to_the_digest(void **state) {
    (void)state;
    assert_true(km__digest_mix(0, 0) == 0);
    assert_true(km__digest_mix(123456, 0) == 0);
    assert_true(km__digest_mix(0, 1) != 0);
}

static void the_digest_tells_two_swapped_pages(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    for (int round = 0; round < 10000; round++) {
        const uint64_t page = chance_below(&chance, UINT64_C(1) << 48), other = page ^ (1 + chance_below(&chance, 99));
        const uint32_t stored = (uint32_t)chance_next(&chance), next = stored + 1 + (uint32_t)chance_below(&chance, 99);
        assert_true(km__digest_mix(page, stored) + km__digest_mix(other, next) !=
                    km__digest_mix(page, next) + km__digest_mix(other, stored));
    }
}

static void zlib_gives_back_what_it_compressed(void **state) {
    (void)state;
    if (!km__zlib_available())
        skip();
    assert_int_equal(km__zlib_crc32(0, "123456789", 9), 0xcbf43926);
    unsigned char from[5000], packed[6000], to[5000];
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (unsigned char)(i / 50);
    size_t stored = sizeof packed;
    assert_int_equal(km__zlib_compress(packed, &stored, from, sizeof from), 0);
    assert_true(stored < sizeof from / 4);
    assert_int_equal(km__zlib_expand(to, sizeof to, packed, stored), 0);
    assert_memory_equal(from, to, sizeof from);
}

static void zlib_refuses_what_does_not_come_out_exactly(void **state) {
    (void)state;
    if (!km__zlib_available())
        skip();
    unsigned char from[1000] = {1, 2, 3}, packed[2000] = {0}, to[2000];
    size_t stored = sizeof packed;
    assert_int_equal(km__zlib_compress(packed, &stored, from, sizeof from), 0);
    assert_int_equal(km__zlib_expand(to, sizeof from - 1, packed, stored), KM_EJOURNAL);
    assert_int_equal(km__zlib_expand(to, sizeof from + 1, packed, stored), KM_EJOURNAL);
    assert_int_equal(km__zlib_expand(to, sizeof from, packed, stored - 1), KM_EJOURNAL);
    assert_int_equal(km__zlib_expand(to, sizeof from, packed, stored + 1), KM_EJOURNAL);
    packed[stored / 2] ^= 0x10;
    assert_int_equal(km__zlib_expand(to, sizeof from, packed, stored), KM_EJOURNAL);
    size_t little = 5;
    assert_int_equal(km__zlib_compress(packed, &little, from, sizeof from), KM_ESIZE);
}

static void without_zlib_its_functions_say_so(void **state) {
    (void)state;
    if (km__zlib_available())
        skip();
    unsigned char from[64] = {0}, to[64];
    size_t stored = sizeof to;
    assert_int_equal(km__zlib_compress(to, &stored, from, sizeof from), KM_EUNSUPPORTED);
    assert_int_equal(km__zlib_expand(to, sizeof to, from, sizeof from), KM_EUNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc32c_gives_the_vectors_of_rfc_3720),
        cmocka_unit_test(every_way_equals_the_tables_at_all_short_lengths_and_alignments),
        cmocka_unit_test(every_way_equals_the_tables_at_random_lengths),
        cmocka_unit_test(crc32c_can_be_continued_anywhere),
        cmocka_unit_test(the_crc32c_of_exactly_what_is_named_is_taken),
        cmocka_unit_test(a_page_of_zeros_has_checksum_0),
        cmocka_unit_test(a_page_checksum_is_the_crc_xor_that_of_zeros),
        cmocka_unit_test(every_flipped_bit_changes_the_page_checksum),
        cmocka_unit_test(unknown_kinds_are_not_available),
        cmocka_unit_test(mix_and_digest_give_the_documented_vectors),
        cmocka_unit_test(a_zero_entry_adds_nothing_to_the_digest),
        cmocka_unit_test(the_digest_tells_two_swapped_pages),
        cmocka_unit_test(zlib_gives_back_what_it_compressed),
        cmocka_unit_test(zlib_refuses_what_does_not_come_out_exactly),
        cmocka_unit_test(without_zlib_its_functions_say_so),
    };
    return cmocka_run_group_tests_name("checksum", tests, NULL, NULL);
}
