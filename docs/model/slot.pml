/* SPDX-License-Identifier: MIT
 *
 * slot.pml: a handle dies with its pin set; somebody clears the pin; somebody else takes the slot.
 *
 * Roles: Handle (takes the slot if it is free, pins, may die with the pin set; twice one after another, and a second
 * one beside it), Clearer (a checkpointer or a writer that finds a dead pin in its way).
 *
 * Promises (assertions):
 *   PIN      while a handle is in a transaction its pin is what it stored
 *   CLEARED  (end state) a pin whose owner is dead is cleared in the end
 *
 * Rules, by the switch that takes each one out (a run with it must find an error):
 *   NO_CLEAR_LOCK  the clearer looks whether the lock of the slot is free, but does not take it
 *   KEEP_OLD_PIN   a handle takes a slot without clearing what a dead one left there
 */
#define NONE 100
#define FREE 0
#define CLEARER 9
byte lock;       /* who holds SLOT + i */
byte pin = NONE;
byte alive;      /* handles that may still come */

proctype Handle(byte id) {
    byte lives;
    do
    :: lives < 2 ->
        atomic { lock == FREE -> lock = id }
#ifndef KEEP_OLD_PIN
        pin = NONE;
#endif
        assert(pin == NONE); /* attached, not in a transaction */
        pin = id;
        if
        :: atomic { lives++; lock = FREE } /* it dies here, with its pin set */
        :: skip;
            assert(pin == id); /* PIN, at any later time */
            pin = NONE;
            atomic { lives++; lock = FREE }
        fi
    :: else -> break
    od;
    alive--
}

proctype Clearer() {
end:
    do
#ifdef NO_CLEAR_LOCK
    :: atomic { pin != NONE && lock == FREE };
        pin = NONE
#else
    :: atomic { pin != NONE && lock == FREE -> lock = CLEARER };
        pin = NONE;
        lock = FREE
#endif
    :: atomic { alive == 0 && lock == FREE && pin == NONE -> break } /* CLEARED */
    od
}

init { atomic { alive = 2; run Handle(1); run Handle(2); run Clearer() } }
