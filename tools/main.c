/* main.c - the mllama command: names, help, dispatch. One file per subcommand beside it. */
#include "tool.h"
#include "version.h"

#include <stdio.h>
#include <string.h>

struct command {
    const char *name, *operands, *summary, *examples;
    int (*run)(const struct args *args);
};

static const struct command commands[CMD_COUNT] = {
    [CMD_EXTRACT] = {"extract", "INPUT...", "fields of receipt images: files, folders, globs",
                     "  mllama extract receipts/ -o out.jsonl       go through a folder; the same\n"
                     "                                              command again continues\n"
                     "  mllama extract a.jpg b.png --json           JSON lines on stdout\n"
                     "  mllama extract scans -o p3.jsonl --shard 3/8\n",
                     cmd_extract},
    [CMD_RUN] = {"run", "", "one answer to one prompt, streamed",
                 "  mllama run -i receipt.png -p 'What is the total?' -m DIR\n"
                 "  mllama run -p 'Hello' -n 64 --temperature 0.7 --seed 1 -m ORG/NAME\n"
                 "  mllama run --chat messages.json -i page.png --json\n"
                 "  mllama run --raw -p '<|begin_of_text|><|image|>Total:' -i receipt.png\n",
                 cmd_run},
    [CMD_TRACE] = {"trace", "", "every stage's tensors of one request, as safetensors",
                   "  mllama trace -i receipt.png -p 'Total?' -o t.safetensors\n"
                   "  mllama trace -i receipt.png -p 'Total?' -o t.safetensors --until vision\n"
                   "  mllama trace --diff a.safetensors b.safetensors\n",
                   cmd_trace},
    [CMD_TOKENIZE] = {"tokenize", "", "JSON lines of text to ids and back, stdin to stdout",
                      "  echo '{\"text\":\"Hello\"}' | mllama tokenize -m DIR\n"
                      "  echo '{\"ids\":[9906]}' | mllama tokenize --decode -m DIR\n",
                      cmd_tokenize},
    [CMD_CHECK] = {"check", "DIR", "validate a model directory without running it",
                   "  mllama check DIR\n"
                   "  mllama check --deep DIR                     also look for NaN and Inf\n",
                   cmd_check},
    [CMD_PLAN] = {"plan", "[DIR]", "bytes a model needs, and whether they fit this machine",
                  "  mllama plan DIR\n"
                  "  mllama plan DIR -c 4096 --json\n",
                  cmd_plan},
    [CMD_QUANTIZE] = {"quantize", "SRC DST", "write a model with 4-bit or 8-bit weights",
                      "  mllama quantize DIR DIR-nf4 --nf4\n"
                      "  mllama quantize DIR DIR-dq --nf4 --double-quant --skip lm_head\n"
                      "  mllama quantize ORG/NAME OUT --int8\n",
                      cmd_quantize},
    [CMD_EVAL] = {"eval", "TRUTH.jsonl", "share of fields read exactly, against known answers",
                  "  mllama eval receipts/truth.jsonl\n", cmd_eval},
    [CMD_BENCH] = {"bench", "model|ops|compare A B", "speed of a model or of single ops",
                   "  mllama bench model -m DIR -p 512 -n 128 -r 5\n"
                   "  mllama bench model --synthetic 1b -p 64 -n 32 -r 3 -o json\n"
                   "  mllama bench ops --op matmul\n"
                   "  mllama bench compare before.json after.json\n",
                   cmd_bench},
    [CMD_REPRO] =
        {"repro", "", "the ScatterGather assert of other runtimes: shown, and absent",
         "  mllama repro                                both cases, with and without assert\n"
         "  mllama repro --case prompt -m DIR --device cuda --json\n"
         "  mllama repro --case smallest --mode assert  die of it here\n",
         cmd_repro},
    [CMD_INFO] = {"info", "", "version, compilers, CPU, devices, the embedded model",
                  "  mllama info --json\n", cmd_info},
};

static void print_usage(FILE *f)
{
    fputs("mllama reads receipts and runs Llama-3.2-Vision models, offline.\n\n"
          "  mllama extract FOLDER -o out.jsonl      fields of every receipt in FOLDER\n\n"
          "Commands (mllama COMMAND -h for options and examples):\n",
          f);
    for (size_t i = 0; i < CMD_COUNT; i++)
        fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs(
        "\nExit codes: 0 well, 1 some items failed, 64 usage, 65 bad data, 66 no input,\n"
        "69 no device, 70 internal, 73 cannot create, 74 I/O, 78 configuration, 130/143 signals\n",
        f);
}

static void print_help(const struct command *c, enum command_id id)
{
    printf("mllama %s %s\n  %s\n\nExamples:\n%s\nOptions (also as variables MLLAMA_NAME and in "
           ".env):\n",
           c->name, c->operands, c->summary, c->examples);
    options_print_help(stdout, id);
}

static void print_man(void)
{
    printf(".TH MLLAMA 1 \"\" \"mllama " MLL_VERSION "\"\n.SH NAME\nmllama \\- read receipts and "
           "run Llama\\-3.2\\-Vision models offline\n.SH SYNOPSIS\n\\fBmllama\\fR COMMAND "
           "[OPTION]... [OPERAND]...\n");
    for (int i = 0; i < CMD_COUNT; i++) {
        const struct command *c = &commands[i];
        printf(".SH \"mllama %s %s\"\n%s.\n.PP\n.nf\n%s.fi\n", c->name, c->operands, c->summary,
               c->examples);
        options_print_man(stdout, (enum command_id)i);
    }
    printf(".SH ENVIRONMENT\nEvery option is also read from the variable MLLAMA_NAME and from a "
           ".env file in the working directory: flag, variable, .env, default. LLAMA_MODEL_PATH "
           "names the model; CUDA_LAUNCH_BLOCKING=1 is --debug-sync; HF_HUB_CACHE, HF_HOME and "
           "XDG_CACHE_HOME the Hugging Face cache.\n"
           ".SH \"EXIT STATUS\"\n0 all well, 1 some items failed, 64 usage, 65 bad input data, 66 "
           "no such input, 69 no such device, 70 internal, 73 cannot create, 74 I/O, 78 bad "
           "configuration, 130 and 143 signals.\n");
}

static void print_completion(void)
{
    printf("# bash completion of mllama; printed by `mllama completion`\n_mllama() {\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} words\n    if [ $COMP_CWORD = 1 ]; then\n"
           "        words='");
    for (size_t i = 0; i < CMD_COUNT; i++)
        printf("%s ", commands[i].name);
    printf("'\n    else\n        case ${COMP_WORDS[1]} in\n");
    for (int i = 0; i < CMD_COUNT; i++) {
        printf("        %s) words='", commands[i].name);
        options_print_words(stdout, (enum command_id)i);
        printf("' ;;\n");
    }
    printf("        esac\n    fi\n    [[ $cur == -* || $COMP_CWORD == 1 ]] && "
           "COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\n"
           "complete -o default -F _mllama mllama\n");
}

static int unknown_command(const char *word)
{
    const char *names[CMD_COUNT];
    for (size_t i = 0; i < CMD_COUNT; i++)
        names[i] = commands[i].name;
    const char *near = options_nearest(word, names, CMD_COUNT);
    if (near)
        return tool_usage("unknown command '%s' (did you mean %s?)", word, near);
    return tool_usage("unknown command '%s' (mllama --help lists them)", word);
}

static int run_command(enum command_id id, int argc, char **argv)
{
    struct mll_error err;
    struct environment env;
    struct args args;
    if (env_read(&env, ".env", &err) != MLL_OK)
        return tool_fail(&err);
    int code = 0;
    if (args_parse(&args, id, argc, argv, &env, &err) != MLL_OK) {
        code = tool_fail(&err);
        if (code == 64)
            fprintf(stderr, "mllama: see mllama %s -h\n", commands[id].name);
    } else if (args.help) {
        print_help(&commands[id], id);
    } else {
        code = commands[id].run(&args);
    }
    args_free(&args);
    env_free(&env);
    return code;
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    signals_install();
    int code = -1;
    for (int i = 0; i < CMD_COUNT; i++)
        if (strcmp(word, commands[i].name) == 0)
            code = run_command((enum command_id)i, argc - 2, argv + 2);
    if (code >= 0)
        ;
    else if (argc < 2) {
        print_usage(stderr);
        code = 64;
    } else if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0 ||
               strcmp(word, "help") == 0) {
        print_usage(stdout);
        code = 0;
    } else if (strcmp(word, "--version") == 0) {
        code = run_command(CMD_INFO, argc - 2, argv + 2);
    } else if (strcmp(word, "man") == 0) {
        print_man();
        code = 0;
    } else if (strcmp(word, "completion") == 0) {
        print_completion();
        code = 0;
    } else {
        code = unknown_command(word);
    }
    struct mll_error err;
    if (tool_flush(&err) != MLL_OK && code == 0)
        code = tool_fail(&err);
    return code;
}
