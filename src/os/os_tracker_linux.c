/* SPDX-License-Identifier: MIT
 *
 * Trackers: which pages of a view were stored to.
 *
 * SCAN (Linux 6.7 and later). The view is registered with a userfaultfd for asynchronous write protection: a first
 * store to a protected page takes the protection off inside the kernel, with no handler, no signal and no failing
 * system call. The ioctl PAGEMAP_SCAN reports pages without protection and protects them again, page by page in one
 * step, so that a store that comes meanwhile is found by this question or by the next. A page that was never touched
 * may be reported once.
 *
 * PAGEMAP. /proc/self/pagemap tells which pages are private copies: those that are present or swapped out, and not
 * pages of the file. It cannot forget, so it reports every private page each time.
 *
 * COMPARE. Every page may have been stored to.
 *
 * Each falls back to the next when the system refuses it, at the start or later (the program may have closed our
 * descriptors), and the question during which that happens reports every page. Nothing is ever missed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "os_tracker_linux.h"

#define PAGE ((uint64_t)KM_PAGE_SIZE)

/* From Linux 6.7, include/uapi/linux/userfaultfd.h and fs.h; the headers that we are built with may be older. */
#define FEATURE_WP_ASYNC (UINT64_C(1) << 15)
#define USER_MODE_ONLY 1

struct page_run {
    uint64_t start, end, categories;
};

struct scan_request {
    uint64_t size, flags, start, end, walk_end, runs, run_capacity, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN_REQUEST _IOWR('f', 16, struct scan_request)
#define SCAN_PROTECT_MATCHING (UINT64_C(1) << 0)
#define SCAN_CHECK_ASYNC (UINT64_C(1) << 1)
#define PAGE_WRITTEN (UINT64_C(1) << 1)

#define BUFFER_BYTES ((size_t)32768)
#define SCAN_RUNS (BUFFER_BYTES / sizeof(struct page_run))
#define PAGEMAP_ENTRIES (BUFFER_BYTES / sizeof(uint64_t))

/* Bits of an entry of /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst. */
#define ENTRY_PRESENT (UINT64_C(1) << 63)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_FILE (UINT64_C(1) << 61)

static bool open_pagemap(struct os__view_linux *linux_part) {
    if (linux_part->buffer == NULL)
        linux_part->buffer = malloc(BUFFER_BYTES);
    if (linux_part->buffer == NULL)
        return false;
    if (os__descriptor_holds(&linux_part->pagemap))
        return true;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    return fd >= 0 && os__descriptor_adopt(&linux_part->pagemap, fd, "/proc/self/pagemap") == 0;
}

/* ---- scan -------------------------------------------------------------------------------------------------------- */

/* Find the pages of [start, end) that were stored to, and protect them again. Returns how many runs were put into
 * `runs`, which may be NULL if nobody wants to know; `*reached` becomes the address up to which they tell. -1 if it
 * failed. */
static long scan(const struct os__view_linux *linux_part, uint64_t start, uint64_t end, struct page_run *runs,
                 uint64_t *reached) {
    struct scan_request request = {
        .size = sizeof request,
        .flags = SCAN_PROTECT_MATCHING | SCAN_CHECK_ASYNC,
        .start = start,
        .end = end,
        .runs = (uint64_t)(uintptr_t)runs,
        .run_capacity = runs != NULL ? SCAN_RUNS : 0,
        .category_mask = PAGE_WRITTEN, /* alone: asking for more would cost a look at each page's own record */
        .return_mask = PAGE_WRITTEN,
    };
    int found;
    do
        found = ioctl(linux_part->pagemap.fd, SCAN_REQUEST, &request);
    while (found < 0 && errno == EINTR);
    *reached = request.walk_end;
    return found < 0 || request.walk_end <= start || request.walk_end > end ? -1 : found;
}

/* Protect all pages of [start, end) of the view, stored to or not. */
static bool protect(const struct os_view *view, uint64_t start, uint64_t end) {
    uint64_t next = (uint64_t)(uintptr_t)view->address + start;
    const uint64_t last = (uint64_t)(uintptr_t)view->address + end;
    while (next < last) {
        if (scan(view->system, next, last, NULL, &next) < 0)
            return false;
    }
    return true;
}

static bool register_part(const struct os_view *view, uint64_t start, uint64_t end) {
    const struct os__view_linux *linux_part = view->system;
    struct uffdio_register request = {
        .range = {.start = (uint64_t)(uintptr_t)view->address + start, .len = end - start},
        .mode = UFFDIO_REGISTER_MODE_WP,
    };
    return ioctl(linux_part->faults.fd, UFFDIO_REGISTER, &request) == 0;
}

static bool start_scan(struct os_view *view) {
    struct os__view_linux *linux_part = view->system;
    if (!open_pagemap(linux_part))
        return false;
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);
    if (fd < 0 || os__descriptor_adopt(&linux_part->faults, fd, "userfaultfd") != 0)
        return false;
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_WP_ASYNC};
    if (ioctl(fd, UFFDIO_API, &api) == 0 && (api.features & FEATURE_WP_ASYNC) != 0 &&
        register_part(view, 0, view->length) && protect(view, 0, view->length)) {
        linux_part->missed = false;
        return true;
    }
    os__descriptor_close(&linux_part->faults);
    return false;
}

/* 1 if each() asked to stop, 0 if all was reported, -1 if the system failed. */
static int report_scanned(struct os_view *view, os_pages_function *each, void *context) {
    struct os__view_linux *linux_part = view->system;
    if (!os__descriptor_holds(&linux_part->pagemap))
        return -1;
    const uint64_t base = (uint64_t)(uintptr_t)view->address;
    struct page_run *runs = linux_part->buffer;
    uint64_t next = base;
    while (next < base + view->length) {
        long found = scan(linux_part, next, base + view->length, runs, &next);
        if (found < 0)
            return -1;
        for (long i = 0; i < found; i++) {
            if (each(context, (runs[i].start - base) / PAGE, (runs[i].end - runs[i].start) / PAGE) != 0) {
                /* Pages that were found, and are protected again, have not been reported. */
                linux_part->missed = true;
                return 1;
            }
        }
    }
    return 0;
}

/* ---- pagemap ----------------------------------------------------------------------------------------------------- */

static bool is_private(uint64_t entry) {
    return (entry & ENTRY_FILE) == 0 && (entry & (ENTRY_PRESENT | ENTRY_SWAPPED)) != 0;
}

/* Read entries of the system's pages from number `first` on; how many, or -1. */
static ssize_t read_entries(const struct os__view_linux *linux_part, uint64_t *entries, uint64_t first,
                            uint64_t count) {
    if (count > PAGEMAP_ENTRIES)
        count = PAGEMAP_ENTRIES;
    ssize_t got;
    do
        got = pread(linux_part->pagemap.fd, entries, (size_t)count * sizeof *entries, (off_t)(first * sizeof *entries));
    while (got < 0 && errno == EINTR);
    return got < (ssize_t)sizeof *entries ? -1 : got / (ssize_t)sizeof *entries;
}

/* As report_scanned(). */
static int report_private(struct os_view *view, os_pages_function *each, void *context) {
    struct os__view_linux *linux_part = view->system;
    if (!os__descriptor_holds(&linux_part->pagemap))
        return -1;
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t first = (uint64_t)(uintptr_t)view->address / page;
    const uint64_t count = view->length / page;
    const uint64_t scale = page / PAGE; /* pages of ours in one of the system's */
    uint64_t run_start = 0, run_end = 0;
    for (uint64_t i = 0; i < count;) {
        uint64_t *entries = linux_part->buffer;
        ssize_t got = read_entries(linux_part, entries, first + i, count - i);
        if (got < 0)
            return -1;
        for (ssize_t j = 0; j < got; j++, i++) {
            if (!is_private(entries[j]))
                continue;
            if (run_end != i) {
                if (run_end > run_start && each(context, run_start * scale, (run_end - run_start) * scale) != 0)
                    return 1;
                run_start = i;
            }
            run_end = i + 1;
        }
    }
    return run_end > run_start && each(context, run_start * scale, (run_end - run_start) * scale) != 0;
}

/* ---- choosing, and falling back ---------------------------------------------------------------------------------- */

/* Start the best tracker from `wanted` on. The last one cannot fail. */
static void start_tracker(struct os_view *view, enum os_tracker wanted) {
    if (wanted <= OS_TRACKER_SCAN && start_scan(view))
        view->tracker = OS_TRACKER_SCAN;
    else if (wanted <= OS_TRACKER_PAGEMAP && open_pagemap(view->system))
        view->tracker = OS_TRACKER_PAGEMAP;
    else
        view->tracker = OS_TRACKER_COMPARE;
}

void os__tracker_stop(struct os_view *view) {
    struct os__view_linux *linux_part = view->system;
    if (os__descriptor_holds(&linux_part->faults) && linux_part->process == getpid()) {
        /* Closing alone would do, unless a child of fork holds the descriptor too. */
        struct uffdio_range range = {.start = (uint64_t)(uintptr_t)view->address, .len = view->length};
        (void)ioctl(linux_part->faults.fd, UFFDIO_UNREGISTER, &range);
    }
    os__descriptor_close(&linux_part->faults);
    os__descriptor_close(&linux_part->pagemap);
    free(linux_part->buffer);
    linux_part->buffer = NULL;
    view->tracker = OS_TRACKER_NONE;
}

int os_view_track(struct os_view *view, enum os_tracker wanted) {
    if (view->kind != OS_VIEW_PRIVATE)
        return km__error(KM_EINVAL, "%s: cannot track stores: the view is shared, and they are the file's already",
                         os__file_path(view->file));
    os__tracker_stop(view);
    start_tracker(view, wanted);
    return 0;
}

void os__tracker_grow(struct os_view *view, uint64_t before) {
    if (view->tracker != OS_TRACKER_SCAN)
        return;
    struct os__view_linux *linux_part = view->system;
    if (!os__descriptor_holds(&linux_part->faults) || !os__descriptor_holds(&linux_part->pagemap) ||
        !register_part(view, before, view->length) || !protect(view, before, view->length))
        linux_part->missed = true; /* the next question reports every page, and starts anew */
}

int os_view_dirty(struct os_view *view, os_pages_function *each, void *context) {
    struct os__view_linux *linux_part = view->system;
    int result = -1;
    if (view->tracker == OS_TRACKER_SCAN && !linux_part->missed)
        result = report_scanned(view, each, context);
    else if (view->tracker == OS_TRACKER_PAGEMAP)
        result = report_private(view, each, context);
    if (result >= 0)
        return 0;

    /* What is lost cannot be asked for again. Tracking starts anew before every page is reported, so that what is
     * stored meanwhile is found by the next question. The scan comes back where only the caller had stopped the
     * walk. */
    if (view->tracker == OS_TRACKER_SCAN) {
        bool again = linux_part->missed;
        os__tracker_stop(view);
        start_tracker(view, again ? OS_TRACKER_SCAN : OS_TRACKER_PAGEMAP);
    } else if (view->tracker == OS_TRACKER_PAGEMAP && !open_pagemap(linux_part)) {
        view->tracker = OS_TRACKER_COMPARE;
    }
    if (each(context, 0, view->length / PAGE) != 0)
        linux_part->missed = view->tracker == OS_TRACKER_SCAN;
    return 0;
}
