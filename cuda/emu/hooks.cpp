// Kernels of the checked build are compiled with -fsanitize=thread, and these are the calls that the compiler then puts
// before every load and store. There is no ThreadSanitizer behind them: they ask the shadow.
#include "machine.h"

#ifdef EMU_CHECK
using emu::Where;

#define HOOK(kind, bytes, write)                                                                    \
    extern "C" void __tsan_##kind##bytes(void* p) {                                                 \
        if (emu::current) emu::check_access(p, bytes, write, Where{{}, __builtin_return_address(0)}); \
    }
#define HOOKS(bytes)                        \
    HOOK(read, bytes, false)                \
    HOOK(write, bytes, true)                \
    HOOK(unaligned_read, bytes, false)      \
    HOOK(unaligned_write, bytes, true)      \
    HOOK(volatile_read, bytes, false)       \
    HOOK(volatile_write, bytes, true)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

static void check_range(const void* p, size_t bytes, bool write, const void* pc) {
    if (!emu::current) return;
    const char* bytes_at = static_cast<const char*>(p);
    const size_t step = bytes % 4 || reinterpret_cast<uintptr_t>(p) % 4 ? 1 : 4;
    for (size_t i = 0; i < bytes; i += step) emu::check_access(bytes_at + i, step, write, Where{{}, pc});
}

extern "C" {
void __tsan_read_range(void* p, size_t bytes) { check_range(p, bytes, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t bytes) { check_range(p, bytes, true, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
#endif
