/* SPDX-License-Identifier: MIT
 *
 * How a fuzz target ends: see claim.h.
 */
#include "claim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bases.h"
#include "keepmap.h"

/* A comparison by hand finds stores on every machine alike, and is the fastest for maps of a few pages. */
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    setenv("KEEPMAP_TRACKER", "compare", 0);
    bases_make();
    return 0;
}

void broken(const char *file, int line, const char *promise, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s:%d: broken: %s: ", file, line, promise);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    abort();
}

int named(int result, const char *call) {
    if (result == 0)
        return 0;
    hold(result < 0 && strcmp(km_error_name(result), "KM_EUNKNOWN") != 0, "%s gave %d", call, result);
    hold(km_last_error_detail()[0] != '\0', "%s gave %s without a sentence", call, km_error_name(result));
    return result;
}

void *need(size_t length) {
    void *memory = calloc(1, length > 0 ? length : 1);
    hold(memory != NULL, "no memory for %zu bytes", length);
    return memory;
}
