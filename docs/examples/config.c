/* SPDX-License-Identifier: MIT
 *
 * A configuration that programs share: one changes it, the others notice at once.
 *
 *     config FILE set KEY VALUE       creates FILE if need be
 *     config FILE get KEY
 *     config FILE watch [COUNT]       prints the configuration now and after each change, COUNT times in all
 *
 * The map is transactional. Who reads sees a whole configuration, never one that is half changed, and who changes it
 * may be killed at any moment: its change is there, or not at all. A watcher sleeps in km_wait() until somebody
 * commits. It has no permission to write, so it can harm nothing, and any number of them can watch. Changes that come
 * quickly one after the other may be joined: a watcher shows what is newest, and every configuration that it shows was
 * committed so.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keepmap.h"

enum { ENTRIES = 64, KEY_SIZE = 32, VALUE_SIZE = 96 };

/* What the map holds. A new map is all zero: no entry has a key. Texts end with a NUL. Whoever changes this structure
 * raises SCHEMA_VERSION, so that programs that know another one are refused instead of misled. */
struct config {
    struct {
        char key[KEY_SIZE];
        char value[VALUE_SIZE];
    } entry[ENTRIES];
};

#define SCHEMA "example-config"
#define SCHEMA_VERSION 1

static int usage(void) {
    fprintf(stderr, "usage: config FILE set KEY VALUE | get KEY | watch [COUNT]\n");
    return 2;
}

static int fail(void) {
    fprintf(stderr, "config: %s\n", km_last_error_detail());
    return 1;
}

static int open_map(km_map **map, const char *path, uint32_t flags) {
    /* With KM_GUARD a file that somebody cuts short is an error of the next call, and not a signal. */
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = sizeof(struct config),
                                       .flags = flags | KM_GUARD,
                                       .schema = SCHEMA,
                                       .schema_version = SCHEMA_VERSION};
    return km_open(map, path, &options);
}

/* A private copy of the newest configuration, and its generation. What km_abort() returns tells whether it is good. */
static int take(km_map *map, struct config *config, uint64_t *generation) {
    int result = km_begin(map, KM_READ);
    if (result != 0)
        return result;
    memcpy(config, km_data(map), sizeof *config);
    *generation = km_generation(map);
    for (int i = 0; i < ENTRIES; i++) /* whatever another program put there, it ends */
        config->entry[i].key[KEY_SIZE - 1] = config->entry[i].value[VALUE_SIZE - 1] = '\0';
    return km_abort(map);
}

/* The entry with this key, else a free one, else -1. */
static int find(const struct config *config, const char *key, bool or_free) {
    for (int i = 0; i < ENTRIES; i++)
        if (strncmp(config->entry[i].key, key, KEY_SIZE) == 0)
            return i;
    for (int i = 0; or_free && i < ENTRIES; i++)
        if (config->entry[i].key[0] == '\0')
            return i;
    return -1;
}

static int set(km_map *map, const char *key, const char *value) {
    if (key[0] == '\0' || strlen(key) >= KEY_SIZE || strlen(value) >= VALUE_SIZE) {
        fprintf(stderr, "config: a key has 1 to %d bytes, a value up to %d\n", KEY_SIZE - 1, VALUE_SIZE - 1);
        return 2;
    }
    if (km_begin(map, KM_WRITE) != 0)
        return fail();
    struct config *config = km_data(map);
    const int i = find(config, key, true);
    if (i < 0) {
        fprintf(stderr, "config: all %d entries are taken\n", ENTRIES);
        return 1; /* km_close() aborts what is open */
    }
    strncpy(config->entry[i].key, key, KEY_SIZE);
    strncpy(config->entry[i].value, value, VALUE_SIZE); /* fills up with zeros */
    return km_commit(map) == 0 ? 0 : fail();            /* on the disk, and every watcher wakes */
}

static int get(km_map *map, const char *key) {
    struct config config;
    uint64_t generation;
    if (take(map, &config, &generation) != 0)
        return fail();
    const int i = key[0] == '\0' ? -1 : find(&config, key, false);
    if (i >= 0)
        puts(config.entry[i].value);
    return i >= 0 ? 0 : 1;
}

static void print(const struct config *config, uint64_t generation) {
    printf("configuration %" PRIu64 "\n", generation);
    for (int i = 0; i < ENTRIES; i++)
        if (config->entry[i].key[0] != '\0')
            printf("  %s = %s\n", config->entry[i].key, config->entry[i].value);
    fflush(stdout);
}

/* `count` 0: for ever. */
static int watch(km_map *map, uint64_t count) {
    struct config config;
    uint64_t generation = 0;
    for (uint64_t printed = 0;;) {
        if (take(map, &config, &generation) != 0)
            return fail();
        print(&config, generation);
        if (ferror(stdout) || ++printed == count)
            return ferror(stdout) ? 1 : 0;
        /* The next commit after the one that was shown, also if it was made before this call. */
        if (km_wait(map, generation, UINT32_MAX, NULL) != 0)
            return fail();
    }
}

static bool is_number(const char *text, uint64_t *number) {
    char *end;
    errno = 0;
    *number = strtoull(text, &end, 10);
    return errno == 0 && text[0] >= '0' && text[0] <= '9' && *end == '\0' && *number > 0;
}

int main(int argc, char **argv) {
    const char *verb = argc > 2 ? argv[2] : "";
    const bool setting = strcmp(verb, "set") == 0 && argc == 5, getting = strcmp(verb, "get") == 0 && argc == 4;
    const bool watching = strcmp(verb, "watch") == 0 && (argc == 3 || argc == 4);
    uint64_t count = 0;
    if ((!setting && !getting && !watching) || (watching && argc == 4 && !is_number(argv[3], &count)))
        return usage();

    km_map *map = NULL;
    if (open_map(&map, argv[1], setting ? KM_CREATE : KM_READONLY) != 0)
        return fail();
    int status = 1;
    if (km_size(map) < sizeof(struct config)) /* a map of this schema that another program made; maps never shrink */
        fprintf(stderr, "config: %s is too small for a configuration\n", argv[1]);
    else
        status = setting ? set(map, argv[3], argv[4]) : getting ? get(map, argv[3]) : watch(map, count);
    if (km_close(map) != 0 && status == 0)
        return fail();
    return status == 0 && fflush(stdout) != 0 ? 1 : status;
}
