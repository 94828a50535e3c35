/* SPDX-License-Identifier: MIT
 *
 * Regions, views and memory of the os layer on the real system: private copies, clean pages that follow the file,
 * stores that are shared, growth, dropping, and what a child of fork has of it. Trackers are in test_os_tracker.c.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "os/os.h"
#include "support/check.h"
#include "support/scratch.h"

#define PAGE ((size_t)4096)
#define SIZE (16 * PAGE)
#define CHILD_SECONDS 20

/* A file of SIZE bytes 'a'. */
static struct os_file *make_file(const char *name) {
    static unsigned char bytes[SIZE];
    struct os_file *file = NULL;
    memset(bytes, 'a', sizeof bytes);
    must(os_file_create(&file, scratch_path("%s", name), 0600));
    must(os_file_write(file, 0, bytes, sizeof bytes));
    must(os_file_publish(file, scratch_path("%s", name), false));
    return file;
}

static void a_region_shows_writes_and_can_be_made_durable_in_parts(void **unused) {
    (void)unused;
    struct os_file *file = make_file("region.km");
    struct os_region all = {.address = NULL}, part = {.address = NULL};
    must(os_region_map(&all, file, 0, SIZE - 100, false));
    must(os_region_map(&part, file, PAGE, PAGE, true));
    must(os_file_write(file, PAGE + 10, "xyz", 3));
    assert_memory_equal(all.address + PAGE + 10, "xyz", 3);
    part.address[20] = 'r';
    assert_int_equal(all.address[PAGE + 20], 'r');
    must(os_region_sync(&all, PAGE + 10, 3));
    must(os_region_sync(&all, 0, SIZE - 100));
    must(os_region_sync(&all, SIZE - 101, 1));
    must(os_region_sync(&all, 5, 0));
    must_fail(os_region_sync(&all, 0, SIZE), KM_EINVAL);
    must_fail(os_region_sync(&all, UINT64_MAX, 2), KM_EINVAL);
    os_region_unmap(&part);
    os_region_unmap(&all);
    os_region_unmap(&all);
    assert_null(all.address);
    os_file_close(file);
}

static void mappings_beyond_the_file_are_refused(void **unused) {
    (void)unused;
    struct os_file *file = make_file("short.km");
    struct os_region region = {.address = NULL};
    struct os_view view = {.address = NULL};
    must_fail(os_region_map(&region, file, 0, SIZE + 1, false), KM_ETRUNCATED);
    must_fail(os_region_map(&region, file, UINT64_MAX - PAGE + 1, PAGE, false), KM_ESIZE);
    must_fail(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, SIZE + 1, 2 * SIZE), KM_ETRUNCATED);
    must_fail(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, SIZE, SIZE - 1 - PAGE), KM_ESIZE);
    must_fail(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, UINT64_MAX, UINT64_MAX), KM_ESIZE);
    assert_null(region.address);
    assert_null(view.address);
    must(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, SIZE, 2 * SIZE));
    must_fail(os_view_grow(&view, SIZE + 1), KM_ETRUNCATED);
    must(os_file_resize(file, 3 * SIZE));
    must_fail(os_view_grow(&view, 2 * SIZE + 1), KM_ESIZE);
    must(os_view_grow(&view, 2 * SIZE));
    os_view_unmap(&view);
    os_file_close(file);
}

static void a_file_opened_without_write_permission_is_mapped_for_reading_only(void **unused) {
    (void)unused;
    os_file_close(make_file("readonly.km"));
    struct os_file *file = NULL;
    struct os_region region = {.address = NULL};
    struct os_view view = {.address = NULL};
    must(os_file_open(&file, scratch_path("readonly.km"), false));
    must_fail(os_region_map(&region, file, 0, SIZE, true), KM_EACCESS);
    must(os_region_map(&region, file, 0, SIZE, false));
    must(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, SIZE, SIZE));
    view.address[3] = 'v'; /* private, so this needs no permission */
    assert_int_equal(region.address[3], 'a');
    os_view_unmap(&view);
    os_region_unmap(&region);
    os_file_close(file);
}

static void clean_pages_follow_the_file_and_stored_pages_are_private(void **unused) {
    (void)unused;
    struct os_file *file = make_file("private.km");
    struct os_view view = {.address = NULL};
    char bytes[2] = "";
    must(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, SIZE, SIZE));
    assert_int_equal(view.address[0], 'a');
    view.address[PAGE] = 'v';
    must(os_file_write(file, 0, "1", 1));
    must(os_file_write(file, PAGE, "22", 2));
    must(os_file_write(file, 5 * PAGE, "3", 1));
    assert_int_equal(view.address[0], '1');
    assert_int_equal(view.address[PAGE], 'v');
    assert_int_equal(view.address[PAGE + 1], 'a');
    assert_int_equal(view.address[5 * PAGE], '3');
    must(os_file_read(file, PAGE, bytes, 2));
    assert_memory_equal(bytes, "22", 2);

    must(os_view_drop(&view, PAGE, PAGE));
    assert_int_equal(view.address[PAGE], '2');
    view.address[PAGE] = 'w';
    must(os_view_drop(&view, 0, SIZE));
    assert_int_equal(view.address[PAGE], '2');
    must_fail(os_view_drop(&view, 0, SIZE + PAGE), KM_EINVAL);
    must_fail(os_view_drop(&view, 1, PAGE), KM_EINVAL);
    os_view_unmap(&view);
    os_file_close(file);
}

static void a_view_grows_at_the_next_address_and_never_moves(void **unused) {
    (void)unused;
    struct os_file *file = make_file("growing.km");
    struct os_view view = {.address = NULL};
    must(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, 1, SIZE));
    assert_int_equal(view.length, PAGE);
    unsigned char *const address = view.address;
    view.address[0] = 'v';
    for (size_t pages = 1; pages <= SIZE / PAGE; pages++) {
        must(os_view_grow(&view, pages * PAGE - PAGE / 2));
        assert_ptr_equal(view.address, address);
        assert_int_equal(view.length, pages * PAGE);
        assert_int_equal(view.address[pages * PAGE - 1], 'a');
    }
    must(os_view_grow(&view, PAGE)); /* it never shrinks */
    assert_int_equal(view.length, SIZE);
    assert_int_equal(view.address[0], 'v');
    os_view_unmap(&view);
    os_file_close(file);
}

static void a_view_of_a_later_part_of_the_file_shows_that_part(void **unused) {
    (void)unused;
    struct os_file *file = make_file("later.km");
    struct os_view view = {.address = NULL};
    must(os_file_resize(file, 65536 + SIZE));
    must(os_file_write(file, 65536 + PAGE, "later", 5));
    must(os_view_map(&view, file, OS_VIEW_PRIVATE, 65536, PAGE, SIZE));
    must(os_view_grow(&view, 2 * PAGE));
    assert_memory_equal(view.address + PAGE, "later", 5);
    os_view_unmap(&view);
    os_file_close(file);
}

/* Not by mlock(): sanitizers turn that into nothing. */
static long lock_memory(void *address, size_t length) {
    return syscall(SYS_mlock, address, length);
}

static void locked_memory_is_not_dropped_but_refused(void **unused) {
    (void)unused;
    struct os_file *file = make_file("locked.km");
    struct os_view view = {.address = NULL};
    must(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, SIZE, SIZE));
    if (lock_memory(view.address, PAGE) != 0)
        skip();
    view.address[0] = 'v';
    must_fail(os_view_drop(&view, 0, SIZE), KM_EUNSUPPORTED);
    assert_int_equal(view.address[0], 'v');
    assert_int_equal(syscall(SYS_munlock, view.address, PAGE), 0);
    must(os_view_drop(&view, 0, SIZE));
    assert_int_equal(view.address[0], 'a');
    os_view_unmap(&view);
    os_file_close(file);
}

static void own_memory_is_zero_at_first_and_too_much_of_it_is_refused(void **unused) {
    (void)unused;
    unsigned char *memory = os_memory_take(SIZE);
    assert_non_null(memory);
    for (size_t i = 0; i < SIZE; i++)
        assert_int_equal(memory[i], 0);
    memset(memory, 1, SIZE);
    os_memory_release(memory, SIZE);
    assert_null(os_memory_take(UINT64_C(1) << 62));
}

/* ---- shared views ------------------------------------------------------------------------------------------------ */

static void stores_through_a_shared_view_are_the_files_at_once(void **unused) {
    (void)unused;
    struct os_file *file = make_file("shared.km"), *other = NULL;
    struct os_view writer = {.address = NULL}, reader = {.address = NULL}, private = {.address = NULL};
    char bytes[3] = "";
    must(os_file_open(&other, scratch_path("shared.km"), false));
    must(os_view_map(&writer, file, OS_VIEW_SHARED, 0, SIZE, SIZE));
    must(os_view_map(&reader, other, OS_VIEW_SHARED_READ_ONLY, 0, SIZE, SIZE));
    must(os_view_map(&private, file, OS_VIEW_PRIVATE, 0, SIZE, SIZE));
    assert_int_equal(writer.kind, OS_VIEW_SHARED);
    assert_int_equal(reader.kind, OS_VIEW_SHARED_READ_ONLY);
    writer.address[PAGE] = 's';
    assert_int_equal(reader.address[PAGE], 's');
    assert_int_equal(private.address[PAGE], 's'); /* a clean page follows the file */
    must(os_file_read(file, PAGE, bytes, 1));
    assert_int_equal(bytes[0], 's');
    must(os_file_write(file, 2 * PAGE, "ww", 2));
    assert_memory_equal(writer.address + 2 * PAGE, "ww", 2);
    assert_memory_equal(reader.address + 2 * PAGE, "ww", 2);
    must(os_view_sync(&writer));
    must(os_view_sync(&reader));
    must_fail(os_view_sync(&private), KM_EINVAL);
    os_view_unmap(&private);
    os_view_unmap(&reader);
    os_view_unmap(&writer);
    os_view_unmap(&writer);
    assert_null(writer.address);
    os_file_close(other);
    os_file_close(file);
}

static int store_in_a_process_of_its_own(void *path) {
    struct os_file *file = NULL;
    struct os_view view = {.address = NULL};
    child_must(os_file_open(&file, path, true));
    child_must(os_view_map(&view, file, OS_VIEW_SHARED, 0, SIZE, SIZE));
    child_check(view.address[0] == 'p');
    view.address[SIZE - 1] = 'c';
    raise(SIGKILL); /* what was stored is the file's, whatever becomes of the process */
    return 1;
}

static void stores_through_a_shared_view_are_seen_by_other_processes_and_outlive_theirs(void **unused) {
    (void)unused;
    struct os_file *file = make_file("processes.km");
    struct os_view view = {.address = NULL};
    must(os_view_map(&view, file, OS_VIEW_SHARED, 0, SIZE, SIZE));
    view.address[0] = 'p';
    assert_int_equal(check_in_child(store_in_a_process_of_its_own, scratch_path("processes.km"), CHILD_SECONDS),
                     -SIGKILL);
    assert_int_equal(view.address[SIZE - 1], 'c');
    os_view_unmap(&view);
    os_file_close(file);
}

static int store_where_only_reading_is_allowed(void *path) {
    struct os_file *file = NULL;
    struct os_view view = {.address = NULL};
    child_must(os_file_open(&file, path, true));
    child_must(os_view_map(&view, file, OS_VIEW_SHARED_READ_ONLY, 0, SIZE, SIZE));
    child_check(*(volatile unsigned char *)view.address == 'a');
    *(volatile unsigned char *)view.address = 'x';
    return 1;
}

static void a_store_into_a_read_only_view_is_a_fault_and_changes_nothing(void **unused) {
    (void)unused;
    struct os_file *file = make_file("unwritable.km");
    char byte = 0;
    assert_int_equal(check_in_child(store_where_only_reading_is_allowed, scratch_path("unwritable.km"), CHILD_SECONDS),
                     -SIGSEGV);
    must(os_file_read(file, 0, &byte, 1));
    assert_int_equal(byte, 'a');
    os_file_close(file);
}

static void a_shared_view_needs_the_permission_to_write(void **unused) {
    (void)unused;
    os_file_close(make_file("permission.km"));
    struct os_file *file = NULL;
    struct os_view view = {.address = NULL};
    must(os_file_open(&file, scratch_path("permission.km"), false));
    must_fail(os_view_map(&view, file, OS_VIEW_SHARED, 0, SIZE, SIZE), KM_EACCESS);
    check_detail_contains("permission.km");
    assert_null(view.address);
    os_file_close(file);
}

static void a_shared_view_grows_at_the_next_address_and_never_moves(void **unused) {
    (void)unused;
    static const enum os_view_kind kinds[] = {OS_VIEW_SHARED, OS_VIEW_SHARED_READ_ONLY};
    for (size_t i = 0; i < 2; i++) {
        struct os_file *file = make_file(i == 0 ? "tail.km" : "tail-read-only.km");
        struct os_view view = {.address = NULL};
        must(os_file_resize(file, 65536 + PAGE));
        must(os_view_map(&view, file, kinds[i], 65536, PAGE, SIZE));
        must_fail(os_view_grow(&view, PAGE + 1), KM_ETRUNCATED);
        unsigned char *const address = view.address;
        for (size_t pages = 2; pages <= SIZE / PAGE; pages++) {
            char text[16];
            const int length = snprintf(text, sizeof text, "page %zu", pages);
            must(os_file_resize(file, 65536 + pages * PAGE));
            must(os_view_grow(&view, pages * PAGE));
            must(os_file_write(file, 65536 + (pages - 1) * PAGE, text, (size_t)length));
            assert_memory_equal(view.address + (pages - 1) * PAGE, text, (size_t)length);
            assert_ptr_equal(view.address, address);
        }
        must_fail(os_view_grow(&view, SIZE + 1), KM_ESIZE);
        if (kinds[i] == OS_VIEW_SHARED) {
            char byte = 0;
            view.address[SIZE - 1] = 't';
            must(os_file_read(file, 65536 + SIZE - 1, &byte, 1));
            assert_int_equal(byte, 't');
            must(os_view_sync(&view));
        }
        os_view_unmap(&view);
        os_file_close(file);
    }
}

static void a_shared_view_has_nothing_to_track_or_drop(void **unused) {
    (void)unused;
    struct os_file *file = make_file("untracked.km");
    struct os_view view = {.address = NULL};
    must(os_view_map(&view, file, OS_VIEW_SHARED, 0, SIZE, SIZE));
    view.address[0] = 's';
    must_fail(os_view_track(&view, OS_TRACKER_SCAN), KM_EINVAL);
    must_fail(os_view_drop(&view, 0, SIZE), KM_EINVAL);
    assert_int_equal(view.tracker, OS_TRACKER_NONE);
    assert_int_equal(view.address[0], 's');
    os_view_unmap(&view);
    os_file_close(file);
}

/* Whether the mapping that begins at an address has a flag, as "dd" (not in core dumps), in /proc/self/smaps. */
static bool has_flag(const void *address, const char *flag) {
    char line[512], wanted[32], spaced[8];
    bool inside = false, found = false;
    FILE *stream = fopen("/proc/self/smaps", "re");
    assert_non_null(stream);
    snprintf(wanted, sizeof wanted, "%lx-", (unsigned long)(uintptr_t)address);
    snprintf(spaced, sizeof spaced, " %s", flag);
    while (!found && fgets(line, sizeof line, stream) != NULL) {
        if (strncmp(line, wanted, strlen(wanted)) == 0)
            inside = true;
        if (inside && strncmp(line, "VmFlags:", 8) == 0) {
            found = strstr(line, spaced) != NULL;
            break;
        }
    }
    fclose(stream);
    return found;
}

static void shared_views_are_not_in_core_dumps_and_private_ones_are(void **unused) {
    (void)unused;
    struct os_file *file = make_file("dumped.km");
    struct os_view shared = {.address = NULL}, private = {.address = NULL};
    must(os_view_map(&shared, file, OS_VIEW_SHARED, 0, SIZE, SIZE));
    must(os_view_map(&private, file, OS_VIEW_PRIVATE, 0, SIZE, SIZE));
    if (!has_flag(shared.address, "sh")) { /* a kernel that does not tell the flags */
        os_view_unmap(&private);
        os_view_unmap(&shared);
        os_file_close(file);
        skip();
    }
    assert_true(has_flag(shared.address, "dd"));
    assert_false(has_flag(private.address, "dd"));
    os_view_unmap(&private);
    os_view_unmap(&shared);
    os_file_close(file);
}

/* ---- fork -------------------------------------------------------------------------------------------------------- */

static int touch_byte(void *address) {
    volatile unsigned char *byte = address;
    return *byte == 0 ? 1 : 2;
}

static void a_child_of_fork_has_nothing_mapped(void **unused) {
    (void)unused;
    struct os_file *file = make_file("forked.km");
    struct os_region region = {.address = NULL};
    struct os_view view = {.address = NULL}, shared = {.address = NULL};
    must(os_region_map(&region, file, 0, SIZE, false));
    must(os_view_map(&shared, file, OS_VIEW_SHARED, 0, SIZE / 2, SIZE));
    must(os_view_grow(&shared, SIZE));
    must(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, SIZE / 2, SIZE));
    must(os_view_track(&view, OS_TRACKER_SCAN));
    must(os_view_grow(&view, SIZE));
    unsigned char *memory = os_memory_take(SIZE);
    assert_non_null(memory);
    memory[0] = 1;
    void *addresses[] = {region.address, view.address,   view.address + SIZE - 1,
                         memory,         shared.address, shared.address + SIZE - 1};
    for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
        int status = check_in_child(touch_byte, addresses[i], CHILD_SECONDS);
        assert_true(status != 0 && status != 1 && status != 2 && status != -SIGALRM);
    }
    os_memory_release(memory, SIZE);
    os_view_unmap(&shared);
    os_view_unmap(&view);
    os_region_unmap(&region);
    os_file_close(file);
}

struct inherited {
    struct os_region *region;
    struct os_view *view;
};

static int unmap_what_the_parent_mapped(void *context) {
    const struct inherited *inherited = context;
    void *const places[] = {inherited->region->address, inherited->view->address};
    for (size_t i = 0; i < 2; i++) {
        void *mine =
            mmap(places[i], PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        child_check(mine == places[i]);
        *(volatile char *)mine = 1;
    }
    os_region_unmap(inherited->region);
    os_view_unmap(inherited->view);
    for (size_t i = 0; i < 2; i++)
        child_check(*(volatile char *)places[i] == 1);
    return 0;
}

static void a_child_of_fork_unmaps_nothing_of_its_own(void **unused) {
    (void)unused;
    struct os_file *file = make_file("unmapped.km");
    struct os_region region = {.address = NULL};
    struct os_view view = {.address = NULL};
    must(os_region_map(&region, file, 0, SIZE, false));
    must(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, SIZE, SIZE));
    must(os_view_track(&view, OS_TRACKER_SCAN));
    struct inherited inherited = {.region = &region, .view = &view};
    assert_int_equal(check_in_child(unmap_what_the_parent_mapped, &inherited, CHILD_SECONDS), 0);
    os_view_unmap(&view);
    os_region_unmap(&region);
    os_file_close(file);
}

/* Kilobytes of a mapping that the system has to write some time. */
static unsigned long dirty_kilobytes(const void *address) {
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    unsigned long dirty = 0, part = 0, start = 0;
    int inside = 0;
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "%lx-%lx ", &start, &part) == 2)
            inside = start == (uintptr_t)address;
        else if (inside &&
                 (sscanf(line, "Shared_Dirty: %lu", &part) == 1 || sscanf(line, "Private_Dirty: %lu", &part) == 1))
            dirty += part;
    }
    fclose(file);
    return dirty;
}

static void pages_can_be_had_written_again_without_a_change(void **unused) {
    (void)unused;
    struct os_file *file = make_file("again.km");
    struct os_view view = {.address = NULL};
    must(os_view_map(&view, file, OS_VIEW_SHARED, 0, SIZE, SIZE));
    memset(view.address, 's', SIZE);
    must(os_view_sync(&view));
    if (dirty_kilobytes(view.address) != 0) { /* a file system that never writes */
        os_view_unmap(&view);
        os_file_close(file);
        skip();
    }
    os_view_write_again(&view, 2 * PAGE, 3 * PAGE);
    assert_true(dirty_kilobytes(view.address) >= 3 * PAGE / 1024);
    for (size_t at = 0; at < SIZE; at++)
        assert_int_equal(view.address[at], 's');
    os_view_unmap(&view);
    os_file_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_region_shows_writes_and_can_be_made_durable_in_parts),
        cmocka_unit_test(mappings_beyond_the_file_are_refused),
        cmocka_unit_test(a_file_opened_without_write_permission_is_mapped_for_reading_only),
        cmocka_unit_test(clean_pages_follow_the_file_and_stored_pages_are_private),
        cmocka_unit_test(a_view_grows_at_the_next_address_and_never_moves),
        cmocka_unit_test(a_view_of_a_later_part_of_the_file_shows_that_part),
        cmocka_unit_test(locked_memory_is_not_dropped_but_refused),
        cmocka_unit_test(own_memory_is_zero_at_first_and_too_much_of_it_is_refused),
        cmocka_unit_test(stores_through_a_shared_view_are_the_files_at_once),
        cmocka_unit_test(stores_through_a_shared_view_are_seen_by_other_processes_and_outlive_theirs),
        cmocka_unit_test(a_store_into_a_read_only_view_is_a_fault_and_changes_nothing),
        cmocka_unit_test(a_shared_view_needs_the_permission_to_write),
        cmocka_unit_test(a_shared_view_grows_at_the_next_address_and_never_moves),
        cmocka_unit_test(a_shared_view_has_nothing_to_track_or_drop),
        cmocka_unit_test(pages_can_be_had_written_again_without_a_change),
        cmocka_unit_test(shared_views_are_not_in_core_dumps_and_private_ones_are),
        cmocka_unit_test(a_child_of_fork_has_nothing_mapped),
        cmocka_unit_test(a_child_of_fork_unmaps_nothing_of_its_own),
    };
    scratch_time_limit(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
