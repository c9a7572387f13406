/* batch.c - documents with one model. */
#include "batch.h"

#include <stdlib.h>
#include <string.h>

enum mll_status batch_init(struct batch *batch, const struct args *args, struct mll_error *err)
{
    *batch = (struct batch){.args = args};
    batch->options.question = args->prompt;
    batch->options.max_new_tokens = args->max_new_tokens;
    batch->options.no_exif = args->no_exif;
    if (args->date_order)
        batch->options.date_order =
            strcmp(args->date_order, "dmy") == 0 ? NRM_DATE_DMY : NRM_DATE_MDY;
    if (args->prompt && strcmp(args->prompt, "-") == 0) {
        MLL_TRY(tool_read_stdin(&batch->question, err));
        batch->options.question = batch->question;
    }
    return MLL_OK;
}

static enum mll_status open_model(struct batch *batch, struct mll_error *err)
{
    MLL_TRY(model_open(&batch->opened, batch->args, err));
    batch->is_open = true;
    batch->options.demonstration = batch->opened.model.embedded;
    if (batch->options.demonstration)
        tool_note("reading with the embedded demonstration model: it knows rendered receipts like "
                  "those in models/samples; for real ones name a model with -m");
    return MLL_OK;
}

enum mll_status batch_run(struct batch *batch, struct doc_record *record, const uint8_t *bytes,
                          size_t size, struct mll_error *err)
{
    if (!batch->is_open)
        MLL_TRY(open_model(batch, err));
    signals_watch(batch->opened.session);
    enum mll_status status =
        doc_run(record, batch->opened.session, bytes, size, &batch->options, err);
    signals_watch(NULL);
    if (batch->args->verbose && status == MLL_OK)
        tool_note("%s: %s, %zu + %zu tokens, %.3f s, logits %016llx", record->file,
                  record->failed ? mll_status_name(record->error.code) : "ok", record->n_prompt,
                  record->n_generated, record->seconds, (unsigned long long)record->logits_hash);
    return status;
}

void batch_free(struct batch *batch)
{
    model_close(&batch->opened);
    free(batch->question);
    *batch = (struct batch){0};
}
