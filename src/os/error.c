/* SPDX-License-Identifier: MIT
 *
 * The thread's last error: see error.h. Owns one buffer a thread and nothing else.
 */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char detail[1024];

int km__error(int code, const char *format, ...) {
    /* Arguments may point into the present detail, so the new one is made beside it. */
    char made[sizeof detail] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(made, sizeof made, format, arguments);
    va_end(arguments);
    memcpy(detail, made, sizeof detail);
    return code;
}

int km__error_prefix(int code, const char *format, ...) {
    char made[sizeof detail] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(made, sizeof made, format, arguments);
    va_end(arguments);
    return detail[0] != '\0' ? km__error(code, "%s: %s", made, detail) : km__error(code, "%s", made);
}

const char *km__error_detail(void) {
    return detail;
}

void km__error_clear(void) {
    detail[0] = '\0';
}
