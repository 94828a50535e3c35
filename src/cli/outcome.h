/* SPDX-License-Identifier: MIT
 *
 * The outcome of the verbs that change a map: one line, or one JSON object.
 */
#ifndef CLI_OUTCOME_H
#define CLI_OUTCOME_H

#include <stdint.h>

#include "command.h"
#include "json.h"

/** What a verb did, with what is worth knowing of the map then. */
struct cli_outcome {
    uint64_t generation; /* newest visible commit */
    uint64_t durable_generation;
    uint64_t checkpoint_generation;
    uint64_t size;
    uint64_t max_size;
    uint64_t journal_size;
    uint32_t checksum;
};

/** Ask an open map. 0, or an exit status after the error was printed. */
int cli_outcome_take(const struct cli_command *command, km_map *map, struct cli_outcome *outcome);

/** Begin the JSON object with target, generation and size; the caller adds to it and closes it. */
void cli_outcome_json(const struct cli_command *command, const struct cli_outcome *outcome, struct cli_json *json);

#endif
