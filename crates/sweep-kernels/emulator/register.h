// Included after a .cu file in the unit that registers its kernels: from a kernel's type to a function that unpacks its arguments.
#pragma once

#include <link.h>

#include <utility>

namespace {

template <auto Function>
struct Registered;

template <typename... Parameters, void (*Function)(Parameters...)>
struct Registered<Function> {
    static constexpr size_t sizes[sizeof...(Parameters) + 1] = {sizeof(Parameters)..., 0};

    template <size_t... Positions>
    static void call(void* const* parameters, std::index_sequence<Positions...>) {
        Function(*static_cast<std::remove_reference_t<Parameters>*>(parameters[Positions])...);
    }
    static void enter(void* const* parameters) { call(parameters, std::index_sequence_for<Parameters...>{}); }
};

// Makes sure that the library has thread-local storage at all.
thread_local unsigned char anchor = 1;

// The `__shared__` variables are this library's thread-local storage; nothing else of it is thread-local.
void poison_shared() {
    *const_cast<volatile unsigned char*>(&anchor) = 1;
    auto visit = [](dl_phdr_info* info, size_t, void*) {
        auto address = reinterpret_cast<uintptr_t>(&poison_shared);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& segment = info->dlpi_phdr[i];
            uintptr_t start = info->dlpi_addr + segment.p_vaddr;
            if (segment.p_type == PT_LOAD && address >= start && address < start + segment.p_memsz) {
                for (int j = 0; j < info->dlpi_phnum; ++j) {
                    if (info->dlpi_phdr[j].p_type == PT_TLS && info->dlpi_tls_data != nullptr) memset(info->dlpi_tls_data, 0xFF, info->dlpi_phdr[j].p_memsz);
                }
                return 1;
            }
        }
        return 0;
    };
    dl_iterate_phdr(visit, nullptr);
}

template <auto Function>
bool register_as(const char* name) {
    constexpr size_t count = sizeof(Registered<Function>::sizes) / sizeof(size_t) - 1;
    emulated::register_kernel({name, &Registered<Function>::enter, count, Registered<Function>::sizes, &poison_shared});
    return true;
}

}  // namespace
