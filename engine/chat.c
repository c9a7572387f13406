#include "chat.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Where the reader is, for messages. */
struct place {
    const char *file;
    size_t message, part;
    struct mll_error *err;
};

static enum mll_status refuse(const struct place *p, const char *fmt, ...) MLL_PRINTF(2, 3);

static enum mll_status refuse(const struct place *p, const char *fmt, ...)
{
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    if (p->part == SIZE_MAX)
        return mll_fail(p->err, MLL_ERR_CHAT, "%s: messages[%zu]: %s", p->file, p->message, what);
    return mll_fail(p->err, MLL_ERR_CHAT, "%s: messages[%zu].content[%zu]: %s", p->file, p->message,
                    p->part, what);
}

/* Takes one more image; bytes is owned by chat from here on. */
static void add_image(struct chat *chat, const char *path, unsigned char *bytes, size_t size)
{
    chat->images[chat->n_images++] = (struct chat_image){path, bytes, size};
}

/* data:[type][;parameter];base64,... */
static enum mll_status add_data_url(struct chat *chat, const char *url, const struct place *p)
{
    static const char marker[] = ";base64,";
    const char *comma = strchr(url, ',');
    size_t width = sizeof marker - 1;
    if (!comma || (size_t)(comma + 1 - url) < width ||
        memcmp(comma + 1 - width, marker, width) != 0)
        return refuse(p, "a data: URL without ';base64,'");
    const char *text = comma + 1;
    size_t size = strlen(text);
    unsigned char *bytes = malloc(size / 4 * 3 + 1);
    if (!bytes)
        return mll_fail(p->err, MLL_ERR_NO_MEMORY, "no memory for an image of %zu bytes", size);
    size_t n = mll_decode_base64(bytes, text, size);
    if (n == SIZE_MAX || n == 0) {
        free(bytes);
        return refuse(p, "a data: URL whose base64 is %s", n == 0 ? "empty" : "malformed");
    }
    add_image(chat, NULL, bytes, n);
    return MLL_OK;
}

/* A file's path or a data: URL; every other scheme would need a network. */
static enum mll_status add_image_from(struct chat *chat, const json_t *source,
                                      const struct place *p)
{
    const char *text = json_string_value(source);
    if (!text || !*text || strlen(text) != json_string_length(source))
        return refuse(p, "the image's source is not a string, or is empty");
    if (strncasecmp(text, "data:", 5) == 0)
        return add_data_url(chat, text, p);
    if (strstr(text, "://"))
        return refuse(p, "'%.80s': only files and data: URLs are read, nothing is fetched", text);
    add_image(chat, text, NULL, 0);
    return MLL_OK;
}

static enum mll_status read_image(struct chat *chat, const json_t *part, const struct place *p)
{
    static const char *const keys[] = {"path", "url", "image"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *source = json_object_get(part, keys[i]);
        if (source)
            return add_image_from(chat, source, p);
    }
    add_image(chat, NULL, NULL, 0);
    return MLL_OK;
}

static enum mll_status read_part(struct chat *chat, struct mll_part *out, const json_t *part,
                                 const struct place *p)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    *out = (struct mll_part){0};
    if (!type)
        return refuse(p, "a part is an object with a string 'type'");
    if (strcmp(type, "image") == 0)
        return read_image(chat, part, p);
    if (strcmp(type, "image_url") == 0) {
        const json_t *url = json_object_get(part, "image_url");
        return add_image_from(chat, json_is_object(url) ? json_object_get(url, "url") : url, p);
    }
    if (strcmp(type, "text") != 0)
        return refuse(p, "type '%.40s': expected text, image or image_url", type);
    const json_t *text = json_object_get(part, "text");
    if (!json_is_string(text))
        return refuse(p, "a text part has no string 'text'");
    *out = (struct mll_part){json_string_value(text), json_string_length(text)};
    return MLL_OK;
}

static enum mll_status read_role(enum mll_role *role, const json_t *message, const struct place *p)
{
    static const char *const roles[] = {
        [MLL_ROLE_SYSTEM] = "system", [MLL_ROLE_USER] = "user", [MLL_ROLE_ASSISTANT] = "assistant"};
    const char *name = json_string_value(json_object_get(message, "role"));
    if (!name)
        return refuse(p, "a message is an object with a string 'role'");
    if (json_object_get(message, "tool_calls"))
        return refuse(p, "tool calls are not supported");
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(name, roles[i]) == 0) {
            *role = (enum mll_role)i;
            return MLL_OK;
        }
    }
    return refuse(p, "role '%.40s': expected system, user or assistant", name);
}

/* parts has room for the message's. */
static enum mll_status read_message(struct chat *chat, struct mll_message *out,
                                    struct mll_part *parts, const json_t *message, struct place p)
{
    const json_t *content = json_object_get(message, "content");
    *out = (struct mll_message){.parts = parts, .n_parts = 1};
    MLL_TRY(read_role(&out->role, message, &p));
    if (json_is_string(content)) {
        parts[0] = (struct mll_part){json_string_value(content), json_string_length(content)};
        return MLL_OK;
    }
    if (!json_is_array(content))
        return refuse(&p, "'content' is neither a string nor a list of parts");
    out->n_parts = json_array_size(content);
    for (p.part = 0; p.part < out->n_parts; p.part++)
        MLL_TRY(read_part(chat, &parts[p.part], json_array_get(content, p.part), &p));
    return MLL_OK;
}

static enum mll_status read_messages(struct chat *chat, const json_t *messages, struct place p)
{
    size_t n = json_array_size(messages), n_parts = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *content = json_object_get(json_array_get(messages, i), "content");
        n_parts += json_is_array(content) ? json_array_size(content) : 1;
    }
    chat->messages = calloc(n, sizeof *chat->messages);
    chat->parts = calloc(n_parts + 1, sizeof *chat->parts);
    chat->images = calloc(n_parts + 1, sizeof *chat->images);
    if (!chat->messages || !chat->parts || !chat->images)
        return mll_fail(p.err, MLL_ERR_NO_MEMORY, "%s: no memory for %zu messages", p.file, n);
    struct mll_part *parts = chat->parts;
    for (p.message = 0; p.message < n; p.message++) {
        struct mll_message *message = &chat->messages[p.message];
        MLL_TRY(read_message(chat, message, parts, json_array_get(messages, p.message), p));
        parts += message->n_parts;
    }
    chat->n_messages = n;
    return MLL_OK;
}

static enum mll_status read_chat(struct chat *chat, const char *name, struct mll_error *err)
{
    const json_t *messages = json_object_get(chat->json, "messages");
    const json_t *date = json_object_get(chat->json, "date_string");
    if (json_array_size(messages) == 0)
        return mll_fail(err, MLL_ERR_CHAT,
                        "%s: expected an object with a list 'messages', not empty", name);
    if (date && !json_is_null(date) && !json_is_string(date))
        return mll_fail(err, MLL_ERR_CHAT, "%s: 'date_string' is not a string", name);
    chat->date_string = json_string_value(date);
    return read_messages(chat, messages,
                         (struct place){.file = name, .part = SIZE_MAX, .err = err});
}

enum mll_status chat_parse(struct chat *chat, const char *text, size_t size, const char *name,
                           struct mll_error *err)
{
    json_error_t parse;
    *chat = (struct chat){0};
    chat->json = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &parse);
    if (!chat->json && json_error_code(&parse) == json_error_out_of_memory)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "%s: no memory to read %zu bytes", name, size);
    if (!chat->json)
        return mll_fail(err, MLL_ERR_CHAT, "%s: line %d, column %d: not JSON", name, parse.line,
                        parse.column);
    enum mll_status status = read_chat(chat, name, err);
    if (status != MLL_OK)
        chat_free(chat);
    return status;
}

void chat_free(struct chat *chat)
{
    for (size_t i = 0; i < chat->n_images; i++)
        free(chat->images[i].bytes);
    free(chat->images);
    free(chat->messages);
    free(chat->parts);
    json_decref(chat->json);
    *chat = (struct chat){0};
}
