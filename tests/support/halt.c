/* SPDX-License-Identifier: MIT
 *
 * Processes that stop before each call of the system: see halt.h.
 */
#include "halt.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static void require(bool holds, const char *what) {
    if (!holds) {
        fail_msg("%s: %s", what, strerror(errno));
    }
}

static int do_nothing(void *context) {
    (void)context;
    return 0;
}

/* The process that was started last, if it has not ended: a test that failed leaves it behind, with its locks. */
static pid_t current;

static void end_current(void) {
    if (current != 0) {
        kill(current, SIGKILL);
        while (waitpid(current, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    current = 0;
}

static bool try_start(struct halt *halt, int (*child)(void *context), void *context) {
    end_current();
    fflush(NULL);
    *halt = (struct halt){.pid = fork()};
    require(halt->pid >= 0, "fork");
    if (halt->pid == 0) {
        static const int signals[] = {SIGALRM, SIGTERM, SIGINT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGSYS};
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
            signal(signals[i], SIG_DFL);
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
            _exit(97);
        }
        raise(SIGSTOP);
        _exit(child(context));
    }
    int status = 0;
    current = halt->pid;
    while (waitpid(halt->pid, &status, 0) < 0) {
        require(errno == EINTR, "waitpid");
    }
    if (!WIFSTOPPED(status)) {
        halt->pid = current = 0;
        return false;
    }
    const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    require(ptrace(PTRACE_SETOPTIONS, halt->pid, NULL, (void *)options) == 0, "PTRACE_SETOPTIONS");
    return true;
}

bool halt_is_possible(void) {
    static int possible = -1;
    struct halt halt;
    if (possible < 0) {
        possible = try_start(&halt, do_nothing, NULL);
        if (possible) {
            halt_kill(&halt);
        } else {
            fprintf(stderr, "# skipped: processes may not trace their children here\n");
        }
    }
    return possible != 0;
}

void halt_start(struct halt *halt, int (*child)(void *context), void *context) {
    if (!try_start(halt, child, context)) {
        fail_msg("the child ended before it began");
    }
}

/* What it is about to call. */
static void ask_call(struct halt *halt) {
    struct __ptrace_syscall_info info = {0};
    require(ptrace(PTRACE_GET_SYSCALL_INFO, halt->pid, (void *)sizeof info, &info) > 0, "PTRACE_GET_SYSCALL_INFO");
    halt->entering = info.op == PTRACE_SYSCALL_INFO_ENTRY;
    if (halt->entering) {
        halt->call = (long)info.entry.nr;
        for (int i = 0; i < 6; i++) {
            halt->arguments[i] = (unsigned long)info.entry.args[i];
        }
    }
}

enum halt_event halt_next(struct halt *halt) {
    int signal_number = 0;
    for (;;) {
        int status = 0;
        if (halt->pid == 0) {
            return HALT_ENDED;
        }
        require(ptrace(PTRACE_SYSCALL, halt->pid, NULL, (void *)(long)signal_number) == 0, "PTRACE_SYSCALL");
        while (waitpid(halt->pid, &status, 0) < 0) {
            require(errno == EINTR, "waitpid");
        }
        signal_number = 0;
        if (!WIFSTOPPED(status)) {
            halt->pid = current = 0;
            halt->status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
            return HALT_ENDED;
        }
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
            ask_call(halt);
            if (halt->entering) {
                return HALT_CALL;
            }
        } else if (WSTOPSIG(status) == SIGSTOP) {
            return HALT_MARK;
        } else {
            signal_number = WSTOPSIG(status);
        }
    }
}

enum halt_event halt_run(struct halt *halt, unsigned n) {
    enum halt_event event = HALT_CALL;
    while (n-- > 0 && event == HALT_CALL) {
        event = halt_next(halt);
    }
    return event;
}

enum halt_event halt_run_to_mark(struct halt *halt) {
    enum halt_event event = HALT_CALL;
    while (event == HALT_CALL) {
        event = halt_next(halt);
    }
    return event;
}

int halt_finish(struct halt *halt) {
    while (halt_next(halt) != HALT_ENDED) {
    }
    return halt->status;
}

void halt_kill(struct halt *halt) {
    if (halt->pid != 0) {
        end_current();
    }
    halt->pid = 0;
}

void halt_mark(void) {
    raise(SIGSTOP);
}
