/* op_case.h - one op at one shape, for mllama bench ops: its operands on an exec, and its call. */
#ifndef MLL_OP_CASE_H
#define MLL_OP_CASE_H

#include "ops.h"

enum { OP_COPIES = 16 };

enum op_kind {
    CASE_MATMUL = 0,
    CASE_ATTN,
    CASE_ATTN_VISION,
    CASE_RMSNORM,
    CASE_SILU_MUL,
    CASE_ADD
};

/* matmul: x (n, cols) by a matrix (rows, cols); attention: n query rows of `rows` heads of cols
 * elements, the last of which sees `context` keys of 8 heads; vision: all n rows; the others: n
 * rows of cols elements. */
struct op_shape {
    enum op_kind kind;
    int n, rows, cols, context;
    const char *quant;    /* of the matrix: NULL for bf16 */
    enum mll_phase phase; /* of matmul and attention */
    char name[48];
};

const char *op_case_name(enum op_kind kind);
double op_case_bytes(const struct op_shape *shape); /* that must be moved, on the CPU's types */
double op_case_flops(const struct op_shape *shape);
size_t op_case_outputs(const struct op_shape *shape); /* elements of the result */

/* Operands on an exec: n_copies of what a decoder would read anew, weights or keys. */
struct op_case {
    struct op_shape shape;
    struct mll_exec *ex;
    int n_copies;
    struct mat w[OP_COPIES];
    void *memory[OP_COPIES]; /* host, behind w */
    float *x, *y;            /* memory of the exec */
    uint8_t *pad;
    int32_t *blocks, *seq, *begin, *end;
    struct kv_pool pool;
};

/* The memory that op_case_open and the op take from the exec's arena. */
size_t op_case_scratch(const struct mll_exec *ex, const struct op_shape *shape, int n_copies);
enum mll_status op_case_open(struct op_case *c, struct mll_exec *ex, const struct op_shape *shape,
                             int n_copies, struct mll_error *err);
void op_case_close(struct op_case *c); /* not the exec */
/* Calls the op on one copy of the operands. On a GPU it may still run on return. */
void op_case_call(const struct op_case *c, int copy);

#endif
