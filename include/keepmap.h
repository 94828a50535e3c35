/* SPDX-License-Identifier: MIT
 *
 * keepmap: shared memory that survives.
 *
 * A map is a file, or a named object backed by the paging file, that any number of processes attach and use through a
 * plain pointer. What they commit is atomic, survives the crash of a process, of the machine and of the power, and is
 * checked by checksums.
 *
 *     km_map *map;
 *     struct km_options options = { .struct_size = sizeof options, .size = 64 << 20, .flags = KM_CREATE };
 *     if (km_open(&map, "state.km", &options) != 0)
 *         return fprintf(stderr, "%s\n", km_last_error_detail()), 1;
 *     km_begin(map, KM_WRITE);
 *     struct state *state = km_data(map);
 *     state->counter++;
 *     km_commit(map);
 *     km_close(map);
 *
 * Words. The *data* is one range of bytes seen through one pointer. A *page* is 4096 bytes of data on every system.
 * A *generation* is the number of a commit; 0 is the freshly created map. *Home* is the data as it stands in the
 * file since the last *checkpoint*; the commits after it stand as *frames* in the *journal* at the end of the file.
 *
 * Targets. A map is named by a *target*: the path of a file, or `Local\NAME` or `Global\NAME` for an object that is
 * backed by the paging file and ends with its last user, as on Windows. NAME is 1 to 200 bytes of UTF-8 without control
 * characters, '/' and '\', neither "." nor ".."; case matters, in the prefixes too. `Local\` names belong to the user
 * (on Windows: to the session), `Global\` names to the machine. A file whose path looks so is reached as
 * `./Local\NAME`.
 *
 * Modes. A map is *transactional* (the rest of this header, where nothing else is said), *live* (plain shared memory:
 * stores are seen at once; see KM_LIVE) or *raw* (bytes that another program owns; see KM_RAW).
 *
 * Threads and processes. A handle (`km_map *`) belongs to one thread at a time; two threads that use it at once get
 * KM_EMISUSE. Open one handle a thread: handles of one process are as independent of each other as those of two
 * processes. After fork() a handle is unusable in the child: its functions return KM_EFORKED, its data is not
 * mapped there. Only km_close() may be called on it.
 *
 * Errors. Functions that return int return 0, or one of the negative codes of KM_ERROR_MAP. The thread's
 * km_last_error_detail() then says in a sentence what was wrong and what can be done. Beside the errors that are listed
 * with a function, every one that takes a handle may return KM_EINVAL (NULL), KM_EMISUSE (two threads at once),
 * KM_EFORKED and KM_ESTALE, and every one that reaches the system KM_ESYSTEM. The library never prints, aborts or
 * exits.
 *
 * The data is mapped memory: touching a page that the disk cannot deliver, or that was cut off the file, is SIGBUS,
 * unless the handle was opened with KM_GUARD. A write beyond the process's limit on the size of files (ulimit -f)
 * raises SIGXFSZ; in a program that ignores it, KM_ESIZE.
 *
 * Structures begin with struct_size, which the caller sets to sizeof. Later versions add members at the end: a program
 * that was built with a later version may ask an older library, whose answer leaves what it does not know zero.
 */
#ifndef KEEPMAP_H
#define KEEPMAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef KM_API
#if defined(__GNUC__) && !defined(_WIN32)
#define KM_API __attribute__((visibility("default")))
#else
#define KM_API
#endif
#endif

/** Version of this header. km_version() tells that of the library. */
#define KM_VERSION "0.1.0"

/** Bytes in a page of data, on every system. */
#define KM_PAGE_SIZE 4096u

/**
 * Every error: X(code, number, exit status of the command line, message). The numbers are part of the interface and
 * never change.
 */
#define KM_ERROR_MAP(X)                                                                                                \
    X(KM_EINVAL, -1, 2, "an argument does not hold")                                                                   \
    X(KM_ENOMEM, -2, 7, "not enough memory")                                                                           \
    X(KM_ENOTFOUND, -3, 3, "there is no such map")                                                                     \
    X(KM_EEXISTS, -4, 4, "it exists already")                                                                          \
    X(KM_EBUSY, -5, 4, "others are using it, and waiting for them took too long")                                      \
    X(KM_EACCESS, -6, 7, "the system does not permit it")                                                              \
    X(KM_ENOSPACE, -7, 7, "the disk or the quota is full")                                                             \
    X(KM_EIO, -8, 7, "the disk reported an error")                                                                     \
    X(KM_ESYSTEM, -9, 7, "the operating system reported an error")                                                     \
    X(KM_EDIRECTORY, -10, 2, "it is a directory, not a file")                                                          \
    X(KM_EEMPTY, -11, 5, "the file is empty")                                                                          \
    X(KM_ENOTMAP, -12, 5, "the file is not a keepmap map")                                                             \
    X(KM_ETRUNCATED, -13, 5, "the file is shorter than its header says")                                               \
    X(KM_EHEADER, -14, 5, "both header slots are damaged")                                                             \
    X(KM_EJOURNAL, -15, 5, "the journal is damaged")                                                                   \
    X(KM_ECORRUPT, -16, 5, "a page does not match its checksum")                                                       \
    X(KM_EVERSION, -17, 6, "the map has a format that this library does not know")                                     \
    X(KM_EFEATURE, -18, 6, "the map uses a feature that this library does not have")                                   \
    X(KM_ESCHEMA, -19, 6, "the map has another schema than the program asked for")                                     \
    X(KM_EFILESYSTEM, -20, 7, "the file system is not known to share mappings coherently")                             \
    X(KM_ESTALE, -21, 7, "the file behind the handle was removed, replaced or cut short")                              \
    X(KM_EFORKED, -22, 7, "the handle belongs to the parent process")                                                  \
    X(KM_EMISUSE, -23, 2, "the call does not fit the state of the handle")                                             \
    X(KM_ESTRAY, -24, 7, "data was changed outside a write transaction")                                               \
    X(KM_EREADONLY, -25, 7, "the handle or the map is read-only")                                                      \
    X(KM_EUNSUPPORTED, -26, 7, "this build or this system cannot do it")                                               \
    X(KM_EHANDLES, -27, 4, "too many handles are attached")                                                            \
    X(KM_ESIZE, -28, 2, "the size is out of range")                                                                    \
    X(KM_ESESSION, -29, 4, "the map is in use by another operating system")                                            \
    X(KM_ECANCELED, -30, 1, "the caller's function asked to stop")                                                     \
    X(KM_EABANDONED, -31, 7, "the last writer died inside its write transaction")                                      \
    X(KM_ETIMEOUT, -32, 1, "no commit came in time")                                                                   \
    X(KM_ECHANGED, -33, 1, "a page was changed since the last seal, or during it")

#define KM_ERROR_ENUM(code, number, status, message) code = number,
enum km_error { KM_OK = 0, KM_ERROR_MAP(KM_ERROR_ENUM) };
#undef KM_ERROR_ENUM

/** Kind of a transaction, for km_begin(). */
enum km_access { KM_READ = 1, KM_WRITE = 2 };

/** How the data is kept; fixed at creation, but for KM_RAW, which is asked for at each open. */
enum km_mode {
    /** Stores go to a private view; km_commit() publishes them, all or nothing. */
    KM_TRANSACTIONAL = 0,
    /**
     * Stores go to one shared view and are seen at once by every process, whether in a transaction or not: for ring
     * buffers, counters, lock-free structures. km_begin(KM_WRITE) and km_commit() take and release the writer's lock,
     * and a commit raises the generation and wakes who waits; it is neither atomic nor durable, and km_abort() takes
     * nothing back. What was stored survives the death of processes. km_sync() makes it durable and *seals* it: brings
     * the page checksums up to date. The last handle that may write seals when it closes. All space is taken at
     * creation.
     *
     * Before a power cut the kernel may have written any page at any time: after one, the data is whatever mixture
     * was on the disk. km_verify() names the pages that differ from the last seal (KM_ECHANGED), and the next writer
     * is told (KM_EABANDONED); the generation goes back to that of the last seal. A seal gives whatever stands there a
     * fresh checksum. So what the disk changed in a sealed map is found by km_verify() before it is opened for writing,
     * or by that open with KM_CHECK (KM_ECORRUPT), which reads all pages; afterwards it cannot be told from a store.
     * KM_COMPRESS and KM_FULL_PAGES are refused at creation; KM_LAZY and KM_DECLARED mean nothing.
     */
    KM_LIVE = 1,
    /**
     * Any regular file, or a section that another program made, without a header: km_data() shows its bytes, stores to
     * them are seen at once, and no byte is changed that the caller does not change. The size is that of the file at
     * the open. KM_CREATE with a size makes one of zeros. There are no commits and no checksums: km_sync(), km_copy(),
     * km_get_info() and km_close() work, everything else returns KM_EUNSUPPORTED.
     */
    KM_RAW = 2
};

/** How pages are checked; fixed at creation. Headers and frames are always checked by CRC-32C. */
enum km_checksum {
    KM_CHECKSUM_CRC32C = 0, /**< CRC-32C, built in */
    KM_CHECKSUM_CRC32 = 1,  /**< CRC-32 of zlib; KM_EUNSUPPORTED in a build without zlib */
    KM_CHECKSUM_NONE = 2    /**< no page checksums: damage inside the data is not found */
};

enum km_flags {
    /** Create the map if it does not exist. It appears whole or not at all. */
    KM_CREATE = 1u << 0,
    /** With KM_CREATE: KM_EEXISTS if it exists. */
    KM_EXCLUSIVE = 1u << 1,
    /** Open the file without write permission, whoever asks. Such a handle never recovers the map and holds no slot. */
    KM_READONLY = 1u << 2,
    /** This handle's commits are atomic and visible at once, but not waited for: see km_commit(). */
    KM_LAZY = 1u << 3,
    /** This handle names every range with km_touch() before it stores; stores elsewhere are not committed. */
    KM_DECLARED = 1u << 4,
    /** Each begin searches for stores made outside a write transaction, refuses with KM_ESTRAY and takes them back.
     *  (A page that others have changed and checkpointed since cannot be judged any more: stores to it are taken
     *  back in silence.) In a live map: an open for writing checks all pages, if the map is sealed. */
    KM_CHECK = 1u << 5,
    /** Creation: frames are compressed with zlib where that makes them shorter. */
    KM_COMPRESS = 1u << 6,
    /** Creation: the first change of a page after a checkpoint journals the whole page, for disks that can garble a
     *  sector whose write is cut by power. */
    KM_FULL_PAGES = 1u << 7,
    /** Accept a file system that is not known to share mappings coherently (network, FUSE, ...). The caller vouches. */
    KM_ANY_FILESYSTEM = 1u << 8,
    /** With KM_CREATE: replace a map that nobody has open; KM_EBUSY if somebody has, KM_ENOTMAP if it is something
     *  else. */
    KM_REPLACE = 1u << 9,
    /** Attach although the file says that a session of another operating system has it open: the caller vouches that
     *  it is gone. Without the flag: KM_ESESSION. */
    KM_TAKE_OVER = 1u << 10,
    /**
     * Touching data that the file has lost (it was cut short), or that the disk cannot deliver, is no SIGBUS: the rest
     * of that mapping becomes private zeros, nothing of the handle is committed any more (what is stored to a live or
     * raw map before the page that faulted still goes to the file), and every later call on the handle returns
     * KM_ESTALE or KM_EIO; so does km_abort() of a read in which it happened. The first such open installs a handler
     * for SIGBUS in the process (Windows: a vectored exception handler), which passes every fault that is not in a
     * guarded map to the handler that was there before. A handler that the program installs later must do the same
     * with faults that it does not know. KM_ENOMEM if more than 1024 mappings are guarded in the process.
     */
    KM_GUARD = 1u << 11
};

/**
 * Options of km_open(). All zero (but struct_size) means the defaults. `size` and the other creation options (max_size,
 * journal_size, mode, checksum, permissions, from, KM_COMPRESS, KM_FULL_PAGES) are ignored when the map exists. But a
 * `mode` of KM_RAW counts at every open.
 */
struct km_options {
    size_t struct_size;      /**< sizeof(struct km_options) */
    uint64_t size;           /**< bytes of data, from 1 on; creation only */
    uint64_t max_size;       /**< bytes that the data can grow to while others are attached; default: size */
    uint64_t journal_size;   /**< bytes; default: an eighth of size, at least 1 MiB and at most 64 MiB */
    uint32_t flags;          /**< enum km_flags */
    uint32_t mode;           /**< enum km_mode */
    uint32_t checksum;       /**< enum km_checksum */
    uint32_t permissions;    /**< of the created file; default 0600, umask not applied */
    uint32_t timeout_ms;     /**< how long locks are waited for; 0: the default, 10 s; 1: hardly; UINT32_MAX: for ever.
                              *   A commit that is made waits for the disk, and for another's sync, as long as it
                              *   takes. */
    const char *schema;      /**< the application's own name for what the data means, 1 to 63 bytes; NULL: any */
    uint32_t schema_version; /**< its version; an open that names another schema or version gets KM_ESCHEMA */
    const char *from;        /**< creation: path of a file whose bytes the data begins with; NULL: zeros. With `size` 0
                              *   the data is as long as the file. Where the file system can, its blocks are shared. */
};

/** An attached map. */
typedef struct km_map km_map;

/**
 * Attach the map `target` (a path, `Local\NAME` or `Global\NAME`), creating it if KM_CREATE is given. If the last
 * session did not end cleanly, the first to attach recovers it to the newest complete commit before this returns.
 *
 * An object backed by the paging file exists as long as a handle of it is open, in whatever process and of whatever
 * kind: when the last user has closed it or was killed, it is gone (KM_ENOTFOUND), and KM_CREATE makes a new one.
 * KM_REPLACE replaces files only; for such an object it means KM_EXCLUSIVE.
 *
 * Errors: KM_ENOTFOUND, KM_EEXISTS, KM_EACCESS, KM_EDIRECTORY, KM_EEMPTY, KM_ENOTMAP, KM_ETRUNCATED, KM_EHEADER,
 * KM_EJOURNAL, KM_EVERSION, KM_EFEATURE, KM_ESCHEMA, KM_EFILESYSTEM, KM_EHANDLES, KM_ESESSION, KM_EBUSY, KM_ESIZE,
 * KM_ENOSPACE, KM_EIO, KM_ENOMEM, KM_EUNSUPPORTED, KM_EINVAL. Nothing is left behind after an error, but for the map
 * that KM_REPLACE has put in the place of another, where it could not be made durable or attached.
 */
KM_API int km_open(km_map **map, const char *target, const struct km_options *options);

/**
 * Detach. An open transaction is aborted. The last handle that may write (of a live map: seals it, and so) makes
 * everything durable, lazy commits included, before this returns 0; it brings home up to the newest commit that no
 * reader holds back, and marks the map clean if that was the newest of all. The handle is gone whatever is returned,
 * but for KM_EMISUSE (another thread is inside a call on it). A raw map is left to the system to write, some time: see
 * km_sync(). `map` may be NULL. Errors: KM_EBUSY, KM_ENOSPACE, KM_ENOMEM, KM_ECORRUPT, KM_EJOURNAL (the map is as it
 * was, every commit of this handle durable, but not marked clean: the next to open it recovers it), KM_EIO, KM_ESTALE.
 */
KM_API int km_close(km_map *map);

/**
 * The data: one pointer that never moves while the handle lives, km_size() bytes long. In live and raw maps it may be
 * read and written at any time (in a handle with KM_READONLY only read: a store there is SIGSEGV). In a transactional
 * map it shows one generation between km_begin() and km_commit() or km_abort(). Outside a transaction it must be
 * neither read nor written, and in a KM_READ one not written: such stores are not looked for, and become part of the
 * handle's next commit (see KM_CHECK). NULL for a NULL map and after fork().
 */
KM_API void *km_data(km_map *map);

/** Bytes of data at the handle's generation (live maps: at its last begin, km_wait() or km_grow(); raw: at the open); 0
 *  for a NULL map. */
KM_API uint64_t km_size(km_map *map);

/** The generation that the handle stands at: that of its last begin or commit (live maps: or km_wait()); 0 for a NULL
 *  map. */
KM_API uint64_t km_generation(km_map *map);

/**
 * Begin a transaction. KM_READ: the data shows the newest visible commit and stays so until km_abort() or km_commit(),
 * whatever others commit. KM_WRITE: the same, and nobody else can begin writing until this one ends; the data shows the
 * newest commit of all.
 *
 * A long read transaction holds back the checkpoint, and so, when the journal is full, the writers.
 *
 * In a live map KM_WRITE takes the writer's lock and KM_READ takes none; both bring size and generation up to date.
 * KM_EABANDONED means that the last writer died inside its transaction, or that the machine went down while the map
 * was open: *the transaction is open all the same*, and the data may be half changed. Repair it: km_commit() then says
 * that it is good again, km_abort() leaves the mark for the next writer.
 *
 * Errors: KM_EBUSY (another writer held on longer than timeout_ms), KM_EREADONLY, KM_EMISUSE (already in a
 * transaction, or used by two threads at once), KM_ECORRUPT, KM_ESTRAY, KM_ESTALE, KM_EIO (writing after a failed
 * sync), KM_ENOMEM, KM_EFORKED.
 */
KM_API int km_begin(km_map *map, enum km_access access);

/**
 * End a transaction. In a write transaction, what was stored becomes one commit, all or nothing; when this returns
 * 0 it is durable and visible to all. With KM_LAZY it is visible but not waited for: it survives any process crash;
 * after a power cut the map stands at this or some earlier commit, never between two. A transaction that changed
 * nothing makes no commit.
 *
 * After KM_EBUSY (the journal is full, and the reader that the detail tells of holds on to it; or the first commit of a
 * session found a checkpoint at work for too long), KM_ENOSPACE, KM_ESIZE (too large for the file system, or beyond the
 * process's limit), KM_ENOMEM and KM_ECORRUPT the transaction is still open and whole: try again, or abort. After
 * KM_EIO (see docs/durability.md) and KM_ESTALE it is over. Other errors: KM_EMISUSE, KM_EFORKED.
 */
KM_API int km_commit(km_map *map);

/** End a transaction of either kind. What was stored in a write transaction is taken back (with KM_DECLARED, in the
 *  declared ranges; in a live map nothing is). Errors: KM_EMISUSE, KM_EFORKED; KM_ESTALE (the program closed
 *  descriptors of the handle) and, with KM_GUARD, KM_EIO: what was read in the transaction is not to be trusted. */
KM_API int km_abort(km_map *map);

/**
 * Declare that `length` bytes at `offset` are going to be stored to. Required before storing with KM_DECLARED;
 * otherwise needed only for memory that the kernel or a device writes behind the processor's back (O_DIRECT,
 * io_uring, RDMA). Register such memory (fixed buffers of io_uring, memory regions of RDMA) inside the transaction, and
 * unregister it before the end: a registration holds the pages that the view has at that moment, and abort and begin
 * may put others in their place; what is written through it then is in no view and in no commit. Errors: KM_EINVAL
 * (outside the data), KM_EMISUSE (not in a write transaction), KM_ENOMEM, KM_EFORKED.
 */
KM_API int km_touch(km_map *map, uint64_t offset, uint64_t length);

/**
 * Make every commit up to now durable, whoever made it. In a live map: make everything that was stored before this
 * call durable, and seal it, which reads all pages that are in use; what others store meanwhile may be on the disk or
 * not, and in the seal or not. In a raw map: make what was stored durable. Nothing to do for objects backed by the
 * paging file, but for the seal. Errors: KM_EIO, KM_EREADONLY, KM_EBUSY, KM_ENOMEM, KM_ESTALE, KM_EFORKED.
 */
KM_API int km_sync(km_map *map);

/**
 * Bring home up to the newest durable commit that no reader holds back, so that the journal can be used again. Done by
 * itself when half the journal is used. Not allowed inside a write transaction of the same handle. In a live map the
 * same as km_sync().
 * Errors: as km_sync(), KM_ENOSPACE, KM_ECORRUPT, KM_EMISUSE, KM_ENOMEM.
 */
KM_API int km_checkpoint(km_map *map);

/**
 * Grow the data to `size` bytes, as a commit of its own; the new bytes are zero. Up to max_size it happens whoever
 * is attached; beyond it this handle must be the only one (otherwise KM_EBUSY names the limit), and max_size
 * becomes `size`. Other handles see the new size at their next begin. KM_ESIZE: a size below the present one, or
 * beyond the address space that the handle keeps for its data (64 GiB more than max_size, or twice max_size if that is
 * more). Errors: KM_ESIZE, KM_EBUSY, KM_ENOSPACE, KM_EMISUSE (in a transaction), KM_EREADONLY, KM_EIO, KM_ENOMEM,
 * KM_EFORKED.
 */
KM_API int km_grow(km_map *map, uint64_t size);

/**
 * Wait until the newest visible commit is above `after`, whoever makes it: 0, and `*now` (NULL allowed) is its number.
 * With `after` = km_generation() that is the next commit after what the handle shows; it is then shown by a
 * km_begin(). At most `timeout_ms` milliseconds: KM_ETIMEOUT, `*now` being what is newest; 0 looks without waiting,
 * UINT32_MAX waits for ever. Works in transactional and live maps and in handles with KM_READONLY, which look every 5
 * ms. Wakes are not lost and may be joined: one return can stand for many commits. Not allowed inside a transaction.
 * Errors: KM_ETIMEOUT, KM_EIO (a sync failed: no commit can come until all have closed), KM_ESTALE, KM_EMISUSE,
 * KM_EUNSUPPORTED (raw), KM_EFORKED.
 */
KM_API int km_wait(km_map *map, uint64_t after, uint32_t timeout_ms, uint64_t *now);

/**
 * Copy the map, as it stands at one commit, into a new file at the path `target`, while others go on working. Inside a
 * read transaction: the commit that it shows; otherwise the newest visible one. The copy is a map of its own (another
 * UUID) with the same data, size, max_size, schema, checksums, mode and permissions, closed clean and checkpointed;
 * its generation goes on from the copied one. Every page is checked on the way. Holes stay holes, and where the file
 * system can share blocks between files it does. It appears whole and durable or not at all. A live map is copied
 * under the writer's lock and sealed in the copy; stores made without that lock may be caught half-way, and the copy
 * of a map whose last writer died tells its first writer so (KM_EABANDONED). A raw map is copied byte by byte. Errors:
 * KM_EEXISTS, KM_EINVAL (an object backed by the paging file: it would end at once), KM_ECORRUPT, KM_EJOURNAL (the
 * digest does not match), KM_EFEATURE (it has a feature that a writer must know, in a handle with KM_READONLY),
 * KM_EBUSY, KM_EMISUSE (in a write transaction), KM_ENOTFOUND (no such directory), KM_ENOSPACE, KM_EACCESS, KM_EIO,
 * KM_ENOMEM, KM_ESTALE, KM_EFORKED.
 */
KM_API int km_copy(km_map *map, const char *target);

/** What km_get_info() tells. Set struct_size before the call. In a raw map all that a header would tell is zero. */
struct km_info {
    size_t struct_size;
    uint32_t format_version;
    uint32_t mode;     /**< enum km_mode */
    uint32_t checksum; /**< enum km_checksum */
    uint32_t schema_version;
    char schema[64]; /**< NUL-terminated; empty: none */
    uint8_t uuid[16];
    uint64_t feature_incompatible; /**< feature masks of the header */
    uint64_t feature_readonly;
    uint64_t feature_compatible;
    uint64_t created_ns; /**< nanoseconds since 1970 */
    uint64_t size;       /**< bytes of data, newest visible commit */
    uint64_t max_size;
    uint64_t journal_size;          /**< bytes of the ring now */
    uint64_t journal_used;          /**< bytes of it that frames after the checkpoint take */
    uint64_t file_size;             /**< bytes, as the file system reports it */
    uint64_t file_allocated;        /**< bytes that the file takes on disk */
    uint64_t generation;            /**< newest visible commit */
    uint64_t durable_generation;    /**< newest commit known to be durable; live: the last one that is sealed */
    uint64_t checkpoint_generation; /**< commit that home is at; live: as durable_generation */
    uint64_t digest;                /**< checksum of the whole map at `generation`; live: at the last seal */
    uint64_t patched_pages;         /**< pages that this handle holds in private memory */
    uint32_t header_slots;          /**< bit 0, 1: header slot A, B is good */
    uint32_t handles;               /**< attached handles that may write, raw ones included */
    uint32_t clean;                 /**< 1: closed cleanly (live: sealed), nobody attached for writing since */
    uint32_t read_only_handles;     /**< 1: at least one handle without write permission is attached */
    uint32_t failed;                /**< 1: a sync failed; commits are refused until all have closed */
    uint32_t damaged;     /**< 1: a frame that was durable is damaged; `generation` is what is left before it */
    uint32_t compress;    /**< 1: created with KM_COMPRESS */
    uint32_t full_pages;  /**< 1: created with KM_FULL_PAGES */
    char tracker[16];     /**< how this handle finds changed pages: "scan", "pagemap", "compare", "none" */
    uint32_t paging_file; /**< 1: an object backed by the paging file: it ends with its last user */
    uint32_t abandoned;   /**< 1: live: the last writer died inside its transaction (KM_EABANDONED at the next begin) */
};

/** Tell about the map. Allowed at any time, also inside a transaction. Errors: KM_EINVAL, KM_EIO, KM_EHEADER,
 *  KM_EFORKED. */
KM_API int km_get_info(km_map *map, struct km_info *info);

/** One finding of km_verify(). */
struct km_finding {
    int error;           /**< KM_ECORRUPT: a page; KM_EHEADER: a header slot; KM_EJOURNAL: a frame, or the digest;
                          *   KM_ECHANGED: a page of a live map that was not sealed, which is no damage */
    uint64_t page;       /**< KM_ECORRUPT, KM_ECHANGED: number of the page; KM_EHEADER: 0 or 1, the slot */
    uint64_t offset;     /**< byte in the data (KM_ECORRUPT, KM_ECHANGED) or in the file (others) */
    uint64_t generation; /**< KM_EJOURNAL: the commit that is damaged */
    uint32_t expected;   /**< KM_ECORRUPT, KM_ECHANGED: stored checksum */
    uint32_t found;      /**< KM_ECORRUPT, KM_ECHANGED: checksum of what is there */
    const char *message; /**< a sentence; valid during the call */
};

/** Result of km_verify(). Set struct_size before the call. */
struct km_report {
    size_t struct_size;
    uint64_t pages;         /**< pages of data */
    uint64_t pages_checked; /**< those with checksums that were compared */
    uint64_t pages_damaged;
    uint64_t frames; /**< frames after the checkpoint that were checked */
    uint64_t frames_damaged;
    uint64_t headers_damaged; /**< 0, 1 or 2 */
    uint64_t generation;      /**< newest commit that was checked */
    uint64_t digest;          /**< sum over the stored checksums of all pages at the checkpoint */
    uint32_t digest_matches;  /**< 1: the header says the same, and the newest commit what follows from it, so the
                               *   checksums are those that were written; live: also while it is not sealed */
    uint64_t pages_changed;   /**< live: pages changed since the last seal, or during it: in use, or its users died */
};

/**
 * Called by km_verify() and other long calls. `finding` is NULL when it only tells how far the work is: `done` of
 * `total` bytes. A result other than 0 ends the call with KM_ECANCELED. It must not use the handle (KM_EMISUSE); it
 * may take its time, as no lock is held meanwhile.
 */
typedef int km_progress(void *context, uint64_t done, uint64_t total, const struct km_finding *finding);

/**
 * Check both header slots, all frames after the checkpoint, and every page of home against its checksum, while
 * others may go on working. Damage is no error: this returns 0, and the report counts what was found. `progress`
 * may be NULL. Not allowed inside a transaction. Errors: KM_ECANCELED, KM_EBUSY, KM_EIO, KM_ENOMEM, KM_EMISUSE,
 * KM_EFORKED.
 */
KM_API int km_verify(km_map *map, struct km_report *report, km_progress *progress, void *context);

/** One commit that still stands in the journal. */
struct km_log_entry {
    uint64_t generation;
    uint64_t time_ns;       /**< nanoseconds since 1970, clock of the committer */
    uint64_t frame_bytes;   /**< bytes in the journal */
    uint64_t changed_bytes; /**< bytes of data that it carries */
    uint64_t digest;        /**< checksum of the whole map after it */
    uint64_t size;          /**< bytes of data after it */
    uint32_t pages;
    uint32_t process_id;
    uint32_t checkpointed; /**< 1: home holds it already, the frame is history */
    uint32_t compressed;   /**< 1: the frame is compressed */
};

/**
 * Call `each` for the commits that still stand in the journal, oldest first. A result other than 0 ends it with
 * KM_ECANCELED. It must not use the handle. Not allowed inside a transaction. Live and raw maps have no journal
 * (KM_EUNSUPPORTED). When a durable frame is damaged, the commits before it are told and the result is KM_EJOURNAL.
 * Other errors: KM_EBUSY, KM_ENOMEM, KM_EIO, KM_EMISUSE.
 */
typedef int km_log_function(void *context, const struct km_log_entry *entry);
KM_API int km_log(km_map *map, km_log_function *each, void *context);

/** One handle that may write and is attached now. */
struct km_user {
    uint32_t slot;
    uint32_t process_id;  /**< as seen in the process's own pid namespace */
    uint64_t attached_ns; /**< nanoseconds since 1970 */
    uint64_t generation;  /**< the generation its transaction stands at; only if in_transaction */
    uint32_t in_transaction;
    uint32_t self;         /**< 1: the handle that asks */
    char process_name[64]; /**< empty when the system does not tell */
};

/**
 * Call `each` for every attached handle that may write. A result other than 0 ends it with KM_ECANCELED. Allowed at any
 * time, also inside a transaction. Raw maps keep no list (KM_EUNSUPPORTED): km_get_info() counts their handles.
 */
typedef int km_who_function(void *context, const struct km_user *user);
KM_API int km_who(km_map *map, km_who_function *each, void *context);

/** A map backed by the paging file, as km_list() finds it. */
struct km_listed {
    const char *target;         /**< `Local\NAME` or `Global\NAME`; valid during the call */
    uint64_t size;              /**< bytes of data */
    uint64_t generation;        /**< newest visible commit */
    uint32_t mode;              /**< enum km_mode */
    uint32_t handles;           /**< attached handles that may write */
    uint32_t read_only_handles; /**< 1: at least one handle without write permission is attached */
    int error;                  /**< 0, or why it cannot be looked at, as KM_EACCESS; the numbers above are then 0 */
    const char *detail;         /**< the sentence for it; "" without an error */
};

/**
 * Call `each` for every map backed by the paging file that the caller may see, in the order of their names: `Local\`
 * ones of this user, then `Global\` ones. Those that have no users any more are not told, and are cleared away where
 * they are the caller's. A result other than 0 ends it with KM_ECANCELED. Other errors: KM_EINVAL, KM_ENOMEM,
 * KM_EACCESS.
 */
typedef int km_list_function(void *context, const struct km_listed *listed);
KM_API int km_list(km_list_function *each, void *context);

/** Name of an error code, such as "KM_EBUSY"; "KM_OK" for 0; "KM_EUNKNOWN" for what is none. Never NULL. */
KM_API const char *km_error_name(int error);

/** One sentence for an error code. Never NULL. */
KM_API const char *km_error_message(int error);

/** Exit status that the command line gives for an error code: see docs/cli.md. */
KM_API int km_error_exit_status(int error);

/**
 * What the last error of the calling thread was about: the path, the system's words, what to do. Valid until the
 * thread's next call into the library; "" when there was none. Never NULL.
 */
KM_API const char *km_last_error_detail(void);

/** Version of the library. */
KM_API const char *km_version(void);

#ifdef __cplusplus
}
#endif

#endif
