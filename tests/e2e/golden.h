/* golden.h - the cases of tests/golden/cases, for every end-to-end test. */
#ifndef MLL_GOLDEN_H
#define MLL_GOLDEN_H

#include <jansson.h>

#include "image.h"
#include "mllama.h"
#include "safetensors.h"

#define GOLDEN_MAX_IMAGES 4

struct golden {
    char model[512];
    json_t *about;
    struct st_file *expected;
    struct image pixels[GOLDEN_MAX_IMAGES];
    struct mll_image images[GOLDEN_MAX_IMAGES];
    struct mll_sampling sampling;
    struct mll_request request; /* the case's prompt and images, greedy, 64 new tokens */
};

extern const char *const golden_names[];       /* NULL at the end */
extern const char *const golden_quant_names[]; /* checkpoints of bitsandbytes, likewise */
extern const char *const golden_modes[3];      /* by enum mll_reference */

/* Aborts the test where the case cannot be read. */
void golden_open(struct golden *g, const char *name);
void golden_close(struct golden *g);
/* What the case expects of a tensor in a mode; NULL where the case has no such tensor. */
const struct st_tensor *golden_tensor(const struct golden *g, const char *mode, const char *name);

#endif
