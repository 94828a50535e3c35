/* SPDX-License-Identifier: MIT
 *
 * The simulated machine: its files and names, the points where its power can be cut, and what it is after a cut. The
 * calls of os.h that reach files are in os_sim_file.c, mappings in os_sim_mapping.c, locks, time and chance in
 * os_sim_lock.c.
 */
#include "os_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os_sim_machine.h"

struct sim_machine sim = {.mutex = PTHREAD_MUTEX_INITIALIZER, .epoch = 1, .next_inode = 1};

/* A file of a saved state; names refer to it by its place. */
struct saved_file {
    uint64_t inode;
    uint32_t permissions;
    bool is_object;
    struct sim_content content;
};

struct saved_name {
    char *path;
    size_t file, durable; /* place + 1; 0: none */
    uint64_t write;
};

struct os_sim_state {
    struct saved_file *files;
    size_t file_count;
    struct saved_name *names;
    size_t name_count;
    uint64_t writes, now_ns, next_inode, boot;
};

/* The state at the moment of the cut; NULL while the power is on. */
static struct os_sim_state *at_cut;

/* ---- files ------------------------------------------------------------------------------------------------------- */

void sim_file_release(struct sim_file *file) {
    if (file == NULL || --file->references > 0)
        return;
    struct sim_file **link = &sim.files;
    while (*link != file)
        link = &(*link)->next;
    *link = file->next;
    close(file->cache);
    sim_content_release(&file->content);
    free(file->stored);
    free(file);
}

/* Compare a piece of the page cache with what is known to have been written, sector by sector. */
static void absorb_piece(struct sim_file *file, uint64_t offset, const unsigned char *cached, size_t length) {
    while (length > 0) {
        unsigned char known[OS_SIM_SECTOR];
        size_t part = length < OS_SIM_SECTOR ? length : OS_SIM_SECTOR;
        sim_content_read(&file->content, offset, known, part);
        if (memcmp(cached, known, part) != 0) {
            sim_content_write(&file->content, ++sim.writes, offset, cached, part);
            sim_file_settle(file, offset, part);
        }
        cached += part;
        offset += part;
        length -= part;
    }
}

void sim_file_remember_stores(struct sim_file *file, uint64_t offset, uint64_t length) {
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

void sim_file_settle(struct sim_file *file, uint64_t offset, uint64_t length) {
    if (file->is_object)
        sim_content_sync(&file->content, offset, length);
}

void sim_file_absorb(struct sim_file *file) {
    for (size_t i = 0; i < file->stored_count; i++) {
        uint64_t offset = file->stored[i].offset;
        uint64_t end = offset + file->stored[i].length;
        if (end > file->content.size)
            end = file->content.size;
        while (offset < end) {
            unsigned char cached[64 * OS_SIM_SECTOR];
            size_t wanted = end - offset < sizeof cached ? (size_t)(end - offset) : sizeof cached;
            if (pread(file->cache, cached, wanted, (off_t)offset) != (ssize_t)wanted)
                break;
            absorb_piece(file, offset, cached, wanted);
            offset += wanted;
        }
    }
}

/* ---- points ------------------------------------------------------------------------------------------------------ */

static bool is_step(enum os_sim_operation operation) {
    switch (operation) {
    case OS_SIM_PUBLISH:
    case OS_SIM_REMOVE:
    case OS_SIM_WRITE:
    case OS_SIM_SYNC:
    case OS_SIM_RESIZE:
    case OS_SIM_ALLOCATE:
    case OS_SIM_ZERO:
        return true;
    default:
        return false;
    }
}

static struct os_sim_state *save(void);

static void cut_power(void) {
    void (*function)(void *) = sim.on_cut;
    void *context = sim.on_cut_context;
    at_cut = save();
    sim.cut = true;
    if (function != NULL) {
        pthread_mutex_unlock(&sim.mutex);
        function(context);
        pthread_mutex_lock(&sim.mutex);
    }
}

/* Count an armed number down; true when it reaches its end. */
static bool falls_due(uint64_t *armed) {
    return *armed > 0 && --*armed == 0;
}

static bool take_fault(struct sim_fault *fault) {
    if (fault->n > 1) {
        fault->n--;
        return false;
    }
    if (fault->n == 0 || fault->count == 0)
        return false;
    if (fault->count != UINT64_MAX)
        fault->count--;
    return true;
}

int sim_pass(enum os_sim_operation operation, uint64_t epoch, const char *path) {
    if (epoch != sim.epoch && (is_step(operation) || operation == OS_SIM_LOCK))
        return km__error(KM_EIO, "%s: the simulated machine was started anew since the handle was opened", path);
    if (sim.cut && is_step(operation))
        return km__error(KM_EIO, "%s: the simulated power is cut", path);

    if (is_step(operation)) {
        sim.steps++;
        sim.syncs += operation == OS_SIM_SYNC;
        if (sim.watcher != NULL) {
            os_sim_watcher *watcher = sim.watcher;
            uint64_t step = sim.steps;
            pthread_mutex_unlock(&sim.mutex);
            watcher(sim.watcher_context, operation, step);
            pthread_mutex_lock(&sim.mutex);
        }
        bool due = falls_due(&sim.cut_in_steps);
        if (operation == OS_SIM_SYNC && falls_due(&sim.cut_in_syncs))
            due = true;
        if (due) {
            cut_power();
            return km__error(KM_EIO, "%s: the simulated power is cut", path);
        }
    }
    if (take_fault(&sim.faults[operation])) {
        sim.failures++;
        return km__error(sim.faults[operation].code, "%s: a simulated failure", path);
    }
    return 0;
}

#define LOCKED_GET(type, name, expression)                                                                             \
    type name {                                                                                                        \
        pthread_mutex_lock(&sim.mutex);                                                                                \
        type value = (expression);                                                                                     \
        pthread_mutex_unlock(&sim.mutex);                                                                              \
        return value;                                                                                                  \
    }

LOCKED_GET(uint64_t, os_sim_steps(void), sim.steps)
LOCKED_GET(uint64_t, os_sim_syncs(void), sim.syncs)
LOCKED_GET(uint64_t, os_sim_failures(void), sim.failures)
LOCKED_GET(bool, os_sim_is_cut(void), sim.cut)

void os_sim_cut_at_step(uint64_t n) {
    pthread_mutex_lock(&sim.mutex);
    sim.cut_in_steps = n;
    pthread_mutex_unlock(&sim.mutex);
}

void os_sim_cut_at_sync(uint64_t n) {
    pthread_mutex_lock(&sim.mutex);
    sim.cut_in_syncs = n;
    pthread_mutex_unlock(&sim.mutex);
}

void os_sim_cut(void) {
    pthread_mutex_lock(&sim.mutex);
    if (!sim.cut)
        cut_power();
    pthread_mutex_unlock(&sim.mutex);
}

void os_sim_on_cut(void (*function)(void *context), void *context) {
    pthread_mutex_lock(&sim.mutex);
    sim.on_cut = function;
    sim.on_cut_context = context;
    pthread_mutex_unlock(&sim.mutex);
}

void os_sim_watch(os_sim_watcher *watcher, void *context) {
    pthread_mutex_lock(&sim.mutex);
    sim.watcher = watcher;
    sim.watcher_context = context;
    pthread_mutex_unlock(&sim.mutex);
}

void os_sim_fail(enum os_sim_operation operation, uint64_t n, uint64_t count, int code) {
    pthread_mutex_lock(&sim.mutex);
    sim.faults[operation] = (struct sim_fault){.n = n, .count = count, .code = code};
    pthread_mutex_unlock(&sim.mutex);
}

void os_sim_set_clone(bool clones) {
    pthread_mutex_lock(&sim.mutex);
    sim.clones = clones;
    pthread_mutex_unlock(&sim.mutex);
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

static size_t place_of(const struct os_sim_state *state, const struct sim_file *file) {
    for (size_t i = 0; file != NULL && i < state->file_count; i++) {
        if (state->files[i].inode == file->inode)
            return i + 1;
    }
    return 0;
}

static struct os_sim_state *copy_state(const struct os_sim_state *from) {
    struct os_sim_state *state = sim_allocate(sizeof *state);
    *state = *from;
    state->files = sim_allocate(from->file_count * sizeof *state->files + 1);
    state->names = sim_allocate(from->name_count * sizeof *state->names + 1);
    for (size_t i = 0; i < from->file_count; i++) {
        state->files[i] = from->files[i];
        sim_content_copy(&state->files[i].content, &from->files[i].content);
    }
    for (size_t i = 0; i < from->name_count; i++) {
        state->names[i] = from->names[i];
        state->names[i].path = sim_allocate(strlen(from->names[i].path) + 1);
        strcpy(state->names[i].path, from->names[i].path);
    }
    return state;
}

/* Files without a name, now or durable, end with their handles, and are not saved. */
static struct os_sim_state *save(void) {
    struct os_sim_state seen = {.now_ns = sim.now_ns, .next_inode = sim.next_inode, .boot = sim.boot};
    size_t files = 0, names = 0;
    for (const struct sim_file *file = sim.files; file != NULL; file = file->next)
        files++;
    for (const struct sim_name *name = sim.names; name != NULL; name = name->next)
        names++;
    seen.files = sim_allocate(files * sizeof *seen.files + 1);
    seen.names = sim_allocate(names * sizeof *seen.names + 1);
    for (struct sim_name *name = sim.names; name != NULL; name = name->next) {
        struct sim_file *both[] = {name->file, name->durable};
        for (int i = 0; i < 2; i++) {
            if (both[i] == NULL || place_of(&seen, both[i]) != 0)
                continue;
            sim_file_absorb(both[i]);
            seen.files[seen.file_count++] = (struct saved_file){.inode = both[i]->inode,
                                                                .permissions = both[i]->permissions,
                                                                .is_object = both[i]->is_object,
                                                                .content = both[i]->content};
        }
        seen.names[seen.name_count++] = (struct saved_name){.path = name->path,
                                                            .file = place_of(&seen, name->file),
                                                            .durable = place_of(&seen, name->durable),
                                                            .write = name->write};
    }
    seen.writes = sim.writes;
    struct os_sim_state *state = copy_state(&seen);
    free(seen.files);
    free(seen.names);
    return state;
}

struct os_sim_state *os_sim_save(void) {
    pthread_mutex_lock(&sim.mutex);
    struct os_sim_state *state = sim.cut ? copy_state(at_cut) : save();
    pthread_mutex_unlock(&sim.mutex);
    return state;
}

void os_sim_state_free(struct os_sim_state *state) {
    if (state == NULL)
        return;
    for (size_t i = 0; i < state->file_count; i++)
        sim_content_release(&state->files[i].content);
    for (size_t i = 0; i < state->name_count; i++)
        free(state->names[i].path);
    free(state->files);
    free(state->names);
    free(state);
}

uint64_t os_sim_state_pending(const struct os_sim_state *state) {
    uint64_t count = 0;
    for (size_t i = 0; i < state->file_count; i++)
        count += sim_content_pending(&state->files[i].content);
    for (size_t i = 0; i < state->name_count; i++)
        count += state->names[i].file != state->names[i].durable && !os_path_is_object(state->names[i].path);
    return count;
}

uint64_t os_sim_state_pending_in(const struct os_sim_state *state, const char *path, uint64_t offset, uint64_t length) {
    uint64_t count = 0;
    for (size_t i = 0; i < state->name_count; i++) {
        const struct saved_name *name = &state->names[i];
        if (name->file != 0 && strcmp(name->path, path) == 0)
            count += sim_content_pending_in(&state->files[name->file - 1].content, offset, length);
    }
    return count;
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

/* Forget all files, names and what is armed. Handles and mappings of before keep their own files until they are
 * closed. */
static void clear(void) {
    while (sim.names != NULL) {
        struct sim_name *name = sim.names;
        sim.names = name->next;
        sim_file_release(name->file);
        sim_file_release(name->durable);
        free(name->path);
        free(name);
    }
    sim.epoch++;
    sim.cut = false;
    sim.steps = sim.syncs = sim.failures = 0;
    sim.cut_in_steps = sim.cut_in_syncs = 0;
    memset(sim.faults, 0, sizeof sim.faults);
    sim.on_cut = NULL;
    sim.watcher = NULL;
    os_sim_state_free(at_cut);
    at_cut = NULL;
}

/* The page cache of a file that was not opened yet. */
static int make_cache(const struct sim_content *content) {
    int cache = memfd_create("os_sim", MFD_CLOEXEC);
    if (cache < 0 || ftruncate(cache, (off_t)content->size) != 0) {
        perror("os_sim: cannot make a memory file");
        abort();
    }
    for (size_t i = 0; i < content->bucket_count; i++) {
        for (const struct sim_page *page = content->buckets[i]; page != NULL; page = page->next) {
            unsigned char bytes[SIM_PAGE];
            uint64_t start = page->number * SIM_PAGE;
            if (start >= content->size)
                continue;
            size_t length = content->size - start < SIM_PAGE ? (size_t)(content->size - start) : SIM_PAGE;
            sim_content_read(content, start, bytes, length);
            if (pwrite(cache, bytes, length, (off_t)start) != (ssize_t)length) {
                perror("os_sim: cannot fill a memory file");
                abort();
            }
        }
    }
    return cache;
}

struct sim_file *sim_file_make(uint64_t inode, struct sim_content content, uint32_t permissions, bool is_object) {
    struct sim_file *file = sim_allocate(sizeof *file);
    file->inode = inode;
    file->permissions = permissions;
    file->is_object = is_object;
    file->content = content;
    file->cache = make_cache(&content);
    file->next = sim.files;
    sim.files = file;
    return file;
}

struct sim_name *sim_name_find(const char *path, bool make) {
    for (struct sim_name *name = sim.names; name != NULL; name = name->next) {
        if (strcmp(name->path, path) == 0)
            return name;
    }
    if (!make)
        return NULL;
    struct sim_name *name = sim_allocate(sizeof *name);
    name->path = sim_allocate(strlen(path) + 1);
    strcpy(name->path, path);
    name->next = sim.names;
    sim.names = name;
    return name;
}

void sim_name_set(struct sim_name *name, struct sim_file *file) {
    if (file != NULL) {
        file->references++;
        file->links++;
    }
    if (name->file != NULL)
        name->file->links--;
    sim_file_release(name->file);
    name->file = file;
    name->write = ++sim.writes;
}

void sim_name_sync(struct sim_name *name) {
    if (name->file != NULL)
        name->file->references++;
    sim_file_release(name->durable);
    name->durable = name->file;
}

/* Make the machine from a state that is given up. */
static void start(struct os_sim_state *state) {
    clear();
    sim.writes = state->writes;
    sim.now_ns = state->now_ns;
    sim.next_inode = state->next_inode;
    sim.boot = state->boot;
    struct sim_file **made = sim_allocate(state->file_count * sizeof *made + 1);
    for (size_t i = 0; i < state->file_count; i++) {
        const struct saved_file *saved = &state->files[i];
        made[i] = sim_file_make(saved->inode, saved->content, saved->permissions, saved->is_object);
        made[i]->references++; /* while we look whether anything names it */
        state->files[i].content = (struct sim_content){.buckets = NULL};
    }
    for (size_t i = 0; i < state->name_count; i++) {
        const struct saved_name *saved = &state->names[i];
        if (saved->file == 0 && saved->durable == 0)
            continue;
        struct sim_name *name = sim_name_find(saved->path, true);
        if (saved->durable != 0)
            sim_name_set(name, made[saved->durable - 1]);
        sim_name_sync(name);
        if (saved->file != saved->durable)
            sim_name_set(name, saved->file != 0 ? made[saved->file - 1] : NULL);
        name->write = saved->write;
    }
    for (size_t i = 0; i < state->file_count; i++)
        sim_file_release(made[i]);
    free(made);
    os_sim_state_free(state);
}

void os_sim_reset(uint64_t seed) {
    pthread_mutex_lock(&sim.mutex);
    clear();
    sim.random = seed;
    sim.now_ns = UINT64_C(1000000000);
    sim.writes = 0;
    sim.boot = sim.boots = 1;
    sim.clones = false;
    pthread_mutex_unlock(&sim.mutex);
}

const char *os_sim_policy_name(enum os_sim_policy policy) {
    static const char *const names[] = {"nothing", "everything", "prefix", "writes", "sectors", "torn", "garbled"};
    return policy < OS_SIM_POLICY_COUNT ? names[policy] : "unknown";
}

static struct os_sim_state *present_or(const struct os_sim_state *state) {
    return state != NULL ? copy_state(state) : sim.cut ? copy_state(at_cut) : save();
}

/* The write that OS_SIM_TORN tears; 0 if none has left several sectors of a page open. */
static uint64_t choose_torn_write(const struct os_sim_state *state, uint64_t seed) {
    uint64_t count = 0;
    for (size_t i = 0; i < state->file_count; i++)
        count += sim_content_wide_writes(&state->files[i].content);
    uint64_t which = count > 0 ? sim_random(&seed) % count : 0;
    for (size_t i = 0; i < state->file_count && count > 0; i++) {
        const uint64_t here = sim_content_wide_writes(&state->files[i].content);
        if (which < here)
            return sim_content_wide_write(&state->files[i].content, which);
        which -= here;
    }
    return 0;
}

/* Numbers of writes. */
struct writes {
    uint64_t *number;
    size_t count, capacity;
};

static void add_write(void *context, uint64_t write) {
    struct writes *writes = context;
    if (writes->count == writes->capacity) {
        const size_t capacity = 2 * writes->capacity + 64;
        uint64_t *number = sim_allocate(capacity * sizeof *number);
        for (size_t i = 0; i < writes->count; i++)
            number[i] = writes->number[i];
        free(writes->number);
        writes->number = number;
        writes->capacity = capacity;
    }
    writes->number[writes->count++] = write;
}

static int compare_writes(const void *a, const void *b) {
    const uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;
    return (first > second) - (first < second);
}

/* The write that OS_SIM_PREFIX is cut in: one of those that have left something open, and late ones rather than early
 * ones, because what nobody ever syncs (control) stays open for ever. 0 if there is none. */
static uint64_t choose_last_write(const struct os_sim_state *state, uint64_t seed) {
    struct writes writes = {.count = 0};
    for (size_t i = 0; i < state->name_count; i++)
        if (state->names[i].file != state->names[i].durable)
            add_write(&writes, state->names[i].write);
    for (size_t i = 0; i < state->file_count; i++)
        sim_content_open_writes(&state->files[i].content, add_write, &writes);
    size_t distinct = 0;
    if (writes.count > 0)
        qsort(writes.number, writes.count, sizeof *writes.number, compare_writes);
    for (size_t i = 0; i < writes.count; i++)
        if (i == 0 || writes.number[i] != writes.number[distinct - 1])
            writes.number[distinct++] = writes.number[i];
    const size_t at_most = distinct > 0 ? 1 + (size_t)(sim_random(&seed) % distinct) : 0;
    const uint64_t chosen = distinct > 0 ? writes.number[distinct - 1 - (size_t)(sim_random(&seed) % at_most)] : 0;
    free(writes.number);
    return chosen;
}

void os_sim_reboot(const struct os_sim_state *state, enum os_sim_policy policy, uint64_t seed) {
    pthread_mutex_lock(&sim.mutex);
    struct os_sim_state *image = present_or(state);
    struct sim_choice choice;
    sim_choice_draw(&choice, policy, seed);
    if (policy == OS_SIM_PREFIX)
        choice.last_write = choose_last_write(image, seed);
    if (policy == OS_SIM_TORN)
        choice.last_write = choose_torn_write(image, seed);
    image->boot = ++sim.boots;
    for (size_t i = 0; i < image->name_count; i++) {
        struct saved_name *name = &image->names[i];
        name->file = sim_choice_keeps(&choice, name->write) ? name->file : name->durable;
        if (os_path_is_object(name->path))
            name->file = 0;
        name->durable = name->file;
    }
    for (size_t i = 0; i < image->file_count; i++) {
        const struct sim_choice of_file = sim_choice_of_file(&choice, image->files[i].inode);
        sim_content_crash(&image->files[i].content, &of_file);
    }
    start(image);
    pthread_mutex_unlock(&sim.mutex);
}

void os_sim_kill(const struct os_sim_state *state) {
    pthread_mutex_lock(&sim.mutex);
    start(present_or(state));
    pthread_mutex_unlock(&sim.mutex);
}

static void show_in_cache(void *context, uint64_t offset, const unsigned char *bytes) {
    const struct sim_file *file = context;
    if (offset < file->content.size) {
        uint64_t rest = file->content.size - offset;
        size_t length = rest < OS_SIM_SECTOR ? (size_t)rest : OS_SIM_SECTOR;
        if (pwrite(file->cache, bytes, length, (off_t)offset) != (ssize_t)length)
            abort();
    }
}

void os_sim_evict(uint64_t seed) {
    pthread_mutex_lock(&sim.mutex);
    for (struct sim_file *file = sim.files; file != NULL; file = file->next) {
        sim_file_absorb(file);
        sim_content_evict(&file->content, seed, show_in_cache, file);
    }
    pthread_mutex_unlock(&sim.mutex);
}

/* ---- files by name ----------------------------------------------------------------------------------------------- */

static struct sim_file *file_at(const char *path) {
    struct sim_name *name = sim_name_find(path, false);
    return name != NULL ? name->file : NULL;
}

bool os_sim_exists(const char *path) {
    pthread_mutex_lock(&sim.mutex);
    bool exists = file_at(path) != NULL;
    pthread_mutex_unlock(&sim.mutex);
    return exists;
}

uint64_t os_sim_size(const char *path) {
    pthread_mutex_lock(&sim.mutex);
    const struct sim_file *file = file_at(path);
    uint64_t size = file != NULL ? file->content.size : 0;
    pthread_mutex_unlock(&sim.mutex);
    return size;
}

void os_sim_remove(const char *path) {
    pthread_mutex_lock(&sim.mutex);
    struct sim_name *name = sim_name_find(path, false);
    if (name != NULL) {
        sim_name_set(name, NULL);
        sim_name_sync(name);
    }
    pthread_mutex_unlock(&sim.mutex);
}

bool os_sim_read(const char *path, uint64_t offset, void *bytes, size_t length) {
    pthread_mutex_lock(&sim.mutex);
    const struct sim_file *file = file_at(path);
    bool read = file != NULL && pread(file->cache, bytes, length, (off_t)offset) == (ssize_t)length;
    pthread_mutex_unlock(&sim.mutex);
    return read;
}

bool os_sim_damage(const char *path, uint64_t offset, const void *bytes, size_t length) {
    pthread_mutex_lock(&sim.mutex);
    struct sim_file *file = file_at(path);
    bool fits = file != NULL && offset <= file->content.size && length <= file->content.size - offset;
    if (fits) {
        sim_file_absorb(file);
        sim_content_damage(&file->content, offset, bytes, length);
        fits = pwrite(file->cache, bytes, length, (off_t)offset) == (ssize_t)length;
    }
    pthread_mutex_unlock(&sim.mutex);
    return fits;
}

void os_sim_put(const char *path, const void *bytes, size_t length) {
    pthread_mutex_lock(&sim.mutex);
    struct sim_content content = {.buckets = NULL};
    sim_content_write(&content, ++sim.writes, 0, bytes, length);
    sim_content_sync(&content, 0, UINT64_MAX);
    struct sim_name *name = sim_name_find(path, true);
    sim_name_set(name, sim_file_make(sim.next_inode++, content, 0600, os_path_is_object(path)));
    sim_name_sync(name);
    pthread_mutex_unlock(&sim.mutex);
}
