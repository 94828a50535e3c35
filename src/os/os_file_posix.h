/* SPDX-License-Identifier: MIT
 *
 * An open file on POSIX systems, shared by os_file_posix.c and os_file_linux.c.
 */
#ifndef KM_OS_FILE_POSIX_H
#define KM_OS_FILE_POSIX_H

#include "os_posix.h"

struct os_file {
    struct os__descriptor descriptor;
    bool writable;
    char *path;      /* for messages; that of the directory entry once published */
    char *temporary; /* a name that must be removed on close; NULL if there is none */
};

/** An os_file for an open descriptor, which is closed on an error. */
int os__file_adopt(struct os_file **file, int fd, const char *path, bool writable);

/** Path of the directory that holds `path`, allocated; NULL without memory. */
char *os__file_directory(const char *path);

#endif
