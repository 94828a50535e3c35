/* SPDX-License-Identifier: MIT
 *
 * keepmap create: a new map, or a new one in the place of one that nobody has open. An object backed by the paging file
 * would end with the command that made it, so that one stays until its user is done.
 */
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "outcome.h"
#include "stream.h"
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
    OPTION_LIVE,
    OPTION_RAW,
    OPTION_FROM,
    OPTION_FORCE
};

static const struct cli_option create_options[] = {
    {"size", "SIZE", OPTION_SIZE, "bytes of data, from 1 on; required without --from"},
    {"from", "FILE", OPTION_FROM,
     "the data begins with the bytes of FILE (default: zeros); without\n--size it is as long as the file"},
    {"live", NULL, OPTION_LIVE,
     "plain shared memory: stores are seen at once by all, a commit only\nwakes who waits; takes all its disk space at "
     "once"},
    {"raw", NULL, OPTION_RAW, "the bytes alone, for programs that know nothing of keepmap: no\nheader, no checksums"},
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
    case OPTION_LIVE:
        options->mode = KM_LIVE;
        break;
    case OPTION_FROM:
        options->from = command->value;
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

/* ---- Options that do not go together ----------------------------------------------------------------------------- */

/** The first creation option that only a header could keep, or NULL. */
static const char *needs_header(const struct km_options *options) {
    return options->max_size                ? "max-size"
           : options->journal_size          ? "journal"
           : options->checksum              ? "checksum"
           : options->flags & KM_FULL_PAGES ? "full-pages"
           : options->flags & KM_COMPRESS   ? "compress"
           : options->mode == KM_LIVE       ? "live"
           : options->flags & KM_REPLACE    ? "force"
                                            : NULL;
}

/** The first creation option that is about commits in a journal, or NULL. */
static const char *needs_journal(const struct km_options *options) {
    return options->journal_size            ? "journal"
           : options->flags & KM_FULL_PAGES ? "full-pages"
           : options->flags & KM_COMPRESS   ? "compress"
                                            : NULL;
}

/** Refuse what makes no sense together. False when something does not: that was said. */
static bool options_hold(struct cli_command *command, const struct km_options *options) {
    const char *name;
    if (options->from && strcmp(options->from, "-") == 0)
        cli_fail_usage(command, "--from: standard input does not tell how long it is: create the map with --size, then "
                                "fill it with 'keepmap write'");
    else if (options->from && options->from[0] == '\0')
        cli_fail_usage(command, "--from: the file's path is empty");
    else if (options->size == 0 && options->from == NULL)
        cli_fail_usage(command, "--size is missing: how many bytes is the map to hold?");
    else if (options->size != 0 && options->max_size != 0 && options->max_size < options->size)
        cli_fail_usage(command, "--max-size is less than --size");
    else if (command->raw && options->flags & KM_REPLACE)
        cli_fail_usage(command, "--force with --raw: it replaces maps, and raw bytes are none: remove the file first");
    else if (command->raw && (name = needs_header(options)) != NULL)
        cli_fail_usage(command, "--%s with --raw: raw bytes have no header that could keep it", name);
    else if (options->mode == KM_LIVE && (name = needs_journal(options)) != NULL)
        cli_fail_usage(command, "--%s with --live: stores into a live map are seen at once, so it has no journal",
                       name);
    else if (options->flags & KM_REPLACE && cli_target_is_object(command->target))
        cli_fail_usage(command, "--force replaces files only: '%s' ends with its last user", command->target);
    else
        return true;
    return false;
}

/* ---- The verb ---------------------------------------------------------------------------------------------------- */

static void print_json(const struct cli_command *command, const struct km_info *outcome) {
    struct cli_json json = cli_outcome_json(command, outcome);
    cli_json_string(&json, "mode", cli_text_mode(outcome->mode));
    if (outcome->mode != KM_RAW) {
        cli_json_number(&json, "max_size", outcome->max_size);
        if (outcome->mode == KM_TRANSACTIONAL)
            cli_json_number(&json, "journal_size", outcome->journal_size);
        cli_json_string(&json, "checksum", cli_text_checksum(outcome->checksum));
    }
    cli_json_close(&json, '}');
}

static void print_result(const struct cli_command *command, const struct km_info *outcome) {
    char size[CLI_TEXT_SIZE], max_size[CLI_TEXT_SIZE], journal[CLI_TEXT_SIZE];
    if (command->json) {
        print_json(command, outcome);
        return;
    }
    if (command->quiet)
        return;
    printf("created %s: %s of %sdata", command->shown, cli_text_bytes(size, outcome->size),
           outcome->mode == KM_LIVE  ? "live "
           : outcome->mode == KM_RAW ? "raw "
                                     : "");
    if (outcome->mode != KM_RAW && outcome->max_size != outcome->size)
        printf(" that can grow to %s", cli_text_size(max_size, outcome->max_size));
    if (outcome->mode == KM_TRANSACTIONAL)
        printf(", %s of journal", cli_text_size(journal, outcome->journal_size));
    if (outcome->mode != KM_RAW)
        printf(", checksum %s", cli_text_checksum(outcome->checksum));
    putchar('\n');
}

/** Keep an object backed by the paging file alive until its user is done with it. */
static void stay(const struct cli_command *command) {
    cli_stream_flush();
    if (!command->quiet)
        fprintf(stderr, "keepmap: %s ends when this does: press ENTER, or end standard input, when you are done\n",
                command->shown);
    cli_stream_await_line();
}

static int run(struct cli_command *command) {
    struct km_options options = {.flags = KM_CREATE | KM_EXCLUSIVE};
    int id;
    while ((id = cli_next_option(command)) > 0)
        if (!take_option(command, id, &options))
            return command->status;
    if (id < 0 || !options_hold(command, &options))
        return command->status;

    km_map *map;
    int status = cli_open(command, &map, &options);
    if (status)
        return status;
    const bool stays = cli_target_is_object(command->target);
    struct km_info outcome;
    status = cli_outcome_take(command, map, &outcome);
    if (status == CLI_DONE && stays) {
        print_result(command, &outcome);
        stay(command);
    }
    status = cli_close(command, map, status, "the map was created");
    if (status == CLI_DONE && !stays)
        print_result(command, &outcome);
    return status;
}

const struct cli_verb cli_verb_create = {
    .name = "create",
    .arguments = "TARGET --size SIZE",
    .argument_count = 1,
    .summary = "make a new map",
    .description =
        "Make a new map: a file whose data is SIZE bytes of zeros, or those of a file. It appears whole or\n"
        "not at all. A map named Local\\NAME or Global\\NAME is backed by the paging file and ends with its\n"
        "last user; so the command stays until ENTER is pressed or its standard input ends.",
    .options = create_options,
    .option_count = sizeof create_options / sizeof *create_options,
    .example = "  keepmap create state.km --size 64M --schema counter:3",
    .run = run,
};
