/* SPDX-License-Identifier: MIT
 *
 * The message that server leaves for client.
 */
#include "message.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream.h"
#include "text.h"

enum { UTF8_MAX = 3 }; /* bytes of UTF-8 that a unit of UTF-16, or a byte that is none, can become */

static const uint32_t replacement = 0xfffd;

/* ---- Code points ------------------------------------------------------------------------------------------------- */

/** The code point of a well-formed UTF-8 sequence. */
static uint32_t code_point(const unsigned char *bytes, size_t length) {
    static const unsigned char masks[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t point = bytes[0] & masks[length];
    for (size_t i = 1; i < length; i++)
        point = point << 6 | (bytes[i] & 0x3fu);
    return point;
}

static char *put_utf8(char *text, uint32_t point) {
    if (point < 0x80) {
        *text++ = (char)point;
        return text;
    }
    if (point < 0x800) {
        *text++ = (char)(0xc0 | point >> 6);
    } else {
        if (point < 0x10000) {
            *text++ = (char)(0xe0 | point >> 12);
        } else {
            *text++ = (char)(0xf0 | point >> 18);
            *text++ = (char)(0x80 | (point >> 12 & 0x3f));
        }
        *text++ = (char)(0x80 | (point >> 6 & 0x3f));
    }
    *text++ = (char)(0x80 | (point & 0x3f));
    return text;
}

static unsigned char *put_unit(unsigned char *bytes, uint32_t unit) {
    *bytes++ = (unsigned char)(unit & 0xff);
    *bytes++ = (unsigned char)(unit >> 8);
    return bytes;
}

static uint32_t unit_at(const unsigned char *bytes, size_t index) {
    return (uint32_t)bytes[2 * index] | (uint32_t)bytes[2 * index + 1] << 8;
}

/* ---- Bytes of a message ------------------------------------------------------------------------------------------ */

const char *cli_message_encode(const char *words, bool raw, unsigned char *bytes, size_t *length) {
    static const char *const too_long_utf8 = "is longer than the 65535 bytes of UTF-8 that there is room for";
    static const char *const too_long_utf16 = "is longer than the 32767 units of UTF-16 that there is room for";
    const unsigned char *next = (const unsigned char *)words;
    unsigned char *end = bytes;
    if (*next == '\0')
        return "is empty: nobody could tell it from none";
    while (*next != '\0') {
        const size_t count = cli_text_utf8_length(next);
        if (count == 0)
            return "is not UTF-8";
        const size_t taken = !raw ? count : count == 4 ? 4 : 2;
        const size_t final = raw ? 2 : 1;
        if (CLI_MESSAGE_ROOM - (size_t)(end - bytes) < taken + final)
            return raw ? too_long_utf16 : too_long_utf8;
        const uint32_t point = code_point(next, count);
        if (!raw) {
            memcpy(end, next, count);
            end += count;
        } else if (point < 0x10000) {
            end = put_unit(end, point);
        } else {
            end = put_unit(end, 0xd800 + ((point - 0x10000) >> 10));
            end = put_unit(end, 0xdc00 + ((point - 0x10000) & 0x3ff));
        }
        next += count;
    }
    *end++ = 0;
    if (raw)
        *end++ = 0;
    *length = (size_t)(end - bytes);
    return NULL;
}

static char *decode_utf16(const unsigned char *bytes, size_t units, char *text) {
    for (size_t i = 0; i < units; i++) {
        uint32_t point = unit_at(bytes, i);
        if (point == 0)
            break;
        const bool first_half = point >= 0xd800 && point <= 0xdbff;
        const uint32_t next = first_half && i + 1 < units ? unit_at(bytes, i + 1) : 0;
        if (next >= 0xdc00 && next <= 0xdfff) {
            point = 0x10000 + ((point - 0xd800) << 10) + (next - 0xdc00);
            i++;
        } else if (point >= 0xd800 && point <= 0xdfff) {
            point = replacement;
        }
        text = put_utf8(text, point);
    }
    return text;
}

/** `bytes` end with a NUL. */
static char *decode_utf8(const unsigned char *bytes, char *text) {
    while (*bytes != '\0') {
        const size_t length = cli_text_utf8_length(bytes);
        text = put_utf8(text, length == 0 ? replacement : code_point(bytes, length));
        bytes += length == 0 ? 1 : length;
    }
    return text;
}

char *cli_message_decode(const unsigned char *bytes, size_t length, bool raw) {
    char *text = malloc(length * UTF8_MAX + 1);
    unsigned char *ended = malloc(length + 1);
    if (text != NULL && ended != NULL) {
        memcpy(ended, bytes, length);
        ended[length] = '\0';
        char *end = raw ? decode_utf16(ended, length / 2, text) : decode_utf8(ended, text);
        *end = '\0';
        cli_text_sanitize(text, (size_t)(end - text));
    } else {
        free(text);
        text = NULL;
    }
    free(ended);
    return text;
}

/* ---- The conversation -------------------------------------------------------------------------------------------- */

void cli_message_line(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    cli_stream_flush();
}

void cli_message_press_enter(void) {
    cli_message_line("Press ENTER to clean up resources and quit");
    cli_stream_await_line();
}
