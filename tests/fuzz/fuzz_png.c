/* fuzz_png.c - PNG files, strict and lenient by the parity of the size. Checksums of the chunks are
 * put right first: a mutated file would else seldom come past them. */
#include "image.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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

static void repair_checksums(uint8_t *png, size_t size)
{
    size_t at = 8;
    while (size - at >= 12) {
        uint8_t *chunk = png + at;
        size_t n =
            (size_t)chunk[0] << 24 | (size_t)chunk[1] << 16 | (size_t)chunk[2] << 8 | chunk[3];
        if (n > size - at - 12)
            return;
        uint32_t crc = crc32_of(chunk + 4, n + 4);
        for (int i = 0; i < 4; i++)
            chunk[8 + n + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
        at += n + 12;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct img_options opt = {.lenient = size & 1, .max_pixels = 1 << 16};
    struct image img;
    if (size < 8 || data[0] != 0x89)
        return -1;
    uint8_t *copy = malloc(size);
    memcpy(copy, data, size);
    repair_checksums(copy, size);
    img_decode(&img, copy, size, "fuzz", &opt, NULL);
    img_free(&img);
    free(copy);
    return 0;
}
