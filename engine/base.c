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

void mll_index_failed(const char *file, int line, int block, int thread, int index, int bound)
{
    fprintf(stderr,
            "%s:%d: block: [%d,0,0], thread: [%d,0,0] Assertion `index >= 0 && index < bound` "
            "failed: index %d, bound %d.\n",
            file, line, block, thread, index, bound);
    abort();
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

size_t mll_decode_base64(void *out, const char *text, size_t size)
{
    uint8_t *bytes = out;
    size_t n = 0;
    if (size % 4 != 0 || size == 0)
        return size == 0 ? 0 : SIZE_MAX;
    int pad = (text[size - 1] == '=') + (text[size - 1] == '=' && text[size - 2] == '=');
    for (size_t i = 0; i < size; i += 4) {
        int used = i + 4 == size ? 4 - pad : 4;
        uint32_t quad = 0;
        for (int k = 0; k < 4; k++) {
            int value = k < used ? base64_value(text[i + (size_t)k]) : 0;
            if (value < 0)
                return SIZE_MAX;
            quad = quad << 6 | (uint32_t)value;
        }
        for (int k = 0; k < used - 1; k++)
            bytes[n++] = (uint8_t)(quad >> (16 - 8 * k));
    }
    return n;
}
