/* SPDX-License-Identifier: MIT
 *
 * Clocks, chance, and what /proc tells about processes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "os_posix.h"

#define NS_PER_SECOND UINT64_C(1000000000)
#define FIELD_START_TIME 22 /* of /proc/PID/stat: see proc(5) */

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now = {0};
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

uint64_t os_time_monotonic_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t os_time_wall_ns(void) {
    return clock_ns(CLOCK_REALTIME);
}

int os_random(void *bytes, size_t length) {
    unsigned char *to = bytes;
    while (length > 0) {
        ssize_t got = getrandom(to, length, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return os__system_error(got < 0 ? errno : EIO, "get random bytes", NULL);
        to += got;
        length -= (size_t)got;
    }
    return 0;
}

uint32_t os_process_id(void) {
    return (uint32_t)getpid();
}

/* A small file of /proc as a string; 0 or errno. */
static int read_small_file(const char *path, char *text, size_t size) {
    text[0] = '\0';
    int fd;
    do
        fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return errno;
    size_t length = 0;
    ssize_t got = 1;
    while (got != 0 && length < size - 1) {
        got = read(fd, text + length, size - 1 - length);
        if (got < 0 && errno != EINTR)
            break;
        length += got > 0 ? (size_t)got : 0;
    }
    const int number = got < 0 ? errno : 0;
    close(fd);
    text[number == 0 ? length : 0] = '\0';
    return number;
}

static bool read_process_file(uint32_t process_id, const char *name, char *text, size_t size) {
    char path[48];
    snprintf(path, sizeof path, "/proc/%u/%s", process_id, name);
    return read_small_file(path, text, size) == 0 && text[0] != '\0';
}

uint64_t os_process_start(uint32_t process_id) {
    char text[1024];
    if (process_id == 0 || !read_process_file(process_id, "stat", text, sizeof text))
        return 0;
    /* The second field is the program's name in parentheses, which may hold spaces and parentheses. */
    const char *at = strrchr(text, ')');
    for (int field = 2; at != NULL && field < FIELD_START_TIME; field++)
        at = strchr(at + 1, ' ');
    return at != NULL ? strtoull(at + 1, NULL, 10) : 0;
}

void os_process_name(uint32_t process_id, char *name, size_t size) {
    if (size == 0)
        return;
    name[0] = '\0';
    if (process_id != 0 && size > 1 && read_process_file(process_id, "comm", name, size))
        name[strcspn(name, "\n")] = '\0';
}

int os_boot_id(uint8_t id[16]) {
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    char text[64];
    size_t digits = 0;
    memset(id, 0, 16);
    const int number = read_small_file(path, text, sizeof text);
    if (number == ENOENT || number == ENOTDIR || number == EACCES || number == EPERM)
        return 0; /* it is never told here */
    if (number != 0)
        return os__system_error(number, "ask which start of the machine this is", path);
    /* A UUID: 32 hexadecimal digits, and dashes between. */
    for (const char *at = text; *at != '\0' && digits < 32; at++) {
        static const char hexadecimal[] = "0123456789abcdef";
        const char *found = strchr(hexadecimal, *at);
        if (found == NULL)
            continue;
        id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | (found - hexadecimal));
        digits++;
    }
    return 0;
}

uint32_t os_system(void) {
    return 1;
}

void os_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

const char *os_environment(const char *name) {
    return secure_getenv(name); /* a program with privileges does not let its caller choose */
}
