/* SPDX-License-Identifier: MIT
 *
 * growth.pml: the file that becomes longer and shorter, regions that move, and the data that grows into their place.
 *
 * Roles: Handle (commits, checkpoints, grows the data in place and beyond its capacity, grows the journal, shortens it
 * when it is the first to attach; may die at any step; HANDLES of them, the second one commits and checkpoints only),
 * Death, Power (a cut at every state, CUTS of them that the model goes on from).
 *
 * The file is a row of blocks behind two header slots. Data begins at block 0; one block is one page. Only page 0 is
 * ever written to by commits, all others must be zeros. The table has two blocks: the entry of page 0 (which is right
 * if it equals the page), and those of all other pages (which must be 0). One block of the journal holds one frame.
 * Blocks, slots and the file's length each have what the page cache shows, what the disk holds, and a dirty bit; a cut
 * leaves any mixture of old and new, a slot may also be torn. Write-back does not fail here (see durability.pml), and
 * frames are durable when WRITER is let go.
 *
 * Promises (assertions):
 *   POWER  at every state, whatever the power leaves: the file is as long as its header says, recovery finds exactly
 *          one commit with all that was acknowledged, its size, its data, its table, and zeros in pages never written
 *   ROT    the same with one slot unreadable, while none is being written
 *   CRASH  the same for what the page cache shows when a handle attaches first
 *   MAPPED a handle never has more of the file mapped than there is
 *
 * Rules, by the switch that takes each one out (a run with it must find an error). The journal grows (G1, H3):
 *   RING_UNSYNCED        the slots are written before the longer file is durable
 *   RING_LENGTH_LATE     the file is made longer after the slots say so
 *   RING_ONE_SLOT        one slot only says so before a frame lies in the new part
 *   DEAD_RING_ONE_SLOT   who joins and meets the longer ring of a grower that died does not bring the other slot
 * A longer file (G2):
 *   STRICT_LENGTH        a file longer than its header says is refused
 * The data grows in place (G3):
 *   NO_ZEROS             what lies in the way of the new pages is not zeroed
 *   ZEROS_UNSYNCED       it is not durable before the frame with the new size
 * The table and the journal move (G4); the first to attach after a grower's death, of either kind, is DEAD_ONE_SLOT:
 *   MOVE_NO_ATTACH       ATTACH is not held
 *   MOVE_NOT_ALONE       others are attached
 *   MOVE_FRAMES          the journal is not empty
 *   MOVE_OVER            the new regions lie over the old ones
 *   MOVE_NO_CUT          the file is not cut to its header's end before it is made longer, so that holes of the table
 *                        show what a growth that died left there
 *   MOVE_UNSYNCED        the slots are written before the new regions and the length are durable
 *   MOVE_LENGTH_LATE     the file is made longer after the slots say so
 *   MOVE_ONE_SLOT        one slot only says so
 *   DEAD_ONE_SLOT        who recovers a map whose grower died does not bring the other slot
 *   BOTH_SLOTS_AT_ONCE   the second slot is written before the first one is durable
 * The journal shrinks (G5):
 *   SHRINK_FILE_FIRST    the file is cut before the slots say so
 *   SHRINK_UNSYNCED      it is cut before the slots that say so are durable
 *   SHRINK_ONE_SLOT      it is cut when one slot says so
 *   SHRINK_FRAMES        the journal is not empty
 *   SHRINK_NOT_ALONE     it is done by any handle that attaches, not by the first alone
 *
 * Sizes: K commits in all, HANDLES, DEATHS, CUTS, MOVES begun.
 */
#ifndef K
#define K 3
#endif
#ifndef HANDLES
#define HANDLES 1
#endif
#ifndef DEATHS
#define DEATHS 2
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef MOVES
#define MOVES 2
#endif
#ifndef GROWN_RING
#define GROWN_RING 2 /* blocks of a journal that grew; configured is 1 */
#endif

/* ---- commits ---- */
byte commits;
byte parent[K + 1], generation[K + 1], size[K + 1];
byte value[K + 1]; /* of page 0 */
byte acknowledged;

/* ---- the file ---- */
#define SMALL 3 /* capacities that a map is grown to; at first it is 2 */
#define LARGE 6
#define BLOCKS 14
byte cache[BLOCKS], disk[BLOCKS];
short dirty;
byte length, disk_length;
bool length_dirty;
/* A header is one of these, numbered by sequence; 0 is a torn slot. */
#define HEADERS 6
byte header_at[HEADERS];       /* commit that home is at */
byte header_position[HEADERS]; /* of the frame after it: block of the journal */
byte header_capacity[HEADERS]; /* of the data, pages */
byte header_table[HEADERS];    /* first block of the table; the journal stands behind it */
byte header_ring[HEADERS];     /* blocks of the journal */
byte slot[2], disk_slot[2];
byte slots_dirty;
byte header_durable;           /* control: the newest header known to be durable */
byte made;
#define JOURNAL(table) ((table) + 2)
#define NEWER (slot[0] > slot[1] -> 0 : 1) /* a torn one is 0 */
#define NEWEST slot[NEWER]
#define OTHER slot[1 - NEWER]
#define FILE_END(header) (JOURNAL(header_table[header]) + header_ring[header])
#define SAME_PLACES(a, b) \
    (header_table[a] == header_table[b] && header_ring[a] == header_ring[b] && header_capacity[a] == header_capacity[b])
#define MAX(a, b) ((a) > (b) -> (a) : (b))

bool bad;
byte found, found_place; /* by the last recovery: the commit, and where the frame after it goes */

c_code {
struct image {
    unsigned char block[BLOCKS], slot[2], length;
};

/* The commit after n in the journal of a header, 0: none. `place`: where n's frame ends, then where the found one
 * does. */
static int next_frame(const struct image *image, int header, int n, int *place)
{
    const int journal = now.header_table[header] + 2, places[2] = {*place, 0};
    for (int p = 0; p < 2; p++) {
        if (places[p] >= now.header_ring[header])
            continue;
        const int k = image->block[journal + places[p]];
        if (k != 0 && k <= K && now.generation[k] == now.generation[n] + 1 && now.parent[k] == n) {
            *place = places[p] + 1;
            return k;
        }
    }
    return 0;
}

/* Is commit `old` the commit n, or one that it builds on? */
static int contains(int n, int old)
{
    while (now.generation[n] > now.generation[old])
        n = now.parent[n];
    return n == old;
}

/* Recovery of what stands in a file: does it find what was promised? */
static int keeps_promise(const struct image *image)
{
    const int header = image->slot[0] > image->slot[1] ? image->slot[0] : image->slot[1];
    const int table = now.header_table[header];
    if (header == 0)
        return 0;
    const int journal_end = table + 2 + now.header_ring[header];
    if (image->length < journal_end || image->length < now.header_capacity[header])
        return 0;
#ifdef STRICT_LENGTH
    if (image->length > journal_end)
        return 0;
#endif
    int n = now.header_at[header], place = now.header_position[header];
    for (int next = next_frame(image, header, n, &place); next != 0; next = next_frame(image, header, n, &place))
        n = next;
    now.found = n;
    now.found_place = place;
    const int at = now.header_at[header];
    if (!contains(n, now.acknowledged) || now.size[n] > now.header_capacity[header])
        return 0;
    int in_frames = 0;
    for (int k = n; k != at; k = now.parent[k])
        in_frames |= now.value[k] == k;
    if (!in_frames && (image->block[0] != now.value[n] || image->block[table] != now.value[n]))
        return 0;
    for (int page = 1; page < now.size[n]; page++)
        if (image->block[page] != 0)
            return 0;
    return image->block[table + 1] == 0;
}

/* The file after a power cut is one of the many that `image` stands for, from block i on. */
static int any_file_keeps_promise(struct image *image, int i)
{
    while (i < BLOCKS && (!(now.dirty >> i & 1) || now.cache[i] == now.disk[i])) {
        image->block[i] = now.disk[i];
        i++;
    }
    if (i < BLOCKS) {
        image->block[i] = now.disk[i];
        if (!any_file_keeps_promise(image, i + 1))
            return 0;
        image->block[i] = now.cache[i];
        return any_file_keeps_promise(image, i + 1);
    }
    for (int a = 0; a < (now.slot[0] != now.disk_slot[0] ? 3 : 1); a++) {
        image->slot[0] = a == 0 ? now.disk_slot[0] : a == 1 ? now.slot[0] : 0;
        for (int b = 0; b < (now.slot[1] != now.disk_slot[1] ? 3 : 1); b++) {
            image->slot[1] = b == 0 ? now.disk_slot[1] : b == 1 ? now.slot[1] : 0;
            for (int l = 0; l < (now.length_dirty ? 2 : 1); l++) {
                image->length = l == 0 ? now.disk_length : now.length;
                if (!keeps_promise(image))
                    return 0;
                for (int s = 0; s < 2 && now.slots_dirty == 0 && image->slot[1 - s] != 0; s++) { /* ROT */
                    const unsigned char kept = image->slot[s];
                    image->slot[s] = 0;
                    const int kept_promise = keeps_promise(image);
                    image->slot[s] = kept;
                    if (!kept_promise)
                        return 0;
                }
            }
        }
    }
    return 1;
}

static int power_may_fail_here(void)
{
    struct image image;
    const unsigned char kept_found = now.found, kept_place = now.found_place;
    const int result = any_file_keeps_promise(&image, 0);
    now.found = kept_found;
    now.found_place = kept_place;
    return result;
}

static int recover_cache(void)
{
    struct image image;
    for (int i = 0; i < BLOCKS; i++)
        image.block[i] = now.cache[i];
    image.slot[0] = now.slot[0];
    image.slot[1] = now.slot[1];
    image.length = now.length;
    return keeps_promise(&image);
}

/* Number the headers that stand anywhere from 1 on, in their order; the next one comes behind them. */
static void number_headers(void)
{
    unsigned char *places[] = {&now.slot[0], &now.slot[1], &now.disk_slot[0], &now.disk_slot[1]};
    int number[HEADERS] = {0}, count = 0;
    for (int h = 1; h < HEADERS; h++) {
        int stands = 0;
        for (int i = 0; i < 4; i++)
            stands |= *places[i] == h;
        if (!stands)
            continue;
        number[h] = ++count;
        now.header_at[count] = now.header_at[h];
        now.header_position[count] = now.header_position[h];
        now.header_capacity[count] = now.header_capacity[h];
        now.header_table[count] = now.header_table[h];
        now.header_ring[count] = now.header_ring[h];
    }
    for (int i = 0; i < 4; i++)
        *places[i] = number[*places[i]];
    now.header_durable = number[now.header_durable];
    now.made = count + 1;
    for (int h = count + 1; h < HEADERS; h++)
        now.header_at[h] = now.header_position[h] = now.header_capacity[h] = now.header_table[h] =
            now.header_ring[h] = 0;
}
};

byte x; /* scratch of one step, 0 otherwise */

/* What the disk holds after a write that is overwritten before a sync: the old bytes, or those overwritten. */
inline put(block, bytes) {
    if
    :: (dirty & (1 << (block))) && disk[block] != cache[block] -> if :: disk[block] = cache[block] :: skip fi
    :: else
    fi;
    cache[block] = bytes;
    if
    :: cache[block] != disk[block] -> dirty = dirty | (1 << (block))
    :: else -> dirty = dirty & (32767 - (1 << (block))) /* old and new are the same */
    fi
}
inline resize(end) {
    atomic {
        x = end;
        do
        :: x < length -> put(x, 0); x++
        :: else -> break
        od;
        x = 0;
        if :: length_dirty -> if :: disk_length = length :: skip fi :: else fi;
        length = end; length_dirty = (length != disk_length);
        assert(mapped[0] <= length && mapped[1] <= length) /* MAPPED */
    }
}
inline sync_blocks(from, end) {
    d_step {
        x = from;
        do
        :: x < end -> disk[x] = cache[x]; dirty = dirty & (32767 - (1 << x)); x++
        :: else -> x = 0; break
        od
    }
}
inline sync_all() {
    d_step {
        x = 0;
        do
        :: x < BLOCKS -> disk[x] = cache[x]; x++
        :: else -> x = 0; break
        od;
        dirty = 0; disk_length = length; length_dirty = 0;
        disk_slot[0] = slot[0]; disk_slot[1] = slot[1]; slots_dirty = 0; header_durable = NEWEST
    }
}

/* ---- slots ---- */
#define SLOT_DIFFERS(i) ((slots_dirty & (1 << (i))) && slot[i] != disk_slot[i]) /* the same bytes again tear nothing */
inline put_slot(i, header) {
    if :: SLOT_DIFFERS(i) -> if :: disk_slot[i] = slot[i] :: disk_slot[i] = 0 :: skip fi :: else fi;
    slot[i] = header; slots_dirty = slots_dirty | (1 << i)
}
inline sync_slots() {
    d_step { disk_slot[0] = slot[0]; disk_slot[1] = slot[1]; slots_dirty = 0; header_durable = NEWEST }
}
/* One durable write over the older slot, the newest one repaired before if it is not known to be durable. */
inline store_slot(at, position, capacity, table, ring, durably) {
    if
    :: durably && header_durable != NEWEST -> atomic { put_slot(NEWER, NEWEST) } sync_slots()
    :: else
    fi;
    atomic {
        d_step { c_code { number_headers(); } }
        header_at[made] = at; header_position[made] = position; header_capacity[made] = capacity;
        header_table[made] = table; header_ring[made] = ring;
        x = 1 - NEWER;
        put_slot(x, made);
        x = 0; made = 0
    }
    if :: durably -> sync_slots() :: else fi
}
#ifdef BOTH_SLOTS_AT_ONCE
#define FIRST_IS_DURABLE 0
#else
#define FIRST_IS_DURABLE 1
#endif

/* ---- control and locks ---- */
byte appended, head, head_place; /* newest frame, its commit, where it ends */
byte checkpointed;
byte geometry_table, geometry_ring, geometry_capacity; /* stand for the sequence of the geometry */
#define FREE 9
byte attach_lock = FREE, writer_lock = FREE, checkpoint_lock = FREE;
bool attached[2];
byte mapped[2]; /* end of what a handle has mapped of the file */
#define LIVES(h) (attached[h] || attach_lock == h)
bool dies[2];
bool down; /* the power is off */
byte deaths, cuts, moves;

#define KNOWN (table == geometry_table && ring == geometry_ring && capacity == geometry_capacity)
inline map_regions(header) {
    table = header_table[header]; ring = header_ring[header]; capacity = header_capacity[header];
    mapped[h] = FILE_END(header);
    assert(mapped[h] <= length) /* MAPPED */
}
inline say_geometry() { geometry_table = table; geometry_ring = ring; geometry_capacity = capacity }

/* Under CHECKPOINT, or alone: both slots say the same, and both are durable. */
inline bring_other_slot() {
    store_slot(header_at[NEWEST], header_position[NEWEST], header_capacity[NEWEST], header_table[NEWEST],
               header_ring[NEWEST], 1)
}

inline checkpoint() {
    atomic { checkpoint_lock == FREE -> checkpoint_lock = h; n = head; place = head_place }
    if
    :: appended > checkpointed || header_at[NEWEST] != header_at[OTHER] ->
        atomic { put(0, value[n]) }
        atomic { put(header_table[NEWEST], value[n]) }
        sync_all();
        store_slot(n, place, header_capacity[NEWEST], header_table[NEWEST], header_ring[NEWEST], 1);
        store_slot(n, place, header_capacity[NEWEST], header_table[NEWEST], header_ring[NEWEST], 1);
        checkpointed = generation[n]
    :: else
    fi;
    atomic { checkpoint_lock = FREE; n = 0; place = 0 }
}

/* Under WRITER: a frame in the place behind the newest one, or at the start. `grows`: it carries a new size. */
inline append(grows) {
    atomic {
        place = (head_place < ring -> head_place : 0);
        commits++;
        parent[commits] = head; generation[commits] = appended + 1;
        size[commits] = (grows -> capacity : size[head]);
        value[commits] = (grows -> value[head] : commits);
        put(JOURNAL(table) + place, commits);
        n = commits
    }
    sync_blocks(JOURNAL(table), JOURNAL(table) + ring);
    atomic { appended++; head = n; head_place = place + 1; acknowledged = n; n = 0; place = 0 }
}

/* Under WRITER and CHECKPOINT. If control does not know the ring of the newest header, its grower died: both slots are
 * made durable before a frame lies in the new part. */
inline follow_ring() {
    if
#ifndef DEAD_RING_ONE_SLOT
    :: geometry_ring != header_ring[NEWEST] -> bring_other_slot()
#endif
    :: else
    fi;
    atomic { map_regions(NEWEST); say_geometry() }
}

/* G1. Under WRITER and CHECKPOINT. */
inline longer_ring() {
#ifndef RING_LENGTH_LATE
    if :: length < FILE_END(NEWEST) + 1 -> resize(FILE_END(NEWEST) + 1) :: else fi;
#endif
    atomic { put(FILE_END(NEWEST), 0) }
#ifndef RING_UNSYNCED
    sync_all();
#endif
    store_slot(header_at[NEWEST], header_position[NEWEST], capacity, table, GROWN_RING, 1);
#ifndef RING_ONE_SLOT
    store_slot(header_at[NEWEST], header_position[NEWEST], capacity, table, GROWN_RING, 1);
#endif
#ifdef RING_LENGTH_LATE
    if :: length < FILE_END(NEWEST) -> resize(FILE_END(NEWEST)) :: else fi;
    sync_all();
#endif
    atomic { map_regions(NEWEST); say_geometry() }
}
inline grow_ring() {
    atomic { checkpoint_lock == FREE -> checkpoint_lock = h }
    if
    :: ring != header_ring[NEWEST] -> follow_ring()
    :: else -> longer_ring()
    fi;
    checkpoint_lock = FREE
}

/* G3. Under WRITER. */
inline grow_in_place() {
#ifndef NO_ZEROS
    i = size[head];
    do
    :: i < capacity -> atomic { put(i, 0); i++ }
    :: else -> i = 0; break
    od;
#ifndef ZEROS_UNSYNCED
    sync_all();
#endif
#endif
    append(1)
}

/* G4. */
inline move_regions(goal) {
#ifndef MOVE_NO_ATTACH
    atomic { attach_lock == FREE -> attach_lock = h }
#endif
    if
#ifdef MOVE_NOT_ALONE
    :: true ->
#else
    :: !attached[1 - h] ->
#endif
        if :: checkpoint() :: skip fi;
        atomic {
            i = FILE_END(NEWEST);
#ifdef MOVE_OVER
            i = goal;
#else
            i = MAX(goal, i);
#endif
        }
        if
#ifdef MOVE_FRAMES
        :: true ->
#else
        :: generation[header_at[NEWEST]] == appended ->
#endif
#ifndef MOVE_NO_CUT
            resize(FILE_END(NEWEST));
#endif
#ifndef MOVE_LENGTH_LATE
            resize(JOURNAL(i) + header_ring[NEWEST]);
#endif
            atomic {
                if :: cache[table] != 0 -> n = cache[table]; put(i, n); n = 0 :: else fi /* the other is a hole */
            }
            atomic { put(JOURNAL(i), 0) }
            atomic { if :: header_ring[NEWEST] > 1 -> put(JOURNAL(i) + 1, 0) :: else fi }
#ifndef MOVE_UNSYNCED
            sync_all();
#endif
            store_slot(header_at[NEWEST], 0, goal, i, header_ring[NEWEST], FIRST_IS_DURABLE);
#ifndef MOVE_ONE_SLOT
            store_slot(header_at[NEWEST], 0, goal, i, header_ring[NEWEST], FIRST_IS_DURABLE);
#endif
#ifdef BOTH_SLOTS_AT_ONCE
            sync_slots();
#endif
#ifdef MOVE_LENGTH_LATE
            resize(FILE_END(NEWEST));
            sync_all();
#endif
            atomic { map_regions(NEWEST); say_geometry(); head_place = 0 }
        :: else
        fi
    :: else
    fi;
    atomic { if :: attach_lock == h -> attach_lock = FREE :: else fi; i = 0 }
}

/* G5. Alone, before anybody else can attach. */
inline shrink() {
#ifdef SHRINK_FILE_FIRST
    mapped[h] = 0; /* not what this rule is about */
    resize(FILE_END(NEWEST) - header_ring[NEWEST] + 1);
#endif
#ifdef SHRINK_UNSYNCED
    store_slot(header_at[NEWEST], 0, header_capacity[NEWEST], header_table[NEWEST], 1, 0);
#else
    store_slot(header_at[NEWEST], 0, header_capacity[NEWEST], header_table[NEWEST], 1, 1);
#ifndef SHRINK_ONE_SLOT
    store_slot(header_at[NEWEST], 0, header_capacity[NEWEST], header_table[NEWEST], 1, 1);
#endif
#endif
    atomic { map_regions(NEWEST); head_place = 0 }
    resize(FILE_END(NEWEST));
#ifdef SHRINK_UNSYNCED
    sync_slots()
#endif
}
#ifdef SHRINK_FRAMES
#define MAY_SHRINK (ring > 1)
#else
#define MAY_SHRINK (ring > 1 && header_at[NEWEST] == head)
#endif

#define FORGET n = 0; i = 0; place = 0; table = 0; ring = 0; capacity = 0

inline attach() {
    atomic { attach_lock == FREE && !down -> attach_lock = h }
    if
    :: !attached[1 - h] -> /* the first: recovery */
        atomic {
            attached[h] = 1; writer_lock = FREE; checkpoint_lock = FREE; header_durable = 0;
            d_step { c_code { if (!recover_cache()) now.bad = 1; }; assert(!bad) } /* CRASH */
            head = found; appended = generation[found]; head_place = found_place; found = 0; found_place = 0;
            map_regions(NEWEST)
        }
        atomic { put_slot(NEWER, NEWEST) }
        sync_slots();
        if
#ifdef DEAD_ONE_SLOT
        :: header_at[NEWEST] != header_at[OTHER] || OTHER == 0 -> bring_other_slot()
#else
        :: header_at[NEWEST] != header_at[OTHER] || OTHER == 0 || !SAME_PLACES(NEWEST, OTHER) -> bring_other_slot()
#endif
        :: else
        fi;
        sync_all();
        if :: MAY_SHRINK -> shrink() :: else fi;
        atomic { say_geometry(); checkpointed = generation[header_at[NEWEST]] }
    :: else ->
        atomic { attached[h] = 1; map_regions(NEWEST) }
#ifdef SHRINK_NOT_ALONE
        if :: MAY_SHRINK -> shrink(); say_geometry() :: else fi
#endif
    fi;
    attach_lock = FREE
}

/* Under WRITER: where the journal stands, and both slots know it. */
inline follow() {
    if
    :: !KNOWN ->
        atomic { checkpoint_lock == FREE -> checkpoint_lock = h }
        follow_ring();
        checkpoint_lock = FREE
    :: else
    fi
}

proctype Handle(byte h) {
    byte n, i, place, table, ring, capacity;
    do
    :: {
        attach();
        do
        :: atomic { commits < K && writer_lock == FREE -> writer_lock = h }
            follow();
            if
            :: appended - checkpointed < ring -> append(0)
            :: appended - checkpointed >= ring && ring < GROWN_RING -> grow_ring(); append(0)
            :: appended - checkpointed < ring && size[head] < capacity && h == 0 -> grow_in_place()
            :: else
            fi;
            writer_lock = FREE
        :: appended > checkpointed -> checkpoint()
        :: atomic { h == 0 && moves < MOVES && capacity < LARGE -> moves++ }
            if
            :: capacity < SMALL -> move_regions(SMALL)
            :: move_regions(LARGE)
            fi
        :: break
        od;
        atomic { attach_lock == FREE -> attached[h] = 0; mapped[h] = 0; FORGET } /* it closes */
        } unless { atomic { dies[h] -> dies[h] = 0;
            if :: attach_lock == h -> attach_lock = FREE :: else fi;
            if :: writer_lock == h -> writer_lock = FREE :: else fi;
            if :: checkpoint_lock == h -> checkpoint_lock = FREE :: else fi;
            attached[h] = 0; mapped[h] = 0; FORGET; x = 0; made = 0 } }
    od
}

proctype Death() {
    byte h;
    do
    :: deaths < DEATHS -> atomic {
        if :: h = 0 :: HANDLES > 1 -> h = 1 fi;
        if :: LIVES(h) && !dies[h] -> deaths++; dies[h] = 1 :: else fi;
        h = 0 }
    :: else -> break
    od
}

/* Power fails and comes back: everybody has died. */
inline cut_power() {
    do
    :: x < BLOCKS ->
        if :: (dirty & (1 << x)) && disk[x] != cache[x] -> if :: disk[x] = cache[x] :: skip fi :: else fi;
        x++
    :: else -> x = 0; break
    od;
    if :: length_dirty -> if :: disk_length = length :: skip fi :: else fi;
    do
    :: x < BLOCKS ->
        if :: x >= disk_length -> disk[x] = 0 :: else fi;
        cache[x] = disk[x]; x++
    :: else -> x = 0; break
    od;
    do
    :: x < 2 ->
        if
        :: SLOT_DIFFERS(x) -> if :: disk_slot[x] = slot[x] :: disk_slot[x] = 0 :: skip fi
        :: else
        fi;
        slot[x] = disk_slot[x]; x++
    :: else -> x = 0; break
    od;
    length = disk_length; dirty = 0; length_dirty = 0; slots_dirty = 0
}

proctype Power() {
    do
#if CUTS > 0
    :: atomic { cuts < CUTS && !down -> cuts++; down = 1; dies[0] = LIVES(0); dies[1] = LIVES(1) }
        atomic { !dies[0] && !dies[1] -> cut_power(); down = 0 }
#endif
    :: d_step { c_code { if (!power_may_fail_here()) now.bad = 1; }; assert(!bad) } /* POWER, ROT */
    od
}

init {
    atomic {
        value[0] = K + 1; size[0] = 1; cache[0] = K + 1; disk[0] = K + 1; cache[2] = K + 1; disk[2] = K + 1;
        length = 5; disk_length = 5;
        slot[0] = 1; slot[1] = 2; disk_slot[0] = 1; disk_slot[1] = 2;
        header_capacity[1] = 2; header_table[1] = 2; header_ring[1] = 1;
        header_capacity[2] = 2; header_table[2] = 2; header_ring[2] = 1;
        run Handle(0);
#if HANDLES > 1
        run Handle(1);
#endif
        run Death(); run Power()
    }
}
