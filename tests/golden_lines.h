/* golden_lines.h - JSON-lines files of tests/golden, for tests. */
#ifndef MLL_TESTS_GOLDEN_LINES_H
#define MLL_TESTS_GOLDEN_LINES_H

#include "bpe.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>

#define GOLDEN(name) MLL_SOURCE_DIR "/tests/golden/" name

/* The next line of f as JSON; NULL at the end. */
static inline json_t *golden_next(FILE *f)
{
    return json_loadf(f, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL);
}

/* Opens a file and skips its first line, the versions of the oracles. */
static inline FILE *golden_open(const char *path)
{
    FILE *f = fopen(path, "r");
    cr_assert(f, "%s", path);
    json_decref(golden_next(f));
    return f;
}

static inline bool golden_ids_equal(const struct bpe_ids *ids, const json_t *expected)
{
    bool equal = ids->n == json_array_size(expected);
    for (size_t i = 0; equal && i < ids->n; i++)
        equal = ids->data[i] == json_integer_value(json_array_get(expected, i));
    return equal;
}

#endif
