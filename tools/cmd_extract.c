/* cmd_extract.c - mllama extract INPUT... [-o OUT]: documents to records, one at a time. */
#include "batch.h"
#include "export.h"
#include "inputs.h"
#include "journal.h"
#include "table.h"
#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where the records of a run go. */
struct sink {
    struct jnl *journal; /* -o FILE; NULL: none */
    enum exp_format format;
    char *journal_path; /* FILE, or FILE.jsonl where FILE is made from it at the end; owned */
    bool lines, table;  /* on stdout */
    bool marks;         /* the table has ! or ? */
};

struct counts {
    size_t ok, failed, recorded; /* recorded: by an earlier run, whatever became of them */
};

static enum mll_status open_sink(struct sink *sink, const struct args *args, struct mll_error *err)
{
    bool to_stdout = !args->output || strcmp(args->output, "-") == 0;
    *sink = (struct sink){.table = args->table || (isatty(STDOUT_FILENO) && !args->json)};
    sink->lines = (to_stdout && !sink->table) || args->json;
    if (to_stdout)
        return MLL_OK;
    sink->format = exp_format_of(args->output);
    size_t size = strlen(args->output) + 8;
    sink->journal_path = malloc(size);
    if (!sink->journal_path)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "%s", args->output);
    snprintf(sink->journal_path, size, "%s%s", args->output,
             sink->format == EXP_JSONL ? "" : ".jsonl");
    return jnl_open(&sink->journal, sink->journal_path, err);
}

/* Also after an interruption: what is done is there in the wanted form. */
static enum mll_status close_sink(struct sink *sink, const struct args *args, struct mll_error *err)
{
    enum mll_status status = MLL_OK;
    if (sink->journal && sink->format != EXP_JSONL)
        status = exp_write(args->output, sink->journal_path, sink->format, err);
    jnl_close(sink->journal);
    free(sink->journal_path);
    return status;
}

static enum mll_status put_record(struct sink *sink, const struct doc_record *record,
                                  struct mll_error *err)
{
    struct jw w = {0};
    doc_write(&w, record);
    enum mll_status status = MLL_OK;
    if (w.failed)
        status = mll_fail(err, MLL_ERR_NO_MEMORY, "%s: its record", record->file);
    if (status == MLL_OK && sink->journal)
        status = jnl_append(sink->journal, w.data, w.n, err);
    if (status == MLL_OK && sink->lines)
        status = tool_write(w.data, w.n, err);
    if (status == MLL_OK && sink->table)
        sink->marks |= table_row(record);
    jw_free(&w);
    return status == MLL_OK ? tool_flush(err) : status;
}

/* One document from path to record; *state says what became of it. */
static enum mll_status do_document(struct batch *batch, struct sink *sink, const char *path,
                                   enum jnl_state *state, bool *recorded, struct mll_error *err)
{
    struct doc_record record;
    uint8_t *bytes;
    size_t size;
    enum mll_status status = doc_load(&record, &bytes, &size, path, err);
    *state = sink->journal ? jnl_find(sink->journal, path, record.sha256) : JNL_ABSENT;
    *recorded = *state != JNL_ABSENT;
    if (status == MLL_OK && !*recorded) {
        if (!record.failed)
            status = batch_run(batch, &record, bytes, size, err);
        if (status == MLL_OK)
            status = put_record(sink, &record, err);
        *state = record.failed ? JNL_FAILED : JNL_DONE;
    }
    free(bytes);
    doc_free(&record);
    return status;
}

static enum mll_status do_all(struct batch *batch, struct sink *sink, const struct inp_list *list,
                              struct counts *counts, struct mll_error *err)
{
    struct progress progress;
    enum mll_status status = MLL_OK;
    progress_start(&progress, "documents");
    for (size_t i = 0; i < list->n && status == MLL_OK; i++) {
        enum jnl_state state;
        bool recorded;
        if (signals_exit_code())
            return mll_fail(err, MLL_ERR_CANCELLED, "stopped before %s", list->files[i].path);
        progress_show(&progress, i - counts->recorded, list->n - counts->recorded, counts->failed,
                      list->files[i].path);
        if (sink->table)
            progress_clear(&progress);
        status = do_document(batch, sink, list->files[i].path, &state, &recorded, err);
        if (status == MLL_OK) {
            counts->recorded += recorded;
            counts->ok += state == JNL_DONE;
            counts->failed += state == JNL_FAILED;
        }
    }
    progress_clear(&progress);
    return status;
}

static bool parse_shard(unsigned *i, unsigned *n, const char *text)
{
    char end;
    return sscanf(text, "%9u/%9u%c", i, n, &end) == 2 && *i < *n;
}

static void summarise(const struct counts *counts, const struct inp_list *list, double seconds)
{
    char skipped[64] = "", earlier[64] = "";
    if (list->skipped > 0)
        snprintf(skipped, sizeof skipped, ", %zu other files in folders passed over",
                 list->skipped);
    if (counts->recorded > 0)
        snprintf(earlier, sizeof earlier, ", %zu of them recorded before", counts->recorded);
    tool_note("%zu documents: %zu ok, %zu failed%s%s; %.1f s", counts->ok + counts->failed,
              counts->ok, counts->failed, earlier, skipped, seconds);
}

static int exit_code(const struct args *args, const struct inp_list *list,
                     const struct counts *counts)
{
    if (args->n_operands > 0 && list->absent == args->n_operands)
        return mll_status_exit_code(MLL_ERR_NOT_FOUND);
    return counts->failed > 0 ? 1 : 0;
}

int cmd_extract(const struct args *args)
{
    struct mll_error err;
    struct inp_list list;
    struct sink sink = {0};
    struct batch batch;
    struct counts counts = {0};
    unsigned shard = 0, shards = 1;
    double start = tool_seconds();
    int code = 0;
    if (args->n_operands == 0)
        return tool_usage("extract needs files or folders; mllama extract -h shows examples");
    if (args->shard && !parse_shard(&shard, &shards, args->shard))
        return tool_usage("--shard: '%s' is not I/N with I from 0 to N-1", args->shard);
    if (batch_init(&batch, args, &err) != MLL_OK)
        return tool_fail(&err);

    enum mll_status status = inp_collect(&list, args->operands, args->n_operands, &err);
    bool nothing = status == MLL_OK && list.n == 0;
    if (status == MLL_OK)
        inp_keep_shard(&list, shard, shards);
    if (nothing)
        status = mll_fail(&err, MLL_ERR_NOT_FOUND, "no *.png, *.jpg or *.jpeg in %s%s",
                          args->operands[0], args->n_operands > 1 ? ", ..." : "");
    if (status == MLL_OK)
        status = open_sink(&sink, args, &err);
    if (status == MLL_OK && sink.table)
        table_head();
    if (status == MLL_OK)
        status = do_all(&batch, &sink, &list, &counts, &err);

    if (status == MLL_ERR_CANCELLED && signals_exit_code()) {
        code = signals_exit_code();
        tool_note("stopped; %zu documents done%s", counts.ok + counts.failed,
                  sink.journal ? ", the same command continues" : "");
    } else if (status != MLL_OK) {
        code = tool_fail(&err);
    } else {
        code = exit_code(args, &list, &counts);
        if (sink.marks)
            tool_note("x! is inconsistent with the rest, ?x could not be read as such a field");
        summarise(&counts, &list, tool_seconds() - start);
    }
    if (close_sink(&sink, args, &err) != MLL_OK && code <= 1)
        code = tool_fail(&err);
    inp_free(&list);
    batch_free(&batch);
    return code;
}
