// Launching kernels by name, for the driver (emu/driver) and for tests (the emu_* functions).
#pragma once
#include "machine.h"

namespace emu {
// Results of the driver API.
enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
};

struct Launch {
    const Kernel* kernel;
    dim3 grid, block;
    size_t dynamic_shared;
    // More shared memory than 48 KiB was asked for.
    bool opted_in;
};

const Kernel* find_kernel(const std::string& name);
// Null if the device takes the launch, else why not.
const char* refusal(const Launch& launch);
// Runs all blocks; on failure `report` says what happened.
Result run(const Launch& launch, void** values);
// Copies between the host and device memory, or within it.
void copy(void* dst, const void* src, size_t bytes);
}  // namespace emu
