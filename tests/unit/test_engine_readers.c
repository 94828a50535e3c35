/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises about snapshots, about handles without write permission, and about growth.
 */
#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/check.h"
#include "support/scratch.h"

#define SIZE 200000u

static void expect_all(km_map *map, int value, size_t length) {
    const unsigned char *data = km_data(map);
    for (size_t i = 0; i < length; i++) {
        assert_int_equal(data[i], value);
    }
}

static km_map *open_small_journal(const char *path, uint64_t size, uint32_t flags, uint32_t timeout_ms) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = size, .journal_size = 65536, .flags = flags, .timeout_ms = timeout_ms};
    must(km_open(&map, path, &options));
    return map;
}

/* ---- snapshots --------------------------------------------------------------------------------------------------- */

static void a_snapshot_stays_while_others_commit(void **state) {
    (void)state;
    const char *path = scratch_path("snapshot.km");
    km_map *writer = check_open(path, SIZE, KM_CREATE);
    km_map *readers[2] = {check_open(path, 0, 0), check_open(path, 0, KM_READONLY)};
    check_commit_fill(writer, 0, 1, SIZE);
    for (int i = 0; i < 2; i++) {
        must(km_begin(readers[i], KM_READ));
    }
    for (int value = 2; value < 5; value++) {
        check_commit_fill(writer, 0, value, SIZE);
        must(km_checkpoint(writer));
        for (int i = 0; i < 2; i++) {
            assert_int_equal(km_generation(readers[i]), 1);
            expect_all(readers[i], 1, SIZE);
        }
    }
    assert_true(check_info(writer).checkpoint_generation <= 1);
    for (int i = 0; i < 2; i++) {
        must(km_commit(readers[i]));
        must(km_begin(readers[i], KM_READ));
        assert_int_equal(km_generation(readers[i]), 4);
        expect_all(readers[i], 4, SIZE);
        must(km_abort(readers[i]));
    }
    must(km_checkpoint(writer));
    assert_int_equal(check_info(writer).checkpoint_generation, 4);
    for (int i = 0; i < 2; i++) {
        must(km_close(readers[i]));
    }
    must(km_close(writer));
}

/* Not by mlock(): sanitizers turn that into nothing. */
static bool lock_memory(const void *address, size_t length) {
    return syscall(SYS_mlock, address, length) == 0;
}

/* The system drops no page that is locked into memory: home is copied over what is private. */
static void locked_memory_shows_the_newest_commit(void **state) {
    (void)state;
    const char *path = scratch_path("locked.km");
    km_map *writer = check_open(path, SIZE, KM_CREATE);
    km_map *readers[2] = {check_open(path, 0, 0), check_open(path, 0, KM_READONLY)};
    for (int i = 0; i < 2; i++) {
        if (!lock_memory(km_data(readers[i]), SIZE)) {
            fprintf(stderr, "# skipped: no memory may be locked here\n");
            skip();
        }
    }
    for (int value = 1; value < 4; value++) {
        check_commit_fill(writer, 0, value, SIZE);
        must(km_checkpoint(writer));
        for (int i = 0; i < 2; i++) {
            must(km_begin(readers[i], KM_READ));
            expect_all(readers[i], value, SIZE);
            must(km_abort(readers[i]));
        }
    }
    for (int i = 0; i < 2; i++) {
        must(km_close(readers[i]));
    }
    must(km_close(writer));
}

static void a_handle_without_write_permission_sees_every_commit(void **state) {
    (void)state;
    const char *path = scratch_path("sees.km");
    km_map *writer = check_open(path, SIZE, KM_CREATE | KM_LAZY);
    km_map *reader = check_open(path, 0, KM_READONLY);
    for (int i = 1; i <= 300; i++) {
        check_commit_fill(writer, (uint64_t)(i % 40) * 5000, i & 0xff, 5000);
        if (i % 50 == 0) {
            must(km_checkpoint(writer));
        }
        must(km_begin(reader, KM_READ));
        assert_int_equal(km_generation(reader), i);
        assert_int_equal(((unsigned char *)km_data(reader))[(i % 40) * 5000 + 4999], i & 0xff);
        must(km_abort(reader));
    }
    must(km_close(reader));
    must(km_close(writer));
}

static void a_handle_without_write_permission_cannot_write(void **state) {
    (void)state;
    const char *path = scratch_path("cannot.km");
    must(km_close(check_open(path, SIZE, KM_CREATE)));
    km_map *map = check_open(path, 0, KM_READONLY);
    must_fail(km_begin(map, KM_WRITE), KM_EREADONLY);
    must_fail(km_sync(map), KM_EREADONLY);
    must_fail(km_checkpoint(map), KM_EREADONLY);
    must_fail(km_grow(map, SIZE * 2), KM_EREADONLY);
    must(km_begin(map, KM_READ));
    must(km_abort(map));
    must(km_close(map));
}

static int look_at_everything(const char *path) {
    km_map *map = check_open(path, 0, KM_READONLY);
    must(km_begin(map, KM_READ));
    const int value = *(unsigned char *)km_data(map);
    must(km_abort(map));
    check_clean(map);
    check_info(map);
    must(km_close(map));
    return value;
}

/* A process that ends without closing: its commits stand in the journal alone. */
static int commit_and_die(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    for (int i = 1; i <= 3; i++) {
        child_must(km_begin(map, KM_WRITE));
        memset(km_data(map), i, 5000);
        child_must(km_commit(map));
    }
    raise(SIGKILL);
    return 0;
}

static void a_handle_without_write_permission_never_changes_the_file(void **state) {
    (void)state;
    static char path[512];
    strcpy(path, scratch_path("unchanged.km"));
    km_map *map = check_open(path, SIZE, KM_CREATE);
    check_commit_fill(map, 0, 9, 100);
    must(km_close(map));
    struct scratch_image closed = scratch_load(path);
    assert_int_equal(look_at_everything(path), 9);
    assert_true(scratch_equals(path, &closed));
    scratch_release(&closed);

    assert_int_equal(check_in_child(commit_and_die, path, 20), -SIGKILL);
    struct scratch_image killed = scratch_load(path);
    assert_int_equal(look_at_everything(path), 3); /* it sees what a recovery would give, and does not recover */
    assert_true(scratch_equals(path, &killed));
    scratch_release(&killed);
}

static void a_handle_without_write_permission_outlives_sessions(void **state) {
    (void)state;
    static char path[512];
    strcpy(path, scratch_path("sessions.km"));
    must(km_close(check_open(path, SIZE, KM_CREATE)));
    km_map *reader = check_open(path, 0, KM_READONLY);
    for (int session = 1; session <= 6; session++) {
        km_map *writer = check_open(path, 0, 0);
        check_commit_fill(writer, 0, session * 10, SIZE);
        must(km_begin(reader, KM_READ));
        expect_all(reader, session * 10, SIZE);
        must(km_abort(reader));
        check_commit_fill(writer, 0, session * 10 + 1, SIZE);
        must(km_close(writer));
        must(km_begin(reader, KM_READ));
        expect_all(reader, session * 10 + 1, SIZE);
        must(km_abort(reader));
        assert_int_equal(check_in_child(commit_and_die, path, 20), -SIGKILL);
        must(km_begin(reader, KM_READ));
        expect_all(reader, 3, 5000);
        must(km_abort(reader));
    }
    must(km_close(reader));
}

static int read_without_permission(void *context) {
    child_must(setgid(65534) | setuid(65534));
    km_map *map = NULL;
    struct km_options options = {.struct_size = sizeof options};
    child_check(km_open(&map, context, &options) == KM_EACCESS);
    child_check(km_last_error_detail()[0] != '\0');
    options.flags = KM_READONLY;
    child_must(km_open(&map, context, &options));
    child_must(km_begin(map, KM_READ));
    child_check(*(unsigned char *)km_data(map) == 9);
    child_must(km_close(map));
    return 0;
}

static void who_may_only_read_the_file_can_read_the_map(void **state) {
    (void)state;
    if (geteuid() != 0) {
        fprintf(stderr, "# skipped: only root can become somebody else\n");
        skip();
    }
    const char *path = scratch_path("others.km");
    km_map *map = check_open(path, SIZE, KM_CREATE);
    check_commit_fill(map, 0, 9, 100);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(chmod(scratch_path("."), 0755), 0);
    assert_int_equal(check_in_child(read_without_permission, (void *)(uintptr_t)path, 20), 0);
    must(km_close(map));
    assert_int_equal(check_in_child(read_without_permission, (void *)(uintptr_t)path, 20), 0);
}

/* ---- long readers and the full journal --------------------------------------------------------------------------- */

struct holder {
    const char *path;
    uint32_t flags;
    int ready[2], go[2];
};

static int hold_a_snapshot(void *context) {
    const struct holder *holder = context;
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = holder->flags};
    child_must(km_open(&map, holder->path, &options));
    child_must(km_begin(map, KM_READ));
    const int value = *(unsigned char *)km_data(map);
    char byte = 'r';
    child_check(write(holder->ready[1], &byte, 1) == 1);
    child_check(read(holder->go[0], &byte, 1) == 1);
    for (size_t i = 0; i < SIZE; i++) {
        child_check(((unsigned char *)km_data(map))[i] == value);
    }
    child_must(km_abort(map));
    child_must(km_close(map));
    return 0;
}

static pid_t start_holder(struct holder *holder) {
    assert_int_equal(pipe(holder->ready), 0);
    assert_int_equal(pipe(holder->go), 0);
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(60);
        close(holder->go[1]); /* the end of this process's parent ends the wait */
        _exit(hold_a_snapshot(holder));
    }
    char byte;
    close(holder->ready[1]);
    close(holder->go[0]);
    assert_int_equal(read(holder->ready[0], &byte, 1), 1);
    return pid;
}

static void finish_holder(struct holder *holder, pid_t pid, int expected) {
    int status = 0;
    close(holder->ready[0]);
    close(holder->go[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), expected);
}

/* Commits until the ring is full; the transaction that did not fit is left open. Returns the value that it stores. */
static int fill_journal(km_map *map) {
    int value = 1;
    for (;; value++) {
        assert_true(value < 200);
        must(km_begin(map, KM_WRITE));
        memset(km_data(map), value, 8000);
        const int result = km_commit(map);
        if (result != 0) {
            assert_string_equal(km_error_name(result), "KM_EBUSY");
            return value;
        }
    }
}

static void a_long_reader_fills_the_journal_and_is_named(void **state) {
    (void)state;
    struct holder holder = {.path = scratch_path("long.km")};
    km_map *map = open_small_journal(holder.path, SIZE, KM_CREATE, 50);
    const pid_t pid = start_holder(&holder);
    const int value = fill_journal(map);
    char name[16];
    snprintf(name, sizeof name, "%d", (int)pid);
    check_detail_contains(name);
    /* The transaction is still open and whole. */
    expect_all(map, value, 8000);
    must_fail(km_commit(map), KM_EBUSY);
    km_map *other = check_open(holder.path, 0, 0);
    must(km_begin(other, KM_READ));
    expect_all(other, value - 1, 8000);
    must(km_abort(other));
    assert_int_equal(write(holder.go[1], "g", 1), 1);
    finish_holder(&holder, pid, 0);
    must(km_commit(map));
    must(km_begin(other, KM_READ));
    expect_all(other, value, 8000);
    must(km_abort(other));
    must(km_close(other));
    must(km_close(map));
}

static void a_long_reader_without_write_permission_holds_the_journal_too(void **state) {
    (void)state;
    struct holder holder = {.path = scratch_path("long-readonly.km"), .flags = KM_READONLY};
    km_map *map = open_small_journal(holder.path, SIZE, KM_CREATE, 50);
    const pid_t pid = start_holder(&holder);
    fill_journal(map);
    must(km_abort(map));
    assert_int_equal(write(holder.go[1], "g", 1), 1);
    finish_holder(&holder, pid, 0);
    check_commit_fill(map, 0, 250, 8000);
    must(km_close(map));
}

static void a_killed_reader_holds_nothing(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_READONLY};
    for (int i = 0; i < 2; i++) {
        struct holder holder = {.path = scratch_path("killed-%d.km", i), .flags = flags[i]};
        km_map *map = open_small_journal(holder.path, SIZE, KM_CREATE, 50);
        const pid_t pid = start_holder(&holder);
        fill_journal(map);
        assert_int_equal(kill(pid, SIGKILL), 0);
        finish_holder(&holder, pid, -SIGKILL);
        must(km_commit(map));
        check_clean(map);
        must(km_close(map));
    }
}

/* ---- growth ------------------------------------------------------------------------------------------------------ */

static void the_journal_grows_for_a_commit_larger_than_itself(void **state) {
    (void)state;
    const char *path = scratch_path("journal.km");
    km_map *map = open_small_journal(path, SIZE, KM_CREATE, 1000);
    km_map *other = check_open(path, 0, 0);
    assert_int_equal(check_info(map).journal_size, 65536);
    check_commit_fill(map, 0, 1, 100);
    check_commit_fill(map, 0, 2, SIZE);
    assert_true(check_info(map).journal_size > SIZE);
    must(km_begin(other, KM_READ)); /* a handle from before maps the longer ring */
    expect_all(other, 2, SIZE);
    must(km_abort(other));
    check_commit_fill(other, 0, 3, SIZE);
    must(km_begin(map, KM_READ));
    expect_all(map, 3, SIZE);
    must(km_abort(map));
    check_clean(map);
    must(km_close(other));
    must(km_close(map));
    map = check_open(path, 0, 0); /* alone: it returns to its configured length */
    assert_int_equal(check_info(map).journal_size, 65536);
    must(km_begin(map, KM_READ));
    expect_all(map, 3, SIZE);
    must(km_abort(map));
    check_clean(map);
    must(km_close(map));
}

static void data_grows_in_place_beside_others(void **state) {
    (void)state;
    const char *path = scratch_path("place.km");
    const struct km_options options = {
        .struct_size = sizeof options, .size = 5000, .max_size = 400000, .flags = KM_CREATE};
    km_map *map;
    must(km_open(&map, path, &options));
    km_map *others[2] = {check_open(path, 0, 0), check_open(path, 0, KM_READONLY)};
    check_commit_fill(map, 0, 1, 5000);
    must(km_begin(others[1], KM_READ));
    void *const data[2] = {km_data(others[0]), km_data(others[1])};
    must_fail(km_grow(map, 4999), KM_ESIZE);
    must(km_begin(others[0], KM_READ));
    ((unsigned char *)data[0])[6000] = 7; /* behind the data, by mistake */
    must(km_abort(others[0]));
    must(km_grow(map, 250000));
    assert_int_equal(km_generation(map), 2);
    assert_int_equal(km_size(map), 250000);
    assert_int_equal(km_size(others[1]), 5000);
    must(km_abort(others[1]));
    check_commit_fill(map, 249000, 2, 1000);
    for (int i = 0; i < 2; i++) {
        must(km_begin(others[i], KM_READ));
        assert_int_equal(km_size(others[i]), 250000);
        assert_ptr_equal(km_data(others[i]), data[i]);
        expect_all(others[i], 1, 5000);
        const unsigned char *bytes = km_data(others[i]);
        for (size_t at = 5000; at < 250000; at++) {
            assert_int_equal(bytes[at], at < 249000 ? 0 : 2);
        }
        must(km_abort(others[i]));
        must(km_close(others[i]));
    }
    check_clean(map);
    must(km_close(map));
    map = check_open(path, 0, 0);
    assert_int_equal(km_size(map), 250000);
    must(km_close(map));
}

static void data_grows_beyond_its_maximum_only_alone(void **state) {
    (void)state;
    const char *path = scratch_path("beyond.km");
    km_map *map = check_open(path, 5000, KM_CREATE);
    check_commit_fill(map, 0, 1, 5000);
    for (int i = 0; i < 2; i++) {
        km_map *other = check_open(path, 0, i == 0 ? 0 : KM_READONLY);
        must_fail(km_grow(map, 6000), KM_EBUSY);
        check_detail_contains("5000");
        must(km_close(other));
        assert_int_equal(km_size(map), 5000);
    }
    void *const data = km_data(map);
    static const uint64_t sizes[] = {6000, 70000, 3 << 20, 40 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        must(km_grow(map, sizes[i]));
        assert_int_equal(km_size(map), sizes[i]);
        assert_int_equal(check_info(map).max_size, sizes[i]);
        assert_ptr_equal(km_data(map), data);
        check_commit_fill(map, sizes[i] - 10, 7, 10);
        check_clean(map);
    }
    must_fail(km_grow(map, UINT64_C(1) << 60), KM_ESIZE);
    must_fail(km_grow(map, UINT64_MAX), KM_ESIZE);
    assert_int_equal(km_size(map), 40 << 20);
    must(km_close(map));
    map = check_open(path, 0, KM_READONLY);
    assert_int_equal(km_size(map), 40 << 20);
    must(km_begin(map, KM_READ));
    expect_all(map, 1, 5000);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_int_equal(((unsigned char *)km_data(map))[sizes[i] - 1], 7);
    }
    must(km_abort(map));
    check_clean(map);
    must(km_close(map));
}

static int grow_and_die(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    child_must(km_open(&map, context, &options));
    child_must(km_grow(map, 20000));  /* in place */
    child_must(km_grow(map, 600000)); /* beyond */
    child_must(km_begin(map, KM_WRITE));
    memset((char *)km_data(map) + 599000, 8, 1000);
    child_must(km_commit(map));
    raise(SIGKILL);
    return 0;
}

static void growth_survives_the_death_of_its_process(void **state) {
    (void)state;
    static char path[512];
    strcpy(path, scratch_path("die.km"));
    const struct km_options options = {
        .struct_size = sizeof options, .size = 5000, .max_size = 30000, .flags = KM_CREATE};
    km_map *map;
    must(km_open(&map, path, &options));
    check_commit_fill(map, 0, 1, 5000);
    must(km_close(map));
    assert_int_equal(check_in_child(grow_and_die, path, 20), -SIGKILL);
    map = check_open(path, 0, 0);
    assert_int_equal(km_size(map), 600000);
    must(km_begin(map, KM_READ));
    expect_all(map, 1, 5000);
    assert_int_equal(((unsigned char *)km_data(map))[599999], 8);
    must(km_abort(map));
    check_clean(map);
    must(km_close(map));
}

int main(void) {
    scratch_time_limit(120);
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_stays_while_others_commit),
        cmocka_unit_test(locked_memory_shows_the_newest_commit),
        cmocka_unit_test(a_handle_without_write_permission_sees_every_commit),
        cmocka_unit_test(a_handle_without_write_permission_cannot_write),
        cmocka_unit_test(a_handle_without_write_permission_never_changes_the_file),
        cmocka_unit_test(a_handle_without_write_permission_outlives_sessions),
        cmocka_unit_test(who_may_only_read_the_file_can_read_the_map),
        cmocka_unit_test(a_long_reader_fills_the_journal_and_is_named),
        cmocka_unit_test(a_long_reader_without_write_permission_holds_the_journal_too),
        cmocka_unit_test(a_killed_reader_holds_nothing),
        cmocka_unit_test(the_journal_grows_for_a_commit_larger_than_itself),
        cmocka_unit_test(data_grows_in_place_beside_others),
        cmocka_unit_test(data_grows_beyond_its_maximum_only_alone),
        cmocka_unit_test(growth_survives_the_death_of_its_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
