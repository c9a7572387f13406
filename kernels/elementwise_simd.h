/* elementwise_simd.h - silu_mul and gelu of elementwise.c on vectors. Included once by each
 * simd_*.c. */
#include "elementwise.h"
#include "fmath_simd.h"

void SIMD(silu_mul_span)(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += VF) {
        int count = vf_count(i, n);
        vf x = vf_load_n(gate + i, count), z = vf_load_n(up + i, count);
        vf minus = vf_mul(x, vf_set(-1.0f));
        vf silu = vf_div(x, vf_add(vf_set(1.0f), vf_exp(minus)));
        vf_store_n(y + i, vf_mul(silu, z), count);
    }
}

void SIMD(gelu_span)(float *y, const float *x, const float *unused, size_t n)
{
    (void)unused;
    for (size_t i = 0; i < n; i += VF) {
        int count = vf_count(i, n);
        vf a = vf_load_n(x + i, count);
        vf half = vf_mul(vf_set(0.5f), a);
        vf erf_1 = vf_add(vf_set(1.0f), vf_erf(vf_mul(a, vf_set(GELU_SQRT_HALF))));
        vf_store_n(y + i, vf_mul(half, erf_1), count);
    }
}
