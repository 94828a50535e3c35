/* SPDX-License-Identifier: MIT
 *
 * Names, messages and exit statuses of the error codes, from the one list in keepmap.h.
 */
#include "keepmap.h"
#include "os/error.h"

const char *km_error_name(int error) {
    switch (error) {
    case 0:
        return "KM_OK";
#define NAME(code, number, status, message)                                                                            \
    case number:                                                                                                       \
        return #code;
        KM_ERROR_MAP(NAME)
#undef NAME
    default:
        return "KM_EUNKNOWN";
    }
}

const char *km_error_message(int error) {
    switch (error) {
    case 0:
        return "no error";
#define MESSAGE(code, number, status, message)                                                                         \
    case number:                                                                                                       \
        return message;
        KM_ERROR_MAP(MESSAGE)
#undef MESSAGE
    default:
        return "an unknown error";
    }
}

int km_error_exit_status(int error) {
    switch (error) {
    case 0:
        return 0;
#define STATUS(code, number, status, message)                                                                          \
    case number:                                                                                                       \
        return status;
        KM_ERROR_MAP(STATUS)
#undef STATUS
    default:
        return 7;
    }
}

const char *km_last_error_detail(void) {
    return km__error_detail();
}

const char *km_version(void) {
    return KM_VERSION;
}
