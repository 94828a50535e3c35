/* SPDX-License-Identifier: MIT
 *
 * The life of a worker in the kill test: a process with up to three handles on one map, which does by chance all that a
 * program may do with it, and checks the bank (support/bank.h) at each step. It ends only by a signal, or with what is
 * wrong.
 *
 * The workers are the test's own program, started anew with arguments: nothing of the parent's handles is inherited.
 */
#ifndef KM_TESTS_TELLER_H
#define KM_TESTS_TELLER_H

#include <stdint.h>
#include <sys/types.h>

#define TELLER_TIMEOUT_MS 30000u /* of locks: far longer than anybody is stopped */

/** How the handles that write commit. */
enum teller_kind { TELLER_DURABLE, TELLER_LAZY, TELLER_MIXED };

struct teller {
    const char *map;    /* the target */
    const char *ledger; /* path of the bank's ledger */
    uint32_t number;    /* of the worker; those below TELLER_WRITING write */
    enum teller_kind kind;
    uint32_t grows;    /* 1: the map was made to grow */
    uint32_t is_alone; /* 1: the map would be gone if nobody had it open, so each keeps a handle all the time */
    uint64_t seed;
    uint32_t seconds; /* it ends by itself after these, as a failure */
};

#define TELLER_WRITING 4u

/** Arguments of a program that is a worker: teller_main() recognizes them. */
#define TELLER_ARGUMENTS 10

/** Start a process. Its `attached` word of the ledger becomes 1 when it has the map open. */
pid_t teller_start(const struct teller *teller);

/** In the new process: main() calls it when it has TELLER_ARGUMENTS arguments. */
int teller_main(char **arguments);

/** Where worker `number` puts its copies of the map. The text lives until the next call. */
const char *teller_copy_path(const char *ledger, uint32_t number);

#endif
