// What a warp's instructions compute, as the PTX manual describes their fragments.
#include "machine.h"

namespace emu {
static int source_lane(Op op, int lane, int arg) {
    const int source = op == Op::ShuffleIdx ? arg & 31
                     : op == Op::ShuffleXor ? lane ^ arg
                     : op == Op::ShuffleUp  ? lane - arg
                                            : lane + arg;
    return source < 0 || source > 31 ? lane : source;
}

static void shuffle(Op op, uint32_t mask, Fiber* lanes) {
    for (int lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        const int source = source_lane(op, lane, lanes[lane].arg);
        if (!(mask >> source & 1)) {
            add_report("SYNC lane %d reads lane %d outside the mask %08x: %s:%d", lane, source, mask,
                       lanes[lane].site.file, lanes[lane].site.line);
            return;
        }
        memcpy(lanes[lane].out, lanes[source].in, 4);
    }
}

static void ballot(uint32_t mask, Fiber* lanes) {
    uint32_t result = 0;
    for (int lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) result |= *static_cast<const uint32_t*>(lanes[lane].in) << lane;
    for (int lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) memcpy(lanes[lane].out, &result, 4);
}

static void load_matrices(bool transposed, Fiber* lanes) {
    auto element = [&](int matrix, int row, int column) -> uint32_t {
        return static_cast<const uint16_t*>(lanes[matrix * 8 + row].in)[column];
    };
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) {
            const uint32_t lo = transposed ? element(i, 2 * t, g) : element(i, g, 2 * t);
            const uint32_t hi = transposed ? element(i, 2 * t + 1, g) : element(i, g, 2 * t + 1);
            static_cast<uint32_t*>(lanes[lane].out)[i] = lo | hi << 16;
        }
    }
}

// `widen` makes a float of an element's bits.
template <class Widen>
static void multiply(Fiber* lanes, const Widen& widen) {
    float a[16][16], b[16][8], d[16][8];  // (row, k), (k, column), (row, column)
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        const uint32_t* in = static_cast<const uint32_t*>(lanes[lane].in);
        for (int i = 0; i < 4; ++i) {
            float* row = a[g + i % 2 * 8] + 2 * t + i / 2 * 8;
            row[0] = widen(in[i] & 0xffff);
            row[1] = widen(in[i] >> 16);
        }
        for (int i = 0; i < 2; ++i) {
            b[2 * t + i * 8][g] = widen(in[4 + i] & 0xffff);
            b[2 * t + i * 8 + 1][g] = widen(in[4 + i] >> 16);
        }
    }
    for (int row = 0; row < 16; ++row) {
        float sums[8] = {};
        for (int k = 0; k < 16; ++k)
            for (int column = 0; column < 8; ++column) sums[column] += a[row][k] * b[k][column];
        memcpy(d[row], sums, sizeof sums);
    }
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        float* out = static_cast<float*>(lanes[lane].out);
        for (int i = 0; i < 4; ++i) out[i] += d[g + i / 2 * 8][2 * t + i % 2];
    }
}

void execute(Op op, uint32_t mask, Fiber* lanes) {
    switch (op) {
        case Op::SyncWarp: return;
        case Op::Ballot: return ballot(mask, lanes);
        case Op::LdMatrix: return load_matrices(false, lanes);
        case Op::LdMatrixTrans: return load_matrices(true, lanes);
        case Op::MmaBf16: return multiply(lanes, [](uint32_t bits) { return __uint_as_float(bits << 16); });
        case Op::MmaF16: return multiply(lanes, [](uint32_t bits) { return f16_to_float((uint16_t)bits); });
        default: return shuffle(op, mask, lanes);
    }
}
}  // namespace emu
