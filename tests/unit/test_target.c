/* SPDX-License-Identifier: MIT
 *
 * Names of maps: what is a path, what is an object backed by the paging file, and what is neither and refused.
 */
#include <unistd.h>

#include "support/check.h"
#include "support/objects.h"
#include "support/scratch.h"

#define NAME_MOST 200u

static const char *const prefixes[] = {"Local\\", "Global\\"};

/* Opens without creating, so that a good name is one that there is no such map of. */
static int try_name(const char *target) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options};
    const int result = km_open(&map, target, &options);
    assert_null(map);
    assert_string_not_equal(km_last_error_detail(), "");
    return result;
}

static void expect_name(const char *name, int expected) {
    for (int i = 0; i < 2; i++) {
        char target[1024];
        snprintf(target, sizeof target, "%s%s", prefixes[i], name);
        const int result = try_name(target);
        if (result != expected) {
            fail_msg("\"%s\" gave %s (%s)", target, km_error_name(result), km_last_error_detail());
        }
    }
}

static void expect_names(const char *const *names, size_t count, int expected, const char *part) {
    for (size_t i = 0; i < count; i++) {
        expect_name(names[i], expected);
        if (part != NULL) {
            check_detail_contains(part);
        }
    }
}
#define EXPECT_NAMES(names, expected, part) expect_names((names), sizeof(names) / sizeof *(names), (expected), (part))

static void an_empty_target_is_refused(void **state) {
    (void)state;
    km_map *map = NULL;
    assert_int_equal(try_name(""), KM_EINVAL);
    must_fail(km_open(&map, NULL, NULL), KM_EINVAL);
    must_fail(km_open(NULL, "Local\\x", NULL), KM_EINVAL);
}

static void a_name_has_one_to_two_hundred_bytes(void **state) {
    (void)state;
    char name[NAME_MOST + 2];
    memset(name, 'x', sizeof name);
    name[NAME_MOST] = '\0';
    expect_name(name, KM_ENOTFOUND);
    name[1] = '\0';
    expect_name(name, KM_ENOTFOUND);
    expect_name("", KM_EINVAL);
    check_detail_contains("no name");
    name[1] = 'x';
    name[NAME_MOST] = 'x';
    name[NAME_MOST + 1] = '\0';
    expect_name(name, KM_EINVAL);
    check_detail_contains("201");
    check_detail_contains("200");
}

/* Two hundred bytes can be made and found again: the limit is not beyond what the system takes. */
static void the_longest_name_can_be_created(void **state) {
    (void)state;
    char target[300];
    for (int i = 0; i < 2; i++) {
        const int length = snprintf(target, sizeof target, "%s", prefixes[i]);
        for (size_t at = 0; at < NAME_MOST; at += 4) {
            memcpy(target + length + at, "\xf0\x9f\x8c\x8d", 5);
        }
        km_map *map = check_open(target, 100, KM_CREATE);
        km_map *other = check_open(target, 0, 0);
        must(km_close(map));
        must(km_close(other));
        assert_int_equal(try_name(target), KM_ENOTFOUND);
    }
}

static void slashes_and_backslashes_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"a/b", "/", "/a", "a/", "../a", "./a", "a\\b", "\\", "\\a", "a\\", "Local\\a"};
    EXPECT_NAMES(names, KM_EINVAL, "use another character");
}

static void names_of_directories_are_refused_and_names_that_begin_with_a_dot_are_not(void **state) {
    (void)state;
    static const char *const refused[] = {".", ".."};
    static const char *const taken[] = {"...", ".a", "..a", "a.", "a..b", ". "};
    EXPECT_NAMES(refused, KM_EINVAL, "directory");
    EXPECT_NAMES(taken, KM_ENOTFOUND, NULL);
}

static void control_characters_are_refused_wherever_they_stand(void **state) {
    (void)state;
    for (unsigned code = 1; code < 0xa0; code++) {
        if (code >= 0x20 && code < 0x7f) {
            continue;
        }
        char character[3] = {0};
        if (code < 0x80) {
            character[0] = (char)code;
        } else {
            character[0] = (char)(0xc0 | code >> 6);
            character[1] = (char)(0x80 | (code & 0x3f));
        }
        for (int i = 0; i < 4; i++) {
            char name[16];
            snprintf(name, sizeof name, "%s%s%s", (i & 1) != 0 ? "a" : "", character, (i & 2) != 0 ? "b" : "");
            expect_name(name, KM_EINVAL);
            check_detail_contains("control");
        }
    }
}

static void every_other_ascii_character_is_taken(void **state) {
    (void)state;
    for (char code = 0x20; code < 0x7f; code++) {
        const char name[] = {'a', code, 'b', '\0'};
        expect_name(name, code == '/' || code == '\\' ? KM_EINVAL : KM_ENOTFOUND);
    }
}

static void what_is_not_utf_8_is_refused(void **state) {
    (void)state;
    static const char *const names[] = {
        "\x80",
        "\xbf",
        "a\x80",
        "\xfe",
        "\xff",
        ("a\xff"
         "b"), /* no beginning of a character */
        "\xc3",
        "a\xc3",
        "\xc3(",
        "\xc3\xc3\xa9", /* two bytes, cut off or broken */
        "\xe2\x82",
        "\xe2",
        "\xe2(\xac",
        "\xe2\x82(",
        "\xe2\x82\xc0", /* three */
        "\xf0\x9f\x8c",
        "\xf0\x9f",
        "\xf0",
        "\xf0(\x8c\x8d",
        "\xf0\x9f(\x8d",
        "\xf0\x9f\x8c(", /* four */
        "\xc0\x80",
        "\xc0\xaf",
        "\xc1\xbf", /* longer than need be */
        "\xe0\x80\x80",
        "\xe0\x80\xaf",
        "\xe0\x9f\xbf", /* the same in three */
        "\xf0\x80\x80\x80",
        "\xf0\x80\x80\xaf",
        "\xf0\x8f\xbf\xbf", /* and in four */
        "\xed\xa0\x80",
        "\xed\xaf\xbf",
        "\xed\xb0\x80",
        "\xed\xbf\xbf",
        "\xed\xa0\xbd\xed\xb8\x80", /* surrogates */
        "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80",
        "\xf7\xbf\xbf\xbf", /* beyond U+10FFFF */
        "\xf8\x88\x80\x80\x80",
        "\xfc\x84\x80\x80\x80\x80", /* five and six */
    };
    EXPECT_NAMES(names, KM_EINVAL, "UTF-8");
}

static void every_character_of_unicode_is_taken(void **state) {
    (void)state;
    static const char *const names[] = {
        "\xc2\xa0",         "\xc3\xa9",         "\xdf\xbf",
        "\xe0\xa0\x80",     "\xe2\x82\xac",     "\xed\x9f\xbf",
        "\xee\x80\x80",     "\xef\xbf\xbd",     "\xef\xbf\xbf",
        "\xf0\x90\x80\x80", "\xf0\x9f\x8c\x8d", "\xf1\x80\x80\x80",
        "\xf3\xbf\xbf\xbf", "\xf4\x8f\xbf\xbf", "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x8c\x8d"};
    EXPECT_NAMES(names, KM_ENOTFOUND, NULL);
}

static void prefixes_are_written_exactly_so(void **state) {
    (void)state;
    static const char *const local[] = {"local\\x", "LOCAL\\x", "lOCAL\\x", "LocaL\\x", "local\\"};
    static const char *const global[] = {"global\\x", "GLOBAL\\x", "gLobal\\x", "GlobaL\\x", "global\\"};
    for (size_t i = 0; i < sizeof local / sizeof *local; i++) {
        assert_int_equal(try_name(local[i]), KM_EINVAL);
        check_detail_contains("Local\\NAME");
    }
    for (size_t i = 0; i < sizeof global / sizeof *global; i++) {
        assert_int_equal(try_name(global[i]), KM_EINVAL);
        check_detail_contains("Global\\NAME");
    }
}

static void the_case_of_a_name_matters(void **state) {
    (void)state;
    km_map *small = check_open("Local\\name", 100, KM_CREATE);
    assert_int_equal(try_name("Local\\Name"), KM_ENOTFOUND);
    km_map *large = check_open("Local\\Name", 200, KM_CREATE | KM_EXCLUSIVE);
    km_map *global = check_open("Global\\name", 300, KM_CREATE | KM_EXCLUSIVE);
    assert_int_equal(km_size(small), 100);
    assert_int_equal(km_size(large), 200);
    assert_int_equal(km_size(global), 300);
    must(km_close(small));
    must(km_close(large));
    must(km_close(global));
}

/* What only looks like a prefix is the path of a file, as is one with ./ before it. */
static void everything_else_is_a_path(void **state) {
    (void)state;
    static const char *const names[] = {"./Local\\x", "./Global\\x", "./local\\x", "Local",   "Local/x",
                                        "Localx\\y",  "Session\\x",  " Local\\x",  "Loca\\x", "L"};
    const char *back = scratch_path(".");
    char here[1024];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(back), 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(try_name(names[i]), KM_ENOTFOUND);
        if (strcmp(names[i], "Local/x") == 0) {
            continue; /* there is no such directory */
        }
        km_map *map = check_open(names[i], 100, KM_CREATE);
        assert_int_equal(check_info(map).paging_file, 0);
        must(km_close(map));
        assert_int_equal(unlink(names[i]), 0);
    }
    assert_int_equal(chdir(here), 0);
    assert_int_equal(objects_left(), 0);
}

int main(void) {
    scratch_time_limit(60);
    objects_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_target_is_refused),
        cmocka_unit_test(a_name_has_one_to_two_hundred_bytes),
        cmocka_unit_test(the_longest_name_can_be_created),
        cmocka_unit_test(slashes_and_backslashes_are_refused),
        cmocka_unit_test(names_of_directories_are_refused_and_names_that_begin_with_a_dot_are_not),
        cmocka_unit_test(control_characters_are_refused_wherever_they_stand),
        cmocka_unit_test(every_other_ascii_character_is_taken),
        cmocka_unit_test(what_is_not_utf_8_is_refused),
        cmocka_unit_test(every_character_of_unicode_is_taken),
        cmocka_unit_test(prefixes_are_written_exactly_so),
        cmocka_unit_test(the_case_of_a_name_matters),
        cmocka_unit_test(everything_else_is_a_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
