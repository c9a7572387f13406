/* bpe_merge.c - the merge loop of BPE on one piece: again and again the pair of lowest rank, the
 * leftmost of equals, becomes one symbol, until no pair merges.
 *
 * Short pieces search a small array. Long ones keep every pair in the list of its rank, so that the
 * next pair is the head of the lowest non-empty list: near linear in the piece's length, which a
 * text may stretch as it likes (spaces, one letter).
 * The head is the leftmost, for pairs come to a list from left to right. A list's pairs spell the
 * same bytes (a rank is one pair's, or one token's), and inside equal bytes the merges so far were
 * the same ones; of two such stretches the left one, being served first, is never behind. */
#include "bpe_table.h"

#include <stdlib.h>
#include <string.h>

#define SHORT_PIECE 96

enum mll_status bpe_reserve(struct bpe_ids *ids, size_t n, struct mll_error *err)
{
    if (ids->capacity - ids->n >= n)
        return MLL_OK;
    size_t capacity = ids->capacity + ids->capacity / 2 + n + 64;
    int32_t *data = realloc(ids->data, capacity * sizeof *data);
    if (!data)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "not enough memory for %zu token ids", capacity);
    ids->data = data;
    ids->capacity = capacity;
    return MLL_OK;
}

/* ---- short pieces ---- */

struct short_pair {
    int32_t symbol;
    uint32_t rank; /* of (symbol, the next one) */
    int32_t result;
};

static void rank_pair(const struct bpe *b, struct short_pair *pair)
{
    const struct bpe_merge *merge = bpe_find_merge(b, pair[0].symbol, pair[1].symbol);
    pair->rank = merge ? merge->rank : BPE_NO_RANK;
    pair->result = merge ? merge->id : -1;
}

/* out has room for size ids; returns how many there are. */
static size_t merge_short(const struct bpe *b, int32_t *out, const char *piece, size_t size)
{
    struct short_pair pairs[SHORT_PIECE];
    size_t n = size;
    for (size_t i = 0; i < n; i++)
        pairs[i].symbol = b->byte_ids[(uint8_t)piece[i]];
    for (size_t i = 0; i + 1 < n; i++)
        rank_pair(b, &pairs[i]);
    for (;;) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (pairs[i].rank < pairs[best].rank)
                best = i;
        if (n < 2 || pairs[best].rank == BPE_NO_RANK)
            break;
        struct short_pair *at = &pairs[best];
        int32_t result = at->result;
        n--;
        memmove(at, at + 1, (n - best) * sizeof *at);
        at->symbol = result;
        if (best + 1 < n)
            rank_pair(b, at);
        if (best > 0)
            rank_pair(b, at - 1);
    }
    for (size_t i = 0; i < n; i++)
        out[i] = pairs[i].symbol;
    return n;
}

/* ---- long pieces ---- */

#define NONE UINT32_MAX

/* A symbol of the piece and, while (it, the next symbol) merges, its place in that rank's list. */
struct node {
    int32_t symbol;
    uint32_t prev, next; /* symbols; NONE at the ends */
    uint32_t rank;       /* BPE_NO_RANK: in no list */
    uint32_t list_prev, list_next;
};

/* Positions are stored one up, so that zeroed memory is an empty list. */
struct rank_list {
    uint32_t first, last;
};

struct bpe_work {
    struct node *nodes;
    size_t capacity;
    struct rank_list *lists; /* (n_ranks); all empty between pieces */
    uint64_t *used[3];       /* a bit a list, a bit a word of used[0], a bit a word of used[1] */
};

void bpe_work_free(struct bpe_work *w)
{
    if (!w)
        return;
    free(w->nodes);
    free(w->lists);
    for (int level = 0; level < 3; level++)
        free(w->used[level]);
    free(w);
}

static enum mll_status no_memory(size_t size, struct mll_error *err)
{
    return mll_fail(err, MLL_ERR_NO_MEMORY, "not enough memory to tokenize a piece of %zu bytes",
                    size);
}

static enum mll_status work_open(struct bpe_work **work, const struct bpe *b, struct mll_error *err)
{
    struct bpe_work *w = calloc(1, sizeof *w);
    if (!w)
        return no_memory(0, err);
    *work = w;
    w->lists = calloc(b->n_ranks + 1, sizeof *w->lists);
    size_t words = b->n_ranks / 64 + 1;
    for (int level = 0; level < 3; level++) {
        w->used[level] = calloc(words, sizeof *w->used[level]);
        if (!w->used[level])
            return no_memory(0, err);
        words = words / 64 + 1;
    }
    return w->lists ? MLL_OK : no_memory(0, err);
}

static void mark_used(struct bpe_work *w, uint32_t rank)
{
    for (int level = 0; level < 3; level++, rank /= 64)
        w->used[level][rank / 64] |= (uint64_t)1 << rank % 64;
}

static void mark_empty(struct bpe_work *w, uint32_t rank)
{
    for (int level = 0; level < 3; level++, rank /= 64) {
        w->used[level][rank / 64] &= ~((uint64_t)1 << rank % 64);
        if (w->used[level][rank / 64] != 0)
            break;
    }
}

/* The lowest rank in use; BPE_NO_RANK if there is none. */
static uint32_t lowest_rank(const struct bpe_work *w, uint32_t n_ranks)
{
    uint32_t top = n_ranks / (64 * 64 * 64) + 1, i = 0;
    while (i < top && w->used[2][i] == 0)
        i++;
    if (i == top)
        return BPE_NO_RANK;
    for (int level = 2; level >= 0; level--)
        i = i * 64 + (uint32_t)__builtin_ctzll(w->used[level][i]);
    return i;
}

static void list_append(struct bpe_work *w, uint32_t pos, uint32_t rank)
{
    struct rank_list *list = &w->lists[rank];
    struct node *node = &w->nodes[pos];
    MLL_ASSERT(pos + 1 > list->last);
    node->rank = rank;
    node->list_prev = list->last;
    node->list_next = 0;
    if (list->last)
        w->nodes[list->last - 1].list_next = pos + 1;
    else
        list->first = pos + 1;
    list->last = pos + 1;
}

static void list_remove(struct bpe_work *w, uint32_t pos)
{
    struct node *node = &w->nodes[pos];
    if (node->rank == BPE_NO_RANK)
        return;
    struct rank_list *list = &w->lists[node->rank];
    if (node->list_prev)
        w->nodes[node->list_prev - 1].list_next = node->list_next;
    else
        list->first = node->list_next;
    if (node->list_next)
        w->nodes[node->list_next - 1].list_prev = node->list_prev;
    else
        list->last = node->list_prev;
    if (!list->first)
        mark_empty(w, node->rank);
    node->rank = BPE_NO_RANK;
}

/* Puts the pair that starts at pos into its list. */
static void list_pair(struct bpe_work *w, const struct bpe *b, uint32_t pos)
{
    struct node *node = &w->nodes[pos];
    list_remove(w, pos);
    if (node->next == NONE)
        return;
    const struct bpe_merge *merge = bpe_find_merge(b, node->symbol, w->nodes[node->next].symbol);
    if (!merge)
        return;
    list_append(w, pos, merge->rank);
    mark_used(w, merge->rank);
}

static enum mll_status merge_long(const struct bpe *b, struct bpe_ids *out, struct bpe_work *w,
                                  const char *piece, uint32_t size, struct mll_error *err)
{
    if (size > w->capacity) {
        free(w->nodes);
        w->nodes = malloc(size * sizeof *w->nodes);
        w->capacity = w->nodes ? size : 0;
        if (!w->nodes)
            return no_memory(size, err);
    }
    for (uint32_t i = 0; i < size; i++)
        w->nodes[i] = (struct node){.symbol = b->byte_ids[(uint8_t)piece[i]],
                                    .prev = i > 0 ? i - 1 : NONE,
                                    .next = i + 1 < size ? i + 1 : NONE,
                                    .rank = BPE_NO_RANK};
    for (uint32_t i = 0; i < size; i++)
        list_pair(w, b, i);

    uint32_t rank;
    while ((rank = lowest_rank(w, b->n_ranks)) != BPE_NO_RANK) {
        uint32_t pos = w->lists[rank].first - 1;
        struct node *node = &w->nodes[pos], *right = &w->nodes[node->next];
        node->symbol = bpe_find_merge(b, node->symbol, right->symbol)->id;
        list_remove(w, node->next);
        node->next = right->next;
        if (node->next != NONE)
            w->nodes[node->next].prev = pos;
        list_pair(w, b, pos);
        if (node->prev != NONE)
            list_pair(w, b, node->prev);
    }
    for (uint32_t i = 0; i != NONE; i = w->nodes[i].next)
        out->data[out->n++] = w->nodes[i].symbol;
    return MLL_OK;
}

enum mll_status bpe_merge_piece(const struct bpe *b, struct bpe_ids *out, struct bpe_work **work,
                                const char *piece, size_t size, struct mll_error *err)
{
    MLL_TRY(bpe_reserve(out, size, err));
    if (size <= SHORT_PIECE) {
        out->n += merge_short(b, out->data + out->n, piece, size);
        return MLL_OK;
    }
    if (!*work)
        MLL_TRY(work_open(work, b, err));
    return merge_long(b, out, *work, piece, (uint32_t)size, err);
}
