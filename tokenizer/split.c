#include "split.h"

#include "unicode_class.h"
#include "utf8.h"

struct text {
    const uint8_t *s;
    size_t size;
};

/* The class of what stands at pos, and in *len its bytes. At the end of the text *len is 0 and the
 * class one that no alternative continues with. */
static enum uni_class class_at(struct text t, size_t pos, size_t *len)
{
    if (pos >= t.size) {
        *len = 0;
        return UNI_SPACE;
    }
    uint8_t c = t.s[pos];
    if (c < 0x80) {
        *len = 1;
        if ((uint8_t)((c | 0x20) - 'a') < 26)
            return UNI_LETTER;
        return uni_class_of(c);
    }
    struct utf8_part part = utf8_read(t.s + pos, t.size - pos);
    *len = part.size;
    if (part.size != part.need)
        return UNI_OTHER;
    return uni_class_of(utf8_scalar(t.s + pos, part));
}

static size_t skip_class(struct text t, size_t pos, enum uni_class class)
{
    size_t len;
    while (class_at(t, pos, &len) == class && len > 0)
        pos += len;
    return pos;
}

static int is_newline(uint8_t c)
{
    return c == '\r' || c == '\n';
}

static size_t skip_newlines(struct text t, size_t pos)
{
    while (pos < t.size && is_newline(t.s[pos]))
        pos++;
    return pos;
}

/* Bytes of a contraction's letters at pos, after the apostrophe; 0 if there is none. */
static size_t contraction(struct text t, size_t pos)
{
    size_t left = t.size - pos;
    if (left == 0)
        return 0;
    uint8_t a = t.s[pos] | 0x20, b = left > 1 ? t.s[pos + 1] | 0x20 : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 1;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l'))
        return 2;
    if (left > 1 && t.s[pos] == 0xC5 && t.s[pos + 1] == 0xBF) /* long s */
        return 2;
    return 0;
}

/* pos: the start of a run of white space that nothing before it claims */
static size_t white_space(struct text t, size_t pos)
{
    size_t end = pos, last = pos, after_newline = 0, len;
    while (class_at(t, end, &len) == UNI_SPACE && len > 0) {
        last = end;
        end += len;
        if (is_newline(t.s[last]))
            after_newline = end;
    }
    if (after_newline > 0)
        return after_newline;
    if (end == t.size || last == pos)
        return end;
    return last;
}

size_t split_next(const char *text, size_t size, size_t pos)
{
    struct text t = {(const uint8_t *)text, size};
    uint8_t first = t.s[pos];
    if (first == '\'') {
        size_t letters = contraction(t, pos + 1);
        if (letters > 0)
            return pos + 1 + letters;
    }

    size_t len, len2, len3;
    enum uni_class class = class_at(t, pos, &len);
    size_t next = pos + len;
    if (class == UNI_LETTER)
        return skip_class(t, next, UNI_LETTER);
    if (class == UNI_NUMBER) {
        if (class_at(t, next, &len2) != UNI_NUMBER)
            return next;
        next += len2;
        return class_at(t, next, &len3) == UNI_NUMBER ? next + len3 : next;
    }
    enum uni_class after = class_at(t, next, &len2);
    if (after == UNI_LETTER && !is_newline(first))
        return skip_class(t, next + len2, UNI_LETTER);
    if (class == UNI_OTHER || (first == ' ' && after == UNI_OTHER))
        return skip_newlines(t, skip_class(t, next, UNI_OTHER));
    return white_space(t, pos);
}
