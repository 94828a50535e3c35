/* SPDX-License-Identifier: MIT
 *
 * Refused system calls, small disks and lost privileges: see refusal.h.
 */
#include "refusal.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "support/check.h"

#define NOBODY 65534
#define CHILD_SECONDS 50

void refusal_run(int (*child)(void *context), void *context) {
    const int status = check_in_child(child, context, CHILD_SECONDS);
    if (status == REFUSAL_SKIP)
        skip();
    assert_int_equal(status, 0);
}

bool refuse_call(long number, unsigned argument, uint32_t mask, int error) {
    const uint32_t low_word = (uint32_t)(offsetof(struct seccomp_data, args) + 8 * argument);
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, low_word),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, mask, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof program / sizeof program[0], .filter = program};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

bool refusal_mount_tmpfs(const char *path, unsigned long bytes) {
    char options[32];
    snprintf(options, sizeof options, "size=%lu", bytes);
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", path, "tmpfs", 0, options) == 0;
}

bool refusal_become_nobody(void) {
    return geteuid() != 0 || (setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
}
