/* chat.h - a conversation in JSON, as HF's and OpenAI's interfaces write it, to messages and
 * images.
 *
 *     {"messages": [{"role": "user", "content": "text" or [part, ...]}, ...], "date_string": "..."}
 * Parts: {"type": "text", "text": ...}, {"type": "image"} (the next of the images that the caller
 * has), {"type": "image", "path" | "url" | "image": ...} and {"type": "image_url", "image_url": URL
 * or {"url": URL}}, where the last three name a file or hold it (data:...;base64,...). Roles:
 * system, user, assistant. Anything else is refused with its place; nothing is fetched. */
#ifndef MLL_CHAT_H
#define MLL_CHAT_H

#include "mllama.h"

/* An image in the order of the messages: the caller's next one where path and bytes are NULL. */
struct chat_image {
    const char *path;
    unsigned char *bytes; /* of an encoded file */
    size_t size;
};

struct chat {
    struct mll_message *messages;
    size_t n_messages;
    struct chat_image *images;
    size_t n_images;
    const char *date_string; /* NULL: not given */
    struct mll_part *parts;  /* of all messages */
    void *json;              /* holds the texts */
};

/* name is used in messages only. MLL_ERR_CHAT: the message says where and what. On failure chat is
 * empty. */
enum mll_status chat_parse(struct chat *chat, const char *text, size_t size, const char *name,
                           struct mll_error *err);
void chat_free(struct chat *chat); /* an empty one is allowed */

#endif
