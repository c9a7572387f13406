/* table.c - fixed columns, so that each row can be printed when its document is done. */
#include "table.h"

#include <stdio.h>
#include <string.h>

#define FILE_WIDTH 24
static const int widths[FLD_COUNT] = {20, 11, 12, 14};

/* text in width columns, at most; control characters and what is beyond ASCII count one column a
 * scalar, since terminals differ on the rest. */
static void print_cell(const char *text, int width)
{
    size_t size = strlen(text);
    int column = 0;
    for (size_t i = 0; i < size && column < width; column++) {
        uint32_t scalar;
        size_t n = jw_utf8(&scalar, text + i, size - i);
        if (column == width - 1 && i + (n ? n : 1) < size)
            fputs("\u2026", stdout);
        else if (n == 0 || scalar < 0x20 || (scalar >= 0x7f && scalar < 0xa0))
            putchar('?');
        else
            fwrite(text + i, 1, n, stdout);
        i += n ? n : 1;
    }
    printf("%*s ", width - column, "");
}

/* True where the cell has a mark. */
static bool print_value(const struct fld_value *v, int width)
{
    char cell[64];
    if (v->status == FLD_MISSING)
        snprintf(cell, sizeof cell, "-");
    else if (v->status == FLD_MALFORMED)
        snprintf(cell, sizeof cell, "?%s", v->raw ? v->raw : "");
    else
        snprintf(cell, sizeof cell, "%s%s", v->value, v->status == FLD_INCONSISTENT ? "!" : "");
    print_cell(cell, width);
    return v->status == FLD_MALFORMED || v->status == FLD_INCONSISTENT;
}

void table_head(void)
{
    print_cell("file", FILE_WIDTH);
    for (int i = 0; i < FLD_COUNT; i++)
        print_cell(fld_name((enum fld_name)i), widths[i]);
    printf("items confidence\n");
}

bool table_row(const struct doc_record *record)
{
    const char *slash = strrchr(record->file, '/');
    print_cell(slash ? slash + 1 : record->file, FILE_WIDTH);
    if (record->failed) {
        printf("failed: %s\n", mll_status_name(record->error.code));
        return false;
    }
    const struct fld_record *fields = &record->fields;
    bool marks = false;
    for (int i = 0; i < FLD_COUNT; i++)
        marks |= print_value(&fields->field[i], widths[i]);
    char items[32];
    snprintf(items, sizeof items, "%zu%s", fields->n_items,
             fields->items.status == FLD_MALFORMED      ? "?"
             : fields->items.status == FLD_INCONSISTENT ? "!"
                                                        : "");
    printf("%5s %10.2f\n", items, fld_confidence(fields)); /* of the least certain field */
    return marks;
}
