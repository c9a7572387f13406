/* stub.c - ops that have no CPU form yet; calling one aborts. */
#include "backend.h"

void rmsnorm_cpu(struct mll_exec *ex, float *y, const float *x, const struct mat *w, int rows,
                 int dim, float eps)
{
    (void)ex;
    (void)y;
    (void)x;
    (void)w;
    (void)rows;
    (void)dim;
    (void)eps;
    MLL_ASSERT(!"rmsnorm has no CPU form yet");
}

void layernorm_cpu(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                   const struct mat *b, int rows, int dim, float eps)
{
    (void)ex;
    (void)y;
    (void)x;
    (void)w;
    (void)b;
    (void)rows;
    (void)dim;
    (void)eps;
    MLL_ASSERT(!"layernorm has no CPU form yet");
}

void add_cpu(struct mll_exec *ex, float *y, const float *x, const float *z, size_t n)
{
    (void)ex;
    (void)y;
    (void)x;
    (void)z;
    (void)n;
    MLL_ASSERT(!"add has no CPU form yet");
}

void add_gated_cpu(struct mll_exec *ex, float *y, const float *x, const struct mat *gate,
                   const float *row_scale, int rows, int dim)
{
    (void)ex;
    (void)y;
    (void)x;
    (void)gate;
    (void)row_scale;
    (void)rows;
    (void)dim;
    MLL_ASSERT(!"add_gated has no CPU form yet");
}

void silu_mul_cpu(struct mll_exec *ex, float *y, const float *gate, const float *up, size_t n)
{
    (void)ex;
    (void)y;
    (void)gate;
    (void)up;
    (void)n;
    MLL_ASSERT(!"silu_mul has no CPU form yet");
}

void gelu_cpu(struct mll_exec *ex, float *y, const float *x, size_t n)
{
    (void)ex;
    (void)y;
    (void)x;
    (void)n;
    MLL_ASSERT(!"gelu has no CPU form yet");
}

void rope_cpu(struct mll_exec *ex, float *x, const int32_t *pos, const float *inv_freq, int n,
              int heads, int head_dim)
{
    (void)ex;
    (void)x;
    (void)pos;
    (void)inv_freq;
    (void)n;
    (void)heads;
    (void)head_dim;
    MLL_ASSERT(!"rope has no CPU form yet");
}

void kv_append_cpu(struct mll_exec *ex, struct kv_pool *pool, const float *k, const float *v,
                   const struct kv_table *table, const int32_t *seq, const int32_t *pos, int n)
{
    (void)ex;
    (void)pool;
    (void)k;
    (void)v;
    (void)table;
    (void)seq;
    (void)pos;
    (void)n;
    MLL_ASSERT(!"kv_append has no CPU form yet");
}

void attn_cpu(struct mll_exec *ex, float *y, const float *q, const struct kv_pool *pool,
              const struct kv_table *table, const int32_t *seq, const int32_t *begin,
              const int32_t *end, int n, int heads, float scale)
{
    (void)ex;
    (void)y;
    (void)q;
    (void)pool;
    (void)table;
    (void)seq;
    (void)begin;
    (void)end;
    (void)n;
    (void)heads;
    (void)scale;
    MLL_ASSERT(!"attn has no CPU form yet");
}

void attn_vision_cpu(struct mll_exec *ex, float *y, const float *q, const float *k, const float *v,
                     const uint8_t *pad, int rows, int heads, int head_dim, float scale)
{
    (void)ex;
    (void)y;
    (void)q;
    (void)k;
    (void)v;
    (void)pad;
    (void)rows;
    (void)heads;
    (void)head_dim;
    (void)scale;
    MLL_ASSERT(!"attn_vision has no CPU form yet");
}

void patchify_cpu(struct mll_exec *ex, float *y, const float *x, int tiles, int size, int patch)
{
    (void)ex;
    (void)y;
    (void)x;
    (void)tiles;
    (void)size;
    (void)patch;
    MLL_ASSERT(!"patchify has no CPU form yet");
}

void add_tile_embedding_cpu(struct mll_exec *ex, float *x, const struct mat *table,
                            const struct mat *gate, const int32_t *id, int tiles, int rows, int dim)
{
    (void)ex;
    (void)x;
    (void)table;
    (void)gate;
    (void)id;
    (void)tiles;
    (void)rows;
    (void)dim;
    MLL_ASSERT(!"add_tile_embedding has no CPU form yet");
}

void add_position_embedding_cpu(struct mll_exec *ex, float *x, const struct mat *position,
                                const struct mat *tile_position, const struct mat *gate,
                                const int32_t *id, int tiles, int rows, int dim)
{
    (void)ex;
    (void)x;
    (void)position;
    (void)tile_position;
    (void)gate;
    (void)id;
    (void)tiles;
    (void)rows;
    (void)dim;
    MLL_ASSERT(!"add_position_embedding has no CPU form yet");
}

void class_and_pad_cpu(struct mll_exec *ex, float *y, const float *x, const struct mat *cls,
                       int tiles, int patches, int rows, int dim)
{
    (void)ex;
    (void)y;
    (void)x;
    (void)cls;
    (void)tiles;
    (void)patches;
    (void)rows;
    (void)dim;
    MLL_ASSERT(!"class_and_pad has no CPU form yet");
}

void join_states_cpu(struct mll_exec *ex, float *y, const float *last, const float *const *kept,
                     int n_kept, int tiles, int patches, int rows, int dim)
{
    (void)ex;
    (void)y;
    (void)last;
    (void)kept;
    (void)n_kept;
    (void)tiles;
    (void)patches;
    (void)rows;
    (void)dim;
    MLL_ASSERT(!"join_states has no CPU form yet");
}

void argmax_cpu(struct mll_exec *ex, int32_t *id, uint8_t *finite, const float *x, int n, int dim)
{
    (void)ex;
    (void)id;
    (void)finite;
    (void)x;
    (void)n;
    (void)dim;
    MLL_ASSERT(!"argmax has no CPU form yet");
}

size_t attn_scratch_cpu(const struct mll_exec *ex, int n, int heads, int head_dim)
{
    (void)ex;
    (void)n;
    (void)heads;
    (void)head_dim;
    return 0;
}
size_t attn_vision_scratch_cpu(const struct mll_exec *ex, int rows, int heads, int head_dim)
{
    (void)ex;
    (void)rows;
    (void)heads;
    (void)head_dim;
    return 0;
}
