// The kernels in AVX-512.

#include "kernels_preamble.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#define JAXRNN_LANES 16
#define JAXRNN_BLOCK_ROWS 6
#define JAXRNN_BLOCK_VECTORS 4
namespace jaxrnn::avx512 {
#include "kernels.h"
}
#if defined(__clang__)
#pragma clang attribute pop
#endif
const jaxrnn::Kernels* jaxrnn::avx512_kernels() { return &avx512::KERNELS; }
#else
const jaxrnn::Kernels* jaxrnn::avx512_kernels() { return nullptr; }
#endif
