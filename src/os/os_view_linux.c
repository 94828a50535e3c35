/* SPDX-License-Identifier: MIT
 *
 * Views: a reservation of address space that nothing can be mapped into by chance, with a mapping of the file over its
 * head, private or shared. How stores to a private one are found is in os_tracker_linux.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os_tracker_linux.h"

#define PAGE ((uint64_t)KM_PAGE_SIZE)

/* Put the file's bytes [start, end) of the view into its place; 0 or errno. */
static int map_part(const struct os_view *view, uint64_t start, uint64_t end) {
    void *place = view->address + start;
    const int protection = view->kind == OS_VIEW_SHARED_READ_ONLY ? PROT_READ : PROT_READ | PROT_WRITE;
    const int sharing = view->kind == OS_VIEW_PRIVATE ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED;
    if (mmap(place, end - start, protection, sharing | MAP_FIXED, os__file_descriptor(view->file),
             (off_t)(view->offset + start)) == MAP_FAILED)
        return errno;
    /* What a private view holds is the program's memory, and belongs into its core dump. */
    if (view->kind != OS_VIEW_PRIVATE)
        return os__keep_private(place, end - start);
    return madvise(place, end - start, MADV_DONTFORK) == 0 ? 0 : errno;
}

/* Take a part back into the reservation, after map_part() failed there. */
static void reserve_part(const struct os_view *view, uint64_t start, uint64_t end) {
    void *place = view->address + start;
    if (mmap(place, end - start, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) !=
        MAP_FAILED)
        (void)madvise(place, end - start, MADV_DONTFORK);
}

int os_view_map(struct os_view *view, struct os_file *file, enum os_view_kind kind, uint64_t offset, uint64_t length,
                uint64_t reserve) {
    const char *path = os__file_path(file);
    uint64_t mapped = os__round_up_to_page(length);
    uint64_t reserved = os__round_up_to_page(reserve);
    if (mapped == 0 || reserved < mapped)
        return km__error(KM_ESIZE, "%s: cannot map %llu bytes in %llu bytes of address space", path,
                         (unsigned long long)length, (unsigned long long)reserve);
    int error = os__file_contains(file, offset, length, "map it");
    if (error != 0)
        return error;

    struct os__view_linux *linux_part = calloc(1, sizeof *linux_part);
    if (linux_part == NULL)
        return os__system_error(ENOMEM, "map it", path);
    linux_part->process = getpid();
    linux_part->faults.fd = -1;
    linux_part->pagemap.fd = -1;
    void *address = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) {
        error = os__system_error(errno, "reserve address space", path);
        goto free_linux_part;
    }
    struct os_view made = {.address = address,
                           .kind = kind,
                           .length = mapped,
                           .reserve = reserved,
                           .file = file,
                           .offset = offset,
                           .tracker = OS_TRACKER_NONE,
                           .system = linux_part};
    int number = madvise(address, reserved, MADV_DONTFORK) == 0 ? map_part(&made, 0, mapped) : errno;
    if (number != 0) {
        error = os__system_error(number, "map it", path);
        goto unmap;
    }
    error = os__guard_add(os__file_guard(file), address, mapped, path);
    if (error != 0)
        goto unmap;
    *view = made;
    return 0;

unmap:
    munmap(address, reserved);
free_linux_part:
    free(linux_part);
    return error;
}

int os_view_grow(struct os_view *view, uint64_t length) {
    const char *path = os__file_path(view->file);
    uint64_t before = view->length;
    uint64_t mapped = os__round_up_to_page(length);
    if (mapped == 0 || mapped > view->reserve)
        return km__error(KM_ESIZE,
                         "%s: cannot map %llu bytes: %llu bytes of address space were reserved: open it again", path,
                         (unsigned long long)length, (unsigned long long)view->reserve);
    if (mapped <= before)
        return 0;
    int error = os__file_contains(view->file, view->offset, length, "map its new end");
    if (error != 0)
        return error;
    int number = map_part(view, before, mapped);
    if (number != 0) {
        reserve_part(view, before, mapped);
        return os__system_error(number, "map its new end", path);
    }
    view->length = mapped;
    os__guard_grow(view->address, mapped);
    os__tracker_grow(view, before);
    return 0;
}

int os_view_drop(struct os_view *view, uint64_t offset, uint64_t length) {
    if (view->kind != OS_VIEW_PRIVATE)
        return km__error(KM_EINVAL, "%s: cannot drop changes: the view is shared, and has none of its own",
                         os__file_path(view->file));
    if (offset > view->length || length > view->length - offset || offset % PAGE != 0 || length % PAGE != 0)
        return km__error(KM_EINVAL, "%s: cannot drop changes: the range is not one of whole pages of the view",
                         os__file_path(view->file));
    if (length == 0 || madvise(view->address + offset, length, MADV_DONTNEED) == 0)
        return 0;
    if (errno == EINVAL)
        return km__error(KM_EUNSUPPORTED, "%s: cannot drop changes: the memory is locked", os__file_path(view->file));
    return os__system_error(errno, "drop changes", os__file_path(view->file));
}

int os_view_sync(struct os_view *view) {
    if (view->kind == OS_VIEW_PRIVATE)
        return km__error(KM_EINVAL, "%s: cannot make it durable: the view is private, and nothing of it is the file's",
                         os__file_path(view->file));
    if (os_file_is_volatile(view->file))
        return 0;
    while (msync(view->address, view->length, MS_SYNC) != 0) {
        if (errno != EINTR)
            return os__system_error(errno, "make it durable", os__file_path(view->file));
    }
    return 0;
}

/* A page is dirty once an instruction has stored to it. An exchange of a word for itself loses no store of others. */
void os_view_write_again(struct os_view *view, uint64_t offset, uint64_t length) {
    for (uint64_t at = offset / PAGE * PAGE; at < offset + length; at += PAGE) {
        _Atomic uint64_t *word = (_Atomic uint64_t *)(void *)(view->address + at);
        uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);
        while (!atomic_compare_exchange_weak(word, &seen, seen)) {
        }
    }
}

void os_view_unmap(struct os_view *view) {
    struct os__view_linux *linux_part = view->system;
    if (view->address != NULL) {
        os__tracker_stop(view);
        if (linux_part->process == getpid()) {
            os__guard_remove(view->address);
            munmap(view->address, view->reserve);
        }
        free(linux_part);
    }
    *view = (struct os_view){.address = NULL};
}
