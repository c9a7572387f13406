/* ops.h - every op of the engine: the contract of all backends.
 *
 * Conventions
 *  - Activations are float32, row-major, outermost dimension first; shapes stand behind pointers.
 *  - Weights are `struct mat`, stored as the checkpoint has them and widened in registers.
 *  - Pointers are memory of the exec's device. Everything that changes between tokens (ids,
 *    positions, ranges, block tables) is read from there; host integers are shapes only.
 *  - Argument order: exec, outputs, inputs, sizes, scalars. An output may alias an input only where
 *    the comment says so.
 *  - Ops return void. Shapes that do not fit are the programmer's fault (MLL_ASSERT, in ops.c, once
 *    for all backends). An index out of range is data: the lowest {op, position, index, bound} goes
 *    to exec->fault, the row it names becomes zeros, the op goes on.
 *  - Results are deterministic: the same bits for any thread count and, on the CPU, for the C, AVX2
 *    and AVX-512 forms; a row's bits depend neither on how many rows stand beside it nor on which.
 *
 * Order of sums on the CPU, part of the contract
 *  - dot(a, b, n): 16 float32 lanes, element k goes to lane k mod 16 by one fused multiply-add, in
 *    ascending k; then a tree adds the lanes: 8 apart, 4, 2, 1 (lane i += lane i + 8, ...).
 *    Sums and sums of squares follow the same lanes and tree.
 *  - attention: a score is one fused multiply-add after another over head_dim, times scale; keys go
 *    in chunks of MLL_ATTN_CHUNK at absolute key positions with a running maximum (online softmax);
 *    the sum of exp and each output element are added in ascending key order. A key that a row does
 *    not see changes nothing, whatever its memory holds. attn.h has the formula.
 *  - expf, erff, tanhf inside ops are the functions of kernels/fmath.h, bit-equal in all forms. */
#ifndef MLL_OPS_H
#define MLL_OPS_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

struct mll_exec; /* opaque to stages: device, stream or threads, scratch, fault record */

/* The absmax of a 4-bit weight, as bitsandbytes stores them: the elements in row-major order fall
 * into blocks of `block`, whatever the rows; the last one may be short. Block i has absmax[i], or
 * where it is double-quantised
 *   nested_map[codes[i]] * nested_absmax[i / MLL_NESTED_BLOCK] + nested_offset
 * rounded to float32 twice (no fused multiply-add). Pointers are aligned for their types. */
#define MLL_NESTED_BLOCK 256

struct mat_blocks {
    const float *absmax;        /* (blocks), or NULL where double-quantised */
    const uint8_t *codes;       /* (blocks), or NULL as the next two are */
    const float *nested_absmax; /* (blocks / MLL_NESTED_BLOCK, rounded up) */
    const float *nested_map;    /* (256) */
    float nested_offset;
    float values[16];       /* that the codes stand for: NF4's or FP4's */
    int block;              /* a power of two, 32 to 4096 */
    enum mll_dtype rounded; /* the weights are rounded to this dtype; F32: as they are */
};

/* A weight as stored. A vector has rows 1. data may have any alignment; scale and blocks are NULL
 * but where said. This struct and blocks are host memory, what their pointers name is the device's.
 *   F32, F16, BF16   element i                                      (F16 with scale: see below)
 *   I8               code[i] * scale[row] * MLL_INT8_STEP           bitsandbytes' LLM.int8, SCB
 *   Q4               rounded(values[code[i]] * absmax of block i / block)         NF4 and FP4
 * products in float32, from left to right. Element i of Q4 is the high half of byte i / 2 where i
 * is even, else the low half; a GPU does not round to `rounded`. F16 with scale (the CUDA backend's
 * rows, a power of two each, their stride a multiple of 64 elements): element i times scale[row].
 */
#define MLL_INT8_STEP 7.874015718698502e-3f /* 1 / 127, as bitsandbytes writes it */

struct mat {
    const void *data;
    const float *scale; /* (rows) */
    const struct mat_blocks *blocks;
    enum mll_dtype dtype;
    int rows, cols; /* (out features, in features) */
};

enum mll_op {
    OP_NONE = 0,
    OP_GATHER_ROWS,
    OP_KV_APPEND,
    OP_ATTN,
    OP_ADD_TILE_EMBEDDING,
    OP_ADD_POSITION_EMBEDDING,
    OP_TAKE_ROWS,
};

/* The first index fault of a step; op OP_NONE means none. position: element of the index array.
 * stage, layer: the label in force (exec_label); NULL where the device was not asked in time, which
 * it is with debug_sync only. */
struct mll_fault {
    enum mll_op op;
    int64_t position, index, bound;
    const char *stage;
    int layer;
};

const char *op_name(enum mll_op op);

/* ---- exec ------------------------------------------------------------------------------------ */

enum mll_isa { MLL_ISA_AUTO = 0, MLL_ISA_C, MLL_ISA_AVX2, MLL_ISA_AVX512 };

/* How matmuls are computed; the same bits for any thread count and rows in all of them.
 *   BF16   x and 4-bit weights are rounded to bf16, in front of bf16, 8-bit and 4-bit weights, for
 *          the BF16 dot instruction (its order: matmul_bf16.c)
 *   INT8   x is rounded to 8 bits and a scale for each 64 elements of a row, in front of 8-bit and
 *          4-bit weights; products are integers (matmul_int8.h). Other weights as in F32. The same
 *          bits in all forms, but the plain one serves CPUs without AVX512_VNNI: slow. */
enum mll_compute { MLL_COMPUTE_F32 = 0, MLL_COMPUTE_BF16, MLL_COMPUTE_INT8 };

/* A CPU exec. threads 0: the cores this process may use. isa other than AUTO forces one form (for
 * tests and benchmarks). MLL_ERR_DEVICE where this CPU lacks it (exec_isa_supported), or compute is
 * BF16 and the CPU or the form has no dot instruction. scratch_bytes: one arena, allocated here,
 * the only memory the ops use. */
enum mll_status exec_open_cpu(struct mll_exec **ex, int threads, enum mll_isa isa,
                              enum mll_compute compute, size_t scratch_bytes,
                              struct mll_error *err);
/* An exec on a GPU of compute capability 7.0 or more. scratch_bytes as above, on the device.
 * MLL_ERR_DEVICE: no such device, no driver or one too old, an architecture this build has no code
 * for, or a build without CUDA; MLL_ERR_NO_MEMORY with what was needed and what is free. */
struct exec_cuda_options {
    int device;        /* 0: the first */
    int threads;       /* of the host, to copy weights with; 0: the cores this process may use */
    bool debug_sync;   /* wait behind every kernel, so that an error names it */
    bool fast;         /* prompt rows by cuBLASLt, whose bits depend on how many there are */
    bool no_early;     /* kernels of a token do not begin before the one in front has ended */
    bool debug_bounds; /* an index out of range traps at once, as the frameworks' assert does */
};
enum mll_status exec_open_cuda(struct mll_exec **ex, const struct exec_cuda_options *options,
                               size_t scratch_bytes, struct mll_error *err);
/* How many GPUs exec_open_cuda could be asked for; 0 where the machine has none or the build no
 * CUDA, -1 where there is a driver that cannot be used. */
int exec_cuda_devices(void);
/* The number behind "cuda:", 0 of "cuda", -1 of anything else. */
int exec_cuda_index(const char *device);

/* The architectures that this build has code for, "70 80 89 89-virtual"; "" without CUDA. */
const char *exec_cuda_architectures(void);
/* What exec_open_cuda would open; MLL_ERR_DEVICE where it cannot be asked. */
struct exec_device {
    char name[96];
    int major, minor; /* compute capability */
    int multiprocessors;
    size_t memory; /* bytes */
};
enum mll_status exec_cuda_device(struct exec_device *device, int index, struct mll_error *err);

/* Gives an exec that was opened with 0 bytes of scratch its arena: the sizes that the stages state
 * depend on the exec. */
enum mll_status exec_reserve(struct mll_exec *ex, size_t scratch_bytes, struct mll_error *err);
/* For an exec of the CPU what debug_bounds is for a GPU's, as far as op_process goes, the one op
 * whose kernel the CPU shares: an id without a logit row ends the process (mll_index_failed). */
void exec_trap_bounds(struct mll_exec *ex);

void exec_close(struct mll_exec *ex); /* NULL allowed */
bool exec_isa_supported(enum mll_isa isa);
int exec_threads(const struct mll_exec *ex);
const char *exec_describe(const struct mll_exec *ex); /* "cpu avx512, 2 threads"; borrowed */
size_t exec_memory(const struct mll_exec *ex);        /* bytes of the GPU's memory; 0 on the CPU */
size_t exec_memory_free(struct mll_exec *ex);         /* of them free at the moment */

/* Bump allocation from the arena, 64-byte aligned; running out is the programmer's fault, since the
 * stages state their need beforehand. exec_mark / exec_release give a stack discipline. */
void *exec_alloc(struct mll_exec *ex, size_t bytes);
size_t exec_mark(const struct mll_exec *ex);
void exec_release(struct mll_exec *ex, size_t mark);
size_t exec_peak(const struct mll_exec *ex);
/* Declares that of x (n, cols), floats of the device, whole rows are written for matmuls to read
 * and for nobody else: what op_rmsnorm, op_add_rmsnorm, op_layernorm, op_silu_mul, op_gelu,
 * op_matmul_gelu and op_attn_vision leave there, also in place, only op_matmul and its likes may
 * take as x, which in their turn take nothing else from there. A GPU keeps such rows in fp16, its
 * kernels' own form, and stores no floats. All other ops read and write floats there as everywhere.
 * Until the arena is released below where it stands now. The CPU makes no difference. */
void exec_operand(struct mll_exec *ex, const float *x, int n, int cols);
/* Gives the pages of the arena that nothing is allocated in back to the system, where they are
 * many; they come back when next touched. For after a stage that needs far more than the next. */
#define EXEC_TRIM_LEAST ((size_t)16 << 20)
void exec_trim(struct mll_exec *ex);

/* Prompt rows or single tokens: which family of kernels the matmuls and attentions that follow use.
 * Results within a family do not depend on how many rows there are. The CPU has one family. */
enum mll_phase { MLL_PREFILL = 0, MLL_DECODE };
void exec_set_phase(struct mll_exec *ex, enum mll_phase phase);
/* The type of the elements of KV pools: float32 on the CPU, fp16 on a GPU, unless it was set. Set
 * before the first size is asked for; MLL_ERR_BAD_OPTION for what the backend does not have (the
 * CPU has F32, F16 and I8, a GPU F16 and I8). */
enum mll_dtype exec_kv_dtype(const struct mll_exec *ex);
enum mll_status exec_set_kv_dtype(struct mll_exec *ex, enum mll_dtype dtype, struct mll_error *err);

/* Where the ops that follow stand, for messages: a stage's name, which is borrowed, and a layer, -1
 * for none. */
void exec_label(struct mll_exec *ex, const char *stage, int layer);

/* ---- weights ---- */

/* Weights in host memory become readable by an exec's ops: begin takes device memory for all of
 * them (the sum of exec_weight_bytes), load starts the copy of one and makes m describe it, end
 * waits for all. What m pointed at may go when load returns. The exec owns the copies. On the CPU m
 * stays as it is and nothing is copied (exec_weight_bytes 0). On a GPU a matrix becomes fp16 rows,
 * each divided by a power of two (scale), or keeps its quantised form; a table that is read row by
 * row keeps its type; a vector becomes float32. Outside of begin and end load does all three for
 * one weight. */
enum weight_use { WEIGHT_MATRIX = 0, WEIGHT_TABLE, WEIGHT_VECTOR };
size_t exec_weight_bytes(const struct mll_exec *ex, const struct mat *m, enum weight_use use);
/* The same of any GPU's exec; needs none. */
size_t exec_gpu_weight_bytes(const struct mat *m, enum weight_use use);
enum mll_status exec_begin_weights(struct mll_exec *ex, size_t bytes, struct mll_error *err);
enum mll_status exec_load_weight(struct mll_exec *ex, struct mat *m, enum weight_use use,
                                 struct mll_error *err);
/* underflows (NULL allowed): elements other than 0 that became 0 in fp16. */
enum mll_status exec_end_weights(struct mll_exec *ex, uint64_t *underflows, struct mll_error *err);

/* Weights that the device has no room for. begin makes n groups, numbered from 1, of the given sums
 * of exec_weight_bytes: their weights stay in pinned host memory, and the device has room for two
 * groups at a time (twice the largest). While a group is set, exec_load_weight loads into it; 0:
 * onto the device. Ops that read a group's weights stand behind exec_use_group of it, which waits
 * for its copy and starts that of the group that will be used next (0: unknown); 0 does nothing.
 * Nothing is recorded by exec_repeat then. */
enum mll_status exec_begin_groups(struct mll_exec *ex, int n, const size_t *bytes,
                                  struct mll_error *err);
void exec_set_group(struct mll_exec *ex, int group);
void exec_use_group(struct mll_exec *ex, int group, int next);

/* ---- faults, copies ---- */

/* Returns the fault of the ops since the last call and clears it; also waits for the device. */
struct mll_fault exec_take_fault(struct mll_exec *ex);
/* Waits for the device; MLL_ERR_DEVICE where it reported an error, which lasts. */
enum mll_status exec_take_error(struct mll_exec *ex, struct mll_error *err);
/* Host <-> device copies, in order with the ops (memcpy on the CPU); done on return. */
void exec_upload(struct mll_exec *ex, void *device, const void *host, size_t bytes);
void exec_download(struct mll_exec *ex, void *host, const void *device, size_t bytes);
/* Zeros memory of the device, in order with the ops. */
void exec_zero(struct mll_exec *ex, void *device, size_t bytes);
/* Host memory, zeroed, for the two below (pinned, for a GPU), as long as the exec lives; NULL where
 * there is none. */
void *exec_alloc_host(struct mll_exec *ex, size_t bytes);
/* The same copies from and to such memory, without waiting: the host's side is the device's until
 * exec_take_fault or exec_take_error has returned. */
void exec_send(struct mll_exec *ex, void *device, const void *host, size_t bytes);
void exec_fetch(struct mll_exec *ex, void *host, const void *device, size_t bytes);

/* Calls ops(arg), whose calls of ops, exec_send and exec_fetch must be the same, addresses
 * included, whenever key is: a GPU then repeats them as one graph instead, without calling. key is
 * compared as bytes. An error of ops, which only a call can give, is handed on; MLL_OK tells
 * nothing of the device. */
enum mll_status exec_repeat(struct mll_exec *ex, const void *key, size_t size,
                            enum mll_status (*ops)(void *arg), void *arg);

/* ---- rows and elementwise -------------------------------------------------------------------- */

/* y[r] = table[ids[r]].  y (n, table.cols), ids (n), bound table.rows.   HF: nn.Embedding */
void op_gather_rows(struct mll_exec *ex, float *y, const struct mat *table, const int32_t *ids,
                    int n);
/* y[r] = x[ids[r]], both float32.  y (n, dim), x (n_x, dim), bound n_x. */
void op_take_rows(struct mll_exec *ex, float *y, const float *x, const int32_t *ids, int n, int n_x,
                  int dim);
/* y[r][i] = w[i] * (x[r][i] * (1 / sqrt(mean_i(x[r][i]^2) + eps))).  x, y (rows, dim); y may be x.
 * HF: MllamaTextRMSNorm */
void op_rmsnorm(struct mll_exec *ex, float *y, const float *x, const struct mat *w, int rows,
                int dim, float eps);
/* y = (x - mean) / sqrt(var + eps) * w + b, var the mean square of x - mean.  y may be x.
 * HF: nn.LayerNorm */
void op_layernorm(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                  const struct mat *b, int rows, int dim, float eps);
/* y[i] = x[i] + z[i].  y may be x. */
void op_add(struct mll_exec *ex, float *y, const float *x, const float *z, size_t n);
/* y[r][i] += s * row_scale[r] * x[r][i], s = tanh(gate[0]) or 1 where gate is NULL; row_scale
 * (rows) or NULL for 1.  HF: cross_attn_attn_gate, gate_attn and their likes */
void op_add_gated(struct mll_exec *ex, float *y, const float *x, const struct mat *gate,
                  const float *row_scale, int rows, int dim);
/* op_add_gated of x to h, then y = op_rmsnorm of h, with their bits.  y may be x.
 * HF: a residual and the norm behind it */
void op_add_rmsnorm(struct mll_exec *ex, float *y, float *h, const float *x, const struct mat *gate,
                    const float *row_scale, const struct mat *w, int rows, int dim, float eps);
/* y = silu(gate) * up, silu(x) = x / (1 + exp(-x)).  (rows, dim); y may be gate or up. */
void op_silu_mul(struct mll_exec *ex, float *y, const float *gate, const float *up, int rows,
                 int dim);
/* y = 0.5 x (1 + erf(x / sqrt 2)).  (rows, dim); y may be x. */
void op_gelu(struct mll_exec *ex, float *y, const float *x, int rows, int dim);

/* ---- matmul ---------------------------------------------------------------------------------- */

/* y[r][o] = dot(x[r], w[o]) + bias[o].  y (n, w.rows), x (n, w.cols); bias NULL for none. An I8 row
 * is multiplied by its codes: dot(x[r], code[o]) * scale[o] * MLL_INT8_STEP + bias[o].
 * HF: nn.Linear, bitsandbytes' Linear4bit and Linear8bitLt (activations are never quantised) */
void op_matmul(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
               const struct mat *bias, int n);
/* y = gelu(x w^T + bias): op_matmul and op_gelu, with their bits, but where a GPU makes an operand
 * of y in the same kernel: of row r that keeps what is larger than 2^-27 B to 11 bits, the rest to
 * 2^-38 B, B = max|x[r]| max_o sum_k|w[o][k]| + max|bias|, for max|x[r]| 2^14 where it is 0.
 * y (n, w.rows), apart from x.  HF: fc1 and its activation */
void op_matmul_gelu(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                    const struct mat *bias, int n);
/* y = base + s (x w^T + bias), s = tanh(gate[0]) or 1 where gate is NULL: the bits of op_matmul and
 * op_add_gated, without the product in between. y, base (n, w.rows), y may be base; x is apart.
 * HF: the projection at the end of an attention or MLP, and its residual */
void op_matmul_add(struct mll_exec *ex, float *y, const float *base, const float *x,
                   const struct mat *w, const struct mat *bias, const struct mat *gate, int n);
/* y[i] = x w[i]^T for i < count, 1 to MLL_MATMUL_GROUP weights of the same cols: the bits of
 * op_matmul, on a GPU in one launch. y[i] (n, w[i]->rows), apart from x and from each other. */
#define MLL_MATMUL_GROUP 3
void op_matmul_group(struct mll_exec *ex, float *const y[], const float *x,
                     const struct mat *const w[], int count, int n);

/* ---- attention ------------------------------------------------------------------------------- */

/* KV memory is paged: a block holds MLL_KV_BLOCK positions of all heads of one layer. Keys lie with
 * 16 positions side by side, so that a score loop reads whole vectors:
 *   k (n_blocks, n_kv_heads, head_dim, MLL_KV_BLOCK)
 *   v (n_blocks, n_kv_heads, MLL_KV_BLOCK, head_dim)                       float32 on the CPU
 * On a GPU both lie as (n_blocks, n_kv_heads, MLL_KV_BLOCK, head_dim), in fp16 or int8, a position
 * at a multiple of 16 bytes.
 * Blocks are zeroed before their first use. The same pool form serves self and cross attention. */
#define MLL_KV_BLOCK     16
#define MLL_ATTN_CHUNK   64
#define MLL_ATTN_DIM_MAX 128 /* on a GPU */

/* Narrow types: elements in the same places, and behind a head's block MLL_KV_BLOCK float32 scales,
 * one a position; x = element * scale, max = the largest finite |x| of position and head.
 *   F16  x / scale rounded. scale is 1 where max is 0 or in [2^-8, 2^15), else the power of two, at
 *        least 2^-64, that brings max into [2^14, 2^15): nothing finite becomes infinite
 *   I8   x * (127 / max) rounded to nearest even, scale = max / 127; both 0 where max is below
 *        2^-64; scale NaN where some x is not finite */
static inline size_t kv_block_bytes(enum mll_dtype dtype, int head_dim)
{
    size_t dim = (size_t)head_dim, scales = MLL_KV_BLOCK * sizeof(float);
    return dtype == MLL_DTYPE_F32   ? dim * MLL_KV_BLOCK * sizeof(float)
           : dtype == MLL_DTYPE_F16 ? (dim + 7) / 8 * 8 * MLL_KV_BLOCK * 2 + scales
                                    : (dim + 15) / 16 * 16 * MLL_KV_BLOCK + scales;
}

struct kv_pool {
    void *k, *v;
    enum mll_dtype dtype;
    int n_blocks, n_kv_heads, head_dim;
};

/* Which blocks the sequences of a batch own: position p of sequence s lies in block
 * blocks[s * max_blocks + p / MLL_KV_BLOCK]. */
struct kv_table {
    const int32_t *blocks; /* (n_seqs, max_blocks) */
    int n_seqs, max_blocks;
};

/* Rotates x in place: pair (i, i + head_dim / 2) by the angle pos[r] * inv_freq[i] (float32
 * product, then cos and sin).  x (n, heads, head_dim), inv_freq (head_dim / 2).
 * HF: apply_rotary_pos_emb */
void op_rope(struct mll_exec *ex, float *x, const int32_t *pos, const float *inv_freq, int n,
             int heads, int head_dim);
/* Stores row r of k and v (n, n_kv_heads, head_dim) at position pos[r] of sequence seq[r]. Index
 * faults: seq against n_seqs, pos against max_blocks * MLL_KV_BLOCK (position: the row), block
 * against n_blocks (position: the element of table->blocks). A faulty row is not stored. Of two
 * rows for one position the later one stays; on a GPU they race, and what is stored is undefined.
 */
void op_kv_append(struct mll_exec *ex, struct kv_pool *pool, const float *k, const float *v,
                  const struct kv_table *table, const int32_t *seq, const int32_t *pos, int n);
/* op_rope of q (n, heads, head_dim) and of k at the same positions, then op_kv_append of k and v;
 * faults as there. What k holds afterwards is undefined. */
void op_rope_kv_append(struct mll_exec *ex, struct kv_pool *pool, float *q, float *k,
                       const float *v, const struct kv_table *table, const int32_t *seq,
                       const int32_t *pos, const float *inv_freq, int n, int heads);
/* Grouped-query attention of row r over the keys [begin[r], end[r]) of sequence seq[r]; query head
 * h uses KV head h / (heads / n_kv_heads). An empty range gives zeros. Causal self attention: begin
 * 0, end pos + 1. Cross attention: the range of vision rows that the token sees. Index faults as
 * in kv_append, begin and end in place of pos; blocks outside the range are not looked at. scale is
 * positive. On a GPU head_dim is at most MLL_ATTN_DIM_MAX.
 * y, q (n, heads, head_dim).   HF: eager_attention_forward with repeat_kv */
void op_attn(struct mll_exec *ex, float *y, const float *q, const struct kv_pool *pool,
             const struct kv_table *table, const int32_t *seq, const int32_t *begin,
             const int32_t *end, int n, int heads, float scale);
/* Attention of all rows over all rows of one image. A pair is blocked if pad[] is set for both; a
 * row all of whose keys are blocked attends to all of them alike. scale is positive. On a GPU
 * head_dim is at most MLL_ATTN_DIM_MAX.  y, q, k, v (rows, heads, head_dim), pad (rows).
 * HF: MllamaVisionAttention + _prepare_aspect_ratio_attention_mask */
void op_attn_vision(struct mll_exec *ex, float *y, const float *q, const float *k, const float *v,
                    const uint8_t *pad, int rows, int heads, int head_dim, float scale);
/* Scratch that op_attn_vision, op_attn and the matmuls take from the arena at these sizes, in
 * bytes. */
size_t op_attn_vision_scratch(const struct mll_exec *ex, int rows, int heads, int head_dim);
size_t op_attn_scratch(const struct mll_exec *ex, int n, int heads, int head_dim);
size_t op_matmul_scratch(const struct mll_exec *ex, int n, int cols);
size_t op_matmul_add_scratch(const struct mll_exec *ex, int n, int rows, int cols);

/* ---- vision ---------------------------------------------------------------------------------- */

/* Cuts tiles into patches: y[t][r * g + c] = the (3, p, p) window at (r p, c p) of tile t, g = size
 * / p (left-over pixels are ignored).  y (tiles, g * g, 3 p p), x (tiles, 3, size, size). */
void op_patchify(struct mll_exec *ex, float *y, const float *x, int tiles, int size, int patch);
/* x[t][r][i] += tanh(gate) * table[id[0]][t][i].  x (tiles, rows, dim), table (n_ids, tiles_max *
 * dim), id (1).   HF: MllamaPrecomputedAspectRatioEmbedding */
void op_add_tile_embedding(struct mll_exec *ex, float *x, const struct mat *table,
                           const struct mat *gate, const int32_t *id, int tiles, int rows, int dim);
/* x[t][r][i] += (1 - tanh gate) * position[r][i] + tanh(gate) * tile_position[id[0]][t][r][i].
 * position (rows, dim), tile_position (n_ids, tiles_max * rows * dim).
 * HF: MllamaPrecomputedPositionEmbedding */
void op_add_position_embedding(struct mll_exec *ex, float *x, const struct mat *position,
                               const struct mat *tile_position, const struct mat *gate,
                               const int32_t *id, int tiles, int rows, int dim);
/* Puts a class token in front of every tile and zero rows behind it:
 * y[t] = [cls, x[t][0..patches), 0 ...].  y (tiles, rows, dim), x (tiles, patches, dim). */
void op_class_and_pad(struct mll_exec *ex, float *y, const float *x, const struct mat *cls,
                      int tiles, int patches, int rows, int dim);
/* Drops the pad rows and joins final and kept states:
 * y[t][r] = [last[t][r][0..dim), kept_0[0], kept_1[0], ..., kept_0[1], ...], interleaved.
 * y (tiles, patches + 1, dim * (1 + n_kept)); last, kept[l] (tiles, rows, dim). */
void op_join_states(struct mll_exec *ex, float *y, const float *last, const float *const *kept,
                    int n_kept, int tiles, int patches, int rows, int dim);

/* ---- logits ---------------------------------------------------------------------------------- */

/* Choosing an id. sample.h has the rows and what comes back, both (n) in the device's memory, and
 * the arithmetic: weights and sums are integers, so that the results of all backends have the same
 * bits. x, y, scores (n, dim), dim at most SAMPLE_DIM_MAX. An id without a logit row (outside
 * [0, dim)) is skipped and counted wherever a list names it, never clamped, and is no fault; with
 * debug_bounds it traps. engine/sampler.h has the rules, HF's. */
struct sample_row;
struct sample_out;

/* hash = the sum of sample_hash(i, x[r][i]) modulo 2^64; not_finite. */
void op_hash_rows(struct mll_exec *ex, struct sample_out *out, const float *x, int n, int dim);
/* y = log softmax of x, the sum as total in sample_out.  y may be x. */
void op_log_probs(struct mll_exec *ex, float *y, const float *x, int n, int dim);
/* y = x with the bias added, then the penalty of the text, then -Inf where banned; skipped.  y may
 * be x.  HF: SequenceBias, RepetitionPenalty, and whatever bans */
void op_process(struct mll_exec *ex, float *y, struct sample_out *out, const float *x,
                const struct sample_row *rows, int n, int dim);
/* The most likely id, of equals the lowest; NaN never wins. id, score, max, total. */
void op_choose(struct mll_exec *ex, struct sample_out *out, const float *scores, int n, int dim);
/* y = scores / temperature, then -Inf where top-k, top-p or min-p drops the id. Rows without a draw
 * (sample_draws(row, out.max)) stay as they are.  HF: Temperature, TopK, TopP, MinP */
void op_warp(struct mll_exec *ex, float *y, const float *scores, const struct sample_row *rows,
             const struct sample_out *out, int n, int dim);
/* Where there is a draw: id and score anew. id is the first whose running sum of weights of y
 * exceeds sample_target of their total.  y as op_warp left it. */
void op_draw(struct mll_exec *ex, struct sample_out *out, const float *y, const float *scores,
             const struct sample_row *rows, int n, int dim);
/* Scratch that any of them takes from the arena at these sizes, in bytes. */
size_t op_sample_scratch(const struct mll_exec *ex, int n, int dim);

#ifdef __cplusplus
}
#endif
#endif
