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

void signals_install(void)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
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
