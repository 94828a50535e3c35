/* SPDX-License-Identifier: MIT
 *
 * The outcome of the verbs that change a map.
 */
#include "outcome.h"

int cli_outcome_take(const struct cli_command *command, km_map *map, struct km_info *outcome) {
    *outcome = (struct km_info){.struct_size = sizeof *outcome};
    const int error = km_get_info(map, outcome);
    return error ? cli_fail(command, error) : CLI_DONE;
}

struct cli_json cli_outcome_json(const struct cli_command *command, const struct km_info *outcome) {
    struct cli_json json = cli_json_start(command->target);
    if (outcome->mode != KM_RAW)
        cli_json_number(&json, "generation", outcome->generation);
    cli_json_number(&json, "size", outcome->size);
    return json;
}
