/* SPDX-License-Identifier: MIT
 *
 * Copies of maps that are in use, and new maps that begin with the bytes of a file.
 *
 * A copy is made like any new map (create.c): a file without a name that is filled, synced and then given its name. The
 * data goes over in chunks of a megabyte, holes are skipped, and where the file system can, the new file shares the
 * blocks of the old one and the chunks are only read, to check them.
 *
 * Rules, and the failure that each prevents:
 *  P1 A transactional map is copied as it stands at one generation g. Its pin, or READER lock, is held from before the
 *     first byte is read until the last one is. Pages that frames in (base, g] touched come from the handle's own
 *     memory; in all others home has the same bytes from base to g, and a checkpoint elsewhere does not go past the
 *     pin. A touched page taken from home would be of another generation, or half written.
 *  P2 Checksums are carried, never laundered: a page's entry comes from its newest frame, or from the source's table,
 *     and the bytes that the copy gets must match it. An entry that was computed anew would make good data of a page
 *     that the disk has damaged, and the copy is where people look when the disk has.
 *  P3 The sum over all entries of the copy must be the digest that the frame of g, or the header, carries. Otherwise a
 *     page and its entry that were lost together (both are zeros then, which match) would be missing in silence.
 *  P4 What shares blocks is read back from the copy, not from the source: the source can change after the clone, and
 *     then the checksum would be of bytes that the copy does not have.
 *  P5 A clone that was refused may have done a part. If the new file is not all holes afterwards, every page is
 *     written, zeros too; a page that was skipped as a hole would show what the clone left there.
 *  P6 What users store to through a mapping of the file shares no blocks: a live map, and a raw one that is made from a
 *     file. A store to a shared block needs a new one, and on a full disk that would be a fault; their space is taken
 *     at creation for the same reason. (The copy of a raw map is a file like its source, with the holes of it.)
 *  P7 A live map is copied under WRITER, for reading, so that no transaction is caught half-way. If the last writer
 *     died in one, the copy is not marked clean, so that its first writer is told, too.
 *  P8 A file that was cut short reads as if it ended in a hole. Whether the source is still whole is asked after its
 *     last byte was read and before the copy gets its name.
 *  P9 The copy has a UUID of its own, and its chain starts from that. Otherwise frames of the source would continue
 *     it, should bytes of the one get into the other, and nobody could tell the two maps apart.
 *  P10 The copy is synced before it gets its name, and loses the name again if that could not be made durable: it is
 *     there whole and durable, or not at all. Until that is decided its ATTACH is locked, as of any new map (N5).
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "map.h"

enum { CHUNK_PAGES = 256 };

struct copy {
    struct os_file *from, *to;
    uint64_t from_offset;            /* where the data starts in `from` */
    const struct km__header *header; /* of the copy; table_capacity 0: it has no table */
    uint64_t length;                 /* bytes that are copied, from the start of the data */
    uint64_t pages;
    bool shares;     /* blocks, where the file system can (P6) */
    uint64_t cloned; /* pages from the start that do */
    bool filled;     /* what is not written need not be zeros (P5) */
    km_map *carried; /* where checksums and patched pages come from; NULL: they are computed */
    uint64_t digest;
    uint32_t entries[CHUNK_PAGES];
    unsigned char *bytes; /* CHUNK_PAGES pages */
};

/* Pages that are copied in one go. */
struct chunk {
    uint64_t first;
    size_t count;
    bool hole; /* only the table has something there */
};

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static bool is_zero(const unsigned char *page) {
    return page[0] == 0 && memcmp(page, page + 1, KM__PAGE - 1) == 0;
}

/* Whether a page of the chunk in memory must be written, so that the new file shows it. */
static bool must_write(const struct copy *copy, uint64_t first, size_t i) {
    return copy->filled || first + i < copy->cloned || !is_zero(copy->bytes + i * KM__PAGE);
}

static int write_pages(struct copy *copy, uint64_t first, size_t count) {
    int result = 0;
    for (size_t i = 0; i < count && result == 0;) {
        const size_t start = i;
        while (i < count && must_write(copy, first, i))
            i++;
        if (i > start) {
            const uint64_t at = (first + start) * KM__PAGE, left = copy->length - at;
            const uint64_t length = (i - start) * KM__PAGE;
            result = os_file_write(copy->to, copy->header->data_offset + at, copy->bytes + start * KM__PAGE,
                                   (size_t)(length < left ? length : left));
        } else {
            i++;
        }
    }
    return result;
}

static bool has_table(const struct copy *copy) {
    return copy->header->checksum_kind != KM_CHECKSUM_NONE && copy->header->table_capacity > 0;
}

static int write_entries(struct copy *copy, uint64_t first, size_t count) {
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        any = any || copy->entries[i] != 0;
        copy->digest += km__digest_mix(first + i, copy->entries[i]);
    }
    if (!any && !(copy->filled && has_table(copy)))
        return 0;
    return os_file_write(copy->to, copy->header->table_offset + first * sizeof(uint32_t), copy->entries,
                         count * sizeof(uint32_t));
}

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

/* The first run of pages from `page` on, below `end`, that may hold something in a region which has `item` bytes for
 * each. */
static int next_run(struct os_file *file, uint64_t offset, uint64_t item, uint64_t page, uint64_t end,
                    uint64_t run[2]) {
    uint64_t start = 0, stop = 0;
    run[0] = run[1] = end;
    const int result = os_file_next_data(file, offset + page * item, offset + end * item, &start, &stop);
    if (result != 0 || start >= stop)
        return result;
    run[0] = (start - offset) / item;
    run[1] = (stop - offset + item - 1) / item;
    return 0;
}

/* The next pages from `page` on that are more than a hole; none is left below `first` then. */
static int next_chunk(const struct copy *copy, uint64_t page, struct chunk *chunk) {
    const bool cloned = page < copy->cloned;
    const uint64_t end = cloned ? copy->cloned : copy->pages;
    uint64_t data[2] = {page, end}, table[2] = {end, end};
    int result = 0;
    if (cloned) /* P4 */
        result = next_run(copy->to, copy->header->data_offset, KM__PAGE, page, end, data);
    else if (!copy->filled)
        result = next_run(copy->from, copy->from_offset, KM__PAGE, page, end, data);
    if (result == 0 && copy->carried != NULL && has_table(copy))
        result = next_run(copy->from, copy->carried->header.table_offset, sizeof(uint32_t), page, end, table);
    chunk->hole = table[0] < data[0];
    chunk->first = chunk->hole ? table[0] : data[0];
    uint64_t stop = chunk->hole ? table[1] : data[1];
    if (chunk->hole && stop > data[0])
        stop = data[0];
    chunk->count = stop - chunk->first < CHUNK_PAGES ? (size_t)(stop - chunk->first) : CHUNK_PAGES;
    return result;
}

static int read_pages(struct copy *copy, const struct chunk *chunk) {
    const uint64_t at = chunk->first * KM__PAGE, left = copy->length - at;
    const size_t all = chunk->count * KM__PAGE, length = all < left ? all : (size_t)left;
    memset(copy->bytes + length, 0, all - length);
    if (chunk->first < copy->cloned) /* P4 */
        return os_file_read(copy->to, copy->header->data_offset + at, copy->bytes, length);
    return os_file_read(copy->from, copy->from_offset + at, copy->bytes, length);
}

/* P2: bytes behind the end of the data, which no commit made, would become data where the copy grows (verify.c). */
static int check_tail(const struct copy *copy, uint64_t page, const unsigned char *bytes) {
    const struct km__header *header = copy->header;
    if (header->mode == KM_LIVE || page != header->data_size / KM__PAGE)
        return 0;
    for (size_t at = (size_t)(header->data_size % KM__PAGE); at < KM__PAGE; at++)
        if (bytes[at] != 0)
            return km__error(KM_ECORRUPT,
                             "%s: page %" PRIu64 " has bytes behind the end of the data, which no commit made: run "
                             "keepmap verify, restore it from an older copy",
                             copy->carried->path, page);
    return 0;
}

/* P2, for pages that no frame touched; those that one did are left out here, as if they were holes. */
static int carry_entries(struct copy *copy, const struct chunk *chunk) {
    km_map *map = copy->carried;
    int result = 0;
    memset(copy->entries, 0, sizeof copy->entries);
    if (has_table(copy))
        result = os_file_read(copy->from, map->header.table_offset + chunk->first * sizeof(uint32_t), copy->entries,
                              chunk->count * sizeof(uint32_t));
    for (size_t i = 0; i < chunk->count && result == 0; i++) {
        const uint64_t page = chunk->first + i;
        unsigned char *bytes = copy->bytes + i * KM__PAGE;
        if (km__index_find(&map->index, page) != NULL) {
            memset(bytes, 0, KM__PAGE);
            copy->entries[i] = 0;
            continue;
        }
        const uint32_t found = chunk->hole ? 0 : km__checksum_page(copy->header->checksum_kind, bytes);
        if (found != copy->entries[i])
            result = km__error(KM_ECORRUPT,
                               "%s: page %" PRIu64 " (bytes from %" PRIu64 ") has checksum %08" PRIx32
                               ", the table says %08" PRIx32 ": the disk changed it; run keepmap verify, restore it "
                               "from an older copy",
                               map->path, page, page * KM__PAGE, found, copy->entries[i]);
        if (result == 0 && !chunk->hole)
            result = check_tail(copy, page, bytes);
    }
    return result;
}

static void compute_entries(struct copy *copy, const struct chunk *chunk) {
    for (size_t i = 0; i < chunk->count; i++)
        copy->entries[i] =
            has_table(copy) ? km__checksum_page(copy->header->checksum_kind, copy->bytes + i * KM__PAGE) : 0;
}

static int copy_chunk(struct copy *copy, const struct chunk *chunk) {
    int result = chunk->hole ? 0 : read_pages(copy, chunk);
    if (result == 0 && copy->carried != NULL)
        result = carry_entries(copy, chunk);
    else if (result == 0)
        compute_entries(copy, chunk);
    if (result == 0 && !chunk->hole && chunk->first >= copy->cloned)
        result = write_pages(copy, chunk->first, chunk->count);
    return result == 0 ? write_entries(copy, chunk->first, chunk->count) : result;
}

static int clone(struct copy *copy) {
    const uint64_t length = copy->length / KM__ALIGN * KM__ALIGN, offset = copy->header->data_offset;
    if (!copy->shares || length == 0)
        return 0;
    int result = os_file_clone_range(copy->from, copy->from_offset, copy->to, offset, length);
    if (result == 0)
        copy->cloned = length / KM__PAGE;
    if (result != KM_EUNSUPPORTED)
        return result;
    km__error_clear();
    uint64_t start = 0, stop = 0;
    result = os_file_next_data(copy->to, offset, offset + length, &start, &stop);
    copy->filled = start < stop; /* P5 */
    return result;
}

/* Everything but what stands in frames only. */
static int copy_chunks(struct copy *copy) {
    struct chunk chunk;
    copy->pages = km__pages_of(copy->length);
    copy->bytes = malloc((size_t)CHUNK_PAGES * KM__PAGE);
    if (copy->bytes == NULL)
        return km__error(KM_ENOMEM, "no memory for a buffer of %u bytes: free some and try again",
                         CHUNK_PAGES * KM__PAGE);
    int result = clone(copy);
    for (uint64_t page = 0; page < copy->pages && result == 0; page = chunk.first + chunk.count) {
        result = next_chunk(copy, page, &chunk);
        if (result == 0 && chunk.count > 0)
            result = copy_chunk(copy, &chunk);
    }
    return result;
}

/* ---- a transactional map ----------------------------------------------------------------------------------------- */

static int list_patched(const struct copy *copy, struct km__page_list *list) {
    const struct km__index *index = &copy->carried->index;
    int result = 0;
    for (size_t i = 0; i < index->capacity && result == 0; i++)
        if (index->patches[i].key != 0 && index->patches[i].key <= copy->pages)
            result = km__page_list_add(list, index->patches[i].key - 1);
    km__page_list_sort(list);
    return result;
}

/* The committed bytes of a page that frames touched, checked (P2). A handle that never writes has them in its view
 * alone. */
static int take_patched(struct copy *copy, uint64_t page, size_t i) {
    km_map *map = copy->carried;
    const struct km__patch *patch = km__index_find(&map->index, page);
    unsigned char *bytes = copy->bytes + i * KM__PAGE;
    memcpy(bytes, patch->image != NULL ? patch->image : map->view.address + page * KM__PAGE, KM__PAGE);
    const uint32_t found = km__checksum_page(map->header.checksum_kind, bytes);
    copy->entries[i] = patch->stored;
    if (found == patch->stored)
        return check_tail(copy, page, bytes);
    return km__error(KM_ECORRUPT,
                     "%s: page %" PRIu64 " (bytes from %" PRIu64 ") has checksum %08" PRIx32
                     " in this handle, commit %" PRIu64 " says %08" PRIx32
                     ": the program stored to it outside a write transaction, or memory changed; open the map anew",
                     map->path, page, page * KM__PAGE, found, patch->generation, patch->stored);
}

static int copy_patched(struct copy *copy) {
    struct km__page_list list = {0};
    int result = list_patched(copy, &list);
    for (size_t next = 0; next < list.count && result == 0;) {
        const uint64_t first = list.items[next];
        size_t count = 0;
        while (next < list.count && count < CHUNK_PAGES && list.items[next] == first + count && result == 0) {
            result = take_patched(copy, first + count, count);
            next++;
            count++;
        }
        if (result == 0)
            result = write_pages(copy, first, count);
        if (result == 0)
            result = write_entries(copy, first, count);
    }
    km__page_list_release(&list);
    return result;
}

static int fill_transactional(km_map *map, struct os_file *file, struct km__header *header) {
    struct copy copy = {.from = map->file,
                        .to = file,
                        .from_offset = map->header.data_offset,
                        .header = header,
                        .length = km__pages_of(header->data_size) * KM__PAGE,
                        .shares = true,
                        .carried = map};
    int result = copy_chunks(&copy);
    if (result == 0)
        result = copy_patched(&copy);
    free(copy.bytes);
    if (result != 0 || copy.digest == map->cursor.digest)
        return result;
    return km__error(
        KM_EJOURNAL,
        "%s: the digest of all checksums is %016" PRIx64 ", commit %" PRIu64 " says %016" PRIx64
        ": the table, the header or a frame was changed; run keepmap verify, restore it from an older copy",
        map->path, copy.digest, map->cursor.generation, map->cursor.digest); /* P3 */
}

/* ---- a live map, a raw one, a file ------------------------------------------------------------------------------- */

/* Bytes whose checksums nobody knows. */
static int copy_bytes(struct copy *copy) {
    const int result = copy_chunks(copy);
    free(copy->bytes);
    return result;
}

/* A live map that is sealed and not in use has checksums to be carried (P2, P3). 1: it is in use, or was so meanwhile
 * (who attaches writes the header), and what was copied is worth nothing. */
static int copy_sealed(km_map *map, struct copy *copy) {
    struct km__header sealed, now;
    bool abandoned = false;
    int result = km__live_state(map, &sealed, &abandoned);
    if (result != 0 || (sealed.flags & KM__HEADER_CLEAN) == 0)
        return result != 0 ? result : 1;
    copy->carried = map;
    const int copied = copy_chunks(copy);
    free(copy->bytes);
    copy->carried = NULL;
    copy->filled = true;
    result = km__live_state(map, &now, &abandoned); /* as S7 */
    if (result != 0 || now.sequence != sealed.sequence)
        return result != 0 ? result : 1;
    if (copied != 0 || copy->digest == sealed.digest)
        return copied;
    return km__error(KM_EJOURNAL,
                     "%s: the digest of all checksums is not the one in the header: the table or the header was "
                     "changed; run keepmap verify, restore it from an older copy",
                     map->path);
}

/* Whole pages, as a seal sums them up: a store behind the end of the data is in the last one's checksum. */
static int fill_live(km_map *map, struct os_file *file, struct km__header *header) {
    struct copy copy = {.from = map->file,
                        .to = file,
                        .from_offset = map->header.data_offset,
                        .header = header,
                        .length = km__pages_of(header->data_size) * KM__PAGE};
    int result = copy_sealed(map, &copy);
    if (result == 1) {
        km__error_clear();
        copy.digest = 0;
        result = copy_bytes(&copy);
    }
    header->digest = copy.digest;
    return result;
}

static int fill_raw(km_map *map, struct os_file *file, struct km__header *header) {
    struct copy copy = {.from = map->file, .to = file, .header = header, .length = header->data_size, .shares = true};
    const int result = os_file_resize(file, header->data_size);
    return result == 0 ? copy_bytes(&copy) : result;
}

int km__copy_from(struct os_file *file, struct km__header *header, struct os_file *from, uint64_t length) {
    struct os_file_info info = {0};
    struct copy copy = {.from = from,
                        .to = file,
                        .header = header,
                        .length = length,
                        .shares = header->mode == KM_TRANSACTIONAL}; /* P6 */
    int result = copy_bytes(&copy);
    header->digest = copy.digest;
    if (result == KM_ETRUNCATED)
        return km__error_prefix(result, "it became shorter while its bytes were taken over");
    if (result == 0)
        result = os_file_info(from, &info);
    if (result == 0 && info.size < length) /* P8 */
        result = km__error(KM_ETRUNCATED,
                           "the file that the data is taken from had %" PRIu64 " bytes, and now has %" PRIu64
                           ": take it while nobody changes it",
                           length, info.size);
    return result;
}

/* ---- the new file ------------------------------------------------------------------------------------------------ */

/* The header of a copy of the state that the handle stands at (P9). */
static int copy_header(const km_map *map, struct km__header *header) {
    *header = map->header;
    header->feature_compatible = 0; /* what an unknown one means is not known to be copied */
    header->created_ns = os_time_wall_ns();
    header->geometry = 1;
    header->data_size = map->cursor.data_size;
    header->journal_size = header->journal_configured;
    header->generation = header->target = header->history_generation = map->cursor.generation;
    header->digest = map->cursor.digest;
    header->journal_position = header->history_position = 0;
    header->flags = KM__HEADER_CLEAN;
    int result = km__uuid_make(header->uuid);
    if (result != 0)
        return result;
    header->journal_chain = header->history_chain = km__frame_first_chain(header->uuid);
    result = km__header_layout(header);
    return result == 0 ? 0 : km__error_prefix(result, "%s: its copy", map->path);
}

/* P10. Nobody attaches the copy before that is decided (N5). */
static int publish(struct os_file *file, const char *path) {
    struct os_locks *locks = NULL;
    int result = os_locks_open(&locks, file);
    if (result == 0)
        result = os_lock_try(locks, KM__LOCK_BASE + KM__ATTACH, 1, OS_LOCK_WRITE);
    if (result == 0)
        result = km__create_publish(file, path, false);
    os_locks_close(locks);
    return result;
}

typedef int fill_function(km_map *map, struct os_file *file, struct km__header *header);

static int make(km_map *map, const char *path, struct km__header *header, fill_function *fill) {
    struct os_file_info info;
    struct os_file *file = NULL;
    int result = os_file_info(map->file, &info);
    if (result == 0)
        result = os_file_create(&file, path, info.permissions & 0777);
    if (result == 0 && !map->raw)
        result = km__create_empty(file, header);
    if (result == 0)
        result = fill(map, file, header);
    const int gone = km__still_there(map); /* P8: that is what errors mean then, and their absence */
    result = gone != 0 ? gone : result;
    if (result == 0)
        result = map->raw ? os_file_sync(file) : km__create_headers(file, header);
    if (result == 0)
        result = publish(file, path);
    os_file_close(file);
    return result;
}

/* ---- by mode ----------------------------------------------------------------------------------------------------- */

static int copy_transactional(km_map *map, const char *path) {
    struct km__header header;
    const bool inside = map->access == KM_READ;
    int result = inside ? 0 : km__begin_read(map); /* P1 */
    if (result != 0)
        return result;
    result = copy_header(map, &header);
    if (result == 0)
        result = make(map, path, &header, fill_transactional);
    if (!inside)
        (void)km__end(map, false);
    return result;
}

static int copy_live(km_map *map, const char *path) {
    struct km__header header;
    int result = km__lock_wait(map, KM__WRITER, OS_LOCK_READ, km__deadline(map)); /* P7 */
    if (result != 0)
        return result;
    result = km__live_refresh(map);
    struct km__header now;
    bool abandoned = false;
    if (result == 0)
        result = copy_header(map, &header);
    if (result == 0)
        result = km__live_state(map, &now, &abandoned);
    if (result == 0 && abandoned) /* P7 */
        header.flags &= ~(uint64_t)KM__HEADER_CLEAN;
    if (result == 0)
        result = make(map, path, &header, fill_live);
    km__unlock(map, KM__WRITER);
    return result;
}

static int copy_raw(km_map *map, const char *path) {
    struct km__header header = {.checksum_kind = KM_CHECKSUM_NONE, .data_size = map->cursor.data_size};
    return make(map, path, &header, fill_raw);
}

/* ---- public ------------------------------------------------------------------------------------------------------ */

/* A name that is taken already is told before the work, though only the publication decides. */
static int check_free(const char *path) {
    struct os_file *file = NULL;
    const int result = os_file_open(&file, path, false);
    os_file_close(file);
    km__error_clear();
    if (result == 0 || result == KM_EDIRECTORY || result == KM_ENOTMAP)
        return km__error(KM_EEXISTS, "%s: it exists already: choose another name for the copy", path);
    return 0;
}

static int check_target(const km_map *map, const char *path) {
    int result = km__target_check(path);
    if (result == 0 && os_path_is_object(path))
        result = km__error(KM_EINVAL,
                           "%s: a map backed by the paging file ends with its last user, and a copy has none: name a "
                           "path",
                           path);
    if (result == 0 && map->access == KM_WRITE)
        result = km__error(KM_EMISUSE, "%s: km_copy() inside a write transaction: commit or abort it first", map->path);
    const uint64_t unknown = map->raw ? 0 : map->header.feature_readonly & ~KM__KNOWN_READONLY;
    if (result == 0 && unknown != 0)
        result = km__error(KM_EFEATURE,
                           "%s: it has features 0x%" PRIx64
                           " that who writes such a map must know, a copy too: use a newer keepmap",
                           map->path, unknown);
    return result == 0 ? check_free(path) : result;
}

int km_copy(km_map *map, const char *target) {
    int result = km__enter(map);
    if (result != 0)
        return result;
    result = check_target(map, target);
    if (result == 0)
        result = km__still_there(map);
    if (result == 0 && map->raw)
        result = copy_raw(map, target);
    else if (result == 0 && km__is_live(map))
        result = copy_live(map, target);
    else if (result == 0)
        result = copy_transactional(map, target);
    return km__leave(map, result);
}
