/* SPDX-License-Identifier: MIT
 *
 * Counters that many processes raise at once, and that outlive them.
 *
 *     metrics TARGET count NAME [N]   counts N times (default 1), as a program does that something happens in
 *     metrics TARGET show
 *     metrics TARGET hold             keeps the map open until its input ends
 *
 * TARGET is a path, or `Local\metrics` for counters in memory, which end with the last program that has them open: that
 * is what `hold` is for.
 *
 * The map is live: a store is seen at once by everybody, and is there when its process is killed the moment after. So
 * counting is one atomic addition to shared memory, without a call into the library. Only a new name needs the writer's
 * lock. If its holder dies, the lock is free, and the next one to get it is told: KM_EABANDONED.
 *
 * What is lost: nothing by the death of a process. By a power cut, what was counted since the last km_sync(), or the
 * last close; each counter on its own, as every page of a live map is as new or as old as the disk happens to have it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keepmap.h"

enum { COUNTERS = 255, NAME_SIZE = 56 };

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "atomics must work between processes");

/* A cache line of its own, so that those who raise different counters do not disturb each other. */
struct counter {
    char name[NAME_SIZE]; /* ends with a NUL; never changes once it counts as used */
    _Atomic uint64_t value;
};
_Static_assert(sizeof(struct counter) == 64, "layout");

/* What the map holds; all zero is a good beginning.
 *
 * The counters [0, used) have names. Who adds one holds the writer's lock, writes the name, and then stores `used` with
 * release; who looks for a name loads `used` with acquire, and so finds every name below it whole. What stands behind
 * `used` means nothing, so that a writer can be killed between any two stores. */
struct metrics {
    _Atomic uint32_t used;
    unsigned char padding[60];
    struct counter counter[COUNTERS];
};

static int usage(void) {
    fprintf(stderr, "usage: metrics TARGET count NAME [N] | show | hold\n");
    return 2;
}

static int fail(void) {
    fprintf(stderr, "metrics: %s\n", km_last_error_detail());
    return 1;
}

static bool is_name(const char *name) {
    const size_t length = strnlen(name, NAME_SIZE);
    for (size_t i = 0; i < length; i++)
        if (name[i] <= ' ' || name[i] > '~')
            return false;
    return length > 0 && length < NAME_SIZE;
}

/* How many counters there are: never more than fit, whatever stands in the map. */
static uint32_t count_used(const struct metrics *metrics) {
    const uint32_t used = atomic_load_explicit(&metrics->used, memory_order_acquire);
    return used < COUNTERS ? used : COUNTERS;
}

static struct counter *find(struct metrics *metrics, const char *name) {
    const uint32_t used = count_used(metrics);
    for (uint32_t i = 0; i < used; i++)
        if (strncmp(metrics->counter[i].name, name, NAME_SIZE) == 0)
            return &metrics->counter[i];
    return NULL;
}

/* The last writer died while it added a name, or the machine went down. In the first case nothing is wrong, by the rule
 * at struct metrics. In the second, any page may be older than the next: what is no name is cut off, with what stands
 * behind it. */
static void repair(struct metrics *metrics) {
    const uint32_t used = count_used(metrics);
    uint32_t good = 0;
    while (good < used && is_name(metrics->counter[good].name))
        good++;
    atomic_store_explicit(&metrics->used, good, memory_order_release);
    fprintf(stderr, "metrics: the last writer died; %" PRIu32 " of %" PRIu32 " counters are good\n", good, used);
}

/* Under the writer's lock. NULL: all are taken. */
static struct counter *add(struct metrics *metrics, const char *name) {
    struct counter *counter = find(metrics, name); /* somebody may have been quicker */
    const uint32_t used = count_used(metrics);
    if (counter != NULL || used == COUNTERS)
        return counter;
    counter = &metrics->counter[used];
    strncpy(counter->name, name, NAME_SIZE);
    atomic_store_explicit(&counter->value, 0, memory_order_relaxed);
    atomic_store_explicit(&metrics->used, used + 1, memory_order_release);
    return counter;
}

static struct counter *find_or_add(km_map *map, const char *name) {
    struct metrics *metrics = km_data(map);
    struct counter *counter = find(metrics, name); /* no lock: nearly always this is all */
    if (counter != NULL)
        return counter;
    const int begun = km_begin(map, KM_WRITE);
    if (begun == KM_EABANDONED) /* the transaction is open all the same; its commit says that all is good again */
        repair(metrics);
    else if (begun != 0)
        return fail(), NULL;
    counter = add(metrics, name);
    if (counter == NULL)
        fprintf(stderr, "metrics: all %d counters are taken\n", COUNTERS);
    if (km_commit(map) != 0)
        return fail(), NULL;
    return counter;
}

static int count(km_map *map, const char *name, uint64_t times) {
    struct counter *counter = find_or_add(map, name);
    if (counter == NULL)
        return 1;
    for (uint64_t i = 0; i < times; i++) /* nothing else hangs on this number, so any order will do */
        atomic_fetch_add_explicit(&counter->value, 1, memory_order_relaxed);
    return 0;
}

static int show(km_map *map) {
    const struct metrics *metrics = km_data(map);
    const uint32_t used = count_used(metrics);
    for (uint32_t i = 0; i < used; i++) {
        char name[NAME_SIZE];
        memcpy(name, metrics->counter[i].name, NAME_SIZE); /* judged and printed from one copy */
        if (is_name(name))
            printf("%s %" PRIu64 "\n", name, atomic_load_explicit(&metrics->counter[i].value, memory_order_relaxed));
    }
    return fflush(stdout) == 0 ? 0 : 1;
}

static int hold(void) {
    puts("open");
    fflush(stdout);
    while (getchar() != EOF) {
    }
    return 0;
}

static bool is_number(const char *text, uint64_t *number) {
    char *end;
    errno = 0;
    *number = strtoull(text, &end, 10);
    return errno == 0 && text[0] >= '0' && text[0] <= '9' && *end == '\0';
}

int main(int argc, char **argv) {
    const char *verb = argc > 2 ? argv[2] : "";
    const bool counting = strcmp(verb, "count") == 0 && (argc == 4 || argc == 5);
    const bool showing = strcmp(verb, "show") == 0 && argc == 3, holding = strcmp(verb, "hold") == 0 && argc == 3;
    uint64_t times = 1;
    if ((!counting && !showing && !holding) || (counting && !is_name(argv[3])) ||
        (argc == 5 && !is_number(argv[4], &times)))
        return usage();

    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = sizeof(struct metrics),
                                       .flags = showing ? KM_READONLY : KM_CREATE,
                                       .mode = KM_LIVE,
                                       .schema = "example-metrics",
                                       .schema_version = 1};
    if (km_open(&map, argv[1], &options) != 0)
        return fail();
    struct km_info info = {.struct_size = sizeof info};
    int status = 1;
    if (km_get_info(map, &info) != 0)
        fail();
    else if (info.mode != KM_LIVE || info.size < sizeof(struct metrics))
        fprintf(stderr, "metrics: %s is not a map of metrics\n", argv[1]);
    else
        status = counting ? count(map, argv[3], times) : showing ? show(map) : hold();
    if (km_close(map) != 0 && status == 0)
        return fail();
    return status;
}
