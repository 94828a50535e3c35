/* SPDX-License-Identifier: MIT
 *
 * Opening and closing the map that a command is about.
 */
#include <string.h>

#include "command.h"
#include "stream.h"

bool cli_target_is_object(const char *target) {
    return strncmp(target, "Local\\", 6) == 0 || strncmp(target, "Global\\", 7) == 0;
}

int cli_try_open(struct cli_command *command, km_map **map, struct km_options *options) {
    options->struct_size = sizeof *options;
    options->timeout_ms = command->timeout_ms;
    options->flags |= KM_GUARD;
    if (command->schema) {
        options->schema = command->schema;
        options->schema_version = command->schema_version;
    }
    if (command->raw)
        options->mode = KM_RAW;
    if (command->any_filesystem)
        options->flags |= KM_ANY_FILESYSTEM;
    return km_open(map, command->target, options);
}

int cli_check_output(const struct cli_command *command) {
    if (!cli_target_is_object(command->target) && cli_stream_output_is(command->target))
        return cli_fail_text(command, CLI_USAGE, "standard output goes into the map itself: redirect it elsewhere");
    return CLI_DONE;
}

int cli_open(struct cli_command *command, km_map **map, struct km_options *options) {
    const int status = cli_check_output(command);
    if (status)
        return status;
    const int error = cli_try_open(command, map, options);
    return error ? cli_fail(command, error) : CLI_DONE;
}

int cli_check_whole(const struct cli_command *command, km_map *map, const struct km_info *before) {
    struct km_info now = {.struct_size = sizeof now};
    const int error = km_get_info(map, &now);
    if (error)
        return cli_fail(command, error);
    if (now.file_size < before->file_size)
        return cli_fail_text(command, CLI_SYSTEM,
                             "the file was cut short while it was in use: restore it from a copy, and do not trust "
                             "what was read meanwhile");
    return CLI_DONE;
}

int cli_close(const struct cli_command *command, km_map *map, int status, const char *done) {
    const int error = km_close(map);
    if (status != CLI_DONE || error == 0 || error == KM_EBUSY)
        return status;
    return cli_fail_closing(command, error, done);
}
