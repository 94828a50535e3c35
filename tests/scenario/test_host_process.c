/* SPDX-License-Identifier: MIT
 *
 * Scenarios of the host: processes that are allowed less, or see less, than usual: a container whose filter of system
 * calls refuses what trackers need, another namespace of process ids, a process whose memory nobody may look at.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"
#include "unit/refusal.h"

#define SIZE (64u * KM_PAGE_SIZE)
#define ROUNDS 40u
#define PAGEMAP_SCAN (0xc0000000u | 12u * 8u << 16 | 'f' << 8 | 16u)

static int try_open(km_map **map, const char *path, uint32_t flags) {
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 65536, .flags = flags, .timeout_ms = 100};
    return km_open(map, path, &options);
}

/* ---- trackers ---------------------------------------------------------------------------------------------------- */

struct refusal {
    const char *path;
    long call;
    unsigned argument;
    uint32_t mask;
    int error;
    const char *tracker; /* that has to take over, if the system has the best one */
};

/* Commits and aborts at random; another handle, which tracks nothing, must see exactly what was committed. */
static void work(km_map *map, km_map *reader, struct chance *chance, unsigned rounds) {
    static unsigned char shadow[SIZE];
    child_must(km_begin(reader, KM_READ));
    memcpy(shadow, km_data(reader), SIZE);
    child_must(km_abort(reader));
    for (unsigned round = 0; round < rounds; round++) {
        const bool keep = chance_percent(chance, 80);
        child_must(km_begin(map, KM_WRITE));
        for (uint64_t i = 1 + chance_below(chance, 20); i > 0; i--) {
            const uint64_t at = chance_below(chance, SIZE);
            const unsigned char value = (unsigned char)chance_next(chance);
            ((unsigned char *)km_data(map))[at] = value;
            shadow[at] = keep ? value : shadow[at];
        }
        child_must(keep ? km_commit(map) : km_abort(map));
        child_must(km_begin(reader, KM_READ));
        child_check(memcmp(km_data(reader), shadow, SIZE) == 0);
        child_must(km_abort(reader));
        if (!keep) { /* the next commit of these pages must not bring the aborted stores along */
            child_must(km_begin(map, KM_READ));
            child_check(memcmp(km_data(map), shadow, SIZE) == 0);
            child_must(km_abort(map));
        }
    }
}

static const char *tracker_of(km_map *map) {
    static struct km_info info;
    info.struct_size = sizeof info;
    child_must(km_get_info(map, &info));
    return info.tracker;
}

static int work_in_a_container(void *context) {
    const struct refusal *refusal = context;
    struct chance chance = {.state = chance_seed()};
    km_map *before = NULL, *map = NULL, *reader = NULL;
    child_must(try_open(&before, refusal->path, 0));
    child_must(try_open(&reader, refusal->path, KM_READONLY));
    work(before, reader, &chance, ROUNDS);
    const bool best = strcmp(tracker_of(before), "scan") == 0;
    if (!refuse_call(refusal->call, refusal->argument, refusal->mask, refusal->error))
        return REFUSAL_SKIP;
    work(before, reader, &chance, ROUNDS); /* refused while it is in use */
    child_must(km_close(before));
    child_must(try_open(&map, refusal->path, 0));
    work(map, reader, &chance, ROUNDS);
    child_check(!best || strcmp(tracker_of(map), refusal->tracker) == 0);
    child_must(km_close(map));
    child_must(km_close(reader));
    return 0;
}

static void a_container_that_refuses_a_tracker_loses_no_store(void **state) {
    (void)state;
    static const struct refusal refusals[] = {
        {NULL, SYS_userfaultfd, 0, 0, EPERM, "pagemap"},
        {NULL, SYS_userfaultfd, 0, 0, ENOSYS, "pagemap"},
        {NULL, SYS_ioctl, 1, PAGEMAP_SCAN, ENOTTY, "pagemap"},
        {NULL, SYS_ioctl, 1, PAGEMAP_SCAN, EPERM, "pagemap"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct refusal refusal = refusals[i];
        refusal.path = scratch_path("container-%zu.km", i);
        km_map *map;
        must(try_open(&map, refusal.path, KM_CREATE));
        must(km_close(map));
        refusal_run(work_in_a_container, &refusal);
        must(try_open(&map, refusal.path, 0));
        check_clean(map);
        must(km_close(map));
    }
}

/* ---- a process that nobody may look at --------------------------------------------------------------------------- */

static int work_unseen(void *context) {
    struct chance chance = {.state = chance_seed()};
    km_map *map = NULL, *reader = NULL;
    if (!refusal_become_nobody() || prctl(PR_SET_DUMPABLE, 0) != 0)
        return REFUSAL_SKIP;
    child_check(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) < 0);
    child_must(try_open(&map, context, 0));
    child_must(try_open(&reader, context, KM_READONLY));
    work(map, reader, &chance, ROUNDS);
    child_check(strcmp(tracker_of(map), "compare") == 0);
    child_must(km_close(reader));
    child_must(km_close(map));
    return 0;
}

static void a_process_that_nobody_may_look_at_loses_no_store(void **state) {
    (void)state;
    const char *path = scratch_path("unseen.km");
    km_map *map;
    must(try_open(&map, path, KM_CREATE));
    must(km_close(map));
    assert_int_equal(chmod(scratch_path("."), 0711) | chmod(path, 0666), 0);
    refusal_run(work_unseen, (void *)(uintptr_t)path);
    must(try_open(&map, path, 0));
    check_clean(map);
    must(km_close(map));
}

/* ---- another namespace of process ids ---------------------------------------------------------------------------- */

struct visit {
    const char *path;
    int (*visitor)(const char *path);
};

/* Run the visitor as process 1 of a namespace of its own, with its own /proc. */
static int visit_from_elsewhere(void *context) {
    const struct visit *visit = context;
    int status = 0;
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS) != 0)
        return REFUSAL_SKIP;
    const pid_t process = fork();
    child_check(process >= 0);
    if (process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("proc", "/proc", "proc", 0, NULL) != 0)
            _exit(REFUSAL_SKIP);
        child_check(getpid() == 1);
        _exit(visit->visitor(visit->path));
    }
    child_check(waitpid(process, &status, 0) == process);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

struct seen {
    unsigned count;
    uint32_t self, other;
};

static int note_user(void *context, const struct km_user *user) {
    struct seen *seen = context;
    seen->count++;
    *(user->self ? &seen->self : &seen->other) = user->process_id;
    return 0;
}

/* One commit, a few of which fill the journal; its result. After an error the transaction is open. */
static int commit_all(km_map *map, int value) {
    int result = km_begin(map, KM_WRITE);
    if (result != 0)
        return result;
    memset((unsigned char *)km_data(map) + KM_PAGE_SIZE, value, 16000);
    return km_commit(map);
}

/* A visitor that writes beside a reader whose process id it does not have. */
static int fill_the_journal(const char *path) {
    km_map *map = NULL;
    struct seen seen = {0};
    int made = 0, result = 0;
    child_must(try_open(&map, path, 0));
    child_must(km_who(map, note_user, &seen));
    child_check(seen.count == 2 && seen.self == 1 && seen.other > 1);
    while (result == 0 && made < 100) {
        result = commit_all(map, 10 + made);
        made += result == 0;
    }
    child_check(result == KM_EBUSY && made > 1); /* the reader holds on to the journal, and is named */
    char name[32];
    snprintf(name, sizeof name, "process %u", (unsigned)seen.other);
    child_check(strstr(km_last_error_detail(), name) != NULL);
    const int closed = km_close(map);
    child_check(closed == 0 || closed == KM_EBUSY);
    return 0;
}

static void nobody_is_taken_for_dead_by_another_namespace(void **state) {
    (void)state;
    struct visit visit = {.path = scratch_path("alive.km"), .visitor = fill_the_journal};
    static unsigned char before[SIZE];
    km_map *map;
    must(try_open(&map, visit.path, KM_CREATE));
    check_commit_fill(map, 0, 5, SIZE / 2);
    must(km_begin(map, KM_READ));
    memcpy(before, km_data(map), SIZE);
    refusal_run(visit_from_elsewhere, &visit);
    assert_memory_equal(km_data(map), before, SIZE);
    must(km_abort(map));
    assert_int_equal(check_info(map).handles, 1);
    must(commit_all(map, 1));
    must(km_checkpoint(map));
    check_clean(map);
    must(km_close(map));
}

/* A visitor that ends inside of transactions; its process id is one that always lives outside. */
static int die_inside(const char *path) {
    km_map *map = NULL, *writer = NULL;
    child_must(try_open(&map, path, 0));
    child_must(try_open(&writer, path, 0));
    child_must(km_begin(map, KM_READ));
    child_must(km_begin(writer, KM_WRITE));
    memset(km_data(writer), 77, SIZE);
    return 0; /* without a close, as by a signal, which process 1 of a namespace cannot send to itself */
}

static void the_dead_of_another_namespace_hold_nothing(void **state) {
    (void)state;
    struct visit visit = {.path = scratch_path("dead.km"), .visitor = die_inside};
    struct seen seen = {0};
    km_map *map;
    must(try_open(&map, visit.path, KM_CREATE));
    check_commit_fill(map, 0, 5, SIZE / 2);
    refusal_run(visit_from_elsewhere, &visit);
    must(km_who(map, note_user, &seen));
    assert_int_equal(seen.count, 1);
    for (int i = 0; i < 30; i++) /* several laps of the journal */
        must(commit_all(map, i));
    must(km_checkpoint(map));
    const struct km_info info = check_info(map);
    assert_int_equal(info.checkpoint_generation, info.generation);
    must(km_begin(map, KM_READ));
    assert_int_equal(*(unsigned char *)km_data(map), 5);
    must(km_abort(map));
    check_clean(map);
    must(km_close(map));
}

int main(void) {
    scratch_time_limit(150);
    (void)chance_seed(); /* told once, and the same in all processes */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_container_that_refuses_a_tracker_loses_no_store),
        cmocka_unit_test(a_process_that_nobody_may_look_at_loses_no_store),
        cmocka_unit_test(nobody_is_taken_for_dead_by_another_namespace),
        cmocka_unit_test(the_dead_of_another_namespace_hold_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
