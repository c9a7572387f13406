/* norm_simd.h - the rows of norm.c on vectors. Included once by each simd_*.c. */
#include "fmath_simd.h"
#include "norm.h"

/* sum (x - shift)^2 in 16 lanes; elements behind the row count nothing. */
SIMD_INLINE float sum_of_squares(const float *x, float shift, size_t n)
{
    vf acc[MLL_LANES / VF], s = vf_set(shift);
    for (int w = 0; w < MLL_LANES / VF; w++)
        acc[w] = vf_set(0);
    size_t i = 0;
    for (; i + MLL_LANES <= n; i += MLL_LANES)
        for (int w = 0; w < MLL_LANES / VF; w++) {
            vf d = vf_sub(vf_load(x + i + w * VF), s);
            acc[w] = vf_fma(d, d, acc[w]);
        }
    float lane[MLL_LANES] = {0};
    for (size_t k = i; k < n; k++)
        lane[k - i] = x[k] - shift;
    for (int w = 0; w < MLL_LANES / VF; w++)
        acc[w] = vf_fma(vf_load(lane + w * VF), vf_load(lane + w * VF), acc[w]);
    return vf_tree(acc);
}

SIMD_INLINE float sum_of(const float *x, size_t n)
{
    vf acc[MLL_LANES / VF];
    for (int w = 0; w < MLL_LANES / VF; w++)
        acc[w] = vf_set(0);
    for (size_t i = 0; i < n; i += MLL_LANES)
        for (int w = 0; w < MLL_LANES / VF; w++) {
            size_t at = i + (size_t)(w * VF);
            if (at < n)
                acc[w] = vf_add(acc[w], vf_load_n(x + at, vf_count(at, n)));
        }
    return vf_tree(acc);
}

void SIMD(rmsnorm_row)(float *y, const float *x, const struct mat *w, const struct mat *b, int dim,
                       float eps)
{
    size_t n = (size_t)dim;
    (void)b;
    vf r = vf_set(1.0f / sqrtf(sum_of_squares(x, 0, n) / (float)dim + eps));
    for (size_t i = 0; i < n; i += VF) {
        int count = vf_count(i, n);
        vf scaled = vf_mul(vf_load_n(x + i, count), r);
        vf_store_n(y + i, vf_mul(vf_weights(w->data, w->dtype, i, count), scaled), count);
    }
}

void SIMD(layernorm_row)(float *y, const float *x, const struct mat *w, const struct mat *b,
                         int dim, float eps)
{
    size_t n = (size_t)dim;
    float mean = sum_of(x, n) / (float)dim;
    vf r = vf_set(1.0f / sqrtf(sum_of_squares(x, mean, n) / (float)dim + eps));
    for (size_t i = 0; i < n; i += VF) {
        int count = vf_count(i, n);
        vf scaled = vf_mul(vf_sub(vf_load_n(x + i, count), vf_set(mean)), r);
        vf out = vf_fma(scaled, vf_weights(w->data, w->dtype, i, count),
                        vf_weights(b->data, b->dtype, i, count));
        vf_store_n(y + i, out, count);
    }
}
