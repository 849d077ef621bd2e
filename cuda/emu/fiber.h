// Switching between stacks: in assembly on x86-64 (30 million switches a second), with ucontext elsewhere.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emu {
#if defined(__x86_64__) && !defined(EMU_UCONTEXT)
using Context = void*;
#else
}  // namespace emu
#include <ucontext.h>
namespace emu {
using Context = ucontext_t;
#endif

// Prepares `context` to run `entry` on the given stack; `entry` never returns.
void make_context(Context& context, uint8_t* stack, size_t bytes, void (*entry)());
void switch_context(Context& from, Context& to);
}  // namespace emu
