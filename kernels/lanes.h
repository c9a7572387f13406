/* lanes.h - the order of sums that ops.h states: 16 lanes, element k in lane k mod 16, then a tree.
 *
 * Scalar form, the reference for the vector ones: an AVX-512 register, or two AVX2 registers, hold
 * the 16 lanes; the tree adds halves. */
#ifndef MLL_LANES_H
#define MLL_LANES_H

#define MLL_LANES 16

/* Adds the lanes 8 apart, then 4, 2, 1; overwrites them. */
static inline float lanes_tree(float lane[MLL_LANES])
{
    for (int apart = MLL_LANES / 2; apart > 0; apart /= 2)
        for (int i = 0; i < apart; i++)
            lane[i] += lane[i + apart];
    return lane[0];
}

#endif
