/* SPDX-License-Identifier: MIT
 *
 * The simulated system keeps the contract of os.h for what is not a plain private file: objects backed by the paging
 * file, shared views, clones, names that are taken away, guarded mappings, and which start of the machine it is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "os/os.h"
#include "support/os_sim.h"

#define FILE_NAME "a.km"
#define OBJECT_NAME "Local\\a"
#define SIZE 16384u
#define IMAGES 32

static void assert_done(int result) {
    if (result != 0)
        fail_msg("%s", km__error_detail());
}

/* A file or an object of SIZE bytes 'a'; synced. */
static struct os_file *make(const char *path) {
    static unsigned char bytes[SIZE];
    struct os_file *file = NULL;
    memset(bytes, 'a', sizeof bytes);
    assert_done(os_file_create(&file, path, 0640));
    assert_done(os_file_write(file, 0, bytes, sizeof bytes));
    assert_done(os_file_sync(file));
    assert_done(os_file_publish(file, path, false));
    return file;
}

static char letter_at(const char *path, uint64_t offset) {
    char letter = 0;
    assert_true(os_sim_read(path, offset, &letter, 1));
    return letter;
}

/* ---- objects ----------------------------------------------------------------------------------------------------- */

static void an_object_survives_a_kill_and_no_power_cut(void **unused) {
    (void)unused;
    struct os_file_info info;
    os_sim_reset(1);
    struct os_file *object = make(OBJECT_NAME), *file = make(FILE_NAME);
    assert_true(os_file_is_volatile(object));
    assert_false(os_file_is_volatile(file));
    assert_done(os_file_write(object, 5, "x", 1));
    os_file_close(object);
    os_file_close(file);
    os_sim_kill(NULL);
    assert_int_equal(letter_at(OBJECT_NAME, 5), 'x');
    assert_done(os_file_open(&object, OBJECT_NAME, true));
    assert_true(os_file_is_volatile(object));
    assert_done(os_file_info(object, &info));
    assert_int_equal(info.size, SIZE);
    assert_int_equal(info.permissions, 0640);
    os_file_close(object);
    for (int policy = 0; policy < OS_SIM_POLICY_COUNT; policy++) {
        struct os_sim_state *state = os_sim_save();
        os_sim_reboot(state, (enum os_sim_policy)policy, 7);
        assert_false(os_sim_exists(OBJECT_NAME));
        assert_true(os_sim_exists(FILE_NAME));
        os_sim_kill(state);
        assert_true(os_sim_exists(OBJECT_NAME));
        os_sim_state_free(state);
    }
}

static void syncs_of_an_object_are_no_steps_and_leave_nothing_pending(void **unused) {
    (void)unused;
    os_sim_reset(1);
    struct os_file *object = make(OBJECT_NAME);
    struct os_region region = {.address = NULL};
    struct os_view view = {.address = NULL};
    assert_done(os_region_map(&region, object, 0, SIZE, true));
    assert_done(os_view_map(&view, object, OS_VIEW_SHARED, 0, SIZE, SIZE));
    region.address[1] = 'r';
    view.address[2] = 'v';
    os_sim_fail(OS_SIM_SYNC, 1, UINT64_MAX, KM_EIO);
    const uint64_t steps = os_sim_steps();
    assert_done(os_file_sync(object));
    assert_done(os_file_sync_name(object, OBJECT_NAME));
    assert_done(os_region_sync(&region, 0, SIZE));
    assert_done(os_view_sync(&view));
    assert_int_equal(os_sim_steps(), steps);
    assert_done(os_file_write_durable(object, 0, "w", 1)); /* a write */
    assert_done(os_file_resize(object, 2 * SIZE));
    assert_done(os_file_zero(object, 4096, 4096));
    assert_int_equal(os_sim_steps(), steps + 3);
    struct os_sim_state *state = os_sim_save();
    assert_int_equal(os_sim_state_pending(state), 0);
    os_sim_kill(state);
    assert_int_equal(letter_at(OBJECT_NAME, 0), 'w');
    assert_int_equal(letter_at(OBJECT_NAME, 1), 'r');
    assert_int_equal(letter_at(OBJECT_NAME, 2), 'v');
    assert_int_equal(letter_at(OBJECT_NAME, 4096), 0);
    assert_int_equal(os_sim_size(OBJECT_NAME), 2 * SIZE);
    os_sim_state_free(state);
    os_view_unmap(&view);
    os_region_unmap(&region);
    os_file_close(object);
}

static void an_object_is_published_once_and_never_replaced(void **unused) {
    (void)unused;
    os_sim_reset(1);
    struct os_file *first = make(OBJECT_NAME), *second = NULL;
    assert_done(os_file_create(&second, OBJECT_NAME, 0600));
    assert_int_equal(os_file_publish(second, OBJECT_NAME, false), KM_EEXISTS);
    assert_int_equal(os_file_publish(second, OBJECT_NAME, true), KM_EUNSUPPORTED);
    assert_int_equal(os_file_publish(second, FILE_NAME, false), KM_EINVAL);
    assert_done(os_file_remove(second, OBJECT_NAME)); /* it is not its name */
    assert_int_equal(os_file_is_at(first, OBJECT_NAME), 1);
    assert_done(os_file_remove(first, OBJECT_NAME));
    assert_int_equal(os_file_is_at(first, OBJECT_NAME), 0);
    assert_done(os_file_publish(second, OBJECT_NAME, false));
    assert_int_equal(os_file_is_at(second, OBJECT_NAME), 1);
    os_file_close(second);
    os_file_close(first);
}

static int note_target(void *context, const char *target) {
    char *text = context;
    strcat(text, target);
    strcat(text, "|");
    return strcmp(target, "Global\\b") == 0;
}

static void the_list_has_every_object_in_the_order_of_names(void **unused) {
    (void)unused;
    static const char *const targets[] = {"Global\\b", "Local\\b", FILE_NAME, "Local\\a", "Global\\a", "Global\\c"};
    char text[200] = "";
    os_sim_reset(1);
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++)
        os_file_close(make(targets[i]));
    assert_done(os_objects_list(note_target, text));
    assert_string_equal(text, "Local\\a|Local\\b|Global\\a|Global\\b|");
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

static void a_name_that_was_taken_away_may_be_back_after_a_power_cut_until_it_is_synced(void **unused) {
    (void)unused;
    os_sim_reset(1);
    struct os_file *file = make(FILE_NAME);
    const uint64_t steps = os_sim_steps();
    assert_done(os_file_remove(file, FILE_NAME));
    assert_int_equal(os_sim_steps(), steps + 1);
    assert_false(os_sim_exists(FILE_NAME));
    struct os_sim_state *state = os_sim_save();
    assert_int_equal(os_sim_state_pending(state), 1);
    os_sim_reboot(state, OS_SIM_NOTHING, 1);
    assert_true(os_sim_exists(FILE_NAME));
    os_sim_reboot(state, OS_SIM_EVERYTHING, 1);
    assert_false(os_sim_exists(FILE_NAME));
    os_sim_state_free(state);
    os_file_close(file);

    os_sim_reset(1);
    file = make(FILE_NAME);
    os_sim_fail(OS_SIM_REMOVE, 1, 1, KM_EACCESS);
    assert_int_equal(os_file_remove(file, FILE_NAME), KM_EACCESS);
    assert_true(os_sim_exists(FILE_NAME));
    os_file_close(file);
}

/* ---- shared views ------------------------------------------------------------------------------------------------ */

static void stores_through_a_shared_view_survive_a_kill_and_may_survive_a_power_cut(void **unused) {
    (void)unused;
    unsigned kept = 0;
    for (uint64_t seed = 0; seed < IMAGES; seed++) {
        os_sim_reset(seed);
        struct os_file *file = make(FILE_NAME);
        struct os_view view = {.address = NULL};
        assert_done(os_view_map(&view, file, OS_VIEW_SHARED, 0, 4096, SIZE));
        assert_done(os_view_grow(&view, SIZE));
        view.address[0] = 's';
        assert_done(os_view_sync(&view));
        view.address[8192] = 't'; /* in the tail */
        struct os_sim_state *state = os_sim_save();
        assert_int_equal(os_sim_state_pending(state), 1);
        os_sim_reboot(state, OS_SIM_SECTORS, seed);
        assert_int_equal(letter_at(FILE_NAME, 0), 's');
        kept += letter_at(FILE_NAME, 8192) == 't';
        os_sim_kill(state);
        assert_int_equal(letter_at(FILE_NAME, 8192), 't');
        os_sim_state_free(state);
        os_view_unmap(&view);
        os_file_close(file);
    }
    assert_true(kept > 0 && kept < IMAGES);
}

static void a_failed_sync_of_a_shared_view_leaves_in_doubt_what_it_covered(void **unused) {
    (void)unused;
    os_sim_reset(1);
    struct os_file *file = make(FILE_NAME);
    struct os_view view = {.address = NULL};
    assert_done(os_view_map(&view, file, OS_VIEW_SHARED, 0, SIZE, SIZE));
    view.address[0] = 's';
    os_sim_fail(OS_SIM_SYNC, 1, 1, KM_EIO);
    assert_int_equal(os_view_sync(&view), KM_EIO);
    assert_done(os_view_sync(&view));
    struct os_sim_state *state = os_sim_save();
    assert_int_equal(os_sim_state_pending(state), 1);
    os_sim_state_free(state);
    os_view_unmap(&view);
    os_file_close(file);
}

static void a_file_opened_for_reading_has_no_writable_shared_view(void **unused) {
    (void)unused;
    os_sim_reset(1);
    os_file_close(make(FILE_NAME));
    struct os_file *file = NULL;
    struct os_view view = {.address = NULL};
    assert_done(os_file_open(&file, FILE_NAME, false));
    assert_int_equal(os_view_map(&view, file, OS_VIEW_SHARED, 0, SIZE, SIZE), KM_EACCESS);
    assert_done(os_view_map(&view, file, OS_VIEW_SHARED_READ_ONLY, 0, SIZE, SIZE));
    assert_int_equal(view.address[0], 'a');
    os_view_unmap(&view);
    os_file_close(file);
}

/* ---- clones ------------------------------------------------------------------------------------------------------ */

static void clones_are_one_write_where_the_machine_has_them(void **unused) {
    (void)unused;
    os_sim_reset(1);
    struct os_file *from = make(FILE_NAME), *to = NULL;
    assert_done(os_file_write(from, 4096, "bcd", 3));
    assert_done(os_file_create(&to, "b.km", 0600));
    assert_int_equal(os_file_clone_range(from, 4096, to, 0, 4096), KM_EUNSUPPORTED);
    os_sim_set_clone(true);
    const uint64_t steps = os_sim_steps();
    assert_done(os_file_clone_range(from, 4096, to, 8192, 4096));
    assert_int_equal(os_sim_steps(), steps + 1);
    assert_int_equal(os_file_clone_range(from, SIZE, to, 0, 1), KM_EUNSUPPORTED);
    assert_done(os_file_publish(to, "b.km", false));
    assert_int_equal(os_sim_size("b.km"), 12288);
    assert_int_equal(letter_at("b.km", 8194), 'd');
    assert_int_equal(letter_at("b.km", 0), 0);
    os_sim_fail(OS_SIM_WRITE, 1, 1, KM_ENOSPACE);
    assert_int_equal(os_file_clone_range(from, 0, to, 0, 4096), KM_ENOSPACE);

    /* What was not synced of it is as open as any other write. */
    struct os_sim_state *state = os_sim_save();
    os_sim_reboot(state, OS_SIM_NOTHING, 1);
    assert_int_equal(os_sim_size("b.km"), 0);
    os_sim_state_free(state);
    os_file_close(to);
    os_file_close(from);
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

static void the_boot_id_changes_with_the_start_of_the_machine_only(void **unused) {
    (void)unused;
    uint8_t first[16], second[16], third[16];
    os_sim_reset(1);
    os_boot_id(first);
    struct os_sim_state *state = os_sim_save();
    os_sim_kill(NULL);
    os_boot_id(second);
    assert_memory_equal(first, second, sizeof first);
    os_sim_reboot(NULL, OS_SIM_EVERYTHING, 1);
    os_boot_id(second);
    assert_memory_not_equal(first, second, sizeof first);
    os_sim_reboot(NULL, OS_SIM_EVERYTHING, 1);
    os_boot_id(third);
    assert_memory_not_equal(second, third, sizeof first);
    assert_memory_not_equal(first, third, sizeof first);
    os_sim_kill(state); /* back to the moment it was saved, and on from there */
    os_boot_id(third);
    assert_memory_equal(first, third, sizeof first);
    os_sim_state_free(state);
}

static void a_file_cut_short_under_a_guarded_mapping_gives_zeros(void **unused) {
    (void)unused;
    os_sim_reset(1);
    struct os_file *file = make(FILE_NAME);
    struct os_region region = {.address = NULL};
    struct os_view view = {.address = NULL};
    assert_done(os_file_guard(file));
    assert_done(os_region_map(&region, file, 0, SIZE, true));
    assert_done(os_view_map(&view, file, OS_VIEW_SHARED, 0, SIZE, SIZE));
    assert_done(os_file_resize(file, 4096));
    assert_false(os_file_faulted(file));
    assert_int_equal(((volatile unsigned char *)region.address)[8192], 0);
    assert_true(os_file_faulted(file));
    assert_int_equal(((volatile unsigned char *)view.address)[SIZE - 1], 0);
    assert_int_equal(((volatile unsigned char *)view.address)[4095], 'a');
    os_view_unmap(&view);
    os_region_unmap(&region);
    os_file_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_object_survives_a_kill_and_no_power_cut),
        cmocka_unit_test(syncs_of_an_object_are_no_steps_and_leave_nothing_pending),
        cmocka_unit_test(an_object_is_published_once_and_never_replaced),
        cmocka_unit_test(the_list_has_every_object_in_the_order_of_names),
        cmocka_unit_test(a_name_that_was_taken_away_may_be_back_after_a_power_cut_until_it_is_synced),
        cmocka_unit_test(stores_through_a_shared_view_survive_a_kill_and_may_survive_a_power_cut),
        cmocka_unit_test(a_failed_sync_of_a_shared_view_leaves_in_doubt_what_it_covered),
        cmocka_unit_test(a_file_opened_for_reading_has_no_writable_shared_view),
        cmocka_unit_test(clones_are_one_write_where_the_machine_has_them),
        cmocka_unit_test(the_boot_id_changes_with_the_start_of_the_machine_only),
        cmocka_unit_test(a_file_cut_short_under_a_guarded_mapping_gives_zeros),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
