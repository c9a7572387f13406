/* environment.h - the process's variables and the `.env` file of the working directory: the only
 * place that calls getenv. A .env holds lines NAME=VALUE, optionally `export` before and quotes
 * around the value; # starts a comment line; other lines are passed over. */
#ifndef MLL_ENVIRONMENT_H
#define MLL_ENVIRONMENT_H

#include "base.h"

struct environment {
    char *text; /* the .env file, cut into strings; owned */
    size_t n;
    const char **names, **values; /* (n) into text */
};

/* A missing .env is fine; one that cannot be read or is larger than 1 MiB is an error. */
enum mll_status env_read(struct environment *env, const char *path, struct mll_error *err);
void env_free(struct environment *env);
/* The process's variable, else the .env's, else NULL; an empty value counts as absent.
 * *from_file (may be NULL) tells which. */
const char *env_get(const struct environment *env, const char *name, bool *from_file);
/* Puts a .env's value of a variable that libraries read for themselves into the process's, before
 * they are first used; tells whether it is set and not 0. */
bool env_export(const struct environment *env, const char *name);

#endif
