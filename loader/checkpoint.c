#include "checkpoint.h"

#include "json_read.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INDEX_FILE "model.safetensors.index.json"
#define ONE_FILE   "model.safetensors"
#define MAX_SHARDS 512 /* each keeps a descriptor open */

struct shard {
    const char *name;     /* inside the directory; owned once own_names was called */
    struct st_file *file; /* NULL: could not be opened */
};

struct ckpt {
    struct shard *shards; /* by name */
    size_t n;
};

/* ---- statuses -------------------------------------------------------------------------------- */

/* The rows that speak of a file's content stand in the same order in both lists. */
_Static_assert(MLL_ERR_ST_DATA_TRAILING - MLL_ERR_ST_HEADER_TOO_SMALL ==
                   (int)ST_ERR_DATA_TRAILING - (int)ST_ERR_HEADER_TOO_SMALL,
               "MLL_STATUS_LIST_SAFETENSORS and ST_STATUS_LIST differ");

static enum mll_status status_of(enum st_status status)
{
    if (status >= ST_ERR_HEADER_TOO_SMALL && status <= ST_ERR_DATA_TRAILING)
        return (enum mll_status)(MLL_ERR_ST_HEADER_TOO_SMALL +
                                 (int)(status - ST_ERR_HEADER_TOO_SMALL));
    switch (status) {
    case ST_OK:
        return MLL_OK;
    case ST_ERR_NOT_REGULAR:
        return MLL_ERR_FILE_NOT_REGULAR;
    case ST_ERR_CHANGED:
        return MLL_ERR_FILE_CHANGED;
    case ST_ERR_NO_MEMORY:
        return MLL_ERR_NO_MEMORY;
    case ST_ERR_CREATE:
        return MLL_ERR_CANNOT_CREATE;
    default:
        return MLL_ERR_IO;
    }
}

enum mll_status ckpt_fail_st(struct mll_error *err, const char *file, const struct st_error *e)
{
    return mll_fail(err, status_of(e->code), "%.100s: %s", file, e->message);
}

/* ---- formats that are refused ---------------------------------------------------------------- */

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

static bool refuse_name(const char *name, struct defects *d)
{
    if (ends_with(name, ".gguf"))
        defects_add(d, MLL_ERR_FORMAT_GGUF,
                    "%s: expected safetensors in the HF layout, found GGUF, which is not read",
                    name);
    else if (strcmp(name, "adapter_config.json") == 0)
        defects_add(d, MLL_ERR_FORMAT_LORA,
                    "%s: expected a model with its adapter merged in, found a LoRA adapter, which "
                    "is not read",
                    name);
    else if (ends_with(name, ".bin") || ends_with(name, ".bin.index.json") ||
             ends_with(name, ".pth") || ends_with(name, ".pt"))
        defects_add(d, MLL_ERR_FORMAT_PICKLE,
                    "%s: expected safetensors, found a PyTorch pickle, which is not read", name);
    else
        return false;
    return true;
}

bool ckpt_refuse_format(const char *dir, struct defects *d)
{
    char found[256] = "";
    DIR *handle = opendir(dir);
    if (!handle)
        return access(dir, F_OK) == 0 && refuse_name(dir, d);
    struct defects probe = {0};
    for (struct dirent *e; (e = readdir(handle)) != NULL;)
        if (refuse_name(e->d_name, &probe) &&
            (found[0] == 0 || strcmp(e->d_name, found) < 0)) /* the same one in any order */
            snprintf(found, sizeof found, "%s", e->d_name);
    closedir(handle);
    return found[0] && refuse_name(found, d);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Is there an entry of that name, be it a link to a file of the HF cache that is missing? */
static bool is_listed(const char *dir, const char *name)
{
    char path[4096];
    struct stat info;
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path &&
           lstat(path, &info) == 0;
}

static void open_shard(struct shard *s, const char *dir, enum st_mode mode, struct defects *d)
{
    char path[4096];
    struct st_error e;
    struct mll_error err;
    struct stat info;
    if (snprintf(path, sizeof path, "%s/%s", dir, s->name) >= (int)sizeof path ||
        stat(path, &info) != 0) {
        defects_add(d, MLL_ERR_SHARD_MISSING, "%.200s: expected a shard in %.200s, found none",
                    s->name, dir);
        return;
    }
    if (st_open(&s->file, path, mode, &e) == ST_OK)
        return;
    ckpt_fail_st(&err, s->name, &e);
    defects_add(d, err.code, "%s", err.message);
}

/* A shard's name must stay inside the directory. */
static bool check_file_name(const char *tensor, const json_t *value, struct defects *d)
{
    const char *name = json_string_value(value);
    if (!name) {
        defects_add(d, MLL_ERR_INDEX_FORM,
                    INDEX_FILE ": weight_map '%.150s': expected a file name, found no string",
                    tensor);
        return false;
    }
    size_t size = json_string_length(value);
    if (size == 0 || size > 255 || strlen(name) != size || strchr(name, '/') || name[0] == '.') {
        defects_add(d, MLL_ERR_INDEX_FILE_NAME,
                    INDEX_FILE ": weight_map '%.150s': expected a bare file name, found '%.150s'",
                    tensor, name);
        return false;
    }
    if (!ends_with(name, ".safetensors")) {
        defects_add(d, MLL_ERR_FORMAT_PICKLE,
                    INDEX_FILE ": weight_map '%.150s': expected a safetensors file, found '%.150s'",
                    tensor, name);
        return false;
    }
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct shard *)a)->name, ((const struct shard *)b)->name);
}

static struct shard *find_shard(const struct ckpt *c, const char *name)
{
    struct shard key = {name, NULL};
    return bsearch(&key, c->shards, c->n, sizeof key, by_name);
}

/* Fills the list of shards from the map's values. False where reading on makes no sense. */
static bool list_shards(struct ckpt *c, json_t *map, struct defects *d)
{
    const char *tensor;
    json_t *value;
    size_t before = d->n, n = 0;
    if (!json_is_object(map) || json_object_size(map) == 0) {
        defects_add(d, MLL_ERR_INDEX_FORM,
                    INDEX_FILE ": expected an object weight_map with entries, found none");
        return false;
    }
    c->shards = calloc(json_object_size(map), sizeof *c->shards);
    if (!c->shards) {
        defects_add(d, MLL_ERR_NO_MEMORY, INDEX_FILE ": out of memory");
        return false;
    }
    json_object_foreach(map, tensor, value)
    {
        if (check_file_name(tensor, value, d))
            c->shards[n++].name = json_string_value(value);
    }
    if (d->n > before)
        return false;
    qsort(c->shards, n, sizeof *c->shards, by_name);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(c->shards[i].name, c->shards[c->n - 1].name) != 0)
            c->shards[c->n++].name = c->shards[i].name;
    if (c->n > MAX_SHARDS) {
        defects_add(d, MLL_ERR_INDEX_FORM, INDEX_FILE ": expected at most %d shards, found %zu",
                    MAX_SHARDS, c->n);
        return false;
    }
    return true;
}

/* The shard other than s that holds a tensor, or NULL. */
static const struct shard *find_elsewhere(const struct ckpt *c, const struct shard *s,
                                          const char *tensor)
{
    for (size_t i = 0; i < c->n; i++)
        if (&c->shards[i] != s && c->shards[i].file && st_find(c->shards[i].file, tensor))
            return &c->shards[i];
    return NULL;
}

/* Every entry of the map against the shards' headers. */
static void check_map(const struct ckpt *c, json_t *map, struct defects *d)
{
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value)
    {
        const struct shard *s = find_shard(c, json_string_value(value));
        if (!s->file || st_find(s->file, tensor))
            continue;
        const struct shard *other = find_elsewhere(c, s, tensor);
        if (other)
            defects_add(d, MLL_ERR_SHARD_TENSOR_ELSEWHERE,
                        "tensor '%.150s': expected in %.100s by the index, found in %.100s", tensor,
                        s->name, other->name);
        else
            defects_add(d, MLL_ERR_SHARD_TENSOR_ABSENT,
                        "%.100s: expected tensor '%.150s' by the index, found none", s->name,
                        tensor);
    }
}

/* Every tensor of a shard against the map. */
static void check_shard(const struct ckpt *c, const struct shard *s, json_t *map, struct defects *d)
{
    for (size_t i = 0; i < st_count(s->file); i++) {
        const char *tensor = st_at(s->file, i)->name;
        const char *listed = json_string_value(json_object_get(map, tensor));
        if (!listed)
            defects_add(d, MLL_ERR_SHARD_TENSOR_UNLISTED,
                        "%.100s: tensor '%.150s': expected in " INDEX_FILE
                        ", found only in the file",
                        s->name, tensor);
        else if (strcmp(listed, s->name) != 0 && find_elsewhere(c, s, tensor))
            defects_add(
                d, MLL_ERR_SHARD_TENSOR_TWICE,
                "%.100s: tensor '%.150s': expected only in %.100s by the index, found here too",
                s->name, tensor, listed);
    }
}

/* The names belong to the JSON text until here. */
static bool own_names(struct ckpt *c, struct defects *d)
{
    for (size_t i = 0; i < c->n; i++) {
        c->shards[i].name = strdup(c->shards[i].name);
        if (!c->shards[i].name) {
            defects_add(d, MLL_ERR_NO_MEMORY, INDEX_FILE ": out of memory");
            c->n = i;
            return false;
        }
    }
    return true;
}

static void open_shards(struct ckpt *c, const char *dir, enum st_mode mode, struct defects *d)
{
    json_t *root = jr_load(dir, INDEX_FILE, true, d);
    json_t *map = json_object_get(root, "weight_map");
    bool listed = root && list_shards(c, map, d);
    if (!listed)
        c->n = 0;
    if (!own_names(c, d))
        listed = false;
    for (size_t i = 0; listed && i < c->n; i++)
        open_shard(&c->shards[i], dir, mode, d);
    if (listed)
        check_map(c, map, d);
    for (size_t i = 0; listed && i < c->n; i++)
        if (c->shards[i].file)
            check_shard(c, &c->shards[i], map, d);
    json_decref(root);
}

static void open_one(struct ckpt *c, const char *dir, enum st_mode mode, struct defects *d)
{
    c->shards = calloc(1, sizeof *c->shards);
    char *name = strdup(ONE_FILE);
    if (!c->shards || !name) {
        defects_add(d, MLL_ERR_NO_MEMORY, ONE_FILE ": out of memory");
        free(name);
        return;
    }
    c->n = 1;
    c->shards[0].name = name;
    open_shard(&c->shards[0], dir, mode, d);
}

struct ckpt *ckpt_check(const char *dir, enum st_mode mode, struct defects *d)
{
    struct ckpt *c = calloc(1, sizeof *c);
    if (!c) {
        defects_add(d, MLL_ERR_NO_MEMORY, "%.200s: out of memory", dir);
        return NULL;
    }
    /* transformers' order */
    if (is_listed(dir, ONE_FILE))
        open_one(c, dir, mode, d);
    else if (is_listed(dir, INDEX_FILE))
        open_shards(c, dir, mode, d);
    else if (!ckpt_refuse_format(dir, d))
        defects_add(d, MLL_ERR_NO_WEIGHTS,
                    "expected " ONE_FILE " or " INDEX_FILE " in %.300s, found neither", dir);
    for (size_t i = 0; i < c->n; i++)
        if (c->shards[i].file)
            return c;
    ckpt_close(c);
    return NULL;
}

enum mll_status ckpt_open(struct ckpt **ckpt, const char *dir, enum st_mode mode,
                          struct mll_error *err)
{
    struct defects d = {0};
    *ckpt = ckpt_check(dir, mode, &d);
    if (d.n > 0) {
        ckpt_close(*ckpt);
        *ckpt = NULL;
    }
    return defects_result(&d, err);
}

void ckpt_close(struct ckpt *ckpt)
{
    if (!ckpt)
        return;
    for (size_t i = 0; i < ckpt->n; i++) {
        st_close(ckpt->shards[i].file);
        free((char *)ckpt->shards[i].name);
    }
    free(ckpt->shards);
    free(ckpt);
}

/* ---- tensors --------------------------------------------------------------------------------- */

bool ckpt_is_incomplete(const struct ckpt *ckpt)
{
    for (size_t i = 0; i < ckpt->n; i++)
        if (!ckpt->shards[i].file)
            return true;
    return false;
}

size_t ckpt_count(const struct ckpt *ckpt)
{
    size_t n = 0;
    for (size_t i = 0; i < ckpt->n; i++)
        n += ckpt->shards[i].file ? st_count(ckpt->shards[i].file) : 0;
    return n;
}

const struct st_tensor *ckpt_at(const struct ckpt *ckpt, size_t i)
{
    for (size_t s = 0; s < ckpt->n; s++) {
        size_t n = ckpt->shards[s].file ? st_count(ckpt->shards[s].file) : 0;
        if (i < n)
            return st_at(ckpt->shards[s].file, i);
        i -= n;
    }
    return NULL;
}

const struct st_tensor *ckpt_find(const struct ckpt *ckpt, const char *name)
{
    const struct st_tensor *t = NULL;
    for (size_t i = 0; !t && i < ckpt->n; i++)
        t = ckpt->shards[i].file ? st_find(ckpt->shards[i].file, name) : NULL;
    return t;
}

static const struct shard *shard_of(const struct ckpt *ckpt, const struct st_tensor *tensor)
{
    for (size_t i = 0; i < ckpt->n; i++)
        if (ckpt->shards[i].file && st_find(ckpt->shards[i].file, tensor->name) == tensor)
            return &ckpt->shards[i];
    MLL_ASSERT(!"tensor of another checkpoint");
    return NULL;
}

const char *ckpt_file_name(const struct ckpt *ckpt, const struct st_tensor *tensor)
{
    return shard_of(ckpt, tensor)->name;
}

const struct st_file *ckpt_file(const struct ckpt *ckpt, const struct st_tensor *tensor)
{
    return shard_of(ckpt, tensor)->file;
}

enum mll_status ckpt_check_unchanged(const struct ckpt *ckpt, struct mll_error *err)
{
    struct st_error e;
    for (size_t i = 0; i < ckpt->n; i++)
        if (ckpt->shards[i].file && st_check_unchanged(ckpt->shards[i].file, &e) != ST_OK)
            return ckpt_fail_st(err, ckpt->shards[i].name, &e);
    return MLL_OK;
}
