/* test_safetensors.c - the header on its own: what is accepted, the three modes, lookup, the
 * writer, damage at every byte, memory that runs out at every allocation. What is refused, and with
 * which status, is in tests/errors. Links nothing of the project: the header promises to need none.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Allocations left before one fails; negative: none fails. */
static long allocations_left = -1;

static bool may_allocate(void)
{
    return allocations_left < 0 || allocations_left-- > 0;
}

#define malloc(n)     (may_allocate() ? malloc(n) : NULL)
#define calloc(n, m)  (may_allocate() ? calloc(n, m) : NULL)
#define realloc(p, n) (may_allocate() ? realloc(p, n) : NULL)
#define strdup(s)     (may_allocate() ? strdup(s) : NULL)
#define strndup(s, n) (may_allocate() ? strndup(s, n) : NULL)
#define ST_IMPLEMENTATION
#define ST_WRITE_IMPLEMENTATION
#include "safetensors_write.h"
#undef malloc
#undef calloc
#undef realloc
#undef strdup
#undef strndup

#include <criterion/criterion.h>

#define ENTRY(dtype, shape, offsets) \
    "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"

struct bytes {
    uint8_t *data;
    size_t size;
};

/* A file of a header and n data bytes 0, 1, 2, ... */
static struct bytes compose(const char *header, size_t n)
{
    size_t size = strlen(header);
    struct bytes b = {calloc(1, 8 + size + n), 8 + size + n};
    for (int i = 0; i < 8; i++)
        b.data[i] = (uint8_t)(size >> (8 * i));
    memcpy(b.data + 8, header, size);
    for (size_t i = 0; i < n; i++)
        b.data[8 + size + i] = (uint8_t)i;
    return b;
}

static const char sample[] =
    " {\"__metadata__\":{\"format\":\"pt\",\"a\":\"\\u00e4\"}, \"b\":" ENTRY(
        "F32", "2,1", "2,10") ",\n\t\"a\\\\\\u0041\\ud83d\\ude00\": "
                              "{\"shape\":[],\"data_offsets\":[0,2],\"dtype\":\"BF16\"},"
                              "\"empty\":" ENTRY("I64", "3,0", "10,10") "}   ";

Test(safetensors, legal_files)
{
    static const struct {
        const char *header;
        size_t data, count;
    } cases[] = {
        {"{}", 0, 0},
        {"  {} \r\n\t", 0, 0},
        {"{\"__metadata__\":{}}", 0, 0},
        {"{\"a\":" ENTRY("U8", "0", "0,0") "}", 0, 1},
        {"{\"a\":" ENTRY("F4", "2", "0,1") "}", 1, 1},
        {"{\"a\":" ENTRY("F6_E2M3", "4", "0,3") "}", 3, 1},
        {"{\"\":" ENTRY("C64", "1,1,1,1,1,1,1,1", "0,8") "}", 8, 1},
        {"{\"a\":" ENTRY("U8", "0,281474976710655", "0,0") ",\"b\":" ENTRY("U8", "1", "0,1") "}", 1,
         2},
        {"{\"later\":" ENTRY("U8", "1", "1,2") ",\"first\":" ENTRY("U8", "1", "0,1") "}", 2, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct st_file *f;
        struct st_error err = {0};
        struct bytes b = compose(cases[i].header, cases[i].data);
        cr_assert_eq(st_open_memory(&f, b.data, b.size, &err), ST_OK, "%s: %s", cases[i].header,
                     err.message);
        cr_expect_eq(st_count(f), cases[i].count);
        st_close(f);
        free(b.data);
    }
}

static void expect_sample(const struct st_file *f, bool data)
{
    const struct st_tensor *a = st_find(f, "a\\A\xf0\x9f\x98\x80"), *b = st_find(f, "b");
    cr_assert(a && b && st_count(f) == 3);
    cr_expect(a->rank == 0 && a->dtype == ST_DTYPE_BF16 && a->size == 2);
    cr_expect(b->rank == 2 && b->shape[0] == 2 && b->shape[1] == 1 && b->begin == 2);
    cr_expect_eq(st_at(f, 0), a, "tensors stand in the order of the data");
    cr_expect_null(st_at(f, 3));
    cr_expect_null(st_find(f, "a"), "a prefix is no name");
    cr_expect_null(st_find(f, "bb"));
    cr_expect_eq(b->data != NULL, data);
    uint8_t bytes[8];
    cr_expect_eq(st_read(f, b, bytes, 1, 7, NULL), ST_OK);
    cr_expect_arr_eq(bytes, "\3\4\5\6\7\10\11", 7);
    cr_expect_eq(st_read(f, b, bytes, 1, 8, NULL), ST_ERR_READ, "past the tensor's end");
    cr_expect_eq(st_read(f, b, bytes, -1, 1, NULL), ST_ERR_READ);
    if (data)
        cr_expect_arr_eq(b->data, "\2\3\4\5\6\7\10\11", 8);
    cr_assert_eq(st_metadata_count(f), 2);
    cr_expect_str_eq(st_metadata_at(f, 0).key, "a");
    cr_expect_str_eq(st_metadata_at(f, 0).value, "\xc3\xa4");
    cr_expect_null(st_metadata_at(f, 2).key);
}

Test(safetensors, every_mode_shows_the_same)
{
    char path[] = "/tmp/mllama-st-XXXXXX";
    struct bytes b = compose(sample, 10);
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, b.data, b.size) == (ssize_t)b.size);
    for (enum st_mode mode = ST_MODE_MMAP; mode <= ST_MODE_HEADER; mode++) {
        struct st_file *f;
        cr_assert_eq(st_open(&f, path, mode, NULL), ST_OK);
        expect_sample(f, mode != ST_MODE_HEADER);
        cr_expect_eq(st_check_unchanged(f, NULL), ST_OK);
        st_close(f);
    }
    struct st_file *f;
    cr_assert_eq(st_open_memory(&f, b.data, b.size, NULL), ST_OK);
    expect_sample(f, true);
    st_close(f);
    close(fd);
    unlink(path);
    free(b.data);
}

Test(safetensors, special_files_are_refused_without_waiting)
{
    char dir[] = "/tmp/mllama-st-XXXXXX", fifo[64];
    struct st_file *f;
    cr_assert_not_null(mkdtemp(dir));
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    cr_assert_eq(mkfifo(fifo, 0600), 0);
    cr_expect_eq(st_open(&f, fifo, ST_MODE_MMAP, NULL), ST_ERR_NOT_REGULAR);
    cr_expect_eq(st_open(&f, dir, ST_MODE_MMAP, NULL), ST_ERR_NOT_REGULAR);
    cr_expect_eq(st_open(&f, "/dev/zero", ST_MODE_READ, NULL), ST_ERR_NOT_REGULAR);
    cr_expect_eq(st_open(&f, "/nonexistent", ST_MODE_MMAP, NULL), ST_ERR_OPEN);
    cr_expect_null(f);
    unlink(fifo);
    rmdir(dir);
}

/* The buffer ends where the file does, so that reading past it is seen by the sanitizer. */
static enum st_status open_copy(const uint8_t *data, size_t size)
{
    struct st_file *f;
    uint8_t *exact = malloc(size ? size : 1);
    memcpy(exact, data, size);
    enum st_status status = st_open_memory(&f, exact, size, NULL);
    st_close(f);
    free(exact);
    return status;
}

Test(safetensors, damage_at_every_byte_is_survived)
{
    struct bytes b = compose(sample, 10);
    for (size_t n = 0; n < b.size; n++)
        cr_expect_neq(open_copy(b.data, n), ST_OK, "cut after %zu bytes", n);
    size_t accepted = 0;
    for (size_t i = 0; i < b.size; i++) {
        for (int bit = 0; bit < 8; bit++) {
            b.data[i] ^= (uint8_t)(1u << bit);
            accepted += open_copy(b.data, b.size) == ST_OK;
            b.data[i] ^= (uint8_t)(1u << bit);
        }
    }
    cr_expect_gt(accepted, 0, "a flipped letter of a name is still a name");
    cr_expect_eq(open_copy(b.data, b.size), ST_OK);
    free(b.data);
}

Test(safetensors, memory_that_runs_out_is_an_error)
{
    struct bytes b = compose(sample, 10);
    struct st_file *f = NULL;
    enum st_status status = ST_ERR_NO_MEMORY;
    long n = 0;
    for (; status != ST_OK && n < 100; n++) {
        allocations_left = n;
        status = st_open_memory(&f, b.data, b.size, NULL);
        allocations_left = -1;
        cr_expect(status == ST_OK || (status == ST_ERR_NO_MEMORY && !f));
    }
    cr_expect(n > 3 && status == ST_OK, "%ld allocations", n);
    st_close(f);
    free(b.data);
}

/* A header near the cap must stay quick and small: 100,000 names of about 900 bytes. */
Test(safetensors, a_header_of_100_megabytes_is_read_quickly, .timeout = 60)
{
    size_t cap = 100000000, n = 1;
    char *text = malloc(cap + 1), filler[901];
    memset(filler, 'x', 900);
    filler[900] = 0;
    text[0] = '{';
    for (int i = 0; i < 100000; i++)
        n += (size_t)snprintf(text + n, cap - n, "%s\"%s%d\":" ENTRY("U8", "", "%d,%d"),
                              i ? "," : "", filler, i, i, i + 1);
    text[n++] = '}';
    text[n] = 0;
    struct bytes b = compose(text, 100000);
    free(text);
    struct st_file *f;
    struct st_error err;
    cr_assert_eq(st_open_memory(&f, b.data, b.size, &err), ST_OK, "%s", err.message);
    cr_expect_eq(st_count(f), 100000);
    st_close(f);
    free(b.data);
}

/* ---- the writer ------------------------------------------------------------------------------ */

static const struct st_spec specs[] = {{"z\"\\\n", ST_DTYPE_U8, 1, {3}},
                                       {"logits", ST_DTYPE_F32, 2, {1, 2}},
                                       {"ids", ST_DTYPE_I64, 1, {1}},
                                       {"a", ST_DTYPE_BF16, 0, {0}},
                                       {"none", ST_DTYPE_F32, 1, {0}}};
static const struct st_metadata pairs[] = {{"k", "2", 1}, {"format", "pt", 2}};

static enum st_status write_sample(const char *path, const int *order, struct st_error *err)
{
    struct st_spec permuted[5];
    struct st_writer *w;
    for (int i = 0; i < 5; i++)
        permuted[i] = specs[order[i]];
    ST_TRY(st_create(&w, path, permuted, 5, pairs, 2, err));
    for (int i = 0; i < 5; i++) {
        static const uint8_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        static const size_t sizes[] = {3, 8, 8, 2, 0};
        enum st_status status = st_put(w, (size_t)i, data, 0, sizes[order[i]], err);
        if (status != ST_OK) {
            st_abort(w);
            return status;
        }
    }
    return st_finish(w, err);
}

static struct bytes slurp(const char *path)
{
    struct stat info;
    cr_assert_eq(stat(path, &info), 0);
    struct bytes b = {malloc((size_t)info.st_size), (size_t)info.st_size};
    FILE *in = fopen(path, "rb");
    cr_assert_eq(fread(b.data, 1, b.size, in), b.size);
    fclose(in);
    return b;
}

Test(safetensors, written_bytes_do_not_depend_on_the_order_of_the_specs)
{
    static const int orders[2][5] = {{0, 1, 2, 3, 4}, {4, 2, 0, 3, 1}};
    char dir[] = "/tmp/mllama-st-XXXXXX", path[64];
    struct bytes b[2];
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/out", dir);
    for (int i = 0; i < 2; i++) {
        struct st_error err = {0};
        cr_assert_eq(write_sample(path, orders[i], &err), ST_OK, "%s", err.message);
        b[i] = slurp(path); /* the second replaces the first */
    }
    cr_expect(b[0].size == b[1].size && memcmp(b[0].data, b[1].data, b[0].size) == 0);
    struct st_file *f;
    cr_assert_eq(st_open(&f, path, ST_MODE_MMAP, NULL), ST_OK);
    cr_expect_eq(st_count(f), 5);
    for (size_t i = 0; i < 5; i++) {
        const struct st_tensor *t = st_at(f, i);
        cr_expect_eq((uintptr_t)t->data % ((size_t)st_dtype_bits(t->dtype) / 8), 0, "%s", t->name);
    }
    cr_expect_arr_eq(st_find(f, "z\"\\\n")->data, "\1\2\3", 3);
    cr_expect_str_eq(st_metadata_at(f, 1).value, "2");
    st_close(f);
    free(b[0].data);
    free(b[1].data);
    unlink(path);
    cr_expect_eq(rmdir(dir), 0, "no temporary file is left");
}

Test(safetensors, the_writer_refuses_what_the_reader_would)
{
    struct st_writer *w;
    struct st_spec twice[] = {specs[1], specs[1]}, odd = {"a", ST_DTYPE_F4, 1, {3}},
                   bad = {"\xff", ST_DTYPE_U8, 1, {1}};
    cr_expect_eq(st_create(&w, "/tmp/x", twice, 2, NULL, 0, NULL), ST_ERR_DUPLICATE_TENSOR);
    cr_expect_eq(st_create(&w, "/tmp/x", &odd, 1, NULL, 0, NULL), ST_ERR_SUB_BYTE);
    cr_expect_eq(st_create(&w, "/tmp/x", &bad, 1, NULL, 0, NULL), ST_ERR_UTF8);
    cr_expect_eq(st_create(&w, "/nonexistent/x", specs, 5, NULL, 0, NULL), ST_ERR_CREATE);
    cr_expect_eq(st_create(&w, "/dev/null", specs, 5, NULL, 0, NULL), ST_ERR_CREATE);
    cr_expect_null(w);
}
