/* SPDX-License-Identifier: MIT
 *
 * named.pml: an object backed by the paging file has one name, and ends with its last user.
 *
 * Roles: Handle (attaches, creating the object if it is absent, or sweeps; uses it, closes, takes the name away if it
 * was the last; may be killed at any step, and the kernel drops its locks then), Viewer (a handle without write
 * permission: it shares ATTACH and removes nothing), Last (comes when all have ended). An object is a file: of the
 * named one ATTACH and USER are locks as everywhere. A removal takes away whatever stands at the name in that instant,
 * as unlink() does; the look whether that is the right file is a step before it.
 *
 * Promises (assertions):
 *   ONE      who is attached at the same time is attached to the same object, and the name leads to it
 *   NO GHOST nobody attaches to an object that nobody kept alive: contents do not rise from the dead
 *   GET IN   who comes when all have ended creates a new object, whatever the dead have left (also: no deadlock)
 *   LEFT     when all have ended no name is left, if nobody was killed and a Handle was the last; else after one sweep
 *
 * Rules, by the switch that takes each one out (a run with it must find an error):
 *   PUBLISH_BARE    an object gets its name while its creator holds neither ATTACH nor USER
 *   USER_AFTER      an attach that found the object in use lets go of ATTACH before it holds USER
 *   NO_PROBE        an attach does not ask whether anybody holds USER
 *   USER_FIRST      an attach takes USER before it asks whether anybody has it, so that two viewers find each other
 *   NO_IS_AT        after ATTACH nobody looks whether the name still leads to the file that was opened
 *   REMOVE_NO_ATTACH    who closes takes the name away without ATTACH
 *   VIEWER_REMOVES  a name is taken away by who only shares ATTACH
 *   KEEP_DEAD       an attach that finds a dead object leaves its name where it is
 *   PUBLISH_OVER    an object takes its name from whatever has it
 *   LOOK_EARLY      who closes looks whether it is the last before it lets go of USER
 *   REAP_TRIES      who closes gives up when ATTACH is not free, as a sweep does
 * Not needed (a run with it finds no error; README.md says why it stays):
 *   USER_LATE       an object gets its name before its creator holds USER (but holds ATTACH)
 *   ATTACH_LATE     an object gets its name before its creator holds ATTACH (but holds USER)
 *
 * Sizes: HANDLES, VIEWERS, LIVES of each handle, DEATHS in all, one of each handle.
 */
#ifndef HANDLES
#define HANDLES 3
#endif
#ifndef VIEWERS
#define VIEWERS 0
#endif
#ifndef LIVES
#define LIVES 1
#endif
#ifndef DEATHS
#define DEATHS 3
#endif
#define ALL (HANDLES + VIEWERS)
#define LAST ALL              /* the number of the process Last */
#define FILES (ALL + 2)       /* each has at most one file open, one more has the name, and there is one to create */
#define FREE 255
#define BIT(h) (1 << (h))
#define WITHOUT(set, h) ((set) & (255 - BIT(h)))

byte name;                    /* the file that the name leads to, 0: none */
byte attach_lock[FILES + 1] = FREE;
byte attach_readers[FILES + 1];
byte users[FILES + 1];        /* who holds USER of each file */
byte at[ALL + 1];             /* the file that a process has open */

/* Ghost. */
byte in_use[FILES + 1];       /* who is attached, or has found it in use and is about to be */
bool dead[FILES + 1];         /* it was in use and is no more */
bool dies[ALL + 1];
byte ended;
bool killed;

#define F at[h]

inline open_name() {
    F = name
}

/* A file that nobody has open and that has no name exists no more; its number is free for another. */
inline let_go() {
    d_step {
        i = F; F = 0;
        j = 0;
        do :: j <= ALL && at[j] != i -> j++ :: else -> break od;
        if :: j > ALL && name != i -> dead[i] = 0 :: else fi;
        i = 0; j = 0
    }
}

inline new_file() {
    d_step {
        i = 1;
        do
        :: j = 0;
            do :: j <= ALL && at[j] != i -> j++ :: else -> break od;
            if :: j <= ALL || name == i -> i++ :: else -> break fi
        od;
        assert(i <= FILES);
        F = i; i = 0; j = 0
    }
}

inline join() {
    d_step {
        assert(!dead[F]); /* NO GHOST */
        in_use[F] = in_use[F] | BIT(h);
        i = 1;
        do :: i <= FILES -> assert(i == F || in_use[i] == 0); i++ :: else -> i = 0; break od; /* ONE */
        assert(name == F)
    }
}

inline leave() {
    d_step {
        if
        :: in_use[F] & BIT(h) ->
            in_use[F] = WITHOUT(in_use[F], h);
            if :: in_use[F] == 0 -> dead[F] = 1 :: else fi
        :: else
        fi
    }
}

inline remove_name() {
    d_step {
        if
        :: name != 0 ->
            assert(in_use[name] == 0); /* ONE */
            i = name; name = 0; j = 0;
            do :: j <= ALL && at[j] != i -> j++ :: else -> break od;
            if :: j > ALL -> dead[i] = 0 :: else fi;
            i = 0; j = 0
        :: else
        fi
    }
}

#define CAN_ATTACH (attach_lock[F] == FREE && attach_readers[F] == 0)
#define RELEASE_ATTACH if :: attach_lock[F] == h -> attach_lock[F] = FREE :: else fi
#define OTHERS WITHOUT(users[F], h)
#ifdef NO_IS_AT
#define IS_AT true
#else
#define IS_AT (name == F)
#endif

/* Take the name away if nobody uses what it leads to: at the last close it waits for ATTACH, a sweep only tries. */
inline reap(tries) {
    open_name();
    if
    :: atomic { F != 0 && OTHERS != 0 -> let_go() } /* who uses it takes the name away in the end */
    :: F != 0 ->
#ifdef REMOVE_NO_ATTACH
        if :: tries -> atomic { CAN_ATTACH -> attach_lock[F] = h } :: else fi;
#else
        if
        :: atomic { CAN_ATTACH -> attach_lock[F] = h }
        :: atomic { tries && !CAN_ATTACH -> let_go(); goto reaped }
        fi;
#endif
        if
        :: atomic { IS_AT && users[F] == 0 -> skip }; remove_name()
        :: atomic { !IS_AT || users[F] != 0 -> skip }
        fi;
        atomic { RELEASE_ATTACH; let_go() }
    :: else
    fi;
reaped:
    skip
}
#ifdef REAP_TRIES
#define AT_CLOSE true
#else
#define AT_CLOSE false
#endif

proctype Handle(byte h) {
    byte lives, i, j;
    bool last = 1;
    do
    :: lives < LIVES ->
        {
        if
        :: true -> goto again
        :: true -> reap(true); goto end_of_life
        fi;
again:  open_name();
        if
        :: F != 0 ->
            atomic { CAN_ATTACH -> attach_lock[F] = h }
            if :: atomic { !IS_AT -> RELEASE_ATTACH; let_go(); goto again } :: atomic { IS_AT } fi;
#ifdef USER_FIRST
            users[F] = users[F] | BIT(h);
#endif
            if
#ifdef NO_PROBE
            :: atomic { true -> join() }
#else
            :: atomic { OTHERS != 0 -> join() }
#endif
#ifdef USER_AFTER
                RELEASE_ATTACH;
#endif
                atomic { users[F] = users[F] | BIT(h); RELEASE_ATTACH }
#ifndef NO_PROBE
            :: atomic { OTHERS == 0 -> users[F] = WITHOUT(users[F], h) }
#ifndef KEEP_DEAD
                remove_name();
#endif
                atomic { RELEASE_ATTACH; let_go() }
                if
                :: goto create
                :: goto end_of_life /* it is absent, and was not to be created */
                fi
#endif
            fi
        :: else ->
create:     atomic {
                new_file();
#if !defined(ATTACH_LATE) && !defined(PUBLISH_BARE)
                attach_lock[F] = h;
#endif
#if !defined(USER_LATE) && !defined(PUBLISH_BARE)
                users[F] = users[F] | BIT(h)
#endif
            }
            if
#ifdef PUBLISH_OVER
            :: atomic { true -> name = F; join() }
#else
            :: atomic { name == 0 -> name = F; join() }
            :: atomic { name != 0 -> users[F] = 0; RELEASE_ATTACH; let_go(); goto again } /* somebody was quicker */
#endif
            fi;
#if defined(ATTACH_LATE) || defined(PUBLISH_BARE)
            atomic { CAN_ATTACH -> attach_lock[F] = h }
#endif
#if defined(USER_LATE) || defined(PUBLISH_BARE)
            users[F] = users[F] | BIT(h);
#endif
            RELEASE_ATTACH
        fi;
        assert(name == F); /* ONE, at any time while it is attached */
#ifdef LOOK_EARLY
        last = (OTHERS == 0);
#endif
        atomic { leave(); users[F] = WITHOUT(users[F], h); let_go() }
        if :: last -> reap(AT_CLOSE) :: else fi;
end_of_life:
        atomic { lives++; last = 1 }
        } unless {
            atomic { dies[h] ->
                if
                :: F != 0 -> leave(); RELEASE_ATTACH; users[F] = WITHOUT(users[F], h); let_go()
                :: else
                fi;
                dies[h] = 0; i = 0; j = 0; last = 1; lives++ }
        }
    :: else -> break
    od;
    ended++
}

#if VIEWERS > 0
proctype Viewer(byte h) {
    byte i, j;
again:
    open_name();
    if
    :: F != 0 ->
        atomic { attach_lock[F] == FREE -> attach_readers[F]++ }
        if :: atomic { !IS_AT -> attach_readers[F]--; let_go(); goto again } :: atomic { IS_AT } fi;
#ifdef USER_FIRST
        users[F] = users[F] | BIT(h);
#endif
        if
        :: atomic { OTHERS != 0 -> join() }
            atomic { users[F] = users[F] | BIT(h); attach_readers[F]-- }
            assert(name == F); /* ONE */
            atomic { leave(); users[F] = WITHOUT(users[F], h); let_go() }
            killed = 1 /* nobody who could take the name away is left, perhaps */
        :: atomic { OTHERS == 0 -> users[F] = WITHOUT(users[F], h) }
#ifdef VIEWER_REMOVES
            remove_name();
#endif
            atomic { attach_readers[F]--; let_go() }
        fi
    :: else
    fi;
    ended++
}
#endif

proctype Death() {
    byte h, deaths;
    do
    :: h < HANDLES && deaths < DEATHS ->
        if
        :: atomic { at[h] != 0 -> dies[h] = 1; killed = 1; h++; deaths++ }
        :: h++
        fi
    :: else -> break
    od
}

proctype Last() {
    byte h = LAST, i, j, looks;
    atomic {
        ended == ALL;
        assert(killed || name == 0); /* LEFT */
        if
        :: reap(true);
            assert(name == 0) /* LEFT */
        :: looks < 2 ->
again:      open_name();
            looks++;
            assert(looks <= 2); /* GET IN */
            if
            :: F != 0 ->
                assert(CAN_ATTACH && users[F] == 0); /* GET IN */
#ifndef KEEP_DEAD
                remove_name();
#endif
                let_go(); goto again
            :: else
            fi
        fi
    }
}

init {
    atomic {
        byte k = 0;
        do :: k < HANDLES -> run Handle(k); k++ :: else -> break od;
#if VIEWERS > 0
        do :: k < ALL -> run Viewer(k); k++ :: else -> break od;
#endif
        k = 0;
        run Death(); run Last()
    }
}
