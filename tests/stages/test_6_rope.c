/* test_6_rope.c - rotary embedding up to the longest position against transformers, whose numbers
 * tests/golden/make_rope.py stored: frequencies bit by bit, rotated heads within rounding. A
 * frequency off by its last bit would turn position 100003 by up to 6e-3. */
#include "engine.h"
#include "half.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 128 };

/* n floats written as their bits, behind `from`. */
static void read_bits(float *x, int n, const char *from)
{
    int used = 0;
    for (int i = 0; i < n; i++, from += used) {
        unsigned bits;
        cr_assert(sscanf(from, "%8x%n", &bits, &used) == 1, "%d of %d numbers", i, n);
        x[i] = f32_from_bits(bits);
    }
}

static void check_position(struct mll_exec *ex, const struct cfg_text *t, const float *inv_freq,
                           const char *line)
{
    float expected[MOST], x[MOST];
    int32_t pos;
    int used;
    cr_assert(sscanf(line, "pos %d %n", &pos, &used) == 1, "%s", line);
    read_bits(expected, t->head_dim, line + used);
    for (int i = 0; i < t->head_dim; i++)
        x[i] = (float)(i * 37 % 64 - 32) / 16;
    op_rope(ex, x, &pos, inv_freq, 1, 1, t->head_dim);
    for (int i = 0; i < t->head_dim; i++)
        cr_expect(fabsf(x[i] - expected[i]) <= 1e-6f, "head of %d, position %d, element %d: %g, %g",
                  t->head_dim, pos, i, (double)x[i], (double)expected[i]);
}

Test(rope, long_positions_are_those_of_transformers)
{
    struct mll_exec *ex;
    struct mll_error err;
    struct cfg_text t = {0};
    float expected[MOST / 2], inv_freq[MOST / 2];
    char line[2048];
    int configs = 0, positions = 0, scaled;
    FILE *f = fopen(MLL_SOURCE_DIR "/tests/golden/rope.txt", "r");
    cr_assert(f != NULL);
    cr_assert(exec_open_cpu(&ex, 1, MLL_ISA_AUTO, MLL_COMPUTE_F32, 0, &err) == MLL_OK, "%s",
              err.message);
    while (fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "config ", 7) == 0) {
            cr_assert(sscanf(line, "config %d %lf %d %lf %lf %lf %d", &t.head_dim, &t.rope_theta,
                             &scaled, &t.rope_factor, &t.rope_low_freq, &t.rope_high_freq,
                             &t.rope_original_max_position) == 7);
            cr_assert(t.head_dim <= MOST);
            t.rope_scaled = scaled;
            configs++;
        } else if (strncmp(line, "freq ", 5) == 0) {
            read_bits(expected, t.head_dim / 2, line + 5);
            for (int i = 0; i < t.head_dim / 2; i++) {
                inv_freq[i] = eng_rope_frequency(&t, i);
                cr_expect(memcmp(&inv_freq[i], &expected[i], 4) == 0, "head of %d: %a, not %a",
                          t.head_dim, (double)inv_freq[i], (double)expected[i]);
            }
        } else if (strncmp(line, "pos ", 4) == 0) {
            check_position(ex, &t, inv_freq, line);
            positions++;
        }
    }
    cr_expect(configs == 4 && positions == 24);
    exec_close(ex);
    fclose(f);
}
