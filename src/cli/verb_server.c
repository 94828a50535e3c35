/* SPDX-License-Identifier: MIT
 *
 * keepmap server: makes a map, or a raw section, leaves a message in it and stays until its user is done. With client
 * it is the classic pair of programs that share memory by name.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "message.h"
#include "outcome.h"
#include "text.h"

enum { OPTION_MESSAGE = 256 };

static const struct cli_option server_options[] = {
    {"message", "TEXT", OPTION_MESSAGE, "what to write (default: Message from the first process.)"},
    {"schema", "NAME:VERSION", 0, "of the map (default: message:1)"},
};

/* Known by its schema, a map of an earlier server is made anew; other maps are not touched. */
static const char *const default_schema = "message";

/* ---- The map ----------------------------------------------------------------------------------------------------- */

/** The path is taken by a map: replace it if it is one of an earlier server. Returns as cli_open(). */
static int replace_message(struct cli_command *command, km_map **map, struct km_options *options) {
    struct km_options look = {.flags = KM_READONLY};
    int error = cli_try_open(command, map, &look);
    if (error == KM_ESCHEMA)
        return cli_fail_text(command, km_error_exit_status(KM_EEXISTS),
                             "it is a map that no server made, and keeps its data: give another path, or remove it");
    if (error)
        return cli_fail(command, error);
    km_close(*map);
    options->flags = KM_CREATE | KM_REPLACE;
    error = cli_try_open(command, map, options);
    return error ? cli_fail(command, error) : CLI_DONE;
}

/** The path is taken by a file: with the right size, and nobody else at it, it is as good as a new one. */
static int adopt_section(struct cli_command *command, km_map **map) {
    struct km_options options = {.flags = 0};
    int status = cli_open(command, map, &options);
    if (status)
        return status;
    struct km_info info;
    status = cli_outcome_take(command, *map, &info);
    if (status == CLI_DONE && info.size != CLI_MESSAGE_ROOM)
        status =
            cli_fail_text(command, km_error_exit_status(KM_EEXISTS),
                          "it exists already and is %" PRIu64 " bytes long, not %u: give another path, or remove it",
                          info.size, CLI_MESSAGE_ROOM);
    else if (status == CLI_DONE && (info.handles > 1 || info.read_only_handles))
        status = cli_fail_text(command, km_error_exit_status(KM_EBUSY),
                               "others have it open, perhaps another server: press ENTER there first");
    return status ? cli_close(command, *map, status, NULL) : CLI_DONE;
}

/** Open what the message goes into. 0, or an exit status; then nothing is open. */
static int make(struct cli_command *command, km_map **map) {
    struct km_options options = {.flags = KM_CREATE | KM_EXCLUSIVE, .size = CLI_MESSAGE_ROOM};
    if (!command->raw && command->schema == NULL) {
        command->schema = default_schema;
        command->schema_version = 1;
    }
    const int error = cli_try_open(command, map, &options);
    if (error == KM_EEXISTS && !cli_target_is_object(command->target))
        return command->raw ? adopt_section(command, map) : replace_message(command, map, &options);
    return error ? cli_fail(command, error) : CLI_DONE;
}

/* ---- The message ------------------------------------------------------------------------------------------------- */

/** One durable commit. */
static int commit(const struct cli_command *command, km_map *map, const unsigned char *bytes, size_t length) {
    int error = km_begin(map, KM_WRITE);
    if (error)
        return cli_fail(command, error);
    memcpy(km_data(map), bytes, length);
    error = km_commit(map);
    return error ? cli_fail(command, error) : CLI_DONE;
}

/** Stores into raw bytes are seen one by one: the first unit, without which there is no message, comes last. */
static int store(const struct cli_command *command, km_map *map, const unsigned char *bytes, size_t length) {
    _Atomic uint16_t *first = km_data(map);
    uint16_t unit;
    memcpy(&unit, bytes, sizeof unit);
    atomic_store_explicit(first, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    memcpy((unsigned char *)km_data(map) + sizeof unit, bytes + sizeof unit, length - sizeof unit);
    atomic_store_explicit(first, unit, memory_order_release);
    const int error = km_sync(map);
    return error ? cli_fail(command, error) : CLI_DONE;
}

static int serve(const struct cli_command *command, km_map *map, const unsigned char *bytes, size_t length) {
    cli_message_line("The file mapping (%s) is created", command->shown);
    cli_message_line("The file view is mapped");
    const int status = command->raw ? store(command, map, bytes, length) : commit(command, map, bytes, length);
    if (status)
        return status;
    char *words = cli_message_decode(bytes, length, command->raw);
    if (words == NULL)
        return cli_fail_memory(command);
    cli_message_line("This message is written to the view:");
    cli_message_line("\"%s\"", words);
    free(words);
    cli_message_press_enter();
    return CLI_DONE;
}

static int run(struct cli_command *command) {
    const char *message = "Message from the first process.";
    int id;
    while ((id = cli_next_option(command)) > 0)
        message = command->value;
    if (id < 0)
        return command->status;
    static unsigned char bytes[CLI_MESSAGE_ROOM];
    size_t length = 0;
    const char *wrong = cli_message_encode(message, command->raw, bytes, &length);
    if (wrong)
        return cli_fail_usage(command, "--message: the text %s", wrong), command->status;

    km_map *map;
    int status = cli_check_output(command);
    if (status == CLI_DONE)
        status = make(command, &map);
    if (status)
        return status;
    status = serve(command, map, bytes, length);
    return cli_close(command, map, status, "the message is durable");
}

const struct cli_verb cli_verb_server = {
    .name = "server",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "make a map with a message for client, and wait for ENTER",
    .description =
        "Make a map of 64 KiB, write a message to its start and wait for ENTER, or the end of standard input.\n"
        "Meanwhile 'keepmap client' shows the message. A file that an earlier server left is made anew. With\n"
        "--raw the message stands in UTF-16 at the start of 65536 bytes without a header, for any program that\n"
        "maps the same name; a file of exactly that size is used as it is.",
    .options = server_options,
    .option_count = sizeof server_options / sizeof *server_options,
    .no_json = true,
    .example = "  keepmap server 'Local\\SampleMap' --message 'Hello, client'",
    .run = run,
};
