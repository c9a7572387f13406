/* preprocess.c - stage 2: canvas, resize, pad, normalise, cut.  Contract: preprocess.h.
 *
 * A pixel v of channel c becomes ((float)(v * rescale) - mean[c]) / std[c], the product in double,
 * the rest in float32: 256 values a channel, so three tables. Padding is v = 0 of the same tables.
 */
#include "preprocess.h"

#include <math.h>
#include <stdlib.h>

/* HF get_optimal_tiled_canvas: of the canvases that the image fits without shrinking the one that
 * enlarges it least, else the one that shrinks it least; ties go to the smaller area, then to the
 * first. Doubles, compared exactly. */
static void choose_grid(struct canvas *best, int w, int h, int tile_size, int max_tiles)
{
    double best_scale = 0.0;
    int id = 0;
    *best = (struct canvas){0};
    for (int rows = 1; rows <= max_tiles; rows++)
        for (int cols = 1; cols <= max_tiles / rows; cols++) {
            double scale_h = (double)rows * tile_size / h, scale_w = (double)cols * tile_size / w;
            double scale = scale_w > scale_h ? scale_h : scale_w;
            id++;
            bool better =
                best_scale >= 1.0 ? scale >= 1.0 && scale < best_scale : scale > best_scale;
            if (better || (scale == best_scale && rows * cols < best->rows * best->cols)) {
                best_scale = scale;
                *best = (struct canvas){.rows = rows, .cols = cols, .aspect_ratio_id = id};
            }
        }
}

static int64_t clip(int64_t v, int64_t low, int64_t high)
{
    return v < low ? low : v > high ? high : v;
}

/* floor(n * scale), at least 1 and at most limit. */
static int scaled_side(int n, double scale, int64_t limit)
{
    double side = floor(n * scale);
    return side < 1.0 ? 1 : side > (double)limit ? (int)limit : (int)side;
}

struct canvas pre_choose_canvas(int w, int h, int tile_size, int max_tiles)
{
    MLL_ASSERT(w > 0 && h > 0 && tile_size > 0 && max_tiles > 0);
    struct canvas canvas;
    choose_grid(&canvas, w, h, tile_size, max_tiles);
    /* HF get_image_size_fit_to_canvas: a side grows at most to one tile, shrinks to the canvas. */
    int64_t target_w = clip(w, tile_size, (int64_t)canvas.cols * tile_size);
    int64_t target_h = clip(h, tile_size, (int64_t)canvas.rows * tile_size);
    double scale_w = (double)target_w / w, scale_h = (double)target_h / h;
    if (scale_w < scale_h) {
        canvas.new_w = (int)target_w;
        canvas.new_h = scaled_side(h, scale_w, target_h);
    } else {
        canvas.new_h = (int)target_h;
        canvas.new_w = scaled_side(w, scale_h, target_w);
    }
    return canvas;
}

static void fill_tables(float table[3][256], const struct cfg_preprocess *cfg)
{
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            table[c][v] = ((float)(v * cfg->rescale) - cfg->mean[c]) / cfg->std[c];
}

/* out (3, size, size): the tile whose top left pixel is (x0, y0) of rgb (new_h, new_w, 3). */
static void cut_tile(float *out, int size, const uint8_t *rgb, const struct canvas *canvas, int x0,
                     int y0, float table[3][256])
{
    for (int c = 0; c < 3; c++)
        for (int y = y0; y < y0 + size; y++) {
            int filled = y < canvas->new_h ? (int)clip(canvas->new_w - x0, 0, size) : 0;
            const uint8_t *p = rgb;
            if (filled > 0)
                p += ((size_t)y * (size_t)canvas->new_w + (size_t)x0) * 3 + (size_t)c;
            for (int x = 0; x < size; x++)
                *out++ = table[c][x < filled ? p[3 * (size_t)x] : 0];
        }
}

enum mll_status pre_tiles(struct tiles *tiles, const struct image *img,
                          const struct cfg_preprocess *cfg, struct mll_error *err)
{
    struct canvas canvas = pre_choose_canvas(img->w, img->h, cfg->size, cfg->max_tiles);
    size_t tile = (size_t)cfg->size * (size_t)cfg->size * 3;
    *tiles = (struct tiles){.size = cfg->size,
                            .max_tiles = cfg->max_tiles,
                            .n = canvas.rows * canvas.cols,
                            .rows = canvas.rows,
                            .cols = canvas.cols,
                            .aspect_ratio_id = canvas.aspect_ratio_id};
    enum mll_status status = MLL_OK;
    uint8_t *rgb = malloc((size_t)canvas.new_w * (size_t)canvas.new_h * 3);
    tiles->pixels = calloc((size_t)cfg->max_tiles, tile * sizeof *tiles->pixels);
    if (!rgb || !tiles->pixels)
        status = mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %d tiles of %dx%d pixels",
                          cfg->max_tiles, cfg->size, cfg->size);
    else
        status =
            pre_resize_bilinear(rgb, img->rgb, img->w, img->h, canvas.new_w, canvas.new_h, err);
    if (status == MLL_OK) {
        float table[3][256];
        fill_tables(table, cfg);
        for (int i = 0; i < tiles->n; i++)
            cut_tile(tiles->pixels + (size_t)i * tile, cfg->size, rgb, &canvas,
                     i % canvas.cols * cfg->size, i / canvas.cols * cfg->size, table);
    } else {
        pre_tiles_free(tiles);
    }
    free(rgb);
    return status;
}

void pre_tiles_free(struct tiles *tiles)
{
    if (!tiles)
        return;
    free(tiles->pixels);
    *tiles = (struct tiles){0};
}
