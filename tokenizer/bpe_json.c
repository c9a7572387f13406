/* bpe_json.c - tokenizer.json as HF tokenizers writes it.
 *
 * What Llama 3 tokenizers are made of is read: a BPE model over byte-level text, the Llama 3 split
 * pattern, added tokens that match exactly, a template post-processor, the ByteLevel decoder. Any
 * other part would change the ids, so it is refused by name. Truncation and padding are settings of
 * a call, not of the vocabulary: they are left alone, as transformers does. */
#include "bpe_table.h"
#include "split.h"
#include "utf8.h"

#include <jansson.h>
#include <string.h>

#define SHOWN 60 /* bytes of a file's text that a message quotes */

struct reader {
    struct bpe *bpe;
    const char *path;
    struct mll_error *err;
    int16_t byte_of[512]; /* byte-level text: the byte that a scalar stands for, -1 if none */
};

#define REFUSE(r, code, ...) mll_fail((r)->err, MLL_ERR_TOKENIZER_##code, __VA_ARGS__)

/* Bytes that print stand for themselves, the others in order for U+0100 and up. */
static void fill_byte_table(int16_t *byte_of, int n)
{
    for (int i = 0; i < n; i++)
        byte_of[i] = -1;
    int next = 256;
    for (int c = 0; c < 256; c++) {
        bool prints = (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174;
        byte_of[prints ? c : next++] = (int16_t)c;
    }
}

/* Byte-level text to bytes. out has room for BPE_MAX_TOKEN; returns the length, -1 if text is not
 * byte-level or too long. */
static int from_byte_level(const struct reader *r, char *out, const char *text, size_t size)
{
    int n = 0;
    const uint8_t *s = (const uint8_t *)text;
    for (size_t i = 0; i < size;) {
        struct utf8_part part = utf8_read(s + i, size - i);
        uint32_t scalar = utf8_scalar(s + i, part);
        if (n == BPE_MAX_TOKEN || part.size != part.need || scalar >= 512 || r->byte_of[scalar] < 0)
            return -1;
        out[n++] = (char)r->byte_of[scalar];
        i += part.size;
    }
    return n;
}

static bool is_type(const json_t *object, const char *type)
{
    const char *found = json_string_value(json_object_get(object, "type"));
    return found && strcmp(found, type) == 0;
}

static const char *type_of(const json_t *object)
{
    const char *found = json_string_value(json_object_get(object, "type"));
    return found ? found : "(no type)";
}

/* A key that is absent, null or the empty string. */
static bool is_unset(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return !value || json_is_null(value) ||
           (json_is_string(value) && json_string_length(value) == 0);
}

/* ---- model ---- */

static enum mll_status check_model(struct reader *r, const json_t *model)
{
    static const char *const unset[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    if (!is_type(model, "BPE"))
        return REFUSE(r, MODEL, "model.type is '%.*s', expected 'BPE'", SHOWN, type_of(model));
    for (size_t i = 0; i < sizeof unset / sizeof *unset; i++)
        if (!is_unset(model, unset[i]))
            return REFUSE(r, MODEL, "model.%s is set; only null is supported", unset[i]);
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return REFUSE(r, MODEL, "model.dropout is set; only null is supported");
    if (!json_is_object(json_object_get(model, "vocab")))
        return REFUSE(r, MODEL, "model.vocab is not an object");
    if (!json_is_array(json_object_get(model, "merges")))
        return REFUSE(r, MODEL, "model.merges is not a list");
    return MLL_OK;
}

static enum mll_status read_vocab(struct reader *r, json_t *vocab)
{
    char bytes[BPE_MAX_TOKEN];
    for (void *at = json_object_iter(vocab); at; at = json_object_iter_next(vocab, at)) {
        const char *key = json_object_iter_key(at);
        const json_t *id = json_object_iter_value(at);
        int n = from_byte_level(r, bytes, key, json_object_iter_key_len(at));
        if (!json_is_integer(id))
            return REFUSE(r, ID, "the id of token '%.*s' is not an integer", SHOWN, key);
        if (n < 0)
            return REFUSE(r, TOKEN, "the token '%.*s' is not byte-level text of at most %d bytes",
                          SHOWN, key, BPE_MAX_TOKEN);
        MLL_TRY(bpe_add_token(r->bpe, json_integer_value(id), bytes, (size_t)n, r->err));
    }
    return MLL_OK;
}

/* A merge is ["left", "right"] or, in older files, "left right". */
static bool merge_parts(const json_t *merge, const char **left, size_t *left_size,
                        const char **right, size_t *right_size)
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
        *left = json_string_value(a);
        *right = json_string_value(b);
        *left_size = json_string_length(a);
        *right_size = json_string_length(b);
        return *left && *right;
    }
    *left = json_string_value(merge);
    const char *space = *left ? strchr(*left, ' ') : NULL;
    if (!space)
        return false;
    *left_size = (size_t)(space - *left);
    *right = space + 1;
    *right_size = json_string_length(merge) - *left_size - 1;
    return true;
}

static enum mll_status read_merge(struct reader *r, const json_t *merge, uint32_t rank)
{
    char bytes[2 * BPE_MAX_TOKEN];
    const char *left, *right;
    size_t left_size, right_size;
    if (!merge_parts(merge, &left, &left_size, &right, &right_size))
        return REFUSE(r, MERGE, "merge %u is neither two strings nor one with a space", rank);
    int n = from_byte_level(r, bytes, left, left_size);
    int n2 = n < 0 ? -1 : from_byte_level(r, bytes + n, right, right_size);
    int32_t a = n < 1 ? -1 : bpe_find_token(r->bpe, bytes, (size_t)n);
    int32_t b = n2 < 1 ? -1 : bpe_find_token(r->bpe, bytes + n, (size_t)n2);
    if (a < 0 || b < 0)
        return REFUSE(r, MERGE_PART, "merge %u: its %s part '%.*s' is not in the vocabulary", rank,
                      a < 0 ? "left" : "right", SHOWN, a < 0 ? left : right);
    int32_t result = bpe_find_token(r->bpe, bytes, (size_t)(n + n2));
    if (result < 0)
        return REFUSE(r, MERGE_RESULT,
                      "merge %u: '%.*s' and '%.*s' make no token of the vocabulary", rank,
                      left_size < SHOWN ? (int)left_size : SHOWN, left, SHOWN, right);
    return bpe_add_merge(r->bpe, a, b, result, rank, r->err);
}

static enum mll_status read_model(struct reader *r, const json_t *model)
{
    const json_t *merges = json_object_get(model, "merges");
    MLL_TRY(read_vocab(r, json_object_get(model, "vocab")));
    for (size_t i = 0; i < json_array_size(merges); i++)
        MLL_TRY(read_merge(r, json_array_get(merges, i), (uint32_t)i));
    r->bpe->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    return MLL_OK;
}

/* ---- what stands around the model ---- */

static enum mll_status check_byte_level(struct reader *r, const json_t *step)
{
    if (!is_type(step, "ByteLevel"))
        return REFUSE(r, SPLIT, "pre_tokenizer has a step '%.*s', expected Split and ByteLevel",
                      SHOWN, type_of(step));
    /* Both keys are true where they are absent. */
    if (!json_is_false(json_object_get(step, "use_regex")) ||
        !json_is_false(json_object_get(step, "add_prefix_space")))
        return REFUSE(r, SPLIT,
                      "pre_tokenizer: ByteLevel with use_regex or add_prefix_space (GPT-2's "
                      "splitting) is not supported, only the Llama 3 pattern");
    return MLL_OK;
}

static enum mll_status check_pre_tokenizer(struct reader *r, const json_t *pre)
{
    const json_t *steps = json_object_get(pre, "pretokenizers");
    if (!is_type(pre, "Sequence") || json_array_size(steps) != 2)
        return REFUSE(r, SPLIT,
                      "pre_tokenizer is '%.*s', expected a Sequence of Split and ByteLevel", SHOWN,
                      type_of(pre));
    const json_t *split = json_array_get(steps, 0);
    if (!is_type(split, "Split"))
        return REFUSE(r, SPLIT, "pre_tokenizer starts with '%.*s', expected 'Split'", SHOWN,
                      type_of(split));
    const char *behavior = json_string_value(json_object_get(split, "behavior"));
    if (!behavior || strcmp(behavior, "Isolated") != 0 ||
        json_is_true(json_object_get(split, "invert")))
        return REFUSE(r, SPLIT, "pre_tokenizer: Split with behavior '%.*s', expected 'Isolated'%s",
                      SHOWN, behavior ? behavior : "(none)", ", not inverted");
    const char *regex =
        json_string_value(json_object_get(json_object_get(split, "pattern"), "Regex"));
    if (!regex || strcmp(regex, SPLIT_LLAMA3_PATTERN) != 0)
        return REFUSE(r, SPLIT, "pre_tokenizer: the split pattern '%.*s' is not Llama 3's", 200,
                      regex ? regex : "(none)");
    return check_byte_level(r, json_array_get(steps, 1));
}

static enum mll_status read_added(struct reader *r, const json_t *added)
{
    static const char *const flags[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *token = json_array_get(added, i);
        const json_t *content = json_object_get(token, "content");
        const json_t *id = json_object_get(token, "id");
        if (!json_is_string(content) || !json_is_integer(id))
            return REFUSE(r, ADDED, "added_tokens[%zu] lacks a content or an integer id", i);
        for (size_t k = 0; k < sizeof flags / sizeof *flags; k++)
            if (json_is_true(json_object_get(token, flags[k])))
                return REFUSE(r, ADDED, "added token '%.*s' has %s, which is not supported", SHOWN,
                              json_string_value(content), flags[k]);
        MLL_TRY(bpe_add_added(r->bpe, json_integer_value(id), json_string_value(content),
                              json_string_length(content),
                              json_is_true(json_object_get(token, "special")), r->err));
    }
    return MLL_OK;
}

/* The ids of a template's special token, appended to one side. */
static enum mll_status add_template_token(struct reader *r, int32_t *side, int *n,
                                          const json_t *specials, const json_t *token)
{
    const char *name = json_string_value(json_object_get(token, "id"));
    const json_t *ids = json_object_get(name ? json_object_get(specials, name) : NULL, "ids");
    if (json_array_size(ids) == 0)
        return REFUSE(r, TEMPLATE, "post_processor: the token '%.*s' has no ids", SHOWN,
                      name ? name : "(none)");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        size_t size;
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= r->bpe->size || !bpe_token_bytes(r->bpe, (int32_t)value, &size))
            return REFUSE(r, TEMPLATE,
                          "post_processor: '%.*s' stands for id %lld, which no token "
                          "has",
                          SHOWN, name, (long long)value);
        if (*n == BPE_MAX_TEMPLATE)
            return REFUSE(r, TEMPLATE, "post_processor: more than %d tokens on a side",
                          BPE_MAX_TEMPLATE);
        side[(*n)++] = (int32_t)value;
    }
    return MLL_OK;
}

static enum mll_status read_template(struct reader *r, const json_t *template)
{
    const json_t *single = json_object_get(template, "single");
    const json_t *specials = json_object_get(template, "special_tokens");
    struct bpe *b = r->bpe;
    bool seen = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *step = json_array_get(single, i);
        const json_t *token = json_object_get(step, "SpecialToken");
        if (token && !seen) {
            MLL_TRY(add_template_token(r, b->before, &b->n_before, specials, token));
        } else if (token) {
            MLL_TRY(add_template_token(r, b->after, &b->n_after, specials, token));
        } else if (json_object_get(step, "Sequence") && !seen) {
            seen = true;
        } else {
            return REFUSE(r, TEMPLATE, "post_processor: step %zu of 'single' is not understood", i);
        }
    }
    return seen ? MLL_OK : REFUSE(r, TEMPLATE, "post_processor: 'single' has no sequence");
}

/* ByteLevel only moves offsets; a template may stand alone or in a Sequence. */
static enum mll_status read_post_processor(struct reader *r, const json_t *post)
{
    if (!post || json_is_null(post))
        return MLL_OK;
    const json_t *steps = json_object_get(post, "processors");
    bool sequence = is_type(post, "Sequence");
    size_t n = sequence ? json_array_size(steps) : 1;
    int templates = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *step = sequence ? json_array_get(steps, i) : post;
        if (is_type(step, "TemplateProcessing") && templates++ == 0)
            MLL_TRY(read_template(r, step));
        else if (!is_type(step, "ByteLevel"))
            return REFUSE(r, TEMPLATE, "post_processor '%.*s' is not supported", SHOWN,
                          type_of(step));
    }
    return MLL_OK;
}

static enum mll_status read_root(struct reader *r, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    const json_t *added = json_object_get(root, "added_tokens");
    const json_t *normalizer = json_object_get(root, "normalizer");
    if (!json_is_object(model))
        return REFUSE(r, FILE, "no object 'model': not a tokenizer.json");
    if (normalizer && !json_is_null(normalizer))
        return REFUSE(r, NORMALIZER, "normalizer '%.*s' is set; only null is supported", SHOWN,
                      type_of(normalizer));
    MLL_TRY(check_model(r, model));
    MLL_TRY(check_pre_tokenizer(r, json_object_get(root, "pre_tokenizer")));
    if (!is_type(json_object_get(root, "decoder"), "ByteLevel"))
        return REFUSE(r, DECODER, "decoder is '%.*s', expected 'ByteLevel'", SHOWN,
                      type_of(json_object_get(root, "decoder")));
    size_t count = json_object_size(json_object_get(model, "vocab")) + json_array_size(added);
    MLL_TRY(bpe_new(&r->bpe, count, json_array_size(json_object_get(model, "merges")), r->err));
    MLL_TRY(read_model(r, model));
    MLL_TRY(read_added(r, added));
    MLL_TRY(read_post_processor(r, json_object_get(root, "post_processor")));
    return bpe_seal(r->bpe, r->err);
}

enum mll_status bpe_read_json(struct bpe **bpe, const char *bytes, size_t size, const char *path,
                              struct mll_error *err)
{
    json_error_t parse;
    json_t *root = json_loadb(bytes, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &parse);
    if (!root)
        return mll_fail(err, MLL_ERR_TOKENIZER_JSON, "%s: line %d, column %d: %s", path, parse.line,
                        parse.column, parse.text);
    struct mll_error inner = {0};
    struct reader r = {.path = path, .err = &inner};
    fill_byte_table(r.byte_of, sizeof r.byte_of / sizeof *r.byte_of);
    enum mll_status status = read_root(&r, root);
    json_decref(root);
    if (status == MLL_OK) {
        *bpe = r.bpe;
        return MLL_OK;
    }
    bpe_close(r.bpe);
    return mll_fail(err, status, "%s: %s", path, inner.message);
}
