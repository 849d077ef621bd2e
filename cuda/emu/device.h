// What simt.cuh is on the CPU: the types and instructions of a device for kernels compiled by g++. Each CUDA thread is
// a fiber; whatever waits for other threads goes through `emu::collective` or `emu::barrier` and switches fibers.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#define __restrict__ __restrict
#define DEVICE static inline
#define NEG_INF (-INFINITY)

using std::max;
using std::min;

struct dim3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

namespace emu {
// Where in a kernel something was called, for reports.
struct Site {
    const char* file;
    int line;
};
#define EMU_SITE emu::Site site_ = {__builtin_FILE(), __builtin_LINE()}

struct Warp;
struct Thread {
    dim3 index;
    uint32_t linear, lane;
    Warp* warp;
};
struct Block {
    dim3 index, dim, grid;
};
extern Thread* current;
extern Block block;

enum class Op { SyncWarp, ShuffleIdx, ShuffleXor, ShuffleUp, ShuffleDown, Ballot, LdMatrix, LdMatrixTrans, MmaBf16, MmaF16 };
// Meets the lanes of `mask`; the last to arrive executes `op` for all of them.
void collective(Op op, uint32_t mask, const void* in, void* out, int arg, Site site);
void barrier(Site site);
void* dynamic_shared();
// Static shared memory is placed when a block first reaches its declaration; `key` names the declaration.
void* static_shared(const void* key, size_t bytes);
// 8 or 16 bytes.
void load(void* value, const void* p, size_t bytes, Site site);
void store(void* p, const void* value, size_t bytes, Site site);
void copy16(void* to, const void* from, Site site);
// Before a read and write at once, which such others do not race with.
void atomic_access(void* p, size_t bytes, Site site);
void cp_async(void* dst, const void* src, size_t bytes, bool pred, Site site);
void cp_async_commit();
void cp_async_wait(int groups_under_way);
// `x` with the error that the approximate units of a device may have.
float approximate(float x);

struct Bounds {
    int threads;
    constexpr Bounds(int max_threads, int = 1) : threads(max_threads) {}
};
struct Kernel {
    const char* name;
    Bounds bounds;
    void (*call)(void* function, void** params);
    void* function;
    int num_params;
    const uint32_t* param_bytes;
};
void add_kernel(const Kernel& kernel);

template <class... Args>
struct Invoke {
    template <size_t... I>
    static void expand(void* function, void** params, std::index_sequence<I...>) {
        reinterpret_cast<void (*)(Args...)>(function)(*static_cast<std::remove_const_t<Args>*>(params[I])...);
    }
    static void call(void* function, void** params) { expand(function, params, std::index_sequence_for<Args...>{}); }
};
struct Register {
    template <class... Args>
    Register(const char* name, Bounds bounds, void (*function)(Args...)) {
        static_assert(((sizeof(Args) <= 8) && ...), "a parameter is a scalar or a pointer");
        static const uint32_t bytes[] = {sizeof(Args)..., 0};
        add_kernel({name, bounds, &Invoke<Args...>::call, reinterpret_cast<void*>(function), sizeof...(Args), bytes});
    }
};
}  // namespace emu

#define KERNEL(name, bounds, ...)                                             \
    extern "C" void name(__VA_ARGS__);                                        \
    static const emu::Register name##_registered(#name, emu::Bounds bounds, name); \
    extern "C" void name(__VA_ARGS__)
#define SHARED(type, name, dims)      \
    static char name##_key;           \
    using name##_type = type dims;    \
    name##_type& name = *static_cast<name##_type*>(emu::static_shared(&name##_key, sizeof(name##_type)))
#define SHARED_DYNAMIC(type, name) type* name = static_cast<type*>(emu::dynamic_shared())

#define threadIdx (emu::current->index)
#define blockIdx (emu::block.index)
#define blockDim (emu::block.dim)
#define gridDim (emu::block.grid)

DEVICE uint32_t __float_as_uint(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
DEVICE float __uint_as_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
DEVICE uint32_t emu_round_bf16(float x) {
    const uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
DEVICE float to_float(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
DEVICE bf16 to_bf16(float x) { return bf16{(uint16_t)emu_round_bf16(x)}; }
DEVICE uint32_t pack_bf16x2(float lo, float hi) { return emu_round_bf16(lo) | emu_round_bf16(hi) << 16; }
// The nearest bf16 to a * b + c, which a double holds but for bits far below a bf16's.
DEVICE uint32_t emu_fma_bf16(uint32_t a, uint32_t b, uint32_t c) {
    const double exact = (double)__uint_as_float(a << 16) * __uint_as_float(b << 16) + __uint_as_float(c << 16);
    float x = (float)exact;
    if (x != exact && std::isfinite(x)) {
        // Rounded to odd first, so that the second rounding is the only one.
        if (std::fabs(x) > std::fabs(exact)) x = std::nextafterf(x, 0.f);
        x = __uint_as_float(__float_as_uint(x) | 1);
    }
    return emu_round_bf16(x);
}
DEVICE uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    return emu_fma_bf16(a & 0xffff, b & 0xffff, c & 0xffff) | emu_fma_bf16(a >> 16, b >> 16, c >> 16) << 16;
}
DEVICE float f16_to_float(uint16_t bits) {
    // Its bits in a float's places stand for the number times 2^-112, but for infinities and what is no number.
    const float size = (bits >> 10 & 31) == 31 ? (bits & 1023 ? NAN : INFINITY)
                                               : __uint_as_float((bits & 0x7fffu) << 13) * 0x1p112f;
    return bits >> 15 ? -size : size;
}
DEVICE uint32_t emu_round_f16(float x) {
    const uint32_t sign = __float_as_uint(x) >> 16 & 0x8000;
    if (x != x) return 0x7fff;
    const float size = std::fabs(x);
    if (size >= 65504.f) return sign | 0x7bff;
    if (size < 0x1p-14f) return sign | (uint32_t)std::nearbyint(size * 0x1p24f);
    const uint32_t u = __float_as_uint(size);
    return sign | (min(u + 0xfff + (u >> 13 & 1), 0x477fe000u) - 0x38000000u) >> 13;
}
DEVICE uint32_t pack_f16x2(float lo, float hi) { return emu_round_f16(lo) | emu_round_f16(hi) << 16; }
DEVICE float fast_exp2(float x) { return emu::approximate(exp2f(x)); }
DEVICE float fast_rcp(float x) { return emu::approximate(1.f / x); }
DEVICE float rsqrtf(float x) { return emu::approximate(1.f / sqrtf(x)); }

DEVICE uint4 load16(const void* p, EMU_SITE) {
    uint4 v;
    emu::load(&v, p, 16, site_);
    return v;
}
DEVICE uint4 load16_streamed(const void* p, EMU_SITE) { return load16(p, site_); }
DEVICE void store16(void* p, uint4 v, EMU_SITE) { emu::store(p, &v, 16, site_); }
DEVICE void copy16(void* to, const void* from, EMU_SITE) { emu::copy16(to, from, site_); }
DEVICE uint2 load8(const void* p, EMU_SITE) {
    uint2 v;
    emu::load(&v, p, 8, site_);
    return v;
}
DEVICE void store8(void* p, uint2 v, EMU_SITE) { emu::store(p, &v, 8, site_); }
DEVICE void cp_async16(void* dst, const void* src, bool pred, EMU_SITE) { emu::cp_async(dst, src, 16, pred, site_); }
DEVICE void cp_async4(void* dst, const void* src, bool pred, EMU_SITE) { emu::cp_async(dst, src, 4, pred, site_); }
DEVICE void cp_async_commit() { emu::cp_async_commit(); }
template <int N>
DEVICE void cp_async_wait() {
    emu::cp_async_wait(N);
}

DEVICE void __syncthreads(EMU_SITE) { emu::barrier(site_); }
DEVICE void __syncwarp(uint32_t mask = 0xffffffffu, EMU_SITE) {
    emu::collective(emu::Op::SyncWarp, mask, nullptr, nullptr, 0, site_);
}
template <class T>
DEVICE T emu_shuffle(emu::Op op, uint32_t mask, T x, int arg, emu::Site site) {
    static_assert(sizeof(T) == 4, "shuffles move registers");
    T result;
    emu::collective(op, mask, &x, &result, arg, site);
    return result;
}
template <class T>
DEVICE T __shfl_sync(uint32_t mask, T x, int lane, EMU_SITE) {
    return emu_shuffle(emu::Op::ShuffleIdx, mask, x, lane, site_);
}
template <class T>
DEVICE T __shfl_xor_sync(uint32_t mask, T x, int lanes, EMU_SITE) {
    return emu_shuffle(emu::Op::ShuffleXor, mask, x, lanes, site_);
}
template <class T>
DEVICE T __shfl_up_sync(uint32_t mask, T x, int lanes, EMU_SITE) {
    return emu_shuffle(emu::Op::ShuffleUp, mask, x, lanes, site_);
}
template <class T>
DEVICE T __shfl_down_sync(uint32_t mask, T x, int lanes, EMU_SITE) {
    return emu_shuffle(emu::Op::ShuffleDown, mask, x, lanes, site_);
}
DEVICE uint32_t __ballot_sync(uint32_t mask, int predicate, EMU_SITE) {
    const uint32_t bit = predicate != 0;
    uint32_t result;
    emu::collective(emu::Op::Ballot, mask, &bit, &result, 0, site_);
    return result;
}
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row, EMU_SITE) {
    emu::collective(emu::Op::LdMatrix, ~0u, row, r, 0, site_);
}
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, EMU_SITE) {
    emu::collective(emu::Op::LdMatrixTrans, ~0u, row, r, 0, site_);
}
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMU_SITE) {
    const uint32_t operands[6] = {a[0], a[1], a[2], a[3], b0, b1};
    emu::collective(emu::Op::MmaBf16, ~0u, operands, d, 0, site_);
}
DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMU_SITE) {
    const uint32_t operands[6] = {a[0], a[1], a[2], a[3], b0, b1};
    emu::collective(emu::Op::MmaF16, ~0u, operands, d, 0, site_);
}

DEVICE float add_rounded(float a, float b) { return a + b; }
DEVICE float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
DEVICE float mul_rounded(float a, float b) { return a * b; }
__attribute__((no_sanitize("thread"))) DEVICE void atomic_add(uint64_t* p, uint64_t x, EMU_SITE) {
    emu::atomic_access(p, 8, site_);
    *p += x;
}
DEVICE int __popc(uint32_t x) { return __builtin_popcount(x); }
DEVICE int __ffs(uint32_t x) { return __builtin_ffs(x); }
DEVICE uint64_t __umul64hi(uint64_t a, uint64_t b) { return (uint64_t)((unsigned __int128)a * b >> 64); }

DEVICE uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) { return (a & b) | c; }
DEVICE uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) result |= (uint32_t)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}
