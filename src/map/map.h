/* SPDX-License-Identifier: MIT
 *
 * The engine's inside: the handle, and what its files offer each other. Each group of functions stands under the
 * name of the file that carries it, where the protocol is explained:
 *
 *   create.c       making a new map                     open.c         attach, first to attach, detach
 *   table.c        the table of page checksums          errors.c       names and messages
 *   slots.c        header slots and regions             locks.c        lock bytes, waiting, pins
 *   view.c         view, twin, refresh, snapshot rules  transaction.c  begin, touch, commit, abort
 *   journal.c      the ring: room, append, sync         checkpoint.c   bringing home up to a generation
 *   grow.c         growth of journal and data           verify.c, report.c   verify; info, log, who
 *   handle.c       who may enter a call             target_name.c  names of maps
 *   named.c        maps in the paging file          live.c         live maps: writer's lock, seal
 *   raw.c          bytes without a header           wait.c         waiting for commits, and waking
 *   copy.c         copies, and maps made from files
 */
#ifndef KM_MAP_MAP_H
#define KM_MAP_MAP_H

#include <stdbool.h>
#include <string.h>

#include "control.h"
#include "format/checksum.h"
#include "format/frame.h"
#include "format/header.h"
#include "keepmap.h"
#include "os/os.h"
#include "pages.h"

#define KM__NO_SLOT UINT32_MAX

/** A page that did not match its checksum in a refresh. */
struct km__damage {
    uint64_t page;
    uint32_t expected, found;
};

struct km_map {
    atomic_flag busy;    /* set while a thread is inside a call */
    atomic_bool forked;  /* this is the child's copy: nothing of it may be used */
    struct km_map *next; /* registry of the process, under os_process_lock() */
    char *path;
    uint32_t flags;
    uint32_t timeout_ms;
    bool read_only;
    bool raw;      /* no header, no control, no commits: see raw.c */
    bool named;    /* backed by the paging file: it ends with its last user */
    bool unsure;   /* raw: the last sync failed */
    bool lost;     /* KM_ESTALE was found: the mappings may have lost their file, and nothing touches them any more */
    bool faulted;  /* a fault was met (KM_GUARD), so that it is lost */
    bool is_last;  /* under ATTACH, closing, and no other handle may write */
    bool has_twin; /* twin and tracking are set up: stores can be told from what is committed */

    struct os_file *file;
    struct os_file_info identity;
    struct os_locks *locks;
    struct os_waiter *waiter;
    uint64_t waiter_name;
    uint64_t nonce;   /* random value of this attach, in every frame */
    uint64_t boot[2]; /* which start of the machine this is; zero: not told */
    uint32_t process_id;
    uint32_t slot; /* KM__NO_SLOT without write permission */

    struct km__header header; /* as last read; its geometry is what is mapped */
    struct km__frame_limits limits;
    struct os_region control_region, table_region, home_region, journal_region;
    struct km__control *control;

    struct os_view view;
    struct km__pool twin;         /* committed images of patched pages, in handles that write */
    bool stale;                   /* the view shows nothing: the next begin starts anew from home */
    uint64_t base;                /* generation of home that the view started from */
    struct km__cursor cursor;     /* the generation that the view is at */
    struct km__index index;       /* pages that frames in (base, cursor] touched */
    struct km__places places;     /* frames in (base, cursor], less those dropped for reuse */
    uint64_t reusable;            /* frames up to here may be overwritten */
    struct km__frame frame;       /* scratch of refresh */
    struct km__page_list touched; /* scratch of refresh: pages to check */
    bool collect_damaged;         /* list damaged pages while verifying */
    struct {
        struct km__damage *items;
        size_t count, capacity;
    } damaged;

    enum km_access access;      /* 0: no transaction */
    bool abandoned;             /* live: this write transaction found its predecessor dead */
    struct km__page_list dirty; /* pages that this transaction may have stored to */
    struct km__range_list declared;
    struct km__frame_builder builder;
    uint64_t careful;          /* frames up to here may have been told lost to somebody who died: see J9 */
    size_t trim_retry;         /* places of frames from which forgetting some is tried again */
    uint64_t checkpoint_retry; /* bytes of the journal in use from which a checkpoint is tried again */

    /* Waiting, and waking: see wait.c. */
    uint64_t wait_spin_ns; /* how long the next spin may take */
    uint32_t wait_count;   /* waits that could spin */
    uint32_t wait_suspect; /* the marked slot that was looked at last */

    /* Handles without write permission. */
    bool reader_locked;
    uint64_t reader_generation; /* READER + this is locked */
    uint64_t reader_floor;      /* a generation at or below the view's that was durable */
    bool session_live;          /* as of the last begin */
    uint64_t session_epoch;
};

/* ---- structures of callers that begin with a size_t struct_size: those of this version, or of a later one ---- */
#define KM__STRUCT_MAX 4096u /* more is no size */

static inline bool km__struct_holds(size_t given, size_t known) {
    return given >= known && given <= KM__STRUCT_MAX;
}

/** Zero all but the size, also the fields that this version does not know. */
static inline void km__struct_clear(void *structure, size_t struct_size) {
    memset((unsigned char *)structure + sizeof(size_t), 0, struct_size - sizeof(size_t));
}

/* ---- handle.c: who may enter a call ---- */
int km__enter(km_map *map);             /* KM_EFORKED, KM_EMISUSE, KM_ESTALE; pairs with km__leave() */
int km__enter_lost(km_map *map);        /* the same for calls that a handle whose file is gone still allows */
int km__leave(km_map *map, int result); /* gives the result back */
int km__register(km_map *map);
void km__unregister(km_map *map);

/* ---- locks.c ---- */
#define KM__LOCK_BASE (UINT64_C(1) << 62) /* lock bytes from here on */
#define KM__SLOT_LOCKS (KM__LOCK_BASE + 4096)

enum km__lock {
    KM__ATTACH = 0,
    KM__WRITER = 1,
    KM__CHECKPOINT = 2,
    KM__SYNC = 3,
    KM__USER = 4,
    KM__READ_ONLY_USER = 5
};

uint64_t km__deadline_in(uint32_t timeout_ms); /* UINT32_MAX: never */
uint64_t km__deadline(const km_map *map);
int km__lock_try(km_map *map, enum km__lock lock, enum os_lock_kind kind);
int km__lock_wait(km_map *map, enum km__lock lock, enum os_lock_kind kind, uint64_t deadline);
void km__unlock(km_map *map, enum km__lock lock);
int km__sync_wait(km_map *map, uint64_t deadline); /* until SYNC may be free; KM_EBUSY past the deadline */
void km__sleep(km_map *map, uint64_t time_ns);
void km__rest(km_map *map, unsigned attempt); /* a bounded sleep between two tries */
int km__slot_take(km_map *map);
void km__slot_release(km_map *map);
int km__session_has_slots(km_map *map); /* 1: another handle that may write is attached */
int km__slot_check(km_map *map);        /* KM_ESTALE if the handle's slot is not its own any more: L6 */
void km__pin(km_map *map, uint64_t generation);
/** Lowest live pin of the session, the handle's own included; `*slot` (NULL allowed) gets its slot. KM__NO_PIN:
 *  none. */
uint64_t km__lowest_pin(km_map *map, uint64_t below, uint32_t *slot);
int km__reader_lock(km_map *map, uint64_t generation);
void km__reader_unlock(km_map *map, uint64_t generation);
/** Write-lock READER + [0, *generation), lowering it to the oldest reader; 0 with *generation 0 if nothing could be
 *  had. */
int km__readers_exclude(km_map *map, uint64_t *generation, uint64_t not_below);
void km__readers_admit(km_map *map, uint64_t generation);
/** 1: a reader stands below *generation, which becomes where it stands; 0: none. */
int km__readers_below(km_map *map, uint64_t *generation);

/* ---- slots.c ---- */
struct km__slots {
    struct km__header slot[2];
    int result[2];
    int chosen;
};

int km__slots_load(km_map *map, struct km__slots *slots);
/** Write a good slot again, the same bytes, durably. */
int km__slots_write_again(km_map *map, const struct km__slots *slots, int slot);
/** Write the slot that does not count, durably, with the next sequence; it then counts. */
int km__slots_store(km_map *map, struct km__slots *slots, const struct km__header *header);
int km__slots_store_both(km_map *map, struct km__slots *slots, const struct km__header *header);
int km__regions_map(km_map *map, const struct km__header *header);
/** Under ATTACH, before the first to attach stores to control: see H5. */
int km__regions_unshare(km_map *map, const struct km__header *header);
int km__regions_follow(km_map *map, const struct km__header *header); /* the same, if they are not what is mapped */
void km__regions_unmap(km_map *map);
int km__geometry_refresh(km_map *map);               /* maps what another handle's growth changed */
int km__home_cover(km_map *map, uint64_t data_size); /* home and view show that many bytes */
struct km__cursor km__header_cursor(const struct km__header *header);
int km__still_there(km_map *map); /* KM_ESTALE */
/** With KM_GUARD: KM_ESTALE or KM_EIO if a fault was met, whose zeros must not be taken for the map's. */
int km__guard_check(km_map *map);

/* ---- table.c ---- */
uint32_t km__table_entry(const km_map *map, uint64_t page);
int km__table_digest(km_map *map, uint64_t pages, uint64_t *digest);
/** Before a recovery syncs: in a map with whole-page frames, entries that a garbled sector took with it. */
int km__table_mend(km_map *map, const struct km__header *header);

/* ---- target_name.c ---- */
int km__target_check(const char *target);

/* ---- named.c: objects backed by the paging file ---- */
/** Under ATTACH: 1 if somebody uses the object, 0 if nobody does; then its name is taken away, if this handle may. */
int km__named_is_alive(struct os_file *file, struct os_locks *locks, const char *target, bool writable);
/** 1: somebody uses the object; 0: nobody did, and its name is gone now; or an error. */
int km__named_look(const char *target, uint64_t deadline);
void km__named_reap(const char *target, uint64_t deadline); /* take the name away if nobody uses it any more */
void km__named_sweep(void);                                 /* the same for all that are this user's */

/* ---- live.c ---- */
static inline bool km__is_live(const km_map *map) {
    return !map->raw && map->header.mode == KM_LIVE;
}
/** Under ATTACH, first to attach: control of a live map; the header says "unsealed", durably, when this returns 0. */
int km__live_rebuild(km_map *map, struct km__slots *slots);
int km__live_map(km_map *map); /* the shared view */
int km__live_refresh(km_map *map);
int km__live_begin(km_map *map, enum km_access access); /* KM_EABANDONED with the transaction open */
int km__live_end(km_map *map, bool keep);
int km__live_seal(km_map *map, uint64_t deadline, bool closing);
int km__live_grow(km_map *map, uint64_t size, uint64_t deadline);
/** S9: have what is not a hole of pages [first, first + count) of the shared view written by the next sync. */
int km__write_again(km_map *map, uint64_t first, uint64_t count);
/** The newest generation, as far as anybody can tell without a session. */
uint64_t km__live_generation(const km_map *map, const struct km__header *header);
/** The newest header, whose clean flag says "sealed", and whether the next writer is told of a dead one. */
int km__live_state(km_map *map, struct km__header *header, bool *abandoned);
bool km__live_is_abandoned(km_map *map, const struct km__header *header, bool lives);

/* ---- raw.c ---- */
int km__raw_create(struct os_file *file, const struct km_options *options, const char *path);
/** KM_EINVAL if the file, `size` bytes long, is a map. */
int km__raw_refuse_maps(struct os_file *file, uint64_t size, const char *path);
int km__raw_attach(km_map *map);
int km__raw_sync(km_map *map);
int km__raw_refuse(km_map *map, const char *what); /* KM_EUNSUPPORTED: `what` needs more than bytes */

/* ---- wait.c ---- */
void km__publish(km_map *map, uint64_t generation); /* raise `visible`, and wake who waits for it */

/* ---- copy.c ---- */
/**
 * Fill the data region of a new map, still without a name, with the bytes of `from`, and its table with their
 * checksums; header->digest becomes theirs. With `data_offset` in `header` and no table (raw): the bytes alone.
 */
int km__copy_from(struct os_file *file, struct km__header *header, struct os_file *from, uint64_t length);

/* ---- report.c ---- */
/** The newest visible generation for a handle without write permission, when no session lives. */
int km__newest_generation(km_map *map, uint64_t *generation);
int km__session_lives(km_map *map, bool *lives);

/* ---- create.c, open.c ---- */
/** A new file or object, with its name, and with ATTACH locked for writing and USER: see N5, A2. */
struct km__created {
    struct os_file *file;
    struct os_locks *locks;
};
/** `created` is NULL where a map is replaced: the new one is opened by its name. */
int km__create(const char *path, const struct km_options *options, bool replace, struct km__created *created);
/** Give the file its name; if that cannot be made durable, it is taken back, but for one that replaced another. */
int km__create_publish(struct os_file *file, const char *path, bool replace);
/** Take the name back, under ATTACH (N5); `result` is given back, with the detail that there was. */
int km__create_undo(struct os_file *file, const char *path, int result);
int km__create_empty(struct os_file *file, struct km__header *header);   /* everything but the data: see N1, N2 */
int km__create_headers(struct os_file *file, struct km__header *header); /* both slots; the file is synced */
int km__uuid_make(uint8_t uuid[16]);
/** Whether no slot was written since the map was made, or copied: see O8. */
static inline bool km__is_new(const struct km__header *header) {
    return header->sequence <= 2;
}
int km__check_options(const struct km_options *options, struct km_options *checked);

/* ---- control.c ---- */
/** Which start of the machine control was last rebuilt in. */
enum km__boot { KM__BOOT_UNKNOWN, KM__BOOT_SAME, KM__BOOT_OTHER };
enum km__boot km__control_boot(const km_map *map);
void km__control_note_boot(km_map *map);
int km__boot_read(km_map *map); /* which start this is */
/** Rebuild control as of `generation`, of which `durable` is known to be on the disk; `holder` and `boot` stay. */
void km__control_clear(struct km__control *control, uint64_t generation, uint64_t durable);

/* ---- view.c ---- */
int km__refresh_to(km_map *map, uint64_t goal); /* apply frames up to it; stale is set on failure */
int km__rebase(km_map *map, const struct km__header *header);
int km__refresh_pinned(km_map *map); /* pin, rebase if need be, leave `target` respected */
int km__refresh_read_only(km_map *map);
int km__compare_start(km_map *map); /* twin and tracker */
const unsigned char *km__image(km_map *map, uint64_t page, const struct km__patch *patch);
int km__dirty_collect(km_map *map);
void km__dirty_take_back(km_map *map);
/** Bytes of the last page behind the data may have been stored to by mistake: growth finds them zero. */
void km__clear_tail(km_map *map);
int km__check_stray(km_map *map);

/* ---- journal.c ---- */
uint64_t km__journal_used(km_map *map);
int km__journal_trim(km_map *map);               /* look how much may be overwritten, and forget the places of that */
bool km__journal_is_straight(const km_map *map); /* the frames in use do not wrap */
int km__journal_who_holds(km_map *map);          /* KM_EBUSY that names the oldest reader */
int km__journal_room(km_map *map, uint64_t length, uint64_t deadline, uint64_t *position);
int km__journal_append(km_map *map, const unsigned char *bytes, uint64_t length, uint64_t position, uint64_t deadline);
/** km__frame_read() on the map's ring, with a sentence for its errors. */
int km__journal_read(km_map *map, struct km__frame *frame, struct km__cursor *cursor);
int km__journal_adopt(km_map *map);
/** Write the frame after the cursor again, the same bytes from a checked copy, and move behind it. 1: no good frame. */
int km__frame_rewrite(km_map *map, struct km__cursor *cursor);
void km__be_careful(km_map *map); /* after attaching to a session: see J9 */
int km__sync_to(km_map *map, uint64_t generation, uint64_t deadline);
int km__sync_failed(km_map *map, int result);
int km__frame_lost(km_map *map, uint64_t generation); /* a frame that should be there is not good */
/** The newest generation that the header, or with `search` a good frame in the ring, says was durable: frames that end
 *  at `end`, below it, are damaged. The search costs a look through the ring. */
uint64_t km__known_durable(const km_map *map, const struct km__header *header, uint64_t end, bool search);
int km__frame_cut_off(const km_map *map, uint64_t known, uint64_t end); /* KM_EJOURNAL that names both */
bool km__failed(const km_map *map);
int km__failed_error(const km_map *map);

/* ---- checkpoint.c ---- */
int km__checkpoint(km_map *map, uint64_t deadline, bool closing);
int km__checkpoint_lock(km_map *map, uint64_t deadline); /* CHECKPOINT, for changing home or a slot: see J9 */
void km__checkpoint_unlock(km_map *map);
int km__mark_unclean(km_map *map, uint64_t deadline);

/* ---- grow.c ---- */
int km__grow_journal(km_map *map, uint64_t length, uint64_t deadline);
/* Under WRITER, when there is room for a frame and before it is written: see G6. */
int km__finish_dead_growth(km_map *map, uint64_t deadline);
int km__shrink_journal(km_map *map, struct km__slots *slots);
/** Reserve the space of `size` bytes of data and of their checksums. */
int km__allocate_data(struct os_file *file, const struct km__header *header, uint64_t size);
int km__clear_way(km_map *map, uint64_t old_size, uint64_t size, uint64_t deadline); /* G3 */
int km__grow_beyond(km_map *map, uint64_t size, uint64_t deadline);                  /* G4 */
int km__is_alone(km_map *map); /* 1: no other handle at all is attached */
int km__file_zeros(struct os_file *file, uint64_t offset, uint64_t length);

/* ---- transaction.c ---- */
void km__unpin(km_map *map);
int km__begin_read(km_map *map);
int km__begin_write(km_map *map, uint64_t deadline);
int km__commit_write(km_map *map, uint64_t new_size, uint64_t deadline);
int km__end(km_map *map, bool keep); /* abort, or the end of a read */

#endif
