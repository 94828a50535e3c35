/* SPDX-License-Identifier: MIT
 *
 * A named scenario: pages of the view are a fixed buffer of an io_uring, which pins them, and the kernel stores to them
 * behind the processor's back.
 *
 * By the system's calls alone: a ring of one entry at a time.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "support/chance.h"
#include "support/check.h"
#include "support/scratch.h"

#define SIZE ((uint64_t)64 * KM_PAGE_SIZE)
#define AT ((uint64_t)16 * KM_PAGE_SIZE)
#define LENGTH (8u * KM_PAGE_SIZE)
#define ROUNDS 6u

static const char *const trackers[] = {"scan", "pagemap", "compare"};
enum { TRACKERS = sizeof trackers / sizeof trackers[0] };

/* ---- io_uring ---------------------------------------------------------------------------------------------------- */

struct ring {
    int descriptor;
    unsigned char *submission, *completion;
    struct io_uring_sqe *entries;
    struct io_uring_params parameters;
    size_t submission_length, completion_length;
};

/* False, with a notice, where the system has none or refuses it. */
static bool ring_open(struct ring *ring) {
    memset(ring, 0, sizeof *ring);
    ring->descriptor = (int)syscall(SYS_io_uring_setup, 1, &ring->parameters);
    if (ring->descriptor < 0) {
        assert_true(errno == ENOSYS || errno == EPERM || errno == EACCES);
        fprintf(stderr, "# skipped: no io_uring here: %s\n", strerror(errno));
        return false;
    }
    const struct io_uring_params *p = &ring->parameters;
    ring->submission_length = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    ring->completion_length = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    ring->submission =
        mmap(NULL, ring->submission_length, PROT_READ | PROT_WRITE, MAP_SHARED, ring->descriptor, IORING_OFF_SQ_RING);
    ring->completion =
        mmap(NULL, ring->completion_length, PROT_READ | PROT_WRITE, MAP_SHARED, ring->descriptor, IORING_OFF_CQ_RING);
    ring->entries = mmap(NULL, p->sq_entries * sizeof *ring->entries, PROT_READ | PROT_WRITE, MAP_SHARED,
                         ring->descriptor, IORING_OFF_SQES);
    assert_true(ring->submission != MAP_FAILED && ring->completion != MAP_FAILED && ring->entries != MAP_FAILED);
    return true;
}

static void ring_close(struct ring *ring) {
    munmap(ring->entries, ring->parameters.sq_entries * sizeof *ring->entries);
    munmap(ring->completion, ring->completion_length);
    munmap(ring->submission, ring->submission_length);
    close(ring->descriptor);
}

static void ring_register(const struct ring *ring, void *address, size_t length) {
    struct iovec buffer = {address, length};
    if (syscall(SYS_io_uring_register, ring->descriptor, IORING_REGISTER_BUFFERS, &buffer, 1) != 0)
        fail_msg("register: %s", strerror(errno));
}

static void ring_unregister(const struct ring *ring) {
    assert_int_equal(syscall(SYS_io_uring_register, ring->descriptor, IORING_UNREGISTER_BUFFERS, NULL, 0), 0);
}

static _Atomic uint32_t *word(unsigned char *base, uint32_t offset) {
    return (_Atomic uint32_t *)(void *)(base + offset);
}

/* Read `length` bytes of a file into the registered buffer, and wait until they are there. */
static void ring_read_fixed(struct ring *ring, int file, void *address, size_t length) {
    const struct io_uring_params *p = &ring->parameters;
    const uint32_t tail = atomic_load(word(ring->submission, p->sq_off.tail));
    const uint32_t index = tail & atomic_load(word(ring->submission, p->sq_off.ring_mask));
    ring->entries[index] = (struct io_uring_sqe){.opcode = IORING_OP_READ_FIXED,
                                                 .fd = file,
                                                 .addr = (uint64_t)(uintptr_t)address,
                                                 .len = (uint32_t)length,
                                                 .buf_index = 0};
    atomic_store(word(ring->submission, p->sq_off.array + index * (uint32_t)sizeof(uint32_t)), index);
    atomic_store(word(ring->submission, p->sq_off.tail), tail + 1);
    long entered;
    do
        entered = syscall(SYS_io_uring_enter, ring->descriptor, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    while (entered < 0 && errno == EINTR);
    assert_int_equal(entered, 1);
    const uint32_t head = atomic_load(word(ring->completion, p->cq_off.head));
    assert_int_not_equal(head, atomic_load(word(ring->completion, p->cq_off.tail)));
    const uint32_t at = head & atomic_load(word(ring->completion, p->cq_off.ring_mask));
    const struct io_uring_cqe *done = (const void *)(ring->completion + p->cq_off.cqes + at * sizeof *done);
    assert_int_equal(done->res, length);
    atomic_store(word(ring->completion, p->cq_off.head), head + 1);
}

/* ---- the scenario ------------------------------------------------------------------------------------------------ */

struct input {
    struct ring ring;
    int file;
    unsigned char bytes[LENGTH]; /* what the file holds */
};

static bool input_open(struct input *input) {
    if (!ring_open(&input->ring))
        return false;
    input->file = open(scratch_path("input"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(input->file >= 0);
    return true;
}

static void input_close(struct input *input) {
    close(input->file);
    ring_close(&input->ring);
}

/* Other bytes from the file into the view. */
static void input_take(struct input *input, km_map *map, struct chance *chance) {
    chance_fill(chance, input->bytes, LENGTH);
    assert_int_equal(pwrite(input->file, input->bytes, LENGTH, 0), LENGTH);
    ring_read_fixed(&input->ring, input->file, (unsigned char *)km_data(map) + AT, LENGTH);
}

static void expect_bytes(km_map *map, const unsigned char *bytes) {
    must(km_begin(map, KM_READ));
    assert_memory_equal((unsigned char *)km_data(map) + AT, bytes, LENGTH);
    must(km_abort(map));
    check_clean(map);
}

static void commit_fixed_buffers(const char *tracker, struct input *input, bool kept) {
    const char *path = scratch_path("fixed-%s-%d.km", tracker, kept);
    assert_int_equal(setenv("KEEPMAP_TRACKER", tracker, 1), 0);
    km_map *map = check_open(path, SIZE, KM_CREATE), *reader = check_open(path, 0, 0);
    struct chance chance = {chance_seed()};
    check_commit_fill(map, 0, 1, SIZE);
    for (unsigned round = 0; round < ROUNDS; round++) {
        must(km_begin(map, KM_WRITE));
        if (!kept || round == 0)
            ring_register(&input->ring, (unsigned char *)km_data(map) + AT, LENGTH);
        must(km_touch(map, AT, LENGTH));
        input_take(input, map, &chance);
        must(km_commit(map));
        if (!kept)
            ring_unregister(&input->ring);
        expect_bytes(reader, input->bytes);
        if (round % 2 == 1)
            must(km_checkpoint(reader));
    }
    if (kept)
        ring_unregister(&input->ring);
    must(km_close(reader));
    must(km_close(map));
    assert_int_equal(unsetenv("KEEPMAP_TRACKER"), 0);
}

/* Registered anew in each transaction; or kept, which is possible as long as nothing puts other pages of the view in
 * the place of those that were registered. */
static void what_the_kernel_stores_to_a_fixed_buffer_is_committed(void **state) {
    (void)state;
    static struct input input;
    if (!input_open(&input))
        skip();
    for (int tracker = 0; tracker < TRACKERS; tracker++) {
        commit_fixed_buffers(trackers[tracker], &input, false);
        commit_fixed_buffers(trackers[tracker], &input, true);
    }
    input_close(&input);
}

/* Against the rule: an abort has put other pages in the place of those that the kernel still has, and it stores to them
 * between transactions, and in one of which nobody is told. What is committed is what the view shows then; nothing is
 * damaged, whatever is missing. */
static void a_fixed_buffer_that_was_kept_too_long_damages_nothing(void **state) {
    (void)state;
    static struct input input;
    static unsigned char shown[LENGTH];
    struct chance chance = {chance_seed()};
    if (!input_open(&input))
        skip();
    for (int tracker = 0; tracker < TRACKERS; tracker++) {
        for (int patched = 0; patched < 2; patched++) {
            const char *path = scratch_path("kept-%s-%d.km", trackers[tracker], patched);
            assert_int_equal(setenv("KEEPMAP_TRACKER", trackers[tracker], 1), 0);
            km_map *map = check_open(path, SIZE, KM_CREATE), *other = check_open(path, 0, 0);
            check_commit_fill(map, patched ? AT : 0, 1, 100);
            must(km_begin(map, KM_WRITE));
            ring_register(&input.ring, (unsigned char *)km_data(map) + AT, LENGTH);
            input_take(&input, map, &chance);
            must(km_abort(map));
            input_take(&input, map, &chance);
            check_commit_fill(other, AT + 10, 2, 10); /* a page that the kernel still stores to, if it was kept */
            must(km_checkpoint(map));
            check_clean(other);
            for (int round = 0; round < 4; round++) {
                must(km_begin(map, KM_WRITE));
                input_take(&input, map, &chance);
                if (round % 2 == 0)
                    must(km_touch(map, AT, LENGTH));
                *(unsigned char *)km_data(map) ^= 1;
                memcpy(shown, (unsigned char *)km_data(map) + AT, LENGTH);
                must(km_commit(map));
                if (round % 2 == 0)
                    expect_bytes(other, shown);
                input_take(&input, map, &chance);
                check_commit_fill(other, AT + 10, round, 10);
                must(km_checkpoint(map));
                check_clean(other);
            }
            ring_unregister(&input.ring);
            must(km_close(map));
            check_clean(other);
            must(km_close(other));
        }
    }
    assert_int_equal(unsetenv("KEEPMAP_TRACKER"), 0);
    input_close(&input);
}

int main(void) {
    scratch_time_limit(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_kernel_stores_to_a_fixed_buffer_is_committed),
        cmocka_unit_test(a_fixed_buffer_that_was_kept_too_long_damages_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
