/* split.h - the Llama 3 pre-tokeniser: cuts a text into the pieces that BPE merges within.
 *
 * One pattern, written out by hand, in linear time; the first alternative that matches wins:
 *     (?i:'s|'t|'re|'ve|'m|'ll|'d)      contractions; case-insensitive: 'ſ (U+017F) too
 *     [^\r\n\p{L}\p{N}]?\p{L}+          letters, with one character that is no letter before them
 *     \p{N}{1,3}                        up to three digits
 *      ?[^\s\p{L}\p{N}]+[\r\n]*         the rest, with a space before and line ends after
 *     \s*[\r\n]+                        white space up to its last line end
 *     \s+(?!\S)                         white space but for the last, which joins what follows
 *     \s+
 * A maximal invalid part of UTF-8 counts as one U+FFFD, which is none of \p{L}, \p{N}, \s. */
#ifndef MLL_SPLIT_H
#define MLL_SPLIT_H

#include <stddef.h>

#define SPLIT_LLAMA3_PATTERN                                                  \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" \
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* The end of the piece that starts at pos; pos < size, and 0 or the end of a piece. */
size_t split_next(const char *text, size_t size, size_t pos);

#endif
