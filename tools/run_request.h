/* run_request.h - the arguments of run and trace as one mll_request. */
#ifndef MLL_RUN_REQUEST_H
#define MLL_RUN_REQUEST_H

#include "chat.h"
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
    char *chat_text;
    struct chat chat;
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

#endif
