/* SPDX-License-Identifier: MIT
 *
 * Waiting between processes: two that wait for each other a million times, a hundred that wait for one, waiters that
 * are killed in their sleep, readers without write permission below sessions that come, go and are killed.
 *
 * How a lost wake would show: km_wait() bounds its sleeps to a second and then looks again, so that one would be
 * forgiven, and none be noticed. Here sleeps of a second take five (support/sleeps.h), and one that ends by its time
 * although the word has changed meanwhile is counted as lost; the count must be 0. What hangs altogether is ended by
 * the time limit of the program.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "map/map.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/objects.h"
#include "support/scratch.h"
#include "support/sleeps.h"

#define SIZE 8192u
#define FOR_EVER UINT32_MAX
#define SECOND_NS UINT64_C(1000000000)

#define ROUNDS 1000000u
#define LIVE_ROUNDS 300000u
#define LONGEST_NS 100000u
#define COMMIT_NS 4000u /* about as long as a commit takes until it is visible */

#define CROWD_PROCESSES 10
#define CROWD_THREADS 10
#define CROWD (CROWD_PROCESSES * CROWD_THREADS)
#define CROWD_COMMITS 200u

#define VICTIMS 6
#define KILLS 150u

#define READERS 4
#define SESSIONS 120u

/* ---- processes --------------------------------------------------------------------------------------------------- */

/* Memory that this process and those that it forks share. */
static void *shared(size_t length) {
    void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(address, MAP_FAILED);
    return address;
}

typedef void child_function(const void *context, uint64_t seed);

/* A handle that the parent has open is none in the child, which opens its own. */
static pid_t start(child_function *child, const void *context, uint64_t seed) {
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGALRM, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        alarm(550);
        child(context, seed);
        _exit(0);
    }
    return pid;
}

enum { CHILDREN_MAX = CROWD_PROCESSES };

/* All end well; if one does not, the others, which may wait for it, are ended. */
static void finish(const pid_t *pids, int count) {
    bool well = true, ended[CHILDREN_MAX] = {false};
    assert_true(count <= CHILDREN_MAX);
    for (int left = count; left > 0; left--) {
        int status = 0;
        const pid_t pid = waitpid(-1, &status, 0);
        assert_true(pid > 0);
        const bool this_well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        for (int i = 0; i < count; i++) {
            ended[i] = ended[i] || pids[i] == pid;
            if (!ended[i] && well && !this_well) {
                kill(pids[i], SIGKILL);
            }
        }
        well = well && this_well;
    }
    assert_true(well);
}

static void finish_by_signal(pid_t pid) {
    int status = 0;
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

static km_map *child_open_mode(const char *target, uint32_t mode, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .mode = mode, .flags = flags, .timeout_ms = 60000};
    child_must(km_open(&map, target, &options));
    return map;
}

static km_map *child_open(const char *path, uint32_t flags) {
    return child_open_mode(path, KM_TRANSACTIONAL, flags);
}

/* The data begins with the number of its commit. `about` (NULL allowed) becomes it when all is ready for the commit. */
static void child_commit(km_map *map, _Atomic uint64_t *about) {
    child_must(km_begin(map, KM_WRITE));
    child_must(km_touch(map, 0, sizeof(uint64_t)));
    *(uint64_t *)km_data(map) = km_generation(map) + 1;
    if (about != NULL) {
        atomic_store(about, km_generation(map) + 1);
    }
    child_must(km_commit(map));
}

static void busy(uint64_t time_ns) {
    const uint64_t end = os_time_monotonic_ns() + time_ns;
    while (os_time_monotonic_ns() < end) {
    }
}

/* Let the next wait sleep at once, or spin as long as it may. */
static void choose_spin(km_map *map, struct chance *chance) {
    if (chance_percent(chance, 50)) {
        map->wait_count = 1;
        map->wait_spin_ns = chance_percent(chance, 80) ? 0 : 2000;
    }
}

/* ---- two that wait for each other -------------------------------------------------------------------------------- */

struct duel {
    const char *target;
    uint32_t mode, flags[2];
    uint64_t rounds;
    unsigned number;
    _Atomic uint64_t *about; /* the commit that is being made; shared by the two */
};

/* Until the other is about to make its commit, but not for long: it may need this processor for it. */
static void meet(const struct duel *duel, uint64_t generation) {
    const uint64_t end = os_time_monotonic_ns() + LONGEST_NS;
    while (atomic_load(duel->about) <= generation && os_time_monotonic_ns() < end) {
    }
}

/* Between the last look and the sleep: what may come now must not be slept over. */
static void linger(void *context) {
    struct chance *chance = context;
    if (chance_percent(chance, 30)) {
        sched_yield();
    }
    busy(chance_below(chance, 10 * COMMIT_NS));
}

/* Commit when the generation is of one's own kind, else wait for the other's commit: mostly from about the time on when
 * it comes, so that it meets the look, the mark, the beginning of the sleep, or nothing any more. */
static void fight(const void *context, uint64_t seed) {
    const struct duel *duel = context;
    struct chance chance = {seed};
    sleeps_stretch(SECOND_NS, 5 * SECOND_NS);
    km_map *map = child_open_mode(duel->target, duel->mode, KM_CREATE | duel->flags[duel->number]);
    for (uint64_t generation = 0; generation < duel->rounds; generation++) {
        if (generation % 2 == duel->number) {
            child_commit(map, duel->about);
            continue;
        }
        if (chance_percent(&chance, 75)) {
            meet(duel, generation);
            busy(chance_below(&chance, COMMIT_NS));
        }
        if (chance_percent(&chance, 10)) {
            sleeps_before(linger, &chance);
        }
        uint64_t now = 0;
        choose_spin(map, &chance);
        child_must(km_wait(map, generation, FOR_EVER, &now));
        child_check(now == generation + 1);
        child_check(sleeps->lost == 0);
        if (duel->mode == KM_LIVE) { /* what was stored before the commit is there, without a begin */
            child_check(*(uint64_t *)km_data(map) == generation + 1);
        } else if (chance_percent(&chance, 5)) {
            child_must(km_begin(map, KM_READ));
            child_check(*(uint64_t *)km_data(map) == generation + 1);
            child_must(km_abort(map));
        }
    }
    child_must(km_close(map));
}

static void have_a_duel(struct duel *duel) {
    struct chance chance = {chance_seed()};
    sleeps_reset();
    pid_t children[2];
    duel->about = shared(sizeof *duel->about);
    for (unsigned i = 0; i < 2; i++) {
        duel->number = i;
        children[i] = start(fight, duel, chance_next(&chance));
    }
    km_map *map = child_open_mode(duel->target, duel->mode, KM_CREATE); /* it outlives the two */
    finish(children, 2);
    fprintf(stderr, "# %llu sleeps, %llu of them late, %llu calls to wake, %llu woken\n",
            (unsigned long long)sleeps->sleeps, (unsigned long long)sleeps->late, (unsigned long long)sleeps->wakes,
            (unsigned long long)sleeps->woken);
    assert_int_equal(sleeps->lost, 0);
    assert_true(sleeps->sleeps > duel->rounds / 100); /* it is no test of spinning alone */
    assert_true(sleeps->late > 0 && sleeps->woken > 0);
    assert_int_equal(check_info(map).generation, duel->rounds);
    must(km_close(map));
    munmap(duel->about, sizeof *duel->about);
}

static void no_wake_is_lost_in_a_million_random_rounds(void **state) {
    (void)state;
    struct duel duel = {.target = "Local\\duel", .flags = {KM_LAZY | KM_DECLARED, KM_LAZY}, .rounds = ROUNDS};
    have_a_duel(&duel);
    assert_int_equal(objects_left(), 0);
}

static void no_wake_is_lost_in_a_live_map(void **state) {
    (void)state;
    struct duel duel = {.target = scratch_path("live.km"), .mode = KM_LIVE, .rounds = LIVE_ROUNDS};
    have_a_duel(&duel);
}

/* ---- a hundred that wait for one --------------------------------------------------------------------------------- */

struct crowd {
    char path[768];
    _Atomic uint64_t seen[CROWD_COMMITS + 1]; /* how many of the crowd have been told of a commit */
    _Atomic uint64_t attached;
};

struct member {
    pthread_t thread;
    struct crowd *crowd;
};

/* Told of every commit, one by one: the next comes only when all have been told of this one. */
static void *listen(void *context) {
    struct crowd *crowd = ((struct member *)context)->crowd;
    km_map *map = child_open(crowd->path, 0);
    atomic_fetch_add(&crowd->attached, 1);
    for (uint64_t generation = 0; generation < CROWD_COMMITS; generation++) {
        uint64_t now = 0;
        child_must(km_wait(map, generation, FOR_EVER, &now));
        child_check(now == generation + 1);
        atomic_fetch_add(&crowd->seen[now], 1);
    }
    child_must(km_close(map));
    return NULL;
}

static void listen_all(const void *context, uint64_t seed) {
    struct member members[CROWD_THREADS];
    (void)seed;
    sleeps_stretch(SECOND_NS, 5 * SECOND_NS);
    for (int i = 0; i < CROWD_THREADS; i++) {
        members[i].crowd = *(struct crowd *const *)context;
        child_check(pthread_create(&members[i].thread, NULL, listen, &members[i]) == 0);
    }
    for (int i = 0; i < CROWD_THREADS; i++) {
        child_check(pthread_join(members[i].thread, NULL) == 0);
    }
}

static uint64_t marks(const km_map *map) {
    uint64_t count = 0;
    for (uint32_t slot = 0; slot < KM__SLOTS; slot++) {
        count += atomic_load(&map->control->waiting[slot / 64]) >> (slot % 64) & 1;
    }
    return count;
}

static void a_hundred_waiters_are_all_told_of_each_commit(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    struct crowd *crowd = shared(sizeof *crowd);
    snprintf(crowd->path, sizeof crowd->path, "%s", scratch_path("crowd.km"));
    must(km_close(check_open(crowd->path, SIZE, KM_CREATE)));
    sleeps_reset();
    pid_t children[CROWD_PROCESSES];
    for (int i = 0; i < CROWD_PROCESSES; i++) {
        children[i] = start(listen_all, &crowd, 0);
    }
    km_map *map = check_open(crowd->path, 0, KM_LAZY);
    while (atomic_load(&crowd->attached) < CROWD) {
        scratch_sleep_ms(1);
    }
    for (uint64_t generation = 1; generation <= CROWD_COMMITS; generation++) {
        if (chance_percent(&chance, 50)) { /* all asleep, or about to; otherwise some are still on their way */
            while (marks(map) < CROWD) {
                sched_yield();
            }
        }
        check_commit_fill(map, 0, (int)(generation % 250 + 1), 8);
        while (atomic_load(&crowd->seen[generation]) < CROWD) {
            sched_yield();
        }
    }
    finish(children, CROWD_PROCESSES);
    assert_int_equal(sleeps->lost, 0);
    assert_int_equal(marks(map), 0);
    must(km_close(map));
    munmap(crowd, sizeof *crowd);
}

/* ---- waiters that are killed ------------------------------------------------------------------------------------- */

/* Waits for what never comes, with a long and a short time limit by turns, until it is killed. */
static void wait_to_be_killed(const void *context, uint64_t seed) {
    struct chance chance = {seed};
    sleeps_stretch(SECOND_NS, 5 * SECOND_NS);
    km_map *map = child_open(context, 0);
    for (;;) {
        choose_spin(map, &chance);
        const uint32_t limit_ms = chance_percent(&chance, 30) ? (uint32_t)chance_below(&chance, 3) : FOR_EVER;
        const int result = km_wait(map, UINT64_MAX - 1, limit_ms, NULL);
        child_check(result == KM_ETIMEOUT);
    }
}

/* Follows every commit, or as many as one return stands for, while others beside it are killed. */
static void follow(const void *context, uint64_t seed) {
    struct chance chance = {seed};
    sleeps_stretch(SECOND_NS, 5 * SECOND_NS);
    km_map *map = child_open(context, 0);
    uint64_t now = 0;
    for (bool last = false; !last;) {
        const uint64_t after = now;
        choose_spin(map, &chance);
        child_must(km_wait(map, after, FOR_EVER, &now));
        child_check(now > after);
        child_must(km_begin(map, KM_READ));
        const uint64_t shown = *(uint64_t *)km_data(map);
        child_check(shown == UINT64_MAX || (shown >= now && shown == km_generation(map)));
        last = shown == UINT64_MAX;
        child_must(km_abort(map));
    }
    child_must(km_close(map));
}

static void commit_number(km_map *map, uint64_t number) {
    must(km_begin(map, KM_WRITE));
    *(uint64_t *)km_data(map) = number != 0 ? number : km_generation(map) + 1;
    must(km_commit(map));
}

static void waiters_that_are_killed_leave_nothing_behind(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    const char *path = scratch_path("killed.km");
    must(km_close(check_open(path, SIZE, KM_CREATE)));
    sleeps_reset();
    pid_t victims[VICTIMS];
    for (int i = 0; i < VICTIMS; i++) {
        victims[i] = start(wait_to_be_killed, path, chance_next(&chance));
    }
    const pid_t follower = start(follow, path, chance_next(&chance));
    km_map *map = check_open(path, 0, KM_LAZY);
    for (unsigned kills = 0; kills < KILLS;) {
        for (uint64_t commits = chance_below(&chance, 20); commits > 0; commits--) {
            commit_number(map, 0);
            busy(chance_below(&chance, 50000));
        }
        const uint64_t victim = chance_below(&chance, VICTIMS);
        if (marks(map) == 0 && chance_percent(&chance, 90)) {
            continue; /* mostly in their sleep */
        }
        finish_by_signal(victims[victim]);
        kills++;
        victims[victim] = start(wait_to_be_killed, path, chance_next(&chance));
    }
    for (int i = 0; i < VICTIMS; i++) {
        finish_by_signal(victims[i]);
    }
    commit_number(map, UINT64_MAX);
    finish(&follower, 1);
    for (unsigned commits = 0; marks(map) > 0; commits++) {
        assert_true(commits < KM__SLOTS);
        commit_number(map, 0);
    }
    assert_int_equal(sleeps->lost, 0);
    /* Slots of the dead were used again: that of the map, the follower, and as many victims as live at once (one more,
     * while a wake looks at a dead slot just when somebody attaches). */
    assert_true(atomic_load(&map->control->slot_limit) <= VICTIMS + 4);
    must(km_close(map));
}

/* ---- readers without write permission ---------------------------------------------------------------------------- */

struct sessions {
    char path[768];
    _Atomic uint64_t last; /* the generation after which nothing more comes; 0: not known yet */
};

/* Whatever begins, ends and dies above: numbers only go up, a begin shows at least what was told, and the last one
 * comes. */
static void read_on(const void *context, uint64_t seed) {
    const struct sessions *sessions = *(struct sessions *const *)context;
    struct chance chance = {seed};
    km_map *map = child_open(sessions->path, KM_READONLY);
    uint64_t now = 0;
    while (now == 0 || now != atomic_load(&sessions->last)) {
        const uint64_t after = now;
        const uint32_t limit_ms = chance_percent(&chance, 30) ? (uint32_t)chance_below(&chance, 20) : 200;
        const int result = km_wait(map, after, limit_ms, &now);
        child_check(result == 0 || result == KM_ETIMEOUT);
        child_check(result == 0 ? now > after : now == after);
        if (result == 0 && chance_percent(&chance, 30)) {
            child_must(km_begin(map, KM_READ));
            child_check(km_generation(map) >= now);
            child_check(*(uint64_t *)km_data(map) == km_generation(map));
            child_must(km_abort(map));
        }
    }
    child_must(km_close(map));
}

/* Some commits, and then the end: by a close, by nothing at all (the process exits), or by a signal. */
static void have_a_session(const void *context, uint64_t seed) {
    const struct sessions *sessions = *(struct sessions *const *)context;
    struct chance chance = {seed};
    km_map *map = child_open(sessions->path, chance_percent(&chance, 80) ? KM_LAZY : 0);
    for (uint64_t commits = chance_below(&chance, 12); commits > 0; commits--) {
        child_commit(map, NULL);
        busy(chance_below(&chance, 300000));
    }
    if (chance_percent(&chance, 30)) {
        raise(SIGKILL);
    }
    if (chance_percent(&chance, 70)) {
        child_must(km_close(map));
    }
}

static void readers_follow_sessions_that_come_go_and_die(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    struct sessions *sessions = shared(sizeof *sessions);
    snprintf(sessions->path, sizeof sessions->path, "%s", scratch_path("sessions.km"));
    must(km_close(check_open(sessions->path, SIZE, KM_CREATE)));
    pid_t readers[READERS];
    for (int i = 0; i < READERS; i++) {
        readers[i] = start(read_on, &sessions, chance_next(&chance));
    }
    for (unsigned i = 0; i < SESSIONS; i++) {
        const pid_t session = start(have_a_session, &sessions, chance_next(&chance));
        int status = 0;
        assert_int_equal(waitpid(session, &status, 0), session);
        assert_true((WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
                    (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
        if (chance_percent(&chance, 20)) {
            busy(chance_below(&chance, 10000000));
        }
    }
    km_map *map = check_open(sessions->path, 0, 0);
    commit_number(map, 0);
    atomic_store(&sessions->last, km_generation(map));
    finish(readers, READERS);
    must(km_close(map));
    munmap(sessions, sizeof *sessions);
}

int main(void) {
    scratch_time_limit(580);
    objects_start();
    sleeps_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_wake_is_lost_in_a_million_random_rounds),
        cmocka_unit_test(no_wake_is_lost_in_a_live_map),
        cmocka_unit_test(a_hundred_waiters_are_all_told_of_each_commit),
        cmocka_unit_test(waiters_that_are_killed_leave_nothing_behind),
        cmocka_unit_test(readers_follow_sessions_that_come_go_and_die),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
