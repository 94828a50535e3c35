/* SPDX-License-Identifier: MIT
 *
 * What the os layer knows of the machine and of who waits, on the real system.
 */
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os.h"
#include "refusal.h"
#include "support/check.h"
#include "support/scratch.h"

#define CHILD_SECONDS 20

/* ---- the machine's start ----------------------------------------------------------------------------------------- */

static void the_boot_id_is_that_of_the_kernel(void **unused) {
    (void)unused;
    uint8_t id[16], again[16];
    char text[64] = "", made[33] = "", plain[33] = "";
    FILE *stream = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (stream == NULL || fgets(text, sizeof text, stream) == NULL)
        skip();
    fclose(stream);
    size_t length = 0;
    for (const char *at = text; *at != '\0' && *at != '\n' && length < 32; at++) {
        if (*at != '-')
            plain[length++] = *at;
    }
    os_boot_id(id);
    os_boot_id(again);
    assert_memory_equal(id, again, sizeof id);
    for (size_t i = 0; i < sizeof id; i++)
        snprintf(made + 2 * i, 3, "%02x", id[i]);
    assert_string_equal(made, plain);
}

static int look_without_proc(void *unused) {
    (void)unused;
    static const uint8_t zeros[16];
    uint8_t id[16];
    memset(id, 1, sizeof id);
    if (!refusal_mount_tmpfs("/proc", 65536))
        return REFUSAL_SKIP;
    os_boot_id(id);
    child_check(memcmp(id, zeros, sizeof id) == 0);
    return 0;
}

static void a_boot_id_that_is_not_told_is_zero(void **unused) {
    (void)unused;
    refusal_run(look_without_proc, NULL);
}

/* ---- waking ------------------------------------------------------------------------------------------------------ */

#define SLEEPERS 3
#define LOOKS 20000

static _Atomic uint32_t *word; /* shared by the processes */

static int sleep_once(void) {
    struct os_waiter *waiter = NULL;
    uint64_t name = 0;
    child_must(os_waiter_open(&waiter, &name));
    child_check(name != 0);
    while (atomic_load(word) == 0)
        os_waiter_sleep(waiter, word, 0, UINT64_C(60000000000));
    os_waiter_close(waiter);
    return 0;
}

static void waking_tells_how_many_were_asleep(void **unused) {
    (void)unused;
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(word != MAP_FAILED);
    assert_int_equal(os_waiter_wake(word, NULL, 0), 0);
    pid_t sleepers[SLEEPERS];
    fflush(NULL);
    for (size_t i = 0; i < SLEEPERS; i++) {
        sleepers[i] = fork();
        assert_true(sleepers[i] >= 0);
        if (sleepers[i] == 0) {
            alarm(CHILD_SECONDS);
            _exit(sleep_once());
        }
    }
    /* Without a change of the word they go to sleep again, so that one of the looks finds all of them. */
    size_t most = 0;
    for (int i = 0; i < LOOKS && most < SLEEPERS; i++) {
        const size_t woken = os_waiter_wake(word, NULL, 0);
        assert_true(woken <= SLEEPERS);
        most = woken > most ? woken : most;
        scratch_sleep_ms(1);
    }
    assert_int_equal(most, SLEEPERS);
    atomic_store(word, 1);
    (void)os_waiter_wake(word, NULL, 0);
    for (size_t i = 0; i < SLEEPERS; i++) {
        int status = 1;
        assert_int_equal(waitpid(sleepers[i], &status, 0), sleepers[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(os_waiter_wake(word, NULL, 0), 0);
    munmap((void *)word, 4096);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_boot_id_is_that_of_the_kernel),
        cmocka_unit_test(a_boot_id_that_is_not_told_is_zero),
        cmocka_unit_test(waking_tells_how_many_were_asleep),
    };
    scratch_time_limit(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
