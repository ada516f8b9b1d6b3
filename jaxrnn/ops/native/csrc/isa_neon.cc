// The kernels in NEON, which every 64-bit ARM processor has.

#include "kernels_preamble.h"

#if defined(__aarch64__)
#define JAXRNN_LANES 4
#define JAXRNN_BLOCK_ROWS 6
#define JAXRNN_BLOCK_VECTORS 4
namespace jaxrnn::neon {
#include "kernels.h"
}
const jaxrnn::Kernels* jaxrnn::neon_kernels() { return &neon::KERNELS; }
#else
const jaxrnn::Kernels* jaxrnn::neon_kernels() { return nullptr; }
#endif
