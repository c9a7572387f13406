/* image_jpeg.c - JPEG to RGB through libjpeg-turbo, equal to Pillow pixel for pixel.
 *
 * libjpeg's defaults are Pillow's: the ISLOW transform, fancy upsampling, block smoothing. Gray is
 * repeated in the three channels. Four components are taken as Adobe's inverted CMYK, whatever the
 * markers say, and become RGB by (255 - ink) * (255 - black) / 255, rounded.
 *
 * libjpeg reports errors by a call that must not return: it jumps back to decode_guarded, the only
 * function with a setjmp. What must be freed lives in struct jpeg_reader, outside that frame.
 * A file that ends early makes libjpeg warn and invent an end; strict mode turns that into an
 * error. Scans are capped because a small file can ask for the whole image to be visited thousands
 * of times; the cap shrinks for large images. */
#include "image_codec.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

enum { MAX_SCANS = 100 };
static const uint64_t max_scanned_pixels =
    2000000000;                               /* scans * pixels, beyond the first 12 scans */
static const uint64_t fixed_bytes = 16 << 20; /* libjpeg's own needs beside coefficients */
static const char exif_magic[6] = "Exif\0";

struct jpeg_reader {
    struct jpeg_decompress_struct dinfo;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    struct image *img;
    const struct img_source *src;
    struct mll_error *err;
    enum mll_status status; /* what the escape stands for */
    bool truncated;
};

static _Noreturn void escape_with(struct jpeg_reader *r, enum mll_status status)
{
    r->status = status;
    longjmp(r->escape, 1);
}

static void on_error(j_common_ptr cinfo)
{
    struct jpeg_reader *r = cinfo->client_data;
    char message[JMSG_LENGTH_MAX];
    cinfo->err->format_message(cinfo, message);
    enum mll_status status = MLL_ERR_IMAGE_CORRUPT;
    if (cinfo->err->msg_code == JERR_OUT_OF_MEMORY)
        status = MLL_ERR_NO_MEMORY;
    else if (cinfo->err->msg_code == JERR_NO_BACKING_STORE)
        status = MLL_ERR_IMAGE_TOO_LARGE;
    else if (r->truncated)
        status = MLL_ERR_IMAGE_TRUNCATED;
    escape_with(r, mll_fail(r->err, status, "%s: JPEG: %s", r->src->name, message));
}

/* Level -1 is a warning about the data. All but an early end are tolerated, as Pillow does. */
static void on_message(j_common_ptr cinfo, int level)
{
    struct jpeg_reader *r = cinfo->client_data;
    if (level >= 0 || cinfo->err->msg_code != JWRN_JPEG_EOF)
        return;
    r->truncated = true;
    if (!r->src->lenient)
        escape_with(r, mll_fail(r->err, MLL_ERR_IMAGE_TRUNCATED,
                                "%s: JPEG ends early, after %zu "
                                "bytes",
                                r->src->name, r->src->size));
}

static void on_progress(j_common_ptr cinfo)
{
    struct jpeg_reader *r = cinfo->client_data;
    uint64_t scan = (uint64_t)r->dinfo.input_scan_number;
    uint64_t pixels = (uint64_t)r->dinfo.image_width * r->dinfo.image_height;
    if (scan > MAX_SCANS || (scan > 12 && scan * pixels > max_scanned_pixels))
        escape_with(r, mll_fail(r->err, MLL_ERR_IMAGE_TOO_LARGE,
                                "%s: JPEG: scan %d of a %ux%u "
                                "image; the limit is %d scans, fewer for large images",
                                r->src->name, (int)scan, r->dinfo.image_width,
                                r->dinfo.image_height, MAX_SCANS));
}

static int find_orientation(const struct jpeg_decompress_struct *dinfo)
{
    for (const struct jpeg_marker_struct *m = dinfo->marker_list; m; m = m->next)
        if (m->marker == JPEG_APP0 + 1 && m->data_length > sizeof exif_magic &&
            memcmp(m->data, exif_magic, sizeof exif_magic) == 0)
            return img_exif_orientation(m->data + sizeof exif_magic,
                                        m->data_length - sizeof exif_magic);
    return 1;
}

/* a * b / 255, rounded. */
static unsigned scale_255(unsigned a, unsigned b)
{
    unsigned t = a * b + 128;
    return (t + (t >> 8)) >> 8;
}

/* cmyk holds 255 - ink, so that a product of two of them is what both inks let through. */
static void cmyk_to_rgb(uint8_t *rgb, const uint8_t *cmyk, int w)
{
    for (int x = 0; x < w; x++, rgb += 3, cmyk += 4)
        for (int c = 0; c < 3; c++) {
            unsigned light = cmyk[3], absorbed = scale_255(255u - cmyk[c], light);
            rgb[c] = (uint8_t)(light - absorbed);
        }
}

static void read_rows(struct jpeg_reader *r)
{
    struct jpeg_decompress_struct *d = &r->dinfo;
    size_t stride = (size_t)r->img->w * 3;
    JSAMPARRAY cmyk = NULL;
    if (d->out_color_space == JCS_CMYK)
        cmyk = d->mem->alloc_sarray((j_common_ptr)d, JPOOL_IMAGE, d->output_width * 4, 1);
    while (d->output_scanline < d->output_height) {
        JSAMPROW row = r->img->rgb + d->output_scanline * stride;
        jpeg_read_scanlines(d, cmyk ? cmyk : &row, 1);
        if (cmyk)
            cmyk_to_rgb(row, cmyk[0], r->img->w);
    }
}

static void decode_guarded(struct jpeg_reader *r, int *orientation)
{
    struct jpeg_decompress_struct *d = &r->dinfo;
    if (setjmp(r->escape))
        return;
    jpeg_create_decompress(d);
    d->progress = &r->progress;
    jpeg_mem_src(d, r->src->bytes, r->src->size);
    jpeg_save_markers(d, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(d, TRUE);
    if (d->num_components != 1 && d->num_components != 3 && d->num_components != 4)
        escape_with(r, mll_fail(r->err, MLL_ERR_IMAGE_CORRUPT, "%s: JPEG of %d components",
                                r->src->name, d->num_components));
    *orientation = find_orientation(d);
    enum mll_status status = img_reserve(r->img, r->src, d->image_width, d->image_height, r->err);
    if (status != MLL_OK)
        escape_with(r, status);
    /* A progressive file's coefficients: two bytes a sample, blocks padded to whole MCUs. */
    uint64_t samples = ((uint64_t)d->image_width + 32) * ((uint64_t)d->image_height + 32);
    d->mem->max_memory_to_use =
        (long)(samples * 2 * (unsigned)d->num_components + r->src->size + fixed_bytes);
    d->out_color_space = d->num_components == 4 ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(d);
    read_rows(r);
    jpeg_finish_decompress(d);
    r->status = MLL_OK;
}

enum mll_status img_decode_jpeg(struct image *img, int *orientation, const struct img_source *src,
                                struct mll_error *err)
{
    struct jpeg_reader r = {.img = img, .src = src, .err = err, .status = MLL_ERR_INTERNAL};
    r.dinfo.err = jpeg_std_error(&r.errors);
    r.dinfo.client_data = &r;
    r.errors.error_exit = on_error;
    r.errors.emit_message = on_message;
    r.progress.progress_monitor = on_progress;
    decode_guarded(&r, orientation);
    jpeg_destroy_decompress(&r.dinfo);
    return r.status;
}
