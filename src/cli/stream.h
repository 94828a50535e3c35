/* SPDX-License-Identifier: MIT
 *
 * The tool's three standard streams: the one place of the tool that touches file descriptors.
 */
#ifndef CLI_STREAM_H
#define CLI_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Before anything is opened: see to it that descriptors 0, 1 and 2 are taken. If a caller closed one of them, the next
 * file opened would get its number, and a message could end up inside a map. A closed one fails when it is used.
 */
void cli_streams_secure(void);

/** Whether standard output goes into the very file that `path` names. */
bool cli_stream_output_is(const char *path);

/** Write bytes to standard output, all of them. 0 or an errno value: EFAULT if the memory lost its file underneath. */
int cli_stream_write(const void *bytes, size_t length);

/** Hand what was printed over to standard output now. That it fails is told by cli_streams_finish(). */
void cli_stream_flush(void);

/** Read what comes next from standard input, at most `length` bytes. `*got` is how many came, 0 at the end. 0 or an
 *  errno value. */
int cli_stream_read(void *bytes, size_t length, size_t *got);

/** Wait for a line, or the end, of standard input: at once if it is closed. */
void cli_stream_await_line(void);

/** Bytes of standard input if it is a file of known length, from where it stands; 0 if it is not told. */
uint64_t cli_stream_input_size(void);

/** Whether standard input is a terminal. */
bool cli_stream_input_terminal(void);

/** Whether standard error is a terminal, and whether it is to be coloured (NO_COLOR, TERM=dumb). */
bool cli_stream_terminal(void);
bool cli_stream_colour(void);

/** Nanoseconds of a clock that only goes forward. */
uint64_t cli_stream_clock_ns(void);

/** Let some milliseconds pass, or fewer if a signal comes. */
void cli_stream_pause_ms(uint32_t milliseconds);

/**
 * Flush and close standard output. `status` if all of it was written; otherwise CLI_SYSTEM, after saying so, except
 * that a reader who has gone away is not told about.
 */
int cli_streams_finish(int status);

/** Say that standard output failed with an errno value, unless its reader went away; returns CLI_SYSTEM. */
int cli_stream_failed(int system_error);

#endif
