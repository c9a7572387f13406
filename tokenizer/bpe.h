/* bpe.h - byte-level BPE: tokenizer.json (HF tokenizers) and tokenizer.model (tiktoken).
 *
 * Thread rules: a struct bpe is read-only after bpe_open; encoding and decoding from several
 * threads at once is allowed, each with its own buffers. */
#ifndef MLL_BPE_H
#define MLL_BPE_H

#include "base.h"

struct bpe;

struct bpe_ids {
    int32_t *data; /* owned; bpe_ids_free */
    size_t n, capacity;
};

/* path is a directory with tokenizer.json (first choice) or tokenizer.model, or such a file. A
 * defect of the file has its own status, MLL_ERR_TOKENIZER_*. */
enum mll_status bpe_open(struct bpe **bpe, const char *path, struct mll_error *err);
void bpe_close(struct bpe *bpe);
/* One above the highest id, special tokens included. */
int bpe_size(const struct bpe *bpe);
/* The id of a special token by its exact text, -1 if there is none. */
int bpe_special_id(const struct bpe *bpe, const char *text);

/* Appends the ids of text (any bytes; invalid UTF-8 is read as U+FFFD where the splitter needs a
 * scalar). special: parse special tokens' text; else it is ordinary text. BOS is never added. */
enum mll_status bpe_encode(const struct bpe *bpe, struct bpe_ids *out, const char *text,
                           size_t size, bool special, struct mll_error *err);
/* What the tokenizer's post-processor puts before and after one sequence (usually BOS). */
enum mll_status bpe_add_post_processor(const struct bpe *bpe, struct bpe_ids *ids,
                                       struct mll_error *err);
enum mll_status bpe_append(struct bpe_ids *ids, int32_t id, struct mll_error *err);
void bpe_ids_free(struct bpe_ids *ids);

/* Whether id is a special token (control, not text). */
bool bpe_is_special(const struct bpe *bpe, int32_t id);
/* The raw bytes of one id (special tokens: their text); *size 0 and NULL where id is unknown. */
const char *bpe_token_bytes(const struct bpe *bpe, int32_t id, size_t *size);

/* Streaming decode: bytes go in token by token, whole UTF-8 scalars come out, one U+FFFD per
 * maximal invalid part. */
struct bpe_stream {
    uint8_t held[4];
    int n_held;
};
/* Takes bytes, writes what is whole to out (room for 3 * size + 16) and returns its length. */
size_t bpe_stream_push(struct bpe_stream *s, char *out, const char *bytes, size_t size);
/* What is left at the end of a text: one U+FFFD or nothing. */
size_t bpe_stream_finish(struct bpe_stream *s, char *out);

#endif
