/* op_case.h - one op at one shape, for mllama bench ops: its operands on an exec, and its call. */
#ifndef MLL_OP_CASE_H
#define MLL_OP_CASE_H

#include "ops.h"

enum { OP_COPIES = 128, OP_INPUTS = 3 };

struct op_kind; /* op_kind.h */
struct sample_row;
struct sample_out;

/* n rows of cols elements, but
 *   matmul        x (n, cols) by a matrix (rows, cols)
 *   matmul_gelu   the same
 *   matmul_add    the same, added to (n, rows)
 *   matmul_group  and by others of `more` rows, 0: no more
 *   attn          `rows` heads of cols; the last row sees `context` keys of 8 heads, one before it
 *                 one less
 *   attn_vision   the same heads, all rows over all rows
 *   rope, rope_kv_append, kv_append  `rows` heads of cols, keys and values of 8, at positions from
 *                 context on, which is 1 or more
 *   gather_rows   from a table of `rows` rows
 *   take_rows     of n, in another order
 *   patchify      n tiles, cols pixels wide
 *   add_*_embedding, class_and_pad, join_states  n tiles of rows * rows patches of cols; there are
 *                 five kept states */
struct op_shape {
    const char *op; /* of ops.h: "matmul" */
    int n, rows, cols, context;
    int more[MLL_MATMUL_GROUP - 1];
    const char *quant;    /* of matrices: "bf16", "nf4", "nf4-dq" or "int8" */
    enum mll_phase phase; /* of matmul and attention */
    bool usual;           /* measured where nothing was asked for */
    char name[64];
};

/* The i-th op; NULL behind the last. */
const char *op_case_name(size_t i);
/* All shapes of the 11B and 90B; NULL where there is no memory, the caller frees. */
struct op_shape *op_shapes(size_t *n);

/* Bytes that must be moved, with keys of that type, and operations that must be done. */
double op_case_bytes(const struct op_shape *shape, enum mll_dtype kv);
double op_case_flop(const struct op_shape *shape);
/* Whether the type of keys makes a difference. */
bool op_case_has_keys(const struct op_shape *shape);
/* Elements of a row of the result, of which there are n. */
size_t op_case_width(const struct op_shape *shape);
/* Whether single rows of the result can be computed alone. */
bool op_case_separable(const struct op_shape *shape);
/* Whether all backends give the same bits. */
bool op_case_exact(const struct op_shape *shape);

/* Operands on an exec: n_copies of what a decoder would read anew, weights or keys. */
struct op_case {
    struct op_shape shape;
    const struct op_kind *kind;
    struct mll_exec *ex;
    int n, n_copies, copy; /* rows that are computed; the copy of the next call */
    struct mat w[OP_COPIES];
    void *memory[OP_COPIES]; /* host, behind w */
    float *x[OP_INPUTS], *y; /* memory of the exec, as all that follows */
    struct sample_row *rows;
    struct sample_out *out;
    uint8_t *pad;
    int32_t *ids, *seq, *begin, *end, *front;
    float *inv_freq;
    struct kv_pool pool;
    struct kv_table table; /* of all copies, a sequence each */
};

/* The most copies of the operands that a case holds; 1 where only one is used. */
int op_case_most_copies(const struct op_shape *shape);
/* The memory that op_case_open and the op take from the exec's arena. */
size_t op_case_scratch(const struct mll_exec *ex, const struct op_shape *shape, int n_copies);
/* The same numbers on every exec. only (n_only) chooses rows of the result, NULL: all; such a case
 * of attn_vision computes what op_attn says of the same keys, for the CPU. */
enum mll_status op_case_open(struct op_case *c, struct mll_exec *ex, const struct op_shape *shape,
                             int n_copies, const int *only, int n_only, struct mll_error *err);
void op_case_close(struct op_case *c); /* not the exec */
/* Calls the op on one copy of the operands. On a GPU it may still run on return. */
void op_case_call(struct op_case *c, int copy);
/* The result of the calls so far, (rows, op_case_width): what was written, side by side. Of stored
 * keys and values that is attention of every row over its own and the one in front of it. */
void op_case_result(const struct op_case *c, float *y);

#endif
