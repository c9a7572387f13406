/* document.c - one document through the engine. */
#include "document.h"

#include "image.h"
#include "inputs.h"
#include "sha256.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Would the next document fail as well? */
static bool is_fatal(enum mll_status status)
{
    return status == MLL_ERR_NO_MEMORY || status == MLL_ERR_INTERNAL || status == MLL_ERR_DEVICE ||
           status == MLL_ERR_CANCELLED;
}

/* Notes a failure of this document; passes on one of the whole run. */
static enum mll_status note_failure(struct doc_record *record, const struct mll_error *why,
                                    struct mll_error *err)
{
    record->failed = true;
    record->error = *why;
    return is_fatal(why->code) ? mll_fail(err, why->code, "%s", why->message) : MLL_OK;
}

enum mll_status doc_load(struct doc_record *record, uint8_t **bytes, size_t *size, const char *path,
                         struct mll_error *err)
{
    struct mll_error why;
    *record = (struct doc_record){.file = path};
    *bytes = NULL;
    *size = 0;
    if (inp_read(bytes, size, path, DOC_MAX_BYTES, &why) != MLL_OK)
        return note_failure(record, &why, err);
    sha256_hex(record->sha256, *bytes, *size);
    return MLL_OK;
}

/* Puts the parts of a warning together: the model, a cut answer, a doubtful reading. */
static void warn(struct doc_record *record, const struct mll_result *result,
                 const struct doc_options *options)
{
    double least = fld_confidence(&record->fields);
    char cut[64] = "", doubt[96] = "";
    if (result->finish == MLL_FINISH_LENGTH)
        snprintf(cut, sizeof cut, "; the answer was cut after %zu tokens", result->n);
    if (least <= 0)
        snprintf(doubt, sizeof doubt,
                 "; nothing was read: the page is unlike what the model knows");
    else if (least < DOC_LOW_CONFIDENCE)
        snprintf(doubt, sizeof doubt, "; low confidence (%.2f): check it against the page", least);
    snprintf(record->warning, sizeof record->warning, "%s%s%s",
             options->demonstration ? "; read by the embedded demonstration model" : "", cut,
             doubt);
    if (record->warning[0]) /* without the first "; " */
        memmove(record->warning, record->warning + 2, strlen(record->warning) - 1);
}

static enum mll_status keep_result(struct doc_record *record, const struct mll_result *result,
                                   const struct doc_options *options, struct mll_error *err)
{
    record->text = malloc(result->text_size + 1);
    if (!record->text)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "the answer's %zu bytes", result->text_size);
    memcpy(record->text, result->text, result->text_size);
    record->text[result->text_size] = 0;
    record->text_size = result->text_size;
    record->n_prompt = result->n_prompt;
    record->n_generated = result->n;
    record->logits_hash = result->logits_hash;
    const struct fld_tokens tokens = {result->text_end, result->logprobs, result->n};
    MLL_TRY(fld_parse(&record->fields, record->text, record->text_size, &tokens,
                      options->date_order, err));
    warn(record, result, options);
    return MLL_OK;
}

enum mll_status doc_run(struct doc_record *record, struct mll_session *session,
                        const uint8_t *bytes, size_t size, const struct doc_options *options,
                        struct mll_error *err)
{
    double start = now();
    struct mll_error why;
    struct image image = {0};
    const struct img_options how = {.ignore_exif = options->no_exif};
    enum mll_status status = img_decode(&image, bytes, size, record->file, &how, &why);
    if (status == MLL_OK) {
        struct mll_sampling sampling;
        mll_sampling_default(&sampling);
        if (options->max_new_tokens > 0)
            sampling.max_new_tokens = options->max_new_tokens;
        const struct mll_image page = {image.rgb, image.w, image.h};
        const struct mll_request request = {.images = &page,
                                            .n_images = 1,
                                            .text = options->question ? options->question
                                                                      : FLD_QUESTION,
                                            .sampling = &sampling};
        const struct mll_result *result;
        status = mll_session_run(session, &request, &result, &why);
        if (status == MLL_OK && result->finish == MLL_FINISH_CANCELLED)
            status = mll_fail(&why, MLL_ERR_CANCELLED, "%s: cancelled", record->file);
        if (status == MLL_OK)
            status = keep_result(record, result, options, &why);
    }
    img_free(&image);
    record->seconds = now() - start;
    return status == MLL_OK ? MLL_OK : note_failure(record, &why, err);
}

void doc_free(struct doc_record *record)
{
    fld_free(&record->fields);
    free(record->text);
    *record = (struct doc_record){0};
}

/* ---- JSON ---- */

/* The members that every field ends with. */
static void write_rest(struct jw *w, const struct fld_value *v)
{
    jw_string(w, "raw", v->raw);
    jw_string(w, "status", fld_status_name(v->status));
    jw_real(w, "confidence", v->confidence, 4);
}

static void write_value(struct jw *w, const char *name, const struct fld_value *v)
{
    jw_object(w, name);
    jw_string(w, "value", v->value);
    write_rest(w, v);
    jw_end(w, '}');
}

static void write_fields(struct jw *w, const struct fld_record *fields)
{
    for (int i = 0; i < FLD_COUNT; i++)
        write_value(w, fld_name((enum fld_name)i), &fields->field[i]);
    jw_object(w, "items");
    if (fields->items.status == FLD_MISSING) {
        jw_null(w, "value");
    } else {
        jw_array(w, "value");
        for (size_t i = 0; i < fields->n_items; i++) {
            jw_object(w, NULL);
            for (int j = 0; j < FLD_PARTS; j++)
                write_value(w, fld_part_name((enum fld_part)j), &fields->item[i].part[j]);
            jw_end(w, '}');
        }
        jw_end(w, ']');
    }
    write_rest(w, &fields->items);
    jw_end(w, '}');
}

void doc_write(struct jw *w, const struct doc_record *r)
{
    jw_object(w, NULL);
    jw_string(w, "file", r->file);
    if (!jw_is_utf8(r->file))
        jw_base64(w, "file_b64", r->file, strlen(r->file));
    jw_string(w, "sha256", r->sha256[0] ? r->sha256 : NULL);
    jw_string(w, "status", r->failed ? "failed" : "ok");
    if (r->failed) {
        jw_object(w, "error");
        jw_string(w, "code", mll_status_name(r->error.code));
        jw_string(w, "message", r->error.message);
        jw_end(w, '}');
    } else {
        jw_null(w, "error");
    }
    if (r->warning[0])
        jw_string(w, "warning", r->warning);
    jw_object(w, "fields");
    if (!r->failed)
        write_fields(w, &r->fields);
    jw_end(w, '}');
    if (r->text)
        jw_string_n(w, "text", r->text, r->text_size);
    else
        jw_null(w, "text");
    jw_object(w, "tokens");
    jw_int(w, "prompt", (int64_t)r->n_prompt);
    jw_int(w, "generated", (int64_t)r->n_generated);
    jw_end(w, '}');
    jw_real(w, "seconds", r->seconds, 3);
    if (r->failed)
        jw_null(w, "logits_hash");
    else
        jw_hash(w, "logits_hash", r->logits_hash);
    jw_end(w, '}');
    jw_newline(w);
}
