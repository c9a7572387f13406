/* resize.c - Pillow's Image.resize(..., BILINEAR) on 8-bit RGB, bit for bit (Pillow 12 and older).
 *
 * Separable, each pass rounded to 8 bits; the horizontal pass first, but for images more than 100
 * times as high as wide that shrink in height, as Pillow up to 12 does. Along one side of n_in
 * pixels that becomes n_out, with scale = n_in / n_out, output i is centred at c = (i + 0.5) *
 * scale and weighs input x by the triangle max(0, 1 - |x + 0.5 - c| / s), s = max(1, scale):
 * shrinking averages, growing interpolates. Weights are normalised in double and rounded to 22 bits
 * after the point; sums are int32. A side that keeps its size has no pass. */
#include "preprocess.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WEIGHT_BITS = 22 };

/* For each output, the inputs that it weighs: n of them from first on. */
struct taps {
    int n_out, width;  /* width: room for the widest */
    int *first, *n;    /* (n_out) */
    int32_t *weights;  /* (n_out, width) */
    double *unrounded; /* (width) scratch */
};

static void taps_free(struct taps *t)
{
    free(t->first);
    free(t->weights);
    free(t->unrounded);
}

static void taps_fill(struct taps *t, int n_in)
{
    double scale = (double)n_in / t->n_out, reach = scale > 1.0 ? scale : 1.0;
    for (int i = 0; i < t->n_out; i++) {
        double center = (i + 0.5) * scale, total = 0.0;
        int first = (int)(center - reach + 0.5), end = (int)(center + reach + 0.5);
        first = first < 0 ? 0 : first;
        end = end > n_in ? n_in : end;
        for (int x = first; x < end; x++) {
            double distance = fabs((x - center + 0.5) * (1.0 / reach));
            t->unrounded[x - first] = distance < 1.0 ? 1.0 - distance : 0.0;
            total += t->unrounded[x - first];
        }
        t->first[i] = first;
        t->n[i] = end - first;
        for (int k = 0; k < end - first; k++)
            t->weights[(size_t)i * (size_t)t->width + (size_t)k] =
                (int32_t)(0.5 + t->unrounded[k] / total * (1 << WEIGHT_BITS));
    }
}

static enum mll_status taps_build(struct taps *t, int n_in, int n_out, struct mll_error *err)
{
    double scale = (double)n_in / n_out;
    size_t bytes;
    *t = (struct taps){.n_out = n_out, .width = (int)ceil(scale > 1.0 ? scale : 1.0) * 2 + 1};
    bool fits = mll_mul_size(&bytes, (size_t)n_out * sizeof *t->weights, (size_t)t->width);
    t->first = malloc((size_t)n_out * 2 * sizeof *t->first);
    t->weights = fits ? malloc(bytes) : NULL;
    t->unrounded = malloc((size_t)t->width * sizeof *t->unrounded);
    if (!t->first || !t->weights || !t->unrounded)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory to resize %d pixels to %d", n_in, n_out);
    t->n = t->first + n_out;
    taps_fill(t, n_in);
    return MLL_OK;
}

static uint8_t round_sum(int32_t sum)
{
    int32_t v = sum >> WEIGHT_BITS;
    return (uint8_t)(v > 255 ? 255 : v);
}

/* src (h, w, 3) -> dst (h, t->n_out, 3) */
static void pass_horizontal(uint8_t *dst, const uint8_t *src, int w, int h, const struct taps *t)
{
    for (int y = 0; y < h; y++, src += (size_t)w * 3)
        for (int i = 0; i < t->n_out; i++, dst += 3) {
            const uint8_t *p = src + (size_t)t->first[i] * 3;
            const int32_t *weight = t->weights + (size_t)i * (size_t)t->width;
            int32_t r = 1 << (WEIGHT_BITS - 1), g = r, b = r;
            for (int k = 0; k < t->n[i]; k++, p += 3) {
                r += p[0] * weight[k];
                g += p[1] * weight[k];
                b += p[2] * weight[k];
            }
            dst[0] = round_sum(r);
            dst[1] = round_sum(g);
            dst[2] = round_sum(b);
        }
}

/* src (h, row) -> dst (t->n_out, row); sums (row) is scratch. */
static void pass_vertical(uint8_t *dst, int32_t *sums, const uint8_t *src, size_t row,
                          const struct taps *t)
{
    for (int i = 0; i < t->n_out; i++, dst += row) {
        const int32_t *weight = t->weights + (size_t)i * (size_t)t->width;
        const uint8_t *p = src + (size_t)t->first[i] * row;
        for (size_t x = 0; x < row; x++)
            sums[x] = 1 << (WEIGHT_BITS - 1);
        for (int k = 0; k < t->n[i]; k++, p += row)
            for (size_t x = 0; x < row; x++)
                sums[x] += p[x] * weight[k];
        for (size_t x = 0; x < row; x++)
            dst[x] = round_sum(sums[x]);
    }
}

static enum mll_status resize_width(uint8_t *dst, const uint8_t *src, int w, int h, int new_w,
                                    struct mll_error *err)
{
    struct taps taps;
    enum mll_status status = taps_build(&taps, w, new_w, err);
    if (status == MLL_OK)
        pass_horizontal(dst, src, w, h, &taps);
    taps_free(&taps);
    return status;
}

static enum mll_status resize_height(uint8_t *dst, const uint8_t *src, int w, int h, int new_h,
                                     struct mll_error *err)
{
    struct taps taps;
    size_t row = (size_t)w * 3;
    enum mll_status status = taps_build(&taps, h, new_h, err);
    int32_t *sums = malloc(row * sizeof *sums);
    if (status == MLL_OK && !sums)
        status = mll_fail(err, MLL_ERR_NO_MEMORY, "no memory to resize a row of %d pixels", w);
    if (status == MLL_OK)
        pass_vertical(dst, sums, src, row, &taps);
    free(sums);
    taps_free(&taps);
    return status;
}

enum mll_status pre_resize_bilinear(uint8_t *dst, const uint8_t *src, int w, int h, int new_w,
                                    int new_h, struct mll_error *err)
{
    MLL_ASSERT(w > 0 && h > 0 && new_w > 0 && new_h > 0);
    if (new_w == w && new_h == h) {
        memcpy(dst, src, (size_t)w * (size_t)h * 3);
        return MLL_OK;
    }
    if (new_w == w)
        return resize_height(dst, src, w, h, new_h, err);
    if (new_h == h)
        return resize_width(dst, src, w, h, new_w, err);
    bool tall = h / 100.0 > w && new_h < h;
    size_t bytes, middle_w = (size_t)(tall ? w : new_w), middle_h = (size_t)(tall ? new_h : h);
    uint8_t *middle = mll_mul_size(&bytes, middle_w * 3, middle_h) ? malloc(bytes) : NULL;
    if (!middle)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory to resize %dx%d pixels", w, h);
    enum mll_status status = tall ? resize_height(middle, src, w, h, new_h, err)
                                  : resize_width(middle, src, w, h, new_w, err);
    if (status == MLL_OK)
        status = tall ? resize_width(dst, middle, w, new_h, new_w, err)
                      : resize_height(dst, middle, new_w, h, new_h, err);
    free(middle);
    return status;
}
