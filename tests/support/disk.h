/* SPDX-License-Identifier: MIT
 *
 * A small disk of the test's own, which can be filled. It is mounted at scratch_path("disk"), one at a time, in a
 * namespace of the process, so that it goes away with it.
 */
#ifndef KM_TESTS_DISK_H
#define KM_TESTS_DISK_H

/** ext4 in a file. Its path; NULL, with a notice, where that is not permitted. */
const char *disk_small(unsigned megabytes);

/** The same with "xfs" (300 megabytes at least; there files can share blocks) or "btrfs" (128). */
const char *disk_of(const char *kind, unsigned megabytes);

/** The same in memory, where a file's holes take space when they are looked at. */
const char *disk_in_memory(unsigned megabytes);

/** An overlayfs of two directories beside the disk, which are made: what is in disk_lower() is seen at the path. */
const char *disk_overlay(void);
const char *disk_lower(const char *name);

void disk_remove(void);

/** Take what is left of the disk, to the last page: a file `filler` in it. */
void disk_fill(void);

#endif
