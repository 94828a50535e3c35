/* SPDX-License-Identifier: MIT
 *
 * Memory of the process's own.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os_posix.h"

uint64_t os__round_up_to_page(uint64_t length) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (page < KM_PAGE_SIZE)
        page = KM_PAGE_SIZE;
    if (length > (uint64_t)INT64_MAX - page)
        return 0;
    return (length + page - 1) / page * page;
}

int os__keep_private(void *address, uint64_t length) {
    return madvise(address, length, MADV_DONTFORK) == 0 && madvise(address, length, MADV_DONTDUMP) == 0 ? 0 : errno;
}

void *os_memory_take(uint64_t length) {
    size_t size = os__round_up_to_page(length);
    void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) {
        os__system_error(errno, "take memory", NULL);
        return NULL;
    }
    int number = os__keep_private(address, size);
    if (number != 0) {
        os__system_error(number, "take memory", NULL);
        munmap(address, size);
        return NULL;
    }
    (void)madvise(address, size, MADV_POPULATE_WRITE); /* Linux 5.14; else the pages come one by one */
    return address;
}

void os_memory_release(void *address, uint64_t length) {
    if (address != NULL)
        munmap(address, os__round_up_to_page(length));
}
