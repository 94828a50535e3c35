/* SPDX-License-Identifier: MIT
 *
 * disk.pml: what durability.pml and close.pml stand on: commits, the page cache, the disk, and what a recovery makes of
 * them.
 *
 * Every item (a cell of home, a frame, a header slot) has what the page cache shows, what the disk holds, and a dirty
 * bit. A sync moves the dirty ones. A write-back that fails leaves the disk old or torn and the item *clean*: a later
 * sync succeeds and moves nothing. Every descriptor that was open is told once, by its next sync; a descriptor opened
 * later is told only if nobody was told before (Linux, errseq_t). A clean item that differs may be dropped from the
 * cache at any time; then the cache shows what the disk holds.
 *
 * Frames form a tree: each knows its parent (that is the chain), so that commits made after a power cut are not
 * mistaken for those that the cut took away.
 *
 * K commits in all (lost ones included), RS frames in the ring: the file that includes this defines them.
 */
/* ---- commits (ghost, but for the frame's own fields generation, parent and durable) ---- */
#define CELLS 3 /* cells 0 and 1 stand on page 0, cell 2 on page 1; a value is the number of the commit that set it */
byte commits;
byte parent[K + 1];
byte generation[K + 1];
byte known_durable[K + 1];
byte state[(K + 1) * CELLS];
#define S(k, c) state[(k) * CELLS + (c)]
byte acknowledged; /* newest commit that a durable km_commit() returned for */
byte published;    /* newest generation that any process could see */

/* ---- page cache and disk ---- */
#define ITEMS (CELLS + RS + 2)
#define FRAME(g) (CELLS + (g) % RS)
#define SLOT(i) (CELLS + RS + (i))
#define TORN 0 /* a slot that is no header; for a frame: no frame */
/* A slot's value is the number of one of these headers; 0 is torn. The number is also its sequence: only the order of
 * the few headers that stand anywhere counts, so they are numbered anew when another comes. */
#define HEADERS 6
byte header_at[HEADERS];       /* commit that home is at */
byte header_to[HEADERS];       /* generation that it is brought to */
bool header_clean[HEADERS];
byte new_header;
byte cache[ITEMS], disk[ITEMS];
short dirty;
#define BIT(i) (1 << (i))
#define JOURNAL (((1 << RS) - 1) << CELLS)
#define EVERYTHING ((1 << ITEMS) - 1)

byte told;   /* descriptors that have an error to report, a bit each */
bool untold; /* an error that nobody has been told */
#define CHECKPOINTER 0
#define ATTACHER 3
#define OPEN(h) told = (untold -> told | BIT(h) : told & (255 - BIT(h)))

/* What the disk holds after a write that is overwritten before a sync: the old bytes, or those overwritten. */
inline put(item, value) {
    if
    :: dirty & BIT(item) -> if :: disk[item] = cache[item] :: skip fi
    :: else
    fi;
    cache[item] = value;
    dirty = dirty | BIT(item)
}

byte x; /* scratch of one step, 0 otherwise */

/* `failed` becomes 1 if this descriptor has an error to report. */
inline sync(h, items) {
    d_step {
        if
        :: told & BIT(h) -> told = told & (255 - BIT(h)); untold = 0; failed = 1
        :: else ->
            failed = 0; x = 0;
            do
            :: x < ITEMS ->
                if
                :: dirty & BIT(x) & (items) -> disk[x] = cache[x]; dirty = dirty & (65535 - BIT(x))
                :: else
                fi;
                x++
            :: else -> break
            od;
            x = 0
        fi
    }
}

byte header_durable = 2; /* control: the newest header known to be durable; 0: none */
bool trouble;            /* a write-back has failed */
bool bad;

#define NEWER_SLOT (cache[SLOT(0)] != TORN && (cache[SLOT(1)] == TORN || cache[SLOT(0)] > cache[SLOT(1)]) -> 0 : 1)
#define NEWEST cache[SLOT(NEWER_SLOT)]
#define NEW_SLOT BIT(SLOT(NEWER_SLOT)) /* what a durable write of a slot, the newest then, makes durable: nothing else */
#define SLOTS_DIFFER \
    (cache[SLOT(0)] == TORN || cache[SLOT(1)] == TORN || header_at[cache[SLOT(0)]] != header_at[cache[SLOT(1)]])

c_decl {
#define KM_NONE (-1)   /* no valid slot */
#define KM_DAMAGE (-2) /* damage is reported */
};
c_code {
/* Is there a good frame anywhere that says that a generation after commit n was durable? */
static int is_evidence(const unsigned char *ring, int n)
{
    for (int i = 0; i < RS; i++)
        if (ring[i] != 0 && now.known_durable[ring[i]] > now.generation[n])
            return 1;
    return 0;
}

/* What recovery makes of a disk: the number of the commit that it finds, or an error. `mixed`: home is another. */
static int recover(const unsigned char *items, int *mixed)
{
    const unsigned char *ring = items + CELLS, a = items[CELLS + RS], b = items[CELLS + RS + 1];
    *mixed = 0;
    if (a == 0 && b == 0)
        return KM_NONE;
    const int slot = a == 0 ? b : b == 0 ? a : a > b ? a : b;
    const int at = now.header_at[slot];
    int n = at;
    for (;;) {
        const int next = ring[(now.generation[n] + 1) % RS];
        if (next == 0 || now.generation[next] != now.generation[n] + 1)
            break;
#ifndef NO_CHAIN
        if (now.parent[next] != n)
            break;
#endif
        n = next;
    }
#ifndef NO_MARK
    if (now.generation[n] < now.header_to[slot])
        return KM_DAMAGE;
#endif
#ifndef NO_SEARCH
#ifdef SKIP_SEARCH_WHEN_CLEAN
    if (!now.header_clean[slot])
#endif
        if (is_evidence(ring, n))
            return KM_DAMAGE;
#endif
    for (int c = 0; c < CELLS; c++) {
        const int writer = now.state[n * CELLS + c];
        const int in_frames = now.generation[writer] > now.generation[at];
        if (!in_frames && items[c] != writer)
            *mixed = 1;
    }
    return n;
}

/* Is commit `old` the commit `n`, or one that it builds on? */
static int contains(int n, int old)
{
    while (now.generation[n] > now.generation[old])
        n = now.parent[n];
    return n == old;
}

static int keeps_promise(const unsigned char *items)
{
    int mixed;
    const int n = recover(items, &mixed);
    return n >= 0 && !mixed && contains(n, now.acknowledged);
}

/* The disk after a power cut is one of the many that `items` stands for, from item i on. */
static int any_disk_keeps_promise(unsigned char *items, int i)
{
    if (i == ITEMS) {
        int mixed;
        const int both = items[CELLS + RS] != 0 && items[CELLS + RS + 1] != 0 && now.dirty >> (CELLS + RS) == 0;
        if (!keeps_promise(items))
            return 0;
        for (int f = CELLS; f < CELLS + RS; f++) { /* ROT of a frame */
            const unsigned char kept = items[f];
            items[f] = 0;
            const int n = recover(items, &mixed);
            if (n != KM_DAMAGE && (mixed || is_evidence(items + CELLS, n)))
                return 0;
            items[f] = kept;
        }
        for (int s = CELLS + RS; s < ITEMS && both; s++) { /* ROT of a slot */
            const unsigned char kept = items[s];
            items[s] = 0;
            const int kept_promise = keeps_promise(items) || now.trouble; /* a slot may be lost already */
            items[s] = kept;
            if (!kept_promise)
                return 0;
        }
        return 1;
    }
    items[i] = now.disk[i];
    if (!any_disk_keeps_promise(items, i + 1))
        return 0;
    if (now.dirty >> i & 1) {
        if (now.cache[i] != now.disk[i]) {
            items[i] = now.cache[i];
            if (!any_disk_keeps_promise(items, i + 1))
                return 0;
        }
        if (i >= CELLS && (now.cache[i] != now.disk[i])) {
            items[i] = 0; /* torn */
            if (!any_disk_keeps_promise(items, i + 1))
                return 0;
        }
    }
    return 1;
}

/* Number the headers that stand anywhere from 1 on, in their order; the new one will come behind them. */
static void number_headers(void)
{
    int number[HEADERS] = {0}, count = 0;
    for (int h = 1; h < HEADERS; h++) {
        int stands = 0;
        for (int i = CELLS + RS; i < ITEMS; i++)
            stands |= now.cache[i] == h || now.disk[i] == h;
        if (!stands)
            continue;
        number[h] = ++count;
        now.header_at[count] = now.header_at[h];
        now.header_to[count] = now.header_to[h];
        now.header_clean[count] = now.header_clean[h];
    }
    for (int i = CELLS + RS; i < ITEMS; i++) {
        now.cache[i] = number[now.cache[i]];
        now.disk[i] = number[now.disk[i]];
    }
    now.header_durable = number[now.header_durable];
    now.new_header = count + 1;
    for (int h = count + 1; h < HEADERS; h++)
        now.header_at[h] = now.header_to[h] = now.header_clean[h] = 0;
}

static int power_may_fail_here(void)
{
    unsigned char items[ITEMS];
    return any_disk_keeps_promise(items, 0);
}
};

/* Write a slot: always the older one, with the next sequence. */
inline write_slot(commit, target, clean) {
    atomic {
        d_step { c_code { number_headers(); } }
        header_at[new_header] = commit; header_to[new_header] = target; header_clean[new_header] = clean;
#ifdef ANY_SLOT
        if :: x = NEWER_SLOT :: x = 1 - NEWER_SLOT fi;
#else
        x = 1 - NEWER_SLOT;
#endif
        put(SLOT(x), new_header);
        x = 0; new_header = 0
    }
}

/* One item, or all, do not reach the disk though they were written back; who has the file open will be told. */
inline fail_write_back() {
    told = 15; untold = 1; trouble = 1;
    if
    :: x = 0;
        do
        :: x < ITEMS - 1 && !(dirty & BIT(x)) -> x++
        :: x < ITEMS - 1 && (dirty & BIT(x)) -> if :: x++ :: break fi
        :: else -> break
        od;
        if
        :: x >= CELLS && (dirty & BIT(x)) && disk[x] != cache[x] -> if :: disk[x] = TORN :: skip fi
        :: else
        fi;
        dirty = dirty & (65535 - BIT(x))
    :: dirty = 0
    fi;
    x = 0
}

/* A clean page is dropped from the cache. */
inline drop_page() {
    do
    :: x < ITEMS - 1 -> x++
    :: break
    od;
    if
    :: !(dirty & BIT(x)) && cache[x] != disk[x] -> cache[x] = disk[x]
    :: else
    fi;
    x = 0
}

/* Power fails and comes back. */
inline cut_power() {
    do
    :: x < ITEMS ->
        if
        :: dirty & BIT(x) ->
            if
            :: disk[x] = cache[x]
            :: skip
            :: x >= CELLS && disk[x] != cache[x] -> disk[x] = TORN
            fi
        :: else
        fi;
        cache[x] = disk[x]; x++
    :: else -> break
    od;
    x = 0; dirty = 0; told = 0; untold = 0
}

inline start_disk() {
    cache[SLOT(0)] = 1; cache[SLOT(1)] = 2; disk[SLOT(0)] = 1; disk[SLOT(1)] = 2
}

proctype Power() {
    do
    :: d_step { c_code { if (!power_may_fail_here()) now.bad = 1; }; assert(!bad) } /* POWER, NO ALARM, ROT */
    od
}
