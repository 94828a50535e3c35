/* SPDX-License-Identifier: MIT
 *
 * What takes the place of the C library's functions for memory, mappings and the process: see fault_layer.h. The linker
 * names them (--wrap): a call of NAME comes to __wrap_NAME, and __real_NAME is the C library's.
 */
#include <errno.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>

#include "fault_layer.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t length);
void __real_free(void *block);
void *__real_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *address, size_t length);
int __real_madvise(void *address, size_t length, int advice);
int __real_msync(void *address, size_t length, int flags);
long __real_syscall(long number, ...);
ssize_t __real_getrandom(void *bytes, size_t length, unsigned flags);
int __real_nanosleep(const struct timespec *time, struct timespec *left);
int __real_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
/* Not there in a build without zlib. */
int __real_compress2(unsigned char *to, unsigned long *room, const unsigned char *from, unsigned long length, int level)
    __attribute__((weak));
int __real_uncompress2(unsigned char *to, unsigned long *room, const unsigned char *from, unsigned long *length)
    __attribute__((weak));

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t length);
void __wrap_free(void *block);
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *address, size_t length);
int __wrap_madvise(void *address, size_t length, int advice);
int __wrap_msync(void *address, size_t length, int flags);
long __wrap_syscall(long number, ...);
ssize_t __wrap_getrandom(void *bytes, size_t length, unsigned flags);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left);
int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int __wrap_compress2(unsigned char *to, unsigned long *room, const unsigned char *from, unsigned long length,
                     int level);
int __wrap_uncompress2(unsigned char *to, unsigned long *room, const unsigned char *from, unsigned long *length);

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void *counted(void *block) {
    if (block != NULL)
        fault_blocks_add(1);
    return block;
}

void *__wrap_malloc(size_t size) {
    return fault_refuses(FAULT_MALLOC) ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size) {
    return fault_refuses(FAULT_CALLOC) ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *block, size_t size) {
    if (fault_refuses(FAULT_REALLOC))
        return NULL;
    const bool is_new = block == NULL;
    void *moved = __real_realloc(block, size);
    return is_new ? counted(moved) : moved;
}

char *__wrap_strdup(const char *text) {
    return fault_refuses(FAULT_STRDUP) ? NULL : counted(__real_strdup(text));
}

char *__wrap_strndup(const char *text, size_t length) {
    return fault_refuses(FAULT_STRNDUP) ? NULL : counted(__real_strndup(text, length));
}

void __wrap_free(void *block) {
    if (block != NULL)
        fault_blocks_add(-1);
    __real_free(block);
}

/* ---- zlib, which takes memory by itself -------------------------------------------------------------------------- */

#define NO_MEMORY_OF_ZLIB (-4) /* Z_MEM_ERROR */

int __wrap_compress2(unsigned char *to, unsigned long *room, const unsigned char *from, unsigned long length,
                     int level) {
    return fault_refuses(FAULT_COMPRESS) ? NO_MEMORY_OF_ZLIB : __real_compress2(to, room, from, length, level);
}

int __wrap_uncompress2(unsigned char *to, unsigned long *room, const unsigned char *from, unsigned long *length) {
    return fault_refuses(FAULT_EXPAND) ? NO_MEMORY_OF_ZLIB : __real_uncompress2(to, room, from, length);
}

/* ---- mappings ---------------------------------------------------------------------------------------------------- */

/* A mapping over a part of another, at an address that is given, takes no room of its own. */
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (fault_refuses(fd < 0 ? FAULT_MMAP_MEMORY : FAULT_MMAP_FILE))
        return MAP_FAILED;
    void *made = __real_mmap(address, length, protection, flags, fd, offset);
    if (made != MAP_FAILED && (flags & MAP_FIXED) == 0)
        fault_mapped_add((long long)length);
    return made;
}

/* Never fails: the library unmaps what it mapped, as it mapped it, which needs no room. */
int __wrap_munmap(void *address, size_t length) {
    fault_mapped_add(-(long long)length);
    return __real_munmap(address, length);
}

int __wrap_madvise(void *address, size_t length, int advice) {
    const enum fault_call call = advice == MADV_DONTFORK || advice == MADV_DONTDUMP ? FAULT_MADVISE_FORK
                                 : advice == MADV_DONTNEED                          ? FAULT_MADVISE_DROP
                                                                                    : FAULT_MADVISE_POPULATE;
    return fault_refuses(call) ? -1 : __real_madvise(address, length, advice);
}

/* Reaches no disk: see fault_layer.h. */
int __wrap_msync(void *address, size_t length, int flags) {
    (void)address;
    (void)length;
    (void)flags;
    return fault_refuses(FAULT_MSYNC) ? -1 : 0;
}

/* ---- the process ------------------------------------------------------------------------------------------------- */

long __wrap_syscall(long number, ...) {
    long arguments[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        arguments[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_futex && fault_refuses(FAULT_FUTEX))
        return -1;
    if (number == SYS_userfaultfd && fault_refuses(FAULT_USERFAULTFD))
        return -1;
    return __real_syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}

ssize_t __wrap_getrandom(void *bytes, size_t length, unsigned flags) {
    bool refused;
    const size_t part = fault_part(FAULT_GETRANDOM, length, &refused);
    return refused ? -1 : __real_getrandom(bytes, part, flags);
}

int __wrap_nanosleep(const struct timespec *time, struct timespec *left) {
    return fault_refuses(FAULT_NANOSLEEP) ? -1 : __real_nanosleep(time, left);
}

int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    const int way = fault_hit(FAULT_ATFORK);
    return way > 0 ? way : __real_pthread_atfork(prepare, parent, child);
}
