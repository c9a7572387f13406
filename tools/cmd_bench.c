/* cmd_bench.c - mllama bench ops | model | compare: speed, beside the memory's. */
#include "bench_tool.h"
#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_MOST = 256, MOST_THREADS = 4096 };

/* One item behind *at: a number, or a range FIRST-LAST with +STEP or *FACTOR (default +1). */
static bool parse_item(const char **at, int values[LIST_MOST], size_t *n, int least, int most)
{
    char *end;
    long first = strtol(*at, &end, 10), last = first, step = 1;
    bool factor = false;
    if (end == *at)
        return false;
    if (*end == '-') {
        const char *from = end + 1;
        last = strtol(from, &end, 10);
        if (end == from)
            return false;
        if (*end == '+' || *end == '*') {
            factor = *end == '*';
            from = end + 1;
            step = strtol(from, &end, 10);
            if (end == from)
                return false;
        }
    }
    *at = end;
    if (first < least || last > most || first > last || step < 1 + factor)
        return false;
    for (long v = first; v <= last; v = factor ? (v > 0 ? v * step : last + 1) : v + step) {
        if (*n == LIST_MOST)
            return false;
        values[(*n)++] = (int)v;
    }
    return true;
}

enum mll_status bench_list(int **values, size_t *n, const char *option, const char *text, int least,
                           int most, struct mll_error *err)
{
    int *list = malloc(LIST_MOST * sizeof *list);
    const char *at = text;
    bool ok = true;
    *n = 0;
    *values = list;
    if (list == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a list");
    while (ok && parse_item(&at, list, n, least, most) && *at != 0)
        ok = *at++ == ',';
    if (ok && *n > 0 && *at == 0)
        return MLL_OK;
    free(list);
    *values = NULL;
    return mll_fail(err, MLL_ERR_USAGE,
                    "--%s: '%s' is no list of numbers from %d to %d, as 512 or 128,512 or "
                    "64-512*2",
                    option, text, least, most);
}

enum mll_status bench_threads(int **values, size_t *n, const struct args *args,
                              struct mll_error *err)
{
    bool asked = args->thread_list != NULL;
    return bench_list(values, n, "threads", asked ? args->thread_list : "0", asked, MOST_THREADS,
                      err);
}

int cmd_bench(const struct args *args)
{
    const char *part = args->n_operands > 0 ? args->operands[0] : "";
    size_t n_files = strcmp(part, "compare") == 0 ? 2 : 0;
    if (args->n_operands > 1 + n_files)
        return tool_usage("bench %s: '%s' is one too many", part, args->operands[1 + n_files]);
    if (strcmp(part, "model") == 0)
        return bench_model(args);
    if (strcmp(part, "ops") == 0)
        return bench_ops(args);
    if (strcmp(part, "compare") == 0)
        return bench_compare(args);
    return tool_usage("bench takes ops, model or compare, not '%s'", part);
}
