/* SPDX-License-Identifier: MIT
 *
 * The model test's knowledge: see world.h.
 */
#include "world.h"

void world_trace(struct world *world, const char *format, ...) {
    char *line = world->trace[world->traced++ % TRACE_LINES];
    const int length = snprintf(line, sizeof world->trace[0], "%5u ", world->step);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + length, sizeof world->trace[0] - (size_t)length, format, arguments);
    va_end(arguments);
}

void world_broken(struct world *world, const char *format, ...) {
    const unsigned first = world->traced > TRACE_LINES ? world->traced - TRACE_LINES : 0;
    for (unsigned i = first; i < world->traced; i++) {
        print_error("  %s\n", world->trace[i % TRACE_LINES]);
    }
    char what[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    print_error("step %u: %s\n  last error: %s\n  repeat with KEEPMAP_SEED=%llu\n", world->step, what,
                km_last_error_detail(), (unsigned long long)world->seed);
    fail();
    abort();
}

void world_expect(struct world *world, const struct user *user, const char *call, int result, int expected) {
    if (result != expected) {
        world_broken(world, "user %d: %s gave %s, expected %s", (int)(user - world->users), call, km_error_name(result),
                     km_error_name(expected));
    }
}

bool world_others(const struct world *world, const struct user *user, enum doing least) {
    for (const struct user *other = world->users; other < world->users + USERS; other++) {
        if (other != user && other->doing >= least) {
            return true;
        }
    }
    return false;
}

bool user_writes(const struct user *user) {
    return (user->flags & KM_READONLY) == 0;
}

void world_compare(struct world *world, const struct user *user) {
    const int number = (int)(user - world->users);
    if (km_size(user->map) != user->seen_size) {
        world_broken(world, "user %d sees %llu bytes, expected %llu", number, (unsigned long long)km_size(user->map),
                     (unsigned long long)user->seen_size);
    }
    if (km_data(user->map) != user->data) {
        world_broken(world, "user %d: the data moved", number);
    }
    const unsigned char *data = user->data;
    if (memcmp(data, user->seen, user->seen_size) != 0) {
        uint64_t at = 0;
        while (data[at] == user->seen[at]) {
            at++;
        }
        uint64_t wrong = 0;
        for (uint64_t i = at; i < user->seen_size; i++) {
            wrong += data[i] != user->seen[i];
        }
        world_broken(world, "user %d: byte %llu (page %llu) is %02x, expected %02x; %llu bytes differ; newest has %02x",
                     number, (unsigned long long)at, (unsigned long long)(at / KM_PAGE_SIZE), data[at], user->seen[at],
                     (unsigned long long)wrong, world->now[at]);
    }
}
