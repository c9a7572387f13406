/* shim_half.h - the part of cuda_fp16.h that the kernels use, through F16C.
 *
 * Every function rounds once, to nearest even. Sums and products of two halves are exact or rounded
 * innocuously in float32 (24 bits >= 2 * 11 + 2); a fused multiply-add goes through double, where
 * it is exact as far as a half's rounding can tell, and a float32 rounded to odd. */
#ifndef SHIM_HALF_H
#define SHIM_HALF_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

struct __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};

static inline float __half2float(__half h)
{
    return _cvtsh_ss(h.bits);
}
static inline __half __float2half_rn(float x)
{
    return __half{_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)};
}
static inline __half __float2half(float x)
{
    return __float2half_rn(x);
}
static inline __half __ushort_as_half(unsigned short bits)
{
    return __half{bits};
}
static inline unsigned short __half_as_ushort(__half h)
{
    return h.bits;
}

/* x rounded to half once: the float32 on the way keeps in its last bit whether it was exact. */
static inline __half shim_half_from_double(double x)
{
    float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((double)f != x && isfinite(f) && (bits & 1u) == 0) {
        bits = fabs((double)f) < fabs(x) ? bits + 1 : bits - 1;
        memcpy(&f, &bits, sizeof f);
    }
    return __float2half_rn(f);
}

static inline __half __hadd(__half a, __half b)
{
    return __float2half_rn(__half2float(a) + __half2float(b));
}
static inline __half __hsub(__half a, __half b)
{
    return __float2half_rn(__half2float(a) - __half2float(b));
}
static inline __half __hmul(__half a, __half b)
{
    return __float2half_rn(__half2float(a) * __half2float(b));
}
static inline __half __hfma(__half a, __half b, __half c)
{
    return shim_half_from_double((double)__half2float(a) * (double)__half2float(b) +
                                 (double)__half2float(c));
}
static inline __half __hneg(__half a)
{
    return __half{(uint16_t)(a.bits ^ 0x8000u)};
}
static inline __half __habs(__half a)
{
    return __half{(uint16_t)(a.bits & 0x7fffu)};
}
/* A NaN loses against a number. */
static inline __half __hmax(__half a, __half b)
{
    return __float2half_rn(fmaxf(__half2float(a), __half2float(b)));
}
static inline __half __hmin(__half a, __half b)
{
    return __float2half_rn(fminf(__half2float(a), __half2float(b)));
}
static inline bool __hgt(__half a, __half b)
{
    return __half2float(a) > __half2float(b);
}
static inline bool __hlt(__half a, __half b)
{
    return __half2float(a) < __half2float(b);
}
static inline bool __heq(__half a, __half b)
{
    return __half2float(a) == __half2float(b);
}
static inline bool __hisnan(__half a)
{
    return (a.bits & 0x7fffu) > 0x7c00u;
}
static inline int __hisinf(__half a)
{
    return (a.bits & 0x7fffu) == 0x7c00u ? (a.bits & 0x8000u ? -1 : 1) : 0;
}

static inline __half2 __halves2half2(__half a, __half b)
{
    return __half2{a, b};
}
static inline __half2 make_half2(__half a, __half b)
{
    return __half2{a, b};
}
static inline __half2 __half2half2(__half a)
{
    return __half2{a, a};
}
static inline __half2 __floats2half2_rn(float a, float b)
{
    return __half2{__float2half_rn(a), __float2half_rn(b)};
}
static inline __half2 __float2half2_rn(float a)
{
    return __half2half2(__float2half_rn(a));
}
static inline __half2 __float22half2_rn(float2 a)
{
    return __floats2half2_rn(a.x, a.y);
}
static inline float2 __half22float2(__half2 a)
{
    return float2{__half2float(a.x), __half2float(a.y)};
}
static inline __half __low2half(__half2 a)
{
    return a.x;
}
static inline __half __high2half(__half2 a)
{
    return a.y;
}
static inline float __low2float(__half2 a)
{
    return __half2float(a.x);
}
static inline float __high2float(__half2 a)
{
    return __half2float(a.y);
}
static inline __half2 __lows2half2(__half2 a, __half2 b)
{
    return __half2{a.x, b.x};
}
static inline __half2 __highs2half2(__half2 a, __half2 b)
{
    return __half2{a.y, b.y};
}
static inline __half2 __hadd2(__half2 a, __half2 b)
{
    return __half2{__hadd(a.x, b.x), __hadd(a.y, b.y)};
}
static inline __half2 __hsub2(__half2 a, __half2 b)
{
    return __half2{__hsub(a.x, b.x), __hsub(a.y, b.y)};
}
static inline __half2 __hmul2(__half2 a, __half2 b)
{
    return __half2{__hmul(a.x, b.x), __hmul(a.y, b.y)};
}
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
    return __half2{__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
static inline __half2 __hneg2(__half2 a)
{
    return __half2{__hneg(a.x), __hneg(a.y)};
}
static inline __half2 __habs2(__half2 a)
{
    return __half2{__habs(a.x), __habs(a.y)};
}
static inline __half2 __hmax2(__half2 a, __half2 b)
{
    return __half2{__hmax(a.x, b.x), __hmax(a.y, b.y)};
}
static inline __half2 __hmin2(__half2 a, __half2 b)
{
    return __half2{__hmin(a.x, b.x), __hmin(a.y, b.y)};
}

#endif
