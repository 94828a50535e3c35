/* SPDX-License-Identifier: MIT
 *
 * The thread's last error: a sentence that says what was wrong and what can be done. Lowest of all files, so that every
 * layer can leave its words here. Includes nothing of the project but the error codes.
 */
#ifndef KM_OS_ERROR_H
#define KM_OS_ERROR_H

#include "keepmap.h"

/** Store the sentence as the thread's detail and return `code`. Long sentences are cut at 1023 bytes. */
__attribute__((format(printf, 2, 3))) int km__error(int code, const char *format, ...);

/** Put `format` in front of the present detail ("FORMAT: DETAIL") and return `code`. */
__attribute__((format(printf, 2, 3))) int km__error_prefix(int code, const char *format, ...);

/** The thread's detail, never NULL. */
const char *km__error_detail(void);

/** Forget the thread's detail. */
void km__error_clear(void);

#endif
