/* SPDX-License-Identifier: MIT
 *
 * The outcome of the verbs that change a map: one line, or one JSON object.
 */
#ifndef CLI_OUTCOME_H
#define CLI_OUTCOME_H

#include "command.h"
#include "json.h"

/** Ask an open map how it stands now. 0, or an exit status after the error was printed. */
int cli_outcome_take(const struct cli_command *command, km_map *map, struct km_info *outcome);

/** Begin the JSON object with target, generation (raw bytes have none) and size; the caller adds to it and closes
 *  it. */
struct cli_json cli_outcome_json(const struct cli_command *command, const struct km_info *outcome);

#endif
