/* SPDX-License-Identifier: MIT
 *
 * Maps that are copied in tests: see copies.h.
 */
#include "copies.h"

#include <sys/stat.h>

#include "format/checksum.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"

bool copies_exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0;
}

const struct copies_kind copies_kinds[COPIES_KINDS] = {
    {"crc32c", KM_CHECKSUM_CRC32C, 0},
    {"none", KM_CHECKSUM_NONE, 0},
    {"full-pages", KM_CHECKSUM_CRC32C, KM_FULL_PAGES},
    {"crc32", KM_CHECKSUM_CRC32, 0},
    {"compressed", KM_CHECKSUM_CRC32C, KM_COMPRESS},
};

bool copies_available(const struct copies_kind *kind) {
    return km__checksum_available(kind->checksum) && ((kind->flags & KM_COMPRESS) == 0 || km__zlib_available());
}

km_map *copies_create(const char *path, const struct copies_kind *kind, uint64_t size, uint64_t max_size) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = size,
                                       .max_size = max_size,
                                       .journal_size = COPIES_RING,
                                       .checksum = kind->checksum,
                                       .permissions = 0640,
                                       .schema = "copied",
                                       .schema_version = 7,
                                       .timeout_ms = 2000,
                                       .flags = KM_CREATE | KM_EXCLUSIVE | kind->flags};
    must(km_open(&map, path, &options));
    return map;
}

/* Three commits at home and two in the journal: pages that only home has, that only frames have, that both have, that
 * became zeros again in either, and holes. */
km_map *copies_create_varied(const char *path, const struct copies_kind *kind) {
    km_map *map = copies_create(path, kind, COPIES_SIZE, 0);
    struct chance chance = {11};
    must(km_begin(map, KM_WRITE));
    chance_fill(&chance, km_data(map), 300 * KM_PAGE_SIZE);
    chance_fill(&chance, (unsigned char *)km_data(map) + COPIES_SIZE - 5000, 5000);
    must(km_commit(map));
    check_commit_fill(map, 20 * KM_PAGE_SIZE, 0, 3 * KM_PAGE_SIZE);
    check_commit_fill(map, 410 * KM_PAGE_SIZE + 7, 3, 2 * KM_PAGE_SIZE);
    must(km_checkpoint(map));
    check_commit_fill(map, 290 * KM_PAGE_SIZE + 9, 4, 20 * KM_PAGE_SIZE);
    must(km_begin(map, KM_WRITE));
    memset((unsigned char *)km_data(map) + 40 * KM_PAGE_SIZE, 0, 2 * KM_PAGE_SIZE);
    memset((unsigned char *)km_data(map) + 500 * KM_PAGE_SIZE, 5, 1);
    memset((unsigned char *)km_data(map) + COPIES_SIZE - 1, 6, 1);
    must(km_commit(map));
    assert_int_equal(km_generation(map), 5);
    assert_int_equal(check_info(map).checkpoint_generation, 3);
    return map;
}

/* A file's bytes, as the handle shows them now. */
unsigned char *copies_shown_by(km_map *map) {
    unsigned char *bytes = malloc(km_size(map));
    assert_non_null(bytes);
    must(km_begin(map, KM_READ));
    memcpy(bytes, km_data(map), km_size(map));
    must(km_abort(map));
    return bytes;
}

void copies_expect_bytes(km_map *map, const unsigned char *bytes, uint64_t size) {
    assert_int_equal(km_size(map), size);
    must(km_begin(map, KM_READ));
    assert_memory_equal(km_data(map), bytes, size);
    must(km_abort(map));
}

/* The log of a copy begins behind the commit that it shows. */
static int count_up(void *context, const struct km_log_entry *entry) {
    assert_int_equal(entry->generation, ++*(uint64_t *)context);
    return 0;
}

/* The copy is a map that was closed clean, shows these bytes at this generation, and can be used. */
void copies_expect(const char *path, const unsigned char *bytes, uint64_t size, uint64_t generation) {
    km_map *copy = check_open(path, 0, KM_READONLY);
    const struct km_info info = check_info(copy);
    assert_int_equal(info.clean, 1);
    assert_int_equal(info.header_slots, 3);
    assert_int_equal(info.generation, generation);
    assert_int_equal(info.checkpoint_generation, generation);
    assert_int_equal(info.durable_generation, generation);
    assert_int_equal(info.journal_used, 0);
    copies_expect_bytes(copy, bytes, size);
    check_clean(copy);
    must(km_close(copy));
    copy = check_open(path, 0, 0);
    copies_expect_bytes(copy, bytes, size);
    check_clean(copy);
    check_commit_fill(copy, size - 1, bytes[size - 1] + 1, 1);
    assert_int_equal(km_generation(copy), generation + 1);
    uint64_t next = generation;
    must(km_log(copy, count_up, &next));
    assert_int_equal(next, generation + 1);
    must(km_checkpoint(copy));
    check_commit_fill(copy, 0, bytes[0] + 1, 1);
    check_clean(copy);
    must(km_close(copy));
    copy = check_open(path, 0, 0);
    assert_int_equal(km_generation(copy), generation + 2);
    check_clean(copy);
    must(km_close(copy));
}
