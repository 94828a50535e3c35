/* SPDX-License-Identifier: MIT
 *
 * Named scenarios of views, on the real system: one that sleeps through several checkpoints though its pages are
 * private, and one that another thread stores to while it is committed.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "support/check.h"
#include "support/scratch.h"

#define PAGES 64u
#define SIZE ((uint64_t)PAGES * KM_PAGE_SIZE)

static const char *const trackers[] = {"scan", "pagemap", "compare"};
enum { TRACKERS = sizeof trackers / sizeof trackers[0] };

/* ---- a view that slept through several checkpoints --------------------------------------------------------------- */

enum privacy {
    EQUAL_STORES,   /* of the bytes that are there */
    LOCKED_MEMORY,  /* the system makes all pages private, and drops none */
    ABORTED_STORES, /* of a transaction of its own */
    LOCKED_AND_ABORTED,
    SECRET_STORES, /* outside a transaction, which nobody looks for */
    PRIVACIES
};

/* Not by mlock(): sanitizers turn that into nothing. */
static bool lock_memory(const void *address, size_t length) {
    return syscall(SYS_mlock, address, length) == 0;
}

static void store_equal(km_map *map) {
    volatile unsigned char *data = km_data(map);
    for (uint64_t at = 0; at < SIZE; at += KM_PAGE_SIZE)
        data[at + 100] = data[at + 100];
}

/* False where no memory may be locked. */
static bool make_private(km_map *map, enum privacy privacy) {
    if ((privacy == LOCKED_MEMORY || privacy == LOCKED_AND_ABORTED) && !lock_memory(km_data(map), SIZE))
        return false;
    if (privacy == EQUAL_STORES || privacy == ABORTED_STORES || privacy == LOCKED_AND_ABORTED) {
        must(km_begin(map, KM_WRITE));
        if (privacy == EQUAL_STORES)
            store_equal(map);
        else
            memset(km_data(map), 99, SIZE);
        must(privacy == EQUAL_STORES ? km_commit(map) : km_abort(map)); /* no frame tells of it, either way */
    }
    if (privacy == SECRET_STORES)
        memset(km_data(map), 88, SIZE);
    return true;
}

/* Each commit and its checkpoint change a third of the pages; nothing of the last one is in the journal. */
static void pass_checkpoints(km_map *map, unsigned char expected[PAGES], int first) {
    for (int value = first; value < first + 4; value++) {
        must(km_begin(map, KM_WRITE));
        for (uint64_t page = (uint64_t)value % 3; page < PAGES; page += 3) {
            memset((unsigned char *)km_data(map) + page * KM_PAGE_SIZE, value, KM_PAGE_SIZE);
            expected[page] = (unsigned char)value;
        }
        must(km_commit(map));
        must(km_checkpoint(map));
    }
    assert_int_equal(check_info(map).checkpoint_generation, km_generation(map));
}

static void expect_pages(km_map *map, const unsigned char expected[PAGES]) {
    const unsigned char *data = km_data(map);
    for (uint64_t at = 0; at < SIZE; at++)
        if (data[at] != expected[at / KM_PAGE_SIZE])
            fail_msg("byte %llu is %d, not %d", (unsigned long long)at, data[at], expected[at / KM_PAGE_SIZE]);
}

/* What the sleeper commits afterwards is what it stored, and nothing that was private before. */
static void expect_own_commit(km_map *sleeper, km_map *map, unsigned char expected[PAGES]) {
    must(km_begin(sleeper, KM_WRITE));
    expect_pages(sleeper, expected);
    memset((unsigned char *)km_data(sleeper) + 7 * KM_PAGE_SIZE, 200, KM_PAGE_SIZE);
    expected[7] = 200;
    must(km_commit(sleeper));
    must(km_begin(map, KM_READ));
    expect_pages(map, expected);
    must(km_abort(map));
}

static bool sleep_and_wake(enum privacy privacy, uint32_t flags, const char *tracker) {
    const char *path = scratch_path("slept-%d-%u-%s.km", (int)privacy, flags, tracker);
    unsigned char expected[PAGES] = {0};
    assert_int_equal(setenv("KEEPMAP_TRACKER", tracker, 1), 0);
    km_map *map = check_open(path, SIZE, KM_CREATE), *sleeper = check_open(path, 0, flags);
    pass_checkpoints(map, expected, 1);
    must(km_begin(sleeper, KM_READ));
    must(km_abort(sleeper));
    const bool possible = make_private(sleeper, privacy);
    for (int nap = 1; nap <= 3 && possible; nap++) {
        pass_checkpoints(map, expected, 10 * nap);
        must(km_begin(sleeper, KM_READ));
        assert_int_equal(km_generation(sleeper), km_generation(map));
        expect_pages(sleeper, expected);
        must(km_abort(sleeper));
        if (flags == 0)
            expect_own_commit(sleeper, map, expected);
        assert_true(make_private(sleeper, privacy));
    }
    must(km_close(sleeper));
    check_clean(map);
    must(km_close(map));
    assert_int_equal(unsetenv("KEEPMAP_TRACKER"), 0);
    return possible;
}

static void a_view_that_slept_through_checkpoints_shows_no_older_page(void **state) {
    (void)state;
    for (int tracker = 0; tracker < TRACKERS; tracker++) {
        for (enum privacy privacy = 0; privacy < PRIVACIES; privacy++) {
            if (sleep_and_wake(privacy, 0, trackers[tracker]))
                continue;
            fprintf(stderr, "# skipped: no memory may be locked here\n");
            skip();
        }
    }
}

static void a_view_without_write_permission_that_slept_shows_no_older_page(void **state) {
    (void)state;
    static const enum privacy kinds[] = {LOCKED_MEMORY, SECRET_STORES};
    for (int i = 0; i < 2; i++) {
        if (!sleep_and_wake(kinds[i], KM_READONLY, "scan")) {
            fprintf(stderr, "# skipped: no memory may be locked here\n");
            skip();
        }
    }
}

/* ---- a thread that stores during commit -------------------------------------------------------------------------- */

enum { WORDS = 2500, STRIDE = 13, COMMITS = 100, OVERLAPS = 30 };

struct storer {
    _Atomic uint64_t *words;
    _Atomic bool ends;
    _Atomic uint64_t rounds;
};

/* Counts up in words that lie all over some pages. */
static void *store_always(void *context) {
    struct storer *storer = context;
    while (!atomic_load(&storer->ends)) {
        const uint64_t round = atomic_load_explicit(&storer->rounds, memory_order_relaxed) + 1;
        for (size_t i = 0; i < WORDS; i++)
            atomic_store_explicit(&storer->words[i * STRIDE], round, memory_order_relaxed);
        atomic_store(&storer->rounds, round);
    }
    return NULL;
}

/* Each word of the new commit is one that was stored: no older than in the commit before, no newer than now. */
static void expect_state(km_map *reader, const struct storer *storer, uint64_t last[WORDS]) {
    must(km_begin(reader, KM_READ)); /* compares the pages with the checksums of their frames */
    const uint64_t now = atomic_load(&storer->rounds) + 1;
    const uint64_t *words = km_data(reader);
    for (size_t i = 0; i < WORDS; i++) {
        assert_in_range(words[i * STRIDE], last[i], now);
        last[i] = words[i * STRIDE];
    }
    must(km_abort(reader));
}

static void commit_beside_stores(const char *tracker) {
    const char *path = scratch_path("storer-%s.km", tracker);
    uint64_t last[WORDS] = {0};
    assert_int_equal(setenv("KEEPMAP_TRACKER", tracker, 1), 0);
    km_map *map = check_open(path, SIZE, KM_CREATE | KM_LAZY), *reader = check_open(path, 0, 0);
    must(km_begin(map, KM_WRITE));
    struct storer storer = {.words = km_data(map)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, store_always, &storer), 0);
    uint64_t commits = 0;
    unsigned overlaps = 0;
    while (commits < COMMITS || overlaps < OVERLAPS) {
        const uint64_t before = atomic_load(&storer.rounds);
        must(km_commit(map));
        overlaps += atomic_load(&storer.rounds) > before + 1; /* a whole round of stores while it was made */
        if (km_generation(map) == commits)                    /* the thread waits for the processor */
            sched_yield();
        commits = km_generation(map);
        expect_state(reader, &storer, last);
        if (commits % 100 == 0)
            must(km_checkpoint(map)); /* which would find a page that does not match its frame */
        must(km_begin(map, KM_WRITE));
    }
    atomic_store(&storer.ends, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    must(km_commit(map)); /* no store is lost: what was not in one commit is in the next */
    const uint64_t rounds = atomic_load(&storer.rounds);
    expect_state(reader, &storer, last);
    for (size_t i = 0; i < WORDS; i++)
        assert_int_equal(last[i], rounds);
    must(km_close(reader));
    must(km_checkpoint(map));
    check_clean(map);
    must(km_close(map));
    assert_int_equal(unsetenv("KEEPMAP_TRACKER"), 0);
}

static void a_thread_that_stores_during_commits_makes_each_one_of_the_states(void **state) {
    (void)state;
    for (int tracker = 0; tracker < TRACKERS; tracker++)
        commit_beside_stores(trackers[tracker]);
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_view_that_slept_through_checkpoints_shows_no_older_page),
        cmocka_unit_test(a_view_without_write_permission_that_slept_shows_no_older_page),
        cmocka_unit_test(a_thread_that_stores_during_commits_makes_each_one_of_the_states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
