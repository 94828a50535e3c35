/* SPDX-License-Identifier: MIT
 *
 * The structure-aware mutator: it changes recipes step by step, with values that tend to break things, and now and then
 * a byte anywhere. What the steps change in a file is sealed again by the recipe itself (recipe.h), so that most inputs
 * get past the checksums and some do not.
 */
#include <string.h>

#include "bases.h"
#include "recipe.h"
#include "support/chance.h"
#include "claim.h"

#define PAYLOAD_MAX 48u

/* Payloads of new steps; those of old ones stay where they were read. */
static uint8_t payloads[RECIPE_STEPS_MAX][PAYLOAD_MAX];

static uint64_t interesting_number(struct chance *chance) {
    static const uint64_t values[] = {0,
                                      1,
                                      2,
                                      3,
                                      4,
                                      7,
                                      8,
                                      16,
                                      64,
                                      112,
                                      255,
                                      512,
                                      4088,
                                      4095,
                                      4096,
                                      4097,
                                      8192,
                                      65535,
                                      65536,
                                      65544,
                                      69632,
                                      131072,
                                      262144,
                                      1u << 20,
                                      UINT32_MAX,
                                      UINT64_C(1) << 48,
                                      (UINT64_C(1) << 59) - 1,
                                      UINT64_C(1) << 60,
                                      (UINT64_C(1) << 60) + 1,
                                      UINT64_C(1) << 62,
                                      INT64_MAX,
                                      UINT64_MAX - 4096,
                                      UINT64_MAX};
    switch (chance_below(chance, 4)) {
    case 0:
        return chance_below(chance, 40);
    case 1:
        return chance_next(chance) >> chance_below(chance, 64);
    default:
        return values[chance_below(chance, sizeof values / sizeof values[0])];
    }
}

static void draw_payload(struct chance *chance, struct step *step, size_t place) {
    step->bytes = payloads[place];
    step->length = 1 + (size_t)chance_below(chance, chance_percent(chance, 70) ? 8 : PAYLOAD_MAX);
    if (chance_percent(chance, 30))
        memset(payloads[place], (int)chance_below(chance, 256), step->length);
    else
        chance_fill(chance, payloads[place], step->length);
    const uint64_t number = interesting_number(chance);
    if (chance_percent(chance, 40))
        memcpy(payloads[place], &number, step->length < sizeof number ? step->length : sizeof number);
}

/* Most steps seal what they change. */
static uint8_t draw_how(struct chance *chance) {
    uint8_t how = (uint8_t)chance_below(chance, VALUE_KINDS);
    if (chance_percent(chance, 50))
        how = VALUE_SET;
    if (chance_percent(chance, 10))
        how |= STEP_HOW_BROKEN;
    if (chance_percent(chance, 10))
        how |= STEP_HOW_CHAIN;
    return how;
}

static void draw_step(struct chance *chance, struct step *step, size_t place) {
    *step = (struct step){.kind = (uint8_t)chance_below(chance, STEP_KINDS),
                          .which = (uint8_t)chance_below(chance, chance_percent(chance, 80) ? 6 : 256),
                          .field = (uint8_t)chance_below(chance, 64),
                          .how = draw_how(chance),
                          .number = interesting_number(chance)};
    if (step->kind == STEP_BYTES)
        step->number = chance_below(chance, chance_percent(chance, 50) ? 70000 : RECIPE_FILE_MAX / 4);
    if (step_carries(step->kind))
        draw_payload(chance, step, place);
}

static void change_step(struct chance *chance, struct step *step, size_t place) {
    switch (chance_below(chance, 6)) {
    case 0:
        step->which = (uint8_t)chance_below(chance, 8);
        break;
    case 1:
        if (!step_carries(step->kind))
            step->field = (uint8_t)chance_below(chance, 64);
        break;
    case 2:
        step->how = draw_how(chance);
        break;
    case 3:
        step->number += chance_between(chance, 0, 16) - 8;
        break;
    case 4:
        if (step_carries(step->kind)) {
            draw_payload(chance, step, place);
            break;
        }
        step->number = interesting_number(chance);
        break;
    default:
        step->number = interesting_number(chance);
        break;
    }
}

static void insert_step(struct recipe *recipe, size_t place, const struct step *step) {
    if (recipe->count == RECIPE_STEPS_MAX)
        recipe->count--;
    memmove(&recipe->steps[place + 1], &recipe->steps[place], (recipe->count - place) * sizeof *step);
    recipe->steps[place] = *step;
    recipe->count++;
}

static void remove_steps(struct recipe *recipe, size_t place, size_t count) {
    count = count < recipe->count - place ? count : recipe->count - place;
    memmove(&recipe->steps[place], &recipe->steps[place + count],
            (recipe->count - place - count) * sizeof recipe->steps[0]);
    recipe->count -= count;
}

static void change_head(struct chance *chance, struct recipe *recipe) {
    const size_t place = (size_t)chance_below(chance, RECIPE_HEAD);
    recipe->head[place] = (uint8_t)chance_below(chance, place == 0 ? bases_count() : 256);
}

/* Where a recipe has calls, they are what the others are tried between. */
static bool has_calls(const struct recipe *recipe) {
    for (size_t i = 0; i < recipe->count; i++)
        if (recipe->steps[i].kind == STEP_CALL)
            return true;
    return false;
}

static void change_recipe(struct chance *chance, struct recipe *recipe) {
    const size_t limit = recipe->count < RECIPE_STEPS_MAX - 1 ? recipe->count : RECIPE_STEPS_MAX - 1;
    const size_t place = (size_t)chance_below(chance, limit + 1);
    const bool inside = place < recipe->count;
    struct step step;
    switch (chance_below(chance, 8)) {
    case 0:
        change_head(chance, recipe);
        break;
    case 1:
        if (inside)
            remove_steps(recipe, place, 1 + (size_t)chance_below(chance, 3));
        break;
    case 2:
        if (inside) {
            step = recipe->steps[place];
            insert_step(recipe, (size_t)chance_below(chance, limit + 1), &step);
        }
        break;
    case 3:
    case 4:
    case 5:
        if (inside)
            change_step(chance, &recipe->steps[place], place);
        break;
    default:
        draw_step(chance, &step, place);
        if (has_calls(recipe) && chance_percent(chance, 50))
            step = (struct step){.kind = STEP_CALL, .which = step.which, .field = step.field, .number = step.number};
        insert_step(recipe, place, &step);
        break;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t length, size_t capacity, unsigned seed) {
    static struct recipe recipe;
    static uint8_t before[1u << 16];
    struct chance chance = {seed};
    const size_t known = length < sizeof before ? length : sizeof before;
    if (known > 0)
        memcpy(before, bytes, known); /* the steps point into it while they are written */
    recipe_read(&recipe, before, known);
    for (uint64_t changes = chance_between(&chance, 1, 4); changes > 0; changes--)
        change_recipe(&chance, &recipe);
    size_t written = recipe_write(&recipe, bytes, capacity);
    if (written > 0 && chance_percent(&chance, 5))
        bytes[chance_below(&chance, written)] ^= (uint8_t)(1u << chance_below(&chance, 8));
    return written;
}

/* The first part of one recipe, and the last part of the other. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *first, size_t first_length, const uint8_t *second, size_t second_length,
                                 uint8_t *out, size_t capacity, unsigned seed) {
    static struct recipe mixed, other;
    struct chance chance = {seed};
    recipe_read(&mixed, first, first_length);
    recipe_read(&other, second, second_length);
    mixed.count = (size_t)chance_below(&chance, mixed.count + 1);
    for (size_t i = (size_t)chance_below(&chance, other.count + 1); i < other.count; i++)
        if (mixed.count < RECIPE_STEPS_MAX)
            mixed.steps[mixed.count++] = other.steps[i];
    return recipe_write(&mixed, out, capacity);
}
