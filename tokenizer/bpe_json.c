/* bpe_json.c - tokenizer.json as HF tokenizers writes it.
 *
 * What Llama 3 tokenizers are made of is read: a BPE model over byte-level text, the Llama 3 split
 * pattern, added tokens that match exactly, a template post-processor, the ByteLevel decoder. Any
 * other part would change the ids, so it is refused by name. Truncation and padding are settings of
 * a call, not of the vocabulary: they are left alone, as transformers does. */
#include "bpe_table.h"
#include "json_flat.h"
#include "split.h"
#include "utf8.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN 60 /* bytes of a file's text that a message quotes */

/* Byte-level text spends at most two bytes on one. */
#define MAX_TEXT (2 * 2 * BPE_MAX_TOKEN + 4)

struct reader {
    struct bpe *bpe;
    struct mll_error *err;
    const char *start;  /* of the file's bytes */
    struct flat big[2]; /* vocab and merges, the two big values, and bounds on their members */
    size_t counts[2];
    bool ignore_merges;
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
    r->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    return MLL_OK;
}

static enum mll_status malformed(struct reader *r, const char *key, const struct flat *at)
{
    return REFUSE(r, JSON, "model.%s is malformed, or has a text of over %d bytes, at byte %zu",
                  key, MAX_TEXT, (size_t)(at->at - r->start));
}

/* {"token": id, ...} */
static enum mll_status read_vocab(struct reader *r, struct flat f)
{
    char text[MAX_TEXT], bytes[BPE_MAX_TOKEN];
    bool more = flat_mark(&f, '{') && !flat_mark(&f, '}');
    while (more) {
        int64_t id;
        int size = flat_string(&f, text, MAX_TEXT);
        if (size < 0 || !flat_mark(&f, ':'))
            return malformed(r, "vocab", &f);
        if (!flat_integer(&f, &id))
            return REFUSE(r, ID, "the id of token '%.*s' is not an integer",
                          size < SHOWN ? size : SHOWN, text);
        int n = from_byte_level(r, bytes, text, (size_t)size);
        if (n < 0)
            return REFUSE(r, TOKEN, "the token '%.*s' is not byte-level text of at most %d bytes",
                          size < SHOWN ? size : SHOWN, text, BPE_MAX_TOKEN);
        MLL_TRY(bpe_add_token(r->bpe, id, bytes, (size_t)n, r->err));
        more = flat_mark(&f, ',');
        if (!more && !flat_mark(&f, '}'))
            return malformed(r, "vocab", &f);
    }
    return flat_done(&f) ? MLL_OK : malformed(r, "vocab", &f);
}

/* One merge, ["left", "right"] or, in older files, "left right": both texts one after the other in
 * text, *left and *right their sizes. */
static bool read_parts(struct flat *f, char *text, int *left, int *right)
{
    if (flat_mark(f, '[')) {
        *left = flat_string(f, text, MAX_TEXT / 2);
        if (*left < 0 || !flat_mark(f, ','))
            return false;
        *right = flat_string(f, text + *left, MAX_TEXT / 2);
        return *right >= 0 && flat_mark(f, ']');
    }
    int size = flat_string(f, text, MAX_TEXT);
    char *space = size > 0 ? memchr(text, ' ', (size_t)size) : NULL;
    if (!space)
        return false;
    *left = (int)(space - text);
    *right = size - *left - 1;
    memmove(space, space + 1, (size_t)*right);
    return true;
}

static enum mll_status add_merge(struct reader *r, uint32_t rank, const char *text, int left,
                                 int right)
{
    char bytes[2 * BPE_MAX_TOKEN];
    int n = from_byte_level(r, bytes, text, (size_t)left);
    int n2 = n < 0 ? -1 : from_byte_level(r, bytes + n, text + left, (size_t)right);
    int32_t a = n < 1 ? -1 : bpe_find_token(r->bpe, bytes, (size_t)n);
    int32_t b = n2 < 1 ? -1 : bpe_find_token(r->bpe, bytes + n, (size_t)n2);
    int left_shown = left < SHOWN ? left : SHOWN, right_shown = right < SHOWN ? right : SHOWN;
    if (a < 0 || b < 0)
        return REFUSE(r, MERGE_PART, "merge %u: its %s part '%.*s' is not in the vocabulary", rank,
                      a < 0 ? "left" : "right", a < 0 ? left_shown : right_shown,
                      a < 0 ? text : text + left);
    int32_t result = bpe_find_token(r->bpe, bytes, (size_t)(n + n2));
    if (result < 0)
        return REFUSE(r, MERGE_RESULT,
                      "merge %u: '%.*s' and '%.*s' make no token of the vocabulary", rank,
                      left_shown, text, right_shown, text + left);
    return bpe_add_merge(r->bpe, a, b, result, rank, r->err);
}

static enum mll_status read_merges(struct reader *r, struct flat f)
{
    char text[MAX_TEXT];
    int left, right;
    bool more = flat_mark(&f, '[') && !flat_mark(&f, ']');
    for (uint32_t rank = 0; more; rank++) {
        if (!read_parts(&f, text, &left, &right))
            return REFUSE(r, MERGE, "merge %u is neither two strings nor one with a space", rank);
        MLL_TRY(add_merge(r, rank, text, left, right));
        more = flat_mark(&f, ',');
        if (!more && !flat_mark(&f, ']'))
            return malformed(r, "merges", &f);
    }
    return flat_done(&f) ? MLL_OK : malformed(r, "merges", &f);
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
    if (normalizer && !json_is_null(normalizer))
        return REFUSE(r, NORMALIZER, "normalizer '%.*s' is set; only null is supported", SHOWN,
                      type_of(normalizer));
    MLL_TRY(check_model(r, model));
    MLL_TRY(check_pre_tokenizer(r, json_object_get(root, "pre_tokenizer")));
    if (!is_type(json_object_get(root, "decoder"), "ByteLevel"))
        return REFUSE(r, DECODER, "decoder is '%.*s', expected 'ByteLevel'", SHOWN,
                      type_of(json_object_get(root, "decoder")));
    MLL_TRY(bpe_new(&r->bpe, r->counts[0] + json_array_size(added), r->counts[1], r->err));
    r->bpe->ignore_merges = r->ignore_merges;
    MLL_TRY(read_vocab(r, r->big[0]));
    MLL_TRY(read_merges(r, r->big[1]));
    MLL_TRY(read_added(r, added));
    MLL_TRY(read_post_processor(r, json_object_get(root, "post_processor")));
    return bpe_seal(r->bpe, r->err);
}

/* The file's text with a 0 in place of a and b; out has room for size. Returns the length. */
static size_t copy_without(char *out, struct flat all, struct flat a, struct flat b)
{
    const struct flat parts[] = {{all.at, a.at < b.at ? a.at : b.at},
                                 {a.at < b.at ? a.end : b.end, a.at < b.at ? b.at : a.at},
                                 {a.at < b.at ? b.end : a.end, all.end}};
    size_t n = 0;
    for (int i = 0; i < 3; i++) {
        size_t size = (size_t)(parts[i].end - parts[i].at);
        memcpy(out + n, parts[i].at, size);
        n += size;
        if (i < 2)
            out[n++] = '0';
    }
    return n;
}

/* The file's tree; the two big values are left to the flat reader. */
static enum mll_status parse(struct reader *r, json_t **root, struct flat all)
{
    static const char *const outer[] = {"model"}, *const inner[] = {"vocab", "merges"};
    struct flat model;
    size_t count;
    bool found = flat_members(&model, &count, all, outer, 1) &&
                 flat_members(r->big, r->counts, model, inner, 2);
    size_t size = (size_t)(all.end - all.at);
    char *rest = found ? malloc(size) : NULL;
    if (found && !rest)
        return mll_fail(r->err, MLL_ERR_NO_MEMORY, "no memory to read %zu bytes", size);
    if (found)
        size = copy_without(rest, all, r->big[0], r->big[1]);
    json_error_t error;
    *root =
        json_loadb(found ? rest : all.at, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    free(rest);
    if (!*root && json_error_code(&error) == json_error_out_of_memory)
        return mll_fail(r->err, MLL_ERR_NO_MEMORY, "no memory to read %zu bytes", size);
    if (!*root)
        return REFUSE(r, JSON, "not JSON: %s", error.text);
    if (!found && !json_is_object(json_object_get(*root, "model")))
        return REFUSE(r, FILE, "no object 'model': not a tokenizer.json");
    return found ? MLL_OK : REFUSE(r, MODEL, "model has no 'vocab' or no 'merges'");
}

enum mll_status bpe_read_json(struct bpe **bpe, const char *bytes, size_t size, const char *path,
                              struct mll_error *err)
{
    struct mll_error inner = {0};
    struct reader r = {.start = bytes, .err = &inner};
    json_t *root = NULL;
    fill_byte_table(r.byte_of, sizeof r.byte_of / sizeof *r.byte_of);
    enum mll_status status = parse(&r, &root, (struct flat){bytes, bytes + size});
    if (status == MLL_OK)
        status = read_root(&r, root);
    json_decref(root);
    if (status == MLL_OK) {
        *bpe = r.bpe;
        return MLL_OK;
    }
    bpe_close(r.bpe);
    return mll_fail(err, status, "%s: %s", path, inner.message);
}
