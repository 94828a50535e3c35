/* SPDX-License-Identifier: MIT
 *
 * Files of the os layer on the real system: creation and publication, refusals, exact reads and writes, space and
 * holes, and what happens where the system lacks something.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os_posix.h"
#include "refusal.h"
#include "support/check.h"
#include "support/scratch.h"

#define CHILD_SECONDS 20

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

static char *make_directory(const char *name) {
    char *directory = scratch_path("%s", name);
    assert_int_equal(mkdir(directory, 0777), 0);
    return directory;
}

static struct os_file *make_file(const char *path, uint64_t size) {
    struct os_file *file = NULL;
    must(os_file_create(&file, path, 0600));
    must(os_file_resize(file, size));
    must(os_file_publish(file, path, false));
    return file;
}

/* ---- creation and publication ------------------------------------------------------------------------------------ */

static void a_created_file_is_invisible_until_published(void **unused) {
    (void)unused;
    const char *directory = make_directory("invisible");
    const char *path = scratch_path("invisible/a.km");
    struct os_file *file = NULL;
    must(os_file_create(&file, path, 0600));
    must(os_file_write(file, 0, "text", 4));
    assert_int_equal(count_entries(directory), 0);
    assert_int_equal(os_file_is_at(file, path), 0);
    must(os_file_publish(file, path, false));
    assert_int_equal(count_entries(directory), 1);
    assert_int_equal(os_file_is_at(file, path), 1);
    os_file_close(file);
    assert_int_equal(scratch_file_size(path), 4);
}

static void a_created_file_vanishes_when_it_is_closed(void **unused) {
    (void)unused;
    const char *directory = make_directory("closed");
    struct os_file *file = NULL;
    must(os_file_create(&file, scratch_path("closed/a.km"), 0600));
    must(os_file_write(file, 0, "text", 4));
    os_file_close(file);
    assert_int_equal(count_entries(directory), 0);
}

static int create_and_die(void *path) {
    struct os_file *file = NULL;
    child_must(os_file_create(&file, path, 0600));
    child_must(os_file_write(file, 0, "text", 4));
    raise(SIGKILL);
    return 1;
}

static void a_created_file_vanishes_when_its_process_is_killed(void **unused) {
    (void)unused;
    const char *directory = make_directory("killed");
    char path[600];
    snprintf(path, sizeof path, "%s/a.km", directory);
    assert_int_equal(check_in_child(create_and_die, path, CHILD_SECONDS), -SIGKILL);
    assert_int_equal(count_entries(directory), 0);
}

static void publication_refuses_an_existing_name(void **unused) {
    (void)unused;
    const char *directory = make_directory("exists");
    const char *path = scratch_path("exists/a.km");
    scratch_store(path, "mine", 4);
    struct os_file *file = NULL;
    must(os_file_create(&file, path, 0600));
    must_fail(os_file_publish(file, path, false), KM_EEXISTS);
    check_detail_contains(path);
    os_file_close(file);
    assert_int_equal(count_entries(directory), 1);
    assert_int_equal(scratch_file_size(path), 4);
}

static void replacing_swaps_the_name_and_leaves_the_old_file_to_its_users(void **unused) {
    (void)unused;
    const char *directory = make_directory("replace");
    const char *path = scratch_path("replace/a.km");
    struct os_file *old = make_file(path, 10);
    struct os_file *file = NULL;
    struct os_file_info info;
    must(os_file_create(&file, path, 0600));
    must(os_file_resize(file, 20));
    must(os_file_publish(file, path, true));
    assert_int_equal(count_entries(directory), 1);
    assert_int_equal(scratch_file_size(path), 20);
    must(os_file_info(old, &info));
    assert_int_equal(info.size, 10);
    assert_int_equal(info.links, 0);
    assert_int_equal(os_file_is_at(old, path), 0);
    must(os_file_info(file, &info));
    assert_int_equal(info.links, 1);
    os_file_close(old);
    os_file_close(file);

    /* Where nothing is to be replaced, the name is simply given. */
    file = NULL;
    must(os_file_create(&file, scratch_path("replace/b.km"), 0600));
    must(os_file_publish(file, scratch_path("replace/b.km"), true));
    os_file_close(file);
    assert_int_equal(count_entries(directory), 2);
}

static void permissions_are_exact_whatever_the_umask(void **unused) {
    (void)unused;
    static const uint32_t wanted[] = {0600, 0640, 0666, 0444, 0660};
    const mode_t before = umask(0077);
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        const char *path = scratch_path("permissions-%zu.km", i);
        struct os_file *file = NULL;
        struct stat status;
        must(os_file_create(&file, path, wanted[i]));
        must(os_file_publish(file, path, false));
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_mode & 07777, wanted[i]);
        struct os_file_info info;
        must(os_file_info(file, &info));
        assert_int_equal(info.permissions, wanted[i]);
        os_file_close(file);
    }
    umask(before);
}

static int create_without_unnamed_files(void *context) {
    const char *directory = context;
    char path[600];
    snprintf(path, sizeof path, "%s/a.km", directory);
    if (!refuse_call(SYS_openat, 2, O_TMPFILE, EOPNOTSUPP))
        return REFUSAL_SKIP;
    struct os_file *file = NULL;
    struct stat status;
    child_must(os_file_create(&file, path, 0640));
    child_check(count_entries(directory) == 1);
    child_check(access(path, F_OK) != 0);
    os_file_close(file);
    child_check(count_entries(directory) == 0);

    child_must(os_file_create(&file, path, 0640));
    child_must(os_file_publish(file, path, false));
    child_check(count_entries(directory) == 1);
    child_check(stat(path, &status) == 0 && (status.st_mode & 07777) == 0640);
    struct os_file *other = NULL;
    child_must(os_file_create(&other, path, 0640));
    child_check(os_file_publish(other, path, false) == KM_EEXISTS);
    child_must(os_file_publish(other, path, true));
    child_check(os_file_is_at(other, path) == 1);
    os_file_close(other);
    os_file_close(file);
    child_check(count_entries(directory) == 1);
    return 0;
}

static void without_unnamed_files_a_temporary_name_is_used_and_removed(void **unused) {
    (void)unused;
    refusal_run(create_without_unnamed_files, make_directory("temporary"));
}

static int work_without_proc(void *context) {
    const char *path = context;
    if (!refusal_mount_tmpfs("/proc", 65536))
        return REFUSAL_SKIP;
    child_check(access("/proc/self", F_OK) != 0);
    struct os_file *file = NULL;
    struct os_locks *locks = NULL;
    child_must(os_file_create(&file, path, 0600));
    child_must(os_file_resize(file, 4096));
    child_must(os_file_publish(file, path, false));
    child_must(os_locks_open(&locks, file));
    child_must(os_lock_try(locks, 1, 1, OS_LOCK_WRITE));
    os_locks_close(locks);
    os_file_close(file);
    child_must(os_file_open(&file, path, true));
    child_must(os_locks_open(&locks, file));
    os_locks_close(locks);

    /* Another file under the name is not taken for this one. */
    unlink(path);
    int other = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    child_check(other >= 0);
    child_check(os_locks_open(&locks, file) == KM_ENOTFOUND);
    close(other);
    os_file_close(file);
    child_check(os_file_open(&file, "/", true) == KM_EDIRECTORY);
    child_check(os_process_start(os_process_id()) == 0);
    return 0;
}

static void files_and_locks_work_without_proc(void **unused) {
    (void)unused;
    refusal_run(work_without_proc, scratch_path("without-proc.km"));
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void opening_refuses_what_is_no_regular_file_by_its_own_error(void **unused) {
    (void)unused;
    struct os_file *file = NULL;
    must_fail(os_file_open(&file, scratch_path("missing.km"), true), KM_ENOTFOUND);
    check_detail_contains("missing.km");
    must_fail(os_file_open(&file, make_directory("directory"), true), KM_EDIRECTORY);
    must_fail(os_file_open(&file, scratch_path("directory"), false), KM_EDIRECTORY);
    must_fail(os_file_open(&file, "/dev/null", true), KM_ENOTMAP);
    scratch_store(scratch_path("file"), "x", 1);
    must_fail(os_file_open(&file, scratch_path("file/below"), true), KM_ESYSTEM);

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_int_equal(chdir(scratch_path("directory")), 0); /* addresses of sockets are short */
    strcpy(address.sun_path, "socket");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    must_fail(os_file_open(&file, "socket", true), KM_ENOTMAP);
    close(fd);
    assert_int_equal(chdir("/"), 0);
    assert_null(file);
}

static int open_fifo_for_writing(void *path) {
    return open(path, O_WRONLY) >= 0 ? 0 : 1; /* sleeps until somebody reads */
}

static void opening_a_fifo_neither_blocks_nor_wakes_its_writer(void **unused) {
    (void)unused;
    struct os_file *file = NULL;
    char *path = scratch_path("fifo");
    assert_int_equal(mkfifo(path, 0600), 0);
    const pid_t writer = fork();
    assert_true(writer >= 0);
    if (writer == 0) {
        alarm(CHILD_SECONDS);
        _exit(open_fifo_for_writing(path));
    }
    scratch_sleep_ms(50);
    must_fail(os_file_open(&file, path, true), KM_ENOTMAP);
    must_fail(os_file_open(&file, path, false), KM_ENOTMAP);
    scratch_sleep_ms(50);
    int status = 0;
    assert_int_equal(waitpid(writer, &status, WNOHANG), 0); /* it sleeps on */
    kill(writer, SIGKILL);
    waitpid(writer, &status, 0);
}

static int open_without_permission(void *context) {
    const char *path = context;
    struct os_file *file = NULL;
    struct os_locks *locks = NULL;
    if (!refusal_become_nobody())
        return REFUSAL_SKIP;
    child_check(os_file_open(&file, path, true) == KM_EACCESS);
    child_check(strstr(km__error_detail(), path) != NULL);
    child_must(os_file_open(&file, path, false));
    child_must(os_locks_open(&locks, file));
    child_must(os_lock_try(locks, 7, 1, OS_LOCK_READ));
    child_check(os_lock_try(locks, 7, 1, OS_LOCK_WRITE) == KM_EACCESS);
    child_check(os_file_write(file, 0, "x", 1) != 0);
    os_locks_close(locks);
    os_file_close(file);
    child_check(os_file_create(&file, "/keepmap-test-nobody.km", 0600) == KM_EACCESS);
    return 0;
}

static void missing_permission_is_said_and_never_got_around(void **unused) {
    (void)unused;
    if (geteuid() != 0)
        skip();
    char *path = scratch_path("readable.km");
    scratch_store(path, "text", 4);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(chmod(scratch_path("."), 0755), 0);
    refusal_run(open_without_permission, path);
}

static void ranges_beyond_what_a_file_can_have_are_refused(void **unused) {
    (void)unused;
    struct os_file *file = make_file(scratch_path("ranges.km"), 4096);
    uint64_t start, stop;
    char byte = 0;
    must_fail(os_file_read(file, UINT64_MAX, &byte, 1), KM_ESIZE);
    must_fail(os_file_write(file, UINT64_MAX - 1, &byte, 1), KM_ESIZE);
    must_fail(os_file_write_durable(file, (uint64_t)INT64_MAX, &byte, 1), KM_ESIZE);
    must_fail(os_file_resize(file, UINT64_MAX), KM_ESIZE);
    must_fail(os_file_allocate(file, 1, UINT64_MAX), KM_ESIZE);
    must_fail(os_file_zero(file, UINT64_MAX, UINT64_MAX), KM_ESIZE);
    must_fail(os_file_next_data(file, 0, UINT64_MAX, &start, &stop), KM_ESIZE);
    assert_int_equal(scratch_file_size(scratch_path("ranges.km")), 4096);
    os_file_close(file);
}

static int write_beyond_the_limit(void *context) {
    struct os_file *file = NULL;
    unsigned char bytes[8192] = {1};
    child_must(os_file_create(&file, context, 0600));
    struct rlimit limit = {.rlim_cur = 4096, .rlim_max = 4096};
    child_check(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    signal(SIGXFSZ, SIG_IGN);
    child_check(os_file_write(file, 0, bytes, sizeof bytes) == KM_ESIZE);
    child_check(os_file_write_durable(file, 0, bytes, sizeof bytes) == KM_ESIZE);
    child_check(os_file_resize(file, 8192) == KM_ESIZE);
    child_check(os_file_allocate(file, 0, 8192) == KM_ESIZE);
    child_must(os_file_write(file, 0, bytes, 4096));
    os_file_close(file);
    return 0;
}

static void the_limit_of_file_sizes_is_an_error_where_its_signal_is_ignored(void **unused) {
    (void)unused;
    refusal_run(write_beyond_the_limit, scratch_path("limit.km"));
}

static int fill_a_small_disk(void *context) {
    const char *directory = context;
    char path[600];
    if (!refusal_mount_tmpfs(directory, 256 * 1024))
        return REFUSAL_SKIP;
    static unsigned char bytes[512 * 1024];
    struct os_file *file = NULL;
    snprintf(path, sizeof path, "%s/a.km", directory);
    child_must(os_file_create(&file, path, 0600));
    child_check(os_file_allocate(file, 0, sizeof bytes) == KM_ENOSPACE);
    child_check(strstr(km__error_detail(), path) != NULL);
    memset(bytes, 7, sizeof bytes);
    child_check(os_file_write(file, 0, bytes, sizeof bytes) == KM_ENOSPACE);
    child_check(os_file_write_durable(file, 0, bytes, sizeof bytes) == KM_ENOSPACE);
    child_must(os_file_zero(file, 0, 65536));
    child_must(os_file_write(file, 0, bytes, 65536));
    os_file_close(file);
    return 0;
}

static void a_full_disk_is_an_error_and_room_made_again_can_be_used(void **unused) {
    (void)unused;
    refusal_run(fill_a_small_disk, make_directory("small"));
}

static void a_descriptor_that_the_program_took_is_not_closed(void **unused) {
    (void)unused;
    struct os_file *file = make_file(scratch_path("taken.km"), 10);
    const int fd = os__file_descriptor(file);
    close(fd);
    const int other = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_int_equal(dup2(other, fd), fd);
    os_file_close(file);
    assert_true(fcntl(fd, F_GETFD) >= 0);
    close(fd);
    close(other);
}

/* ---- bytes, space and holes -------------------------------------------------------------------------------------- */

static void reads_are_exact_and_say_where_the_file_ends(void **unused) {
    (void)unused;
    struct os_file *file = make_file(scratch_path("exact.km"), 0);
    char bytes[8] = "";
    must(os_file_write(file, 5, "abc", 3));
    must(os_file_read(file, 5, bytes, 3));
    assert_memory_equal(bytes, "abc", 3);
    must(os_file_read(file, 0, bytes, 5));
    assert_memory_equal(bytes, "\0\0\0\0\0", 5);
    must_fail(os_file_read(file, 5, bytes, 4), KM_ETRUNCATED);
    must_fail(os_file_read(file, 100, bytes, 1), KM_ETRUNCATED);
    must(os_file_write_durable(file, 4, "xy", 2));
    must(os_file_read(file, 4, bytes, 4));
    assert_memory_equal(bytes, "xybc", 4);
    must(os_file_sync(file));
    os_file_close(file);

    must(os_file_open(&file, scratch_path("exact.km"), false));
    assert_true(os_file_write(file, 0, "x", 1) < 0);
    os_file_close(file);
}

static void check_space(struct os_file *file, int (*holds)(int condition)) {
    struct os_file_info info;
    unsigned char bytes[4096];
    uint64_t start, stop;
    const uint64_t mib = 1 << 20;
    holds(os_file_resize(file, 4 * mib) == 0);
    holds(os_file_next_data(file, 0, 4 * mib, &start, &stop) == 0 && start == 4 * mib && stop == 4 * mib);
    memset(bytes, 5, sizeof bytes);
    holds(os_file_write(file, mib, bytes, sizeof bytes) == 0);
    holds(os_file_next_data(file, 0, 4 * mib, &start, &stop) == 0 && start <= mib && stop >= mib + 4096);
    holds(start > 0 && stop < 4 * mib);
    holds(os_file_next_data(file, stop, 4 * mib, &start, &stop) == 0 && start == 4 * mib && stop == 4 * mib);
    holds(os_file_next_data(file, 5 * mib, 6 * mib, &start, &stop) == 0 && start == 6 * mib);

    holds(os_file_allocate(file, mib - 65536, 131072) == 0);
    holds(os_file_info(file, &info) == 0 && info.allocated >= 131072 && info.size == 4 * mib);
    holds(os_file_allocate(file, 4 * mib - 65536, 131072) == 0);
    holds(os_file_info(file, &info) == 0 && info.allocated >= 262144 && info.size == 4 * mib + 65536);
    holds(os_file_read(file, mib, bytes, sizeof bytes) == 0 && bytes[0] == 5 && bytes[4095] == 5);

    holds(os_file_zero(file, mib + 100, 1000) == 0);
    holds(os_file_read(file, mib, bytes, sizeof bytes) == 0);
    holds(bytes[99] == 5 && bytes[100] == 0 && bytes[1099] == 0 && bytes[1100] == 5);
    holds(os_file_zero(file, 0, 4 * mib) == 0);
    holds(os_file_read(file, mib, bytes, sizeof bytes) == 0 && bytes[0] == 0 && bytes[4095] == 0);
}

static int holds_here(int condition) {
    assert_true(condition);
    return 0;
}

static void space_is_reserved_and_cleared_and_holes_are_skipped(void **unused) {
    (void)unused;
    struct os_file *file = make_file(scratch_path("space.km"), 0);
    check_space(file, holds_here);
    struct os_file_info info;
    must(os_file_info(file, &info));
    assert_true(info.allocated < 262144); /* the cleared range is a hole */
    os_file_close(file);
}

static int holds_in_child(int condition) {
    child_check(condition);
    return 0;
}

static int work_without_allocation(void *context) {
    struct os_file *file = NULL;
    if (!refuse_call(SYS_fallocate, 0, 0, EOPNOTSUPP) || !refuse_call(SYS_pwritev2, 0, 0, EOPNOTSUPP))
        return REFUSAL_SKIP;
    child_must(os_file_create(&file, context, 0600));
    check_space(file, holds_in_child);
    char bytes[4];
    child_must(os_file_write_durable(file, 3, "abcd", 4));
    child_must(os_file_read(file, 3, bytes, 4));
    child_check(memcmp(bytes, "abcd", 4) == 0);
    os_file_close(file);
    return 0;
}

static void a_file_system_without_allocation_and_durable_writes_gives_the_same(void **unused) {
    (void)unused;
    refusal_run(work_without_allocation, scratch_path("without-allocation.km"));
}

static void a_name_is_compared_with_the_file_not_with_the_path(void **unused) {
    (void)unused;
    const char *path = scratch_path("named.km");
    struct os_file *file = make_file(path, 10);
    assert_int_equal(symlink(path, scratch_path("link")), 0);
    assert_int_equal(link(path, scratch_path("other-name.km")), 0);
    assert_int_equal(os_file_is_at(file, scratch_path("link")), 1);
    assert_int_equal(os_file_is_at(file, scratch_path("other-name.km")), 1);
    assert_int_equal(rename(path, scratch_path("moved.km")), 0);
    assert_int_equal(os_file_is_at(file, path), 0);
    scratch_store(path, "another", 7);
    assert_int_equal(os_file_is_at(file, path), 0);
    assert_int_equal(os_file_is_at(file, scratch_path("moved.km/below")), 0);
    os_file_close(file);
}

static void a_link_that_leads_nowhere_is_neither_a_file_nor_a_free_name(void **unused) {
    (void)unused;
    struct os_file *file = NULL;
    assert_int_equal(symlink(scratch_path("nowhere"), scratch_path("dangling")), 0);
    must_fail(os_file_open(&file, scratch_path("dangling"), true), KM_ESYSTEM);
    check_detail_contains("leads nowhere");
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .size = 4096, .flags = KM_CREATE};
    must_fail(km_open(&map, scratch_path("dangling"), &options), KM_ESYSTEM);
    check_detail_contains("leads nowhere");
}

/* ---- coherence --------------------------------------------------------------------------------------------------- */

static void an_unknown_file_system_is_refused_by_name_with_the_way_round(void **unused) {
    (void)unused;
    struct os_file *file = make_file(scratch_path("coherent.km"), 10);
    must(os_file_check_coherent(file));
    os_file_close(file);
    must(os_file_open(&file, "/proc/version", false));
    must_fail(os_file_check_coherent(file), KM_EFILESYSTEM);
    check_detail_contains("0x9fa0");
    check_detail_contains("KM_ANY_FILESYSTEM");
    os_file_close(file);
}

static int check_overlay(void *context) {
    const char *base = context;
    char lower[640], upper[640], work[640], merged[640], options[2048], path[680];
    if (!refusal_mount_tmpfs(base, 1 << 20))
        return REFUSAL_SKIP;
    snprintf(lower, sizeof lower, "%s/lower", base);
    snprintf(upper, sizeof upper, "%s/upper", base);
    snprintf(work, sizeof work, "%s/work", base);
    snprintf(merged, sizeof merged, "%s/merged", base);
    child_check(mkdir(lower, 0755) == 0 && mkdir(upper, 0755) == 0 && mkdir(work, 0755) == 0);
    child_check(mkdir(merged, 0755) == 0);
    snprintf(path, sizeof path, "%s/a.km", lower);
    scratch_store(path, "text", 4);
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work);
    if (mount("overlay", merged, "overlay", 0, options) != 0)
        return REFUSAL_SKIP;
    struct os_file *file = NULL;
    snprintf(path, sizeof path, "%s/a.km", merged);
    child_must(os_file_open(&file, path, false));
    child_check(os_file_check_coherent(file) == KM_EFILESYSTEM);
    child_check(strstr(km__error_detail(), "overlayfs") != NULL);
    os_file_close(file);
    child_must(os_file_open(&file, path, true));
    child_must(os_file_check_coherent(file));
    os_file_close(file);
    return 0;
}

static void overlayfs_is_accepted_only_after_the_copy_up(void **unused) {
    (void)unused;
    refusal_run(check_overlay, make_directory("overlay"));
}

/* ---- shared blocks ----------------------------------------------------------------------------------------------- */

#define CLONED ((size_t)(256 << 10))

/* Two files: one of CLONED bytes of chance, durable, and an empty one of twice the size. */
static void make_pair(struct os_file **from, struct os_file **to, unsigned char *bytes) {
    must(os_random(bytes, CLONED));
    *from = make_file(scratch_path("from.km"), CLONED);
    *to = make_file(scratch_path("to.km"), 2 * CLONED);
    must(os_file_write(*from, 0, bytes, CLONED));
    must(os_file_sync(*from));
}

static void drop_pair(struct os_file *from, struct os_file *to) {
    must(os_file_remove(from, scratch_path("from.km")));
    must(os_file_remove(to, scratch_path("to.km")));
    os_file_close(to);
    os_file_close(from);
}

static void a_clone_has_the_same_bytes_or_is_refused_as_unsupported(void **unused) {
    (void)unused;
    static unsigned char bytes[CLONED], copied[CLONED];
    struct os_file *from, *to;
    make_pair(&from, &to, bytes);
    const int result = os_file_clone_range(from, 0, to, CLONED, CLONED);
    must(os_file_read(to, CLONED, copied, CLONED));
    if (result == 0) {
        assert_memory_equal(copied, bytes, CLONED);
        must(os_file_write(to, CLONED, "other", 5)); /* shared until it is written */
        must(os_file_read(from, 0, copied, CLONED));
        assert_memory_equal(copied, bytes, CLONED);
    } else {
        must_fail(result, KM_EUNSUPPORTED);
        check_detail_contains("to.km");
        check_detail_contains("from.km");
        for (size_t i = 0; i < CLONED; i++)
            assert_int_equal(copied[i], 0);
    }
    must(os_file_clone_range(from, 0, to, 0, 0)); /* of nothing, and not of everything */
    must(os_file_read(to, 0, copied, CLONED));
    for (size_t i = 0; i < CLONED; i++)
        assert_int_equal(copied[i], 0);
    must_fail(os_file_clone_range(from, UINT64_MAX, to, 0, 2), KM_ESIZE);
    must_fail(os_file_clone_range(from, 0, to, UINT64_MAX, 2), KM_ESIZE);
    /* Ranges that no file system shares. */
    must_fail(os_file_clone_range(from, 1, to, 0, 4096), KM_EUNSUPPORTED);
    must_fail(os_file_clone_range(from, 2 * CLONED, to, 0, CLONED), KM_EUNSUPPORTED);
    drop_pair(from, to);
}

struct refused_clone {
    struct os_file *from, *to;
    int number, error;
};

static int clone_where_it_is_refused(void *context) {
    const struct refused_clone *refused = context;
    if (!refuse_call(SYS_ioctl, 1, FICLONERANGE, refused->number))
        return REFUSAL_SKIP;
    child_check(os_file_clone_range(refused->from, 0, refused->to, 0, 4096) == refused->error);
    child_check(km__error_detail()[0] != '\0');
    return 0;
}

static void every_way_to_refuse_a_clone_has_its_error(void **unused) {
    (void)unused;
    static unsigned char bytes[CLONED];
    static const int numbers[][2] = {
        {EOPNOTSUPP, KM_EUNSUPPORTED}, {EXDEV, KM_EUNSUPPORTED},
        {EINVAL, KM_EUNSUPPORTED},     {ENOTTY, KM_EUNSUPPORTED},
        {ENOSYS, KM_EUNSUPPORTED},     {EPERM, KM_EUNSUPPORTED},
        {ETXTBSY, KM_EUNSUPPORTED},    {ENOSPC, KM_ENOSPACE},
        {EDQUOT, KM_ENOSPACE},         {EIO, KM_EIO},
    };
    struct refused_clone refused;
    make_pair(&refused.from, &refused.to, bytes);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        refused.number = numbers[i][0];
        refused.error = numbers[i][1];
        refusal_run(clone_where_it_is_refused, &refused);
    }
    drop_pair(refused.from, refused.to);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_created_file_is_invisible_until_published),
        cmocka_unit_test(a_created_file_vanishes_when_it_is_closed),
        cmocka_unit_test(a_created_file_vanishes_when_its_process_is_killed),
        cmocka_unit_test(publication_refuses_an_existing_name),
        cmocka_unit_test(replacing_swaps_the_name_and_leaves_the_old_file_to_its_users),
        cmocka_unit_test(permissions_are_exact_whatever_the_umask),
        cmocka_unit_test(without_unnamed_files_a_temporary_name_is_used_and_removed),
        cmocka_unit_test(files_and_locks_work_without_proc),
        cmocka_unit_test(opening_refuses_what_is_no_regular_file_by_its_own_error),
        cmocka_unit_test(opening_a_fifo_neither_blocks_nor_wakes_its_writer),
        cmocka_unit_test(missing_permission_is_said_and_never_got_around),
        cmocka_unit_test(ranges_beyond_what_a_file_can_have_are_refused),
        cmocka_unit_test(the_limit_of_file_sizes_is_an_error_where_its_signal_is_ignored),
        cmocka_unit_test(a_full_disk_is_an_error_and_room_made_again_can_be_used),
        cmocka_unit_test(a_descriptor_that_the_program_took_is_not_closed),
        cmocka_unit_test(reads_are_exact_and_say_where_the_file_ends),
        cmocka_unit_test(space_is_reserved_and_cleared_and_holes_are_skipped),
        cmocka_unit_test(a_file_system_without_allocation_and_durable_writes_gives_the_same),
        cmocka_unit_test(a_name_is_compared_with_the_file_not_with_the_path),
        cmocka_unit_test(an_unknown_file_system_is_refused_by_name_with_the_way_round),
        cmocka_unit_test(overlayfs_is_accepted_only_after_the_copy_up),
        cmocka_unit_test(a_link_that_leads_nowhere_is_neither_a_file_nor_a_free_name),
        cmocka_unit_test(a_clone_has_the_same_bytes_or_is_refused_as_unsupported),
        cmocka_unit_test(every_way_to_refuse_a_clone_has_its_error),
    };
    scratch_time_limit(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
