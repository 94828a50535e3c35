/* SPDX-License-Identifier: MIT
 *
 * witness work DIRECTORY MARK SEED STEPS
 * witness judge DIRECTORY EXPECTED
 *
 * `work` makes maps in DIRECTORY and does by chance what makes something durable: durable commits, lazy ones and syncs,
 * checkpoints, growth, copies, new maps, maps put in the place of others, seals of a live map and syncs of a raw one.
 * Each time that the library has told that something is durable, it writes a line to MARK:
 *
 *     bank NAME GENERATION SEQUENCE   the map is at that generation or later, its writer at that number or later
 *     map NAME VERSION GENERATION     the map is there, made by that try and at that generation or later, or by a later
 *                                     try
 *     plain NAME NUMBER               each counter in the bytes is at that number or beyond
 *     gone NAME                       what was told of the name holds no more
 *
 * `judge` looks at what a power cut left in DIRECTORY: all that the lines of EXPECTED tell must be there, whole; and
 * what else is there, because it was being made, must be whole, too. A bank's map must then take another commit.
 */
#include <dirent.h>
#include <inttypes.h>
#include <unistd.h>

#include "support/bank.h"
#include "support/check.h"

#define COUNTERS 5u
#define COUNTER_SPACING 8192u
#define PLAIN_SIZE ((uint64_t)COUNTERS * COUNTER_SPACING)
#define NAMES 64u
#define NAME_SIZE 64u

struct line {
    char name[NAME_SIZE];
    char kind; /* the first letter of the line; 0: nothing was told of it */
    uint64_t first, second;
};

static char directory[512];

static char *in_directory(const char *name) {
    static char paths[4][600];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

__attribute__((format(printf, 2, 3))) static void require(int holds, const char *format, ...) {
    va_list arguments;
    if (holds)
        return;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, " (last error: %s)\n", km_last_error_detail());
    exit(1);
}

/* ---- working ----------------------------------------------------------------------------------------------------- */

struct worker {
    FILE *marks;
    struct chance chance;
    struct bank_worker durable, lazy;
    km_map *live, *raw;
    uint64_t copies, maps, replaced, counted;
};

__attribute__((format(printf, 2, 3))) static void mark(struct worker *worker, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(worker->marks, format, arguments);
    va_end(arguments);
    require(fflush(worker->marks) == 0, "a mark");
}

static void mark_bank(struct worker *worker, const struct bank_worker *bank, const char *name) {
    mark(worker, "bank %s %" PRIu64 " %" PRIu64 "\n", name, km_generation(bank->map),
         (uint64_t)bank->ledger->writers[0].acknowledged);
}

static km_map *open_bank(const char *name, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = flags};
    const int result = km_open(&map, in_directory(name), &options);
    require(result == 0, "%s cannot be opened: %s", name, km_error_name(result));
    return map;
}

static void make_bank(struct bank_worker *bank, const char *name, uint32_t flags, uint64_t seed,
                      struct bank_ledger *ledger) {
    const struct km_options options = {
        .struct_size = sizeof options, .journal_size = 65536, .max_size = BANK_MAX_SIZE, .flags = flags};
    *bank = (struct bank_worker){.ledger = ledger, .chance = {seed}};
    const int result = bank_create_open(&bank->map, in_directory(name), &options);
    require(result == 0, "%s cannot be made: %s", name, km_error_name(result));
}

static km_map *make_plain(const char *name, uint32_t mode) {
    km_map *map = NULL;
    const struct km_options options = {
        .struct_size = sizeof options, .size = PLAIN_SIZE, .mode = mode, .flags = KM_CREATE | KM_EXCLUSIVE};
    const int result = km_open(&map, in_directory(name), &options);
    require(result == 0, "%s cannot be made: %s", name, km_error_name(result));
    return map;
}

static uint64_t *counter_of(km_map *map, unsigned i) {
    return (uint64_t *)(void *)((char *)km_data(map) + (size_t)i * COUNTER_SPACING);
}

/* Raise all counters, with one map's name. */
static void count_on(struct worker *worker, km_map *map, const char *name) {
    worker->counted++;
    for (unsigned i = 0; i < COUNTERS; i++)
        *counter_of(map, i) = worker->counted;
    require(km_sync(map) == 0, "the sync of %s", name);
    mark(worker, "plain %s %" PRIu64 "\n", name, worker->counted);
}

/* A small map whose schema version says which try made it, and whose one commit says so again. */
static void make_map(struct worker *worker, const char *name, uint64_t version) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = KM_PAGE_SIZE,
                                       .schema = "version",
                                       .schema_version = (uint32_t)version,
                                       .flags = KM_CREATE | KM_REPLACE};
    require(km_open(&map, in_directory(name), &options) == 0, "%s cannot be made", name);
    mark(worker, "map %s %" PRIu64 " 0\n", name, version);
    require(km_begin(map, KM_WRITE) == 0, "a transaction in %s", name);
    memset(km_data(map), (int)(version & 0x7f) + 1, KM_PAGE_SIZE);
    require(km_commit(map) == 0, "a commit in %s", name);
    mark(worker, "map %s %" PRIu64 " 1\n", name, version);
    require(km_close(map) == 0, "the end of %s", name);
}

static void do_one(struct worker *worker) {
    struct bank_worker *durable = &worker->durable, *lazy = &worker->lazy;
    const uint64_t pick = chance_below(&worker->chance, 100);
    char name[NAME_SIZE];
    if (pick < 40) {
        require(bank_commit(durable) == 0, "%s", durable->why);
        mark_bank(worker, durable, "durable.km");
    } else if (pick < 65) {
        require(bank_commit(lazy) == 0, "%s", lazy->why);
    } else if (pick < 72) {
        require(km_sync(lazy->map) == 0, "a sync");
        mark_bank(worker, lazy, "lazy.km");
    } else if (pick < 76) {
        require(km_checkpoint(chance_percent(&worker->chance, 50) ? durable->map : lazy->map) == 0, "a checkpoint");
    } else if (pick < 79) {
        require(bank_grow(durable) == 0 && bank_look(durable, 0) == 0, "%s", durable->why);
        mark_bank(worker, durable, "durable.km");
    } else if (pick < 82) {
        snprintf(name, sizeof name, "copy-%" PRIu64 ".km", worker->copies++ % 8);
        mark(worker, "gone %s\n", name);
        remove(in_directory(name));
        require(km_copy(durable->map, in_directory(name)) == 0, "a copy");
        mark_bank(worker, durable, name);
    } else if (pick < 85) {
        snprintf(name, sizeof name, "new-%" PRIu64 ".km", ++worker->maps % 8);
        make_map(worker, name, worker->maps);
    } else if (pick < 88) {
        make_map(worker, "replaced.km", ++worker->replaced);
    } else if (pick < 92) {
        count_on(worker, worker->live, "live.km");
    } else if (pick < 96) {
        count_on(worker, worker->raw, "raw.bin");
    } else if (pick < 98) {
        require(km_close(durable->map) == 0, "a close");
        durable->map = open_bank("durable.km", 0);
        require(bank_look(durable, 0) == 0, "%s", durable->why);
    } else {
        require(km_close(lazy->map) == 0, "a close");
        lazy->map = open_bank("lazy.km", KM_LAZY);
        require(bank_look(lazy, 0) == 0, "%s", lazy->why);
    }
}

static int work(const char *marks, uint64_t seed, uint64_t steps) {
    static struct bank_ledger ledgers[2];
    struct worker worker = {.marks = fopen(marks, "w"), .chance = {seed}};
    require(worker.marks != NULL, "%s cannot be opened", marks);
    make_bank(&worker.durable, "durable.km", 0, chance_next(&worker.chance), &ledgers[0]);
    make_bank(&worker.lazy, "lazy.km", KM_LAZY, chance_next(&worker.chance), &ledgers[1]);
    worker.live = make_plain("live.km", KM_LIVE);
    worker.raw = make_plain("raw.bin", KM_RAW);
    mark(&worker, "ready\n");
    mark_bank(&worker, &worker.durable, "durable.km");
    mark(&worker, "plain live.km 0\n");
    mark(&worker, "plain raw.bin 0\n");
    for (uint64_t step = 0; step < steps; step++)
        do_one(&worker);
    require(km_close(worker.durable.map) == 0 && km_close(worker.lazy.map) == 0 && km_close(worker.live) == 0 &&
                km_close(worker.raw) == 0,
            "the last close");
    printf("%u steps, %" PRIu64 " copies, %" PRIu64 " new maps, %" PRIu64 " replaced, %" PRIu64 " growths\n",
           (unsigned)steps, worker.copies, worker.maps, worker.replaced, (uint64_t)ledgers[0].steps);
    return 0;
}

/* ---- judging ----------------------------------------------------------------------------------------------------- */

static struct line lines[NAMES];

static struct line *line_of(const char *name) {
    for (unsigned i = 0; i < NAMES; i++) {
        if (lines[i].name[0] == '\0')
            snprintf(lines[i].name, sizeof lines[i].name, "%s", name);
        if (strcmp(lines[i].name, name) == 0)
            return &lines[i];
    }
    require(0, "too many names");
    return NULL;
}

/* The last line of a name counts. */
static void read_expected(const char *path) {
    char text[300];
    FILE *file = fopen(path, "r");
    require(file != NULL, "%s cannot be read", path);
    while (fgets(text, sizeof text, file) != NULL) {
        char kind[16] = "", name[NAME_SIZE] = "";
        unsigned long long first = 0, second = 0;
        const int fields = sscanf(text, "%15s %63s %llu %llu", kind, name, &first, &second);
        if (fields < 2)
            continue;
        struct line *line = line_of(name);
        line->kind = strcmp(kind, "gone") == 0 ? 0 : kind[0];
        line->first = first;
        line->second = second;
    }
    fclose(file);
}

static km_map *open_to_judge(const char *name, uint32_t flags, uint32_t mode) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = flags, .mode = mode};
    const int result = km_open(&map, in_directory(name), &options);
    require(result == 0, "%s cannot be opened: %s", name, km_error_name(result));
    return map;
}

static void judge_bank(const struct line *line) {
    static struct bank_ledger ledger;
    memset(&ledger, 0, sizeof ledger);
    ledger.generation_seen = line->first;
    ledger.writers[0].acknowledged = line->second;
    ledger.writers[0].attempted = UINT64_MAX;
    struct bank_worker worker = {.ledger = &ledger, .chance = {line->first + 1}};
    worker.map = open_to_judge(line->name, 0, 0);
    if (line->kind == 0 && km_generation(worker.map) == 0) { /* it was being made */
        require(km_close(worker.map) == 0, "%s", line->name);
        return;
    }
    require(bank_look(&worker, 0) == 0 && bank_verify(&worker) == 0 && bank_commit(&worker) == 0, "%s: %s", line->name,
            worker.why);
    require(km_close(worker.map) == 0, "the close of %s", line->name);
    worker.map = open_to_judge(line->name, KM_READONLY, 0);
    require(bank_look(&worker, 0) == 0 && bank_verify(&worker) == 0, "%s, read-only: %s", line->name, worker.why);
    require(km_close(worker.map) == 0, "the close of %s", line->name);
}

static void judge_map(const struct line *line) {
    km_map *map = open_to_judge(line->name, 0, 0);
    struct km_info info = {.struct_size = sizeof info};
    require(km_get_info(map, &info) == 0, "%s", line->name);
    require(info.schema_version >= line->first, "%s is of try %u, but %" PRIu64 " had been told", line->name,
            info.schema_version, line->first);
    require(km_begin(map, KM_READ) == 0, "%s", line->name);
    require(info.schema_version > line->first || km_generation(map) >= line->second, "%s has lost its commit",
            line->name);
    const unsigned char *bytes = km_data(map);
    const int expected = km_generation(map) == 0 ? 0 : (int)(info.schema_version & 0x7f) + 1;
    for (unsigned i = 0; i < KM_PAGE_SIZE; i++)
        require(bytes[i] == expected, "%s: byte %u is %d, not %d", line->name, i, bytes[i], expected);
    require(km_abort(map) == 0 && km_close(map) == 0, "%s", line->name);
}

static void judge_plain(const struct line *line) {
    const bool raw = strcmp(line->name, "raw.bin") == 0;
    km_map *map = open_to_judge(line->name, 0, raw ? KM_RAW : 0);
    require(km_size(map) == PLAIN_SIZE, "%s has %" PRIu64 " bytes", line->name, km_size(map));
    for (unsigned i = 0; i < COUNTERS; i++)
        require(*counter_of(map, i) >= line->first, "%s: counter %u is %" PRIu64 ", but %" PRIu64 " had been told",
                line->name, i, *counter_of(map, i), line->first);
    require(km_close(map) == 0, "%s", line->name);
}

/* What is there without having been told of is judged as what its name says. */
static void judge_one(const struct line *line) {
    if (strcmp(line->name, "live.km") == 0 || strcmp(line->name, "raw.bin") == 0)
        judge_plain(line);
    else if (strncmp(line->name, "new-", 4) == 0 || strcmp(line->name, "replaced.km") == 0)
        judge_map(line);
    else
        judge_bank(line);
}

static int judge(const char *expected) {
    unsigned told = 0, others = 0;
    read_expected(expected);
    DIR *names = opendir(directory);
    require(names != NULL, "%s cannot be listed", directory);
    for (const struct dirent *entry = readdir(names); entry != NULL; entry = readdir(names)) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "lost+found") == 0)
            continue;
        const struct line *line = line_of(entry->d_name);
        others += line->kind == 0;
        if (line->kind == 0)
            judge_one(line);
    }
    closedir(names);
    for (const struct line *line = lines; line < lines + NAMES && line->name[0] != '\0'; line++) {
        told += line->kind != 0;
        if (line->kind != 0)
            judge_one(line);
    }
    printf("%u maps that had been told of, %u others\n", told, others);
    return told > 0 ? 0 : 1;
}

int main(int count, char **arguments) {
    if (count > 2)
        snprintf(directory, sizeof directory, "%s", arguments[2]);
    if (count == 6 && strcmp(arguments[1], "work") == 0)
        return work(arguments[3], strtoull(arguments[4], NULL, 10), strtoull(arguments[5], NULL, 10));
    if (count == 4 && strcmp(arguments[1], "judge") == 0)
        return judge(arguments[3]);
    fprintf(stderr, "usage: witness work DIRECTORY MARK SEED STEPS | judge DIRECTORY EXPECTED\n");
    return 2;
}
