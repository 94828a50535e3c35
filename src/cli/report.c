/* SPDX-License-Identifier: MIT
 *
 * The short report of the verbs that change a map.
 */
#include "report.h"

#include <stdio.h>

int cli_report_take(const struct cli_command *command, km_map *map, struct cli_report *report) {
    struct km_info info = {.struct_size = sizeof info};
    const int error = km_get_info(map, &info);
    if (error)
        return cli_fail(command, error);
    *report = (struct cli_report){
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

void cli_report_json(const struct cli_command *command, const struct cli_report *report, struct cli_json *json) {
    *json = (struct cli_json){.stream = stdout};
    cli_json_open(json, NULL, '{');
    cli_json_string(json, "target", command->target);
    cli_json_number(json, "generation", report->generation);
    cli_json_number(json, "size", report->size);
}
