/* options.h - every option of every command: one table (option_table.c), one struct of values.
 *
 * A value comes from the first of: the flag, the variable MLLAMA_NAME (dashes become underscores),
 * the same name in a `.env` file of the working directory, the default. Help, man page and bash
 * completion are printed from the same table. */
#ifndef MLL_OPTIONS_H
#define MLL_OPTIONS_H

#include "base.h"
#include "environment.h"

#include <stdio.h>

enum command_id {
    CMD_EXTRACT = 0,
    CMD_RUN,
    CMD_TRACE,
    CMD_TOKENIZE,
    CMD_CHECK,
    CMD_PLAN,
    CMD_QUANTIZE,
    CMD_EVAL,
    CMD_BENCH,
    CMD_REPRO,
    CMD_INFO,
    CMD_COUNT
};

#define OPTIONS_MAX 128

struct string_list {
    const char **items;
    size_t n;
};

/* All values, zero-initialised where nothing was given; strings are borrowed from argv, the
 * process's environment or the .env file. */
struct args {
    enum command_id command;
    const char *const *operands;
    size_t n_operands;
    const struct environment *env;
    bool given[OPTIONS_MAX]; /* row i of the table was given, wherever */
    bool help, version, json, verbose;

    /* model */
    const char *model, *device, *reference, *compute, *isa, *kv_type, *quant;
    int threads, ctx_size, prefill_chunk, max_images;
    uint64_t max_memory;
    bool cards;
    bool no_mmap, fast, no_early, debug_sync, debug_bounds;

    /* request */
    struct string_list images, stop;
    const char *prompt, *chat, *ids, *form;
    bool raw, add_special_tokens, dry_run, no_exif;

    /* sampling */
    bool do_sample, early_stopping, use_generation_config;
    double temperature, top_p, min_p, repetition_penalty;
    int top_k, no_repeat_ngram_size, num_beams, min_new_tokens, max_new_tokens;
    uint64_t seed;
    const char *bad_words, *suppress_tokens, *logit_bias, *eos;

    /* single commands */
    const char *output, *until, *shard, *date_order;
    const char *repro_case, *mode;
    bool diff, table, deep, no_special, decode;
    struct string_list skip;
    bool nf4, int8, double_quant;

    /* bench */
    const char *synthetic, *format, *n_prompt, *n_gen, *prompt_gen, *depth, *batch, *op, *shape;
    const char *quant_list, *thread_list;
    bool all, load;
    int repetitions, image_tiles;

    void *owned; /* memory behind operands and lists */
};

/* Reads the arguments behind the command's name. MLL_ERR_USAGE for a flag, MLL_ERR_BAD_OPTION for a
 * variable or .env line; the message names the source and suggests a near miss. */
enum mll_status args_parse(struct args *args, enum command_id command, int argc, char **argv,
                           const struct environment *env, struct mll_error *err);
void args_free(struct args *args);
/* Was --name given by flag, variable or .env? */
bool args_given(const struct args *args, const char *name);

/* A command's options as help text, a man page's section or completion words. */
void options_print_help(FILE *f, enum command_id command);
void options_print_man(FILE *f, enum command_id command);
void options_print_words(FILE *f, enum command_id command);

/* The nearest of n names at a distance of at most two edits, NULL if none. */
const char *options_nearest(const char *word, const char *const *names, size_t n);

#endif
