/* SPDX-License-Identifier: MIT
 *
 * Opening and closing the map that a command is about.
 */
#include "command.h"
#include "stream.h"

int cli_open(struct cli_command *command, km_map **map, struct km_options *options) {
    options->struct_size = sizeof *options;
    options->timeout_ms = command->timeout_ms;
    options->schema = command->schema;
    options->schema_version = command->schema_version;
    if (command->any_filesystem)
        options->flags |= KM_ANY_FILESYSTEM;
    if (cli_stream_output_is(command->target))
        return cli_fail_text(command, CLI_USAGE, "standard output goes into the map itself: redirect it elsewhere");
    const int error = km_open(map, command->target, options);
    return error ? cli_fail(command, error) : CLI_DONE;
}

int cli_close(const struct cli_command *command, km_map *map, int status, const char *done) {
    const int error = km_close(map);
    if (status != CLI_DONE || error == 0 || error == KM_EBUSY)
        return status;
    return cli_fail_closing(command, error, done);
}
