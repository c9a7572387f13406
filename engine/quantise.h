/* quantise.h - plain weights to NF4 and int8, as bitsandbytes' generic implementation does it
 * (backends/default/ops.py of 0.50): the same codes, absmax and scales, bit for bit.
 *
 * NF4: blocks of 64 in row-major order. absmax = max |x|; each x / absmax (times 1 / absmax in
 * whole blocks, as the original has it) becomes the nearest value, the lower one where it lies in
 * the middle of two. A short last block of zeros has the absmax 1e-38, a whole one 0. Double
 * quantisation: the absmax less their mean, in blocks of 256, to the nearest of the 256 dynamic
 * values. The mean is the exact one, rounded; torch's depends on the order of its float32 sum and
 * may differ in the last bits, and with it a code whose value lies in the middle of two. int8: rows
 * rounded to fp16 first; round(x * (1 / max |x| * 127)), halves to even; a row of zeros has codes
 * 0. */
#ifndef MLL_QUANTISE_H
#define MLL_QUANTISE_H

#include "weights.h"

#define QUANTISE_BLOCK 64

/* "nf4", "nf4-dq", "int8"; NULL: none. MLL_ERR_BAD_OPTION for any other. */
enum mll_status quantise_type_of(enum quantise_type *type, const char *name, struct mll_error *err);
/* Whether pattern is a run of whole words of the weight's old or new name ("lm_head", "layers.3",
 * "mlp.gate_proj"). */
bool quantise_matches(const struct weights_entry *entry, const char *pattern);
/* Whether an entry is quantised where those that match a pattern of skip are not. skip NULL: the
 * default, the modules that docs/SPEED.md says are worth it. */
bool quantise_selects(const struct weights_entry *entry, const char *const *skip, size_t n_skip);

/* The 256 values of double-quantised absmax, ascending. */
void quantise_dynamic_map(float map[256]);
/* n elements of dtype F32, F16 or BF16; codes ((n + 1) / 2), absmax (blocks). False where an
 * element is not finite. */
bool quantise_nf4(uint8_t *codes, float *absmax, const void *data, enum mll_dtype dtype, size_t n,
                  int threads);
/* codes (n), nested_absmax ((n + 255) / 256). */
void quantise_absmax(uint8_t *codes, float *nested_absmax, float *offset, const float *absmax,
                     size_t n);
/* codes (rows, cols), scale (rows): SCB. */
bool quantise_int8(int8_t *codes, float *scale, const void *data, enum mll_dtype dtype, int rows,
                   int cols, int threads);

/* Replaces m, whose data stays the caller's, by its quantised form in memory of owner: name stands
 * in messages. threads 0: all cores. */
enum mll_status quantise_mat(struct weights *owner, struct mat *m, const char *name,
                             enum quantise_type type, int threads, struct mll_error *err);
/* Replaces the selected weights of a model that was loaded, in memory: --quant. */
enum mll_status quantise_weights(struct weights *weights, const struct cfg *cfg,
                                 enum quantise_type type, int threads, struct mll_error *err);
/* What weights_mat_bytes would say of a plain m in that type. */
size_t quantise_bytes(const struct mat *m, enum quantise_type type);
/* Whether --quant of that type would change m, the weight of entry. */
bool quantise_changes(const struct weights_entry *entry, const struct mat *m,
                      enum quantise_type type);
/* m with what describes it in that type; its data stays. */
struct mat quantise_described(const struct mat *m, enum quantise_type type);
/* Makes the selected mats describe what they would be, their data as it is: to plan by. */
void quantise_describe(struct weights *weights, const struct cfg *cfg, enum quantise_type type);

#endif
