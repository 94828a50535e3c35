/* SPDX-License-Identifier: MIT
 *
 * keepmap sync: every commit up to now becomes durable.
 */
#include <inttypes.h>
#include <stdio.h>

#include "command.h"
#include "outcome.h"

static void print_result(const struct cli_command *command, const struct km_info *outcome) {
    if (command->json) {
        struct cli_json json = cli_outcome_json(command, outcome);
        if (outcome->mode != KM_RAW)
            cli_json_number(&json, "durable_generation", outcome->durable_generation);
        cli_json_close(&json, '}');
    } else if (!command->quiet) {
        if (outcome->mode == KM_RAW)
            printf("%s is durable\n", command->shown);
        else
            printf("%s is %s up to generation %" PRIu64 "\n", command->shown,
                   outcome->mode == KM_LIVE ? "durable and sealed" : "durable", outcome->durable_generation);
    }
}

static int run(struct cli_command *command) {
    if (cli_next_option(command) < 0)
        return command->status;
    km_map *map;
    struct km_options options = {.flags = 0};
    int status = cli_open(command, &map, &options);
    if (status)
        return status;
    struct km_info outcome;
    const int error = km_sync(map);
    status = error ? cli_fail(command, error) : cli_outcome_take(command, map, &outcome);
    status = cli_close(command, map, status, "what was committed is durable");
    if (status == CLI_DONE)
        print_result(command, &outcome);
    return status;
}

const struct cli_verb cli_verb_sync = {
    .name = "sync",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "make all commits durable, lazy ones too",
    .description =
        "Wait until every commit up to now is on the disk, whoever made it, lazily or not. A live map is sealed:\n"
        "what was stored becomes durable, and its checksums are brought up to date.",
    .example = "  keepmap sync state.km",
    .run = run,
};
