/* SPDX-License-Identifier: MIT
 *
 * Eight processes create, open, use and drop objects of a few names at random, in every mode and in both scopes, while
 * they are killed and stopped at random. What is checked:
 *
 *  - There are never two objects of one name: each object has a token, drawn when its first user stores to it, and all
 *    who are attached to one name at one time have the same.
 *  - Nothing comes back: tokens are drawn from a counter, and who opens a name never finds an older one than was seen
 *    there before.
 *  - What is found is whole: all bytes are a function of the token.
 *  - When all have gone, one km_list() leaves nothing behind.
 *
 * The record of who is attached to what is in memory that the processes share. A process takes itself out before it
 * closes; the parent takes out whom it is going to kill.
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

#define WORKERS 8
#define NAMES 4
#define SIZE 9000u
#define ROUNDS 60000u /* opens that led to an object, whatever their users did then */
#define KILLS 600u
#define TIMEOUT_MS 20000u

static const char *const names[NAMES] = {"Local\\one", "Local\\two", "Global\\one", "Global\\two"};

struct record {
    _Atomic uint64_t token; /* of the object that it is attached to; 0: to none */
    _Atomic uint32_t name;
    _Atomic uint32_t doomed; /* it is going to be killed, and does not count any more */
};

struct shared {
    struct record records[WORKERS];
    _Atomic uint64_t next_token, newest[NAMES];
    _Atomic uint64_t rounds, created, refused, read_only, lists, mode_rounds[3];
    _Atomic uint32_t stop;
};

static struct shared *shared;

struct worker {
    unsigned number;
    struct chance chance;
    unsigned name;
    uint32_t mode, flags;
};

/* The first is what counts: who is ended after it is not taken out of the record. */
static void wrong(const struct worker *worker, const char *what, uint64_t a, uint64_t b) {
    if (atomic_exchange(&shared->stop, 1) != 0)
        _exit(99);
    fprintf(stderr, "worker %u, %s, mode %u, flags %u: %s (%llu, %llu); last error: %s\n", worker->number,
            names[worker->name], worker->mode, worker->flags, what, (unsigned long long)a, (unsigned long long)b,
            km_last_error_detail());
    _exit(99);
}

static void pause_us(uint64_t us) {
    const struct timespec pause = {.tv_nsec = (long)us * 1000};
    nanosleep(&pause, NULL);
}

/* ---- the data ---------------------------------------------------------------------------------------------------- */

/* The token stands first and is stored last, the rest is made from it. */
static void fill(void *data, uint64_t token) {
    uint64_t *words = data;
    for (uint64_t i = 1; i < SIZE / 8; i++)
        words[i] = chance_mix(token, i);
    atomic_store((_Atomic uint64_t *)data, token);
}

static void check_content(const struct worker *worker, const void *data, uint64_t token) {
    const uint64_t *words = data;
    for (uint64_t i = 1; i < SIZE / 8; i++)
        if (words[i] != chance_mix(token, i))
            wrong(worker, "the content is not that of the token", i, token);
}

static uint64_t token_of(km_map *map) {
    return atomic_load((_Atomic uint64_t *)km_data(map));
}

static uint64_t draw(void) {
    return atomic_fetch_add(&shared->next_token, 1) + 1;
}

/* Raw bytes have no lock: the first word tells who fills them, and then that they are full. */
static uint64_t agree_on_raw(const struct worker *worker, km_map *map) {
    _Atomic uint64_t *words = km_data(map);
    uint64_t none = 0;
    if ((worker->flags & KM_READONLY) == 0 && atomic_load(&words[0]) == 0) {
        const uint64_t token = draw();
        atomic_compare_exchange_strong(&words[0], &none, token);
    }
    return atomic_load(&words[0]);
}

/* The token of the object; 0 if nobody has given it one and this handle may not. */
static uint64_t agree(const struct worker *worker, km_map *map) {
    if (worker->mode == KM_RAW)
        return agree_on_raw(worker, map);
    const bool writes = (worker->flags & KM_READONLY) == 0;
    const int result = km_begin(map, writes ? KM_WRITE : KM_READ);
    if (result != 0 && result != KM_EABANDONED)
        wrong(worker, "km_begin()", (uint64_t)-result, 0);
    uint64_t token = token_of(map);
    if (token == 0 && writes)
        fill(km_data(map), token = draw());
    if (token != 0 && result == 0)
        check_content(worker, km_data(map), token);
    const int ended = km_commit(map);
    if (ended != 0)
        wrong(worker, "km_commit()", (uint64_t)-ended, 0);
    return token;
}

/* ---- a round ----------------------------------------------------------------------------------------------------- */

/* Who has the same token before and after it was not doomed was attached meanwhile. */
static void compare_with_others(const struct worker *worker, uint64_t token) {
    for (unsigned i = 0; i < WORKERS; i++) {
        const struct record *other = &shared->records[i];
        const uint64_t found = atomic_load(&other->token);
        if (i == worker->number || found == 0 || found == token)
            continue;
        const bool same_name = atomic_load(&other->name) == worker->name;
        if (same_name && atomic_load(&other->doomed) == 0 && atomic_load(&other->token) == found)
            wrong(worker, "there are two objects of this name", token, found);
    }
}

static void raise_to(_Atomic uint64_t *word, uint64_t value) {
    uint64_t seen = atomic_load(word);
    while (seen < value && !atomic_compare_exchange_weak(word, &seen, value)) {
    }
}

static void use(struct worker *worker, km_map *map, uint64_t floor) {
    struct record *record = &shared->records[worker->number];
    const uint64_t token = agree(worker, map);
    if (token == 0)
        return;
    if (token < floor)
        wrong(worker, "an older object came back", token, floor);
    atomic_store(&record->name, worker->name);
    atomic_store(&record->token, token);
    raise_to(&shared->newest[worker->name], token);
    compare_with_others(worker, token);
    pause_us(chance_percent(&worker->chance, 30) ? chance_below(&worker->chance, 3000) : 0);
    for (uint64_t i = chance_below(&worker->chance, 3); i > 0; i--)
        if (agree(worker, map) != token)
            wrong(worker, "the token changed", token, token_of(map));
    compare_with_others(worker, token);
    atomic_store(&record->token, 0);
}

static int try_open(const struct worker *worker, km_map **map) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .journal_size = worker->mode == KM_TRANSACTIONAL ? 65536 : 0,
                                       .mode = worker->mode,
                                       .flags = worker->flags,
                                       .timeout_ms = TIMEOUT_MS};
    return km_open(map, names[worker->name], &options);
}

/* Whether the error is one that others can be the cause of. */
static bool is_expected(const struct worker *worker, int error) {
    switch (error) {
    case KM_ENOTFOUND:
        return (worker->flags & KM_CREATE) == 0;
    case KM_EEXISTS:
        return (worker->flags & KM_EXCLUSIVE) != 0;
    case KM_ENOTMAP: /* there are raw bytes */
        return worker->mode != KM_RAW;
    case KM_EINVAL: /* there is a map */
        return worker->mode == KM_RAW && (worker->flags & KM_READONLY) == 0;
    default:
        return false;
    }
}

static int look(void *context, const struct km_listed *listed) {
    const struct worker *worker = context;
    if (listed->error != 0 && listed->error != KM_EBUSY)
        wrong(worker, listed->detail, (uint64_t)-listed->error, 0);
    if (listed->error == 0 && listed->size != SIZE)
        wrong(worker, "the list tells another size", listed->size, SIZE);
    return 0;
}

/* What a transactional map and a live one hold is seen as both; raw bytes only as such. */
static void go_round(struct worker *worker) {
    static const uint32_t flags[] = {0, KM_READONLY, KM_CREATE, KM_CREATE, KM_CREATE | KM_EXCLUSIVE};
    worker->name = (unsigned)chance_below(&worker->chance, NAMES);
    worker->mode = (uint32_t)chance_below(&worker->chance, 3);
    worker->flags = flags[chance_below(&worker->chance, 5)];
    if (chance_below(&worker->chance, 100) == 0) {
        const int listed = km_list(look, worker);
        if (listed != 0)
            wrong(worker, "km_list()", (uint64_t)-listed, 0);
        atomic_fetch_add(&shared->lists, 1);
    }
    const uint64_t floor = atomic_load(&shared->newest[worker->name]);
    km_map *map = NULL;
    const int result = try_open(worker, &map);
    if (result != 0 && !is_expected(worker, result))
        wrong(worker, km_error_name(result), 0, 0);
    if (result != 0) {
        atomic_fetch_add(&shared->refused, 1);
        return;
    }
    const bool is_map = worker->mode == KM_RAW && memcmp(km_data(map), "KEEPMAP", 7) == 0;
    if (!is_map) /* the bytes of somebody's map, which have no token of ours */
        use(worker, map, floor);
    const int closed = km_close(map);
    if (closed != 0)
        wrong(worker, "km_close()", (uint64_t)-closed, 0);
    atomic_fetch_add(&shared->rounds, 1);
    atomic_fetch_add(&shared->mode_rounds[worker->mode], 1);
    atomic_fetch_add((worker->flags & KM_READONLY) != 0 ? &shared->read_only : &shared->created, 1);
}

/* ---- the parent -------------------------------------------------------------------------------------------------- */

struct stage {
    struct chance chance;
    pid_t pids[WORKERS];
    unsigned kills, stops;
};

static void start(struct stage *stage, unsigned number) {
    const uint64_t seed = chance_next(&stage->chance);
    atomic_store(&shared->records[number].token, 0);
    atomic_store(&shared->records[number].doomed, 0);
    stage->pids[number] = workers_fork(500);
    if (stage->pids[number] != 0)
        return;
    struct worker worker = {.number = number, .chance = {seed}};
    while (atomic_load(&shared->stop) == 0)
        go_round(&worker);
    _exit(0);
}

static void kill_one(struct stage *stage, unsigned number) {
    atomic_store(&shared->records[number].doomed, 1);
    assert_int_equal(kill(stage->pids[number], SIGKILL), 0);
    assert_int_equal(waitpid(stage->pids[number], NULL, 0), stage->pids[number]);
    stage->kills++;
}

static void disturb(struct stage *stage) {
    const unsigned number = (unsigned)chance_below(&stage->chance, WORKERS);
    const unsigned pick = (unsigned)chance_below(&stage->chance, 100);
    if (pick < 5) { /* everybody at once */
        for (unsigned i = 0; i < WORKERS; i++)
            kill_one(stage, i);
        for (unsigned i = 0; i < WORKERS; i++)
            start(stage, i);
        return;
    }
    if (pick < 30) {
        assert_int_equal(kill(stage->pids[number], SIGSTOP), 0);
        pause_us(chance_below(&stage->chance, 50000));
        stage->stops++;
        if (pick < 20) {
            assert_int_equal(kill(stage->pids[number], SIGCONT), 0);
            return;
        }
    }
    kill_one(stage, number);
    start(stage, number);
}

static int count(void *context, const struct km_listed *listed) {
    (void)listed;
    ++*(unsigned *)context;
    return 0;
}

static void no_two_objects_have_one_name_and_none_comes_back(void **state) {
    (void)state;
    struct stage stage = {.chance = {chance_seed()}};
    const double begun = scratch_now_s();
    for (unsigned i = 0; i < WORKERS; i++)
        start(&stage, i);
    while (atomic_load(&shared->rounds) < ROUNDS || stage.kills < KILLS) {
        pause_us(chance_below(&stage.chance, 200000));
        workers_expect_alive(stage.pids, WORKERS);
        disturb(&stage);
    }
    atomic_store(&shared->stop, 1);
    for (unsigned i = 0; i < WORKERS; i++) {
        int status = 0;
        while (waitpid(stage.pids[i], &status, 0) < 0 && errno == EINTR) {
        }
        assert_int_equal(status, 0);
    }
    fprintf(stderr,
            "# %llu attached (%llu transactional, %llu live, %llu raw; %llu read-only), %llu refused, %llu objects, "
            "%u killed, %u stopped, %llu lists, %.0f s\n",
            (unsigned long long)shared->rounds, (unsigned long long)shared->mode_rounds[0],
            (unsigned long long)shared->mode_rounds[1], (unsigned long long)shared->mode_rounds[2],
            (unsigned long long)shared->read_only, (unsigned long long)shared->refused,
            (unsigned long long)shared->next_token, stage.kills, stage.stops, (unsigned long long)shared->lists,
            scratch_now_s() - begun);
    unsigned listed = 0;
    must(km_list(count, &listed));
    assert_int_equal(listed, 0);
    assert_int_equal(objects_left(), 0);
    assert_true(shared->next_token > 1000);
}

int main(void) {
    scratch_time_limit(550);
    objects_start();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_two_objects_have_one_name_and_none_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
