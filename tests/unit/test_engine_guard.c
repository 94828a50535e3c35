/* SPDX-License-Identifier: MIT
 *
 * KM_GUARD: a file that is cut short under a handle ends no process, at whatever call, in whatever kind of map; nothing
 * of the zeros that are shown instead reaches the file; and every later call says what happened. Without the flag the
 * process dies as it always did.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "map/map.h"
#include "support/check.h"
#include "support/halt.h"
#include "support/objects.h"
#include "support/scratch.h"

#define SIZE 100000u
#define SURVIVED 0
#define STORED 0x55

/* One attempt: a map, where it is cut, what is done then. */
struct scene {
    const char *target, *path; /* what is opened, and the file that it is */
    uint32_t mode, flags;
    uint64_t cut;
    enum km_access inside; /* the transaction in which it happens; 0: none */
    bool touches;          /* the data is looked at before the call */
    bool restored;         /* the file has its length again before the call, with zeros */
    int (*call)(km_map *map);
    bool changes; /* the call must not report success */
};

/* ---- the calls --------------------------------------------------------------------------------------------------- */

static int nothing(km_map *map) {
    (void)map;
    return 0;
}

static int begin_reading(km_map *map) {
    const int result = km_begin(map, KM_READ);
    if (result == 0) { /* all of it can be looked at, whatever is shown */
        unsigned sum = 0;
        for (uint64_t at = 0; at < SIZE; at += 512) {
            sum += ((const volatile unsigned char *)km_data(map))[at];
        }
        (void)sum;
        return km_abort(map);
    }
    return result;
}

static int begin_writing(km_map *map) {
    int result = km_begin(map, KM_WRITE);
    if (result == 0) {
        memset(km_data(map), STORED, SIZE);
        result = km_commit(map);
    }
    return result;
}

static int store_and_commit(km_map *map) {
    memset(km_data(map), STORED, SIZE);
    return km_commit(map);
}

static int touch(km_map *map) {
    return km_touch(map, 0, SIZE);
}

static int grow(km_map *map) {
    return km_grow(map, SIZE + 5000);
}

static int grow_beyond(km_map *map) {
    return km_grow(map, 10 * SIZE);
}

static int wait_shortly(km_map *map) {
    return km_wait(map, km_generation(map), 20, NULL);
}

static int info(km_map *map) {
    struct km_info told = {.struct_size = sizeof told};
    return km_get_info(map, &told);
}

static int verify(km_map *map) {
    struct km_report report = {.struct_size = sizeof report};
    return km_verify(map, &report, NULL, NULL);
}

static int no_entry(void *context, const struct km_log_entry *entry) {
    (void)context;
    (void)entry;
    return 0;
}

static int look_at_log(km_map *map) {
    return km_log(map, no_entry, NULL);
}

static int no_user(void *context, const struct km_user *user) {
    (void)context;
    (void)user;
    return 0;
}

static int who(km_map *map) {
    return km_who(map, no_user, NULL);
}

static int copy(km_map *map) {
    return km_copy(map, scratch_path("copy.km"));
}

static const struct {
    const char *name;
    enum km_access inside;
    int (*call)(km_map *map);
    bool changes;
} calls[] = {
    {"nothing", 0, nothing, false},
    {"begin and end reading", 0, begin_reading, false},
    {"begin and commit", 0, begin_writing, true},
    {"sync", 0, km_sync, true},
    {"checkpoint", 0, km_checkpoint, true},
    {"grow", 0, grow, true},
    {"grow beyond", 0, grow_beyond, true},
    {"wait", 0, wait_shortly, false},
    {"info", 0, info, false},
    {"verify", 0, verify, false},
    {"log", 0, look_at_log, false},
    {"who", 0, who, false},
    {"copy", 0, copy, true},
    {"commit of a read", KM_READ, km_commit, false},
    {"abort of a read", KM_READ, km_abort, false},
    {"copy in a read", KM_READ, copy, true},
    {"commit", KM_WRITE, km_commit, true},
    {"store and commit", KM_WRITE, store_and_commit, true},
    {"abort", KM_WRITE, km_abort, false},
    {"touch", KM_WRITE, touch, false},
    {"sync in a write", KM_WRITE, km_sync, true},
};
#define CALLS (sizeof calls / sizeof *calls)

/* ---- an attempt -------------------------------------------------------------------------------------------------- */

static void prepare(const struct scene *scene, km_map **map) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .max_size = scene->mode == KM_RAW ? 0 : 2 * SIZE,
                                       .journal_size = scene->mode == KM_TRANSACTIONAL ? 1 << 18 : 0,
                                       .mode = scene->mode,
                                       .flags = KM_CREATE | scene->flags,
                                       .timeout_ms = 1000};
    child_must(km_open(map, scene->target, &options));
    if (scene->mode != KM_RAW) {
        child_must(km_begin(*map, KM_WRITE));
    }
    memset(km_data(*map), 7, SIZE);
    if (scene->mode != KM_RAW) {
        child_must(km_commit(*map));
        child_must(km_sync(*map));
        child_must(km_begin(*map, KM_WRITE));
        memset((unsigned char *)km_data(*map) + SIZE / 2, 8, SIZE / 2);
        child_must(km_commit(*map));
    }
    if (scene->inside != 0) {
        child_must(km_begin(*map, scene->inside));
    }
    if (scene->inside == KM_WRITE) {
        ((unsigned char *)km_data(*map))[3] = 9;
    }
}

/* Every call says so. */
static void expect_lost(km_map *map, const char *when) {
    for (size_t i = 1; i < CALLS; i++) {
        if (calls[i].call == store_and_commit) {
            continue; /* what is still mapped of a live map can be stored to */
        }
        const int result = calls[i].call(map);
        if (result == KM_EUNSUPPORTED || (calls[i].inside != 0 && result == KM_EMISUSE)) {
            continue;
        }
        if (result != KM_ESTALE && result != KM_EIO) {
            fprintf(stderr, "%s, afterwards %s gave %s (%s)\n", when, calls[i].name, km_error_name(result),
                    km_last_error_detail());
            _exit(96);
        }
    }
}

static int attempt(void *context) {
    const struct scene *scene = context;
    km_map *map = NULL;
    prepare(scene, &map);
    const uint64_t length = scratch_file_size(scene->path);
    child_check(truncate(scene->path, (off_t)scene->cut) == 0);
    char file[32]; /* an object loses its name */
    snprintf(file, sizeof file, "/proc/self/fd/%d", open(scene->path, O_RDONLY | O_CLOEXEC));
    struct scratch_image left = scratch_load(file);
    if (scene->touches) {
        const volatile unsigned char *data = km_data(map);
        for (uint64_t at = 0; at < SIZE; at += 1024) {
            (void)data[at];
        }
    }
    if (scene->restored) {
        child_check(truncate(scene->path, (off_t)length) == 0);
    }
    const int result = scene->call(map);
    if (scene->changes && result == 0) {
        fprintf(stderr, "the call gave no error\n");
        return 95;
    }
    child_check(result == 0 || km_last_error_detail()[0] != '\0');
    if (scene->touches && scene->call != nothing && result != KM_EUNSUPPORTED) {
        child_check(result == KM_ESTALE || result == KM_EIO);
    }
    if (scene->touches) {
        expect_lost(map, "the call");
    }
    (void)km_close(map);
    /* Nothing was written but control, which is no data. */
    struct scratch_image after = scratch_load(file);
    child_check(after.length == (scene->restored ? length : scene->cut));
    const size_t control_end = KM__CONTROL_OFFSET + KM__CONTROL_SIZE;
    const size_t start = scene->mode == KM_RAW ? 0 : control_end;
    child_check(scene->mode == KM_RAW || left.length < KM__CONTROL_OFFSET ||
                memcmp(left.bytes, after.bytes, KM__CONTROL_OFFSET) == 0);
    for (size_t at = start; at < left.length; at++) { /* but for the caller's own stores to what is left */
        child_check(left.bytes[at] == after.bytes[at] || (scene->mode == KM_LIVE && after.bytes[at] == STORED));
    }
    for (size_t at = left.length > start ? left.length : start; at < after.length; at++) {
        child_check(after.bytes[at] == 0 || (scene->mode == KM_LIVE && at < left.length + KM_PAGE_SIZE));
    }
    scratch_release(&left);
    scratch_release(&after);
    return SURVIVED;
}

static const char *const mode_names[] = {"transactional", "live", "raw"};

static void run(struct scene *scene, const char *what) {
    const int status = check_in_child(attempt, scene, 30);
    (void)unlink(scene->path);
    (void)unlink(scratch_path("copy.km"));
    if (status != SURVIVED) {
        fail_msg("%s map %s, cut to %llu%s%s, %s: %d", mode_names[scene->mode], scene->target,
                 (unsigned long long)scene->cut, scene->touches ? ", touched" : "", scene->restored ? ", restored" : "",
                 what, status);
    }
}

/* Where maps of this mode can be cut so that other regions are lost. */
static size_t places_to_cut(uint32_t mode, uint64_t places[8]) {
    size_t count = 0;
    places[count++] = 0;
    places[count++] = 4096;
    if (mode == KM_RAW) {
        places[count++] = 50000;
        return count;
    }
    km_map *map = NULL;
    const char *path = scratch_path("layout.km");
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .max_size = 2 * SIZE,
                                       .journal_size = mode == KM_TRANSACTIONAL ? 1 << 18 : 0,
                                       .mode = mode,
                                       .flags = KM_CREATE};
    must(km_open(&map, path, &options));
    must(km_close(map));
    const struct km__header header = scratch_header(path);
    assert_int_equal(unlink(path), 0);
    places[count++] = header.table_offset;
    places[count++] = header.data_offset;
    places[count++] = header.data_offset + SIZE / 2;
    if (mode == KM_TRANSACTIONAL) {
        places[count++] = header.journal_offset;
        places[count++] = header.journal_offset + 10000;
    }
    return count;
}

static void at_every_call(const char *const targets[2], bool touches, bool restored) {
    for (uint32_t mode = KM_TRANSACTIONAL; mode <= KM_RAW; mode++) {
        uint64_t places[8];
        const size_t count = places_to_cut(mode, places);
        for (size_t place = 0; place < count; place++) {
            for (size_t i = 0; i < CALLS; i++) {
                if (mode == KM_RAW && calls[i].inside != 0) {
                    continue;
                }
                /* Behind the data nothing is lost that looking at it would meet. */
                const bool meets = place < 5;
                struct scene scene = {.mode = mode,
                                      .flags = KM_GUARD,
                                      .cut = places[place],
                                      .inside = calls[i].inside,
                                      .touches = touches && meets,
                                      .restored = restored && meets,
                                      .call = calls[i].call,
                                      .changes = calls[i].changes && (!restored || meets)};
                const size_t which = (place + i) % 2;
                scene.target = targets[which];
                scene.path = which == 0 ? targets[0] : objects_path(targets[1]);
                run(&scene, calls[i].name);
            }
        }
    }
    (void)unlink(objects_path(targets[1]));
}

static const char *const *both_kinds(void) {
    static const char *targets[2] = {NULL, "Local\\guarded"};
    targets[0] = scratch_path("guarded.km");
    return targets;
}

static void a_file_that_is_cut_short_ends_no_process_at_any_call(void **state) {
    (void)state;
    at_every_call(both_kinds(), false, false);
}

static void after_lost_data_was_touched_every_call_says_so(void **state) {
    (void)state;
    at_every_call(both_kinds(), true, false);
}

/* The zeros that were shown must not become a commit, though the file looks as it did. */
static void zeros_that_were_shown_are_never_published(void **state) {
    (void)state;
    at_every_call(both_kinds(), true, true);
}

/* ---- read-only handles ------------------------------------------------------------------------------------------- */

static int read_on(void *context) {
    struct scene *scene = context;
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .mode = scene->mode == KM_RAW ? KM_RAW : 0,
                                       .flags = KM_GUARD | KM_READONLY,
                                       .timeout_ms = 500};
    child_must(km_open(&map, scene->target, &options));
    if (scene->mode != KM_RAW) {
        child_must(km_begin(map, KM_READ));
    }
    const volatile unsigned char *data = km_data(map);
    child_check(data[SIZE - 1] == 8 || data[SIZE - 1] == 7);
    child_check(truncate(scene->path, (off_t)scene->cut) == 0);
    for (uint64_t at = 0; at < SIZE; at += 1024) {
        (void)data[at];
    }
    child_check(data[SIZE - 1] == 0);
    const int result = scene->mode == KM_RAW ? info(map) : km_abort(map);
    child_check(result == KM_ESTALE);
    child_check(strstr(km_last_error_detail(), "cut short") != NULL);
    child_check(info(map) == KM_ESTALE);
    child_check(scene->mode == KM_RAW || km_begin(map, KM_READ) == KM_ESTALE);
    (void)km_close(map);
    return 0;
}

static int make(void *context) {
    km_map *map = NULL;
    prepare(context, &map);
    child_must(km_close(map));
    return 0;
}

static void readers_are_guarded_too_and_the_end_of_a_read_tells(void **state) {
    (void)state;
    for (uint32_t mode = KM_TRANSACTIONAL; mode <= KM_RAW; mode++) {
        const char *path = scratch_path("reader-%u", mode);
        struct scene scene = {.target = path, .path = path, .mode = mode};
        assert_int_equal(check_in_child(make, &scene, 20), 0);
        scene.cut = mode == KM_RAW ? 50000 : scratch_header(path).data_offset + 8192;
        const int status = check_in_child(read_on, &scene, 20);
        if (status != 0) {
            fail_msg("%s: %d", mode_names[mode], status);
        }
    }
}

/* ---- a fault in the middle of a call --------------------------------------------------------------------------- */

static struct {
    int result;
    bool closes;
    uint64_t cut;
} * seal;

static int seal_in_child(void *context) {
    km_map *map = NULL;
    prepare(context, &map);
    halt_mark();
    seal->result = seal->closes ? km_close(map) : km_sync(map);
    halt_mark();
    return 0;
}

/* The file is cut short before a call, and has its length again before the next: who has met the zeros in between says
 * so, and has written no header about them. */
static void a_seal_that_met_lost_pages_seals_nothing(void **state) {
    (void)state;
    if (!halt_is_possible()) {
        skip();
    }
    unsigned met = 0;
    for (unsigned way = 0; way < 2; way++) {
        enum halt_event event = HALT_CALL;
        for (unsigned n = 1; event == HALT_CALL; n++) {
            const char *path = scratch_path("sealed-%u-%u.km", way, n);
            struct scene scene = {.target = path, .path = path, .mode = KM_LIVE, .flags = KM_GUARD};
            struct halt halt;
            seal->closes = way == 1;
            halt_start(&halt, seal_in_child, &scene);
            assert_int_equal(halt_run_to_mark(&halt), HALT_MARK);
            const struct km__header before = scratch_header(path);
            const uint64_t length = scratch_file_size(path);
            event = halt_run(&halt, n);
            if (event == HALT_CALL) {
                assert_int_equal(truncate(path, (off_t)before.data_offset), 0);
                event = halt_next(&halt);
                assert_int_equal(truncate(path, (off_t)length), 0);
            }
            assert_true(event == HALT_MARK || halt_run_to_mark(&halt) == HALT_MARK);
            if (seal->result != 0) {
                const struct km__header after = scratch_header(path);
                assert_int_equal(after.flags & KM__HEADER_CLEAN, 0);
                met += seal->result == KM_EIO && after.sequence == before.sequence;
                assert_true(seal->result != KM_EIO || after.sequence == before.sequence);
            }
            halt_kill(&halt);
            assert_int_equal(unlink(path), 0);
        }
    }
    assert_true(met > 0);
}

/* ---- other handlers ---------------------------------------------------------------------------------------------- */

static sigjmp_buf back;
static volatile sig_atomic_t own_faults;

static void meet_own_fault(int number) {
    (void)number;
    own_faults++;
    siglongjmp(back, 1);
}

static int have_a_handler(void *context) {
    struct scene *scene = context;
    const struct sigaction action = {.sa_handler = meet_own_fault};
    child_check(sigaction(SIGBUS, &action, NULL) == 0);
    km_map *map = NULL;
    prepare(scene, &map);
    const int file = open(scratch_path("own"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    child_check(file >= 0 && ftruncate(file, 4096) == 0);
    volatile unsigned char *own = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    child_check(own != MAP_FAILED && ftruncate(file, 0) == 0);
    for (int i = 1; i <= 3; i++) {
        if (sigsetjmp(back, 1) == 0) {
            own[0] = 1;
            return 90; /* there is nothing to store to */
        }
        child_check(own_faults == i);
    }
    child_check(truncate(scene->path, 0) == 0);
    child_check(((const volatile unsigned char *)km_data(map))[SIZE - 1] == 0);
    child_check(own_faults == 3); /* that was not the program's */
    child_check(info(map) == KM_ESTALE);
    if (sigsetjmp(back, 1) == 0) {
        own[0] = 1;
        return 91;
    }
    child_check(own_faults == 4);
    (void)km_close(map);
    return 0;
}

static void the_programs_own_handler_gets_its_own_faults_and_no_other(void **state) {
    (void)state;
    for (uint32_t mode = KM_TRANSACTIONAL; mode <= KM_RAW; mode++) {
        const char *path = scratch_path("handler-%u", mode);
        struct scene scene = {.target = path, .path = path, .mode = mode, .flags = KM_GUARD};
        assert_int_equal(check_in_child(have_a_handler, &scene, 20), 0);
    }
}

static int be_unguarded(void *context) {
    struct scene *scene = context;
    km_map *map = NULL, *guarded = NULL;
    prepare(scene, &map);
    /* Another handle's guard is none for this one. */
    const struct scene other = {.target = "Local\\guarded", .mode = KM_RAW, .flags = KM_GUARD};
    prepare(&other, &guarded);
    child_check(truncate(scene->path, 0) == 0);
    return ((const volatile unsigned char *)km_data(map))[0] == 7 ? 1 : 2;
}

static void without_the_flag_the_process_dies_as_before(void **state) {
    (void)state;
    for (uint32_t mode = KM_LIVE; mode <= KM_RAW; mode++) {
        const char *path = scratch_path("unguarded-%u", mode);
        struct scene scene = {.target = path, .path = path, .mode = mode};
        const int status = check_in_child(be_unguarded, &scene, 20);
        assert_true(status == -SIGBUS || status == 1); /* a sanitizer makes it a status of its own */
        (void)unlink(objects_path("Local\\guarded"));
    }
}

/* The guard of a handle that was closed does not reach out for what is mapped in its place. */
static int be_closed(void *context) {
    struct scene *scene = context;
    km_map *map = NULL;
    prepare(scene, &map);
    void *place = km_data(map);
    child_must(km_close(map));
    const int file = open(scratch_path("later"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    child_check(file >= 0);
    volatile unsigned char *own = mmap(place, 4096, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
    child_check(own == place);
    return own[0] == 0 ? 92 : 93;
}

static void a_closed_handle_guards_nothing(void **state) {
    (void)state;
    for (uint32_t mode = KM_TRANSACTIONAL; mode <= KM_RAW; mode++) {
        const char *path = scratch_path("closed-%u", mode);
        struct scene scene = {.target = path, .path = path, .mode = mode, .flags = KM_GUARD};
        const int status = check_in_child(be_closed, &scene, 20);
        assert_true(status == -SIGBUS || status == 1);
    }
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

#define COMMITS 3

static struct opened {
    const char *path;
    int result;
} * opened;

/* Commits that are not home, and nobody left. */
static int leave_a_journal(void *context) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 1 << 18, .flags = KM_CREATE};
    child_must(km_open(&map, context, &options));
    for (int i = 1; i <= COMMITS; i++) {
        child_must(km_begin(map, KM_WRITE));
        memset(km_data(map), i, 100);
        child_must(km_commit(map));
    }
    return 0;
}

static int open_guarded(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = KM_GUARD, .timeout_ms = 1000};
    (void)context;
    opened->result = km_open(&map, opened->path, &options);
    halt_mark();
    return 0;
}

/* The file is cut before the n-th call of the system, and is whole again `gap` calls later, as if the disk had not
 * delivered for a moment. What was taken for the end of the journal meanwhile must be no end for anybody. Whether there
 * was an n-th call. */
static bool open_beside_a_fault(const struct scratch_image *image, uint64_t cut, unsigned n, unsigned gap) {
    struct halt halt = {.pid = 0};
    scratch_store(opened->path, image->bytes, image->length);
    halt_start(&halt, open_guarded, NULL);
    const enum halt_event first = halt_run(&halt, n);
    assert_int_equal(truncate(opened->path, (off_t)cut), 0);
    const enum halt_event second = first == HALT_CALL ? halt_run(&halt, gap) : first;
    scratch_write(opened->path, cut, image->bytes + cut, image->length - cut);
    assert_true(second == HALT_MARK || halt_run_to_mark(&halt) == HALT_MARK);
    km_map *map = check_open(opened->path, 0, 0);
    must(km_begin(map, KM_READ));
    if (km_generation(map) != COMMITS || ((unsigned char *)km_data(map))[0] != COMMITS) {
        fail_msg("call %u, %u calls long: the open gave %s, and another handle sees commit %llu", n, gap,
                 km_error_name(opened->result), (unsigned long long)km_generation(map));
    }
    must(km_abort(map));
    must(km_close(map));
    halt_kill(&halt);
    return first == HALT_CALL;
}

static void an_open_that_meets_a_fault_takes_nothing_back(void **state) {
    (void)state;
    if (!halt_is_possible()) {
        skip();
    }
    char *path = scratch_path("opened.km");
    assert_int_equal(check_in_child(leave_a_journal, path, 20), 0);
    struct scratch_image image = scratch_load(path);
    const uint64_t cut = scratch_header(path).data_offset;
    unsigned faults = 0;
    opened->path = path;
    for (unsigned gap = 1; gap <= 8; gap++) {
        for (unsigned n = 1; open_beside_a_fault(&image, cut, n, gap); n++) {
            faults += opened->result == KM_EIO;
        }
    }
    assert_true(faults > 0);
    scratch_release(&image);
}

/* ---- syncing ----------------------------------------------------------------------------------------------------- */

static int commit_and_sync(void *context) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .journal_size = 1 << 18,
                                       .flags = KM_CREATE | KM_REPLACE | KM_LAZY | KM_GUARD};
    (void)context;
    child_must(km_open(&map, opened->path, &options));
    child_must(km_begin(map, KM_WRITE));
    memset(km_data(map), 1, 100);
    child_must(km_commit(map));
    halt_mark();
    opened->result = km_sync(map);
    halt_mark();
    return 0;
}

/* The guarded handle meets the fault at the other's commit, behind its own, whose page the guard takes along: what it
 * syncs then is not the file. Whether there was an n-th call. */
static bool sync_beside_a_fault(unsigned n, unsigned *faults) {
    struct halt halt = {.pid = 0};
    const struct km_options lazy = {.struct_size = sizeof lazy, .flags = KM_LAZY};
    km_map *other = NULL;
    halt_start(&halt, commit_and_sync, NULL);
    assert_int_equal(halt_run_to_mark(&halt), HALT_MARK);
    must(km_open(&other, opened->path, &lazy));
    check_commit_fill(other, 0, 2, 100);
    struct scratch_image image = scratch_load(opened->path);
    const uint64_t cut = scratch_header(opened->path).journal_offset;
    const enum halt_event first = halt_run(&halt, n);
    assert_int_equal(truncate(opened->path, (off_t)cut), 0);
    const enum halt_event second = first == HALT_CALL ? halt_next(&halt) : first;
    scratch_write(opened->path, cut, image.bytes + cut, image.length - cut);
    assert_true(second == HALT_MARK || halt_run_to_mark(&halt) == HALT_MARK);
    *faults += opened->result == KM_EIO;
    if (check_info(other).durable_generation != (opened->result == 0 ? 2 : 0)) {
        fail_msg("call %u: the sync gave %s, and commit %llu is durable", n, km_error_name(opened->result),
                 (unsigned long long)check_info(other).durable_generation);
    }
    assert_int_equal(check_info(other).failed, 0);
    must(km_sync(other));
    assert_int_equal(check_info(other).durable_generation, 2);
    must(km_close(other));
    halt_kill(&halt);
    scratch_release(&image);
    return first == HALT_CALL;
}

static void a_sync_that_meets_a_fault_makes_nothing_durable_for_others(void **state) {
    (void)state;
    if (!halt_is_possible()) {
        skip();
    }
    unsigned faults = 0;
    opened->path = scratch_path("sync.km");
    for (unsigned n = 1; sync_beside_a_fault(n, &faults);) {
        n++;
    }
    assert_true(faults > 0);
}

/* Behind the end of a file that is cut within a page stand zeros, without a fault. */
static int read_what_is_cut_within_a_page(void *context) {
    const unsigned way = *(const unsigned *)context;
    char *path = scratch_path("within-%u.km", way);
    struct km_options options = {.struct_size = sizeof options,
                                 .size = 4 * KM_PAGE_SIZE,
                                 .mode = way < 2 ? KM_TRANSACTIONAL : KM_LIVE,
                                 .flags = KM_CREATE | KM_GUARD};
    km_map *map = NULL;
    child_must(km_open(&map, path, &options));
    child_must(km_begin(map, KM_WRITE));
    memset(km_data(map), 7, 4 * KM_PAGE_SIZE);
    child_must(km_commit(map));
    child_must(km_checkpoint(map));
    const uint64_t end = map->header.data_offset + KM_PAGE_SIZE + 100;
    child_must(km_close(map));
    options.flags = KM_READONLY | KM_GUARD;
    child_must(km_open(&map, path, &options));
    child_must(km_begin(map, KM_READ));
    child_check(truncate(path, (off_t)end) == 0);
    const volatile unsigned char *data = km_data(map);
    child_check(data[KM_PAGE_SIZE + 99] == 7 && data[KM_PAGE_SIZE + 100] == 0);
    child_check(!os_file_faulted(map->file));
    child_check((way % 2 == 0 ? km_abort(map) : km_commit(map)) == KM_ESTALE);
    (void)km_close(map);
    return 0;
}

static void a_read_of_a_file_that_was_cut_within_a_page_is_none(void **state) {
    (void)state;
    for (unsigned way = 0; way < 4; way++)
        assert_int_equal(check_in_child(read_what_is_cut_within_a_page, &way, 20), 0);
}

int main(void) {
    scratch_time_limit(170);
    objects_start();
    opened = mmap(NULL, sizeof *opened, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    seal = mmap(NULL, sizeof *seal, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (opened == MAP_FAILED || seal == MAP_FAILED) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_that_is_cut_short_ends_no_process_at_any_call),
        cmocka_unit_test(after_lost_data_was_touched_every_call_says_so),
        cmocka_unit_test(zeros_that_were_shown_are_never_published),
        cmocka_unit_test(readers_are_guarded_too_and_the_end_of_a_read_tells),
        cmocka_unit_test(a_seal_that_met_lost_pages_seals_nothing),
        cmocka_unit_test(the_programs_own_handler_gets_its_own_faults_and_no_other),
        cmocka_unit_test(without_the_flag_the_process_dies_as_before),
        cmocka_unit_test(a_closed_handle_guards_nothing),
        cmocka_unit_test(an_open_that_meets_a_fault_takes_nothing_back),
        cmocka_unit_test(a_read_of_a_file_that_was_cut_within_a_page_is_none),
        cmocka_unit_test(a_sync_that_meets_a_fault_makes_nothing_durable_for_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
