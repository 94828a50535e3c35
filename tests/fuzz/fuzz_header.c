/* SPDX-License-Identifier: MIT
 *
 * Header slots. What holds by km__header_check() is what the engine lives by: no sum overflows, no region lies over
 * another, every place lies inside its region.
 */
#include <stdlib.h>
#include <string.h>

#include "format/bytes.h"
#include "format/header.h"
#include "keepmap.h"
#include "recipe.h"
#include "claim.h"

static bool apart(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length) {
    return a + a_length <= b || b + b_length <= a;
}

static void judge_good(const struct km__header *header) {
    const uint64_t data = km__header_data_end(header) - header->data_offset;
    hold(header->data_size > 0 && header->data_size <= header->data_capacity && data >= header->data_capacity,
         "%llu of %llu bytes", (unsigned long long)header->data_size, (unsigned long long)header->data_capacity);
    hold(km__header_file_end(header) <= KM__SIZE_MAX, "the file ends at %llu",
         (unsigned long long)km__header_file_end(header));
    hold(header->table_capacity / 4 >= km__pages_of(header->data_capacity), "a table of %llu bytes",
         (unsigned long long)header->table_capacity);
    hold(header->table_offset >= KM__TABLE_OFFSET && header->data_offset >= KM__TABLE_OFFSET &&
             header->journal_offset >= KM__TABLE_OFFSET,
         "a region stands in control");
    hold(apart(header->table_offset, header->table_capacity, header->data_offset, data) &&
             apart(header->table_offset, header->table_capacity, header->journal_offset, header->journal_size) &&
             apart(header->data_offset, data, header->journal_offset, header->journal_size),
         "regions overlap");
    hold(header->journal_position <= header->journal_size && header->history_position <= header->journal_size,
         "a position lies outside of the ring");
    hold(header->generation <= header->target && header->target <= KM__GENERATION_MAX, "target %llu",
         (unsigned long long)header->target);
    hold(memchr(header->schema, 0, sizeof header->schema) != NULL, "the schema has no end");
    struct km__header again = *header;
    km__header_seal(&again);
    hold(memcmp(&again, header, sizeof again) == 0, "sealing a good slot changes it");
}

/* A layout of any sizes is refused, or gives a header that holds. */
static void judge_layout(const struct km__header *slot) {
    struct km__header header = {.magic = KM__MAGIC,
                                .format_version = KM__FORMAT_VERSION,
                                .header_size = KM__SLOT_SIZE,
                                .page_size = KM__PAGE,
                                .mode = slot->mode % 2,
                                .data_size = slot->data_size,
                                .data_capacity = slot->data_capacity,
                                .journal_size = slot->journal_size};
    if (named(km__header_layout(&header), "km__header_layout") != 0)
        return;
    km__header_seal(&header);
    char why[160];
    const int result = km__header_check(&header, why, sizeof why);
    hold(result == 0, "a layout that does not hold: %s", why);
    judge_good(&header);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
    static struct recipe recipe;
    recipe_read(&recipe, bytes, length);
    struct canvas canvas = canvas_cook(&recipe);
    struct km__header *slots = need(2 * sizeof *slots); /* no byte more, for the address sanitizer */
    memcpy(slots, canvas.bytes, 2 * sizeof *slots);

    int results[2], chosen = -1;
    char why[160];
    for (int slot = 0; slot < 2; slot++) {
        memset(why, 'x', sizeof why);
        const int result = km__header_check(&slots[slot], why, sizeof why);
        hold(memchr(why, 0, sizeof why) != NULL && (result == 0) == (why[0] == '\0'), "%s says nothing",
             km_error_name(result));
        char little[8];
        hold(km__header_check(&slots[slot], little, sizeof little) == result, "another result with less room");
        hold(result == 0 || result == KM_ENOTMAP || result == KM_EHEADER || result == KM_EVERSION ||
                 result == KM_EFEATURE,
             "%s", km_error_name(result));
        if (result == 0)
            judge_good(&slots[slot]);
        judge_layout(&slots[slot]);
        results[slot] = result;
    }
    int found[2];
    const int result = km__header_choose(slots, &chosen, found, why, sizeof why);
    hold(found[0] == results[0] && found[1] == results[1], "choosing judges otherwise than checking");
    hold((result == 0) == (results[0] == 0 || results[1] == 0), "%s of two slots", km_error_name(result));
    hold(result != 0 || (results[chosen] == 0 &&
                         (results[1 - chosen] != 0 || slots[chosen].sequence >= slots[1 - chosen].sequence)),
         "slot %d is chosen", chosen);
    free(slots);
    canvas_release(&canvas);
    return 0;
}
