/* attn_tile.c - one tile of attention, in plain C.  The formula and its order: attn.h. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "attn.h"
#include "backend.h"
#include "fmath.h"
#include "kv.h"

/* Rounded up, so that tiles laid side by side stay aligned. */
static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

size_t attn_tile_bytes(int head_dim)
{
    size_t few = ATTN_FEW * (size_t)head_dim, chunk = MLL_ATTN_CHUNK * ATTN_LANES;
    size_t floats = 2 * (size_t)head_dim * ATTN_LANES + (few > chunk ? few : chunk);
    return aligned(sizeof(struct attn_tile)) + aligned(floats * sizeof(float));
}

struct attn_tile *attn_tile_new(void *memory, int head_dim)
{
    struct attn_tile *t = memory;
    t->q = (float *)((char *)memory + aligned(sizeof *t));
    t->o = t->q + (size_t)head_dim * ATTN_LANES;
    t->p = t->o + (size_t)head_dim * ATTN_LANES;
    t->lanes = 0;
    return t;
}

void attn_tile_add(struct attn_tile *t, const float *q, int head_dim, int begin, int end)
{
    int lane = t->lanes++;
    t->begin[lane] = begin;
    t->end[lane] = begin < end ? end : begin;
    t->is_pad[lane] = false;
    for (int d = 0; d < head_dim; d++)
        t->q[d * ATTN_LANES + lane] = q[d];
}

void attn_tile_result(const struct attn_tile *t, float *y, int lane, int head_dim)
{
    if (t->begin[lane] == t->end[lane]) {
        memset(y, 0, (size_t)head_dim * sizeof(float));
        return;
    }
    for (int d = 0; d < head_dim; d++)
        y[d] = t->o[d * ATTN_LANES + lane] / t->sum[lane];
}

attn_tile_fn *attn_tile_form(const struct mll_exec *ex)
{
    return SIMD_FORM(ex, attn_tile);
}

attn_tile_fn *attn_few_form(const struct mll_exec *ex)
{
#define attn_few_c attn_tile_c
    return SIMD_FORM(ex, attn_few);
#undef attn_few_c
}

void attn_widen_c(float *k, float *v, const unsigned char *from_k, const unsigned char *from_v,
                  enum mll_dtype dtype, int head_dim)
{
    const float *k_scale = kv_scales(from_k, dtype, head_dim);
    const float *v_scale = kv_scales(from_v, dtype, head_dim);
    for (int i = 0; i < MLL_KV_BLOCK * head_dim; i++) {
        k[i] = narrow_at(from_k, dtype, i) * k_scale[i % MLL_KV_BLOCK];
        v[i] = narrow_at(from_v, dtype, i) * v_scale[i / head_dim];
    }
}

static bool is_seen(const struct attn_tile *t, const struct attn_keys *keys, int lane, int key)
{
    return key >= t->begin[lane] && key < t->end[lane] &&
           !(t->is_pad[lane] && keys->pad && keys->pad[key]);
}

/* Scores of the keys [first, first + MLL_ATTN_CHUNK) that the lane sees; returns the new maximum.
 */
static float chunk_scores(float score[MLL_ATTN_CHUNK], const struct attn_tile *t,
                          const struct attn_keys *keys, int lane, int first, float scale)
{
    float max = t->max[lane];
    for (int j = 0; j < MLL_ATTN_CHUNK; j++) {
        if (!is_seen(t, keys, lane, first + j))
            continue;
        const float *k = keys->k + attn_block(keys, (first + j) / MLL_KV_BLOCK);
        float s = 0;
        for (int d = 0; d < keys->dim; d++)
            s = fmaf(t->q[d * ATTN_LANES + lane], k[d * MLL_KV_BLOCK + j % MLL_KV_BLOCK], s);
        score[j] = s * scale;
        max = score[j] > max ? score[j] : max;
    }
    return max;
}

static void lane_chunk(struct attn_tile *t, const struct attn_keys *keys, int lane, int first,
                       float scale)
{
    float score[MLL_ATTN_CHUNK];
    int from = first > t->begin[lane] ? first : t->begin[lane], to = first + MLL_ATTN_CHUNK;
    attn_widen(keys, from, to < t->end[lane] ? to : t->end[lane]);
    float max = chunk_scores(score, t, keys, lane, first, scale);
    float shrink = fm_exp(t->max[lane] - max);
    t->max[lane] = max;
    t->sum[lane] *= shrink;
    for (int d = 0; d < keys->dim; d++)
        t->o[d * ATTN_LANES + lane] *= shrink;
    for (int j = 0; j < MLL_ATTN_CHUNK; j++) {
        if (!is_seen(t, keys, lane, first + j))
            continue;
        size_t row = (size_t)((first + j) % MLL_KV_BLOCK) * (size_t)keys->dim;
        const float *v = keys->v + attn_block(keys, (first + j) / MLL_KV_BLOCK) + row;
        float p = fm_exp(score[j] - max);
        t->sum[lane] += p;
        for (int d = 0; d < keys->dim; d++)
            t->o[d * ATTN_LANES + lane] = fmaf(p, v[d], t->o[d * ATTN_LANES + lane]);
    }
}

void attn_tile_c(struct attn_tile *t, const struct attn_keys *keys, float scale)
{
    memset(t->o, 0, (size_t)keys->dim * ATTN_LANES * sizeof(float));
    for (int lane = 0; lane < t->lanes; lane++) {
        int first = t->begin[lane] / MLL_ATTN_CHUNK * MLL_ATTN_CHUNK;
        t->max[lane] = -FLT_MAX;
        t->sum[lane] = 0;
        for (; first < t->end[lane]; first += MLL_ATTN_CHUNK)
            lane_chunk(t, keys, lane, first, scale);
    }
}
