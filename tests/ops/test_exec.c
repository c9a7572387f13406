/* test_exec.c - the CPU exec: forms, arena, fault record, par_for. */
#include <signal.h>
#include <stdint.h>

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
    cr_expect_eq(exec_open_cpu(&ex, 1, MLL_ISA_C, true, 0, &err), MLL_ERR_DEVICE);
    cr_expect_null(ex);
}

Test(exec, more_scratch_than_there_is_memory_is_an_error)
{
    struct mll_exec *ex;
    struct mll_error err;
    cr_expect_eq(exec_open_cpu(&ex, 1, MLL_ISA_AUTO, false, SIZE_MAX / 2, &err), MLL_ERR_NO_MEMORY);
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
    par_for(4, job.n, fault_backwards, &job);
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

static void count_visits(void *arg, size_t begin, size_t end, int thread)
{
    unsigned char *visits = arg;
    for (size_t i = begin; i < end; i++)
        visits[i] = (unsigned char)(visits[i] + 1 + thread * 0);
}

Test(par, every_index_is_visited_once_for_any_thread_count)
{
    static const size_t sizes[] = {0, 1, 2, 6, 7, 8, 1000};
    for (int threads = 1; threads <= 9; threads++) {
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            unsigned char visits[1000] = {0};
            par_for(threads, sizes[s], count_visits, visits);
            for (size_t i = 0; i < 1000; i++)
                cr_expect_eq(visits[i], i < sizes[s], "threads %d, n %zu, at %zu", threads,
                             sizes[s], i);
        }
    }
}
