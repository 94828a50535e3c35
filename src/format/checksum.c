/* SPDX-License-Identifier: MIT
 *
 * Page checksums, the digest of a map and the mix behind it. Which CRC-32C is linked (crc32c_x86.c, crc32c_arm.c,
 * crc32c_generic.c) and whether zlib is there (zlib_on.c, zlib_off.c) is the Makefile's choice.
 */
#include "checksum.h"

#include "keepmap.h"
#include "layout.h"

/* The CRCs of a page of zeros. Stored checksums are xored with them, so that an untouched table is right. */
#define ZERO_PAGE_CRC32C 0x98f94189u
#define ZERO_PAGE_CRC32 0xc71c0011u

bool km__checksum_available(uint32_t kind) {
    switch (kind) {
    case KM_CHECKSUM_CRC32C:
    case KM_CHECKSUM_NONE:
        return true;
    case KM_CHECKSUM_CRC32:
        return km__zlib_available();
    default:
        return false;
    }
}

uint32_t km__checksum_page(uint32_t kind, const void *page) {
    switch (kind) {
    case KM_CHECKSUM_CRC32C:
        return km__crc32c(0, page, KM__PAGE) ^ ZERO_PAGE_CRC32C;
    case KM_CHECKSUM_CRC32:
        return km__zlib_crc32(0, page, KM__PAGE) ^ ZERO_PAGE_CRC32;
    default:
        return 0;
    }
}

uint64_t km__digest_mix(uint64_t page, uint32_t stored) {
    return stored == 0 ? 0 : km__mix64(page, stored);
}

/* A sum that is one-to-one in each of its words, then the finalizer of SplitMix64 (Steele, Lea, Flood, 2014), which is
 * one-to-one as well: two chains or two pages that differ in one word never meet. */
uint64_t km__mix64(uint64_t a, uint64_t b) {
    uint64_t mix = (a + 1) * UINT64_C(0x9e3779b97f4a7c15) + b;
    mix = (mix ^ mix >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    mix = (mix ^ mix >> 27) * UINT64_C(0x94d049bb133111eb);
    return mix ^ mix >> 31;
}
