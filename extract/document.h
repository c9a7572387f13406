/* document.h - one document: file in, record out; and the record as a line of JSON.
 *
 *     {"file", "file_b64" (a name that is not UTF-8), "sha256", "status": "ok" | "failed",
 *      "error": {code, message} | null, "warning" (where there is one),
 *      "fields": {NAME: {value, raw, status, confidence}}, "text", "tokens": {prompt, generated},
 *      "seconds", "logits_hash"}
 * The value of `items` is a list of objects {item_name, quantity, price}, each of them such a
 * field. */
#ifndef MLL_DOCUMENT_H
#define MLL_DOCUMENT_H

#include "fields.h"
#include "jsonout.h"
#include "mllama.h"

#define DOC_MAX_BYTES ((size_t)256 << 20) /* of an image file */
/* Below this the least certain field makes the record carry a warning. On rendered receipts of the
 * kind the embedded model was trained on, docs/EXTRACT.md shows what lies above and below. */
#define DOC_LOW_CONFIDENCE 0.9

struct doc_options {
    const char *question; /* NULL: FLD_QUESTION */
    int max_new_tokens;   /* 0: 512 */
    enum nrm_date_order date_order;
    bool no_exif;
    bool demonstration; /* the embedded model: every record says so */
};

struct doc_record {
    const char *file; /* as given; borrowed */
    char sha256[65];  /* "" where the file could not be read */
    bool failed;
    struct mll_error error; /* if failed */
    char warning[256];      /* "" for none */
    struct fld_record fields;
    char *text; /* the whole answer; owned, NULL if failed */
    size_t text_size, n_prompt, n_generated;
    double seconds;
    uint64_t logits_hash;
};

/* Reads the file and its hash into *bytes (owned by the caller), before it is decided whether the
 * document is to be run. What is wrong with the file goes into the record. */
enum mll_status doc_load(struct doc_record *record, uint8_t **bytes, size_t *size, const char *path,
                         struct mll_error *err);
/* Decodes and runs a loaded document. What is wrong with this document goes into the record; an
 * error is returned only for what would stop the next one too (memory, device, cancelled). */
enum mll_status doc_run(struct doc_record *record, struct mll_session *session,
                        const uint8_t *bytes, size_t size, const struct doc_options *options,
                        struct mll_error *err);
void doc_free(struct doc_record *record);

/* Appends the record as one line. */
void doc_write(struct jw *w, const struct doc_record *record);

#endif
