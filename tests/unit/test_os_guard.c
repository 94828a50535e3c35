/* SPDX-License-Identifier: MIT
 *
 * The guard of mappings on the real system: a file that is cut short under a guarded mapping gives zeros and a flag, in
 * regions and views, in many threads; every other fault goes where it went before.
 *
 * Each test runs in a process of its own, because the handler stays in a process once it is installed.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os_posix.h"
#include "support/check.h"
#include "support/scratch.h"

#define PAGE ((size_t)4096)
#define PAGES ((size_t)16)
#define SIZE (PAGES * PAGE)
#define KEPT ((size_t)4) /* pages that are left when a file is cut short */
#define CHILD_SECONDS 60

static void in_child(int (*child)(void *context)) {
    assert_int_equal(check_in_child(child, NULL, CHILD_SECONDS), 0);
}

static void dies_in_child(int (*child)(void *context)) {
    assert_int_equal(check_in_child(child, NULL, CHILD_SECONDS), -SIGBUS);
}

static char file_prefix[500];

/* A file of SIZE bytes 'a', which never gets a name; in children and threads too. */
static struct os_file *make_file(bool guard) {
    unsigned char bytes[SIZE];
    static atomic_uint count;
    struct os_file *file = NULL;
    char path[600];
    snprintf(path, sizeof path, "%s-%d-%u", file_prefix, (int)getpid(), atomic_fetch_add(&count, 1));
    memset(bytes, 'a', sizeof bytes);
    child_must(os_file_create(&file, path, 0600));
    child_must(os_file_write(file, 0, bytes, sizeof bytes));
    if (guard)
        child_must(os_file_guard(file));
    return file;
}

static void cut_short(struct os_file *file) {
    child_must(os_file_resize(file, KEPT * PAGE));
}

static unsigned char look(const void *address) {
    return *(const volatile unsigned char *)address;
}

static void put(void *address, unsigned char value) {
    *(volatile unsigned char *)address = value;
}

/* A mapping that nobody guards, of a page that its file does not have. */
static unsigned char *map_beyond_the_end(void *at) {
    const int fd = memfd_create("short", MFD_CLOEXEC);
    void *address = mmap(at, PAGE, PROT_READ, MAP_SHARED | (at != NULL ? MAP_FIXED : 0), fd, 0);
    child_check(fd >= 0 && address != MAP_FAILED);
    close(fd);
    return address;
}

/* ---- what is guarded --------------------------------------------------------------------------------------------- */

static int fault_in_a_region(void *unused) {
    (void)unused;
    struct os_file *file = make_file(true);
    struct os_region region = {.address = NULL};
    struct os_file_info info;
    child_must(os_region_map(&region, file, 0, SIZE, true));
    child_check(look(region.address + SIZE - 1) == 'a');
    cut_short(file);
    child_check(look(region.address + KEPT * PAGE - 1) == 'a');
    child_check(!os_file_faulted(file));

    errno = EDOM;
    child_check(look(region.address + 8 * PAGE + 100) == 0);
    child_check(errno == EDOM);
    child_check(os_file_faulted(file));
    for (size_t i = 8 * PAGE; i < SIZE; i++)
        child_check(look(region.address + i) == 0);
    put(region.address + SIZE - 1, 'z');
    child_check(look(region.address + KEPT * PAGE) == 0); /* before the page that faulted first: it faults too */

    /* The zeros are the process's own, and what is before them is still the file. */
    child_must(os_file_resize(file, SIZE));
    child_check(look(region.address + SIZE - 1) == 0); /* lost with the second fault, whose zeros reach to the end */
    put(region.address + SIZE - 1, 'z');
    put(region.address, 'f');
    char first = 0, last = 'x';
    child_must(os_file_read(file, 0, &first, 1));
    child_must(os_file_read(file, SIZE - 1, &last, 1));
    child_check(first == 'f' && last == 0);
    child_must(os_file_info(file, &info));
    child_check(info.size == SIZE);
    child_must(os_region_sync(&region, 0, SIZE));
    os_region_unmap(&region);
    os_file_close(file);
    return 0;
}

static void lost_pages_of_a_region_become_private_zeros(void **unused) {
    (void)unused;
    in_child(fault_in_a_region);
}

static int fault_in_views(void *unused) {
    (void)unused;
    static const enum os_view_kind kinds[] = {OS_VIEW_PRIVATE, OS_VIEW_SHARED, OS_VIEW_SHARED_READ_ONLY};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct os_file *file = make_file(true);
        struct os_view view = {.address = NULL};
        child_must(os_view_map(&view, file, kinds[i], 0, 6 * PAGE, SIZE));
        if (kinds[i] == OS_VIEW_PRIVATE)
            child_must(os_view_track(&view, OS_TRACKER_SCAN));
        child_must(os_view_grow(&view, 10 * PAGE));
        if (kinds[i] != OS_VIEW_SHARED_READ_ONLY)
            put(view.address + 9 * PAGE, 'v');
        cut_short(file);
        child_check(look(view.address + 9 * PAGE) == 0); /* in the tail; a private copy is lost as well */
        child_check(os_file_faulted(file));
        child_check(look(view.address + 5 * PAGE) == 0);
        child_check(look(view.address + KEPT * PAGE - 1) == 'a');

        /* It still grows, what it grows by is guarded, and it ends as always. */
        child_must(os_file_resize(file, SIZE));
        child_must(os_view_grow(&view, SIZE));
        child_check(look(view.address + SIZE - 1) == 0 && look(view.address + 9 * PAGE) == 0);
        cut_short(file);
        child_check(look(view.address + SIZE - 1) == 0);
        if (kinds[i] == OS_VIEW_PRIVATE)
            child_must(os_view_drop(&view, 0, SIZE));
        else
            child_must(os_view_sync(&view));
        os_view_unmap(&view);
        os_file_close(file);
    }
    return 0;
}

static void lost_pages_of_views_of_every_kind_become_private_zeros(void **unused) {
    (void)unused;
    in_child(fault_in_views);
}

static int touch_zeros(void *address) {
    return look(address) == 0 ? 1 : 2;
}

static int fork_after_a_fault(void *unused) {
    (void)unused;
    struct os_file *file = make_file(true);
    struct os_region region = {.address = NULL};
    child_must(os_region_map(&region, file, 0, SIZE, false));
    cut_short(file);
    child_check(look(region.address + 8 * PAGE) == 0);
    const pid_t pid = fork();
    child_check(pid >= 0);
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(touch_zeros(region.address + 8 * PAGE));
    }
    int status = 0;
    child_check(waitpid(pid, &status, 0) == pid);
    child_check(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    os_region_unmap(&region);
    os_file_close(file);
    return 0;
}

static void the_zeros_are_not_inherited_by_a_child_of_fork(void **unused) {
    (void)unused;
    in_child(fork_after_a_fault);
}

static int close_the_file_first(void *unused) {
    (void)unused;
    struct os_file *file = make_file(true);
    struct os_region region = {.address = NULL};
    child_must(os_region_map(&region, file, 0, SIZE, false));
    cut_short(file);
    os_file_close(file); /* its flag must live as long as the mapping */
    child_check(look(region.address + SIZE - 1) == 0);
    os_region_unmap(&region);
    return 0;
}

static void a_mapping_is_guarded_longer_than_its_file_is_open(void **unused) {
    (void)unused;
    in_child(close_the_file_first);
}

static int write_from_lost_memory(void *unused) {
    (void)unused;
    struct os_file *file = make_file(true), *other = make_file(false);
    struct os_region region = {.address = NULL};
    child_must(os_region_map(&region, file, 0, SIZE, false));
    cut_short(file);
    child_check(os_file_write(other, 0, region.address + 8 * PAGE, PAGE) == KM_ESTALE);
    child_check(!os_file_faulted(file)); /* the system met it, and no handler was called */
    os_region_unmap(&region);
    os_file_close(other);
    os_file_close(file);
    return 0;
}

static void a_system_call_that_meets_lost_memory_says_what_is_lost(void **unused) {
    (void)unused;
    in_child(write_from_lost_memory);
}

static int fault_in_one_of_many(void *unused) {
    (void)unused;
    struct os_file *files[6];
    struct os_region regions[6];
    for (size_t i = 0; i < 6; i++) {
        files[i] = make_file(true);
        child_must(os_region_map(&regions[i], files[i], 0, SIZE, false));
    }
    /* Entries and addresses are now in the same order, or in the opposite one: mix them. */
    for (size_t i = 0; i < 6; i += 2) {
        os_region_unmap(&regions[i]);
        child_must(os_file_resize(files[i], 3 * SIZE));
        child_must(os_region_map(&regions[i], files[i], 0, 3 * SIZE, false));
    }
    for (size_t i = 6; i-- > 0;) {
        cut_short(files[i]);
        child_check(look(regions[i].address + SIZE - 1) == 0);
        for (size_t j = 0; j < 6; j++)
            child_check(os_file_faulted(files[j]) == (j >= i));
    }
    for (size_t i = 0; i < 6; i++) {
        os_region_unmap(&regions[i]);
        os_file_close(files[i]);
    }
    return 0;
}

static void only_the_file_that_lost_its_pages_is_marked(void **unused) {
    (void)unused;
    in_child(fault_in_one_of_many);
}

/* ---- what is not ours -------------------------------------------------------------------------------------------- */

static int fault_without_a_guard(void *unused) {
    (void)unused;
    struct os_file *file = make_file(false), *other = make_file(true);
    struct os_region region = {.address = NULL}, another = {.address = NULL};
    child_must(os_region_map(&region, file, 0, SIZE, false));
    child_must(os_region_map(&another, other, 0, SIZE, false));
    cut_short(file);
    look(region.address + 8 * PAGE);
    return 1;
}

static int fault_in_what_was_mapped_before(void *unused) {
    (void)unused;
    struct os_file *file = make_file(false);
    struct os_region region = {.address = NULL};
    child_must(os_region_map(&region, file, 0, SIZE, false));
    child_must(os_file_guard(file));
    cut_short(file);
    look(region.address + 8 * PAGE);
    return 1;
}

static int fault_where_a_region_was(void *unused) {
    (void)unused;
    struct os_file *file = make_file(true);
    struct os_region region = {.address = NULL};
    child_must(os_region_map(&region, file, 0, SIZE, false));
    unsigned char *const address = region.address;
    os_region_unmap(&region);
    look(map_beyond_the_end(address));
    return 1;
}

static int fault_where_a_view_was(void *unused) {
    (void)unused;
    struct os_file *file = make_file(true);
    struct os_view view = {.address = NULL};
    child_must(os_view_map(&view, file, OS_VIEW_SHARED, 0, PAGE, SIZE));
    child_must(os_view_grow(&view, SIZE));
    unsigned char *const address = view.address;
    os_view_unmap(&view);
    look(map_beyond_the_end(address + SIZE - PAGE));
    return 1;
}

static int fault_in_a_guarded_mapping_for_another_reason(void *unused) {
    (void)unused;
    struct os_file *file = make_file(true);
    struct os_region region = {.address = NULL};
    child_must(os_region_map(&region, file, 0, SIZE, false));
    raise(SIGBUS);
    return 1;
}

static int be_sent_the_signal(void *unused) {
    (void)unused;
    struct os_file *file = make_file(true);
    const pid_t parent = getpid(), pid = fork();
    child_check(pid >= 0);
    if (pid == 0) {
        kill(parent, SIGBUS);
        _exit(0);
    }
    os_file_close(file);
    for (;;)
        pause();
}

static void every_other_fault_ends_the_process_as_before(void **unused) {
    (void)unused;
    dies_in_child(fault_without_a_guard);
    dies_in_child(fault_in_what_was_mapped_before);
    dies_in_child(fault_where_a_region_was);
    dies_in_child(fault_where_a_view_was);
    dies_in_child(fault_in_a_guarded_mapping_for_another_reason);
    dies_in_child(be_sent_the_signal);
}

static int ignore_what_is_sent(void *real) {
    signal(SIGBUS, SIG_IGN);
    struct os_file *file = make_file(true);
    for (int i = 0; i < 3; i++)
        raise(SIGBUS);
    if (real != NULL)
        look(map_beyond_the_end(NULL));
    os_file_close(file);
    return 0;
}

static void an_ignored_signal_is_ignored_but_a_real_fault_is_not(void **unused) {
    (void)unused;
    int real = 1;
    assert_int_equal(check_in_child(ignore_what_is_sent, NULL, CHILD_SECONDS), 0);
    assert_int_equal(check_in_child(ignore_what_is_sent, &real, CHILD_SECONDS), -SIGBUS);
}

/* ---- handlers that were there before ----------------------------------------------------------------------------- */

static sigjmp_buf back;
static volatile sig_atomic_t calls, seen_code;
static void *volatile seen_address;
static volatile sig_atomic_t seen_mask; /* which of the signals that we look at were blocked, a bit each */
static unsigned char *volatile guarded_memory;

static int mask_now(void) {
    static const int looked_at[] = {SIGBUS, SIGUSR1, SIGUSR2, SIGCHLD, SIGWINCH};
    sigset_t mask;
    int bits = 0;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    for (size_t i = 0; i < sizeof looked_at / sizeof looked_at[0]; i++)
        bits |= (sigismember(&mask, looked_at[i]) == 1) << i;
    return bits;
}

static void note_and_jump(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    calls = calls + 1;
    seen_address = info->si_addr;
    seen_code = info->si_code;
    seen_mask = mask_now();
    siglongjmp(back, 1);
}

static void count_call(int number) {
    calls = calls + (number == SIGBUS);
}

static void count_and_jump(int number) {
    calls = calls + (number == SIGBUS);
    siglongjmp(back, 1);
}

static void look_at_guarded_memory(int number) {
    (void)number;
    calls = calls + 1 + look(guarded_memory);
    siglongjmp(back, 1);
}

static void handle_with(void (*with_info)(int, siginfo_t *, void *), void (*plain)(int), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    if (with_info != NULL)
        action.sa_sigaction = with_info;
    else
        action.sa_handler = plain;
    action.sa_flags = flags;
    sigaddset(&action.sa_mask, SIGUSR2);
    child_check(sigaction(SIGBUS, &action, NULL) == 0);
}

/* What the handler is told about a fault, with our handler before it or without. */
static void fault_for_the_handler(unsigned char *address) {
    seen_address = NULL;
    if (sigsetjmp(back, 1) == 0)
        look(address + 5);
}

static int compare_with_and_without_guard(void *context) {
    static const int flags[] = {SA_SIGINFO, SA_SIGINFO | SA_NODEFER, SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    const size_t which = (size_t)(uintptr_t)context;
    sigset_t blocked;
    unsigned char *const beyond = map_beyond_the_end(NULL);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    handle_with(note_and_jump, NULL, flags[which]);

    fault_for_the_handler(beyond);
    child_check(calls == 1 && seen_address == beyond + 5 && seen_code == BUS_ADRERR);
    const int mask = seen_mask, code = seen_code;
    struct os_file *file = make_file(true);
    fault_for_the_handler(beyond);
    child_check(calls == 2 && seen_address == beyond + 5 && seen_code == code);
    child_check(seen_mask == mask);
    if (sigsetjmp(back, 1) == 0)
        raise(SIGBUS);
    child_check(calls == 3 && seen_code == SI_TKILL && seen_mask == mask);

    /* And what is guarded it does not see. */
    struct os_region region = {.address = NULL};
    child_must(os_region_map(&region, file, 0, SIZE, false));
    cut_short(file);
    child_check(look(region.address + SIZE - 1) == 0 && calls == 3);
    os_region_unmap(&region);
    os_file_close(file);
    return 0;
}

static void an_earlier_handler_is_called_as_the_kernel_would_have(void **unused) {
    (void)unused;
    for (uintptr_t which = 0; which < 3; which++)
        assert_int_equal(check_in_child(compare_with_and_without_guard, (void *)which, CHILD_SECONDS), 0);
}

static int call_a_plain_handler(void *unused) {
    (void)unused;
    handle_with(NULL, count_call, 0);
    struct os_file *file = make_file(true);
    raise(SIGBUS);
    raise(SIGBUS);
    child_check(calls == 2);
    os_file_close(file);
    return 0;
}

static int fault_with_a_handler_for_one_signal(void *unused) {
    (void)unused;
    handle_with(NULL, count_and_jump, (int)SA_RESETHAND);
    struct os_file *file = make_file(true);
    struct os_region region = {.address = NULL};
    child_must(os_region_map(&region, file, 0, SIZE, false));
    cut_short(file);
    child_check(look(region.address + SIZE - 1) == 0 && calls == 0);
    unsigned char *const beyond = map_beyond_the_end(NULL);
    if (sigsetjmp(back, 1) == 0)
        look(beyond);
    child_check(calls == 1);
    look(beyond);
    return 1;
}

static void a_plain_handler_and_one_for_one_signal_are_taken_as_they_were(void **unused) {
    (void)unused;
    in_child(call_a_plain_handler);
    dies_in_child(fault_with_a_handler_for_one_signal);
}

static int fault_in_handlers(void *unused) {
    (void)unused;
    handle_with(NULL, look_at_guarded_memory, SA_NODEFER);
    signal(SIGWINCH, look_at_guarded_memory);
    struct os_file *file = make_file(true);
    struct os_region region = {.address = NULL};
    child_must(os_region_map(&region, file, 0, SIZE, false));
    cut_short(file);
    guarded_memory = region.address + 8 * PAGE;
    if (sigsetjmp(back, 1) == 0)
        look(map_beyond_the_end(NULL));
    child_check(calls == 1 && os_file_faulted(file));
    guarded_memory = region.address + KEPT * PAGE;
    if (sigsetjmp(back, 1) == 0)
        raise(SIGWINCH);
    child_check(calls == 2);
    os_region_unmap(&region);
    os_file_close(file);
    return 0;
}

static void a_fault_inside_of_a_handler_is_met_too(void **unused) {
    (void)unused;
    in_child(fault_in_handlers);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

#define THREADS 4
#define ROUNDS 300

static void *fault_again_and_again(void *shared) {
    for (int round = 0; round < ROUNDS; round++) {
        struct os_file *file = make_file(true);
        struct os_region region = {.address = NULL};
        child_must(os_region_map(&region, file, 0, SIZE, false));
        cut_short(file);
        for (size_t page = PAGES; page-- > 0;)
            child_check(look(region.address + page * PAGE) == (page < KEPT ? 'a' : 0));
        child_check(os_file_faulted(file));
        if (round < (int)PAGES) /* one mapping for all threads */
            child_check(look((unsigned char *)shared + (PAGES - 1 - (size_t)round) * PAGE) ==
                        (PAGES - 1 - (size_t)round < KEPT ? 'a' : 0));
        os_region_unmap(&region);
        os_file_close(file);
    }
    return NULL;
}

/* What comes to an address where a guarded mapping was is left alone. */
static void *map_again_and_again(void *unused) {
    struct os_file *file = make_file(true);
    for (int round = 0; round < 10 * ROUNDS; round++) {
        struct os_region region = {.address = NULL};
        child_must(os_region_map(&region, file, 0, SIZE, false));
        unsigned char *const address = region.address;
        os_region_unmap(&region);
        unsigned char *const mine =
            mmap(address, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (mine == MAP_FAILED)
            continue; /* another thread was quicker */
        memset(mine, round | 1, SIZE);
        sched_yield();
        for (size_t i = 0; i < SIZE; i += 512)
            child_check(mine[i] == (unsigned char)(round | 1));
        munmap(mine, SIZE);
    }
    os_file_close(file);
    return unused;
}

static int fault_in_threads(void *unused) {
    (void)unused;
    pthread_t threads[THREADS];
    struct os_file *file = make_file(true);
    struct os_region shared = {.address = NULL};
    child_must(os_region_map(&shared, file, 0, SIZE, false));
    cut_short(file);
    for (size_t i = 0; i < THREADS; i++)
        child_check(pthread_create(&threads[i], NULL, i == 0 ? map_again_and_again : fault_again_and_again,
                                   shared.address) == 0);
    for (size_t i = 0; i < THREADS; i++)
        child_check(pthread_join(threads[i], NULL) == 0);
    child_check(os_file_faulted(file));
    os_region_unmap(&shared);
    os_file_close(file);
    return 0;
}

static void faults_in_many_threads_each_mend_their_own_mapping(void **unused) {
    (void)unused;
    in_child(fault_in_threads);
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

#define ROOM 1024

static int fill_the_table(void *unused) {
    (void)unused;
    static struct os_region regions[ROOM + 1];
    struct os_file *file = make_file(true), *other = make_file(false), *plain = make_file(false);
    struct os_view view = {.address = NULL};
    for (size_t i = 0; i < ROOM; i++)
        child_must(os_region_map(&regions[i], file, 0, SIZE, false));
    child_check(os_region_map(&regions[ROOM], file, 0, SIZE, false) == KM_ENOMEM);
    child_check(regions[ROOM].address == NULL);
    child_check(strstr(km__error_detail(), "1024") != NULL);
    child_check(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, SIZE, SIZE) == KM_ENOMEM);
    child_check(view.address == NULL);
    child_check(os_file_guard(other) == KM_ENOMEM);
    child_must(os_file_guard(file)); /* it is guarded */
    child_must(os_region_map(&regions[ROOM], plain, 0, SIZE, false));
    os_region_unmap(&regions[ROOM]);

    /* A child of fork has none of these mappings, so it has all the room. */
    const pid_t pid = fork();
    child_check(pid >= 0);
    if (pid == 0) {
        struct os_region own[2] = {{.address = NULL}};
        child_must(os_region_map(&own[0], file, 0, SIZE, false));
        child_must(os_region_map(&own[1], file, 0, SIZE, false));
        _exit(0);
    }
    int status = 0;
    child_check(waitpid(pid, &status, 0) == pid && status == 0);

    os_region_unmap(&regions[ROOM / 2]);
    child_must(os_view_map(&view, file, OS_VIEW_PRIVATE, 0, SIZE, SIZE));
    cut_short(file);
    child_check(look(view.address + SIZE - 1) == 0);
    child_check(look(regions[ROOM - 1].address + SIZE - 1) == 0);
    os_view_unmap(&view);
    for (size_t i = 0; i < ROOM; i++)
        os_region_unmap(&regions[i]);
    child_must(os_file_guard(other));
    os_file_close(plain);
    os_file_close(other);
    os_file_close(file);
    return 0;
}

static void one_mapping_more_than_the_table_holds_is_refused(void **unused) {
    (void)unused;
    in_child(fill_the_table);
}

/* The status of a child of fork that does what `way` says at the address of a mapping that its parent guards. */
static int in_a_forked_child(unsigned char *address, int way) {
    const pid_t pid = fork();
    child_check(pid >= 0);
    if (pid == 0) {
        if (way == 0) {
            look(map_beyond_the_end(address));
            _exit(1);
        }
        struct os_file *file = make_file(true);
        struct os_region region = {.address = NULL};
        child_must(os_region_map(&region, file, 0, SIZE, false));
        cut_short(file);
        child_check(look(region.address + SIZE - 1) == 0 && os_file_faulted(file));
        os_region_unmap(&region);
        os_file_close(file);
        _exit(0);
    }
    int status = 0;
    child_check(waitpid(pid, &status, 0) == pid);
    return status;
}

static int fork_with_a_guarded_mapping(void *unused) {
    (void)unused;
    struct os_file *file = make_file(true);
    struct os_region region = {.address = NULL};
    child_must(os_region_map(&region, file, 0, SIZE, false));
    int status = in_a_forked_child(region.address, 0);
    child_check(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    status = in_a_forked_child(region.address, 1);
    child_check(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    child_check(!os_file_faulted(file));
    cut_short(file);
    child_check(look(region.address + SIZE - 1) == 0 && os_file_faulted(file));
    os_region_unmap(&region);
    os_file_close(file);
    return 0;
}

static void a_child_of_fork_guards_its_own_mappings_and_not_its_parents(void **unused) {
    (void)unused;
    in_child(fork_with_a_guarded_mapping);
}

#define FORKS 60

static atomic_bool forking;

static void *fault_while_others_fork(void *unused) {
    struct os_file *file = make_file(true);
    while (atomic_load(&forking)) {
        struct os_region region = {.address = NULL};
        child_must(os_file_resize(file, SIZE));
        child_must(os_region_map(&region, file, 0, SIZE, false));
        cut_short(file);
        for (size_t page = PAGES; page-- > KEPT;)
            child_check(look(region.address + page * PAGE) == 0);
        os_region_unmap(&region);
    }
    os_file_close(file);
    return unused;
}

/* The handlers of other threads are at work in many of these forks, and in none of the children. */
static int fork_while_threads_fault(void *unused) {
    (void)unused;
    pthread_t threads[THREADS];
    struct os_file *file = make_file(true);
    atomic_store(&forking, true);
    for (size_t i = 0; i < THREADS; i++)
        child_check(pthread_create(&threads[i], NULL, fault_while_others_fork, NULL) == 0);
    for (int i = 0; i < FORKS; i++) {
        const pid_t pid = fork();
        child_check(pid >= 0);
        if (pid == 0) {
            struct os_region regions[2 * THREADS];
            alarm(CHILD_SECONDS / 2);
            for (size_t j = 0; j < 2 * THREADS; j++)
                child_must(os_region_map(&regions[j], file, 0, SIZE, false));
            for (size_t j = 0; j < 2 * THREADS; j++)
                os_region_unmap(&regions[j]);
            _exit(0);
        }
        int status = 0;
        child_check(waitpid(pid, &status, 0) == pid && status == 0);
    }
    atomic_store(&forking, false);
    for (size_t i = 0; i < THREADS; i++)
        child_check(pthread_join(threads[i], NULL) == 0);
    os_file_close(file);
    return 0;
}

static void a_fork_while_other_threads_fault_leaves_nothing_behind_in_the_child(void **unused) {
    (void)unused;
    in_child(fork_while_threads_fault);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lost_pages_of_a_region_become_private_zeros),
        cmocka_unit_test(lost_pages_of_views_of_every_kind_become_private_zeros),
        cmocka_unit_test(only_the_file_that_lost_its_pages_is_marked),
        cmocka_unit_test(the_zeros_are_not_inherited_by_a_child_of_fork),
        cmocka_unit_test(a_mapping_is_guarded_longer_than_its_file_is_open),
        cmocka_unit_test(a_system_call_that_meets_lost_memory_says_what_is_lost),
        cmocka_unit_test(every_other_fault_ends_the_process_as_before),
        cmocka_unit_test(an_ignored_signal_is_ignored_but_a_real_fault_is_not),
        cmocka_unit_test(an_earlier_handler_is_called_as_the_kernel_would_have),
        cmocka_unit_test(a_plain_handler_and_one_for_one_signal_are_taken_as_they_were),
        cmocka_unit_test(a_fault_inside_of_a_handler_is_met_too),
        cmocka_unit_test(faults_in_many_threads_each_mend_their_own_mapping),
        cmocka_unit_test(one_mapping_more_than_the_table_holds_is_refused),
        cmocka_unit_test(a_child_of_fork_guards_its_own_mappings_and_not_its_parents),
        cmocka_unit_test(a_fork_while_other_threads_fault_leaves_nothing_behind_in_the_child),
    };
    scratch_time_limit(170);
    snprintf(file_prefix, sizeof file_prefix, "%s", scratch_path("file"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
