/* SPDX-License-Identifier: MIT
 *
 * Many scripts on all cores: see campaign.h.
 */
#include "campaign.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/header.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/workers.h"

#define IMAGES_DEFAULT 60000u
#define WORKERS_MOST 64u
#define SEEDS_A_WORKER 20u

/* Shared by the processes. */
struct campaign {
    _Atomic uint64_t counts[COUNT_END];
    _Atomic uint64_t next;             /* seed */
    _Atomic uint64_t at[WORKERS_MOST]; /* seed that a worker is at */
    atomic_bool stop;                  /* one has found something wrong */
};

static struct campaign *campaign;
static bool is_worker;

static const char *const words[] = {
#define CAMPAIGN_WORDS(name, text) text,
    CAMPAIGN_COUNTS(CAMPAIGN_WORDS)
#undef CAMPAIGN_WORDS
};

void campaign_start(void) {
    campaign = mmap(NULL, sizeof *campaign, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (campaign == MAP_FAILED) {
        perror("campaign: no memory to share");
        exit(1);
    }
}

static bool images_are_given(void) {
    const char *given = getenv("KEEPMAP_IMAGES");
    return given != NULL && given[0] != '\0';
}

bool campaign_is_single(void) {
    return chance_seed_is_given() && !images_are_given();
}

uint64_t campaign_images(void) {
    return images_are_given() ? strtoull(getenv("KEEPMAP_IMAGES"), NULL, 0) : IMAGES_DEFAULT;
}

void campaign_add(enum campaign_count which, uint64_t number) {
    atomic_fetch_add_explicit(&campaign->counts[which], number, memory_order_relaxed);
}

uint64_t campaign_total(enum campaign_count which) {
    return atomic_load_explicit(&campaign->counts[which], memory_order_relaxed);
}

const char *campaign_words(enum campaign_count which) {
    return words[which];
}

void campaign_image(enum campaign_count images, enum os_sim_policy policy) {
    campaign_add(images, 1);
    campaign_add((enum campaign_count)(COUNT_POLICY_NOTHING + (int)policy), 1);
}

bool campaign_count_slots(const char *path, enum os_sim_policy policy) {
    struct km__header slots[2];
    if (!os_sim_read(path, 0, slots, sizeof slots))
        return false;
    if (km__header_check(&slots[0], NULL, 0) == 0 && km__header_check(&slots[1], NULL, 0) == 0)
        return true;
    campaign_add(policy == OS_SIM_GARBLED ? COUNT_NOISY_SLOTS : COUNT_TORN_SLOTS, 1);
    return false;
}

void campaign_broken(uint64_t seed, uint64_t where, const char *format, ...) {
    char what[500];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    print_error("operation or step %llu: %s\n  last error: %s\n  repeat with KEEPMAP_SEED=%llu, alone\n",
                (unsigned long long)where, what, km_last_error_detail(), (unsigned long long)seed);
    fflush(NULL);
    if (is_worker)
        _exit(1);
    fail();
    abort();
}

/* ---- workers ----------------------------------------------------------------------------------------------------- */

static uint64_t all_images(void) {
    return campaign_total(COUNT_IMAGES_CUTS) + campaign_total(COUNT_IMAGES_LIVE) + campaign_total(COUNT_IMAGES_DEATHS) +
           campaign_total(COUNT_IMAGES_FAILURES);
}

static bool is_done(enum campaign_count images, uint64_t wanted) {
    return campaign_total(images) >= wanted || atomic_load(&campaign->stop);
}

/* Seeds are given out in order, so that all up to some seed are run, whichever worker runs them. A worker ends after
 * some of them: what dead handles keep is given back with it. */
static void work(unsigned worker, campaign_script *script, enum campaign_count images, uint64_t wanted) {
    is_worker = true;
    for (unsigned i = 0; i < SEEDS_A_WORKER && !is_done(images, wanted); i++) {
        const uint64_t seed = atomic_fetch_add(&campaign->next, 1);
        atomic_store(&campaign->at[worker], seed);
        script(seed);
    }
    _exit(0);
}

/* Whether a worker has ended well; otherwise the others end after the script that they are at. */
static bool ended_well(unsigned worker, int status) {
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    const unsigned long long seed = atomic_load(&campaign->at[worker]);
    atomic_store(&campaign->stop, true);
    print_error("worker %u %s %d at seed %llu: repeat with KEEPMAP_SEED=%llu, alone\n", worker,
                WIFEXITED(status) ? "ended with" : "died of signal",
                WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), seed, seed);
    return false;
}

static unsigned worker_of(const pid_t *ids, unsigned count, pid_t id) {
    unsigned worker = 0;
    while (worker < count && ids[worker] != id)
        worker++;
    return worker;
}

void campaign_run(campaign_script *script, enum campaign_count images, unsigned percent) {
    const uint64_t first = chance_seed(), wanted = campaign_images() * percent / 100;
    if (campaign_is_single()) {
        script(first);
        return;
    }
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const unsigned count = cores < 1 ? 1 : cores > (long)WORKERS_MOST ? WORKERS_MOST : (unsigned)cores;
    pid_t ids[WORKERS_MOST] = {0};
    unsigned running = 0;
    bool good = true;
    atomic_store(&campaign->next, first);
    for (;;) {
        for (unsigned i = 0; i < count && !is_done(images, wanted); i++) {
            if (ids[i] != 0)
                continue;
            ids[i] = workers_fork((unsigned)(600 + wanted / 100));
            if (ids[i] == 0)
                work(i, script, images, wanted);
            running++;
        }
        if (running == 0)
            break;
        int status = 0;
        const unsigned worker = worker_of(ids, count, wait(&status));
        assert_true(worker < count);
        good = ended_well(worker, status) && good;
        ids[worker] = 0;
        running--;
    }
    atomic_store(&campaign->stop, false);
    if (!good)
        fail_msg("a script failed");
    assert_true(campaign_total(images) >= wanted);
}

void campaign_report(void) {
    fprintf(stderr, "# %-48s %10s\n", "what was tried", "number");
    for (unsigned i = 0; i < COUNT_END; i++)
        fprintf(stderr, "# %-48s %10llu\n", words[i], (unsigned long long)campaign_total((enum campaign_count)i));
    fprintf(stderr,
            "# report: %llu images of disks after power cuts, %llu with a torn header slot, %llu recoveries cut again, "
            "%llu deaths, %llu failed syncs\n",
            (unsigned long long)all_images(), (unsigned long long)campaign_total(COUNT_TORN_SLOTS),
            (unsigned long long)(campaign_total(COUNT_CUT_ONCE) + campaign_total(COUNT_CUT_TWICE)),
            (unsigned long long)(campaign_total(COUNT_DEATHS) + campaign_total(COUNT_DEATHS_LIVE)),
            (unsigned long long)campaign_total(COUNT_FAILED_SYNCS));
    if (!campaign_is_single())
        fprintf(stderr, "# the first seed was %llu; all of it again: KEEPMAP_SEED=%llu KEEPMAP_IMAGES=%llu\n",
                (unsigned long long)chance_seed(), (unsigned long long)chance_seed(),
                (unsigned long long)campaign_images());
}
