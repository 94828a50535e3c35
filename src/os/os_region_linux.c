/* SPDX-License-Identifier: MIT
 *
 * Shared mappings. A mapping remembers the process that made it: a child of fork has nothing mapped at its address, or
 * something of its own, and must not unmap that.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os_posix.h"

static void *this_process(void) {
    return (void *)(uintptr_t)getpid();
}

int os_region_map(struct os_region *region, struct os_file *file, uint64_t offset, uint64_t length, bool writable) {
    int error = os__file_contains(file, offset, length, "map it");
    if (error != 0)
        return error;
    uint64_t mapped = os__round_up_to_page(length);
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *address = mmap(NULL, mapped, protection, MAP_SHARED, os__file_descriptor(file), (off_t)offset);
    if (address == MAP_FAILED)
        return os__system_error(errno, "map it", os__file_path(file));
    int number = os__keep_private(address, mapped);
    if (number != 0)
        error = os__system_error(number, "map it", os__file_path(file));
    else
        error = os__guard_add(os__file_guard(file), address, mapped, os__file_path(file));
    if (error != 0) {
        munmap(address, mapped);
        return error;
    }
    *region = (struct os_region){
        .address = address, .length = length, .system = this_process(), .file = file, .offset = offset};
    return 0;
}

int os_region_sync(struct os_region *region, uint64_t offset, uint64_t length) {
    if (offset > region->length || length > region->length - offset)
        return km__error(KM_EINVAL, "%s: cannot make it durable: the range lies outside of what is mapped",
                         os__file_path(region->file));
    if (length == 0 || os_file_is_volatile(region->file))
        return 0;
    /* msync() syncs the file's pages of the range, whoever made them dirty, also through a mapping that may only
     * read. */
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t start = offset / page * page;
    uint64_t end = os__round_up_to_page(offset + length);
    while (msync(region->address + start, end - start, MS_SYNC) != 0) {
        if (errno != EINTR)
            return os__system_error(errno, "make it durable", os__file_path(region->file));
    }
    return 0;
}

void os_region_unmap(struct os_region *region) {
    if (region->address != NULL && region->system == this_process()) {
        os__guard_remove(region->address);
        munmap(region->address, os__round_up_to_page(region->length));
    }
    *region = (struct os_region){.address = NULL};
}
