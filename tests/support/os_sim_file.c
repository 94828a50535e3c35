/* SPDX-License-Identifier: MIT
 *
 * Files of the simulated system, as src/os/os.h promises them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>

#include "os_sim_machine.h"

static void enter(void) {
    pthread_mutex_lock(&sim.mutex);
}

static int leave(int result) {
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

int os__file_descriptor(const struct os_file *file) {
    return file->file->cache;
}

const char *os__file_path(const struct os_file *file) {
    return file->path;
}

struct os__guard *os__file_guard(const struct os_file *file) {
    return file->guard;
}

bool os_path_is_object(const char *path) {
    return strncmp(path, "Local\\", 6) == 0 || strncmp(path, "Global\\", 7) == 0;
}

int os__file_contains(struct os_file *file, uint64_t offset, uint64_t length, const char *doing) {
    int error = os__check_range(offset, length, doing, file->path);
    if (error != 0)
        return error;
    enter();
    error = sim_pass(OS_SIM_MAP, file->epoch, file->path);
    if (error == 0 && offset + length > file->file->content.size)
        error = km__error(KM_ETRUNCATED, "%s: cannot %s: the file is too short", file->path, doing);
    return leave(error);
}

static struct os_file *make_handle(struct sim_file *file, const char *path, bool writable) {
    struct os_file *handle = sim_allocate(sizeof *handle);
    handle->file = file;
    file->references++;
    handle->path = sim_allocate(strlen(path) + 1);
    strcpy(handle->path, path);
    handle->writable = writable;
    handle->epoch = sim.epoch;
    return handle;
}

int os_file_open(struct os_file **file, const char *path, bool writable) {
    enter();
    int error = sim_pass(OS_SIM_OPEN, sim.epoch, path);
    const struct sim_name *name = sim_name_find(path, false);
    if (error == 0 && (name == NULL || name->file == NULL))
        error = km__error(KM_ENOTFOUND, "%s: cannot open: no such file", path);
    if (error == 0)
        *file = make_handle(name->file, path, writable);
    return leave(error);
}

int os_file_create(struct os_file **file, const char *path, uint32_t permissions) {
    enter();
    int error = sim_pass(OS_SIM_CREATE, sim.epoch, path);
    if (error == 0) {
        const struct sim_content nothing = {.buckets = NULL};
        *file = make_handle(sim_file_make(sim.next_inode++, nothing, permissions & 07777, os_path_is_object(path)),
                            path, true);
    }
    return leave(error);
}

int os_file_publish(struct os_file *file, const char *path, bool replace) {
    const bool is_object = file->file->is_object;
    if (is_object != os_path_is_object(path))
        return km__error(KM_EINVAL, "%s: cannot give it to what was created as %s", path, file->path);
    if (is_object && replace)
        return km__error(KM_EUNSUPPORTED, "%s: cannot replace an object backed by the paging file", path);
    enter();
    int error = sim_pass(OS_SIM_PUBLISH, file->epoch, path);
    struct sim_name *name = error == 0 ? sim_name_find(path, true) : NULL;
    if (error == 0 && name->file != NULL && !replace)
        error = km__error(KM_EEXISTS, "%s: cannot give the file this name: it exists", path);
    if (error == 0) {
        sim_name_set(name, file->file);
        char *copy = sim_allocate(strlen(path) + 1);
        strcpy(copy, path);
        free(file->path);
        file->path = copy;
        error = is_object ? 0 : sim_pass(OS_SIM_SYNC, file->epoch, path);
    }
    if (error == 0 && !is_object)
        sim_name_sync(name);
    return leave(error);
}

int os_file_remove(struct os_file *file, const char *path) {
    enter();
    int error = sim_pass(OS_SIM_REMOVE, file->epoch, path);
    struct sim_name *name = error == 0 ? sim_name_find(path, false) : NULL;
    if (name != NULL && name->file == file->file)
        sim_name_set(name, NULL);
    return leave(error);
}

int os_file_sync_name(struct os_file *file, const char *path) {
    if (file->file->is_object)
        return 0;
    enter();
    struct sim_name *name = sim_name_find(path, true);
    const int error = sim_pass(OS_SIM_SYNC, file->epoch, path);
    if (error == 0)
        sim_name_sync(name);
    return leave(error);
}

void os_file_close(struct os_file *file) {
    if (file == NULL)
        return;
    os__guard_release(file->guard);
    enter();
    sim_file_release(file->file);
    free(file->path);
    free(file);
    leave(0);
}

static int fill_info(const struct os_file *file, struct os_file_info *info) {
    struct stat status;
    if (fstat(file->file->cache, &status) != 0)
        return os__system_error(errno, "look at it", file->path);
    *info = (struct os_file_info){
        .device = 1,
        .inode = file->file->inode,
        .size = file->file->content.size,
        .allocated = (uint64_t)status.st_blocks * 512,
        .links = file->file->links,
        .permissions = file->file->permissions,
    };
    return 0;
}

bool os_file_is_ours(const struct os_file *file) {
    (void)file; /* nobody closes anything behind our back here */
    return true;
}

int os_file_info(struct os_file *file, struct os_file_info *info) {
    enter();
    int error = sim_pass(OS_SIM_INFO, file->epoch, file->path);
    return leave(error != 0 ? error : fill_info(file, info));
}

int os_file_is_at(struct os_file *file, const char *path) {
    enter();
    int error = sim_pass(OS_SIM_INFO, file->epoch, path);
    const struct sim_name *name = sim_name_find(path, false);
    return leave(error != 0 ? error : name != NULL && name->file == file->file);
}

int os_file_check_coherent(struct os_file *file) {
    enter();
    return leave(sim_pass(OS_SIM_INFO, file->epoch, file->path));
}

int os_file_read(struct os_file *file, uint64_t offset, void *bytes, size_t length) {
    int error = os__check_range(offset, length, "read", file->path);
    if (error != 0)
        return error;
    enter();
    error = sim_pass(OS_SIM_READ, file->epoch, file->path);
    if (error == 0 && offset + length > file->file->content.size)
        error = km__error(KM_ETRUNCATED, "%s: the file ends before offset %llu", file->path,
                          (unsigned long long)(offset + length));
    if (error == 0 && pread(file->file->cache, bytes, length, (off_t)offset) != (ssize_t)length)
        error = os__system_error(errno, "read", file->path);
    return leave(error);
}

static int put(struct os_file *file, uint64_t offset, const void *bytes, size_t length) {
    if (length == 0)
        return 0;
    sim_content_write(&file->file->content, ++sim.writes, offset, bytes, length);
    sim_file_settle(file->file, offset, length);
    if (pwrite(file->file->cache, bytes, length, (off_t)offset) != (ssize_t)length)
        return os__system_error(errno, "write", file->path);
    return 0;
}

/* With the mutex held. */
static int write_bytes(struct os_file *file, uint64_t offset, const void *bytes, size_t length) {
    if (!file->writable)
        return km__error(KM_EACCESS, "%s: cannot write: it was opened read-only", file->path);
    int error = sim_pass(OS_SIM_WRITE, file->epoch, file->path);
    if (error == 0)
        return put(file, offset, bytes, length);
    if (!sim.cut && file->epoch == sim.epoch) /* a failure: some prefix of it is written */
        put(file, offset, bytes, (size_t)(sim_random(&sim.random) % (length + 1)));
    return error;
}

/* With the mutex held. A failed sync is not only one that was not made: see os_sim.h. */
static int sync_range(struct os_file *file, uint64_t offset, uint64_t length) {
    if (file->file->is_object)
        return 0;
    int error = sim_pass(OS_SIM_SYNC, file->epoch, file->path);
    if (sim.cut || file->epoch != sim.epoch)
        return error;
    sim_file_absorb(file->file);
    if (error == 0)
        sim_content_sync(&file->file->content, offset, length);
    else
        sim_content_fail(&file->file->content, offset, length);
    return error;
}

int os_file_write(struct os_file *file, uint64_t offset, const void *bytes, size_t length) {
    int error = os__check_range(offset, length, "write", file->path);
    if (error != 0)
        return error;
    enter();
    return leave(write_bytes(file, offset, bytes, length));
}

int os_file_write_durable(struct os_file *file, uint64_t offset, const void *bytes, size_t length) {
    int error = os__check_range(offset, length, "write", file->path);
    if (error != 0)
        return error;
    enter();
    error = write_bytes(file, offset, bytes, length);
    return leave(error != 0 ? error : sync_range(file, offset, length));
}

int os_file_sync(struct os_file *file) {
    enter();
    return leave(sync_range(file, 0, UINT64_MAX));
}

int os_region_sync(struct os_region *region, uint64_t offset, uint64_t length) {
    if (offset > region->length || length > region->length - offset)
        return km__error(KM_EINVAL, "%s: cannot make it durable: the range lies outside of what is mapped",
                         region->file->path);
    if (length == 0)
        return 0;
    enter();
    return leave(sync_range(region->file, region->offset + offset, length));
}

int os_view_sync(struct os_view *view) {
    if (view->kind == OS_VIEW_PRIVATE)
        return km__error(KM_EINVAL, "%s: cannot make it durable: the view is private", view->file->path);
    enter();
    return leave(sync_range(view->file, view->offset, view->length));
}

bool os_file_is_volatile(const struct os_file *file) {
    return file->file->is_object;
}

int os_file_guard(struct os_file *file) {
    return file->guard != NULL ? 0 : os__guard_open(&file->guard, file->path);
}

bool os_file_faulted(const struct os_file *file) {
    return file->guard != NULL && os__guard_has_faulted(file->guard);
}

/* With the mutex held: the bytes that both have in a range, piece by piece. */
static int copy_range(struct os_file *from, uint64_t from_offset, struct os_file *to, uint64_t to_offset,
                      uint64_t length) {
    int error = 0;
    while (length > 0 && error == 0) {
        unsigned char bytes[65536];
        const size_t part = length < sizeof bytes ? (size_t)length : sizeof bytes;
        if (pread(from->file->cache, bytes, part, (off_t)from_offset) != (ssize_t)part)
            return os__system_error(errno, "share its blocks", from->path);
        error = put(to, to_offset, bytes, part);
        from_offset += part;
        to_offset += part;
        length -= part;
    }
    return error;
}

int os_file_clone_range(struct os_file *from, uint64_t from_offset, struct os_file *to, uint64_t to_offset,
                        uint64_t length) {
    int error = os__check_range(from_offset, length, "share its blocks", from->path);
    if (error == 0)
        error = os__check_range(to_offset, length, "share blocks", to->path);
    if (error != 0 || length == 0)
        return error;
    if (!to->writable)
        return km__error(KM_EACCESS, "%s: cannot share blocks: it was opened read-only", to->path);
    enter();
    if (!sim.clones || from->file->is_object || to->file->is_object)
        return leave(km__error(KM_EUNSUPPORTED, "%s: cannot share blocks with %s", to->path, from->path));
    if (from_offset + length > from->file->content.size)
        return leave(km__error(KM_EUNSUPPORTED, "%s: cannot share blocks beyond its end", from->path));
    error = sim_pass(OS_SIM_WRITE, to->epoch, to->path);
    if (error == 0)
        error = copy_range(from, from_offset, to, to_offset, length);
    else if (!sim.cut && to->epoch == sim.epoch) /* a failure: some prefix of it is there */
        (void)copy_range(from, from_offset, to, to_offset, sim_random(&sim.random) % (length + 1));
    return leave(error);
}

/* What is cloned is copied here: no two files have a block in common. */
int os_file_unshare(struct os_file *file, uint64_t offset, uint64_t length) {
    return os__check_range(offset, length, "give it blocks of its own", file->path);
}

/* With the mutex held. */
static int set_size(struct os_file *file, uint64_t size) {
    if (ftruncate(file->file->cache, (off_t)size) != 0)
        return os__system_error(errno, "set its size", file->path);
    sim_content_resize(&file->file->content, ++sim.writes, size);
    sim_file_settle(file->file, 0, UINT64_MAX);
    return 0;
}

int os_file_resize(struct os_file *file, uint64_t size) {
    int error = os__check_range(0, size, "set its size", file->path);
    if (error != 0)
        return error;
    enter();
    error = sim_pass(OS_SIM_RESIZE, file->epoch, file->path);
    return leave(error != 0 ? error : set_size(file, size));
}

int os_file_allocate(struct os_file *file, uint64_t offset, uint64_t length) {
    int error = os__check_range(offset, length, "allocate space", file->path);
    if (error != 0 || length == 0)
        return error;
    enter();
    error = sim_pass(OS_SIM_ALLOCATE, file->epoch, file->path);
    if (error == 0 && offset + length > file->file->content.size)
        error = set_size(file, offset + length);
    return leave(error);
}

int os_file_zero(struct os_file *file, uint64_t offset, uint64_t length) {
    int error = os__check_range(offset, length, "clear a range", file->path);
    if (error != 0)
        return error;
    enter();
    error = sim_pass(OS_SIM_ZERO, file->epoch, file->path);
    uint64_t end = offset + length < file->file->content.size ? offset + length : file->file->content.size;
    if (error == 0 && offset < end &&
        fallocate(file->file->cache, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                  (off_t)(end - offset)) != 0)
        error = os__system_error(errno, "clear a range", file->path);
    if (error == 0 && offset < end)
        sim_content_zero(&file->file->content, ++sim.writes, offset, end - offset);
    sim_file_settle(file->file, offset, length);
    return leave(error);
}

bool os_file_holes_take_space(struct os_file *file) {
    (void)file;
    return false; /* the simulated disk never fills by reading */
}

int os_file_next_data(struct os_file *file, uint64_t offset, uint64_t end, uint64_t *start, uint64_t *stop) {
    enter();
    int error = sim_pass(OS_SIM_INFO, file->epoch, file->path);
    *start = *stop = end;
    off_t data = error == 0 && offset < end ? lseek(file->file->cache, (off_t)offset, SEEK_DATA) : -1;
    off_t hole = data >= 0 && (uint64_t)data < end ? lseek(file->file->cache, data, SEEK_HOLE) : -1;
    if (hole >= 0) {
        *start = (uint64_t)data;
        *stop = (uint64_t)hole < end ? (uint64_t)hole : end;
    }
    return leave(error);
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

/* Local names before global ones, each in their order: `L` comes after `G`. */
static int compare_targets(const void *a, const void *b) {
    const char *const *first = a, *const *second = b;
    if (**first != **second)
        return **first == 'L' ? -1 : 1;
    return strcmp(*first, *second);
}

int os_objects_list(os_objects_function *each, void *context) {
    size_t count = 0;
    enter();
    int error = sim_pass(OS_SIM_INFO, sim.epoch, "objects");
    for (const struct sim_name *name = sim.names; name != NULL; name = name->next)
        count++;
    char **targets = sim_allocate((count + 1) * sizeof *targets);
    count = 0;
    for (const struct sim_name *name = sim.names; name != NULL && error == 0; name = name->next) {
        if (name->file == NULL || !os_path_is_object(name->path))
            continue;
        targets[count] = sim_allocate(strlen(name->path) + 1);
        strcpy(targets[count++], name->path);
    }
    leave(0);
    qsort(targets, count, sizeof *targets, compare_targets);
    for (size_t i = 0; i < count; i++) {
        if (each(context, targets[i]) != 0)
            break;
    }
    for (size_t i = 0; i < count; i++)
        free(targets[i]);
    free(targets);
    return error;
}
