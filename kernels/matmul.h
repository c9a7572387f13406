/* matmul.h - what the forms of op_matmul share.  Internal to kernels/.
 *
 * A form (AVX2, AVX-512, AVX-512 with the BF16 dot instruction) is four functions over 64-byte
 * steps: one step holds 16 float32 or 32 bf16 elements of k, and feeds 16 float32 lanes. A tile is
 * up to MATMUL_X rows of x by MATMUL_W rows of w, 16 lanes an output, added up over the steps in
 * ascending k and joined by one tree at the end: where the steps are cut into blocks, and how many
 * rows stand side by side, changes no bit.
 *
 * Few rows of x: `direct` reads w where it lies, once. Many rows (matmul_block.c): x and w are
 * packed, block by block, into panels [step][row] that stay in the caches. */
#ifndef MLL_MATMUL_H
#define MLL_MATMUL_H

#include "backend.h"

enum { MATMUL_X = 6, MATMUL_W = 4, MATMUL_LANES = 16 };

struct matmul {
    float *y;                   /* (n, w->rows) */
    const float *x;             /* (n, w->cols) */
    const struct mat *w, *bias; /* bias NULL for none */
    const float *base; /* (n, w->rows) that `factor` times the product is added to, or NULL */
    float factor;
    int n;
    const struct matmul_form *form;
    /* What the form's direct reads: x itself or in another order, or x rounded to bf16 with zeros
     * behind the last column; rows of x_stride bytes. */
    const unsigned char *x_steps;
    size_t x_stride;
};

/* What becomes of the sums of up to MATMUL_W outputs: (sum * scale) * step + bias, and where there
 * is a base, base + factor * that. scale NULL: the sum as it is; bias NULL for none. Arrays of
 * MATMUL_W, zeros behind the last row. */
struct matmul_ends {
    const float *scale, *bias;
    float step, factor;
    float scales[MATMUL_W], biases[MATMUL_W]; /* what they point to */
};

/* One tile over a run of steps. The lanes start at zero if `first`, else at acc; they are added up
 * and written to y if `last`, else left in acc. */
struct matmul_tile {
    const void *x, *w; /* panels: x [steps][rows], w [steps][MATMUL_W], 64 bytes a step and row */
    float *acc;        /* [rows][MATMUL_W][16] */
    size_t steps;
    int tail;       /* elements of the last step, 0 for a whole one */
    int rows, cols; /* outputs: rows of x, rows of w */
    bool first, last;
    float *y;          /* (rows, cols) at stride y_stride */
    const float *base; /* the same, or NULL */
    size_t y_stride;
    const struct matmul_ends *ends;
};

struct matmul_form {
    int step; /* elements of k in a step */
    /* All n rows of x by the groups [begin, end) of MATMUL_W rows of w. */
    void (*direct)(const struct matmul *m, size_t begin, size_t end);
    /* n elements of x in the order in which direct takes them for 4-bit weights; NULL: their own.
     */
    void (*order_q4_x)(float *out, const float *x, size_t n);
    /* Packs k elements of `rows` rows of x at stride `stride` into steps [..][rows]. */
    void (*pack_x)(void *panel, const float *x, size_t stride, int rows, size_t k);
    /* Packs k elements from column `from` of w rows [row, row + rows) into steps [..][MATMUL_W];
     * missing rows and elements are zero. */
    void (*pack_w)(void *panel, const struct mat *w, size_t row, int rows, size_t from, size_t k);
    void (*tile)(const struct matmul_tile *t);
};

extern const struct matmul_form matmul_avx2, matmul_avx512;
extern const struct matmul_form matmul_avx512_bf16, matmul_avx512_bf16_q4; /* of 4-bit weights */

static inline size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* What is added to the outputs from element i of y on; NULL for nothing. */
static inline const float *matmul_base(const struct matmul *m, size_t i)
{
    return m->base != NULL ? m->base + i : NULL;
}

/* Fills in the ends of w's rows [row, row + rows). */
void matmul_ends(struct matmul_ends *ends, const struct matmul *m, size_t row, int rows);

/* The 4-bit weights that the forms know: every 64 elements from the start of a row lie in one
 * block and in whole bytes. The others take the plain form. */
enum { Q4_CHUNK = 64 };
bool matmul_q4_fits(const struct mat *w);

/* The blocked matmul, and the most scratch it takes with any form. */
void matmul_block(struct mll_exec *ex, const struct matmul *m);
size_t matmul_block_scratch(int threads, int n, int cols);

#endif
