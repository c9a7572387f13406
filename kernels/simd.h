/* simd.h - one vector of float32, VF lanes, for code that is compiled once for AVX2 and once for
 * AVX-512 (simd_avx2.c, simd_avx512.c). SIMD(name) is the name with the form behind it.
 *
 * Every function is one IEEE operation a lane, so that code written with it gives the bits of the
 * same steps in C. vf_max(a, b) is a > b ? a : b and vf_min(a, b) is a < b ? a : b, NaN included.
 */
#ifndef MLL_SIMD_H
#define MLL_SIMD_H

#include <immintrin.h>

#include "half.h"
#include "lanes.h"

#define SIMD_INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__

#define VF         16
#define SIMD(name) name##_avx512

typedef __m512 vf;
typedef __mmask16 vf_mask;

SIMD_INLINE vf vf_set(float x)
{
    return _mm512_set1_ps(x);
}

SIMD_INLINE vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

SIMD_INLINE void vf_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}

SIMD_INLINE vf_mask vf_first(int n)
{
    return (vf_mask)((1u << n) - 1);
}

/* The first n lanes, 0 <= n <= VF, zeros behind; memory behind them is not touched. */
SIMD_INLINE vf vf_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(vf_first(n), p);
}

SIMD_INLINE void vf_store_n(float *p, vf x, int n)
{
    _mm512_mask_storeu_ps(p, vf_first(n), x);
}

SIMD_INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

SIMD_INLINE vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

SIMD_INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

SIMD_INLINE vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

SIMD_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

SIMD_INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

SIMD_INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

SIMD_INLINE vf_mask vf_less(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

SIMD_INLINE vf_mask vf_both(vf_mask a, vf_mask b)
{
    return a & b;
}

SIMD_INLINE vf vf_pick(vf_mask m, vf yes, vf no)
{
    return _mm512_mask_blend_ps(m, no, yes);
}

SIMD_INLINE bool vf_all_equal(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) == 0xffff;
}

SIMD_INLINE vf vf_abs(vf x)
{
    return _mm512_abs_ps(x);
}

/* The magnitude of x, which is not negative, with the sign of s. */
SIMD_INLINE vf vf_with_sign(vf x, vf s)
{
    return _mm512_or_ps(x, _mm512_and_ps(s, _mm512_set1_ps(-0.0f)));
}

/* p * 2^n, n whole, rounded once. */
SIMD_INLINE vf vf_scale(vf p, vf n)
{
    return _mm512_scalef_ps(p, n);
}

SIMD_INLINE vf vf_bf16(const uint16_t *p)
{
    __m256i h = _mm256_loadu_si256((const __m256i *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

SIMD_INLINE vf vf_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Signed bytes. */
SIMD_INLINE vf vf_i8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

#else

#define VF         8
#define SIMD(name) name##_avx2

typedef __m256 vf;
typedef __m256 vf_mask;

SIMD_INLINE vf vf_set(float x)
{
    return _mm256_set1_ps(x);
}

SIMD_INLINE vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

SIMD_INLINE void vf_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x);
}

SIMD_INLINE __m256i vf_first(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n lanes, 0 <= n <= VF, zeros behind; memory behind them is not touched. */
SIMD_INLINE vf vf_load_n(const float *p, int n)
{
    return _mm256_maskload_ps(p, vf_first(n));
}

SIMD_INLINE void vf_store_n(float *p, vf x, int n)
{
    _mm256_maskstore_ps(p, vf_first(n), x);
}

SIMD_INLINE vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

SIMD_INLINE vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}

SIMD_INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

SIMD_INLINE vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

SIMD_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

SIMD_INLINE vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

SIMD_INLINE vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

SIMD_INLINE vf_mask vf_less(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}

SIMD_INLINE vf_mask vf_both(vf_mask a, vf_mask b)
{
    return _mm256_and_ps(a, b);
}

SIMD_INLINE vf vf_pick(vf_mask m, vf yes, vf no)
{
    return _mm256_blendv_ps(no, yes, m);
}

SIMD_INLINE bool vf_all_equal(vf a, vf b)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)) == 0xff;
}

SIMD_INLINE vf vf_abs(vf x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

/* The magnitude of x, which is not negative, with the sign of s. */
SIMD_INLINE vf vf_with_sign(vf x, vf s)
{
    return _mm256_or_ps(x, _mm256_and_ps(s, _mm256_set1_ps(-0.0f)));
}

/* p * 2^n, n whole and -150 to 128, p near 1; in two halves, of which the first is exact. */
SIMD_INLINE vf vf_scale(vf p, vf n)
{
    __m256i k = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(k, 1);
    __m256i one = _mm256_set1_epi32(127), rest = _mm256_sub_epi32(k, half);
    __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, one), 23);
    __m256i b = _mm256_slli_epi32(_mm256_add_epi32(rest, one), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

SIMD_INLINE vf vf_bf16(const uint16_t *p)
{
    __m128i h = _mm_loadu_si128((const __m128i *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

SIMD_INLINE vf vf_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

SIMD_INLINE vf vf_i8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

#endif

/* The first n stored weights from element i, widened. */
SIMD_INLINE vf vf_weights(const void *data, enum mll_dtype dtype, size_t i, int n)
{
    const unsigned char *bytes = data;
    if (dtype == MLL_DTYPE_F32 && n == VF)
        return vf_load((const float *)(const void *)(bytes + 4 * i));
    if (n == VF)
        return dtype == MLL_DTYPE_BF16 ? vf_bf16((const uint16_t *)(const void *)(bytes + 2 * i))
                                       : vf_f16((const uint16_t *)(const void *)(bytes + 2 * i));
    float lane[VF] = {0};
    for (int l = 0; l < n; l++)
        lane[l] = weight_at(data, dtype, i + (size_t)l);
    return vf_load(lane);
}

/* How many of the n elements from i on fit one vector. */
SIMD_INLINE int vf_count(size_t i, size_t n)
{
    return i >= n ? 0 : n - i < VF ? (int)(n - i) : VF;
}

/* The sum of 16 lanes by the tree of lanes.h. */
SIMD_INLINE float vf_tree(const vf acc[MLL_LANES / VF])
{
    float lane[MLL_LANES];
    for (int w = 0; w < MLL_LANES / VF; w++)
        vf_store(lane + w * VF, acc[w]);
    return lanes_tree(lane);
}

#endif
