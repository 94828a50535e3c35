/* SPDX-License-Identifier: MIT
 *
 * A peer that stores to what it shares with others while they look: words of control, the heads of frames, the table
 * and the header slots turn from good to bad and back all the time. Whoever judges one value and uses another, read
 * later, leaves its mappings sooner or later (run under the address sanitizer). Calls may fail; they end, and the
 * process lives. What the fuzzer cannot find, because there the peer stores between calls and at steps only.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "map/control.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"

#define PAGES 24u
#define SIZE (PAGES * KM_PAGE_SIZE - 100)
#define RING 65536u
#define COMMITS 400u /* that are enough; and at most so many tries: */
#define ROUNDS 4000u
#define LOOKS 10000u
#define WORDS 40000u      /* that the peer has turned at least */
#define FRAMES_END 28000u /* five commits of 5000 bytes end before it */
#define TURNS 40u         /* of one word, before another one is taken */

struct scene {
    const char *path;
    uint64_t seed;
    unsigned char *file; /* what the peer has mapped: all of it */
    size_t length;
    uint64_t journal, table;
    bool frames_only;
    atomic_bool stop;
    atomic_uint words; /* how many the peer has turned */
};

static uint64_t bad_value(struct chance *chance, uint64_t good) {
    static const uint64_t values[] = {0, 1, 1000, RING, RING - 8, UINT64_C(1) << 40, UINT64_MAX, UINT64_MAX - 4095};
    switch (chance_below(chance, 4)) {
    case 0:
        return good + chance_between(chance, 1, 64);
    case 1:
        return good * 2 + 8;
    case 2:
        return chance_next(chance);
    default:
        return values[chance_below(chance, sizeof values / sizeof values[0])];
    }
}

/* A number of a frame's head, mostly one that says how long something is; 0: no frame was met. */
static uint64_t choose_frame_word(struct scene *scene, struct chance *chance) {
    const uint64_t end = scene->frames_only ? FRAMES_END : RING;
    for (uint64_t at = chance_below(chance, end / 8); scene->journal != 0 && at < RING / 8 - 14; at++) {
        const _Atomic uint32_t *magic = (void *)(scene->file + scene->journal + at * 8);
        if (atomic_load_explicit(magic, memory_order_relaxed) == KM__FRAME_MAGIC)
            return scene->journal +
                   (at + (chance_percent(chance, 70) ? chance_between(chance, 2, 5) : chance_below(chance, 14))) * 8;
    }
    return 0;
}

/* A word of 8 bytes somewhere: mostly control's first page and the slots in use, else the ring, the table, a header. */
static uint64_t choose_word(struct scene *scene, struct chance *chance) {
    uint64_t word = 0;
    switch (scene->frames_only ? 3 : chance_below(chance, 8)) {
    case 0:
        return KM__CONTROL_OFFSET + offsetof(struct km__control, slot) + chance_below(chance, 24) * 8;
    case 1:
        return scene->table + chance_below(chance, PAGES / 2) * 8;
    case 2:
        return chance_below(chance, 2) * KM__SLOT_B + chance_below(chance, 37) * 8;
    case 3:
    case 4:
        word = choose_frame_word(scene, chance);
        return word != 0 ? word : scene->table;
    default:
        return KM__CONTROL_OFFSET + chance_below(chance, 160) * 8;
    }
}

static void *scribble(void *context) {
    struct scene *scene = context;
    struct chance chance = {scene->seed};
    while (!atomic_load(&scene->stop)) {
        _Atomic uint64_t *word = (void *)(scene->file + choose_word(scene, &chance));
        const uint64_t good = atomic_load_explicit(word, memory_order_relaxed), bad = bad_value(&chance, good);
        for (unsigned turn = 0; turn < TURNS; turn++) {
            atomic_store_explicit(word, bad, memory_order_relaxed);
            uint64_t expected = bad; /* what others have stored meanwhile stays */
            atomic_compare_exchange_strong(word, &expected, good);
        }
        if (atomic_fetch_add(&scene->words, 1) % 64 == 0)
            sched_yield(); /* where there is one processor */
    }
    return NULL;
}

static km_map *open_victim(const struct scene *scene, uint32_t flags) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .timeout_ms = 5, .flags = flags};
    if (km_open(&map, scene->path, &options) != 0)
        child_check(km_last_error_detail()[0] != '\0');
    return map;
}

/* True if it could commit. */
static bool write_once(km_map *map, struct chance *chance) {
    const int begun = km_begin(map, KM_WRITE);
    if (begun != 0 && begun != KM_EABANDONED)
        return false;
    const uint64_t at = chance_below(chance, SIZE - 9000);
    memset((char *)km_data(map) + at, (int)chance_below(chance, 256), (size_t)chance_between(chance, 1, 9000));
    if (km_commit(map) == 0)
        return true;
    (void)km_abort(map);
    return false;
}

static void ask(km_map *map, struct chance *chance) {
    struct km_info info = {.struct_size = sizeof info};
    struct km_report report = {.struct_size = sizeof report};
    uint64_t now = 0;
    if (km_begin(map, KM_READ) == 0)
        (void)km_abort(map);
    switch (chance_below(chance, 6)) {
    case 0:
        (void)km_checkpoint(map);
        break;
    case 1:
        (void)km_verify(map, &report, NULL, NULL);
        break;
    case 2:
        (void)km_get_info(map, &info);
        break;
    case 3:
        (void)km_wait(map, 0, 1, &now);
        break;
    case 4:
        (void)km_sync(map);
        break;
    default:
        break;
    }
}

static void close_all(km_map *handles[3]) {
    for (unsigned which = 0; which < 3; which++) {
        (void)km_close(handles[which]);
        handles[which] = NULL;
    }
}

/* What the peer did may have ended the session for all of them: then they are closed, and a new one begins. */
static int live_beside_it(void *context) {
    static const uint32_t flags[] = {0, KM_LAZY, KM_READONLY};
    struct scene *scene = context;
    struct chance chance = {scene->seed + 1};
    pthread_t peer;
    km_map *handles[3] = {NULL};
    unsigned commits = 0;
    child_check(pthread_create(&peer, NULL, scribble, scene) == 0);
    for (unsigned round = 0; round < ROUNDS && commits < COMMITS; round++) {
        const unsigned which = (unsigned)chance_below(&chance, 3);
        if (handles[which] == NULL)
            handles[which] = open_victim(scene, flags[which]);
        const bool committed = handles[which] != NULL && which != 2 && write_once(handles[which], &chance);
        commits += committed;
        if (handles[which] != NULL)
            ask(handles[which], &chance);
        if ((which != 2 && !committed) || chance_percent(&chance, 3))
            close_all(handles);
    }
    while (atomic_load(&scene->words) < WORDS)
        sched_yield();
    atomic_store(&scene->stop, true);
    child_check(pthread_join(peer, NULL) == 0);
    close_all(handles);
    return commits > 0 ? 0 : 98;
}

/* Frames are read again and again, all of them, by handles that start anew; some walks find all that was committed. */
static int look_beside_it(void *context) {
    struct scene *scene = context;
    km_map *writer = open_victim(scene, 0), *reader = open_victim(scene, KM_READONLY);
    child_check(writer != NULL && reader != NULL);
    pthread_t peer;
    unsigned whole = 0;
    for (int i = 0; i < 5; i++) {
        child_must(km_begin(writer, KM_WRITE));
        memset((char *)km_data(writer) + i * 7000, i + 65, 5000);
        child_must(km_commit(writer));
    }
    child_check(pthread_create(&peer, NULL, scribble, scene) == 0);
    for (unsigned i = 0; i < LOOKS || ((whole == 0 || atomic_load(&scene->words) < WORDS) && i < 20 * LOOKS); i++) {
        struct km_report report = {.struct_size = sizeof report};
        whole += km_verify(i % 2 == 0 ? reader : writer, &report, NULL, NULL) == 0 && report.frames >= 5;
    }
    atomic_store(&scene->stop, true);
    child_check(pthread_join(peer, NULL) == 0);
    (void)km_close(reader);
    (void)km_close(writer);
    return whole > 0 ? 0 : 98;
}

static void attack(const char *name, uint32_t mode, uint32_t flags, int (*live)(void *context)) {
    struct scene scene = {
        .path = scratch_path("%s.km", name), .seed = chance_seed(), .frames_only = live == look_beside_it};
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .journal_size = mode == KM_LIVE ? 0 : RING,
                                       .mode = mode,
                                       .flags = flags | KM_CREATE | KM_EXCLUSIVE};
    must(km_open(&map, scene.path, &options));
    must(km_close(map));
    const struct km__header header = scratch_header(scene.path);
    scene.journal = header.journal_offset;
    scene.table = header.table_offset;
    if (mode == KM_LIVE)
        scene.journal = 0;
    scene.length = (size_t)scratch_file_size(scene.path);
    const int file = open(scene.path, O_RDWR | O_CLOEXEC);
    assert_true(file >= 0);
    void *mapped = mmap(NULL, scene.length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    assert_true(mapped != MAP_FAILED);
    scene.file = mapped;
    close(file);
    const int status = check_in_child(live, &scene, 140);
    if (status != 0)
        fail_msg("%s: the process ended with %d", name, status);
    munmap(mapped, scene.length);
}

static void words_that_change_while_they_are_judged_lead_nowhere(void **state) {
    (void)state;
    attack("transactional", KM_TRANSACTIONAL, 0, live_beside_it);
}

static void words_that_change_in_a_map_with_whole_pages_lead_nowhere(void **state) {
    (void)state;
    attack("whole-pages", KM_TRANSACTIONAL, KM_FULL_PAGES, live_beside_it);
}

static void words_that_change_in_a_live_map_lead_nowhere(void **state) {
    (void)state;
    attack("live", KM_LIVE, 0, live_beside_it);
}

static void frames_that_change_while_they_are_read_lead_nowhere(void **state) {
    (void)state;
    attack("frames", KM_TRANSACTIONAL, 0, look_beside_it);
}

int main(void) {
    scratch_time_limit(580);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_that_change_while_they_are_judged_lead_nowhere),
        cmocka_unit_test(frames_that_change_while_they_are_read_lead_nowhere),
        cmocka_unit_test(words_that_change_in_a_map_with_whole_pages_lead_nowhere),
        cmocka_unit_test(words_that_change_in_a_live_map_lead_nowhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
