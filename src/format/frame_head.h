/* SPDX-License-Identifier: MIT
 *
 * What building and reading a frame share: the seals of its head.
 */
#ifndef KM_FORMAT_FRAME_HEAD_H
#define KM_FORMAT_FRAME_HEAD_H

#include <stdbool.h>
#include <stdint.h>

#include "layout.h"

/** The chain of a frame whose head says everything but its chain and its checksum. */
uint64_t km__frame_chain(uint64_t previous_chain, const struct km__frame_head *head);

/** What the head's `checksum` must be. */
uint32_t km__frame_head_checksum(const uint8_t uuid[16], const struct km__frame_head *head);

/**
 * Whether a head holds by itself, whatever stands before it: magic, checksum, and every field within what the others
 * and `room`, the bytes from the head to the end of the ring, allow. Then the frame lies within `room`, and body_length
 * is at most 1032 times stored_length.
 */
bool km__frame_head_holds(const struct km__frame_head *head, const uint8_t uuid[16], uint64_t room);

#endif
