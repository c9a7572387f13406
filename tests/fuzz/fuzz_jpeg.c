/* fuzz_jpeg.c - JPEG files, strict and lenient by the parity of the size. */
#include "image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct img_options opt = {.lenient = size & 1, .max_pixels = 1 << 16};
    struct image img;
    if (size < 3 || data[0] != 0xff)
        return -1;
    img_decode(&img, data, size, "fuzz", &opt, NULL);
    img_free(&img);
    return 0;
}
