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

/* Blocks of 16 keys of one head: (head_dim, MLL_KV_BLOCK) in k, (MLL_KV_BLOCK, head_dim) in v. */
struct attn_keys {
    const float *k, *v;
    const int32_t *blocks; /* block number -> place in k and v; NULL: in order */
    size_t stride;         /* floats between two places */
    const uint8_t *pad;    /* (keys) or NULL */
    int dim;
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
    return (size_t)(keys->blocks ? keys->blocks[b] : b) * keys->stride;
}

#endif
