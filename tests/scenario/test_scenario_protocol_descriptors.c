/* SPDX-License-Identifier: MIT
 *
 * A named scenario: a program closes the descriptors of a handle, one at a time, and opens something else that gets
 * the number. The handle may refuse what it is asked; it loses nothing that was acknowledged, takes nothing from the
 * handles of others, and touches nothing of what has the number now.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/check.h"
#include "support/scratch.h"
#include "support/workers.h"

#define SIZE 100000u
#define STORED 9000u /* bytes of a commit, all of which are its number */
#define TIMEOUT_MS 20u

enum replacement {
    CLOSED,     /* nothing has the number */
    PLAIN_FILE, /* a file of the program has it */
    OTHER_MAP,  /* a map of the same shape has it */
    SAME_FILE,  /* the program has opened this very file itself */
    REPLACEMENTS
};

enum moment { IDLE, READING, WRITING, WRITING_LAZILY, MOMENTS };

struct strike {
    char path[512], plain[512], other[512];
    unsigned which; /* of the handle's descriptors */
    enum replacement replacement;
    enum moment moment;
    int struck[2], go[2]; /* the other handle has its turn in between */
    struct {
        unsigned descriptors;  /* that the handle has */
        uint64_t acknowledged; /* the newest commit that returned 0 */
    } * told;
};

enum { DESCRIPTORS_MAX = 64 };

static void list_descriptors(bool taken[DESCRIPTORS_MAX]) {
    for (int i = 0; i < DESCRIPTORS_MAX; i++)
        taken[i] = fcntl(i, F_GETFD) >= 0;
}

/* Stores the number of the commit that this is going to be; 0 or the error. */
static int commit_number(km_map *map, struct strike *strike, bool begun) {
    int result = begun ? 0 : km_begin(map, KM_WRITE);
    if (result != 0)
        return result;
    const uint64_t number = km_generation(map) + 1;
    memset(km_data(map), (int)number, STORED);
    result = km_commit(map);
    if (result == 0 && number > strike->told->acknowledged)
        strike->told->acknowledged = number;
    if (result != 0)
        (void)km_abort(map);
    return result;
}

/* Give the number to what the case says; the status of what has it then. */
static struct stat replace(const struct strike *strike, int descriptor) {
    const char *const paths[] = {[PLAIN_FILE] = strike->plain, [OTHER_MAP] = strike->other, [SAME_FILE] = strike->path};
    struct stat status = {0};
    if (strike->replacement == CLOSED) {
        child_check(close(descriptor) == 0);
        return status;
    }
    const int opened = open(paths[strike->replacement], O_RDWR | O_CLOEXEC);
    child_check(opened >= 0);
    child_check(dup2(opened, descriptor) == descriptor);
    child_check(close(opened) == 0);
    child_check(fstat(descriptor, &status) == 0);
    return status;
}

/* All that a program may do with the handle, whatever it says. */
static void go_on(km_map *map, struct strike *strike) {
    struct km_report report = {.struct_size = sizeof report};
    struct km_info info = {.struct_size = sizeof info};
    if (strike->moment == IDLE)
        (void)km_verify(map, &report, NULL, NULL);
    if (strike->moment >= WRITING)
        (void)commit_number(map, strike, true);
    if (strike->moment == READING)
        (void)km_abort(map);
    (void)commit_number(map, strike, false);
    if (km_begin(map, KM_READ) == 0)
        (void)km_abort(map);
    (void)km_checkpoint(map);
    (void)commit_number(map, strike, false);
    (void)km_sync(map);
    (void)km_wait(map, km_generation(map), 1, NULL);
    (void)km_get_info(map, &info);
    (void)km_verify(map, &report, NULL, NULL);
    (void)km_close(map);
}

static int lose_descriptor(void *context) {
    struct strike *strike = context;
    bool before[DESCRIPTORS_MAX], after[DESCRIPTORS_MAX];
    km_map *map = NULL;
    const uint32_t flags = strike->moment == WRITING_LAZILY ? KM_LAZY : 0;
    const struct km_options options = {.struct_size = sizeof options, .timeout_ms = TIMEOUT_MS, .flags = flags};
    list_descriptors(before);
    child_must(km_open(&map, strike->path, &options));
    child_must(commit_number(map, strike, false));
    list_descriptors(after);
    int descriptor = -1;
    for (int i = 0; i < DESCRIPTORS_MAX; i++)
        if (after[i] && !before[i] && strike->told->descriptors++ == strike->which)
            descriptor = i;
    if (descriptor < 0)
        return 0;
    if (strike->moment != IDLE)
        child_must(km_begin(map, strike->moment == READING ? KM_READ : KM_WRITE));
    const struct stat given = replace(strike, descriptor);
    child_check(write(strike->struck[1], "s", 1) == 1);
    char byte;
    child_check(read(strike->go[0], &byte, 1) == 1);
    go_on(map, strike);
    struct stat now = {0};
    child_check((fstat(descriptor, &now) == 0) == (strike->replacement != CLOSED)); /* it is the program's */
    child_check(now.st_ino == given.st_ino && now.st_dev == given.st_dev);
    child_check(strike->replacement == CLOSED || lseek(descriptor, 0, SEEK_CUR) == 0); /* also where it stands */
    return 0;
}

/* ---- the other handle -------------------------------------------------------------------------------------------- */

static km_map *open_witness(const char *path, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .max_size = 2 * SIZE, .flags = flags, .timeout_ms = TIMEOUT_MS};
    must(km_open(&map, path, &options));
    return map;
}

/* What the handle shows is one commit. */
static void expect_number_shown(km_map *map) {
    const unsigned char *data = km_data(map);
    for (size_t i = 0; i < STORED; i++)
        if (data[i] != km_generation(map))
            fail_msg("byte %zu of commit %u is of commit %u", i, (unsigned)km_generation(map), data[i]);
}

static void expect_number(km_map *map) {
    must(km_begin(map, KM_READ));
    expect_number_shown(map);
    must(km_abort(map));
}

/* While the other process stands between two calls. Whoever got WRITER that way has it. */
static void take_a_turn(km_map *witness, struct strike *strike) {
    const int result = commit_number(witness, strike, false);
    if (result != 0)
        assert_string_equal(km_error_name(result), "KM_EBUSY");
}

/* False if the handle has fewer descriptors. */
static bool strike_once(struct strike *strike, const struct scratch_image *plain, const struct scratch_image *other) {
    snprintf(strike->path, sizeof strike->path, "%s",
             scratch_path("struck-%u-%d-%d.km", strike->which, (int)strike->replacement, (int)strike->moment));
    memset(strike->told, 0, sizeof *strike->told);
    assert_int_equal(pipe(strike->struck), 0);
    assert_int_equal(pipe(strike->go), 0);
    km_map *witness = open_witness(strike->path, KM_CREATE), *reader = open_witness(strike->path, 0);
    fflush(NULL);
    const pid_t pid = workers_fork(30);
    if (pid == 0) {
        close(strike->struck[0]);
        close(strike->go[1]);
        _exit(lose_descriptor(strike));
    }
    close(strike->struck[1]);
    close(strike->go[0]);
    char byte;
    const bool struck = read(strike->struck[0], &byte, 1) == 1;
    if (struck) {
        take_a_turn(witness, strike);
        must(km_begin(reader, KM_READ));
        assert_int_equal(write(strike->go[1], "g", 1), 1);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(strike->struck[0]);
    close(strike->go[1]);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("descriptor %u, replacement %d, moment %d: status %d", strike->which, (int)strike->replacement,
                 (int)strike->moment, status);
    assert_true(scratch_equals(strike->plain, plain));
    assert_true(scratch_equals(strike->other, other));
    if (struck) {
        expect_number_shown(reader);
        must(km_abort(reader));
    }
    check_clean(witness);
    expect_number(witness);
    assert_true(km_generation(witness) >= strike->told->acknowledged);
    must(commit_number(witness, strike, false)); /* nothing is held any more */
    expect_number(reader);
    must(km_close(reader));
    must(km_close(witness));
    unlink(strike->path);
    return struck;
}

static void no_descriptor_that_was_lost_takes_anything_with_it(void **state) {
    (void)state;
    struct strike strike = {.told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)};
    assert_true((void *)strike.told != MAP_FAILED);
    snprintf(strike.plain, sizeof strike.plain, "%s", scratch_path("plain"));
    snprintf(strike.other, sizeof strike.other, "%s", scratch_path("other.km"));
    scratch_store(strike.plain, "precious", 8);
    km_map *map = open_witness(strike.other, KM_CREATE);
    check_commit_fill(map, 0, 1, STORED);
    must(km_close(map));
    struct scratch_image plain = scratch_load(strike.plain), other = scratch_load(strike.other);
    unsigned count = 0;
    for (strike.replacement = CLOSED; strike.replacement < REPLACEMENTS; strike.replacement++)
        for (strike.moment = IDLE; strike.moment < MOMENTS; strike.moment++)
            for (strike.which = 0; strike_once(&strike, &plain, &other); strike.which++)
                count++;
    assert_true(count >= 2 * REPLACEMENTS * MOMENTS); /* the file, and its locks */
    scratch_release(&plain);
    scratch_release(&other);
    munmap(strike.told, 4096);
}

/* ---- snapshots --------------------------------------------------------------------------------------------------- */

struct reading {
    const char *path;
    uint32_t flags;
    bool succeeded;       /* by another handle, which then has what the reader's locks protected */
    bool renewed;         /* everybody else closes, and the next session begins */
    unsigned descriptors; /* that the reader has; out */
    unsigned which;
};

static int commit_home(km_map *map, int value) {
    int result = km_begin(map, KM_WRITE);
    if (result != 0)
        return result;
    memset((unsigned char *)km_data(map) + SIZE / 2, value, STORED);
    result = km_commit(map);
    return result != 0 ? result : km_checkpoint(map);
}

static int middle(km_map *map) {
    return ((const volatile unsigned char *)km_data(map))[SIZE / 2];
}

/* The commits of others become home. Who still has its locks sees nothing of it, who has lost them is told. */
static int read_without_descriptor(void *context) {
    struct reading *reading = context;
    bool before[DESCRIPTORS_MAX], after[DESCRIPTORS_MAX];
    km_map *map = NULL, *reader = NULL, *successor = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .flags = KM_CREATE, .timeout_ms = TIMEOUT_MS};
    const struct km_options readers = {.struct_size = sizeof options, .flags = reading->flags};
    child_must(km_open(&map, reading->path, &options));
    child_must(commit_home(map, 1));
    list_descriptors(before);
    child_must(km_open(&reader, reading->path, &readers));
    list_descriptors(after);
    int descriptor = -1;
    for (int i = 0; i < DESCRIPTORS_MAX; i++)
        if (after[i] && !before[i] && reading->descriptors++ == reading->which)
            descriptor = i;
    if (descriptor < 0)
        return 1;
    child_must(km_begin(reader, KM_READ));
    child_check(close(descriptor) == 0);
    if (reading->succeeded) {
        child_must(km_open(&successor, reading->path, &readers));
        child_must(km_begin(successor, KM_READ));
    }
    if (reading->renewed) {
        child_must(km_close(map));
        child_must(km_open(&map, reading->path, &options));
    }
    for (int value = 2; value < 6; value++) {
        child_must(commit_home(map, value));
        child_check(successor == NULL || middle(successor) == 1);
        const int shown = middle(reader), generation = (int)km_generation(reader);
        const int result = km_abort(reader);
        child_check(result == KM_ESTALE || (result == 0 && shown == generation));
        if (result != 0 || km_begin(reader, KM_READ) != 0)
            break;
    }
    child_must(commit_home(map, 6));
    child_check(successor == NULL || middle(successor) == 1);
    (void)km_close(reader);
    child_check(successor == NULL || middle(successor) == 1);
    if (successor != NULL) {
        child_must(km_abort(successor));
        child_must(km_close(successor));
    }
    child_must(km_close(map));
    return 0;
}

static void a_reader_that_lost_its_locks_is_told_and_takes_no_others_pin(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, KM_READONLY};
    for (int kind = 0; kind < 6; kind++) {
        int status = 0;
        unsigned which = 0;
        for (; status == 0; which++) {
            struct reading reading = {.path = scratch_path("reading-%d-%u.km", kind, which),
                                      .flags = flags[kind % 2],
                                      .succeeded = kind / 2 == 1,
                                      .renewed = kind / 2 == 2,
                                      .which = which};
            status = check_in_child(read_without_descriptor, &reading, 20);
        }
        assert_int_equal(status, 1);
        assert_int_equal(which, 3); /* the file, and its locks */
    }
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_descriptor_that_was_lost_takes_anything_with_it),
        cmocka_unit_test(a_reader_that_lost_its_locks_is_told_and_takes_no_others_pin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
