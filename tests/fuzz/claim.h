/* SPDX-License-Identifier: MIT
 *
 * What every fuzz target is made of: one function that takes bytes, judges what the library makes of them, and ends the
 * process with a sentence when that breaks a promise. The target runs under libFuzzer (make test-fuzz), which looks for
 * new inputs, or under replay.c, which runs kept ones.
 */
#ifndef KM_TESTS_FUZZ_CLAIM_H
#define KM_TESTS_FUZZ_CLAIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** The names are libFuzzer's: https://llvm.org/docs/LibFuzzer.html. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t length, size_t capacity, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *first, size_t first_length, const uint8_t *second, size_t second_length,
                                 uint8_t *out, size_t capacity, unsigned seed);

/** The promise holds, or the process ends; the arguments after it are a printf text that says what was found. */
#define hold(promise, ...)                                                                                             \
    do {                                                                                                               \
        if (!(promise))                                                                                                \
            broken(__FILE__, __LINE__, #promise, __VA_ARGS__);                                                         \
    } while (0)

__attribute__((noreturn, format(printf, 4, 5))) void broken(const char *file, int line, const char *promise,
                                                            const char *format, ...);

/** A result is 0 or an error that has a name and left a sentence; gives it back. */
int named(int result, const char *call);

/** Memory that is not NULL. */
void *need(size_t length);

#endif
