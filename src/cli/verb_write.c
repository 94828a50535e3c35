/* SPDX-License-Identifier: MIT
 *
 * keepmap write: standard input becomes one commit. The input is read straight into the view of an open write
 * transaction, so nothing of it counts before all of it is there.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "progress.h"
#include "outcome.h"
#include "stream.h"
#include "text.h"

enum { OPTION_OFFSET = 256, OPTION_LAZY };

static const struct cli_option write_options[] = {
    {"offset", "N", OPTION_OFFSET, "where the input goes, in bytes from the start of the data (default: 0)"},
    {"lazy", NULL, OPTION_LAZY,
     "do not wait for the disk: the commit is atomic and visible at once,\nbut a power cut may take the map back to an "
     "earlier commit\n(the last to close the map makes it durable in any case)"},
};

/** Read all of standard input to `offset`. `*length` becomes how much came. */
static int take_input(struct cli_command *command, km_map *map, uint64_t offset, uint64_t *length) {
    const uint64_t size = km_size(map);
    if (offset > size)
        return cli_fail_text(command, CLI_USAGE,
                             "--offset %" PRIu64 " is beyond the end: the map holds %" PRIu64 " bytes", offset, size);
    if (!command->quiet && cli_stream_input_terminal())
        fputs("keepmap: reading standard input: end it with Ctrl-D, or give up with Ctrl-C\n", stderr);
    struct cli_progress progress;
    cli_progress_start(&progress, "write", !command->quiet);
    unsigned char *data = km_data(map);
    const uint64_t expected = cli_stream_input_size(), room = size - offset;
    size_t got = 1;
    int error = 0;
    *length = 0;
    while (error == 0 && got > 0 && *length < room) {
        error = cli_stream_read(data + offset + *length, (size_t)(room - *length), &got);
        *length += got;
        cli_progress_update(&progress, *length, expected);
    }
    char beyond;
    got = 0;
    if (error == 0 && *length == room)
        error = cli_stream_read(&beyond, 1, &got);
    cli_progress_clear(&progress);
    if (error == EFAULT)
        return cli_fail_text(command, CLI_SYSTEM, "the map's file was cut short, or memory is exhausted");
    if (error)
        return cli_fail_text(command, CLI_SYSTEM, "cannot read standard input: %s: nothing was changed",
                             strerror(error));
    if (got > 0)
        return cli_fail_text(command, CLI_USAGE,
                             "the input is longer than the %" PRIu64 " bytes from offset %" PRIu64
                             " to the end of the map: nothing was changed",
                             room, offset);
    return CLI_DONE;
}

/** One write transaction, from its begin to its end. */
static int write_input(struct cli_command *command, km_map *map, uint64_t offset, uint64_t *length) {
    int error = km_begin(map, KM_WRITE);
    if (error)
        return cli_fail(command, error);
    int status = take_input(command, map, offset, length);
    if (status == CLI_DONE) {
        error = km_commit(map);
        if (error == 0)
            return CLI_DONE;
        status = cli_fail(command, error);
    }
    km_abort(map); /* the map may have ended the transaction itself; then this is refused, and nothing is lost */
    return status;
}

static void print_result(const struct cli_command *command, uint64_t generation, uint64_t size, uint64_t length,
                         bool lazy) {
    char text[CLI_TEXT_SIZE];
    if (command->json) {
        struct cli_json json = cli_outcome_json(command, generation, size);
        cli_json_number(&json, "written", length);
        cli_json_bool(&json, "lazy", lazy);
        cli_json_close(&json, '}');
    } else if (!command->quiet) {
        printf("wrote %s to %s: generation %" PRIu64 "\n", cli_text_bytes(text, length), command->shown, generation);
    }
}

static int run(struct cli_command *command) {
    uint64_t offset = 0, length = 0;
    struct km_options options = {.flags = 0};
    int id;
    while ((id = cli_next_option(command)) > 0) {
        if (id == OPTION_LAZY)
            options.flags |= KM_LAZY;
        else if (!cli_take_offset(command, &offset))
            return command->status;
    }
    if (id < 0)
        return command->status;

    km_map *map;
    int status = cli_open(command, &map, &options);
    if (status)
        return status;
    status = write_input(command, map, offset, &length);
    const uint64_t generation = km_generation(map), size = km_size(map);
    const bool lazy = (options.flags & KM_LAZY) != 0;
    status =
        cli_close(command, map, status,
                  lazy ? "what was committed is visible, but perhaps not durable" : "what was committed is durable");
    if (status == CLI_DONE)
        print_result(command, generation, size, length, lazy);
    return status;
}

const struct cli_verb cli_verb_write = {
    .name = "write",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "make standard input one commit",
    .description = "Read standard input to its end into the map's data, and commit it: all or nothing. Input that is\n"
                   "longer than the map changes nothing. Other writers wait until the input has ended.",
    .options = write_options,
    .option_count = sizeof write_options / sizeof *write_options,
    .example = "  echo 'hello' | keepmap write state.km --offset 4K",
    .run = run,
};
