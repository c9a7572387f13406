/* utf8.h - reading UTF-8 that may be broken, the way Python's 'replace' counts its pieces. */
#ifndef MLL_UTF8_H
#define MLL_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* What stands at the start of some bytes: size of them belong together (a scalar, the valid start
 * of one, or a single byte that starts none); need is the length that the first byte announces, 0
 * where it cannot start a scalar. Whole: size == need. Else those size bytes are one maximal
 * invalid part. */
struct utf8_part {
    uint8_t size, need;
};

/* n >= 1 */
static inline struct utf8_part utf8_read(const uint8_t *s, size_t n)
{
    uint8_t c = s[0];
    if (c < 0x80)
        return (struct utf8_part){1, 1};
    uint8_t need = c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
    /* The second byte's range rules out overlong forms, surrogates and what is above 10FFFF. */
    uint8_t low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    uint8_t high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    uint8_t size = 1;
    while (size < need && size < n && s[size] >= low && s[size] <= high) {
        size++;
        low = 0x80;
        high = 0xBF;
    }
    return (struct utf8_part){size, need};
}

/* The scalar of a whole part. */
static inline uint32_t utf8_scalar(const uint8_t *s, struct utf8_part part)
{
    uint32_t scalar = part.size == 1 ? s[0] : s[0] & (0x7Fu >> part.size);
    for (int i = 1; i < part.size; i++)
        scalar = scalar << 6 | (s[i] & 0x3F);
    return scalar;
}

#endif
