/* fields.h - stage 9: the model's answer becomes fields.
 *
 * The answer should be one JSON object; around it, and within, models write all sorts of things.
 * The reader takes the first object of the text, passes over a code fence and prose, and copes with
 * an answer that was cut. It never completes, corrects or invents: a value is the model's text in
 * normal form, or null with the reason as status. */
#ifndef MLL_FIELDS_H
#define MLL_FIELDS_H

#include "normalise.h"

/* What is asked; also the text that models/receipts-tiny was trained with. */
#define FLD_QUESTION                                                                 \
    "Extract the receipt as JSON with store_name, date (YYYY-MM-DD), total_amount, " \
    "payment_method and items (item_name, quantity, price)."

enum fld_status {
    FLD_FOUND = 0,
    FLD_MISSING,     /* no such key, null, or an empty text */
    FLD_MALFORMED,   /* not a date, amount, ... that can be read in one way, or cut */
    FLD_INCONSISTENT /* given twice with two values, or total and items disagree */
};

struct fld_value {
    enum fld_status status;
    char *value; /* normal form; NULL unless found or inconsistent; owned */
    char *raw;   /* as the model wrote it, escapes decoded; NULL where there is nothing; owned */
    /* The probability of the least probable token of the value, 0 to 1; 0 where nothing was read.
     */
    double confidence;
};

enum fld_name { FLD_STORE_NAME = 0, FLD_DATE, FLD_TOTAL_AMOUNT, FLD_PAYMENT_METHOD, FLD_COUNT };
enum fld_part { FLD_ITEM_NAME = 0, FLD_QUANTITY, FLD_PRICE, FLD_PARTS };

struct fld_item {
    struct fld_value part[FLD_PARTS];
};

struct fld_record {
    struct fld_value field[FLD_COUNT];
    struct fld_value items; /* value is always NULL: the list is below */
    struct fld_item *item;  /* (n_items) */
    size_t n_items;
};

/* The tokens behind a text: token i ends at byte text_end[i] of it. n may be 0: no confidences. */
struct fld_tokens {
    const size_t *text_end;
    const float *logprobs;
    size_t n;
};

#define FLD_MAX_ITEMS 1000 /* more are passed over, and the list is malformed */

/* Fills record (to be freed with fld_free, also after a failure). Only memory can fail. */
enum mll_status fld_parse(struct fld_record *record, const char *text, size_t size,
                          const struct fld_tokens *tokens, enum nrm_date_order order,
                          struct mll_error *err);
void fld_free(struct fld_record *record);

const char *fld_name(enum fld_name name);            /* "store_name" */
const char *fld_part_name(enum fld_part part);       /* "item_name" */
const char *fld_status_name(enum fld_status status); /* "found" */

/* The least confidence of the fields that are not missing, items' included; 0 if all are. */
double fld_confidence(const struct fld_record *record);

#endif
