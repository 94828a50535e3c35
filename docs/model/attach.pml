/* SPDX-License-Identifier: MIT
 *
 * attach.pml: who is first rebuilds control, the last one leaves the map clean, and the journal's file shrinks under
 * nobody.
 *
 * Roles: Handle (attaches for writing, commits, detaches or dies at any step), Viewer (a handle without write
 * permission: maps the journal, holds USER). What a power cut leaves in control, and handles without write permission
 * that look at it, are in read_only.pml.
 *
 * Promises (assertions):
 *   CONTROL   who has attached works with a control that was rebuilt after the last time that nobody was attached
 *   ALONE     control is not rebuilt while a handle is attached
 *   MAPPED    the file is never shorter than what somebody has mapped of it
 *
 * Rules, by the switch that takes each one out (a run with it must find an error):
 *   NO_ATTACH        nothing is held from the look at who is attached to the end of the rebuild
 *   ATTACH_SHORT     ATTACH is let go when the own slot is locked, before control is rebuilt
 *   SLOT_LATE        the own slot is locked after ATTACH was let go
 *   EPOCH_TELLS      a nonzero epoch, not a locked slot, tells that somebody is attached
 *   SLOT_LAST        an attach that fails lets go of ATTACH before its slot
 *   VIEWER_NO_ATTACH a handle without write permission looks at the header before it holds USER, without ATTACH
 *   SHRINK_ANYWAY    the first to attach shortens the journal without a look at USER
 *
 * Sizes: HANDLES, VIEWERS, LIVES of each handle, DEATHS.
 */
#ifndef HANDLES
#define HANDLES 2
#endif
#ifndef VIEWERS
#define VIEWERS 0
#endif
#ifndef LIVES
#define LIVES 2
#endif
#ifndef DEATHS
#define DEATHS 2
#endif
#define FREE 255

/* Locks: the kernel drops them when their holder dies. */
byte attach_lock = FREE;    /* write lock */
byte attach_readers;        /* read locks */
bool slot_locked[HANDLES];
byte users;                 /* read locks of USER */
byte users_lock = FREE;

/* The file. */
byte frames;                /* complete frames in the journal */
bool long_journal;          /* the header says: the journal is longer than configured */
byte file_length = 1, header_length = 1; /* 2: long */

/* Control. */
bool epoch;                 /* 1: of a rebuild that was finished */
byte appended;

/* Ghost. */
byte attached;              /* handles that have attached */
byte joining;               /* handles that found others attached and are about to join them */
bool rebuilt;               /* control was rebuilt in this session */
byte mapped;                /* length that the viewer has mapped, 0: nothing */
bool dies[HANDLES];

#define ANY_SLOT_LOCKED \
    (slot_locked[0] || (HANDLES > 1 && slot_locked[1 % HANDLES]) || (HANDLES > 2 && slot_locked[2 % HANDLES]))

/* A session ends when nobody is attached, nor has found somebody attached and is about to join. */
inline leave(h) {
    if :: in -> attached--; in = 0 :: else fi;
    if :: joins -> joining--; joins = 0 :: else fi;
    if :: !ANY_SLOT_LOCKED && joining == 0 -> rebuilt = 0 :: else fi
}

/* The first to attach makes control anew, its epoch last. */
inline rebuild(h) {
    atomic { assert(attached == 0); rebuilt = 0 } /* ALONE */
    epoch = 0;
    atomic { slot_locked[h] = 1; users++ }
#ifdef ATTACH_SHORT
    attach_lock = FREE;
#endif
    if /* a journal that grew is shortened by who is alone */
    :: header_length == 2 && frames == 0 &&
#ifdef SHRINK_ANYWAY
       true ->
#else
       users == 1 && users_lock == FREE -> users_lock = h; /* write lock: nobody else has USER */
       if :: users > 1 -> goto no_shrink :: else fi;
#endif
        header_length = 1;
        atomic { file_length = 1; assert(mapped <= file_length) } /* MAPPED */
    :: else
    fi;
no_shrink:
    if :: users_lock == h -> users_lock = FREE :: else fi;
    appended = frames;
    atomic { rebuilt = 1; epoch = 1 }
}

proctype Handle(byte h) {
    byte lives;
    bool in, joins, first;
    do
    :: lives < LIVES ->
        {
#ifndef NO_ATTACH
        atomic { attach_lock == FREE && attach_readers == 0 -> attach_lock = h }
#endif
        atomic {
#ifdef EPOCH_TELLS
            first = !epoch;
#else
            first = !ANY_SLOT_LOCKED;
#endif
            if :: !first -> joins = 1; joining++ :: else fi
        }
        if
        :: first -> rebuild(h)
        :: !first ->
#ifdef SLOT_LATE
            attach_lock = FREE;
#endif
            atomic { slot_locked[h] = 1; users++; joins = 0; joining-- }
        fi;
        if
        :: skip ->
            atomic { in = 1; attached++ }
            if :: attach_lock == h -> attach_lock = FREE :: else fi;
            assert(rebuilt && epoch); /* CONTROL */
            do
            :: atomic { frames < 2 -> assert(rebuilt && appended <= frames); frames++ } /* a frame is written */
                atomic { assert(rebuilt); appended = frames }
            :: atomic { frames > 0 -> frames = 0; appended = 0 }                        /* all was brought home */
            :: atomic { file_length == 1 -> file_length = 2; header_length = 2 }        /* the journal grows */
            :: break
            od;
            atomic { attach_lock == FREE && attach_readers == 0 -> attach_lock = h }
            atomic { slot_locked[h] = 0; users--; leave(h) }
            attach_lock = FREE
        :: skip -> /* the attach fails after all, in or after the rebuild */
#ifdef SLOT_LAST
            if :: first -> atomic { epoch = 0; rebuilt = 0 } :: else fi;
            attach_lock = FREE;
            atomic { slot_locked[h] = 0; users--; leave(h) }
#else
            if :: first -> atomic { epoch = 0; rebuilt = 0 } :: else fi;
            atomic { slot_locked[h] = 0; users--; leave(h) }
            attach_lock = FREE
#endif
        fi;
        atomic { lives++; first = 0 }
        } unless {
            atomic { dies[h] ->
                if :: attach_lock == h -> attach_lock = FREE :: else fi;
                if :: users_lock == h -> users_lock = FREE :: else fi;
                if :: slot_locked[h] -> slot_locked[h] = 0; users-- :: else fi;
                leave(h); lives++; first = 0; dies[h] = 0 }
        }
    :: else -> break
    od
}

#if VIEWERS > 0
proctype Viewer() {
    byte length;
    do
    :: {
#ifdef VIEWER_NO_ATTACH
        length = header_length;
        atomic { users_lock == FREE -> users++ }
#else
        atomic { attach_lock == FREE -> attach_readers++ }
        atomic { users_lock == FREE -> users++ }
        length = header_length;
#endif
        atomic { mapped = length; assert(mapped <= file_length) } /* MAPPED */
#ifndef VIEWER_NO_ATTACH
        attach_readers--;
#endif
        atomic { mapped = 0; users--; length = 0 }
        }
    od
}
#endif

proctype Death() {
    byte n, h;
    do
    :: atomic { n < DEATHS -> n++;
        if :: h = 0
#if HANDLES > 1
           :: h = 1
#endif
#if HANDLES > 2
           :: h = 2
#endif
        fi;
        if :: slot_locked[h] || attach_lock == h -> dies[h] = 1 :: else fi;
        h = 0 }
    :: break
    od
}

init {
    atomic {
        byte k;
        do :: k < HANDLES -> run Handle(k); k++ :: else -> break od;
        k = 0;
#if VIEWERS > 0
        run Viewer();
#endif
        run Death()
    }
}
