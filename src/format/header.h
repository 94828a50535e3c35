/* SPDX-License-Identifier: MIT
 *
 * Header slots: sealing one, checking one, choosing between two. Pure bytes.
 */
#ifndef KM_FORMAT_HEADER_H
#define KM_FORMAT_HEADER_H

#include <stddef.h>

#include "layout.h"

/** Compute and set the checksum. */
void km__header_seal(struct km__header *header);

/**
 * Check one slot: magic, checksum, version, every field's range, the order and the overlap of the regions, reserved
 * bytes. 0, or KM_ENOTMAP (no magic), KM_EHEADER (checksum or a field), KM_EVERSION (a newer format whose checksum
 * holds), KM_EFEATURE (unknown incompatible feature, unknown mode or checksum kind). `why` (NULL allowed) gets the
 * sentence. The version is looked at before fields that another version may lay out differently.
 */
int km__header_check(const struct km__header *header, char *why, size_t why_size);

/**
 * Choose between two copies of slots A and B. `*chosen` becomes 0 or 1: the valid one with the higher sequence. If none
 * is valid, the more telling error of the two is returned (KM_EVERSION, KM_EFEATURE, KM_EHEADER, then KM_ENOTMAP).
 * `results` (NULL allowed) gets the result of each slot.
 */
int km__header_choose(const struct km__header slots[2], int *chosen, int results[2], char *why, size_t why_size);

/** First byte after the data region, and after the file that the header describes. */
uint64_t km__header_data_end(const struct km__header *header);
uint64_t km__header_file_end(const struct km__header *header);

/**
 * Lay out the regions for the sizes data_size, data_capacity and journal_size that stand in `header`, as for a new map.
 * journal_configured becomes journal_size if it is 0. KM_ESIZE if they are out of range or do not fit below
 * KM__SIZE_MAX.
 */
int km__header_layout(struct km__header *header);

#endif
