/* shim_core.h - between the shim's own files: fibers and blocks (shim.cpp), warps (shim_warp.cpp),
 * memory, streams and graphs (shim_memory.cpp, shim_stream.cpp). Compiled without the thread
 * sanitizer: what the shim does between threads is not the kernels' business. */
#ifndef SHIM_CORE_H
#define SHIM_CORE_H

#include "shim.h"
#include "shim_control.h"

#if defined(__SANITIZE_ADDRESS__)
#define SHIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SHIM_ASAN 1
#endif
#endif

enum { SHIM_WARP = 32, SHIM_THREADS_MAX = 1024, SHIM_COPIES_MAX = 512 };

/* Fibers of a thread: separate_blocks. */
#ifdef SHIM_TSAN
enum { SHIM_SETS = 2 };
#else
enum { SHIM_SETS = 1 };
#endif

enum shim_state { SHIM_READY, SHIM_AT_BARRIER, SHIM_AT_COLLECTIVE, SHIM_EXITED };

struct shim_fiber {
    void *sp;
    const void *stack;
    size_t stack_bytes;
    void *fake_stack; /* of the address sanitizer */
    void *tsan;
};

/* What a lane brings to a collective; its stack stands still while it waits. */
struct shim_deposit {
    const void *in[2];
    void *out;
    int arg;
};
typedef void shim_finish(const struct shim_deposit *lanes, unsigned mask);

/* Lanes of a warp on their way to the same collective. */
struct shim_meeting {
    unsigned mask, here;
    shim_finish *finish;
    const char *file;
    int line, parity;
    bool aligned; /* needs all lanes of the warp */
};

struct shim_warp {
    unsigned ready, alive, waiting;   /* masks of lanes; waiting: at a collective */
    struct shim_meeting meetings[32]; /* by the lowest lane of the mask */
    struct shim_deposit deposits[32];
};

/* A cp.async under way. */
struct shim_pending {
    struct shim_copy copy;
    int group;
};

struct shim_thread {
    struct shim_fiber sets[SHIM_SETS], *fiber; /* that of this block */
    struct uint3 index;
    int number, lane;
    struct shim_warp *warp;
    enum shim_state state;
    bool waited;      /* for the kernel in front */
    const char *file; /* where it waits */
    int line;
    int copies_begin, copies_end, groups; /* of copies: not done yet; groups: committed */
    struct shim_pending *copies;          /* (SHIM_COPIES_MAX) a ring */
};

extern struct shim_thread *shim_now;

/* Ends the process with a line about kernel, block and threads. */
[[noreturn]] __attribute__((format(printf, 1, 2))) void shim_die(const char *format, ...);
/* Whether two places are one; the names mostly are one string, which sanitizers need not read. */
static inline bool shim_same_place(const char *file, int line, const char *other, int other_line)
{
    return line == other_line && (file == other || strcmp(file, other) == 0);
}
/* Lets another thread run; returns when this one is chosen again. */
void shim_yield(void);
/* Makes lanes of a warp able to run. */
void shim_wake(struct shim_warp *warp, unsigned lanes);
/* An address that orders memory for the thread sanitizer: release before, acquire after. */
void shim_release(void *sync);
void shim_acquire(void *sync);
/* Addresses of this block, two in turns for the barrier and for each meeting of a warp. */
enum { SHIM_SYNCS = 2 + 2 * SHIM_WARP * SHIM_WARP + 14 };
void *shim_sync(int i);
/* For a thread of warp that exits: collectives that waited for it may be complete. */
void shim_lane_exits(struct shim_warp *warp);

/* Runs a grid to its end; false if a thread trapped. The host's stack waits. */
struct shim_grid {
    const char *name;
    bool early; /* each thread has to call shim_wait_for_previous */
    dim3 grid, block;
    size_t shared, shared_limit; /* dynamic; what cudaFuncSetAttribute allows of it */
    void (*run)(const void *body);
    const void *body;
};
bool shim_run_grid(const struct shim_grid *grid);

/* ---- the runtime ----------------------------------------------------------------------------- */

void shim_lock(void);
void shim_unlock(void);
/* The state of the device; error: of a lost context or what shim_refuse set. */
struct shim_device {
    size_t memory, used;
    cudaError_t lost, refused, last;
    bool blocking, copies_ahead;
    struct shim_counts counts;
};
extern struct shim_device shim_device;
size_t shim_shared_limit(void);               /* dynamic shared memory a kernel may ask for */
size_t shim_kernel_limit(const void *kernel); /* what cudaFuncSetAttribute allowed it */
/* error, remembered for cudaGetLastError; the lost context's or refused error comes first. */
cudaError_t shim_note(cudaError_t error);
cudaError_t shim_usable(void);

enum shim_place { SHIM_PAGEABLE, SHIM_PINNED, SHIM_ON_DEVICE, SHIM_ASTRIDE };
enum shim_place shim_where(const void *p, size_t bytes);
/* Under the address sanitizer only running work may touch device memory. */
void shim_open_memory(bool open);
void shim_free_memory(void);
/* Runs all work of all streams. */
void shim_drain_all(void);
void shim_free_streams(void);
void shim_read_environment(void);
/* A call that is not allowed while a stream captures; invalidates the capture. */
bool shim_capturing(void);

#endif
