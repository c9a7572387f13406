/* image_png.c - PNG to RGB through libpng, equal to what HF makes of a file opened by Pillow.
 *
 * libpng only unpacks small samples to bytes; samples become RGB here, because Pillow's rules are
 * not libpng's:
 *   - 16-bit gray is clipped at 255, other 16-bit samples keep their high byte;
 *   - gray of 1, 2 and 4 bits is spread over 0..255;
 *   - a palette index beyond the palette is black;
 *   - gamma, colour profiles and backgrounds are ignored;
 *   - transparency is composited over white: alpha, palette alpha, or the one colour of tRNS. That
 *     colour is compared with the 8-bit sample above as Pillow compares it: its low byte, unscaled
 *     (1 bit: any value but 0 means white).
 * Interlaced files are read pass by pass and scattered, so that no second image is held.
 *
 * libpng reports errors by a call that must not return: it jumps back to decode_guarded, the only
 * function with a setjmp. What must be freed lives in struct png_reader, outside that frame.
 * Text and colour chunks are skipped unread; chunk counts and sizes are capped. */
#include "image_codec.h"

#include <stdlib.h>
#include <string.h>

#include <png.h>

enum { MAX_CHUNK_BYTES = 8000000, MAX_CACHED_CHUNKS = 128 };

struct png_reader {
    png_structp png;
    png_infop info;
    struct image *img;
    const struct img_source *src;
    struct mll_error *err;
    enum mll_status status; /* what the escape stands for */
    size_t at;              /* bytes read */
    bool truncated;
    uint8_t *row; /* one row as libpng gives it: samples of 1 or 2 bytes */
    int channels, sample_bytes;
    unsigned spread;       /* 255 / the largest sample, below 8 bits */
    bool indexed, clipped; /* palette; 16-bit gray */
    bool keyed;            /* tRNS names one transparent colour: key */
    unsigned key[3];
    uint8_t palette[256][3]; /* over white already */
};

static void on_error(png_structp png, png_const_charp message)
{
    struct png_reader *r = png_get_error_ptr(png);
    bool no_memory = strstr(message, "memory") != NULL; /* libpng has no codes */
    if (r->truncated && r->src->lenient && r->img->rgb)
        r->status = MLL_OK;
    else if (r->truncated)
        r->status = mll_fail(r->err, MLL_ERR_IMAGE_TRUNCATED, "%s: PNG ends early, after %zu bytes",
                             r->src->name, r->src->size);
    else
        r->status = mll_fail(r->err, no_memory ? MLL_ERR_NO_MEMORY : MLL_ERR_IMAGE_CORRUPT,
                             "%s: PNG: %s", r->src->name, message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void on_read(png_structp png, png_bytep out, size_t n)
{
    struct png_reader *r = png_get_io_ptr(png);
    if (n > r->src->size - r->at) {
        r->truncated = true;
        png_error(png, "truncated");
    }
    memcpy(out, r->src->bytes + r->at, n);
    r->at += n;
}

static void set_limits(png_structp png, bool lenient)
{
    /* img_reserve judges the size, with a better message and before libpng allocates a row. */
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_set_chunk_cache_max(png, MAX_CACHED_CHUNKS);
    png_set_chunk_malloc_max(png, MAX_CHUNK_BYTES);
    png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    /* All that changes no pixel is skipped. EXIF by name too: not every libpng counts it so. */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, (png_const_bytep) "eXIf", 1);
    png_set_check_for_invalid_index(png, -1);
    /* What is asked for at once is lost at once where the file ends. */
    if (lenient)
        png_set_compression_buffer_size(png, 64);
}

/* Pillow's alpha_composite on opaque white: (a * v + (255 - a) * 255) / 255 with seven extra bits.
 */
static uint8_t over_white(unsigned v, unsigned a)
{
    unsigned t = (a * v + (255 - a) * 255 + 128) << 7;
    return (uint8_t)((t + (t >> 8)) >> 15);
}

static void read_palette(struct png_reader *r)
{
    png_colorp colors = NULL;
    png_bytep alpha = NULL;
    int n_colors = 0, n_alpha = 0;
    png_get_PLTE(r->png, r->info, &colors, &n_colors);
    png_get_tRNS(r->png, r->info, &alpha, &n_alpha, NULL);
    for (int i = 0; i < 256; i++) {
        png_color color = i < n_colors ? colors[i] : (png_color){0, 0, 0};
        unsigned a = i < n_alpha ? alpha[i] : 255;
        r->palette[i][0] = over_white(color.red, a);
        r->palette[i][1] = over_white(color.green, a);
        r->palette[i][2] = over_white(color.blue, a);
    }
}

static void read_key(struct png_reader *r, int depth)
{
    png_color_16p key = NULL;
    if (!png_get_tRNS(r->png, r->info, NULL, NULL, &key) || !key)
        return;
    r->keyed = true;
    if (r->channels == 1) {
        r->key[0] = depth == 1 ? (key->gray ? 255 : 0) : key->gray & 255;
    } else {
        r->key[0] = key->red & 255;
        r->key[1] = key->green & 255;
        r->key[2] = key->blue & 255;
    }
}

static void read_format(struct png_reader *r)
{
    int depth = png_get_bit_depth(r->png, r->info);
    png_set_packing(r->png);
    r->channels = png_get_channels(r->png, r->info);
    r->sample_bytes = depth == 16 ? 2 : 1;
    r->indexed = png_get_color_type(r->png, r->info) == PNG_COLOR_TYPE_PALETTE;
    r->clipped = depth == 16 && r->channels == 1;
    r->spread = depth < 8 ? 255u / ((1u << depth) - 1) : 1;
    if (r->indexed)
        read_palette(r);
    else if (r->channels == 1 || r->channels == 3)
        read_key(r, depth);
}

static unsigned sample(const struct png_reader *r, size_t n)
{
    const uint8_t *s = r->row + n * (size_t)r->sample_bytes;
    if (r->clipped)
        return s[0] ? 255 : s[1];
    return s[0] * r->spread;
}

static void put_pixel(uint8_t *rgb, const struct png_reader *r, size_t x)
{
    unsigned v[4] = {0}, alpha = 255;
    for (int c = 0; c < r->channels; c++)
        v[c] = sample(r, x * (size_t)r->channels + (size_t)c);
    bool gray = r->channels <= 2;
    if (r->channels == 2 || r->channels == 4)
        alpha = v[r->channels - 1];
    else if (r->keyed && v[0] == r->key[0] && (gray || (v[1] == r->key[1] && v[2] == r->key[2])))
        alpha = 0;
    for (int c = 0; c < 3; c++)
        rgb[c] = over_white(v[gray ? 0 : c], alpha);
}

/* The n pixels of r->row to every step-th pixel from rgb on. */
static void put_row(uint8_t *rgb, const struct png_reader *r, size_t n, size_t step)
{
    for (size_t x = 0; x < n; x++, rgb += 3 * step) {
        if (r->indexed)
            memcpy(rgb, r->palette[r->row[x]], 3);
        else
            put_pixel(rgb, r, x);
    }
}

static void read_rows(struct png_reader *r)
{
    size_t stride = (size_t)r->img->w * 3;
    for (int y = 0; y < r->img->h; y++) {
        png_read_row(r->png, r->row, NULL);
        put_row(r->img->rgb + (size_t)y * stride, r, (size_t)r->img->w, 1);
    }
}

static void read_passes(struct png_reader *r)
{
    png_uint_32 w = (png_uint_32)r->img->w, h = (png_uint_32)r->img->h;
    for (int pass = 0; pass < PNG_INTERLACE_ADAM7_PASSES; pass++) {
        size_t n = PNG_PASS_COLS(w, pass), rows = n ? PNG_PASS_ROWS(h, pass) : 0;
        for (size_t i = 0; i < rows; i++) {
            size_t y = PNG_ROW_FROM_PASS_ROW(i, pass), x = PNG_PASS_START_COL(pass);
            png_read_row(r->png, r->row, NULL);
            put_row(r->img->rgb + (y * w + x) * 3, r, n, PNG_PASS_COL_OFFSET(pass));
        }
    }
}

/* libpng would allocate whatever size an eXIf chunk claims; the bytes are here anyway. */
static int find_orientation(const struct img_source *src)
{
    int orientation = 1;
    for (size_t at = 8, n; src->size - at >= 12; at += n + 12) {
        const uint8_t *chunk = src->bytes + at;
        n = png_get_uint_32(chunk);
        if (n > src->size - at - 12 || memcmp(chunk + 4, "IEND", 4) == 0)
            break;
        if (memcmp(chunk + 4, "eXIf", 4) == 0)
            orientation = img_exif_orientation(chunk + 8, n);
    }
    return orientation;
}

static void decode_guarded(struct png_reader *r)
{
    if (setjmp(png_jmpbuf(r->png)))
        return;
    png_set_read_fn(r->png, r, on_read);
    set_limits(r->png, r->src->lenient);
    png_read_info(r->png, r->info);
    r->status = img_reserve(r->img, r->src, png_get_image_width(r->png, r->info),
                            png_get_image_height(r->png, r->info), r->err);
    if (r->status != MLL_OK)
        return;
    read_format(r);
    png_read_update_info(r->png, r->info);
    r->row = malloc(png_get_rowbytes(r->png, r->info));
    if (!r->row) {
        r->status = mll_fail(r->err, MLL_ERR_NO_MEMORY, "%s: no memory for a row", r->src->name);
        return;
    }
    if (png_get_interlace_type(r->png, r->info) == PNG_INTERLACE_NONE)
        read_rows(r);
    else
        read_passes(r);
    png_read_end(r->png, NULL);
}

enum mll_status img_decode_png(struct image *img, int *orientation, const struct img_source *src,
                               struct mll_error *err)
{
    struct png_reader r = {.img = img, .src = src, .err = err};
    r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, on_error, on_warning);
    r.info = r.png ? png_create_info_struct(r.png) : NULL;
    if (r.info)
        decode_guarded(&r);
    else
        r.status = mll_fail(err, MLL_ERR_NO_MEMORY, "%s: no memory for libpng", src->name);
    if (r.status == MLL_OK)
        *orientation = find_orientation(src);
    free(r.row);
    png_destroy_read_struct(&r.png, &r.info, NULL);
    return r.status;
}
