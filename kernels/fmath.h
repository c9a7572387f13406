/* fmath.h - exp, erf and tanh in float32 with the same bits on every CPU form.
 *
 * Plain polynomials written with explicit fmaf; fmath_avx2.h and fmath_avx512.h repeat the steps on
 * vectors, one for one. (libm differs between versions and has no vector twin.) Coefficients are
 * minimax fits rounded to float32. Infinities and NaN come out as libm gives them.
 *   fm_exp   at most 1 ulp off, denormal results included; e^x = 2^n e^r, |r| <= ln(2) / 2
 *   fm_erf   at most 2e-7 off absolutely, 3 ulp for |x| < 1
 *   fm_tanh  at most 2e-7 off absolutely, 2 ulp for |x| < 0.6 */
#ifndef MLL_FMATH_H
#define MLL_FMATH_H

#ifndef __CUDACC_RTC__
#include <math.h>
#endif

#include "half.h"

#define FM_LOG2E   0x1.715476p+0f
#define FM_LN2_HI  0x1.62e400p-1f /* 15 bits: n times it is exact */
#define FM_LN2_LO  0x1.7f7d1cp-20f
#define FM_ROUND   0x1.8p+23f /* adding it leaves the nearest integer in the low bits */
#define FM_EXP_MAX 89.0f
#define FM_EXP_MIN -104.0f

/* (e^r - 1 - r) / r^2, highest power first */
#define FM_EXP_5 0x1.9f085ap-13f
#define FM_EXP_4 0x1.6d8d52p-10f
#define FM_EXP_3 0x1.111272p-7f
#define FM_EXP_2 0x1.55548ep-5f
#define FM_EXP_1 0x1.555554p-3f

/* erf(x) / x in x^2 for |x| <= 1; log(erfc(a)) in a for 1 < a <= 4, beyond which erf rounds to 1 */
#define FM_ERF_6       0x1.496a30p-14f
#define FM_ERF_5       -0x1.a3f700p-11f
#define FM_ERF_4       0x1.5405b2p-8f
#define FM_ERF_3       -0x1.b7f90ep-6f
#define FM_ERF_2       0x1.ce2cf8p-4f
#define FM_ERF_1       -0x1.81273ep-2f
#define FM_ERF_0       0x1.20dd74p+0f
#define FM_ERFC_7      -0x1.6bd66ap-16f
#define FM_ERFC_6      0x1.cec4ecp-12f
#define FM_ERFC_5      -0x1.138c68p-8f
#define FM_ERFC_4      0x1.9d02cap-6f
#define FM_ERFC_3      -0x1.bc1500p-4f
#define FM_ERFC_2      -0x1.44356ap-1f
#define FM_ERFC_1      -0x1.212c0cp+0f
#define FM_ERFC_0      0x1.8a52cap-13f

#define GELU_SQRT_HALF 0x1.6a09e6p-1f

/* A product that no compiler fuses with a sum behind it. */
MLL_HD static inline float fm_mul(float x, float y)
{
#ifdef __CUDA_ARCH__
    return __fmul_rn(x, y);
#else
    return x * y;
#endif
}

MLL_HD static inline float fm_exp(float x)
{
    /* written so that NaN stays: MINPS and MAXPS give their second operand then */
    x = FM_EXP_MAX < x ? FM_EXP_MAX : x;
    x = FM_EXP_MIN > x ? FM_EXP_MIN : x;
    float t = fmaf(x, FM_LOG2E, FM_ROUND);
    float n = t - FM_ROUND;
    float r = fmaf(n, -FM_LN2_LO, fmaf(n, -FM_LN2_HI, x));
    float p = fmaf(FM_EXP_5, r, FM_EXP_4);
    p = fmaf(p, r, FM_EXP_3);
    p = fmaf(p, r, FM_EXP_2);
    p = fmaf(p, r, FM_EXP_1);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    /* 2^n in two halves, for n reaches from -150 to 128; the first product is exact */
    uint32_t k = f32_to_bits(t) - f32_to_bits(FM_ROUND) + 256u;
    uint32_t half = k >> 1;
    return fm_mul(p * f32_from_bits((half - 1u) << 23), f32_from_bits((k - half - 1u) << 23));
}

MLL_HD static inline float fm_erf(float x)
{
    float a = fabsf(x);
    float u = x * x;
    float p = fmaf(FM_ERF_6, u, FM_ERF_5);
    p = fmaf(p, u, FM_ERF_4);
    p = fmaf(p, u, FM_ERF_3);
    p = fmaf(p, u, FM_ERF_2);
    p = fmaf(p, u, FM_ERF_1);
    p = fmaf(p, u, FM_ERF_0);
    float near_zero = fm_mul(x, p);

    a = 4.0f < a ? 4.0f : a;
    float q = fmaf(FM_ERFC_7, a, FM_ERFC_6);
    q = fmaf(q, a, FM_ERFC_5);
    q = fmaf(q, a, FM_ERFC_4);
    q = fmaf(q, a, FM_ERFC_3);
    q = fmaf(q, a, FM_ERFC_2);
    q = fmaf(q, a, FM_ERFC_1);
    q = fmaf(q, a, FM_ERFC_0);
    float far_out = copysignf(1.0f - fm_exp(q), x);
    return a > 1.0f ? far_out : near_zero;
}

/* x / 2 (1 + erf(x / sqrt 2)) */
MLL_HD static inline float fm_gelu(float x)
{
    return 0.5f * x * (1.0f + fm_erf(fm_mul(x, GELU_SQRT_HALF)));
}

MLL_HD static inline float fm_tanh(float x)
{
    float a = fabsf(x);
    if (a > 0.6f)
        return copysignf(1.0f - 2.0f / (fm_exp(a + a) + 1.0f), x);
    float u = x * x;
    float p = fmaf(0x1.246e16p-9f, u, -0x1.0ee562p-7f);
    p = fmaf(p, u, 0x1.6418d8p-6f);
    p = fmaf(p, u, -0x1.b9fa8ap-5f);
    p = fmaf(p, u, 0x1.11109ep-3f);
    p = fmaf(p, u, -0x1.555554p-2f);
    return fmaf(x * u, p, x);
}

#endif
