/* SPDX-License-Identifier: MIT
 *
 * A sub-command ("verb") and one call of it: the table entry that describes a verb, and the options and arguments that
 * a user gave. The description drives both the parser and --help, so that they cannot disagree.
 */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keepmap.h"

/** Exit statuses that the tool gives by itself; those of errors come from km_error_exit_status(). See docs/cli.md. */
enum cli_status { CLI_DONE = 0, CLI_NO = 1, CLI_USAGE = 2, CLI_SYSTEM = 7 };

/** An option of one verb. */
struct cli_option {
    const char *name;     /* without the dashes */
    const char *argument; /* how --help calls its argument; NULL: it takes none */
    int id;               /* what cli_next_option() returns for it; 256 to 511 */
    const char *help;     /* lines are split at newlines */
};

struct cli_command;

struct cli_verb {
    const char *name;
    const char *arguments; /* as --help shows them: "TARGET" or "TARGET SIZE" */
    size_t argument_count; /* how many of them there are, 0 to 2; the first one is the target */
    const char *summary;   /* one line for the list of verbs */
    const char *description;
    const struct cli_option *options;
    size_t option_count;
    bool no_json;   /* its output is not a report */
    const char *no; /* what exit status 1 means; NULL: it is never given */
    const char *example;
    int (*run)(struct cli_command *command);
};

/** One call of a verb. */
struct cli_command {
    const struct cli_verb *verb;
    int argc;
    char **argv; /* argv[0] is the verb */

    const char *target;   /* set when cli_next_option() has returned 0; NULL: the verb has none */
    char shown[512];      /* the same, for people: fit for a terminal */
    const char *argument; /* the second argument, if the verb has one */
    const char *option;   /* name and value of the option returned last */
    const char *value;
    int status; /* exit status when cli_next_option() has returned -1 */

    bool json, quiet, raw, any_filesystem;
    uint32_t timeout_ms; /* 0: the library's default */
    const char *schema;  /* NULL: any */
    uint32_t schema_version;
    char schema_name[64];
};

/**
 * The id of the next option of the verb; options that all verbs share are taken care of here. 0 when all options and
 * arguments were read and hold; -1 when the command is over: --help was printed, or the words made no sense and that
 * was said. Then the verb returns command->status.
 */
int cli_next_option(struct cli_command *command);

/** Take the value of the option returned last as a size of at least 1 byte. False when it is none: that was said. */
bool cli_take_size(struct cli_command *command, uint64_t *size);

/** The same for an offset or length, which may be 0. */
bool cli_take_offset(struct cli_command *command, uint64_t *offset);

/** Print the --help of a verb. */
void cli_verb_help(const struct cli_verb *verb);

/** Of a list of names, the one that `word` was probably meant to be, or NULL. */
const char *cli_suggest(const char *word, const char *const *names, size_t count);

/** Whether a target names an object backed by the paging file, which ends with its last user. */
bool cli_target_is_object(const char *target);

/**
 * Open the target with the flags and creation options that `options` holds, and with what the shared options say.
 * Every map is opened with KM_GUARD, so that a file that is cut short under it is an error and no signal. 0, or an exit
 * status after the error was printed.
 */
int cli_open(struct cli_command *command, km_map **map, struct km_options *options);

/** Refuse a standard output that goes into the target itself. 0, or an exit status. cli_open() does it. */
int cli_check_output(const struct cli_command *command);

/** The same as cli_open(), but for errors of the library, which are returned (as negative numbers) and not printed, and
 *  without cli_check_output(). */
int cli_try_open(struct cli_command *command, km_map **map, struct km_options *options);

/**
 * After the last byte of the data was used: whether they were those of the map. `before` is what km_get_info() said
 * beforehand. The guard gives zeros for what the file has lost, and the rest of a page that it was cut within is zeros
 * anyway. 0, or an exit status after the error was printed.
 */
int cli_check_whole(const struct cli_command *command, km_map *map, const struct km_info *before);

/**
 * Close the map. `done` tells, for the error message, what stands although closing failed. That others kept the map
 * from being marked clean is no error. Returns `status`, how the command went so far; if that is 0 and closing failed,
 * an exit status after the error was printed. A command that has failed already has said why.
 */
int cli_close(const struct cli_command *command, km_map *map, int status, const char *done);

/** Print "keepmap: VERB TARGET: what is wrong: what to do" for a library's error, of which the thread still holds the
 *  detail. Returns the exit status. */
int cli_fail(const struct cli_command *command, int error);

/** The same for an error of km_close(); `done` tells what stands all the same. */
int cli_fail_closing(const struct cli_command *command, int error, const char *done);

/** The same for what the tool finds wrong itself; `format` makes the part after the target. Returns `status`. */
__attribute__((format(printf, 3, 4))) int cli_fail_text(const struct cli_command *command, int status,
                                                        const char *format, ...);

/** The same when there is no memory. Returns the exit status for it. */
int cli_fail_memory(const struct cli_command *command);

/** The same for words that make no sense, pointing to --help. Sets command->status and returns -1. */
__attribute__((format(printf, 2, 3))) int cli_fail_usage(struct cli_command *command, const char *format, ...);

extern const struct cli_verb cli_verb_create, cli_verb_info, cli_verb_read, cli_verb_write, cli_verb_verify,
    cli_verb_log, cli_verb_who, cli_verb_watch, cli_verb_list, cli_verb_sync, cli_verb_checkpoint, cli_verb_grow,
    cli_verb_copy, cli_verb_server, cli_verb_client;

#endif
