/* run_request.h - the arguments of run and trace as one mll_request. */
#ifndef MLL_RUN_REQUEST_H
#define MLL_RUN_REQUEST_H

#include "image.h"
#include "tool.h"

#define REQUEST_MAX_IMAGES 64

/* Everything the request points at lives here. */
struct request {
    struct mll_request request;
    struct mll_sampling sampling;
    struct image images[REQUEST_MAX_IMAGES];
    struct mll_image pages[REQUEST_MAX_IMAGES];
    size_t n_images;
    char *prompt; /* read from stdin */
    struct chat *chat;
    int32_t *ids, *eos, *suppress, *bias_ids, *bad_words;
    float *bias;
};

/* Does the command line make one prompt? */
enum mll_status request_check(const struct args *args, struct mll_error *err);
/* engine may be NULL where none is open (trace): then strings in --bad-words are refused. To be
 * freed with request_free, also after a failure. */
enum mll_status request_build(struct request *request, const struct args *args,
                              struct mll_engine *engine, struct mll_error *err);
void request_free(struct request *request);

/* "1,2,3" to an owned array; ids are 0 to 2^31 - 1. what names the option in the message. */
enum mll_status request_parse_ids(int32_t **ids, size_t *n, const char *text, const char *what,
                                  struct mll_error *err);

/* A chat file: {messages: [{role, content: text or list of parts}], date_string}. Parts are HF's
 * ({type: text, text}, {type: image}) or OpenAI's ({type: image_url, image_url: {url}}). An image
 * part takes the next --image, or carries its own as a data: URL; nothing is fetched. */
struct chat;
struct chat_image {
    uint8_t *bytes; /* of a data: URL; NULL: the next --image */
    size_t size;
};
enum mll_status chat_read(struct chat **chat, const char *path, struct mll_error *err);
void chat_free(struct chat *chat); /* NULL allowed */
const struct mll_message *chat_messages(const struct chat *chat, size_t *n);
const char *chat_date(const struct chat *chat); /* NULL: none given */
const struct chat_image *chat_images(const struct chat *chat, size_t *n);

#endif
