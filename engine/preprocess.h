/* preprocess.h - stage 2: an image becomes tiles, as MllamaImageProcessor does it.
 *
 * Canvas choice, aspect-preserving resize (bit-exact to Pillow's BILINEAR, horizontal pass first),
 * zero padding right and bottom, rescale, normalise, cut into tiles row-major. */
#ifndef MLL_PREPROCESS_H
#define MLL_PREPROCESS_H

#include "config.h"
#include "image.h"

struct tiles {
    float *pixels;       /* (max_tiles, 3, size, size), owned; missing tiles are exactly 0 */
    int size, max_tiles; /* from the configuration */
    int n;               /* tiles in use = rows * cols */
    int rows, cols;
    int aspect_ratio_id; /* 1.. ; index of (rows, cols) in supported_aspect_ratios + 1 */
};

/* The canvas of an image in (rows, cols) tiles and the size that the image is resized to. */
struct canvas {
    int rows, cols, aspect_ratio_id;
    int new_w, new_h;
};

struct canvas pre_choose_canvas(int w, int h, int tile_size, int max_tiles);
/* Pillow's Image.resize((new_w, new_h), BILINEAR) on RGB. dst (new_h, new_w, 3). */
enum mll_status pre_resize_bilinear(uint8_t *dst, const uint8_t *src, int w, int h, int new_w,
                                    int new_h, struct mll_error *err);
enum mll_status pre_tiles(struct tiles *tiles, const struct image *img,
                          const struct cfg_preprocess *cfg, struct mll_error *err);
void pre_tiles_free(struct tiles *tiles);

#endif
