/* SPDX-License-Identifier: MIT
 *
 * Trackers of the os layer on the real system: whatever stores to a view, each of them finds it, and goes on finding it
 * when the system or the program takes away what it works with.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "os/os.h"
#include "refusal.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"

#define PAGE ((size_t)4096)
#define PAGES 512
#define ROUNDS 150
#define SCAN_REQUEST_SIZE 96u

/* What a question reported. */
struct found {
    unsigned char page[PAGES];
    size_t count, calls;
    size_t stop_after; /* calls; 0: never */
    uint64_t next;     /* pages are reported in order */
    bool ordered;
};

static int note_pages(void *context, uint64_t first, uint64_t count) {
    struct found *found = context;
    found->ordered = found->ordered && first >= found->next && count > 0 && first + count <= PAGES;
    for (uint64_t i = first; i < first + count && i < PAGES; i++) {
        found->count += !found->page[i];
        found->page[i] = 1;
    }
    found->next = first + count;
    return ++found->calls == found->stop_after;
}

static struct found ask(struct os_view *view, size_t stop_after) {
    struct found found = {.stop_after = stop_after, .ordered = true};
    must(os_view_dirty(view, note_pages, &found));
    assert_true(found.ordered);
    return found;
}

struct tracked {
    struct os_file *file;
    struct os_view view;
};

static struct tracked start(const char *name, size_t pages, enum os_tracker wanted) {
    struct tracked tracked = {.file = NULL};
    must(os_file_create(&tracked.file, scratch_path("%s", name), 0600));
    must(os_file_resize(tracked.file, PAGES * PAGE));
    must(os_view_map(&tracked.view, tracked.file, OS_VIEW_PRIVATE, 0, pages * PAGE, PAGES * PAGE));
    must(os_view_track(&tracked.view, wanted));
    assert_true(tracked.view.tracker >= wanted);
    return tracked;
}

static void finish(struct tracked *tracked) {
    os_view_unmap(&tracked->view);
    os_file_close(tracked->file);
}

/* ---- every store ------------------------------------------------------------------------------------------------- */

/* The view, what it must show, and which pages were stored to since the last question. */
struct shadow {
    struct tracked tracked;
    struct chance chance;
    unsigned char home[PAGES], copy[PAGES]; /* the byte that fills a page */
    bool copied[PAGES];                     /* stored to since it was last dropped: shows the copy, not home */
    bool stored[PAGES];                     /* stored to since the last question */
    int source;                             /* a file to read(2) from */
};

static uint64_t pages_now(const struct shadow *shadow) {
    return shadow->tracked.view.length / PAGE;
}

static void store(struct shadow *shadow, uint64_t page) {
    unsigned char *at = shadow->tracked.view.address + page * PAGE;
    unsigned char value = (unsigned char)chance_next(&shadow->chance);
    if (chance_percent(&shadow->chance, 30)) { /* the kernel stores for us */
        unsigned char bytes[PAGE];
        memset(bytes, value, sizeof bytes);
        assert_int_equal(pwrite(shadow->source, bytes, sizeof bytes, 0), sizeof bytes);
        assert_int_equal(pread(shadow->source, at, sizeof bytes, 0), sizeof bytes);
    } else {
        memset(at, value, PAGE);
    }
    shadow->copy[page] = value;
    shadow->copied[page] = shadow->stored[page] = true;
}

static void write_home(struct shadow *shadow, uint64_t page) {
    unsigned char bytes[PAGE];
    memset(bytes, (int)chance_below(&shadow->chance, 256), sizeof bytes);
    must(os_file_write(shadow->tracked.file, page * PAGE, bytes, sizeof bytes));
    shadow->home[page] = bytes[0];
}

static void drop(struct shadow *shadow, uint64_t first, uint64_t count) {
    must(os_view_drop(&shadow->tracked.view, first * PAGE, count * PAGE));
    for (uint64_t i = first; i < first + count; i++)
        shadow->copied[i] = shadow->stored[i] = false;
}

static void look(const struct shadow *shadow, uint64_t page) {
    const unsigned char *at = shadow->tracked.view.address + page * PAGE;
    unsigned char wanted = shadow->copied[page] ? shadow->copy[page] : shadow->home[page];
    assert_int_equal(at[0], wanted);
    assert_int_equal(at[PAGE - 1], wanted);
}

static void question(struct shadow *shadow) {
    struct found found = ask(&shadow->tracked.view, 0);
    for (uint64_t i = 0; i < pages_now(shadow); i++) {
        if (shadow->stored[i] && !found.page[i])
            fail_msg("page %llu was stored to and not found", (unsigned long long)i);
    }
    memset(shadow->stored, 0, sizeof shadow->stored);
}

static void find_every_store(enum os_tracker wanted) {
    struct shadow shadow = {.chance = {.state = chance_seed() + (uint64_t)wanted}};
    shadow.tracked = start("stores.km", 64, wanted);
    shadow.source = open(scratch_path("source"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(shadow.source >= 0);
    for (int round = 0; round < ROUNDS; round++) {
        for (uint64_t n = chance_below(&shadow.chance, 40); n > 0; n--)
            store(&shadow, chance_below(&shadow.chance, pages_now(&shadow)));
        for (uint64_t n = chance_below(&shadow.chance, 10); n > 0; n--)
            write_home(&shadow, chance_below(&shadow.chance, PAGES));
        for (uint64_t n = chance_below(&shadow.chance, 10); n > 0; n--)
            look(&shadow, chance_below(&shadow.chance, pages_now(&shadow)));
        if (chance_percent(&shadow.chance, 20)) {
            uint64_t first = chance_below(&shadow.chance, pages_now(&shadow));
            drop(&shadow, first, chance_between(&shadow.chance, 1, pages_now(&shadow) - first));
        }
        if (chance_percent(&shadow.chance, 10))
            must(os_view_grow(&shadow.tracked.view, chance_between(&shadow.chance, 1, PAGES) * PAGE));
        if (chance_percent(&shadow.chance, 70))
            question(&shadow);
    }
    question(&shadow);
    assert_int_equal(shadow.tracked.view.tracker, wanted);
    close(shadow.source);
    finish(&shadow.tracked);
}

/* Whether this machine has a tracker at all; a container may have none but the last. */
static void need(enum os_tracker wanted) {
    struct tracked tracked = start("probe.km", 1, wanted);
    enum os_tracker got = tracked.view.tracker;
    finish(&tracked);
    if (got != wanted)
        skip();
}

static void the_scan_finds_every_store(void **unused) {
    (void)unused;
    need(OS_TRACKER_SCAN);
    find_every_store(OS_TRACKER_SCAN);
}

static void pagemap_finds_every_store(void **unused) {
    (void)unused;
    need(OS_TRACKER_PAGEMAP);
    find_every_store(OS_TRACKER_PAGEMAP);
}

static void comparing_finds_every_store(void **unused) {
    (void)unused;
    find_every_store(OS_TRACKER_COMPARE);
}

/* ---- not more than needed ---------------------------------------------------------------------------------------- */

static void the_scan_reports_only_what_was_stored_since_the_last_question(void **unused) {
    (void)unused;
    need(OS_TRACKER_SCAN);
    struct tracked tracked = start("precise.km", PAGES, OS_TRACKER_NONE);
    memset(tracked.view.address, 1, PAGES * PAGE);
    must(os_view_track(&tracked.view, OS_TRACKER_SCAN));
    assert_int_equal(ask(&tracked.view, 0).count, 0); /* what was before counts as clean */
    tracked.view.address[5 * PAGE] = 2;
    tracked.view.address[6 * PAGE] = 2;
    tracked.view.address[100 * PAGE + 17] = 2;
    struct found found = ask(&tracked.view, 0);
    assert_int_equal(found.count, 3);
    assert_int_equal(found.calls, 2);
    assert_true(found.page[5] && found.page[6] && found.page[100]);
    assert_int_equal(ask(&tracked.view, 0).count, 0);
    tracked.view.address[5 * PAGE] = 3;
    assert_int_equal(ask(&tracked.view, 0).count, 1);
    finish(&tracked);
}

static void pagemap_reports_only_private_pages(void **unused) {
    (void)unused;
    need(OS_TRACKER_PAGEMAP);
    struct tracked tracked = start("copies.km", PAGES, OS_TRACKER_PAGEMAP);
    unsigned char sum = 0;
    for (size_t i = 0; i < PAGES; i++)
        sum = (unsigned char)(sum + tracked.view.address[i * PAGE]);
    assert_int_equal(sum, 0);
    assert_int_equal(ask(&tracked.view, 0).count, 0);
    tracked.view.address[0] = 1;
    tracked.view.address[(PAGES - 1) * PAGE] = 1;
    struct found found = ask(&tracked.view, 0);
    assert_int_equal(found.count, 2);
    assert_true(found.page[0] && found.page[PAGES - 1]);
    must(os_view_drop(&tracked.view, 0, PAGE));
    assert_int_equal(ask(&tracked.view, 0).count, 1);
    finish(&tracked);
}

static void a_walk_that_was_stopped_loses_nothing(void **unused) {
    (void)unused;
    for (int wanted = OS_TRACKER_SCAN; wanted <= OS_TRACKER_COMPARE; wanted++) {
        struct tracked tracked = start("stopped.km", PAGES, (enum os_tracker)wanted);
        ask(&tracked.view, 0);
        for (size_t i = 0; i < PAGES; i += 2)
            tracked.view.address[i * PAGE] = 1;
        ask(&tracked.view, 3);
        ask(&tracked.view, 1);
        tracked.view.address[PAGE] = 1;
        struct found found = ask(&tracked.view, 0);
        assert_true(found.page[1]);
        for (size_t i = 0; i < PAGES; i += 2)
            assert_true(found.page[i]);
        if (tracked.view.tracker == OS_TRACKER_SCAN)
            assert_int_equal(ask(&tracked.view, 0).count, 0); /* and the scan is back */
        finish(&tracked);
    }
}

/* ---- while others store ------------------------------------------------------------------------------------------ */

struct storer {
    struct os_view *view;
    atomic_bool stop;
};

static void *store_all_the_time(void *context) {
    struct storer *storer = context;
    struct chance chance = {.state = chance_seed()};
    while (!atomic_load(&storer->stop)) {
        uint64_t random = chance_next(&chance);
        _Atomic unsigned char *byte = (_Atomic unsigned char *)storer->view->address + random % (PAGES * PAGE);
        atomic_store_explicit(byte, (unsigned char)(random >> 32), memory_order_relaxed);
    }
    return NULL;
}

static int copy_pages(void *context, uint64_t first, uint64_t count) {
    void *const *copy = context;
    for (uint64_t i = first * PAGE; i < (first + count) * PAGE; i++)
        ((unsigned char *)copy[0])[i] =
            atomic_load_explicit((_Atomic unsigned char *)copy[1] + i, memory_order_relaxed);
    return 0;
}

static void stores_of_another_thread_are_found_now_or_by_the_next_question(void **unused) {
    (void)unused;
    for (int wanted = OS_TRACKER_SCAN; wanted <= OS_TRACKER_COMPARE; wanted++) {
        struct tracked tracked = start("threads.km", PAGES, (enum os_tracker)wanted);
        unsigned char *twin = os_memory_take(PAGES * PAGE);
        assert_non_null(twin);
        struct storer storer = {.view = &tracked.view};
        void *copy[] = {twin, tracked.view.address};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, store_all_the_time, &storer), 0);
        for (int i = 0; i < 60; i++)
            must(os_view_dirty(&tracked.view, copy_pages, copy));
        atomic_store(&storer.stop, true);
        pthread_join(thread, NULL);
        must(os_view_dirty(&tracked.view, copy_pages, copy));
        assert_memory_equal(twin, tracked.view.address, PAGES * PAGE);
        os_memory_release(twin, PAGES * PAGE);
        finish(&tracked);
    }
}

/* ---- taken away -------------------------------------------------------------------------------------------------- */

/* Close the descriptors of this process whose /proc link starts so; how many. */
static int close_descriptors(const char *target) {
    int closed = 0;
    for (int fd = 3; fd < 256; fd++) {
        char link[40], name[256] = "";
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if (readlink(link, name, sizeof name - 1) > 0 && strstr(name, target) != NULL) {
            close(fd);
            closed++;
        }
    }
    return closed;
}

static void closed_descriptors_lose_nothing(void **unused) {
    (void)unused;
    static const char *const targets[] = {"[userfaultfd]", "/pagemap"};
    for (int wanted = OS_TRACKER_SCAN; wanted <= OS_TRACKER_PAGEMAP; wanted++) {
        for (size_t i = 0; i < 4; i++) { /* each target with and without growing */
            need((enum os_tracker)wanted);
            struct tracked tracked = start("closed.km", PAGES / 2, (enum os_tracker)wanted);
            ask(&tracked.view, 0);
            tracked.view.address[7 * PAGE] = 1;
            int closed = close_descriptors(targets[i % 2]);
            assert_int_equal(closed, wanted == OS_TRACKER_SCAN || i % 2 == 1);
            tracked.view.address[9 * PAGE] = 1;
            if (i < 2)
                must(os_view_grow(&tracked.view, PAGES * PAGE));
            const size_t last = tracked.view.length / PAGE - 1;
            tracked.view.address[last * PAGE] = 1;
            struct found found = ask(&tracked.view, 0);
            assert_true(found.page[7] && found.page[9] && found.page[last]);
            for (size_t page = 0; page <= last; page += 5) {
                tracked.view.address[page * PAGE] = 2;
                assert_true(ask(&tracked.view, 0).page[page]);
            }
            finish(&tracked);
        }
    }
}

static int track_in_a_container(void *context) {
    (void)context;
    if (!refuse_call(SYS_userfaultfd, 0, 0, EPERM))
        return REFUSAL_SKIP;
    struct tracked tracked = start("container.km", PAGES, OS_TRACKER_SCAN);
    child_check(tracked.view.tracker == OS_TRACKER_PAGEMAP);
    tracked.view.address[3 * PAGE] = 1;
    struct found found = {.ordered = true};
    child_must(os_view_dirty(&tracked.view, note_pages, &found));
    child_check(found.page[3] && found.count == 1);
    finish(&tracked);
    return 0;
}

static int track_on_an_old_kernel(void *context) {
    (void)context;
    const uint32_t scan_request = 0xc0000000u | SCAN_REQUEST_SIZE << 16 | 'f' << 8 | 16;
    struct tracked before = start("old.km", PAGES, OS_TRACKER_SCAN);
    ask(&before.view, 0);
    before.view.address[3 * PAGE] = 1;
    if (!refuse_call(SYS_ioctl, 1, scan_request, ENOTTY))
        return REFUSAL_SKIP;
    struct found found = {.ordered = true}; /* refused while it is in use */
    child_must(os_view_dirty(&before.view, note_pages, &found));
    child_check(found.count == PAGES && before.view.tracker == OS_TRACKER_PAGEMAP);
    finish(&before);
    struct tracked tracked = start("old.km", PAGES, OS_TRACKER_SCAN);
    child_check(tracked.view.tracker == OS_TRACKER_PAGEMAP);
    finish(&tracked);
    return 0;
}

static int track_without_descriptors(void *context) {
    (void)context;
    struct tracked tracked = start("none.km", PAGES, OS_TRACKER_NONE);
    struct rlimit limit = {.rlim_cur = 0, .rlim_max = 0};
    child_check(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    child_must(os_view_track(&tracked.view, OS_TRACKER_SCAN));
    child_check(tracked.view.tracker == OS_TRACKER_COMPARE);
    struct found found = {.ordered = true};
    child_must(os_view_dirty(&tracked.view, note_pages, &found));
    child_check(found.count == PAGES);
    finish(&tracked);
    return 0;
}

static void what_the_system_lacks_is_replaced_by_the_next_best(void **unused) {
    (void)unused;
    int (*const children[])(void *) = {track_in_a_container, track_on_an_old_kernel, track_without_descriptors};
    need(OS_TRACKER_SCAN);
    for (size_t i = 0; i < sizeof children / sizeof children[0]; i++)
        refusal_run(children[i], NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_scan_finds_every_store),
        cmocka_unit_test(pagemap_finds_every_store),
        cmocka_unit_test(comparing_finds_every_store),
        cmocka_unit_test(the_scan_reports_only_what_was_stored_since_the_last_question),
        cmocka_unit_test(pagemap_reports_only_private_pages),
        cmocka_unit_test(a_walk_that_was_stopped_loses_nothing),
        cmocka_unit_test(stores_of_another_thread_are_found_now_or_by_the_next_question),
        cmocka_unit_test(closed_descriptors_lose_nothing),
        cmocka_unit_test(what_the_system_lacks_is_replaced_by_the_next_best),
    };
    scratch_time_limit(90);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
