/* report.h - a table of benchmark rows, printed as md, csv, json, jsonl or sql.
 *
 * csv, json, jsonl and sql have every column under its name, in its own unit. md is for people: the
 * columns with a title only, their numbers times `scale`, to four digits; columns that are empty
 * are left out, and those without a title that are equal in all rows stand below the table. */
#ifndef MLL_REPORT_H
#define MLL_REPORT_H

#include "base.h"

/* A value: text where it is not NULL, else a list where there is one, else the number, of which NaN
 * stands for none. */
struct report_cell {
    char *text;
    double number;
    double *list; /* (n) */
    size_t n;
};

enum report_use { REPORT_DATA = 0, REPORT_BELOW }; /* of a column without title, in md */

struct report_column {
    const char *name, *title;
    double scale; /* 0: 1 */
    enum report_use use;
};

struct report {
    const char *name;                    /* the table of sql */
    const struct report_column *columns; /* (n_columns) */
    size_t n_columns, n_rows, capacity;
    struct report_cell *cells; /* (n_rows, n_columns); texts and lists are owned */
};

/* A row of cells, to be filled by the next three; the rest stays empty. MLL_ERR_NO_MEMORY. */
enum mll_status report_row(struct report *r, struct mll_error *err);
/* Sets a column of the last row; the name must be one of the columns. Where there is no memory for
 * the copy the cell stays empty. */
void report_text(struct report *r, const char *column, const char *text);
void report_number(struct report *r, const char *column, double number);
/* (n) numbers, which json and jsonl have as a list; the other formats leave the column out. */
void report_list(struct report *r, const char *column, const double *list, size_t n);
/* Writes the table to stdout; format: md, csv, json, jsonl or sql. */
void report_print(const struct report *r, const char *format);
void report_free(struct report *r);

#endif
