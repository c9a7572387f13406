/* jsonout.c - the JSON writer. Numbers are formatted with a fixed count of decimals and without the
 * locale, strings with \uXXXX for everything beyond ASCII: equal values give equal bytes. */
#include "jsonout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put(struct jw *w, const char *bytes, size_t n)
{
    if (w->failed)
        return;
    if (n > w->capacity - w->n) {
        size_t capacity = w->capacity ? w->capacity : 512;
        while (capacity - w->n < n) {
            if (!mll_mul_size(&capacity, capacity, 2)) {
                w->failed = true;
                return;
            }
        }
        char *data = realloc(w->data, capacity);
        if (!data) {
            w->failed = true;
            return;
        }
        w->data = data;
        w->capacity = capacity;
    }
    memcpy(w->data + w->n, bytes, n);
    w->n += n;
}

static void put_text(struct jw *w, const char *text)
{
    put(w, text, strlen(text));
}

size_t jw_utf8(uint32_t *scalar, const char *text, size_t size)
{
    const unsigned char *s = (const unsigned char *)text;
    if (size == 0)
        return 0;
    if (s[0] < 0x80) {
        *scalar = s[0];
        return 1;
    }
    size_t n = s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc2 ? 2 : 0;
    if (s[0] >= 0xf5 || n == 0 || n > size)
        return 0;
    uint32_t v = s[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        v = v << 6 | (s[i] & 0x3f);
    }
    /* overlong forms, surrogates, beyond Unicode */
    if ((n == 3 && v < 0x800) || (n == 4 && v < 0x10000) || (v >= 0xd800 && v < 0xe000) ||
        v > 0x10ffff)
        return 0;
    *scalar = v;
    return n;
}

bool jw_is_utf8(const char *text)
{
    size_t size = strlen(text);
    for (size_t i = 0, n; i < size; i += n) {
        uint32_t scalar;
        n = jw_utf8(&scalar, text + i, size - i);
        if (n == 0)
            return false;
    }
    return true;
}

static void put_scalar(struct jw *w, uint32_t c)
{
    char out[16];
    if (c == '"' || c == '\\')
        snprintf(out, sizeof out, "\\%c", (char)c);
    else if (c == '\n')
        snprintf(out, sizeof out, "\\n");
    else if (c >= 0x20 && c < 0x7f)
        snprintf(out, sizeof out, "%c", (char)c);
    else if (c < 0x10000)
        snprintf(out, sizeof out, "\\u%04x", c);
    else
        snprintf(out, sizeof out, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                 0xdc00 + (c & 0x3ff));
    put_text(w, out);
}

static void put_quoted(struct jw *w, const char *text, size_t size)
{
    put(w, "\"", 1);
    for (size_t i = 0; i < size;) {
        uint32_t c = 0xfffd;
        size_t n = jw_utf8(&c, text + i, size - i);
        put_scalar(w, n ? c : 0xfffd);
        i += n ? n : 1;
    }
    put(w, "\"", 1);
}

/* What stands before every element: a comma, the key. */
static void lead(struct jw *w, const char *key)
{
    if (w->comma)
        put(w, ",", 1);
    if (key) {
        put_quoted(w, key, strlen(key));
        put(w, ":", 1);
    }
    w->comma = true;
}

void jw_object(struct jw *w, const char *key)
{
    lead(w, key);
    put(w, "{", 1);
    w->comma = false;
}

void jw_array(struct jw *w, const char *key)
{
    lead(w, key);
    put(w, "[", 1);
    w->comma = false;
}

void jw_end(struct jw *w, char bracket)
{
    put(w, &bracket, 1);
    w->comma = true;
}

void jw_string(struct jw *w, const char *key, const char *text)
{
    if (text)
        jw_string_n(w, key, text, strlen(text));
    else
        jw_null(w, key);
}

void jw_string_n(struct jw *w, const char *key, const char *text, size_t size)
{
    lead(w, key);
    put_quoted(w, text, size);
}

void jw_base64(struct jw *w, const char *key, const char *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *s = (const unsigned char *)bytes;
    lead(w, key);
    put(w, "\"", 1);
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        uint32_t v = (uint32_t)s[i] << 16 | (left > 1 ? (uint32_t)s[i + 1] << 8 : 0) |
                     (left > 2 ? s[i + 2] : 0);
        char out[4] = {digits[v >> 18], digits[v >> 12 & 63], left > 1 ? digits[v >> 6 & 63] : '=',
                       left > 2 ? digits[v & 63] : '='};
        put(w, out, 4);
    }
    put(w, "\"", 1);
}

void jw_int(struct jw *w, const char *key, int64_t value)
{
    char out[32];
    snprintf(out, sizeof out, "%lld", (long long)value);
    lead(w, key);
    put_text(w, out);
}

void jw_real(struct jw *w, const char *key, double value, int decimals)
{
    char out[400];
    if (!isfinite(value)) {
        jw_null(w, key);
        return;
    }
    snprintf(out, sizeof out, "%.*f", decimals, value);
    char *comma = strchr(out, ','); /* a program that set a locale */
    if (comma)
        *comma = '.';
    lead(w, key);
    put_text(w, out);
}

void jw_bool(struct jw *w, const char *key, bool value)
{
    lead(w, key);
    put_text(w, value ? "true" : "false");
}

void jw_null(struct jw *w, const char *key)
{
    lead(w, key);
    put_text(w, "null");
}

void jw_hash(struct jw *w, const char *key, uint64_t value)
{
    char out[32];
    snprintf(out, sizeof out, "\"%016llx\"", (unsigned long long)value);
    lead(w, key);
    put_text(w, out);
}

void jw_newline(struct jw *w)
{
    put(w, "\n", 1);
    w->comma = false;
}

void jw_free(struct jw *w)
{
    free(w->data);
    *w = (struct jw){0};
}
