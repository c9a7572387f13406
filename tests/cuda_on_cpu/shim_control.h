/* shim_control.h - what a test may ask of the shim, from C: the order in which threads run, devices
 * that are missing, full or lost, and how much work there was.
 *
 * The environment sets the same for a whole program, read at the first use: MLL_SHIM_SCHEDULE
 * (ascending, descending, or a number, the seed of a random one), MLL_SHIM_MEMORY (bytes),
 * MLL_SHIM_REFUSE (an error code), and CUDA_LAUNCH_BLOCKING as on a device. */
#ifndef SHIM_CONTROL_H
#define SHIM_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum shim_order { SHIM_ASCENDING, SHIM_DESCENDING, SHIM_RANDOM };

/* Which of the threads that can run does: the lowest, the highest, or one drawn with seed. */
void shim_schedule(enum shim_order order, uint64_t seed);
/* The memory of the device; cudaMalloc beyond it fails. */
void shim_limit_memory(size_t bytes);
/* Every call that needs the device returns this error (100: no device, 35: the driver is too old),
 * of 209, no code for this architecture, every launch; 0 ends it. */
void shim_refuse(int error);
/* Run work when it is enqueued, not when it is waited for. */
void shim_blocking(bool blocking);
/* Run a stream's work when a copy is enqueued, as far as it waits for no other stream. */
void shim_copies_ahead(bool ahead);
/* A new process, as far as the device can tell: no lost context, no memory, no streams. */
void shim_reset(void);
/* 100 * major + 10 * minor of the code path that was compiled. */
int shim_arch(void);
/* Device memory whose end is exact, for what a test gives an op; until shim_free_blocks. Its exec's
 * arena would be one block to the address sanitizer. */
void *shim_block(size_t bytes);
void shim_free_blocks(void);
/* To the address sanitizer, these bytes of device memory are not there, until their block is freed.
 */
void shim_fence(const void *p, size_t bytes);
/* Device memory in use. */
size_t shim_device_bytes(void);

/* Since the start of the program. */
struct shim_counts {
    uint64_t launches, graph_launches, blocks, threads, switches, allocations, waits;
};
struct shim_counts shim_counted(void);

#ifdef __cplusplus
}
#endif
#endif
