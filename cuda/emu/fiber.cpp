#include "fiber.h"

namespace emu {
#if defined(__x86_64__) && !defined(EMU_UCONTEXT)

// Saves the callee-saved registers on the old stack and takes the new stack's.
extern "C" void emu_switch(void** from, void* to);
asm(R"(.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp,(%rdi)
    movq %rsi,%rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch,.-emu_switch
)");

void make_context(Context& context, uint8_t* stack, size_t bytes, void (*entry)()) {
    // As after a call: a return address on top leaves the stack 8 bytes off a multiple of 16.
    void** top = reinterpret_cast<void**>(stack + bytes - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    context = top;
}

void switch_context(Context& from, Context& to) { emu_switch(&from, to); }

#else

void make_context(Context& context, uint8_t* stack, size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}

void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

#endif
}  // namespace emu
