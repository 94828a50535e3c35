/* SPDX-License-Identifier: MIT
 *
 * CRC-32C on x86-64: by folding 256 bytes a step with 512-bit carry-less multiplication, else by three interleaved
 * streams of the SSE4.2 instruction, else by tables. Which one is found out at the first call; threads that come first
 * at once find the same.
 *
 * The arithmetic. A CRC register holds a polynomial, its lowest bit the highest power: bit i of 32 stands for x^(31-i),
 * bit i of 64 for x^(63-i). The carry-less product of two such words comes out multiplied by x. All constants below are
 * powers of x modulo the polynomial in that order of bits; tests compare every length and alignment with the tables.
 */
#include <immintrin.h>
#include <stdatomic.h>

#include "bytes.h"
#include "checksum.h"

/* The instruction has a latency of three cycles and can start every cycle: three streams keep it busy. */
#define STREAM_LONG 1360u /* three of them and two words are a page */
#define STREAM_SHORT 168u

/* x^(8n-33) for a shift by n bytes: the product adds one power, the instruction that reduces it adds 32. */
#define SHIFT_LONG 0x3f70cc6fu
#define SHIFT_LONG_TWICE 0x5aa1f3cfu
#define SHIFT_SHORT 0x1b3d8f29u
#define SHIFT_SHORT_TWICE 0xa60ce07bu

/* Folding a 128-bit lane over d bits takes x^(d+63) for its first word and x^(d-1) for its second, in the high half. */
#define FOLD_FIRST_128 0x3743f7bd00000000
#define FOLD_SECOND_128 0x3171d43000000000
#define FOLD_FIRST_256 0x33ccbbbc00000000
#define FOLD_SECOND_256 0xa2158b3400000000
#define FOLD_FIRST_384 0xa46ef4aa00000000
#define FOLD_SECOND_384 0x6051243f00000000
#define FOLD_FIRST_512 0x1c19243b00000000
#define FOLD_SECOND_512 0x75bba45b00000000
#define FOLD_FIRST_2048 0xe9a5d8be00000000
#define FOLD_SECOND_2048 0x1426a81500000000

#define TARGET_SSE42 __attribute__((target("sse4.2,pclmul")))
#define TARGET_AVX512 __attribute__((target("avx512f,vpclmulqdq,sse4.2,pclmul")))

/* Carry the register of a stream over the bytes of the streams behind it. */
TARGET_SSE42 static inline uint64_t shift(uint64_t crc, uint32_t power) {
    const __m128i product =
        _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc), _mm_cvtsi64_si128((long long)power), 0);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* Three streams of `stream` bytes each, which lie behind each other. */
TARGET_SSE42 static inline uint64_t three_streams(uint64_t crc, const unsigned char *next, size_t stream,
                                                  uint32_t power, uint32_t power_twice) {
    uint64_t first = crc, second = 0, third = 0;
    for (const unsigned char *end = next + stream; next < end; next += 8) {
        first = _mm_crc32_u64(first, km__load64(next));
        second = _mm_crc32_u64(second, km__load64(next + stream));
        third = _mm_crc32_u64(third, km__load64(next + 2 * stream));
    }
    return shift(first, power_twice) ^ shift(second, power) ^ third;
}

/* What is left behind the large steps. */
TARGET_SSE42 static inline uint32_t finish(uint64_t crc, const unsigned char *next, size_t length) {
    for (; length >= 8; length -= 8, next += 8)
        crc = _mm_crc32_u64(crc, km__load64(next));
    uint32_t low = (uint32_t)crc;
    for (; length > 0; length--, next++)
        low = _mm_crc32_u8(low, *next);
    return ~low;
}

TARGET_SSE42 static uint32_t crc32c_sse42(uint32_t checksum, const void *bytes, size_t length) {
    const unsigned char *next = bytes;
    uint64_t crc = ~checksum;
    for (; length >= 3 * STREAM_LONG; length -= 3 * STREAM_LONG, next += 3 * STREAM_LONG)
        crc = three_streams(crc, next, STREAM_LONG, SHIFT_LONG, SHIFT_LONG_TWICE);
    for (; length >= 3 * STREAM_SHORT; length -= 3 * STREAM_SHORT, next += 3 * STREAM_SHORT)
        crc = three_streams(crc, next, STREAM_SHORT, SHIFT_SHORT, SHIFT_SHORT_TWICE);
    return finish(crc, next, length);
}

TARGET_AVX512 static inline __m512i both(uint64_t first, uint64_t second) {
    return _mm512_set4_epi64((long long)second, (long long)first, (long long)second, (long long)first);
}

/* Carry four lanes over the distance of `power` and add them to `data`. */
TARGET_AVX512 static inline __m512i fold(__m512i lanes, __m512i power, __m512i data) {
    const __m512i first = _mm512_clmulepi64_epi128(lanes, power, 0x00);
    const __m512i second = _mm512_clmulepi64_epi128(lanes, power, 0x11);
    return _mm512_ternarylogic_epi64(first, second, data, 0x96);
}

/* The register after the 64 bytes that `lanes` stands for. */
TARGET_AVX512 static inline uint64_t reduce(__m512i lanes) {
    const __m512i power =
        _mm512_set_epi64(0, 0, (long long)FOLD_SECOND_128, (long long)FOLD_FIRST_128, (long long)FOLD_SECOND_256,
                         (long long)FOLD_FIRST_256, (long long)FOLD_SECOND_384, (long long)FOLD_FIRST_384);
    const __m512i last = _mm512_maskz_mov_epi64(0xc0, lanes);
    const __m512i folded = fold(lanes, power, last);
    const __m128i sum =
        _mm_xor_si128(_mm_xor_si128(_mm512_extracti32x4_epi32(folded, 0), _mm512_extracti32x4_epi32(folded, 1)),
                      _mm_xor_si128(_mm512_extracti32x4_epi32(folded, 2), _mm512_extracti32x4_epi32(folded, 3)));
    const uint64_t crc = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(sum));
    return _mm_crc32_u64(crc, (uint64_t)_mm_extract_epi64(sum, 1));
}

TARGET_AVX512 static uint32_t crc32c_avx512(uint32_t checksum, const void *bytes, size_t length) {
    if (length < 256)
        return crc32c_sse42(checksum, bytes, length);

    const unsigned char *next = bytes;
    const __m512i far = both(FOLD_FIRST_2048, FOLD_SECOND_2048);
    const __m512i near = both(FOLD_FIRST_512, FOLD_SECOND_512);
    const __m512i start = _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)~checksum));
    __m512i first = _mm512_xor_si512(start, _mm512_loadu_si512(next));
    __m512i second = _mm512_loadu_si512(next + 64);
    __m512i third = _mm512_loadu_si512(next + 128);
    __m512i fourth = _mm512_loadu_si512(next + 192);
    for (next += 256, length -= 256; length >= 256; next += 256, length -= 256) {
        first = fold(first, far, _mm512_loadu_si512(next));
        second = fold(second, far, _mm512_loadu_si512(next + 64));
        third = fold(third, far, _mm512_loadu_si512(next + 128));
        fourth = fold(fourth, far, _mm512_loadu_si512(next + 192));
    }
    fourth = fold(fold(fold(first, near, second), near, third), near, fourth);
    for (; length >= 64; next += 64, length -= 64)
        fourth = fold(fourth, near, _mm512_loadu_si512(next));
    return finish(reduce(fourth), next, length);
}

km__crc32c_function *km__crc32c_way(unsigned index) {
    km__crc32c_function *ways[4] = {0};
    unsigned count = 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq"))
            ways[count++] = crc32c_avx512;
        ways[count++] = crc32c_sse42;
    }
    ways[count] = km__crc32c_portable;
    return index < sizeof ways / sizeof *ways ? ways[index] : NULL;
}

uint32_t km__crc32c(uint32_t checksum, const void *bytes, size_t length) {
    static _Atomic(km__crc32c_function *) chosen;
    km__crc32c_function *function = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (function == NULL) {
        function = km__crc32c_way(0);
        atomic_store_explicit(&chosen, function, memory_order_relaxed);
    }
    return function(checksum, bytes, length);
}
