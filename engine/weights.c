#include "weights.h"

#include "checkpoint.h"
#include "weights_quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- the table ------------------------------------------------------------------------------- */

/* Dimensions as the configuration gives them. */
enum dim {
    DIM_END = 0,
    ONE,
    V_HIDDEN,
    V_MLP,
    V_CHANNELS,
    V_PATCH,
    V_STATES,  /* patches + 1 */
    V_ASPECTS, /* aspect ratios + 1 */
    V_TILES,   /* max_tiles * hidden */
    V_TILED,   /* max_tiles * (patches + 1) * hidden */
    V_OUTPUT,
    T_HIDDEN,
    T_MLP,
    T_Q,  /* heads * head_dim */
    T_KV, /* kv_heads * head_dim */
    T_HEAD,
    T_VOCAB,
    T_EMBED, /* vocab_size + 8 */
};

/* Where a tensor stands. From LOCAL on a part is repeated: for each layer of one half of the tower,
 * for each decoder layer, for those with self or with cross attention. */
enum part { VISION, PROJECTOR, TEXT, HEAD, LOCAL, GLOBAL, DECODER, SELF, CROSS };

static const struct {
    const char *prefix, *new_prefix;
} parts[] = {
    [VISION] = {"vision_model.", "model.vision_model."},
    [PROJECTOR] = {"multi_modal_projector.", "model.multi_modal_projector."},
    [TEXT] = {"language_model.model.", "model.language_model."},
    [HEAD] = {"language_model.", ""},
    [LOCAL] = {"vision_model.transformer.layers.%d.", "model.vision_model.transformer.layers.%d."},
    [GLOBAL] = {"vision_model.global_transformer.layers.%d.",
                "model.vision_model.global_transformer.layers.%d."},
    [DECODER] = {"language_model.model.layers.%d.", "model.language_model.layers.%d."},
    [SELF] = {"language_model.model.layers.%d.", "model.language_model.layers.%d."},
    [CROSS] = {"language_model.model.layers.%d.", "model.language_model.layers.%d."},
};

#define W(field)  offsetof(struct weights, field)
#define VL(field) offsetof(struct vision_layer, field)
#define TL(field) offsetof(struct text_layer, field)
/* A bias is split with its rows' outputs: the columns of a vector. */
#define SPLIT_NONE WEIGHTS_SPLIT_NONE
#define SPLIT_ROWS WEIGHTS_SPLIT_ROWS
#define SPLIT_COLS WEIGHTS_SPLIT_COLS

/* clang-format off */
#define VISION_LAYER(part)                                                                         \
    {part, "input_layernorm.weight",          VL(ln1_w), SPLIT_NONE, false, {V_HIDDEN}},           \
    {part, "input_layernorm.bias",            VL(ln1_b), SPLIT_NONE, false, {V_HIDDEN}},           \
    {part, "self_attn.q_proj.weight",         VL(q),     SPLIT_ROWS, true,  {V_HIDDEN, V_HIDDEN}}, \
    {part, "self_attn.k_proj.weight",         VL(k),     SPLIT_ROWS, true,  {V_HIDDEN, V_HIDDEN}}, \
    {part, "self_attn.v_proj.weight",         VL(v),     SPLIT_ROWS, true,  {V_HIDDEN, V_HIDDEN}}, \
    {part, "self_attn.o_proj.weight",         VL(o),     SPLIT_COLS, true,  {V_HIDDEN, V_HIDDEN}}, \
    {part, "post_attention_layernorm.weight", VL(ln2_w), SPLIT_NONE, false, {V_HIDDEN}},           \
    {part, "post_attention_layernorm.bias",   VL(ln2_b), SPLIT_NONE, false, {V_HIDDEN}},           \
    {part, "mlp.fc1.weight",                  VL(fc1_w), SPLIT_ROWS, true,  {V_MLP, V_HIDDEN}},    \
    {part, "mlp.fc1.bias",                    VL(fc1_b), SPLIT_COLS, false, {V_MLP}},              \
    {part, "mlp.fc2.weight",                  VL(fc2_w), SPLIT_COLS, true,  {V_HIDDEN, V_MLP}},    \
    {part, "mlp.fc2.bias",                    VL(fc2_b), SPLIT_NONE, false, {V_HIDDEN}}

#define TEXT_ATTENTION(part, at)                                                                   \
    {part, at "q_proj.weight",                 TL(q),     SPLIT_ROWS, true,  {T_Q, T_HIDDEN}},      \
    {part, at "k_proj.weight",                 TL(k),     SPLIT_ROWS, true,  {T_KV, T_HIDDEN}},     \
    {part, at "v_proj.weight",                 TL(v),     SPLIT_ROWS, true,  {T_KV, T_HIDDEN}},     \
    {part, at "o_proj.weight",                 TL(o),     SPLIT_COLS, true,  {T_HIDDEN, T_Q}}

/* Name behind the part's prefix, field, split, nn.Linear, shape in the file. */
static const struct row {
    enum part part;
    const char *name;
    size_t field;
    enum weights_split split;
    bool linear;
    enum dim dims[WEIGHTS_MAX_DIMS];
} table[] = {
    {VISION, "patch_embedding.weight", W(patch_embedding), SPLIT_NONE, false,
     {V_HIDDEN, V_CHANNELS, V_PATCH, V_PATCH}},
    {VISION, "class_embedding", W(class_embedding), SPLIT_NONE, false, {V_HIDDEN}},
    {VISION, "gated_positional_embedding.gate", W(position_gate), SPLIT_NONE, false, {ONE}},
    {VISION, "gated_positional_embedding.embedding", W(position_embedding), SPLIT_NONE, false,
     {V_STATES, V_HIDDEN}},
    {VISION, "gated_positional_embedding.tile_embedding.weight", W(tile_position), SPLIT_NONE,
     false, {V_ASPECTS, V_TILED}},
    {VISION, "pre_tile_positional_embedding.embedding.weight", W(pre_tile), SPLIT_NONE, false,
     {V_ASPECTS, V_TILES}},
    {VISION, "pre_tile_positional_embedding.gate", W(pre_tile_gate), SPLIT_NONE, false, {ONE}},
    {VISION, "post_tile_positional_embedding.embedding.weight", W(post_tile), SPLIT_NONE, false,
     {V_ASPECTS, V_TILES}},
    {VISION, "post_tile_positional_embedding.gate", W(post_tile_gate), SPLIT_NONE, false, {ONE}},
    {VISION, "layernorm_pre.weight", W(ln_pre_w), SPLIT_NONE, false, {V_HIDDEN}},
    {VISION, "layernorm_pre.bias", W(ln_pre_b), SPLIT_NONE, false, {V_HIDDEN}},
    {VISION, "layernorm_post.weight", W(ln_post_w), SPLIT_NONE, false, {V_HIDDEN}},
    {VISION, "layernorm_post.bias", W(ln_post_b), SPLIT_NONE, false, {V_HIDDEN}},
    VISION_LAYER(LOCAL),
    VISION_LAYER(GLOBAL),
    {GLOBAL, "gate_attn", VL(gate_attn), SPLIT_NONE, false, {ONE}},
    {GLOBAL, "gate_ffn", VL(gate_ffn), SPLIT_NONE, false, {ONE}},
    {PROJECTOR, "weight", W(projector_w), SPLIT_ROWS, true, {T_HIDDEN, V_OUTPUT}},
    {PROJECTOR, "bias", W(projector_b), SPLIT_COLS, false, {T_HIDDEN}},
    {TEXT, "embed_tokens.weight", W(embed_tokens), SPLIT_ROWS, false, {T_EMBED, T_HIDDEN}},
    {DECODER, "input_layernorm.weight", TL(input_norm), SPLIT_NONE, false, {T_HIDDEN}},
    TEXT_ATTENTION(SELF, "self_attn."),
    TEXT_ATTENTION(CROSS, "cross_attn."),
    {CROSS, "cross_attn.q_norm.weight", TL(q_norm), SPLIT_NONE, false, {T_HEAD}},
    {CROSS, "cross_attn.k_norm.weight", TL(k_norm), SPLIT_NONE, false, {T_HEAD}},
    {DECODER, "post_attention_layernorm.weight", TL(post_norm), SPLIT_NONE, false, {T_HIDDEN}},
    {DECODER, "mlp.gate_proj.weight", TL(gate), SPLIT_ROWS, true, {T_MLP, T_HIDDEN}},
    {DECODER, "mlp.up_proj.weight", TL(up), SPLIT_ROWS, true, {T_MLP, T_HIDDEN}},
    {DECODER, "mlp.down_proj.weight", TL(down), SPLIT_COLS, true, {T_HIDDEN, T_MLP}},
    {CROSS, "cross_attn_attn_gate", TL(attn_gate), SPLIT_NONE, false, {ONE}},
    {CROSS, "cross_attn_mlp_gate", TL(mlp_gate), SPLIT_NONE, false, {ONE}},
    {TEXT, "norm.weight", W(norm), SPLIT_NONE, false, {T_HIDDEN}},
    {HEAD, "lm_head.weight", W(lm_head), SPLIT_ROWS, true, {T_VOCAB, T_HIDDEN}},
};
/* clang-format on */

#define TABLE_ROWS (sizeof table / sizeof *table)

static int64_t dim_of(const struct cfg *cfg, enum dim dim)
{
    const struct cfg_vision *v = &cfg->vision;
    const struct cfg_text *t = &cfg->text;
    int64_t states = v->patches + 1;
    switch (dim) {
    case DIM_END:
        break;
    case ONE:
        return 1;
    case V_HIDDEN:
        return v->hidden_size;
    case V_MLP:
        return v->intermediate_size;
    case V_CHANNELS:
        return v->channels;
    case V_PATCH:
        return v->patch_size;
    case V_STATES:
        return states;
    case V_ASPECTS:
        return v->aspect_ratios + 1;
    case V_TILES:
        return (int64_t)v->max_tiles * v->hidden_size;
    case V_TILED:
        return v->max_tiles * states * v->hidden_size;
    case V_OUTPUT:
        return v->output_dim;
    case T_HIDDEN:
        return t->hidden_size;
    case T_MLP:
        return t->intermediate_size;
    case T_Q:
        return (int64_t)t->heads * t->head_dim;
    case T_KV:
        return (int64_t)t->kv_heads * t->head_dim;
    case T_HEAD:
        return t->head_dim;
    case T_VOCAB:
        return t->vocab_size;
    case T_EMBED:
        return (int64_t)t->vocab_size + 8;
    }
    return 0;
}

/* ---- walking --------------------------------------------------------------------------------- */

/* How many layers a part is repeated over; 0: it stands once. */
static int layers_of(const struct cfg *cfg, enum part part)
{
    if (part < LOCAL)
        return 0;
    return part == LOCAL    ? cfg->vision.layers
           : part == GLOBAL ? cfg->vision.global_layers
                            : cfg->text.layers;
}

/* The next layer from `layer` on that has a part, -1 if there is none. */
static int next_layer(const struct cfg *cfg, enum part part, int layer)
{
    int n = layers_of(cfg, part);
    for (; layer < n; layer++)
        if ((part != SELF || !cfg->text.is_cross[layer]) &&
            (part != CROSS || cfg->text.is_cross[layer]))
            return layer;
    return -1;
}

static void put_name(char *out, const char *prefix, const char *name, int layer)
{
    const char *number = strstr(prefix, "%d");
    int head = (int)(number ? number - prefix : (ptrdiff_t)strlen(prefix));
    int n = snprintf(out, WEIGHTS_MAX_NAME, "%.*s", head, prefix);
    if (number)
        n += snprintf(out + n, WEIGHTS_MAX_NAME - (size_t)n, "%d%s", layer, number + 2);
    snprintf(out + n, WEIGHTS_MAX_NAME - (size_t)n, "%s", name);
}

static void fill_entry(struct weights_entry *e, const struct cfg *cfg)
{
    const struct row *r = &table[e->row];
    put_name(e->name, parts[r->part].prefix, r->name, e->layer);
    put_name(e->new_name, parts[r->part].new_prefix, r->name, e->layer);
    e->split = r->split;
    e->linear = r->linear;
    int64_t size = 1;
    for (e->n_dims = 0; e->n_dims < WEIGHTS_MAX_DIMS && r->dims[e->n_dims]; e->n_dims++) {
        e->dims[e->n_dims] = dim_of(cfg, r->dims[e->n_dims]);
        size *= e->dims[e->n_dims];
    }
    e->use = e->n_dims == 1               ? WEIGHT_VECTOR
             : r->linear || e->n_dims > 2 ? WEIGHT_MATRIX
                                          : WEIGHT_TABLE;
    e->rows = e->n_dims == 1 ? 1 : (int)e->dims[0];
    e->cols = (int)(size / e->rows);
}

bool weights_next(struct weights_entry *entry, const struct cfg *cfg)
{
    bool first = entry->name[0] == 0;
    int layer = first ? 0 : entry->layer + 1;
    if (!first && entry->layer < 0) { /* behind a tensor that stands once */
        entry->row++;
        layer = 0;
    }
    for (; entry->row < (int)TABLE_ROWS; entry->row++, layer = 0) {
        enum part part = table[entry->row].part;
        entry->layer = next_layer(cfg, part, layer);
        if (part >= LOCAL && entry->layer < 0)
            continue;
        fill_entry(entry, cfg);
        return true;
    }
    return false;
}

struct mat *weights_field(struct weights *weights, const struct weights_entry *entry)
{
    const struct row *r = &table[entry->row];
    char *base = (char *)weights;
    if (r->part == LOCAL)
        base = (char *)&weights->local[entry->layer];
    else if (r->part == GLOBAL)
        base = (char *)&weights->global[entry->layer];
    else if (r->part > GLOBAL)
        base = (char *)&weights->layers[entry->layer];
    return (struct mat *)(void *)(base + r->field);
}

static size_t blocks_bytes(const struct mat_blocks *b, size_t n)
{
    size_t blocks = (n + (size_t)b->block - 1) / (size_t)b->block;
    size_t outer = (blocks + MLL_NESTED_BLOCK - 1) / MLL_NESTED_BLOCK;
    return b->codes != NULL ? blocks + (outer + 256) * sizeof(float) : blocks * sizeof(float);
}

size_t weights_mat_bytes(const struct mat *mat)
{
    size_t n = (size_t)mat->rows * (size_t)mat->cols;
    switch (mat->dtype) {
    case MLL_DTYPE_NONE:
        return 0;
    case MLL_DTYPE_I64:
        return n * 8;
    case MLL_DTYPE_F32:
    case MLL_DTYPE_I32:
        return n * 4;
    case MLL_DTYPE_F16:
    case MLL_DTYPE_BF16:
        return n * 2;
    case MLL_DTYPE_I8:
        return n + (size_t)mat->rows * sizeof(float);
    case MLL_DTYPE_U8:
        return n;
    case MLL_DTYPE_Q4:
        return n / 2 + n % 2 + blocks_bytes(mat->blocks, n);
    }
    return 0;
}

/* ---- binding --------------------------------------------------------------------------------- */

const struct st_tensor *weights_find(const struct weights_entry *entry, const struct ckpt *ckpt)
{
    const struct st_tensor *t = ckpt_find(ckpt, entry->name);
    return t ? t : ckpt_find(ckpt, entry->new_name);
}

int weights_find_parts(const struct st_tensor *found[1 + WEIGHTS_MAX_PARTS],
                       const struct weights_entry *entry, const struct ckpt *ckpt)
{
    found[0] = weights_find(entry, ckpt);
    if (found[0] == NULL || !entry->linear)
        return found[0] != NULL;
    return 1 + weights_quant_parts(found + 1, ckpt, found[0]);
}

static enum mll_dtype dtype_of(enum st_dtype dtype)
{
    switch (dtype) {
    case ST_DTYPE_F32:
        return MLL_DTYPE_F32;
    case ST_DTYPE_F16:
        return MLL_DTYPE_F16;
    case ST_DTYPE_BF16:
        return MLL_DTYPE_BF16;
    default:
        return MLL_DTYPE_NONE;
    }
}

/* "(2, 3)" */
static const char *show_dims(char buf[160], const int64_t *dims, int n)
{
    int at = snprintf(buf, 160, "(");
    for (int i = 0; i < n; i++)
        at += snprintf(buf + at, 160 - (size_t)at, i ? ", %lld" : "%lld", (long long)dims[i]);
    snprintf(buf + at, 160 - (size_t)at, ")");
    return buf;
}

/* The two tables whose row count belongs to the vocabulary have defects of their own. */
static enum mll_status shape_status(const struct weights_entry *e, const struct st_tensor *t)
{
    bool rows_only = t->rank == 2 && e->n_dims == 2 && t->shape[1] == e->dims[1];
    if (rows_only && table[e->row].field == W(embed_tokens) && table[e->row].part == TEXT)
        return MLL_ERR_EMBEDDING_ROWS;
    if (rows_only && table[e->row].part == HEAD)
        return MLL_ERR_LM_HEAD_ROWS;
    return MLL_ERR_TENSOR_SHAPE;
}

static void bind_entry(struct weights *weights, const struct weights_entry *e,
                       const struct ckpt *ckpt, struct defects *d)
{
    struct mat *mat = weights_field(weights, e);
    char want[160], have[160];
    show_dims(want, e->dims, e->n_dims);
    const struct st_tensor *t = weights_find(e, ckpt);
    if (!t && ckpt_is_incomplete(ckpt))
        return; /* the missing file is the defect */
    if (!t) {
        defects_add(d, MLL_ERR_TENSOR_MISSING, "tensor '%s' (or '%s'): expected %s, found none",
                    e->name, e->new_name, want);
        return;
    }
    const char *file = ckpt_file_name(ckpt, t);
    if (ckpt_find(ckpt, e->name) && ckpt_find(ckpt, e->new_name)) {
        defects_add(d, MLL_ERR_TENSOR_TWO_NAMES,
                    "%.60s: tensor '%s': expected one name, found also '%s'", file, e->name,
                    e->new_name);
        return;
    }
    if (weights_bind_quant(weights, mat, e, ckpt, t, d))
        return;
    if (t->rank != e->n_dims || memcmp(t->shape, e->dims, sizeof *e->dims * (size_t)t->rank) != 0) {
        defects_add(d, shape_status(e, t), "%.60s: tensor '%s': expected shape %s, found %s", file,
                    t->name, want, show_dims(have, t->shape, t->rank));
        return;
    }
    mat->dtype = dtype_of(t->dtype);
    if (mat->dtype == MLL_DTYPE_NONE)
        defects_add(d, MLL_ERR_TENSOR_DTYPE,
                    "%.60s: tensor '%s': expected dtype F32, F16 or BF16, found %s", file, t->name,
                    st_dtype_name(t->dtype));
    else
        mat->data = t->data;
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (const void *const *)a, y = (uintptr_t) * (const void *const *)b;
    return x < y ? -1 : x > y;
}

/* Lists the tensors that no entry names. */
static void list_unused(struct weights *w, const struct cfg *cfg, const struct ckpt *ckpt,
                        struct defects *d)
{
    struct weights_entry e = {0};
    size_t n = 0, total = ckpt_count(ckpt);
    const struct st_tensor *found[1 + WEIGHTS_MAX_PARTS];
    const void **used = malloc((2 * total + 1) * sizeof *used); /* an entry has two names */
    w->unused = calloc(total + 1, sizeof *w->unused);
    w->n_unused = 0;
    if (!used || !w->unused) {
        defects_add(d, MLL_ERR_NO_MEMORY, "out of memory");
        free(used);
        return;
    }
    while (weights_next(&e, cfg)) {
        int n_parts = weights_find_parts(found, &e, ckpt);
        for (int i = 0; i < n_parts; i++)
            used[n++] = found[i];
        if ((used[n] = ckpt_find(ckpt, e.new_name)) != NULL)
            n++;
    }
    qsort(used, n, sizeof *used, by_address);
    for (size_t i = 0; i < total; i++) {
        const struct st_tensor *t = ckpt_at(ckpt, i);
        if (!bsearch(&t, used, n, sizeof *used, by_address))
            w->unused[w->n_unused++] = t->name;
    }
    free(used);
}

void weights_bind(struct weights *weights, const struct cfg *cfg, const struct ckpt *ckpt,
                  struct defects *d)
{
    struct weights_entry e = {0};
    if (!cfg_quant_is_read(cfg)) {
        defects_add(d, MLL_ERR_QUANT_METHOD,
                    "config.json: quantization_config.quant_method: expected bitsandbytes or plain "
                    "weights, found \"%s\"",
                    cfg->quant_method);
        return; /* or every tensor would be a defect */
    }
    while (weights_next(&e, cfg))
        bind_entry(weights, &e, ckpt, d);
    list_unused(weights, cfg, ckpt, d);
}

enum mll_status weights_alloc(struct weights **weights, const struct cfg *cfg, enum mll_dtype dtype,
                              struct mll_error *err)
{
    struct weights_entry e = {0};
    struct weights *w = *weights = calloc(1, sizeof *w);
    if (w) {
        w->local = calloc((size_t)cfg->vision.layers, sizeof *w->local);
        w->global = calloc((size_t)cfg->vision.global_layers, sizeof *w->global);
        w->layers = calloc((size_t)cfg->text.layers, sizeof *w->layers);
    }
    if (!w || !w->local || !w->global || !w->layers) {
        weights_free(w);
        *weights = NULL;
        return mll_fail(err, MLL_ERR_NO_MEMORY, "out of memory for the list of weights");
    }
    while (weights_next(&e, cfg))
        *weights_field(w, &e) = (struct mat){.dtype = dtype, .rows = e.rows, .cols = e.cols};
    return MLL_OK;
}

enum mll_status weights_load(struct weights **weights, const struct cfg *cfg, const char *dir,
                             bool no_mmap, struct mll_error *err)
{
    struct defects d = {0};
    MLL_TRY(weights_alloc(weights, cfg, MLL_DTYPE_NONE, err));
    struct weights *w = *weights;
    enum mll_status status = ckpt_open(&w->ckpt, dir, no_mmap ? ST_MODE_READ : ST_MODE_MMAP, err);
    if (status == MLL_OK) {
        weights_bind(w, cfg, w->ckpt, &d);
        status = defects_result(&d, err);
    }
    if (status != MLL_OK) {
        weights_free(w);
        *weights = NULL;
    }
    return status;
}

void weights_round_q4(struct weights *weights)
{
    for (struct weights_quant *q = weights->quant; q != NULL; q = q->next)
        q->blocks.rounded = q->dtype;
}

enum mll_status weights_check_files(const struct weights *weights, struct mll_error *err)
{
    return weights->ckpt ? ckpt_check_unchanged(weights->ckpt, err) : MLL_OK;
}

void weights_release(struct weights *weights)
{
    weights_quant_free(weights);
    ckpt_close(weights->ckpt);
    if (weights->mapping)
        munmap(weights->mapping, weights->mapping_bytes);
    weights->ckpt = NULL;
    weights->mapping = NULL;
    weights->n_unused = 0; /* names were the files' */
}

void weights_free(struct weights *weights)
{
    if (!weights)
        return;
    weights_release(weights);
    free(weights->unused);
    free(weights->local);
    free(weights->global);
    free(weights->layers);
    free(weights);
}
