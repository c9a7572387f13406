/* mllama.h - the public interface of libmllama: Llama-3.2-Vision inference, exact and
 * deterministic.
 *
 *     struct mll_engine *engine;
 *     struct mll_session *session;
 *     struct mll_error err;
 *     struct mll_options options = {.model = "path/to/model"};
 *     if (mll_open(&engine, &options, &err) != MLL_OK)
 *         return complain(err.message);
 *     mll_session_open(&session, engine, &err);
 *     struct mll_request request = {.text = "What is the total?", .images = &image, .n_images = 1};
 *     const struct mll_result *result;
 *     if (mll_session_run(session, &request, &result, &err) == MLL_OK)
 *         puts(result->text);
 *     mll_session_close(session);
 *     mll_close(engine);
 *
 * Ownership: the caller frees nothing that a call returned by pointer; such pointers are borrowed
 * until the next call on the same object. Every *_close accepts NULL.
 * Threads: an engine and its sessions are used from one thread at a time; separate engines are
 * independent. mll_cancel may be called from any thread or signal handler. */
#ifndef MLLAMA_H
#define MLLAMA_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

struct mll_engine;  /* a loaded, read-only model */
struct mll_session; /* images and a text timeline: KV, logits */

/* ---- open ------------------------------------------------------------------------------------ */

/* Which implementation's arithmetic is reproduced (docs/MODEL.md): what Meta trained, transformers
 * 4.45-4.54, transformers 4.56 and later. */
enum mll_reference { MLL_REFERENCE_META = 0, MLL_REFERENCE_HF4, MLL_REFERENCE_HF5 };

/* Zero means the default for every member but model or synthetic. */
struct mll_options {
    const char *model;     /* directory in the HF layout */
    const char *synthetic; /* instead: made-up weights of "1b", "11b", "11b-base" or "90b" */
    const char *quant; /* "nf4", "nf4-dq" (double-quantised), "int8": quantise while loading, or the
                          made-up weights; NULL: as stored, made-up ones bf16 */
    const char *device; /* "auto", "cpu", "cuda", "cuda:1" */
    enum mll_reference reference;
    int threads;       /* 0: the cores this process may use */
    int ctx_size;      /* tokens a session can hold; 0: the smaller of the model's and 8192 */
    int prefill_chunk; /* prompt rows a step; 0: 256, on a GPU 1024; results do not depend on it */
    int max_sessions;  /* rows of a decode batch and sharers of the KV budget; 0: 1 */
    int max_images;    /* images a session can hold; 0: 4 */
    const char *kv_type; /* "f32" (CPU only), "f16", "int8" (both with a scale a position and head);
                          * NULL: the device's own, float32 on the CPU, fp16 on a GPU */
    const char *compute; /* CPU: "f32" (default); "bf16": matmuls by the BF16 dot instruction, for
                          * CPUs with AVX512_BF16; "int8": those of 4-bit and int8 weights by int8
                          * dot products, fast with AVX512_VNNI (docs/MODEL.md, docs/SPEED.md) */
    bool debug_sync;   /* GPU: wait behind every kernel; errors and faults name kernel and layer */
    bool fast;         /* GPU: prompt rows by cuBLASLt: results depend on what runs beside */
    bool no_early;     /* GPU: no kernel of a token begins before the one in front has ended */
    bool debug_bounds; /* GPU: an index out of range ends the process's use of the GPU at once; CPU:
                        * a processor's id without a logit row ends the process */
    bool no_mmap;      /* read the weights into memory instead of mapping the files */
    const char *isa;   /* CPU, for tests: "c", "avx2", "avx512" */
    uint64_t max_memory; /* GPU: bytes of its memory to use; 0: what is free. Decoder layers that do
                          * not fit stay in host memory and are copied each time they are used */
    uint64_t gpu_memory; /* mll_plan: plan for a GPU of so many bytes, which need not be here */
    void (*log)(void *user, const char *line); /* NULL: silent */
    void *log_user;
};

MLL_API enum mll_status mll_open(struct mll_engine **engine, const struct mll_options *options,
                                 struct mll_error *err);
MLL_API void mll_close(struct mll_engine *engine);

struct mll_info {
    const char *path;    /* resolved directory */
    const char *device;  /* "cpu avx512, 2 threads" */
    const char *why_cpu; /* where device "auto" came to be the CPU: the reason; else NULL */
    int vocab_size;      /* number of logits */
    int embedding_rows, hidden_size, layers, ctx_size, max_tiles, tile_size, image_token;
    int rows_per_tile; /* patches + 1 */
    int vision_output_dim;
    bool has_chat_template;
    int n_eos;
    int eos[16];
    uint64_t parameters;
    uint64_t weight_bytes, kv_bytes, scratch_bytes; /* as mll_plan counts them */
    uint64_t streamed_bytes; /* of weights that stay in host memory, of n_streamed decoder layers */
    uint64_t n_streamed;
};
MLL_API void mll_engine_info(const struct mll_engine *engine, struct mll_info *info);
MLL_API const char *mll_version(void);

/* ---- text and ids ---------------------------------------------------------------------------- */

/* ids of text; special: parse special tokens. *ids is borrowed until the next call on engine. */
MLL_API enum mll_status mll_tokenize(struct mll_engine *engine, const int32_t **ids, size_t *n,
                                     const char *text, size_t size, bool special,
                                     struct mll_error *err);
/* text of ids, special tokens' text left out unless keep_special; NUL-terminated, borrowed. */
MLL_API enum mll_status mll_detokenize(struct mll_engine *engine, const char **text, size_t *size,
                                       const int32_t *ids, size_t n, bool keep_special,
                                       struct mll_error *err);

/* ---- one request ----------------------------------------------------------------------------- */

struct mll_image {
    const uint8_t *rgb; /* (h, w, 3), upright */
    int w, h;
};

enum mll_role { MLL_ROLE_SYSTEM = 0, MLL_ROLE_USER, MLL_ROLE_ASSISTANT };

/* A part of a message: an image (the next of the request's) where text is NULL, else text. */
struct mll_part {
    const char *text;
    size_t size;
};

struct mll_message {
    enum mll_role role;
    const struct mll_part *parts;
    size_t n_parts;
};

/* Where a model has no chat template. */
enum mll_prompt_form { MLL_FORM_META = 0, MLL_FORM_CARD, MLL_FORM_HF };

/* HF's names, meanings and order (docs/MODEL.md). Zero-initialise, then mll_sampling_default. */
struct mll_sampling {
    bool do_sample;
    float temperature, top_p, min_p, repetition_penalty;
    int top_k, no_repeat_ngram_size, num_beams, min_new_tokens, max_new_tokens;
    bool early_stopping;
    uint64_t seed;
    const int32_t *bad_words; /* id sequences, each ended by -1 */
    size_t n_bad_words;       /* elements of bad_words, the -1s included */
    const int32_t *suppress;
    size_t n_suppress;
    const int32_t *bias_ids;
    const float *bias;
    size_t n_bias;
    const int32_t *eos; /* NULL: the model's list */
    size_t n_eos;
    const char *const *stop; /* strings; the answer ends before the first of them */
    size_t n_stop;
};
/* Greedy, 512 new tokens, everything else off. */
MLL_API void mll_sampling_default(struct mll_sampling *sampling);
/* What generation_config.json asks for, on top of what sampling holds. */
MLL_API void mll_sampling_from_model(const struct mll_engine *engine,
                                     struct mll_sampling *sampling);

/* The prompt is the first that is given: ids, raw, messages, text (a user message after the images,
 * or, without a chat template, a completion in the given form). */
struct mll_request {
    const struct mll_image *images;
    size_t n_images;
    const char *text;
    const struct mll_message *messages;
    size_t n_messages;
    const char *date_string; /* for the template's system block; NULL: a fixed one */
    const char *raw;         /* the whole prompt; special tokens are parsed */
    size_t raw_size;
    bool add_special_tokens; /* raw: add what the tokenizer's post-processor would */
    const int32_t *ids;
    size_t n_ids;
    enum mll_prompt_form form;
    const struct mll_sampling *sampling; /* NULL: default */
    /* Called with each whole piece of text; false cancels. NULL: none. */
    bool (*on_text)(void *user, const char *text, size_t size);
    /* Called after each stage and token with work done of total; NULL: none. */
    void (*on_progress)(void *user, const char *stage, int done, int total);
    void *user;
};

enum mll_finish { MLL_FINISH_LENGTH = 0, MLL_FINISH_EOS, MLL_FINISH_STOP, MLL_FINISH_CANCELLED };

struct mll_result {
    const char *text; /* NUL-terminated UTF-8; special tokens left out */
    size_t text_size;
    const int32_t *ids;    /* (n) new ids, eos included */
    const float *logprobs; /* (n) natural log, after the processors, before temperature */
    size_t n;
    const size_t *text_end; /* (n) bytes of text complete after token i: maps text to tokens */
    size_t n_prompt;
    enum mll_finish finish;
    uint64_t logits_hash; /* over all step logits, bit for bit */
    uint64_t ids_skipped; /* processor ids without a logit row (the image token, ...) */
    double seconds_vision, seconds_prefill, seconds_decode;
};

/* Builds the prompt only. Both out pointers may be NULL; text has special tokens spelled out. */
MLL_API enum mll_status mll_prompt(struct mll_engine *engine, const char **text,
                                   const int32_t **ids, size_t *n,
                                   const struct mll_request *request, struct mll_error *err);

MLL_API enum mll_status mll_session_open(struct mll_session **session, struct mll_engine *engine,
                                         struct mll_error *err);
MLL_API void mll_session_close(struct mll_session *session);
/* Stages 2 to 8 for one request, from an empty session. On failure the session is empty. */
MLL_API enum mll_status mll_session_run(struct mll_session *session,
                                        const struct mll_request *request,
                                        const struct mll_result **result, struct mll_error *err);
/* Asks a running mll_session_run to stop at the next token or layer: MLL_ERR_CANCELLED before the
 * first token, afterwards what there is with MLL_FINISH_CANCELLED. Where nothing runs, the next run
 * ends at once. Async-signal-safe. */
MLL_API void mll_cancel(struct mll_session *session);

/* ---- step by step ---------------------------------------------------------------------------- */

/* Forgets text and images. */
MLL_API void mll_session_clear(struct mll_session *session);
/* Encodes one more image (stages 2, 4, 5). Only while the timeline is empty. */
MLL_API enum mll_status mll_session_add_image(struct mll_session *session,
                                              const struct mll_image *image, struct mll_error *err);
/* Appends ids to be evaluated by the next steps; image tokens must not exceed the images. Ids that
 * come together are a prompt; one that comes alone is a generated token: on a GPU the two are
 * computed by different kernels, so that logits depend (in their last bits) on which it was. */
MLL_API enum mll_status mll_session_feed(struct mll_session *session, const int32_t *ids, size_t n,
                                         struct mll_error *err);
/* Cuts the timeline to its first n tokens and keeps the images. */
MLL_API enum mll_status mll_session_rewind(struct mll_session *session, size_t n,
                                           struct mll_error *err);
MLL_API size_t mll_session_length(const struct mll_session *session);
/* The primitive: evaluates what the sessions were fed (at most prefill_chunk rows of it), as one
 * ragged batch of prompt rows and one of generated tokens. *pending (may be NULL): rows that wait
 * for the next call. A session's logits are valid once nothing of it is pending. */
MLL_API enum mll_status mll_step(struct mll_engine *engine, struct mll_session *const *sessions,
                                 size_t n, size_t *pending, struct mll_error *err);
/* (vocab_size) of the last evaluated token; borrowed until the next step. NULL: there are none.
 * They are copied from the device when first asked for. */
MLL_API const float *mll_session_logits(struct mll_session *session);

/* ---- files, memory, tracing ------------------------------------------------------------------ */

/* One finding of mll_check; borrowed strings, valid during the callback. MLL_OK: a remark (a tensor
 * that is not used), no defect. */
typedef void mll_finding_fn(void *user, enum mll_status code, const char *message);
/* Validates configs, tokenizer and every tensor's header of a directory without running; deep reads
 * the weights for NaN and Inf. Reports every defect, returns the first one's status. */
MLL_API enum mll_status mll_check(const char *dir, bool deep, mll_finding_fn *report, void *user,
                                  struct mll_error *err);

/* Bytes that a model needs with the given options, before opening it: what is resident once a
 * session has taken its context, max_images images (0: one; on a GPU 4) and every weight was used.
 * Tables that are looked up (embed_tokens, tile positions) count in weights in full, in total,
 * where the files are mapped, with the part that a request touches. */
struct mll_memory {
    uint64_t weights;    /* mapped, as stored; on a GPU: as they lie there */
    uint64_t kv;         /* text, ctx_size tokens, all sessions */
    uint64_t cross_kv;   /* max_images images, all tiles */
    uint64_t scratch;    /* what the stages take from the arena */
    uint64_t other;      /* code, libraries, tokenizer */
    uint64_t total;      /* predicted resident bytes; on a GPU: of its memory */
    uint64_t device;     /* memory of the GPU that would be used; 0: the CPU is */
    uint64_t available;  /* of it, now, for total */
    uint64_t streamed;   /* weights that it has no room for: in host memory, copied once a step */
    uint64_t n_streamed; /* decoder layers of those */
    uint64_t half; /* total of each of two GPUs that shared the model's matrices and KV heads, which
                    * this version does not do */
};
MLL_API enum mll_status mll_plan(const struct mll_options *options, struct mll_memory *memory,
                                 struct mll_error *err);

/* Writes src, a directory of plain weights, as a new directory dst of quantised ones that this
 * library and transformers with bitsandbytes load. Modules of which a pattern names whole words
 * ("lm_head", "layers.3", "mlp.gate_proj") stay as they are; n_skip 0: the default ones
 * (docs/SPEED.md). dst appears when it is complete; it must not exist. Until then all is in
 * dst.quantize.tmp, which is deleted on failure; what a killed process left of it is used again. */
struct mll_quantize {
    const char *type; /* "nf4", "nf4-dq", "int8" */
    const char *const *skip;
    size_t n_skip;
    int threads; /* 0: all cores */
    /* Called after each tensor with the bytes done of all; false stops: MLL_ERR_CANCELLED. NULL. */
    bool (*on_progress)(void *user, const char *tensor, uint64_t done, uint64_t total);
    void *user;
};
MLL_API enum mll_status mll_quantize(const char *src, const char *dst,
                                     const struct mll_quantize *options, struct mll_error *err);

/* Every stage's tensors of one request in a safetensors file (names: docs/MODEL.md). until: NULL,
 * or the stage after which to stop ("preprocess", "prompt", "vision", "cross", "decoder"). */
MLL_API enum mll_status mll_trace(const struct mll_options *options,
                                  const struct mll_request *request, const char *path,
                                  const char *until, struct mll_error *err);

#ifdef __cplusplus
}
#endif
#endif
