// What the kernels of maps (N, H, W, C) share: channels lie side by side, so a thread takes a pack of neighbouring
// channels where their number and the addresses allow 16-byte accesses, else a single one. The host decides which
// (`ChannelGrid` in src/cuda/channels.rs) and says so by the argument `packed`.
#pragma once

#include "common.cuh"

// `COUNT` neighbouring elements: whole packs, or one.
template <int COUNT, class T>
__device__ __forceinline__ void load_some(const T* p, Size i, float* out) {
    if constexpr (COUNT == 1) {
        out[0] = load(p, i);
    } else {
#pragma unroll
        for (int k = 0; k < COUNT; k += Pack<T>::count) load_pack(p, i + k, out + k);
    }
}
template <int COUNT, class T>
__device__ __forceinline__ void store_some(T* p, Size i, const float* in) {
    if constexpr (COUNT == 1) store(p, i, in[0]);
    else store_pack(p, i, in);
}

// Constants of `COUNT` neighbouring channels, from the first level of the cache or once for each thread.
template <int COUNT>
__device__ __forceinline__ void load_constants(const float* p, Size first, float* out) {
#pragma unroll
    for (int k = 0; k < COUNT; ++k) out[k] = p[first + k];
}

// Which channels and rows of a (rows, channels) matrix a thread handles: `COUNT` channels from `channel` on (all of them
// or none exist), in the rows `row`, `row + blockDim.y`, ... below `end`. blockIdx.y counts blocks of `per_block` rows.
template <int COUNT>
struct Walk {
    Size channel, row, end;
    bool is_inside;
    __device__ __forceinline__ Walk(Size rows, Size channels, Size per_block) {
        channel = (static_cast<Size>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
        const Size first = blockIdx.y * per_block;
        row = first + threadIdx.y;
        end = first + per_block < rows ? first + per_block : rows;
        is_inside = channel < channels;
    }
};
