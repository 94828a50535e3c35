/* SPDX-License-Identifier: MIT
 *
 * Sparse memory: address space that takes memory only where it is stored to.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
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

void *os_memory_reserve(uint64_t length) {
    size_t size = os__round_up_to_page(length);
    void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) {
        os__system_error(errno, "reserve memory", NULL);
        return NULL;
    }
    /* Stores are sparse, one page here and there: a huge page for each would multiply the memory that they take. A kernel
     * without huge pages refuses the advice and needs none. */
    (void)madvise(address, size, MADV_NOHUGEPAGE);
    if (madvise(address, size, MADV_DONTFORK) != 0 || madvise(address, size, MADV_DONTDUMP) != 0) {
        os__system_error(errno, "reserve memory", NULL);
        munmap(address, size);
        return NULL;
    }
    return address;
}

void os_memory_drop(void *address, uint64_t length) {
    /* Locked memory (mlockall) is not given back by MADV_DONTNEED, and must read as zeros all the same. */
    if (length != 0 && madvise(address, length, MADV_DONTNEED) != 0)
        memset(address, 0, length);
}

void os_memory_release(void *address, uint64_t length) {
    if (address != NULL)
        munmap(address, os__round_up_to_page(length));
}
