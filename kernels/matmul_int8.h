/* matmul_int8.h - op_matmul of 4-bit and 8-bit weights by sums of int8 products (--compute int8):
 * what the plain form and the one of AVX-512 VNNI share.  Internal to kernels/.
 *
 * A row of x falls into blocks of INT8_BLOCK elements, the last one filled up with zeros. With
 *   s[r][b] = max |x| of the block / 127,  q = x * (127 / max |x|) to the nearest, ties to even
 *   w       = an 8-bit code, or values[code] * 127 to the nearest, ties to even
 *   I[r][o][b] = the sum of w q over the block: an integer below 2^24, exact in float32
 * a sum is a chain of fused multiply-adds over the blocks, ascending, from 0:
 *   sum = fma(I, s[r][b] * absmax of o's block, sum)           absmax: 1 for 8-bit codes
 * and y = sum * MLL_INT8_STEP (4 bits) or sum * scale[o] * MLL_INT8_STEP, plus the bias. What the
 * weights are `rounded` to is left out. A block whose largest is below 2^-100 counts as zeros; an
 * element that is not finite makes its row NaN. Nothing depends on other rows, threads or the
 * instruction set. */
#ifndef MLL_MATMUL_INT8_H
#define MLL_MATMUL_INT8_H

#include <math.h>

#include "half.h"
#include "matmul.h"

/* Rows of x that are quantised at once; rows of w that a thread takes at once; blocks of columns
 * of those that are unpacked at once. */
enum { INT8_BLOCK = 64, INT8_ROWS = 256, INT8_GROUP = 16, INT8_RUN = 16 };

struct int8_job {
    const struct matmul *m;
    const struct int8_form *form;
    size_t blocks;        /* of a row */
    size_t stride;        /* as many, and one of zeros where they are odd */
    size_t first, rows;   /* of x, quantised below */
    int8_t *q;            /* (rows, stride, INT8_BLOCK), in the form's order */
    float *scale;         /* (rows, stride) */
    int32_t *bias;        /* (rows, stride): -128 times the sum of the block's q */
    int8_t table[16];     /* of a 4-bit weight */
    struct int8_scratch { /* of a thread; (threads) */
        _Alignas(64) uint8_t panel[INT8_RUN * INT8_BLOCK * INT8_GROUP];
        float absmax[INT8_RUN][INT8_GROUP];
        float sums[INT8_ROWS][INT8_GROUP];
    } * scratch;
};

struct int8_form {
    /* q, scale and bias of block b of the job's row `row`, of whose INT8_BLOCK elements the n at x
     * are there. */
    void (*quantise)(const struct int8_job *j, size_t row, size_t b, const float *x, size_t n);
    /* The job's rows by the INT8_GROUP rows of w from row o on: their sums to `sums`. */
    void (*group)(const struct int8_job *j, struct int8_scratch *scratch, size_t o);
};

extern const struct int8_form matmul_int8_vnni;

/* Whether w is multiplied so: the others are as without --compute int8. */
bool matmul_int8_takes(const struct mat *w);
void matmul_int8(struct mll_exec *ex, const struct matmul *m);
size_t matmul_int8_scratch(int threads, int n, int cols);

/* The scale of a block by the bits of its largest magnitude, and what x is multiplied by. */
static inline float int8_scale_of(uint32_t most, float *inverse)
{
    const float x = f32_from_bits(most);
    *inverse = 0;
    if (!(x >= 0x1p-100f))
        return x != x ? x : 0;
    if (x == INFINITY)
        return NAN;
    *inverse = 127 / x;
    return x / 127;
}

#endif
