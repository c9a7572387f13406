#include "bpe_table.h"

#include <stdlib.h>
#include <string.h>

static enum mll_status no_memory(struct mll_error *err)
{
    return mll_fail(err, MLL_ERR_NO_MEMORY, "not enough memory for the tokenizer");
}

static uint64_t mix(uint64_t x)
{
    x *= 0x9E3779B97F4A7C15u;
    return x ^ x >> 32;
}

static uint64_t hash_bytes(const char *bytes, size_t size)
{
    uint64_t hash = size, word;
    for (; size > 8; bytes += 8, size -= 8) {
        memcpy(&word, bytes, 8);
        hash = mix(hash ^ word);
    }
    word = 0;
    memcpy(&word, bytes, size);
    return mix(mix(hash ^ word));
}

static uint32_t power_of_two(size_t at_least)
{
    uint32_t n = 16;
    while (n < at_least)
        n *= 2;
    return n;
}

static struct bpe_merge *new_merges(uint32_t n)
{
    struct bpe_merge *merges = malloc(n * sizeof *merges);
    for (uint32_t i = 0; merges && i < n; i++)
        merges[i].id = -1;
    return merges;
}

enum mll_status bpe_new(struct bpe **out, size_t count, size_t merges, struct mll_error *err)
{
    if (count > BPE_MAX_COUNT || merges > 4u * BPE_MAX_COUNT)
        return mll_fail(err, MLL_ERR_TOKENIZER_SIZE,
                        "%zu tokens and %zu merges: at most %u and %u are read", count, merges,
                        BPE_MAX_COUNT, 4u * BPE_MAX_COUNT);
    struct bpe *b = calloc(1, sizeof *b);
    if (!b)
        return no_memory(err);
    b->token_limit = (int)(2 * count + 1024);
    b->slot_mask = power_of_two(2 * count) - 1;
    b->merge_mask = power_of_two(2 * merges) - 1;
    b->tokens = calloc((size_t)b->token_limit, sizeof *b->tokens);
    b->slots = malloc((b->slot_mask + 1) * sizeof *b->slots);
    b->merges = new_merges(b->merge_mask + 1);
    b->added = malloc((count + 1) * sizeof *b->added);
    if (!b->tokens || !b->slots || !b->merges || !b->added) {
        bpe_close(b);
        return no_memory(err);
    }
    memset(b->slots, 0xff, (b->slot_mask + 1) * sizeof *b->slots);
    *out = b;
    return MLL_OK;
}

void bpe_close(struct bpe *b)
{
    if (!b)
        return;
    free(b->blob);
    free(b->tokens);
    free(b->slots);
    free(b->merges);
    free(b->added);
    free(b);
}

/* Where bytes are, or would go. */
static struct bpe_slot *probe(const struct bpe *b, const char *bytes, size_t size, uint32_t *tag)
{
    uint64_t hash = hash_bytes(bytes, size);
    *tag = (uint32_t)(hash >> 32);
    for (uint32_t i = (uint32_t)hash & b->slot_mask;; i = (i + 1) & b->slot_mask) {
        struct bpe_slot *slot = &b->slots[i];
        if (slot->id < 0)
            return slot;
        const struct bpe_token *token = &b->tokens[slot->id];
        if (slot->tag == *tag && token->size == size &&
            memcmp(b->blob + token->start, bytes, size) == 0)
            return slot;
    }
}

int32_t bpe_find_token(const struct bpe *b, const char *bytes, size_t size)
{
    uint32_t tag;
    return probe(b, bytes, size, &tag)->id;
}

/* Claims id for some text: checks the number, keeps the bytes. */
static enum mll_status claim_id(struct bpe *b, int64_t id, const char *bytes, size_t size,
                                struct mll_error *err)
{
    int shown = size < 40 ? (int)size : 40;
    if (size == 0 || size > BPE_MAX_TOKEN)
        return mll_fail(err, MLL_ERR_TOKENIZER_TOKEN,
                        "the token with id %lld has %zu bytes, expected 1 to %d", (long long)id,
                        size, BPE_MAX_TOKEN);
    if (id < 0 || id >= b->token_limit)
        return mll_fail(err, MLL_ERR_TOKENIZER_ID,
                        "the id %lld of token '%.*s' is outside 0 to %d: too far from dense",
                        (long long)id, shown, bytes, b->token_limit - 1);
    struct bpe_token *token = &b->tokens[id];
    if (token->size > 0)
        return mll_fail(err, MLL_ERR_TOKENIZER_DUPLICATE_ID,
                        "id %lld is given to two tokens, '%.*s' and '%.*s'", (long long)id,
                        token->size < 40 ? token->size : 40, b->blob + token->start, shown, bytes);
    if (b->blob_size + size > b->blob_capacity) {
        size_t capacity = 2 * b->blob_capacity + BPE_MAX_TOKEN;
        char *blob = capacity <= UINT32_MAX ? realloc(b->blob, capacity) : NULL;
        if (!blob)
            return no_memory(err);
        b->blob = blob;
        b->blob_capacity = capacity;
    }
    memcpy(b->blob + b->blob_size, bytes, size);
    *token = (struct bpe_token){.start = (uint32_t)b->blob_size, .size = (uint16_t)size};
    b->blob_size += size;
    if (id >= b->size)
        b->size = (int)id + 1;
    return MLL_OK;
}

enum mll_status bpe_add_token(struct bpe *b, int64_t id, const char *bytes, size_t size,
                              struct mll_error *err)
{
    MLL_TRY(claim_id(b, id, bytes, size, err));
    uint32_t tag;
    struct bpe_slot *slot = probe(b, bytes, size, &tag);
    if (slot->id >= 0)
        return mll_fail(err, MLL_ERR_TOKENIZER_DUPLICATE_TOKEN,
                        "the token '%.*s' has two ids, %d and %lld", size < 40 ? (int)size : 40,
                        bytes, slot->id, (long long)id);
    *slot = (struct bpe_slot){tag, (int32_t)id};
    return MLL_OK;
}

static struct bpe_merge *probe_merge(const struct bpe *b, uint64_t pair)
{
    for (uint32_t i = (uint32_t)mix(mix(pair)) & b->merge_mask;; i = (i + 1) & b->merge_mask) {
        struct bpe_merge *merge = &b->merges[i];
        if (merge->id < 0 || merge->pair == pair)
            return merge;
    }
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)left << 32 | (uint32_t)right;
}

const struct bpe_merge *bpe_find_merge(const struct bpe *b, int32_t left, int32_t right)
{
    const struct bpe_merge *merge = probe_merge(b, pair_of(left, right));
    return merge->id < 0 ? NULL : merge;
}

/* Twice the room for merges. */
static enum mll_status grow_merges(struct bpe *b, struct mll_error *err)
{
    struct bpe_merge *old = b->merges;
    uint32_t n = b->merge_mask + 1;
    struct bpe_merge *merges = b->n_merges < 4u * BPE_MAX_COUNT ? new_merges(2 * n) : NULL;
    if (!merges)
        return no_memory(err);
    b->merges = merges;
    b->merge_mask = 2 * n - 1;
    for (uint32_t i = 0; i < n; i++)
        if (old[i].id >= 0)
            *probe_merge(b, old[i].pair) = old[i];
    free(old);
    return MLL_OK;
}

enum mll_status bpe_add_merge(struct bpe *b, int32_t left, int32_t right, int32_t result,
                              uint32_t rank, struct mll_error *err)
{
    if (2 * b->n_merges > b->merge_mask)
        MLL_TRY(grow_merges(b, err));
    struct bpe_merge *merge = probe_merge(b, pair_of(left, right));
    if (merge->id >= 0)
        return mll_fail(err, MLL_ERR_TOKENIZER_MERGE, "merge %u repeats merge %u", rank,
                        merge->rank);
    *merge = (struct bpe_merge){pair_of(left, right), rank, result};
    b->n_merges++;
    if (rank >= b->n_ranks)
        b->n_ranks = rank + 1;
    return MLL_OK;
}

enum mll_status bpe_add_added(struct bpe *b, int64_t id, const char *text, size_t size,
                              bool special, struct mll_error *err)
{
    int32_t known = size > 0 ? bpe_find_token(b, text, size) : -1;
    if (known >= 0 && known != id)
        return mll_fail(err, MLL_ERR_TOKENIZER_ADDED,
                        "the added token '%.*s' has id %lld, but the vocabulary gives it %d",
                        size < 40 ? (int)size : 40, text, (long long)id, known);
    if (known < 0)
        MLL_TRY(claim_id(b, id, text, size, err));
    struct bpe_token *token = &b->tokens[id];
    if (token->added)
        return mll_fail(err, MLL_ERR_TOKENIZER_ADDED, "the added token %lld is listed twice",
                        (long long)id);
    token->added = true;
    token->special = special;
    b->added[b->n_added++] = (int32_t)id;
    b->added_first[(uint8_t)text[0]] = true;
    return MLL_OK;
}

int bpe_compare(const char *a, size_t a_size, const char *b, size_t b_size)
{
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    if (order != 0)
        return order;
    return (a_size > b_size) - (a_size < b_size);
}

static int compare_ids(const void *x, const void *y, void *bpe)
{
    size_t a_size, b_size;
    const char *a = bpe_token_bytes(bpe, *(const int32_t *)x, &a_size);
    const char *b = bpe_token_bytes(bpe, *(const int32_t *)y, &b_size);
    return bpe_compare(a, a_size, b, b_size);
}

enum mll_status bpe_seal(struct bpe *b, struct mll_error *err)
{
    for (int c = 0; c < 256; c++) {
        b->byte_ids[c] = bpe_find_token(b, &(char){(char)c}, 1);
        if (b->byte_ids[c] < 0)
            return mll_fail(err, MLL_ERR_TOKENIZER_BYTE,
                            "no token for the byte 0x%02X: not a byte-level vocabulary", c);
    }
    qsort_r(b->added, (size_t)b->n_added, sizeof *b->added, compare_ids, b);
    for (int i = 1; i < b->n_added; i++)
        if (compare_ids(&b->added[i - 1], &b->added[i], b) == 0)
            return mll_fail(err, MLL_ERR_TOKENIZER_ADDED,
                            "the added tokens %d and %d have the same text", b->added[i - 1],
                            b->added[i]);
    return MLL_OK;
}
