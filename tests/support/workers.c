/* SPDX-License-Identifier: MIT
 *
 * Worker processes: see workers.h.
 */
#include "workers.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

pid_t workers_fork(unsigned seconds) {
    static const int signals[] = {SIGALRM, SIGTERM, SIGINT, SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    fflush(NULL); /* or the child prints it again */
    const pid_t id = fork();
    assert_true(id >= 0);
    if (id != 0)
        return id;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], SIG_DFL);
    alarm(seconds);
    return 0;
}

void workers_end(pid_t *ids, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        if (ids[i] <= 0)
            continue;
        kill(ids[i], SIGKILL);
        waitpid(ids[i], NULL, 0);
        ids[i] = 0;
    }
}

void workers_expect_alive(pid_t *ids, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        int status = 0;
        if (ids[i] <= 0 || waitpid(ids[i], &status, WNOHANG) != ids[i])
            continue;
        ids[i] = 0;
        workers_end(ids, count);
        fail_msg("worker %u ended with %d", i, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
    }
}
