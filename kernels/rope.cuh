/* rope.cuh - the rotation of one pair.  Formula: op_rope in ops.h. */
#ifndef MLL_ROPE_CUH
#define MLL_ROPE_CUH

#include "device.cuh"

/* Rotates (*a, *b) by pos * inv_freq. cosf and sinf are off by at most 2 units in the last place at
 * any angle (CUDA C++ Programming Guide, mathematical functions), which at position 131072 and
 * frequency 1 the fast forms are not. */
__device__ __forceinline__ void rope_pair(float *a, float *b, int pos, float inv_freq)
{
    float angle = (float)pos * inv_freq, c = cosf(angle), s = sinf(angle), x = *a, y = *b;
    *a = x * c - y * s;
    *b = y * c + x * s;
}

#endif
