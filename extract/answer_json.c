/* answer_json.c - a tolerant JSON reader over offsets. */
#include "answer_json.h"

#include <ctype.h>
#include <string.h>

static void skip_space(struct ans_reader *r)
{
    while (r->at < r->size && isspace((unsigned char)r->text[r->at]))
        r->at++;
}

/* From behind an opening quote to the closing one; at ends behind it. */
static void read_string(struct ans_reader *r, struct ans_value *value)
{
    value->kind = ANS_STRING;
    value->start = r->at;
    while (r->at < r->size && r->text[r->at] != '"')
        r->at += r->text[r->at] == '\\' && r->at + 1 < r->size ? 2 : 1;
    value->complete = r->at < r->size;
    value->end = r->at;
    r->at += value->complete;
}

/* An object or array, to the bracket that closes it; strings hide their brackets. */
static void read_nested(struct ans_reader *r, struct ans_value *value)
{
    value->kind = r->text[r->at] == '{' ? ANS_OBJECT : ANS_ARRAY;
    value->start = r->at;
    size_t depth = 0;
    while (r->at < r->size) {
        char c = r->text[r->at++];
        struct ans_value inner;
        if (c == '"')
            read_string(r, &inner);
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        if (depth == 0)
            break;
    }
    value->complete = depth == 0;
    value->end = r->at;
}

static bool read_value(struct ans_reader *r, struct ans_value *value)
{
    skip_space(r);
    if (r->at >= r->size)
        return false;
    char c = r->text[r->at];
    if (c == '"') {
        r->at++;
        read_string(r, value);
    } else if (c == '{' || c == '[') {
        read_nested(r, value);
    } else {
        value->kind = ANS_BARE;
        value->start = r->at;
        while (r->at < r->size && !memchr(",}]\n", r->text[r->at], 4))
            r->at++;
        value->complete = r->at < r->size; /* 12.3 may be the start of 12.34 */
        value->end = r->at;
        while (value->end > value->start && isspace((unsigned char)r->text[value->end - 1]))
            value->end--;
    }
    return true;
}

bool ans_open(struct ans_reader *reader, const char *text, size_t size)
{
    const char *brace = size ? memchr(text, '{', size) : NULL;
    *reader = (struct ans_reader){text, size, size};
    if (brace)
        reader->at = (size_t)(brace - text) + 1;
    return brace != NULL;
}

struct ans_reader ans_enter(const struct ans_reader *reader, const struct ans_value *value)
{
    return (struct ans_reader){reader->text, value->start + 1, value->end};
}

bool ans_next_member(struct ans_reader *r, struct ans_member *member)
{
    do {
        skip_space(r);
    } while (r->at < r->size && r->text[r->at] == ',' && ++r->at);
    if (r->at >= r->size || r->text[r->at] != '"')
        return false;
    r->at++;
    struct ans_value key;
    read_string(r, &key);
    skip_space(r);
    if (!key.complete || r->at >= r->size || r->text[r->at] != ':')
        return false;
    r->at++;
    member->key_start = key.start;
    member->key_end = key.end;
    return read_value(r, &member->value);
}

bool ans_next_element(struct ans_reader *r, struct ans_value *value)
{
    do {
        skip_space(r);
    } while (r->at < r->size && r->text[r->at] == ',' && ++r->at);
    if (r->at >= r->size || r->text[r->at] == ']' || r->text[r->at] == '}')
        return false;
    return read_value(r, value);
}

/* ---- escapes ---- */

static bool read_hex4(uint32_t *out, const char *text, size_t size)
{
    *out = 0;
    if (size < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        if (!isxdigit((unsigned char)text[i]))
            return false;
        int c = tolower((unsigned char)text[i]);
        *out = *out << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return true;
}

static size_t put_utf8(char *out, uint32_t c)
{
    if (c == 0 || (c >= 0xd800 && c < 0xe000))
        c = 0xfffd;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    static const uint8_t lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(lead[n] | c);
    return n;
}

void ans_unescape(char *out, const char *text, size_t size)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    for (size_t i = 0; i < size;) {
        uint32_t c, low;
        if (text[i] != '\\' || i + 1 >= size) {
            if (text[i] == 0)
                out += put_utf8(out, ' ');
            else
                *out++ = text[i];
            i++;
        } else if (text[i + 1] == 'u' && read_hex4(&c, text + i + 2, size - i - 2)) {
            i += 6;
            if (c >= 0xd800 && c < 0xdc00 && i + 1 < size && text[i] == '\\' &&
                text[i + 1] == 'u' && read_hex4(&low, text + i + 2, size - i - 2) &&
                low >= 0xdc00 && low < 0xe000) {
                c = 0x10000 + ((c & 0x3ff) << 10 | (low & 0x3ff));
                i += 6;
            }
            out += put_utf8(out, c);
        } else {
            const char *known = text[i + 1] ? strchr(from, text[i + 1]) : NULL;
            *out++ = known ? to[known - from] : text[i + 1];
            i += 2;
        }
    }
    *out = 0;
}
