/* SPDX-License-Identifier: MIT
 *
 * CRC-32C on 64-bit ARM by its instruction, three interleaved streams as on x86. Every processor since ARMv8.1 has the
 * instruction, and of ARMv8.0 all but the first; for those the Makefile can pick crc32c_generic.c. It is written as
 * assembly because compilers offer its intrinsic only to a whole file that is built for it.
 */
#include "bytes.h"
#include "checksum.h"

#define STREAM 1360u /* three of them and two words are a page */

/* x^(8n-33) modulo the polynomial for a shift by n bytes, the lowest bit the highest power: see crc32c_x86.c. */
#define SHIFT 0x3f70cc6fu
#define SHIFT_TWICE 0x5aa1f3cfu

static inline uint32_t add_word(uint32_t crc, uint64_t word) {
    __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    return crc;
}

static inline uint32_t add_byte(uint32_t crc, uint32_t byte) {
    __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"(byte));
    return crc;
}

/* Carry the register of a stream over the bytes of the streams behind it: a carry-less product, reduced by the
 * instruction. Bit by bit, as not every processor has a carry-less multiplication; the compiler makes vectors of it. */
static inline uint32_t shift(uint32_t crc, uint32_t power) {
    uint64_t product = 0;
    for (unsigned bit = 0; bit < 32; bit++)
        product ^= ((uint64_t)power << bit) & (0 - (uint64_t)(crc >> bit & 1));
    return add_word(0, product);
}

uint32_t km__crc32c(uint32_t checksum, const void *bytes, size_t length) {
    const unsigned char *next = bytes;
    uint32_t crc = ~checksum;
    for (; length >= 3 * STREAM; length -= 3 * STREAM, next += 2 * STREAM) {
        uint32_t second = 0, third = 0;
        for (const unsigned char *end = next + STREAM; next < end; next += 8) {
            crc = add_word(crc, km__load64(next));
            second = add_word(second, km__load64(next + STREAM));
            third = add_word(third, km__load64(next + 2 * STREAM));
        }
        crc = shift(crc, SHIFT_TWICE) ^ shift(second, SHIFT) ^ third;
    }
    for (; length >= 8; length -= 8, next += 8)
        crc = add_word(crc, km__load64(next));
    for (; length > 0; length--, next++)
        crc = add_byte(crc, *next);
    return ~crc;
}

km__crc32c_function *km__crc32c_way(unsigned index) {
    km__crc32c_function *const ways[] = {km__crc32c, km__crc32c_portable};
    return index < sizeof ways / sizeof *ways ? ways[index] : NULL;
}
