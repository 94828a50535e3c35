/* SPDX-License-Identifier: MIT
 *
 * A progress bar on standard error, for what takes more than a second, if that is a terminal.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct cli_progress {
    const char *label;
    bool wanted, shown, colour;
    uint64_t started_ns, drawn_ns;
};

void cli_progress_start(struct cli_progress *progress, const char *label, bool wanted);

/** Tell how far the work is; `total` is 0 where nobody knows. Cheap enough to be called often. */
void cli_progress_update(struct cli_progress *progress, uint64_t done, uint64_t total);

/** Take the bar away, before something else is printed and at the end. It comes back with the next update. */
void cli_progress_clear(struct cli_progress *progress);

#endif
