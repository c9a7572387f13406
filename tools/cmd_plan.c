/* cmd_plan.c - mllama plan DIR: what a model needs in memory and whether this machine has it;
 * plan_cards.c has the table of --cards. */
#include "jsonout.h"
#include "plan_cards.h"
#include "tool.h"

#include <stdio.h>
#include <unistd.h>

/* What the kernel could give without swapping; 0 where it does not tell. */
static uint64_t memory_available(void)
{
    unsigned long long kib = 0;
    char line[256];
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return (uint64_t)kib << 10;
}

static void print_row(const char *name, uint64_t bytes, const char *what)
{
    printf("%-10s %15llu  %8.1f MiB  %s\n", name, (unsigned long long)bytes,
           (double)bytes / 1048576, what);
}

static void print_streamed(const struct mll_memory *m)
{
    char what[128];
    snprintf(what, sizeof what,
             "%llu decoder layers in host memory: at 12 GB/s (PCIe 3) %.2f s a token, at 24 %.2f",
             (unsigned long long)m->n_streamed, (double)m->streamed / 12e9,
             (double)m->streamed / 24e9);
    print_row("streamed", m->streamed, what);
}

/* What the model would take where its plain weights were quantised while loading. */
struct choice {
    const char *quant;
    struct mll_memory memory;
    bool differs;
};

enum { CHOICES = 3 };

static enum mll_status plan_choices(struct choice choices[CHOICES],
                                    const struct mll_options *options,
                                    const struct mll_memory *stored, struct mll_error *err)
{
    static const char *const quants[CHOICES] = {"int8", "nf4", "nf4-dq"};
    for (int i = 0; i < CHOICES; i++) {
        struct mll_options with = *options;
        with.quant = choices[i].quant = quants[i];
        MLL_TRY(mll_plan(&with, &choices[i].memory, err));
        choices[i].differs = choices[i].memory.weights != stored->weights;
    }
    return MLL_OK;
}

static void print_json(const struct mll_memory *m, const struct choice choices[CHOICES],
                       uint64_t available)
{
    struct jw w = {0};
    jw_object(&w, NULL);
    jw_int(&w, "weights", (int64_t)m->weights);
    jw_int(&w, "kv", (int64_t)m->kv);
    jw_int(&w, "cross_kv", (int64_t)m->cross_kv);
    jw_int(&w, "scratch", (int64_t)m->scratch);
    jw_int(&w, "other", (int64_t)m->other);
    jw_int(&w, "total", (int64_t)m->total);
    jw_string(&w, "device", m->device > 0 ? "cuda" : "cpu");
    jw_int(&w, "available", (int64_t)available);
    jw_bool(&w, "fits", m->total <= available);
    jw_int(&w, "streamed", (int64_t)m->streamed);
    jw_int(&w, "n_streamed", (int64_t)m->n_streamed);
    jw_array(&w, "choices");
    for (int i = 0; i < CHOICES; i++) {
        if (!choices[i].differs)
            continue;
        jw_object(&w, NULL);
        jw_string(&w, "quant", choices[i].quant);
        jw_int(&w, "weights", (int64_t)choices[i].memory.weights);
        jw_int(&w, "total", (int64_t)choices[i].memory.total);
        jw_bool(&w, "fits", choices[i].memory.total <= available);
        jw_end(&w, '}');
    }
    jw_end(&w, ']');
    jw_end(&w, '}');
    jw_newline(&w);
    fwrite(w.data, 1, w.n, stdout);
    jw_free(&w);
}

static const char *fits_text(char text[64], uint64_t total, uint64_t available)
{
    snprintf(text, 64, "it fits");
    if (total > available)
        snprintf(text, 64, "it does not fit, %.1f MiB are missing",
                 (double)(total - available) / 1048576);
    return text;
}

static void print_table(const char *name, const char *quant, const struct mll_memory *m,
                        const struct choice choices[CHOICES], uint64_t available)
{
    bool gpu = m->device > 0;
    const char *where = quant ? "quantised, in memory" : "mapped from the files";
    printf("%s, weights %s%s%s\n", name, quant ? "in " : "", quant ? quant : "as stored",
           gpu ? ", on the GPU" : "");
    print_row("weights", m->weights, gpu ? "fp16, or as quantised" : where);
    print_row("kv", m->kv, "text, the whole context");
    print_row("cross kv", m->cross_kv, "images, all tiles");
    print_row("scratch", m->scratch, "one arena");
    print_row("other", m->other, gpu ? "of the host: tokenizer, tables" : "tokenizer, tables");
    print_row("total", m->total, gpu ? "of the GPU's memory" : "");
    if (m->n_streamed > 0)
        print_streamed(m);
    char fits[64];
    print_row("available", available, fits_text(fits, m->total, available));
    for (int i = 0; i < CHOICES; i++) {
        char what[128];
        if (!choices[i].differs)
            continue;
        snprintf(what, sizeof what, "total with --quant of that name: %s",
                 fits_text(fits, choices[i].memory.total, available));
        print_row(choices[i].quant, choices[i].memory.total, what);
    }
}

int cmd_plan(const struct args *args)
{
    if (args->n_operands > 1)
        return tool_usage("plan takes one DIR, %zu given", args->n_operands);
    struct mll_error err;
    struct args with_model = *args;
    if (args->n_operands == 1)
        with_model.model = args->operands[0];
    struct tool_model model = {0};
    struct mll_options options;
    struct mll_memory memory = {0};
    struct choice choices[CHOICES] = {{0}};
    enum mll_status status = args->synthetic ? MLL_OK : model_resolve(&model, &with_model, &err);
    if (status == MLL_OK) {
        model_options(&options, args, &model);
        options.synthetic = args->synthetic;
        options.max_memory = args->max_memory;
        status = mll_plan(&options, &memory, &err);
    }
    const char *name = args->synthetic ? args->synthetic : model.path;
    uint64_t available = memory.device > 0 ? memory.available : memory_available();
    if (args->max_memory > 0 && args->max_memory < available)
        available = args->max_memory;
    if (status == MLL_OK && args->cards) {
        status = plan_cards(name, &options, memory.device > 0 ? 0 : available, args->json, &err);
        model_free(&model);
        return status == MLL_OK ? 0 : tool_fail(&err);
    }
    if (status == MLL_OK && options.quant == NULL)
        status = plan_choices(choices, &options, &memory, &err);
    int code = 0;
    if (status != MLL_OK)
        code = tool_fail(&err);
    else if (args->json)
        print_json(&memory, choices, available);
    else
        print_table(name, options.quant, &memory, choices, available);
    model_free(&model);
    return code;
}
