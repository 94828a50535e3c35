/* SPDX-License-Identifier: MIT
 *
 * Assertions about the library's results: see check.h.
 */
#include "check.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

void check_result(int result, int expected, const char *call, const char *file, int line) {
    if (result != expected) {
        print_error("%s:%d: %s\n  gave %s (%s), expected %s\n", file, line, call, km_error_name(result),
                    km_last_error_detail(), km_error_name(expected));
        _fail(file, line);
    }
    if (expected != 0 && km_last_error_detail()[0] == '\0') {
        print_error("%s:%d: %s\n  gave %s without a detail\n", file, line, call, km_error_name(result));
        _fail(file, line);
    }
}

void check_child(int holds, const char *call, const char *file, int line) {
    if (holds) {
        return;
    }
    fprintf(stderr, "%s:%d: in process %d: %s does not hold; last error: %s\n", file, line, (int)getpid(), call,
            km_last_error_detail());
    _exit(99);
}

void check_detail_contains(const char *part) {
    if (strstr(km_last_error_detail(), part) == NULL) {
        fail_msg("the detail \"%s\" does not contain \"%s\"", km_last_error_detail(), part);
    }
}

km_map *check_open(const char *path, uint64_t size, uint32_t flags) {
    km_map *map = NULL;
    struct km_options options = {.struct_size = sizeof options, .size = size, .flags = flags};
    must(km_open(&map, path, &options));
    assert_non_null(map);
    return map;
}

void check_commit_fill(km_map *map, uint64_t offset, int value, size_t length) {
    must(km_begin(map, KM_WRITE));
    assert_true(offset <= km_size(map) && length <= km_size(map) - offset);
    must(km_touch(map, offset, length));
    memset((unsigned char *)km_data(map) + offset, value, length);
    must(km_commit(map));
}

static int print_finding(void *context, uint64_t done, uint64_t total, const struct km_finding *finding) {
    (void)context;
    (void)done;
    (void)total;
    if (finding != NULL) {
        print_error("  %s: page %llu, offset %llu: %s\n", km_error_name(finding->error),
                    (unsigned long long)finding->page, (unsigned long long)finding->offset, finding->message);
    }
    return 0;
}

struct km_info check_info(km_map *map) {
    struct km_info info = {.struct_size = sizeof info};
    must(km_get_info(map, &info));
    return info;
}

void check_clean(km_map *map) {
    struct km_report report = {.struct_size = sizeof report};
    must(km_verify(map, &report, print_finding, NULL));
    assert_int_equal(report.pages_damaged, 0);
    assert_int_equal(report.frames_damaged, 0);
    assert_int_equal(report.headers_damaged, 0);
    assert_int_equal(report.digest_matches, 1);
}

int check_in_child(int (*child)(void *context), void *context, unsigned limit_s) {
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        /* cmocka's and the time limit's handlers belong to the parent. */
        static const int signals[] = {SIGALRM, SIGTERM, SIGINT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGSYS};
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
            signal(signals[i], SIG_DFL);
        }
        alarm(limit_s);
        _exit(child(context));
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) {
        assert_int_equal(errno, EINTR);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
