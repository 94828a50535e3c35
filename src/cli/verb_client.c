/* SPDX-License-Identifier: MIT
 *
 * keepmap client: shows the message that a server left, and stays until its user is done. It opens without write
 * permission, and never shows the map between its creation and the message: a map without a commit, and one, or a
 * section, that begins with a NUL, have none yet.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "message.h"
#include "outcome.h"
#include "stream.h"

enum { OPTION_WAIT = 256, OPTION_TIMEOUT };
enum { LOOK_EVERY_MS = 50, PATIENCE_MS = 10000 };

static const struct cli_option client_options[] = {
    {"wait", NULL, OPTION_WAIT, "wait for the server, if it is not there yet"},
    {"timeout", "SECONDS", OPTION_TIMEOUT,
     "how long the server and its message are waited for, and others\n(default: 10; with --wait: forever)"},
};

/** One call: what it waits for, and what it found. */
struct listening {
    struct cli_command *command;
    bool wait;
    uint64_t deadline_ns; /* UINT64_MAX: never */
    unsigned char bytes[CLI_MESSAGE_ROOM];
    size_t length;
};

/* Beside exit statuses: look again from the start. */
enum { LOOK_AGAIN = -1 };

/** Milliseconds that are left; UINT32_MAX is for ever. */
static uint32_t left_ms(const struct listening *listening) {
    if (listening->deadline_ns == UINT64_MAX)
        return UINT32_MAX;
    const uint64_t now_ns = cli_stream_clock_ns();
    return now_ns >= listening->deadline_ns ? 0 : (uint32_t)((listening->deadline_ns - now_ns + 999999) / 1000000);
}

/** Whether time is left; a little of it has gone by then. */
static bool pause_a_little(const struct listening *listening) {
    const uint32_t left = left_ms(listening);
    if (left > 0)
        cli_stream_pause_ms(left < LOOK_EVERY_MS ? left : LOOK_EVERY_MS);
    return left > 0;
}

/* ---- Finding the map --------------------------------------------------------------------------------------------- */

/** What can be there a moment later: a file that was not made yet, is just being made, or was just made anew. */
static bool is_too_early(const struct listening *listening, int error) {
    return listening->wait &&
           (error == KM_ENOTFOUND || error == KM_ESTALE || (error == KM_EEMPTY && listening->command->raw));
}

static int find(struct listening *listening, km_map **map) {
    for (;;) {
        struct km_options options = {.flags = KM_READONLY};
        const int error = cli_try_open(listening->command, map, &options);
        if (error == 0)
            return CLI_DONE;
        if (!is_too_early(listening, error))
            return cli_fail(listening->command, error);
        if (!pause_a_little(listening))
            return cli_fail_text(listening->command, km_error_exit_status(KM_ENOTFOUND),
                                 "no server came in the time that --timeout gives: start 'keepmap server' for it");
    }
}

/* ---- Reading the message ----------------------------------------------------------------------------------------- */

static int no_message(const struct listening *listening) {
    return cli_fail_text(listening->command, CLI_NO,
                         "there is no message in it, and none came in time: see whether its server is at work, or give "
                         "it longer with --timeout");
}

/** A map that was made anew meanwhile is looked for again. */
static int failed(const struct listening *listening, int error) {
    return is_too_early(listening, error) && pause_a_little(listening) ? LOOK_AGAIN
                                                                       : cli_fail(listening->command, error);
}

static void take_bytes(struct listening *listening, km_map *map) {
    const uint64_t size = km_size(map);
    listening->length = size < CLI_MESSAGE_ROOM ? (size_t)size : CLI_MESSAGE_ROOM;
    memcpy(listening->bytes, km_data(map), listening->length);
}

/** From a map: the newest commit, once there is one that begins with a message. */
static int read_map(struct listening *listening, km_map *map) {
    uint64_t seen = 0;
    do {
        int error = km_wait(map, seen, left_ms(listening), NULL);
        if (error == KM_ETIMEOUT)
            return no_message(listening);
        if (error == 0)
            error = km_begin(map, KM_READ);
        if (error)
            return failed(listening, error);
        seen = km_generation(map);
        take_bytes(listening, map);
        error = km_abort(map);
        if (error)
            return failed(listening, error);
    } while (listening->bytes[0] == '\0');
    return CLI_DONE;
}

/** From raw bytes: what stands there once the first unit does. */
static int read_raw(struct listening *listening, km_map *map) {
    if (km_size(map) < sizeof(uint16_t))
        return no_message(listening);
    _Atomic uint16_t *first = km_data(map);
    while (atomic_load_explicit(first, memory_order_acquire) == 0) {
        struct km_info info = {.struct_size = sizeof info};
        const int error = km_get_info(map, &info);
        if (error)
            return failed(listening, error);
        if (!pause_a_little(listening))
            return no_message(listening);
    }
    take_bytes(listening, map);
    return CLI_DONE;
}

/** Open the map and take its message. 0 with the map open, LOOK_AGAIN, or an exit status. */
static int attach(struct listening *listening, km_map **map) {
    struct cli_command *command = listening->command;
    struct km_info before;
    int status = find(listening, map);
    if (status)
        return status;
    status = cli_outcome_take(command, *map, &before);
    if (status == CLI_DONE)
        status = command->raw ? read_raw(listening, *map) : read_map(listening, *map);
    if (status == CLI_DONE)
        status = cli_check_whole(command, *map, &before);
    if (status != CLI_DONE)
        km_close(*map);
    return status;
}

static int show(const struct listening *listening) {
    char *words = cli_message_decode(listening->bytes, listening->length, listening->command->raw);
    if (words == NULL)
        return cli_fail_memory(listening->command);
    cli_message_line("The file mapping (%s) is opened", listening->command->shown);
    cli_message_line("The file view is mapped");
    cli_message_line("Read from the file mapping:");
    cli_message_line("\"%s\"", words);
    free(words);
    cli_message_press_enter();
    return CLI_DONE;
}

static int run(struct cli_command *command) {
    static struct listening listening;
    listening.command = command;
    int id;
    while ((id = cli_next_option(command)) > 0)
        listening.wait = true;
    if (id < 0)
        return command->status;
    const uint32_t unless_given = listening.wait ? UINT32_MAX : PATIENCE_MS;
    const uint32_t patience_ms = command->timeout_ms ? command->timeout_ms : unless_given;
    listening.deadline_ns =
        patience_ms == UINT32_MAX ? UINT64_MAX : cli_stream_clock_ns() + (uint64_t)patience_ms * 1000000;

    km_map *map;
    int status = cli_check_output(command);
    if (status)
        return status;
    status = LOOK_AGAIN;
    while (status == LOOK_AGAIN)
        status = attach(&listening, &map);
    if (status)
        return status;
    status = show(&listening);
    return cli_close(command, map, status, "nothing was changed");
}

const struct cli_verb cli_verb_client = {
    .name = "client",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "show the message of server, and wait for ENTER",
    .description =
        "Open the map that 'keepmap server' made, show its message, and wait for ENTER, or the end of standard\n"
        "input. With --raw the message is the UTF-16 text, up to a NUL, at the start of a section or file that\n"
        "any program may have made. Never changes the file.",
    .options = client_options,
    .option_count = sizeof client_options / sizeof *client_options,
    .no = "there is no message in it, and none came in time",
    .no_json = true,
    .example = "  keepmap client 'Local\\SampleMap' --wait",
    .run = run,
};
