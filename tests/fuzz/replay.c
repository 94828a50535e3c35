/* SPDX-License-Identifier: MIT
 *
 * Runs a fuzz target over kept inputs, without a fuzzer, each in a process of its own, and speaks TAP:
 *
 *     fuzz_NAME PATH...    files, and all files of directories
 *
 * A file whose name ends in .km is a map, not an input: it is run as the recipe that makes it out of nothing. After the
 * files, inputs that the mutator makes from them are tried, of a seed that is printed and taken from KEEPMAP_SEED.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "map/control.h"
#include "recipe.h"
#include "support/chance.h"
#include "support/scratch.h"
#include "claim.h"

#define LIMIT_S 60u          /* of one input: it ends then, as one that never would */
#define MUTATIONS 8u         /* of each input */
#define INPUT_MAX (1u << 20) /* bytes */

struct inputs {
    char **paths;
    size_t count;
};

static void add_path(struct inputs *inputs, const char *directory, const char *name) {
    char **paths = realloc(inputs->paths, (inputs->count + 1) * sizeof *paths);
    hold(paths != NULL, "no memory");
    inputs->paths = paths;
    paths[inputs->count] = need(strlen(directory) + strlen(name) + 2);
    sprintf(paths[inputs->count++], "%s%s%s", directory, directory[0] != '\0' ? "/" : "", name);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add(struct inputs *inputs, const char *path) {
    DIR *directory = opendir(path);
    if (directory == NULL && errno == ENOTDIR)
        add_path(inputs, "", path);
    if (directory == NULL) {
        hold(errno == ENOTDIR, "%s: %s", path, strerror(errno));
        return;
    }
    const size_t first = inputs->count;
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (entry->d_name[0] != '.')
            add_path(inputs, path, entry->d_name);
    closedir(directory);
    if (inputs->count > first)
        qsort(inputs->paths + first, inputs->count - first, sizeof *inputs->paths, by_name);
}

static bool is_map(const char *path) {
    const size_t length = strlen(path);
    return length > 3 && strcmp(path + length - 3, ".km") == 0;
}

/* Where the run of bytes at `at` ends: before a run of zeros that costs more than another step, or at 255 bytes. */
static size_t run_length(const struct scratch_image *map, size_t at) {
    size_t length = 0;
    for (size_t i = 0; i < 255 && at + i < map->length && i < length + RECIPE_STEP; i++)
        if (map->bytes[at + i] != 0)
            length = i + 1;
    return length;
}

/* The recipe of any file: the length, and then the bytes that are not zero. The slots of control, which are many, are
 * left out: every open makes them anew. */
static size_t encode(const struct scratch_image *map, uint8_t *out) {
    static struct recipe recipe;
    static const uint8_t head[RECIPE_HEAD] = {0, 3, 20, 0x46};
    const size_t slots = KM__CONTROL_OFFSET + offsetof(struct km__control, slot);
    memset(&recipe, 0, sizeof recipe);
    memcpy(recipe.head, head, sizeof head);
    recipe.steps[recipe.count++] = (struct step){.kind = STEP_LENGTH, .number = map->length};
    for (size_t at = 0; at < map->length && recipe.count < RECIPE_STEPS_MAX;) {
        const size_t length = run_length(map, at);
        if (at >= slots && at < KM__CONTROL_OFFSET + KM__CONTROL_SIZE) {
            at = KM__CONTROL_OFFSET + KM__CONTROL_SIZE;
        } else if (length == 0) {
            at++;
        } else {
            recipe.steps[recipe.count++] =
                (struct step){.kind = STEP_BYTES, .number = at, .bytes = map->bytes + at, .length = length};
            at += length;
        }
    }
    return recipe_write(&recipe, out, INPUT_MAX);
}

static size_t load_input(const char *path, uint8_t *input) {
    struct scratch_image image = scratch_load(path);
    size_t length = image.length < INPUT_MAX ? image.length : INPUT_MAX;
    if (is_map(path))
        length = encode(&image, input);
    else if (length > 0)
        memcpy(input, image.bytes, length);
    scratch_release(&image);
    return length;
}

/* Exactly as many bytes as there are, so that the address sanitizer sees a look beyond them. */
static void run_once(const uint8_t *input, size_t length) {
    uint8_t *bytes = need(length);
    memcpy(bytes, input, length);
    LLVMFuzzerTestOneInput(bytes, length);
    free(bytes);
}

/* The input that is running, in memory that the processes share: so that one that was made by chance can be told. */
static struct running {
    size_t length;
    uint8_t bytes[1u << 16];
} * running;

static void tell_running(void) {
    printf("# the input, as hexadecimal numbers (xxd -r -p):\n");
    for (size_t i = 0; i < running->length; i++)
        printf("%s%02x%s", i % 40 == 0 ? "# " : "", running->bytes[i],
               i % 40 == 39 || i + 1 == running->length ? "\n" : "");
}

static void run_mutations(const uint8_t *input, size_t length, struct chance *chance) {
    for (unsigned i = 0; i < MUTATIONS; i++) {
        const size_t known = length < sizeof running->bytes ? length : sizeof running->bytes;
        memcpy(running->bytes, input, known);
        running->length =
            LLVMFuzzerCustomMutator(running->bytes, known, sizeof running->bytes, (unsigned)chance_next(chance));
        run_once(running->bytes, running->length);
    }
}

/* In a process of its own; how it ended. */
static int run_apart(const uint8_t *input, size_t length, struct chance *chance) {
    fflush(stdout);
    const pid_t child = fork();
    hold(child >= 0, "fork: %s", strerror(errno));
    if (child == 0) {
        alarm(LIMIT_S);
        if (chance != NULL)
            run_mutations(input, length, chance);
        else
            run_once(input, length);
        exit(0); /* so that leaks are looked for, and coverage is written */
    }
    int status = 0;
    hold(waitpid(child, &status, 0) == child, "waitpid: %s", strerror(errno));
    return status;
}

static int report(unsigned number, const char *name, int status) {
    if (status == 0) {
        printf("ok %u %s\n", number, name);
        return 0;
    }
    printf("not ok %u %s: %s %d\n", number, name, WIFSIGNALED(status) ? "ended by signal" : "exit status",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return 1;
}

/* How many inputs failed. */
static int run_all(const struct inputs *inputs) {
    static uint8_t input[INPUT_MAX];
    LLVMFuzzerInitialize(NULL, NULL);
    struct chance chance = {chance_seed()};
    int failures = 0;
    running = mmap(NULL, sizeof *running, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    hold(running != MAP_FAILED, "mmap: %s", strerror(errno));
    printf("1..%zu\n", inputs->count + 1);
    int mutated = 0;
    for (size_t i = 0; i < inputs->count; i++) {
        const size_t length = load_input(inputs->paths[i], input);
        failures += report((unsigned)i + 1, inputs->paths[i], run_apart(input, length, NULL));
        struct chance own = {chance_next(&chance)};
        if (mutated == 0 && (mutated = run_apart(input, length, &own)) != 0) {
            printf("# a mutation of %s\n", inputs->paths[i]);
            tell_running();
        }
    }
    failures += report((unsigned)inputs->count + 1, "inputs made from these by chance", mutated);
    return failures;
}

int main(int argc, char **argv) {
    struct inputs inputs = {0};
    for (int i = 1; i < argc; i++)
        add(&inputs, argv[i]);
    const int failures = run_all(&inputs);
    for (size_t i = 0; i < inputs.count; i++)
        free(inputs.paths[i]);
    free(inputs.paths);
    return failures != 0;
}
