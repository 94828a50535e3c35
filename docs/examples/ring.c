/* SPDX-License-Identifier: MIT
 *
 * A queue from one process to another, without a lock: lines that one sends, the other receives.
 *
 *     ring TARGET send               lines of standard input
 *     ring TARGET receive [COUNT]    prints them, until COUNT lines came
 *
 * TARGET is a path, or `Local\ring` for a queue in memory. There is one sender at a time and one receiver at a time,
 * and each can end, or be killed, and start again. Messages are lines of up to 235 bytes; a longer one goes in several.
 *
 * The map is live. Each side has a number that only it stores: how many messages it has sent, or received. A message is
 * put into its place in the ring, and then counted as sent; it is printed, and then counted as received. Only who finds
 * the ring empty, or full, sleeps, in km_wait(), and only then the other wakes it, by a commit.
 *
 * Memory orders. `count` is stored with release and loaded by the other side with acquire: who sees that message n is
 * counted sees its bytes; who sees that it was received finds its place free. To sleep is the harder part: the one says
 * that it sleeps and then looks at the other's count, the other counts and then looks who sleeps. With a full fence
 * between the two on both sides, one of them sees what the other did, so that no message waits beside a sleeper.
 *
 * Death. A sender that is killed loses what it read and did not count; what is counted arrives. A receiver that is
 * killed may have printed a message that it did not count: the next receiver prints it again. So no message is lost,
 * and one may come twice for each receiver that is killed. Who is killed between its count and its commit does not wake
 * the other, who looks once a second. Of a long line a part may have been sent; the next sender begins behind it.
 *
 * A power cut leaves any mixture of old and new pages (a queue in a file; one in memory is gone). The next to start is
 * told so, and what does not fit is left out: the numbers of both sides must fit, and each message carries its own.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keepmap.h"

enum { MESSAGES = 256, TEXT_SIZE = 235, LOOK_MS = 1000 };

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "atomics must work between processes");

enum role { SENDER, RECEIVER };

/* A cache line of its own. */
struct side {
    _Atomic uint64_t count;  /* messages sent, or received, in all the queue's life; stored by its own side only */
    _Atomic uint32_t asleep; /* 1: set by its own side, which may be in km_wait(); cleared by who is going to wake it */
    uint32_t slot;           /* the handle that has this role, as km_who() tells it; under the writer's lock */
    uint64_t attached_ns;
    unsigned char padding[40];
};
_Static_assert(sizeof(struct side) == 64, "layout");

/* Half a sector, so that a power cut leaves it old or new. */
struct message {
    uint64_t number; /* 1 for the first one */
    uint16_t length;
    uint8_t ends; /* 1: the line ends here */
    char text[TEXT_SIZE];
    unsigned char padding[10];
};
_Static_assert(sizeof(struct message) == 256, "layout");

/* What the map holds; all zero is an empty queue. */
struct ring {
    struct side side[2];
    unsigned char padding[4096 - 2 * 64];
    struct message message[MESSAGES]; /* number n in place (n - 1) % MESSAGES */
};

/* This process's end of it. */
struct end {
    km_map *map;
    struct ring *ring;
    struct side *mine, *other;
    uint64_t count; /* as in `mine`: what one's own side stored need not be read back */
};

static int usage(void) {
    fprintf(stderr, "usage: ring TARGET send | receive [COUNT]\n");
    return 2;
}

static int fail(void) {
    fprintf(stderr, "ring: %s\n", km_last_error_detail());
    return 1;
}

/* ---- one of each role -------------------------------------------------------------------------------------------- */

struct search {
    const struct side *side;
    struct km_user self;
    bool taken;
};

static int look_at_user(void *context, const struct km_user *user) {
    struct search *search = context;
    if (user->self)
        search->self = *user;
    else if (user->slot == search->side->slot && user->attached_ns == search->side->attached_ns)
        search->taken = true;
    return 0;
}

/* What a power cut can have done to the numbers. Nothing is at work that could change them now. */
static void repair(struct ring *ring) {
    const uint64_t sent = atomic_load(&ring->side[SENDER].count), received = atomic_load(&ring->side[RECEIVER].count);
    if (sent >= received && sent - received <= MESSAGES)
        return;
    fprintf(stderr, "ring: %" PRIu64 " messages were sent, %" PRIu64 " received: begins anew\n", sent, received);
    const uint64_t highest = sent > received ? sent : received; /* numbers never come back */
    atomic_store(&ring->side[SENDER].count, highest);
    atomic_store(&ring->side[RECEIVER].count, highest);
}

/* Take the role, unless a living handle has it. km_who() asks the locks of the kernel who lives, so the word of a dead
 * one holds nothing up. 0, or an exit status. */
static int take_role(struct end *end, enum role role) {
    const int begun = km_begin(end->map, KM_WRITE);
    if (begun != 0 && begun != KM_EABANDONED)
        return fail();
    struct search search = {.side = end->mine}, across = {.side = end->other};
    if (km_who(end->map, look_at_user, &search) != 0 || km_who(end->map, look_at_user, &across) != 0)
        return fail(); /* km_close() aborts what is open, and the next is told again */
    if (search.taken) {
        fprintf(stderr, "ring: another %s is at work\n", role == SENDER ? "sender" : "receiver");
        return km_abort(end->map) == 0 ? 1 : fail();
    }
    if (!across.taken)
        repair(end->ring);
    end->mine->slot = search.self.slot;
    end->mine->attached_ns = search.self.attached_ns;
    end->count = atomic_load(&end->mine->count);
    return km_commit(end->map) == 0 ? 0 : fail();
}

/* ---- sleeping and waking ----------------------------------------------------------------------------------------- */

/* The count of the other side, which must fit to one's own: a wild number must not lead out of the ring. */
static int look_across(const struct end *end, uint64_t *count) {
    *count = atomic_load_explicit(&end->other->count, memory_order_acquire);
    const bool sending = end->mine == &end->ring->side[SENDER];
    const uint64_t waiting = sending ? end->count - *count : *count - end->count;
    if (waiting <= MESSAGES)
        return 0;
    fprintf(stderr, "ring: the numbers of the two sides do not fit: somebody else writes to this map\n");
    return 1;
}

/* Sleep until the other side's count is no longer `seen`; may return too early. */
static int sleep_while(struct end *end, uint64_t seen) {
    uint64_t newest = 0;
    int result = km_wait(end->map, 0, 0, &newest); /* no wait: only, which commit is the newest */
    if (result != 0 && result != KM_ETIMEOUT)
        return fail();
    atomic_store(&end->mine->asleep, 1);
    atomic_thread_fence(memory_order_seq_cst);
    result = 0;
    if (atomic_load_explicit(&end->other->count, memory_order_acquire) == seen)
        result = km_wait(end->map, newest, LOOK_MS, NULL); /* whoever saw us asleep commits after `newest` */
    atomic_store(&end->mine->asleep, 0);
    return result == 0 || result == KM_ETIMEOUT ? 0 : fail();
}

/* One message more is sent, or received: tell, and wake the other side if it may sleep. */
static int advance(struct end *end) {
    atomic_store_explicit(&end->mine->count, ++end->count, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&end->other->asleep, memory_order_relaxed) == 0 ||
        atomic_exchange(&end->other->asleep, 0) == 0)
        return 0;
    const int begun = km_begin(end->map, KM_WRITE);
    if (begun != 0 && begun != KM_EABANDONED) /* who died at waking, or at taking a role, left nothing half done */
        return fail();
    return km_commit(end->map) == 0 ? 0 : fail();
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

static int wait_for_room(struct end *end) {
    for (;;) {
        uint64_t received;
        int status = look_across(end, &received);
        if (status != 0 || end->count - received < MESSAGES)
            return status;
        status = sleep_while(end, received);
        if (status != 0)
            return status;
    }
}

static int send_piece(struct end *end, const char *text, size_t length, bool ends) {
    const int status = wait_for_room(end);
    if (status != 0)
        return status;
    struct message *message = &end->ring->message[end->count % MESSAGES];
    message->number = end->count + 1;
    message->length = (uint16_t)length;
    message->ends = ends;
    memcpy(message->text, text, length);
    return advance(end);
}

static int send_line(struct end *end, const char *line, size_t length) {
    int status = 0;
    for (bool last = false; status == 0 && !last;) {
        const size_t piece = length < TEXT_SIZE ? length : TEXT_SIZE;
        last = piece == length;
        status = send_piece(end, line, piece, last);
        line += piece;
        length -= piece;
    }
    return status;
}

/* A queue in memory ends with its last user: who sends stays until all is received. */
static int wait_until_received(struct end *end) {
    struct km_info info = {.struct_size = sizeof info};
    int status = km_get_info(end->map, &info) == 0 ? 0 : fail();
    while (status == 0 && info.paging_file) {
        uint64_t received;
        status = look_across(end, &received);
        if (status == 0 && received == end->count)
            return 0;
        if (status == 0)
            status = sleep_while(end, received);
    }
    return status;
}

static int send_all(struct end *end) {
    char *line = NULL;
    size_t size = 0;
    int status = 0;
    for (ssize_t length; status == 0 && (length = getline(&line, &size, stdin)) > 0;)
        status = send_line(end, line, (size_t)length - (line[length - 1] == '\n'));
    free(line);
    if (status == 0 && ferror(stdin)) {
        perror("ring: standard input");
        return 1;
    }
    return status == 0 ? wait_until_received(end) : status;
}

/* ---- receiving --------------------------------------------------------------------------------------------------- */

/* Print message `end->count` + 1, which the sender has counted. `*lines` rises at the end of a line. */
static int print_message(const struct end *end, uint64_t *lines) {
    const struct message *place = &end->ring->message[end->count % MESSAGES];
    struct message message;
    memcpy(&message, place, sizeof message); /* judged and printed from one copy */
    if (message.number != end->count + 1 || message.length > TEXT_SIZE) {
        fprintf(stderr, "ring: message %" PRIu64 " was lost with the power\n", end->count + 1);
        return 0;
    }
    fwrite(message.text, 1, message.length, stdout);
    if (message.ends) {
        putchar('\n');
        ++*lines;
    }
    if (fflush(stdout) == 0) /* before it is counted: see "Death" */
        return 0;
    perror("ring: standard output");
    return 1;
}

/* `count` 0: for ever. */
static int receive(struct end *end, uint64_t count) {
    for (uint64_t lines = 0; count == 0 || lines < count;) {
        uint64_t sent;
        int status = look_across(end, &sent);
        if (status == 0 && sent == end->count)
            status = sleep_while(end, sent);
        for (; status == 0 && end->count < sent && (count == 0 || lines < count);) {
            status = print_message(end, &lines);
            if (status == 0)
                status = advance(end);
        }
        if (status != 0)
            return status;
    }
    return 0;
}

/* ---- the program ------------------------------------------------------------------------------------------------- */

static int work(km_map *map, enum role role, uint64_t count) {
    struct km_info info = {.struct_size = sizeof info};
    if (km_get_info(map, &info) != 0)
        return fail();
    if (info.mode != KM_LIVE || info.size < sizeof(struct ring)) {
        fprintf(stderr, "ring: the map is not a ring\n");
        return 1;
    }
    struct end end = {.map = map, .ring = km_data(map)};
    end.mine = &end.ring->side[role];
    end.other = &end.ring->side[role == SENDER ? RECEIVER : SENDER];
    const int status = take_role(&end, role);
    if (status != 0)
        return status;
    return role == SENDER ? send_all(&end) : receive(&end, count);
}

static bool is_number(const char *text, uint64_t *number) {
    char *end;
    errno = 0;
    *number = strtoull(text, &end, 10);
    return errno == 0 && text[0] >= '0' && text[0] <= '9' && *end == '\0' && *number > 0;
}

int main(int argc, char **argv) {
    const char *verb = argc > 2 ? argv[2] : "";
    const bool sending = strcmp(verb, "send") == 0 && argc == 3;
    const bool receiving = strcmp(verb, "receive") == 0 && (argc == 3 || argc == 4);
    uint64_t count = 0;
    if ((!sending && !receiving) || (argc == 4 && !is_number(argv[3], &count)))
        return usage();

    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options,
                                       .size = sizeof(struct ring),
                                       .flags = KM_CREATE,
                                       .mode = KM_LIVE,
                                       .schema = "example-ring",
                                       .schema_version = 1};
    if (km_open(&map, argv[1], &options) != 0)
        return fail();
    const int status = work(map, sending ? SENDER : RECEIVER, count);
    if (km_close(map) != 0 && status == 0)
        return fail();
    return status;
}
