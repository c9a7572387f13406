/* stand_in.c - main() of the stand-in for Criterion: every test, or one as --filter SUITE/NAME.
 * Ends with `N passed, N failed`. */
#include <criterion/criterion.h>

#include <setjmp.h>
#include <stdarg.h>
#ifdef MLL_GPU_TESTS
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

enum { TEST_SECONDS = 60 };

/* How far a run is. */
struct progress {
    const struct stand_in_test *next;
    int passed, failed;
};

static struct {
    struct stand_in_test *tests;
    bool failed;
    jmp_buf leave;
} r;

void stand_in_add(struct stand_in_test *test)
{
    test->next = r.tests;
    r.tests = test;
}

void stand_in_check(bool holds, bool fatal, const char *file, int line, const char *what,
                    const char *format, ...)
{
    if (holds)
        return;
    va_list args;
    printf("%s:%d: %s: ", file, line, what);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    r.failed = true;
    if (fatal)
        longjmp(r.leave, 1);
}

void stand_in_skip(const char *why)
{
    printf("[SKIP] %s\n", why);
    longjmp(r.leave, 1);
}

static bool wanted(const struct stand_in_test *test, const char *filter)
{
    char name[256];
    if (filter == NULL)
        return !test->disabled && test->signal == 0 && test->exit_code == 0;
    snprintf(name, sizeof name, "%s/%s", test->suite, test->name);
    return strcmp(name, filter) == 0;
}

static bool succeeds(const struct stand_in_test *test)
{
    r.failed = false;
    if (setjmp(r.leave) == 0)
        test->run();
    return !r.failed;
}

/* Runs the tests from the first on. Under MLL_GPU_TESTS it ends behind one that failed: what that
 * left of a context must not be the next one's. */
static void run_tests(struct progress *p, const char *filter)
{
    for (; p->next != NULL; p->next = p->next->next) {
        if (!wanted(p->next, filter))
            continue;
#ifdef MLL_GPU_TESTS
        alarm(TEST_SECONDS);
        printf("[RUN ] %s/%s\n", p->next->suite, p->next->name);
        fflush(stdout);
        if (!succeeds(p->next)) {
            fflush(stdout);
            _exit(1);
        }
        p->passed++;
#else
        if (succeeds(p->next)) {
            p->passed++;
        } else {
            printf("[FAIL] %s/%s\n", p->next->suite, p->next->name);
            p->failed++;
        }
#endif
    }
}

#ifdef MLL_GPU_TESTS
/* The same in children, another one behind every test that failed, hung or died. */
static void run_in_children(struct progress *p, const char *filter)
{
    while (p->next != NULL) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            run_tests(p, filter);
            fflush(stdout);
            _exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || p->next == NULL)
            return;
        printf("[FAIL] %s/%s", p->next->suite, p->next->name);
        printf(WIFSIGNALED(status) ? ": signal %d\n" : "\n", WTERMSIG(status));
        fflush(stdout);
        p->failed++;
        p->next = p->next->next;
    }
}
#endif

int main(int argc, char **argv)
{
    const char *filter = argc == 3 && strcmp(argv[1], "--filter") == 0 ? argv[2] : NULL;
#ifdef MLL_GPU_TESTS
    struct progress *p =
        mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return 1;
    p->next = r.tests;
    run_in_children(p, filter);
#else
    struct progress own = {.next = r.tests}, *p = &own;
    run_tests(p, filter);
#endif
    printf("%d passed, %d failed\n", p->passed, p->failed);
    return p->failed > 0 || p->passed == 0;
}
