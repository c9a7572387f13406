/* cmd_repro.c - mllama repro: the ScatterGather assert that other runtimes die of, shown and
 * absent.
 *
 * The image token of Llama-3.2-Vision has no logit row: its id equals the number of logits. A
 * repetition penalty gathers and scatters the logits of every id of the prompt, that one included.
 * Two cases, each in two modes:
 *   smallest   scores of 128256 ids, a text of the one id 128256, penalty 1.3
 *   prompt     a model, a picture, a question, penalty 1.3
 *   assert     with debug bounds: the kernel prints what a device assert prints and ends. Done by a
 *              child, this command with --case and --mode, which does not survive it: on a card the
 *              context is lost, on the CPU (the same kernel source, thread by thread) the process
 *   skip       as always: the id is skipped and counted, the result is right, the next one too */
#include "engine.h"
#include "jsonout.h"
#include "ops.h"
#include "sample.h"
#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VOCAB = 128256, PROMPT_TOKENS = 16, PICTURE = 112 };
static const float penalty = 1.3f;

/* What one case found in one mode. */
struct finding {
    const char *name, *mode;
    bool ok;
    char line[512];   /* assert: what the kernel printed */
    char ended[64];   /* assert: how the child did */
    uint64_t skipped; /* skip: ids without a logit row */
    uint64_t hash;    /* skip: of the prompt's logits */
    bool alive;       /* skip: the next request went well: right scores, the same hash */
};

/* ---- the smallest case ----------------------------------------------------------------------- */

/* An exec as --device asks. */
static enum mll_status open_exec(struct mll_exec **ex, const struct args *args, bool trap,
                                 struct mll_error *err)
{
    struct mll_options options = {
        .device = args->device, .threads = args->threads, .debug_bounds = trap};
    MLL_TRY(plan_open_exec(ex, &options, NULL, err));
    enum mll_status status = exec_reserve(*ex, (size_t)8 << 20, err);
    if (status != MLL_OK)
        exec_close(*ex);
    return status;
}

static float score_of(int id)
{
    return (float)((id * 7919 + 13) % 4001 - 2000) / 100.0f;
}

/* Penalises the id in scores of VOCAB ids; *changed others have another score afterwards. */
static enum mll_status penalise(struct mll_exec *ex, int32_t id, uint64_t *skipped,
                                uint64_t *changed, struct mll_error *err)
{
    size_t mark = exec_mark(ex), bytes = VOCAB * sizeof(float);
    float *scores = malloc(bytes), *device = exec_alloc(ex, bytes);
    int32_t *text = exec_alloc(ex, sizeof id);
    struct sample_row row = {.text = text, .n_text = 1, .penalty = penalty};
    struct sample_row *rows = exec_alloc(ex, sizeof row);
    struct sample_out *out = exec_alloc(ex, sizeof *out), found = {0};
    if (scores == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "%d scores", VOCAB);
    for (int i = 0; i < VOCAB; i++)
        scores[i] = score_of(i);
    exec_upload(ex, device, scores, bytes);
    exec_upload(ex, text, &id, sizeof id);
    exec_upload(ex, rows, &row, sizeof row);
    op_process(ex, device, out, device, rows, 1, VOCAB);
    exec_download(ex, scores, device, bytes);
    exec_download(ex, &found, out, sizeof found);
    *changed = 0;
    for (int i = 0; i < VOCAB; i++) {
        float expected = i == id ? sample_penalised(score_of(i), penalty) : score_of(i);
        *changed += memcmp(&scores[i], &expected, sizeof expected) != 0;
    }
    *skipped = found.skipped;
    free(scores);
    exec_release(ex, mark);
    return exec_take_error(ex, err);
}

static enum mll_status smallest(struct finding *f, const struct args *args, bool trap,
                                struct mll_error *err)
{
    struct mll_exec *ex = NULL;
    uint64_t wrong = 1, next_wrong = 1, next_skipped = 1;
    MLL_TRY(open_exec(&ex, args, trap, err));
    enum mll_status status = penalise(ex, VOCAB, &f->skipped, &wrong, err);
    struct mll_error second;
    enum mll_status next = penalise(ex, VOCAB - 1, &next_skipped, &next_wrong, &second);
    if (status != MLL_OK && next != MLL_OK)
        tool_note("the context is lost: the next call fails too: %s", second.message);
    f->alive = next == MLL_OK && next_wrong == 0 && next_skipped == 0;
    f->ok = status == MLL_OK && f->skipped == 1 && wrong == 0 && f->alive;
    exec_close(ex);
    return status;
}

/* ---- a prompt with a picture ----------------------------------------------------------------- */

static enum mll_status answer(struct mll_session *session, uint64_t *hash, uint64_t *skipped,
                              struct mll_error *err)
{
    uint8_t rgb[PICTURE * PICTURE * 3];
    struct mll_sampling sampling;
    const struct mll_result *result;
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i / 3 % PICTURE * 2 + i / (3 * PICTURE));
    struct mll_image image = {rgb, PICTURE, PICTURE};
    struct mll_request request = {
        .images = &image, .n_images = 1, .text = "What is the total?", .sampling = &sampling};
    mll_sampling_default(&sampling);
    sampling.repetition_penalty = penalty;
    sampling.max_new_tokens = PROMPT_TOKENS;
    MLL_TRY(mll_session_run(session, &request, &result, err));
    *hash = result->logits_hash;
    *skipped = result->ids_skipped;
    return MLL_OK;
}

static enum mll_status prompt(struct finding *f, const struct args *args, bool trap,
                              struct mll_error *err)
{
    struct tool_model model;
    struct mll_options options;
    struct mll_engine *engine = NULL;
    struct mll_session *session = NULL;
    struct mll_info info;
    uint64_t again = 0, skipped_again = 0;
    MLL_TRY(model_resolve(&model, args, err));
    model_options(&options, args, &model);
    options.debug_bounds = trap;
    enum mll_status status = mll_open(&engine, &options, err);
    if (status == MLL_OK)
        status = mll_session_open(&session, engine, err);
    if (status == MLL_OK) {
        mll_engine_info(engine, &info);
        if (info.image_token < info.vocab_size)
            tool_note(
                "the image token of this model, %d, has a logit row: there is nothing to show",
                info.image_token);
        status = answer(session, &f->hash, &f->skipped, err);
        struct mll_error second;
        enum mll_status next = answer(session, &again, &skipped_again, &second);
        if (status != MLL_OK && next != MLL_OK)
            tool_note("the context is lost: the next request fails too: %s", second.message);
        f->alive = next == MLL_OK && again == f->hash;
        f->ok = status == MLL_OK && f->skipped > 0 && skipped_again == f->skipped && f->alive;
    }
    mll_session_close(session);
    mll_close(engine);
    model_free(&model);
    return status;
}

/* ---- the child ------------------------------------------------------------------------------- */

static enum mll_status run_case(struct finding *f, const struct args *args, bool trap,
                                struct mll_error *err)
{
    return strcmp(f->name, "smallest") == 0 ? smallest(f, args, trap, err)
                                            : prompt(f, args, trap, err);
}

/* Replaces this process by the command with --mode assert, its output going to fd. */
static void become_child(const struct finding *f, const struct args *args, int fd)
{
    const char *argv[12] = {"mllama", "repro", "--case", f->name, "--mode", "assert"};
    int n = 6;
    if (args->device) {
        argv[n++] = "--device";
        argv[n++] = args->device;
    }
    if (args->model) {
        argv[n++] = "-m";
        argv[n++] = args->model;
    }
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
    _exit(127);
}

/* The line of the assert, out of all that the child said. */
static void take_line(struct finding *f, char *said)
{
    for (char *line = strtok(said, "\n"); line != NULL; line = strtok(NULL, "\n"))
        if (strstr(line, "Assertion `") != NULL && f->line[0] == 0)
            snprintf(f->line, sizeof f->line, "%s", line);
}

static enum mll_status show_assert(struct finding *f, const struct args *args,
                                   struct mll_error *err)
{
    char said[16384];
    size_t n = 0;
    int fds[2], status;
    if (pipe(fds) != 0)
        return mll_fail(err, MLL_ERR_INTERNAL, "no pipe for a child");
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        become_child(f, args, fds[1]);
    close(fds[1]);
    for (ssize_t got = 1; child > 0 && got > 0; n += got > 0 ? (size_t)got : 0)
        got = read(fds[0], said + n, sizeof said - 1 - n);
    close(fds[0]);
    if (child < 0 || waitpid(child, &status, 0) != child)
        return mll_fail(err, MLL_ERR_INTERNAL, "no child for the assert");
    said[n] = 0;
    take_line(f, said);
    if (WIFEXITED(status) && WEXITSTATUS(status) == mll_status_exit_code(MLL_ERR_DEVICE))
        return run_case(f, args, false, err); /* says why there is no such device */
    if (WIFSIGNALED(status))
        snprintf(f->ended, sizeof f->ended, "by signal %d", WTERMSIG(status));
    else
        snprintf(f->ended, sizeof f->ended, "with exit code %d", WEXITSTATUS(status));
    f->ok = f->line[0] != 0 && (WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
    return MLL_OK;
}

/* ---- results --------------------------------------------------------------------------------- */

/* "file:12: block: [0,0,0], thread: [0,0,0] Assertion `condition` failed: ..." */
static void put_line(struct jw *w, const char *text)
{
    char file[128] = "", condition[128] = "";
    int line = 0, block[3] = {0}, thread[3] = {0};
    sscanf(text, "%127[^:]:%d: block: [%d,%d,%d], thread: [%d,%d,%d] Assertion `%127[^`]`", file,
           &line, &block[0], &block[1], &block[2], &thread[0], &thread[1], &thread[2], condition);
    jw_string(w, "assert", text);
    jw_string(w, "file", file);
    jw_int(w, "line", line);
    jw_array(w, "block");
    for (int i = 0; i < 3; i++)
        jw_int(w, NULL, block[i]);
    jw_end(w, ']');
    jw_array(w, "thread");
    for (int i = 0; i < 3; i++)
        jw_int(w, NULL, thread[i]);
    jw_end(w, ']');
    jw_string(w, "condition", condition);
}

static void put_json(struct jw *w, const struct finding *f)
{
    jw_object(w, NULL);
    jw_string(w, "case", f->name);
    jw_string(w, "mode", f->mode);
    jw_bool(w, "as_expected", f->ok);
    if (strcmp(f->mode, "assert") == 0) {
        put_line(w, f->line);
        jw_string(w, "child_ended", f->ended);
    } else {
        jw_int(w, "ids_skipped", (int64_t)f->skipped);
        if (strcmp(f->name, "prompt") == 0)
            jw_hash(w, "logits_hash", f->hash);
        jw_bool(w, "alive", f->alive);
    }
    jw_end(w, '}');
}

static void put_text(const struct finding *f)
{
    if (strcmp(f->mode, "assert") == 0)
        printf("%-8s  assert  %s\n                  the child ended %s%s\n", f->name,
               f->line[0] ? f->line : "no assert was printed", f->ended,
               f->ok ? "" : ": NOT AS EXPECTED");
    else
        printf("%-8s  skip    skipped %llu times, counted; %s\n", f->name,
               (unsigned long long)f->skipped,
               !f->ok                             ? "NOT AS EXPECTED"
               : strcmp(f->name, "smallest") == 0 ? "every score right, and so the next call's"
                                                  : "an answer, and the same bits once more");
}

static bool chosen(const char *asked, const char *name)
{
    return asked == NULL || strcmp(asked, "all") == 0 || strcmp(asked, name) == 0;
}

/* --mode assert by itself: here, in this process. */
static int assert_here(const struct args *args)
{
    struct mll_error err;
    struct finding f = {.name = args->repro_case, .mode = "assert"};
    enum mll_status status = run_case(&f, args, true, &err);
    if (status == MLL_OK)
        tool_note("no index was out of range");
    return status == MLL_OK ? 1 : tool_fail(&err);
}

int cmd_repro(const struct args *args)
{
    static const char *const cases[] = {"smallest", "prompt"}, *const modes[] = {"assert", "skip"};
    struct mll_error err;
    struct jw w = {0};
    bool ok = true;
    if (args->n_operands > 0)
        return tool_usage("repro takes no operand: %s", args->operands[0]);
    if (args->mode && strcmp(args->mode, "assert") == 0 && !chosen(args->repro_case, "all") &&
        args->repro_case)
        return assert_here(args);
    jw_array(&w, NULL);
    for (int i = 0; i < 4; i++) {
        struct finding f = {.name = cases[i / 2], .mode = modes[i % 2]};
        if (!chosen(args->repro_case, f.name) || !chosen(args->mode, f.mode))
            continue;
        enum mll_status status =
            i % 2 == 0 ? show_assert(&f, args, &err) : run_case(&f, args, false, &err);
        if (status != MLL_OK) {
            jw_free(&w);
            return tool_fail(&err);
        }
        ok = ok && f.ok;
        if (args->json)
            put_json(&w, &f);
        else
            put_text(&f);
    }
    jw_end(&w, ']');
    jw_newline(&w);
    enum mll_status status = args->json ? tool_write(w.data, w.n, &err) : MLL_OK;
    jw_free(&w);
    if (status == MLL_OK)
        status = tool_flush(&err);
    return status != MLL_OK ? tool_fail(&err) : ok ? 0 : 1;
}
