/* safetensors_write.h - the writer beside safetensors.h; ST_WRITE_IMPLEMENTATION in one source file
 * that also sees the implementation of the reader.
 *
 *     struct st_spec specs[] = {{"logits", ST_DTYPE_F32, 2, {n, vocab}}};
 *     struct st_writer *w;
 *     if (st_create(&w, "out.safetensors", specs, 1, NULL, 0, &err) == ST_OK &&
 *         st_put(w, 0, logits, 0, n * vocab * sizeof *logits, &err) == ST_OK)
 *         st_finish(w, &err);
 *
 * The same specs give the same bytes: the header lists tensors by name, the data lies by element
 * size (largest first, so that everything is aligned) and then by name, metadata by key. All sizes
 * are known at st_create; what is never put reads as zeros and takes no disk space. The file
 * appears under its name only when it is complete and on disk. */
#ifndef SAFETENSORS_WRITE_H
#define SAFETENSORS_WRITE_H

#include "safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

struct st_spec {
    const char *name; /* UTF-8 */
    enum st_dtype dtype;
    int rank;
    int64_t shape[ST_MAX_RANK];
};

struct st_writer;

/* Writes the header into a temporary file beside path. specs and metadata are not kept. Refuses
 * what the reader would refuse, and to replace anything but a regular file. */
enum st_status st_create(struct st_writer **writer, const char *path, const struct st_spec *specs,
                         size_t n, const struct st_metadata *metadata, size_t n_metadata,
                         struct st_error *err);
/* Bytes [offset, offset + size) of tensor i (its index in specs); any order. */
enum st_status st_put(struct st_writer *writer, size_t i, const void *data, int64_t offset,
                      size_t size, struct st_error *err);
/* Flushes to disk, gives the file its name and frees the writer, also on failure. */
enum st_status st_finish(struct st_writer *writer, struct st_error *err);
/* Deletes what was written. NULL allowed. */
void st_abort(struct st_writer *writer);

#ifdef __cplusplus
}
#endif
#endif /* SAFETENSORS_WRITE_H */

#ifdef ST_WRITE_IMPLEMENTATION
#undef ST_WRITE_IMPLEMENTATION

struct st_slot {
    const struct st_spec *spec; /* valid during st_create only */
    size_t index;
    int64_t begin, size;
};

struct st_writer {
    int fd;
    char *path, *temporary; /* owned */
    uint64_t data_start;
    struct st_slot *slots; /* by index in specs once created */
    size_t n;
};

/* A growing text; failed once memory ran out. */
struct st_text {
    char *data;
    size_t size, cap;
    bool failed;
};

static void st_text_add(struct st_text *t, const char *bytes, size_t n)
{
    while (!t->failed && t->size + n > t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 4096;
        char *grown = (char *)realloc(t->data, cap);
        if (!grown)
            t->failed = true;
        else {
            t->data = grown;
            t->cap = cap;
        }
    }
    if (!t->failed)
        memcpy(t->data + t->size, bytes, n);
    if (!t->failed)
        t->size += n;
}

static void st_text_add_string(struct st_text *t, const char *s, size_t n)
{
    st_text_add(t, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        char escape[8];
        if ((uint8_t)s[i] < 0x20) {
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(uint8_t)s[i]);
            st_text_add(t, escape, 6);
            continue;
        }
        if (s[i] == '"' || s[i] == '\\')
            st_text_add(t, "\\", 1);
        st_text_add(t, &s[i], 1);
    }
    st_text_add(t, "\"", 1);
}

static void st_text_add_entry(struct st_text *t, const struct st_slot *slot)
{
    char buf[64];
    const struct st_spec *spec = slot->spec;
    st_text_add_string(t, spec->name, strlen(spec->name));
    int n = snprintf(buf, sizeof buf, ":{\"dtype\":\"%s\",\"shape\":[", st_dtype_name(spec->dtype));
    st_text_add(t, buf, (size_t)n);
    for (int i = 0; i < spec->rank; i++) {
        n = snprintf(buf, sizeof buf, i ? ",%lld" : "%lld", (long long)spec->shape[i]);
        st_text_add(t, buf, (size_t)n);
    }
    n = snprintf(buf, sizeof buf, "],\"data_offsets\":[%lld,%lld]}", (long long)slot->begin,
                 (long long)(slot->begin + slot->size));
    st_text_add(t, buf, (size_t)n);
}

static int st_slot_by_place(const void *a, const void *b)
{
    const struct st_slot *x = (const struct st_slot *)a, *y = (const struct st_slot *)b;
    int xb = st_dtype_bits(x->spec->dtype), yb = st_dtype_bits(y->spec->dtype);
    return xb != yb ? yb - xb : strcmp(x->spec->name, y->spec->name);
}

static int st_slot_by_name(const void *a, const void *b)
{
    return strcmp(((const struct st_slot *)a)->spec->name, ((const struct st_slot *)b)->spec->name);
}

static int st_slot_by_index(const void *a, const void *b)
{
    const struct st_slot *x = (const struct st_slot *)a, *y = (const struct st_slot *)b;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* Gives every tensor its place. *end: bytes of data in all. */
static enum st_status st_place(struct st_writer *w, const struct st_spec *specs, int64_t *end,
                               struct st_error *err)
{
    for (size_t i = 0; i < w->n; i++) {
        const struct st_spec *s = &specs[i];
        bool valid = (unsigned)s->dtype < ST_DTYPE_COUNT && s->rank >= 0 &&
                     s->rank <= ST_MAX_RANK && strlen(s->name) <= ST_MAX_NAME;
        for (int d = 0; valid && d < s->rank; d++)
            valid = s->shape[d] >= 0 && s->shape[d] <= ST_MAX_DIM;
        if (!valid)
            return st_fail(err, ST_ERR_SHAPE, "tensor '%.200s' has no valid dtype, shape or name",
                           s->name);
        w->slots[i].spec = s;
        w->slots[i].index = i;
        enum st_status status = st_dtype_bytes(&w->slots[i].size, s->dtype, s->shape, s->rank);
        if (status != ST_OK)
            return st_fail(err, status, "tensor '%.200s': no whole number of bytes", s->name);
    }
    qsort(w->slots, w->n, sizeof *w->slots, st_slot_by_place);
    *end = 0;
    for (size_t i = 0; i < w->n; i++) {
        if (w->slots[i].size > ST_MAX_DIM - *end)
            return st_fail(err, ST_ERR_OVERFLOW, "the tensors need more than 2^48 bytes");
        w->slots[i].begin = *end;
        *end += w->slots[i].size;
    }
    return ST_OK;
}

static enum st_status st_compose_header(struct st_text *t, struct st_writer *w,
                                        const struct st_metadata *metadata, size_t n_metadata,
                                        struct st_error *err)
{
    st_text_add(t, "\0\0\0\0\0\0\0\0{", 9);
    if (n_metadata) {
        struct st_metadata *pairs = (struct st_metadata *)malloc(n_metadata * sizeof *pairs);
        if (!pairs)
            return st_fail(err, ST_ERR_NO_MEMORY, "out of memory");
        memcpy(pairs, metadata, n_metadata * sizeof *pairs);
        qsort(pairs, n_metadata, sizeof *pairs, st_by_key);
        st_text_add(t, "\"__metadata__\":{", 16);
        for (size_t i = 0; i < n_metadata; i++) {
            if (i)
                st_text_add(t, ",", 1);
            st_text_add_string(t, pairs[i].key, strlen(pairs[i].key));
            st_text_add(t, ":", 1);
            st_text_add_string(t, pairs[i].value, pairs[i].value_size);
        }
        st_text_add(t, w->n ? "}," : "}", w->n ? 2 : 1);
        free(pairs);
    }
    qsort(w->slots, w->n, sizeof *w->slots, st_slot_by_name);
    for (size_t i = 0; i < w->n; i++) {
        if (i && strcmp(w->slots[i - 1].spec->name, w->slots[i].spec->name) == 0)
            return st_fail(err, ST_ERR_DUPLICATE_TENSOR, "tensor '%.200s' stands twice",
                           w->slots[i].spec->name);
        if (i)
            st_text_add(t, ",", 1);
        st_text_add_entry(t, &w->slots[i]);
    }
    st_text_add(t, "}", 1);
    while (!t->failed && t->size % 8)
        st_text_add(t, " ", 1);
    if (t->failed)
        return st_fail(err, ST_ERR_NO_MEMORY, "out of memory");
    if (t->size - 8 > ST_MAX_HEADER)
        return st_fail(err, ST_ERR_HEADER_TOO_LARGE, "the header needs %zu bytes", t->size - 8);
    for (int i = 0; i < 8; i++)
        t->data[i] = (char)((t->size - 8) >> (8 * i));
    qsort(w->slots, w->n, sizeof *w->slots, st_slot_by_index);
    for (size_t i = 0; i < w->n; i++)
        w->slots[i].spec = NULL;
    return st_check_utf8(t->data + 8, t->size - 8, err);
}

static enum st_status st_pwrite(struct st_writer *w, const void *data, size_t size, uint64_t offset,
                                struct st_error *err)
{
    const char *from = (const char *)data;
    while (size > 0) {
        ssize_t n = pwrite(w->fd, from, size < 1u << 30 ? size : 1u << 30, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return st_fail(err, ST_ERR_WRITE, "cannot write: %s", strerror(errno));
        from += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return ST_OK;
}

static enum st_status st_create_file(struct st_writer *w, const char *path, struct st_error *err)
{
    struct stat info;
    size_t size = strlen(path) + 32;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return st_fail(err, ST_ERR_CREATE, "it exists and is not a regular file");
    w->path = strdup(path);
    w->temporary = (char *)malloc(size);
    if (!w->path || !w->temporary)
        return st_fail(err, ST_ERR_NO_MEMORY, "out of memory");
    snprintf(w->temporary, size, "%s.%ld.tmp", path, (long)getpid());
    unlink(w->temporary); /* of a dead process that had this id */
    w->fd = open(w->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return st_fail(err, ST_ERR_CREATE, "cannot create: %s", strerror(errno));
    return ST_OK;
}

static enum st_status st_start(struct st_writer *w, const char *path, const struct st_spec *specs,
                               const struct st_metadata *metadata, size_t n_metadata,
                               struct st_text *header, struct st_error *err)
{
    int64_t end = 0;
    if (w->n > ST_MAX_TENSORS || n_metadata > ST_MAX_TENSORS)
        return st_fail(err, ST_ERR_TOO_MANY, "more than %d tensors", ST_MAX_TENSORS);
    ST_TRY(st_place(w, specs, &end, err));
    ST_TRY(st_compose_header(header, w, metadata, n_metadata, err));
    ST_TRY(st_create_file(w, path, err));
    w->data_start = header->size;
    ST_TRY(st_pwrite(w, header->data, header->size, 0, err));
    if (ftruncate(w->fd, (off_t)(w->data_start + (uint64_t)end)) != 0)
        return st_fail(err, ST_ERR_WRITE, "cannot set the size: %s", strerror(errno));
    return ST_OK;
}

enum st_status st_create(struct st_writer **writer, const char *path, const struct st_spec *specs,
                         size_t n, const struct st_metadata *metadata, size_t n_metadata,
                         struct st_error *err)
{
    struct st_text header = {NULL, 0, 0, false};
    struct st_writer *w = (struct st_writer *)calloc(1, sizeof *w);
    *writer = NULL;
    if (w)
        w->slots = (struct st_slot *)calloc(n + 1, sizeof *w->slots);
    if (!w || !w->slots) {
        free(w);
        return st_fail(err, ST_ERR_NO_MEMORY, "out of memory");
    }
    w->fd = -1;
    w->n = n;
    enum st_status status = st_start(w, path, specs, metadata, n_metadata, &header, err);
    free(header.data);
    if (status != ST_OK)
        st_abort(w);
    else
        *writer = w;
    return status;
}

enum st_status st_put(struct st_writer *writer, size_t i, const void *data, int64_t offset,
                      size_t size, struct st_error *err)
{
    const struct st_slot *slot = i < writer->n ? &writer->slots[i] : NULL;
    if (!slot || offset < 0 || offset > slot->size || size > (uint64_t)(slot->size - offset))
        return st_fail(err, ST_ERR_SPAN, "tensor %zu has %lld bytes; %zu put at %lld", i,
                       slot ? (long long)slot->size : 0, size, (long long)offset);
    return st_pwrite(writer, data, size, writer->data_start + (uint64_t)(slot->begin + offset),
                     err);
}

static void st_free_writer(struct st_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    free(w->path);
    free(w->temporary);
    free(w->slots);
    free(w);
}

void st_abort(struct st_writer *writer)
{
    if (!writer)
        return;
    if (writer->fd >= 0)
        unlink(writer->temporary);
    st_free_writer(writer);
}

/* A rename is on disk once its directory is. */
static void st_sync_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd); /* some file systems cannot; the data itself is safe */
        close(fd);
    }
    free(dir);
}

enum st_status st_finish(struct st_writer *writer, struct st_error *err)
{
    enum st_status status = ST_OK;
    if (fsync(writer->fd) != 0 || rename(writer->temporary, writer->path) != 0)
        status = st_fail(err, ST_ERR_WRITE, "cannot complete the file: %s", strerror(errno));
    if (status != ST_OK) {
        st_abort(writer);
        return status;
    }
    st_sync_directory(writer->path);
    st_free_writer(writer);
    return ST_OK;
}

#endif /* ST_WRITE_IMPLEMENTATION */
