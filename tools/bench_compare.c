/* bench_compare.c - mllama bench compare A.json B.json: what became faster or slower.
 *
 * Both files are what bench model or bench ops print with -o json or jsonl. Rows belong together
 * where test, model, quant, device and threads are equal (for ops: op, shape and device). With the
 * medians a and b and the ranges p10 to p90 of both files:
 *   faster, slower   the ranges do not touch, and the medians are 2 % apart or more
 *   same             the medians are less than 2 % apart
 *   noisy            neither: the ranges touch, so the difference may be chance
 * Exit code 0, or 1 where a row is slower. */
#include "bench_tool.h"
#include "tool.h"
#include "report.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LEAST_CHANGE 0.02

/* What names a row; a key that a file does not have counts as equal. */
static const char *const keys[] = {"test", "op", "shape", "model", "quant", "device", "threads"};

static const char *const columns[] = {"test",  "a",     "a_p10", "a_p90",  "b",
                                      "b_p10", "b_p90", "ratio", "verdict"};

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

static double number(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* Median, p10 and p90 of a rate; ops give seconds, of which the inverse is the rate. */
struct rate {
    double median, p10, p90;
};

static struct rate rate_of(const json_t *row)
{
    struct rate r = {number(row, "tokens_per_s"), number(row, "p10"), number(row, "p90")};
    if (isnan(r.median))
        r = (struct rate){1 / number(row, "seconds"), 1 / number(row, "p90"),
                          1 / number(row, "p10")};
    return r;
}

static const char *verdict(struct rate a, struct rate b)
{
    if (fabs(b.median / a.median - 1) < LEAST_CHANGE)
        return "same";
    if (b.p10 > a.p90)
        return "faster";
    return b.p90 < a.p10 ? "slower" : "noisy";
}

static enum mll_status add_pair(struct report *p, const json_t *a, const json_t *b, bool *slower,
                                struct mll_error *err)
{
    struct rate x = rate_of(a), y = rate_of(b);
    const char *test = json_string_value(json_object_get(a, "test"));
    const char *shape = json_string_value(json_object_get(a, "shape"));
    MLL_TRY(report_row(p, err));
    report_text(p, "test", test ? test : shape ? shape : "?");
    report_number(p, "a", x.median);
    report_number(p, "a_p10", x.p10);
    report_number(p, "a_p90", x.p90);
    report_number(p, "b", y.median);
    report_number(p, "b_p10", y.p10);
    report_number(p, "b_p90", y.p90);
    report_number(p, "ratio", y.median / x.median);
    report_text(p, "verdict", verdict(x, y));
    *slower |= strcmp(verdict(x, y), "slower") == 0;
    return MLL_OK;
}

static enum mll_status compare(struct report *p, const json_t *a, const json_t *b, bool *slower,
                               struct mll_error *err)
{
    size_t i, j;
    const json_t *x, *y;
    json_array_foreach((json_t *)(uintptr_t)a, i, x)
    {
        json_array_foreach((json_t *)(uintptr_t)b, j, y)
        {
            if (!same_row(x, y) || isnan(rate_of(x).median) || isnan(rate_of(y).median))
                continue;
            MLL_TRY(add_pair(p, x, y, slower, err));
            break;
        }
    }
    if (p->n_rows == 0)
        return mll_fail(err, MLL_ERR_BENCH_FILE, "the two files have no row in common");
    return MLL_OK;
}

int bench_compare(const struct args *args)
{
    struct mll_error err;
    struct report report = {
        .name = "bench_compare", .columns = columns, .n_columns = sizeof columns / sizeof *columns};
    bool slower = false;
    if (args->n_operands != 3)
        return tool_usage("bench compare takes two files, %zu given", args->n_operands - 1);
    json_t *a = read_rows(args->operands[1], &err);
    json_t *b = a ? read_rows(args->operands[2], &err) : NULL;
    enum mll_status status = b ? compare(&report, a, b, &slower, &err) : err.code;
    if (status == MLL_OK)
        report_print(&report, args->json ? "json" : args->format ? args->format : "md");
    json_decref(a);
    json_decref(b);
    report_free(&report);
    return status != MLL_OK ? tool_fail(&err) : slower;
}
