/* op_kind.h - what the ops of kernels/ops.h are to mllama bench ops: operands, result, call.
 * One row an op, in op_kind.c; sizes are named by what they are of a shape (op_case.h). */
#ifndef MLL_OP_KIND_H
#define MLL_OP_KIND_H

#include "op_case.h"

enum { OP_KV_HEADS = 8, OP_KEPT = 5, OP_RATIOS = 9 };

/* A number of elements. Of the tower's ops, rows * rows are the patches of a tile. */
enum op_size {
    SIZE_NONE = 0,
    SIZE_ONE,
    SIZE_N,
    SIZE_RATIOS, /* aspect ratio ids */
    SIZE_COLS,
    SIZE_ROWS,
    SIZE_ALL_ROWS,       /* of a group of matrices */
    SIZE_HEADS,          /* rows heads of cols */
    SIZE_KV,             /* OP_KV_HEADS of them */
    SIZE_PIXELS,         /* a tile, cols wide */
    SIZE_CUT,            /* its patches, rows wide */
    SIZE_PATCHES,        /* patches of cols */
    SIZE_TOKEN_COUNT,    /* with the class token */
    SIZE_TOKENS,         /* so many of cols */
    SIZE_TILE,           /* and pad rows to a multiple of 8 */
    SIZE_STATES,         /* a tile and OP_KEPT kept ones */
    SIZE_JOINED,         /* these without pad rows */
    SIZE_RATIO_COLS,     /* n tiles of cols */
    SIZE_RATIO_POSITIONS /* n tiles of tokens */
};

struct op_weight {
    enum op_size rows, cols; /* rows SIZE_ONE: a vector, else a table */
    enum op_size read;       /* rows that a call reads; SIZE_NONE: all */
};

enum op_pool {
    POOL_NONE = 0,
    POOL_READ,
    POOL_WRITTEN,
    POOL_CHECKED /* single rows of the result are attention over a pool */
};

struct op_kind {
    const char *name; /* as in op_NAME */
    void (*call)(const struct op_case *c);
    void (*before)(const struct op_case *c); /* calls of which call takes the results */
    double flop;                             /* an element of x[0], where there is no formula */
    enum op_size in[OP_INPUTS];              /* of a row of x */
    enum op_size out;                        /* of a row of y, or */
    enum op_size prepared;                   /* of y as `before` leaves it, not a result */
    enum op_size ids;                        /* bound of ids (n) */
    struct op_weight w[OP_INPUTS];
    enum op_pool pool;
    bool in_place[OP_INPUTS]; /* x is a result, too */
    bool matrix;              /* w are the shape's matrices, quantised, in copies */
    bool positions;           /* pos and inv_freq */
    bool logits;              /* sample_row, sample_out and the scratch of ops behind logits */
    bool chosen;              /* sample_out is a result, too */
    bool whole;               /* rows cannot be computed alone */
    bool exact;               /* the same bits on a GPU */
};

/* The one of that name; NULL where there is none. */
const struct op_kind *op_kind_find(const char *name);
/* All of them in the order of ops.h; NULL behind the last. */
const struct op_kind *op_kind_at(size_t i);
size_t op_size_of(const struct op_shape *shape, enum op_size size);
/* Matrices of a copy of the operands: 1, or those of a group. */
int op_matrices(const struct op_shape *shape);

#endif
