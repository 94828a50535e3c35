/* SPDX-License-Identifier: MIT
 *
 * Unaligned little-endian loads and stores, and copies out of memory that others may write. The library runs on 64-bit
 * little-endian processors only; here it says so.
 */
#ifndef KM_FORMAT_BYTES_H
#define KM_FORMAT_BYTES_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is little-endian and is used as it stands");
static_assert(sizeof(void *) == 8, "sizes and offsets of the file are sizes in memory, and maps need address space");

static inline uint16_t km__load16(const unsigned char *from) {
    uint16_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline uint32_t km__load32(const unsigned char *from) {
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline uint64_t km__load48(const unsigned char *from) {
    return km__load32(from) | (uint64_t)km__load16(from + 4) << 32;
}

static inline uint64_t km__load64(const unsigned char *from) {
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline void km__store16(unsigned char *to, uint32_t value) {
    uint16_t low = (uint16_t)value;
    memcpy(to, &low, sizeof low);
}

static inline void km__store32(unsigned char *to, uint32_t value) {
    memcpy(to, &value, sizeof value);
}

static inline void km__store48(unsigned char *to, uint64_t value) {
    km__store32(to, (uint32_t)value);
    km__store16(to + 4, (uint32_t)(value >> 32) & 0xffffu);
}

/* Copy from memory that another thread or process may write meanwhile. The fence keeps the compiler from reading the
 * original a second time where the program reads the copy: what was judged is what is used. */
static inline void km__copy_once(void *to, const void *from, size_t length) {
    memcpy(to, from, length);
    atomic_signal_fence(memory_order_seq_cst);
}

static inline uint64_t km__round_up(uint64_t value, uint64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

#endif
