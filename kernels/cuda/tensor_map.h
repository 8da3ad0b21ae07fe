// Describes a strided array in global memory to the tensor memory accelerator, which copies boxes of it (hopper.cuh).
//
// The driver encodes the description; its function is asked of the runtime, so that nothing links against libcuda. On a
// CPU: tests/emulation/hopper.h.
#pragma once
#include "../matrix_view.h"
#include "launch.h"
#ifndef MYOPS_CUDA_EMULATION
#include <cuda.h>
#endif

namespace myops {

#ifndef MYOPS_CUDA_EMULATION
using TensorMap = CUtensorMap;  // passed by value as const __grid_constant__, so that a CUDA graph keeps it
#endif

// Five dimensions, the innermost first and contiguous. Strides of the others in bytes, multiples of 16; `data` 16 bytes
// aligned. A box is box[0] x box[1] elements, box[0] * size = 128 bytes, swizzled as hopper.cuh says. float32 is
// rounded to TF32 on its way to shared memory.
struct TensorMapSpec {
  const void* data = nullptr;
  DType type = DType::bf16;
  uint64_t size[5] = {1, 1, 1, 1, 1};
  uint64_t stride[4] = {};
  uint32_t box[2] = {};
};

cudaError_t make_tensor_map(const TensorMapSpec& spec, TensorMap* map);

}  // namespace myops
