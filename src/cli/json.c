/* SPDX-License-Identifier: MIT
 *
 * Writing JSON (RFC 8259). Members stand one a line, indented, so that people can read the output too; where many
 * documents follow each other, each stands on a line of its own.
 */
#include "json.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#include "stream.h"
#include "text.h"

static void put_string(const char *text) {
    putchar('"');
    const unsigned char *next = (const unsigned char *)text;
    while (*next != '\0') {
        const size_t length = cli_text_utf8_length(next);
        if (length == 0)
            fputs("\xef\xbf\xbd", stdout); /* U+FFFD, the replacement character */
        else if (*next == '"' || *next == '\\')
            printf("\\%c", *next);
        else if (*next < 0x20 || *next == 0x7f)
            printf("\\u%04x", (unsigned)*next);
        else
            fwrite(next, 1, length, stdout);
        next += length == 0 ? 1 : length;
    }
    putchar('"');
}

/** Everything that stands before a value: the comma, the line, the key. */
static void start_value(struct cli_json *json, const char *key) {
    if (json->line) {
        fputs(json->filled ? ", " : "", stdout);
    } else if (json->depth > 0) {
        fputs(json->filled ? ",\n" : "\n", stdout);
        for (unsigned i = 0; i < json->depth; i++)
            fputs("  ", stdout);
    }
    json->filled = true;
    if (key) {
        put_string(key);
        fputs(": ", stdout);
    }
}

void cli_json_open(struct cli_json *json, const char *key, char bracket) {
    start_value(json, key);
    putchar(bracket);
    json->depth++;
    json->filled = false;
}

void cli_json_close(struct cli_json *json, char bracket) {
    json->depth--;
    if (json->filled && !json->line) {
        putchar('\n');
        for (unsigned i = 0; i < json->depth; i++)
            fputs("  ", stdout);
    }
    putchar(bracket);
    json->filled = true;
    if (json->depth == 0) {
        putchar('\n');
        if (json->line)
            cli_stream_flush();
    }
}

static struct cli_json start(const char *target, bool line) {
    struct cli_json json = {.line = line};
    cli_json_open(&json, NULL, '{');
    cli_json_string(&json, "target", target);
    return json;
}

struct cli_json cli_json_start(const char *target) {
    return start(target, false);
}

struct cli_json cli_json_start_line(const char *target) {
    return start(target, true);
}

void cli_json_string(struct cli_json *json, const char *key, const char *value) {
    start_value(json, key);
    put_string(value);
}

void cli_json_number(struct cli_json *json, const char *key, uint64_t value) {
    start_value(json, key);
    printf("%" PRIu64, value);
}

void cli_json_bool(struct cli_json *json, const char *key, bool value) {
    start_value(json, key);
    fputs(value ? "true" : "false", stdout);
}

void cli_json_null(struct cli_json *json, const char *key) {
    start_value(json, key);
    fputs("null", stdout);
}

void cli_json_hex(struct cli_json *json, const char *key, uint64_t value, int digits) {
    start_value(json, key);
    printf("\"%0*" PRIx64 "\"", digits, value);
}

void cli_json_time(struct cli_json *json, const char *key, uint64_t time_ns) {
    char text[CLI_TEXT_SIZE], key_ns[40];
    cli_json_string(json, key, cli_text_utc_time(text, time_ns));
    snprintf(key_ns, sizeof key_ns, "%s_ns", key);
    cli_json_number(json, key_ns, time_ns);
}
