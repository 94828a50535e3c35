/* SPDX-License-Identifier: MIT
 *
 * Seeded chance for random tests. A run prints its seed; KEEPMAP_SEED=N repeats it.
 */
#ifndef KM_TESTS_CHANCE_H
#define KM_TESTS_CHANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chance {
    uint64_t state;
};

/** The seed of this run: KEEPMAP_SEED if it is set, else from the clock. Printed when first asked for. */
uint64_t chance_seed(void);

/** Whether KEEPMAP_SEED names the one seed to run. */
bool chance_seed_is_given(void);

uint64_t chance_next(struct chance *chance);

/** A number below `limit`, which must not be 0. */
uint64_t chance_below(struct chance *chance, uint64_t limit);

/** A number from `low` to `high`, both included. */
uint64_t chance_between(struct chance *chance, uint64_t low, uint64_t high);

/** True in `percent` of a hundred cases. */
bool chance_percent(struct chance *chance, unsigned percent);

void chance_fill(struct chance *chance, void *bytes, size_t length);

/** A 64-bit hash of two words: the content of a page or the next state, as a function of what names it. */
uint64_t chance_mix(uint64_t a, uint64_t b);

#endif
