/* cmd_trace.c - mllama trace: every stage's tensors of a request in a file, and the comparison of
 * two such files in the order of the stages. */
#include "jsonout.h"
#include "run_request.h"
#include "safetensors.h"
#include "tool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- trace --diff ---- */

/* Place of a tensor among the stages: the vision side, the decoder's layers by number, the end. */
static long stage_rank(const char *name)
{
    static const char *const first[] = {"pixel_values",       "aspect_ratio_ids",
                                        "num_tiles",          "input_ids",
                                        "vision_last_hidden", "cross_attention_states"};
    static const char *const last[] = {"logits", "generated", "generated_logprobs"};
    for (long i = 0; i < 6; i++)
        if (strcmp(name, first[i]) == 0)
            return i;
    for (long i = 0; i < 3; i++)
        if (strcmp(name, last[i]) == 0)
            return 2000000 + i;
    if (strncmp(name, "hidden.", 7) == 0)
        return 10 + strtol(name + 7, NULL, 10) % 1000000;
    return 3000000;
}

static int by_stage(const void *a, const void *b)
{
    const struct st_tensor *const *x = a, *const *y = b;
    long p = stage_rank((*x)->name), q = stage_rank((*y)->name);
    return p != q ? (p > q) - (p < q) : strcmp((*x)->name, (*y)->name);
}

/* Element i as a double; float32 and int64 are what traces hold. */
static double element(const struct st_tensor *t, size_t i)
{
    if (t->dtype == ST_DTYPE_F32) {
        float v;
        memcpy(&v, (const char *)t->data + i * sizeof v, sizeof v);
        return v;
    }
    int64_t v;
    memcpy(&v, (const char *)t->data + i * sizeof v, sizeof v);
    return (double)v;
}

static void print_index(const struct st_tensor *t, size_t i)
{
    size_t rest = i, at[ST_MAX_RANK];
    for (int d = t->rank - 1; d >= 0; d--) {
        at[d] = rest % (size_t)t->shape[d];
        rest /= (size_t)t->shape[d];
    }
    putchar('[');
    for (int d = 0; d < t->rank; d++)
        printf("%s%zu", d ? ", " : "", at[d]);
    putchar(']');
}

static void print_shape(const struct st_tensor *t)
{
    printf("%s (", st_dtype_name(t->dtype));
    for (int d = 0; d < t->rank; d++)
        printf("%s%lld", d ? ", " : "", (long long)t->shape[d]);
    putchar(')');
}

static bool same_shape(const struct st_tensor *a, const struct st_tensor *b)
{
    return a->dtype == b->dtype && a->rank == b->rank &&
           memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
}

/* Prints where two tensors part; true where they do. */
static bool compare(const struct st_tensor *a, const struct st_tensor *b)
{
    if (!b) {
        printf("%s: only in one file\n", a->name);
        return true;
    }
    if (!same_shape(a, b)) {
        printf("%s: ", a->name);
        print_shape(a);
        printf(" and ");
        print_shape(b);
        printf("\n");
        return true;
    }
    if (a->dtype != ST_DTYPE_F32 && a->dtype != ST_DTYPE_I64) {
        printf("%s: %s is not compared\n", a->name, st_dtype_name(a->dtype));
        return false;
    }
    size_t n = (size_t)a->size / (a->dtype == ST_DTYPE_F32 ? 4 : 8), first = n, differing = 0;
    double worst = 0, error = 0, power = 0;
    for (size_t i = 0; i < n; i++) {
        double x = element(a, i), y = element(b, i), d = fabs(x - y);
        bool same = x == y || (isnan(x) && isnan(y));
        if (!same && differing++ == 0)
            first = i;
        if (!same && !(d <= worst))
            worst = d;
        error += same ? 0 : d * d;
        power += x * x;
    }
    if (differing == 0)
        return false;
    printf("%s", a->name);
    print_index(a, first);
    printf(": %.9g and %.9g; %zu of %zu elements differ, max abs %.3g, NMSE %.3g\n",
           element(a, first), element(b, first), differing, n, worst,
           power > 0 ? error / power : error);
    return true;
}

static int diff_files(const struct st_file *a, const struct st_file *b)
{
    size_t n = st_count(a), differing = 0;
    const struct st_tensor **sorted = calloc(n + 1, sizeof *sorted);
    if (!sorted)
        return mll_status_exit_code(MLL_ERR_NO_MEMORY);
    for (size_t i = 0; i < n; i++)
        sorted[i] = st_at(a, i);
    qsort(sorted, n, sizeof *sorted, by_stage);
    for (size_t i = 0; i < n; i++)
        differing += compare(sorted[i], st_find(b, sorted[i]->name));
    for (size_t i = 0; i < st_count(b); i++) {
        if (!st_find(a, st_at(b, i)->name)) {
            printf("%s: only in one file\n", st_at(b, i)->name);
            differing++;
        }
    }
    if (differing == 0)
        printf("no difference in %zu tensors\n", n);
    free(sorted);
    return differing ? 1 : 0;
}

static int diff(const struct args *args)
{
    struct st_file *files[2] = {NULL, NULL};
    int code = -1;
    if (args->n_operands != 2)
        return tool_usage("--diff takes two files, %zu given", args->n_operands);
    for (int i = 0; i < 2 && code < 0; i++) {
        struct st_error why;
        if (st_open(&files[i], args->operands[i], ST_MODE_READ, &why) != ST_OK) {
            struct mll_error err;
            mll_fail(&err, why.code == ST_ERR_OPEN ? MLL_ERR_NOT_FOUND : MLL_ERR_TRACE_FILE,
                     "%s: %s", args->operands[i], why.message);
            code = tool_fail(&err);
        }
    }
    if (code < 0)
        code = diff_files(files[0], files[1]);
    st_close(files[0]);
    st_close(files[1]);
    return code;
}

/* ---- trace ---- */

int cmd_trace(const struct args *args)
{
    if (args->diff)
        return diff(args);
    if (!args->output)
        return tool_usage("trace needs -o FILE.safetensors");
    struct mll_error err;
    struct request request = {0};
    struct tool_model model = {0};
    struct mll_options options;
    enum mll_status status = request_build(&request, args, NULL, &err);
    if (status == MLL_OK)
        status = model_resolve(&model, args, &err);
    if (status == MLL_OK) {
        model_options(&options, args, &model);
        status = mll_trace(&options, &request.request, args->output, args->until, &err);
    }
    request_free(&request);
    model_free(&model);
    if (signals_exit_code())
        return signals_exit_code();
    return status == MLL_OK ? 0 : tool_fail(&err);
}
