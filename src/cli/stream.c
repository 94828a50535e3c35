/* SPDX-License-Identifier: MIT
 *
 * The tool's three standard streams. Raw data is read and written by read() and write() straight from and into a map's
 * memory: where a store or load would be a fault that ends the process (the file was cut short meanwhile), the system
 * answers EFAULT.
 */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "command.h"

/* How much goes into one system call: what a signal or a progress bar waits for at most. */
static const size_t chunk_size = 1u << 20;

void cli_streams_secure(void) {
    /* Opened the wrong way round, so that using it is still an error. */
    static const int modes[3] = {O_WRONLY, O_RDONLY, O_RDONLY};
    for (int stream = 0; stream < 3; stream++)
        if (fcntl(stream, F_GETFD) == -1 && errno == EBADF && open("/dev/null", modes[stream]) != stream)
            _exit(CLI_SYSTEM);
}

bool cli_stream_output_is(const char *path) {
    struct stat output, named;
    return fstat(STDOUT_FILENO, &output) == 0 && stat(path, &named) == 0 && S_ISREG(output.st_mode) &&
           output.st_dev == named.st_dev && output.st_ino == named.st_ino;
}

/** After a failed call: true if it is worth another try (after waiting, if the stream does not block). */
static bool retry(int stream, short event) {
    if (errno == EINTR)
        return true;
    if (errno != EAGAIN && errno != EWOULDBLOCK)
        return false;
    struct pollfd wanted = {.fd = stream, .events = event};
    return poll(&wanted, 1, -1) >= 0 || errno == EINTR;
}

int cli_stream_write(const void *bytes, size_t length) {
    const char *next = bytes;
    while (length > 0) {
        const ssize_t written = write(STDOUT_FILENO, next, length < chunk_size ? length : chunk_size);
        if (written < 0) {
            if (retry(STDOUT_FILENO, POLLOUT))
                continue;
            return errno;
        }
        next += written;
        length -= (size_t)written;
    }
    return 0;
}

int cli_stream_read(void *bytes, size_t length, size_t *got) {
    *got = 0;
    for (;;) {
        const ssize_t count = read(STDIN_FILENO, bytes, length < chunk_size ? length : chunk_size);
        if (count >= 0) {
            *got = (size_t)count;
            return 0;
        }
        if (!retry(STDIN_FILENO, POLLIN))
            return errno;
    }
}

void cli_stream_await_line(void) {
    /* Byte by byte: what follows the line is for whoever reads the stream next. */
    char byte = 0;
    size_t got = 1;
    while (got > 0 && byte != '\n')
        if (cli_stream_read(&byte, 1, &got) != 0)
            return;
}

uint64_t cli_stream_input_size(void) {
    struct stat input;
    if (fstat(STDIN_FILENO, &input) != 0 || !S_ISREG(input.st_mode))
        return 0;
    const off_t position = lseek(STDIN_FILENO, 0, SEEK_CUR);
    return position < 0 || position > input.st_size ? 0 : (uint64_t)(input.st_size - position);
}

bool cli_stream_input_terminal(void) {
    return isatty(STDIN_FILENO) == 1;
}

bool cli_stream_terminal(void) {
    return isatty(STDERR_FILENO) == 1;
}

bool cli_stream_colour(void) {
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");
    return (no_color == NULL || *no_color == '\0') && term != NULL && strcmp(term, "dumb") != 0;
}

uint64_t cli_stream_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void cli_stream_pause_ms(uint32_t milliseconds) {
    const struct timespec pause = {.tv_sec = (time_t)(milliseconds / 1000),
                                   .tv_nsec = (long)(milliseconds % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

int cli_stream_failed(int system_error) {
    if (system_error != EPIPE)
        fprintf(stderr, "keepmap: cannot write standard output: %s: see where it is redirected to\n",
                system_error == 0 ? "an earlier write failed" : strerror(system_error));
    return CLI_SYSTEM;
}

/* The errno of the first flush that failed. */
static int flush_error;

void cli_stream_flush(void) {
    errno = 0;
    if (fflush(stdout) != 0 && flush_error == 0)
        flush_error = errno;
}

int cli_streams_finish(int status) {
    const bool failed = ferror(stdout) != 0; /* an earlier write: its errno is gone, unless that was a flush */
    errno = 0;
    if (fclose(stdout) == 0 && !failed)
        return status;
    return cli_stream_failed(flush_error ? flush_error : errno);
}
