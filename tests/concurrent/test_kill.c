/* SPDX-License-Identifier: MIT
 *
 * Four writers and two readers (concurrent/teller.h), each a process of its own, are killed at random moments and
 * before or after random calls of the system, stopped while they hold locks and pins and let go on, and started again;
 * sometimes all die at once, so that the next to attach has to recover, and sometimes that one dies too. Every snapshot
 * that anybody takes, every copy, and the state after every recovery, must satisfy the bank's invariant
 * (support/bank.h), and no commit that was acknowledged or seen may be missing: neither durable nor lazy ones, because
 * processes die here, not the machine.
 *
 * A round is one map, made by chance: a file or an object, and all options that change what the library does. An object
 * ends with its last user; then it must be gone, and everything begins anew.
 *
 * KEEPMAP_MINUTES=N: rounds for so long, and a table of what was killed where.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "concurrent/strike.h"
#include "concurrent/teller.h"
#include "format/checksum.h"
#include "support/bank.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/objects.h"
#include "support/scratch.h"

#define WORKERS 6u
#define KILLS 500u /* in each of the two rounds that every run makes */
#define SHORT_ROUNDS 6u
#define SHORT_KILLS 60u
#define LONG_KILLS 300u
#define WORKER_LIMIT_S 400u

/* Who keeps an object alive when all workers are dead. */
enum keeper { KEEPER_NOBODY, KEEPER_READER, KEEPER_WRITER };

struct plan {
    bool is_object;
    enum keeper keeper; /* of an object */
    enum teller_kind kind;
    bool grows;
    struct km_options options;
    unsigned kills;
};

struct stage {
    const struct plan *plan;
    char map[700], ledger_path[700];
    struct bank_ledger *ledger;
    struct chance chance;
    km_map *keeper;
    const struct km__control *control;
    pid_t pids[WORKERS];
};

enum manner { BLIND, STOPPED_FIRST, AT_A_CALL, ALL_AT_ONCE, MANNERS };

/* Of all rounds. */
static struct {
    unsigned rounds, objects, lives, recoveries, died_recovering;
    unsigned manner[MANNERS], killed[STRIKE_HOLDS], stopped[STRIKE_HOLDS], stops;
    uint64_t commits, aborts, snapshots, verifications, opens, copies, waits, steps;
} counts;

static unsigned count_kills(void) {
    unsigned sum = 0;
    for (unsigned i = 0; i < MANNERS; i++)
        sum += counts.manner[i];
    return sum;
}

static void count_holds(unsigned table[STRIKE_HOLDS], unsigned holds) {
    for (unsigned i = 0; i < STRIKE_HOLDS; i++)
        table[i] += (holds >> i) & 1u;
}

static void pause_for(struct stage *stage, unsigned at_most_us) {
    const struct timespec pause = {.tv_nsec = (long)chance_below(&stage->chance, at_most_us) * 1000};
    nanosleep(&pause, NULL);
}

/* ---- workers ----------------------------------------------------------------------------------------------------- */

static bool is_alone(const struct stage *stage) {
    return stage->plan->is_object && stage->keeper == NULL;
}

static void start(struct stage *stage, unsigned number) {
    const struct teller teller = {
        .map = stage->map,
        .ledger = stage->ledger_path,
        .number = number,
        .kind = stage->plan->kind,
        .grows = stage->plan->grows,
        .is_alone = is_alone(stage),
        .seed = chance_next(&stage->chance),
        .seconds = WORKER_LIMIT_S,
    };
    stage->pids[number] = teller_start(&teller);
}

static void start_all(struct stage *stage) {
    for (unsigned number = 0; number < WORKERS; number++)
        start(stage, number);
}

/* It is dead, or about to be. */
static int reap(struct stage *stage, unsigned number) {
    int status = 0;
    while (waitpid(stage->pids[number], &status, 0) < 0 && errno == EINTR) {
    }
    stage->pids[number] = 0;
    atomic_store(&stage->ledger->attached[number], 0);
    return status;
}

static unsigned kill_all(struct stage *stage) {
    unsigned killed = 0;
    for (unsigned number = 0; number < WORKERS; number++) {
        if (stage->pids[number] != 0)
            kill(stage->pids[number], SIGKILL);
    }
    for (unsigned number = 0; number < WORKERS; number++) {
        if (stage->pids[number] != 0)
            killed += WIFSIGNALED(reap(stage, number));
    }
    return killed;
}

/* A worker never ends by itself: if it did, it found something wrong and said so. */
static void expect_alive(struct stage *stage) {
    for (unsigned number = 0; number < WORKERS; number++) {
        siginfo_t info = {0};
        if (stage->pids[number] == 0 ||
            waitid(P_PID, (id_t)stage->pids[number], &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0)
            continue;
        const int status = reap(stage, number);
        kill_all(stage);
        fail_msg("worker %u ended with %d", number, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
    }
}

/* Whether one worker can be missed: somebody else keeps the map. */
static bool can_be_missed(const struct stage *stage, unsigned number) {
    if (!is_alone(stage))
        return true;
    for (unsigned other = 0; other < WORKERS; other++) {
        if (other != number && stage->pids[other] != 0 && atomic_load(&stage->ledger->attached[other]) != 0)
            return true;
    }
    return false;
}

/* ---- killing and stopping ---------------------------------------------------------------------------------------- */

/* To a point of the protocol: a lock that it has just got, or any call, and some way on from there. */
static void seek(struct stage *stage, unsigned number) {
    static const int aims[] = {STRIKE_ANY_CALL, STRIKE_ANY_CALL, KM__WRITER, KM__CHECKPOINT, KM__SYNC, KM__ATTACH};
    const int aim = aims[chance_below(&stage->chance, sizeof aims / sizeof *aims)];
    const unsigned more = (unsigned)chance_below(&stage->chance, aim == STRIKE_ANY_CALL ? 100 : 24);
    (void)strike_seek(stage->pids[number], aim, more, 300);
}

static void kill_one(struct stage *stage, unsigned number, enum manner manner) {
    const pid_t pid = stage->pids[number];
    unsigned holds = 0;
    if (manner == AT_A_CALL && strike_is_possible()) {
        seek(stage, number);
        holds = strike_look(pid, stage->control);
    } else if (manner != BLIND) {
        manner = STOPPED_FIRST;
        holds = strike_stop(pid, stage->control);
    }
    expect_alive(stage);
    if (!can_be_missed(stage, number)) { /* the one that kept the map has been found to be this one */
        fail_msg("worker %u is the only one left", number);
    }
    kill(pid, SIGKILL);
    reap(stage, number);
    counts.manner[manner]++;
    count_holds(counts.killed, holds);
}

static enum manner choose_manner(struct stage *stage) {
    const uint64_t pick = chance_below(&stage->chance, 100);
    return pick < 30 ? BLIND : pick < 60 ? STOPPED_FIRST : AT_A_CALL;
}

static void stop_for_a_while(struct stage *stage, unsigned number) {
    const pid_t pid = stage->pids[number];
    if (chance_percent(&stage->chance, 60) && strike_is_possible())
        seek(stage, number);
    const unsigned holds = strike_stop(pid, stage->control);
    expect_alive(stage);
    counts.stops++;
    count_holds(counts.stopped, holds);
    pause_for(stage, chance_percent(&stage->chance, 20) ? 80000 : 10000);
    if (can_be_missed(stage, number) && chance_percent(&stage->chance, 30)) {
        kill(pid, SIGKILL);
        reap(stage, number);
        counts.manner[STOPPED_FIRST]++;
        count_holds(counts.killed, holds);
        start(stage, number);
    } else {
        strike_go_on(pid);
    }
}

/* ---- a map's life ------------------------------------------------------------------------------------------------ */

static void check_state(struct stage *stage, uint32_t flags, bool verify) {
    struct bank_worker worker = {.ledger = stage->ledger, .chance = {1}};
    const struct km_options options = {.struct_size = sizeof options, .flags = flags, .timeout_ms = TELLER_TIMEOUT_MS};
    must(km_open(&worker.map, stage->map, &options));
    if (bank_look(&worker, 0) != 0 || (verify && bank_verify(&worker) != 0))
        fail_msg("after a recovery: %s", worker.why);
    must(km_close(worker.map));
}

/* Control, to see pins; the name can be gone from one moment to the next. */
static void look_at_control(struct stage *stage) {
    const int file = open(stage->plan->is_object ? objects_path(stage->map) : stage->map, O_RDONLY | O_CLOEXEC);
    if (stage->control != NULL)
        munmap((void *)(uintptr_t)stage->control, KM__CONTROL_SIZE);
    stage->control = NULL;
    if (file < 0)
        return;
    void *control = mmap(NULL, KM__CONTROL_SIZE, PROT_READ, MAP_SHARED, file, KM__CONTROL_OFFSET);
    stage->control = control == MAP_FAILED ? NULL : control;
    close(file);
}

/* An object that nobody else keeps needs its maker until a worker has it. */
static void wait_for_a_worker(struct stage *stage) {
    while (!can_be_missed(stage, WORKERS)) {
        expect_alive(stage);
        scratch_sleep_ms(1);
    }
}

static void begin_life(struct stage *stage) {
    const struct plan *plan = stage->plan;
    km_map *maker = NULL;
    must(bank_create_open(&maker, stage->map, &plan->options));
    look_at_control(stage);
    if (plan->is_object && plan->keeper != KEEPER_NOBODY)
        stage->keeper = check_open(stage->map, 0, plan->keeper == KEEPER_READER ? KM_READONLY : 0);
    if (!plan->is_object)
        must(km_close(maker));
    start_all(stage);
    if (plan->is_object) {
        wait_for_a_worker(stage);
        must(km_close(maker));
    }
    counts.lives++;
}

/* All that used an object are dead: it is gone. */
static void expect_gone(struct stage *stage) {
    const struct km_options options = {.struct_size = sizeof options};
    km_map *map = NULL;
    must_fail(km_open(&map, stage->map, &options), KM_ENOTFOUND);
    assert_int_equal(objects_left(), 0);
    for (unsigned number = 0; number < WORKERS; number++)
        remove(teller_copy_path(stage->ledger_path, number));
    bank_ledger_forget(stage->ledger);
}

/* Everybody dies at once. Then perhaps the first one to come back dies while it recovers. */
static void wipe_out(struct stage *stage) {
    expect_alive(stage);
    counts.manner[ALL_AT_ONCE] += kill_all(stage);
    if (is_alone(stage)) {
        expect_gone(stage);
        begin_life(stage);
        return;
    }
    counts.recoveries++;
    while (chance_percent(&stage->chance, 50)) {
        const unsigned first = (unsigned)chance_below(&stage->chance, TELLER_WRITING);
        start(stage, first);
        if (chance_percent(&stage->chance, 50) && strike_is_possible()) {
            (void)strike_seek(stage->pids[first], KM__ATTACH, (unsigned)chance_below(&stage->chance, 200), 1000);
            count_holds(counts.killed, strike_look(stage->pids[first], stage->control));
            counts.manner[AT_A_CALL]++;
        } else {
            pause_for(stage, 6000);
            counts.manner[BLIND]++;
        }
        expect_alive(stage);
        kill(stage->pids[first], SIGKILL);
        reap(stage, first);
        counts.died_recovering++;
    }
    if (chance_percent(&stage->chance, 40))
        check_state(stage, KM_READONLY, false); /* the journal is still as the dead left it */
    if (chance_percent(&stage->chance, 40))
        check_state(stage, 0, true);
    start_all(stage);
}

static void end_life(struct stage *stage) {
    kill_all(stage);
    if (is_alone(stage)) {
        expect_gone(stage);
        return;
    }
    check_state(stage, 0, true);
    check_state(stage, KM_READONLY, true);
    if (stage->keeper != NULL) {
        must(km_close(stage->keeper));
        stage->keeper = NULL;
        expect_gone(stage);
    }
}

/* ---- a round ----------------------------------------------------------------------------------------------------- */

static void strike_on(struct stage *stage) {
    const struct bank_ledger *ledger = stage->ledger;
    const unsigned kills = count_kills() + stage->plan->kills;
    while (count_kills() < kills || ledger->commits <= stage->plan->kills || ledger->snapshots <= stage->plan->kills) {
        pause_for(stage, chance_percent(&stage->chance, 4) ? 150000 : 24000);
        const unsigned number = (unsigned)chance_below(&stage->chance, WORKERS);
        const uint64_t pick = chance_below(&stage->chance, 100);
        if (pick < 5) {
            wipe_out(stage);
        } else if (pick < 20) {
            stop_for_a_while(stage, number);
        } else if (can_be_missed(stage, number)) {
            kill_one(stage, number, choose_manner(stage));
            pause_for(stage, 2000);
            start(stage, number);
        }
        expect_alive(stage);
    }
}

static void count_work(const struct bank_ledger *ledger) {
    counts.commits += ledger->commits;
    counts.aborts += ledger->aborts;
    counts.snapshots += ledger->snapshots;
    counts.verifications += ledger->verifications;
    counts.opens += ledger->opens;
    counts.copies += ledger->copies;
    counts.waits += ledger->waits;
    counts.steps += ledger->steps;
}

static void tell_plan(const struct plan *plan, const char *map, unsigned kills, double seconds) {
    static const char *const kinds[] = {"durable", "lazy", "mixed"};
    static const char *const keepers[] = {"", ", kept by a reader", ", kept by a writer"};
    const uint32_t flags = plan->options.flags;
    fprintf(stderr, "# %s: %s, journal %llu KiB%s%s%s, checksum %u%s: %u killed in %.0f s\n",
            plan->is_object ? map : "a file", kinds[plan->kind], (unsigned long long)plan->options.journal_size / 1024,
            plan->grows ? ", grows" : "", (flags & KM_COMPRESS) != 0 ? ", compressed" : "",
            (flags & KM_FULL_PAGES) != 0 ? ", full pages" : "", plan->options.checksum, keepers[plan->keeper], kills,
            seconds);
}

static void run_round(const struct plan *plan) {
    struct stage stage = {.plan = plan, .chance = {chance_mix(chance_seed(), ++counts.rounds)}};
    const double begun = scratch_now_s();
    const unsigned kills = count_kills();
    snprintf(stage.ledger_path, sizeof stage.ledger_path, "%s", scratch_path("%u.ledger", counts.rounds));
    if (plan->is_object)
        snprintf(stage.map, sizeof stage.map, "Local\\kill-%u", counts.rounds);
    else
        snprintf(stage.map, sizeof stage.map, "%s", scratch_path("%u.km", counts.rounds));
    stage.ledger = bank_ledger_map(stage.ledger_path, true);
    assert_non_null(stage.ledger);
    counts.objects += plan->is_object;
    begin_life(&stage);
    strike_on(&stage);
    end_life(&stage);
    tell_plan(plan, stage.map, count_kills() - kills, scratch_now_s() - begun);
    count_work(stage.ledger);
    for (unsigned number = 0; plan->kills >= KILLS && number < TELLER_WRITING; number++)
        assert_true(stage.ledger->writers[number].acknowledged > 0);
    bank_ledger_unmap(stage.ledger);
    if (stage.control != NULL)
        munmap((void *)(uintptr_t)stage.control, KM__CONTROL_SIZE);
    for (unsigned number = 0; number < WORKERS; number++)
        remove(teller_copy_path(stage.ledger_path, number));
    remove(stage.ledger_path);
    if (!plan->is_object)
        remove(stage.map);
}

static void choose_plan(struct plan *plan, struct chance *chance, unsigned kills) {
    static const uint64_t journals[] = {65536, 65536, 262144, 4 << 20};
    const bool zlib = km__zlib_available();
    *plan = (struct plan){.kills = kills, .is_object = chance_percent(chance, 40)};
    plan->keeper = plan->is_object ? (enum keeper)chance_below(chance, 3) : KEEPER_NOBODY;
    plan->kind = (enum teller_kind)chance_below(chance, 3);
    plan->grows = chance_percent(chance, 50);
    plan->options = (struct km_options){
        .struct_size = sizeof plan->options,
        .max_size = plan->grows ? BANK_MAX_SIZE : 0,
        .journal_size = journals[chance_below(chance, 4)],
        .checksum = chance_percent(chance, 80)           ? KM_CHECKSUM_CRC32C
                    : zlib && chance_percent(chance, 50) ? KM_CHECKSUM_CRC32
                                                         : KM_CHECKSUM_NONE,
        .flags =
            (zlib && chance_percent(chance, 25) ? KM_COMPRESS : 0) | (chance_percent(chance, 25) ? KM_FULL_PAGES : 0),
    };
}

static void tell_counts(void) {
    fprintf(stderr,
            "# %u killed: %u at any moment, %u stopped first, %u before or after a call of the system, %u with all "
            "others\n",
            count_kills(), counts.manner[BLIND], counts.manner[STOPPED_FIRST], counts.manner[AT_A_CALL],
            counts.manner[ALL_AT_ONCE]);
    fprintf(stderr, "# %-28s %9s %9s\n", "looked at, holding", "killed", "stopped");
    for (unsigned i = 0; i < STRIKE_HOLDS; i++)
        fprintf(stderr, "#   %-26s %9u %9u\n", strike_names[i], counts.killed[i], counts.stopped[i]);
    fprintf(stderr, "# %u stopped by SIGSTOP, %u recoveries after the death of all, %u died recovering\n", counts.stops,
            counts.recoveries, counts.died_recovering);
    fprintf(stderr, "# %u rounds, %u with objects, which lived and ended %u times\n", counts.rounds, counts.objects,
            counts.lives - (counts.rounds - counts.objects));
    fprintf(stderr,
            "# %llu commits, %llu aborts, %llu steps of growth, %llu snapshots, %llu waits, %llu verifications, %llu "
            "copies, "
            "%llu opens\n",
            (unsigned long long)counts.commits, (unsigned long long)counts.aborts, (unsigned long long)counts.steps,
            (unsigned long long)counts.snapshots, (unsigned long long)counts.waits,
            (unsigned long long)counts.verifications, (unsigned long long)counts.copies,
            (unsigned long long)counts.opens);
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void kill_in_a_file(enum teller_kind kind) {
    const struct plan plan = {
        .kind = kind, .kills = KILLS, .options = {.struct_size = sizeof plan.options, .journal_size = 65536}};
    run_round(&plan);
}

static void no_kill_breaks_or_loses_a_durable_commit(void **state) {
    (void)state;
    kill_in_a_file(TELLER_DURABLE);
}

static void no_kill_breaks_or_loses_a_lazy_commit(void **state) {
    (void)state;
    kill_in_a_file(TELLER_LAZY);
}

static void no_kill_breaks_or_loses_a_commit_whatever_the_map(void **state) {
    (void)state;
    struct chance chance = {chance_mix(chance_seed(), 77)};
    const unsigned minutes = scratch_minutes();
    const double end = scratch_now_s() + 60.0 * minutes;
    for (unsigned round = 0; minutes > 0 ? scratch_now_s() < end : round < SHORT_ROUNDS; round++) {
        struct plan plan;
        choose_plan(&plan, &chance, minutes > 0 ? LONG_KILLS : SHORT_KILLS);
        plan.is_object = round == 0 || plan.is_object; /* a short run has one of them at least */
        run_round(&plan);
    }
    tell_counts();
    for (unsigned i = 0; strike_is_possible() && i <= STRIKE_PIN; i++)
        assert_true(counts.killed[i] + counts.stopped[i] > 0);
}

int main(int count, char **arguments) {
    if (count == TELLER_ARGUMENTS)
        return teller_main(arguments);
    scratch_time_limit(60 * scratch_minutes() + 550);
    objects_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_kill_breaks_or_loses_a_durable_commit),
        cmocka_unit_test(no_kill_breaks_or_loses_a_lazy_commit),
        cmocka_unit_test(no_kill_breaks_or_loses_a_commit_whatever_the_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
