/* SPDX-License-Identifier: MIT
 *
 * keepmap watch: a line for each new commit, as it becomes visible. The journal tells about each of them as long as its
 * frame has not been used again; what went by too fast for that is told as a range, so that every generation is in
 * exactly one line.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

#include "command.h"
#include "commits.h"
#include "json.h"
#include "outcome.h"
#include "stream.h"
#include "text.h"

enum { OPTION_COUNT = 256, OPTION_SINCE, OPTION_TIMEOUT };

static const struct cli_option watch_options[] = {
    {"count", "N", OPTION_COUNT, "end after N commits (default: never)"},
    {"since", "N", OPTION_SINCE, "begin with the commits after number N (default: with the next one)"},
    {"timeout", "SECONDS", OPTION_TIMEOUT,
     "end with exit status 1 when no commit came for so long (default:\nforever)"},
};

struct watching {
    const struct cli_command *command;
    km_map *map;
    uint32_t patience_ms;
    bool live;          /* there is no journal that could tell more than generations */
    uint64_t told;      /* the newest generation that was told */
    uint64_t remaining; /* commits until the end */
};

/* ---- Lines ------------------------------------------------------------------------------------------------------- */

/** Count commits up to a generation as told. */
static void tell(struct watching *watching, uint64_t generation) {
    const uint64_t commits = generation - watching->told;
    watching->told = generation;
    watching->remaining -= commits < watching->remaining ? commits : watching->remaining;
    cli_stream_flush();
}

/** A range of commits up to `last`, of which no more is known than that they were made. */
static void tell_range(struct watching *watching, uint64_t last) {
    const uint64_t first = watching->told + 1;
    if (watching->command->json) {
        struct cli_json json = cli_json_start_line(watching->command->target);
        cli_json_number(&json, "first_generation", first);
        cli_json_number(&json, "generation", last);
        cli_json_close(&json, '}');
    } else if (first == last) {
        printf("generation %" PRIu64 "%s\n", last, watching->live ? "" : ": no longer in the journal");
    } else {
        printf("generations %" PRIu64 " to %" PRIu64 "%s\n", first, last,
               watching->live ? "" : ": no longer in the journal");
    }
    tell(watching, last);
}

static void tell_commit(struct watching *watching, const struct km_log_entry *entry) {
    if (watching->command->json) {
        struct cli_json json = cli_json_start_line(watching->command->target);
        cli_json_number(&json, "first_generation", entry->generation);
        cli_commit_json(&json, entry);
        cli_json_close(&json, '}');
    } else {
        char time[CLI_TEXT_SIZE], bytes[CLI_TEXT_SIZE];
        printf("generation %" PRIu64 "  %s  process %" PRIu32 "  %s in %" PRIu32 " page%s\n", entry->generation,
               cli_text_local_time(time, entry->time_ns), entry->process_id, cli_text_size(bytes, entry->changed_bytes),
               entry->pages, entry->pages == 1 ? "" : "s");
    }
    tell(watching, entry->generation);
}

/* ---- Waiting ----------------------------------------------------------------------------------------------------- */

static bool is_over(const struct watching *watching) {
    return watching->remaining == 0 || ferror(stdout);
}

/** Tell about the commits up to `now` that were not told yet. 0 or an exit status. */
static int tell_new(struct watching *watching, uint64_t now) {
    struct cli_commits commits = {.after = watching->told};
    const int error = watching->live ? 0 : km_log(watching->map, cli_commits_add, &commits);
    for (size_t i = 0; i < commits.count && !is_over(watching); i++) {
        if (commits.list[i].generation > watching->told + 1)
            tell_range(watching, commits.list[i].generation - 1);
        if (!is_over(watching))
            tell_commit(watching, &commits.list[i]);
    }
    cli_commits_free(&commits);
    if (error == KM_ECANCELED) /* only our function stops it */
        return cli_fail_memory(watching->command);
    if (error)
        return cli_fail(watching->command, error);
    if (watching->told < now && !is_over(watching))
        tell_range(watching, now);
    return CLI_DONE;
}

static int watch(struct watching *watching) {
    while (!is_over(watching)) {
        uint64_t now = 0;
        const int error = km_wait(watching->map, watching->told, watching->patience_ms, &now);
        if (error)
            return cli_fail(watching->command, error);
        const int status = tell_new(watching, now);
        if (status)
            return status;
    }
    return CLI_DONE; /* a standard output that failed is told about when it is closed */
}

static int start(struct watching *watching, const uint64_t *since) {
    struct km_info info;
    const int status = cli_outcome_take(watching->command, watching->map, &info);
    if (status)
        return status;
    watching->live = info.mode == KM_LIVE;
    watching->told = since ? *since : info.generation;
    if (!watching->command->quiet && cli_stream_terminal())
        fprintf(stderr, "keepmap: waiting for commits after generation %" PRIu64 ": end it with Ctrl-C\n",
                watching->told);
    return CLI_DONE;
}

static int run(struct cli_command *command) {
    uint64_t count = UINT64_MAX, since = 0;
    const uint64_t *given = NULL;
    struct watching watching = {.command = command, .patience_ms = UINT32_MAX};
    int id;
    while ((id = cli_next_option(command)) > 0) {
        const char *wrong = cli_parse_count(command->value, id == OPTION_COUNT ? &count : &since);
        if (wrong == NULL && count == 0)
            wrong = "is no commit at all: give 1 or more";
        if (wrong)
            return cli_fail_usage(command, "--%s: '%s' %s", command->option, command->value, wrong), command->status;
        if (id == OPTION_SINCE)
            given = &since;
    }
    if (id < 0)
        return command->status;
    watching.remaining = count;
    if (command->timeout_ms != 0)
        watching.patience_ms = command->timeout_ms;
    command->timeout_ms = 0; /* it is about commits; what is in the way of opening the map is another matter */

    struct km_options options = {.flags = KM_READONLY};
    int status = cli_open(command, &watching.map, &options);
    if (status)
        return status;
    status = start(&watching, given);
    if (status == CLI_DONE)
        status = watch(&watching);
    return cli_close(command, watching.map, status, "nothing was changed");
}

const struct cli_verb cli_verb_watch = {
    .name = "watch",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "print a line for each new commit",
    .description =
        "Print a line for each new commit: generation, time, process, bytes of data changed, pages touched.\n"
        "Commits that are no longer in the journal are told as a range. Of a live map, which has no journal,\n"
        "the generations are told. With --json each line is one object. Never changes the file.",
    .options = watch_options,
    .option_count = sizeof watch_options / sizeof *watch_options,
    .no = "no commit came for so long as --timeout says",
    .example = "  keepmap watch state.km --json | jq --unbuffered .generation",
    .run = run,
};
