/* op_case.h - one op at one shape, for mllama bench ops: its operands on an exec, and its call. */
#ifndef MLL_OP_CASE_H
#define MLL_OP_CASE_H

#include "ops.h"

enum { OP_COPIES = 128, OP_INPUTS = 3 };

enum op_kind {
    CASE_MATMUL = 0,
    CASE_ATTN,
    CASE_ATTN_VISION,
    CASE_ROPE_KV_APPEND,
    CASE_GATHER_ROWS,
    CASE_RMSNORM,
    CASE_ADD_RMSNORM,
    CASE_LAYERNORM,
    CASE_SILU_MUL,
    CASE_GELU,
    CASE_ADD,
    CASE_LOG_PROBS,
    CASE_CHOOSE,
    CASE_PATCHIFY,
    CASE_JOIN_STATES,
    CASE_COUNT
};

/* n rows of cols elements, but
 *   matmul        x (n, cols) by a matrix (rows, cols)
 *   attn          `rows` heads of cols; the last row sees `context` keys of 8 heads, one before it
 *                 one less
 *   attn_vision   the same heads, all rows over all rows
 *   rope_kv_append  `rows` heads of cols, keys and values of 8, at positions from context on
 *   gather_rows   from a table of `rows` rows
 *   patchify      n tiles, cols pixels wide
 *   join_states   n tiles of rows * rows patches; the last and five kept states of cols */
struct op_shape {
    enum op_kind kind;
    int n, rows, cols, context;
    const char *quant;    /* of the matrix: NULL for bf16 */
    enum mll_phase phase; /* of matmul and attention */
    bool usual;           /* measured where nothing was asked for */
    char name[56];
};

const char *op_case_name(enum op_kind kind);
/* All shapes of the 11B and 90B; NULL where there is no memory, the caller frees. */
struct op_shape *op_shapes(size_t *n);

/* Bytes that must be moved, with keys of that type, and operations that must be done. */
double op_case_bytes(const struct op_shape *shape, enum mll_dtype kv);
double op_case_flop(const struct op_shape *shape);
/* Elements of a row of the result, of which there are n. */
size_t op_case_width(const struct op_shape *shape);
/* Whether single rows of the result can be computed alone. */
bool op_case_separable(const struct op_shape *shape);

/* Operands on an exec: n_copies of what a decoder would read anew, weights or keys. */
struct op_case {
    struct op_shape shape;
    struct mll_exec *ex;
    int n, n_copies; /* rows that are computed */
    struct mat w[OP_COPIES];
    void *memory[OP_COPIES]; /* host, behind w */
    float *x[OP_INPUTS], *y; /* memory of the exec */
    uint8_t *pad;
    int32_t *blocks, *seq, *begin, *end, *ids;
    float *inv_freq;
    struct kv_pool pool;
};

/* The memory that op_case_open and the op take from the exec's arena. */
size_t op_case_scratch(const struct mll_exec *ex, const struct op_shape *shape, int n_copies);
/* The same numbers on every exec. only (n_only) chooses rows of the result, NULL: all; such a case
 * of attn_vision computes what op_attn says of the same keys, for the CPU. */
enum mll_status op_case_open(struct op_case *c, struct mll_exec *ex, const struct op_shape *shape,
                             int n_copies, const int *only, int n_only, struct mll_error *err);
void op_case_close(struct op_case *c); /* not the exec */
/* Calls the op on one copy of the operands. On a GPU it may still run on return. */
void op_case_call(const struct op_case *c, int copy);
/* The result of the calls so far; (rows, op_case_width). */
void op_case_result(const struct op_case *c, float *y);

#endif
