/* SPDX-License-Identifier: MIT
 *
 * What a commit costs, beside what the disk itself costs: bench [--json] [--quick]
 *
 * A map of 256 MiB holds records of 64 bytes; k random records are changed by 8 bytes each in one commit. The
 *   yardsticks: raw    one pwrite() of the changed bytes and fdatasync(), into a file that is preallocated and written
 *   before; msync  the same k stores to a shared mapping of a file, and msync() of the pages that they touch (not
 *   atomic).
 * All methods take turns, round by round, so that a drift of the machine meets all of them. Medians are reported, and
 * the targets of the project's specification beside them.
 *
 * BENCH_DIR says where (default: a directory made beside the program). It must be a real disk for the durable rows to
 * mean anything. What is measured is never asserted: the exit status is 0 unless something did not work.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "keepmap.h"
#include "results.h"

#define RECORD 64u
#define CHANGE 8u
#define TMPFS_TYPE 0x01021994

static char directory[512];
static uint64_t map_size = UINT64_C(256) << 20;
static uint64_t large_size = UINT64_C(1) << 30;
static bool quick, json;
static const char *notes[8];
static size_t note_count;
static uint64_t random_state = 88172645463325252u;

enum { RAW, MSYNC, DURABLE_DECLARED, DURABLE_SCANNED, LAZY_DECLARED, LAZY_SCANNED, METHODS };

static const char *const method_names[METHODS] = {"raw: pwrite, fdatasync", "msync of the pages, not atomic",
                                                  "durable, declared",      "durable, found by search",
                                                  "lazy, declared",         "lazy, found by search"};
static const uint32_t method_flags[METHODS] = {0, 0, KM_DECLARED, 0, KM_DECLARED | KM_LAZY, KM_LAZY};

struct method {
    km_map *map;
    int file;             /* raw, msync */
    unsigned char *bytes; /* msync */
    uint64_t position;    /* raw */
    struct samples total, commit;
};

/* ---- helpers ----------------------------------------------------------------------------------------------------- */

static const char *path_of(const char *name) {
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static void remove_files(void) {
    static const char *const names[] = {"raw", "msync", "map-2", "map-3", "map-4", "map-5", "large", "memory"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        unlink(path_of(names[i]));
    }
    rmdir(directory);
}

static void give_up(const char *what, const char *why) {
    fprintf(stderr, "bench: %s: %s\n", what, why);
    exit(1);
}

static void must(const char *what, int result) {
    if (result != 0) {
        fprintf(stderr, "bench: %s: %s: %s\n", what, km_error_message(result), km_last_error_detail());
        exit(1);
    }
}

static uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* The offsets of k changes, in ascending order as a program that goes over its records would make them. */
static void choose(uint64_t *offsets, unsigned k, uint64_t size) {
    for (unsigned i = 0; i < k; i++) {
        offsets[i] = next_random() % (size / RECORD) * RECORD;
    }
}

static km_map *open_map(const char *name, uint64_t size, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = size, .flags = (flags & KM_READONLY) != 0 ? flags : KM_CREATE | flags};
    must(name, km_open(&map, path_of(name), &options));
    return map;
}

/* Every page holds something and has been looked at, as in a program that has been at work for a while. */
static void fill_map(km_map *map, uint64_t size) {
    const uint64_t piece = UINT64_C(4) << 20;
    for (uint64_t offset = 0; offset < size; offset += piece) {
        const uint64_t length = size - offset < piece ? size - offset : piece;
        must("km_begin", km_begin(map, KM_WRITE));
        must("km_touch", km_touch(map, offset, length));
        memset((unsigned char *)km_data(map) + offset, (int)(offset >> 22 | 1), length);
        must("km_commit", km_commit(map));
    }
    must("km_checkpoint", km_checkpoint(map));
}

static void read_all(km_map *map, uint64_t size) {
    must("km_begin", km_begin(map, KM_READ));
    const volatile unsigned char *data = km_data(map);
    for (uint64_t offset = 0; offset < size; offset += KM_PAGE_SIZE) {
        (void)data[offset];
    }
    must("km_abort", km_abort(map));
}

static void open_file(struct method *method, const char *name, uint64_t size) {
    static unsigned char block[1 << 20];
    memset(block, 0x5a, sizeof block);
    method->file = open(path_of(name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (method->file < 0 || posix_fallocate(method->file, 0, (off_t)size) != 0) {
        give_up(name, strerror(errno));
    }
    for (uint64_t offset = 0; offset < size; offset += sizeof block) {
        if (pwrite(method->file, block, sizeof block, (off_t)offset) != (ssize_t)sizeof block) {
            give_up(name, strerror(errno));
        }
    }
    if (fsync(method->file) != 0) {
        give_up(name, strerror(errno));
    }
}

/* ---- commits ----------------------------------------------------------------------------------------------------- */

static void round_raw(struct method *method, const uint64_t *offsets, unsigned k) {
    static unsigned char changes[1024 * CHANGE];
    const uint64_t start = clock_ns();
    for (unsigned i = 0; i < k; i++) {
        memcpy(changes + i * CHANGE, &offsets[i], CHANGE);
    }
    const size_t length = (size_t)k * CHANGE;
    if (pwrite(method->file, changes, length, (off_t)method->position) != (ssize_t)length ||
        fdatasync(method->file) != 0) {
        give_up("raw", strerror(errno));
    }
    samples_add(&method->total, clock_ns() - start);
    method->position = (method->position + length) % ((UINT64_C(8) << 20) - sizeof changes);
}

static void round_msync(struct method *method, const uint64_t *offsets, unsigned k) {
    const uint64_t start = clock_ns();
    for (unsigned i = 0; i < k; i++) {
        ++*(uint64_t *)(void *)(method->bytes + offsets[i]);
    }
    for (unsigned i = 0; i < k; i++) {
        if (msync(method->bytes + offsets[i] / KM_PAGE_SIZE * KM_PAGE_SIZE, KM_PAGE_SIZE, MS_SYNC) != 0) {
            give_up("msync", strerror(errno));
        }
    }
    samples_add(&method->total, clock_ns() - start);
}

static void round_keepmap(struct method *method, const uint64_t *offsets, unsigned k, bool declares) {
    const uint64_t start = clock_ns();
    must("km_begin", km_begin(method->map, KM_WRITE));
    unsigned char *data = km_data(method->map);
    for (unsigned i = 0; i < k; i++) {
        if (declares) {
            must("km_touch", km_touch(method->map, offsets[i], CHANGE));
        }
        ++*(uint64_t *)(void *)(data + offsets[i]);
    }
    const uint64_t stored = clock_ns();
    must("km_commit", km_commit(method->map));
    const uint64_t end = clock_ns();
    samples_add(&method->total, end - start);
    samples_add(&method->commit, end - stored);
}

static void prepare_methods(struct method methods[METHODS]) {
    open_file(&methods[RAW], "raw", UINT64_C(8) << 20);
    open_file(&methods[MSYNC], "msync", map_size);
    methods[MSYNC].bytes = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED, methods[MSYNC].file, 0);
    if (methods[MSYNC].bytes == MAP_FAILED) {
        give_up("mmap", strerror(errno));
    }
    for (int which = DURABLE_DECLARED; which < METHODS; which++) {
        char name[16];
        snprintf(name, sizeof name, "map-%d", which);
        km_map *map = open_map(name, map_size, KM_LAZY | KM_DECLARED);
        fill_map(map, map_size);
        must("km_close", km_close(map));
        methods[which].map = open_map(name, map_size, method_flags[which]);
        read_all(methods[which].map, map_size);
    }
}

/* The targets: the prototype's figures times 1.3. */
static double target_of(int which, unsigned k, bool *is_ratio) {
    *is_ratio = true;
    if (which == DURABLE_DECLARED && k == 1) {
        return 1.1 * 1.3;
    }
    if (which == DURABLE_SCANNED && k == 64) {
        return 5 * 1.3;
    }
    *is_ratio = false;
    return which == LAZY_DECLARED && k == 1 ? 7 * 1.3 : -1;
}

static void report_method(struct method *method, int which, unsigned k, double raw_ns) {
    const double median = (double)samples_percentile(&method->total, 50);
    struct result result = {.changes = k,
                            .unit = "us",
                            .value = median / 1000,
                            .high = (double)samples_percentile(&method->total, 99) / 1000,
                            .ratio = median / raw_ns};
    snprintf(result.name, sizeof result.name, "%s", method_names[which]);
    result.target = target_of(which, k, &result.target_is_ratio);
    results_add(&result);
    if (which == LAZY_DECLARED && k == 1) {
        struct result part = {.changes = k,
                              .unit = "us",
                              .value = (double)samples_percentile(&method->commit, 50) / 1000,
                              .high = (double)samples_percentile(&method->commit, 99) / 1000,
                              .ratio = -1,
                              .target = 4 * 1.3};
        snprintf(part.name, sizeof part.name, "%s, km_commit() alone", method_names[which]);
        results_add(&part);
    }
}

static int last_frame_bytes(void *context, const struct km_log_entry *entry) {
    *(uint64_t *)context = entry->frame_bytes;
    return 0;
}

static void measure_commits(struct method methods[METHODS], unsigned k) {
    static uint64_t offsets[1024];
    const unsigned rounds = quick ? 20 : k == 1024 ? 60 : 300;
    const unsigned msync_rounds = k == 1024 ? 4 : k == 64 ? 30 : rounds;
    const unsigned lazy_commits = k == 1024 ? 1 : 10; /* in a row: nothing waits for the disk between them */
    for (unsigned round = 0; round < rounds; round++) {
        for (int which = 0; which < METHODS; which++) {
            choose(offsets, k, map_size);
            if (which == RAW) {
                round_raw(&methods[which], offsets, k);
            } else if (which == MSYNC) {
                if (round < msync_rounds) {
                    round_msync(&methods[which], offsets, k);
                }
            } else {
                const unsigned commits = (method_flags[which] & KM_LAZY) != 0 ? lazy_commits : 1;
                for (unsigned i = 0; i < commits; i++) {
                    round_keepmap(&methods[which], offsets, k, (method_flags[which] & KM_DECLARED) != 0);
                    choose(offsets, k, map_size);
                }
            }
        }
    }
    const double raw_ns = (double)samples_percentile(&methods[RAW].total, 50);
    for (int which = 0; which < METHODS; which++) {
        report_method(&methods[which], which, k, raw_ns);
        samples_release(&methods[which].total);
        samples_release(&methods[which].commit);
    }
    uint64_t bytes = 0;
    must("km_log", km_log(methods[DURABLE_SCANNED].map, last_frame_bytes, &bytes));
    const struct result result = {.name = "journal, one commit",
                                  .changes = k,
                                  .unit = "bytes",
                                  .value = (double)bytes,
                                  .high = -1,
                                  .ratio = -1,
                                  .target = 128 + 24.0 * k};
    results_add(&result);
}

static void close_methods(struct method methods[METHODS]) {
    munmap(methods[MSYNC].bytes, map_size);
    close(methods[MSYNC].file);
    close(methods[RAW].file);
    for (int which = DURABLE_DECLARED; which < METHODS; which++) {
        must("km_close", km_close(methods[which].map));
    }
}

/* ---- reads, opens, memory ---------------------------------------------------------------------------------------- */

static void report(const char *name, const char *unit, double scale, struct samples *samples, double target) {
    struct result result = {.unit = unit,
                            .value = (double)samples_percentile(samples, 50) / scale,
                            .high = (double)samples_percentile(samples, 99) / scale,
                            .ratio = -1,
                            .target = target};
    snprintf(result.name, sizeof result.name, "%s", name);
    results_add(&result);
    samples_release(samples);
}

static void measure_reads(const char *name, uint32_t flags, double target) {
    enum { BATCH = 1000 };
    km_map *map = open_map("map-2", map_size, flags);
    struct samples samples = {0};
    for (unsigned round = 0; round < (quick ? 50u : 400u); round++) {
        const uint64_t start = clock_ns();
        for (unsigned i = 0; i < BATCH; i++) {
            if (km_begin(map, KM_READ) != 0 || km_abort(map) != 0) {
                give_up("a read", km_last_error_detail());
            }
        }
        samples_add(&samples, clock_ns() - start);
    }
    report(name, "ns", BATCH, &samples, target);
    must("km_close", km_close(map));
}

static void measure_refresh(void) {
    km_map *writer = open_map("map-2", map_size, KM_DECLARED | KM_LAZY);
    km_map *reader = open_map("map-2", map_size, 0);
    struct samples samples = {0};
    for (unsigned round = 0; round < (quick ? 50u : 1000u); round++) {
        uint64_t offset;
        choose(&offset, 1, map_size);
        must("km_begin", km_begin(writer, KM_WRITE));
        must("km_touch", km_touch(writer, offset, CHANGE));
        ++*(uint64_t *)(void *)((unsigned char *)km_data(writer) + offset);
        must("km_commit", km_commit(writer));
        const uint64_t start = clock_ns();
        must("km_begin", km_begin(reader, KM_READ));
        samples_add(&samples, clock_ns() - start);
        must("km_abort", km_abort(reader));
    }
    report("refresh after a commit to one page", "us", 1000, &samples, -1);
    must("km_close", km_close(reader));
    must("km_close", km_close(writer));
}

static void measure_open(void) {
    km_map *map = open_map("large", large_size, KM_LAZY | KM_DECLARED);
    fill_map(map, large_size / 8);
    must("km_close", km_close(map));
    struct samples opens = {0}, closes = {0};
    for (unsigned round = 0; round < (quick ? 10u : 100u); round++) {
        const uint64_t start = clock_ns();
        map = open_map("large", 0, 0);
        const uint64_t opened = clock_ns();
        must("km_close", km_close(map));
        samples_add(&opens, opened - start);
        samples_add(&closes, clock_ns() - opened);
    }
    report(quick ? "open a cleanly closed map of 64 MiB" : "open a cleanly closed map of 1 GiB", "us", 1000, &opens,
           1000);
    report("close it", "us", 1000, &closes, -1);
}

/* Bytes of private memory, from /proc/self/status. */
static uint64_t private_bytes(void) {
    FILE *status = fopen("/proc/self/status", "re");
    char line[128];
    unsigned long long kilobytes = 0;
    while (status != NULL && fgets(line, sizeof line, status) != NULL) {
        if (sscanf(line, "RssAnon: %llu kB", &kilobytes) == 1) {
            break;
        }
    }
    if (status != NULL) {
        fclose(status);
    }
    return (uint64_t)kilobytes << 10;
}

static void report_memory(const char *name, uint64_t before, uint64_t pages, double target) {
    const uint64_t after = private_bytes();
    struct result result = {.unit = "pages",
                            .value = (double)(after > before ? after - before : 0) / (double)(pages * KM_PAGE_SIZE),
                            .high = -1,
                            .ratio = -1,
                            .target = target};
    snprintf(result.name, sizeof result.name, "%s", name);
    results_add(&result);
}

/* What a handle holds for a page that it has patched: the copy itself, and for a writer its committed image. */
static void measure_memory(void) {
    const uint64_t pages = quick ? 1024 : 4096;
    km_map *writer = open_map("memory", UINT64_C(64) << 20, KM_DECLARED | KM_LAZY);
    fill_map(writer, UINT64_C(64) << 20);
    must("km_close", km_close(writer));
    writer = open_map("memory", 0, KM_DECLARED | KM_LAZY);
    must("km_begin", km_begin(writer, KM_WRITE));
    must("km_abort", km_abort(writer));
    km_map *reader = open_map("memory", 0, 0);
    must("km_begin", km_begin(reader, KM_READ));
    must("km_abort", km_abort(reader));
    uint64_t before = private_bytes();
    must("km_begin", km_begin(writer, KM_WRITE));
    for (uint64_t page = 0; page < pages; page++) {
        must("km_touch", km_touch(writer, page * KM_PAGE_SIZE, CHANGE));
        ++*(uint64_t *)(void *)((unsigned char *)km_data(writer) + page * KM_PAGE_SIZE);
    }
    must("km_commit", km_commit(writer));
    report_memory("memory of a writer, per patched page", before, pages, 2.3);
    before = private_bytes();
    must("km_begin", km_begin(reader, KM_READ));
    report_memory("memory of a reader, per patched page", before, pages, 1.15);
    must("km_abort", km_abort(reader));
    must("km_close", km_close(reader));
    must("km_close", km_close(writer));
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static void make_directory(void) {
    const char *given = getenv("BENCH_DIR");
    if (given != NULL && given[0] != '\0') {
        snprintf(directory, sizeof directory, "%s/keepmap-bench-XXXXXX", given);
    } else {
        char program[400];
        const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
        if (length <= 0) {
            give_up("/proc/self/exe", "set BENCH_DIR to a directory on a disk");
        }
        program[length] = '\0';
        *strrchr(program, '/') = '\0';
        snprintf(directory, sizeof directory, "%s/keepmap-bench-XXXXXX", program);
    }
    if (mkdtemp(directory) == NULL) {
        give_up(directory, strerror(errno));
    }
    atexit(remove_files);
    struct statfs status;
    if (statfs(directory, &status) == 0 && status.f_type == TMPFS_TYPE) {
        notes[note_count++] =
            "Warning: this directory is in memory, not on a disk: the durable rows mean nothing. Set BENCH_DIR.";
    }
}

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++) {
        json = json || strcmp(arguments[i], "--json") == 0;
        quick = quick || strcmp(arguments[i], "--quick") == 0;
        if (strcmp(arguments[i], "--json") != 0 && strcmp(arguments[i], "--quick") != 0) {
            fprintf(stderr, "usage: bench [--json] [--quick]\n");
            return 2;
        }
    }
    if (quick) {
        map_size = UINT64_C(16) << 20;
        large_size = UINT64_C(64) << 20;
    }
    make_directory();
    notes[note_count++] = quick ? "A map of 16 MiB (quick), records of 64 bytes, 8 bytes changed in each of k records."
                                : "A map of 256 MiB, records of 64 bytes, 8 bytes changed in each of k records.";
    static struct method methods[METHODS];
    prepare_methods(methods);
    struct km_info info = {.struct_size = sizeof info};
    static const unsigned counts[] = {1, 8, 64, 1024};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        measure_commits(methods, counts[i]);
    }
    must("km_get_info", km_get_info(methods[DURABLE_SCANNED].map, &info));
    static char tracker[64];
    snprintf(tracker, sizeof tracker, "Changed pages are found by: %s.", info.tracker);
    notes[note_count++] = tracker;
    notes[note_count++] = "Methods take turns; lazy ones commit ten times in a turn (once for k = 1024).";
    close_methods(methods);
    measure_reads("begin and end an unchanged read", 0, 200);
    measure_reads("the same without write permission", KM_READONLY, -1);
    measure_refresh();
    measure_open();
    measure_memory();
    results_print(json, notes, note_count);
    return 0;
}
