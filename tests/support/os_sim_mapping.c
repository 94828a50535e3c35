/* SPDX-License-Identifier: MIT
 *
 * Mappings of the simulated system. Views, memory and the guard are those of Linux, over the memory file that is the
 * page cache. Regions and shared views differ in one thing: the machine must know where stores can come from, and what
 * a sync of them is.
 */
#include "os/os_descriptor_posix.c"
#include "os/os_guard_linux.c"
#include "os/os_look_linux.c"
#include "os/os_memory_linux.c"

/* The names under which the views of Linux stand beside ours. */
#define os_view_map map_linux_view
#define os_view_grow grow_linux_view
#define os_view_sync sync_linux_view
#define os_view_write_again write_linux_view_again
#include "os/os_view_linux.c"
#undef os_view_map
#undef os_view_grow
#undef os_view_sync
#undef os_view_write_again
#include "os/os_tracker_linux.c"

#include "os_sim_machine.h"

/* Have the machine know where stores can come from. */
static void remember_stores(struct os_file *file, uint64_t offset, uint64_t length) {
    const uint64_t start = offset / OS_SIM_SECTOR * OS_SIM_SECTOR;
    pthread_mutex_lock(&sim.mutex);
    sim_file_remember_stores(file->file, start, offset - start + length);
    pthread_mutex_unlock(&sim.mutex);
}

int os_view_map(struct os_view *view, struct os_file *file, enum os_view_kind kind, uint64_t offset, uint64_t length,
                uint64_t reserve) {
    if (kind == OS_VIEW_SHARED && !file->writable)
        return km__error(KM_EACCESS, "%s: cannot map it for writing: it was opened read-only", file->path);
    const int error = map_linux_view(view, file, kind, offset, length, reserve);
    if (error == 0 && kind == OS_VIEW_SHARED)
        remember_stores(file, offset, view->length);
    return error;
}

int os_view_grow(struct os_view *view, uint64_t length) {
    const int error = grow_linux_view(view, length);
    if (error == 0 && view->kind == OS_VIEW_SHARED)
        remember_stores(view->file, view->offset, view->length);
    return error;
}

void os_view_write_again(struct os_view *view, uint64_t offset, uint64_t length) {
    pthread_mutex_lock(&sim.mutex);
    sim_content_write(&view->file->file->content, ++sim.writes, view->offset + offset, view->address + offset,
                      (size_t)length);
    pthread_mutex_unlock(&sim.mutex);
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
    error = os__guard_add(file->guard, address, os__round_up_to_page(length), file->path);
    if (error != 0) {
        munmap(address, os__round_up_to_page(length));
        return error;
    }
    if (writable)
        remember_stores(file, offset, length);
    *region = (struct os_region){.address = address, .length = length, .file = file, .offset = offset};
    return 0;
}

void os_region_unmap(struct os_region *region) {
    if (region->address != NULL) {
        os__guard_remove(region->address);
        munmap(region->address, os__round_up_to_page(region->length));
    }
    *region = (struct os_region){.address = NULL};
}
