/* load.c - what opening a checkpoint costs: time and resident memory of cfg_load and weights_load.
 *
 *     load_bench DIR [REPEATS]
 *
 * Prints one JSON object: tensors, bytes of weights, milliseconds (median, slowest), resident bytes
 * before, with the model open, and the peak. Nothing reads the weights. */
#include "checkpoint.h"
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_REPEATS 1000

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A line of /proc/self/status in bytes, 0 where there is none. */
static long resident(const char *key)
{
    char line[256];
    long kib = 0;
    FILE *in = fopen("/proc/self/status", "r");
    while (in && fgets(line, sizeof line, in))
        if (strncmp(line, key, strlen(key)) == 0)
            kib = atol(line + strlen(key));
    if (in)
        fclose(in);
    return kib * 1024;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    int repeats = argc > 2 ? atoi(argv[2]) : 21;
    if (argc < 2 || repeats < 1 || repeats > MAX_REPEATS) {
        fputs("usage: load_bench DIR [REPEATS]\n", stderr);
        return 64;
    }
    double ms[MAX_REPEATS];
    long before = resident("VmRSS:"), open_bytes = 0;
    size_t tensors = 0, bytes = 0;
    for (int i = 0; i < repeats; i++) {
        struct cfg cfg;
        struct weights *w;
        struct mll_error err;
        struct weights_entry e = {0};
        double start = now();
        if (cfg_load(&cfg, argv[1], &err) != MLL_OK ||
            weights_load(&w, &cfg, argv[1], false, &err) != MLL_OK) {
            fprintf(stderr, "%s\n", err.message);
            return 65;
        }
        ms[i] = (now() - start) * 1e3;
        open_bytes = resident("VmRSS:");
        tensors = ckpt_count(w->ckpt);
        for (bytes = 0; weights_next(&e, &cfg);)
            bytes += weights_mat_bytes(weights_field(w, &e));
        weights_free(w);
    }
    qsort(ms, (size_t)repeats, sizeof *ms, by_value);
    printf("{\"tensors\": %zu, \"weight_bytes\": %zu, \"open_ms\": %.2f, \"slowest_ms\": %.2f, "
           "\"rss_before\": %ld, \"rss_open\": %ld, \"rss_peak\": %ld}\n",
           tensors, bytes, ms[repeats / 2], ms[repeats - 1], before, open_bytes,
           resident("VmHWM:"));
    return 0;
}
