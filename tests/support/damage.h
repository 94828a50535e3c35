/* SPDX-License-Identifier: MIT
 *
 * The damaged files of data/damaged: each is a file whose story ended well (tales.h), and of which one thing was
 * changed; and those of data/damaged/rules, which are golden files but for the bytes that one rule is about.
 */
#ifndef KM_TESTS_DAMAGE_H
#define KM_TESTS_DAMAGE_H

#include "story.h"

struct damaged {
    const char *name; /* the error that it gives, and what tells it from others: see data/README.md */
    struct image (*tell)(struct story *);
    void (*change)(struct image *);
};

extern const struct damaged damageds[];
extern const size_t damaged_count;

/** One rule of a field that is broken, in a golden file. */
struct broken {
    const char *name;
    const char *base;                       /* the golden file */
    void (*change)(struct image *);         /* anything; or */
    void (*frame)(struct km__frame_head *); /* head or body of the second frame of tell_frames(); or */
    struct header_value {
        uint16_t offset, width;
        uint64_t value;
    } header; /* a field of both header slots, in a file that is cut behind control, as nobody looks further */
};

extern const struct broken brokens[];
extern const size_t broken_count;

void damage_rule(const struct broken *broken, struct image *image);

#endif
