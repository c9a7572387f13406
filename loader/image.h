/* image.h - image files to upright 8-bit RGB.
 *
 * PNG (libpng) and JPEG (libjpeg-turbo), told apart by their first bytes, never by name. Pixels
 * equal what Pillow and HF's convert_to_rgb give: transparency over white, 16-bit gray clipped at
 * 255, gamma and colour profiles ignored, the default image of an animated PNG. EXIF orientation is
 * applied; a malformed one counts as upright. Sizes are capped before anything is allocated:
 * pixels, sides, bytes of a file, scans of a JPEG, chunks of a PNG.
 *
 * Errors: IMAGE_FORMAT (not a PNG or JPEG; not a regular file), IMAGE_TRUNCATED, IMAGE_CORRUPT,
 * IMAGE_TOO_LARGE, NO_MEMORY; from img_load also NOT_FOUND and IO. On failure *img is zeroed. */
#ifndef MLL_IMAGE_H
#define MLL_IMAGE_H

#include "base.h"

#define IMG_MAX_PIXELS     89478485u /* Pillow's own warning line */
#define IMG_MAX_SIDE       1000000u
#define IMG_MAX_FILE_BYTES 268435456u

struct image {
    int w, h;
    uint8_t *rgb; /* (h, w, 3), owned; free with img_free */
};

struct img_options {
    bool ignore_exif;    /* leave the stored orientation */
    bool lenient;        /* accept a file that ends early, header read; what is missing is gray */
    uint64_t max_pixels; /* 0: IMG_MAX_PIXELS */
};

/* Decodes one file's bytes. name is used in messages only. opt may be NULL. */
enum mll_status img_decode(struct image *img, const void *bytes, size_t size, const char *name,
                           const struct img_options *opt, struct mll_error *err);
/* Reads a regular file of at most IMG_MAX_FILE_BYTES (never a FIFO or device, never blocking) and
 * decodes it. */
enum mll_status img_load(struct image *img, const char *path, const struct img_options *opt,
                         struct mll_error *err);
void img_free(struct image *img); /* NULL and zeroed structs allowed */

#endif
