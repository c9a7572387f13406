/* defects.h - collects what is wrong with a model directory.
 *
 * Loading and checking run the same code: a reader adds every defect that it meets and goes on
 * where it can. Loading wants the first one, check is told of each through the callback. */
#ifndef MLL_DEFECTS_H
#define MLL_DEFECTS_H

#include "base.h"

#define DEFECTS_MAX_REPORTED 1000

struct defects {
    void (*report)(void *user, enum mll_status code, const char *message); /* NULL: none */
    void *user;
    size_t n;
    struct mll_error first;
};

/* Adds one; message as of mll_fail. Returns code. */
enum mll_status defects_add(struct defects *d, enum mll_status code, const char *fmt, ...)
    MLL_PRINTF(3, 4);
/* MLL_OK where there is none, else the first one's status and message with the count of the others.
 */
enum mll_status defects_result(const struct defects *d, struct mll_error *err);

#endif
