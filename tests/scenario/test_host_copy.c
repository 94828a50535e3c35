/* SPDX-License-Identifier: MIT
 *
 * Scenarios of the host: the file of a map in use is copied piece by piece, as `cp` does, beside commits and
 * checkpoints. Such a copy mixes several moments. It may be refused or found damaged; what is called sound must be one
 * commit, whole.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"
#include "support/workers.h"

#define PAGES 48u
#define SIZE (PAGES * KM_PAGE_SIZE)
#define PIECE 16384u
#define COPIES 240u
#define LIFE_S 100

/* ---- what each commit does, as a function of its number ---------------------------------------------------------- */

static unsigned char shadow[SIZE];
static uint64_t shadow_generation;

static void apply(unsigned char *data, uint64_t generation) {
    struct chance chance = {.state = chance_mix(generation, 1)};
    for (unsigned i = 0; i < 3; i++) {
        const uint64_t at = chance_below(&chance, SIZE - 3000);
        chance_fill(&chance, data + at, 1 + chance_below(&chance, 3000));
    }
}

/* Compares with the state after commit `generation`. */
static int is_state(const void *data, uint64_t generation) {
    if (generation < shadow_generation) {
        memset(shadow, 0, sizeof shadow);
        shadow_generation = 0;
    }
    while (shadow_generation < generation)
        apply(shadow, ++shadow_generation);
    return memcmp(data, shadow, SIZE) == 0;
}

static int try_open(km_map **map, const char *path, uint32_t flags) {
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 65536, .flags = flags, .timeout_ms = 5000};
    return km_open(map, path, &options);
}

/* Commits for ever, and brings home now and then. */
static void work(const char *path, uint32_t flags, uint64_t seed) {
    struct chance chance = {.state = seed};
    km_map *map = NULL;
    child_must(try_open(&map, path, flags));
    for (;;) {
        child_must(km_begin(map, KM_WRITE));
        apply(km_data(map), km_generation(map) + 1);
        child_must(km_commit(map));
        if (chance_percent(&chance, 5))
            child_must(km_checkpoint(map));
    }
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

static void copy_in_pieces(const char *from, const char *to, struct chance *chance) {
    static unsigned char piece[PIECE];
    const int source = open(from, O_RDONLY | O_CLOEXEC);
    const int copy = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(source >= 0 && copy >= 0);
    for (ssize_t got; (got = read(source, piece, sizeof piece)) > 0;) {
        assert_int_equal(write(copy, piece, (size_t)got), got);
        if (chance_percent(chance, 30))
            usleep((useconds_t)chance_below(chance, 1500));
    }
    close(source);
    close(copy);
}

/* Whether the copy is called sound; it is one commit then. */
static bool judge(const char *path) {
    km_map *map = NULL;
    struct km_report report = {.struct_size = sizeof report};
    if (try_open(&map, path, KM_READONLY) != 0)
        return false;
    must(km_verify(map, &report, NULL, NULL));
    const bool sound = report.pages_damaged == 0 && report.frames_damaged == 0 && report.headers_damaged == 0 &&
                       report.digest_matches == 1 && check_info(map).damaged == 0;
    if (sound) {
        must(km_begin(map, KM_READ));
        if (!is_state(km_data(map), km_generation(map)))
            fail_msg("a copy is called sound, and is not commit %llu", (unsigned long long)km_generation(map));
        must(km_abort(map));
    }
    must(km_close(map));
    return sound;
}

/* Who attaches for writing, and closes, may mend a torn header slot; what is then called sound is judged again. */
static void judge_recovered(const char *path, bool sound) {
    km_map *map = NULL;
    const int opened = try_open(&map, path, 0);
    if (sound)
        must(opened);
    if (opened == 0)
        (void)km_close(map);
    if (!judge(path) && sound)
        fail_msg("a copy was sound, and is not so after a session");
}

static void a_copy_piece_by_piece_is_one_commit_or_is_found_out(void **state) {
    (void)state;
    struct chance chance = {.state = chance_seed()};
    const char *path = scratch_path("used.km"), *copy = scratch_path("copy.km");
    unsigned sound = 0, found_out = 0;
    km_map *map;
    must(try_open(&map, path, KM_CREATE));
    must(km_close(map));
    pid_t workers[2];
    for (unsigned i = 0; i < 2; i++) {
        const uint64_t seed = chance_next(&chance);
        workers[i] = workers_fork(LIFE_S);
        if (workers[i] == 0)
            work(path, i == 0 ? 0 : KM_LAZY, seed);
    }
    for (unsigned n = 0; n < COPIES || sound == 0 || found_out == 0; n++) {
        copy_in_pieces(path, copy, &chance);
        workers_expect_alive(workers, 2);
        const bool is_sound = judge(copy);
        judge_recovered(copy, is_sound);
        sound += is_sound;
        found_out += !is_sound;
    }
    workers_end(workers, 2);
    print_message("%u copies are one commit, %u are found out\n", sound, found_out);
    must(try_open(&map, path, 0));
    must(km_begin(map, KM_READ));
    assert_true(is_state(km_data(map), km_generation(map)));
    must(km_abort(map));
    check_clean(map);
    must(km_close(map));
}

static void a_copy_is_one_commit_while_the_users_stand_still(void **state) {
    (void)state;
    struct chance chance = {.state = chance_seed() + 1};
    const char *path = scratch_path("still.km"), *copy = scratch_path("still-copy.km");
    km_map *map;
    must(try_open(&map, path, KM_CREATE));
    must(km_close(map));
    pid_t worker = workers_fork(LIFE_S);
    if (worker == 0)
        work(path, KM_LAZY, chance_next(&chance));
    for (unsigned n = 0; n < 60; n++) {
        usleep((useconds_t)chance_below(&chance, 3000));
        workers_expect_alive(&worker, 1);
        assert_int_equal(kill(worker, SIGSTOP), 0);
        int status;
        assert_int_equal(waitpid(worker, &status, WUNTRACED), worker);
        assert_true(WIFSTOPPED(status));
        copy_in_pieces(path, copy, &chance);
        assert_int_equal(kill(worker, SIGCONT), 0);
        assert_true(judge(copy));
        judge_recovered(copy, true);
    }
    workers_end(&worker, 1);
}

int main(void) {
    scratch_time_limit(150);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_piece_by_piece_is_one_commit_or_is_found_out),
        cmocka_unit_test(a_copy_is_one_commit_while_the_users_stand_still),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
