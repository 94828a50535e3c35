/* SPDX-License-Identifier: MIT
 *
 * A progress bar: drawn by a carriage return alone, so that it needs nothing of the terminal but that.
 */
#include "progress.h"

#include <stdio.h>

#include "stream.h"
#include "text.h"

enum { BAR_WIDTH = 30, LINE_WIDTH = 78 };

static const uint64_t appears_after_ns = 1000000000u;
static const uint64_t redraws_after_ns = 100000000u;

void cli_progress_start(struct cli_progress *progress, const char *label, bool wanted) {
    *progress = (struct cli_progress){.label = label, .wanted = wanted && cli_stream_terminal()};
    progress->colour = progress->wanted && cli_stream_colour();
    progress->started_ns = progress->wanted ? cli_stream_clock_ns() : 0;
}

static void draw(const struct cli_progress *progress, uint64_t done, uint64_t total) {
    char done_text[CLI_TEXT_SIZE], total_text[CLI_TEXT_SIZE], bar[BAR_WIDTH + 1];
    if (total == 0) {
        fprintf(stderr, "\r%.20s %.16s      ", progress->label, cli_text_size(done_text, done));
        return;
    }
    if (done > total)
        done = total;
    const double part = (double)done / (double)total;
    const int filled = (int)(part * BAR_WIDTH);
    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r%.20s [%s%s%s] %3d %%, %.12s of %.12s  ", progress->label, progress->colour ? "\033[32m" : "",
            bar, progress->colour ? "\033[0m" : "", (int)(part * 100), cli_text_size(done_text, done),
            cli_text_size(total_text, total));
}

void cli_progress_update(struct cli_progress *progress, uint64_t done, uint64_t total) {
    if (!progress->wanted)
        return;
    const uint64_t now_ns = cli_stream_clock_ns();
    if (now_ns - progress->started_ns < appears_after_ns || now_ns - progress->drawn_ns < redraws_after_ns)
        return;
    draw(progress, done, total);
    fflush(stderr);
    progress->drawn_ns = now_ns;
    progress->shown = true;
}

void cli_progress_clear(struct cli_progress *progress) {
    if (!progress->shown)
        return;
    fprintf(stderr, "\r%*s\r", LINE_WIDTH, "");
    fflush(stderr);
    progress->shown = false;
}
