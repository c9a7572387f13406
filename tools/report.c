/* report.c - rows as md, csv, json, jsonl or sql.  See report.h. */
#include "report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jsonout.h"

enum mll_status report_row(struct report *r, struct mll_error *err)
{
    if (r->n_rows == r->capacity) {
        size_t capacity = r->capacity ? 2 * r->capacity : 16;
        void *grown = realloc(r->cells, capacity * r->n_columns * sizeof *r->cells);
        if (grown == NULL)
            return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %zu rows", capacity);
        r->cells = grown;
        r->capacity = capacity;
    }
    struct report_cell *row = r->cells + r->n_rows++ * r->n_columns;
    for (size_t i = 0; i < r->n_columns; i++)
        row[i] = (struct report_cell){.number = NAN};
    return MLL_OK;
}

static struct report_cell *cell(struct report *r, const char *column)
{
    size_t i = 0;
    while (i < r->n_columns && strcmp(r->columns[i], column) != 0)
        i++;
    MLL_ASSERT(i < r->n_columns && r->n_rows > 0);
    return r->cells + (r->n_rows - 1) * r->n_columns + i;
}

void report_text(struct report *r, const char *column, const char *text)
{
    cell(r, column)->text = text;
}

void report_number(struct report *r, const char *column, double number)
{
    cell(r, column)->number = number;
}

static struct report_cell *row_of(const struct report *r, size_t row)
{
    return r->cells + row * r->n_columns;
}

static bool is_empty(const struct report_cell *c)
{
    return c->text == NULL && isnan(c->number);
}

/* Six significant digits, integers in full. */
static const char *spell(char out[32], double x)
{
    snprintf(out, 32, x == floor(x) && fabs(x) < 1e15 ? "%.0f" : "%.6g", x);
    return out;
}

/* ---- formats --------------------------------------------------------------------------------- */

static void print_md(const struct report *r)
{
    bool shown[REPORT_COLUMNS] = {false};
    char number[32];
    for (size_t i = 0; i < r->n_rows * r->n_columns; i++)
        shown[i % r->n_columns] |= !is_empty(&r->cells[i]);
    for (size_t line = 0; line < r->n_rows + 2; line++) {
        for (size_t i = 0; i < r->n_columns; i++) {
            const struct report_cell *c = line < 2 ? NULL : row_of(r, line - 2) + i;
            if (!shown[i])
                continue;
            const char *text = line == 0     ? r->columns[i]
                               : line == 1   ? "---"
                               : is_empty(c) ? ""
                               : c->text     ? c->text
                                             : spell(number, c->number);
            printf("| %s ", text);
        }
        puts("|");
    }
}

/* text in quotes, a quote inside doubled */
static void print_quoted(const char *text, char quote)
{
    putchar(quote);
    for (; *text; text++) {
        if (*text == quote)
            putchar(quote);
        putchar(*text);
    }
    putchar(quote);
}

static void print_csv(const struct report *r)
{
    char number[32];
    for (size_t i = 0; i < r->n_columns; i++)
        printf("%s%s", i ? "," : "", r->columns[i]);
    putchar('\n');
    for (size_t i = 0; i < r->n_rows * r->n_columns; i++) {
        const struct report_cell *c = &r->cells[i];
        if (c->text != NULL)
            print_quoted(c->text, '"');
        else if (!is_empty(c))
            fputs(spell(number, c->number), stdout);
        putchar((i + 1) % r->n_columns ? ',' : '\n');
    }
}

/* Decimals for six significant digits. */
static int decimals(double x)
{
    int digits = x == 0 || x == floor(x) ? 0 : 5 - (int)floor(log10(fabs(x)));
    return digits < 0 ? 0 : digits > 15 ? 15 : digits;
}

static void print_rows(const struct report *r, bool list)
{
    struct jw w = {0};
    if (list)
        jw_array(&w, NULL);
    for (size_t row = 0; row < r->n_rows; row++) {
        jw_object(&w, NULL);
        for (size_t i = 0; i < r->n_columns; i++) {
            const struct report_cell *c = row_of(r, row) + i;
            if (c->text != NULL)
                jw_string(&w, r->columns[i], c->text);
            else
                jw_real(&w, r->columns[i], c->number, is_empty(c) ? 0 : decimals(c->number));
        }
        jw_end(&w, '}');
        if (!list)
            jw_newline(&w);
    }
    if (list) {
        jw_end(&w, ']');
        jw_newline(&w);
    }
    fwrite(w.data, 1, w.n, stdout);
    jw_free(&w);
}

static void print_json(const struct report *r)
{
    print_rows(r, true);
}

static void print_jsonl(const struct report *r)
{
    print_rows(r, false);
}

/* A column is REAL unless some row has text in it. */
static void print_sql(const struct report *r)
{
    char number[32];
    printf("CREATE TABLE IF NOT EXISTS %s (", r->name);
    for (size_t i = 0; i < r->n_columns; i++) {
        bool text = false;
        for (size_t row = 0; row < r->n_rows; row++)
            text |= row_of(r, row)[i].text != NULL;
        printf("%s%s %s", i ? ", " : "", r->columns[i], text ? "TEXT" : "REAL");
    }
    puts(");");
    for (size_t i = 0; i < r->n_rows * r->n_columns; i++) {
        const struct report_cell *c = &r->cells[i];
        if (i % r->n_columns == 0)
            printf("INSERT INTO %s VALUES (", r->name);
        if (c->text != NULL)
            print_quoted(c->text, '\'');
        else
            fputs(is_empty(c) ? "NULL" : spell(number, c->number), stdout);
        fputs((i + 1) % r->n_columns ? ", " : ");\n", stdout);
    }
}

void report_print(const struct report *r, const char *format)
{
    static const struct {
        const char *name;
        void (*print)(const struct report *r);
    } formats[] = {{"md", print_md},
                   {"csv", print_csv},
                   {"json", print_json},
                   {"jsonl", print_jsonl},
                   {"sql", print_sql}};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(format, formats[i].name) == 0)
            formats[i].print(r);
}

void report_free(struct report *r)
{
    free(r->cells);
    *r = (struct report){0};
}
