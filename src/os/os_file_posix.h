/* SPDX-License-Identifier: MIT
 *
 * An open file on POSIX systems, shared by os_file_posix.c, os_file_linux.c and os_object_linux.c.
 */
#ifndef KM_OS_FILE_POSIX_H
#define KM_OS_FILE_POSIX_H

#include "os_posix.h"

struct os_file {
    struct os__descriptor descriptor;
    bool writable;
    bool is_object;          /* backed by the paging file */
    char *path;              /* for messages; that of the directory entry once published */
    char *temporary;         /* a name that must be removed on close; NULL if there is none */
    struct os__guard *guard; /* NULL: a fault in its mappings ends the process */
};

/** An os_file for an open descriptor, which is closed on an error. */
int os__file_adopt(struct os_file **file, int fd, const char *path, bool writable);

/** Path of the directory that holds `path`, allocated; NULL without memory. */
char *os__file_directory(const char *path);

/** Give a file without a name the name `name` in a directory; -1 and errno. */
int os__file_link(const struct os_file *file, int directory, const char *name);

/** What kind of file system it is; 0, or -1 and errno. */
struct statfs;
int os__look_at_system(int fd, struct statfs *system);

/* ---- objects backed by the paging file: os_object_linux.c, by their targets -------------------------------------- */

int os__object_open(struct os_file **file, const char *target, bool writable);
int os__object_create(struct os_file **file, const char *target, uint32_t permissions);
int os__object_publish(struct os_file *file, const char *target);
int os__object_is_at(struct os_file *file, const char *target);
int os__object_remove(struct os_file *file, const char *target);

#endif
