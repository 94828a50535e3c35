/* SPDX-License-Identifier: MIT
 *
 * The content of one simulated file: what the disk holds for certain, and what was written since. Plain memory, no
 * calls into any system but for memory itself; without memory the test ends.
 */
#ifndef KM_TESTS_OS_SIM_CONTENT_H
#define KM_TESTS_OS_SIM_CONTENT_H

#include "os_sim.h"

#define SIM_PAGE 4096u
#define SIM_SECTORS_PER_PAGE (SIM_PAGE / OS_SIM_SECTOR)

/** A sequence of pseudo-random numbers (splitmix64). */
uint64_t sim_random(uint64_t *state);

/** Memory, zeroed; ends the test if there is none. */
void *sim_allocate(size_t size);

/* What a sector became by one write after its last sync. */
struct sim_version {
    struct sim_version *newer;
    uint64_t write; /* number of the write */
    bool failed;    /* a sync that covered it failed: no later sync writes it */
    unsigned char bytes[OS_SIM_SECTOR];
};

struct sim_pending {
    struct sim_version *oldest, *newest; /* both NULL: the disk has what was written last */
    bool rewritten;                      /* with the same bytes since its last sync: a write is under way */
};

struct sim_page {
    struct sim_page *next; /* with the same hash */
    uint64_t number;
    struct sim_pending pending[SIM_SECTORS_PER_PAGE];
    unsigned char disk[SIM_PAGE];
};

/* A size that the file had after its last sync. */
struct sim_size {
    uint64_t size, write;
};

struct sim_content {
    struct sim_page **buckets; /* what has no page is zeros */
    size_t bucket_count, page_count;
    uint64_t durable_size;
    uint64_t size; /* as written last */
    struct sim_size *sizes;
    size_t size_count;
};

void sim_content_copy(struct sim_content *to, const struct sim_content *from);
void sim_content_release(struct sim_content *content);

/** Bytes as written last; what lies beyond the size is zeros. */
void sim_content_read(const struct sim_content *content, uint64_t offset, void *bytes, size_t length);

/** Numbers of writes ascend. Extends the size. */
void sim_content_write(struct sim_content *content, uint64_t write, uint64_t offset, const void *bytes, size_t length);
void sim_content_zero(struct sim_content *content, uint64_t write, uint64_t offset, uint64_t length);
void sim_content_resize(struct sim_content *content, uint64_t write, uint64_t size);

/** As if written and synced at once. Must lie within the size. */
void sim_content_damage(struct sim_content *content, uint64_t offset, const void *bytes, size_t length);

/** Sync the sectors of a range, or with UINT64_MAX for `length` the file. */
void sim_content_sync(struct sim_content *content, uint64_t offset, uint64_t length);

/** The same failed. */
void sim_content_fail(struct sim_content *content, uint64_t offset, uint64_t length);

/** Drop versions that failed syncs left as the newest, in favour of what `seed` says that the disk holds. Calls
 *  `changed` for each sector. */
typedef void sim_sector_function(void *context, uint64_t offset, const unsigned char *bytes);
void sim_content_evict(struct sim_content *content, uint64_t seed, sim_sector_function *changed, void *context);

/** Sectors and sizes that a power cut leaves open; the sectors of a range. */
uint64_t sim_content_pending(const struct sim_content *content);
uint64_t sim_content_pending_in(const struct sim_content *content, uint64_t offset, uint64_t length);

/** The pages in which one write, the newest there, has left several sectors open, and the write that did so in the
 *  `which`-th of them. */
uint64_t sim_content_wide_writes(const struct sim_content *content);
uint64_t sim_content_wide_write(const struct sim_content *content, uint64_t which);

/** Calls `each` for every write that has left something open, once for each sector and size. */
typedef void sim_write_function(void *context, uint64_t write);
void sim_content_open_writes(const struct sim_content *content, sim_write_function *each, void *context);

/** Which writes a crash keeps, drawn once for all files of a machine. */
struct sim_choice {
    enum os_sim_policy policy;
    uint64_t seed;
    uint64_t last_write; /* OS_SIM_PREFIX: the write that was under way; _TORN: the one that is torn */
    uint64_t keep;       /* OS_SIM_SECTORS, _WRITES: of 256, how likely something is kept */
};

/** All but the last write, which is the caller's to choose. */
void sim_choice_draw(struct sim_choice *choice, enum os_sim_policy policy, uint64_t seed);

/** The same choice for one of the files: sectors of the same number in two files have nothing to do with each other. */
struct sim_choice sim_choice_of_file(const struct sim_choice *choice, uint64_t inode);

/** Whether a write as a whole is kept, for sizes and names. */
bool sim_choice_keeps(const struct sim_choice *choice, uint64_t write);

/** Become what the disk may hold after a power cut: nothing is pending any more. */
void sim_content_crash(struct sim_content *content, const struct sim_choice *choice);

#endif
