/* SPDX-License-Identifier: MIT
 *
 * The list of calls that the fault tests make fail is complete: what the library calls and does not define is in
 * tests/faults/calls, or cannot fail, or belongs to the compiler; and every call of the list has a way to fail, or
 * gives back what another has taken. Asked of the linker's own table, so that a new call in src/os cannot be forgotten.
 */
#include <ctype.h>
#include <unistd.h>

#include "check.h"
#include "fault_layer.h"

#define CALLS "tests/faults/calls"
#define NAMES_MAX 4096u
#define NAME_SIZE 80u

struct names {
    unsigned count;
    char name[NAMES_MAX][NAME_SIZE];
};

/* Functions that have no error, or none that a right argument could bring. */
static const char *const harmless[] = {
    "clock_gettime",
    "geteuid",
    "getpid",
    "memchr",
    "memcmp",
    "memcpy",
    "memmove",
    "memset",
    "qsort",
    "raise",
    "snprintf",
    "stpcpy",
    "strchr",
    "strcmp",
    "strcpy",
    "strcspn",
    "strerror",
    "strlen",
    "strncmp",
    "strncpy",
    "strnlen",
    "strrchr",
    "strtoull",
    "vsnprintf",
    "secure_getenv",
    "sysconf",
    "sigaddset",
    "sigemptyset",
    "sigfillset",
    "sigorset",
    "pthread_mutex_lock",
    "pthread_once",
    "pthread_mutex_unlock",
    "pthread_sigmask",
    "crc32_z",
    "__errno_location",
    "__tls_get_addr",
    "bcmp",
    "__isoc23_strtoull",
    "sched_yield",
    "sigaction",
};

/* What gives back, or goes on to the next entry: closedir() closes what fdopendir() has taken over. */
static const char *const giving_back[] = {"free", "munmap", "closedir"};

/* The compiler's own, and those of its sanitizers. */
static const char *const prefixes[] = {
    "__asan_", "__ubsan_", "__tsan_", "__sanitizer_", "__cpu_", "__aarch64_", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_"};

static bool has(const struct names *names, const char *name) {
    for (unsigned i = 0; i < names->count; i++) {
        if (strcmp(names->name[i], name) == 0)
            return true;
    }
    return false;
}

static bool is_among(const char *const *list, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(list[i], name) == 0)
            return true;
    }
    return false;
}

static void add(struct names *names, const char *name) {
    if (has(names, name))
        return;
    assert_true(names->count < NAMES_MAX && strlen(name) < NAME_SIZE);
    strcpy(names->name[names->count++], name);
}

/* What the objects of the library, as they were linked into this program, define and what they lack. */
static bool read_symbols(struct names *defined, struct names *lacking) {
    char program[512], command[640], line[512];
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(length > 0);
    program[length] = '\0';
    snprintf(command, sizeof command, "nm -g '%.*s/libinternal.a' 2>/dev/null", (int)(strrchr(program, '/') - program),
             program);
    FILE *output = popen(command, "r");
    assert_non_null(output);
    while (fgets(line, sizeof line, output) != NULL) {
        char kind = ' ', name[NAME_SIZE];
        if (sscanf(line, " U %79s", name) == 1)
            add(lacking, name);
        else if (sscanf(line, "%*x %c %79s", &kind, name) == 2 && isupper((unsigned char)kind))
            add(defined, name);
    }
    return pclose(output) == 0 && defined->count > 0;
}

static void read_list(struct names *list) {
    char line[256], name[NAME_SIZE];
    FILE *file = fopen(CALLS, "r");
    if (file == NULL)
        fail_msg("%s cannot be read: run this in the directory of the project", CALLS);
    while (fgets(line, sizeof line, file) != NULL) {
        if (line[0] != '#' && sscanf(line, "%79s", name) == 1)
            add(list, name);
    }
    fclose(file);
}

static bool is_expected(const char *name) {
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    }
    return is_among(harmless, sizeof harmless / sizeof harmless[0], name) || strcmp(name, "closedir") == 0;
}

static void every_call_that_can_fail_is_made_to_fail(void **state) {
    (void)state;
    static struct names defined, lacking, list;
    if (!read_symbols(&defined, &lacking)) {
        print_message("# nm, or libinternal.a beside this program, is missing\n");
        skip();
    }
    read_list(&list);
    unsigned forgotten = 0;
    for (unsigned i = 0; i < lacking.count; i++) {
        const char *name = lacking.name[i];
        if (has(&defined, name) || has(&list, name) || is_expected(name))
            continue;
        print_error("the library calls %s(), which is not in %s\n", name, CALLS);
        forgotten++;
    }
    assert_int_equal(forgotten, 0);
}

static void every_call_of_the_list_has_a_way_to_fail(void **state) {
    (void)state;
    static struct names list, kinds;
    read_list(&list);
    for (int call = 0; call < FAULT_CALLS; call++) {
        assert_non_null(fault_kinds[call].name);
        assert_int_not_equal(fault_kinds[call].ways[0], 0);
        add(&kinds, fault_kinds[call].function);
        if (!has(&list, fault_kinds[call].function))
            fail_msg("%s is not in %s", fault_kinds[call].function, CALLS);
    }
    for (unsigned i = 0; i < list.count; i++) {
        if (!has(&kinds, list.name[i]) &&
            !is_among(giving_back, sizeof giving_back / sizeof giving_back[0], list.name[i]))
            fail_msg("%s() never fails in these tests", list.name[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_that_can_fail_is_made_to_fail),
        cmocka_unit_test(every_call_of_the_list_has_a_way_to_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
