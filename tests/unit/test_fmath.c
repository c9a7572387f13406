/* test_fmath.c - fmath.h against libm in double over the whole float32 range, and half.h against
 * the definition of the formats. */
#include <criterion/criterion.h>

#include "fmath.h"

/* A prime step visits every exponent, both signs, denormals, infinities and some NaNs. */
#define STEP 1009u

static double ulp_of(float x)
{
    float a = fabsf(x);
    return a < 0x1p-126f ? 0x1p-149 : (double)nextafterf(a, INFINITY) - (double)a;
}

Test(fmath, exp_is_within_one_ulp)
{
    double worst = 0;
    for (uint64_t b = 0; b <= UINT32_MAX; b += STEP) {
        float x = f32_from_bits((uint32_t)b), got = fm_exp(x);
        double want = exp((double)x);
        if (isnan(x)) {
            cr_assert(isnan(got), "exp(NaN %08x) = %g", (uint32_t)b, (double)got);
        } else if (isinf((float)want)) {
            cr_assert(isinf(got) && got > 0, "exp(%a) = %a", (double)x, (double)got);
        } else {
            double e = fabs((double)got - want) / ulp_of((float)want);
            worst = e > worst ? e : worst;
        }
    }
    cr_expect(worst <= 1.0, "exp is %g ulp off", worst);
    cr_expect(fm_exp(INFINITY) == INFINITY && fm_exp(-INFINITY) == 0.0f && fm_exp(0.0f) == 1.0f);
}

Test(fmath, erf_is_within_its_bounds)
{
    double worst = 0, worst_ulp = 0;
    for (uint64_t b = 0; b <= UINT32_MAX; b += STEP) {
        float x = f32_from_bits((uint32_t)b), got = fm_erf(x);
        double want = erf((double)x), e = fabs((double)got - want);
        if (isnan(x)) {
            cr_assert(isnan(got), "erf(NaN %08x) = %g", (uint32_t)b, (double)got);
            continue;
        }
        cr_assert(e <= 1.0, "erf(%a) = %a", (double)x, (double)got);
        worst = e > worst ? e : worst;
        if (fabsf(x) < 1.0f && e / ulp_of((float)want) > worst_ulp)
            worst_ulp = e / ulp_of((float)want);
    }
    cr_expect(worst <= 2e-7 && worst_ulp <= 3.0, "erf is %g, %g ulp off", worst, worst_ulp);
    cr_expect(fm_erf(INFINITY) == 1.0f && fm_erf(-INFINITY) == -1.0f);
    cr_expect(f32_to_bits(fm_erf(-0.0f)) == 0x80000000u);
}

Test(fmath, tanh_is_within_its_bounds)
{
    double worst = 0, worst_ulp = 0;
    for (uint64_t b = 0; b <= UINT32_MAX; b += STEP) {
        float x = f32_from_bits((uint32_t)b), got = fm_tanh(x);
        double want = tanh((double)x), e = fabs((double)got - want);
        if (isnan(x)) {
            cr_assert(isnan(got), "tanh(NaN %08x) = %g", (uint32_t)b, (double)got);
            continue;
        }
        cr_assert(e <= 1.0, "tanh(%a) = %a", (double)x, (double)got);
        worst = e > worst ? e : worst;
        if (fabsf(x) < 0.6f && e / ulp_of((float)want) > worst_ulp)
            worst_ulp = e / ulp_of((float)want);
    }
    cr_expect(worst <= 2e-7 && worst_ulp <= 2.0, "tanh is %g, %g ulp off", worst, worst_ulp);
    cr_expect(fm_tanh(INFINITY) == 1.0f && fm_tanh(-INFINITY) == -1.0f);
}

/* The value of a 16-bit float by the definition of its format. */
static double by_definition(uint32_t h, int exponent_bits, int mantissa_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = (int)(h >> mantissa_bits) & ((1 << exponent_bits) - 1);
    double mantissa = (double)(h & ((1u << mantissa_bits) - 1)) / (double)(1u << mantissa_bits);
    double sign = h >> 15 ? -1.0 : 1.0;
    if (exponent == (1 << exponent_bits) - 1)
        return mantissa != 0 ? (double)NAN : sign * (double)INFINITY;
    return sign * (exponent ? ldexp(1 + mantissa, exponent - bias) : ldexp(mantissa, 1 - bias));
}

Test(half, every_16_bit_value_widens_exactly_and_comes_back)
{
    for (uint32_t h = 0; h < 0x10000u; h++) {
        double f16 = by_definition(h, 5, 10), bf16 = by_definition(h, 8, 7);
        if (isnan(f16))
            cr_assert(isnan(f16_to_f32((uint16_t)h)));
        else
            cr_assert((double)f16_to_f32((uint16_t)h) == f16 &&
                          f16_from_f32(f16_to_f32((uint16_t)h)) == h,
                      "fp16 %04x", h);
        if (isnan(bf16))
            cr_assert(isnan(bf16_to_f32((uint16_t)h)));
        else
            cr_assert((double)bf16_to_f32((uint16_t)h) == bf16 &&
                          bf16_from_f32(bf16_to_f32((uint16_t)h)) == h,
                      "bf16 %04x", h);
        cr_assert(isnan(f16) == isnan(f16_to_f32(f16_from_f32((float)f16))));
        cr_assert(isnan(bf16) == isnan(bf16_to_f32(bf16_from_f32((float)bf16))));
    }
}

/* Between two neighbours the nearer wins, at the middle the even one. The middle and its float32
 * neighbours are the only places where rounding can go wrong. */
static void check_rounding(uint16_t (*narrow)(float), float (*widen)(uint16_t), uint16_t largest)
{
    for (uint16_t h = 0; h < largest; h++) {
        float low = widen(h), high = widen((uint16_t)(h + 1));
        float middle = (float)(((double)low + (double)high) / 2);
        cr_assert(narrow(middle) == h + (h & 1), "middle above %04x", h);
        cr_assert(narrow(nextafterf(middle, 0.0f)) == h, "below the middle above %04x", h);
        cr_assert(narrow(nextafterf(middle, INFINITY)) == h + 1, "beyond the middle above %04x", h);
        cr_assert(narrow(-middle) == ((h + (h & 1)) | 0x8000), "negative middle above %04x", h);
    }
}

Test(half, narrowing_rounds_to_nearest_even)
{
    check_rounding(f16_from_f32, f16_to_f32, 0x7bff);
    check_rounding(bf16_from_f32, bf16_to_f32, 0x7f7f);
    cr_expect(f16_from_f32(65519.0f) == 0x7bff && f16_from_f32(65520.0f) == 0x7c00);
    cr_expect(f16_from_f32(INFINITY) == 0x7c00 && f16_from_f32(-1e30f) == 0xfc00);
    cr_expect(bf16_from_f32(3.4e38f) == 0x7f80 && bf16_from_f32(-INFINITY) == 0xff80);
}
