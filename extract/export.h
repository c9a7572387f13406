/* export.h - a journal's records in another format: a JSON array, or CSV for a spreadsheet. */
#ifndef MLL_EXPORT_H
#define MLL_EXPORT_H

#include "base.h"

enum exp_format { EXP_JSONL = 0, EXP_JSON, EXP_CSV };

/* By the ending of a name: .json, .csv, else JSON lines. */
enum exp_format exp_format_of(const char *path);

/* Writes the records of the journal to path: whole or not at all (a file beside it, then rename).
 * CSV: file, status, error, warning, then value, status and confidence of each field; items as the
 * JSON of a list of {item_name, quantity, price}. */
enum mll_status exp_write(const char *path, const char *journal, enum exp_format format,
                          struct mll_error *err);

#endif
