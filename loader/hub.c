#include "hub.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_NAME 96 /* as the hub allows */

static bool is_set(const char *value)
{
    return value && value[0];
}

enum mll_status hub_directory(char *out, size_t cap, const char *hub_cache, const char *hf_home,
                              const char *xdg_cache, const char *home, struct mll_error *err)
{
    const char *base = is_set(hub_cache)   ? hub_cache
                       : is_set(hf_home)   ? hf_home
                       : is_set(xdg_cache) ? xdg_cache
                                           : home;
    const char *below = is_set(hub_cache)   ? ""
                        : is_set(hf_home)   ? "/hub"
                        : is_set(xdg_cache) ? "/huggingface/hub"
                                            : "/.cache/huggingface/hub";
    if (!is_set(base) || snprintf(out, cap, "%s%s", base, below) >= (int)cap)
        return mll_fail(err, MLL_ERR_CACHE_NOT_FOUND,
                        "expected HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME or HOME to name the "
                        "Hugging Face cache");
    return MLL_OK;
}

/* Letters, digits, '-', '_' and '.', not starting with a dot. */
static bool is_part(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && (s[i] == 0 || !strchr("-_.", s[i])))
            return false;
    return n > 0 && n <= MAX_NAME && s[0] != '.';
}

/* A branch, a tag or a commit: parts divided by '/'. */
static bool is_revision(const char *s)
{
    for (;;) {
        size_t n = strcspn(s, "/");
        if (!is_part(s, n))
            return false;
        if (s[n] == 0)
            return true;
        s += n + 1;
    }
}

bool hub_is_name(const char *model)
{
    size_t org = strcspn(model, "/");
    if (model[org] == 0)
        return false;
    const char *name = model + org + 1;
    size_t n = strcspn(name, "@");
    return is_part(model, org) && is_part(name, n) && (name[n] == 0 || is_revision(name + n + 1));
}

static bool is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* The commit that a reference file holds; false where there is none. */
static bool read_commit(char commit[65], const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, commit, 64);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return false;
    commit[n] = 0;
    size_t digits = strspn(commit, "0123456789abcdef");
    commit[strcspn(commit, " \r\n")] = 0;
    return digits >= 1 && digits == strlen(commit);
}

enum mll_status hub_resolve(char *out, size_t cap, const char *model, const char *hub_dir,
                            struct mll_error *err)
{
    if (!hub_is_name(model))
        return mll_fail(err, MLL_ERR_CACHE_NAME,
                        "'%.200s': expected a directory or ORG/NAME[@REVISION]", model);
    char repo[4096], path[8192], commit[65] = "";
    int org = (int)strcspn(model, "/");
    const char *name = model + org + 1, *at = strchr(name, '@');
    const char *revision = at ? at + 1 : "main";
    int n = (int)strcspn(name, "@");
    if (snprintf(repo, sizeof repo, "%s/models--%.*s--%.*s", hub_dir, org, model, n, name) >=
            (int)sizeof repo ||
        !is_directory(repo))
        return mll_fail(err, MLL_ERR_CACHE_NOT_FOUND,
                        "%.*s/%.*s: expected in the Hugging Face cache %.300s, found none", org,
                        model, n, name, hub_dir);
    snprintf(path, sizeof path, "%s/refs/%.1000s", repo, revision);
    bool named = read_commit(commit, path);
    snprintf(path, sizeof path, "%s/snapshots/%.1000s", repo, named ? commit : revision);
    if (!is_directory(path))
        return mll_fail(err, MLL_ERR_CACHE_NOT_FOUND,
                        "%.150s: expected revision %.100s in %.200s, found no %s", model, revision,
                        repo, named ? "snapshot of its commit" : "such reference or commit");
    if (snprintf(out, cap, "%s", path) >= (int)cap)
        return mll_fail(err, MLL_ERR_CACHE_NOT_FOUND, "%.300s: the path is too long", path);
    return MLL_OK;
}
