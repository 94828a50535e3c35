/* SPDX-License-Identifier: MIT
 *
 * Counts the bytes, lines, words and letters of a text, and may be killed at any moment.
 *
 *     count MAP TEXT [CHUNK_BYTES [PAUSE_MS]]
 *
 * All that it knows stands in one map: the counts, and how much of the text they stand for. Both change in one commit,
 * so that they always belong together. A worker that is started again reads how far the last commit got and goes on
 * there; nothing is counted twice, and nothing is left out. There is no code for recovery: the first km_open() after a
 * crash does that. Several workers may even share one map; each takes the next chunk.
 *
 * A line ends with a newline character, a word is a run of bytes without white space, letters are those from A to Z.
 * PAUSE_MS makes the worker rest in the middle of each transaction, after its stores and before its commit, which is
 * the worst moment to be killed: `make demo` uses it.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "keepmap.h"

/* What the map holds. A new map is all zero: nothing counted, at the start of the text. */
struct counts {
    uint64_t bytes; /* counted so far, which is also where to go on */
    uint64_t lines;
    uint64_t words;
    uint64_t letters[26];
    uint64_t inside_word; /* 1: the last byte belonged to a word, which the next chunk may continue */
};

static void count_bytes(struct counts *counts, const unsigned char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) {
        const unsigned char byte = bytes[i];
        const bool space = byte == ' ' || (byte >= '\t' && byte <= '\r');
        counts->lines += byte == '\n';
        counts->words += !space && !counts->inside_word;
        counts->inside_word = !space;
        if (isalpha(byte)) {
            counts->letters[tolower(byte) - 'a']++;
        }
    }
    counts->bytes += length;
}

/* One transaction: the next chunk of the text, whole or not at all. 1: counted, 0: the text is at its end,
 * -1: an error. */
static int count_chunk(km_map *map, FILE *text, unsigned char *chunk, size_t chunk_size, long pause_ms) {
    if (km_begin(map, KM_WRITE) != 0) {
        return -1;
    }
    struct counts *counts = km_data(map);
    if (fseeko(text, (off_t)counts->bytes, SEEK_SET) != 0) {
        perror("count: the text");
        return -1; /* km_close() aborts what is open */
    }
    const size_t length = fread(chunk, 1, chunk_size, text);
    if (length == 0) {
        return km_abort(map);
    }
    count_bytes(counts, chunk, length); /* plain stores: nobody sees them yet, and a crash forgets them */
    if (pause_ms > 0) {
        nanosleep(&(struct timespec){.tv_sec = pause_ms / 1000, .tv_nsec = pause_ms % 1000 * 1000000}, NULL);
    }
    return km_commit(map) == 0 ? 1 : -1; /* all of it, on disk and visible to every process */
}

static int print_start(km_map *map) {
    if (km_begin(map, KM_READ) != 0) {
        return -1;
    }
    const struct counts *counts = km_data(map);
    fprintf(stderr, "worker %ld goes on at byte %" PRIu64 ", commit %" PRIu64 "\n", (long)getpid(), counts->bytes,
            km_generation(map));
    return km_abort(map); /* ends a read, too */
}

static int print_counts(km_map *map) {
    if (km_begin(map, KM_READ) != 0) {
        return -1;
    }
    const struct counts *counts = km_data(map);
    printf("bytes %" PRIu64 "\nlines %" PRIu64 "\nwords %" PRIu64 "\n", counts->bytes, counts->lines, counts->words);
    for (int i = 0; i < 26; i++) {
        printf("%c %" PRIu64 "\n", 'a' + i, counts->letters[i]);
    }
    return km_abort(map);
}

static int count_text(km_map *map, FILE *text, size_t chunk_size, long pause_ms) {
    unsigned char *chunk = malloc(chunk_size);
    int result = chunk && print_start(map) == 0 ? 1 : -1;
    while (result == 1) {
        result = count_chunk(map, text, chunk, chunk_size, pause_ms);
    }
    free(chunk);
    if (result == 0 && ferror(text)) {
        perror("count: the text");
        return -1;
    }
    return result == 0 ? print_counts(map) : -1;
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: count MAP TEXT [CHUNK_BYTES [PAUSE_MS]]\n");
        return 2;
    }
    const size_t chunk_size = argc > 3 && atol(argv[3]) > 0 ? (size_t)atol(argv[3]) : 65536;
    const long pause_ms = argc > 4 ? atol(argv[4]) : 0;

    FILE *text = fopen(argv[2], "rb");
    if (!text) {
        perror(argv[2]);
        return 1;
    }
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = sizeof(struct counts),
                                       .flags = KM_CREATE,
                                       .schema = "example-count",
                                       .schema_version = 1};
    int result = km_open(&map, argv[1], &options);
    if (result == 0) {
        result = count_text(map, text, chunk_size, pause_ms);
    }
    if (result != 0 && *km_last_error_detail() != '\0') {
        fprintf(stderr, "count: %s\n", km_last_error_detail());
    }
    if (km_close(map) != 0 && result == 0) {
        fprintf(stderr, "count: %s\n", km_last_error_detail());
        result = -1;
    }
    fclose(text);
    return result == 0 && fflush(stdout) == 0 ? 0 : 1;
}
