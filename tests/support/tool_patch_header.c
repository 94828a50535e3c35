/* SPDX-License-Identifier: MIT
 *
 * Change fields of a map's header slots, and seal the slots again, so that a test gets a header that is whole but says
 * something else; or tell what a field holds.
 *
 *     tool_patch_header FILE a|b|both FIELD VALUE [FIELD VALUE]...
 *     tool_patch_header FILE a|b FIELD
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/header.h"

#define FIELD(name)                                                                                                    \
    { #name, offsetof(struct km__header, name), sizeof(((struct km__header *)0)->name) }

static const struct field {
    const char *name;
    size_t offset, size;
} fields[] = {
    FIELD(format_version),
    FIELD(header_size),
    FIELD(feature_incompatible),
    FIELD(feature_readonly),
    FIELD(mode),
    FIELD(feature_compatible),
    FIELD(checksum_kind),
    FIELD(page_size),
    FIELD(schema_version),
    FIELD(created_ns),
    FIELD(sequence),
    FIELD(geometry),
    FIELD(table_offset),
    FIELD(table_capacity),
    FIELD(data_offset),
    FIELD(data_size),
    FIELD(data_capacity),
    FIELD(journal_offset),
    FIELD(journal_size),
    FIELD(journal_configured),
    FIELD(generation),
    FIELD(target),
    FIELD(journal_position),
    FIELD(journal_chain),
    FIELD(digest),
    FIELD(flags),
};

static const struct field *find_field(const char *name) {
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    fprintf(stderr, "tool_patch_header: there is no field '%s'\n", name);
    exit(2);
}

static void patch(struct km__header *header, int count, char **words) {
    for (int i = 0; i + 1 < count; i += 2) {
        const struct field *field = find_field(words[i]);
        const uint64_t value = strtoull(words[i + 1], NULL, 0);
        memcpy((unsigned char *)header + field->offset, &value, field->size); /* both are little-endian */
    }
    km__header_seal(header);
}

static int print(const struct km__header *header, const char *name) {
    const struct field *field = find_field(name);
    uint64_t value = 0;
    memcpy(&value, (const unsigned char *)header + field->offset, field->size);
    return printf("%" PRIu64 "\n", value) < 0;
}

int main(int argc, char **argv) {
    if (argc < 4 || (argc > 4 && argc % 2 == 0))
        return fprintf(stderr, "usage: tool_patch_header FILE a|b|both FIELD [VALUE [FIELD VALUE]...]\n"), 2;
    FILE *file = fopen(argv[1], argc == 4 ? "rb" : "r+b");
    if (file == NULL)
        return perror(argv[1]), 1;
    const int first = strcmp(argv[2], "b") == 0, last = strcmp(argv[2], "a") != 0;
    int failed = 0;
    for (int slot = first; slot <= last && !failed; slot++) {
        struct km__header header;
        const long offset = slot == 0 ? (long)KM__SLOT_A : (long)KM__SLOT_B;
        failed = fseek(file, offset, SEEK_SET) != 0 || fread(&header, sizeof header, 1, file) != 1;
        if (failed)
            break;
        if (argc == 4) {
            failed = print(&header, argv[3]);
        } else {
            patch(&header, argc - 3, argv + 3);
            failed = fseek(file, offset, SEEK_SET) != 0 || fwrite(&header, sizeof header, 1, file) != 1;
        }
    }
    if (fclose(file) != 0 || failed)
        return perror(argv[1]), 1;
    return 0;
}
