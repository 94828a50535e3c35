/* SPDX-License-Identifier: MIT
 *
 * keepmap checkpoint: what stands in the journal goes home, as far as no reader holds it back.
 */
#include <inttypes.h>
#include <stdio.h>

#include "command.h"
#include "outcome.h"

static void print_words(const struct cli_command *command, const struct km_info *outcome) {
    if (outcome->mode == KM_LIVE) {
        printf("%s is durable and sealed up to generation %" PRIu64 "\n", command->shown,
               outcome->checkpoint_generation);
        return;
    }
    printf("%s is checkpointed up to generation %" PRIu64, command->shown, outcome->checkpoint_generation);
    if (outcome->checkpoint_generation < outcome->generation)
        printf(" of %" PRIu64 ": a reader holds back the rest, or commits were made meanwhile", outcome->generation);
    putchar('\n');
}

static void print_result(const struct cli_command *command, const struct km_info *outcome) {
    if (command->json) {
        struct cli_json json = cli_outcome_json(command, outcome);
        cli_json_number(&json, "checkpoint_generation", outcome->checkpoint_generation);
        cli_json_close(&json, '}');
    } else if (!command->quiet) {
        print_words(command, outcome);
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
    const int error = km_checkpoint(map);
    status = error ? cli_fail(command, error) : cli_outcome_take(command, map, &outcome);
    status = cli_close(command, map, status, "what was committed stands in the journal");
    if (status == CLI_DONE)
        print_result(command, &outcome);
    return status;
}

const struct cli_verb cli_verb_checkpoint = {
    .name = "checkpoint",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "bring the data region up to date and free the journal",
    .description =
        "Write what stands in the journal into the data region, up to the newest commit that no reader holds\n"
        "back, so that the journal can be used again. Happens by itself when half the journal is used and\n"
        "when the last writer closes the map. In a live map it does the same as sync.",
    .example = "  keepmap checkpoint state.km",
    .run = run,
};
