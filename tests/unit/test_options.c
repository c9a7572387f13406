/* test_options.c - the option table: flags, variables, .env and their order. */
#include "option_table.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct mll_error err;
static const struct environment no_env;

static enum mll_status parse(struct args *args, enum command_id command,
                             const struct environment *env, const char *line)
{
    static char copy[256];
    static char *words[32];
    int n = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *next = copy, *word; (word = strsep(&next, " ")) != NULL;)
        if (*word)
            words[n++] = word;
    return args_parse(args, command, n, words, env, &err);
}

Test(options, every_form_of_a_flag)
{
    struct args a;
    cr_assert_eq(parse(&a, CMD_RUN, &no_env,
                       "-i a.png --image=b.png -t2 -n=7 --temperature 0.5 --raw -p x --seed "
                       "18446744073709551615"),
                 MLL_OK, "%s", err.message);
    cr_assert_eq(a.images.n, 2);
    cr_expect_str_eq(a.images.items[1], "b.png");
    cr_expect_eq(a.threads, 2);
    cr_expect_eq(a.max_new_tokens, 7);
    cr_expect_eq(a.temperature, 0.5);
    cr_expect(a.raw);
    cr_expect_eq(a.seed, UINT64_MAX);
    cr_expect(args_given(&a, "temperature"));
    cr_expect_not(args_given(&a, "top-p"));
    args_free(&a);
}

Test(options, operands_mix_with_flags_and_a_double_dash_ends_them)
{
    struct args a;
    cr_assert_eq(parse(&a, CMD_EXTRACT, &no_env, "a -o out b - -- -c"), MLL_OK);
    cr_assert_eq(a.n_operands, 4);
    cr_expect_str_eq(a.operands[2], "-");
    cr_expect_str_eq(a.operands[3], "-c");
    cr_expect_str_eq(a.output, "out");
    args_free(&a);
}

Test(options, misuse_is_a_usage_error_that_names_it)
{
    static const struct {
        const char *line, *says;
    } rows[] = {{"--temprature 1", "did you mean --temperature"},
                {"--xyzzy", "unknown option --xyzzy"},
                {"-t", "needs a value"},
                {"-t 0", "from 1 to 4096"},
                {"-t 1x", "from 1 to 4096"},
                {"--top-p 1.5", "from 0 to 1"},
                {"--top-p nan", "from 0 to 1"},
                {"--seed -1", "--seed"},
                {"--reference hf9", "meta|hf4|hf5"},
                {"--raw=1", "takes no value"},
                {"--deep", "not an option of this command"},
                {"--max-memory 12Q", "a whole number of bytes"},
                {"--device gpu", "auto|cpu|cuda[:i]"},
                {"--device cuda:1x", "auto|cpu|cuda[:i]"},
                {"--n-predict 4", "did you mean --max-new-tokens"},
                {"--quant nf5", "nf4|nf4-dq|int8"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct args a;
        cr_expect_eq(parse(&a, CMD_RUN, &no_env, rows[i].line), MLL_ERR_USAGE, "%s", rows[i].line);
        cr_expect_not_null(strstr(err.message, rows[i].says), "%s: %s", rows[i].line, err.message);
        args_free(&a);
    }
}

Test(options, bytes_take_a_unit)
{
    struct args a;
    cr_assert_eq(parse(&a, CMD_RUN, &no_env, "--max-memory 3GiB"), MLL_OK);
    cr_expect_eq(a.max_memory, (uint64_t)3 << 30);
    args_free(&a);
}

Test(options, flag_before_variable_before_dotenv_before_default)
{
    char path[] = "/tmp/mllama-env-XXXXXX";
    int fd = mkstemp(path);
    static const char text[] = "# settings\n\nexport MLLAMA_THREADS=3\r\nMLLAMA_CTX_SIZE = '128'\n"
                               "not a line\nMLLAMA_SEED=1\nMLLAMA_SEED=2\nMLLAMA_RAW=true\n";
    cr_assert_eq(write(fd, text, sizeof text - 1), (ssize_t)sizeof text - 1);
    close(fd);
    struct environment env;
    cr_assert_eq(env_read(&env, path, &err), MLL_OK);
    unlink(path);

    struct args a;
    cr_assert_eq(parse(&a, CMD_RUN, &env, ""), MLL_OK);
    cr_expect_eq(a.threads, 3);
    cr_expect_eq(a.ctx_size, 128);
    cr_expect_eq(a.seed, 2, "the last line wins");
    cr_expect(a.raw);
    cr_expect_eq(a.prefill_chunk, 0, "the default");
    args_free(&a);

    setenv("MLLAMA_THREADS", "4", 1);
    cr_assert_eq(parse(&a, CMD_RUN, &env, ""), MLL_OK);
    cr_expect_eq(a.threads, 4);
    args_free(&a);
    cr_assert_eq(parse(&a, CMD_RUN, &env, "--threads 5"), MLL_OK);
    cr_expect_eq(a.threads, 5);
    args_free(&a);

    setenv("MLLAMA_THREADS", "many", 1);
    cr_expect_eq(parse(&a, CMD_RUN, &env, ""), MLL_ERR_BAD_OPTION);
    cr_expect_not_null(strstr(err.message, "MLLAMA_THREADS"));
    args_free(&a);
    env_free(&env);
}

Test(options, no_name_or_letter_means_two_things_in_one_command)
{
    for (size_t i = 0; i < option_count; i++)
        for (size_t k = 0; k < i; k++) {
            const struct option_row *a = &option_table[i], *b = &option_table[k];
            cr_expect(strcmp(a->name, b->name) != 0 || !(a->commands & b->commands), "%s twice",
                      a->name);
            cr_expect(!a->letter || a->letter != b->letter || !(a->commands & b->commands),
                      "-%c twice", a->letter);
        }
}

Test(options, a_near_miss_is_named_a_far_one_not)
{
    static const char *const names[] = {"extract", "run", "info"};
    cr_expect_str_eq(options_nearest("extrct", names, 3), "extract");
    cr_expect_null(options_nearest("frobnicate", names, 3));
}
