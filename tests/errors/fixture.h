/* fixture.h - a tiny valid model directory, made by the test, for a test to damage.
 *
 * Weights come from the weight table (all zeros, BF16), the tokenizer has the 256 bytes, one merge
 * and five special tokens. Failures of the fixture itself abort. */
#ifndef MLL_FIXTURE_H
#define MLL_FIXTURE_H

#include "safetensors_write.h"

#include <stdbool.h>
#include <stddef.h>

struct fixture {
    char dir[64];
};

enum fixture_layout { FIXTURE_ONE_FILE, FIXTURE_SHARDED };

/* Changes the tensors of one file before it is written: shard 0 or 1. May drop or add (there is
 * room for 4 more). NULL: none. */
typedef void fixture_edit(struct st_spec *specs, size_t *n, int shard);

void fixture_make(struct fixture *f, enum fixture_layout layout, fixture_edit *edit);
void fixture_remove(struct fixture *f);

/* "DIR/NAME" in out. */
void fixture_path(const struct fixture *f, char out[256], const char *name);
void fixture_write(const struct fixture *f, const char *name, const void *bytes, size_t size);
/* Replaces the one occurrence of `from` in a text file. */
void fixture_replace(const struct fixture *f, const char *name, const char *from, const char *to);
/* The whole file, owned by the caller, with a NUL behind it. */
char *fixture_read(const struct fixture *f, const char *name, size_t *size);
void fixture_delete(const struct fixture *f, const char *name);

#endif
