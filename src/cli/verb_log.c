/* SPDX-License-Identifier: MIT
 *
 * keepmap log: the commits that still stand in the journal, newest last. They are collected before anything is printed,
 * so that the last ones can be picked and an error leaves no half of a list.
 */
#include <inttypes.h>
#include <stdio.h>

#include "command.h"
#include "commits.h"
#include "json.h"
#include "text.h"

enum { OPTION_LIMIT = 256 };

static const struct cli_option log_options[] = {
    {"limit", "N", OPTION_LIMIT, "the newest N commits only (default: all that are left)"},
};

static void print_json(const struct cli_command *command, const struct cli_commits *commits, size_t first) {
    struct cli_json json = cli_json_start(command->target);
    cli_json_open(&json, "commits", '[');
    for (size_t i = first; i < commits->count; i++) {
        const struct km_log_entry *entry = &commits->list[i];
        cli_json_open(&json, NULL, '{');
        cli_commit_json(&json, entry);
        cli_json_close(&json, '}');
    }
    cli_json_close(&json, ']');
    cli_json_close(&json, '}');
}

static void print_table(const struct cli_commits *commits, size_t first) {
    if (commits->count == 0) {
        printf("no commits stand in the journal\n");
        return;
    }
    printf("%10s  %-29s %10s %12s %8s %12s  %s\n", "generation", "time", "process", "bytes", "pages", "in journal",
           "state");
    for (size_t i = first; i < commits->count; i++) {
        const struct km_log_entry *entry = &commits->list[i];
        char time[CLI_TEXT_SIZE];
        printf("%10" PRIu64 "  %-29s %10" PRIu32 " %12" PRIu64 " %8" PRIu32 " %12" PRIu64 "  %s%s\n", entry->generation,
               cli_text_local_time(time, entry->time_ns), entry->process_id, entry->changed_bytes, entry->pages,
               entry->frame_bytes, entry->checkpointed ? "checkpointed" : "in journal only",
               entry->compressed ? ", compressed" : "");
    }
}

static int run(struct cli_command *command) {
    uint64_t limit = UINT64_MAX;
    int id;
    while ((id = cli_next_option(command)) > 0) {
        const char *wrong = cli_parse_count(command->value, &limit);
        if (wrong)
            return cli_fail_usage(command, "--limit: '%s' %s", command->value, wrong), command->status;
    }
    if (id < 0)
        return command->status;

    km_map *map;
    struct km_options options = {.flags = KM_READONLY};
    int status = cli_open(command, &map, &options);
    if (status)
        return status;
    struct cli_commits commits = {.list = NULL};
    const int error = km_log(map, cli_commits_add, &commits);
    if (error == KM_ECANCELED) /* only our function stops it */
        status = cli_fail_memory(command);
    else if (error)
        status = cli_fail(command, error);
    const int closed = cli_close(command, map, CLI_DONE, "nothing was changed");
    if ((error == 0 || error == KM_EJOURNAL) && closed == CLI_DONE) { /* what stands before the damage is told */
        const size_t first = commits.count > limit ? commits.count - (size_t)limit : 0;
        if (command->json)
            print_json(command, &commits, first);
        else
            print_table(&commits, first);
    }
    cli_commits_free(&commits);
    return status ? status : closed;
}

const struct cli_verb cli_verb_log = {
    .name = "log",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "list the commits that still stand in the journal",
    .description =
        "List the commits that still stand in the journal, newest last: generation, time, process, bytes of data\n"
        "changed, pages touched, bytes taken in the journal, and whether a checkpoint has brought them home.\n"
        "Never changes the file.",
    .options = log_options,
    .option_count = sizeof log_options / sizeof *log_options,
    .example = "  keepmap log state.km --limit 10",
    .run = run,
};
