/* inputs.h - the documents behind the operands of a command: files, folders, patterns. */
#ifndef MLL_INPUTS_H
#define MLL_INPUTS_H

#include "base.h"

struct inp_file {
    char *path;      /* as given, or as given plus the way inside a folder */
    size_t relative; /* offset in path of the part relative to its operand; a file's own name */
};

struct inp_list {
    struct inp_file *files; /* (n) owned; inp_free */
    size_t n, capacity;
    size_t skipped; /* files in folders that are not *.png, *.jpg, *.jpeg */
    size_t absent;  /* operands that do not exist; they are in files too */
};

/* A file operand is taken whatever its name; a folder is walked in the order of its bytes, hidden
 * names left out, each real folder once (links may loop), *.png, *.jpg and *.jpeg in any case. An
 * operand that does not exist but holds * ? or [ is a pattern. The same path is taken once. */
enum mll_status inp_collect(struct inp_list *list, const char *const *operands, size_t n,
                            struct mll_error *err);
/* Keeps the files of shard i of n: FNV-1a (64 bits) of the relative path, modulo n. */
void inp_keep_shard(struct inp_list *list, unsigned i, unsigned n);
void inp_free(struct inp_list *list);

/* The whole of a regular file, at most max bytes, and room for one byte more; a FIFO, device or
 * folder is refused without waiting. *bytes is owned by the caller (free) and never NULL on
 * success. */
enum mll_status inp_read(uint8_t **bytes, size_t *size, const char *path, size_t max,
                         struct mll_error *err);

#endif
