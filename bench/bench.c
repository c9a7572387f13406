/* bench.c - clock, statistics, memory read.  See bench.h. */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "half.h"
#include "ops.h"
#include "par.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { READ_BLOCK = 256 };

static double seconds_of(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double bench_seconds(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

double bench_thread_seconds(void)
{
    return seconds_of(CLOCK_THREAD_CPUTIME_ID);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct bench_stats bench_stats(double *values, size_t n)
{
    if (n == 0)
        return (struct bench_stats){0};
    qsort(values, n, sizeof *values, by_value);
    return (struct bench_stats){.median = (values[(n - 1) / 2] + values[n / 2]) / 2,
                                .p10 = values[(n - 1) / 10],
                                .p90 = values[(n * 9 + 9) / 10 - 1]};
}

void *bench_weights(size_t bytes, uint64_t seed)
{
    const size_t page = (size_t)2 << 20, rounded = (bytes + page - 1) / page * page;
    uint16_t *data = aligned_alloc(page, rounded);
    if (data == NULL)
        return NULL;
    madvise(data, rounded, MADV_HUGEPAGE);
    /* one page of numbers, repeated: values do not matter, zeros might */
    uint64_t state = seed;
    for (size_t i = 0; i < page / 2; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        data[i] = bf16_from_f32((float)(state >> 40) * 0x1p-23f - 1.0f);
    }
    for (size_t at = page; at < rounded; at += page)
        memcpy((char *)data + at, data, page);
    return data;
}

/* ---- memory read ----------------------------------------------------------------------------- */

/* Adds up all 64-bit words of blocks * READ_BLOCK bytes. */
static uint64_t read_plain(const unsigned char *p, size_t blocks)
{
    uint64_t sum[4] = {0}, word[4];
    for (size_t i = 0; i < blocks * READ_BLOCK; i += sizeof word) {
        memcpy(word, p + i, sizeof word);
        for (int j = 0; j < 4; j++)
            sum[j] += word[j];
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static uint64_t read_avx512(const unsigned char *p,
                                                               size_t blocks)
{
    __m512i sum[4];
    for (int j = 0; j < 4; j++)
        sum[j] = _mm512_setzero_si512();
    for (size_t i = 0; i < blocks; i++, p += READ_BLOCK)
        for (int j = 0; j < 4; j++)
            sum[j] = _mm512_add_epi64(sum[j], _mm512_loadu_si512(p + 64 * j));
    uint64_t lanes[8], all = 0; /* unsigned, which may wrap */
    _mm512_storeu_si512(lanes, _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]),
                                                _mm512_add_epi64(sum[2], sum[3])));
    for (int j = 0; j < 8; j++)
        all += lanes[j];
    return all;
}
#else
static uint64_t read_avx512(const unsigned char *p, size_t blocks)
{
    return read_plain(p, blocks);
}
#endif

struct read_job {
    const unsigned char *data;
    bool avx512;
    uint64_t sums[64]; /* so that the reads are not thrown away */
};

static void read_part(void *arg, size_t begin, size_t end, int thread)
{
    struct read_job *job = arg;
    const unsigned char *p = job->data + begin * READ_BLOCK;
    job->sums[thread % 64] = job->avx512 ? read_avx512(p, end - begin) : read_plain(p, end - begin);
}

double bench_read_gb_s(int threads, const void *data, size_t bytes, double (*clock)(void))
{
    struct read_job job = {.data = data, .avx512 = exec_isa_supported(MLL_ISA_AVX512)};
    size_t blocks = bytes / READ_BLOCK;
    double start = clock();
    par_once(threads, blocks, read_part, &job);
    double seconds = clock() - start;
    volatile uint64_t sink = 0;
    for (int i = 0; i < 64; i++)
        sink += job.sums[i];
    return (double)(blocks * READ_BLOCK) / seconds * 1e-9;
}

struct copy_job {
    unsigned char *to;
    const unsigned char *from;
};

static void copy_part(void *arg, size_t begin, size_t end, int thread)
{
    const struct copy_job *job = arg;
    (void)thread;
    memcpy(job->to + begin * READ_BLOCK, job->from + begin * READ_BLOCK,
           (end - begin) * READ_BLOCK);
}

double bench_copy_gb_s(int threads, void *data, size_t bytes)
{
    size_t blocks = bytes / 2 / READ_BLOCK;
    struct copy_job job = {(unsigned char *)data + blocks * READ_BLOCK, data};
    double start = bench_seconds();
    par_once(threads, blocks, copy_part, &job);
    return 2.0 * (double)(blocks * READ_BLOCK) * 1e-9 / (bench_seconds() - start);
}

/* ---- multiply-adds --------------------------------------------------------------------------- */

enum { FMA_CHAINS = 10, FMA_ROUNDS = 20000000 };

static float fma_plain(void)
{
    float x[FMA_CHAINS] = {0};
    for (int i = 0; i < FMA_ROUNDS / 100; i++)
        for (int j = 0; j < FMA_CHAINS; j++)
            x[j] = fmaf(x[j], 0.5f, 1.0f);
    return x[0] + x[FMA_CHAINS - 1];
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float fma_avx512(void)
{
    __m512 x[FMA_CHAINS], half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
    for (int j = 0; j < FMA_CHAINS; j++)
        x[j] = _mm512_set1_ps((float)j);
    for (int i = 0; i < FMA_ROUNDS; i++)
        for (int j = 0; j < FMA_CHAINS; j++)
            x[j] = _mm512_fmadd_ps(x[j], half, one);
    for (int j = 1; j < FMA_CHAINS; j++)
        x[0] = _mm512_add_ps(x[0], x[j]);
    return _mm512_reduce_add_ps(x[0]);
}

__attribute__((target("avx512f,avx512bf16"))) static float dot_bf16(void)
{
    __m512 x[FMA_CHAINS];
    __m512bh tiny = (__m512bh)_mm512_set1_epi32(0x20002000); /* squares far below one */
    for (int j = 0; j < FMA_CHAINS; j++)
        x[j] = _mm512_set1_ps((float)j);
    for (int i = 0; i < FMA_ROUNDS; i++)
        for (int j = 0; j < FMA_CHAINS; j++)
            x[j] = _mm512_dpbf16_ps(x[j], tiny, tiny);
    for (int j = 1; j < FMA_CHAINS; j++)
        x[0] = _mm512_add_ps(x[0], x[j]);
    return _mm512_reduce_add_ps(x[0]);
}

__attribute__((target("avx512f,avx512vnni"))) static float dot_int8(void)
{
    __m512i x[FMA_CHAINS], ones = _mm512_set1_epi32(0x01010101);
    for (int j = 0; j < FMA_CHAINS; j++)
        x[j] = _mm512_set1_epi32(j);
    for (int i = 0; i < FMA_ROUNDS; i++)
        for (int j = 0; j < FMA_CHAINS; j++)
            x[j] = _mm512_dpbusd_epi32(x[j], ones, ones);
    for (int j = 1; j < FMA_CHAINS; j++)
        x[0] = _mm512_add_epi32(x[0], x[j]);
    return (float)_mm512_reduce_add_epi32(x[0]);
}

static bool has_dot(enum mll_compute compute)
{
    if (compute == MLL_COMPUTE_BF16)
        return __builtin_cpu_supports("avx512bf16");
    return compute == MLL_COMPUTE_INT8 && __builtin_cpu_supports("avx512vnni");
}
#else
static float fma_avx512(void)
{
    return fma_plain();
}

static float dot_bf16(void)
{
    return fma_plain();
}

static float dot_int8(void)
{
    return fma_plain();
}

static bool has_dot(enum mll_compute compute)
{
    (void)compute;
    return false;
}
#endif

static void fma_part(void *arg, size_t begin, size_t end, int thread)
{
    float (*const *run)(void) = arg;
    volatile float sink = 0;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        sink += (*run)();
}

double bench_fma_tflop_s(int threads, enum mll_compute compute)
{
    bool avx512 = exec_isa_supported(MLL_ISA_AVX512), dot = avx512 && has_dot(compute);
    bool int8 = compute == MLL_COMPUTE_INT8;
    float (*run)(void) = dot && int8 ? dot_int8 : dot ? dot_bf16 : avx512 ? fma_avx512 : fma_plain;
    double lanes = !dot ? 16 : int8 ? 64 : 32;
    double start = bench_seconds();
    par_once(threads, (size_t)threads, fma_part, &run);
    double operations = 2.0 * FMA_CHAINS * (avx512 ? lanes * FMA_ROUNDS : FMA_ROUNDS / 100);
    return operations * threads * 1e-12 / (bench_seconds() - start);
}

double bench_clock_ghz(void)
{
    enum { TRIES = 5, ADDS = 4000000 };
    double best = 0;
    for (int t = 0; t < TRIES; t++) {
        uint64_t x = 1;
        double start = bench_thread_seconds();
        for (int i = 0; i < ADDS; i += 8) {
            for (int j = 0; j < 8; j++) {
                x += (uint64_t)i;
                __asm__ volatile("" : "+r"(x)); /* so that the additions stay, one by one */
            }
        }
        double ghz = ADDS * 1e-9 / (bench_thread_seconds() - start);
        best = ghz > best ? ghz : best;
    }
    return best;
}
