/* SPDX-License-Identifier: MIT
 *
 * Several handles of one process, each on a thread of its own: the program for the thread sanitizer. Handles of one
 * process are as independent of each other as those of two; only one handle used by two threads at once is a mistake,
 * which must be told and do no harm.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "support/bank.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"

#define RUN_SECONDS 2.5
#define WRITERS 3
#define THREADS 6

enum role { WRITE_DURABLE, WRITE_LAZY, WRITE_DECLARED, LOOK, LOOK_READ_ONLY, COME_AND_GO };

struct actor {
    pthread_t thread;
    enum role role;
    uint32_t number;
    const char *path;
    struct bank_worker worker;
    _Atomic bool *stop;
    _Atomic int failed;
};

static uint32_t flags_of(enum role role) {
    switch (role) {
    case WRITE_LAZY:
        return KM_LAZY;
    case WRITE_DECLARED:
        return KM_DECLARED | KM_LAZY;
    case LOOK_READ_ONLY:
        return KM_READONLY;
    default:
        return 0;
    }
}

static int open_worker(struct actor *actor) {
    const struct km_options options = {
        .struct_size = sizeof options, .flags = flags_of(actor->role), .timeout_ms = 60000};
    const int result = km_open(&actor->worker.map, actor->path, &options);
    if (result != 0) {
        snprintf(actor->worker.why, sizeof actor->worker.why, "km_open gave %s: %s", km_error_name(result),
                 km_last_error_detail());
    }
    return result;
}

static int act(struct actor *actor) {
    struct bank_worker *worker = &actor->worker;
    switch (actor->role) {
    case WRITE_DURABLE:
    case WRITE_LAZY:
    case WRITE_DECLARED:
        return bank_commit(worker);
    case LOOK:
    case LOOK_READ_ONLY:
        return bank_look(worker, (unsigned)chance_below(&worker->chance, 2000));
    case COME_AND_GO:
        break;
    }
    if (bank_look(worker, 0) != 0 || (chance_percent(&worker->chance, 20) && bank_verify(worker) != 0)) {
        return 1;
    }
    int result = chance_percent(&worker->chance, 30) ? km_checkpoint(worker->map) : 0;
    if (result == 0) {
        result = km_close(worker->map);
        worker->map = NULL;
    }
    if (result != 0) {
        snprintf(worker->why, sizeof worker->why, "leaving gave %s: %s", km_error_name(result), km_last_error_detail());
        return 1;
    }
    atomic_fetch_add(&worker->ledger->opens, 1);
    return open_worker(actor);
}

static void *run(void *context) {
    struct actor *actor = context;
    while (!actor->failed && !atomic_load(actor->stop)) {
        actor->failed = act(actor);
    }
    return NULL;
}

/* Every writer has committed, readers have seen much, somebody has come anew; or somebody has failed. */
static bool all_have_worked(struct actor *actors, struct bank_ledger *ledger) {
    for (uint32_t i = 0; i < THREADS; i++) {
        if (actors[i].failed) {
            return true;
        }
    }
    for (uint32_t writer = 0; writer < WRITERS; writer++) {
        if (ledger->writers[writer].acknowledged == 0) {
            return false;
        }
    }
    return ledger->snapshots > 10 && ledger->opens > 0;
}

static void handles_on_threads_are_independent(void **state) {
    (void)state;
    const char *path = scratch_path("threads.km");
    struct bank_ledger *ledger = bank_ledger_map(scratch_path("threads.ledger"), true);
    assert_non_null(ledger);
    must(bank_create(path, 65536, 0));
    _Atomic bool stop = false;
    static struct actor actors[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        actors[i] = (struct actor){.role = (enum role)i, .number = i, .path = path, .stop = &stop};
        actors[i].worker.ledger = ledger;
        actors[i].worker.writer = i;
        actors[i].worker.declares = actors[i].role == WRITE_DECLARED;
        actors[i].worker.chance.state = chance_mix(chance_seed(), i);
        must(open_worker(&actors[i]));
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&actors[i].thread, NULL, run, &actors[i]), 0);
    }
    const double begun = scratch_now_s();
    while (scratch_now_s() - begun < RUN_SECONDS || !all_have_worked(actors, ledger)) {
        scratch_sleep_ms(20);
    }
    atomic_store(&stop, true);
    int failed = 0;
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(actors[i].thread, NULL), 0);
        if (actors[i].failed) {
            print_error("thread %u: %s\n", i, actors[i].worker.why);
            failed++;
        }
    }
    assert_int_equal(failed, 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        must(km_close(actors[i].worker.map));
    }
    fprintf(stderr, "# %llu commits, %llu snapshots, %llu verifications, %llu opens\n",
            (unsigned long long)ledger->commits, (unsigned long long)ledger->snapshots,
            (unsigned long long)ledger->verifications, (unsigned long long)ledger->opens);
    struct bank_worker last = {.ledger = ledger, .chance = {1}, .map = check_open(path, 0, 0)};
    if (bank_look(&last, 0) != 0) {
        fail_msg("at the end: %s", last.why);
    }
    check_clean(last.map);
    must(km_close(last.map));
    bank_ledger_unmap(ledger);
}

/* ---- one handle, two threads ------------------------------------------------------------------------------------- */

struct shared_use {
    km_map *map;
    _Atomic bool stop;
    _Atomic unsigned done, refused, other;
    _Atomic int unexpected;
};

static void count(struct shared_use *use, int result) {
    if (result == 0) {
        atomic_fetch_add(&use->done, 1);
    } else if (result == KM_EMISUSE) {
        atomic_fetch_add(&use->refused, 1);
    } else {
        atomic_store(&use->unexpected, result);
    }
}

static void *use_shared_handle(void *context) {
    struct shared_use *use = context;
    while (!atomic_load(&use->stop)) {
        count(use, km_begin(use->map, KM_READ));
        count(use, km_abort(use->map));
        count(use, km_sync(use->map));
    }
    return NULL;
}

static void two_threads_that_use_one_handle_are_told_and_do_no_harm(void **state) {
    (void)state;
    struct shared_use use = {.map = check_open(scratch_path("shared.km"), 65536, KM_CREATE)};
    check_commit_fill(use.map, 0, 7, 65536);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, use_shared_handle, &use), 0);
    }
    const double begun = scratch_now_s();
    while (use.refused < 100 || scratch_now_s() - begun < 0.3) {
        scratch_sleep_ms(10);
    }
    atomic_store(&use.stop, true);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_string_equal(km_error_name(use.unexpected), "KM_OK");
    assert_true(use.done > 0);
    km_abort(use.map); /* whichever thread began last may have left a transaction open */
    must(km_begin(use.map, KM_READ));
    for (size_t i = 0; i < 65536; i++) {
        assert_int_equal(((unsigned char *)km_data(use.map))[i], 7);
    }
    must(km_abort(use.map));
    must(km_close(use.map));
}

/* ---- one writer at a time ---------------------------------------------------------------------------------------- */

struct increment {
    const char *path;
    unsigned commits;
    uint32_t flags;
    int result;
};

static void *increment_counter(void *context) {
    struct increment *mine = context;
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = mine->flags, .timeout_ms = UINT32_MAX};
    mine->result = km_open(&map, mine->path, &options);
    for (unsigned i = 0; i < mine->commits && mine->result == 0; i++) {
        mine->result = km_begin(map, KM_WRITE);
        if (mine->result == 0) {
            ++*(uint64_t *)km_data(map);
            mine->result = km_commit(map);
        }
    }
    const int closed = km_close(map);
    mine->result = mine->result != 0 ? mine->result : closed;
    return NULL;
}

static void no_increment_of_four_threads_is_lost(void **state) {
    (void)state;
    const char *path = scratch_path("counter.km");
    must(km_close(check_open(path, 8, KM_CREATE)));
    struct increment increments[4];
    pthread_t threads[4];
    for (unsigned i = 0; i < 4; i++) {
        increments[i] = (struct increment){path, i < 2 ? 300 : 1000, i < 2 ? 0 : KM_LAZY, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, increment_counter, &increments[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_string_equal(km_error_name(increments[i].result), "KM_OK");
    }
    km_map *map = check_open(path, 0, 0);
    must(km_begin(map, KM_READ));
    assert_int_equal(*(uint64_t *)km_data(map), 2600);
    assert_int_equal(km_generation(map), 2600);
    must(km_abort(map));
    must(km_close(map));
}

int main(void) {
    scratch_time_limit(240);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(handles_on_threads_are_independent),
        cmocka_unit_test(two_threads_that_use_one_handle_are_told_and_do_no_harm),
        cmocka_unit_test(no_increment_of_four_threads_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
