/* SPDX-License-Identifier: MIT
 *
 * close.pml: maps that are closed clean, and what the next to attach may leave out because of it.
 *
 * One role, Session: it attaches, commits, checkpoints, closes clean or dies, again and again; beside it the disk whose
 * write-back can fail, and the power. (What roles do to each other is in durability.pml.) The disk is disk.pml.
 *
 * Promises (assertions): POWER, NO ALARM and ROT as in durability.pml; FRAMES: the frames that a checkpoint needs are
 * there.
 *
 * An attach leaves out to write again and to sync what it found, and the search for evidence of damage, if both slots
 * are valid, say clean and the same generation, and no frame follows. Rules, by the switch that takes each one out (a
 * run with it must find an error):
 *   ONE_SLOT_CLEAN    it believes the newest slot alone
 *   KNOWN_DURABLE     it takes the newest slot for durable, so that the next write of a slot does not repair it first
 *   NO_UNCLEAN        the first frame of a session is written while the header still says clean
 * Not needed (a run with it finds no error, because NO_UNCLEAN is kept):
 *   FRAMES_CLEAN      it does not look whether frames follow
 *
 * Sizes: K commits in all, RS frames in the ring, SESSIONS, FAILURES of write-back, CUTS of power that the model goes
 * on from.
 */
#ifndef K
#define K 3
#endif
#ifndef RS
#define RS 3
#endif
#ifndef SESSIONS
#define SESSIONS 3
#endif
#ifndef FAILURES
#define FAILURES 1
#endif
#ifndef CUTS
#define CUTS 0
#endif
#define SKIP_SEARCH_WHEN_CLEAN
#define MAX(a, b) ((a) > (b) -> (a) : (b))

#include "disk.pml"

#define SELF 0
#define BOTH_CLEAN (header_clean[cache[SLOT(0)]] && header_clean[cache[SLOT(1)]] && !SLOTS_DIFFER)
byte appended, durable, checkpointed, head;
byte failures, cuts;

/* One durable write of a slot, the newest repaired before if it is not known to be durable. */
inline store_slot(commit, target, clean) {
    if
    :: !failed && NEWEST != header_durable ->
        atomic { put(SLOT(NEWER_SLOT), NEWEST) }
        sync(SELF, EVERYTHING);
        if :: !failed -> header_durable = NEWEST :: else fi
    :: else
    fi;
    if
    :: !failed ->
        write_slot(commit, target, clean);
        sync(SELF, EVERYTHING);
        if :: !failed -> header_durable = NEWEST :: else fi
    :: else
    fi
}

inline home_cell(c) {
    if
    :: !failed && generation[S(head, c)] > checkpointed -> atomic { put(c, S(head, c)) }
    :: else
    fi
}

/* Bring home up to the newest commit. */
inline checkpoint(clean) {
    if
    :: !failed && (appended > checkpointed || clean) ->
        d_step {
            i = checkpointed + 1;
            do
            :: i <= appended -> assert(cache[FRAME(i)] != TORN && generation[cache[FRAME(i)]] == i); i++ /* FRAMES */
            :: else -> i = 0; break
            od
        }
        store_slot(header_at[NEWEST], appended, 0);
        home_cell(0); home_cell(1); home_cell(2);
        if :: !failed -> sync(SELF, EVERYTHING) :: else fi;
        store_slot(head, appended, clean);
        store_slot(head, appended, clean);
        if :: !failed -> checkpointed = appended :: else fi
    :: else
    fi
}

inline commit() {
    if
    :: !failed && header_clean[NEWEST] ->
#ifdef NO_UNCLEAN
        skip
#else
        store_slot(header_at[NEWEST], header_to[NEWEST], 0)
#endif
    :: else
    fi;
    if
    :: !failed && commits < K && (appended + 1 <= RS || checkpointed >= appended + 1 - RS) ->
        atomic { put(FRAME(appended + 1), TORN) }
        atomic {
            commits++;
            parent[commits] = head; generation[commits] = appended + 1; known_durable[commits] = durable;
            S(commits, 0) = S(head, 0); S(commits, 1) = S(head, 1); S(commits, 2) = S(head, 2);
            if
            :: S(commits, 0) = commits
            :: S(commits, 1) = commits; S(commits, 2) = commits
            fi;
            put(FRAME(appended + 1), commits);
            head = commits; appended++
        }
        if
        :: skip -> /* a durable commit */
            sync(SELF, JOURNAL);
            if :: !failed -> atomic { durable = appended; acknowledged = head } :: else fi
        :: skip /* a lazy one */
        fi
    :: else
    fi
}

proctype Session() {
    byte sessions, n, i, slot, slot_index;
    byte kept[RS];
    bool failed;
    do
    :: sessions < SESSIONS ->
        /* Attach. */
        OPEN(SELF);
        d_step {
            n = 0; failed = 0;
            c_code {
                int mixed;
                const int found = recover(now.cache, &mixed);
                if (found < 0 || mixed || !contains(found, now.acknowledged))
                    now.bad = 1;
                else
                    PSession->n = found;
            };
            assert(!bad);
            slot_index = NEWER_SLOT; slot = NEWEST;
            i = 0;
            do :: i < RS -> kept[i] = cache[CELLS + i]; i++ :: else -> i = 0; break od
        }
        atomic { checkpointed = generation[header_at[slot]]; appended = generation[n]; head = n; header_durable = 0 }
        if
#ifdef ONE_SLOT_CLEAN
        :: header_clean[slot] && n == header_at[slot]
#elif defined(FRAMES_CLEAN)
        :: BOTH_CLEAN
#else
        :: BOTH_CLEAN && n == header_at[slot]
#endif
            -> skip;
#ifdef KNOWN_DURABLE
            header_durable = slot
#endif
        :: else ->
            atomic { put(SLOT(slot_index), slot) }
            i = generation[header_at[slot]] + 1;
            do
            :: i <= generation[n] -> atomic { put(FRAME(i), kept[i % RS]); i++ }
            :: else -> i = 0; break
            od;
            sync(SELF, EVERYTHING);
            if :: !failed -> header_durable = NEWEST :: else fi;
            if
            :: !failed && SLOTS_DIFFER ->
                store_slot(header_at[NEWEST], header_to[NEWEST], 0)
            :: else
            fi
        fi;
        atomic {
            durable = (failed -> 0 : appended);
            n = 0; slot = 0; slot_index = 0;
            do :: i < RS -> kept[i] = 0; i++ :: else -> i = 0; break od
        }
        /* Work. */
        do
        :: !failed && commits < K -> commit()
        :: !failed && appended > checkpointed && durable == appended -> checkpoint(0)
        :: break
        od;
        /* Leave: clean, or by death. */
        if
        :: !failed ->
            sync(SELF, JOURNAL);
            if :: !failed -> durable = appended; checkpoint(1) :: else fi
        :: skip
        fi;
        if
        :: atomic { cuts < CUTS -> cuts++; cut_power() }
        :: skip
        fi;
        sessions++
    :: else -> break
    od
}


proctype Disk() {
    do
    :: atomic { failures < FAILURES && dirty != 0 -> failures++; fail_write_back() }
    :: atomic { trouble && x == 0 -> drop_page() }
    od
}

init { atomic { start_disk(); run Session(); run Disk(); run Power() } }
