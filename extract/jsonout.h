/* jsonout.h - writes JSON: one growable buffer, ASCII only, the same bytes for the same values.
 *
 *     struct jw w = {0};
 *     jw_object(&w, NULL);
 *     jw_string(&w, "name", "café");          {"name":"caf\u00e9"}
 *     jw_end(&w, '}');
 *     if (!w.failed) fwrite(w.data, 1, w.n, stdout);
 *     jw_free(&w);
 *
 * key is NULL inside an array and at the top. Running out of memory sets failed and later calls do
 * nothing, so that a caller checks once. */
#ifndef MLL_JSONOUT_H
#define MLL_JSONOUT_H

#include "base.h"

struct jw {
    char *data; /* (n), not NUL-terminated; owned, jw_free */
    size_t n, capacity;
    bool comma; /* the next element needs one before it */
    bool failed;
};

void jw_object(struct jw *w, const char *key);
void jw_array(struct jw *w, const char *key);
void jw_end(struct jw *w, char bracket); /* '}' or ']' */
/* text NULL writes null. Invalid UTF-8 becomes U+FFFD, one per byte. */
void jw_string(struct jw *w, const char *key, const char *text);
void jw_string_n(struct jw *w, const char *key, const char *text, size_t size);
void jw_base64(struct jw *w, const char *key, const char *bytes, size_t size);
void jw_int(struct jw *w, const char *key, int64_t value);
/* decimals digits after the point; NaN and infinities become null. */
void jw_real(struct jw *w, const char *key, double value, int decimals);
void jw_bool(struct jw *w, const char *key, bool value);
void jw_null(struct jw *w, const char *key);
void jw_hash(struct jw *w, const char *key, uint64_t value); /* 16 hexadecimal digits */
void jw_newline(struct jw *w);                               /* ends a JSON line */
void jw_free(struct jw *w);

/* Length of the valid UTF-8 scalar at the start of text, 0 where there is none; *scalar its value.
 */
size_t jw_utf8(uint32_t *scalar, const char *text, size_t size);
bool jw_is_utf8(const char *text); /* all of it */

#endif
