/* inputs.c - operands to a list of files, and the reading of one. */
#include "inputs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

struct seen_dir {
    dev_t dev;
    ino_t ino;
};

struct walk {
    struct inp_list *list;
    struct seen_dir *seen; /* folders entered so far */
    size_t n_seen, seen_room;
    struct mll_error *err;
};

static enum mll_status out_of_memory(struct mll_error *err)
{
    return mll_fail(err, MLL_ERR_NO_MEMORY, "the list of inputs");
}

/* Makes room for one more element of an array of n; false where memory ends. */
static bool grow(void **array, size_t *capacity, size_t n, size_t element)
{
    size_t bytes, wanted = *capacity ? 2 * *capacity : 64;
    if (n < *capacity)
        return true;
    if (!mll_mul_size(&bytes, wanted, element))
        return false;
    void *larger = realloc(*array, bytes);
    if (!larger)
        return false;
    *array = larger;
    *capacity = wanted;
    return true;
}

static enum mll_status add_file(struct walk *w, const char *path, size_t relative)
{
    struct inp_list *list = w->list;
    if (!grow((void **)&list->files, &list->capacity, list->n, sizeof *list->files))
        return out_of_memory(w->err);
    char *copy = strdup(path);
    if (!copy)
        return out_of_memory(w->err);
    list->files[list->n++] = (struct inp_file){copy, relative};
    return MLL_OK;
}

/* Is this folder entered for the first time? */
static bool enter(struct walk *w, const struct stat *st, enum mll_status *status)
{
    for (size_t i = 0; i < w->n_seen; i++)
        if (w->seen[i].dev == st->st_dev && w->seen[i].ino == st->st_ino)
            return false;
    if (!grow((void **)&w->seen, &w->seen_room, w->n_seen, sizeof *w->seen)) {
        *status = out_of_memory(w->err);
        return false;
    }
    w->seen[w->n_seen++] = (struct seen_dir){st->st_dev, st->st_ino};
    return true;
}

static bool has_image_name(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && (strcasecmp(dot, ".png") == 0 || strcasecmp(dot, ".jpg") == 0 ||
                   strcasecmp(dot, ".jpeg") == 0);
}

static char *join(const char *dir, const char *name)
{
    size_t n = strlen(dir);
    char *path = malloc(n + strlen(name) + 2);
    if (path) {
        strcpy(path, dir);
        strcpy(path + n + (n > 0 && dir[n - 1] != '/'), name);
        if (n > 0 && dir[n - 1] != '/')
            path[n] = '/';
    }
    return path;
}

/* The entries of one folder: images to the list, folders to the stack (with ownership). */
static enum mll_status read_folder(struct walk *w, const char *dir, size_t relative, char ***stack,
                                   size_t *depth, size_t *room)
{
    DIR *d = opendir(dir);
    if (!d) /* named in the output as a document that cannot be read */
        return add_file(w, dir, relative);
    enum mll_status status = MLL_OK;
    for (struct dirent *e; status == MLL_OK && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        char *path = join(dir, e->d_name);
        struct stat st;
        if (!path || !grow((void **)stack, room, *depth, sizeof **stack)) {
            status = out_of_memory(w->err);
        } else if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
            (*stack)[(*depth)++] = path;
            path = NULL;
        } else if (has_image_name(e->d_name)) {
            status = add_file(w, path, relative);
        } else {
            w->list->skipped++;
        }
        free(path);
    }
    closedir(d);
    return status;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct inp_file *)a)->path, ((const struct inp_file *)b)->path);
}

static enum mll_status walk_folder(struct walk *w, const char *operand)
{
    size_t relative = strlen(operand), first = w->list->n, depth = 0, room = 0;
    relative += relative > 0 && operand[relative - 1] != '/';
    char **stack = NULL, *dir = strdup(operand);
    enum mll_status status = dir ? MLL_OK : out_of_memory(w->err);
    while (dir && status == MLL_OK) {
        struct stat st;
        if (stat(dir, &st) == 0 && enter(w, &st, &status))
            status = read_folder(w, dir, relative, &stack, &depth, &room);
        free(dir);
        dir = depth > 0 ? stack[--depth] : NULL;
    }
    free(dir);
    while (depth > 0)
        free(stack[--depth]);
    free(stack);
    if (w->list->n > first)
        qsort(w->list->files + first, w->list->n - first, sizeof *w->list->files, by_path);
    return status;
}

static enum mll_status add_operand(struct walk *w, const char *operand)
{
    struct stat st;
    if (stat(operand, &st) == 0 && S_ISDIR(st.st_mode))
        return walk_folder(w, operand);
    const char *slash = strrchr(operand, '/');
    return add_file(w, operand, slash ? (size_t)(slash + 1 - operand) : 0);
}

static enum mll_status add_pattern(struct walk *w, const char *pattern)
{
    glob_t found;
    if (glob(pattern, 0, NULL, &found) != 0) {
        w->list->absent++;
        return add_operand(w, pattern);
    }
    enum mll_status status = MLL_OK;
    for (size_t i = 0; i < found.gl_pathc && status == MLL_OK; i++)
        status = add_operand(w, found.gl_pathv[i]);
    globfree(&found);
    return status;
}

static int by_path_pointer(const void *a, const void *b)
{
    const struct inp_file *const *x = a, *const *y = b;
    int order = strcmp((*x)->path, (*y)->path);
    return order ? order : (*x > *y) - (*x < *y);
}

/* Takes out every path that stands earlier in the list. */
static enum mll_status drop_repeats(struct inp_list *list, struct mll_error *err)
{
    if (list->n < 2)
        return MLL_OK;
    struct inp_file **sorted = calloc(list->n, sizeof *sorted);
    if (!sorted)
        return out_of_memory(err);
    for (size_t i = 0; i < list->n; i++)
        sorted[i] = &list->files[i];
    qsort(sorted, list->n, sizeof *sorted, by_path_pointer);
    struct inp_file *first = sorted[0];
    for (size_t i = 1; i < list->n; i++) {
        if (strcmp(sorted[i]->path, first->path) != 0) {
            first = sorted[i];
        } else {
            free(sorted[i]->path);
            sorted[i]->path = NULL;
            sorted[i] = first;
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < list->n; i++)
        if (list->files[i].path)
            list->files[kept++] = list->files[i];
    list->n = kept;
    free(sorted);
    return MLL_OK;
}

enum mll_status inp_collect(struct inp_list *list, const char *const *operands, size_t n,
                            struct mll_error *err)
{
    *list = (struct inp_list){0};
    struct walk w = {.list = list, .err = err};
    enum mll_status status = MLL_OK;
    for (size_t i = 0; i < n && status == MLL_OK; i++) {
        struct stat st;
        if (lstat(operands[i], &st) == 0)
            status = add_operand(&w, operands[i]);
        else
            status = add_pattern(&w, operands[i]);
    }
    free(w.seen);
    if (status == MLL_OK)
        status = drop_repeats(list, err);
    return status;
}

void inp_keep_shard(struct inp_list *list, unsigned i, unsigned n)
{
    size_t kept = 0;
    for (size_t k = 0; k < list->n; k++) {
        const struct inp_file *f = &list->files[k];
        uint64_t hash = 14695981039346656037u;
        for (const char *c = f->path + f->relative; *c; c++)
            hash = (hash ^ (unsigned char)*c) * 1099511628211u;
        if (hash % n == i)
            list->files[kept++] = *f;
        else
            free(f->path);
    }
    list->n = kept;
}

void inp_free(struct inp_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->files[i].path);
    free(list->files);
    *list = (struct inp_list){0};
}

enum mll_status inp_read(uint8_t **bytes, size_t *size, const char *path, size_t max,
                         struct mll_error *err)
{
    enum mll_status status = MLL_OK;
    uint8_t *data = NULL;
    /* O_NONBLOCK: opening a FIFO must not wait for its writer */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        bool absent = errno == ENOENT || errno == ENOTDIR || errno == ELOOP;
        status =
            mll_fail(err, absent ? MLL_ERR_NOT_FOUND : MLL_ERR_IO, "%s: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        status = mll_fail(err, MLL_ERR_IO, "%s: not a regular file", path);
        goto done;
    }
    if ((uint64_t)st.st_size > max) {
        status = mll_fail(err, MLL_ERR_IMAGE_TOO_LARGE, "%s: %lld bytes, at most %zu expected",
                          path, (long long)st.st_size, max);
        goto done;
    }
    size_t n = 0, room = (size_t)st.st_size;
    data = malloc(room + 1);
    if (!data) {
        status = mll_fail(err, MLL_ERR_NO_MEMORY, "%s: %zu bytes", path, room);
        goto done;
    }
    while (n < room) {
        ssize_t got = read(fd, data + n, room - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            status = mll_fail(err, MLL_ERR_IO, "%s: %s", path, strerror(errno));
            goto done;
        }
        if (got == 0) /* it shrank meanwhile */
            break;
        n += (size_t)got;
    }
    *bytes = data;
    *size = n;
    data = NULL;
done:
    free(data);
    if (fd >= 0)
        close(fd);
    return status;
}
