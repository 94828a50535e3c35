/* SPDX-License-Identifier: MIT
 *
 * cutter count LOG
 * cutter cut LOG BASE IMAGE FLUSH POLICY SEED SECTOR EXPECTED [LATER]
 *
 * What a disk may hold after its power was cut, from the log of the recorder. `count` prints "FLUSHES FIRST": how many
 * flushes there are, and the first one after the mark "ready".
 *
 * `cut` makes IMAGE: BASE, everything that was written before flush number FLUSH, and of what was written between that
 * one and the next what POLICY and SEED choose; writes are parted at SECTOR bytes. EXPECTED gets the marks up to that
 * next flush: they tell of what had been acknowledged, and whatever that rested on had been flushed by flush FLUSH.
 * With LATER they are those up to LATER flushes later: a disk that told of flushes that it did not make.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chance.h"
#include "disk/recording.h"

enum policy { NOTHING, EVERYTHING, PREFIX, WRITES, SECTORS, POLICIES };

static const char *const policy_names[POLICIES] = {"nothing", "everything", "prefix", "writes", "sectors"};

struct cut {
    FILE *log, *expected;
    int image;
    uint64_t flush, later, sector;
    enum policy policy;
    struct chance chance;
    uint64_t open_writes;   /* between the two flushes */
    uint64_t prefix;        /* PREFIX: the write that was under way */
    unsigned keep;          /* WRITES, SECTORS: percent */
    uint64_t sectors, kept; /* of the open writes */
};

__attribute__((noreturn)) static void give_up(const char *what) {
    fprintf(stderr, "cutter: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- the log ----------------------------------------------------------------------------------------------------- */

/* The next record and, in `*bytes`, what follows it; 0 at the end. */
static int next_record(FILE *log, struct recording *record, unsigned char **bytes) {
    static unsigned char *held;
    static uint64_t capacity;
    if (fread(record, sizeof *record, 1, log) != 1)
        return 0;
    const uint64_t length = record->kind == RECORDING_WRITE || record->kind == RECORDING_MARK ? record->length : 0;
    if (length > capacity) {
        free(held);
        capacity = length;
        held = malloc(capacity);
        if (held == NULL)
            give_up("memory");
    }
    if (length > 0 && fread(held, length, 1, log) != 1)
        give_up("the log ends within a record");
    *bytes = held;
    return 1;
}

static int count_flushes(FILE *log) {
    struct recording record;
    unsigned char *bytes = NULL;
    uint64_t flushes = 0, first = 0;
    int ready = 0;
    while (next_record(log, &record, &bytes)) {
        if (record.kind == RECORDING_MARK && record.length >= 5 && memcmp(bytes, "ready", 5) == 0)
            ready = 1;
        flushes += record.kind == RECORDING_FLUSH;
        first = ready ? first : flushes;
    }
    printf("%llu %llu\n", (unsigned long long)flushes, (unsigned long long)first);
    return ready && flushes > 0 ? 0 : 1;
}

/* How many writes lie between the two flushes. */
static uint64_t count_open_writes(FILE *log, uint64_t flush) {
    struct recording record;
    unsigned char *bytes = NULL;
    uint64_t flushes = 0, writes = 0;
    while (flushes <= flush && next_record(log, &record, &bytes)) {
        flushes += record.kind == RECORDING_FLUSH;
        writes += flushes == flush && (record.kind == RECORDING_WRITE || record.kind == RECORDING_ZERO);
    }
    rewind(log);
    return writes;
}

/* ---- the image --------------------------------------------------------------------------------------------------- */

/* A copy of the base with its holes. */
static void copy_base(const char *path, int image) {
    static char bytes[1 << 20];
    const int base = open(path, O_RDONLY | O_CLOEXEC);
    const off_t size = base < 0 ? -1 : lseek(base, 0, SEEK_END);
    if (size < 0 || ftruncate(image, size) != 0)
        give_up(path);
    for (off_t at = lseek(base, 0, SEEK_DATA); at >= 0 && at < size;) {
        const ssize_t part = pread(base, bytes, sizeof bytes, at);
        if (part <= 0 || pwrite(image, bytes, (size_t)part, at) != part)
            give_up(path);
        at = lseek(base, at + part, SEEK_DATA);
    }
    close(base);
}

/* NULL: zeros. */
static void put(const struct cut *cut, uint64_t offset, uint64_t length, const unsigned char *bytes) {
    if (bytes == NULL) {
        if (fallocate(cut->image, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) != 0)
            give_up("zeros");
    } else if (pwrite(cut->image, bytes, length, (off_t)offset) != (ssize_t)length) {
        give_up("a write");
    }
}

/* Each sector by itself is there or not. */
static void put_sectors(struct cut *cut, uint64_t offset, uint64_t length, const unsigned char *bytes,
                        unsigned percent) {
    for (uint64_t at = offset; at < offset + length;) {
        const uint64_t next = (at / cut->sector + 1) * cut->sector;
        const uint64_t end = next < offset + length ? next : offset + length;
        cut->sectors++;
        if (chance_percent(&cut->chance, percent)) {
            put(cut, at, end - at, bytes == NULL ? NULL : bytes + (at - offset));
            cut->kept++;
        }
        at = end;
    }
}

/* A write that no flush followed: `number` of them came before. */
static void put_open(struct cut *cut, uint64_t number, const struct recording *record, const unsigned char *bytes) {
    unsigned percent = 0;
    switch (cut->policy) {
    case EVERYTHING:
        percent = 100;
        break;
    case PREFIX:
        percent = number < cut->prefix ? 100 : number == cut->prefix ? 50 : 0;
        break;
    case WRITES:
        percent = chance_percent(&cut->chance, cut->keep) ? 100 : 0;
        break;
    case SECTORS:
        percent = cut->keep;
        break;
    default:
        break;
    }
    if (record->kind == RECORDING_ZERO) { /* a whole disk can be discarded: no sectors */
        if (chance_percent(&cut->chance, percent))
            put(cut, record->offset, record->length, NULL);
        return;
    }
    put_sectors(cut, record->offset, record->length, bytes, percent);
}

static void make_image(struct cut *cut) {
    struct recording record;
    unsigned char *bytes = NULL;
    uint64_t flushes = 0, number = 0;
    while (flushes <= cut->flush + cut->later && next_record(cut->log, &record, &bytes)) {
        const unsigned char *written = record.kind == RECORDING_WRITE ? bytes : NULL;
        switch (record.kind) {
        case RECORDING_FLUSH:
            flushes++;
            break;
        case RECORDING_MARK:
            fwrite(bytes, record.length, 1, cut->expected);
            break;
        case RECORDING_WRITE:
        case RECORDING_ZERO:
            if (flushes < cut->flush)
                put(cut, record.offset, record.length, written);
            else if (flushes == cut->flush)
                put_open(cut, number++, &record, written);
            break;
        default:
            give_up("not a log");
        }
    }
}

static int cut_power(int count, char **arguments) {
    struct cut cut = {
        .log = fopen(arguments[2], "rb"),
        .image = open(arguments[4], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600),
        .flush = strtoull(arguments[5], NULL, 10),
        .chance = {strtoull(arguments[7], NULL, 10)},
        .sector = strtoull(arguments[8], NULL, 10),
        .expected = fopen(arguments[9], "wb"),
        .later = count > 10 ? strtoull(arguments[10], NULL, 10) : 0,
    };
    while (cut.policy < POLICIES && strcmp(policy_names[cut.policy], arguments[6]) != 0)
        cut.policy++;
    if (cut.log == NULL || cut.image < 0 || cut.expected == NULL || cut.policy == POLICIES || cut.sector == 0)
        give_up("arguments");
    copy_base(arguments[3], cut.image);
    cut.open_writes = count_open_writes(cut.log, cut.flush);
    cut.prefix = chance_below(&cut.chance, cut.open_writes + 1);
    cut.keep = (unsigned)chance_between(&cut.chance, 5, 95);
    make_image(&cut);
    if (fclose(cut.expected) != 0)
        give_up(arguments[9]);
    printf("%llu writes since the flush, %llu of %llu sectors kept\n", (unsigned long long)cut.open_writes,
           (unsigned long long)cut.kept, (unsigned long long)cut.sectors);
    return 0;
}

int main(int count, char **arguments) {
    if (count == 3 && strcmp(arguments[1], "count") == 0) {
        FILE *log = fopen(arguments[2], "rb");
        if (log == NULL)
            give_up(arguments[2]);
        return count_flushes(log);
    }
    if ((count == 10 || count == 11) && strcmp(arguments[1], "cut") == 0)
        return cut_power(count, arguments);
    fprintf(stderr, "usage: cutter count LOG | cut LOG BASE IMAGE FLUSH POLICY SEED SECTOR EXPECTED [LATER]\n");
    return 2;
}
