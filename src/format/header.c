/* SPDX-License-Identifier: MIT
 *
 * Header slots. A slot is judged from a private copy; every field is checked, whatever its checksum says, because a
 * checksum is no protection against a program that computes it.
 */
#include "header.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "bytes.h"
#include "checksum.h"
#include "keepmap.h"
#include "os/error.h"

/* Where a check's sentence goes. */
struct reason {
    char *text;
    size_t size;
};

struct region {
    const char *name;
    uint64_t offset, end;
};

static int check_identity(const struct km__header *header, const struct reason *reason);
static int check_sizes(const struct km__header *header, const struct reason *reason);
static int check_regions(const struct km__header *header, const struct reason *reason);
static int check_state(const struct km__header *header, const struct reason *reason);
static int check_zeros(const struct km__header *header, const struct reason *reason);

__attribute__((format(printf, 3, 4))) static int refuse(const struct reason *reason, int code, const char *format,
                                                        ...) {
    if (reason->text != NULL && reason->size > 0) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(reason->text, reason->size, format, arguments);
        va_end(arguments);
    }
    return code;
}

static uint32_t checksum_of(const struct km__header *header) {
    return km__crc32c(0, header, offsetof(struct km__header, checksum));
}

void km__header_seal(struct km__header *header) {
    header->checksum = checksum_of(header);
}

int km__header_check(const struct km__header *header, char *why, size_t why_size) {
    const struct reason reason = {why, why_size};
    refuse(&reason, 0, "%s", "");

    if (memcmp(header->magic, KM__MAGIC, sizeof header->magic) != 0)
        return refuse(&reason, KM_ENOTMAP, "it does not begin with the mark of a keepmap map");
    const uint32_t checksum = checksum_of(header);
    if (header->checksum != checksum)
        return refuse(&reason, KM_EHEADER, "its checksum is %08" PRIx32 ", that of its bytes is %08" PRIx32,
                      header->checksum, checksum);

    int result = check_identity(header, &reason);
    if (result == 0)
        result = check_sizes(header, &reason);
    if (result == 0)
        result = check_regions(header, &reason);
    if (result == 0)
        result = check_state(header, &reason);
    if (result == 0)
        result = check_zeros(header, &reason);
    return result;
}

int km__header_choose(const struct km__header slots[2], int *chosen, int results[2], char *why, size_t why_size) {
    static const int most_telling_first[] = {KM_EVERSION, KM_EFEATURE, KM_EHEADER, KM_ENOTMAP};
    int found[2];
    for (int slot = 0; slot < 2; slot++)
        found[slot] = km__header_check(&slots[slot], NULL, 0);
    if (results != NULL)
        memcpy(results, found, sizeof found);

    if (found[0] == 0 || found[1] == 0) {
        const bool second = found[1] == 0 && (found[0] != 0 || slots[1].sequence > slots[0].sequence);
        *chosen = second ? 1 : 0;
        return refuse(&(struct reason){why, why_size}, 0, "%s", "");
    }
    for (size_t i = 0; i < sizeof most_telling_first / sizeof *most_telling_first; i++)
        for (int slot = 0; slot < 2; slot++)
            if (found[slot] == most_telling_first[i])
                return km__header_check(&slots[slot], why, why_size);
    return KM_EHEADER;
}

uint64_t km__header_data_end(const struct km__header *header) {
    return header->data_offset + km__round_up(header->data_capacity, KM__ALIGN);
}

uint64_t km__header_file_end(const struct km__header *header) {
    uint64_t end = km__header_data_end(header);
    const uint64_t table_end = header->table_offset + header->table_capacity;
    const uint64_t journal_end = header->journal_offset + header->journal_size;
    if (end < table_end)
        end = table_end;
    return end < journal_end ? journal_end : end;
}

int km__header_layout(struct km__header *header) {
    if (header->data_size == 0 || header->data_size > header->data_capacity)
        return km__error(KM_ESIZE, "a size of %" PRIu64 " bytes is not between 1 and the greatest size, %" PRIu64,
                         header->data_size, header->data_capacity);
    if (header->data_capacity > KM__SIZE_MAX)
        return km__error(KM_ESIZE, "a greatest size of %" PRIu64 " bytes is above the limit of %" PRIu64,
                         header->data_capacity, KM__SIZE_MAX);
    if (header->mode == KM_LIVE && header->journal_size != 0)
        return km__error(KM_ESIZE, "a live map has no journal, but %" PRIu64 " bytes of it were asked for",
                         header->journal_size);
    if (header->mode != KM_LIVE && (header->journal_size < KM__JOURNAL_MIN || header->journal_size > KM__SIZE_MAX ||
                                    header->journal_size % KM__PAGE != 0))
        return km__error(KM_ESIZE, "a journal of %" PRIu64 " bytes is not a multiple of %u from %u on",
                         header->journal_size, KM__PAGE, KM__JOURNAL_MIN);

    if (header->journal_configured == 0)
        header->journal_configured = header->journal_size;
    header->table_offset = KM__TABLE_OFFSET;
    header->table_capacity = km__round_up(km__pages_of(header->data_capacity) * sizeof(uint32_t), KM__ALIGN);
    header->data_offset = header->table_offset + header->table_capacity;
    header->journal_offset = km__header_data_end(header);
    if (km__header_file_end(header) > KM__SIZE_MAX)
        return km__error(KM_ESIZE,
                         "data of %" PRIu64 " and a journal of %" PRIu64
                         " bytes make a file above the limit of %" PRIu64 " bytes: give smaller ones",
                         header->data_capacity, header->journal_size, KM__SIZE_MAX);
    return 0;
}

/* Version first: another one may lay out differently what comes after it. */
static int check_identity(const struct km__header *header, const struct reason *reason) {
    if (header->format_version > KM__FORMAT_VERSION)
        return refuse(reason, KM_EVERSION, "it has format version %" PRIu32 ", this library knows versions up to %u",
                      header->format_version, KM__FORMAT_VERSION);
    if (header->format_version == 0)
        return refuse(reason, KM_EHEADER, "its format version is 0");
    if (header->header_size != KM__SLOT_SIZE)
        return refuse(reason, KM_EHEADER, "its header_size is %" PRIu32 ", not %u", header->header_size, KM__SLOT_SIZE);
    if ((header->feature_incompatible & ~KM__KNOWN_INCOMPATIBLE) != 0)
        return refuse(reason, KM_EFEATURE, "it uses features %#" PRIx64 " that this library does not know",
                      header->feature_incompatible & ~KM__KNOWN_INCOMPATIBLE);
    if (header->mode != KM_TRANSACTIONAL && header->mode != KM_LIVE)
        return refuse(reason, KM_EFEATURE, "it has mode %" PRIu32 ", which this library does not know", header->mode);
    if (header->checksum_kind > KM_CHECKSUM_NONE)
        return refuse(reason, KM_EFEATURE, "it has checksums of kind %" PRIu32 ", which this library does not know",
                      header->checksum_kind);
    if (header->page_size != KM__PAGE)
        return refuse(reason, KM_EHEADER, "its page_size is %" PRIu32 ", not %u", header->page_size, KM__PAGE);
    if (header->mode == KM_LIVE &&
        ((header->feature_incompatible & KM__FEATURE_COMPRESS) != 0 || km__full_pages(header)))
        return refuse(reason, KM_EHEADER, "it is a live map with features of a journal, which it does not have");
    return 0;
}

/* Keeps every number below 2^60, so that no sum in what follows can overflow. */
static int check_sizes(const struct km__header *header, const struct reason *reason) {
    const struct {
        const char *name;
        uint64_t value;
    } bounded[] = {
        {"table_offset", header->table_offset},     {"table_capacity", header->table_capacity},
        {"data_offset", header->data_offset},       {"data_capacity", header->data_capacity},
        {"journal_offset", header->journal_offset}, {"journal_size", header->journal_size},
    };
    for (size_t i = 0; i < sizeof bounded / sizeof *bounded; i++)
        if (bounded[i].value > KM__SIZE_MAX)
            return refuse(reason, KM_EHEADER, "its %s is %" PRIu64 ", above the limit of %" PRIu64, bounded[i].name,
                          bounded[i].value, KM__SIZE_MAX);

    if (header->data_size == 0 || header->data_size > header->data_capacity)
        return refuse(reason, KM_EHEADER, "its data_size is %" PRIu64 ", not between 1 and data_capacity, %" PRIu64,
                      header->data_size, header->data_capacity);
    if (header->table_capacity / sizeof(uint32_t) < km__pages_of(header->data_capacity))
        return refuse(reason, KM_EHEADER, "its table_capacity is %" PRIu64 ", too little for %" PRIu64 " pages",
                      header->table_capacity, km__pages_of(header->data_capacity));
    if (header->mode == KM_LIVE && (header->journal_size != 0 || header->journal_configured != 0))
        return refuse(reason, KM_EHEADER,
                      "its journal_size is %" PRIu64 " and its journal_configured %" PRIu64
                      ", but a live map has no journal",
                      header->journal_size, header->journal_configured);
    if (header->mode == KM_LIVE)
        return 0;
    if (header->journal_size < KM__JOURNAL_MIN || header->journal_size % KM__PAGE != 0)
        return refuse(reason, KM_EHEADER, "its journal_size is %" PRIu64 ", not a multiple of %u from %u on",
                      header->journal_size, KM__PAGE, KM__JOURNAL_MIN);
    if (header->journal_configured < KM__JOURNAL_MIN || header->journal_configured % KM__PAGE != 0 ||
        header->journal_configured > header->journal_size)
        return refuse(reason, KM_EHEADER,
                      "its journal_configured is %" PRIu64 ", not a multiple of %u from %u to journal_size, %" PRIu64,
                      header->journal_configured, KM__PAGE, KM__JOURNAL_MIN, header->journal_size);
    return 0;
}

/* The regions may stand in any order, as growth moves them, but not in each other's or the header's bytes. */
static int check_regions(const struct km__header *header, const struct reason *reason) {
    const struct region regions[] = {
        {"table", header->table_offset, header->table_offset + header->table_capacity},
        {"data", header->data_offset, km__header_data_end(header)},
        {"journal", header->journal_offset, header->journal_offset + header->journal_size},
    };
    for (size_t i = 0; i < 3; i++) {
        if (regions[i].offset % KM__ALIGN != 0 || regions[i].offset < KM__TABLE_OFFSET)
            return refuse(reason, KM_EHEADER, "its %s_offset is %" PRIu64 ", not a multiple of %u from %u on",
                          regions[i].name, regions[i].offset, KM__ALIGN, KM__TABLE_OFFSET);
        if (regions[i].end > KM__SIZE_MAX)
            return refuse(reason, KM_EHEADER, "its %s ends at %" PRIu64 ", above the limit of %" PRIu64,
                          regions[i].name, regions[i].end, KM__SIZE_MAX);
        for (size_t j = 0; j < i; j++)
            if (regions[i].offset < regions[j].end && regions[j].offset < regions[i].end)
                return refuse(reason, KM_EHEADER,
                              "its %s_offset is %" PRIu64 ", which lets it overlap the %s at %" PRIu64, regions[i].name,
                              regions[i].offset, regions[j].name, regions[j].offset);
    }
    return 0;
}

static int check_position(const struct km__header *header, const char *name, uint64_t position,
                          const struct reason *reason) {
    if (position > header->journal_size || position % 8 != 0)
        return refuse(reason, KM_EHEADER, "its %s is %" PRIu64 ", not a multiple of 8 up to journal_size, %" PRIu64,
                      name, position, header->journal_size);
    return 0;
}

static int check_state(const struct km__header *header, const struct reason *reason) {
    if (header->target > KM__GENERATION_MAX)
        return refuse(reason, KM_EHEADER, "its target is %" PRIu64 ", above the limit of %" PRIu64, header->target,
                      KM__GENERATION_MAX);
    if (header->target < header->generation)
        return refuse(reason, KM_EHEADER, "its target is %" PRIu64 ", below its generation, %" PRIu64, header->target,
                      header->generation);
    if (header->mode == KM_LIVE && header->target != header->generation)
        return refuse(reason, KM_EHEADER, "its target is %" PRIu64 ", but a live map has no checkpoints",
                      header->target);
    if (header->history_generation > header->generation)
        return refuse(reason, KM_EHEADER, "its history_generation is %" PRIu64 ", above its generation, %" PRIu64,
                      header->history_generation, header->generation);
    if ((header->flags & ~(uint64_t)KM__HEADER_CLEAN) != 0)
        return refuse(reason, KM_EHEADER, "its flags are %#" PRIx64 ", of which version 1 knows only %#x",
                      header->flags, (unsigned)KM__HEADER_CLEAN);
    if (header->checksum_kind == KM_CHECKSUM_NONE && header->digest != 0)
        return refuse(reason, KM_EHEADER, "its digest is %016" PRIx64 ", but it has no checksums", header->digest);
    const int result = check_position(header, "journal_position", header->journal_position, reason);
    return result != 0 ? result : check_position(header, "history_position", header->history_position, reason);
}

/* A schema is a string with nothing behind it, reserved bytes are nothing: what is not checked cannot be used later. */
static int check_zeros(const struct km__header *header, const struct reason *reason) {
    const size_t length = strnlen(header->schema, sizeof header->schema);
    if (length == sizeof header->schema)
        return refuse(reason, KM_EHEADER, "its schema has no end");
    for (size_t i = length; i < sizeof header->schema; i++)
        if (header->schema[i] != 0)
            return refuse(reason, KM_EHEADER, "its schema has the byte %d behind its end, at %zu", header->schema[i],
                          i);
    /* Usually in one step: each byte equals the next one, and the first is 0. */
    if (header->reserved[0] == 0 && memcmp(header->reserved, header->reserved + 1, sizeof header->reserved - 1) == 0)
        return 0;
    for (size_t i = 0; i < sizeof header->reserved; i++)
        if (header->reserved[i] != 0)
            return refuse(reason, KM_EHEADER, "its reserved byte %zu is %d, not 0", i, header->reserved[i]);
    return 0;
}
