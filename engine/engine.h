/* engine.h - inside the engine: what an engine and a session hold, shared by the stages.
 *
 * One arena (the exec's) holds everything that lives on the device besides the weights: KV pools,
 * block tables and RoPE frequencies for the life of the engine, then, stacked above them, what a
 * stage needs while it runs. memory_plan (plan.c) states every size before anything is opened.
 *
 * Keys of a session. Self attention: position p of the text is key p. Cross attention: the rows of
 * the valid tiles of all images lie one image after the other from key `middle` upwards; in hf4 and
 * hf5 the rows of missing tiles lie from `middle` downwards, because a text row in front of the
 * first image attends to all of them there. Every range that a row may see is thus one interval. */
#ifndef MLL_ENGINE_H
#define MLL_ENGINE_H

#include <stdatomic.h>

#include "bpe.h"
#include "prompt.h"
#include "config.h"
#include "mllama.h"
#include "ops.h"
#include "weights.h"

/* Sizes in bytes and elements that follow from configuration and options; see plan.c. */
struct memory_plan {
    int ctx_size, prefill_chunk, max_sessions, max_images;
    int text_blocks, image_blocks; /* of one session: columns of its block tables */
    int middle;                    /* first key of the first valid tile */
    int image_blocks_used;         /* blocks of one session that images can fill */
    size_t text_kv, image_kv;      /* pools */
    size_t sampling;               /* of one session */
    size_t fixed;                  /* pools, tables, frequencies, sampling: the arena's bottom */
    size_t vision, text;           /* what the stages stack above it */
    size_t arena;                  /* fixed + the larger of the two */
    /* on a GPU */
    size_t weights;  /* on the device, room for the streamed ones included */
    int n_streamed;  /* the last decoder layers, whose matrices stay on the host */
    size_t streamed; /* bytes of those */
};

/* Blocks of one kind of pool (text or image), free ones on a stack. The same block number stands
 * for its place in every pool of the kind. */
struct block_stack {
    int32_t *free; /* (n_blocks), the next one last */
    int n_free;
    int n_fresh; /* blocks from here on were never used */
};

/* Where stages hand out their tensors while mll_trace runs: further rows of the named one, in
 * memory of ex's device, or the host's where ex is NULL. */
struct trace_sink {
    void (*rows)(void *user, struct mll_exec *ex, const char *name, const float *rows, size_t n,
                 size_t width);
    void (*ints)(void *user, const char *name, const int32_t *values, size_t n);
    void *user;
};

/* The rows of one session in a batch. */
struct share {
    struct mll_session *session;
    int first, n;
};

struct mll_engine {
    char *path;
    struct cfg cfg;
    struct mll_options options;
    enum quantise_type quant; /* what plain weights become when they reach their device */
    struct memory_plan plan;
    struct weights *weights;
    struct bpe *bpe;       /* NULL where the directory has no tokenizer */
    struct prompt *prompt; /* chat template and prompt forms */
    struct mll_exec *exec;
    struct mll_error why_cpu; /* where device auto passed a GPU over; else code MLL_OK */
    float *inv_freq;          /* (head_dim / 2) device */
    struct kv_pool *pools; /* (layers) text blocks for self layers, image blocks for cross layers */
    struct kv_table text_table;  /* (max_sessions, text_blocks) device */
    struct kv_table image_table; /* (max_sessions, image_blocks) device */
    struct block_stack text_stack, image_stack;
    int32_t *table_rows; /* (max_sessions, text_blocks + image_blocks): the tables on the host */
    unsigned char *sampling;      /* (max_sessions, plan.sampling) device; see smp_place */
    unsigned char *sampling_host; /* (max_sessions, smp_host_bytes) */
    bool *slot_used;              /* (max_sessions) rows of the tables */
    int32_t *staging; /* (STEP_ARRAYS, chunk) and (max_sessions): a batch on the host; see step.c */
    struct sample_out *found;       /* (max_sessions) of op_hash_rows on a step's logits */
    float *logits;                  /* (max_sessions, vocab_size) device, of the last step */
    struct mll_session **logits_of; /* (max_sessions) whose row that is; NULL: nobody's */
    struct share *shares;           /* (max_sessions) of the running step */
    const atomic_bool **cancelled;  /* (max_sessions) flags of the running step */
    bool vision_ran;                /* since the last step: its scratch is still resident */
    struct trace_sink trace;
    struct bpe_ids ids; /* what mll_tokenize and mll_prompt lend */
    char *text;         /* what mll_detokenize and mll_prompt lend */
};

struct session_image {
    int key_begin, key_end; /* of its valid tiles */
    int position;           /* of its token in the text; -1 until fed */
};

struct mll_session {
    struct mll_engine *engine;
    int slot;
    int32_t *ids;                        /* (ctx_size) the text so far */
    bool *alone;                         /* (ctx_size) fed one at a time: decode, not prefill */
    int n_ids;                           /* fed */
    int n_done;                          /* evaluated; their keys are in the cache */
    int32_t *text_blocks, *image_blocks; /* its row of table_rows; -1: not taken */
    struct session_image *images;        /* (max_images) */
    int n_images, n_image_tokens;
    int key_begin, key_end; /* image keys in use: [middle - missing rows, middle + valid rows) */
    float *logits;          /* (vocab_size) of token n_done - 1, once somebody asked for them */
    int logits_row;         /* where they are on the device; -1: in logits */
    uint64_t logits_hash;   /* op_hash_rows */
    bool has_logits;
    atomic_bool cancelled;
    struct generation *generation; /* what the last mll_session_run lends */
    struct sampler *sampler;       /* of the answer that is being made: steps choose its next id */
    size_t n_prompt;
};

/* ---- engine.c ----------------------------------------------------------------------------------
 */

/* The directory that a model option names; freed by the caller. */
enum mll_status eng_resolve(char **path, const char *model, struct mll_error *err);
/* An engine for mll_prompt alone: tokenizer and template are read, nothing else. */
enum mll_status eng_open_text(struct mll_engine **engine, const struct mll_options *options,
                              struct mll_error *err);

/* RoPE frequency i of a head, in float32 but for pow: theta^(-2i / head_dim), and Llama 3's
 * scaling: long wavelengths are stretched by factor, short ones kept, those between blended. HF:
 * _compute_llama3_parameters */
float eng_rope_frequency(const struct cfg_text *t, int i);

/* ---- plan.c ---------------------------------------------------------------------------------- */

/* Resolves the options' zeros and fills the plan. ex gives the ops' own scratch sizes. */
enum mll_status plan_memory(struct memory_plan *plan, const struct cfg *cfg,
                            const struct mll_options *options, const struct mll_exec *ex,
                            struct mll_error *err);
/* Fills the plan's members for a GPU: as few layers as will do are streamed where weights and arena
 * would take more than budget. *least: what they take then, or where nothing helps (false) with all
 * layers streamed. */
bool plan_streaming(struct memory_plan *plan, size_t *least, struct weights *weights,
                    const struct cfg *cfg, enum quantise_type quant, uint64_t budget);
/* What weights and arena may take of a GPU's memory. */
uint64_t plan_budget(const struct mll_options *options, struct mll_exec *ex);
/* Opens an exec for the options, without scratch. Where device auto finds no usable GPU it is the
 * CPU's, and why_cpu (NULL allowed) tells why not the GPU's. */
enum mll_status plan_open_exec(struct mll_exec **ex, const struct mll_options *options,
                               struct mll_error *why_cpu, struct mll_error *err);

/* Bytes of a KV block of one layer, keys or values. */
size_t plan_block_bytes(const struct cfg *cfg, const struct mll_exec *ex);

/* ---- blocks.c -------------------------------------------------------------------------------- */

enum mll_status blocks_open(struct block_stack *stack, int n, struct mll_error *err);
void blocks_close(struct block_stack *stack);
/* Takes what is missing of the blocks of keys [begin, end), of text or (cross) of images, and tells
 * the device, in order with the ops. */
void blocks_grow(struct mll_session *session, bool cross, int begin, int end);
/* Gives back all of them. */
void blocks_give(struct mll_session *session, bool cross);
void blocks_zero(struct mll_engine *engine); /* all of them, before the first is taken */

/* ---- stages ---------------------------------------------------------------------------------- */

struct tiles;

/* Stage 4 for one image: the tower and the projector. states (max_tiles, patches + 1, hidden) on
 * the device, for the first n_tiles tiles. */
enum mll_status vision_run(struct mll_engine *engine, float *states, const struct tiles *tiles,
                           int n_tiles, const atomic_bool *cancelled, struct mll_error *err);
size_t vision_scratch(const struct cfg *cfg, const struct mll_exec *ex);

/* Stage 5: K and V of every cross layer for n_rows vision rows, stored at the session's keys
 * [key, key + n_rows). */
enum mll_status crosskv_run(struct mll_engine *engine, int slot, const float *states, int n_rows,
                            int key, struct mll_error *err);
size_t crosskv_scratch(const struct cfg *cfg, const struct mll_exec *ex);

/* One ragged batch on the device: row r is token ids[r] at position pos[r] of session slot[r]. All
 * its rows were fed with others (prefill), or all alone (decode). */
struct batch {
    enum mll_phase phase;
    int n;       /* rows */
    int n_cross; /* the first n_cross of them belong to sessions with images */
    int n_logits;
    const int32_t *ids, *pos, *slot;        /* (n) */
    const int32_t *zero, *end;              /* (n) self attention sees keys [0, pos + 1) */
    const int32_t *cross_begin, *cross_end; /* (n_cross) keys of the images that the row sees */
    const float *attn_scale, *mlp_scale;    /* (n_cross) 0 where the output is dropped */
    const int32_t *logit_rows;              /* (n_logits) rows whose logits are wanted */
    float *logits;                          /* (n_logits, vocab_size) out */
};
enum { STEP_ARRAYS = 9 };

/* Stage 6. cancelled (n_cancelled flags) are looked at between layers. */
enum mll_status decoder_run(struct mll_engine *engine, const struct batch *batch,
                            const atomic_bool *const *cancelled, size_t n_cancelled,
                            struct mll_error *err);
size_t decoder_scratch(const struct cfg *cfg, const struct mll_exec *ex, int rows);
size_t step_scratch(const struct cfg *cfg, const struct memory_plan *plan,
                    const struct mll_exec *ex);
/* Copies a session's logits to the host, if they are on the device only. */
void step_take_logits(struct mll_session *session);
/* The session's logits in the device's memory, until its next step. */
const float *step_logits(struct mll_session *session);

/* What row `position` of a session sees of its images: keys [begin, end), and by how much the two
 * halves of a cross layer count. */
struct cross_view {
    int begin, end;
    float attn_scale, mlp_scale;
};
struct cross_view session_cross_view(const struct mll_session *session, int position);

/* pixel_values, aspect_ratio_ids and num_tiles of one image. */
void session_trace_tiles(const struct trace_sink *sink, const struct tiles *tiles);

struct generation; /* generate.c */
void generation_free(struct generation *generation);

/* Waits for the device; its error, or a fault of the ops since the last call, as a status. */
enum mll_status eng_check_fault(struct mll_engine *engine, const char *stage,
                                struct mll_error *err);
/* What the arena takes for (rows, width) elements of 4 bytes. */
static inline size_t arena_floats(size_t rows, size_t width)
{
    return (rows * width * sizeof(float) + 63) / 64 * 64;
}

/* The group that a decoder layer's weights are streamed in (exec_use_group); 0: none. */
static inline int eng_group(const struct mll_engine *engine, int layer)
{
    int first = engine->cfg.text.layers - engine->plan.n_streamed;
    return layer < first ? 0 : layer - first + 1;
}

static inline bool eng_tracing(const struct mll_engine *engine)
{
    return engine->trace.rows != NULL;
}

#endif
