/* SPDX-License-Identifier: MIT
 *
 * keepmap create: a new map, or a new one in the place of one that nobody has open.
 */
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "outcome.h"
#include "text.h"

enum {
    OPTION_SIZE = 256,
    OPTION_MAX_SIZE,
    OPTION_JOURNAL,
    OPTION_CHECKSUM,
    OPTION_SCHEMA,
    OPTION_PERMISSIONS,
    OPTION_FULL_PAGES,
    OPTION_COMPRESS,
    OPTION_FORCE
};

static const struct cli_option create_options[] = {
    {"size", "SIZE", OPTION_SIZE, "bytes of data, from 1 on; required"},
    {"max-size", "SIZE", OPTION_MAX_SIZE,
     "bytes that the data can grow to while others have the map open\n(default: SIZE; takes no disk space until used)"},
    {"journal", "SIZE", OPTION_JOURNAL,
     "bytes of the journal, which holds the commits since the last\ncheckpoint; takes disk space at once\n"
     "(default: an eighth of SIZE, at least 1M, at most 64M)"},
    {"checksum", "KIND", OPTION_CHECKSUM, "how pages are checked: crc32c, crc32 (zlib's) or none (default: crc32c)"},
    {"schema", "NAME:VERSION", OPTION_SCHEMA,
     "the application's own name and version of what the data means;\nwhoever asks for another one is refused "
     "(default: none)"},
    {"permissions", "MODE", OPTION_PERMISSIONS, "of the file, in octal; the umask is not applied (default: 0600)"},
    {"full-pages", NULL, OPTION_FULL_PAGES,
     "journal whole pages at their first change after a checkpoint, for\ndisks that can garble a sector when the power "
     "is cut"},
    {"compress", NULL, OPTION_COMPRESS, "compress commits in the journal where that makes them shorter"},
    {"force", NULL, OPTION_FORCE, "replace an existing map, unless somebody has it open"},
};

static bool take_checksum(struct cli_command *command, uint32_t *checksum) {
    for (*checksum = KM_CHECKSUM_CRC32C; *checksum <= KM_CHECKSUM_NONE; ++*checksum)
        if (strcmp(command->value, cli_text_checksum(*checksum)) == 0)
            return true;
    cli_fail_usage(command, "--checksum: '%s' is not a kind: give crc32c, crc32 or none", command->value);
    return false;
}

/** Take one option. False when it does not hold: that was said. */
static bool take_option(struct cli_command *command, int id, struct km_options *options) {
    const char *wrong = NULL;
    switch (id) {
    case OPTION_SIZE:
        return cli_take_size(command, &options->size);
    case OPTION_MAX_SIZE:
        return cli_take_size(command, &options->max_size);
    case OPTION_JOURNAL:
        return cli_take_size(command, &options->journal_size);
    case OPTION_CHECKSUM:
        return take_checksum(command, &options->checksum);
    case OPTION_PERMISSIONS:
        wrong = cli_parse_permissions(command->value, &options->permissions);
        break;
    case OPTION_FULL_PAGES:
        options->flags |= KM_FULL_PAGES;
        break;
    case OPTION_COMPRESS:
        options->flags |= KM_COMPRESS;
        break;
    case OPTION_FORCE:
        options->flags = (options->flags & ~(uint32_t)KM_EXCLUSIVE) | KM_REPLACE;
        break;
    default:
        break;
    }
    if (wrong)
        cli_fail_usage(command, "--%s: '%s' %s", command->option, command->value, wrong);
    return wrong == NULL;
}

static void print_result(const struct cli_command *command, const struct km_info *outcome) {
    char size[CLI_TEXT_SIZE], max_size[CLI_TEXT_SIZE], journal[CLI_TEXT_SIZE];
    if (command->json) {
        struct cli_json json = cli_outcome_json(command, outcome->generation, outcome->size);
        cli_json_number(&json, "max_size", outcome->max_size);
        cli_json_number(&json, "journal_size", outcome->journal_size);
        cli_json_string(&json, "checksum", cli_text_checksum(outcome->checksum));
        cli_json_close(&json, '}');
    } else if (!command->quiet) {
        printf("created %s: %s of data", command->shown, cli_text_bytes(size, outcome->size));
        if (outcome->max_size != outcome->size)
            printf(" that can grow to %s", cli_text_size(max_size, outcome->max_size));
        printf(", %s of journal, checksum %s\n", cli_text_size(journal, outcome->journal_size),
               cli_text_checksum(outcome->checksum));
    }
}

static int run(struct cli_command *command) {
    struct km_options options = {.flags = KM_CREATE | KM_EXCLUSIVE};
    int id;
    while ((id = cli_next_option(command)) > 0)
        if (!take_option(command, id, &options))
            return command->status;
    if (id < 0)
        return command->status;
    if (options.size == 0)
        return cli_fail_usage(command, "--size is missing: how many bytes is the map to hold?"), command->status;
    if (options.max_size != 0 && options.max_size < options.size)
        return cli_fail_usage(command, "--max-size is less than --size"), command->status;

    km_map *map;
    int status = cli_open(command, &map, &options);
    if (status)
        return status;
    struct km_info outcome;
    status = cli_outcome_take(command, map, &outcome);
    status = cli_close(command, map, status, "the map was created");
    if (status == CLI_DONE)
        print_result(command, &outcome);
    return status;
}

const struct cli_verb cli_verb_create = {
    .name = "create",
    .arguments = "TARGET --size SIZE",
    .argument_count = 1,
    .summary = "make a new map",
    .description = "Make a new map: a file whose data is SIZE bytes of zeros. It appears whole or not at all.",
    .options = create_options,
    .option_count = sizeof create_options / sizeof *create_options,
    .example = "  keepmap create state.km --size 64M --schema counter:3",
    .run = run,
};
