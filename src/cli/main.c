/* SPDX-License-Identifier: MIT
 *
 * keepmap, the command-line tool: the table of verbs, and what is no verb. docs/cli.md describes what users meet.
 *
 * src/cli includes public headers only: the tool proves that the public interface is enough.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "stream.h"
#include "text.h"

static const struct cli_verb *const verbs[] = {
    &cli_verb_create,     &cli_verb_info, &cli_verb_read,  &cli_verb_write,  &cli_verb_verify,
    &cli_verb_log,        &cli_verb_who,  &cli_verb_watch, &cli_verb_list,   &cli_verb_sync,
    &cli_verb_checkpoint, &cli_verb_grow, &cli_verb_copy,  &cli_verb_server, &cli_verb_client,
};

enum { VERB_COUNT = sizeof verbs / sizeof *verbs };

static void print_help(FILE *stream) {
    fprintf(
        stream,
        "keepmap: shared memory that survives\n"
        "\n"
        "A map is a file that any number of processes use through a plain pointer. What they commit is atomic,\n"
        "survives crashes and power cuts, and is checked by checksums.\n"
        "\n"
        "Usage: keepmap VERB TARGET [options]\n"
        "\n"
        "TARGET is the path of a map, or Local\\NAME or Global\\NAME for one that is backed by the paging file and\n"
        "ends with its last user: Local\\ for this user, Global\\ for the machine. 'list' takes none.\n"
        "\n");
    for (size_t i = 0; i < VERB_COUNT; i++)
        fprintf(stream, "  %-12s %s\n", verbs[i]->name, verbs[i]->summary);
    fprintf(stream, "\n"
                    "  keepmap VERB --help, keepmap help VERB    its options, an example, its exit statuses\n"
                    "  keepmap --version                         versions of the tool and of its library\n"
                    "\n"
                    "Results go to standard output, everything else to standard error.\n");
}

static const struct cli_verb *find_verb(const char *name) {
    for (size_t i = 0; i < VERB_COUNT; i++)
        if (strcmp(verbs[i]->name, name) == 0)
            return verbs[i];
    return NULL;
}

static int refuse_verb(const char *word) {
    const char *names[VERB_COUNT];
    for (size_t i = 0; i < VERB_COUNT; i++)
        names[i] = verbs[i]->name;
    const char *meant = cli_suggest(word, names, VERB_COUNT);
    char shown[64];
    snprintf(shown, sizeof shown, "%s", word);
    cli_text_sanitize(shown, strlen(shown));
    fprintf(stderr, "keepmap: there is no verb '%s'%s%s%s: see 'keepmap --help'\n", shown,
            meant ? ", did you mean '" : "", meant ? meant : "", meant ? "'?" : "");
    return CLI_USAGE;
}

static int help(int argc, char **argv) {
    if (argc <= 2) {
        print_help(stdout);
        return CLI_DONE;
    }
    const struct cli_verb *verb = find_verb(argv[2]);
    if (verb == NULL)
        return refuse_verb(argv[2]);
    cli_verb_help(verb);
    return CLI_DONE;
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0)
        return help(argc, argv);
    if (strcmp(word, "--version") == 0) {
        printf("keepmap %s (library %s)\n", KM_VERSION, km_version());
        return CLI_DONE;
    }
    if (word[0] == '-') {
        fprintf(stderr, "keepmap: the verb comes first: keepmap VERB TARGET [options]: see 'keepmap --help'\n");
        return CLI_USAGE;
    }
    const struct cli_verb *verb = find_verb(word);
    if (verb == NULL)
        return refuse_verb(word);
    struct cli_command command = {.verb = verb, .argc = argc - 1, .argv = argv + 1};
    return verb->run(&command);
}

int main(int argc, char **argv) {
    cli_streams_secure();
    /* A reader who goes away is an error of a write, so that the map is closed in order. */
    signal(SIGPIPE, SIG_IGN);
    /* The same for a limit on the size of files. */
    signal(SIGXFSZ, SIG_IGN);
    return cli_streams_finish(run(argc, argv));
}
