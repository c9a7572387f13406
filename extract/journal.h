/* journal.h - a file of JSON lines that survives being killed and is continued by the next run.
 *
 * Each record is one write at the end of the file; a line that was torn by a crash or a full disk
 * is cut off when the journal is opened again. One process writes at a time (flock). Records are
 * known by path and SHA-256 of the content. Data reach the disk (fdatasync) about once a second and
 * at close: a killed process loses nothing, a power cut at most a second. */
#ifndef MLL_JOURNAL_H
#define MLL_JOURNAL_H

#include "base.h"

struct jnl;

/* Opens or creates path. MLL_ERR_CANNOT_CREATE where another process writes to it or it cannot be
 * made; MLL_ERR_IO where it holds something else than records, which is then left as it is. */
enum mll_status jnl_open(struct jnl **journal, const char *path, struct mll_error *err);
void jnl_close(struct jnl *journal); /* NULL allowed */

/* What an earlier run recorded for this path and content. sha256 "" stands for a file that could
 * not be read. */
enum jnl_state { JNL_ABSENT = 0, JNL_DONE, JNL_FAILED };
enum jnl_state jnl_find(const struct jnl *journal, const char *path, const char *sha256);
size_t jnl_count(const struct jnl *journal); /* records found when it was opened */

/* Appends one line (n bytes, '\n' last). On failure the file is as it was. */
enum mll_status jnl_append(struct jnl *journal, const char *line, size_t n, struct mll_error *err);

#endif
