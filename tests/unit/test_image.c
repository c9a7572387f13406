/* test_image.c - image files against Pillow's pixels, and every way a file can be bad. */
#include "hash64.h"
#include "image.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGES MLL_SOURCE_DIR "/tests/golden/images/"

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
