// Token-chosen blocks of hidden neurons on a CPU: a plain C interface, called from library.py.
//
// One body (*.inc) in the vector extensions of GCC and Clang, compiled for several
// instruction sets; which one runs is decided when the library is loaded.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef struct {
    uint16_t bits;
} bf16;

static inline float widen(float v) { return v; }
static inline float widen(bf16 v) {
    uint32_t word = (uint32_t)v.bits << 16;
    float wide;
    __builtin_memcpy(&wide, &word, sizeof wide);
    return wide;
}
// To the nearest, ties to even; a NaN stays one.
static inline bf16 narrow(float v) {
    uint32_t word;
    __builtin_memcpy(&word, &v, sizeof word);
    if (v != v) return bf16{(uint16_t)((word >> 16) | 0x40)};
    return bf16{(uint16_t)((word + 0x7fff + ((word >> 16) & 1)) >> 16)};
}
static inline void assign(float *to, float v) { *to = v; }
static inline void assign(bf16 *to, float v) { *to = narrow(v); }

// A block that fewer pairs than this belong to is not worth a copy, or turning for matrix tiles.
// Many share the cost of longer panels, which take more of the first cache.
const long FEW = 6, FEW_TILES = 2, MANY = 64;

// How many threads so many multiplications and so many bytes to be read are worth: waking them takes
// as long as a small product. Results do not depend on it.
static int worth(int threads, int64_t multiplications, int64_t bytes) {
    const double microseconds = multiplications / 4e4 + bytes / 2e4, each = 20;
    const double most = 1 + microseconds / each;
    return threads < most ? threads : (int)most;
}

// Pairs of a token and a block, sorted by block.
struct Pairs {
    long blocks;
    const int64_t *offsets;  // (blocks + 1)
    const int64_t *token;    // (pairs)
};

// -1, or the place of the first of `count` numbers that is not one of 0 .. limit - 1.
static int64_t beyond(const int64_t *numbers, int64_t count, int64_t limit) {
    for (int64_t i = 0; i < count; ++i)
        if (numbers[i] < 0 || numbers[i] >= limit) return i;
    return -1;
}

// Sort pairs by block, stably. order: which pair of (tokens, k) stands at each place.
// Returns -1, or the place of the first block number that does not exist.
static int64_t group(int64_t tokens, int64_t k, int64_t blocks, const int64_t *chosen,
                     int64_t *offsets, int64_t *order, int64_t *token) {
    for (int64_t b = 0; b <= blocks; ++b) offsets[b] = 0;
    const int64_t wrong = beyond(chosen, tokens * k, blocks);
    if (wrong >= 0) return wrong;
    for (int64_t i = 0; i < tokens * k; ++i) ++offsets[chosen[i] + 1];
    for (int64_t b = 0; b < blocks; ++b) offsets[b + 1] += offsets[b];
    for (int64_t t = 0, i = 0; t < tokens; ++t)
        for (int64_t j = 0; j < k; ++j, ++i) {
            const int64_t place = offsets[chosen[i]]++;  // becomes the beginning of the next block
            order[place] = i;
            token[place] = t;
        }
    for (int64_t b = blocks; b > 0; --b) offsets[b] = offsets[b - 1];
    offsets[0] = 0;
    return -1;
}

// An FFN of token-chosen blocks; a null pointer where a part is not there.
template <class T>
struct Routed {
    long dim, blocks, size, k, rank, shared;
    bool gated;
    int activation;
    float temperature;
    const T *first;   // (rank, dim), null: a full router
    const T *last;    // (blocks, rank or dim)
    const T *router_bias, *up, *up_bias, *down, *shared_up, *shared_up_bias, *shared_down, *bias;
};

// In the order of `ACTIVATIONS` in library.py.
enum { GELU = 0, GELU_TANH = 1, SILU = 2, RELU = 3, RELU2 = 4, IDENTITY = 5 };

// Memory for what lies between the steps, kept from call to call: freshly mapped pages would cost
// more than the arithmetic of a small FFN. As large as the largest call so far, a tile of tokens.
struct Arena {
    char *memory = nullptr;
    size_t size = 0, used = 0;
    static const size_t ALIGNED = 64, PIECES = 16, PAGE = 1 << 21;  // the larger kind of page
    bool begin(size_t bytes) {
        bytes += ALIGNED * PIECES;
        used = 0;
        if (bytes > size) {
            free(memory);
            const size_t unit = bytes > PAGE / 2 ? PAGE : ALIGNED;
            size = (bytes + unit - 1) / unit * unit;
            memory = (char *)aligned_alloc(unit, size);
#if defined(__linux__)
            if (memory && unit == PAGE) madvise(memory, size, MADV_HUGEPAGE);
#endif
            if (!memory) size = 0;  // a later call may be luckier
        }
        return memory != nullptr;
    }
    template <class U>
    U *take(long count) {
        U *piece = (U *)(memory + used);
        used += (count * sizeof(U) + ALIGNED - 1) / ALIGNED * ALIGNED;
        return piece;
    }
    ~Arena() { free(memory); }
};

#if defined(__clang__)
#define PRAGMA(text) _Pragma(#text)
#define BEGIN_TARGET(name) PRAGMA(clang attribute push(__attribute__((target(name))), apply_to = function))
#define END_TARGET _Pragma("clang attribute pop")
#else
#define PRAGMA(text) _Pragma(#text)
#define BEGIN_TARGET(name) _Pragma("GCC push_options") PRAGMA(GCC target(name))
#define END_TARGET _Pragma("GCC pop_options")
#endif

namespace baseline {  // SSE2, NEON: what every CPU of the architecture has
#define LANES 4
#include "vectors.inc"
#include "packed.inc"
#include "gather_dot.inc"
#include "scatter_add.inc"
#include "outer_sum.inc"
#include "activation.inc"
#include "routed_blocks.inc"
#include "micro_steps.inc"
#include "training.inc"
#undef LANES
}  // namespace baseline

#if defined(__x86_64__)
BEGIN_TARGET("avx2,fma")
namespace avx2 {
#define LANES 8
#include "vectors.inc"
#include "packed.inc"
#include "gather_dot.inc"
#include "scatter_add.inc"
#include "outer_sum.inc"
#include "activation.inc"
#include "routed_blocks.inc"
#include "micro_steps.inc"
#include "training.inc"
#undef LANES
}  // namespace avx2
END_TARGET

BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,fma")
namespace avx512 {
#define LANES 16
#include "vectors.inc"
#include "packed.inc"
#include "gather_dot.inc"
#include "scatter_add.inc"
#include "outer_sum.inc"
#include "activation.inc"
#include "routed_blocks.inc"
#include "micro_steps.inc"
#include "training.inc"
#undef LANES
}  // namespace avx512
END_TARGET

BEGIN_TARGET("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,fma")
namespace amx {
#define LANES 16
#define AMX_TILES
#include "vectors.inc"
#include "packed.inc"
#include "tiles.inc"
#include "gather_dot.inc"
#include "scatter_add.inc"
#include "outer_sum.inc"
#include "activation.inc"
#include "routed_blocks.inc"
#include "micro_steps.inc"
#include "training.inc"
#undef AMX_TILES
#undef LANES
}  // namespace amx
END_TARGET
#endif

enum { BASELINE = 0, AVX2 = 1, AVX512 = 2, AMX = 3 };

#if defined(__x86_64__)
// The system lends the tile registers to a process that asks for them.
static bool tiles_granted() {
#if defined(__linux__)
    const long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
    return false;
#endif
}

static bool has_tiles() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    return (d >> 22 & 1) && (d >> 24 & 1) && tiles_granted();  // amx-bf16, amx-tile
}
#endif

static int detected() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return has_tiles() ? AMX : AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return BASELINE;
}

static int level = detected();

#if defined(__x86_64__)
#define RUN(call)                                  \
    switch (level) {                               \
        case AMX: amx::call; break;                \
        case AVX512: avx512::call; break;          \
        case AVX2: avx2::call; break;              \
        default: baseline::call;                   \
    }
#else
#define RUN(call) baseline::call;
#endif

// Raise it, and INTERFACE in library.py, when what a function takes, returns or means changes.
enum { INTERFACE = 2 };

extern "C" {

// Which interface this is: a library left over from other sources is not to be called.
int undense_interface(void) { return INTERFACE; }

// The instruction set in use: 0 baseline, 1 AVX2, 2 AVX-512, 3 AVX-512 and AMX.
int undense_level(void) { return level; }

// Use a lower one than the CPU has (for tests and comparisons); returns what is then in use.
int undense_limit(int wanted) {
    const int most = detected();
    level = wanted < most ? wanted : most;
    return level;
}

int64_t undense_group(int64_t tokens, int64_t k, int64_t blocks, const int64_t *chosen,
                      int64_t *offsets, int64_t *order, int64_t *token) {
    return group(tokens, k, blocks, chosen, offsets, order, token);
}

void undense_bent(int64_t pairs, int64_t size, int64_t gated, int64_t activation, const float *inner,
                  const float *gates, const int64_t *order, float *hidden, int threads) {
    threads = worth(threads, pairs * size * 20, 0);
    RUN(bent(pairs, size, gated != 0, (int)activation, inner, gates, order, hidden, threads))
}

void undense_bent_backward(int64_t blocks, int64_t size, int64_t gated, int64_t activation,
                           const int64_t *offsets, const float *inner, const float *given,
                           const float *gates, const int64_t *order, float *hidden, float *to_inner,
                           float *to_gates, float *to_bias, int threads) {
    const Pairs pairs = {(long)blocks, offsets, nullptr};
    threads = worth(threads, offsets[blocks] * size * 40, 0);
    RUN(bent_backward(pairs, size, gated != 0, (int)activation, inner, given, gates, order, hidden,
                      to_inner, to_gates, to_bias, threads))
}

#define EXPORT(suffix, T)                                                                         \
    void undense_gather_dot_##suffix(int64_t blocks, int64_t dim, int64_t width,                  \
                                     const int64_t *offsets, const int64_t *token, const T *rows, \
                                     const T *matrix, const T *bias, float *out, int threads) {   \
        Pairs pairs = {(long)blocks, offsets, token};                                             \
        threads = worth(threads, offsets[blocks] * dim * width, blocks * dim * width * sizeof(T)); \
        RUN(gather_dot(pairs, dim, width, rows, matrix, bias, out, threads))                      \
    }                                                                                             \
    void undense_scatter_add_##suffix(int64_t blocks, int64_t dim, int64_t width,                 \
                                      const int64_t *offsets, const int64_t *token,               \
                                      const float *values, const T *matrix, float *y,             \
                                      int threads) {                                              \
        Pairs pairs = {(long)blocks, offsets, token};                                             \
        threads = worth(threads, offsets[blocks] * dim * width, blocks * dim * width * sizeof(T)); \
        RUN(scatter_add(pairs, dim, width, values, matrix, y, threads))                           \
    }                                                                                             \
    void undense_outer_sum_##suffix(int64_t blocks, int64_t dim, int64_t width,                   \
                                    const int64_t *offsets, const int64_t *token,                 \
                                    const float *values, const T *rows, T *grad, int threads) {   \
        Pairs pairs = {(long)blocks, offsets, token};                                             \
        threads = worth(threads, offsets[blocks] * dim * width, blocks * dim * width * sizeof(T)); \
        RUN(outer_sum(pairs, dim, width, values, rows, grad, threads))                            \
    }                                                                                             \
    int64_t undense_routed_##suffix(                                                              \
        int64_t tokens, int64_t dim, int64_t blocks, int64_t size, int64_t k, int64_t rank,       \
        int64_t shared, int64_t gated, int64_t activation, const T *x, const T *first,            \
        const T *last, const T *router_bias, const T *temperature, const T *up, const T *up_bias, \
        const T *down, const T *shared_up, const T *shared_up_bias, const T *shared_down,         \
        const T *bias, T *y, int threads) {                                                       \
        static thread_local Arena arena;                                                          \
        Routed<T> ffn = {(long)dim, (long)blocks, (long)size, (long)k, (long)rank, (long)shared,  \
                         gated != 0, (int)activation, widen(*temperature), first, last,           \
                         router_bias, up, up_bias, down, shared_up, shared_up_bias, shared_down,  \
                         bias};                                                                   \
        const int64_t inner = (size * k + shared) * (gated ? 3 : 2) + rank;                       \
        const int64_t touched = (tokens * k < blocks ? tokens * k : blocks) * size + shared;      \
        threads = worth(threads, tokens * inner * dim, touched * 2 * dim * sizeof(T));            \
        bool done = false;                                                                        \
        RUN(routed(ffn, x, y, tokens, threads, arena, done))                                      \
        return done ? 0 : -1;                                                                     \
    }                                                                                             \
    int64_t undense_micro_steps_##suffix(int64_t tokens, int64_t dim, int64_t steps,              \
                                         int64_t features, const T *x, const int64_t *selected,   \
                                         const T *into, const T *shift, const T *out,             \
                                         const T *offset, T *y, int threads) {                    \
        const int64_t wrong = beyond(selected, features, dim);                                    \
        if (wrong >= 0) return wrong;                                                             \
        RUN(micro_steps(tokens, dim, steps, features, x, selected, into, shift, out, offset, y,   \
                        threads))                                                                 \
        return -1;                                                                                \
    }

EXPORT(f32, float)
EXPORT(bf16, bf16)
}
