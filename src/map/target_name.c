/* SPDX-License-Identifier: MIT
 *
 * Names of maps: a path, or `Local\NAME` and `Global\NAME` for an object backed by the paging file.
 *
 * The rules are those of the narrowest system, so that a name that works on one works on all: on Windows the part
 * behind the prefix is a name in the kernel's namespace of objects, where a backslash separates, on Linux it is the
 * name of a file, where a slash does and 255 bytes are the limit. The prefixes are told from paths by their case:
 * Windows takes `local\x` for `Local\x`, so such a target would mean two things, and is refused.
 */
#include <string.h>

#include "map.h"

enum { NAME_MAX_BYTES = 200 };

static const char *const prefixes[] = {"Local\\", "Global\\"};

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool starts_like(const char *target, const char *prefix) {
    while (*prefix != '\0')
        if (lower(*target++) != lower(*prefix++))
            return false;
    return true;
}

/* Bytes of the UTF-8 character at `text` (RFC 3629: shortest form, no surrogates, up to U+10FFFF); 0 if it is none. */
static size_t utf8_length(const unsigned char *text) {
    if (text[0] < 0x80)
        return 1;
    const size_t length = text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : 2;
    if (text[0] < 0xc2 || text[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    const bool too_long = (text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xf0 && text[1] < 0x90);
    const bool none = (text[0] == 0xed && text[1] >= 0xa0) || (text[0] == 0xf4 && text[1] >= 0x90);
    return too_long || none ? 0 : length;
}

static int check_name(const char *target, const char *name) {
    const size_t length = strlen(name);
    if (length == 0)
        return km__error(KM_EINVAL, "%s: there is no name behind the backslash: give one", target);
    if (length > NAME_MAX_BYTES)
        return km__error(KM_EINVAL, "the name of a map has %zu bytes, and %d are allowed: shorten it", length,
                         NAME_MAX_BYTES);
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return km__error(KM_EINVAL, "%s: the name means a directory: choose another", target);
    for (const unsigned char *at = (const unsigned char *)name; *at != '\0';) {
        const size_t step = utf8_length(at);
        if (step == 0)
            return km__error(KM_EINVAL, "the name of a map is not valid UTF-8: use letters of that encoding");
        if (*at < 0x20 || *at == 0x7f || (at[0] == 0xc2 && at[1] < 0xa0))
            return km__error(KM_EINVAL, "the name of a map has a control character in it: leave it out");
        if (*at == '/' || *at == '\\')
            return km__error(KM_EINVAL, "%s: the name has a '%c' in it: use another character", target, *at);
        at += step;
    }
    return 0;
}

int km__target_check(const char *target) {
    if (target == NULL || target[0] == '\0')
        return km__error(KM_EINVAL, "the target is empty: name a path, or Local\\NAME");
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        if (!starts_like(target, prefixes[i]))
            continue;
        const size_t length = strlen(prefixes[i]);
        if (strncmp(target, prefixes[i], length) == 0)
            return check_name(target, target + length);
        return km__error(
            KM_EINVAL,
            "%.64s: the prefix of a map backed by the paging file has its capitals elsewhere: write %sNAME, with "
            "these capitals, or ./ before it if a path is meant",
            target, prefixes[i]);
    }
    return 0;
}
