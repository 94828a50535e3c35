/* SPDX-License-Identifier: MIT
 *
 * durability.pml: what was acknowledged survives the death of any process, of all processes, and of the power.
 *
 * Roles: Writer (1 or 2: durable and lazy commits, adoption of a dead writer's frame, the shared sync, the fast path),
 * Checkpointer (in progress to P, finished, clean of what a dead one left), Attacher (the first to attach: recovery),
 * and the world: Death of single processes, Disk (write-back that fails, pages that are thrown out of the page cache),
 * Power (a cut at every state), Crash (all processes at once, with or without the power).
 *
 * The disk is disk.pml.
 *
 * Promises (assertions):
 *   CRASH     after the death of processes the newest complete frame is recovered, also if it was never synced
 *   POWER     at every state, whatever subset of unsynced items the power leaves: recovery finds a state that is
 *             exactly one commit, and every acknowledged durable commit is in it
 *   NO ALARM  recovery never reports damage when nothing is damaged
 *   ROT       with one frame of the ring unreadable, recovery reports damage or finds exactly one commit, never a
 *             mixture, nor an older one while another frame says that a later one was durable; with one slot unreadable
 *             and none being written, it finds all that POWER promises
 *   FRAMES    the frames that a checkpoint needs can be read
 *   MONOTONE  `visible` and `durable` never go back
 *
 * Rules, by the switch that takes each one out (a run with it must find an error):
 *   OWN_RANGE          a sync covers only the committer's own frame
 *   DURABLE_NOT_MAX    `visible` and `durable` are stored, not raised
 *   NO_JOURNAL_SYNC    a checkpoint does not sync the journal first, and goes up to `visible`
 *   NO_CHAIN           a frame counts if its generation is right, whatever commit it builds on
 *   NO_SEARCH          recovery does not look for frames that say that a later generation was durable
 *   NO_MARK_SYNC       home is written before "in progress" is durable
 *   NO_MARK            recovery ignores the P of a checkpoint in progress
 *   NO_HOME_SYNC       "at G" is written before home is durable
 *   ONE_SLOT           `checkpointed` is published when one slot says "at G"
 *   ONE_SLOT_TAKEOVER  the same, only when a dead one's checkpoint is published by the next one or by recovery
 *   NO_SLOT_SYNC       `checkpointed` is published before the slots are durable
 *   ANY_SLOT           "at G" goes to the slot that was not chosen by age: the newest one
 *   NO_SLOT_REPAIR     the newest slot is not written again before the other one is overwritten, though it is not known
 *                      to be durable
 *   SYNC_ONLY_REPAIR   the same, but a bare sync instead of writing the slot again
 *   SKIP_EQUAL         a checkpoint does not write pages that look equal
 *   UNWALKED_FREE      a writer that started from a slot "at b" uses frames up to b before `checkpointed` is b
 *   NO_RECOVERY_SYNC   recovery counts what it adopts as durable without a sync
 *   NO_RECOVERY_WRITE  recovery syncs what it adopts without writing it again
 *   REREAD             recovery writes again what the cache shows then, not the copies that it judged
 *   NO_POISON          a failed sync is an error of its caller only
 *   NO_SYNC_MARK       nobody notices that the last one in the sync died there, perhaps between a failure and the
 *                      poison
 *   FAST_UNORDERED     the fast path is taken though earlier frames are not durable
 *
 * Not needed for these promises (a run with it finds no error; README.md says why they stay):
 *   NO_ADOPTION        a writer does not adopt a complete frame that its dead writer did not publish (ring.pml needs
 *                      it)
 *   FAST_NO_SYNC_LOCK  the fast path does not hold SYNC
 *
 * Sizes: K commits in all (lost ones included), RS frames in the ring, WRITERS, DEATHS, CRASHES, CUTS of power that the
 * model goes on from, FAILURES of write-back. -DCOARSE_WRITER, -DCOARSE_CHECKPOINTER: see snapshot.pml.
 */
#ifndef K
#define K 3
#endif
#ifndef RS
#define RS 2
#endif
#ifndef WRITERS
#define WRITERS 1
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef FAILURES
#define FAILURES 0
#endif
#ifdef COARSE_WRITER
#define WRITER_STEPS atomic
#else
#define WRITER_STEPS
#endif
#ifdef COARSE_CHECKPOINTER
#define CHECKPOINTER_STEPS atomic
#else
#define CHECKPOINTER_STEPS
#endif
/* The marks matter only where a write-back can fail: without that they are left out, to keep the runs small. */
#if FAILURES > 0
#define MARK(mark, value) mark = value;
#else
#define MARK(mark, value)
#endif
#define MAX(a, b) ((a) > (b) -> (a) : (b))

#include "disk.pml"

/* ---- control ---- */
byte appended, durable, visible, checkpointed;
byte head; /* commit of frame `appended`: what a walk finds */
bool poison;
bool journal_mark, file_mark; /* somebody is in a sync of the journal, of the file, or died there */
byte suspect; /* frames up to here may be lost though a sync succeeds: they are written again before */
byte writer_lock, checkpoint_lock, sync_lock; /* who holds it, 9: nobody */
#define FREE 9
bool up = 1; /* the session lives; while it is not, the Attacher works */
bool dies[4];

/* ---- the sync of the journal, by whoever needs it ---- */

/* With SYNC held. `done` becomes 1 if frames up to generation n are durable and published. */
inline sync_journal(h) {
    n = appended; /* read once: what is written again and what is published must be the same frames */
#if FAILURES > 0 && !defined(NO_SYNC_MARK)
    /* Whoever was in here last died, perhaps after it was told of an error. A frame that a writer has in hand just now
     * may be concerned as well. */
    if :: journal_mark -> suspect = appended + 1 :: else fi;
    if
    :: suspect > durable || careful > durable ->
        i = durable + 1;
        do
        :: i <= n && i <= MAX(suspect, careful) ->
            atomic {
                if
                :: cache[FRAME(i)] != TORN && generation[cache[FRAME(i)]] == i -> put(FRAME(i), cache[FRAME(i)]); i++
                :: else -> poison = 1; break
                fi
            }
        :: else -> break
        od;
        i = 0
    :: else
    fi;
#endif
    MARK(journal_mark, 1)
    done = 0;
    if
    :: poison -> failed = 1
    :: else ->
#ifdef OWN_RANGE
        sync(h, BIT(FRAME(mine)));
#else
        sync(h, JOURNAL);
#endif
    fi;
    if
    :: failed ->
#ifndef NO_POISON
        poison = 1;
#endif
        failed = 0
    :: else ->
#ifdef DURABLE_NOT_MAX
        atomic { assert(n >= visible); visible = n } /* MONOTONE */
        atomic { assert(n >= durable); durable = n; done = 1 }
#else
        visible = MAX(visible, n);
        atomic { durable = MAX(durable, n); done = 1 }
#endif
#if FAILURES > 0
        atomic {
            if :: suspect <= durable -> suspect = 0 :: else fi;
            if :: careful <= durable -> careful = 0 :: else fi
        }
#endif
    fi;
    MARK(journal_mark, 0)
    n = 0
}

/* Another handle comes in a dead one's place: it opens a descriptor, then looks whether anybody is in a sync. */
#if FAILURES == 0
#define OPEN_ANEW(h)
#else
#define OPEN_ANEW(h) \
    if \
    :: reborn -> \
        OPEN(h); \
        careful = (journal_mark || file_mark || suspect -> MAX(suspect, appended + 1) : 0); \
        reborn = 0 \
    :: else \
    fi;
#endif

/* ---- writers ---- */

inline new_commit(base) {
    commits++;
    parent[commits] = base;
    generation[commits] = generation[base] + 1;
    known_durable[commits] = durable;
    S(commits, 0) = S(base, 0); S(commits, 1) = S(base, 1); S(commits, 2) = S(base, 2);
    if
    :: S(commits, 0) = commits
    :: S(commits, 1) = commits; S(commits, 2) = commits
    fi
}

inline forget_writer() { mine = 0; n = 0; i = 0; me = 0; done = 0; failed = 0 }

proctype Writer(byte h) {
    byte base, mine, me, n, i, careful;
    bool done, failed, reborn, walks;
    do
    :: { WRITER_STEPS {
        OPEN_ANEW(h)
        atomic { up && writer_lock == FREE && !poison && commits < K -> writer_lock = h }
        /* Another handle in a dead one's place starts to walk from the newest slot. */
        if
        :: walks -> atomic {
            base = generation[header_at[NEWEST]]; walks = 0;
            i = base + 1;
            do
            :: i <= appended ->
                if :: cache[FRAME(i)] == TORN || generation[cache[FRAME(i)]] != i -> poison = 1 :: else fi;
                i++
            :: else -> i = 0; break
            od }
        :: else
        fi;
#ifndef NO_ADOPTION
        if
        :: atomic { cache[FRAME(appended + 1)] != TORN && parent[cache[FRAME(appended + 1)]] == head &&
                    generation[cache[FRAME(appended + 1)]] == appended + 1 ->
#ifndef NO_SYNC_MARK
            put(FRAME(appended + 1), cache[FRAME(appended + 1)]);
#endif
            head = cache[FRAME(appended + 1)] }
            atomic { appended++; published = MAX(published, appended) }
        :: else
        fi;
#endif
        if /* room in the ring */
        :: appended + 1 <= RS
        :: appended + 1 > RS && appended + 1 - RS > base && checkpointed >= appended + 1 - RS
#ifdef UNWALKED_FREE
        :: appended + 1 > RS && appended + 1 - RS <= base
#else
        :: appended + 1 > RS && appended + 1 - RS <= base && checkpointed >= base
#endif
        :: poison
        fi;
        if
        :: poison || commits == K -> writer_lock = FREE
#ifdef FAST_UNORDERED
        :: atomic { !poison && commits < K && sync_lock == FREE -> sync_lock = h }
#elif defined(FAST_NO_SYNC_LOCK)
        :: !poison && commits < K && durable == appended ->
#else
        :: atomic { !poison && commits < K && durable == appended && sync_lock == FREE -> sync_lock = h }
#endif
            /* The fast path: one durable write. */
            MARK(journal_mark, 1)
            atomic { put(FRAME(appended + 1), TORN) }
            atomic { new_commit(head); me = commits; put(FRAME(appended + 1), commits) }
            sync(h, BIT(FRAME(appended + 1)));
            if
            :: failed ->
#ifndef NO_POISON
                poison = 1;
#endif
                failed = 0
            :: else ->
                atomic { appended++; head = me; mine = appended; published = MAX(published, appended) }
                visible = MAX(visible, mine);
                durable = MAX(durable, mine);
                acknowledged = MAX(acknowledged, me)
            fi;
            MARK(journal_mark, 0)
#ifndef FAST_NO_SYNC_LOCK
            sync_lock = FREE;
#endif
            writer_lock = FREE
        :: !poison && commits < K ->
            atomic { put(FRAME(appended + 1), TORN) }
            atomic { new_commit(head); me = commits; put(FRAME(appended + 1), commits) }
            atomic { appended++; head = me; mine = appended; published = MAX(published, appended) }
            writer_lock = FREE;
            if
            :: visible = MAX(visible, mine) /* a lazy commit */
            :: atomic { sync_lock == FREE -> sync_lock = h }
                if
                :: durable >= mine -> done = 1
                :: else -> sync_journal(h)
                fi;
                sync_lock = FREE;
                atomic { if :: done -> acknowledged = MAX(acknowledged, me) :: else fi }
            fi
        fi;
        atomic { forget_writer() } }
        } unless {
            atomic { dies[h] ->
                if :: writer_lock == h -> writer_lock = FREE :: else fi;
                if :: sync_lock == h -> sync_lock = FREE :: else fi;
                forget_writer(); base = 0; reborn = (FAILURES > 0); walks = 1; careful = 0; dies[h] = 0 }
        }
    od
}

/* ---- the checkpointer ---- */

inline write_cell(c) {
#ifdef SKIP_EQUAL
    atomic { if :: generation[S(to, c)] > checkpointed && cache[c] != S(to, c) -> put(c, S(to, c)) :: else fi }
#else
    atomic { if :: generation[S(to, c)] > checkpointed -> put(c, S(to, c)) :: else -> put(c, cache[c]) fi }
#endif
}

inline forget_checkpointer() {
    G = 0; i = 0; to = 0; n = 0; mine = 0; done = 0; failed = 0; w0 = 0; w1 = 0; w2 = 0; t0 = 0; t1 = 0
}

/* `checkpointed` is published only when both slots say so. */
#if defined(ONE_SLOT) || defined(ONE_SLOT_TAKEOVER) || defined(NO_SLOT_SYNC)
#define BRING_OTHER_SLOT(h, or_else) skip;
#else
#define BRING_OTHER_SLOT(h, or_else) \
    if \
    :: SLOTS_DIFFER -> \
        write_slot(header_at[NEWEST], header_to[NEWEST], 0); \
        MARK(file_mark, 1) \
        sync(h, NEW_SLOT); \
        if :: failed -> STORE_POISON; MARK(file_mark, 0) or_else :: else fi; \
        MARK(file_mark, 0) \
        header_durable = NEWEST \
    :: else \
    fi;
#endif

#define SYNC_ITEMS(items) \
    MARK(file_mark, 1) \
    sync(CHECKPOINTER, items); \
    if :: failed -> STORE_POISON; MARK(file_mark, 0) goto give_up :: else fi; \
    MARK(file_mark, 0)
#define SYNC_FILE SYNC_ITEMS(EVERYTHING)
#define SYNC_SLOT SYNC_ITEMS(NEW_SLOT)
#ifdef NO_POISON
#define STORE_POISON skip
#else
#define STORE_POISON poison = 1
#endif

proctype Checkpointer() {
    byte G, i, n, to, mine, careful;
    bool done, failed, w0, w1, w2, t0, t1, reborn;
    do
    :: { CHECKPOINTER_STEPS {
        OPEN_ANEW(CHECKPOINTER)
        atomic { up && checkpoint_lock == FREE && !poison &&
                 (appended > checkpointed || generation[header_at[NEWEST]] > checkpointed) ->
            checkpoint_lock = CHECKPOINTER }
#if FAILURES > 0 && !defined(NO_SYNC_MARK)
        if :: file_mark -> suspect = MAX(suspect, appended + 1); file_mark = 0 :: else fi;
#endif
        if /* what a dead checkpointer finished is made durable and published */
#ifdef NO_SLOT_REPAIR
        :: generation[header_at[NEWEST]] > checkpointed ->
            SYNC_FILE
#elif defined(SYNC_ONLY_REPAIR)
        :: NEWEST != header_durable ->
            SYNC_FILE
            header_durable = NEWEST
#else
        :: NEWEST != header_durable ->
            atomic { put(SLOT(NEWER_SLOT), NEWEST) }
            SYNC_SLOT
            header_durable = NEWEST
#endif
        :: else
        fi;
        BRING_OTHER_SLOT(CHECKPOINTER, goto give_up)
        checkpointed = generation[header_at[NEWEST]];
#ifdef NO_JOURNAL_SYNC
        G = visible;
#else
        if
        :: durable < appended ->
            atomic { sync_lock == FREE -> sync_lock = CHECKPOINTER }
            sync_journal(CHECKPOINTER);
            sync_lock = FREE;
            if :: done -> done = 0 :: else -> goto give_up fi
        :: else
        fi;
        G = durable;
#endif
        do :: G > checkpointed + 1 -> G-- :: break od; /* pins lower it */
        if
        :: G <= checkpointed || G < header_to[NEWEST]
        :: G > checkpointed && G >= header_to[NEWEST] ->
            d_step {
                i = checkpointed + 1;
                do
                :: i <= G ->
                    to = cache[FRAME(i)];
                    assert(to != TORN && generation[to] == i &&
                           parent[to] == (i == checkpointed + 1 -> header_at[NEWEST] : mine)); /* FRAMES */
                    mine = to;
                    t0 = t0 || S(to, 0) == to || S(to, 1) == to; t1 = t1 || S(to, 2) == to;
                    i++
                :: else -> i = 0; mine = 0; break
                od
            }
            write_slot(header_at[NEWEST], G, 0);
#ifndef NO_MARK_SYNC
            SYNC_SLOT
            header_durable = NEWEST;
#endif
            do
            :: t0 && !w0 -> write_cell(0); w0 = 1
            :: t0 && !w1 -> write_cell(1); w1 = 1
            :: t1 && !w2 -> write_cell(2); w2 = 1
            :: (!t0 || (w0 && w1)) && (!t1 || w2) -> break
            od;
#ifndef NO_HOME_SYNC
            SYNC_FILE
#endif
            write_slot(to, G, 0);
#ifndef NO_SLOT_SYNC
            SYNC_SLOT
            header_durable = NEWEST;
#endif
#ifndef ONE_SLOT
            write_slot(to, G, 0);
#ifndef NO_SLOT_SYNC
            SYNC_SLOT
            header_durable = NEWEST;
#endif
#endif
            checkpointed = G
        fi;
give_up: skip;
        atomic { checkpoint_lock = FREE; forget_checkpointer() } }
        } unless {
            atomic { dies[CHECKPOINTER] ->
                if :: checkpoint_lock == CHECKPOINTER -> checkpoint_lock = FREE :: else fi;
                if :: sync_lock == CHECKPOINTER -> sync_lock = FREE :: else fi;
                forget_checkpointer(); reborn = (FAILURES > 0); careful = 0; dies[CHECKPOINTER] = 0 }
        }
    od
}

/* ---- the world ---- */

byte deaths, crashes, cuts, failures;

proctype Death() {
    do
    :: atomic { up && deaths < DEATHS && !dies[CHECKPOINTER] && checkpoint_lock == CHECKPOINTER ->
        deaths++; dies[CHECKPOINTER] = 1 }
    :: atomic { up && deaths < DEATHS && !dies[1] && (writer_lock == 1 || sync_lock == 1) -> deaths++; dies[1] = 1 }
#if WRITERS > 1
    :: atomic { up && deaths < DEATHS && !dies[2] && (writer_lock == 2 || sync_lock == 2) -> deaths++; dies[2] = 1 }
#endif
    od
}

proctype Disk() {
    do
    :: atomic { failures < FAILURES && dirty != 0 -> failures++; fail_write_back() }
    :: atomic { trouble && x == 0 -> drop_page() }
    od
}

/* Another comes in the place of one that died while it recovered. */
#define IT_DIES if :: skip :: crashes < CRASHES -> crashes++; i = 0; goto attach fi;

/* All processes die; then somebody attaches first. */
proctype Attacher() {
    byte i, n, slot, slot_index;
    byte kept[RS]; /* private copies of the frames that were adopted */
    bool failed, cut;
    do
    :: atomic { up && crashes < CRASHES -> crashes++; up = 0 }
        atomic {
            dies[CHECKPOINTER] = 1; dies[1] = 1;
#if WRITERS > 1
            dies[2] = 1;
#endif
        }
        atomic { !dies[CHECKPOINTER] && !dies[1] && !dies[2] }
        if
        :: atomic { cuts < CUTS -> cuts++; cut = 1; cut_power() }
        :: skip
        fi;
attach:
        OPEN(ATTACHER);
        d_step {
            n = 0; failed = 0;
            c_code {
                int mixed;
                const int found = recover(now.cache, &mixed);
                if (found < 0 || mixed || !contains(found, now.acknowledged))
                    now.bad = 1;
                else
                    PAttacher->n = found;
            };
            assert(!bad);
            slot_index = NEWER_SLOT; slot = NEWEST;
            i = 0;
            do :: i < RS -> kept[i] = cache[CELLS + i]; i++ :: else -> i = 0; break od;
            assert(cut || trouble || generation[n] >= published) /* CRASH */
        }
#ifndef NO_RECOVERY_WRITE
        atomic { put(SLOT(slot_index), slot) }
#endif
#ifndef NO_RECOVERY_SYNC
        sync(ATTACHER, NEW_SLOT);
        if :: failed -> goto attach :: else fi;
        IT_DIES
        BRING_OTHER_SLOT(ATTACHER, goto attach)
        IT_DIES
#endif
#ifndef NO_RECOVERY_WRITE
        i = generation[header_at[NEWEST]] + 1;
        do
#ifdef REREAD
        :: i <= generation[n] -> atomic { put(FRAME(i), cache[FRAME(i)]); i++ }
#else
        :: i <= generation[n] -> atomic { put(FRAME(i), kept[i % RS]); i++ }
#endif
        :: else -> i = 0; break
        od;
#endif
#ifndef NO_RECOVERY_SYNC
        IT_DIES
        sync(ATTACHER, EVERYTHING);
        if :: failed -> goto attach :: else fi;
        IT_DIES
#endif
        atomic {
            checkpointed = generation[header_at[NEWEST]]; header_durable = NEWEST;
            appended = generation[n]; head = n; visible = appended; durable = appended; published = appended;
            poison = 0; journal_mark = 0; file_mark = 0; suspect = 0;
            writer_lock = FREE; checkpoint_lock = FREE; sync_lock = FREE;
            told = 0; n = 0; slot = 0; slot_index = 0; cut = 0; up = 1;
            do :: i < RS -> kept[i] = 0; i++ :: else -> i = 0; break od
        }
    od
}

init {
    atomic {
        writer_lock = FREE; checkpoint_lock = FREE; sync_lock = FREE;
        start_disk();
        run Writer(1);
#if WRITERS > 1
        run Writer(2);
#endif
        run Checkpointer(); run Death(); run Disk(); run Power(); run Attacher()
    }
}
