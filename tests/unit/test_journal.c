/* test_journal.c - the journal: continued, repaired, locked, never damaging somebody's file. */
#include "journal.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[64];

static void make_path(void)
{
    snprintf(path, sizeof path, "/tmp/mllama-journal-XXXXXX");
    close(mkstemp(path));
}

static void remove_path(void)
{
    unlink(path);
}

TestSuite(journal, .init = make_path, .fini = remove_path);

static void write_file(const char *text)
{
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

static void expect_file(const char *text)
{
    char got[4096] = "";
    FILE *f = fopen(path, "r");
    cr_assert_not_null(f);
    got[fread(got, 1, sizeof got - 1, f)] = 0;
    fclose(f);
    cr_expect_str_eq(got, text);
}

#define LINE(file, sha, status) \
    "{\"file\":\"" file "\",\"sha256\":" sha ",\"status\":\"" status "\"}\n"

Test(journal, remembers_path_and_content)
{
    struct jnl *j;
    struct mll_error err;
    static const char one[] = LINE("a.png", "\"11\"", "ok");
    cr_assert_eq(jnl_open(&j, path, &err), MLL_OK);
    cr_assert_eq(jnl_append(j, one, strlen(one), &err), MLL_OK);
    jnl_close(j);
    cr_assert_eq(jnl_open(&j, path, &err), MLL_OK, "%s", err.message);
    cr_expect_eq(jnl_count(j), 1);
    cr_expect_eq(jnl_find(j, "a.png", "11"), JNL_DONE);
    cr_expect_eq(jnl_find(j, "a.png", "22"), JNL_ABSENT, "the content changed");
    cr_expect_eq(jnl_find(j, "b.png", "11"), JNL_ABSENT);
    jnl_close(j);
}

Test(journal, failures_and_unreadable_files_and_odd_names_are_found_again)
{
    struct jnl *j;
    write_file(LINE("bad.png", "\"22\"", "failed") LINE(
        "gone.png", "null", "failed") "{\"file\":\"\\ufffd\",\"file_b64\":\"/"
                                      "w==\",\"sha256\":\"33\",\"status\":\"ok\"}\n" LINE(
                                          "caf\\u00e9", "\"44\"", "ok"));
    cr_assert_eq(jnl_open(&j, path, NULL), MLL_OK);
    cr_expect_eq(jnl_find(j, "bad.png", "22"), JNL_FAILED);
    cr_expect_eq(jnl_find(j, "gone.png", ""), JNL_FAILED);
    cr_expect_eq(jnl_find(j, "\xff", "33"), JNL_DONE);
    cr_expect_eq(jnl_find(j, "caf\u00e9", "44"), JNL_DONE);
    jnl_close(j);
}

Test(journal, a_torn_last_line_is_cut_off_at_every_byte)
{
    static const char first[] = LINE("a", "\"1\"", "ok"), second[] = LINE("b", "\"2\"", "ok");
    for (size_t n = 0; n < strlen(second); n++) {
        char text[256];
        snprintf(text, sizeof text, "%s%.*s", first, (int)n, second);
        write_file(text);
        struct jnl *j;
        cr_assert_eq(jnl_open(&j, path, NULL), MLL_OK, "torn at %zu", n);
        cr_expect_eq(jnl_count(j), 1);
        cr_assert_eq(jnl_append(j, second, strlen(second), NULL), MLL_OK);
        jnl_close(j);
        snprintf(text, sizeof text, "%s%s", first, second);
        expect_file(text);
    }
}

Test(journal, a_foreign_file_is_refused_and_left_alone)
{
    static const char *const foreign[] = {
        "Dear diary\n", "no newline", "{\"a\":1}\n", "\n",
        LINE("a", "\"1\"", "ok") "a note\n" LINE("b", "\"2\"", "ok")};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        struct jnl *j;
        struct mll_error err;
        write_file(foreign[i]);
        cr_expect_eq(jnl_open(&j, path, &err), MLL_ERR_IO, "case %zu", i);
        cr_expect_null(j);
        expect_file(foreign[i]);
    }
}

Test(journal, a_second_writer_is_refused)
{
    struct jnl *j, *k;
    struct mll_error err;
    cr_assert_eq(jnl_open(&j, path, NULL), MLL_OK);
    cr_expect_eq(jnl_open(&k, path, &err), MLL_ERR_CANNOT_CREATE);
    cr_expect_not_null(strstr(err.message, "another process"));
    jnl_close(j);
    cr_assert_eq(jnl_open(&k, path, NULL), MLL_OK, "free again");
    jnl_close(k);
}

Test(journal, what_cannot_be_created_is_said)
{
    struct jnl *j;
    struct mll_error err;
    cr_expect_eq(jnl_open(&j, "/nonexistent/out.jsonl", &err), MLL_ERR_CANNOT_CREATE);
    cr_expect_eq(jnl_open(&j, "/tmp", &err), MLL_ERR_CANNOT_CREATE);
}

Test(journal, a_full_disk_leaves_whole_lines)
{
    static const char line[] = LINE("a", "\"1\"", "ok");
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = 2 * strlen(line) + 7;
    setrlimit(RLIMIT_FSIZE, &limit);
    signal(SIGXFSZ, SIG_IGN);
    struct jnl *j;
    cr_assert_eq(jnl_open(&j, path, NULL), MLL_OK);
    cr_expect_eq(jnl_append(j, line, strlen(line), NULL), MLL_OK);
    cr_expect_eq(jnl_append(j, line, strlen(line), NULL), MLL_OK);
    cr_expect_eq(jnl_append(j, line, strlen(line), NULL), MLL_ERR_IO);
    jnl_close(j);
    char two[256];
    snprintf(two, sizeof two, "%s%s", line, line);
    expect_file(two);
}

/* One process writes until it is killed, the next continues: at the end every record is there once.
 */
Test(journal, killed_at_random_and_continued_every_record_is_there_once)
{
    enum { RECORDS = 1000, KILLS = 200 };
    for (int round = 0; round <= KILLS; round++) {
        pid_t child = fork();
        cr_assert_geq(child, 0);
        if (child == 0) {
            struct jnl *j;
            if (jnl_open(&j, path, NULL) != MLL_OK)
                _exit(1);
            for (int i = 0; i < RECORDS; i++) {
                char name[16], line[128];
                snprintf(name, sizeof name, "f%d", i);
                if (jnl_find(j, name, "1") == JNL_ABSENT) {
                    int n = snprintf(line, sizeof line, LINE("f%d", "\"1\"", "ok"), i);
                    jnl_append(j, line, (size_t)n, NULL);
                    usleep(100);
                }
            }
            _exit(0);
        }
        if (round < KILLS) {
            usleep((useconds_t)(500 + round * 7919 % 1500));
            kill(child, SIGKILL);
        }
        waitpid(child, NULL, 0);
    }
    struct jnl *j;
    cr_assert_eq(jnl_open(&j, path, NULL), MLL_OK);
    cr_expect_eq(jnl_count(j), RECORDS);
    jnl_close(j);
    int lines = 0;
    FILE *f = fopen(path, "r");
    for (int c; (c = fgetc(f)) != EOF;)
        lines += c == '\n';
    fclose(f);
    cr_expect_eq(lines, RECORDS, "no record twice");
}
