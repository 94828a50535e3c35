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
    (void)permissions;
    enter();
    int error = sim_pass(OS_SIM_CREATE, sim.epoch, path);
    if (error == 0)
        *file = make_handle(sim_file_make(sim.next_inode++, (struct sim_content){.buckets = NULL}), path, true);
    return leave(error);
}

int os_file_publish(struct os_file *file, const char *path, bool replace) {
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
        error = sim_pass(OS_SIM_SYNC, file->epoch, path);
    }
    if (error == 0)
        sim_name_sync(name);
    return leave(error);
}

int os_file_sync_name(struct os_file *file, const char *path) {
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
    };
    return 0;
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

/* With the mutex held. */
static int set_size(struct os_file *file, uint64_t size) {
    if (ftruncate(file->file->cache, (off_t)size) != 0)
        return os__system_error(errno, "set its size", file->path);
    sim_content_resize(&file->file->content, ++sim.writes, size);
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
