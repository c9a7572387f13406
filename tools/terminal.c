/* terminal.c - messages, checked output, the progress line. */
#include "tool.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int tool_fail(const struct mll_error *err)
{
    fprintf(stderr, "mllama: error: %s: %s\n", mll_status_name(err->code), err->message);
    return mll_status_exit_code(err->code);
}

int tool_usage(const char *fmt, ...)
{
    struct mll_error err = {.code = MLL_ERR_USAGE};
    va_list args;
    va_start(args, fmt);
    vsnprintf(err.message, sizeof err.message, fmt, args);
    va_end(args);
    return tool_fail(&err);
}

void tool_note(const char *fmt, ...)
{
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    fprintf(stderr, "mllama: %s\n", line);
}

enum mll_status tool_write(const char *bytes, size_t n, struct mll_error *err)
{
    if (fwrite(bytes, 1, n, stdout) == n)
        return MLL_OK;
    return mll_fail(err, MLL_ERR_IO, "stdout: %s", strerror(errno));
}

enum mll_status tool_flush(struct mll_error *err)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return MLL_OK;
    return mll_fail(err, MLL_ERR_IO, "stdout: %s", strerror(errno));
}

enum mll_status tool_read_stdin(char **text, struct mll_error *err)
{
    size_t room = 0;
    *text = NULL;
    ssize_t n = getdelim(text, &room, 0, stdin);
    if (n < 0 && !ferror(stdin)) { /* nothing there */
        free(*text);
        *text = strdup("");
        n = 0;
    }
    if (n < 0 || !*text)
        return mll_fail(err, MLL_ERR_IO, "stdin: %s", strerror(errno));
    if (n > 0 && (*text)[n - 1] == '\n')
        (*text)[n - 1] = 0;
    return MLL_OK;
}

double tool_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void progress_start(struct progress *p, const char *unit)
{
    *p = (struct progress){.active = isatty(STDERR_FILENO), .unit = unit, .start = tool_seconds()};
}

void progress_show(struct progress *p, size_t done, size_t total, size_t n_failed,
                   const char *label)
{
    double now = tool_seconds();
    if (!p->active || (now - p->last < 0.1 && done < total))
        return;
    p->last = now;
    double rate = done > 0 ? (double)done / (now - p->start) : 0;
    char left[32] = "";
    if (rate > 0) {
        long s = (long)((double)(total - done) / rate + 0.5);
        snprintf(left, sizeof left, "  %ld:%02ld left", s / 60, s % 60);
    }
    const char *base = strrchr(label, '/');
    fprintf(stderr, "\r\033[K[%zu/%zu]  %.2f %s/s%s", done, total, rate, p->unit, left);
    if (n_failed > 0)
        fprintf(stderr, "  %zu failed", n_failed);
    fprintf(stderr, "  %.40s", base ? base + 1 : label);
    fflush(stderr);
}

void progress_clear(struct progress *p)
{
    if (p->active && p->last > 0)
        fputs("\r\033[K", stderr);
}
