/* SPDX-License-Identifier: MIT
 *
 * keepmap grow: more bytes of data, as a commit of its own.
 */
#include <inttypes.h>
#include <stdio.h>

#include "command.h"
#include "outcome.h"
#include "text.h"

static void print_result(const struct cli_command *command, const struct km_info *outcome) {
    char text[CLI_TEXT_SIZE];
    if (command->json) {
        struct cli_json json = cli_outcome_json(command, outcome);
        cli_json_number(&json, "max_size", outcome->max_size);
        cli_json_close(&json, '}');
    } else if (!command->quiet) {
        printf("%s holds %s now: generation %" PRIu64 "\n", command->shown, cli_text_bytes(text, outcome->size),
               outcome->generation);
    }
}

static int run(struct cli_command *command) {
    if (cli_next_option(command) < 0)
        return command->status;
    uint64_t size;
    const char *wrong = cli_parse_size(command->argument, &size);
    if (wrong)
        return cli_fail_usage(command, "'%s' %s", command->argument, wrong), command->status;

    km_map *map;
    struct km_options options = {.flags = 0};
    int status = cli_open(command, &map, &options);
    if (status)
        return status;
    struct km_info outcome;
    const int error = km_grow(map, size);
    status = error ? cli_fail(command, error) : cli_outcome_take(command, map, &outcome);
    status = cli_close(command, map, status, "the map has its new size");
    if (status == CLI_DONE)
        print_result(command, &outcome);
    return status;
}

const struct cli_verb cli_verb_grow = {
    .name = "grow",
    .arguments = "TARGET SIZE",
    .argument_count = 2,
    .summary = "give a map more bytes of data",
    .description =
        "Make the map's data SIZE bytes long, as a commit of its own; the new bytes are zeros. Up to the map's\n"
        "max-size it happens whoever has it open; beyond it nobody else may. A map never shrinks.",
    .example = "  keepmap grow state.km 128M",
    .run = run,
};
