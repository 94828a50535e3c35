/* SPDX-License-Identifier: MIT
 *
 * keepmap info: what the map is and how it stands. Opens without write permission: safe while the map is in use.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "json.h"
#include "text.h"

/* Who is named in the human form; `keepmap who` tells about all of them. */
enum { NAMED_MAX = 4 };

struct attached {
    uint64_t count;
    struct km_user named[NAMED_MAX];
};

static int remember_user(void *context, const struct km_user *user) {
    struct attached *attached = context;
    if (attached->count < NAMED_MAX)
        attached->named[attached->count] = *user;
    attached->count++;
    return 0;
}

static const char *state_of(const struct km_info *info) {
    if (info->failed)
        return "failed";
    if (info->damaged)
        return "damaged";
    if (info->clean)
        return "clean";
    return info->handles > 0 ? "in_use" : "unclean";
}

static const char *state_words(const struct km_info *info) {
    if (info->failed)
        return "a write to the disk failed: no commits until all who use it have closed it";
    if (info->damaged)
        return "damaged: a commit that was durable cannot be read; see keepmap verify";
    if (info->clean)
        return info->mode == KM_LIVE ? "clean: sealed, nobody has it open for writing" : "clean";
    if (info->handles > 0)
        return "in use";
    if (info->abandoned)
        return "not clean: no commit has said yet that the data is good again after the last writer";
    return info->mode == KM_LIVE ? "not sealed: its users were killed; see keepmap verify for what was changed since"
                                 : "not closed cleanly, or a reader held back the last checkpoint: "
                                   "the next to open it for writing recovers it";
}

static const char *slots_words(uint32_t slots) {
    static const char *const words[] = {"both damaged", "A is good, B is damaged", "B is good, A is damaged",
                                        "both good"};
    return words[slots & 3];
}

static void json_identity(struct cli_json *json, const struct km_info *info) {
    char text[CLI_TEXT_SIZE];
    cli_json_number(json, "format_version", info->format_version);
    cli_json_string(json, "checksum", cli_text_checksum(info->checksum));
    if (info->schema[0]) {
        cli_json_string(json, "schema", info->schema);
        cli_json_number(json, "schema_version", info->schema_version);
    } else {
        cli_json_null(json, "schema");
        cli_json_null(json, "schema_version");
    }
    cli_json_string(json, "uuid", cli_text_uuid(text, info->uuid));
    cli_json_hex(json, "feature_incompatible", info->feature_incompatible, 16);
    cli_json_hex(json, "feature_readonly", info->feature_readonly, 16);
    cli_json_hex(json, "feature_compatible", info->feature_compatible, 16);
    if (info->mode == KM_TRANSACTIONAL) {
        cli_json_bool(json, "compress", info->compress != 0);
        cli_json_bool(json, "full_pages", info->full_pages != 0);
    }
    cli_json_time(json, "created", info->created_ns);
}

static void json_state(struct cli_json *json, const struct km_info *info) {
    cli_json_number(json, "generation", info->generation);
    cli_json_number(json, "durable_generation", info->durable_generation);
    if (info->mode == KM_TRANSACTIONAL)
        cli_json_number(json, "checkpoint_generation", info->checkpoint_generation);
    cli_json_hex(json, "digest", info->digest, 16);
    cli_json_bool(json, "header_slot_a_good", (info->header_slots & 1) != 0);
    cli_json_bool(json, "header_slot_b_good", (info->header_slots & 2) != 0);
    cli_json_string(json, "state", state_of(info));
    cli_json_bool(json, "clean", info->clean != 0);
    cli_json_bool(json, "failed", info->failed != 0);
    cli_json_bool(json, "damaged", info->damaged != 0);
    if (info->mode == KM_LIVE)
        cli_json_bool(json, "abandoned", info->abandoned != 0);
}

/** Keys that make no sense for a kind of map are not there. */
static void print_json(const struct cli_command *command, const struct km_info *info) {
    struct cli_json json = cli_json_start(command->target);
    cli_json_string(&json, "mode", cli_text_mode(info->mode));
    cli_json_bool(&json, "paging_file", info->paging_file != 0);
    if (info->mode != KM_RAW)
        json_identity(&json, info);
    cli_json_number(&json, "size", info->size);
    if (info->mode != KM_RAW)
        cli_json_number(&json, "max_size", info->max_size);
    if (info->mode == KM_TRANSACTIONAL) {
        cli_json_number(&json, "journal_size", info->journal_size);
        cli_json_number(&json, "journal_used", info->journal_used);
    }
    cli_json_number(&json, "file_size", info->file_size);
    cli_json_number(&json, "file_allocated", info->file_allocated);
    if (info->mode != KM_RAW)
        json_state(&json, info);
    cli_json_number(&json, "handles", info->handles);
    cli_json_bool(&json, "read_only_handles", info->read_only_handles != 0);
    cli_json_close(&json, '}');
}

static void print_identity(const struct km_info *info) {
    char text[CLI_TEXT_SIZE];
    printf("  format        version %" PRIu32 ", %s", info->format_version, cli_text_mode(info->mode));
    printf("%s%s\n", info->compress ? ", compressed commits" : "", info->full_pages ? ", whole-page journal" : "");
    if (info->schema[0]) {
        char schema[sizeof info->schema];
        memcpy(schema, info->schema, sizeof schema);
        cli_text_sanitize(schema, strnlen(schema, sizeof schema));
        printf("  schema        %.63s, version %" PRIu32 "\n", schema, info->schema_version);
    } else {
        printf("  schema        none\n");
    }
    printf("  uuid          %s\n", cli_text_uuid(text, info->uuid));
    printf("  created       %s\n", cli_text_local_time(text, info->created_ns));
}

static void print_sizes(const struct km_info *info) {
    char text[CLI_TEXT_SIZE], used[CLI_TEXT_SIZE];
    printf("  size          %s\n", cli_text_bytes(text, info->size));
    if (info->mode != KM_RAW)
        printf("  max size      %s\n", cli_text_bytes(text, info->max_size));
    if (info->mode == KM_TRANSACTIONAL) {
        printf("  journal       %s, ", cli_text_bytes(text, info->journal_size));
        printf("in use: %s\n", cli_text_size(used, info->journal_used));
    }
    printf("  file          %s, ", cli_text_bytes(text, info->file_size));
    printf("%s: %s\n", info->paging_file ? "in memory" : "on disk", cli_text_size(used, info->file_allocated));
}

static void print_attached(const struct attached *attached) {
    printf("  writers       %" PRIu64, attached->count);
    for (uint64_t i = 0; i < attached->count && i < NAMED_MAX; i++) {
        char name[sizeof attached->named[i].process_name];
        memcpy(name, attached->named[i].process_name, sizeof name);
        cli_text_sanitize(name, strnlen(name, sizeof name));
        printf("%s%" PRIu32, i == 0 ? ": process " : ", ", attached->named[i].process_id);
        if (name[0])
            printf(" (%.63s)", name);
    }
    printf("%s\n", attached->count > NAMED_MAX ? ", ..." : "");
}

static void print_state(const struct km_info *info) {
    if (info->mode == KM_LIVE)
        printf("  generation    %" PRIu64 " (sealed: %" PRIu64 ")\n", info->generation, info->durable_generation);
    else
        printf("  generation    %" PRIu64 " (durable: %" PRIu64 ", checkpoint: %" PRIu64 ")\n", info->generation,
               info->durable_generation, info->checkpoint_generation);
    printf("  checksum      %s, digest of the whole map%s %016" PRIx64 "\n", cli_text_checksum(info->checksum),
           info->mode == KM_LIVE ? " at the last seal" : "", info->digest);
    printf("  header slots  %s\n", slots_words(info->header_slots));
    printf("  state         %s\n", state_words(info));
    if (info->abandoned)
        printf("  last writer   died inside its transaction, or the machine did: what was stored may be half there\n");
}

static void print_words(const struct cli_command *command, const struct km_info *info,
                        const struct attached *attached) {
    printf("%s\n", command->shown);
    if (info->mode == KM_RAW)
        printf("  format        none: raw bytes\n");
    else
        print_identity(info);
    if (info->paging_file)
        printf("  backed by     the paging file: it ends with its last user\n");
    print_sizes(info);
    if (info->mode == KM_RAW) {
        printf("  writers       %" PRIu32 "\n", info->handles);
    } else {
        print_state(info);
        print_attached(attached);
    }
    printf("  readers       %s\n",
           info->read_only_handles ? "at least one without write permission" : "none without write permission");
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
    struct attached attached = {.count = 0};
    int error = km_get_info(map, &info);
    if (error == 0 && info.mode != KM_RAW)
        error = km_who(map, remember_user, &attached);
    if (error)
        status = cli_fail(command, error);
    status = cli_close(command, map, status, "nothing was changed");
    if (status)
        return status;
    if (command->json)
        print_json(command, &info);
    else
        print_words(command, &info, &attached);
    return CLI_DONE;
}

const struct cli_verb cli_verb_info = {
    .name = "info",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "tell what a map is and how it stands",
    .description =
        "Tell the map's format, schema, sizes, generation, checksums, state, and who has it open. Never changes\n"
        "the file; safe while the map is in use.",
    .example = "  keepmap info state.km --json | jq .generation",
    .run = run,
};
