/* environment.c - variables of the process and of .env. */
#include "environment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_DOTENV (1 << 20)

static char *trimmed(char *s)
{
    s += strspn(s, " \t\r");
    size_t n = strlen(s);
    while (n > 0 && strchr(" \t\r", s[n - 1]))
        s[--n] = 0;
    return s;
}

/* NAME=VALUE of one line; false for comments and everything else. */
static bool split_line(char *line, const char **name, const char **value)
{
    char *s = trimmed(line);
    if (strncmp(s, "export ", 7) == 0)
        s = trimmed(s + 7);
    char *equals = strchr(s, '=');
    if (*s == '#' || !equals)
        return false;
    *equals = 0;
    char *v = trimmed(equals + 1);
    size_t n = strlen(v);
    if (n >= 2 && (*v == '"' || *v == '\'') && v[n - 1] == *v) {
        v[n - 1] = 0;
        v++;
    }
    *name = trimmed(s);
    *value = v;
    return true;
}

enum mll_status env_read(struct environment *env, const char *path, struct mll_error *err)
{
    *env = (struct environment){0};
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return MLL_OK;
    if (st.st_size > MAX_DOTENV)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "%s: %lld bytes, at most %d expected", path,
                        (long long)st.st_size, MAX_DOTENV);
    FILE *f = fopen(path, "rbe");
    if (!f)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "%s: %s", path, strerror(errno));
    env->text = malloc((size_t)st.st_size + 1);
    size_t size = env->text ? fread(env->text, 1, (size_t)st.st_size, f) : 0;
    fclose(f);
    if (!env->text)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "%s", path);
    env->text[size] = 0;

    size_t lines = 1;
    for (size_t i = 0; i < size; i++)
        lines += env->text[i] == '\n';
    env->names = calloc(lines, sizeof *env->names);
    env->values = calloc(lines, sizeof *env->values);
    if (!env->names || !env->values) {
        env_free(env);
        return mll_fail(err, MLL_ERR_NO_MEMORY, "%s", path);
    }
    for (char *next = env->text, *line; (line = strsep(&next, "\n")) != NULL;)
        if (split_line(line, &env->names[env->n], &env->values[env->n]))
            env->n++;
    return MLL_OK;
}

void env_free(struct environment *env)
{
    free(env->text);
    free(env->names);
    free(env->values);
    *env = (struct environment){0};
}

const char *env_get(const struct environment *env, const char *name, bool *from_file)
{
    const char *value = getenv(name);
    if (from_file)
        *from_file = false;
    if (value && *value)
        return value;
    /* the last line of a name wins, as in a shell */
    for (size_t i = env->n; i-- > 0;) {
        if (strcmp(env->names[i], name) == 0) {
            if (from_file)
                *from_file = true;
            return *env->values[i] ? env->values[i] : NULL;
        }
    }
    return NULL;
}

bool env_export(const struct environment *env, const char *name)
{
    bool from_file;
    const char *value = env_get(env, name, &from_file);
    if (value && from_file)
        setenv(name, value, 1);
    return value && strcmp(value, "0") != 0;
}
