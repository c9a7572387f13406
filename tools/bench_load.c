/* bench_load.c - how long a model takes from its files to the first logits.  See bench_model.h. */
#include "bench_model.h"
#include "bench.h"
#include "tool.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Pages of a file that lie in memory, of *all. */
static size_t resident(int fd, size_t bytes, size_t *all)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (bytes + page - 1) / page, count = 0;
    unsigned char *in = malloc(n + 1);
    void *map = bytes ? mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    *all += n;
    if (in && map != MAP_FAILED && mincore(map, bytes, in) == 0)
        for (size_t i = 0; i < n; i++)
            count += in[i] & 1;
    if (map != MAP_FAILED)
        munmap(map, bytes);
    free(in);
    return count;
}

static enum mll_status drop_from_cache(const char *dir, struct mll_error *err)
{
    size_t all = 0, left = 0;
    DIR *d = opendir(dir);
    if (d == NULL)
        return mll_fail(err, MLL_ERR_NOT_FOUND, "cannot read the folder %s", dir);
    for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
        const char *dot = strrchr(entry->d_name, '.');
        struct stat st;
        if (dot == NULL || strcmp(dot, ".safetensors") != 0)
            continue;
        int fd = openat(dirfd(d), entry->d_name, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (fstat(fd, &st) == 0) {
            fdatasync(fd); /* what waits to be written cannot be dropped */
            posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            left += resident(fd, (size_t)st.st_size, &all);
        }
        close(fd);
    }
    closedir(d);
    if (left * 20 <= all)
        return MLL_OK;
    return mll_fail(err, MLL_ERR_IO,
                    "the disk cache keeps %zu of %zu pages of %s: a cold load cannot be measured",
                    left, all, dir);
}

static enum mll_status load_once(const struct mll_options *options, const struct mll_image *image,
                                 struct mll_error *err)
{
    struct mll_engine *engine = NULL;
    struct mll_session *session = NULL;
    struct mll_info info;
    MLL_TRY(mll_open(&engine, options, err));
    mll_engine_info(engine, &info);
    int32_t id = image ? info.image_token : 0;
    enum mll_status status = mll_session_open(&session, engine, err);
    if (status == MLL_OK && image)
        status = mll_session_add_image(session, image, err);
    if (status == MLL_OK)
        status = mll_session_feed(session, &id, 1, err);
    if (status == MLL_OK)
        status = mll_step(engine, &session, 1, NULL, err);
    if (status == MLL_OK && mll_session_logits(session) == NULL)
        status = mll_fail(err, MLL_ERR_INTERNAL, "no logits after loading");
    mll_session_close(session);
    mll_close(engine);
    return status;
}

enum mll_status bench_load(double *times, size_t n, const struct mll_options *options,
                           const struct mll_image *image, bool cold, struct mll_error *err)
{
    if (!cold) /* brings the files into the cache */
        MLL_TRY(load_once(options, image, err));
    for (size_t i = 0; i < n; i++) {
        if (cold)
            MLL_TRY(drop_from_cache(options->model, err));
        if (signals_exit_code())
            return mll_fail(err, MLL_ERR_CANCELLED, "interrupted");
        double start = bench_seconds();
        MLL_TRY(load_once(options, image, err));
        times[i] = bench_seconds() - start;
    }
    return MLL_OK;
}

/* The number behind a name of a file of /proc, KiB in bytes. */
static double proc_bytes(const char *path, const char *format)
{
    double kib = NAN;
    char line[128];
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, format, &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib * 1024;
}

double bench_available_memory(void)
{
    return proc_bytes("/proc/meminfo", "MemAvailable: %lf");
}

double bench_peak_memory(void)
{
    return proc_bytes("/proc/self/status", "VmHWM: %lf");
}

void bench_forget_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "we");
    if (f) {
        fputs("5", f);
        fclose(f);
    }
}
