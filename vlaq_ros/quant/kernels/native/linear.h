// The operator's entry point, free of torch.
#pragma once

#include <cstdint>

// Calls body(context, begin, end) over parts of 0..n of at least `grain`, possibly on several threads.
using VlaqParallel = void (*)(int64_t n, int64_t grain, void (*body)(void* context, int64_t begin, int64_t end),
                              void* context);

extern "C" {

// One linear layer over tiles. `type` of x and y: 0 float32, 1 bfloat16, 2 float16. x is [M, K] with contiguous rows
// `x_row_stride` elements apart, y is [M, out_features]. `groups` holds n_groups pairs (tiles, bits); `rows` and `bias`
// may be null. `parallel` null: on this thread.
void vlaq_nested_linear(const void* x, int type, int64_t M, int64_t K, int64_t x_row_stride, const uint8_t* hi,
                        const uint8_t* lo, int64_t blocks, const float* scale, const int32_t* rows, const float* bias,
                        const int64_t* groups, int64_t n_groups, int64_t hadamard_block, int64_t out_features, void* y,
                        VlaqParallel parallel);

// The instruction sets that run, such as "x86 avx2".
const char* vlaq_isa();
}
