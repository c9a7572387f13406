#include "fixture.h"

#include "weights.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TENSORS 256

static const char config_json[] =
    "{\"model_type\": \"mllama\", \"image_token_index\": 264,\n"
    " \"text_config\": {\"hidden_size\": 8, \"intermediate_size\": 12, \"num_hidden_layers\": 3,\n"
    "  \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"vocab_size\": 264,\n"
    "  \"cross_attention_layers\": [1], \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-05,\n"
    "  \"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0,\n"
    "   \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0,\n"
    "   \"original_max_position_embeddings\": 32},\n"
    "  \"max_position_embeddings\": 4096, \"bos_token_id\": 257, \"eos_token_id\": [258, 259]},\n"
    " \"vision_config\": {\"hidden_size\": 16, \"intermediate_size\": 20, \"attention_heads\": 2,\n"
    "  \"num_hidden_layers\": 2, \"num_global_layers\": 1, \"image_size\": 28, \"patch_size\": "
    "14,\n"
    "  \"num_channels\": 3, \"max_num_tiles\": 4, \"intermediate_layers_indices\": [0],\n"
    "  \"vision_output_dim\": 32, \"hidden_act\": \"gelu\", \"norm_eps\": 1e-05}}\n";

static const char generation_json[] =
    "{\"bos_token_id\": 257, \"eos_token_id\": [258, 259], \"do_sample\": true,\n"
    " \"temperature\": 0.6, \"top_p\": 0.9}\n";

static const char preprocessor_json[] =
    "{\"image_processor_type\": \"MllamaImageProcessor\", \"do_rescale\": true,\n"
    " \"image_mean\": [0.48145466, 0.4578275, 0.40821073], \"resample\": 2,\n"
    " \"image_std\": [0.26862954, 0.26130258, 0.27577711], \"max_image_tiles\": 4,\n"
    " \"rescale_factor\": 0.00392156862745098, \"size\": {\"height\": 28, \"width\": 28}}\n";

static void require(bool ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    abort();
}

void fixture_path(const struct fixture *f, char out[256], const char *name)
{
    require(snprintf(out, 256, "%s/%s", f->dir, name) < 256, "fixture path");
}

void fixture_write(const struct fixture *f, const char *name, const void *bytes, size_t size)
{
    char path[256];
    fixture_path(f, path, name);
    FILE *out = fopen(path, "wb");
    require(out && fwrite(bytes, 1, size, out) == size && fclose(out) == 0, path);
}

char *fixture_read(const struct fixture *f, const char *name, size_t *size)
{
    char path[256];
    fixture_path(f, path, name);
    FILE *in = fopen(path, "rb");
    require(in && fseek(in, 0, SEEK_END) == 0, path);
    *size = (size_t)ftell(in);
    rewind(in);
    char *bytes = malloc(*size + 1);
    require(bytes && fread(bytes, 1, *size, in) == *size && fclose(in) == 0, path);
    bytes[*size] = 0;
    return bytes;
}

void fixture_replace(const struct fixture *f, const char *name, const char *from, const char *to)
{
    size_t size;
    char *text = fixture_read(f, name, &size), *at = strstr(text, from);
    require(at && !strstr(at + 1, from), from);
    size_t head = (size_t)(at - text), tail = size - head - strlen(from);
    char *changed = malloc(head + strlen(to) + tail + 1);
    require(changed != NULL, "fixture_replace");
    memcpy(changed, text, head);
    memcpy(changed + head, to, strlen(to));
    memcpy(changed + head + strlen(to), at + strlen(from), tail);
    fixture_write(f, name, changed, head + strlen(to) + tail);
    free(changed);
    free(text);
}

void fixture_delete(const struct fixture *f, const char *name)
{
    char path[256];
    fixture_path(f, path, name);
    require(unlink(path) == 0, path);
}

/* ---- tokenizer ------------------------------------------------------------------------------- */

/* The printable stand-in of a byte in byte-level BPE, as a JSON escape. */
static void byte_symbol(char out[8], int byte)
{
    int code = byte, shifted = 256;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte && !printable)
            code = shifted;
        shifted += !printable;
    }
    snprintf(out, 8, "\\u%04x", (unsigned)code & 0xffff);
}

static void write_tokenizer(const struct fixture *f)
{
    static const char *const specials[] = {"<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>",
                                           "<|image|>"};
    static const int ids[] = {257, 258, 259, 264};
    char path[256], symbol[8];
    fixture_path(f, path, "tokenizer.json");
    FILE *out = fopen(path, "w");
    require(out != NULL, path);
    fputs("{\"version\": \"1.0\", \"added_tokens\": [", out);
    for (int i = 0; i < 4; i++)
        fprintf(out, "%s\n {\"id\": %d, \"content\": \"%s\", \"special\": true}", i ? "," : "",
                ids[i], specials[i]);
    fputs(
        "], \"normalizer\": null,\n \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": "
        "[{\"type\": \"Split\", \"pattern\": {\"Regex\": "
        "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}"
        "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, "
        "\"behavior\": \"Isolated\", \"invert\": false}, {\"type\": \"ByteLevel\", "
        "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}]},\n"
        " \"decoder\": {\"type\": \"ByteLevel\"},\n"
        " \"model\": {\"type\": \"BPE\", \"ignore_merges\": true, \"vocab\": {",
        out);
    for (int b = 0; b < 256; b++) {
        byte_symbol(symbol, b);
        fprintf(out, "\"%s\": %d, ", symbol, b);
    }
    fputs("\"ab\": 256},\n  \"merges\": [\"a b\"]}}\n", out);
    require(fclose(out) == 0, path);
}

/* ---- weights --------------------------------------------------------------------------------- */

static void write_file(const struct fixture *f, const char *name, const struct st_spec *specs,
                       size_t n)
{
    char path[256];
    struct st_writer *w;
    struct st_error err;
    fixture_path(f, path, name);
    require(st_create(&w, path, specs, n, NULL, 0, &err) == ST_OK && st_finish(w, &err) == ST_OK,
            path);
}

static void write_index(const struct fixture *f, const struct st_spec *specs, size_t n, size_t half)
{
    char path[256];
    fixture_path(f, path, "model.safetensors.index.json");
    FILE *out = fopen(path, "w");
    require(out != NULL, path);
    fputs("{\"metadata\": {\"total_size\": 1}, \"weight_map\": {", out);
    for (size_t i = 0; i < n; i++)
        fprintf(out, "%s\n\"%s\": \"model-0000%d-of-00002.safetensors\"", i ? "," : "",
                specs[i].name, i < half ? 1 : 2);
    fputs("}}\n", out);
    require(fclose(out) == 0, path);
}

/* The names stay in `names`. */
static size_t list_specs(struct st_spec specs[MAX_TENSORS],
                         char names[MAX_TENSORS][WEIGHTS_MAX_NAME], const char *dir)
{
    struct cfg cfg;
    struct mll_error err;
    struct weights_entry e = {0};
    size_t n = 0;
    require(cfg_load(&cfg, dir, &err) == MLL_OK, "fixture config");
    for (; weights_next(&e, &cfg); n++) {
        require(n < MAX_TENSORS - 4, "MAX_TENSORS");
        memcpy(names[n], e.name, WEIGHTS_MAX_NAME);
        specs[n] = (struct st_spec){names[n], ST_DTYPE_BF16, e.n_dims, {0}};
        memcpy(specs[n].shape, e.dims, sizeof e.dims);
    }
    return n;
}

void fixture_make(struct fixture *f, enum fixture_layout layout, fixture_edit *edit)
{
    static const char template[] = "/tmp/mllama-fixture-XXXXXX";
    struct st_spec specs[MAX_TENSORS];
    char names[MAX_TENSORS][WEIGHTS_MAX_NAME];
    memcpy(f->dir, template, sizeof template);
    require(mkdtemp(f->dir) != NULL, f->dir);
    fixture_write(f, "config.json", config_json, sizeof config_json - 1);
    fixture_write(f, "generation_config.json", generation_json, sizeof generation_json - 1);
    fixture_write(f, "preprocessor_config.json", preprocessor_json, sizeof preprocessor_json - 1);
    write_tokenizer(f);
    size_t n = list_specs(specs, names, f->dir), half = n / 2, rest = n - half;
    if (layout == FIXTURE_ONE_FILE) {
        if (edit)
            edit(specs, &n, 0);
        write_file(f, "model.safetensors", specs, n);
        return;
    }
    write_index(f, specs, n, half);
    struct st_spec second[MAX_TENSORS];
    memcpy(second, specs + half, rest * sizeof *specs);
    if (edit) {
        edit(specs, &half, 0);
        edit(second, &rest, 1);
    }
    write_file(f, "model-00001-of-00002.safetensors", specs, half);
    write_file(f, "model-00002-of-00002.safetensors", second, rest);
}

void fixture_remove(struct fixture *f)
{
    DIR *dir = opendir(f->dir);
    require(dir != NULL, f->dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", f->dir, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && unlink(path) != 0)
            rmdir(path);
    }
    closedir(dir);
    rmdir(f->dir);
}
