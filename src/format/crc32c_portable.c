/* SPDX-License-Identifier: MIT
 *
 * CRC-32C by eight tables, eight bytes a step: for processors without the instruction, and to check those that have it.
 * The tables are built at first use. Two threads that come first at once store the same words, hence relaxed order; the
 * mark that the tables are whole is stored last, with release order.
 */
#include <stdatomic.h>

#include "bytes.h"
#include "checksum.h"

#define POLYNOMIAL 0x82f63b78u /* 0x1EDC6F41, the lowest bit first */

static _Atomic uint32_t tables[8][256];
static _Atomic int built;

static void build_tables(void) {
    uint32_t table[8][256];
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 1) ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
        table[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int slice = 1; slice < 8; slice++)
            table[slice][byte] = table[slice - 1][byte] >> 8 ^ table[0][table[slice - 1][byte] & 0xff];
    for (int slice = 0; slice < 8; slice++)
        for (int byte = 0; byte < 256; byte++)
            atomic_store_explicit(&tables[slice][byte], table[slice][byte], memory_order_relaxed);
    atomic_store_explicit(&built, 1, memory_order_release);
}

static inline uint32_t look_up(int slice, uint64_t index) {
    return atomic_load_explicit(&tables[slice][index & 0xff], memory_order_relaxed);
}

uint32_t km__crc32c_portable(uint32_t checksum, const void *bytes, size_t length) {
    if (!atomic_load_explicit(&built, memory_order_acquire))
        build_tables();

    const unsigned char *next = bytes;
    uint32_t crc = ~checksum;
    for (; length >= 8; length -= 8, next += 8) {
        const uint64_t word = km__load64(next) ^ crc;
        crc = look_up(7, word) ^ look_up(6, word >> 8) ^ look_up(5, word >> 16) ^ look_up(4, word >> 24) ^
              look_up(3, word >> 32) ^ look_up(2, word >> 40) ^ look_up(1, word >> 48) ^ look_up(0, word >> 56);
    }
    for (; length > 0; length--, next++)
        crc = crc >> 8 ^ look_up(0, crc ^ *next);
    return ~crc;
}
