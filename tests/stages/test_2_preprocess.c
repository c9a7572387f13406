/* test_2_preprocess.c - canvas, resize and tiles against Pillow and MllamaImageProcessorPil, whose
 * results tests/golden/make_images.py stored as hashes. */
#include "hash64.h"
#include "preprocess.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IMAGES MLL_SOURCE_DIR "/tests/golden/images/"

static const struct cfg_preprocess released = {
    .size = 560,
    .max_tiles = 4,
    .mean = {0.48145466f, 0.4578275f, 0.40821073f},
    .std = {0.26862954f, 0.26130258f, 0.27577711f},
    .rescale = 0.00392156862745098,
};

/* noise() of the script: byte i is bits 24.. of i * 2654435761 + i * i. */
static void fill_noise(struct image *img, int w, int h)
{
    size_t n = (size_t)w * (size_t)h * 3;
    *img = (struct image){.w = w, .h = h, .rgb = malloc(n)};
    for (size_t i = 0; i < n; i++)
        img->rgb[i] = (uint8_t)((i * 2654435761u + i * i) >> 24 & 255);
}

static void check_row(const char *line)
{
    int w, h, rows, cols, id, new_w, new_h;
    unsigned long long resized, pixels;
    struct cfg_preprocess cfg = released;
    cr_assert(sscanf(line, "%d %d %d %d %d %d %d %d %d %llx %llx", &w, &h, &cfg.size,
                     &cfg.max_tiles, &rows, &cols, &id, &new_w, &new_h, &resized, &pixels) == 11);
    struct image img;
    struct tiles tiles;
    struct canvas canvas = pre_choose_canvas(w, h, cfg.size, cfg.max_tiles);
    cr_expect(canvas.rows == rows && canvas.cols == cols && canvas.aspect_ratio_id == id &&
                  canvas.new_w == new_w && canvas.new_h == new_h,
              "%d %d: canvas %dx%d id %d, new size %dx%d; expected %s", w, h, canvas.rows,
              canvas.cols, canvas.aspect_ratio_id, canvas.new_w, canvas.new_h, line);
    fill_noise(&img, w, h);
    uint8_t *rgb = malloc((size_t)new_w * (size_t)new_h * 3);
    cr_assert(pre_resize_bilinear(rgb, img.rgb, w, h, new_w, new_h, NULL) == MLL_OK);
    cr_expect(hash64(rgb, (size_t)new_w * (size_t)new_h * 3) == resized, "%dx%d to %dx%d differs",
              w, h, new_w, new_h);
    cr_assert(pre_tiles(&tiles, &img, &cfg, NULL) == MLL_OK);
    cr_expect(tiles.n == rows * cols && tiles.aspect_ratio_id == id);
    size_t n = (size_t)cfg.max_tiles * 3 * (size_t)cfg.size * (size_t)cfg.size;
    cr_expect(hash64(tiles.pixels, n * sizeof *tiles.pixels) == pixels,
              "%dx%d: pixel_values differ", w, h);
    pre_tiles_free(&tiles);
    free(rgb);
    free(img.rgb);
}

Test(preprocess, equals_the_hf_processor_bit_for_bit_on_300_sizes)
{
    char line[256];
    int n = 0;
    FILE *table = fopen(IMAGES "preprocess.txt", "r");
    cr_assert(table != NULL);
    while (fgets(line, sizeof line, table))
        if (line[0] != '#') {
            check_row(line);
            n++;
        }
    fclose(table);
    cr_expect(n >= 300, "%d sizes", n);
}

/* canvas_sizes() of the script. */
static size_t canvas_sizes(int *sizes)
{
    size_t n = 0;
    while (n < 40 || sizes[n - 1] < 1000000) {
        sizes[n] = n < 40 ? (int)n + 1 : sizes[n - 1] * 11 / 10 + 1;
        n++;
    }
    return n;
}

Test(preprocess, canvas_and_size_equal_hf_up_to_a_million_pixels_a_side)
{
    char line[256];
    int sizes[256], tile, max_tiles;
    size_t n = canvas_sizes(sizes);
    unsigned long long expected;
    int32_t *out = malloc(n * n * 5 * sizeof *out);
    FILE *table = fopen(IMAGES "canvas.txt", "r");
    cr_assert(table != NULL);
    while (fgets(line, sizeof line, table)) {
        int32_t *o = out;
        if (line[0] == '#')
            continue;
        cr_assert(sscanf(line, "%d %d %llx", &tile, &max_tiles, &expected) == 3);
        for (size_t i = 0; i < n * n; i++) {
            struct canvas c = pre_choose_canvas(sizes[i / n], sizes[i % n], tile, max_tiles);
            *o++ = c.rows;
            *o++ = c.cols;
            *o++ = c.aspect_ratio_id;
            *o++ = c.new_w;
            *o++ = c.new_h;
        }
        cr_expect(hash64(out, n * n * 5 * sizeof *out) == expected, "tile %d, %d tiles", tile,
                  max_tiles);
    }
    fclose(table);
    free(out);
}

static void expect_canvas(int h, int w, int rows, int cols, int id, int new_h, int new_w)
{
    struct canvas c = pre_choose_canvas(w, h, 560, 4);
    cr_expect(c.rows == rows && c.cols == cols && c.aspect_ratio_id == id && c.new_h == new_h &&
                  c.new_w == new_w,
              "%dx%d -> %dx%d id %d, %dx%d", h, w, c.rows, c.cols, c.aspect_ratio_id, c.new_h,
              c.new_w);
}

Test(preprocess, known_sizes_of_the_released_model)
{
    expect_canvas(1180, 1770, 2, 2, 6, 746, 1120);
    expect_canvas(2000, 700, 3, 1, 7, 1600, 560);
    expect_canvas(4032, 3024, 2, 2, 6, 1120, 840);
    expect_canvas(300, 2000, 1, 4, 4, 300, 2000);
    expect_canvas(561, 560, 2, 1, 5, 561, 560);
    expect_canvas(100, 100, 1, 1, 1, 560, 560);
    expect_canvas(100, 85, 1, 1, 1, 560, 475); /* 476 but for the rounding of 560 / 100 */
    expect_canvas(1, 2241, 1, 4, 4, 1, 2240);  /* a side that would be 0 is 1 */
}

static void expect_tiles(int w, int h)
{
    struct cfg_preprocess cfg = released;
    cfg.size = 16;
    struct image img;
    struct tiles tiles;
    fill_noise(&img, w, h);
    cr_assert(pre_tiles(&tiles, &img, &cfg, NULL) == MLL_OK, "%dx%d", w, h);
    cr_assert(tiles.n >= 1 && tiles.n <= 4 && tiles.n == tiles.rows * tiles.cols, "%dx%d", w, h);
    size_t tile = 3 * 16 * 16;
    for (size_t i = (size_t)tiles.n * tile; i < 4 * tile; i++)
        cr_assert(tiles.pixels[i] == 0.0f, "%dx%d: a missing tile is not 0", w, h);
    pre_tiles_free(&tiles);
    free(img.rgb);
}

Test(preprocess, every_size_up_to_64_and_extreme_ratios_give_tiles)
{
    for (int w = 1; w <= 64; w++)
        for (int h = 1; h <= 64; h++)
            expect_tiles(w, h);
    for (int i = 0; i < 100; i++) {
        int length = 100 + i * i * 10, thickness = 1 + i % 7;
        expect_tiles(length, thickness);
        expect_tiles(thickness, length);
    }
    expect_tiles(1000000, 1);
    expect_tiles(1, 1000000);
}

Test(preprocess, canvas_of_absurd_sizes_is_in_range)
{
    static const int sides[] = {1, 2, 16777217, 2147483646, 2147483647};
    for (size_t i = 0; i < 25; i++) {
        struct canvas c = pre_choose_canvas(sides[i / 5], sides[i % 5], 560, 4);
        cr_expect(c.new_w >= 1 && c.new_w <= c.cols * 560 && c.new_h >= 1 &&
                  c.new_h <= c.rows * 560);
    }
}
