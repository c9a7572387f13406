/* simd_avx2.c - the vector loops of norms, elementwise ops and attention, compiled for AVX2. */
#include "attn_simd.h"
#include "elementwise_simd.h"
#include "norm_simd.h"
