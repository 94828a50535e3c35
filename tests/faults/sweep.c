/* SPDX-License-Identifier: MIT
 *
 * Running scenarios, and what must hold in all of them: see sweep.h.
 */
#include "sweep.h"

#include <dirent.h>
#include <errno.h>
#include <unistd.h>

#include "scratch.h"

#define NOTES_SHOWN 40u

static unsigned notes, runs, missed;

void sweep_note(const struct sweep *sweep, bool holds, const char *format, ...) {
    char text[1024];
    if (holds)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (notes++ < NOTES_SHOWN)
        print_error("%s; %s: %s\n    (%s gave %s: %s)\n", sweep->scenario->name,
                    sweep->fault != NULL ? fault_text(sweep->fault) : "no fault", text,
                    sweep->step != NULL ? sweep->step : "the run", km_error_name(sweep->result), sweep->detail);
}

/* ---- what a fault must lead to ----------------------------------------------------------------------------------- */

int sweep_expected(const struct fault *fault) {
    static const struct {
        int number, code;
    } codes[] = {
        {ENOSPC, KM_ENOSPACE},          {EDQUOT, KM_ENOSPACE}, {EIO, KM_EIO},        {ENOMEM, KM_ENOMEM},
        {EACCES, KM_EACCESS},           {EPERM, KM_EACCESS},   {EROFS, KM_EACCESS},  {EFBIG, KM_ESIZE},
        {EMFILE, KM_ESYSTEM},           {ENFILE, KM_ESYSTEM},  {ENOLCK, KM_ESYSTEM}, {EINVAL, KM_ESYSTEM},
        {FAULT_NOTHING, KM_ETRUNCATED},
    };
    if (fault->call == FAULT_LOCK && (fault->way == EAGAIN || fault->way == EACCES))
        return KM_EBUSY;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        if (codes[i].number == fault->way)
            return codes[i].code;
    }
    return KM_ESYSTEM;
}

bool sweep_is_sync(const struct fault *fault) {
    switch (fault->call) {
    case FAULT_MSYNC:
    case FAULT_FDATASYNC:
        return fault->way != EINTR;
    case FAULT_PWRITEV2:
        return fault->way == EIO || fault->way == ENOSPC || fault->way == EDQUOT;
    default:
        return false;
    }
}

/* What must not be seen at all. */
static bool is_invisible(const struct fault *fault) {
    if (fault->call == FAULT_STATX || fault->call == FAULT_UNLOCK) /* there is fstat(), and there is trying again */
        return true;
    switch (fault->way) {
    case EINTR:
    case FAULT_ONE_BYTE:
    case FAULT_HALF:
    case ENOSYS:
    case EOPNOTSUPP:
    case EISDIR:
    case ENOTTY:
    case EXDEV:
    case EINVAL:
        return true;
    case EPERM:
        return fault->call == FAULT_CLONE || fault->call == FAULT_USERFAULTFD;
    default:
        return false;
    }
}

/* Calls that are of use where they work, and whose failure changes nothing that a user could see. */
static bool may_be_passed_over(const struct fault *fault) {
    if (fault->way == EEXIST) /* somebody was quicker */
        return true;
    switch (fault->call) {
    case FAULT_CLOSE:
    case FAULT_FSTAT: /* of a descriptor, before it is used */
    case FAULT_OPEN_PROC:
    case FAULT_PREAD_PROC:
    case FAULT_READ:
    case FAULT_FUTEX:
    case FAULT_NANOSLEEP:
    case FAULT_USERFAULTFD:
    case FAULT_IOCTL:
    case FAULT_MADVISE_DROP:
    case FAULT_MADVISE_POPULATE:
        return true;
    case FAULT_LOCK: /* it is waited for, or is not needed */
        return fault->way == EAGAIN || fault->way == EACCES;
    default:
        return false;
    }
}

/* Who has no memory need not say for which file. */
static bool is_of_memory(const struct fault *fault) {
    return fault->call <= FAULT_EXPAND;
}

static void judge_result(const struct sweep *sweep) {
    const struct fault *fault = sweep->fault;
    const bool excused = sweep->scenario->excuses != NULL && fault != NULL && sweep->scenario->excuses(sweep);
    if (fault == NULL || !sweep->happened || is_invisible(fault)) {
        sweep_expect(sweep, sweep->result == 0 || excused, "it is seen");
        return;
    }
    if (sweep->result == 0) {
        sweep_expect(sweep, may_be_passed_over(fault) || excused, "it is passed over");
        return;
    }
    int expected = sweep_expected(fault);
    if (sweep->failed || (fault->call == FAULT_PWRITEV2 && sweep_is_sync(fault)))
        expected = KM_EIO;
    sweep_expect(sweep, sweep->result == expected || excused, "expected %s", km_error_name(expected));
    sweep_expect(sweep, sweep->detail[0] != '\0', "there is no detail");
    if (is_of_memory(fault) || fault->way < 0 || fault->call == FAULT_LOCK || excused)
        return;
    sweep_expect(sweep, strstr(sweep->detail, strerror(fault->way)) != NULL, "the detail lacks the system's words");
    sweep_expect(sweep,
                 fault->way == ENOMEM || strchr(sweep->detail, '/') != NULL || strchr(sweep->detail, '\\') != NULL,
                 "the detail names no path");
}

/* ---- what must not be left --------------------------------------------------------------------------------------- */

struct held {
    long blocks;
    long long mapped;
    unsigned descriptors;
};

static struct held what_is_held(void) {
    struct held held = {.blocks = fault_blocks(), .mapped = fault_mapped()};
    DIR *directory = opendir("/proc/self/fd");
    assert_non_null(directory);
    while (readdir(directory) != NULL)
        held.descriptors++;
    closedir(directory);
    return held;
}

/* Whether the test's directory holds something that is not one of its files; it is removed. */
static void expect_no_temporary_file(const struct sweep *sweep) {
    DIR *directory = opendir(scratch_path("."));
    assert_non_null(directory);
    for (const struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        if (strncmp(entry->d_name, ".keepmap-", 9) != 0)
            continue;
        sweep_expect(sweep, sweep->fault != NULL && sweep->fault->call == FAULT_UNLINK, "%s is left behind",
                     entry->d_name);
        unlink(scratch_path("%s", entry->d_name));
    }
    closedir(directory);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static void run_once(const struct scenario *scenario, const struct fault *fault, bool first) {
    struct sweep sweep = {.scenario = scenario,
                          .fault = fault,
                          .path = scenario->target != NULL ? scenario->target : scratch_path("swept.km"),
                          .copy = scratch_path("copy.km"),
                          .before = 1};
    const struct held before = what_is_held();
    if (scenario->tracker != NULL)
        setenv("KEEPMAP_TRACKER", scenario->tracker, 1);
    else
        unsetenv("KEEPMAP_TRACKER");
    unlink(sweep.path);
    unlink(sweep.copy);
    if (scenario->prepare != NULL)
        scenario->prepare(&sweep);
    fault_lacks(scenario->lacks);
    fault_arm(fault);
    sweep.result = scenario->run(&sweep);
    snprintf(sweep.detail, sizeof sweep.detail, "%s", km_last_error_detail());
    sweep.happened = fault_disarm();
    runs++;
    if (fault != NULL && !sweep.happened)
        missed++;
    scenario->settle(&sweep);
    if (first) /* what is made once, and kept, is there now */
        return;
    const struct held after = what_is_held();
    sweep_expect(&sweep, after.descriptors == before.descriptors, "%d descriptors are left open",
                 (int)after.descriptors - (int)before.descriptors);
    sweep_expect(&sweep, after.blocks == before.blocks, "%ld blocks of memory are left", after.blocks - before.blocks);
    sweep_expect(&sweep, after.mapped == before.mapped, "%lld bytes are left mapped", after.mapped - before.mapped);
    expect_no_temporary_file(&sweep);
    judge_result(&sweep);
}

static bool is_lacking(const struct scenario *scenario, enum fault_call call) {
    for (const struct fault_lack *lack = scenario->lacks; lack != NULL && lack->way != 0; lack++) {
        if (lack->call == call)
            return true;
    }
    return false;
}

static void sweep_scenario(const struct scenario *scenario) {
    unsigned counts[FAULT_CALLS];
    run_once(scenario, NULL, true);
    run_once(scenario, NULL, false);
    for (int call = 0; call < FAULT_CALLS; call++)
        counts[call] = fault_count((enum fault_call)call);
    for (int call = 0; call < FAULT_CALLS; call++) {
        if (is_lacking(scenario, (enum fault_call)call))
            continue;
        for (unsigned occurrence = 1; occurrence <= counts[call]; occurrence++) {
            for (int way = 0; way < FAULT_WAYS && fault_kinds[call].ways[way] != 0; way++) {
                const struct fault fault = {.call = (enum fault_call)call,
                                            .occurrence = occurrence,
                                            .repeat = call == FAULT_FULL_DISK ? 2
                                                      : scenario->repeat != 0 ? scenario->repeat
                                                                              : 1,
                                            .way = fault_kinds[call].ways[way]};
                run_once(scenario, &fault, false);
            }
        }
    }
}

void sweep_all(const struct scenario *scenarios, size_t count) {
    notes = runs = missed = 0;
    for (size_t i = 0; i < count; i++)
        sweep_scenario(&scenarios[i]);
    print_message("# %u runs, %u faults that did not come, %u remarks\n", runs, missed, notes);
    if (notes > 0)
        fail_msg("%u things did not hold in %u runs", notes, runs);
    if (runs == 2 * count)
        fail_msg("none of these makes a call that could fail: the faults are not linked in");
    if (missed > runs / 10) /* a run can have a call less than the one before it, not many of them */
        fail_msg("%u of %u faults never came", missed, runs);
}
