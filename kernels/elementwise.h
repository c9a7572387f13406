/* elementwise.h - the loops of elementwise.c that have vector forms. */
#ifndef MLL_ELEMENTWISE_H
#define MLL_ELEMENTWISE_H

#include <stddef.h>

/* Elements [0, n); z is unused by gelu. */
typedef void span_fn(float *y, const float *x, const float *z, size_t n);

span_fn silu_mul_span_c, silu_mul_span_avx2, silu_mul_span_avx512;
span_fn gelu_span_c, gelu_span_avx2, gelu_span_avx512;

#endif
