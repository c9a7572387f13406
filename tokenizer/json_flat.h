/* json_flat.h - the two big values of a tokenizer.json, vocabulary and merges, read in place.
 *
 * Half a million small strings make a slow tree. So these two values are found by a scan that only
 * knows strings and brackets, read straight from the file's bytes, and left out of what the JSON
 * library sees. Strict: what is not JSON of the expected form is refused. No recursion. */
#ifndef MLL_JSON_FLAT_H
#define MLL_JSON_FLAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct flat {
    const char *at, *end;
};

/* Finds n keys of an object in one pass: their values (the last one where a key stands twice) and
 * in counts a bound on each value's members. false: one is missing, or brackets do not match. */
bool flat_members(struct flat *values, size_t *counts, struct flat object, const char *const *keys,
                  int n);

/* Each of these skips white space and consumes what it names, or returns false (-1) and consumes
 * nothing that matters. */
bool flat_mark(struct flat *f, char mark);         /* one of {}[]:, */
bool flat_integer(struct flat *f, int64_t *value); /* an integer of at most 18 digits */
/* A string, its escapes undone, as UTF-8 (not checked where the file writes it raw). Returns its
 * length, -1 if it is malformed or longer than capacity. */
int flat_string(struct flat *f, char *out, int capacity);
/* Whether only white space is left. */
bool flat_done(struct flat *f);

#endif
