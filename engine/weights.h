/* weights.h - the bound model: one struct mat a tensor, and the table that names them all.
 *
 * engine/weights.c holds one line a tensor: HF name (old and new layout), field of the structs
 * below, shape in terms of the configuration, how tensor parallelism would split it. The table
 * drives loading, validation (check), quantisation, memory planning and synthetic weights; others
 * walk it with weights_next().
 *
 * Shapes are (rows, cols) of the struct mat; a vector has one row. Names in comments stand behind
 * their prefix: vision_model., language_model.model., with the layer's number left out. */
#ifndef MLL_WEIGHTS_H
#define MLL_WEIGHTS_H

#include "config.h"
#include "ops.h"

struct ckpt;
struct st_tensor;

/* What plain weights become: quantise.h. */
enum quantise_type { QUANTISE_NONE = 0, QUANTISE_NF4, QUANTISE_NF4_DOUBLE, QUANTISE_INT8 };

/* transformer.layers.N. or global_transformer.layers.N. of the vision tower; D its hidden size */
struct vision_layer {
    struct mat ln1_w, ln1_b; /* (1, D) input_layernorm.{weight,bias} */
    struct mat q, k, v, o;   /* (D, D) self_attn.{q,k,v,o}_proj.weight */
    struct mat ln2_w, ln2_b; /* (1, D) post_attention_layernorm.{weight,bias} */
    struct mat fc1_w, fc1_b; /* (intermediate, D), (1, intermediate) mlp.fc1 */
    struct mat fc2_w, fc2_b; /* (D, intermediate), (1, D) mlp.fc2 */
    struct mat gate_attn;    /* (1, 1) gate_attn; global layers only, else data NULL */
    struct mat gate_ffn;     /* (1, 1) gate_ffn; as above */
};

/* layers.N. of the decoder; D its hidden size. A cross layer has cross_attn in place of self_attn.
 */
struct text_layer {
    struct mat input_norm;     /* (1, D) input_layernorm.weight */
    struct mat q;              /* (heads * head_dim, D) {self,cross}_attn.q_proj.weight */
    struct mat k, v;           /* (kv_heads * head_dim, D) {self,cross}_attn.{k,v}_proj.weight */
    struct mat o;              /* (D, heads * head_dim) {self,cross}_attn.o_proj.weight */
    struct mat q_norm, k_norm; /* (1, head_dim) cross_attn.{q,k}_norm.weight; cross layers only */
    struct mat post_norm;      /* (1, D) post_attention_layernorm.weight */
    struct mat gate, up;       /* (intermediate, D) mlp.{gate,up}_proj.weight */
    struct mat down;           /* (D, intermediate) mlp.down_proj.weight */
    struct mat attn_gate;      /* (1, 1) cross_attn_attn_gate; cross layers only */
    struct mat mlp_gate;       /* (1, 1) cross_attn_mlp_gate; cross layers only */
};

struct weights_quant;
struct weights_copy {
    struct weights_copy *next;
    float floats[];
};

struct weights {
    /* vision_model.; D its hidden size, R = patches + 1, A = aspect_ratios + 1, T = max_tiles */
    struct mat patch_embedding;    /* (D, channels * patch * patch) patch_embedding.weight */
    struct mat class_embedding;    /* (1, D) class_embedding */
    struct mat position_gate;      /* (1, 1) gated_positional_embedding.gate */
    struct mat position_embedding; /* (R, D) gated_positional_embedding.embedding */
    struct mat tile_position;      /* (A, T * R * D) gated_positional_embedding.tile_embedding */
    struct mat pre_tile;           /* (A, T * D) pre_tile_positional_embedding.embedding.weight */
    struct mat pre_tile_gate;      /* (1, 1) pre_tile_positional_embedding.gate */
    struct mat post_tile;          /* (A, T * D) post_tile_positional_embedding.embedding.weight */
    struct mat post_tile_gate;     /* (1, 1) post_tile_positional_embedding.gate */
    struct mat ln_pre_w, ln_pre_b; /* (1, D) layernorm_pre */
    struct mat ln_post_w, ln_post_b; /* (1, D) layernorm_post */
    struct vision_layer *local;      /* (vision.layers) transformer.layers */
    struct vision_layer *global;     /* (vision.global_layers) global_transformer.layers */
    /* multi_modal_projector. */
    struct mat projector_w; /* (text hidden, output_dim) weight */
    struct mat projector_b; /* (1, text hidden) bias */
    /* language_model.model. */
    struct mat embed_tokens;   /* (vocab_size + 8, hidden) embed_tokens.weight */
    struct text_layer *layers; /* (text.layers) layers */
    struct mat norm;           /* (1, hidden) norm.weight */
    /* language_model. */
    struct mat lm_head; /* (vocab_size, hidden) lm_head.weight */

    struct ckpt *ckpt; /* owned: the mapped files that every data pointer points into, or NULL */
    void *mapping;     /* owned: the memory of synthetic weights, or NULL */
    size_t mapping_bytes;
    struct weights_quant *quant; /* owned: what 4-bit weights point to */
    struct weights_copy *copies; /* owned: floats that lie unaligned in the files */
    const char **unused;         /* (n_unused) tensors of the files that the table does not name */
    size_t n_unused;
};

/* Opens DIR's safetensors files and binds every tensor of the table. no_mmap reads the files into
 * memory. cfg is not kept. On failure *weights is NULL, err holds the first defect and how many
 * there are. */
enum mll_status weights_load(struct weights **weights, const struct cfg *cfg, const char *dir,
                             bool no_mmap, struct mll_error *err);
/* Binds what ckpt holds and adds a defect for every tensor that is missing or has the wrong shape
 * or dtype; its data stays NULL. ckpt stays the caller's until weights->ckpt is set to it. */
void weights_bind(struct weights *weights, const struct cfg *cfg, const struct ckpt *ckpt,
                  struct defects *d);
/* An unbound struct with its layer arrays, for synthetic weights: every data NULL, every shape and
 * dtype (the given one) set. */
enum mll_status weights_alloc(struct weights **weights, const struct cfg *cfg, enum mll_dtype dtype,
                              struct mll_error *err);
/* From now on 4-bit weights are rounded to the dtype they were quantised from, as bitsandbytes
 * does: what the hf4 and hf5 references compute. */
void weights_round_q4(struct weights *weights);
/* MLL_ERR_FILE_CHANGED where a mapped file no longer has its size: reading on would be a SIGBUS. */
enum mll_status weights_check_files(const struct weights *weights, struct mll_error *err);
/* How weights go onto a GPU: plain ones quantised on the way, each given back before the next (by
 * threads; 0: all cores); the matrices of the last n_streamed decoder layers into groups of
 * exec_begin_groups, layer layers - n_streamed into group 1. The k and v of cross layers, which
 * only images need, are on the device always. */
struct weights_move {
    enum quantise_type quant;
    int threads, n_streamed;
};
/* Makes all weights readable by the ops of a GPU's exec (exec_load_weight): the files are closed,
 * every mat describes the device's copy. *bytes: that were copied. */
enum mll_status weights_to_device(struct weights *weights, const struct cfg *cfg,
                                  struct mll_exec *ex, const struct weights_move *move,
                                  size_t *bytes, uint64_t *underflows, struct mll_error *err);
/* The bytes on a GPU without the groups, whose own go to groups (n_streamed). */
size_t weights_device_bytes(size_t *groups, struct weights *weights, const struct cfg *cfg,
                            const struct weights_move *move);
/* Gives back the host memory behind the weights, files included. */
void weights_release(struct weights *weights);
void weights_free(struct weights *weights); /* NULL allowed; unmaps the files */

/* ---- the table ------------------------------------------------------------------------------- */

#define WEIGHTS_MAX_NAME 128
#define WEIGHTS_MAX_DIMS 4

enum weights_split { WEIGHTS_SPLIT_NONE = 0, WEIGHTS_SPLIT_ROWS, WEIGHTS_SPLIT_COLS };

/* One tensor of the model. Zero-initialise, then walk with weights_next. */
struct weights_entry {
    char name[WEIGHTS_MAX_NAME];     /* as on the hub */
    char new_name[WEIGHTS_MAX_NAME]; /* as transformers >= 4.52 names it in memory */
    int n_dims;
    int64_t dims[WEIGHTS_MAX_DIMS]; /* as in the file */
    int rows, cols;                 /* as in struct mat */
    enum weights_split split;
    bool linear;         /* the weight of an nn.Linear: what quantisation may touch */
    enum weight_use use; /* what the ops do with it */
    int row, layer;      /* position in the table; layer -1 outside of layers */
};

/* Steps to the next tensor in table order; false after the last. */
bool weights_next(struct weights_entry *entry, const struct cfg *cfg);
/* The field that an entry fills. */
struct mat *weights_field(struct weights *weights, const struct weights_entry *entry);
/* The tensor of a checkpoint that an entry names, under either name; NULL where there is none. */
const struct st_tensor *weights_find(const struct weights_entry *entry, const struct ckpt *ckpt);
/* The same and, where it is quantised, what bitsandbytes stores beside it: absmax, SCB and so on.
 * Returns how many, 0 where there is no such tensor. */
#define WEIGHTS_MAX_PARTS 8
int weights_find_parts(const struct st_tensor *parts[1 + WEIGHTS_MAX_PARTS],
                       const struct weights_entry *entry, const struct ckpt *ckpt);
/* Bytes of one matrix as stored, absmax and scales included. */
size_t weights_mat_bytes(const struct mat *mat);

#endif
