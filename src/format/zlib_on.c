/* SPDX-License-Identifier: MIT
 *
 * A build with zlib: compressed frames, and pages checked by CRC-32.
 */
#include <limits.h>
#include <zlib.h>

#include "checksum.h"
#include "keepmap.h"

bool km__zlib_available(void) {
    return true;
}

uint32_t km__zlib_crc32(uint32_t checksum, const void *bytes, size_t length) {
    return (uint32_t)crc32_z(checksum, bytes, length);
}

/* The fastest level: a commit waits for this, and what a frame has to gain it gains mostly at the first level. */
int km__zlib_compress(void *to, size_t *stored, const void *from, size_t length) {
    if (length > ULONG_MAX || *stored > ULONG_MAX)
        return KM_ESIZE;
    uLongf room = (uLongf)*stored;
    switch (compress2(to, &room, from, (uLong)length, Z_BEST_SPEED)) {
    case Z_OK:
        *stored = (size_t)room;
        return 0;
    case Z_MEM_ERROR:
        return KM_ENOMEM;
    default:
        return KM_ESIZE;
    }
}

int km__zlib_expand(void *to, size_t length, const void *from, size_t stored) {
    if (length > ULONG_MAX || stored > ULONG_MAX)
        return KM_EJOURNAL;
    uLongf room = (uLongf)length;
    uLong taken = (uLong)stored;
    const int result = uncompress2(to, &room, from, &taken);
    if (result == Z_MEM_ERROR)
        return KM_ENOMEM;
    return result == Z_OK && room == length && taken == stored ? 0 : KM_EJOURNAL;
}
