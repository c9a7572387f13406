/* matmul_vnni.c - sums of int8 products by VPDPBUSD, AVX-512 VNNI.  Formulas: matmul_int8.h.
 *
 * Many rows of x: the lanes of a register are 16 rows of w. A run of their columns is unpacked into
 * a panel in the first cache, four columns of 16 rows a register: the sums of a block are 16
 * instructions for 16 outputs, and adding blocks needs nothing across lanes. Few rows: w is read
 * where it lies and the lanes are added, integers in any order.
 *
 * VPDPBUSD multiplies unsigned by signed bytes: the former are w + 128, and -128 times the sum of
 * the block's q is added. Of 64 bytes of 4-bit codes, two blocks, the upper halves are the even
 * columns: q is stored in that order. */
#include "matmul_int8.h"

#include "matmul_q4_zmm.h"

/* Rows of x in a tile; so few that no panel pays, and rows of w then; bytes of a row of w that are
 * taken at once. */
enum { TILE = 8, FEW = 2, ROWS = INT8_GROUP / 2, UNIT = 64 };

/* ---- x --------------------------------------------------------------------------------------- */

/* Where block b of a row stands: 8-bit codes have q in order, 4-bit ones the even columns of two
 * blocks, then the odd ones. */
INLINE void store_q(int8_t *row, size_t b, __m512i q, bool q4)
{
    int8_t *even = row + b / 2 * 2 * INT8_BLOCK + b % 2 * INT8_BLOCK / 2;
    if (!q4) {
        _mm512_store_si512(row + b * INT8_BLOCK, q);
        return;
    }
    _mm256_store_si256((__m256i *)(void *)even, _mm512_cvtepi16_epi8(q));
    _mm256_store_si256((__m256i *)(void *)(even + INT8_BLOCK),
                       _mm512_cvtepi16_epi8(_mm512_srli_epi16(q, 8)));
}

/* The four columns of step k of block b in a panel. */
INLINE size_t step_at(size_t b, const int k, const bool q4)
{
    if (!q4)
        return b * INT8_BLOCK + 4 * (size_t)k;
    return b / 2 * 2 * INT8_BLOCK + b % 2 * INT8_BLOCK / 2 +
           (size_t)(k % 2 * INT8_BLOCK + k / 2 * 4);
}

static void quantise(const struct int8_job *j, size_t row, size_t b, const float *x, size_t n)
{
    __m512 part[4];
    __m512i most = _mm512_setzero_si512(), sum = most, q = most;
    float inverse;
    EACH (i, 4) {
        size_t left = n > 16 * (size_t)i ? n - 16 * (size_t)i : 0;
        part[i] = _mm512_maskz_loadu_ps((__mmask16)mask_of(left), x + 16 * i);
        most = _mm512_max_epu32(most, _mm512_castps_si512(_mm512_abs_ps(part[i])));
    }
    j->scale[row * j->stride + b] = int8_scale_of(_mm512_reduce_max_epu32(most), &inverse);
    if (inverse > 0) {
        __m128i bytes[4];
        EACH (i, 4) {
            __m512i k = _mm512_cvtps_epi32(_mm512_mul_ps(part[i], _mm512_set1_ps(inverse)));
            sum = _mm512_add_epi32(sum, k);
            bytes[i] = _mm512_cvtepi32_epi8(k);
        }
        q = _mm512_loadu_si512(bytes);
    }
    j->bias[row * j->stride + b] = -128 * _mm512_reduce_add_epi32(sum);
    store_q(j->q + row * j->stride * INT8_BLOCK, b, q, j->m->w->dtype == MLL_DTYPE_Q4);
}

INLINE __m128i load_16(const unsigned char *at)
{
    return _mm_loadu_si128((const __m128i *)(const void *)at);
}

/* ---- panels ---------------------------------------------------------------------------------- */

/* Sixteen registers of four-byte pieces: register k becomes the k-th piece of every one. */
INLINE void transpose(__m512i t[16])
{
    __m512i a[16];
    EACH (i, 16)
        a[i] = t[i];
    EACH (i, 8) {
        t[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
    EACH (i, 4) {
        EACH (h, 2) {
            a[4 * i + 2 * h] = _mm512_unpacklo_epi64(t[4 * i + h], t[4 * i + h + 2]);
            a[4 * i + 2 * h + 1] = _mm512_unpackhi_epi64(t[4 * i + h], t[4 * i + h + 2]);
        }
    }
    EACH (k, 4) {
        __m512i low = _mm512_shuffle_i32x4(a[k], a[k + 4], 0x88);
        __m512i high = _mm512_shuffle_i32x4(a[k + 8], a[k + 12], 0x88);
        t[k] = _mm512_shuffle_i32x4(low, high, 0x88);
        t[k + 8] = _mm512_shuffle_i32x4(low, high, 0xdd);
        low = _mm512_shuffle_i32x4(a[k], a[k + 4], 0xdd);
        high = _mm512_shuffle_i32x4(a[k + 8], a[k + 12], 0xdd);
        t[k + 4] = _mm512_shuffle_i32x4(low, high, 0x88);
        t[k + 12] = _mm512_shuffle_i32x4(low, high, 0xdd);
    }
}

/* UNIT bytes, zeros behind the first `left`, where memory is not read. */
INLINE __m512i load_unit(const unsigned char *at, size_t left)
{
    if (left >= UNIT)
        return _mm512_loadu_si512(at);
    return _mm512_maskz_loadu_epi8(((__mmask64)1 << left) - 1, at);
}

INLINE void fetch(const char *ahead, int lines)
{
    EACH (i, lines)
        _mm_prefetch(ahead + i * 64, _MM_HINT_T0);
}

/* What absmax of n blocks from block `first` on is made of. */
INLINE void fetch_absmax(const struct mat_blocks *blocks, size_t first, size_t n)
{
    const bool plain = blocks->absmax != NULL;
    const char *at =
        plain ? (const char *)(blocks->absmax + first) : (const char *)blocks->codes + first;
    for (size_t i = 0; i < n * (plain ? sizeof(float) : 1); i += 64)
        fetch(at + i, 1);
}

/* The panel of blocks [b, b + n) of rows [o, o + 16). Behind the last column of 8-bit codes it
 * holds anything, for q is zero there. The same of the next rows is fetched, memory sees one
 * ascending stream. */
INLINE void unpack(const struct int8_job *j, struct int8_scratch *s, size_t o, size_t b, size_t n,
                   const bool q4)
{
    const struct mat *w = j->m->w;
    const size_t stride = q4 ? (size_t)w->cols / 2 : (size_t)w->cols, block = q4 ? 32 : 64;
    const size_t left = stride - b * block, bytes = n * block < left ? n * block : left;
    const unsigned char *from = (const unsigned char *)w->data + o * stride + b * block;
    const char *ahead = (const char *)w->data + (o + INT8_GROUP) * stride + b * block * INT8_GROUP;
    const __m512i flip = _mm512_set1_epi8(-128), low = _mm512_set1_epi8(15);
    const __m512i table =
        _mm512_xor_si512(_mm512_broadcast_i32x4(load_16((const void *)j->table)), flip);
    __m512i *out = (__m512i *)(void *)s->panel, t[16];
    for (size_t at = 0; at < bytes; at += UNIT, ahead += UNIT * INT8_GROUP) {
        fetch(ahead, UNIT * INT8_GROUP / 64);
        EACH (i, INT8_GROUP)
            t[i] = load_unit(from + at + (size_t)i * stride, bytes - at);
        transpose(t);
        EACH (k, 16) {
            if (q4) {
                __m512i high = _mm512_and_si512(_mm512_srli_epi32(t[k], 4), low);
                *out++ = _mm512_shuffle_epi8(table, high);
                *out++ = _mm512_shuffle_epi8(table, _mm512_and_si512(t[k], low));
            } else {
                *out++ = _mm512_xor_si512(t[k], flip);
            }
        }
    }
}

/* Quarter q of a and that of b, one behind the other, to row 4 q of the group's rows at `to`. */
INLINE void store_quarters(float *to, __m512i a, __m512i b)
{
    _Alignas(64) float from[2][16];
    _mm512_store_si512(from[0], a);
    _mm512_store_si512(from[1], b);
    EACH (q, 4)
        EACH (i, 2)
            memcpy(to + 4 * q * INT8_GROUP + 4 * i, from[i] + 4 * q, 4 * sizeof *to);
}

/* absmax of n <= 16 blocks from `block` on, and of as many from block + row on, to a[0] and a[1].
 */
INLINE void unnest_rows(__m512i a[2], const struct mat_blocks *b, const struct q4_map *map,
                        size_t block, size_t row, size_t n)
{
    const __mmask16 mask = (__mmask16)mask_of(n);
    const __m128i first = _mm_maskz_loadu_epi8(mask, b->codes + block);
    const __m128i second = _mm_maskz_loadu_epi8(mask, b->codes + block + row);
    __m512 of[2];
    q4_look_up(of, map, _mm256_set_m128i(second, first));
    EACH (i, 2)
        a[i] = _mm512_castps_si512(q4_unnest(b, of[i], block + (size_t)i * row, n));
}

/* absmax of up to INT8_RUN blocks from block b on of rows [o + out, o + out + ROWS), the group's
 * ROWS rows from its row `out` on. */
INLINE void unpack_absmax(const struct int8_job *j, struct int8_scratch *s,
                          const struct q4_map *map, size_t o, size_t out, size_t b)
{
    const struct mat_blocks *blocks = j->m->w->blocks;
    const size_t n = j->blocks - b < INT8_RUN ? j->blocks - b : INT8_RUN;
    const size_t row = j->blocks, first = (o + out) * row + b;
    const bool nested = blocks->absmax == NULL && blocks->block == Q4_CHUNK;
    __m512i a[ROWS], t[ROWS];
    for (int i = 0; i < ROWS && !nested; i++) {
        float buffer[Q4_RUN];
        const float *absmax =
            q4_absmax(buffer, blocks, map, (first + (size_t)i * row) * INT8_BLOCK, n);
        a[i] = _mm512_maskz_loadu_epi32((__mmask16)mask_of(n), absmax);
    }
    for (int i = 0; i < ROWS && nested; i += 2)
        unnest_rows(a + i, blocks, map, first + (size_t)i * row, row, n);
    EACH (i, ROWS / 2) {
        t[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
    EACH (h, 2) { /* blocks 2 h and 2 h + 1 of every four: four rows, the other four */
        const __m512i even[2] = {_mm512_unpacklo_epi64(t[h], t[h + 2]),
                                 _mm512_unpacklo_epi64(t[h + 4], t[h + 6])};
        const __m512i odd[2] = {_mm512_unpackhi_epi64(t[h], t[h + 2]),
                                _mm512_unpackhi_epi64(t[h + 4], t[h + 6])};
        store_quarters(&s->absmax[2 * h][out], even[0], even[1]);
        store_quarters(&s->absmax[2 * h + 1][out], odd[0], odd[1]);
    }
}

/* ---- products -------------------------------------------------------------------------------- */

/* Adds n blocks from block b on to the sums of rows [row, row + rows). */
INLINE void tile(const struct int8_job *j, struct int8_scratch *s, size_t row, const int rows,
                 size_t b, size_t n, const bool q4)
{
    const size_t first = row * j->stride + b;
    const __m512i *w = (const __m512i *)(const void *)s->panel;
    __m512 sum[TILE];
    EACH (r, rows)
        sum[r] = b == 0 ? _mm512_setzero_ps() : _mm512_load_ps(s->sums[row + (size_t)r]);
    for (size_t i = 0; i < n; i++, w += INT8_BLOCK / 4) {
        __m512i dot[TILE];
        EACH (r, rows)
            dot[r] = _mm512_set1_epi32(j->bias[first + (size_t)r * j->stride + i]);
        EACH (k, INT8_BLOCK / 4) {
            EACH (r, rows) {
                const int8_t *q = j->q + (first - b + (size_t)r * j->stride) * INT8_BLOCK;
                int four;
                memcpy(&four, q + step_at(b + i, k, q4), sizeof four);
                dot[r] = _mm512_dpbusd_epi32(dot[r], w[k], _mm512_set1_epi32(four));
            }
        }
        EACH (r, rows) {
            __m512 scale = _mm512_set1_ps(j->scale[first + (size_t)r * j->stride + i]);
            if (q4)
                scale = _mm512_mul_ps(scale, _mm512_load_ps(s->absmax[i]));
            sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r]), scale, sum[r]);
        }
    }
    EACH (r, rows)
        _mm512_store_ps(s->sums[row + (size_t)r], sum[r]);
}

INLINE void run(const struct int8_job *j, struct int8_scratch *s, size_t b, size_t n, const bool q4)
{
    size_t row = 0;
    for (; row + TILE <= j->rows; row += TILE)
        tile(j, s, row, TILE, b, n, q4);
    for (; row + 4 <= j->rows; row += 4)
        tile(j, s, row, 4, b, n, q4);
    for (; row + 2 <= j->rows; row += 2)
        tile(j, s, row, 2, b, n, q4);
    if (row < j->rows)
        tile(j, s, row, 1, b, n, q4);
}

/* ---- few rows of x: no panel ----------------------------------------------------------------- */

/* Four registers to one: [quarter][i], the sum of the lanes of that quarter of d[i]. */
INLINE __m512i add_lanes(const __m512i d[4])
{
    __m512i ab =
        _mm512_add_epi32(_mm512_unpacklo_epi32(d[0], d[1]), _mm512_unpackhi_epi32(d[0], d[1]));
    __m512i cd =
        _mm512_add_epi32(_mm512_unpacklo_epi32(d[2], d[3]), _mm512_unpackhi_epi32(d[2], d[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/* UNIT bytes of ROWS rows of w, of which `left` are left, by the rows of x from block b on. Of
 * 4-bit codes the lower half of dot is the sums of block b, the upper one of block b + 1; of 8-bit
 * codes both together are block b's. */
INLINE void direct_unit(__m512i dot[FEW], const struct int8_job *j, const char *ahead,
                        const unsigned char *at, size_t stride, size_t b, size_t left,
                        const int rows, const bool q4)
{
    const __m512i flip = _mm512_set1_epi8(-128), low = _mm512_set1_epi8(15);
    const __m512i table =
        _mm512_xor_si512(_mm512_broadcast_i32x4(load_16((const void *)j->table)), flip);
    __m512i four[FEW][2];
    EACH (i, 2) {
        __m512i w[4][2];
        fetch(ahead + i * 4 * UNIT, 4);
        EACH (k, 4) {
            const unsigned char *from = at + (size_t)(4 * i + k) * stride;
            w[k][0] = load_unit(from, left);
            if (q4) {
                w[k][1] = _mm512_shuffle_epi8(table, _mm512_and_si512(w[k][0], low));
                w[k][0] = _mm512_and_si512(_mm512_srli_epi32(w[k][0], 4), low);
                w[k][0] = _mm512_shuffle_epi8(table, w[k][0]);
            } else {
                w[k][0] = _mm512_xor_si512(w[k][0], flip);
            }
        }
        EACH (r, rows) {
            const int8_t *q = j->q + ((size_t)r * j->stride + b) * INT8_BLOCK;
            __m512i d[4];
            EACH (k, 4) {
                d[k] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[k][0], _mm512_load_si512(q));
                if (q4)
                    d[k] = _mm512_dpbusd_epi32(d[k], w[k][1], _mm512_load_si512(q + INT8_BLOCK));
            }
            four[r][i] = add_lanes(d);
        }
    }
    EACH (r, rows) {
        __m512i sum = _mm512_add_epi32(_mm512_shuffle_i32x4(four[r][0], four[r][1], 0x88),
                                       _mm512_shuffle_i32x4(four[r][0], four[r][1], 0xdd));
        dot[r] = _mm512_shuffle_i32x4(sum, sum, 0xd8);
    }
}

/* p[0] in the lower lanes, p[1] in the upper ones. */
INLINE __m512i pair(const void *p)
{
    const __m512i from = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    long long both;
    memcpy(&both, p, sizeof both);
    return _mm512_permutexvar_epi32(from, _mm512_set1_epi64(both));
}

INLINE __m256 add_block(__m256 sum, __m512 dot, __m512 scale, const int half)
{
    return half == 0
               ? _mm256_fmadd_ps(_mm512_castps512_ps256(dot), _mm512_castps512_ps256(scale), sum)
               : _mm256_fmadd_ps(_mm512_extractf32x8_ps(dot, 1), _mm512_extractf32x8_ps(scale, 1),
                                 sum);
}

/* Adds to sum what a unit from block b on gives rows [out, out + ROWS) of the group. */
INLINE void add_unit(__m256 sum[FEW], const struct int8_job *j, const struct int8_scratch *s,
                     const __m512i dot[FEW], size_t out, size_t b, const int rows, const bool q4)
{
    EACH (r, rows) {
        const size_t at = (size_t)r * j->stride + b;
        if (q4) {
            const __m512 absmax = _mm512_insertf32x8(
                _mm512_castps256_ps512(_mm256_load_ps(s->absmax[b % INT8_RUN] + out)),
                _mm256_load_ps(s->absmax[b % INT8_RUN + 1] + out), 1);
            const __m512 scale = _mm512_mul_ps(_mm512_castsi512_ps(pair(j->scale + at)), absmax);
            const __m512 x = _mm512_cvtepi32_ps(_mm512_add_epi32(dot[r], pair(j->bias + at)));
            sum[r] = add_block(sum[r], x, scale, 0);
            if (b + 1 < j->blocks)
                sum[r] = add_block(sum[r], x, scale, 1);
        } else {
            __m256i all = _mm256_add_epi32(_mm512_castsi512_si256(dot[r]),
                                           _mm512_extracti32x8_epi32(dot[r], 1));
            all = _mm256_add_epi32(all, _mm256_set1_epi32(j->bias[at]));
            sum[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(all), _mm256_set1_ps(j->scale[at]), sum[r]);
        }
    }
}

/* The job's rows, which are `rows` <= FEW, by ROWS rows of w from row o + out on; the next ones are
 * fetched meanwhile, memory sees one ascending stream. */
INLINE void direct(const struct int8_job *j, struct int8_scratch *s, const struct q4_map *map,
                   size_t o, size_t out, const int rows, const bool q4)
{
    const size_t cols = (size_t)j->m->w->cols, stride = q4 ? cols / 2 : cols, step = q4 ? 2 : 1;
    const unsigned char *at = (const unsigned char *)j->m->w->data + (o + out) * stride;
    const char *ahead = (const char *)at + ROWS * stride;
    __m256 sum[FEW];
    EACH (r, rows)
        sum[r] = _mm256_setzero_ps();
    for (size_t b = 0; b < j->blocks; b += step, at += UNIT, ahead += UNIT * ROWS) {
        const size_t left = stride - b / step * UNIT;
        __m512i dot[FEW];
        if (q4 && b % INT8_RUN == 0)
            unpack_absmax(j, s, map, o, out, b);
        if (q4)
            fetch_absmax(j->m->w->blocks, (o + out + ROWS) * j->blocks + b * ROWS, 2 * ROWS);
        if (left >= UNIT)
            direct_unit(dot, j, ahead, at, stride, b, UNIT, rows, q4);
        else
            direct_unit(dot, j, ahead, at, stride, b, left, rows, q4);
        add_unit(sum, j, s, dot, out, b, rows, q4);
    }
    EACH (r, rows)
        _mm256_store_ps(s->sums[r] + out, sum[r]);
}

/* ---------------------------------------------------------------------------------------------- */

INLINE void any_rows(const struct int8_job *j, struct int8_scratch *s, size_t o, const bool q4)
{
    struct q4_map map;
    if (q4 && j->m->w->blocks->absmax == NULL)
        q4_split_map(&map, j->m->w->blocks->nested_map);
    for (size_t out = 0; out < INT8_GROUP && j->rows == 1; out += ROWS)
        direct(j, s, &map, o, out, 1, q4);
    for (size_t out = 0; out < INT8_GROUP && j->rows == 2; out += ROWS)
        direct(j, s, &map, o, out, 2, q4);
    for (size_t b = 0; b < j->blocks && j->rows > 2; b += INT8_RUN) {
        const size_t n = j->blocks - b < INT8_RUN ? j->blocks - b : INT8_RUN;
        unpack(j, s, o, b, n, q4);
        for (size_t out = 0; q4 && out < INT8_GROUP; out += ROWS)
            unpack_absmax(j, s, &map, o, out, b);
        run(j, s, b, n, q4);
    }
}

static void group(const struct int8_job *j, struct int8_scratch *s, size_t o)
{
    if (j->m->w->dtype == MLL_DTYPE_Q4)
        any_rows(j, s, o, true);
    else
        any_rows(j, s, o, false);
}

const struct int8_form matmul_int8_vnni = {.quantise = quantise, .group = group};
