// What the emulated cuBLASLt (driver/cublaslt.cpp) launches. Matrices are column-major, as that library has them.
#include "simt.cuh"

// parts (splits, n, m): part z of k of op(a) (m, k) . op(b) (k, n), where op transposes or not.
KERNEL(emulated_matmul, (256), const bf16* a, int64_t lda, int transa, const bf16* b, int64_t ldb, int transb,
       float* parts, int m, int n, int k) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (int64_t)m * n) return;
    const int row = i % m, column = i / m, part = (k + gridDim.y - 1) / gridDim.y;
    float sum = 0.f;
    for (int at = blockIdx.y * part; at < min((int)(blockIdx.y + 1) * part, k); ++at)
        sum += to_float(a[transa ? at + row * lda : row + at * lda]) * to_float(b[transb ? column + at * ldb : at + column * ldb]);
    parts[blockIdx.y * (int64_t)m * n + i] = sum;
}

// d (m, n), float32 or bf16: the sum of the parts.
KERNEL(emulated_matmul_sum, (256), const float* parts, void* d, int64_t ldd, int is_float, int m, int n, int splits) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, at = i / m * ldd + i % m;
    if (i >= (int64_t)m * n) return;
    float sum = 0.f;
    for (int part = 0; part < splits; ++part) sum += parts[(int64_t)part * m * n + i];
    if (is_float)
        static_cast<float*>(d)[at] = sum;
    else
        static_cast<bf16*>(d)[at] = to_bf16(sum);
}
