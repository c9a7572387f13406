/* plan_cards.c - every choice of weights on the cards that people have.
 *
 * Of a card's memory a context takes half a GiB (a guess; none was at hand). A cell says what is
 * left where all fits, else how many decoder layers are streamed and what a token then takes at
 * least: their bytes over the bus. Two cards are a plan for a later version: the weight table says
 * how the matrices would be split. */
#include "plan_cards.h"

#include "jsonout.h"
#include "tool.h"

#include <stdio.h>

static const struct card {
    const char *name;
    uint64_t mib; /* as the driver tells it, ECC on */
    double bus;   /* GB/s, to the card */
    bool two;
} cards[] = {
    {"16 GB (V100)", 16160, 12, false},
    {"24 GB (A10, L4)", 23028, 24, false},
    {"48 GB (L40S)", 46068, 24, false},
    {"2 x 48 GB, not built yet", 46068, 24, true},
};

enum { N_CARDS = sizeof cards / sizeof *cards };

static double gb(uint64_t bytes)
{
    return (double)bytes * 1e-9;
}

/* A machine with a choice of weights on it. */
struct cell {
    const char *name;
    double bus;
    struct mll_memory m;
    uint64_t available;
};

static bool fits(const struct cell *c)
{
    return c->m.total <= c->available;
}

static double token_seconds(const struct cell *c)
{
    return (double)c->m.streamed * 1e-9 / c->bus;
}

static enum mll_status plan_card(struct cell *c, const struct card *card,
                                 const struct mll_options *options, struct mll_error *err)
{
    struct mll_options on_card = *options;
    on_card.gpu_memory = card->mib << 20;
    on_card.max_memory = 0;
    *c = (struct cell){.name = card->name, .bus = card->bus};
    MLL_TRY(mll_plan(&on_card, &c->m, err));
    if (card->two) {
        c->m.total = c->m.half;
        c->m.n_streamed = 0;
        c->m.streamed = 0;
    }
    c->available = c->m.available;
    return MLL_OK;
}

/* ---- a row ----------------------------------------------------------------------------------- */

static void print_row(const char *quant, const struct mll_memory *all,
                      const struct cell cells[N_CARDS + 1])
{
    printf("| %s | %.1f | %.1f |", quant ? quant : "as stored", gb(all->weights), gb(all->total));
    for (size_t i = 0; i <= N_CARDS; i++) {
        const struct cell *c = &cells[i];
        if (!fits(c))
            printf(" %.1f GB missing |", gb(c->m.total - c->available));
        else if (c->m.n_streamed == 0)
            printf(" fits, %.1f GB left |", gb(c->available - c->m.total));
        else
            printf(" %llu layers streamed, %.2f s a token |", (unsigned long long)c->m.n_streamed,
                   token_seconds(c));
    }
    printf("\n");
}

static void put_row(struct jw *w, const char *quant, const struct mll_memory *all,
                    const struct cell cells[N_CARDS + 1])
{
    jw_object(w, NULL);
    jw_string(w, "quant", quant ? quant : "none");
    jw_int(w, "weights", (int64_t)all->weights);
    jw_int(w, "total", (int64_t)all->total);
    jw_array(w, "machines");
    for (size_t i = 0; i <= N_CARDS; i++) {
        const struct cell *c = &cells[i];
        jw_object(w, NULL);
        jw_string(w, "name", c->name);
        jw_int(w, "total", (int64_t)c->m.total);
        jw_int(w, "available", (int64_t)c->available);
        jw_bool(w, "fits", fits(c));
        jw_int(w, "n_streamed", (int64_t)c->m.n_streamed);
        jw_real(w, "token_seconds", token_seconds(c), 3);
        jw_end(w, '}');
    }
    jw_end(w, ']');
    jw_end(w, '}');
}

/* One choice: bytes of the weights on a card, of all there, and a cell a machine. */
static enum mll_status show_choice(struct jw *w, const struct mll_options *options,
                                   uint64_t cpu_memory, struct mll_error *err)
{
    struct mll_options anywhere = *options;
    struct mll_memory all;
    struct cell cells[N_CARDS + 1];
    anywhere.gpu_memory = UINT64_MAX / 2;
    anywhere.max_memory = 0;
    MLL_TRY(mll_plan(&anywhere, &all, err));
    for (size_t i = 0; i < N_CARDS; i++)
        MLL_TRY(plan_card(&cells[i], &cards[i], options, err));
    struct cell *here = &cells[N_CARDS];
    *here = (struct cell){.name = cpu_memory > 0 ? "this machine, CPU" : "this machine, GPU",
                          .bus = 12};
    MLL_TRY(mll_plan(options, &here->m, err));
    here->available = cpu_memory > 0 ? cpu_memory : here->m.available;
    if (w != NULL)
        put_row(w, options->quant, &all, cells);
    else
        print_row(options->quant, &all, cells);
    return MLL_OK;
}

static void print_heading(const char *name, bool cpu)
{
    printf("| %s | weights, GB | all, GB |", name);
    for (size_t i = 0; i < N_CARDS; i++)
        printf(" %s |", cards[i].name);
    printf(" this machine, %s |\n| --- | ---: | ---: |", cpu ? "CPU" : "GPU");
    for (size_t i = 0; i <= N_CARDS; i++)
        printf(" --- |");
    printf("\n");
}

static enum mll_status show_choices(struct jw *w, const struct mll_options *options,
                                    uint64_t cpu_memory, struct mll_error *err)
{
    static const char *const quants[] = {NULL, "int8", "nf4", "nf4-dq"};
    struct mll_memory plain, m;
    MLL_TRY(mll_plan(options, &plain, err));
    for (size_t i = 0; i < sizeof quants / sizeof *quants; i++) {
        struct mll_options with = *options;
        if (options->quant != NULL && i > 0)
            break;
        with.quant = options->quant ? options->quant : quants[i];
        MLL_TRY(mll_plan(&with, &m, err));
        if (i == 0 || m.weights + m.streamed != plain.weights + plain.streamed)
            MLL_TRY(show_choice(w, &with, cpu_memory, err));
    }
    return MLL_OK;
}

enum mll_status plan_cards(const char *name, const struct mll_options *options, uint64_t cpu_memory,
                           bool json, struct mll_error *err)
{
    struct jw w = {0};
    if (!json) {
        print_heading(name, cpu_memory > 0);
        return show_choices(NULL, options, cpu_memory, err);
    }
    jw_array(&w, NULL);
    enum mll_status status = show_choices(&w, options, cpu_memory, err);
    jw_end(&w, ']');
    jw_newline(&w);
    if (status == MLL_OK)
        status = tool_write(w.data, w.n, err);
    jw_free(&w);
    return status;
}
