/* SPDX-License-Identifier: MIT
 *
 * The test's directory and its files: see scratch.h. Uses the system directly, not src/os: what it does to files is
 * what a stranger would do, and it must work in programs that are linked with the simulated system.
 */
#include "scratch.h"

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "format/header.h"

static char directory[512];
static pid_t owner;
static const char *other_directory;
static pid_t other_owner;

static void require(int holds, const char *what, const char *path) {
    if (!holds) {
        perror(path);
        fprintf(stderr, "scratch: cannot %s %s\n", what, path);
        abort();
    }
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place) {
    (void)status;
    (void)kind;
    (void)place;
    remove(path);
    return 0;
}

/* Each process removes what it has made, not what it knows from its parent. */
static void remove_directories(void) {
    if (directory[0] != '\0' && owner == getpid()) {
        nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
        directory[0] = '\0';
    }
    if (other_directory != NULL && other_owner == getpid()) {
        nftw(other_directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
        other_directory = NULL;
    }
}

void scratch_remove_too(const char *path) {
    other_directory = path;
    other_owner = getpid();
    atexit(remove_directories);
}

/* The process ends here, so a handler that is not async-signal-safe can at worst hang in a broken allocator. */
static void give_up(int signal_number) {
    static const char message[] = "# the test took longer than it may, or was told to end\n";
    ssize_t ignored = write(STDERR_FILENO, message, sizeof message - 1);
    (void)ignored;
    remove_directories();
    _exit(128 + signal_number);
}

void scratch_time_limit(unsigned seconds) {
    struct sigaction action = {.sa_handler = give_up};
    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    alarm(seconds);
}

char *scratch_path(const char *format, ...) {
    static char paths[32][768];
    static unsigned next;
    if (directory[0] == '\0') {
        const char *base = getenv("TMPDIR");
        snprintf(directory, sizeof directory, "%s/keepmap-test-XXXXXX",
                 base != NULL && base[0] != '\0' ? base : "/tmp");
        require(mkdtemp(directory) != NULL, "make", directory);
        owner = getpid();
        atexit(remove_directories);
    }
    char *path = paths[next++ % 32];
    const int length = snprintf(path, sizeof paths[0], "%s/", directory);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path + length, sizeof paths[0] - (size_t)length, format, arguments);
    va_end(arguments);
    return path;
}

static int open_file(const char *path, int flags) {
    const int file = open(path, flags | O_CLOEXEC, 0600);
    require(file >= 0, "open", path);
    return file;
}

uint64_t scratch_file_size(const char *path) {
    struct stat status;
    require(stat(path, &status) == 0, "stat", path);
    return (uint64_t)status.st_size;
}

void scratch_read(const char *path, uint64_t offset, void *bytes, size_t length) {
    const int file = open_file(path, O_RDONLY);
    size_t done = 0;
    while (done < length) {
        const ssize_t part = pread(file, (char *)bytes + done, length - done, (off_t)(offset + done));
        require(part > 0, "read", path);
        done += (size_t)part;
    }
    close(file);
}

void scratch_write(const char *path, uint64_t offset, const void *bytes, size_t length) {
    const int file = open_file(path, O_WRONLY);
    size_t done = 0;
    while (done < length) {
        const ssize_t part = pwrite(file, (const char *)bytes + done, length - done, (off_t)(offset + done));
        require(part > 0, "write", path);
        done += (size_t)part;
    }
    close(file);
}

void scratch_flip(const char *path, uint64_t offset, unsigned char mask) {
    unsigned char byte;
    scratch_read(path, offset, &byte, 1);
    byte ^= mask;
    scratch_write(path, offset, &byte, 1);
}

struct scratch_image scratch_load(const char *path) {
    struct scratch_image image = {.length = scratch_file_size(path)};
    image.bytes = malloc(image.length + 1);
    require(image.bytes != NULL, "hold", path);
    scratch_read(path, 0, image.bytes, image.length);
    return image;
}

void scratch_store(const char *path, const void *bytes, size_t length) {
    close(open_file(path, O_WRONLY | O_CREAT | O_TRUNC));
    scratch_write(path, 0, bytes, length);
}

void scratch_release(struct scratch_image *image) {
    free(image->bytes);
    image->bytes = NULL;
    image->length = 0;
}

void scratch_copy(const char *from, const char *to) {
    struct scratch_image image = scratch_load(from);
    scratch_store(to, image.bytes, image.length);
    scratch_release(&image);
}

int scratch_equals(const char *path, const struct scratch_image *image) {
    struct scratch_image now = scratch_load(path);
    const int equal = now.length == image->length && memcmp(now.bytes, image->bytes, now.length) == 0;
    scratch_release(&now);
    return equal;
}

struct km__header scratch_header(const char *path) {
    struct km__header slots[2];
    int chosen = 0;
    scratch_read(path, KM__SLOT_A, &slots[0], sizeof slots[0]);
    scratch_read(path, KM__SLOT_B, &slots[1], sizeof slots[1]);
    require(km__header_choose(slots, &chosen, NULL, NULL, 0) == 0, "find a header in", path);
    return slots[chosen];
}

unsigned scratch_minutes(void) {
    const char *given = getenv("KEEPMAP_MINUTES");
    return given == NULL ? 0 : (unsigned)strtoul(given, NULL, 10);
}

double scratch_now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void scratch_sleep_ms(unsigned ms) {
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}
