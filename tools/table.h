/* table.h - records as rows of a table on stdout, headed by the field names. */
#ifndef MLL_TABLE_H
#define MLL_TABLE_H

#include "document.h"

void table_head(void);
/* Missing is -, malformed ?raw, inconsistent value!; a failed document shows its error code. True
 * where a field got such a mark. */
bool table_row(const struct doc_record *record);

#endif
