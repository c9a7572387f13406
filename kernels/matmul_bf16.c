/* matmul_bf16.c - op_matmul of bf16, 8-bit and 4-bit weights with the BF16 dot instruction
 * (--compute bf16).
 *
 * x is rounded to bf16, to nearest, ties to even (denormals to zero), and so are 4-bit weights,
 * value times absmax; 8-bit codes are exact. Elements 2 j and 2 j + 1 go to lane j mod 16 by
 * VDPBF16PS, in ascending j, by 4-bit weights each 32 in the order of q4_word_order; elements
 * behind the last column count as zeros; the tree adds the lanes as in float32. The order depends
 * on nothing but the columns, so that rows alone or beside others, and any thread count, give the
 * same bits. See matmul_zmm.h. */
#include "matmul_q4_zmm.h"

static void direct(const struct matmul *m, size_t begin, size_t end)
{
    if (m->w->dtype == MLL_DTYPE_Q4)
        q4_groups(m, begin, end, Q4_DOT);
    else if (m->w->dtype == MLL_DTYPE_I8)
        for (size_t g = begin; g < end; g++)
            direct_group(m, g, KIND_I8_DOT);
    else
        for (size_t g = begin; g < end; g++)
            direct_group(m, g, KIND_BF16_DOT);
}

static __m512i round_step(const float *x, size_t elements)
{
    __mmask32 mask = mask_of(elements);
    __m512 low = _mm512_maskz_loadu_ps((__mmask16)mask, x);
    __m512 high = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

INLINE void pack_rows(void *panel, const float *x, size_t stride, int rows, size_t k, const bool q4)
{
    const __m512i order = q4_word_order();
    for (int r = 0; r < rows; r++) {
        const float *from = x + (size_t)r * stride;
        unsigned char *out = (unsigned char *)panel + r * STEP_BYTES;
        for (size_t i = 0; i < k; i += 32, out += rows * STEP_BYTES) {
            __m512i step = round_step(from + i, k - i);
            _mm512_store_si512(out, q4 ? _mm512_permutexvar_epi16(order, step) : step);
        }
    }
}

static void pack_x(void *panel, const float *x, size_t stride, int rows, size_t k)
{
    pack_rows(panel, x, stride, rows, k, false);
}

static void pack_x_q4(void *panel, const float *x, size_t stride, int rows, size_t k)
{
    pack_rows(panel, x, stride, rows, k, true);
}

static void pack_w(void *panel, const struct mat *w, size_t row, int rows, size_t from, size_t k)
{
    if (w->dtype == MLL_DTYPE_Q4)
        q4_pack_rows(panel, w, Q4_DOT, row, rows, from, k);
    else if (w->dtype == MLL_DTYPE_I8)
        pack_w_rows(panel, w, KIND_I8_DOT, row, rows, from, k);
    else
        pack_w_rows(panel, w, KIND_BF16_DOT, row, rows, from, k);
}

static void tile(const struct matmul_tile *t)
{
    panel_tile_any(t, KIND_BF16_DOT);
}

const struct matmul_form matmul_avx512_bf16 = {
    .step = 32, .direct = direct, .pack_x = pack_x, .pack_w = pack_w, .tile = tile};
const struct matmul_form matmul_avx512_bf16_q4 = {
    .step = 32, .direct = direct, .pack_x = pack_x_q4, .pack_w = pack_w, .tile = tile};
