#include "json_flat.h"

#include <string.h>

static void skip_space(struct flat *f)
{
    while (f->at < f->end && (*f->at == ' ' || *f->at == '\n' || *f->at == '\t' || *f->at == '\r'))
        f->at++;
}

/* Past the string that starts at f->at; false if it does not end. */
static bool skip_string(struct flat *f)
{
    for (f->at++; f->at < f->end; f->at++) {
        if (*f->at == '"') {
            f->at++;
            return true;
        }
        if (*f->at == '\\')
            f->at++;
    }
    return false;
}

/* Past one value: to the comma or bracket that ends it. *count: 1 + the commas between its members.
 */
static bool skip_value(struct flat *f, size_t *count)
{
    int64_t depth = 0;
    *count = 1;
    while (f->at < f->end) {
        char c = *f->at;
        if (c == '"') {
            if (!skip_string(f))
                return false;
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}' || c == ']'))
            return true;
        *count += depth == 1 && c == ',';
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        f->at++;
    }
    return false;
}

static bool is_key(const char *quoted, const char *end, const char *key)
{
    size_t n = strlen(key);
    return (size_t)(end - quoted) == n + 2 && memcmp(quoted + 1, key, n) == 0;
}

bool flat_members(struct flat *values, size_t *counts, struct flat object, const char *const *keys,
                  int n)
{
    struct flat f = object;
    for (int i = 0; i < n; i++)
        values[i].at = NULL;
    if (!flat_mark(&f, '{'))
        return false;
    for (skip_space(&f); f.at < f.end && *f.at == '"'; skip_space(&f)) {
        const char *name = f.at, *name_end;
        size_t count;
        if (!skip_string(&f))
            return false;
        name_end = f.at;
        if (!flat_mark(&f, ':'))
            return false;
        skip_space(&f);
        struct flat value = f;
        if (!skip_value(&f, &count))
            return false;
        value.end = f.at;
        for (int i = 0; i < n; i++) {
            if (is_key(name, name_end, keys[i])) {
                values[i] = value;
                counts[i] = count;
            }
        }
        if (!flat_mark(&f, ','))
            break;
    }
    for (int i = 0; i < n; i++)
        if (!values[i].at)
            return false;
    return true;
}

bool flat_mark(struct flat *f, char mark)
{
    skip_space(f);
    if (f->at == f->end || *f->at != mark)
        return false;
    f->at++;
    return true;
}

bool flat_integer(struct flat *f, int64_t *value)
{
    skip_space(f);
    bool minus = f->at < f->end && *f->at == '-';
    f->at += minus;
    const char *first = f->at;
    *value = 0;
    while (f->at < f->end && f->at - first < 18 && *f->at >= '0' && *f->at <= '9')
        *value = *value * 10 + (*f->at++ - '0');
    if (f->at == first || (*first == '0' && f->at - first > 1))
        return false;
    if (minus)
        *value = -*value;
    /* What follows must end a number. */
    return f->at == f->end || !strchr("0123456789.eE+-", *f->at);
}

/* Four hexadecimal digits; -1 if they are none. */
static int32_t hex4(struct flat *f)
{
    int32_t value = 0;
    if (f->end - f->at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = *f->at++, lower = (char)(c | 0x20);
        int digit = c >= '0' && c <= '9'           ? c - '0'
                    : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10
                                                   : -1;
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* The scalar of \uXXXX, the u consumed; a pair of surrogates is one scalar. -1 if malformed. */
static int32_t unicode_escape(struct flat *f)
{
    int32_t scalar = hex4(f);
    if (scalar < 0xD800 || scalar > 0xDFFF)
        return scalar;
    if (scalar > 0xDBFF || f->end - f->at < 2 || f->at[0] != '\\' || f->at[1] != 'u')
        return -1;
    f->at += 2;
    int32_t low = hex4(f);
    if (low < 0xDC00 || low > 0xDFFF)
        return -1;
    return 0x10000 + ((scalar - 0xD800) << 10) + (low - 0xDC00);
}

/* out has room for 4; returns the length. */
static int put_utf8(char *out, int32_t scalar)
{
    if (scalar < 0x80) {
        out[0] = (char)scalar;
        return 1;
    }
    int size = scalar < 0x800 ? 2 : scalar < 0x10000 ? 3 : 4;
    for (int i = size - 1; i > 0; i--, scalar >>= 6)
        out[i] = (char)(0x80 | (scalar & 0x3F));
    out[0] = (char)(0xF00 >> size | scalar);
    return size;
}

/* What the escape at f->at (the backslash consumed) stands for; -1 if there is no such escape. */
static int32_t escape(struct flat *f)
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (f->at == f->end)
        return -1;
    char c = *f->at++;
    if (c == 'u')
        return unicode_escape(f);
    const char *found = memchr(letters, c, sizeof letters - 1);
    return found ? values[found - letters] : -1;
}

int flat_string(struct flat *f, char *out, int capacity)
{
    int n = 0;
    if (!flat_mark(f, '"'))
        return -1;
    while (f->at < f->end && *f->at != '"') {
        char c = *f->at++;
        if (n + 4 > capacity || (uint8_t)c < 0x20)
            return -1;
        if (c != '\\') {
            out[n++] = c;
            continue;
        }
        int32_t scalar = escape(f);
        if (scalar < 0)
            return -1;
        n += put_utf8(out + n, scalar);
    }
    return flat_mark(f, '"') ? n : -1;
}

bool flat_done(struct flat *f)
{
    skip_space(f);
    return f->at == f->end;
}
