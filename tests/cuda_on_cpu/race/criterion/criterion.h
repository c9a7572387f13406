/* criterion.h - a stand-in for Criterion under the thread sanitizer, which Criterion's way of
 * starting a process per test does not survive: the tests of a program run one after the other in
 * its own process. Those that expect a signal or an exit code are left out. */
#ifndef RACE_CRITERION_H
#define RACE_CRITERION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define RACE 1

struct race_test {
    const char *suite, *name;
    void (*run)(void);
    struct race_test *next;
    bool disabled; /* runs only when --filter names it */
    int exit_code, signal;
};

#pragma GCC diagnostic ignored "-Wmissing-field-initializers" /* a test names the ones it sets */

#ifdef __cplusplus
extern "C" {
#endif
void race_add(struct race_test *test);
void race_check(bool holds, bool fatal, const char *file, int line, const char *what,
                const char *format, ...);
void race_skip(const char *why);
#ifdef __cplusplus
}
#endif

#define Test(suite_, name_, ...)                                                   \
    static void suite_##_##name_(void);                                            \
    static struct race_test race_##suite_##_##name_ = {                            \
        .suite = #suite_, .name = #name_, .run = suite_##_##name_, ##__VA_ARGS__}; \
    __attribute__((constructor)) static void race_add_##suite_##_##name_(void)     \
    {                                                                              \
        race_add(&race_##suite_##_##name_);                                        \
    }                                                                              \
    static void suite_##_##name_(void)

#define RACE_CHECK(holds, fatal, what, ...) \
    race_check(holds, fatal, __FILE__, __LINE__, what, "" __VA_ARGS__)
#define cr_assert(x, ...)          RACE_CHECK((x), true, #x, ##__VA_ARGS__)
#define cr_expect(x, ...)          RACE_CHECK((x), false, #x, ##__VA_ARGS__)
#define cr_assert_eq(a, b, ...)    RACE_CHECK((a) == (b), true, #a " == " #b, ##__VA_ARGS__)
#define cr_expect_eq(a, b, ...)    RACE_CHECK((a) == (b), false, #a " == " #b, ##__VA_ARGS__)
#define cr_expect_neq(a, b, ...)   RACE_CHECK((a) != (b), false, #a " != " #b, ##__VA_ARGS__)
#define cr_assert_null(a, ...)     RACE_CHECK((a) == NULL, true, #a, ##__VA_ARGS__)
#define cr_expect_null(a, ...)     RACE_CHECK((a) == NULL, false, #a, ##__VA_ARGS__)
#define cr_assert_not_null(a, ...) RACE_CHECK((a) != NULL, true, #a, ##__VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) \
    RACE_CHECK(strcmp(a, b) == 0, false, #a " is " #b, ##__VA_ARGS__)
#define cr_skip_test(...) race_skip("" __VA_ARGS__)

#endif
