// What tests call, past the driver: memory, launches and reports without streams. See tests/python/cuda/emulator.py.
#include "launch.h"

using namespace emu;

extern "C" {
void emu_config(int order, int cp_async, int approximate, uint64_t seed) {
    config = {static_cast<Order>(order), static_cast<CopyTime>(cp_async), approximate != 0, false};
    seed_random(seed);
}

void* emu_malloc(size_t bytes) { return allocate(bytes); }
void emu_reset() {
    init_heap();
    release_all();
}
void emu_copy(void* dst, const void* src, size_t bytes) { copy(dst, src, bytes); }

// The size of a kernel's parameter, -1 behind the last one, -2 without such a kernel.
int emu_param_bytes(const char* name, int i) {
    const Kernel* kernel = find_kernel(name);
    if (!kernel) return -2;
    return i < kernel->num_params ? (int)kernel->param_bytes[i] : -1;
}

// Most threads of a kernel's blocks.
int emu_max_threads(const char* name) { return find_kernel(name)->bounds.threads; }

int emu_launch(const char* name, const unsigned* grid, const unsigned* block, size_t dynamic_shared, void** params) {
    const Kernel* kernel = find_kernel(name);
    report.clear();
    if (!kernel) return report = "no such kernel", NOT_FOUND;
    const Launch launch{kernel, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, dynamic_shared, true};
    if (const char* why = refusal(launch)) return report = why, INVALID_VALUE;
    return run(launch, params);
}

const char* emu_report() { return report.c_str(); }
int emu_checked() { return CHECKED; }
}
