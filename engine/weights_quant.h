/* weights_quant.h - binds the weights that bitsandbytes quantised; internal to weights.c.
 *
 * Which weights are is decided by the tensors that stand beside them, not by the configuration.
 *   NF4, FP4   X uint8 (bytes, 1) or of another quant_storage, with X.absmax, X.quant_map,
 *              X.quant_state.bitsandbytes__nf4 (or __fp4), and where double-quantised
 *              X.nested_absmax, X.nested_quant_map                            X = MODULE.weight
 *   LLM.int8   X int8 (rows, cols), with MODULE.SCB float32 (rows) and MODULE.weight_format
 * Both name layouts of the model are read: the parts have the name of the weight as it stands. */
#ifndef MLL_WEIGHTS_QUANT_H
#define MLL_WEIGHTS_QUANT_H

#include "weights.h"

/* What a bound 4-bit weight points to; in a list, owned by struct weights. */
struct weights_quant {
    struct weights_quant *next;
    struct mat_blocks blocks;
    enum mll_dtype dtype; /* that bitsandbytes rounds the weights to */
};

/* Fills mat where t is quantised, adding a defect for everything that does not fit; false, with mat
 * untouched, where t is a plain tensor. */
bool weights_bind_quant(struct weights *weights, struct mat *mat, const struct weights_entry *entry,
                        const struct ckpt *ckpt, const struct st_tensor *t, struct defects *d);
/* The parts of a tensor that are in the checkpoint, at most WEIGHTS_MAX_PARTS, put into parts. */
int weights_quant_parts(const struct st_tensor **parts, const struct ckpt *ckpt,
                        const struct st_tensor *t);
void weights_quant_free(struct weights *weights);

#endif
