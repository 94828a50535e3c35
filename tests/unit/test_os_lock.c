/* SPDX-License-Identifier: MIT
 *
 * Locks, fork, waiting, clocks and processes of the os layer on the real system.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os.h"
#include "support/check.h"
#include "support/scratch.h"

#define FAR (UINT64_C(1) << 62)
#define CHILD_SECONDS 20
#define NS_PER_MS UINT64_C(1000000)

static struct os_file *make_file(const char *name) {
    struct os_file *file = NULL;
    must(os_file_create(&file, scratch_path("%s", name), 0600));
    must(os_file_resize(file, 65536));
    must(os_file_publish(file, scratch_path("%s", name), false));
    return file;
}

/* A file and two handles' locks on it. */
struct pair {
    struct os_file *file;
    struct os_locks *one, *two;
};

static struct pair open_pair(const char *name) {
    struct pair pair = {.file = make_file(name)};
    must(os_locks_open(&pair.one, pair.file));
    must(os_locks_open(&pair.two, pair.file));
    return pair;
}

static void close_pair(struct pair *pair) {
    os_locks_close(pair->one);
    os_locks_close(pair->two);
    os_file_close(pair->file);
}

/* ---- locks ------------------------------------------------------------------------------------------------------- */

static void two_handles_of_one_process_exclude_each_other(void **unused) {
    (void)unused;
    struct pair pair = open_pair("exclude.km");
    must(os_lock_try(pair.one, FAR, 1, OS_LOCK_WRITE));
    must(os_lock_try(pair.one, FAR, 1, OS_LOCK_WRITE)); /* one's own lock is no obstacle */
    must_fail(os_lock_try(pair.two, FAR, 1, OS_LOCK_WRITE), KM_EBUSY);
    must_fail(os_lock_try(pair.two, FAR - 5, 10, OS_LOCK_READ), KM_EBUSY);
    must(os_lock_try(pair.two, FAR + 1, 1, OS_LOCK_WRITE));
    must(os_lock_try(pair.one, FAR, 1, OS_LOCK_READ)); /* changes its kind */
    must(os_lock_try(pair.two, FAR, 1, OS_LOCK_READ));
    must_fail(os_lock_try(pair.one, FAR, 1, OS_LOCK_WRITE), KM_EBUSY);
    os_lock_release(pair.two, FAR, 1);
    must(os_lock_try(pair.one, FAR, 1, OS_LOCK_WRITE));
    os_lock_release(pair.one, FAR, 1);
    must(os_lock_try(pair.two, FAR, 1, OS_LOCK_WRITE));
    close_pair(&pair);
}

static void ranges_far_beyond_the_file_work_and_overflows_are_refused(void **unused) {
    (void)unused;
    struct pair pair = open_pair("far.km");
    must(os_lock_try(pair.one, FAR, FAR - 2, OS_LOCK_READ));
    must(os_lock_try(pair.two, FAR + FAR - 2, 1, OS_LOCK_WRITE));
    must_fail(os_lock_try(pair.two, FAR + FAR - 3, 1, OS_LOCK_WRITE), KM_EBUSY);
    must_fail(os_lock_try(pair.two, FAR, FAR, OS_LOCK_WRITE), KM_ESIZE);
    must_fail(os_lock_try(pair.two, UINT64_MAX, 2, OS_LOCK_WRITE), KM_ESIZE);
    must_fail(os_lock_try(pair.two, FAR, 0, OS_LOCK_WRITE), KM_EINVAL);
    must_fail(os_lock_probe(pair.two, UINT64_MAX, 2, OS_LOCK_WRITE, NULL), KM_ESIZE);
    close_pair(&pair);
}

static void a_probe_tells_the_first_locked_byte_of_others_only(void **unused) {
    (void)unused;
    struct pair pair = open_pair("probe.km");
    uint64_t holder = 0;
    assert_int_equal(os_lock_probe(pair.two, FAR, 100, OS_LOCK_WRITE, &holder), 0);
    must(os_lock_try(pair.one, FAR + 10, 20, OS_LOCK_READ));
    assert_int_equal(os_lock_probe(pair.one, FAR, 100, OS_LOCK_WRITE, &holder), 0);
    assert_int_equal(os_lock_probe(pair.two, FAR, 100, OS_LOCK_READ, &holder), 0);
    assert_int_equal(os_lock_probe(pair.two, FAR, 100, OS_LOCK_WRITE, &holder), 1);
    assert_int_equal(holder, FAR + 10);
    assert_int_equal(os_lock_probe(pair.two, FAR + 15, 100, OS_LOCK_WRITE, &holder), 1);
    assert_int_equal(holder, FAR + 15);
    assert_int_equal(os_lock_probe(pair.two, FAR + 30, 100, OS_LOCK_WRITE, NULL), 0);
    assert_int_equal(os_lock_probe(pair.two, FAR, 11, OS_LOCK_WRITE, NULL), 1);
    close_pair(&pair);
}

static void closing_another_descriptor_of_the_file_releases_nothing(void **unused) {
    (void)unused;
    struct pair pair = open_pair("other-descriptor.km");
    must(os_lock_try(pair.one, FAR, 1, OS_LOCK_WRITE));
    int fd = open(scratch_path("other-descriptor.km"), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    close(fd);
    must_fail(os_lock_try(pair.two, FAR, 1, OS_LOCK_WRITE), KM_EBUSY);
    os_file_close(pair.file);
    pair.file = NULL;
    must_fail(os_lock_try(pair.two, FAR, 1, OS_LOCK_WRITE), KM_EBUSY);
    os_locks_close(pair.one);
    pair.one = NULL;
    must(os_lock_try(pair.two, FAR, 1, OS_LOCK_WRITE));
    close_pair(&pair);
}

static void a_lock_whose_descriptor_the_program_closed_is_refused(void **unused) {
    (void)unused;
    struct os_file *file = make_file("stale.km");
    struct os_locks *locks = NULL;
    int next = dup(0);
    assert_true(next >= 0);
    close(next); /* the lowest free number: the locks get it */
    must(os_locks_open(&locks, file));
    close(next);
    must_fail(os_lock_try(locks, FAR, 1, OS_LOCK_WRITE), KM_ESTALE);
    int other = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_int_equal(other, next);
    must_fail(os_lock_try(locks, FAR, 1, OS_LOCK_WRITE), KM_ESTALE);
    must_fail(os_lock_probe(locks, FAR, 1, OS_LOCK_WRITE, NULL), KM_ESTALE);
    os_locks_close(locks);
    assert_true(fcntl(other, F_GETFD) >= 0); /* and was not closed */
    close(other);
    os_file_close(file);
}

static void a_file_opened_read_only_allows_read_locks_only(void **unused) {
    (void)unused;
    os_file_close(make_file("readonly.km"));
    struct pair pair = {.file = NULL};
    must(os_file_open(&pair.file, scratch_path("readonly.km"), false));
    must(os_locks_open(&pair.one, pair.file));
    must(os_locks_open(&pair.two, pair.file));
    must_fail(os_lock_try(pair.one, FAR, 1, OS_LOCK_WRITE), KM_EACCESS);
    must(os_lock_try(pair.one, FAR, 1, OS_LOCK_READ));
    must(os_lock_try(pair.two, FAR, 1, OS_LOCK_READ));
    assert_int_equal(os_lock_probe(pair.two, FAR, 1, OS_LOCK_WRITE, NULL), 1);
    close_pair(&pair);
}

/* ---- processes that hold locks ----------------------------------------------------------------------------------- */

static _Noreturn void sleep_until_killed(void) {
    for (;;)
        pause();
}

/* Start a process that runs `child`, which writes a byte to `ready` when it stands where the parent wants it. */
static pid_t start_process(int (*child)(void *context, int ready), void *context) {
    int pipes[2];
    char byte;
    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGALRM, SIG_DFL);
        alarm(CHILD_SECONDS);
        close(pipes[0]);
        _exit(child(context, pipes[1]));
    }
    close(pipes[1]);
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    close(pipes[0]);
    return pid;
}

static void tell_ready(int ready) {
    child_check(write(ready, "r", 1) == 1);
    close(ready);
}

static void kill_process(pid_t pid) {
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static int hold_a_lock(void *path, int ready) {
    struct os_file *file = NULL;
    struct os_locks *locks = NULL;
    child_must(os_file_open(&file, path, true));
    child_must(os_locks_open(&locks, file));
    child_must(os_lock_try(locks, FAR, 1, OS_LOCK_WRITE));
    tell_ready(ready);
    sleep_until_killed();
}

static void the_locks_of_a_killed_process_vanish(void **unused) {
    (void)unused;
    struct pair pair = open_pair("killed.km");
    char *path = scratch_path("killed.km");
    const pid_t pid = start_process(hold_a_lock, path);
    must_fail(os_lock_try(pair.one, FAR, 1, OS_LOCK_READ), KM_EBUSY);
    kill_process(pid);
    must(os_lock_try(pair.one, FAR, 1, OS_LOCK_WRITE));
    close_pair(&pair);
}

static int live_on(void *context, int ready) {
    (void)context;
    tell_ready(ready);
    sleep_until_killed();
}

static void a_child_of_fork_does_not_keep_its_parents_locks(void **unused) {
    (void)unused;
    struct pair pair = open_pair("inherited.km");
    must(os_lock_try(pair.one, FAR, 1, OS_LOCK_WRITE));
    const pid_t pid = start_process(live_on, NULL);
    must_fail(os_lock_try(pair.two, FAR, 1, OS_LOCK_WRITE), KM_EBUSY);
    os_locks_close(pair.one);
    pair.one = NULL;
    must(os_lock_try(pair.two, FAR, 1, OS_LOCK_WRITE));
    kill_process(pid);
    close_pair(&pair);
}

static int use_the_parents_locks(void *context) {
    struct pair *pair = context;
    child_check(os_lock_try(pair->one, FAR, 1, OS_LOCK_WRITE) == KM_EFORKED);
    child_check(os_lock_probe(pair->two, FAR, 1, OS_LOCK_WRITE, NULL) == KM_EFORKED);
    os_lock_release(pair->one, FAR, 1);
    os_locks_close(pair->one);
    os_locks_close(pair->two);

    /* Locks of its own are as good as anybody's. */
    struct os_locks *own = NULL;
    child_must(os_locks_open(&own, pair->file));
    child_check(os_lock_try(own, FAR, 1, OS_LOCK_WRITE) == KM_EBUSY);
    child_must(os_lock_try(own, FAR + 1, 1, OS_LOCK_WRITE));
    os_locks_close(own);
    return 0;
}

static void a_child_of_fork_cannot_release_or_use_its_parents_locks(void **unused) {
    (void)unused;
    struct pair pair = open_pair("foreign.km");
    must(os_lock_try(pair.one, FAR, 1, OS_LOCK_WRITE));
    assert_int_equal(check_in_child(use_the_parents_locks, &pair, CHILD_SECONDS), 0);
    must_fail(os_lock_try(pair.two, FAR, 1, OS_LOCK_WRITE), KM_EBUSY);
    must(os_lock_try(pair.one, FAR, 1, OS_LOCK_WRITE));
    must(os_lock_try(pair.two, FAR + 1, 1, OS_LOCK_WRITE));
    close_pair(&pair);
}

struct opener {
    struct os_file *file;
    atomic_bool stop;
};

static void *open_and_close_locks(void *context) {
    struct opener *opener = context;
    while (!atomic_load(&opener->stop)) {
        struct os_locks *locks = NULL;
        if (os_locks_open(&locks, opener->file) != 0)
            return context;
        os_locks_close(locks);
    }
    return NULL;
}

static int count_descriptors_of_the_file(void *context) {
    struct pair *pair = context;
    struct os_file_info info;
    child_must(os_file_info(pair->file, &info));
    int count = 0;
    for (int fd = 3; fd < 64; fd++) {
        struct stat status;
        count += fstat(fd, &status) == 0 && status.st_ino == info.inode && status.st_dev == info.device;
    }
    return count; /* the file's own, and none of its locks */
}

static void locks_opened_while_another_thread_forks_do_not_leak_into_the_child(void **unused) {
    (void)unused;
    struct pair pair = open_pair("race.km");
    struct opener opener = {.file = pair.file};
    pthread_t thread;
    void *failed = NULL;
    assert_int_equal(pthread_create(&thread, NULL, open_and_close_locks, &opener), 0);
    int worst = 1;
    for (int i = 0; i < 100; i++) {
        int count = check_in_child(count_descriptors_of_the_file, &pair, CHILD_SECONDS);
        worst = count != 1 ? count : worst;
    }
    atomic_store(&opener.stop, true);
    pthread_join(thread, &failed);
    assert_null(failed);
    assert_int_equal(worst, 1);
    close_pair(&pair);
}

static _Atomic int prepared, resumed, entered;

static void note_prepare(void) {
    atomic_fetch_add(&prepared, 1);
}

static void note_parent(void) {
    atomic_fetch_add(&resumed, 1);
}

static void note_child(void) {
    atomic_fetch_add(&entered, 1);
}

static int is_watched_in_child(void *context) {
    (void)context;
    child_check(prepared == 1 && resumed == 0 && entered == 1);
    return 0;
}

static int watch_forks(void *context) {
    (void)context;
    child_must(os_fork_watch(note_prepare, note_parent, note_child));
    child_check(os_fork_watch(note_prepare, note_parent, note_child) == KM_EMISUSE);
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0)
        _exit(is_watched_in_child(NULL));
    int status = 0;
    child_check(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    child_check(prepared == 1 && resumed == 1 && entered == 0);
    return 0;
}

static void a_watcher_is_called_around_every_fork_once(void **unused) {
    (void)unused;
    assert_int_equal(check_in_child(watch_forks, NULL, CHILD_SECONDS), 0);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

/* The first word of a file, mapped writable and, elsewhere, for reading only. */
struct shared_word {
    struct os_file *file;
    struct os_region writable, readable;
    _Atomic uint32_t *word;
    const _Atomic uint32_t *seen;
};

static struct shared_word map_word(const char *name) {
    struct shared_word shared = {.file = make_file(name)};
    must(os_region_map(&shared.writable, shared.file, 0, 4096, true));
    must(os_region_map(&shared.readable, shared.file, 0, 4096, false));
    shared.word = (_Atomic uint32_t *)(void *)shared.writable.address;
    shared.seen = (const _Atomic uint32_t *)(void *)shared.readable.address;
    return shared;
}

static void unmap_word(struct shared_word *shared) {
    os_region_unmap(&shared->readable);
    os_region_unmap(&shared->writable);
    os_file_close(shared->file);
}

static void a_sleeper_returns_when_the_word_differs_or_the_time_has_passed(void **unused) {
    (void)unused;
    struct shared_word shared = map_word("sleep.km");
    struct os_waiter *waiter = NULL;
    uint64_t name = 0;
    must(os_waiter_open(&waiter, &name));
    assert_true(name != 0);
    uint64_t before = os_time_monotonic_ns();
    os_waiter_sleep(waiter, shared.seen, 1, 10000 * NS_PER_MS); /* the word is 0 */
    os_waiter_sleep(waiter, shared.seen, 0, 0);
    assert_true(os_time_monotonic_ns() - before < 5000 * NS_PER_MS);
    before = os_time_monotonic_ns();
    os_waiter_sleep(waiter, shared.seen, 0, 20 * NS_PER_MS);
    assert_true(os_time_monotonic_ns() - before >= 19 * NS_PER_MS);
    os_waiter_close(waiter);
    os_waiter_close(NULL);
    unmap_word(&shared);
}

static int wake_from_another_process(void *path) {
    struct os_file *file = NULL;
    struct os_region region = {.address = NULL};
    child_must(os_file_open(&file, path, true));
    child_must(os_region_map(&region, file, 0, 4096, true));
    _Atomic uint32_t *word = (_Atomic uint32_t *)(void *)region.address;
    scratch_sleep_ms(50);
    atomic_store(word, 1);
    os_waiter_wake(word, NULL, 0);
    return 0;
}

static void a_sleeper_on_a_read_only_mapping_is_woken_by_another_process(void **unused) {
    (void)unused;
    struct shared_word shared = map_word("wake.km");
    struct os_waiter *waiter = NULL;
    uint64_t name = 0;
    char *path = scratch_path("wake.km");
    must(os_waiter_open(&waiter, &name));
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_SECONDS);
        _exit(wake_from_another_process(path));
    }
    const uint64_t before = os_time_monotonic_ns();
    while (atomic_load(shared.seen) == 0 && os_time_monotonic_ns() - before < 10000 * NS_PER_MS)
        os_waiter_sleep(waiter, shared.seen, 0, UINT64_MAX);
    assert_int_equal(atomic_load(shared.seen), 1);
    assert_true(os_time_monotonic_ns() - before < 10000 * NS_PER_MS);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    os_waiter_close(waiter);
    unmap_word(&shared);
}

/* ---- clocks and processes ---------------------------------------------------------------------------------------- */

static int take_a_hostile_name(void *context, int ready) {
    (void)context;
    prctl(PR_SET_NAME, "a) R 1 (b) 2 3");
    tell_ready(ready);
    sleep_until_killed();
}

static void a_process_is_told_by_its_start_and_name_however_it_calls_itself(void **unused) {
    (void)unused;
    char name[64] = "x";
    const pid_t pid = start_process(take_a_hostile_name, NULL);
    const uint64_t own = os_process_start(os_process_id());
    const uint64_t start = os_process_start((uint32_t)pid);
    assert_true(own > 0 && start >= own);
    assert_true(start - own < 100 * 3600); /* in clock ticks: an hour */
    assert_int_equal(os_process_start((uint32_t)pid), start);
    os_process_name((uint32_t)pid, name, sizeof name);
    assert_string_equal(name, "a) R 1 (b) 2 3");
    os_process_name((uint32_t)pid, name, 3);
    assert_string_equal(name, "a)");
    os_process_name((uint32_t)pid, name, 1);
    assert_string_equal(name, "");
    kill_process(pid);
    assert_int_equal(os_process_start((uint32_t)pid), 0);
    os_process_name((uint32_t)pid, name, sizeof name);
    assert_string_equal(name, "");
    assert_int_equal(os_process_start(0), 0);
    assert_int_equal(os_process_id(), getpid());
}

static void clocks_and_chance_go_on(void **unused) {
    (void)unused;
    uint64_t one[2] = {0}, two[2] = {0};
    const uint64_t before = os_time_monotonic_ns();
    scratch_sleep_ms(2);
    assert_true(os_time_monotonic_ns() - before >= 2 * NS_PER_MS);
    assert_true(os_time_wall_ns() > UINT64_C(1600000000) * 1000 * NS_PER_MS);
    must(os_random(one, sizeof one));
    must(os_random(two, sizeof two));
    assert_memory_not_equal(one, two, sizeof one);
    assert_int_equal(os_system(), 1);
    os_pause();
    assert_int_equal(setenv("KEEPMAP_TEST_VARIABLE", "value", 1), 0);
    assert_string_equal(os_environment("KEEPMAP_TEST_VARIABLE"), "value");
    assert_null(os_environment("KEEPMAP_TEST_NOT_SET"));
}

static void details_keep_their_order_and_are_cut_not_overrun(void **unused) {
    (void)unused;
    char longer[3000];
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    km__error_clear();
    assert_string_equal(km__error_detail(), "");
    assert_int_equal(km__error_prefix(KM_EIO, "part %d", 1), KM_EIO);
    assert_string_equal(km__error_detail(), "part 1");
    assert_int_equal(km__error_prefix(KM_EBUSY, "part %d", 2), KM_EBUSY);
    assert_string_equal(km__error_detail(), "part 2: part 1");
    km__error(KM_EIO, "again %s", km__error_detail());
    assert_string_equal(km__error_detail(), "again part 2: part 1");
    km__error(KM_EIO, "%s", longer);
    assert_int_equal(strlen(km__error_detail()), 1023);
    km__error_prefix(KM_EIO, "%s", longer);
    assert_int_equal(strlen(km__error_detail()), 1023);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_handles_of_one_process_exclude_each_other),
        cmocka_unit_test(ranges_far_beyond_the_file_work_and_overflows_are_refused),
        cmocka_unit_test(a_probe_tells_the_first_locked_byte_of_others_only),
        cmocka_unit_test(closing_another_descriptor_of_the_file_releases_nothing),
        cmocka_unit_test(a_lock_whose_descriptor_the_program_closed_is_refused),
        cmocka_unit_test(a_file_opened_read_only_allows_read_locks_only),
        cmocka_unit_test(the_locks_of_a_killed_process_vanish),
        cmocka_unit_test(a_child_of_fork_does_not_keep_its_parents_locks),
        cmocka_unit_test(a_child_of_fork_cannot_release_or_use_its_parents_locks),
        cmocka_unit_test(locks_opened_while_another_thread_forks_do_not_leak_into_the_child),
        cmocka_unit_test(a_watcher_is_called_around_every_fork_once),
        cmocka_unit_test(a_sleeper_returns_when_the_word_differs_or_the_time_has_passed),
        cmocka_unit_test(a_sleeper_on_a_read_only_mapping_is_woken_by_another_process),
        cmocka_unit_test(a_process_is_told_by_its_start_and_name_however_it_calls_itself),
        cmocka_unit_test(clocks_and_chance_go_on),
        cmocka_unit_test(details_keep_their_order_and_are_cut_not_overrun),
    };
    scratch_time_limit(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
