/* journal.c - append-only JSON lines with a table of what is already there. */
#include "journal.h"

#include "jsonout.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct entry {
    char *key; /* path or base64 of it, '\n', sha256; NULL: a free slot */
    enum jnl_state state;
};

struct jnl {
    int fd;
    bool regular; /* not a pipe or a terminal: these have nothing to continue */
    char *path;
    off_t end;
    time_t synced;
    struct entry *slots; /* (n_slots) open addressing, n_slots a power of two */
    size_t n_slots, n;
};

/* ---- the table ---- */

static size_t slot_of(const struct jnl *j, const char *key)
{
    uint64_t hash = 14695981039346656037u;
    for (const char *c = key; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    size_t i = (size_t)hash & (j->n_slots - 1);
    while (j->slots[i].key && strcmp(j->slots[i].key, key) != 0)
        i = (i + 1) & (j->n_slots - 1);
    return i;
}

static bool grow(struct jnl *j)
{
    struct entry *old = j->slots;
    size_t n_old = j->n_slots;
    if (2 * (j->n + 1) <= n_old)
        return true;
    size_t n_new = n_old ? 2 * n_old : 256;
    struct entry *slots = calloc(n_new, sizeof *slots);
    if (!slots)
        return false;
    j->slots = slots;
    j->n_slots = n_new;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].key)
            slots[slot_of(j, old[i].key)] = old[i];
    free(old);
    return true;
}

/* Takes the key over; the last record of a key counts. */
static bool remember(struct jnl *j, char *key, enum jnl_state state)
{
    if (!key || !grow(j)) {
        free(key);
        return false;
    }
    struct entry *e = &j->slots[slot_of(j, key)];
    if (e->key)
        free(key);
    else
        e->key = key, j->n++;
    e->state = state;
    return true;
}

static char *make_key(const char *name, const char *sha256)
{
    size_t n = strlen(name) + strlen(sha256) + 2;
    char *key = malloc(n);
    if (key)
        snprintf(key, n, "%s\n%s", name, sha256);
    return key;
}

/* The name under which a path is recorded: itself, or base64 where it is not UTF-8. */
static char *recorded_name(const char *path)
{
    if (jw_is_utf8(path))
        return strdup(path);
    struct jw w = {0};
    jw_base64(&w, NULL, path, strlen(path));
    char *name = w.failed ? NULL : strndup(w.data + 1, w.n - 2); /* without the quotes */
    jw_free(&w);
    return name;
}

/* ---- reading what is there ---- */

/* One line of an earlier run; false where it is no record. */
static bool read_line(struct jnl *j, const char *line, size_t n, bool *memory)
{
    json_error_t ignored;
    json_t *record = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &ignored);
    const char *name = json_string_value(json_object_get(record, "file_b64"));
    if (!name)
        name = json_string_value(json_object_get(record, "file"));
    const char *sha = json_string_value(json_object_get(record, "sha256"));
    const char *status = json_string_value(json_object_get(record, "status"));
    bool ok = name && status;
    if (ok)
        *memory = remember(j, make_key(name, sha ? sha : ""),
                           strcmp(status, "ok") == 0 ? JNL_DONE : JNL_FAILED);
    json_decref(record);
    return ok;
}

/* Reads all lines. A last one without its '\n' was torn: it is cut off, if records stand before it
 * or it starts as one; anything else is somebody's file and stays. */
static enum mll_status scan(struct jnl *j, struct mll_error *err)
{
    enum mll_status status = MLL_OK;
    char *line = NULL;
    size_t room = 0, number = 0;
    int copy = dup(j->fd);
    FILE *f = copy >= 0 ? fdopen(copy, "r") : NULL;
    if (!f) {
        if (copy >= 0)
            close(copy);
        return mll_fail(err, MLL_ERR_IO, "%s: %s", j->path, strerror(errno));
    }
    bool memory = true;
    for (ssize_t n; memory && (n = getline(&line, &room, f)) > 0;) {
        number++;
        bool whole = line[n - 1] == '\n';
        if (whole && read_line(j, line, (size_t)n, &memory)) {
            j->end += n;
        } else if (!whole &&
                   (number > 1 || strncmp(line, "{\"file\"", n < 7 ? (size_t)n : 7) == 0)) {
            if (ftruncate(j->fd, j->end) != 0)
                status = mll_fail(err, MLL_ERR_IO, "%s: %s", j->path, strerror(errno));
            break;
        } else {
            status = mll_fail(err, MLL_ERR_IO,
                              "%s: line %zu is no record of extract; it is left as it is: choose "
                              "another file for -o",
                              j->path, number);
            break;
        }
    }
    if (!memory)
        status = mll_fail(err, MLL_ERR_NO_MEMORY, "%s: %zu records", j->path, j->n);
    free(line);
    fclose(f);
    return status;
}

/* ---- open, append, close ---- */

enum mll_status jnl_open(struct jnl **journal, const char *path, struct mll_error *err)
{
    *journal = NULL;
    enum mll_status status = MLL_OK;
    struct jnl *j = calloc(1, sizeof *j);
    if (!j)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "%s", path);
    struct stat st;
    j->path = strdup(path);
    j->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (!j->path || !grow(j)) {
        status = mll_fail(err, MLL_ERR_NO_MEMORY, "%s", path);
        goto failed;
    }
    if (j->fd < 0 || fstat(j->fd, &st) != 0) {
        status = mll_fail(err, MLL_ERR_CANNOT_CREATE, "%s: %s", path, strerror(errno));
        goto failed;
    }
    j->regular = S_ISREG(st.st_mode);
    if (j->regular && flock(j->fd, LOCK_EX | LOCK_NB) != 0) {
        status = errno == EWOULDBLOCK ? mll_fail(err, MLL_ERR_CANNOT_CREATE,
                                                 "%s: another process is writing to it", path)
                                      : mll_fail(err, MLL_ERR_CANNOT_CREATE,
                                                 "%s: cannot lock it: %s", path, strerror(errno));
        goto failed;
    }
    if (j->regular)
        status = scan(j, err);
    if (status != MLL_OK)
        goto failed;
    *journal = j;
    return MLL_OK;
failed:
    jnl_close(j);
    return status;
}

void jnl_close(struct jnl *j)
{
    if (!j)
        return;
    if (j->fd >= 0) {
        if (j->regular)
            fdatasync(j->fd);
        close(j->fd);
    }
    for (size_t i = 0; i < j->n_slots; i++)
        free(j->slots[i].key);
    free(j->slots);
    free(j->path);
    free(j);
}

enum jnl_state jnl_find(const struct jnl *j, const char *path, const char *sha256)
{
    char *name = recorded_name(path);
    char *key = name ? make_key(name, sha256) : NULL;
    const struct entry *e = key ? &j->slots[slot_of(j, key)] : NULL;
    enum jnl_state state = e && e->key ? e->state : JNL_ABSENT;
    free(key);
    free(name);
    return state;
}

size_t jnl_count(const struct jnl *j)
{
    return j->n;
}

enum mll_status jnl_append(struct jnl *j, const char *line, size_t n, struct mll_error *err)
{
    size_t done = 0;
    while (done < n) {
        ssize_t wrote = write(j->fd, line + done, n - done);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0) {
            int why = errno;
            if (j->regular && ftruncate(j->fd, j->end) != 0)
                why = errno;
            return mll_fail(err, MLL_ERR_IO, "%s: %s", j->path, strerror(why));
        }
        done += (size_t)wrote;
    }
    j->end += (off_t)n;
    time_t now = time(NULL);
    if (j->regular && now != j->synced) {
        j->synced = now;
        fdatasync(j->fd);
    }
    return MLL_OK;
}
