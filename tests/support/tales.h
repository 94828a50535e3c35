/* SPDX-License-Identifier: MIT
 *
 * The tales of the golden files, by what their files show: see data/README.md and story.h.
 */
#ifndef KM_TESTS_TALES_H
#define KM_TESTS_TALES_H

#include "story.h"

struct image tell_new(struct story *story);
struct image tell_closed(struct story *story);
struct image tell_killed(struct story *story);
struct image tell_compressed(struct story *story);
struct image tell_full_pages(struct story *story);
struct image tell_wrapped(struct story *story);
struct image tell_grown(struct story *story);
struct image tell_moved(struct story *story);
struct image tell_checkpoint(struct story *story);
struct image tell_torn_page(struct story *story);
struct image tell_torn_slot(struct story *story);
struct image tell_live(struct story *story);
struct image tell_live_unsealed(struct story *story);
struct image tell_live_grown(struct story *story);
struct image tell_raw(struct story *story);
struct image tell_torn_tail(struct story *story);
struct image tell_half_published(struct story *story);
struct image tell_move_died(struct story *story);
struct image tell_move_half(struct story *story);
struct image tell_ring_half(struct story *story);
struct image tell_ring_grown(struct story *story);
struct image tell_copy(struct story *story);
struct image tell_compatible(struct story *story);
struct image tell_frames(struct story *story);

#endif
