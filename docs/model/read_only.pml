/* SPDX-License-Identifier: MIT
 *
 * read_only.pml: handles without write permission. They hold no slot and write nothing, not even a pin; a read lock on
 * the byte READER + generation keeps what they need. Sessions of handles that may write come and go beside them.
 *
 * Roles: Reader (a handle without write permission), Writer, Checkpointer (may die at any step), Session (the last
 * handle dies; frames that never reached the disk may vanish; the first to attach rebuilds control).
 * Frames form a tree, as in durability.pml: each knows its parent.
 *
 * Promises (assertions):
 *   SNAPSHOT  in a transaction the view shows exactly one commit, for as long as it lasts
 *   FRAMES    a frame that the reader needs is not overwritten, and one that control calls visible is there
 *   NO ALARM  the reader always finds the frames up to the P of a checkpoint in progress
 *
 * Rules, by the switch that takes each one out (a run with it must find an error):
 *   CHECKPOINT_NO_LOCK  the checkpointer does not lock READER + [0, G)
 *   NO_REREAD           the reader does not read the header again after it has its lock
 *   LET_GO_FIRST        it lets go of its old generation before it locks the new one
 *   LOCK_VISIBLE        in the transaction it holds on to the generation it shows, though that may not be durable
 *   DURABLE_LATE        what was durable it learns behind its last look at the epoch
 *   STICKY_VIEW         it keeps its view when a session has begun or ended
 *   EPOCH_LATE          the first to attach locks its slot before it clears the epoch
 *   EPOCH_FIRST         it stores the new epoch before the words
 *   NO_EPOCH_RECHECK    the reader does not look at the epoch again after it loaded `visible`
 *   REUSE_NO_LOCK       with PROBE: the ring is used again without a look at READER + [0, F)
 * Not needed for these promises (a run with it finds no error; README.md says why it stays):
 *   REUSE_NO_LOCK       without PROBE: who holds READER + [0, G) until `checkpointed` is published has kept readers out
 *   RELEASE_EARLY       the checkpointer lets go of it as soon as home is written
 *
 * PROBE: the checkpointer does not lock READER + [0, G) but only looks, once, after it published `visible` >= G:
 * another way to do it, in which no reader ever waits for a checkpoint.
 *
 * Sizes: K commits in all, RS frames in the ring, SESSIONS, DEATHS of checkpointers, LOSSES of frames between sessions.
 */
#ifndef K
#define K 3
#endif
#ifndef RS
#define RS 2
#endif
#ifndef SESSIONS
#define SESSIONS 1
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef LOSSES
#define LOSSES 0
#endif
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define MIN(a, b) ((a) < (b) -> (a) : (b))

#define CELLS 3 /* cells 0 and 1 stand on page 0, cell 2 on page 1; a value is the number of the commit that set it */
byte commits;
byte parent[K + 1], generation[K + 1], state[(K + 1) * CELLS];
#define S(k, c) state[(k) * CELLS + (c)]
#define TOUCHES_0(k) (S(k, 0) == (k) || S(k, 1) == (k))
#define TOUCHES_1(k) (S(k, 2) == (k))

byte home[CELLS];
byte ring[RS]; /* the commit whose frame stands there, 0: none */
#define FRAME(g) ring[(g) % RS]
#define FOLLOWS(k, of) (k != 0 && parent[k] == of && generation[k] == generation[of] + 1)
byte header_at; /* newest valid slot: commit that home is at */
byte header_to; /* generation that it is brought to */

byte appended, visible, durable, checkpointed, head;
byte epoch = 1, last_epoch = 1;
bool slot_locked = 1;      /* a handle that may write is attached: what a probe shows */
bool session = 1, ends;    /* its processes run; they are to end */
bool writer_gone, checkpointer_gone;
byte readers[K + 2];       /* read locks of READER + generation */
byte locked_below;         /* the checkpointer's lock of READER + [0, this) */

proctype Reader() {
    byte v, g, at, to, e, vis, dur, safe, session_of_view, a0, a1, a2, next;
    bool p0, p1, has_view;
    do
    :: skip;
begin:
        atomic { at = header_at; g = MAX(safe, generation[at]) }
        atomic { g >= locked_below -> readers[g]++ } /* refused: it waits for the checkpoint to end */
#ifdef NO_REREAD
        to = header_to;
#else
        atomic {
            at = header_at; to = header_to;
            if
            :: generation[at] > g -> readers[g]--; g = 0; at = 0; to = 0; goto begin
            :: else
            fi
        }
#endif
        /* Is there a session, and what does it show? */
        e = epoch;
        if
        :: e != 0 && slot_locked ->
            vis = visible;
            dur = durable;
#ifndef NO_EPOCH_RECHECK
            if
            :: epoch != e -> atomic { readers[g]--; g = 0; at = 0; to = 0; e = 0; vis = 0; dur = 0; goto begin }
            :: else
            fi;
#endif
        :: e == 0 || !slot_locked -> e = 0
        fi;
        if
#ifndef STICKY_VIEW
        :: has_view && e != session_of_view -> atomic { /* a session has begun or ended: begin again without a view */
            readers[g]--; g = 0; at = 0; to = 0; vis = 0; dur = 0; e = 0; has_view = 0; v = 0; safe = 0;
            p0 = 0; p1 = 0; a0 = 0; a1 = 0; a2 = 0; goto begin }
#endif
        :: else
        fi;
        atomic {
            if
            :: !has_view || generation[v] < generation[at] -> v = at; p0 = 0; p1 = 0; a0 = 0; a1 = 0; a2 = 0
            :: else
            fi;
            has_view = 1; session_of_view = e; at = 0
        }
        /* With a session: to `visible`. Without: as far as there are good frames. */
        do
        :: e != 0 && generation[v] >= vis -> break
        :: (e != 0 && generation[v] < vis) || e == 0 ->
            next = FRAME(generation[v] + 1);
            if
            :: e != 0 && !FOLLOWS(next, v) -> /* only if the session has ended meanwhile: begin anew */
                atomic {
                    assert(epoch != e || !slot_locked); /* FRAMES */
                    readers[g]--; g = 0; to = 0; vis = 0; dur = 0; e = 0; has_view = 0; v = 0; safe = 0; next = 0;
                    p0 = 0; p1 = 0; a0 = 0; a1 = 0; a2 = 0; goto begin
                }
            :: e != 0 && FOLLOWS(next, v)
            :: e == 0 && !FOLLOWS(next, v) -> next = 0; break
            :: e == 0 && FOLLOWS(next, v)
            fi;
            if
            :: TOUCHES_0(next) && !p0 -> atomic { p0 = 1; a0 = home[0] } a1 = home[1]
            :: else
            fi;
            d_step {
                if :: S(next, 0) == next -> a0 = next :: else fi;
                if :: S(next, 1) == next -> a1 = next :: else fi;
                if :: TOUCHES_1(next) -> p1 = 1; a2 = next :: else fi;
                v = next; next = 0
            }
        od;
        assert(generation[v] >= to); /* NO ALARM */
        /* What it holds on to in the transaction: a generation that cannot be lost and come back as another. */
#ifdef LOCK_VISIBLE
        atomic { next = generation[v]; safe = next; to = 0; vis = 0; dur = 0; e = 0 }
#else
        atomic {
#ifdef DURABLE_LATE
            dur = durable;
#endif
            next = (e != 0 -> MAX(g, MIN(generation[v], dur)) : MAX(g, to));
            safe = next; to = 0; vis = 0; dur = 0; e = 0
        }
#endif
#ifdef LET_GO_FIRST
        atomic { readers[g]--; g = next; next = 0 }
        atomic { g >= locked_below -> readers[g]++ }
#else
        atomic {
            assert(next >= locked_below); /* it is never refused: its old lock is in the way of a checkpoint beyond g */
            readers[next]++; readers[g]--; g = next; next = 0
        }
#endif
        d_step { /* at any later time */
            assert((p0 -> a0 : home[0]) == S(v, 0)); /* SNAPSHOT */
            assert((p0 -> a1 : home[1]) == S(v, 1));
            assert((p1 -> a2 : home[2]) == S(v, 2))
        }
        atomic { readers[g]--; g = 0 }
    od
}

#ifdef PROBE
#define HOLD skip
#else
#define HOLD locked_below = G
#endif
#define NONE_AT(r, f) ((f) <= (r) || readers[r] == 0)
#define NO_READERS_BELOW(f) (NONE_AT(0, f) && NONE_AT(1, f) && NONE_AT(2, f) && NONE_AT(3, f))

proctype Writer() {
    do
    :: {
        atomic { session && !ends && commits < K }
        if
        :: appended + 1 > RS ->
            checkpointed >= appended + 1 - RS;
#ifndef REUSE_NO_LOCK
            NO_READERS_BELOW(appended + 1 - RS);
#endif
        :: else
        fi;
        FRAME(appended + 1) = 0;
        atomic {
            commits++;
            parent[commits] = head; generation[commits] = appended + 1;
            S(commits, 0) = S(head, 0); S(commits, 1) = S(head, 1); S(commits, 2) = S(head, 2);
            if
            :: S(commits, 0) = commits
            :: S(commits, 1) = commits; S(commits, 2) = commits
            fi;
            FRAME(appended + 1) = commits
        }
        atomic { head = commits; appended++ }
        visible = appended;
        durable = appended /* the sync; frames above it may be lost with the session */
        } unless { atomic { ends && !writer_gone -> writer_gone = 1 } }
    od
}

inline forget() { G = 0; i = 0; to = 0; w0 = 0; w1 = 0; w2 = 0; t0 = 0; t1 = 0 }
byte deaths;
bool dies;

proctype Checkpointer() {
    byte G, i, to;
    bool w0, w1, w2, t0, t1;
    do
    :: {
        atomic { session && !ends && (durable > checkpointed || generation[header_at] > checkpointed) }
        if :: generation[header_at] > checkpointed -> checkpointed = generation[header_at] :: else fi;
        G = durable;
        do :: G > checkpointed + 1 -> G-- :: break od; /* pins lower it, and so do readers that hold a lock */
        if
        :: G <= checkpointed || G < header_to
        :: G > checkpointed && G >= header_to ->
#ifndef CHECKPOINT_NO_LOCK
            if
            :: atomic { NO_READERS_BELOW(G) -> HOLD }
            :: atomic { !NO_READERS_BELOW(G) -> goto give_up }
            fi;
#endif
            header_to = G;
            d_step {
                to = header_at; i = checkpointed + 1;
                do
                :: i <= G ->
                    assert(FOLLOWS(FRAME(i), to)); /* FRAMES */
                    to = FRAME(i);
                    t0 = t0 || TOUCHES_0(to); t1 = t1 || TOUCHES_1(to); i++
                :: else -> i = 0; break
                od
            }
            do
            :: t0 && !w0 -> atomic { home[0] = (generation[S(to, 0)] > checkpointed -> S(to, 0) : home[0]); w0 = 1 }
            :: t0 && !w1 -> atomic { home[1] = (generation[S(to, 1)] > checkpointed -> S(to, 1) : home[1]); w1 = 1 }
            :: t1 && !w2 -> atomic { home[2] = S(to, 2); w2 = 1 }
            :: (!t0 || (w0 && w1)) && (!t1 || w2) -> break
            od;
#ifdef RELEASE_EARLY
            locked_below = 0;
#endif
            header_at = to;
            checkpointed = G
        fi;
give_up: skip;
        atomic { locked_below = 0; forget() }
        } unless {
            if
            :: atomic { ends && !checkpointer_gone -> checkpointer_gone = 1; locked_below = 0; forget() }
            :: atomic { dies -> dies = 0; locked_below = 0; forget() }
            fi }
    od
}
proctype Death() {
    do
    :: atomic { deaths < DEATHS && session && !ends && !dies -> deaths++; dies = 1 }
    :: deaths == DEATHS -> break
    od
}

byte sessions, losses;

proctype Session() {
    byte at;
    do
    :: atomic { sessions < SESSIONS && session && !dies ->
        sessions++; ends = 1; writer_gone = 0; checkpointer_gone = 0 }
        atomic { writer_gone && checkpointer_gone -> session = 0; slot_locked = 0 }
        if /* frames whose write-back failed may be dropped from the page cache */
        :: atomic { losses < LOSSES && appended > durable -> losses++; FRAME(appended) = 0 }
        :: skip
        fi;
        /* The first to attach. ATTACH is held throughout. */
#ifdef EPOCH_LATE
        slot_locked = 1;
        epoch = 0;
#else
        epoch = 0;
        slot_locked = 1;
#endif
#ifdef EPOCH_FIRST
        atomic { last_epoch++; epoch = last_epoch }
#endif
        atomic {
            at = header_at;
            do
            :: FOLLOWS(FRAME(generation[at] + 1), at) -> at = FRAME(generation[at] + 1)
            :: else -> break
            od
        }
        checkpointed = generation[header_at];
        atomic { appended = generation[at]; head = at }
        visible = generation[at];
        durable = generation[at];
#ifndef EPOCH_FIRST
        atomic { last_epoch++; epoch = last_epoch }
#endif
        atomic { at = 0; ends = 0; session = 1 }
    od
}

init {
    atomic { run Reader(); run Writer(); run Checkpointer(); run Death(); run Session() }
}
