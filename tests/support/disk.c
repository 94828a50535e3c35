/* SPDX-License-Identifier: MIT
 *
 * Small disks: see disk.h.
 */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "scratch.h"

/* Mounts of this process go away with it. */
static int separate_mounts(void) {
    static int separate = -1;
    if (separate < 0) {
        separate = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    }
    return separate;
}

const char *disk_small(unsigned megabytes) {
    const char *path = scratch_path("disk");
    const char *image = scratch_path("disk.img");
    char command[2000];
    snprintf(command, sizeof command,
             "PATH=$PATH:/usr/sbin:/sbin; rm -f %s && truncate -s %uM %s && "
             "mkfs.ext4 -q -F -O ^has_journal -m 0 %s >%s.log 2>&1 && mount -o loop %s %s >>%s.log 2>&1",
             image, megabytes, image, image, image, image, path, image);
    if (!separate_mounts() || (mkdir(path, 0700) != 0 && errno != EEXIST) || system(command) != 0) {
        fprintf(stderr, "# skipped: a small disk cannot be mounted here\n");
        return NULL;
    }
    return path;
}

const char *disk_in_memory(unsigned megabytes) {
    const char *path = scratch_path("disk");
    char options[64];
    snprintf(options, sizeof options, "size=%um,mode=0700", megabytes);
    if (!separate_mounts() || (mkdir(path, 0700) != 0 && errno != EEXIST) ||
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options) != 0) {
        fprintf(stderr, "# skipped: a small disk cannot be mounted here\n");
        return NULL;
    }
    return path;
}

void disk_remove(void) {
    assert_int_equal(umount2(scratch_path("disk"), 0), 0);
}

void disk_fill(void) {
    static const unsigned char page[KM_PAGE_SIZE] = {1};
    const int file = open(scratch_path("disk/filler"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    while (write(file, page, sizeof page) == sizeof page) {
    }
    assert_int_equal(errno, ENOSPC);
    close(file);
}
