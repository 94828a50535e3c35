/* SPDX-License-Identifier: MIT
 *
 * Checksums of pages, headers and frames, and the digest of a whole map. Pure functions.
 */
#ifndef KM_FORMAT_CHECKSUM_H
#define KM_FORMAT_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** CRC-32C (Castagnoli, RFC 3720 appendix B.4), continued from `checksum` (0 to start). */
uint32_t km__crc32c(uint32_t checksum, const void *bytes, size_t length);

/** The same by table, for processors without the instruction, and to check the fast one. */
uint32_t km__crc32c_portable(uint32_t checksum, const void *bytes, size_t length);

/** The ways in which this build and this processor can compute it, the fastest first; NULL behind the last. For tests:
 * each must give the same. */
typedef uint32_t km__crc32c_function(uint32_t checksum, const void *bytes, size_t length);
km__crc32c_function *km__crc32c_way(unsigned index);

/** Whether this build can compute a kind (enum km_checksum): KM_CHECKSUM_CRC32 needs zlib. */
bool km__checksum_available(uint32_t kind);

/**
 * Stored checksum of a page of KM__PAGE bytes: its CRC, xor the CRC of a page of zeros, so that a page of zeros has 0.
 * Always 0 for KM_CHECKSUM_NONE.
 */
uint32_t km__checksum_page(uint32_t kind, const void *page);

/**
 * What a page adds to the digest: a 64-bit mix of its number and its stored checksum; 0 when that is 0. The digest of a
 * map is the sum over all pages modulo 2^64.
 */
uint64_t km__digest_mix(uint64_t page, uint32_t stored);

/** A 64-bit mix of two words, used for chains. Not cryptographic. */
uint64_t km__mix64(uint64_t a, uint64_t b);

/** zlib, or its absence. KM_EUNSUPPORTED in a build without it. `*stored` is the room in `to` and becomes what it took;
 *  KM_ESIZE if it does not fit. */
bool km__zlib_available(void);
uint32_t km__zlib_crc32(uint32_t checksum, const void *bytes, size_t length);
int km__zlib_compress(void *to, size_t *stored, const void *from, size_t length);
/** Decompress to exactly `length` bytes; KM_EJOURNAL if that is not what comes out. */
int km__zlib_expand(void *to, size_t length, const void *from, size_t stored);

#endif
