// out = activation(gate) * up, 8 elements a thread.
#include "simt.cuh"

DEVICE float sigmoid(float x) { return fast_rcp(1.f + fast_exp2(-LOG2_E * x)); }

struct Silu {
    DEVICE float apply(float x) { return x * sigmoid(x); }
};
// x * (1 + tanh(u)) / 2 is x * sigmoid(2u), which does not cancel.
struct GeluTanh {
    DEVICE float apply(float x) { return x * sigmoid(1.5957691f * x * (1.f + 0.044715f * x * x)); }
};

template <class Activation>
DEVICE void gate(const bf16* gate_up, bf16* out, int width) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (column >= width) return;
    const bf16* row = gate_up + (int64_t)blockIdx.y * 2 * width + column;
    float x[8], up[8];
    unpack8(x, load16(row));
    unpack8(up, load16(row + width));
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = Activation::apply(x[i]) * up[i];
    store16(out + (int64_t)blockIdx.y * width + column, pack8(x));
}

// gate_up (num_tokens, 2 * width): gates, then ups; out (num_tokens, width)
KERNEL(ferrule_gated_silu, (128), const bf16* gate_up, bf16* out, int width) { gate<Silu>(gate_up, out, width); }
KERNEL(ferrule_gated_gelu_tanh, (128), const bf16* gate_up, bf16* out, int width) { gate<GeluTanh>(gate_up, out, width); }
