/* run_request.c - images, prompt and sampling of run and trace. */
#include "run_request.h"

#include "inputs.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CHAT_BYTES ((size_t)256 << 20) /* images may stand in it */

static enum mll_status out_of_memory(struct mll_error *err)
{
    return mll_fail(err, MLL_ERR_NO_MEMORY, "the request");
}

static size_t count_items(const char *text)
{
    size_t n = 1;
    for (const char *c = text; *c; c++)
        n += *c == ',';
    return n;
}

/* One id at *text; moves on behind it. */
static bool parse_id(int32_t *id, const char **text)
{
    char *end;
    errno = 0;
    long v = strtol(*text, &end, 10);
    bool ok = end != *text && errno == 0 && v >= 0 && v <= INT32_MAX;
    *id = (int32_t)v;
    *text = end;
    return ok;
}

enum mll_status request_parse_ids(int32_t **ids, size_t *n, const char *text, const char *what,
                                  struct mll_error *err)
{
    *n = 0;
    *ids = calloc(count_items(text), sizeof **ids);
    if (!*ids)
        return out_of_memory(err);
    for (const char *at = text;;) {
        if (!parse_id(&(*ids)[*n], &at))
            break;
        ++*n;
        if (*at == 0)
            return MLL_OK;
        if (*at++ != ',')
            break;
    }
    return mll_fail(err, MLL_ERR_USAGE, "%s: '%.100s' is not a list of token ids like 1,2,3", what,
                    text);
}

/* ID=X,... */
static enum mll_status parse_bias(struct request *r, const char *text, struct mll_error *err)
{
    size_t n = 0;
    r->bias_ids = calloc(count_items(text), sizeof *r->bias_ids);
    r->bias = calloc(count_items(text), sizeof *r->bias);
    if (!r->bias_ids || !r->bias)
        return out_of_memory(err);
    for (const char *at = text;;) {
        if (!parse_id(&r->bias_ids[n], &at) || *at++ != '=')
            break;
        char *end;
        r->bias[n] = strtof(at, &end);
        if (end == at || isnan(r->bias[n]) || (*end && *end != ','))
            break;
        n++;
        if (*end == 0) {
            r->sampling.bias_ids = r->bias_ids;
            r->sampling.bias = r->bias;
            r->sampling.n_bias = n;
            return MLL_OK;
        }
        at = end + 1;
    }
    return mll_fail(err, MLL_ERR_USAGE, "--logit-bias: '%.100s' is not a list like 5=-1.5,7=2",
                    text);
}

/* Appends one sequence and its -1. */
static enum mll_status add_bad_word(struct request *r, const int32_t *ids, size_t n,
                                    struct mll_error *err)
{
    size_t had = r->sampling.n_bad_words;
    int32_t *all = realloc(r->bad_words, (had + n + 1) * sizeof *all);
    if (!all)
        return out_of_memory(err);
    memcpy(all + had, ids, n * sizeof *all);
    all[had + n] = -1;
    r->bad_words = all;
    r->sampling.bad_words = all;
    r->sampling.n_bad_words = had + n + 1;
    return MLL_OK;
}

static enum mll_status parse_bad_word(struct request *r, const json_t *word,
                                      struct mll_engine *engine, struct mll_error *err)
{
    const int32_t *ids;
    size_t n;
    if (json_is_string(word) && json_string_length(word) > 0 && engine) {
        MLL_TRY(mll_tokenize(engine, &ids, &n, json_string_value(word), json_string_length(word),
                             true, err));
        return add_bad_word(r, ids, n, err);
    }
    int32_t list[256];
    n = json_array_size(word);
    bool ok = n > 0 && n <= sizeof list / sizeof *list;
    for (size_t i = 0; ok && i < n; i++) {
        const json_t *id = json_array_get(word, i);
        ok = json_is_integer(id) && json_integer_value(id) >= 0 &&
             json_integer_value(id) <= INT32_MAX;
        list[i] = (int32_t)json_integer_value(id);
    }
    if (!ok)
        return mll_fail(err, MLL_ERR_USAGE,
                        "--bad-words: expected a JSON list of texts or of lists of token ids");
    return add_bad_word(r, list, n, err);
}

static enum mll_status parse_bad_words(struct request *r, const char *text,
                                       struct mll_engine *engine, struct mll_error *err)
{
    json_error_t why;
    json_t *list = json_loads(text, 0, &why);
    enum mll_status status = MLL_OK;
    if (!json_is_array(list))
        status = mll_fail(err, MLL_ERR_USAGE, "--bad-words: not a JSON list: %s",
                          list ? "something else" : why.text);
    for (size_t i = 0; status == MLL_OK && i < json_array_size(list); i++)
        status = parse_bad_word(r, json_array_get(list, i), engine, err);
    json_decref(list);
    return status;
}

/* ---- sampling ---- */

/* Greedy unless asked: a temperature above 0, top-k, top-p or min-p mean sampling, temperature 0
 * means greedy whatever else is given. */
static void set_sampling(struct mll_sampling *s, const struct args *args)
{
    if (args_given(args, "temperature"))
        s->temperature = (float)args->temperature;
    if (args_given(args, "top-k"))
        s->top_k = args->top_k;
    if (args_given(args, "top-p"))
        s->top_p = (float)args->top_p;
    if (args_given(args, "min-p"))
        s->min_p = (float)args->min_p;
    if (args_given(args, "repetition-penalty"))
        s->repetition_penalty = (float)args->repetition_penalty;
    if (args_given(args, "no-repeat-ngram-size"))
        s->no_repeat_ngram_size = args->no_repeat_ngram_size;
    if (args_given(args, "num-beams"))
        s->num_beams = args->num_beams;
    if (args_given(args, "min-new-tokens"))
        s->min_new_tokens = args->min_new_tokens;
    if (args_given(args, "max-new-tokens"))
        s->max_new_tokens = args->max_new_tokens;
    s->early_stopping |= args->early_stopping;
    s->seed = args->seed;
    bool hot = args_given(args, "temperature") && args->temperature > 0;
    if (args->do_sample || hot || args_given(args, "top-k") || args_given(args, "top-p") ||
        args_given(args, "min-p"))
        s->do_sample = true;
    if (args_given(args, "temperature") && args->temperature <= 0) {
        s->do_sample = false;
        s->temperature = 1;
    }
}

static enum mll_status build_sampling(struct request *r, const struct args *args,
                                      struct mll_engine *engine, struct mll_error *err)
{
    struct mll_sampling *s = &r->sampling;
    mll_sampling_default(s);
    if (args->use_generation_config && engine)
        mll_sampling_from_model(engine, s);
    set_sampling(s, args);
    if (args->eos) {
        MLL_TRY(request_parse_ids(&r->eos, &s->n_eos, args->eos, "--eos", err));
        s->eos = r->eos;
    }
    if (args->suppress_tokens) {
        MLL_TRY(request_parse_ids(&r->suppress, &s->n_suppress, args->suppress_tokens,
                                  "--suppress-tokens", err));
        s->suppress = r->suppress;
    }
    if (args->logit_bias)
        MLL_TRY(parse_bias(r, args->logit_bias, err));
    if (args->bad_words)
        MLL_TRY(parse_bad_words(r, args->bad_words, engine, err));
    s->stop = args->stop.items;
    s->n_stop = args->stop.n;
    return MLL_OK;
}

/* ---- images and prompt ---- */

/* The next image of the request: from a file, or from bytes of the chat file. */
static enum mll_status add_image(struct request *r, const struct chat_image *source, bool no_exif,
                                 struct mll_error *err)
{
    if (r->n_images == REQUEST_MAX_IMAGES)
        return mll_fail(err, MLL_ERR_USAGE, "more than %d images", REQUEST_MAX_IMAGES);
    const struct img_options how = {.ignore_exif = no_exif};
    struct image *image = &r->images[r->n_images];
    if (source->path)
        MLL_TRY(img_load(image, source->path, &how, err));
    else
        MLL_TRY(
            img_decode(image, source->bytes, source->size, "image in the chat file", &how, err));
    r->pages[r->n_images++] = (struct mll_image){image->rgb, image->w, image->h};
    return MLL_OK;
}

/* The images in the order of the prompt: the chat file's own take their turn among those of
 * --image, what is left over of these comes last. */
static enum mll_status build_images(struct request *r, const struct args *args,
                                    struct mll_error *err)
{
    size_t next = 0;
    for (size_t i = 0; i < r->chat.n_images; i++) {
        struct chat_image source = r->chat.images[i];
        if (!source.path && !source.bytes) {
            if (next == args->images.n)
                return mll_fail(err, MLL_ERR_IMAGE_COUNT,
                                "%s: more image parts than the %zu --image options", args->chat,
                                args->images.n);
            source.path = args->images.items[next++];
        }
        MLL_TRY(add_image(r, &source, args->no_exif, err));
    }
    for (; next < args->images.n; next++) {
        const struct chat_image source = {.path = args->images.items[next]};
        MLL_TRY(add_image(r, &source, args->no_exif, err));
    }
    r->request.images = r->pages;
    r->request.n_images = r->n_images;
    return MLL_OK;
}

enum mll_status request_check(const struct args *args, struct mll_error *err)
{
    int forms = (args->prompt != NULL) + (args->chat != NULL) + (args->ids != NULL);
    if (args->n_operands > 0)
        return mll_fail(err, MLL_ERR_USAGE, "'%.100s': the prompt goes behind -p, images behind -i",
                        args->operands[0]);
    if (forms != 1)
        return mll_fail(err, MLL_ERR_USAGE, "give exactly one of -p TEXT, --chat FILE, --ids IDS");
    if (args->raw && !args->prompt)
        return mll_fail(err, MLL_ERR_USAGE, "--raw needs -p TEXT");
    if (args->add_special_tokens && !args->raw)
        return mll_fail(err, MLL_ERR_USAGE, "--add-special-tokens goes with --raw");
    return MLL_OK;
}

static enum mll_status build_prompt(struct request *r, const struct args *args,
                                    struct mll_error *err)
{
    struct mll_request *q = &r->request;
    if (args->form)
        q->form = strcmp(args->form, "card") == 0 ? MLL_FORM_CARD
                  : strcmp(args->form, "hf") == 0 ? MLL_FORM_HF
                                                  : MLL_FORM_META;
    if (args->ids) {
        MLL_TRY(request_parse_ids(&r->ids, &q->n_ids, args->ids, "--ids", err));
        q->ids = r->ids;
    } else if (args->chat) {
        size_t size;
        MLL_TRY(inp_read((uint8_t **)&r->chat_text, &size, args->chat, MAX_CHAT_BYTES, err));
        MLL_TRY(chat_parse(&r->chat, r->chat_text, size, args->chat, err));
        q->messages = r->chat.messages;
        q->n_messages = r->chat.n_messages;
        q->date_string = r->chat.date_string;
    } else {
        const char *text = args->prompt;
        if (strcmp(text, "-") == 0) {
            MLL_TRY(tool_read_stdin(&r->prompt, err));
            text = r->prompt;
        }
        q->text = args->raw ? NULL : text;
        q->raw = args->raw ? text : NULL;
        q->raw_size = args->raw ? strlen(text) : 0;
        q->add_special_tokens = args->add_special_tokens;
    }
    return MLL_OK;
}

enum mll_status request_build(struct request *request, const struct args *args,
                              struct mll_engine *engine, struct mll_error *err)
{
    *request = (struct request){0};
    MLL_TRY(request_check(args, err));
    MLL_TRY(build_prompt(request, args, err));
    MLL_TRY(build_images(request, args, err));
    MLL_TRY(build_sampling(request, args, engine, err));
    request->request.sampling = &request->sampling;
    return MLL_OK;
}

void request_free(struct request *r)
{
    for (size_t i = 0; i < r->n_images; i++)
        img_free(&r->images[i]);
    chat_free(&r->chat);
    free(r->chat_text);
    free(r->prompt);
    free(r->ids);
    free(r->eos);
    free(r->suppress);
    free(r->bias_ids);
    free(r->bias);
    free(r->bad_words);
    *r = (struct request){0};
}
