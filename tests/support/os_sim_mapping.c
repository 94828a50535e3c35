/* SPDX-License-Identifier: MIT
 *
 * Mappings of the simulated system. Views and memory are those of Linux, over the memory file that is the page cache;
 * only regions differ, because the machine must know where stores can come from.
 */
#include "os/os_descriptor_posix.c"
#include "os/os_look_linux.c"
#include "os/os_memory_linux.c"
#include "os/os_view_linux.c"
#include "os/os_tracker_linux.c"

#include "os_sim_machine.h"

/* With the mutex held. */
static void remember_stores(struct sim_file *file, uint64_t offset, uint64_t length) {
    for (size_t i = 0; i < file->stored_count; i++) {
        if (file->stored[i].offset <= offset && offset + length <= file->stored[i].offset + file->stored[i].length)
            return;
    }
    struct sim_range *ranges = sim_allocate((file->stored_count + 1) * sizeof *ranges);
    for (size_t i = 0; i < file->stored_count; i++)
        ranges[i] = file->stored[i];
    ranges[file->stored_count] = (struct sim_range){.offset = offset, .length = length};
    free(file->stored);
    file->stored = ranges;
    file->stored_count++;
}

int os_region_map(struct os_region *region, struct os_file *file, uint64_t offset, uint64_t length, bool writable) {
    int error = os__file_contains(file, offset, length, "map it");
    if (error != 0)
        return error;
    if (writable && !file->writable)
        return km__error(KM_EACCESS, "%s: cannot map it for writing: it was opened read-only", file->path);
    void *address = mmap(NULL, os__round_up_to_page(length), writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
                         file->file->cache, (off_t)offset);
    if (address == MAP_FAILED)
        return os__system_error(errno, "map it", file->path);
    if (writable) {
        pthread_mutex_lock(&sim.mutex);
        remember_stores(file->file, offset / OS_SIM_SECTOR * OS_SIM_SECTOR, length + offset % OS_SIM_SECTOR);
        pthread_mutex_unlock(&sim.mutex);
    }
    *region = (struct os_region){.address = address, .length = length, .file = file, .offset = offset};
    return 0;
}

void os_region_unmap(struct os_region *region) {
    if (region->address != NULL)
        munmap(region->address, os__round_up_to_page(region->length));
    *region = (struct os_region){.address = NULL};
}
