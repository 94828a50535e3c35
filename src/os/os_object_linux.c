/* SPDX-License-Identifier: MIT
 *
 * Objects backed by the paging file, as Linux has them: files of a tmpfs. `Local\NAME` is NAME in BASE/keepmap-UID,
 * `Global\NAME` is NAME in BASE/keepmap-global. BASE is /dev/shm, or what KEEPMAP_SHM names. Owns no state.
 *
 * Everybody may write into BASE, and into the directory of the global names, so what is found there may have been put
 * there by somebody else. The rules, each with what it prevents:
 *
 * D1 A directory is opened once, by a descriptor (O_PATH) that follows no symbolic link at its end; this descriptor is
 *    judged, and all that follows happens relative to it. Else somebody could exchange the directory between the
 *    judgement and the use.
 * D2 The directory of the local names is the user's own, and nobody else may enter it. Else somebody who made it first
 *    would decide what the user's names mean. It cannot be got around by another name: the error says who has to remove
 *    it.
 * D3 The directory of the global names, and BASE, are sticky where everybody may write. Else everybody could take the
 *    name away from a living object and give it to one of his own. The owner of the directory is whoever needed it
 *    first. That user can take names away, and so hinder the others, as can anybody who takes a name first. Nobody can
 *    read or change an object whose permissions do not let him: they are those of the file.
 * D4 It gets its name and its sticky bit in one step: made under a name of chance, and renamed. Else a maker who dies
 *    between the two leaves a directory that nobody but him could repair.
 * D5 Opening never creates, and creating never opens: an object has no name until it is whole (O_TMPFILE), and gets it
 *    by a link, which fails if the name is taken. Else a creator who is killed would leave half an object under its
 *    name, and opening another user's file in a sticky directory with O_CREAT is refused by the kernel
 *    (fs.protected_regular).
 * D6 An entry is looked at before it is opened, and the very file that was looked at is opened: a FIFO would block, a
 *    device may act, a symbolic link leads anywhere. A file with a second name is refused, because that may be how
 *    somebody else lets one of the user's own files pass for the object; so is, among the local names, a file of
 *    somebody else.
 *
 * Nothing here survives the machine, so nothing is synced.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "os_file_posix.h"

#define BASE_USUAL "/dev/shm"
#define BASE_CHOICE "KEEPMAP_SHM"
#define MAGIC_TMPFS 0x01021994u
#define MODE_LOCAL 0700
#define MODE_GLOBAL 01777
#define MAKE_TRIES 100

enum scope { SCOPE_LOCAL, SCOPE_GLOBAL, SCOPE_COUNT };

static const char *const prefixes[SCOPE_COUNT] = {"Local\\", "Global\\"};

/* Where an object is, or would be. */
struct place {
    enum scope scope;
    const char *target; /* for messages */
    const char *name;   /* of the file in the directory; part of the target */
    int directory;      /* O_PATH; -1: it does not exist */
    char path[1024];    /* of the directory, for messages: cut if it is longer */
};

/* Whose target it is; SCOPE_COUNT: a plain path. */
static enum scope scope_of(const char *target) {
    for (int scope = 0; scope < SCOPE_COUNT; scope++) {
        if (strncmp(target, prefixes[scope], strlen(prefixes[scope])) == 0)
            return (enum scope)scope;
    }
    return SCOPE_COUNT;
}

bool os_path_is_object(const char *path) {
    return scope_of(path) != SCOPE_COUNT;
}

/* ---- directories ------------------------------------------------------------------------------------------------- */

/* Whether everybody may take away names that others gave. */
static bool lets_all_remove(const struct stat *directory) {
    return (directory->st_mode & S_IWOTH) != 0 && (directory->st_mode & S_ISVTX) == 0;
}

/* Open the directory that has those of all users in it. */
static int open_base(const char *target, const char **path, int *base) {
    const char *chosen = os_environment(BASE_CHOICE);
    *path = chosen != NULL && chosen[0] != '\0' ? chosen : BASE_USUAL;
    if ((*path)[0] != '/')
        return km__error(KM_EUNSUPPORTED,
                         "%s: " BASE_CHOICE " is \"%s\", which is no absolute path: set it to that of a directory on a "
                         "tmpfs, or unset it for " BASE_USUAL,
                         target, *path);
    int fd;
    do
        fd = open(*path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0 && errno != ENOENT && errno != ENOTDIR && errno != ELOOP && errno != EACCES)
        return os__system_error(errno, "open the directory where such objects are kept", *path);
    if (fd < 0)
        return km__error(
            errno == EACCES ? KM_EACCESS : KM_EUNSUPPORTED,
            "%s: cannot open %s, where such objects are kept: %s: mount a tmpfs there, or name a directory "
            "on another tmpfs by " BASE_CHOICE,
            target, *path, strerror(errno));
    struct statfs system;
    struct stat status;
    int error = 0;
    if (os__look_at_system(fd, &system) != 0 || fstat(fd, &status) != 0)
        error = os__system_error(errno, "look at its file system", *path);
    else if ((uint32_t)system.f_type != MAGIC_TMPFS)
        error = km__error(KM_EUNSUPPORTED,
                          "%s: %s is not on a tmpfs, so what is kept there would be written to a disk: mount a tmpfs "
                          "there, or name a directory on another tmpfs by " BASE_CHOICE,
                          target, *path);
    else if (lets_all_remove(&status))
        error = km__error(KM_EACCESS,
                          "%s: in %s everybody may remove what others have put there: have its sticky bit set (chmod "
                          "+t), or name a directory on another tmpfs by " BASE_CHOICE,
                          target, *path);
    if (error != 0)
        close(fd);
    else
        *base = fd;
    return error;
}

/* Rules D2 and D3. */
static int judge_directory(const struct place *place) {
    struct stat status;
    const char *const path = place->path;
    if (fstat(place->directory, &status) != 0)
        return os__system_error(errno, "look at it", path);
    const unsigned mode = status.st_mode & 07777;
    if (!S_ISDIR(status.st_mode))
        return km__error(KM_EACCESS,
                         "%s: %s is %s, and not a directory that keepmap made: have it removed, or name another "
                         "directory on a tmpfs by " BASE_CHOICE,
                         place->target, path, S_ISLNK(status.st_mode) ? "a symbolic link" : "something else");
    if (place->scope == SCOPE_GLOBAL) {
        if (!lets_all_remove(&status))
            return 0;
        return km__error(KM_EACCESS,
                         "%s: in %s (mode %04o) everybody may remove what others have put there: have its sticky bit "
                         "set (chmod +t), and look whose files are in it",
                         place->target, path, mode);
    }
    if (status.st_uid != geteuid())
        return km__error(KM_EACCESS,
                         "%s: %s belongs to user %u, and not to user %u whose names it has: have it removed, or name "
                         "another directory on a tmpfs by " BASE_CHOICE,
                         place->target, path, (unsigned)status.st_uid, (unsigned)geteuid());
    if ((mode & 077) != 0)
        return km__error(KM_EACCESS,
                         "%s: %s (mode %04o) is open to others: look what is in it, and then remove it or make it "
                         "private (chmod 0700)",
                         place->target, path, mode);
    return 0;
}

/* Open a directory of objects, without judging it; -1 and errno. */
static int open_directory(int base, const char *name) {
    int fd;
    do
        fd = openat(base, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* Set the mode of a directory that was just made; 0 or errno. Not by its name, which may lead elsewhere by now. */
static int set_mode(int base, const char *name, mode_t mode) {
    char link[40];
    struct stat status;
    int fd = open_directory(base, name);
    if (fd < 0)
        return errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int number = fstat(fd, &status) != 0 ? errno : 0;
    if (number == 0 && (!S_ISDIR(status.st_mode) || status.st_uid != geteuid()))
        number = EPERM;
    if (number == 0 && chmod(link, mode) != 0)
        number = errno;
    close(fd);
    return number;
}

/* Rule D4. 0 or errno; 0 also if somebody was quicker. */
static int make_directory(int base, const char *name, mode_t mode) {
    for (int i = 0; i < MAKE_TRIES; i++) {
        char temporary[64];
        uint64_t chance = 0;
        if (os_random(&chance, sizeof chance) != 0)
            return EIO;
        snprintf(temporary, sizeof temporary, ".%.24s-%016llx", name, (unsigned long long)chance);
        if (mkdirat(base, temporary, 0700) != 0) {
            if (errno == EEXIST || errno == EINTR)
                continue;
            return errno;
        }
        int number = set_mode(base, temporary, mode);
        if (number == 0 && renameat2(base, temporary, base, name, RENAME_NOREPLACE) != 0)
            number = errno;
        if (number != 0)
            unlinkat(base, temporary, AT_REMOVEDIR);
        return number == EEXIST ? 0 : number;
    }
    return EEXIST;
}

/* Find the directory of the objects of a scope. With `make` it is made if it does not exist; otherwise place->directory
 * is -1 then. */
static int open_scope(struct place *place, enum scope scope, const char *target, bool make) {
    const char *base_path = NULL;
    int base = -1;
    *place = (struct place){.scope = scope, .target = target, .name = "", .directory = -1};
    int error = open_base(target, &base_path, &base);
    if (error != 0)
        return error;

    char name[32] = "keepmap-global";
    if (scope == SCOPE_LOCAL)
        snprintf(name, sizeof name, "keepmap-%u", (unsigned)geteuid());
    snprintf(place->path, sizeof place->path, "%s/%s", base_path, name);
    place->directory = open_directory(base, name);
    int number = place->directory < 0 ? errno : 0;
    if (number == ENOENT && make) {
        number = make_directory(base, name, scope == SCOPE_LOCAL ? MODE_LOCAL : MODE_GLOBAL);
        place->directory = number == 0 ? open_directory(base, name) : -1;
        if (number == 0 && place->directory < 0)
            number = errno;
    } else if (number == ENOENT) {
        number = 0;
    }
    close(base);
    if (number != 0)
        return os__system_error(number, make ? "make or open this directory of objects" : "open it", place->path);
    error = place->directory >= 0 ? judge_directory(place) : 0;
    if (error != 0)
        close(place->directory);
    return error;
}

static int open_place(struct place *place, const char *target, bool make) {
    const enum scope scope = scope_of(target);
    int error = open_scope(place, scope, target, make);
    place->name = target + strlen(prefixes[scope]);
    return error;
}

static void close_place(struct place *place) {
    if (place->directory >= 0)
        close(place->directory);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static int not_found(const struct place *place) {
    return km__error(KM_ENOTFOUND,
                     "%s: there is no such object (%s/%s), and one ends with its last user: start the program that "
                     "creates it",
                     place->target, place->path, place->name);
}

/* Rule D6. */
static int judge_entry(const struct place *place, const struct stat *status) {
    const char *const target = place->target, *const path = place->path, *const name = place->name;
    if (S_ISDIR(status->st_mode))
        return km__error(KM_EDIRECTORY, "%s: %s/%s is a directory, which keepmap never makes there: remove it", target,
                         path, name);
    if (S_ISLNK(status->st_mode))
        return km__error(KM_EACCESS,
                         "%s: %s/%s is a symbolic link, which keepmap never makes and never follows: remove it", target,
                         path, name);
    if (!S_ISREG(status->st_mode))
        return km__error(KM_ENOTMAP, "%s: %s/%s is not a regular file: remove it, or choose another name", target, path,
                         name);
    if (status->st_nlink == 0)
        return not_found(place);
    if (status->st_nlink > 1)
        return km__error(KM_EACCESS,
                         "%s: %s/%s has a second name (a hard link), so it may be another file in disguise: find out "
                         "who made it, and remove it",
                         target, path, name);
    if (place->scope == SCOPE_LOCAL && status->st_uid != geteuid())
        return km__error(KM_EACCESS,
                         "%s: %s/%s belongs to user %u, and not to user %u whose names these are: find out who made "
                         "it, and remove it",
                         target, path, name, (unsigned)status->st_uid, (unsigned)geteuid());
    return 0;
}

static int open_entry(struct os_file **file, const struct place *place, bool writable) {
    int looked;
    do
        looked = openat(place->directory, place->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    while (looked < 0 && errno == EINTR);
    if (looked < 0)
        return errno == ENOENT ? not_found(place) : os__system_error(errno, "open", place->target);

    struct stat status;
    int fd = -1;
    int error = fstat(looked, &status) == 0 ? judge_entry(place, &status)
                                            : os__system_error(errno, "look at it", place->target);
    if (error == 0) {
        fd = os__descriptor_reopen(looked, place->target, writable ? O_RDWR : O_RDONLY);
        if (fd == -ENOENT)
            error = km__error(KM_EUNSUPPORTED, "%s: cannot open it without /proc: mount it", place->target);
        else if (fd < 0)
            error =
                os__system_error(-fd, writable ? "open for reading and writing" : "open for reading", place->target);
    }
    close(looked);
    return error != 0 ? error : os__file_adopt(file, fd, place->target, writable);
}

int os__object_open(struct os_file **file, const char *target, bool writable) {
    struct place place;
    int error = open_place(&place, target, false);
    if (error != 0)
        return error;
    error = place.directory < 0 ? not_found(&place) : open_entry(file, &place, writable);
    close_place(&place);
    return error;
}

/* ---- creation ---------------------------------------------------------------------------------------------------- */

int os__object_create(struct os_file **file, const char *target, uint32_t permissions) {
    struct place place;
    int error = open_place(&place, target, true);
    if (error != 0)
        return error;
    int fd;
    do
        fd = openat(place.directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        error = os__system_error(errno, "create it in this directory", place.path);
    } else if (fchmod(fd, (mode_t)(permissions & 07777)) != 0) {
        error = os__system_error(errno, "set its permissions", target);
        close(fd);
    } else {
        error = os__file_adopt(file, fd, target, true);
    }
    close_place(&place);
    return error;
}

int os__object_publish(struct os_file *file, const char *target) {
    struct place place;
    int error = open_place(&place, target, true);
    if (error != 0)
        return error;
    if (os__file_link(file, place.directory, place.name) != 0) {
        if (errno == EEXIST)
            error = km__error(KM_EEXISTS, "%s: %s/%s exists already: open it, or choose another name", target,
                              place.path, place.name);
        else
            error = os__system_error(errno, "give the object this name", target);
    }
    close_place(&place);
    return error;
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

/* 1 if the place has this very file, 0 if not, or an error. */
static int is_here(const struct os_file *file, const struct place *place) {
    struct stat here, there;
    if (place->directory < 0)
        return 0;
    if (fstat(file->descriptor.fd, &here) != 0)
        return os__system_error(errno, "look at it", file->path);
    if (fstatat(place->directory, place->name, &there, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : os__system_error(errno, "look at it", place->target);
    return here.st_dev == there.st_dev && here.st_ino == there.st_ino;
}

int os__object_is_at(struct os_file *file, const char *target) {
    struct place place;
    int result = open_place(&place, target, false);
    if (result == 0) {
        result = is_here(file, &place);
        close_place(&place);
    }
    return result;
}

int os__object_remove(struct os_file *file, const char *target) {
    struct place place;
    int result = open_place(&place, target, false);
    if (result != 0)
        return result;
    result = is_here(file, &place);
    if (result == 1)
        result = unlinkat(place.directory, place.name, 0) == 0 || errno == ENOENT
                     ? 0
                     : os__system_error(errno, "remove it", target);
    close_place(&place);
    return result;
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

struct names {
    char **names; /* targets, each allocated */
    size_t count, room;
};

static bool add_name(struct names *names, enum scope scope, const char *name) {
    if (names->count == names->room) {
        const size_t room = names->room > 0 ? 2 * names->room : 64;
        char **moved = realloc(names->names, room * sizeof *moved);
        if (moved == NULL)
            return false;
        names->names = moved;
        names->room = room;
    }
    const size_t size = strlen(prefixes[scope]) + strlen(name) + 1;
    char *target = malloc(size);
    if (target == NULL)
        return false;
    snprintf(target, size, "%s%s", prefixes[scope], name);
    names->names[names->count++] = target;
    return true;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Add the names in a directory that may be read. */
static int read_names(struct names *names, const struct place *place) {
    int fd = openat(place->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (directory == NULL) {
        int error = os__system_error(errno, "list it", place->path);
        if (fd >= 0)
            close(fd);
        return error;
    }
    int error = 0;
    while (error == 0) {
        errno = 0;
        const struct dirent *entry = readdir(directory);
        if (entry == NULL) {
            error = errno != 0 ? os__system_error(errno, "list it", place->path) : 0;
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            !add_name(names, place->scope, entry->d_name))
            error = os__system_error(ENOMEM, "list it", place->path);
    }
    closedir(directory);
    return error;
}

static int list_scope(struct names *names, enum scope scope) {
    static const char *const all[SCOPE_COUNT] = {"Local\\*", "Global\\*"};
    struct place place;
    const size_t before = names->count;
    int error = open_scope(&place, scope, all[scope], false);
    if (error == 0 && place.directory >= 0) {
        error = read_names(names, &place);
        close_place(&place);
    }
    if (names->count > before)
        qsort(names->names + before, names->count - before, sizeof *names->names, compare_names);
    return error;
}

/* The names are collected before the first is told, so that a walk during which entries come and go tells each once. A
 * directory of global names that is refused has none that this user could open; the local ones are still told. */
int os_objects_list(os_objects_function *each, void *context) {
    struct names names = {.names = NULL};
    int error = list_scope(&names, SCOPE_LOCAL);
    if (error == 0 && list_scope(&names, SCOPE_GLOBAL) == KM_ENOMEM)
        error = KM_ENOMEM;
    for (size_t i = 0; i < names.count && error == 0; i++) {
        if (each(context, names.names[i]) != 0)
            break;
    }
    for (size_t i = 0; i < names.count; i++)
        free(names.names[i]);
    free(names.names);
    return error;
}
