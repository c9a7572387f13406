/* test_hub.c - names of the local Hugging Face cache. */
#include "hub.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

Test(hub, directory_follows_the_order_of_the_variables)
{
    static const struct {
        const char *hub, *home_hf, *xdg, *home, *want;
    } cases[] = {
        {"/h", "/f", "/x", "/u", "/h"},
        {NULL, "/f", "/x", "/u", "/f/hub"},
        {"", NULL, "/x", "/u", "/x/huggingface/hub"},
        {NULL, NULL, NULL, "/u", "/u/.cache/huggingface/hub"},
        {NULL, NULL, NULL, NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[64];
        enum mll_status status = hub_directory(out, sizeof out, cases[i].hub, cases[i].home_hf,
                                               cases[i].xdg, cases[i].home, NULL);
        cr_expect_eq(status, cases[i].want ? MLL_OK : MLL_ERR_CACHE_NOT_FOUND);
        if (cases[i].want)
            cr_expect_str_eq(out, cases[i].want);
    }
}

Test(hub, what_is_a_name)
{
    static const char *const names[] = {"a/b", "meta-llama/Llama-3.2-11B-Vision@main",
                                        "a/b@refs/pr/1", "a/b@v1.0"};
    static const char *const others[] = {"",       "a",     "a/",   "/a",    "./a",
                                         "../a",   "a/b/c", "a/..", "a/b@",  "a/b@../x",
                                         "a/b@x/", "a b/c", "~/a",  "a/b\n", "a/.hid"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        cr_expect(hub_is_name(names[i]), "%s", names[i]);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        cr_expect(!hub_is_name(others[i]), "%s", others[i]);
}

static void write_text(const char *root, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *out = fopen(path, "w");
    cr_assert_not_null(out);
    fputs(text, out);
    fclose(out);
}

Test(hub, resolves_branches_and_commits)
{
    char root[] = "/tmp/mllama-hub-XXXXXX", out[256], want[256], path[256];
    static const char *const dirs[] = {"models--o--n", "models--o--n/refs",
                                       "models--o--n/snapshots", "models--o--n/snapshots/0123abcd"};
    struct mll_error err;
    cr_assert_not_null(mkdtemp(root));
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", root, dirs[i]);
        cr_assert_eq(mkdir(path, 0755), 0);
    }
    write_text(root, "models--o--n/refs/main", "0123abcd\n");
    write_text(root, "models--o--n/refs/gone", "ffff");
    write_text(root, "models--o--n/refs/evil", "../../..");
    snprintf(want, sizeof want, "%s/%s", root, dirs[3]);
    cr_expect_eq(hub_resolve(out, sizeof out, "o/n", root, &err), MLL_OK, "%s", err.message);
    cr_expect_str_eq(out, want);
    cr_expect_eq(hub_resolve(out, sizeof out, "o/n@0123abcd", root, &err), MLL_OK);
    cr_expect_str_eq(out, want);
    cr_expect_eq(hub_resolve(out, sizeof out, "o/n@gone", root, &err), MLL_ERR_CACHE_NOT_FOUND);
    cr_expect(strstr(err.message, "gone"), "%s", err.message);
    cr_expect_eq(hub_resolve(out, sizeof out, "o/n@evil", root, &err), MLL_ERR_CACHE_NOT_FOUND);
    cr_expect_eq(hub_resolve(out, sizeof out, "o/other", root, &err), MLL_ERR_CACHE_NOT_FOUND);
    cr_expect_eq(hub_resolve(out, sizeof out, "../n", root, &err), MLL_ERR_CACHE_NAME);
    for (size_t i = 0; i < 3; i++) {
        static const char *const files[] = {"main", "gone", "evil"};
        snprintf(path, sizeof path, "%s/models--o--n/refs/%s", root, files[i]);
        unlink(path);
    }
    for (int i = 3; i >= 0; i--) {
        snprintf(path, sizeof path, "%s/%s", root, dirs[i]);
        rmdir(path);
    }
    rmdir(root);
}
