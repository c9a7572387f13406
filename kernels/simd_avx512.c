/* simd_avx512.c - the vector loops of norms, elementwise ops and attention, compiled for AVX-512.
 */
#include "attn_simd.h"
#include "elementwise_simd.h"
#include "norm_simd.h"
