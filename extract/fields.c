/* fields.c - members of the answer to fields with status and confidence. */
#include "fields.h"

#include "answer_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { KIND_TEXT, KIND_DATE, KIND_AMOUNT, KIND_QUANTITY };

static const char *const field_names[FLD_COUNT] = {"store_name", "date", "total_amount",
                                                   "payment_method"};
static const enum kind field_kinds[FLD_COUNT] = {KIND_TEXT, KIND_DATE, KIND_AMOUNT, KIND_TEXT};
static const char *const part_names[FLD_PARTS] = {"item_name", "quantity", "price"};
static const enum kind part_kinds[FLD_PARTS] = {KIND_TEXT, KIND_QUANTITY, KIND_AMOUNT};

/* What a parse carries around. */
struct context {
    const char *text;
    const struct fld_tokens *tokens;
    enum nrm_date_order order;
    struct mll_error *err;
};

const char *fld_name(enum fld_name name)
{
    return field_names[name];
}

const char *fld_part_name(enum fld_part part)
{
    return part_names[part];
}

const char *fld_status_name(enum fld_status status)
{
    static const char *const names[] = {"found", "missing", "malformed", "inconsistent"};
    return names[status];
}

static double confidence_of(const struct context *c, size_t start, size_t end)
{
    const struct fld_tokens *t = c->tokens;
    double least = 0;
    size_t begin = 0; /* of token i */
    bool any = false;
    for (size_t i = 0; i < t->n; i++) {
        if (t->text_end[i] > start && begin < end) {
            any = true;
            if (t->logprobs[i] < least)
                least = t->logprobs[i];
        }
        begin = t->text_end[i];
    }
    return any && !isnan(least) ? exp(least) : 0;
}

static bool is_null(const struct context *c, const struct ans_value *v)
{
    return v->kind == ANS_BARE && v->end - v->start == 4 &&
           memcmp(c->text + v->start, "null", 4) == 0;
}

/* Normalises raw into value; false where it is malformed. */
static bool normalise(char **value, const char *raw, enum kind kind, enum nrm_date_order order)
{
    char out[NRM_AMOUNT_SIZE];
    bool ok = false;
    switch (kind) {
    case KIND_TEXT:
        *value = strdup(raw);
        if (*value)
            nrm_text(*value);
        return true;
    case KIND_DATE:
        ok = nrm_date(out, raw, order);
        break;
    case KIND_AMOUNT:
        ok = nrm_amount(out, raw);
        break;
    case KIND_QUANTITY:
        ok = nrm_quantity(out, raw);
        break;
    }
    *value = ok ? strdup(out) : NULL;
    return ok;
}

/* One value of the answer as a field. */
static enum mll_status read_field(struct fld_value *field, const struct context *c,
                                  const struct ans_value *v, enum kind kind)
{
    *field = (struct fld_value){.status = FLD_MISSING};
    if (is_null(c, v))
        return MLL_OK;
    field->raw = malloc(v->end - v->start + 1);
    if (!field->raw)
        return mll_fail(c->err, MLL_ERR_NO_MEMORY, "a field of the answer");
    ans_unescape(field->raw, c->text + v->start, v->end - v->start);
    if (v->kind == ANS_STRING && field->raw[strspn(field->raw, " \t\r\n")] == 0 && v->complete)
        return MLL_OK;
    field->status = FLD_MALFORMED;
    /* the closing quote belongs to it: it is where the model decided that the value is whole */
    field->confidence = confidence_of(c, v->start, v->end + (v->kind == ANS_STRING));
    if (!v->complete || v->kind == ANS_OBJECT || v->kind == ANS_ARRAY)
        return MLL_OK;
    if (normalise(&field->value, field->raw, kind, c->order)) {
        if (!field->value)
            return mll_fail(c->err, MLL_ERR_NO_MEMORY, "a field of the answer");
        field->status = FLD_FOUND;
    }
    return MLL_OK;
}

static void free_value(struct fld_value *v)
{
    free(v->value);
    free(v->raw);
    *v = (struct fld_value){.status = FLD_MISSING};
}

/* A key that comes again: the first value stays, and is inconsistent if the second differs. */
static enum mll_status read_again(struct fld_value *field, const struct context *c,
                                  const struct ans_value *v, enum kind kind)
{
    struct fld_value second;
    enum mll_status status = read_field(&second, c, v, kind);
    const char *a = field->value ? field->value : "", *b = second.value ? second.value : "";
    if (status == MLL_OK && strcmp(a, b) != 0 && field->status == FLD_FOUND)
        field->status = FLD_INCONSISTENT;
    free_value(&second);
    return status;
}

static int key_index(const struct context *c, const struct ans_member *m, const char *const *names,
                     int n)
{
    size_t size = m->key_end - m->key_start;
    for (int i = 0; i < n; i++)
        if (strlen(names[i]) == size && memcmp(names[i], c->text + m->key_start, size) == 0)
            return i;
    return -1;
}

/* The members of one object into values by name; seen has a bit for each name that was there. */
static enum mll_status read_members(struct fld_value *values, unsigned *seen,
                                    const struct context *c, struct ans_reader *reader,
                                    const char *const *names, const enum kind *kinds, int n,
                                    struct ans_value *items)
{
    struct ans_member m;
    while (ans_next_member(reader, &m)) {
        int i = key_index(c, &m, names, n);
        if (i >= 0 && *seen & 1u << i) {
            MLL_TRY(read_again(&values[i], c, &m.value, kinds[i]));
        } else if (i >= 0) {
            *seen |= 1u << i;
            MLL_TRY(read_field(&values[i], c, &m.value, kinds[i]));
        } else if (items && items->end == 0 && m.key_end - m.key_start == 5 &&
                   memcmp(c->text + m.key_start, "items", 5) == 0) {
            *items = m.value;
        }
    }
    return MLL_OK;
}

static enum mll_status read_item(struct fld_record *record, const struct context *c,
                                 const struct ans_reader *list, const struct ans_value *element)
{
    /* grown by doubling at powers of two */
    if ((record->n_items & (record->n_items - 1)) == 0) {
        size_t room = record->n_items ? 2 * record->n_items : 1;
        struct fld_item *item = realloc(record->item, room * sizeof *item);
        if (!item)
            return mll_fail(c->err, MLL_ERR_NO_MEMORY, "%zu items", room);
        record->item = item;
    }
    struct fld_item *item = &record->item[record->n_items++];
    for (int i = 0; i < FLD_PARTS; i++)
        item->part[i] = (struct fld_value){.status = FLD_MISSING};
    struct ans_reader reader = ans_enter(list, element);
    unsigned seen = 0;
    return read_members(item->part, &seen, c, &reader, part_names, part_kinds, FLD_PARTS, NULL);
}

static enum mll_status read_items(struct fld_record *record, const struct context *c,
                                  const struct ans_reader *reader, const struct ans_value *v)
{
    struct fld_value *items = &record->items;
    if (v->end == 0 || is_null(c, v))
        return MLL_OK;
    items->confidence = confidence_of(c, v->start, v->end);
    items->status = v->kind == ANS_ARRAY && v->complete ? FLD_FOUND : FLD_MALFORMED;
    items->raw = strndup(c->text + v->start, v->end - v->start);
    if (!items->raw)
        return mll_fail(c->err, MLL_ERR_NO_MEMORY, "items");
    if (v->kind != ANS_ARRAY)
        return MLL_OK;
    struct ans_reader list = ans_enter(reader, v);
    struct ans_value element;
    while (ans_next_element(&list, &element)) {
        if (element.kind != ANS_OBJECT || record->n_items == FLD_MAX_ITEMS) {
            items->status = FLD_MALFORMED;
            continue;
        }
        MLL_TRY(read_item(record, c, &list, &element));
    }
    if (record->n_items == 0 && items->status == FLD_FOUND) {
        items->status = FLD_MISSING;
        items->confidence = 0;
    }
    return MLL_OK;
}

/* The sum of the items' prices, each once or times its quantity, must be the total. Only judged
 * where all of them could be read. */
static void check_sum(struct fld_record *record)
{
    struct fld_value *total = &record->field[FLD_TOTAL_AMOUNT];
    if (total->status != FLD_FOUND || record->items.status != FLD_FOUND)
        return;
    int64_t want = nrm_amount_cents(total->value), lines = 0;
    double units = 0;
    for (size_t i = 0; i < record->n_items; i++) {
        const struct fld_value *part = record->item[i].part;
        if (part[FLD_PRICE].status != FLD_FOUND)
            return;
        int64_t price = nrm_amount_cents(part[FLD_PRICE].value);
        lines += price;
        units +=
            (double)price * (part[FLD_QUANTITY].value ? strtod(part[FLD_QUANTITY].value, NULL) : 1);
    }
    if (lines != want && fabs(units - (double)want) > 0.5)
        total->status = record->items.status = FLD_INCONSISTENT;
}

enum mll_status fld_parse(struct fld_record *record, const char *text, size_t size,
                          const struct fld_tokens *tokens, enum nrm_date_order order,
                          struct mll_error *err)
{
    struct context c = {text, tokens, order, err};
    *record = (struct fld_record){.items = {.status = FLD_MISSING}};
    for (int i = 0; i < FLD_COUNT; i++)
        record->field[i] = (struct fld_value){.status = FLD_MISSING};
    struct ans_reader reader;
    struct ans_value items = {0};
    unsigned seen = 0;
    if (!ans_open(&reader, text, size))
        return MLL_OK;
    MLL_TRY(read_members(record->field, &seen, &c, &reader, field_names, field_kinds, FLD_COUNT,
                         &items));
    MLL_TRY(read_items(record, &c, &reader, &items));
    check_sum(record);
    return MLL_OK;
}

void fld_free(struct fld_record *record)
{
    for (int i = 0; i < FLD_COUNT; i++)
        free_value(&record->field[i]);
    free_value(&record->items);
    for (size_t i = 0; i < record->n_items; i++)
        for (int j = 0; j < FLD_PARTS; j++)
            free_value(&record->item[i].part[j]);
    free(record->item);
    *record = (struct fld_record){0};
}

double fld_confidence(const struct fld_record *record)
{
    double least = 2;
    for (int i = 0; i < FLD_COUNT; i++)
        if (record->field[i].status != FLD_MISSING)
            least = fmin(least, record->field[i].confidence);
    if (record->items.status != FLD_MISSING)
        least = fmin(least, record->items.confidence);
    return least <= 1 ? least : 0;
}
