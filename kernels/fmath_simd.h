/* fmath_simd.h - exp and erf of fmath.h on vectors, step for step. */
#ifndef MLL_FMATH_SIMD_H
#define MLL_FMATH_SIMD_H

#include "fmath.h"
#include "simd.h"

SIMD_INLINE vf vf_exp(vf x)
{
    x = vf_min(vf_set(FM_EXP_MAX), x);
    x = vf_max(vf_set(FM_EXP_MIN), x);
    vf n = vf_sub(vf_fma(x, vf_set(FM_LOG2E), vf_set(FM_ROUND)), vf_set(FM_ROUND));
    vf r = vf_fma(n, vf_set(-FM_LN2_LO), vf_fma(n, vf_set(-FM_LN2_HI), x));
    vf p = vf_fma(vf_set(FM_EXP_5), r, vf_set(FM_EXP_4));
    p = vf_fma(p, r, vf_set(FM_EXP_3));
    p = vf_fma(p, r, vf_set(FM_EXP_2));
    p = vf_fma(p, r, vf_set(FM_EXP_1));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_fma(p, r, vf_set(1.0f));
    p = vf_fma(p, r, vf_set(1.0f));
    return vf_scale(p, n);
}

SIMD_INLINE vf vf_erf(vf x)
{
    vf a = vf_abs(x), u = vf_mul(x, x);
    vf p = vf_fma(vf_set(FM_ERF_6), u, vf_set(FM_ERF_5));
    p = vf_fma(p, u, vf_set(FM_ERF_4));
    p = vf_fma(p, u, vf_set(FM_ERF_3));
    p = vf_fma(p, u, vf_set(FM_ERF_2));
    p = vf_fma(p, u, vf_set(FM_ERF_1));
    p = vf_fma(p, u, vf_set(FM_ERF_0));
    vf near_zero = vf_mul(x, p);

    vf_mask is_far = vf_less(vf_set(1.0f), a);
    a = vf_min(vf_set(4.0f), a);
    vf q = vf_fma(vf_set(FM_ERFC_7), a, vf_set(FM_ERFC_6));
    q = vf_fma(q, a, vf_set(FM_ERFC_5));
    q = vf_fma(q, a, vf_set(FM_ERFC_4));
    q = vf_fma(q, a, vf_set(FM_ERFC_3));
    q = vf_fma(q, a, vf_set(FM_ERFC_2));
    q = vf_fma(q, a, vf_set(FM_ERFC_1));
    q = vf_fma(q, a, vf_set(FM_ERFC_0));
    vf far_out = vf_with_sign(vf_sub(vf_set(1.0f), vf_exp(q)), x);
    return vf_pick(is_far, far_out, near_zero);
}

#endif
