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
#define MLL_API __attribute__((visibility("default")))
#else
#define MLL_PRINTF(fmt, args)
#define MLL_API
#endif

/* One row a status: enum suffix, process exit code (DESIGN: 65 data, 66 no input, 69 device,
 * 70 internal, 73 cannot create, 74 I/O, 78 configuration), the slug shown to users and written to
 * JSON records. Every defect of a file that users can meet has its own row. */
#define MLL_STATUS_LIST(X)                                                                         \
    X(ERR_NO_MEMORY, 70, "no_memory")                                                              \
    X(ERR_INTERNAL, 70, "internal")                                                                \
    X(ERR_USAGE, 64, "usage")                                                                      \
    X(ERR_NOT_FOUND, 66, "not_found")                                                              \
    X(ERR_IO, 74, "io")                                                                            \
    X(ERR_CANNOT_CREATE, 73, "cannot_create")                                                      \
    X(ERR_DEVICE, 69, "device")                                                                    \
    X(ERR_CANCELLED, 130, "cancelled")                                                             \
    X(ERR_BAD_OPTION, 78, "bad_option")                                                            \
    /* data that went through a step */                                                            \
    X(ERR_BOUNDS, 65, "index_out_of_bounds")                                                       \
    X(ERR_NOT_FINITE, 65, "logits_not_finite")                                                     \
    X(ERR_CONTEXT_FULL, 65, "context_full")                                                        \
    X(ERR_IMAGE_COUNT, 65, "image_count_mismatch")                                                 \
    X(ERR_TOKEN_ID, 65, "token_id_out_of_range")                                                   \
    X(ERR_CHAT, 65, "chat_invalid")                                                                \
    MLL_STATUS_LIST_IMAGE(X)                                                                       \
    MLL_STATUS_LIST_SAFETENSORS(X)                                                                 \
    MLL_STATUS_LIST_CHECKPOINT(X)                                                                  \
    MLL_STATUS_LIST_CONFIG(X)                                                                      \
    MLL_STATUS_LIST_TOKENIZER(X)

/* Image files (loader/image.h). */
#define MLL_STATUS_LIST_IMAGE(X)                                                                   \
    X(ERR_IMAGE_FORMAT, 65, "not_an_image")                                                        \
    X(ERR_IMAGE_TRUNCATED, 65, "image_truncated")                                                  \
    X(ERR_IMAGE_CORRUPT, 65, "image_corrupt")                                                      \
    X(ERR_IMAGE_TOO_LARGE, 65, "image_too_large")

/* One safetensors file (loader/safetensors.h). */
#define MLL_STATUS_LIST_SAFETENSORS(X)                                                             \
    X(ERR_ST_HEADER_TOO_SMALL, 65, "st_header_too_small")

/* Shards, index, tensors against the weight table. */
#define MLL_STATUS_LIST_CHECKPOINT(X)                                                              \
    X(ERR_TENSOR_MISSING, 65, "tensor_missing")                                                    \
    X(ERR_TENSOR_SHAPE, 65, "tensor_shape")                                                        \
    X(ERR_TENSOR_DTYPE, 65, "tensor_dtype")

/* config.json, generation_config.json, preprocessor_config.json. */
#define MLL_STATUS_LIST_CONFIG(X) X(ERR_CONFIG_VALUE, 65, "config_value")

/* tokenizer.json, tokenizer.model. */
#define MLL_STATUS_LIST_TOKENIZER(X) X(ERR_TOKENIZER_FILE, 65, "tokenizer_file")

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

/* Filled where a call fails; untouched where it succeeds. Everywhere an err parameter may be NULL. */
struct mll_error {
    enum mll_status code;
    char message[512]; /* one line, UTF-8: what, expected, found */
};

/* Formats the message (control characters of quoted data become '?') and returns code, so that
 * `return mll_fail(err, MLL_ERR_X, "...")` reads as one step. err may be NULL. */
enum mll_status mll_fail(struct mll_error *err, enum mll_status code, const char *fmt, ...)
    MLL_PRINTF(3, 4);

#define MLL_TRY(call)                                                                              \
    do {                                                                                           \
        enum mll_status mll_try_ = (call);                                                         \
        if (mll_try_ != MLL_OK)                                                                    \
            return mll_try_;                                                                       \
    } while (0)

void mll_assert_failed(const char *condition, const char *file, int line);
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
    MLL_DTYPE_NF4, /* 4-bit codes, two a byte, high nibble first; block scales in mat.absmax */
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

#ifdef __cplusplus
}
#endif
#endif
