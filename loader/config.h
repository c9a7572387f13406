/* config.h - config.json, generation_config.json and preprocessor_config.json as plain structs.
 *
 * Old and new HF key spellings are read alike (attention_heads or num_attention_heads, rope_scaling
 * or rope_parameters, image_token_index or image_token_id). No dimension of the model is a constant
 * of the program. Sizes must be in the file; other keys have the defaults of transformers' classes.
 * Every value is checked when read: a struct cfg that cfg_load returned can be trusted, and the
 * rows and columns of every tensor it describes fit an int. */
#ifndef MLL_CONFIG_H
#define MLL_CONFIG_H

#include "defects.h"

#define CFG_MAX_LAYERS 256
#define CFG_MAX_KEPT   16
#define CFG_MAX_EOS    16
#define CFG_MAX_TILES  16

/* HF: MllamaVisionConfig */
struct cfg_vision {
    int hidden_size, intermediate_size, heads;
    int layers, global_layers;
    int image_size, patch_size, channels, max_tiles;
    int n_kept;
    int kept[CFG_MAX_KEPT]; /* intermediate_layers_indices, in the file's order */
    int output_dim;         /* hidden_size * (1 + n_kept) */
    float norm_eps;
    /* derived */
    int head_dim;      /* hidden_size / heads */
    int grid, patches; /* grid = image_size / patch_size, patches = grid * grid */
    int rows;          /* patches + 1 rounded up to a multiple of 8: rows a tile in the tower */
    int aspect_ratios; /* supported_aspect_ratios; embedding tables have one row more */
};

/* HF: MllamaTextConfig */
struct cfg_text {
    int vocab_size; /* rows of lm_head; the embedding has 8 more */
    int hidden_size, intermediate_size, heads, kv_heads, head_dim, layers;
    bool is_cross[CFG_MAX_LAYERS]; /* cross_attention_layers */
    int n_cross;
    int max_position;
    float rms_norm_eps;
    double rope_theta;
    bool rope_scaled; /* llama3; the values below hold only then */
    double rope_factor, rope_low_freq, rope_high_freq;
    int rope_original_max_position;
};

/* Absent values have HF's defaults, which leave a processor off but for top_k. */
struct cfg_generation {
    int n_eos;
    int eos[CFG_MAX_EOS]; /* of generation_config.json, else of text_config */
    int bos, pad;         /* -1: none */
    bool do_sample;       /* false */
    float temperature, top_p, min_p, repetition_penalty; /* 1, 1, 0, 1 */
    int top_k, no_repeat_ngram_size, max_new_tokens;     /* 50, 0, 0 */
};

/* HF: MllamaImageProcessor */
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
    int image_token;       /* below text.vocab_size + 8 */
    char quant_method[32]; /* quantization_config.quant_method; "" where weights are plain */
};

/* Reads DIR's three files and checks every value. generation_config.json may be absent; so may
 * preprocessor_config.json, whose values are then those of the released models at the size and
 * tiles of config.json (keys absent from an existing file have the class's defaults, as in
 * transformers). MLL_ERR_NOT_FOUND where DIR is no directory. */
enum mll_status cfg_load(struct cfg *cfg, const char *dir, struct mll_error *err);
/* The same, but adds every defect. cfg can be used only where none was added. */
void cfg_check(struct cfg *cfg, const char *dir, struct defects *d);
/* preprocessor_config.json alone, without config.json to compare it with: the file must be there.
 */
enum mll_status cfg_load_preprocess(struct cfg_preprocess *pre, const char *dir,
                                    struct mll_error *err);
/* Whether weights of the configuration's quant_method are read: plain ones, and bitsandbytes'. */
bool cfg_quant_is_read(const struct cfg *cfg);
/* Number of (rows, cols) canvases with rows * cols <= max_tiles. */
int cfg_canvases(int max_tiles);

#endif
