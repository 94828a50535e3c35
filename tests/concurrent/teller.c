/* SPDX-License-Identifier: MIT
 *
 * The life of a worker of the kill test: see teller.h.
 */
#include "teller.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "support/bank.h"
#include "support/check.h"

#define HANDLES 3u
#define WAIT_MS 20u

struct handle {
    km_map *map;
    uint32_t flags;
};

struct life {
    struct teller teller;
    struct bank_worker worker; /* its map is one of the handles */
    struct handle handles[HANDLES];
    char copy_path[600];
};

const char *teller_copy_path(const char *ledger, uint32_t number) {
    static char path[600];
    snprintf(path, sizeof path, "%s.copy-%u", ledger, number);
    return path;
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

pid_t teller_start(const struct teller *teller) {
    char number[16], kind[16], grows[16], is_alone[16], seed[32], seconds[16];
    snprintf(number, sizeof number, "%u", teller->number);
    snprintf(kind, sizeof kind, "%u", (unsigned)teller->kind);
    snprintf(grows, sizeof grows, "%u", teller->grows);
    snprintf(is_alone, sizeof is_alone, "%u", teller->is_alone);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)teller->seed);
    snprintf(seconds, sizeof seconds, "%u", teller->seconds);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGALRM, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        execl("/proc/self/exe", "test_kill", "teller", teller->map, teller->ledger, number, kind, grows, is_alone, seed,
              seconds, (char *)NULL);
        _exit(98);
    }
    return pid;
}

static int teller_wrong(struct life *life, const char *what, int result) {
    snprintf(life->worker.why, sizeof life->worker.why, "%s gave %s: %s", what, km_error_name(result),
             km_last_error_detail());
    return 1;
}

/* ---- handles ----------------------------------------------------------------------------------------------------- */

static bool teller_writes(const struct life *life) {
    return life->teller.number < TELLER_WRITING;
}

static uint32_t random_flags(struct life *life) {
    struct chance *chance = &life->worker.chance;
    if (!teller_writes(life))
        return chance_percent(chance, 50) ? KM_READONLY : 0;
    const bool lazy =
        life->teller.kind == TELLER_LAZY || (life->teller.kind == TELLER_MIXED && chance_percent(chance, 50));
    return (lazy ? KM_LAZY : 0) | (chance_percent(chance, 20) ? KM_DECLARED : 0);
}

static int open_handle(struct life *life, struct handle *handle) {
    static const char *const trackers[] = {"scan", "pagemap", "compare"};
    setenv("KEEPMAP_TRACKER", trackers[chance_below(&life->worker.chance, 3)], 1);
    handle->flags = random_flags(life);
    const struct km_options options = {
        .struct_size = sizeof options, .flags = handle->flags, .timeout_ms = TELLER_TIMEOUT_MS};
    const int result = km_open(&handle->map, life->teller.map, &options);
    if (result != 0)
        return teller_wrong(life, "km_open", result);
    atomic_fetch_add(&life->worker.ledger->opens, 1);
    return 0;
}

static int close_handle(struct life *life, struct handle *handle) {
    const int result = km_close(handle->map);
    handle->map = NULL;
    return result == 0 ? 0 : teller_wrong(life, "km_close", result);
}

static unsigned count_open(const struct life *life) {
    unsigned count = 0;
    for (unsigned i = 0; i < HANDLES; i++)
        count += life->handles[i].map != NULL;
    return count;
}

/* Open one more handle, or close one; or leave and come back, in the middle of everything. */
static int change_handles(struct life *life) {
    struct handle *handle = &life->handles[chance_below(&life->worker.chance, HANDLES)];
    if (handle->map == NULL)
        return open_handle(life, handle);
    if (count_open(life) > 1)
        return close_handle(life, handle);
    if (life->teller.is_alone)
        return 0;
    return close_handle(life, handle) != 0 || open_handle(life, handle) != 0;
}

static void choose_handle(struct life *life) {
    const struct handle *handle;
    do {
        handle = &life->handles[chance_below(&life->worker.chance, HANDLES)];
    } while (handle->map == NULL);
    life->worker.map = handle->map;
    life->worker.declares = (handle->flags & KM_DECLARED) != 0;
}

/* ---- working ----------------------------------------------------------------------------------------------------- */

static int look(struct life *life) {
    struct chance *chance = &life->worker.chance;
    return bank_look(&life->worker, chance_percent(chance, 15) ? (unsigned)chance_below(chance, 8000) : 0);
}

static int plain_call(struct life *life, int (*call)(km_map *map), const char *name) {
    const int result = call(life->worker.map);
    return result == 0 ? 0 : teller_wrong(life, name, result);
}

static int write_step(struct life *life) {
    const uint64_t pick = chance_below(&life->worker.chance, 1000);
    if (pick < 850)
        return bank_commit(&life->worker);
    if (pick < 950)
        return look(life);
    if (pick < 960)
        return plain_call(life, km_sync, "km_sync");
    if (pick < 975)
        return plain_call(life, km_checkpoint, "km_checkpoint");
    if (pick < 985)
        return life->teller.grows ? bank_grow(&life->worker) : 0;
    if (pick < 990)
        return bank_wait(&life->worker, WAIT_MS);
    if (pick < 992)
        return bank_copy(&life->worker, life->copy_path);
    return 0;
}

static int read_step(struct life *life) {
    const uint64_t pick = chance_below(&life->worker.chance, 1000);
    if (pick < 700)
        return look(life);
    if (pick < 975)
        return bank_wait(&life->worker, WAIT_MS);
    if (pick < 990)
        return bank_verify(&life->worker);
    return bank_copy(&life->worker, life->copy_path);
}

static int work(struct life *life) {
    for (;;) {
        choose_handle(life);
        if (teller_writes(life) ? write_step(life) : read_step(life))
            return 1;
        if (chance_percent(&life->worker.chance, 2) && change_handles(life) != 0)
            return 1;
    }
}

int teller_main(char **arguments) {
    static struct life life;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    life.teller = (struct teller){
        .map = arguments[2],
        .ledger = arguments[3],
        .number = (uint32_t)strtoul(arguments[4], NULL, 10),
        .kind = (enum teller_kind)strtoul(arguments[5], NULL, 10),
        .grows = (uint32_t)strtoul(arguments[6], NULL, 10),
        .is_alone = (uint32_t)strtoul(arguments[7], NULL, 10),
        .seed = strtoull(arguments[8], NULL, 10),
    };
    alarm((unsigned)strtoul(arguments[9], NULL, 10));
    life.worker.ledger = bank_ledger_map(life.teller.ledger, false);
    life.worker.chance.state = life.teller.seed;
    life.worker.writer = life.teller.number;
    snprintf(life.copy_path, sizeof life.copy_path, "%s", teller_copy_path(life.teller.ledger, life.teller.number));
    if (life.worker.ledger == NULL) {
        perror(life.teller.ledger);
        return 1;
    }
    if (open_handle(&life, &life.handles[0]) == 0) {
        atomic_store(&life.worker.ledger->attached[life.teller.number], 1);
        work(&life);
    }
    fprintf(stderr, "worker %u (%s, %s, kind %d, seed %llu): %s\n", life.teller.number, life.teller.map,
            getenv("KEEPMAP_TRACKER"), (int)life.teller.kind, (unsigned long long)life.teller.seed, life.worker.why);
    return 1;
}
