/* How the tensor memory accelerator finds a tensor: what cuTensorMapEncodeTiled makes. */
#ifndef DEEM_TENSOR_MAP_H
#define DEEM_TENSOR_MAP_H

#include <stdint.h>

struct DeemTensorMap {
    uint64_t words[16];
} __attribute__((aligned(64)));

#endif
