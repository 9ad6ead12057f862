// Barriers and warp instructions: a fiber is suspended until all the lanes of the mask have come to the same instruction, and the
// last one computes the result of every lane. A lane that reads from one that takes no part gets 0xFF bytes.
#pragma once

inline void __syncthreads() { emulated::synchronize_block(false); }
inline int __syncthreads_count(int predicate) { return static_cast<int>(emulated::synchronize_block(predicate != 0).count); }
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) > 0; }
inline int __syncthreads_and(int predicate) {
    emulated::Votes votes = emulated::synchronize_block(predicate != 0);
    return votes.count == votes.arrived;
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) {
    emulated::synchronize_warp(mask, [](void* const*) {}, nullptr);
}
// All living lanes of the warp: the emulation does not know which of them took the same branch.
inline unsigned __activemask() { return emulated::living_lanes(); }

namespace emulated {

template <typename T>
struct Shuffle {
    T value;
    // Lane to read from; -1: its own value.
    int source;
    T result;

    static void resolve(void* const operands[32]) {
        for (int lane = 0; lane < 32; ++lane) {
            if (operands[lane] == nullptr) continue;
            auto& own = *static_cast<Shuffle*>(operands[lane]);
            if (own.source < 0) {
                own.result = own.value;
            } else if (operands[own.source] == nullptr) {
                memset(&own.result, 0xFF, sizeof own.result);
            } else {
                own.result = static_cast<Shuffle*>(operands[own.source])->value;
            }
        }
    }
};

inline int lane_id() { return static_cast<int>(coordinates.linear % 32); }

template <typename T>
T shuffle(unsigned mask, T value, int source) {
    static_assert(std::is_trivially_copyable<T>::value, "lanes exchange plain values");
    Shuffle<T> operands{value, source, value};
    synchronize_warp(mask, &Shuffle<T>::resolve, &operands);
    return operands.result;
}

struct Ballot {
    bool predicate;
    unsigned result;
    static void resolve(void* const operands[32]) {
        unsigned ballot = 0;
        for (int lane = 0; lane < 32; ++lane) {
            if (operands[lane] != nullptr && static_cast<Ballot*>(operands[lane])->predicate) ballot |= 1u << lane;
        }
        for (int lane = 0; lane < 32; ++lane) {
            if (operands[lane] != nullptr) static_cast<Ballot*>(operands[lane])->result = ballot;
        }
    }
};

}  // namespace emulated

// A segment of `width` lanes is a warp of its own; sources outside it yield the lane's own value.
template <typename T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    int first = emulated::lane_id() / width * width;
    return emulated::shuffle(mask, value, first + (source & (width - 1)));
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
    int lane = emulated::lane_id(), source = lane ^ lane_mask;
    // A source in a higher segment than the lane's own is out of range; a lower one is not.
    return emulated::shuffle(mask, value, source >= (lane / width + 1) * width ? -1 : source);
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = emulated::lane_id(), source = lane + static_cast<int>(delta);
    return emulated::shuffle(mask, value, source >= (lane / width + 1) * width ? -1 : source);
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = emulated::lane_id(), source = lane - static_cast<int>(delta);
    return emulated::shuffle(mask, value, source < lane / width * width ? -1 : source);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    emulated::Ballot operands{predicate != 0, 0};
    emulated::synchronize_warp(mask, &emulated::Ballot::resolve, &operands);
    return operands.result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

#define EMULATED_REDUCE(Name, Type, Combine)                                   \
    inline Type Name(unsigned mask, Type value) {                              \
        struct Operands {                                                      \
            Type value;                                                        \
            static void resolve(void* const operands[32]) {                    \
                bool first = true;                                             \
                Type total{};                                                  \
                for (int lane = 0; lane < 32; ++lane) {                        \
                    if (operands[lane] == nullptr) continue;                   \
                    Type other = static_cast<Operands*>(operands[lane])->value; \
                    total = first ? other : Combine;                           \
                    first = false;                                             \
                }                                                              \
                for (int lane = 0; lane < 32; ++lane) {                        \
                    if (operands[lane] != nullptr) static_cast<Operands*>(operands[lane])->value = total; \
                }                                                              \
            }                                                                  \
        } operands{value};                                                     \
        emulated::synchronize_warp(mask, &Operands::resolve, &operands);       \
        return operands.value;                                                 \
    }
EMULATED_REDUCE(__reduce_add_sync, unsigned, total + other)
EMULATED_REDUCE(__reduce_add_sync, int, total + other)
EMULATED_REDUCE(__reduce_max_sync, unsigned, max(total, other))
EMULATED_REDUCE(__reduce_max_sync, int, max(total, other))
EMULATED_REDUCE(__reduce_min_sync, unsigned, min(total, other))
EMULATED_REDUCE(__reduce_min_sync, int, min(total, other))
