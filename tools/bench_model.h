/* bench_model.h - what the parts of mllama bench model share. */
#ifndef MLL_BENCH_MODEL_H
#define MLL_BENCH_MODEL_H

#include "mllama.h"
#include "options.h"

#include <stddef.h>

/* Seconds from nothing to the first logits: opening, and one step of one token behind the image
 * (NULL: none). times (n) are filled. cold: the weight files are dropped from the page cache first;
 * MLL_ERR_IO where they do not leave it (another process maps them, a file system that
 * ignores the advice). options->model is a directory. */
enum mll_status bench_load(double *times, size_t n, const struct mll_options *options,
                           const struct mll_image *image, bool cold, struct mll_error *err);

/* Bytes that this machine could give to new programs at the moment; NaN where it does not say. */
double bench_available_memory(void);
/* The most that this process had resident since it began, or since bench_forget_peak. */
double bench_peak_memory(void);
void bench_forget_peak(void);

#endif
