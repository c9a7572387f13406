#include "json_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

json_t *jr_parse(const char *text, size_t size, const char *name, struct defects *d)
{
    json_error_t e;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (root)
        return root;
    enum json_error_code code = json_error_code(&e);
    enum mll_status status = code == json_error_stack_overflow     ? MLL_ERR_JSON_DEPTH
                             : code == json_error_duplicate_key    ? MLL_ERR_JSON_DUPLICATE
                             : code == json_error_numeric_overflow ? MLL_ERR_CONFIG_TOO_LARGE
                             : code == json_error_out_of_memory    ? MLL_ERR_NO_MEMORY
                                                                   : MLL_ERR_JSON_SYNTAX;
    defects_add(d, status, "%s: line %d, column %d: expected valid JSON, found: %s", name, e.line,
                e.column, e.text);
    return NULL;
}

/* The bytes of a regular file of at most JR_MAX_FILE, owned by the caller; NULL after a defect. */
static char *read_file(int fd, size_t *size, const char *name, struct defects *d)
{
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        defects_add(d, MLL_ERR_FILE_NOT_REGULAR, "%s: expected a regular file, found another kind",
                    name);
        return NULL;
    }
    if (info.st_size > (off_t)JR_MAX_FILE) {
        defects_add(d, MLL_ERR_JSON_TOO_LARGE, "%s: expected at most %u bytes, found %lld", name,
                    JR_MAX_FILE, (long long)info.st_size);
        return NULL;
    }
    char *text = malloc((size_t)info.st_size + 1);
    if (!text) {
        defects_add(d, MLL_ERR_NO_MEMORY, "%s: out of memory", name);
        return NULL;
    }
    for (*size = 0; *size < (size_t)info.st_size;) {
        ssize_t n = read(fd, text + *size, (size_t)info.st_size - *size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            defects_add(d, MLL_ERR_IO, "%s: cannot read: %s", name, strerror(errno));
            free(text);
            return NULL;
        }
        if (n == 0)
            break;
        *size += (size_t)n;
    }
    return text;
}

json_t *jr_load(const char *dir, const char *name, bool required, struct defects *d)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) {
        defects_add(d, MLL_ERR_NOT_FOUND, "%s: the path is longer than 4095 bytes", name);
        return NULL;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        struct stat link;
        bool absent = errno == ENOENT || errno == ENOTDIR;
        /* A dangling link is a file of the HF cache that was not downloaded. */
        if (required || !absent || lstat(path, &link) == 0)
            defects_add(d, absent ? MLL_ERR_CONFIG_MISSING : MLL_ERR_IO,
                        "%s: expected a readable file in %.250s, found: %s", name, dir,
                        strerror(errno));
        return NULL;
    }
    size_t size;
    char *text = read_file(fd, &size, name, d);
    close(fd);
    json_t *root = text ? jr_parse(text, size, name, d) : NULL;
    free(text);
    if (root && !json_is_object(root)) {
        defects_add(d, MLL_ERR_CONFIG_TYPE, "%s: expected a JSON object, found an array", name);
        json_decref(root);
        root = NULL;
    }
    return root;
}

void jr_defect(const struct jr_object *o, const char *key, enum mll_status status, const char *fmt,
               ...)
{
    char what[320];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    defects_add(o->d, o->bad ? o->bad : status, "%s: %s%s: %s", o->file, o->prefix, key, what);
}

const json_t *jr_get(const struct jr_object *o, const char *key, const char *other)
{
    const json_t *v = json_object_get(o->value, key);
    if ((!v || json_is_null(v)) && other)
        v = json_object_get(o->value, other);
    return v && !json_is_null(v) ? v : NULL;
}

const char *jr_type_name(const json_t *value)
{
    static const char *const names[] = {"an object",     "an array", "a string", "an integer",
                                        "a real number", "true",     "false",    "null"};
    return value ? names[json_typeof(value)] : "nothing";
}

/* True where v is inside; else adds the defect that names what is wrong. */
static bool check_int(const struct jr_object *o, const char *key, json_int_t v, int min, int max,
                      enum mll_status status)
{
    if (v >= min && v <= max)
        return true;
    if (status == MLL_OK)
        status = v == 0    ? MLL_ERR_CONFIG_ZERO
                 : v < 0   ? MLL_ERR_CONFIG_NEGATIVE
                 : v > max ? MLL_ERR_CONFIG_TOO_LARGE
                           : MLL_ERR_CONFIG_VALUE;
    jr_defect(o, key, status, "expected %d to %d, found %lld", min, max, (long long)v);
    return false;
}

int jr_int(const struct jr_object *o, const char *key, const char *other, int64_t standard, int min,
           int max)
{
    const json_t *v = jr_get(o, key, other);
    if (!v && standard != JR_REQUIRED)
        return (int)standard;
    if (!v)
        jr_defect(o, key, MLL_ERR_CONFIG_KEY, "expected an integer, found no such key");
    else if (!json_is_integer(v))
        jr_defect(o, key, MLL_ERR_CONFIG_TYPE, "expected an integer, found %s", jr_type_name(v));
    else if (check_int(o, key, json_integer_value(v), min, max, MLL_OK))
        return (int)json_integer_value(v);
    return min;
}

double jr_number(const struct jr_object *o, const char *key, double standard, double min,
                 double max)
{
    const json_t *v = jr_get(o, key, NULL);
    if (!v)
        return standard;
    double x = json_number_value(v);
    if (!json_is_number(v))
        jr_defect(o, key, MLL_ERR_CONFIG_TYPE, "expected a number, found %s", jr_type_name(v));
    else if (!(x >= min && x <= max))
        jr_defect(o, key, MLL_ERR_CONFIG_VALUE, "expected %g to %g, found %g", min, max, x);
    else
        return x;
    return standard;
}

bool jr_bool(const struct jr_object *o, const char *key, bool standard)
{
    const json_t *v = jr_get(o, key, NULL);
    if (!v || json_is_boolean(v))
        return v ? json_is_true(v) : standard;
    jr_defect(o, key, MLL_ERR_CONFIG_TYPE, "expected true or false, found %s", jr_type_name(v));
    return standard;
}

const char *jr_string(const struct jr_object *o, const char *key, const char *standard)
{
    const json_t *v = jr_get(o, key, NULL);
    if (!v || json_is_string(v))
        return v ? json_string_value(v) : standard;
    jr_defect(o, key, MLL_ERR_CONFIG_TYPE, "expected a string, found %s", jr_type_name(v));
    return standard;
}

int jr_ints(const struct jr_object *o, const char *key, bool single, int *out, int cap, int min,
            int max, enum mll_status status)
{
    const json_t *v = jr_get(o, key, NULL);
    if (!v)
        return 0;
    bool one = single && json_is_integer(v);
    if (!one && !json_is_array(v)) {
        jr_defect(o, key, MLL_ERR_CONFIG_TYPE, "expected an array of integers, found %s",
                  jr_type_name(v));
        return 0;
    }
    size_t n = one ? 1 : json_array_size(v);
    if (n > (size_t)cap) {
        jr_defect(o, key, MLL_ERR_CONFIG_TOO_LARGE, "expected at most %d entries, found %zu", cap,
                  n);
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *e = one ? v : json_array_get(v, i);
        if (!json_is_integer(e)) {
            jr_defect(o, key, MLL_ERR_CONFIG_TYPE, "expected integers, found %s", jr_type_name(e));
            return 0;
        }
        if (!check_int(o, key, json_integer_value(e), min, max, status))
            return 0;
        out[i] = (int)json_integer_value(e);
    }
    return (int)n;
}
