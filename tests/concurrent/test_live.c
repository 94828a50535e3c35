/* SPDX-License-Identifier: MIT
 *
 * Live maps whose writers are killed: four processes write, two read, and writers are killed inside their transactions
 * again and again. The lock is never held by two; each death inside is told to the next writer once, and again after
 * each abort that left it unrepaired; what a writer finds is consistent unless it was told.
 *
 * The processes tell in shared memory where they stand, so that the parent, which stops a writer before it kills it,
 * knows whether it dies inside. In the first tests ("exact") writers die inside or outside, in the last one anywhere,
 * also in the middle of a call. KEEPMAP_MINUTES=N: for longer, three tenths of that in all.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/chance.h"
#include "support/check.h"
#include "support/objects.h"
#include "support/scratch.h"
#include "support/workers.h"

#define WRITERS 4u
#define WORKERS 6u
#define KILLS 200u /* inside, in each test */
#define SIZE 200000u
#define FAR 150000u /* where the second counter stands: another page */
#define TIMEOUT_MS 20000u

enum phase { OUTSIDE, ENTERING, INSIDE, LEAVING };

struct ledger {
    _Atomic uint32_t phase[WORKERS];
    _Atomic uint32_t owner; /* number + 1 of who is inside */
    _Atomic uint64_t sections, told, left, looks, waits, newest, repaired;
    _Atomic uint32_t stop;
};

static struct ledger *ledger;

struct worker {
    unsigned number;
    const char *target;
    struct chance chance;
    km_map *map;
};

/* What is in the map. Between transactions both counters are equal. */
struct counters {
    _Atomic uint64_t *first, *second;
};

static struct counters counters_of(km_map *map) {
    unsigned char *data = km_data(map);
    return (struct counters){(_Atomic uint64_t *)(void *)data, (_Atomic uint64_t *)(void *)(data + FAR)};
}

static void wrong(const struct worker *worker, const char *what, uint64_t a, uint64_t b) {
    fprintf(stderr, "worker %u: %s (%llu, %llu); last error: %s\n", worker->number, what, (unsigned long long)a,
            (unsigned long long)b, km_last_error_detail());
    _exit(99);
}

static void open_map(struct worker *worker, uint32_t flags) {
    const struct km_options options = {.struct_size = sizeof options, .flags = flags, .timeout_ms = TIMEOUT_MS};
    const int result = km_open(&worker->map, worker->target, &options);
    if (result != 0)
        wrong(worker, "km_open()", (uint64_t)-result, 0);
}

static void stand(const struct worker *worker, enum phase phase) {
    atomic_store(&ledger->phase[worker->number], phase);
}

static void dwell(struct worker *worker) {
    const uint64_t us = chance_below(&worker->chance, 300);
    const struct timespec pause = {.tv_nsec = (long)us * 1000};
    if (us > 100)
        nanosleep(&pause, NULL);
}

/* ---- a writer ---------------------------------------------------------------------------------------------------- */

/* Alone, in whatever state the last one left it. */
static void enter(struct worker *worker, bool told) {
    const uint32_t last = atomic_exchange(&ledger->owner, worker->number + 1);
    const struct counters counters = counters_of(worker->map);
    const uint64_t first = atomic_load(counters.first), second = atomic_load(counters.second);
    if (!told && last != 0)
        wrong(worker, "another is inside", last - 1, first);
    if (!told && first != second)
        wrong(worker, "the counters differ, and nobody told why", first, second);
    if (second > first || first > second + 1)
        wrong(worker, "the counters are not what any death leaves", first, second);
    if (km_generation(worker->map) < atomic_load(&ledger->newest))
        wrong(worker, "the generation went back", km_generation(worker->map), atomic_load(&ledger->newest));
    if (!told)
        return;
    atomic_fetch_add(&ledger->told, 1);
    if (first != second) {
        atomic_store(counters.second, first);
        atomic_fetch_add(&ledger->repaired, 1);
    }
}

static void leave(struct worker *worker, bool told) {
    const bool keep = !chance_percent(&worker->chance, 20);
    const uint64_t before = km_generation(worker->map);
    stand(worker, LEAVING);
    if (!keep && told)
        atomic_fetch_add(&ledger->left, 1);
    atomic_store(&ledger->owner, 0);
    const int result = keep ? km_commit(worker->map) : km_abort(worker->map);
    stand(worker, OUTSIDE);
    if (result != 0)
        wrong(worker, "the end of a transaction", (uint64_t)-result, keep);
    if (keep && km_generation(worker->map) != before + 1)
        wrong(worker, "a commit did not make the next generation", km_generation(worker->map), before);
    uint64_t newest = atomic_load(&ledger->newest);
    while (keep && newest <= before && !atomic_compare_exchange_weak(&ledger->newest, &newest, before + 1)) {
    }
    atomic_fetch_add(&ledger->sections, 1);
}

static void write_once(struct worker *worker) {
    stand(worker, ENTERING);
    const int result = km_begin(worker->map, KM_WRITE);
    if (result != 0 && result != KM_EABANDONED)
        wrong(worker, "km_begin()", (uint64_t)-result, 0);
    enter(worker, result == KM_EABANDONED);
    stand(worker, INSIDE);
    const struct counters counters = counters_of(worker->map);
    dwell(worker);
    atomic_fetch_add(counters.first, 1);
    dwell(worker);
    atomic_fetch_add(counters.second, 1);
    dwell(worker);
    leave(worker, result == KM_EABANDONED);
}

static void write_on(struct worker *worker) {
    open_map(worker, 0);
    while (atomic_load(&ledger->stop) == 0) {
        write_once(worker);
        dwell(worker);
        const uint64_t pick = chance_below(&worker->chance, 400);
        int result = 0;
        if (pick == 0)
            result = km_sync(worker->map);
        if (pick == 1 || pick == 2) {
            result = km_close(worker->map);
            open_map(worker, 0);
        }
        if (result != 0)
            wrong(worker, "between two transactions", (uint64_t)-result, pick);
    }
    const int result = km_close(worker->map);
    if (result != 0)
        wrong(worker, "km_close()", (uint64_t)-result, 0);
}

/* ---- a reader ---------------------------------------------------------------------------------------------------- */

static void look_once(struct worker *worker) {
    const struct counters counters = counters_of(worker->map);
    const uint64_t generation = km_generation(worker->map);
    const int result = km_begin(worker->map, KM_READ);
    if (result != 0)
        wrong(worker, "km_begin()", (uint64_t)-result, 0);
    const uint64_t second = atomic_load(counters.second), first = atomic_load(counters.first);
    if (first < second)
        wrong(worker, "the second counter ran ahead", first, second);
    if (km_generation(worker->map) < generation)
        wrong(worker, "the generation went back", km_generation(worker->map), generation);
    const int ended = km_abort(worker->map);
    if (ended != 0)
        wrong(worker, "km_abort()", (uint64_t)-ended, 0);
    atomic_fetch_add(&ledger->looks, 1);
}

static void verify_once(struct worker *worker) {
    struct km_report report = {.struct_size = sizeof report};
    const int result = km_verify(worker->map, &report, NULL, NULL);
    if (result != 0 || report.pages_damaged != 0 || report.headers_damaged != 0)
        wrong(worker, "km_verify()", (uint64_t)-result, report.pages_damaged);
}

static void read_on(struct worker *worker) {
    open_map(worker, KM_READONLY);
    for (unsigned round = 1; atomic_load(&ledger->stop) == 0; round++) {
        look_once(worker);
        uint64_t now = 0;
        const int waited = km_wait(worker->map, km_generation(worker->map), 20, &now);
        if (waited != 0 && waited != KM_ETIMEOUT)
            wrong(worker, "km_wait()", (uint64_t)-waited, 0);
        atomic_fetch_add(&ledger->waits, waited == 0);
        if (round % 32 == 0)
            verify_once(worker);
        if (round % 100 == 0) {
            (void)km_close(worker->map);
            open_map(worker, KM_READONLY);
        }
    }
    (void)km_close(worker->map);
}

/* ---- the parent -------------------------------------------------------------------------------------------------- */

struct stage {
    const char *target;
    bool exact;
    struct chance chance;
    pid_t pids[WORKERS];
    unsigned inside, outside, unclear;
};

static void start(struct stage *stage, unsigned number) {
    struct worker worker = {.number = number, .target = stage->target, .chance = {chance_next(&stage->chance)}};
    atomic_store(&ledger->phase[number], OUTSIDE);
    stage->pids[number] = workers_fork(300);
    if (stage->pids[number] != 0)
        return;
    if (number < WRITERS)
        write_on(&worker);
    else
        read_on(&worker);
    _exit(0);
}

/* Stop it, see where it stands, and kill it there or let it go on. */
static void strike(struct stage *stage, unsigned number) {
    int status = 0;
    assert_int_equal(kill(stage->pids[number], SIGSTOP), 0);
    assert_int_equal(waitpid(stage->pids[number], &status, WUNTRACED), stage->pids[number]);
    if (!WIFSTOPPED(status)) { /* it had something to say */
        stage->pids[number] = 0;
        workers_end(stage->pids, WORKERS);
        fail_msg("worker %u ended with %d", number, status);
    }
    const uint32_t phase = atomic_load(&ledger->phase[number]);
    const bool unclear = phase == ENTERING || phase == LEAVING;
    if (stage->exact && unclear) {
        assert_int_equal(kill(stage->pids[number], SIGCONT), 0);
        return;
    }
    stage->inside += phase == INSIDE;
    stage->outside += phase == OUTSIDE;
    stage->unclear += unclear;
    assert_int_equal(kill(stage->pids[number], SIGKILL), 0);
    assert_int_equal(waitpid(stage->pids[number], &status, 0), stage->pids[number]);
    start(stage, number);
}

/* Who is inside, most of the time. */
static unsigned choose(struct stage *stage) {
    const uint32_t owner = atomic_load(&ledger->owner);
    if (owner != 0 && chance_percent(&stage->chance, 70))
        return owner - 1;
    return (unsigned)chance_below(&stage->chance, WORKERS);
}

static void expect_end(struct stage *stage, km_map *keeper) {
    struct worker last = {.target = stage->target};
    open_map(&last, 0);
    const uint32_t abandoned = check_info(keeper).abandoned;
    const int result = km_begin(last.map, KM_WRITE);
    assert_int_equal(result, abandoned != 0 ? KM_EABANDONED : 0);
    enter(&last, result == KM_EABANDONED);
    must(km_commit(last.map));
    assert_int_equal(check_info(keeper).abandoned, 0);
    const struct counters counters = counters_of(last.map);
    assert_int_equal(atomic_load(counters.first), atomic_load(counters.second));
    assert_true(atomic_load(counters.first) >= ledger->sections);
    must(km_sync(last.map));
    check_clean(last.map);
    must(km_close(last.map));
    check_clean(keeper);
    const uint64_t deaths = stage->inside + ledger->left;
    assert_in_range(ledger->told, deaths, deaths + stage->unclear);
}

static void kill_writers(const char *target, bool exact) {
    struct stage stage = {.target = target, .exact = exact, .chance = {chance_mix(chance_seed(), exact)}};
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .mode = KM_LIVE, .flags = KM_CREATE | KM_EXCLUSIVE};
    memset(ledger, 0, sizeof *ledger);
    must(km_open(&map, target, &options));
    km_map *keeper = check_open(target, 0, KM_READONLY); /* an object lives on when all writers are dead */
    must(km_close(map));
    const double begun = scratch_now_s();
    for (unsigned i = 0; i < WORKERS; i++)
        start(&stage, i);
    const double end = begun + 6.0 * scratch_minutes(); /* in the long form: a tenth of it for each test */
    while (stage.inside < KILLS || ledger->looks < KILLS || scratch_now_s() < end) {
        const struct timespec pause = {.tv_nsec = (long)chance_below(&stage.chance, 20000000)};
        nanosleep(&pause, NULL);
        workers_expect_alive(stage.pids, WORKERS);
        strike(&stage, choose(&stage));
        if (chance_percent(&stage.chance, 3)) /* all at once */
            for (unsigned i = 0; i < WORKERS; i++)
                strike(&stage, i);
    }
    atomic_store(&ledger->stop, 1);
    for (unsigned i = 0; i < WORKERS; i++) {
        int status = 0;
        while (waitpid(stage.pids[i], &status, 0) < 0 && errno == EINTR) {
        }
        assert_int_equal(status, 0);
    }
    fprintf(stderr,
            "# %s: killed %u inside, %u outside, %u in a call; told %llu times, left %llu times, repaired %llu; %llu "
            "transactions, %llu looks, %llu waits, %.0f s\n",
            target, stage.inside, stage.outside, stage.unclear, (unsigned long long)ledger->told,
            (unsigned long long)ledger->left, (unsigned long long)ledger->repaired,
            (unsigned long long)ledger->sections, (unsigned long long)ledger->looks, (unsigned long long)ledger->waits,
            scratch_now_s() - begun);
    expect_end(&stage, keeper);
    must(km_close(keeper));
    assert_int_equal(objects_left(), 0);
}

static void each_death_inside_is_told_once_in_a_file(void **state) {
    (void)state;
    kill_writers(scratch_path("killed.km"), true);
}

static void each_death_inside_is_told_once_in_an_object(void **state) {
    (void)state;
    kill_writers("Local\\killed", true);
}

static void no_death_at_any_moment_leaves_two_writers_or_an_untold_repair(void **state) {
    (void)state;
    kill_writers(scratch_path("anywhere.km"), false);
}

int main(void) {
    scratch_time_limit(500 + 60 * scratch_minutes());
    objects_start();
    ledger = mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (ledger == MAP_FAILED)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_death_inside_is_told_once_in_a_file),
        cmocka_unit_test(each_death_inside_is_told_once_in_an_object),
        cmocka_unit_test(no_death_at_any_moment_leaves_two_writers_or_an_untold_repair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
