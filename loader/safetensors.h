/* safetensors.h - a strict reader of the safetensors format in one self-contained C11 header.
 *
 * In exactly one source file:             #define ST_IMPLEMENTATION
 *                                         #include "safetensors.h"
 * Example:
 *     struct st_file *file;
 *     struct st_error err;
 *     if (st_open(&file, "model.safetensors", ST_MODE_MMAP, &err) != ST_OK)
 *         return complain(st_status_name(err.code), err.message);
 *     const struct st_tensor *t = st_find(file, "lm_head.weight");
 *     if (t && t->dtype == ST_DTYPE_BF16 && t->rank == 2)
 *         use(t->data, t->shape[0], t->shape[1]);
 *     st_close(file);
 *
 * A file is accepted whole or refused with one named reason. Enforced: 8 bytes of length; a header
 * of at most 100,000,000 bytes inside the file, valid UTF-8, one JSON object and nothing else;
 * every entry has exactly dtype, shape and data_offsets; sizes are multiplied with overflow checks
 * and equal the offsets' span; sorted by offset the tensors cover the rest of the file without
 * overlap, hole or trailing byte; __metadata__ maps strings to strings. As the reference
 * implementation does, JSON whitespace around the object is accepted. Stricter than it: duplicate
 * names and unknown keys of an entry are refused, names hold no U+0000, and the ST_MAX_ caps below
 * hold. Not promised: alignment of the data (files of old writers have any), finite values.
 *
 * Memory is proportional to the header's own bytes, never to a number that stands in it. Nothing
 * prints; there is no global state. A struct st_file is read-only after st_open, from any thread.
 */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ST_MAX_HEADER  100000000
#define ST_MAX_TENSORS 100000 /* also the cap on pairs of __metadata__ */
#define ST_MAX_RANK    8
#define ST_MAX_NAME    1024                     /* bytes */
#define ST_MAX_DIM     ((INT64_C(1) << 48) - 1) /* also of offsets */

/* Every reason to refuse a file, and what it is called. */
#define ST_STATUS_LIST(X)                                                                      \
    X(OPEN, "open")               /* the file cannot be opened */                              \
    X(NOT_REGULAR, "not_regular") /* a directory, a pipe, a device */                          \
    X(READ, "read")               /* the system failed to read or map */                       \
    X(CHANGED, "changed")         /* the file changed its size while in use */                 \
    X(NO_MEMORY, "no_memory")                                                                  \
    X(HEADER_TOO_SMALL, "header_too_small") /* fewer than 8 bytes */                           \
    X(HEADER_TOO_LARGE, "header_too_large") /* above ST_MAX_HEADER */                          \
    X(HEADER_LENGTH, "header_length")       /* runs past the end of the file */                \
    X(UTF8, "utf8")                                                                            \
    X(NOT_OBJECT, "not_object")       /* the header does not start with an object */           \
    X(JSON, "json")                   /* syntax */                                             \
    X(JSON_TRAILING, "json_trailing") /* something follows the object */                       \
    X(STRING, "string")               /* bad escape or control character */                    \
    X(NAME, "name")                   /* too long, or holds U+0000 */                          \
    X(METADATA, "metadata")           /* not a map of strings */                               \
    X(DUPLICATE_METADATA, "duplicate_metadata")                                                \
    X(DUPLICATE_TENSOR, "duplicate_tensor")                                                    \
    X(TOO_MANY, "too_many_tensors")                                                            \
    X(ENTRY, "entry") /* an entry is no object */                                              \
    X(FIELD_UNKNOWN, "field_unknown")                                                          \
    X(FIELD_DUPLICATE, "field_duplicate")                                                      \
    X(FIELD_MISSING, "field_missing")                                                          \
    X(DTYPE, "dtype")                                                                          \
    X(SHAPE, "shape") /* not an array of integers */                                           \
    X(RANK, "rank")                                                                            \
    X(NUMBER, "number")                     /* negative, fractional or beyond ST_MAX_DIM */    \
    X(OFFSETS, "offsets")                   /* not a pair of integers */                       \
    X(OFFSETS_REVERSED, "offsets_reversed") /* end before begin */                             \
    X(OVERFLOW, "overflow")                 /* the size does not fit 64 bits */                \
    X(SUB_BYTE, "sub_byte")                 /* the size in bits is no whole number of bytes */ \
    X(SPAN, "span")                         /* offsets and shape disagree */                   \
    X(OVERLAP, "overlap")                                                                      \
    X(HOLE, "hole")                                                                            \
    X(DATA_TRUNCATED, "data_truncated") /* the file ends before the last tensor */             \
    X(DATA_TRAILING, "data_trailing")   /* bytes after the last tensor */                      \
    X(CREATE, "create")                 /* writer: the file cannot be created */               \
    X(WRITE, "write")                   /* writer: the system failed to write */

enum st_status {
    ST_OK = 0,
#define X(name, text) ST_ERR_##name,
    ST_STATUS_LIST(X)
#undef X
};

/* Element types with their size in bits. */
/* clang-format off */
#define ST_DTYPE_LIST(X)                                                                           \
    X(BOOL, 8) X(F4, 4) X(F6_E2M3, 6) X(F6_E3M2, 6) X(U8, 8) X(I8, 8) X(F8_E5M2, 8)                \
    X(F8_E4M3, 8) X(F8_E8M0, 8) X(F8_E4M3FNUZ, 8) X(F8_E5M2FNUZ, 8) X(I16, 16) X(U16, 16)          \
    X(F16, 16) X(BF16, 16) X(I32, 32) X(U32, 32) X(F32, 32) X(C64, 64) X(F64, 64) X(I64, 64)       \
    X(U64, 64)
/* clang-format on */

enum st_dtype {
#define X(name, bits) ST_DTYPE_##name,
    ST_DTYPE_LIST(X)
#undef X
        ST_DTYPE_COUNT
};

struct st_error {
    enum st_status code;
    char message[400]; /* one line: tensor, expected, found; without the file's name */
};

struct st_tensor {
    const char *name; /* UTF-8, NUL-terminated */
    enum st_dtype dtype;
    int rank;                   /* 0: a scalar */
    int64_t shape[ST_MAX_RANK]; /* row-major, outermost first; 0 is legal */
    int64_t begin, size;        /* bytes: where in the data area, how many */
    const void *data;           /* any alignment; NULL in ST_MODE_HEADER */
};

struct st_metadata {
    const char *key, *value; /* value may hold U+0000 */
    size_t value_size;
};

enum st_mode {
    ST_MODE_MMAP,   /* data is mapped: opening costs the header only */
    ST_MODE_READ,   /* data is read into memory: safe from later changes of the file */
    ST_MODE_HEADER, /* no data; st_read fetches parts */
};

struct st_file;

/* Follows symbolic links; only regular files. On failure *file is NULL. err may be NULL. */
enum st_status st_open(struct st_file **file, const char *path, enum st_mode mode,
                       struct st_error *err);
/* The same on bytes that the caller keeps until st_close; the header is copied. */
enum st_status st_open_memory(struct st_file **file, const void *bytes, size_t size,
                              struct st_error *err);
void st_close(struct st_file *file); /* NULL allowed; every pointer of file dies with it */

size_t st_count(const struct st_file *file);
/* Tensor i in the order of the data. */
const struct st_tensor *st_at(const struct st_file *file, size_t i);
/* NULL where there is none. Logarithmic time. */
const struct st_tensor *st_find(const struct st_file *file, const char *name);
size_t st_metadata_count(const struct st_file *file);
/* Pair i, sorted by key. */
struct st_metadata st_metadata_at(const struct st_file *file, size_t i);

/* Copies bytes [offset, offset + size) of a tensor; a range outside it is ST_ERR_READ. */
enum st_status st_read(const struct st_file *file, const struct st_tensor *tensor, void *dst,
                       int64_t offset, size_t size, struct st_error *err);
/* ST_ERR_CHANGED where the file no longer has the size it was opened with: touching a mapped page
 * beyond the end would be a SIGBUS. Data in memory (ST_MODE_READ) does not change. */
enum st_status st_check_unchanged(const struct st_file *file, struct st_error *err);

/* Asks the system to read a mapped tensor ahead, for a reader that comes to it next. */
void st_expect(const struct st_file *file, const struct st_tensor *tensor);
/* Gives the memory under a mapped tensor back to the system, for a reader that will not come back
 * soon: read again, the data comes from the file. Nothing where it is not mapped. */
void st_forget(const struct st_file *file, const struct st_tensor *tensor);

const char *st_status_name(enum st_status status); /* "ok", "overlap", ...; never NULL */
const char *st_dtype_name(enum st_dtype dtype);
int st_dtype_bits(enum st_dtype dtype);
/* Bytes of a tensor; ST_ERR_OVERFLOW or ST_ERR_SUB_BYTE where there is no such number. */
enum st_status st_dtype_bytes(int64_t *bytes, enum st_dtype dtype, const int64_t *shape, int rank);
/* Fills err (NULL allowed) and returns code. */
enum st_status st_fail(struct st_error *err, enum st_status code, const char *fmt, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

#define ST_TRY(call)                     \
    do {                                 \
        enum st_status st_try_ = (call); \
        if (st_try_ != ST_OK)            \
            return st_try_;              \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif /* SAFETENSORS_H */

#ifdef ST_IMPLEMENTATION
#undef ST_IMPLEMENTATION

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct st_file {
    int fd;              /* -1: memory of the caller */
    char *header;        /* owned; names and metadata point into it */
    const uint8_t *data; /* the data area, NULL in ST_MODE_HEADER */
    void *map;           /* whole file, or NULL */
    void *buffer;        /* ST_MODE_READ: owned data area */
    uint64_t file_size, data_start;
    struct st_tensor *tensors;      /* by offset */
    const struct st_tensor **names; /* by name */
    size_t n_tensors, cap_tensors;
    struct st_metadata *metadata;
    size_t n_metadata, cap_metadata;
};

/* ---- names and errors ------------------------------------------------------------------------ */

const char *st_status_name(enum st_status status)
{
    static const char *const names[] = {"ok",
#define X(name, text) text,
                                        ST_STATUS_LIST(X)
#undef X
    };
    return (size_t)status < sizeof names / sizeof *names ? names[status] : "unknown";
}

static const struct {
    const char *name;
    int bits;
} st_dtypes[ST_DTYPE_COUNT] = {
#define X(name, bits) {#name, bits},
    ST_DTYPE_LIST(X)
#undef X
};

const char *st_dtype_name(enum st_dtype dtype)
{
    return (unsigned)dtype < ST_DTYPE_COUNT ? st_dtypes[dtype].name : "unknown";
}

int st_dtype_bits(enum st_dtype dtype)
{
    return (unsigned)dtype < ST_DTYPE_COUNT ? st_dtypes[dtype].bits : 0;
}

enum st_status st_fail(struct st_error *err, enum st_status code, const char *fmt, ...)
{
    if (err) {
        err->code = code;
        va_list args;
        va_start(args, fmt);
        vsnprintf(err->message, sizeof err->message, fmt, args);
        va_end(args);
        /* Names come out of the file: the message stays one printable line. */
        for (unsigned char *c = (unsigned char *)err->message; *c; c++)
            if (*c < 0x20 || *c == 0x7f)
                *c = '?';
    }
    return code;
}

/* ---- UTF-8 ----------------------------------------------------------------------------------- */

/* Length of the valid UTF-8 sequence at p, 0 if there is none: no overlong forms, no surrogates,
 * nothing above U+10FFFF. */
static size_t st_utf8_length(const uint8_t *p, const uint8_t *end)
{
    if (*p < 0x80)
        return 1;
    size_t n = *p >= 0xc2 && *p <= 0xdf   ? 2
               : (*p & 0xf0) == 0xe0      ? 3
               : *p >= 0xf0 && *p <= 0xf4 ? 4
                                          : 0;
    if (n == 0 || (size_t)(end - p) < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
        (*p == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

static enum st_status st_check_utf8(const char *text, size_t size, struct st_error *err)
{
    const uint8_t *p = (const uint8_t *)text, *end = p + size;
    while (p < end) {
        size_t n = st_utf8_length(p, end);
        if (n == 0)
            return st_fail(err, ST_ERR_UTF8,
                           "byte %zu of the header: expected UTF-8, found an invalid sequence",
                           (size_t)(p - (const uint8_t *)text));
        p += n;
    }
    return ST_OK;
}

static char *st_utf8_put(char *out, uint32_t c)
{
    if (c < 0x80) {
        *out++ = (char)c;
    } else if (c < 0x800) {
        *out++ = (char)(0xc0 | c >> 6);
        *out++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *out++ = (char)(0xe0 | c >> 12);
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    } else {
        *out++ = (char)(0xf0 | c >> 18);
        *out++ = (char)(0x80 | (c >> 12 & 0x3f));
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    }
    return out;
}

/* ---- JSON: the three levels that a header has, nothing else; no recursion ---------------------
 */

struct st_parser {
    char *start, *p, *end; /* *end is a NUL that belongs to the buffer */
    const char *tensor;    /* whose entry p is in, or NULL */
    struct st_error *err;
};

static void st_skip_space(struct st_parser *ps)
{
    while (ps->p < ps->end && (*ps->p == ' ' || *ps->p == '\t' || *ps->p == '\n' || *ps->p == '\r'))
        ps->p++;
}

/* What stands at p, for messages. */
static const char *st_found(const struct st_parser *ps, char buf[16])
{
    if (ps->p >= ps->end)
        snprintf(buf, 16, "the end");
    else if (*ps->p >= 0x20 && *ps->p < 0x7f)
        snprintf(buf, 16, "'%c'", *ps->p);
    else
        snprintf(buf, 16, "byte 0x%02x", (unsigned)(uint8_t)*ps->p);
    return buf;
}

static enum st_status st_expected(const struct st_parser *ps, enum st_status code, const char *what)
{
    char buf[16];
    size_t at = (size_t)(ps->p - ps->start);
    st_found(ps, buf);
    if (ps->tensor)
        return st_fail(ps->err, code,
                       "tensor '%.200s': byte %zu of the header: expected %s, found %s", ps->tensor,
                       at, what, buf);
    return st_fail(ps->err, code, "byte %zu of the header: expected %s, found %s", at, what, buf);
}

/* Skips whitespace, then takes c if it stands there. */
static bool st_accept(struct st_parser *ps, char c)
{
    st_skip_space(ps);
    if (ps->p >= ps->end || *ps->p != c)
        return false;
    ps->p++;
    return true;
}

/* After a member: true where another follows the comma, false at the closing bracket. */
static enum st_status st_next_member(struct st_parser *ps, char close, bool *more)
{
    *more = st_accept(ps, ',');
    if (*more || st_accept(ps, close))
        return ST_OK;
    return st_expected(ps, ST_ERR_JSON, close == '}' ? "',' or '}'" : "',' or ']'");
}

static bool st_parse_hex4(struct st_parser *ps, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++, ps->p++) {
        char c = ps->p < ps->end ? *ps->p : 0;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return false;
        *out = *out << 4 | (uint32_t)digit;
    }
    return true;
}

/* The scalar of an escape, p behind its backslash. A surrogate must be one of a pair. */
static bool st_parse_escape(struct st_parser *ps, uint32_t *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = ps->p < ps->end ? *ps->p : 0;
    const char *at = c ? strchr(from, c) : NULL;
    if (at) {
        *out = (uint8_t)to[at - from];
        ps->p++;
        return true;
    }
    if (c != 'u')
        return false;
    ps->p++;
    if (!st_parse_hex4(ps, out))
        return false;
    if (*out < 0xd800 || *out > 0xdfff)
        return true;
    uint32_t low;
    if (*out > 0xdbff || ps->end - ps->p < 6 || ps->p[0] != '\\' || ps->p[1] != 'u')
        return false;
    ps->p += 2;
    if (!st_parse_hex4(ps, &low) || low < 0xdc00 || low > 0xdfff)
        return false;
    *out = 0x10000 + ((*out - 0xd800) << 10) + (low - 0xdc00);
    return true;
}

/* Decodes a string in place, where it is never longer than its source, and ends it with a NUL. */
static enum st_status st_parse_string(struct st_parser *ps, char **text, size_t *size)
{
    if (!st_accept(ps, '"'))
        return st_expected(ps, ST_ERR_JSON, "a string");
    char *out = *text = ps->p;
    while (ps->p < ps->end && *ps->p != '"') {
        uint32_t c;
        if ((uint8_t)*ps->p < 0x20)
            return st_expected(ps, ST_ERR_STRING, "no control character in a string");
        if (*ps->p != '\\') {
            *out++ = *ps->p++;
            continue;
        }
        ps->p++;
        if (!st_parse_escape(ps, &c))
            return st_expected(ps, ST_ERR_STRING, "a valid escape");
        out = st_utf8_put(out, c);
    }
    if (ps->p >= ps->end)
        return st_expected(ps, ST_ERR_JSON, "the end of the string");
    ps->p++;
    *size = (size_t)(out - *text);
    *out = 0;
    return ST_OK;
}

/* A non-negative integer up to ST_MAX_DIM. */
static enum st_status st_parse_int(struct st_parser *ps, const char *tensor, int64_t *out)
{
    st_skip_space(ps);
    const char *from = ps->p;
    *out = 0;
    bool ok = ps->p < ps->end && *ps->p >= '0' && *ps->p <= '9';
    for (; ps->p < ps->end && *ps->p >= '0' && *ps->p <= '9'; ps->p++)
        if (*out <= ST_MAX_DIM) /* stays above once it is: no overflow */
            *out = *out * 10 + (*ps->p - '0');
    ok = ok && *out <= ST_MAX_DIM && (*from != '0' || ps->p - from == 1);
    /* the rest of what might be a number or a word, for the message */
    while (ps->p < ps->end && *ps->p && strchr("+-.eE0123456789", *ps->p)) {
        ps->p++;
        ok = false;
    }
    if (ok)
        return ST_OK;
    int shown = ps->p - from < 40 ? (int)(ps->p - from) : 40;
    if (shown == 0)
        return st_expected(ps, ST_ERR_NUMBER, "a non-negative integer");
    return st_fail(ps->err, ST_ERR_NUMBER,
                   "tensor '%.200s': expected an integer from 0 to 2^48 - 1, found %.*s", tensor,
                   shown, from);
}

/* ---- entries --------------------------------------------------------------------------------- */

static enum st_status st_parse_dtype(struct st_parser *ps, struct st_tensor *t)
{
    char *text;
    size_t size;
    st_skip_space(ps);
    if (ps->p >= ps->end || *ps->p != '"')
        return st_expected(ps, ST_ERR_DTYPE, "a dtype as a string");
    ST_TRY(st_parse_string(ps, &text, &size));
    for (int i = 0; i < ST_DTYPE_COUNT; i++)
        if (strlen(st_dtypes[i].name) == size && memcmp(st_dtypes[i].name, text, size) == 0) {
            t->dtype = (enum st_dtype)i;
            return ST_OK;
        }
    return st_fail(ps->err, ST_ERR_DTYPE, "tensor '%.200s': expected a known dtype, found '%.40s'",
                   t->name, text);
}

static enum st_status st_parse_shape(struct st_parser *ps, struct st_tensor *t)
{
    t->rank = 0;
    if (!st_accept(ps, '['))
        return st_expected(ps, ST_ERR_SHAPE, "a shape as an array");
    if (st_accept(ps, ']'))
        return ST_OK;
    for (bool more = true; more;) {
        if (t->rank == ST_MAX_RANK)
            return st_fail(ps->err, ST_ERR_RANK,
                           "tensor '%.200s': expected at most %d dimensions, found more", t->name,
                           ST_MAX_RANK);
        ST_TRY(st_parse_int(ps, t->name, &t->shape[t->rank++]));
        ST_TRY(st_next_member(ps, ']', &more));
    }
    return ST_OK;
}

static enum st_status st_parse_offsets(struct st_parser *ps, struct st_tensor *t)
{
    int64_t end;
    if (!st_accept(ps, '['))
        return st_expected(ps, ST_ERR_OFFSETS, "data_offsets as an array");
    if (st_accept(ps, ']'))
        return st_fail(ps->err, ST_ERR_OFFSETS,
                       "tensor '%.200s': expected 2 data_offsets, found none", t->name);
    ST_TRY(st_parse_int(ps, t->name, &t->begin));
    if (!st_accept(ps, ','))
        return st_expected(ps, ST_ERR_OFFSETS, "the second of 2 data_offsets");
    ST_TRY(st_parse_int(ps, t->name, &end));
    if (!st_accept(ps, ']'))
        return st_expected(ps, ST_ERR_OFFSETS, "']' after 2 data_offsets");
    if (end < t->begin)
        return st_fail(ps->err, ST_ERR_OFFSETS_REVERSED,
                       "tensor '%.200s': expected data_offsets to end at %lld or later, found %lld",
                       t->name, (long long)t->begin, (long long)end);
    t->size = end - t->begin;
    return ST_OK;
}

enum st_status st_dtype_bytes(int64_t *bytes, enum st_dtype dtype, const int64_t *shape, int rank)
{
    /* The reference multiplies in order: an overflow before a zero dimension is one. */
    uint64_t bits = 1, each = (uint64_t)st_dtype_bits(dtype);
    for (int i = 0; i < rank; i++) {
        uint64_t dim = (uint64_t)shape[i];
        if (dim != 0 && bits > UINT64_MAX / dim)
            return ST_ERR_OVERFLOW;
        bits *= dim;
    }
    if (bits > UINT64_MAX / each)
        return ST_ERR_OVERFLOW;
    bits *= each;
    *bytes = (int64_t)(bits / 8);
    return bits % 8 ? ST_ERR_SUB_BYTE : ST_OK;
}

/* "(2, 3)" */
static const char *st_show_shape(char buf[192], const struct st_tensor *t)
{
    int n = snprintf(buf, 192, "(");
    for (int i = 0; i < t->rank; i++)
        n += snprintf(buf + n, 192 - (size_t)n, i ? ", %lld" : "%lld", (long long)t->shape[i]);
    snprintf(buf + n, 192 - (size_t)n, ")");
    return buf;
}

static enum st_status st_check_size(const struct st_tensor *t, struct st_error *err)
{
    char shape[192];
    int64_t bytes;
    enum st_status why = st_dtype_bytes(&bytes, t->dtype, t->shape, t->rank);
    if (why != ST_OK)
        return st_fail(err, why, "tensor '%.120s': expected %s, found %s %s", t->name,
                       why == ST_ERR_OVERFLOW ? "a size that fits 64 bits"
                                              : "a whole number of bytes",
                       st_dtype_name(t->dtype), st_show_shape(shape, t));
    if (bytes != t->size)
        return st_fail(
            err, ST_ERR_SPAN,
            "tensor '%.120s': expected data_offsets to span the %lld bytes of %s %s, found %lld",
            t->name, (long long)bytes, st_dtype_name(t->dtype), st_show_shape(shape, t),
            (long long)t->size);
    return ST_OK;
}

static enum st_status st_parse_entry(struct st_parser *ps, struct st_tensor *t)
{
    static const char *const fields[] = {"dtype", "shape", "data_offsets"};
    unsigned seen = 0;
    if (!st_accept(ps, '{'))
        return st_expected(ps, ST_ERR_ENTRY, "an object for a tensor");
    for (bool more = !st_accept(ps, '}'); more;) {
        char *key;
        size_t size;
        int field = 0;
        ST_TRY(st_parse_string(ps, &key, &size));
        while (field < 3 && (strlen(fields[field]) != size || memcmp(fields[field], key, size)))
            field++;
        if (field == 3)
            return st_fail(ps->err, ST_ERR_FIELD_UNKNOWN,
                           "tensor '%.200s': expected dtype, shape and data_offsets, found '%.60s'",
                           t->name, key);
        if (seen & 1u << field)
            return st_fail(ps->err, ST_ERR_FIELD_DUPLICATE,
                           "tensor '%.200s': expected '%s' once, found it twice", t->name, key);
        seen |= 1u << field;
        if (!st_accept(ps, ':'))
            return st_expected(ps, ST_ERR_JSON, "':'");
        ST_TRY(field == 0   ? st_parse_dtype(ps, t)
               : field == 1 ? st_parse_shape(ps, t)
                            : st_parse_offsets(ps, t));
        ST_TRY(st_next_member(ps, '}', &more));
    }
    for (int i = 0; i < 3; i++)
        if (!(seen & 1u << i))
            return st_fail(ps->err, ST_ERR_FIELD_MISSING,
                           "tensor '%.200s': expected a field '%s', found none", t->name,
                           fields[i]);
    return st_check_size(t, ps->err);
}

/* Room for one more element of an array that doubles. */
static void *st_grow(void *array, size_t n, size_t *cap, size_t each)
{
    if (n < *cap)
        return array;
    size_t want = *cap ? *cap * 2 : 64;
    void *grown = realloc(array, want * each);
    if (grown)
        *cap = want;
    return grown;
}

static enum st_status st_parse_metadata(struct st_file *f, struct st_parser *ps)
{
    if (!st_accept(ps, '{'))
        return st_expected(ps, ST_ERR_METADATA, "an object for __metadata__");
    for (bool more = !st_accept(ps, '}'); more;) {
        struct st_metadata pair;
        char *key, *value, found[16];
        size_t size;
        if (f->n_metadata == ST_MAX_TENSORS)
            return st_fail(ps->err, ST_ERR_TOO_MANY,
                           "expected at most %d pairs in __metadata__, found more", ST_MAX_TENSORS);
        ST_TRY(st_parse_string(ps, &key, &size));
        if (strlen(key) != size)
            return st_fail(ps->err, ST_ERR_NAME,
                           "expected keys of __metadata__ without U+0000, found one");
        if (!st_accept(ps, ':'))
            return st_expected(ps, ST_ERR_JSON, "':'");
        st_skip_space(ps);
        if (ps->p < ps->end && *ps->p != '"')
            return st_fail(ps->err, ST_ERR_METADATA,
                           "__metadata__ '%.200s': expected a string, found %s", key,
                           st_found(ps, found));
        ST_TRY(st_parse_string(ps, &value, &pair.value_size));
        pair.key = key;
        pair.value = value;
        void *grown = st_grow(f->metadata, f->n_metadata, &f->cap_metadata, sizeof pair);
        if (!grown)
            return st_fail(ps->err, ST_ERR_NO_MEMORY, "out of memory");
        f->metadata = (struct st_metadata *)grown;
        f->metadata[f->n_metadata++] = pair;
        ST_TRY(st_next_member(ps, '}', &more));
    }
    return ST_OK;
}

static enum st_status st_parse_tensor(struct st_file *f, struct st_parser *ps, const char *name,
                                      size_t size)
{
    if (size > ST_MAX_NAME || strlen(name) != size)
        return st_fail(
            ps->err, ST_ERR_NAME,
            "tensor '%.60s': expected a name of at most %d bytes without U+0000, found %zu "
            "bytes, %zu before the first",
            name, ST_MAX_NAME, size, strlen(name));
    if (f->n_tensors == ST_MAX_TENSORS)
        return st_fail(ps->err, ST_ERR_TOO_MANY, "expected at most %d tensors, found more",
                       ST_MAX_TENSORS);
    void *grown = st_grow(f->tensors, f->n_tensors, &f->cap_tensors, sizeof *f->tensors);
    if (!grown)
        return st_fail(ps->err, ST_ERR_NO_MEMORY, "out of memory");
    f->tensors = (struct st_tensor *)grown;
    struct st_tensor *t = &f->tensors[f->n_tensors++];
    memset(t, 0, sizeof *t);
    ps->tensor = t->name = name;
    ST_TRY(st_parse_entry(ps, t));
    ps->tensor = NULL;
    return ST_OK;
}

static enum st_status st_parse_header(struct st_file *f, size_t size, struct st_error *err)
{
    struct st_parser ps = {f->header, f->header, f->header + size, NULL, err};
    bool seen_metadata = false;
    ST_TRY(st_check_utf8(f->header, size, err));
    if (!st_accept(&ps, '{'))
        return st_expected(&ps, ST_ERR_NOT_OBJECT, "'{'");
    for (bool more = !st_accept(&ps, '}'); more;) {
        char *name;
        size_t n;
        ST_TRY(st_parse_string(&ps, &name, &n));
        if (!st_accept(&ps, ':'))
            return st_expected(&ps, ST_ERR_JSON, "':'");
        if (n == 12 && memcmp(name, "__metadata__", 12) == 0) {
            if (seen_metadata)
                return st_fail(err, ST_ERR_DUPLICATE_METADATA,
                               "expected __metadata__ once, found it twice");
            seen_metadata = true;
            ST_TRY(st_parse_metadata(f, &ps));
        } else {
            ST_TRY(st_parse_tensor(f, &ps, name, n));
        }
        ST_TRY(st_next_member(&ps, '}', &more));
    }
    st_skip_space(&ps);
    if (ps.p < ps.end)
        return st_expected(&ps, ST_ERR_JSON_TRAILING, "nothing after the object");
    return ST_OK;
}

/* ---- the file as a whole --------------------------------------------------------------------- */

static int st_by_offset(const void *a, const void *b)
{
    const struct st_tensor *x = (const struct st_tensor *)a, *y = (const struct st_tensor *)b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int st_by_name(const void *a, const void *b)
{
    return strcmp((*(const struct st_tensor *const *)a)->name,
                  (*(const struct st_tensor *const *)b)->name);
}

static int st_by_key(const void *a, const void *b)
{
    return strcmp(((const struct st_metadata *)a)->key, ((const struct st_metadata *)b)->key);
}

/* Sorts and finds duplicates. */
static enum st_status st_index_names(struct st_file *f, struct st_error *err)
{
    if (f->n_metadata)
        qsort(f->metadata, f->n_metadata, sizeof *f->metadata, st_by_key);
    for (size_t i = 1; i < f->n_metadata; i++)
        if (strcmp(f->metadata[i - 1].key, f->metadata[i].key) == 0)
            return st_fail(err, ST_ERR_DUPLICATE_METADATA,
                           "__metadata__ '%.200s': expected once, found twice", f->metadata[i].key);
    if (f->n_tensors == 0)
        return ST_OK;
    qsort(f->tensors, f->n_tensors, sizeof *f->tensors, st_by_offset);
    f->names = (const struct st_tensor **)malloc(f->n_tensors * sizeof *f->names);
    if (!f->names)
        return st_fail(err, ST_ERR_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < f->n_tensors; i++)
        f->names[i] = &f->tensors[i];
    qsort(f->names, f->n_tensors, sizeof *f->names, st_by_name);
    for (size_t i = 1; i < f->n_tensors; i++)
        if (strcmp(f->names[i - 1]->name, f->names[i]->name) == 0)
            return st_fail(err, ST_ERR_DUPLICATE_TENSOR,
                           "tensor '%.200s': expected once, found twice", f->names[i]->name);
    return ST_OK;
}

/* The tensors, sorted by offset, must cover the data area exactly. */
static enum st_status st_check_cover(const struct st_file *f, struct st_error *err)
{
    uint64_t have = f->file_size - f->data_start;
    int64_t at = 0;
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct st_tensor *t = &f->tensors[i];
        if (t->begin != at)
            return st_fail(
                err, t->begin < at ? ST_ERR_OVERLAP : ST_ERR_HOLE,
                "tensor '%.200s': expected to begin at %lld, where the one before ends, found "
                "%lld",
                t->name, (long long)at, (long long)t->begin);
        at += t->size;
    }
    if ((uint64_t)at != have)
        return st_fail(err, (uint64_t)at > have ? ST_ERR_DATA_TRUNCATED : ST_ERR_DATA_TRAILING,
                       "expected %lld bytes of tensors after the header, found %llu", (long long)at,
                       (unsigned long long)have);
    return ST_OK;
}

static enum st_status st_pread(const struct st_file *f, void *dst, size_t size, uint64_t offset,
                               struct st_error *err)
{
    char *out = (char *)dst;
    while (size > 0) {
        ssize_t n = pread(f->fd, out, size < 1u << 30 ? size : 1u << 30, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return st_fail(err, ST_ERR_READ, "cannot read: %s", strerror(errno));
        if (n == 0)
            return st_fail(
                err, ST_ERR_CHANGED,
                "expected the whole file, found its end: it became shorter while it was read");
        out += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return ST_OK;
}

/* Reads and checks everything but the data; source NULL: from the descriptor. */
static enum st_status st_load_header(struct st_file *f, const uint8_t *source, struct st_error *err)
{
    uint8_t raw[8];
    uint64_t size = 0;
    if (f->file_size < 8)
        return st_fail(err, ST_ERR_HEADER_TOO_SMALL, "expected at least 8 bytes, found %llu",
                       (unsigned long long)f->file_size);
    if (source)
        memcpy(raw, source, 8);
    else
        ST_TRY(st_pread(f, raw, 8, 0, err));
    for (int i = 7; i >= 0; i--)
        size = size << 8 | raw[i];
    if (size > ST_MAX_HEADER)
        return st_fail(err, ST_ERR_HEADER_TOO_LARGE,
                       "expected a header of at most %d bytes, found a length of %llu",
                       ST_MAX_HEADER, (unsigned long long)size);
    if (size > f->file_size - 8)
        return st_fail(
            err, ST_ERR_HEADER_LENGTH,
            "expected a header of at most the %llu bytes that follow, found a length of %llu",
            (unsigned long long)(f->file_size - 8), (unsigned long long)size);
    f->data_start = 8 + size;
    f->header = (char *)malloc((size_t)size + 1);
    if (!f->header)
        return st_fail(err, ST_ERR_NO_MEMORY, "out of memory");
    if (source)
        memcpy(f->header, source + 8, (size_t)size);
    else
        ST_TRY(st_pread(f, f->header, (size_t)size, 8, err));
    f->header[size] = 0;
    ST_TRY(st_parse_header(f, (size_t)size, err));
    ST_TRY(st_index_names(f, err));
    return st_check_cover(f, err);
}

static enum st_status st_load_data(struct st_file *f, enum st_mode mode, struct st_error *err)
{
    uint64_t size = f->file_size - f->data_start;
    if (f->file_size > SIZE_MAX)
        return st_fail(err, ST_ERR_NO_MEMORY, "the file does not fit the address space");
    if (mode == ST_MODE_READ) {
        f->buffer = malloc(size ? (size_t)size : 1);
        if (!f->buffer)
            return st_fail(err, ST_ERR_NO_MEMORY, "cannot allocate %llu bytes for the tensors",
                           (unsigned long long)size);
        f->data = (const uint8_t *)f->buffer;
        return st_pread(f, f->buffer, (size_t)size, f->data_start, err);
    }
    f->map = mmap(NULL, (size_t)f->file_size, PROT_READ, MAP_PRIVATE, f->fd, 0);
    if (f->map == MAP_FAILED) {
        f->map = NULL;
        return st_fail(err, ST_ERR_READ, "cannot map: %s", strerror(errno));
    }
#ifdef MADV_HUGEPAGE
    /* A wish: weights are read again and again, and large pages spare page table walks. */
    madvise(f->map, (size_t)f->file_size, MADV_HUGEPAGE);
#endif
    f->data = (const uint8_t *)f->map + f->data_start;
    return ST_OK;
}

static enum st_status st_open_file(struct st_file *f, const char *path, enum st_mode mode,
                                   struct st_error *err)
{
    struct stat info;
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (f->fd < 0)
        return st_fail(err, ST_ERR_OPEN, "cannot open: %s", strerror(errno));
    if (fstat(f->fd, &info) != 0)
        return st_fail(err, ST_ERR_READ, "cannot read the size: %s", strerror(errno));
    if (!S_ISREG(info.st_mode))
        return st_fail(err, ST_ERR_NOT_REGULAR, "expected a regular file, found another kind");
    f->file_size = (uint64_t)info.st_size;
    ST_TRY(st_load_header(f, NULL, err));
    return mode == ST_MODE_HEADER ? ST_OK : st_load_data(f, mode, err);
}

static enum st_status st_finish_open(struct st_file **out, struct st_file *f, enum st_status status)
{
    if (status != ST_OK) {
        st_close(f);
        return status;
    }
    for (size_t i = 0; f->data && i < f->n_tensors; i++)
        f->tensors[i].data = f->data + f->tensors[i].begin;
    *out = f;
    return ST_OK;
}

enum st_status st_open(struct st_file **file, const char *path, enum st_mode mode,
                       struct st_error *err)
{
    *file = NULL;
    struct st_file *f = (struct st_file *)calloc(1, sizeof *f);
    if (!f)
        return st_fail(err, ST_ERR_NO_MEMORY, "out of memory");
    return st_finish_open(file, f, st_open_file(f, path, mode, err));
}

enum st_status st_open_memory(struct st_file **file, const void *bytes, size_t size,
                              struct st_error *err)
{
    *file = NULL;
    struct st_file *f = (struct st_file *)calloc(1, sizeof *f);
    if (!f)
        return st_fail(err, ST_ERR_NO_MEMORY, "out of memory");
    f->fd = -1;
    f->file_size = size;
    enum st_status status = st_load_header(f, (const uint8_t *)bytes, err);
    if (status == ST_OK)
        f->data = (const uint8_t *)bytes + f->data_start;
    return st_finish_open(file, f, status);
}

void st_close(struct st_file *file)
{
    if (!file)
        return;
    if (file->map)
        munmap(file->map, (size_t)file->file_size);
    if (file->fd >= 0)
        close(file->fd);
    free(file->buffer);
    free(file->names);
    free(file->tensors);
    free(file->metadata);
    free(file->header);
    free(file);
}

size_t st_count(const struct st_file *file)
{
    return file->n_tensors;
}

const struct st_tensor *st_at(const struct st_file *file, size_t i)
{
    return i < file->n_tensors ? &file->tensors[i] : NULL;
}

const struct st_tensor *st_find(const struct st_file *file, const char *name)
{
    size_t low = 0, high = file->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, file->names[middle]->name);
        if (order == 0)
            return file->names[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

size_t st_metadata_count(const struct st_file *file)
{
    return file->n_metadata;
}

struct st_metadata st_metadata_at(const struct st_file *file, size_t i)
{
    struct st_metadata none = {NULL, NULL, 0};
    return i < file->n_metadata ? file->metadata[i] : none;
}

enum st_status st_read(const struct st_file *file, const struct st_tensor *tensor, void *dst,
                       int64_t offset, size_t size, struct st_error *err)
{
    if (offset < 0 || offset > tensor->size || size > (uint64_t)(tensor->size - offset))
        return st_fail(err, ST_ERR_READ, "tensor '%.200s' has %lld bytes; %zu from %lld asked for",
                       tensor->name, (long long)tensor->size, size, (long long)offset);
    if (file->fd >= 0 && !file->buffer)
        return st_pread(file, dst, size, file->data_start + (uint64_t)(tensor->begin + offset),
                        err);
    memcpy(dst, (const uint8_t *)tensor->data + offset, size);
    return ST_OK;
}

/* The whole pages of a mapped tensor. */
static void st_advise(const struct st_file *file, const struct st_tensor *tensor, int advice)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)tensor->data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)tensor->data + (uintptr_t)tensor->size) / page * page;
    if (file->map && begin < end)
        madvise((void *)begin, end - begin, advice);
}

void st_expect(const struct st_file *file, const struct st_tensor *tensor)
{
    st_advise(file, tensor, MADV_WILLNEED);
}

void st_forget(const struct st_file *file, const struct st_tensor *tensor)
{
    st_advise(file, tensor, MADV_DONTNEED);
}

enum st_status st_check_unchanged(const struct st_file *file, struct st_error *err)
{
    struct stat info;
    if (file->fd < 0 || file->buffer)
        return ST_OK;
    if (fstat(file->fd, &info) != 0)
        return st_fail(err, ST_ERR_READ, "cannot read the size: %s", strerror(errno));
    if ((uint64_t)info.st_size != file->file_size)
        return st_fail(err, ST_ERR_CHANGED,
                       "expected the %llu bytes it had when opened, found %llu",
                       (unsigned long long)file->file_size, (unsigned long long)info.st_size);
    return ST_OK;
}

#endif /* ST_IMPLEMENTATION */
