// Fibers: stacks that one OS thread switches between. On x86-64 a switch saves the callee-saved registers only and costs a few
// nanoseconds; elsewhere ucontext does it.
#pragma once

#include <cstddef>

namespace emulated {

// A suspended flow of control: on x86-64 its stack pointer, elsewhere a pointer to its ucontext.
using Context = void*;

// Usable bytes of a fiber's stack. Below it lies an inaccessible page.
constexpr size_t STACK_BYTES = 64 * 1024 - 4096;

// A new context that will run `entry(argument)` on the given stack; `entry` must never return.
Context make_context(void* stack, void (*entry)(void*), void* argument);

// Suspends the running flow into `from` and resumes `to`.
void switch_context(Context* from, Context to);

// Maps a stack with its guard page; returns its lowest usable address. Stacks live until the process ends. Stacks of successive
// `index` end at different places of a page: else their hot ends would all compete for the same lines of the cache.
void* map_stack(size_t index);

}  // namespace emulated
