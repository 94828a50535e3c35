/* SPDX-License-Identifier: MIT
 *
 * A place of the test's own for objects backed by the paging file, so that no test meets those of the user: KEEPMAP_SHM
 * names a new directory on tmpfs, within the one that it named before if it did. Called before the library is used.
 */
#ifndef KM_TESTS_OBJECTS_H
#define KM_TESTS_OBJECTS_H

#include <stddef.h>

/** Make the directory and name it in KEEPMAP_SHM, for this process and those that it starts. It is removed when the
 *  process that made it ends. */
void objects_start(void);

/** The file that stands for an object. The text lives until 8 more were asked for. */
const char *objects_path(const char *target);

/** Entries in the directories of `Local\` and `Global\` names; each is told on standard error if there are any. */
unsigned objects_left(void);

#endif
