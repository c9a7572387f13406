/* bench_compare.c - mllama bench compare A.json B.json: what became faster or slower.
 *
 * Both files are what bench model or bench ops print with -o json or jsonl. Rows belong together
 * where test, model, quant, device and threads are equal (for ops: op, shape, device, threads).
 * A row's measurements are its repetitions. Where a file holds several runs one behind the other,
 * the row's measurements are the medians of its runs instead: repetitions of one run share its
 * place in memory, its neighbours and the minute it ran in, so they are less far apart than two
 * runs are. ratio is b's speed by a's, low and high its 99 % interval (bench/ratio.h has the rules
 * of the verdict). Exit code 0, or 1 where a row is slower. */
#include "bench.h"
#include "bench_tool.h"
#include "ratio.h"
#include "report.h"
#include "tool.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What names a row; a key that a file does not have counts as equal. */
static const char *const keys[] = {"test", "op", "shape", "model", "quant", "device", "threads"};

static const struct report_column columns[] = {{.name = "test", .title = "test"},
                                               {.name = "unit", .title = "unit"},
                                               {.name = "a", .title = "a"},
                                               {.name = "b", .title = "b"},
                                               {.name = "ratio", .title = "ratio"},
                                               {.name = "low", .title = "low"},
                                               {.name = "high", .title = "high"},
                                               {.name = "verdict", .title = "verdict"},
                                               {.name = "n_a"},
                                               {.name = "n_b"}};

static const char *const verdicts[] = {[BENCH_SAME] = "same",
                                       [BENCH_FASTER] = "faster",
                                       [BENCH_SLOWER] = "slower",
                                       [BENCH_NOISY] = "noisy"};

struct comparison {
    json_t *a, *b;
    struct report report;
    size_t count[sizeof verdicts / sizeof *verdicts], too_few;
};

/* A list of rows, from a JSON array or JSON lines; NULL after telling why. */
static json_t *read_rows(const char *path, struct mll_error *err)
{
    json_error_t error;
    json_t *rows = json_array(), *row;
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        mll_fail(err, MLL_ERR_NOT_FOUND, "cannot read %s", path);
        json_decref(rows);
        return NULL;
    }
    while ((row = json_loadf(f, JSON_DISABLE_EOF_CHECK, &error)) != NULL) {
        if (json_is_array(row))
            json_array_extend(rows, row);
        else
            json_array_append(rows, row);
        json_decref(row);
    }
    bool complete = feof(f) != 0;
    fclose(f);
    if (complete && json_array_size(rows) > 0)
        return rows;
    mll_fail(err, MLL_ERR_BENCH_FILE, "%s, line %d: expected rows of mllama bench: %s", path,
             error.line, error.text);
    json_decref(rows);
    return NULL;
}

static bool same_row(const json_t *a, const json_t *b)
{
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *x = json_object_get(a, keys[i]), *y = json_object_get(b, keys[i]);
        if (x && y && !json_equal(x, y))
            return false;
    }
    return true;
}

/* ---- measurements ---------------------------------------------------------------------------- */

static bool is_rate(const json_t *row)
{
    return json_is_number(json_object_get(row, "tokens_per_s"));
}

/* (n) measurements of a row, in its unit; the caller frees. NULL: no memory, or (n 0) there are
 * none, or they are no positive numbers. */
static double *samples_of(size_t *n, const json_t *row)
{
    const json_t *list = json_object_get(row, "samples");
    size_t size = json_array_size(list);
    double *values = malloc((size + 1) * sizeof *values);
    *n = size;
    for (size_t i = 0; values && i < size; i++) {
        values[i] = json_number_value(json_array_get(list, i));
        if (!(values[i] > 0 && isfinite(values[i])))
            *n = 0;
    }
    if (*n == 0) {
        free(values);
        return NULL;
    }
    return values;
}

struct side {
    double *values; /* (n) speeds */
    size_t n, runs;
    double median; /* in the row's unit */
};

/* The row's measurements in a file of so many runs. */
static enum mll_status gather(struct side *s, const json_t *rows, const json_t *row, bool runs,
                              struct mll_error *err)
{
    size_t i, n;
    const json_t *other;
    s->values = runs ? calloc(json_array_size(rows), sizeof *s->values) : NULL;
    json_array_foreach((json_t *)(uintptr_t)rows, i, other)
    {
        if (!same_row(row, other))
            continue;
        double *values = samples_of(&n, other);
        if (values == NULL || (runs && s->values == NULL)) {
            free(values);
            return mll_fail(err, MLL_ERR_BENCH_FILE,
                            "row %zu: expected \"samples\", a list of positive numbers", i + 1);
        }
        if (!runs) {
            s->values = values;
            s->n = n;
            break;
        }
        s->values[s->n++] = bench_stats(values, n).median;
        free(values);
    }
    return MLL_OK;
}

static void finish_side(struct side *s, bool rate)
{
    double *sorted = malloc((s->n + 1) * sizeof *sorted);
    s->median = NAN;
    if (sorted) {
        memcpy(sorted, s->values, s->n * sizeof *sorted);
        s->median = bench_stats(sorted, s->n).median;
    }
    free(sorted);
    for (size_t i = 0; i < s->n && !rate; i++)
        s->values[i] = 1 / s->values[i];
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void name_row(char name[128], const json_t *row)
{
    const char *test = json_string_value(json_object_get(row, "test"));
    const char *op = json_string_value(json_object_get(row, "op"));
    const char *shape = json_string_value(json_object_get(row, "shape"));
    snprintf(name, 128, "%s%s%s",
             test ? test
             : op ? op
                  : "?",
             shape ? " " : "", shape ? shape : "");
}

static enum mll_status add_row(struct comparison *c, const json_t *row, const struct side *a,
                               const struct side *b, struct mll_error *err)
{
    struct bench_ratio r;
    struct report *p = &c->report;
    char name[128];
    if (!bench_ratio(&r, a->values, a->n, b->values, b->n))
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory to compare");
    enum bench_verdict verdict = bench_verdict(&r);
    c->count[verdict]++;
    c->too_few += r.low == 0;
    MLL_TRY(report_row(p, err));
    name_row(name, row);
    report_text(p, "test", name);
    report_text(p, "unit", is_rate(row) ? "tokens/s" : "ms");
    report_number(p, "a", a->median * (is_rate(row) ? 1 : 1e3));
    report_number(p, "b", b->median * (is_rate(row) ? 1 : 1e3));
    report_number(p, "ratio", r.ratio);
    report_number(p, "low", r.low > 0 ? r.low : NAN);
    report_number(p, "high", r.low > 0 ? r.high : NAN);
    report_text(p, "verdict", verdicts[verdict]);
    report_number(p, "n_a", (double)a->n);
    report_number(p, "n_b", (double)b->n);
    return MLL_OK;
}

/* How many of rows belong to row, those before index `before` only. */
static size_t matches(const json_t *rows, const json_t *row, size_t before)
{
    size_t i, n = 0;
    const json_t *other;
    json_array_foreach((json_t *)(uintptr_t)rows, i, other) n += i < before && same_row(row, other);
    return n;
}

static enum mll_status compare_row(struct comparison *c, const json_t *row, struct mll_error *err)
{
    size_t runs_a = matches(c->a, row, SIZE_MAX), runs_b = matches(c->b, row, SIZE_MAX);
    struct side a = {0}, b = {0};
    if (runs_b == 0)
        return MLL_OK;
    bool runs = runs_a > 1 || runs_b > 1;
    enum mll_status status = gather(&a, c->a, row, runs, err);
    if (status == MLL_OK)
        status = gather(&b, c->b, row, runs, err);
    if (status == MLL_OK) {
        finish_side(&a, is_rate(row));
        finish_side(&b, is_rate(row));
        status = add_row(c, row, &a, &b, err);
    }
    free(a.values);
    free(b.values);
    return status;
}

static enum mll_status compare(struct comparison *c, struct mll_error *err)
{
    size_t i;
    const json_t *row;
    json_array_foreach(c->a, i, row)
    {
        if (matches(c->a, row, i) == 0)
            MLL_TRY(compare_row(c, row, err));
    }
    if (c->report.n_rows == 0)
        return mll_fail(err, MLL_ERR_BENCH_FILE, "the two files have no row in common");
    return MLL_OK;
}

static void tell(const struct comparison *c)
{
    const size_t *n = c->count, all = c->report.n_rows;
    tool_note("%zu rows: %zu same, %zu faster, %zu slower, %zu too noisy to say; if nothing had "
              "changed, chance would call at most %.2g of them slower",
              all, n[BENCH_SAME], n[BENCH_FASTER], n[BENCH_SLOWER], n[BENCH_NOISY],
              (double)all * BENCH_RATIO_ALPHA / 2);
    if (c->too_few > 0)
        tool_note("%zu rows have too few measurements to say anything: -r 5 on both sides is the "
                  "least, or five runs",
                  c->too_few);
}

int bench_compare(const struct args *args)
{
    struct mll_error err;
    struct comparison c = {.report = {.name = "bench_compare",
                                      .columns = columns,
                                      .n_columns = sizeof columns / sizeof *columns}};
    if (args->n_operands != 3)
        return tool_usage("bench compare takes two files, %zu given", args->n_operands - 1);
    c.a = read_rows(args->operands[1], &err);
    c.b = c.a ? read_rows(args->operands[2], &err) : NULL;
    enum mll_status status = c.b ? compare(&c, &err) : err.code;
    if (status == MLL_OK) {
        report_print(&c.report, args->json ? "json" : args->format ? args->format : "md");
        tell(&c);
    }
    json_decref(c.a);
    json_decref(c.b);
    report_free(&c.report);
    return status != MLL_OK ? tool_fail(&err) : c.count[BENCH_SLOWER] > 0;
}
