/* quantise_dir.c - mll_quantize: a checkpoint into one that bitsandbytes would have saved.
 *
 * Everything goes to DST.quantize.tmp beside DST, which gets its name last; on any failure it is
 * deleted. It is locked while it is written: one that nobody holds is of a run that was killed, and
 * is emptied and used again. Shards keep their names, other files of the directory are copied.
 * config.json gets transformers' quantization_config, with the modules that stay as they are in
 * llm_int8_skip_modules, under the names that every transformers since 4.45 knows them by. */
#include "quantise_file.h"

#include "json_read.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

struct dir_job {
    struct quantise_job q;
    struct cfg cfg;
    const char *src, *dst;
    char tmp[PATH_MAX - 300];
    int lock; /* tmp, open and locked */
};

static enum mll_status cannot(const char *what, const char *path, struct mll_error *err)
{
    return mll_fail(err, MLL_ERR_CANNOT_CREATE, "%.300s: cannot %s: %s", path, what,
                    strerror(errno));
}

/* "DIR/NAME" */
static const char *join(char out[PATH_MAX], const char *dir, const char *name)
{
    snprintf(out, PATH_MAX, "%s/%s", dir, name);
    return out;
}

static enum mll_status write_json(const struct dir_job *j, const char *name, const json_t *value,
                                  struct mll_error *err)
{
    char path[PATH_MAX];
    FILE *f = fopen(join(path, j->tmp, name), "wxe");
    if (f == NULL)
        return cannot("create", path, err);
    bool ok = json_dumpf(value, f, JSON_INDENT(2)) == 0 && fputc('\n', f) != EOF &&
              fflush(f) == 0 && fsync(fileno(f)) == 0;
    if (fclose(f) == 0 && ok)
        return MLL_OK;
    return mll_fail(err, MLL_ERR_IO, "%.300s: cannot write: %s", path, strerror(errno));
}

/* ---- config.json ----------------------------------------------------------------------------- */

static void add_module(json_t *list, const char *tensor)
{
    size_t n = strlen(tensor) - strlen(".weight");
    json_array_append_new(list, json_stringn(tensor, n));
}

static bool is_picked(const struct quantise_job *q, const struct mat *m)
{
    for (size_t i = 0; i < q->n_picks; i++)
        if (q->picks[i].mat == m)
            return true;
    return false;
}

/* Every nn.Linear that is not quantised, under both of its names; the tower as one. */
static json_t *skipped_modules(const struct dir_job *j)
{
    json_t *list = json_array(), *tower = json_array();
    struct weights_entry e = {0};
    bool whole_tower = true;
    while (weights_next(&e, &j->cfg)) {
        bool vision = strncmp(e.name, "vision_model.", 13) == 0;
        bool picked = is_picked(&j->q, weights_field(j->q.weights, &e));
        if (!e.linear || picked) {
            whole_tower = whole_tower && !(vision && picked);
            continue;
        }
        add_module(vision ? tower : list, e.name);
        add_module(vision ? tower : list, e.new_name);
    }
    if (whole_tower) {
        json_array_append_new(list, json_string("vision_model"));
        json_array_append_new(list, json_string("model.vision_model"));
    } else {
        json_array_extend(list, tower);
    }
    json_decref(tower);
    return list;
}

/* The dtype that bitsandbytes multiplies in: that of the weights. */
static const char *compute_dtype(const struct dir_job *j)
{
    enum mll_dtype dtype = j->q.n_picks > 0 ? j->q.picks[0].mat->dtype : MLL_DTYPE_NONE;
    return dtype == MLL_DTYPE_BF16 ? "bfloat16" : dtype == MLL_DTYPE_F16 ? "float16" : "float32";
}

/* HF: BitsAndBytesConfig.to_dict */
static json_t *quantization_config(const struct dir_job *j)
{
    bool eight = j->q.type == QUANTISE_INT8;
    json_t *skip = skipped_modules(j);
    return json_pack("{s:s, s:b, s:b, s:b, s:b, s:s, s:s, s:s, s:b, s:o, s:f, s:b, s:b}",
                     "quant_method", "bitsandbytes", "load_in_4bit", !eight, "load_in_8bit", eight,
                     "_load_in_4bit", !eight, "_load_in_8bit", eight, "bnb_4bit_quant_type",
                     eight ? "fp4" : "nf4", "bnb_4bit_compute_dtype", compute_dtype(j),
                     "bnb_4bit_quant_storage", "uint8", "bnb_4bit_use_double_quant",
                     j->q.type == QUANTISE_NF4_DOUBLE, "llm_int8_skip_modules", skip,
                     "llm_int8_threshold", 6.0, "llm_int8_has_fp16_weight", false,
                     "llm_int8_enable_fp32_cpu_offload", false);
}

static enum mll_status write_config(const struct dir_job *j, struct mll_error *err)
{
    struct defects d = {0};
    json_t *config = jr_load(j->src, "config.json", true, &d), *quant = quantization_config(j);
    enum mll_status status = defects_result(&d, err);
    if (status == MLL_OK && (!quant || json_object_set(config, "quantization_config", quant) != 0))
        status = mll_fail(err, MLL_ERR_NO_MEMORY, "out of memory");
    if (status == MLL_OK)
        status = write_json(j, "config.json", config, err);
    json_decref(quant);
    json_decref(config);
    return status;
}

/* ---- other files ----------------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Weights in any form, and what is written anew. */
static bool is_left_out(const char *name)
{
    static const char *const ends[] = {".safetensors", ".safetensors.index.json",
                                       ".bin",         ".pth",
                                       ".pt",          ".gguf",
                                       ".h5",          ".msgpack",
                                       ".index.json"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(name, ends[i]))
            return true;
    return name[0] == '.' || strcmp(name, "config.json") == 0;
}

static enum mll_status copy_file(const char *from, const char *to, struct mll_error *err)
{
    char bytes[1 << 16];
    ssize_t n = 0;
    bool written = true;
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    while (out >= 0 && written && (n = read(in, bytes, sizeof bytes)) > 0)
        written = write(out, bytes, (size_t)n) == n;
    bool ok = out >= 0 && written && n == 0 && fsync(out) == 0;
    enum mll_status status = ok ? MLL_OK
                                : mll_fail(err, MLL_ERR_IO, "%.200s: cannot copy to %.200s: %s",
                                           from, to, strerror(errno));
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return status;
}

/* Tokenizer, templates, other configurations; folders are left out. */
static enum mll_status copy_files(const struct dir_job *j, struct mll_error *err)
{
    char from[PATH_MAX], to[PATH_MAX];
    struct stat info;
    enum mll_status status = MLL_OK;
    DIR *dir = opendir(j->src);
    if (dir == NULL)
        return mll_fail(err, MLL_ERR_IO, "%.300s: %s", j->src, strerror(errno));
    for (struct dirent *e; status == MLL_OK && (e = readdir(dir)) != NULL;) {
        join(from, j->src, e->d_name);
        if (!is_left_out(e->d_name) && stat(from, &info) == 0 && S_ISREG(info.st_mode))
            status = copy_file(from, join(to, j->tmp, e->d_name), err);
    }
    closedir(dir);
    return status;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* Adds the tensors of a file that was written; returns their bytes. */
static int64_t list_file(const struct dir_job *j, json_t *map, const char *file)
{
    char path[PATH_MAX];
    struct st_file *f;
    int64_t bytes = 0;
    if (st_open(&f, join(path, j->tmp, file), ST_MODE_HEADER, NULL) != ST_OK)
        return 0;
    for (size_t i = 0; i < st_count(f); i++) {
        bytes += st_at(f, i)->size;
        json_object_set_new(map, st_at(f, i)->name, json_string(file));
    }
    st_close(f);
    return bytes;
}

static enum mll_status write_weights(struct dir_job *j, struct mll_error *err)
{
    const struct ckpt *ckpt = j->q.weights->ckpt;
    const char *last = "";
    char path[PATH_MAX];
    int64_t bytes = 0;
    int files = 0;
    enum mll_status status = MLL_OK;
    json_t *map = json_object();
    for (size_t i = 0; status == MLL_OK && i < ckpt_count(ckpt); i++) {
        const char *file = ckpt_file_name(ckpt, ckpt_at(ckpt, i));
        if (strcmp(file, last) == 0)
            continue; /* the tensors of a file stand together */
        status = quantise_file(&j->q, join(path, j->tmp, file), file, err);
        bytes += list_file(j, map, file);
        last = file;
        files++;
    }
    if (status == MLL_OK && files > 1) {
        json_t *index =
            json_pack("{s:{s:I}, s:O}", "metadata", "total_size", bytes, "weight_map", map);
        status = index ? write_json(j, "model.safetensors.index.json", index, err)
                       : mll_fail(err, MLL_ERR_NO_MEMORY, "out of memory");
        json_decref(index);
    }
    json_decref(map);
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static enum mll_status write_directory(struct dir_job *j, struct mll_error *err)
{
    MLL_TRY(write_weights(j, err));
    MLL_TRY(write_config(j, err));
    MLL_TRY(copy_files(j, err));
    fsync(j->lock); /* some file systems cannot; the files themselves are safe */
    if (rename(j->tmp, j->dst) != 0)
        return cannot("give the name to what was written", j->dst, err);
    return MLL_OK;
}

static void empty_directory(const char *path)
{
    char file[PATH_MAX];
    DIR *dir = opendir(path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            unlink(join(file, path, e->d_name));
    if (dir != NULL)
        closedir(dir);
}

/* Makes tmp, or takes over what a killed run left of it. */
static enum mll_status claim(struct dir_job *j, struct mll_error *err)
{
    struct stat held, named;
    if (mkdir(j->tmp, 0777) != 0 && errno != EEXIST)
        return cannot("create", j->tmp, err);
    int dir = open(j->tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return cannot("open", j->tmp, err);
    bool busy = flock(dir, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    /* Whoever held it may just have given it its last name: what we hold is no longer tmp. */
    if (busy || fstat(dir, &held) != 0 || stat(j->tmp, &named) != 0 ||
        held.st_ino != named.st_ino || held.st_dev != named.st_dev) {
        close(dir);
        return mll_fail(err, MLL_ERR_CANNOT_CREATE, "%.300s: another process is writing it",
                        j->tmp);
    }
    j->lock = dir;
    empty_directory(j->tmp);
    return MLL_OK;
}

/* Better now than after minutes; other processes may still fill the disk. */
static enum mll_status check_room(const struct dir_job *j, struct mll_error *err)
{
    struct statvfs disk;
    if (statvfs(j->tmp, &disk) != 0 || disk.f_blocks == 0)
        return MLL_OK;
    uint64_t left = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (left >= j->q.to_write)
        return MLL_OK;
    return mll_fail(err, MLL_ERR_IO, "%.300s: needs %llu bytes (%.2f GiB), %llu are free", j->dst,
                    (unsigned long long)j->q.to_write, (double)j->q.to_write / 0x1p30,
                    (unsigned long long)left);
}

static enum mll_status open_source(struct dir_job *j, struct mll_error *err)
{
    MLL_TRY(cfg_load(&j->cfg, j->src, err));
    if (j->cfg.quant_method[0] != 0)
        return mll_fail(err, MLL_ERR_QUANT_METHOD,
                        "config.json: quantization_config.quant_method: expected plain weights to "
                        "quantise, found \"%s\"",
                        j->cfg.quant_method);
    MLL_TRY(weights_load(&j->q.weights, &j->cfg, j->src, false, err));
    return quantise_pick(&j->q, &j->cfg, err);
}

static enum mll_status create(struct dir_job *j, struct mll_error *err)
{
    struct stat info;
    size_t n = strlen(j->dst);
    while (n > 1 && j->dst[n - 1] == '/')
        n--;
    if (n + 32 > sizeof j->tmp)
        return mll_fail(err, MLL_ERR_CANNOT_CREATE, "a path of %zu bytes", n);
    snprintf(j->tmp, sizeof j->tmp, "%.*s.quantize.tmp", (int)n, j->dst);
    if (lstat(j->dst, &info) == 0)
        return mll_fail(err, MLL_ERR_CANNOT_CREATE, "%.300s: expected a new directory, it exists",
                        j->dst);
    MLL_TRY(claim(j, err));
    enum mll_status status = check_room(j, err);
    if (status == MLL_OK)
        status = write_directory(j, err);
    if (status != MLL_OK) {
        empty_directory(j->tmp);
        rmdir(j->tmp);
    }
    close(j->lock);
    return status;
}

enum mll_status mll_quantize(const char *src, const char *dst, const struct mll_quantize *options,
                             struct mll_error *err)
{
    struct dir_job *j = calloc(1, sizeof *j);
    if (j == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "out of memory");
    j->src = src;
    j->dst = dst;
    j->q.options = options;
    enum mll_status status = quantise_type_of(&j->q.type, options->type, err);
    if (status == MLL_OK && j->q.type == QUANTISE_NONE)
        status =
            mll_fail(err, MLL_ERR_BAD_OPTION, "quant: expected nf4, nf4-dq or int8, found none");
    if (status == MLL_OK)
        status = open_source(j, err);
    if (status == MLL_OK)
        status = create(j, err);
    free(j->q.picks);
    weights_free(j->q.weights);
    free(j);
    return status;
}
