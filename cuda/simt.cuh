// The only header that kernels include. On a device: inline PTX, no CUDA header needed. With -DSIMT_EMU: the emulator.
//
// Rules that keep a kernel both fast and checkable: 16-byte accesses go through the wrappers below; every load is
// guarded (no read of what nobody wrote); lanes that exchange through shared memory meet at __syncwarp; no block waits
// for another; element offsets are int64_t.
#pragma once

#ifdef SIMT_EMU
#include "emu/device.h"
#else

typedef unsigned char uint8_t;
typedef signed char int8_t;
typedef unsigned short uint16_t;
typedef short int16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;

#define DEVICE static __device__ __forceinline__
// KERNEL(name, (threads[, blocks per SM]), parameters...) { body }
#define KERNEL(name, bounds, ...) extern "C" __global__ void __launch_bounds__ bounds name(__VA_ARGS__)
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define SHARED_DYNAMIC(type, name)                                 \
    extern __shared__ __align__(128) unsigned char name##_bytes[]; \
    type* name = reinterpret_cast<type*>(name##_bytes)
#define NEG_INF __int_as_float(0xff800000)

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

DEVICE float to_float(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
DEVICE bf16 to_bf16(float x) {
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
    return r;
}
// Two bf16 in one register, the first in the low half.
DEVICE uint32_t pack_bf16x2(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

// a * b + c of two pairs of bf16, rounded once.
DEVICE uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}
// An f16, by its bits.
DEVICE float f16_to_float(uint16_t bits) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(bits));
    return r;
}
// The nearest two f16 in one register; what is beyond the largest number, 65504, becomes that.
DEVICE uint32_t pack_f16x2(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

// 2^x within 2 ulp; 2^-inf is 0.
DEVICE float fast_exp2(float x) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
// 1 / x within 1 ulp.
DEVICE float fast_rcp(float x) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

DEVICE uint4 load16(const void* p) { return *reinterpret_cast<const uint4*>(p); }
// What is read once (weights, the KV cache) and should not displace anything in L1.
DEVICE uint4 load16_streamed(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
DEVICE void store16(void* p, uint4 v) { *reinterpret_cast<uint4*>(p) = v; }
// From one place of global memory to another. Nobody looks at the value, so that nobody needs to have written it.
DEVICE void copy16(void* to, const void* from) { store16(to, load16_streamed(from)); }
DEVICE uint2 load8(const void* p) { return *reinterpret_cast<const uint2*>(p); }
DEVICE void store8(void* p, uint2 v) { *reinterpret_cast<uint2*>(p) = v; }

DEVICE uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// Copies 16 bytes from global to shared memory in the background; writes zeros unless `pred`.
DEVICE void cp_async16(void* dst, const void* src, bool pred) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 ::"r"(shared_address(dst)), "l"(src), "r"(pred ? 16 : 0) : "memory");
}
// The same for 4 bytes.
DEVICE void cp_async4(void* dst, const void* src, bool pred) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 ::"r"(shared_address(dst)), "l"(src), "r"(pred ? 4 : 0) : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's groups are under way.
template <int N>
DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, and gets in r[i] the
// elements (l / 4, 2 * (l % 4)) and its right neighbour of matrix i; transposed: of matrix i's transpose.
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// d (16, 8) += a (16, 16) . b (8, 16)^T. With g = lane / 4, t = lane % 4, a register holds two neighbours in k:
//   a[0..4]: rows g, g+8, g, g+8 at k = 2t, 2t, 2t+8, 2t+8;   b0, b1: row g at k = 2t, 2t+8;
//   d[0..4]: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The same of f16.
DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Each rounded by itself: the compiler makes no fma of them.
DEVICE float add_rounded(float a, float b) { return __fadd_rn(a, b); }
DEVICE float mul_rounded(float a, float b) { return __fmul_rn(a, b); }

DEVICE void atomic_add(uint64_t* p, uint64_t x) { atomicAdd(p, x); }

// (a & b) | c in one instruction.
DEVICE uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}

#endif

constexpr uint32_t ALL_LANES = 0xffffffffu;
constexpr float LOG2_E = 1.44269504f;

DEVICE float bf16_lo(uint32_t pair) { return __uint_as_float(pair << 16); }
DEVICE float bf16_hi(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// Eight bf16 of a 16-byte load, as floats and back.
DEVICE void unpack8(float (&x)[8], uint4 v) {
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        x[2 * i] = bf16_lo(words[i]);
        x[2 * i + 1] = bf16_hi(words[i]);
    }
}
DEVICE uint4 pack8(const float (&x)[8]) {
    return uint4{pack_bf16x2(x[0], x[1]), pack_bf16x2(x[2], x[3]), pack_bf16x2(x[4], x[5]), pack_bf16x2(x[6], x[7])};
}

DEVICE void store_one(float* p, float x) { *p = x; }
DEVICE void store_one(bf16* p, float x) { *p = to_bf16(x); }

DEVICE void load_floats8(float (&x)[8], const float* p) {
    const uint4 a = load16(p), b = load16(p + 4);
    const uint32_t words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = __uint_as_float(words[i]);
}
// Four numbers: 16 bytes of floats, 8 bytes of bf16. Lanes that are neighbours read and write in one line.
DEVICE void load4(float (&x)[4], const float* p) {
    const uint4 v = load16(p);
    x[0] = __uint_as_float(v.x), x[1] = __uint_as_float(v.y), x[2] = __uint_as_float(v.z), x[3] = __uint_as_float(v.w);
}
DEVICE void load4(float (&x)[4], const bf16* p) {
    const uint2 v = load8(p);
    x[0] = bf16_lo(v.x), x[1] = bf16_hi(v.x), x[2] = bf16_lo(v.y), x[3] = bf16_hi(v.y);
}
DEVICE void load4(float (&x)[4], const f16* p) {
    const uint2 v = load8(p);
    const uint32_t words[2] = {v.x, v.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = f16_to_float((uint16_t)(words[i / 2] >> 16 * (i % 2)));
}
DEVICE void store4(bf16* p, const float (&x)[4]) {
    store8(p, uint2{pack_bf16x2(x[0], x[1]), pack_bf16x2(x[2], x[3])});
}
DEVICE void store4(float* p, const float (&x)[4]) {
    store16(p, uint4{__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])});
}
DEVICE void store_floats4(float* p, float a, float b, float c, float d) {
    store16(p, uint4{__float_as_uint(a), __float_as_uint(b), __float_as_uint(c), __float_as_uint(d)});
}

// The order of every sum over k in a product, so that an element's bits depend on no tile and no company: k is cut into
// PARTS parts of part_len (the last ones may be short or empty); a part takes 32 at a time, first those with k % 8 < 4 in
// one mma, then the others; parts are added in order.
constexpr int PARTS = 8;
DEVICE int part_len(int k) { return (k + 128 * PARTS - 1) / (128 * PARTS) * 128; }

// A quantized weight is the bf16 nearest to scale * (code - zero). A scale of 11 bits is two bf16, and a product with the
// low one of them and a code of 4 bits is exact, so one rounding remains.
constexpr uint32_t BF16_ONES = 0x3f803f80u, BF16_MINUS_ONES = 0xbf80bf80u, BF16_MINUS_ZEROS = 0x80008000u;

DEVICE uint32_t twice(float x) { return pack_bf16x2(x, x); }

struct SplitScale {
    uint32_t high, low;
};
DEVICE SplitScale split_scale(uint16_t bits) {
    const float scale = f16_to_float(bits);
    const uint32_t high = twice(scale);
    return SplitScale{high, twice(scale - bf16_lo(high))};
}
DEVICE uint32_t scaled(uint32_t codes, const SplitScale& scale) {
    return fma_bf16x2(codes, scale.high, fma_bf16x2(codes, scale.low, BF16_MINUS_ZEROS));
}

// Eight codes of 4 bits: pair i is bits 4 i and 4 i + 16 onwards. A code in the low bits of 128 is 128 + code.
DEVICE void dequantize_int4(uint32_t (&pairs)[4], uint32_t codes, uint32_t minus_zero, const SplitScale& scale) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint32_t raised = and_or(codes >> 4 * i, 0x000f000fu, 0x43004300u);
        pairs[i] = scaled(fma_bf16x2(raised, BF16_ONES, minus_zero), scale);
    }
}
// What dequantize_int4 adds to 128 + code: the bf16 of -128 - zero.
DEVICE uint32_t minus_zero_int4(uint32_t zero) { return 0xc300c300u | zero * 0x10001u; }

// Eight numbers of E2M1 (MXFP4), where codes of 4 bits would be, times a power of two. Their bits in a bf16's places stand
// for the number times 2^-126.
DEVICE void dequantize_mxfp4(uint32_t (&pairs)[4], uint32_t codes, uint32_t scale) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint32_t v = codes >> 4 * i, bits = and_or(v << 12, 0x80008000u, v << 6 & 0x01c001c0u);
        pairs[i] = fma_bf16x2(fma_bf16x2(bits, 0x7e807e80u, BF16_MINUS_ZEROS), scale, BF16_MINUS_ZEROS);
    }
}
// 2^(exponent - 127) twice; 2^-127 has no exponent of its own in a bf16.
DEVICE uint32_t scale_mxfp4(uint32_t exponent) { return (exponent ? exponent << 7 : 0x40u) * 0x10001u; }

// Two codes of 8 bits, two's complement, in bytes 0 and 2. The low 7 bits are as above, and the sign makes 128 to 256.
DEVICE uint32_t widen_int8(uint32_t codes) {
    const uint32_t low = and_or(codes, 0x007f007fu, 0x43004300u), sign = and_or(codes, 0x00800080u, 0x43004300u);
    return fma_bf16x2(sign, BF16_MINUS_ONES, low);
}
// Four of them: bytes 0 and 2, then 1 and 3.
DEVICE void dequantize_int8(uint32_t& pair0, uint32_t& pair1, uint32_t codes, const SplitScale& scale) {
    pair0 = scaled(widen_int8(codes), scale);
    pair1 = scaled(widen_int8(codes >> 8), scale);
}

// With minima, a weight is the bf16 nearest to scale * code + minimum: a sum of float32, since the two may all but cancel.
DEVICE uint32_t on_line(uint32_t codes, float scale, float minimum) {
    return pack_bf16x2(__fmaf_rn(bf16_lo(codes), scale, minimum), __fmaf_rn(bf16_hi(codes), scale, minimum));
}

// Forms of codes: BITS of one, and the factors of groups of columns, for rows g and g + 8 of a panel together (see README.md).
// FACTOR_BYTES is their size, `Group` what a lane loads of a group, `Row` what becomes of it for one of the two rows. `dequantize` makes pairs of the
// lane's 8 codes of a row: one word of 4 bits, or two of 8.

struct Int4 {
    static constexpr int BITS = 4, LEAST_GROUP = 32, FACTOR_BYTES = 48;
    const uint32_t* scales;  // (panels, groups, 8): f16
    const uint16_t* zeros;   // (panels, groups, 8): bytes; null: all are 8

    struct Group {
        uint32_t scales, zeros;
    };
    struct Row {
        SplitScale scale;
        uint32_t minus_zero;
    };
    DEVICE Int4 behind(const Int4& f, int64_t place) { return Int4{f.scales + place, f.zeros ? f.zeros + place : nullptr}; }
    DEVICE Group load(const Int4& f, int place) { return Group{f.scales[place], f.zeros ? f.zeros[place] : 0x0808u}; }
    DEVICE Group of_lane(Group group, int lane) {
        return Group{__shfl_sync(ALL_LANES, group.scales, lane), __shfl_sync(ALL_LANES, group.zeros, lane)};
    }
    DEVICE Row row(Group group, int half) {
        return Row{split_scale((uint16_t)(group.scales >> 16 * half)), minus_zero_int4(group.zeros >> 8 * half & 255)};
    }
    DEVICE void dequantize(uint32_t (&pairs)[4], uint2 codes, const Row& row) {
        dequantize_int4(pairs, codes.x, row.minus_zero, row.scale);
    }
};

struct Int8 {
    static constexpr int BITS = 8, LEAST_GROUP = 32, FACTOR_BYTES = 32;
    const uint32_t* scales;  // (panels, groups, 8): f16

    using Group = uint32_t;
    using Row = SplitScale;
    DEVICE Int8 behind(const Int8& f, int64_t place) { return Int8{f.scales + place}; }
    DEVICE Group load(const Int8& f, int place) { return f.scales[place]; }
    DEVICE Group of_lane(Group group, int lane) { return __shfl_sync(ALL_LANES, group, lane); }
    DEVICE Row row(Group group, int half) { return split_scale((uint16_t)(group >> 16 * half)); }
    DEVICE void dequantize(uint32_t (&pairs)[4], uint2 codes, const Row& scale) {
        dequantize_int8(pairs[0], pairs[1], codes.x, scale);
        dequantize_int8(pairs[2], pairs[3], codes.y, scale);
    }
};

// Numbers of E2M1, with a power of two for each 32.
struct Mxfp4 {
    static constexpr int BITS = 4, LEAST_GROUP = 32, FACTOR_BYTES = 16;
    const uint16_t* exponents;  // (panels, groups, 8): bytes

    using Group = uint32_t;
    using Row = uint32_t;
    DEVICE Mxfp4 behind(const Mxfp4& f, int64_t place) { return Mxfp4{f.exponents + place}; }
    DEVICE Group load(const Mxfp4& f, int place) { return f.exponents[place]; }
    DEVICE Group of_lane(Group group, int lane) { return __shfl_sync(ALL_LANES, group, lane); }
    DEVICE Row row(Group group, int half) { return scale_mxfp4(group >> 8 * half & 255); }
    DEVICE void dequantize(uint32_t (&pairs)[4], uint2 codes, Row scale) { dequantize_mxfp4(pairs, codes.x, scale); }
};

// Codes of 4 or 8 bits with a scale and a minimum for each 16 columns or more.
template <int BITS_>
struct Line {
    static constexpr int BITS = BITS_, LEAST_GROUP = 16, FACTOR_BYTES = 64;
    const uint2* factors;  // (panels, groups, 8): f16 scales, then minima

    using Group = uint2;
    struct Row {
        float scale, minimum;
    };
    DEVICE Line behind(const Line& f, int64_t place) { return Line{f.factors + place}; }
    DEVICE Group load(const Line& f, int place) { return load8(f.factors + place); }
    DEVICE Group of_lane(Group group, int lane) {
        return Group{__shfl_sync(ALL_LANES, group.x, lane), __shfl_sync(ALL_LANES, group.y, lane)};
    }
    // Codes of 4 bits are as they are in 128 + code.
    DEVICE Row row(Group group, int half) {
        const float scale = f16_to_float((uint16_t)(group.x >> 16 * half));
        const float minimum = f16_to_float((uint16_t)(group.y >> 16 * half));
        return Row{scale, BITS == 4 ? __fmaf_rn(-128.f, scale, minimum) : minimum};
    }
    DEVICE void dequantize(uint32_t (&pairs)[4], uint2 codes, const Row& row) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint32_t raised = BITS == 4 ? and_or(codes.x >> 4 * i, 0x000f000fu, 0x43004300u)
                                              : widen_int8((i < 2 ? codes.x : codes.y) >> 8 * (i % 2));
            pairs[i] = on_line(raised, row.scale, row.minimum);
        }
    }
};

// What is multiplied, by the type of the weights that it becomes or is: 8 activations of a lane, which are bf16, and pairs.
template <class Number>
struct Factors;
template <>
struct Factors<bf16> {
    static constexpr bool CONVERTED = false;
    DEVICE uint4 of(uint4 x) { return x; }
    DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_bf16(d, a, b0, b1); }
};
// An f16 is exact as two bf16, but that is twice the products. An activation of 8 bits is exact as f16 from 2^-17 to 65504;
// below, it is off by 2^-25 at most, and above it counts as 65504.
template <>
struct Factors<f16> {
    static constexpr bool CONVERTED = true;
    DEVICE uint4 of(uint4 x) {
        return uint4{pack_f16x2(bf16_lo(x.x), bf16_hi(x.x)), pack_f16x2(bf16_lo(x.y), bf16_hi(x.y)),
                     pack_f16x2(bf16_lo(x.z), bf16_hi(x.z)), pack_f16x2(bf16_lo(x.w), bf16_hi(x.w))};
    }
    DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_f16(d, a, b0, b1); }
};

// Weight matrices (n, k), and the type that products with them are made of. Those of experts lie below each other.
template <class Number_>
struct PlainWeights {
    using Number = Number_;
    static constexpr int BITS = 16;
    const Number* weight;  // (n, k)
    int n, k;

    DEVICE PlainWeights of_expert(const PlainWeights& w, int expert) {
        return PlainWeights{w.weight + (int64_t)expert * w.n * w.k, w.n, w.k};
    }
};

template <class Form>
struct CodedWeights {
    using Number = bf16;
    // Columns of a lane's 16 bytes, of rows g and g + 8.
    static constexpr int BITS = Form::BITS, COLUMNS = 256 / BITS;
    const uint32_t* codes;  // (panels, blocks, 32 lanes, 4)
    Form factors;           // (panels, groups, 8)
    int panels, blocks, groups, group_shift;

    DEVICE CodedWeights of(const uint32_t* codes, const Form& factors, int n, int k, int group_shift) {
        const int groups = (k + (1 << group_shift) - 1) >> group_shift;
        return CodedWeights{codes, factors, (n + 15) / 16, (k + COLUMNS - 1) / COLUMNS, groups, group_shift};
    }
    // The matrix from a panel on.
    DEVICE CodedWeights from_panel(const CodedWeights& w, int64_t panel) {
        return CodedWeights{w.codes + panel * w.blocks * 128, Form::behind(w.factors, panel * w.groups * 8),
                            w.panels - (int)panel, w.blocks, w.groups, w.group_shift};
    }
    DEVICE CodedWeights of_expert(const CodedWeights& w, int expert) {
        CodedWeights found = from_panel(w, (int64_t)expert * w.panels);
        found.panels = w.panels;
        return found;
    }
    // A lane's codes of step `step` of 32 columns, of row g or g + 8.
    DEVICE uint2 codes_of(uint4 v, int step, int half) {
        if (BITS == 8) return half ? uint2{v.z, v.w} : uint2{v.x, v.y};
        const uint32_t first = half ? v.y : v.x, second = half ? v.w : v.z;
        return uint2{step % 2 ? second : first, 0};
    }
};

// Kernels for every form of weights: GEMM(what its name says of the form, its parameters, those behind the sizes, what
// becomes of them, and the arguments behind these).
#define EACH_FORM(GEMM, ...)                                                                                          \
    GEMM(, (const bf16* weight), (), (PlainWeights<bf16>{weight, n, k}), __VA_ARGS__)                                 \
    GEMM(_f16, (const f16* weight), (), (PlainWeights<f16>{weight, n, k}), __VA_ARGS__)                               \
    GEMM(_int4, (const uint32_t* codes, const uint32_t* scales, const uint16_t* zeros), (, int group_shift),          \
         (CodedWeights<Int4>::of(codes, Int4{scales, zeros}, n, k, group_shift)), __VA_ARGS__)                        \
    GEMM(_int8, (const uint32_t* codes, const uint32_t* scales), (, int group_shift),                                 \
         (CodedWeights<Int8>::of(codes, Int8{scales}, n, k, group_shift)), __VA_ARGS__)                               \
    GEMM(_int4_min, (const uint32_t* codes, const uint2* factors), (, int group_shift),                               \
         (CodedWeights<Line<4>>::of(codes, Line<4>{factors}, n, k, group_shift)), __VA_ARGS__)                        \
    GEMM(_int8_min, (const uint32_t* codes, const uint2* factors), (, int group_shift),                               \
         (CodedWeights<Line<8>>::of(codes, Line<8>{factors}, n, k, group_shift)), __VA_ARGS__)                        \
    GEMM(_mxfp4, (const uint32_t* codes, const uint16_t* exponents), (),                                              \
         (CodedWeights<Mxfp4>::of(codes, Mxfp4{exponents}, n, k, 5)), __VA_ARGS__)
#define UNPACKED(...) __VA_ARGS__

// Neighbouring queries of a sequence; without any: padding.
struct Queries {
    int row, count;   // the first one's row, and how many rows there are
    int context_len;  // positions up to that of the last one
    int sequence;     // row of the block table
};
DEVICE Queries load_queries(const Queries* p) {
    const uint4 v = load16(p);
    return Queries{(int)v.x, (int)v.y, (int)v.z, (int)v.w};
}

// Types of the KV cache. A block of a layer is (2, num_kv_heads, 16, head_dim) numbers, K then V; behind them, where they
// are SCALED, (2, num_kv_heads, 16) float32 scales of a position's head. Numbers of one byte stand in the order 0 2 1 3
// within every four: `widen` makes neighbours of the bytes 0 and 2, and of 1 and 3. Eights of K change places besides: see
// k_place.
struct KvBf16 {
    static constexpr int BYTES = 2;
    static constexpr bool SCALED = false;
};
struct KvInt8 {
    static constexpr int BYTES = 1;
    static constexpr bool SCALED = true;
    DEVICE void widen(uint32_t& pair0, uint32_t& pair1, uint32_t codes) {
        pair0 = widen_int8(codes), pair1 = widen_int8(codes >> 8);
    }
};
// E4M3: its bits in a bf16's places stand for the number times 2^-120.
struct KvFp8 {
    static constexpr int BYTES = 1;
    static constexpr bool SCALED = false;
    DEVICE void widen(uint32_t& pair0, uint32_t& pair1, uint32_t codes) {
        const uint32_t low = and_or(codes << 8, 0x80008000u, codes << 4 & 0x07f007f0u);
        const uint32_t high = and_or(codes, 0x80008000u, codes >> 4 & 0x07f007f0u);
        pair0 = fma_bf16x2(low, 0x7b807b80u, BF16_MINUS_ZEROS), pair1 = fma_bf16x2(high, 0x7b807b80u, BF16_MINUS_ZEROS);
    }
};
// Where the eight dimensions from d on stand in a row of K: within 64, those of d and d + 32 are side by side, so that
// 16 bytes are a lane's part of two products of 32 dimensions each, as for bf16.
template <class Kv>
DEVICE int k_place(int d) {
    return Kv::BYTES == 2 ? d : d / 64 * 64 + d / 8 % 4 * 16 + d / 32 % 2 * 8;
}
// Bytes of the numbers of K, or V, in a block, and of the block.
template <class Kv>
DEVICE int kv_part_bytes(int num_kv_heads, int head_dim) {
    return num_kv_heads * 16 * head_dim * Kv::BYTES;
}
template <class Kv>
DEVICE int kv_block_bytes(int num_kv_heads, int head_dim) {
    return 2 * kv_part_bytes<Kv>(num_kv_heads, head_dim) + (Kv::SCALED ? 2 * num_kv_heads * 16 * 4 : 0);
}

DEVICE float warp_sum(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

// The sum over a block of whole warps, for every thread. `scratch` has a float per warp; it is free again at the end.
DEVICE float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.f;
    for (int warp = 0; warp < (int)blockDim.x / 32; ++warp) sum += scratch[warp];
    __syncthreads();
    return sum;
}

// tanh(x) = 1 - 2 / (1 + e^2x), within a few ulp of 1; no overflow, since 1 / inf is 0.
DEVICE float fast_tanh(float x) { return 1.f - 2.f * fast_rcp(1.f + fast_exp2(2.f * LOG2_E * x)); }
