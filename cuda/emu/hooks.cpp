// Kernels of the checked build are compiled with -fsanitize=thread, and these are the calls that the compiler then puts
// before every load and store. There is no ThreadSanitizer behind them: they ask the shadow.
#include "machine.h"

#ifdef EMU_CHECK
using emu::Kind;
using emu::Where;

#define HOOK(name, bytes, kind)                                                                     \
    extern "C" void __tsan_##name##bytes(void* p) {                                                 \
        if (emu::current) emu::check_access(p, bytes, kind, Where{{}, __builtin_return_address(0)}); \
    }
#define HOOKS(bytes)                        \
    HOOK(read, bytes, Kind::Read)                \
    HOOK(write, bytes, Kind::Write)                \
    HOOK(unaligned_read, bytes, Kind::Read)      \
    HOOK(unaligned_write, bytes, Kind::Write)      \
    HOOK(volatile_read, bytes, Kind::Read)       \
    HOOK(volatile_write, bytes, Kind::Write)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

static void check_range(const void* p, size_t bytes, Kind kind, const void* pc) {
    if (!emu::current) return;
    const char* bytes_at = static_cast<const char*>(p);
    const size_t step = bytes % 4 || reinterpret_cast<uintptr_t>(p) % 4 ? 1 : 4;
    for (size_t i = 0; i < bytes; i += step) emu::check_access(bytes_at + i, step, kind, Where{{}, pc});
}

extern "C" {
void __tsan_read_range(void* p, size_t bytes) { check_range(p, bytes, Kind::Read, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t bytes) { check_range(p, bytes, Kind::Write, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
#endif
