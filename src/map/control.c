/* SPDX-License-Identifier: MIT
 *
 * Control from one session to the next: what the first to attach rebuilds, and which start of the machine it is of.
 */
#include <string.h>

#include "map.h"

void km__control_clear(struct km__control *control, uint64_t generation, uint64_t durable) {
    atomic_store(&control->epoch, 0); /* O4 */
    atomic_store(&control->durable, durable);
    _Atomic uint64_t *words[] = {&control->target,     &control->checkpointed, &control->geometry,
                                 &control->sync_began, &control->sync_ended,   &control->header_durable,
                                 &control->suspect};
    _Atomic uint32_t *marks[] = {&control->file_mark,  &control->slot_limit,    &control->failed,
                                 &control->clean,      &control->writer_wanted, &control->checkpoint_wanted,
                                 &control->sync_wanted};
    atomic_store_explicit(&control->appended, generation, memory_order_relaxed);
    atomic_store_explicit(&control->visible, generation, memory_order_relaxed);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        atomic_store_explicit(words[i], 0, memory_order_relaxed);
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        atomic_store_explicit(marks[i], 0, memory_order_relaxed);
    for (size_t i = 0; i < KM__SLOTS / 64; i++)
        atomic_store_explicit(&control->waiting[i], 0, memory_order_relaxed);
    for (size_t i = 0; i < KM__SLOTS; i++) {
        atomic_store_explicit(&control->slot[i].waiter, 0, memory_order_release); /* L6 */
        atomic_store_explicit(&control->slot[i].pin, KM__NO_PIN, memory_order_relaxed);
        atomic_store_explicit(&control->slot[i].process_id, 0, memory_order_relaxed);
        atomic_store_explicit(&control->slot[i].waiting, 0, memory_order_relaxed);
    }
    atomic_store(&control->system, os_system());
    atomic_store(&control->magic, KM__CONTROL_MAGIC);
}

/* Asked once a handle, and an open that cannot ask fails: taken for another start, it would forget the commits of a
 * live map, and believe the disk to have what only the page cache has. */
int km__boot_read(km_map *map) {
    uint8_t id[16];
    const int result = os_boot_id(id);
    memcpy(map->boot, id, sizeof id);
    return result;
}

enum km__boot km__control_boot(const km_map *map) {
    const struct km__control *control = map->control;
    if ((map->boot[0] | map->boot[1]) == 0)
        return KM__BOOT_UNKNOWN;
    const bool same = km__load(&control->magic) == KM__CONTROL_MAGIC && km__load(&control->boot[0]) == map->boot[0] &&
                      km__load(&control->boot[1]) == map->boot[1];
    return same ? KM__BOOT_SAME : KM__BOOT_OTHER;
}

void km__control_note_boot(km_map *map) {
    atomic_store(&map->control->boot[0], map->boot[0]);
    atomic_store(&map->control->boot[1], map->boot[1]);
}
