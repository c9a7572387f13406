#include "quantise.h"

#include "checkpoint.h"
#include "half.h"
#include "par.h"
#include "quant_state.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 1024 }; /* elements widened at once: whole blocks */

#define LEAST_ABSMAX 1e-38f

/* ---- what is quantised ----------------------------------------------------------------------- */

enum mll_status quantise_type_of(enum quantise_type *type, const char *name, struct mll_error *err)
{
    static const char *const names[] = {"", "nf4", "nf4-dq", "int8"};
    *type = QUANTISE_NONE;
    if (name == NULL)
        return MLL_OK;
    for (int i = QUANTISE_NF4; i <= QUANTISE_INT8; i++)
        if (strcmp(name, names[i]) == 0)
            *type = (enum quantise_type)i;
    if (*type == QUANTISE_NONE)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "quant: expected nf4, nf4-dq or int8, found %s",
                        name);
    return MLL_OK;
}

static const char *const default_skip[] = {"vision_model", "multi_modal_projector", "lm_head",
                                           "cross_attn"};

static bool has_words(const char *name, const char *words)
{
    size_t n = strlen(words);
    for (const char *at = strstr(name, words); at != NULL; at = strstr(at + 1, words))
        if ((at == name || at[-1] == '.') && (at[n] == '.' || at[n] == 0))
            return true;
    return false;
}

bool quantise_matches(const struct weights_entry *entry, const char *pattern)
{
    return has_words(entry->name, pattern) || has_words(entry->new_name, pattern);
}

bool quantise_selects(const struct weights_entry *entry, const char *const *skip, size_t n_skip)
{
    if (skip == NULL) {
        skip = default_skip;
        n_skip = sizeof default_skip / sizeof *default_skip;
    }
    for (size_t i = 0; i < n_skip; i++)
        if (quantise_matches(entry, skip[i]))
            return false;
    return entry->linear;
}

/* ---- 4 bits ---------------------------------------------------------------------------------- */

/* Half of the dynamic values of create_dynamic_map(): the positive ones but 1. Its linspace is
 * torch's, which no formula of a few lines gives to the last bit. */
static const float dynamic_values[127] = {
    5.5000004e-07f, 3.2500002e-06f, 7.75e-06f,      2.1249998e-05f, 4.375e-05f,     6.625e-05f,
    8.875e-05f,     1.5625001e-04f, 2.6875004e-04f, 3.8125002e-04f, 4.9375003e-04f, 6.062501e-04f,
    7.1875006e-04f, 8.3125e-04f,    9.437501e-04f,  0.0012812499f,  0.00184375f,    0.00240625f,
    0.00296875f,    0.0035312497f,  0.00409375f,    0.0046562497f,  0.0052187503f,  0.00578125f,
    0.00634375f,    0.00690625f,    0.00746875f,    0.00803125f,    0.00859375f,    0.009156249f,
    0.00971875f,    0.01140625f,    0.01421875f,    0.01703125f,    0.019843752f,   0.02265625f,
    0.02546875f,    0.028281251f,   0.03109375f,    0.03390625f,    0.036718752f,   0.03953125f,
    0.042343747f,   0.04515625f,    0.04796875f,    0.05078125f,    0.05359375f,    0.05640625f,
    0.059218753f,   0.06203125f,    0.06484375f,    0.067656256f,   0.070468746f,   0.07328125f,
    0.07609375f,    0.07890625f,    0.08171876f,    0.08453125f,    0.08734375f,    0.09015625f,
    0.092968754f,   0.09578126f,    0.09859375f,    0.107031256f,   0.12109375f,    0.13515624f,
    0.14921875f,    0.16328125f,    0.17734376f,    0.19140625f,    0.20546874f,    0.21953125f,
    0.23359375f,    0.24765624f,    0.26171875f,    0.27578127f,    0.28984374f,    0.30390626f,
    0.31796873f,    0.33203125f,    0.34609374f,    0.36015624f,    0.37421876f,    0.38828123f,
    0.40234375f,    0.41640624f,    0.43046874f,    0.44453126f,    0.45859373f,    0.47265625f,
    0.4867187f,     0.50078124f,    0.5148437f,     0.5289062f,     0.54296875f,    0.5570313f,
    0.5710938f,     0.58515626f,    0.5992187f,     0.61328125f,    0.6273438f,     0.6414063f,
    0.65546876f,    0.6695312f,     0.68359375f,    0.6976563f,     0.7117188f,     0.72578126f,
    0.7398437f,     0.75390625f,    0.7679688f,     0.78203124f,    0.79609376f,    0.8101562f,
    0.82421875f,    0.8382813f,     0.85234374f,    0.86640626f,    0.8804687f,     0.89453125f,
    0.9085938f,     0.92265624f,    0.93671876f,    0.9507812f,     0.96484375f,    0.9789063f,
    0.99296874f,
};

void quantise_dynamic_map(float map[256])
{
    for (int i = 0; i < 127; i++) {
        map[126 - i] = -dynamic_values[i];
        map[128 + i] = dynamic_values[i];
    }
    map[127] = 0;
    map[255] = 1;
}

struct job {
    const unsigned char *data;
    enum mll_dtype dtype;
    size_t n, cols;
    void *codes;
    float *scale; /* absmax or SCB */
    float bounds[15];
    atomic_bool not_finite;
};

static void widen(float *out, const struct job *j, size_t first, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = weight_at(j->data, j->dtype, first + i);
}

static float absmax_of(const float *x, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

static bool all_finite(const float *x, size_t n)
{
    unsigned any = 0;
    for (size_t i = 0; i < n; i++)
        any |= (f32_to_bits(x[i]) & 0x7f800000) == 0x7f800000;
    return any == 0;
}

/* One block, x replaced by x / absmax; returns absmax. */
static float normalise(float *x, size_t n, size_t block)
{
    float absmax = absmax_of(x, n), least = absmax < LEAST_ABSMAX ? LEAST_ABSMAX : absmax;
    float inverse = 1.0f / least;
    for (size_t i = 0; i < n; i++) {
        float v = n == block ? x[i] * inverse : x[i] / least;
        x[i] = v < -1 ? -1 : v > 1 ? 1 : v;
    }
    return n == block ? absmax : least;
}

/* The code of x is how many of the middles between two values lie below it. */
static void nf4_codes(uint8_t out[QUANTISE_BLOCK], const float *x, const float bounds[15])
{
    memset(out, 0, QUANTISE_BLOCK);
    for (int b = 0; b < 15; b++)
        for (int i = 0; i < QUANTISE_BLOCK; i++)
            out[i] += x[i] > bounds[b];
}

static void nf4_blocks(void *arg, size_t begin, size_t end, int thread)
{
    struct job *j = arg;
    (void)thread;
    for (size_t b = begin; b < end; b++) {
        /* elements that are missing behind the last are zeros, as bitsandbytes pads */
        float x[QUANTISE_BLOCK] = {0};
        uint8_t code[QUANTISE_BLOCK], *out = (uint8_t *)j->codes + b * QUANTISE_BLOCK / 2;
        size_t first = b * QUANTISE_BLOCK, left = j->n - first;
        size_t n = left < QUANTISE_BLOCK ? left : QUANTISE_BLOCK;
        widen(x, j, first, n);
        if (!all_finite(x, n))
            atomic_store(&j->not_finite, true);
        j->scale[b] = normalise(x, n, QUANTISE_BLOCK);
        nf4_codes(code, x, j->bounds);
        for (size_t i = 0; i < (n + 1) / 2; i++)
            out[i] = (uint8_t)(code[2 * i] << 4 | code[2 * i + 1]);
    }
}

bool quantise_nf4(uint8_t *codes, float *absmax, const void *data, enum mll_dtype dtype, size_t n,
                  int threads)
{
    struct job j = {.data = data, .dtype = dtype, .n = n, .codes = codes, .scale = absmax};
    for (int i = 0; i < 15; i++)
        j.bounds[i] = (quant_values_nf4[i] + quant_values_nf4[i + 1]) / 2;
    par_once(threads, (n + QUANTISE_BLOCK - 1) / QUANTISE_BLOCK, nf4_blocks, &j);
    return !atomic_load(&j.not_finite);
}

/* How many of n ascending bounds lie below x. */
static int count_below(const float *bounds, int n, float x)
{
    int low = 0;
    while (n > 0) {
        int half = n / 2;
        if (bounds[low + half] < x) {
            low += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return low;
}

void quantise_absmax(uint8_t *codes, float *nested_absmax, float *offset, const float *absmax,
                     size_t n)
{
    float map[256], bounds[255], x[MLL_NESTED_BLOCK];
    double sum = 0;
    quantise_dynamic_map(map);
    for (int i = 0; i < 255; i++)
        bounds[i] = (map[i] + map[i + 1]) / 2;
    for (size_t i = 0; i < n; i++)
        sum += (double)absmax[i];
    *offset = (float)(sum / (double)n);
    for (size_t first = 0; first < n; first += MLL_NESTED_BLOCK) {
        size_t count = n - first < MLL_NESTED_BLOCK ? n - first : MLL_NESTED_BLOCK;
        for (size_t i = 0; i < count; i++)
            x[i] = absmax[first + i] - *offset;
        nested_absmax[first / MLL_NESTED_BLOCK] = normalise(x, count, MLL_NESTED_BLOCK);
        for (size_t i = 0; i < count; i++)
            codes[first + i] = (uint8_t)count_below(bounds, 255, x[i]);
    }
}

/* ---- 8 bits ---------------------------------------------------------------------------------- */

/* Elements [at, at + n) of row r, rounded to fp16 as bitsandbytes has them. */
static void widen_half(float *out, const struct job *j, size_t r, size_t at, size_t n)
{
    widen(out, j, r * j->cols + at, n);
    for (size_t i = 0; j->dtype != MLL_DTYPE_F16 && i < n; i++)
        out[i] = f16_to_f32(f16_from_f32(out[i]));
}

static void int8_rows(void *arg, size_t begin, size_t end, int thread)
{
    struct job *j = arg;
    float x[PIECE];
    (void)thread;
    for (size_t r = begin; r < end; r++) {
        int8_t *out = (int8_t *)j->codes + r * j->cols;
        float absmax = 0;
        for (size_t at = 0; at < j->cols; at += PIECE) {
            size_t n = j->cols - at < PIECE ? j->cols - at : PIECE;
            widen_half(x, j, r, at, n);
            float most = all_finite(x, n) ? absmax_of(x, n) : INFINITY;
            absmax = most > absmax ? most : absmax;
        }
        float scale = absmax > 0 ? 1.0f / absmax * 127.0f : 0; /* as torch divides by a tensor */
        j->scale[r] = absmax;
        if (isinf(absmax)) {
            atomic_store(&j->not_finite, true);
            continue;
        }
        for (size_t at = 0; at < j->cols; at += PIECE) {
            size_t n = j->cols - at < PIECE ? j->cols - at : PIECE;
            widen_half(x, j, r, at, n);
            for (size_t i = 0; i < n; i++)
                out[at + i] = (int8_t)rintf(x[i] * scale);
        }
    }
}

bool quantise_int8(int8_t *codes, float *scale, const void *data, enum mll_dtype dtype, int rows,
                   int cols, int threads)
{
    struct job j = {
        .data = data, .dtype = dtype, .cols = (size_t)cols, .codes = codes, .scale = scale};
    par_once(threads, (size_t)rows, int8_rows, &j);
    return !atomic_load(&j.not_finite);
}
