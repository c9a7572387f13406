/* norm.h - the row functions of norm.c, one for each instruction set; b is unused by rmsnorm. */
#ifndef MLL_NORM_H
#define MLL_NORM_H

#include "ops.h"

typedef void norm_row_fn(float *y, const float *x, const struct mat *w, const struct mat *b,
                         int dim, float eps);

norm_row_fn rmsnorm_row_c, rmsnorm_row_avx2, rmsnorm_row_avx512;
norm_row_fn layernorm_row_c, layernorm_row_avx2, layernorm_row_avx512;

#endif
