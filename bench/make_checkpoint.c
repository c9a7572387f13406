/* make_checkpoint.c - writes model.safetensors for a config.json from the weight table.
 *
 *     make_checkpoint CONFIG_DIR OUT.safetensors [--random SEED] [--f32]
 *
 * Without --random the file is sparse: the tensors of an 11B model read as zeros and take no disk
 * space. With it every value comes from a counter-based generator, scaled so that activations stay
 * in range: what benchmarks need that compare whole models. */
#include "safetensors_write.h"
#include "weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TENSORS 4096
#define CHUNK       (1 << 18) /* elements */

struct model {
    struct st_spec specs[MAX_TENSORS];
    char names[MAX_TENSORS][WEIGHTS_MAX_NAME];
    size_t n;
    uint16_t narrow[CHUNK];
    float wide[CHUNK];
};

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Uniform in [-1, 1) for element i of tensor t. */
static float uniform(uint64_t seed, uint64_t t, uint64_t i)
{
    uint64_t x = mix(mix(seed * UINT64_C(0x9e3779b97f4a7c15) + t) + i);
    return (float)(int64_t)(x >> 40) * 0x1p-23f - 1.0f;
}

static uint16_t to_bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* Norms lie around 1; a matrix's rows have a variance of 1 / cols. */
static enum st_status put_random(struct model *m, struct st_writer *w, size_t index, uint64_t seed,
                                 struct st_error *err)
{
    const struct st_spec *s = &m->specs[index];
    bool norm = ends_with(s->name, "norm.weight") || strstr(s->name, "layernorm_");
    int64_t n = 1;
    for (int i = 0; i < s->rank; i++)
        n *= s->shape[i];
    float scale = s->rank < 2 ? 0.1f : sqrtf(3.0f * (float)s->shape[0] / (float)n);
    for (int64_t at = 0; at < n; at += CHUNK) {
        int64_t count = n - at < CHUNK ? n - at : CHUNK;
        for (int64_t i = 0; i < count; i++) {
            m->wide[i] = scale * uniform(seed, index, (uint64_t)(at + i)) +
                         (norm && ends_with(s->name, "weight") ? 1.0f : 0.0f);
            m->narrow[i] = to_bf16(m->wide[i]);
        }
        bool f32 = s->dtype == ST_DTYPE_F32;
        ST_TRY(st_put(w, index, f32 ? (void *)m->wide : (void *)m->narrow, at * (f32 ? 4 : 2),
                      (size_t)count * (f32 ? 4 : 2), err));
    }
    return ST_OK;
}

static enum st_status write_model(struct model *m, const char *path, const char *seed,
                                  struct st_error *err)
{
    struct st_writer *w;
    ST_TRY(st_create(&w, path, m->specs, m->n, NULL, 0, err));
    for (size_t i = 0; seed && i < m->n; i++) {
        enum st_status status = put_random(m, w, i, strtoull(seed, NULL, 10), err);
        if (status != ST_OK) {
            st_abort(w);
            return status;
        }
    }
    return st_finish(w, err);
}

int main(int argc, char **argv)
{
    const char *seed = NULL;
    enum st_dtype dtype = ST_DTYPE_BF16;
    for (int i = 3; i < argc; i++) {
        if (strcmp(argv[i], "--f32") == 0)
            dtype = ST_DTYPE_F32;
        else if (strcmp(argv[i], "--random") == 0 && i + 1 < argc)
            seed = argv[++i];
        else
            argc = 0;
    }
    if (argc < 3) {
        fputs("usage: make_checkpoint CONFIG_DIR OUT.safetensors [--random SEED] [--f32]\n",
              stderr);
        return 64;
    }
    struct cfg cfg;
    struct mll_error err;
    struct st_error st_err;
    struct weights_entry e = {0};
    struct model *m = calloc(1, sizeof *m);
    if (!m || cfg_load(&cfg, argv[1], &err) != MLL_OK) {
        fprintf(stderr, "%s\n", m ? err.message : "out of memory");
        return 65;
    }
    for (; m->n < MAX_TENSORS && weights_next(&e, &cfg); m->n++) {
        memcpy(m->names[m->n], e.name, sizeof e.name);
        m->specs[m->n] = (struct st_spec){m->names[m->n], dtype, e.n_dims, {0}};
        memcpy(m->specs[m->n].shape, e.dims, sizeof e.dims);
    }
    if (write_model(m, argv[2], seed, &st_err) != ST_OK) {
        fprintf(stderr, "%s: %s\n", argv[2], st_err.message);
        return 74;
    }
    free(m);
    return 0;
}
