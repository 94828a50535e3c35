/* SPDX-License-Identifier: MIT
 *
 * Seeded chance: see chance.h. The generator is splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
 * generators", 2014).
 */
#include "chance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t finish(uint64_t z) {
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

bool chance_seed_is_given(void) {
    const char *given = getenv("KEEPMAP_SEED");
    return given != NULL && given[0] != '\0';
}

uint64_t chance_seed(void) {
    static uint64_t seed;
    static bool known;
    if (!known) {
        if (chance_seed_is_given()) {
            seed = strtoull(getenv("KEEPMAP_SEED"), NULL, 0);
        } else {
            struct timespec now;
            clock_gettime(CLOCK_REALTIME, &now);
            seed =
                finish((uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec + (uint64_t)getpid()) % 1000000000u;
        }
        known = true;
        fprintf(stderr, "# seed %llu (repeat with KEEPMAP_SEED=%llu)\n", (unsigned long long)seed,
                (unsigned long long)seed);
    }
    return seed;
}

uint64_t chance_next(struct chance *chance) {
    chance->state += UINT64_C(0x9e3779b97f4a7c15);
    return finish(chance->state);
}

uint64_t chance_below(struct chance *chance, uint64_t limit) {
    return chance_next(chance) % limit;
}

uint64_t chance_between(struct chance *chance, uint64_t low, uint64_t high) {
    return low + chance_below(chance, high - low + 1);
}

bool chance_percent(struct chance *chance, unsigned percent) {
    return chance_below(chance, 100) < percent;
}

void chance_fill(struct chance *chance, void *bytes, size_t length) {
    unsigned char *to = bytes;
    while (length > 0) {
        const uint64_t word = chance_next(chance);
        const size_t part = length < sizeof word ? length : sizeof word;
        memcpy(to, &word, part);
        to += part;
        length -= part;
    }
}

uint64_t chance_mix(uint64_t a, uint64_t b) {
    return finish(a * UINT64_C(0x9e3779b97f4a7c15) + finish(b + UINT64_C(0x632be59bd9b4e019)));
}
