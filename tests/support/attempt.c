/* SPDX-License-Identifier: MIT
 *
 * Trying bad files: see attempt.h.
 */
#include "attempt.h"

#include <sys/mman.h>
#include <sys/stat.h>

struct attempt *attempt;

static void note(int result) {
    if (result != 0 && attempt->used == 0) {
        attempt->used = result;
        attempt->explained = km_last_error_detail()[0] != '\0';
    }
}

/* Open and do all that a program may do. */
void attempt_use(void) {
    km_map *map = NULL;
    const struct km_options options = {.struct_size = sizeof options, .flags = attempt->flags, .timeout_ms = 200};
    attempt->used = 0;
    attempt->damaged = 0;
    attempt->explained = 1;
    attempt->opened = km_open(&map, attempt->path, &options);
    if (attempt->opened != 0) {
        attempt->explained = km_last_error_detail()[0] != '\0';
        return;
    }
    const int begun = km_begin(map, KM_READ);
    note(begun);
    if (begun == 0) {
        attempt->generation = km_generation(map);
        attempt->first_byte = *(unsigned char *)km_data(map);
        attempt->last_byte = ((unsigned char *)km_data(map))[km_size(map) - 1];
        note(km_abort(map));
    }
    struct km_info info = {.struct_size = sizeof info};
    struct km_report report = {.struct_size = sizeof report};
    note(km_get_info(map, &info));
    note(km_verify(map, &report, NULL, NULL));
    attempt->damaged = report.pages_damaged + report.frames_damaged + report.headers_damaged;
    if ((attempt->flags & KM_READONLY) == 0) {
        const int writing = km_begin(map, KM_WRITE);
        note(writing);
        if (writing == 0) {
            *((unsigned char *)km_data(map) + 1) ^= 1;
            const int committed = km_commit(map);
            note(committed);
            if (committed != 0) {
                km_abort(map);
            }
        }
        note(km_checkpoint(map));
    }
    note(km_close(map));
}

static int use_in_child(void *context) {
    (void)context;
    attempt_use();
    return 0;
}

/* Opens the file in a process of its own; the result of km_open(). `what` is told when it crashes or changes the
 * file. */
int attempt_file(const char *path, uint32_t flags, const char *what) {
    struct scratch_image before = {0};
    struct stat status;
    const int regular = stat(path, &status) == 0 && S_ISREG(status.st_mode);
    if (regular) {
        before = scratch_load(path);
    }
    *attempt = (struct attempt){.path = path, .flags = flags};
    const int ended = check_in_child(use_in_child, NULL, 20);
    if (ended != 0) {
        fail_msg("%s (flags %u): the process ended with %d", what, flags, ended);
    }
    if (!attempt->explained) {
        fail_msg("%s (flags %u): %s without a detail", what, flags, km_error_name(attempt->opened));
    }
    if (regular && (attempt->opened != 0 || (flags & KM_READONLY) != 0) && !scratch_equals(path, &before)) {
        fail_msg("%s (flags %u): the file was changed, though km_open gave %s", what, flags,
                 km_error_name(attempt->opened));
    }
    scratch_release(&before);
    return attempt->opened;
}

void attempt_refused(const char *path, int expected, const char *what) {
    static const uint32_t flags[] = {0, KM_READONLY, KM_CREATE};
    for (int i = 0; i < 3; i++) {
        const int result = attempt_file(path, flags[i], what);
        if (result != expected) {
            fail_msg("%s (flags %u): %s, expected %s", what, flags[i], km_error_name(result), km_error_name(expected));
        }
    }
}

/* A cleanly closed map at generation 2: byte 0 is 11, the last byte 22. */
const char *attempt_map(const char *name) {
    const char *path = scratch_path("%s.km", name);
    km_map *map;
    const struct km_options options = {
        .struct_size = sizeof options, .size = ATTEMPT_SIZE, .journal_size = 65536, .flags = KM_CREATE | KM_EXCLUSIVE};
    must(km_open(&map, path, &options));
    check_commit_fill(map, 0, 11, ATTEMPT_SIZE / 2);
    check_commit_fill(map, ATTEMPT_SIZE / 2, 22, ATTEMPT_SIZE / 2);
    must(km_close(map));
    return path;
}

uint64_t attempt_value(unsigned which, uint64_t value) {
    switch (which) {
    case 0:
        return 0;
    case 1:
        return 1;
    case 2:
        return value + 1;
    case 3:
        return value - 1;
    case 4:
        return value + 8;
    case 5:
        return value + 4096;
    case 6:
        return value + 65536;
    case 7:
        return value - 65536;
    case 8:
        return value * 2;
    case 9:
        return UINT64_C(1) << 31;
    case 10:
        return UINT64_C(1) << 40;
    case 11:
        return UINT64_C(1) << 59;
    case 12:
        return UINT64_C(1) << 63;
    case 13:
        return UINT64_MAX - 65535;
    default:
        return UINT64_MAX;
    }
}

uint64_t attempt_get(const void *bytes, const struct field *field) {
    uint64_t value = 0;
    memcpy(&value, (const char *)bytes + field->offset, field->size);
    return value;
}

void attempt_set(void *bytes, const struct field *field, uint64_t value) {
    memcpy((char *)bytes + field->offset, &value, field->size);
}

void attempt_start(void) {
    attempt = mmap(NULL, sizeof *attempt, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (attempt == MAP_FAILED) {
        perror("mmap");
        abort();
    }
}
