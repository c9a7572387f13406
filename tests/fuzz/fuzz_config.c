/* fuzz_config.c - the JSON files of a model directory: config.json, generation_config.json,
 * preprocessor_config.json and the index of shards, divided by NUL bytes in the input, written to a
 * directory in memory. */
#include "checkpoint.h"
#include "config.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void remove_directory(void)
{
    rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    snprintf(dir, sizeof dir, "/dev/shm/mllama-fuzz-XXXXXX");
    if (!mkdtemp(dir))
        abort();
    atexit(remove_directory);
    return 0;
}

static void write_file(const char *name, const uint8_t *bytes, size_t size)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size || close(fd) != 0)
        abort();
}

static void require(bool ok)
{
    if (!ok)
        __builtin_trap();
}

/* What the rest of the engine takes for granted. */
static void check_config(const struct cfg *cfg)
{
    const struct cfg_vision *v = &cfg->vision;
    const struct cfg_text *t = &cfg->text;
    require(v->hidden_size > 0 && v->hidden_size % v->heads == 0 && v->grid > 0);
    require((int64_t)v->max_tiles * (v->patches + 1) * v->hidden_size <= INT_MAX);
    require(v->n_kept > 0 && v->n_kept <= CFG_MAX_KEPT && v->output_dim > v->hidden_size);
    for (int i = 0; i < v->n_kept; i++)
        require(v->kept[i] >= 0 && v->kept[i] < v->layers);
    require(t->heads * t->head_dim == t->hidden_size && t->heads % t->kv_heads == 0);
    require(t->layers <= CFG_MAX_LAYERS && t->n_cross >= 1 && t->n_cross <= t->layers);
    require(t->rope_theta > 0 && t->rms_norm_eps > 0 && v->norm_eps > 0);
    require(!t->rope_scaled || t->rope_low_freq < t->rope_high_freq);
    require(cfg->image_token >= 0 && cfg->image_token < t->vocab_size + 8);
    require(cfg->preprocess.size == v->image_size && cfg->preprocess.std[2] > 0);
    require(cfg->generation.n_eos >= 0 && cfg->generation.n_eos <= CFG_MAX_EOS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"config.json", "generation_config.json",
                                        "preprocessor_config.json", "model.safetensors.index.json"};
    struct defects d = {0};
    struct mll_error err;
    struct cfg cfg;
    for (int i = 0; i < 4; i++) {
        const uint8_t *end = size ? memchr(data, 0, size) : NULL;
        size_t n = end ? (size_t)(end - data) : size;
        write_file(names[i], data, n);
        data += n + (end != NULL);
        size -= n + (end != NULL);
    }
    if (cfg_load(&cfg, dir, &err) == MLL_OK)
        check_config(&cfg);
    else
        require(err.message[0] != 0 && mll_status_exit_code(err.code) != 0);
    ckpt_close(ckpt_check(dir, ST_MODE_HEADER, &d));
    require(d.n > 0); /* there is no shard */
    return 0;
}
