/* SPDX-License-Identifier: MIT
 *
 * Commits as km_log() tells them, kept until they are printed: printing can take its time.
 */
#ifndef CLI_COMMITS_H
#define CLI_COMMITS_H

#include <stddef.h>
#include <stdint.h>

#include "json.h"
#include "keepmap.h"

struct cli_commits {
    uint64_t after; /* only those above this generation are kept */
    struct km_log_entry *list;
    size_t count, capacity;
};

/** Keep one commit; a function for km_log(), with a struct cli_commits as its context. Not 0 if there is no memory. */
int cli_commits_add(void *context, const struct km_log_entry *entry);

void cli_commits_free(struct cli_commits *commits);

/** Add the members that tell about a commit to an open object. */
void cli_commit_json(struct cli_json *json, const struct km_log_entry *entry);

#endif
