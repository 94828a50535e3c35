/* SPDX-License-Identifier: MIT
 *
 * What keepmap.h promises of reading, looking, waiting and copying when a call of the system fails: see sweep.h.
 * Nothing of it changes the map; what fails once succeeds the next time.
 */
#include <errno.h>
#include <unistd.h>

#include "scratch.h"
#include "sweep_map.h"

/* ---- what is done ------------------------------------------------------------------------------------------------ */

static int read_map(struct sweep *sweep) {
    if (sweep_step(sweep, km_begin(sweep->map, KM_READ)))
        return sweep->result;
    (void)sweep_step(sweep, km_abort(sweep->map));
    return sweep->result;
}

static int verify_map(struct sweep *sweep) {
    struct km_report report = {.struct_size = sizeof report};
    if (sweep_step(sweep, km_verify(sweep->map, &report, NULL, NULL)))
        return sweep->result;
    sweep_expect(sweep, report.pages_damaged + report.frames_damaged + report.headers_damaged == 0,
                 "damage is found where none is");
    sweep_expect(sweep, report.pages >= SWEEP_PAGES, "%u pages are checked", (unsigned)report.pages);
    return 0;
}

static int describe_map(struct sweep *sweep) {
    struct km_info info = {.struct_size = sizeof info};
    if (sweep_step(sweep, km_get_info(sweep->map, &info)))
        return sweep->result;
    sweep_expect(sweep, info.generation == km_generation(sweep->other), "generation %u is told",
                 (unsigned)info.generation);
    const bool reads = (sweep->scenario->flags & KM_READONLY) != 0;
    sweep_expect(sweep, info.handles == (reads ? 1 : 2), "%u handles are told", info.handles);
    return 0;
}

static int count_entry(void *context, const struct km_log_entry *entry) {
    (void)entry;
    ++*(unsigned *)context;
    return 0;
}

static int list_commits(struct sweep *sweep) {
    unsigned count = 0;
    if (sweep_step(sweep, km_log(sweep->map, count_entry, &count)))
        return sweep->result;
    sweep_expect(sweep, count > 0, "no commit is told");
    return 0;
}

static int count_user(void *context, const struct km_user *user) {
    (void)user;
    ++*(unsigned *)context;
    return 0;
}

static int list_users(struct sweep *sweep) {
    unsigned count = 0;
    if (sweep_step(sweep, km_who(sweep->map, count_user, &count)))
        return sweep->result;
    sweep_expect(sweep, count == ((sweep->scenario->flags & KM_READONLY) != 0 ? 1 : 2), "%u users are told", count);
    return 0;
}

static int wait_for_commit(struct sweep *sweep) {
    uint64_t now = 0;
    if (sweep_step(sweep, km_wait(sweep->map, 0, 1000, &now)))
        return sweep->result;
    sweep_expect(sweep, now == km_generation(sweep->other), "commit %u is told", (unsigned)now);
    return 0;
}

/* The end of the time is what is waited for, whatever wakes it. */
static int wait_in_vain(struct sweep *sweep) {
    (void)sweep_step(sweep, km_wait(sweep->map, UINT64_MAX, 12, NULL));
    return sweep->result == KM_ETIMEOUT ? sweep->result = 0 : sweep->result;
}

static int copy_map(struct sweep *sweep) {
    (void)sweep_step(sweep, km_copy(sweep->map, sweep->copy));
    return sweep->result;
}

/* ---- what it is done with ---------------------------------------------------------------------------------------- */

/* The handle has not seen the other's last commits. */
static void prepare_behind(struct sweep *sweep) {
    sweep_prepare_open(sweep);
    must(sweep_commit(sweep, sweep->other, VERSION_OLD + 5));
    must(sweep_commit(sweep, sweep->other, VERSION_NEW));
    sweep->before = VERSION_NEW;
}

/* The other has brought home what it committed, so that the handle starts anew. */
static void prepare_far_behind(struct sweep *sweep) {
    prepare_behind(sweep);
    must(km_checkpoint(sweep->other));
}

static void settle_looked(struct sweep *sweep) {
    if (sweep->result != 0) {
        struct sweep later = *sweep;
        const int again = sweep->scenario->run(&later);
        sweep_expect(sweep, again == 0, "the second attempt gives %s: %s", km_error_name(again),
                     km_last_error_detail());
    }
    sweep_expect(sweep, sweep_version(sweep->map) == sweep->before, "another version is shown");
    struct sweep later = {.scenario = sweep->scenario};
    const int committed = sweep_commit(&later, sweep->other, VERSION_NEW);
    sweep_expect(sweep, committed == 0, "there can be no commit: %s", km_last_error_detail());
    sweep_close(sweep, 0);
    sweep_settle_file(sweep, VERSION_NEW, VERSION_NEW);
}

/* The copy is there whole, or not at all. */
static void settle_copied(struct sweep *sweep) {
    if (sweep->result != 0) {
        sweep_expect(sweep, access(sweep->copy, F_OK) != 0, "a copy is left");
        unlink(sweep->copy);
    }
    settle_looked(sweep);
    struct sweep copy = *sweep;
    copy.path = sweep->copy;
    sweep_settle_file(&copy, VERSION_NEW, VERSION_NEW);
}

static bool by_other_means(const struct sweep *sweep) {
    const enum fault_call call = sweep->fault->call;
    return sweep->result == 0 && (call == FAULT_LOCK_PROBE || call == FAULT_LSTAT);
}

static bool by_another_way(const struct sweep *sweep) {
    const struct fault *fault = sweep->fault;
    if (fault->call == FAULT_OPEN && fault->occurrence == 1 && sweep->result == 0)
        return true; /* the name is looked at early; the publication decides */
    return sweep->result == 0 &&
           (fault->call == FAULT_LSTAT || (fault->call == FAULT_OPEN && fault_count(FAULT_SYNCFS) > 0) ||
            fault->call == FAULT_FSTATFS || fault->call == FAULT_LOCK_PROBE);
}

#define LOOK .settle = settle_looked, .excuses = by_other_means

static void a_read_that_fails_changes_nothing(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"read", .prepare = prepare_behind, .run = read_map, LOOK},
        {"read, starting anew", .prepare = prepare_far_behind, .run = read_map, LOOK},
        {"read, compressed", .flags = KM_COMPRESS, .prepare = prepare_behind, .run = read_map, LOOK},
        {"read without permission", .flags = KM_READONLY, .prepare = prepare_behind, .run = read_map, LOOK},
        {"read without permission, starting anew", .flags = KM_READONLY, .prepare = prepare_far_behind, .run = read_map,
         LOOK},
        {"read, guarded", .flags = KM_GUARD, .prepare = prepare_behind, .run = read_map, LOOK},
    };
    SWEEP(scenarios);
}

static void a_look_that_fails_changes_nothing(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"verify", .prepare = prepare_behind, .run = verify_map, LOOK},
        {"verify without permission", .flags = KM_READONLY, .prepare = prepare_behind, .run = verify_map, LOOK},
        {"info", .prepare = prepare_behind, .run = describe_map, LOOK},
        {"info without permission", .flags = KM_READONLY, .prepare = prepare_behind, .run = describe_map, LOOK},
        {"log", .prepare = prepare_behind, .run = list_commits, LOOK},
        {"log without permission", .flags = KM_READONLY, .prepare = prepare_behind, .run = list_commits, LOOK},
        {"who", .prepare = prepare_behind, .run = list_users, LOOK},
        {"who without permission", .flags = KM_READONLY, .prepare = prepare_behind, .run = list_users, LOOK},
    };
    SWEEP(scenarios);
}

static void a_wait_that_fails_changes_nothing(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"wait", .prepare = prepare_behind, .run = wait_for_commit, LOOK},
        {"wait without permission", .flags = KM_READONLY, .prepare = prepare_behind, .run = wait_for_commit, LOOK},
        {"wait in vain", .prepare = prepare_behind, .run = wait_in_vain, LOOK},
        {"wait in vain without permission", .flags = KM_READONLY, .prepare = prepare_behind, .run = wait_in_vain, LOOK},
    };
    SWEEP(scenarios);
}

#define COPY .run = copy_map, .settle = settle_copied, .excuses = by_another_way

static void a_copy_is_whole_or_not_there_whichever_call_fails(void **state) {
    (void)state;
    static const struct scenario scenarios[] = {
        {"copy", .prepare = prepare_behind, COPY},
        {"copy without permission", .flags = KM_READONLY, .prepare = prepare_behind, COPY},
        {"copy, starting anew", .prepare = prepare_far_behind, COPY},
    };
    SWEEP(scenarios);
}

int main(void) {
    scratch_time_limit(600);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_read_that_fails_changes_nothing),
        cmocka_unit_test(a_look_that_fails_changes_nothing),
        cmocka_unit_test(a_wait_that_fails_changes_nothing),
        cmocka_unit_test(a_copy_is_whole_or_not_there_whichever_call_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
