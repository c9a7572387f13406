/* answer_json.h - finds the members of a JSON object in a model's answer, tolerantly: text around
 * it, a cut end, raw line breaks in strings. Works in place with offsets, in linear time, no
 * recursion.
 */
#ifndef MLL_ANSWER_JSON_H
#define MLL_ANSWER_JSON_H

#include "base.h"

enum ans_kind { ANS_STRING, ANS_BARE, ANS_OBJECT, ANS_ARRAY };

/* Bytes [start, end) of the text: without the quotes of a string, with the brackets of the others.
 */
struct ans_value {
    enum ans_kind kind;
    size_t start, end;
    bool complete; /* false: the text ended inside */
};

struct ans_member {
    size_t key_start, key_end;
    struct ans_value value;
};

/* A reader of members (object) or elements (array). */
struct ans_reader {
    const char *text;
    size_t at, size;
};

/* Starts at the first '{' of text; false where there is none. */
bool ans_open(struct ans_reader *reader, const char *text, size_t size);
/* Reads inside an object or array that another reader returned. */
struct ans_reader ans_enter(const struct ans_reader *reader, const struct ans_value *value);
/* The next "key": value; false at the end of the object, or of what can be understood. */
bool ans_next_member(struct ans_reader *reader, struct ans_member *member);
bool ans_next_element(struct ans_reader *reader, struct ans_value *value);

/* Decodes a string's escapes; size bytes of text to a NUL-terminated string of at most size bytes
 * in out. U+0000 and lone surrogates become U+FFFD. */
void ans_unescape(char *out, const char *text, size_t size);

#endif
