/* SPDX-License-Identifier: MIT
 *
 * Making a new map.
 *
 * Rules, and the failure that each prevents:
 *  N1 The file is made without a name, written whole, synced, then given its name, and the directory is synced:
 *     nobody ever opens half a map, and a crash leaves none.
 *  N2 Header slots, control and the ring are written with zeros, not left as holes: control is stored to through a
 *     mapping, where a full disk would be a fault and not an error; a commit into allocated blocks changes no
 *     metadata. Where reading a hole through a mapping takes space (tmpfs), the data and its table are allocated
 *     for the same reason. So are those of a live map everywhere: stores to it go to the file.
 *  N3 A map is replaced only under its ATTACH lock with nobody attached. Who waits for ATTACH on the old file finds
 *     afterwards that the path names another file, and opens that.
 *  N4 What a map begins with (options.from) is checksummed as it arrived in the new file, not as it was read: the other
 *     file may change meanwhile.
 *  N5 A file has its ATTACH locked from before it has its name until its first handle stands. If that fails, or the
 *     name could not be made durable, the name is taken back: who asked for a new map has none, and one that nobody
 *     asked for would be in the way of the next try. Without the lock somebody else could attach between the name and
 *     its end, and what he commits would vanish with it. (What KM_REPLACE has replaced cannot be given back: the new
 *     map stays.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/bytes.h"
#include "map.h"

#define DEFAULT_PERMISSIONS 0600u
#define JOURNAL_SMALLEST (UINT64_C(1) << 20)
#define JOURNAL_LARGEST (UINT64_C(64) << 20)
#define TIMEOUT_DEFAULT_MS 10000u

enum { ZEROS = 1 << 20, DETAIL_SIZE = 1024 };

int km__file_zeros(struct os_file *file, uint64_t offset, uint64_t length) {
    unsigned char *zeros = calloc(1, ZEROS);
    if (zeros == NULL)
        return km__error(KM_ENOMEM, "no memory for a buffer of %d bytes", ZEROS);
    int result = 0;
    while (length > 0 && result == 0) {
        const size_t step = length < ZEROS ? (size_t)length : ZEROS;
        result = os_file_write(file, offset, zeros, step);
        offset += step;
        length -= step;
    }
    free(zeros);
    return result;
}

/* What a mode has no use for is refused, so that nobody counts on it. */
static int check_mode(const struct km_options *options) {
    const bool journal_wanted = (options->flags & (KM_COMPRESS | KM_FULL_PAGES)) != 0 || options->journal_size != 0;
    if (options->mode == KM_LIVE && journal_wanted)
        return km__error(KM_EINVAL, "a live map has no journal: leave out its size, KM_COMPRESS and KM_FULL_PAGES");
    if (options->mode != KM_RAW)
        return 0;
    if (journal_wanted || options->checksum != 0 || options->schema != NULL || options->max_size != 0)
        return km__error(KM_EINVAL, "a raw map has no header: leave out journal, checksum, schema and max_size");
    if ((options->flags & KM_REPLACE) != 0)
        return km__error(KM_EINVAL,
                         "KM_REPLACE replaces maps, and a raw file is none: remove it yourself if you mean it");
    return 0;
}

int km__check_options(const struct km_options *options, struct km_options *checked) {
    const struct km_options none = {.struct_size = sizeof none};
    if (options == NULL)
        options = &none;
    if (options->struct_size < offsetof(struct km_options, schema_version) + sizeof options->schema_version ||
        options->struct_size > 4096)
        return km__error(KM_EINVAL, "options.struct_size is %zu: set it to sizeof(struct km_options)",
                         options->struct_size);
    const size_t given = options->struct_size < sizeof *checked ? options->struct_size : sizeof *checked;
    memset(checked, 0, sizeof *checked);
    memcpy(checked, options, given);
    checked->struct_size = sizeof *checked;
    const unsigned char *bytes = (const unsigned char *)options;
    for (size_t i = sizeof *checked; i < options->struct_size; i++)
        if (bytes[i] != 0)
            return km__error(KM_EUNSUPPORTED,
                             "the program sets options that this version of keepmap does not know: use the "
                             "library that it was built with");
    const uint32_t known = KM_CREATE | KM_EXCLUSIVE | KM_READONLY | KM_LAZY | KM_DECLARED | KM_CHECK | KM_COMPRESS |
                           KM_FULL_PAGES | KM_ANY_FILESYSTEM | KM_REPLACE | KM_TAKE_OVER | KM_GUARD;
    if ((checked->flags & ~known) != 0)
        return km__error(KM_EINVAL, "options.flags has unknown bits 0x%x", (unsigned)(checked->flags & ~known));
    if ((checked->flags & KM_READONLY) != 0 && (checked->flags & KM_CREATE) != 0)
        return km__error(KM_EINVAL, "KM_READONLY and KM_CREATE exclude each other: create the map first");
    if ((checked->flags & (KM_EXCLUSIVE | KM_REPLACE)) != 0 && (checked->flags & KM_CREATE) == 0)
        return km__error(KM_EINVAL, "KM_EXCLUSIVE and KM_REPLACE need KM_CREATE");
    if ((checked->flags & KM_EXCLUSIVE) != 0 && (checked->flags & KM_REPLACE) != 0)
        return km__error(KM_EINVAL, "KM_EXCLUSIVE and KM_REPLACE exclude each other");
    if (checked->mode > KM_RAW)
        return km__error(KM_EUNSUPPORTED, "mode %u is not known to this version of keepmap", (unsigned)checked->mode);
    const int mode_fits = check_mode(checked);
    if (mode_fits != 0)
        return mode_fits;
    if (checked->checksum > KM_CHECKSUM_NONE)
        return km__error(KM_EINVAL, "checksum kind %u is not known", (unsigned)checked->checksum);
    if (checked->schema != NULL && checked->schema[0] == '\0')
        return km__error(KM_EINVAL, "the schema's name is empty: NULL stands for none");
    if (checked->schema != NULL && strlen(checked->schema) > 63)
        return km__error(KM_EINVAL, "the schema's name is longer than 63 bytes: shorten it");
    if ((checked->permissions & ~0777u) != 0)
        return km__error(KM_EINVAL, "permissions 0%o have bits beyond 0777", (unsigned)checked->permissions);
    if (checked->permissions == 0)
        checked->permissions = DEFAULT_PERMISSIONS;
    if (checked->timeout_ms == 0)
        checked->timeout_ms = TIMEOUT_DEFAULT_MS;
    return 0;
}

static uint64_t default_journal(uint64_t size) {
    const uint64_t eighth = size / 8;
    const uint64_t chosen = eighth < JOURNAL_SMALLEST  ? JOURNAL_SMALLEST
                            : eighth > JOURNAL_LARGEST ? JOURNAL_LARGEST
                                                       : eighth;
    return chosen / KM__ALIGN * KM__ALIGN;
}

int km__uuid_make(uint8_t uuid[16]) {
    const int result = os_random(uuid, 16);
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40); /* RFC 9562: version 4, variant 1 */
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
    return result;
}

static int check_sizes(const char *path, const struct km_options *options) {
    if (options->size == 0)
        return km__error(KM_ESIZE, "%s: the size is 0: say how many bytes the data has, from 1 on", path);
    if (options->max_size != 0 && options->max_size < options->size)
        return km__error(KM_ESIZE, "%s: max_size is smaller than size", path);
    if (options->size > KM__SIZE_MAX || options->max_size > KM__SIZE_MAX || options->journal_size > KM__SIZE_MAX)
        return km__error(KM_ESIZE, "%s: sizes end at %llu bytes: give smaller ones", path,
                         (unsigned long long)KM__SIZE_MAX);
    if (options->checksum == KM_CHECKSUM_CRC32 && !km__checksum_available(KM_CHECKSUM_CRC32))
        return km__error(KM_EUNSUPPORTED, "%s: checksum crc32 needs zlib, which this build lacks: use crc32c", path);
    if ((options->flags & KM_COMPRESS) != 0 && !km__zlib_available())
        return km__error(KM_EUNSUPPORTED, "%s: compression needs zlib, which this build lacks", path);
    return 0;
}

static int new_header(const char *path, const struct km_options *options, struct km__header *header) {
    int result = check_sizes(path, options);
    if (result != 0)
        return result;
    memset(header, 0, sizeof *header);
    memcpy(header->magic, KM__MAGIC, sizeof header->magic);
    header->format_version = KM__FORMAT_VERSION;
    header->header_size = KM__SLOT_SIZE;
    header->page_size = KM__PAGE;
    header->mode = options->mode;
    header->checksum_kind = options->checksum;
    if ((options->flags & KM_COMPRESS) != 0)
        header->feature_incompatible |= KM__FEATURE_COMPRESS;
    if ((options->flags & KM_FULL_PAGES) != 0)
        header->feature_readonly |= KM__FEATURE_FULL_PAGES;
    if (options->schema != NULL)
        memcpy(header->schema, options->schema, strlen(options->schema));
    header->schema_version = options->schema_version;
    header->created_ns = os_time_wall_ns();
    header->data_size = options->size;
    header->data_capacity = options->max_size != 0 ? options->max_size : options->size;
    if (options->mode != KM_LIVE) {
        const uint64_t journal = options->journal_size != 0 ? options->journal_size : default_journal(options->size);
        header->journal_size = journal < KM__JOURNAL_MIN ? KM__JOURNAL_MIN : km__round_up(journal, KM__PAGE);
    }
    header->journal_configured = header->journal_size;
    header->flags = KM__HEADER_CLEAN;
    header->geometry = 1;
    result = km__uuid_make(header->uuid);
    if (result != 0)
        return result;
    header->journal_chain = km__frame_first_chain(header->uuid);
    header->history_chain = header->journal_chain;
    result = km__header_layout(header);
    return result == 0 ? 0 : km__error_prefix(result, "%s", path);
}

int km__allocate_data(struct os_file *file, const struct km__header *header, uint64_t size) {
    const uint64_t pages = km__pages_of(size);
    const int result = os_file_allocate(file, header->data_offset, pages * KM__PAGE);
    return result != 0 ? result : os_file_allocate(file, header->table_offset, pages * sizeof(uint32_t));
}

int km__create_empty(struct os_file *file, struct km__header *header) {
    int result = os_file_resize(file, km__header_file_end(header));
    if (result == 0) /* a disk that is too small says so before the long part */
        result = os_file_allocate(file, header->journal_offset, header->journal_size);
    if (result == 0 && (header->mode == KM_LIVE || os_file_holes_take_space(file)))
        result = km__allocate_data(file, header, header->data_size);
    if (result == 0)
        result = km__file_zeros(file, 0, KM__CONTROL_OFFSET + KM__CONTROL_SIZE);
    if (result == 0)
        result = km__file_zeros(file, header->journal_offset, header->journal_size);
    return result;
}

int km__create_headers(struct os_file *file, struct km__header *header) {
    int result = 0;
    for (int slot = 0; slot < 2 && result == 0; slot++) {
        header->sequence = (uint64_t)slot + 1;
        km__header_seal(header);
        result = os_file_write(file, slot == 0 ? KM__SLOT_A : KM__SLOT_B, header, sizeof *header);
    }
    return result != 0 ? result : os_file_sync(file);
}

/* What the new map begins with; `size` becomes that of the file if none is asked for. */
static int open_from(const char *path, struct km_options *options, struct os_file **from, uint64_t *length) {
    *from = NULL;
    *length = 0;
    if (options->from == NULL)
        return 0;
    struct os_file_info info;
    int result =
        os_path_is_object(options->from)
            ? km__error(KM_EINVAL, "%s: a map is made from the bytes of a file: give the path of one", options->from)
            : os_file_open(from, options->from, false);
    if (result == 0)
        result = os_file_info(*from, &info);
    if (result != 0)
        return result;
    *length = info.size;
    if (info.size == 0 && options->size == 0)
        return km__error(KM_ESIZE, "%s: the file is empty: say how many bytes the map is to have", options->from);
    if (options->size != 0 && options->size < info.size)
        return km__error(KM_ESIZE, "%s: a size of %llu bytes is less than the %llu bytes of %s: give more, or none",
                         path, (unsigned long long)options->size, (unsigned long long)info.size, options->from);
    options->size = options->size != 0 ? options->size : info.size;
    return 0;
}

/* Everything that the new file holds, while nobody can find it. */
static int fill(struct os_file *file, const char *path, const struct km_options *options, struct km__header *header,
                struct os_file *from, uint64_t length) {
    const bool raw = options->mode == KM_RAW;
    int result = raw ? km__raw_create(file, options, path) : km__create_empty(file, header);
    if (result == 0 && length > 0)
        result = km__copy_from(file, header, from, length);
    if (result == 0 && raw)
        result = km__raw_refuse_maps(file, options->size, path);
    if (result != 0)
        return result;
    return raw ? os_file_sync(file) : km__create_headers(file, header);
}

/* N5. An object has its user from before it has its name, too, so that nobody takes it for what a dead one left. */
static int hold(struct os_file *file, struct km__created *created) {
    int result = os_locks_open(&created->locks, file);
    if (result == 0)
        result = os_lock_try(created->locks, KM__LOCK_BASE + KM__ATTACH, 1, OS_LOCK_WRITE);
    if (result == 0)
        result = os_lock_try(created->locks, KM__LOCK_BASE + KM__USER, 1, OS_LOCK_READ);
    return result;
}

int km__create_undo(struct os_file *file, const char *path, int result) {
    char why[DETAIL_SIZE];
    snprintf(why, sizeof why, "%s", km__error_detail());
    if (os_file_remove(file, path) == 0)
        return km__error(result, "%s", why);
    return km__error(result, "%s; and its name could not be taken away again: remove it", why);
}

int km__create_publish(struct os_file *file, const char *path, bool replace) {
    const int result = os_file_publish(file, path, replace);
    return result == 0 || result == KM_EEXISTS || replace ? result : km__create_undo(file, path, result);
}

/* Lock the old map against everybody (N3). What has no magic in either slot is not ours to destroy. */
static int lock_old(const char *path, struct os_file **file, struct os_locks **locks) {
    int result = os_file_open(file, path, true);
    if (result != 0)
        return result;
    struct os_file_info info;
    result = os_file_info(*file, &info);
    if (result != 0)
        return result;
    char magic[2][8] = {{0}};
    for (int slot = 0; slot < 2; slot++)
        if (info.size >= KM__SLOT_B * (uint64_t)slot + 8)
            (void)os_file_read(*file, KM__SLOT_B * (uint64_t)slot, magic[slot], 8);
    if (memcmp(magic[0], KM__MAGIC, 8) != 0 && memcmp(magic[1], KM__MAGIC, 8) != 0)
        return km__error(KM_ENOTMAP,
                         "%s: it is not a keepmap map, and only maps are replaced: remove it yourself if you mean it",
                         path);
    result = os_locks_open(locks, *file);
    if (result != 0)
        return result;
    /* ATTACH, WRITER, ..., USER and the slots lie here: any holder means that it is in use. */
    result = os_lock_try(*locks, KM__LOCK_BASE, KM__SLOT_LOCKS - KM__LOCK_BASE + KM__SLOTS, OS_LOCK_WRITE);
    if (result == KM_EBUSY)
        return km__error(KM_EBUSY, "%s: others have the map open, so it is not replaced: see who (keepmap who)", path);
    return result;
}

int km__create(const char *path, const struct km_options *given, bool replace, struct km__created *created) {
    struct km_options options = *given;
    struct km__header header = {.mode = options.mode};
    struct os_file *file = NULL, *old = NULL, *from = NULL;
    struct os_locks *old_locks = NULL;
    uint64_t length = 0;
    int result = open_from(path, &options, &from, &length);
    if (result == 0 && options.mode != KM_RAW)
        result = new_header(path, &options, &header);
    if (result != 0)
        goto close_from;
    if (replace) {
        result = lock_old(path, &old, &old_locks);
        if (result == KM_ENOTFOUND)
            replace = false;
        else if (result != 0)
            goto close_old;
    }
    result = os_file_create(&file, path, options.permissions);
    if (result != 0)
        goto close_old;
    if ((options.flags & KM_ANY_FILESYSTEM) == 0)
        result = os_file_check_coherent(file);
    if (result == 0)
        result = fill(file, path, &options, &header, from, length);
    if (result == 0 && created != NULL)
        result = hold(file, created);
    if (result == 0)
        result = km__create_publish(file, path, replace);
    if (result == 0 && created != NULL) {
        created->file = file;
        file = NULL;
    } else if (created != NULL) {
        os_locks_close(created->locks);
        created->locks = NULL;
    }
    os_file_close(file);
close_old:
    os_locks_close(old_locks);
    os_file_close(old);
close_from:
    os_file_close(from);
    return result;
}
