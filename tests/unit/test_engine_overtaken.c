/* SPDX-License-Identifier: MIT
 *
 * A handle that is overtaken between a look and the lock that it takes then. One without write permission, by a
 * checkpoint that uses the journal again, or by the end of the session: it looks again, and tells of no damage. One
 * that syncs, by another one's sync that fails.
 *
 * This program has an fcntl() of its own, through which all locks are taken, and which can let the others go first just
 * before a chosen lock, or look at the slots; and a pread(), which can let them go on once header slots have been read.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/scratch.h"

#define SIZE (32u << 20)
#define RING (1u << 20)
#define COMMIT_PAGES 1000u /* six times that is more than a view keeps patched when it can start anew */

typedef int fcntl_function(int descriptor, int command, ...);

static void (*overtake)(void); /* called before the lock that the count below comes down to */
static unsigned locks_to_go;
static short locks_kind = F_RDLCK;

static void (*during_look)(void); /* called before the look at the slots that the count below comes down to */
static unsigned looks_to_go;

static void before_lock(int command, const struct flock *lock) {
    if (looks_to_go > 0 && command == F_OFD_GETLK && lock->l_start == (off_t)KM__SLOT_LOCKS && --looks_to_go == 0)
        during_look();
    if (locks_to_go == 0 || command != F_OFD_SETLK || lock->l_type != locks_kind || lock->l_len != 1)
        return;
    if (--locks_to_go == 0)
        overtake();
}

__attribute__((visibility("default"))) int fcntl(int descriptor, int command, ...) {
    static fcntl_function *real;
    if (real == NULL) {
        void *found = dlsym(RTLD_NEXT, "fcntl");
        memcpy(&real, &found, sizeof real);
    }
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    before_lock(command, argument);
    return real(descriptor, command, argument);
}

typedef ssize_t pread_function(int descriptor, void *bytes, size_t length, off_t offset);

static void (*before_slots)(void); /* called once, when header slots are about to be read */
static void (*after_slots)(void);  /* called once, when they have been read */

__attribute__((visibility("default"))) ssize_t pread(int descriptor, void *bytes, size_t length, off_t offset) {
    static pread_function *real;
    if (real == NULL) {
        void *found = dlsym(RTLD_NEXT, "pread");
        memcpy(&real, &found, sizeof real);
    }
    if (before_slots != NULL && offset == KM__SLOT_A) {
        before_slots();
        before_slots = NULL;
    }
    const ssize_t result = real(descriptor, bytes, length, offset);
    void (*const function)(void) = after_slots;
    if (function != NULL && offset == KM__SLOT_A) {
        after_slots = NULL;
        function();
    }
    return result;
}

static km_map *writer, *pinner;
static unsigned value;

static void store_pages(unsigned first, unsigned count) {
    must(km_begin(writer, KM_WRITE));
    value++;
    for (unsigned page = first; page < first + count; page++)
        ((unsigned char *)km_data(writer))[(size_t)page * KM_PAGE_SIZE] = (unsigned char)value;
    must(km_commit(writer));
}

/* What held the checkpoint back goes away; home moves on, and the ring is written over up to where it is needed. */
static void pass_the_ring(void) {
    must(km_abort(pinner));
    must(km_checkpoint(writer));
    for (unsigned i = 0; i < RING / 4096 + 8; i++) {
        must(km_begin(writer, KM_WRITE));
        memset((char *)km_data(writer) + (size_t)(i % 20) * KM_PAGE_SIZE, (int)(i % 250 + 1), 4000);
        if (km_commit(writer) != 0) { /* the reader's first lock holds the rest of it */
            must(km_abort(writer));
            break;
        }
    }
}

static void a_reader_that_is_overtaken_before_its_lock_looks_again(void **state) {
    (void)state;
    for (unsigned before = 1; before <= 3; before++) {
        const char *path = scratch_path("overtaken-%u.km", before);
        const struct km_options options = {.struct_size = sizeof options,
                                           .size = SIZE,
                                           .journal_size = RING,
                                           .timeout_ms = 200,
                                           .flags = KM_CREATE | KM_LAZY};
        must(km_open(&writer, path, &options));
        pinner = check_open(path, 0, 0);
        km_map *reader = check_open(path, 0, KM_READONLY);
        must(km_begin(reader, KM_READ));
        must(km_abort(reader));
        for (unsigned i = 0; i < 6; i++) {
            if (i == 5)
                must(km_begin(pinner, KM_READ)); /* home goes no further than this */
            store_pages(i * COMMIT_PAGES, COMMIT_PAGES);
        }
        must(km_sync(writer));
        must(km_begin(reader, KM_READ));
        must(km_abort(reader));
        must(km_checkpoint(writer));
        overtake = pass_the_ring;
        locks_to_go = before;
        must(km_begin(reader, KM_READ));
        assert_int_equal(((const unsigned char *)km_data(reader))[5 * COMMIT_PAGES * KM_PAGE_SIZE], 6);
        must(km_abort(reader));
        if (before == 2)
            assert_int_equal(locks_to_go, 0);
        if (locks_to_go != 0) {
            locks_to_go = 0;
            must(km_abort(pinner));
        }
        check_clean(reader);
        must(km_close(reader));
        must(km_close(pinner));
        must(km_close(writer));
        value = 0;
    }
}

static void fill_the_ring(void) {
    must(km_checkpoint(writer));
    for (int i = 6; i < 40; i++) {
        must(km_begin(writer, KM_WRITE));
        memset(km_data(writer), i, 8000);
        if (km_commit(writer) != 0) { /* the pin holds the rest of it */
            must(km_abort(writer));
            break;
        }
    }
}

static void commit_and_checkpoint(void) {
    check_commit_fill(writer, 8192, 3, 100);
    must(km_checkpoint(writer));
}

/* It moves its lock from where home is to what it shows: the old one goes last. */
static void a_reader_that_moves_its_lock_is_never_without_one(void **state) {
    (void)state;
    for (unsigned before = 1; before <= 2; before++) {
        const char *path = scratch_path("moves-%u.km", before);
        writer = check_open(path, 100000, KM_CREATE);
        km_map *reader = check_open(path, 0, KM_READONLY);
        check_commit_fill(writer, 0, 1, 100);
        check_commit_fill(writer, 0, 2, 100);
        overtake = commit_and_checkpoint;
        locks_to_go = before;
        must(km_begin(reader, KM_READ));
        assert_int_equal(locks_to_go, 0);
        assert_int_equal(km_generation(reader), before == 1 ? 3 : 2);
        assert_int_equal(((const unsigned char *)km_data(reader))[8192], before == 1 ? 3 : 0);
        must(km_close(reader));
        must(km_close(writer));
    }
}

/* A pin is stored before the look where to start, so that nothing from there on is overwritten. After a lock, which
 * comes too late for that, it looks again. */
static void a_view_that_starts_anew_loses_no_frame_to_who_goes_on(void **state) {
    (void)state;
    for (int locks = 0; locks < 2; locks++) {
        const char *path = scratch_path("anew-%d.km", locks);
        const struct km_options options = {.struct_size = sizeof options,
                                           .size = 100000,
                                           .journal_size = 65536,
                                           .timeout_ms = 20,
                                           .flags = KM_CREATE | KM_LAZY};
        must(km_open(&writer, path, &options));
        km_map *reader = check_open(path, 0, locks ? KM_READONLY : 0);
        for (int i = 1; i <= 5; i++)
            check_commit_fill(writer, 0, i, 4000);
        reader->stale = true;
        overtake = fill_the_ring;
        locks_to_go = locks ? 1 : 0;
        after_slots = locks ? NULL : fill_the_ring;
        must(km_begin(reader, KM_READ));
        assert_int_equal(locks_to_go, 0);
        assert_null(after_slots);
        assert_int_equal(km_generation(reader), km_generation(writer));
        assert_int_equal(*(const unsigned char *)km_data(reader), km_generation(writer));
        must(km_abort(reader));
        check_clean(reader);
        must(km_close(reader));
        must(km_close(writer));
    }
}

/* The session ends, and the next to open is about to begin another: its words are not what they were. */
static void rebuild_control(void) {
    struct km__control *control = writer->control;
    os_locks_close(writer->locks);
    writer->locks = NULL;
    atomic_store(&control->epoch, 0);
    atomic_store(&control->durable, 0);
    atomic_store(&control->visible, 0);
}

static void a_reader_whose_session_ends_meanwhile_looks_again(void **state) {
    (void)state;
    const char *path = scratch_path("session.km");
    writer = check_open(path, 100000, KM_CREATE);
    km_map *reader = check_open(path, 0, KM_READONLY);
    for (int i = 1; i <= 3; i++)
        check_commit_fill(writer, 0, i, 100);
    overtake = rebuild_control;
    locks_to_go = 1;
    must(km_begin(reader, KM_READ));
    assert_int_equal(locks_to_go, 0);
    assert_int_equal(km_generation(reader), 3);
    assert_int_equal(*(const unsigned char *)km_data(reader), 3);
    must(km_close(reader));
}

static void say_durable(void) {
    atomic_store(&writer->control->durable, 1);
}

/* The session dies right behind the reader's last look at it. Its commit is lost, as it was not durable; the next
 * session makes another of the same number, and brings home to it. */
static void a_reader_holds_no_number_that_the_next_session_called_durable(void **state) {
    (void)state;
    const char *path = scratch_path("next.km");
    static const unsigned char zeros[4096];
    writer = check_open(path, 100000, KM_CREATE | KM_LAZY);
    km_map *reader = check_open(path, 0, KM_READONLY);
    check_commit_fill(writer, 0, 1, 100);
    during_look = say_durable;
    looks_to_go = 2;
    must(km_begin(reader, KM_READ));
    assert_int_equal(looks_to_go, 0);
    assert_int_equal(km_generation(reader), 1);
    os_locks_close(writer->locks);
    writer->locks = NULL;
    scratch_write(path, writer->header.journal_offset, zeros, sizeof zeros);
    km_map *next = check_open(path, 0, 0);
    check_commit_fill(next, 8192, 2, 100);
    assert_int_equal(km_generation(next), 1);
    must(km_checkpoint(next));
    assert_int_equal(*(const unsigned char *)km_data(reader), 1);
    assert_int_equal(((const unsigned char *)km_data(reader))[8192], 0);
    must(km_close(reader));
    must(km_close(next));
}

/* Another handle had SYNC, and its sync failed: what it covered, this one must not take for durable. */
static void fail_a_sync(void) {
    atomic_store(&writer->control->failed, 1);
}

static void a_syncer_that_finds_the_map_poisoned_syncs_nothing(void **state) {
    (void)state;
    writer = check_open(scratch_path("poisoned.km"), 100000, KM_CREATE | KM_LAZY);
    check_commit_fill(writer, 0, 1, 100);
    overtake = fail_a_sync;
    locks_kind = F_WRLCK;
    locks_to_go = 1;
    must_fail(km_sync(writer), KM_EIO);
    assert_int_equal(locks_to_go, 0);
    assert_int_equal(writer->control->durable, 0);
    must_fail(km_close(writer), KM_EIO);
}

/* ---- a file that is cut short between the look at its length and the read ---------------------------------------- */

static char cut_path[4096];

static void cut_the_file(void) {
    assert_int_equal(truncate(cut_path, 0), 0);
}

static int wait_for_none(km_map *map) {
    return km_wait(map, 0, 10, NULL);
}

static int begin_reading(km_map *map) {
    return km_begin(map, KM_READ);
}

static void a_file_that_is_cut_short_before_a_read_is_gone_and_not_damaged(void **state) {
    (void)state;
    int (*const calls[])(km_map * map) = {wait_for_none, begin_reading};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        snprintf(cut_path, sizeof cut_path, "%s", scratch_path("cut-%zu.km", i));
        must(km_close(check_open(cut_path, 100000, KM_CREATE)));
        km_map *map = check_open(cut_path, 0, KM_READONLY | KM_GUARD);
        before_slots = cut_the_file;
        must_fail(calls[i](map), KM_ESTALE);
        assert_null(before_slots);
        must_fail(calls[i](map), KM_ESTALE);
        must(km_close(map));
    }
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reader_that_is_overtaken_before_its_lock_looks_again),
        cmocka_unit_test(a_reader_that_moves_its_lock_is_never_without_one),
        cmocka_unit_test(a_view_that_starts_anew_loses_no_frame_to_who_goes_on),
        cmocka_unit_test(a_reader_whose_session_ends_meanwhile_looks_again),
        cmocka_unit_test(a_reader_holds_no_number_that_the_next_session_called_durable),
        cmocka_unit_test(a_syncer_that_finds_the_map_poisoned_syncs_nothing),
        cmocka_unit_test(a_file_that_is_cut_short_before_a_read_is_gone_and_not_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
