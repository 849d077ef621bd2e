// cuBLASLt, as far as Ferrule calls it: descriptors, a heuristic, and a product that is launched through the emulated
// driver, so that it runs when its stream gets there. Values and structs are those of cublasLt.h. Whatever that library
// refuses, or leaves to its caller without a word (an algorithm of another problem, a workspace that is too small), is
// refused.
#include <cstdio>

#include "stream.h"

extern "C" int cuModuleGetFunction(void**, void*, const char*);
extern "C" int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                              void**);

namespace {
enum Status { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
constexpr int CUDA_R_32F = 0, CUDA_R_16BF = 14, COMPUTE_32F = 68, OP_N = 0, OP_T = 1;
constexpr int DESC_TRANSA = 3, DESC_TRANSB = 4, PREF_MAX_WORKSPACE_BYTES = 1;
constexpr uint64_t ALIGNMENT = 256;  // what the heuristic may take for granted
constexpr int SPLITS = 2;
uint64_t products;

struct Operation {
    int32_t transa = OP_N, transb = OP_N;
};
struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
    bool operator==(const Layout& o) const { return type == o.type && rows == o.rows && cols == o.cols && ld == o.ld; }
};
struct Preference {
    uint64_t workspace = 0;
};
// data[0]: the problem that the algorithm is for.
struct Algorithm {
    uint64_t data[8];
};
struct HeuristicResult {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96, "as in cublasLt.h");

// The sizes of D, and of the sum; false where the matrices do not fit each other.
struct Problem {
    uint64_t m, n, k;
    static bool of(const Operation& op, const Layout& a, const Layout& b, const Layout& c, const Layout& d, Problem& p) {
        const auto side = [](const Layout& l, bool rows) { return rows ? l.rows : l.cols; };
        p = {d.rows, d.cols, side(a, op.transa == OP_T)};
        const bool fits = side(a, op.transa == OP_N) == p.m && side(b, op.transb == OP_N) == p.k &&
                          side(b, op.transb == OP_T) == p.n;
        const bool types = a.type == CUDA_R_16BF && b.type == CUDA_R_16BF;
        return fits && types && c == d;
    }
    size_t workspace() const { return SPLITS * m * n * sizeof(float); }
    uint64_t number(const Operation& op) const { return (m * 1000003 + n) * 1000003 + k * 4 + op.transa * 2 + op.transb; }
};

int launch(const char* kernel, unsigned blocks, unsigned parts, void* stream, void** params) {
    void* function;
    if (cuModuleGetFunction(&function, nullptr, kernel)) return EXECUTION_FAILED;
    return cuLaunchKernel(function, blocks, parts, 1, 256, 1, 1, 0, stream, params, nullptr) ? EXECUTION_FAILED : SUCCESS;
}

int set(void* field, size_t size, const void* value, size_t bytes) {
    if (bytes != size) return INVALID_VALUE;
    memcpy(field, value, size);
    return SUCCESS;
}

bool aligned(const void* p) { return reinterpret_cast<uint64_t>(p) % ALIGNMENT == 0; }
}  // namespace

extern "C" {
size_t cublasLtGetVersion() { return 131000; }
const char* cublasLtGetStatusString(int) { return "refused by the emulated cuBLASLt"; }
int cublasLtCreate(void** handle) { return *handle = &emu::sticky, SUCCESS; }
int cublasLtDestroy(void*) { return SUCCESS; }

int cublasLtMatmulDescCreate(void** op, int compute, int scale) {
    if (compute != COMPUTE_32F || scale != CUDA_R_32F) return NOT_SUPPORTED;
    return *op = new Operation, SUCCESS;
}
int cublasLtMatmulDescDestroy(void* op) { return delete static_cast<Operation*>(op), SUCCESS; }
int cublasLtMatmulDescSetAttribute(void* op, int attribute, const void* value, size_t bytes) {
    Operation& operation = *static_cast<Operation*>(op);
    if (attribute != DESC_TRANSA && attribute != DESC_TRANSB) return NOT_SUPPORTED;
    return set(attribute == DESC_TRANSA ? &operation.transa : &operation.transb, sizeof(int32_t), value, bytes);
}

int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    if (ld < (int64_t)rows || (type != CUDA_R_16BF && type != CUDA_R_32F)) return INVALID_VALUE;
    return *layout = new Layout{type, rows, cols, ld}, SUCCESS;
}
int cublasLtMatrixLayoutDestroy(void* layout) { return delete static_cast<Layout*>(layout), SUCCESS; }

int cublasLtMatmulPreferenceCreate(void** preference) { return *preference = new Preference, SUCCESS; }
int cublasLtMatmulPreferenceDestroy(void* preference) { return delete static_cast<Preference*>(preference), SUCCESS; }
int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
    if (attribute != PREF_MAX_WORKSPACE_BYTES) return NOT_SUPPORTED;
    return set(&static_cast<Preference*>(preference)->workspace, sizeof(uint64_t), value, bytes);
}

// One algorithm, or none where the workspace does not suffice.
int cublasLtMatmulAlgoGetHeuristic(void*, void* op, void* a, void* b, void* c, void* d, void* preference, int wanted,
                                   HeuristicResult* results, int* found) {
    const auto layout = [](void* l) -> const Layout& { return *static_cast<Layout*>(l); };
    const Operation& operation = *static_cast<Operation*>(op);
    Problem problem;
    *found = 0;
    if (!Problem::of(operation, layout(a), layout(b), layout(c), layout(d), problem)) return INVALID_VALUE;
    if (wanted < 1 || problem.workspace() > static_cast<Preference*>(preference)->workspace) return NOT_SUPPORTED;
    results[0] = {{{problem.number(operation)}}, problem.workspace(), SUCCESS, 1.f, {}};
    return *found = 1, SUCCESS;
}

int cublasLtMatmul(void*, void* op, const float* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
                   const float* beta, const void* c, void* c_layout, void* d, void* d_layout, const Algorithm* algorithm,
                   void* workspace, size_t workspace_bytes, void* stream) {
    const auto layout = [](void* l) -> const Layout& { return *static_cast<Layout*>(l); };
    const Operation& operation = *static_cast<Operation*>(op);
    const Layout &la = layout(a_layout), &lb = layout(b_layout), &ld = layout(d_layout);
    Problem p;
    if (!Problem::of(operation, la, lb, layout(c_layout), ld, p)) return INVALID_VALUE;
    if (*alpha != 1.f || *beta != 0.f || c != d) return NOT_SUPPORTED;
    if (algorithm->data[0] != p.number(operation) || workspace_bytes < p.workspace()) return INVALID_VALUE;
    if (!aligned(a) || !aligned(b) || !aligned(d) || !aligned(workspace)) return INVALID_VALUE;
    int64_t lda = la.ld, ldb = lb.ld, ldd = ld.ld;
    int transa = operation.transa, transb = operation.transb, is_float = ld.type == CUDA_R_32F;
    int m = p.m, n = p.n, k = p.k, splits = SPLITS;
    void* product[] = {&a, &lda, &transa, &b, &ldb, &transb, &workspace, &m, &n, &k};
    void* sum[] = {&workspace, &d, &ldd, &is_float, &m, &n, &splits};
    const unsigned blocks = (p.m * p.n + 255) / 256;
    if (const int status = launch("emulated_matmul", blocks, splits, stream, product)) return status;
    ++products;
    return launch("emulated_matmul_sum", blocks, 1, stream, sum);
}

// How many products there were: tests ask whether the library was used.
uint64_t emu_cublaslt_products() { return products; }
}
