/* report.h - a table of benchmark rows, printed as md, csv, json, jsonl or sql. */
#ifndef MLL_REPORT_H
#define MLL_REPORT_H

#include "base.h"

enum { REPORT_COLUMNS = 32 };

/* A value: text where it is not NULL, else the number; NaN stands for none. */
struct report_cell {
    const char *text;
    double number;
};

struct report {
    const char *name;           /* the table of sql */
    const char *const *columns; /* (n_columns) */
    size_t n_columns, n_rows, capacity;
    struct report_cell *cells; /* (n_rows, n_columns); texts are borrowed */
};

/* A row of cells, to be filled by report_text and report_number; the rest stays empty.
 * MLL_ERR_NO_MEMORY. */
enum mll_status report_row(struct report *r, struct mll_error *err);
/* Sets a column of the last row; the name must be one of the columns. */
void report_text(struct report *r, const char *column, const char *text);
void report_number(struct report *r, const char *column, double number);
/* Writes the table to stdout; format: md, csv, json, jsonl or sql. md leaves out empty columns. */
void report_print(const struct report *r, const char *format);
void report_free(struct report *r);

#endif
