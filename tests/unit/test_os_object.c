/* SPDX-License-Identifier: MIT
 *
 * Objects backed by the paging file, in the os layer on the real system: that they appear whole and once, are found
 * only where they belong, are refused by name where somebody else had his hand in, and take no sync.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os_posix.h"
#include "refusal.h"
#include "support/check.h"
#include "support/halt.h"
#include "support/scratch.h"

#define CHILD_SECONDS 20
#define NOBODY 65534

/* ---- a directory of objects for each test ------------------------------------------------------------------------ */

static char base[600], local[640], global[640];

/* From now on objects are kept in a new directory below the test's own, which is on a tmpfs. */
static void new_base(void) {
    static unsigned count;
    snprintf(base, sizeof base, "%s", scratch_path("base%u", count++));
    assert_int_equal(mkdir(base, 0777), 0);
    assert_int_equal(chmod(base, 01777), 0);
    snprintf(local, sizeof local, "%s/keepmap-%u", base, (unsigned)geteuid());
    snprintf(global, sizeof global, "%s/keepmap-global", base);
    assert_int_equal(setenv("KEEPMAP_SHM", base, 1), 0);
}

static int set_up(void **unused) {
    (void)unused;
    new_base();
    return 0;
}

static int count_entries(const char *directory) {
    int count = 0;
    DIR *stream = opendir(directory);
    if (stream == NULL)
        return -1;
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(stream);
    return count;
}

static unsigned mode_of(const char *path) {
    struct stat status;
    assert_int_equal(lstat(path, &status), 0);
    return status.st_mode & 07777;
}

static struct os_file *make_object(const char *target, const char *text) {
    struct os_file *file = NULL;
    must(os_file_create(&file, target, 0600));
    must(os_file_write(file, 0, text, strlen(text)));
    must(os_file_publish(file, target, false));
    return file;
}

/* The directories exist, and are empty. */
static void make_directories(void) {
    static const char *const targets[] = {"Local\\made", "Global\\made"};
    for (size_t i = 0; i < 2; i++) {
        struct os_file *file = make_object(targets[i], "");
        must(os_file_remove(file, targets[i]));
        os_file_close(file);
    }
    assert_int_equal(count_entries(local), 0);
    assert_int_equal(count_entries(global), 0);
}

static char *in(const char *directory, const char *name) {
    static char paths[4][700];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

static void only_exact_prefixes_name_objects(void **unused) {
    (void)unused;
    assert_true(os_path_is_object("Local\\a"));
    assert_true(os_path_is_object("Global\\a"));
    assert_true(os_path_is_object("Local\\"));
    static const char *const paths[] = {"",           "a",       "Local",     "Global",   "local\\a", "LOCAL\\a",
                                        "./Local\\a", "Local/a", "/Local\\a", "Globa\\l", " Local\\a"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        assert_false(os_path_is_object(paths[i]));
}

/* ---- creation and publication ------------------------------------------------------------------------------------ */

static void an_object_is_invisible_until_published_and_then_whole(void **unused) {
    (void)unused;
    static const char *const targets[] = {"Local\\a b", "Global\\\xc3\xa4.km"};
    const char *const directories[] = {local, global};
    for (size_t i = 0; i < 2; i++) {
        struct os_file *file = NULL, *other = NULL;
        char bytes[5] = "";
        must(os_file_create(&file, targets[i], 0600));
        must(os_file_write(file, 0, "text", 4));
        assert_int_equal(count_entries(directories[i]), 0);
        assert_int_equal(os_file_is_at(file, targets[i]), 0);
        must_fail(os_file_open(&other, targets[i], true), KM_ENOTFOUND);
        must(os_file_publish(file, targets[i], false));
        assert_int_equal(count_entries(directories[i]), 1);
        assert_int_equal(os_file_is_at(file, targets[i]), 1);
        assert_string_equal(os__file_path(file), targets[i]);

        must(os_file_open(&other, targets[i], false));
        assert_string_equal(os__file_path(other), targets[i]);
        must(os_file_read(other, 0, bytes, 4));
        assert_string_equal(bytes, "text");
        must_fail(os_file_write(other, 0, "x", 1), KM_ESYSTEM);
        assert_int_equal(os_file_is_at(other, targets[i]), 1);
        os_file_close(other);
        os_file_close(file);
        assert_int_equal(count_entries(directories[i]), 1);
    }
    assert_int_equal(count_entries(base), 2);
}

static void an_object_without_a_name_vanishes_when_it_is_closed(void **unused) {
    (void)unused;
    struct os_file *file = NULL;
    must(os_file_create(&file, "Local\\closed", 0600));
    must(os_file_write(file, 0, "text", 4));
    os_file_close(file);
    assert_int_equal(count_entries(local), 0);
}

static int create_and_die(void *target) {
    struct os_file *file = NULL;
    child_must(os_file_create(&file, target, 0600));
    child_must(os_file_write(file, 0, "text", 4));
    raise(SIGKILL);
    return 1;
}

static void a_killed_creator_leaves_nothing(void **unused) {
    (void)unused;
    char targets[2][20] = {"Local\\killed", "Global\\killed"};
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(check_in_child(create_and_die, targets[i], CHILD_SECONDS), -SIGKILL);
    assert_int_equal(count_entries(base), 2);
    assert_int_equal(count_entries(local), 0);
    assert_int_equal(count_entries(global), 0);
}

static int create_only(void *context) {
    struct os_file *file = NULL;
    child_must(os_file_create(&file, context, 0600));
    os_file_close(file);
    return 0;
}

/* D4: wherever its maker stands, or dies, a directory that has its name has its mode. */
static void a_directory_has_its_mode_from_the_first_moment_on(void **unused) {
    (void)unused;
    if (!halt_is_possible())
        skip();
    char target[] = "Global\\made";
    struct stat status;
    unsigned found = 0;
    bool ended = false;
    for (unsigned n = 1; !ended; n++) {
        struct halt halt;
        new_base();
        halt_start(&halt, create_only, target);
        ended = halt_run(&halt, n) != HALT_CALL;
        halt_kill(&halt);
        if (lstat(global, &status) == 0) {
            found++;
            assert_int_equal(mode_of(global), 01777);
        }
    }
    assert_true(found > 1);
}

static void publication_refuses_a_name_that_is_taken_and_names_the_place(void **unused) {
    (void)unused;
    struct os_file *first = make_object("Local\\taken", "first"), *second = NULL;
    char bytes[6] = "";
    must(os_file_create(&second, "Local\\taken", 0600));
    must_fail(os_file_publish(second, "Local\\taken", false), KM_EEXISTS);
    check_detail_contains("Local\\taken: ");
    check_detail_contains(in(local, "taken"));
    must_fail(os_file_publish(second, "Local\\taken", true), KM_EUNSUPPORTED);
    assert_int_equal(os_file_is_at(first, "Local\\taken"), 1);
    os_file_close(second);
    must(os_file_read(first, 0, bytes, 5));
    assert_string_equal(bytes, "first");
    os_file_close(first);
    assert_int_equal(count_entries(local), 1);
}

static void a_file_is_not_published_as_an_object_nor_an_object_as_a_file(void **unused) {
    (void)unused;
    struct os_file *file = NULL, *object = NULL;
    must(os_file_create(&file, scratch_path("plain.km"), 0600));
    must(os_file_create(&object, "Local\\plain", 0600));
    must_fail(os_file_publish(file, "Local\\plain", false), KM_EINVAL);
    must_fail(os_file_publish(object, scratch_path("plain.km"), false), KM_EINVAL);
    os_file_close(object);
    os_file_close(file);
    assert_int_equal(count_entries(local), 0);
    assert_int_not_equal(access(scratch_path("plain.km"), F_OK), 0);
}

#define RIVALS 4
#define ROUNDS 25

struct race {
    int start[2]; /* a pipe: it is closed when all may begin */
    const char *target;
};

/* 1: won, 2: the other was quicker. */
static int publish_at_the_signal(const struct race *race) {
    struct os_file *file = NULL;
    char byte;
    close(race->start[1]);
    while (read(race->start[0], &byte, 1) < 0 && errno == EINTR)
        ;
    child_must(os_file_create(&file, race->target, 0600));
    child_must(os_file_write(file, 0, "whole", 5));
    const int result = os_file_publish(file, race->target, false);
    child_check(result == 0 || result == KM_EEXISTS);
    if (result == 0)
        return 1;
    os_file_close(file);
    child_must(os_file_open(&file, race->target, true));
    struct os_file_info info;
    child_must(os_file_info(file, &info));
    child_check(info.size == 5 && info.links == 1);
    return 2;
}

static int run_race(const char *target) {
    struct race race = {.target = target};
    pid_t rivals[RIVALS];
    int winners = 0;
    assert_int_equal(pipe2(race.start, O_CLOEXEC), 0);
    fflush(NULL);
    for (size_t i = 0; i < RIVALS; i++) {
        rivals[i] = fork();
        assert_true(rivals[i] >= 0);
        if (rivals[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            alarm(CHILD_SECONDS);
            _exit(publish_at_the_signal(&race));
        }
    }
    close(race.start[0]);
    close(race.start[1]);
    for (size_t i = 0; i < RIVALS; i++) {
        int status = 0;
        while (waitpid(rivals[i], &status, 0) < 0)
            assert_int_equal(errno, EINTR);
        assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 1 || WEXITSTATUS(status) == 2));
        winners += WEXITSTATUS(status) == 1;
    }
    return winners;
}

/* Each round begins without directories, so that they are raced for too. */
static void of_processes_that_publish_at_once_exactly_one_wins(void **unused) {
    (void)unused;
    for (int round = 0; round < ROUNDS; round++) {
        new_base();
        assert_int_equal(run_race(round % 2 == 0 ? "Local\\race" : "Global\\race"), 1);
        assert_int_equal(count_entries(base), 1); /* no directory that lost is left */
        assert_int_equal(count_entries(round % 2 == 0 ? local : global), 1);
    }
}

static void permissions_are_exact_whatever_the_umask(void **unused) {
    (void)unused;
    static const mode_t masks[] = {0, 022, 077, 0777};
    const mode_t before = umask(0);
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        new_base();
        umask(masks[i]);
        struct os_file *file = NULL;
        struct os_file_info info;
        must(os_file_create(&file, "Global\\open", 0646));
        must(os_file_publish(file, "Global\\open", false));
        must(os_file_info(file, &info));
        os_file_close(file);
        os_file_close(make_object("Local\\private", ""));
        umask(0);
        assert_int_equal(info.permissions, 0646);
        assert_int_equal(mode_of(in(global, "open")), 0646);
        assert_int_equal(mode_of(in(local, "private")), 0600);
        assert_int_equal(mode_of(local), 0700);
        assert_int_equal(mode_of(global), 01777);
    }
    umask(before);
}

static void looking_makes_no_directory(void **unused) {
    (void)unused;
    struct os_file *file = NULL, *other = NULL;
    int told = 0;
    must_fail(os_file_open(&file, "Local\\none", true), KM_ENOTFOUND);
    check_detail_contains("Local\\none");
    must_fail(os_file_open(&file, "Global\\none", false), KM_ENOTFOUND);
    must(os_file_create(&other, scratch_path("other.km"), 0600));
    assert_int_equal(os_file_is_at(other, "Local\\none"), 0);
    must(os_file_remove(other, "Global\\none"));
    os_file_close(other);
    must(os_objects_list(NULL, &told));
    assert_int_equal(count_entries(base), 0);
}

/* ---- removal and identity ---------------------------------------------------------------------------------------- */

static void a_name_is_taken_away_only_from_the_file_that_has_it(void **unused) {
    (void)unused;
    struct os_file *a = make_object("Local\\a", "a"), *b = make_object("Local\\b", "b");
    struct os_file_info info;
    must(os_file_remove(a, "Local\\b"));
    must(os_file_remove(a, "Local\\c"));
    must(os_file_remove(a, "Global\\a"));
    assert_int_equal(count_entries(local), 2);
    must(os_file_remove(a, "Local\\a"));
    assert_int_equal(count_entries(local), 1);
    assert_int_equal(os_file_is_at(a, "Local\\a"), 0);
    must(os_file_info(a, &info));
    assert_int_equal(info.links, 0);

    struct os_file *heir = make_object("Local\\a", "heir");
    assert_int_equal(os_file_is_at(a, "Local\\a"), 0);
    must(os_file_remove(a, "Local\\a"));
    assert_int_equal(os_file_is_at(heir, "Local\\a"), 1);
    os_file_close(heir);
    os_file_close(b);
    os_file_close(a);
}

static void a_path_is_taken_away_only_from_the_file_that_has_it(void **unused) {
    (void)unused;
    struct os_file *file = NULL;
    must(os_file_create(&file, scratch_path("own.km"), 0600));
    must(os_file_publish(file, scratch_path("own.km"), false));
    scratch_store(scratch_path("foreign.km"), "x", 1);
    assert_int_equal(symlink("own.km", scratch_path("link.km")), 0);
    must(os_file_remove(file, scratch_path("foreign.km")));
    must(os_file_remove(file, scratch_path("link.km"))); /* a name of its own */
    must(os_file_remove(file, scratch_path("missing/missing.km")));
    assert_int_equal(access(scratch_path("foreign.km"), F_OK), 0);
    assert_int_equal(access(scratch_path("link.km"), F_OK), 0);
    must(os_file_remove(file, scratch_path("own.km")));
    assert_int_not_equal(access(scratch_path("own.km"), F_OK), 0);
    must(os_file_remove(file, scratch_path("own.km")));
    os_file_close(file);
}

/* ---- entries that are refused ------------------------------------------------------------------------------------ */

/* Opening `name` gives `error`, with the place and `word` in the sentence, in both ways to open it. */
static void refused_entry(const char *name, int error, const char *word) {
    char target[64];
    struct os_file *file = NULL;
    snprintf(target, sizeof target, "Local\\%s", name);
    for (int writable = 0; writable <= 1; writable++) {
        must_fail(os_file_open(&file, target, writable), error);
        check_detail_contains(target);
        check_detail_contains(in(local, name));
        check_detail_contains(word);
    }
    /* And whatever it is keeps its name. */
    must(os_file_create(&file, target, 0600));
    must_fail(os_file_publish(file, target, false), KM_EEXISTS);
    must(os_file_remove(file, target));
    os_file_close(file);
    struct stat status;
    assert_int_equal(lstat(in(local, name), &status), 0);
}

static void what_is_no_object_is_refused_by_name(void **unused) {
    (void)unused;
    make_directories();
    scratch_store(in(local, "real"), "text", 4);
    assert_int_equal(symlink("real", in(local, "link")), 0);
    refused_entry("link", KM_EACCESS, "symbolic link");
    assert_int_equal(symlink("missing", in(local, "dangling")), 0);
    refused_entry("dangling", KM_EACCESS, "symbolic link");
    assert_int_equal(mkdir(in(local, "directory"), 0700), 0);
    refused_entry("directory", KM_EDIRECTORY, "is a directory");
    assert_int_equal(mkfifo(in(local, "fifo"), 0600), 0);
    refused_entry("fifo", KM_ENOTMAP, "not a regular file");

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true((size_t)snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", local) <
                sizeof address.sun_path);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    close(listener);
    refused_entry("socket", KM_ENOTMAP, "not a regular file");

    scratch_store(in(base, "elsewhere"), "mine", 4);
    assert_int_equal(link(in(base, "elsewhere"), in(local, "second")), 0);
    refused_entry("second", KM_EACCESS, "second name");
    assert_int_equal(unlink(in(base, "elsewhere")), 0);
    struct os_file *file = NULL;
    must(os_file_open(&file, "Local\\second", true)); /* one name again */
    os_file_close(file);
}

static void opening_a_fifo_neither_blocks_nor_wakes_its_writer(void **unused) {
    (void)unused;
    make_directories();
    const char *fifo = in(local, "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    const int reader = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(reader >= 0);
    struct os_file *file = NULL;
    must_fail(os_file_open(&file, "Local\\fifo", true), KM_ENOTMAP);
    /* Had it been opened for writing and closed again, the reader would have been told that its writer hung up. */
    struct pollfd seen = {.fd = reader, .events = POLLIN};
    assert_int_equal(poll(&seen, 1, 0), 0);
    close(reader);
}

static void an_entry_of_another_user_is_refused_among_the_local_names_only(void **unused) {
    (void)unused;
    if (geteuid() != 0)
        skip();
    make_directories();
    struct os_file *file = NULL;
    static const char *const targets[] = {"Local\\foreign", "Global\\foreign"};
    const char *const directories[] = {local, global};
    for (size_t i = 0; i < 2; i++) {
        os_file_close(make_object(targets[i], "text"));
        assert_int_equal(chown(in(directories[i], "foreign"), NOBODY, NOBODY), 0);
    }
    refused_entry("foreign", KM_EACCESS, "belongs to user 65534");
    must(os_file_open(&file, "Global\\foreign", true));
    os_file_close(file);
}

static int act_as_nobody(void *unused) {
    (void)unused;
    struct os_file *file = NULL;
    if (!refusal_become_nobody())
        return REFUSAL_SKIP;
    child_check(os_file_open(&file, "Global\\private", false) == KM_EACCESS);
    child_check(os_file_open(&file, "Global\\readable", true) == KM_EACCESS);
    child_must(os_file_open(&file, "Global\\readable", false));
    child_check(os_file_remove(file, "Global\\readable") == KM_EACCESS); /* what the sticky bit is for */
    child_check(os_file_is_at(file, "Global\\readable") == 1);
    os_file_close(file);
    child_check(os_file_open(&file, "Local\\roots", false) == KM_ENOTFOUND); /* a name of somebody else */

    child_must(os_file_create(&file, "Global\\nobodys", 0666));
    child_must(os_file_publish(file, "Global\\nobodys", false));
    os_file_close(file);
    child_must(os_file_create(&file, "Local\\roots", 0600));
    child_must(os_file_publish(file, "Local\\roots", false));
    os_file_close(file);
    return 0;
}

static void users_share_global_names_and_permissions_decide(void **unused) {
    (void)unused;
    if (geteuid() != 0)
        skip();
    /* The other user must get there. */
    char *slash = strrchr(base, '/');
    *slash = '\0';
    assert_int_equal(chmod(base, 0755), 0);
    *slash = '/';
    struct os_file *file = NULL;
    os_file_close(make_object("Local\\roots", "root"));
    os_file_close(make_object("Global\\private", "root"));
    must(os_file_create(&file, "Global\\readable", 0644));
    must(os_file_publish(file, "Global\\readable", false));
    os_file_close(file);
    refusal_run(act_as_nobody, NULL);
    must(os_file_open(&file, "Global\\nobodys", true));
    must(os_file_remove(file, "Global\\nobodys"));
    os_file_close(file);
    assert_int_equal(count_entries(base), 3); /* a directory for each user, and one for all */
    assert_int_equal(count_entries(local), 1);
    assert_int_equal(count_entries(global), 2);
}

/* ---- directories that are refused -------------------------------------------------------------------------------- */

static int count_targets(void *context, const char *target) {
    (void)target;
    ++*(int *)context;
    return 0;
}

/* Every call that reaches the directory of `target` gives `error`, with `word` in the sentence. */
static void refused_directory(const char *target, int error, const char *word) {
    struct os_file *file = NULL, *other = NULL;
    int told = 0;
    must_fail(os_file_open(&file, target, true), error);
    check_detail_contains(word);
    must_fail(os_file_open(&file, target, false), error);
    must_fail(os_file_create(&file, target, 0600), error);
    check_detail_contains(target);
    check_detail_contains(word);
    must(os_file_create(&other, scratch_path("other.km"), 0600));
    must_fail(os_file_is_at(other, target), error);
    must_fail(os_file_remove(other, target), error);
    os_file_close(other);
    if (target[0] == 'L') {
        must_fail(os_objects_list(count_targets, &told), error);
        check_detail_contains(word);
        assert_int_equal(told, 0);
    } else {
        must(os_objects_list(count_targets, &told));
        assert_int_equal(told, 1); /* the local one */
    }
}

static void a_directory_of_local_names_that_is_not_the_users_own_is_refused(void **unused) {
    (void)unused;
    assert_int_equal(symlink(".", local), 0);
    refused_directory("Local\\a", KM_EACCESS, "symbolic link");
    assert_int_equal(unlink(local), 0);
    scratch_store(local, "", 0);
    refused_directory("Local\\a", KM_EACCESS, local);
    assert_int_equal(unlink(local), 0);

    static const mode_t modes[] = {0701, 0710, 0770, 0755, 01777};
    assert_int_equal(mkdir(local, 0700), 0);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        assert_int_equal(chmod(local, modes[i]), 0);
        refused_directory("Local\\a", KM_EACCESS, "open to others");
        check_detail_contains(local);
    }
    assert_int_equal(chmod(local, 0700), 0);
    os_file_close(make_object("Local\\a", ""));
    if (geteuid() == 0) {
        assert_int_equal(chown(local, NOBODY, NOBODY), 0);
        refused_directory("Local\\a", KM_EACCESS, "belongs to user 65534");
        assert_int_equal(count_entries(local), 1);
    }
}

static void a_directory_of_global_names_where_everybody_may_remove_is_refused(void **unused) {
    (void)unused;
    os_file_close(make_object("Local\\there", ""));
    assert_int_equal(symlink("keepmap-elsewhere", global), 0);
    refused_directory("Global\\a", KM_EACCESS, "symbolic link");
    assert_int_equal(unlink(global), 0);
    assert_int_equal(mkfifo(global, 0666), 0);
    refused_directory("Global\\a", KM_EACCESS, global);
    assert_int_equal(unlink(global), 0);
    assert_int_equal(mkdir(global, 0700), 0);
    assert_int_equal(chmod(global, 0777), 0);
    refused_directory("Global\\a", KM_EACCESS, "sticky bit");
    check_detail_contains(global);
    static const mode_t good[] = {01777, 0755, 0775}; /* an administrator may let fewer write */
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(chmod(global, good[i]), 0);
        struct os_file *file = make_object("Global\\a", "");
        must(os_file_remove(file, "Global\\a"));
        os_file_close(file);
    }
}

static void objects_are_kept_nowhere_but_on_a_tmpfs(void **unused) {
    (void)unused;
    struct os_file *file = NULL;
    int told = 0;
    static const char *const places[][2] = {
        {"keepmap", "absolute path"}, {"./", "absolute path"}, {"/proc", "tmpfs"}, {"/nonexistent/keepmap", "tmpfs"}};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        assert_int_equal(setenv("KEEPMAP_SHM", places[i][0], 1), 0);
        must_fail(os_file_open(&file, "Local\\a", true), KM_EUNSUPPORTED);
        check_detail_contains(places[i][0]);
        check_detail_contains(places[i][1]);
        check_detail_contains("KEEPMAP_SHM");
        must_fail(os_file_create(&file, "Global\\a", 0600), KM_EUNSUPPORTED);
        must_fail(os_objects_list(count_targets, &told), KM_EUNSUPPORTED);
    }
    assert_int_equal(setenv("KEEPMAP_SHM", base, 1), 0);
    assert_int_equal(chmod(base, 0777), 0);
    must_fail(os_file_create(&file, "Global\\a", 0600), KM_EACCESS);
    check_detail_contains("sticky bit");
    check_detail_contains(base);
    scratch_store(scratch_path("file"), "", 0);
    assert_int_equal(setenv("KEEPMAP_SHM", scratch_path("file"), 1), 0);
    must_fail(os_file_open(&file, "Local\\a", true), KM_EUNSUPPORTED);
}

static int look_where_it_is_usual(void *unused) {
    (void)unused;
    struct os_file *file = NULL;
    if (!refusal_mount_tmpfs("/dev/shm", 1 << 20))
        return REFUSAL_SKIP;
    for (int i = 0; i < 2; i++) {
        child_check((i == 0 ? unsetenv("KEEPMAP_SHM") : setenv("KEEPMAP_SHM", "", 1)) == 0);
        child_must(os_file_create(&file, "Local\\a", 0600));
        child_must(os_file_publish(file, "Local\\a", false));
        child_check(access(in("/dev/shm", strrchr(local, '/') + 1), F_OK) == 0);
        child_must(os_file_remove(file, "Local\\a"));
        os_file_close(file);
    }
    return 0;
}

static void without_a_choice_objects_are_in_dev_shm(void **unused) {
    (void)unused;
    refusal_run(look_where_it_is_usual, NULL);
}

static int work_without_proc(void *unused) {
    (void)unused;
    struct os_file *file = NULL;
    struct os_locks *locks = NULL;
    child_must(os_file_create(&file, "Local\\a", 0600));
    child_must(os_file_publish(file, "Local\\a", false));
    if (!refusal_mount_tmpfs("/proc", 65536))
        return REFUSAL_SKIP;
    child_check(os_locks_open(&locks, file) == KM_EUNSUPPORTED);
    child_check(strstr(km__error_detail(), "/proc") != NULL);
    os_file_close(file);
    child_check(os_file_open(&file, "Local\\a", true) == KM_EUNSUPPORTED);
    child_check(strstr(km__error_detail(), "/proc") != NULL);
    return 0;
}

static void without_proc_the_error_says_what_to_mount(void **unused) {
    (void)unused;
    refusal_run(work_without_proc, NULL);
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

struct listing {
    char text[512];
    const char *stop; /* the walk ends there; NULL: nowhere */
    struct os_file *remove;
};

static int note_target(void *context, const char *target) {
    struct listing *listing = context;
    strncat(listing->text, target, sizeof listing->text - strlen(listing->text) - 2);
    strcat(listing->text, "|");
    if (listing->remove != NULL)
        must(os_file_remove(listing->remove, target));
    return listing->stop != NULL && strcmp(listing->stop, target) == 0;
}

static void the_list_has_every_entry_in_the_order_of_names(void **unused) {
    (void)unused;
    static const char *const targets[] = {"Local\\b", "Global\\z", "Local\\a\xc3\xa4",
                                          "Local\\B", "Global\\a", "Local\\a"};
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++)
        os_file_close(make_object(targets[i], ""));
    assert_int_equal(mkdir(in(local, "..."), 0700), 0);
    assert_int_equal(symlink("nowhere", in(global, ".hidden")), 0);
    struct listing listing = {.text = ""};
    must(os_objects_list(note_target, &listing));
    assert_string_equal(listing.text, "Local\\...|Local\\B|Local\\a|Local\\a\xc3\xa4|Local\\b|"
                                      "Global\\.hidden|Global\\a|Global\\z|");

    struct listing stopped = {.text = "", .stop = "Local\\a"};
    must(os_objects_list(note_target, &stopped));
    assert_string_equal(stopped.text, "Local\\...|Local\\B|Local\\a|");

    struct listing removing = {.text = ""};
    must(os_file_open(&removing.remove, "Local\\b", true));
    must(os_objects_list(note_target, &removing));
    assert_string_equal(removing.text, listing.text);
    assert_int_equal(os_file_is_at(removing.remove, "Local\\b"), 0);
    os_file_close(removing.remove);
    assert_int_equal(count_entries(local), 4);
}

static void a_list_of_many_names_is_complete(void **unused) {
    (void)unused;
    make_directories();
    int told = 0;
    for (int i = 0; i < 300; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%d", i);
        scratch_store(in(i % 3 == 0 ? global : local, name), "", 0);
    }
    must(os_objects_list(count_targets, &told));
    assert_int_equal(told, 300);
}

/* ---- syncs ------------------------------------------------------------------------------------------------------- */

struct durables {
    struct os_file *file;
    struct os_region region;
    struct os_view view;
};

static void open_durables(struct durables *durables, const char *path) {
    static const char zeros[8192];
    must(os_file_create(&durables->file, path, 0600));
    must(os_file_write(durables->file, 0, zeros, sizeof zeros));
    must(os_file_publish(durables->file, path, false));
    must(os_region_map(&durables->region, durables->file, 0, 8192, true));
    must(os_view_map(&durables->view, durables->file, OS_VIEW_SHARED, 0, 8192, 8192));
}

/* How many of the calls that make something durable say that it failed. */
static int count_failures(struct durables *durables, const char *path) {
    durables->view.address[0] = 1;
    durables->region.address[4096] = 1;
    int failures = os_file_sync(durables->file) != 0;
    failures += os_file_sync_name(durables->file, path) != 0;
    failures += os_file_write_durable(durables->file, 100, "x", 1) != 0;
    failures += os_region_sync(&durables->region, 0, 8192) != 0;
    failures += os_view_sync(&durables->view) != 0;
    return failures;
}

static int sync_where_it_fails(void *unused) {
    (void)unused;
    struct durables object = {.file = NULL}, file = {.file = NULL};
    open_durables(&object, "Local\\volatile");
    open_durables(&file, scratch_path("durable.km"));
    child_check(os_file_is_volatile(object.file));
    child_check(!os_file_is_volatile(file.file));
    static const long calls[] = {SYS_fsync, SYS_fdatasync, SYS_syncfs, SYS_msync, SYS_pwritev2};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        if (!refuse_call(calls[i], 0, 0, EIO))
            return REFUSAL_SKIP;
    }
    child_check(count_failures(&file, scratch_path("durable.km")) == 5);
    child_check(count_failures(&object, "Local\\volatile") == 0);
    char byte = 0;
    child_must(os_file_read(object.file, 100, &byte, 1));
    child_check(byte == 'x'); /* it is written all the same */
    return 0;
}

static void syncs_of_an_object_ask_the_system_for_nothing(void **unused) {
    (void)unused;
    refusal_run(sync_where_it_fails, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(only_exact_prefixes_name_objects, set_up),
        cmocka_unit_test_setup(an_object_is_invisible_until_published_and_then_whole, set_up),
        cmocka_unit_test_setup(an_object_without_a_name_vanishes_when_it_is_closed, set_up),
        cmocka_unit_test_setup(a_killed_creator_leaves_nothing, set_up),
        cmocka_unit_test_setup(a_directory_has_its_mode_from_the_first_moment_on, set_up),
        cmocka_unit_test_setup(publication_refuses_a_name_that_is_taken_and_names_the_place, set_up),
        cmocka_unit_test_setup(a_file_is_not_published_as_an_object_nor_an_object_as_a_file, set_up),
        cmocka_unit_test_setup(of_processes_that_publish_at_once_exactly_one_wins, set_up),
        cmocka_unit_test_setup(permissions_are_exact_whatever_the_umask, set_up),
        cmocka_unit_test_setup(looking_makes_no_directory, set_up),
        cmocka_unit_test_setup(a_name_is_taken_away_only_from_the_file_that_has_it, set_up),
        cmocka_unit_test_setup(a_path_is_taken_away_only_from_the_file_that_has_it, set_up),
        cmocka_unit_test_setup(what_is_no_object_is_refused_by_name, set_up),
        cmocka_unit_test_setup(opening_a_fifo_neither_blocks_nor_wakes_its_writer, set_up),
        cmocka_unit_test_setup(an_entry_of_another_user_is_refused_among_the_local_names_only, set_up),
        cmocka_unit_test_setup(users_share_global_names_and_permissions_decide, set_up),
        cmocka_unit_test_setup(a_directory_of_local_names_that_is_not_the_users_own_is_refused, set_up),
        cmocka_unit_test_setup(a_directory_of_global_names_where_everybody_may_remove_is_refused, set_up),
        cmocka_unit_test_setup(objects_are_kept_nowhere_but_on_a_tmpfs, set_up),
        cmocka_unit_test_setup(without_a_choice_objects_are_in_dev_shm, set_up),
        cmocka_unit_test_setup(without_proc_the_error_says_what_to_mount, set_up),
        cmocka_unit_test_setup(the_list_has_every_entry_in_the_order_of_names, set_up),
        cmocka_unit_test_setup(a_list_of_many_names_is_complete, set_up),
        cmocka_unit_test_setup(syncs_of_an_object_ask_the_system_for_nothing, set_up),
    };
    /* The test's own directory is on a tmpfs, so that objects can be kept in it, and goes with it. */
    const char *place = getenv("KEEPMAP_SHM");
    if (setenv("TMPDIR", place != NULL ? place : "/dev/shm", 1) != 0)
        return 1;
    scratch_time_limit(100);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
