/* export.c - JSON lines to a JSON array or CSV (RFC 4180: CRLF, quotes doubled). */
#include "export.h"

#include "fields.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum exp_format exp_format_of(const char *path)
{
    const char *dot = strrchr(path, '.');
    if (dot && strcasecmp(dot, ".json") == 0)
        return EXP_JSON;
    return dot && strcasecmp(dot, ".csv") == 0 ? EXP_CSV : EXP_JSONL;
}

static void put_cell(FILE *f, const char *text, const char *end)
{
    fputc('"', f);
    for (const char *c = text ? text : ""; *c; c++) {
        if (*c == '"')
            fputc('"', f);
        fputc(*c, f);
    }
    fprintf(f, "\"%s", end);
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* The values of the items without what belongs to each of them. */
static char *plain_items(const json_t *list)
{
    json_t *plain = json_array();
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *item = json_object();
        for (int k = 0; k < FLD_PARTS; k++) {
            const char *name = fld_part_name((enum fld_part)k);
            const json_t *part = json_object_get(json_array_get(list, i), name);
            json_object_set(item, name, json_object_get(part, "value"));
        }
        json_array_append_new(plain, item);
    }
    char *text = json_dumps(plain, JSON_COMPACT);
    json_decref(plain);
    return text;
}

static void put_field(FILE *f, const json_t *field, const char *value, const char *end)
{
    put_cell(f, value, ",");
    put_cell(f, text_of(field, "status"), ",");
    if (field)
        fprintf(f, "%.4f", json_number_value(json_object_get(field, "confidence")));
    fputs(end, f);
}

static void put_csv_head(FILE *f)
{
    fputs("file,status,error,warning", f);
    for (int i = 0; i < FLD_COUNT; i++) {
        const char *name = fld_name((enum fld_name)i);
        fprintf(f, ",%s,%s_status,%s_confidence", name, name, name);
    }
    fputs(",items,items_status,items_confidence\r\n", f);
}

static void put_csv_row(FILE *f, const json_t *record)
{
    const json_t *fields = json_object_get(record, "fields");
    const json_t *items = json_object_get(fields, "items");
    put_cell(f, text_of(record, "file"), ",");
    put_cell(f, text_of(record, "status"), ",");
    put_cell(f, text_of(json_object_get(record, "error"), "code"), ",");
    put_cell(f, text_of(record, "warning"), ",");
    for (int i = 0; i < FLD_COUNT; i++) {
        const json_t *field = json_object_get(fields, fld_name((enum fld_name)i));
        put_field(f, field, text_of(field, "value"), ",");
    }
    char *list = items ? plain_items(json_object_get(items, "value")) : NULL;
    put_field(f, items, list, "\r\n");
    free(list);
}

static enum mll_status convert(FILE *out, FILE *in, enum exp_format format, const char *journal,
                               struct mll_error *err)
{
    enum mll_status status = MLL_OK;
    char *line = NULL;
    size_t room = 0, number = 0;
    ssize_t n;
    if (format == EXP_CSV)
        put_csv_head(out);
    while (status == MLL_OK && (n = getline(&line, &room, in)) > 0) {
        if (format == EXP_JSON) {
            fprintf(out, "%s%.*s", number ? ",\n" : "[\n", (int)(n - (line[n - 1] == '\n')), line);
        } else {
            json_t *record = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
            if (record)
                put_csv_row(out, record);
            else
                status = mll_fail(err, MLL_ERR_LINE, "%s: line %zu is not JSON", journal, number);
            json_decref(record);
        }
        number++;
    }
    if (format == EXP_JSON)
        fputs(number ? "\n]\n" : "[]\n", out);
    free(line);
    return status;
}

enum mll_status exp_write(const char *path, const char *journal, enum exp_format format,
                          struct mll_error *err)
{
    size_t size = strlen(path) + 8;
    char *beside = malloc(size);
    if (!beside)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "%s", path);
    snprintf(beside, size, "%s.part", path);
    enum mll_status status = MLL_OK;
    FILE *in = fopen(journal, "re"), *out = in ? fopen(beside, "we") : NULL;
    if (!out) {
        status = mll_fail(err, in ? MLL_ERR_CANNOT_CREATE : MLL_ERR_IO, "%s: %s",
                          in ? beside : journal, strerror(errno));
        goto done;
    }
    status = convert(out, in, format, journal, err);
    bool wrong = fflush(out) != 0 || ferror(out) || fsync(fileno(out)) != 0;
    if (status == MLL_OK && (wrong || rename(beside, path) != 0))
        status = mll_fail(err, MLL_ERR_IO, "%s: %s", path, strerror(errno));
    if (status != MLL_OK)
        unlink(beside);
done:
    if (out)
        fclose(out);
    if (in)
        fclose(in);
    free(beside);
    return status;
}
