/* SPDX-License-Identifier: MIT
 *
 * The example of README.md: a counter that outlives its process. Run it again and again; kill it where you like. What
 * is lost is the run that had not committed: it counts once or not at all.
 */
#include <stdio.h>

#include "keepmap.h"

int main(void) {
    km_map *map;
    struct km_options options = {.struct_size = sizeof options, .size = 4096, .flags = KM_CREATE};
    if (km_open(&map, "counter.km", &options) != 0 || km_begin(map, KM_WRITE) != 0) {
        return fprintf(stderr, "%s\n", km_last_error_detail()), 1;
    }
    unsigned long *counter = km_data(map); /* plain memory: 4096 bytes, zero at first */
    printf("run number %lu\n", ++*counter);
    return km_commit(map) != 0 || km_close(map) != 0; /* atomic, durable, visible to every process */
}
