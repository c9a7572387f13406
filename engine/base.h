/* base.h - what every part of mllama shares: status codes, errors, dtypes, a few checked helpers.
 *
 * Two kinds of failure. The world's fault (a file, a shape in a file, memory, a device, an index in
 * data) is an enum mll_status with a message in struct mll_error; the programmer's fault is an
 * MLL_ASSERT. Nothing in this header allocates, prints or exits (but MLL_ASSERT, which aborts). */
#ifndef MLL_BASE_H
#define MLL_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __CUDACC__
#define MLL_HD __host__ __device__
#else
#define MLL_HD
#endif

#if defined(__GNUC__)
#define MLL_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define MLL_API               __attribute__((visibility("default")))
#else
#define MLL_PRINTF(fmt, args)
#define MLL_API
#endif

/* One row a status: enum suffix, process exit code (DESIGN: 65 data, 66 no input, 69 device,
 * 70 internal, 73 cannot create, 74 I/O, 78 configuration), the slug shown to users and written to
 * JSON records. Every defect of a file that users can meet has its own row. */
#define MLL_STATUS_LIST(X)                         \
    X(ERR_NO_MEMORY, 70, "no_memory")              \
    X(ERR_INTERNAL, 70, "internal")                \
    X(ERR_USAGE, 64, "usage")                      \
    X(ERR_NOT_FOUND, 66, "not_found")              \
    X(ERR_IO, 74, "io")                            \
    X(ERR_CANNOT_CREATE, 73, "cannot_create")      \
    X(ERR_DEVICE, 69, "device")                    \
    X(ERR_CANCELLED, 130, "cancelled")             \
    X(ERR_BAD_OPTION, 78, "bad_option")            \
    /* data that went through a step */            \
    X(ERR_BOUNDS, 65, "index_out_of_bounds")       \
    X(ERR_NOT_FINITE, 65, "logits_not_finite")     \
    X(ERR_CONTEXT_FULL, 65, "context_full")        \
    X(ERR_IMAGE_COUNT, 65, "image_count_mismatch") \
    X(ERR_TOKEN_ID, 65, "token_id_out_of_range")   \
    X(ERR_CHAT, 65, "chat_invalid")                \
    X(ERR_LINE, 65, "line_invalid")                \
    X(ERR_TRACE_FILE, 65, "trace_file")            \
    X(ERR_BENCH_FILE, 65, "bench_file")            \
    MLL_STATUS_LIST_IMAGE(X)                       \
    MLL_STATUS_LIST_SAFETENSORS(X)                 \
    MLL_STATUS_LIST_CHECKPOINT(X)                  \
    MLL_STATUS_LIST_CONFIG(X)                      \
    MLL_STATUS_LIST_TOKENIZER(X)

/* Image files (loader/image.h). */
#define MLL_STATUS_LIST_IMAGE(X)                  \
    X(ERR_IMAGE_FORMAT, 65, "not_an_image")       \
    X(ERR_IMAGE_TRUNCATED, 65, "image_truncated") \
    X(ERR_IMAGE_CORRUPT, 65, "image_corrupt")     \
    X(ERR_IMAGE_TOO_LARGE, 65, "image_too_large")

/* One safetensors file: the rows of ST_STATUS_LIST (loader/safetensors.h) that speak of its
 * content. */
#define MLL_STATUS_LIST_SAFETENSORS(X)                        \
    X(ERR_ST_HEADER_TOO_SMALL, 65, "st_header_too_small")     \
    X(ERR_ST_HEADER_TOO_LARGE, 65, "st_header_too_large")     \
    X(ERR_ST_HEADER_LENGTH, 65, "st_header_length")           \
    X(ERR_ST_UTF8, 65, "st_utf8")                             \
    X(ERR_ST_NOT_OBJECT, 65, "st_not_object")                 \
    X(ERR_ST_JSON, 65, "st_json")                             \
    X(ERR_ST_JSON_TRAILING, 65, "st_json_trailing")           \
    X(ERR_ST_STRING, 65, "st_string")                         \
    X(ERR_ST_NAME, 65, "st_name")                             \
    X(ERR_ST_METADATA, 65, "st_metadata")                     \
    X(ERR_ST_DUPLICATE_METADATA, 65, "st_duplicate_metadata") \
    X(ERR_ST_DUPLICATE_TENSOR, 65, "st_duplicate_tensor")     \
    X(ERR_ST_TOO_MANY, 65, "st_too_many_tensors")             \
    X(ERR_ST_ENTRY, 65, "st_entry")                           \
    X(ERR_ST_FIELD_UNKNOWN, 65, "st_field_unknown")           \
    X(ERR_ST_FIELD_DUPLICATE, 65, "st_field_duplicate")       \
    X(ERR_ST_FIELD_MISSING, 65, "st_field_missing")           \
    X(ERR_ST_DTYPE, 65, "st_dtype")                           \
    X(ERR_ST_SHAPE, 65, "st_shape")                           \
    X(ERR_ST_RANK, 65, "st_rank")                             \
    X(ERR_ST_NUMBER, 65, "st_number")                         \
    X(ERR_ST_OFFSETS, 65, "st_offsets")                       \
    X(ERR_ST_OFFSETS_REVERSED, 65, "st_offsets_reversed")     \
    X(ERR_ST_OVERFLOW, 65, "st_overflow")                     \
    X(ERR_ST_SUB_BYTE, 65, "st_sub_byte")                     \
    X(ERR_ST_SPAN, 65, "st_span")                             \
    X(ERR_ST_OVERLAP, 65, "st_overlap")                       \
    X(ERR_ST_HOLE, 65, "st_hole")                             \
    X(ERR_ST_DATA_TRUNCATED, 65, "st_data_truncated")         \
    X(ERR_ST_DATA_TRAILING, 65, "st_data_trailing")

/* Shards, index, tensors against the weight table, names in the HF cache. */
#define MLL_STATUS_LIST_CHECKPOINT(X)                           \
    X(ERR_FILE_CHANGED, 74, "file_changed")                     \
    X(ERR_FILE_NOT_REGULAR, 65, "file_not_regular")             \
    X(ERR_NO_WEIGHTS, 65, "no_weights")                         \
    X(ERR_FORMAT_GGUF, 65, "format_gguf")                       \
    X(ERR_FORMAT_PICKLE, 65, "format_pickle")                   \
    X(ERR_FORMAT_LORA, 65, "format_lora")                       \
    X(ERR_QUANT_METHOD, 65, "quant_method_unsupported")         \
    X(ERR_QUANT_STATE, 65, "quant_state")                       \
    X(ERR_INDEX_FORM, 65, "index_form")                         \
    X(ERR_INDEX_FILE_NAME, 65, "index_file_name")               \
    X(ERR_SHARD_MISSING, 65, "shard_missing")                   \
    X(ERR_SHARD_TENSOR_ABSENT, 65, "shard_tensor_absent")       \
    X(ERR_SHARD_TENSOR_ELSEWHERE, 65, "shard_tensor_elsewhere") \
    X(ERR_SHARD_TENSOR_UNLISTED, 65, "shard_tensor_unlisted")   \
    X(ERR_SHARD_TENSOR_TWICE, 65, "shard_tensor_twice")         \
    X(ERR_TENSOR_MISSING, 65, "tensor_missing")                 \
    X(ERR_TENSOR_SHAPE, 65, "tensor_shape")                     \
    X(ERR_TENSOR_DTYPE, 65, "tensor_dtype")                     \
    X(ERR_TENSOR_TWO_NAMES, 65, "tensor_two_names")             \
    X(ERR_EMBEDDING_ROWS, 65, "embedding_rows")                 \
    X(ERR_LM_HEAD_ROWS, 65, "lm_head_rows")                     \
    X(ERR_WEIGHT_NAN, 65, "weight_nan")                         \
    X(ERR_WEIGHT_INF, 65, "weight_inf")                         \
    X(ERR_CACHE_NAME, 65, "cache_name")                         \
    X(ERR_CACHE_NOT_FOUND, 66, "cache_not_found")

/* config.json, generation_config.json, preprocessor_config.json; JSON files in general. */
#define MLL_STATUS_LIST_CONFIG(X)                            \
    X(ERR_JSON_SYNTAX, 65, "json_syntax")                    \
    X(ERR_JSON_DEPTH, 65, "json_depth")                      \
    X(ERR_JSON_DUPLICATE, 65, "json_duplicate_key")          \
    X(ERR_JSON_TOO_LARGE, 65, "json_too_large")              \
    X(ERR_CONFIG_MISSING, 65, "config_missing")              \
    X(ERR_CONFIG_MODEL_TYPE, 65, "config_model_type")        \
    X(ERR_CONFIG_KEY, 65, "config_key_missing")              \
    X(ERR_CONFIG_TYPE, 65, "config_type")                    \
    X(ERR_CONFIG_ZERO, 65, "config_zero")                    \
    X(ERR_CONFIG_NEGATIVE, 65, "config_negative")            \
    X(ERR_CONFIG_TOO_LARGE, 65, "config_too_large")          \
    X(ERR_CONFIG_VALUE, 65, "config_value")                  \
    X(ERR_CONFIG_ACTIVATION, 65, "config_activation")        \
    X(ERR_CONFIG_HEADS, 65, "config_heads")                  \
    X(ERR_CONFIG_PATCH, 65, "config_patch")                  \
    X(ERR_CONFIG_ASPECT_RATIOS, 65, "config_aspect_ratios")  \
    X(ERR_CONFIG_KEPT_LAYER, 65, "config_kept_layer")        \
    X(ERR_CONFIG_OUTPUT_DIM, 65, "config_vision_output_dim") \
    X(ERR_CONFIG_CROSS_LAYER, 65, "config_cross_layer")      \
    X(ERR_CONFIG_ROPE, 65, "config_rope")                    \
    X(ERR_CONFIG_TOKEN_ID, 65, "config_token_id")            \
    X(ERR_GENERATION_VALUE, 65, "generation_value")          \
    X(ERR_PREPROCESS_VALUE, 65, "preprocess_value")          \
    X(ERR_PREPROCESS_MISMATCH, 65, "preprocess_mismatch")

/* tokenizer.json, tokenizer.model; how they fit the configuration. */
#define MLL_STATUS_LIST_TOKENIZER(X)                                  \
    X(ERR_TOKENIZER_FILE, 65, "tokenizer_file")                       \
    X(ERR_TOKENIZER_JSON, 65, "tokenizer_json")                       \
    X(ERR_TOKENIZER_SIZE, 65, "tokenizer_size")                       \
    X(ERR_TOKENIZER_MODEL, 65, "tokenizer_model_type")                \
    X(ERR_TOKENIZER_NORMALIZER, 65, "tokenizer_normalizer")           \
    X(ERR_TOKENIZER_SPLIT, 65, "tokenizer_split_pattern")             \
    X(ERR_TOKENIZER_DECODER, 65, "tokenizer_decoder")                 \
    X(ERR_TOKENIZER_TEMPLATE, 65, "tokenizer_post_processor")         \
    X(ERR_TOKENIZER_TOKEN, 65, "tokenizer_token")                     \
    X(ERR_TOKENIZER_BYTE, 65, "tokenizer_byte_missing")               \
    X(ERR_TOKENIZER_ID, 65, "tokenizer_id")                           \
    X(ERR_TOKENIZER_DUPLICATE_ID, 65, "tokenizer_duplicate_id")       \
    X(ERR_TOKENIZER_DUPLICATE_TOKEN, 65, "tokenizer_duplicate_token") \
    X(ERR_TOKENIZER_MERGE, 65, "tokenizer_merge")                     \
    X(ERR_TOKENIZER_MERGE_PART, 65, "tokenizer_merge_part")           \
    X(ERR_TOKENIZER_MERGE_RESULT, 65, "tokenizer_merge_result")       \
    X(ERR_TOKENIZER_ADDED, 65, "tokenizer_added_token")               \
    X(ERR_TOKENIZER_LINE, 65, "tokenizer_line")                       \
    X(ERR_TOKENIZER_RANK, 65, "tokenizer_rank")                       \
    X(ERR_TEXT_SIZE, 65, "text_too_long")                             \
    X(ERR_TOKENIZER_EMBEDDING, 65, "tokenizer_beyond_embedding")      \
    X(ERR_IMAGE_TOKEN_EMBEDDING, 65, "image_token_beyond_embedding")  \
    X(ERR_IMAGE_TOKEN_TOKENIZER, 65, "image_token_differs")

enum mll_status {
    MLL_OK = 0,
    MLL_STATUS_FIRST = -1000,
#define X(name, exit_code, slug) MLL_##name,
    MLL_STATUS_LIST(X)
#undef X
};

/* The slug of a status ("ok" for MLL_OK); never NULL. */
MLL_API const char *mll_status_name(enum mll_status status);
/* The process exit code that a status stands for (0 for MLL_OK). */
MLL_API int mll_status_exit_code(enum mll_status status);

/* Filled where a call fails; untouched where it succeeds. Everywhere an err parameter may be NULL.
 */
struct mll_error {
    enum mll_status code;
    char message[512]; /* one line, UTF-8: what, expected, found */
};

/* Formats the message (control characters of quoted data become '?') and returns code, so that
 * `return mll_fail(err, MLL_ERR_X, "...")` reads as one step. err may be NULL. */
enum mll_status mll_fail(struct mll_error *err, enum mll_status code, const char *fmt, ...)
    MLL_PRINTF(3, 4);

#define MLL_TRY(call)                      \
    do {                                   \
        enum mll_status mll_try_ = (call); \
        if (mll_try_ != MLL_OK)            \
            return mll_try_;               \
    } while (0)

void mll_assert_failed(const char *condition, const char *file, int line);
/* Prints what a device assert prints, then aborts. */
void mll_index_failed(const char *file, int line, int block, int thread, int index, int bound);
/* The programmer's fault; checked in release builds too. */
#define MLL_ASSERT(cond) ((cond) ? (void)0 : mll_assert_failed(#cond, __FILE__, __LINE__))

/* Element types of tensors as stored. */
enum mll_dtype {
    MLL_DTYPE_NONE = 0,
    MLL_DTYPE_F32,
    MLL_DTYPE_F16,
    MLL_DTYPE_BF16,
    MLL_DTYPE_I64,
    MLL_DTYPE_I32,
    MLL_DTYPE_I8,
    MLL_DTYPE_U8,
    MLL_DTYPE_Q4, /* 4-bit codes of a table, two a byte, the high half first (mat.blocks) */
};

/* a * b and a + b; false where the result does not fit. */
static inline bool mll_mul_size(size_t *out, size_t a, size_t b)
{
    if (b != 0 && a > SIZE_MAX / b)
        return false;
    *out = a * b;
    return true;
}

static inline bool mll_add_size(size_t *out, size_t a, size_t b)
{
    if (a > SIZE_MAX - b)
        return false;
    *out = a + b;
    return true;
}

/* Decodes size characters of base64 (whole quads, padded, no white space) to out, which has room
 * for size / 4 * 3 bytes. Returns the length, or SIZE_MAX where text is not base64. */
size_t mll_decode_base64(void *out, const char *text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
