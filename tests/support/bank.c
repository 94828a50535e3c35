/* SPDX-License-Identifier: MIT
 *
 * The data of the concurrency tests and its invariant: see bank.h.
 */
#include "bank.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ACCOUNT_SPACING 512u
#define ACCOUNTS (BANK_ACCOUNT_PAGES * KM_PAGE_SIZE / ACCOUNT_SPACING)
#define FIRST_BALANCE 1000u
#define PAGE_WORDS (KM_PAGE_SIZE / sizeof(uint64_t))

struct head {
    uint64_t commits;
    uint64_t grown_sum;
};

struct record {
    uint64_t sequence;
    uint64_t sum;
};

__attribute__((format(printf, 2, 3))) static int wrong(struct bank_worker *worker, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(worker->why, sizeof worker->why, format, arguments);
    va_end(arguments);
    return 1;
}

static int refused(struct bank_worker *worker, const char *call, int result) {
    return wrong(worker, "%s gave %s: %s", call, km_error_name(result), km_last_error_detail());
}

/* ---- where things stand ------------------------------------------------------------------------------------------ */

static struct head *head_of(void *data) {
    return data;
}

static struct record *record_of(void *data, uint32_t writer) {
    return (struct record *)(void *)((char *)data + (size_t)(1 + writer) * KM_PAGE_SIZE);
}

static uint64_t *account_of(void *data, uint64_t account) {
    return (uint64_t *)(void *)((char *)data + (size_t)(1 + BANK_WRITERS) * KM_PAGE_SIZE +
                                (size_t)account * ACCOUNT_SPACING);
}

static uint64_t *area_page_of(void *data, uint32_t writer, uint32_t page) {
    const size_t first = 1 + BANK_WRITERS + BANK_ACCOUNT_PAGES + (size_t)writer * BANK_AREA_PAGES;
    return (uint64_t *)(void *)((char *)data + (first + page) * KM_PAGE_SIZE);
}

static uint64_t *grown_page_of(void *data, uint64_t page) {
    return (uint64_t *)(void *)((char *)data + BANK_SIZE + page * KM_PAGE_SIZE);
}

static uint64_t grown_pages(uint64_t size) {
    return (size - BANK_SIZE) / KM_PAGE_SIZE;
}

/* What a page of a step adds to the head's sum. */
static uint64_t grown_part(uint64_t page, uint64_t number) {
    return number == 0 ? 0 : chance_mix(~page, number);
}

static uint64_t page_word(uint64_t base, size_t word) {
    return base + word * UINT64_C(0x9e3779b97f4a7c15);
}

/* ---- the ledger -------------------------------------------------------------------------------------------------- */

struct bank_ledger *bank_ledger_map(const char *path, bool create) {
    const int file = open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0), 0600);
    if (file < 0) {
        return NULL;
    }
    void *ledger = MAP_FAILED;
    if (!create || ftruncate(file, sizeof(struct bank_ledger)) == 0) {
        ledger = mmap(NULL, sizeof(struct bank_ledger), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    }
    close(file);
    return ledger == MAP_FAILED ? NULL : ledger;
}

void bank_ledger_unmap(struct bank_ledger *ledger) {
    munmap(ledger, sizeof *ledger);
}

void bank_ledger_forget(struct bank_ledger *ledger) {
    for (uint32_t writer = 0; writer < BANK_WRITERS; writer++) {
        atomic_store(&ledger->writers[writer].attempted, 0);
        atomic_store(&ledger->writers[writer].acknowledged, 0);
        atomic_store(&ledger->writers[writer].seen, 0);
    }
    atomic_store(&ledger->generation_seen, 0);
}

static void raise_to(_Atomic uint64_t *word, uint64_t value) {
    uint64_t old = atomic_load(word);
    while (old < value && !atomic_compare_exchange_weak(word, &old, value)) {
    }
}

/* ---- the first state --------------------------------------------------------------------------------------------- */

static uint64_t sum_of(const uint64_t numbers[BANK_AREA_PAGES]) {
    uint64_t sum = 0;
    for (uint32_t page = 0; page < BANK_AREA_PAGES; page++) {
        sum += chance_mix(page + 1, numbers[page]);
    }
    return sum;
}

static void fill_area_page(uint64_t *words, uint32_t writer, uint32_t page, uint64_t number) {
    const uint64_t base = chance_mix(((uint64_t)writer << 32) | page, number);
    words[0] = number;
    for (size_t word = 1; word < PAGE_WORDS; word++) {
        words[word] = page_word(base, word);
    }
}

static void fill_first_state(void *data) {
    head_of(data)->commits = 1;
    for (uint64_t account = 0; account < ACCOUNTS; account++) {
        *account_of(data, account) = FIRST_BALANCE;
    }
    for (uint32_t writer = 0; writer < BANK_WRITERS; writer++) {
        const uint64_t zeros[BANK_AREA_PAGES] = {0};
        record_of(data, writer)->sum = sum_of(zeros);
        for (uint32_t page = 0; page < BANK_AREA_PAGES; page++) {
            fill_area_page(area_page_of(data, writer, page), writer, page, 0);
        }
    }
}

int bank_create_open(km_map **map, const char *target, const struct km_options *options) {
    struct km_options all = *options;
    all.size = BANK_SIZE;
    all.flags |= KM_CREATE | KM_EXCLUSIVE;
    *map = NULL;
    int result = km_open(map, target, &all);
    if (result != 0) {
        return result;
    }
    result = km_begin(*map, KM_WRITE);
    if (result == 0) {
        result = (all.flags & KM_DECLARED) != 0 ? km_touch(*map, 0, BANK_SIZE) : 0;
    }
    if (result == 0) {
        fill_first_state(km_data(*map));
        result = km_commit(*map);
    }
    if (result != 0) {
        (void)km_close(*map);
        *map = NULL;
    }
    return result;
}

int bank_create(const char *path, uint64_t journal_size, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .journal_size = journal_size, .flags = flags};
    const int result = bank_create_open(&map, path, &options);
    return result != 0 ? result : km_close(map);
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

static int check_area(struct bank_worker *worker, void *data, uint32_t writer) {
    const struct record *record = record_of(data, writer);
    uint64_t numbers[BANK_AREA_PAGES];
    for (uint32_t page = 0; page < BANK_AREA_PAGES; page++) {
        const uint64_t *words = area_page_of(data, writer, page);
        numbers[page] = words[0];
        if (numbers[page] > record->sequence) {
            return wrong(worker, "writer %u is at %llu, but its page %u at %llu", writer,
                         (unsigned long long)record->sequence, page, (unsigned long long)numbers[page]);
        }
        const uint64_t base = chance_mix(((uint64_t)writer << 32) | page, numbers[page]);
        for (size_t word = 1; word < PAGE_WORDS; word++) {
            if (words[word] != page_word(base, word)) {
                return wrong(worker, "writer %u, page %u: word %zu does not belong to commit %llu", writer, page, word,
                             (unsigned long long)numbers[page]);
            }
        }
    }
    if (sum_of(numbers) != record->sum) {
        return wrong(worker, "writer %u at %llu: a page of its area is of another commit", writer,
                     (unsigned long long)record->sequence);
    }
    return 0;
}

/* A page beyond the first size: zeros, or what some commit made of all of it. */
static int check_grown(struct bank_worker *worker, void *data, uint64_t pages) {
    uint64_t sum = 0;
    for (uint64_t page = 0; page < pages; page++) {
        const uint64_t *words = grown_page_of(data, page);
        const uint64_t base = chance_mix(~page, words[0]);
        for (size_t word = 1; word < PAGE_WORDS; word++) {
            if (words[word] != (words[0] == 0 ? 0 : page_word(base, word))) {
                return wrong(worker, "grown page %llu: word %zu does not belong to commit %llu",
                             (unsigned long long)page, word, (unsigned long long)words[0]);
            }
        }
        sum += grown_part(page, words[0]);
    }
    if (sum != head_of(data)->grown_sum) {
        return wrong(worker, "of %llu grown pages one is of another commit", (unsigned long long)pages);
    }
    return 0;
}

static int check_data(struct bank_worker *worker, void *data, uint64_t size, uint64_t generation) {
    if (size < BANK_SIZE || size > BANK_MAX_SIZE || (size - BANK_SIZE) % (BANK_STEP_PAGES * KM_PAGE_SIZE) != 0) {
        return wrong(worker, "the size is %llu", (unsigned long long)size);
    }
    const uint64_t pages = grown_pages(size);
    if (head_of(data)->commits + pages / BANK_STEP_PAGES != generation) {
        return wrong(worker, "generation %llu shows the data of commit %llu after %llu steps",
                     (unsigned long long)generation, (unsigned long long)head_of(data)->commits,
                     (unsigned long long)(pages / BANK_STEP_PAGES));
    }
    if (check_grown(worker, data, pages) != 0) {
        return 1;
    }
    uint64_t total = 0;
    for (uint64_t account = 0; account < ACCOUNTS; account++) {
        total += *account_of(data, account);
    }
    if (total != (uint64_t)ACCOUNTS * FIRST_BALANCE) {
        return wrong(worker, "the accounts hold %llu", (unsigned long long)total);
    }
    for (uint32_t writer = 0; writer < BANK_WRITERS; writer++) {
        if (check_area(worker, data, writer) != 0) {
            return 1;
        }
    }
    return 0;
}

/* What was promised before a transaction began, and must be found in it. */
struct promises {
    uint64_t generation;
    uint64_t sequence[BANK_WRITERS];
};

static void read_promises(struct bank_ledger *ledger, struct promises *promises) {
    promises->generation = atomic_load(&ledger->generation_seen);
    for (uint32_t writer = 0; writer < BANK_WRITERS; writer++) {
        const uint64_t acknowledged = atomic_load(&ledger->writers[writer].acknowledged);
        const uint64_t seen = atomic_load(&ledger->writers[writer].seen);
        promises->sequence[writer] = acknowledged > seen ? acknowledged : seen;
    }
}

/* `published`: others see what this transaction sees. A writer may have adopted a commit that is not published yet. */
static int check_promises(struct bank_worker *worker, void *data, uint64_t generation, const struct promises *promises,
                          bool published) {
    struct bank_ledger *ledger = worker->ledger;
    if (generation < promises->generation) {
        return wrong(worker, "generation %llu, but %llu has been seen before", (unsigned long long)generation,
                     (unsigned long long)promises->generation);
    }
    for (uint32_t writer = 0; writer < BANK_WRITERS; writer++) {
        const uint64_t sequence = record_of(data, writer)->sequence;
        const uint64_t attempted = atomic_load(&ledger->writers[writer].attempted);
        if (sequence < promises->sequence[writer] || sequence > attempted) {
            return wrong(worker, "writer %u is at %llu; %llu were promised, %llu attempted", writer,
                         (unsigned long long)sequence, (unsigned long long)promises->sequence[writer],
                         (unsigned long long)attempted);
        }
        if (published) {
            raise_to(&ledger->writers[writer].seen, sequence);
        }
    }
    if (published) {
        raise_to(&ledger->generation_seen, generation);
    }
    return 0;
}

/* ---- working ----------------------------------------------------------------------------------------------------- */

static int touch(struct bank_worker *worker, const void *at, size_t length) {
    if (!worker->declares) {
        return 0;
    }
    const uint64_t offset = (uint64_t)((const char *)at - (const char *)km_data(worker->map));
    const int result = km_touch(worker->map, offset, length);
    return result == 0 ? 0 : refused(worker, "km_touch", result);
}

static int move_money(struct bank_worker *worker, void *data) {
    const uint64_t moves = chance_between(&worker->chance, 1, 6);
    for (uint64_t move = 0; move < moves; move++) {
        uint64_t *from = account_of(data, chance_below(&worker->chance, ACCOUNTS));
        uint64_t *to = account_of(data, chance_below(&worker->chance, ACCOUNTS));
        const uint64_t amount = chance_below(&worker->chance, *from + 1);
        if (touch(worker, from, sizeof *from) != 0 || touch(worker, to, sizeof *to) != 0) {
            return 1;
        }
        *from -= amount;
        *to += amount;
    }
    return 0;
}

/* Mostly a few pages; now and then all of them, which is more than a small journal holds. */
static int rewrite_area(struct bank_worker *worker, void *data, uint64_t number) {
    const unsigned percent = chance_percent(&worker->chance, 2) ? 100 : chance_percent(&worker->chance, 20) ? 40 : 8;
    uint64_t numbers[BANK_AREA_PAGES];
    for (uint32_t page = 0; page < BANK_AREA_PAGES; page++) {
        uint64_t *words = area_page_of(data, worker->writer, page);
        if (chance_percent(&worker->chance, percent)) {
            if (touch(worker, words, KM_PAGE_SIZE) != 0) {
                return 1;
            }
            fill_area_page(words, worker->writer, page, number);
        }
        numbers[page] = words[0];
    }
    struct record *record = record_of(data, worker->writer);
    if (touch(worker, record, sizeof *record) != 0) {
        return 1;
    }
    record->sequence = number;
    record->sum = sum_of(numbers);
    return 0;
}

/* One of the pages that the map has grown by. */
static int rewrite_grown(struct bank_worker *worker, void *data) {
    struct head *head = head_of(data);
    const uint64_t pages = grown_pages(km_size(worker->map));
    if (pages == 0 || !chance_percent(&worker->chance, 30)) {
        return 0;
    }
    const uint64_t page = chance_below(&worker->chance, pages);
    uint64_t *words = grown_page_of(data, page);
    if (touch(worker, words, KM_PAGE_SIZE) != 0) {
        return 1;
    }
    head->grown_sum += grown_part(page, head->commits) - grown_part(page, words[0]);
    const uint64_t base = chance_mix(~page, head->commits);
    words[0] = head->commits;
    for (size_t word = 1; word < PAGE_WORDS; word++) {
        words[word] = page_word(base, word);
    }
    return 0;
}

static int store_all(struct bank_worker *worker, void *data, uint64_t number) {
    struct head *head = head_of(data);
    if (touch(worker, head, sizeof *head) != 0) {
        return 1;
    }
    head->commits++;
    if (rewrite_grown(worker, data) != 0) {
        return 1;
    }
    return move_money(worker, data) != 0 || rewrite_area(worker, data, number) != 0;
}

int bank_commit(struct bank_worker *worker) {
    struct bank_promise *mine = &worker->ledger->writers[worker->writer];
    struct promises promises;
    read_promises(worker->ledger, &promises);
    int result = km_begin(worker->map, KM_WRITE);
    if (result != 0) {
        return refused(worker, "km_begin(KM_WRITE)", result);
    }
    void *data = km_data(worker->map);
    const uint64_t generation = km_generation(worker->map);
    if (check_data(worker, data, km_size(worker->map), generation) != 0 ||
        check_promises(worker, data, generation, &promises, false) != 0) {
        return 1;
    }
    const uint64_t number = record_of(data, worker->writer)->sequence + 1;
    raise_to(&mine->attempted, number);
    if (store_all(worker, data, number) != 0) {
        return 1;
    }
    if (chance_percent(&worker->chance, 4)) {
        atomic_fetch_add(&worker->ledger->aborts, 1);
        result = km_abort(worker->map);
        return result == 0 ? 0 : refused(worker, "km_abort", result);
    }
    result = km_commit(worker->map);
    if (result != 0) {
        return refused(worker, "km_commit", result);
    }
    raise_to(&mine->acknowledged, number);
    atomic_fetch_add(&worker->ledger->commits, 1);
    if (km_generation(worker->map) != generation + 1) {
        return wrong(worker, "a commit on generation %llu made generation %llu", (unsigned long long)generation,
                     (unsigned long long)km_generation(worker->map));
    }
    return 0;
}

int bank_look(struct bank_worker *worker, unsigned dwell_us) {
    struct promises promises;
    read_promises(worker->ledger, &promises);
    int result = km_begin(worker->map, KM_READ);
    if (result != 0) {
        return refused(worker, "km_begin(KM_READ)", result);
    }
    void *data = km_data(worker->map);
    const uint64_t generation = km_generation(worker->map);
    if (check_data(worker, data, km_size(worker->map), generation) != 0 ||
        check_promises(worker, data, generation, &promises, true) != 0) {
        return 1;
    }
    if (dwell_us > 0) {
        const struct timespec pause = {.tv_sec = dwell_us / 1000000, .tv_nsec = (long)(dwell_us % 1000000) * 1000};
        nanosleep(&pause, NULL);
        if (check_data(worker, data, km_size(worker->map), generation) != 0) {
            char first[sizeof worker->why];
            memcpy(first, worker->why, sizeof first);
            return wrong(worker, "a snapshot changed while it was held: %.400s", first);
        }
    }
    result = km_abort(worker->map);
    atomic_fetch_add(&worker->ledger->snapshots, 1);
    return result == 0 ? 0 : refused(worker, "km_abort of a read", result);
}

int bank_verify(struct bank_worker *worker) {
    struct km_report report = {.struct_size = sizeof report};
    const int result = km_verify(worker->map, &report, NULL, NULL);
    if (result != 0) {
        return refused(worker, "km_verify", result);
    }
    atomic_fetch_add(&worker->ledger->verifications, 1);
    if (report.pages_damaged + report.frames_damaged + report.headers_damaged != 0 || report.digest_matches != 1) {
        return wrong(worker, "km_verify found %llu pages, %llu frames, %llu headers damaged, digest %s",
                     (unsigned long long)report.pages_damaged, (unsigned long long)report.frames_damaged,
                     (unsigned long long)report.headers_damaged, report.digest_matches == 1 ? "right" : "wrong");
    }
    return 0;
}

int bank_grow(struct bank_worker *worker) {
    int result = km_begin(worker->map, KM_READ);
    if (result != 0) {
        return refused(worker, "km_begin(KM_READ)", result);
    }
    const uint64_t size = km_size(worker->map) + (uint64_t)BANK_STEP_PAGES * KM_PAGE_SIZE;
    result = km_abort(worker->map);
    if (result == 0 && size <= BANK_MAX_SIZE) {
        result = km_grow(worker->map, size);
        atomic_fetch_add(&worker->ledger->steps, result == 0);
    }
    /* Others may have taken this step and the next one meanwhile. */
    return result == 0 || result == KM_ESIZE ? 0 : refused(worker, "km_grow", result);
}

int bank_wait(struct bank_worker *worker, uint32_t timeout_ms) {
    const uint64_t after = km_generation(worker->map);
    uint64_t now = 0;
    const int result = km_wait(worker->map, after, timeout_ms, &now);
    if (result == KM_ETIMEOUT) {
        return 0;
    }
    if (result != 0) {
        return refused(worker, "km_wait", result);
    }
    if (now <= after) {
        return wrong(worker, "km_wait for more than %llu ended at %llu", (unsigned long long)after,
                     (unsigned long long)now);
    }
    raise_to(&worker->ledger->generation_seen, now);
    atomic_fetch_add(&worker->ledger->waits, 1);
    return 0;
}

/* The copy at `path` holds the bank, is what was promised before it was made, and is removed. */
static int check_copy(struct bank_worker *worker, const char *path, const struct promises *promises) {
    struct bank_worker copy = {.ledger = worker->ledger};
    const struct km_options options = {.struct_size = sizeof options,
                                       .flags = chance_percent(&worker->chance, 50) ? KM_READONLY : 0};
    int result = km_open(&copy.map, path, &options);
    if (result != 0) {
        return refused(worker, "km_open of a copy", result);
    }
    result = km_begin(copy.map, KM_READ);
    bool good = result == 0;
    if (good) {
        void *data = km_data(copy.map);
        const uint64_t generation = km_generation(copy.map);
        good = check_data(&copy, data, km_size(copy.map), generation) == 0 &&
               check_promises(&copy, data, generation, promises, false) == 0;
        (void)km_abort(copy.map);
    }
    good = good && bank_verify(&copy) == 0;
    const int closed = km_close(copy.map);
    remove(path);
    if (result != 0 || closed != 0) {
        return refused(worker, "using a copy", result != 0 ? result : closed);
    }
    return good ? 0 : wrong(worker, "a copy: %.480s", copy.why);
}

int bank_copy(struct bank_worker *worker, const char *path) {
    struct promises promises = {0};
    if (access(path, F_OK) == 0 && check_copy(worker, path, &promises) != 0) {
        return 1;
    }
    read_promises(worker->ledger, &promises);
    const int result = km_copy(worker->map, path);
    if (result != 0) {
        return refused(worker, "km_copy", result);
    }
    atomic_fetch_add(&worker->ledger->copies, 1);
    return check_copy(worker, path, &promises);
}
