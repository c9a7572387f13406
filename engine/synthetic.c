/* synthetic.c - the released geometries and made-up weights for them.  See synthetic.h.
 *
 * Sizes: the config.json of Llama-3.2-{11B,90B}-Vision and of Llama-3.2-1B. One anonymous mapping
 * holds every tensor at an aligned place; a page of random bytes is copied over it, so that
 * building an 11B takes seconds, and its memory is as distinct as a real model's. For a GPU, which
 * gets copies, one matrix serves all. */
#include "synthetic.h"
#include "quant_state.h"
#include "quantise.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { TENSOR_ALIGN = 64, PATTERN = 2 << 20 };

struct geometry {
    const char *name;
    int hidden, intermediate, heads, layers,
        first_cross; /* then every fifth layer is a cross one */
    int vision_hidden, vision_heads, vision_layers, global_layers, image_size;
};

static const struct geometry geometries[] = {
    {"1b", 2048, 8192, 32, 17, 16, 64, 4, 1, 1, 56},
    {"11b", 4096, 14336, 32, 40, 3, 1280, 16, 32, 8, 560},
    {"11b-base", 4096, 14336, 32, 40, 3, 1280, 16, 32, 8, 448},
    {"90b", 8192, 28672, 64, 100, 3, 1280, 16, 32, 8, 560},
};

const char *synthetic_names(void)
{
    return "1b, 11b, 11b-base or 90b";
}

/* ---- configuration --------------------------------------------------------------------------- */

static void fill_vision(struct cfg_vision *v, const struct geometry *g)
{
    static const int kept[] = {3, 7, 15, 23, 30};
    *v = (struct cfg_vision){.hidden_size = g->vision_hidden,
                             .intermediate_size = 4 * g->vision_hidden,
                             .heads = g->vision_heads,
                             .layers = g->vision_layers,
                             .global_layers = g->global_layers,
                             .image_size = g->image_size,
                             .patch_size = 14,
                             .channels = 3,
                             .max_tiles = 4,
                             .norm_eps = 1e-5f};
    for (int i = 0; i < 5 && kept[i] < v->layers; i++)
        v->kept[v->n_kept++] = kept[i];
    v->output_dim = v->hidden_size * (1 + v->n_kept);
    v->head_dim = v->hidden_size / v->heads;
    v->grid = v->image_size / v->patch_size;
    v->patches = v->grid * v->grid;
    v->rows = (v->patches + 1 + 7) / 8 * 8;
    v->aspect_ratios = cfg_canvases(v->max_tiles);
}

static void fill_text(struct cfg_text *t, const struct geometry *g)
{
    *t = (struct cfg_text){.vocab_size = 128256,
                           .hidden_size = g->hidden,
                           .intermediate_size = g->intermediate,
                           .heads = g->heads,
                           .kv_heads = 8,
                           .head_dim = g->hidden / g->heads,
                           .layers = g->layers,
                           .max_position = 131072,
                           .rms_norm_eps = 1e-5f,
                           .rope_theta = 500000,
                           .rope_scaled = true,
                           .rope_factor = 8,
                           .rope_low_freq = 1,
                           .rope_high_freq = 4,
                           .rope_original_max_position = 8192};
    for (int i = g->first_cross; i < t->layers; i += 5, t->n_cross++)
        t->is_cross[i] = true;
}

enum mll_status synthetic_config(struct cfg *cfg, const char *name, struct mll_error *err)
{
    const struct geometry *g = NULL;
    for (size_t i = 0; i < sizeof geometries / sizeof *geometries; i++)
        if (strcmp(name, geometries[i].name) == 0)
            g = &geometries[i];
    if (g == NULL)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "synthetic: expected %s, found %s",
                        synthetic_names(), name);
    *cfg = (struct cfg){.image_token = 128256};
    fill_vision(&cfg->vision, g);
    fill_text(&cfg->text, g);
    cfg->generation = (struct cfg_generation){.bos = 128000,
                                              .pad = 128004,
                                              .temperature = 1,
                                              .top_p = 1,
                                              .repetition_penalty = 1,
                                              .top_k = 50};
    cfg->preprocess = (struct cfg_preprocess){.size = g->image_size,
                                              .max_tiles = 4,
                                              .mean = {0.48145466f, 0.4578275f, 0.40821073f},
                                              .std = {0.26862954f, 0.26130258f, 0.27577711f},
                                              .rescale = 1.0 / 255};
    return MLL_OK;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* Random bytes, and the same as bf16 numbers of at most 1/32. */
struct patterns {
    uint8_t bytes[PATTERN];
    uint16_t numbers[PATTERN / 2];
};

static void fill_patterns(struct patterns *p)
{
    uint64_t state = 1;
    for (size_t i = 0; i < PATTERN / 2; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint16_t bits = (uint16_t)(state >> 48);
        memcpy(p->bytes + 2 * i, &bits, sizeof bits);
        /* sign and 7 bits of mantissa from the generator, exponent of 2^-8 to 2^-6 */
        p->numbers[i] = (uint16_t)((bits & 0x807f) | (119 + (bits >> 8) % 3) << 7);
    }
}

static void copy_pattern(void *to, const void *pattern, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PATTERN)
        memcpy((char *)to + at, pattern, bytes - at < PATTERN ? bytes - at : PATTERN);
}

/* What the elements of a matrix are. */
enum content { NUMBERS, CODES, CONTENTS };

/* Hands out aligned parts of the mapping; with base NULL it only counts. shared: matrices of one
 * content all begin at the same place, behind everything else. */
struct slab {
    char *base;
    size_t used;
    bool shared;
    size_t most[CONTENTS], place[CONTENTS];
};

static void *slab_take(struct slab *s, size_t bytes)
{
    void *p = s->base ? s->base + s->used : NULL;
    s->used += (bytes + TENSOR_ALIGN - 1) / TENSOR_ALIGN * TENSOR_ALIGN;
    return p;
}

static const void *pattern_of(const struct patterns *p, enum content content)
{
    return content == NUMBERS ? (const void *)p->numbers : p->bytes;
}

/* The elements of a matrix. */
static void *slab_matrix(struct slab *s, const struct patterns *p, enum content content,
                         size_t bytes)
{
    if (bytes > s->most[content])
        s->most[content] = bytes;
    if (s->shared)
        return s->base ? s->base + s->place[content] : NULL;
    void *data = slab_take(s, bytes);
    if (data != NULL)
        copy_pattern(data, pattern_of(p, content), bytes);
    return data;
}

/* The absmax of a 4-bit matrix lie around 1/32: plain, or 256 equal steps times 1/32. */
static void make_blocks(struct mat *m, struct slab *s, const struct patterns *p, bool nested)
{
    size_t n = (size_t)m->rows * (size_t)m->cols,
           blocks = (n + QUANTISE_BLOCK - 1) / QUANTISE_BLOCK;
    size_t outer = (blocks + MLL_NESTED_BLOCK - 1) / MLL_NESTED_BLOCK;
    struct mat_blocks *b = slab_take(s, sizeof *b);
    float *absmax = slab_take(s, (nested ? outer : blocks) * sizeof *absmax);
    float *map = slab_take(s, nested ? 256 * sizeof *map : 0);
    uint8_t *codes = slab_take(s, nested ? blocks : 0);
    if (s->base == NULL)
        return;
    *b = (struct mat_blocks){.block = QUANTISE_BLOCK, .rounded = MLL_DTYPE_F32};
    memcpy(b->values, quant_values_nf4, sizeof b->values);
    for (size_t i = 0; i < (nested ? outer : blocks); i++)
        absmax[i] = (1.0f + (float)(i % 17) / 16) / 32;
    if (nested) {
        for (int i = 0; i < 256; i++)
            map[i] = (float)(i + 1) / 256;
        copy_pattern(codes, p->bytes, blocks);
        b->codes = codes;
        b->nested_absmax = absmax;
        b->nested_map = map;
    } else {
        b->absmax = absmax;
    }
    m->blocks = b;
}

static void make_matrix(struct mat *m, struct slab *s, const struct patterns *p,
                        enum quantise_type quant)
{
    size_t n = (size_t)m->rows * (size_t)m->cols;
    m->dtype = quant == QUANTISE_NONE   ? MLL_DTYPE_BF16
               : quant == QUANTISE_INT8 ? MLL_DTYPE_I8
                                        : MLL_DTYPE_Q4;
    size_t bytes = m->dtype == MLL_DTYPE_BF16 ? 2 * n : m->dtype == MLL_DTYPE_I8 ? n : (n + 1) / 2;
    void *data = slab_matrix(s, p, m->dtype == MLL_DTYPE_BF16 ? NUMBERS : CODES, bytes);
    float *scale = slab_take(s, m->dtype == MLL_DTYPE_I8 ? (size_t)m->rows * sizeof *scale : 0);
    if (m->dtype == MLL_DTYPE_Q4)
        make_blocks(m, s, p, quant == QUANTISE_NF4_DOUBLE);
    if (s->base == NULL)
        return;
    m->data = data;
    if (m->dtype == MLL_DTYPE_I8) {
        for (int r = 0; r < m->rows; r++)
            scale[r] = (1.0f + (float)(r % 17) / 16) / 32;
        m->scale = scale;
    }
}

static void make_vector(struct mat *m, struct slab *s)
{
    float *data = slab_take(s, (size_t)m->cols * sizeof *data);
    m->dtype = MLL_DTYPE_F32;
    for (int i = 0; s->base != NULL && i < m->cols; i++)
        data[i] = 1.0f;
    m->data = data;
}

static void make_all(struct weights *w, struct slab *s, const struct cfg *cfg,
                     const struct patterns *p, enum quantise_type quant)
{
    struct weights_entry e = {0};
    while (weights_next(&e, cfg)) {
        struct mat *m = weights_field(w, &e);
        if (m->rows == 1)
            make_vector(m, s);
        else
            make_matrix(m, s, p, quantise_selects(&e, NULL, 0) ? quant : QUANTISE_NONE);
    }
}

enum mll_status synthetic_matrix(struct mat *m, void **memory, int rows, int cols,
                                 const char *quant, struct mll_error *err)
{
    const size_t page = (size_t)2 << 20;
    struct slab slab = {0};
    *memory = NULL;
    enum quantise_type type;
    MLL_TRY(quantise_type_of(&type, quant, err));
    *m = (struct mat){.rows = rows, .cols = cols};
    make_matrix(m, &slab, NULL, type);
    struct patterns *p = malloc(sizeof *p);
    void *base = p ? aligned_alloc(page, (slab.used + page - 1) / page * page) : NULL;
    if (base == NULL) {
        free(p);
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a matrix of %d x %d", rows, cols);
    }
    madvise(base, slab.used, MADV_HUGEPAGE);
    slab = (struct slab){.base = base};
    fill_patterns(p);
    make_matrix(m, &slab, p, type);
    free(p);
    *memory = base;
    return MLL_OK;
}

enum mll_status synthetic_weights(struct weights **weights, const struct cfg *cfg,
                                  const char *quant, bool shared, struct mll_error *err)
{
    *weights = NULL;
    enum quantise_type type;
    MLL_TRY(quantise_type_of(&type, quant, err));
    struct weights *w;
    MLL_TRY(weights_alloc(&w, cfg, MLL_DTYPE_NONE, err));
    struct slab slab = {.shared = shared};
    make_all(w, &slab, cfg, NULL, type);
    for (int i = 0; i < CONTENTS && shared; i++) {
        slab.place[i] = slab.used;
        slab_take(&slab, slab.most[i]);
    }
    size_t bytes = slab.used;
    struct patterns *p = malloc(sizeof *p);
    void *base = p == NULL ? MAP_FAILED
                           : mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        free(p);
        weights_free(w);
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %zu bytes of weights", bytes);
    }
    madvise(base, bytes, MADV_HUGEPAGE);
    w->mapping = base;
    w->mapping_bytes = bytes;
    slab.base = base;
    slab.used = 0;
    fill_patterns(p);
    for (int i = 0; i < CONTENTS && shared; i++)
        copy_pattern(slab.base + slab.place[i], pattern_of(p, (enum content)i), slab.most[i]);
    make_all(w, &slab, cfg, p, type);
    free(p);
    *weights = w;
    return MLL_OK;
}
