/* config.h - config.json, generation_config.json and preprocessor_config.json as plain structs.
 *
 * Old and new HF key spellings are read alike (attention_heads or num_attention_heads, rope_scaling
 * or rope_parameters, torch_dtype or dtype). No dimension of the model is a constant of the program.
 * Every value is checked when read: a struct cfg that cfg_load returned can be trusted. */
#ifndef MLL_CONFIG_H
#define MLL_CONFIG_H

#include "base.h"

#define CFG_MAX_LAYERS 256
#define CFG_MAX_KEPT   16
#define CFG_MAX_EOS    16

struct cfg_vision {
    int hidden_size, intermediate_size, heads;
    int layers, global_layers;
    int image_size, patch_size, channels, max_tiles;
    int n_kept;
    int kept[CFG_MAX_KEPT]; /* intermediate_layers_indices, in the file's order */
    int output_dim;         /* hidden_size * (1 + n_kept) */
    float norm_eps;
    /* derived */
    int grid, patches; /* grid = image_size / patch_size, patches = grid * grid */
    int rows;          /* patches + 1 rounded up to a multiple of 8: rows a tile in the tower */
    int aspect_ratios; /* canvases for max_tiles; embedding tables have one row more */
};

struct cfg_text {
    int vocab_size; /* rows of lm_head; the embedding has 8 more */
    int hidden_size, intermediate_size, heads, kv_heads, head_dim, layers;
    bool is_cross[CFG_MAX_LAYERS]; /* cross_attention_layers */
    int n_cross;
    int max_position;
    float rms_norm_eps;
    double rope_theta;
    bool rope_scaled; /* llama3 */
    double rope_factor, rope_low_freq, rope_high_freq;
    int rope_original_max_position;
    bool tie_word_embeddings;
};

/* Values that a generation_config.json may give; has_* says whether it does. */
struct cfg_generation {
    int n_eos;
    int eos[CFG_MAX_EOS];
    int bos, pad; /* -1: none */
    bool do_sample;
    float temperature, top_p, min_p, repetition_penalty;
    int top_k, no_repeat_ngram_size, max_new_tokens;
};

struct cfg_preprocess {
    int size, max_tiles;
    float mean[3], std[3];
    double rescale;
};

struct cfg {
    struct cfg_vision vision;
    struct cfg_text text;
    struct cfg_generation generation;
    struct cfg_preprocess preprocess;
    int image_token;
    char quant_method[32]; /* "" where weights are plain */
};

/* Reads DIR's three files (the last two are optional: defaults of the released models, eos from
 * config.json) and checks every value. */
enum mll_status cfg_load(struct cfg *cfg, const char *dir, struct mll_error *err);

#endif
