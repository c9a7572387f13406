/* matmul_q4_zmm.h - 4-bit weights in 512-bit registers, for both arithmetics of matmul_zmm.h.
 * Included by matmul_avx512.c and matmul_bf16.c alone.
 *
 * The 16 values of the codes, times a block's absmax and rounded as the weight asks, are a table in
 * one register: 16 products serve the 64 weights of a chunk, and one permute looks 16 weights up
 * (32 in bf16). A permute reads only the lowest bits of an index, so that a code needs to be
 * shifted down, but nothing of what stands above it cleared.
 *
 * Shuffles are what limits decoding. Where x is read for few rows only, it is put into an order
 * that saves one of the two a step needs: the 16 codes of a step are one qword, and a shift of it
 * by 4 i bits brings code i into its lower half and code i + 8 into its upper one, to lanes 2 i and
 * 2 i + 1. The lanes are put back before they are added: the same sums. In bf16 x and w are always
 * in an order that needs no shuffle but the lookup. */
#ifndef MLL_MATMUL_Q4_ZMM_H
#define MLL_MATMUL_Q4_ZMM_H

#include "matmul_zmm.h"

/* Rows of x in a tile: more would push the tables out of the registers. Rows of w beside up to
 * Q4_FEW of x: as many sums as hide the latency of an addition. Chunks in a run: what is known of
 * their absmax before they are multiplied. */
enum { Q4_X = 4, Q4_FEW = 2, Q4_W = 2 * MATMUL_W, Q4_RUN = 32 };

/* Weights as float32 in order, or split as above; as bf16 in the order of q4_word_order. */
enum q4_form { Q4_F32, Q4_F32_SPLIT, Q4_DOT };

/* Which of 32 columns stands where in a step of bf16: its codes, eight words, are in each quarter
 * of a register, shifted by 0, 4, 8 and 12 bits; the high half of a byte is the first of two. */
INLINE __m512i q4_word_order(void)
{
    static const uint16_t first[4] = {1, 0, 3, 2};
    uint16_t order[32];
    for (int i = 0; i < 32; i++)
        order[i] = (uint16_t)(i % 8 * 4 + first[i / 8]);
    return _mm512_loadu_si512(order);
}

/* A nested_map as the low and the high halves of its floats: of 16 bits a permute reaches 64, so
 * that 32 floats cost as many as 16 of them would. */
struct q4_map {
    _Alignas(64) uint16_t half[2][256];
};

struct q4 {
    const unsigned char *codes;
    const struct mat_blocks *blocks;
    __m512 values;
    __m512i spread, shifts;   /* of one step's bytes over the lanes */
    const struct q4_map *map; /* of double-quantised absmax */
};

INLINE struct q4 q4_of(const struct mat *w, const enum q4_form form)
{
    struct q4 q = {
        .codes = w->data, .blocks = w->blocks, .values = _mm512_loadu_ps(w->blocks->values)};
    unsigned char spread[64];
    const long long by_4 = 0x0004000400040004;
    for (int i = 0; i < 64; i++) /* bytes 0-7 to pairs of dwords */
        spread[i] = (unsigned char)(i / 8);
    q.spread = _mm512_loadu_si512(spread);
    /* the first of a pair is the high half of its byte */
    q.shifts = _mm512_set1_epi64(4);
    if (form == Q4_F32_SPLIT)
        q.shifts = _mm512_setr_epi64(4, 0, 12, 8, 20, 16, 28, 24);
    if (form == Q4_DOT)
        q.shifts = _mm512_setr_epi64(0, 0, by_4, by_4, 2 * by_4, 2 * by_4, 3 * by_4, 3 * by_4);
    return q;
}

/* A table rounded to the dtype of the weights, which is not F32. */
INLINE __m512 q4_round(__m512 t, enum mll_dtype rounded)
{
    if (rounded == MLL_DTYPE_F16)
        return _mm512_cvtph_ps(_mm512_cvtps_ph(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    __m512i bits = _mm512_castps_si512(t), odd = _mm512_srli_epi32(bits, 16);
    odd = _mm512_and_si512(odd, _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(-0x10000)));
}

/* The table of a chunk before it is rounded. */
INLINE __m512 q4_table(const struct q4 *q, float absmax)
{
    return _mm512_mul_ps(q->values, _mm512_set1_ps(absmax));
}

/* The table as q4_weights takes it: for bf16, rounded and twice over. */
INLINE __m512 q4_finish(__m512 table, const enum q4_form form)
{
#ifdef __AVX512BF16__
    if (form == Q4_DOT)
        return _mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(table, table));
#endif
    (void)form;
    return table;
}

/* One step of weights, whose codes stand at `at`, looked up in the table of its chunk. */
INLINE __m512 q4_weights(const struct q4 *q, __m512 table, const unsigned char *at,
                         const enum q4_form form)
{
    if (form == Q4_DOT) {
        __m512i bytes = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)at));
        __m512i index = _mm512_srlv_epi16(bytes, q->shifts);
        return _mm512_castsi512_ps(_mm512_permutexvar_epi16(index, _mm512_castps_si512(table)));
    }
    long long bytes;
    memcpy(&bytes, at, sizeof bytes);
    if (form == Q4_F32_SPLIT)
        return _mm512_permutexvar_ps(_mm512_srlv_epi64(_mm512_set1_epi64(bytes), q->shifts), table);
    __m512i index = _mm512_shuffle_epi8(_mm512_set1_epi64(bytes), q->spread);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(index, q->shifts), table);
}

/* ---- absmax ---------------------------------------------------------------------------------- */

INLINE void q4_split_map(struct q4_map *map, const float floats[256])
{
    uint16_t even[32];
    for (int i = 0; i < 32; i++)
        even[i] = (uint16_t)(2 * i);
    const __m512i low = _mm512_loadu_si512(even),
                  high = _mm512_add_epi16(low, _mm512_set1_epi16(1));
    for (int i = 0; i < 256; i += 32) {
        __m512i a = _mm512_loadu_si512(floats + i), b = _mm512_loadu_si512(floats + i + 16);
        _mm512_store_si512(map->half[0] + i, _mm512_permutex2var_epi16(a, low, b));
        _mm512_store_si512(map->half[1] + i, _mm512_permutex2var_epi16(a, high, b));
    }
}

/* The floats of 32 codes. */
INLINE void q4_look_up(__m512 of[2], const struct q4_map *map, __m256i codes)
{
    /* unpacking works in quarters of a register: this order becomes 0 to 15, 16 to 31 */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m512i index = _mm512_cvtepu8_epi16(_mm256_permutevar8x32_epi32(codes, order));
    const __mmask32 bit6 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64));
    const __mmask32 bit7 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(128));
    __m512i half[2];
    EACH (h, 2) {
        __m512i part[4];
        EACH (i, 4)
            part[i] = _mm512_permutex2var_epi16(_mm512_load_si512(map->half[h] + 64 * i), index,
                                                _mm512_load_si512(map->half[h] + 64 * i + 32));
        EACH (i, 2)
            part[i] = _mm512_mask_blend_epi16(bit6, part[2 * i], part[2 * i + 1]);
        half[h] = _mm512_mask_blend_epi16(bit7, part[0], part[1]);
    }
    of[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(half[0], half[1]));
    of[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(half[0], half[1]));
}

/* absmax of 16 blocks from `block` on, of which `left` are there, of what their codes look up. */
INLINE __m512 q4_unnest(const struct mat_blocks *b, __m512 found, size_t block, size_t left)
{
    const size_t same = MLL_NESTED_BLOCK - block % MLL_NESTED_BLOCK;
    const float *nested = b->nested_absmax + block / MLL_NESTED_BLOCK;
    __m512 scale = _mm512_set1_ps(nested[0]);
    if (same < left && same < 16)
        scale = _mm512_mask_blend_ps((__mmask16)mask_of(same), _mm512_set1_ps(nested[1]), scale);
    return _mm512_add_ps(_mm512_mul_ps(found, scale), _mm512_set1_ps(b->nested_offset));
}

/* The absmax of n chunks from element `first`: in the weight itself, or put in buffer. */
INLINE const float *q4_absmax(float buffer[Q4_RUN], const struct mat_blocks *b,
                              const struct q4_map *map, size_t first, size_t n)
{
    if (b->block != Q4_CHUNK) {
        for (size_t i = 0; i < n; i++)
            buffer[i] = quant_absmax(b, (first + i * Q4_CHUNK) / (size_t)b->block);
        return buffer;
    }
    if (b->absmax != NULL)
        return b->absmax + first / Q4_CHUNK;
    const size_t block = first / Q4_CHUNK;
    __m512 of[2];
    q4_look_up(of, map, _mm256_maskz_loadu_epi8(mask_of(n), b->codes + block));
    _mm512_storeu_ps(buffer, q4_unnest(b, of[0], block, n));
    if (n > 16)
        _mm512_storeu_ps(buffer + 16, q4_unnest(b, of[1], block + 16, n - 16));
    return buffer;
}

/* ---- few rows of x --------------------------------------------------------------------------- */

/* n elements, whole steps, in the order of Q4_F32_SPLIT. */
INLINE void q4_split_x(float *out, const float *x, size_t n)
{
    const __m512i from = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    for (size_t i = 0; i < n; i += 16)
        _mm512_storeu_ps(out + i, _mm512_permutexvar_ps(from, _mm512_loadu_ps(x + i)));
}

INLINE __m512 q4_merge(__m512 lanes)
{
    const __m512i from = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    return _mm512_permutexvar_ps(from, lanes);
}

struct q4_lanes {
    __m512 at[Q4_X][Q4_W];
};

/* A tile: `rows` rows of x from row on, w_rows of w that start at the elements w. Q4_W of them are
 * neighbours. The rows of w behind are fetched meanwhile, each kind as memory has it, one ascending
 * stream: so many bytes of codes and of absmax a chunk and row. */
struct q4_tile {
    const struct matmul *m;
    size_t row, w[Q4_W];
    const char *codes_ahead, *absmax_ahead;
    size_t absmax_bytes;
    const struct q4_map *map; /* of double-quantised absmax */
};

/* Where row o of w_rows is. Of Q4_W rows `stride` apart, two pointers and two multiples of stride
 * stay in registers; eight pointers would not. */
#define Q4_ROW(of, o, w_rows, at, stride)                                                \
    ((w_rows) == Q4_W ? of[0] + (at) + ((o) < 4 ? 0 : 4 * (stride)) + (o) % 4 * (stride) \
                      : of[o] + (at))

INLINE struct q4_tile q4_tile_of(const struct matmul *m, const struct q4 *q, size_t row,
                                 const int w_rows, size_t w_first)
{
    const size_t cols = (size_t)m->w->cols, w_left = (size_t)m->w->rows - w_first;
    const size_t behind = (w_first + (size_t)w_rows) * cols;
    const struct mat_blocks *b = q->blocks;
    struct q4_tile t = {.m = m, .row = row, .codes_ahead = (const char *)q->codes + behind / 2};
    EACH (o, w_rows)
        t.w[o] = (w_first + ((size_t)o < w_left ? (size_t)o : w_left - 1)) * cols;
    if (b->block == Q4_CHUNK) {
        t.absmax_bytes = b->absmax != NULL ? sizeof *b->absmax : sizeof *b->codes;
        t.absmax_ahead = (b->absmax != NULL ? (const char *)b->absmax : (const char *)b->codes) +
                         behind / Q4_CHUNK * t.absmax_bytes;
    }
    return t;
}

INLINE void q4_fetch(const struct q4_tile *t, size_t chunk, const int w_rows)
{
    const char *codes = t->codes_ahead + chunk * (size_t)w_rows * (Q4_CHUNK / 2);
    EACH (line, w_rows / 2)
        _mm_prefetch(codes + line * 64, _MM_HINT_T0);
    _mm_prefetch(t->absmax_ahead + chunk * (size_t)w_rows * t->absmax_bytes, _MM_HINT_T0);
}

/* `chunks` <= Q4_RUN of them from chunk `first` on. */
INLINE void q4_run(struct q4_lanes *l, const struct q4_tile *t, const struct q4 *q, const int rows,
                   const int w_rows, size_t first, size_t chunks, const enum q4_form form)
{
    const size_t k = first * Q4_CHUNK, stride = t->m->x_stride, cols = (size_t)t->m->w->cols;
    const int steps = Q4_CHUNK / (form == Q4_DOT ? 32 : 16);
    const unsigned char *x = t->m->x_steps + t->row * stride + first * (size_t)steps * STEP_BYTES;
    const enum mll_dtype rounded = q->blocks->rounded;
    const float *absmax[Q4_W];
    const unsigned char *codes[Q4_W];
    float buffer[Q4_W][Q4_RUN];
    EACH (o, w_rows) {
        absmax[o] = q4_absmax(buffer[o], q->blocks, q->map, t->w[o] + k, chunks);
        codes[o] = q->codes + (t->w[o] + k) / 2;
    }
    const size_t absmax_stride = absmax[0] == buffer[0] ? Q4_RUN : cols / Q4_CHUNK;
    for (size_t c = 0; c < chunks; c++, x += steps * STEP_BYTES) {
        __m512 table[Q4_W];
        q4_fetch(t, first + c, w_rows);
        EACH (o, w_rows)
            table[o] = q4_table(q, *(Q4_ROW(absmax, o, w_rows, c, absmax_stride)));
        if (rounded != MLL_DTYPE_F32)
            EACH (o, w_rows)
                table[o] = q4_round(table[o], rounded);
        EACH (o, w_rows)
            table[o] = q4_finish(table[o], form);
        EACH (s, steps) {
            const size_t at = c * (Q4_CHUNK / 2) + (size_t)(s * (Q4_CHUNK / 2 / steps));
            __m512 wv[Q4_W];
            EACH (o, w_rows)
                wv[o] = q4_weights(q, table[o], Q4_ROW(codes, o, w_rows, at, cols / 2), form);
            EACH (r, rows) {
                __m512 xv = _mm512_loadu_ps(x + (size_t)r * stride + s * STEP_BYTES);
                EACH (o, w_rows)
                    l->at[r][o] = multiply_add(form == Q4_DOT ? KIND_BF16_DOT : KIND_F32, xv, wv[o],
                                               l->at[r][o], true, 0);
            }
        }
    }
}

/* Rows [row, row + rows) of x by w_rows rows of w from group g on; rows behind the last one repeat
 * it. */
INLINE void q4_rows(const struct matmul *m, const struct q4 *q, size_t row, const int rows,
                    const int w_rows, size_t g, const enum q4_form form)
{
    const size_t w_first = g * MATMUL_W, w_left = (size_t)m->w->rows - w_first;
    const size_t chunks = (size_t)m->w->cols / Q4_CHUNK;
    const struct q4_tile t = q4_tile_of(m, q, row, w_rows, w_first);
    struct q4_lanes l;
    EACH (r, rows)
        EACH (o, w_rows)
            l.at[r][o] = _mm512_setzero_ps();
    for (size_t c = 0; c < chunks; c += Q4_RUN)
        q4_run(&l, &t, q, rows, w_rows, c, chunks - c < Q4_RUN ? chunks - c : Q4_RUN, form);
    for (int first = 0; first < w_rows && (size_t)first < w_left; first += MATMUL_W) {
        struct lanes group;
        EACH (r, rows)
            EACH (o, MATMUL_W)
                group.at[r][o] =
                    form == Q4_F32_SPLIT ? q4_merge(l.at[r][first + o]) : l.at[r][first + o];
        write_group(m, row, rows, g + (size_t)first / MATMUL_W, &group);
    }
}

INLINE void q4_groups(const struct matmul *m, size_t begin, size_t end, const enum q4_form form)
{
    struct q4 q = q4_of(m->w, form);
    const size_t n = (size_t)m->n;
    struct q4_map map;
    q.map = &map;
    if (q.blocks->absmax == NULL)
        q4_split_map(&map, q.blocks->nested_map);
    size_t g = begin;
    for (; n <= Q4_FEW && g + 2 <= end && g * MATMUL_W + Q4_W <= (size_t)m->w->rows; g += 2) {
        if (n == 1)
            q4_rows(m, &q, 0, 1, Q4_W, g, form);
        else
            q4_rows(m, &q, 0, 2, Q4_W, g, form);
    }
    for (; g < end; g++) {
        size_t row = 0;
        for (; row + Q4_X <= n; row += Q4_X)
            q4_rows(m, &q, row, Q4_X, MATMUL_W, g, form);
        if (n - row == 3)
            q4_rows(m, &q, row, 3, MATMUL_W, g, form);
        else if (n - row == 2)
            q4_rows(m, &q, row, 2, MATMUL_W, g, form);
        else if (n - row == 1)
            q4_rows(m, &q, row, 1, MATMUL_W, g, form);
    }
}

/* ---- many rows: packed panels ---------------------------------------------------------------- */

/* As pack_w_rows; `from` and k are whole steps, since the columns are whole chunks. */
INLINE void q4_pack_rows(void *panel, const struct mat *w, const enum q4_form form, size_t row,
                         int rows, size_t from, size_t k)
{
    const struct q4 q = q4_of(w, form);
    const size_t step = form == Q4_DOT ? 32 : 16;
    for (size_t o = 0; o < MATMUL_W; o++) {
        size_t first = (row + (o < (size_t)rows ? o : (size_t)rows - 1)) * (size_t)w->cols + from;
        unsigned char *out = (unsigned char *)panel + o * STEP_BYTES;
        __m512 table = _mm512_setzero_ps();
        for (size_t i = 0; i < k; i += step, out += MATMUL_W * STEP_BYTES) {
            if (i == 0 || (from + i) % Q4_CHUNK == 0) {
                size_t block = (first + i) / (size_t)q.blocks->block;
                table = q4_table(&q, quant_absmax(q.blocks, block));
                if (q.blocks->rounded != MLL_DTYPE_F32)
                    table = q4_round(table, q.blocks->rounded);
                table = q4_finish(table, form);
            }
            _mm512_store_ps(out, q4_weights(&q, table, q.codes + (first + i) / 2, form));
        }
    }
}

#endif
