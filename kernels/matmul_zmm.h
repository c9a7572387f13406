/* matmul_zmm.h - the matmul of 512-bit registers, written once for both arithmetics: float32 fused
 * multiply-adds (w widened in registers) and the BF16 dot instruction.  Included by
 * matmul_avx512.c and matmul_bf16.c alone; see matmul.h.
 *
 * The 16 lanes of an output are one register. A tile of 6 rows of x by 4 rows of w holds 24 of them
 * and loads 10 vectors for 24 multiply-adds. Every function is inlined with constant `kind`, `rows`
 * and `whole`, which leaves straight loops without a branch. */
#ifndef MLL_MATMUL_ZMM_H
#define MLL_MATMUL_ZMM_H

#include <immintrin.h>

#include "matmul.h"
#include "quant.h"

#define INLINE static inline __attribute__((always_inline))
/* A loop of constant length, written out. */
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

/* How w is stored and multiplied: widened to float32, or as bf16 pairs. */
enum kind { KIND_F32, KIND_F16, KIND_BF16, KIND_I8, KIND_BF16_DOT, KIND_I8_DOT };

enum { STEP_BYTES = 64 };

struct lanes {
    __m512 at[MATMUL_X][MATMUL_W];
};

INLINE bool is_dot(const enum kind kind)
{
    return kind == KIND_BF16_DOT || kind == KIND_I8_DOT;
}

INLINE size_t step_of(const enum kind kind)
{
    return is_dot(kind) ? 32 : 16;
}

/* of one stored element of w */
INLINE size_t bytes_of(const enum kind kind)
{
    if (kind == KIND_I8 || kind == KIND_I8_DOT)
        return 1;
    return kind == KIND_F32 ? 4 : 2;
}

INLINE __mmask32 mask_of(size_t elements)
{
    return elements >= 32 ? 0xffffffffu : (1u << elements) - 1;
}

INLINE __m512 widen_i8(__m128i codes)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}

/* 32 codes as bf16, which holds them exactly. */
INLINE __m512 bf16_of_i8(__m256i codes)
{
    __m512i low = _mm512_castps_si512(widen_i8(_mm256_castsi256_si128(codes)));
    __m512i high = _mm512_castps_si512(widen_i8(_mm256_extracti128_si256(codes, 1)));
    __m256i l = _mm512_cvtepi32_epi16(_mm512_srli_epi32(low, 16));
    __m256i h = _mm512_cvtepi32_epi16(_mm512_srli_epi32(high, 16));
    return _mm512_castsi512_ps(_mm512_inserti64x4(_mm512_castsi256_si512(l), h, 1));
}

/* One step of w from element i; elements past the mask are zero and not read. */
INLINE __m512 load_w(const void *data, const enum kind kind, size_t i, const bool whole,
                     __mmask32 mask)
{
    const unsigned char *at = (const unsigned char *)data + i * bytes_of(kind);
    if (kind == KIND_F32)
        return whole ? _mm512_loadu_ps(at) : _mm512_maskz_loadu_ps((__mmask16)mask, at);
    if (kind == KIND_BF16_DOT)
        return _mm512_castsi512_ps(whole ? _mm512_loadu_si512(at)
                                         : _mm512_maskz_loadu_epi16(mask, at));
    if (kind == KIND_I8)
        return widen_i8(whole ? _mm_loadu_si128((const __m128i *)(const void *)at)
                              : _mm_maskz_loadu_epi8((__mmask16)mask, at));
    if (kind == KIND_I8_DOT)
        return bf16_of_i8(whole ? _mm256_loadu_si256((const __m256i *)(const void *)at)
                                : _mm256_maskz_loadu_epi8(mask, at));
    __m256i h = whole ? _mm256_loadu_si256((const __m256i *)(const void *)at)
                      : _mm256_maskz_loadu_epi16((__mmask16)mask, at);
    if (kind == KIND_F16)
        return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* Lanes without an element keep their bits; the BF16 dot instruction multiplies zeros there. */
INLINE __m512 multiply_add(const enum kind kind, __m512 x, __m512 w, __m512 lanes, const bool whole,
                           __mmask32 mask)
{
#ifdef __AVX512BF16__
    if (is_dot(kind))
        return _mm512_dpbf16_ps(lanes, (__m512bh)_mm512_castps_si512(x),
                                (__m512bh)_mm512_castps_si512(w));
#endif
    (void)kind;
    return whole ? _mm512_fmadd_ps(x, w, lanes)
                 : _mm512_mask3_fmadd_ps(x, w, lanes, (__mmask16)mask);
}

/* ---- lanes ----------------------------------------------------------------------------------- */

INLINE void clear_lanes(struct lanes *l, const int rows)
{
    EACH (r, rows)
        EACH (o, MATMUL_W)
            l->at[r][o] = _mm512_setzero_ps();
}

INLINE void load_lanes(struct lanes *l, const float *from, const int rows)
{
    EACH (r, rows)
        EACH (o, MATMUL_W)
            l->at[r][o] = _mm512_load_ps(from + (r * MATMUL_W + o) * MATMUL_LANES);
}

INLINE void store_lanes(float *to, const struct lanes *l, const int rows)
{
    EACH (r, rows)
        EACH (o, MATMUL_W)
            _mm512_store_ps(to + (r * MATMUL_W + o) * MATMUL_LANES, l->at[r][o]);
}

/* Adds the lanes of four outputs: 8 apart, 4, 2, 1; each sum as in dot() of ops.h. */
INLINE __m128 sum_lanes(const __m512 at[MATMUL_W])
{
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(at[0], at[1], 0x44),
                              _mm512_shuffle_f32x4(at[0], at[1], 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(at[2], at[3], 0x44),
                              _mm512_shuffle_f32x4(at[2], at[3], 0xee));
    __m512 four =
        _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    __m512 two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
    __m512 one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1));
    const __m512i heads = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(heads, one));
}

/* base NULL: nothing is added to. */
INLINE void write_sums(float *y, const float *base, size_t y_stride, const struct lanes *l,
                       const int rows, int cols, const struct matmul_ends *ends)
{
    __mmask8 mask = (__mmask8)mask_of((size_t)cols);
    EACH (r, rows) {
        __m128 sum = sum_lanes(l->at[r]);
        if (ends->scale != NULL)
            sum = _mm_mul_ps(_mm_mul_ps(sum, _mm_loadu_ps(ends->scale)), _mm_set1_ps(ends->step));
        if (ends->bias != NULL)
            sum = _mm_add_ps(sum, _mm_loadu_ps(ends->bias));
        if (base != NULL)
            sum = _mm_add_ps(_mm_maskz_loadu_ps(mask, base + (size_t)r * y_stride),
                             _mm_mul_ps(_mm_set1_ps(ends->factor), sum));
        _mm_mask_storeu_ps(y + (size_t)r * y_stride, mask, sum);
    }
}

/* ---- few rows of x: w read where it lies ----------------------------------------------------- */

struct direct_rows {
    const unsigned char *x[MATMUL_X]; /* rows of 64-byte steps */
    size_t w[MATMUL_W];               /* first elements of rows of w */
    const void *data;
};

INLINE void direct_step(struct lanes *l, const struct direct_rows *d, const enum kind kind,
                        const int rows, size_t s, const bool whole, __mmask32 mask)
{
    __m512 w[MATMUL_W];
    EACH (o, MATMUL_W)
        w[o] = load_w(d->data, kind, d->w[o] + s * step_of(kind), whole, mask);
    EACH (r, rows) {
        const unsigned char *at = d->x[r] + s * STEP_BYTES;
        __m512 x = whole || is_dot(kind) ? _mm512_loadu_ps(at)
                                         : _mm512_maskz_loadu_ps((__mmask16)mask, at);
        EACH (o, MATMUL_W)
            l->at[r][o] = multiply_add(kind, x, w[o], l->at[r][o], whole, mask);
    }
}

/* The sums of rows [row, row + rows) of x by group g of w. */
INLINE void write_group(const struct matmul *m, size_t row, const int rows, size_t g,
                        const struct lanes *l)
{
    const size_t w_first = g * MATMUL_W, w_left = (size_t)m->w->rows - w_first;
    const int w_rows = w_left < MATMUL_W ? (int)w_left : MATMUL_W;
    struct matmul_ends ends;
    matmul_ends(&ends, m, w_first, w_rows);
    const size_t at = row * (size_t)m->w->rows + w_first;
    write_sums(m->y + at, matmul_base(m, at), (size_t)m->w->rows, l, rows, w_rows, &ends);
}

/* Rows [row, row + rows) of x by group g of w; a group that passes the last row of w repeats it.
 * Meanwhile the next group is fetched, line by line: memory sees one ascending stream, not four. */
INLINE void direct_tile(const struct matmul *m, size_t row, const int rows, size_t g,
                        const enum kind kind)
{
    const size_t cols = (size_t)m->w->cols, w_first = g * MATMUL_W;
    const size_t w_left = (size_t)m->w->rows - w_first;
    const size_t steps = cols / step_of(kind), rest = cols % step_of(kind);
    const int lines = MATMUL_W * (int)(step_of(kind) * bytes_of(kind)) / 64;
    const char *ahead = (const char *)m->w->data + (w_first + MATMUL_W) * cols * bytes_of(kind);
    struct direct_rows d = {.data = m->w->data};
    struct lanes l;
    clear_lanes(&l, rows);
    EACH (o, MATMUL_W)
        d.w[o] = (w_first + ((size_t)o < w_left ? (size_t)o : w_left - 1)) * cols;
    EACH (r, rows)
        d.x[r] = m->x_steps + (row + (size_t)r) * m->x_stride;

    for (size_t s = 0; s < steps; s++) {
        EACH (line, lines)
            _mm_prefetch(ahead + (s * (size_t)lines + (size_t)line) * 64, _MM_HINT_T0);
        direct_step(&l, &d, kind, rows, s, true, 0);
    }
    if (rest > 0)
        direct_step(&l, &d, kind, rows, steps, false, mask_of(rest));

    write_group(m, row, rows, g, &l);
}

INLINE void direct_group(const struct matmul *m, size_t g, const enum kind kind)
{
    size_t n = (size_t)m->n, row = 0;
    for (; row + 6 <= n; row += 6)
        direct_tile(m, row, 6, g, kind);
    switch (n - row) {
    case 1:
        direct_tile(m, row, 1, g, kind);
        break;
    case 2:
        direct_tile(m, row, 2, g, kind);
        break;
    case 3:
        direct_tile(m, row, 3, g, kind);
        break;
    case 4:
        direct_tile(m, row, 4, g, kind);
        break;
    case 5:
        direct_tile(m, row, 5, g, kind);
        break;
    }
}

/* ---- many rows: packed panels ---------------------------------------------------------------- */

/* Fetches the same columns MATMUL_W rows further on, the panel that is packed next: pieces of rows
 * are too short for the hardware to foresee. */
INLINE void pack_w_row(unsigned char *out, const struct mat *w, const enum kind kind, size_t first,
                       size_t k)
{
    const size_t step = step_of(kind), bytes = bytes_of(kind);
    const char *next = (const char *)w->data + (first + MATMUL_W * (size_t)w->cols) * bytes;
    size_t i = 0;
    for (; i + step <= k; i += step, out += MATMUL_W * STEP_BYTES) {
        _mm_prefetch(next + i * bytes, _MM_HINT_T0);
        _mm512_store_ps(out, load_w(w->data, kind, first + i, true, 0));
    }
    if (i < k)
        _mm512_store_ps(out, load_w(w->data, kind, first + i, false, mask_of(k - i)));
}

INLINE void pack_w_rows(void *panel, const struct mat *w, const enum kind kind, size_t row,
                        int rows, size_t from, size_t k)
{
    for (size_t o = 0; o < MATMUL_W; o++) {
        size_t at = row + (o < (size_t)rows ? o : (size_t)rows - 1);
        pack_w_row((unsigned char *)panel + o * STEP_BYTES, w, kind, at * (size_t)w->cols + from,
                   k);
    }
}

INLINE void panel_tile(const struct matmul_tile *t, const enum kind kind, const int rows)
{
    const unsigned char *x = t->x, *w = t->w;
    const size_t whole = t->tail > 0 ? t->steps - 1 : t->steps;
    struct lanes l;
    if (t->first)
        clear_lanes(&l, rows);
    else
        load_lanes(&l, t->acc, rows);
    for (size_t s = 0; s < whole; s++, x += rows * STEP_BYTES, w += MATMUL_W * STEP_BYTES) {
        __m512 wv[MATMUL_W];
        EACH (o, MATMUL_W)
            wv[o] = _mm512_load_ps(w + o * STEP_BYTES);
        EACH (r, rows) {
            __m512 xv = _mm512_load_ps(x + r * STEP_BYTES);
            EACH (o, MATMUL_W)
                l.at[r][o] = multiply_add(kind, xv, wv[o], l.at[r][o], true, 0);
        }
    }
    if (t->tail > 0) {
        __mmask32 mask = mask_of((size_t)t->tail);
        EACH (r, rows)
            EACH (o, MATMUL_W)
                l.at[r][o] =
                    multiply_add(kind, _mm512_load_ps(x + r * STEP_BYTES),
                                 _mm512_load_ps(w + o * STEP_BYTES), l.at[r][o], false, mask);
    }
    if (t->last)
        write_sums(t->y, t->base, t->y_stride, &l, rows, t->cols, t->ends);
    else
        store_lanes(t->acc, &l, rows);
}

INLINE void panel_tile_any(const struct matmul_tile *t, const enum kind kind)
{
    switch (t->rows) {
    case 1:
        panel_tile(t, kind, 1);
        break;
    case 2:
        panel_tile(t, kind, 2);
        break;
    case 3:
        panel_tile(t, kind, 3);
        break;
    case 4:
        panel_tile(t, kind, 4);
        break;
    case 5:
        panel_tile(t, kind, 5);
        break;
    default:
        panel_tile(t, kind, 6);
        break;
    }
}

#endif
