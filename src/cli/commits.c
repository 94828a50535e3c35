/* SPDX-License-Identifier: MIT
 *
 * Commits as km_log() tells them.
 */
#include "commits.h"

#include <stdlib.h>

int cli_commits_add(void *context, const struct km_log_entry *entry) {
    struct cli_commits *commits = context;
    if (entry->generation <= commits->after)
        return 0;
    if (commits->count == commits->capacity) {
        const size_t capacity = commits->capacity ? commits->capacity * 2 : 64;
        struct km_log_entry *list = realloc(commits->list, capacity * sizeof *list);
        if (list == NULL)
            return KM_ENOMEM;
        commits->list = list;
        commits->capacity = capacity;
    }
    commits->list[commits->count++] = *entry;
    return 0;
}

void cli_commits_free(struct cli_commits *commits) {
    free(commits->list);
    *commits = (struct cli_commits){.after = commits->after};
}

void cli_commit_json(struct cli_json *json, const struct km_log_entry *entry) {
    cli_json_number(json, "generation", entry->generation);
    cli_json_time(json, "time", entry->time_ns);
    cli_json_number(json, "process_id", entry->process_id);
    cli_json_number(json, "changed_bytes", entry->changed_bytes);
    cli_json_number(json, "pages", entry->pages);
    cli_json_number(json, "frame_bytes", entry->frame_bytes);
    cli_json_number(json, "size", entry->size);
    cli_json_hex(json, "digest", entry->digest, 16);
    cli_json_bool(json, "checkpointed", entry->checkpointed != 0);
    cli_json_bool(json, "compressed", entry->compressed != 0);
}
