/* SPDX-License-Identifier: MIT
 *
 * A hostile or broken peer: header slots that contradict what a handle has mapped, and shared words that hold anything.
 * A handle may refuse, wait out its time or report damage; it never leaves its mappings, and what it has acknowledged
 * is there after its process was killed.
 */
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "format/header.h"
#include "map/map.h"
#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"

#define SIZE (16u << 20)
#define RING 65536u
#define TIMEOUT_MS 30u
#define COMMITS 40u
#define STORED 5000u /* bytes of a commit: the ring is passed three times */
#define STORMS 12u

static int open_victim(km_map **map, const char *path, uint32_t flags) {
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = SIZE,
                                       .max_size = 2 * SIZE,
                                       .journal_size = RING,
                                       .timeout_ms = TIMEOUT_MS,
                                       .flags = flags};
    return km_open(map, path, &options);
}

/* ---- header slots ------------------------------------------------------------------------------------------------ */

struct contradiction {
    const char *name;
    const char *path;
    void (*change)(struct km__header *header);
    bool announced; /* control tells of another geometry, too */
    bool refused;   /* by the first begin for writing */
};

static void enlarge_data(struct km__header *header) {
    const uint64_t capacity = UINT64_C(60) << 30;
    header->data_size = header->data_capacity = capacity;
    header->table_offset = header->data_offset + capacity;
    header->table_capacity = 64 << 20;
    header->journal_offset = header->table_offset + header->table_capacity;
}

static void enlarge_data_by_geometry(struct km__header *header) {
    enlarge_data(header);
    header->geometry++;
}

static void shrink_capacity(struct km__header *header) {
    header->data_size = header->data_capacity = KM_PAGE_SIZE;
    header->geometry++;
}

static void shrink_table(struct km__header *header) {
    shrink_capacity(header);
    header->table_capacity = KM__ALIGN;
}

static void move_data(struct km__header *header) {
    header->data_offset += KM__ALIGN;
    header->journal_offset += KM__ALIGN;
    header->geometry++;
}

static void move_journal(struct km__header *header) {
    header->journal_offset += KM__ALIGN;
}

static void change_uuid(struct km__header *header) {
    header->uuid[3] ^= 1;
}

static void change_checksum(struct km__header *header) {
    header->checksum_kind = KM_CHECKSUM_NONE;
    header->digest = 0;
}

static void shrink_data(struct km__header *header) {
    header->data_size = KM_PAGE_SIZE;
}

static const struct contradiction contradictions[] = {
    {"larger-data", NULL, enlarge_data, false, false},
    {"larger-data-announced", NULL, enlarge_data_by_geometry, true, false},
    {"smaller-capacity", NULL, shrink_capacity, true, true},
    {"smaller-table", NULL, shrink_table, true, true},
    {"moved-data", NULL, move_data, true, true},
    {"moved-journal", NULL, move_journal, true, true},
    {"another-map", NULL, change_uuid, true, true},
    {"another-checksum", NULL, change_checksum, true, true},
    {"smaller-data", NULL, shrink_data, true, false},
};

/* Both slots say what `change` makes of the newest; a file that is too short for it gets longer. */
static void replace_slots(const char *path, void (*change)(struct km__header *)) {
    struct km__header header = scratch_header(path);
    change(&header);
    if (scratch_file_size(path) < km__header_file_end(&header))
        child_check(truncate(path, (off_t)km__header_file_end(&header)) == 0);
    for (int i = 0; i < 2; i++) {
        header.sequence++;
        km__header_seal(&header);
        child_check(km__header_check(&header, NULL, 0) == 0);
        scratch_write(path, header.sequence % 2 == 0 ? KM__SLOT_B : KM__SLOT_A, &header, sizeof header);
    }
}

static int store_far(km_map *map, int value) {
    const int result = km_begin(map, KM_WRITE);
    if (result != 0)
        return result;
    memset((char *)km_data(map) + SIZE - 100, value, 100);
    memset((char *)km_data(map), value, STORED);
    const int committed = km_commit(map);
    if (committed != 0)
        (void)km_abort(map);
    return committed;
}

static int look(km_map *map) {
    const int result = km_begin(map, KM_READ);
    return result != 0 ? result : km_abort(map);
}

/* Every call ends, with whatever code; the process lives. */
static int live_with_slots(void *context) {
    const struct contradiction *contradiction = context;
    km_map *map, *reader, *verifier;
    child_must(open_victim(&map, contradiction->path, KM_CREATE));
    child_must(open_victim(&reader, contradiction->path, KM_READONLY));
    child_must(open_victim(&verifier, contradiction->path, 0));
    for (int i = 1; i < 4; i++)
        child_must(store_far(map, i));
    child_must(look(reader));
    child_must(look(verifier));
    replace_slots(contradiction->path, contradiction->change);
    if (contradiction->announced)
        atomic_fetch_add(&map->control->geometry, 1);
    struct km_report report = {.struct_size = sizeof report};
    const int verified = km_verify(verifier, &report, NULL, NULL);
    (void)look(reader);
    const int stored = store_far(map, 4);
    if (contradiction->refused)
        child_check(verified == KM_EHEADER && stored == KM_EHEADER);
    (void)km_checkpoint(map);
    (void)look(map);
    (void)km_checkpoint(verifier);
    (void)store_far(verifier, 5);
    (void)km_verify(reader, &report, NULL, NULL);
    (void)km_close(reader);
    (void)km_close(verifier);
    (void)km_close(map);
    return 0;
}

static void slots_that_contradict_what_is_mapped_lead_nowhere(void **state) {
    (void)state;
    unsigned failures = 0;
    for (size_t i = 0; i < sizeof contradictions / sizeof contradictions[0]; i++) {
        struct contradiction contradiction = contradictions[i];
        contradiction.path = scratch_path("slots-%s.km", contradiction.name);
        const int status = check_in_child(live_with_slots, &contradiction, 20);
        if (status != 0)
            print_error("%s: the process ended with %d\n", contradiction.name, status);
        failures += status != 0;
    }
    assert_int_equal(failures, 0);
}

/* ---- words of control -------------------------------------------------------------------------------------------- */

enum word {
    APPENDED,
    DURABLE,
    VISIBLE,
    TARGET,
    CHECKPOINTED,
    GEOMETRY,
    PIN,
    LIMIT,
    HEADER_DURABLE,
    SYNCS,
    SUSPECT,
    WORDS
};

static const char *const word_names[WORDS] = {"appended",       "durable",    "visible", "target",
                                              "checkpointed",   "geometry",   "pin",     "slot_limit",
                                              "header_durable", "sync_began", "suspect"};

static void set_word(struct km__control *control, enum word word, uint64_t value) {
    _Atomic uint64_t *const words[WORDS] = {
        [APPENDED] = &control->appended, [DURABLE] = &control->durable,   [VISIBLE] = &control->visible,
        [TARGET] = &control->target,     [GEOMETRY] = &control->geometry, [CHECKPOINTED] = &control->checkpointed,
        [PIN] = &control->slot[1].pin,   [SYNCS] = &control->sync_began,  [HEADER_DURABLE] = &control->header_durable,
        [SUSPECT] = &control->suspect};
    if (word == LIMIT)
        atomic_store(&control->slot_limit, (uint32_t)value);
    else
        atomic_store(words[word], value);
}

/* What the process that is going to be killed tells, in memory that it shares with its parent. */
struct told {
    uint64_t acknowledged; /* the newest commit that returned 0 */
};

struct attack {
    const char *path;
    struct told *told;
    uint32_t flags;
    unsigned count;
    enum word word[4];
    uint64_t value[4];
};

/* Commit number n of a map holds n in its first bytes, and stores enough to pass the ring soon. */
static int commit_number(km_map *map, size_t length, struct told *told) {
    int result = km_begin(map, KM_WRITE);
    if (result != 0)
        return result;
    const uint64_t number = km_generation(map) + 1;
    memcpy(km_data(map), &number, sizeof number);
    memset((char *)km_data(map) + number % 5 * 2 * STORED + KM_PAGE_SIZE, (int)number, length);
    result = km_commit(map);
    if (result == 0)
        told->acknowledged = number;
    else
        (void)km_abort(map);
    return result;
}

static int live_with_words(void *context) {
    const struct attack *attack = context;
    km_map *map, *reader, *second;
    child_must(open_victim(&map, attack->path, KM_CREATE | attack->flags));
    child_must(open_victim(&second, attack->path, 0));
    child_must(open_victim(&reader, attack->path, KM_READONLY));
    child_must(commit_number(map, STORED, attack->told));
    child_must(look(second));
    for (unsigned i = 0; i < attack->count; i++)
        set_word(map->control, attack->word[i], attack->value[i]);
    for (unsigned i = 0, failures = 0; i < COMMITS && failures < 3; i++) {
        failures += commit_number(i % 4 == 3 ? second : map, STORED, attack->told) != 0;
        if (i % 8 == 5) {
            (void)look(reader);
            (void)look(second);
        }
    }
    (void)km_checkpoint(second);
    struct km_report report = {.struct_size = sizeof report};
    (void)km_verify(reader, &report, NULL, NULL);
    raise(SIGKILL);
    return 0;
}

/* The next session shows the newest commit that was acknowledged, or a later one that was on its way, whole. */
static void attack_once(struct attack *attack, int (*live)(void *context), const char *name) {
    *attack->told = (struct told){0};
    const int status = check_in_child(live, attack, 20);
    if (status != -SIGKILL)
        fail_msg("%s: the process ended with %d", name, status);
    km_map *map = NULL;
    const int opened = open_victim(&map, attack->path, 0);
    if (opened != 0)
        fail_msg("%s: the map cannot be opened: %s", name, km_last_error_detail());
    must(km_begin(map, KM_READ));
    uint64_t number = 0;
    memcpy(&number, km_data(map), sizeof number);
    if (km_generation(map) < attack->told->acknowledged || number != km_generation(map))
        fail_msg("%s: commit %llu was acknowledged, %llu is there and holds %llu", name,
                 (unsigned long long)attack->told->acknowledged, (unsigned long long)km_generation(map),
                 (unsigned long long)number);
    must(km_abort(map));
    check_clean(map);
    must(km_close(map));
    unlink(attack->path);
}

static struct told *shared_memory(void) {
    void *memory = mmap(NULL, sizeof(struct told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    return memory;
}

static void a_wild_word_takes_no_acknowledged_commit(void **state) {
    (void)state;
    static const uint64_t values[] = {0, 30, UINT64_C(1) << 60, UINT64_MAX};
    struct attack attack = {.told = shared_memory(), .count = 1, .flags = KM_LAZY};
    for (int word = 0; word < WORDS; word++) {
        for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
            char name[128];
            snprintf(name, sizeof name, "%s = %llu", word_names[word], (unsigned long long)values[i]);
            attack.path = scratch_path("word.km");
            attack.word[0] = (enum word)word;
            attack.value[0] = values[i];
            attack_once(&attack, live_with_words, name);
        }
    }
    munmap(attack.told, sizeof *attack.told);
}

static void wild_words_together_take_no_acknowledged_commit(void **state) {
    (void)state;
    struct chance chance = {chance_seed()};
    struct attack attack = {.told = shared_memory()};
    for (unsigned storm = 0; storm < STORMS; storm++) {
        char name[256] = "";
        attack.path = scratch_path("storm.km");
        attack.flags = chance_percent(&chance, 50) ? KM_LAZY : 0;
        attack.count = (unsigned)chance_between(&chance, 2, 4);
        for (unsigned i = 0; i < attack.count; i++) {
            attack.word[i] = (enum word)chance_below(&chance, WORDS);
            attack.value[i] = chance_percent(&chance, 70) ? chance_below(&chance, 50) : chance_next(&chance);
            snprintf(name + strlen(name), sizeof name - strlen(name), "%s = %llu ", word_names[attack.word[i]],
                     (unsigned long long)attack.value[i]);
        }
        attack_once(&attack, live_with_words, name);
    }
    munmap(attack.told, sizeof *attack.told);
}

/* Small commits in the first half of the ring, not home yet; then two that fill the other half and come round. */
static int live_with_checkpointed(void *context) {
    const struct attack *attack = context;
    km_map *map;
    child_must(open_victim(&map, attack->path, KM_CREATE));
    for (int i = 0; i < 6; i++)
        child_must(commit_number(map, STORED, attack->told));
    child_check(scratch_header(attack->path).generation == 0);
    atomic_store(&map->control->checkpointed, 5);
    child_must(commit_number(map, RING * 3 / 8, attack->told));
    child_must(commit_number(map, RING * 3 / 8, attack->told));
    raise(SIGKILL);
    return 0;
}

static void a_wild_checkpointed_gives_no_frame_away_that_home_needs(void **state) {
    (void)state;
    struct attack attack = {.told = shared_memory(), .path = scratch_path("checkpointed.km")};
    attack_once(&attack, live_with_checkpointed, "checkpointed = 5");
    assert_int_equal(attack.told->acknowledged, 8);
    munmap(attack.told, sizeof *attack.told);
}

int main(void) {
    scratch_time_limit(150);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_that_contradict_what_is_mapped_lead_nowhere),
        cmocka_unit_test(a_wild_word_takes_no_acknowledged_commit),
        cmocka_unit_test(a_wild_checkpointed_gives_no_frame_away_that_home_needs),
        cmocka_unit_test(wild_words_together_take_no_acknowledged_commit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
