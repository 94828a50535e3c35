/* SPDX-License-Identifier: MIT
 *
 * Creating, attaching and closing, step by step: what somebody else does just before a step, and what is there if
 * nobody gets further than this step.
 */
#include "stage.h"

static km_map *newcomer; /* who came meanwhile; NULL: it could not */
static uint32_t newcomer_flags;
static uint64_t newcomer_commit; /* 0: only reads */

static void come(void) {
    const struct km_options options = {.struct_size = sizeof options, .flags = newcomer_flags, .timeout_ms = 5};
    const int result = km_open(&newcomer, STAGE_PATH, &options);
    assert_true(result == 0 || result == KM_EBUSY);
    if (result == 0 && newcomer_commit != 0)
        stage_commit(newcomer, newcomer_commit);
}

static void expect_newcomer(uint64_t before, uint64_t commit) {
    newcomer = NULL;
    newcomer_flags = commit == 0 ? KM_READONLY : 0;
    newcomer_commit = commit;
    stage_beside(before, come);
}

static int open_again(km_map **map, uint32_t flags) {
    const struct km_options options = {
        .struct_size = sizeof options, .size = STAGE_SIZE, .journal_size = STAGE_RING, .flags = flags, .timeout_ms = 5};
    return km_open(map, STAGE_PATH, &options);
}

/* ---- attaching --------------------------------------------------------------------------------------------------- */

/* Seven commits that are not home, and nobody left. */
static void leave_a_journal(void) {
    stage_pair(0, STAGE_RING, 7);
    os_sim_kill(NULL);
}

static void who_comes_during_a_recovery_waits_or_belongs_to_the_session(void **state) {
    (void)state;
    uint64_t n = 1;
    for (;; n++) {
        leave_a_journal();
        expect_newcomer(n, 8);
        km_map *map = NULL;
        must(open_again(&map, 0));
        if (!stage_happened())
            break;
        stage_commit(map, newcomer != NULL ? 9 : 8);
        if (newcomer != NULL)
            stage_expect(newcomer, 9);
        must(km_close(newcomer));
        must(km_close(map));
        stage_reopen(newcomer != NULL ? 9 : 8);
    }
    assert_true(n > 5);
}

static km_map *outsider;

static void look_from_outside(void) {
    stage_expect(outsider, 7);
}

/* O4: a handle without write permission, which has been there before, looks in the midst of a rebuild. */
static void words_that_are_being_rebuilt_are_not_believed(void **state) {
    (void)state;
    uint64_t n = 1;
    for (;; n++) {
        leave_a_journal();
        outsider = stage_open(KM_READONLY, 0);
        stage_expect(outsider, 7);
        stage_beside(n, look_from_outside);
        km_map *map = stage_open(0, 0);
        const bool happened = stage_happened();
        stage_expect(outsider, 7);
        must(km_close(outsider));
        must(km_close(map));
        if (!happened)
            break;
    }
    assert_true(n > 5);
}

static void who_comes_during_the_last_close_waits_or_loses_nothing(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        leave_a_journal();
        km_map *map = stage_open(0, 0);
        expect_newcomer(n, 8);
        must(km_close(map));
        if (!stage_happened())
            break;
        if (newcomer != NULL) {
            stage_commit(newcomer, 9);
            os_sim_kill(NULL);
        }
        stage_reopen(newcomer != NULL ? 9 : 7);
    }
}

static void a_recovery_leaves_home_as_it_was(void **state) {
    (void)state;
    static unsigned char before[STAGE_SIZE], after[STAGE_SIZE];
    leave_a_journal();
    const uint64_t home = stage_header().data_offset;
    assert_true(os_sim_read(STAGE_PATH, home, before, sizeof before));
    km_map *map = stage_open(0, 0);
    stage_expect(map, 7);
    assert_true(os_sim_read(STAGE_PATH, home, after, sizeof after));
    assert_memory_equal(before, after, sizeof before);
    assert_int_equal(stage_header().generation, 0);
    must(km_close(map));
}

/* What a power cut leaves of the shared words says nothing. */
static void words_of_noise_are_not_believed(void **state) {
    (void)state;
    static unsigned char noise[KM__CONTROL_SIZE];
    for (int value = 1; value < 256; value += 127) {
        leave_a_journal();
        memset(noise, value, sizeof noise);
        const uint64_t no_session = 0; /* of another system, which would be refused */
        memcpy(noise + offsetof(struct km__control, epoch), &no_session, sizeof no_session);
        assert_true(os_sim_damage(STAGE_PATH, KM__CONTROL_OFFSET, noise, sizeof noise));
        km_map *map = stage_open(0, 0);
        const struct km__control *control = map->control;
        assert_int_equal(control->failed | control->file_mark | control->suspect, 0);
        assert_int_equal(control->sync_began, control->sync_ended);
        stage_expect(map, 7);
        stage_commit(map, 8);
        must(km_checkpoint(map));
        assert_int_equal(stage_header().generation, 8);
        must(km_close(map));
        stage_reopen(8);
    }
}

/* A commit that was seen, and not durable, is lost with its session; another takes its number. */
static void a_reader_forgets_what_its_session_has_lost(void **state) {
    (void)state;
    stage_reset();
    km_map *map = stage_open(KM_CREATE | KM_LAZY, STAGE_RING);
    km_map *reader = stage_open(KM_READONLY, 0);
    stage_commit(map, 1);
    const uint64_t lost = map->header.journal_offset + map->cursor.position;
    stage_commit(map, 2);
    stage_expect(reader, 2);
    os_lock_release(map->locks, 0, UINT64_MAX); /* its process dies */
    stage_rot(lost + 200);
    map = stage_open(0, 0);
    stage_expect(map, 1);
    must(km_begin(map, KM_WRITE));
    ((unsigned char *)km_data(map))[12345] = 99;
    must(km_commit(map));
    must(km_begin(reader, KM_READ));
    assert_int_equal(km_generation(reader), 2);
    assert_int_equal(((const unsigned char *)km_data(reader))[12345], 99);
    assert_int_equal(((const unsigned char *)km_data(reader))[0], 1);
    must(km_abort(reader));
    must(km_close(reader));
    must(km_close(map));
}

static void a_closed_map_belongs_to_no_system(void **state) {
    (void)state;
    stage_reset();
    must(km_close(stage_open(KM_CREATE, STAGE_RING)));
    const uint32_t another = os_system() + 1;
    assert_true(
        os_sim_damage(STAGE_PATH, KM__CONTROL_OFFSET + offsetof(struct km__control, system), &another, sizeof another));
    stage_reopen(0);
}

/* ---- marks ------------------------------------------------------------------------------------------------------- */

/* Who dies in a sync leaves a mark, because nobody else may be told that it failed. */
static void expect_mark(void *context, enum os_sim_operation operation, uint64_t step) {
    (void)step;
    const struct km__control *control = context;
    if (operation == OS_SIM_SYNC)
        assert_true(control->file_mark != 0 || control->sync_began != control->sync_ended);
}

static void a_mark_stands_around_every_sync_of_a_session(void **state) {
    (void)state;
    stage_reset();
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = STAGE_SIZE,
                                       .max_size = 4 * STAGE_SIZE,
                                       .journal_size = STAGE_RING,
                                       .flags = KM_CREATE | KM_LAZY};
    must(km_open(&map, STAGE_PATH, &options));
    km_map *reader = stage_open(KM_READONLY, 0); /* its mapping of the words outlives the session */
    const unsigned char junk = 1;
    assert_true(os_sim_damage(STAGE_PATH, map->header.data_offset + STAGE_SIZE + 5000, &junk, 1));
    os_sim_watch(expect_mark, (void *)(uintptr_t)reader->control);
    stage_commit(map, 1);
    must(km_sync(map));
    km_map *durable = stage_open(0, 0);
    stage_commit(durable, 2);
    must(km_checkpoint(map));
    must(km_grow(map, 2 * STAGE_SIZE));
    must(km_begin(map, KM_WRITE));
    memset(km_data(map), 5, 2 * STAGE_SIZE); /* more than the ring has room for */
    must(km_commit(map));
    must(km_close(durable));
    must(km_close(map));
    os_sim_watch(NULL, NULL);
    must(km_close(reader));
}

/* ---- creating ---------------------------------------------------------------------------------------------------- */

/* Nobody opens half a map; and what is committed to a whole one does not vanish with its name. */
static void a_map_is_there_as_a_whole_wherever_its_creator_died(void **state) {
    (void)state;
    static struct stage_saved saved;
    unsigned found = 0;
    stage_reset();
    os_sim_watch(stage_save, &saved);
    must(km_close(stage_open(KM_CREATE, STAGE_RING)));
    os_sim_watch(NULL, NULL);
    for (size_t i = 0; i < saved.count; i++) {
        for (uint64_t seed = 0; seed < 10; seed++) {
            if (seed == 0)
                os_sim_kill(saved.states[i]);
            else
                os_sim_reboot(saved.states[i], OS_SIM_SECTORS, seed);
            km_map *map = NULL;
            const int result = open_again(&map, 0);
            if (result == KM_ENOTFOUND)
                continue;
            must(result);
            stage_commit(map, 1);
            os_sim_cut();
            os_sim_reboot(NULL, OS_SIM_NOTHING, seed);
            stage_reopen(1);
            found++;
        }
    }
    assert_true(found > 0);
    stage_forget(&saved);
}

static void a_name_that_cannot_be_made_durable_is_told_by_the_first_handle(void **state) {
    (void)state;
    stage_reset();
    must(km_close(stage_open(KM_CREATE, STAGE_RING)));
    km_map *map = NULL;
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    must_fail(open_again(&map, 0), KM_EIO);
    stage_reopen(0);
}

/* A hole in the words, which are stored to through a mapping, would be a fault where the disk is full; one in the ring
 * would cost each commit a change of the file system's own records. */
static void expect_no_holes(const struct km__header *header) {
    struct os_file *file = NULL;
    must(os_file_open(&file, STAGE_PATH, false));
    const uint64_t ranges[][2] = {{0, KM__CONTROL_OFFSET + KM__CONTROL_SIZE},
                                  {header->journal_offset, header->journal_size}};
    for (int i = 0; i < 2; i++) {
        uint64_t start = 0, stop = 0;
        const uint64_t end = ranges[i][0] + ranges[i][1];
        must(os_file_next_data(file, ranges[i][0], end, &start, &stop));
        assert_int_equal(start, ranges[i][0]);
        assert_int_equal(stop, end);
    }
    os_file_close(file);
}

static void words_and_ring_are_no_holes(void **state) {
    (void)state;
    stage_reset();
    const struct km_options creation = {.struct_size = sizeof creation, .size = STAGE_SIZE};
    struct km_options checked;
    must(km__check_options(&creation, &checked));
    must(km__create(STAGE_PATH, &checked, false, NULL));
    struct km__header header = stage_header();
    expect_no_holes(&header); /* before anybody has stored to the words */
    os_sim_reset(1);
    km_map *map = stage_open(KM_CREATE, STAGE_RING);
    stage_large = 1;
    stage_commit(map, 1);
    header = stage_header();
    assert_true(header.journal_size > STAGE_RING);
    expect_no_holes(&header);
    must(km_grow(map, 4 * STAGE_SIZE));
    assert_true(stage_header().journal_offset != header.journal_offset);
    header = stage_header();
    expect_no_holes(&header);
    must(km_close(map));
}

/* A frame of a history that a power cut took must not continue another one that looks the same. */
static void frames_of_two_handles_have_different_nonces(void **state) {
    (void)state;
    stage_reset();
    uint64_t nonces[3];
    for (uint64_t i = 0; i < 3; i++) {
        km_map *map = stage_open(KM_CREATE, STAGE_RING);
        stage_commit(map, i + 1);
        const struct km__place *place = km__places_find(&map->places, i + 1);
        struct km__frame_head head;
        assert_true(os_sim_read(STAGE_PATH, map->header.journal_offset + place->position, &head, sizeof head));
        assert_int_equal(head.generation, i + 1);
        nonces[i] = head.nonce;
        if (i == 1)
            must(km_close(map)); /* the others go on beside */
    }
    assert_true(nonces[0] != nonces[1] && nonces[0] != nonces[2] && nonces[1] != nonces[2]);
    assert_true(nonces[0] != 0 && nonces[1] != 0 && nonces[2] != 0);
}

static void who_comes_while_a_map_is_replaced_waits_or_has_the_new_one(void **state) {
    (void)state;
    uint64_t n = 1;
    for (;; n++) {
        stage_reset();
        must(km_close(stage_open(KM_CREATE, STAGE_RING)));
        expect_newcomer(n, 1);
        km_map *map = NULL;
        must(open_again(&map, KM_CREATE | KM_REPLACE));
        if (!stage_happened())
            break;
        stage_expect(map, newcomer != NULL ? 1 : 0);
        must(km_close(newcomer));
        must(km_close(map));
    }
    assert_true(n > 5);
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_comes_during_a_recovery_waits_or_belongs_to_the_session),
        cmocka_unit_test(words_that_are_being_rebuilt_are_not_believed),
        cmocka_unit_test(who_comes_during_the_last_close_waits_or_loses_nothing),
        cmocka_unit_test(a_recovery_leaves_home_as_it_was),
        cmocka_unit_test(words_of_noise_are_not_believed),
        cmocka_unit_test(a_reader_forgets_what_its_session_has_lost),
        cmocka_unit_test(a_closed_map_belongs_to_no_system),
        cmocka_unit_test(a_mark_stands_around_every_sync_of_a_session),
        cmocka_unit_test(a_map_is_there_as_a_whole_wherever_its_creator_died),
        cmocka_unit_test(a_name_that_cannot_be_made_durable_is_told_by_the_first_handle),
        cmocka_unit_test(words_and_ring_are_no_holes),
        cmocka_unit_test(frames_of_two_handles_have_different_nonces),
        cmocka_unit_test(who_comes_while_a_map_is_replaced_waits_or_has_the_new_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
