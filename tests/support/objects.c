/* SPDX-License-Identifier: MIT
 *
 * The test's own place for objects: see objects.h.
 */
#include "objects.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scratch.h"

static char base[128];

void objects_start(void) {
    const char *within = getenv("KEEPMAP_SHM"); /* who runs the test may have a place for what it leaves behind */
    snprintf(base, sizeof base, "%.100s/keepmap-objects-XXXXXX", within != NULL ? within : "/dev/shm");
    if (mkdtemp(base) == NULL || chmod(base, 01777) != 0 || setenv("KEEPMAP_SHM", base, 1) != 0) {
        perror(base);
        abort();
    }
    scratch_remove_too(base);
}

/* The directory of a scope. */
static void scope_path(char *path, size_t size, int local) {
    if (local)
        snprintf(path, size, "%s/keepmap-%u", base, (unsigned)geteuid());
    else
        snprintf(path, size, "%s/keepmap-global", base);
}

const char *objects_path(const char *target) {
    static char paths[8][512];
    static unsigned next;
    char scope[192];
    char *path = paths[next++ % 8];
    scope_path(scope, sizeof scope, target[0] == 'L');
    snprintf(path, sizeof paths[0], "%s/%s", scope, strchr(target, '\\') + 1);
    return path;
}

static unsigned count_entries(const char *path) {
    DIR *directory = opendir(path);
    unsigned count = 0;
    if (directory == NULL)
        return 0;
    for (const struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        fprintf(stderr, "# left: %s/%s\n", path, entry->d_name);
        count++;
    }
    closedir(directory);
    return count;
}

unsigned objects_left(void) {
    char scope[192];
    unsigned count = 0;
    for (int local = 0; local < 2; local++) {
        scope_path(scope, sizeof scope, local);
        count += count_entries(scope);
    }
    return count;
}
