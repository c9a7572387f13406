/* cmd_info.c - version, commit, compiler, CPU features, devices, libraries, the embedded model. */
#include "jsonout.h"
#include "ops.h"
#include "tool.h"
#include "version.h"

#include <jansson.h>
#include <png.h>
#include <stdio.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

static const char *cpu_features(char out[128])
{
    int n = snprintf(out, 128, "%s", "");
#if defined(__x86_64__)
    /* __builtin_cpu_supports takes literals only */
#define FEATURE(name)                 \
    if (__builtin_cpu_supports(name)) \
    n += snprintf(out + n, 128 - (size_t)n, "%s%s", n ? " " : "", name)
    FEATURE("avx2");
    FEATURE("fma");
    FEATURE("f16c");
    FEATURE("avx512f");
    FEATURE("avx512bw");
    FEATURE("avx512vl");
    FEATURE("avx512bf16");
#undef FEATURE
#endif
    return n ? out : "none";
}

static int usable_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

/* Each word of the list of architectures. */
static void put_architectures(struct jw *w)
{
    const char *at = exec_cuda_architectures();
    jw_array(w, "cuda_architectures");
    for (size_t n; *at; at += n + (at[n] == ' ')) {
        n = strcspn(at, " ");
        jw_string_n(w, NULL, at, n);
    }
    jw_end(w, ']');
}

static void put_devices(struct jw *w)
{
    struct exec_device device;
    jw_array(w, "devices");
    jw_string(w, NULL, "cpu");
    for (int i = 0; i < exec_cuda_devices(); i++) {
        char text[160];
        if (exec_cuda_device(&device, i, NULL) != MLL_OK)
            continue;
        snprintf(text, sizeof text, "cuda:%d %s", i, device.name);
        jw_string(w, NULL, text);
    }
    jw_end(w, ']');
}

static void print_cuda(void)
{
    struct exec_device device;
    struct mll_error err;
    const char *built_for = exec_cuda_architectures();
    printf("CUDA          %s%s\n", *built_for ? "built for sm " : "not in this build", built_for);
    enum mll_status status = exec_cuda_device(&device, 0, &err);
    if (*built_for && status != MLL_OK)
        printf("devices       cpu; %s\n", err.message);
    else
        printf("devices       cpu\n");
    for (int i = 0; i < exec_cuda_devices(); i++)
        if (exec_cuda_device(&device, i, NULL) == MLL_OK)
            printf("              cuda:%d %s, sm_%d%d, %d multiprocessors, %.1f GiB\n", i,
                   device.name, device.major, device.minor, device.multiprocessors,
                   (double)device.memory / 0x1p30);
}

static void print_json(const char *features, const struct tool_model *model)
{
    struct jw w = {0};
    jw_object(&w, NULL);
    jw_string(&w, "version", MLL_VERSION);
    jw_string(&w, "commit", MLL_COMMIT);
    jw_string(&w, "compiler", COMPILER);
    jw_string(&w, "cpu_features", features);
    jw_int(&w, "cores", usable_cores());
    put_architectures(&w);
    put_devices(&w);
    jw_object(&w, "libraries");
    jw_string(&w, "jansson", JANSSON_VERSION);
    jw_string(&w, "libpng", PNG_LIBPNG_VER_STRING);
    jw_end(&w, '}');
    jw_string(&w, "model", model->path);
    jw_bool(&w, "model_is_embedded", model->embedded);
    jw_end(&w, '}');
    jw_newline(&w);
    if (!w.failed)
        fwrite(w.data, 1, w.n, stdout);
    jw_free(&w);
}

int cmd_info(const struct args *args)
{
    char buffer[128];
    const char *features = cpu_features(buffer);
    struct tool_model model;
    struct mll_error err;
    if (model_resolve(&model, args, &err) != MLL_OK)
        model = (struct tool_model){0};
    if (args->json) {
        print_json(features, &model);
    } else {
        printf("mllama %s (commit %s)\n", MLL_VERSION, MLL_COMMIT);
        printf("compiler      %s\n", COMPILER);
        printf("CPU           %s, %d cores usable\n", features, usable_cores());
        print_cuda();
        printf("libraries     jansson %s, libpng %s\n", JANSSON_VERSION, PNG_LIBPNG_VER_STRING);
        printf("model         %s%s\n", model.path ? model.path : "none found",
               model.embedded ? " (embedded demonstration)" : "");
    }
    model_free(&model);
    return 0;
}
