#include "fiber.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulated {

void* map_stack(size_t index) {
    constexpr size_t page = 4096, colors = 16;
    void* base = mmap(nullptr, 2 * page + STACK_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED || mprotect(static_cast<char*>(base) + page, page + STACK_BYTES, PROT_READ | PROT_WRITE) != 0) {
        std::fprintf(stderr, "emulated device: no memory for the stack of a CUDA thread\n");
        std::abort();
    }
    return static_cast<char*>(base) + page + index % colors * (page / colors);
}

#if defined(__x86_64__)

// The six callee-saved registers go to the old stack, the stack pointer to *from, and all comes back from the new stack.
extern "C" void emulated_switch(Context* from, Context to);
asm(R"(
    .text
    .p2align 4
    .hidden emulated_switch
    .globl emulated_switch
    .type emulated_switch, @function
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulated_switch, . - emulated_switch

    .p2align 4
    .hidden emulated_start
    .globl emulated_start
    .type emulated_start, @function
emulated_start:
    movq %r12, %rdi
    callq *%r13
    ud2
    .size emulated_start, . - emulated_start
)");
extern "C" void emulated_start();

Context make_context(void* stack, void (*entry)(void*), void* argument) {
    void** top = reinterpret_cast<void**>(static_cast<char*>(stack) + STACK_BYTES);
    // After `ret` the stack pointer must be a multiple of 16, as it is before a call.
    *--top = nullptr;
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&emulated_start);
    *--top = nullptr;                               // rbp
    *--top = nullptr;                               // rbx
    *--top = argument;                              // r12
    *--top = reinterpret_cast<void*>(entry);        // r13
    *--top = nullptr;                               // r14
    *--top = nullptr;                               // r15
    return top;
}

void switch_context(Context* from, Context to) { emulated_switch(from, to); }

#else

namespace {
// ucontext passes only ints to the entry function, so the pointers travel in halves.
void start(unsigned entry_high, unsigned entry_low, unsigned argument_high, unsigned argument_low) {
    auto join = [](unsigned high, unsigned low) { return (static_cast<unsigned long long>(high) << 32) | low; };
    reinterpret_cast<void (*)(void*)>(join(entry_high, entry_low))(reinterpret_cast<void*>(join(argument_high, argument_low)));
    std::abort();
}
}  // namespace

Context make_context(void* stack, void (*entry)(void*), void* argument) {
    // The ucontext itself lies at the foot of the stack it describes.
    auto* context = static_cast<ucontext_t*>(stack);
    constexpr size_t head = (sizeof(ucontext_t) + 63) / 64 * 64;
    getcontext(context);
    context->uc_stack.ss_sp = static_cast<char*>(stack) + head;
    context->uc_stack.ss_size = STACK_BYTES - head;
    context->uc_link = nullptr;
    auto entry_bits = reinterpret_cast<unsigned long long>(entry);
    auto argument_bits = reinterpret_cast<unsigned long long>(argument);
    makecontext(context, reinterpret_cast<void (*)()>(&start), 4, static_cast<unsigned>(entry_bits >> 32),
                static_cast<unsigned>(entry_bits), static_cast<unsigned>(argument_bits >> 32), static_cast<unsigned>(argument_bits));
    return context;
}

void switch_context(Context* from, Context to) {
    ucontext_t here;
    *from = &here;
    swapcontext(&here, static_cast<ucontext_t*>(to));
}

#endif

}  // namespace emulated
