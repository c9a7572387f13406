/* image_codec.h - what the two decoders behind image.h share. */
#ifndef MLL_IMAGE_CODEC_H
#define MLL_IMAGE_CODEC_H

#include "image.h"

/* One file in memory and how to read it. */
struct img_source {
    const uint8_t *bytes;
    size_t size;
    const char *name;    /* for messages */
    uint64_t max_pixels; /* never 0 */
    bool lenient;
};

/* Checks w and h against the cap and allocates img->rgb. Rows that a truncated file lacks keep the
 * gray that the buffer is filled with in lenient mode. */
enum mll_status img_reserve(struct image *img, const struct img_source *src, uint64_t w, uint64_t h,
                            struct mll_error *err);

/* Decode into img as stored and report the orientation (1-8) that the file asks for. On failure img
 * may hold a buffer; the caller frees it. */
enum mll_status img_decode_png(struct image *img, int *orientation, const struct img_source *src,
                               struct mll_error *err);
enum mll_status img_decode_jpeg(struct image *img, int *orientation, const struct img_source *src,
                                struct mll_error *err);

/* Orientation (1-8) of a TIFF block as EXIF stores it; 1 where it has none or is malformed. */
int img_exif_orientation(const uint8_t *tiff, size_t size);

#endif
