/* SPDX-License-Identifier: MIT
 *
 * Four writers and two readers, each a process of its own, are killed at random moments, stopped and let go on, and
 * started again; sometimes all die at once, so that the next to attach has to recover, and sometimes that one dies too.
 * Every snapshot that anybody takes, and the state after every recovery, must satisfy the bank's invariant
 * (support/bank.h), and no commit that was acknowledged or seen may be missing: neither durable nor lazy ones, because
 * processes die here, not the machine.
 *
 * The workers are this program, started anew with arguments: nothing of the parent's handles is inherited.
 */
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/bank.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"

#define WORKERS_WRITING 4
#define WORKERS 6
#define KILLS 500 /* by each of the two tests */
#define TIME_LIMIT_S 250.0
#define JOURNAL_SIZE 65536
#define TIMEOUT_MS 30000

struct worker_process {
    pid_t pid; /* 0: not running */
    uint32_t number;
    bool writes;
    uint32_t flags;
    const char *tracker;
};

struct stage {
    const char *map, *ledger_path;
    struct bank_ledger *ledger;
    struct chance chance;
    struct worker_process workers[WORKERS];
    unsigned kills, recoveries, died_recovering, stops;
};

/* ---- a worker's life --------------------------------------------------------------------------------------------- */

static int work(struct bank_worker *worker, bool writes, uint32_t flags) {
    for (unsigned round = 0;; round++) {
        if (writes && bank_commit(worker) != 0) {
            return 1;
        }
        const unsigned dwell_us =
            chance_percent(&worker->chance, 15) ? (unsigned)chance_below(&worker->chance, 8000) : 0;
        if ((!writes || round % 8 == 0) && bank_look(worker, dwell_us) != 0) {
            return 1;
        }
        if (!writes && round % 64 == 63 && bank_verify(worker) != 0) {
            return 1;
        }
        if (chance_below(&worker->chance, 50) == 0) { /* leave and come back, in the middle of everything */
            int result = km_close(worker->map);
            const struct km_options options = {.struct_size = sizeof options, .flags = flags, .timeout_ms = TIMEOUT_MS};
            worker->map = NULL;
            if (result == 0) {
                result = km_open(&worker->map, getenv("KEEPMAP_TEST_MAP"), &options);
            }
            if (result != 0) {
                snprintf(worker->why, sizeof worker->why, "closing and opening gave %s: %s", km_error_name(result),
                         km_last_error_detail());
                return 1;
            }
            atomic_fetch_add(&worker->ledger->opens, 1);
        }
    }
}

/* test_kill writer|reader NUMBER FLAGS SEED LEDGER, with the map in KEEPMAP_TEST_MAP. Ends by a signal, or with what is
 * wrong. */
static int worker_main(char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm((unsigned)TIME_LIMIT_S + 60);
    const bool writes = strcmp(arguments[1], "writer") == 0;
    const uint32_t flags = (uint32_t)strtoul(arguments[3], NULL, 10);
    struct bank_worker worker = {
        .ledger = bank_ledger_map(arguments[5], false),
        .chance = {strtoull(arguments[4], NULL, 10)},
        .writer = (uint32_t)strtoul(arguments[2], NULL, 10),
        .declares = (flags & KM_DECLARED) != 0,
    };
    const struct km_options options = {.struct_size = sizeof options, .flags = flags, .timeout_ms = TIMEOUT_MS};
    if (worker.ledger == NULL) {
        perror(arguments[5]);
        return 1;
    }
    const int result = km_open(&worker.map, getenv("KEEPMAP_TEST_MAP"), &options);
    if (result != 0) {
        fprintf(stderr, "%s %s: km_open gave %s: %s\n", arguments[1], arguments[2], km_error_name(result),
                km_last_error_detail());
        return 1;
    }
    atomic_fetch_add(&worker.ledger->opens, 1);
    work(&worker, writes, flags);
    fprintf(stderr, "%s %s (%s, flags %u): %s\n", arguments[1], arguments[2], getenv("KEEPMAP_TRACKER"), flags,
            worker.why);
    return 1;
}

/* ---- the parent -------------------------------------------------------------------------------------------------- */

static void start(struct stage *stage, struct worker_process *worker) {
    char number[16], flags[16], seed[32];
    snprintf(number, sizeof number, "%u", worker->number);
    snprintf(flags, sizeof flags, "%u", worker->flags);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)chance_next(&stage->chance));
    worker->pid = fork();
    assert_true(worker->pid >= 0);
    if (worker->pid == 0) {
        signal(SIGALRM, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        setenv("KEEPMAP_TEST_MAP", stage->map, 1);
        setenv("KEEPMAP_TRACKER", worker->tracker, 1);
        execl("/proc/self/exe", "test_kill", worker->writes ? "writer" : "reader", number, flags, seed,
              stage->ledger_path, (char *)NULL);
        _exit(98);
    }
}

static void kill_all(struct stage *stage);

/* A worker never ends by itself: if it did, it found something wrong and said so. */
static void expect_alive(struct stage *stage, struct worker_process *worker) {
    int status;
    if (worker->pid == 0 || waitpid(worker->pid, &status, WNOHANG) == 0) {
        return;
    }
    worker->pid = 0;
    kill_all(stage);
    if (WIFSIGNALED(status)) {
        fail_msg("worker %u died of signal %d", worker->number, WTERMSIG(status));
    }
    fail_msg("worker %u ended with status %d", worker->number, WEXITSTATUS(status));
}

static void reap(struct worker_process *worker) {
    int status;
    while (worker->pid != 0 && waitpid(worker->pid, &status, 0) < 0 && errno == EINTR) {
    }
    worker->pid = 0;
}

static void kill_one(struct stage *stage, struct worker_process *worker) {
    if (worker->pid == 0) {
        return;
    }
    expect_alive(stage, worker);
    assert_int_equal(kill(worker->pid, SIGKILL), 0);
    reap(worker);
    stage->kills++;
}

static void kill_all(struct stage *stage) {
    for (struct worker_process *worker = stage->workers; worker < stage->workers + WORKERS; worker++) {
        if (worker->pid != 0) {
            kill(worker->pid, SIGKILL);
        }
    }
    for (struct worker_process *worker = stage->workers; worker < stage->workers + WORKERS; worker++) {
        stage->kills += worker->pid != 0;
        reap(worker);
    }
}

static void pause_for(struct stage *stage, unsigned at_most_us) {
    struct timespec pause = {.tv_nsec = (long)chance_below(&stage->chance, at_most_us) * 1000};
    nanosleep(&pause, NULL);
}

static void check_state(struct stage *stage, uint32_t flags, bool verify) {
    struct bank_worker worker = {.ledger = stage->ledger, .chance = {1}};
    const struct km_options options = {.struct_size = sizeof options, .flags = flags, .timeout_ms = TIMEOUT_MS};
    must(km_open(&worker.map, stage->map, &options));
    if (bank_look(&worker, 0) != 0 || (verify && bank_verify(&worker) != 0)) {
        fail_msg("after a recovery: %s", worker.why);
    }
    must(km_close(worker.map));
}

/* Everybody dies at once. Then perhaps the first one to come back dies while it recovers. */
static void wipe_out(struct stage *stage) {
    for (struct worker_process *worker = stage->workers; worker < stage->workers + WORKERS; worker++) {
        expect_alive(stage, worker);
    }
    kill_all(stage);
    stage->recoveries++;
    while (chance_percent(&stage->chance, 50)) {
        struct worker_process *first = &stage->workers[chance_below(&stage->chance, WORKERS_WRITING)];
        start(stage, first);
        pause_for(stage, 6000);
        kill_one(stage, first);
        stage->died_recovering++;
    }
    if (chance_percent(&stage->chance, 40)) {
        check_state(stage, KM_READONLY, false); /* the journal is still as the dead left it */
    }
    if (chance_percent(&stage->chance, 40)) {
        check_state(stage, 0, true);
    }
    for (struct worker_process *worker = stage->workers; worker < stage->workers + WORKERS; worker++) {
        start(stage, worker);
    }
}

static void stop_for_a_while(struct stage *stage, struct worker_process *worker) {
    expect_alive(stage, worker);
    assert_int_equal(kill(worker->pid, SIGSTOP), 0);
    pause_for(stage, 80000);
    stage->stops++;
    if (chance_percent(&stage->chance, 30)) {
        kill_one(stage, worker);
        start(stage, worker);
    } else {
        assert_int_equal(kill(worker->pid, SIGCONT), 0);
    }
}

static void choose_workers(struct stage *stage, uint32_t writer_flags) {
    static const char *const trackers[] = {"scan", "pagemap", "compare"};
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct worker_process *worker = &stage->workers[i];
        worker->number = i;
        worker->writes = i < WORKERS_WRITING;
        worker->tracker = trackers[i % 3];
        worker->flags = worker->writes ? writer_flags | (i == 3 ? KM_DECLARED : 0) : i == 4 ? KM_READONLY : 0;
    }
}

static void kill_at_random(uint32_t writer_flags, const char *name) {
    struct stage stage = {.chance = {chance_mix(chance_seed(), writer_flags)}};
    stage.map = scratch_path("%s.km", name);
    stage.ledger_path = scratch_path("%s.ledger", name);
    stage.ledger = bank_ledger_map(stage.ledger_path, true);
    assert_non_null(stage.ledger);
    must(bank_create(stage.map, JOURNAL_SIZE, 0));
    choose_workers(&stage, writer_flags);
    for (struct worker_process *worker = stage.workers; worker < stage.workers + WORKERS; worker++) {
        start(&stage, worker);
    }
    const double begun = scratch_now_s();
    while (stage.kills < KILLS || stage.ledger->commits <= KILLS || stage.ledger->snapshots <= KILLS) {
        pause_for(&stage, 120000);
        struct worker_process *worker = &stage.workers[chance_below(&stage.chance, WORKERS)];
        const unsigned pick = (unsigned)chance_below(&stage.chance, 100);
        if (pick < 12) {
            wipe_out(&stage);
        } else if (pick < 22) {
            stop_for_a_while(&stage, worker);
        } else {
            kill_one(&stage, worker);
            pause_for(&stage, 3000);
            start(&stage, worker);
        }
        for (worker = stage.workers; worker < stage.workers + WORKERS; worker++) {
            expect_alive(&stage, worker);
        }
    }
    const unsigned kills = stage.kills;
    kill_all(&stage);
    check_state(&stage, 0, true);
    check_state(&stage, KM_READONLY, true);
    fprintf(stderr,
            "# %s: %u killed, %u recoveries (%u died recovering), %u stopped, %llu commits, %llu snapshots, "
            "%llu verifications, %llu opens, %.0f s\n",
            name, kills, stage.recoveries, stage.died_recovering, stage.stops,
            (unsigned long long)stage.ledger->commits, (unsigned long long)stage.ledger->snapshots,
            (unsigned long long)stage.ledger->verifications, (unsigned long long)stage.ledger->opens,
            scratch_now_s() - begun);
    for (uint32_t writer = 0; writer < WORKERS_WRITING; writer++) {
        assert_true(stage.ledger->writers[writer].acknowledged > 0);
    }
    bank_ledger_unmap(stage.ledger);
}

static void no_kill_breaks_or_loses_a_durable_commit(void **state) {
    (void)state;
    kill_at_random(0, "durable");
}

static void no_kill_breaks_or_loses_a_lazy_commit(void **state) {
    (void)state;
    kill_at_random(KM_LAZY, "lazy");
}

int main(int count, char **arguments) {
    if (count == 6) {
        return worker_main(arguments);
    }
    scratch_time_limit(2 * (unsigned)TIME_LIMIT_S + 60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_kill_breaks_or_loses_a_durable_commit),
        cmocka_unit_test(no_kill_breaks_or_loses_a_lazy_commit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
