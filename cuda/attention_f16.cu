// Attention of f16: the kernels of attention.cu for bf16 but those of warpgroups, with the same names, domains and launches.
//
// A file of its own, because a file is a module: what the driver compiles when the first kernel of it is asked for. Nobody who computes in f32 or bf16 waits for these.
// Probabilities and score gradients are rounded to f16 where they are operands of a product: a gradient beyond 65504 becomes infinite, one below 6e-8 zero.
#include "common/attention_kernels.cuh"

namespace deem {

DEEM_PLAIN(F16, f16)
DEEM_MMA_KERNELS(F16, f16)

} // namespace deem
