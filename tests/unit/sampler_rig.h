/* sampler_rig.h - a sampler with an exec of the CPU under it, for tests; device memory is the
 * host's. */
#ifndef SAMPLER_RIG_H
#define SAMPLER_RIG_H

#include "processors.h"

#include <criterion/criterion.h>

struct rig {
    struct mll_exec *ex;
    struct sampler *smp;
};

static inline enum mll_status rig_open(struct rig *rig, int vocab, int ctx_size,
                                       const struct mll_sampling *options, const int32_t *eos,
                                       size_t n_eos, struct mll_error *err)
{
    size_t bytes = smp_bytes(vocab, ctx_size);
    *rig = (struct rig){0};
    MLL_TRY(exec_open_cpu(&rig->ex, 1, MLL_ISA_AUTO, MLL_COMPUTE_F32,
                          bytes + 64 * (size_t)vocab + 4096, err));
    struct smp_place place = {rig->ex, exec_alloc(rig->ex, bytes),
                              exec_alloc_host(rig->ex, smp_host_bytes(vocab, ctx_size)), vocab,
                              ctx_size};
    enum mll_status status = place.host ? smp_open(&rig->smp, &place, options, eos, n_eos, err)
                                        : mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a rig");
    if (status != MLL_OK)
        exec_close(rig->ex);
    return status;
}

static inline void rig_close(struct rig *rig)
{
    smp_close(rig->smp);
    exec_close(rig->ex);
}

#endif
