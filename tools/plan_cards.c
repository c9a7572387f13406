/* plan_cards.c - every choice of weights on the cards that people have.
 *
 * Of a card's memory a context takes half a GiB (a guess; none was at hand). A cell says what is
 * left where all fits, else how many decoder layers are streamed and what a token then takes at
 * least: their bytes over the bus. Two cards are a plan for a later version: the weight table says
 * how the matrices would be split. */
#include "plan_cards.h"

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

static void print_cell(const struct mll_memory *m, uint64_t available, double bus)
{
    if (m->total > available)
        printf(" %.1f GB missing |", gb(m->total - available));
    else if (m->n_streamed == 0)
        printf(" fits, %.1f GB left |", gb(available - m->total));
    else
        printf(" %llu layers streamed, %.2f s a token |", (unsigned long long)m->n_streamed,
               (double)m->streamed * 1e-9 / bus);
}

static enum mll_status print_card(const struct card *card, const struct mll_options *options,
                                  struct mll_error *err)
{
    struct mll_options on_card = *options;
    struct mll_memory m;
    on_card.gpu_memory = card->mib << 20;
    on_card.max_memory = 0;
    MLL_TRY(mll_plan(&on_card, &m, err));
    if (card->two) {
        m.total = m.half;
        m.n_streamed = 0;
    }
    print_cell(&m, m.available, card->bus);
    return MLL_OK;
}

/* One choice: bytes of the weights on a card, of all there, and a cell a card. */
static enum mll_status print_choice(const struct mll_options *options, uint64_t cpu_memory,
                                    struct mll_error *err)
{
    struct mll_options anywhere = *options;
    struct mll_memory m;
    anywhere.gpu_memory = UINT64_MAX / 2;
    anywhere.max_memory = 0;
    MLL_TRY(mll_plan(&anywhere, &m, err));
    printf("| %s | %.1f | %.1f |", options->quant ? options->quant : "as stored", gb(m.weights),
           gb(m.total));
    for (size_t i = 0; i < N_CARDS; i++)
        MLL_TRY(print_card(&cards[i], options, err));
    MLL_TRY(mll_plan(options, &m, err));
    print_cell(&m, cpu_memory > 0 ? cpu_memory : m.available, 12);
    printf("\n");
    return MLL_OK;
}

enum mll_status plan_cards(const char *name, const struct mll_options *options, uint64_t cpu_memory,
                           struct mll_error *err)
{
    static const char *const quants[] = {NULL, "int8", "nf4", "nf4-dq"};
    struct mll_memory plain, m;
    printf("| %s | weights, GB | all, GB |", name);
    for (size_t i = 0; i < N_CARDS; i++)
        printf(" %s |", cards[i].name);
    printf(" this machine, %s |\n| --- | ---: | ---: |", cpu_memory > 0 ? "CPU" : "GPU");
    for (size_t i = 0; i <= N_CARDS; i++)
        printf(" --- |");
    printf("\n");
    MLL_TRY(mll_plan(options, &plain, err));
    for (size_t i = 0; i < sizeof quants / sizeof *quants; i++) {
        struct mll_options with = *options;
        if (options->quant != NULL && i > 0)
            break;
        with.quant = options->quant ? options->quant : quants[i];
        MLL_TRY(mll_plan(&with, &m, err));
        if (i == 0 || m.weights + m.streamed != plain.weights + plain.streamed)
            MLL_TRY(print_choice(&with, cpu_memory, err));
    }
    return MLL_OK;
}
