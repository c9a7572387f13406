/* attn_simd.h - attention tiles on vectors. Included once by each simd_*.c. The formula and its
 * order are in attn.h, in plain C in attn_tile.c; both functions here take the same steps.
 *
 * attn_tile: lanes of a vector are lanes of the tile, so that maximum, exp and sum need nothing
 * across lanes. Scores and outputs are outer products: TILE_KEYS keys (or elements of d) by up to
 * three vectors stay in registers, a key's element is broadcast, the queries are loaded.
 * attn_few: for one row of a few heads, where most of the time goes into reading K and V once.
 * Lanes of a vector are keys for the scores, elements of d for the output. */
#include <float.h>

#include "attn.h"
#include "fmath_simd.h"
#include "kv.h"

enum {
    TILE_KEYS = VF / 2, /* 8 x 3 accumulators of 32 registers, or 4 x 3 of 16 */
    TILE_VECTORS = 3,
    FEW = ATTN_FEW,
};

/* ---- narrow keys ----------------------------------------------------------------------------- */

/* VF elements of a block from the i-th on. */
SIMD_INLINE vf narrow_vf(const unsigned char *block, enum mll_dtype dtype, int i)
{
    return dtype == MLL_DTYPE_I8 ? vf_i8(block + i)
                                 : vf_f16((const uint16_t *)(const void *)block + i);
}

void SIMD(attn_widen)(float *k, float *v, const unsigned char *from_k, const unsigned char *from_v,
                      enum mll_dtype dtype, int head_dim)
{
    const float *k_scale = kv_scales(from_k, dtype, head_dim);
    const float *v_scale = kv_scales(from_v, dtype, head_dim);
    for (int i = 0; i < MLL_KV_BLOCK * head_dim; i += VF)
        vf_store(k + i, vf_mul(narrow_vf(from_k, dtype, i), vf_load(k_scale + i % MLL_KV_BLOCK)));
    for (int j = 0; j < MLL_KV_BLOCK; j++, v += head_dim) {
        int d = 0, first = j * head_dim;
        for (; d + VF <= head_dim; d += VF)
            vf_store(v + d, vf_mul(narrow_vf(from_v, dtype, first + d), vf_set(v_scale[j])));
        for (; d < head_dim; d++)
            v[d] = narrow_at(from_v, dtype, first + d) * v_scale[j];
    }
}

/* ---- many lanes ------------------------------------------------------------------------------ */

static const uint8_t no_pads[MLL_ATTN_CHUNK];

/* A group of up to three vectors of lanes on its way over the keys. Positions are floats, exact
 * below 2^24, so that masks come from float comparisons. */
struct group {
    vf max[TILE_VECTORS], sum[TILE_VECTORS];
    vf before[TILE_VECTORS], before_pad[TILE_VECTORS], end[TILE_VECTORS]; /* before: begin - 1 */
    float *q, *o, *p;       /* of the tile, at the group's first lane */
    int lo, hi;             /* keys that any lane sees */
    int whole_lo, whole_hi; /* keys that all lanes see, but for pads */
    bool has_pad, all_pad;  /* some lanes, all lanes are pad rows */
};

SIMD_INLINE vf_mask lane_sees(const struct group *g, int v, int key, bool key_is_pad)
{
    vf at = vf_set((float)key);
    return vf_both(vf_less(key_is_pad ? g->before_pad[v] : g->before[v], at),
                   vf_less(at, g->end[v]));
}

SIMD_INLINE bool key_is_pad(const struct group *g, const struct attn_keys *keys, int key)
{
    return g->has_pad && key < g->hi && keys->pad[key];
}

/* Scores of the keys [from, to), both multiples of TILE_KEYS, into p; the new maxima into max. */
SIMD_INLINE void tile_scores(vf max[], const struct group *g, const struct attn_keys *keys,
                             float scale, int first, int from, int to, const bool masked,
                             const int nv)
{
    for (int j = from; j < to; j += TILE_KEYS) {
        const float *k = keys->k + attn_block(keys, j / MLL_KV_BLOCK) + j % MLL_KV_BLOCK;
        const float *q = g->q;
        vf acc[TILE_KEYS][TILE_VECTORS];
#pragma GCC unroll 8
        for (int i = 0; i < TILE_KEYS; i++)
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++)
                acc[i][v] = vf_set(0);
        for (int d = 0; d < keys->dim; d++, k += MLL_KV_BLOCK, q += ATTN_LANES) {
            vf lane[TILE_VECTORS];
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++)
                lane[v] = vf_load(q + v * VF);
#pragma GCC unroll 8
            for (int i = 0; i < TILE_KEYS; i++) {
                vf key = vf_set(k[i]);
#pragma GCC unroll 3
                for (int v = 0; v < nv; v++)
                    acc[i][v] = vf_fma(lane[v], key, acc[i][v]);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < TILE_KEYS; i++) {
            bool is_pad = masked && key_is_pad(g, keys, j + i);
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++) {
                vf s = vf_mul(acc[i][v], vf_set(scale));
                if (masked)
                    s = vf_pick(lane_sees(g, v, j + i, is_pad), s, vf_set(-FLT_MAX));
                vf_store(g->p + (j + i - first) * ATTN_LANES + v * VF, s);
                max[v] = vf_max(s, max[v]);
            }
        }
    }
}

/* p = exp(score - max), 0 where unseen; adds p to the sums. */
SIMD_INLINE void tile_exp(struct group *g, const struct attn_keys *keys, int first, int from,
                          int to, const bool masked, const int nv)
{
    for (int j = from; j < to; j++) {
        bool is_pad = masked && key_is_pad(g, keys, j);
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) {
            float *at = g->p + (j - first) * ATTN_LANES + v * VF;
            vf p = vf_exp(vf_sub(vf_load(at), g->max[v]));
            if (masked)
                p = vf_pick(lane_sees(g, v, j, is_pad), p, vf_set(0));
            g->sum[v] = vf_add(g->sum[v], p);
            vf_store(at, p);
        }
    }
}

/* o[d..d + nd) += p v over the keys [from, to). */
SIMD_INLINE void tile_output(const struct group *g, const struct attn_keys *keys, int d, int first,
                             int from, int to, const bool masked, const int nd, const int nv)
{
    vf acc[TILE_KEYS][TILE_VECTORS];
    float *o = g->o + d * ATTN_LANES;
#pragma GCC unroll 8
    for (int i = 0; i < nd; i++)
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++)
            acc[i][v] = vf_load(o + i * ATTN_LANES + v * VF);
    for (int j = from, stop; j < to; j = stop) {
        const float *row = keys->v + attn_block(keys, j / MLL_KV_BLOCK) + d;
        const float *p = g->p + (j - first) * ATTN_LANES;
        row += (size_t)(j % MLL_KV_BLOCK) * (size_t)keys->dim;
        stop = (j / MLL_KV_BLOCK + 1) * MLL_KV_BLOCK;
        stop = stop < to ? stop : to;
        for (int key = j; key < stop; key++, row += keys->dim, p += ATTN_LANES) {
            bool is_pad = masked && key_is_pad(g, keys, key);
            vf lane[TILE_VECTORS];
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++)
                lane[v] = vf_load(p + v * VF);
#pragma GCC unroll 8
            for (int i = 0; i < nd; i++) {
                vf value = vf_set(row[i]);
#pragma GCC unroll 3
                for (int v = 0; v < nv; v++) {
                    vf sum = vf_fma(lane[v], value, acc[i][v]);
                    acc[i][v] =
                        masked ? vf_pick(lane_sees(g, v, key, is_pad), sum, acc[i][v]) : sum;
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < nd; i++)
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++)
            vf_store(o + i * ATTN_LANES + v * VF, acc[i][v]);
}

/* Moves the lanes to new maxima: sums and outputs shrink. */
SIMD_INLINE void tile_shrink(struct group *g, const vf max[], int dim, const int nv)
{
    for (int v = 0; v < nv; v++) {
        vf shrink = vf_exp(vf_sub(g->max[v], max[v]));
        g->max[v] = max[v];
        if (vf_all_equal(shrink, vf_set(1)))
            continue;
        g->sum[v] = vf_mul(g->sum[v], shrink);
        for (int d = 0; d < dim; d++) {
            float *o = g->o + d * ATTN_LANES + v * VF;
            vf_store(o, vf_mul(vf_load(o), shrink));
        }
    }
}

SIMD_INLINE void tile_chunk(struct group *g, const struct attn_keys *keys, float scale, int first,
                            const bool masked, const int nv)
{
    int from = first > g->lo ? first : g->lo / TILE_KEYS * TILE_KEYS;
    int to = (g->hi + TILE_KEYS - 1) / TILE_KEYS * TILE_KEYS;
    int d = 0;
    vf max[TILE_VECTORS];
    to = to < first + MLL_ATTN_CHUNK ? to : first + MLL_ATTN_CHUNK;
    for (int v = 0; v < nv; v++)
        max[v] = g->max[v];
    attn_widen(keys, from, to);
    tile_scores(max, g, keys, scale, first, from, to, masked, nv);
    tile_shrink(g, max, keys->dim, nv);
    tile_exp(g, keys, first, from, to, masked, nv);
    for (; d + TILE_KEYS <= keys->dim; d += TILE_KEYS)
        tile_output(g, keys, d, first, from, to, masked, TILE_KEYS, nv);
    for (; d < keys->dim; d++)
        tile_output(g, keys, d, first, from, to, masked, 1, nv);
}

/* Sets up the group of nv vectors from lane `base` on; lanes behind the last are like lane 0. */
SIMD_INLINE void group_open(struct group *g, struct attn_tile *t, const struct attn_keys *keys,
                            int base, const int nv)
{
    float before[TILE_VECTORS * VF], before_pad[TILE_VECTORS * VF], end[TILE_VECTORS * VF];
    *g = (struct group){.q = t->q + base,
                        .o = t->o + base,
                        .p = t->p + base,
                        .lo = t->begin[0],
                        .hi = t->end[0],
                        .whole_lo = t->begin[0],
                        .whole_hi = t->end[0],
                        .all_pad = true};
    for (int l = 0; l < nv * VF; l++) {
        int lane = base + l < t->lanes ? base + l : 0;
        bool is_pad = keys->pad && t->is_pad[lane];
        int b = t->begin[lane], e = t->end[lane];
        before[l] = (float)(b - 1);
        before_pad[l] = is_pad ? FLT_MAX : before[l];
        end[l] = (float)e;
        g->has_pad |= is_pad;
        g->all_pad &= is_pad;
        g->lo = b < g->lo ? b : g->lo;
        g->hi = e > g->hi ? e : g->hi;
        g->whole_lo = b > g->whole_lo ? b : g->whole_lo;
        g->whole_hi = e < g->whole_hi ? e : g->whole_hi;
        for (int d = 0; d < keys->dim; d++) {
            g->o[d * ATTN_LANES + l] = 0;
            if (base + l >= t->lanes)
                g->q[d * ATTN_LANES + l] = t->q[d * ATTN_LANES];
        }
    }
    MLL_ASSERT(g->hi < 1 << 24);
    for (int v = 0; v < nv; v++) {
        g->max[v] = vf_set(-FLT_MAX);
        g->sum[v] = vf_set(0);
        g->before[v] = vf_load(before + v * VF);
        g->before_pad[v] = vf_load(before_pad + v * VF);
        g->end[v] = vf_load(end + v * VF);
    }
}

/* Whether every key of the chunk is a pad, so that pad rows see none of it. */
SIMD_INLINE bool only_pads(const struct group *g, const struct attn_keys *keys, int first)
{
    int last = first + MLL_ATTN_CHUNK < g->hi ? first + MLL_ATTN_CHUNK : g->hi;
    return memchr(keys->pad + first, 0, (size_t)(last - first)) == NULL;
}

SIMD_INLINE void tile_group(struct attn_tile *t, const struct attn_keys *keys, float scale,
                            int base, const int nv)
{
    struct group g;
    group_open(&g, t, keys, base, nv);
    for (int first = g.lo / MLL_ATTN_CHUNK * MLL_ATTN_CHUNK; first < g.hi;
         first += MLL_ATTN_CHUNK) {
        int last = first + MLL_ATTN_CHUNK;
        if (g.all_pad && only_pads(&g, keys, first))
            continue;
        bool whole = first >= g.whole_lo && last <= g.whole_hi &&
                     !(g.has_pad && memcmp(keys->pad + first, no_pads, MLL_ATTN_CHUNK) != 0);
        if (whole)
            tile_chunk(&g, keys, scale, first, false, nv);
        else
            tile_chunk(&g, keys, scale, first, true, nv);
    }
    for (int v = 0; v < nv; v++) {
        vf_store(t->max + base + v * VF, g.max[v]);
        vf_store(t->sum + base + v * VF, g.sum[v]);
    }
}

void SIMD(attn_tile)(struct attn_tile *t, const struct attn_keys *keys, float scale)
{
    for (int base = 0; base < t->lanes; base += TILE_VECTORS * VF) {
        if (t->lanes - base > VF)
            tile_group(t, keys, scale, base, TILE_VECTORS);
        else
            tile_group(t, keys, scale, base, 1);
    }
}

/* ---- few lanes ------------------------------------------------------------------------------- */

/* nh heads from lane `base` on, which all see the keys [begin, end). */
struct few {
    const struct attn_tile *t;
    const struct attn_keys *keys;
    int base, begin, end;
    float score[FEW][MLL_ATTN_CHUNK];
    float max[FEW], sum[FEW];
    float *o; /* (FEW, dim) */
};

/* The place of the block a chunk behind block b, or of b itself at the end. A head's blocks lie far
 * apart, too far for the hardware's prefetch: while scores are computed the chunk's values are
 * fetched, while outputs are computed the keys of the next chunk. */
SIMD_INLINE size_t few_next(const struct few *f, int b)
{
    int next = b + MLL_ATTN_CHUNK / MLL_KV_BLOCK;
    return attn_block(f->keys, next * MLL_KV_BLOCK < f->end ? next : b);
}

/* Scores of the keys of block b of the chunk at `first`; unseen keys get -FLT_MAX. */
SIMD_INLINE void few_scores(struct few *f, float scale, int first, int b, const int nh)
{
    enum { W = MLL_KV_BLOCK / VF };
    size_t block = attn_block(f->keys, first / MLL_KV_BLOCK + b);
    const float *k = f->keys->k + block, *ahead = f->keys->v + block;
    const float *q = f->t->q + f->base;
    vf acc[FEW][W];
#pragma GCC unroll 4
    for (int h = 0; h < nh; h++)
#pragma GCC unroll 2
        for (int w = 0; w < W; w++)
            acc[h][w] = vf_set(0);
    for (int d = 0; d < f->keys->dim; d++, k += MLL_KV_BLOCK, q += ATTN_LANES) {
        _mm_prefetch((const char *)(ahead + d * MLL_KV_BLOCK), _MM_HINT_T0);
#pragma GCC unroll 2
        for (int w = 0; w < W; w++) {
            vf key = vf_load(k + w * VF);
#pragma GCC unroll 4
            for (int h = 0; h < nh; h++)
                acc[h][w] = vf_fma(vf_set(q[h]), key, acc[h][w]);
        }
    }
    float at[VF];
    for (int l = 0; l < VF; l++)
        at[l] = (float)(first + b * MLL_KV_BLOCK + l);
    for (int w = 0; w < W; w++) {
        vf key = vf_add(vf_load(at), vf_set((float)(w * VF)));
        vf_mask seen = vf_both(vf_less(vf_set((float)(f->begin - 1)), key),
                               vf_less(key, vf_set((float)f->end)));
        for (int h = 0; h < nh; h++) {
            vf s = vf_pick(seen, vf_mul(acc[h][w], vf_set(scale)), vf_set(-FLT_MAX));
            vf_store(f->score[h] + b * MLL_KV_BLOCK + w * VF, s);
        }
    }
}

/* o[h][d..d + nd vectors) += p v over the keys [from, to) of one block; n elements in the last. */
SIMD_INLINE void few_output(struct few *f, int d, int first, int from, int to, int n, const int nd,
                            const int nh)
{
    int dim = f->keys->dim;
    const float *row = f->keys->v + attn_block(f->keys, from / MLL_KV_BLOCK) + d;
    const float *ahead = f->keys->k + few_next(f, from / MLL_KV_BLOCK) + d;
    vf acc[FEW][4];
    row += (size_t)(from % MLL_KV_BLOCK) * (size_t)dim;
#pragma GCC unroll 4
    for (int h = 0; h < nh; h++)
#pragma GCC unroll 4
        for (int i = 0; i < nd; i++)
            acc[h][i] = vf_load_n(f->o + h * dim + d + i * VF, nd == 1 ? n : VF);
    for (int key = from; key < to; key++, row += dim, ahead += dim) {
#pragma GCC unroll 4
        for (int i = 0; i < nd; i++) {
            vf value = vf_load_n(row + i * VF, nd == 1 ? n : VF);
            _mm_prefetch((const char *)(ahead + i * VF), _MM_HINT_T0);
#pragma GCC unroll 4
            for (int h = 0; h < nh; h++)
                acc[h][i] = vf_fma(vf_set(f->score[h][key - first]), value, acc[h][i]);
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < nh; h++)
#pragma GCC unroll 4
        for (int i = 0; i < nd; i++)
            vf_store_n(f->o + h * dim + d + i * VF, acc[h][i], nd == 1 ? n : VF);
}

/* New maximum of head h from the scores [from, to) of the chunk; scores become exp. */
SIMD_INLINE void few_exp(struct few *f, int h, int first, int from, int to)
{
    float *score = f->score[h], lane[VF];
    int dim = f->keys->dim;
    vf max = vf_set(f->max[h]);
    for (int j = from / VF * VF; j < to; j += VF)
        max = vf_max(vf_load(score + j - first), max);
    vf_store(lane, max);
    for (int l = 1; l < VF; l++)
        lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
    float shrink = fm_exp(f->max[h] - lane[0]);
    f->max[h] = lane[0];
    f->sum[h] *= shrink;
    for (int d = 0; d < dim; d++)
        f->o[h * dim + d] *= shrink;
    for (int j = from / VF * VF; j < to; j += VF) {
        vf p = vf_exp(vf_sub(vf_load(score + j - first), vf_set(lane[0])));
        vf_store(score + j - first, p);
    }
}

SIMD_INLINE void few_chunk(struct few *f, float scale, int first, const int nh)
{
    int from = first > f->begin ? first : f->begin, dim = f->keys->dim;
    int to = first + MLL_ATTN_CHUNK < f->end ? first + MLL_ATTN_CHUNK : f->end;
    attn_widen(f->keys, from, to);
    for (int b = (from - first) / MLL_KV_BLOCK; b <= (to - 1 - first) / MLL_KV_BLOCK; b++)
        few_scores(f, scale, first, b, nh);
    for (int h = 0; h < nh; h++)
        few_exp(f, h, first, from, to);
    for (int j = from; j < to; j++)
        for (int h = 0; h < nh; h++)
            f->sum[h] += f->score[h][j - first];
    for (int j = from, stop; j < to; j = stop) {
        int d = 0;
        stop = (j / MLL_KV_BLOCK + 1) * MLL_KV_BLOCK;
        stop = stop < to ? stop : to;
        for (; d + 4 * VF <= dim; d += 4 * VF)
            few_output(f, d, first, j, stop, VF, 4, nh);
        for (; d < dim; d += VF)
            few_output(f, d, first, j, stop, dim - d < VF ? dim - d : VF, 1, nh);
    }
}

SIMD_INLINE void few_heads(struct attn_tile *t, const struct attn_keys *keys, float scale, int base,
                           const int nh)
{
    struct few f = {.t = t,
                    .keys = keys,
                    .base = base,
                    .begin = t->begin[0],
                    .end = t->end[0],
                    .o = t->p}; /* ATTN_FEW * dim floats fit, see attn_tile_new */
    memset(f.o, 0, (size_t)(nh * keys->dim) * sizeof(float));
    for (int h = 0; h < nh; h++)
        f.max[h] = -FLT_MAX;
    for (int first = f.begin / MLL_ATTN_CHUNK * MLL_ATTN_CHUNK; first < f.end;
         first += MLL_ATTN_CHUNK)
        few_chunk(&f, scale, first, nh);
    for (int h = 0; h < nh; h++) {
        t->max[base + h] = f.max[h];
        t->sum[base + h] = f.sum[h];
        for (int d = 0; d < keys->dim; d++)
            t->o[d * ATTN_LANES + base + h] = f.o[h * keys->dim + d];
    }
}

void SIMD(attn_few)(struct attn_tile *t, const struct attn_keys *keys, float scale)
{
    int base = 0;
    for (; base + FEW <= t->lanes; base += FEW)
        few_heads(t, keys, scale, base, FEW);
    for (; base < t->lanes; base++)
        few_heads(t, keys, scale, base, 1);
}
