/* blocks.c - which KV blocks are free, and whose the others are. A session takes blocks as its text
 * and images grow, and gives them back when it is cleared.
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

/* A free block, readable in the pools of self (cross false) or cross layers. There is one: every
 * session has its share. */
static int32_t take_block(struct mll_engine *engine, bool cross)
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

static const struct kv_table *table_of(const struct mll_engine *engine, bool cross)
{
    return cross ? &engine->image_table : &engine->text_table;
}

static int32_t *row_of(const struct mll_session *s, bool cross)
{
    return cross ? s->image_blocks : s->text_blocks;
}

/* Entries [first, last) of the session's row to the device. */
static void send_row(struct mll_session *s, bool cross, int first, int last)
{
    const struct kv_table *table = table_of(s->engine, cross);
    size_t at = (size_t)s->slot * (size_t)table->max_blocks + (size_t)first;
    exec_send(s->engine->exec, (int32_t *)table->blocks + at, row_of(s, cross) + first,
              (size_t)(last - first) * sizeof(int32_t));
}

void blocks_grow(struct mll_session *session, bool cross, int begin, int end)
{
    struct mll_engine *e = session->engine;
    int32_t *row = row_of(session, cross);
    int first = begin / MLL_KV_BLOCK, last = (end + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK;
    bool grown = false;
    for (int b = first; b < last; b++)
        if (row[b] < 0) {
            row[b] = take_block(e, cross);
            grown = true;
        }
    if (grown)
        send_row(session, cross, first, last);
}

void blocks_give(struct mll_session *session, bool cross)
{
    struct block_stack *stack = stack_of(session->engine, cross);
    int32_t *row = row_of(session, cross);
    int n = table_of(session->engine, cross)->max_blocks;
    for (int i = n - 1; i >= 0; i--) {
        if (row[i] >= 0)
            stack->free[stack->n_free++] = row[i];
        row[i] = -1;
    }
    send_row(session, cross, 0, n);
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
