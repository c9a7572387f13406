/* image.h - image files to upright 8-bit RGB.
 *
 * PNG (libpng) and JPEG (libjpeg-turbo), told apart by their first bytes. Transparency is composited
 * over white, as HF's convert_to_rgb does; EXIF orientation is applied. Sizes are capped before
 * anything is allocated. */
#ifndef MLL_IMAGE_H
#define MLL_IMAGE_H

#include "base.h"

#define IMG_MAX_PIXELS 89478485u /* Pillow's own warning line */

struct image {
    int w, h;
    uint8_t *rgb; /* (h, w, 3), owned; free with img_free */
};

struct img_options {
    bool ignore_exif;      /* leave the stored orientation */
    bool lenient;          /* accept a truncated file; missing rows stay gray */
    uint64_t max_pixels;   /* 0: IMG_MAX_PIXELS */
};

/* Decodes one file's bytes. name is used in messages only. opt may be NULL. */
enum mll_status img_decode(struct image *img, const void *bytes, size_t size, const char *name,
                           const struct img_options *opt, struct mll_error *err);
/* Reads a regular file (never a FIFO or device) and decodes it. */
enum mll_status img_load(struct image *img, const char *path, const struct img_options *opt,
                         struct mll_error *err);
void img_free(struct image *img); /* NULL and zeroed structs allowed */

#endif
