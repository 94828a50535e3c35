/* SPDX-License-Identifier: MIT
 *
 * The names of objects as others have left them: squatted, foreign, dead; who may use what; and the list of all.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/check.h"
#include "support/objects.h"
#include "support/scratch.h"

#define SIZE 20000u
#define STRANGER 65534u
#define OTHER_STRANGER 65533u

static int try_open(km_map **map, const char *target, uint32_t flags) {
    const struct km_options options = {
        .struct_size = sizeof options, .size = SIZE, .journal_size = 65536, .flags = flags, .timeout_ms = 200};
    return km_open(map, target, &options);
}

/* Whoever opens or creates it, in whatever way, is refused with the same error and told where it is. */
static void expect_refused(const char *target, int expected, const char *part) {
    static const uint32_t flags[] = {0, KM_READONLY, KM_CREATE};
    for (int i = 0; i < 3; i++) {
        km_map *map = NULL;
        must_fail(try_open(&map, target, flags[i]), expected);
        assert_null(map);
        check_detail_contains(target);
        check_detail_contains(part);
    }
    km_map *map = NULL;
    const int result = try_open(&map, target, KM_CREATE | KM_EXCLUSIVE);
    if (result != expected && result != KM_EEXISTS) {
        fail_msg("exclusively: %s (%s)", km_error_name(result), km_last_error_detail());
    }
    check_detail_contains(target);
}

/* The directories, made as the library makes them. */
static void make_directories(void) {
    km_map *map = NULL;
    must(try_open(&map, "Local\\first", KM_CREATE));
    must(km_close(map));
    must(try_open(&map, "Global\\first", KM_CREATE));
    must(km_close(map));
}

static const char *const squatted[] = {"Local\\squatted", "Global\\squatted"};

static void a_name_that_is_a_symbolic_link_is_refused_and_not_followed(void **state) {
    (void)state;
    make_directories();
    const char *victim = scratch_path("victim");
    scratch_store(victim, "precious", 8);
    for (int i = 0; i < 2; i++) {
        const char *path = objects_path(squatted[i]);
        assert_int_equal(symlink(victim, path), 0);
        expect_refused(squatted[i], KM_EACCESS, "symbolic link");
        assert_int_equal(unlink(path), 0);
        assert_int_equal(symlink(scratch_path("not there"), path), 0);
        expect_refused(squatted[i], KM_EACCESS, "symbolic link");
        assert_int_equal(access(scratch_path("not there"), F_OK), -1);
        assert_int_equal(unlink(path), 0);
    }
    struct scratch_image precious = {(unsigned char *)(uintptr_t) "precious", 8};
    assert_true(scratch_equals(victim, &precious));
}

static void a_name_that_is_no_file_is_refused_at_once(void **state) {
    (void)state;
    make_directories();
    for (int i = 0; i < 2; i++) {
        const char *path = objects_path(squatted[i]);
        assert_int_equal(mkfifo(path, 0666), 0); /* opening one would wait for somebody at its other end */
        expect_refused(squatted[i], KM_ENOTMAP, path);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkdir(path, 0777), 0);
        expect_refused(squatted[i], KM_EDIRECTORY, path);
        assert_int_equal(rmdir(path), 0);
    }
}

static void a_name_that_is_a_second_one_of_another_file_is_refused(void **state) {
    (void)state;
    make_directories();
    for (int i = 0; i < 2; i++) {
        km_map *map = NULL, *other = NULL;
        must(try_open(&map, "Local\\first", KM_CREATE));
        check_commit_fill(map, 0, 5, 100);
        assert_int_equal(link(objects_path("Local\\first"), objects_path(squatted[i])), 0);
        expect_refused(squatted[i], KM_EACCESS, "second name");
        assert_int_equal(unlink(objects_path(squatted[i])), 0);
        must(try_open(&other, "Local\\first", 0));
        must(km_close(other));
        must(km_close(map));
    }
    assert_int_equal(objects_left(), 0);
}

static void a_file_of_another_user_among_ones_own_is_refused(void **state) {
    (void)state;
    if (geteuid() != 0) {
        skip();
    }
    make_directories();
    const char *path = objects_path(squatted[0]);
    scratch_store(path, "foreign", 7);
    assert_int_equal(chmod(path, 0666) | chown(path, STRANGER, STRANGER), 0);
    expect_refused(squatted[0], KM_EACCESS, "65534");
    assert_int_equal(unlink(path), 0);
}

/* What is no map and has no user is taken for what a dead user left: its name is free. */
static void a_file_that_nobody_uses_is_absent_whatever_it_holds(void **state) {
    (void)state;
    make_directories();
    for (int i = 0; i < 2; i++) {
        km_map *map = NULL;
        scratch_store(objects_path(squatted[i]), "anything", 8);
        must_fail(try_open(&map, squatted[i], 0), KM_ENOTFOUND);
        scratch_store(objects_path(squatted[i]), "", 0);
        must(try_open(&map, squatted[i], KM_CREATE));
        must(km_close(map));
    }
    assert_int_equal(objects_left(), 0);
}

static void the_place_for_objects_must_be_a_tmpfs_named_from_the_root(void **state) {
    (void)state;
    char before[256];
    snprintf(before, sizeof before, "%s", getenv("KEEPMAP_SHM"));
    const char *const wrong[] = {"relative", "/proc", "/does/not/exist"};
    for (size_t i = 0; i < 3; i++) {
        km_map *map = NULL;
        setenv("KEEPMAP_SHM", wrong[i], 1);
        must_fail(try_open(&map, "Local\\x", KM_CREATE), KM_EUNSUPPORTED);
        check_detail_contains("KEEPMAP_SHM");
        must_fail(try_open(&map, "Global\\x", 0), KM_EUNSUPPORTED);
    }
    setenv("KEEPMAP_SHM", before, 1);
}

/* ---- other users ------------------------------------------------------------------------------------------------- */

struct visit {
    const char *target;
    uint32_t user, flags;
    uint32_t permissions;
    int expected, store;
};

static int visit(void *context) {
    const struct visit *visit = context;
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .journal_size = 65536,
                                       .flags = visit->flags,
                                       .permissions = visit->permissions,
                                       .timeout_ms = 200};
    child_check(setgid(visit->user) == 0 && setuid(visit->user) == 0);
    const int result = km_open(&map, visit->target, &options);
    if (result != visit->expected) {
        fprintf(stderr, "%s %s\n", km_error_name(result), km_last_error_detail());
    }
    child_check(result == visit->expected);
    if (result != 0 && visit->store != 0) {
        child_check(strstr(km_last_error_detail(), "choose another name") != NULL);
    }
    if (result == 0) {
        child_must(km_begin(map, visit->store != 0 ? KM_WRITE : KM_READ));
        child_check(((unsigned char *)km_data(map))[0] == 1);
        if (visit->store != 0) {
            ((unsigned char *)km_data(map))[1] = (unsigned char)visit->store;
        }
        child_must(km_commit(map));
    }
    child_must(km_close(map));
    return 0;
}

static void visit_as(struct visit what) {
    const int status = check_in_child(visit, &what, 20);
    if (status != 0) {
        fail_msg("user %u, %s with flags %u: %d", what.user, what.target, what.flags, status);
    }
}

static km_map *open_for_all(const char *target, uint32_t permissions) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .journal_size = 65536,
                                       .flags = KM_CREATE,
                                       .permissions = permissions};
    must(km_open(&map, target, &options));
    check_commit_fill(map, 0, 1, 1);
    return map;
}

static void global_objects_are_shared_as_their_permissions_say(void **state) {
    (void)state;
    if (geteuid() != 0) {
        skip();
    }
    km_map *map = open_for_all("Global\\all", 0666);
    visit_as((struct visit){"Global\\all", STRANGER, 0, 0, 0, 42});
    must(km_begin(map, KM_READ));
    assert_int_equal(((unsigned char *)km_data(map))[1], 42);
    must(km_abort(map));
    visit_as((struct visit){"Global\\all", STRANGER, KM_CREATE, 0, 0, 43});
    visit_as((struct visit){"Global\\all", STRANGER, KM_CREATE | KM_EXCLUSIVE, 0, KM_EEXISTS, 0});
    visit_as((struct visit){"Global\\all", STRANGER, KM_READONLY, 0, 0, 0});
    must(km_close(map));
    assert_int_equal(objects_left(), 0);
    map = open_for_all("Global\\readers", 0644);
    visit_as((struct visit){"Global\\readers", STRANGER, 0, 0, KM_EACCESS, 0});
    visit_as((struct visit){"Global\\readers", STRANGER, KM_READONLY, 0, 0, 0});
    must(km_close(map));
    map = open_for_all("Global\\mine", 0);
    visit_as((struct visit){"Global\\mine", STRANGER, 0, 0, KM_EACCESS, 0});
    visit_as((struct visit){"Global\\mine", STRANGER, KM_READONLY, 0, KM_EACCESS, 0});
    visit_as((struct visit){"Global\\mine", STRANGER, KM_CREATE, 0, KM_EACCESS, 0});
    must(km_close(map));
    assert_int_equal(objects_left(), 0);
}

static void local_names_of_two_users_are_two_objects(void **state) {
    (void)state;
    if (geteuid() != 0) {
        skip();
    }
    km_map *map = open_for_all("Local\\all", 0666);
    visit_as((struct visit){"Local\\all", STRANGER, 0, 0, KM_ENOTFOUND, 0});
    must(km_close(map));
}

static int create_and_die(void *context) {
    const struct visit *visit = context;
    km_map *map = NULL;
    child_check(visit->user == 0 || (setgid(visit->user) == 0 && setuid(visit->user) == 0));
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .journal_size = 65536,
                                       .flags = KM_CREATE,
                                       .permissions = visit->permissions};
    child_must(km_open(&map, visit->target, &options));
    raise(SIGKILL);
    return 1;
}

/* Attaching is not owning: only its owner can clear away what a dead user of Global\ has left. */
static void what_another_user_left_behind_is_refused_with_what_to_do(void **state) {
    (void)state;
    if (geteuid() != 0) {
        skip();
    }
    static const uint32_t permissions[] = {0666, 0644, 0600};
    static const uint32_t flags[] = {0, KM_CREATE, KM_CREATE | KM_EXCLUSIVE};
    for (int i = 0; i < 3; i++) {
        struct visit dead = {"Global\\left", 0, 0, permissions[i], 0, 0};
        assert_int_equal(check_in_child(create_and_die, &dead, 20), -SIGKILL);
        for (int j = 0; j < 3; j++) {
            visit_as((struct visit){"Global\\left", STRANGER, flags[j], 0, KM_EACCESS, permissions[i] == 0666});
        }
        visit_as((struct visit){"Global\\left", STRANGER, KM_READONLY, 0,
                                permissions[i] == 0600 ? KM_EACCESS : KM_ENOTFOUND, 0});
        assert_int_equal(access(objects_path("Global\\left"), F_OK), 0);
        must(km_close(open_for_all("Global\\left", 0)));
        assert_int_equal(objects_left(), 0);
    }
    struct visit dead = {"Global\\left", STRANGER, 0, 0666, 0, 0};
    assert_int_equal(check_in_child(create_and_die, &dead, 20), -SIGKILL);
    visit_as((struct visit){"Global\\left", OTHER_STRANGER, KM_CREATE, 0, KM_EACCESS, 1});
    visit_as((struct visit){"Global\\left", STRANGER, 0, 0, KM_ENOTFOUND, 0});
    assert_int_equal(objects_left(), 0);
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

struct told {
    char target[32];
    struct km_listed listed;
    char detail[256];
};

struct list {
    struct told told[16];
    unsigned count, at_most;
};

static int note(void *context, const struct km_listed *listed) {
    struct list *list = context;
    assert_true(list->count < 16);
    struct told *told = &list->told[list->count++];
    told->listed = *listed;
    snprintf(told->target, sizeof told->target, "%s", listed->target);
    snprintf(told->detail, sizeof told->detail, "%s", listed->detail);
    return list->count == list->at_most;
}

static struct list list_all(void) {
    struct list list = {.count = 0};
    must(km_list(note, &list));
    return list;
}

static void expect_told(const struct told *told, const char *target, uint64_t size, uint64_t generation, uint32_t mode,
                        uint32_t handles, uint32_t read_only_handles) {
    assert_string_equal(told->target, target);
    assert_int_equal(told->listed.error, 0);
    assert_string_equal(told->detail, "");
    assert_int_equal(told->listed.size, size);
    assert_int_equal(told->listed.generation, generation);
    assert_int_equal(told->listed.mode, mode);
    assert_int_equal(told->listed.handles, handles);
    assert_int_equal(told->listed.read_only_handles, read_only_handles);
}

static km_map *open_mode(const char *target, uint32_t mode, uint64_t size, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .size = size, .mode = mode, .flags = flags};
    must(km_open(&map, target, &options));
    return map;
}

static void the_list_tells_of_each_object_in_order(void **state) {
    (void)state;
    assert_int_equal(list_all().count, 0);
    km_map *maps[] = {
        open_mode("Global\\b", KM_LIVE, 5000, KM_CREATE),
        open_mode("Local\\z", KM_TRANSACTIONAL, 100, KM_CREATE),
        open_mode("Local\\a", KM_RAW, 12345, KM_CREATE),
        open_mode("Global\\A", KM_TRANSACTIONAL, 1, KM_CREATE),
        open_mode("Local\\m", KM_TRANSACTIONAL, 70000, KM_CREATE),
        open_mode("Local\\m", KM_TRANSACTIONAL, 0, KM_READONLY),
        open_mode("Local\\m", KM_TRANSACTIONAL, 0, 0),
    };
    for (int i = 0; i < 3; i++) {
        check_commit_fill(maps[4], 0, i + 1, 100);
        must(km_begin(maps[0], KM_WRITE));
        must(km_commit(maps[0]));
    }
    const struct list list = list_all();
    assert_int_equal(list.count, 5);
    expect_told(&list.told[0], "Local\\a", 12345, 0, KM_RAW, 1, 0);
    expect_told(&list.told[1], "Local\\m", 70000, 3, KM_TRANSACTIONAL, 2, 1);
    expect_told(&list.told[2], "Local\\z", 100, 0, KM_TRANSACTIONAL, 1, 0);
    expect_told(&list.told[3], "Global\\A", 1, 0, KM_TRANSACTIONAL, 1, 0);
    expect_told(&list.told[4], "Global\\b", 5000, 3, KM_LIVE, 1, 0);
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        must(km_close(maps[i]));
    }
    assert_int_equal(list_all().count, 0);
}

static void the_list_clears_away_what_the_dead_have_left(void **state) {
    (void)state;
    static const char *const targets[] = {"Local\\dead", "Global\\dead", "Local\\again"};
    km_map *map = open_mode("Local\\alive", KM_LIVE, 100, KM_CREATE);
    for (int i = 0; i < 3; i++) {
        struct visit dead = {.target = targets[i]};
        assert_int_equal(check_in_child(create_and_die, &dead, 20), -SIGKILL);
    }
    assert_int_equal(access(objects_path("Local\\again"), F_OK), 0);
    const struct list list = list_all();
    assert_int_equal(list.count, 1);
    expect_told(&list.told[0], "Local\\alive", 100, 0, KM_LIVE, 1, 0);
    assert_int_equal(access(objects_path("Local\\alive"), F_OK), 0);
    must(km_close(map));
    assert_int_equal(objects_left(), 0);
}

/* So does who creates an object: the names of dead ones do not add up. */
static void a_creation_clears_away_what_the_dead_have_left(void **state) {
    (void)state;
    struct visit dead = {.target = "Local\\dead"};
    assert_int_equal(check_in_child(create_and_die, &dead, 20), -SIGKILL);
    dead.target = "Global\\dead";
    assert_int_equal(check_in_child(create_and_die, &dead, 20), -SIGKILL);
    km_map *map = open_mode("Local\\new", KM_LIVE, 100, KM_CREATE);
    assert_int_not_equal(access(objects_path("Local\\dead"), F_OK), 0);
    assert_int_not_equal(access(objects_path("Global\\dead"), F_OK), 0);
    must(km_close(map));
    assert_int_equal(objects_left(), 0);
}

static void what_cannot_be_looked_at_is_listed_with_the_reason(void **state) {
    (void)state;
    make_directories();
    assert_int_equal(mkfifo(objects_path("Local\\fifo"), 0600), 0);
    assert_int_equal(symlink("/etc/passwd", objects_path("Local\\link")), 0);
    km_map *map = open_mode("Local\\alive", KM_LIVE, 100, KM_CREATE);
    const struct list list = list_all();
    assert_int_equal(list.count, 3);
    expect_told(&list.told[0], "Local\\alive", 100, 0, KM_LIVE, 1, 0);
    static const int errors[] = {0, KM_ENOTMAP, KM_EACCESS};
    for (int i = 1; i < 3; i++) {
        assert_int_equal(list.told[i].listed.error, errors[i]);
        assert_int_equal(list.told[i].listed.size | list.told[i].listed.generation | list.told[i].listed.handles, 0);
        assert_non_null(strstr(list.told[i].detail, list.told[i].target));
    }
    assert_int_equal(unlink(objects_path("Local\\fifo")) | unlink(objects_path("Local\\link")), 0);
    must(km_close(map));
}

static int list_as_a_stranger(void *context) {
    struct list *list = context;
    child_check(setgid(STRANGER) == 0 && setuid(STRANGER) == 0);
    child_must(km_list(note, list));
    child_check(list->count == 2);
    child_check(strcmp(list->told[0].target, "Global\\all") == 0 && list->told[0].listed.error == 0);
    child_check(list->told[0].listed.size == SIZE && list->told[0].listed.generation == 1);
    child_check(strcmp(list->told[1].target, "Global\\mine") == 0 && list->told[1].listed.error == KM_EACCESS);
    child_check(list->told[1].listed.size == 0 && list->told[1].detail[0] != '\0');
    return 0;
}

static void a_user_sees_the_global_objects_of_others_and_not_their_local_ones(void **state) {
    (void)state;
    if (geteuid() != 0) {
        skip();
    }
    km_map *all = open_for_all("Global\\all", 0644);
    km_map *mine = open_for_all("Global\\mine", 0600);
    km_map *local = open_for_all("Local\\local", 0666);
    struct list list = {.count = 0};
    assert_int_equal(check_in_child(list_as_a_stranger, &list, 20), 0);
    must(km_close(all));
    must(km_close(mine));
    must(km_close(local));
}

static void the_caller_can_end_the_list(void **state) {
    (void)state;
    km_map *a = open_mode("Local\\a", KM_RAW, 100, KM_CREATE), *b = open_mode("Local\\b", KM_RAW, 100, KM_CREATE);
    struct list list = {.at_most = 1};
    must_fail(km_list(note, &list), KM_ECANCELED);
    assert_int_equal(list.count, 1);
    must_fail(km_list(NULL, NULL), KM_EINVAL);
    must(km_close(a));
    must(km_close(b));
    assert_int_equal(objects_left(), 0);
}

int main(void) {
    scratch_time_limit(120);
    objects_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_list_tells_of_each_object_in_order),
        cmocka_unit_test(the_list_clears_away_what_the_dead_have_left),
        cmocka_unit_test(a_creation_clears_away_what_the_dead_have_left),
        cmocka_unit_test(what_cannot_be_looked_at_is_listed_with_the_reason),
        cmocka_unit_test(a_user_sees_the_global_objects_of_others_and_not_their_local_ones),
        cmocka_unit_test(the_caller_can_end_the_list),
        cmocka_unit_test(a_name_that_is_a_symbolic_link_is_refused_and_not_followed),
        cmocka_unit_test(a_name_that_is_no_file_is_refused_at_once),
        cmocka_unit_test(a_name_that_is_a_second_one_of_another_file_is_refused),
        cmocka_unit_test(a_file_of_another_user_among_ones_own_is_refused),
        cmocka_unit_test(a_file_that_nobody_uses_is_absent_whatever_it_holds),
        cmocka_unit_test(the_place_for_objects_must_be_a_tmpfs_named_from_the_root),
        cmocka_unit_test(global_objects_are_shared_as_their_permissions_say),
        cmocka_unit_test(local_names_of_two_users_are_two_objects),
        cmocka_unit_test(what_another_user_left_behind_is_refused_with_what_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
