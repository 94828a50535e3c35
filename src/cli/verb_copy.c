/* SPDX-License-Identifier: MIT
 *
 * keepmap copy: a map as it stands at one commit becomes a file of its own, while others go on working.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "outcome.h"
#include "text.h"

/** What the copy says about itself: the commit that was copied is the one that it is at. */
static int look_at_copy(const struct cli_command *command, struct km_info *outcome) {
    struct cli_command about_copy = *command;
    about_copy.target = command->argument;
    struct km_options options = {.flags = KM_READONLY};
    km_map *copy;
    int status = cli_open(&about_copy, &copy, &options);
    if (status)
        return status;
    status = cli_outcome_take(&about_copy, copy, outcome);
    return cli_close(&about_copy, copy, status, "the copy was made");
}

static void print_result(const struct cli_command *command, const struct km_info *outcome) {
    char text[CLI_TEXT_SIZE], copy[sizeof command->shown];
    if (command->json) {
        struct cli_json json = cli_outcome_json(command, outcome);
        cli_json_string(&json, "copy", command->argument);
        cli_json_string(&json, "mode", cli_text_mode(outcome->mode));
        cli_json_close(&json, '}');
    } else if (!command->quiet) {
        snprintf(copy, sizeof copy, "%s", command->argument);
        cli_text_sanitize(copy, strlen(copy));
        printf("copied %s to %s: %s", command->shown, copy, cli_text_bytes(text, outcome->size));
        if (outcome->mode != KM_RAW)
            printf(", generation %" PRIu64, outcome->generation);
        putchar('\n');
    }
}

static int run(struct cli_command *command) {
    if (cli_next_option(command) < 0)
        return command->status;
    if (command->argument[0] == '\0')
        return cli_fail_usage(command, "the path of the copy is empty"), command->status;
    if (strcmp(command->argument, "-") == 0)
        return cli_fail_usage(command, "a copy is a file and cannot go to standard output, as 'keepmap read' does (a "
                                       "file of that name is ./-)"),
               command->status;

    km_map *map;
    struct km_options options = {.flags = KM_READONLY};
    int status = cli_open(command, &map, &options);
    if (status)
        return status;
    const int error = km_copy(map, command->argument);
    if (error)
        status = cli_fail(command, error);
    status = cli_close(command, map, status, "the copy was made");
    struct km_info outcome;
    if (status == CLI_DONE)
        status = look_at_copy(command, &outcome);
    if (status == CLI_DONE)
        print_result(command, &outcome);
    return status;
}

const struct cli_verb cli_verb_copy = {
    .name = "copy",
    .arguments = "TARGET DEST",
    .argument_count = 2,
    .summary = "make a copy while others go on working",
    .description =
        "Make a new file of the map as it stands at one commit, whatever others commit meanwhile. The copy is a\n"
        "map of its own, checked page by page on the way, and appears whole or not at all. Holes stay holes,\n"
        "and where the file system can share blocks between files it does. With --raw: the bytes alone.",
    .example = "  keepmap copy state.km backup.km",
    .run = run,
};
