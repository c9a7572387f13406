/* st_list.c - lists the tensors of safetensors files: safetensors.h used alone.
 *
 *     cc -std=c11 -D_GNU_SOURCE -Iloader examples/st_list.c -o st_list
 *     ./st_list model.safetensors        one line a tensor
 *     ./st_list -q a b c                 one line a file: accepted, or the reason why not */
#define ST_IMPLEMENTATION
#include "safetensors.h"

static void list(const struct st_file *file)
{
    for (size_t i = 0; i < st_metadata_count(file); i++)
        printf("# %s: %s\n", st_metadata_at(file, i).key, st_metadata_at(file, i).value);
    for (size_t i = 0; i < st_count(file); i++) {
        const struct st_tensor *t = st_at(file, i);
        printf("%s %s (", t->name, st_dtype_name(t->dtype));
        for (int d = 0; d < t->rank; d++)
            printf(d ? ", %lld" : "%lld", (long long)t->shape[d]);
        printf(") %lld bytes\n", (long long)t->size);
    }
}

int main(int argc, char **argv)
{
    int refused = 0, quiet = argc > 1 && strcmp(argv[1], "-q") == 0;
    for (int i = 1 + quiet; i < argc; i++) {
        struct st_file *file;
        struct st_error err;
        if (st_open(&file, argv[i], quiet ? ST_MODE_HEADER : ST_MODE_MMAP, &err) != ST_OK) {
            printf("%s: %s: %s\n", argv[i], st_status_name(err.code), err.message);
            refused = 1;
        } else if (quiet) {
            printf("%s: ok: %zu tensors\n", argv[i], st_count(file));
        } else {
            list(file);
        }
        st_close(file);
    }
    return refused;
}
