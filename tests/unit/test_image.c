/* test_image.c - image files against Pillow's pixels, and every way a file can be bad. */
#include "hash64.h"
#include "image.h"
#include "sanitized.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGES MLL_SOURCE_DIR "/tests/golden/images/"

struct file {
    uint8_t *bytes; /* exactly size of them, so that a sanitizer sees one byte too far */
    size_t size;
};

static struct file file_copy(const void *bytes, size_t size)
{
    struct file f = {malloc(size ? size : 1), size};
    memcpy(f.bytes, bytes, size);
    return f;
}

static struct file file_read(const char *name)
{
    uint8_t buffer[20000];
    char path[512];
    snprintf(path, sizeof path, IMAGES "%s", name);
    FILE *f = fopen(path, "rb");
    cr_assert(f != NULL, "%s", path);
    size_t size = fread(buffer, 1, sizeof buffer, f);
    fclose(f);
    return file_copy(buffer, size);
}

static enum mll_status decode(struct image *img, struct file f, const struct img_options *opt,
                              struct mll_error *err)
{
    return img_decode(img, f.bytes, f.size, "test", opt, err);
}

static enum mll_status status_of(struct file f, const struct img_options *opt)
{
    struct image img;
    enum mll_status status = decode(&img, f, opt, NULL);
    cr_assert((status == MLL_OK) == (img.rgb != NULL));
    img_free(&img);
    return status;
}

Test(image, every_kind_of_file_equals_pillow)
{
    FILE *table = fopen(IMAGES "images.txt", "r");
    char line[256], name[128], path[512];
    int w, h, n = 0;
    unsigned long long hash;
    cr_assert(table != NULL);
    while (fgets(line, sizeof line, table)) {
        struct image img;
        struct mll_error err = {0};
        if (line[0] == '#')
            continue;
        cr_assert(sscanf(line, "%127s %d %d %llx", name, &w, &h, &hash) == 4, "%s", line);
        snprintf(path, sizeof path, IMAGES "%s", name);
        enum mll_status status = img_load(&img, path, NULL, &err);
        cr_expect(status == MLL_OK, "%s: %s", name, err.message);
        if (status == MLL_OK) {
            cr_expect(img.w == w && img.h == h, "%s: %dx%d, expected %dx%d", name, img.w, img.h, w,
                      h);
            cr_expect(hash64(img.rgb, (size_t)img.w * (size_t)img.h * 3) == hash,
                      "%s: pixels differ", name);
        }
        img_free(&img);
        n++;
    }
    fclose(table);
    cr_expect(n >= 120, "%d files", n);
}

Test(image, orientation_can_be_left_as_stored)
{
    struct img_options opt = {.ignore_exif = true};
    struct image img;
    struct file f = file_read("exif_6.jpg");
    cr_assert(decode(&img, f, &opt, NULL) == MLL_OK);
    cr_expect(img.w == 19 && img.h == 12);
    img_free(&img);
    free(f.bytes);
}

static const char *const small_files[] = {
    "c0_d01.png", "c0_d16_i.png", "c2_d08_key0.png", "c3_d04_key1.png", "c6_d16_i.png",
    "apng.png",   "chunks.png",   "exif_late.png",   "base_420.jpg",    "prog_444.jpg",
    "gray.jpg",   "cmyk.jpg",     "exif_6.jpg",      "restart.jpg",     "tiny_9x7.jpg",
};
enum { N_SMALL_FILES = sizeof small_files / sizeof *small_files };

Test(image, a_file_cut_at_any_byte_is_an_error)
{
    for (int i = 0; i < N_SMALL_FILES; i++) {
        struct file whole = file_read(small_files[i]);
        for (size_t size = 0; size < whole.size; size++) {
            struct file cut = file_copy(whole.bytes, size);
            enum mll_status status = status_of(cut, NULL);
            cr_expect(status == MLL_ERR_IMAGE_TRUNCATED || status == MLL_ERR_IMAGE_FORMAT ||
                          status == MLL_ERR_IMAGE_CORRUPT,
                      "%s cut at %zu: %s", small_files[i], size, mll_status_name(status));
            free(cut.bytes);
        }
        free(whole.bytes);
    }
}

Test(image, lenient_keeps_what_a_cut_file_still_holds)
{
    struct img_options lenient = {.lenient = true};
    for (int i = 0; i < N_SMALL_FILES; i++) {
        struct file whole = file_read(small_files[i]);
        int accepted = 0;
        for (size_t size = 0; size < whole.size; size++) {
            struct file cut = file_copy(whole.bytes, size);
            accepted += status_of(cut, &lenient) == MLL_OK;
            free(cut.bytes);
        }
        cr_expect(accepted > 10, "%s: accepted at %d of %zu sizes", small_files[i], accepted,
                  whole.size);
        free(whole.bytes);
    }
}

Test(image, rows_missing_from_a_lenient_png_are_gray)
{
    struct img_options lenient = {.lenient = true};
    struct file whole = file_read("filters_0.png"), cut = whole;
    struct image full, part;
    cut.size = whole.size / 2;
    cr_assert(decode(&full, whole, NULL, NULL) == MLL_OK);
    cr_assert(decode(&part, cut, &lenient, NULL) == MLL_OK);
    size_t stride = (size_t)full.w * 3;
    cr_expect(part.w == full.w && part.h == full.h);
    cr_expect(memcmp(full.rgb, part.rgb, stride * 10) == 0);
    for (size_t x = 0; x < stride; x++)
        cr_assert(part.rgb[stride * (size_t)(part.h - 1) + x] == 128);
    img_free(&full);
    img_free(&part);
    free(whole.bytes);
}

Test(image, damaged_bytes_never_crash)
{
    static const uint8_t masks[] = {0x01, 0x80, 0xff};
    struct img_options opt = {.max_pixels = 1 << 16};
    for (int i = 0; i < N_SMALL_FILES; i++) {
        struct file f = file_read(small_files[i]);
        for (size_t at = 0; at < f.size; at++)
            for (size_t m = 0; m < sizeof masks; m++) {
                f.bytes[at] ^= masks[m];
                opt.lenient = (at & 1) != 0;
                status_of(f, &opt);
                f.bytes[at] ^= masks[m];
            }
        free(f.bytes);
    }
}

static uint32_t crc32_of(const uint8_t *p, size_t n)
{
    uint32_t crc = ~0u;
    while (n--) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* The PNG with another width and height in its header. */
static struct file png_of_size(uint32_t w, uint32_t h)
{
    struct file f = file_read("c2_d08.png");
    put_u32(f.bytes + 16, w);
    put_u32(f.bytes + 20, h);
    put_u32(f.bytes + 29, crc32_of(f.bytes + 12, 17));
    return f;
}

static struct file jpeg_of_size(const char *name, unsigned w, unsigned h)
{
    struct file f = file_read(name);
    for (size_t i = 2; i + 9 < f.size; i++)
        if (f.bytes[i] == 0xff && (f.bytes[i + 1] == 0xc0 || f.bytes[i + 1] == 0xc2)) {
            put_u32(f.bytes + i + 5, h << 16 | w);
            break;
        }
    return f;
}

static long peak_kib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

static void expect_refused(struct file f, enum mll_status expected, const char *what)
{
    struct mll_error err = {0};
    struct image img;
    long before = peak_kib();
    enum mll_status status = decode(&img, f, NULL, &err);
    cr_expect(status == expected, "%s: %s (%s)", what, mll_status_name(status), err.message);
    cr_expect(peak_kib() - before < 16 * 1024, "%s: %ld KiB more", what, peak_kib() - before);
    free(f.bytes);
}

Test(image, giant_sizes_are_refused_from_the_header)
{
    expect_refused(png_of_size(0x7fffffff, 0x7fffffff), MLL_ERR_IMAGE_TOO_LARGE, "2^31 x 2^31");
    expect_refused(png_of_size(1000000, 1000000), MLL_ERR_IMAGE_TOO_LARGE, "10^6 x 10^6");
    expect_refused(png_of_size(1000001, 1), MLL_ERR_IMAGE_TOO_LARGE, "a side");
    expect_refused(png_of_size(0, 1), MLL_ERR_IMAGE_CORRUPT, "no pixels");
    expect_refused(jpeg_of_size("base_420.jpg", 65000, 65000), MLL_ERR_IMAGE_TOO_LARGE, "JPEG");
    expect_refused(jpeg_of_size("prog_420.jpg", 65000, 65000), MLL_ERR_IMAGE_TOO_LARGE, "JPEG");
}

Test(image, the_pixel_cap_is_exact)
{
    struct file f = file_read("c2_d08.png"); /* 13 x 11 */
    struct img_options opt = {.max_pixels = 143};
    cr_expect(status_of(f, &opt) == MLL_OK);
    opt.max_pixels = 142;
    cr_expect(status_of(f, &opt) == MLL_ERR_IMAGE_TOO_LARGE);
    free(f.bytes);
}

/* The last scan of a progressive file, repeated. */
static struct file with_scans(const char *name, size_t repeat)
{
    struct file f = file_read(name);
    size_t last = 0;
    for (size_t i = 0; i + 1 < f.size; i++)
        if (f.bytes[i] == 0xff && f.bytes[i + 1] == 0xda)
            last = i;
    size_t scan = f.size - 2 - last;
    uint8_t *bytes = malloc(f.size + repeat * scan);
    memcpy(bytes, f.bytes, f.size - 2);
    for (size_t i = 0; i < repeat; i++)
        memcpy(bytes + f.size - 2 + i * scan, f.bytes + last, scan);
    memcpy(bytes + f.size - 2 + repeat * scan, "\xff\xd9", 2);
    free(f.bytes);
    return (struct file){bytes, f.size + repeat * scan};
}

Test(image, scans_of_a_progressive_jpeg_are_capped)
{
    struct file few = with_scans("prog_444.jpg", 20), many = with_scans("prog_444.jpg", 200);
    cr_expect(status_of(few, NULL) == MLL_OK);
    cr_expect(status_of(many, NULL) == MLL_ERR_IMAGE_TOO_LARGE);
    free(few.bytes);
    free(many.bytes);
}

/* The PNG with a chunk of n zero bytes after its header. */
static struct file with_chunk(const char *kind, size_t n)
{
    struct file f = file_read("c2_d08.png");
    enum { HEADER = 33 };
    uint8_t *bytes = calloc(1, f.size + n + 12), *chunk = bytes + HEADER;
    memcpy(bytes, f.bytes, HEADER);
    put_u32(chunk, (uint32_t)n);
    memcpy(chunk + 4, kind, 4);
    put_u32(chunk + 8 + n, crc32_of(chunk + 4, n + 4));
    memcpy(chunk + 12 + n, f.bytes + HEADER, f.size - HEADER);
    free(f.bytes);
    return (struct file){bytes, f.size + n + 12};
}

Test(image, chunks_without_pixels_are_skipped)
{
    struct file text = with_chunk("tEXt", 100000), profile = with_chunk("iCCP", 100000);
    struct file large = with_chunk("zTXt", 9000000), critical = with_chunk("CRIT", 4);
    cr_expect(status_of(text, NULL) == MLL_OK);
    cr_expect(status_of(profile, NULL) == MLL_OK);
    cr_expect(status_of(large, NULL) == MLL_OK);
    cr_expect(status_of(critical, NULL) == MLL_ERR_IMAGE_CORRUPT);
    free(text.bytes);
    free(profile.bytes);
    free(large.bytes);
    free(critical.bytes);
}

Test(image, the_claimed_size_of_a_chunk_is_not_allocated)
{
    struct file f = with_chunk("eXIf", 100);
    put_u32(f.bytes + 33, 0x7e00001a);
#ifndef SANITIZED /* whose shadow memory exceeds any limit */
    struct rlimit limit = {1 << 30, 1 << 30};
    cr_assert(setrlimit(RLIMIT_AS, &limit) == 0);
#endif
    expect_refused(f, MLL_ERR_IMAGE_TRUNCATED, "2 GB of EXIF");
}

static void expect_format_error(const void *bytes, size_t size, const char *mention)
{
    struct mll_error err = {0};
    struct image img;
    struct file f = file_copy(bytes, size);
    cr_expect(decode(&img, f, NULL, &err) == MLL_ERR_IMAGE_FORMAT);
    cr_expect(strstr(err.message, mention) != NULL, "%s", err.message);
    free(f.bytes);
}

Test(image, what_is_neither_png_nor_jpeg_is_named)
{
    expect_format_error("", 0, "empty");
    expect_format_error("hello, world\n", 13, "neither PNG nor JPEG");
    expect_format_error("GIF89a\0\0", 8, "GIF");
    expect_format_error("RIFF\0\0\0\0WEBPVP8 ", 16, "WebP");
    expect_format_error("%PDF-1.7", 8, "PDF");
    expect_format_error("\x89PNG\r\n", 6, "neither");
    expect_format_error("\xff\xd8", 2, "neither");
}

static enum mll_status load_status(const char *path)
{
    struct image img;
    enum mll_status status = img_load(&img, path, NULL, NULL);
    img_free(&img);
    return status;
}

Test(image, only_regular_files_are_opened, .timeout = 20)
{
    char dir[] = "/tmp/test_image_XXXXXX", path[64];
    cr_assert(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/fifo", dir);
    cr_assert(mkfifo(path, 0600) == 0);
    cr_expect(load_status(path) == MLL_ERR_IMAGE_FORMAT, "a FIFO without a writer");
    unlink(path);
    cr_expect(load_status(path) == MLL_ERR_NOT_FOUND);
    cr_expect(load_status(dir) == MLL_ERR_IMAGE_FORMAT, "a directory");
    cr_expect(load_status("/dev/zero") == MLL_ERR_IMAGE_FORMAT, "a device");
    cr_expect(load_status(IMAGES "images.txt") == MLL_ERR_IMAGE_FORMAT, "a text file");
    cr_assert(symlink("loop", path) == 0);
    snprintf(path, sizeof path, "%s/large", dir);
    FILE *f = fopen(path, "wb");
    cr_assert(f != NULL && ftruncate(fileno(f), 300 << 20) == 0);
    fclose(f);
    cr_expect(load_status(path) == MLL_ERR_IMAGE_TOO_LARGE, "300 MiB");
    unlink(path);
    snprintf(path, sizeof path, "%s/fifo", dir);
    unlink(path);
    rmdir(dir);
}
