/* SPDX-License-Identifier: MIT
 *
 * Maps backed by the paging file: they end with their last user, whatever ended it; who may use their names; the list.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/objects.h"
#include "support/scratch.h"

#define SIZE 20000u
#define STRANGER 65534u

static const char *const scopes[] = {"Local\\named", "Global\\named"};
static const uint32_t modes[] = {KM_TRANSACTIONAL, KM_LIVE, KM_RAW};

/* Runs `check` for each mode in each scope, and expects that nothing is left. */
static void for_all(void (*check)(const char *target, uint32_t mode)) {
    for (size_t scope = 0; scope < 2; scope++) {
        for (size_t mode = 0; mode < 3; mode++) {
            check(scopes[scope], modes[mode]);
            if (objects_left() != 0) {
                fail_msg("%s in mode %u left an object behind", scopes[scope], modes[mode]);
            }
        }
    }
}

/* What modes that a map records are opened with: raw is asked for at each open. */
static int try_open(km_map **map, const char *target, uint32_t mode, uint32_t flags) {
    struct km_options options = {.struct_size = sizeof options,
                                 .size = SIZE,
                                 .journal_size = mode == KM_TRANSACTIONAL ? 65536 : 0,
                                 .mode = mode,
                                 .flags = flags,
                                 .timeout_ms = 3000};
    return km_open(map, target, &options);
}

static km_map *open_named(const char *target, uint32_t mode, uint32_t flags) {
    km_map *map = NULL;
    must(try_open(&map, target, mode, flags));
    return map;
}

static void expect_absent(const char *target, uint32_t mode) {
    km_map *map = NULL;
    must_fail(try_open(&map, target, mode, 0), KM_ENOTFOUND);
    must_fail(try_open(&map, target, mode, KM_READONLY), KM_ENOTFOUND);
    assert_null(map);
}

/* Store a byte so that everybody sees it. */
static int put(km_map *map, uint32_t mode, unsigned char value) {
    int result = mode == KM_RAW ? 0 : km_begin(map, KM_WRITE);
    if (result != 0) {
        return result;
    }
    memset(km_data(map), value, 100);
    return mode == KM_RAW ? 0 : km_commit(map);
}

/* The byte that the handle shows; -1 if it cannot. */
static int get(km_map *map, uint32_t mode) {
    if (mode != KM_RAW && km_begin(map, KM_READ) != 0) {
        return -1;
    }
    const int value = *(const volatile unsigned char *)km_data(map);
    return mode != KM_RAW && km_abort(map) != 0 ? -1 : value;
}

static void expect_byte(km_map *map, uint32_t mode, int value) {
    assert_int_equal(get(map, mode), value);
}

/* ---- another process --------------------------------------------------------------------------------------------- */

struct user {
    const char *target;
    uint32_t mode, flags;
    int value; /* that it stores, or 0 */
    pid_t pid;
    int ready[2], end[2];
};

static void use(const struct user *user) {
    km_map *map = NULL;
    child_must(try_open(&map, user->target, user->mode, user->flags));
    if (user->value != 0) {
        child_must(put(map, user->mode, (unsigned char)user->value));
    }
    child_check(write(user->ready[1], "", 1) == 1);
    char byte;
    child_check(read(user->end[0], &byte, 1) == 1);
    child_must(km_close(map));
}

/* A process that has the object open until it is told to end. */
static void start_user(struct user *user) {
    assert_int_equal(pipe(user->ready) | pipe(user->end), 0);
    fflush(NULL);
    user->pid = fork();
    assert_true(user->pid >= 0);
    if (user->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGALRM, SIG_DFL);
        alarm(60);
        use(user);
        _exit(0);
    }
    char byte;
    close(user->ready[1]);
    if (read(user->ready[0], &byte, 1) != 1) {
        fail_msg("the other process could not open %s", user->target);
    }
}

static int join_user(struct user *user) {
    int status = 0;
    while (waitpid(user->pid, &status, 0) < 0 && errno == EINTR) {
    }
    close(user->ready[0]);
    close(user->end[0]);
    close(user->end[1]);
    return status;
}

static void end_user(struct user *user) {
    assert_int_equal(write(user->end[1], "", 1), 1);
    assert_int_equal(join_user(user), 0);
}

static void kill_user(struct user *user) {
    assert_int_equal(kill(user->pid, SIGKILL), 0);
    assert_int_equal(join_user(user), SIGKILL);
}

/* ---- what an object is ------------------------------------------------------------------------------------------- */

static void check_seen(const char *target, uint32_t mode) {
    km_map *map = open_named(target, mode, KM_CREATE);
    assert_int_equal(put(map, mode, 11), 0);
    struct user user = {.target = target, .mode = mode, .value = 22};
    start_user(&user);
    expect_byte(map, mode, 22);
    km_map *reader = open_named(target, mode, KM_READONLY);
    expect_byte(reader, mode, 22);
    assert_int_equal(put(map, mode, 33), 0);
    expect_byte(reader, mode, 33);
    const struct km_info info = check_info(map);
    assert_int_equal(info.paging_file, 1);
    assert_int_equal(info.mode, mode);
    assert_int_equal(info.size, SIZE);
    assert_int_equal(info.handles, 2);
    assert_int_equal(info.read_only_handles, 1);
    end_user(&user);
    must(km_close(reader));
    if (mode != KM_RAW) {
        must(km_sync(map));
        check_clean(map);
    }
    must(km_close(map));
    expect_absent(target, mode);
}

static void an_object_of_any_mode_is_seen_by_all_who_open_it(void **state) {
    (void)state;
    for_all(check_seen);
}

static void check_flags(const char *target, uint32_t mode) {
    km_map *map = NULL, *other = NULL;
    expect_absent(target, mode);
    must(try_open(&map, target, mode, KM_CREATE | KM_EXCLUSIVE));
    assert_int_equal(put(map, mode, 5), 0);
    must_fail(try_open(&other, target, mode, KM_CREATE | KM_EXCLUSIVE), KM_EEXISTS);
    must_fail(try_open(&other, target, mode, KM_READONLY | KM_CREATE), KM_EINVAL);
    must(try_open(&other, target, mode, KM_CREATE)); /* which only opens it */
    expect_byte(other, mode, 5);
    must(km_close(map));
    must_fail(try_open(&map, target, mode, KM_CREATE | KM_EXCLUSIVE), KM_EEXISTS);
    must(km_close(other));
    must(try_open(&map, target, mode, KM_CREATE | KM_EXCLUSIVE));
    expect_byte(map, mode, 0);
    must(km_close(map));
}

static void the_flags_of_creation_mean_what_they_mean_for_files(void **state) {
    (void)state;
    for_all(check_flags);
}

static void replacing_an_object_means_that_there_must_be_none(void **state) {
    (void)state;
    for (int scope = 0; scope < 2; scope++) {
        for (int mode = 0; mode < 2; mode++) {
            km_map *map = NULL, *other = NULL;
            must(try_open(&map, scopes[scope], modes[mode], KM_CREATE | KM_REPLACE));
            must_fail(try_open(&other, scopes[scope], modes[mode], KM_CREATE | KM_REPLACE), KM_EEXISTS);
            must(km_close(map));
            must(try_open(&map, scopes[scope], modes[mode], KM_CREATE | KM_REPLACE));
            must(km_close(map));
        }
    }
    assert_int_equal(objects_left(), 0);
}

static void a_read_only_handle_cannot_write_and_keeps_the_object_alive(void **state) {
    (void)state;
    for (int scope = 0; scope < 2; scope++) {
        km_map *map = open_named(scopes[scope], KM_TRANSACTIONAL, KM_CREATE);
        check_commit_fill(map, 0, 7, 100);
        km_map *reader = open_named(scopes[scope], KM_TRANSACTIONAL, KM_READONLY);
        must_fail(km_begin(reader, KM_WRITE), KM_EREADONLY);
        must(km_close(map));
        expect_byte(reader, KM_TRANSACTIONAL, 7);
        map = open_named(scopes[scope], KM_TRANSACTIONAL, KM_CREATE);
        expect_byte(map, KM_TRANSACTIONAL, 7);
        check_commit_fill(map, 0, 8, 100);
        expect_byte(reader, KM_TRANSACTIONAL, 8);
        must(km_close(map));
        must(km_close(reader));
        expect_absent(scopes[scope], KM_TRANSACTIONAL);
        assert_int_equal(objects_left(), 0);
    }
}

/* Raw bytes without a header are no map, and a map's header is not for raw stores. */
static void an_object_is_opened_as_what_it_is(void **state) {
    (void)state;
    km_map *map = open_named(scopes[0], KM_RAW, KM_CREATE), *other = NULL;
    must_fail(try_open(&other, scopes[0], KM_TRANSACTIONAL, 0), KM_ENOTMAP);
    must_fail(try_open(&other, scopes[0], KM_TRANSACTIONAL, KM_CREATE), KM_ENOTMAP);
    must(km_close(map));
    map = open_named(scopes[0], KM_LIVE, KM_CREATE);
    must_fail(try_open(&other, scopes[0], KM_RAW, 0), KM_EINVAL);
    other = open_named(scopes[0], KM_RAW, KM_READONLY);
    assert_memory_equal(km_data(other), KM__MAGIC, 8);
    must(km_close(map));
    assert_memory_equal(km_data(other), KM__MAGIC, 8);
    must(km_close(other));
    assert_int_equal(objects_left(), 0);
}

static void objects_grow_as_files_do(void **state) {
    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        km_map *map = open_named(scopes[1], modes[mode], KM_CREATE);
        assert_int_equal(put(map, modes[mode], 9), 0);
        must(km_grow(map, 10 * SIZE));
        must(km_begin(map, KM_WRITE));
        ((unsigned char *)km_data(map))[10 * SIZE - 1] = 3;
        must(km_commit(map));
        km_map *other = open_named(scopes[1], modes[mode], KM_READONLY);
        must(km_begin(other, KM_READ));
        assert_int_equal(km_size(other), 10 * SIZE);
        assert_int_equal(((unsigned char *)km_data(other))[10 * SIZE - 1], 3);
        must(km_close(other));
        must(km_close(map));
    }
    assert_int_equal(objects_left(), 0);
}

/* ---- its end ----------------------------------------------------------------------------------------------------- */

/* Every order in which three users of two kinds can go, each closing or being killed. */
static void check_last_user(const char *target, uint32_t mode) {
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (unsigned which = 0; which < 6 * 8; which++) {
        struct user users[3] = {{.target = target, .mode = mode, .flags = KM_CREATE, .value = 3},
                                {.target = target, .mode = mode},
                                {.target = target, .mode = mode, .flags = KM_READONLY}};
        for (int i = 0; i < 3; i++) {
            start_user(&users[i]);
        }
        for (int i = 0; i < 3; i++) {
            km_map *map = open_named(target, mode, i % 2 == 0 ? KM_READONLY : 0);
            expect_byte(map, mode, 3);
            must(km_close(map));
            const int who = orders[which % 6][i];
            if ((which / 6 >> i & 1) != 0) {
                kill_user(&users[who]);
            } else {
                end_user(&users[who]);
            }
        }
        expect_absent(target, mode);
    }
}

static void an_object_ends_with_its_last_user_whichever_and_however(void **state) {
    (void)state;
    for_all(check_last_user);
}

static void check_never_again(const char *target, uint32_t mode) {
    uint8_t before[16] = {0};
    for (int round = 0; round < 4; round++) {
        struct user user = {.target = target, .mode = mode, .flags = KM_CREATE, .value = 77};
        start_user(&user);
        kill_user(&user);
        assert_int_equal(access(objects_path(target), F_OK), 0); /* what a dead user leaves */
        if (round == 1) {
            expect_absent(target, mode);
            assert_int_not_equal(access(objects_path(target), F_OK), 0);
        }
        km_map *map = open_named(target, mode, KM_CREATE | (round >= 2 ? KM_EXCLUSIVE : 0));
        const struct km_info info = check_info(map);
        assert_int_equal(info.generation, 0);
        assert_true(mode == KM_RAW || memcmp(info.uuid, before, 16) != 0);
        memcpy(before, info.uuid, 16);
        for (uint64_t at = 0; at < SIZE; at++) {
            assert_int_equal(((unsigned char *)km_data(map))[at], 0);
        }
        must(km_close(map));
    }
}

static void what_the_dead_have_left_is_never_seen_again(void **state) {
    (void)state;
    for_all(check_never_again);
}

/* A reader outlives the writers; who comes next recovers what they have left. */
static void an_object_lives_on_with_a_reader_whose_writer_was_killed(void **state) {
    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        struct user writer = {.target = scopes[0], .mode = modes[mode], .flags = KM_CREATE, .value = 4};
        start_user(&writer);
        km_map *reader = open_named(scopes[0], modes[mode], KM_READONLY);
        kill_user(&writer);
        expect_byte(reader, modes[mode], 4);
        assert_int_equal(check_info(reader).handles, 0);
        km_map *map = open_named(scopes[0], modes[mode], 0);
        expect_byte(map, modes[mode], 4);
        assert_int_equal(km_generation(map), 1);
        assert_int_equal(put(map, modes[mode], 5), 0);
        expect_byte(reader, modes[mode], 5);
        must(km_sync(map));
        check_clean(map);
        must(km_close(map));
        expect_byte(reader, modes[mode], 5);
        must(km_close(reader));
        assert_int_equal(objects_left(), 0);
    }
}

static int live_on(void *context) {
    struct user *user = context;
    child_check(write(user->ready[1], "", 1) == 1);
    char byte;
    child_check(read(user->end[0], &byte, 1) == 1);
    return 0;
}

/* The child has neither the handle nor its locks: it is no user. */
static void an_object_ends_with_its_user_though_a_child_of_that_lives(void **state) {
    (void)state;
    for (int mode = 0; mode < 3; mode++) {
        struct user user = {.target = scopes[0], .mode = modes[mode]};
        km_map *map = open_named(scopes[0], modes[mode], KM_CREATE);
        assert_int_equal(pipe(user.ready) | pipe(user.end), 0);
        fflush(NULL);
        user.pid = fork();
        assert_true(user.pid >= 0);
        if (user.pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            child_check(km_sync(map) == KM_EFORKED);
            child_check(km_data(map) == NULL);
            child_must(km_close(map)); /* which must not take the parent's object away */
            _exit(live_on(&user));
        }
        char byte;
        close(user.ready[1]);
        assert_int_equal(read(user.ready[0], &byte, 1), 1);
        km_map *other = open_named(scopes[0], modes[mode], 0);
        assert_int_equal(put(other, modes[mode], 6), 0);
        expect_byte(map, modes[mode], 6);
        must(km_close(other));
        must(km_close(map));
        expect_absent(scopes[0], modes[mode]);
        end_user(&user);
        assert_int_equal(objects_left(), 0);
    }
}

/* Another may hold the lock because it closes too, and has looked too early: somebody has to take the name away. */
static void the_last_user_waits_to_take_the_name_away(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_READONLY};
    for (int i = 0; i < 2; i++) {
        struct user user = {.target = scopes[0], .mode = KM_RAW, .flags = KM_CREATE};
        struct user reader = {.target = scopes[0], .mode = KM_RAW, .flags = KM_READONLY};
        struct os_file *file = NULL;
        struct os_locks *locks = NULL;
        start_user(&user);
        if (flags[i] == KM_READONLY) {
            start_user(&reader);
            end_user(&user);
            user = reader;
        }
        must(os_file_open(&file, scopes[0], true));
        must(os_locks_open(&locks, file));
        must(os_lock_try(locks, KM__LOCK_BASE + KM__ATTACH, 1, OS_LOCK_WRITE));
        assert_int_equal(write(user.end[1], "", 1), 1);
        while (os_lock_probe(locks, KM__LOCK_BASE + KM__USER, 1, OS_LOCK_WRITE, NULL) != 0) {
            scratch_sleep_ms(1);
        }
        scratch_sleep_ms(100); /* in which one that does not wait comes to its end */
        assert_int_equal(waitpid(user.pid, NULL, WNOHANG), 0);
        assert_int_equal(access(objects_path(scopes[0]), F_OK), 0);
        os_locks_close(locks);
        os_file_close(file);
        assert_int_equal(join_user(&user), 0);
        assert_int_equal(objects_left(), 0);
    }
}

static void *let_go_later(void *locks) {
    scratch_sleep_ms(200); /* in which one that does not wait has tried a hundred times */
    os_locks_close(locks);
    return NULL;
}

static void who_creates_waits_for_him_who_clears_away_what_the_dead_have_left(void **state) {
    (void)state;
    for (int waits = 0; waits < 2; waits++) {
        struct user user = {.target = scopes[0], .mode = KM_LIVE, .flags = KM_CREATE};
        struct os_file *file = NULL;
        struct os_locks *locks = NULL;
        pthread_t thread;
        km_map *map = NULL;
        const struct km_options options = {.struct_size = sizeof options,
                                           .size = SIZE,
                                           .mode = KM_LIVE,
                                           .flags = KM_CREATE | KM_EXCLUSIVE,
                                           .timeout_ms = waits ? UINT32_MAX : 1};
        start_user(&user);
        must(os_file_open(&file, scopes[0], true));
        must(os_locks_open(&locks, file));
        must(os_lock_try(locks, KM__LOCK_BASE + KM__ATTACH, 1, OS_LOCK_WRITE));
        kill_user(&user);
        if (!waits)
            must_fail(km_open(&map, scopes[0], &options), KM_EBUSY);
        assert_int_equal(pthread_create(&thread, NULL, let_go_later, locks), 0);
        if (waits)
            must(km_open(&map, scopes[0], &options));
        assert_int_equal(pthread_join(thread, NULL), 0);
        os_file_close(file);
        must(km_close(map));
    }
    assert_int_equal(objects_left(), 0);
}

static void who_waits_for_an_object_in_use_is_told_in_time(void **state) {
    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        km_map *map = open_named(scopes[0], modes[mode], KM_CREATE), *other = NULL;
        const struct km_options hasty = {.struct_size = sizeof hasty, .timeout_ms = 1};
        must(km_open(&other, scopes[0], &hasty));
        must(km_begin(map, KM_WRITE));
        must_fail(km_begin(other, KM_WRITE), KM_EBUSY);
        must(km_commit(map));
        must(km_begin(other, KM_WRITE));
        must(km_abort(other));
        must(km_close(other));
        must(km_close(map));
    }
    assert_int_equal(objects_left(), 0);
}

int main(void) {
    scratch_time_limit(120);
    objects_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_object_of_any_mode_is_seen_by_all_who_open_it),
        cmocka_unit_test(the_flags_of_creation_mean_what_they_mean_for_files),
        cmocka_unit_test(replacing_an_object_means_that_there_must_be_none),
        cmocka_unit_test(a_read_only_handle_cannot_write_and_keeps_the_object_alive),
        cmocka_unit_test(an_object_is_opened_as_what_it_is),
        cmocka_unit_test(objects_grow_as_files_do),
        cmocka_unit_test(an_object_ends_with_its_last_user_whichever_and_however),
        cmocka_unit_test(what_the_dead_have_left_is_never_seen_again),
        cmocka_unit_test(an_object_lives_on_with_a_reader_whose_writer_was_killed),
        cmocka_unit_test(an_object_ends_with_its_user_though_a_child_of_that_lives),
        cmocka_unit_test(the_last_user_waits_to_take_the_name_away),
        cmocka_unit_test(who_creates_waits_for_him_who_clears_away_what_the_dead_have_left),
        cmocka_unit_test(who_waits_for_an_object_in_use_is_told_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
