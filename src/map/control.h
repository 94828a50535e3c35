/* SPDX-License-Identifier: MIT
 *
 * Control: the shared words of a session, at KM__CONTROL_OFFSET of the file, mapped by every handle. Not durable
 * and not format: the first to attach rebuilds it. It holds counters and pins, never positions: a handle finds its
 * place in the journal from a header slot and by walking frames, so that a wild value here can delay others but not
 * mislead them.
 *
 * | word              | who writes it                              | under                     |
 * |-------------------|--------------------------------------------|---------------------------|
 * | magic ... epoch   | the first to attach, epoch last (release)  | ATTACH                    |
 * | appended          | the writer, after the frame is whole       | WRITER                    |
 * | durable           | whoever synced, after `visible`            | SYNC, atomic maximum      |
 * | visible           | whoever synced; a lazy committer           | none, atomic maximum      |
 * | target            | the checkpointer, before it looks at pins  | CHECKPOINT, atomic maximum|
 * | checkpointed      | the checkpointer, after both header slots  | CHECKPOINT, atomic maximum|
 * | geometry          | who changed the regions, after both slots  | WRITER and CHECKPOINT     |
 * | clean             | the writer of the first frame of a session | CHECKPOINT                |
 * | failed            | whoever saw a sync fail                    | none, only ever set       |
 * | header_durable    | who made a slot durable: its sequence      | CHECKPOINT                |
 * | sync_began, ended | who syncs the journal, before and after    | SYNC                      |
 * | file_mark         | the holder of CHECKPOINT, for as long;     | CHECKPOINT                |
 * |                   | live: it stays if its holder failed        |                           |
 * | suspect           | who finds file_mark set, or a sync that    | CHECKPOINT, or SYNC;      |
 * |                   | has not ended, by a dead holder            | atomic maximum            |
 * | writer_wanted ... | waiters set it, the releaser clears it     | none                      |
 * | holder            | the holder of WRITER, slot + 1; counts in  | WRITER                    |
 * |                   | live maps, elsewhere only to name it       |                           |
 * | unsure            | live: set by the first to attach, and who  | ATTACH, none,             |
 * |                   | syncs without CHECKPOINT; cleared by a seal | CHECKPOINT               |
 * | boot              | the first to attach                        | ATTACH                    |
 * | waiting[i / 64]   | bit i: the holder of SLOT + i, in km_wait() | SLOT + i                 |
 * | slot[i]           | the holder of SLOT + i; who clears a dead  | SLOT + i                  |
 *
 * The counters are read with acquire and written with release; the one place that needs more is the handshake between a
 * pin and a checkpoint (transaction.c), which has full fences.
 */
#ifndef KM_MAP_CONTROL_H
#define KM_MAP_CONTROL_H

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

#include "format/layout.h"

#define KM__CONTROL_MAGIC UINT64_C(0x315f4c5254434d4b) /* "KMCTRL_1" */
#define KM__NO_PIN UINT64_MAX
#define KM__SLOTS 832u
#define KM__LINE 64

struct km__slot {
    _Atomic uint64_t pin;           /* generation that must not change under its holder, or KM__NO_PIN */
    _Atomic uint64_t waiter;        /* name of its os_waiter */
    _Atomic uint64_t process_start; /* for display only: locks tell who lives */
    _Atomic uint64_t attached_ns;
    _Atomic uint32_t process_id;
    _Atomic uint32_t waiting; /* 1: may be asleep */
    unsigned char padding[KM__LINE - 40];
};
static_assert(sizeof(struct km__slot) == KM__LINE, "a slot has a cache line of its own");

#define KM__WORD _Alignas(KM__LINE) _Atomic

struct km__control {
    KM__WORD uint64_t magic;
    _Atomic uint64_t epoch; /* random, never 0 while a session may live; changes with every rebuild */
    _Atomic uint32_t system;
    _Atomic uint32_t slot_limit; /* slots from here on were never used in this session */
    KM__WORD uint64_t appended;
    KM__WORD uint64_t durable;
    KM__WORD uint64_t visible;
    KM__WORD uint64_t target;
    KM__WORD uint64_t checkpointed;
    KM__WORD uint64_t geometry;
    KM__WORD uint32_t failed;
    KM__WORD uint32_t clean;
    KM__WORD uint32_t writer_wanted;
    KM__WORD uint32_t checkpoint_wanted;
    KM__WORD uint32_t sync_wanted;
    KM__WORD uint64_t header_durable;
    KM__WORD uint64_t sync_began;
    _Atomic uint64_t sync_ended;
    _Atomic uint64_t suspect;
    _Atomic uint32_t file_mark;
    KM__WORD uint32_t holder;
    _Atomic uint32_t unsure;
    _Atomic uint64_t boot[2];
    KM__WORD uint64_t waiting[KM__SLOTS / 64]; /* see wait.c */
    _Alignas(KM__PAGE) struct km__slot slot[KM__SLOTS];
};
static_assert(sizeof(struct km__control) == KM__CONTROL_SIZE, "control fills its region");
static_assert(KM__SLOTS % 64 == 0, "a bit for each slot");
static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "atomics that work between processes");

/** Raise a counter to at least `value`. */
static inline void km__raise(_Atomic uint64_t *counter, uint64_t value) {
    uint64_t seen = atomic_load_explicit(counter, memory_order_relaxed);
    while (seen < value &&
           !atomic_compare_exchange_weak_explicit(counter, &seen, value, memory_order_release, memory_order_relaxed)) {
    }
}

static inline uint64_t km__load(const _Atomic uint64_t *counter) {
    return atomic_load_explicit(counter, memory_order_acquire);
}

/** How many slots have to be looked at, whatever the word says. */
static inline uint32_t km__slot_limit(const struct km__control *control) {
    const uint32_t limit = atomic_load_explicit(&control->slot_limit, memory_order_acquire);
    return limit < KM__SLOTS ? limit : KM__SLOTS;
}

#endif
