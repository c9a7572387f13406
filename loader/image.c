/* image.c - one image file: read, told apart, decoded, turned upright.  Contract: image.h. */
#include "image.h"
#include "image_codec.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint8_t png_magic[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
static const uint8_t jpeg_magic[3] = {0xff, 0xd8, 0xff};

/* Formats that people do pass, named so that the message helps. */
static const struct known_format {
    const char *name;
    size_t offset;
    const char *magic;
} known_formats[] = {
    {"GIF", 0, "GIF8"},       {"BMP", 0, "BM"},           {"PDF", 0, "%PDF"},
    {"WebP", 8, "WEBP"},      {"TIFF", 0, "II*"},         {"TIFF", 0, "MM"},
    {"HEIC", 4, "ftyphei"},   {"HEIC", 4, "ftypmif1"},    {"AVIF", 4, "ftypavif"},
    {"JPEG XL", 4, "JXL \r"}, {"JPEG 2000", 4, "jP  \r"}, {"SVG or XML", 0, "<"},
};

static bool starts_with(const struct img_source *src, size_t offset, const void *magic, size_t n)
{
    return src->size >= offset + n && memcmp(src->bytes + offset, magic, n) == 0;
}

static enum mll_status refuse_format(const struct img_source *src, struct mll_error *err)
{
    if (src->size == 0)
        return mll_fail(err, MLL_ERR_IMAGE_FORMAT, "%s: empty file", src->name);
    for (size_t i = 0; i < sizeof known_formats / sizeof *known_formats; i++) {
        const struct known_format *f = &known_formats[i];
        if (starts_with(src, f->offset, f->magic, strlen(f->magic)))
            return mll_fail(err, MLL_ERR_IMAGE_FORMAT,
                            "%s: looks like %s; only PNG and JPEG are read", src->name, f->name);
    }
    return mll_fail(err, MLL_ERR_IMAGE_FORMAT, "%s: neither PNG nor JPEG", src->name);
}

enum mll_status img_reserve(struct image *img, const struct img_source *src, uint64_t w, uint64_t h,
                            struct mll_error *err)
{
    if (w == 0 || h == 0)
        return mll_fail(err, MLL_ERR_IMAGE_CORRUPT, "%s: no pixels (%llux%llu)", src->name,
                        (unsigned long long)w, (unsigned long long)h);
    if (w > IMG_MAX_SIDE || h > IMG_MAX_SIDE || w * h > src->max_pixels)
        return mll_fail(err, MLL_ERR_IMAGE_TOO_LARGE,
                        "%s: %llux%llu pixels; the limit is %llu, and %u a side", src->name,
                        (unsigned long long)w, (unsigned long long)h,
                        (unsigned long long)src->max_pixels, IMG_MAX_SIDE);
    size_t bytes;
    img->rgb = mll_mul_size(&bytes, (size_t)(w * h), 3) ? malloc(bytes) : NULL;
    if (!img->rgb)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "%s: no memory for %llux%llu pixels", src->name,
                        (unsigned long long)w, (unsigned long long)h);
    img->w = (int)w;
    img->h = (int)h;
    if (src->lenient)
        memset(img->rgb, 128, bytes);
    return MLL_OK;
}

/* EXIF: 2 mirrored, 3 turned by 180 degrees, 4 both; 5 to 8 have rows and columns exchanged. A
 * pixel of the upright image is at start + x * dx + y * dy of the stored one. */
static enum mll_status turn_upright(struct image *img, int orientation, struct mll_error *err)
{
    if (orientation == 1)
        return MLL_OK;
    ptrdiff_t w = img->w, h = img->h;
    bool swapped = orientation >= 5;
    bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    ptrdiff_t along = from_right ? -1 : 1, down = from_bottom ? -w : w;
    ptrdiff_t start = (from_right ? w - 1 : 0) + (from_bottom ? (h - 1) * w : 0);
    ptrdiff_t dx = swapped ? down : along, dy = swapped ? along : down;
    uint8_t *rgb = malloc((size_t)w * (size_t)h * 3), *out = rgb;
    if (!rgb)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory to turn %dx%d pixels", img->w, img->h);
    if (swapped) {
        img->w = (int)h;
        img->h = (int)w;
    }
    for (ptrdiff_t y = 0; y < img->h; y++)
        for (ptrdiff_t x = 0; x < img->w; x++, out += 3)
            memcpy(out, img->rgb + (start + x * dx + y * dy) * 3, 3);
    free(img->rgb);
    img->rgb = rgb;
    return MLL_OK;
}

enum mll_status img_decode(struct image *img, const void *bytes, size_t size, const char *name,
                           const struct img_options *opt, struct mll_error *err)
{
    static const struct img_options defaults;
    opt = opt ? opt : &defaults;
    struct img_source src = {.bytes = bytes,
                             .size = size,
                             .name = name,
                             .max_pixels = opt->max_pixels ? opt->max_pixels : IMG_MAX_PIXELS,
                             .lenient = opt->lenient};
    int orientation = 1;
    enum mll_status status;
    *img = (struct image){0};
    if (starts_with(&src, 0, png_magic, sizeof png_magic))
        status = img_decode_png(img, &orientation, &src, err);
    else if (starts_with(&src, 0, jpeg_magic, sizeof jpeg_magic))
        status = img_decode_jpeg(img, &orientation, &src, err);
    else
        status = refuse_format(&src, err);
    if (status == MLL_OK && !opt->ignore_exif)
        status = turn_upright(img, orientation, err);
    if (status != MLL_OK)
        img_free(img);
    return status;
}

/* Reads until size bytes or the end: a file may shrink meanwhile, and what is left is decoded. */
static enum mll_status read_all(int fd, uint8_t *bytes, size_t *size, const char *path,
                                struct mll_error *err)
{
    size_t at = 0;
    while (at < *size) {
        ssize_t n = read(fd, bytes + at, *size - at);
        if (n < 0 && errno != EINTR)
            return mll_fail(err, MLL_ERR_IO, "%s: %s", path, strerror(errno));
        if (n == 0)
            break;
        at += n > 0 ? (size_t)n : 0;
    }
    *size = at;
    return MLL_OK;
}

static enum mll_status load_open(struct image *img, int fd, const char *path,
                                 const struct img_options *opt, struct mll_error *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return mll_fail(err, MLL_ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return mll_fail(err, MLL_ERR_IMAGE_FORMAT, "%s: not a regular file", path);
    if ((uint64_t)st.st_size > IMG_MAX_FILE_BYTES)
        return mll_fail(err, MLL_ERR_IMAGE_TOO_LARGE, "%s: %lld bytes; the limit is %u", path,
                        (long long)st.st_size, IMG_MAX_FILE_BYTES);
    size_t size = (size_t)st.st_size;
    uint8_t *bytes = malloc(size ? size : 1);
    if (!bytes)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "%s: no memory for %zu bytes", path, size);
    enum mll_status status = read_all(fd, bytes, &size, path, err);
    if (status == MLL_OK)
        status = img_decode(img, bytes, size, path, opt, err);
    free(bytes);
    return status;
}

enum mll_status img_load(struct image *img, const char *path, const struct img_options *opt,
                         struct mll_error *err)
{
    *img = (struct image){0};
    /* O_NONBLOCK: opening a FIFO without a writer must not wait. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return mll_fail(err, errno == ENOENT || errno == ENOTDIR ? MLL_ERR_NOT_FOUND : MLL_ERR_IO,
                        "%s: %s", path, strerror(errno));
    enum mll_status status = load_open(img, fd, path, opt, err);
    close(fd);
    return status;
}

void img_free(struct image *img)
{
    if (!img)
        return;
    free(img->rgb);
    *img = (struct image){0};
}
