/* bpe_table.h - inside of the tokenizer: the tables behind struct bpe, and how readers fill them.
 *
 * A reader calls bpe_new, then adds tokens, merges and special tokens in that order, then bpe_seal.
 * Every add checks what it is given; the caller puts the file's name before the message. */
#ifndef MLL_BPE_TABLE_H
#define MLL_BPE_TABLE_H

#include "bpe.h"

#define BPE_MAX_TOKEN    8192       /* bytes of one token */
#define BPE_MAX_COUNT    (1u << 20) /* tokens, and four times as many merges */
#define BPE_NO_RANK      UINT32_MAX
#define BPE_MAX_TEMPLATE 16 /* ids before, and after, one sequence */

struct bpe_token {
    uint32_t start; /* in blob */
    uint16_t size;  /* 0: no such id */
    bool added;     /* an added token: not a piece of BPE */
    bool special;
};

/* An open-addressing hash from bytes to id: tag is the upper part of the hash, id -1 is free. */
struct bpe_slot {
    uint32_t tag;
    int32_t id;
};

/* (left, right) in one key -> what they merge to, and how early. id -1 is free. */
struct bpe_merge {
    uint64_t pair;
    uint32_t rank;
    int32_t id;
};

struct bpe {
    char *blob;
    size_t blob_size, blob_capacity;
    struct bpe_token *tokens; /* (size) by id */
    int size, token_limit;    /* ids in use end at size; none may reach token_limit */
    struct bpe_slot *slots;   /* (slot_mask + 1) */
    uint32_t slot_mask;
    struct bpe_merge *merges; /* (merge_mask + 1), at most half full */
    uint32_t merge_mask, n_merges;
    uint32_t n_ranks;      /* every rank is below */
    int32_t byte_ids[256]; /* the token of each single byte */
    int32_t *added;        /* (n_added) ids, sorted by their text */
    int n_added;
    bool added_first[256]; /* bytes that an added token's text starts with */
    bool ignore_merges;    /* a piece that is a token as a whole is not merged */
    int32_t before[BPE_MAX_TEMPLATE], after[BPE_MAX_TEMPLATE]; /* the post-processor */
    int n_before, n_after;
};

/* count: tokens and added tokens to come; ids must stay below twice that and a little. */
enum mll_status bpe_new(struct bpe **bpe, size_t count, size_t merges, struct mll_error *err);
enum mll_status bpe_add_token(struct bpe *bpe, int64_t id, const char *bytes, size_t size,
                              struct mll_error *err);
/* left and right merge to result; among pairs the lowest rank merges first, leftmost first. */
enum mll_status bpe_add_merge(struct bpe *bpe, int32_t left, int32_t right, int32_t result,
                              uint32_t rank, struct mll_error *err);
/* An added token. Where it is a token already, id must be that token's. */
enum mll_status bpe_add_added(struct bpe *bpe, int64_t id, const char *text, size_t size,
                              bool special, struct mll_error *err);
/* Last step: sorts the added tokens and checks that every byte has a token. */
enum mll_status bpe_seal(struct bpe *bpe, struct mll_error *err);

/* The id of a token by its bytes, -1 if there is none. */
int32_t bpe_find_token(const struct bpe *bpe, const char *bytes, size_t size);
/* The slot of (left, right), NULL if they do not merge. */
const struct bpe_merge *bpe_find_merge(const struct bpe *bpe, int32_t left, int32_t right);
/* Compares two texts bytewise, the shorter first where it begins the longer. */
int bpe_compare(const char *a, size_t a_size, const char *b, size_t b_size);

/* Fills *bpe from a file's bytes; path is for messages. */
enum mll_status bpe_read_json(struct bpe **bpe, const char *bytes, size_t size, const char *path,
                              struct mll_error *err);
enum mll_status bpe_read_tiktoken(struct bpe **bpe, const char *bytes, size_t size,
                                  const char *path, struct mll_error *err);

/* Room for n more ids. */
enum mll_status bpe_reserve(struct bpe_ids *ids, size_t n, struct mll_error *err);
/* Merges one piece (size >= 1) and appends its ids. *work is scratch of one bpe_encode call, NULL
 * at first; free with bpe_work_free. */
struct bpe_work;
enum mll_status bpe_merge_piece(const struct bpe *bpe, struct bpe_ids *out, struct bpe_work **work,
                                const char *piece, size_t size, struct mll_error *err);
void bpe_work_free(struct bpe_work *work);

#endif
