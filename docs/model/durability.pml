/* SPDX-License-Identifier: MIT
 *
 * durability.pml: what was acknowledged survives the death of any process, of all processes, and of the power.
 *
 * Roles: Writer (1 or 2: durable and lazy commits, adoption of a dead writer's frame, the shared sync, the fast path),
 * Checkpointer (in progress to P, finished, clean of what a dead one left), Attacher (the first to attach: recovery),
 * and the world: Death of single processes, Disk (write-back that fails, pages that are thrown out of the page cache),
 * Power (a cut at every state), Crash (all processes at once, with or without the power).
 *
 * The disk. Every item (a cell of home, a frame, a header slot) has what the page cache shows, what the disk holds, and a
 * dirty bit. A sync moves the dirty ones. A write-back that fails leaves the disk old or torn and the item *clean*: a later
 * sync succeeds and moves nothing. Every descriptor that was open is told once, by its next sync; a descriptor opened
 * later is told only if nobody was told before (Linux, errseq_t). A clean item that differs may be thrown out of the cache
 * at any time; then the cache shows what the disk holds.
 *
 * Frames form a tree: each knows its parent (that is the chain), so that commits made after a power cut are not mistaken
 * for those that the cut took away.
 *
 * Promises (assertions):
 *   CRASH     after the death of processes the newest complete frame is recovered, also if it was never synced
 *   POWER     at every state, whatever subset of unsynced items the power leaves: recovery finds a state that is exactly
 *             one commit, and every acknowledged durable commit is in it
 *   NO ALARM  recovery never reports damage when nothing is damaged
 *   ROT       with one frame of the ring unreadable, recovery reports damage or finds exactly one commit, never a mixture;
 *             with one slot unreadable and none being written, it finds all that POWER promises
 *   FRAMES    the frames that a checkpoint needs can be read
 *
 * Rules, by the switch that takes each one out (a run with it must find an error):
 *   NO_ADOPTION        a writer does not adopt a complete frame that its dead writer did not publish
 *   OWN_RANGE          a sync covers only the committer's own frame
 *   DURABLE_NOT_MAX    `visible` and `durable` are stored, not raised
 *   NO_JOURNAL_SYNC    a checkpoint does not sync the journal first, and goes up to `visible`
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
 *   NO_SYNC_MARK       nobody notices that the last one in the sync died there, perhaps between a failure and the poison
 *   FAST_UNORDERED     the fast path is taken though earlier frames are not durable
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
#define MAX(a, b) ((a) > (b) -> (a) : (b))

/* ---- commits (ghost, but for the frame's own fields generation, parent and durable) ---- */
#define CELLS 3 /* cells 0 and 1 stand on page 0, cell 2 on page 1; a value is the number of the commit that set it */
byte commits;
byte parent[K + 1];
byte generation[K + 1];
byte known_durable[K + 1];
byte state[(K + 1) * CELLS];
#define S(k, c) state[(k) * CELLS + (c)]
byte acknowledged; /* newest commit that a durable km_commit() returned for */
byte published;    /* newest generation that any process could see */

/* ---- page cache and disk ---- */
#define ITEMS (CELLS + RS + 2)
#define FRAME(g) (CELLS + (g) % RS)
#define SLOT(i) (CELLS + RS + (i))
#define TORN 0 /* a slot that is no header; for a frame: no frame */
/* A slot's value is an index into what was ever written to a slot; 0 is torn. */
#ifndef SLOTS
#define SLOTS 24
#endif
byte slot_sequence = 2; /* of the newest slot ever written: sequence and index are the same number */
byte slot_at[SLOTS], slot_to[SLOTS]; /* commit that home is at, generation that it is brought to */
byte slot_sq[SLOTS];
byte cache[ITEMS], disk[ITEMS];
short dirty;
#define BIT(i) (1 << (i))
#define JOURNAL (((1 << RS) - 1) << CELLS)
#define EVERYTHING ((1 << ITEMS) - 1)

byte told;   /* descriptors that have an error to report, a bit each */
bool untold; /* an error that nobody has been told */
#define CHECKPOINTER 0
#define ATTACHER 3
#define OPEN(h) told = (untold -> told | BIT(h) : told & (255 - BIT(h)))

/* What the disk holds after a write that is overwritten before a sync: the old bytes, or those overwritten. */
inline put(item, value) {
    if
    :: dirty & BIT(item) -> if :: disk[item] = cache[item] :: skip fi
    :: else
    fi;
    cache[item] = value;
    dirty = dirty | BIT(item)
}

byte x; /* scratch of one step */

/* `failed` becomes 1 if this descriptor has an error to report. */
inline sync(h, items) {
    d_step {
        if
        :: told & BIT(h) -> told = told & (255 - BIT(h)); untold = 0; failed = 1
        :: else ->
            failed = 0; x = 0;
            do
            :: x < ITEMS -> if :: dirty & BIT(x) & (items) -> disk[x] = cache[x]; dirty = dirty & (65535 - BIT(x)) :: else fi; x++
            :: else -> break
            od;
            x = 0
        fi
    }
}

/* ---- control ---- */
byte appended, durable, visible, checkpointed;
byte head; /* commit of frame `appended`: what a walk finds */
byte header_durable = 2; /* newest sequence known to be durable */
bool poison;
bool journal_mark, file_mark; /* somebody is in a sync of the journal, of the file, or died there */
byte suspect; /* frames up to here may be lost though a sync succeeds: they are written again before */
byte writer_lock, checkpoint_lock, sync_lock; /* who holds it, 9: nobody */
#define FREE 9
bool up = 1; /* the session lives; while it is not, the Attacher works */
bool dies[4];

#define NEWER_SLOT (cache[SLOT(0)] != TORN && (cache[SLOT(1)] == TORN || slot_sq[cache[SLOT(0)]] > slot_sq[cache[SLOT(1)]]) -> 0 : 1)
#define NEWEST cache[SLOT(NEWER_SLOT)]

c_decl {
\#define KM_NONE (-1)   /* no valid slot */
\#define KM_DAMAGE (-2) /* damage is reported */
};
c_code {
/* What recovery makes of a disk: the number of the commit that it finds, or an error. `mixed`: it is not that commit. */
static int recover(const unsigned char *items, int *mixed)
{
    const unsigned char *ring = items + CELLS, a = items[CELLS + RS], b = items[CELLS + RS + 1];
    *mixed = 0;
    if (a == 0 && b == 0)
        return KM_NONE;
    const int slot = a == 0 ? b : b == 0 ? a : now.slot_sq[a] > now.slot_sq[b] ? a : b;
    const int at = now.slot_at[slot];
    int n = at;
    for (;;) {
        const int next = ring[(now.generation[n] + 1) % RS];
        if (next == 0 || now.parent[next] != n)
            break;
        n = next;
    }
\#ifndef NO_MARK
    if (now.generation[n] < now.slot_to[slot])
        return KM_DAMAGE;
\#endif
    for (int i = 0; i < RS; i++)
        if (ring[i] != 0 && now.known_durable[ring[i]] > now.generation[n])
            return KM_DAMAGE;
    for (int c = 0; c < CELLS; c++) {
        const int writer = now.state[n * CELLS + c];
        const int in_frames = now.generation[writer] > now.generation[at];
        if (!in_frames && items[c] != writer)
            *mixed = 1;
    }
    return n;
}

/* Is commit `old` the commit `n`, or one that it builds on? */
static int contains(int n, int old)
{
    while (now.generation[n] > now.generation[old])
        n = now.parent[n];
    return n == old;
}

static int keeps_promise(const unsigned char *items)
{
    int mixed;
    const int n = recover(items, &mixed);
    return n >= 0 && !mixed && contains(n, now.acknowledged);
}

/* The disk after a power cut is one of the many that `items` stands for, from item i on. */
static int any_disk_keeps_promise(unsigned char *items, int i)
{
    if (i == ITEMS) {
        int mixed;
        const int both = items[CELLS + RS] != 0 && items[CELLS + RS + 1] != 0 && now.dirty >> (CELLS + RS) == 0;
        if (!keeps_promise(items))
            return 0;
        for (int f = CELLS; f < CELLS + RS; f++) { /* ROT of a frame */
            const unsigned char kept = items[f];
            items[f] = 0;
            const int n = recover(items, &mixed);
            items[f] = kept;
            if (n != KM_DAMAGE && mixed)
                return 0;
        }
        for (int s = CELLS + RS; s < ITEMS && both; s++) { /* ROT of a slot */
            const unsigned char kept = items[s];
            items[s] = 0;
            const int kept_promise = keeps_promise(items) || now.trouble; /* a slot may be lost already */
            items[s] = kept;
            if (!kept_promise)
                return 0;
        }
        return 1;
    }
    items[i] = now.disk[i];
    if (!any_disk_keeps_promise(items, i + 1))
        return 0;
    if (now.dirty >> i & 1) {
        if (now.cache[i] != now.disk[i]) {
            items[i] = now.cache[i];
            if (!any_disk_keeps_promise(items, i + 1))
                return 0;
        }
        if (i >= CELLS && (now.cache[i] != now.disk[i])) {
            items[i] = 0; /* torn */
            if (!any_disk_keeps_promise(items, i + 1))
                return 0;
        }
    }
    return 1;
}

static int power_may_fail_here(void)
{
    unsigned char items[ITEMS];
    return any_disk_keeps_promise(items, 0);
}
};
bool trouble; /* a write-back has failed */
bool bad;

/* ---- the sync of the journal, by whoever needs it ---- */

/* With SYNC held. `done` becomes 1 if frames up to generation n are durable and published. */
inline sync_journal(h) {
    n = appended; /* read once: what is written again and what is published must be the same frames */
#ifndef NO_SYNC_MARK
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
    journal_mark = 1;
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
        visible = n;
        atomic { durable = n; done = 1 }
#else
        visible = MAX(visible, n);
        atomic { durable = MAX(durable, n); done = 1 }
#endif
        atomic { if :: suspect <= durable -> suspect = 0 :: else fi; if :: careful <= durable -> careful = 0 :: else fi }
    fi;
    journal_mark = 0;
    n = 0
}

/* Another handle comes in a dead one's place: it opens a descriptor of its own, then looks whether anybody is in a sync. */
#define OPEN_ANEW(h) \
    if \
    :: reborn -> OPEN(h); careful = (journal_mark || file_mark || suspect -> MAX(suspect, appended + 1) : 0); reborn = 0 \
    :: else \
    fi;

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
            base = generation[slot_at[NEWEST]]; walks = 0;
            i = base + 1;
            do
            :: i <= appended -> if :: cache[FRAME(i)] == TORN || generation[cache[FRAME(i)]] != i -> poison = 1 :: else fi; i++
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
            journal_mark = 1;
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
            journal_mark = 0;
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
                forget_writer(); base = 0; reborn = 1; walks = 1; careful = 0; dies[h] = 0 }
        }
    od
}

/* ---- the checkpointer ---- */

/* Write a slot: always the older one, with the next sequence. */
inline write_slot(commit, target) {
    atomic {
        slot_sequence++;
        assert(slot_sequence < SLOTS);
        slot_sq[slot_sequence] = slot_sq[NEWEST] + 1;
        slot_at[slot_sequence] = commit; slot_to[slot_sequence] = target;
#ifdef ANY_SLOT
        if :: i = NEWER_SLOT :: i = 1 - NEWER_SLOT fi;
#else
        i = 1 - NEWER_SLOT;
#endif
        put(SLOT(i), slot_sequence);
        i = 0
    }
}

inline write_cell(c) {
#ifdef SKIP_EQUAL
    atomic { if :: generation[S(to, c)] > checkpointed && cache[c] != S(to, c) -> put(c, S(to, c)) :: else fi }
#else
    atomic { if :: generation[S(to, c)] > checkpointed -> put(c, S(to, c)) :: else -> put(c, cache[c]) fi }
#endif
}

inline forget_checkpointer() { G = 0; i = 0; to = 0; n = 0; done = 0; failed = 0; w0 = 0; w1 = 0; w2 = 0; t0 = 0; t1 = 0; mine = 0 }

/* `checkpointed` is published only when both slots say so. */
#if defined(ONE_SLOT) || defined(ONE_SLOT_TAKEOVER) || defined(NO_SLOT_SYNC)
#define BRING_OTHER_SLOT(h, or_else) skip;
#else
#define BRING_OTHER_SLOT(h, or_else) \
    if \
    :: slot_at[cache[SLOT(0)]] != slot_at[cache[SLOT(1)]] || cache[SLOT(0)] == TORN || cache[SLOT(1)] == TORN -> \
        write_slot(slot_at[NEWEST], slot_to[NEWEST]); \
        file_mark = 1; \
        sync(h, EVERYTHING); \
        if :: failed -> STORE_POISON; file_mark = 0; or_else :: else fi; \
        file_mark = 0; \
        header_durable = slot_sq[NEWEST] \
    :: else \
    fi;
#endif

#define SYNC_FILE \
    file_mark = 1; \
    sync(CHECKPOINTER, EVERYTHING); \
    if :: failed -> STORE_POISON; file_mark = 0; goto give_up :: else fi; \
    file_mark = 0;
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
        atomic { up && checkpoint_lock == FREE && !poison && (appended > checkpointed || generation[slot_at[NEWEST]] > checkpointed) ->
            checkpoint_lock = CHECKPOINTER }
#ifndef NO_SYNC_MARK
        if :: file_mark -> suspect = MAX(suspect, appended + 1); file_mark = 0 :: else fi;
#endif
        if /* what a dead checkpointer finished is made durable and published */
#ifdef NO_SLOT_REPAIR
        :: generation[slot_at[NEWEST]] > checkpointed ->
            SYNC_FILE
#elif defined(SYNC_ONLY_REPAIR)
        :: slot_sq[NEWEST] != header_durable ->
            SYNC_FILE
            header_durable = slot_sq[NEWEST]
#else
        :: slot_sq[NEWEST] != header_durable ->
            atomic { put(SLOT(NEWER_SLOT), NEWEST) }
            SYNC_FILE
            header_durable = slot_sq[NEWEST]
#endif
        :: else
        fi;
        BRING_OTHER_SLOT(CHECKPOINTER, goto give_up)
        checkpointed = generation[slot_at[NEWEST]];
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
        :: G <= checkpointed || G < slot_to[NEWEST]
        :: G > checkpointed && G >= slot_to[NEWEST] ->
            d_step {
                i = checkpointed + 1;
                do
                :: i <= G ->
                    to = cache[FRAME(i)];
                    assert(to != TORN && generation[to] == i && parent[to] == (i == checkpointed + 1 -> slot_at[NEWEST] : mine)); /* FRAMES */
                    mine = to;
                    t0 = t0 || S(to, 0) == to || S(to, 1) == to; t1 = t1 || S(to, 2) == to;
                    i++
                :: else -> i = 0; mine = 0; break
                od
            }
            write_slot(slot_at[NEWEST], G);
#ifndef NO_MARK_SYNC
            SYNC_FILE
            header_durable = slot_sq[NEWEST];
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
            write_slot(to, G);
#ifndef NO_SLOT_SYNC
            SYNC_FILE
            header_durable = slot_sq[NEWEST];
#endif
#ifndef ONE_SLOT
            write_slot(to, G);
#ifndef NO_SLOT_SYNC
            SYNC_FILE
            header_durable = slot_sq[NEWEST];
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
                forget_checkpointer(); reborn = 1; careful = 0; dies[CHECKPOINTER] = 0 }
        }
    od
}

/* ---- the world ---- */

byte deaths, crashes, cuts, failures;

proctype Death() {
    do
    :: atomic { up && deaths < DEATHS && !dies[CHECKPOINTER] && checkpoint_lock == CHECKPOINTER -> deaths++; dies[CHECKPOINTER] = 1 }
    :: atomic { up && deaths < DEATHS && !dies[1] && (writer_lock == 1 || sync_lock == 1) -> deaths++; dies[1] = 1 }
#if WRITERS > 1
    :: atomic { up && deaths < DEATHS && !dies[2] && (writer_lock == 2 || sync_lock == 2) -> deaths++; dies[2] = 1 }
#endif
    od
}

proctype Disk() {
    do
    :: atomic { failures < FAILURES && dirty != 0 -> /* one item, or all, do not reach the disk */
        failures++; told = 15; untold = 1; trouble = 1;
        if
        :: x = 0;
            do
            :: x < ITEMS - 1 && !(dirty & BIT(x)) -> x++
            :: x < ITEMS - 1 && (dirty & BIT(x)) -> if :: x++ :: break fi
            :: else -> break
            od;
            if :: x >= CELLS && (dirty & BIT(x)) && disk[x] != cache[x] -> if :: disk[x] = TORN :: skip fi :: else fi;
            dirty = dirty & (65535 - BIT(x))
        :: dirty = 0
        fi;
        x = 0 }
    :: atomic { trouble && x == 0 -> /* a page is thrown out of the cache */
        do
        :: x < ITEMS - 1 -> x++
        :: break
        od;
        if
        :: !(dirty & BIT(x)) && cache[x] != disk[x] -> cache[x] = disk[x]
        :: else
        fi;
        x = 0 }
    od
}

proctype Power() {
    do
    :: d_step { c_code { if (!power_may_fail_here()) now.bad = 1; }; assert(!bad) } /* POWER, NO ALARM, ROT */
    od
}

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
        :: atomic { cuts < CUTS -> cuts++; cut = 1;
            do
            :: x < ITEMS ->
                if
                :: dirty & BIT(x) -> if :: disk[x] = cache[x] :: skip :: x >= CELLS && disk[x] != cache[x] -> disk[x] = TORN fi
                :: else
                fi;
                cache[x] = disk[x]; x++
            :: else -> break
            od;
            x = 0; dirty = 0; told = 0; untold = 0 }
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
        i = generation[slot_at[slot]] + 1;
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
        if :: i = 0 :: crashes < CRASHES -> crashes++; goto attach fi; /* it dies, another comes */
        sync(ATTACHER, EVERYTHING);
        if :: failed -> goto attach :: else fi;
        BRING_OTHER_SLOT(ATTACHER, goto attach)
#endif
        atomic {
            checkpointed = generation[slot_at[NEWEST]]; header_durable = slot_sq[NEWEST];
            appended = generation[n]; head = n; visible = appended; durable = appended; published = appended;
            poison = 0; journal_mark = 0; file_mark = 0; suspect = 0; writer_lock = FREE; checkpoint_lock = FREE; sync_lock = FREE;
            told = 0; n = 0; slot = 0; slot_index = 0; cut = 0; up = 1;
            do :: i < RS -> kept[i] = 0; i++ :: else -> i = 0; break od
        }
    od
}

init {
    atomic {
        writer_lock = FREE; checkpoint_lock = FREE; sync_lock = FREE;
        slot_sq[1] = 1; slot_sq[2] = 2;
        cache[SLOT(0)] = 1; cache[SLOT(1)] = 2; disk[SLOT(0)] = 1; disk[SLOT(1)] = 2;
        run Writer(1);
#if WRITERS > 1
        run Writer(2);
#endif
        run Checkpointer(); run Death(); run Disk(); run Power(); run Attacher()
    }
}
