/* report.c - rows as md, csv, json, jsonl or sql.  See report.h. */
#include "report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jsonout.h"

enum { NUMBER = 32 }; /* bytes of a number in words */

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
    while (i < r->n_columns && strcmp(r->columns[i].name, column) != 0)
        i++;
    MLL_ASSERT(i < r->n_columns && r->n_rows > 0);
    return r->cells + (r->n_rows - 1) * r->n_columns + i;
}

void report_text(struct report *r, const char *column, const char *text)
{
    cell(r, column)->text = strdup(text);
}

void report_number(struct report *r, const char *column, double number)
{
    cell(r, column)->number = number;
}

void report_list(struct report *r, const char *column, const double *list, size_t n)
{
    struct report_cell *c = cell(r, column);
    c->list = malloc(n * sizeof *list);
    c->n = c->list ? n : 0;
    if (c->list)
        memcpy(c->list, list, n * sizeof *list);
}

static const struct report_cell *cell_at(const struct report *r, size_t row, size_t column)
{
    return r->cells + row * r->n_columns + column;
}

static bool is_empty(const struct report_cell *c)
{
    return c->text == NULL && c->list == NULL && isnan(c->number);
}

static bool is_equal(const struct report_cell *a, const struct report_cell *b)
{
    if (a->text && b->text)
        return strcmp(a->text, b->text) == 0;
    return !a->text == !b->text && (a->number == b->number || (is_empty(a) && is_empty(b)));
}

/* Six significant digits, integers in full. */
static const char *spell(char out[NUMBER], double x)
{
    snprintf(out, NUMBER, x == floor(x) && fabs(x) < 1e15 ? "%.0f" : "%.6g", x);
    return out;
}

/* Four significant digits, without an exponent where that is readable. */
static const char *spell_short(char out[NUMBER], double x)
{
    int decimals = x == 0 ? 0 : 3 - (int)floor(log10(fabs(x)));
    if (fabs(x) >= 1e9 || (x != 0 && fabs(x) < 1e-4))
        snprintf(out, NUMBER, "%.4g", x);
    else
        snprintf(out, NUMBER, "%.*f", x == floor(x) || decimals < 0 ? 0 : decimals, x);
    return out;
}

/* ---- formats --------------------------------------------------------------------------------- */

static const char *md_text(char out[NUMBER], const struct report *r, size_t row, size_t column)
{
    const struct report_cell *c = cell_at(r, row, column);
    double scale = r->columns[column].scale;
    return c->text ? c->text : is_empty(c) ? "" : spell_short(out, c->number * (scale ? scale : 1));
}

/* Whether md has the column in its table, or below it. */
static bool md_shows(const struct report *r, size_t column, bool below)
{
    const struct report_column *k = &r->columns[column];
    bool filled = false, equal = true;
    for (size_t row = 0; row < r->n_rows; row++) {
        filled |= !is_empty(cell_at(r, row, column));
        equal &= is_equal(cell_at(r, row, column), cell_at(r, 0, column));
    }
    if (k->title)
        return filled && !below;
    return filled && k->use == REPORT_BELOW && equal == below;
}

static const char *md_title(const struct report_column *k)
{
    return k->title ? k->title : k->name;
}

static void print_md(const struct report *r)
{
    char number[NUMBER];
    for (size_t line = 0; line < r->n_rows + 2; line++) {
        for (size_t i = 0; i < r->n_columns; i++) {
            if (!md_shows(r, i, false))
                continue;
            bool right = cell_at(r, 0, i)->text == NULL;
            printf("| %s ", line == 0   ? md_title(&r->columns[i])
                            : line == 1 ? (right ? "---:" : "---")
                                        : md_text(number, r, line - 2, i));
        }
        puts("|");
    }
    const char *between = "\n";
    for (size_t i = 0; i < r->n_columns; i++)
        if (md_shows(r, i, true)) {
            printf("%s%s: %s", between, r->columns[i].name, md_text(number, r, 0, i));
            between = "; ";
        }
    if (*between == ';')
        puts("");
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

static bool is_list(const struct report *r, size_t column)
{
    bool list = false;
    for (size_t row = 0; row < r->n_rows; row++)
        list |= cell_at(r, row, column)->list != NULL;
    return list;
}

/* A value of csv and sql. */
static void print_value(const struct report_cell *c, char quote, const char *none)
{
    char number[NUMBER];
    if (c->text != NULL)
        print_quoted(c->text, quote);
    else
        fputs(is_empty(c) ? none : spell(number, c->number), stdout);
}

static void print_csv(const struct report *r)
{
    for (size_t row = 0; row <= r->n_rows; row++) {
        const char *between = "";
        for (size_t i = 0; i < r->n_columns; i++) {
            if (is_list(r, i))
                continue;
            fputs(between, stdout);
            if (row == 0)
                fputs(r->columns[i].name, stdout);
            else
                print_value(cell_at(r, row - 1, i), '"', "");
            between = ",";
        }
        putchar('\n');
    }
}

/* Decimals for six significant digits. */
static int decimals(double x)
{
    int digits = x == 0 || x == floor(x) ? 0 : 5 - (int)floor(log10(fabs(x)));
    return digits < 0 ? 0 : digits > 15 ? 15 : digits;
}

static void put_cell(struct jw *w, const char *name, const struct report_cell *c)
{
    if (c->text != NULL) {
        jw_string(w, name, c->text);
    } else if (c->list != NULL) {
        jw_array(w, name);
        for (size_t i = 0; i < c->n; i++)
            jw_real(w, NULL, c->list[i], decimals(c->list[i]));
        jw_end(w, ']');
    } else {
        jw_real(w, name, c->number, is_empty(c) ? 0 : decimals(c->number));
    }
}

static void print_rows(const struct report *r, bool list)
{
    struct jw w = {0};
    if (list)
        jw_array(&w, NULL);
    for (size_t row = 0; row < r->n_rows; row++) {
        jw_object(&w, NULL);
        for (size_t i = 0; i < r->n_columns; i++)
            put_cell(&w, r->columns[i].name, cell_at(r, row, i));
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
static void print_sql_head(const struct report *r)
{
    const char *between = "";
    printf("CREATE TABLE IF NOT EXISTS %s (", r->name);
    for (size_t i = 0; i < r->n_columns; i++) {
        bool text = false;
        for (size_t row = 0; row < r->n_rows; row++)
            text |= cell_at(r, row, i)->text != NULL;
        if (is_list(r, i))
            continue;
        printf("%s%s %s", between, r->columns[i].name, text ? "TEXT" : "REAL");
        between = ", ";
    }
    puts(");");
}

static void print_sql(const struct report *r)
{
    print_sql_head(r);
    for (size_t row = 0; row < r->n_rows; row++) {
        const char *between = "";
        printf("INSERT INTO %s VALUES (", r->name);
        for (size_t i = 0; i < r->n_columns; i++) {
            if (is_list(r, i))
                continue;
            fputs(between, stdout);
            print_value(cell_at(r, row, i), '\'', "NULL");
            between = ", ";
        }
        puts(");");
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
    for (size_t i = 0; i < r->n_rows * r->n_columns; i++) {
        free(r->cells[i].text);
        free(r->cells[i].list);
    }
    free(r->cells);
    *r = (struct report){0};
}
