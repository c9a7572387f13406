/* json_read.h - JSON files of a model directory, read with the limits that untrusted files need.
 *
 * Built on jansson: duplicate keys, invalid UTF-8 and nesting beyond 2048 are refused. Getters take
 * the place of a value in a file ("config.json", "text_config.") for messages, add a defect where a
 * value is wrong, and then return a value inside the range, so that reading goes on. */
#ifndef MLL_JSON_READ_H
#define MLL_JSON_READ_H

#include "defects.h"

#include <jansson.h>

#define JR_MAX_FILE (64u << 20)

/* Reads DIR/NAME; NULL after adding a defect. A file that is not there is MLL_ERR_CONFIG_MISSING
 * where required, else no defect. The caller frees with json_decref. */
json_t *jr_load(const char *dir, const char *name, bool required, struct defects *d);
/* The same from memory; name is used in messages. */
json_t *jr_parse(const char *text, size_t size, const char *name, struct defects *d);

/* One object of a file. bad: the status of wrong values, MLL_OK for the one that fits each fault
 * (config_type, config_zero, config_negative, config_too_large, config_value). */
struct jr_object {
    const json_t *value; /* an object */
    const char *file, *prefix;
    enum mll_status bad;
    struct defects *d;
};

#define JR_REQUIRED INT64_MIN

/* The value under key, else under other (NULL: none); NULL where there is none or it is null. */
const json_t *jr_get(const struct jr_object *o, const char *key, const char *other);
/* An integer in [min, max]; standard where absent, a defect where that is JR_REQUIRED. */
int jr_int(const struct jr_object *o, const char *key, const char *other, int64_t standard, int min,
           int max);
/* A finite number in [min, max]. */
double jr_number(const struct jr_object *o, const char *key, double standard, double min,
                 double max);
bool jr_bool(const struct jr_object *o, const char *key, bool standard);
/* Borrowed; standard where absent. */
const char *jr_string(const struct jr_object *o, const char *key, const char *standard);
/* An array of at most cap integers in [min, max]; one integer is an array of one where single.
 * Returns their number, 0 where absent. status: of a number out of range. */
int jr_ints(const struct jr_object *o, const char *key, bool single, int *out, int cap, int min,
            int max, enum mll_status status);
/* "an object", "a string", ...; "nothing" for NULL. For messages. */
const char *jr_type_name(const json_t *value);
/* Adds a defect about key; fmt says what was expected and found. */
void jr_defect(const struct jr_object *o, const char *key, enum mll_status status, const char *fmt,
               ...) MLL_PRINTF(4, 5);

#endif
