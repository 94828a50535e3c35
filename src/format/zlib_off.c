/* SPDX-License-Identifier: MIT
 *
 * A build without zlib. What needs it says so; maps that need it are refused by name before any of this is reached.
 */
#include "checksum.h"
#include "keepmap.h"

bool km__zlib_available(void) {
    return false;
}

/* There is no result that says "unsupported": km__checksum_available() is asked before a map is opened. */
uint32_t km__zlib_crc32(uint32_t checksum, const void *bytes, size_t length) {
    (void)bytes, (void)length;
    return checksum;
}

int km__zlib_compress(void *to, size_t *stored, const void *from, size_t length) {
    (void)to, (void)stored, (void)from, (void)length;
    return KM_EUNSUPPORTED;
}

int km__zlib_expand(void *to, size_t length, const void *from, size_t stored) {
    (void)to, (void)length, (void)from, (void)stored;
    return KM_EUNSUPPORTED;
}
