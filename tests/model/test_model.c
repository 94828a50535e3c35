/* SPDX-License-Identifier: MIT
 *
 * Random operations on a few handles of one map, beside a plain array that says what each generation must look like.
 *
 * One thread drives all handles, so the outcome of nearly every call is known in advance: which generation a begin must
 * show, byte for byte; whether a commit makes a generation; when a second writer gets KM_EBUSY. Where two outcomes are
 * right (a commit while others hold snapshots can find the journal full), the test accepts both, and checks that the
 * handle is then in the state that its documentation promises.
 *
 * A run is 10,000 steps of one seed. Each test runs one seed after another for some seconds; KEEPMAP_SEED runs one
 * alone.
 */
#include "support/scratch.h"
#include "world.h"

#include "format/checksum.h"

#define STEPS 10000
#define SECONDS_A_RUN 4.0

/* ---- handles come and go ----------------------------------------------------------------------------------------- */

static uint32_t random_flags(struct world *world, int number) {
    static const uint32_t kinds[] = {0,           0,          KM_LAZY, KM_LAZY, KM_DECLARED, KM_LAZY | KM_DECLARED,
                                     KM_READONLY, KM_READONLY};
    /* The first user may always write, or nothing would happen for long stretches. */
    uint32_t flags = kinds[chance_below(&world->chance, number == 0 ? 6 : 8)];
    if ((flags & KM_READONLY) == 0 && chance_percent(&world->chance, 30)) {
        flags |= KM_CHECK;
    }
    return flags;
}

static void open_user(struct world *world, struct user *user) {
    static const char *const trackers[] = {"scan", "pagemap", "compare"};
    const int number = (int)(user - world->users);
    const char *tracker = trackers[chance_below(&world->chance, 3)];
    user->flags = random_flags(world, number);
    setenv("KEEPMAP_TRACKER", tracker, 1);
    const struct km_options options = {.struct_size = sizeof options, .flags = user->flags, .timeout_ms = 1};
    world_trace(world, "user %d opens, flags %x, tracker %s", number, user->flags, tracker);
    world_expect(world, user, "km_open", km_open(&user->map, world->path, &options), 0);
    user->data = km_data(user->map);
    user->doing = IDLE;
    user->stray = false;
    world->sessions++;
}

static void close_user(struct world *world, struct user *user) {
    const int result = km_close(user->map);
    world_trace(world, "user %d closes: %s", (int)(user - world->users), km_error_name(result));
    user->map = NULL;
    user->doing = CLOSED;
    /* The last one that may write cannot bring home up to the newest commit while a reader holds an older one. */
    if (result != 0 && !(result == KM_EBUSY && world_others(world, user, READING))) {
        world_expect(world, user, "km_close", result, 0);
    }
}

/* ---- transactions ------------------------------------------------------------------------------------------------ */

static void begin(struct world *world, struct user *user, enum km_access access) {
    const int number = (int)(user - world->users);
    const int result = km_begin(user->map, access);
    world_trace(world, "user %d begins %s: %s, generation %llu", number, access == KM_READ ? "reading" : "writing",
                km_error_name(result), (unsigned long long)km_generation(user->map));
    if (access == KM_WRITE && !user_writes(user)) {
        world_expect(world, user, "km_begin(KM_WRITE)", result, KM_EREADONLY);
        return;
    }
    if (user->stray && result != KM_ESTRAY && world->generation > user->strayed_at) {
        user->stray = false; /* others have changed and checkpointed the page: it was taken back in silence */
    }
    if (access == KM_WRITE && world_others(world, user, WRITING)) {
        /* A stray store may be found before the lock is asked for, or after. */
        if (!(user->stray && result == KM_ESTRAY)) {
            world_expect(world, user, "km_begin(KM_WRITE) beside a writer", result, KM_EBUSY);
            return;
        }
    }
    if (user->stray) {
        world_expect(world, user, "km_begin() after a stray store", result, KM_ESTRAY);
        user->stray = false;
        world->strays++;
        return;
    }
    world_expect(world, user, "km_begin", result, 0);
    if (km_generation(user->map) != world->generation) {
        world_broken(world, "user %d began at generation %llu, newest is %llu", number,
                     (unsigned long long)km_generation(user->map), (unsigned long long)world->generation);
    }
    user->doing = access == KM_READ ? READING : WRITING;
    user->seen_size = world->size;
    memcpy(user->seen, world->now, world->size);
    world_compare(world, user);
}

static void store_bytes(struct user *user, uint64_t offset, const void *bytes, size_t length) {
    memcpy((unsigned char *)user->data + offset, bytes, length);
    memcpy(user->seen + offset, bytes, length);
}

static void store(struct world *world, struct user *user) {
    static unsigned char scratch[CAPACITY];
    struct chance *chance = &world->chance;
    uint64_t offset = chance_below(chance, user->seen_size);
    uint64_t room = user->seen_size - offset;
    uint64_t length = 1 + chance_below(chance, room < 200 ? room : 200);
    const char *what = "bytes";
    const unsigned pick = (unsigned)chance_below(chance, 100);
    if (pick < 15) { /* whole pages */
        offset -= offset % KM_PAGE_SIZE;
        length = KM_PAGE_SIZE * chance_between(chance, 1, 6);
        what = "pages";
    } else if (pick < 25) {
        length = chance_below(chance, 40000) + 1;
        what = "a long range";
    } else if (pick < 27) { /* more than the whole journal, where the map is larger than that */
        offset = 0;
        length = user->seen_size;
        what = "everything";
    }
    if (length > user->seen_size - offset) {
        length = user->seen_size - offset;
    }
    chance_fill(chance, scratch, length);
    if (pick >= 80) { /* a store that changes nothing */
        memcpy(scratch, user->seen + offset, length);
        what = "the same bytes";
    } else if (pick >= 70) {
        memset(scratch, pick % 2 == 0 ? 0 : 0x5a, length);
        what = "one value";
    }
    world_trace(world, "user %d stores %s at %llu, %llu long", (int)(user - world->users), what,
                (unsigned long long)offset, (unsigned long long)length);
    if ((user->flags & KM_DECLARED) != 0 || chance_percent(chance, 10)) {
        world_expect(world, user, "km_touch", km_touch(user->map, offset, length), 0);
    }
    store_bytes(user, offset, scratch, length);
}

/* Words all over the data, the way records of an application change. */
static void store_spread(struct world *world, struct user *user) {
    const uint64_t count = chance_between(&world->chance, 2, 60);
    world_trace(world, "user %d stores %llu spread words", (int)(user - world->users), (unsigned long long)count);
    for (uint64_t i = 0; i < count && user->seen_size >= 8; i++) {
        const uint64_t offset = chance_below(&world->chance, user->seen_size - 7);
        const uint64_t value = chance_next(&world->chance);
        if ((user->flags & KM_DECLARED) != 0) {
            world_expect(world, user, "km_touch", km_touch(user->map, offset, sizeof value), 0);
        }
        store_bytes(user, offset, &value, sizeof value);
    }
}

static void commit(struct world *world, struct user *user) {
    const int number = (int)(user - world->users);
    world_compare(world, user);
    const bool changes = memcmp(user->seen, world->now, world->size) != 0;
    int result = km_commit(user->map);
    /* With nobody in the way, what took too long (a checkpoint in several parts) is through after some tries. */
    for (int tries = 0; result == KM_EBUSY && !world_others(world, user, READING) && tries < 100; tries++) {
        world_compare(world, user);
        result = km_commit(user->map);
    }
    world_trace(world, "user %d commits: %s, generation %llu%s", number, km_error_name(result),
                (unsigned long long)km_generation(user->map), changes ? "" : " (no change)");
    if (result == KM_EBUSY && changes && world_others(world, user, READING)) {
        world->full++;
        world_compare(world, user); /* still open, and whole */
        return;
    }
    world_expect(world, user, "km_commit", result, 0);
    if (changes) {
        world->generation++;
        world->commits++;
        memcpy(world->now, user->seen, world->size);
    }
    if (km_generation(user->map) != world->generation) {
        world_broken(world, "user %d committed generation %llu, expected %llu", number,
                     (unsigned long long)km_generation(user->map), (unsigned long long)world->generation);
    }
    user->doing = IDLE;
}

static void end_reading(struct world *world, struct user *user) {
    world_trace(world, "user %d ends reading", (int)(user - world->users));
    world_compare(world, user);
    const int result = chance_percent(&world->chance, 50) ? km_abort(user->map) : km_commit(user->map);
    world_expect(world, user, "the end of a read", result, 0);
    user->doing = IDLE;
}

static void abort_writing(struct world *world, struct user *user) {
    world_trace(world, "user %d aborts", (int)(user - world->users));
    world_expect(world, user, "km_abort", km_abort(user->map), 0);
    user->doing = IDLE;
}

/* ---- the rest of the interface ----------------------------------------------------------------------------------- */

static void checkpoint(struct world *world, struct user *user) {
    const int result = km_checkpoint(user->map);
    world_trace(world, "user %d checkpoints: %s", (int)(user - world->users), km_error_name(result));
    if (!user_writes(user)) {
        world_expect(world, user, "km_checkpoint", result, KM_EREADONLY);
    } else if (user->doing == WRITING) {
        world_expect(world, user, "km_checkpoint", result, KM_EMISUSE);
    } else if (!(result == KM_EBUSY && world_others(world, user, READING))) {
        world_expect(world, user, "km_checkpoint", result, 0);
    }
}

static void sync_user(struct world *world, struct user *user) {
    const int result = km_sync(user->map);
    world_trace(world, "user %d syncs: %s", (int)(user - world->users), km_error_name(result));
    world_expect(world, user, "km_sync", result, user_writes(user) ? 0 : KM_EREADONLY);
    struct km_info info = {.struct_size = sizeof info};
    world_expect(world, user, "km_get_info", km_get_info(user->map, &info), 0);
    if (user_writes(user) && info.durable_generation != world->generation) {
        world_broken(world, "after km_sync generation %llu is durable, newest is %llu",
                     (unsigned long long)info.durable_generation, (unsigned long long)world->generation);
    }
}

static void grow(struct world *world, struct user *user) {
    const bool beyond = chance_percent(&world->chance, 30) || world->size == world->max_size;
    const uint64_t low = (beyond ? world->max_size : world->size) + 1;
    const uint64_t high = beyond ? low + 30000 : world->max_size;
    const uint64_t size = chance_between(&world->chance, low, high);
    if (size > CAPACITY) {
        return;
    }
    if (beyond && user_writes(user) && chance_percent(&world->chance, 60)) {
        for (struct user *other = world->users; other < world->users + USERS; other++) {
            if (other != user && other->doing != CLOSED) {
                close_user(world, other); /* it needs to be alone */
            }
        }
    }
    const int result = km_grow(user->map, size);
    world_trace(world, "user %d grows %llu -> %llu (max %llu): %s", (int)(user - world->users),
                (unsigned long long)world->size, (unsigned long long)size, (unsigned long long)world->max_size,
                km_error_name(result));
    if (!user_writes(user)) {
        world_expect(world, user, "km_grow", result, KM_EREADONLY);
        return;
    }
    if (user->stray && result == KM_ESTRAY) {
        user->stray = false;
        return;
    }
    if (world_others(world, user, WRITING) || (beyond && world_others(world, user, IDLE))) {
        world_expect(world, user, "km_grow", result, KM_EBUSY);
        return;
    }
    if (result == KM_EBUSY && world_others(world, user, READING)) {
        world->full++;
        return;
    }
    world_expect(world, user, "km_grow", result, 0);
    memset(world->now + world->size, 0, size - world->size);
    world->size = size;
    world->generation++;
    world->growths++;
    if (beyond) {
        world->max_size = size;
        world->moves++;
    }
    if (km_generation(user->map) != world->generation) {
        world_broken(world, "grown to generation %llu, expected %llu", (unsigned long long)km_generation(user->map),
                     (unsigned long long)world->generation);
    }
}

static uint64_t digest_of(const struct world *world) {
    uint64_t digest = 0;
    for (uint64_t page = 0; page * KM_PAGE_SIZE < world->size; page++) {
        unsigned char bytes[KM_PAGE_SIZE] = {0};
        const uint64_t rest = world->size - page * KM_PAGE_SIZE;
        memcpy(bytes, world->now + page * KM_PAGE_SIZE, rest < KM_PAGE_SIZE ? rest : KM_PAGE_SIZE);
        digest += km__digest_mix(page, km__checksum_page(world->checksum, bytes));
    }
    return digest;
}

static void ask_info(struct world *world, struct user *user) {
    struct km_info info = {.struct_size = sizeof info};
    world_trace(world, "user %d asks", (int)(user - world->users));
    world_expect(world, user, "km_get_info", km_get_info(user->map, &info), 0);
    if (info.generation != world->generation || info.size != world->size || info.max_size != world->max_size) {
        world_broken(world, "km_get_info says generation %llu, size %llu of %llu; expected %llu, %llu of %llu",
                     (unsigned long long)info.generation, (unsigned long long)info.size,
                     (unsigned long long)info.max_size, (unsigned long long)world->generation,
                     (unsigned long long)world->size, (unsigned long long)world->max_size);
    }
    if (info.digest != digest_of(world)) {
        world_broken(world, "the digest of generation %llu is wrong", (unsigned long long)info.generation);
    }
    if (info.checkpoint_generation > info.durable_generation || info.durable_generation > info.generation ||
        info.journal_used > info.journal_size || info.header_slots != 3 || info.failed != 0) {
        world_broken(
            world,
            "km_get_info: checkpoint %llu, durable %llu, generation %llu, journal %llu of %llu, slots %u, failed %u",
            (unsigned long long)info.checkpoint_generation, (unsigned long long)info.durable_generation,
            (unsigned long long)info.generation, (unsigned long long)info.journal_used,
            (unsigned long long)info.journal_size, info.header_slots, info.failed);
    }
}

static void verify(struct world *world, struct user *user) {
    struct km_report report = {.struct_size = sizeof report};
    const int result = km_verify(user->map, &report, NULL, NULL);
    world_trace(world, "user %d verifies: %s", (int)(user - world->users), km_error_name(result));
    world_expect(world, user, "km_verify", result, 0);
    if (report.pages_damaged + report.frames_damaged + report.headers_damaged != 0 || report.digest_matches != 1 ||
        report.generation != world->generation) {
        world_broken(world, "km_verify at generation %llu: %llu pages, %llu frames, %llu headers damaged, digest %u",
                     (unsigned long long)report.generation, (unsigned long long)report.pages_damaged,
                     (unsigned long long)report.frames_damaged, (unsigned long long)report.headers_damaged,
                     report.digest_matches);
    }
}

/* A store that a program must not make: KM_CHECK finds it at the next begin, and takes it back. */
static void stray(struct world *world, struct user *user) {
    const uint64_t offset = chance_below(&world->chance, km_size(user->map));
    world_trace(world, "user %d strays at %llu", (int)(user - world->users), (unsigned long long)offset);
    ((unsigned char *)user->data)[offset] ^= 0xff;
    user->stray = true;
    user->strayed_at = km_generation(user->map);
}

static void misuse(struct world *world, struct user *user) {
    world_trace(world, "user %d misuses", (int)(user - world->users));
    if (user->doing == IDLE) {
        world_expect(world, user, "km_commit outside", km_commit(user->map), KM_EMISUSE);
        world_expect(world, user, "km_abort outside", km_abort(user->map), KM_EMISUSE);
        world_expect(world, user, "km_touch outside", km_touch(user->map, 0, 1), KM_EMISUSE);
        return;
    }
    world_expect(world, user, "km_begin inside", km_begin(user->map, KM_READ), KM_EMISUSE);
    if (user_writes(user)) {
        world_expect(world, user, "km_grow inside", km_grow(user->map, km_size(user->map) + 1), KM_EMISUSE);
    }
    if (user->doing == WRITING) {
        world_expect(world, user, "km_touch outside the data", km_touch(user->map, user->seen_size, 1), KM_EINVAL);
        world_expect(world, user, "km_touch of too much", km_touch(user->map, 1, UINT64_MAX), KM_EINVAL);
    }
}

/* ---- one step ---------------------------------------------------------------------------------------------------- */

static void step_idle(struct world *world, struct user *user, unsigned pick) {
    if (user->stray && pick >= 62 && pick < 92) {
        pick = 0; /* let it be found before anything else is done with the handle */
    }
    if (pick < 30) {
        begin(world, user, KM_READ);
    } else if (pick < 80) {
        begin(world, user, user_writes(user) || pick < 33 ? KM_WRITE : KM_READ);
    } else if (pick < 83) {
        sync_user(world, user);
    } else if (pick < 87) {
        checkpoint(world, user);
    } else if (pick < 89) {
        grow(world, user);
    } else if (pick < 90) {
        ask_info(world, user);
    } else if (pick < 91) {
        verify(world, user);
    } else if (pick < 93) {
        misuse(world, user);
    } else if (pick < 96 && (user->flags & KM_CHECK) != 0 && !user->stray) {
        stray(world, user);
    } else if (pick >= 98) {
        close_user(world, user);
    }
}

static void step_reading(struct world *world, struct user *user, unsigned pick) {
    if (pick < world->patience) {
        end_reading(world, user);
    } else if (pick < 85) {
        world_trace(world, "user %d looks again", (int)(user - world->users));
        world_compare(world, user);
    } else if (pick < 90) {
        checkpoint(world, user);
    } else if (pick < 94) {
        sync_user(world, user);
    } else if (pick < 97) {
        misuse(world, user);
    } else if (pick < 98) {
        close_user(world, user);
    } else {
        ask_info(world, user);
    }
}

static void step_writing(struct world *world, struct user *user, unsigned pick) {
    if (pick < 35) {
        store(world, user);
    } else if (pick < 45) {
        store_spread(world, user);
    } else if (pick < 87) {
        commit(world, user);
    } else if (pick < 94) {
        abort_writing(world, user);
    } else if (pick < 95) {
        checkpoint(world, user);
    } else if (pick < 97) {
        misuse(world, user);
    } else if (pick < 98) {
        close_user(world, user);
    } else {
        sync_user(world, user);
    }
}

static void step(struct world *world) {
    struct user *user = &world->users[chance_below(&world->chance, USERS)];
    for (struct user *writer = world->users; writer < world->users + USERS; writer++) {
        if (writer->doing == WRITING && chance_percent(&world->chance, 60)) {
            user = writer; /* or everybody would mostly find it in the way */
        }
    }
    const unsigned pick = (unsigned)chance_below(&world->chance, 100);
    if (user->doing == CLOSED) {
        if (pick < 30) { /* stay away for a while, so that others are alone, or nobody is there */
            open_user(world, user);
        }
    } else if (user->doing == IDLE) {
        step_idle(world, user, pick);
    } else if (user->doing == READING) {
        step_reading(world, user, pick);
    } else {
        step_writing(world, user, pick);
    }
}

/* ---- one run ----------------------------------------------------------------------------------------------------- */

static void create(struct world *world) {
    static const uint64_t sizes[] = {1, 100, 4095, 4096, 4097, 70000, 262144, 500000};
    struct chance *chance = &world->chance;
    world->size = chance_percent(chance, 50) ? sizes[chance_below(chance, sizeof sizes / sizeof sizes[0])]
                                             : chance_between(chance, 1, 400000);
    world->max_size = chance_percent(chance, 50) ? world->size : chance_between(chance, world->size, CAPACITY / 2);
    world->patience = (unsigned)chance_between(chance, 5, 60);
    const struct km_options options = {
        .struct_size = sizeof options,
        .size = world->size,
        .max_size = world->max_size,
        .journal_size = chance_percent(chance, 70) ? 65536 : 262144,
        .checksum = world->checksum,
        .flags = KM_CREATE | KM_EXCLUSIVE | world->creation_flags,
    };
    world_trace(world, "creates %llu bytes, at most %llu, journal %llu", (unsigned long long)world->size,
                (unsigned long long)world->max_size, (unsigned long long)options.journal_size);
    km_map *map = NULL;
    world_expect(world, world->users, "km_open(KM_CREATE)", km_open(&map, world->path, &options), 0);
    world_expect(world, world->users, "km_close", km_close(map), 0);
}

static void finish(struct world *world) {
    for (struct user *user = world->users; user < world->users + USERS; user++) {
        if (user->doing != CLOSED) {
            close_user(world, user);
        }
    }
    /* Whatever the order in which they left: a session that ends with nobody else there leaves the map clean. */
    struct user *user = &world->users[0];
    open_user(world, user);
    begin(world, user, KM_READ);
    end_reading(world, user);
    verify(world, user);
    close_user(world, user);
    const struct km_options options = {.struct_size = sizeof options, .flags = KM_READONLY};
    world_expect(world, user, "km_open", km_open(&user->map, world->path, &options), 0);
    user->flags = KM_READONLY;
    user->data = km_data(user->map);
    begin(world, user, KM_READ);
    end_reading(world, user);
    verify(world, user);
    ask_info(world, user);
    struct km_info info = {.struct_size = sizeof info};
    world_expect(world, user, "km_get_info", km_get_info(user->map, &info), 0);
    if (info.clean != 1) {
        world_broken(world, "the map is not clean after the last handle was closed");
    }
    close_user(world, user);
}

static void run_seed(uint64_t seed, uint32_t checksum, uint32_t creation_flags) {
    struct world *world = calloc(1, sizeof *world);
    assert_non_null(world);
    world->seed = seed;
    world->chance.state = chance_mix(seed, ((uint64_t)checksum << 32) + creation_flags);
    world->checksum = checksum;
    world->creation_flags = creation_flags;
    static unsigned runs;
    world->path = scratch_path("model-%u.km", runs++);
    world->now = calloc(1, CAPACITY);
    assert_non_null(world->now);
    for (struct user *user = world->users; user < world->users + USERS; user++) {
        user->seen = calloc(1, CAPACITY);
        assert_non_null(user->seen);
    }
    create(world);
    for (world->step = 1; world->step <= STEPS; world->step++) {
        step(world);
    }
    finish(world);
    fprintf(
        stderr,
        "# seed %llu: %u commits, %u found the journal full, %u strays, %u growths (%u moved the journal), %u opens\n",
        (unsigned long long)seed, world->commits, world->full, world->strays, world->growths, world->moves,
        world->sessions);
    assert_true(world->commits > STEPS / 100);
    assert_int_equal(remove(world->path), 0);
    for (struct user *user = world->users; user < world->users + USERS; user++) {
        free(user->seen);
    }
    free(world->now);
    free(world);
    unsetenv("KEEPMAP_TRACKER");
}

static void run_seeds(uint32_t checksum, uint32_t creation_flags) {
    const double start = scratch_now_s();
    uint64_t seed = chance_seed();
    do {
        run_seed(seed++, checksum, creation_flags);
    } while (!chance_seed_is_given() && scratch_now_s() - start < SECONDS_A_RUN);
}

static void every_generation_equals_the_array_with_crc32c(void **state) {
    (void)state;
    run_seeds(KM_CHECKSUM_CRC32C, 0);
}

static void every_generation_equals_the_array_without_checksums(void **state) {
    (void)state;
    run_seeds(KM_CHECKSUM_NONE, 0);
}

static void every_generation_equals_the_array_with_whole_page_frames(void **state) {
    (void)state;
    run_seeds(KM_CHECKSUM_CRC32C, KM_FULL_PAGES);
}

static void every_generation_equals_the_array_with_crc32(void **state) {
    (void)state;
    if (!km__zlib_available()) {
        skip();
    }
    run_seeds(KM_CHECKSUM_CRC32, 0);
}

static void every_generation_equals_the_array_with_compressed_frames(void **state) {
    (void)state;
    if (!km__zlib_available()) {
        skip();
    }
    run_seeds(KM_CHECKSUM_CRC32C, KM_COMPRESS);
}

int main(void) {
    scratch_time_limit(300);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_generation_equals_the_array_with_crc32c),
        cmocka_unit_test(every_generation_equals_the_array_without_checksums),
        cmocka_unit_test(every_generation_equals_the_array_with_whole_page_frames),
        cmocka_unit_test(every_generation_equals_the_array_with_crc32),
        cmocka_unit_test(every_generation_equals_the_array_with_compressed_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
