/* test_answer.c - what of a growing text may be shown, and where stop strings cut it. */
#include "answer.h"

#include <criterion/criterion.h>
#include <string.h>

static void push(struct answer *a, const char *bytes)
{
    cr_assert(answer_push(a, bytes, strlen(bytes), NULL) == MLL_OK);
}

static void expect_ready(struct answer *a, const char *expected)
{
    size_t size;
    const char *piece = answer_ready(a, &size, false);
    cr_expect(size == strlen(expected) && memcmp(piece, expected, size) == 0, "'%.*s', not '%s'",
              (int)size, piece, expected);
}

Test(answer, holds_back_what_may_begin_a_stop_string)
{
    const char *stops[] = {"END", "\n\n"};
    struct answer a = {.stop = stops, .n_stop = 2};
    push(&a, "one E");
    expect_ready(&a, "one ");
    push(&a, "N");
    expect_ready(&a, "");
    push(&a, "dless\n");
    expect_ready(&a, "ENdless");
    push(&a, "two");
    expect_ready(&a, "\ntwo");
    push(&a, "E");
    push(&a, "ND and more");
    expect_ready(&a, "");
    cr_expect(a.stopped);
    cr_expect_str_eq(a.text, "one ENdless\ntwo");
    answer_free(&a);
}

Test(answer, the_earliest_stop_string_wins)
{
    const char *stops[] = {"cd", "bcde", ""};
    struct answer a = {.stop = stops, .n_stop = 3};
    push(&a, "abcdef");
    cr_expect_str_eq(a.text, "a");
    answer_free(&a);
}

Test(answer, whole_characters_only)
{
    struct answer a = {0};
    push(&a, "caf\xc3");
    expect_ready(&a, "caf");
    push(&a, "\xa9 \xe2\x82");
    expect_ready(&a, "\xc3\xa9 ");
    cr_assert(answer_finish(&a, NULL) == MLL_OK);
    expect_ready(&a, "\xef\xbf\xbd");
    answer_free(&a);
}

Test(answer, an_empty_one_is_text_too)
{
    struct answer a = {0};
    cr_assert(answer_finish(&a, NULL) == MLL_OK);
    cr_expect_str_eq(a.text, "");
    answer_free(&a);
}
