/* SPDX-License-Identifier: MIT
 *
 * Small disks: see disk.h.
 */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
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

static const char *not_here(const char *what) {
    fprintf(stderr, "# skipped: %s cannot be mounted here\n", what);
    return NULL;
}

static bool make_directory(const char *path) {
    return mkdir(path, 0755) == 0 || errno == EEXIST;
}

const char *disk_small(unsigned megabytes) {
    return disk_of("ext4", megabytes);
}

const char *disk_of(const char *kind, unsigned megabytes) {
    static const char *const kinds[][2] = {
        {"ext4", "-F -O ^has_journal -m 0"}, {"xfs", "-f -m reflink=1"}, {"btrfs", "-f"}};
    const char *path = scratch_path("disk");
    const char *image = scratch_path("disk.img");
    char command[2000];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i][0], kind) != 0)
            continue;
        snprintf(command, sizeof command,
                 "PATH=$PATH:/usr/sbin:/sbin; rm -f %s && truncate -s %uM %s && "
                 "mkfs.%s -q %s %s >%s.log 2>&1 && mount -o loop %s %s >>%s.log 2>&1",
                 image, megabytes, image, kind, kinds[i][1], image, image, image, path, image);
        if (separate_mounts() && make_directory(path) && system(command) == 0)
            return path;
    }
    return not_here(kind);
}

const char *disk_in_memory(unsigned megabytes) {
    const char *path = scratch_path("disk");
    char options[64];
    snprintf(options, sizeof options, "size=%um,mode=0700", megabytes);
    if (!separate_mounts() || !make_directory(path) ||
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options) != 0)
        return not_here("a file system in memory");
    return path;
}

const char *disk_lower(const char *name) {
    return scratch_path("lower/%s", name);
}

/* On a tmpfs of its own, because not every file system can be the upper layer. */
const char *disk_overlay(void) {
    const char *path = scratch_path("disk"), *layers = scratch_path("layers");
    char options[2500];
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", scratch_path("lower"), layers,
             layers);
    if (!separate_mounts() || !make_directory(path) || !make_directory(layers) ||
        !make_directory(scratch_path("lower")) || mount("tmpfs", layers, "tmpfs", MS_NOSUID | MS_NODEV, NULL) != 0)
        return not_here("an overlayfs");
    if (!make_directory(scratch_path("layers/upper")) || !make_directory(scratch_path("layers/work")) ||
        mount("overlay", path, "overlay", 0, options) != 0) {
        umount2(layers, 0);
        return not_here("an overlayfs");
    }
    return path;
}

void disk_remove(void) {
    assert_int_equal(umount2(scratch_path("disk"), 0), 0);
    (void)umount2(scratch_path("layers"), 0); /* of an overlayfs */
}

void disk_fill(void) {
    static const unsigned char page[KM_PAGE_SIZE] = {1};
    const int file = open(scratch_path("disk/filler"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    for (off_t part = 1 << 26; part >= 1 << 16; part /= 4) { /* most of it without writing it */
        struct stat status;
        assert_int_equal(fstat(file, &status), 0);
        while (fallocate(file, 0, status.st_size, part) == 0)
            status.st_size += part;
        assert_int_equal(errno, ENOSPC);
    }
    while (write(file, page, sizeof page) == sizeof page) {
    }
    assert_int_equal(errno, ENOSPC);
    close(file);
}
