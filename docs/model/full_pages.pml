/* SPDX-License-Identifier: MIT
 *
 * full_pages.pml: maps with KM_FULL_PAGES, for disks that garble a sector whose write is cut by power. While a
 * checkpoint writes a page home, that page may come back as garbage: the frames behind the header's generation must
 * hold it whole.
 *
 * Roles: Writer (commits that touch one page or do not; decides whether a frame carries the page whole), Checkpointer
 * (pins hold it back; it may die), Attacher (all die, control is rebuilt).
 *
 * Promise (assertion):
 *   WHOLE  of the frames behind the generation that the header names, the first that touches the page carries it whole
 *
 * Rules, by the switch that takes each one out (a run with it must find an error):
 *   NO_WRITER_LOCK  the target is stored without holding WRITER: between a writer's decision and its frame
 *   LOWERED         pins lower the checkpoint below the target that was stored
 *   TO_DURABLE      the target is the newest durable generation, not the newest appended one
 * Not needed (a run with it finds no error): every target that was stored under WRITER is a good one to go to.
 *   NEW_TARGET      the next attempt stores a new target though the last one was not reached
 */
#ifndef N
#define N 6
#endif
byte appended, durable, target, checkpointed, header_at, header_to;
bool touches[N + 2], whole[N + 2]; /* frame g touches the page; carries it whole */
bool writer_lock;
bool up = 1, writer_dies, checkpointer_dies;

proctype Writer() {
    byte last, i, seen;
    do
    :: {
        atomic { up && !writer_lock && appended < N -> writer_lock = 1 }
        if
        :: appended++ /* a commit that does not touch the page */
        :: atomic {
            seen = target;
            last = 0; i = header_at + 1; /* what it walked: frames behind its base; older touches count as long ago */
            do
            :: i <= appended -> if :: touches[i] -> last = i :: else fi; i++
            :: else -> i = 0; break
            od }
            atomic {
                touches[appended + 1] = 1;
                whole[appended + 1] = (last == 0 || last <= seen);
                appended++
            }
        fi;
        atomic { writer_lock = 0; last = 0; seen = 0 }
        } unless { atomic { writer_dies -> last = 0; i = 0; seen = 0; writer_dies = 0 } }
    od
}

proctype Syncer() {
    do
    :: atomic { up && durable < appended -> durable++ }
    od
}

proctype Checkpointer() {
    byte G;
    do
    :: {
        atomic { up && appended > checkpointed }
        if
#ifdef NEW_TARGET
        :: skip ->
#else
        :: target > checkpointed /* the last target was not reached: the same again */
        :: target <= checkpointed ->
#endif
#ifdef TO_DURABLE
            atomic { !writer_lock -> target = (durable > target -> durable : target) }
#elif defined(NO_WRITER_LOCK)
            G = appended;
            target = (G > target -> G : target)
#else
            atomic { !writer_lock -> target = appended } /* holding WRITER, which is let go at once */
#endif
        fi;
        G = target;
        durable >= G; /* the journal is synced up to it */
#ifdef TO_DURABLE
        G = (durable < G -> durable : G);
#endif
        if
#ifdef LOWERED
        :: atomic { G > checkpointed + 1 -> G-- }
#endif
        :: G = 0 /* pins or readers hold it back: another time */
        :: skip
        fi;
        if
        :: G > checkpointed && G >= header_to ->
            header_to = G;
            skip; /* home is written: the page may be garbage now */
            header_at = G;
            checkpointed = G
        :: else
        fi;
        G = 0
        } unless { atomic { checkpointer_dies -> G = 0; checkpointer_dies = 0 } }
    od
}

/* All die, anywhere; the first to attach rebuilds control from the header and the frames. */
proctype Attacher() {
    byte crashes;
    do
    :: atomic { up && crashes < 2 -> crashes++; up = 0; writer_dies = 1; checkpointer_dies = 1 }
        atomic {
            !writer_dies && !checkpointer_dies;
            writer_lock = 0; durable = appended; checkpointed = header_at; target = header_to;
            up = 1
        }
    od
}

/* At any time: is the first frame behind the header's generation that touches the page whole? */
proctype Watch() {
    byte i;
    do
    :: d_step {
        i = header_at + 1;
        do
        :: i <= appended && !touches[i] -> i++
        :: else -> break
        od;
        assert(i > appended || whole[i]); /* WHOLE */
        i = 0 }
    od
}

init { atomic { run Writer(); run Syncer(); run Checkpointer(); run Attacher(); run Watch() } }
