/* tool.h - what the subcommands share: their entry points, messages, signals, the model. */
#ifndef MLL_TOOL_H
#define MLL_TOOL_H

#include "mllama.h"
#include "options.h"

/* One file a subcommand. Results go to stdout, everything else to stderr; the return value is the
 * process's exit code. */
int cmd_extract(const struct args *args);
int cmd_run(const struct args *args);
int cmd_trace(const struct args *args);
int cmd_tokenize(const struct args *args);
int cmd_check(const struct args *args);
int cmd_plan(const struct args *args);
int cmd_quantize(const struct args *args);
int cmd_eval(const struct args *args);
int cmd_bench(const struct args *args);
int cmd_repro(const struct args *args);
int cmd_info(const struct args *args);

/* ---- messages (terminal.c) ---- */

/* "mllama: error: not_an_image: ..." on stderr; returns the exit code of err. */
int tool_fail(const struct mll_error *err);
/* The same for a misuse found in a command; returns 64. */
int tool_usage(const char *fmt, ...) MLL_PRINTF(1, 2);
void tool_note(const char *fmt, ...) MLL_PRINTF(1, 2); /* one line on stderr */
/* Writes to stdout; MLL_ERR_IO where that fails (a closed pipe, a full disk). */
enum mll_status tool_write(const char *bytes, size_t n, struct mll_error *err);
enum mll_status tool_flush(struct mll_error *err);

/* All of stdin as a string without its last line break, for `-p -`; the caller frees *text. */
enum mll_status tool_read_stdin(char **text, struct mll_error *err);

/* A line on stderr that is rewritten while work goes on; only on a terminal. */
struct progress {
    bool active;
    const char *unit;   /* "documents" */
    double start, last; /* seconds, monotonic */
};
void progress_start(struct progress *p, const char *unit);
/* done of total items, n_failed among them; label is what is worked on now. */
void progress_show(struct progress *p, size_t done, size_t total, size_t n_failed,
                   const char *label);
void progress_clear(struct progress *p);
double tool_seconds(void); /* monotonic */

/* ---- signals (signals.c) ---- */

/* SIGINT and SIGTERM cancel the session that runs and are remembered; a second one ends the process
 * at once. SIGPIPE and SIGXFSZ are ignored: the write fails instead. */
void signals_install(void);
void signals_watch(struct mll_session *session); /* NULL: none runs */
/* 0, or the exit code of the signal that came: 130, 143. */
int signals_exit_code(void);

/* ---- the model (model.c) ---- */

struct tool_model {
    char *path;    /* resolved directory; owned */
    bool embedded; /* the demonstration model of this program */
};
/* --model, MLLAMA_MODEL or LLAMA_MODEL_PATH, else the embedded default. */
enum mll_status model_resolve(struct tool_model *model, const struct args *args,
                              struct mll_error *err);
void model_free(struct tool_model *model);
/* The options of mll_open and mll_plan; borrows from args and model. */
void model_options(struct mll_options *options, const struct args *args,
                   const struct tool_model *model);
/* Resolves, checks --max-memory, opens engine and one session; with -v says what runs where. */
struct opened {
    struct tool_model model;
    struct mll_engine *engine;
    struct mll_session *session;
};
enum mll_status model_open(struct opened *opened, const struct args *args, struct mll_error *err);
void model_close(struct opened *opened);

#endif
