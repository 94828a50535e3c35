/* SPDX-License-Identifier: MIT
 *
 * snapshot.pml: what a handle in a transaction sees stays what it is.
 *
 * Roles: Reader (a handle that reads), Writer (a handle that writes; frames are used again), Syncer (whoever makes the
 * journal durable), Checkpointer (may die at any step; another goes on). No disk and no power: see durability.pml.
 * Processors may delay stores: the pin, and what the checkpointer publishes as visible, pass through store buffers
 * (with -DDELAYED), and a fence is a wait until the buffer is empty.
 *
 * Promises (assertions):
 *   SNAPSHOT  in a transaction at generation g the view shows generation g, all of it, for as long as it lasts
 *   FRAMES    a frame that a handle or a checkpointer still needs is never overwritten
 *   TARGET    a begin never finds a visible generation older than a checkpoint under way
 *
 * Rules, by the switch that takes each one out (a run with it must find an error):
 *   NO_RECHECK         begin does not look at `checkpointed` again after its pin is stored
 *   NO_PIN_FENCE       begin does not wait for its pin to be seen before it looks (with DELAYED)
 *   EARLY_VISIBLE      begin loads `visible` before it stores its pin
 *   OLD_BASE           a view that starts anew takes for its base what `checkpointed` was before its pin was stored
 *   DURABLE_FIRST      a sync publishes `durable` before `visible`
 *   NO_PUBLISH_FENCE   the checkpointer reads pins before what it published as visible is seen (with DELAYED)
 *   NO_LOWERING        the checkpointer does not look at pins
 *   FROM_VIEW          pages are composed from a view, which may be ahead of G
 *   REUSE_NO_PINS      the ring is used again without a look at the pins
 *   REUSE_PINS_FIRST   the pins are read before `checkpointed`
 *   UNWALKED_FREE      frames that the writer never walked (at or below its base) count as free
 * Not needed for these promises (a run with it finds no error; README.md says why it stays):
 *   NO_HEADER_RECHECK  a view that starts anew moves its pin to the newest header's generation without looking again
 *   BELOW_DEAD         a checkpoint may go below the P of one that died
 *
 * Sizes: N generations, RS frames in the ring, READERS, DEATHS of checkpointers.
 * Grain: -DCOARSE_WRITER, -DCOARSE_SYNCER, -DCOARSE_CHECKPOINTER let a role take all its steps at once, so that the
 * others can be explored exhaustively; an atomic sequence that has to wait is cut there.
 */
#ifndef N
#define N 3
#endif
#ifndef RS
#define RS 2
#endif
#ifndef READERS
#define READERS 1
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifdef COARSE_WRITER
#define WRITER_STEPS atomic
#else
#define WRITER_STEPS
#endif
#ifdef COARSE_SYNCER
#define SYNCER_STEPS atomic
#else
#define SYNCER_STEPS
#endif
#ifdef COARSE_CHECKPOINTER
#define CHECKPOINTER_STEPS atomic
#else
#define CHECKPOINTER_STEPS
#endif

#define HANDLES (READERS + 1) /* the writer's handle is the last */
#define WRITER_HANDLE READERS
#define NONE 100  /* no pin */
#define EMPTY 101 /* nothing in a store buffer */
#define MAX(a, b) ((a) > (b) -> (a) : (b))

/* Data: cells 0 and 1 stand on page 0, cell 2 on page 1. A cell's value is the generation that set it last. */
#define CELLS 3
byte state[(N + 1) * CELLS]; /* ghost: what each generation is */
#define S(g, c) state[(g) * CELLS + (c)]
#define TOUCHES_0(g) (S(g, 0) == (g) || S(g, 1) == (g))
#define TOUCHES_1(g) (S(g, 2) == (g))

byte home[CELLS];
byte ring[RS]; /* the frame that stands there; 0: a torn one */
#define FRAME_OK(g) (ring[(g) % RS] == (g))

/* The newest valid header slot, as the page cache shows it: home is at, and is being brought to. */
byte header_at, header_to;

/* Control. */
byte appended, durable, visible, target, checkpointed;
byte pin[HANDLES];

#ifdef DELAYED
byte pin_buffer[HANDLES];
byte visible_buffer = EMPTY; /* of the checkpointer */
#define STORE_PIN(x) atomic { pin_buffer[h] == EMPTY -> pin_buffer[h] = x }
#define PUBLISH_VISIBLE(x) atomic { visible_buffer == EMPTY -> visible_buffer = x }
#ifdef NO_PIN_FENCE
#define PIN_FENCE skip
#else
#define PIN_FENCE pin_buffer[h] == EMPTY
#endif
#ifdef NO_PUBLISH_FENCE
#define PUBLISH_FENCE skip
#else
#define PUBLISH_FENCE visible_buffer == EMPTY
#endif

/* Hands a delayed store over, at some time. */
proctype Memory() {
end:
    do
    :: atomic { visible_buffer != EMPTY -> visible = MAX(visible, visible_buffer); visible_buffer = EMPTY }
    :: atomic { pin_buffer[0] != EMPTY -> pin[0] = pin_buffer[0]; pin_buffer[0] = EMPTY }
#if READERS > 0
    :: atomic { pin_buffer[1] != EMPTY -> pin[1] = pin_buffer[1]; pin_buffer[1] = EMPTY }
#endif
#if READERS > 1
    :: atomic { pin_buffer[2] != EMPTY -> pin[2] = pin_buffer[2]; pin_buffer[2] = EMPTY }
#endif
    od
}
#else
#define STORE_PIN(x) pin[h] = x
#define PUBLISH_VISIBLE(x) visible = MAX(visible, x)
#define PIN_FENCE skip
#define PUBLISH_FENCE skip
#endif

/*
 * The view of a reader is kept as two patched pages, p0 with the cells a0 and a1, p1 with a2. A page is copied from
 * home when it is patched for the first time, not in one instant; then bytes are set. The writer's view is of the same
 * kind and is not looked at again: for it only counts where it stands.
 */
#define READS (h < READERS)
inline drop_pages() { p0 = 0; p1 = 0; a0 = 0; a1 = 0; a2 = 0 }

inline apply_frame() {
    if
    :: READS && TOUCHES_0(v + 1) && !p0 -> atomic { p0 = 1; a0 = home[0] }; a1 = home[1]
    :: else
    fi;
    d_step {
        assert(FRAME_OK(v + 1)); /* FRAMES */
        v++;
        if :: READS && S(v, 0) == v -> a0 = v :: else fi;
        if :: READS && S(v, 1) == v -> a1 = v :: else fi;
        if :: READS && TOUCHES_1(v) -> p1 = 1; a2 = v :: else fi
    }
}

/*
 * Begin: bring the view from generation v to `goal`, or leave it where it is if it is further. `fresh`: there is no
 * view yet, or it was given up. b is the base, the generation of the header slot from which the handle started to walk.
 */
inline begin(goal) {
    atomic {
        early = visible;
        c = checkpointed;
        want = (fresh -> c : MAX(v, c))
    }
again:
    STORE_PIN(want);
    PIN_FENCE;
#ifndef NO_RECHECK
    atomic { if :: checkpointed > want -> want = checkpointed; goto again :: else fi }
#endif
    if
    :: !fresh && v >= want /* the view goes on from where it stands */
    :: fresh || v < want -> /* it drops everything and starts anew from the newest header slot */
        atomic {
#ifdef OLD_BASE
            from = c;
#else
            from = header_at;
#endif
            fresh = 1; v = 0
        }
        if
        :: from > want ->
            want = from;
            STORE_PIN(want);
            PIN_FENCE;
#ifndef NO_HEADER_RECHECK
            atomic { if :: checkpointed > want -> want = checkpointed; from = 0; goto again :: else fi }
#endif
        :: else
        fi;
        atomic { v = from; b = from; fresh = 0; from = 0; drop_pages() }
    fi;
    least = target;
    atomic {
#ifdef EARLY_VISIBLE
        g = MAX(early, v);
#else
        g = MAX(goal, v);
#endif
        assert(g >= least); /* TARGET */
        c = 0; want = 0; least = 0; early = 0
    }
    do
    :: v < g -> apply_frame()
    :: else -> break
    od;
    STORE_PIN(g)
}

proctype Reader(byte h) {
    byte v, b, g, c, want, from, least, early, a0, a1, a2;
    bool p0, p1, fresh = 1;
    do
    :: begin(visible);
        d_step { /* at any later time, until the pin is taken away */
            assert((p0 -> a0 : home[0]) == S(g, 0)); /* SNAPSHOT */
            assert((p0 -> a1 : home[1]) == S(g, 1));
            assert((p1 -> a2 : home[2]) == S(g, 2))
        }
        atomic { STORE_PIN(NONE); g = 0; b = 0 }
        if
        :: atomic { fresh = 1; v = 0; drop_pages() } /* it gives its view up, or another handle comes in its place */
        :: skip
        fi
    od
}
proctype Writer(byte h) {
    byte v, b, g, c, want, from, least, early, a0, a1, a2, i, old;
    bool p0, p1, fresh = 1;
end:
    do
    :: WRITER_STEPS { appended < N ->
        begin(appended);
        if
        :: appended + 1 > RS -> /* the new frame goes where frame `old` stands */
            old = appended + 1 - RS;
#ifdef UNWALKED_FREE
            old = (old > b -> old : 0);
#else
            old = MAX(old, b); /* where frames up to the base stand is not known: all of them must be free */
#endif
#ifndef REUSE_PINS_FIRST
            checkpointed >= old;
#endif
#ifndef REUSE_NO_PINS
            i = 0;
            do
            :: i < READERS -> atomic { pin[i] >= old -> i++ }
            :: else -> break
            od;
#endif
#ifdef REUSE_PINS_FIRST
            checkpointed >= old;
#endif
            atomic { old = 0; i = 0 }
        :: else
        fi;
        ring[(appended + 1) % RS] = 0;
        atomic {
            g = appended + 1;
            S(g, 0) = S(v, 0); S(g, 1) = S(v, 1); S(g, 2) = S(v, 2);
            if
            :: S(g, 0) = g
            :: S(g, 1) = g; S(g, 2) = g
            fi;
            ring[g % RS] = g
        }
        atomic { appended = g; v = g };
        if
        :: atomic { visible = MAX(visible, appended) } /* a lazy commit */
        :: skip /* a durable one: the Syncer goes on */
        fi;
        atomic { STORE_PIN(NONE); g = 0 }
        if
        :: atomic { fresh = 1; v = 0; b = 0 } /* another handle comes in its place */
        :: skip
        fi }
    od
}

proctype Syncer() {
    byte n;
end:
    do
    :: SYNCER_STEPS { atomic { durable < appended -> n = appended }
#ifdef DURABLE_FIRST
        durable = n;
        atomic { visible = MAX(visible, n); n = 0 }
#else
        visible = MAX(visible, n);
        atomic { durable = MAX(durable, n); n = 0 }
#endif
        }
    od
}

/* Death is a flag that the checkpointer notices at its next step, whatever that is. */
bool dies;

proctype Death() {
    byte n;
    do
    :: n < DEATHS -> atomic { !dies -> dies = 1; n++ }
    :: else -> break
    od
}

inline forget() {
    G = 0; K = 0; i = 0; c0 = 0; c1 = 0; w0 = 0; w1 = 0; w2 = 0; t0 = 0; t1 = 0
}

proctype Checkpointer() {
    byte G, K, i, c0, c1;
    bool w0, w1, w2, t0, t1;
end:
    do
    :: { CHECKPOINTER_STEPS {
        atomic { appended > checkpointed || header_at > checkpointed }
        if /* what a dead checkpointer finished is published first */
        :: header_at > checkpointed -> checkpointed = header_at
        :: else
        fi;
        if
        :: atomic { durable > checkpointed -> G = durable } /* somebody made it durable */
        :: atomic { appended > durable -> G = appended };   /* or it does so itself */
            PUBLISH_VISIBLE(G);
            durable = MAX(durable, G)
        :: else
        fi;
        PUBLISH_FENCE;
        target = MAX(target, G);
#ifndef NO_LOWERING
        i = 0;
        do
        :: i < HANDLES -> atomic { G = (pin[i] < G -> pin[i] : G); i++ }
        :: else -> i = 0; break
        od;
#endif
        if
#ifdef BELOW_DEAD
        :: G <= checkpointed
        :: G > checkpointed ->
#else
        :: G <= checkpointed || G < header_to
        :: G > checkpointed && G >= header_to ->
#endif
            header_to = G;
            K = G;
#ifdef FROM_VIEW
            if :: K = appended :: skip fi;
#endif
            d_step { /* composed in scratch memory from home and the frames (checkpointed, K] */
                i = checkpointed + 1;
                do
                :: i <= K ->
                    assert(FRAME_OK(i)); /* FRAMES */
                    t0 = t0 || TOUCHES_0(i); t1 = t1 || TOUCHES_1(i); i++
                :: else -> i = 0; break
                od;
                if
                :: t0 ->
                    c0 = (S(K, 0) > checkpointed -> S(K, 0) : home[0]);
                    c1 = (S(K, 1) > checkpointed -> S(K, 1) : home[1])
                :: else
                fi
            }
            do
            :: t0 && !w0 -> atomic { home[0] = c0; w0 = 1 }
            :: t0 && !w1 -> atomic { home[1] = c1; w1 = 1 }
            :: t1 && !w2 -> atomic { home[2] = S(K, 2); w2 = 1 }
            :: (!t0 || (w0 && w1)) && (!t1 || w2) -> break
            od;
            header_at = G;
            checkpointed = G
        fi;
        atomic { forget() } }
        } unless { atomic { dies -> dies = 0; forget() } }
    od
}

init {
    atomic {
        byte k = 0;
        do
        :: k < HANDLES ->
            pin[k] = NONE;
#ifdef DELAYED
            pin_buffer[k] = EMPTY;
#endif
#if READERS > 0
            if :: k < READERS -> run Reader(k) :: else fi;
#endif
            k++
        :: else -> k = 0; break
        od;
#ifdef DELAYED
        run Memory();
#endif
        run Writer(WRITER_HANDLE); run Syncer(); run Checkpointer(); run Death()
    }
}
