/* matmul_avx2.c - op_matmul with AVX2 and FMA: the 16 lanes of a dot product are two registers.
 * A tile in registers is 3 rows of x by 2 rows of w: 12 registers of lanes.  See matmul.h. */
#include "matmul.h"

#include <immintrin.h>
#include <string.h>

#include "half.h"

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
    const unsigned char *at = (const unsigned char *)data + i * (dtype == MLL_DTYPE_F32 ? 4 : 2);
    if (dtype == MLL_DTYPE_F32)
        return _mm256_loadu_ps((const float *)(const void *)at);
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)at);
    if (dtype == MLL_DTYPE_F16)
        return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* `elements` < 16 elements of w, zeros behind them. */
static void load_rest(float out[LANES], const struct mat *w, size_t first, size_t elements)
{
    for (size_t i = 0; i < LANES; i++)
        out[i] = i < elements ? weight_at(w->data, w->dtype, first + i) : 0;
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
    for (size_t k = 0; k + LANES <= cols; k += LANES) {
        EACH (half, 2) {
            size_t at = k + 8 * (size_t)half;
            __m256 w0 = load_w(m->w->data, dtype, w[0] + at);
            __m256 w1 = load_w(m->w->data, dtype, w[1] + at);
            EACH (r, rows) {
                __m256 xv = _mm256_loadu_ps(x + (size_t)r * cols + at);
                l.at[r][0][half] = _mm256_fmadd_ps(xv, w0, l.at[r][0][half]);
                l.at[r][1][half] = _mm256_fmadd_ps(xv, w1, l.at[r][1][half]);
            }
        }
    }
    for (int j = 0; j < TILE_W && o + (size_t)j < (size_t)m->w->rows; j++) {
        float w_rest[LANES], bias[MATMUL_W];
        const float *b = matmul_bias(bias, m->bias, o + (size_t)j, 1);
        load_rest(w_rest, m->w, w[j] + cols - rest, rest);
        for (int r = 0; r < rows; r++) {
            add_rest(l.at[r][j], x + (size_t)(r + 1) * cols - rest, w_rest, rest);
            float sum = sum_lanes(l.at[r][j]);
            m->y[(row + (size_t)r) * (size_t)m->w->rows + o + (size_t)j] = b ? sum + b[0] : sum;
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
        if (m->w->dtype == MLL_DTYPE_BF16)
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

static void pack_w(void *panel, const struct mat *w, size_t row, int rows, size_t from, size_t k)
{
    for (size_t o = 0; o < MATMUL_W; o++) {
        size_t at = row + (o < (size_t)rows ? o : (size_t)rows - 1);
        size_t first = at * (size_t)w->cols + from;
        float *out = (float *)panel + o * LANES;
        if (w->dtype == MLL_DTYPE_BF16)
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
                float sum = sum_lanes(l.at[r][j]);
                t->y[(size_t)(r0 + r) * t->y_stride + (size_t)(o0 + j)] =
                    t->bias != NULL ? sum + t->bias[o0 + j] : sum;
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
