/* SPDX-License-Identifier: MIT
 *
 * Reading and writing recipes, and the steps that change a file: see recipe.h. What a step changes is found from the
 * newest header slot that holds; without one only steps that need no header do anything. Nothing in the file is
 * believed: each place is looked for within the file's length.
 */
#include "recipe.h"

#include <stdlib.h>
#include <string.h>

#include "bases.h"
#include "format/bytes.h"
#include "format/checksum.h"
#include "format/header.h"
#include "keepmap.h"
#include "map/control.h"
#include "seals.h"
#include "claim.h"

/* Numbers of one size that stand behind each other in a structure. */
struct numbers {
    size_t offset, count, size;
};

static const struct numbers header_numbers[] = {
    {8, 2, 4}, {16, 5, 8}, {56, 4, 4}, {72, 8, 8}, {136, 20, 8}, {296, 1, 8}, {4080, 1, 8}, {4088, 2, 4},
};
static const struct numbers head_numbers[] = {{0, 2, 4},  {8, 4, 8},  {40, 2, 4}, {48, 1, 8},
                                              {56, 2, 4}, {64, 5, 8}, {104, 2, 4}};
#define CONTROL_NUMBER(word)                                                                                           \
    { offsetof(struct km__control, word), 1, sizeof(((struct km__control *)0)->word) }
static const struct numbers control_numbers[] = {
    CONTROL_NUMBER(magic),          CONTROL_NUMBER(epoch),       CONTROL_NUMBER(system),
    CONTROL_NUMBER(slot_limit),     CONTROL_NUMBER(appended),    CONTROL_NUMBER(durable),
    CONTROL_NUMBER(visible),        CONTROL_NUMBER(target),      CONTROL_NUMBER(checkpointed),
    CONTROL_NUMBER(geometry),       CONTROL_NUMBER(failed),      CONTROL_NUMBER(clean),
    CONTROL_NUMBER(writer_wanted),  CONTROL_NUMBER(sync_wanted), CONTROL_NUMBER(checkpoint_wanted),
    CONTROL_NUMBER(header_durable), CONTROL_NUMBER(sync_began),  CONTROL_NUMBER(sync_ended),
    CONTROL_NUMBER(suspect),        CONTROL_NUMBER(file_mark),   CONTROL_NUMBER(holder),
    CONTROL_NUMBER(unsure),         CONTROL_NUMBER(boot[0]),     CONTROL_NUMBER(boot[1]),
    CONTROL_NUMBER(waiting[0]),     CONTROL_NUMBER(waiting[12]),
};
static const struct numbers slot_numbers[] = {{0, 4, 8}, {32, 2, 4}};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- reading and writing ----------------------------------------------------------------------------------------- */

bool step_carries(uint8_t kind) {
    return kind % STEP_KINDS == STEP_BYTES || kind % STEP_KINDS == STEP_BODY || kind % STEP_KINDS == STEP_PAGE;
}

static void read_step(struct step *step, const uint8_t **bytes, size_t *length) {
    unsigned char fixed[RECIPE_STEP] = {0};
    const size_t part = *length < sizeof fixed ? *length : sizeof fixed;
    memcpy(fixed, *bytes, part);
    *bytes += part;
    *length -= part;
    *step = (struct step){.kind = fixed[0] % STEP_KINDS,
                          .which = fixed[1],
                          .field = fixed[2],
                          .how = fixed[3],
                          .number = km__load64(fixed + 4)};
    if (step_carries(step->kind)) {
        step->bytes = *bytes;
        step->length = *length < step->field ? *length : step->field;
        *bytes += step->length;
        *length -= step->length;
    }
}

void recipe_read(struct recipe *recipe, const uint8_t *bytes, size_t length) {
    const size_t head = length < RECIPE_HEAD ? length : RECIPE_HEAD;
    memset(recipe->head, 0, sizeof recipe->head);
    if (head > 0)
        memcpy(recipe->head, bytes, head);
    bytes += head;
    length -= head;
    recipe->count = 0;
    while (length > 0 && recipe->count < RECIPE_STEPS_MAX)
        read_step(&recipe->steps[recipe->count++], &bytes, &length);
}

size_t recipe_write(const struct recipe *recipe, uint8_t *bytes, size_t capacity) {
    if (capacity < RECIPE_HEAD)
        return 0;
    memcpy(bytes, recipe->head, RECIPE_HEAD);
    size_t used = RECIPE_HEAD;
    for (size_t i = 0; i < recipe->count; i++) {
        const struct step *step = &recipe->steps[i];
        if (capacity - used < RECIPE_STEP + step->length)
            break;
        unsigned char fixed[RECIPE_STEP] = {step->kind, step->which, step->field, step->how};
        if (step_carries(step->kind))
            fixed[2] = (unsigned char)step->length;
        memcpy(fixed + 4, &step->number, sizeof step->number);
        memcpy(bytes + used, fixed, sizeof fixed);
        if (step->length > 0)
            memcpy(bytes + used + RECIPE_STEP, step->bytes, step->length);
        used += RECIPE_STEP + step->length;
    }
    return used;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

/* Where number `which` of a structure stands. */
static size_t find_number(const struct numbers *numbers, size_t runs, unsigned which, size_t *size) {
    size_t total = 0;
    for (size_t i = 0; i < runs; i++)
        total += numbers[i].count;
    size_t left = which % total, i = 0;
    while (left >= numbers[i].count)
        left -= numbers[i++].count;
    *size = numbers[i].size;
    return numbers[i].offset + left * numbers[i].size;
}

static uint64_t get(const unsigned char *from, size_t size) {
    return size == 4 ? km__load32(from) : km__load64(from);
}

static uint64_t value_of(const struct canvas *canvas, const struct step *step, uint64_t old) {
    const uint64_t little = (uint64_t)(int64_t)(int8_t)(step->number >> 8);
    switch (step->how % VALUE_KINDS) {
    case VALUE_ADD:
        return old + step->number;
    case VALUE_SUBTRACT:
        return old - step->number;
    case VALUE_FROM_TOP:
        return UINT64_MAX - step->number;
    case VALUE_POWER:
        return (UINT64_C(1) << step->number % 64) + little;
    case VALUE_FIELD: {
        size_t size;
        const size_t offset = find_number(header_numbers, COUNT(header_numbers), step->number & 0xff, &size);
        const struct km__header *header = seals_header(canvas->bytes, canvas->length);
        return header == NULL ? step->number : get((const unsigned char *)header + offset, size) + little;
    }
    case VALUE_MULTIPLY:
        return old * step->number;
    case VALUE_LENGTH:
        return canvas->length + (uint64_t)(int64_t)(int16_t)step->number;
    default:
        return step->number;
    }
}

/* Set a number of the structure at `structure`, which lies inside the file. */
static void set_number(const struct canvas *canvas, unsigned char *structure, const struct numbers *numbers,
                       size_t runs, const struct step *step) {
    size_t size;
    unsigned char *at = structure + find_number(numbers, runs, step->field, &size);
    const uint64_t value = value_of(canvas, step, get(at, size));
    memcpy(at, &value, size);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static void put(const struct canvas *canvas, uint64_t offset, const struct step *step) {
    if (offset >= canvas->length)
        return;
    const uint64_t room = canvas->length - offset;
    if (step->length > 0)
        memcpy(canvas->bytes + offset, step->bytes, step->length < room ? step->length : (size_t)room);
}

/* `which`: 0 and 1 a slot, 2 both, 3 the newest. */
static void set_header(const struct canvas *canvas, const struct step *step) {
    if (canvas->length < 2 * KM__SLOT_SIZE)
        return;
    const struct km__header *newest = seals_header(canvas->bytes, canvas->length);
    const unsigned which = step->which % 4;
    for (unsigned slot = 0; slot < 2; slot++) {
        unsigned char *at = canvas->bytes + slot * KM__SLOT_B;
        if (which < 2 ? slot != which : which == 3 && (const unsigned char *)newest != at)
            continue;
        set_number(canvas, at, header_numbers, COUNT(header_numbers), step);
        if ((step->how & STEP_HOW_BROKEN) == 0)
            seals_slot(at);
    }
}

static void copy_slots(const struct canvas *canvas, const struct step *step) {
    if (canvas->length < 2 * KM__SLOT_SIZE)
        return;
    unsigned char a[KM__SLOT_SIZE], b[KM__SLOT_SIZE];
    memcpy(a, canvas->bytes + KM__SLOT_A, sizeof a);
    memcpy(b, canvas->bytes + KM__SLOT_B, sizeof b);
    if (step->which % 3 != 0)
        memcpy(canvas->bytes + KM__SLOT_A, b, sizeof b);
    if (step->which % 3 != 1)
        memcpy(canvas->bytes + KM__SLOT_B, a, sizeof a);
}

static void seal_frame(const struct canvas *canvas, const struct step *step, uint64_t position) {
    if ((step->how & STEP_HOW_BROKEN) == 0)
        seals_frame(canvas->bytes, canvas->length, position, (step->how & STEP_HOW_CHAIN) == 0);
}

static void change_frame(const struct canvas *canvas, const struct step *step) {
    struct seals_ring ring;
    uint64_t position;
    if (!seals_ring(canvas->bytes, canvas->length, &ring) || !seals_find(&ring, step->which, &position))
        return;
    if (step->kind == STEP_FRAME) {
        set_number(canvas, ring.bytes + position, head_numbers, COUNT(head_numbers), step);
    } else {
        const uint64_t offset = position + sizeof(struct km__frame_head) + step->number % KM__JOURNAL_MIN;
        if (offset < ring.length)
            put(canvas, (uint64_t)(ring.bytes - canvas->bytes) + offset, step);
    }
    seal_frame(canvas, step, position);
}

/* With an odd field the frame stays, too. */
static void move_frame(const struct canvas *canvas, const struct step *step) {
    struct seals_ring ring;
    uint64_t from;
    if (!seals_ring(canvas->bytes, canvas->length, &ring) || !seals_find(&ring, step->which, &from))
        return;
    const uint64_t to = value_of(canvas, step, from) / 8 * 8;
    if (to > ring.length - sizeof(struct km__frame_head))
        return;
    const uint64_t said = km__load64(ring.bytes + from + offsetof(struct km__frame_head, length));
    uint64_t length = ring.length - (from > to ? from : to);
    length = said < length ? said : length;
    unsigned char *frame = need((size_t)length);
    memcpy(frame, ring.bytes + from, (size_t)length);
    if (step->field % 2 == 0)
        memset(ring.bytes + from, 0, (size_t)length);
    memcpy(ring.bytes + to, frame, (size_t)length);
    free(frame);
    seal_frame(canvas, step, to);
}

/* A page's bytes, or its table entry; then the table and the digest are brought to what the bytes say, or not. */
static void change_page(const struct canvas *canvas, const struct step *step) {
    const struct km__header *header = seals_header(canvas->bytes, canvas->length);
    if (header == NULL)
        return;
    const uint64_t page = step->which % km__pages_of(header->data_size);
    const uint64_t entry = header->table_offset + page * sizeof(uint32_t);
    if (step->kind == STEP_TABLE && entry + sizeof(uint32_t) <= canvas->length) {
        const uint64_t value = value_of(canvas, step, km__load32(canvas->bytes + entry));
        memcpy(canvas->bytes + entry, &value, sizeof(uint32_t));
    } else if (step->kind == STEP_PAGE) {
        put(canvas, header->data_offset + page * KM__PAGE + step->number % KM__PAGE, step);
    }
    if ((step->how & STEP_HOW_BROKEN) == 0)
        seals_pages(canvas->bytes, canvas->length, step->kind == STEP_PAGE);
}

static void change_control(const struct canvas *canvas, const struct step *step) {
    if (canvas->length < KM__CONTROL_OFFSET + KM__CONTROL_SIZE)
        return;
    unsigned char *control = canvas->bytes + KM__CONTROL_OFFSET;
    const size_t words = COUNT(control_numbers) + 6;
    struct step word = *step;
    word.field = (uint8_t)(step->field % words);
    if (word.field < COUNT(control_numbers)) {
        set_number(canvas, control, control_numbers, COUNT(control_numbers), &word);
    } else {
        word.field = (uint8_t)(word.field - COUNT(control_numbers));
        control += offsetof(struct km__control, slot) + step->which % 4 * sizeof(struct km__slot);
        set_number(canvas, control, slot_numbers, COUNT(slot_numbers), &word);
    }
}

/* What is behind a new end reads as zeros when the file grows again. */
static void set_length(struct canvas *canvas, const struct step *step) {
    const uint64_t length = value_of(canvas, step, canvas->length) % (RECIPE_FILE_MAX + 1);
    if (length < canvas->length)
        memset(canvas->bytes + length, 0, (size_t)(canvas->length - length));
    canvas->length = length;
}

void canvas_apply(struct canvas *canvas, const struct step *step) {
    switch ((enum step_kind)step->kind) {
    case STEP_BYTES:
        put(canvas, step->number, step);
        break;
    case STEP_HEADER:
        set_header(canvas, step);
        break;
    case STEP_SLOTS:
        copy_slots(canvas, step);
        break;
    case STEP_FRAME:
    case STEP_BODY:
        change_frame(canvas, step);
        break;
    case STEP_MOVE:
        move_frame(canvas, step);
        break;
    case STEP_TABLE:
    case STEP_PAGE:
        change_page(canvas, step);
        break;
    case STEP_CONTROL:
        change_control(canvas, step);
        break;
    case STEP_LENGTH:
        set_length(canvas, step);
        break;
    case STEP_REPAIR:
        seals_everything(canvas->bytes, canvas->length);
        break;
    default:
        break;
    }
}

struct canvas canvas_make(void) {
    return (struct canvas){.bytes = need(RECIPE_FILE_MAX)};
}

void canvas_release(struct canvas *canvas) {
    free(canvas->bytes);
    *canvas = (struct canvas){.bytes = NULL};
}

struct canvas canvas_cook(const struct recipe *recipe) {
    const struct base *base = bases_get(recipe->head[0]);
    struct canvas canvas = canvas_make();
    if (base->length > 0)
        memcpy(canvas.bytes, base->bytes, base->length);
    canvas.length = base->length;
    for (size_t i = 0; i < recipe->count; i++)
        canvas_apply(&canvas, &recipe->steps[i]);
    return canvas;
}
