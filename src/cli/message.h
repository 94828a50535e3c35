/* SPDX-License-Identifier: MIT
 *
 * The message that server leaves for client, as bytes at the start of the data: UTF-8 in a map, UTF-16 in a raw
 * section, where programs that know nothing of keepmap read it; both with a final NUL.
 */
#ifndef CLI_MESSAGE_H
#define CLI_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "command.h"

/** Bytes of data that server makes room for, final NUL included. */
#define CLI_MESSAGE_ROOM 65536u

/** Turn words into the bytes that stand for them; `bytes` has room for CLI_MESSAGE_ROOM. NULL, or what is wrong with
 *  them as the end of a sentence. */
const char *cli_message_encode(const char *words, bool raw, unsigned char *bytes, size_t *length);

/** What bytes say, up to their NUL or their end, fit for a terminal. Allocated; NULL when there is no memory. */
char *cli_message_decode(const unsigned char *bytes, size_t length, bool raw);

/** Wait at a "Press ENTER" for the user, in `verb`s that hold a map; the line itself is printed and flushed first. */
void cli_message_press_enter(void);

/** Print one line of the conversation at once: server and client run side by side, and each is watched. */
__attribute__((format(printf, 1, 2))) void cli_message_line(const char *format, ...);

#endif
