/* SPDX-License-Identifier: MIT
 *
 * What the tool says when something fails: one line, "keepmap: VERB TARGET: what is wrong: what to do about it".
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "text.h"

/** Print the line, with everything in it that a terminal could obey made visible. */
static void print_line(const struct cli_command *command, const char *what, const char *hint) {
    const char *target = command->target;
    char *line = NULL;
    const int length = asprintf(&line, "keepmap: %s%s%s: %s%s%s", command->verb->name, target ? " " : "",
                                target ? target : "", what, hint ? ": " : "", hint ? hint : "");
    fflush(stdout); /* what was found before it failed comes first, where both streams are one */
    if (length < 0) {
        fputs("keepmap: out of memory\n", stderr);
        return;
    }
    cli_text_sanitize(line, (size_t)length);
    fprintf(stderr, "%s\n", line);
    free(line);
}

int cli_fail_text(const struct cli_command *command, int status, const char *format, ...) {
    char *what = NULL;
    va_list arguments;
    va_start(arguments, format);
    const int length = vasprintf(&what, format, arguments);
    va_end(arguments);
    print_line(command, length < 0 ? "out of memory" : what, NULL);
    if (length >= 0)
        free(what);
    return status;
}

int cli_fail_memory(const struct cli_command *command) {
    return cli_fail_text(command, km_error_exit_status(KM_ENOMEM), "%s", km_error_message(KM_ENOMEM));
}

int cli_fail_usage(struct cli_command *command, const char *format, ...) {
    char *what = NULL;
    va_list arguments;
    va_start(arguments, format);
    const int length = vasprintf(&what, format, arguments);
    va_end(arguments);
    char hint[64];
    snprintf(hint, sizeof hint, "see 'keepmap %s --help'", command->verb->name);
    print_line(command, length < 0 ? "out of memory" : what, hint);
    if (length >= 0)
        free(what);
    command->status = CLI_USAGE;
    return -1;
}

/** Advice for an error whose detail holds none. NULL: there is nothing to say. */
static const char *general_advice(int error) {
    switch (error) {
    case KM_ENOTFOUND:
    case KM_ENOTMAP:
    case KM_EEMPTY:
        return "check the path";
    case KM_EBUSY:
        return "see who with 'keepmap who', and try again";
    case KM_EACCESS:
        return "check the permissions of the file and of its directory";
    case KM_EDIRECTORY:
        return "give the path of a file";
    case KM_ETRUNCATED:
    case KM_EHEADER:
    case KM_EJOURNAL:
        return "restore it from a copy";
    case KM_ECORRUPT:
        return "see what is damaged with 'keepmap verify', restore it from a copy";
    case KM_EVERSION:
        return "use a newer keepmap";
    case KM_EFEATURE:
        return "use a newer keepmap, or a build that has it";
    case KM_ESCHEMA:
        return "check that this is the right map";
    case KM_ENOSPACE:
        return "make room and try again";
    case KM_EIO:
        return "look at the system's log, then check the map with 'keepmap verify'";
    default:
        return NULL;
    }
}

/** What the tool itself can do about an error: the library knows neither verbs nor options. Or NULL. */
static const char *tool_advice(const struct cli_command *command, int error, const char *detail) {
    switch (error) {
    case KM_ENOTFOUND:
        if (command->verb == &cli_verb_client)
            return "start 'keepmap server' for it first, or use --wait";
        if (command->verb == &cli_verb_create || command->verb == &cli_verb_server || command->raw ||
            cli_target_is_object(command->target) || strstr(detail, "cannot create")) /* the place of a copy */
            return NULL;
        return "'keepmap create' makes a new map";
    case KM_ENOTMAP:
        return command->raw || command->verb == &cli_verb_create || command->verb == &cli_verb_server ||
                       strstr(detail, "not a regular file")
                   ? NULL
                   : "--raw takes the bytes of any file as they are";
    case KM_EINVAL:
        return strstr(detail, "without KM_RAW") ? "on the command line that is: leave --raw out" : NULL;
    case KM_EEXISTS:
        if (command->verb == &cli_verb_server)
            return "or press ENTER in the server that has it";
        return command->verb == &cli_verb_create && !command->raw && !cli_target_is_object(command->target) &&
                       strstr(detail, "exists already")
                   ? "--force replaces a map that nobody has open"
                   : NULL;
    case KM_EFILESYSTEM:
        return "on the command line that is --any-filesystem";
    case KM_EBUSY:
        return strstr(detail, "wait longer") ? "--timeout SECONDS sets how long" : NULL;
    case KM_ESCHEMA:
        return "'keepmap info' shows its schema";
    default:
        return NULL;
    }
}

/** What is wrong and what to do about it, for an error with its detail. Allocated; NULL when there is no memory. */
static char *explain(const struct cli_command *command, int error, const char *detail) {
    char *text = NULL;
    size_t length;
    FILE *stream = open_memstream(&text, &length);
    if (stream == NULL)
        return NULL;
    const char *message = km_error_message(error);
    bool advised = strstr(detail, ": ") != NULL; /* the library's sentences end with what to do */
    if (advised || (*detail && strcasestr(detail, message)))
        fputs(detail, stream);
    else if (*detail)
        fprintf(stream, "%s (%s)", message, detail);
    else
        fputs(message, stream);
    const char *general = general_advice(error), *tool = tool_advice(command, error, detail);
    if (general && !advised) {
        fprintf(stream, ": %s", general);
        advised = true;
    }
    if (tool)
        fprintf(stream, "%s%s", advised ? "; " : ": ", tool);
    return fclose(stream) == 0 ? text : NULL;
}

int cli_fail_closing(const struct cli_command *command, int error, const char *done) {
    const char *detail = km_last_error_detail();
    if (command->target)
        detail = cli_text_detail(detail, command->target);
    char *what = explain(command, error, detail), *hint = NULL;
    if (done && asprintf(&hint, "that was while closing; %s, the next to open it makes up for it", done) < 0)
        hint = NULL;
    print_line(command, what ? what : km_error_message(error), hint);
    free(what);
    free(hint);
    return km_error_exit_status(error);
}

int cli_fail(const struct cli_command *command, int error) {
    return cli_fail_closing(command, error, NULL);
}
