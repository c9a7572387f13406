/* cmd_eval.c - mllama eval TRUTH.jsonl: documents with known answers through extract, and the share
 * of each field that came out exact, as one flat JSON object.
 *
 * A line of truth is {"file" (relative to the file of truth), "fields": {store_name, date,
 * total_amount, payment_method, items: [{item_name, quantity, price}]}, "listed"}. A store that is
 * not listed counts as store_name_unseen; a field that is null in truth counts as missing_is_null.
 */
#include "batch.h"
#include "inputs.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum tally_name {
    TALLY_STORE = 0, /* in the order of enum fld_name */
    TALLY_DATE,
    TALLY_TOTAL,
    TALLY_PAYMENT,
    TALLY_UNSEEN,
    TALLY_ITEMS,
    TALLY_ITEM_NAME, /* in the order of enum fld_part */
    TALLY_QUANTITY,
    TALLY_PRICE,
    TALLY_MISSING,
    TALLY_DOCUMENT,
    TALLY_COUNT
};
static const char *const tally_names[TALLY_COUNT] = {
    "store_name", "date",     "total_amount", "payment_method",  "store_name_unseen", "items",
    "item_name",  "quantity", "price",        "missing_is_null", "whole_document"};

struct tally {
    size_t hits, n;
};

static bool count(struct tally *t, bool hit)
{
    t->hits += hit;
    t->n++;
    return hit;
}

static bool equals(const struct fld_value *value, const json_t *truth)
{
    const char *want = json_string_value(truth);
    return want ? value->value && strcmp(value->value, want) == 0 : value->value == NULL;
}

/* The items that truth has are compared one by one, in order; the list as a whole is exact if none
 * is wrong and none too many. */
static bool compare_items(struct tally *t, const struct fld_record *got, const json_t *truth)
{
    static const struct fld_item nothing;
    size_t n = json_array_size(truth);
    bool exact = got->n_items == n;
    for (size_t i = 0; i < n; i++) {
        const struct fld_item *item = i < got->n_items ? &got->item[i] : &nothing;
        for (int k = 0; k < FLD_PARTS; k++) {
            const json_t *want =
                json_object_get(json_array_get(truth, i), fld_part_name((enum fld_part)k));
            exact &= count(&t[TALLY_ITEM_NAME + k], equals(&item->part[k], want));
        }
    }
    return n > 0 ? count(&t[TALLY_ITEMS], exact) : exact;
}

static void compare(struct tally *t, const struct fld_record *got, const json_t *line, bool tell,
                    const char *file)
{
    const json_t *truth = json_object_get(line, "fields");
    const json_t *listed = json_object_get(line, "listed");
    bool whole = true;
    for (int i = 0; i < FLD_COUNT; i++) {
        const json_t *want = json_object_get(truth, fld_name((enum fld_name)i));
        bool hit = equals(&got->field[i], want);
        int name = json_is_null(want) || !want                    ? TALLY_MISSING
                   : i == FLD_STORE_NAME && json_is_false(listed) ? TALLY_UNSEEN
                                                                  : i;
        count(&t[name], hit);
        whole &= hit;
        if (tell && !hit)
            tool_note("%s: %s is %s, read as %s", file, fld_name((enum fld_name)i),
                      want && json_is_string(want) ? json_string_value(want) : "absent",
                      got->field[i].value ? got->field[i].value : "nothing");
    }
    whole &= compare_items(t, got, json_object_get(truth, "items"));
    count(&t[TALLY_DOCUMENT], whole);
}

/* One line of truth: its document is read and compared. A document that fails counts as wrong. */
static enum mll_status do_line(struct batch *batch, struct tally *tally, const char *dir,
                               const json_t *line, struct mll_error *err)
{
    char path[PATH_MAX];
    const char *file = json_string_value(json_object_get(line, "file"));
    if (!file || !json_is_object(json_object_get(line, "fields")))
        return mll_fail(err, MLL_ERR_LINE, "truth without \"file\" or \"fields\"");
    snprintf(path, sizeof path, "%s%s", file[0] == '/' ? "" : dir, file);
    struct doc_record record;
    uint8_t *bytes;
    size_t size;
    enum mll_status status = doc_load(&record, &bytes, &size, path, err);
    if (status == MLL_OK && !record.failed)
        status = batch_run(batch, &record, bytes, size, err);
    if (status == MLL_OK && record.failed)
        tool_note("%s: %s", path, record.error.message);
    if (status == MLL_OK)
        compare(tally, &record.fields, line, batch->args->verbose, file);
    free(bytes);
    doc_free(&record);
    return status;
}

static size_t count_lines(const char *text)
{
    size_t n = 0;
    for (const char *c = text; *c; c++)
        n += *c == '\n';
    return n;
}

static enum mll_status do_all(struct batch *batch, struct tally *tally, const char *path,
                              char *text, struct mll_error *err)
{
    const char *slash = strrchr(path, '/');
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash + 1 - path) : 0, path);
    struct progress progress;
    size_t total = count_lines(text), done = 0, number = 0;
    enum mll_status status = MLL_OK;
    progress_start(&progress, "documents");
    for (char *next = text, *line; status == MLL_OK && (line = strsep(&next, "\n")) != NULL;) {
        json_error_t why;
        number++;
        if (line[strspn(line, " \t\r")] == 0)
            continue;
        if (signals_exit_code()) {
            status = mll_fail(err, MLL_ERR_CANCELLED, "stopped before line %zu", number);
            break;
        }
        json_t *truth = json_loads(line, 0, &why);
        if (truth)
            status = do_line(batch, tally, dir, truth, err);
        else
            status = mll_fail(err, MLL_ERR_LINE, "%s: line %zu: %s", path, number, why.text);
        json_decref(truth);
        progress_show(&progress, ++done, total, 0, path);
    }
    progress_clear(&progress);
    return status;
}

static void print_shares(const struct tally *tally)
{
    struct jw w = {0};
    jw_object(&w, NULL);
    for (int i = 0; i < TALLY_COUNT; i++)
        if (tally[i].n > 0)
            jw_real(&w, tally_names[i], (double)tally[i].hits / (double)tally[i].n, 4);
    jw_end(&w, '}');
    jw_newline(&w);
    fwrite(w.data, 1, w.n, stdout);
    jw_free(&w);
}

int cmd_eval(const struct args *args)
{
    struct mll_error err;
    struct batch batch;
    struct tally tally[TALLY_COUNT] = {0};
    uint8_t *bytes = NULL;
    size_t size = 0;
    if (args->n_operands != 1)
        return tool_usage("eval takes one file of truth, %zu given", args->n_operands);
    if (batch_init(&batch, args, &err) != MLL_OK)
        return tool_fail(&err);
    double start = tool_seconds();
    enum mll_status status = inp_read(&bytes, &size, args->operands[0], (size_t)1 << 30, &err);
    if (status == MLL_OK) {
        bytes[size] = 0;
        status = do_all(&batch, tally, args->operands[0], (char *)bytes, &err);
    }
    free(bytes);
    batch_free(&batch);
    if (signals_exit_code())
        return signals_exit_code();
    if (status != MLL_OK)
        return tool_fail(&err);
    size_t n = tally[TALLY_DOCUMENT].n;
    double seconds = tool_seconds() - start;
    tool_note("%zu documents in %.1f s, %.1f documents/s", n, seconds, (double)n / seconds);
    print_shares(tally);
    return 0;
}
