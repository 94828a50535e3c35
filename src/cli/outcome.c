/* SPDX-License-Identifier: MIT
 *
 * The outcome of the verbs that change a map.
 */
#include "outcome.h"

#include <stdio.h>

int cli_outcome_take(const struct cli_command *command, km_map *map, struct cli_outcome *outcome) {
    struct km_info info = {.struct_size = sizeof info};
    const int error = km_get_info(map, &info);
    if (error)
        return cli_fail(command, error);
    *outcome = (struct cli_outcome){
        .generation = info.generation,
        .durable_generation = info.durable_generation,
        .checkpoint_generation = info.checkpoint_generation,
        .size = info.size,
        .max_size = info.max_size,
        .journal_size = info.journal_size,
        .checksum = info.checksum,
    };
    return CLI_DONE;
}

void cli_outcome_json(const struct cli_command *command, const struct cli_outcome *outcome, struct cli_json *json) {
    *json = (struct cli_json){.stream = stdout};
    cli_json_open(json, NULL, '{');
    cli_json_string(json, "target", command->target);
    cli_json_number(json, "generation", outcome->generation);
    cli_json_number(json, "size", outcome->size);
}
