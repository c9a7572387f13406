/* signals.c - Ctrl-C and SIGTERM: first ask, then go. The state is static because a signal handler
 * has no other way to reach it. */
#include "tool.h"

#include <signal.h>
#include <unistd.h>

static volatile sig_atomic_t caught;
static struct mll_session *volatile watched;

static void handle(int number)
{
    if (caught)
        _exit(128 + number);
    caught = number;
    struct mll_session *session = watched;
    if (session)
        mll_cancel(session);
}

/* A page of a mapped model file is gone: the file was cut while it was in use. The engine looks at
 * the sizes before every step; this is for a cut in the middle of one. */
static void handle_bus(int number)
{
    static const char message[] =
        "mllama: error: file_changed: a model file became shorter while it "
        "was in use (--no-mmap reads it into memory first)\n";
    (void)number;
    if (write(STDERR_FILENO, message, sizeof message - 1) < 0)
        _exit(70);
    _exit(74);
}

void signals_install(void)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file beyond the shell's limit: the write fails instead */
    signal(SIGBUS, handle_bus);
}

void signals_watch(struct mll_session *session)
{
    watched = session;
    if (session && caught) /* it came between two documents */
        mll_cancel(session);
}

int signals_exit_code(void)
{
    return caught ? 128 + caught : 0;
}
