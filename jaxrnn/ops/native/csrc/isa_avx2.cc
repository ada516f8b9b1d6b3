// The kernels in AVX2.

#include "kernels_preamble.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define JAXRNN_LANES 8
#define JAXRNN_BLOCK_ROWS 6
#define JAXRNN_BLOCK_VECTORS 2
namespace jaxrnn::avx2 {
#include "kernels.h"
}
#if defined(__clang__)
#pragma clang attribute pop
#endif
const jaxrnn::Kernels* jaxrnn::avx2_kernels() { return &avx2::KERNELS; }
#else
const jaxrnn::Kernels* jaxrnn::avx2_kernels() { return nullptr; }
#endif
