/* test_memory.c - memory that runs out at every allocation of loading and checking a model: an
 * error, no crash, no leak (the sanitizer build sees both). The linker sends this program's
 * allocations, not those of shared libraries, through the functions below. */
#include "fixture.h"
#include "mllama.h"
#include "weights.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>

void *real_malloc(size_t n) __asm__("__real_malloc");
void *real_calloc(size_t n, size_t each) __asm__("__real_calloc");
void *real_realloc(void *p, size_t n) __asm__("__real_realloc");
char *real_strdup(const char *s) __asm__("__real_strdup");
void *wrap_malloc(size_t n) __asm__("__wrap_malloc");
void *wrap_calloc(size_t n, size_t each) __asm__("__wrap_calloc");
void *wrap_realloc(void *p, size_t n) __asm__("__wrap_realloc");
char *wrap_strdup(const char *s) __asm__("__wrap_strdup");

/* Allocations left before one fails; negative: none fails. */
static long allocations_left = -1;

static bool may_allocate(void)
{
    if (allocations_left < 0)
        return true;
    return allocations_left-- > 0 || (allocations_left = 0);
}

void *wrap_malloc(size_t n)
{
    return may_allocate() ? real_malloc(n) : NULL;
}

void *wrap_calloc(size_t n, size_t each)
{
    return may_allocate() ? real_calloc(n, each) : NULL;
}

void *wrap_realloc(void *p, size_t n)
{
    return may_allocate() ? real_realloc(p, n) : NULL;
}

char *wrap_strdup(const char *s)
{
    return may_allocate() ? real_strdup(s) : NULL;
}

static enum mll_status load(const char *dir)
{
    struct cfg cfg;
    struct weights *w;
    enum mll_status status = cfg_load(&cfg, dir, NULL);
    if (status == MLL_OK) {
        status = weights_load(&w, &cfg, dir, true, NULL);
        weights_free(w);
    }
    return status;
}

static enum mll_status check(const char *dir)
{
    return mll_check(dir, true, NULL, NULL, NULL);
}

/* Every failure but the last attempt's must be MLL_ERR_NO_MEMORY where `named`. */
static void sweep(enum mll_status (*run)(const char *), const char *dir, bool named)
{
    enum mll_status status = MLL_ERR_NO_MEMORY;
    long n = 0;
    for (; status != MLL_OK && n < 5000; n++) {
        allocations_left = n;
        status = run(dir);
        allocations_left = -1;
        cr_expect(!named || status == MLL_OK || status == MLL_ERR_NO_MEMORY, "allocation %ld: %s",
                  n, mll_status_name(status));
    }
    cr_expect(n > 5 && status == MLL_OK, "%ld allocations, %s", n, mll_status_name(status));
}

Test(memory, runs_out_while_loading_and_checking, .timeout = 120)
{
    for (int layout = 0; layout < 2; layout++) {
        struct fixture f;
        fixture_make(&f, layout, NULL);
        sweep(load, f.dir, true);
        sweep(check, f.dir, true);
        fixture_remove(&f);
    }
}

/* jansson does not always say that it was memory, so only the failure counts. */
Test(memory, runs_out_inside_the_json_library, .timeout = 120)
{
    struct fixture f;
    fixture_make(&f, FIXTURE_SHARDED, NULL);
    json_set_alloc_funcs(wrap_malloc, free);
    sweep(load, f.dir, false);
    fixture_remove(&f);
}
