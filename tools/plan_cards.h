/* plan_cards.h - mllama plan --cards. */
#ifndef MLL_PLAN_CARDS_H
#define MLL_PLAN_CARDS_H

#include "mllama.h"

/* Prints a table in Markdown: a row a choice of weights (those as stored, and where that changes
 * them int8, nf4, nf4-dq), a column a card, and the last one this machine; with json an array of
 * the rows. cpu_memory: bytes that the CPU has; 0: a GPU is used here. */
enum mll_status plan_cards(const char *name, const struct mll_options *options, uint64_t cpu_memory,
                           bool json, struct mll_error *err);

#endif
