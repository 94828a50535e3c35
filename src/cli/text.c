/* SPDX-License-Identifier: MIT
 *
 * Sizes, durations and points in time, as words. Parsing is by hand: strtoull() takes signs, blanks and other bases,
 * and leaves overflow to errno.
 */
#include "text.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "keepmap.h"

static const char *const not_a_size = "is not a size: give bytes, or a number with K, M, G or T (1024), such as 64M";
static const char *const size_too_large = "is more than 64 bits can hold";

/** Read digits. Sets `*end` behind them; NULL, `empty` if there are none, `overflow` if there are too many. */
static const char *parse_digits(const char *text, const char **end, uint64_t *number, const char *empty,
                                const char *overflow) {
    uint64_t value = 0;
    const char *next = text;
    for (; *next >= '0' && *next <= '9'; next++) {
        const uint64_t digit = (uint64_t)(*next - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return overflow;
        value = value * 10 + digit;
    }
    if (next == text)
        return empty;
    *end = next;
    *number = value;
    return NULL;
}

const char *cli_parse_size(const char *text, uint64_t *size) {
    uint64_t value = 0;
    const char *end = text;
    const char *wrong = parse_digits(text, &end, &value, not_a_size, size_too_large);
    if (wrong)
        return wrong;
    if (*end != '\0') {
        static const char letters[] = "KMGTkmgt";
        const char *letter = strchr(letters, *end);
        if (letter == NULL || end[1] != '\0')
            return not_a_size;
        const unsigned shift = 10u * (unsigned)((letter - letters) % 4 + 1);
        if (value > UINT64_MAX >> shift)
            return size_too_large;
        value <<= shift;
    }
    *size = value;
    return NULL;
}

const char *cli_parse_count(const char *text, uint64_t *count) {
    static const char *const not_a_count = "is not a count";
    uint64_t value = 0;
    const char *end = text;
    const char *wrong = parse_digits(text, &end, &value, not_a_count, size_too_large);
    if (wrong)
        return wrong;
    if (*end != '\0')
        return not_a_count;
    *count = value;
    return NULL;
}

const char *cli_parse_seconds(const char *text, uint32_t *milliseconds) {
    static const char *const not_seconds = "is not a time in seconds: give a number such as 10 or 0.5, or 'forever'";
    static const char *const too_long = "is too long: give at most 4000000, or 'forever'";
    if (strcmp(text, "forever") == 0) {
        *milliseconds = UINT32_MAX;
        return NULL;
    }
    uint64_t seconds = 0;
    const char *end = text;
    const char *wrong = parse_digits(text, &end, &seconds, not_seconds, too_long);
    if (wrong)
        return wrong;
    if (seconds > 4000000)
        return too_long;
    uint64_t fraction = 0;
    if (*end == '.') {
        const char *digit = end + 1;
        uint64_t unit = 100;
        for (; *digit >= '0' && *digit <= '9'; digit++, unit /= 10)
            fraction += (uint64_t)(*digit - '0') * unit;
        if (digit == end + 1)
            return not_seconds;
        end = digit;
    }
    if (*end != '\0')
        return not_seconds;
    const uint64_t value = seconds * 1000 + fraction;
    *milliseconds = value == 0 ? 1 : (uint32_t)value; /* 0 would mean the default to the library */
    return NULL;
}

const char *cli_parse_permissions(const char *text, uint32_t *permissions) {
    static const char *const not_permissions = "is not a set of permissions: give octal digits from 0600 to 0777";
    uint32_t value = 0;
    const char *next = text;
    for (; *next >= '0' && *next <= '7' && value <= 0777; next++)
        value = value * 8 + (uint32_t)(*next - '0');
    if (next == text || *next != '\0' || value > 0777 || (value & 0600) != 0600)
        return not_permissions;
    *permissions = value;
    return NULL;
}

const char *cli_parse_schema(const char *text, char *name, uint32_t *version) {
    static const char *const not_a_schema = "is not a schema: give NAME:VERSION, such as counter:3";
    const char *colon = strrchr(text, ':');
    if (colon == NULL || colon == text)
        return not_a_schema;
    const size_t length = (size_t)(colon - text);
    if (length > 63)
        return "has a name that is longer than 63 bytes";
    uint64_t value = 0;
    const char *end = colon + 1;
    if (parse_digits(colon + 1, &end, &value, not_a_schema, not_a_schema) != NULL || *end != '\0')
        return not_a_schema;
    if (value > UINT32_MAX)
        return "has a version above 4294967295";
    memcpy(name, text, length);
    name[length] = '\0';
    *version = (uint32_t)value;
    return NULL;
}

char *cli_text_size(char *text, uint64_t bytes) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    while (unit < 6 && bytes >> (10 * (unit + 1)) != 0)
        unit++;
    const unsigned shift = 10 * unit;
    uint64_t whole = bytes >> shift;
    uint64_t tenths = 0;
    if (unit > 0) {
        const uint64_t rest = bytes & ((UINT64_C(1) << shift) - 1);
        tenths = ((rest >> (shift - 10)) * 10 + 512) / 1024; /* ten bits of the rest are plenty for one digit */
        if (tenths == 10) {
            tenths = 0;
            whole++;
        }
        if (whole == 1024 && unit < 6) {
            whole = 1;
            unit++;
        }
    }
    if (unit == 0 && bytes == 1)
        snprintf(text, CLI_TEXT_SIZE, "1 byte");
    else if (tenths == 0)
        snprintf(text, CLI_TEXT_SIZE, "%" PRIu64 " %s", whole, units[unit]);
    else
        snprintf(text, CLI_TEXT_SIZE, "%" PRIu64 ".%" PRIu64 " %s", whole, tenths, units[unit]);
    return text;
}

char *cli_text_bytes(char *text, uint64_t bytes) {
    char human[CLI_TEXT_SIZE];
    if (bytes < 1024)
        return cli_text_size(text, bytes);
    snprintf(text, CLI_TEXT_SIZE, "%" PRIu64 " bytes (%.16s)", bytes, cli_text_size(human, bytes));
    return text;
}

char *cli_text_local_time(char *text, uint64_t time_ns) {
    const time_t seconds = (time_t)(time_ns / 1000000000u);
    const unsigned milliseconds = (unsigned)(time_ns % 1000000000u / 1000000u);
    struct tm tm;
    char day[40], zone[16];
    if (localtime_r(&seconds, &tm) == NULL || strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm) == 0 ||
        strftime(zone, sizeof zone, "%z", &tm) != 5)
        return cli_text_utc_time(text, time_ns);
    snprintf(text, CLI_TEXT_SIZE, "%s.%03u%.3s:%.2s", day, milliseconds, zone, zone + 3);
    return text;
}

char *cli_text_utc_time(char *text, uint64_t time_ns) {
    const time_t seconds = (time_t)(time_ns / 1000000000u);
    struct tm tm;
    char day[40];
    if (gmtime_r(&seconds, &tm) == NULL || strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm) == 0)
        snprintf(text, CLI_TEXT_SIZE, "%" PRIu64 " ns", time_ns);
    else
        snprintf(text, CLI_TEXT_SIZE, "%s.%09uZ", day, (unsigned)(time_ns % 1000000000u));
    return text;
}

char *cli_text_uuid(char *text, const uint8_t uuid[16]) {
    size_t length = 0;
    for (size_t i = 0; i < 16; i++) {
        const char *dash = i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "";
        length += (size_t)snprintf(text + length, CLI_TEXT_SIZE - length, "%s%02x", dash, (unsigned)uuid[i]);
    }
    return text;
}

const char *cli_text_checksum(uint32_t checksum) {
    switch (checksum) {
    case KM_CHECKSUM_CRC32C:
        return "crc32c";
    case KM_CHECKSUM_CRC32:
        return "crc32";
    case KM_CHECKSUM_NONE:
        return "none";
    default:
        return "unknown";
    }
}

const char *cli_text_mode(uint32_t mode) {
    switch (mode) {
    case KM_TRANSACTIONAL:
        return "transactional";
    case KM_LIVE:
        return "live";
    case KM_RAW:
        return "raw";
    default:
        return "unknown";
    }
}

size_t cli_text_utf8_length(const unsigned char *bytes) {
    const unsigned char first = bytes[0];
    size_t length;
    unsigned char low = 0x80, high = 0xbf; /* of the second byte */
    if (first < 0x80)
        return 1;
    if (first >= 0xc2 && first <= 0xdf) {
        length = 2;
    } else if (first >= 0xe0 && first <= 0xef) {
        length = 3;
        low = first == 0xe0 ? 0xa0 : 0x80;
        high = first == 0xed ? 0x9f : 0xbf;
    } else if (first >= 0xf0 && first <= 0xf4) {
        length = 4;
        low = first == 0xf0 ? 0x90 : 0x80;
        high = first == 0xf4 ? 0x8f : 0xbf;
    } else {
        return 0;
    }
    if (bytes[1] < low || bytes[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if (bytes[i] < 0x80 || bytes[i] > 0xbf)
            return 0;
    return length;
}

const char *cli_text_detail(const char *detail, const char *target) {
    const size_t length = strlen(target);
    const bool names_it = strncmp(detail, target, length) == 0 && strncmp(detail + length, ": ", 2) == 0;
    return names_it ? detail + length + 2 : detail;
}

void cli_text_sanitize(char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        const unsigned char byte = (unsigned char)text[i];
        if (byte < 0x20 || byte == 0x7f)
            text[i] = '?';
        if (byte == 0xc2 && i + 1 < length && ((unsigned char)text[i + 1] & 0xe0) == 0x80)
            text[i] = text[i + 1] = '?'; /* U+0080 to U+009F, control characters too */
    }
}
