#include "base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const char *mll_status_name(enum mll_status status)
{
    switch (status) {
    case MLL_OK:
        return "ok";
#define X(name, exit_code, slug) \
    case MLL_##name:             \
        return slug;
        MLL_STATUS_LIST(X)
#undef X
    default:
        return "unknown";
    }
}

int mll_status_exit_code(enum mll_status status)
{
    switch (status) {
    case MLL_OK:
        return 0;
#define X(name, exit_code, slug) \
    case MLL_##name:             \
        return exit_code;
        MLL_STATUS_LIST(X)
#undef X
    default:
        return 70;
    }
}

enum mll_status mll_fail(struct mll_error *err, enum mll_status code, const char *fmt, ...)
{
    if (err) {
        err->code = code;
        va_list args;
        va_start(args, fmt);
        vsnprintf(err->message, sizeof err->message, fmt, args);
        va_end(args);
        /* A name out of a file may hold anything; the message stays one printable line. */
        for (unsigned char *c = (unsigned char *)err->message; *c; c++)
            if (*c < 0x20 || *c == 0x7f)
                *c = '?';
    }
    return code;
}

void mll_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, condition);
    abort();
}
