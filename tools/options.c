/* options.c - command line, variables and .env into struct args, and the texts made from the same
 * table: help, man page, completion words. */
#include "option_table.h"

#include "ops.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The row of that name that the command takes, else another command's. */
static const struct option_row *find_name(const char *name, size_t n, enum command_id command)
{
    const struct option_row *found = NULL;
    for (size_t i = 0; i < option_count; i++) {
        const struct option_row *row = &option_table[i];
        if (strncmp(row->name, name, n) != 0 || row->name[n] != 0)
            continue;
        if (row->commands & 1u << command)
            return row;
        found = row;
    }
    return found;
}

static const struct option_row *find_letter(char letter, enum command_id command)
{
    for (size_t i = 0; i < option_count; i++)
        if (option_table[i].letter == letter && option_table[i].commands & 1u << command)
            return &option_table[i];
    return NULL;
}

/* Is value one of the words of "a|b|c"? Returns the word inside the list's text or NULL. */
static bool is_choice(const char *list, const char *value)
{
    size_t n = strlen(value);
    for (const char *word = list; word; word = strchr(word, '|')) {
        word += *word == '|';
        if (n > 0 && strncmp(word, value, n) == 0 && (word[n] == '|' || word[n] == 0))
            return true;
    }
    return false;
}

static bool parse_bytes(uint64_t *out, const char *value)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)*value))
        return false;
    unsigned long long v = strtoull(value, &end, 10);
    static const char units[] = "KMGT";
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    int shift = 0;
    if (unit) {
        shift = 10 * (int)(unit - units + 1);
        end++;
        if (*end == 'i')
            end++;
        if (*end == 'B')
            end++;
    }
    *out = (uint64_t)v << shift;
    return errno == 0 && *end == 0 && (*out >> shift) == v;
}

static bool parse_flag(bool *out, const char *value)
{
    *out = is_choice("1|true|yes|on", value);
    return *out || is_choice("0|false|no|off", value);
}

/* Stores value in the row's member; false where it is not what the row takes. value is NULL for a
 * flag given as such. */
static bool store(struct args *args, const struct option_row *row, const char *value)
{
    void *at = (char *)args + row->offset;
    char *end = NULL;
    errno = 0;
    switch (row->kind) {
    case OPT_FLAG:
        if (value)
            return parse_flag(at, value);
        *(bool *)at = true;
        return true;
    case OPT_STRING:
        *(const char **)at = value;
        return true;
    case OPT_CHOICE:
        *(const char **)at = value;
        return is_choice(row->arg, value);
    case OPT_LIST: {
        struct string_list *list = at;
        list->items[list->n++] = value;
        return true;
    }
    case OPT_INT: {
        long v = strtol(value, &end, 10);
        *(int *)at = (int)v;
        return errno == 0 && end != value && *end == 0 && (double)v >= row->min &&
               (double)v <= row->max;
    }
    case OPT_REAL: {
        double v = strtod(value, &end);
        *(double *)at = v;
        return end != value && *end == 0 && isfinite(v) && v >= row->min && v <= row->max;
    }
    case OPT_SEED:
        *(uint64_t *)at = strtoull(value, &end, 10);
        return errno == 0 && isdigit((unsigned char)*value) && *end == 0;
    case OPT_BYTES:
        return parse_bytes(at, value);
    case OPT_DEVICE:
        *(const char **)at = value;
        return is_choice("auto|cpu", value) || exec_cuda_index(value) >= 0;
    }
    return false;
}

/* What a wrong value should have been. */
static enum mll_status refuse(const struct option_row *row, const char *source, const char *value,
                              enum mll_status code, struct mll_error *err)
{
    if (row->kind == OPT_INT || row->kind == OPT_REAL)
        return mll_fail(err, code, "%s: '%s' is not %s from %.15g to %.15g", source, value,
                        row->kind == OPT_INT ? "a whole number" : "a number", row->min, row->max);
    const char *wanted = row->kind == OPT_FLAG ? "1 or 0"
                         : row->kind == OPT_BYTES
                             ? "a whole number of bytes (K, M, G or T may follow)"
                         : row->kind == OPT_SEED ? "a whole number from 0"
                                                 : row->arg;
    return mll_fail(err, code, "%s: '%s' is not %s", source, value, wanted);
}

static enum mll_status set_flag(struct args *args, const struct option_row *row, const char *spelt,
                                const char *value, struct mll_error *err)
{
    /* a list given by flag replaces the one from the environment, a flag wins over all */
    if (!store(args, row, value))
        return refuse(row, spelt, value ? value : "", MLL_ERR_USAGE, err);
    args->given[row - option_table] = true;
    return MLL_OK;
}

/* What other programs call it. */
static const struct {
    const char *theirs, *ours;
} elsewhere[] = {
    {"temp", "temperature"},
    {"n-predict", "max-new-tokens"},
    {"predict", "max-new-tokens"},
    {"max-tokens", "max-new-tokens"},
    {"repeat-penalty", "repetition-penalty"},
    {"n-gpu-layers", "max-memory"},
    {"gpu-layers", "max-memory"},
    {"ctx", "ctx-size"},
    {"max-model-len", "ctx-size"},
    {"cache-type-k", "kv-type"},
    {"cache-type-v", "kv-type"},
};

static enum mll_status unknown_option(const char *spelt, size_t n, enum command_id command,
                                      struct mll_error *err)
{
    const char *names[OPTIONS_MAX];
    size_t n_names = 0;
    for (size_t i = 0; i < option_count; i++)
        if (option_table[i].commands & 1u << command)
            names[n_names++] = option_table[i].name;
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)n, spelt);
    const char *near = options_nearest(word + strspn(word, "-"), names, n_names);
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++)
        if (strcmp(word + strspn(word, "-"), elsewhere[i].theirs) == 0 &&
            find_name(elsewhere[i].ours, strlen(elsewhere[i].ours), command))
            near = elsewhere[i].ours;
    if (near)
        return mll_fail(err, MLL_ERR_USAGE, "unknown option %s (did you mean --%s?)", word, near);
    return mll_fail(err, MLL_ERR_USAGE, "unknown option %s", word);
}

/* One argument that starts with a dash; *i moves on where the value is the next argument. */
static enum mll_status parse_option(struct args *args, int argc, char **argv, int *i,
                                    struct mll_error *err)
{
    char *arg = argv[*i];
    const char *value = NULL;
    const struct option_row *row;
    size_t n = strcspn(arg, "=");
    if (arg[1] == '-') {
        row = find_name(arg + 2, n - 2, args->command);
        value = arg[n] ? arg + n + 1 : NULL;
    } else {
        row = find_letter(arg[1], args->command);
        n = 2;
        value = arg[2] ? arg + 2 + (arg[2] == '=') : NULL;
    }
    if (!row)
        return unknown_option(arg, n, args->command, err);
    char spelt[64];
    snprintf(spelt, sizeof spelt, "%.*s", (int)n, arg);
    if (!(row->commands & 1u << args->command))
        return mll_fail(err, MLL_ERR_USAGE, "%s is not an option of this command", spelt);
    if (row->kind == OPT_FLAG && value)
        return mll_fail(err, MLL_ERR_USAGE, "%s takes no value", spelt);
    if (row->kind != OPT_FLAG && !value) {
        if (*i + 1 >= argc)
            return mll_fail(err, MLL_ERR_USAGE, "%s needs a value: %s", spelt, row->arg);
        value = argv[++*i];
    }
    return set_flag(args, row, spelt, value, err);
}

static enum mll_status parse_variables(struct args *args, struct mll_error *err)
{
    for (size_t i = 0; i < option_count; i++) {
        const struct option_row *row = &option_table[i];
        if (!(row->commands & 1u << args->command) || args->given[i] ||
            row->offset == offsetof(struct args, help))
            continue;
        char name[64];
        snprintf(name, sizeof name, "MLLAMA_%s", row->name);
        for (char *c = name; *c; c++)
            *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
        bool from_file;
        const char *value = env_get(args->env, name, &from_file);
        if (!value)
            continue;
        char source[80];
        snprintf(source, sizeof source, "%s%s", name, from_file ? " (.env)" : "");
        if (!store(args, row, value))
            return refuse(row, source, value, MLL_ERR_BAD_OPTION, err);
        args->given[i] = true;
    }
    return MLL_OK;
}

enum mll_status args_parse(struct args *args, enum command_id command, int argc, char **argv,
                           const struct environment *env, struct mll_error *err)
{
    *args = (struct args){.command = command, .env = env};
    /* room for every argument to be an operand or in one of the lists, and one of each by variable
     */
    size_t room = (size_t)argc + 1;
    const char **memory = calloc(4 * room, sizeof *memory);
    if (!memory)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "arguments");
    args->owned = memory;
    args->images.items = memory + room;
    args->stop.items = memory + 2 * room;
    args->skip.items = memory + 3 * room;
    args->operands = memory;

    bool only_operands = false;
    for (int i = 0; i < argc; i++) {
        if (!only_operands && strcmp(argv[i], "--") == 0)
            only_operands = true;
        else if (!only_operands && argv[i][0] == '-' && argv[i][1])
            MLL_TRY(parse_option(args, argc, argv, &i, err));
        else
            memory[args->n_operands++] = argv[i];
    }
    return args->help ? MLL_OK : parse_variables(args, err);
}

void args_free(struct args *args)
{
    free(args->owned);
    *args = (struct args){0};
}

bool args_given(const struct args *args, const char *name)
{
    const struct option_row *row = find_name(name, strlen(name), args->command);
    MLL_ASSERT(row != NULL);
    return args->given[row - option_table];
}

/* ---- texts ---- */

static void spell(char out[96], const struct option_row *row)
{
    char letter[8] = "    ";
    if (row->letter)
        snprintf(letter, sizeof letter, "-%c, ", row->letter);
    snprintf(out, 96, "%s--%s%s%s", letter, row->name, row->arg ? " " : "",
             row->arg ? row->arg : "");
}

void options_print_help(FILE *f, enum command_id command)
{
    for (size_t i = 0; i < option_count; i++) {
        const struct option_row *row = &option_table[i];
        if (!(row->commands & 1u << command))
            continue;
        char name[96];
        spell(name, row);
        if (strlen(name) > 30)
            fprintf(f, "  %s\n  %-30s %s\n", name, "", row->help);
        else
            fprintf(f, "  %-30s %s\n", name, row->help);
    }
}

void options_print_man(FILE *f, enum command_id command)
{
    for (size_t i = 0; i < option_count; i++) {
        const struct option_row *row = &option_table[i];
        if (!(row->commands & 1u << command))
            continue;
        fprintf(f, ".TP\n");
        if (row->letter)
            fprintf(f, "\\fB\\-%c\\fR, ", row->letter);
        fprintf(f, "\\fB\\-\\-%s\\fR %s\n%s\n", row->name, row->arg ? row->arg : "", row->help);
    }
}

void options_print_words(FILE *f, enum command_id command)
{
    for (size_t i = 0; i < option_count; i++)
        if (option_table[i].commands & 1u << command)
            fprintf(f, " --%s", option_table[i].name);
}

/* Levenshtein distance of two short words, one row of the table at a time. */
static size_t distance(const char *a, const char *b)
{
    size_t row[65], n = strlen(b);
    if (n > 64)
        return SIZE_MAX;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t change = diagonal + (a[i - 1] != b[j - 1]);
            size_t drop = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = change < drop ? change : drop;
        }
    }
    return row[n];
}

const char *options_nearest(const char *word, const char *const *names, size_t n)
{
    const char *best = NULL;
    size_t best_distance = 3;
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, names[i]);
        if (d < best_distance) {
            best_distance = d;
            best = names[i];
        }
    }
    return best;
}
