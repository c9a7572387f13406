/* synthetic.h - models of the released sizes with made-up weights, for benchmarks and plans. */
#ifndef MLL_SYNTHETIC_H
#define MLL_SYNTHETIC_H

#include "weights.h"

/* The configuration of "1b" (a decoder of Llama-3.2-1B's shape, with one cross layer and a tower in
 * miniature), "11b" (560-pixel tiles, Instruct), "11b-base" (448) or "90b". MLL_ERR_BAD_OPTION for
 * another name. */
enum mll_status synthetic_config(struct cfg *cfg, const char *name, struct mll_error *err);
/* What those names are, for messages. */
const char *synthetic_names(void);

/* Weights of that configuration, in one allocation that *weights owns: norms and gates are ones;
 * matrices are random numbers of a size that keeps activations in range, bf16, or those that
 * quantise_selects names as quant says: "nf4", "nf4-dq" (double-quantised) or "int8" (NULL: bf16).
 * The numbers repeat every two megabytes; the memory behind them does not, unless shared: then all
 * matrices lie in the same memory, for a device that copies them anyway and should not wait. */
enum mll_status synthetic_weights(struct weights **weights, const struct cfg *cfg,
                                  const char *quant, bool shared, struct mll_error *err);

/* One matrix (rows, cols) as the above makes them; the caller frees *memory. */
enum mll_status synthetic_matrix(struct mat *m, void **memory, int rows, int cols,
                                 const char *quant, struct mll_error *err);

#endif
