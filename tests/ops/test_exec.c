/* test_exec.c - the CPU exec: forms, arena, fault record, par_for. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend.h"
#include "op_test.h"
#include "par.h"

Test(exec, every_supported_form_says_what_it_is)
{
    struct mll_exec *ex = NULL;
    int cpus = 0, gpus = 0;
    while ((ex = op_each_exec(ex, 100)) != NULL) {
        cr_expect(op_is_cuda(ex) || strncmp(exec_describe(ex), "cpu ", 4) == 0);
        cr_expect(op_is_cuda(ex) || exec_threads(ex) >= 1);
        cpus += !op_is_cuda(ex);
        gpus += op_is_cuda(ex);
    }
#if defined(MLL_SHIM) || defined(MLL_GPU_TESTS)
    cr_expect(cpus == 1 && gpus == (exec_cuda_devices() > 0), "%d, %d execs", cpus, gpus);
#else
    cr_expect(cpus >= 4 && cpus % 4 == 0 && gpus == (exec_cuda_devices() > 0), "%d, %d execs", cpus,
              gpus);
#endif
}

Test(exec, zero_threads_means_the_cores_of_this_process)
{
    struct mll_exec *ex = op_exec(0, MLL_ISA_AUTO, 0);
    cr_expect(exec_threads(ex) >= 1);
    exec_close(ex);
    exec_close(NULL);
}

Test(exec, bf16_compute_without_the_instruction_is_a_device_error)
{
    struct mll_exec *ex;
    struct mll_error err;
    cr_expect_eq(exec_open_cpu(&ex, 1, MLL_ISA_C, MLL_COMPUTE_BF16, 0, &err), MLL_ERR_DEVICE);
    cr_expect_null(ex);
}

Test(exec, more_scratch_than_there_is_memory_is_an_error)
{
    struct mll_exec *ex;
    struct mll_error err;
    cr_expect_eq(exec_open_cpu(&ex, 1, MLL_ISA_AUTO, MLL_COMPUTE_F32, SIZE_MAX / 2, &err),
                 MLL_ERR_NO_MEMORY);
}

Test(exec, arena_is_a_stack_of_aligned_blocks)
{
    struct mll_exec *ex = op_exec(1, MLL_ISA_AUTO, 256);
    void *a = exec_alloc(ex, 1);
    size_t mark = exec_mark(ex);
    void *b = exec_alloc(ex, 65);
    cr_expect_eq((uintptr_t)a % 64, 0);
    cr_expect_eq((unsigned char *)b - (unsigned char *)a, 64);
    exec_release(ex, mark);
    cr_expect_eq(exec_alloc(ex, 64), b);
    cr_expect_eq(exec_peak(ex), 192);
    exec_close(ex);
}

Test(exec, running_out_of_arena_aborts, .signal = SIGABRT)
{
    struct mll_exec *ex = op_exec(1, MLL_ISA_AUTO, 64);
    exec_alloc(ex, 1 << 20);
}

struct fault_job {
    struct mll_exec *ex;
    size_t n;
};

static void fault_backwards(void *arg, size_t begin, size_t end, int thread)
{
    const struct fault_job *job = arg;
    (void)thread;
    for (size_t i = end; i > begin; i--) {
        int64_t position = (int64_t)(i - 1);
        exec_fault(job->ex, OP_TAKE_ROWS, position, position + 5, 3);
    }
}

Test(exec, the_lowest_fault_wins_from_any_thread)
{
    struct mll_exec *ex = op_exec(4, MLL_ISA_AUTO, 0);
    struct fault_job job = {.ex = ex, .n = 10000};
    par_once(4, job.n, fault_backwards, &job);
    struct mll_fault fault = exec_take_fault(ex);
    cr_expect(fault.op == OP_TAKE_ROWS && fault.position == 0 && fault.index == 5 &&
              fault.bound == 3);
    cr_expect_eq(exec_take_fault(ex).op, OP_NONE);
    exec_fault(ex, OP_ATTN, 1, 7, 7);
    exec_fault(ex, OP_GATHER_ROWS, 9, -1, 7);
    exec_fault(ex, OP_GATHER_ROWS, 9, 8, 7);
    fault = exec_take_fault(ex);
    cr_expect(fault.op == OP_GATHER_ROWS && fault.position == 9 && fault.index == -1);
    cr_expect_str_eq(op_name(fault.op), "gather_rows");
    exec_close(ex);
}

static struct par *pool_of(int threads)
{
    struct par *par;
    struct mll_error err;
    cr_assert_eq(par_open(&par, threads, &err), MLL_OK);
    return par;
}

enum { MOST = 1000 };

struct visits {
    struct par *par;
    unsigned char of[MOST];
    size_t begin[9]; /* of the parts */
    atomic_int fewer;
};

static void count_visits(void *arg, size_t begin, size_t end, int part)
{
    struct visits *v = arg;
    v->begin[part] = begin;
    for (size_t i = begin; i < end; i++)
        v->of[i]++;
}

static void expect_all_once(const struct visits *v, size_t n, int threads)
{
    for (size_t i = 0; i < MOST; i++)
        cr_expect_eq(v->of[i], i < n, "threads %d, n %zu, at %zu", threads, n, i);
    for (size_t p = 0; p < (size_t)threads && n > 1; p++)
        if (n * p / (size_t)threads < n * (p + 1) / (size_t)threads)
            cr_expect_eq(v->begin[p], n * p / (size_t)threads, "part %zu", p);
}

Test(par, every_index_is_visited_once_by_the_part_it_belongs_to)
{
    static const size_t sizes[] = {0, 1, 2, 6, 7, 8, MOST};
    struct par *pools[] = {NULL, pool_of(1), pool_of(2), pool_of(5)};
    for (int threads = 1; threads <= 9; threads++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (size_t p = 0; p < sizeof pools / sizeof *pools; p++) {
                struct visits v = {0};
                par_for(pools[p], threads, sizes[s], count_visits, &v);
                expect_all_once(&v, sizes[s], threads);
            }
            struct visits v = {0};
            par_once(threads, sizes[s], count_visits, &v);
            expect_all_once(&v, sizes[s], threads);
        }
    }
    for (size_t p = 0; p < sizeof pools / sizeof *pools; p++)
        par_close(pools[p]);
}

static void add_part(void *arg, size_t begin, size_t end, int part)
{
    uint64_t *sums = arg;
    sums[part] += end - begin;
}

/* Each call sees what the one before it wrote, from whichever thread: TSan looks on in make race.
 * A pause now and then is long enough for the threads to fall asleep. */
Test(par, calls_follow_each_other_awake_and_asleep)
{
    const int calls = 3000;
    uint64_t sums[3] = {0};
    struct par *par = pool_of(3);
    for (int i = 0; i < calls; i++) {
        par_for(par, 3, 30, add_part, sums);
        if (i % 300 == 0)
            usleep(2000);
    }
    par_close(par);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(sums[i], 10u * (unsigned)calls);
}

static void call_again(void *arg, size_t begin, size_t end, int part)
{
    struct visits *outer = arg;
    struct visits inner = {0};
    par_for(outer->par, 4, 100, count_visits, &inner);
    for (size_t i = 0; i < 100; i++)
        if (inner.of[i] != 1)
            outer->fewer++;
    count_visits(outer, begin, end, part);
}

Test(par, a_body_may_call_the_pool_it_runs_on)
{
    struct visits v = {.par = pool_of(3)};
    par_for(v.par, 3, MOST, call_again, &v);
    expect_all_once(&v, MOST, 3);
    cr_expect_eq(v.fewer, 0);
    par_close(v.par);
}

static void *call_often(void *arg)
{
    struct visits *outer = arg;
    for (int i = 0; i < 500; i++) {
        struct visits v = {0};
        par_for(outer->par, 3, MOST, count_visits, &v);
        for (size_t at = 0; at < MOST; at++)
            if (v.of[at] != 1)
                outer->fewer++;
    }
    return NULL;
}

Test(par, two_threads_may_share_a_pool)
{
    struct visits v = {.par = pool_of(3)};
    pthread_t other;
    cr_assert_eq(pthread_create(&other, NULL, call_often, &v), 0);
    call_often(&v);
    pthread_join(other, NULL);
    cr_expect_eq(v.fewer, 0);
    par_close(v.par);
}

/* Whoever comes first is held until all other parts have been begun. */
static void hold_one(void *arg, size_t begin, size_t end, int part)
{
    struct visits *v = arg;
    if (atomic_fetch_add(&v->fewer, 1) == 0)
        while (atomic_load(&v->fewer) < 8)
            usleep(100);
    count_visits(v, begin, end, part);
}

Test(par, nobody_waits_for_a_part_that_another_could_do)
{
    struct visits v = {.par = pool_of(2)};
    alarm(60); /* a pool that waits would do so for good */
    par_for(v.par, 8, MOST, hold_one, &v);
    alarm(0);
    expect_all_once(&v, MOST, 8);
    par_close(v.par);
}

#ifndef __SANITIZE_THREAD__ /* which does not follow a fork */
Test(par, a_forked_process_works_alone)
{
    struct visits v = {.par = pool_of(3)};
    par_for(v.par, 3, MOST, count_visits, &v);
    pid_t child = fork();
    if (child == 0) {
        struct visits own = {0};
        bool ok = true;
        alarm(20);
        par_for(v.par, 3, MOST, count_visits, &own);
        for (size_t i = 0; i < MOST; i++)
            ok = ok && own.of[i] == 1;
        par_close(v.par);
        _exit(ok ? 0 : 1);
    }
    int status = -1;
    cr_expect(waitpid(child, &status, 0) == child && status == 0);
    par_close(v.par);
}
#endif

struct masks {
    pthread_t caller;
    atomic_int wrong, others;
};

static void check_mask(void *arg, size_t begin, size_t end, int part)
{
    struct masks *m = arg;
    bool other = !pthread_equal(pthread_self(), m->caller);
    sigset_t set;
    (void)begin, (void)end, (void)part;
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    m->wrong += sigismember(&set, SIGINT) != other || sigismember(&set, SIGBUS);
    m->others += other;
    usleep(20000); /* so that each thread finds a part */
}

Test(par, signals_from_outside_go_to_the_caller)
{
    struct masks m = {.caller = pthread_self()};
    struct par *par = pool_of(3);
    par_for(par, 6, 6, check_mask, &m);
    cr_expect(m.wrong == 0 && m.others > 0, "%d wrong, %d others", m.wrong, m.others);
    par_close(par);
}
