/* SPDX-License-Identifier: MIT
 *
 * What the os layer knows of the place where a file lives, on the real system: whether holes take space there, how its
 * name is made durable, and that what is called durable was asked of the system.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "os/os.h"
#include "refusal.h"
#include "support/check.h"
#include "support/scratch.h"

#define HOLE (1u << 20)
#define TMPFS 0x01021994

static struct os_file *make_file(const char *path, uint64_t size) {
    struct os_file *file = NULL;
    child_must(os_file_create(&file, path, 0600));
    child_must(os_file_resize(file, size));
    child_must(os_file_publish(file, path, false));
    return file;
}

/* ---- holes ------------------------------------------------------------------------------------------------------- */

/* Whether looking at every page of a hole through a mapping makes the file take space. */
static bool looking_takes_space(struct os_file *file) {
    struct os_file_info before, after;
    struct os_region region = {.address = NULL};
    child_must(os_file_info(file, &before));
    child_must(os_region_map(&region, file, 0, HOLE, false));
    for (size_t at = 0; at < HOLE; at += 4096)
        child_check(((volatile unsigned char *)region.address)[at] == 0);
    os_region_unmap(&region);
    child_must(os_file_info(file, &after));
    return after.allocated > before.allocated;
}

static int compare_with_looking(void *context) {
    struct os_file *file = make_file(context, HOLE);
    const bool told = os_file_holes_take_space(file);
    child_check(told == looking_takes_space(file));
    os_file_close(file);
    return 0;
}

static void holes_take_space_where_looking_at_them_does(void **state) {
    (void)state;
    refusal_run(compare_with_looking, scratch_path("hole.km"));
}

static int look_in_memory(void *context) {
    const char *directory = context;
    if (!refusal_mount_tmpfs(directory, 8 << 20))
        return REFUSAL_SKIP;
    struct statfs system;
    child_check(statfs(directory, &system) == 0 && system.f_type == TMPFS);
    char path[1100];
    snprintf(path, sizeof path, "%s/a.km", directory);
    struct os_file *file = make_file(path, HOLE);
    child_check(os_file_holes_take_space(file));
    os_file_close(file);
    child_check(unlink(path) == 0);
    return compare_with_looking(path);
}

static void holes_of_a_file_system_in_memory_take_space(void **state) {
    (void)state;
    char *directory = scratch_path("memory");
    assert_int_equal(mkdir(directory, 0700), 0);
    refusal_run(look_in_memory, directory);
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

static int sync_a_name(void *context) {
    struct os_file *file = make_file(context, 10);
    child_must(os_file_sync_name(file, context));
    if (!refuse_call(SYS_fsync, 0, 0, EIO))
        return REFUSAL_SKIP;
    child_check(os_file_sync_name(file, context) == KM_EIO);
    child_check(strstr(km__error_detail(), context) != NULL);
    os_file_close(file);
    return 0;
}

static void a_directory_that_cannot_be_synced_is_told_with_the_name(void **state) {
    (void)state;
    refusal_run(sync_a_name, scratch_path("name.km"));
}

static int sync_a_name_otherwise(void *context) {
    struct os_file *file = make_file(context, 10);
    if (!refuse_call(SYS_fsync, 0, 0, EINVAL))
        return REFUSAL_SKIP;
    child_must(os_file_sync_name(file, context));
    if (!refuse_call(SYS_syncfs, 0, 0, EIO))
        return REFUSAL_SKIP;
    child_check(os_file_sync_name(file, context) == KM_EIO);
    os_file_close(file);
    return 0;
}

static void where_directories_have_no_sync_the_file_system_is_synced(void **state) {
    (void)state;
    refusal_run(sync_a_name_otherwise, scratch_path("without.km"));
}

/* Who may make names in a directory, but not read it. */
static int sync_a_hidden_name(void *context) {
    if (!refusal_become_nobody())
        return REFUSAL_SKIP;
    struct os_file *file = make_file(context, 10);
    child_must(os_file_sync_name(file, context));
    if (!refuse_call(SYS_syncfs, 0, 0, EIO))
        return REFUSAL_SKIP;
    child_check(os_file_sync_name(file, context) == KM_EIO);
    os_file_close(file);
    return 0;
}

static void a_name_in_a_directory_that_may_not_be_read_is_synced_too(void **state) {
    (void)state;
    char path[1100];
    const char *directory = scratch_path("hidden");
    assert_int_equal(mkdir(directory, 0700), 0);
    assert_int_equal(chmod(directory, geteuid() == 0 ? 0333 : 0300), 0);
    assert_int_equal(chmod(scratch_path("."), 0711), 0);
    snprintf(path, sizeof path, "%s/a.km", directory);
    refusal_run(sync_a_hidden_name, path);
    assert_int_equal(chmod(directory, 0700), 0);
}

/* ---- syncs ------------------------------------------------------------------------------------------------------- */

/* What the system refuses tells what it was asked for: no durable write, sync or name without a sync of the system. */
static int sync_where_the_system_refuses(void *context) {
    char path[1100];
    snprintf(path, sizeof path, "%s-too", (const char *)context);
    struct os_file *file = make_file(context, 4096), *unnamed = NULL;
    struct os_region region = {.address = NULL};
    child_must(os_region_map(&region, file, 0, 4096, false));
    child_must(os_file_create(&unnamed, path, 0600));
    if (!refuse_call(SYS_fdatasync, 0, 0, EIO) || !refuse_call(SYS_fsync, 0, 0, EIO) ||
        !refuse_call(SYS_msync, 2, MS_SYNC, EIO) || !refuse_call(SYS_pwritev2, 5, RWF_DSYNC, EOPNOTSUPP))
        return REFUSAL_SKIP;
    child_check(os_file_sync(file) == KM_EIO);
    child_check(os_region_sync(&region, 0, 100) == KM_EIO);
    child_check(os_file_publish(unnamed, path, false) == KM_EIO);
    child_must(os_file_write(file, 0, "a", 1));
    child_check(os_file_write_durable(file, 0, "b", 1) == KM_EIO); /* without the flag it syncs the file */
    if (!refuse_call(SYS_pwritev2, 5, RWF_DSYNC, ENOSPC))
        return REFUSAL_SKIP;
    /* The bytes are taken where nobody waits for them, so it was their sync that found no room. */
    child_check(os_file_write_durable(file, 0, "c", 1) == KM_EIO);
    child_check(strstr(km__error_detail(), strerror(ENOSPC)) != NULL);
    os_file_close(unnamed);
    os_file_close(file);
    return 0;
}

static void every_promise_of_durability_asks_the_system(void **state) {
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", scratch_path("durable.km"));
    refusal_run(sync_where_the_system_refuses, path);
}

int main(void) {
    scratch_time_limit(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holes_take_space_where_looking_at_them_does),
        cmocka_unit_test(holes_of_a_file_system_in_memory_take_space),
        cmocka_unit_test(a_directory_that_cannot_be_synced_is_told_with_the_name),
        cmocka_unit_test(where_directories_have_no_sync_the_file_system_is_synced),
        cmocka_unit_test(a_name_in_a_directory_that_may_not_be_read_is_synced_too),
        cmocka_unit_test(every_promise_of_durability_asks_the_system),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
