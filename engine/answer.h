/* answer.h - the text of an answer while it grows: whole UTF-8 only, stop strings, what may be
 * shown already. */
#ifndef MLL_ANSWER_H
#define MLL_ANSWER_H

#include "bpe.h"

struct answer {
    char *text; /* NUL-terminated once something was pushed; owned */
    size_t size, capacity;
    size_t sent;             /* bytes that answer_ready has handed out */
    const char *const *stop; /* (n_stop) borrowed */
    size_t n_stop;
    struct bpe_stream stream;
    bool stopped; /* a stop string was met; the text ends before it */
};

/* Appends one token's bytes. */
enum mll_status answer_push(struct answer *a, const char *bytes, size_t size,
                            struct mll_error *err);
/* Flushes bytes held back as incomplete UTF-8. */
enum mll_status answer_finish(struct answer *a, struct mll_error *err);
/* The next piece that no later token can take back: text before a possible beginning of a stop
 * string; all of it once last is set. */
const char *answer_ready(struct answer *a, size_t *size, bool last);
void answer_free(struct answer *a);

#endif
