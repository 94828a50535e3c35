/* SPDX-License-Identifier: MIT
 *
 * recorder MOUNTPOINT BACKING LOG
 *
 * A file system (FUSE) with two files. `disk` shows the file BACKING; every write to it, every range that is zeroed and
 * every flush is noted in LOG, in order. What is written to `mark` goes to LOG as it is, between the others: so the log
 * says what the disk had been asked to do when something happened. No page cache stands before either, and one thread
 * serves all, so the order is the one in which the kernel asked.
 *
 * Runs until it is unmounted. See recording.h for the log, `cutter` for what is made of it.
 */
#define FUSE_USE_VERSION 31

#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/recording.h"

static int backing = -1;
static FILE *recorder_log;

static int is_disk(const char *path) {
    return strcmp(path, "/disk") == 0;
}

static int is_mark(const char *path) {
    return strcmp(path, "/mark") == 0;
}

static int note(enum recording_kind kind, uint64_t offset, uint64_t length, const void *bytes) {
    const struct recording record = {.kind = kind, .offset = offset, .length = length};
    if (fwrite(&record, sizeof record, 1, recorder_log) != 1 ||
        (bytes != NULL && length > 0 && fwrite(bytes, length, 1, recorder_log) != 1))
        return -EIO; /* a log with a gap would prove nothing */
    return 0;
}

static int show_attributes(const char *path, struct stat *status, struct fuse_file_info *file) {
    (void)file;
    memset(status, 0, sizeof *status);
    if (strcmp(path, "/") == 0) {
        status->st_mode = S_IFDIR | 0700;
        status->st_nlink = 2;
        return 0;
    }
    if (!is_disk(path) && !is_mark(path))
        return -ENOENT;
    if (is_disk(path) && fstat(backing, status) != 0)
        return -errno;
    status->st_mode = S_IFREG | 0600;
    status->st_nlink = 1;
    return 0;
}

static int list_names(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *file,
                      enum fuse_readdir_flags flags) {
    static const char *const names[] = {".", "..", "disk", "mark"};
    (void)offset;
    (void)file;
    (void)flags;
    if (strcmp(path, "/") != 0)
        return -ENOTDIR;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        fill(buffer, names[i], NULL, 0, 0);
    return 0;
}

static int open_either(const char *path, struct fuse_file_info *file) {
    file->direct_io = 1;
    return is_disk(path) || is_mark(path) ? 0 : -ENOENT;
}

/* The shell opens a file for writing as if to empty it; the length of neither file changes. */
static int keep_length(const char *path, off_t length, struct fuse_file_info *file) {
    (void)length;
    (void)file;
    return is_mark(path) ? 0 : -EPERM;
}

static int read_disk(const char *path, char *bytes, size_t length, off_t offset, struct fuse_file_info *file) {
    (void)file;
    if (!is_disk(path))
        return 0;
    const ssize_t done = pread(backing, bytes, length, offset);
    return done < 0 ? -errno : (int)done;
}

static int write_either(const char *path, const char *bytes, size_t length, off_t offset, struct fuse_file_info *file) {
    (void)file;
    if (is_mark(path)) {
        if (length > RECORDING_MARK_MAX)
            return -EFBIG;
        const int noted = note(RECORDING_MARK, 0, length, bytes);
        return noted != 0 ? noted : (int)length;
    }
    const ssize_t done = pwrite(backing, bytes, length, offset);
    if (done < 0)
        return -errno;
    const int noted = note(RECORDING_WRITE, (uint64_t)offset, (uint64_t)done, bytes);
    return noted != 0 ? noted : (int)done;
}

static int flush_disk(const char *path, int data_only, struct fuse_file_info *file) {
    (void)data_only;
    (void)file;
    return is_disk(path) ? note(RECORDING_FLUSH, 0, 0, NULL) : 0;
}

static int zero_range(const char *path, int mode, off_t offset, off_t length, struct fuse_file_info *file) {
    (void)file;
    if (!is_disk(path) || (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) == 0)
        return -EOPNOTSUPP;
    if (fallocate(backing, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) != 0)
        return -errno;
    return note(RECORDING_ZERO, (uint64_t)offset, (uint64_t)length, NULL);
}

int main(int count, char **arguments) {
    static const struct fuse_operations operations = {
        .getattr = show_attributes,
        .readdir = list_names,
        .open = open_either,
        .truncate = keep_length,
        .read = read_disk,
        .write = write_either,
        .fsync = flush_disk,
        .fallocate = zero_range,
    };
    if (count != 4) {
        fprintf(stderr, "usage: recorder MOUNTPOINT BACKING LOG\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* as if unmounted: nobody else would end it */
    backing = open(arguments[2], O_RDWR | O_CLOEXEC);
    recorder_log = fopen(arguments[3], "wb");
    if (backing < 0 || recorder_log == NULL) {
        perror(backing < 0 ? arguments[2] : arguments[3]);
        return 1;
    }
    char *options[] = {arguments[0], "-f", "-s", "-o", "fsname=keepmap-recorder", arguments[1], NULL};
    const int result = fuse_main(6, options, &operations, NULL);
    if (fclose(recorder_log) != 0) {
        perror(arguments[3]);
        return 1;
    }
    return result;
}
