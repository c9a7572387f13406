/* bench_tool.h - the three parts of mllama bench; results on stdout, exit codes as everywhere. */
#ifndef MLL_BENCH_TOOL_H
#define MLL_BENCH_TOOL_H

#include "options.h"

int bench_model(const struct args *args);
int bench_ops(const struct args *args);
int bench_compare(const struct args *args);

/* Numbers of a list: "512", "128,512", "64-256+64" (steps), "64-512*2" (factors). *values is the
 * caller's to free. MLL_ERR_USAGE naming the option. */
enum mll_status bench_list(int **values, size_t *n, const char *option, const char *text, int least,
                           int most, struct mll_error *err);
/* --threads, {0} (the default) where it was not given. */
enum mll_status bench_threads(int **values, size_t *n, const struct args *args,
                              struct mll_error *err);

#endif
