/* SPDX-License-Identifier: MIT
 *
 * Writing JSON to standard output, one value after the other. Whatever bytes a string holds, what comes out is valid
 * JSON in UTF-8. The caller balances what it opens; write errors stay in the stream and are found when it is closed.
 */
#ifndef CLI_JSON_H
#define CLI_JSON_H

#include <stdbool.h>
#include <stdint.h>

/** A document under way. */
struct cli_json {
    unsigned depth;
    bool filled; /* the innermost object or array has a member already */
    bool line;   /* the document takes one line, which its end flushes */
};

/** Begin an object whose first member is the target. */
struct cli_json cli_json_start(const char *target);

/** The same, all of it on one line: for output without an end, a document a line. */
struct cli_json cli_json_start_line(const char *target);

/* `key` is NULL for the outermost value and for members of arrays. Numbers are plain JSON numbers of up to 64 bits. */
void cli_json_open(struct cli_json *json, const char *key, char bracket); /* '{' or '[' */
void cli_json_close(struct cli_json *json, char bracket);                 /* '}' or ']' */
void cli_json_string(struct cli_json *json, const char *key, const char *value);
void cli_json_number(struct cli_json *json, const char *key, uint64_t value);
void cli_json_bool(struct cli_json *json, const char *key, bool value);
void cli_json_null(struct cli_json *json, const char *key);

/** A number in hexadecimal, as a string of `digits` digits: for checksums, which are no quantities. */
void cli_json_hex(struct cli_json *json, const char *key, uint64_t value, int digits);

/** A time: KEY as a string in UTC and KEY_ns as nanoseconds since 1970. */
void cli_json_time(struct cli_json *json, const char *key, uint64_t time_ns);

#endif
