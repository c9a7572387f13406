/* batch.h - what extract and eval share: the options of documents and a model that is opened when
 * the first document needs it (so that continuing a finished run costs nothing). */
#ifndef MLL_BATCH_H
#define MLL_BATCH_H

#include "document.h"
#include "tool.h"

struct batch {
    const struct args *args;
    struct doc_options options;
    struct opened opened;
    bool is_open;
    char *question; /* read from stdin; owned */
};

enum mll_status batch_init(struct batch *batch, const struct args *args, struct mll_error *err);
/* doc_run with the model of the batch, watched by the signal handler. */
enum mll_status batch_run(struct batch *batch, struct doc_record *record, const uint8_t *bytes,
                          size_t size, struct mll_error *err);
void batch_free(struct batch *batch);

#endif
