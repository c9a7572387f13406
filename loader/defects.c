#include "defects.h"

#include <stdarg.h>
#include <stdio.h>

enum mll_status defects_add(struct defects *d, enum mll_status code, const char *fmt, ...)
{
    char text[sizeof d->first.message];
    struct mll_error e;
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    mll_fail(&e, code, "%s", text);
    if (d->n++ == 0)
        d->first = e;
    if (d->report && d->n <= DEFECTS_MAX_REPORTED)
        d->report(d->user, code, e.message);
    return code;
}

enum mll_status defects_result(const struct defects *d, struct mll_error *err)
{
    if (d->n == 0)
        return MLL_OK;
    if (d->n == 1)
        return mll_fail(err, d->first.code, "%s", d->first.message);
    return mll_fail(err, d->first.code, "%.460s (and %zu more)", d->first.message, d->n - 1);
}
