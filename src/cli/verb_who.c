/* SPDX-License-Identifier: MIT
 *
 * keepmap who: the handles that have the map open for writing, and whether there are others. Opens without write
 * permission, so it is none of them itself.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "json.h"
#include "text.h"

enum { USERS_MAX = 1024 }; /* more than can be attached */

struct users {
    size_t count;
    struct km_user list[USERS_MAX];
};

static int remember_user(void *context, const struct km_user *user) {
    struct users *users = context;
    if (users->count < USERS_MAX && !user->self)
        users->list[users->count++] = *user;
    return 0;
}

static void print_json(const struct cli_command *command, const struct users *users, const struct km_info *info) {
    struct cli_json json = cli_json_start(command->target);
    cli_json_number(&json, "generation", info->generation);
    cli_json_open(&json, "users", '[');
    for (size_t i = 0; i < users->count; i++) {
        const struct km_user *user = &users->list[i];
        cli_json_open(&json, NULL, '{');
        cli_json_number(&json, "slot", user->slot);
        cli_json_number(&json, "process_id", user->process_id);
        if (user->process_name[0])
            cli_json_string(&json, "process_name", user->process_name);
        else
            cli_json_null(&json, "process_name");
        cli_json_time(&json, "attached", user->attached_ns);
        cli_json_bool(&json, "in_transaction", user->in_transaction != 0);
        if (user->in_transaction)
            cli_json_number(&json, "generation", user->generation);
        else
            cli_json_null(&json, "generation");
        cli_json_close(&json, '}');
    }
    cli_json_close(&json, ']');
    cli_json_bool(&json, "read_only_handles", info->read_only_handles != 0);
    cli_json_close(&json, '}');
}

static void print_table(const struct users *users, const struct km_info *info) {
    if (users->count == 0)
        printf("nobody has it open for writing\n");
    else
        printf("%4s  %10s  %-16s %-29s  %s\n", "slot", "process", "name", "attached since", "stands at");
    for (size_t i = 0; i < users->count; i++) {
        const struct km_user *user = &users->list[i];
        char time[CLI_TEXT_SIZE], name[sizeof user->process_name];
        memcpy(name, user->process_name, sizeof name);
        cli_text_sanitize(name, strnlen(name, sizeof name));
        printf("%4" PRIu32 "  %10" PRIu32 "  %-16.63s %-29s  ", user->slot, user->process_id, name[0] ? name : "?",
               cli_text_local_time(time, user->attached_ns));
        if (user->in_transaction)
            printf("generation %" PRIu64 "\n", user->generation);
        else
            printf("no transaction\n");
    }
    if (info->read_only_handles)
        printf("and at least one has it open without write permission (such handles have no slot, so not which)\n");
}

static int run(struct cli_command *command) {
    if (cli_next_option(command) < 0)
        return command->status;
    km_map *map;
    struct km_options options = {.flags = KM_READONLY};
    int status = cli_open(command, &map, &options);
    if (status)
        return status;
    struct km_info info = {.struct_size = sizeof info};
    static struct users users;
    int error = km_who(map, remember_user, &users);
    if (error == 0)
        error = km_get_info(map, &info);
    if (error)
        status = cli_fail(command, error);
    status = cli_close(command, map, status, "nothing was changed");
    if (status)
        return status;
    if (command->json)
        print_json(command, &users, &info);
    else
        print_table(&users, &info);
    return CLI_DONE;
}

const struct cli_verb cli_verb_who = {
    .name = "who",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "list who has a map open",
    .description =
        "List the handles that have the map open for writing: slot, process, since when, and the generation that\n"
        "their transaction stands at; and tell whether anybody has it open without write permission. Never\n"
        "changes the file.",
    .example = "  keepmap who state.km",
    .run = run,
};
