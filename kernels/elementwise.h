/* elementwise.h - the loops of elementwise.c that have vector forms. */
#ifndef MLL_ELEMENTWISE_H
#define MLL_ELEMENTWISE_H

#include <stddef.h>

#define GELU_SQRT_HALF 0x1.6a09e6p-1f

void silu_mul_span_c(float *y, const float *gate, const float *up, size_t n);
void gelu_span_c(float *y, const float *x, const float *unused, size_t n);

#endif
