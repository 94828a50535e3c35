/* SPDX-License-Identifier: MIT
 *
 * live.pml: what the seal of a live map says, and who is told that a writer died.
 *
 * Roles: Handle (attaches, stores at any time, seals, holds WRITER, closes, or dies at any step), Verifier (a handle
 * without write permission that compares pages), Power, Disk (write-back fails). The page cache and the disk hold two
 * pages, their entries in the table, two header slots, and two words of control, each of which the kernel may write
 * back at any time: what is not synced is on the disk, or is not, or was there in a state before; a slot that is being
 * written may be garbled. A write-back that fails is as in disk.pml: what it should have written counts as clean, each
 * handle that is open is told once, by its next sync, and a later one only if nobody was told before.
 *
 * A slot says: clean (sealed, nobody attached), its sequence, the digest (here: both entries).
 *
 * Promises (assertions):
 *   NO ALARM  what power leaves, even with one of two good slots damaged, never is a header that says clean over a
 *             page that does not match its entry, or entries that do not match the digest: that would be damage to
 *             the eyes of verify. And no Verifier finds such a page beside others at work
 *   KEPT      what was stored before a seal began is on the disk when it has returned
 *   LOST      there always is a good slot
 *   TOLD      who gets WRITER is told, exactly if a holder of WRITER died inside, or power failed while the map was not
 *             closed clean, and nobody has committed since
 *
 * Rules, by the switch that takes each one out (a run with it must find an error):
 *   NO_UNSEAL       the first to attach leaves the flag
 *   UNSEAL_UNSYNCED it hands the pointer out before the disk knows that the flag is off
 *   UNSEAL_ONE_SLOT it takes the flag out of one slot
 *   DATA_UNSYNCED   a seal writes the header before the data and the table are synced
 *   NO_SYNC         a seal syncs the table, but not the data
 *   FLAG_ANY        a seal sets the flag while others are attached
 *   CLOSE_NO_ATTACH the last to close does not hold ATTACH
 *   SEAL_NO_LOCK    seals do not exclude each other
 *   NO_DOUBT_KEPT   the first to attach to a map that was not closed clean forgets that a sync failed in the session
 *                   before, or that somebody died who may have been told so: the seals of this one do not write all
 *                   pages and entries once more, the same bytes, so that a sync means something (with FAILURES)
 *   NO_SUSPICION    nor does a seal, though in this session somebody died with CHECKPOINT (with FAILURES)
 *   UNMARKED        the first to attach leaves no mark while it writes the header, which may be told of a failure too
 *                   (with FAILURES)
 *   ONE_LOOK        a Verifier does not look at the flag again after the page
 *   HOLDER_LATE     a writer leaves its mark after its first store
 *   HOLDER_KEPT     it takes its mark out after it has let go of WRITER
 *   ABORT_CLEARS    an abort takes out the mark of a dead writer
 *   MARK_DROPPED    the first to attach clears the mark that it finds
 *   BOOT_UNKNOWN    it believes the mark that it finds, whenever that was stored
 *   BOOT_FIRST      it says "of this start of the machine" before the mark is right
 *   MARK_LATE       it takes the flag out before the mark is right
 *   CLEAN_OVER_MARK the last to close sets the flag although the mark of a dead writer stands
 *
 * Sizes: HANDLES, LIVES of each, DEATHS, CUTS of power that the model goes on from, FAILURES of write-back, V stores to
 * each page, VERIFIERS (without CUTS). NO_TRANSACTIONS: nobody takes WRITER, so that more of the rest can be explored.
 */
#ifndef HANDLES
#define HANDLES 2
#endif
#ifndef LIVES
#define LIVES 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef V
#define V 1
#endif
#ifndef VERIFIERS
#define VERIFIERS 0
#endif
#ifndef FAILURES
#define FAILURES 0
#endif
#define FREE 255
#define BIT(i) (1 << (i))
#define WITHOUT(set, i) ((set) & (255 - BIT(i)))
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define MIN(a, b) ((a) < (b) -> (a) : (b))

/* ---- page cache and disk ---- */
#define PAGE(p) (p)
#define ENTRY(p) (2 + (p))
#define SLOT(i) (4 + (i))
#define HOLDER 6
#define BOOT 7
#define ITEMS 8
byte cache[ITEMS], disk[ITEMS]; /* what differs is dirty, but for */
byte lost;                      /* what was written back in vain: it counts as clean, and no sync writes it */
byte told;                      /* handles whose next sync reports that; each does so once */
bool untold;                    /* nobody has been told yet: who opens the file now will be */
#define OPEN(h) told = (untold -> told | BIT(h) : WITHOUT(told, h))

#define TORN 0
#define HEADER(sequence, clean, digest) (1 + (clean) + 2 * ((sequence) & 3) + 8 * (digest))
#define IS_CLEAN(slot) (((slot) - 1) & 1)
#define SEQUENCE(slot) ((((slot) - 1) >> 1) & 3)
#define DIGEST(slot) (((slot) - 1) >> 3)
#define DIGEST_OF(first, second) ((first) + 4 * (second))
#define NEWER_IS_B(a, b) ((b) != TORN && ((a) == TORN || ((SEQUENCE(b) - SEQUENCE(a)) & 3) == 1))
#define NEWEST_SLOT (NEWER_IS_B(cache[SLOT(0)], cache[SLOT(1)]) -> 1 : 0)
#define NEWEST cache[SLOT(NEWEST_SLOT)]

/* ---- locks ---- */
byte attach_lock = FREE, writer_lock = FREE, checkpoint_lock = FREE;
byte checkpoint_readers;
bool slot_locked[HANDLES];
#define OTHERS(h) (HANDLES > 1 && slot_locked[(1 - (h)) * (HANDLES > 1)])

/* Control, which the first to attach makes anew. */
byte header_durable;        /* the slot that is on the disk, + 1 */
bool poison;                /* a sync has failed */
bool mark;                  /* set while somebody has CHECKPOINT */
bool suspect;               /* one who had it died, and may have been told of a failure */
bool unsure;                /* the same, or a sync failed, in an earlier session; the first to attach leaves it so */

/* Ghost. */
byte boot = 1;              /* this start of the machine */
byte kept[2];               /* stores that were acknowledged as durable */
byte before[2 * HANDLES];   /* stores that the seal of a handle found */
#define BEFORE(h, p) before[2 * (h) + (p)]
bool inside[HANDLES];       /* between the mark, or the first store, and the end of a write transaction */
bool doubt;                 /* somebody died inside, or the power failed, and nobody has committed since */
bool dies[HANDLES];
bool trouble;               /* a write-back has failed */
byte broken;
#define BROKEN_LOST 1
#define BROKEN_KEPT 2
#define BROKEN_NO_ALARM 3

c_code {
#define KM_CLEAN(slot) (((slot) - 1) & 1)
#define KM_SEQUENCE(slot) ((((slot) - 1) >> 1) & 3)

static int km_newest(int a, int b)
{
    return b != TORN && (a == TORN || ((KM_SEQUENCE(b) - KM_SEQUENCE(a)) & 3) == 1) ? b : a;
}

/* What verify says of such a disk, with this header. */
static int km_no_alarm(const unsigned char *items, int header)
{
    return !KM_CLEAN(header) || (items[0] == items[2] && items[1] == items[3] &&
                                 (header - 1) >> 3 == items[2] + 4 * items[3]);
}

static int km_broken(const unsigned char *items)
{
    const int header = km_newest(items[4], items[5]);
    if (header == TORN)
        return BROKEN_LOST;
    for (int p = 0; p < 2; p++)
        if (items[p] < now.kept[p])
            return BROKEN_KEPT;
    const int both = now.cache[4] == now.disk[4] && now.cache[5] == now.disk[5] && items[4] != TORN &&
                     items[5] != TORN && !now.trouble;
    if (!km_no_alarm(items, header) || (both && (!km_no_alarm(items, items[4]) || !km_no_alarm(items, items[5]))))
        return BROKEN_NO_ALARM;
    return 0;
}

/* The promise that a disk breaks, of the many that a power cut may leave, from item i on. */
static int km_any_disk(unsigned char *items, int i)
{
    if (i == 6) /* control is not looked at here */
        return km_broken(items);
    items[i] = now.disk[i];
    int broken = km_any_disk(items, i + 1);
    if (broken != 0 || now.cache[i] == now.disk[i] || (now.lost >> i & 1))
        return broken;
    items[i] = now.cache[i];
    broken = km_any_disk(items, i + 1);
    if (broken != 0 || i < 4)
        return broken;
    items[i] = TORN;
    return km_any_disk(items, i + 1);
}
};

/* What is overwritten before it was synced may be on the disk. */
inline put(item, value) {
    if
    :: cache[item] != disk[item] && cache[item] != (value) && !(lost & BIT(item)) ->
        if :: disk[item] = cache[item] :: skip fi
    :: else
    fi;
    cache[item] = value; lost = WITHOUT(lost, item)
}

/* `failed` becomes 1 if this handle has a failure to report. */
inline sync(from, to) {
    d_step {
        if
        :: told & BIT(h) -> told = WITHOUT(told, h); untold = 0; failed = 1
        :: else ->
            i = from;
            do
            :: i <= to -> if :: !(lost & BIT(i)) -> disk[i] = cache[i] :: else fi; i++
            :: else -> break
            od
        fi;
        i = 0
    }
}
#define sync_file() sync(0, ITEMS - 1)

/* One durable write of the older slot, the newest being made durable before if it is not known to be. */
inline store_slot(clean, digest) {
#if FAILURES > 0
    atomic {
        x = NEWEST_SLOT;
        if :: !failed && header_durable != x + 1 -> put(SLOT(x), cache[SLOT(x)]) :: else fi;
        x = 0
    }
#endif
    atomic {
        x = NEWEST_SLOT;
        if :: !failed && header_durable != x + 1 -> sync(SLOT(x), SLOT(x)) :: else fi;
        if :: !failed -> header_durable = x + 1 :: else fi
    }
    atomic {
        if
        :: !failed -> put(SLOT(1 - x), HEADER(SEQUENCE(cache[SLOT(x)]) + 1, clean, digest))
        :: else
        fi
    }
    atomic {
        if :: !failed -> sync(SLOT(1 - x), SLOT(1 - x)) :: else fi;
        if :: !failed -> header_durable = 2 - x :: else fi;
        x = 0
    }
}

/* Pages and entries become dirty once more, with the bytes that they have. */
inline rewrite() {
    atomic { put(PAGE(0), cache[PAGE(0)]); put(PAGE(1), cache[PAGE(1)]) }
    atomic { put(ENTRY(0), cache[ENTRY(0)]); put(ENTRY(1), cache[ENTRY(1)]) }
}

/* The first to attach: control, then the header. */
inline set_mark() {
#ifdef BOOT_UNKNOWN
    atomic { put(BOOT, boot) }
#else
    if
    :: cache[BOOT] != boot ->
#ifdef BOOT_FIRST
        atomic { put(BOOT, boot) }
        atomic { put(HOLDER, 1 - clean) }
#else
        atomic { put(HOLDER, 1 - clean) }
        atomic { put(BOOT, boot) }
#endif
    :: else
#ifdef MARK_DROPPED
        -> atomic { put(HOLDER, 0) }
#endif
    fi
#endif
}

inline rebuild() {
    clean = IS_CLEAN(NEWEST);
#if FAILURES > 0 && !defined(NO_DOUBT_KEPT)
    atomic {
        if
        :: clean || cache[BOOT] != boot -> unsure = 0
        :: !clean && cache[BOOT] == boot -> unsure = unsure || poison || mark || suspect
        fi
    }
#endif
    atomic {
        header_durable = 0; poison = 0; suspect = 0;
#if FAILURES > 0 && !defined(UNMARKED)
        mark = 1;
#endif
        skip
    }
#ifndef MARK_LATE
    set_mark();
#endif
#ifdef NO_UNSEAL
    skip;
#elif defined(UNSEAL_UNSYNCED)
    atomic { x = NEWEST_SLOT; put(SLOT(1 - x), HEADER(SEQUENCE(cache[SLOT(x)]) + 1, 0, DIGEST(cache[SLOT(x)]))); x = 0 }
#else
    store_slot(0, DIGEST(cache[SLOT(x)]));
#ifndef UNSEAL_ONE_SLOT
    store_slot(0, DIGEST(cache[SLOT(x)]));
#endif
#endif
#ifdef MARK_LATE
    set_mark();
#endif
    clean = 0
}

inline store() {
    atomic {
        if
        :: cache[PAGE(0)] < V -> put(PAGE(0), cache[PAGE(0)] + 1)
        :: cache[PAGE(1)] < V -> put(PAGE(1), cache[PAGE(1)] + 1)
        :: else
        fi
    }
}

#ifdef CLEAN_OVER_MARK
#define MAY_BE_CLEAN true
#else
#define MAY_BE_CLEAN (cache[HOLDER] == 0)
#endif
#ifdef SEAL_NO_LOCK
#define TAKE_CHECKPOINT skip
#define RELEASE_CHECKPOINT skip
#else
#define TAKE_CHECKPOINT atomic { checkpoint_lock == FREE && checkpoint_readers == 0 -> checkpoint_lock = h }
#define RELEASE_CHECKPOINT checkpoint_lock = FREE
#endif

inline seal(closing) {
    atomic { BEFORE(h, 0) = cache[PAGE(0)]; BEFORE(h, 1) = cache[PAGE(1)] }
    TAKE_CHECKPOINT;
    if
    :: poison
    :: !poison ->
#if FAILURES > 0
    atomic { if :: mark -> suspect = 1 :: else fi; mark = 1 }
#ifdef NO_SUSPICION
    if :: unsure -> rewrite() :: else fi;
#else
    if :: unsure || suspect -> rewrite() :: else fi;
#endif
#endif
    e0 = cache[PAGE(0)];
    atomic { if :: cache[ENTRY(0)] != e0 -> put(ENTRY(0), e0) :: else fi }
    e1 = cache[PAGE(1)];
    atomic { if :: cache[ENTRY(1)] != e1 -> put(ENTRY(1), e1) :: else fi }
#ifdef NO_SYNC
    atomic { disk[ENTRY(0)] = cache[ENTRY(0)]; disk[ENTRY(1)] = cache[ENTRY(1)] }
#elif !defined(DATA_UNSYNCED)
    sync_file();
#endif
#ifdef FLAG_ANY
    clean = MAY_BE_CLEAN;
#else
    clean = closing && MAY_BE_CLEAN;
#endif
    store_slot(clean, DIGEST_OF(e0, e1));
    store_slot(clean, DIGEST_OF(e0, e1));
#ifdef DATA_UNSYNCED
    sync_file();
#endif
    d_step {
        if
        :: failed -> poison = 1
        :: else ->
            kept[0] = MAX(kept[0], BEFORE(h, 0)); kept[1] = MAX(kept[1], BEFORE(h, 1));
            unsure = 0; suspect = 0
        fi;
        mark = 0
    }
    fi;
    d_step { failed = 0; BEFORE(h, 0) = 0; BEFORE(h, 1) = 0; e0 = 0; e1 = 0; clean = 0 }
    RELEASE_CHECKPOINT
}

/* A write transaction. */
inline write() {
    atomic { writer_lock == FREE -> writer_lock = h }
    atomic { told_so = cache[HOLDER]; assert(told_so == doubt) } /* TOLD */
#ifdef HOLDER_LATE
    atomic { inside[h] = 1; store() }
#endif
    atomic { put(HOLDER, 1); inside[h] = 1 }
    if :: store() :: skip fi;
    if
    :: skip -> /* commit */
#ifndef HOLDER_KEPT
        atomic { put(HOLDER, 0); inside[h] = 0; doubt = 0 }
        writer_lock = FREE
#else
        atomic { inside[h] = 0; doubt = 0; writer_lock = FREE }
        atomic { put(HOLDER, 0) }
#endif
    :: skip -> /* abort */
        atomic {
#ifdef ABORT_CLEARS
            put(HOLDER, 0);
#else
            if :: !told_so -> put(HOLDER, 0) :: else fi;
#endif
            inside[h] = 0
        }
        writer_lock = FREE
    fi;
    told_so = 0
}

proctype Handle(byte h) {
    byte lives, i, x, e0, e1;
    bool clean, told_so, failed, first;
    do
    :: lives < LIVES ->
        {
        atomic { attach_lock == FREE -> attach_lock = h }
        atomic { OPEN(h); first = !OTHERS(h) }
        if :: first -> rebuild() :: else fi;
        atomic {
            slot_locked[h] = !failed;
            if :: failed -> poison = 1 :: else fi;
            if :: first -> mark = 0 :: else fi;
            first = 0;
            attach_lock = FREE
        }
        if :: failed -> failed = 0; goto out :: else fi;
        do
        :: cache[PAGE(0)] < V || cache[PAGE(1)] < V -> store()
#ifndef NO_TRANSACTIONS
        :: skip -> write()
#endif
        :: skip -> seal(false)
        :: skip -> break
        od;
#ifndef CLOSE_NO_ATTACH
        atomic { attach_lock == FREE -> attach_lock = h }
#endif
        if :: !OTHERS(h) -> seal(true) :: else fi;
        atomic {
            slot_locked[h] = 0;
            if :: attach_lock == h -> attach_lock = FREE :: else fi
        }
out:    lives++
        } unless {
            atomic { dies[h] -> /* its locks are free already */
                dies[h] = 0; BEFORE(h, 0) = 0; BEFORE(h, 1) = 0; i = 0; x = 0; e0 = 0; e1 = 0;
                clean = 0; told_so = 0; failed = 0; first = 0; lives++ }
        }
    :: else -> break
    od
}

#define ALIVE(h) (slot_locked[h] || attach_lock == (h))

inline die(h) {
    dies[h] = 1; slot_locked[h] = 0;
    if :: inside[h] -> doubt = 1; inside[h] = 0 :: else fi;
    if :: attach_lock == h -> attach_lock = FREE :: else fi;
    if :: writer_lock == h -> writer_lock = FREE :: else fi;
    if :: checkpoint_lock == h -> checkpoint_lock = FREE :: else fi
}

proctype Death() {
    byte deaths;
    do
    :: atomic { deaths < DEATHS && ALIVE(0) -> deaths++; die(0) }
#if HANDLES > 1
    :: atomic { deaths < DEATHS && ALIVE(1) -> deaths++; die(1) }
#endif
    :: break
    od
}

/* In every state: what would a power cut leave? And CUTS times it happens. */
proctype Power() {
    byte cuts, i;
    do
    :: d_step {
            c_code { unsigned char items[ITEMS]; now.broken = km_any_disk(items, 0); };
            assert(broken != BROKEN_LOST); assert(broken != BROKEN_KEPT); assert(broken != BROKEN_NO_ALARM)
        }
#if CUTS > 0
    :: atomic { cuts < CUTS ->
        cuts++;
        do
        :: i < ITEMS ->
            if
            :: cache[i] != disk[i] ->
                if
                :: disk[i] = cache[i]
                :: skip
                :: i == SLOT(0) || i == SLOT(1) -> disk[i] = TORN
                fi
            :: else
            fi;
            cache[i] = disk[i]; i++
        :: else -> i = 0; break
        od;
        if :: ALIVE(0) -> die(0) :: else fi;
#if HANDLES > 1
        if :: ALIVE(1) -> die(1) :: else fi;
#endif
        lost = 0; told = 0; untold = 0; boot++;
        doubt = doubt || !IS_CLEAN(NEWEST) }
#endif
    od
}

#if FAILURES > 0
/* What is dirty is written back in vain (not control, which no disk is needed for); who has the file open will be
 * told. Later it may be dropped from the cache, and is gone then: no seal that comes after can find it. */
proctype Disk() {
    byte failures, i, h;
    do
    :: atomic { failures < FAILURES ->
        failures++; trouble = 1; told = 255; untold = 1;
        do
        :: i < HOLDER ->
            if
            :: cache[i] != disk[i] ->
                if
                :: lost = lost | BIT(i)
                :: skip
                :: i == SLOT(0) || i == SLOT(1) -> lost = lost | BIT(i); disk[i] = TORN
                fi
            :: else
            fi;
            i++
        :: else -> i = 0; break
        od }
    :: atomic { lost != 0 ->
        do
        :: i < SLOT(1) -> i++
        :: lost & BIT(i) -> break
        :: i == SLOT(1) && !(lost & BIT(i)) -> break
        od;
        if
        :: lost & BIT(i) ->
            cache[i] = disk[i]; lost = WITHOUT(lost, i);
            h = 0;
            do
            :: i < 2 && h < HANDLES -> BEFORE(h, i) = MIN(BEFORE(h, i), disk[i]); h++
            :: else -> h = 0; break
            od
        :: else
        fi;
        i = 0 }
    od
}
#endif

#if VERIFIERS > 0
proctype Verifier() {
    byte slot, expected, found, p;
    do
    :: atomic { checkpoint_lock == FREE -> checkpoint_readers++; slot = NEWEST }
        if :: p = 0 :: p = 1 fi;
        expected = cache[ENTRY(p)];
        found = cache[PAGE(p)];
        if
        :: expected != found && IS_CLEAN(slot) ->
#ifdef ONE_LOOK
            assert(false) /* NO ALARM */
#else
            assert(NEWEST != slot) /* NO ALARM */
#endif
        :: else
        fi;
        atomic { checkpoint_readers--; slot = 0; expected = 0; found = 0; p = 0 }
    od
}
#endif

init {
    atomic {
        byte k = 0;
        cache[SLOT(0)] = HEADER(0, 1, 0); cache[SLOT(1)] = HEADER(1, 1, 0);
        disk[SLOT(0)] = HEADER(0, 1, 0); disk[SLOT(1)] = HEADER(1, 1, 0);
        do :: k < HANDLES -> run Handle(k); k++ :: else -> k = 0; break od;
#if VERIFIERS > 0
        run Verifier();
#endif
#if FAILURES > 0
        run Disk();
#endif
        run Death(); run Power()
    }
}
