/* SPDX-License-Identifier: MIT
 *
 * ring.pml: where frames stand. Frames of different lengths in a ring of units: the wrap, the stretch that a sync
 * covers, the journal that grows, and the walk that finds the frames again. The other models give each frame a place of
 * its own.
 *
 * Roles: Writer (may die at any step, also in the middle of a frame; makes the ring longer when there is no room),
 * Syncer, Checkpointer (header slots only: home is in durability.pml), Reader (walks to `visible`), Power (a cut at
 * every state).
 *
 * Promises (assertions):
 *   FOUND  a reader's walk finds every frame up to the generation that it was told
 *   POWER  after a power cut at any state, from either slot that may count then, the walk finds every durable frame
 *
 * Rules, by the switch that takes each one out (a run with it must find an error):
 *   ONE_PLACE       a walk looks for the next frame behind the last one only, not also at the start of the ring
 *   HALF_FRAME      a walk looks at the head of a frame only, not at all of it
 *   NO_ADOPTION     a writer does not adopt the whole frame of a dead one: its own frame of the same generation may go
 *                   to the other place, and a walk then finds the dead one's first
 *   WIPE_UNSYNCED   a frame that was written but is given up (the system says that the disk is full) is wiped in the
 *                   page cache only: the next frame may go to the other place, and after a power cut a walk finds the
 *                   wiped one first
 *   OVER_USED       a frame is written over frames behind `checkpointed`
 *   OVER_PINNED     a frame is written over frames that a pinned reader needs
 *   ONE_PIECE       a sync does not cover two pieces when the stretch wraps
 *   FROM_END        the stretch starts where frame `durable` ends, not where the next one starts: with a wrap between
 *                   the two it can look as if it did not wrap
 *   GEOMETRY_FIRST  a reader looks how long the ring is before it learns how far to walk
 *   TOLD_LATE       control is told of the longer ring after the frame that lies there
 *   ONE_SLOT_GROWN  the new part is used when one slot says that it is there
 *   STALE_GEOMETRY  the checkpointer writes slots with the length that it knew when it attached
 * Not needed (a run with it finds no error; README.md says why it stays):
 *   GROW_WRAPPED    the ring also grows while the frames in use wrap
 *
 * Sizes: K frames in all (torn ones included), L units at first, L2 after growth, LONGEST frame, DEATHS of writers,
 * REFUSALS of the system to take a frame, READERS 0 or 1.
 */
#ifndef K
#define K 4
#endif
#ifndef L
#define L 4
#endif
#ifndef L2
#define L2 6
#endif
#ifndef LONGEST
#define LONGEST 3
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef REFUSALS
#define REFUSALS 0
#endif
#ifndef READERS
#define READERS 0
#endif
#define NONE 100
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define MIN(a, b) ((a) < (b) -> (a) : (b))

/* Frames ever begun; 0 stands for the empty map. A unit holds a frame's number and which part of it this is, or 0. */
byte frames;
byte parent[K + 1], generation[K + 1], length[K + 1], start[K + 1];
byte path[K + 1]; /* the frame of each generation up to `appended` */
#define UNIT(f, part) ((f) * 4 + (part))
#define END(f) (start[f] + length[f]) /* of frame 0: 0 */
byte cache[L2], disk[L2];
byte dirty; /* a bit for each unit */

/* The two header slots by age, and the one that is being written over the older one: frame that home is at, units. */
byte newest_at, newest_ring = L, older_at, older_ring = L, coming_at, coming_ring;
bool coming;

byte appended, durable, visible, checkpointed;
byte ring = L; /* control: how long it is */
byte pin = NONE;
bool writer_lock;
byte checkpoint_lock; /* 1: the writer holds it, 2: the checkpointer */
bool bad;
byte found; /* what the last walk found */

c_code {
/* The frame after frame n in a ring of `units` units, 0: none. */
static int walk(const unsigned char *unit, int units, int n)
{
    const int places[2] = {now.start[n] + now.length[n], 0};
#ifdef ONE_PLACE
    const int count = 1;
#else
    const int count = 2;
#endif
    for (int p = 0; p < count; p++) {
        const int at = places[p], frame = at < units ? unit[at] / 4 : 0;
        if (frame == 0 || unit[at] % 4 != 0 || now.parent[frame] != n || at + now.length[frame] > units)
            continue;
        int whole = 1;
#ifndef HALF_FRAME
        for (int i = 1; i < now.length[frame]; i++)
            whole &= unit[at + i] == UNIT(frame, i);
#endif
        if (whole)
            return frame;
    }
    return 0;
}

/* Does the walk from a slot find the durable frames, and only whole ones? */
static int slot_keeps_promise(const unsigned char *unit, int units, int at)
{
    int n = at;
    for (int next = walk(unit, units, n); next != 0; next = walk(unit, units, n)) {
        for (int i = 0; i < now.length[next]; i++)
            if (unit[now.start[next] + i] != UNIT(next, i))
                return 0;
        n = next;
    }
    return now.generation[n] >= now.durable;
}

/* The disk after a power cut is one of many: each unit that is not synced is old or new. */
static int any_disk_keeps_promise(unsigned char *unit, int i)
{
    if (i < L2) {
        unit[i] = now.disk[i];
        if (!any_disk_keeps_promise(unit, i + 1))
            return 0;
        if (!(now.dirty >> i & 1) || now.cache[i] == now.disk[i])
            return 1;
        unit[i] = now.cache[i];
        return any_disk_keeps_promise(unit, i + 1);
    }
    return slot_keeps_promise(unit, now.newest_ring, now.newest_at) &&
           (now.coming ? slot_keeps_promise(unit, now.coming_ring, now.coming_at)
                       : slot_keeps_promise(unit, now.older_ring, now.older_at));
}
};

/* With CHECKPOINT held: one durable write of a slot, over the older one. */
inline write_slot(at, units) {
    atomic { coming_at = at; coming_ring = units; coming = 1 }
    atomic {
        older_at = newest_at; older_ring = newest_ring; newest_at = coming_at; newest_ring = coming_ring;
        coming = 0; coming_at = 0; coming_ring = 0
    }
}

/* Does the place [at, at + size) touch a frame that is needed? */
inline look_for_room(at, size) {
    d_step {
        room = 1;
#ifdef OVER_USED
        i = MIN(durable, pin) + 1;
#elif defined(OVER_PINNED)
        i = checkpointed + 1;
#else
        i = MIN(checkpointed, pin) + 1;
#endif
        wraps = 0;
        do
        :: i <= appended ->
            if :: at < END(path[i]) && start[path[i]] < at + size -> room = 0 :: else fi;
            if :: i > checkpointed + 1 && start[path[i]] < start[path[i - 1]] -> wraps = 1 :: else fi;
            i++
        :: else -> i = 0; break
        od
    }
}

byte deaths, refusals;
bool dies;

proctype Writer() {
    byte units, size, at, i;
    bool room, wraps;
    do
    :: {
        atomic { !writer_lock && frames < K -> writer_lock = 1 }
        units = ring;
#ifndef NO_ADOPTION
        d_step { /* a dead writer's whole frame is adopted */
            c_code { now.found = walk(now.cache, PWriter->units, now.path[now.appended]); };
            if
            :: found -> appended++; path[appended] = found; found = 0
            :: else
            fi
        }
#endif
again:
        if
        :: size = 1
        :: size = 2
        :: LONGEST > 2 -> size = 3
        fi;
retry:
        atomic {
            at = (END(path[appended]) + size <= units -> END(path[appended]) : 0);
            look_for_room(at, size)
        }
        if
        :: room
        :: !room -> goto retry /* it waits */
#ifdef GROW_WRAPPED
        :: atomic { !room && units == L && checkpoint_lock == 0 -> checkpoint_lock = 1 }
#else
        :: atomic { !room && !wraps && units == L && checkpoint_lock == 0 -> checkpoint_lock = 1 }
#endif
            write_slot(newest_at, L2);
#ifndef ONE_SLOT_GROWN
            write_slot(newest_at, L2);
#endif
#ifndef TOLD_LATE
            ring = L2;
#endif
            atomic { checkpoint_lock = 0; units = L2; goto retry }
        fi;
        atomic {
            frames++;
            parent[frames] = path[appended]; generation[frames] = appended + 1;
            length[frames] = size; start[frames] = at;
            room = 0; at = 0; units = 0; wraps = 0
        }
        do
        :: i < size -> atomic {
            if
            :: dirty & (1 << (start[frames] + i)) -> if :: disk[start[frames] + i] = cache[start[frames] + i] :: skip fi
            :: else
            fi;
            cache[start[frames] + i] = UNIT(frames, i);
            dirty = dirty | (1 << (start[frames] + i));
            i++ }
        :: else -> break
        od;
        i = 0;
        if
        :: atomic { refusals < REFUSALS && frames < K -> refusals++ } /* the system says that the disk is full */
            atomic {
                if :: disk[start[frames]] = cache[start[frames]] :: skip fi; /* it may have got there all the same */
                cache[start[frames]] = 0; dirty = dirty | (1 << start[frames])
            }
#ifndef WIPE_UNSYNCED
            atomic { disk[start[frames]] = 0; dirty = dirty & (255 - (1 << start[frames])) }
#endif
            atomic { size = 0; units = ring; goto again }
        :: skip
        fi;
        atomic { appended++; path[appended] = frames; size = 0 }
#ifdef TOLD_LATE
        ring = newest_ring;
#endif
        writer_lock = 0
        } unless {
            atomic { dies ->
                if
                :: checkpoint_lock == 1 -> /* the slot that it was writing is repaired, as durability.pml has it */
                    if
                    :: coming ->
                        older_at = newest_at; older_ring = newest_ring;
                        newest_at = coming_at; newest_ring = coming_ring
                    :: skip
                    fi;
                    coming = 0; coming_at = 0; coming_ring = 0; checkpoint_lock = 0
                :: else
                fi;
                dies = 0; writer_lock = 0; units = 0; size = 0; at = 0; i = 0; room = 0; wraps = 0; found = 0 }
        }
    od
}

proctype Syncer() {
    byte n, from, to, i;
    do
    :: atomic { durable < appended -> n = appended;
#ifdef FROM_END
        from = END(path[durable]);
#else
        from = start[path[durable + 1]];
#endif
        to = END(path[n]) }
        d_step {
            i = 0;
            do
            :: i < L2 ->
                if
#ifdef ONE_PIECE
                :: (from <= i && i < to) || (to <= from && from <= i) ->
                    disk[i] = cache[i]; dirty = dirty & (255 - (1 << i))
#else
                :: (from <= i && i < to) || (to <= from && (from <= i || i < to)) ->
                    disk[i] = cache[i]; dirty = dirty & (255 - (1 << i))
#endif
                :: else
                fi;
                i++
            :: else -> i = 0; break
            od
        }
        atomic { visible = n; durable = n; n = 0; from = 0; to = 0 }
    od
}

proctype Checkpointer() {
    byte G;
    do
    :: atomic { checkpoint_lock == 0 && durable > checkpointed -> checkpoint_lock = 2 }
        G = path[durable];
#ifdef STALE_GEOMETRY
        write_slot(G, L);
        write_slot(G, L);
#else
        write_slot(G, newest_ring);
        write_slot(G, newest_ring);
#endif
        atomic { checkpointed = generation[G]; checkpoint_lock = 0; G = 0 }
    od
}

#if READERS > 0
proctype Reader() {
    byte v, goal, units;
    do
    :: atomic { v = (generation[v] < checkpointed -> path[checkpointed] : v); pin = generation[v] }
#ifdef GEOMETRY_FIRST
        units = ring;
        goal = visible;
#else
        goal = visible;
        units = ring;
#endif
        do
        :: generation[v] < goal ->
            d_step {
                c_code { now.found = walk(now.cache, PReader->units, PReader->v); };
                assert(found != 0 && found == path[generation[v] + 1]); /* FOUND */
                v = found; found = 0
            }
        :: else -> break
        od;
        atomic { pin = NONE; goal = 0; units = 0 }
    od
}
#endif

proctype Death() {
    do
    :: atomic { deaths < DEATHS && writer_lock && !dies -> deaths++; dies = 1 }
    od
}

proctype Power() {
    do
    :: d_step {
        c_code { unsigned char unit[L2]; if (!any_disk_keeps_promise(unit, 0)) now.bad = 1; };
        assert(!bad) /* POWER */ }
    od
}

init {
    atomic {
        run Writer(); run Syncer(); run Checkpointer();
#if READERS > 0
        run Reader();
#endif
        run Death(); run Power()
    }
}
