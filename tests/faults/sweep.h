/* SPDX-License-Identifier: MIT
 *
 * Sweeps: a scenario is run once to count its calls of the system, and then again for each of them and each way in
 * which it can fail, that one call failing. What must hold after every run, whatever failed:
 *
 *  - a call that was interrupted, or did a part of its work, is not seen, and neither is what the system lacks;
 *  - the result is the one that stands for the system's error, with the path and the system's words in the detail;
 *  - no descriptor, mapping, block of memory or temporary file is left when all is closed;
 *  - the map is at a committed state, and good; where no sync failed, a second attempt succeeds.
 */
#ifndef KM_TESTS_SWEEP_H
#define KM_TESTS_SWEEP_H

#include "check.h"
#include "fault_layer.h"

#define SWEEP_PAGES 20u
#define SWEEP_SIZE (SWEEP_PAGES * KM_PAGE_SIZE - 100)

/** One run of a scenario. */
struct sweep {
    const struct scenario *scenario;
    const struct fault *fault; /* NULL: the run that counts */
    bool happened;
    const char *path; /* of the map */
    const char *copy; /* of a second file that the scenario may make */
    km_map *map;      /* what the scenario works with */
    km_map *other;    /* a handle beside it */
    const char *step; /* the call of the library that was the last one */
    int result;       /* what it gave: the first one that failed */
    char detail[1024];
    bool failed; /* a sync failed, and the map is closed to commits */
    int before;  /* the version that the map is at before the run */
};

struct scenario {
    const char *name;
    const char *target;                   /* of the map; NULL: a file in the test's directory */
    uint32_t mode;                        /* enum km_mode */
    uint32_t flags;                       /* of the handle */
    const char *tracker;                  /* KEEPMAP_TRACKER; NULL: the best */
    void (*prepare)(struct sweep *sweep); /* files and handles; nothing fails */
    int (*run)(struct sweep *sweep);      /* what is swept: see sweep_step() */
    void (*settle)(struct sweep *sweep);  /* what must hold then; closes all */
    /** Whether the library may make up for the fault, or pass it over, though it is one that matters elsewhere; or 1
     *  for a result that is not the one of the table. NULL: no. */
    bool (*excuses)(const struct sweep *sweep);
    unsigned repeat;                /* failures in a row; 0: one */
    const struct fault_lack *lacks; /* what the system lacks in all runs */
};

/** Sweep all of the scenarios; the present cmocka test fails if something did not hold. */
void sweep_all(const struct scenario *scenarios, size_t count);
#define SWEEP(scenarios) sweep_all((scenarios), sizeof(scenarios) / sizeof *(scenarios))

/** In run(): note the call, and go on only if it gave 0. */
#define sweep_step(sweep, call) (((sweep)->result = (call)) != 0 ? ((sweep)->step = #call, true) : false)

/** Something must hold; if not, it is told with the scenario and the fault, and the test fails in the end. */
#define sweep_expect(sweep, condition, ...) sweep_note((sweep), (condition), __VA_ARGS__)
void sweep_note(const struct sweep *sweep, bool holds, const char *format, ...) __attribute__((format(printf, 3, 4)));

/** The library's error that stands for the way in which the call failed. */
int sweep_expected(const struct fault *fault);

/** Whether a sync fails, so that the map is closed to commits. A write that is waited for can also be refused. */
bool sweep_is_sync(const struct fault *fault);

#endif
