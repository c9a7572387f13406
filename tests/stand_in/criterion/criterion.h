/* criterion.h - a stand-in for Criterion where its way of starting a process per test does not do:
 * under the thread sanitizer, which does not survive it, and in the bundle for GPUs, where a
 * process is a context of the device and Criterion's libraries would have to travel. The tests of a
 * program run one after the other in its own process. Those that expect a signal or an exit code
 * are left out. */
#ifndef STAND_IN_CRITERION_H
#define STAND_IN_CRITERION_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct stand_in_test {
    const char *suite, *name;
    void (*run)(void);
    struct stand_in_test *next;
    bool disabled; /* runs only when --filter names it */
    int exit_code, signal;
};

#pragma GCC diagnostic ignored "-Wmissing-field-initializers" /* a test names the ones it sets */

#ifdef __cplusplus
extern "C" {
#endif
void stand_in_add(struct stand_in_test *test);
void stand_in_check(bool holds, bool fatal, const char *file, int line, const char *what,
                    const char *format, ...);
void stand_in_skip(const char *why);
#ifdef __cplusplus
}
#endif

#define Test(suite_, name_, ...)                                                   \
    static void suite_##_##name_(void);                                            \
    static struct stand_in_test stand_in_##suite_##_##name_ = {                    \
        .suite = #suite_, .name = #name_, .run = suite_##_##name_, ##__VA_ARGS__}; \
    __attribute__((constructor)) static void stand_in_add_##suite_##_##name_(void) \
    {                                                                              \
        stand_in_add(&stand_in_##suite_##_##name_);                                \
    }                                                                              \
    static void suite_##_##name_(void)

#define CHECK_THAT(holds, fatal, what, ...) \
    stand_in_check(holds, fatal, __FILE__, __LINE__, what, "" __VA_ARGS__)
#define cr_assert(x, ...)          CHECK_THAT((x), true, #x, ##__VA_ARGS__)
#define cr_expect(x, ...)          CHECK_THAT((x), false, #x, ##__VA_ARGS__)
#define cr_assert_eq(a, b, ...)    CHECK_THAT((a) == (b), true, #a " == " #b, ##__VA_ARGS__)
#define cr_expect_eq(a, b, ...)    CHECK_THAT((a) == (b), false, #a " == " #b, ##__VA_ARGS__)
#define cr_expect_neq(a, b, ...)   CHECK_THAT((a) != (b), false, #a " != " #b, ##__VA_ARGS__)
#define cr_assert_null(a, ...)     CHECK_THAT((a) == NULL, true, #a, ##__VA_ARGS__)
#define cr_expect_null(a, ...)     CHECK_THAT((a) == NULL, false, #a, ##__VA_ARGS__)
#define cr_assert_not_null(a, ...) CHECK_THAT((a) != NULL, true, #a, ##__VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) \
    CHECK_THAT(strcmp(a, b) == 0, false, #a " is " #b, ##__VA_ARGS__)
#define cr_expect_float_eq(a, b, most, ...) \
    CHECK_THAT(fabs((a) - (b)) <= (most), false, #a " is about " #b, ##__VA_ARGS__)
#define cr_skip_test(...) stand_in_skip("" __VA_ARGS__)

#endif
