/* matmul_block.c - matmul of many rows: blocks that fit the caches, packed into panels.
 *
 *   for each block of X_ROWS rows of x                   packed once, by all threads
 *     for each block of W_ROWS rows of w                 one thread each, from here on
 *       for each block of K_STEPS steps of k             w packed: W_ROWS * 64 * K_STEPS bytes, L2
 *         for each panel of MATMUL_X rows of x           64 * 6 * K_STEPS bytes, L1
 *           for each panel of MATMUL_W rows of w         one tile in registers
 * The 16 lanes of every output wait in scratch between two blocks of k, so that blocks change no
 * bit. Widening and packing w costs one part in X_ROWS of the arithmetic. */
#include "matmul.h"
#include "par.h"

enum { X_ROWS = 192, W_ROWS = 32, K_STEPS = 64, STEP_BYTES = 64 };

struct block {
    const struct matmul *m;
    const struct matmul_form *form;
    size_t x_first, x_rows;    /* rows of x in this block */
    size_t steps, block_steps; /* of k: all, and in one block but the last */
    unsigned char *x_panels;   /* block of k by block of k, in it panel by panel */
    unsigned char *thread_scratch;
    size_t thread_bytes;
};

struct k_range {
    size_t first, steps;   /* in steps */
    size_t from, elements; /* in elements */
};

static size_t steps_of(size_t cols, size_t step)
{
    return (cols + step - 1) / step;
}

/* Blocks of equal length rather than full ones and a short rest. */
static size_t block_steps_of(size_t steps)
{
    return steps_of(steps, steps_of(steps, K_STEPS));
}

static struct k_range k_range_at(const struct block *b, size_t first)
{
    size_t step = (size_t)b->form->step, cols = (size_t)b->m->w->cols;
    struct k_range k = {.first = first, .steps = min_size(b->block_steps, b->steps - first)};
    k.from = first * step;
    k.elements = min_size(k.steps * step, cols - k.from);
    return k;
}

static unsigned char *x_panel_at(const struct block *b, const struct k_range *k, size_t row)
{
    return b->x_panels + (k->first * b->x_rows + row * k->steps) * STEP_BYTES;
}

static void pack_x_panels(void *arg, size_t begin, size_t end, int thread)
{
    const struct block *b = arg;
    size_t cols = (size_t)b->m->w->cols;
    (void)thread;
    for (size_t p = begin; p < end; p++) {
        size_t row = p * MATMUL_X;
        int rows = (int)min_size(MATMUL_X, b->x_rows - row);
        for (size_t s = 0; s < b->steps; s += b->block_steps) {
            struct k_range k = k_range_at(b, s);
            b->form->pack_x(x_panel_at(b, &k, row), b->m->x + (b->x_first + row) * cols + k.from,
                            cols, rows, k.elements);
        }
    }
}

/* All tiles of one block of w by one block of k; w_panels packed. */
static void run_tiles(const struct block *b, const struct k_range *k, size_t w_first,
                      const unsigned char *w_panels, float *lanes)
{
    const struct matmul *m = b->m;
    size_t w_rows = min_size(W_ROWS, (size_t)m->w->rows - w_first);
    struct matmul_tile t = {.steps = k->steps,
                            .tail = (int)(k->elements % (size_t)b->form->step),
                            .first = k->first == 0,
                            .last = k->first + k->steps == b->steps,
                            .acc = lanes,
                            .y_stride = (size_t)m->w->rows};
    for (size_t x = 0; x < b->x_rows; x += MATMUL_X) {
        t.x = x_panel_at(b, k, x);
        t.rows = (int)min_size(MATMUL_X, b->x_rows - x);
        for (size_t w = 0; w < w_rows; w += MATMUL_W) {
            struct matmul_ends ends;
            t.w = w_panels + w * k->steps * STEP_BYTES;
            t.cols = (int)min_size(MATMUL_W, w_rows - w);
            t.ends = &ends;
            if (t.last)
                matmul_ends(&ends, m, w_first + w, t.cols);
            size_t at = (b->x_first + x) * t.y_stride + w_first + w;
            t.y = m->y + at;
            t.base = matmul_base(m, at);
            b->form->tile(&t);
            t.acc += MATMUL_X * MATMUL_W * MATMUL_LANES;
        }
    }
}

static void run_w_blocks(void *arg, size_t begin, size_t end, int thread)
{
    const struct block *b = arg;
    const struct mat *w = b->m->w;
    unsigned char *w_panels = b->thread_scratch + (size_t)thread * b->thread_bytes;
    float *lanes = (float *)(void *)(w_panels + W_ROWS * b->block_steps * STEP_BYTES);
    for (size_t i = begin; i < end; i++) {
        size_t w_first = i * W_ROWS, w_rows = min_size(W_ROWS, (size_t)w->rows - w_first);
        for (size_t s = 0; s < b->steps; s += b->block_steps) {
            struct k_range k = k_range_at(b, s);
            for (size_t r = 0; r < w_rows; r += MATMUL_W)
                b->form->pack_w(w_panels + r * k.steps * STEP_BYTES, w, w_first + r,
                                (int)min_size(MATMUL_W, w_rows - r), k.from, k.elements);
            run_tiles(b, &k, w_first, w_panels, lanes);
        }
    }
}

static size_t thread_bytes_of(size_t block_steps, size_t x_rows)
{
    size_t panels = steps_of(x_rows, MATMUL_X) * MATMUL_X;
    return W_ROWS * STEP_BYTES * block_steps + panels * W_ROWS * MATMUL_LANES * sizeof(float);
}

void matmul_block(struct mll_exec *ex, const struct matmul *m)
{
    size_t mark = exec_mark(ex), n = (size_t)m->n, x_rows = min_size(n, X_ROWS);
    struct block b = {.m = m, .form = m->form};
    b.steps = steps_of((size_t)m->w->cols, (size_t)m->form->step);
    b.block_steps = block_steps_of(b.steps);
    b.thread_bytes = thread_bytes_of(b.block_steps, x_rows);
    b.x_panels = exec_alloc(ex, x_rows * b.steps * STEP_BYTES);
    b.thread_scratch = exec_alloc(ex, (size_t)ex->threads * b.thread_bytes);
    for (b.x_first = 0; b.x_first < n; b.x_first += X_ROWS) {
        b.x_rows = min_size(X_ROWS, n - b.x_first);
        par_for(ex->par, ex->threads, steps_of(b.x_rows, MATMUL_X), pack_x_panels, &b);
        par_for(ex->par, ex->threads, steps_of((size_t)m->w->rows, W_ROWS), run_w_blocks, &b);
    }
    exec_release(ex, mark);
}

size_t matmul_block_scratch(int threads, int n, int cols)
{
    size_t steps = steps_of((size_t)cols, MATMUL_LANES), x_rows = min_size((size_t)n, X_ROWS);
    size_t k_steps = min_size(steps, K_STEPS);
    return x_rows * steps * STEP_BYTES + (size_t)threads * thread_bytes_of(k_steps, x_rows);
}
