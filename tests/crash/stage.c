/* SPDX-License-Identifier: MIT
 *
 * The crash tests' stage: see stage.h.
 */
#include "stage.h"

#define FILLED 9000u
#define MARKS 40000u /* commit g leaves its number at MARKS + 8 * g: this page differs at every generation */

km_map *stage_open(uint32_t flags, uint64_t ring) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = STAGE_SIZE, .journal_size = ring, .flags = flags, .timeout_ms = 5};
    must(km_open(&map, STAGE_PATH, &options));
    return map;
}

uint64_t stage_large, stage_empty;

void stage_reset(void) {
    stage_large = stage_empty = 0;
    os_sim_reset(1);
}

void stage_store(unsigned char *data, uint64_t generation) {
    if (generation == stage_empty)
        return;
    memset(data, (int)generation, generation == stage_large ? STAGE_SIZE : FILLED);
    data[MARKS + 8 * generation] = (unsigned char)generation;
}

void stage_commit(km_map *map, uint64_t generation) {
    must(km_begin(map, KM_WRITE));
    stage_store(km_data(map), generation);
    must(km_commit(map));
    assert_int_equal(km_generation(map), generation);
}

uint64_t stage_expect_between(km_map *map, uint64_t low, uint64_t high) {
    static unsigned char expected[STAGE_SIZE];
    must(km_begin(map, KM_READ));
    const uint64_t generation = km_generation(map);
    assert_in_range(generation, low, high);
    memset(expected, 0, sizeof expected);
    for (uint64_t g = 1; g <= generation; g++)
        stage_store(expected, g);
    const unsigned char *data = km_data(map);
    assert_memory_equal(data, expected, sizeof expected);
    for (uint64_t at = STAGE_SIZE; at < km_size(map); at++)
        assert_int_equal(data[at], 0);
    must(km_abort(map));
    return generation;
}

void stage_expect(km_map *map, uint64_t generation) {
    stage_expect_between(map, generation, generation);
}

void stage_reopen_between(uint64_t low, uint64_t high) {
    km_map *map = stage_open(0, 0);
    stage_expect_between(map, low, high);
    check_clean(map);
    must(km_close(map));
}

void stage_reopen(uint64_t generation) {
    stage_reopen_between(generation, generation);
}

void stage_slots(struct km__header slots[2], int *chosen) {
    assert_true(os_sim_read(STAGE_PATH, 0, slots, 2 * sizeof slots[0]));
    assert_int_equal(km__header_choose(slots, chosen, NULL, NULL, 0), 0);
}

struct km__header stage_header(void) {
    struct km__header slots[2];
    int chosen;
    stage_slots(slots, &chosen);
    return slots[chosen];
}

void stage_rot(uint64_t offset) {
    unsigned char byte;
    assert_true(os_sim_read(STAGE_PATH, offset, &byte, 1));
    byte ^= 1;
    assert_true(os_sim_damage(STAGE_PATH, offset, &byte, 1));
}

void stage_rot_slot(int slot) {
    stage_rot((uint64_t)slot * KM__SLOT_SIZE + 300);
}

void stage_rot_newest_slot(void) {
    struct km__header slots[2];
    int chosen;
    stage_slots(slots, &chosen);
    stage_rot_slot(chosen);
}

/* ---- the power at each step ----------------------------------------------------------------------------------- */

void stage_save_sync(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)step;
    struct stage_saved *saved = context;
    if (operation != OS_SIM_SYNC)
        return;
    assert_true(saved->count < STAGE_STATES);
    saved->states[saved->count++] = os_sim_save();
}

void stage_save(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)operation;
    (void)step;
    struct stage_saved *saved = context;
    assert_true(saved->count < STAGE_STATES);
    saved->states[saved->count++] = os_sim_save();
}

void stage_forget(struct stage_saved *saved) {
    for (size_t i = 0; i < saved->count; i++)
        os_sim_state_free(saved->states[i]);
    saved->count = 0;
}

/* A slot is torn in half of the images in which it was being written, both are in a quarter. */
void stage_cut_at_each(struct stage_saved *saved, uint64_t low, uint64_t high) {
    for (size_t step = 0; step < saved->count; step++) {
        for (uint64_t seed = 0; seed < 24; seed++) {
            os_sim_reboot(saved->states[step], seed == 0 ? OS_SIM_NOTHING : OS_SIM_SECTORS, seed);
            stage_reopen_between(low, high);
        }
    }
    stage_forget(saved);
}

/* ---- a process that dies alone ----------------------------------------------------------------------------------- */

static jmp_buf dead;
static uint64_t steps_to_go;

static void die(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)context;
    (void)operation;
    (void)step;
    if (--steps_to_go == 0)
        longjmp(dead, 1);
}

bool stage_dies_in(int (*call)(km_map *map), km_map *map, uint64_t n) {
    steps_to_go = n;
    os_sim_watch(die, NULL);
    if (setjmp(dead) == 0) {
        must(call(map));
        os_sim_watch(NULL, NULL);
        return false;
    }
    os_sim_watch(NULL, NULL);
    os_lock_release(map->locks, 0, UINT64_MAX);
    return true;
}

/* ---- somebody else, meanwhile ------------------------------------------------------------------------------------ */

static void (*happening)(void);

static void happen(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)context;
    (void)operation;
    (void)step;
    if (--steps_to_go != 0)
        return;
    os_sim_watch(NULL, NULL);
    happening();
}

void stage_beside(uint64_t n, void (*happens)(void)) {
    steps_to_go = n;
    happening = happens;
    os_sim_watch(happen, NULL);
}

bool stage_happened(void) {
    os_sim_watch(NULL, NULL);
    return steps_to_go == 0;
}

struct stage_pair stage_pair(uint32_t flags, uint64_t ring, uint64_t commits) {
    stage_reset();
    struct stage_pair pair = {.checkpointer = stage_open(KM_CREATE | flags, ring)};
    pair.other = stage_open(flags & KM_LAZY, 0);
    must(km_begin(pair.checkpointer, KM_READ)); /* nothing goes home meanwhile */
    for (uint64_t g = 1; g <= commits; g++)
        stage_commit(pair.other, g);
    must(km_abort(pair.checkpointer));
    assert_int_equal(stage_header().generation, 0);
    return pair;
}
