#include "prompt.h"

#include "json_read.h"
#include "unicode_class.h"
#include "utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_TEMPLATE_FILE (1 << 20)

enum template_kind {
    TEMPLATE_NONE = 0,
    TEMPLATE_LLAMA, /* a system block with dates, unless there are images and no system message */
    TEMPLATE_PLAIN, /* the messages and nothing else */
};

struct prompt {
    const struct bpe *bpe;
    enum template_kind kind;
    int32_t bos, image, start_header, end_header, eot; /* -1: the tokenizer has none */
};

/* ---- which template a model has ---- */

/* FNV-1a over the template's text without a last line end. */
static uint64_t hash_template(const char *text, size_t size)
{
    uint64_t hash = 0xCBF29CE484222325u;
    if (size > 0 && text[size - 1] == '\n')
        size--;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (uint8_t)text[i]) * 0x100000001B3u;
    return hash;
}

static enum template_kind classify(const char *text, size_t size, const char *path,
                                   struct prompt_log log)
{
    static const struct {
        uint64_t hash;
        enum template_kind kind;
    } known[] = {
        {0x5c6c7a0403dd1903u, TEMPLATE_LLAMA}, /* Llama-3.2-11B-Vision-Instruct and 90B */
        {0xaaf7592d63890662u, TEMPLATE_PLAIN}, /* models/receipts-tiny */
    };
    uint64_t hash = hash_template(text, size);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].hash == hash)
            return known[i].kind;
    if (log.line) {
        char line[512];
        snprintf(line, sizeof line,
                 "%s: unknown chat template (%016llx); prompts are written as Llama-3.2-Vision's",
                 path, (unsigned long long)hash);
        log.line(log.user, line);
    }
    return TEMPLATE_LLAMA;
}

/* A file's bytes; *bytes stays NULL where there is no such file. */
static enum mll_status read_optional(char **bytes, size_t *size, const char *path,
                                     struct mll_error *err)
{
    struct stat st;
    *bytes = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return MLL_OK;
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size > MAX_TEMPLATE_FILE) {
        if (fd >= 0)
            close(fd);
        return mll_fail(err, MLL_ERR_IO, "%s: not a readable file of at most %d bytes", path,
                        MAX_TEMPLATE_FILE);
    }
    char *data = malloc((size_t)st.st_size + 1);
    ssize_t n = data ? read(fd, data, (size_t)st.st_size) : -1;
    close(fd);
    if (n != st.st_size) {
        free(data);
        return mll_fail(err, MLL_ERR_IO, "%s: cannot be read", path);
    }
    *bytes = data;
    *size = (size_t)n;
    return MLL_OK;
}

/* The template under "chat_template": a string, or of a list of named ones the default. */
static void classify_json(enum template_kind *kind, const json_t *root, const char *path,
                          struct prompt_log log)
{
    const json_t *value = json_object_get(root, "chat_template");
    for (size_t i = 0; json_is_array(value) && i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0) {
            value = json_object_get(entry, "template");
            break;
        }
    }
    if (json_is_string(value))
        *kind = classify(json_string_value(value), json_string_length(value), path, log);
}

static enum mll_status find_template(enum template_kind *kind, const char *dir,
                                     struct prompt_log log, struct mll_error *err)
{
    static const char *const json_names[] = {"chat_template.json", "tokenizer_config.json"};
    char path[4096], *text;
    size_t size = 0;
    *kind = TEMPLATE_NONE;
    if (snprintf(path, sizeof path, "%s/chat_template.jinja", dir) >= (int)sizeof path)
        return mll_fail(err, MLL_ERR_IO, "the path of the model is too long");
    MLL_TRY(read_optional(&text, &size, path, err));
    if (text)
        *kind = classify(text, size, path, log);
    free(text);
    for (int i = 0; i < 2 && *kind == TEMPLATE_NONE; i++) {
        struct defects defects = {0};
        json_t *root = jr_load(dir, json_names[i], false, &defects);
        MLL_TRY(defects_result(&defects, err));
        classify_json(kind, root, json_names[i], log);
        json_decref(root);
    }
    return MLL_OK;
}

enum mll_status prompt_open(struct prompt **prompt, const char *dir, const struct bpe *bpe,
                            int image_token, struct prompt_log log, struct mll_error *err)
{
    struct prompt p = {.bpe = bpe,
                       .bos = bpe_special_id(bpe, "<|begin_of_text|>"),
                       .image = bpe_special_id(bpe, "<|image|>"),
                       .start_header = bpe_special_id(bpe, "<|start_header_id|>"),
                       .end_header = bpe_special_id(bpe, "<|end_header_id|>"),
                       .eot = bpe_special_id(bpe, "<|eot_id|>")};
    if (image_token >= 0 && p.image != image_token)
        return mll_fail(err, MLL_ERR_IMAGE_TOKEN_TOKENIZER,
                        "%s: the image token is %d in config.json, the tokenizer's <|image|> is %d",
                        dir, image_token, p.image);
    MLL_TRY(find_template(&p.kind, dir, log, err));
    if (p.bos < 0 ||
        (p.kind != TEMPLATE_NONE && (p.start_header < 0 || p.end_header < 0 || p.eot < 0)))
        return mll_fail(err, MLL_ERR_TOKENIZER_ADDED,
                        "%s: the tokenizer lacks one of <|begin_of_text|>, <|start_header_id|>, "
                        "<|end_header_id|>, <|eot_id|>",
                        dir);
    *prompt = malloc(sizeof **prompt);
    if (!*prompt)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for the prompt's settings");
    **prompt = p;
    return MLL_OK;
}

void prompt_close(struct prompt *prompt)
{
    free(prompt);
}

bool prompt_has_template(const struct prompt *prompt)
{
    return prompt->kind != TEMPLATE_NONE;
}

/* ---- writing ---- */

/* Ids so far, and the ordinary text since the last special token. The first failure stays. */
struct writer {
    const struct prompt *prompt;
    struct bpe_ids *ids;
    char *text;
    size_t size, capacity;
    enum mll_status status;
    struct mll_error *err;
};

static void put_text(struct writer *w, const char *text, size_t size)
{
    if (w->status != MLL_OK || size == 0)
        return;
    if (size > w->capacity - w->size) {
        size_t capacity = 2 * w->capacity + size + 256;
        char *grown = realloc(w->text, capacity);
        if (!grown) {
            w->status = mll_fail(w->err, MLL_ERR_NO_MEMORY, "no memory for a prompt's text");
            return;
        }
        w->text = grown;
        w->capacity = capacity;
    }
    memcpy(w->text + w->size, text, size);
    w->size += size;
}

static void put_string(struct writer *w, const char *text)
{
    put_text(w, text, strlen(text));
}

static void put_special(struct writer *w, int32_t id)
{
    if (w->status == MLL_OK && w->size > 0)
        w->status = bpe_encode(w->prompt->bpe, w->ids, w->text, w->size, false, w->err);
    w->size = 0;
    if (w->status == MLL_OK && id >= 0)
        w->status = bpe_append(w->ids, id, w->err);
}

/* Encodes the text that is left and hands over the status. */
static enum mll_status finish(struct writer *w)
{
    put_special(w, -1);
    free(w->text);
    return w->status;
}

static void put_header(struct writer *w, const char *role)
{
    put_special(w, w->prompt->start_header);
    put_string(w, role);
    put_special(w, w->prompt->end_header);
    put_string(w, "\n\n");
}

static void put_parts(struct writer *w, const struct mll_message *message)
{
    for (size_t i = 0; i < message->n_parts; i++) {
        if (message->parts[i].text)
            put_text(w, message->parts[i].text, message->parts[i].size);
        else
            put_special(w, w->prompt->image);
    }
}

/* ---- the template ---- */

/* What Python's str.strip takes away: \s and the four separators U+001C to U+001F. */
static bool is_strip_space(const char *text, struct utf8_part part)
{
    if (part.size != part.need)
        return false;
    uint32_t scalar = utf8_scalar((const uint8_t *)text, part);
    return uni_class_of(scalar) == UNI_SPACE || (scalar >= 0x1C && scalar <= 0x1F);
}

static void strip(const char **text, size_t *size)
{
    const char *s = *text;
    size_t start = 0, end = 0;
    for (size_t i = 0; i < *size;) {
        struct utf8_part part = utf8_read((const uint8_t *)s + i, *size - i);
        bool space = is_strip_space(s + i, part);
        i += part.size;
        if (space && end == 0)
            start = i;
        else if (!space)
            end = i;
    }
    *text = s + start;
    *size = end > start ? end - start : 0;
}

/* The system block of the Llama template; message is NULL where there is no system message. */
static void put_system_block(struct writer *w, const struct mll_message *message, const char *date)
{
    put_header(w, "system");
    put_string(w, "Cutting Knowledge Date: December 2023\nToday Date: ");
    put_string(w, date ? date : PROMPT_DEFAULT_DATE);
    put_string(w, "\n\n");
    size_t start = w->size;
    if (message)
        put_parts(w, message);
    if (w->status == MLL_OK && w->size > start) {
        const char *text = w->text + start;
        size_t size = w->size - start;
        strip(&text, &size);
        memmove(w->text + start, text, size);
        w->size = start + size;
    }
    put_special(w, w->prompt->eot);
}

static enum mll_status check_messages(const struct mll_message *messages, size_t n, bool *images,
                                      struct mll_error *err)
{
    *images = false;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < messages[i].n_parts; k++) {
            bool image = !messages[i].parts[k].text;
            if (image && i == 0 && messages[i].role == MLL_ROLE_SYSTEM)
                return mll_fail(err, MLL_ERR_CHAT, "messages[0]: an image in the system message");
            *images |= image;
        }
    }
    return MLL_OK;
}

static enum mll_status build_chat(const struct prompt *p, struct bpe_ids *ids,
                                  const struct mll_message *messages, size_t n, const char *date,
                                  struct mll_error *err)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    struct writer w = {.prompt = p, .ids = ids, .err = err};
    bool images;
    if (p->kind == TEMPLATE_NONE)
        return mll_fail(err, MLL_ERR_CHAT,
                        "the model has no chat template: give one text, a raw prompt or ids");
    MLL_TRY(check_messages(messages, n, &images, err));
    put_special(&w, p->bos);
    bool system = messages[0].role == MLL_ROLE_SYSTEM;
    size_t first = 0;
    if (p->kind == TEMPLATE_LLAMA && (system || !images)) {
        put_system_block(&w, system ? &messages[0] : NULL, date);
        first = system;
    }
    for (size_t i = first; i < n; i++) {
        put_header(&w, roles[messages[i].role]);
        put_parts(&w, &messages[i]);
        put_special(&w, p->eot);
    }
    put_header(&w, roles[MLL_ROLE_ASSISTANT]);
    return finish(&w);
}

/* ---- the other forms of a request ---- */

/* One user message: the images, then the text. */
static enum mll_status build_question(const struct prompt *p, struct bpe_ids *ids,
                                      const struct mll_request *request, struct mll_error *err)
{
    size_t n = request->n_images;
    struct mll_part *parts = calloc(n + 1, sizeof *parts);
    if (!parts)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a prompt with %zu images", n);
    parts[n] = (struct mll_part){request->text, strlen(request->text)};
    struct mll_message message = {MLL_ROLE_USER, parts, n + 1};
    enum mll_status status = build_chat(p, ids, &message, 1, request->date_string, err);
    free(parts);
    return status;
}

/* What a model without template continues: Meta's own form, the model card's, or what HF's
 * processor makes of the model card's text without its BOS. */
static enum mll_status build_completion(const struct prompt *p, struct bpe_ids *ids,
                                        const struct mll_request *request, struct mll_error *err)
{
    struct writer w = {.prompt = p, .ids = ids, .err = err};
    if (request->form != MLL_FORM_CARD)
        put_special(&w, p->bos);
    for (size_t i = 0; i < request->n_images; i++)
        put_special(&w, p->image);
    if (request->form != MLL_FORM_META)
        put_special(&w, p->bos);
    put_string(&w, request->text);
    return finish(&w);
}

static enum mll_status build_raw(const struct prompt *p, struct bpe_ids *ids,
                                 const struct mll_request *request, struct mll_error *err)
{
    MLL_TRY(bpe_encode(p->bpe, ids, request->raw, request->raw_size, true, err));
    return request->add_special_tokens ? bpe_add_post_processor(p->bpe, ids, err) : MLL_OK;
}

enum mll_status prompt_build(const struct prompt *p, struct bpe_ids *ids,
                             const struct mll_request *request, struct mll_error *err)
{
    size_t start = ids->n, images = 0;
    if (request->raw)
        MLL_TRY(build_raw(p, ids, request, err));
    else if (request->n_messages > 0)
        MLL_TRY(
            build_chat(p, ids, request->messages, request->n_messages, request->date_string, err));
    else if (!request->text)
        return mll_fail(err, MLL_ERR_CHAT, "the request has no text, messages or raw prompt");
    else if (p->kind != TEMPLATE_NONE)
        MLL_TRY(build_question(p, ids, request, err));
    else
        MLL_TRY(build_completion(p, ids, request, err));
    for (size_t i = start; i < ids->n; i++)
        images += ids->data[i] == p->image;
    if (images != request->n_images)
        return mll_fail(err, MLL_ERR_IMAGE_COUNT,
                        "the prompt has %zu image tokens, the request %zu images", images,
                        request->n_images);
    return MLL_OK;
}
