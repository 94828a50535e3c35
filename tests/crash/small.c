/* SPDX-License-Identifier: MIT
 *
 * The small map: see small.h.
 */
#include "small.h"

km_map *small_open(uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SMALL_SIZE, .journal_size = SMALL_RING, .flags = flags, .timeout_ms = 5};
    must(km_open(&map, SMALL_PATH, &options));
    return map;
}

void small_expect(km_map *map, uint64_t generation) {
    must(km_begin(map, KM_READ));
    assert_int_equal(km_generation(map), generation);
    assert_int_equal(*(const unsigned char *)km_data(map), generation);
    must(km_abort(map));
}

void small_die(km_map *map) {
    os_locks_close(map->locks);
    map->locks = NULL;
}

void small_lose_newest_frame(const km_map *map) {
    static const unsigned char zeros[64];
    const struct km__place *place = km__places_find(&map->places, map->cursor.generation);
    assert_non_null(place);
    assert_true(os_sim_damage(SMALL_PATH, map->header.journal_offset + place->position, zeros, sizeof zeros));
}

int small_byte(km_map *map, size_t offset) {
    return ((const unsigned char *)km_data(map))[offset];
}

void small_rot(const km_map *map, uint64_t offset) {
    const unsigned char byte = map->home_region.address[offset] ^ 1;
    assert_true(os_sim_damage(SMALL_PATH, map->header.data_offset + offset, &byte, 1));
}

struct km_info small_info(km_map *map) {
    struct km_info info = {.struct_size = sizeof info};
    must(km_get_info(map, &info));
    return info;
}

struct km_report small_verify(km_map *map) {
    struct km_report report = {.struct_size = sizeof report};
    must(km_verify(map, &report, NULL, NULL));
    return report;
}

uint64_t small_come_near_the_end(km_map *map) {
    while (map->cursor.position < SMALL_RING - 12000)
        check_commit_fill(map, 0, (int)km_generation(map) + 1, 4000);
    must(km_checkpoint(map));
    return km_generation(map);
}
