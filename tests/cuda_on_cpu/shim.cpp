/* shim.cpp - a grid on the CPU: fibers, the order they run in, barriers, shared memory, copies.
 *
 * A fiber has a stack and six saved registers. One that has to wait picks the next thread that can
 * run and switches to it directly; the last one of a block switches back to the host. The fibers of
 * a launch run block after block, a loop around the kernel. Threads that can run are bits: one mask
 * of warps, one of lanes in each, so that choosing costs nothing.
 *
 * All state is one static object: threadIdx is a global by nature. Grids run one at a time, under
 * the lock of the runtime. */
#include "shim_core.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifdef SHIM_ASAN
#include <sanitizer/asan_interface.h>
extern "C" void __sanitizer_start_switch_fiber(void **, const void *, size_t);
extern "C" void __sanitizer_finish_switch_fiber(void *, const void **, size_t *);
#endif
#ifdef SHIM_TSAN
extern "C" void *__tsan_get_current_fiber(void);
extern "C" void *__tsan_create_fiber(unsigned);
extern "C" void __tsan_destroy_fiber(void *);
extern "C" void __tsan_switch_to_fiber(void *, unsigned);
extern "C" void __tsan_acquire(void *);
extern "C" void __tsan_release(void *);
extern "C" void AnnotateIgnoreWritesBegin(const char *, int);
extern "C" void AnnotateIgnoreWritesEnd(const char *, int);
#endif

enum { STACK_BYTES = 256 << 10, GUARD_BYTES = 4096, SHARED_MAX = 32, SHARED_BYTES = 256 << 10 };

/* An array of shared memory; the heap block stays for the launch, block says whose content it has.
 */
struct shared_array {
    const void *key;
    void *memory;
    size_t bytes;
    uint64_t block;
};

static struct {
    struct shim_thread threads[SHIM_THREADS_MAX];
    struct shim_warp warps[SHIM_WARP];
    unsigned warps_ready;
    int n_threads, made; /* of this grid; fibers that exist */
    int exited, at_barrier, votes;
    const struct shim_thread *last_at_barrier;
    int vote_results[2];
    unsigned epoch; /* barriers passed */
    bool trapped;
    const struct shim_grid *grid;
    struct shim_fiber host, *previous;
    struct shared_array shared[SHARED_MAX];
    int n_shared;
    size_t shared_bytes;
    enum shim_order order;
    uint64_t random;
    char start_sync, end_sync; /* of the grid */
    char *block_memory;        /* SHIM_SYNCS addresses; shared memory for the thread sanitizer */
} s;

struct shim_thread *shim_now;
const struct uint3 *shim_thread_index;
struct uint3 shim_block_index;
struct dim3 shim_block_dim, shim_grid_dim;

void shim_schedule(enum shim_order order, uint64_t seed)
{
    s.order = order;
    s.random = seed * 0x9e3779b97f4a7c15u + 1;
}

/* ---- the sanitizers -------------------------------------------------------------------------- */

void shim_release(void *sync)
{
#ifdef SHIM_TSAN
    __tsan_release(sync);
#endif
    (void)sync;
}

void shim_acquire(void *sync)
{
#ifdef SHIM_TSAN
    __tsan_acquire(sync);
#endif
    (void)sync;
}

void *shim_sync(int i)
{
    return s.block_memory != NULL ? s.block_memory + i : NULL;
}

/* ---- fibers ---------------------------------------------------------------------------------- */

/* Saves the registers that a call preserves, changes stacks, restores the other's. */
extern "C" void shim_swap(void **save, void *to);
asm(".text\n"
    ".globl shim_swap\n"
    ".type shim_swap, @function\n"
    "shim_swap:\n"
    "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
    "    mov %rsp, (%rdi)\n"
    "    mov %rsi, %rsp\n"
    "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
    "    ret\n"
    ".size shim_swap, . - shim_swap\n");

/* The first thing a fiber does after it is switched to. */
static void arrive(struct shim_fiber *self)
{
#ifdef SHIM_ASAN
    __sanitizer_finish_switch_fiber(self->fake_stack, &s.previous->stack, &s.previous->stack_bytes);
#endif
    (void)self;
}

static void switch_fiber(struct shim_fiber *from, struct shim_fiber *to)
{
    s.previous = from;
#ifdef SHIM_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
#ifdef SHIM_TSAN
    __tsan_switch_to_fiber(to->tsan, 1);
#endif
    shim_swap(&from->sp, to->sp);
    arrive(from);
}

static void switch_thread(struct shim_thread *to)
{
    struct shim_thread *from = shim_now;
    shim_device.counts.switches++;
    shim_now = to;
    shim_thread_index = &to->index;
    switch_fiber(from->fiber, to->fiber);
}

static void exit_thread(struct shim_thread *t);

static void fiber_main(void)
{
    arrive(shim_now->fiber);
    for (;;) {
        shim_acquire(&s.start_sync);
        s.grid->run(s.grid->body);
        shim_release(&s.end_sync);
        exit_thread(shim_now);
    }
}

/* Sets a fiber to the start of fiber_main, whose return address is never used. */
static void rewind_fiber(struct shim_fiber *f, int number)
{
    /* not all at one place of a page: they would fight for the same lines of the cache */
    size_t shift = (size_t)(number % SHIM_WARP) * 128;
    void **top = (void **)((uintptr_t)f->stack + f->stack_bytes - shift);
    top[-1] = NULL;
    top[-2] = (void *)fiber_main;
    f->sp = top - 8;
    f->fake_stack = NULL;
#ifdef SHIM_ASAN
    __asan_unpoison_memory_region(f->stack, f->stack_bytes);
#endif
#ifdef SHIM_TSAN
    if (f->tsan != NULL)
        __tsan_destroy_fiber(f->tsan);
    f->tsan = __tsan_create_fiber(0);
#endif
}

/* A stack that begins below `more` bytes and ends in a page that nobody may touch; returns the
 * former. Fibers live as long as the process. */
static void *make_fiber(struct shim_fiber *f, int number, size_t more)
{
    char *stack = (char *)mmap(NULL, GUARD_BYTES + STACK_BYTES + more, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, GUARD_BYTES, PROT_NONE) != 0)
        shim_die("no memory for thread %d", number);
    f->stack = stack + GUARD_BYTES;
    f->stack_bytes = STACK_BYTES;
    rewind_fiber(f, number);
    return stack + GUARD_BYTES + STACK_BYTES;
}

static void make_thread(int number)
{
    struct shim_thread *t = &s.threads[number];
    t->number = number;
    t->lane = number % SHIM_WARP;
    t->warp = &s.warps[number / SHIM_WARP];
    for (int i = 0; i < SHIM_SETS; i++)
        t->copies = (struct shim_pending *)make_fiber(&t->sets[i], number,
                                                      SHIM_COPIES_MAX * sizeof *t->copies);
}

/* ---- complaints ------------------------------------------------------------------------------ */

static bool alike(const struct shim_thread *a, const struct shim_thread *b)
{
    return a->state == b->state && (a->state == SHIM_EXITED || a->line == b->line);
}

static void print_threads(void)
{
    static const char *const states[] = {"can run, last seen", "at the barrier",
                                         "at the collective", "exited"};
    int shown = 0;
    for (int i = 0, last; i < s.n_threads && shown < 16; i = last + 1, shown++) {
        const struct shim_thread *t = &s.threads[i];
        for (last = i; last + 1 < s.n_threads && alike(t, &s.threads[last + 1]); last++)
            ;
        fprintf(stderr, "  threads %d to %d: %s", i, last, states[t->state]);
        if (t->state != SHIM_EXITED && t->file != NULL)
            fprintf(stderr, " %s:%d", t->file, t->line);
        fputc('\n', stderr);
    }
}

void shim_die(const char *format, ...)
{
    va_list args;
    fflush(stdout);
    if (s.grid != NULL)
        fprintf(stderr, "shim: %s, block (%u, %u, %u)", s.grid->name, shim_block_index.x,
                shim_block_index.y, shim_block_index.z);
    else
        fprintf(stderr, "shim: host");
    if (shim_now != NULL)
        fprintf(stderr, ", thread %d", shim_now->number);
    fprintf(stderr, ": ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    if (s.grid != NULL)
        print_threads();
    abort();
}

void shim_misaligned(const void *p, size_t bytes, const char *file, int line)
{
    shim_die("%s:%d: %p is not aligned to %zu bytes", file, line, p, bytes);
}

/* ---- who runs next --------------------------------------------------------------------------- */

static unsigned draw(void)
{
    s.random ^= s.random << 13;
    s.random ^= s.random >> 7;
    s.random ^= s.random << 17;
    return (unsigned)(s.random >> 32);
}

/* The lowest or highest set bit, or the first one from a drawn place on, around the end. */
static int choose(unsigned mask)
{
    if (s.order == SHIM_ASCENDING)
        return __builtin_ctz(mask);
    if (s.order == SHIM_DESCENDING)
        return 31 - __builtin_clz(mask);
    unsigned from = draw() & 31u, upper = mask & ~0u << from;
    return __builtin_ctz(upper != 0 ? upper : mask);
}

/* NULL when no thread can run. */
static struct shim_thread *next_thread(void)
{
    while (s.warps_ready != 0) {
        int w = choose(s.warps_ready);
        if (s.warps[w].ready != 0)
            return &s.threads[w * SHIM_WARP + choose(s.warps[w].ready)];
        s.warps_ready &= ~(1u << w);
    }
    return NULL;
}

/* Marks lanes of a warp as able to run. */
void shim_wake(struct shim_warp *warp, unsigned lanes)
{
    int w = (int)(warp - s.warps);
    warp->ready |= lanes;
    s.warps_ready |= 1u << w;
    for (; lanes != 0; lanes &= lanes - 1)
        s.threads[w * SHIM_WARP + __builtin_ctz(lanes)].state = SHIM_READY;
}

void shim_yield(void)
{
    struct shim_thread *next = next_thread();
    if (next == NULL)
        shim_die("deadlock: every thread waits for another");
    if (next != shim_now)
        switch_thread(next);
}

static void stop_running(struct shim_thread *t, enum shim_state state)
{
    t->state = state;
    t->warp->ready &= ~(1u << t->lane);
}

/* ---- barriers -------------------------------------------------------------------------------- */

static void open_barrier(void)
{
    s.vote_results[s.epoch & 1] = s.votes;
    s.votes = s.at_barrier = 0;
    s.epoch++;
    for (int w = 0; w * SHIM_WARP < s.n_threads; w++)
        shim_wake(&s.warps[w], s.warps[w].alive);
}

int shim_barrier(enum shim_vote vote, bool predicate, const char *file, int line)
{
    struct shim_thread *t = shim_now;
    unsigned epoch = s.epoch;
    if (s.exited > 0)
        shim_die("%s:%d: a barrier, but %d threads have exited", file, line, s.exited);
    const struct shim_thread *other = s.last_at_barrier;
    if (s.at_barrier > 0 && !shim_same_place(file, line, other->file, other->line))
        shim_die("divergent barrier: this thread at %s:%d, thread %d at %s:%d", file, line,
                 other->number, other->file, other->line);
    s.last_at_barrier = t;
    t->file = file;
    t->line = line;
    s.votes += predicate;
    /* Two addresses in turns: a thread that has run ahead to the next barrier must not lend its
     * order to one that still leaves this one. */
    shim_release(shim_sync(epoch & 1));
    stop_running(t, SHIM_AT_BARRIER);
    if (++s.at_barrier == s.n_threads)
        open_barrier();
    shim_yield();
    shim_acquire(shim_sync(epoch & 1));
    int votes = s.vote_results[epoch & 1];
    if (vote == SHIM_VOTE_COUNT)
        return votes;
    return vote == SHIM_VOTE_AND ? votes == s.n_threads : votes > 0;
}

/* ---- shared memory --------------------------------------------------------------------------- */

/* Not memset: the thread sanitizer would take it for an access of the running thread. */
static void fill_with_nan(void *p, size_t bytes)
{
    asm volatile("rep stosb" : "+D"(p), "+c"(bytes) : "a"(0xff) : "memory");
}

/* 16-byte aligned, no more, and not a byte longer than asked for. The thread sanitizer would take
 * malloc for a write of the running thread: with it, the arrays lie in the block's memory. */
static void *allocate_shared(size_t bytes)
{
    void *p = NULL;
#ifdef SHIM_TSAN
    if (s.shared_bytes + bytes <= SHARED_BYTES)
        p = s.block_memory + SHIM_SYNCS + s.shared_bytes;
#else
    if (posix_memalign(&p, 16, bytes) != 0)
        p = NULL;
#endif
    if (p == NULL)
        shim_die("no memory for %zu bytes of shared memory", bytes);
    return p;
}

static void free_shared(void)
{
#ifndef SHIM_TSAN
    for (int i = 0; i < s.n_shared; i++)
        free(s.shared[i].memory);
#endif
    s.n_shared = 0;
    s.shared_bytes = 0;
}

static struct shared_array *add_shared(const void *key, size_t bytes)
{
    struct shared_array *a = &s.shared[s.n_shared];
    if (s.n_shared == SHARED_MAX)
        shim_die("more than %d shared arrays", SHARED_MAX);
    a->memory = allocate_shared(bytes);
    s.shared_bytes += (bytes + 15) / 16 * 16;
    size_t most = shim_shared_limit(), usual = 48 << 10;
    if (s.grid->shared_limit <= usual) /* more is there for who asked for it */
        most = usual;
    if (s.shared_bytes > most)
        shim_die("%zu bytes of shared memory, at most %zu", s.shared_bytes, most);
    a->key = key;
    a->bytes = bytes;
    a->block = UINT64_MAX;
    s.n_shared++;
    return a;
}

void *shim_shared(const void *key, size_t bytes)
{
    struct shared_array *a = NULL;
    for (int i = 0; i < s.n_shared && a == NULL; i++)
        if (s.shared[i].key == key)
            a = &s.shared[i];
    if (a == NULL)
        a = add_shared(key, bytes);
    if (a->block != shim_device.counts.blocks) {
        a->block = shim_device.counts.blocks;
        fill_with_nan(a->memory, a->bytes);
    }
    return a->memory;
}

void *shim_dynamic_shared(void)
{
    if (s.grid->shared == 0)
        shim_die("dynamic shared memory, but the launch gives none");
    return shim_shared(&s, s.grid->shared);
}

/* ---- copies behind a thread's back ----------------------------------------------------------- */

void shim_copy_push(const struct shim_copy *copy, const char *file, int line)
{
    struct shim_thread *t = shim_now;
    if (copy->bytes < 0 || copy->bytes > 16)
        shim_die("%s:%d: cp.async of %d bytes", file, line, copy->bytes);
    if (t->copies_end - t->copies_begin == SHIM_COPIES_MAX)
        shim_die("%s:%d: more than %d copies under way", file, line, SHIM_COPIES_MAX);
    t->copies[t->copies_end % SHIM_COPIES_MAX].copy = *copy;
    t->copies[t->copies_end % SHIM_COPIES_MAX].group = t->groups;
    t->copies_end++;
}

void shim_cp_async_commit(void)
{
    shim_now->groups++;
}

bool shim_copy_pop(int groups, struct shim_copy *copy)
{
    struct shim_thread *t = shim_now;
    int i = t->copies_begin % SHIM_COPIES_MAX;
    if (t->copies_begin == t->copies_end || t->copies[i].group >= t->groups - groups)
        return false;
    *copy = t->copies[i].copy;
    t->copies_begin++;
    return true;
}

/* ---- blocks and grids ------------------------------------------------------------------------ */

static void exit_thread(struct shim_thread *t)
{
    if (t->copies_begin != t->copies_end)
        shim_die("exits with %d cp.async under way", t->copies_end - t->copies_begin);
    if (s.at_barrier > 0)
        shim_die("exits while %d threads wait at a barrier", s.at_barrier);
    if (s.grid->early && !t->waited)
        shim_die("was launched early and ends without waiting for the kernel in front of it");
    stop_running(t, SHIM_EXITED);
    t->warp->alive &= ~(1u << t->lane);
    s.exited++;
    if (t->warp->waiting != 0)
        shim_lane_exits(t->warp);
    struct shim_thread *next = next_thread();
    if (next != NULL)
        switch_thread(next);
    else if (s.exited == s.n_threads)
        switch_fiber(t->fiber, &s.host);
    else
        shim_die("deadlock: every thread waits for another");
}

void shim_wait_for_previous(void)
{
    shim_now->waited = true;
}

void shim_trap(const char *message)
{
    if (shim_now == NULL)
        shim_die("trap on the host: %s", message);
    s.trapped = true;
    shim_release(&s.end_sync);
    switch_fiber(shim_now->fiber, &s.host);
    __builtin_unreachable();
}

/* After a trap the fibers stand somewhere in the kernel: they start anew. */
static void abandon_threads(void)
{
    shim_acquire(shim_sync(0));
    shim_acquire(shim_sync(1));
    for (int i = 0; i < s.n_threads; i++)
        rewind_fiber(s.threads[i].fiber, i);
}

/* Blocks of a grid run in any order, so nothing orders one behind another. To the thread sanitizer
 * each has new memory for what is shared and for its sync addresses, and threads (and stacks) of
 * its own: two sets in turns, for blocks that are neighbours in x, y or z. */
static void separate_blocks(void)
{
#ifdef SHIM_TSAN
    free_shared();
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    free(s.block_memory);
    s.block_memory = (char *)malloc(SHIM_SYNCS + SHARED_BYTES);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    if (s.block_memory == NULL)
        shim_die("no memory for a block");
#endif
}

static void begin_block(void)
{
    const dim3 block = s.grid->block;
    unsigned set = (shim_block_index.x + shim_block_index.y + shim_block_index.z) % SHIM_SETS;
    s.exited = s.at_barrier = s.votes = 0;
    s.warps_ready = 0;
    separate_blocks();
    for (int i = 0; i < s.n_threads; i++) {
        struct shim_thread *t = &s.threads[i];
        unsigned n = (unsigned)i;
        t->fiber = &t->sets[set];
        t->index = uint3{n % block.x, n / block.x % block.y, n / (block.x * block.y)};
        t->file = NULL;
        t->line = t->copies_begin = t->copies_end = t->groups = 0;
        t->state = SHIM_READY;
        t->waited = false;
    }
    for (int w = 0; w * SHIM_WARP < s.n_threads; w++) {
        int lanes = s.n_threads - w * SHIM_WARP;
        s.warps[w].alive = lanes >= SHIM_WARP ? ~0u : (1u << lanes) - 1;
        s.warps[w].ready = s.warps[w].alive;
        s.warps[w].waiting = 0;
        for (int i = 0; i < SHIM_WARP; i++)
            s.warps[w].meetings[i].here = 0;
        s.warps_ready |= 1u << w;
    }
}

static void run_block(void)
{
    shim_device.counts.blocks++;
    shim_device.counts.threads += (uint64_t)s.n_threads;
    begin_block();
    shim_now = next_thread();
    shim_thread_index = &shim_now->index;
    switch_fiber(&s.host, shim_now->fiber);
    shim_now = NULL;
}

bool shim_run_grid(const struct shim_grid *grid)
{
    s.grid = grid;
    s.n_threads = (int)(grid->block.x * grid->block.y * grid->block.z);
    for (; s.made < s.n_threads; s.made++)
        make_thread(s.made);
#ifdef SHIM_TSAN
    s.host.tsan = __tsan_get_current_fiber();
#endif
    shim_block_dim = grid->block;
    shim_grid_dim = grid->grid;
    s.trapped = false;
    uint64_t blocks = (uint64_t)grid->grid.x * grid->grid.y * grid->grid.z;
    shim_release(&s.start_sync);
    for (uint64_t b = 0; b < blocks && !s.trapped; b++) {
        uint64_t yz = b / grid->grid.x;
        shim_block_index = uint3{(unsigned)(b % grid->grid.x), (unsigned)(yz % grid->grid.y),
                                 (unsigned)(yz / grid->grid.y)};
        run_block();
    }
    shim_acquire(&s.end_sync);
    if (s.trapped)
        abandon_threads();
    free_shared();
    s.grid = NULL;
    return !s.trapped;
}
