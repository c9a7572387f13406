/* blocks.c - which KV blocks are free.
 *
 * Blocks that were never used are zeroed when first taken, in every layer of their kind: attention
 * reads whole chunks and multiplies what lies behind a range by zero, so it must be finite. On a
 * GPU, whose memory is there at once, all of them are zeroed when the engine opens (blocks_zero).
 */
#include "engine.h"

#include <stdlib.h>

enum mll_status blocks_open(struct block_stack *stack, int n, struct mll_error *err)
{
    *stack = (struct block_stack){.free = calloc((size_t)n, sizeof *stack->free), .n_free = n};
    if (stack->free == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %d KV blocks", n);
    for (int i = 0; i < n; i++)
        stack->free[i] = n - 1 - i;
    return MLL_OK;
}

void blocks_close(struct block_stack *stack)
{
    free(stack->free);
    *stack = (struct block_stack){0};
}

static struct block_stack *stack_of(struct mll_engine *engine, bool cross)
{
    return cross ? &engine->image_stack : &engine->text_stack;
}

int32_t blocks_take(struct mll_engine *engine, bool cross)
{
    const struct cfg_text *t = &engine->cfg.text;
    struct block_stack *stack = stack_of(engine, cross);
    MLL_ASSERT(stack->n_free > 0);
    int32_t block = stack->free[--stack->n_free];
    if (block < stack->n_fresh)
        return block;

    stack->n_fresh = block + 1;
    size_t bytes = plan_block_bytes(&engine->cfg, engine->exec);
    for (int i = 0; i < t->layers; i++) {
        if (t->is_cross[i] != cross)
            continue;
        size_t at = (size_t)block * bytes;
        exec_zero(engine->exec, (char *)engine->pools[i].k + at, bytes);
        exec_zero(engine->exec, (char *)engine->pools[i].v + at, bytes);
    }
    return block;
}

void blocks_give(struct mll_engine *engine, bool cross, int32_t block)
{
    struct block_stack *stack = stack_of(engine, cross);
    stack->free[stack->n_free++] = block;
}

void blocks_zero(struct mll_engine *engine)
{
    size_t bytes = plan_block_bytes(&engine->cfg, engine->exec);
    for (int i = 0; i < engine->cfg.text.layers; i++) {
        struct kv_pool *pool = &engine->pools[i];
        exec_zero(engine->exec, pool->k, (size_t)pool->n_blocks * bytes);
        exec_zero(engine->exec, pool->v, (size_t)pool->n_blocks * bytes);
    }
    engine->text_stack.n_fresh = engine->text_stack.n_free;
    engine->image_stack.n_fresh = engine->image_stack.n_free;
}
