/* SPDX-License-Identifier: MIT
 *
 * Stopping processes at points of the protocol: see strike.h. The locks belong to open file descriptions; the kernel
 * tells those of a process in /proc/PID/fdinfo.
 */
#include "strike.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/check.h"

const char *const strike_names[STRIKE_HOLDS] = {
    [STRIKE_ATTACH] = "ATTACH",
    [STRIKE_WRITER] = "WRITER",
    [STRIKE_CHECKPOINT] = "CHECKPOINT",
    [STRIKE_SYNC] = "SYNC",
    [STRIKE_PIN] = "a pin",
    [STRIKE_READER] = "a reader's lock",
    [STRIKE_NOTHING] = "none of these",
    [STRIKE_OUTSIDE] = "no handle",
};

/* ---- what it holds ----------------------------------------------------------------------------------------------- */

#define READERS_FROM (KM__LOCK_BASE + (UINT64_C(1) << 32)) /* as in locks.c */

/* One lock, by its first byte. */
static unsigned hold_of(uint64_t first, const struct km__control *control) {
    static const unsigned exclusive[] = {[KM__ATTACH] = 1u << STRIKE_ATTACH,
                                         [KM__WRITER] = 1u << STRIKE_WRITER,
                                         [KM__CHECKPOINT] = 1u << STRIKE_CHECKPOINT,
                                         [KM__SYNC] = 1u << STRIKE_SYNC};
    if (first < KM__LOCK_BASE)
        return 0;
    if (first - KM__LOCK_BASE < sizeof exclusive / sizeof *exclusive)
        return exclusive[first - KM__LOCK_BASE];
    if (first >= READERS_FROM)
        return 1u << STRIKE_READER;
    const uint64_t slot = first - KM__SLOT_LOCKS;
    if (control != NULL && first >= KM__SLOT_LOCKS && slot < KM__SLOTS &&
        km__load(&control->slot[slot].pin) != KM__NO_PIN)
        return 1u << STRIKE_PIN;
    return 1u << STRIKE_NOTHING; /* a slot without a pin, or USER */
}

/* The locks of one descriptor: "lock: 1: OFDLCK ADVISORY WRITE -1 08:02:42 FIRST LAST". Neighbours of a kind are one
 * lock to the kernel. */
static unsigned holds_by(FILE *info, const struct km__control *control) {
    char line[256];
    unsigned holds = 0;
    while (fgets(line, sizeof line, info) != NULL) {
        unsigned long long first = 0, last = 0;
        char end[32] = "";
        if (sscanf(line, "lock: %*s %*s %*s %*s %*s %*s %llu %31s", &first, end) != 2)
            continue;
        last = strcmp(end, "EOF") == 0 ? first : strtoull(end, NULL, 10);
        for (unsigned long long byte = first; byte <= last && byte < first + KM__SLOTS; byte++)
            holds |= hold_of(byte, control);
    }
    return holds;
}

unsigned strike_look(pid_t pid, const struct km__control *control) {
    char path[320];
    unsigned holds = 0;
    snprintf(path, sizeof path, "/proc/%d/fdinfo", (int)pid);
    DIR *directory = opendir(path);
    if (directory == NULL)
        return 1u << STRIKE_OUTSIDE;
    for (const struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        snprintf(path, sizeof path, "/proc/%d/fdinfo/%s", (int)pid, entry->d_name);
        FILE *info = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (info == NULL)
            continue;
        holds |= holds_by(info, control);
        fclose(info);
    }
    closedir(directory);
    if (holds == 0)
        return 1u << STRIKE_OUTSIDE;
    const unsigned nothing = 1u << STRIKE_NOTHING;
    return holds == nothing ? nothing : holds & ~nothing;
}

/* ---- stopping it ------------------------------------------------------------------------------------------------- */

/* Whether it stands; false: it has ended, and can still be waited for. */
static bool wait_until_it_stands(pid_t pid) {
    siginfo_t info = {0};
    while (waitid(P_PID, (id_t)pid, &info, WEXITED | WSTOPPED | WNOWAIT) != 0) {
        if (errno != EINTR)
            fail_msg("waitid: %s", strerror(errno));
    }
    if (info.si_code != CLD_STOPPED && info.si_code != CLD_TRAPPED)
        return false;
    int status = 0;
    return waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status);
}

unsigned strike_stop(pid_t pid, const struct km__control *control) {
    kill(pid, SIGSTOP);
    ptrace(PTRACE_DETACH, pid, NULL, NULL); /* if it is traced; it stops as it goes on */
    return wait_until_it_stands(pid) ? strike_look(pid, control) : 0;
}

void strike_go_on(pid_t pid) {
    kill(pid, SIGCONT);
}

/* ---- from call to call ------------------------------------------------------------------------------------------- */

/* The lock that a call of fcntl() is about to ask for; -1: another call. */
static int lock_asked_for(pid_t pid, const struct __ptrace_syscall_info *info) {
    struct flock lock = {0};
    const struct iovec here = {&lock, sizeof lock}, there = {(void *)(uintptr_t)info->entry.args[2], sizeof lock};
    if (info->entry.nr != SYS_fcntl || info->entry.args[1] != F_OFD_SETLK ||
        process_vm_readv(pid, &here, 1, &there, 1, 0) != sizeof lock || lock.l_type == F_UNLCK ||
        (uint64_t)lock.l_start < KM__LOCK_BASE || (uint64_t)lock.l_start > KM__LOCK_BASE + KM__SYNC)
        return -1;
    return (int)((uint64_t)lock.l_start - KM__LOCK_BASE);
}

/* To its next entry into the kernel, or return from it; false: it has ended. */
static bool step(pid_t pid) {
    long signal_number = 0;
    for (;;) {
        siginfo_t info = {0};
        if (ptrace(PTRACE_SYSCALL, pid, NULL, (void *)signal_number) != 0)
            return false;
        while (waitid(P_PID, (id_t)pid, &info, WEXITED | WSTOPPED | WNOWAIT) != 0 && errno == EINTR) {
        }
        if (info.si_code != CLD_TRAPPED && info.si_code != CLD_STOPPED)
            return false;
        int status = 0;
        if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
            return false;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80))
            return true;
        signal_number = status >> 16 != 0 ? 0 : WSTOPSIG(status); /* an event of the trace is no signal of its */
    }
}

bool strike_seek(pid_t pid, int lock, unsigned more, unsigned calls) {
    const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    bool found = lock == STRIKE_ANY_CALL, asked = false;
    if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)options) != 0 || ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) != 0 ||
        !wait_until_it_stands(pid))
        return false;
    while (calls-- > 0 && !(found && more == 0)) {
        struct __ptrace_syscall_info info = {0};
        if (!step(pid) || ptrace(PTRACE_GET_SYSCALL_INFO, pid, (void *)sizeof info, &info) <= 0)
            return false;
        if (found) {
            more--;
        } else if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
            asked = lock_asked_for(pid, &info) == lock;
        } else if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
            found = asked && info.exit.rval == 0;
            asked = false;
        }
    }
    return true;
}

bool strike_is_possible(void) {
    static int possible = -1;
    if (possible >= 0)
        return possible != 0;
    const pid_t pid = fork();
    if (pid == 0) {
        for (;;)
            pause();
    }
    possible = pid > 0 && ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0;
    if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    if (!possible)
        fprintf(stderr, "# report: processes may not trace others here: they are killed at random moments only\n");
    return possible != 0;
}
