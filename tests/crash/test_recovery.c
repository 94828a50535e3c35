/* SPDX-License-Identifier: MIT
 *
 * What the next one makes of it, on the simulated system (support/os_sim.h): a handle dies at each single step of a
 * checkpoint, and the session goes on without it; or all of them die, and somebody else opens the map.
 */
#include "format/frame.h"
#include "format/header.h"
#include "map/map.h"
#include "support/check.h"
#include "support/os_sim.h"
#include "support/scratch.h"

#define PATH "/disk/recovery.km"
#define SIZE 65536u
#define RING 65536u
#define FILLED 9000u
#define MARKS 40000u /* commit g leaves its number at MARKS + 8 * g: this page differs at every generation */
#define STEPS 100u

static km_map *open_map(uint32_t flags, uint64_t ring) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = ring, .flags = flags, .timeout_ms = 5};
    must(km_open(&map, PATH, &options));
    return map;
}

static void store(unsigned char *data, uint64_t generation) {
    memset(data, (int)generation, FILLED);
    data[MARKS + 8 * generation] = (unsigned char)generation;
}

static void commit(km_map *map, uint64_t generation) {
    must(km_begin(map, KM_WRITE));
    store(km_data(map), generation);
    must(km_commit(map));
    assert_int_equal(km_generation(map), generation);
}

/* The handle shows exactly what the commits up to `generation` have stored. */
static void expect(km_map *map, uint64_t generation) {
    static unsigned char expected[SIZE];
    memset(expected, 0, sizeof expected);
    for (uint64_t g = 1; g <= generation; g++)
        store(expected, g);
    must(km_begin(map, KM_READ));
    assert_int_equal(km_generation(map), generation);
    assert_memory_equal(km_data(map), expected, sizeof expected);
    must(km_abort(map));
}

static void reopen_and_expect(uint64_t generation) {
    km_map *map = open_map(0, 0);
    expect(map, generation);
    check_clean(map);
    must(km_close(map));
}

static void load_slots(struct km__header slots[2], int *chosen) {
    assert_true(os_sim_read(PATH, 0, slots, 2 * sizeof slots[0]));
    assert_int_equal(km__header_choose(slots, chosen, NULL, NULL, 0), 0);
}

static struct km__header newest_header(void) {
    struct km__header slots[2];
    int chosen;
    load_slots(slots, &chosen);
    return slots[chosen];
}

static void rot(uint64_t offset) {
    unsigned char byte;
    assert_true(os_sim_read(PATH, offset, &byte, 1));
    byte ^= 1;
    assert_true(os_sim_damage(PATH, offset, &byte, 1));
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

/* The handle's process dies before the `n`-th step of a checkpoint: its locks are gone, and the machine goes on. False if
 * the checkpoint has fewer steps. */
static bool dies_in_checkpoint(km_map *map, uint64_t n) {
    steps_to_go = n;
    os_sim_watch(die, NULL);
    if (setjmp(dead) == 0) {
        must(km_checkpoint(map));
        os_sim_watch(NULL, NULL);
        return false;
    }
    os_sim_watch(NULL, NULL);
    os_lock_release(map->locks, 0, UINT64_MAX);
    return true;
}

/* A session of two, whose commits are all in the journal and none is home. */
struct pair {
    km_map *checkpointer, *other;
};

static struct pair commit_without_checkpoint(uint32_t flags, uint64_t ring, uint64_t commits) {
    os_sim_reset(1);
    struct pair pair = {.checkpointer = open_map(KM_CREATE | flags, ring)};
    pair.other = open_map(0, 0);
    must(km_begin(pair.checkpointer, KM_READ)); /* nothing goes home meanwhile */
    for (uint64_t g = 1; g <= commits; g++)
        commit(pair.other, g);
    must(km_abort(pair.checkpointer));
    assert_int_equal(newest_header().generation, 0);
    return pair;
}

static void expect_published_in_both_slots(const km_map *map) {
    struct km__header slots[2];
    int chosen;
    load_slots(slots, &chosen);
    const uint64_t checkpointed = atomic_load(&map->control->checkpointed);
    assert_true(slots[0].generation >= checkpointed);
    assert_true(slots[1].generation >= checkpointed);
}

static void a_session_goes_on_wherever_a_checkpointer_died(void **state) {
    (void)state;
    uint64_t n = 1;
    for (;; n++) {
        struct pair pair = commit_without_checkpoint(0, RING, 7); /* the eighth has no room */
        if (!dies_in_checkpoint(pair.checkpointer, n))
            break;
        for (uint64_t g = 8; g <= 15; g++) {
            commit(pair.other, g);
            expect_published_in_both_slots(pair.other);
        }
        struct os_sim_state *ended = os_sim_save();
        os_sim_kill(ended);
        struct km__header slots[2];
        int chosen;
        load_slots(slots, &chosen);
        rot((uint64_t)chosen * KM__SLOT_SIZE + 300);
        reopen_and_expect(15);
        os_sim_reboot(ended, OS_SIM_NOTHING, n);
        reopen_and_expect(15);
        os_sim_state_free(ended);
    }
    assert_in_range(n, 10, STEPS);
}

/* Home may be past the goal of whoever comes next, if somebody reads there: it stays where it is. */
static void home_is_not_brought_back_below_a_dead_checkpointers_goal(void **state) {
    (void)state;
    uint64_t n = 1, begun = 0;
    for (;; n++) {
        struct pair pair = commit_without_checkpoint(0, RING, 7);
        if (!dies_in_checkpoint(pair.checkpointer, n))
            break;
        const struct km__header left = newest_header();
        if (left.target == left.generation)
            continue;
        begun++;
        km_map *third = open_map(n % 2 == 0 ? KM_READONLY : 0, 0);
        if (n % 2 == 0)
            must(km__reader_lock(third, 4));
        else
            km__pin(third, 4);
        must(km_checkpoint(pair.other));
        assert_int_equal(newest_header().generation, 0);
        assert_int_equal(newest_header().target, 7);
        os_sim_kill(NULL);
        reopen_and_expect(7);
    }
    assert_true(begun > 3);
}

/* ---- home is a mixture ------------------------------------------------------------------------------------------- */

struct saved {
    struct os_sim_state *states[STEPS];
    size_t count;
};

static void save_state(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)operation;
    (void)step;
    struct saved *saved = context;
    assert_true(saved->count < STEPS);
    saved->states[saved->count++] = os_sim_save();
}

static void save_checkpoint(km_map *map, struct saved *saved) {
    saved->count = 0;
    os_sim_watch(save_state, saved);
    must(km_checkpoint(map));
    os_sim_watch(NULL, NULL);
    assert_in_range(saved->count, 8, STEPS - 1);
}

/* The last frame is damaged, and no later one says that it was durable: either home has nothing of it, and the map is at the
 * commit before, or the header says that it has. */
static void a_mixture_is_never_shown_as_a_commit(void **state) {
    (void)state;
    static const uint32_t kinds[] = {0, KM_FULL_PAGES};
    unsigned shown = 0, refused = 0;
    for (int i = 0; i < 2; i++) {
        struct saved saved;
        struct pair pair = commit_without_checkpoint(kinds[i], 2 * RING, 5);
        const struct km__place *last = km__places_find(&pair.other->places, 5);
        const uint64_t frame = pair.other->header.journal_offset + last->position;
        save_checkpoint(pair.checkpointer, &saved);
        for (size_t step = 0; step < saved.count; step++) {
            for (uint64_t seed = 0; seed < 12; seed++) {
                if (seed == 0)
                    os_sim_kill(saved.states[step]);
                else
                    os_sim_reboot(saved.states[step], OS_SIM_SECTORS, seed);
                rot(frame + 200);
                km_map *map = NULL;
                const struct km_options options = {.struct_size = sizeof options};
                const int result = km_open(&map, PATH, &options);
                refused += result == KM_EJOURNAL;
                if (result == KM_EJOURNAL)
                    continue;
                must(result);
                expect(map, newest_header().generation == 5 ? 5 : 4);
                shown += km_generation(map) == 4;
                check_clean(map);
                must(km_close(map));
            }
            os_sim_state_free(saved.states[step]);
        }
    }
    assert_true(shown > 0 && refused > 0);
}

/* A page that looks equal in the page cache may never have reached the disk: the sync that covered it failed. */
static void what_a_failed_sync_left_of_home_is_written_again(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct pair pair = commit_without_checkpoint(0, RING, 7);
        os_sim_fail(OS_SIM_SYNC, n, 1, KM_EIO);
        const int result = km_checkpoint(pair.checkpointer);
        if (os_sim_failures() == 0)
            break;
        assert_int_equal(result, KM_EIO);
        must_fail(km_begin(pair.other, KM_WRITE), KM_EIO);
        expect(pair.other, 7);
        km_close(pair.other);
        km_close(pair.checkpointer);
        km_map *map = open_map(0, 0);
        expect(map, 7);
        must(km_checkpoint(map));
        os_sim_cut();
        os_sim_reboot(NULL, OS_SIM_NOTHING, n);
        reopen_and_expect(7);
    }
}

/* ---- whole pages ------------------------------------------------------------------------------------------------- */

#define LARGE_RING (8 * RING)

/* The power goes at each step of a checkpoint and garbles what was being written: every page can be rebuilt, because the
 * first frame behind the checkpoint before has it whole. */
static void expect_garbled_pages_to_be_rebuilt(km_map *checkpointer, uint64_t generation) {
    struct saved saved;
    save_checkpoint(checkpointer, &saved);
    assert_int_equal(newest_header().generation, generation);
    for (size_t step = 0; step < saved.count; step++) {
        for (uint64_t seed = 0; seed < 8; seed++) {
            os_sim_reboot(saved.states[step], OS_SIM_GARBLED, seed);
            reopen_and_expect(generation);
        }
        os_sim_state_free(saved.states[step]);
    }
}

static void the_first_frame_behind_a_checkpoint_has_whole_pages(void **state) {
    (void)state;
    struct pair pair = commit_without_checkpoint(KM_FULL_PAGES, LARGE_RING, 3);
    must(km_checkpoint(pair.checkpointer));
    for (uint64_t g = 4; g <= 6; g++)
        commit(pair.other, g);
    expect_garbled_pages_to_be_rebuilt(pair.checkpointer, 6);
}

static void a_checkpoint_of_whole_pages_goes_to_its_target_or_nowhere(void **state) {
    (void)state;
    struct pair pair = commit_without_checkpoint(KM_FULL_PAGES, LARGE_RING, 7);
    km_map *third = open_map(0, 0);
    km__pin(third, 4);
    must(km_checkpoint(pair.checkpointer));
    assert_int_equal(newest_header().generation, 0);
    for (uint64_t g = 8; g <= 9; g++)
        commit(pair.other, g);
    km__pin(third, KM__NO_PIN);
    expect_garbled_pages_to_be_rebuilt(pair.checkpointer, 9); /* to 7 first, where its target was */
}

static km_map *beside;

/* Just before a step of the writer. */
static void checkpoint_beside(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)context;
    (void)operation;
    (void)step;
    os_sim_watch(NULL, NULL);
    const int result = km_checkpoint(beside);
    assert_true(result == 0 || result == KM_EBUSY);
}

/* The writer's frame is built, and not yet in the ring. */
static void a_target_is_not_chosen_behind_the_writers_back(void **state) {
    (void)state;
    for (int chosen = 0; chosen < 2; chosen++) {
        struct pair pair = commit_without_checkpoint(KM_FULL_PAGES, LARGE_RING, 7);
        beside = pair.checkpointer;
        if (chosen) {
            km_map *third = open_map(0, 0);
            km__pin(third, 4);
            must(km_checkpoint(beside)); /* its target is 7 from now on */
            km__pin(third, KM__NO_PIN);
            commit(pair.other, 8);
            commit(pair.other, 9);
        }
        os_sim_watch(checkpoint_beside, NULL);
        commit(pair.other, chosen ? 10 : 8);
        expect_garbled_pages_to_be_rebuilt(beside, chosen ? 10 : 8);
    }
}

/* The commit itself brings home up to make room for its frame. */
static void a_frame_that_waited_for_room_has_whole_pages(void **state) {
    (void)state;
    struct pair pair = commit_without_checkpoint(KM_FULL_PAGES, 2 * RING, 7);
    uint64_t generation = 7;
    must(km_begin(pair.checkpointer, KM_READ));
    for (;; generation++) {
        must(km_begin(pair.other, KM_WRITE));
        store(km_data(pair.other), generation + 1);
        if (km_commit(pair.other) != 0)
            break;
    }
    must(km_abort(pair.other));
    must(km_abort(pair.checkpointer));
    const uint64_t before = newest_header().generation;
    commit(pair.other, ++generation);
    assert_true(newest_header().generation > before);
    expect_garbled_pages_to_be_rebuilt(pair.checkpointer, generation);
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_goes_on_wherever_a_checkpointer_died),
        cmocka_unit_test(home_is_not_brought_back_below_a_dead_checkpointers_goal),
        cmocka_unit_test(a_mixture_is_never_shown_as_a_commit),
        cmocka_unit_test(what_a_failed_sync_left_of_home_is_written_again),
        cmocka_unit_test(the_first_frame_behind_a_checkpoint_has_whole_pages),
        cmocka_unit_test(a_checkpoint_of_whole_pages_goes_to_its_target_or_nowhere),
        cmocka_unit_test(a_target_is_not_chosen_behind_the_writers_back),
        cmocka_unit_test(a_frame_that_waited_for_room_has_whole_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
