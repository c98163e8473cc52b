/* The launch-parameter structs, shared by the kernels (cuda/) and their launches (src/cuda/): one header per op, one struct per launch.
 *
 * A struct travels by value as the only argument of its kernel. Pointers are addresses in device memory whose element type is in the kernel's name;
 * a comment says the shape. Padding is written out, so that rustc, g++ and nvcc lay the structs out alike; `ffi/layout.h` has them check it.
 * `src/cuda/params.rs` and `ffi/layout.h` are made from this file: tests/generated.sh write */
#ifndef DEEM_PARAMS_H
#define DEEM_PARAMS_H

#include "activation.h"
#include "adamw.h"
#include "add.h"
#include "attention.h"
#include "attention_decode.h"
#include "conv2d.h"
#include "conv2d_depthwise.h"
#include "copy.h"
#include "cross_attention.h"
#include "cross_entropy.h"
#include "deform_attention.h"
#include "diffusion.h"
#include "dropout.h"
#include "embedding.h"
#include "fold.h"
#include "gate.h"
#include "gemm.h"
#include "glu.h"
#include "groupnorm.h"
#include "layernorm.h"
#include "mse.h"
#include "posterior.h"
#include "random.h"
#include "reduce.h"
#include "resample.h"
#include "rmsnorm.h"
#include "rope.h"
#include "tensor_map.h"
#include "timestep_embedding.h"

#endif
