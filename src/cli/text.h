/* SPDX-License-Identifier: MIT
 *
 * Sizes, durations and points in time, as words: reading what a user typed, writing what a user reads. Pure functions.
 */
#ifndef CLI_TEXT_H
#define CLI_TEXT_H

#include <stddef.h>
#include <stdint.h>

/** Room that is enough for every text that is made here. */
#define CLI_TEXT_SIZE 80

/** Read a size: bytes, or a number with K, M, G or T (1024). NULL, or what is wrong, as the end of a sentence. */
const char *cli_parse_size(const char *text, uint64_t *size);

/** Read a count: decimal digits. NULL, or what is wrong with it. */
const char *cli_parse_count(const char *text, uint64_t *count);

/** Read seconds, with decimals if need be, or "forever" (UINT32_MAX), as milliseconds from 1 on. NULL, or what is
 *  wrong. */
const char *cli_parse_seconds(const char *text, uint32_t *milliseconds);

/** Read permissions in octal. NULL, or what is wrong. */
const char *cli_parse_permissions(const char *text, uint32_t *permissions);

/** Read NAME:VERSION; `name` has room for 64 bytes. NULL, or what is wrong. */
const char *cli_parse_schema(const char *text, char *name, uint32_t *version);

/** "5 bytes", "64 MiB", "1.5 GiB". All of these return `text`, which has room for CLI_TEXT_SIZE bytes. */
char *cli_text_size(char *text, uint64_t bytes);

/** "67108864 bytes (64 MiB)" */
char *cli_text_bytes(char *text, uint64_t bytes);

/** A time in nanoseconds since 1970 as ISO 8601, in local time with its zone: 2026-05-01T12:00:00.123+02:00 */
char *cli_text_local_time(char *text, uint64_t time_ns);

/** The same in UTC with all nanoseconds: 2026-05-01T10:00:00.123456789Z */
char *cli_text_utc_time(char *text, uint64_t time_ns);

/** Sixteen bytes in the usual form of a UUID. */
char *cli_text_uuid(char *text, const uint8_t uuid[16]);

/** Name of a kind of page checksums, a mode. Valid for ever. */
const char *cli_text_checksum(uint32_t checksum);
const char *cli_text_mode(uint32_t mode);

/** Length of the well-formed UTF-8 sequence at `bytes` (Unicode 15, table 3-7), or 0. Does not look beyond a NUL. */
size_t cli_text_utf8_length(const unsigned char *bytes);

/** The library's sentence about an error without the target at its start, where a line names the target already. */
const char *cli_text_detail(const char *detail, const char *target);

/** Make bytes that a terminal could obey visible as '?', in place. */
void cli_text_sanitize(char *text, size_t length);

#endif
