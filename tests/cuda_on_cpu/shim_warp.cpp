/* shim_warp.cpp - collectives of a warp: shuffles, votes, tensor cores.
 *
 * Each lane of the mask deposits pointers to what it brings and to where its result belongs, and
 * waits; the last one to arrive computes for all. Only __syncwarp orders memory: a shuffle between
 * a store and another lane's load is a race, and the thread sanitizer says so. */
#include "shim_core.h"

/* ---- meeting --------------------------------------------------------------------------------- */

static bool complete(const struct shim_warp *warp, const struct shim_meeting *m)
{
    return m->here != 0 && m->here == (m->mask & warp->alive);
}

static void conclude(struct shim_warp *warp, struct shim_meeting *m)
{
    if (m->finish != NULL)
        m->finish(warp->deposits, m->here);
    warp->waiting &= ~m->here;
    shim_wake(warp, m->here);
    m->here = 0;
    m->parity ^= 1;
}

static void check_meeting(const struct shim_warp *warp, const struct shim_meeting *m, unsigned mask,
                          shim_finish *finish, const char *file, int line)
{
    unsigned me = 1u << shim_now->lane;
    if ((mask & me) == 0)
        shim_die("%s:%d: lane %d is not in its own mask %08x", file, line, shim_now->lane, mask);
    unsigned elsewhere = warp->waiting & mask & ~m->here;
    if (elsewhere != 0)
        shim_die("%s:%d: lanes %08x of the mask %08x wait at another collective or mask", file,
                 line, elsewhere, mask);
    if (m->here == 0)
        return;
    if (m->mask != mask || m->finish != finish || !shim_same_place(file, line, m->file, m->line))
        shim_die("%s:%d, mask %08x: lanes %08x wait at %s:%d, mask %08x", file, line, mask, m->here,
                 m->file, m->line, m->mask);
}

/* Returns when all living lanes of the mask have come here. */
static void meet(unsigned mask, const struct shim_deposit *mine, shim_finish *finish, bool orders,
                 bool aligned, const char *file, int line)
{
    struct shim_thread *t = shim_now;
    struct shim_warp *warp = t->warp;
    struct shim_meeting *m = &warp->meetings[mask == 0 ? 0 : __builtin_ctz(mask)];
    check_meeting(warp, m, mask, finish, file, line);
    m->mask = mask;
    m->finish = finish;
    m->aligned = aligned;
    m->file = t->file = file;
    m->line = t->line = line;
    m->here |= 1u << t->lane;
    warp->deposits[t->lane] = *mine;
    int meeting = t->number / SHIM_WARP * SHIM_WARP + (int)(m - warp->meetings);
    void *sync = shim_sync(2 + 2 * meeting + m->parity);
    if (orders)
        shim_release(sync);
    if (complete(warp, m)) {
        conclude(warp, m);
    } else {
        t->state = SHIM_AT_COLLECTIVE;
        warp->ready &= ~(1u << t->lane);
        warp->waiting |= 1u << t->lane;
        shim_yield();
    }
    if (orders)
        shim_acquire(sync);
}

/* Collectives that PTX calls .aligned: the whole warp or nobody. */
static void meet_aligned(const struct shim_deposit *mine, shim_finish *finish, const char *file,
                         int line)
{
    if (shim_now->warp->alive != ~0u)
        shim_die("%s:%d: needs a whole warp, lanes %08x are here", file, line,
                 shim_now->warp->alive);
    meet(~0u, mine, finish, false, true, file, line);
}

void shim_lane_exits(struct shim_warp *warp)
{
    for (int i = 0; i < SHIM_WARP; i++) {
        struct shim_meeting *m = &warp->meetings[i];
        if (m->here != 0 && m->aligned)
            shim_die("exits, lanes %08x wait at %s:%d for a whole warp", m->here, m->file, m->line);
        if (complete(warp, m))
            conclude(warp, m);
    }
}

int shim_lane(void)
{
    return shim_now->lane;
}

/* ---- syncwarp, votes, shuffles --------------------------------------------------------------- */

void shim_sync_warp(unsigned mask, const char *file, int line)
{
    struct shim_deposit mine = {};
    meet(mask, &mine, NULL, true, false, file, line);
}

static void finish_ballot(const struct shim_deposit *lanes, unsigned mask)
{
    unsigned ballot = 0;
    for (unsigned m = mask; m != 0; m &= m - 1)
        ballot |= (unsigned)lanes[__builtin_ctz(m)].arg << __builtin_ctz(m);
    for (unsigned m = mask; m != 0; m &= m - 1)
        *(unsigned *)lanes[__builtin_ctz(m)].out = ballot;
}

unsigned shim_ballot(unsigned mask, bool predicate, const char *file, int line)
{
    unsigned ballot;
    struct shim_deposit mine = {};
    mine.out = &ballot;
    mine.arg = predicate;
    meet(mask, &mine, finish_ballot, false, false, file, line);
    return ballot;
}

static void finish_shuffle(const struct shim_deposit *lanes, unsigned mask, size_t bytes)
{
    for (unsigned m = mask; m != 0; m &= m - 1) {
        const struct shim_deposit *lane = &lanes[__builtin_ctz(m)];
        if ((mask >> lane->arg & 1u) == 0)
            shim_die("lane %d reads from lane %d, which is not there (mask %08x)", __builtin_ctz(m),
                     lane->arg, mask);
        __builtin_memcpy(lane->out, lanes[lane->arg].in[0], bytes);
    }
}

static void finish_shuffle4(const struct shim_deposit *lanes, unsigned mask)
{
    finish_shuffle(lanes, mask, 4);
}

static void finish_shuffle8(const struct shim_deposit *lanes, unsigned mask)
{
    finish_shuffle(lanes, mask, 8);
}

void shim_shuffle(unsigned mask, void *to, const void *from, size_t bytes, int source,
                  const char *file, int line)
{
    struct shim_deposit mine = {};
    mine.in[0] = from;
    mine.out = to;
    mine.arg = source & 31;
    meet(mask, &mine, bytes == 4 ? finish_shuffle4 : finish_shuffle8, false, false, file, line);
}

/* ---- tensor cores ---------------------------------------------------------------------------- */

/* The two halves of a register as float32. */
static void unpack(float *low, float *high, uint32_t r)
{
    *low = _cvtsh_ss((unsigned short)r);
    *high = _cvtsh_ss((unsigned short)(r >> 16));
}

/* c += a b, row by row in ascending k.  c (rows, 8), a (rows, k), b (k, 8) */
static inline void multiply(float (*c)[8], const float *a, const float (*b)[8], int rows, int n_k)
{
    for (int r = 0; r < rows; r++) {
        __m256 sum = _mm256_loadu_ps(c[r]);
        for (int k = 0; k < n_k; k++)
            sum = _mm256_fmadd_ps(_mm256_set1_ps(a[r * n_k + k]), _mm256_loadu_ps(b[k]), sum);
        _mm256_storeu_ps(c[r], sum);
    }
}

/* Element (row, column) of an m8n8k4 accumulator that lane holds in register i. */
static int row_884(int lane, int i)
{
    return (lane & 1) + (i & 2) + (lane < 16 ? 0 : 4);
}

static int column_884(int lane, int i)
{
    return (i & 4) + (lane & 2) + (i & 1);
}

/* Quad pair q: lanes 4q..4q+3 hold rows of A and columns of B 0..3, lanes 16+4q.. hold 4..7; where
 * B is row-major its row 0..3 instead, and of that the columns 0..3 or 4..7. */
static void multiply_884(const struct shim_deposit *lanes, bool row_major)
{
    for (int q = 0; q < 4; q++) {
        float a[8][4], b[4][8], c[8][8];
        for (int i = 0; i < 8; i++) {
            int l = q * 4 + (i & 3) + (i >> 2) * 16;
            const uint32_t *ra = (const uint32_t *)lanes[l].in[0];
            const uint32_t *rb = (const uint32_t *)lanes[l].in[1];
            for (int k = 0; k < 4; k += 2) {
                unpack(&a[i][k], &a[i][k + 1], ra[k / 2]);
                if (row_major)
                    unpack(&b[i & 3][(i & 4) + k], &b[i & 3][(i & 4) + k + 1], rb[k / 2]);
                else
                    unpack(&b[k][i], &b[k + 1][i], rb[k / 2]);
            }
            for (int e = 0; e < 8; e++)
                c[row_884(l, e)][column_884(l, e)] = ((const float *)lanes[l].out)[e];
        }
        multiply(c, &a[0][0], b, 8, 4);
        for (int i = 0; i < 8; i++) {
            int l = q * 4 + (i & 3) + (i >> 2) * 16;
            for (int e = 0; e < 8; e++)
                ((float *)lanes[l].out)[e] = c[row_884(l, e)][column_884(l, e)];
        }
    }
}

static void finish_884(const struct shim_deposit *lanes, unsigned mask)
{
    (void)mask;
    multiply_884(lanes, false);
}

static void finish_884_row(const struct shim_deposit *lanes, unsigned mask)
{
    (void)mask;
    multiply_884(lanes, true);
}

/* m16n8kK, K 8 or 16: lane 4g + t holds rows g and g + 8, columns 2t and 2t + 1 of each 8 x 8 part
 * of A, the rows 2t, 2t + 1 of column g of B, and rows g, g + 8, columns 2t, 2t + 1 of C. */
static void multiply_16n8(const struct shim_deposit *lanes, int n_k)
{
    float a[16 * 16], b[16][8], c[16][8];
    for (int l = 0; l < SHIM_WARP; l++) {
        int g = l / 4, t = l % 4;
        const uint32_t *ra = (const uint32_t *)lanes[l].in[0];
        const uint32_t *rb = (const uint32_t *)lanes[l].in[1];
        for (int k = 0; k < n_k / 8; k++) {
            for (int lower = 0; lower < 2; lower++) {
                float *at = a + (g + lower * 8) * n_k + k * 8 + 2 * t;
                unpack(at, at + 1, ra[k * 2 + lower]);
            }
            unpack(&b[k * 8 + 2 * t][g], &b[k * 8 + 2 * t + 1][g], rb[k]);
        }
        for (int e = 0; e < 4; e++)
            c[g + e / 2 * 8][2 * t + e % 2] = ((const float *)lanes[l].out)[e];
    }
    multiply(c, a, b, 16, n_k);
    for (int l = 0; l < SHIM_WARP; l++)
        for (int e = 0; e < 4; e++)
            ((float *)lanes[l].out)[e] = c[l / 4 + e / 2 * 8][l % 4 * 2 + e % 2];
}

static void finish_1688(const struct shim_deposit *lanes, unsigned mask)
{
    (void)mask;
    multiply_16n8(lanes, 8);
}

static void finish_16816(const struct shim_deposit *lanes, unsigned mask)
{
    (void)mask;
    multiply_16n8(lanes, 16);
}

static void multiply_fragments(float *d, const uint32_t *a, const uint32_t *b, shim_finish *finish,
                               const char *file, int line)
{
    struct shim_deposit mine = {};
    mine.in[0] = a;
    mine.in[1] = b;
    mine.out = d;
    meet_aligned(&mine, finish, file, line);
}

void shim_mma_m8n8k4(float d[8], const uint32_t a[2], const uint32_t b[2], const char *file,
                     int line)
{
    multiply_fragments(d, a, b, finish_884, file, line);
}

void shim_mma_m8n8k4_row(float d[8], const uint32_t a[2], const uint32_t b[2], const char *file,
                         int line)
{
    multiply_fragments(d, a, b, finish_884_row, file, line);
}

void shim_mma_m16n8k8(float d[4], const uint32_t a[2], const uint32_t b[1], const char *file,
                      int line)
{
    multiply_fragments(d, a, b, finish_1688, file, line);
}

void shim_mma_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2], const char *file,
                       int line)
{
    multiply_fragments(d, a, b, finish_16816, file, line);
}

/* Half e of the row that a lane brought. */
static uint32_t row_half(const struct shim_deposit *lanes, int lane, int e)
{
    return ((const uint16_t *)lanes[lane].in[0])[e];
}

/* Lane l gets, of each matrix, elements 2 (l % 4) and the next of row l / 4. */
static void finish_ldmatrix(const struct shim_deposit *lanes, unsigned mask)
{
    (void)mask;
    for (int l = 0; l < SHIM_WARP; l++)
        for (int m = 0; m < 4; m++)
            ((uint32_t *)lanes[l].out)[m] = row_half(lanes, m * 8 + l / 4, l % 4 * 2) |
                                            row_half(lanes, m * 8 + l / 4, l % 4 * 2 + 1) << 16;
}

/* ... of column l / 4. */
static void finish_ldmatrix_trans(const struct shim_deposit *lanes, unsigned mask)
{
    (void)mask;
    for (int l = 0; l < SHIM_WARP; l++)
        for (int m = 0; m < 4; m++)
            ((uint32_t *)lanes[l].out)[m] = row_half(lanes, m * 8 + l % 4 * 2, l / 4) |
                                            row_half(lanes, m * 8 + l % 4 * 2 + 1, l / 4) << 16;
}

void shim_ldmatrix(uint32_t r[4], const struct uint4 *row, bool transposed, const char *file,
                   int line)
{
    struct shim_deposit mine = {};
    mine.in[0] = row;
    mine.out = r;
    meet_aligned(&mine, transposed ? finish_ldmatrix_trans : finish_ldmatrix, file, line);
}
