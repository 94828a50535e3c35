/* SPDX-License-Identifier: MIT
 *
 * keepmap list: the maps backed by the paging file. They are collected before anything is printed, because printing can
 * take its time and a column is as wide as its widest entry.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "json.h"
#include "text.h"

struct listed {
    struct km_listed *list; /* target and detail are ours */
    size_t count, capacity;
};

static void free_listed(struct listed *listed) {
    for (size_t i = 0; i < listed->count; i++) {
        free((char *)listed->list[i].target);
        free((char *)listed->list[i].detail);
    }
    free(listed->list);
}

/** Called by km_list(). Not 0, which ends it, if there is no memory. */
static int remember(void *context, const struct km_listed *entry) {
    struct listed *listed = context;
    if (listed->count == listed->capacity) {
        const size_t capacity = listed->capacity ? listed->capacity * 2 : 16;
        struct km_listed *list = realloc(listed->list, capacity * sizeof *list);
        if (list == NULL)
            return KM_ENOMEM;
        listed->list = list;
        listed->capacity = capacity;
    }
    struct km_listed copy = *entry;
    copy.target = strdup(entry->target);
    copy.detail = strdup(entry->detail ? entry->detail : "");
    listed->list[listed->count++] = copy;
    return copy.target == NULL || copy.detail == NULL ? KM_ENOMEM : 0;
}

static void print_json(const struct listed *listed) {
    struct cli_json json = {.depth = 0};
    cli_json_open(&json, NULL, '{');
    cli_json_open(&json, "maps", '[');
    for (size_t i = 0; i < listed->count; i++) {
        const struct km_listed *entry = &listed->list[i];
        cli_json_open(&json, NULL, '{');
        cli_json_string(&json, "target", entry->target);
        if (entry->error) {
            cli_json_string(&json, "error", km_error_name(entry->error));
            cli_json_string(&json, "message", entry->detail[0] ? entry->detail : km_error_message(entry->error));
        } else {
            cli_json_string(&json, "mode", cli_text_mode(entry->mode));
            cli_json_number(&json, "size", entry->size);
            if (entry->mode != KM_RAW)
                cli_json_number(&json, "generation", entry->generation);
            cli_json_number(&json, "handles", entry->handles);
            cli_json_bool(&json, "read_only_handles", entry->read_only_handles != 0);
        }
        cli_json_close(&json, '}');
    }
    cli_json_close(&json, ']');
    cli_json_close(&json, '}');
}

/** How many characters of UTF-8 a text has: names are in every script, and printf() would count their bytes. */
static size_t characters_in(const char *text) {
    size_t count = 0;
    for (; *text != '\0'; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

static void print_row(const struct km_listed *entry, size_t width) {
    char size[CLI_TEXT_SIZE], generation[24] = "-";
    printf("%s%*s  ", entry->target, (int)(width - characters_in(entry->target)), "");
    if (entry->error) {
        const char *detail = entry->detail[0] ? entry->detail : km_error_message(entry->error);
        printf("%s\n", cli_text_detail(detail, entry->target));
        return;
    }
    if (entry->mode != KM_RAW)
        snprintf(generation, sizeof generation, "%" PRIu64, entry->generation);
    printf("%-13s %10s %10s %7" PRIu32 "  %s\n", cli_text_mode(entry->mode), cli_text_size(size, entry->size),
           generation, entry->handles, entry->read_only_handles ? "yes" : "no");
}

static void print_table(const struct listed *listed) {
    if (listed->count == 0) {
        printf("no maps are backed by the paging file now\n");
        return;
    }
    size_t width = strlen("target");
    for (size_t i = 0; i < listed->count; i++) {
        struct km_listed *entry = &listed->list[i];
        cli_text_sanitize((char *)entry->target, strlen(entry->target));
        cli_text_sanitize((char *)entry->detail, strlen(entry->detail));
        const size_t characters = characters_in(entry->target);
        width = characters > width ? characters : width;
    }
    printf("%-*s  %-13s %10s %10s %7s  %s\n", (int)width, "target", "mode", "size", "generation", "writers", "readers");
    for (size_t i = 0; i < listed->count; i++)
        print_row(&listed->list[i], width);
}

static int run(struct cli_command *command) {
    if (cli_next_option(command) < 0)
        return command->status;
    struct listed listed = {.list = NULL};
    int status = CLI_DONE;
    const int error = km_list(remember, &listed);
    if (error == KM_ECANCELED) /* only our function stops it */
        status = cli_fail_memory(command);
    else if (error)
        status = cli_fail(command, error);
    else if (command->json)
        print_json(&listed);
    else
        print_table(&listed);
    free_listed(&listed);
    return status;
}

const struct cli_verb cli_verb_list = {
    .name = "list",
    .arguments = "",
    .argument_count = 0,
    .summary = "list the maps backed by the paging file",
    .description =
        "List the maps backed by the paging file, Local\\ ones of this user and Global\\ ones of the machine: mode,\n"
        "size, generation, how many handles may write to each, and whether there are readers without write\n"
        "permission. What nobody uses any more is not listed.",
    .example = "  keepmap list",
    .run = run,
};
