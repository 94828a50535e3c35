/* SPDX-License-Identifier: MIT
 *
 * Reading the options and arguments of a verb, and printing its --help from the same table.
 */
#include "command.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "text.h"

/* Options that every verb has (json: every verb that reports). Their ids follow those of the verbs. */
enum { SHARED_JSON = 512, SHARED_QUIET, SHARED_SCHEMA, SHARED_TIMEOUT, SHARED_RAW, SHARED_ANY_FILESYSTEM, SHARED_HELP };

static const struct cli_option shared_options[] = {
    {"json", NULL, SHARED_JSON, "print the result as one JSON value"},
    {"quiet", NULL, SHARED_QUIET, "no progress bar and no line that says that all went well"},
    {"schema", "NAME:VERSION", SHARED_SCHEMA,
     "refuse a map with another schema, the application's own name and\nversion of what the data means (default: any)"},
    {"timeout", "SECONDS", SHARED_TIMEOUT, "how long others are waited for: 0, 0.5, 60, forever (default: 10)"},
    {"raw", NULL, SHARED_RAW, "the bytes of any file or section as they are: no header, no checksums"},
    {"any-filesystem", NULL, SHARED_ANY_FILESYSTEM,
     "accept a file system that is not known to share memory coherently\nbetween processes (network, FUSE)"},
    {"help", NULL, SHARED_HELP, "print this"},
};

enum { SHARED_COUNT = sizeof shared_options / sizeof *shared_options, OPTIONS_MAX = 32 };

/** Whether a verb has one of the shared options: the others are about its target or its report, and it has none. */
static bool applies(const struct cli_verb *verb, int id) {
    if (id == SHARED_JSON)
        return !verb->no_json;
    return verb->argument_count > 0 || id == SHARED_QUIET || id == SHARED_HELP;
}

/** Whether a verb has an option of this name in its own table: it tells about a shared one in its own words. */
static bool explains(const struct cli_verb *verb, const char *name) {
    for (size_t i = 0; i < verb->option_count; i++)
        if (strcmp(verb->options[i].name, name) == 0)
            return true;
    return false;
}

/** The options of a verb, its own first. Returns how many. */
static size_t list_options(const struct cli_verb *verb, const struct cli_option *list[OPTIONS_MAX]) {
    size_t count = 0;
    for (size_t i = 0; i < verb->option_count && count < OPTIONS_MAX; i++)
        list[count++] = &verb->options[i];
    for (size_t i = 0; i < SHARED_COUNT && count < OPTIONS_MAX; i++) {
        const struct cli_option *shared = &shared_options[i];
        if (applies(verb, shared->id) && !explains(verb, shared->name))
            list[count++] = shared;
    }
    return count;
}

static int id_of(const struct cli_option *option) {
    for (size_t i = 0; i < SHARED_COUNT; i++)
        if (strcmp(shared_options[i].name, option->name) == 0)
            return shared_options[i].id;
    return option->id;
}

/* ---- help -------------------------------------------------------------------------------------------------------- */

static void print_option(const struct cli_option *option) {
    char left[48];
    snprintf(left, sizeof left, "--%s%s%s", option->name, option->argument ? " " : "",
             option->argument ? option->argument : "");
    const char *line = option->help;
    for (bool first = true; line; first = false) {
        const char *end = strchr(line, '\n');
        const int length = end ? (int)(end - line) : (int)strlen(line);
        printf("  %-26s %.*s\n", first ? left : "", length, line);
        line = end ? end + 1 : NULL;
    }
}

void cli_verb_help(const struct cli_verb *verb) {
    const struct cli_option *list[OPTIONS_MAX];
    const size_t count = list_options(verb, list);
    printf("Usage: keepmap %s%s%s [options]\n\n%s\n\nOptions:\n", verb->name, verb->arguments[0] ? " " : "",
           verb->arguments, verb->description);
    for (size_t i = 0; i < count; i++)
        print_option(list[i]);
    printf("\nSizes and offsets are bytes; K, M, G and T (times 1024) may follow a number.\n"
           "\nExample:\n%s\n"
           "\nExit status:\n  0  done\n",
           verb->example);
    if (verb->no)
        printf("  1  %s\n", verb->no);
    printf("  2  wrong usage, or a size or range that does not fit the map\n"
           "  3  there is no such map\n"
           "  4  it exists already, or others are using it\n"
           "  5  not a map, or damaged beyond use\n"
           "  6  another format version, feature or schema\n"
           "  7  the system said no; the message has its words\n");
}

const char *cli_suggest(const char *word, const char *const *names, size_t count) {
    enum { LENGTH_MAX = 24 };
    const size_t length = strlen(word);
    const char *best = NULL;
    size_t best_distance = 3; /* more than two mistakes are no mistyping */
    for (size_t n = 0; n < count && length <= LENGTH_MAX; n++) {
        const char *name = names[n];
        const size_t name_length = strlen(name);
        if (name_length > LENGTH_MAX)
            continue;
        /* The optimal string alignment distance: inserted, lost, wrong and swapped letters count one each. */
        size_t distance[LENGTH_MAX + 1][LENGTH_MAX + 1];
        for (size_t i = 0; i <= length; i++) {
            for (size_t j = 0; j <= name_length; j++) {
                if (i == 0 || j == 0) {
                    distance[i][j] = i + j;
                    continue;
                }
                size_t least = distance[i - 1][j - 1] + (word[i - 1] != name[j - 1]);
                if (distance[i - 1][j] + 1 < least)
                    least = distance[i - 1][j] + 1;
                if (distance[i][j - 1] + 1 < least)
                    least = distance[i][j - 1] + 1;
                if (i > 1 && j > 1 && word[i - 1] == name[j - 2] && word[i - 2] == name[j - 1] &&
                    distance[i - 2][j - 2] + 1 < least)
                    least = distance[i - 2][j - 2] + 1;
                distance[i][j] = least;
            }
        }
        size_t found = distance[length][name_length];
        if (length >= 2 && strncmp(word, name, length) == 0)
            found = 1;
        if (found < best_distance && found < name_length && found * 2 <= length) {
            best_distance = found;
            best = name;
        }
    }
    return best;
}

/* ---- parsing ----------------------------------------------------------------------------------------------------- */

/** getopt_long() did not know what to do: say what it met. */
static int refuse_option(struct cli_command *command, int result, const struct cli_option *const *list, size_t count) {
    const char *names[OPTIONS_MAX];
    for (size_t i = 0; i < count; i++) {
        names[i] = list[i]->name;
        if (optopt == id_of(list[i]))
            return cli_fail_usage(command, result == ':' ? "--%s needs a value" : "--%s takes no value", list[i]->name);
    }
    if (optopt != 0)
        return cli_fail_usage(command, "unknown option '-%c'", optopt);
    char word[48];
    snprintf(word, sizeof word, "%s", command->argv[optind - 1] + 2);
    word[strcspn(word, "=")] = '\0';
    const char *meant = cli_suggest(word, names, count);
    if (meant)
        return cli_fail_usage(command, "unknown option '--%s': did you mean '--%s'?", word, meant);
    return cli_fail_usage(command, "unknown option '--%s'", word);
}

/** Take an option that all verbs share. 0, or -1 when the command is over. */
static int take_shared(struct cli_command *command, int id) {
    const char *wrong = NULL;
    switch (id) {
    case SHARED_JSON:
        command->json = true;
        break;
    case SHARED_QUIET:
        command->quiet = true;
        break;
    case SHARED_RAW:
        command->raw = true;
        break;
    case SHARED_ANY_FILESYSTEM:
        command->any_filesystem = true;
        break;
    case SHARED_SCHEMA:
        wrong = cli_parse_schema(command->value, command->schema_name, &command->schema_version);
        command->schema = command->schema_name;
        break;
    case SHARED_TIMEOUT:
        wrong = cli_parse_seconds(command->value, &command->timeout_ms);
        break;
    default:
        cli_verb_help(command->verb);
        command->status = CLI_DONE;
        return -1;
    }
    return wrong ? cli_fail_usage(command, "--%s: '%s' %s", command->option, command->value, wrong) : 0;
}

/** All options were read: what remains are the arguments. */
static int take_arguments(struct cli_command *command) {
    char **arguments = command->argv + optind;
    const size_t count = (size_t)(command->argc - optind);
    const struct cli_verb *verb = command->verb;
    if (verb->argument_count == 0 && count > 0)
        return cli_fail_usage(command, "'%s' is one word too many: it takes no target", arguments[0]);
    if (verb->argument_count == 0)
        return 0;
    if (count == 0)
        return cli_fail_usage(command, "which map? give its path, Local\\NAME or Global\\NAME");
    if (count < verb->argument_count)
        return cli_fail_usage(command, "'%s' is not enough: it takes %s", arguments[0], verb->arguments);
    if (count > verb->argument_count)
        return cli_fail_usage(command, "'%s' is one word too many: it takes %s", arguments[verb->argument_count],
                              verb->arguments);
    command->target = arguments[0];
    command->argument = count > 1 ? arguments[1] : NULL;
    snprintf(command->shown, sizeof command->shown, "%s", command->target);
    cli_text_sanitize(command->shown, strlen(command->shown));
    if (command->target[0] == '\0')
        return cli_fail_usage(command, "the map's path is empty");
    if (strcmp(command->target, "-") == 0)
        return cli_fail_usage(command, "a map cannot be a standard stream (a file of that name is ./-)");
    if (command->raw && command->schema)
        return cli_fail_usage(command, "--schema with --raw: raw bytes have no header that could tell their schema");
    return 0;
}

int cli_next_option(struct cli_command *command) {
    const struct cli_option *list[OPTIONS_MAX];
    struct option table[OPTIONS_MAX + 1];
    const size_t count = list_options(command->verb, list);
    for (size_t i = 0; i < count; i++)
        table[i] =
            (struct option){list[i]->name, list[i]->argument ? required_argument : no_argument, NULL, id_of(list[i])};
    table[count] = (struct option){NULL, 0, NULL, 0};

    opterr = 0;
    for (;;) {
        int id = getopt_long(command->argc, command->argv, ":hq", table, NULL);
        if (id == -1)
            return take_arguments(command);
        if (id == '?' || id == ':')
            return refuse_option(command, id, list, count);
        if (id == 'h')
            id = SHARED_HELP;
        if (id == 'q')
            id = SHARED_QUIET;
        command->value = optarg;
        for (size_t i = 0; i < count; i++)
            if (table[i].val == id)
                command->option = table[i].name;
        if (id < SHARED_JSON)
            return id;
        if (take_shared(command, id) != 0)
            return -1;
    }
}

bool cli_take_offset(struct cli_command *command, uint64_t *offset) {
    const char *wrong = cli_parse_size(command->value, offset);
    if (wrong)
        cli_fail_usage(command, "--%s: '%s' %s", command->option, command->value, wrong);
    return wrong == NULL;
}

bool cli_take_size(struct cli_command *command, uint64_t *size) {
    if (!cli_take_offset(command, size))
        return false;
    if (*size == 0)
        cli_fail_usage(command, "--%s: it must be at least 1 byte", command->option);
    return *size != 0;
}
