/* quantise_file.h - one file of a quantised model; internal to mll_quantize. */
#ifndef MLL_QUANTISE_FILE_H
#define MLL_QUANTISE_FILE_H

#include "checkpoint.h"
#include "mllama.h"
#include "quantise.h"

struct quantise_pick {
    const struct st_tensor *tensor;
    const struct mat *mat;
};

struct quantise_job {
    const struct mll_quantize *options;
    enum quantise_type type;
    struct weights *weights;     /* of the source, mapped */
    struct quantise_pick *picks; /* what is quantised, by tensor; owned */
    size_t n_picks;
    uint64_t done, total; /* bytes of the source */
    uint64_t to_write;    /* bytes of the new tensors */
};

/* Fills in the picks, which the caller frees, total and to_write. */
enum mll_status quantise_pick(struct quantise_job *job, const struct cfg *cfg,
                              struct mll_error *err);
/* Writes every tensor of the source's file, quantised or as it is, to path. */
enum mll_status quantise_file(struct quantise_job *job, const char *path, const char *file,
                              struct mll_error *err);

#endif
