/* SPDX-License-Identifier: MIT
 *
 * keepmap read: bytes of one generation to standard output, while others may go on committing. Live and raw bytes are
 * written out as they stand at that moment.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>

#include "command.h"
#include "outcome.h"
#include "progress.h"
#include "stream.h"

enum { OPTION_OFFSET = 256, OPTION_LENGTH };

static const struct cli_option read_options[] = {
    {"offset", "N", OPTION_OFFSET, "where to start, in bytes from the start of the data (default: 0)"},
    {"length", "N", OPTION_LENGTH, "how many bytes (default: up to the end)"},
};

static const uint64_t chunk_size = 1u << 20;

/** Write a range of the data out. In a transactional map the transaction keeps it at one generation. */
static int write_out(struct cli_command *command, km_map *map, uint64_t offset, uint64_t length) {
    struct cli_progress progress;
    cli_progress_start(&progress, "read", !command->quiet);
    const unsigned char *data = km_data(map);
    int error = 0;
    for (uint64_t done = 0; done < length && error == 0;) {
        const uint64_t chunk = length - done < chunk_size ? length - done : chunk_size;
        error = cli_stream_write(data + offset + done, (size_t)chunk);
        done += chunk;
        cli_progress_update(&progress, done, length);
    }
    cli_progress_clear(&progress);
    if (error == EFAULT)
        return cli_fail_text(command, CLI_SYSTEM,
                             "the file was cut short, or the disk failed, while it was being read");
    return error ? cli_stream_failed(error) : CLI_DONE;
}

/** Write out what was asked for, if the data holds it. */
static int read_range(struct cli_command *command, km_map *map, uint64_t offset, const uint64_t *wanted) {
    const uint64_t size = km_size(map);
    if (offset > size)
        return cli_fail_text(command, CLI_USAGE,
                             "--offset %" PRIu64 " is beyond the end: the map holds %" PRIu64 " bytes", offset, size);
    if (wanted && *wanted > size - offset)
        return cli_fail_text(command, CLI_USAGE,
                             "%" PRIu64 " bytes from offset %" PRIu64 " go beyond the end: the map holds %" PRIu64
                             " bytes",
                             *wanted, offset, size);
    return write_out(command, map, offset, wanted ? *wanted : size - offset);
}

/** The same inside a transaction, which raw bytes do not have; then a look whether all of it was there. */
static int read_map(struct cli_command *command, km_map *map, uint64_t offset, const uint64_t *wanted) {
    struct km_info before;
    int status = cli_outcome_take(command, map, &before);
    if (status)
        return status;
    const int error = command->raw ? 0 : km_begin(map, KM_READ);
    if (error)
        return cli_fail(command, error);
    status = read_range(command, map, offset, wanted);
    const int aborted = command->raw ? 0 : km_abort(map);
    if (status == CLI_DONE && aborted)
        status = cli_fail(command, aborted);
    return status == CLI_DONE ? cli_check_whole(command, map, &before) : status;
}

static int run(struct cli_command *command) {
    uint64_t offset = 0, length = 0;
    const uint64_t *wanted = NULL;
    int id;
    while ((id = cli_next_option(command)) > 0) {
        if (!cli_take_offset(command, id == OPTION_OFFSET ? &offset : &length))
            return command->status;
        if (id == OPTION_LENGTH)
            wanted = &length;
    }
    if (id < 0)
        return command->status;

    km_map *map;
    struct km_options options = {.flags = KM_READONLY};
    int status = cli_open(command, &map, &options);
    if (status)
        return status;
    status = read_map(command, map, offset, wanted);
    return cli_close(command, map, status, "nothing was changed");
}

const struct cli_verb cli_verb_read = {
    .name = "read",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "write the data of a map to standard output",
    .description =
        "Write bytes of the map's data to standard output: all of one commit, whatever others commit\n"
        "meanwhile. Never changes the file. While it runs, it holds back the checkpoint. Of a live map, and\n"
        "with --raw, the bytes are written as they stand when it comes to them.",
    .options = read_options,
    .option_count = sizeof read_options / sizeof *read_options,
    .no_json = true,
    .example = "  keepmap read state.km --offset 4K --length 64 | od -c",
    .run = run,
};
