/* SPDX-License-Identifier: MIT
 *
 * keepmap write: standard input becomes one commit. The input is read straight into the view of an open write
 * transaction, so nothing of it counts before all of it is there. Stores into live and raw maps are seen at once:
 * there, all of the input is in memory before the first of them.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "outcome.h"
#include "progress.h"
#include "stream.h"
#include "text.h"

enum { OPTION_OFFSET = 256, OPTION_LAZY };

static const struct cli_option write_options[] = {
    {"offset", "N", OPTION_OFFSET, "where the input goes, in bytes from the start of the data (default: 0)"},
    {"lazy", NULL, OPTION_LAZY,
     "do not wait for the disk: the commit is atomic and visible at once,\nbut a power cut may take the map back to an "
     "earlier commit\n(the last to close the map makes it durable in any case)"},
};

/** What one call is about. */
struct writing {
    struct cli_command *command;
    km_map *map;
    uint64_t offset;
    uint64_t length; /* bytes of input, once it has ended */
    bool lazy;
    unsigned char *spool; /* live, raw: the input; otherwise it goes into the data */
    size_t spool_size;
};

/* ---- Input ------------------------------------------------------------------------------------------------------- */

static int refuse_offset(const struct writing *writing, uint64_t size) {
    return cli_fail_text(writing->command, CLI_USAGE,
                         "--offset %" PRIu64 " is beyond the end: the map holds %" PRIu64 " bytes", writing->offset,
                         size);
}

/** Where the next bytes of input go, and how many of them at most. NULL when there is no memory. */
static unsigned char *next_place(struct writing *writing, uint64_t room, size_t *length) {
    const uint64_t rest = room - writing->length;
    *length = rest < SIZE_MAX ? (size_t)rest : SIZE_MAX;
    if (writing->spool == NULL)
        return (unsigned char *)km_data(writing->map) + writing->offset + writing->length;
    if (writing->length == writing->spool_size) {
        unsigned char *longer = realloc(writing->spool, writing->spool_size * 2);
        if (longer == NULL)
            return NULL;
        writing->spool = longer;
        writing->spool_size *= 2;
    }
    const size_t left = writing->spool_size - (size_t)writing->length;
    *length = *length < left ? *length : left;
    return writing->spool + writing->length;
}

/** Read all of standard input, which must not be longer than `room`. 0, or an errno value; ERANGE: it is longer. */
static int read_input(struct writing *writing, uint64_t room) {
    struct cli_progress progress;
    cli_progress_start(&progress, "write", !writing->command->quiet);
    const uint64_t expected = cli_stream_input_size();
    size_t got = 1, length = 0;
    int error = 0;
    writing->length = 0;
    while (error == 0 && got > 0 && writing->length < room) {
        unsigned char *place = next_place(writing, room, &length);
        error = place == NULL ? ENOMEM : cli_stream_read(place, length, &got);
        writing->length += error == 0 ? got : 0;
        cli_progress_update(&progress, writing->length, expected);
    }
    char beyond;
    got = 0;
    if (error == 0 && writing->length == room)
        error = cli_stream_read(&beyond, 1, &got);
    cli_progress_clear(&progress);
    return error == 0 && got > 0 ? ERANGE : error;
}

/** The same with its messages. 0 or an exit status. */
static int take_input(struct writing *writing) {
    struct cli_command *command = writing->command;
    const uint64_t size = km_size(writing->map);
    if (writing->offset > size)
        return refuse_offset(writing, size);
    if (!command->quiet && cli_stream_input_terminal())
        fputs("keepmap: reading standard input: end it with Ctrl-D, or give up with Ctrl-C\n", stderr);
    const uint64_t room = size - writing->offset;
    const int error = read_input(writing, room);
    if (error == EFAULT)
        return cli_fail_text(command, CLI_SYSTEM, "the map's file was cut short, or memory is exhausted");
    if (error == ENOMEM)
        return cli_fail_text(command, CLI_SYSTEM,
                             "not enough memory for the input, which must be complete before it goes into a %s map: "
                             "write it in parts, with --offset: nothing was changed",
                             cli_text_mode(command->raw ? KM_RAW : KM_LIVE));
    if (error == ERANGE)
        return cli_fail_text(command, CLI_USAGE,
                             "the input is longer than the %" PRIu64 " bytes from offset %" PRIu64
                             " to the end of the map: nothing was changed",
                             room, writing->offset);
    if (error)
        return cli_fail_text(command, CLI_SYSTEM, "cannot read standard input: %s: nothing was changed",
                             strerror(error));
    return CLI_DONE;
}

static int take_spool(struct writing *writing) {
    writing->spool_size = 64 << 10;
    writing->spool = malloc(writing->spool_size);
    return writing->spool ? take_input(writing) : cli_fail_memory(writing->command);
}

/* ---- The kinds of maps ------------------------------------------------------------------------------------------- */

/** One write transaction, from its begin to its end. */
static int write_commit(struct writing *writing) {
    int error = km_begin(writing->map, KM_WRITE);
    if (error)
        return cli_fail(writing->command, error);
    int status = take_input(writing);
    if (status == CLI_DONE) {
        error = km_commit(writing->map);
        if (error == 0)
            return CLI_DONE;
        status = cli_fail(writing->command, error);
    }
    km_abort(
        writing->map); /* the map may have ended the transaction itself; then this is refused, and nothing is lost */
    return status;
}

static void store(const struct writing *writing) {
    memcpy((unsigned char *)km_data(writing->map) + writing->offset, writing->spool, (size_t)writing->length);
}

/** Under the writer's lock of a live map. */
static int write_live(struct writing *writing) {
    const struct cli_command *command = writing->command;
    int status = take_spool(writing);
    if (status)
        return status;
    int error = km_begin(writing->map, KM_WRITE);
    if (error == KM_EABANDONED)
        fprintf(stderr,
                "keepmap: %s %s: the last writer died inside its transaction, its stores may be half done: they stay, "
                "and after this commit the data counts as good again\n",
                command->verb->name, command->shown);
    else if (error)
        return cli_fail(command, error);
    store(writing);
    error = km_commit(writing->map);
    if (error == 0 && !writing->lazy)
        error = km_sync(writing->map);
    if (error == 0)
        return CLI_DONE;
    status = cli_fail(command, error);
    km_abort(writing->map); /* refused if the transaction is over, as it is after most errors */
    return status;
}

static int write_raw(struct writing *writing) {
    const int status = take_spool(writing);
    if (status)
        return status;
    store(writing);
    const int error = writing->lazy ? 0 : km_sync(writing->map);
    return error ? cli_fail(writing->command, error) : CLI_DONE;
}

/* ---- The verb ---------------------------------------------------------------------------------------------------- */

static void print_result(const struct writing *writing, const struct km_info *outcome) {
    const struct cli_command *command = writing->command;
    char text[CLI_TEXT_SIZE];
    if (command->json) {
        struct cli_json json = cli_outcome_json(command, outcome);
        cli_json_number(&json, "written", writing->length);
        cli_json_bool(&json, "lazy", writing->lazy);
        cli_json_close(&json, '}');
    } else if (!command->quiet) {
        printf("wrote %s to %s", cli_text_bytes(text, writing->length), command->shown);
        if (outcome->mode != KM_RAW)
            printf(": generation %" PRIu64, outcome->generation);
        putchar('\n');
    }
}

/** Write into the open map, of whatever kind, and find out how it stands then. */
static int write_map(struct writing *writing, struct km_info *outcome) {
    int status = cli_outcome_take(writing->command, writing->map, outcome);
    if (status)
        return status;
    switch (outcome->mode) {
    case KM_LIVE:
        status = write_live(writing);
        break;
    case KM_RAW:
        status = write_raw(writing);
        break;
    default:
        status = write_commit(writing);
        break;
    }
    free(writing->spool);
    if (status == CLI_DONE && outcome->mode != KM_TRANSACTIONAL)
        status = cli_check_whole(writing->command, writing->map, outcome);
    outcome->generation = km_generation(writing->map); /* of this commit, whoever made another meanwhile */
    outcome->size = km_size(writing->map);
    return status;
}

static const char *what_stands(const struct writing *writing, uint32_t mode) {
    if (mode != KM_TRANSACTIONAL)
        return writing->lazy ? "what was written is in place, but perhaps not durable" : "what was written is durable";
    return writing->lazy ? "what was committed is visible, but perhaps not durable" : "what was committed is durable";
}

static int run(struct cli_command *command) {
    struct writing writing = {.command = command};
    struct km_options options = {.flags = 0};
    int id;
    while ((id = cli_next_option(command)) > 0) {
        if (id == OPTION_LAZY)
            writing.lazy = true;
        else if (!cli_take_offset(command, &writing.offset))
            return command->status;
    }
    if (id < 0)
        return command->status;
    options.flags = writing.lazy ? KM_LAZY : 0;

    int status = cli_open(command, &writing.map, &options);
    if (status)
        return status;
    struct km_info outcome;
    status = write_map(&writing, &outcome);
    status = cli_close(command, writing.map, status, what_stands(&writing, outcome.mode));
    if (status == CLI_DONE)
        print_result(&writing, &outcome);
    return status;
}

const struct cli_verb cli_verb_write = {
    .name = "write",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "make standard input one commit",
    .description =
        "Read standard input to its end into the map's data, and commit it: all or nothing. Input that is\n"
        "longer than the map changes nothing. Other writers wait until the input has ended. Into a live map,\n"
        "and with --raw, the input is stored once it has ended, and then made durable.",
    .options = write_options,
    .option_count = sizeof write_options / sizeof *write_options,
    .example = "  echo 'hello' | keepmap write state.km --offset 4K",
    .run = run,
};
