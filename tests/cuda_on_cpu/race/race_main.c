/* race_main.c - main() of the stand-in for Criterion: every test, or one as --filter SUITE/NAME.
 * Ends with `N passed, N failed`. */
#include <criterion/criterion.h>

#include <setjmp.h>
#include <stdarg.h>

static struct {
    struct race_test *tests;
    bool failed;
    jmp_buf leave;
} r;

void race_add(struct race_test *test)
{
    test->next = r.tests;
    r.tests = test;
}

void race_check(bool holds, bool fatal, const char *file, int line, const char *what,
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

void race_skip(const char *why)
{
    printf("[SKIP] %s\n", why);
    longjmp(r.leave, 1);
}

static bool wanted(const struct race_test *test, const char *filter)
{
    char name[256];
    if (filter == NULL)
        return !test->disabled && test->signal == 0 && test->exit_code == 0;
    snprintf(name, sizeof name, "%s/%s", test->suite, test->name);
    return strcmp(name, filter) == 0;
}

static bool succeeds(const struct race_test *test)
{
    r.failed = false;
    if (setjmp(r.leave) == 0)
        test->run();
    return !r.failed;
}

int main(int argc, char **argv)
{
    const char *filter = argc == 3 && strcmp(argv[1], "--filter") == 0 ? argv[2] : NULL;
    int passed = 0, failed = 0;
    for (const struct race_test *test = r.tests; test != NULL; test = test->next) {
        if (!wanted(test, filter))
            continue;
        bool good = succeeds(test);
        if (!good)
            printf("[FAIL] %s/%s\n", test->suite, test->name);
        passed += good;
        failed += !good;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0 || passed == 0;
}
