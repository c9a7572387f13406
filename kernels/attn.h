/* attn.h - the tile that both attention ops work on, and its forms.
 *
 * A tile is a set of lanes, each one query: a row and a head. All lanes of a tile read the keys and
 * values of the same KV head. Lane l sees the keys of [begin[l], end[l]), without those that pad[]
 * marks if the lane is a pad row itself. A lane's result depends on nothing but its own query, its
 * own range and the keys in it: per chunk of MLL_ATTN_CHUNK keys (ops.h)
 *   score_j = scale * sum_d q[d] k[j][d]                 fused multiply-adds in ascending d
 *   new     = max(max, score_j ...)                      max starts at -FLT_MAX
 *   sum, o *= exp(max - new)
 *   p_j     = exp(score_j - new);  sum += p_j;  o[d] = fma(p_j, v[j][d], o[d])    in ascending j
 * Keys that a lane does not see change nothing, whatever their memory holds. */
#ifndef MLL_ATTN_H
#define MLL_ATTN_H

#include "ops.h"

#define ATTN_LANES 48 /* three AVX-512 registers */
#define ATTN_FEW   4

/* Widens one block of one head to float32, k (head_dim, MLL_KV_BLOCK) and v (MLL_KV_BLOCK,
 * head_dim); the narrow forms are kv.h's. */
typedef void attn_widen_fn(float *k, float *v, const unsigned char *from_k,
                           const unsigned char *from_v, enum mll_dtype dtype, int head_dim);

/* Blocks of 16 keys of one head: (head_dim, MLL_KV_BLOCK) in k, (MLL_KV_BLOCK, head_dim) in v.
 * Narrow ones are widened chunk by chunk (attn_widen): then k and v are the place of one chunk. */
struct attn_keys {
    float *k, *v;
    const int32_t *blocks; /* block number -> place in k and v; NULL: in order */
    size_t stride;         /* floats between two places */
    const uint8_t *pad;    /* (keys) or NULL */
    int dim;
    attn_widen_fn *widen; /* NULL where keys are float32; else the rest holds */
    enum mll_dtype dtype;
    const unsigned char *narrow_k, *narrow_v;
    size_t narrow_stride; /* bytes between two places */
};

struct attn_tile {
    int lanes;                              /* 1 to ATTN_LANES; lanes behind are as lane 0 */
    int begin[ATTN_LANES], end[ATTN_LANES]; /* empty ranges give sum 0 and o 0 */
    bool is_pad[ATTN_LANES];
    float max[ATTN_LANES], sum[ATTN_LANES]; /* results of the form */
    float *q, *o;                           /* (head_dim, ATTN_LANES) */
    float *p; /* for the form: (MLL_ATTN_CHUNK, ATTN_LANES) or (ATTN_FEW, head_dim) */
};

/* Fills max, sum and o of all lanes. */
typedef void attn_tile_fn(struct attn_tile *t, const struct attn_keys *keys, float scale);

attn_tile_fn attn_tile_c, attn_tile_avx2, attn_tile_avx512;
/* The same for lanes that all have the range of lane 0 and are no pad rows: one row's heads. */
attn_tile_fn attn_few_avx2, attn_few_avx512;
attn_widen_fn attn_widen_c, attn_widen_avx2, attn_widen_avx512;

/* Bytes of one tile for exec_alloc, and its creation; its lanes start unused. */
size_t attn_tile_bytes(int head_dim);
struct attn_tile *attn_tile_new(void *memory, int head_dim);
/* The forms of this exec: for any tile, and for one row. */
attn_tile_fn *attn_tile_form(const struct mll_exec *ex);
attn_tile_fn *attn_few_form(const struct mll_exec *ex);
/* Adds a lane with query q (head_dim), or takes its result out, y = o / sum. */
void attn_tile_add(struct attn_tile *t, const float *q, int head_dim, int begin, int end);
void attn_tile_result(const struct attn_tile *t, float *y, int lane, int head_dim);

static inline size_t attn_block(const struct attn_keys *keys, int b)
{
    if (keys->widen != NULL)
        return (size_t)(b % (MLL_ATTN_CHUNK / MLL_KV_BLOCK)) * (size_t)keys->dim * MLL_KV_BLOCK;
    return (size_t)(keys->blocks ? keys->blocks[b] : b) * keys->stride;
}

/* Makes the keys [from, to) of one chunk readable. */
static inline void attn_widen(const struct attn_keys *keys, int from, int to)
{
    for (int b = from / MLL_KV_BLOCK; keys->widen != NULL && b * MLL_KV_BLOCK < to; b++) {
        size_t at = (size_t)keys->blocks[b] * keys->narrow_stride, place = attn_block(keys, b);
        keys->widen(keys->k + place, keys->v + place, keys->narrow_k + at, keys->narrow_v + at,
                    keys->dtype, keys->dim);
    }
}

#endif
