/* SPDX-License-Identifier: MIT
 *
 * Judging what a power cut or a death has left of a script's map: it shows exactly one generation within the bounds,
 * byte for byte, with all checksums right, and goes on from there.
 */
#ifndef KM_TESTS_JUDGE_H
#define KM_TESTS_JUDGE_H

#include "campaign.h"
#include "script.h"

/** The power went at that point: judge images of it, of each policy. A visitor of script_for_each_point(). */
void judge_cuts(struct script *script, const struct point *point);

/** All processes died at that point, and the power goes in the next session. Another visitor. */
void judge_deaths(struct script *script, const struct point *point);

/** The handles of a session in which a sync failed: nobody commits any more, and all can read. */
void judge_poisoned(struct script *script);

/** All have closed after a failed sync; the kernel may have let go of what the disk does not have (`evict`). What the
 *  next session adopts is durable by then. */
void judge_recovery(struct script *script, bool evict, uint64_t image_seed);

#endif
