/* SPDX-License-Identifier: MIT
 *
 * What the next one makes of it: a handle dies at each single step of a checkpoint, and the session goes on without it;
 * or all of them die, or a sync fails, or the power goes, and somebody else opens the map.
 */
#include "stage.h"

#define STEPS 100u /* more than any of the calls has */

static void expect_published_in_both_slots(const km_map *map) {
    struct km__header slots[2];
    int chosen;
    stage_slots(slots, &chosen);
    const uint64_t checkpointed = atomic_load(&map->control->checkpointed);
    assert_true(slots[0].generation >= checkpointed);
    assert_true(slots[1].generation >= checkpointed);
}

static void a_session_goes_on_wherever_a_checkpointer_died(void **state) {
    (void)state;
    uint64_t n = 1;
    for (;; n++) {
        struct stage_pair pair = stage_pair(0, STAGE_RING, 7); /* the eighth has no room */
        if (!stage_dies_in(km_checkpoint, pair.checkpointer, n))
            break;
        for (uint64_t g = 8; g <= 15; g++) {
            stage_commit(pair.other, g);
            expect_published_in_both_slots(pair.other);
        }
        struct os_sim_state *ended = os_sim_save();
        os_sim_kill(ended);
        stage_rot_newest_slot();
        stage_reopen(15);
        os_sim_reboot(ended, OS_SIM_NOTHING, n);
        stage_reopen(15);
        os_sim_state_free(ended);
    }
    assert_in_range(n, 10, STEPS);
}

/* Home may be past the goal of whoever comes next, if somebody reads there: it stays where it is. */
static void home_is_not_brought_back_below_a_dead_checkpointers_goal(void **state) {
    (void)state;
    uint64_t n = 1, begun = 0;
    for (;; n++) {
        struct stage_pair pair = stage_pair(0, STAGE_RING, 7);
        if (!stage_dies_in(km_checkpoint, pair.checkpointer, n))
            break;
        const struct km__header left = stage_header();
        if (left.target == left.generation)
            continue;
        begun++;
        km_map *third = stage_open(n % 2 == 0 ? KM_READONLY : 0, 0);
        if (n % 2 == 0)
            must(km__reader_lock(third, 4));
        else
            km__pin(third, 4);
        must(km_checkpoint(pair.other));
        assert_int_equal(stage_header().generation, 0);
        assert_int_equal(stage_header().target, 7);
        os_sim_kill(NULL);
        stage_reopen(7);
    }
    assert_true(begun > 3);
}

/* ---- home is a mixture ------------------------------------------------------------------------------------------- */

static void save_checkpoint(km_map *map, struct stage_saved *saved) {
    saved->count = 0;
    os_sim_watch(stage_save, saved);
    must(km_checkpoint(map));
    os_sim_watch(NULL, NULL);
    assert_in_range(saved->count, 8, STEPS - 1);
}

/* The last frame is damaged, and no later one says that it was durable: either home has nothing of it, and the map is
 * at the commit before, or the header says that it has. */
static void a_mixture_is_never_shown_as_a_commit(void **state) {
    (void)state;
    static const uint32_t kinds[] = {0, KM_FULL_PAGES};
    unsigned shown = 0, refused = 0;
    for (int i = 0; i < 2; i++) {
        struct stage_saved saved;
        struct stage_pair pair = stage_pair(kinds[i], 2 * STAGE_RING, 5);
        const struct km__place *last = km__places_find(&pair.other->places, 5);
        const uint64_t frame = pair.other->header.journal_offset + last->position;
        save_checkpoint(pair.checkpointer, &saved);
        for (size_t step = 0; step < saved.count; step++) {
            for (uint64_t seed = 0; seed < 12; seed++) {
                if (seed == 0)
                    os_sim_kill(saved.states[step]);
                else
                    os_sim_reboot(saved.states[step], OS_SIM_SECTORS, seed);
                stage_rot(frame + 200);
                km_map *map = NULL;
                const struct km_options options = {.struct_size = sizeof options};
                const int result = km_open(&map, STAGE_PATH, &options);
                refused += result == KM_EJOURNAL;
                if (result == KM_EJOURNAL)
                    continue;
                must(result);
                stage_expect(map, stage_header().generation == 5 ? 5 : 4);
                shown += km_generation(map) == 4;
                check_clean(map);
                must(km_close(map));
            }
            os_sim_state_free(saved.states[step]);
        }
    }
    assert_true(shown > 0 && refused > 0);
}

/* What looks equal in the page cache may never have reached the disk: the sync that covered it failed. */
static void what_a_failed_sync_left_is_written_again(void **state) {
    (void)state;
    static int (*const calls[])(km_map *) = {km_checkpoint, km_sync, km_close};
    for (int i = 0; i < 3; i++) {
        uint64_t n = 1;
        for (;; n++) {
            struct stage_saved recovery = {.count = 0}, saved = {.count = 0};
            struct stage_pair pair = stage_pair(i == 1 ? KM_LAZY : 0, i == 1 ? 4 * STAGE_RING : STAGE_RING, 7);
            if (i == 2)
                must(km_close(pair.other));
            os_sim_fail(OS_SIM_SYNC, n, 1, KM_EIO);
            const int result = calls[i](pair.checkpointer);
            if (os_sim_failures() == 0)
                break;
            assert_int_equal(result, KM_EIO);
            if (i != 2) {
                must_fail(km_begin(pair.other, KM_WRITE), KM_EIO);
                stage_expect(pair.other, i == 1 ? 0 : 7);
            }
            os_sim_fail(OS_SIM_SYNC, 0, 0, 0);
            os_sim_kill(NULL);
            os_sim_watch(stage_save_sync, &recovery);
            km_map *map = stage_open(0, 0);
            stage_expect(map, 7);
            os_sim_watch(stage_save_sync, &saved);
            stage_commit(map, 8);
            struct os_sim_state *reused = os_sim_save(); /* the ring: the frames up to 7 are home */
            must(km_checkpoint(map));
            os_sim_watch(NULL, NULL);
            stage_cut_at_each(&recovery, i == 1 ? 0 : 7, 7);
            stage_cut_at_each(&saved, 7, 8);
            os_sim_reboot(reused, OS_SIM_NOTHING, n);
            stage_rot_newest_slot();
            stage_reopen(8);
            os_sim_state_free(reused);
        }
        assert_in_range(n, i == 1 ? 2 : 4, STEPS);
    }
}

static uint64_t eviction;

static void evict_now(void) {
    os_sim_evict(eviction);
}

static int open_beside_eviction(km_map **map, uint64_t n) {
    const struct km_options options = {.struct_size = sizeof options, .timeout_ms = 5};
    stage_pair(KM_LAZY, 4 * STAGE_RING, 7);
    km_map *syncer = stage_open(0, 0);
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    must_fail(km_sync(syncer), KM_EIO);
    os_sim_fail(OS_SIM_SYNC, 0, 0, 0);
    os_sim_kill(NULL);
    stage_beside(n, evict_now);
    return km_open(map, STAGE_PATH, &options);
}

/* O2: the kernel drops pages whose write-back has failed, at any step of a recovery that has looked at them. */
static void what_is_written_again_is_what_was_judged(void **state) {
    (void)state;
    for (eviction = 1; eviction <= 4; eviction++) {
        bool happened = true;
        unsigned survived = 0;
        for (uint64_t n = 1; happened; n++) {
            km_map *map = NULL;
            const int result = open_beside_eviction(&map, n);
            happened = stage_happened();
            assert_true(result == 0 || (result == KM_EJOURNAL && happened));
            survived += happened && result == 0;
            const uint64_t found = result == 0 ? stage_expect_between(map, 0, 7) : 0;
            if (result == 0)
                stage_commit(map, found + 1);
            os_sim_cut();
            os_sim_reboot(NULL, OS_SIM_NOTHING, n);
            stage_reopen_between(result == 0 ? found + 1 : 0, result == 0 ? found + 1 : 7);
            (void)km_close(map);
            assert_true(n < STEPS);
        }
        assert_true(survived >= 2); /* at the write of the last frame, and at the sync */
    }
}

/* The sync of a slot is not yet over when the next one goes on. */
static void two_slots_are_never_torn_wherever_a_checkpointer_died(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct stage_saved saved = {.count = 0};
        struct stage_pair pair = stage_pair(0, STAGE_RING, 6);
        if (!stage_dies_in(km_checkpoint, pair.checkpointer, n))
            break;
        os_sim_watch(stage_save_sync, &saved);
        stage_commit(pair.other, 7);
        must(km_checkpoint(pair.other));
        os_sim_watch(NULL, NULL);
        stage_cut_at_each(&saved, 6, 7);
    }
}

/* ---- the clean flag ---------------------------------------------------------------------------------------------- */

/* A map that was closed clean has nothing in its journal, also where one of its slots was damaged since. The first
 * frame of a session is damaged, which only the later one can tell; who believes the flag shows an older state. */
static void a_map_is_not_clean_from_the_first_frame_on(void **state) {
    (void)state;
    enum { FIRST_OF_SESSION, AFTER_CHECKPOINT, CLOSED_BESIDE_A_READER, SLOT_A_ROTS, SLOT_B_ROTS, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        stage_reset();
        km_map *map = stage_open(KM_CREATE, STAGE_RING);
        stage_commit(map, 1);
        must(km_close(map));
        if (kind == SLOT_A_ROTS || kind == SLOT_B_ROTS)
            stage_rot_slot(kind - SLOT_A_ROTS);
        map = stage_open(0, 0);
        uint64_t generation = 1;
        if (kind == AFTER_CHECKPOINT) {
            stage_commit(map, ++generation);
            must(km_checkpoint(map));
        }
        if (kind == CLOSED_BESIDE_A_READER)
            must(km_begin(stage_open(KM_READONLY, 0), KM_READ));
        const uint64_t first = map->header.journal_offset + map->cursor.position;
        stage_commit(map, ++generation);
        stage_commit(map, ++generation);
        if (kind == CLOSED_BESIDE_A_READER)
            must(km_close(map));
        os_sim_kill(NULL);
        stage_rot(first + 200);
        const struct km_options options = {.struct_size = sizeof options};
        must_fail(km_open(&map, STAGE_PATH, &options), KM_EJOURNAL);
    }
}

/* ---- a damaged slot ---------------------------------------------------------------------------------------------- */

/* Recovery writes it anew as "in progress to the last frame". That frame may be one that only the page cache has, and
 * the power may go before the disk has it, too. */
static void a_damaged_slot_is_not_made_to_promise_what_is_not_durable(void **state) {
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        struct stage_saved saved = {.count = 0};
        stage_reset();
        stage_commit(stage_open(KM_CREATE | (kind / 2 == 1 ? KM_FULL_PAGES : 0u), STAGE_RING), 1);
        km_map *lazy = stage_open(KM_LAZY, 0);
        stage_commit(lazy, 2);
        stage_commit(lazy, 3);
        os_sim_kill(NULL);
        stage_rot_slot(kind % 2);
        os_sim_watch(stage_save, &saved);
        stage_open(0, 0);
        os_sim_watch(NULL, NULL);
        stage_cut_at_each(&saved, 1, 3);
    }
}

/* ---- whole pages ------------------------------------------------------------------------------------------------- */

#define LARGE_RING (8 * STAGE_RING)

/* The power goes at each step of a checkpoint and garbles what was being written: every page can be rebuilt, because
 * the first frame behind the checkpoint before has it whole. */
static void expect_garbled_pages_to_be_rebuilt(km_map *checkpointer, uint64_t generation) {
    struct stage_saved saved;
    save_checkpoint(checkpointer, &saved);
    assert_int_equal(stage_header().generation, generation);
    for (size_t step = 0; step < saved.count; step++) {
        for (uint64_t seed = 0; seed < 24; seed++) {
            os_sim_reboot(saved.states[step], OS_SIM_GARBLED, seed);
            stage_reopen(generation);
        }
        os_sim_state_free(saved.states[step]);
    }
}

static void the_first_frame_behind_a_checkpoint_has_whole_pages(void **state) {
    (void)state;
    struct stage_pair pair = stage_pair(KM_FULL_PAGES, LARGE_RING, 3);
    must(km_checkpoint(pair.checkpointer));
    for (uint64_t g = 4; g <= 6; g++)
        stage_commit(pair.other, g);
    expect_garbled_pages_to_be_rebuilt(pair.checkpointer, 6);
}

static void a_checkpoint_of_whole_pages_goes_to_its_target_or_nowhere(void **state) {
    (void)state;
    struct stage_pair pair = stage_pair(KM_FULL_PAGES, LARGE_RING, 7);
    km_map *third = stage_open(0, 0);
    km__pin(third, 4);
    must(km_checkpoint(pair.checkpointer));
    assert_int_equal(stage_header().generation, 0);
    for (uint64_t g = 8; g <= 9; g++)
        stage_commit(pair.other, g);
    km__pin(third, KM__NO_PIN);
    expect_garbled_pages_to_be_rebuilt(pair.checkpointer, 9); /* to 7 first, where its target was */
}

enum { MANY = 70 };

/* Home is at 0 or at the target. */
static void expect_no_stop(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)context;
    (void)step;
    if (operation == OS_SIM_SYNC)
        assert_true(stage_header().generation == 0 || stage_header().generation == MANY);
}

/* The frames are more than other checkpoints take into memory at once; compressed, they take little of the ring. */
static void a_checkpoint_of_whole_pages_does_not_stop_half_way(void **state) {
    (void)state;
    if (!km__zlib_available())
        skip();
    stage_reset();
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = 1 << 20,
                                       .journal_size = 4 << 20,
                                       .flags = KM_CREATE | KM_FULL_PAGES | KM_COMPRESS | KM_LAZY};
    must(km_open(&map, STAGE_PATH, &options));
    for (int i = 1; i <= MANY; i++)
        check_commit_fill(map, 0, i, 1 << 20);
    assert_int_equal(stage_header().generation, 0);
    os_sim_watch(expect_no_stop, NULL);
    must(km_checkpoint(map));
    os_sim_watch(NULL, NULL);
    assert_int_equal(stage_header().generation, MANY);
    must(km_close(map));
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
        struct stage_pair pair = stage_pair(KM_FULL_PAGES, LARGE_RING, 7);
        beside = pair.checkpointer;
        if (chosen) {
            km_map *third = stage_open(0, 0);
            km__pin(third, 4);
            must(km_checkpoint(beside)); /* its target is 7 from now on */
            km__pin(third, KM__NO_PIN);
            stage_commit(pair.other, 8);
            stage_commit(pair.other, 9);
        }
        os_sim_watch(checkpoint_beside, NULL);
        stage_commit(pair.other, chosen ? 10 : 8);
        expect_garbled_pages_to_be_rebuilt(beside, chosen ? 10 : 8);
    }
}

/* A recovery computes checksums anew that a garbled sector may have taken with it; damage of the page itself gets
 * none. */
static void damage_beside_a_checkpoint_in_progress_is_told(void **state) {
    (void)state;
    enum { NEIGHBOUR = 5 };
    struct stage_saved saved = {.count = 0};
    struct stage_pair pair = stage_pair(KM_FULL_PAGES, LARGE_RING, 3);
    save_checkpoint(pair.checkpointer, &saved);
    unsigned in_progress = 0;
    for (size_t step = 0; step < saved.count; step++) {
        os_sim_kill(saved.states[step]);
        const struct km__header header = stage_header();
        in_progress += header.target > header.generation;
        stage_rot(header.data_offset + NEIGHBOUR * KM_PAGE_SIZE + 7);
        km_map *map = stage_open(0, 0);
        struct km_report report = {.struct_size = sizeof report};
        must(km_verify(map, &report, NULL, NULL));
        assert_int_equal(report.pages_damaged, 1);
        must(km_close(map));
    }
    assert_true(in_progress > 3);
    stage_forget(&saved);
}

static unsigned writes_under_way, writes;

static void count_writes(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)context;
    (void)step;
    writes_under_way = operation == OS_SIM_SYNC ? 0 : writes_under_way + (operation == OS_SIM_WRITE);
    writes += operation == OS_SIM_WRITE;
    assert_in_range(writes_under_way, 0, 1);
}

/* A disk that garbles what is under way must not get both slots at once. Without frames nothing else is written. */
static void a_recovery_writes_one_slot_at_a_time(void **state) {
    (void)state;
    struct stage_pair pair = stage_pair(0, STAGE_RING, 1);
    must(km_checkpoint(pair.checkpointer));
    os_sim_kill(NULL);
    writes = writes_under_way = 0;
    os_sim_watch(count_writes, NULL);
    stage_open(0, 0);
    os_sim_watch(NULL, NULL);
    assert_int_equal(writes, 2);
}

/* The commit itself brings home up to make room for its frame. */
static void a_frame_that_waited_for_room_has_whole_pages(void **state) {
    (void)state;
    struct stage_pair pair = stage_pair(KM_FULL_PAGES, 2 * STAGE_RING, 7);
    uint64_t generation = 7;
    must(km_begin(pair.checkpointer, KM_READ));
    for (;; generation++) {
        must(km_begin(pair.other, KM_WRITE));
        stage_store(km_data(pair.other), generation + 1);
        if (km_commit(pair.other) != 0)
            break;
    }
    must(km_abort(pair.other));
    must(km_abort(pair.checkpointer));
    const uint64_t before = stage_header().generation;
    stage_commit(pair.other, ++generation);
    assert_true(stage_header().generation > before);
    expect_garbled_pages_to_be_rebuilt(pair.checkpointer, generation);
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_goes_on_wherever_a_checkpointer_died),
        cmocka_unit_test(home_is_not_brought_back_below_a_dead_checkpointers_goal),
        cmocka_unit_test(a_mixture_is_never_shown_as_a_commit),
        cmocka_unit_test(what_a_failed_sync_left_is_written_again),
        cmocka_unit_test(what_is_written_again_is_what_was_judged),
        cmocka_unit_test(two_slots_are_never_torn_wherever_a_checkpointer_died),
        cmocka_unit_test(a_map_is_not_clean_from_the_first_frame_on),
        cmocka_unit_test(a_damaged_slot_is_not_made_to_promise_what_is_not_durable),
        cmocka_unit_test(the_first_frame_behind_a_checkpoint_has_whole_pages),
        cmocka_unit_test(a_checkpoint_of_whole_pages_goes_to_its_target_or_nowhere),
        cmocka_unit_test(a_checkpoint_of_whole_pages_does_not_stop_half_way),
        cmocka_unit_test(a_target_is_not_chosen_behind_the_writers_back),
        cmocka_unit_test(damage_beside_a_checkpoint_in_progress_is_told),
        cmocka_unit_test(a_recovery_writes_one_slot_at_a_time),
        cmocka_unit_test(a_frame_that_waited_for_room_has_whole_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
