/* SPDX-License-Identifier: MIT
 *
 * A process that has a map open while a command-line test looks at it from outside.
 *
 *     tool_hold TARGET WORD...
 *
 * The words are done in order: `readonly`, `lazy` and `raw` choose how the map is opened (before any other word);
 * `idle` opens it and no more; `read` and `write` begin a transaction that stays; `store` stores one byte, at once,
 * into the sixth page; `commit` stores one byte and commits. Then it says "ready" and waits for a line, or the end, of
 * standard input.
 */
#include <stdio.h>
#include <string.h>

#include "keepmap.h"

static int fail(const char *word, int error) {
    fprintf(stderr, "tool_hold: %s: %s: %s\n", word, km_error_name(error), km_last_error_detail());
    return 1;
}

static int store(km_map *map) {
    unsigned char *data = km_data(map);
    if (km_size(map) <= 5 * KM_PAGE_SIZE)
        return KM_ESIZE;
    data[5 * KM_PAGE_SIZE]++;
    return 0;
}

static int store_and_commit(km_map *map) {
    int error = km_begin(map, KM_WRITE);
    if (error)
        return error;
    unsigned char *data = km_data(map);
    data[km_generation(map) % km_size(map)]++;
    return km_commit(map);
}

/** Do a word that needs the open map. */
static int obey(km_map *map, const char *word) {
    if (strcmp(word, "idle") == 0)
        return 0;
    if (strcmp(word, "read") == 0)
        return km_begin(map, KM_READ);
    if (strcmp(word, "write") == 0)
        return km_begin(map, KM_WRITE);
    if (strcmp(word, "store") == 0)
        return store(map);
    if (strcmp(word, "commit") == 0)
        return store_and_commit(map);
    return KM_EINVAL;
}

int main(int argc, char **argv) {
    if (argc < 3)
        return fprintf(stderr, "usage: tool_hold TARGET WORD...\n"), 2;
    struct km_options options = {.struct_size = sizeof options};
    int next = 2;
    for (; next < argc; next++) {
        if (strcmp(argv[next], "readonly") == 0)
            options.flags |= KM_READONLY;
        else if (strcmp(argv[next], "lazy") == 0)
            options.flags |= KM_LAZY;
        else if (strcmp(argv[next], "raw") == 0)
            options.mode = KM_RAW;
        else
            break;
    }
    km_map *map;
    int error = km_open(&map, argv[1], &options);
    if (error)
        return fail("open", error);
    for (; next < argc; next++) {
        error = obey(map, argv[next]);
        if (error)
            return fail(argv[next], error);
    }
    printf("ready\n");
    fflush(stdout);
    getchar();
    error = km_close(map);
    return error && error != KM_EBUSY ? fail("close", error) : 0;
}
