/* chat.c - a chat file to messages. Strings stay in the parsed JSON, which lives as long as the
 * chat. */
#include "inputs.h"
#include "run_request.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CHAT_BYTES ((size_t)64 << 20)

struct chat {
    json_t *json;
    struct mll_message *messages; /* (n_messages) */
    struct mll_part *parts;       /* of all messages */
    struct chat_image *images;    /* (n_images) */
    size_t n_messages, n_parts, n_images;
    const char *path; /* for messages; borrowed */
};

static enum mll_status bad(const struct chat *chat, struct mll_error *err, size_t message,
                           const char *what)
{
    return mll_fail(err, MLL_ERR_CHAT, "%s: message %zu: %s", chat->path, message, what);
}

/* ---- data: URLs ---- */

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* data:image/...;base64,XXXX */
static bool decode_url(struct chat_image *image, const char *url)
{
    const char *comma = strchr(url, ',');
    if (strncmp(url, "data:", 5) != 0 || !comma || comma - url < 12 ||
        strncmp(comma - 7, ";base64", 7) != 0)
        return false;
    const char *s = comma + 1;
    image->bytes = malloc(strlen(s) / 4 * 3 + 3);
    uint32_t bits = 0;
    int n_bits = 0;
    for (; image->bytes && *s && *s != '='; s++) {
        int v = base64_value(*s);
        if (v < 0)
            return false;
        bits = bits << 6 | (uint32_t)v;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            image->bytes[image->size++] = (uint8_t)(bits >> n_bits);
        }
    }
    return image->bytes && image->size > 0 && s[strspn(s, "=")] == 0;
}

/* ---- messages ---- */

static bool read_role(enum mll_role *role, const json_t *message)
{
    static const char *const names[] = {"system", "user", "assistant"};
    const char *name = json_string_value(json_object_get(message, "role"));
    for (int i = 0; name && i < 3; i++) {
        if (strcmp(name, names[i]) == 0) {
            *role = (enum mll_role)i;
            return true;
        }
    }
    return false;
}

static void add_text(struct chat *chat, struct mll_message *m, const json_t *text)
{
    chat->parts[chat->n_parts++] =
        (struct mll_part){json_string_value(text), json_string_length(text)};
    m->n_parts++;
}

static enum mll_status read_part(struct chat *chat, struct mll_message *m, const json_t *part,
                                 size_t number, struct mll_error *err)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    const json_t *text = json_object_get(part, "text");
    if (type && strcmp(type, "text") == 0) {
        if (!json_is_string(text))
            return bad(chat, err, number, "a text part without a string \"text\"");
        add_text(chat, m, text);
        return MLL_OK;
    }
    const json_t *source = json_object_get(part, "image_url");
    if (!type || (strcmp(type, "image") != 0 && strcmp(type, "image_url") != 0))
        return bad(chat, err, number, "a part whose type is not text, image or image_url");
    const char *url =
        json_string_value(json_is_object(source) ? json_object_get(source, "url") : source);
    struct chat_image *image = &chat->images[chat->n_images++];
    if (url && !decode_url(image, url))
        return bad(chat, err, number,
                   "an image_url that is no data:...;base64 URL (nothing is fetched: name files "
                   "with --image)");
    chat->parts[chat->n_parts++] = (struct mll_part){NULL, 0};
    m->n_parts++;
    return MLL_OK;
}

static enum mll_status read_message(struct chat *chat, const json_t *message, size_t number,
                                    struct mll_error *err)
{
    struct mll_message *m = &chat->messages[chat->n_messages++];
    *m = (struct mll_message){.parts = chat->parts + chat->n_parts};
    if (!read_role(&m->role, message))
        return bad(chat, err, number, "role is not system, user or assistant");
    const json_t *content = json_object_get(message, "content");
    if (json_is_string(content)) {
        add_text(chat, m, content);
        return MLL_OK;
    }
    if (!json_is_array(content))
        return bad(chat, err, number, "content is neither a text nor a list of parts");
    for (size_t i = 0; i < json_array_size(content); i++)
        MLL_TRY(read_part(chat, m, json_array_get(content, i), number, err));
    return MLL_OK;
}

static enum mll_status read_messages(struct chat *chat, struct mll_error *err)
{
    const json_t *list = json_object_get(chat->json, "messages");
    size_t n = json_array_size(list), n_parts = 0;
    if (n == 0)
        return mll_fail(err, MLL_ERR_CHAT, "%s: no list \"messages\" with at least one message",
                        chat->path);
    for (size_t i = 0; i < n; i++)
        n_parts += 1 + json_array_size(json_object_get(json_array_get(list, i), "content"));
    chat->messages = calloc(n, sizeof *chat->messages);
    chat->parts = calloc(n_parts, sizeof *chat->parts);
    chat->images = calloc(n_parts, sizeof *chat->images);
    if (!chat->messages || !chat->parts || !chat->images)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "%s", chat->path);
    for (size_t i = 0; i < n; i++)
        MLL_TRY(read_message(chat, json_array_get(list, i), i, err));
    return MLL_OK;
}

enum mll_status chat_read(struct chat **chat, const char *path, struct mll_error *err)
{
    uint8_t *bytes;
    size_t size;
    json_error_t why;
    *chat = NULL;
    struct chat *c = calloc(1, sizeof *c);
    if (!c)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "%s", path);
    c->path = path;
    enum mll_status status = inp_read(&bytes, &size, path, MAX_CHAT_BYTES, err);
    if (status == MLL_OK) {
        c->json =
            json_loadb((const char *)bytes, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
        free(bytes);
        if (!c->json)
            status = mll_fail(err, MLL_ERR_CHAT, "%s: line %d: %s", path, why.line, why.text);
    }
    if (status == MLL_OK)
        status = read_messages(c, err);
    if (status != MLL_OK) {
        chat_free(c);
        return status;
    }
    *chat = c;
    return MLL_OK;
}

void chat_free(struct chat *chat)
{
    if (!chat)
        return;
    for (size_t i = 0; i < chat->n_images; i++)
        free(chat->images[i].bytes);
    free(chat->messages);
    free(chat->parts);
    free(chat->images);
    json_decref(chat->json);
    free(chat);
}

const struct mll_message *chat_messages(const struct chat *chat, size_t *n)
{
    *n = chat->n_messages;
    return chat->messages;
}

const char *chat_date(const struct chat *chat)
{
    return json_string_value(json_object_get(chat->json, "date_string"));
}

const struct chat_image *chat_images(const struct chat *chat, size_t *n)
{
    *n = chat->n_images;
    return chat->images;
}
