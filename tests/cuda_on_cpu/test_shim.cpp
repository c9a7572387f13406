/* test_shim.cpp - the shim itself: collectives and tensor cores against their definitions, streams
 * and graphs against CUDA's promises, and deliberate bugs, each of which must be noticed. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>

#include "sanitized.h"
#include "shim.h"
#include "shim_control.h"

static const unsigned ALL = 0xffffffffu;

template <class T> static T *device(size_t n)
{
    T *p;
    cr_assert_eq(cudaMalloc(&p, n * sizeof(T)), cudaSuccess);
    return p;
}

template <class T> static T *to_device(const T *x, size_t n)
{
    T *p = device<T>(n);
    cr_assert_eq(cudaMemcpy(p, x, n * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
    return p;
}

template <class T> static void to_host(T *x, const T *p, size_t n)
{
    cr_assert_eq(cudaMemcpy(x, p, n * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
}

/* Runs body under every order of threads. */
template <class F> static void in_every_order(F body)
{
    for (uint64_t seed = 0; seed < 6; seed++) {
        enum shim_order order = seed < 2 ? (enum shim_order)seed : SHIM_RANDOM;
        shim_schedule(order, seed);
        body();
    }
    shim_schedule(SHIM_ASCENDING, 0);
}

/* ---- collectives ----------------------------------------------------------------------------- */

static __global__ void collectives(int *y)
{
    int t = (int)threadIdx.x, lane = t % 32, *mine = y + t * 12;
    mine[0] = __shfl_sync(ALL, t, 5);
    mine[1] = __shfl_xor_sync(ALL, t, 3);
    mine[2] = __shfl_down_sync(ALL, t, 4);
    mine[3] = __shfl_up_sync(ALL, t, 4);
    mine[4] = __shfl_sync(ALL, t, 1, 8);
    mine[5] = __shfl_down_sync(ALL, t, 3, 8);
    mine[6] = (int)__ballot_sync(ALL, lane % 3 == 0);
    mine[7] = __any_sync(ALL, lane == 9) + 2 * __all_sync(ALL, lane < 32);
    mine[8] = lane < 16 ? __shfl_xor_sync(0x0000ffffu, t, 1) : __shfl_xor_sync(0xffff0000u, t, 2);
    mine[9] = __syncthreads_count(t % 2);
    mine[10] = __syncthreads_and(t >= 0) + 2 * __syncthreads_or(t == 70);
    mine[11] = (int)(__shfl_sync(ALL, (long long)t << 32, 7) >> 32);
}

Test(shim, collectives_do_what_their_names_say)
{
    enum { N = 96 };
    int *y = device<int>(N * 12);
    in_every_order([&] {
        LAUNCH(collectives, 1, N, 0, NULL, y);
        static int x[N * 12];
        to_host(x, y, N * 12);
        for (int t = 0; t < N; t++) {
            int w = t / 32 * 32, lane = t % 32, *mine = x + t * 12;
            int expected[12] = {w + 5,
                                t ^ 3,
                                lane < 28 ? t + 4 : t,
                                lane < 4 ? t : t - 4,
                                t / 8 * 8 + 1,
                                t % 8 < 5 ? t + 3 : t,
                                (int)0x49249249,
                                3,
                                lane < 16 ? t ^ 1 : t ^ 2,
                                N / 2,
                                3,
                                w + 7};
            for (int i = 0; i < 12; i++)
                cr_assert_eq(mine[i], expected[i], "thread %d, %d: %d", t, i, mine[i]);
        }
    });
    cudaFree(y);
}

static __global__ void block_sums(float *y, const float *x, int n)
{
    SHARED(float, part, [4]);
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    float v = i < n ? x[i] : 0;
    for (int o = 16; o > 0; o >>= 1)
        v += __shfl_xor_sync(ALL, v, o);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x == 0)
        y[blockIdx.x] = part[0] + part[1] + part[2] + part[3];
}

Test(shim, a_reduction_over_blocks_and_warps)
{
    float x[1000], y[8], *dx, *dy = device<float>(8);
    for (int i = 0; i < 1000; i++)
        x[i] = (float)i;
    dx = to_device(x, 1000);
    in_every_order([&] {
        LAUNCH(block_sums, 8, 128, 0, NULL, dy, dx, 1000);
        to_host(y, dy, 8);
        float sum = 0;
        for (int i = 0; i < 8; i++)
            sum += y[i];
        cr_assert_eq(sum, 499500.0f);
    });
    cudaFree(dx);
    cudaFree(dy);
}

static __global__ void adds(unsigned *sum, unsigned long long *least)
{
    atomicAdd(sum, threadIdx.x);
    atomicMin(least, 1000ull - blockIdx.x);
    atomicMax(sum + 1, blockIdx.y);
}

Test(shim, integer_atomics)
{
    unsigned zero[2] = {0, 0}, sum[2], *dsum = to_device(zero, 2);
    unsigned long long least, *dleast = device<unsigned long long>(1);
    LAUNCH(adds, dim3(3, 5), 64, 0, NULL, dsum, dleast);
    to_host(sum, dsum, 2);
    to_host(&least, dleast, 1);
    cr_expect_eq(sum[0], 15u * 63 * 32);
    cr_expect_eq(sum[1], 4u);
    cr_expect_eq(least, 998u);
    cudaFree(dsum);
    cudaFree(dleast);
}

/* ---- halves and tensor cores ----------------------------------------------------------------- */

static double half_value(uint16_t bits)
{
    return (double)__half2float(__ushort_as_half(bits));
}

/* Against the two neighbours: the distance to the exact value may not be larger, and at a tie the
 * result is even. The exact value fits long double but where it cannot matter. */
Test(shim, a_fused_multiply_add_rounds_once)
{
    uint64_t state = 1;
    int n = 0;
    while (n < 200000) {
        uint16_t h[3];
        for (int i = 0; i < 3; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            h[i] = (uint16_t)(state >> 40);
        }
        long double exact = (long double)half_value(h[0]) * half_value(h[1]) + half_value(h[2]);
        if (!(fabsl(exact) < 60000.0L))
            continue;
        n++;
        uint16_t r = __half_as_ushort(
            __hfma(__ushort_as_half(h[0]), __ushort_as_half(h[1]), __ushort_as_half(h[2])));
        long double off = fabsl((long double)half_value(r) - exact);
        uint16_t away = (uint16_t)(r + 1),
                 toward = (uint16_t)((r & 0x7fff) == 0 ? r ^ 0x8001 : r - 1);
        long double best = fminl(fabsl((long double)half_value(away) - exact),
                                 fabsl((long double)half_value(toward) - exact));
        cr_assert(off < best || (off == best && (r & 1) == 0), "%04x * %04x + %04x = %04x", h[0],
                  h[1], h[2], r);
    }
}

struct tile {
    float a[16][16], b[16][8]; /* whole numbers: sums are exact */
};

static void fill_tile(struct tile *t)
{
    unsigned state = 7;
    for (int i = 0; i < 16 * 16 + 16 * 8; i++) {
        state = state * 1664525u + 1013904223u;
        (i < 256 ? &t->a[0][0] : &t->b[0][0] - 256)[i] = (float)(int)(state >> 28) - 8;
    }
}

static float product(const struct tile *t, int row, int column, int n_k)
{
    float sum = 0;
    for (int k = 0; k < n_k; k++)
        sum += t->a[row][k] * t->b[k][column];
    return sum;
}

static __device__ uint32_t pair(float low, float high)
{
    return shim_bits<uint32_t>(__floats2half2_rn(low, high));
}

/* One warp, fragments as in the PTX ISA's tables for .f16 and .f32. */
static __global__ void mma_16816(float *c, const struct tile *t, bool k8)
{
    int lane = (int)threadIdx.x, g = lane >> 2, i = lane & 3;
    uint32_t a[4], b[2];
    float d[4] = {1, 1, 1, 1};
    for (int r = 0; r < 4; r++) {
        const float *row = t->a[g + (r & 1) * 8] + i * 2 + (r >> 1) * 8;
        a[r] = pair(row[0], row[1]);
    }
    for (int r = 0; r < 2; r++)
        b[r] = pair(t->b[i * 2 + r * 8][g], t->b[i * 2 + 1 + r * 8][g]);
    if (k8)
        shim_mma_m16n8k8(d, a, b);
    else
        shim_mma_m16n8k16(d, a, b);
    for (int e = 0; e < 4; e++)
        c[(g + (e >> 1) * 8) * 8 + i * 2 + (e & 1)] = d[e];
}

static __global__ void mma_884(float *c, const struct tile *t, bool b_by_rows)
{
    int lane = (int)threadIdx.x, pairs = lane / 4 % 4, high = lane < 16 ? 0 : 4;
    int mine = lane % 4 + high;
    float d[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    uint32_t a[2], b[2];
    for (int r = 0; r < 2; r++) { /* quad pair q multiplies columns 4q.. of A by rows 4q.. of B */
        a[r] = pair(t->a[mine][pairs * 4 + r * 2], t->a[mine][pairs * 4 + r * 2 + 1]);
        const float *row = t->b[pairs * 4 + lane % 4] + high;
        b[r] = b_by_rows ? pair(row[r * 2], row[r * 2 + 1])
                         : pair(t->b[pairs * 4 + r * 2][mine], t->b[pairs * 4 + r * 2 + 1][mine]);
    }
    if (b_by_rows)
        shim_mma_m8n8k4_row(d, a, b);
    else
        shim_mma_m8n8k4(d, a, b);
    for (int e = 0; e < 8; e++) {
        int row = (lane & 1) + (e & 2) + high, column = (e & 4) + (lane & 2) + (e & 1);
        c[pairs * 64 + row * 8 + column] = d[e];
    }
}

Test(shim, tensor_cores_multiply_matrices)
{
    static struct tile t;
    float c[256], *dc = device<float>(256);
    fill_tile(&t);
    struct tile *dt = to_device(&t, 1);
    in_every_order([&] {
        for (int k = 8; k <= 16; k += 8) {
            LAUNCH(mma_16816, 1, 32, 0, NULL, dc, dt, k == 8);
            to_host(c, dc, 128);
            for (int i = 0; i < 128; i++)
                cr_assert_eq(c[i], product(&t, i / 8, i % 8, k) + 1, "m16n8k%d at %d", k, i);
        }
        for (int by_rows = 0; by_rows < 2; by_rows++) {
            LAUNCH(mma_884, 1, 32, 0, NULL, dc, dt, by_rows != 0);
            to_host(c, dc, 256);
            for (int i = 0; i < 64; i++)
                cr_assert_eq(c[i] + c[i + 64] + c[i + 128] + c[i + 192],
                             product(&t, i / 8, i % 8, 16) + 4, "m8n8k4 at %d", i);
        }
    });
    cudaFree(dc);
    cudaFree(dt);
}

static __global__ void matrices(uint32_t *y)
{
    SHARED(uint16_t, x, [32 * 8]);
    uint32_t r[4];
    for (int i = 0; i < 8; i++)
        x[threadIdx.x * 8 + i] = (uint16_t)(threadIdx.x * 8 + i);
    __syncwarp();
    shim_ldmatrix_x4(r, &x[threadIdx.x * 8]);
    for (int i = 0; i < 4; i++)
        y[threadIdx.x * 8 + i] = r[i];
    shim_ldmatrix_x4_trans(r, &x[threadIdx.x * 8]);
    for (int i = 0; i < 4; i++)
        y[threadIdx.x * 8 + 4 + i] = r[i];
}

Test(shim, ldmatrix_deals_rows_or_columns)
{
    uint32_t y[256], *dy = device<uint32_t>(256);
    LAUNCH(matrices, 1, 32, 0, NULL, dy);
    to_host(y, dy, 256);
    for (int lane = 0; lane < 32; lane++) {
        for (int m = 0; m < 4; m++) {
            uint32_t row = (uint32_t)(m * 64 + lane / 4 * 8 + lane % 4 * 2);
            uint32_t column = (uint32_t)(m * 64 + lane % 4 * 2 * 8 + lane / 4);
            cr_assert_eq(y[lane * 8 + m], row | (row + 1) << 16);
            cr_assert_eq(y[lane * 8 + 4 + m], column | (column + 8) << 16);
        }
    }
    cudaFree(dy);
}

/* ---- asynchronous copies --------------------------------------------------------------------- */

static __global__ void two_groups(float *y, const float *x)
{
    SHARED(float, stage, [2][4]);
    shim_cp_async16(stage[0], x, 16);
    shim_cp_async_commit();
    shim_cp_async16(stage[1], x + 4, 7);
    shim_cp_async_commit();
    y[0] = stage[0][0];
    shim_cp_async_wait(1);
    y[1] = stage[0][3];
    y[2] = stage[1][0];
    shim_cp_async_wait(0);
    y[3] = stage[1][0];
    y[4] = stage[1][2];
}

Test(shim, a_copy_arrives_at_the_wait_for_its_group)
{
    float x[8] = {0, 1, 2, 3, 4, 5, 6, 7}, y[5], *dx = to_device(x, 8), *dy = device<float>(5);
    LAUNCH(two_groups, 1, 1, 0, NULL, dy, dx);
    to_host(y, dy, 5);
    cr_expect(isnan(y[0]) && y[1] == 3 && isnan(y[2]) && y[3] == 4 && y[4] == 0);
    cudaFree(dx);
    cudaFree(dy);
}

/* ---- deliberate bugs ------------------------------------------------------------------------- */

enum bug {
    NO_BUG,
    NO_BARRIER_AFTER_FILL,
    NO_BARRIER_AFTER_WAIT,
    WEAK_WAIT,
    EARLY_COPY,
    SHARED_OVERRUN,
    GLOBAL_OVERRUN,
};

/* y[i] = the sum over 4 tiles of x, each turned around in shared memory by a copy of two stages. */
static __global__ void turn_tiles(float *y, const float *x, enum bug bug)
{
    SHARED(float, stage, [2][128]);
    SHARED(float, turned, [32]);
    int t = (int)threadIdx.x;
    float sum = 0;
    shim_cp_async16(&stage[0][t * 4], x + t * 4, 16);
    shim_cp_async_commit();
    for (int i = 0; i < 4; i++) {
        if (i < 3) {
            int next = bug == EARLY_COPY ? i & 1 : (i + 1) & 1;
            shim_cp_async16(&stage[next][t * 4], x + (i + 1) * 128 + t * 4, 16);
        }
        shim_cp_async_commit();
        shim_cp_async_wait(bug == WEAK_WAIT ? 2 : 1);
        if (bug != NO_BARRIER_AFTER_WAIT)
            __syncthreads();
        float v = stage[bug == EARLY_COPY ? 0 : i & 1][127 - t];
        if (t < 32)
            turned[bug == SHARED_OVERRUN ? t + 1 : t] = v;
        if (bug != NO_BARRIER_AFTER_FILL)
            __syncthreads();
        sum += v + turned[31 - t % 32];
    }
    shim_cp_async_wait(0);
    y[bug == GLOBAL_OVERRUN ? t + 1 : t] = sum;
}

/* Takes a shuffle for what orders the store before another lane's load. */
[[maybe_unused]] static __global__ void shuffle_for_barrier(int *y)
{
    SHARED(int, x, [32]);
    x[threadIdx.x] = (int)threadIdx.x;
    y[threadIdx.x] = __shfl_xor_sync(ALL, 0, 1);
    y[threadIdx.x] += x[threadIdx.x ^ 1];
}

/* The last block adds what the threads of all blocks left in part (gridDim.x, 64). */
[[maybe_unused]] static __global__ void last_block_adds(int *y, int *part, unsigned *ticket,
                                                        bool barrier, bool all_write)
{
    SHARED(unsigned, mine, [1]);
    int t = (int)threadIdx.x;
    part[blockIdx.x * 64 + threadIdx.x] = t;
    if (all_write && t == 0)
        y[0] = 0;
    if (barrier)
        __syncthreads();
    if (t == 0)
        mine[0] = atomicAdd(ticket, 1u);
    __syncthreads();
    if (mine[0] != gridDim.x - 1)
        return;
    int sum = 0;
    for (unsigned b = 0; b < gridDim.x; b++)
        sum += part[b * 64 + 63 - threadIdx.x];
    y[t + 1] = sum;
}

static void add_in_last_block(bool barrier, bool all_write)
{
    int y[65], *dy = device<int>(65), *part = device<int>(3 * 64);
    unsigned zero = 0, *ticket = to_device(&zero, 1);
    LAUNCH(last_block_adds, 3, 64, 0, NULL, dy, part, ticket, barrier, all_write);
    to_host(y, dy, 65);
    for (int t = 0; t < 64; t++)
        cr_expect_eq(y[t + 1], 3 * (63 - t));
    cudaFree(dy);
    cudaFree(part);
    cudaFree(ticket);
}

Test(shim_bugs, the_last_block_is_right)
{
    add_in_last_block(true, false);
}

/* Whether some order of threads gives a wrong sum. */
static bool noticed(enum bug bug)
{
    float x[512], y[32], *dx, *dy = device<float>(32);
    bool wrong = false;
    for (int i = 0; i < 512; i++)
        x[i] = (float)i;
    dx = to_device(x, 512);
    in_every_order([&] {
        LAUNCH(turn_tiles, 1, 32, 0, NULL, dy, dx, bug);
        to_host(y, dy, 32);
        for (int t = 0; t < 32; t++)
            wrong |= y[t] != (float)(4 * (127 - t) + 4 * (96 + t) + 2 * 6 * 128);
    });
    cudaFree(dx);
    cudaFree(dy);
    return wrong;
}

Test(shim_bugs, the_pipeline_is_right)
{
    cr_expect(!noticed(NO_BUG));
}

Test(shim_bugs, a_weak_wait_or_an_early_copy_shows)
{
    cr_expect(noticed(WEAK_WAIT));
    cr_expect(noticed(EARLY_COPY));
}

#ifndef RACE
Test(shim_bugs, a_missing_barrier_shows)
{
    cr_expect(noticed(NO_BARRIER_AFTER_FILL));
    cr_expect(noticed(NO_BARRIER_AFTER_WAIT));
}

#else
/* Each ends with a report of the thread sanitizer, whatever the values. */
Test(race, no_barrier_after_fill, .disabled = true)
{
    noticed(NO_BARRIER_AFTER_FILL);
}

Test(race, no_barrier_after_wait, .disabled = true)
{
    noticed(NO_BARRIER_AFTER_WAIT);
}

Test(race, shuffle_is_no_barrier, .disabled = true)
{
    int *y = device<int>(64);
    LAUNCH(shuffle_for_barrier, 1, 32, 0, NULL, y);
    cudaDeviceSynchronize();
}

Test(race, no_barrier_before_ticket, .disabled = true)
{
    add_in_last_block(false, false);
}

Test(race, blocks_write_one_place, .disabled = true)
{
    add_in_last_block(true, true);
}
#endif

#ifdef SANITIZED
Test(shim_bugs, shared_memory_overrun, .exit_code = 1)
{
    noticed(SHARED_OVERRUN);
}

Test(shim_bugs, global_memory_overrun, .exit_code = 1)
{
    noticed(GLOBAL_OVERRUN);
}

Test(shim_bugs, host_reads_device_memory, .exit_code = 1)
{
    float x = 1, *dx = to_device(&x, 1);
    cr_expect_eq(*(volatile float *)dx, 1);
}
#endif

/* Each value of `how` breaks one rule, which ends the process. */
static __global__ void broken(int how, float *x)
{
    int t = (int)threadIdx.x;
    SHARED(uint4, room, [33]);
    switch (how) {
    case 0: /* some at one barrier, some at another */
        if (t < 16)
            __syncthreads();
        else
            __syncthreads();
        break;
    case 1: /* some leave */
        if (t < 16)
            return;
        __syncthreads();
        break;
    case 2: /* some wait at a barrier for those that wait at a shuffle */
        if (t < 16)
            __syncthreads();
        else
            __shfl_sync(ALL, t, 0);
        break;
    case 3: /* a mask without the lane itself */
        __shfl_sync(0xfffffffeu, t, 1);
        break;
    case 4: /* masks that differ */
        __shfl_sync(t < 16 ? 0x0000ffffu : ALL, t, 1);
        break;
    case 5: /* from a lane outside the mask */
        if (t < 16)
            __shfl_sync(0x0000ffffu, t, 20);
        break;
    case 6:
        __ldg((const uint4 *)(x + 1));
        break;
    case 7:
        shim_cp_async16(room, x, 16);
        shim_cp_async_commit();
        break;
    case 8: /* half a warp multiplies */
        if (t < 16) {
            float d[4] = {0};
            uint32_t a[4] = {0}, b[2] = {0};
            shim_mma_m16n8k16(d, a, b);
        }
        break;
    case 9:
        shim_cp_async16((char *)room + 8, x, 16);
        break;
    case 11: { /* together more than a kernel may have that did not ask */
        DYN_SHARED(float, more);
        more[t] = room[t].x;
        break;
    }
    }
}

static void break_rule(int how)
{
    float *x = device<float>(64);
    LAUNCH(broken, 1, 32, how == 11 ? 48 << 10 : 0, NULL, how, x);
}

#define BROKEN(how, name)                    \
    Test(shim_bugs, name, .signal = SIGABRT) \
    {                                        \
        break_rule(how);                     \
    }
BROKEN(0, divergent_barrier)
BROKEN(1, barrier_after_an_exit)
BROKEN(2, deadlock)
BROKEN(3, lane_outside_its_mask)
BROKEN(4, masks_that_differ)
BROKEN(5, shuffle_from_outside_the_mask)
BROKEN(6, misaligned_load)
BROKEN(7, copy_under_way_at_exit)
BROKEN(8, half_a_warp_multiplies)
BROKEN(9, misaligned_copy)
BROKEN(11, more_shared_memory_than_was_asked_for)

Test(shim_bugs, graph_copies_pageable_memory, .signal = SIGABRT)
{
    float x[4] = {0}, *dx = to_device(x, 4);
    cudaStream_t s;
    cudaStreamCreate(&s);
    cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    cudaMemcpyAsync(dx, x, sizeof x, cudaMemcpyHostToDevice, s);
}

static __global__ void waits_but_for(unsigned thread)
{
    if (threadIdx.x != thread)
        shim_wait_for_previous();
}

Test(shim, a_kernel_launched_early_waits)
{
    LAUNCH_EARLY(true, waits_but_for, 2, 33, 0, NULL, 99);
    LAUNCH_EARLY(false, waits_but_for, 2, 33, 0, NULL, 32);
    LAUNCH(waits_but_for, 2, 33, 0, NULL, 32);
    cr_assert_eq(cudaDeviceSynchronize(), cudaSuccess);
}

Test(shim_bugs, a_thread_of_it_does_not, .signal = SIGABRT)
{
    LAUNCH_EARLY(true, waits_but_for, 2, 33, 0, NULL, 32);
}

Test(shim_bugs, kernel_gets_a_host_pointer, .signal = SIGABRT)
{
    float x[64] = {0};
    LAUNCH(broken, 1, 32, 0, NULL, 10, x);
}

/* ---- the runtime ----------------------------------------------------------------------------- */

static __global__ void add_one(int *x, int n)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n)
        x[i]++;
}

Test(shim_runtime, work_in_a_stream_runs_when_it_is_waited_for)
{
    int *pinned, *x = device<int>(1);
    cudaStream_t s;
    cr_assert_eq(cudaMallocHost(&pinned, 2 * sizeof *pinned), cudaSuccess);
    cr_assert_eq(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    pinned[0] = 5;
    pinned[1] = 0;
    cudaMemcpyAsync(x, pinned, sizeof *x, cudaMemcpyHostToDevice, s);
    pinned[0] = 7; /* too early: the copy has not run */
    LAUNCH(add_one, 1, 32, 0, s, x, 1);
    cudaMemcpyAsync(pinned + 1, x, sizeof *x, cudaMemcpyDeviceToHost, s);
    cr_expect_eq(pinned[1], 0);
    cr_expect_eq(cudaStreamSynchronize(s), cudaSuccess);
    cr_expect_eq(pinned[1], 8);

    int pageable = 20;
    cudaMemcpyAsync(x, &pageable, sizeof *x, cudaMemcpyHostToDevice, s);
    pageable = 30;
    cudaMemcpyAsync(&pageable, x, sizeof *x, cudaMemcpyDeviceToHost, s);
    cr_expect_eq(pageable, 20);
    cudaStreamDestroy(s);
    cudaFreeHost(pinned);
    cudaFree(x);
    cr_expect_eq(shim_device_bytes(), 0);
}

Test(shim_runtime, a_stream_waits_for_the_event_of_another)
{
    int *pinned, *x = device<int>(1);
    cudaStream_t first, second;
    cudaEvent_t event;
    cudaMallocHost(&pinned, sizeof *pinned);
    cudaStreamCreate(&first);
    cudaStreamCreate(&second);
    cudaEventCreate(&event);
    cudaMemsetAsync(x, 0, sizeof *x, first);
    LAUNCH(add_one, 1, 1, 0, first, x, 1);
    cudaEventRecord(event, first);
    LAUNCH(add_one, 1, 1, 0, first, x, 1);
    cudaStreamWaitEvent(second, event);
    cudaMemcpyAsync(pinned, x, sizeof *x, cudaMemcpyDeviceToHost, second);
    cr_expect_eq(cudaEventQuery(event), cudaErrorNotReady);
    cudaStreamSynchronize(second);
    cr_expect_eq(*pinned, 1);
    cr_expect_eq(cudaEventQuery(event), cudaSuccess);
    cudaDeviceSynchronize();
    to_host(pinned, x, 1);
    cr_expect_eq(*pinned, 2);
    cudaEventDestroy(event);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
    cudaFreeHost(pinned);
    cudaFree(x);
}

Test(shim_runtime, a_graph_repeats_what_was_captured)
{
    int start = 10, y, *x = to_device(&start, 1);
    cudaStream_t s;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t nodes;
    cudaStreamCreate(&s);
    cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    LAUNCH(add_one, 1, 1, 0, s, x, 1);
    LAUNCH(add_one, 1, 1, 0, s, x, 1);
    cr_expect_eq(cudaStreamEndCapture(s, &graph), cudaSuccess);
    cudaGraphGetNodes(graph, NULL, &nodes);
    cr_expect_eq(nodes, 2);
    cr_expect_eq(cudaGraphInstantiateWithFlags(&exec, graph), cudaSuccess);
    cudaGraphDestroy(graph);
    to_host(&y, x, 1);
    cr_expect_eq(y, 10);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(cudaGraphLaunch(exec, s), cudaSuccess);
    cudaStreamSynchronize(s);
    to_host(&y, x, 1);
    cr_expect_eq(y, 16);
    cudaGraphExecDestroy(exec);

    cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    cr_expect_eq(cudaStreamSynchronize(s), cudaErrorStreamCaptureUnsupported);
    cr_expect_eq(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
    cudaStreamDestroy(s);
    cudaFree(x);
}

static __global__ void trap_at(int *x, unsigned at)
{
    __syncthreads();
    if (threadIdx.x == at)
        shim_trap("here");
    __syncthreads();
    if (threadIdx.x == 0)
        *x = 1;
}

Test(shim_runtime, a_trap_loses_the_context)
{
    int *x = device<int>(1), y;
    LAUNCH(trap_at, 1, 64, 0, NULL, x, 40);
    cr_expect_eq(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    cr_expect_eq(cudaMalloc(&x, 4), cudaErrorLaunchFailure);
    cr_expect_eq(cudaGetLastError(), cudaErrorLaunchFailure);
    cr_expect_eq(cudaGetLastError(), cudaErrorLaunchFailure);
    shim_reset();
    x = device<int>(1);
    LAUNCH(trap_at, 1, 64, 0, NULL, x, 64);
    to_host(&y, x, 1);
    cr_expect_eq(y, 1);
    cudaFree(x);
}

Test(shim_runtime, errors_are_cudas)
{
    int *x, y = 0;
    shim_limit_memory(1000);
    cr_expect_eq(cudaMalloc(&x, 1001), cudaErrorMemoryAllocation);
    cr_expect_eq(cudaGetLastError(), cudaErrorMemoryAllocation);
    cr_expect_eq(cudaGetLastError(), cudaSuccess);
    cr_expect_eq(cudaMalloc(&x, 1000), cudaSuccess);
    cr_expect_eq(cudaMemcpy(x, &y, 1001, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    cr_expect_eq(cudaMemcpy(&y, &y, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    cudaFree(x);
    LAUNCH(add_one, 1, 1025, 0, NULL, NULL, 0);
    cr_expect_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(add_one, 1, 32, 49153, NULL, NULL, 0);
    cr_expect_eq(cudaGetLastError(), cudaErrorInvalidValue);
    cudaFuncSetAttribute(add_one, cudaFuncAttributeMaxDynamicSharedMemorySize, 65536);
    LAUNCH(add_one, 1, 32, 65536, NULL, NULL, 0);
    cr_expect_eq(cudaGetLastError(), cudaSuccess);
    shim_refuse(cudaErrorNoDevice);
    cr_expect_eq(cudaGetDeviceCount(&y), cudaErrorNoDevice);
    cr_expect_eq(y, 0);
    cr_expect_str_eq(cudaGetErrorName(cudaErrorNoDevice), "cudaErrorNoDevice");
    shim_reset();
}
