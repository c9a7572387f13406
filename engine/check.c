/* check.c - mll_check: the loading code run without stopping at the first defect.
 *
 * Headers only, so that a directory of any size is checked at once; deep streams the weights
 * through a small buffer. Nothing is mapped: a file that shrinks meanwhile is an error, no SIGBUS.
 */
#include "check.h"

#include "checkpoint.h"
#include "mllama.h"
#include "prompt.h"
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>

#define BUFFER_BYTES ((size_t)1 << 20)

void check_tokenizer(const struct cfg *cfg, const struct bpe *bpe, struct defects *d)
{
    int rows = cfg->text.vocab_size + 8, size = bpe_size(bpe);
    int image = bpe_special_id(bpe, CHECK_IMAGE_TEXT);
    if (size > rows)
        defects_add(d, MLL_ERR_TOKENIZER_EMBEDDING,
                    "tokenizer: expected ids below the embedding's %d rows, found ids up to %d",
                    rows, size - 1);
    if (image < 0)
        defects_add(d, MLL_ERR_IMAGE_TOKEN_TOKENIZER,
                    "tokenizer: expected a special token " CHECK_IMAGE_TEXT
                    " with config.json's image_token_index %d, found none",
                    cfg->image_token);
    else if (image != cfg->image_token)
        defects_add(d, MLL_ERR_IMAGE_TOKEN_TOKENIZER,
                    "tokenizer: expected " CHECK_IMAGE_TEXT
                    " to be config.json's image_token_index %d, found %d",
                    cfg->image_token, image);
}

/* ---- NaN and Inf ----------------------------------------------------------------------------- */

struct not_finite {
    int64_t nan, inf;             /* how many */
    int64_t first_nan, first_inf; /* element */
};

static void note(struct not_finite *found, bool nan, int64_t at)
{
    int64_t *count = nan ? &found->nan : &found->inf;
    if ((*count)++ == 0)
        *(nan ? &found->first_nan : &found->first_inf) = at;
}

/* A 16-bit float is not finite where all bits of its exponent are set. One pass without branches
 * decides whether the second, slow one is needed. */
static void scan16(struct not_finite *found, const uint16_t *x, size_t n, int64_t at,
                   uint16_t exponent)
{
    unsigned any = 0;
    for (size_t i = 0; i < n; i++)
        any |= (x[i] & exponent) == exponent;
    for (size_t i = 0; any && i < n; i++)
        if ((x[i] & exponent) == exponent)
            note(found, (x[i] & 0x7fff) != exponent, at + (int64_t)i);
}

static void scan32(struct not_finite *found, const uint32_t *x, size_t n, int64_t at)
{
    const uint32_t exponent = 0x7f800000;
    unsigned any = 0;
    for (size_t i = 0; i < n; i++)
        any |= (x[i] & exponent) == exponent;
    for (size_t i = 0; any && i < n; i++)
        if ((x[i] & exponent) == exponent)
            note(found, (x[i] & 0x7fffffff) != exponent, at + (int64_t)i);
}

/* Reads one float tensor through buffer; false after a defect of reading. */
static bool scan_tensor(struct not_finite *found, const struct ckpt *ckpt,
                        const struct st_tensor *t, void *buffer, struct defects *d)
{
    const struct st_file *file = ckpt_file(ckpt, t);
    int64_t width = st_dtype_bits(t->dtype) / 8;
    for (int64_t at = 0; at < t->size;) {
        size_t n = t->size - at < (int64_t)BUFFER_BYTES ? (size_t)(t->size - at) : BUFFER_BYTES;
        struct st_error e;
        struct mll_error err;
        if (st_read(file, t, buffer, at, n, &e) != ST_OK) {
            ckpt_fail_st(&err, ckpt_file_name(ckpt, t), &e);
            defects_add(d, err.code, "%s", err.message);
            return false;
        }
        if (width == 4)
            scan32(found, buffer, n / 4, at / 4);
        else
            scan16(found, buffer, n / 2, at / 2, t->dtype == ST_DTYPE_BF16 ? 0x7f80 : 0x7c00);
        at += (int64_t)n;
    }
    return true;
}

static void check_tensor(const struct ckpt *ckpt, const struct st_tensor *t, void *buffer,
                         struct defects *d)
{
    struct not_finite found = {0};
    if ((t->dtype != ST_DTYPE_F32 && t->dtype != ST_DTYPE_F16 && t->dtype != ST_DTYPE_BF16) ||
        !scan_tensor(&found, ckpt, t, buffer, d))
        return; /* codes, or a defect already */
    const char *file = ckpt_file_name(ckpt, t);
    if (found.nan)
        defects_add(d, MLL_ERR_WEIGHT_NAN,
                    "%.60s: tensor '%s': expected finite values, found NaN %lld times, first at "
                    "element %lld",
                    file, t->name, (long long)found.nan, (long long)found.first_nan);
    if (found.inf)
        defects_add(d, MLL_ERR_WEIGHT_INF,
                    "%.60s: tensor '%s': expected finite values, found infinity %lld times, "
                    "first at element %lld",
                    file, t->name, (long long)found.inf, (long long)found.first_inf);
}

/* Every float of the model: plain weights, and the absmax and scales of quantised ones, whose codes
 * may lie in a storage type that looks like floats. */
static void check_values(const struct cfg *cfg, const struct ckpt *ckpt, struct defects *d)
{
    struct weights_entry entry = {0};
    const struct st_tensor *parts[1 + WEIGHTS_MAX_PARTS];
    void *buffer = malloc(BUFFER_BYTES);
    if (!buffer) {
        defects_add(d, MLL_ERR_NO_MEMORY, "out of memory");
        return;
    }
    while (weights_next(&entry, cfg)) {
        int n = weights_find_parts(parts, &entry, ckpt);
        for (int i = n > 1 ? 1 : 0; i < n; i++)
            check_tensor(ckpt, parts[i], buffer, d);
    }
    free(buffer);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void check_weights(const struct cfg *cfg, const char *dir, bool deep, struct defects *d)
{
    struct mll_error err;
    struct weights *w;
    struct ckpt *ckpt = ckpt_check(dir, ST_MODE_HEADER, d);
    if (!ckpt)
        return;
    if (weights_alloc(&w, cfg, MLL_DTYPE_NONE, &err) != MLL_OK) {
        defects_add(d, err.code, "%s", err.message);
        ckpt_close(ckpt);
        return;
    }
    w->ckpt = ckpt;
    weights_bind(w, cfg, ckpt, d);
    if (deep && cfg_quant_is_read(cfg))
        check_values(cfg, ckpt, d);
    for (size_t i = 0; i < w->n_unused && d->report; i++) {
        char line[300];
        snprintf(line, sizeof line, "tensor '%.200s' is not used", w->unused[i]);
        d->report(d->user, MLL_OK, line);
    }
    weights_free(w);
}

static void report_remark(void *user, const char *line)
{
    const struct defects *d = user;
    if (d->report)
        d->report(d->user, MLL_OK, line);
}

/* The tokenizer and the chat template, as a prompt needs them. */
static void check_text(const struct cfg *cfg, bool sound, const char *dir, struct defects *d)
{
    struct mll_error err;
    struct bpe *bpe;
    struct prompt *prompt;
    struct prompt_log log = {report_remark, d};
    if (bpe_open(&bpe, dir, &err) != MLL_OK) {
        defects_add(d, err.code, "%s", err.message);
        return;
    }
    if (sound)
        check_tokenizer(cfg, bpe, d);
    if (prompt_open(&prompt, dir, bpe, -1, log, &err) == MLL_OK)
        prompt_close(prompt);
    else
        defects_add(d, err.code, "%s", err.message);
    bpe_close(bpe);
}

enum mll_status mll_check(const char *dir, bool deep, mll_finding_fn *report, void *user,
                          struct mll_error *err)
{
    struct defects d = {.report = report, .user = user};
    struct cfg cfg;
    cfg_check(&cfg, dir, &d);
    /* What cannot be judged without a configuration: shapes, ids; and a directory that is not a
     * model at all needs no further findings. */
    bool sound = d.n == 0;
    if (!sound && (d.first.code == MLL_ERR_NOT_FOUND || cfg.vision.hidden_size == 0))
        return defects_result(&d, err);
    check_text(&cfg, sound, dir, &d);
    if (sound)
        check_weights(&cfg, dir, deep, &d);
    else
        ckpt_close(ckpt_check(dir, ST_MODE_HEADER, &d));
    return defects_result(&d, err);
}
