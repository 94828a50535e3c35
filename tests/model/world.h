/* SPDX-License-Identifier: MIT
 *
 * What the model test knows: the array that the newest generation must equal, what each handle must see, and what was
 * done last, for the report when something is wrong.
 */
#ifndef KM_TESTS_WORLD_H
#define KM_TESTS_WORLD_H

#include "support/chance.h"
#include "support/check.h"

#define USERS 3
#define CAPACITY (UINT64_C(1) << 20) /* of the array: the data never grows beyond */
#define TRACE_LINES 48

enum doing { CLOSED, IDLE, READING, WRITING };

struct user {
    km_map *map;
    void *data; /* where km_data() was first */
    enum doing doing;
    uint32_t flags;
    bool stray;          /* a store outside a transaction waits to be found */
    uint64_t strayed_at; /* the generation that the handle stood at then */
    unsigned char *seen; /* what its transaction must see, its own stores included */
    uint64_t seen_size;
};

struct world {
    struct chance chance;
    uint64_t seed;
    const char *path;
    uint32_t creation_flags, checksum;
    unsigned char *now; /* the newest generation */
    uint64_t size, max_size, generation;
    struct user users[USERS];
    unsigned patience; /* percent: how soon a snapshot is let go */
    unsigned step;
    char trace[TRACE_LINES][160];
    unsigned traced;
    unsigned commits, full, strays, growths, moves, sessions;
};

/** Note what was done, for the report. */
__attribute__((format(printf, 2, 3))) void world_trace(struct world *world, const char *format, ...);

/** End the test with what was done last, what is wrong, and the seed. */
__attribute__((noreturn, format(printf, 2, 3))) void world_broken(struct world *world, const char *format, ...);

void world_expect(struct world *world, const struct user *user, const char *call, int result, int expected);

/** Whether another handle is doing at least `least`. */
bool world_others(const struct world *world, const struct user *user, enum doing least);

/** What a handle in a transaction shows is what it must see, byte for byte. */
void world_compare(struct world *world, const struct user *user);

bool user_writes(const struct user *user);

#endif
