/* matmul_avx512.c - op_matmul in float32 with AVX-512.  See matmul_zmm.h. */
#include "matmul_q4_zmm.h"

static enum kind kind_of(enum mll_dtype dtype)
{
    if (dtype == MLL_DTYPE_BF16)
        return KIND_BF16;
    if (dtype == MLL_DTYPE_I8)
        return KIND_I8;
    return dtype == MLL_DTYPE_F16 ? KIND_F16 : KIND_F32;
}

static void direct(const struct matmul *m, size_t begin, size_t end)
{
    if (m->w->dtype == MLL_DTYPE_Q4) {
        q4_groups(m, begin, end, Q4_F32_SPLIT);
        return;
    }
    for (size_t g = begin; g < end; g++) {
        switch (kind_of(m->w->dtype)) {
        case KIND_BF16:
            direct_group(m, g, KIND_BF16);
            break;
        case KIND_F16:
            direct_group(m, g, KIND_F16);
            break;
        case KIND_I8:
            direct_group(m, g, KIND_I8);
            break;
        default:
            direct_group(m, g, KIND_F32);
            break;
        }
    }
}

static void pack_x(void *panel, const float *x, size_t stride, int rows, size_t k)
{
    for (int r = 0; r < rows; r++) {
        const float *from = x + (size_t)r * stride;
        float *out = (float *)panel + r * 16;
        size_t i = 0;
        for (; i + 16 <= k; i += 16, out += rows * 16)
            _mm512_store_ps(out, _mm512_loadu_ps(from + i));
        if (i < k)
            _mm512_store_ps(out, _mm512_maskz_loadu_ps((__mmask16)mask_of(k - i), from + i));
    }
}

static void order_x(float *out, const float *x, size_t n)
{
    q4_split_x(out, x, n);
}

static void pack_w(void *panel, const struct mat *w, size_t row, int rows, size_t from, size_t k)
{
    if (w->dtype == MLL_DTYPE_Q4) {
        q4_pack_rows(panel, w, Q4_F32, row, rows, from, k);
        return;
    }
    switch (kind_of(w->dtype)) {
    case KIND_BF16:
        pack_w_rows(panel, w, KIND_BF16, row, rows, from, k);
        break;
    case KIND_F16:
        pack_w_rows(panel, w, KIND_F16, row, rows, from, k);
        break;
    case KIND_I8:
        pack_w_rows(panel, w, KIND_I8, row, rows, from, k);
        break;
    default:
        pack_w_rows(panel, w, KIND_F32, row, rows, from, k);
        break;
    }
}

static void tile(const struct matmul_tile *t)
{
    panel_tile_any(t, KIND_F32);
}

const struct matmul_form matmul_avx512 = {.step = 16,
                                          .direct = direct,
                                          .order_q4_x = order_x,
                                          .pack_x = pack_x,
                                          .pack_w = pack_w,
                                          .tile = tile};
