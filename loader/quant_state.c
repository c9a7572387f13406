#include "quant_state.h"

#include "json_read.h"

#include <float.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

const float quant_values_nf4[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

/* Twelfths, rounded once; both zeros are positive. */
const float quant_values_fp4[16] = {
    0.0f, 0.0625f / 12,  8.0f / 12,  1.0f,  4.0f / 12,  0.5f,  2.0f / 12,  0.25f,
    0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -0.5f, -2.0f / 12, -0.25f,
};

static const struct {
    const char *name;
    enum mll_dtype dtype;
} dtypes[] = {{"float32", MLL_DTYPE_F32}, {"float16", MLL_DTYPE_F16}, {"bfloat16", MLL_DTYPE_BF16}};

enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

static void read_type(struct quant_state *s, const struct jr_object *o)
{
    const char *type = jr_string(o, "quant_type", "none");
    s->fp4 = strcmp(type, "fp4") == 0;
    if (!s->fp4 && strcmp(type, "nf4") != 0)
        jr_defect(o, "quant_type", o->bad, "expected \"nf4\" or \"fp4\", found \"%.40s\"", type);
    const char *dtype = jr_string(o, "dtype", "none");
    s->dtype = MLL_DTYPE_NONE;
    for (int i = 0; i < N_DTYPES; i++)
        if (strcmp(dtype, dtypes[i].name) == 0)
            s->dtype = dtypes[i].dtype;
    if (s->dtype == MLL_DTYPE_NONE)
        jr_defect(o, "dtype", o->bad, "expected float32, float16 or bfloat16, found \"%.40s\"",
                  dtype);
    s->block = jr_int(o, "blocksize", NULL, JR_REQUIRED, 32, 4096);
    if ((s->block & (s->block - 1)) != 0)
        jr_defect(o, "blocksize", o->bad, "expected a power of two, found %d", s->block);
}

static void read_nested(struct quant_state *s, const struct jr_object *o)
{
    s->nested = jr_get(o, "nested_blocksize", "nested_offset") != NULL;
    if (!s->nested)
        return;
    jr_int(o, "nested_blocksize", NULL, JR_REQUIRED, 256, 256);
    const char *dtype = jr_string(o, "nested_dtype", "float32");
    if (strcmp(dtype, "float32") != 0)
        jr_defect(o, "nested_dtype", o->bad, "expected float32, found \"%.40s\"", dtype);
    s->nested_offset = (float)jr_number(o, "nested_offset", 0, -(double)FLT_MAX, (double)FLT_MAX);
}

bool quant_state_parse(struct quant_state *state, const char *text, size_t size, const char *name,
                       struct defects *d)
{
    size_t before = d->n;
    int shape[2];
    *state = (struct quant_state){0};
    json_t *root = jr_parse(text, size, name, d);
    if (!root)
        return false;
    struct jr_object o = {root, name, "", MLL_ERR_QUANT_STATE, d};
    if (!json_is_object(root)) {
        defects_add(d, MLL_ERR_QUANT_STATE, "%.200s: expected an object, found %s", name,
                    jr_type_name(root));
    } else {
        read_type(state, &o);
        read_nested(state, &o);
        int n = jr_ints(&o, "shape", false, shape, 2, 1, INT_MAX, MLL_ERR_QUANT_STATE);
        if (n != 2)
            jr_defect(&o, "shape", MLL_ERR_QUANT_STATE, "expected two sizes, found %d", n);
        else
            state->rows = shape[0], state->cols = shape[1];
    }
    json_decref(root);
    return d->n == before;
}

size_t quant_state_format(const struct quant_state *s, char *out, size_t cap)
{
    const char *dtype = "float32";
    for (int i = 0; i < N_DTYPES; i++)
        if (dtypes[i].dtype == s->dtype)
            dtype = dtypes[i].name;
    int n = snprintf(out, cap,
                     "{\"quant_type\": \"%s\", \"blocksize\": %d, \"dtype\": \"%s\", "
                     "\"shape\": [%d, %d]",
                     s->fp4 ? "fp4" : "nf4", s->block, dtype, s->rows, s->cols);
    if (s->nested)
        n += snprintf(out + n, cap - (size_t)n,
                      ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", "
                      "\"nested_offset\": %.17g",
                      (double)s->nested_offset);
    n += snprintf(out + n, cap - (size_t)n, "}");
    return (size_t)n;
}
