// Token-chosen blocks of hidden neurons on a CPU: a plain C interface, called from library.py.
//
// One body (*.inc) in the vector extensions of GCC and Clang, compiled for several
// instruction sets; which one runs is decided when the library is loaded.

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif
#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "common.inc"

#include "spectral_shapes.inc"

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
#include "activation.inc"
#include "gather_dot.inc"
#include "sums.inc"
#include "scatter_add.inc"
#include "outer_sum.inc"
#include "routed_blocks.inc"
#include "micro_steps.inc"
#include "spectral.inc"
#include "training.inc"
#undef LANES
}  // namespace baseline

#if defined(__x86_64__)
BEGIN_TARGET("avx2,fma")
namespace avx2 {
#define LANES 8
#include "vectors.inc"
#include "packed.inc"
#include "activation.inc"
#include "gather_dot.inc"
#include "sums.inc"
#include "scatter_add.inc"
#include "outer_sum.inc"
#include "routed_blocks.inc"
#include "micro_steps.inc"
#include "spectral.inc"
#include "training.inc"
#undef LANES
}  // namespace avx2
END_TARGET

BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,fma")
namespace avx512 {
#define LANES 16
#include "vectors.inc"
#include "packed.inc"
#include "activation.inc"
#include "gather_dot.inc"
#include "sums.inc"
#include "scatter_add.inc"
#include "outer_sum.inc"
#include "routed_blocks.inc"
#include "micro_steps.inc"
#include "spectral.inc"
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
#include "activation.inc"
#include "gather_dot.inc"
#include "sums.inc"
#include "scatter_add.inc"
#include "outer_sum.inc"
#include "routed_blocks.inc"
#include "micro_steps.inc"
#include "spectral.inc"
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
enum { INTERFACE = 5 };

// `passes`: how often every product of the way there is made.
template <class T>
static int worth_routed(const Routed<T> &ffn, int64_t tokens, int64_t passes, int threads) {
    const int64_t inner = (ffn.size * ffn.k + ffn.shared) * (ffn.gated ? 3 : 2) + ffn.rank;
    const int64_t touched = (tokens * ffn.k < ffn.blocks ? tokens * ffn.k : ffn.blocks) * ffn.size + ffn.shared;
    return worth(threads, passes * tokens * inner * ffn.dim, touched * 2 * ffn.dim * sizeof(T));
}

// One for the ways there and back: what lies between the steps of either is not read by the other.
static thread_local Arena routed_arena;

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

void undense_bent_f32(int64_t pairs, int64_t size, int64_t gated, int64_t activation, const float *inner,
                  const float *gates, const int64_t *order, float *hidden, int threads) {
    threads = worth(threads, pairs * size * 20, 0);
    RUN(bent(pairs, size, gated != 0, (int)activation, inner, gates, order, hidden, threads))
}

void undense_bent_backward_f32(int64_t blocks, int64_t size, int64_t gated, int64_t activation,
                           const int64_t *offsets, const float *inner, const float *given,
                           const float *gates, const int64_t *order, float *hidden, float *to_inner,
                           float *to_gates, float *to_bias, int threads) {
    const Pairs pairs = {(long)blocks, offsets, nullptr};
    threads = worth(threads, offsets[blocks] * size * 40, 0);
    RUN(bent_backward(pairs, size, gated != 0, (int)activation, inner, given, gates, order, hidden,
                      to_inner, to_gates, to_bias, 1.0f, threads))
}

// What describes an FFN of token-chosen blocks, and its input.
#define FFN(T)                                                                                    \
    int64_t tokens, int64_t dim, int64_t blocks, int64_t size, int64_t k, int64_t rank,           \
        int64_t shared, int64_t gated, int64_t activation, const T *x, const T *first,            \
        const T *last, const T *router_bias, const T *temperature, const T *up, const T *up_bias, \
        const T *down, const T *shared_up, const T *shared_up_bias, const T *shared_down,         \
        const T *bias, const T *gain
#define WHOLE(T)                                                                                  \
    Routed<T> {                                                                                   \
        (long)dim, (long)blocks, (long)size, (long)k, (long)rank, (long)shared, gated != 0,       \
            (int)activation, widen(*temperature), gain ? widen(*gain) : 1.0f, first, last, router_bias, up, up_bias, down,    \
            shared_up, shared_up_bias, shared_down, bias                                          \
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
        const Sums sums = {y, 0, (long)dim};                                                      \
        RUN(scatter_add(pairs, width, values, matrix, sums, threads))                             \
    }                                                                                             \
    void undense_outer_sum_##suffix(int64_t blocks, int64_t dim, int64_t width,                   \
                                    const int64_t *offsets, const int64_t *token,                 \
                                    const float *values, const T *rows, T *grad, int threads) {   \
        Pairs pairs = {(long)blocks, offsets, token};                                             \
        threads = worth(threads, offsets[blocks] * dim * width, blocks * dim * width * sizeof(T)); \
        RUN(outer_sum(pairs, dim, width, values, rows, grad, threads))                            \
    }                                                                                             \
    /* `chosen`, `numbers`, `imbalance`: see Kept; the first two null where no way back is wanted, or of no tokens */\
    int64_t undense_routed_##suffix(FFN(T), T *y, int64_t *chosen, float *numbers, float *imbalance, int threads) {\
        const Routed<T> ffn = WHOLE(T);                                                         \
        const Kept kept(ffn, tokens, chosen, numbers, imbalance);                               \
        threads = worth_routed(ffn, tokens, 1, threads);                                        \
        bool done = false;                                                                      \
        RUN(routed(ffn, x, y, tokens, chosen || imbalance ? &kept : nullptr, threads, routed_arena, done)) \
        return done ? 0 : -1;                                                                   \
    }                                                                                           \
    int64_t undense_routed_backward_##suffix(FFN(T), float balance, const T *grad, int64_t *chosen,\
        float *numbers, T *to_x, T *to_first, T *to_last, T *to_router_bias, T *to_temperature, T *to_up,\
        T *to_up_bias, T *to_down, T *to_shared_up, T *to_shared_up_bias, T *to_shared_down, T *to_bias, T *to_gain,\
        int threads) {                                                                          \
        const Routed<T> ffn = WHOLE(T);                                                         \
        const Kept kept(ffn, tokens, chosen, numbers, nullptr);                                 \
        const Gradients<T> to = {to_x, to_first, to_last, to_router_bias, to_temperature, to_up, to_up_bias,\
                                 to_down, to_shared_up, to_shared_up_bias, to_shared_down, to_bias, to_gain};\
        threads = worth_routed(ffn, tokens, 2, threads);                                        \
        bool done = false;                                                                      \
        RUN(routed_backward(ffn, balance, x, grad, tokens, kept, to, threads, routed_arena, done)) \
        return done ? 0 : -1;                                                                   \
    }                                                                                           \
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

#include "spectral_calls.inc"
}
