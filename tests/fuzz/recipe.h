/* SPDX-License-Identifier: MIT
 *
 * The language of the fuzz inputs: a recipe names a base map and lists steps that change it. Steps know the format:
 * they set a field of a header slot or of a frame, move frames, change pages and their checksums, and then seal what
 * they changed as the library would, or leave it broken. So inputs are small, whatever the size of the file, every
 * sequence of bytes is a recipe, and the fuzzer gets past checksums by itself.
 *
 * An input is RECIPE_HEAD bytes: the number of the base map, and three that the target takes as it likes. Then come
 * steps of RECIPE_STEP bytes: kind, which, field, how, and a number of 8 bytes, little-endian. Steps that carry bytes
 * have `field` of them behind the step. What is cut short at the end is read as zeros, or carries less.
 */
#ifndef KM_TESTS_FUZZ_RECIPE_H
#define KM_TESTS_FUZZ_RECIPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECIPE_HEAD 4u
#define RECIPE_STEP 12u
#define RECIPE_STEPS_MAX 400u
#define RECIPE_FILE_MAX (UINT64_C(1) << 20)

enum step_kind {
    STEP_BYTES,   /* put bytes at `number` of the file; seal nothing */
    STEP_HEADER,  /* set `field` of header slot(s) `which` */
    STEP_SLOTS,   /* copy one header slot over the other, or exchange them */
    STEP_FRAME,   /* set `field` of the head of frame `which` */
    STEP_BODY,    /* put bytes at `number` of the body of frame `which` */
    STEP_MOVE,    /* move or copy frame `which` to the position `number` of the ring */
    STEP_TABLE,   /* set the table's entry of page `which` */
    STEP_PAGE,    /* put bytes at `number` of page `which` */
    STEP_CONTROL, /* set word `field` of control, or of slot `which` of it */
    STEP_LENGTH,  /* set the file's length */
    STEP_REPAIR,  /* make everything consistent again: table, digest, chain, header slots */
    STEP_CALL,    /* for the targets that have calls: call number `field` on handle `which` */
    STEP_WHEN,    /* the same: the next step happens in the middle of the next call, before its step `number` */
    STEP_KINDS
};

/* How the number of a step becomes a value; `how` also says what is sealed afterwards. */
enum step_value {
    VALUE_SET,
    VALUE_ADD,
    VALUE_SUBTRACT,
    VALUE_FROM_TOP, /* UINT64_MAX less the number */
    VALUE_POWER,    /* a power of two, and a little */
    VALUE_FIELD,    /* another field of the newest header, and a little */
    VALUE_MULTIPLY,
    VALUE_LENGTH, /* the file's length, and a little */
    VALUE_KINDS
};
#define STEP_HOW_BROKEN 0x80u /* leave seals, table and digest as they are */
#define STEP_HOW_CHAIN 0x40u  /* frames: seal this one, but do not link the next ones to it */

struct step {
    uint8_t kind, which, field, how;
    uint64_t number;
    const uint8_t *bytes; /* `field` of them, or as many as there are */
    size_t length;
};

struct recipe {
    uint8_t head[RECIPE_HEAD];
    struct step steps[RECIPE_STEPS_MAX];
    size_t count;
};

/** Whether a step of this kind carries bytes. */
bool step_carries(uint8_t kind);

/** Read the steps; those beyond RECIPE_STEPS_MAX are left out. The bytes stay where they are. */
void recipe_read(struct recipe *recipe, const uint8_t *bytes, size_t length);

/** The bytes of a recipe; what does not fit is left out. Returns how many. */
size_t recipe_write(const struct recipe *recipe, uint8_t *bytes, size_t capacity);

/** A file in memory; there is room for RECIPE_FILE_MAX bytes. */
struct canvas {
    unsigned char *bytes;
    uint64_t length;
};

/** An empty one, to be released. */
struct canvas canvas_make(void);
void canvas_release(struct canvas *canvas);

/** Apply one step; STEP_CALL and STEP_WHEN change nothing. */
void canvas_apply(struct canvas *canvas, const struct step *step);

/** The base map of the recipe with its steps applied. */
struct canvas canvas_cook(const struct recipe *recipe);

#endif
