/* matmul_avx2.c - op_matmul with AVX2 and FMA: the 16 lanes of a dot product are two registers.
 * A tile in registers is 3 rows of x by 2 rows of w: 12 registers of lanes.  See matmul.h. */
#include "matmul.h"

#include <immintrin.h>
#include <string.h>

#include "quant.h"

#define INLINE static inline __attribute__((always_inline))
/* A loop of constant length, written out. */
#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++)

enum { TILE_X = 3, TILE_W = 2, LANES = MATMUL_LANES };

struct lanes {
    __m256 at[TILE_X][TILE_W][2]; /* lanes 0-7 and 8-15 */
};

/* ---- weights --------------------------------------------------------------------------------- */

/* 8 elements from element i. */
INLINE __m256 load_w(const void *data, const enum mll_dtype dtype, size_t i)
{
    const size_t bytes = dtype == MLL_DTYPE_F32 ? 4 : dtype == MLL_DTYPE_I8 ? 1 : 2;
    const unsigned char *at = (const unsigned char *)data + i * bytes;
    if (dtype == MLL_DTYPE_F32)
        return _mm256_loadu_ps((const float *)(const void *)at);
    if (dtype == MLL_DTYPE_I8)
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(at)));
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)at);
    if (dtype == MLL_DTYPE_F16)
        return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* `elements` < 16 elements of w, zeros behind them. */
static void load_rest(float out[LANES], const struct mat *w, size_t first, size_t elements)
{
    for (size_t i = 0; i < LANES; i++)
        out[i] = i < elements ? quant_unscaled(w, first + i) : 0;
}

/* The 16 values of 4-bit codes times a block's absmax, rounded as the weight asks: 16 products
 * serve the 64 weights of a chunk. */
struct q4_table {
    __m256 half[2]; /* codes 0-7 and 8-15 */
};

INLINE struct q4_table q4_table(const struct mat_blocks *b, size_t first)
{
    const __m256 absmax = _mm256_set1_ps(quant_absmax(b, first / (size_t)b->block));
    struct q4_table t;
    EACH (i, 2) {
        t.half[i] = _mm256_mul_ps(_mm256_loadu_ps(b->values + 8 * i), absmax);
        if (b->rounded == MLL_DTYPE_F16)
            t.half[i] = _mm256_cvtph_ps(
                _mm256_cvtps_ph(t.half[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        if (b->rounded != MLL_DTYPE_BF16)
            continue;
        __m256i bits = _mm256_castps_si256(t.half[i]);
        __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        t.half[i] = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(-0x10000)));
    }
    return t;
}

/* 8 weights from element i, which starts a byte. A permute reads the lowest three bits of an index,
 * the blend the fourth. */
INLINE __m256 q4_weights(const struct q4_table *t, const void *data, size_t i)
{
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                            2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    int bytes;
    memcpy(&bytes, (const unsigned char *)data + i / 2, sizeof bytes);
    /* the first of a pair is the high half of its byte */
    __m256i index = _mm256_srlv_epi32(_mm256_shuffle_epi8(_mm256_set1_epi32(bytes), spread),
                                      _mm256_set1_epi64x(4));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(t->half[0], index),
                            _mm256_permutevar8x32_ps(t->half[1], index),
                            _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}

/* ---- lanes ----------------------------------------------------------------------------------- */

/* Adds lanes 8 apart, 4, 2, 1, as dot() of ops.h does. */
INLINE float sum_lanes(const __m256 at[2])
{
    __m256 eight = _mm256_add_ps(at[0], at[1]);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

/* base NULL: nothing is added to. */
INLINE float end_sum(const struct matmul_ends *ends, int i, float sum, const float *base)
{
    if (ends->scale != NULL)
        sum = sum * ends->scale[i] * ends->step;
    if (ends->bias != NULL)
        sum = sum + ends->bias[i];
    return base != NULL ? *base + ends->factor * sum : sum;
}

/* The elements of an unfinished step, lane by lane: lanes without an element keep their bits. */
static void add_rest(__m256 at[2], const float *x, const float *w, size_t elements)
{
    float lane[LANES];
    _mm256_storeu_ps(lane, at[0]);
    _mm256_storeu_ps(lane + 8, at[1]);
    for (size_t i = 0; i < elements; i++)
        lane[i] = __builtin_fmaf(x[i], w[i], lane[i]);
    at[0] = _mm256_loadu_ps(lane);
    at[1] = _mm256_loadu_ps(lane + 8);
}

/* ---- few rows: w read where it lies ---------------------------------------------------------- */

INLINE void direct_tile(const struct matmul *m, size_t row, const int rows, size_t o,
                        const enum mll_dtype dtype)
{
    const size_t cols = (size_t)m->w->cols, rest = cols % LANES;
    const size_t w[TILE_W] = {o * cols, (o + 1 < (size_t)m->w->rows ? o + 1 : o) * cols};
    const float *x = m->x + row * cols;
    struct lanes l;
    EACH (r, rows)
        EACH (j, TILE_W)
            l.at[r][j][0] = l.at[r][j][1] = _mm256_setzero_ps();
    struct q4_table t[TILE_W] = {0};
    for (size_t k = 0; k + LANES <= cols; k += LANES) {
        if (dtype == MLL_DTYPE_Q4 && k % Q4_CHUNK == 0)
            EACH (j, TILE_W)
                t[j] = q4_table(m->w->blocks, w[j] + k);
        EACH (half, 2) {
            size_t at = k + 8 * (size_t)half;
            __m256 w0 = dtype == MLL_DTYPE_Q4 ? q4_weights(&t[0], m->w->data, w[0] + at)
                                              : load_w(m->w->data, dtype, w[0] + at);
            __m256 w1 = dtype == MLL_DTYPE_Q4 ? q4_weights(&t[1], m->w->data, w[1] + at)
                                              : load_w(m->w->data, dtype, w[1] + at);
            EACH (r, rows) {
                __m256 xv = _mm256_loadu_ps(x + (size_t)r * cols + at);
                l.at[r][0][half] = _mm256_fmadd_ps(xv, w0, l.at[r][0][half]);
                l.at[r][1][half] = _mm256_fmadd_ps(xv, w1, l.at[r][1][half]);
            }
        }
    }
    for (int j = 0; j < TILE_W && o + (size_t)j < (size_t)m->w->rows; j++) {
        struct matmul_ends ends;
        float w_rest[LANES];
        matmul_ends(&ends, m, o + (size_t)j, 1);
        load_rest(w_rest, m->w, w[j] + cols - rest, rest);
        for (int r = 0; r < rows; r++) {
            add_rest(l.at[r][j], x + (size_t)(r + 1) * cols - rest, w_rest, rest);
            size_t at = (row + (size_t)r) * (size_t)m->w->rows + o + (size_t)j;
            m->y[at] = end_sum(&ends, 0, sum_lanes(l.at[r][j]), matmul_base(m, at));
        }
    }
}

INLINE void direct_pair(const struct matmul *m, size_t o, const enum mll_dtype dtype)
{
    size_t n = (size_t)m->n, row = 0;
    for (; row + TILE_X <= n; row += TILE_X)
        direct_tile(m, row, TILE_X, o, dtype);
    if (n - row == 2)
        direct_tile(m, row, 2, o, dtype);
    else if (n - row == 1)
        direct_tile(m, row, 1, o, dtype);
}

static void direct(const struct matmul *m, size_t begin, size_t end)
{
    size_t rows = (size_t)m->w->rows, last = end * MATMUL_W < rows ? end * MATMUL_W : rows;
    for (size_t o = begin * MATMUL_W; o < last; o += TILE_W) {
        if (m->w->dtype == MLL_DTYPE_Q4)
            direct_pair(m, o, MLL_DTYPE_Q4);
        else if (m->w->dtype == MLL_DTYPE_I8)
            direct_pair(m, o, MLL_DTYPE_I8);
        else if (m->w->dtype == MLL_DTYPE_BF16)
            direct_pair(m, o, MLL_DTYPE_BF16);
        else if (m->w->dtype == MLL_DTYPE_F16)
            direct_pair(m, o, MLL_DTYPE_F16);
        else
            direct_pair(m, o, MLL_DTYPE_F32);
    }
}

/* ---- many rows: packed panels ---------------------------------------------------------------- */

static void pack_x(void *panel, const float *x, size_t stride, int rows, size_t k)
{
    for (int r = 0; r < rows; r++) {
        const float *from = x + (size_t)r * stride;
        float *out = (float *)panel + r * LANES;
        size_t i = 0;
        for (; i + LANES <= k; i += LANES, out += rows * LANES)
            memcpy(out, from + i, LANES * sizeof *out);
        if (i < k) {
            memset(out, 0, LANES * sizeof *out);
            memcpy(out, from + i, (k - i) * sizeof *out);
        }
    }
}

INLINE void pack_w_row(float *out, const struct mat *w, const enum mll_dtype dtype, size_t first,
                       size_t k)
{
    size_t i = 0;
    for (; i + LANES <= k; i += LANES, out += MATMUL_W * LANES) {
        _mm256_storeu_ps(out, load_w(w->data, dtype, first + i));
        _mm256_storeu_ps(out + 8, load_w(w->data, dtype, first + i + 8));
    }
    if (i < k)
        load_rest(out, w, first + i, k - i);
}

/* `from` and k are whole steps, since the columns are whole chunks. */
static void pack_q4_row(float *out, const struct mat *w, size_t first, size_t from, size_t k)
{
    struct q4_table t = {0};
    for (size_t i = 0; i < k; i += LANES, out += MATMUL_W * LANES) {
        if (i == 0 || (from + i) % Q4_CHUNK == 0)
            t = q4_table(w->blocks, first + i);
        _mm256_storeu_ps(out, q4_weights(&t, w->data, first + i));
        _mm256_storeu_ps(out + 8, q4_weights(&t, w->data, first + i + 8));
    }
}

static void pack_w(void *panel, const struct mat *w, size_t row, int rows, size_t from, size_t k)
{
    for (size_t o = 0; o < MATMUL_W; o++) {
        size_t at = row + (o < (size_t)rows ? o : (size_t)rows - 1);
        size_t first = at * (size_t)w->cols + from;
        float *out = (float *)panel + o * LANES;
        if (w->dtype == MLL_DTYPE_Q4)
            pack_q4_row(out, w, first, from, k);
        else if (w->dtype == MLL_DTYPE_I8)
            pack_w_row(out, w, MLL_DTYPE_I8, first, k);
        else if (w->dtype == MLL_DTYPE_BF16)
            pack_w_row(out, w, MLL_DTYPE_BF16, first, k);
        else if (w->dtype == MLL_DTYPE_F16)
            pack_w_row(out, w, MLL_DTYPE_F16, first, k);
        else
            pack_w_row(out, w, MLL_DTYPE_F32, first, k);
    }
}

/* The part of a tile at rows [r0, r0 + rows) of x and [o0, o0 + 2) of w. */
INLINE void part_of_tile(const struct matmul_tile *t, int r0, const int rows, int o0)
{
    const float *x = (const float *)t->x + r0 * LANES, *w = (const float *)t->w + o0 * LANES;
    const size_t whole = t->tail > 0 ? t->steps - 1 : t->steps;
    struct lanes l;
    EACH (r, rows)
        EACH (j, TILE_W)
            EACH (half, 2) {
                const float *acc = t->acc + ((r0 + r) * MATMUL_W + o0 + j) * LANES + 8 * half;
                l.at[r][j][half] = t->first ? _mm256_setzero_ps() : _mm256_load_ps(acc);
            }
    for (size_t s = 0; s < whole; s++, x += t->rows * LANES, w += MATMUL_W * LANES) {
        EACH (half, 2) {
            __m256 w0 = _mm256_load_ps(w + 8 * half), w1 = _mm256_load_ps(w + LANES + 8 * half);
            EACH (r, rows) {
                __m256 xv = _mm256_load_ps(x + r * LANES + 8 * half);
                l.at[r][0][half] = _mm256_fmadd_ps(xv, w0, l.at[r][0][half]);
                l.at[r][1][half] = _mm256_fmadd_ps(xv, w1, l.at[r][1][half]);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int j = 0; j < TILE_W; j++) {
            float *acc = t->acc + ((r0 + r) * MATMUL_W + o0 + j) * LANES;
            if (t->tail > 0)
                add_rest(l.at[r][j], x + r * LANES, w + j * LANES, (size_t)t->tail);
            if (!t->last) {
                _mm256_store_ps(acc, l.at[r][j][0]);
                _mm256_store_ps(acc + 8, l.at[r][j][1]);
            } else if (o0 + j < t->cols) {
                size_t at = (size_t)(r0 + r) * t->y_stride + (size_t)(o0 + j);
                t->y[at] = end_sum(t->ends, o0 + j, sum_lanes(l.at[r][j]),
                                   t->base != NULL ? t->base + at : NULL);
            }
        }
    }
}

static void tile(const struct matmul_tile *t)
{
    for (int o = 0; o < t->cols; o += TILE_W) {
        int r = 0;
        for (; r + TILE_X <= t->rows; r += TILE_X)
            part_of_tile(t, r, TILE_X, o);
        if (t->rows - r == 2)
            part_of_tile(t, r, 2, o);
        else if (t->rows - r == 1)
            part_of_tile(t, r, 1, o);
    }
}

const struct matmul_form matmul_avx2 = {
    .step = 16, .direct = direct, .pack_x = pack_x, .pack_w = pack_w, .tile = tile};
