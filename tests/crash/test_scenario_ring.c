/* SPDX-License-Identifier: MIT
 *
 * Named scenarios of the ring and of the header slots, on the simulated system: pins that come while the ring is used
 * again, slots that rot once it was, checkpoints that lose power or their process half-way, and data that looks like
 * frames.
 */
#include "format/frame.h"
#include "small.h"
#include "stage.h"

#define SEEDS 16u

/* What the handle shows is its generation, all of it. */
static void expect_shown(km_map *map) {
    static unsigned char expected[STAGE_SIZE];
    memset(expected, 0, sizeof expected);
    for (uint64_t g = 1; g <= km_generation(map); g++)
        stage_store(expected, g);
    assert_memory_equal(km_data(map), expected, sizeof expected);
}

/* ---- a pin taken while the ring is being reused ------------------------------------------------------------------ */

static struct {
    km_map *map;
    bool half;    /* the begin has its pin, and has read nothing yet */
    bool refused; /* it had to come again later */
} sleeper;

/* The first half of a begin that finds home where its view can go on; a whole begin where it cannot. */
static void pin_sleeper(void) {
    km_map *map = sleeper.map;
    const uint64_t at = map->cursor.generation;
    sleeper.half = km__load(&map->control->checkpointed) <= at;
    if (!sleeper.half)
        must(km_begin(map, KM_READ));
    else
        km__pin(map, at);
}

/* A lock instead of a pin: a checkpoint that is on its way past it refuses it. */
static void lock_sleeper(void) {
    const int result = km_begin(sleeper.map, KM_READ);
    assert_true(result == 0 || result == KM_EBUSY);
    sleeper.refused = result != 0;
}

/* Seven commits in a ring that has no room for an eighth. The sleeper has seen three. */
static struct stage_pair sleep_through_commits(uint32_t flags) {
    stage_reset();
    struct stage_pair pair = {.checkpointer = stage_open(KM_CREATE, STAGE_RING), .other = stage_open(0, 0)};
    sleeper.map = stage_open(flags, 0);
    sleeper.half = sleeper.refused = false;
    must(km_begin(pair.checkpointer, KM_READ)); /* nothing goes home meanwhile */
    for (uint64_t g = 1; g <= 7; g++) {
        stage_commit(pair.other, g);
        if (g == 3)
            stage_expect(sleeper.map, g);
    }
    must(km_abort(pair.checkpointer));
    assert_int_equal(stage_header().generation, 0);
    return pair;
}

/* Commits `generation` if the ring has room for it. */
static bool commit_if_it_fits(km_map *map, uint64_t generation) {
    must(km_begin(map, KM_WRITE));
    stage_store(km_data(map), generation);
    const int result = km_commit(map);
    if (result == 0)
        return true;
    assert_string_equal(km_error_name(result), "KM_EBUSY");
    must(km_abort(map));
    return false;
}

static void a_pin_taken_while_the_ring_is_used_again_keeps_its_frames(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        unsigned halves = 0, begun = 0;
        uint64_t n = 1;
        for (;; n++) {
            struct stage_pair pair = sleep_through_commits(kind == 0 ? 0 : KM_READONLY);
            stage_beside(n, kind == 0 ? pin_sleeper : lock_sleeper);
            must(km_checkpoint(pair.checkpointer));
            for (uint64_t g = 8; g <= 24 && commit_if_it_fits(pair.other, g); g++) {
            }
            if (!stage_happened())
                break;
            if (sleeper.half) /* the other half, as far as it has been promised to get */
                must(km__refresh_to(sleeper.map, km__load(&sleeper.map->control->visible)));
            halves += sleeper.half;
            if (!sleeper.refused) {
                begun++;
                expect_shown(sleeper.map);
                km__unpin(sleeper.map);
                sleeper.map->access = 0;
            }
            stage_expect_between(sleeper.map, 7, 24);
            check_clean(pair.other);
        }
        assert_in_range(n, 30, 200);
        assert_true(begun >= 20 && (kind != 0 || halves >= 5));
    }
}

/* ---- a newer header slot that rots after its frames were reused -------------------------------------------------- */

/* A reader begins behind each checkpoint, so that there is no other one until the ring is full again. */
static void a_newer_slot_that_rots_takes_nothing_though_its_frames_were_reused(void **state) {
    (void)state;
    enum { COMMITS = 30 };
    struct os_sim_state *states[COMMITS + 1];
    stage_reset();
    km_map *map = stage_open(KM_CREATE, STAGE_RING), *reader = stage_open(0, 0);
    unsigned full = 0;
    for (uint64_t g = 1; g <= COMMITS; g++) {
        while (!commit_if_it_fits(map, g)) {
            full++;
            must(km_abort(reader));
            must(km_checkpoint(map));
            assert_int_equal(stage_header().generation, g - 1);
            must(km_begin(reader, KM_READ));
        }
        if (g == 1)
            must(km_begin(reader, KM_READ));
        states[g] = os_sim_save();
    }
    assert_true(full >= 3);
    for (uint64_t g = 1; g <= COMMITS; g++) {
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            if (seed == 0)
                os_sim_kill(states[g]);
            else
                os_sim_reboot(states[g], seed == 1 ? OS_SIM_NOTHING : OS_SIM_SECTORS, seed);
            stage_rot_newest_slot();
            stage_reopen(g);
        }
        os_sim_state_free(states[g]);
    }
}

/* ---- a checkpoint whose journal tail is lost half-way ------------------------------------------------------------ */

static struct {
    struct stage_saved saved;
    unsigned mixtures; /* states in which home is on its way */
} half_way;

static void save_half_way(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)context;
    stage_save(&half_way.saved, operation, step);
    const struct km__header header = stage_header();
    half_way.mixtures += header.target > header.generation;
}

/* The commits from 3 on are lazy: nothing but the checkpoint needs them on the disk. */
static void a_checkpoint_that_loses_power_half_way_needs_no_frame_that_was_not_durable(void **state) {
    (void)state;
    static const uint32_t kinds[] = {0, KM_FULL_PAGES};
    for (int i = 0; i < 2; i++) {
        stage_reset();
        km_map *map = stage_open(KM_CREATE | KM_LAZY | kinds[i], 4 * STAGE_RING), *holder = stage_open(0, 0);
        must(km_begin(holder, KM_READ));
        for (uint64_t g = 1; g <= 6; g++) {
            stage_commit(map, g);
            if (g == 2)
                must(km_sync(map));
        }
        must(km_abort(holder));
        assert_int_equal(stage_header().generation, 0);
        half_way.saved.count = 0;
        half_way.mixtures = 0;
        os_sim_watch(save_half_way, NULL);
        must(km_checkpoint(map));
        os_sim_watch(NULL, NULL);
        assert_int_equal(stage_header().generation, 6);
        assert_true(half_way.mixtures >= 3);
        stage_cut_at_each(&half_way.saved, 2, 6);
    }
}

/* ---- a checkpointer that dies between the header and its publication --------------------------------------------- */

/* Its last store is the publication itself, so the state between is made by taking that back. */
static void die_before_publication(km_map *map, uint64_t published) {
    must(km_checkpoint(map));
    assert_int_equal(stage_header().generation, 7);
    atomic_store(&map->control->checkpointed, published);
    atomic_store(&map->control->file_mark, 1);
    small_die(map);
}

static void a_checkpointer_that_died_before_its_publication_is_finished_by_the_next(void **state) {
    (void)state;
    enum { WRITER, CHECKPOINTER, READERS_FIRST, LAST_CLOSE, EVERYBODY, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct stage_pair pair = stage_pair(0, STAGE_RING, 7);
        km_map *map = pair.other, *slept = stage_open(0, 0), *outsider = stage_open(KM_READONLY, 0);
        slept->stale = outsider->stale = true;
        die_before_publication(pair.checkpointer, 0);
        if (kind == READERS_FIRST) {
            stage_expect(slept, 7);
            stage_expect(outsider, 7);
            assert_int_equal(map->control->checkpointed, 0); /* they publish nothing, and show no home too old */
        }
        if (kind == CHECKPOINTER)
            must(km_checkpoint(map));
        uint64_t newest = 7;
        if (kind != EVERYBODY && kind != LAST_CLOSE)
            for (; newest < 15; newest++)
                stage_commit(map, newest + 1);
        if (newest == 15) {
            assert_true(km__load(&map->control->checkpointed) >= 7);
            stage_expect(slept, newest);
            stage_expect(outsider, newest);
        }
        must(km_close(outsider));
        if (kind == LAST_CLOSE) {
            must(km_close(slept));
            must(km_close(map));
        }
        struct os_sim_state *ended = os_sim_save();
        os_sim_kill(ended);
        stage_rot_newest_slot();
        stage_reopen(newest);
        os_sim_reboot(ended, OS_SIM_NOTHING, 1);
        stage_reopen(newest);
        os_sim_state_free(ended);
    }
}

/* ---- frames in the user's own data ------------------------------------------------------------------------------- */

/* All processes die, or the power goes, now; what is opened then is `generation`, and holds `expected`. */
static void expect_after_each_end(uint64_t generation, const unsigned char *expected) {
    struct os_sim_state *state = os_sim_save();
    for (uint64_t seed = 0; seed < 4; seed++) {
        if (seed == 0)
            os_sim_kill(state);
        else
            os_sim_reboot(state, seed == 1 ? OS_SIM_NOTHING : OS_SIM_SECTORS, seed);
        km_map *map = small_open(0), *outsider = small_open(KM_READONLY);
        km_map *const both[] = {map, outsider};
        for (int i = 0; i < 2; i++) {
            must(km_begin(both[i], KM_READ));
            assert_int_equal(km_generation(both[i]), generation);
            assert_memory_equal(km_data(both[i]), expected, SMALL_SIZE);
            must(km_abort(both[i]));
        }
        check_clean(map);
        must(km_close(outsider));
        must(km_close(map));
    }
    os_sim_kill(state); /* and on, as after a kill */
    os_sim_state_free(state);
}

/* A commit that changes every byte of the range, so that its frame carries them as they are, side by side. */
static void commit_bytes(km_map *map, uint64_t offset, const unsigned char *bytes, size_t length) {
    must(km_begin(map, KM_WRITE));
    unsigned char *data = km_data(map);
    for (size_t i = 0; i < length; i++)
        data[offset + i] = (unsigned char)~bytes[i];
    must(km_commit(map));
    must(km_begin(map, KM_WRITE));
    memcpy((unsigned char *)km_data(map) + offset, bytes, length);
    must(km_commit(map));
}

/* A lap of the ring from a time that did not come to be: the map is brought back from an older copy of its file, at
 * generation 1, and 59 more small commits were made to the newer one. Returns the map. */
static km_map *lose_history(unsigned char ring[SMALL_RING], uint32_t flags) {
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE);
    check_commit_fill(map, 0, 1, 8);
    must(km_close(map));
    struct os_sim_state *copy = os_sim_save();
    map = small_open(flags);
    for (int i = 2; i <= 60; i++)
        check_commit_fill(map, (uint64_t)i * 8, i, 8);
    assert_true(os_sim_read(SMALL_PATH, map->header.journal_offset, ring, SMALL_RING));
    os_sim_kill(copy);
    os_sim_state_free(copy);
    return small_open(0);
}

/* They say that commits were durable which this history does not have. */
static void a_lap_of_a_lost_history_in_the_data_is_no_evidence(void **state) {
    (void)state;
    static unsigned char expected[SMALL_SIZE], ring[SMALL_RING];
    km_map *map = lose_history(ring, 0);
    commit_bytes(map, 0, ring, 10000);
    memcpy(expected, km_data(map), sizeof expected);
    expect_after_each_end(3, expected);
}

/* What a stranger to the chain can build that knows all else: the frame of a commit that stores nothing. */
static const unsigned char *build_forgery(struct km__frame_builder *builder, const km_map *map, uint64_t generation) {
    struct km__frame_fields fields = {.generation = generation,
                                      .time_ns = 1,
                                      .nonce = 7,
                                      .data_size = SMALL_SIZE,
                                      .durable = generation - 1,
                                      .process_id = 1};
    memcpy(fields.uuid, map->header.uuid, sizeof fields.uuid);
    const unsigned char *bytes = NULL;
    uint64_t length = 0, chain = 0;
    km__frame_start(builder);
    must(km__frame_finish(builder, &fields, &bytes, &length, &chain));
    assert_int_equal(length, sizeof(struct km__frame_head));
    return bytes;
}

/* Bytes that look like frames stand in the data, and so in the ring. Three commits later a frame is written over the
 * part of the ring before them, and ends just there. */
static void expect_no_commit_in_the_data(km_map *map, const unsigned char *bytes, size_t length) {
    enum { OVERHEAD = sizeof(struct km__frame_head) + KM__PAGE_ENTRY + KM__RANGE_ENTRY };
    static unsigned char expected[SMALL_SIZE], ring[SMALL_RING];
    const uint64_t generation = km_generation(map) + 4;
    check_commit_fill(map, KM_PAGE_SIZE, 0xee, length); /* so that all bytes that come next are changes */
    const uint64_t where = map->cursor.position + OVERHEAD;
    must(km_begin(map, KM_WRITE));
    memcpy((unsigned char *)km_data(map) + KM_PAGE_SIZE, bytes, length);
    must(km_commit(map));
    must(km_checkpoint(map));
    check_commit_fill(map, 0, 0xdd, SMALL_RING - map->cursor.position - 1000); /* little room is left behind it */
    must(km_checkpoint(map));
    check_commit_fill(map, 0, 0xcc, where - OVERHEAD);
    assert_int_equal(km_generation(map), generation);
    assert_int_equal(map->cursor.position, where);
    assert_true(os_sim_read(SMALL_PATH, map->header.journal_offset, ring, sizeof ring));
    assert_memory_equal(ring + where, bytes, length); /* where the walk looks next */
    memcpy(expected, km_data(map), sizeof expected);
    expect_after_each_end(generation, expected);
}

static void a_forged_frame_in_the_data_is_not_the_next_commit(void **state) {
    (void)state;
    enum { COPIES = 30, LENGTH = sizeof(struct km__frame_head) };
    unsigned char bytes[COPIES * LENGTH];
    struct km__frame_builder builder = {0};
    os_sim_reset(1);
    km_map *map = small_open(KM_CREATE);
    const unsigned char *forgery = build_forgery(&builder, map, 5);
    for (size_t i = 0; i < COPIES; i++)
        memcpy(bytes + i * LENGTH, forgery, LENGTH);
    expect_no_commit_in_the_data(map, bytes, sizeof bytes);
    km__frame_builder_release(&builder);
}

/* A true frame, whole, of the very number that comes next. */
static void a_frame_of_a_lost_history_in_the_data_is_not_the_next_commit(void **state) {
    (void)state;
    static unsigned char ring[SMALL_RING];
    km_map *map = lose_history(ring, KM_LAZY); /* they do not say that any was durable */
    uint64_t at = 0;
    struct km__frame_head head;
    for (;; at += 8) {
        assert_in_range(at, 0, 2000);
        memcpy(&head, ring + at, sizeof head);
        if (head.magic == KM__FRAME_MAGIC && head.generation == 6)
            break;
    }
    expect_no_commit_in_the_data(map, ring + at, 3000);
}

int main(void) {
    scratch_time_limit(90);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pin_taken_while_the_ring_is_used_again_keeps_its_frames),
        cmocka_unit_test(a_newer_slot_that_rots_takes_nothing_though_its_frames_were_reused),
        cmocka_unit_test(a_checkpoint_that_loses_power_half_way_needs_no_frame_that_was_not_durable),
        cmocka_unit_test(a_checkpointer_that_died_before_its_publication_is_finished_by_the_next),
        cmocka_unit_test(a_forged_frame_in_the_data_is_not_the_next_commit),
        cmocka_unit_test(a_frame_of_a_lost_history_in_the_data_is_not_the_next_commit),
        cmocka_unit_test(a_lap_of_a_lost_history_in_the_data_is_no_evidence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
